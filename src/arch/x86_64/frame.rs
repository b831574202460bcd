//! x86_64: how much of an alternate stack the kernel takes for a signal's frame.
//!
//! No call tells: AT_MINSIGSTKSZ is for the process with the most registers, and counts AMX's 8 KiB on a machine that
//! has it, though a process has them only after it has asked (ARCH_REQ_XCOMP_PERM). The kernel builds a frame by
//! get_sigframe (arch/x86/kernel/signal.c); this is its arithmetic.
#![allow(unsafe_code)]

use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::OnceLock;

/// What sigaltstack(2) takes at least, whatever the frame: MINSIGSTKSZ of asm/signal.h.
pub const MINSIGSTKSZ: u64 = 2048;
/// The registers that make AT_MINSIGSTKSZ larger than most frames are.
pub const LARGEST_STATE: &str = "AMX";

/// AT_MINSIGSTKSZ of linux/auxvec.h, which libc does not name.
const AT_MINSIGSTKSZ: libc::c_ulong = 51;

/// `sizeof(struct rt_sigframe)`: return address, ucontext, siginfo.
const RT_SIGFRAME: u64 = 8 + 304 + 128;
/// `sizeof(struct rt_sigframe_ia32)`: return address, three arguments, siginfo, ucontext, the code to return by.
const RT_SIGFRAME_IA32: u64 = 4 + 12 + 128 + 116 + 8;
/// `sizeof(struct fregs_state)`: the registers once more, in the layout of the 387.
const FREGS_STATE: u64 = 112;
/// FP_XSTATE_MAGIC2_SIZE.
const XSTATE_MAGIC2: u64 = 4;
/// What FXSAVE stores.
const FXSAVE: u64 = 512;
/// FXSAVE's area and the header of XSAVE's.
const XSAVE_LEGACY: u64 = 512 + 64;
/// What XSAVE stores is aligned to this.
const XSAVE_ALIGN: u64 = 64;
/// XFEATURE_MASK_USER_DYNAMIC: AMX's tiles.
const XFEATURE_XTILE_DATA: u32 = 18;
/// CPUID.1:ECX, the kernel has turned XSAVE on.
const CPUID_OSXSAVE: u32 = 1 << 27;
/// The leaf that describes XSAVE's components.
const CPUID_XSAVE: u32 = 0xd;

/// AT_MINSIGSTKSZ; 0 where the kernel (before 5.14) does not say.
pub fn min_sigstack() -> u64 {
    // SAFETY: getauxval reads a table that the kernel has made before this program ran.
    unsafe { libc::getauxval(AT_MINSIGSTKSZ) }
}

/// How far below `top`, the end of an alternate stack, the frame of a signal begins, in a process that has not asked
/// for AMX.
pub fn signal_frame(top: u64, compat: bool) -> u64 {
    frame(top, compat, fpu_state())
}

/// As [`signal_frame`], where the stack's end is at its worst.
pub fn largest_signal_frame() -> u64 {
    let tops = (0..XSAVE_ALIGN).map(|offset| (1 << 20) + offset);
    tops.flat_map(|top| [false, true].map(|compat| signal_frame(top, compat)))
        .max()
        .unwrap_or(0)
}

fn frame(top: u64, compat: bool, fpu: u64) -> u64 {
    let below_fpu = top.wrapping_sub(fpu) & !(XSAVE_ALIGN - 1);
    // align_sigframe: as after the call of a function.
    let start = if compat {
        (below_fpu
            .wrapping_sub(FREGS_STATE + RT_SIGFRAME_IA32)
            .wrapping_add(4)
            & !15)
            .wrapping_sub(4)
    } else {
        (below_fpu.wrapping_sub(RT_SIGFRAME) & !15).wrapping_sub(8)
    };
    top.wrapping_sub(start)
}

/// A frame that the kernel has built for a handler, as far as can be told by what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandlerFrame {
    /// Where the handler returns to. `None` in a 32-bit program, where it may be the vDSO.
    pub restorer: Option<u64>,
    /// The mask that its return puts in force.
    pub mask: u64,
    /// The signal's number, or whatever lies there if the handler takes no siginfo.
    pub signo: i32,
}

impl HandlerFrame {
    /// How many bytes have to be known: `struct rt_sigframe` (arch/x86/include/asm/sigframe.h).
    pub const SIZE: usize = 440;

    /// The frame that begins with `bytes`, at `address`. `None` if there is none.
    pub fn at(bytes: &[u8], address: u64, compat: bool) -> Option<HandlerFrame> {
        if bytes.len() < HandlerFrame::SIZE {
            return None;
        }
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        let int = |at: usize| u32::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        if compat {
            // pretcode, sig, pinfo, puc, info, uc: the two pointers are into the frame itself. (`struct rt_sigframe_ia32`)
            const INFO: u64 = 16;
            const UCONTEXT: u16 = 16 + 128;
            let is_one = u64::from(int(8)) == address + INFO
                && u64::from(int(12)) == address + u64::from(UCONTEXT);
            return is_one.then(|| HandlerFrame {
                restorer: None,
                mask: long(usize::from(UCONTEXT) + 108),
                signo: int(4).cast_signed(),
            });
        }
        // pretcode, uc, info. In uc: flags, link, stack, the registers with `cs` and `oldmask`, the mask.
        const CONTEXT: usize = 8;
        const REGISTERS: usize = CONTEXT + 40;
        let selector = long(REGISTERS + 18 * 8) & 0xffff;
        let mask = long(CONTEXT + 296);
        let is_one = address % 16 == 8
            && long(CONTEXT + 8) == 0
            && matches!(selector, 0x33 | 0x23)
            && long(REGISTERS + 21 * 8) == mask;
        is_one.then(|| HandlerFrame {
            restorer: Some(long(0)),
            mask,
            signo: int(CONTEXT + 304).cast_signed(),
        })
    }
}

/// Size of what is stored of the floating-point and vector registers. Asked once: in a virtual machine every CPUID is
/// a trap, and a few thousand of them took 5 ms.
fn fpu_state() -> u64 {
    static SIZE: OnceLock<u64> = OnceLock::new();
    *SIZE.get_or_init(ask_fpu_state)
}

fn ask_fpu_state() -> u64 {
    // __cpuid is unsafe up to Rust 1.93 or so.
    #[allow(unused_unsafe)]
    // SAFETY: every x86_64 processor has CPUID and leaf 1.
    if unsafe { __cpuid(1) }.ecx & CPUID_OSXSAVE == 0 {
        return FXSAVE;
    }
    // SAFETY: OSXSAVE says that the instruction is there.
    let enabled = unsafe { xcr0() };
    let components = (2..63)
        .filter(|i| enabled & (1 << i) != 0 && *i != XFEATURE_XTILE_DATA)
        .map(|i| {
            #[allow(unused_unsafe)]
            // SAFETY: a processor with XSAVE has this leaf.
            let component = unsafe { __cpuid_count(CPUID_XSAVE, i) };
            u64::from(component.ebx) + u64::from(component.eax)
        });
    components.fold(XSAVE_LEGACY, u64::max) + XSTATE_MAGIC2
}

/// # Safety
///
/// The kernel has turned XSAVE on.
#[target_feature(enable = "xsave")]
unsafe fn xcr0() -> u64 {
    // SAFETY: by the caller.
    unsafe { _xgetbv(0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    static UCONTEXT: AtomicU64 = AtomicU64::new(0);

    extern "C" fn handler(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        UCONTEXT.store(context.addr() as u64, Ordering::SeqCst);
    }

    /// Where the kernel really begins the frame, for ends of every alignment.
    #[test]
    fn the_kernel_agrees() {
        let mut stack = vec![0u8; 64 * 1024];
        for offset in (0..128).step_by(8) {
            let top = (stack.as_mut_ptr().addr() as u64 + 60 * 1024) / 64 * 64 + offset;
            let size = 32 * 1024;
            let low = top - size;
            UCONTEXT.store(0, Ordering::SeqCst);
            // SAFETY: the stack outlives the signal, which is handled before raise returns, by a handler that only
            // stores a number. What was there before is put back.
            unsafe {
                let new = libc::stack_t {
                    ss_sp: std::ptr::with_exposed_provenance_mut(usize::try_from(low).unwrap()),
                    ss_flags: 0,
                    ss_size: usize::try_from(size).unwrap(),
                };
                let _ = stack.as_mut_ptr().expose_provenance();
                let mut old = std::mem::zeroed::<libc::stack_t>();
                assert_eq!(libc::sigaltstack(&raw const new, &raw mut old), 0);
                let mut action = std::mem::zeroed::<libc::sigaction>();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                let mut before = std::mem::zeroed::<libc::sigaction>();
                assert_eq!(
                    libc::sigaction(libc::SIGWINCH, &raw const action, &raw mut before),
                    0
                );
                assert_eq!(libc::raise(libc::SIGWINCH), 0);
                libc::sigaction(libc::SIGWINCH, &raw const before, std::ptr::null_mut());
                libc::sigaltstack(&raw const old, std::ptr::null_mut());
            }
            // The return address is before the ucontext.
            let start = UCONTEXT.load(Ordering::SeqCst) - 8;
            assert_eq!(signal_frame(top, false), top - start, "offset {offset}");
        }
        assert!(largest_signal_frame() >= signal_frame(1 << 20, true));
        if min_sigstack() != 0 {
            assert!(largest_signal_frame() <= min_sigstack());
        }
    }

    /// Seen with gcc -m32 on the same machine, where the 64-bit frame is 3336 bytes at this alignment.
    #[test]
    fn a_32_bit_frame() {
        let fpu = 2692 + XSTATE_MAGIC2 + 128;
        assert_eq!(frame(1 << 20, false, fpu), 3336);
        assert_eq!(frame(1 << 20, true, fpu), 3268);
        assert_eq!(frame((1 << 20) + 16, true, fpu), 3220);
    }
}
