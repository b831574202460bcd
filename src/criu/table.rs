//! The hook table of a plugin's descriptor, made of the functions of `entry.rs`.

use std::ffi::{c_int, c_uint, c_void};

use super::bindings;
use super::descriptor::{Descriptor, HOOKS, PLUGIN_VERSION};
use super::entry::{self, Exported};
use super::hook::Hook;

/// Enters a hook's function. The function's type is checked against the header's own.
macro_rules! hooks {
    ($($method:ident $hook:ident $c_type:ty;)*) => {
        impl Descriptor {
            $(
                #[doc(hidden)]
                #[must_use]
                pub const fn $method<P: Exported>(mut self) -> Self {
                    let function: $c_type = Some(entry::$method::<P>);
                    self.hooks[Hook::$hook as usize] = match function {
                        Some(function) => function as *mut c_void,
                        None => std::ptr::null_mut(),
                    };
                    self
                }
            )*
        }
    };
}

hooks! {
    dump_unix_sk DumpUnixSk bindings::CR_PLUGIN_HOOK__DUMP_UNIX_SK_t;
    restore_unix_sk RestoreUnixSk bindings::CR_PLUGIN_HOOK__RESTORE_UNIX_SK_t;
    dump_ext_file DumpExtFile bindings::CR_PLUGIN_HOOK__DUMP_EXT_FILE_t;
    // The header's own type has one argument up to 4.2 and two from 4.3 on; see the function.
    restore_ext_file RestoreExtFile Option<unsafe extern "C" fn(c_int, *mut bool) -> c_int>;
    dump_ext_mount DumpExtMount bindings::CR_PLUGIN_HOOK__DUMP_EXT_MOUNT_t;
    restore_ext_mount RestoreExtMount bindings::CR_PLUGIN_HOOK__RESTORE_EXT_MOUNT_t;
    dump_ext_link DumpExtLink bindings::CR_PLUGIN_HOOK__DUMP_EXT_LINK_t;
    handle_device_vma HandleDeviceVma bindings::CR_PLUGIN_HOOK__HANDLE_DEVICE_VMA_t;
    update_vma_map UpdateVmaMap bindings::CR_PLUGIN_HOOK__UPDATE_VMA_MAP_t;
    resume_devices_late ResumeDevicesLate bindings::CR_PLUGIN_HOOK__RESUME_DEVICES_LATE_t;
    pause_devices PauseDevices bindings::CR_PLUGIN_HOOK__PAUSE_DEVICES_t;
    checkpoint_devices CheckpointDevices bindings::CR_PLUGIN_HOOK__CHECKPOINT_DEVICES_t;
}

impl Descriptor {
    /// A descriptor of `P` without hooks.
    #[doc(hidden)]
    #[must_use]
    pub const fn new<P: Exported>() -> Self {
        Descriptor {
            name: P::NAME.as_ptr(),
            init: Some(entry::init::<P>),
            exit: Some(entry::exit::<P>),
            version: PLUGIN_VERSION,
            // The constant is 12, and const code has no checked conversion.
            #[allow(clippy::cast_possible_truncation)]
            max_hooks: HOOKS as c_uint,
            hooks: [std::ptr::null_mut(); HOOKS],
        }
    }
}
