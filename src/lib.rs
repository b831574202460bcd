//! Captures the whole signal state of Linux processes, and puts it back.
#![deny(unsafe_code)]

pub mod arch;
pub mod capture;
pub mod companion;
pub mod criu;
pub mod custody;
pub mod error;
pub mod fault;
mod guardian;
pub mod let_go;
pub mod live;
pub mod machine;
pub mod order;
pub mod proc;
pub mod record;
pub mod report;
pub mod restore;
pub mod send;
pub mod sigstack;
pub mod snapshot;
pub mod state;
pub mod stops;
pub mod tracee;
pub mod waiters;

pub use criu_signals_images as images;
