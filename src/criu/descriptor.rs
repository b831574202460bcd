//! `CR_PLUGIN_DESC`: the one symbol that CRIU looks for in a plugin.

// `Descriptor` holds raw pointers, so that it may be shared between threads has to be asserted.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::mem::{align_of, offset_of, size_of};

use super::bindings;
use super::hook::Hook;

/// How many hooks the descriptor has room for: those of CRIU 4.0, in every build.
///
/// CRIU refuses to run with a plugin whose number is higher than its own, and its own grows: 12 in 4.0 to 4.1.1, 13 in
/// 4.2, 17 in 4.3. The macros of its header would bake in the number of the header.
pub const HOOKS: usize = 12;

/// The version of the plugin interface that the descriptor claims: 0.2.0, that of CRIU 4.0.
///
/// CRIU refuses a plugin of a younger interface than its own. 4.3 calls its interface 0.3.0 and still takes 0.2.0.
pub const PLUGIN_VERSION: c_uint = gen_version(0, 2, 0);

/// The header's `CRIU_PLUGIN_GEN_VERSION`, a macro with arguments, which bindgen leaves out.
const fn gen_version(major: c_uint, minor: c_uint, sublevel: c_uint) -> c_uint {
    (major << 16) + (minor << 8) + sublevel
}

/// What CRIU knows a plugin by: its name, its `init` and `exit`, and one pointer for each hook that it wants.
///
/// This is the header's `cr_plugin_desc_t` with a table of [`HOOKS`] pointers, whichever length the header gives it.
/// CRIU reads no further than the number that the descriptor itself states.
///
/// [`export_plugin!`](crate::export_plugin) makes one; there is no need to use this type directly.
#[repr(C)]
#[derive(Debug)]
pub struct Descriptor {
    pub(super) name: *const c_char,
    pub(super) init: Option<unsafe extern "C" fn(c_int) -> c_int>,
    pub(super) exit: Option<unsafe extern "C" fn(c_int, c_int)>,
    pub(super) version: c_uint,
    pub(super) max_hooks: c_uint,
    pub(super) hooks: [*mut c_void; HOOKS],
}

// SAFETY: a descriptor is never written once it is made, its name is a string literal, and all its other pointers
// are to functions.
unsafe impl Sync for Descriptor {}

/// Same layout as the header's, up to the end of a table of [`HOOKS`] pointers.
const _: () = {
    use bindings::cr_plugin_desc_t as Header;
    assert!(offset_of!(Descriptor, name) == offset_of!(Header, name));
    assert!(offset_of!(Descriptor, init) == offset_of!(Header, init));
    assert!(offset_of!(Descriptor, exit) == offset_of!(Header, exit));
    assert!(offset_of!(Descriptor, version) == offset_of!(Header, version));
    assert!(offset_of!(Descriptor, max_hooks) == offset_of!(Header, max_hooks));
    assert!(offset_of!(Descriptor, hooks) == offset_of!(Header, hooks));
    assert!(align_of::<Descriptor>() == align_of::<Header>());

    let header_hooks = bindings::CR_PLUGIN_HOOK__MAX as usize;
    assert!(header_hooks >= HOOKS);
    assert!(
        size_of::<Descriptor>() + (header_hooks - HOOKS) * size_of::<*mut c_void>()
            == size_of::<Header>()
    );
    assert!(Hook::CheckpointDevices as usize == HOOKS - 1);
};

/// Same types as the header's.
const _: fn(&bindings::cr_plugin_desc_t) -> Descriptor = |header| Descriptor {
    name: header.name,
    init: header.init,
    exit: header.exit,
    version: header.version,
    max_hooks: header.max_hooks,
    hooks: [header.hooks[0]; HOOKS],
};

/// The header's interface is not older than the one that the descriptor claims.
const _: () = assert!(
    gen_version(
        bindings::CRIU_PLUGIN_VERSION_MAJOR,
        bindings::CRIU_PLUGIN_VERSION_MINOR,
        bindings::CRIU_PLUGIN_VERSION_SUBLEVEL
    ) >= PLUGIN_VERSION
);

impl Descriptor {
    pub(super) fn name(&self) -> *const c_char {
        self.name
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::Probe;
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn only_the_hooks_that_were_asked_for_are_set() {
        let descriptor = Descriptor::new::<Probe>()
            .resume_devices_late::<Probe>()
            .checkpoint_devices::<Probe>();
        let set: Vec<usize> = (0..HOOKS)
            .filter(|&hook| !descriptor.hooks[hook].is_null())
            .collect();
        assert_eq!(set, [9, 11]);
        assert_eq!(descriptor.max_hooks, 12);
        assert_eq!(descriptor.version, 0x200);
    }

    #[test]
    fn the_exported_symbol_is_found_by_name_as_criu_finds_it() {
        // The test binary exports nothing dynamically, so the linker's own resolution stands in for dlsym.
        unsafe extern "C" {
            static CR_PLUGIN_DESC: bindings::cr_plugin_desc_t;
        }
        let header = &raw const CR_PLUGIN_DESC;
        // SAFETY: the macro in entry's tests defines the symbol, its name is a string literal, and no field behind the
        // twelfth hook is read.
        let (name, max_hooks, hooks) = unsafe {
            (
                CStr::from_ptr((*header).name),
                (*header).max_hooks,
                [(*header).hooks[10], (*header).hooks[11]],
            )
        };
        assert_eq!((name, max_hooks), (c"probe", 12));
        assert!(hooks[0].is_null() && !hooks[1].is_null());
    }
}
