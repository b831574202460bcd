//! The output format of the program: records, and the two maps that this process shares with the program.

use crate::arch::PT_REGS_WORDS;

/// What is being done, for errors.
pub(super) const READ: &str = "read the process by BPF";

/// The deepest pid namespace (MAX_PID_NS_LEVEL, include/linux/pid_namespace.h).
pub(super) const MOST_LEVELS: i32 = 32;
/// The kernel has 64 signals (_NSIG, asm/signal.h).
pub(super) const SIGNALS: i32 = 64;

/// What is asked of the program, and what it says of its pass.
pub(super) struct Request;

impl Request {
    /// Where in the records the next one goes.
    pub(super) const CURSOR: i16 = 0;
    /// A [`Status`].
    pub(super) const STATUS: i16 = 8;
    /// The process, in the caller's pid namespace.
    pub(super) const WANTED: i16 = 16;
    /// In how many pid namespaces the caller is, besides the first.
    pub(super) const LEVEL: i16 = 24;
    pub(super) const SIZE: usize = 32;
}

/// How a pass has ended, if not well, which is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Status {
    /// There is no more room for records.
    Full = 1,
    /// A list had no end, or an entry was nowhere: it was changed meanwhile.
    Torn = 2,
}

/// What a record is. Each begins with this and its size, eight bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Kind {
    Thread = 1,
    Private = 2,
    Process = 3,
    Shared = 4,
    Timer = 5,
}

/// Of a record's head.
pub(super) const HEAD: usize = 16;

/// `sizeof(struct k_sigaction)`.
pub(super) const ACTION: i32 = 32;
/// Of a `struct pt_regs`: how much is read.
pub(super) const REGISTERS: usize = PT_REGS_WORDS;
#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
pub(super) const REGISTERS_SIZE: i32 = REGISTERS as i32 * 8;
/// Room for a `struct restart_block`.
pub(super) const BLOCK_ROOM: i32 = 64;
/// `sizeof(struct kernel_siginfo)`: the rest of what a program sees is zero (kernel/signal.c, copy_siginfo_to_user).
pub(super) const INFO: i32 = 48;
pub(super) const UPID: i32 = 16;

pub(super) mod thread {
    pub(in super::super) const TASK: i16 = 16;
    pub(in super::super) const FLAGS: i16 = 24;
    pub(in super::super) const EXIT_STATE: i16 = 32;
    pub(in super::super) const STATE: i16 = 40;
    pub(in super::super) const RAN: i16 = 48;
    pub(in super::super) const BLOCKED: i16 = 56;
    pub(in super::super) const REAL_BLOCKED: i16 = 64;
    pub(in super::super) const SAVED: i16 = 72;
    pub(in super::super) const RESTORE: i16 = 80;
    pub(in super::super) const PENDING: i16 = 88;
    pub(in super::super) const STACK: i16 = 96;
    pub(in super::super) const STACK_SIZE: i16 = 104;
    pub(in super::super) const STACK_FLAGS: i16 = 112;
    pub(in super::super) const JOBCTL: i16 = 120;
    pub(in super::super) const PARENT_DEATH: i16 = 128;
    pub(in super::super) const EXIT_SIGNAL: i16 = 136;
    pub(in super::super) const PTRACE: i16 = 144;
    pub(in super::super) const LEVEL: i16 = 152;
    pub(in super::super) const NAMESPACE: i16 = 160;
    pub(in super::super) const STARTED: i16 = 168;
    pub(in super::super) const SECCOMP: i16 = 176;
    pub(in super::super) const MEMORY: i16 = 184;
    pub(in super::super) const TRACER: i16 = 192;
    pub(in super::super) const DISPATCHES: i16 = 200;
    /// Selector, offset, length.
    pub(in super::super) const DISPATCH: i16 = 208;
    pub(in super::super) const COMM: i16 = 232;
    pub(in super::super) const BLOCK: i16 = 248;
    pub(in super::super) const ON_CPU: i16 = 312;
    pub(in super::super) const SWITCHES: i16 = 320;
    pub(in super::super) const SWITCHED: i16 = 328;
    /// So far behind the three the same is read once more, behind all the others.
    pub(in super::super) const AFTER: i16 = 24;
    pub(in super::super) const REGISTERS: i16 = 360;
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
    pub(in super::super) const NUMBERS: i16 = REGISTERS + crate::arch::PT_REGS_WORDS as i16 * 8;
}
/// A thread's record.
pub(super) const THREAD: i32 = thread::NUMBERS as i32 + (MOST_LEVELS + 1) * UPID;

pub(super) mod process {
    pub(in super::super) const PENDING: i16 = 16;
    pub(in super::super) const FLAGS: i16 = 24;
    pub(in super::super) const EXIT_CODE: i16 = 32;
    pub(in super::super) const STOP_COUNT: i16 = 40;
    pub(in super::super) const THREADS: i16 = 48;
    pub(in super::super) const LIMIT: i16 = 56;
    pub(in super::super) const CHARGED: i16 = 72;
    pub(in super::super) const INTERVAL: i16 = 80;
    pub(in super::super) const EXPIRES: i16 = 88;
    pub(in super::super) const ACTIVE: i16 = 96;
    pub(in super::super) const CPU_TIMERS: i16 = 104;
    pub(in super::super) const TIMERS: i16 = 136;
    pub(in super::super) const TIMERS_HEAD: i16 = 144;
    pub(in super::super) const SIGHAND: i16 = 152;
    pub(in super::super) const MONOTONIC: i16 = 160;
    pub(in super::super) const BOOTTIME: i16 = 168;
    pub(in super::super) const ACTIONS: i16 = 176;
}
/// A process's record.
pub(super) const PROCESS: i32 = process::ACTIONS as i32 + SIGNALS * ACTION;

pub(super) mod entry {
    //! An entry of a queue: the kernel's `struct sigqueue` behind this.
    pub(in super::super) const ADDRESS: i16 = 16;
    pub(in super::super) const HEADER: i32 = 24;
}

pub(super) mod timer {
    //! A timer: the kernel's `struct k_itimer` behind this.
    pub(in super::super) const ADDRESS: i16 = 16;
    pub(in super::super) const TOLD: i16 = 24;
    pub(in super::super) const MEASURED: i16 = 32;
    pub(in super::super) const BASE: i16 = 40;
    pub(in super::super) const HEADER: i32 = 48;
}
