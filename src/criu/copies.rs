//! Two copies of one plugin in one criu.
//!
//! criu loads every `.so` of its plugin folder, by whatever name: a backup of the old version (`my_plugin (1).so`) is
//! loaded as well, and both would do the work. Their order is random, and the second copy can only find the first by
//! searching for it.

// Descriptors of other libraries are found by dlsym.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::{CStr, OsStr, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};

use super::descriptor::Descriptor;

/// dlopen(3): a handle to what is loaded already, or none.
const RTLD_NOLOAD: c_int = libc::RTLD_NOLOAD;

/// The files of plugins in this process that have the name `name`, and whether each is the one whose descriptor is at
/// `own`.
pub(super) fn loaded(name: &CStr, own: *const Descriptor) -> Vec<(PathBuf, bool)> {
    let mut paths = loaded_objects();
    paths.retain(|path| is_plugin_file(path));
    paths
        .into_iter()
        .filter_map(|path| Some((descriptor_of(&path, name)? == own.addr(), path)))
        .map(|(is_own, path)| (path, is_own))
        .collect()
}

/// The files that the dynamic linker has loaded, as it calls them.
fn loaded_objects() -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::new();
    // SAFETY: dl_iterate_phdr calls `note` with what it is given here, before it returns.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut paths).cast()) };
    paths
}

/// Notes the path of one of them. Not `/proc/self/maps`: a criu with its libraries has some 150 lines there.
unsafe extern "C" fn note(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    paths: *mut c_void,
) -> c_int {
    // SAFETY: dl_iterate_phdr(3) gives a valid structure, whose name is a C string or null, and the pointer of
    // `loaded_objects`, to what nobody else uses meanwhile.
    unsafe {
        let name = (*info).dlpi_name;
        if !name.is_null() {
            let path = Path::new(OsStr::from_bytes(CStr::from_ptr(name).to_bytes()));
            (*paths.cast::<BTreeSet<PathBuf>>()).insert(path.to_owned());
        }
    }
    0
}

/// Can criu have loaded the file as a plugin (criu/plugin.c, cr_plugin_init)?
fn is_plugin_file(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b".so")
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
    fn the_c_library_is_loaded_and_is_no_plugin() {
        let loaded = loaded_objects();
        let c_library = loaded
            .iter()
            .find(|path| path.to_string_lossy().contains("/libc.so"));
        let c_library = c_library.unwrap_or_else(|| panic!("{loaded:?}"));
        assert!(!is_plugin_file(c_library));
        for path in ["/usr/lib/criu/my_plugin.so", "criu/my plugin (1).so"] {
            assert!(is_plugin_file(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn a_library_that_is_no_plugin_has_no_descriptor() {
        let own = std::ptr::null();
        assert!(loaded(c"no such plugin", own).is_empty());
        assert_eq!(descriptor_of(Path::new("/no/such/file.so"), c"x"), None);
    }
}
