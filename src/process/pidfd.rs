//! A process held by a pidfd (pidfd_open(2)), because a pid may be reused after its process has ended.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use criu_signals_images::Pid;
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::error::{Cause, Error, Result};
use crate::in_time;
use crate::proc;

/// linux/pidfd.h: `_IO(PIDFS_IOCTL_MAGIC, 5)`.
const PIDFD_GET_PID_NAMESPACE: libc::Ioctl = 0xff05;

/// One process, held by a pidfd, even if another process gets its pid.
#[derive(Debug)]
pub struct PidFd {
    pid: Pid,
    /// `None` where the kernel has none (before 5.3).
    fd: Option<OwnedFd>,
    /// By what the process is known where the kernel has none.
    started: Option<u64>,
}

/// The inode of `pid`'s pid namespace.
///
/// # Errors
/// [`Cause::Died`] if the process is gone, EACCES where the caller may not look at it, ETIMEDOUT.
pub fn pid_namespace(pid: Pid) -> Result<u64> {
    in_time::look("ns/pid", move || {
        // This one need not be waited for.
        match PidFd::open(pid)?.pid_namespace()? {
            Some(inode) => Ok(inode),
            None => proc::pid_namespace_of_stopped(pid),
        }
    })?
}

impl PidFd {
    /// Of the process that has the number `pid` now.
    ///
    /// # Errors
    /// [`Cause::Died`] if there is none.
    pub fn open(pid: Pid) -> Result<PidFd> {
        // SAFETY: numbers only.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.get(), 0) };
        let fd = match i32::try_from(fd) {
            // SAFETY: it has just been made, and nobody else has it.
            Ok(fd) if fd >= 0 => Some(unsafe { OwnedFd::from_raw_fd(fd) }),
            _ => match Errno::last() {
                Errno::ENOSYS => None,
                Errno::ESRCH => return Err(Error::new("pidfd_open", Cause::Died)),
                errno => return Err(Error::os("pidfd_open", errno)),
            },
        };
        // Not beside a pidfd: the file that tells it may have to be waited for ([`crate::in_time`]).
        let started = match fd {
            Some(_) => None,
            None => Some(proc::start_time(pid)?),
        };
        Ok(PidFd { pid, fd, started })
    }

    /// The number.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The descriptor, which a process that is forked inherits.
    pub fn as_raw_fd(&self) -> Option<RawFd> {
        self.fd.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// The descriptor, which becomes readable when the process ends (poll(2)).
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(|fd| fd.as_fd())
    }

    /// # Errors
    /// [`Cause::Died`] if the process is gone, and its number may be another's.
    pub fn check(&self) -> Result<()> {
        if self.fd.is_some() {
            return self.signal(0, "open the process");
        }
        if Some(proc::start_time(self.pid)?) == self.started {
            Ok(())
        } else {
            Err(Error::new("open the process", Cause::Died))
        }
    }

    /// Sends a signal to this process and no other: `pidfd_send_signal(fd, signal, NULL, 0)`.
    ///
    /// # Errors
    /// [`Cause::Died`] if it is gone.
    pub fn send(&self, signal: Signal) -> Result<()> {
        if self.fd.is_some() {
            return self.signal(signal as i32, "pidfd_send_signal");
        }
        self.check()?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid.get()), signal)
            .map_err(|errno| Error::os("kill", errno))
    }

    /// `None` where the kernel has no such request (before 6.11).
    fn pid_namespace(&self) -> Result<Option<u64>> {
        const OPERATION: &str = "ioctl(PIDFD_GET_PID_NAMESPACE)";
        let Some(fd) = &self.fd else {
            return Ok(None);
        };
        // SAFETY: the request takes no argument and returns a new descriptor.
        let namespace = unsafe { libc::ioctl(fd.as_raw_fd(), PIDFD_GET_PID_NAMESPACE, 0) };
        if namespace < 0 {
            return match Errno::last() {
                // A pidfd was no file with requests before 6.9.
                Errno::ENOTTY | Errno::EINVAL | Errno::EOPNOTSUPP => Ok(None),
                errno => Err(Error::os(OPERATION, errno)),
            };
        }
        // SAFETY: it has just been made, and nobody else has it.
        let namespace = File::from(unsafe { OwnedFd::from_raw_fd(namespace) });
        let metadata = namespace.metadata().map_err(|e| Error::io(OPERATION, &e))?;
        Ok(Some(metadata.ino()))
    }

    fn signal(&self, number: i32, operation: &'static str) -> Result<()> {
        let Some(fd) = &self.fd else {
            return Ok(());
        };
        let info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: numbers, and a null pointer where the kernel makes the siginfo itself.
        let sent =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), number, info, 0) };
        match Errno::result(sent) {
            Ok(_) => Ok(()),
            Err(Errno::ESRCH) => Err(Error::new(operation, Cause::Died)),
            // It is there; that it may not be sent signals is another matter.
            Err(Errno::EPERM) if number == 0 => Ok(()),
            Err(errno) => Err(Error::os(operation, errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_gone_stays_gone() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let held = PidFd::open(Pid::new(child.id().cast_signed()).unwrap()).unwrap();
        let own = std::fs::metadata("/proc/self/ns/pid").unwrap().ino();
        assert!(
            held.pid_namespace()
                .unwrap()
                .is_none_or(|found| found == own)
        );
        held.check().unwrap();
        held.send(Signal::SIGKILL).unwrap();
        // Not waited for: the number is still its own.
        held.check().unwrap();
        child.wait().unwrap();
        assert!(held.check().unwrap_err().is_died());
        assert!(held.send(Signal::SIGKILL).unwrap_err().is_died());
        let timeout = std::time::Duration::from_secs(5);
        let seized = crate::tracee::StoppedProcess::seize_held(&held, timeout);
        assert!(seized.unwrap_err().is_died());
    }
}
