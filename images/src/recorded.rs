//! Which parts of the state a source records, so that unknown state is never taken for empty state.

use std::fmt;

use crate::altstack::AltStack;
use crate::disposition::Dispositions;
use crate::image::Image;
use crate::process::{ProcessState, Rlimit};
use crate::sigset::SigSet;
use crate::timer::TimerEntry;
use crate::wait_status::WaitStatus;

/// A part of the state that a source may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Aspect {
    /// The ids in other pid namespaces than the process's own, and which namespace that is.
    Namespaces,
    /// How many siginfos are charged to the uid.
    Charged,
    /// RLIMIT_SIGPENDING.
    Limit,
    /// What the process does on each signal.
    Dispositions,
    /// Which other threads than the leader there are.
    Threads,
    /// The masks.
    Masks,
    /// The mask in force, where a call has put another in the place of the lasting one.
    MaskInForce,
    /// The alternate stacks.
    AltStacks,
    /// Signals that are pending without a siginfo.
    BitsWithoutInfo,
    /// Calls that were interrupted.
    InterruptedCalls,
    /// Where the queue entries of the POSIX timers are.
    TimerEntries,
    /// The interval timers.
    IntervalTimers,
    /// Whom the SIGIO of files goes to.
    FileOwners,
    /// What the parent's wait(2) would still report.
    WaitStatus,
    /// What the parent is sent at the end.
    ExitSignal,
    /// What a signal takes of an alternate stack.
    StackNeeds,
}

impl Aspect {
    /// The name in JSON documents.
    pub const fn name(self) -> &'static str {
        match self {
            Aspect::Namespaces => "namespaces",
            Aspect::Charged => "queued",
            Aspect::Limit => "rlimit_sigpending",
            Aspect::Dispositions => "dispositions",
            Aspect::Threads => "threads",
            Aspect::Masks => "blocked",
            Aspect::MaskInForce => "saved_mask",
            Aspect::AltStacks => "altstack",
            Aspect::BitsWithoutInfo => "bits_without_siginfo",
            Aspect::InterruptedCalls => "interrupted",
            Aspect::TimerEntries => "timer_entries",
            Aspect::IntervalTimers => "interval_timers",
            Aspect::FileOwners => "file_owners",
            Aspect::WaitStatus => "wait_status",
            Aspect::ExitSignal => "exit_signal",
            Aspect::StackNeeds => "stack_needs",
        }
    }

    /// Gives this part of the state the value of a process of which it is not known.
    fn forget(self, process: &mut ProcessState) {
        match self {
            // Ids further out are compared by nobody.
            Aspect::Namespaces => process.pid_ns = 0,
            Aspect::Charged => process.queued = 0,
            Aspect::Limit => {
                process.rlimit_sigpending = Rlimit {
                    soft: Rlimit::INFINITY,
                    hard: Rlimit::INFINITY,
                };
            }
            Aspect::Dispositions => process.dispositions = Dispositions::default(),
            Aspect::Threads => process.threads.truncate(1),
            Aspect::BitsWithoutInfo => {
                for pending in process.queues_mut() {
                    pending.bits = pending.queued();
                }
            }
            Aspect::TimerEntries => {
                for timer in &mut process.timers {
                    timer.entry = TimerEntry::Idle;
                    timer.entry_overrun = None;
                }
            }
            Aspect::IntervalTimers => process.interval_timers.clear(),
            Aspect::FileOwners => process.file_owners.clear(),
            Aspect::WaitStatus => process.wait_status = WaitStatus::Unknown,
            Aspect::ExitSignal => process.exit_signal = None,
            Aspect::StackNeeds => process.stack_needs = None,
            Aspect::Masks | Aspect::MaskInForce | Aspect::AltStacks | Aspect::InterruptedCalls => {
                for thread in &mut process.threads {
                    match self {
                        Aspect::Masks => {
                            thread.blocked = SigSet::EMPTY;
                            thread.saved_mask = None;
                        }
                        Aspect::MaskInForce => {
                            thread.blocked = thread.lasting_mask();
                            thread.saved_mask = None;
                        }
                        Aspect::AltStacks => thread.altstack = AltStack::DISABLED,
                        _ => thread.interrupted = None,
                    }
                }
            }
        }
    }
}

impl fmt::Display for Aspect {
    /// For people: `pending bits without siginfo`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Aspect::Namespaces => "ids in other pid namespaces",
            Aspect::Charged => "siginfos charged to the uid",
            Aspect::Limit => "RLIMIT_SIGPENDING",
            Aspect::Dispositions => "dispositions",
            Aspect::Threads => "other threads than the leader",
            Aspect::Masks => "masks",
            Aspect::MaskInForce => "masks borrowed by a call",
            Aspect::AltStacks => "alternate stacks",
            Aspect::BitsWithoutInfo => "signals pending without siginfo",
            Aspect::InterruptedCalls => "interrupted calls",
            Aspect::TimerEntries => "queue entries of timers",
            Aspect::IntervalTimers => "interval timers",
            Aspect::FileOwners => "SIGIO owners of files",
            Aspect::WaitStatus => "wait status",
            Aspect::ExitSignal => "exit signal",
            Aspect::StackNeeds => "what a signal takes of a stack",
        })
    }
}

/// A process's signal state, and which parts of it the source does not tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// What it tells. What is missing has a value all the same, which means nothing.
    pub image: Image,
    /// What it does not tell, in order; empty for an image of ours and for a live process.
    pub missing: Vec<Aspect>,
}

impl From<Image> for Recorded {
    /// Everything is there; but what an image itself says is not known is not.
    fn from(image: Image) -> Recorded {
        let process = &image.process;
        let mut missing = Vec::new();
        if process.wait_status == WaitStatus::Unknown {
            missing.push(Aspect::WaitStatus);
        }
        if process.exit_signal.is_none() {
            missing.push(Aspect::ExitSignal);
        }
        Recorded { image, missing }
    }
}

impl Recorded {
    /// Is this part known?
    pub fn has(&self, aspect: Aspect) -> bool {
        !self.missing.contains(&aspect)
    }

    /// The state without these parts.
    pub(crate) fn without(&self, aspects: &[Aspect]) -> ProcessState {
        let mut process = self.image.process.clone();
        for aspect in aspects {
            aspect.forget(&mut process);
        }
        process
    }
}
