//! The process or thread of a file: `PID`, or `PID/TID`.

use std::fmt;
use std::str::FromStr;

use criu_signals_images::{Pid, Tid};

/// A process, or one of its threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The process.
    pub pid: Pid,
    /// The thread; the leader, where none is named.
    pub thread: Option<Tid>,
}

impl Subject {
    /// The thread that is meant.
    pub fn tid(&self) -> Tid {
        self.thread.unwrap_or(Tid::from(self.pid))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.thread {
            None => write!(f, "{}", self.pid),
            Some(tid) => write!(f, "{}/{tid}", self.pid),
        }
    }
}

/// The text is no `PID` or `PID/TID`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither PID nor PID/TID")]
pub struct ParseSubjectError(String);

impl FromStr for Subject {
    type Err = ParseSubjectError;

    fn from_str(text: &str) -> std::result::Result<Subject, ParseSubjectError> {
        let number = |text: &str| text.parse().ok().and_then(Pid::new);
        let subject = || match text.split_once('/') {
            None => Some(Subject {
                pid: number(text)?,
                thread: None,
            }),
            Some((pid, tid)) => Some(Subject {
                pid: number(pid)?,
                thread: Some(Tid::from(number(tid)?)),
            }),
        };
        subject().ok_or_else(|| ParseSubjectError(text.to_owned()))
    }
}
