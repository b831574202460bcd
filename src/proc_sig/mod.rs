//! Reads and writes the `/proc/PID/sig/` files of the kernel patches of 2007 for live processes, one file at a time.
//!
//! The process is stopped for as long as that takes, and a write is made inside it, by the steps of
//! [`crate::engine::replay`] that concern the file. What a write makes deliverable is delivered when the process goes on.
//! docs/proc-sig.md says what each write means.

mod arrivals;
mod change;
mod held;
mod removed;
mod subject;
pub mod waiters;

pub use change::{Change, Changed, MaskChange, Reaction, change, clear};
pub use held::{Addresses, Held, WriteError, read, write};
pub use removed::Removed;
pub use subject::{ParseSubjectError, Subject};
