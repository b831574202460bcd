//! Everything that depends on the architecture: registers, the injected code, system call numbers, the size of signal
//! frames. Each architecture has a folder with the same items; the files beside the folders are shared by all architectures.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod calls;
mod request;
mod stub;
mod timespec;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
pub use calls::{Timeout, Waiting, is_sigsuspend, is_wait, syscall_number};
pub use request::PtraceRequest;
pub use stub::*;
pub use timespec::Timespec;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

/// What a signal takes of an alternate stack on this machine.
pub fn stack_needs() -> criu_signals_images::StackNeeds {
    criu_signals_images::StackNeeds {
        minimum: min_sigstack(),
        frame: largest_signal_frame(),
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!(
    "criu-signals knows x86_64 and aarch64; another architecture needs a folder in src/arch/"
);
