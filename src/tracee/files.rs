//! Open files of another process: pidfd_getfd(2) duplicates a descriptor of the process without its cooperation.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use criu_signals_images::clocks::TimerFd;
use criu_signals_images::{Pid, SigNo};
use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

use crate::error::{Cause, Error, Result};

/// fcntl(2), asm-generic/fcntl.h.
const F_GETSIG: i32 = 11;
const F_GETOWN_EX: i32 = 16;
const F_GETOWNER_UIDS: i32 = 17;
/// linux/timerfd.h: `_IOW('T', 0, __u64)`.
const TFD_IOC_SET_TICKS: libc::Ioctl = 0x4008_5400;

/// The files of one process.
#[derive(Debug)]
pub struct Files {
    pidfd: OwnedFd,
}

/// struct f_owner_ex.
#[repr(C)]
#[derive(Default)]
struct OwnerEx {
    kind: i32,
    pid: i32,
}

/// Whom a file's SIGIO goes to, as the caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// F_OWNER_*.
    pub kind: u32,
    /// The id.
    pub id: i32,
    /// The real uid that set it.
    pub uid: u32,
    /// The effective one.
    pub euid: u32,
}

impl Files {
    /// Those of `pid`.
    ///
    /// # Errors
    /// If it is gone, or the kernel has no pidfds (before 5.3).
    pub fn open(pid: Pid) -> Result<Files> {
        // SAFETY: pidfd_open(2) takes two numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.get(), 0) };
        let fd = descriptor(fd).map_err(|errno| Error::os("pidfd_open", errno))?;
        Ok(Files { pidfd: fd })
    }

    /// The open file; `None` where there is none by now.
    ///
    /// # Errors
    /// If the caller may not have it, or the kernel knows no such call (before 5.6).
    pub fn get(&self, fd: i32) -> Result<Option<OwnedFd>> {
        // SAFETY: pidfd_getfd(2) takes three numbers.
        let got = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.pidfd.as_raw_fd(), fd, 0) };
        match descriptor(got) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::EBADF) => Ok(None),
            Err(errno) => Err(Error::os(format!("pidfd_getfd({fd})"), errno)),
        }
    }
}

fn descriptor(result: libc::c_long) -> std::result::Result<OwnedFd, Errno> {
    let fd = i32::try_from(result).map_err(|_| Errno::EBADF)?;
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whom the file's SIGIO goes to; `None` for nobody, and where the file has no owner (O_PATH).
///
/// # Errors
/// If the kernel does not say whose rights it is sent with (CONFIG_CHECKPOINT_RESTORE).
pub fn owner(file: BorrowedFd<'_>) -> Result<Option<Owner>> {
    let mut owner = OwnerEx::default();
    // SAFETY: F_GETOWN_EX fills in one struct f_owner_ex.
    let got = unsafe { libc::fcntl(file.as_raw_fd(), F_GETOWN_EX, &raw mut owner) };
    if got == -1 {
        return match Errno::last() {
            Errno::EBADF => Ok(None),
            errno => Err(Error::os("fcntl(F_GETOWN_EX)", errno)),
        };
    }
    let Some(kind) = u32::try_from(owner.kind).ok().filter(|_| owner.pid > 0) else {
        return Ok(None);
    };
    let mut uids = [0_u32; 2];
    // SAFETY: F_GETOWNER_UIDS fills in two uid_t.
    if unsafe { libc::fcntl(file.as_raw_fd(), F_GETOWNER_UIDS, uids.as_mut_ptr()) } == -1 {
        return Err(Error::os("fcntl(F_GETOWNER_UIDS)", Errno::last()));
    }
    Ok(Some(Owner {
        kind,
        id: owner.pid,
        uid: uids[0],
        euid: uids[1],
    }))
}

/// The signal that input and output send: SIGIO unless F_SETSIG has set another. `None` where the file has none (O_PATH).
///
/// # Errors
/// If the kernel gives no signal's number.
pub fn signal(file: BorrowedFd<'_>) -> Result<Option<SigNo>> {
    const OPERATION: &str = "fcntl(F_GETSIG)";
    // SAFETY: F_GETSIG takes no argument and returns a number.
    match unsafe { libc::fcntl(file.as_raw_fd(), F_GETSIG) } {
        -1 if Errno::last() == Errno::EBADF => Ok(None),
        -1 => Err(Error::os(OPERATION, Errno::last())),
        0 => Ok(SigNo::new(libc::SIGIO)),
        number => match SigNo::new(number) {
            Some(signo) => Ok(Some(signo)),
            None => Err(Error::new(OPERATION, Cause::Unexpected(number.to_string()))),
        },
    }
}

/// Lets a timerfd that has expired and not been read count what it has missed, and run on: so does timerfd_gettime(2)
/// (fs/timerfd.c, `do_timerfd_gettime`). What read(2) gives is the same.
///
/// # Errors
/// If it is no timerfd.
pub fn wind_timerfd(file: BorrowedFd<'_>) -> Result<()> {
    let mut left = libc::itimerspec {
        it_interval: libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
    };
    // SAFETY: timerfd_gettime(2) fills in one struct itimerspec.
    if unsafe { libc::timerfd_gettime(file.as_raw_fd(), &raw mut left) } == -1 {
        return Err(Error::os("timerfd_gettime", Errno::last()));
    }
    Ok(())
}

/// Arms a timerfd of the clock `clock`, or disarms it if nothing remains; flags are those of timerfd_settime(2). Expirations that
/// were not read are gone.
///
/// # Errors
/// EPERM for a clock that wakes the machine without CAP_WAKE_ALARM.
pub fn set_timerfd(file: BorrowedFd<'_>, wanted: &TimerFd) -> Result<()> {
    let mut first = Duration::from_nanos(wanted.remaining);
    if wanted.is_absolute() && wanted.remaining != 0 {
        let now = clock_gettime(ClockId::from_raw(wanted.clock))
            .map_err(|errno| Error::os("clock_gettime", errno))?;
        first = first.saturating_add(Duration::from(now));
    }
    let failed = |errno| Error::os(format!("timerfd_settime({})", wanted.fd), errno);
    let time = |span: Duration| {
        Some(libc::timespec {
            tv_sec: span.as_secs().try_into().ok()?,
            tv_nsec: span.subsec_nanos().into(),
        })
    };
    let interval = Duration::from_nanos(wanted.interval);
    let (Some(it_value), Some(it_interval)) = (time(first), time(interval)) else {
        return Err(failed(Errno::EINVAL));
    };
    let new = libc::itimerspec {
        it_interval,
        it_value,
    };
    // SAFETY: timerfd_settime(2) reads one struct itimerspec and, given a null pointer, writes nothing.
    let set = unsafe {
        libc::timerfd_settime(
            file.as_raw_fd(),
            wanted.flags.cast_signed(),
            &raw const new,
            std::ptr::null_mut(),
        )
    };
    if set == -1 {
        return Err(failed(Errno::last()));
    }
    Ok(())
}

/// How many expirations of a timerfd were not read: at least one.
///
/// # Errors
/// If the kernel can't (CONFIG_CHECKPOINT_RESTORE), or the timer was cancelled because its clock was set.
pub fn set_timerfd_ticks(file: BorrowedFd<'_>, ticks: u64) -> Result<()> {
    // SAFETY: the ioctl reads one number of 64 bits.
    if unsafe { libc::ioctl(file.as_raw_fd(), TFD_IOC_SET_TICKS, &raw const ticks) } == -1 {
        return Err(Error::os("ioctl(TFD_IOC_SET_TICKS)", Errno::last()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_owner_of_one_s_own_file() {
        let (read, _write) = nix::unistd::pipe().unwrap();
        let files = Files::open(Pid::own()).unwrap();
        let file = files.get(read.as_raw_fd()).unwrap().unwrap();
        assert_eq!(owner(file.as_fd()).unwrap(), None);
        // SAFETY: F_SETOWN takes a number.
        unsafe {
            libc::fcntl(
                read.as_raw_fd(),
                libc::F_SETOWN,
                nix::unistd::getpid().as_raw(),
            )
        };
        let found = owner(file.as_fd()).unwrap().unwrap();
        assert_eq!((found.kind, found.id), (1, nix::unistd::getpid().as_raw()));
        assert_eq!(signal(file.as_fd()).unwrap(), SigNo::new(libc::SIGIO));
        assert_eq!(found.euid, nix::unistd::geteuid().as_raw());
        assert!(files.get(i32::MAX).unwrap().is_none());
        wind_timerfd(file.as_fd()).expect_err("a pipe");
    }
}
