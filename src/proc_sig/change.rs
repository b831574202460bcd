//! Changes of a part of the state: the rest stays as found when the process is stopped. A text of [`write`](super::write())
//! describes the whole state instead.

use std::time::Duration;

use criu_signals_images::{AltStack, Disposition, Pending, SigNo, SigSet, Tid};

use super::Subject;
use super::arrivals;
use super::held::{Held, all_queues, also, refused, replace, replace_actions, write_altstack};
use super::removed::{Found, Removed, only};
use crate::error::{Phase, Result};
use crate::proc::SignalStatus;
use crate::state::{
    AlternateStack, Kind as _, ParentDeathSignal, Queue, SignalDispositions, SignalMask, Site,
};
use crate::tracee::ByUs;

/// What is to be different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The thread's mask.
    Blocked(MaskChange),
    /// What the process does on these signals.
    Actions(Vec<(SigNo, Reaction)>),
    /// The thread has no alternate stack any more.
    NoAltStack,
    /// The signal that the process is sent when the thread's parent ends.
    ParentDeath(Option<SigNo>),
}

/// Of a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskChange {
    /// These are blocked, and no others.
    Exactly(SigSet),
    /// These are blocked and these are not; the others are as they were.
    Some {
        /// Blocked afterwards.
        blocked: SigSet,
        /// Not blocked afterwards.
        unblocked: SigSet,
    },
}

/// What a program can do on a signal without code for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// SIG_DFL.
    Default,
    /// SIG_IGN.
    Ignore,
}

/// What a change has come to: what was there, and what was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// The thread's mask.
    Blocked {
        /// What it was.
        before: SigSet,
        /// What it is.
        after: SigSet,
        /// Pending signals that were blocked and are not: they are delivered when the process goes on.
        due: SigSet,
    },
    /// What the process does on signals.
    Actions {
        /// For each signal what it did, and what it does.
        actions: Vec<(SigNo, Disposition, Disposition)>,
        /// Pending signals that the kernel has discarded, because they are ignored now.
        removed: Vec<Removed>,
    },
    /// The thread's alternate stack.
    AltStack {
        /// What it was.
        before: AltStack,
        /// What it is.
        after: AltStack,
    },
    /// The thread's parent-death signal.
    ParentDeath {
        /// What it was.
        before: Option<SigNo>,
        /// What it is.
        after: Option<SigNo>,
    },
}

impl MaskChange {
    /// The mask that this makes of `present`.
    #[must_use]
    pub fn over(self, present: SigSet) -> SigSet {
        match self {
            MaskChange::Exactly(blocked) => blocked,
            MaskChange::Some { blocked, unblocked } => present.difference(unblocked).union(blocked),
        }
    }

    fn names(self) -> SigSet {
        match self {
            MaskChange::Exactly(blocked) => blocked,
            MaskChange::Some { blocked, unblocked } => blocked.union(unblocked),
        }
    }
}

impl Reaction {
    /// The disposition, as signal(2) and execve(2) make it.
    const fn disposition(self) -> Disposition {
        let handler = match self {
            Reaction::Default => libc::SIG_DFL,
            Reaction::Ignore => libc::SIG_IGN,
        };
        Disposition {
            handler: handler as u64,
            ..Disposition::DEFAULT
        }
    }
}

/// Makes a change. The process is stopped for it, and goes on with all of it, or as it was found.
///
/// # Errors
/// [`Cause::Refused`](crate::error::Cause::Refused) before the process is touched if no process can be like that; else as
/// [`write`](super::write()).
pub fn change(subject: Subject, change: &Change, timeout: Duration) -> Result<Changed> {
    refuse_impossible(change).map_err(|e| e.during(Phase::Replay, subject.pid))?;
    let held = Held::seize(subject, timeout)?;
    let done = held.change(change);
    held.release()?;
    done
}

/// Removes pending signals: of a process from all its queues, of a thread from its own. Signals that arrive meanwhile stay.
///
/// # Errors
/// [`Cause::Refused`](crate::error::Cause::Refused) before the process is touched if `signals` has one that is never pending, and before anything is changed
/// for the own entry of a POSIX timer. Whatever fails, all queues are as they were found.
pub fn clear(subject: Subject, signals: SigSet, timeout: Duration) -> Result<Vec<Removed>> {
    let held = Held::seize(subject, timeout)?;
    let done = held.clear(subject.thread, signals);
    held.release()?;
    done
}

fn refuse_impossible(change: &Change) -> Result<()> {
    let (names, what) = match change {
        Change::Blocked(mask) => (mask.names(), "can't be blocked (sigprocmask(2))"),
        Change::Actions(actions) => {
            let names = actions.iter().map(|(signo, _)| *signo).collect();
            (names, "keeps its default action (sigaction(2))")
        }
        Change::NoAltStack | Change::ParentDeath(_) => return Ok(()),
    };
    match [SigNo::KILL, SigNo::STOP]
        .into_iter()
        .find(|&signo| names.contains(signo))
    {
        Some(signo) => Err(refused(format!("{signo} {what}"))),
        None => Ok(()),
    }
}

impl Held {
    /// Makes a change.
    ///
    /// # Errors
    /// Those of [`change`].
    pub fn change(&self, change: &Change) -> Result<Changed> {
        use criu_signals_images::text::SigFile;
        refuse_impossible(change).map_err(|e| e.during(Phase::Replay, self.stopped.pid()))?;
        let file = match change {
            // Of the thread, too.
            Change::Blocked(_) | Change::ParentDeath(_) => SigFile::Blocked,
            Change::Actions(_) => SigFile::Action,
            Change::NoAltStack => SigFile::AltStack,
        };
        self.at_site(file, Phase::Replay, |site| match change {
            Change::Blocked(mask) => change_mask(site, *mask),
            Change::Actions(actions) => change_actions(site, actions),
            Change::NoAltStack => {
                let before = AlternateStack::capture(site)?;
                write_altstack(site, &AltStack::DISABLED)?;
                let after = AltStack::DISABLED;
                Ok(Changed::AltStack { before, after })
            }
            Change::ParentDeath(after) => {
                let (before, after) = (ParentDeathSignal::capture(site)?, *after);
                replace::<ParentDeathSignal>(site, &after)?;
                Ok(Changed::ParentDeath { before, after })
            }
        })
    }

    /// Removes pending signals from the private queue of `thread`, or from all queues of the process.
    ///
    /// # Errors
    /// Those of [`clear`].
    pub fn clear(&self, thread: Option<Tid>, signals: SigSet) -> Result<Vec<Removed>> {
        use criu_signals_images::text::SigFile;
        // What is done in other threads as well is reached through the leader.
        let file = match thread {
            Some(_) => SigFile::Pending,
            None => SigFile::SharedPending,
        };
        self.at_site(file, Phase::Replay, |site| {
            let queues = all_queues(site)?.into_iter();
            // The shared one last: entries of the leader's own that are in the way of it are out by then.
            let affected = queues.rev().filter(|(tid, queue, pending)| {
                let is_meant =
                    thread.is_none_or(|thread| *queue == Queue::Private && thread == *tid);
                is_meant && !pending.bits.intersection(signals).is_empty()
            });
            clear_all(site, affected.collect(), signals)
        })
    }
}

fn change_mask(site: &mut Site<'_, '_, ByUs>, mask: MaskChange) -> Result<Changed> {
    let before = SignalMask::capture(site)?;
    let after = mask.over(before);
    let status = SignalStatus::read(site.pid(), site.tid)?;
    let pending = status.pending.union(status.shared_pending);
    replace::<SignalMask>(site, &after)?;
    Ok(Changed::Blocked {
        before,
        after,
        due: before.difference(after).intersection(pending),
    })
}

fn change_actions(site: &mut Site<'_, '_, ByUs>, actions: &[(SigNo, Reaction)]) -> Result<Changed> {
    let before = SignalDispositions::capture(site)?;
    let mut wanted = before.clone();
    for (signo, reaction) in actions {
        wanted[*signo] = reaction.disposition();
    }
    let removed = replace_actions(site, &before, wanted.clone())?;
    let one = |(signo, _): &(SigNo, Reaction)| (*signo, before[*signo], wanted[*signo]);
    Ok(Changed::Actions {
        actions: actions.iter().map(one).collect(),
        removed,
    })
}

fn clear_all(
    site: &mut Site<'_, '_, ByUs>,
    queues: Vec<Found>,
    signals: SigSet,
) -> Result<Vec<Removed>> {
    let mut done: Vec<Removed> = Vec::new();
    for (n, (tid, queue, before)) in queues.iter().enumerate() {
        let site = &mut Site {
            injector: &mut *site.injector,
            tid: *tid,
        };
        let cleared = clear_one(site, *queue, before, signals).map_err(|e| e.in_thread(*tid));
        match cleared {
            Ok(again) => done.push(Removed {
                tid: *tid,
                queue: *queue,
                pending: only(before, signals),
                again,
            }),
            Err(e) => {
                let cleared: Vec<Pending> = queues[..=n]
                    .iter()
                    .map(|(_, _, before)| only(before, signals.complement()))
                    .collect();
                let back = arrivals::put_back(site, queues.iter().zip(&cleared));
                return Err(also(e, back.err()));
            }
        }
    }
    Ok(done)
}

/// Returns which of the signals are pending again.
fn clear_one(
    site: &mut Site<'_, '_, ByUs>,
    queue: Queue,
    before: &Pending,
    signals: SigSet,
) -> Result<SigSet> {
    let wanted = only(before, signals.complement());
    let found = arrivals::set(site, queue, before, &wanted)?;
    Ok(only(&found, signals).bits)
}
