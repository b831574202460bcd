//! The plugin's part of a checkpoint: the [`dump`], [`custody`] of signals and the guardian, the [`restore`], and the
//! removal of stop signals that CRIU leaves behind.

use std::ffi::CStr;

pub mod custody;
pub mod dump;
pub(crate) mod guardian;
pub mod metrics;
pub mod options;
mod parent_death;
pub mod pre_dump;
pub mod recorder;
pub mod restore;
pub(crate) mod stray_stop;
pub(crate) mod stream;
mod told;

/// The plugin's name in the inventory of an image folder. Existing folders have it, so it never changes.
pub const INVENTORY_NAME: &CStr = c"signals_plugin";
