//! Counts the overruns of pending timer entries, and finds whether the kernel would deliver the entries.
//!
//! The kernel tells the overrun count only with the delivery of the entry (kernel/time/posix-timers.c,
//! `__posixtimer_deliver_signal`). So the entry is taken out, and the timer is made to expire again, at the time of its
//! first expiry: then the timer has the same overrun count, and goes on counting with the same period. Every batch that
//! takes an entry out also brings it back, and a thread completes its batch even if the tracer dies: a part of the count
//! can be lost, never the signal.
//!
//! If a BPF program has read the count from the kernel's own timer, none of this is done ([`take`]).
//!
//! The same call tells whether the entry would be delivered at all: the kernel drops the entry of a timer that was disarmed
//! or set since, but only when the entry is about to be delivered.
//!
//! Afterwards two things differ from before, and a program should notice neither: the entry is the last of its queue
//! (it was the only one of its number, and numbers are delivered in their own order), and a timer on CLOCK_REALTIME
//! that was set to a relative time now follows the clock when that is set. So overruns are counted only on request.

use std::time::Instant;

use criu_signals_images::{
    Disposition, Fields, PosixTimer, ProcessState, SIGINFO_SIZE, SigNo, Siginfo, Tid, TimerEntry,
};

use super::dispositions::sigaction;
use super::queues::{Queue, take_one};
use super::timers::{
    TIMER_ABSTIME, comes_into_queue, expire_again, first_expiry, from_itimerspec, from_timespec,
    get, has_both, is_countable, is_in_queue, is_soon_enough, may_be_handled, queue_of, read_clock,
    set, told_of,
};
use super::{Site, cpu_clocks};
use nix::errno::Errno;

use crate::error::{Cause, Error, Phase, Result};
use crate::fault::{self, Point};
use crate::proc::SignalStatus;
use crate::tracee::{Call, Injector, Outcome, StoppedProcess};

/// What [`take`] and [`count`] report of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncounted {
    /// Its overruns were not counted: they begin at 0 after a restore.
    Left(&'static str),
    /// The overruns were counted, and timer_getoverrun(2) has lost the count of the delivery before.
    Forgotten(u32),
    /// The overruns are known, but a restore can't put back both them and the count of the delivery before
    /// (timer_getoverrun(2)).
    NotBoth(u32),
}

/// Writes into `state`, which was captured, what `told` has read of the kernel's own timers since: of pending entries their
/// overruns, and whether the kernel will drop them. Nothing is done to the process. What is not told is left to [`count`].
pub fn take(state: &mut ProcessState, told: &[PosixTimer]) -> Vec<(i32, Uncounted)> {
    let mut timers = std::mem::take(&mut state.timers);
    let mut left = Vec::new();
    for timer in timers.iter_mut().filter(|timer| is_countable(timer)) {
        let Some(known) = told_of(told, timer) else {
            continue;
        };
        let is_taken = match (timer.entry, known.entry) {
            (TimerEntry::Pending, TimerEntry::Pending) => true,
            // What timer_getoverrun(2) gives beside such an entry is not put back.
            (TimerEntry::Ignored, TimerEntry::Ignored) => timer.overrun == 0,
            _ => false,
        };
        // If it is not told whose time the timer counts, only the count finds out.
        if !is_taken || cpu_clocks::is_nameless(known.clock) {
            continue;
        }
        *timer = PosixTimer {
            entry: known.entry,
            entry_overrun: known.entry_overrun,
            remaining: known.remaining,
            ..*timer
        };
        if has_both(timer)
            && !cpu_clocks::is_cpu_time(timer.clock)
            && !(is_soon_enough(timer) && is_first(state, timer))
        {
            left.push((timer.id, Uncounted::NotBoth(timer.overrun)));
        }
    }
    state.timers = timers;
    left
}

/// Is no other entry of its number taken before that of the timer? The leader takes from its own queue first.
fn is_first(state: &ProcessState, timer: &PosixTimer) -> bool {
    let of_leader = state.threads.first().map(|leader| leader.pending.bits);
    if timer.thread().is_none()
        && SigNo::new(timer.signo)
            .is_some_and(|signo| of_leader.is_some_and(|bits| bits.contains(signo)))
    {
        return false;
    }
    let mut queue = queue_of(state, timer).queue.iter();
    queue
        .find(|info| info.signo() == timer.signo)
        .is_some_and(|info| timer.made(info))
}

/// Counts overruns, and writes the counts and the changed queues into `state`, which was captured from `stopped` and
/// not changed since. Returns the timers whose overruns could not be counted or kept.
///
/// `may_run_on`: may the process go on running after the dump? Then timer_getoverrun(2) must not forget the delivery before,
/// and such a timer is left.
///
/// A timer that counts the CPU time of a thread which nobody knows is told whose, as
/// [`cpu_clocks::resolve`] does for the others.
///
/// # Errors
/// If the state of a timer could not be restored; the error names the timer.
pub fn count<Owner>(
    stopped: &StoppedProcess<Owner>,
    state: &mut ProcessState,
    may_run_on: bool,
) -> Result<Vec<(i32, Uncounted)>> {
    // One that expires once stands for itself only; if it counts a thread's time, and the thread has ended, nobody could bring its
    // entry back.
    let is_uncounted = |timer: &PosixTimer| {
        is_countable(timer)
            && timer.entry_overrun.is_none()
            && (timer.interval != 0 || !cpu_clocks::is_nameless(timer.clock))
    };
    if !state.timers.iter().any(is_uncounted) {
        return Ok(Vec::new());
    }
    let mut inner = || {
        let mut injector = Injector::new(stopped)?;
        let mut left = Vec::new();
        let mut continued = false;
        for at in 0..state.timers.len() {
            let timer = state.timers[at];
            if !is_uncounted(&timer) {
                continue;
            }
            let (tid, which) = match place(state, &timer, may_run_on) {
                Ok(place) => place,
                Err(why) => {
                    left.push((timer.id, Uncounted::Left(why)));
                    continue;
                }
            };
            let (counted, forgotten) = count_one(&mut injector, state, &timer, tid, which)
                .map_err(|e| e.in_thread(tid))?;
            state.timers[at] = counted;
            continued |= timer.signo == SigNo::CONT.get();
            left.extend(forgotten.map(|overrun| (timer.id, Uncounted::Forgotten(overrun))));
        }
        let leader = stopped.leader();
        let mut site = |tid, which: Queue| {
            let site = Site {
                injector: &mut injector,
                tid,
            };
            which.read(&site, usize::MAX)
        };
        state.shared = site(leader, Queue::Shared)?;
        for thread in &mut state.threads {
            thread.pending = site(thread.tid(), Queue::Private)?;
        }
        if continued {
            injector.trap_after_sigcont()?;
        }
        injector.finish()?;
        Ok(left)
    };
    inner().map_err(|e: Error| e.during(Phase::Capture, stopped.pid()))
}

/// Will [`count`] count this timer, whose entry is pending or kept aside?
pub fn is_counted(state: &ProcessState, timer: &PosixTimer, may_run_on: bool) -> bool {
    place(state, timer, may_run_on).is_ok()
}

/// Where the timer's entry can be counted, or why it can't.
fn place(
    state: &ProcessState,
    timer: &PosixTimer,
    may_run_on: bool,
) -> std::result::Result<(Tid, Queue), &'static str> {
    if timer.overrun != 0 && (may_run_on || timer.entry == TimerEntry::Ignored) {
        return Err("counting would reset timer_getoverrun(2) of the previous delivery");
    }
    if timer.entry == TimerEntry::Ignored && !may_be_handled(state, timer) {
        return Err(
            "the signal is ignored, and counting needs a handler for a moment: the kernel would remove other signals of the \
             number, or a thread could take the signal",
        );
    }
    alone(state, timer).ok_or("other signals of its number are pending")
}

/// Where the timer's entry can be taken out without any other: rt_sigtimedwait(2) takes the first of a number,
/// from the thread's own queue first.
fn alone(state: &ProcessState, timer: &PosixTimer) -> Option<(Tid, Queue)> {
    let signo = SigNo::new(timer.signo)?;
    let leader = state.threads.first()?;
    let (thread, queues, which) = match timer.thread() {
        Some(id) => {
            let thread = state.threads.iter().find(|t| t.ids.innermost() == id)?;
            // The kernel may drop the entry, and then gives the first of the shared queue.
            (thread, vec![&thread.pending, &state.shared], Queue::Private)
        }
        None => (leader, vec![&leader.pending, &state.shared], Queue::Shared),
    };
    let same_number = |info: &&Siginfo| info.signo() == timer.signo;
    let entries: Vec<&Siginfo> = queues
        .iter()
        .flat_map(|queue| queue.queue.iter().filter(same_number))
        .collect();
    let bare = queues
        .iter()
        .any(|queue| queue.bits_without_info().contains(signo));
    let free = match timer.entry {
        TimerEntry::Pending => matches!(entries.as_slice(), [own] if timer.made(own)) && !bare,
        // Nothing of the number is pending anywhere ([`may_be_handled`]).
        TimerEntry::Ignored => {
            let mut timers = state.timers.iter();
            !timers.any(|other| {
                other.id != timer.id
                    && other.entry == TimerEntry::Ignored
                    && other.signo == timer.signo
            })
        }
        TimerEntry::Idle | TimerEntry::Stale => false,
    };
    free.then(|| (thread.tid(), which))
}

/// Returns the timer as it is known then, and what timer_getoverrun(2) has forgotten.
fn count_one<Owner>(
    injector: &mut Injector<'_, Owner>,
    state: &ProcessState,
    timer: &PosixTimer,
    tid: Tid,
    which: Queue,
) -> Result<(PosixTimer, Option<u32>)> {
    let Some(signo) = SigNo::new(timer.signo) else {
        return Ok((*timer, None));
    };
    let mut one = Counting {
        timer: *timer,
        signo,
        tid,
        which,
        ignored: (timer.entry == TimerEntry::Ignored).then(|| state.dispositions[signo]),
    };
    let Some(now) = one.look(injector, state)? else {
        return Ok((one.timer, None));
    };
    // The entry is back, and its overruns are still to be gathered again: done before any error is returned.
    let passed = fault::point(Point::OverrunCounted);
    let timer = one.timer;
    if timer.overrun != 0
        // Both are to be had if it is not long that the entry is pending.
        && let Some(hold) = expire_again(injector, &timer, signo, tid)?
    {
        std::thread::sleep(hold.saturating_duration_since(Instant::now()));
        passed?;
        return Ok((timer, None));
    }
    one.gather(injector, now)?;
    passed?;
    Ok((timer, (timer.overrun != 0).then_some(timer.overrun)))
}

/// A timer whose overruns are counted.
struct Counting {
    timer: PosixTimer,
    signo: SigNo,
    tid: Tid,
    which: Queue,
    /// The disposition of a signal that is ignored. An entry that is kept aside comes into the queue while the signal has a
    /// handler (which is never entered: no thread can take the signal, see [`may_be_handled`]), and goes back when the signal
    /// is ignored again.
    ignored: Option<Disposition>,
}

impl Counting {
    fn around(&self, calls: Vec<Call>) -> Vec<Call> {
        let Some(kept) = &self.ignored else {
            return calls;
        };
        let handled = Disposition {
            handler: 2,
            ..Disposition::default()
        };
        std::iter::once(sigaction(self.signo, &handled))
            .chain(calls)
            .chain([sigaction(self.signo, kept)])
            .collect()
    }

    /// Where the results of the calls are that go [`around`](Self::around).
    fn first(&self) -> usize {
        usize::from(self.ignored.is_some())
    }

    /// Takes the entry out, reads its overruns and lets the timer expire once more. Returns what its clock showed, or
    /// `None` if the kernel has dropped the entry.
    fn look<Owner>(
        &mut self,
        injector: &mut Injector<'_, Owner>,
        state: &ProcessState,
    ) -> Result<Option<u64>> {
        let clock = [read_clock(self.timer.clock), get(&self.timer)];
        let outcomes = injector.run(self.tid, &clock)?;
        let (now, remaining) = when(&outcomes)?;
        // The clock is not the thread's in which it is read: any instant in the past will do for now.
        let nameless = cpu_clocks::is_nameless(self.timer.clock);
        let (probe, first) = if nameless {
            (cpu_clocks::probe(state, &self.timer), 1)
        } else {
            let timer = PosixTimer {
                remaining,
                ..self.timer
            };
            (Vec::new(), first_expiry(&timer, now, 0))
        };
        let probes = probe.len();
        let mut calls = vec![take_one(self.signo)];
        calls.extend(clock);
        calls.extend(probe);
        calls.push(set(&self.timer, TIMER_ABSTIME, first));
        let at = self.first();
        // In one piece: what is taken out comes back.
        let outcomes = injector.run_whole(self.tid, &self.around(calls))?;
        let gone = outcomes[at].errno() == Some(Errno::EAGAIN);
        if !gone {
            outcomes[at].check()?;
            self.timer.entry_overrun = Some(self.overrun_of(injector, &outcomes[at])?);
        }
        let (now, remaining) = when(&outcomes[at + 1..=at + 2])?;
        self.timer.remaining = remaining;
        if gone {
            // The timer had been set since. By now it has expired again, so it is set once more, or disarmed (a time of 0).
            self.timer.entry = TimerEntry::Stale;
            let outcomes = injector.run(self.tid, &[set(&self.timer, 0, remaining)])?;
            outcomes[0].check()?;
            return Ok(None);
        }
        if !nameless {
            return Ok(Some(now));
        }
        let (answer, time) = cpu_clocks::answer(state, &outcomes[at + 3..at + 3 + probes])?;
        if let cpu_clocks::Answer::Clock(clock) = answer {
            self.timer.clock = clock;
        }
        Ok(Some(time))
    }

    /// The expiries that the entry, which was taken out, stands for.
    fn overrun_of<Owner>(
        &self,
        injector: &mut Injector<'_, Owner>,
        taken: &Outcome,
    ) -> Result<u32> {
        let taken: [u8; SIGINFO_SIZE] =
            taken.output.as_slice().try_into().map_err(|_| {
                Error::new("rt_sigtimedwait", Cause::Unexpected("no siginfo".into()))
            })?;
        let taken = Siginfo::from_bytes(taken);
        if let Fields::Timer { overrun, .. } = taken.fields() {
            // Below 0 only in what somebody has made up.
            return Ok(overrun.max(0).cast_unsigned());
        }
        // Somebody has just sent it to the thread itself, whose queue comes first.
        let tid = self.tid;
        let pid = injector.process().pid();
        let ids = SignalStatus::read(pid, tid)?.ids;
        Queue::Private.queue(&mut Site { injector, tid }, &ids, &[taken])?;
        Err(Error::new(
            format!("count the overruns of timer {}", self.timer.id),
            Cause::Unexpected(format!("{taken} was returned instead of the timer's entry")),
        ))
    }

    /// Lets the timer expire as often as its entry has stood for, and waits until that is there.
    fn gather<Owner>(&self, injector: &mut Injector<'_, Owner>, now: u64) -> Result<()> {
        let Counting { timer, tid, .. } = self;
        let overrun = timer.entry_overrun.unwrap_or(0);
        let again = self.around(vec![
            take_one(self.signo),
            set(timer, TIMER_ABSTIME, first_expiry(timer, now, overrun)),
        ]);
        let outcomes = injector.run(*tid, &again)?;
        outcomes[self.first() + 1].check()?;
        if let Some(kept) = &self.ignored {
            // It is aside already, unless the interrupt came late.
            if is_in_queue(timer, *tid, self.which, 0)? {
                injector.run(*tid, &[sigaction(self.signo, kept)])?;
            }
            return Ok(());
        }
        if !comes_into_queue(timer, *tid, self.which, 0)? {
            return Err(Error::new(
                format!("let timer {} expire again", timer.id),
                Cause::NotKept("the timer's entry does not return to the queue".into()),
            ));
        }
        Ok(())
    }
}

/// What the two calls of `read_clock` and `get` gave: now, and what remains.
fn when(outcomes: &[Outcome]) -> Result<(u64, u64)> {
    let [clock, timer] = outcomes else {
        return Err(Error::new(
            "timer_gettime",
            Cause::Unexpected("no result".into()),
        ));
    };
    clock.check()?;
    timer.check()?;
    let (_, remaining) = from_itimerspec(&timer.output);
    Ok((from_timespec(&clock.output, 0), remaining))
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_signals_images::{Notify, NsIds, Pending, ThreadState};

    fn timer(notify: Notify, entry: TimerEntry) -> PosixTimer {
        PosixTimer {
            notify,
            interval: 10,
            remaining: 5,
            entry,
            ..PosixTimer::bare(1, 34)
        }
    }

    fn own() -> Siginfo {
        let fields = Fields::Timer {
            id: 1,
            overrun: 0,
            value: 0,
            sys_private: 0,
        };
        Siginfo::from_fields(34, 0, -2, &fields)
    }

    fn kill() -> Siginfo {
        Siginfo::from_fields(34, 0, 0, &Fields::Kill { pid: 1, uid: 0 })
    }

    fn pending(queue: &[Siginfo]) -> Pending {
        Pending {
            bits: queue.iter().filter_map(|i| SigNo::new(i.signo())).collect(),
            queue: queue.to_vec(),
        }
    }

    fn process(shared: &[Siginfo], leader: &[Siginfo], thread: &[Siginfo]) -> ProcessState {
        let ids = |id| NsIds::new(vec![id]).expect("an id");
        let state = |id, queue: &[Siginfo]| ThreadState {
            pending: pending(queue),
            ..ThreadState::bare(ids(id))
        };
        ProcessState {
            shared: pending(shared),
            threads: vec![state(7, leader), state(8, thread)],
            ..ProcessState::bare(ids(7))
        }
    }

    #[test]
    fn only_what_comes_out_alone_is_taken_out() {
        let pending = timer(Notify::Process, TimerEntry::Pending);
        let at = |state: &ProcessState, timer: &PosixTimer| alone(state, timer).map(|(tid, _)| tid);
        assert_eq!(at(&process(&[own()], &[], &[]), &pending), Tid::new(7));
        assert_eq!(
            at(&process(&[own()], &[], &[kill()]), &pending),
            Tid::new(7),
            "another thread's queue is not looked at"
        );
        assert_eq!(at(&process(&[kill(), own()], &[], &[]), &pending), None);
        assert_eq!(at(&process(&[own()], &[kill()], &[]), &pending), None);

        let directed = timer(Notify::Thread(8), TimerEntry::Pending);
        assert_eq!(at(&process(&[], &[], &[own()]), &directed), Tid::new(8));
        assert_eq!(
            at(&process(&[kill()], &[], &[own()]), &directed),
            None,
            "if the kernel drops the entry, the shared one comes"
        );
        assert_eq!(at(&process(&[], &[], &[own(), kill()]), &directed), None);

        let aside = timer(Notify::Process, TimerEntry::Ignored);
        let mut state = process(&[], &[], &[]);
        state.timers = vec![aside];
        assert_eq!(at(&state, &aside), Tid::new(7));
        state.timers.push(PosixTimer { id: 2, ..aside });
        assert_eq!(at(&state, &aside), None, "both would come into the queue");
    }
}
