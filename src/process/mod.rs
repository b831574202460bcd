//! Processes: this program's helper processes, pidfds of other processes, and the check that they still execute the same program.

pub(crate) mod detached;
pub mod pidfd;
pub mod same_program;
mod stuck;
pub mod worker;
