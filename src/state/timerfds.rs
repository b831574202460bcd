//! timerfds: timerfd_create(2).
//!
//! CRIU restores timerfds. They are compared because a program waits for ever for a timerfd that stands still or has lost
//! its expirations. All work is done from outside the process, by a descriptor of the same open file.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use criu_signals_images::clocks::TimerFd;
use criu_signals_images::{Difference, Pid, timerfd_differs};

use super::{Done, PATIENCE};
use crate::error::{Error, Result};
use crate::proc;
use crate::tracee::files::{self, Files};

/// How long a timerfd that shows no time left is watched: its interrupt may be late. All timerfds of a process together are
/// watched for [`PATIENCE`].
const WATCHED: Duration = Duration::from_millis(20);
/// Of the slowest kernel (CONFIG_HZ=100), twice.
const TICK: u64 = 20_000_000;

/// A timerfd, and whether its time runs. A timerfd that has expired and was not read looks like a timerfd that was never
/// armed: timerfd_gettime(2) or a read arms it again (`do_timerfd_gettime`, fs/timerfd.c).
struct Found {
    timer: TimerFd,
    runs: bool,
}

/// The timerfds of these descriptors of a stopped process; `None` if one of them can't be read.
///
/// # Errors
/// If `/proc/PID/fdinfo` can't be read.
pub fn capture(pid: Pid, fds: &[i32]) -> Result<Option<Vec<TimerFd>>> {
    let timer = |fd: &i32| proc::timerfd_of_stopped(pid, *fd).transpose();
    let timers = fds.iter().filter_map(timer).collect::<Result<Vec<_>>>()?;
    Ok((timers.len() == fds.len()).then_some(timers))
}

/// Compares the timerfds of a process that CRIU has restored with the captured timerfds, and puts them back if `repair`
/// says so. Their time runs, so the remaining time differs only if it is longer than it can be. Errors are added to
/// `errors`.
///
/// # Errors
/// If the files can't be looked at.
pub fn check(
    pid: Pid,
    dumped: &[TimerFd],
    repair: bool,
    errors: &mut Vec<Error>,
) -> Result<Vec<(Difference, Done)>> {
    if dumped.is_empty() {
        return Ok(Vec::new());
    }
    let files = Files::open(pid)?;
    let until = Instant::now() + PATIENCE;
    let mut findings = Vec::new();
    for wanted in dumped {
        let found = look(pid, &files, wanted, until)?;
        let Some(difference) = differs(wanted, found.as_ref()) else {
            continue;
        };
        let done = match found {
            _ if !repair => Done::LeftAlone,
            Some(found) if found.timer.clock == wanted.clock => {
                put_back(pid, &files, wanted, &found.timer).unwrap_or_else(|e| {
                    errors.push(e);
                    Done::NotPutBack
                })
            }
            _ => Done::NotPutBack,
        };
        findings.push((difference, done));
    }
    Ok(findings)
}

fn differs(wanted: &TimerFd, found: Option<&Found>) -> Option<Difference> {
    let timer = found.map(|found| &found.timer);
    let same = |_: &TimerFd, _: &TimerFd| found.is_some_and(|found| is_right(wanted, found));
    let mut difference = timerfd_differs(wanted.fd, Some(wanted), timer, same)?;
    if found.is_some_and(|found| found.timer.interval != 0 && !found.runs) {
        difference.found.push_str(", stands still");
    }
    Some(difference)
}

/// `None` where the descriptor is no timerfd.
fn look(pid: Pid, files: &Files, wanted: &TimerFd, until: Instant) -> Result<Option<Found>> {
    let Some(file) = files.get(wanted.fd)? else {
        return Ok(None);
    };
    let Some(first) = proc::timerfd_of_stopped(pid, wanted.fd)? else {
        return Ok(None);
    };
    if first.interval == 0 || !wanted.is_set() {
        let runs = first.remaining != 0;
        return Ok(Some(Found { timer: first, runs }));
    }
    let until = until.min(Instant::now() + WATCHED);
    loop {
        files::wind_timerfd(file.as_fd())?;
        let Some(timer) = proc::timerfd_of_stopped(pid, wanted.fd)? else {
            return Ok(None);
        };
        // With a very short period the next expiry may always be over when it is shown.
        let runs = timer.remaining != 0 || timer.ticks > first.ticks;
        if runs || Instant::now() >= until {
            return Ok(Some(Found { timer, runs }));
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn is_right(wanted: &TimerFd, found: &Found) -> bool {
    let timer = &found.timer;
    let kind = |timer: &TimerFd| (timer.clock, timer.flags, timer.interval);
    if kind(wanted) != kind(timer) {
        return false;
    }
    if !wanted.is_set() {
        return !timer.is_set();
    }
    // The timerfd may have expired since the capture: criu reads it later, and arms it before the comparison.
    let most = wanted.remaining.max(wanted.interval).saturating_add(TICK);
    match (wanted.interval, wanted.remaining) {
        (0, 0) => timer.remaining == 0 && timer.ticks == wanted.ticks,
        (0, _) if timer.remaining == 0 => timer.ticks == wanted.ticks.saturating_add(1),
        (0, _) => timer.remaining <= most && timer.ticks == wanted.ticks,
        _ => found.runs && timer.remaining <= most && timer.ticks >= wanted.ticks,
    }
}

/// Sets the timerfd as captured, and reads it back.
fn put_back(pid: Pid, files: &Files, wanted: &TimerFd, found: &TimerFd) -> Result<Done> {
    let Some(file) = files.get(wanted.fd)? else {
        return Ok(Done::NotPutBack);
    };
    let mut set = wanted.clone();
    if wanted.interval != 0 && wanted.is_set() {
        // A timerfd that has expired and was not read has no time left of its period.
        if wanted.remaining == 0 {
            set.remaining = wanted.interval;
        }
        set.ticks = wanted.ticks.max(found.ticks);
    }
    files::set_timerfd(file.as_fd(), &set)?;
    if set.ticks != 0 {
        files::set_timerfd_ticks(file.as_fd(), set.ticks)?;
    }
    let now = look(pid, files, wanted, Instant::now() + PATIENCE)?;
    Ok(match differs(wanted, now.as_ref()) {
        None => Done::PutBack,
        Some(_) => Done::NotPutBack,
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use nix::sys::time::TimeSpec;
    use nix::sys::timerfd::{self, ClockId, Expiration, TimerFlags, TimerSetTimeFlags};

    use super::*;

    const S: u64 = 1_000_000_000;

    fn timer(interval: u64, remaining: u64, ticks: u64) -> TimerFd {
        TimerFd {
            fd: 3,
            clock: 1,
            ticks,
            flags: 0,
            remaining,
            interval,
        }
    }

    #[test]
    fn what_time_may_have_changed() {
        let right = |was: (u64, u64, u64), is: (u64, u64, u64)| {
            let timer = timer(is.0, is.1, is.2);
            let runs = is.1 != 0;
            is_right(&self::timer(was.0, was.1, was.2), &Found { timer, runs })
        };
        assert!(right((0, 0, 0), (0, 0, 0)));
        assert!(right((S, 0, 0), (S, 0, 0)), "an interval, and not armed");
        assert!(!right((0, 0, 0), (0, S, 0)) && !right((0, 0, 0), (0, 0, 1)));
        assert!(right((0, 2 * S, 0), (0, S, 0)) && right((0, S, 0), (0, 0, 1)));
        assert!(!right((0, S, 0), (0, 0, 0)), "it is not armed any more");
        assert!(!right((0, S, 0), (0, 2 * S, 0)), "more than it was");
        assert!(!right((0, S, 0), (0, 0, 2)), "it expires once");
        assert!(right((0, 0, 1), (0, 0, 1)));
        assert!(!right((0, 0, 1), (0, 0, 0)), "its expiration is gone");
        assert!(right((S, S / 2, 0), (S, S, 1)) && right((S, S / 2, 3), (S, S / 3, 3)));
        assert!(
            right((S, 0, 1), (S, S, 1)),
            "armed by having been looked at"
        );
        assert!(!right((S, S / 2, 3), (S, 0, 3)), "stands still");
        assert!(
            !right((S, S / 2, 3), (S, S / 3, 2)),
            "an expiration is gone"
        );
        assert!(!right((S, S / 2, 0), (S, 3 * S, 0)) && !right((S, S, 0), (2 * S, S, 0)));
        let other = |change: fn(&mut TimerFd)| {
            let mut timer = timer(0, S, 0);
            change(&mut timer);
            is_right(&self::timer(0, S, 0), &Found { timer, runs: true })
        };
        assert!(other(|_| {}));
        assert!(!other(|t| t.clock = 7) && !other(|t| t.flags = 1));
    }

    /// Of this process: what is changed is found and put back, or found and left alone.
    #[test]
    fn what_differs_is_put_back() {
        let pid = Pid::own();
        for (clock, flags) in [
            (ClockId::CLOCK_MONOTONIC, TimerSetTimeFlags::empty()),
            (
                ClockId::CLOCK_REALTIME,
                TimerSetTimeFlags::TFD_TIMER_ABSTIME,
            ),
        ] {
            let file = timerfd::TimerFd::new(clock, TimerFlags::TFD_NONBLOCK).unwrap();
            let fd = file.as_fd().as_raw_fd();
            let far = Duration::from_nanos(60 * S);
            let wanted = TimerFd {
                fd,
                clock: if flags.is_empty() { 1 } else { 0 },
                ticks: 5,
                flags: u32::try_from(flags.bits()).unwrap(),
                remaining: 50 * S,
                interval: 60 * S,
            };
            let check = |repair| {
                let mut errors = Vec::new();
                let found = check(pid, std::slice::from_ref(&wanted), repair, &mut errors).unwrap();
                assert!(errors.is_empty(), "{errors:?}");
                found
            };
            let [(difference, done)] = &*check(false) else {
                panic!("it is not armed")
            };
            assert_eq!(*done, Done::LeftAlone);
            assert!(difference.found.contains("not armed"), "{difference}");
            assert_eq!(check(true)[0].1, Done::PutBack);
            assert_eq!(check(true), []);
            let now = proc::timerfd_of_stopped(pid, fd).unwrap().unwrap();
            assert!((40 * S..=50 * S).contains(&now.remaining), "{now}");
            assert_eq!(now.ticks, 5);
            file.set(
                Expiration::OneShot(TimeSpec::from(far)),
                TimerSetTimeFlags::empty(),
            )
            .unwrap();
            assert_eq!(check(true)[0].1, Done::PutBack);
            assert_eq!(file.as_fd().as_raw_fd(), fd);
        }
        // What is no timerfd is not made one.
        let (pipe, _other) = nix::unistd::pipe().unwrap();
        let wanted = TimerFd {
            fd: pipe.as_raw_fd(),
            ..timer(0, S, 0)
        };
        let found = check(pid, &[wanted], true, &mut Vec::new()).unwrap();
        assert_eq!(found[0].1, Done::NotPutBack);
        assert_eq!(found[0].0.found, "no timerfd");
    }

    /// Expired and not read, however fast: it runs, and is left as it is.
    #[test]
    fn a_fast_one_that_nobody_reads_is_right() {
        for interval in [1, 1_000, 300_000, 20_000_000] {
            let file =
                timerfd::TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).unwrap();
            let span = TimeSpec::from(Duration::from_nanos(interval));
            file.set(Expiration::Interval(span), TimerSetTimeFlags::empty())
                .unwrap();
            let fd = file.as_fd().as_raw_fd();
            let mut left = 10_000;
            let wanted = loop {
                let captured = capture(Pid::own(), &[fd]).unwrap().unwrap();
                if let Some(timer) = captured.into_iter().find(|timer| timer.ticks != 0) {
                    break timer;
                }
                left -= 1;
                assert!(left != 0, "{interval} ns: it does not expire");
                std::thread::sleep(Duration::from_millis(1));
            };
            assert_eq!(wanted.interval, interval);
            let found = check(Pid::own(), &[wanted], false, &mut Vec::new()).unwrap();
            assert_eq!(found, [], "{interval} ns");
        }
    }
}
