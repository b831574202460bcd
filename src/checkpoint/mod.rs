//! What the plugin does around CRIU's own work, step by step: the [`dump`], with signals in [`custody`] and the guardian
//! that watches them, the [`restore`], and the stop signals that CRIU leaves behind.

use std::ffi::CStr;

pub mod custody;
pub mod dump;
pub(crate) mod guardian;
pub mod options;
pub mod recorder;
pub mod restore;
pub(crate) mod stray_stop;

/// The plugin's name in the inventory of an image folder. What is written there once has to stay.
pub const INVENTORY_NAME: &CStr = c"signals_plugin";
