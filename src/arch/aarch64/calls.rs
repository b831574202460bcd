//! aarch64: system calls by number. The 32-bit table is that of Arm (arch/arm64/tools/syscall_32.tbl).

use criu_signals_images::text::WaitCall;

use crate::arch::calls;
use crate::arch::{Timeout, Timespec, Waiting, syscall_number};

/// rt_sigaction(2) in the 32-bit table.
pub const SYS32_RT_SIGACTION: i64 = 174;
/// nanosleep(2) in the 32-bit table.
pub const SYS32_NANOSLEEP: u32 = 162;
/// poll(2) in the 32-bit table.
pub const SYS32_POLL: u32 = 168;
/// clock_nanosleep(2) in the 32-bit table, with times of 32 bits.
pub const SYS32_CLOCK_NANOSLEEP: u32 = 265;
/// The same with times of 64 bits.
pub const SYS32_CLOCK_NANOSLEEP_TIME64: u32 = 407;
/// futex(2) in the 32-bit table, with times of 32 bits.
pub const SYS32_FUTEX: u32 = 240;
/// The same with times of 64 bits.
pub const SYS32_FUTEX_TIME64: u32 = 422;

/// There is no poll(2): libc makes ppoll of it.
pub const POLL: u32 = syscall_number(libc::SYS_ppoll);

/// What the system call `number` is. Of 32-bit programs none is known: they are refused.
pub fn waiting(number: u32, _args: [u64; 6], compat: bool) -> Option<Waiting> {
    if compat {
        return None;
    }
    calls::waiting(i64::from(number))
}

/// Can the system call have a signal mask of its own (pselect6(2), ppoll, epoll_pwait, sigsuspend and their like)? Of calls that
/// are not known here, and of 32-bit ones, it is to be feared.
pub fn may_have_mask(number: u32, compat: bool) -> bool {
    compat || !calls::has_no_mask(i64::from(number))
}

/// Which of the calls of wait(2) it is.
pub fn wait_call(number: u32, compat: bool) -> Option<WaitCall> {
    match number {
        114 if compat => Some(WaitCall::Wait4),
        280 if compat => Some(WaitCall::Waitid),
        _ if compat => None,
        _ => calls::wait_call(i64::from(number)),
    }
}

/// How the system call `number` takes a time.
pub fn timespec(number: u32, compat: bool) -> Timespec {
    match number {
        407 | 420 | 421 | 422 | 426 | 441 if compat => Timespec::Time64,
        _ if compat => Timespec::Time32,
        _ => Timespec::Native,
    }
}

/// The timeout of a call that ends with EINTR whatever interrupted it.
pub fn timeout(number: u32, args: [u64; 6], compat: bool) -> Timeout {
    if compat {
        return Timeout::Given;
    }
    calls::timeout(i64::from(number), args)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::calls::is_sigsuspend;

    #[test]
    fn by_the_numbers_of_this_table() {
        assert_eq!(waiting(101, [0; 6], false), Some(Waiting::Nanosleep));
        assert_eq!(
            waiting(22, [0; 6], false),
            Some(Waiting::Once),
            "epoll_pwait"
        );
        assert_eq!(waiting(35, [0; 6], false), None, "x86_64's nanosleep");
        assert_eq!(wait_call(260, false), Some(WaitCall::Wait4));
        assert_eq!(wait_call(95, false), Some(WaitCall::Waitid));
        assert!(is_sigsuspend(133, false));
        let null = [1, 2, 0, 0, 0, 0];
        assert_eq!(
            timeout(137, null, false),
            Timeout::Without,
            "rt_sigtimedwait"
        );
        assert_eq!(timeout(22, [3, 0, 1, 50, 0, 0], false), Timeout::Millis(50));
    }
}
