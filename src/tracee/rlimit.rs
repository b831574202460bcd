//! prlimit(2), from outside.
#![allow(unsafe_code)]

use criu_signals_images::{Pid, Rlimit};
use nix::errno::Errno;

use crate::error::{Error, Result};

/// Sets RLIMIT_SIGPENDING of `pid`.
///
/// # Errors
/// EPERM for a hard limit above the present one without CAP_SYS_RESOURCE, or for a process of another uid.
pub fn set_sigpending(pid: Pid, limit: Rlimit) -> Result<()> {
    let new = libc::rlimit64 {
        rlim_cur: limit.soft,
        rlim_max: limit.hard,
    };
    // SAFETY: prlimit reads one rlimit64 and, given a null pointer, writes nothing.
    let result = unsafe {
        libc::prlimit64(
            pid.get(),
            libc::RLIMIT_SIGPENDING,
            &raw const new,
            std::ptr::null_mut(),
        )
    };
    if result == -1 {
        return Err(Error::os(
            format!("prlimit(RLIMIT_SIGPENDING, {limit})"),
            Errno::last(),
        ));
    }
    Ok(())
}
