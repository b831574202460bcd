//! The interface of the injected code. Each architecture implements the code in the file `stub.rs` of its folder.

use super::Registers;

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

/// How much a single call may read in the stub itself: no `struct timespec` is longer.
pub const INPUT_ROOM: usize = super::Timespec::MAX_SIZE;

/// What a single call reads, as two words of the stub's data.
pub(super) fn words(input: [u8; INPUT_ROOM]) -> [u64; 2] {
    let mut words = [0; 2];
    for (word, half) in words.iter_mut().zip(input.as_chunks().0) {
        *word = u64::from_ne_bytes(*half);
    }
    words
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
