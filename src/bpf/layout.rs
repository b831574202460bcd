//! Where members of the kernel's structs are, by its own type information (Documentation/bpf/btf.rst).

use std::fs::{self, File};

use super::btf::{Btf, Kind, Type};
use super::mapped::Mapped;
use crate::error::{Cause, Error, Result};

/// The kernel's own types. Only a kernel that was built with CONFIG_DEBUG_INFO_BTF has the file.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The types of the running kernel.
pub(super) struct Layout {
    btf: Btf<Source>,
}

/// Where they are read from.
enum Source {
    Mapped(Mapped),
    Copied(Vec<u8>),
}

impl AsRef<[u8]> for Source {
    fn as_ref(&self) -> &[u8] {
        match self {
            Source::Mapped(mapped) => mapped.as_ref(),
            Source::Copied(bytes) => bytes,
        }
    }
}

/// A struct of the kernel's.
pub(super) struct Structure {
    name: String,
    number: u32,
    size: u32,
}

/// A member of less than a byte: where its byte is, and which bits of that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BitField {
    pub(super) byte: i32,
    pub(super) mask: u8,
}

/// A member of a struct, nested ones of its own structs and unions among them.
struct Found {
    bytes: u32,
    /// The number of its type.
    kind: u32,
}

impl Layout {
    /// # Errors
    /// If this kernel has no type information, or none that can be understood.
    pub(super) fn read() -> Result<Layout> {
        let what = "read the kernel's types from /sys/kernel/btf/vmlinux";
        let failed = |e: &std::io::Error| match e.raw_os_error() {
            Some(libc::ENOENT) => {
                let why = "this kernel was built without CONFIG_DEBUG_INFO_BTF";
                Error::new(what, Cause::Unsupported(why.into()))
            }
            _ => Error::io(what, e),
        };
        let file = File::open(BTF).map_err(|e| failed(&e))?;
        // It can be mapped from Linux 6.16 on.
        let source = match Mapped::of_kernel(&file) {
            Ok(mapped) => Source::Mapped(mapped),
            Err(_) => Source::Copied(fs::read(BTF).map_err(|e| failed(&e))?),
        };
        Layout::of(source)
    }

    fn of(source: Source) -> Result<Layout> {
        let btf = Btf::new(source).ok_or_else(|| {
            let why = "the kernel's types are in a form that this version does not know";
            Error::new("read the kernel's types", Cause::Unsupported(why.into()))
        })?;
        Ok(Layout { btf })
    }

    /// The struct of this name.
    pub(super) fn structure(&self, name: &str) -> Result<Structure> {
        let found = self.btf.named(Kind::Struct, name);
        let found = found.ok_or_else(|| unknown(&format!("struct {name}")))?;
        Ok(Structure {
            name: name.to_owned(),
            number: found.number,
            size: found.size(),
        })
    }

    /// The id of a function.
    pub(super) fn function(&self, name: &str) -> Result<u32> {
        let found = self.btf.named(Kind::Function, name);
        let found = found.ok_or_else(|| unknown(&format!("{name}()")))?;
        Ok(found.number)
    }

    /// The prototype of a function.
    fn prototype(&self, function: u32) -> Option<Type<'_>> {
        let function = self
            .btf
            .of(function)
            .filter(|of| of.kind == Kind::Function)?;
        self.btf.of(function.refers_to()?)
    }

    /// The names of a function's parameters.
    pub(super) fn parameters(&self, function: u32) -> Result<Vec<String>> {
        let names = |prototype: Type<'_>| {
            let parameters = prototype.parameters();
            parameters.map(|(name, _)| self.btf.string(name)).collect()
        };
        let found: Option<Vec<String>> = self.prototype(function).and_then(names);
        found.ok_or_else(|| unknown(&format!("parameters of function {function}")))
    }

    /// The struct that a function's parameter `number`, from 0 on, points to.
    pub(super) fn parameter(&self, function: u32, number: usize) -> Result<Structure> {
        let prototype = self.prototype(function);
        let parameter = prototype.and_then(|of| of.parameters().nth(number));
        parameter
            .and_then(|(_, kind)| self.pointed_to(kind))
            .ok_or_else(|| unknown(&format!("parameter {number} of function {function}")))
    }

    /// How far from the struct's begin a member is, in bytes. `path` may go through structs and unions: `sa.sa_handler`.
    pub(super) fn offset(&self, of: &Structure, path: &str) -> Result<i32> {
        let found = self.find(of, path)?;
        i32::try_from(found.bytes).map_err(|_| unknown(&of.member(path)))
    }

    /// A member of one bit, of the struct itself.
    pub(super) fn bit(&self, of: &Structure, name: &str) -> Result<BitField> {
        let missing = || unknown(&of.member(name));
        let found = self.btf.of(of.number);
        let found = found.and_then(|within| self.bit_of(within, name));
        let found = found.ok_or_else(missing)?;
        let byte = i32::try_from(found / 8).map_err(|_| missing())?;
        let mask = 1 << (found % 8);
        Ok(BitField { byte, mask })
    }

    fn bit_of(&self, of: Type<'_>, name: &str) -> Option<u32> {
        for member in of.members() {
            if self.btf.is_called(member.name, name) {
                return (member.bits == 1).then_some(member.at);
            }
            if self.btf.is_called(member.name, "")
                && let Some(inner) = self.plain(member.kind)
                && let Some(found) = self.bit_of(inner, name)
            {
                return Some(member.at + found);
            }
        }
        None
    }

    /// The struct that a member points to, is, or is an array of.
    pub(super) fn behind(&self, of: &Structure, path: &str) -> Result<Structure> {
        let kind = self.find(of, path)?.kind;
        self.pointed_to(kind)
            .ok_or_else(|| unknown(&of.member(path)))
    }

    /// The struct that the type of this number points to, is, or is an array of. `None` if it is of another kind.
    fn pointed_to(&self, mut number: u32) -> Option<Structure> {
        loop {
            let found = self.btf.of(number)?;
            if found.kind == Kind::Struct {
                return Some(Structure {
                    name: self.btf.string(found.name())?,
                    number,
                    size: found.size(),
                });
            }
            number = found.refers_to()?;
        }
    }

    fn find(&self, of: &Structure, path: &str) -> Result<Found> {
        let missing = || unknown(&of.member(path));
        let mut at = Found {
            bytes: 0,
            kind: of.number,
        };
        for name in path.split('.') {
            let within = self.plain(at.kind).ok_or_else(missing)?;
            let inner = self.member(within, name).ok_or_else(missing)?;
            at = Found {
                bytes: at.bytes + inner.bytes,
                kind: inner.kind,
            };
        }
        Ok(at)
    }

    /// A struct or union, without typedefs and qualifiers.
    fn plain(&self, mut number: u32) -> Option<Type<'_>> {
        loop {
            let found = self.btf.of(number)?;
            match found.kind {
                Kind::Struct | Kind::Union => return Some(found),
                Kind::Typedef | Kind::Const | Kind::Volatile | Kind::TypeTag => {
                    number = found.refers_to()?;
                }
                _ => return None,
            }
        }
    }

    /// Members of structs without a name are the outer one's.
    fn member(&self, of: Type<'_>, name: &str) -> Option<Found> {
        for member in of.members() {
            let bytes = member.at / 8;
            if self.btf.is_called(member.name, name) {
                // A bit field has no address.
                return (member.bits == 0).then_some(Found {
                    bytes,
                    kind: member.kind,
                });
            }
            if self.btf.is_called(member.name, "")
                && let Some(inner) = self.plain(member.kind)
                && let Some(found) = self.member(inner, name)
            {
                return Some(Found {
                    bytes: bytes + found.bytes,
                    kind: found.kind,
                });
            }
        }
        None
    }
}

impl Structure {
    /// In bytes.
    pub(super) fn size(&self) -> Result<i32> {
        i32::try_from(self.size).map_err(|_| unknown(&format!("struct {}", self.name)))
    }

    fn member(&self, path: &str) -> String {
        format!("struct {}.{path}", self.name)
    }
}

fn unknown(what: &str) -> Error {
    let why = format!("this kernel's types have no {what} that this version knows how to read");
    Error::new("read the kernel's types", Cause::Unsupported(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `None` where the kernel has no types: nothing can be tested there.
    fn layout() -> Option<Layout> {
        fs::exists(BTF).unwrap().then(|| Layout::read().unwrap())
    }

    #[test]
    fn members_are_found_through_structs_without_a_name() {
        let Some(layout) = layout() else { return };
        let task = layout.structure("task_struct").unwrap();
        assert!(layout.offset(&task, "blocked").unwrap() > 0);
        let action = layout.behind(&task, "sighand").unwrap();
        let one = layout.behind(&action, "action").unwrap();
        assert_eq!(layout.offset(&one, "sa.sa_handler").unwrap(), 0);
        let entry = layout.structure("sigqueue").unwrap();
        // `kernel_siginfo_t` wraps its members in a struct without a name.
        let number = layout.offset(&entry, "info.si_signo").unwrap();
        assert_eq!(number, layout.offset(&entry, "info").unwrap());
    }

    #[test]
    fn a_copy_in_memory_is_as_good_as_the_file() {
        let Some(layout) = layout() else { return };
        let copied = Layout::of(Source::Copied(fs::read(BTF).unwrap())).unwrap();
        let offset = |layout: &Layout| {
            let task = layout.structure("task_struct").unwrap();
            layout.offset(&task, "signal").unwrap()
        };
        assert_eq!(offset(&copied), offset(&layout));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let Some(layout) = layout() else { return };
        let task = layout.structure("task_struct").unwrap();
        let e = layout.offset(&task, "signal_of_tomorrow").unwrap_err();
        assert!(
            e.to_string()
                .contains("struct task_struct.signal_of_tomorrow"),
            "{e}"
        );
        let e = layout.structure("no_such_struct").err().unwrap();
        assert!(e.to_string().contains("struct no_such_struct"), "{e}");
        layout.function("bpf_iter_task").unwrap();
        layout.function("no_such_function").unwrap_err();
    }
}
