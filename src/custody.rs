//! Custody: pending signals that are taken out of a process for the time of a dump, because CRIU could not cope
//! with them, and put back exactly.
//!
//! The rule is that what is taken out is never lost. It is written down before, a guardian watches, and whatever
//! ends the dump, it goes back.

use std::time::Duration;

use criu_signals_images::{Pending, Pid, ProcessState, SigNo, SigSet, Siginfo, TakenOut, Tid};

use crate::capture;

use crate::error::{Error, Phase, Result};
use crate::guardian::{self, Guardian};
use crate::proc::{self, SignalStatus};
use crate::restore;
use crate::state::{Queue, Site};
use crate::tracee::{ByUs, Injector, StoppedProcess};

/// Entries that are read, written down and taken out at a time. Reading n of them at the head of a queue takes
/// n * n / 2 steps, whatever the queue's length.
const CHUNK: usize = 512;

/// `si_code` of an entry that belongs to a POSIX timer. Taken out, the kernel's own entry would be lost for good:
/// what is queued in its stead neither re-arms the timer nor counts overruns (posixtimer_rearm).
const SI_TIMER: i32 = -2;

/// How long a thread may take to stop before CRIU seizes it.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// When signals are taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A queue of more entries than this is deep.
    pub deep: usize,
    /// How many further siginfos RLIMIT_SIGPENDING must leave room for.
    pub headroom: u64,
}

impl Default for Limits {
    /// The depth is where CRIU's way becomes the slower one on the machine of `docs/deep-queues.md`.
    fn default() -> Self {
        Limits {
            deep: 1_000,
            headroom: 1_024,
        }
    }
}

/// Whether CRIU cannot cope with what is pending, and why. Nothing is taken out of a process for which this is
/// empty. `deep` says that a queue is longer than `state` knows.
pub fn reasons(state: &ProcessState, deep: bool, limits: &Limits) -> Vec<TakenOut> {
    let mut reasons = Vec::new();
    let queues = || {
        state
            .threads
            .iter()
            .map(|t| &t.pending)
            .chain([&state.shared])
    };
    let own: usize = queues().map(|p| p.queue.len()).sum();
    if state
        .threads
        .iter()
        .any(|t| t.pending.queue.iter().any(is_fault))
    {
        reasons.push(TakenOut::Fault);
    }
    // Every entry counts against the limit of its process, together with all others of the same user.
    let room = state.rlimit_sigpending.soft.saturating_sub(own as u64);
    if own > 0 && room < limits.headroom {
        reasons.push(TakenOut::Limit);
    }
    if deep || own > limits.deep {
        reasons.push(TakenOut::Deep);
    }
    reasons
}

/// A signal of the kernel's for a fault of this thread. Such a one is taken for the fault of what CRIU runs inside
/// the thread, which stops by a trap (`SYNCHRONOUS_MASK`, kernel/signal.c: delivered before all others).
fn is_fault(info: &Siginfo) -> bool {
    let synchronous = [
        SigNo::SEGV,
        SigNo::BUS,
        SigNo::ILL,
        SigNo::TRAP,
        SigNo::FPE,
        SigNo::SYS,
    ];
    info.code() > 0 && SigNo::new(info.signo()).is_some_and(|signo| synchronous.contains(&signo))
}

/// Is a SIGTRAP pending for the process or one of its threads?
///
/// # Errors
/// If the process is gone.
pub fn trap_is_pending(pid: Pid) -> Result<bool> {
    for tid in proc::threads(pid)? {
        let status = SignalStatus::read(pid, tid)?;
        if status
            .pending
            .union(status.shared_pending)
            .contains(SigNo::TRAP)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Signals in custody: those of one process.
#[derive(Debug)]
pub struct Custody {
    /// The whole state, as it was before anything was taken out.
    state: ProcessState,
    /// The same, with those pending signals only that may have been taken out: what the guardian knows.
    taken: ProcessState,
    guardian: Guardian,
}

impl Custody {
    /// Takes everything that is pending out of `stopped`, but for the entries of POSIX timers.
    ///
    /// `state` is what was captured; with `deep` it has no queue entries, and they are found on the way. In the
    /// latter case they are in the guardian's hands before they are taken out, else they have to be on disk.
    ///
    /// # Errors
    /// If anything could not be taken out. What has been is back then, or the error says that it is not and the
    /// guardian has it when this process ends.
    pub fn take<Owner>(
        stopped: &StoppedProcess<Owner>,
        state: ProcessState,
        deep: bool,
        others: &[&Custody],
    ) -> Result<Custody> {
        let others: Vec<&Guardian> = others.iter().map(|other| &other.guardian).collect();
        let inner = || {
            let mut taken = state.clone();
            if deep {
                for pending in queues_of(&mut taken) {
                    *pending = Pending::default();
                }
            }
            let guardian = Guardian::start(stopped.pid(), &taken, &others)?;
            let mut custody = Custody {
                state,
                taken,
                guardian,
            };
            match custody.take_all(stopped, deep) {
                Ok(()) => Ok(custody),
                Err(e) => Err(match custody.give_back(stopped) {
                    Ok(_) => e,
                    Err(worse) => worse,
                }),
            }
        };
        inner().map_err(|e: Error| e.during(Phase::Capture, stopped.pid()))
    }

    /// Takes a pending SIGTRAP out of a process that nobody has stopped yet: CRIU refuses to seize one that has it.
    ///
    /// # Errors
    /// If the process could not be stopped, or the signal not be taken out: it is then still there, or the error
    /// says otherwise and the guardian has it when this process ends.
    pub fn take_trap(pid: Pid, others: &[&Custody]) -> Result<Custody> {
        let inner = || {
            let stopped = StoppedProcess::<ByUs>::seize(pid, STOP_TIMEOUT)?;
            let custody = Custody::take_trap_of(&stopped, others);
            stopped.release()?;
            custody
        };
        inner().map_err(|e: Error| e.during(Phase::Capture, pid))
    }

    fn take_trap_of(stopped: &StoppedProcess<ByUs>, others: &[&Custody]) -> Result<Custody> {
        let (mut taken, _) = capture::unless_deeper(stopped, 0)?;
        let mut injector = Injector::new(stopped)?;
        let mut places: Vec<_> = stopped
            .threads()
            .iter()
            .map(|&tid| (tid, Queue::Private))
            .collect();
        places.push((stopped.leader(), Queue::Shared));
        for (&(tid, queue), pending) in places.iter().zip(queues_of(&mut taken)) {
            let site = Site {
                injector: &mut injector,
                tid,
            };
            *pending = queue.only(&site, SigNo::TRAP)?;
        }
        let others: Vec<&Guardian> = others.iter().map(|other| &other.guardian).collect();
        let guardian = Guardian::start(stopped.pid(), &taken, &others)?;
        let mut custody = Custody {
            state: taken.clone(),
            taken,
            guardian,
        };
        let mut take = || {
            for (&(tid, queue), pending) in places.iter().zip(queues_of(&mut custody.taken)) {
                let mut site = Site {
                    injector: &mut injector,
                    tid,
                };
                queue.take_out(&mut site, &pending.queue)?;
                queue.take_out_bits(&mut site, pending.bits_without_info())?;
            }
            Ok(())
        };
        let taken = take();
        injector.finish()?;
        match taken {
            Ok(()) => Ok(custody),
            Err(e) => Err(match custody.give_back(stopped) {
                Ok(_) => e,
                Err(worse) => worse,
            }),
        }
    }

    /// Adds what is in custody to the state of the same process, captured later.
    pub fn add_to(&self, state: &mut ProcessState) {
        let mut taken = self.taken.clone();
        let taken: Vec<Pending> = queues_of(&mut taken).map(std::mem::take).collect();
        let tids: Vec<Option<Tid>> = self
            .taken
            .threads
            .iter()
            .map(|t| Some(t.tid()))
            .chain([None])
            .collect();
        for (tid, mut pending) in tids.into_iter().zip(taken) {
            let into = match tid {
                None => Some(&mut state.shared),
                Some(tid) => state
                    .threads
                    .iter_mut()
                    .find(|t| t.tid() == tid)
                    .map(|t| &mut t.pending),
            };
            if let Some(into) = into {
                into.bits = into.bits.union(pending.bits);
                pending.queue.append(&mut into.queue);
                into.queue = pending.queue;
            }
        }
    }

    /// The state as it was before.
    pub fn state(&self) -> &ProcessState {
        &self.state
    }

    fn take_all<Owner>(&mut self, stopped: &StoppedProcess<Owner>, deep: bool) -> Result<()> {
        let mut injector = Injector::new(stopped)?;
        for &tid in stopped.threads() {
            let mut site = Site {
                injector: &mut injector,
                tid,
            };
            self.empty(&mut site, Queue::Private, deep)
                .map_err(|e| e.in_thread(tid))?;
        }
        let mut site = Site {
            injector: &mut injector,
            tid: stopped.leader(),
        };
        self.empty(&mut site, Queue::Shared, deep)?;
        if deep {
            let found = queues_of(&mut self.taken).map(|pending| pending.queue.clone());
            let found: Vec<_> = found.collect();
            for (pending, queue) in queues_of(&mut self.state).zip(found) {
                pending.queue = queue;
            }
        }
        injector.finish()
    }

    /// Takes out what one queue holds, from its head, piece by piece.
    fn empty<Owner>(
        &mut self,
        site: &mut Site<'_, '_, Owner>,
        queue: Queue,
        deep: bool,
    ) -> Result<()> {
        // rt_sigtimedwait looks at the private queue first.
        let out_of_reach = match queue {
            Queue::Private => SigSet::EMPTY,
            Queue::Shared => SignalStatus::read(site.pid(), site.tid)?.pending,
        };
        let mut left_in = 0;
        loop {
            let chunk = queue.peek(site, left_in, CHUNK)?;
            if chunk.is_empty() {
                return Ok(());
            }
            // A number of which anything stays, stays as a whole: only the order among equals can be told.
            let mut stay = out_of_reach;
            stay.extend(
                chunk
                    .iter()
                    .filter(|info| info.code() == SI_TIMER)
                    .filter_map(number),
            );
            let go: Vec<Siginfo> = chunk
                .iter()
                .filter(|info| number(info).is_some_and(|signo| !stay.contains(signo)))
                .copied()
                .collect();
            left_in += chunk.len() - go.len();
            if deep {
                self.guardian.hold(queue, site.tid, &chunk)?;
                guardian::hold(&mut self.taken, queue, site.tid, &chunk);
            } else {
                self.guardian.check()?;
            }
            queue.take_out(site, &go)?;
        }
    }

    /// Puts everything back, in its order and before what has arrived since, and sends the guardian home. Returns
    /// how many siginfos were put back.
    ///
    /// # Errors
    /// If something could not be put back: then the guardian tries when this process has ended.
    pub fn give_back<Owner>(self, stopped: &StoppedProcess<Owner>) -> Result<usize> {
        let count = restore::give_back(stopped, &self.taken)?;
        if let Err(e) = self.guardian.dismiss() {
            log::warn!(
                "pid {}: all is put back, but the guardian was gone: {e}",
                stopped.pid()
            );
        }
        Ok(count)
    }
}

fn queues_of(state: &mut ProcessState) -> impl Iterator<Item = &mut Pending> {
    let private = state.threads.iter_mut().map(|t| &mut t.pending);
    private.chain([&mut state.shared])
}

fn number(info: &Siginfo) -> Option<SigNo> {
    SigNo::new(info.signo())
}
