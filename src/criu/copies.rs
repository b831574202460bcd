//! Two copies of one plugin in one criu.
//!
//! criu loads every `.so` of its plugin folder, by whatever name: a backup of the old version (`my_plugin (1).so`) is
//! loaded as well, and both would do the work. Their order is random, and the second copy can only find the first by
//! searching for it.

// Descriptors of other libraries are found by dlsym.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::{CStr, OsStr, c_int};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};

use super::descriptor::Descriptor;

/// dlopen(3): a handle to what is loaded already, or none.
const RTLD_NOLOAD: c_int = libc::RTLD_NOLOAD;

/// The files of plugins in this process that have the name `name`, and whether each is the one whose descriptor is at
/// `own`.
pub(super) fn loaded(name: &CStr, own: *const Descriptor) -> Vec<(PathBuf, bool)> {
    let maps = fs::read("/proc/self/maps").unwrap_or_default();
    libraries(&maps)
        .into_iter()
        .filter_map(|path| Some((descriptor_of(&path, name)? == own.addr(), path)))
        .map(|(is_own, path)| (path, is_own))
        .collect()
}

/// The files that criu can have loaded as plugins, by `/proc/self/maps`.
fn libraries(maps: &[u8]) -> BTreeSet<PathBuf> {
    maps.split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let path = &line[line.iter().position(|&byte| byte == b'/')?..];
            path.ends_with(b".so")
                .then(|| Path::new(OsStr::from_bytes(path)).to_owned())
        })
        .collect()
}

/// The address of the file's descriptor, if it is loaded, is a plugin and has this name.
fn descriptor_of(path: &Path, name: &CStr) -> Option<usize> {
    // SAFETY: the file is in the process already, so nothing is loaded and no code of it runs.
    let library =
        unsafe { Library::open(Some(path), RTLD_LAZY | RTLD_LOCAL | RTLD_NOLOAD) }.ok()?;
    // SAFETY: in a plugin of CRIU's this symbol is a descriptor; in other libraries it is not there.
    let symbol = unsafe { library.get::<*const Descriptor>(c"CR_PLUGIN_DESC") }.ok()?;
    let descriptor = symbol.as_raw_ptr().cast::<Descriptor>();
    // SAFETY: it is a descriptor, whose first field is a pointer to a C string: CRIU itself has read it by now, or this
    // is the library that CRIU is about to read.
    let found = unsafe { CStr::from_ptr((*descriptor).name()) };
    (found == name).then(|| descriptor.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_with_any_name() {
        let maps = b"7f00-7f01 r--p 00000000 08:01 5 /usr/lib/criu/my_plugin.so\n\
                     7f01-7f02 r-xp 00001000 08:01 5 /usr/lib/criu/my_plugin.so\n\
                     7f03-7f04 r--p 00000000 08:01 6 /usr/lib/criu/my plugin (1).so\n\
                     7f05-7f06 r--p 00000000 08:01 7 /usr/lib/libc.so.6\n\
                     7f07-7f08 r--p 00000000 08:01 8 /usr/lib/criu/old.so (deleted)\n\
                     7fff-8000 rw-p 00000000 00:00 0 [stack]\n";
        let found: Vec<String> = libraries(maps)
            .iter()
            .map(|p| p.to_string_lossy().into_owned())
            .collect();
        assert_eq!(
            found,
            [
                "/usr/lib/criu/my plugin (1).so",
                "/usr/lib/criu/my_plugin.so"
            ]
        );
    }

    #[test]
    fn a_library_that_is_no_plugin_has_no_descriptor() {
        let own = std::ptr::null();
        assert!(loaded(c"no such plugin", own).is_empty());
        assert_eq!(descriptor_of(Path::new("/no/such/file.so"), c"x"), None);
    }
}
