//! SIGIO owners of files: F_SETOWN_EX of fcntl(2), FIOSETOWN and SIOCSPGRP of ioctl(2).
//!
//! CRIU sets owners when it opens the files, at a time at which the process has no threads yet: for one that is a
//! thread, or that is not restored with the process, the restore fails and the program is lost. So the dump removes
//! such an owner from CRIU's image, and the plugin sets the owner when all processes exist. Owners that CRIU can set
//! are compared as well.
//!
//! Files are read from outside, by a descriptor of the same open file.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

use criu_signals_images::owner::{OWNER_GROUP, OWNER_PROCESS, OWNERS_LIMIT};
use criu_signals_images::{Difference, FileOwner, Pid, ProcessState, file_owner_differs};
use nix::errno::Errno;

use super::{Done, Lost};
use crate::error::{Cause, Error, Result};
use crate::proc::{self, SignalStatus};
use crate::tracee::files::{self, Files};
use crate::tracee::{Call, Injector};

const F_SETOWN_EX: u64 = 15;

/// The files of a process that matter for signals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Files with an owner.
    pub owners: Vec<FileOwner>,
    /// Directories among them: they are watched by dnotify (F_NOTIFY), which sets an owner.
    pub directories: Vec<i32>,
    /// timerfds.
    pub timerfds: Vec<i32>,
}

/// Looks at all open files of the process that `state` was captured from. timerfds that had stopped because nobody reads
/// them run on.
///
/// # Errors
/// If the files can't be looked at: before Linux 5.6 they can't.
pub fn look(pid: Pid) -> Result<Looked> {
    let files = Files::open(pid)?;
    let mut looked = Looked::default();
    for fd in proc::descriptors(pid)? {
        let Some(file) = files.get(fd)? else { continue };
        if proc::is_timerfd(pid, fd) {
            files::wind_timerfd(file.as_fd())?;
            looked.timerfds.push(fd);
        }
        let Some(owner) = owner_of(file.as_fd(), fd)? else {
            continue;
        };
        if proc::is_directory(pid, fd) {
            looked.directories.push(fd);
        }
        looked.owners.push(owner);
        if looked.owners.len() > OWNERS_LIMIT {
            let why = format!("more than {OWNERS_LIMIT} files have an owner (F_SETOWN)");
            return Err(Error::new(
                "read the owners of files",
                Cause::Unsupported(why.into()),
            ));
        }
    }
    Ok(looked)
}

/// The SIGIO owner of the file, by the id in the innermost namespace.
pub(crate) fn owner_of(file: BorrowedFd<'_>, fd: i32) -> Result<Option<FileOwner>> {
    let Some(owner) = files::owner(file)? else {
        return Ok(None);
    };
    let Some(pid) = Pid::new(owner.id) else {
        return Ok(None);
    };
    let id = match SignalStatus::read(pid, pid.into()) {
        Ok(status) => status.ids.innermost(),
        // A group may have lost its leader.
        Err(e) if e.is_died() && owner.kind != OWNER_GROUP => return Ok(None),
        Err(_) => owner.id,
    };
    Ok(Some(FileOwner {
        fd,
        kind: owner.kind,
        id,
        uid: owner.uid,
        euid: owner.euid,
    }))
}

/// The owners that differ in a process that has run since the dump, with those that were dumped, where there were; `None` where
/// the dump knows of none.
///
/// # Errors
/// If the files can't be looked at.
pub fn differences(pid: Pid, dumped: &ProcessState) -> Result<Vec<(FileOwner, Difference)>> {
    if !dumped.records_file_owners() {
        return Ok(Vec::new());
    }
    let files = Files::open(pid)?;
    let mut fds: BTreeSet<i32> = proc::descriptors(pid)?.into_iter().collect();
    fds.extend(dumped.file_owners.iter().map(|owner| owner.fd));
    let mut differences = Vec::new();
    for fd in fds {
        let mut owners = dumped.file_owners.iter().copied();
        let wanted = owners.find(|owner| owner.fd == fd);
        let found = owner_at(&files, fd)?;
        let difference = file_owner_differs(fd, wanted, found);
        differences.extend(difference.map(|d| (wanted.unwrap_or(nobody(fd)), d)));
    }
    Ok(differences)
}

/// The argument of F_SETOWN_EX that removes the owner.
fn nobody(fd: i32) -> FileOwner {
    FileOwner {
        fd,
        kind: OWNER_PROCESS,
        id: 0,
        uid: 0,
        euid: 0,
    }
}

/// Sets owners that differ. The caller has to read them back: an owner may not exist any more, nor the file.
///
/// # Errors
/// If the kernel refuses an owner that exists.
pub fn set_all<Owner>(
    injector: &mut Injector<'_, Owner>,
    differences: &[(FileOwner, Difference)],
) -> Result<()> {
    for (wanted, _) in differences {
        match set(injector, wanted)? {
            None | Some(Errno::ESRCH | Errno::EBADF) => {}
            Some(errno) => return Err(refused(wanted, errno)),
        }
    }
    Ok(())
}

fn refused(wanted: &FileOwner, errno: Errno) -> Error {
    Error::os(format!("fcntl({}, F_SETOWN_EX)", wanted.fd), errno)
}

/// As [`owner_of`]; `None` as well where there is no open file by now.
fn owner_at(files: &Files, fd: i32) -> Result<Option<FileOwner>> {
    match files.get(fd)? {
        Some(file) => owner_of(file.as_fd(), fd),
        None => Ok(None),
    }
}

/// Compares the owners of a restored process's files with the captured owners, and sets them if `repair` says so. An owner
/// that does not exist is left out, and added to `lost`.
///
/// # Errors
/// If a file can't be looked at.
pub fn check<Owner>(
    injector: &mut Injector<'_, Owner>,
    dumped: &ProcessState,
    repair: bool,
    lost: &mut Vec<(Lost, String)>,
) -> Result<Vec<(Difference, Done)>> {
    if dumped.file_owners.is_empty() {
        return Ok(Vec::new());
    }
    let files = Files::open(injector.process().pid())?;
    let mut findings = Vec::new();
    for wanted in &dumped.file_owners {
        let found = owner_at(&files, wanted.fd)?;
        let Some(difference) = file_owner_differs(wanted.fd, Some(*wanted), found) else {
            continue;
        };
        let done = if repair {
            match put_back(injector, &files, wanted, lost)? {
                Some(done) => done,
                None => continue,
            }
        } else {
            Done::LeftAlone
        };
        findings.push((difference, done));
    }
    Ok(findings)
}

/// Sets an owner and reads it back. `None` if the owner does not exist here, which is added to `lost`.
fn put_back<Owner>(
    injector: &mut Injector<'_, Owner>,
    files: &Files,
    wanted: &FileOwner,
    lost: &mut Vec<(Lost, String)>,
) -> Result<Option<Done>> {
    match set(injector, wanted)? {
        Some(Errno::ESRCH) => {
            let text = format!(
                "the SIGIO of file descriptor {} went to {wanted}, which does not exist here: no process gets the SIGIO",
                wanted.fd
            );
            lost.push((Lost::Owner, text));
            return Ok(None);
        }
        Some(errno) => return Err(refused(wanted, errno)),
        None => {}
    }
    let Some(now) = owner_at(files, wanted.fd)? else {
        return Ok(Some(Done::NotPutBack));
    };
    if (now.kind, now.id) != (wanted.kind, wanted.id) {
        return Ok(Some(Done::NotPutBack));
    }
    if now != *wanted {
        let text = format!(
            "the SIGIO of file descriptor {} goes to {now}, no longer to {wanted}: SIGIO is sent with the current \
             credentials of the process",
            wanted.fd
        );
        lost.push((Lost::Owner, text));
    }
    Ok(Some(Done::PutBack))
}

/// F_SETOWN_EX inside the process, for whose user and ids the call is meant. The errno, if it failed.
fn set<Owner>(injector: &mut Injector<'_, Owner>, wanted: &FileOwner) -> Result<Option<Errno>> {
    let mut owner = wanted.kind.to_le_bytes().to_vec();
    owner.extend(wanted.id.to_le_bytes());
    let call = Call::new(
        libc::SYS_fcntl,
        format!("fcntl({}, F_SETOWN_EX)", wanted.fd),
    )
    .value(u64::from(wanted.fd.cast_unsigned()))
    .value(F_SETOWN_EX)
    .input(owner);
    let outcomes = injector.run(injector.process().leader(), &[call])?;
    Ok(outcomes.first().and_then(|outcome| outcome.errno()))
}
