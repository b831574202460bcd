//! x86_64: registers, and the stub that runs inside a tracee.
#![allow(unsafe_code)]

use criu_signals_images::{Arch, InterruptedCall, RestartCode, SigNo, SigSet};

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

/// Code segment selectors of user space (arch/x86/include/asm/segment.h: `__USER_CS`, `__USER32_CS`).
const USER_CS: u64 = 0x33;
const USER32_CS: u64 = 0x23;

/// The general registers of a stopped thread, as PTRACE_GETREGS gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers(pub(crate) libc::user_regs_struct);

impl Registers {
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

    /// These registers, changed so that the thread runs the batch loop at `entry` over the table `[start, end)`.
    #[must_use]
    pub fn for_batch(&self, entry: u64, start: u64, end: u64) -> Registers {
        let mut r = self.at(entry);
        r.0.r12 = start;
        r.0.r13 = end;
        r
    }

    fn at(&self, entry: u64) -> Registers {
        let mut r = *self;
        r.0.rip = entry;
        // Not in a system call: otherwise the kernel would take rax for an interrupted one's and step back.
        r.0.orig_rax = u64::MAX;
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

fn low_half(register: u64) -> u32 {
    (register & 0xffff_ffff) as u32
}

/// What can become of an interrupted system call, as far as [`crate::state::interrupted`] has to know.
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
        162 => Waiting::Nanosleep,
        267 | 407 => Waiting::ClockNanosleep,
        168 => Waiting::Poll,
        240 | 422 => Waiting::Futex,
        0 => Waiting::Restart,
        _ => return None,
    })
}

// The code that runs inside a tracee. It is position independent, uses no stack and never moves the stack
// pointer, and its data is read only by it: the tracer writes code and data together into a place that the
// program can execute but need not be able to write (`tracee::cave`).
//
// Three entries:
//   map     one system call that maps the scratch memory: its result is what is unmapped if nobody takes over
//   single  one system call
//   batch   a table of system calls, [r12, r13), each 64 bytes: number, six arguments, result
//
// In the ordinary course the tracer stops the thread behind each of them and sets its registers. What follows
// each entry runs only if the tracer is gone: the thread then undoes what the batch did, takes away the scratch
// memory, puts back its signal mask and registers, and goes on in the program as if nothing had been. So there is no instant at
// which a dead tracer leaves a broken thread.
//
// How the batch tells the tracer that it is through: it sends itself the marker, a signal that the process
// ignores. Ignored signals stop a traced thread all the same, before anything is delivered
// (kernel/signal.c, sig_ignored), and do nothing at all to one that is not traced. So that there is one stop
// for the whole table, no trap instruction whose SIGTRAP would outlive the tracer, and nobody has to poll.
core::arch::global_asm!(
    ".pushsection .rodata.criu_signals_stub, \"a\", @progbits",
    ".balign 16",
    ".globl criu_signals_stub_start, criu_signals_stub_map, criu_signals_stub_single, criu_signals_stub_batch",
    ".globl criu_signals_stub_batch_end, criu_signals_stub_far, criu_signals_stub_data, criu_signals_stub_end",
    ".hidden criu_signals_stub_start, criu_signals_stub_map, criu_signals_stub_single, criu_signals_stub_batch",
    ".hidden criu_signals_stub_batch_end, criu_signals_stub_far, criu_signals_stub_data, criu_signals_stub_end",
    "criu_signals_stub_start:",
    "criu_signals_stub_map:",
    "    syscall",
    "    mov rdi, rax", // an error as an address: munmap refuses it
    "    jmp 6f",
    "criu_signals_stub_single:",
    "    syscall",
    "    jmp 5f",
    "criu_signals_stub_batch:",
    "    cmp r12, r13",
    "    jae 4f",
    "    mov rax, [r12]",
    "    mov rdi, [r12 + 8]",
    "    mov rsi, [r12 + 16]",
    "    mov rdx, [r12 + 24]",
    "    mov r10, [r12 + 32]",
    "    mov r8, [r12 + 40]",
    "    mov r9, [r12 + 48]",
    "    syscall",
    "    mov [r12 + 56], rax",
    "    add r12, 64",
    "    jmp criu_signals_stub_batch",
    "4:",
    "    mov eax, {gettid}",
    "    syscall",
    "    mov edi, eax",
    "    mov esi, [rip + criu_signals_stub_data + {marker}]",
    "    mov eax, {tkill}",
    "    syscall",
    "criu_signals_stub_batch_end:",
    // From here on: nobody took over. What the batch has done is undone first, by a table of its own.
    "5:",
    "    mov r12, [rip + criu_signals_stub_data + {undo}]",
    "    mov r13, [rip + criu_signals_stub_data + {undo_end}]",
    "3:",
    "    cmp r12, r13",
    "    jae 2f",
    "    mov rax, [r12]",
    "    mov rdi, [r12 + 8]",
    "    mov rsi, [r12 + 16]",
    "    mov rdx, [r12 + 24]",
    "    mov r10, [r12 + 32]",
    "    syscall",
    "    add r12, 64",
    "    jmp 3b",
    "2:",
    "    mov rdi, [rip + criu_signals_stub_data + {scratch}]",
    "6:",
    "    mov rsi, [rip + criu_signals_stub_data + {scratch_len}]",
    "    mov eax, {munmap}", // of nothing where there is no scratch memory: EINVAL
    "    syscall",
    "    mov eax, {rt_sigprocmask}",
    "    mov edi, {sig_setmask}",
    "    lea rsi, [rip + criu_signals_stub_data + {mask}]",
    "    xor edx, edx",
    "    mov r10d, 8",
    "    syscall",
    // Flags without a stack: the direction, the overflow by an addition that has one, the others by sahf.
    "    mov rax, [rip + criu_signals_stub_data + {flags}]",
    "    cld",
    "    bt eax, 10",
    "    jnc 7f",
    "    std",
    "7:",
    "    bt eax, 11",
    "    jnc 8f",
    "    mov cl, 0x7f",
    "    add cl, 1",
    "    jmp 9f",
    "8:",
    "    xor ecx, ecx",
    "9:",
    "    mov ah, al",
    "    sahf",
    // mov leaves the flags alone. Registers that none of this touches are still the program's.
    "    mov rdi, [rip + criu_signals_stub_data + {rdi}]",
    "    mov rsi, [rip + criu_signals_stub_data + {rsi}]",
    "    mov rdx, [rip + criu_signals_stub_data + {rdx}]",
    "    mov rcx, [rip + criu_signals_stub_data + {rcx}]",
    "    mov r8, [rip + criu_signals_stub_data + {r8}]",
    "    mov r9, [rip + criu_signals_stub_data + {r9}]",
    "    mov r10, [rip + criu_signals_stub_data + {r10}]",
    "    mov r11, [rip + criu_signals_stub_data + {r11}]",
    "    mov r12, [rip + criu_signals_stub_data + {r12}]",
    "    mov r13, [rip + criu_signals_stub_data + {r13}]",
    "    mov rax, [rip + criu_signals_stub_data + {rax}]",
    "    jmp qword ptr [rip + criu_signals_stub_data + {exit}]",
    "criu_signals_stub_far:", // back into 32-bit code: offset and selector together
    "    jmp fword ptr [rip + criu_signals_stub_data + {far}]",
    ".balign 8",
    "criu_signals_stub_data:",
    "    .skip {data_len}",
    "criu_signals_stub_end:",
    ".popsection",
    gettid = const libc::SYS_gettid,
    tkill = const libc::SYS_tkill,
    munmap = const libc::SYS_munmap,
    rt_sigprocmask = const libc::SYS_rt_sigprocmask,
    sig_setmask = const libc::SIG_SETMASK,
    undo = const core::mem::offset_of!(StubData, undo),
    undo_end = const core::mem::offset_of!(StubData, undo_end),
    scratch = const core::mem::offset_of!(StubData, scratch),
    scratch_len = const core::mem::offset_of!(StubData, scratch_len),
    mask = const core::mem::offset_of!(StubData, mask),
    marker = const core::mem::offset_of!(StubData, marker),
    flags = const core::mem::offset_of!(StubData, flags),
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
    rax = const core::mem::offset_of!(StubData, rax),
    exit = const core::mem::offset_of!(StubData, exit),
    far = const core::mem::offset_of!(StubData, far),
    data_len = const core::mem::size_of::<StubData>(),
);

unsafe extern "C" {
    static criu_signals_stub_start: u8;
    static criu_signals_stub_map: u8;
    static criu_signals_stub_single: u8;
    static criu_signals_stub_batch: u8;
    static criu_signals_stub_batch_end: u8;
    static criu_signals_stub_far: u8;
    static criu_signals_stub_data: u8;
    static criu_signals_stub_end: u8;
}

/// What the stub reads: how to put the program back without a tracer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct StubData {
    undo: u64,
    undo_end: u64,
    scratch: u64,
    scratch_len: u64,
    mask: u64,
    marker: u64,
    flags: u64,
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
    rax: u64,
    exit: u64,
    far: u64,
}

/// Stubs stand at multiples of this many bytes.
pub const STUB_ALIGN: usize = 16;

/// Size of one row of the batch's table, and where in it number, arguments and result are.
pub const BATCH_ROW: usize = 64;
/// Offset of the result in a row.
pub const BATCH_RESULT: usize = 56;

/// The stub for one thread at one address, ready to be written there.
#[derive(Clone, Debug)]
pub struct Stub {
    base: u64,
    data: StubData,
}

impl Stub {
    /// How much room it needs, in bytes.
    pub fn len() -> usize {
        offset_of(&raw const criu_signals_stub_end)
    }

    /// Where in `page` a stub stands, if one does: left behind by a tracer that died.
    pub fn find(page: &[u8]) -> Option<usize> {
        let code = &template()[..offset_of(&raw const criu_signals_stub_data)];
        page.windows(code.len())
            .step_by(STUB_ALIGN)
            .position(|window| window == code)
            .map(|n| n * STUB_ALIGN)
    }

    /// The stub at `base` for a thread that was found with `registers`, goes on at `resume_ip` where that
    /// differs from what they say, and gets back the mask `mask`.
    pub fn new(base: u64, registers: &Registers, resume_ip: Option<u64>, mask: SigSet) -> Stub {
        let r = &registers.0;
        let (ip, rax) = match resume_ip {
            Some(ip) => (ip, r.rax),
            None => registers.restarted(),
        };
        let (exit, far) = if registers.is_compat() {
            (
                base + offset_of(&raw const criu_signals_stub_far) as u64,
                (ip & 0xffff_ffff) | (USER32_CS << 32),
            )
        } else {
            (ip, 0)
        };
        let data = StubData {
            undo: 0,
            undo_end: 0,
            scratch: 0,
            scratch_len: 0,
            mask: mask.bits(),
            marker: 0,
            flags: r.eflags,
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
            rax,
            exit,
            far,
        };
        Stub { base, data }
    }

    /// Names the scratch memory that the thread takes away if nobody takes over; a length alone is for the
    /// `map` entry, which knows the address from its own result.
    pub fn set_scratch(&mut self, address: u64, len: u64) {
        self.data.scratch = address;
        self.data.scratch_len = len;
    }

    /// Names the table `[start, end)` that undoes what the batch does, for the case that nobody takes over.
    /// Its rows have four arguments.
    pub fn set_undo(&mut self, start: u64, end: u64) {
        self.data.undo = start;
        self.data.undo_end = end;
    }

    /// The signal with which the batch says that it is through.
    pub fn set_marker(&mut self, marker: SigNo) {
        self.data.marker = u64::try_from(marker.get()).unwrap_or(0);
    }

    /// Where a system call that maps the scratch memory is made.
    pub fn map_entry(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_map) as u64
    }

    /// Where a single system call is made.
    pub fn single_entry(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_single) as u64
    }

    /// Where the batch begins.
    pub fn batch_entry(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_batch) as u64
    }

    /// Where a thread stands when the marker stops it.
    pub fn batch_end(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_batch_end) as u64
    }

    /// Code and data.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = template().to_vec();
        let at = offset_of(&raw const criu_signals_stub_data);
        // SAFETY: StubData is repr(C) of u64 only, so it has no padding and any reading of its bytes is sound.
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
    // SAFETY: start and end delimit one object in this library's read-only data, made by the global_asm above; it
    // is initialised and never changes.
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
    fn stub_fits_the_smallest_vdso_tail_seen() {
        // 623 bytes behind the 32-bit vDSO of Linux 6.18.
        assert!(Stub::len() <= 600, "{} bytes", Stub::len());
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
    fn outside_a_call_nothing_is_restarted() {
        let mut r = registers();
        r.0.rax = (-512i64).cast_unsigned();
        assert_eq!(r.restarted(), (0x40_1002, (-512i64).cast_unsigned()));
    }
}
