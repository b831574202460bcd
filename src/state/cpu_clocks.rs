//! Finds the process or thread whose CPU time a POSIX timer counts.
//!
//! A clock of CPU time is a number below 0, which has the id of the thread or process and the kind of time
//! (include/linux/posix-timers_types.h). timer_create(CLOCK_THREAD_CPUTIME_ID) makes a timer for the calling thread, and
//! the kernel shows only that the clock is a thread's, not of which thread (`thread_cpu_timer_create`, THREAD_CLOCK). CRIU
//! creates all timers in the leader, and so takes the clock for the leader's. With the number that names the thread, any
//! thread of the process can create the same timer.
//!
//! Where BPF has read the kernel's own timer, that tells the thread ([`take`]). Otherwise the timer is set to an instant that
//! never comes; timer_gettime(2) then returns that instant less the present time of the clock. The threads are stopped, so the
//! timer's thread is the one whose clock shows that time. In the same batch, which a thread completes even if the tracer dies,
//! the timer is set back to the time that had remained.

use criu_signals_images::{PosixTimer, ProcessState};
use nix::errno::Errno;

use super::timers::{
    TIMER_ABSTIME, from_itimerspec, from_timespec, get, is_countable, read_clock, set, told_of,
};
use crate::error::{Phase, Result};
use crate::tracee::{Call, Injector, Outcome, StoppedProcess};

/// "A thread's", as the kernel shows it: THREAD_CLOCK of kernel/time/posix-cpu-timers.c.
const SOME_THREAD: i32 = thread_clock(0);
/// "The process's": PROCESS_CLOCK.
const OWN_PROCESS: i32 = (!0 << 3) | SCHED;
/// CPUCLOCK_PERTHREAD_MASK and CPUCLOCK_SCHED.
const PER_THREAD: i32 = 4;
const SCHED: i32 = 2;
/// In some 73 years of CPU time.
const NEVER: u64 = 1 << 61;

/// The clock of the CPU time of the thread with this id in its own pid namespace.
const fn thread_clock(tid: i32) -> i32 {
    named(PER_THREAD | SCHED, tid)
}

/// The clock of the same kind of CPU time as `nameless`, of the thread with this id in its own pid namespace.
pub const fn named(nameless: i32, tid: i32) -> i32 {
    (!tid << 3) | (nameless & 7)
}

/// Whose time a clock counts, as far as its number tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// The time of a thread; the number does not tell which.
    SomeThread,
    Thread(i32),
    /// Of another process, perhaps.
    Process(i32),
    /// The process's own, or no CPU time at all.
    Other,
}

fn whose(clock: i32) -> Whose {
    // The lowest three bits of a clock with a device behind it: CLOCKFD.
    if clock >= 0 || clock & 3 == 3 {
        return Whose::Other;
    }
    match (!(clock >> 3), clock & PER_THREAD != 0) {
        (0, true) => Whose::SomeThread,
        (0, false) => Whose::Other,
        (tid, true) => Whose::Thread(tid),
        (pid, false) => Whose::Process(pid),
    }
}

/// What is not known of a timer, or cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unclear {
    /// The timer counts the time of a thread, and it is not known of which.
    Unknown(&'static str),
    /// The thread has ended. The timer never expires any more; in the image it is one that is not armed.
    ThreadIsGone,
    /// It counts the time of the process with this id, which is not dumped. In the image it is one that is not armed.
    Elsewhere(i32),
}

/// Gives each timer in `state`, which was captured from `stopped`, the clock that names its thread, except for the
/// leader's, for whose clock everybody takes the one without a name. Timers whose entry is pending are left to
/// [`overruns::count`](super::overruns::count), if that will count them (`is_counted`); `perhaps` are those of which nobody
/// knows; what is `known` is not looked for. `is_dumped`: is the process with this id dumped as well?
///
/// # Errors
/// If a timer could not be set back to what it was.
pub fn resolve<Owner>(
    stopped: &StoppedProcess<Owner>,
    state: &mut ProcessState,
    perhaps: &[i32],
    known: &[i32],
    is_counted: impl Fn(&ProcessState, &PosixTimer) -> bool,
    is_dumped: impl Fn(i32) -> bool,
) -> Result<Vec<(i32, Unclear)>> {
    let mut unclear = Vec::new();
    let own = state.ids.innermost();
    for at in 0..state.timers.len() {
        let timer = state.timers[at];
        let why = match whose(timer.clock) {
            Whose::Other => continue,
            Whose::Thread(tid) if state.threads.iter().any(|t| t.ids.innermost() == tid) => {
                continue;
            }
            Whose::Thread(_) => Unclear::ThreadIsGone,
            Whose::Process(pid) if pid == own || is_dumped(pid) => continue,
            Whose::Process(pid) => Unclear::Elsewhere(pid),
            Whose::SomeThread if known.contains(&timer.id) => continue,
            Whose::SomeThread if perhaps.contains(&timer.id) => {
                Unclear::Unknown("its signal is pending in a deep queue")
            }
            Whose::SomeThread => match find_out(stopped, state, &timer, &is_counted) {
                Ok(Found::Clock(clock)) => {
                    state.timers[at].clock = clock;
                    continue;
                }
                Ok(Found::Unclear(why)) => why,
                Err(e) => return Err(e.during(Phase::Capture, stopped.pid())),
            },
        };
        if !matches!(why, Unclear::Unknown(_)) {
            state.timers[at] = not_armed(&timer);
        }
        unclear.push((timer.id, why));
    }
    Ok(unclear)
}

/// Does the clock show CPU time, so that in a process that has just been made it has hardly begun?
pub fn is_cpu_time(clock: i32) -> bool {
    let of_a_file = clock & 3 == 3;
    (clock < 0 && !of_a_file)
        || clock == libc::CLOCK_PROCESS_CPUTIME_ID
        || clock == libc::CLOCK_THREAD_CPUTIME_ID
}

/// Does this clock show a thread's time, and does it not say whose?
pub fn is_nameless(clock: i32) -> bool {
    whose(clock) == Whose::SomeThread
}

/// Gives timers in `state` the clock that names their thread, where the one that was `told` does. The leader's stays without a
/// name. Returns the ids of those of which it is known now.
pub fn take(state: &mut ProcessState, told: &[PosixTimer]) -> Vec<i32> {
    let leader = state.ids.innermost();
    let mut known = Vec::new();
    for timer in &mut state.timers {
        if !is_nameless(timer.clock) {
            continue;
        }
        let clock = told_of(told, timer).map(|told| told.clock);
        if let Some((clock, Whose::Thread(tid))) = clock.map(|clock| (clock, whose(clock))) {
            known.push(timer.id);
            if tid != leader {
                timer.clock = clock;
            }
        }
    }
    known
}

/// A timer that will never expire: no timer can be created on a clock that is gone.
fn not_armed(timer: &PosixTimer) -> PosixTimer {
    PosixTimer {
        clock: OWN_PROCESS,
        interval: 0,
        remaining: 0,
        overrun: 0,
        ..*timer
    }
}

enum Found {
    Clock(i32),
    Unclear(Unclear),
}

fn find_out<Owner>(
    stopped: &StoppedProcess<Owner>,
    state: &ProcessState,
    timer: &PosixTimer,
    is_counted: impl Fn(&ProcessState, &PosixTimer) -> bool,
) -> Result<Found> {
    let runs = timer.remaining != 0 || timer.interval != 0;
    // Of a thread that has ended the kernel gives no times.
    if state.threads.len() == 1 && runs {
        return Ok(Found::Clock(timer.clock));
    }
    if is_countable(timer) {
        return Ok(if timer.interval != 0 && is_counted(state, timer) {
            Found::Clock(timer.clock)
        } else {
            Found::Unclear(Unclear::Unknown("its signal is pending"))
        });
    }
    if timer.overrun != 0 {
        let why = "reading the clock would reset timer_getoverrun(2) of the previous delivery";
        return Ok(Found::Unclear(Unclear::Unknown(why)));
    }
    let mut injector = Injector::new(stopped)?;
    let leader = stopped.leader();
    let before = injector.run(leader, &[get(timer)])?;
    before[0].check()?;
    let (_, remaining) = from_itimerspec(&before[0].output);
    let mut calls = probe(state, timer);
    calls.push(set(timer, 0, remaining));
    let outcomes = injector.run_whole(leader, &calls)?;
    injector.finish()?;
    let (last, probed) = match outcomes.split_last() {
        Some(split) => split,
        None => return Ok(Found::Clock(timer.clock)),
    };
    let (answer, _) = answer(state, probed)?;
    if !matches!(answer, Answer::Gone) {
        last.check()?;
    }
    Ok(match answer {
        Answer::Clock(clock) => Found::Clock(clock),
        Answer::Gone => Found::Unclear(Unclear::ThreadIsGone),
        Answer::Unknown => Found::Unclear(Unclear::Unknown(
            "the time of the timer matches the clock of no thread, or of several",
        )),
    })
}

/// What [`probe`] has found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The clock that names the thread.
    Clock(i32),
    /// The thread has ended.
    Gone,
    /// No thread's clock shows the time of the timer's, or several do.
    Unknown,
}

/// The calls that tell whose time the timer counts: [`answer`] reads their outcomes. Afterwards it is set to an instant
/// that never comes.
pub(super) fn probe(state: &ProcessState, timer: &PosixTimer) -> Vec<Call> {
    let clocks = || clocks(state).map(read_clock);
    clocks()
        .chain([set(timer, TIMER_ABSTIME, NEVER), get(timer)])
        .chain(clocks())
        .collect()
}

fn clocks(state: &ProcessState) -> impl Iterator<Item = i32> {
    state
        .threads
        .iter()
        .map(|thread| thread_clock(thread.ids.innermost()))
}

/// The clock whose time it is, and what that clock shows.
///
/// # Errors
/// If a call of [`probe`] has failed.
pub(super) fn answer(state: &ProcessState, outcomes: &[Outcome]) -> Result<(Answer, u64)> {
    let threads = state.threads.len();
    let (before, rest) = outcomes.split_at(threads.min(outcomes.len()));
    let [set, left, after @ ..] = rest else {
        return Ok((Answer::Unknown, 0));
    };
    if set.errno() == Some(Errno::ESRCH) {
        return Ok((Answer::Gone, 0));
    }
    set.check()?;
    left.check()?;
    let (_, left) = from_itimerspec(&left.output);
    let time = |outcome: &Outcome| -> Result<u64> {
        outcome.check()?;
        Ok(from_timespec(&outcome.output, 0))
    };
    let before = before.iter().map(time).collect::<Result<Vec<_>>>()?;
    let after = after.iter().map(time).collect::<Result<Vec<_>>>()?;
    let clocks: Vec<i32> = clocks(state).collect();
    let now = NEVER.saturating_sub(left);
    Ok((which(&clocks, &before, &after, now), now))
}

/// The clock that showed `now` between `before` and `after`. The leader's, which comes first, needs no name.
fn which(clocks: &[i32], before: &[u64], after: &[u64], now: u64) -> Answer {
    let times = before.iter().zip(after);
    let mut fits = times
        .enumerate()
        .filter(|(_, (before, after))| (**before..=**after).contains(&now))
        .map(|(at, _)| at);
    match (fits.next(), fits.next()) {
        (Some(0), None) => Answer::Clock(SOME_THREAD),
        (Some(at), None) => clocks
            .get(at)
            .map_or(Answer::Unknown, |clock| Answer::Clock(*clock)),
        _ => Answer::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_time_a_clock_shows() {
        assert_eq!(whose(libc::CLOCK_MONOTONIC), Whose::Other);
        assert_eq!(whose(-2), Whose::SomeThread);
        assert_eq!(whose(OWN_PROCESS), Whose::Other);
        assert_eq!(OWN_PROCESS, -6);
        // pthread_getcpuclockid(3) and clock_getcpuclockid(3), as the C library has them.
        assert_eq!(whose(thread_clock(42)), Whose::Thread(42));
        assert_eq!(whose((!7 << 3) | SCHED), Whose::Process(7));
        // A clock of a file, /dev/ptp0.
        assert_eq!(whose((!5 << 3) | 3), Whose::Other);
    }

    #[test]
    fn the_clock_of_a_thread_is_the_kernel_s() {
        // Of the running kernel: the own thread's clock, by its number and by its name.
        let tid = nix::unistd::gettid().as_raw();
        let time = |clock| {
            nix::time::clock_gettime(nix::time::ClockId::from_raw(clock))
                .map(std::time::Duration::from)
        };
        let named = time(thread_clock(tid)).unwrap();
        assert!(named <= time(libc::CLOCK_THREAD_CPUTIME_ID).unwrap());
        assert!(time(thread_clock(i32::MAX >> 4)).is_err());
    }

    #[test]
    fn the_one_that_fits() {
        let clocks = [thread_clock(7), thread_clock(8), thread_clock(9)];
        let which = |now| which(&clocks, &[100, 300, 500], &[200, 300, 500], now);
        assert_eq!(which(150), Answer::Clock(SOME_THREAD));
        assert_eq!(which(300), Answer::Clock(thread_clock(8)));
        assert_eq!(which(301), Answer::Unknown);
        let twins = super::which(&clocks, &[1, 1, 2], &[1, 1, 2], 1);
        assert_eq!(twins, Answer::Unknown);
    }
}
