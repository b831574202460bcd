//! Captures the whole signal state of Linux processes, and puts it back.
//!
//! Features: without any, the library is [`criu`] alone, the SDK for CRIU plugins in Rust. `engine` adds everything about
//! signal state. `command`, the default, adds what the program `criu-signals` needs, and nothing to the library.
#![deny(unsafe_code)]
#![warn(clippy::missing_errors_doc)]
// On docs.rs, which has a nightly compiler: the feature that each item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "engine")]
pub mod arch;
#[cfg(feature = "archives")]
pub mod archive;
#[cfg(feature = "bpf")]
pub mod bpf;
#[cfg(feature = "engine")]
pub mod checkpoint;
#[cfg(feature = "cores")]
pub mod core_file;
pub mod criu;
#[cfg(feature = "engine")]
pub mod engine;
#[cfg(feature = "engine")]
pub mod error;
#[cfg(feature = "engine")]
pub mod fault;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(feature = "engine")]
pub mod image_folder;
#[cfg(feature = "engine")]
pub mod in_time;
#[cfg(feature = "engine")]
pub mod live;
#[cfg(feature = "engine")]
pub mod log_lines;
#[cfg(feature = "engine")]
pub mod losses;
#[cfg(feature = "engine")]
pub mod machine;
#[cfg(feature = "engine")]
pub mod memory;
#[cfg(feature = "engine")]
pub mod plugin_file;
#[cfg(feature = "engine")]
pub mod proc;
#[cfg(feature = "engine")]
pub mod proc_sig;
#[cfg(feature = "engine")]
pub mod process;
#[cfg(feature = "engine")]
pub mod reading;
#[cfg(feature = "engine")]
pub mod run_report;
#[cfg(feature = "engine")]
pub mod setting_names;
#[cfg(feature = "engine")]
pub mod signal_files;
#[cfg(feature = "engine")]
pub mod state;
#[cfg(feature = "symbols")]
pub mod symbols;
#[cfg(feature = "engine")]
pub mod tracee;

#[cfg(feature = "engine")]
pub use criu_signals_images as images;
