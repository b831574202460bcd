//! The SIGIO owner of a file, `fcntl(2)`, F_SETOWN_EX.

use std::fmt;

use crate::codec::{Codec, at_most, proto::signals as pb};
use crate::error::FieldError;

/// Of the file descriptors of one process.
pub const OWNERS_LIMIT: usize = 10_000;

/// F_OWNER_TID: a thread.
pub const OWNER_THREAD: u32 = 0;
/// F_OWNER_PID: a process.
pub const OWNER_PROCESS: u32 = 1;
/// F_OWNER_PGRP: a process group.
pub const OWNER_GROUP: u32 = 2;

/// A file descriptor whose SIGIO goes to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileOwner {
    /// The file descriptor.
    pub fd: i32,
    /// [`OWNER_THREAD`], [`OWNER_PROCESS`] or [`OWNER_GROUP`].
    pub kind: u32,
    /// Its id in the pid namespace of the process.
    pub id: i32,
    /// Whose rights the signal is sent with: the real one.
    pub uid: u32,
    /// The effective one.
    pub euid: u32,
}

impl FileOwner {
    /// As it is where the thread or process with the id `id` is called `name(id)`. Groups have ids of processes.
    #[must_use]
    pub fn renamed(
        self,
        thread: impl Fn(i32) -> Option<i32>,
        process: impl Fn(i32) -> Option<i32>,
    ) -> FileOwner {
        let new = if self.kind == OWNER_THREAD {
            thread(self.id)
        } else {
            process(self.id)
        };
        FileOwner {
            id: new.unwrap_or(self.id),
            ..self
        }
    }
}

impl fmt::Display for FileOwner {
    /// `thread 42 (uid 0 euid 0)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            OWNER_THREAD => "thread",
            OWNER_PROCESS => "process",
            _ => "process group",
        };
        let FileOwner { id, uid, euid, .. } = self;
        write!(f, "{kind} {id} (uid {uid} euid {euid})")
    }
}

impl Codec for FileOwner {
    type Message = pb::FileOwner;

    fn to_proto(&self) -> pb::FileOwner {
        pb::FileOwner {
            fd: self.fd,
            kind: self.kind,
            id: self.id,
            uid: self.uid,
            euid: self.euid,
            ..pb::FileOwner::default()
        }
    }

    fn from_proto(message: &pb::FileOwner) -> Result<FileOwner, FieldError> {
        Ok(FileOwner {
            fd: message.fd,
            kind: message.kind,
            id: message.id,
            uid: message.uid,
            euid: message.euid,
        })
    }
}

pub(crate) fn check(owners: &[FileOwner]) -> Result<(), FieldError> {
    at_most("file_owners", owners.len(), OWNERS_LIMIT)?;
    let mut fds = std::collections::HashSet::new();
    for (index, owner) in owners.iter().enumerate() {
        let wrong = if owner.fd < 0 || !fds.insert(owner.fd) {
            Some((
                "fd",
                format!("{} is no descriptor, or is there twice", owner.fd),
            ))
        } else if owner.kind > OWNER_GROUP {
            Some(("kind", format!("{} is not one of F_OWNER_*", owner.kind)))
        } else if owner.id <= 0 {
            Some(("id", format!("{} is nobody", owner.id)))
        } else {
            None
        };
        if let Some((field, reason)) = wrong {
            return Err(FieldError::new(field, reason).within_item("file_owners", index));
        }
    }
    Ok(())
}
