//! x86_64: registers.
#![allow(unsafe_code)]

use criu_signals_images::{InterruptedCall, RestartCode};

use super::calls::SYS32_RESTART_SYSCALL;
use crate::arch::request::PtraceRequest;

/// Length of the instructions that enter the kernel: `syscall`, `sysenter` and `int 0x80` all have two bytes.
const SYSCALL_INSN_LEN: u64 = 2;

/// What an interrupted system call leaves in rax until the kernel restarts it or turns it into EINTR
/// (include/linux/errno.h; never seen by programs).
const ERESTARTSYS: i64 = 512;
const ERESTARTNOINTR: i64 = 513;
const ERESTARTNOHAND: i64 = 514;
const ERESTART_RESTARTBLOCK: i64 = 516;

/// In r15 where there is none: an address that munmap refuses.
const NO_SCRATCH: u64 = u64::MAX;

/// Code segment selectors of user space (arch/x86/include/asm/segment.h: `__USER_CS`, `__USER32_CS`).
const USER_CS: u64 = 0x33;
pub(super) const USER32_CS: u64 = 0x23;

/// `sizeof(struct pt_regs)`, in words.
#[cfg(feature = "bpf")]
pub const PT_REGS_WORDS: usize = 21;
/// Is that the whole of a `struct pt_regs`, and not its beginning alone?
#[cfg(feature = "bpf")]
pub const PT_REGS_ARE_ALL: bool = true;

/// The general registers of a stopped thread, as PTRACE_GETREGS gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers(pub(super) libc::user_regs_struct);

impl Registers {
    /// Does the trap of PTRACE_INTERRUPT leave the result of the system call that it interrupts where it is? The kernel decides
    /// about a restart behind the trap, by the registers that the tracer has left (arch/x86/kernel/signal.c,
    /// arch_do_signal_or_restart).
    pub const TRAP_KEEPS_RESULT: bool = true;
    /// Does a stop show a thread outside of the system call that the stop has interrupted? Not here, so that most of what follows
    /// from that is of no use.
    pub const STOP_HIDES_CALL: bool = false;

    /// Those that `request` gives, which is ptrace(2) on one thread: with an operation, its name, address and data.
    ///
    /// # Errors
    /// What `request` says.
    pub(crate) fn read<E>(
        request: impl Fn(PtraceRequest, &'static str, usize, usize) -> Result<i64, E>,
    ) -> Result<Registers, E> {
        let mut r = std::mem::MaybeUninit::<libc::user_regs_struct>::uninit();
        let at = r.as_mut_ptr().addr();
        request(libc::PTRACE_GETREGS, "PTRACE_GETREGS", 0, at)?;
        // SAFETY: the request succeeded, so the kernel has filled in the whole struct.
        Ok(Registers(unsafe { r.assume_init() }))
    }

    /// Sets them by `request`, as [`read`](Registers::read).
    ///
    /// # Errors
    /// What `request` says.
    pub(crate) fn write<E>(
        &self,
        request: impl Fn(PtraceRequest, &'static str, usize, usize) -> Result<i64, E>,
    ) -> Result<(), E> {
        let at = (&raw const self.0).addr();
        request(libc::PTRACE_SETREGS, "PTRACE_SETREGS", 0, at).map(drop)
    }

    /// Those of a thread that is inside the kernel: its `struct pt_regs`, which begins as `struct user_regs_struct` does. The
    /// registers behind are unknown, and 0 here.
    #[cfg(feature = "bpf")]
    pub(crate) fn on_kernel_stack(words: &[u64; PT_REGS_WORDS]) -> Registers {
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

    /// Why the program of a thread with these registers can't be made to make system calls, if it can't. `is_32_bit`: has
    /// the kernel started it as a 32-bit program?
    ///
    /// - **x32**: a disposition that is set by another call than one of x32 loses its mark (sigaction_compat_abi,
    ///   arch/x86/kernel/signal.c), and its handler then gets a frame of the wrong kind. A call of x32 has a mark in its
    ///   number. Outside of calls, such a program is one that executes 64-bit code although the kernel has started it as a
    ///   32-bit one.
    pub fn refused(&self, is_32_bit: impl FnOnce() -> bool) -> Option<&'static str> {
        let looks_so = || !self.is_compat() && self.call().is_none() && is_32_bit();
        (self.is_x32() || looks_so()).then_some(
            "this is an x32 program, whose handlers would be called with the wrong frame afterwards",
        )
    }

    /// Is the thread in a system call of x32 (`__X32_SYSCALL_BIT`, asm/unistd.h)?
    fn is_x32(&self) -> bool {
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

    /// Is the call's first argument to be had from the kernel alone?
    pub(crate) fn lacks_argument(&self) -> bool {
        false
    }

    /// See [`STOP_HIDES_CALL`](Self::STOP_HIDES_CALL).
    #[must_use]
    pub(crate) fn with_argument(self, _first: u64) -> Registers {
        self
    }

    /// See [`STOP_HIDES_CALL`](Self::STOP_HIDES_CALL).
    pub fn is_interrupted(&self) -> bool {
        false
    }

    /// See [`STOP_HIDES_CALL`](Self::STOP_HIDES_CALL).
    #[must_use]
    pub fn before(&self, call: &InterruptedCall) -> Registers {
        self.interrupted_in(call, RestartCode::UnlessHandled)
    }

    /// See [`STOP_HIDES_CALL`](Self::STOP_HIDES_CALL).
    #[must_use]
    pub(crate) fn before_call(&self, _number: u32, _ip: u64, _first: u64) -> Registers {
        *self
    }

    /// See [`STOP_HIDES_CALL`](Self::STOP_HIDES_CALL).
    #[must_use]
    pub(crate) fn outside(&self) -> Registers {
        *self
    }

    /// See [`STOP_HIDES_CALL`](Self::STOP_HIDES_CALL).
    #[must_use]
    pub(crate) fn in_place_of_restart(&self, _number: u32) -> Registers {
        *self
    }

    /// See [`STOP_HIDES_CALL`](Self::STOP_HIDES_CALL).
    pub(crate) fn next_call(&self, _next: [u8; 4]) -> Option<(u32, u64)> {
        None
    }

    /// See [`STOP_HIDES_CALL`](Self::STOP_HIDES_CALL).
    pub(crate) fn has_eintr_of(&self, _number: u32, _args: [u64; 6]) -> bool {
        false
    }

    /// See [`STOP_HIDES_CALL`](Self::STOP_HIDES_CALL).
    pub(crate) fn eintr_behind(&self) -> Option<(u64, u32)> {
        None
    }

    /// See [`STOP_HIDES_CALL`](Self::STOP_HIDES_CALL).
    pub(crate) fn is_call(_instruction: [u8; 4]) -> bool {
        false
    }

    /// See [`STOP_HIDES_CALL`](Self::STOP_HIDES_CALL).
    #[must_use]
    pub(crate) fn made_once_more(&self) -> Registers {
        *self
    }

    /// See [`STOP_HIDES_CALL`](Self::STOP_HIDES_CALL).
    #[must_use]
    pub(crate) fn as_seen_at_exit(&self) -> Registers {
        *self
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
    pub(super) fn for_syscall(&self, entry: u64, nr: i64, args: [u64; 6]) -> Registers {
        let mut r = self.at(entry);
        r.0.rax = nr.cast_unsigned();
        [r.0.rdi, r.0.rsi, r.0.rdx, r.0.r10, r.0.r8, r.0.r9] = args;
        r
    }

    /// As [`for_syscall`](Registers::for_syscall), for a call of the 32-bit table, made by int 0x80.
    pub(super) fn for_compat_syscall(&self, entry: u64, nr: i64, args: [u64; 6]) -> Registers {
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

    pub(super) fn at(&self, entry: u64) -> Registers {
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
    pub(super) fn restarted(&self) -> (u64, u64) {
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

pub(super) fn low_half(register: u64) -> u32 {
    (register & 0xffff_ffff) as u32
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn registers() -> Registers {
        // SAFETY: plain integers, for which all zeros is a value.
        let mut r: libc::user_regs_struct = unsafe { core::mem::zeroed() };
        r.rip = 0x40_1002;
        r.cs = USER_CS;
        r.orig_rax = u64::MAX;
        Registers(r)
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
