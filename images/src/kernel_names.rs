//! The kernel's names of numbers: system calls, clocks, audit architectures.

use std::fmt;

use crate::header::Arch;
use crate::signo::SigNo;

/// Which system calls numbers stand for: those of an architecture, and of its 32-bit programs or its others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallTable {
    /// `None` for one of which no names are known.
    pub arch: Option<Arch>,
    /// Of 32-bit programs.
    pub compat: bool,
}

impl CallTable {
    /// That of programs on this machine.
    pub const fn here(compat: bool) -> CallTable {
        let arch = Arch::current();
        CallTable { arch, compat }
    }

    /// The call with this number: `openat`, or `system call 1000` if the table has no such number.
    pub const fn call(self, number: u32) -> Call {
        Call {
            table: self,
            number,
        }
    }

    /// The name of the call with this number; `None` if the table has no such number.
    pub fn name(self, number: u32) -> Option<&'static str> {
        let CallTable { arch, compat } = self;
        let number = usize::try_from(number).ok()?;
        match arch? {
            Arch::X86_64 if compat => syscalls::x86::Sysno::new(number).map(|call| call.name()),
            Arch::X86_64 => syscalls::x86_64::Sysno::new(number).map(|call| call.name()),
            Arch::Aarch64 if compat => syscalls::arm::Sysno::new(number).map(|call| call.name()),
            Arch::Aarch64 => syscalls::aarch64::Sysno::new(number).map(|call| call.name()),
        }
    }
}

/// A system call, to be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Call {
    table: CallTable,
    number: u32,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.table.name(self.number) {
            Some(name) => f.write_str(name),
            None => write!(f, "system call {}", self.number),
        }
    }
}

/// include/uapi/linux/audit.h, of architectures whose calls have names here.
const AUDIT_ARCHES: [(u32, &str, CallTable); 4] = [
    (0xc000_003e, "AUDIT_ARCH_X86_64", table(Arch::X86_64, false)),
    (0x4000_0003, "AUDIT_ARCH_I386", table(Arch::X86_64, true)),
    (
        0xc000_00b7,
        "AUDIT_ARCH_AARCH64",
        table(Arch::Aarch64, false),
    ),
    (0x4000_0028, "AUDIT_ARCH_ARM", table(Arch::Aarch64, true)),
];

const fn table(arch: Arch, compat: bool) -> CallTable {
    CallTable {
        arch: Some(arch),
        compat,
    }
}

/// `syscall openat arch AUDIT_ARCH_X86_64`, of a SIGSYS; numbers where there are no names.
pub(crate) fn write_caught_call(f: &mut fmt::Formatter<'_>, number: i32, arch: u32) -> fmt::Result {
    let known = AUDIT_ARCHES.iter().find(|(known, ..)| *known == arch);
    let name = known.and_then(|(.., table)| table.name(u32::try_from(number).ok()?));
    match name {
        Some(name) => write!(f, "syscall {name}")?,
        None => write!(f, "syscall {number}")?,
    }
    match known {
        Some((_, name, _)) => write!(f, " arch {name}"),
        None => write!(f, " arch {arch:#x}"),
    }
}

/// A number of a signal that may be none: `SIGRTMIN+2`, `signal 70`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(pub i32);

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SigNo::new(self.0) {
            Some(signo) => write!(f, "{signo}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

/// A clock's number, as timer_create(2) takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Clock(pub i32);

/// include/uapi/linux/time.h.
const CLOCKS: [(i32, &str); 11] = [
    (0, "CLOCK_REALTIME"),
    (1, "CLOCK_MONOTONIC"),
    (2, "CLOCK_PROCESS_CPUTIME_ID"),
    (3, "CLOCK_THREAD_CPUTIME_ID"),
    (4, "CLOCK_MONOTONIC_RAW"),
    (5, "CLOCK_REALTIME_COARSE"),
    (6, "CLOCK_MONOTONIC_COARSE"),
    (7, "CLOCK_BOOTTIME"),
    (8, "CLOCK_REALTIME_ALARM"),
    (9, "CLOCK_BOOTTIME_ALARM"),
    (11, "CLOCK_TAI"),
];

impl Clock {
    /// Kinds of processor time, by the lowest bits of a negative number (include/linux/posix-timers_types.h).
    const CPU_KINDS: [&str; 3] = ["CPUCLOCK_PROF", "CPUCLOCK_VIRT", "CPUCLOCK_SCHED"];
    const PER_THREAD: i32 = 4;

    fn fmt_negative(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = !(self.0 >> 3);
        let kind = usize::try_from(self.0 & 3).ok();
        let Some(kind) = kind.and_then(|kind| Clock::CPU_KINDS.get(kind)) else {
            // CLOCKFD: a device's, by a file descriptor.
            return write!(f, "clock of file descriptor {of}");
        };
        match (of, self.0 & Clock::PER_THREAD != 0) {
            (0, true) => write!(f, "{kind} of the thread that created it"),
            (0, false) => write!(f, "{kind} of the process"),
            (tid, true) => write!(f, "{kind} of thread {tid}"),
            (pid, false) => write!(f, "{kind} of process {pid}"),
        }
    }
}

impl fmt::Display for Clock {
    /// `CLOCK_MONOTONIC`, `CPUCLOCK_SCHED of thread 42`, `clock 30`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            return self.fmt_negative(f);
        }
        match CLOCKS.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            // Linux 6.17.
            None if (16..24).contains(&self.0) => write!(f, "CLOCK_AUX+{}", self.0 - 16),
            None => write!(f, "clock {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls() {
        let name = |arch, compat, number| table(arch, compat).call(number).to_string();
        assert_eq!(name(Arch::X86_64, false, 232), "epoll_wait");
        assert_eq!(name(Arch::X86_64, true, 29), "pause");
        assert_eq!(name(Arch::Aarch64, false, 101), "nanosleep");
        assert_eq!(name(Arch::Aarch64, true, 162), "nanosleep");
        assert_eq!(
            name(Arch::X86_64, false, u32::MAX),
            "system call 4294967295"
        );
        let unknown = CallTable {
            arch: None,
            compat: false,
        };
        assert_eq!(unknown.call(0).to_string(), "system call 0");
    }

    /// The numbers are those of the C library, which are the kernel's.
    #[test]
    fn clocks() {
        for (number, name) in [
            (libc::CLOCK_REALTIME, "CLOCK_REALTIME"),
            (libc::CLOCK_MONOTONIC, "CLOCK_MONOTONIC"),
            (libc::CLOCK_PROCESS_CPUTIME_ID, "CLOCK_PROCESS_CPUTIME_ID"),
            (libc::CLOCK_THREAD_CPUTIME_ID, "CLOCK_THREAD_CPUTIME_ID"),
            (libc::CLOCK_MONOTONIC_RAW, "CLOCK_MONOTONIC_RAW"),
            (libc::CLOCK_REALTIME_COARSE, "CLOCK_REALTIME_COARSE"),
            (libc::CLOCK_MONOTONIC_COARSE, "CLOCK_MONOTONIC_COARSE"),
            (libc::CLOCK_BOOTTIME, "CLOCK_BOOTTIME"),
            (libc::CLOCK_REALTIME_ALARM, "CLOCK_REALTIME_ALARM"),
            (libc::CLOCK_BOOTTIME_ALARM, "CLOCK_BOOTTIME_ALARM"),
            (libc::CLOCK_TAI, "CLOCK_TAI"),
            (10, "clock 10"),
            (16, "CLOCK_AUX+0"),
            (24, "clock 24"),
            (-6, "CPUCLOCK_SCHED of the process"),
            (-2, "CPUCLOCK_SCHED of the thread that created it"),
            ((!42 << 3) | 6, "CPUCLOCK_SCHED of thread 42"),
            (!42 << 3, "CPUCLOCK_PROF of process 42"),
            ((!7 << 3) | 3, "clock of file descriptor 7"),
        ] {
            assert_eq!(Clock(number).to_string(), name);
        }
        for any in [i32::MIN, i32::MAX] {
            assert!(!Clock(any).to_string().is_empty());
        }
    }

    #[test]
    fn a_call_that_was_caught() {
        struct Caught(i32, u32);
        impl fmt::Display for Caught {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_caught_call(f, self.0, self.1)
            }
        }
        let text = |number, arch| Caught(number, arch).to_string();
        // EM_X86_64 and EM_AARCH64 with __AUDIT_ARCH_64BIT and __AUDIT_ARCH_LE (linux/audit.h).
        assert_eq!(
            text(257, 0xc000_003e),
            "syscall openat arch AUDIT_ARCH_X86_64"
        );
        assert_eq!(
            text(56, 0xc000_00b7),
            "syscall openat arch AUDIT_ARCH_AARCH64"
        );
        assert_eq!(text(-1, 0xc000_003e), "syscall -1 arch AUDIT_ARCH_X86_64");
        assert_eq!(text(257, 7), "syscall 257 arch 0x7");
    }

    #[test]
    fn signals() {
        assert_eq!(Signal(34).to_string(), "SIGRTMIN");
        assert_eq!(Signal(0).to_string(), "signal 0");
        assert_eq!(Signal(-1).to_string(), "signal -1");
    }
}
