//! aarch64: registers.
//!
//! The kernel decides on the restart of an interrupted system call before a tracer sees the thread (arch/arm64/kernel/signal.c,
//! do_signal): a call that is begun anew stands before its instruction already, one that ends has its result, and neither
//! is in a call any more. So [`Registers::call`] is that of a thread at the exit of a call, before that decision, or of a thread whose
//! kernel stack was read. `crate::tracee::reentry` takes threads there.
#![allow(unsafe_code)]

use criu_signals_images::{InterruptedCall, RestartCode};

use crate::arch::request::PtraceRequest;

/// Length of `svc`, and the instruction `svc #0`.
const SYSCALL_INSN_LEN: u64 = 4;
const SVC_0: u32 = 0xd400_0001;
/// What a tracer sees in x7 at the exit of a system call, whatever is there (PTRACE_SYSCALL_EXIT, arch/arm64/kernel/ptrace.c).
const X7_AT_EXIT: u64 = 1;
/// Not in a system call (NO_SYSCALL, asm/ptrace.h).
const NO_SYSCALL: i32 = -1;
/// In x22 where there is none: an address that munmap refuses.
const NO_SCRATCH: u64 = u64::MAX;

/// Of PSTATE (asm/ptrace.h): 32-bit code, single steps, and what BTI expects of the next instruction.
const PSR_MODE32_BIT: u64 = 0x10;
const DBG_SPSR_SS: u64 = 1 << 21;
const PSR_BTYPE_MASK: u64 = 3 << 10;

/// What PTRACE_GETREGSET calls them (linux/elf.h).
const NT_PRSTATUS: usize = 1;
const NT_PRFPREG: usize = 2;
const NT_ARM_SYSTEM_CALL: usize = 0x404;
const NT_ARM_SVE: usize = 0x405;
const NT_ARM_SSVE: usize = 0x40b;
/// Of `struct user_sve_header`: its size, where its flags are, and the one that says that there is more than FPSIMD
/// (SVE_PT_REGS_SVE, asm/ptrace.h).
const SVE_HEADER: usize = 16;
const SVE_FLAGS: usize = 12;
const SVE_PT_REGS_SVE: u8 = 1;

/// The beginning of `struct pt_regs` that is known, in words: `struct user_pt_regs`, orig_x0, syscallno.
#[cfg(feature = "bpf")]
pub const PT_REGS_WORDS: usize = 36;
/// Is that the whole of a `struct pt_regs`, and not its beginning alone?
#[cfg(feature = "bpf")]
pub const PT_REGS_ARE_ALL: bool = false;

/// `struct user_pt_regs` of asm/ptrace.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct General {
    pub(super) x: [u64; 31],
    pub(super) sp: u64,
    pub(super) pc: u64,
    pub(super) pstate: u64,
}

/// `struct user_fpsimd_state` of asm/ptrace.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Floating {
    pub(super) v: [u128; 32],
    pub(super) fpsr: u32,
    pub(super) fpcr: u32,
    reserved: [u32; 2],
}

/// The registers of a stopped thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    pub(super) general: General,
    /// The system call that the thread is in, or [`NO_SYSCALL`].
    number: i32,
    /// The call's first argument, where x0 is not that any more.
    first: u64,
    /// For the way back without a tracer alone: nothing of the stub changes them.
    pub(super) floating: Floating,
    /// Are there registers of SVE or SME in use that a system call clears?
    wide: bool,
}

type Answer<E> = Result<i64, E>;

/// Exchanges `part`, a set of registers, by `request`. Says how many bytes there were.
fn exchange<T, E>(
    request: &impl Fn(PtraceRequest, &'static str, usize, usize) -> Answer<E>,
    op: PtraceRequest,
    name: &'static str,
    set: usize,
    part: *mut T,
) -> Result<usize, E> {
    let mut vector = libc::iovec {
        iov_base: part.cast(),
        iov_len: size_of::<T>(),
    };
    request(op, name, set, (&raw mut vector).addr())?;
    Ok(vector.iov_len)
}

impl Registers {
    /// Does the trap of PTRACE_INTERRUPT leave the result of the system call that it interrupts where it is? Not here: the kernel
    /// steps back to the call before the trap (arch/arm64/kernel/signal.c, do_signal).
    pub const TRAP_KEEPS_RESULT: bool = false;
    /// Does a stop show a thread outside of the system call that the stop has interrupted? Here, because of that: only at the exit
    /// of a call can a tracer say which call a thread is in, and what has interrupted the call.
    pub const STOP_HIDES_CALL: bool = true;

    /// Those that `request` gives, which is ptrace(2) on one thread: with an operation, its name, address and data.
    ///
    /// # Errors
    /// What `request` says.
    pub(crate) fn read<E>(
        request: impl Fn(PtraceRequest, &'static str, usize, usize) -> Answer<E>,
    ) -> Result<Registers, E> {
        const GET: PtraceRequest = libc::PTRACE_GETREGSET;
        let mut general = General::default();
        let mut floating = Floating::default();
        let mut number = NO_SYSCALL;
        let name = "PTRACE_GETREGSET(NT_PRSTATUS)";
        exchange(&request, GET, name, NT_PRSTATUS, &raw mut general)?;
        let name = "PTRACE_GETREGSET(NT_ARM_SYSTEM_CALL)";
        exchange(&request, GET, name, NT_ARM_SYSTEM_CALL, &raw mut number)?;
        let name = "PTRACE_GETREGSET(NT_PRFPREG)";
        exchange(&request, GET, name, NT_PRFPREG, &raw mut floating)?;
        // Processors without SVE and SME have no such registers: EINVAL.
        let in_use = |set: usize, name| {
            let mut header = [0u8; SVE_HEADER];
            exchange(&request, GET, name, set, &raw mut header)
                .is_ok_and(|len| len == SVE_HEADER && header[SVE_FLAGS] & SVE_PT_REGS_SVE != 0)
        };
        let wide = in_use(NT_ARM_SVE, "PTRACE_GETREGSET(NT_ARM_SVE)")
            || in_use(NT_ARM_SSVE, "PTRACE_GETREGSET(NT_ARM_SSVE)");
        Ok(Registers {
            general,
            number,
            first: general.x[0],
            floating,
            wide,
        })
    }

    /// Sets them by `request`, as [`read`](Registers::read).
    ///
    /// # Errors
    /// What `request` says.
    pub(crate) fn write<E>(
        &self,
        request: impl Fn(PtraceRequest, &'static str, usize, usize) -> Answer<E>,
    ) -> Result<(), E> {
        const SET: PtraceRequest = libc::PTRACE_SETREGSET;
        let mut general = self.general;
        let mut number = self.number;
        let name = "PTRACE_SETREGSET(NT_PRSTATUS)";
        exchange(&request, SET, name, NT_PRSTATUS, &raw mut general)?;
        // Outside of a call the kernel must not take x0 for an interrupted one's result.
        let name = "PTRACE_SETREGSET(NT_ARM_SYSTEM_CALL)";
        exchange(&request, SET, name, NT_ARM_SYSTEM_CALL, &raw mut number).map(drop)
    }

    /// Those of a thread that is inside the kernel: the beginning of its `struct pt_regs`.
    #[cfg(feature = "bpf")]
    pub(crate) fn on_kernel_stack(words: &[u64; PT_REGS_WORDS]) -> Registers {
        let general = General {
            x: std::array::from_fn(|n| words[n]),
            sp: words[31],
            pc: words[32],
            pstate: words[33],
        };
        Registers {
            general,
            // An int: the upper half is of something else.
            number: low_half(words[35]).cast_signed(),
            first: words[34],
            floating: Floating::default(),
            wide: false,
        }
    }

    /// The instruction pointer.
    pub fn ip(&self) -> u64 {
        self.general.pc
    }

    /// The stack pointer.
    pub fn sp(&self) -> u64 {
        self.general.sp
    }

    /// Does the thread execute 32-bit code?
    pub fn is_compat(&self) -> bool {
        self.general.pstate & PSR_MODE32_BIT != 0
    }

    /// Why the program of a thread with these registers can't be made to make system calls, if it can't. `is_32_bit`: has
    /// the kernel started it as a 32-bit program?
    ///
    /// - **32-bit programs**: there is no stub in AArch32 code, and such a thread can't be made to run AArch64 code.
    /// - **SVE and SME** outside of a system call: every call clears those parts of the registers that FPSIMD has not.
    pub fn refused(&self, _is_32_bit: impl FnOnce() -> bool) -> Option<&'static str> {
        if self.is_compat() {
            Some("this is a 32-bit Arm program, in which this version can make no system calls")
        } else if self.wide {
            Some(
                "a thread is using SVE or SME registers at this moment, which a system call would clear: try again when it waits",
            )
        } else {
            None
        }
    }

    /// These registers as a thread can be given them back after it has run something else.
    #[must_use]
    pub fn to_give_back(&self) -> Registers {
        *self
    }

    /// These registers, with the scratch memory that the stub takes away if nobody takes over.
    #[must_use]
    pub fn holding(mut self, scratch: Option<u64>) -> Registers {
        self.general.x[22] = scratch.unwrap_or(NO_SCRATCH);
        self
    }

    /// What the `map` entry has got from the kernel: an address, or a negated errno.
    pub fn mapped(&self) -> i64 {
        self.general.x[22].cast_signed()
    }

    /// The result of the system call that has just ended.
    pub fn result(&self) -> i64 {
        self.general.x[0].cast_signed()
    }

    /// The system call that the thread is in, by its number, and what stands where its result goes. `None` outside of a
    /// system call.
    pub fn call(&self) -> Option<(u32, i64)> {
        let number = u32::try_from(self.number).ok()?;
        Some((number, self.result()))
    }

    /// The arguments of the system call that the thread is in.
    pub fn call_args(&self) -> [u64; 6] {
        let x = &self.general.x;
        [self.first, x[1], x[2], x[3], x[4], x[5]]
    }

    /// Is the thread at the exit of a system call that something has interrupted? Then x0 is not the first argument any more.
    pub fn is_interrupted(&self) -> bool {
        self.number != NO_SYSCALL && RestartCode::from_result(self.result()).is_some()
    }

    /// Is the call's first argument to be had from the kernel alone?
    pub(crate) fn lacks_argument(&self) -> bool {
        let is_eintr = self.result() == -i64::from(libc::EINTR);
        self.number != NO_SYSCALL && (is_eintr || self.is_interrupted())
    }

    /// These registers, with the call's first argument.
    #[must_use]
    pub(crate) fn with_argument(mut self, first: u64) -> Registers {
        self.first = first;
        self
    }

    /// These registers at the exit of the system call `call`, interrupted with `code`: what becomes of the call is left to the
    /// kernel, which decides when the thread goes on from there, and from nowhere else.
    #[must_use]
    pub fn interrupted_in(&self, call: &InterruptedCall, code: RestartCode) -> Registers {
        let mut r = *self;
        r.general.pc = call.ip;
        r.general.x[0] = (-i64::from(code.number())).cast_unsigned();
        r.general.x[8] = u64::from(call.number);
        r.number = call.number.cast_signed();
        r
    }

    /// These registers, before a system call that was interrupted and is to be made once more.
    #[must_use]
    pub fn before(&self, call: &InterruptedCall) -> Registers {
        self.before_call(call.number, call.ip, self.first)
    }

    /// These registers, before the instruction that ends at `ip`, which makes the system call `number` with `first` as its first
    /// argument.
    #[must_use]
    pub(crate) fn before_call(&self, number: u32, ip: u64, first: u64) -> Registers {
        let mut r = self.outside();
        r.general.pc = ip.wrapping_sub(SYSCALL_INSN_LEN);
        r.general.x[0] = first;
        r.first = first;
        r.general.x[8] = u64::from(number);
        r
    }

    /// These registers as those of a thread that is in no call.
    #[must_use]
    pub(crate) fn outside(&self) -> Registers {
        let mut r = *self;
        r.number = NO_SYSCALL;
        r
    }

    /// These registers, at the exit of the call `number` and not of restart_syscall(2), by which the kernel has gone on with that.
    #[must_use]
    pub(crate) fn in_place_of_restart(&self, number: u32) -> Registers {
        let mut r = *self;
        r.number = number.cast_signed();
        r.general.x[8] = u64::from(number);
        r
    }

    /// The system call that a thread with these registers, in no call, is about to make if it goes on with the instruction `next`;
    /// and where that ends.
    pub(crate) fn next_call(&self, next: [u8; 4]) -> Option<(u32, u64)> {
        let makes_call = self.number == NO_SYSCALL && Self::is_call(next);
        let number = low_half(self.general.x[8]);
        makes_call.then_some((number, self.general.pc.wrapping_add(SYSCALL_INSN_LEN)))
    }

    /// Does the thread stand behind the system call `number` with these `args`, which has ended with EINTR? The first argument is in
    /// no register any more.
    pub(crate) fn has_eintr_of(&self, number: u32, args: [u64; 6]) -> bool {
        let x = &self.general.x;
        self.number == NO_SYSCALL
            && self.result() == -i64::from(libc::EINTR)
            && x[8] == u64::from(number)
            && x[1..6] == args[1..]
    }

    /// Where the instruction stands that a thread with EINTR, in no call, has made a call by if it has made one last, and the number
    /// of that call.
    pub(crate) fn eintr_behind(&self) -> Option<(u64, u32)> {
        let has_eintr = self.number == NO_SYSCALL && self.result() == -i64::from(libc::EINTR);
        let start = self.general.pc.wrapping_sub(SYSCALL_INSN_LEN);
        has_eintr.then_some((start, low_half(self.general.x[8])))
    }

    /// Is `instruction` one that makes a system call?
    pub(crate) fn is_call(instruction: [u8; 4]) -> bool {
        u32::from_le_bytes(instruction) == SVC_0
    }

    /// Those that the thread goes on with if nobody is left to let the kernel restart the interrupted system call.
    #[must_use]
    pub(crate) fn made_once_more(&self) -> Registers {
        match self.call() {
            Some((number, _)) if self.is_interrupted() => {
                self.before_call(number, self.general.pc, self.first)
            }
            _ => *self,
        }
    }

    /// These registers as a tracer sees them at the exit of a system call.
    #[must_use]
    pub(crate) fn as_seen_at_exit(&self) -> Registers {
        let mut r = *self;
        r.general.x[7] = X7_AT_EXIT;
        r
    }

    /// These registers, behind a system call that has ended.
    #[must_use]
    pub fn returned_from(&self, call: &InterruptedCall, result: i64) -> Registers {
        let mut r = *self;
        r.general.pc = call.ip;
        r.general.x[0] = result.cast_unsigned();
        r.number = NO_SYSCALL;
        r
    }

    /// Does the thread stand where the call is made once more, as the kernel steps back for a restart?
    pub fn stands_before(&self, call: &InterruptedCall) -> bool {
        self.general.pc == call.ip.wrapping_sub(SYSCALL_INSN_LEN)
            && low_half(self.general.x[8]) == call.number
    }

    /// These registers, with another instruction to go on at.
    #[must_use]
    pub fn going_on_at(&self, ip: u64) -> Registers {
        let mut r = *self;
        r.general.pc = ip;
        r
    }

    /// Has the batch loop run through its whole table?
    pub fn batch_is_through(&self) -> bool {
        self.general.x[20] == self.general.x[21]
    }

    /// These registers, changed so that the thread makes one system call at `entry`. The stack pointer stays
    /// as it is: sigaltstack(2) looks at it, and a signal frame must find a stack there.
    pub(super) fn for_syscall(&self, entry: u64, nr: i64, args: [u64; 6]) -> Registers {
        let mut r = self.at(entry);
        r.general.x[8] = nr.cast_unsigned();
        r.general.x[..6].copy_from_slice(&args);
        r
    }

    /// These registers, changed so that the thread runs the batch loop at `entry` over the table `[start, end)`.
    #[must_use]
    pub fn for_batch(&self, entry: u64, start: u64, end: u64) -> Registers {
        let mut r = self.at(entry);
        [r.general.x[20], r.general.x[21]] = [start, end];
        r
    }

    /// These registers, changed so that the thread maps scratch memory by the mmap(2) with `args`, at `entry`, and then
    /// makes `calls`: number and first argument; the second is the memory's address.
    #[must_use]
    pub fn for_glance(&self, entry: u64, args: [u64; 6], calls: [(u32, u32); 2]) -> Registers {
        let mut r = self.for_syscall(entry, libc::SYS_mmap, args);
        let numbers = [calls[0].0, calls[0].1, calls[1].0, calls[1].1].map(u64::from);
        r.general.x[23..27].copy_from_slice(&numbers);
        r
    }

    /// What the two calls of a glance have returned and written. Only where both have returned no error there was memory
    /// for them.
    pub fn glanced(&self) -> [(i64, Vec<u8>); 2] {
        let x = &self.general.x;
        let first = [x[27], x[28], x[19]].map(u64::to_le_bytes).concat();
        let second = x[25].to_le_bytes().to_vec();
        let [one, two] = [x[23], x[24]].map(|result| i64::from(low_half(result).cast_signed()));
        [(one, first), (two, second)]
    }

    pub(super) fn at(&self, entry: u64) -> Registers {
        let mut r = *self;
        r.general.pc = entry;
        r.number = NO_SYSCALL;
        r.general.x[22] = NO_SCRATCH;
        // The stub is no target of an indirect branch, and is not to be stepped through.
        r.general.pstate &= !(PSR_BTYPE_MASK | DBG_SPSR_SS);
        r
    }
}

/// For a handler: if what it has interrupted is about to make, or to make once more, system call `number` with `first` as
/// its first argument, that ends with EINTR instead.
pub fn step_over_call(context: &mut libc::ucontext_t, number: i64, first: u64) {
    let m = &mut context.uc_mcontext;
    if m.regs[8] != number.cast_unsigned() || m.regs[0] != first {
        return;
    }
    // SAFETY: the thread was about to execute the instruction that is there, and code can be read.
    let next = unsafe { std::ptr::with_exposed_provenance::<u32>(address(m.pc)).read() };
    if next == SVC_0 {
        m.pc += SYSCALL_INSN_LEN;
        m.regs[0] = (-i64::from(libc::EINTR)).cast_unsigned();
    }
}

fn address(register: u64) -> usize {
    usize::try_from(register).unwrap_or(usize::MAX)
}

pub(super) fn low_half(register: u64) -> u32 {
    (register & 0xffff_ffff) as u32
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn registers() -> Registers {
        Registers {
            general: General {
                pc: 0x40_1000,
                ..General::default()
            },
            number: NO_SYSCALL,
            first: 0,
            floating: Floating::default(),
            wide: false,
        }
    }

    #[test]
    fn an_interrupted_call_is_made_once_more() {
        let call = InterruptedCall {
            number: 101,
            code: RestartCode::ByBlock,
            ip: 0x40_1004,
            remaining: None,
            whole_timeout: false,
            timeout: None,
        };
        let mut found = registers();
        assert_eq!(found.call(), None);
        assert!(!found.stands_before(&call));
        (found.number, found.first) = (101, 7);
        found.general.x[0] = (-516i64).cast_unsigned();
        assert_eq!(found.call(), Some((101, -516)));
        assert_eq!(found.call_args()[0], 7);
        let inside = found.interrupted_in(&call, RestartCode::UnlessHandled);
        assert_eq!(inside.call(), Some((101, -514)));
        assert!(inside.is_interrupted() && inside.lacks_argument() && inside.call_args()[0] == 7);
        let again = inside.before(&call);
        assert!(again.stands_before(&call) && again.call().is_none());
        assert_eq!(again.general.x[0], 7);
        assert_eq!(again.next_call(SVC_0.to_le_bytes()), Some((101, 0x40_1004)));
        assert_eq!(again.next_call([0; 4]), None);
        assert_eq!(found.returned_from(&call, 1).result(), 1);
    }

    #[test]
    fn a_call_that_the_stop_has_ended() {
        let mut found = registers();
        found.general.x[..6].copy_from_slice(&[(-4i64).cast_unsigned(), 11, 12, 13, 14, 15]);
        found.general.x[8] = 22;
        let args = [10, 11, 12, 13, 14, 15];
        assert!(found.has_eintr_of(22, args));
        assert!(!found.has_eintr_of(21, args));
        assert!(!found.has_eintr_of(22, [10, 11, 12, 0, 14, 15]));
        let again = found.before_call(22, found.ip(), args[0]);
        assert_eq!(again.call_args(), args);
        assert_eq!(again.ip() + SYSCALL_INSN_LEN, found.ip());
        assert_eq!(found.eintr_behind(), Some((again.ip(), 22)));
        found.general.x[0] = 1;
        assert!(!found.has_eintr_of(22, args), "it has ended by itself");
        assert_eq!(found.eintr_behind(), None);
        assert!(Registers::is_call(SVC_0.to_le_bytes()) && !Registers::is_call([0; 4]));
    }

    #[test]
    fn what_is_refused() {
        let plain = registers();
        assert_eq!(plain.refused(|| false), None);
        let mut narrow = plain;
        narrow.general.pstate = PSR_MODE32_BIT;
        assert!(narrow.refused(|| true).unwrap().contains("32-bit"));
        let wide = Registers {
            wide: true,
            ..plain
        };
        assert!(wide.refused(|| false).unwrap().contains("SVE"));
    }

    #[test]
    fn nothing_is_expected_of_the_stub_by_bti() {
        let mut found = registers();
        found.general.pstate = PSR_BTYPE_MASK | 0x8000_0000;
        assert_eq!(found.at(0x1000).general.pstate, 0x8000_0000);
    }
}
