//! aarch64: how much of an alternate stack the kernel takes for a signal's frame (arch/arm64/kernel/signal.c,
//! get_sigframe and setup_sigframe_layout).
//!
//! The kernel does not compare an alternate stack with the frame when it is set: only with MINSIGSTKSZ.
#![allow(unsafe_code)]

/// What sigaltstack(2) takes at least, whatever the frame: MINSIGSTKSZ of asm/signal.h.
pub const MINSIGSTKSZ: u64 = 5120;
/// The registers that make AT_MINSIGSTKSZ larger than most frames are.
pub const LARGEST_STATE: &str = "SVE and SME";

/// AT_MINSIGSTKSZ of linux/auxvec.h, which libc does not name.
const AT_MINSIGSTKSZ: libc::c_ulong = 51;
/// `struct frame_record`, above the frame.
const FRAME_RECORD: u64 = 16;
/// `sizeof(struct rt_sigframe)`: siginfo, ucontext with 4096 bytes for registers, which hold those of FPSIMD.
const RT_SIGFRAME: u64 = 4688;
const ALIGN: u64 = 16;

/// AT_MINSIGSTKSZ; 0 where the kernel does not say.
pub fn min_sigstack() -> u64 {
    // SAFETY: getauxval reads a table that the kernel has made before this program ran.
    unsafe { libc::getauxval(AT_MINSIGSTKSZ) }
}

/// How far below `top`, the end of an alternate stack, the frame of a signal begins, in a thread that uses no registers of
/// SVE and SME.
pub fn signal_frame(top: u64, _compat: bool) -> u64 {
    let start = (top & !(ALIGN - 1)).wrapping_sub(FRAME_RECORD + RT_SIGFRAME);
    top.wrapping_sub(start)
}

/// As [`signal_frame`], where the stack's end is at its worst.
pub fn largest_signal_frame() -> u64 {
    FRAME_RECORD + RT_SIGFRAME + ALIGN - 1
}

/// A frame that the kernel has built for a handler, as far as can be told by what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandlerFrame {
    /// Where the handler returns to: nothing of the frame tells.
    pub restorer: Option<u64>,
    /// The mask that its return puts in force.
    pub mask: u64,
    /// The signal's number.
    pub signo: i32,
}

impl HandlerFrame {
    const CONTEXT: usize = 128;
    const MASK: usize = Self::CONTEXT + 40;
    const MACHINE: usize = Self::CONTEXT + 176;
    const STACK_POINTER: usize = Self::MACHINE + 8 + 31 * 8;
    const RECORDS: usize = Self::MACHINE + 288;
    /// How many bytes have to be known: up to the first record of `struct rt_sigframe`'s registers.
    pub const SIZE: usize = Self::RECORDS + 8;

    /// The frame that begins with `bytes`, at `address`. `None` if there is none.
    pub fn at(bytes: &[u8], address: u64, _compat: bool) -> Option<HandlerFrame> {
        /// FPSIMD_MAGIC and the size of a `struct fpsimd_context` (asm/sigcontext.h): always the first.
        const FPSIMD: u64 = 0x4650_8001 | 528 << 32;
        if bytes.len() < HandlerFrame::SIZE {
            return None;
        }
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        let int = |at: usize| i32::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        let is_one = address.is_multiple_of(ALIGN)
            && long(HandlerFrame::CONTEXT) == 0
            && long(HandlerFrame::CONTEXT + 8) == 0
            && long(HandlerFrame::STACK_POINTER).is_multiple_of(ALIGN)
            && long(HandlerFrame::RECORDS) == FPSIMD;
        is_one.then(|| HandlerFrame {
            restorer: None,
            mask: long(HandlerFrame::MASK),
            signo: int(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    static FOUND: Mutex<Option<(u64, Option<HandlerFrame>)>> = Mutex::new(None);

    extern "C" fn handler(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the siginfo is the first part of the frame, all of which is there.
        let bytes = unsafe { std::slice::from_raw_parts(info.cast::<u8>(), HandlerFrame::SIZE) };
        let start = info.addr() as u64;
        *FOUND.lock().unwrap() = Some((start, HandlerFrame::at(bytes, start, false)));
    }

    /// Where the kernel really begins the frame, for ends of every alignment, and what is in it.
    #[test]
    fn the_kernel_agrees() {
        let mut stack = vec![0u8; 128 * 1024];
        for offset in (0..32).step_by(8) {
            let top = (stack.as_mut_ptr().addr() as u64 + 120 * 1024) / 64 * 64 + offset;
            let size = 96 * 1024;
            // SAFETY: the stack outlives the signal, which is handled before raise returns. What was there before is put
            // back.
            unsafe {
                let new = libc::stack_t {
                    ss_sp: stack
                        .as_mut_ptr()
                        .with_addr(usize::try_from(top - size).unwrap())
                        .cast(),
                    ss_flags: 0,
                    ss_size: usize::try_from(size).unwrap(),
                };
                let mut old = std::mem::zeroed::<libc::stack_t>();
                assert_eq!(libc::sigaltstack(&raw const new, &raw mut old), 0);
                let mut action = std::mem::zeroed::<libc::sigaction>();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                let mut before = std::mem::zeroed::<libc::sigaction>();
                libc::sigaction(libc::SIGWINCH, &raw const action, &raw mut before);
                assert_eq!(libc::raise(libc::SIGWINCH), 0);
                libc::sigaction(libc::SIGWINCH, &raw const before, std::ptr::null_mut());
                libc::sigaltstack(&raw const old, std::ptr::null_mut());
            }
            let (start, frame) = FOUND.lock().unwrap().take().unwrap();
            assert_eq!(signal_frame(top, false), top - start, "offset {offset}");
            assert_eq!(frame.unwrap().signo, libc::SIGWINCH);
        }
        if min_sigstack() != 0 {
            assert!(signal_frame(1 << 20, false) <= min_sigstack());
        }
    }
}
