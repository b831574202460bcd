//! Replay: the order in which state is put back, as one table that the code walks from top to bottom.
//!
//! All threads of the process are stopped throughout. A step does nothing if the state is in place already, and reads
//! back what it has written. After a failed step the remaining steps still run; in particular, the masks are always put
//! back.

use std::cell::RefCell;

use criu_signals_images::{DeletedTimer, ProcessState, RunState, SigSet, ThreadState, Tid};

use crate::error::{Error, Result};
use crate::fault::{self, Point};
use crate::state::Lost;
use crate::state::dropped::{self, Place};
use crate::state::interrupted::put_back_call;
use crate::state::timers;
use crate::state::{
    AlternateStack, GroupStop, ParentDeathSignal, PendingLimit, PosixTimers, Queue,
    SignalDispositions, SignalMask, Site, itimers, put_back,
};
use crate::tracee::{Injector, ptrace};

/// One step of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Every thread's mask: everything blocked.
    BlockAll,
    /// What the process does on each signal.
    Dispositions,
    /// RLIMIT_SIGPENDING, as high as permitted.
    RaiseLimit,
    /// Each thread's private queue: what was captured, then what has arrived since.
    PrivateQueues,
    /// The shared queue, likewise.
    SharedQueue,
    /// POSIX timers, and the queues that hold their entries.
    Timers,
    /// Each thread's alternate stack.
    AlternateStacks,
    /// Each thread's parent-death signal.
    ParentDeathSignals,
    /// RLIMIT_SIGPENDING as captured.
    Limit,
    /// Each thread's mask as captured.
    Masks,
    /// The system call that each thread was waiting in.
    InterruptedCalls,
    /// The group stop.
    GroupStop,
}

impl Step {
    fn point(self) -> Point {
        match self {
            Step::BlockAll => Point::BlockAll,
            Step::Dispositions => Point::Dispositions,
            Step::RaiseLimit => Point::RaiseLimit,
            Step::PrivateQueues => Point::PrivateQueues,
            Step::SharedQueue => Point::SharedQueue,
            Step::Timers => Point::Timers,
            Step::AlternateStacks => Point::AlternateStacks,
            Step::ParentDeathSignals => Point::ParentDeathSignals,
            Step::Limit => Point::Limit,
            Step::Masks => Point::Masks,
            Step::InterruptedCalls => Point::InterruptedCalls,
            Step::GroupStop => Point::GroupStop,
        }
    }
}

/// A step, and what forces its place.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The step.
    pub step: Step,
    /// Why the step has this place.
    pub why: &'static str,
    /// The man page or kernel function that says so.
    pub source: &'static str,
}

/// The order.
pub const ORDER: [Row; 12] = [
    Row {
        step: Step::BlockAll,
        why: "nothing may be delivered, or dropped as ignored, while we work",
        source: "kernel/signal.c: sig_ignored, a blocked signal is never ignored",
    },
    Row {
        step: Step::Dispositions,
        why: "setting SIG_IGN removes pending signals from every queue, blocked or not",
        source: "kernel/signal.c: do_sigaction, flush_sigqueue_mask",
    },
    Row {
        step: Step::RaiseLimit,
        why: "an entry for which there is no room is refused, or loses its siginfo without a word",
        source: "kernel/signal.c: __send_signal_locked",
    },
    Row {
        step: Step::PrivateQueues,
        why: "before the shared queue: taking out of that one goes through the leader's private one",
        source: "kernel/signal.c: dequeue_signal looks at the private queue first",
    },
    Row {
        step: Step::SharedQueue,
        why: "queued by the leader: nobody else may queue si_code >= 0",
        source: "kernel/signal.c: do_rt_sigqueueinfo",
    },
    Row {
        step: Step::Timers,
        why: "only an expiry queues a timer's own entry: where there is one, the queue is built around it",
        source: "kernel/signal.c: posixtimer_send_sigqueue",
    },
    Row {
        step: Step::AlternateStacks,
        why: "before anything can be delivered on them",
        source: "sigaltstack(2)",
    },
    Row {
        step: Step::ParentDeathSignals,
        why: "among what only the thread itself can set; a change of credentials would clear it, and theirs are set",
        source: "prctl(2), PR_SET_PDEATHSIG; kernel/cred.c: commit_creds",
    },
    Row {
        step: Step::Limit,
        why: "after everything that queues",
        source: "getrlimit(2), RLIMIT_SIGPENDING",
    },
    Row {
        step: Step::Masks,
        why: "from here on signals can be delivered, so all that a handler could see is in place",
        source: "kernel/ptrace.c: ptrace_request, PTRACE_SETSIGMASK",
    },
    Row {
        step: Step::InterruptedCalls,
        why: "before the stop: a call whose time had begun to run is begun once more inside the thread",
        source: "kernel/signal.c: do_jobctl_trap comes before everything else",
    },
    Row {
        step: Step::GroupStop,
        why: "entered while still traced, so that no handler runs first; before all else in truth (stops::enter), and \
              here once more if that failed",
        source: "kernel/signal.c: get_signal, do_signal_stop",
    },
];

/// The steps, in their order.
#[cfg(not(feature = "faults"))]
fn steps() -> Vec<Step> {
    ORDER.iter().map(|row| row.step).collect()
}

#[cfg(feature = "faults")]
use moved::steps;

/// A wrong order, for tests: `CRIU_SIGNALS_ORDER="Dispositions behind SharedQueue"`, or `before`.
#[cfg(any(feature = "faults", test))]
#[cfg_attr(not(feature = "faults"), allow(dead_code))]
mod moved {
    use super::{ORDER, Step};

    const VARIABLE: &str = "CRIU_SIGNALS_ORDER";

    pub(super) fn steps() -> Vec<Step> {
        let right = ORDER.iter().map(|row| row.step).collect();
        let Ok(text) = std::env::var(VARIABLE) else {
            return right;
        };
        let steps =
            moved(right, &text).unwrap_or_else(|| panic!("{VARIABLE}={text:?} is not understood"));
        log::info!("order of replay: {steps:?}");
        steps
    }

    pub(super) fn moved(mut steps: Vec<Step>, text: &str) -> Option<Vec<Step>> {
        let [what, how, other] = text.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let at = |steps: &[Step], name| steps.iter().position(|s| format!("{s:?}") == name);
        let step = steps.remove(at(&steps, what)?);
        let other = at(&steps, other)?;
        let to = match how {
            "before" => other,
            "behind" => other + 1,
            _ => return None,
        };
        steps.insert(to, step);
        Some(steps)
    }
}

/// How much of the table is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it.
    All,
    /// The steps for queues, for a process whose other state is right.
    Queues,
    /// All but interrupted calls, the stop and timers.
    StateAndQueues,
    /// The same without its queues.
    State,
    /// One step, for a process in which nothing else has to be done.
    Only(Step),
}

impl Extent {
    fn includes(self, step: Step) -> bool {
        let queues = [
            Step::RaiseLimit,
            Step::PrivateQueues,
            Step::SharedQueue,
            Step::Limit,
        ];
        let state = [
            Step::BlockAll,
            Step::Dispositions,
            Step::AlternateStacks,
            Step::ParentDeathSignals,
            Step::Limit,
            Step::Masks,
        ];
        match self {
            Extent::All => true,
            Extent::Queues => queues.contains(&step),
            Extent::State => state.contains(&step),
            Extent::StateAndQueues => state.contains(&step) || queues.contains(&step),
            Extent::Only(only) => step == only,
        }
    }
}

/// What is put back, and where.
pub(crate) struct Replay<'r, 'p, Owner> {
    pub injector: &'r mut Injector<'p, Owner>,
    /// How the process must be afterwards.
    pub wanted: &'r ProcessState,
    /// The state of the process when `wanted` was made. Signals sent since are in neither, and stay.
    pub found: &'r ProcessState,
    /// The live threads, each with its wanted state. A thread that the capture did not know keeps its state.
    pub threads: &'r [(Tid, &'r ThreadState)],
    /// State that was given up because it excludes other state: to be logged.
    pub lost: &'r mut Vec<(Lost, String)>,
}

impl<Owner> Replay<'_, '_, Owner> {
    /// Takes the steps of `extent`. Returns the errors.
    pub fn walk(&mut self, extent: Extent) -> Vec<Error> {
        let mut errors = Vec::new();
        for step in steps().into_iter().filter(|&step| extent.includes(step)) {
            let failed = self.take(step);
            // Everything has been blocked since the first step, and must not remain so.
            if step == Step::Masks && !failed.is_empty() {
                errors.extend(self.take(step));
            }
            // Nor may the limit that was raised: it can be set from outside, too.
            if step == Step::Limit && !failed.is_empty() {
                let pid = self.injector.process().pid();
                errors.extend(PendingLimit::from_outside(pid, self.wanted.rlimit_sigpending).err());
            }
            errors.extend(failed);
        }
        errors
    }

    fn take(&mut self, step: Step) -> Vec<Error> {
        if let Err(e) = fault::point(step.point()) {
            return vec![e];
        }
        let process = self.wanted;
        match step {
            Step::BlockAll => {
                self.each_thread(|site, _| ptrace::set_signal_mask(site.tid, SigSet::FULL))
            }
            Step::Dispositions => self.leader(|site, wanted| {
                put_back::<SignalDispositions, _>(site, &wanted.dispositions).map(drop)
            }),
            Step::RaiseLimit => self.leader(|site, wanted| {
                let siginfos: usize = wanted.queues().map(|pending| pending.queue.len()).sum();
                PendingLimit::raise(site, (siginfos + wanted.timers.len()) as u64)
            }),
            Step::PrivateQueues => self.private_queues(),
            Step::SharedQueue if PosixTimers::builds(process, None) => Vec::new(),
            Step::SharedQueue => self.shared_queue(),
            Step::Timers => self.timers(),
            Step::AlternateStacks => self.each_thread(|site, wanted| {
                put_back::<AlternateStack, _>(site, &wanted.altstack).map(drop)
            }),
            Step::ParentDeathSignals => self.each_thread(|site, wanted| {
                put_back::<ParentDeathSignal, _>(site, &wanted.parent_death_signal).map(drop)
            }),
            Step::Limit => self.leader(|site, wanted| {
                put_back::<PendingLimit, _>(site, &wanted.rlimit_sigpending).map(drop)
            }),
            Step::Masks => self.each_thread(|site, wanted| {
                put_back::<SignalMask, _>(site, &wanted.lasting_mask()).map(drop)
            }),
            Step::InterruptedCalls => {
                let mut errors = self.each_thread(put_back_call);
                errors.extend(self.injector.settle().err());
                errors
            }
            Step::GroupStop => self.leader(|site, wanted| match wanted.run_state {
                RunState::Running => Ok(()),
                stopped @ RunState::Stopped(_) => {
                    put_back::<GroupStop, _>(site, &stopped).map(drop)
                }
            }),
        }
    }

    fn private_queues(&mut self) -> Vec<Error> {
        let (process, renamed) = (self.wanted, RefCell::new(Vec::new()));
        let found = self.found;
        let errors = self.each_thread(|site, wanted| {
            let mut known = found.threads.iter();
            let known = known.find(|thread| thread.tid() == site.tid);
            let known = known.map_or(&wanted.pending, |thread| &thread.pending);
            let place = Place {
                tid: site.tid,
                queue: Queue::Private,
                thread: Some(wanted.ids.innermost()),
            };
            if PosixTimers::builds(process, place.thread) {
                return Ok(());
            }
            if dropped::numbers(process, place.thread, &wanted.pending).is_empty() {
                return Queue::Private
                    .put_back(site, known, &wanted.pending)
                    .map(drop);
            }
            let made = dropped::put_back_queue(site, process, place, known, &wanted.pending)?;
            renamed.borrow_mut().extend(made);
            Ok(())
        });
        self.say_renamed(&renamed.into_inner());
        errors
    }

    fn shared_queue(&mut self) -> Vec<Error> {
        let renamed = RefCell::new(Vec::new());
        let known = &self.found.shared;
        let errors = self.leader(|site, wanted| {
            if dropped::numbers(wanted, None, &wanted.shared).is_empty() {
                return Queue::Shared
                    .put_back(site, known, &wanted.shared)
                    .map(drop);
            }
            let place = Place {
                tid: site.tid,
                queue: Queue::Shared,
                thread: None,
            };
            let made = itimers::keeping_expired(site, |site| {
                let shared = &wanted.shared;
                dropped::put_back_queue(site, wanted, place, known, shared)
            })?;
            renamed.borrow_mut().extend(made);
            Ok(())
        });
        self.say_renamed(&renamed.into_inner());
        errors
    }

    fn say_renamed(&mut self, renamed: &[DeletedTimer]) {
        let text = |timer: &DeletedTimer| (Lost::DeletedTimer, timers::renamed(timer));
        self.lost.extend(renamed.iter().map(text));
    }

    fn timers(&mut self) -> Vec<Error> {
        let mut site = Site {
            tid: self.injector.process().leader(),
            injector: &mut *self.injector,
        };
        let (wanted, threads) = (self.wanted, self.threads);
        let lost = &mut *self.lost;
        itimers::keeping_expired(&mut site, |site| {
            Ok(PosixTimers::replay(
                site.injector,
                wanted,
                threads,
                dropped::append,
                lost,
            ))
        })
        .unwrap_or_else(|e| vec![e])
    }

    fn leader(
        &mut self,
        act: impl Fn(&mut Site<'_, '_, Owner>, &ProcessState) -> Result<()>,
    ) -> Vec<Error> {
        let tid = self.injector.process().leader();
        let mut site = Site {
            injector: &mut *self.injector,
            tid,
        };
        act(&mut site, self.wanted).err().into_iter().collect()
    }

    fn each_thread(
        &mut self,
        act: impl Fn(&mut Site<'_, '_, Owner>, &ThreadState) -> Result<()>,
    ) -> Vec<Error> {
        let mut errors = Vec::new();
        for (tid, wanted) in self.threads {
            let mut site = Site {
                injector: &mut *self.injector,
                tid: *tid,
            };
            errors.extend(act(&mut site, wanted).err().map(|e| e.in_thread(*tid)));
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: Step) -> usize {
        ORDER.iter().position(|row| row.step == step).unwrap()
    }

    #[test]
    fn what_the_kernel_forces() {
        let queues = [Step::PrivateQueues, Step::SharedQueue];
        for queue in queues {
            assert!(
                at(Step::Dispositions) < at(queue),
                "do_sigaction flushes ignored signals"
            );
            assert!(at(Step::RaiseLimit) < at(queue));
            assert!(at(queue) < at(Step::Limit));
            assert!(at(queue) < at(Step::Masks));
        }
        for queue in queues {
            assert!(
                at(queue) < at(Step::Timers),
                "a timer's entry is at its place among the others"
            );
        }
        assert!(at(Step::Dispositions) < at(Step::Timers));
        assert!(
            at(Step::Timers) < at(Step::Limit),
            "what is queued around an entry needs room"
        );
        assert!(
            at(Step::Timers) < at(Step::Masks),
            "an entry of an unblocked signal would be delivered"
        );
        assert_eq!(at(Step::BlockAll), 0);
        assert!(at(Step::AlternateStacks) < at(Step::Masks));
        assert!(at(Step::Masks) < at(Step::GroupStop));
        assert!(at(Step::InterruptedCalls) < at(Step::GroupStop));
    }

    #[test]
    fn a_step_is_moved() {
        use Step::{BlockAll, Dispositions, Masks};
        let moved = |text| moved::moved(vec![BlockAll, Dispositions, Masks], text);
        assert_eq!(
            moved("BlockAll behind Masks"),
            Some(vec![Dispositions, Masks, BlockAll])
        );
        assert_eq!(
            moved("Masks before BlockAll"),
            Some(vec![Masks, BlockAll, Dispositions])
        );
        for bad in [
            "Masks",
            "Masks before",
            "Masks before Masks",
            "Masks at BlockAll",
        ] {
            assert_eq!(moved(bad), None, "{bad}");
        }
    }

    #[test]
    fn each_step_once() {
        for row in ORDER {
            assert_eq!(
                ORDER.iter().filter(|other| other.step == row.step).count(),
                1
            );
        }
    }

    /// What the documents call a step.
    fn title(step: Step) -> &'static str {
        match step {
            Step::BlockAll => "all signals blocked in every thread",
            Step::Dispositions => "dispositions",
            Step::RaiseLimit => "RLIMIT_SIGPENDING raised",
            Step::PrivateQueues => "private queues",
            Step::SharedQueue => "the shared queue",
            Step::Timers => "POSIX timers",
            Step::AlternateStacks => "alternate stacks",
            Step::ParentDeathSignals => "parent-death signals",
            Step::Limit => "RLIMIT_SIGPENDING as captured",
            Step::Masks => "masks",
            Step::InterruptedCalls => "interrupted system calls",
            Step::GroupStop => "the group stop",
        }
    }

    #[test]
    fn the_documents_show_this_order() {
        let shown = |document: &str, before: &str, after: &str| {
            ORDER.map(|row| document.find(&format!("{before}{}{after}", title(row.step))))
        };
        for places in [
            shown(include_str!("../../docs/order.md"), "\n| ", " |"),
            shown(include_str!("../../docs/order.svg"), ">", "<"),
        ] {
            assert!(
                places.iter().all(Option::is_some) && places.is_sorted(),
                "{places:?}"
            );
        }
    }
}
