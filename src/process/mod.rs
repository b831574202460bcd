//! Processes: helpers of this program's own, and others that are held by a descriptor.

pub(crate) mod detached;
pub mod pidfd;
pub mod worker;
