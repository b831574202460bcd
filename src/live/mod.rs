//! Live processes, without a checkpoint: dumps, restores and compares a process, a tree or a cgroup.
//!
//! All processes are stopped before the first is read, and resume after the last is read. The images are written
//! afterwards, so that no process is stopped during disk I/O.

pub mod cgroup;
mod dump;
mod names;
mod restore;
mod stop;
mod verify;

use std::ops::ControlFlow;

pub use cgroup::Cgroup;
pub use dump::{Snapshot, take, write};
pub use names::{Mapping, Members, Pair, Unmapped, pair, pair_members};
pub use restore::{Options, restore};
pub use stop::{Stopped, Target};
pub use verify::{verify, verify_members};

use crate::error::{Cause, Error, Result};

/// What is being done to a number of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// They are stopped. How many there are shows only then.
    Stop,
    /// They are read.
    Read,
    /// Their images are written.
    Write,
    /// Their state is put back.
    PutBack,
}

/// Is told how far the work is, and asked whether it is still wanted.
pub trait Progress {
    /// `done` of `all` processes. [`ControlFlow::Break`] ends the work: everything is left as it was found.
    fn at(&mut self, stage: Stage, done: usize, all: usize) -> ControlFlow<()>;
}

/// Nobody looks on.
impl Progress for () {
    fn at(&mut self, _: Stage, _: usize, _: usize) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

fn step(progress: &mut dyn Progress, stage: Stage, done: usize, all: usize) -> Result<()> {
    match progress.at(stage, done, all) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::new("go on", Cause::Cancelled)),
    }
}
