//! The exit signal, which the kernel sends to the parent when the process ends: the lowest byte of the flags of
//! clone(2).

use std::fmt;

use crate::codec::Codec;
use crate::error::FieldError;
use crate::signo::SigNo;

/// CSIGNAL of linux/sched.h.
const LIMIT: u32 = 0xff;

/// The signal that a process sends its parent when it ends. Set by clone(2), and by nothing else afterwards; the
/// kernel makes it SIGCHLD when the process calls execve(2) or its parent goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExitSignal(u8);

impl ExitSignal {
    /// What fork(2) gives.
    pub const CHLD: ExitSignal = ExitSignal(17);

    /// The number as the kernel keeps it: clone(2) takes some that are no signal. `None` beyond one byte.
    pub fn new(number: u32) -> Option<ExitSignal> {
        u8::try_from(number).ok().map(ExitSignal)
    }

    /// The signal; `None` where the parent is sent none.
    pub fn signo(self) -> Option<SigNo> {
        SigNo::new(i32::from(self.0))
    }
}

impl fmt::Display for ExitSignal {
    /// `SIGUSR1`, `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.signo() {
            Some(signo) => signo.fmt(f),
            None if self.0 == 0 => f.write_str("none"),
            None => write!(f, "none ({} is no signal)", self.0),
        }
    }
}

impl Codec for ExitSignal {
    type Message = u32;

    fn to_proto(&self) -> u32 {
        u32::from(self.0)
    }

    fn from_proto(number: &u32) -> Result<ExitSignal, FieldError> {
        ExitSignal::new(*number).ok_or_else(|| {
            let reason = format!("is {number}, and {LIMIT} is the limit");
            FieldError::new("exit_signal", reason)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text() {
        assert_eq!(ExitSignal::CHLD.to_string(), "SIGCHLD");
        assert_eq!(ExitSignal(0).to_string(), "none");
        assert_eq!(ExitSignal(200).to_string(), "none (200 is no signal)");
        assert_eq!(ExitSignal::CHLD.signo(), Some(SigNo::CHLD));
    }

    #[test]
    fn round_trip() {
        for number in 0..=LIMIT {
            let signal = ExitSignal::from_proto(&number).expect("one byte");
            assert_eq!(signal.to_proto(), number);
        }
        ExitSignal::from_proto(&(LIMIT + 1)).expect_err("more than a byte");
    }
}
