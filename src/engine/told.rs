//! State of stopped threads that another reader knows already, so that no injected call has to read it.

use std::collections::BTreeMap;

use criu_signals_images::{AltStack, Dispositions, SigNo, Tid};

use crate::state::AlternateStack;
use crate::state::restart_block::RestartBlock;

/// What is known of one stopped process. Nothing of it changes as long as all threads of the process are stopped.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// What the process does on each signal. `None` if that was not found.
    pub dispositions: Option<Dispositions>,
    /// Has the process an interval timer that is armed or has an interval? The remaining time is known only by a call.
    pub has_interval_timers: bool,
    /// Has the process a child, or a thread that it traces? Whether one of these has ended is not known here.
    pub has_children: bool,
    /// Each of its threads.
    pub threads: BTreeMap<Tid, ToldThread>,
}

/// What is known of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToldThread {
    /// Address and size of the alternate stack.
    pub stack: [u64; 2],
    /// Its flags, without those that follow from the stack pointer.
    pub stack_flags: u32,
    /// The signal that its process gets when the parent ends.
    pub parent_death: Option<SigNo>,
    /// The kernel's restart_block of its interrupted call, or of an earlier call if the thread is in none.
    pub block: RestartBlock,
}

impl ToldThread {
    pub(super) fn altstack(&self, stack_pointer: u64) -> AltStack {
        AlternateStack::from_kernel(self.stack, self.stack_flags, stack_pointer)
    }
}

impl Told {
    /// The kernel's restart_block of each thread.
    pub fn blocks(&self) -> BTreeMap<Tid, RestartBlock> {
        let block = |(tid, thread): (&Tid, &ToldThread)| (*tid, thread.block);
        self.threads.iter().map(block).collect()
    }

    /// The dispositions, if all that the leader is asked for the whole process is known: no interval timer, no child that has
    /// ended.
    pub(super) fn of_process(&self) -> Option<&Dispositions> {
        let is_all = !self.has_interval_timers && !self.has_children;
        self.dispositions.as_ref().filter(|_| is_all)
    }
}
