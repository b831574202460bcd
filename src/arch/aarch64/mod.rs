//! aarch64. Each item is documented at its definition.

use criu_signals_images::Arch;

mod calls;
mod frame;
mod keys;
mod registers;
mod stub;

pub use calls::{
    POLL, SYS32_CLOCK_NANOSLEEP, SYS32_CLOCK_NANOSLEEP_TIME64, SYS32_FUTEX, SYS32_FUTEX_TIME64,
    SYS32_NANOSLEEP, SYS32_POLL, SYS32_RT_SIGACTION, may_have_mask, timeout, timespec, wait_call,
    waiting,
};
pub use frame::{
    HandlerFrame, LARGEST_STATE, MINSIGSTKSZ, largest_signal_frame, min_sigstack, signal_frame,
};
pub use keys::{ProtectionKeys, protection_keys};
#[cfg(feature = "bpf")]
pub use registers::{PT_REGS_ARE_ALL, PT_REGS_WORDS};
pub use registers::{Registers, step_over_call};
pub use stub::Stub;

/// The architecture that images are marked with.
pub const ARCH: Arch = Arch::Aarch64;
