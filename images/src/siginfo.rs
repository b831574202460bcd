//! One queued signal: the kernel's `siginfo_t`, kept as its 128 bytes.
//!
//! Offsets are those of asm-generic/siginfo.h on a 64-bit little-endian machine, which x86_64 and aarch64
//! share; `tests/kernel_layout.rs` checks them against the C headers, libc and the running kernel.

use std::fmt;

use crate::codec::{Codec, proto::signals as pb};
use crate::error::FieldError;
use crate::kernel_names::{self, Signal};
use crate::signo::SigNo;

/// `SI_MAX_SIZE` of asm-generic/siginfo.h.
pub const SIGINFO_SIZE: usize = 128;

/// The kernel's `siginfo_t` as `PTRACE_PEEKSIGINFO` gives it.
///
/// Two are equal if their bytes are, but for what the kernel notes in a POSIX timer's own entry: `si_sys_private` counts how
/// often a periodic timer was armed, is shown until Linux 6.12, and never delivered. There it is odd
/// (`posix_timer_queue_signal`, `++timr->it_requeue_pending`), and 0 from 6.13 on.
#[derive(Clone, Copy)]
pub struct Siginfo(pub [u8; SIGINFO_SIZE]);

impl Siginfo {
    fn compared(&self) -> [u8; SIGINFO_SIZE] {
        let mut bytes = self.0;
        let at = offset::TIMER_SYS_PRIVATE;
        if self.code() == SI_TIMER && self.i32_at(at) & 1 == 1 {
            bytes[at..at + 4].fill(0);
        }
        bytes
    }
}

impl PartialEq for Siginfo {
    fn eq(&self, other: &Siginfo) -> bool {
        self.0 == other.0 || (self.code() == SI_TIMER && self.compared() == other.compared())
    }
}

impl Eq for Siginfo {}

impl PartialOrd for Siginfo {
    fn partial_cmp(&self, other: &Siginfo) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Siginfo {
    fn cmp(&self, other: &Siginfo) -> std::cmp::Ordering {
        self.compared().cmp(&other.compared())
    }
}

impl std::hash::Hash for Siginfo {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.compared().hash(state);
    }
}

/// Which of the union's members the kernel takes a siginfo to have: its `enum siginfo_layout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `_kill`.
    Kill,
    /// `_timer`.
    Timer,
    /// `_sigpoll`.
    Poll,
    /// `_sigfault` with an address alone.
    Fault,
    /// `_sigfault` with `_trapno`. Alpha and Sparc only: [`Siginfo::layout`] never gives it.
    FaultTrapno,
    /// `_sigfault` with `_addr_lsb`.
    FaultMceerr,
    /// `_sigfault` with `_addr_bnd`.
    FaultBnderr,
    /// `_sigfault` with `_addr_pkey`.
    FaultPkuerr,
    /// `_sigfault` with `_perf`.
    FaultPerfEvent,
    /// `_sigchld`.
    Chld,
    /// `_rt`.
    Rt,
    /// `_sigsys`.
    Sys,
}

/// The union's member, by [`Layout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fields {
    /// `kill(2)`, `tkill(2)`'s and the kernel's own plain signals.
    Kill {
        /// Sender's process id, in the receiver's pid namespace; 0 from outside or from the kernel.
        pid: i32,
        /// Sender's real user id.
        uid: u32,
    },
    /// A POSIX timer expired.
    Timer {
        /// The kernel's timer id.
        id: i32,
        /// Expirations since, beyond this one.
        overrun: i32,
        /// `sigev_value`.
        value: u64,
        /// The kernel's own mark; user space sees 0.
        sys_private: i32,
    },
    /// A file descriptor became ready (F_SETSIG, O_ASYNC).
    Poll {
        /// `POLL*` bits of `poll(2)`.
        band: i64,
        /// The descriptor.
        fd: i32,
    },
    /// A fault of the CPU.
    Fault {
        /// Address of the instruction or of the memory reference.
        addr: u64,
        /// What else this kind of fault tells.
        detail: FaultDetail,
    },
    /// A child changed state.
    Child {
        /// The child's process id.
        pid: i32,
        /// The child's real user id.
        uid: u32,
        /// Exit status or signal number.
        status: i32,
        /// Its user time in clock ticks.
        utime: i64,
        /// Its system time in clock ticks.
        stime: i64,
    },
    /// `sigqueue(3)`, message queues, asynchronous I/O: a signal with a value.
    Value {
        /// Sender's process id.
        pid: i32,
        /// Sender's real user id.
        uid: u32,
        /// `union sigval`; an int is in the low half.
        value: u64,
    },
    /// A system call that a filter caught: seccomp, syscall user dispatch.
    Sys {
        /// Address of the instruction.
        call_addr: u64,
        /// Number of the system call.
        syscall: i32,
        /// `AUDIT_ARCH_*`.
        arch: u32,
    },
}

/// What a fault tells besides its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultDetail {
    /// Nothing.
    None,
    /// Number of the trap. Alpha and Sparc only.
    Trapno(i32),
    /// Memory error: least significant bit of the address that is valid, so the size of the damage.
    Lsb(i16),
    /// Bounds violation.
    Bounds {
        /// Lower bound.
        lower: u64,
        /// Upper bound.
        upper: u64,
    },
    /// Protection key that refused the access.
    Pkey(u32),
    /// A perf event with `sigtrap` set.
    Perf {
        /// `perf_event_attr.sig_data`.
        data: u64,
        /// `perf_event_attr.type`.
        kind: u32,
        /// `TRAP_PERF_FLAG_*`.
        flags: u32,
    },
}

mod offset {
    pub(super) const SIGNO: usize = 0;
    pub(super) const ERRNO: usize = 4;
    pub(super) const CODE: usize = 8;
    pub(super) const COMPAT_UNION: usize = 12;
    // The union begins at 16, because it holds pointers. _kill, _rt and _sigchld begin alike.
    pub(super) const PID: usize = 16;
    pub(super) const UID: usize = 20;
    pub(super) const RT_VALUE: usize = 24;
    pub(super) const CHLD_STATUS: usize = 24;
    pub(super) const CHLD_UTIME: usize = 32;
    pub(super) const CHLD_STIME: usize = 40;
    pub(super) const TIMER_ID: usize = 16;
    pub(super) const TIMER_OVERRUN: usize = 20;
    pub(super) const TIMER_VALUE: usize = 24;
    pub(super) const TIMER_SYS_PRIVATE: usize = 32;
    pub(super) const POLL_BAND: usize = 16;
    pub(super) const POLL_FD: usize = 24;
    pub(super) const FAULT_ADDR: usize = 16;
    pub(super) const FAULT_TRAPNO: usize = 24;
    pub(super) const FAULT_LSB: usize = 24;
    pub(super) const FAULT_LOWER: usize = 32;
    pub(super) const FAULT_UPPER: usize = 40;
    pub(super) const FAULT_PKEY: usize = 32;
    pub(super) const PERF_DATA: usize = 24;
    pub(super) const PERF_TYPE: usize = 32;
    pub(super) const PERF_FLAGS: usize = 36;
    pub(super) const SYS_CALL_ADDR: usize = 16;
    pub(super) const SYS_SYSCALL: usize = 24;
    pub(super) const SYS_ARCH: usize = 28;
}

const SI_USER: i32 = 0;
const SI_KERNEL: i32 = 0x80;
const SI_TIMER: i32 = -2;
const SI_SIGIO: i32 = -5;

const BUS_MCEERR_AR: i32 = 4;
const BUS_MCEERR_AO: i32 = 5;
const SEGV_BNDERR: i32 = 3;
/// The child's exit code is its status, with the codes behind this one a signal.
const CLD_EXITED: i32 = 1;
const SEGV_PKUERR: i32 = 4;
const TRAP_PERF: i32 = 6;

/// `si_code`s that any signal may have.
const COMMON_CODES: &[(i32, &str)] = &[
    (SI_USER, "SI_USER"),
    (SI_KERNEL, "SI_KERNEL"),
    (-1, "SI_QUEUE"),
    (SI_TIMER, "SI_TIMER"),
    (-3, "SI_MESGQ"),
    (-4, "SI_ASYNCIO"),
    (SI_SIGIO, "SI_SIGIO"),
    (-6, "SI_TKILL"),
    (-7, "SI_DETHREAD"),
    (-60, "SI_ASYNCNL"),
];

/// `si_code`s 1, 2, ... of signals that have their own, by asm-generic/siginfo.h. How many there are is
/// also the limit up to which the kernel takes a code for one of them (its `NSIG*`).
const ILL_CODES: &[&str] = &[
    "ILL_ILLOPC",
    "ILL_ILLOPN",
    "ILL_ILLADR",
    "ILL_ILLTRP",
    "ILL_PRVOPC",
    "ILL_PRVREG",
    "ILL_COPROC",
    "ILL_BADSTK",
    "ILL_BADIADDR",
    "__ILL_BREAK",
    "__ILL_BNDMOD",
];
const FPE_CODES: &[&str] = &[
    "FPE_INTDIV",
    "FPE_INTOVF",
    "FPE_FLTDIV",
    "FPE_FLTOVF",
    "FPE_FLTUND",
    "FPE_FLTRES",
    "FPE_FLTINV",
    "FPE_FLTSUB",
    "__FPE_DECOVF",
    "__FPE_DECDIV",
    "__FPE_DECERR",
    "__FPE_INVASC",
    "__FPE_INVDEC",
    "FPE_FLTUNK",
    "FPE_CONDTRAP",
];
const SEGV_CODES: &[&str] = &[
    "SEGV_MAPERR",
    "SEGV_ACCERR",
    "SEGV_BNDERR",
    "SEGV_PKUERR",
    "SEGV_ACCADI",
    "SEGV_ADIDERR",
    "SEGV_ADIPERR",
    "SEGV_MTEAERR",
    "SEGV_MTESERR",
    "SEGV_CPERR",
];
const BUS_CODES: &[&str] = &[
    "BUS_ADRALN",
    "BUS_ADRERR",
    "BUS_OBJERR",
    "BUS_MCEERR_AR",
    "BUS_MCEERR_AO",
];
const TRAP_CODES: &[&str] = &[
    "TRAP_BRKPT",
    "TRAP_TRACE",
    "TRAP_BRANCH",
    "TRAP_HWBKPT",
    "TRAP_UNK",
    "TRAP_PERF",
];
const CLD_CODES: &[&str] = &[
    "CLD_EXITED",
    "CLD_KILLED",
    "CLD_DUMPED",
    "CLD_TRAPPED",
    "CLD_STOPPED",
    "CLD_CONTINUED",
];
const POLL_CODES: &[&str] = &[
    "POLL_IN", "POLL_OUT", "POLL_MSG", "POLL_ERR", "POLL_PRI", "POLL_HUP",
];
const SYS_CODES: &[&str] = &["SYS_SECCOMP", "SYS_USER_DISPATCH"];

/// The kernel's `sig_sicodes` (`kernel/signal.c`): signals with codes of their own.
fn own_codes(signo: SigNo) -> Option<(&'static [&'static str], Layout)> {
    Some(match signo {
        SigNo::ILL => (ILL_CODES, Layout::Fault),
        SigNo::FPE => (FPE_CODES, Layout::Fault),
        SigNo::SEGV => (SEGV_CODES, Layout::Fault),
        SigNo::BUS => (BUS_CODES, Layout::Fault),
        SigNo::TRAP => (TRAP_CODES, Layout::Fault),
        SigNo::CHLD => (CLD_CODES, Layout::Chld),
        SigNo::POLL => (POLL_CODES, Layout::Poll),
        SigNo::SYS => (SYS_CODES, Layout::Sys),
        _ => return None,
    })
}

/// The name of the `code`th entry, counted from 1.
fn nth_code(names: &[&'static str], code: i32) -> Option<&'static str> {
    names
        .get(usize::try_from(code).ok()?.checked_sub(1)?)
        .copied()
}

/// The kernel's `siginfo_layout()`.
fn layout_of(signo: i32, code: i32) -> Layout {
    if code <= SI_USER || code >= SI_KERNEL {
        return match code {
            SI_TIMER => Layout::Timer,
            SI_SIGIO => Layout::Poll,
            _ if code < 0 => Layout::Rt,
            _ => Layout::Kill,
        };
    }
    let signo = SigNo::new(signo);
    if let Some((names, layout)) = signo.and_then(own_codes)
        && nth_code(names, code).is_some()
    {
        return match (signo, code) {
            (Some(SigNo::BUS), BUS_MCEERR_AR | BUS_MCEERR_AO) => Layout::FaultMceerr,
            (Some(SigNo::SEGV), SEGV_BNDERR) => Layout::FaultBnderr,
            (Some(SigNo::SEGV), SEGV_PKUERR) => Layout::FaultPkuerr,
            (Some(SigNo::TRAP), TRAP_PERF) => Layout::FaultPerfEvent,
            _ => layout,
        };
    }
    // A code that is not the signal's own is taken for one of SIGPOLL's: with F_SETSIG any signal may
    // carry those.
    if nth_code(POLL_CODES, code).is_some() {
        Layout::Poll
    } else {
        Layout::Kill
    }
}

impl Siginfo {
    /// Any 128 bytes will do.
    pub const fn from_bytes(bytes: [u8; SIGINFO_SIZE]) -> Siginfo {
        Siginfo(bytes)
    }

    /// The bytes, as `rt_tgsigqueueinfo` takes them.
    pub const fn as_bytes(&self) -> &[u8; SIGINFO_SIZE] {
        &self.0
    }

    /// `si_signo`: 1..=64 in a queue, but any number in foreign bytes.
    pub fn signo(&self) -> i32 {
        self.i32_at(offset::SIGNO)
    }

    /// `si_errno`, mostly 0.
    pub fn errno(&self) -> i32 {
        self.i32_at(offset::ERRNO)
    }

    /// `si_code`: above 0 from the kernel, 0 and below from user space.
    pub fn code(&self) -> i32 {
        self.i32_at(offset::CODE)
    }

    /// What the kernel's `siginfo_layout()` says to this number and code on x86_64 and aarch64.
    pub fn layout(&self) -> Layout {
        layout_of(self.signo(), self.code())
    }

    /// Does it look as the entry of a timer of this number, with this id and value, does?
    pub fn is_of_timer(&self, signo: i32, id: i32, value: u64) -> bool {
        let of_timer = |fields| matches!(fields, Fields::Timer { id: its, value: own, .. } if (its, own) == (id, value));
        self.signo() == signo && of_timer(self.fields())
    }

    /// The fields that the layout has.
    pub fn fields(&self) -> Fields {
        match self.layout() {
            Layout::Kill => Fields::Kill {
                pid: self.i32_at(offset::PID),
                uid: self.u32_at(offset::UID),
            },
            Layout::Timer => Fields::Timer {
                id: self.i32_at(offset::TIMER_ID),
                overrun: self.i32_at(offset::TIMER_OVERRUN),
                value: self.u64_at(offset::TIMER_VALUE),
                sys_private: self.i32_at(offset::TIMER_SYS_PRIVATE),
            },
            Layout::Poll => Fields::Poll {
                band: self.i64_at(offset::POLL_BAND),
                fd: self.i32_at(offset::POLL_FD),
            },
            Layout::Chld => Fields::Child {
                pid: self.i32_at(offset::PID),
                uid: self.u32_at(offset::UID),
                status: self.i32_at(offset::CHLD_STATUS),
                utime: self.i64_at(offset::CHLD_UTIME),
                stime: self.i64_at(offset::CHLD_STIME),
            },
            Layout::Rt => Fields::Value {
                pid: self.i32_at(offset::PID),
                uid: self.u32_at(offset::UID),
                value: self.u64_at(offset::RT_VALUE),
            },
            Layout::Sys => Fields::Sys {
                call_addr: self.u64_at(offset::SYS_CALL_ADDR),
                syscall: self.i32_at(offset::SYS_SYSCALL),
                arch: self.u32_at(offset::SYS_ARCH),
            },
            Layout::Fault => self.fault(FaultDetail::None),
            Layout::FaultTrapno => {
                self.fault(FaultDetail::Trapno(self.i32_at(offset::FAULT_TRAPNO)))
            }
            Layout::FaultMceerr => self.fault(FaultDetail::Lsb(i16::from_le_bytes(
                self.at(offset::FAULT_LSB),
            ))),
            Layout::FaultBnderr => self.fault(FaultDetail::Bounds {
                lower: self.u64_at(offset::FAULT_LOWER),
                upper: self.u64_at(offset::FAULT_UPPER),
            }),
            Layout::FaultPkuerr => self.fault(FaultDetail::Pkey(self.u32_at(offset::FAULT_PKEY))),
            Layout::FaultPerfEvent => self.fault(FaultDetail::Perf {
                data: self.u64_at(offset::PERF_DATA),
                kind: self.u32_at(offset::PERF_TYPE),
                flags: self.u32_at(offset::PERF_FLAGS),
            }),
        }
    }

    fn fault(&self, detail: FaultDetail) -> Fields {
        Fields::Fault {
            addr: self.u64_at(offset::FAULT_ADDR),
            detail,
        }
    }

    /// These fields and zeros everywhere else: what the kernel itself builds.
    ///
    /// The fields are written as given; only if they are those of the layout will
    /// [`fields`](Siginfo::fields) give them back.
    pub fn from_fields(signo: i32, errno: i32, code: i32, fields: &Fields) -> Siginfo {
        let mut siginfo = Siginfo([0; SIGINFO_SIZE]);
        siginfo.put(offset::SIGNO, signo.to_le_bytes());
        siginfo.put(offset::ERRNO, errno.to_le_bytes());
        siginfo.put(offset::CODE, code.to_le_bytes());
        match *fields {
            Fields::Kill { pid, uid } => {
                siginfo.put(offset::PID, pid.to_le_bytes());
                siginfo.put(offset::UID, uid.to_le_bytes());
            }
            Fields::Timer {
                id,
                overrun,
                value,
                sys_private,
            } => {
                siginfo.put(offset::TIMER_ID, id.to_le_bytes());
                siginfo.put(offset::TIMER_OVERRUN, overrun.to_le_bytes());
                siginfo.put(offset::TIMER_VALUE, value.to_le_bytes());
                siginfo.put(offset::TIMER_SYS_PRIVATE, sys_private.to_le_bytes());
            }
            Fields::Poll { band, fd } => {
                siginfo.put(offset::POLL_BAND, band.to_le_bytes());
                siginfo.put(offset::POLL_FD, fd.to_le_bytes());
            }
            Fields::Child {
                pid,
                uid,
                status,
                utime,
                stime,
            } => {
                siginfo.put(offset::PID, pid.to_le_bytes());
                siginfo.put(offset::UID, uid.to_le_bytes());
                siginfo.put(offset::CHLD_STATUS, status.to_le_bytes());
                siginfo.put(offset::CHLD_UTIME, utime.to_le_bytes());
                siginfo.put(offset::CHLD_STIME, stime.to_le_bytes());
            }
            Fields::Value { pid, uid, value } => {
                siginfo.put(offset::PID, pid.to_le_bytes());
                siginfo.put(offset::UID, uid.to_le_bytes());
                siginfo.put(offset::RT_VALUE, value.to_le_bytes());
            }
            Fields::Sys {
                call_addr,
                syscall,
                arch,
            } => {
                siginfo.put(offset::SYS_CALL_ADDR, call_addr.to_le_bytes());
                siginfo.put(offset::SYS_SYSCALL, syscall.to_le_bytes());
                siginfo.put(offset::SYS_ARCH, arch.to_le_bytes());
            }
            Fields::Fault { addr, detail } => {
                siginfo.put(offset::FAULT_ADDR, addr.to_le_bytes());
                siginfo.put_detail(detail);
            }
        }
        siginfo
    }

    fn put_detail(&mut self, detail: FaultDetail) {
        match detail {
            FaultDetail::None => {}
            FaultDetail::Trapno(trapno) => self.put(offset::FAULT_TRAPNO, trapno.to_le_bytes()),
            FaultDetail::Lsb(lsb) => self.put(offset::FAULT_LSB, lsb.to_le_bytes()),
            FaultDetail::Bounds { lower, upper } => {
                self.put(offset::FAULT_LOWER, lower.to_le_bytes());
                self.put(offset::FAULT_UPPER, upper.to_le_bytes());
            }
            FaultDetail::Pkey(pkey) => self.put(offset::FAULT_PKEY, pkey.to_le_bytes()),
            FaultDetail::Perf { data, kind, flags } => {
                self.put(offset::PERF_DATA, data.to_le_bytes());
                self.put(offset::PERF_TYPE, kind.to_le_bytes());
                self.put(offset::PERF_FLAGS, flags.to_le_bytes());
            }
        }
    }

    /// That of a 32-bit x86 program (`struct compat_siginfo`, linux/compat.h), as the kernel converts it
    /// (`post_copy_siginfo_from_user32`): bytes that no field holds are not kept.
    pub fn from_compat(bytes: &[u8; SIGINFO_SIZE]) -> Siginfo {
        let compat = Siginfo(*bytes);
        let (signo, errno, code) = (compat.signo(), compat.errno(), compat.code());
        // The union begins at 12, and what is a pointer or a long in the native one has 4 bytes.
        let word = |n: usize| compat.u32_at(offset::COMPAT_UNION + 4 * n);
        let int = |n: usize| compat.i32_at(offset::COMPAT_UNION + 4 * n);
        let fault = |detail| Fields::Fault {
            addr: word(0).into(),
            detail,
        };
        let fields = match layout_of(signo, code) {
            Layout::Kill => Fields::Kill {
                pid: int(0),
                uid: word(1),
            },
            Layout::Timer => Fields::Timer {
                id: int(0),
                overrun: int(1),
                value: word(2).into(),
                sys_private: 0,
            },
            Layout::Poll => Fields::Poll {
                band: int(0).into(),
                fd: int(1),
            },
            Layout::Chld => Fields::Child {
                pid: int(0),
                uid: word(1),
                status: int(2),
                utime: int(3).into(),
                stime: int(4).into(),
            },
            Layout::Rt => Fields::Value {
                pid: int(0),
                uid: word(1),
                value: word(2).into(),
            },
            Layout::Sys => Fields::Sys {
                call_addr: word(0).into(),
                syscall: int(1),
                arch: word(2),
            },
            Layout::Fault => fault(FaultDetail::None),
            Layout::FaultTrapno => fault(FaultDetail::Trapno(int(1))),
            Layout::FaultMceerr => {
                let lsb = compat.at(offset::COMPAT_UNION + 4);
                fault(FaultDetail::Lsb(i16::from_le_bytes(lsb)))
            }
            // Behind four bytes that fill up.
            Layout::FaultBnderr => fault(FaultDetail::Bounds {
                lower: word(2).into(),
                upper: word(3).into(),
            }),
            Layout::FaultPkuerr => fault(FaultDetail::Pkey(word(2))),
            Layout::FaultPerfEvent => fault(FaultDetail::Perf {
                data: word(1).into(),
                kind: word(2),
                flags: word(3),
            }),
        };
        Siginfo::from_fields(signo, errno, code, &fields)
    }

    /// Do number, errno, code and fields hold every byte that is not 0?
    pub fn is_canonical(&self) -> bool {
        Siginfo::from_fields(self.signo(), self.errno(), self.code(), &self.fields()) == *self
    }

    // Every offset above leaves room for its field, so the fallbacks of these two are never taken.

    fn at<const N: usize>(&self, offset: usize) -> [u8; N] {
        let field = self.0.get(offset..).and_then(|rest| rest.first_chunk());
        *field.unwrap_or(&[0; N])
    }

    fn put<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) {
        if let Some(field) = self
            .0
            .get_mut(offset..)
            .and_then(|rest| rest.first_chunk_mut())
        {
            *field = bytes;
        }
    }

    fn i32_at(&self, offset: usize) -> i32 {
        i32::from_le_bytes(self.at(offset))
    }

    fn u32_at(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.at(offset))
    }

    fn i64_at(&self, offset: usize) -> i64 {
        i64::from_le_bytes(self.at(offset))
    }

    fn u64_at(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.at(offset))
    }
}

/// The `si_code` of this name, as a signal of this number may have it: `SI_QUEUE`, and for SIGCHLD `CLD_EXITED`.
pub fn code_by_name(signo: SigNo, name: &str) -> Option<i32> {
    if let Some((code, _)) = COMMON_CODES.iter().find(|(_, known)| *known == name) {
        return Some(*code);
    }
    // With F_SETSIG any signal may carry those of SIGPOLL.
    let names = own_codes(signo).map(|(names, _)| names);
    names.into_iter().chain([POLL_CODES]).find_map(|names| {
        let index = names.iter().position(|known| *known == name)?;
        let code = i32::try_from(index).ok()? + 1;
        (code_name(signo.get(), code) == Some(name)).then_some(code)
    })
}

/// `SI_USER`, `CLD_EXITED`; `None` for a code without a name.
fn code_name(signo: i32, code: i32) -> Option<&'static str> {
    if let Some((_, name)) = COMMON_CODES.iter().find(|(known, _)| *known == code) {
        return Some(name);
    }
    let own = SigNo::new(signo).and_then(own_codes);
    own.and_then(|(names, _)| nth_code(names, code))
        .or_else(|| nth_code(POLL_CODES, code))
}

impl fmt::Display for Siginfo {
    /// `SIGCHLD CLD_EXITED pid 12 uid 0 status 3 utime 0 stime 1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SigNo::new(self.signo()) {
            Some(signo) => write!(f, "{signo}")?,
            None => write!(f, "signal {}", self.signo())?,
        }
        match code_name(self.signo(), self.code()) {
            Some(name) => write!(f, " {name}")?,
            None => write!(f, " code {}", self.code())?,
        }
        if self.errno() != 0 {
            write!(f, " errno {}", self.errno())?;
        }
        match self.fields() {
            Fields::Child {
                pid,
                uid,
                status,
                utime,
                stime,
            } if self.code() > CLD_EXITED => write!(
                f,
                " pid {pid} uid {uid} status {} utime {utime} stime {stime}",
                Signal(status)
            )?,
            fields => write!(f, " {fields}")?,
        }
        if !self.is_canonical() {
            f.write_str(" and bytes outside of these")?;
        }
        Ok(())
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Fields::Kill { pid, uid } => write!(f, "pid {pid} uid {uid}"),
            Fields::Timer {
                id,
                overrun,
                value,
                sys_private,
            } => {
                write!(f, "timer {id} overrun {overrun} value {value:#x}")?;
                if sys_private != 0 {
                    write!(f, " sys_private {sys_private}")?;
                }
                Ok(())
            }
            Fields::Poll { band, fd } => write!(f, "band {band:#x} fd {fd}"),
            Fields::Fault { addr, detail } => {
                write!(f, "addr {addr:#x}")?;
                match detail {
                    FaultDetail::None => Ok(()),
                    FaultDetail::Trapno(trapno) => write!(f, " trapno {trapno}"),
                    FaultDetail::Lsb(lsb) => write!(f, " lsb {lsb}"),
                    FaultDetail::Bounds { lower, upper } => {
                        write!(f, " lower {lower:#x} upper {upper:#x}")
                    }
                    FaultDetail::Pkey(pkey) => write!(f, " pkey {pkey}"),
                    FaultDetail::Perf { data, kind, flags } => {
                        write!(f, " perf data {data:#x} type {kind} flags {flags:#x}")
                    }
                }
            }
            Fields::Child {
                pid,
                uid,
                status,
                utime,
                stime,
            } => write!(
                f,
                "pid {pid} uid {uid} status {status} utime {utime} stime {stime}"
            ),
            Fields::Value { pid, uid, value } => write!(f, "pid {pid} uid {uid} value {value:#x}"),
            Fields::Sys {
                call_addr,
                syscall,
                arch,
            } => {
                write!(f, "call_addr {call_addr:#x} ")?;
                kernel_names::write_caught_call(f, syscall, arch)
            }
        }
    }
}

impl fmt::Debug for Siginfo {
    /// The line a person can read, and the bytes only where the line does not tell them all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Siginfo({self}")?;
        if !self.is_canonical() {
            write!(f, ": {:02x?}", self.0)?;
        }
        f.write_str(")")
    }
}

impl Codec for Siginfo {
    type Message = pb::Siginfo;

    fn to_proto(&self) -> pb::Siginfo {
        let mut message = pb::Siginfo {
            signo: self.signo(),
            errno: self.errno(),
            code: self.code(),
            fields: Some(fields_to_proto(self.fields())),
            ..pb::Siginfo::default()
        };
        if !self.is_canonical() {
            message.raw = self.0.to_vec();
        }
        message
    }

    fn from_proto(message: &pb::Siginfo) -> Result<Siginfo, FieldError> {
        let fields = message.fields.as_ref().map(fields_from_proto).transpose()?;
        let siginfo = if message.raw.is_empty() {
            let fields = fields.ok_or_else(|| FieldError::missing("fields"))?;
            Siginfo::from_fields(message.signo, message.errno, message.code, &fields)
        } else {
            from_raw(message)?
        };
        if fields.is_some_and(|fields| fields != siginfo.fields()) {
            let reason = format!("these are not the fields that belong to {siginfo}");
            return Err(FieldError::new("fields", reason));
        }
        Ok(siginfo)
    }
}

fn from_raw(message: &pb::Siginfo) -> Result<Siginfo, FieldError> {
    let bytes = message.raw.as_slice().try_into().map_err(|_| {
        let reason = format!(
            "has {} bytes, a siginfo has {SIGINFO_SIZE}",
            message.raw.len()
        );
        FieldError::new("raw", reason)
    })?;
    let siginfo = Siginfo(bytes);
    for (field, stated, raw) in [
        ("signo", message.signo, siginfo.signo()),
        ("errno", message.errno, siginfo.errno()),
        ("code", message.code, siginfo.code()),
    ] {
        if stated != raw {
            return Err(FieldError::new(
                field,
                format!("is {stated}, but {raw} in `raw`"),
            ));
        }
    }
    Ok(siginfo)
}

fn fields_to_proto(fields: Fields) -> pb::siginfo::Fields {
    use pb::siginfo::Fields as Typed;
    match fields {
        Fields::Kill { pid, uid } => Typed::Kill(pb::Kill {
            pid,
            uid,
            ..pb::Kill::default()
        }),
        Fields::Timer {
            id,
            overrun,
            value,
            sys_private,
        } => Typed::Timer(pb::Timer {
            id,
            overrun,
            value,
            sys_private,
            ..pb::Timer::default()
        }),
        Fields::Poll { band, fd } => Typed::Poll(pb::Poll {
            band,
            fd,
            ..pb::Poll::default()
        }),
        Fields::Fault { addr, detail } => Typed::Fault(pb::Fault {
            addr,
            detail: detail_to_proto(detail),
            ..pb::Fault::default()
        }),
        Fields::Child {
            pid,
            uid,
            status,
            utime,
            stime,
        } => Typed::Child(pb::Child {
            pid,
            uid,
            status,
            utime,
            stime,
            ..pb::Child::default()
        }),
        Fields::Value { pid, uid, value } => Typed::Value(pb::Value {
            pid,
            uid,
            value,
            ..pb::Value::default()
        }),
        Fields::Sys {
            call_addr,
            syscall,
            arch,
        } => Typed::Sys(pb::Sys {
            call_addr,
            syscall,
            arch,
            ..pb::Sys::default()
        }),
    }
}

fn fields_from_proto(fields: &pb::siginfo::Fields) -> Result<Fields, FieldError> {
    use pb::siginfo::Fields as Typed;
    Ok(match fields {
        Typed::Kill(kill) => Fields::Kill {
            pid: kill.pid,
            uid: kill.uid,
        },
        Typed::Timer(timer) => Fields::Timer {
            id: timer.id,
            overrun: timer.overrun,
            value: timer.value,
            sys_private: timer.sys_private,
        },
        Typed::Poll(poll) => Fields::Poll {
            band: poll.band,
            fd: poll.fd,
        },
        Typed::Fault(fault) => Fields::Fault {
            addr: fault.addr,
            detail: detail_from_proto(fault.detail.as_ref())?,
        },
        Typed::Child(child) => Fields::Child {
            pid: child.pid,
            uid: child.uid,
            status: child.status,
            utime: child.utime,
            stime: child.stime,
        },
        Typed::Value(value) => Fields::Value {
            pid: value.pid,
            uid: value.uid,
            value: value.value,
        },
        Typed::Sys(sys) => Fields::Sys {
            call_addr: sys.call_addr,
            syscall: sys.syscall,
            arch: sys.arch,
        },
    })
}

fn detail_to_proto(detail: FaultDetail) -> Option<pb::fault::Detail> {
    use pb::fault::Detail as Typed;
    Some(match detail {
        FaultDetail::None => return None,
        FaultDetail::Trapno(trapno) => Typed::Trapno(trapno),
        FaultDetail::Lsb(lsb) => Typed::Lsb(lsb.into()),
        FaultDetail::Bounds { lower, upper } => Typed::Bounds(pb::Bounds {
            lower,
            upper,
            ..pb::Bounds::default()
        }),
        FaultDetail::Pkey(pkey) => Typed::Pkey(pkey),
        FaultDetail::Perf { data, kind, flags } => Typed::Perf(pb::Perf {
            data,
            kind,
            flags,
            ..pb::Perf::default()
        }),
    })
}

fn detail_from_proto(detail: Option<&pb::fault::Detail>) -> Result<FaultDetail, FieldError> {
    use pb::fault::Detail as Typed;
    Ok(match detail {
        None => FaultDetail::None,
        Some(Typed::Trapno(trapno)) => FaultDetail::Trapno(*trapno),
        Some(Typed::Lsb(lsb)) => FaultDetail::Lsb(i16::try_from(*lsb).map_err(|_| {
            FieldError::new(
                "fault.lsb",
                format!("{lsb} is not between -32768 and 32767"),
            )
        })?),
        Some(Typed::Bounds(bounds)) => FaultDetail::Bounds {
            lower: bounds.lower,
            upper: bounds.upper,
        },
        Some(Typed::Pkey(pkey)) => FaultDetail::Pkey(*pkey),
        Some(Typed::Perf(perf)) => FaultDetail::Perf {
            data: perf.data,
            kind: perf.kind,
            flags: perf.flags,
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    /// linux/compat.h: what is a pointer or a long has 4 bytes, and the union begins at 12.
    #[test]
    fn those_of_32_bit_programs() {
        let compat = |signo: i32, code: i32, words: [u32; 5]| {
            let mut bytes = [0; SIGINFO_SIZE];
            let head = [signo.cast_unsigned(), 7, code.cast_unsigned()];
            for (to, word) in bytes.chunks_mut(4).zip(head.into_iter().chain(words)) {
                to.copy_from_slice(&word.to_le_bytes());
            }
            let info = Siginfo::from_compat(&bytes);
            assert_eq!((info.signo(), info.errno(), info.code()), (signo, 7, code));
            assert!(info.is_canonical());
            info.fields()
        };
        const ADDR: u32 = 0xffff_e000;
        const BELOW: u32 = u32::MAX;
        let addr = ADDR.into();
        let fault = |detail| Fields::Fault { addr, detail };
        let kill = Fields::Kill { pid: 3, uid: BELOW };
        assert_eq!(compat(15, SI_USER, [3, BELOW, 0, 0, 0]), kill);
        let (pid, uid, value) = (3, 4, BELOW.into());
        assert_eq!(
            compat(40, -1, [3, 4, BELOW, 0, 0]),
            Fields::Value { pid, uid, value }
        );
        let timer = Fields::Timer {
            id: 3,
            overrun: 4,
            value,
            sys_private: 0,
        };
        assert_eq!(compat(40, SI_TIMER, [3, 4, BELOW, 9, 9]), timer);
        let child = Fields::Child {
            pid,
            uid,
            status: 5,
            utime: -1,
            stime: 6,
        };
        assert_eq!(compat(17, 1, [3, 4, 5, BELOW, 6]), child);
        let poll = Fields::Poll { band: -1, fd: 8 };
        assert_eq!(compat(29, 1, [BELOW, 8, 9, 9, 9]), poll);
        let sys = Fields::Sys {
            call_addr: addr,
            syscall: 20,
            arch: 0x4000_0003,
        };
        assert_eq!(compat(31, 1, [ADDR, 20, 0x4000_0003, 9, 9]), sys);
        assert_eq!(compat(11, 1, [ADDR, 9, 9, 9, 9]), fault(FaultDetail::None));
        let lsb = fault(FaultDetail::Lsb(12));
        assert_eq!(compat(7, BUS_MCEERR_AR, [ADDR, 12, 9, 9, 9]), lsb);
        let (lower, upper) = (5, BELOW.into());
        assert_eq!(
            compat(11, SEGV_BNDERR, [ADDR, 9, 5, BELOW, 9]),
            fault(FaultDetail::Bounds { lower, upper })
        );
        let pkey = fault(FaultDetail::Pkey(5));
        assert_eq!(compat(11, SEGV_PKUERR, [ADDR, 9, 5, 9, 9]), pkey);
        let perf = fault(FaultDetail::Perf {
            data: upper,
            kind: 2,
            flags: 3,
        });
        assert_eq!(compat(5, TRAP_PERF, [ADDR, BELOW, 2, 3, 9]), perf);
    }

    #[test]
    fn what_the_kernel_notes_in_a_timers_entry_does_not_count() {
        use std::cmp::Ordering;
        let timer = |code, sys_private| {
            let fields = Fields::Timer {
                id: 3,
                overrun: 0,
                value: 7,
                sys_private,
            };
            let mut siginfo = Siginfo::from_fields(35, 0, SI_TIMER, &fields);
            siginfo.put(offset::CODE, i32::to_le_bytes(code));
            siginfo
        };
        // As before Linux 6.13 and from then on, and one that was armed once more.
        for other in [0, 1, 13] {
            assert_eq!(timer(SI_TIMER, 7), timer(SI_TIMER, other));
            let order = timer(SI_TIMER, 7).cmp(&timer(SI_TIMER, other));
            assert_eq!(order, Ordering::Equal);
        }
        // Somebody else's bytes.
        assert_ne!(timer(SI_TIMER, 7), timer(SI_TIMER, 8));
        assert_ne!(timer(-1, 7), timer(-1, 9));
    }

    #[test]
    fn text() {
        let child = Fields::Child {
            pid: 12,
            uid: 0,
            status: 3,
            utime: 0,
            stime: 1,
        };
        let siginfo = Siginfo::from_fields(17, 0, 1, &child);
        let line = "SIGCHLD CLD_EXITED pid 12 uid 0 status 3 utime 0 stime 1";
        assert_eq!(siginfo.to_string(), line);
        assert_eq!(format!("{siginfo:?}"), format!("Siginfo({line})"));

        let killed = Siginfo::from_fields(17, 0, 2, &child);
        let line_of_killed = "SIGCHLD CLD_KILLED pid 12 uid 0 status SIGQUIT utime 0 stime 1";
        assert_eq!(killed.to_string(), line_of_killed);

        let caught = |syscall, arch| {
            let call_addr = 1;
            let fields = Fields::Sys {
                call_addr,
                syscall,
                arch,
            };
            Siginfo::from_fields(31, 0, 1, &fields).to_string()
        };
        assert_eq!(
            caught(39, 0xc000_003e),
            "SIGSYS SYS_SECCOMP call_addr 0x1 syscall getpid arch AUDIT_ARCH_X86_64"
        );
        assert_eq!(
            caught(-1, 0xc000_003e),
            "SIGSYS SYS_SECCOMP call_addr 0x1 syscall -1 arch AUDIT_ARCH_X86_64"
        );
        assert_eq!(
            caught(39, 3),
            "SIGSYS SYS_SECCOMP call_addr 0x1 syscall 39 arch 0x3"
        );

        let kill = Fields::Kill { pid: 5, uid: 1000 };
        let text = |signo, errno, code| Siginfo::from_fields(signo, errno, code, &kill).to_string();
        assert_eq!(text(36, 0, 0), "SIGRTMIN+2 SI_USER pid 5 uid 1000");
        assert_eq!(
            text(15, 4, 0x80),
            "SIGTERM SI_KERNEL errno 4 pid 5 uid 1000"
        );
        assert_eq!(text(0, 0, 99), "signal 0 code 99 pid 5 uid 1000");

        let mut odd = siginfo;
        odd.0[127] = 1;
        assert_eq!(
            odd.to_string(),
            format!("{line} and bytes outside of these")
        );
    }

    /// The fields alone say what a canonical siginfo is; everything else needs its bytes.
    #[test]
    fn raw_only_where_it_is_needed() {
        let canonical = Siginfo::from_fields(1, 0, 0, &Fields::Kill { pid: 5, uid: 0 });
        assert!(canonical.to_proto().raw.is_empty());
        let mut padding = canonical;
        padding.0[12] = 1;
        assert_eq!(padding.to_proto().raw, padding.0);
    }

    #[test]
    fn contradictions_are_refused() {
        let mut odd = Siginfo::from_fields(1, 0, 0, &Fields::Kill { pid: 5, uid: 0 });
        odd.0[12] = 1;
        let valid = odd.to_proto();

        let mut without_fields = valid.clone();
        without_fields.fields = None;
        assert_eq!(Siginfo::from_proto(&without_fields), Ok(odd));

        let mut neither = without_fields.clone();
        neither.raw.clear();
        Siginfo::from_proto(&neither).expect_err("neither fields nor raw");

        let mut short = valid.clone();
        short.raw.pop();
        Siginfo::from_proto(&short).expect_err("127 bytes");

        for (what, change) in [
            (
                "signo",
                (|message| message.signo = 2) as fn(&mut pb::Siginfo),
            ),
            ("errno", |message| message.errno = 2),
            ("code", |message| message.code = -1),
            ("fields", |message| message.mut_kill().pid = 6),
            ("fields", |message| message.set_value(pb::Value::new())),
        ] {
            let mut message = valid.clone();
            change(&mut message);
            let error = Siginfo::from_proto(&message).expect_err(what);
            assert!(format!("{error:?}").contains(what), "{error:?}");
        }

        let mut other_layout =
            Siginfo::from_fields(1, 0, 0, &Fields::Kill { pid: 5, uid: 0 }).to_proto();
        other_layout.code = -2;
        Siginfo::from_proto(&other_layout).expect_err("a timer's signal has a timer's fields");

        let mut fault = pb::Fault::new();
        fault.set_lsb(40_000);
        let mut wide = pb::Siginfo::new();
        (wide.signo, wide.code) = (7, 4);
        wide.set_fault(fault);
        Siginfo::from_proto(&wide).expect_err("more than 16 bits");
    }

    #[test]
    fn codes_have_names() {
        assert_eq!(code_by_name(SigNo::USR1, "SI_QUEUE"), Some(-1));
        assert_eq!(code_by_name(SigNo::CHLD, "CLD_STOPPED"), Some(5));
        assert_eq!(code_by_name(SigNo::USR1, "POLL_HUP"), Some(6));
        for (signo, name) in [
            (SigNo::USR1, "CLD_STOPPED"),
            // As SIGSEGV's code 1 is SEGV_MAPERR.
            (SigNo::SEGV, "POLL_IN"),
            (SigNo::CHLD, "cld_stopped"),
        ] {
            assert_eq!(code_by_name(signo, name), None, "{signo} {name}");
        }
        for signo in SigNo::all() {
            for code in -61..=130 {
                if let Some(name) = code_name(signo.get(), code) {
                    assert_eq!(code_by_name(signo, name), Some(code), "{signo} {name}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_round_trip(bytes in prop::array::uniform32(any::<[u8; 4]>())) {
            let mut raw = [0; SIGINFO_SIZE];
            raw.copy_from_slice(bytes.as_flattened());
            let siginfo = Siginfo(raw);
            prop_assert_eq!(Siginfo::from_proto(&siginfo.to_proto()), Ok(siginfo));
        }

        #[test]
        fn likely_ones_round_trip(siginfo in testing::siginfo()) {
            prop_assert_eq!(Siginfo::from_proto(&siginfo.to_proto()), Ok(siginfo));
        }

        #[test]
        fn fields_come_back(siginfo in testing::siginfo()) {
            let canonical = Siginfo::from_fields(
                siginfo.signo(), siginfo.errno(), siginfo.code(), &siginfo.fields(),
            );
            prop_assert!(canonical.is_canonical());
            prop_assert_eq!(canonical.fields(), siginfo.fields());
            prop_assert!(canonical.to_proto().raw.is_empty());
        }
    }
}
