//! Stopped processes: ptrace, reading memory, and system calls made in the process.
//!
//! Unsafe code of this module is in `ptrace` (the requests) and in `files` (open files of the process); the injected
//! code is in `crate::arch`.

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
pub(crate) mod reentry;
mod remembered;
pub(crate) mod rlimit;
pub(crate) mod shield;
mod stopped;

pub use batch::{Call, Outcome};
pub use bound::Budget;
pub use inject::Injector;
pub use memory::{Memory, RemoteAddr};
pub use remembered::Remembered;
pub use stopped::{ByHost, ByUs, StoppedProcess, StoppingProcess, Unfinished};
