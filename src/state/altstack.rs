//! The alternate signal stack: sigaltstack(2), which only the thread itself can call.
//!
//! By the 64-bit call in 32-bit tasks, too: both end in do_sigaltstack (kernel/signal.c) with the same least size
//! (COMPAT_MINSIGSTKSZ is MINSIGSTKSZ on x86), the same flags and the thread's own stack pointer, and leave no mark
//! that tells them apart.

use criu_signals_images::AltStack;
use criu_signals_images::altstack::{SS_AUTODISARM, SS_DISABLE, SS_ONSTACK};

use super::{Kind, Site};
use crate::error::{Cause, Error, Result};
use crate::tracee::{Call, Outcome};

/// `sizeof(stack_t)`: pointer, int, padding, size.
const STACK_T_SIZE: usize = 24;

/// A thread's alternate stack. SS_ONSTACK in it follows from the stack pointer and is not put back.
#[derive(Debug)]
pub enum AlternateStack {}

impl AlternateStack {
    /// The call that reads the alternate stack.
    pub(crate) fn read() -> Call {
        Call::new(libc::SYS_sigaltstack, "sigaltstack(read)")
            .value(0)
            .output(STACK_T_SIZE)
    }

    /// What that call says, from what the kernel keeps of the thread, `sas_ss_sp`, `sas_ss_size` and `sas_ss_flags`, and from the
    /// thread's stack pointer (kernel/signal.c, do_sigaltstack; include/linux/sched/signal.h, sas_ss_flags).
    pub(crate) fn from_kernel([sp, size]: [u64; 2], flags: u32, stack_pointer: u64) -> AltStack {
        let above = stack_pointer.wrapping_sub(sp);
        let place = if size == 0 {
            SS_DISABLE
        } else if Self::is_told_by_place(size, flags) && stack_pointer > sp && above <= size {
            SS_ONSTACK
        } else {
            0
        };
        AltStack {
            sp,
            flags: place | flags & SS_AUTODISARM,
            size,
        }
    }

    /// Does the stack pointer tell whether the thread is on this alternate stack?
    pub(crate) fn is_told_by_place(size: u64, flags: u32) -> bool {
        size != 0 && flags & SS_AUTODISARM == 0
    }

    /// The result of that call.
    pub(crate) fn from_outcome(outcome: &Outcome) -> Result<AltStack> {
        outcome.check()?;
        outcome
            .output
            .as_slice()
            .try_into()
            .map(from_stack_t)
            .map_err(|_| {
                Error::new(
                    "sigaltstack(read)",
                    Cause::Unexpected("not a stack_t".into()),
                )
            })
    }
}

impl Kind for AlternateStack {
    const NAME: &'static str = "alternate stack";
    type State = AltStack;

    fn capture<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<AltStack> {
        let outcomes = site.injector.run(site.tid, &[Self::read()])?;
        let [outcome] = super::exactly(outcomes)?;
        Self::from_outcome(&outcome)
    }

    fn replay<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &AltStack) -> Result<()> {
        let call = Call::new(libc::SYS_sigaltstack, format!("sigaltstack({wanted})"))
            .input(to_stack_t(wanted))
            .value(0);
        let [outcome] = super::exactly(site.injector.run(site.tid, &[call])?)?;
        // ENOMEM: the stack is too small for this machine's signal frame, which rt_sigreturn does not say
        // (arch/x86/kernel/signal.c, sigaltstack_size_valid).
        outcome.check().map(drop)
    }
}

fn from_stack_t(bytes: &[u8; STACK_T_SIZE]) -> AltStack {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let flags = u32::from_le_bytes(std::array::from_fn(|i| bytes[8 + i]));
    AltStack {
        sp: word(0),
        flags,
        size: word(16),
    }
}

fn to_stack_t(stack: &AltStack) -> [u8; STACK_T_SIZE] {
    let mut bytes = [0; STACK_T_SIZE];
    bytes[..8].copy_from_slice(&stack.sp.to_le_bytes());
    bytes[8..12].copy_from_slice(&(stack.flags & !SS_ONSTACK).to_le_bytes());
    bytes[16..].copy_from_slice(&stack.size.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn layout_is_that_of_stack_t() {
        assert_eq!(size_of::<libc::stack_t>(), STACK_T_SIZE);
        assert_eq!(
            [
                offset_of!(libc::stack_t, ss_sp),
                offset_of!(libc::stack_t, ss_flags),
                offset_of!(libc::stack_t, ss_size)
            ],
            [0, 8, 16]
        );
        let stack = AltStack {
            sp: 0x7000_1000,
            flags: 1 << 31,
            size: 8192,
        };
        assert_eq!(from_stack_t(&to_stack_t(&stack)), stack);
    }

    #[test]
    fn being_on_the_stack_is_not_put_back() {
        let stack = AltStack {
            sp: 0x1000,
            flags: SS_ONSTACK,
            size: 8192,
        };
        assert_eq!(from_stack_t(&to_stack_t(&stack)).flags, 0);
    }
}
