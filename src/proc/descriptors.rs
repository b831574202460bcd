//! `/proc/PID/fdinfo`: the kernel's description of open files (proc_pid_fdinfo(5)).
//!
//! Which files are of interest is decided by the links of `/proc/PID/fd`: the kernel makes the text of some files under locks
//! of theirs, and it is long for an epoll instance with many files.

use std::fs::File;
use std::io::{self, Read as _};

use criu_signals_images::Pid;

use super::descriptors;
use crate::error::{Error, Result};
use crate::in_time;

/// How many descriptors are looked at: each takes a microsecond or two.
const MOST: usize = 1 << 17;
/// How much of a text is read: more than files have of whose kinds the kernel tells something of interest here.
const LONGEST: u64 = 4096;

/// An open file of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number.
    pub fd: i32,
    /// What `/proc/PID/fd/FD` links to. What is not UTF-8 in it is replaced.
    pub link: String,
    /// The text of `/proc/PID/fdinfo/FD`.
    pub info: String,
}

impl Descriptor {
    /// The first line `NAME: VALUE` of the text.
    pub fn value<'d>(&'d self, name: &str) -> Option<&'d str> {
        let value = |line: &'d str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim());
        self.info.lines().find_map(value)
    }
}

/// What a walk over the open files of a process has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// In the order of their numbers.
    pub found: Vec<Descriptor>,
    /// How many were not looked at, because there are more than are looked at in a reasonable time.
    pub left_out: usize,
}

/// The open files of `pid` whose links are `wanted`. The process runs on: a file that it closes meanwhile is left out, and one
/// that it opens meanwhile may be.
///
/// # Errors
/// If they can't be listed, or not in time.
pub fn information(pid: Pid, wanted: fn(&str) -> bool) -> Result<Descriptors> {
    in_time::look("fd", move || within(pid, wanted, MOST))?
}

fn within(pid: Pid, wanted: fn(&str) -> bool, most: usize) -> Result<Descriptors> {
    let fds = descriptors(pid)?;
    let mut found = Vec::new();
    for &fd in fds.iter().take(most) {
        found.extend(descriptor(pid, fd, wanted)?);
    }
    let left_out = fds.len().saturating_sub(most);
    Ok(Descriptors { found, left_out })
}

/// One open file of `pid`, without a limit of time; `None` if it is not wanted, or not open any more.
pub(super) fn descriptor(
    pid: Pid,
    fd: i32,
    wanted: fn(&str) -> bool,
) -> Result<Option<Descriptor>> {
    let link = match std::fs::read_link(format!("/proc/{pid}/fd/{fd}")) {
        Ok(link) => link.to_string_lossy().into_owned(),
        Err(e) => return none_if_closed("read a link of fd", &e),
    };
    if !wanted(&link) {
        return Ok(None);
    }
    let mut text = Vec::new();
    let read = File::open(format!("/proc/{pid}/fdinfo/{fd}"))
        .and_then(|file| file.take(LONGEST).read_to_end(&mut text));
    match read {
        Ok(_) => {}
        Err(e) => return none_if_closed("read fdinfo", &e),
    }
    let info = String::from_utf8_lossy(&text).into_owned();
    Ok(Some(Descriptor { fd, link, info }))
}

fn none_if_closed<T>(operation: &'static str, e: &io::Error) -> Result<Option<T>> {
    match e.kind() {
        io::ErrorKind::NotFound => Ok(None),
        _ => Err(Error::io(operation, e)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd as _, OwnedFd};

    use nix::sys::signal::{SigSet, Signal};
    use nix::sys::signalfd::SignalFd;
    use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

    use super::*;
    use crate::proc::{SIGNALFD, TIMERFD};

    fn is_either(link: &str) -> bool {
        [SIGNALFD, TIMERFD].contains(&link)
    }

    #[test]
    fn files_of_two_kinds() {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGUSR1);
        let signals = SignalFd::new(&mask).unwrap();
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()).unwrap();
        let found = information(Pid::own(), is_either).unwrap();
        assert_eq!(found.left_out, 0);
        // Other tests of this process have files, too.
        let of = |fd: i32| found.found.iter().find(|one| one.fd == fd).unwrap();
        let signals = of(signals.as_raw_fd());
        assert_eq!(signals.value("sigmask"), Some("0000000000000200"));
        assert_eq!(signals.value("sigmas"), None);
        let timer = of(OwnedFd::from(timer).as_raw_fd());
        assert_eq!(
            (timer.link.as_str(), timer.value("clockid")),
            (TIMERFD, Some("1"))
        );
        assert!(found.found.iter().all(|one| is_either(&one.link)));
    }

    #[test]
    fn no_more_than_so_many() {
        let found = within(Pid::own(), |_| true, 2).unwrap();
        assert!(found.found.len() <= 2 && found.left_out > 0, "{found:?}");
        let gone = information(Pid::new(i32::MAX).unwrap(), |_| true);
        gone.unwrap_err();
    }
}
