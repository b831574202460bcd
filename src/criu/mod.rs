//! Everything that a CRIU plugin in Rust needs, and nothing about signals.
//!
//! CRIU loads every `.so` of its plugin folder, finds a descriptor in it by name, and calls C functions that the
//! descriptor points to: `init`, `exit` and a table of hooks. Here a plugin is a type that implements [`Plugin`], with
//! one safe method per hook, and [`export_plugin!`] makes the descriptor:
//!
//! ```standalone_crate
//! use criu_signals::criu::{export_plugin, HookError, HookResult, Host, Pid, Plugin, Reply, Stage};
//!
//! struct Witness;
//!
//! impl Plugin for Witness {
//!     const NAME: &'static std::ffi::CStr = c"witness";
//!     const LOG_PREFIX: &'static str = "witness: ";
//!
//!     fn init(_stage: Stage, _host: Host) -> Result<Self, HookError> {
//!         Ok(Witness)
//!     }
//!
//!     fn checkpoint_devices(&mut self, pid: Pid) -> HookResult {
//!         log::info!("{pid} is about to be dumped: {}", std::fs::read_to_string(format!("/proc/{pid}/comm"))?.trim());
//!         Ok(Reply::PassOn)
//!     }
//! }
//!
//! export_plugin!(Witness, [checkpoint_devices]);
//! # fn main() {}
//! ```
//!
//! Built as a `cdylib`, this is a plugin for every CRIU from 4.0 on, whichever `criu-plugin.h` it was built with.
//!
//! What the module takes care of:
//!
//! - **The descriptor** names twelve hooks and plugin interface 0.2.0, whatever the header says. CRIU refuses a
//!   descriptor that names more hooks than it knows itself, or a younger interface ([`Descriptor`]).
//! - **Return codes** are made in one place, from a [`HookResult`]. `-ENOTSUP`, which tells CRIU to ask the next
//!   plugin, is [`Reply::PassOn`] and can't come from an error by accident.
//! - **Panics** end at the C boundary: the message goes to CRIU's log as an error and the function returns -1. They
//!   need `panic = "unwind"`, and the macro refuses to build a plugin without it.
//! - **Errors** of a hook are logged with the hook's name and its arguments.
//! - **The log**: records of the `log` crate go to CRIU's log at CRIU's own levels, from `init` on.
//! - **The host's functions**, of which older versions lack some, are found by name at run time ([`Host`]).
//! - **A second copy of the plugin** in CRIU's plugin folder, which CRIU would load too, does nothing, and says so.
//! - **A CRIU that is too old** turns such a plugin away as "corrupted" before it can speak. The macro adds a
//!   constructor that says in CRIU's log what is wrong.
//!
//! What stays with the plugin's author: CRIU unloads the library after `exit`, so every thread that the plugin
//! started has to be joined by then. And CRIU's log is not made for threads: log from the thread that runs the hooks.
//!
//! [`Plugin`]: crate::criu::Plugin
//! [`export_plugin!`]: crate::export_plugin
//! [`Descriptor`]: crate::criu::Descriptor
//! [`HookResult`]: crate::criu::HookResult
//! [`Reply::PassOn`]: crate::criu::Reply::PassOn
//! [`Host`]: crate::criu::Host

mod bindings;
mod copies;
mod descriptor;
#[doc(hidden)]
pub mod entry;
mod hook;
mod host;
pub mod installed;
mod logger;
mod plugin;
mod stream;
mod table;

pub use crate::export_plugin;
pub use descriptor::{Descriptor, HOOKS, PLUGIN_VERSION};
pub use entry::contain;
pub use hook::{AfterFailure, Hook, HookError, HookResult, Reply, VmaMap};
pub use host::{Host, HostError, Inventory, LogLevel};
/// A process id, as the criu that calls the plugin sees the process.
pub use nix::unistd::Pid;
pub use plugin::{Plugin, Stage};
pub use stream::{Direction, ImageStream};
