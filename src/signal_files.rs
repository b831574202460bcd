//! Open files of a live process that receive or cause its signals. The process keeps running and is not changed.
//!
//! | File | From where |
//! |---|---|
//! | signalfd(2) | `sigmask` in `/proc/PID/fdinfo/FD` |
//! | F_SETSIG and F_SETOWN with O_ASYNC | O_ASYNC is in fdinfo; the rest only fcntl(2) tells, of a descriptor of the same open file |
//! | mq_notify(3) | the text of the queue's own file (mq_overview(7)), in which the kernel notes the time of the reading |
//!
//! Of regular files no descriptor is made: closing one could wait for the server of a file system.

use std::fs::OpenOptions;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};

use criu_signals_images::signal_file::{MessageNotice, Role, SignalFile, SignalFiles};
use criu_signals_images::{Pid, SigNo, SigSet};
use nix::sys::statfs::{FsType, fstatfs};

use crate::error::{Cause, Error, Result};
use crate::in_time;
use crate::proc::{self, Descriptor, SIGNALFD};
use crate::state::owners;
use crate::tracee::files::{self, Files};

/// MQUEUE_MAGIC (ipc/mqueue.c).
const QUEUES: FsType = FsType(0x1980_0202);
/// O_ASYNC as the kernel has it, on all architectures of this project.
const ASYNC: u32 = 0o20000;

/// Those of `pid`. What can't be read is named, beside what can.
///
/// # Errors
/// If the process's files can't be listed, or not in time.
pub fn of_process(pid: Pid) -> Result<SignalFiles> {
    let descriptors = proc::information(pid, may_matter)?;
    in_time::look("fd", move || {
        let mut found = SignalFiles::default();
        let mut failed = 0;
        let files = Files::open(pid)?;
        for descriptor in &descriptors.found {
            match role(pid, &files, descriptor) {
                Ok(role) => found.files.extend(role.map(|role| SignalFile {
                    fd: descriptor.fd,
                    link: descriptor.link.as_str().into(),
                    role,
                })),
                Err(e) => {
                    failed += 1;
                    let why = format!("file descriptor {}: {e}", descriptor.fd);
                    found.unknown.get_or_insert(why);
                }
            }
        }
        if let Some(why) = found.unknown.as_mut().filter(|_| failed > 1) {
            *why += &format!("; and {} others", failed - 1);
        }
        if descriptors.left_out > 0 {
            let why = format!("{} descriptors are not looked at", descriptors.left_out);
            let before = found.unknown.take().map(|before| before + "; ");
            found.unknown = Some(before.unwrap_or_default() + &why);
        }
        Ok(found)
    })?
}

/// Sockets, pipes, terminals and the like; message queues, which have names.
fn may_matter(link: &str) -> bool {
    const OTHERS: [&str; 5] = [
        "socket:",
        "pipe:",
        "/",
        "anon_inode:inotify",
        "anon_inode:[perf_event]",
    ];
    link == SIGNALFD || OTHERS.iter().any(|begin| link.starts_with(begin))
}

fn role(pid: Pid, files: &Files, descriptor: &Descriptor) -> Result<Option<Role>> {
    if descriptor.link == SIGNALFD {
        // Without the line it is another file by now.
        let mask = descriptor.value("sigmask");
        let bits = mask.and_then(|mask| u64::from_str_radix(mask, 16).ok());
        return Ok(bits.map(SigSet::from_bits).map(Role::Reads));
    }
    let name = descriptor.link.strip_prefix('/');
    if name.is_some_and(|name| !name.contains('/'))
        && let Some(text) = queue(pid, descriptor.fd)?
    {
        return Ok(notice(pid, &text)?.map(Role::TellsOfMessage));
    }
    let flags = descriptor.value("flags");
    let flags = flags.and_then(|flags| u32::from_str_radix(flags, 8).ok());
    if flags.is_none_or(|flags| flags & ASYNC == 0) || !sends(pid, descriptor)? {
        return Ok(None);
    }
    let Some(file) = files.get(descriptor.fd)? else {
        return Ok(None);
    };
    let Some(signo) = files::signal(file.as_fd())? else {
        return Ok(None);
    };
    let owner = owners::owner_of(file.as_fd(), descriptor.fd)?;
    Ok(Some(Role::SendsOnInput(signo, owner)))
}

/// Regular files and directories never send a signal because of O_ASYNC.
fn sends(pid: Pid, descriptor: &Descriptor) -> Result<bool> {
    if !descriptor.link.starts_with('/') {
        return Ok(true);
    }
    match std::fs::metadata(format!("/proc/{pid}/fd/{}", descriptor.fd)) {
        Ok(file) => Ok(file.file_type().is_char_device() || file.file_type().is_fifo()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("stat fd", &e)),
    }
}

/// The text of a message queue; `None` of another file, which is not opened for reading.
fn queue(pid: Pid, fd: i32) -> Result<Option<String>> {
    let seen = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(format!("/proc/{pid}/fd/{fd}"));
    let seen = match seen {
        Ok(seen) => seen,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("open fd", &e)),
    };
    let system = fstatfs(&seen).map_err(|errno| Error::os("fstatfs", errno))?;
    if system.filesystem_type() != QUEUES {
        return Ok(None);
    }
    let text = proc::read_text(format!("/proc/self/fd/{}", seen.as_raw_fd()));
    text.map(Some)
        .map_err(|e| Error::io("read the message queue", &e))
}

/// `QSIZE:0 NOTIFY:0 SIGNO:10 NOTIFY_PID:4711` (mqueue_read_file, ipc/mqueue.c). `None` if another process is told, or none.
fn notice(pid: Pid, text: &str) -> Result<Option<MessageNotice>> {
    let value = |name: &str| {
        let mut words = text.split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.parse::<i32>().ok())
    };
    let not_understood = || {
        let why = format!("not understood: {text:?}");
        Error::new("read the message queue", Cause::Proc(why))
    };
    if value("NOTIFY_PID:").ok_or_else(not_understood)? != pid.get() {
        return Ok(None);
    }
    let signo = value("SIGNO:").and_then(SigNo::new);
    let notice = match (value("NOTIFY:"), signo) {
        (Some(libc::SIGEV_SIGNAL), Some(signo)) => MessageNotice::Signal(signo),
        (Some(libc::SIGEV_NONE), _) => MessageNotice::Nothing,
        (Some(libc::SIGEV_THREAD), _) => MessageNotice::Library,
        _ => return Err(not_understood()),
    };
    Ok(Some(notice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_message_queues() {
        let pid = Pid::own();
        let text = |notify: i32, told: i32| {
            format!("QSIZE:129        NOTIFY:{notify}     SIGNO:10    NOTIFY_PID:{told:<6}\n")
        };
        let found = |notify, told| notice(pid, &text(notify, told)).unwrap();
        assert_eq!(
            found(0, pid.get()),
            SigNo::new(10).map(MessageNotice::Signal)
        );
        assert_eq!(found(1, pid.get()), Some(MessageNotice::Nothing));
        assert_eq!(found(2, pid.get()), Some(MessageNotice::Library));
        assert_eq!(found(0, 0), None);
        notice(pid, "").unwrap_err();
        notice(pid, &text(7, pid.get())).unwrap_err();
    }
}
