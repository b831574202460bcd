//! Clocks of a process other than its POSIX and interval timers: timerfds, and RLIMIT_CPU with the time used.

use std::fmt;

use crate::codec::{Codec, at_most, proto::signals as pb};
use crate::error::FieldError;
use crate::kernel_names::Clock;
use crate::rlimit::Rlimit;

const SECOND: u64 = 1_000_000_000;
/// TFD_TIMER_ABSTIME and TFD_TIMER_CANCEL_ON_SET, include/uapi/linux/timerfd.h.
const ABSOLUTE: u32 = 1;
const CANCEL_ON_SET: u32 = 2;

/// Of the timerfds of one process in an image.
pub const TIMERFDS_LIMIT: usize = 4096;

/// A descriptor of timerfd_create(2), as `/proc/PID/fdinfo` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimerFd {
    /// Its number.
    pub fd: i32,
    /// The clock.
    pub clock: i32,
    /// Expirations that no read(2) has fetched.
    pub ticks: u64,
    /// Of timerfd_settime(2).
    pub flags: u32,
    /// Nanoseconds to the next expiration; 0: not armed.
    pub remaining: u64,
    /// Nanoseconds between expirations; 0: there is one.
    pub interval: u64,
}

impl TimerFd {
    /// Was it set to a time of its clock, not to a span?
    pub fn is_absolute(&self) -> bool {
        self.flags & ABSOLUTE != 0
    }

    /// Is there an expiration to come, or one that was not read?
    pub fn is_set(&self) -> bool {
        self.remaining != 0 || self.ticks != 0
    }
}

impl fmt::Display for TimerFd {
    /// `CLOCK_MONOTONIC, 1.500000 s left, every 2.000000 s, 3 expirations not read`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, ", Clock(self.clock))?;
        match (self.remaining, self.ticks) {
            (0, 0) => f.write_str("not armed")?,
            // The kernel counts the further expirations of a periodic one at the next read (timerfd_read, fs/timerfd.c).
            (0, _) => f.write_str("expired and not read")?,
            (left, _) => write!(f, "{} left", seconds(left))?,
        }
        if self.interval > 0 {
            write!(f, ", every {}", seconds(self.interval))?;
        }
        if self.ticks > 1 {
            write!(f, ", {} expirations not read", self.ticks)?;
        }
        if self.is_absolute() {
            f.write_str(", set to an absolute time")?;
        }
        if self.flags & CANCEL_ON_SET != 0 {
            f.write_str(", cancelled if the clock is set")?;
        }
        Ok(())
    }
}

/// RLIMIT_CPU, and the processor time that counts against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuLimit {
    /// In seconds.
    pub limit: Rlimit,
    /// Nanoseconds of all threads, also of ended ones.
    pub used: u64,
}

impl CpuLimit {
    /// Is there a limit, soft or hard?
    pub fn is_limited(&self) -> bool {
        self.limit.soft != Rlimit::INFINITY || self.limit.hard != Rlimit::INFINITY
    }
}

impl fmt::Display for CpuLimit {
    /// `60 s, hard limit 120 s; 1.230 s used`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = |seconds| match seconds {
            Rlimit::INFINITY => "unlimited".to_owned(),
            seconds => format!("{seconds} s"),
        };
        let (soft, hard) = (limit(self.limit.soft), limit(self.limit.hard));
        write!(f, "{soft}, hard limit {hard}; {} used", seconds(self.used))
    }
}

/// Of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clocks {
    /// RLIMIT_CPU.
    pub cpu: CpuLimit,
    /// In the order of the descriptors.
    pub timerfds: Vec<TimerFd>,
    /// How many descriptors were not looked at, because the process has too many.
    pub not_looked_at: usize,
}

impl Clocks {
    /// Is there anything that goes by time?
    pub fn is_empty(&self) -> bool {
        self.timerfds.is_empty() && !self.cpu.is_limited()
    }

    pub(crate) fn check(&self) -> Result<(), FieldError> {
        at_most("timerfds", self.timerfds.len(), TIMERFDS_LIMIT)?;
        let mut fds = std::collections::HashSet::new();
        for (index, timer) in self.timerfds.iter().enumerate() {
            let wrong = if timer.fd < 0 || !fds.insert(timer.fd) {
                let reason = format!("{} is no descriptor, or is there twice", timer.fd);
                FieldError::new("fd", reason)
            } else if timer.flags & !(ABSOLUTE | CANCEL_ON_SET) != 0 {
                FieldError::new("flags", format!("{:#x} are not TFD_TIMER_*", timer.flags))
            } else {
                continue;
            };
            return Err(wrong.within_item("timerfds", index));
        }
        if self.not_looked_at != 0 {
            let reason = "an image has all timerfds or none";
            return Err(FieldError::new("not_looked_at", reason));
        }
        Ok(())
    }
}

impl Codec for Clocks {
    type Message = pb::Clocks;

    fn to_proto(&self) -> pb::Clocks {
        let unlimited = |seconds| (seconds != Rlimit::INFINITY).then_some(seconds);
        pb::Clocks {
            cpu_limit: unlimited(self.cpu.limit.soft),
            cpu_hard_limit: unlimited(self.cpu.limit.hard),
            cpu_used_ns: self.cpu.used,
            timerfds: self.timerfds.iter().map(TimerFd::to_proto).collect(),
            not_looked_at: self.not_looked_at as u64,
            ..pb::Clocks::default()
        }
    }

    fn from_proto(message: &pb::Clocks) -> Result<Clocks, FieldError> {
        let timerfds = message.timerfds.iter().map(TimerFd::from_proto);
        let clocks = Clocks {
            cpu: CpuLimit {
                limit: Rlimit {
                    soft: message.cpu_limit.unwrap_or(Rlimit::INFINITY),
                    hard: message.cpu_hard_limit.unwrap_or(Rlimit::INFINITY),
                },
                used: message.cpu_used_ns,
            },
            timerfds: timerfds.collect::<Result<_, _>>()?,
            not_looked_at: usize::try_from(message.not_looked_at).unwrap_or(usize::MAX),
        };
        clocks.check()?;
        Ok(clocks)
    }
}

impl Codec for TimerFd {
    type Message = pb::TimerFd;

    fn to_proto(&self) -> pb::TimerFd {
        pb::TimerFd {
            fd: self.fd,
            clock: self.clock,
            ticks: self.ticks,
            flags: self.flags,
            remaining_ns: self.remaining,
            interval_ns: self.interval,
            ..pb::TimerFd::default()
        }
    }

    fn from_proto(message: &pb::TimerFd) -> Result<TimerFd, FieldError> {
        Ok(TimerFd {
            fd: message.fd,
            clock: message.clock,
            ticks: message.ticks,
            flags: message.flags,
            remaining: message.remaining_ns,
            interval: message.interval_ns,
        })
    }
}

fn seconds(nanoseconds: u64) -> String {
    let micros = nanoseconds % SECOND / 1000;
    match micros % 1000 {
        0 => format!("{}.{:03} s", nanoseconds / SECOND, micros / 1000),
        _ => format!("{}.{micros:06} s", nanoseconds / SECOND),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_all_of_it() {
        let plain = TimerFd {
            fd: 5,
            clock: 1,
            ticks: 3,
            flags: 0,
            remaining: 1_500_000_000,
            interval: 200_000,
        };
        assert_eq!(
            plain.to_string(),
            "CLOCK_MONOTONIC, 1.500 s left, every 0.000200 s, 3 expirations not read"
        );
        let unarmed = TimerFd {
            clock: 0,
            ticks: 1,
            flags: 3,
            remaining: 0,
            interval: 0,
            ..plain
        };
        assert_eq!(
            unarmed.to_string(),
            "CLOCK_REALTIME, expired and not read, set to an absolute time, cancelled if the clock is set"
        );
        let cpu = CpuLimit {
            limit: Rlimit {
                soft: 60,
                hard: Rlimit::INFINITY,
            },
            used: 1_230_000_000,
        };
        assert_eq!(cpu.to_string(), "60 s, hard limit unlimited; 1.230 s used");
    }

    #[test]
    fn limits() {
        let timer = |fd, flags| TimerFd {
            fd,
            clock: 1,
            ticks: 0,
            flags,
            remaining: 5,
            interval: 0,
        };
        let with = |timerfds: Vec<TimerFd>, not_looked_at| {
            let unlimited = Rlimit {
                soft: Rlimit::INFINITY,
                hard: Rlimit::INFINITY,
            };
            let cpu = CpuLimit {
                limit: unlimited,
                used: 0,
            };
            Clocks {
                cpu,
                timerfds,
                not_looked_at,
            }
        };
        let many = |count| (0..count).map(|fd| timer(fd, 0)).collect();
        for right in [
            with(vec![], 0),
            with(vec![timer(0, 3), timer(i32::MAX, 1)], 0),
            with(many(4096), 0),
        ] {
            assert_eq!(Clocks::from_proto(&right.to_proto()), Ok(right));
        }
        for wrong in [
            with(vec![timer(-1, 0)], 0),
            with(vec![timer(4, 0), timer(4, 0)], 0),
            with(vec![timer(4, 4)], 0),
            with(many(4097), 0),
            with(vec![], 1),
        ] {
            wrong.check().expect_err("beyond a limit");
            Clocks::from_proto(&wrong.to_proto()).expect_err("beyond a limit");
        }
    }
}
