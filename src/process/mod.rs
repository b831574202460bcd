//! Processes: this program's helper processes, pidfds of other processes, and whether they execute the same program still.

pub(crate) mod detached;
pub mod pidfd;
pub mod same_program;
mod stuck;
pub mod worker;
