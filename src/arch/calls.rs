//! System calls: what all architectures have. Their numbers are libc's; the 32-bit tables are in the architectures' folders.

use criu_signals_images::text::WaitCall;

/// What can become of an interrupted system call, as far as `state/interrupted.rs` has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Ends with EINTR whatever interrupted it, with nothing done: it can be made once more.
    Once,
    /// Likewise on a socket that has a timeout (sock_intr_errno); elsewhere its EINTR may be the file's own.
    OnceOnSocket,
    /// nanosleep(req, rem).
    Nanosleep,
    /// clock_nanosleep(clock, flags, req, rem).
    ClockNanosleep,
    /// poll(fds, nfds, milliseconds).
    Poll,
    /// futex(uaddr, op, val, timeout, ...).
    Futex,
    /// restart_syscall(): the number of the call that it goes on with is known to the kernel only.
    Restart,
}

/// Where the timeout of a call is that ends with EINTR whatever interrupted it ([`Waiting::Once`] and
/// [`Waiting::OnceOnSocket`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// It waits as long as it takes.
    Without,
    /// It has one, and the arguments do not say how long it is.
    Given,
    /// This many milliseconds.
    Millis(u64),
    /// It is at this address, as [`timespec`](super::timespec()) says.
    At(u64),
    /// It has one if there is a pointer other than NULL at this address, and there it is.
    IfAt(u64),
}

/// The number of a system call of 64-bit programs, as images hold it, from libc's constant.
///
/// # Panics
/// If `number` is not a number of that table: at compile time, because it is called in constants only.
#[allow(clippy::cast_possible_truncation)]
pub const fn syscall_number(number: libc::c_long) -> u32 {
    assert!(0 <= number && number < 1024);
    number.cast_unsigned() as u32
}

/// What the system call `number` of 64-bit programs is, of those that all architectures have.
pub(super) fn waiting(number: i64) -> Option<Waiting> {
    Some(match number {
        libc::SYS_epoll_pwait
        | libc::SYS_epoll_pwait2
        | libc::SYS_rt_sigtimedwait
        | libc::SYS_semop
        | libc::SYS_semtimedop
        | libc::SYS_io_getevents
        | libc::SYS_io_uring_enter
        // EINTR only where the kernel cannot write the time that is left into the program's memory (fs/select.c,
        // poll_select_finish).
        | libc::SYS_pselect6
        | libc::SYS_ppoll => Waiting::Once,
        libc::SYS_connect
        | libc::SYS_accept
        | libc::SYS_accept4
        | libc::SYS_recvfrom
        | libc::SYS_recvmsg
        | libc::SYS_recvmmsg
        | libc::SYS_sendto
        | libc::SYS_sendmsg
        | libc::SYS_sendmmsg
        | libc::SYS_read
        | libc::SYS_readv
        | libc::SYS_write
        | libc::SYS_writev => Waiting::OnceOnSocket,
        libc::SYS_nanosleep => Waiting::Nanosleep,
        libc::SYS_clock_nanosleep => Waiting::ClockNanosleep,
        libc::SYS_futex => Waiting::Futex,
        libc::SYS_restart_syscall => Waiting::Restart,
        _ => return None,
    })
}

/// Is it sigsuspend(2)?
pub fn is_sigsuspend(number: u32, compat: bool) -> bool {
    // sigsuspend and rt_sigsuspend, whose numbers the tables of 32-bit x86 and of 32-bit Arm share.
    if compat {
        matches!(number, 72 | 179)
    } else {
        i64::from(number) == libc::SYS_rt_sigsuspend
    }
}

/// May a thread that is about to make the system call `number` of 64-bit programs be taken into the call, to be interrupted there at
/// once? `is_seen`: it was seen waiting there. Never where the call makes or ends a thread, or another program of the process.
pub fn is_wait(number: u32, is_seen: bool) -> bool {
    match i64::from(number) {
        libc::SYS_execve
        | libc::SYS_execveat
        | libc::SYS_exit
        | libc::SYS_exit_group
        | libc::SYS_clone
        | libc::SYS_clone3
        | libc::SYS_rt_sigreturn => false,
        known => {
            is_seen
                || waiting(known).is_some()
                || has_no_mask(known)
                || known == libc::SYS_rt_sigsuspend
        }
    }
}

/// Is the system call `number` of 64-bit programs known to have no signal mask of its own, of those that all
/// architectures have?
pub(super) fn has_no_mask(number: i64) -> bool {
    matches!(
        number,
        libc::SYS_read
            | libc::SYS_readv
            | libc::SYS_write
            | libc::SYS_writev
            | libc::SYS_nanosleep
            | libc::SYS_clock_nanosleep
            | libc::SYS_futex
            | libc::SYS_wait4
            | libc::SYS_waitid
            | libc::SYS_accept
            | libc::SYS_accept4
            | libc::SYS_connect
            | libc::SYS_recvfrom
            | libc::SYS_recvmsg
            | libc::SYS_sendto
            | libc::SYS_sendmsg
            | libc::SYS_flock
            | libc::SYS_fcntl
    )
}

/// A pointer to a time, which is NULL where there is no timeout.
pub(super) fn by_pointer(at: u64) -> Timeout {
    match at {
        0 => Timeout::Without,
        at => Timeout::At(at),
    }
}

/// The timeout of the system call `number` of 64-bit programs, of those that all architectures have.
pub(super) fn timeout(number: i64, args: [u64; 6]) -> Timeout {
    match number {
        // An int in the low half; below 0 it is for ever.
        libc::SYS_epoll_pwait if args[3] & 0x8000_0000 != 0 => Timeout::Without,
        libc::SYS_epoll_pwait => Timeout::Millis(args[3] & 0x7fff_ffff),
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => by_pointer(args[3]),
        libc::SYS_rt_sigtimedwait => by_pointer(args[2]),
        libc::SYS_semop => Timeout::Without,
        libc::SYS_io_getevents => by_pointer(args[4]),
        libc::SYS_io_uring_enter if args[3] & IORING_ENTER_EXT_ARG == 0 => Timeout::Without,
        // struct io_uring_getevents_arg; where that is registered memory, args[4] is an offset into it.
        libc::SYS_io_uring_enter if args[3] & IORING_ENTER_EXT_ARG_REG == 0 => {
            Timeout::IfAt(args[4].wrapping_add(IO_URING_GETEVENTS_ARG_TS))
        }
        // A socket without one would have given ERESTARTSYS (sock_intr_errno), select and its like ERESTARTNOHAND.
        _ => Timeout::Given,
    }
}

/// linux/io_uring.h.
const IORING_ENTER_EXT_ARG: u64 = 1 << 3;
const IORING_ENTER_EXT_ARG_REG: u64 = 1 << 6;
const IO_URING_GETEVENTS_ARG_TS: u64 = 16;

/// Which of the calls of wait(2) it is, of 64-bit programs.
pub(super) fn wait_call(number: i64) -> Option<WaitCall> {
    match number {
        libc::SYS_wait4 => Some(WaitCall::Wait4),
        libc::SYS_waitid => Some(WaitCall::Waitid),
        _ => None,
    }
}
