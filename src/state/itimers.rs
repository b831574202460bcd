//! Interval timers: setitimer(2).
//!
//! If a timer has an interval and no remaining time, CRIU arms the timer as if it were about to expire. But an
//! ITIMER_REAL that has expired is not armed until its SIGALRM is delivered (kernel/signal.c,
//! `posixtimer_rearm_itimer`), and the two others may have an interval without being armed (`set_cpu_itimer`).

use std::time::{Duration, Instant};

use criu_signals_images::{
    Difference, Disposition, IntervalTimer, ProcessState, SigNo, SigSet, compare_interval_timers,
};

use super::dispositions::sigaction;
use super::{Done, PATIENCE, Site};
use crate::error::{Cause, Error, Result};
use crate::proc::SignalStatus;
use crate::tracee::{Call, Injector, Outcome};

/// `sizeof(struct itimerval)`: interval and value, each seconds and microseconds.
const ITIMERVAL_SIZE: usize = 32;
const MICROS: u64 = 1_000_000;
const ITIMER_REAL: u32 = 0;
const SIG_IGN: u64 = 1;

/// The calls that read the timers; [`from_outcomes`] reads their results.
pub fn read() -> Vec<Call> {
    let call = |which| {
        Call::new(libc::SYS_getitimer, format!("getitimer({which})"))
            .value(u64::from(which))
            .output(ITIMERVAL_SIZE)
    };
    IntervalTimer::KINDS.map(call).to_vec()
}

/// The timers that are armed, or have an interval.
///
/// # Errors
/// If a call of [`read`] has failed.
pub fn from_outcomes(outcomes: &[Outcome]) -> Result<Vec<IntervalTimer>> {
    let mut timers = Vec::new();
    for (which, outcome) in IntervalTimer::KINDS.into_iter().zip(outcomes) {
        outcome.check()?;
        let timer = IntervalTimer {
            which,
            interval: time(&outcome.output, 0),
            remaining: time(&outcome.output, 16),
        };
        if timer.interval != 0 || timer.remaining != 0 {
            timers.push(timer);
        }
    }
    Ok(timers)
}

/// Compares the timers of a process that CRIU has restored with the captured timers, and puts them back if `repair` says
/// so. Their time runs, so the remaining time differs only if it is longer than it can be.
///
/// # Errors
/// If they can't be read or set.
pub fn check<Owner>(
    injector: &mut Injector<'_, Owner>,
    dumped: &ProcessState,
    repair: bool,
) -> Result<Vec<(Difference, Done)>> {
    if dumped.interval_timers.is_empty() {
        return Ok(Vec::new());
    }
    let now = capture(injector)?;
    let differences = compare_interval_timers(&dumped.interval_timers, &now, is_right);
    if repair {
        return put_back_all(injector, dumped, differences);
    }
    let left_alone = |(_, difference)| (difference, Done::LeftAlone);
    Ok(differences.into_iter().map(left_alone).collect())
}

/// The differences in a process that has run since the dump: intervals, and which timers are armed. The remaining time does
/// not count, because programs arm timers again. A timer without an interval that is not armed any more is a difference,
/// whether the timer has expired or the program has stopped it.
pub fn differences(dumped: &ProcessState, now: &ProcessState) -> Vec<(IntervalTimer, Difference)> {
    compare_interval_timers(&dumped.interval_timers, &now.interval_timers, is_set_alike)
}

/// Puts back the timers that differ, and reads each back.
///
/// # Errors
/// If they can't be read or set.
pub fn put_back_all<Owner>(
    injector: &mut Injector<'_, Owner>,
    dumped: &ProcessState,
    differences: Vec<(IntervalTimer, Difference)>,
) -> Result<Vec<(Difference, Done)>> {
    let mut findings = Vec::new();
    for (wanted, difference) in differences {
        put_back(injector, dumped, &wanted)?;
        let now = capture(injector)?;
        let done = if is_right(&wanted, &IntervalTimer::of_kind(&now, wanted.which)) {
            Done::PutBack
        } else {
            Done::NotPutBack
        };
        findings.push((difference, done));
    }
    Ok(findings)
}

fn capture<Owner>(injector: &mut Injector<'_, Owner>) -> Result<Vec<IntervalTimer>> {
    let leader = injector.process().leader();
    from_outcomes(&injector.run(leader, &read())?)
}

fn is_right(wanted: &IntervalTimer, found: &IntervalTimer) -> bool {
    let armed = match (wanted.remaining, found.remaining) {
        (0, 0) => true,
        (0, _) => false,
        // The timer has expired since. The expiry arms a timer of CPU time again.
        (_, 0) => wanted.interval == 0 || wanted.which == ITIMER_REAL,
        // A tick of the clock of CPU time is more than the time that was asked for.
        (was, is) => is <= was.max(wanted.interval) + TICK,
    };
    // A timer that has expired for good leaves no state.
    let expired = wanted.interval == 0 && found.interval == 0;
    (expired || wanted.interval == found.interval) && armed
}

fn is_set_alike(dumped: &IntervalTimer, now: &IntervalTimer) -> bool {
    // The timer has expired, and its signal is pending or was ignored: no program can stop a timer and keep its interval.
    let has_expired = is_periodic_real(dumped) && !now.is_armed();
    dumped.interval == now.interval && (dumped.is_armed() == now.is_armed() || has_expired)
}

/// Of the slowest kernel (CONFIG_HZ=100), twice.
const TICK: u64 = 20_000_000;

/// The number that is not to be taken out of the shared queue, because that arms an ITIMER_REAL that has expired.
pub(crate) fn armed_by_taking(state: &ProcessState) -> SigSet {
    let timers = &state.interval_timers;
    if timers.iter().any(is_periodic_real) {
        SigSet::EMPTY.with(SigNo::ALRM)
    } else {
        SigSet::EMPTY
    }
}

fn is_periodic_real(timer: &IntervalTimer) -> bool {
    timer.which == ITIMER_REAL && timer.interval != 0
}

/// Does `work` in the shared queue, by which a SIGALRM may come out and be queued again. Afterwards an ITIMER_REAL that had
/// expired is not armed.
///
/// # Errors
/// That of `work`, or if the timer can't be read or set.
pub(crate) fn keeping_expired<Owner, T>(
    site: &mut Site<'_, '_, Owner>,
    work: impl FnOnce(&mut Site<'_, '_, Owner>) -> Result<T>,
) -> Result<T> {
    let is_pending = |site: &Site<'_, '_, Owner>| -> Result<bool> {
        let status = SignalStatus::read(site.pid(), site.tid)?;
        Ok(status.shared_pending.contains(SigNo::ALRM))
    };
    if !is_pending(site)? {
        return work(site);
    }
    let before = IntervalTimer::of_kind(&capture(site.injector)?, ITIMER_REAL);
    let done = work(site)?;
    let has_expired = is_periodic_real(&before) && before.remaining == 0;
    if has_expired
        && is_pending(site)?
        && IntervalTimer::of_kind(&capture(site.injector)?, ITIMER_REAL).remaining != 0
    {
        let_expire(site.injector, &before)?;
    }
    Ok(done)
}

/// Makes an expired ITIMER_REAL by letting the timer expire. Either its SIGALRM is pending already, and the kernel queues
/// no second SIGALRM; or SIGALRM was ignored at the expiry, and then the new SIGALRM is removed by ignoring it once more,
/// without a delivery.
fn put_back<Owner>(
    injector: &mut Injector<'_, Owner>,
    dumped: &ProcessState,
    wanted: &IntervalTimer,
) -> Result<()> {
    let leader = injector.process().leader();
    if !is_periodic_real(wanted) || wanted.is_armed() {
        return done(&injector.run(leader, &[set(wanted)])?);
    }
    let pid = injector.process().pid();
    let before = SignalStatus::read(pid, leader)?;
    let was_pending = before.shared_pending.contains(SigNo::ALRM);
    let_expire(injector, wanted)?;
    if was_pending {
        return Ok(());
    }
    let ignored = Disposition {
        handler: SIG_IGN,
        ..Disposition::default()
    };
    let kept = dumped.dispositions[SigNo::ALRM];
    let calls = [
        sigaction(SigNo::ALRM, &ignored),
        sigaction(SigNo::ALRM, &kept),
    ];
    done(&injector.run_whole(leader, &calls)?)
}

fn let_expire<Owner>(injector: &mut Injector<'_, Owner>, wanted: &IntervalTimer) -> Result<()> {
    let about_to = IntervalTimer {
        remaining: 1_000,
        ..*wanted
    };
    let leader = injector.process().leader();
    done(&injector.run(leader, &[set(&about_to)])?)?;
    let deadline = Instant::now() + PATIENCE;
    while IntervalTimer::of_kind(&capture(injector)?, ITIMER_REAL).remaining != 0 {
        if Instant::now() >= deadline {
            return Err(Error::new(
                "let ITIMER_REAL expire",
                Cause::NotKept("the timer does not expire".into()),
            ));
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(())
}

fn done(outcomes: &[Outcome]) -> Result<()> {
    outcomes
        .iter()
        .try_for_each(|outcome| outcome.check().map(drop))
}

fn set(timer: &IntervalTimer) -> Call {
    let times = [timer.interval, timer.remaining];
    let bytes: Vec<u8> = times
        .iter()
        .flat_map(|ns| [ns / 1_000 / MICROS, ns / 1_000 % MICROS])
        .flat_map(u64::to_le_bytes)
        .collect();
    Call::new(libc::SYS_setitimer, format!("setitimer({})", timer.name()))
        .value(u64::from(timer.which))
        .input(bytes)
        .value(0)
}

/// A struct timeval, in nanoseconds.
fn time(bytes: &[u8], at: usize) -> u64 {
    let word = |at: usize| {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(bytes.iter().skip(at)) {
            *to = *from;
        }
        u64::from_le_bytes(word)
    };
    word(at)
        .saturating_mul(MICROS)
        .saturating_add(word(at + 8))
        .saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(which: u32, interval: u64, remaining: u64) -> IntervalTimer {
        IntervalTimer {
            which,
            interval,
            remaining,
        }
    }

    #[test]
    fn what_time_may_have_changed() {
        let right = |was: (u64, u64), is: (u64, u64)| {
            is_right(&timer(0, was.0, was.1), &timer(0, is.0, is.1))
        };
        const S: u64 = 1_000_000_000;
        assert!(right((S, S / 2), (S, S / 3)));
        assert!(right((S, S / 2), (S, S)), "it has expired since");
        assert!(right((S, S / 2), (S, 0)), "and its signal is pending");
        assert!(!right((S, 0), (S, S)), "nothing has been delivered");
        assert!(right((S, 0), (S, 0)));
        assert!(!right((S, 0), (0, 0)));
        assert!(right((0, S), (0, 0)), "expired for good");
        assert!(!right((0, S), (0, 2 * S)));
        let cpu = |was: u64, is: u64| is_right(&timer(1, S, was), &timer(1, S, is));
        assert!(!cpu(S, 0), "one of CPU time is armed by its expiry");
        assert!(cpu(0, 0));
    }

    #[test]
    fn what_a_program_may_have_changed() {
        let alike = |which, was: (u64, u64), is: (u64, u64)| {
            is_set_alike(&timer(which, was.0, was.1), &timer(which, is.0, is.1))
        };
        const S: u64 = 1_000_000_000;
        assert!(alike(0, (0, S), (0, 9 * S)), "armed again");
        assert!(!alike(0, (0, S), (0, 0)), "expired, or stopped");
        assert!(!alike(0, (0, 0), (0, S)));
        assert!(!alike(0, (500 * S, S), (3 * S, S)));
        assert!(alike(0, (S, S), (S, 0)), "its signal is pending");
        assert!(!alike(0, (S, 0), (S, S)), "its signal was delivered");
        assert!(
            !alike(1, (S, S), (S, 0)),
            "one of CPU time is armed by its expiry"
        );
    }

    #[test]
    fn sigalrm_stays_where_it_would_arm_a_timer() {
        let stays = |timers: &[IntervalTimer]| {
            let ids = criu_signals_images::NsIds::new(vec![7]).unwrap();
            let state = ProcessState {
                interval_timers: timers.to_vec(),
                ..ProcessState::bare(ids)
            };
            armed_by_taking(&state).contains(SigNo::ALRM)
        };
        assert!(stays(&[timer(ITIMER_REAL, 5, 0)]));
        assert!(!stays(&[timer(ITIMER_REAL, 0, 5), timer(1, 5, 0)]));
    }

    #[test]
    fn times_are_those_of_the_kernel() {
        assert_eq!(size_of::<libc::itimerval>(), ITIMERVAL_SIZE);
        let mut bytes = 3_u64.to_le_bytes().to_vec();
        bytes.extend(7_u64.to_le_bytes());
        assert_eq!(time(&bytes, 0), 3_000_007_000);
    }
}
