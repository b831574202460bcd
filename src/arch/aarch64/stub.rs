//! aarch64: the stub that runs inside a tracee.
#![allow(unsafe_code)]

use std::time::{Duration, SystemTime};

use criu_signals_images::{SigNo, SigSet};

use super::registers::{Registers, low_half};
use crate::arch::{INPUT_ROOM, SCRATCH_LEN, WayBack, stub};

// The entries are those of x86_64, whose text says what they are for and what follows them. What differs:
//
// The row of the batch is in x20, its end in x21, the scratch memory in x22. A glance finds number and first argument of its
// calls in x23 to x26, leaves the results in x23 and x24, and what was written in x27, x28, x19 and in x25. x7 is never
// written: in a stop at a system call the kernel shows the direction there, and drops what a tracer writes
// (arch/arm64/kernel/ptrace.c).
//
// The way back without a tracer is rt_sigreturn(2): there is no branch that needs no register, and an indirect one has to end
// at a landing pad where BTI is on. The frame is in the data. rt_sigreturn puts back mask, registers and PSTATE at once, so
// that no handler runs while the stack pointer is not the program's. Its alternate stack is one that the kernel refuses, which
// leaves that of the thread (restore_altstack, kernel/signal.c). Nothing is called and nothing returns, because of guarded
// control stacks.
core::arch::global_asm!(
    ".pushsection .rodata.criu_signals_stub, \"a\", @progbits",
    ".balign 16",
    ".globl criu_signals_stub_start, criu_signals_stub_map, criu_signals_stub_single, criu_signals_stub_batch",
    ".globl criu_signals_stub_unmap, criu_signals_stub_glance, criu_signals_stub_finish, criu_signals_stub_through",
    ".globl criu_signals_stub_batch_end, criu_signals_stub_ppoll, criu_signals_stub_back, criu_signals_stub_leave, criu_signals_stub_data, criu_signals_stub_end",
    ".hidden criu_signals_stub_start, criu_signals_stub_map, criu_signals_stub_single, criu_signals_stub_batch",
    ".hidden criu_signals_stub_unmap, criu_signals_stub_glance, criu_signals_stub_finish, criu_signals_stub_through",
    ".hidden criu_signals_stub_batch_end, criu_signals_stub_ppoll, criu_signals_stub_back, criu_signals_stub_leave, criu_signals_stub_data, criu_signals_stub_end",
    "criu_signals_stub_start:",
    "criu_signals_stub_glance:",
    "    svc #0",
    "    mov x22, x0",
    "    mov x1, x0",
    "    mov w0, w24",
    "    mov w8, w23",
    "    svc #0",
    "    mov w23, w0",
    // Without memory it has given EFAULT.
    "    tbnz w23, #31, 6f",
    "    ldp x27, x28, [x22]",
    "    ldr x19, [x22, #16]",
    "    mov x1, x22",
    "    mov w0, w26",
    "    mov w8, w25",
    "    svc #0",
    "    mov w24, w0",
    "    ldr x25, [x22]",
    "criu_signals_stub_unmap:",
    "6:",
    "    mov x0, x22",
    "    ldr w1, criu_signals_stub_data + {scratch_len}",
    "    mov x8, #{munmap}",
    "    svc #0",
    "    mov x22, #-1", // not twice: by then it could be somebody else's
    "    b 4f",
    "criu_signals_stub_map:",
    "    svc #0",
    "    mov x22, x0", // an error as an address: munmap refuses it
    "    b 4f",
    "criu_signals_stub_single:",
    "    svc #0",
    "    b 5f",
    "criu_signals_stub_batch:",
    "    cmp x20, x21",
    "    b.hs 4f",
    "    ldp x8, x0, [x20]",
    "    ldp x1, x2, [x20, #16]",
    "    ldp x3, x4, [x20, #32]",
    "    ldr x5, [x20, #48]",
    "    svc #0",
    "    str x0, [x20, #56]",
    "    add x20, x20, #64",
    "    b criu_signals_stub_batch",
    "criu_signals_stub_finish:",
    "4:",
    "    mov x8, #{gettid}",
    "    svc #0",
    "criu_signals_stub_through:",
    "    ldr w1, criu_signals_stub_data + {marker}",
    "    mov x8, #{tkill}",
    "    svc #0",
    "criu_signals_stub_batch_end:",
    // From here on: nobody took over.
    "5:",
    "    cmn x22, #1",
    "    b.eq 2f",
    "    ldr x20, criu_signals_stub_data + {undo}",
    "    ldr x21, criu_signals_stub_data + {undo_end}",
    "3:",
    "    cmp x20, x21",
    "    b.hs 6b",
    "    ldp x8, x0, [x20]",
    "    ldp x1, x2, [x20, #16]",
    "    ldr x3, [x20, #32]",
    "    svc #0",
    "    add x20, x20, #64",
    "    b 3b",
    "criu_signals_stub_ppoll:",
    "    svc #0",
    "criu_signals_stub_back:",
    "2:",
    "    adr x0, criu_signals_stub_data + {frame} - {siginfo}",
    "    mov sp, x0",
    "    mov x8, #{rt_sigreturn}",
    "criu_signals_stub_leave:",
    "    svc #0",
    ".balign 16",
    "criu_signals_stub_data:",
    "    .skip {data_len}",
    "criu_signals_stub_end:",
    ".popsection",
    gettid = const libc::SYS_gettid,
    tkill = const libc::SYS_tkill,
    munmap = const libc::SYS_munmap,
    rt_sigreturn = const libc::SYS_rt_sigreturn,
    siginfo = const criu_signals_images::SIGINFO_SIZE,
    scratch_len = const core::mem::offset_of!(StubData, scratch_len),
    undo = const core::mem::offset_of!(StubData, undo),
    undo_end = const core::mem::offset_of!(StubData, undo_end),
    marker = const core::mem::offset_of!(StubData, marker),
    frame = const core::mem::offset_of!(StubData, frame),
    data_len = const core::mem::size_of::<StubData>(),
);

unsafe extern "C" {
    static criu_signals_stub_start: u8;
    static criu_signals_stub_map: u8;
    static criu_signals_stub_single: u8;
    static criu_signals_stub_unmap: u8;
    static criu_signals_stub_glance: u8;
    static criu_signals_stub_batch: u8;
    static criu_signals_stub_finish: u8;
    static criu_signals_stub_through: u8;
    static criu_signals_stub_batch_end: u8;
    static criu_signals_stub_ppoll: u8;
    static criu_signals_stub_back: u8;
    static criu_signals_stub_leave: u8;
    static criu_signals_stub_data: u8;
    static criu_signals_stub_end: u8;
}

/// `struct ucontext` of asm/ucontext.h, as far as rt_sigreturn(2) reads it: with the one record of registers that has to be
/// there, and the one that ends them.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug)]
struct Frame {
    flags: u64,
    link: u64,
    stack: u64,
    stack_flags: u64,
    stack_size: u64,
    mask: u64,
    unused: [u64; 16],
    fault_address: u64,
    x: [u64; 31],
    sp: u64,
    pc: u64,
    pstate: u64,
    padding: u64,
    fpsimd_magic: u32,
    fpsimd_size: u32,
    fpsr: u32,
    fpcr: u32,
    v: [u128; 32],
    end: [u64; 2],
}

// asm/ucontext.h and asm/sigcontext.h.
const _: () = {
    assert!(core::mem::offset_of!(Frame, mask) == 40);
    assert!(core::mem::offset_of!(Frame, fault_address) == 176);
    assert!(core::mem::offset_of!(Frame, fpsimd_magic) == 176 + 288);
    assert!(core::mem::offset_of!(Frame, end) == 176 + 288 + 528);
    // The front of the frame, which nobody reads, lies over data and code of the stub.
    assert!(core::mem::offset_of!(StubData, frame).is_multiple_of(16));
};

/// Flags that no alternate stack has.
const REFUSED_STACK: u64 = 0x7fff_ffff;
const FPSIMD_MAGIC: u32 = 0x4650_8001;

/// What the stub reads: how to put the program back without a tracer.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug)]
struct StubData {
    /// When it was made, in nanoseconds since 1970: tells which of those that dead tracers have left is the oldest.
    made: u64,
    undo: u64,
    undo_end: u64,
    marker: u32,
    scratch_len: u32,
    frame: Frame,
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
    pub const BLOCKS_AGAIN: bool = false;

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
        // By a clock that is before 1970 it is the oldest.
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let age = age.unwrap_or(Duration::ZERO).as_nanos();
        let frame = Frame {
            flags: 0,
            link: 0,
            stack: 0,
            stack_flags: REFUSED_STACK,
            stack_size: 0,
            mask: mask.bits(),
            unused: [0; 16],
            fault_address: 0,
            x: [0; 31],
            sp: 0,
            pc: 0,
            pstate: 0,
            padding: 0,
            fpsimd_magic: FPSIMD_MAGIC,
            fpsimd_size: 528,
            fpsr: registers.floating.fpsr,
            fpcr: registers.floating.fpcr,
            v: registers.floating.v,
            end: [0; 2],
        };
        let mut stub = Stub {
            base,
            resume_ip,
            data: StubData {
                made: u64::try_from(age).unwrap_or(u64::MAX),
                undo: 0,
                undo_end: 0,
                marker: marker.map_or(0, |m| m.get().cast_unsigned()),
                scratch_len: SCRATCH_LEN,
                frame,
            },
        };
        stub.set_call(registers);
        stub
    }

    /// The thread goes on with `registers`, which differ from those that it was found with in what becomes of the system
    /// call that it was in. Without a tracer a call is made once more: rt_sigreturn(2) leaves no decision to the kernel.
    pub fn set_call(&mut self, registers: &Registers) {
        let frame = &mut self.data.frame;
        let general = &registers.made_once_more().general;
        (frame.x, frame.sp) = (general.x, general.sp);
        (frame.pc, frame.pstate) = (self.resume_ip.unwrap_or(general.pc), general.pstate);
    }

    /// Names the table `[start, end)` that undoes what the batch does, for the case that nobody takes over.
    /// Its rows have four arguments. Returns whether that is another than before.
    pub fn set_undo(&mut self, start: u64, end: u64) -> bool {
        let before = (self.data.undo, self.data.undo_end);
        [self.data.undo, self.data.undo_end] = [start, end];
        before != (start, end)
    }

    /// There is none: Syscall User Dispatch would judge the last step of the way back, which is a system call
    /// ([`BLOCKS_AGAIN`](Stub::BLOCKS_AGAIN)).
    pub fn set_selector(&mut self, _selector: u64) {}

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

    /// Where a thread that has nothing mapped puts back its mask, and goes back into the program.
    pub fn back_entry(&self) -> u64 {
        self.base + offset_of(&raw const criu_signals_stub_back) as u64
    }

    /// Where a thread makes its last system call, which takes it back into the program.
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
        let data = bytes.strip_prefix(Stub::code())?;
        if data.len() < core::mem::size_of::<StubData>() {
            return None;
        }
        data.first_chunk().map(|made| u64::from_le_bytes(*made))
    }

    /// There is nothing to be done for a thread that leaves a stub: its last step is a system call that puts back everything.
    pub fn way_back(_bytes: &[u8], _base: u64, _now: &Registers) -> Option<WayBack> {
        None
    }

    /// Code and data.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = template().to_vec();
        let at = offset_of(&raw const criu_signals_stub_data);
        // SAFETY: StubData is repr(C) of integers whose sizes add up to its own and to that of the frame in it, so it has no
        // padding and any reading of its bytes is sound.
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

/// The two entries whose places only the stub knows.
impl Registers {
    /// These registers, changed so that the thread maps scratch memory in `stub`, by mmap(2) with `args`.
    #[must_use]
    pub fn for_map(&self, stub: &Stub, args: [u64; 6]) -> Registers {
        self.for_syscall(stub.map_entry(), libc::SYS_mmap, args)
    }

    /// These registers, changed so that the thread makes one system call in `stub`. Programs with calls of another table are
    /// refused before.
    #[must_use]
    pub fn for_single(&self, stub: &Stub, _compat: bool, nr: i64, args: [u64; 6]) -> Registers {
        self.for_syscall(stub.single_entry(), nr, args)
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
    use super::super::registers::tests::registers;
    use super::*;

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
    fn no_padding() {
        assert_eq!(size_of::<StubData>(), 32 + size_of::<Frame>());
        assert_eq!(size_of::<Frame>(), 1008);
    }

    /// No bl, br or ret: what BTI and guarded control stacks have something to say about.
    #[test]
    fn nothing_but_direct_branches() {
        const CALLS: [u32; 3] = [0x9400_0000, 0xd61f_0000, 0xd65f_0000];
        let words = Stub::code().chunks_exact(4);
        for word in words.map(|word| u32::from_le_bytes(word.try_into().unwrap())) {
            assert_ne!(word & 0xfc00_0000, CALLS[0], "bl");
            for branch in &CALLS[1..] {
                assert_ne!(word & 0xffff_fc1f, *branch, "br, ret");
            }
        }
    }
}
