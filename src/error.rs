//! The error type for everything that touches a process. An error says what cannot be done to the process (the phase), and
//! names the pid, the tid, the operation and the errno, so that a log line explains itself without the source.

use std::borrow::Cow;
use std::fmt;
use std::io;

use criu_signals_images::{ImageError, Pid, Shown as _, Tid};
use nix::errno::Errno;

/// What was being done when an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Stopping the threads of a process.
    Seize,
    /// Reading signal state.
    Capture,
    /// Writing or reading a `signals-PID.img`.
    Image,
    /// Comparing what a restore put back with what was captured.
    Verify,
    /// Putting state back.
    Replay,
    /// Queueing a signal that somebody asked for.
    Send,
    /// Letting go of a process.
    Release,
}

impl fmt::Display for Phase {
    /// What cannot be done to the process: goes between "cannot" and the pid.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Seize => "stop",
            Phase::Capture => "read the state of",
            Phase::Image => "use the image of",
            Phase::Verify => "compare",
            Phase::Replay => "restore",
            Phase::Send => "send to",
            Phase::Release => "release",
        })
    }
}

/// Why an operation failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Cause {
    /// The kernel said no.
    Os(Errno),
    /// The task is gone: it exited or was killed under our hands.
    Died,
    /// This kernel, architecture or process does not offer what is needed; says what.
    Unsupported(Cow<'static, str>),
    /// No process can be like that, or not this one, so that nothing was tried; says why.
    Refused(Cow<'static, str>),
    /// The task did something that the protocol of ptrace(2) does not lead one to expect.
    Unexpected(String),
    /// A file of `/proc` could not be read or understood.
    Proc(String),
    /// The image.
    Image(ImageError),
    /// The operation went through, but reading back shows something else.
    NotKept(String),
    /// The caller has cancelled the operation.
    Cancelled,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Os(errno) => write!(f, "{errno:?} ({})", errno.desc()),
            Cause::Died => f.write_str("the task is gone"),
            // They quote names, paths and files of `/proc`.
            Cause::Unsupported(what) | Cause::Refused(what) => what.shown().fmt(f),
            Cause::Unexpected(what) | Cause::Proc(what) | Cause::NotKept(what) => {
                what.shown().fmt(f)
            }
            Cause::Image(e) => e.fmt(f),
            Cause::Cancelled => f.write_str("cancelled"),
        }
    }
}

/// A failed operation on a process. `Display` gives
/// `cannot restore pid 41 tid 43: rt_tgsigqueueinfo(SIGRTMIN+2): EAGAIN (Try again)`.
#[derive(Debug)]
pub struct Error {
    phase: Option<Phase>,
    pid: Option<Pid>,
    tid: Option<Tid>,
    operation: Cow<'static, str>,
    cause: Cause,
}

/// What operations on a process return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An operation that failed for `cause`. Phase, pid and tid are added on the way up.
    pub fn new(operation: impl Into<Cow<'static, str>>, cause: Cause) -> Self {
        Error {
            phase: None,
            pid: None,
            tid: None,
            operation: operation.into(),
            cause,
        }
    }

    /// A system call that failed with `errno`. ESRCH from a call on a tracee means that it is gone.
    pub fn os(operation: impl Into<Cow<'static, str>>, errno: Errno) -> Self {
        let cause = if errno == Errno::ESRCH {
            Cause::Died
        } else {
            Cause::Os(errno)
        };
        Error::new(operation, cause)
    }

    /// A failed read of something below `/proc`; a file that has vanished means that the task is gone.
    pub fn proc(operation: impl Into<Cow<'static, str>>, e: &procfs::ProcError) -> Self {
        let cause = match e {
            procfs::ProcError::NotFound(_) => Cause::Died,
            procfs::ProcError::PermissionDenied(_) => Cause::Os(Errno::EACCES),
            procfs::ProcError::Io(e, _) if e.raw_os_error() == Some(libc::ESRCH) => Cause::Died,
            other => Cause::Proc(other.to_string()),
        };
        Error::new(operation, cause)
    }

    /// A failed read or write of a file.
    pub fn io(operation: impl Into<Cow<'static, str>>, e: &io::Error) -> Self {
        match e.raw_os_error() {
            Some(errno) => Error::os(operation, Errno::from_raw(errno)),
            None => Error::new(operation, Cause::Unexpected(e.to_string())),
        }
    }

    /// Says in which thread it happened, unless that is known already.
    #[must_use]
    pub fn in_thread(mut self, tid: Tid) -> Self {
        self.tid.get_or_insert(tid);
        self
    }

    /// Says during which phase and in which process it happened, unless that is known already.
    #[must_use]
    pub fn during(mut self, phase: Phase, pid: Pid) -> Self {
        self.phase.get_or_insert(phase);
        self.pid.get_or_insert(pid);
        self
    }

    /// Why.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// Is the task gone?
    pub fn is_died(&self) -> bool {
        matches!(self.cause, Cause::Died)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(phase) = self.phase {
            write!(f, "cannot {phase} ")?;
        }
        match (self.pid, self.tid) {
            (Some(pid), Some(tid)) => write!(f, "pid {pid} tid {tid}: ")?,
            (Some(pid), None) => write!(f, "pid {pid}: ")?,
            (None, Some(tid)) => write!(f, "tid {tid}: ")?,
            (None, None) => {}
        }
        write!(f, "{}: {}", self.operation.shown(), self.cause)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Os(errno) => Some(errno),
            Cause::Image(e) => Some(e),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_phase_pid_tid_operation_and_errno() {
        let e = Error::os("rt_tgsigqueueinfo(SIGRTMIN+2)", Errno::EAGAIN)
            .in_thread(Tid::new(43).unwrap())
            .during(Phase::Replay, Pid::new(41).unwrap());
        assert_eq!(
            e.to_string(),
            "cannot restore pid 41 tid 43: rt_tgsigqueueinfo(SIGRTMIN+2): EAGAIN (Try again)"
        );
    }

    #[test]
    fn what_it_quotes_does_nothing() {
        let e = Error::new(
            "open a\n\u{1b}[2J",
            Cause::Refused("it is \u{9b}x\n".into()),
        );
        assert_eq!(e.to_string(), r"open a\n\u{1b}[2J: it is \u{9b}x\n");
    }

    #[test]
    fn what_is_known_is_not_overwritten() {
        let e = Error::os("PTRACE_GETREGS", Errno::ESRCH)
            .in_thread(Tid::new(7).unwrap())
            .in_thread(Tid::new(8).unwrap())
            .during(Phase::Capture, Pid::new(7).unwrap())
            .during(Phase::Release, Pid::new(9).unwrap());
        assert!(e.is_died());
        assert_eq!(
            e.to_string(),
            "cannot read the state of pid 7 tid 7: PTRACE_GETREGS: the task is gone"
        );
    }
}
