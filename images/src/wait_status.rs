//! The status of a child that wait(2) has not reported to the parent yet.

use std::fmt;

use crate::codec::Codec;
use crate::error::FieldError;
use crate::signo::SigNo;

/// What wait4(2) gives for a child that was continued (linux/wait.h, `wait_task_continued`).
const CONTINUED: u32 = 0xffff;
/// The low byte of what it gives for one that was stopped; the signal is above it.
const STOPPED: u32 = 0x7f;

/// What the parent's wait(2) would report of a live process: there is one such status at most, and it is gone once it
/// was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WaitStatus {
    /// Not known: only the parent can tell, and it was not at hand.
    #[default]
    Unknown,
    /// There is nothing to be waited for.
    Nothing,
    /// That it was stopped, by this signal (WUNTRACED).
    Stopped(SigNo),
    /// That it was continued (WCONTINUED).
    Continued,
}

impl fmt::Display for WaitStatus {
    /// `nothing`, `stopped by SIGTSTP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitStatus::Unknown => f.write_str("not known"),
            WaitStatus::Nothing => f.write_str("nothing"),
            WaitStatus::Stopped(signo) => write!(f, "stopped by {signo}"),
            WaitStatus::Continued => f.write_str("continued"),
        }
    }
}

impl Codec for WaitStatus {
    /// `wait_status`: as wait4(2) gives it, 0 for nothing.
    type Message = Option<u32>;

    fn to_proto(&self) -> Option<u32> {
        match self {
            WaitStatus::Unknown => None,
            WaitStatus::Nothing => Some(0),
            WaitStatus::Stopped(signo) => Some(signo.to_proto() << 8 | STOPPED),
            WaitStatus::Continued => Some(CONTINUED),
        }
    }

    fn from_proto(message: &Option<u32>) -> Result<WaitStatus, FieldError> {
        let refuse = |status| {
            let reason = format!("{status:#x} is no status of a stopped or continued process");
            Err(FieldError::new("wait_status", reason))
        };
        let status = match *message {
            None => return Ok(WaitStatus::Unknown),
            Some(0) => return Ok(WaitStatus::Nothing),
            Some(CONTINUED) => return Ok(WaitStatus::Continued),
            Some(status) => status,
        };
        if status & 0xff != STOPPED {
            return refuse(status);
        }
        match SigNo::from_proto(&(status >> 8)) {
            Ok(signo) if signo.is_stop() => Ok(WaitStatus::Stopped(signo)),
            _ => refuse(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let stops = SigNo::all()
            .filter(|s| s.is_stop())
            .map(WaitStatus::Stopped);
        let others = [
            WaitStatus::Unknown,
            WaitStatus::Nothing,
            WaitStatus::Continued,
        ];
        for status in stops.chain(others) {
            assert_eq!(WaitStatus::from_proto(&status.to_proto()), Ok(status));
        }
    }

    #[test]
    fn is_said_in_words() {
        for (status, text) in [
            (WaitStatus::Unknown, "not known"),
            (WaitStatus::Nothing, "nothing"),
            (WaitStatus::Stopped(SigNo::TSTP), "stopped by SIGTSTP"),
            (WaitStatus::Continued, "continued"),
        ] {
            assert_eq!(status.to_string(), text);
        }
    }

    /// As the macros of sys/wait.h see it.
    #[test]
    fn is_what_wait_gives() {
        let stopped = WaitStatus::Stopped(SigNo::TTIN).to_proto().unwrap();
        let stopped = i32::try_from(stopped).unwrap();
        assert!(libc::WIFSTOPPED(stopped));
        assert_eq!(libc::WSTOPSIG(stopped), libc::SIGTTIN);
        let continued = WaitStatus::Continued.to_proto().unwrap();
        assert!(libc::WIFCONTINUED(i32::try_from(continued).unwrap()));
    }

    #[test]
    fn what_no_live_process_has() {
        // Exited, killed, stopped by SIGINT, stopped by no signal, and a ptrace event.
        for status in [0x100, 9, 0x027f, 0x7f, 0x0080_057f] {
            WaitStatus::from_proto(&Some(status)).expect_err("refused");
        }
    }
}
