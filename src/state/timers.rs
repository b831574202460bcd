//! POSIX timers, as far as signals are concerned: timer_create(2).
//!
//! With each timer the kernel allocates one queue entry (`struct k_itimer`, `sigq`). Only that entry re-arms a
//! periodic timer and counts overruns when it is delivered, is queued although its legacy number is pending
//! already, and is dropped when the timer has been set or deleted since (kernel/signal.c,
//! `posixtimer_send_sigqueue`; kernel/time/posix-timers.c, `__posixtimer_deliver_signal`). An entry with the
//! same contents that somebody queued, CRIU for one, does none of that. Nobody can queue the kernel's own entry
//! but the timer, by expiring: so the timer is made to expire, at the entry's place in the queue.
//!
//! The capture reads `/proc/PID/timers`, timer_gettime(2), timer_getoverrun(2) and the queues, and takes no entry out of a
//! queue. These do not tell the overruns of a pending entry (the kernel tells them only with the delivery), whether a timer
//! was disarmed or deleted while its entry was pending (the entry stays in the queue and is dropped later), and whether a
//! timer on CLOCK_REALTIME was set to an absolute time.

use std::time::{Duration, Instant};

use criu_signals_images::{
    Clock, DeletedTimer, Disposition, Notify, Pending, PosixTimer, ProcessState, SigNo, SigSet,
    Siginfo, ThreadState, Tid, TimerEntry,
};

use super::dispositions::sigaction;
use super::queues::{
    Counted, Queue, SIGSET_SIZE, is_timers, siginfo, take_one, take_one_within, with_arrivals,
    with_sent_since, without_entry,
};
use super::{Kind as _, Lost, PATIENCE, PendingLimit, Site};
use crate::error::{Cause, Error, Result};
use crate::machine;
use crate::proc::SignalStatus;
use crate::tracee::{Call, Injector, ptrace};

/// `sizeof(struct itimerspec)`: interval and value, each seconds and nanoseconds.
pub(super) const ITIMERSPEC_SIZE: usize = 32;
const TIMESPEC_SIZE: usize = 16;
const NANOS: u64 = 1_000_000_000;
pub(super) const TIMER_ABSTIME: u64 = 1;
const SIG_IGN: u64 = 1;

/// How often an overrun count is tried before the timer is taken to be too fast.
const ATTEMPTS: usize = 4;
/// How long a process may be held so that the rest of a timer's period is as before. See [`Rebuild::expire_again`].
const HOLD: Duration = Duration::from_millis(100);
/// How far ahead of an expiry its timer is set, at most half a period.
const AHEAD: u64 = 3_000_000;
/// How often a queue is emptied while other processes fill it.
const ROUNDS: usize = 8;

/// The POSIX timers of a process. Not a [`Kind`](super::Kind): where a timer's entry is belongs to a queue as
/// much as to the timer, so both directions are given the whole process.
#[derive(Debug)]
pub enum PosixTimers {}

impl PosixTimers {
    /// Reads the timers of the process whose other state is `state`. `injector` has made none of them. `told`: the timers with
    /// their entries as the kernel has them, where it could be asked; then nothing is done to find out.
    ///
    /// # Errors
    /// If the timers cannot be read. Never an empty list instead.
    pub fn capture<Owner>(
        injector: &mut Injector<'_, Owner>,
        state: &ProcessState,
        told: Option<&[PosixTimer]>,
    ) -> Result<Vec<PosixTimer>> {
        let leader = injector.process().leader();
        let lines = injector.first_timers().to_vec();
        let calls: Vec<Call> = lines
            .iter()
            .flat_map(|line| {
                [
                    Call::new(
                        libc::SYS_timer_gettime,
                        format!("timer_gettime({})", line.id),
                    )
                    .value(number(line.id))
                    .output(ITIMERSPEC_SIZE),
                    Call::new(
                        libc::SYS_timer_getoverrun,
                        format!("timer_getoverrun({})", line.id),
                    )
                    .value(number(line.id)),
                ]
            })
            .collect();
        let outcomes = injector.run(leader, &calls)?;
        let mut timers = Vec::with_capacity(lines.len());
        for (line, outcomes) in lines.iter().zip(outcomes.chunks_exact(2)) {
            outcomes[0].check()?;
            let (interval, remaining) = from_itimerspec(&outcomes[0].output);
            let overrun = outcomes[1].check()?;
            let mut timer = PosixTimer {
                id: line.id,
                clock: line.clock,
                signo: line.signo,
                value: line.value,
                notify: match line.notify {
                    Notify::Thread(tid) => Notify::Thread(innermost(state, tid)),
                    other => other,
                },
                interval,
                remaining,
                overrun: u32::try_from(overrun).unwrap_or(u32::MAX),
                entry: TimerEntry::Idle,
                entry_overrun: None,
                place_aside: None,
            };
            timer.entry = entry_in_queue(&timer, queue_of(state, &timer));
            timers.push(timer);
        }
        match told {
            Some(told) => timers.iter_mut().for_each(|timer| find_entry(timer, told)),
            None => find_ignored(injector, state, &mut timers)?,
        }
        Ok(timers)
    }

    /// Is this queue (that of the thread with this id in its own pid namespace, or the shared one) put back
    /// here, because an entry in it has to come from its timer, or may be that of a timer which is to be kept aside?
    pub fn builds(wanted: &ProcessState, thread: Option<i32>) -> bool {
        let mut timers = wanted.timers.iter();
        timers.any(|timer| timer.thread() == thread && timer.entry != TimerEntry::Idle)
    }

    /// Puts back the timers, and the queues that hold their entries. All signals must be blocked in every thread, the
    /// dispositions and the other queues be in place, and RLIMIT_SIGPENDING leave room. Returns the errors; state that was
    /// given up because it excludes other state is added to `lost`.
    pub fn replay<'p, Owner>(
        injector: &mut Injector<'p, Owner>,
        wanted: &ProcessState,
        threads: &[(Tid, &ThreadState)],
        append: Append<'p, Owner>,
        lost: &mut Vec<(Lost, String)>,
    ) -> Vec<Error> {
        let work = wanted
            .timers
            .iter()
            .any(|timer| timer.entry != TimerEntry::Idle || has_overrun(timer));
        if !work {
            return Vec::new();
        }
        let mut rebuild = Rebuild {
            injector,
            wanted,
            threads,
            timers: Vec::new(),
            hold: None,
            given_up: Vec::new(),
            renamed: Vec::new(),
            append,
            errors: Vec::new(),
        };
        rebuild.all();
        let text = |timer: &PosixTimer| {
            let text = format!(
                "timer {}: to restore its pending signal, timer_getoverrun(2) of the previous delivery ({}) is given \
                 up",
                timer.id, timer.overrun
            );
            (Lost::Overruns, text)
        };
        lost.extend(rebuild.given_up.iter().map(text));
        let renamed = rebuild.renamed.iter();
        lost.extend(renamed.map(|timer| (Lost::DeletedTimer, self::renamed(timer))));
        rebuild.errors
    }
}

/// The message about an entry that has lost the number of its timer.
pub fn renamed(timer: &DeletedTimer) -> String {
    format!(
        "the pending entry of {} that the deleted timer {} has left now has the id of another timer, and stands behind the other \
         entries of {}: this kernel can't create a timer with a given id (Linux 6.15 can), or a timer has the id now",
        timer.signo, timer.id, timer.signo
    )
}

/// Puts what a timer that is gone has left at the end of a queue of that thread: whether it has the timer's number.
pub type Append<'p, Owner> =
    fn(&mut Injector<'p, Owner>, Tid, Queue, &DeletedTimer) -> Result<bool>;

/// What a queue must hold after a restore: [`with_arrivals`], and what is different about timers. A timer has one
/// entry, whether it has expired again or not; and its entry is queued although its legacy number is pending.
pub fn with_timer_arrivals(
    dumped: Pending,
    found: &Pending,
    timers: &[PosixTimer],
    thread: Option<i32>,
) -> Pending {
    let mut aside = timers
        .iter()
        .filter(|timer| is_aside(timer) && timer.thread() == thread)
        .peekable();
    if aside.peek().is_none() {
        return with_expiries(with_arrivals(dumped, found), found, timers, thread);
    }
    // A timer may have expired since CRIU has armed it, and its entry is in the queue because all signals are blocked: the
    // entry has to be put aside.
    let mut others = found.clone();
    others.retain(|info| !aside.clone().any(|timer| timer.made(info)));
    with_expiries(with_arrivals(dumped, &others), &others, timers, thread)
}

/// `wanted`, and behind it the entries in `found` of timers that have none in `wanted`: they do not wait.
pub fn with_expiries(
    wanted: Pending,
    found: &Pending,
    timers: &[PosixTimer],
    thread: Option<i32>,
) -> Pending {
    let mut merged = wanted;
    for timer in timers.iter().filter(|timer| timer.thread() == thread) {
        let mut first = true;
        merged
            .queue
            .retain(|info| !timer.made(info) || std::mem::take(&mut first));
        if first
            && let Some(info) = found.queue.iter().find(|info| timer.made(info))
            && let Some(signo) = SigNo::new(info.signo())
        {
            merged.bits.insert(signo);
            merged.queue.push(*info);
        }
    }
    merged
}

/// Is the timer's entry among those of the queue from the one numbered `from` on?
pub(super) fn is_in_queue(timer: &PosixTimer, tid: Tid, which: Queue, from: usize) -> Result<bool> {
    let queue = ptrace::peek(tid, which == Queue::Shared, from, usize::MAX)?;
    Ok(queue.iter().any(|info| timer.made(info)))
}

/// As [`is_in_queue`], of a timer that is about to expire, for which is waited.
pub(super) fn comes_into_queue(
    timer: &PosixTimer,
    tid: Tid,
    which: Queue,
    from: usize,
) -> Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    while !is_in_queue(timer, tid, which, from)? {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(true)
}

/// Where the timer's entry is, as far as the queue tells. An entry in the queue of a timer that is armed was
/// there before the timer was set: it will be dropped. (A periodic timer with a pending entry is not armed, but
/// timer_gettime(2) gives what will remain of its period, so up to the period the two look alike.)
fn entry_in_queue(timer: &PosixTimer, queue: &Pending) -> TimerEntry {
    if !queue.queue.iter().any(|info| timer.made(info)) {
        TimerEntry::Idle
    } else if timer.remaining > timer.interval {
        TimerEntry::Stale
    } else {
        TimerEntry::Pending
    }
}

/// As at the capture, where the queues were read later: finds the entries of the timers in them.
pub fn find_in_queues(state: &mut ProcessState) {
    let mut timers = std::mem::take(&mut state.timers);
    for timer in &mut timers {
        if timer.entry == TimerEntry::Idle {
            timer.entry = entry_in_queue(timer, queue_of(state, timer));
        }
    }
    state.timers = timers;
}

/// The state of the timer's entry in the kernel. An entry that has come since is in the queue.
fn find_entry(timer: &mut PosixTimer, told: &[PosixTimer]) {
    if let Some(known) = told_of(told, timer)
        && known.entry != TimerEntry::Idle
    {
        timer.entry = known.entry;
        timer.place_aside = known.place_aside;
    }
}

/// The same timer, as BPF has read it.
pub(super) fn told_of<'t>(told: &'t [PosixTimer], timer: &PosixTimer) -> Option<&'t PosixTimer> {
    told.iter()
        .find(|one| one.id == timer.id && one.signo == timer.signo)
}

pub(super) fn queue_of<'s>(state: &'s ProcessState, timer: &PosixTimer) -> &'s Pending {
    timer
        .thread()
        .and_then(|tid| state.threads.iter().find(|t| t.ids.innermost() == tid))
        .map_or(&state.shared, |thread| &thread.pending)
}

fn innermost(state: &ProcessState, tid: i32) -> i32 {
    state
        .threads
        .iter()
        .find(|thread| thread.tid().get() == tid)
        .map_or(0, |thread| thread.ids.innermost())
}

/// Finds periodic timers that have expired and whose signals are ignored: the kernel keeps their entries aside
/// (posixtimer_sig_ignore), where no interface shows them. While the signal has a handler, the entries are in the
/// queue; when the signal is ignored again, the kernel puts the entries aside again (do_sigaction). The calls are one
/// batch, which the thread ends even if the tracer dies.
///
/// This is done only if no thread can take the signal meanwhile, and if no other signal of the number is pending
/// ([`handled_in`]): the last call would flush that signal.
fn find_ignored<Owner>(
    injector: &mut Injector<'_, Owner>,
    state: &ProcessState,
    timers: &mut [PosixTimer],
) -> Result<()> {
    if !keeps_ignored_entries()? {
        return Ok(());
    }
    let may_be = |timer: &PosixTimer| ignored_number(state, timer);
    let numbers: SigSet = timers.iter().filter_map(may_be).collect();
    for signo in numbers.iter() {
        let of_it = timers.iter().filter(|timer| may_be(timer) == Some(signo));
        // [`unseen`] names those of a number for which this is empty.
        for id in handled_in(state, signo, of_it) {
            let Some(thread) = state.threads.iter().find(|t| t.ids.innermost() == id) else {
                continue;
            };
            if !shows_when_handled(injector, state, thread.tid(), signo)? {
                continue;
            }
            for timer in timers.iter_mut() {
                if may_be(timer) == Some(signo) && target(&state.threads, timer) == Some(id) {
                    timer.entry = TimerEntry::Ignored;
                }
            }
        }
    }
    Ok(())
}

/// Whether an ignored signal is pending for a thread as soon as the signal has a handler, for that moment. Each time, the entries of
/// several timers change their order (posixtimer_sig_ignore puts each before the others), so all is done twice.
fn shows_when_handled<Owner>(
    injector: &mut Injector<'_, Owner>,
    state: &ProcessState,
    tid: Tid,
    signo: SigNo,
) -> Result<bool> {
    // This handler is never entered.
    let handled = Disposition {
        handler: 2,
        ..Disposition::default()
    };
    let calls = [
        sigaction(signo, &handled),
        Call::new(libc::SYS_rt_sigpending, "rt_sigpending")
            .output(8)
            .value(SIGSET_SIZE),
        sigaction(signo, &state.dispositions[signo]),
        sigaction(signo, &handled),
        sigaction(signo, &state.dispositions[signo]),
    ];
    // What came into the queue is seen in between only by who is inside: several timers with one number and one
    // recipient are told apart from outside.
    let outcomes = injector.run(tid, &calls)?;
    for outcome in &outcomes {
        outcome.check()?;
    }
    Ok(SigSet::from_bits(word(&outcomes[1].output, 0)).contains(signo))
}

/// The threads, by their innermost ids, in which can be looked whether entries of these timers, all of the ignored number
/// `signo`, are kept aside: those that the timers tell, each of its own. None if a thread that goes on because the tracer
/// dies just then could take the signal, or if nobody could tell an entry for the process from one for the thread: all
/// signals are blocked in the thread that makes the calls; the others must block this one.
fn looked_in<'t>(
    threads: &[ThreadState],
    signo: SigNo,
    timers: impl Iterator<Item = &'t PosixTimer>,
) -> Vec<i32> {
    let (mut told, mut of_process, mut of_thread) = (Vec::new(), false, false);
    for timer in timers {
        match timer.thread() {
            Some(_) => of_thread = true,
            None => of_process = true,
        }
        if let Some(id) = target(threads, timer)
            && !told.contains(&id)
        {
            told.push(id);
        }
    }
    if threads.len() == 1 {
        return told;
    }
    let safe = threads.iter().all(|thread| {
        let id = thread.ids.innermost();
        let blocks = thread.blocked.contains(signo) && thread.lasting_mask().contains(signo);
        let takes = of_process || told.contains(&id);
        blocks || !takes || told == [id]
    });
    if safe && !(of_process && of_thread) {
        told
    } else {
        Vec::new()
    }
}

/// The thread that the kernel asks whether it blocks a timer's signal, by its innermost id: the one that is told, for
/// a process the leader (kernel/time/posix-timers.c, `posixtimer_get_target`). `None`: it has ended.
fn target(threads: &[ThreadState], timer: &PosixTimer) -> Option<i32> {
    match timer.thread() {
        Some(id) => threads.iter().find(|t| t.ids.innermost() == id),
        None => threads.first(),
    }
    .map(|thread| thread.ids.innermost())
}

/// The threads in which the entries of these timers show while the ignored signal has a handler for a moment ([`looked_in`]). None if
/// another signal of the number is pending in any queue: the kernel flushes all of them when the signal is ignored again.
fn handled_in<'t>(
    state: &ProcessState,
    signo: SigNo,
    timers: impl Iterator<Item = &'t PosixTimer>,
) -> Vec<i32> {
    if pending(state).contains(signo) {
        return Vec::new();
    }
    looked_in(&state.threads, signo, timers)
}

/// May the ignored signal of this timer have a handler for a moment, with the timer's entry in the queue ([`handled_in`])?
pub(super) fn may_be_handled(state: &ProcessState, timer: &PosixTimer) -> bool {
    SigNo::new(timer.signo).is_some_and(|signo| {
        let of_it = state.timers.iter().filter(|other| {
            other.signo == timer.signo && (other.id == timer.id || is_aside(other))
        });
        !handled_in(state, signo, of_it).is_empty()
    })
}

/// Numbers of periodic timers of which nobody can tell whether they have expired. One whose entry the kernel has put aside or
/// removed does not run; after a restore each expires when its period ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unseen {
    /// They are ignored, and nobody could look ([`looked_in`]), or other entries of the number are pending.
    pub ignored: SigSet,
    /// A stop signal removes a pending SIGCONT, and the other way round (kernel/signal.c, `prepare_signal`): the entry of a
    /// timer is not put aside, but gone, and with it what would arm the timer again.
    pub removed: SigSet,
}

/// `are_told`: the kernel was asked which entries it has put aside.
///
/// # Errors
/// If uname(2) fails, which it does not.
pub fn unseen(state: &ProcessState, are_told: bool) -> Result<Unseen> {
    let removed = |timer: &PosixTimer| {
        SigNo::new(timer.signo).filter(|signo| {
            (signo.is_stop() || *signo == SigNo::CONT)
                && is_idle_within_period(timer)
                && !may_be_pending(state, timer)
        })
    };
    let removed = state.timers.iter().filter_map(removed).collect();
    if are_told || !keeps_ignored_entries()? {
        return Ok(Unseen {
            removed,
            ..Unseen::default()
        });
    }
    let numbers: SigSet = state
        .timers
        .iter()
        .filter_map(|timer| ignored_number(state, timer))
        .collect();
    let is_unseen = |signo: &SigNo| {
        let of_it = || {
            let timers = state.timers.iter();
            timers.filter(|timer| ignored_number(state, timer) == Some(*signo))
        };
        // A timer that signals an ended thread does nothing.
        of_it().any(|timer| target(&state.threads, timer).is_some())
            && handled_in(state, *signo, of_it()).is_empty()
    };
    Ok(Unseen {
        ignored: numbers.iter().filter(is_unseen).collect(),
        removed,
    })
}

/// Of timers whose entries are kept aside in `wanted`: where nobody could look in `found`, the entry is taken for that.
/// [`hidden`] names them.
///
/// # Errors
/// Those of [`unseen`].
pub fn trust_unseen(wanted: &ProcessState, found: &mut ProcessState) -> Result<()> {
    if !wanted.timers.iter().any(is_aside) {
        return Ok(());
    }
    let unseen = unseen(found, false)?.ignored;
    let is_unseen = |timer: &PosixTimer| {
        timer.entry == TimerEntry::Idle
            && SigNo::new(timer.signo).is_some_and(|signo| unseen.contains(signo))
    };
    for timer in found.timers.iter_mut().filter(|timer| is_unseen(timer)) {
        if told_of(&wanted.timers, timer).is_some_and(is_aside) {
            timer.entry = TimerEntry::Ignored;
        }
    }
    Ok(())
}

/// How many timers have an entry that is kept aside, and that nobody could find in the process without BPF.
pub fn hidden(state: &ProcessState) -> usize {
    if !state.timers.iter().any(is_aside) {
        return 0;
    }
    let mut found = state.clone();
    for timer in found.timers.iter_mut().filter(|timer| is_aside(timer)) {
        timer.entry = TimerEntry::Idle;
    }
    // That the release of the kernel can't be read does not happen.
    if trust_unseen(state, &mut found).is_err() {
        return 0;
    }
    found.timers.iter().filter(|timer| is_aside(timer)).count()
}

fn is_aside(timer: &PosixTimer) -> bool {
    timer.entry == TimerEntry::Ignored
}

/// All pending signals, of all queues.
fn pending(state: &ProcessState) -> SigSet {
    let threads = state.threads.iter();
    threads.fold(state.shared.bits, |bits, t| bits.union(t.pending.bits))
}

/// The number of a timer whose entry may be kept aside.
fn ignored_number(state: &ProcessState, timer: &PosixTimer) -> Option<SigNo> {
    let signo = SigNo::new(timer.signo)?;
    let ignored = state.dispositions[signo].handler == SIG_IGN;
    (ignored && is_idle_within_period(timer)).then_some(signo)
}

/// As a periodic timer looks that runs, and as one looks whose entry is kept aside or gone.
fn is_idle_within_period(timer: &PosixTimer) -> bool {
    let idle = timer.entry == TimerEntry::Idle && timer.notify != Notify::Nobody;
    idle && timer.interval != 0 && timer.remaining <= timer.interval
}

/// Since Linux 6.13 a periodic timer whose signal is ignored does not run, and its entry is kept aside. Before,
/// it runs on and nothing is pending.
fn keeps_ignored_entries() -> Result<bool> {
    Ok(is_since(&machine::kernel_release()?, (6, 13)))
}

fn is_since(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|n| n.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor) >= version,
        _ => false,
    }
}

/// A timer that is put back.
struct Work {
    timer: PosixTimer,
    signo: SigNo,
    /// What its clock showed when it was disarmed.
    now: Option<u64>,
    /// The timer is complete.
    done: bool,
}

/// The steps of a replay. An error does not end the replay: entries that are out of their queue must get back.
struct Rebuild<'r, 'p, Owner> {
    injector: &'r mut Injector<'p, Owner>,
    wanted: &'r ProcessState,
    threads: &'r [(Tid, &'r ThreadState)],
    timers: Vec<Work>,
    /// Not to be let go before.
    hold: Option<Instant>,
    /// Timers whose overrun count was given up for their pending entry.
    given_up: Vec<PosixTimer>,
    /// Timers that are gone, whose entries have another number.
    renamed: Vec<DeletedTimer>,
    append: Append<'p, Owner>,
    errors: Vec<Error>,
}

/// A queue to be built.
struct Plan {
    tid: Tid,
    which: Queue,
    /// As in [`PosixTimer::thread`].
    thread: Option<i32>,
    /// The entries before, and the entries that the queue must hold.
    found: Pending,
    pending: Pending,
}

impl Plan {
    /// What is in the queue before, those without an entry among it.
    fn entries_found(&self) -> Vec<Siginfo> {
        let bare = self.found.bits_without_info();
        let entries = self.found.queue.iter().copied();
        entries.chain(bare.iter().map(without_entry)).collect()
    }
}

impl<Owner> Rebuild<'_, '_, Owner> {
    fn all(&mut self) {
        if let Err(e) = self.disarm() {
            return self.errors.push(e);
        }
        let mut plans = match self.plan() {
            Ok(plans) => plans,
            Err(e) => {
                self.errors.push(e);
                return self.arm();
            }
        };
        if let Err(e) = self.ensure_room(&plans) {
            self.errors.push(e);
            return self.arm();
        }
        let shared = plans.iter().filter(|plan| plan.which == Queue::Shared);
        let shared: Vec<Siginfo> = shared.flat_map(Plan::entries_found).collect();
        let mut shared = Counted::from_entries(&shared);
        for plan in &mut plans {
            let emptied = self.empty(plan, &mut shared);
            self.errors.extend(emptied.err());
        }
        // While the queues are empty, and before there is anything in them that setting SIG_IGN would flush.
        for at in self.in_order_aside() {
            let timer = self.timers[at].timer;
            let done = match timer.entry {
                TimerEntry::Ignored => self.put_aside(at),
                TimerEntry::Idle if has_overrun(&timer) => self.overrun(at),
                _ => continue,
            };
            self.timers[at].done = done.is_ok();
            self.errors.extend(done.err());
        }
        let mut before = SigSet::EMPTY;
        for plan in &plans {
            let built = self.build(plan, before);
            self.errors.extend(built.err());
            if plan.tid == self.injector.process().leader() {
                before = before.union(plan.pending.bits);
            }
        }
        self.arm();
        if let Some(hold) = self.hold {
            std::thread::sleep(hold.saturating_duration_since(Instant::now()));
        }
    }

    /// All of the timers. Each entry that is put aside comes before the others (posixtimer_sig_ignore), so that the last is the
    /// first to be put there.
    fn in_order_aside(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.timers.len()).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(self.timers[at].timer.place_aside));
        order
    }

    /// Disarms the timers, so that none expires during the replay. The remaining times do not change until the timers
    /// are set.
    fn disarm(&mut self) -> Result<()> {
        let timers: Vec<PosixTimer> = self
            .wanted
            .timers
            .iter()
            .filter(|timer| timer.notify != Notify::Nobody)
            .copied()
            .collect();
        let calls: Vec<Call> = timers
            .iter()
            .flat_map(|timer| {
                [
                    Call::new(
                        libc::SYS_timer_settime,
                        format!("timer_settime({}, disarm)", timer.id),
                    )
                    .value(number(timer.id))
                    .value(0)
                    .input([0; ITIMERSPEC_SIZE])
                    .output(ITIMERSPEC_SIZE),
                    read_clock(timer.clock),
                ]
            })
            .collect();
        let outcomes = self
            .injector
            .run(self.injector.process().leader(), &calls)?;
        for (timer, outcomes) in timers.into_iter().zip(outcomes.chunks_exact(2)) {
            let mut timer = timer;
            let Some(signo) = SigNo::new(timer.signo) else {
                continue;
            };
            if let Err(e) = outcomes[0].check() {
                self.errors.push(e);
                continue;
            }
            // It may have expired since it was looked at, and its entry be in the queue now.
            let (interval, remaining) = from_itimerspec(&outcomes[0].output);
            if timer.entry == TimerEntry::Idle && !has_overrun(&timer) {
                (timer.interval, timer.remaining) = (interval, remaining);
            }
            self.timers.push(Work {
                timer,
                signo,
                now: outcomes[1]
                    .check()
                    .ok()
                    .map(|_| from_timespec(&outcomes[1].output, 0)),
                done: false,
            });
        }
        Ok(())
    }

    /// The queues that entries go into or pass through, and what they must hold: what was wanted, and what has
    /// arrived up to now.
    fn plan(&mut self) -> Result<Vec<Plan>> {
        let leader = self.injector.process().leader();
        let leader_id = self.wanted.ids.innermost();
        let mut plans = vec![];
        let mut add = |rebuild: &mut Self, tid, which: Queue, thread, wanted: &Pending| {
            let site = Site {
                injector: &mut *rebuild.injector,
                tid,
            };
            let found = if which.holds(&site, wanted)? {
                wanted.clone()
            } else {
                which.read(&site, usize::MAX)?
            };
            let timers: Vec<PosixTimer> = rebuild.timers.iter().map(|work| work.timer).collect();
            plans.push(Plan {
                tid,
                which,
                thread,
                pending: with_timer_arrivals(wanted.clone(), &found, &timers, thread),
                found,
            });
            Ok::<_, Error>(())
        };
        let aside = self.timers.iter().filter(|work| is_aside(&work.timer));
        let flushed: SigSet = aside.map(|work| work.signo).collect();
        // Taking out of the shared queue goes through the leader's own, so that one always is in the way.
        // The order is that of taking out, and of building.
        for (tid, state) in self.threads {
            let id = state.ids.innermost();
            let passes = self
                .timers
                .iter()
                .any(|work| work.timer.thread() == Some(id));
            if id == leader_id || passes || self.has_any(*tid, flushed)? {
                add(self, *tid, Queue::Private, Some(id), &state.pending)?;
            }
        }
        add(self, leader, Queue::Shared, None, &self.wanted.shared)?;
        for work in &mut self.timers {
            let arrived = plans.iter().any(|plan| {
                plan.thread == work.timer.thread()
                    && plan.pending.queue.iter().any(|info| work.timer.made(info))
            });
            if arrived && work.timer.entry == TimerEntry::Idle {
                work.timer.entry = TimerEntry::Pending;
            }
        }
        Ok(plans)
    }

    /// Is one of these numbers pending in the thread's own queue? What puts an entry aside sets SIG_IGN, which flushes the number from
    /// the queues of all threads.
    fn has_any(&self, tid: Tid, numbers: SigSet) -> Result<bool> {
        if numbers.is_empty() {
            return Ok(false);
        }
        let status = SignalStatus::read(self.injector.process().pid(), tid)?;
        Ok(!status.pending.intersection(numbers).is_empty())
    }

    /// What comes out of the queues must find room again: entries are counted together with those of all processes of the user.
    fn ensure_room(&mut self, plans: &[Plan]) -> Result<()> {
        let leader = self.injector.process().leader();
        let mut site = Site {
            injector: &mut *self.injector,
            tid: leader,
        };
        let limit = PendingLimit::capture(&mut site)?;
        let queued = SignalStatus::read(site.pid(), leader)?.queued;
        // A timer's own entry is allocated with it (posixtimer_init_sigqueue).
        let timers = &self.timers;
        let is_own = |plan: &Plan, info: &Siginfo| {
            let mut timers = timers.iter().map(|work| &work.timer);
            timers.any(|timer| timer.thread() == plan.thread && timer.made(info))
        };
        let charged = |plan: &Plan, pending: &Pending| {
            let queue = pending.queue.iter();
            queue.filter(|info| !is_own(plan, info)).count() as u64
        };
        let found: u64 = plans.iter().map(|plan| charged(plan, &plan.found)).sum();
        let needed: u64 = plans.iter().map(|plan| charged(plan, &plan.pending)).sum();
        let others = queued.saturating_sub(found);
        if needed == 0 || others.saturating_add(needed) <= limit.soft {
            return Ok(());
        }
        let why = format!(
            "RLIMIT_SIGPENDING of {} has no room for {needed} siginfos beside the {others} that the user's processes have queued: \
             raise the limit, or run criu with CAP_SYS_RESOURCE",
            limit.soft
        );
        Err(Error::new("empty queues", Cause::Refused(why.into())))
    }

    /// In list order, as [`Queue::take_out`]; but entries of timers that have just been disarmed are dropped
    /// by the kernel while it looks for the next, so that there may be none for the last calls. What has been sent since the
    /// queue was planned comes out too, and is to be in it, as the last.
    ///
    /// A call that finds none in the thread's own queue takes one from the process's: what that queue has of `shared`, and has
    /// not given yet, is not taken for something that was sent to the thread.
    fn empty(&mut self, plan: &mut Plan, shared: &mut Counted) -> Result<()> {
        let site = Site {
            injector: &mut *self.injector,
            tid: plan.tid,
        };
        let mut found = plan.found.clone();
        let mut out = Pending::default();
        let mut emptied = false;
        for _ in 0..ROUNDS {
            let numbers = found
                .queue
                .iter()
                .filter_map(|info| SigNo::new(info.signo()));
            let calls: Vec<Call> = numbers
                .chain(found.bits_without_info().iter())
                .map(take_one)
                .collect();
            let outcomes = site.injector.run(plan.tid, &calls)?;
            let came = outcomes.iter().filter(|outcome| outcome.errno().is_none());
            for info in came.map(siginfo) {
                // The timers are disarmed: none has sent anything. Delivery changes the overruns of their entries.
                out.queue.extend(info.ok().filter(|info| !is_timers(info)));
            }
            found = plan.which.read(&site, usize::MAX)?;
            emptied = found == Pending::default();
            if emptied {
                break;
            }
        }
        let mut known = plan.found.clone();
        known.queue = plan.entries_found();
        if plan.which == Queue::Private {
            let mut own = Counted::from_entries(&known.queue);
            out.queue
                .retain(|info| own.take(info) || !shared.take(info));
        }
        out.bits = out.queued();
        let wanted = std::mem::take(&mut plan.pending);
        plan.pending = with_sent_since(&known, wanted, &out);
        if emptied {
            return Ok(());
        }
        Err(Error::new(
            "empty a queue",
            Cause::NotKept("new signals arrive as fast as the queue is emptied".into()),
        )
        .in_thread(plan.tid))
    }

    /// Entry by entry, each timer's at its place. The leader takes signals of `before` from a queue that is there already.
    fn build(&mut self, plan: &Plan, before: SigSet) -> Result<()> {
        let ids = SignalStatus::read(self.injector.process().pid(), plan.tid)?.ids;
        let mut infos: Vec<Siginfo> = Vec::new();
        let mut built = 0;
        let mut failed = Ok(());
        for info in &plan.pending.queue {
            let own = self
                .timers
                .iter()
                .position(|work| work.timer.thread() == plan.thread && work.timer.made(info));
            let gone = self.wanted.left_by(plan.thread, info);
            if own.is_none() && gone.is_none() {
                infos.push(*info);
                continue;
            }
            built += self.queue(plan, &ids, &mut infos)?;
            let Some(at) = own else {
                match gone.map_or(Ok(()), |timer| self.append(plan, timer)) {
                    Ok(()) => built += 1,
                    Err(e) => failed = Err(e),
                }
                continue;
            };
            let is_before = |signo| plan.which == Queue::Shared && before.contains(signo);
            let first = !SigNo::new(info.signo()).is_some_and(is_before)
                && !plan.pending.queue[..built]
                    .iter()
                    .any(|before| before.signo() == info.signo());
            let again = if first {
                self.expire_again(at, plan.tid, plan.which, built)
            } else {
                self.give_up_overrun(at);
                Ok(false)
            };
            let again = again.unwrap_or_else(|e| {
                failed = Err(e);
                false
            });
            if again {
                built += 1;
                self.timers[at].done = true;
                continue;
            }
            match self.expire(at, plan.tid, plan.which, built) {
                Ok(()) => {
                    built += 1;
                    self.timers[at].done = self.timers[at].timer.entry == TimerEntry::Pending;
                }
                Err(e) => {
                    // Better an entry that looks like it than a signal that is lost. One that the kernel drops is no
                    // signal, and one that looks like it would be delivered.
                    if self.timers[at].timer.entry != TimerEntry::Stale {
                        infos.push(*info);
                    }
                    failed = Err(e);
                }
            }
        }
        self.queue(plan, &ids, &mut infos)?;
        let bare = plan.pending.bits_without_info();
        if !bare.is_empty() {
            let mut site = Site {
                injector: &mut *self.injector,
                tid: plan.tid,
            };
            plan.which.set_bits(&mut site, &ids, bare)?;
        }
        failed
    }

    /// The entry of a deleted timer.
    fn append(&mut self, plan: &Plan, timer: &DeletedTimer) -> Result<()> {
        if !(self.append)(self.injector, plan.tid, plan.which, timer)? {
            self.renamed.push(*timer);
        }
        Ok(())
    }

    fn queue(
        &mut self,
        plan: &Plan,
        ids: &criu_signals_images::NsIds,
        infos: &mut Vec<Siginfo>,
    ) -> Result<usize> {
        let infos = std::mem::take(infos);
        let mut site = Site {
            injector: &mut *self.injector,
            tid: plan.tid,
        };
        if !infos.is_empty() {
            plan.which.queue(&mut site, ids, &infos)?;
        }
        Ok(infos.len())
    }

    /// Lets the timer expire, in a queue of `built` entries. The proof that the entry is the timer's own: it
    /// was not in the queue, nobody queued it, and now it is there.
    fn expire(&mut self, at: usize, tid: Tid, which: Queue, built: usize) -> Result<()> {
        let Work { timer, now, .. } = self.timers[at];
        let call = set(&timer, TIMER_ABSTIME, past_expiry(&timer, now.unwrap_or(0)));
        self.one(self.injector.process().leader(), call)?;
        self.wait_for_entry(&timer, tid, which, built)
    }

    fn wait_for_entry(
        &self,
        timer: &PosixTimer,
        tid: Tid,
        which: Queue,
        built: usize,
    ) -> Result<()> {
        if comes_into_queue(timer, tid, which, built)? {
            return Ok(());
        }
        Err(Error::new(
            format!("let timer {} expire", timer.id),
            Cause::NotKept("the timer's entry does not appear in the queue".into()),
        )
        .in_thread(tid))
    }

    /// The count of the delivery before, which the next delivery would replace, can't be put back together with the entry.
    fn give_up_overrun(&mut self, at: usize) {
        let timer = self.timers[at].timer;
        if has_both(&timer) {
            self.given_up.push(timer);
        }
    }

    /// [`expire_again`], and nothing else of the number may be in a queue from which the thread takes. Returns whether that
    /// could be done. If not, the count is given up.
    fn expire_again(&mut self, at: usize, tid: Tid, which: Queue, built: usize) -> Result<bool> {
        let Work { timer, signo, .. } = self.timers[at];
        if !has_both(&timer) {
            return Ok(false);
        }
        if let Some(hold) = expire_again(self.injector, &timer, signo, tid)? {
            self.wait_for_entry(&timer, tid, which, built)?;
            self.hold = self.hold.max(Some(hold));
            return Ok(true);
        }
        self.give_up_overrun(at);
        Ok(false)
    }

    /// Expired, and kept aside: blocked signals are queued even if they are ignored, and setting SIG_IGN once
    /// more puts aside what is queued (flush_sigqueue_mask, sigqueue_free_ignored).
    fn put_aside(&mut self, at: usize) -> Result<()> {
        let Work { timer, signo, .. } = self.timers[at];
        let (tid, which) = self.place(&timer)?;
        let disposition = self.wanted.dispositions[signo];
        if disposition.handler != SIG_IGN {
            return Err(Error::new(
                format!("put timer {}'s entry aside", timer.id),
                Cause::Unexpected("its signal is not ignored".into()),
            ));
        }
        self.expire(at, tid, which, 0)?;
        self.one(tid, sigaction(signo, &disposition))
    }

    /// What timer_getoverrun(2) gives: the timer expires that much too late, and the entry is taken out, which
    /// counts and re-arms.
    fn overrun(&mut self, at: usize) -> Result<()> {
        let Work {
            timer,
            signo,
            mut now,
            ..
        } = self.timers[at];
        let (tid, _) = self.place(&timer)?;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let (got, then) = count(self.injector, &timer, signo, tid, now.unwrap_or(0))?;
            if got == u64::from(timer.overrun) {
                return Ok(());
            }
            last = Some(got);
            now = then;
        }
        Err(Error::new(
            format!("put back timer {}'s overrun", timer.id),
            Cause::NotKept(format!("{} wanted, {last:?} counted", timer.overrun)),
        ))
    }

    /// What is left: timers without an entry, and those whose entry was there before they were set.
    fn arm(&mut self) {
        let calls: Vec<Call> = self
            .timers
            .iter()
            .filter(|work| {
                !work.done && (work.timer.remaining != 0 || work.timer.entry == TimerEntry::Stale)
            })
            .map(|work| set(&work.timer, 0, work.timer.remaining))
            .collect();
        let leader = self.injector.process().leader();
        match self.injector.run(leader, &calls) {
            Ok(outcomes) => self
                .errors
                .extend(outcomes.iter().filter_map(|o| o.check().err())),
            Err(e) => self.errors.push(e),
        }
    }

    /// The thread in which, and the queue into which the timer's entry comes.
    fn place(&self, timer: &PosixTimer) -> Result<(Tid, Queue)> {
        let Some(id) = timer.thread() else {
            return Ok((self.injector.process().leader(), Queue::Shared));
        };
        self.threads
            .iter()
            .find(|(_, state)| state.ids.innermost() == id)
            .map(|(tid, _)| (*tid, Queue::Private))
            .ok_or_else(|| {
                Error::new(
                    format!("put back timer {}", timer.id),
                    Cause::Unexpected(format!("thread {id} does not exist")),
                )
            })
    }

    fn one(&mut self, tid: Tid, call: Call) -> Result<()> {
        self.injector
            .run(tid, &[call])?
            .iter()
            .try_for_each(|outcome| outcome.check().map(drop))
    }
}

/// May the timer's entry be in its queue, of which only the numbers are known?
pub fn may_be_pending(state: &ProcessState, timer: &PosixTimer) -> bool {
    let pending = queue_of(state, timer);
    let signo = SigNo::new(timer.signo).filter(|_| timer.notify != Notify::Nobody);
    pending.queue.is_empty() && signo.is_some_and(|signo| pending.bits.contains(signo))
}

/// Is there a count of overruns that has to be put back? That of a timer whose thread is gone will never be delivered
/// anew, and nobody can bring it back ([`forgets_overrun`]).
fn has_overrun(timer: &PosixTimer) -> bool {
    timer.overrun != 0 && timer.notify != Notify::Thread(0)
}

/// Is there a pending entry, and a count of the delivery before it?
pub(super) fn has_both(timer: &PosixTimer) -> bool {
    timer.overrun != 0 && timer.entry == TimerEntry::Pending
}

/// As an expiry in the past, for a timer that has an overrun count as well, that of the delivery before: it expires, so much
/// too late, and is taken out, and soon expires again. A period must then end when it did, so the process has to be held
/// back for what had passed of it, until the instant that is returned. `None` if that is too long ([`HOLD`]), or the clock
/// is too young or too fast. The entry is there at the end of the time for which the timer was set ahead.
pub(super) fn expire_again<Owner>(
    injector: &mut Injector<'_, Owner>,
    timer: &PosixTimer,
    signo: SigNo,
    tid: Tid,
) -> Result<Option<Instant>> {
    let passed = pending_for(timer);
    let mut ahead = AHEAD.min(timer.interval / 2);
    for _ in 0..ATTEMPTS {
        if passed > HOLD {
            break;
        }
        let clock = injector.run(tid, &[read_clock(timer.clock)])?;
        clock[0].check()?;
        let soon = PosixTimer {
            remaining: ahead,
            ..*timer
        };
        let now = from_timespec(&clock[0].output, 0);
        if first_expiry(&soon, now, timer.overrun) == 1 {
            break;
        }
        if count(injector, &soon, signo, tid, now)?.0 == u64::from(timer.overrun) {
            return Ok(Some(Instant::now() + passed));
        }
        ahead = (ahead * 2).min(timer.interval / 2);
    }
    Ok(None)
}

/// For how long the timer's entry has been pending.
fn pending_for(timer: &PosixTimer) -> Duration {
    let periods = u64::from(timer.entry_overrun.unwrap_or(0)) + 1;
    let passed = periods
        .saturating_mul(timer.interval)
        .saturating_sub(timer.remaining);
    Duration::from_nanos(passed)
}

/// Is it no longer than a process is held for [`expire_again`]?
pub(super) fn is_soon_enough(timer: &PosixTimer) -> bool {
    pending_for(timer) <= HOLD
}

/// Lets a timer expire as often as its overrun count says, in the past, and takes that: what timer_getoverrun(2) gives
/// then, and what the clock shows.
fn count<Owner>(
    injector: &mut Injector<'_, Owner>,
    timer: &PosixTimer,
    signo: SigNo,
    tid: Tid,
    now: u64,
) -> Result<(u64, Option<u64>)> {
    let patience = timespec(u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX));
    let calls = [
        set(
            timer,
            TIMER_ABSTIME,
            first_expiry(timer, now, timer.overrun),
        ),
        take_one_within(signo, patience),
        Call::new(
            libc::SYS_timer_getoverrun,
            format!("timer_getoverrun({})", timer.id),
        )
        .value(number(timer.id)),
        read_clock(timer.clock),
    ];
    let outcomes = injector.run(tid, &calls)?;
    for outcome in &outcomes[..3] {
        outcome.check()?;
    }
    let then = outcomes[3]
        .check()
        .ok()
        .map(|_| from_timespec(&outcomes[3].output, 0));
    Ok((outcomes[2].check()?, then))
}

/// When a timer must have expired first, by its clock, so that by now it has expired `overrun` times more and
/// the next time is as far off as it was. A clock that has not run for so long (that of the CPU time of a
/// process that was just made) allows no better than its beginning.
pub(super) fn first_expiry(timer: &PosixTimer, now: u64, overrun: u32) -> u64 {
    if timer.interval == 0 {
        return 1;
    }
    let back = i128::from(timer.interval) * (i128::from(overrun) + 1);
    let at = i128::from(now) + i128::from(timer.remaining) - back;
    u64::try_from(at).unwrap_or(0).max(1)
}

/// When the timer must expire first so that its entry comes at once, with its overruns. A timer that has been set since
/// then may have more than a period left: what remains is not of the expiry that the entry stands for, and overruns that
/// are dropped need not be counted.
fn past_expiry(timer: &PosixTimer, now: u64) -> u64 {
    match timer.entry {
        TimerEntry::Stale => 1,
        _ => first_expiry(timer, now, timer.entry_overrun.unwrap_or(0)),
    }
}

pub(super) fn set(timer: &PosixTimer, flags: u64, value: u64) -> Call {
    let mut spec = timespec(timer.interval);
    spec.extend(timespec(value));
    Call::new(
        libc::SYS_timer_settime,
        format!("timer_settime({})", timer.id),
    )
    .value(number(timer.id))
    .value(flags)
    .input(spec)
    .value(0)
}

pub(super) fn read_clock(clock: i32) -> Call {
    Call::new(
        libc::SYS_clock_gettime,
        format!("clock_gettime({})", Clock(clock)),
    )
    .value(number(clock))
    .output(TIMESPEC_SIZE)
}

/// An int as a register holds it: the kernel looks at the low half.
pub(super) fn number(n: i32) -> u64 {
    u64::from(n.cast_unsigned())
}

pub(super) fn timespec(nanos: u64) -> Vec<u8> {
    [nanos / NANOS, nanos % NANOS]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

pub(super) fn from_timespec(bytes: &[u8], at: usize) -> u64 {
    word(bytes, at)
        .saturating_mul(NANOS)
        .saturating_add(word(bytes, at + 8))
}

/// Interval and value.
pub(super) fn from_itimerspec(bytes: &[u8]) -> (u64, u64) {
    (from_timespec(bytes, 0), from_timespec(bytes, TIMESPEC_SIZE))
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    for (to, from) in word.iter_mut().zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    u64::from_le_bytes(word)
}

/// Does an entry of its own stand for expiries that nobody has counted?
pub fn is_countable(timer: &PosixTimer) -> bool {
    matches!(timer.entry, TimerEntry::Pending | TimerEntry::Ignored)
}

/// timer_gettime(id, {interval, remaining}).
pub(super) fn get(timer: &PosixTimer) -> Call {
    Call::new(
        libc::SYS_timer_gettime,
        format!("timer_gettime({})", timer.id),
    )
    .value(number(timer.id))
    .output(ITIMERSPEC_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_signals_images::{Fields, NsIds};

    fn expiry(signo: i32, id: i32) -> Siginfo {
        let fields = Fields::Timer {
            id,
            overrun: 0,
            value: 0,
            sys_private: 0,
        };
        Siginfo::from_fields(signo, 0, -2, &fields)
    }

    fn kill(signo: i32) -> Siginfo {
        Siginfo::from_fields(signo, 0, 0, &Fields::Kill { pid: 1, uid: 0 })
    }

    fn pending(queue: &[Siginfo]) -> Pending {
        Pending {
            bits: queue.iter().filter_map(|i| SigNo::new(i.signo())).collect(),
            queue: queue.to_vec(),
        }
    }

    #[test]
    fn what_the_queue_tells_of_a_timer() {
        let queue = pending(&[expiry(10, 3)]);
        let armed = |interval, remaining| PosixTimer {
            interval,
            remaining,
            ..PosixTimer::bare(3, 10)
        };
        assert_eq!(entry_in_queue(&armed(0, 0), &queue), TimerEntry::Pending);
        assert_eq!(entry_in_queue(&armed(0, 5), &queue), TimerEntry::Stale);
        assert_eq!(entry_in_queue(&armed(9, 9), &queue), TimerEntry::Pending);
        assert_eq!(entry_in_queue(&armed(9, 10), &queue), TimerEntry::Stale);
        assert_eq!(
            entry_in_queue(&armed(9, 5), &pending(&[])),
            TimerEntry::Idle
        );
        assert_eq!(
            entry_in_queue(&PosixTimer::bare(4, 10), &queue),
            TimerEntry::Idle
        );
    }

    #[test]
    fn a_timer_has_one_entry_and_needs_no_free_number() {
        let timers = [PosixTimer::bare(1, 10), PosixTimer::bare(2, 10)];
        let merge = |dumped: &[Siginfo], found: &[Siginfo]| {
            with_timer_arrivals(pending(dumped), &pending(found), &timers, None).queue
        };
        // Both were pending; CRIU could queue the first alone, and the second has expired again.
        assert_eq!(
            merge(
                &[expiry(10, 1), expiry(10, 2)],
                &[expiry(10, 1), expiry(10, 2)]
            ),
            [expiry(10, 1), expiry(10, 2)]
        );
        assert_eq!(
            merge(&[expiry(10, 1)], &[expiry(10, 1), expiry(10, 1)]),
            [expiry(10, 1)]
        );
        assert_eq!(
            merge(&[kill(10)], &[kill(10), expiry(10, 2)]),
            [kill(10), expiry(10, 2)]
        );
        assert_eq!(merge(&[kill(10)], &[kill(10)]), [kill(10)]);
        // Of a timer that was not there at the dump: behind kill(2) nobody but a timer can queue one.
        let there = with_timer_arrivals(
            pending(&[kill(10)]),
            &pending(&[kill(10), expiry(10, 2)]),
            &timers,
            Some(7),
        );
        assert_eq!(there.queue, [kill(10), expiry(10, 2)]);
    }

    #[test]
    fn where_entries_kept_aside_can_be_looked_for() {
        let thread = |tid, blocked: SigSet| ThreadState {
            blocked,
            ..ThreadState::bare(NsIds::new(vec![tid]).expect("one id"))
        };
        let of = |notify| PosixTimer {
            notify,
            ..PosixTimer::bare(1, 10)
        };
        let (blocks, open) = (SigSet::from(SigNo::USR1), SigSet::EMPTY);
        let looked = |masks: [SigSet; 2], notify: &[Notify]| {
            let threads = [thread(7, masks[0]), thread(8, masks[1])];
            let timers: Vec<PosixTimer> = notify.iter().copied().map(of).collect();
            looked_in(&threads, SigNo::USR1, timers.iter())
        };
        let (leader, other) = (Notify::Thread(7), Notify::Thread(8));
        assert_eq!(looked([open, open], &[other]), [8], "no other is told");
        assert_eq!(looked([open, blocks], &[Notify::Process]), [7]);
        assert_eq!(looked([open, blocks], &[Notify::Library]), [7]);
        assert!(looked([blocks, open], &[Notify::Process]).is_empty());
        assert_eq!(looked([blocks, blocks], &[leader, other]), [7, 8]);
        assert!(looked([open, blocks], &[leader, other]).is_empty());
        assert!(looked([blocks, blocks], &[Notify::Process, other]).is_empty());
        assert!(looked([blocks, blocks], &[Notify::Thread(0)]).is_empty());
        let lasting = ThreadState {
            saved_mask: Some(open),
            ..thread(8, blocks)
        };
        let timers = [of(Notify::Process)];
        assert!(looked_in(&[thread(7, blocks), lasting], SigNo::USR1, timers.iter()).is_empty());
        let alone = [thread(7, open)];
        let timers = [of(Notify::Process), of(leader)];
        assert_eq!(looked_in(&alone, SigNo::USR1, timers.iter()), [7]);
    }

    #[test]
    fn when_a_timer_must_have_expired() {
        let periodic = PosixTimer {
            interval: 100,
            remaining: 30,
            ..PosixTimer::bare(1, 10)
        };
        assert_eq!(first_expiry(&periodic, 10_000, 0), 9_930);
        assert_eq!(first_expiry(&periodic, 10_000, 10), 8_930);
        assert_eq!(first_expiry(&periodic, 500, 10), 1, "a young clock");
        assert_eq!(first_expiry(&periodic, 500, u32::MAX), 1);
        assert_eq!(first_expiry(&PosixTimer::bare(1, 10), 10_000, 0), 1);
    }

    #[test]
    fn an_entry_to_be_dropped_comes_at_once() {
        // timer_settime(2) with a first expiry beyond the period, while the entry was pending.
        let set_since = PosixTimer {
            interval: 40_000_000,
            remaining: 414 * NANOS,
            entry: TimerEntry::Stale,
            ..PosixTimer::bare(1, 10)
        };
        assert_eq!(past_expiry(&set_since, NANOS), 1);
        let pending = PosixTimer {
            remaining: 30_000_000,
            entry: TimerEntry::Pending,
            entry_overrun: Some(2),
            ..set_since
        };
        assert_eq!(past_expiry(&pending, NANOS), NANOS - 90_000_000);
    }

    #[test]
    fn times_are_those_of_the_kernel() {
        assert_eq!(size_of::<libc::itimerspec>(), ITIMERSPEC_SIZE);
        assert_eq!(size_of::<libc::timespec>(), TIMESPEC_SIZE);
        let mut spec = timespec(3);
        spec.extend(timespec(2 * NANOS + 7));
        assert_eq!(from_itimerspec(&spec), (3, 2 * NANOS + 7));
        assert_eq!(from_timespec(&[0xff; 16], 0), u64::MAX);
    }

    #[test]
    fn releases() {
        assert!(is_since("6.13.0", (6, 13)));
        assert!(is_since("6.18.44-fc-v669", (6, 13)));
        assert!(is_since("7.0-rc1", (6, 13)));
        assert!(!is_since("6.12.99", (6, 13)));
        assert!(!is_since("5.15.0-generic", (6, 13)));
        assert!(!is_since("linux", (6, 13)));
    }
}
