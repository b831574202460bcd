//! Everything that depends on the architecture: registers, the injected code, system call numbers, the size of signal
//! frames. A new architecture needs files here with the same items as those of x86_64.

mod timespec;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
mod x86_64_frame;
#[cfg(target_arch = "x86_64")]
mod x86_64_keys;
pub use timespec::Timespec;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
#[cfg(target_arch = "x86_64")]
pub use x86_64_frame::*;
#[cfg(target_arch = "x86_64")]
pub use x86_64_keys::*;

/// What a signal takes of an alternate stack on this machine.
pub fn stack_needs() -> criu_signals_images::StackNeeds {
    criu_signals_images::StackNeeds {
        minimum: min_sigstack(),
        frame: largest_signal_frame(),
    }
}

#[cfg(not(target_arch = "x86_64"))]
compile_error!("criu-signals knows x86_64 only; another architecture needs a file in src/arch/");
