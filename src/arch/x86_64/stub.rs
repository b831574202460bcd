//! x86_64: the stub that runs inside a tracee.
#![allow(unsafe_code)]

use std::time::{Duration, SystemTime};

use criu_signals_images::{SigNo, SigSet};

use super::calls::SYS32_MMAP2;
use super::registers::{Registers, USER32_CS, low_half};
use crate::arch::{
    BATCH_COMPAT_BIT, INPUT_ROOM, SCRATCH_LEN, SYSCALL_DISPATCH_FILTER_BLOCK, WayBack, stub,
};

// The code that runs inside a tracee. It is position independent, uses no stack and never moves the stack
// pointer, and its data is read only by it: the tracer writes code and data together into a place that the
// program can execute but need not be able to write (`tracee::cave`).
//
// Five entries, the first two of them in two forms:
//   map     one system call that maps the scratch memory, whose address is in r15 from then on
//   single  one system call
//   batch   a table of system calls, [r13, r12), each 64 bytes: number, six arguments, result
//   unmap   takes away the scratch memory
//   ppoll   one system call that gives the thread the mask of the call that it was found in
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
    ".globl criu_signals_stub_finish, criu_signals_stub_through, criu_signals_stub_batch_end, criu_signals_stub_ppoll, criu_signals_stub_back, criu_signals_stub_leave, criu_signals_stub_far, criu_signals_stub_data, criu_signals_stub_end",
    ".hidden criu_signals_stub_start, criu_signals_stub_map, criu_signals_stub_single, criu_signals_stub_batch",
    ".hidden criu_signals_stub_map_compat, criu_signals_stub_single_compat, criu_signals_stub_unmap, criu_signals_stub_glance",
    ".hidden criu_signals_stub_finish, criu_signals_stub_through, criu_signals_stub_batch_end, criu_signals_stub_ppoll, criu_signals_stub_back, criu_signals_stub_leave, criu_signals_stub_far, criu_signals_stub_data, criu_signals_stub_end",
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
    "criu_signals_stub_ppoll:",
    "    syscall",
    "criu_signals_stub_back:",
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
    static criu_signals_stub_ppoll: u8;
    static criu_signals_stub_back: u8;
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

/// Two words side by side, in which a call may read ([`Stub::set_input`]).
const _: () = assert!(
    core::mem::offset_of!(StubData, undo_end) == core::mem::offset_of!(StubData, undo) + 8
        && INPUT_ROOM == 16
);

/// Two halves of a word, in which a call may read once there is neither scratch memory nor a marker
/// ([`Stub::set_mask_of_call`]).
const _: () = assert!(
    core::mem::offset_of!(StubData, scratch_len) == core::mem::offset_of!(StubData, marker) + 4
);

/// The stub for one thread at one address, ready to be written there.
#[derive(Clone, Debug)]
pub struct Stub {
    base: u64,
    resume_ip: Option<u64>,
    data: StubData,
}

impl Stub {
    /// Can it tell Syscall User Dispatch, behind its last system call, that calls are blocked?
    pub const BLOCKS_AGAIN: bool = true;

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

    /// Has a single call read `input`, and returns where: in the place of the table's name that
    /// [`set_undo`](Stub::set_undo) gives. A thread without scratch memory undoes nothing, and does not look at that.
    pub fn set_input(&mut self, input: [u8; INPUT_ROOM]) -> u64 {
        [self.data.undo, self.data.undo_end] = stub::words(input);
        self.base
            + offset_of(&raw const criu_signals_stub_data) as u64
            + core::mem::offset_of!(StubData, undo) as u64
    }

    /// Has ppoll(2) read `mask` and a timeout of nothing. Returns where the timeout and the mask are. Only for a thread
    /// that has no scratch memory and makes no other call in the stub any more: they take the places of what is needed for that.
    pub fn set_mask_of_call(&mut self, mask: SigSet) -> [u64; 2] {
        let timeout = self.set_input([0; INPUT_ROOM]);
        let halves = [mask.bits(), mask.bits() >> 32].map(low_half);
        [self.data.marker, self.data.scratch_len] = halves;
        let data = self.base + offset_of(&raw const criu_signals_stub_data) as u64;
        [
            timeout,
            data + core::mem::offset_of!(StubData, marker) as u64,
        ]
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
    pub(super) fn map_entry(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_map) as u64
    }

    /// Where a single system call is made.
    pub(super) fn single_entry(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_single) as u64
    }

    /// Where a call of the 32-bit table that maps the scratch memory is made.
    pub(super) fn map_compat_entry(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_map_compat) as u64
    }

    /// Where a single call of the 32-bit table is made.
    pub(super) fn single_compat_entry(&self) -> u64 {
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

    /// Where the call that has the mask of another one is made.
    pub(super) fn ppoll_entry(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_ppoll) as u64
    }

    /// Where a thread that has nothing mapped puts back its mask, and goes back into the program. No register matters there:
    /// a handler of a 32-bit program may have run before.
    pub fn back_entry(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_back) as u64
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

/// The entries whose places only the stub knows.
impl Registers {
    /// These registers, changed so that the thread maps scratch memory in `stub`, by mmap(2) with `args`. A 32-bit task asks
    /// as its own code would, so that the memory is where its addresses reach: CRIU restores one from a 64-bit process, to
    /// which a 64-bit mmap gives memory above 4 GiB.
    #[must_use]
    pub fn for_map(&self, stub: &Stub, args: [u64; 6]) -> Registers {
        if self.is_compat() {
            self.for_compat_syscall(stub.map_compat_entry(), SYS32_MMAP2, args)
        } else {
            self.for_syscall(stub.map_entry(), libc::SYS_mmap, args)
        }
    }

    /// These registers, changed so that the thread makes one system call in `stub`: of the 32-bit table if it is `compat`.
    #[must_use]
    pub fn for_single(&self, stub: &Stub, compat: bool, nr: i64, args: [u64; 6]) -> Registers {
        if compat {
            self.for_compat_syscall(stub.single_compat_entry(), nr, args)
        } else {
            self.for_syscall(stub.single_entry(), nr, args)
        }
    }

    /// These registers, changed so that the thread makes a ppoll(2) of nothing in `stub`, with `timeout` and `mask` in memory.
    #[must_use]
    pub fn for_ppoll(&self, stub: &Stub, [timeout, mask]: [u64; 2]) -> Registers {
        let args = [0, 0, timeout, mask, size_of::<u64>() as u64, 0];
        self.for_syscall(stub.ppoll_entry(), libc::SYS_ppoll, args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::registers::tests::registers;

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
}
