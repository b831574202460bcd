//! Captures the whole signal state of Linux processes, and puts it back.
//!
//! Features: without any, the library is [`criu`] alone, the SDK for CRIU plugins in Rust. `engine` adds everything about
//! signal state. `command`, the default, adds what the program `criu-signals` needs, and nothing to the library.
#![deny(unsafe_code)]

#[cfg(feature = "engine")]
pub mod arch;
#[cfg(feature = "engine")]
pub mod capture;
#[cfg(feature = "engine")]
pub mod companion;
pub mod criu;
#[cfg(feature = "engine")]
pub mod custody;
#[cfg(feature = "engine")]
pub mod error;
#[cfg(feature = "engine")]
pub mod fault;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(feature = "engine")]
pub mod guardian;
#[cfg(feature = "engine")]
pub mod let_go;
#[cfg(feature = "engine")]
pub mod live;
#[cfg(feature = "engine")]
pub mod machine;
#[cfg(feature = "engine")]
pub mod memory;
#[cfg(feature = "engine")]
pub mod order;
#[cfg(feature = "engine")]
pub mod pidfd;
#[cfg(feature = "engine")]
pub mod plugin_file;
#[cfg(feature = "engine")]
pub mod proc;
#[cfg(feature = "engine")]
pub mod record;
#[cfg(feature = "engine")]
pub mod report;
#[cfg(feature = "engine")]
pub mod restore;
#[cfg(feature = "engine")]
pub mod send;
#[cfg(feature = "engine")]
pub mod sigstack;
#[cfg(feature = "engine")]
pub mod snapshot;
#[cfg(feature = "engine")]
pub mod state;
#[cfg(feature = "engine")]
pub mod stops;
#[cfg(feature = "engine")]
pub mod tracee;
#[cfg(feature = "engine")]
pub mod waiters;
#[cfg(feature = "engine")]
pub mod zombies;

#[cfg(feature = "engine")]
pub use criu_signals_images as images;
