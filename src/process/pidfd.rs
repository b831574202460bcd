//! A process held by a pidfd (pidfd_open(2)), because a pid may be reused after its process has ended.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use criu_signals_images::Pid;
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::error::{Cause, Error, Result};
use crate::proc;

/// One process, held by a pidfd, even if another process gets its pid.
#[derive(Debug)]
pub struct PidFd {
    pid: Pid,
    /// `None` where the kernel has none (before 5.3).
    fd: Option<OwnedFd>,
    started: u64,
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
        let held = PidFd {
            pid,
            fd,
            started: proc::start_time(pid)?,
        };
        // The number may have changed hands in between.
        held.check()?;
        Ok(held)
    }

    /// The number.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The descriptor, which a process that is forked inherits.
    pub fn as_raw_fd(&self) -> Option<RawFd> {
        self.fd.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// # Errors
    /// [`Cause::Died`] if the process is gone, and its number may be another's.
    pub fn check(&self) -> Result<()> {
        if self.fd.is_some() {
            return self.signal(0, "open the process");
        }
        if proc::start_time(self.pid)? == self.started {
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
