//! x86_64: registers, and the stub that runs inside a tracee.
#![allow(unsafe_code)]

use std::time::{Duration, SystemTime};

use criu_signals_images::{Arch, InterruptedCall, RestartCode, SigNo, SigSet};

use super::Timespec;

/// The architecture that images are marked with.
pub const ARCH: Arch = Arch::X86_64;

/// Length of the instructions that enter the kernel: `syscall`, `sysenter` and `int 0x80` all have two bytes.
const SYSCALL_INSN_LEN: u64 = 2;

/// What an interrupted system call leaves in rax until the kernel restarts it or turns it into EINTR
/// (include/linux/errno.h; never seen by programs).
const ERESTARTSYS: i64 = 512;
const ERESTARTNOINTR: i64 = 513;
const ERESTARTNOHAND: i64 = 514;
const ERESTART_RESTARTBLOCK: i64 = 516;

/// restart_syscall(2) in the 32-bit table; `libc::SYS_restart_syscall` is that of the 64-bit one.
const SYS32_RESTART_SYSCALL: u64 = 0;
/// mmap2(2) in the 32-bit table, where the offset counts pages (arch/x86/entry/syscalls/syscall_32.tbl).
pub const SYS32_MMAP2: i64 = 192;
/// rt_sigaction(2) in the 32-bit table.
pub const SYS32_RT_SIGACTION: i64 = 174;

/// The number of a system call in the 64-bit table, as images hold it, from libc's constant.
///
/// # Panics
/// If `number` is not a number of that table: at compile time, because it is called in constants only.
#[allow(clippy::cast_possible_truncation)]
pub const fn syscall_number(number: libc::c_long) -> u32 {
    assert!(0 <= number && number < 1024);
    number.cast_unsigned() as u32
}

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

/// What a selector of Syscall User Dispatch says (linux/prctl.h).
pub const SYSCALL_DISPATCH_FILTER_ALLOW: u8 = 0;
/// See [`SYSCALL_DISPATCH_FILTER_ALLOW`].
pub const SYSCALL_DISPATCH_FILTER_BLOCK: u8 = 1;

/// How much scratch memory is mapped for a visit, in bytes, unless more is asked for. The more, the fewer stops a deep
/// queue costs, each of which waits for two tasks to be scheduled; and less than a huge page, or the first touch would
/// have one cleared.
pub const SCRATCH_LEN: u32 = 1024 * 1024;
/// How much the two calls of a glance may write.
pub const GLANCE_OUTPUTS: [usize; 2] = [24, 8];
/// In r15 where there is none: an address that munmap refuses.
const NO_SCRATCH: u64 = u64::MAX;

/// Code segment selectors of user space (arch/x86/include/asm/segment.h: `__USER_CS`, `__USER32_CS`).
const USER_CS: u64 = 0x33;
const USER32_CS: u64 = 0x23;

/// The general registers of a stopped thread, as PTRACE_GETREGS gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers(pub(crate) libc::user_regs_struct);

impl Registers {
    /// Those of a thread that is inside the kernel: its `struct pt_regs`, which begins as `struct user_regs_struct` does. The
    /// registers behind are unknown, and 0 here.
    #[cfg(feature = "bpf")]
    pub(crate) fn on_kernel_stack(words: &[u64; 21]) -> Registers {
        let [
            r15,
            r14,
            r13,
            r12,
            rbp,
            rbx,
            r11,
            r10,
            r9,
            r8,
            rax,
            rcx,
            rdx,
            rsi,
            rdi,
            orig_rax,
            rip,
            cs,
            eflags,
            rsp,
            ss,
        ] = *words;
        Registers(libc::user_regs_struct {
            r15,
            r14,
            r13,
            r12,
            rbp,
            rbx,
            r11,
            r10,
            r9,
            r8,
            rax,
            rcx,
            rdx,
            rsi,
            rdi,
            orig_rax,
            rip,
            // What is above is for the kernel alone (FRED).
            cs: cs & 0xffff,
            eflags,
            rsp,
            ss: ss & 0xffff,
            fs_base: 0,
            gs_base: 0,
            ds: 0,
            es: 0,
            fs: 0,
            gs: 0,
        })
    }

    /// The instruction pointer.
    pub fn ip(&self) -> u64 {
        self.0.rip
    }

    /// The stack pointer.
    pub fn sp(&self) -> u64 {
        self.0.rsp
    }

    /// Does the thread execute 32-bit code?
    pub fn is_compat(&self) -> bool {
        self.0.cs == USER32_CS
    }

    /// Is the thread in a system call of x32 (`__X32_SYSCALL_BIT`, asm/unistd.h)?
    pub fn is_x32(&self) -> bool {
        const X32: u32 = 1 << 30;
        !self.is_compat() && self.call().is_some_and(|(number, _)| number & X32 != 0)
    }

    /// These registers as a thread can be given them back after it has run something else.
    ///
    /// The kernel knows an interrupted system call of a 32-bit task by a flag, TS_COMPAT or TS_I386_REGS_POKED, and
    /// sign-extends eax only where one is set (syscall_get_error, arch/x86/include/asm/syscall.h). Both are gone once
    /// the thread has been to user space, so eax is extended here; the task itself sees the low half only.
    #[must_use]
    pub fn to_give_back(&self) -> Registers {
        let mut r = *self;
        if let Some((_, result)) = self.call()
            && self.is_compat()
        {
            r.0.rax = result.cast_unsigned();
        }
        r
    }

    /// These registers, with the scratch memory that the stub takes away if nobody takes over.
    #[must_use]
    pub fn holding(mut self, scratch: Option<u64>) -> Registers {
        self.0.r15 = scratch.unwrap_or(NO_SCRATCH);
        self
    }

    /// What the `map` entry has got from the kernel: an address, or a negated errno.
    pub fn mapped(&self) -> i64 {
        self.0.r15.cast_signed()
    }

    /// The result of the system call that has just ended.
    pub fn result(&self) -> i64 {
        self.0.rax.cast_signed()
    }

    /// The system call that the thread is in, by its number, and what the kernel has noted down as the result. `None`
    /// outside of a system call: an exception, an interrupt and rt_sigreturn(2) leave -1 for the number.
    pub fn call(&self) -> Option<(u32, i64)> {
        // The kernel looks at the low half only (syscall_get_nr returns an int).
        let number = low_half(self.0.orig_rax);
        let result = if self.is_compat() {
            i64::from(low_half(self.0.rax).cast_signed())
        } else {
            self.0.rax.cast_signed()
        };
        (number.cast_signed() >= 0).then_some((number, result))
    }

    /// The arguments of the system call that the thread is in.
    pub fn call_args(&self) -> [u64; 6] {
        let r = &self.0;
        if self.is_compat() {
            [r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp].map(|arg| u64::from(low_half(arg)))
        } else {
            [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]
        }
    }

    /// These registers, in a system call that was interrupted: what becomes of it is left to the kernel, which decides
    /// when the thread goes on (arch/x86/kernel/signal.c, arch_do_signal_or_restart and handle_signal).
    #[must_use]
    pub fn interrupted_in(&self, call: &InterruptedCall, code: RestartCode) -> Registers {
        let mut r = *self;
        r.0.rip = call.ip;
        r.0.orig_rax = u64::from(call.number);
        r.0.rax = (-i64::from(code.number())).cast_unsigned();
        r
    }

    /// These registers, behind a system call that has ended.
    #[must_use]
    pub fn returned_from(&self, call: &InterruptedCall, result: i64) -> Registers {
        let mut r = *self;
        r.0.rip = call.ip;
        r.0.orig_rax = u64::MAX;
        r.0.rax = result.cast_unsigned();
        r
    }

    /// Does the thread stand where the call is made once more, as the kernel and CRIU (compel_get_task_regs) step
    /// back for a restart?
    pub fn stands_before(&self, call: &InterruptedCall) -> bool {
        self.0.rip == call.ip.wrapping_sub(SYSCALL_INSN_LEN) && low_half(self.0.rax) == call.number
    }

    /// These registers, with another instruction to go on at.
    #[must_use]
    pub fn going_on_at(&self, ip: u64) -> Registers {
        let mut r = *self;
        r.0.rip = ip;
        r
    }

    /// Has the batch loop run through its whole table?
    pub fn batch_is_through(&self) -> bool {
        self.0.r12 == self.0.r13
    }

    /// These registers, changed so that the thread makes one system call at `entry`. The stack pointer stays
    /// as it is: sigaltstack(2) looks at it, and a signal frame must find a stack there.
    #[must_use]
    pub fn for_syscall(&self, entry: u64, nr: i64, args: [u64; 6]) -> Registers {
        let mut r = self.at(entry);
        r.0.rax = nr.cast_unsigned();
        [r.0.rdi, r.0.rsi, r.0.rdx, r.0.r10, r.0.r8, r.0.r9] = args;
        r
    }

    /// As [`for_syscall`](Registers::for_syscall), for a call of the 32-bit table, made by int 0x80.
    #[must_use]
    pub fn for_compat_syscall(&self, entry: u64, nr: i64, args: [u64; 6]) -> Registers {
        let mut r = self.at(entry);
        r.0.rax = nr.cast_unsigned();
        [r.0.rbx, r.0.rcx, r.0.rdx, r.0.rsi, r.0.rdi, r.0.rbp] = args;
        r
    }

    /// These registers, changed so that the thread runs the batch loop at `entry` over the table `[start, end)`.
    #[must_use]
    pub fn for_batch(&self, entry: u64, start: u64, end: u64) -> Registers {
        let mut r = self.at(entry);
        r.0.r13 = start;
        r.0.r12 = end;
        r
    }

    /// These registers, changed so that the thread maps scratch memory by the mmap(2) with `args`, at `entry`, and then
    /// makes `calls`: number and first argument; the second is the memory's address.
    #[must_use]
    pub fn for_glance(&self, entry: u64, args: [u64; 6], calls: [(u32, u32); 2]) -> Registers {
        let mut r = self.for_syscall(entry, libc::SYS_mmap, args);
        [r.0.rbx, r.0.rbp, r.0.r12, r.0.r13] =
            [calls[0].0, calls[0].1, calls[1].0, calls[1].1].map(u64::from);
        r
    }

    /// What the two calls of a glance have returned and written. Only where both have returned no error there was memory
    /// for them.
    pub fn glanced(&self) -> [(i64, Vec<u8>); 2] {
        let r = &self.0;
        let first = [r.r8, r.r9, r.r10].map(u64::to_le_bytes).concat();
        let second = r.r12.to_le_bytes().to_vec();
        let [one, two] = [r.rbx, r.rbp].map(|result| i64::from(low_half(result).cast_signed()));
        [(one, first), (two, second)]
    }

    fn at(&self, entry: u64) -> Registers {
        let mut r = *self;
        r.0.rip = entry;
        // Not in a system call: otherwise the kernel would take rax for an interrupted one's and step back.
        r.0.orig_rax = u64::MAX;
        r.0.r15 = NO_SCRATCH;
        r.0.cs = USER_CS;
        // The direction flag must be clear for nobody here, but a set trap flag would stop every instruction.
        r.0.eflags &= !0x100;
        r
    }

    /// Where the thread goes on and with which rax if nobody is left to let the kernel restart the interrupted
    /// system call: the restart, done by hand (arch/x86/kernel/signal.c, arch_do_signal_or_restart).
    fn restarted(&self) -> (u64, u64) {
        let Some((_, result)) = self.call() else {
            return (self.0.rip, self.0.rax);
        };
        match -result {
            ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => {
                (self.0.rip - SYSCALL_INSN_LEN, self.0.orig_rax)
            }
            ERESTART_RESTARTBLOCK => {
                let nr = if self.is_compat() {
                    SYS32_RESTART_SYSCALL
                } else {
                    libc::SYS_restart_syscall.cast_unsigned()
                };
                (self.0.rip - SYSCALL_INSN_LEN, nr)
            }
            _ => (self.0.rip, self.0.rax),
        }
    }
}

/// For a handler: if what it has interrupted is about to make, or to make once more, system call `number` with `first` as
/// its first argument, that ends with EINTR instead.
pub fn step_over_call(context: &mut libc::ucontext_t, number: i64, first: u64) {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    let g = &mut context.uc_mcontext.gregs;
    // glibc's enum of indices into gregs, 0 to 22.
    let [ip, result, argument] =
        [libc::REG_RIP, libc::REG_RAX, libc::REG_RDI].map(|at| at.cast_unsigned() as usize);
    if g[result] != number || g[argument].cast_unsigned() != first {
        return;
    }
    // SAFETY: the thread was about to execute what is there, and code can be read. With these registers that is the system
    // call, of two bytes, or an instruction before it, so that two bytes are there.
    let next = unsafe { std::ptr::read_unaligned(g[ip] as *const [u8; 2]) };
    if next == SYSCALL {
        g[ip] += SYSCALL_INSN_LEN.cast_signed();
        g[result] = -i64::from(libc::EINTR);
    }
}

fn low_half(register: u64) -> u32 {
    (register & 0xffff_ffff) as u32
}

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

/// What the system call `number` with `args` is.
pub fn waiting(number: u32, args: [u64; 6], compat: bool) -> Option<Waiting> {
    if compat {
        waiting_32(number, args)
    } else {
        waiting_64(i64::from(number))
    }
}

/// Can the system call have a signal mask of its own (pselect6(2), ppoll, epoll_pwait, sigsuspend and their like)? Of calls that
/// are not known here, and of 32-bit ones, it is to be feared.
pub fn may_have_mask(number: u32, compat: bool) -> bool {
    compat
        || !matches!(
            i64::from(number),
            libc::SYS_read
                | libc::SYS_readv
                | libc::SYS_write
                | libc::SYS_writev
                | libc::SYS_select
                | libc::SYS_poll
                | libc::SYS_epoll_wait
                | libc::SYS_pause
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
    /// It is at this address, as [`timespec`] says.
    At(u64),
    /// It has one if there is a pointer other than NULL at this address, and there it is.
    IfAt(u64),
}

/// The timeout of such a call.
pub fn timeout(number: u32, args: [u64; 6], compat: bool) -> Timeout {
    let pointer = |place: usize| match args[place] {
        0 => Timeout::Without,
        at => Timeout::At(at),
    };
    let number = if compat {
        match number {
            // ipc(SEMOP), ipc(SEMTIMEDOP): the pointer comes last.
            117 if args[0] & 0xffff == 1 => return Timeout::Without,
            117 => return pointer(5),
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
        // An int in the low half; below 0 it is for ever.
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait if args[3] & 0x8000_0000 != 0 => {
            Timeout::Without
        }
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => Timeout::Millis(args[3] & 0x7fff_ffff),
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => pointer(3),
        libc::SYS_rt_sigtimedwait => pointer(2),
        libc::SYS_semop => Timeout::Without,
        libc::SYS_io_getevents => pointer(4),
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

fn waiting_64(number: i64) -> Option<Waiting> {
    Some(match number {
        libc::SYS_epoll_wait
        | libc::SYS_epoll_pwait
        | libc::SYS_epoll_pwait2
        | libc::SYS_rt_sigtimedwait
        | libc::SYS_semop
        | libc::SYS_semtimedop
        | libc::SYS_io_getevents
        | libc::SYS_io_uring_enter
        // EINTR only where the kernel cannot write the time that is left into the program's memory (fs/select.c,
        // poll_select_finish).
        | libc::SYS_select
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
        libc::SYS_poll => Waiting::Poll,
        libc::SYS_futex => Waiting::Futex,
        libc::SYS_restart_syscall => Waiting::Restart,
        _ => return None,
    })
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

// The code that runs inside a tracee. It is position independent, uses no stack and never moves the stack
// pointer, and its data is read only by it: the tracer writes code and data together into a place that the
// program can execute but need not be able to write (`tracee::cave`).
//
// Five entries, the first two of them in two forms:
//   map     one system call that maps the scratch memory, whose address is in r15 from then on
//   single  one system call
//   batch   a table of system calls, [r13, r12), each 64 bytes: number, six arguments, result
//   unmap   takes away the scratch memory
//   glance  all of that for two calls that write a little each, without a stop in between: it maps the scratch memory,
//           calls ebx(ebp, memory) and r12d(r13d, memory), leaves what both have returned in ebx and ebp, and what they
//           have written in r8 to r10 and in r12, and takes the memory away
//
// The second form, and a row of the table whose number has the highest bit set, make a call of the 32-bit table by
// int 0x80. The stub itself is 64-bit code in every task, but the kernel marks a disposition with SA_IA32_ABI, and
// so gives its handler a 32-bit frame, by the call that has set it (sigaction_compat_abi, arch/x86/kernel/).
//
// In the ordinary course the tracer stops the thread behind each of them and sets its registers. What follows
// each entry runs only if the tracer is gone: the thread then undoes what the batch did, takes away the scratch
// memory, puts back its signal mask and registers, and goes on in the program as if nothing had been. So there is
// no instant at which a dead tracer leaves a broken thread, or memory that the program has not asked for.
//
// How all but single tell the tracer that they are through: the thread sends itself the marker, a signal that the process
// ignores. Ignored signals stop a traced thread all the same, before anything is delivered
// (kernel/signal.c, sig_ignored), and do nothing at all to one that is not traced. So that there is one stop
// for the whole table, no trap instruction whose SIGTRAP would outlive the tracer, and nobody has to poll. Where the
// process ignores none, the tracer lets the same code run from one system call to the next, until it comes to the
// gettid at its end; what the code does by itself is the same.
core::arch::global_asm!(
    ".pushsection .rodata.criu_signals_stub, \"a\", @progbits",
    ".balign 16",
    ".globl criu_signals_stub_start, criu_signals_stub_map, criu_signals_stub_single, criu_signals_stub_batch",
    ".globl criu_signals_stub_map_compat, criu_signals_stub_single_compat, criu_signals_stub_unmap, criu_signals_stub_glance",
    ".globl criu_signals_stub_finish, criu_signals_stub_through, criu_signals_stub_batch_end, criu_signals_stub_leave, criu_signals_stub_far, criu_signals_stub_data, criu_signals_stub_end",
    ".hidden criu_signals_stub_start, criu_signals_stub_map, criu_signals_stub_single, criu_signals_stub_batch",
    ".hidden criu_signals_stub_map_compat, criu_signals_stub_single_compat, criu_signals_stub_unmap, criu_signals_stub_glance",
    ".hidden criu_signals_stub_finish, criu_signals_stub_through, criu_signals_stub_batch_end, criu_signals_stub_leave, criu_signals_stub_far, criu_signals_stub_data, criu_signals_stub_end",
    "criu_signals_stub_start:",
    "criu_signals_stub_glance:",
    "    syscall",
    "    mov r15, rax",
    "    xchg rsi, rax",
    "    mov edi, ebp",
    "    mov eax, ebx",
    "    syscall",
    "    xchg ebx, eax",
    // Without memory it has given EFAULT.
    "    test ebx, ebx",
    "    js 6f",
    "    mov r8, [rsi]",
    "    mov r9, [rsi + 8]",
    "    mov r10, [rsi + 16]",
    "    mov edi, r13d",
    "    mov eax, r12d",
    "    syscall",
    "    xchg ebp, eax",
    "    mov r12, [rsi]",
    "criu_signals_stub_unmap:",
    "6:",
    "    mov rdi, r15",
    "    mov esi, [rip + criu_signals_stub_data + {scratch_len}]",
    "    mov eax, {munmap}",
    "    syscall",
    "    or r15, -1", // not twice: by then it could be somebody else's
    "    jmp 4f",
    "criu_signals_stub_map_compat:",
    "    int 0x80",
    "    jmp 2f",
    "criu_signals_stub_map:",
    "    syscall",
    "2:",
    "    mov r15, rax", // an error as an address: munmap refuses it
    "    jmp 4f",
    "criu_signals_stub_single_compat:",
    "    int 0x80",
    "    jmp 5f",
    "criu_signals_stub_single:",
    "    syscall",
    "    jmp 5f",
    "criu_signals_stub_batch:",
    "    cmp r13, r12",
    "    jae 4f",
    "    mov rax, [r13]",
    "    btr rax, {compat_bit}",
    "    jc 3f",
    "    mov rdi, [r13 + 8]",
    "    mov rsi, [r13 + 16]",
    "    mov rdx, [r13 + 24]",
    "    mov r10, [r13 + 32]",
    "    mov r8, [r13 + 40]",
    "    mov r9, [r13 + 48]",
    "    syscall",
    "2:",
    "    mov [r13 + 56], rax",
    "    add r13, 64",
    "    jmp criu_signals_stub_batch",
    "3:",
    "    mov ebx, [r13 + 8]",
    "    mov ecx, [r13 + 16]",
    "    mov edx, [r13 + 24]",
    "    mov esi, [r13 + 32]",
    "    mov edi, [r13 + 40]",
    "    mov ebp, [r13 + 48]",
    "    int 0x80",
    "    jmp 2b",
    "criu_signals_stub_finish:",
    "4:",
    "    mov eax, {gettid}",
    "    syscall",
    "criu_signals_stub_through:",
    "    mov edi, eax",
    "    mov esi, [rip + criu_signals_stub_data + {marker}]",
    "    mov eax, {tkill}",
    "    syscall",
    "criu_signals_stub_batch_end:",
    // From here on: nobody took over. What the batch has done is undone first, by a table of its own, which is in the
    // scratch memory; then that is taken away, and the thread comes here once more.
    "5:",
    "    cmp r15, -1",
    "    je 2f",
    "    mov r13, [rip + criu_signals_stub_data + {undo}]",
    "    mov r12, [rip + criu_signals_stub_data + {undo_end}]",
    "3:",
    "    cmp r13, r12",
    "    jae 6b",
    "    mov rax, [r13]",
    "    mov rdi, [r13 + 8]",
    "    mov rsi, [r13 + 16]",
    "    mov rdx, [r13 + 24]",
    "    mov r10, [r13 + 32]",
    "    syscall",
    "    add r13, 64",
    "    jmp 3b",
    "2:",
    "    xor edx, edx",
    "    lea eax, [rdx + {rt_sigprocmask}]",
    "    lea edi, [rdx + {sig_setmask}]",
    "    lea rsi, [rip + criu_signals_stub_data + {mask}]",
    "    lea r10d, [rdx + 8]",
    "    syscall",
    // Here handlers have run for whatever has arrived. A 32-bit one does not keep r8 to r15 on every kernel.
    // r13 points into the data, so that what follows has short offsets: room is scarce.
    "criu_signals_stub_leave:",
    "    lea r13, [rip + criu_signals_stub_data + {bias}]",
    // From here on no system call is made, so that Syscall User Dispatch may judge them again.
    "    mov rax, [r13 + {selector} - {bias}]",
    "    test rax, rax",
    "    jz 7f",
    "    mov byte ptr [rax], {block}",
    "7:",
    // Flags without a stack: the direction, the overflow by an addition that has one, the others by sahf.
    "    mov rax, [r13 + {flags} - {bias}]",
    "    cld",
    "    bt eax, 10",
    "    jnc 7f",
    "    std",
    "7:",
    "    bt eax, 11",
    "    sbb ecx, ecx",
    "    shr ecx, 1",
    "    inc ecx", // the largest number, or 0
    "    mov ah, al",
    "    sahf",
    // mov leaves the flags alone. Registers that none of this touches are still the program's.
    "    mov rbx, [r13 + {rbx} - {bias}]",
    "    mov rbp, [r13 + {rbp} - {bias}]",
    "    mov rdi, [r13 + {rdi} - {bias}]",
    "    mov rsi, [r13 + {rsi} - {bias}]",
    "    mov rdx, [r13 + {rdx} - {bias}]",
    "    mov rcx, [r13 + {rcx} - {bias}]",
    "    mov r8, [r13 + {r8} - {bias}]",
    "    mov r9, [r13 + {r9} - {bias}]",
    "    mov r10, [r13 + {r10} - {bias}]",
    "    mov r11, [r13 + {r11} - {bias}]",
    "    mov r12, [r13 + {r12} - {bias}]",
    "    mov r15, [r13 + {r15} - {bias}]",
    "    mov rax, [r13 + {rax} - {bias}]",
    "    mov r13, [r13 + {r13} - {bias}]",
    "    jmp qword ptr [rip + criu_signals_stub_data + {exit}]",
    "criu_signals_stub_far:", // back into 32-bit code: offset and selector together
    "    jmp fword ptr [rip + criu_signals_stub_data + {far}]",
    ".balign 8",
    "criu_signals_stub_data:",
    "    .skip {data_len}",
    "criu_signals_stub_end:",
    ".popsection",
    compat_bit = const BATCH_COMPAT_BIT,
    gettid = const libc::SYS_gettid,
    tkill = const libc::SYS_tkill,
    munmap = const libc::SYS_munmap,
    rt_sigprocmask = const libc::SYS_rt_sigprocmask,
    sig_setmask = const libc::SIG_SETMASK,
    bias = const 64,
    scratch_len = const core::mem::offset_of!(StubData, scratch_len),
    undo = const core::mem::offset_of!(StubData, undo),
    undo_end = const core::mem::offset_of!(StubData, undo_end),
    mask = const core::mem::offset_of!(StubData, mask),
    marker = const core::mem::offset_of!(StubData, marker),
    flags = const core::mem::offset_of!(StubData, flags),
    rbx = const core::mem::offset_of!(StubData, rbx),
    rbp = const core::mem::offset_of!(StubData, rbp),
    rdi = const core::mem::offset_of!(StubData, rdi),
    rsi = const core::mem::offset_of!(StubData, rsi),
    rdx = const core::mem::offset_of!(StubData, rdx),
    rcx = const core::mem::offset_of!(StubData, rcx),
    r8 = const core::mem::offset_of!(StubData, r8),
    r9 = const core::mem::offset_of!(StubData, r9),
    r10 = const core::mem::offset_of!(StubData, r10),
    r11 = const core::mem::offset_of!(StubData, r11),
    r12 = const core::mem::offset_of!(StubData, r12),
    r13 = const core::mem::offset_of!(StubData, r13),
    r15 = const core::mem::offset_of!(StubData, r15),
    rax = const core::mem::offset_of!(StubData, rax),
    exit = const core::mem::offset_of!(StubData, exit),
    selector = const core::mem::offset_of!(StubData, selector),
    block = const SYSCALL_DISPATCH_FILTER_BLOCK,
    far = const core::mem::offset_of!(StubData, far),
    data_len = const core::mem::size_of::<StubData>(),
);

unsafe extern "C" {
    static criu_signals_stub_start: u8;
    static criu_signals_stub_map: u8;
    static criu_signals_stub_single: u8;
    static criu_signals_stub_map_compat: u8;
    static criu_signals_stub_single_compat: u8;
    static criu_signals_stub_unmap: u8;
    static criu_signals_stub_glance: u8;
    static criu_signals_stub_batch: u8;
    static criu_signals_stub_finish: u8;
    static criu_signals_stub_through: u8;
    static criu_signals_stub_batch_end: u8;
    static criu_signals_stub_leave: u8;
    static criu_signals_stub_far: u8;
    static criu_signals_stub_data: u8;
    static criu_signals_stub_end: u8;
}

/// What the stub reads: how to put the program back without a tracer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct StubData {
    /// When it was made, in nanoseconds since 1970: tells which of those that dead tracers have left is the oldest.
    made: u64,
    undo: u64,
    undo_end: u64,
    mask: u64,
    marker: u32,
    scratch_len: u32,
    /// Where Syscall User Dispatch is to be told again that calls are blocked; 0 for nowhere.
    selector: u64,
    flags: u64,
    rbx: u64,
    rbp: u64,
    rdi: u64,
    rsi: u64,
    rdx: u64,
    rcx: u64,
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r15: u64,
    rax: u64,
    exit: u64,
    far: u64,
}

impl StubData {
    /// Out of bytes that another process holds; `None` if they are too few.
    fn read(bytes: &[u8]) -> Option<StubData> {
        let bytes = bytes.get(..core::mem::size_of::<StubData>())?;
        let mut data = StubData::default();
        // SAFETY: StubData is repr(C) of integers, for which every byte is a value; both have this length.
        unsafe {
            core::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                (&raw mut data).cast::<u8>(),
                bytes.len(),
            );
        }
        Some(data)
    }
}

/// What is left to do for a thread that leaves a stub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WayBack {
    /// The registers with which the thread goes on in the program.
    pub registers: Registers,
    /// The byte that tells Syscall User Dispatch to block calls again; 0: there is none.
    pub selector: u64,
}

/// Stubs stand at multiples of this many bytes.
pub const STUB_ALIGN: usize = 16;

/// Size of one row of the batch's table, and where in it number, arguments and result are.
pub const BATCH_ROW: usize = 64;
/// Offset of the result in a row.
pub const BATCH_RESULT: usize = 56;
/// The bit of a row's number that asks for the 32-bit table.
pub const BATCH_COMPAT_BIT: u32 = 63;

/// The stub for one thread at one address, ready to be written there.
#[derive(Clone, Debug)]
pub struct Stub {
    base: u64,
    resume_ip: Option<u64>,
    data: StubData,
}

impl Stub {
    /// How much room it needs, in bytes.
    pub fn len() -> usize {
        offset_of(&raw const criu_signals_stub_end)
    }

    /// The stub at `base` for a thread that was found with `registers`, goes on at `resume_ip` where that
    /// differs from what they say, and gets back the mask `mask`. `marker` is the signal with which the stub says
    /// that it is through; without one it says so by the system call before [`through`](Stub::through).
    pub fn new(
        base: u64,
        registers: &Registers,
        resume_ip: Option<u64>,
        mask: SigSet,
        marker: Option<SigNo>,
    ) -> Stub {
        let r = &registers.0;
        // By a clock that is before 1970 it is the oldest.
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let age = age.unwrap_or(Duration::ZERO).as_nanos();
        let data = StubData {
            made: u64::try_from(age).unwrap_or(u64::MAX),
            undo: 0,
            undo_end: 0,
            mask: mask.bits(),
            marker: marker.map_or(0, |m| m.get().cast_unsigned()),
            scratch_len: SCRATCH_LEN,
            selector: 0,
            flags: r.eflags,
            rbx: r.rbx,
            rbp: r.rbp,
            rdi: r.rdi,
            rsi: r.rsi,
            rdx: r.rdx,
            rcx: r.rcx,
            r8: r.r8,
            r9: r.r9,
            r10: r.r10,
            r11: r.r11,
            r12: r.r12,
            r13: r.r13,
            r15: r.r15,
            rax: 0,
            exit: 0,
            far: 0,
        };
        let mut stub = Stub {
            base,
            resume_ip,
            data,
        };
        stub.set_call(registers);
        stub
    }

    /// The thread goes on with `registers`, which differ from those that it was found with in what becomes of the system
    /// call that it was in.
    pub fn set_call(&mut self, registers: &Registers) {
        let (ip, rax) = match self.resume_ip {
            Some(ip) => (ip, registers.0.rax),
            None => registers.restarted(),
        };
        self.data.rax = rax;
        (self.data.exit, self.data.far) = if registers.is_compat() {
            (
                self.base + offset_of(&raw const criu_signals_stub_far) as u64,
                (ip & 0xffff_ffff) | (USER32_CS << 32),
            )
        } else {
            (ip, 0)
        };
    }

    /// Names the table `[start, end)` that undoes what the batch does, for the case that nobody takes over.
    /// Its rows have four arguments. Returns whether that is another than before.
    pub fn set_undo(&mut self, start: u64, end: u64) -> bool {
        let before = (self.data.undo, self.data.undo_end);
        [self.data.undo, self.data.undo_end] = [start, end];
        before != (start, end)
    }

    /// The byte by which the program tells Syscall User Dispatch that calls are blocked, and which allows them as long as
    /// the thread is in the stub.
    pub fn set_selector(&mut self, selector: u64) {
        self.data.selector = selector;
    }

    /// Another signal by which the stub says that it is through, or none.
    pub fn set_marker(&mut self, marker: Option<SigNo>) {
        self.data.marker = marker.map_or(0, |m| m.get().cast_unsigned());
    }

    /// How much scratch memory there is to be taken away, from the next mapping on, in whole pages. Returns whether that
    /// is another length than before.
    pub fn set_scratch_len(&mut self, len: u32) -> bool {
        let before = self.data.scratch_len;
        self.data.scratch_len = len;
        before != self.data.scratch_len
    }

    /// Where a system call that maps the scratch memory is made.
    pub fn map_entry(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_map) as u64
    }

    /// Where a single system call is made.
    pub fn single_entry(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_single) as u64
    }

    /// Where a call of the 32-bit table that maps the scratch memory is made.
    pub fn map_compat_entry(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_map_compat) as u64
    }

    /// Where a single call of the 32-bit table is made.
    pub fn single_compat_entry(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_single_compat) as u64
    }

    /// Where the batch begins.
    pub fn batch_entry(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_batch) as u64
    }

    /// Where the scratch memory is taken away.
    pub fn unmap_entry(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_unmap) as u64
    }

    /// Where a thread stands in and behind the system call by which it says that it is through, before the marker.
    pub fn through(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_through) as u64
    }

    /// Where a thread makes the system call by which it says that it is through.
    pub fn finish(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_finish) as u64
    }

    /// Where two calls are made with scratch memory that is there for no longer.
    pub fn glance_entry(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_glance) as u64
    }

    /// Where a thread that has no system call to make any more goes back into the program.
    pub fn leave_entry(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_leave) as u64
    }

    /// Where a thread stands when the marker stops it.
    pub fn batch_end(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_batch_end) as u64
    }

    /// The code alone: the same in every process, so that what a dead tracer has left can be recognised.
    pub fn code() -> &'static [u8] {
        &template()[..offset_of(&raw const criu_signals_stub_data)]
    }

    /// When the stub in `bytes` was made; `None` if they do not begin with one.
    pub fn made(bytes: &[u8]) -> Option<u64> {
        Some(StubData::read(bytes.strip_prefix(Stub::code())?)?.made)
    }

    /// Where the thread that stands with `now` goes on in the program, if it is in the stub in `bytes`, which is at `base`,
    /// and has no system call to make there any more: what the rest of the stub would do.
    pub fn way_back(bytes: &[u8], base: u64, now: &Registers) -> Option<WayBack> {
        let data = StubData::read(bytes.strip_prefix(Stub::code())?)?;
        let from = offset_of(&raw const criu_signals_stub_leave) as u64;
        let to = offset_of(&raw const criu_signals_stub_data) as u64;
        let at = now.0.rip.wrapping_sub(base);
        // At the entry of the last system call, which has no result yet (syscall_enter_from_user_mode), the thread stands
        // behind it already.
        let begins = at == from && now.0.rax.cast_signed() == -i64::from(libc::ENOSYS);
        if begins || !(from..to).contains(&at) {
            return None;
        }
        let mut r = now.0;
        r.orig_rax = u64::MAX;
        [r.rax, r.rbx, r.rcx, r.rdx] = [data.rax, data.rbx, data.rcx, data.rdx];
        [r.rdi, r.rsi, r.rbp] = [data.rdi, data.rsi, data.rbp];
        [r.r8, r.r9, r.r10, r.r11] = [data.r8, data.r9, data.r10, data.r11];
        [r.r12, r.r13, r.r15] = [data.r12, data.r13, data.r15];
        r.eflags = data.flags;
        if data.far == 0 {
            r.rip = data.exit;
        } else {
            r.rip = u64::from(low_half(data.far));
            r.cs = data.far >> 32;
        }
        Some(WayBack {
            registers: Registers(r),
            selector: data.selector,
        })
    }

    /// Code and data.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = template().to_vec();
        let at = offset_of(&raw const criu_signals_stub_data);
        // SAFETY: StubData is repr(C) of u64 and two u32 side by side, so it has no padding and any reading of its bytes is sound.
        let data = unsafe {
            core::slice::from_raw_parts(
                (&raw const self.data).cast::<u8>(),
                core::mem::size_of::<StubData>(),
            )
        };
        bytes[at..at + data.len()].copy_from_slice(data);
        bytes
    }
}

fn template() -> &'static [u8] {
    // SAFETY: start and end delimit one object in this library's read-only data, made by the global_asm
    // above; it is initialised and never changes.
    unsafe { core::slice::from_raw_parts(&raw const criu_signals_stub_start, Stub::len()) }
}

fn offset_of(label: *const u8) -> usize {
    label.addr() - (&raw const criu_signals_stub_start).addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> Registers {
        // SAFETY: plain integers, for which all zeros is a value.
        let mut r: libc::user_regs_struct = unsafe { core::mem::zeroed() };
        r.rip = 0x40_1002;
        r.cs = USER_CS;
        r.orig_rax = u64::MAX;
        Registers(r)
    }

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

    #[test]
    fn the_way_out_of_a_stub_is_known() {
        const BASE: u64 = 0x1000;
        let mut found = registers();
        [found.0.rbx, found.0.r13, found.0.rsp] = [3, 13, 0x7fff_0000];
        let stub = Stub::new(BASE, &found, None, SigSet::FULL, None);
        let bytes = stub.to_bytes();
        let mut now = found.at(stub.leave_entry());
        now.0.rbx = 99;
        let way = Stub::way_back(&bytes, BASE, &now).unwrap();
        assert_eq!((way.registers, way.selector), (found, 0));
        now.0.rax = (-i64::from(libc::ENOSYS)).cast_unsigned();
        assert_eq!(
            Stub::way_back(&bytes, BASE, &now),
            None,
            "its mask is to be set"
        );
        now.0.rax = 0;
        // Calls are still to be made; somewhere else; cut off.
        for at in [stub.batch_end(), BASE - 1, 0x40_1002] {
            assert_eq!(Stub::way_back(&bytes, BASE, &now.at(at)), None, "{at:#x}");
        }
        assert_eq!(Stub::way_back(&bytes[..bytes.len() - 1], BASE, &now), None);
        // Back into 32-bit code.
        found.0.cs = USER32_CS;
        found.0.rip = 0x8049_0000;
        let bytes = Stub::new(BASE, &found, None, SigSet::FULL, None).to_bytes();
        let way = Stub::way_back(&bytes, BASE, &now).unwrap();
        assert_eq!(way.registers, found);
    }

    #[test]
    fn a_stub_is_recognised() {
        let bytes = Stub::new(0x1000, &registers(), None, SigSet::FULL, None).to_bytes();
        let later = Stub::new(0x1000, &registers(), None, SigSet::FULL, None).to_bytes();
        let made = Stub::made(&bytes).unwrap();
        assert!(made != 0 && Stub::made(&later).unwrap() >= made);
        assert_eq!(Stub::made(&bytes[1..]), None);
        assert_eq!(Stub::made(Stub::code()), None, "cut off");
    }

    #[test]
    fn stub_fits_the_smallest_vdso_tail_seen() {
        // 623 bytes behind the 32-bit vDSO of Linux 6.18, of which `tracee::cave` leaves the first few alone.
        assert!(Stub::len() <= 576, "{} bytes", Stub::len());
    }

    #[test]
    fn interrupted_calls_are_restarted_by_hand() {
        let mut r = registers();
        r.0.orig_rax = libc::SYS_pause.cast_unsigned();
        for interrupted in [512i64, 513, 514] {
            r.0.rax = (-interrupted).cast_unsigned();
            assert_eq!(r.restarted(), (0x40_1000, libc::SYS_pause.cast_unsigned()));
        }
        r.0.rax = (-516i64).cast_unsigned();
        assert_eq!(
            r.restarted(),
            (0x40_1000, libc::SYS_restart_syscall.cast_unsigned())
        );
        r.0.rax = (-4i64).cast_unsigned();
        assert_eq!(
            r.restarted(),
            (0x40_1002, (-4i64).cast_unsigned()),
            "EINTR is final"
        );
    }

    #[test]
    fn an_interrupted_call_can_be_put_back() {
        let mut found = registers();
        found.0.rip = 0x40_1000;
        found.0.rax = libc::SYS_poll.cast_unsigned();
        let call = InterruptedCall {
            number: 7,
            code: RestartCode::ByBlock,
            ip: 0x40_1002,
            remaining: None,
            whole_timeout: false,
            timeout: None,
        };
        assert!(found.stands_before(&call));
        let put_back = found.interrupted_in(&call, RestartCode::UnlessHandled);
        assert_eq!(put_back.call(), Some((7, -514)));
        assert_eq!(put_back.restarted(), (0x40_1000, 7));
        assert_eq!(found.returned_from(&call, 1).call(), None);
    }

    #[test]
    fn results_of_32_bit_calls_are_32_bits_wide() {
        let mut r = registers();
        r.0.cs = USER32_CS;
        r.0.orig_rax = 162;
        r.0.rax = 0xffff_fdfc;
        assert_eq!(r.call(), Some((162, -516)));
        r.0.orig_rax = 0xffff_ffff;
        assert_eq!(r.call(), None);
    }

    #[test]
    fn a_32_bit_call_is_known_by_the_low_half() {
        let mut r = registers();
        r.0.cs = USER32_CS;
        r.0.orig_rax = 29; // pause in the 32-bit table
        // As PTRACE_SETREGSET with 32-bit registers leaves it.
        r.0.rax = 0xffff_fe00;
        assert_eq!(r.restarted(), (0x40_1000, 29));
        assert_eq!(r.to_give_back().0.rax, (-512i64).cast_unsigned());
        r.0.rax = (-516i64).cast_unsigned() & 0xffff_ffff;
        assert_eq!(r.restarted(), (0x40_1000, SYS32_RESTART_SYSCALL));
        r.0.orig_rax = u64::MAX;
        assert_eq!(r.to_give_back(), r, "outside of a call nothing is changed");
        let mut native = registers();
        native.0.orig_rax = 34;
        native.0.rax = 0xffff_fe00;
        assert_eq!(native.to_give_back(), native);
        assert_eq!(native.restarted(), (0x40_1002, 0xffff_fe00));
    }

    #[test]
    fn outside_a_call_nothing_is_restarted() {
        let mut r = registers();
        r.0.rax = (-512i64).cast_unsigned();
        assert_eq!(r.restarted(), (0x40_1002, (-512i64).cast_unsigned()));
    }
}
