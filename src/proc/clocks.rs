//! `/proc/PID/fdinfo` of timerfds, and RLIMIT_CPU with the time used.

use criu_signals_images::Pid;
use criu_signals_images::clocks::{Clocks, CpuLimit, TimerFd};

use super::descriptors::{Descriptor, descriptor, information};
use super::files::TIMERFD;
use super::limits::rlimit_cpu;
use super::tasks::cpu_time;
use crate::error::Result;

const SECOND: u64 = 1_000_000_000;

/// The timerfds of `pid` and its RLIMIT_CPU. Of threads with descriptors of their own (CLONE_FILES) only the leader's are looked at.
///
/// # Errors
/// If files of `/proc/PID` can't be read, or not in time.
pub fn clocks(pid: Pid) -> Result<Clocks> {
    let files = information(pid, |link| link == TIMERFD)?;
    Ok(Clocks {
        cpu: CpuLimit {
            limit: rlimit_cpu(pid)?,
            used: cpu_time(pid)?,
        },
        timerfds: files.found.iter().filter_map(timerfd).collect(),
        not_looked_at: files.left_out,
    })
}

/// The timerfd of this descriptor of `pid`, which is stopped; `None` if the descriptor is another file, or not open.
///
/// # Errors
/// If `/proc/PID/fdinfo` can't be read.
pub fn timerfd_of_stopped(pid: Pid, fd: i32) -> Result<Option<TimerFd>> {
    let file = descriptor(pid, fd, |link| link == TIMERFD)?;
    Ok(file.as_ref().and_then(timerfd))
}

/// timerfd_show, fs/timerfd.c. Kernels without CONFIG_PROC_FS show nothing, others all of it since Linux 3.17. `None` also of a
/// descriptor that is another file by now.
fn timerfd(file: &Descriptor) -> Option<TimerFd> {
    Some(TimerFd {
        fd: file.fd,
        clock: file.value("clockid")?.parse().ok()?,
        ticks: file.value("ticks")?.parse().ok()?,
        flags: u32::from_str_radix(file.value("settime flags")?, 8).ok()?,
        remaining: time(file.value("it_value")?)?,
        interval: time(file.value("it_interval")?)?,
    })
}

/// `(SECONDS, NANOSECONDS)`.
fn time(text: &str) -> Option<u64> {
    let (seconds, nanoseconds) = text
        .strip_prefix('(')?
        .strip_suffix(')')?
        .split_once(", ")?;
    let (seconds, nanoseconds): (u64, u64) = (seconds.parse().ok()?, nanoseconds.parse().ok()?);
    Some(seconds.saturating_mul(SECOND).saturating_add(nanoseconds))
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    use std::time::Duration;

    use nix::sys::time::TimeSpec;
    use nix::sys::timerfd::{ClockId, Expiration, TimerFlags, TimerSetTimeFlags};

    use super::*;

    #[test]
    fn timerfds_of_this_process() {
        let make = |clock, expiration| {
            let timer = nix::sys::timerfd::TimerFd::new(clock, TimerFlags::empty()).unwrap();
            timer.set(expiration, TimerSetTimeFlags::empty()).unwrap();
            timer
        };
        let span = |seconds| TimeSpec::from(Duration::from_secs(seconds));
        let once = make(ClockId::CLOCK_MONOTONIC, Expiration::OneShot(span(5000)));
        let often = make(
            ClockId::CLOCK_BOOTTIME,
            Expiration::IntervalDelayed(span(5000), span(70)),
        );
        let pid = Pid::own();
        let found = clocks(pid).unwrap();
        assert_eq!(found.not_looked_at, 0);
        let of = |fd: i32| found.timerfds.iter().find(|t| t.fd == fd).unwrap();
        let first = of(once.as_fd().as_raw_fd());
        assert_eq!((first.clock, first.interval, first.flags), (1, 0, 0));
        assert!((1..=5000 * SECOND).contains(&first.remaining), "{first:?}");
        let second = of(often.as_fd().as_raw_fd());
        assert_eq!((second.clock, second.interval), (7, 70 * SECOND));
        assert!(found.cpu.used < 5000 * SECOND);
    }

    #[test]
    fn all_is_read_or_nothing() {
        let text = "pos:\t0\nflags:\t02\nclockid: 0\nticks: 3\nsettime flags: 03\n\
                    it_value: (49406829, 1)\nit_interval: (1, 2)\n";
        let timerfd = |text: &str| {
            timerfd(&Descriptor {
                fd: 7,
                link: TIMERFD.to_owned(),
                info: text.to_owned(),
            })
        };
        let timer = timerfd(text).unwrap();
        assert_eq!((timer.fd, timer.ticks, timer.flags), (7, 3, 3));
        assert_eq!(timer.remaining, 49_406_829_000_000_001);
        assert_eq!(timer.interval, 1_000_000_002);
        for cut in ["clockid", "ticks", "settime", "it_value", "it_interval"] {
            let text = &text[..text.find(cut).unwrap()];
            assert_eq!(timerfd(text), None, "{cut}");
        }
        assert_eq!(time("(18446744073709551615, 5)"), Some(u64::MAX));
        for bad in ["", "()", "(1)", "(1,2)", "(-1, 2)", "(1, 2"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }
}
