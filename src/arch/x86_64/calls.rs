//! x86_64: system calls by number, in the 64-bit and in the 32-bit table.

use criu_signals_images::text::WaitCall;

use crate::arch::calls::{self, by_pointer};
use crate::arch::{Timeout, Timespec, Waiting, syscall_number};

/// restart_syscall(2) in the 32-bit table; `libc::SYS_restart_syscall` is that of the 64-bit one.
pub(super) const SYS32_RESTART_SYSCALL: u64 = 0;
/// mmap2(2) in the 32-bit table, where the offset counts pages (arch/x86/entry/syscalls/syscall_32.tbl).
pub(super) const SYS32_MMAP2: i64 = 192;
/// rt_sigaction(2) in the 32-bit table.
pub const SYS32_RT_SIGACTION: i64 = 174;

/// nanosleep(2) in the 32-bit table.
pub const SYS32_NANOSLEEP: u32 = 162;
/// poll(2) in the 32-bit table.
pub const SYS32_POLL: u32 = 168;
/// clock_nanosleep(2) in the 32-bit table, with times of 32 bits.
pub const SYS32_CLOCK_NANOSLEEP: u32 = 267;
/// The same with times of 64 bits.
pub const SYS32_CLOCK_NANOSLEEP_TIME64: u32 = 407;
/// futex(2) in the 32-bit table, with times of 32 bits.
pub const SYS32_FUTEX: u32 = 240;
/// The same with times of 64 bits.
pub const SYS32_FUTEX_TIME64: u32 = 422;

/// poll(2).
pub const POLL: u32 = syscall_number(libc::SYS_poll);

/// What the system call `number` with `args` is.
pub fn waiting(number: u32, args: [u64; 6], compat: bool) -> Option<Waiting> {
    if compat {
        return waiting_32(number, args);
    }
    match i64::from(number) {
        libc::SYS_epoll_wait | libc::SYS_select => Some(Waiting::Once),
        libc::SYS_poll => Some(Waiting::Poll),
        number => calls::waiting(number),
    }
}

/// Can the system call have a signal mask of its own (pselect6(2), ppoll, epoll_pwait, sigsuspend and their like)? Of calls that
/// are not known here, and of 32-bit ones, it is to be feared.
pub fn may_have_mask(number: u32, compat: bool) -> bool {
    if compat {
        return true;
    }
    match i64::from(number) {
        libc::SYS_select | libc::SYS_poll | libc::SYS_epoll_wait | libc::SYS_pause => false,
        number => !calls::has_no_mask(number),
    }
}

/// Which of the calls of wait(2) it is.
pub fn wait_call(number: u32, compat: bool) -> Option<WaitCall> {
    match number {
        7 if compat => Some(WaitCall::Waitpid),
        114 if compat => Some(WaitCall::Wait4),
        284 if compat => Some(WaitCall::Waitid),
        _ if compat => None,
        _ => calls::wait_call(i64::from(number)),
    }
}

/// How the system call `number` takes a time.
pub fn timespec(number: u32, compat: bool) -> Timespec {
    match number {
        SYS32_CLOCK_NANOSLEEP_TIME64 | SYS32_FUTEX_TIME64 if compat => Timespec::Time64,
        // semtimedop_time64, rt_sigtimedwait_time64, io_uring_enter, epoll_pwait2.
        420 | 421 | 426 | 441 if compat => Timespec::Time64,
        _ if compat => Timespec::Time32,
        _ => Timespec::Native,
    }
}

/// The timeout of such a call.
pub fn timeout(number: u32, args: [u64; 6], compat: bool) -> Timeout {
    let number = if compat {
        match number {
            // ipc(SEMOP), ipc(SEMTIMEDOP): the pointer comes last.
            117 if args[0] & 0xffff == 1 => return Timeout::Without,
            117 => return by_pointer(args[5]),
            256 => libc::SYS_epoll_wait,
            319 => libc::SYS_epoll_pwait,
            441 => libc::SYS_epoll_pwait2,
            177 | 421 => libc::SYS_rt_sigtimedwait,
            420 => libc::SYS_semtimedop,
            247 => libc::SYS_io_getevents,
            426 => libc::SYS_io_uring_enter,
            _ => return Timeout::Given,
        }
    } else {
        i64::from(number)
    };
    match number {
        libc::SYS_epoll_wait => calls::timeout(libc::SYS_epoll_pwait, args),
        number => calls::timeout(number, args),
    }
}

/// arch/x86/entry/syscalls/syscall_32.tbl.
fn waiting_32(number: u32, args: [u64; 6]) -> Option<Waiting> {
    Some(match number {
        // epoll_wait, epoll_pwait, epoll_pwait2, rt_sigtimedwait with either timespec, semtimedop_time64,
        // io_getevents, io_uring_enter, select, _newselect, pselect6, ppoll.
        256 | 319 | 441 | 177 | 421 | 420 | 247 | 426 | 82 | 142 | 308 | 413 | 309 | 414 => {
            Waiting::Once
        }
        // ipc(SEMOP), ipc(SEMTIMEDOP).
        117 if matches!(args[0] & 0xffff, 1 | 4) => Waiting::Once,
        // connect, accept4, recvfrom, recvmsg, recvmmsg, sendto, sendmsg, sendmmsg, read, readv, write, writev.
        362 | 364 | 371 | 372 | 337 | 417 | 369 | 370 | 345 | 3 | 145 | 4 | 146 => {
            Waiting::OnceOnSocket
        }
        // socketcall: everything in it that can wait is one of those.
        102 => Waiting::Once,
        SYS32_NANOSLEEP => Waiting::Nanosleep,
        SYS32_CLOCK_NANOSLEEP | SYS32_CLOCK_NANOSLEEP_TIME64 => Waiting::ClockNanosleep,
        SYS32_POLL => Waiting::Poll,
        SYS32_FUTEX | SYS32_FUTEX_TIME64 => Waiting::Futex,
        0 => Waiting::Restart,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_a_call_waits_for_ever() {
        let of = |number: i64, args: [u64; 6]| timeout(u32::try_from(number).unwrap(), args, false);
        let ms = |ms: i32| [3, 0, 1, u64::from(ms.cast_unsigned()), 0, 0];
        assert_eq!(of(libc::SYS_epoll_wait, ms(-1)), Timeout::Without);
        let longest = Timeout::Millis(0x7fff_ffff);
        assert_eq!(of(libc::SYS_epoll_pwait, ms(i32::MAX)), longest);
        let null = [1, 2, 0, 0, 0, 0];
        let pointer = [1, 2, 0x7fff_0000, 0x7fff_0000, 0, 0];
        for number in [libc::SYS_rt_sigtimedwait, libc::SYS_epoll_pwait2] {
            assert_eq!(of(number, null), Timeout::Without);
            assert_eq!(of(number, pointer), Timeout::At(0x7fff_0000));
        }
        assert_eq!(of(libc::SYS_recvfrom, null), Timeout::Given);
        let ring = |flags| [3, 0, 1, flags, 0x1000, 24];
        assert_eq!(of(libc::SYS_io_uring_enter, ring(1)), Timeout::Without);
        let extended = of(libc::SYS_io_uring_enter, ring(9));
        assert_eq!(extended, Timeout::IfAt(0x1010));
        // By the numbers of the 32-bit table: rt_sigtimedwait, ipc(SEMTIMEDOP), ipc(SEMOP).
        assert_eq!(timeout(177, null, true), Timeout::Without);
        assert_eq!(timeout(421, pointer, true), Timeout::At(0x7fff_0000));
        // The one before 421 has another struct timespec.
        assert_eq!(timeout(177, pointer, true), Timeout::At(0x7fff_0000));
        let layouts = [421, 177, 117].map(|number| timespec(number, true));
        assert_eq!(
            layouts,
            [Timespec::Time64, Timespec::Time32, Timespec::Time32]
        );
        assert_eq!(
            timeout(117, [4, 0, 1, 0, 0, 0xff00], true),
            Timeout::At(0xff00)
        );
        assert_eq!(
            timeout(117, [1, 0, 1, 0, 0, 0xff00], true),
            Timeout::Without
        );
    }
}
