//! Custody: pending signals that the plugin takes out of a process for the duration of a dump, because CRIU cannot
//! handle them, and puts back exactly.
//!
//! A signal that is taken out is never lost: before the signal leaves its queue, it is in an image on the disk or in
//! the memory of the guardian, and it goes back however the dump ends.

use std::time::{Duration, Instant};

use criu_signals_images::{
    Notify, Pending, Pid, ProcessState, Rlimit, SigNo, SigSet, Siginfo, TakenOut, ThreadState, Tid,
};

use crate::checkpoint::guardian::{self, Guardian};
use crate::engine::capture::{self, Entries};
use crate::engine::repair;
use crate::error::{Cause, Error, Phase, Result};
use crate::fault::{self, Point};
use crate::image_folder::OnDisk;
use crate::proc::{self, SignalStatus};
use crate::process::pidfd::PidFd;
use crate::state::queues::{
    Dropped, StillIn, is_fault, is_timers, only_by_timer, stays_beside_timer,
};
use crate::state::{PendingLimit, Queue, Site, dropped, itimers};
use crate::tracee::reentry::EndedCall;
use crate::tracee::shield::LostMask;
use crate::tracee::{Budget, ByUs, Injector, StoppedProcess, rlimit};

/// How many entries are read, written down and taken out at a time. Reading n entries at the head of a queue takes n * n /
/// 2 steps, whatever the length of the queue.
const CHUNK: usize = 512;

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
    /// CRIU's dump of a queue is quadratic. Up to about 1,500 entries it takes no longer than to take the entries out and
    /// put them back; docs/deep-queues.md has the figures.
    fn default() -> Self {
        Limits {
            deep: 1_500,
            headroom: 1_024,
        }
    }
}

/// What has to be done about the pending signals of a process for the duration of a dump. Mostly nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Why the signals have to be taken out; empty if they stay in.
    pub take_out: Vec<TakenOut>,
    /// CRIU's image gets a larger RLIMIT_SIGPENDING, so that CRIU can queue the signals that stay in, and create the POSIX
    /// timers. The restore sets the right limit.
    pub lend_room: bool,
}

/// How many siginfos may arrive while others are taken out, without keeping those from going back.
const ARRIVALS: u64 = 64;

/// The pending signals of this process that CRIU cannot handle. `entries` is what `state` knows of the entries, `may_raise`
/// whether hard limits can be raised (CAP_SYS_RESOURCE), `has_hidden_fault` whether an entry for a fault is in a private
/// queue that was not read. Both functions are called only if the plan depends on them.
///
/// # Errors
/// Those of `may_raise` and `has_hidden_fault`. If signals have to be taken out that could not be put back:
/// RLIMIT_SIGPENDING has no room for the signals that are queued now, or an entry for a fault is beside a timer's entry of
/// the same number.
pub fn plan(
    state: &ProcessState,
    entries: Entries,
    limits: &Limits,
    may_raise: impl FnOnce() -> Result<bool>,
    has_hidden_fault: impl FnOnce() -> Result<bool>,
) -> Result<Plan> {
    let deep = entries == Entries::Unread;
    let own: usize = state.queues().map(|pending| pending.queue.len()).sum();
    // CRIU takes such an entry for a fault of the code that CRIU runs inside the thread, which stops by a trap.
    let is_fault = |t: &ThreadState| t.pending.queue.iter().any(is_fault);
    let fault = state.threads.iter().any(is_fault);
    let threads = state.threads.iter();
    if let Some(info) = threads
        .flat_map(|t| stays_beside_timer(&t.pending.queue))
        .next()
    {
        return Err(only_by_timer(info));
    }
    // Every entry counts against the limit of its process, together with all other entries of the same user.
    let counted = if deep { state.queued } else { own as u64 };
    // So does every POSIX timer, from timer_create(2) on: the entry is allocated with it (posixtimer_init_sigqueue).
    let timers = state.timers.len() as u64;
    let room = state.rlimit_sigpending.soft.saturating_sub(counted);
    let room = room.saturating_sub(if deep { 0 } else { timers });
    let low = counted > 0 && room < limits.headroom;
    let low_for_timers = timers > 0 && room < limits.headroom;
    let is_deep = deep || own > limits.deep;
    if !(fault || low || low_for_timers || is_deep) {
        return Ok(Plan::default());
    }
    let may_raise = may_raise()?;
    let can_put_back = may_raise || has_room(state.queued, state.rlimit_sigpending.hard);
    // A deep queue that can be put back is taken out whole, and its faults with the rest.
    if !can_put_back && (fault || (deep && has_hidden_fault()?)) {
        return Err(no_room(&TakenOut::Fault, state.rlimit_sigpending));
    }
    let mut plan = Plan {
        take_out: Vec::new(),
        lend_room: (low && !may_raise) || low_for_timers,
    };
    if fault {
        plan.take_out.push(TakenOut::Fault);
    }
    if low && may_raise {
        plan.take_out.push(TakenOut::Limit);
    }
    if (deep || (is_deep && few_stay(state, limits.deep))) && can_put_back {
        plan.take_out.push(TakenOut::Deep);
    }
    Ok(plan)
}

/// Are there few enough entries that stay because a timer's entry has their number? Among more of them other entries could
/// not be put back in less time than CRIU takes to read all.
fn few_stay(state: &ProcessState, most: usize) -> bool {
    let staying = |pending: &Pending| {
        let stay = timers_numbers(pending);
        let queue = pending.queue.iter();
        let stays = |info: &&Siginfo| number(info).is_some_and(|signo| stay.contains(signo));
        queue.filter(stays).count()
    };
    state.queues().map(staying).sum::<usize>() <= most
}

fn has_room(queued: u64, hard: u64) -> bool {
    queued.saturating_add(ARRIVALS) <= hard
}

fn no_room(why: &TakenOut, limit: Rlimit) -> Error {
    Error::new(
        "take out pending signals",
        Cause::Unsupported(
            format!(
                "{why}: criu cannot handle this state, and signals that are taken out could not be put back under \
                 RLIMIT_SIGPENDING {limit}: raise the hard limit, or run criu with CAP_SYS_RESOURCE"
            )
            .into(),
        ),
    )
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

/// Where pending signals are kept before they are taken out, so that no signal is lost if criu dies. A signal that is in
/// neither place is not taken out.
#[derive(Clone, Copy, Debug)]
pub enum Safe<'d> {
    /// In the image of their process.
    OnDisk(&'d OnDisk),
    /// In the memory of the guardian, piece by piece: the queue is too deep to be read before.
    WithGuardian,
}

impl Safe<'_> {
    fn entries(self) -> Entries {
        match self {
            Safe::OnDisk(_) => Entries::Known,
            Safe::WithGuardian => Entries::Unread,
        }
    }
}

/// The losses of a stop that this library, not CRIU, has made.
#[derive(Debug, Default)]
pub struct Lost {
    /// Of calls.
    pub masks: Vec<LostMask>,
    /// That have ended.
    pub calls: Vec<EndedCall>,
}

/// Signals in custody: those of one process.
#[derive(Debug)]
pub struct Custody {
    /// The whole state, as it was before anything was taken out.
    state: ProcessState,
    /// The state that the guardian knows: the same, with only those pending signals that may have been taken out, and
    /// without timers, which keep their own entries all the time.
    taken: ProcessState,
    guardian: Guardian,
    /// Has the process been stopped ever since?
    is_stopped: bool,
    /// What else the taking out has changed.
    changes: Vec<String>,
    /// The signals that are out of the process and in no other custody, as soon as all that can be taken out are out.
    out: Out,
    /// Where taking out has failed.
    failed: Option<Failed>,
}

/// A queue that could not be emptied.
#[derive(Debug)]
struct Failed {
    queue: Queue,
    tid: Tid,
    /// The entries of the last piece that are still in the queue.
    still_in: StillIn,
}

/// See [`Custody::out`].
#[derive(Debug)]
enum Out {
    /// A part of the signals: all entries of some numbers stay in.
    These(Box<ProcessState>),
    /// All of [`Custody::taken`].
    AllTaken,
    /// Some of the signals may still be in the process, or again.
    Unknown,
}

impl Out {
    /// None yet of the signals in `taken`.
    fn these_of(taken: &ProcessState) -> Out {
        let mut out = Box::new(taken.clone());
        out.queues_mut()
            .for_each(|pending| *pending = Pending::default());
        Out::These(out)
    }
}

impl Custody {
    /// Takes everything that is pending out of `stopped`, but for the entries of timers.
    ///
    /// `state` is the captured state, and `safe` the place where it is kept. `earlier` has the signals of this process that
    /// are in custody already.
    ///
    /// # Errors
    /// If a signal could not be taken out. The signals that were taken out are back then; otherwise the error says so, and
    /// the guardian puts them back when this process ends.
    pub fn take<Owner>(
        stopped: &StoppedProcess<Owner>,
        state: ProcessState,
        safe: Safe<'_>,
        earlier: &[Custody],
    ) -> Result<Custody> {
        let entries = safe.entries();
        let inner = || {
            let mut taken = ProcessState {
                timers: Vec::new(),
                ..state.clone()
            };
            for pending in taken.queues_mut() {
                match entries {
                    // Found on the way.
                    Entries::Unread => *pending = Pending::default(),
                    Entries::Known => {
                        let stay = timers_numbers(pending);
                        without(pending, stay);
                    }
                }
            }
            without(&mut taken.shared, itimers::armed_by_taking(&state));
            if entries == Entries::Unread {
                // So that all signals go back in one order, whichever custody puts them back first.
                earlier
                    .iter()
                    .for_each(|custody| custody.add_to(&mut taken));
            }
            let guardian = Guardian::start(stopped.pid(), &taken, guardian::depth(stopped)?)?;
            let out = match entries {
                Entries::Unread => Out::AllTaken,
                // The signals in another custody have their places among these.
                Entries::Known if !earlier.is_empty() => Out::Unknown,
                Entries::Known => Out::these_of(&taken),
            };
            let mut custody = Custody {
                state,
                taken,
                guardian,
                is_stopped: true,
                changes: Vec::new(),
                out,
                failed: None,
            };
            let started = fault::point(Point::GuardianStarted);
            match started.and_then(|()| custody.take_all(stopped, entries)) {
                Ok(()) => Ok(custody),
                Err(e) => Err(match custody.undo(stopped) {
                    Ok(()) => e,
                    Err(worse) => worse,
                }),
            }
        };
        inner().map_err(|e: Error| e.during(Phase::Capture, stopped.pid()))
    }

    /// Takes a pending SIGTRAP out of a process that is not stopped yet: CRIU refuses to seize a process with a pending
    /// SIGTRAP.
    ///
    /// # Errors
    /// If the process could not be stopped, or the signal not be taken out. The signal is still pending then; otherwise the
    /// error says so, and the guardian puts it back when this process ends. `lost` gets the state that the stop loses, also
    /// with an error.
    pub fn take_trap(pid: Pid, lost: &mut Lost) -> Result<Custody> {
        let mut inner = || {
            let limit = rlimit::sigpending(pid)?;
            let queued = SignalStatus::read(pid, Tid::from(pid))?.queued;
            if !has_room(queued, limit.hard) && !proc::may_raise_limits()? {
                return Err(no_room(&TakenOut::Trap, limit));
            }
            let was_stopped = proc::is_stopped(pid, Tid::from(pid))?;
            let stopped = StoppedProcess::<ByUs>::seize(pid, STOP_TIMEOUT)?.assume_calls();
            let threads = stopped.threads().to_vec();
            lost.calls.extend_from_slice(stopped.ended_calls());
            lost.masks.extend(stopped.lost_masks()?);
            let custody = Custody::take_trap_of(&stopped);
            // The threads are released all the same, and the signals in custody must not be lost for that.
            if let Err(e) = stopped.release() {
                log::warn!("{e}");
            }
            if was_stopped {
                // If CRIU seized the process before it has stopped, the process would trap once and not twice, and CRIU
                // waits for the second trap. If the process has been continued meanwhile, CRIU waits for no trap.
                proc::wait_stopped(pid, &threads, Instant::now() + STOP_TIMEOUT)?;
            }
            custody
        };
        inner().map_err(|e: Error| e.during(Phase::Capture, pid))
    }

    fn take_trap_of(stopped: &StoppedProcess<ByUs>) -> Result<Custody> {
        let mut places: Vec<_> = stopped
            .threads()
            .iter()
            .map(|&tid| (tid, Queue::Private))
            .collect();
        places.push((stopped.leader(), Queue::Shared));
        // No code runs in the process for that. If SIGTRAP can't be taken out, the process was stopped for a moment, as
        // CRIU itself would have done.
        let traps = places
            .iter()
            .map(|&(tid, queue)| queue.trap(stopped.pid(), tid));
        let traps = traps.collect::<Result<Vec<_>>>()?;
        let (before, entries) = capture::unless_deeper(stopped, CHUNK)?;
        let mut taken = before.clone();
        taken.timers.clear();
        for (pending, trap) in taken.queues_mut().zip(traps) {
            *pending = trap;
        }
        let mut injector = Injector::new(stopped)?;
        // A bit goes back under a limit that leaves no room for a siginfo.
        if taken
            .queues()
            .any(|pending| !pending.bits_without_info().is_empty())
        {
            PendingLimit::try_out(&mut Site {
                injector: &mut injector,
                tid: stopped.leader(),
            })?;
        }
        let guardian = Guardian::start(stopped.pid(), &taken, guardian::depth(stopped)?)?;
        let mut custody = Custody {
            state: taken.clone(),
            taken,
            guardian,
            is_stopped: false,
            changes: Vec::new(),
            out: Out::Unknown,
            failed: None,
        };
        let mut take = || {
            for (&(tid, queue), pending) in places.iter().zip(custody.taken.queues_mut()) {
                let mut site = Site {
                    injector: &mut injector,
                    tid,
                };
                fault::point(Point::TakingOut)?;
                queue.take_out(&mut site, &pending.queue)?;
                queue.take_out_bits(&mut site, pending.bits_without_info())?;
                fault::point(Point::TakenOut)?;
            }
            Ok(())
        };
        let taken = fault::point(Point::GuardianStarted).and_then(|()| take());
        let cleared = injector.finish();
        let whole = || fault::point(Point::CustodyWhole);
        match taken.and(cleared).and_then(|()| whole()) {
            Ok(()) => {
                custody.changes = changes_but_trap(stopped, before, &custody.taken, entries);
                Ok(custody)
            }
            Err(e) => Err(match custody.give_back(stopped) {
                Ok(_) => e,
                Err(worse) => worse,
            }),
        }
    }

    /// The process whose signals these are.
    pub fn held(&self) -> &PidFd {
        self.guardian.held()
    }

    /// What else the taking out has changed in the process, in words. Each is an error.
    pub fn changes(&self) -> &[String] {
        &self.changes
    }

    /// The state as it was before, of a process that has been stopped ever since.
    pub fn state_while_stopped(&self) -> Option<&ProcessState> {
        self.is_stopped.then_some(&self.state)
    }

    /// Adds the signals in custody to the state of the same process, captured later.
    pub fn add_to(&self, state: &mut ProcessState) {
        let mut taken = self.taken.clone();
        let taken: Vec<Pending> = taken.queues_mut().map(std::mem::take).collect();
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

    fn take_all<Owner>(&mut self, stopped: &StoppedProcess<Owner>, entries: Entries) -> Result<()> {
        let mut injector = Injector::new(stopped)?;
        for &tid in stopped.threads() {
            let mut site = Site {
                injector: &mut injector,
                tid,
            };
            self.empty(&mut site, Queue::Private, entries)
                .map_err(|e| e.in_thread(tid))?;
        }
        let mut site = Site {
            injector: &mut injector,
            tid: stopped.leader(),
        };
        self.empty(&mut site, Queue::Shared, entries)?;
        injector.finish()?;
        fault::point(Point::CustodyWhole)
    }

    /// Takes the entries out of one queue, from its head, piece by piece.
    fn empty<Owner>(
        &mut self,
        site: &mut Site<'_, '_, Owner>,
        queue: Queue,
        entries: Entries,
    ) -> Result<()> {
        let stay = self.numbers_that_stay(site, queue, entries)?;
        let tid = site.tid;
        let mut left_in = 0;
        // Signals that arrive meanwhile stand at the end and are left to CRIU: otherwise a process that keeps sending would
        // prevent the end of this loop.
        let mut left = queue.depth(site)?;
        // Signals that have arrived since the capture are in no image, and are left to CRIU as well.
        let captured = self.captured(queue, tid, entries).map(<[Siginfo]>::to_vec);
        let mut captured = captured.as_deref();
        let thread = guardian::thread_of(&self.state, queue, tid);
        let (state, mut begun) = (without_queues(&self.state), false);
        let may_be_dropped = |info: &Siginfo| {
            entries == Entries::Unread && dropped::may_be_left(&state, thread, info)
        };
        let mut still_in = StillIn::These(Vec::new());
        let next = |dropped: Dropped<'_>| {
            if std::mem::replace(&mut begun, true) {
                left = left.saturating_sub(dropped.instead.len());
                self.note_dropped(queue, tid, dropped)?;
                fault::point(Point::TakenOut)?;
            }
            let goes = |info: &Siginfo| number(info).is_some_and(|signo| !stay.contains(signo));
            loop {
                // To search a long queue for a missing entry takes as long as to read all of the queue.
                if captured.is_some_and(|rest| !rest.iter().any(goes)) {
                    return Ok(Vec::new());
                }
                let mut chunk = queue.peek(tid, left_in, CHUNK.min(left))?;
                left -= chunk.len();
                if let Some(captured) = &mut captured {
                    chunk.truncate(before_first_arrival(captured, &chunk));
                }
                if chunk.is_empty() {
                    return Ok(chunk);
                }
                let go: Vec<Siginfo> = chunk.iter().filter(|info| goes(info)).copied().collect();
                left_in += chunk.len() - go.len();
                // In a deep queue such an entry is found on the way; see `plan`.
                let stays = |info: &&Siginfo| {
                    let number = number(info);
                    is_fault(info) && number.is_some_and(|signo| stay.contains(signo))
                };
                if let (Queue::Private, Some(info)) = (queue, chunk.iter().find(stays)) {
                    return Err(only_by_timer(info));
                }
                self.about_to_take(queue, tid, entries, &chunk, &go)?;
                if !go.is_empty() {
                    return Ok(go);
                }
            }
        };
        let taken = queue.take_out_in_pieces(site, next, may_be_dropped, &mut still_in);
        if taken.is_err() {
            self.failed = Some(Failed {
                queue,
                tid,
                still_in,
            });
        }
        taken
    }

    /// Tells the guardian, and notes the entries that are out from here on.
    fn about_to_take(
        &mut self,
        queue: Queue,
        tid: Tid,
        entries: Entries,
        chunk: &[Siginfo],
        go: &[Siginfo],
    ) -> Result<()> {
        match entries {
            Entries::Unread => self.guardian.hold(queue, tid, go)?,
            Entries::Known => self.guardian.check()?,
        }
        fault::point(Point::TakingOut)?;
        if entries == Entries::Unread {
            guardian::hold(&mut self.taken, queue, tid, go);
            guardian::hold(&mut self.state, queue, tid, chunk);
        } else if let Out::These(out) = &mut self.out {
            guardian::hold(out, queue, tid, go);
        }
        Ok(())
    }

    /// Entries of deleted timers: they go back as such.
    fn note_dropped(&mut self, queue: Queue, tid: Tid, dropped: Dropped<'_>) -> Result<()> {
        let Dropped { gone, instead } = dropped;
        if gone.is_empty() {
            return Ok(());
        }
        guardian::hold(&mut self.taken, queue, tid, instead);
        guardian::hold(&mut self.state, queue, tid, instead);
        if !instead.is_empty() {
            self.guardian.hold(queue, tid, instead)?;
        }
        guardian::dropped(&mut self.taken, queue, tid, gone);
        guardian::dropped(&mut self.state, queue, tid, gone);
        self.guardian.dropped(queue, tid, gone)
    }

    /// The captured entries of the queue, if the queue was captured.
    fn captured(&self, queue: Queue, tid: Tid, entries: Entries) -> Option<&[Siginfo]> {
        if entries == Entries::Unread {
            return None;
        }
        let pending = match queue {
            Queue::Shared => Some(&self.state.shared),
            Queue::Private => {
                let mut threads = self.state.threads.iter();
                threads.find(|t| t.tid() == tid).map(|t| &t.pending)
            }
        };
        Some(pending.map_or(&[], |pending| &pending.queue))
    }

    /// The numbers that are not taken out of this queue, known before the first entry is taken out. If an entry of a number
    /// stays, all entries of the number stay, because the order among entries of one number can be observed.
    fn numbers_that_stay<Owner>(
        &self,
        site: &Site<'_, '_, Owner>,
        queue: Queue,
        entries: Entries,
    ) -> Result<SigSet> {
        let (pid, tid) = (site.pid(), site.tid);
        let status = || SignalStatus::read(pid, tid);
        let mut stay = match (queue, entries) {
            // rt_sigtimedwait looks at the private queue first.
            (Queue::Shared, _) => status()?
                .pending
                .union(itimers::armed_by_taking(&self.state)),
            (Queue::Private, Entries::Unread) => {
                let status = status()?;
                self.gives_shared(site, status.pending.intersection(status.shared_pending))?
            }
            (Queue::Private, Entries::Known) => SigSet::EMPTY,
        };
        if entries == Entries::Unread {
            // The place of a timer's entry in the queue is not known without reading the whole queue.
            let timers = proc::timers(pid)?.into_iter();
            let of_queue = timers.filter(|timer| match timer.notify {
                Notify::Nobody => false,
                Notify::Thread(of) => queue == Queue::Private && of == tid.get(),
                Notify::Process | Notify::Library => queue == Queue::Shared,
            });
            stay.extend(of_queue.filter_map(|timer| SigNo::new(timer.signo)));
        } else {
            let pending = match queue {
                Queue::Shared => Some(&self.state.shared),
                Queue::Private => self
                    .state
                    .threads
                    .iter()
                    .find(|thread| thread.tid() == tid)
                    .map(|thread| &thread.pending),
            };
            stay.extend(pending.map_or(SigSet::EMPTY, timers_numbers).iter());
        }
        Ok(stay)
    }

    /// Of `both`, which are pending for the thread and for the process: those of which the thread may have the entry of
    /// a deleted timer. If the thread dequeues such a number, the kernel drops that entry and returns the first entry of
    /// the shared queue.
    fn gives_shared<Owner>(&self, site: &Site<'_, '_, Owner>, both: SigSet) -> Result<SigSet> {
        let mut found = SigSet::EMPTY;
        if both.is_empty() {
            return Ok(found);
        }
        let tid = site.tid;
        let thread = guardian::thread_of(&self.state, Queue::Private, tid);
        let depth = Queue::Private.depth(site)?;
        for from in (0..depth).step_by(CHUNK) {
            let chunk = Queue::Private.peek(tid, from, CHUNK.min(depth - from))?;
            let left = chunk
                .iter()
                .filter(|info| dropped::may_be_left(&self.state, thread, info))
                .filter_map(number);
            found.extend(left.filter(|&signo| both.contains(signo)));
        }
        Ok(found)
    }

    /// After a failure, if the process has been stopped all the time: puts back the signals that are out, or all signals
    /// that were seen in its queues if it is not known which are out. Then the guardian exits.
    fn undo<Owner>(mut self, stopped: &StoppedProcess<Owner>) -> Result<()> {
        let _undo = Budget::of_undo();
        self.begin_to_give_back(stopped.pid());
        let failed = self.failed.take();
        let out = match &self.out {
            Out::These(out) => Some(out.as_ref()),
            Out::AllTaken => Some(&self.taken),
            Out::Unknown => None,
        };
        match out.and_then(|out| but_for(out, failed)) {
            // Entries that are still in the queue may be equal to entries that are out.
            Some(out) => repair::give_back_all(stopped, &out, None)?,
            None => repair::give_back(stopped, &self.seen())?,
        };
        self.dismiss(stopped.pid());
        Ok(())
    }

    /// From here on signals are put back. A guardian that has died is named at the end.
    fn begin_to_give_back(&mut self, pid: Pid) {
        if let Err(e) = self.guardian.returning() {
            log::debug!("pid {pid}: {e}");
        }
    }

    fn seen(&self) -> ProcessState {
        let mut seen = ProcessState {
            timers: Vec::new(),
            ..self.state.clone()
        };
        for pending in seen.queues_mut() {
            // Bits without siginfo are not taken out. Of a deep queue those of entries that have not been read are here too.
            pending.bits = pending.queued();
        }
        seen
    }

    /// Puts all signals back, in their order and before the signals that have arrived since. Then the guardian exits.
    /// Returns how many siginfos were put back.
    ///
    /// # Errors
    /// If a signal could not be put back: then the guardian tries when this process has ended.
    pub fn give_back<Owner>(mut self, stopped: &StoppedProcess<Owner>) -> Result<usize> {
        fault::point(Point::GivingBack)?;
        self.begin_to_give_back(stopped.pid());
        let count = match &self.out {
            Out::These(out) => repair::give_back_all(stopped, out, None)?,
            Out::AllTaken => repair::give_back_all(stopped, &self.taken, None)?,
            Out::Unknown => repair::give_back(stopped, &self.taken)?,
        };
        fault::point(Point::GivenBack)?;
        self.dismiss(stopped.pid());
        Ok(count)
    }

    fn dismiss(self, pid: Pid) {
        if let Err(e) = self.guardian.dismiss() {
            log::warn!("pid {pid}: all signals are put back, but the guardian had died: {e}");
        }
    }
}

/// The signals that are out after a failure: all of `out` but those still in their queue. `None`: not known.
fn but_for(out: &ProcessState, failed: Option<Failed>) -> Option<ProcessState> {
    let mut out = out.clone();
    if let Some(Failed {
        queue,
        tid,
        still_in,
    }) = failed
    {
        let StillIn::These(still_in) = still_in else {
            return None;
        };
        let pending = guardian::pending_of(&mut out, queue, tid)?;
        for info in still_in.iter().rev() {
            let at = pending.queue.iter().rposition(|one| one == info)?;
            pending.queue.remove(at);
        }
    }
    for pending in out.queues_mut() {
        // Bits without siginfo are not taken out.
        pending.bits = pending.queued();
    }
    Some(out)
}

/// How many entries of `chunk` were captured, which stand first; these are taken off `captured`. Some captured entries may
/// be gone: a SIGCONT that has arrived removes stop signals, and a stop signal removes SIGCONT (prepare_signal).
fn before_first_arrival(captured: &mut &[Siginfo], chunk: &[Siginfo]) -> usize {
    for (count, info) in chunk.iter().enumerate() {
        match captured.iter().position(|one| one == info) {
            Some(at) => *captured = &captured[at + 1..],
            None => return count,
        }
    }
    chunk.len()
}

/// Compares the process with its state before SIGTRAP, and the signals that come out with SIGTRAP, were taken out.
fn changes_but_trap<Owner>(
    stopped: &StoppedProcess<Owner>,
    before: ProcessState,
    taken: &ProcessState,
    entries: Entries,
) -> Vec<String> {
    let before = without_numbers_of(before, taken);
    let said = |(difference, done)| {
        format!("taking out SIGTRAP changed other state: {difference}: {done}")
    };
    match repair::untouched(stopped, &before, entries) {
        Ok(found) => found.into_iter().map(said).collect(),
        Err(e) if e.is_died() => Vec::new(),
        Err(e) => vec![format!(
            "cannot tell what else taking out SIGTRAP changed: {e}"
        )],
    }
}

/// `state` without the numbers of which `taken` has entries: each number was taken out as a whole.
fn without_numbers_of(mut state: ProcessState, taken: &ProcessState) -> ProcessState {
    for (pending, out) in state.queues_mut().zip(taken.queues()) {
        without(pending, out.bits);
    }
    state
}

fn without_queues(state: &ProcessState) -> ProcessState {
    ProcessState {
        timers: state.timers.clone(),
        ..ProcessState::bare(state.ids.clone())
    }
}

/// If an entry of a number stays in, all entries of the number stay in.
fn without(pending: &mut Pending, stay: SigSet) {
    pending
        .queue
        .retain(|info| number(info).is_some_and(|signo| !stay.contains(signo)));
    pending.bits = pending.bits.difference(stay);
}

/// The numbers of which the queue has a timer's entry, or an entry that looks like a timer's.
fn timers_numbers(pending: &Pending) -> SigSet {
    let entries = pending.queue.iter().filter(|info| is_timers(info));
    entries.filter_map(number).collect()
}

fn number(info: &Siginfo) -> Option<SigNo> {
    SigNo::new(info.signo())
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_signals_images::{Fields, NsIds, PosixTimer};

    fn process(queued: usize, soft: u64, hard: u64) -> ProcessState {
        let fields = Fields::Value {
            pid: 7,
            uid: 0,
            value: 1,
        };
        let info = Siginfo::from_fields(40, 0, -1, &fields);
        let mut state = ProcessState::bare(NsIds::new(vec![7]).unwrap());
        state.shared.queue = vec![info; queued];
        state.queued = queued as u64;
        state.rlimit_sigpending = Rlimit { soft, hard };
        state
    }

    fn with_fault(mut state: ProcessState) -> ProcessState {
        let fields = Fields::Kill { pid: 0, uid: 0 };
        let info = Siginfo::from_fields(SigNo::SEGV.get(), 0, 1, &fields);
        state.threads[0].pending.queue.push(info);
        state
    }

    fn planned(state: &ProcessState, deep: bool, may_raise: bool) -> Option<Plan> {
        let entries = match deep {
            true => Entries::Unread,
            false => Entries::Known,
        };
        planned_with(state, entries, may_raise, false)
    }

    fn planned_with(
        state: &ProcessState,
        entries: Entries,
        may_raise: bool,
        hidden_fault: bool,
    ) -> Option<Plan> {
        let limits = Limits::default();
        plan(
            state,
            entries,
            &limits,
            || Ok(may_raise),
            || Ok(hidden_fault),
        )
        .ok()
    }

    #[test]
    fn an_ordinary_queue_is_left_to_criu() {
        for may_raise in [false, true] {
            assert_eq!(
                planned(&process(100, 10_000, 10_000), false, may_raise),
                Some(Plan::default())
            );
            assert_eq!(
                planned(&process(0, 0, 0), false, may_raise),
                Some(Plan::default())
            );
        }
    }

    #[test]
    fn timers_need_room_as_well() {
        let timers = |count, soft| {
            let mut state = process(0, soft, soft);
            state.timers = (0..count).map(|id| PosixTimer::bare(id, 34)).collect();
            state
        };
        for may_raise in [false, true] {
            let lent = |state: &ProcessState| {
                let plan = planned(state, false, may_raise).unwrap();
                assert_eq!(plan.take_out, [], "the entries are CRIU's own to make");
                plan.lend_room
            };
            assert!(lent(&timers(20, 5)));
            assert!(!lent(&timers(20, 10_000)));
            assert!(!lent(&timers(0, 5)));
        }
    }

    #[test]
    fn nothing_is_taken_out_that_cannot_go_back() {
        let low = process(20, 4, 4);
        assert_eq!(
            planned(&low, false, false),
            Some(Plan {
                take_out: vec![],
                lend_room: true
            })
        );
        assert_eq!(
            planned(&low, false, true),
            Some(Plan {
                take_out: vec![TakenOut::Limit],
                lend_room: false
            })
        );
        assert_eq!(
            planned(&with_fault(low.clone()), false, false),
            None,
            "refused"
        );
        assert!(planned(&with_fault(low), false, true).is_some());
        let deep = process(2_000, 2_000, 2_000);
        assert_eq!(planned(&deep, true, false).unwrap().take_out, []);
        assert_eq!(
            planned(&process(2_000, 90_000, 90_000), true, false)
                .unwrap()
                .take_out,
            [TakenOut::Deep]
        );
    }

    #[test]
    fn a_fault_in_a_queue_that_was_not_read_is_looked_for_where_the_queue_stays() {
        let small = process(2_000, 2_000, 2_000);
        assert_eq!(planned_with(&small, Entries::Unread, false, true), None);
        assert!(planned_with(&small, Entries::Unread, true, true).is_some());
        let room = process(2_000, 90_000, 90_000);
        assert!(planned_with(&room, Entries::Unread, false, true).is_some());
        assert!(planned_with(&small, Entries::Known, false, true).is_some());
    }

    #[test]
    fn limits_are_what_may_just_be() {
        let Limits { headroom, deep, .. } = Limits::default();
        let room = |room: u64| planned(&process(20, 20 + room, u64::MAX), false, true).unwrap();
        assert_eq!(room(headroom), Plan::default());
        assert_eq!(room(headroom - 1).take_out, [TakenOut::Limit]);
        let queued = |queued| planned(&process(queued, u64::MAX, u64::MAX), false, true).unwrap();
        assert_eq!(queued(deep), Plan::default());
        assert_eq!(queued(deep + 1).take_out, [TakenOut::Deep]);
        let mut timers = process(0, 5 + headroom, u64::MAX);
        timers.timers = (0..5).map(|id| PosixTimer::bare(id, 34)).collect();
        assert_eq!(planned(&timers, false, true), Some(Plan::default()));
        timers.rlimit_sigpending.soft -= 1;
        assert!(planned(&timers, false, true).unwrap().lend_room);
    }

    #[test]
    fn a_deep_queue_stays_if_a_timer_keeps_too_many_entries_in_it() {
        const SI_TIMER: i32 = -2;
        let Limits { deep, .. } = Limits::default();
        let fields = Fields::Timer {
            id: 1,
            overrun: 0,
            value: 0,
            sys_private: 0,
        };
        let of_timer = Siginfo::from_fields(40, 0, SI_TIMER, &fields);
        // `staying` entries of the timer's number, its own among them, and as many others as make the queue deep.
        let planned = |staying: usize, others: usize| {
            let mut state = process(staying - 1, u64::MAX, u64::MAX);
            state.shared.queue.push(of_timer);
            let other = Siginfo::from_fields(41, 0, -1, &Fields::Kill { pid: 7, uid: 0 });
            state.threads[0].pending.queue = vec![other; others];
            planned(&state, false, true).unwrap().take_out
        };
        assert_eq!(planned(deep, 1), [TakenOut::Deep]);
        assert_eq!(planned(deep + 1, 1), []);
        assert_eq!(planned(1, deep + 1), [TakenOut::Deep]);
    }

    fn numbered(value: u64) -> Siginfo {
        let fields = Fields::Value {
            pid: 7,
            uid: 0,
            value,
        };
        Siginfo::from_fields(40, 0, -1, &fields)
    }

    #[test]
    fn what_is_in_the_queue_still_is_not_out() {
        let mut out = ProcessState::bare(NsIds::new(vec![7]).unwrap());
        out.shared.queue = [1, 2, 3, 2].map(numbered).to_vec();
        // A bit without siginfo, which is not taken out.
        out.shared.bits = [SigNo::new(40), SigNo::new(41)]
            .into_iter()
            .flatten()
            .collect();
        let failed = |still_in| Failed {
            queue: Queue::Shared,
            tid: Tid::NONE,
            still_in,
        };
        let numbers = |state: &ProcessState| state.shared.queue.clone();
        let all = but_for(&out, None).unwrap();
        assert_eq!(numbers(&all), numbers(&out));
        assert_eq!(all.shared.bits, out.shared.queued());
        let some = failed(StillIn::These([3, 2].map(numbered).to_vec()));
        let rest = but_for(&out, Some(some)).unwrap();
        assert_eq!(numbers(&rest), [1, 2].map(numbered));
        let foreign = failed(StillIn::These(vec![numbered(9)]));
        assert_eq!(but_for(&out, Some(foreign)), None);
        assert_eq!(but_for(&out, Some(failed(StillIn::Unknown))), None);
    }

    #[test]
    fn arrivals_come_behind_what_was_captured() {
        let captured = [1, 2, 3, 4].map(numbered);
        let mut rest = &captured[..];
        assert_eq!(before_first_arrival(&mut rest, &[1, 2].map(numbered)), 2);
        // 3 has been taken away meanwhile.
        assert_eq!(before_first_arrival(&mut rest, &[4, 9, 3].map(numbered)), 1);
        assert_eq!(rest, []);
        assert_eq!(before_first_arrival(&mut rest, &[numbered(1)]), 0);
    }

    #[test]
    fn a_number_is_taken_out_of_its_queue_as_a_whole() {
        let other = Siginfo::from_fields(41, 0, -1, &Fields::Kill { pid: 7, uid: 0 });
        let state = |shared: &[Siginfo], private: &[Siginfo]| {
            let mut state = ProcessState::bare(NsIds::new(vec![7]).unwrap());
            state.shared.queue = shared.to_vec();
            state.threads[0].pending.queue = private.to_vec();
            for pending in state.queues_mut() {
                pending.bits = pending.queued();
            }
            state
        };
        let before = state(&[numbered(1), other, numbered(2)], &[numbered(3), other]);
        let left = without_numbers_of(before, &state(&[numbered(1)], &[other]));
        assert_eq!(left, state(&[other], &[numbered(3)]));
    }

    #[test]
    fn timers_stay_where_queues_do_not() {
        let mut state = process(3, 1, 1);
        state.timers = vec![PosixTimer::bare(0, 34)];
        let without = without_queues(&state);
        assert_eq!(without.timers, state.timers);
        assert_eq!(
            without
                .queues()
                .map(|pending| pending.queue.len())
                .sum::<usize>(),
            0
        );
    }
}
