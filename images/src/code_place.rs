//! The place of an address in a process's memory: the function, and the position in a file.

use std::fmt::{self, Write as _};

use crate::codec::proto::signals as pb;
use crate::printable::{Name, Printable};

/// Where an address in a process's memory leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodePlace {
    /// The address.
    pub address: u64,
    /// What is there.
    pub content: Content,
}

/// What is at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing: a program that jumps there gets SIGSEGV.
    Nothing,
    /// Memory without a file: the kernel's name of it, such as `[heap]`, or none.
    Memory(Option<Name>),
    /// A mapped file.
    File(Module),
}

/// A mapped file, and a place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// In the mount namespace of the process; of the vDSO `[vdso]`.
    pub path: Name,
    /// It has no name any more.
    pub deleted: bool,
    /// Where the address is in the file.
    pub file_offset: u64,
    /// What the file says about itself, or why that is not known.
    pub elf: Result<ElfPlace, String>,
}

/// A place in an ELF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElfPlace {
    /// The address by the file's own symbol table, as addr2line(1) takes it.
    pub address: u64,
    /// The function that contains it, and how far it is from the function's beginning.
    pub symbol: Option<(Name, u64)>,
    /// NT_GNU_BUILD_ID.
    pub build_id: Option<Vec<u8>>,
}

impl CodePlace {
    /// The place of `address` among `places`.
    pub fn find(places: &[CodePlace], address: u64) -> Option<&CodePlace> {
        places.iter().find(|place| place.address == address)
    }

    pub(crate) fn to_proto(&self) -> pb::CodePlace {
        let mut message = pb::CodePlace {
            address: self.address,
            text: self.to_string(),
            ..pb::CodePlace::default()
        };
        let Content::File(module) = &self.content else {
            return message;
        };
        message.module = module.path.as_str().to_owned();
        message.file_offset = module.file_offset;
        message.deleted = module.deleted;
        let Ok(elf) = &module.elf else {
            return message;
        };
        message.offset = Some(elf.address);
        if let Some((symbol, offset)) = &elf.symbol {
            message.symbol = symbol.as_str().to_owned();
            message.symbol_offset = *offset;
        }
        message.build_id = elf.build_id.as_deref().map(hex).unwrap_or_default();
        message
    }
}

impl fmt::Display for CodePlace {
    /// `on_term, victim+0x1139`, `on_term+0x4, victim+0x113d`; `libc.so.6+0x3fdf0, build-id 59b1...`; and where the file could
    /// not be read `victim, at 0x1139 of the file`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Content::Nothing => f.write_str("nothing is mapped there"),
            Content::Memory(None) => f.write_str("memory without a file"),
            Content::Memory(Some(name)) => write!(f, "{}", without_brackets(name.as_str())),
            Content::File(module) => module.fmt(f),
        }
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.as_str();
        let file = without_brackets(path.rsplit('/').next().unwrap_or(path));
        match &self.elf {
            Err(_) => write!(f, "{file}, at {:#x} of the file", self.file_offset)?,
            Ok(elf) => {
                match &elf.symbol {
                    Some((symbol, 0)) => write!(f, "{symbol}, ")?,
                    Some((symbol, offset)) => write!(f, "{symbol}+{offset:#x}, ")?,
                    None => {}
                }
                write!(f, "{file}+{:#x}", elf.address)?;
                if let (None, Some(id)) = (&elf.symbol, &elf.build_id) {
                    write!(f, ", build-id {}", hex(id))?;
                }
            }
        }
        if self.deleted {
            f.write_str(", deleted")?;
        }
        Ok(())
    }
}

/// `[stack]`, `[vdso]`: there are brackets round a place where it is shown.
fn without_brackets(name: &str) -> Printable<'_> {
    let inside = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    inside.unwrap_or(name).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(elf: Result<ElfPlace, String>, deleted: bool) -> CodePlace {
        let path = "/usr/bin/victim".into();
        CodePlace {
            address: 0x40_1139,
            content: Content::File(Module {
                path,
                deleted,
                file_offset: 0x1139,
                elf,
            }),
        }
    }

    #[test]
    fn text_and_message() {
        let elf = ElfPlace {
            address: 0x2139,
            symbol: Some(("on_\u{1b}term".into(), 0)),
            build_id: Some(vec![0x0a, 0xff]),
        };
        let exact = place(Ok(elf.clone()), false);
        assert_eq!(exact.to_string(), r"on_\u{1b}term, victim+0x2139");
        let message = exact.to_proto();
        assert_eq!(message.module, "/usr/bin/victim");
        assert_eq!(
            (message.offset, message.file_offset),
            (Some(0x2139), 0x1139)
        );
        assert_eq!(message.build_id, "0aff");
        let within = ElfPlace {
            symbol: Some(("on_term".into(), 4)),
            ..elf.clone()
        };
        assert_eq!(
            place(Ok(within), true).to_string(),
            "on_term+0x4, victim+0x2139, deleted"
        );
        let stripped = ElfPlace {
            symbol: None,
            ..elf
        };
        assert_eq!(
            place(Ok(stripped), false).to_string(),
            "victim+0x2139, build-id 0aff"
        );
        let unread = place(Err("no ELF file".to_owned()), false);
        assert_eq!(unread.to_string(), "victim, at 0x1139 of the file");
        assert_eq!(unread.to_proto().offset, None);
        let other = |content| CodePlace {
            address: 1,
            content,
        };
        assert_eq!(
            other(Content::Nothing).to_string(),
            "nothing is mapped there"
        );
        let heap = other(Content::Memory(Some("[heap]".into())));
        assert_eq!(heap.to_string(), "heap");
    }
}
