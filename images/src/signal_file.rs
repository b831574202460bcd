//! Open files of a process that receive its pending signals, and open files that cause signals.

use std::fmt;

use crate::codec::Codec as _;
use crate::codec::proto::signals as pb;
use crate::owner::FileOwner;
use crate::printable::Name;
use crate::signo::SigNo;
use crate::sigset::SigSet;

/// An open file that has to do with signals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalFile {
    /// Its descriptor.
    pub fd: i32,
    /// What `/proc/PID/fd/FD` links to.
    pub link: Name,
    /// What it does.
    pub role: Role,
}

/// What a file does with signals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// signalfd(2): whoever reads it takes pending signals of this set.
    Reads(SigSet),
    /// O_ASYNC with F_SETSIG and F_SETOWN of fcntl(2): input and output send the signal.
    SendsOnInput(SigNo, Option<FileOwner>),
    /// mq_notify(3), by which the process is told of a message.
    TellsOfMessage(MessageNotice),
}

/// `sigev_notify` of mq_notify(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageNotice {
    /// SIGEV_SIGNAL.
    Signal(SigNo),
    /// SIGEV_NONE.
    Nothing,
    /// SIGEV_THREAD: by a socket that the C library reads.
    Library,
}

/// Those of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignalFiles {
    /// By their descriptors.
    pub files: Vec<SignalFile>,
    /// Why there may be others.
    pub unknown: Option<String>,
}

impl SignalFile {
    pub(crate) fn to_proto(&self) -> pb::SignalFile {
        let mut message = pb::SignalFile {
            fd: self.fd,
            text: self.to_string(),
            link: self.link.as_str().to_owned(),
            ..pb::SignalFile::default()
        };
        let (role, signals) = match &self.role {
            Role::Reads(signals) => ("signalfd", *signals),
            Role::SendsOnInput(signo, owner) => {
                message.owner = owner.as_ref().map(FileOwner::to_proto).into();
                ("owner", SigSet::from(*signo))
            }
            Role::TellsOfMessage(MessageNotice::Signal(signo)) => {
                ("mq_notify", SigSet::from(*signo))
            }
            Role::TellsOfMessage(_) => ("mq_notify", SigSet::EMPTY),
        };
        message.role = role.to_owned();
        message.signals = signals.bits();
        message
    }
}

impl fmt::Display for SignalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let link = &self.link;
        match &self.role {
            Role::Reads(signals) if signals.is_empty() => f.write_str("signalfd, takes no signal"),
            Role::Reads(signals) => write!(f, "signalfd, takes {signals}"),
            Role::SendsOnInput(signo, Some(owner)) => {
                write!(f, "{link} sends {signo} to {owner} on input and output")
            }
            Role::SendsOnInput(signo, None) => {
                write!(
                    f,
                    "{link} sends {signo} on input and output, and its owner is not here"
                )
            }
            Role::TellsOfMessage(MessageNotice::Signal(signo)) => {
                write!(f, "message queue {link} sends {signo} when a message comes")
            }
            Role::TellsOfMessage(MessageNotice::Library) => {
                write!(
                    f,
                    "message queue {link} starts a thread when a message comes"
                )
            }
            Role::TellsOfMessage(MessageNotice::Nothing) => {
                write!(
                    f,
                    "message queue {link} is reserved for the process, and sends no signal"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::OWNER_PROCESS;

    #[test]
    fn what_files_do() {
        let file = |role| SignalFile {
            fd: 5,
            link: "/jobs".into(),
            role,
        };
        let queue = file(Role::TellsOfMessage(MessageNotice::Signal(SigNo::HUP)));
        assert_eq!(
            queue.to_string(),
            "message queue /jobs sends SIGHUP when a message comes"
        );
        assert_eq!(
            (&*queue.to_proto().role, queue.to_proto().signals),
            ("mq_notify", 1)
        );
        let owner = FileOwner {
            fd: 5,
            kind: OWNER_PROCESS,
            id: 7,
            uid: 0,
            euid: 0,
        };
        let owned = file(Role::SendsOnInput(SigNo::HUP, Some(owner)));
        assert_eq!(
            owned.to_string(),
            "/jobs sends SIGHUP to process 7 (uid 0 euid 0) on input and output"
        );
        assert_eq!(owned.to_proto().owner.id, 7);
        let reads = file(Role::Reads(SigNo::HUP.into()));
        assert_eq!(reads.to_string(), "signalfd, takes SIGHUP");
    }
}
