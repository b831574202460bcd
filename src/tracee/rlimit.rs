//! prlimit(2), from outside; where prlimit(2) may not read, /proc/PID/limits.
#![allow(unsafe_code)]

use criu_signals_images::{Pid, Rlimit};
use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::proc;

/// The type that the C library gives to resources.
#[cfg(target_env = "musl")]
type Resource = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Resource = libc::__rlimit_resource_t;

/// Sets RLIMIT_SIGPENDING of `pid`.
///
/// # Errors
/// EPERM for a hard limit above the present one without CAP_SYS_RESOURCE, or for a process of another uid.
pub fn set_sigpending(pid: Pid, limit: Rlimit) -> Result<()> {
    set(pid, libc::RLIMIT_SIGPENDING, "RLIMIT_SIGPENDING", limit)
}

/// Sets RLIMIT_CPU of `pid`.
///
/// # Errors
/// Those of [`set_sigpending`].
pub fn set_cpu(pid: Pid, limit: Rlimit) -> Result<()> {
    set(pid, libc::RLIMIT_CPU, "RLIMIT_CPU", limit)
}

fn set(pid: Pid, resource: Resource, name: &str, limit: Rlimit) -> Result<()> {
    let new = libc::rlimit64 {
        rlim_cur: limit.soft,
        rlim_max: limit.hard,
    };
    // SAFETY: prlimit reads one rlimit64 and, given a null pointer, writes nothing.
    let result =
        unsafe { libc::prlimit64(pid.get(), resource, &raw const new, std::ptr::null_mut()) };
    if result == -1 {
        return Err(Error::os(
            format!("prlimit({name}, {limit})"),
            Errno::last(),
        ));
    }
    Ok(())
}

/// The soft and hard RLIMIT_SIGPENDING of `pid`.
///
/// # Errors
/// If the process is gone.
pub fn sigpending(pid: Pid) -> Result<Rlimit> {
    get(pid, libc::RLIMIT_SIGPENDING).map_or_else(|| proc::rlimit_sigpending(pid), Ok)
}

/// The soft and hard RLIMIT_CPU of `pid`, in seconds.
///
/// # Errors
/// If the process is gone.
pub fn cpu(pid: Pid) -> Result<Rlimit> {
    get(pid, libc::RLIMIT_CPU).map_or_else(|| proc::rlimit_cpu(pid), Ok)
}

/// `None` where prlimit(2) may not read the limit: it asks for the same uids or CAP_SYS_RESOURCE (check_prlimit_permission,
/// kernel/sys.c), which /proc/PID/limits does not, but that file shows all sixteen limits as text.
fn get(pid: Pid, resource: Resource) -> Option<Rlimit> {
    let mut found = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: given a null pointer prlimit reads nothing; it writes one rlimit64.
    let result = unsafe { libc::prlimit64(pid.get(), resource, std::ptr::null(), &raw mut found) };
    (result == 0).then_some(Rlimit {
        soft: found.rlim_cur,
        hard: found.rlim_max,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_read_the_same() {
        let pid = Pid::own();
        let read = get(pid, libc::RLIMIT_SIGPENDING).unwrap();
        assert_eq!(read, proc::rlimit_sigpending(pid).unwrap());
        assert_eq!(sigpending(pid).unwrap(), read);
        assert_eq!(cpu(pid).unwrap(), proc::rlimit_cpu(pid).unwrap());
        let nobody = Pid::new(i32::MAX).unwrap();
        assert!(sigpending(nobody).unwrap_err().is_died());
        assert!(cpu(nobody).unwrap_err().is_died());
    }
}
