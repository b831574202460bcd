//! Offsets of members in the kernel's structs, from the kernel's own type information (Documentation/bpf/btf.rst).

use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::os::fd::AsRawFd as _;

use btf_rs::{Backend, Btf, BtfType, Struct, Type};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::error::{Cause, Error, Result};

/// The kernel's own types. Only a kernel that was built with CONFIG_DEBUG_INFO_BTF has the file.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The types of the running kernel.
pub(super) struct Layout {
    btf: Btf,
}

/// A struct of the kernel's.
pub(super) struct Structure {
    name: String,
    inner: Struct,
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
    kind: Type,
}

impl Layout {
    /// # Errors
    /// If this kernel has no type information, or none that can be understood.
    pub(super) fn read() -> Result<Layout> {
        let what = "read the kernel's types from /sys/kernel/btf/vmlinux";
        // Types are looked up where they stand; a parse of all of them takes 60 ms. The file itself can be mapped from
        // Linux 6.16 on.
        let mapped = Btf::from_file_with_backend(BTF, Backend::Mmap);
        let btf = match mapped {
            Ok(btf) => btf,
            Err(_) => {
                let bytes = fs::read(BTF).map_err(|e| match e.raw_os_error() {
                    Some(libc::ENOENT) => {
                        let why = "this kernel was built without CONFIG_DEBUG_INFO_BTF";
                        Error::new(what, Cause::Unsupported(why.into()))
                    }
                    _ => Error::io(what, &e),
                })?;
                let copy = in_memory(&bytes).map_err(|e| Error::io(what, &e))?;
                let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
                Btf::from_file_with_backend(path, Backend::Mmap).map_err(|e| unreadable(&e))?
            }
        };
        Ok(Layout { btf })
    }

    /// The struct of this name.
    pub(super) fn structure(&self, name: &str) -> Result<Structure> {
        let types = self.btf.resolve_types_by_name(name);
        let found = types.map_err(|e| unreadable(&e))?.into_iter();
        let mut structs = found.filter_map(|kind| match kind {
            Type::Struct(inner) => Some(inner),
            _ => None,
        });
        let inner = structs
            .next()
            .ok_or_else(|| unknown(&format!("struct {name}")))?;
        Ok(Structure {
            name: name.to_owned(),
            inner,
        })
    }

    /// The id of a function.
    pub(super) fn function(&self, name: &str) -> Result<u32> {
        let ids = self.btf.resolve_ids_by_name(name);
        let is_function = |id: &u32| matches!(self.btf.resolve_type_by_id(*id), Ok(Type::Func(_)));
        ids.map_err(|e| unreadable(&e))?
            .into_iter()
            .find(is_function)
            .ok_or_else(|| unknown(&format!("{name}()")))
    }

    /// The names of a function's parameters.
    pub(super) fn parameters(&self, function: u32) -> Result<Vec<String>> {
        let missing = || unknown(&format!("parameters of function {function}"));
        let kind = self.btf.resolve_type_by_id(function);
        let Ok(Type::Func(found)) = kind else {
            return Err(missing());
        };
        match self.btf.resolve_chained_type(&found) {
            Ok(Type::FuncProto(prototype)) => prototype
                .parameters
                .iter()
                .map(|one| self.btf.resolve_name(one).map_err(|e| unreadable(&e)))
                .collect(),
            _ => Err(missing()),
        }
    }

    /// The struct that a function's parameter `number`, from 0 on, points to.
    pub(super) fn parameter(&self, function: u32, number: usize) -> Result<Structure> {
        let missing = || unknown(&format!("parameter {number} of function {function}"));
        let Ok(Type::Func(found)) = self.btf.resolve_type_by_id(function) else {
            return Err(missing());
        };
        let Ok(Type::FuncProto(prototype)) = self.btf.resolve_chained_type(&found) else {
            return Err(missing());
        };
        let parameter = prototype.parameters.get(number).ok_or_else(missing)?;
        let kind = self.btf.resolve_chained_type(parameter);
        self.pointed_to(kind.map_err(|_| missing())?)?
            .ok_or_else(missing)
    }

    /// How far from the struct's begin a member is, in bytes. `path` may go through structs and unions: `sa.sa_handler`.
    pub(super) fn offset(&self, of: &Structure, path: &str) -> Result<i32> {
        let found = self.find(of, path)?;
        i32::try_from(found.bytes).map_err(|_| unknown(&of.member(path)))
    }

    /// A member of one bit, of the struct itself.
    pub(super) fn bit(&self, of: &Structure, name: &str) -> Result<BitField> {
        let missing = || unknown(&of.member(name));
        let found = self.bit_of(&of.inner, name).ok_or_else(missing)?;
        let byte = i32::try_from(found / 8).map_err(|_| missing())?;
        let mask = 1 << (found % 8);
        Ok(BitField { byte, mask })
    }

    fn bit_of(&self, of: &Struct, name: &str) -> Option<u32> {
        for member in &of.members {
            let called = self.btf.resolve_name(member).ok()?;
            if called == name {
                return (member.bitfield_size() == Some(1)).then_some(member.bit_offset());
            }
            if called.is_empty()
                && let Ok(kind) = self.btf.resolve_chained_type(member)
                && let Some(inner) = self.plain(kind)
                && let Some(found) = self.bit_of(&inner, name)
            {
                return Some(member.bit_offset() + found);
            }
        }
        None
    }

    /// The struct that a member points to, is, or is an array of.
    pub(super) fn behind(&self, of: &Structure, path: &str) -> Result<Structure> {
        let kind = self.find(of, path)?.kind;
        self.pointed_to(kind)?
            .ok_or_else(|| unknown(&of.member(path)))
    }

    /// The struct that `kind` points to, is, or is an array of. `None` if it is of another kind.
    fn pointed_to(&self, mut kind: Type) -> Result<Option<Structure>> {
        loop {
            let next: &dyn BtfType = match &kind {
                Type::Struct(inner) => {
                    let name = self.btf.resolve_name(inner).map_err(|e| unreadable(&e))?;
                    return Ok(Some(Structure {
                        name,
                        inner: inner.clone(),
                    }));
                }
                Type::Array(array) => array,
                other => match other.as_btf_type() {
                    Some(next) => next,
                    None => return Ok(None),
                },
            };
            match self.btf.resolve_chained_type(next) {
                Ok(next) => kind = next,
                Err(_) => return Ok(None),
            }
        }
    }

    fn find(&self, of: &Structure, path: &str) -> Result<Found> {
        let missing = || unknown(&of.member(path));
        let mut at = Found {
            bytes: 0,
            kind: Type::Struct(of.inner.clone()),
        };
        for name in path.split('.') {
            let within = self.plain(at.kind).ok_or_else(missing)?;
            let inner = self.member(&within, name).ok_or_else(missing)?;
            at = Found {
                bytes: at.bytes + inner.bytes,
                kind: inner.kind,
            };
        }
        Ok(at)
    }

    /// A struct or union, without typedefs and qualifiers.
    fn plain(&self, mut kind: Type) -> Option<Struct> {
        loop {
            match kind {
                Type::Struct(inner) | Type::Union(inner) => return Some(inner),
                Type::Typedef(_) | Type::Const(_) | Type::Volatile(_) | Type::TypeTag(_) => {
                    kind = self.btf.resolve_chained_type(kind.as_btf_type()?).ok()?;
                }
                _ => return None,
            }
        }
    }

    /// Members of structs without a name are the outer one's.
    fn member(&self, of: &Struct, name: &str) -> Option<Found> {
        for member in &of.members {
            let called = self.btf.resolve_name(member).ok()?;
            let bytes = member.bit_offset() / 8;
            if called == name {
                // A bit field has no address.
                let whole = member.bitfield_size().unwrap_or(0) == 0;
                let kind = self.btf.resolve_chained_type(member).ok()?;
                return whole.then_some(Found { bytes, kind });
            }
            if called.is_empty() {
                let kind = self.btf.resolve_chained_type(member).ok()?;
                if let Some(inner) = self.plain(kind)
                    && let Some(found) = self.member(&inner, name)
                {
                    return Some(Found {
                        bytes: bytes + found.bytes,
                        kind: found.kind,
                    });
                }
            }
        }
        None
    }
}

impl Structure {
    /// In bytes.
    pub(super) fn size(&self) -> Result<i32> {
        i32::try_from(self.inner.size()).map_err(|_| unknown(&format!("struct {}", self.name)))
    }

    fn member(&self, path: &str) -> String {
        format!("struct {}.{path}", self.name)
    }
}

/// A copy that can be mapped.
fn in_memory(bytes: &[u8]) -> std::io::Result<File> {
    let fd = memfd_create(c"btf", MFdFlags::MFD_CLOEXEC).map_err(|e: Errno| e)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

fn unknown(what: &str) -> Error {
    let why = format!("this kernel's types have no {what} that this version knows how to read");
    Error::new("read the kernel's types", Cause::Unsupported(why.into()))
}

fn unreadable(e: &btf_rs::Error) -> Error {
    Error::new("read the kernel's types", Cause::Unexpected(e.to_string()))
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
        if layout().is_none() {
            return;
        }
        let copy = in_memory(&fs::read(BTF).unwrap()).unwrap();
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        let btf = Btf::from_file_with_backend(path, Backend::Mmap).unwrap();
        let copied = Layout { btf };
        let offset = |layout: &Layout| {
            let task = layout.structure("task_struct").unwrap();
            layout.offset(&task, "signal").unwrap()
        };
        assert_eq!(offset(&copied), offset(&layout().unwrap()));
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
