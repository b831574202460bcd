//! Which parts of the state a source records, so that unknown state is never taken for empty state.

use std::fmt;

use crate::altstack::AltStack;
use crate::disposition::Dispositions;
use crate::image::Image;
use crate::pending::Pending;
use crate::process::{ProcessState, Rlimit, RunState, ThreadState};
use crate::siginfo::Siginfo;
use crate::signo::SigNo;
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
    /// The timerfds and RLIMIT_CPU.
    Clocks,
    /// What the parent's wait(2) would still report.
    WaitStatus,
    /// What the parent is sent at the end.
    ExitSignal,
    /// What a signal takes of an alternate stack.
    StackNeeds,
    /// The lasting mask, where a call has put another in force.
    LastingMask,
    /// What is pending for the process as a whole.
    SharedQueue,
    /// The entries of pending signals: how many, and their siginfos.
    Entries,
    /// The POSIX timers.
    Timers,
    /// Whether the process is stopped.
    RunState,
    /// The parent-death signals.
    ParentDeathSignals,
    /// Whether a thread is in a handler.
    Handlers,
    /// Of masks and pending signals those above 32.
    HighSignals,
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
            Aspect::Clocks => "clocks",
            Aspect::WaitStatus => "wait_status",
            Aspect::ExitSignal => "exit_signal",
            Aspect::StackNeeds => "stack_needs",
            Aspect::LastingMask => "lasting_mask",
            Aspect::SharedQueue => "shared_queue",
            Aspect::Entries => "entries",
            Aspect::Timers => "timers",
            Aspect::RunState => "run_state",
            Aspect::ParentDeathSignals => "parent_death_signal",
            Aspect::Handlers => "in_handler",
            Aspect::HighSignals => "signals_above_32",
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
                    timer.place_aside = None;
                }
            }
            Aspect::IntervalTimers => process.interval_timers.clear(),
            Aspect::FileOwners => process.file_owners.clear(),
            Aspect::Clocks => process.clocks = None,
            Aspect::WaitStatus => process.wait_status = WaitStatus::Unknown,
            Aspect::ExitSignal => process.exit_signal = None,
            Aspect::StackNeeds => process.stack_needs = None,
            Aspect::SharedQueue => process.shared = Pending::default(),
            Aspect::Entries => process
                .queues_mut()
                .for_each(|pending| pending.queue.clear()),
            Aspect::Timers => {
                process.timers.clear();
                process.deleted_timers.clear();
            }
            Aspect::RunState => process.run_state = RunState::Running,
            Aspect::HighSignals => {
                let low = |set: SigSet| SigSet::from_bits(set.bits() & u64::from(u32::MAX));
                for thread in &mut process.threads {
                    thread.blocked = low(thread.blocked);
                    thread.saved_mask = thread.saved_mask.map(low);
                }
                for pending in process.queues_mut() {
                    pending.bits = low(pending.bits);
                    pending.queue.retain(|info| info.signo() <= 32);
                }
            }
            Aspect::Masks
            | Aspect::MaskInForce
            | Aspect::LastingMask
            | Aspect::AltStacks
            | Aspect::ParentDeathSignals
            | Aspect::Handlers
            | Aspect::InterruptedCalls => {
                for thread in &mut process.threads {
                    self.forget_of_thread(thread);
                }
            }
        }
    }

    fn forget_of_thread(self, thread: &mut ThreadState) {
        match self {
            Aspect::Masks => {
                thread.blocked = SigSet::EMPTY;
                thread.saved_mask = None;
            }
            Aspect::MaskInForce => {
                thread.blocked = thread.lasting_mask();
                thread.saved_mask = None;
            }
            Aspect::LastingMask => thread.saved_mask = None,
            Aspect::AltStacks => thread.altstack = AltStack::DISABLED,
            Aspect::ParentDeathSignals => thread.parent_death_signal = None,
            Aspect::Handlers => thread.in_handler = None,
            Aspect::InterruptedCalls => thread.interrupted = None,
            _ => {}
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
            Aspect::Clocks => "timerfds and RLIMIT_CPU",
            Aspect::FileOwners => "SIGIO owners of files",
            Aspect::WaitStatus => "wait status",
            Aspect::ExitSignal => "exit signal",
            Aspect::StackNeeds => "what a signal takes of a stack",
            Aspect::LastingMask => "lasting masks where a call has borrowed another",
            Aspect::SharedQueue => "shared queue",
            Aspect::Entries => "entries and siginfos of pending signals",
            Aspect::Timers => "POSIX timers",
            Aspect::RunState => "run state",
            Aspect::ParentDeathSignals => "parent-death signals",
            Aspect::Handlers => "whether threads are in handlers",
            Aspect::HighSignals => "signals above 32 in masks and among pending signals",
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
    /// What a core file tells besides.
    pub ended_by: Option<EndedBy>,
}

/// The signal that a core file was written for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedBy {
    /// NT_PRSTATUS has its number.
    pub signo: SigNo,
    /// NT_SIGINFO, where the core has one.
    pub siginfo: Option<Siginfo>,
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
        Recorded {
            image,
            missing,
            ended_by: None,
        }
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
        let bits_and_entries = [Aspect::BitsWithoutInfo, Aspect::Entries];
        if bits_and_entries
            .iter()
            .all(|aspect| aspects.contains(aspect))
        {
            // The bits of one side are the entries' alone, and of the other side it is not known which these are.
            process
                .queues_mut()
                .for_each(|pending| *pending = Pending::default());
        }
        for aspect in aspects {
            aspect.forget(&mut process);
        }
        process
    }
}
