//! `/proc/PID/limits`.

use criu_signals_images::{Pid, Rlimit};

use super::{not_understood, text_of};
use crate::error::Result;

/// The soft and hard RLIMIT_SIGPENDING of `pid`.
///
/// # Errors
/// [`Cause::Died`](crate::error::Cause::Died) if the process is gone; [`Cause::Proc`](crate::error::Cause::Proc) if
/// `limits` has no such line, as for a zombie.
pub fn rlimit_sigpending(pid: Pid) -> Result<Rlimit> {
    limit(pid, "Max pending signals")
}

pub(super) fn limit(pid: Pid, name: &str) -> Result<Rlimit> {
    let text = text_of(pid, "limits", "read limits")?;
    parse_limit(&text, name).ok_or_else(|| not_understood("read limits"))
}

/// A line of `/proc/PID/limits` (proc_pid_limits, fs/proc/base.c): name, soft and hard limit, unit.
pub(crate) fn parse_limit(text: &str, name: &str) -> Option<Rlimit> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut values = line.split_ascii_whitespace().map(|word| match word {
        "unlimited" => Some(Rlimit::INFINITY),
        number => number.parse().ok(),
    });
    Some(Rlimit {
        soft: values.next()??,
        hard: values.next()??,
    })
}

/// The soft and hard RLIMIT_CPU of `pid`, in seconds.
///
/// # Errors
/// [`Cause::Died`](crate::error::Cause::Died) if the process is gone; [`Cause::Proc`](crate::error::Cause::Proc) if
/// `limits` has no such line, as for a zombie.
pub fn rlimit_cpu(pid: Pid) -> Result<Rlimit> {
    limit(pid, "Max cpu time")
}
