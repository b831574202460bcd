//! An interval timer, `setitimer(2)`.

use std::fmt;

use crate::codec::{Codec, proto::signals as pb};
use crate::error::FieldError;

/// An interval timer that is armed, or has an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IntervalTimer {
    /// ITIMER_REAL 0, ITIMER_VIRTUAL 1, ITIMER_PROF 2.
    pub which: u32,
    /// Nanoseconds between expiries; 0: it expires once.
    pub interval: u64,
    /// Nanoseconds up to the next expiry; 0: it is not armed. One of ITIMER_REAL with an interval is armed by the delivery
    /// of the SIGALRM that is pending (`posixtimer_rearm_itimer`).
    pub remaining: u64,
}

impl IntervalTimer {
    /// What there is one of in each process: every [`IntervalTimer::which`].
    pub const KINDS: [u32; 3] = [0, 1, 2];

    /// The one of this kind among `timers`, which leave out those that are neither armed nor have an interval.
    pub fn of_kind(timers: &[IntervalTimer], which: u32) -> IntervalTimer {
        let unset = IntervalTimer {
            which,
            interval: 0,
            remaining: 0,
        };
        let mut timers = timers.iter().copied();
        timers.find(|timer| timer.which == which).unwrap_or(unset)
    }

    /// Does its time run?
    pub fn is_armed(&self) -> bool {
        self.remaining != 0
    }

    /// Its name in setitimer(2).
    pub fn name(&self) -> &'static str {
        match self.which {
            0 => "ITIMER_REAL",
            1 => "ITIMER_VIRTUAL",
            _ => "ITIMER_PROF",
        }
    }
}

impl fmt::Display for IntervalTimer {
    /// `interval 1000000 ns, not armed`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let armed = if self.is_armed() {
            "armed"
        } else {
            "not armed"
        };
        write!(f, "interval {} ns, {armed}", self.interval)
    }
}

impl Codec for IntervalTimer {
    type Message = pb::IntervalTimer;

    fn to_proto(&self) -> pb::IntervalTimer {
        pb::IntervalTimer {
            which: self.which,
            interval: self.interval,
            remaining: self.remaining,
            ..pb::IntervalTimer::default()
        }
    }

    fn from_proto(message: &pb::IntervalTimer) -> Result<IntervalTimer, FieldError> {
        Ok(IntervalTimer {
            which: message.which,
            interval: message.interval,
            remaining: message.remaining,
        })
    }
}

pub(crate) fn check(timers: &[IntervalTimer]) -> Result<(), FieldError> {
    for (index, timer) in timers.iter().enumerate() {
        let twice = timers[..index]
            .iter()
            .any(|other| other.which == timer.which);
        if timer.which > 2 || twice {
            let reason = format!("{} is not one of ITIMER_*, or is there twice", timer.which);
            return Err(FieldError::new("which", reason).within_item("interval_timers", index));
        }
    }
    Ok(())
}
