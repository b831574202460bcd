//! Processes: this program's helper processes, and pidfds of other processes.

pub(crate) mod detached;
pub mod pidfd;
mod stuck;
pub mod worker;
