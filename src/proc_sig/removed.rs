//! The signals that a write or a change has taken out of queues.

use criu_signals_images::{Pending, SigNo, SigSet, Siginfo, Tid};

use crate::state::Queue;

/// A thread, one of its queues, and what was found in that queue.
pub(super) type Found = (Tid, Queue, Pending);

/// Signals that are not pending any more in one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The thread whose queue it is; the leader if the queue is the shared one.
    pub tid: Tid,
    /// Which of its queues.
    pub queue: Queue,
    /// The entries, in their order, and the signals without siginfo.
    pub pending: Pending,
    /// Signals of the same numbers that are pending there all the same: they have arrived meanwhile.
    pub again: SigSet,
}

impl Removed {
    /// Each signal in words.
    pub fn lines(&self) -> Vec<String> {
        let place = match self.queue {
            Queue::Shared => "shared queue".to_owned(),
            Queue::Private => format!("queue of thread {}", self.tid),
        };
        let entries = self.pending.queue.iter().map(ToString::to_string);
        let bare = self.pending.bits_without_info();
        let bare = bare.iter().map(|signo| format!("{signo} without siginfo"));
        entries
            .chain(bare)
            .map(|what| format!("{place}: {what}"))
            .collect()
    }
}

/// What of `pending` is of these numbers.
pub(super) fn only(pending: &Pending, signals: SigSet) -> Pending {
    let is_one = |info: &&Siginfo| SigNo::new(info.signo()).is_some_and(|s| signals.contains(s));
    Pending {
        bits: pending.bits.intersection(signals),
        queue: pending.queue.iter().filter(is_one).copied().collect(),
    }
}
