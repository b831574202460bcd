//! Another process, stopped: reading it, and making it run system calls.
//!
//! What is unsafe in this crate is here, in `ptrace` (the requests), in `files` (its open files) and in `crate::arch` (the
//! injected code).

mod alarm;
mod batch;
mod bound;
mod cave;
pub(crate) mod files;
mod group_stop;
mod inject;
mod left_behind;
mod memory;
mod obstacles;
pub(crate) mod ptrace;
pub(crate) mod rlimit;
pub(crate) mod shield;
mod stopped;

pub use batch::{Call, Outcome};
pub use bound::Budget;
pub use inject::Injector;
pub use memory::{Memory, RemoteAddr};
pub use stopped::{ByHost, ByUs, StoppedProcess, StoppingProcess, Unfinished};
