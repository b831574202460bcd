//! Reads the state of processes and threads from `/proc`.
//!
//! Some files of a process that is in execve(2) have to be waited for. They are read with the bound of
//! [`crate::in_time`], but by functions that are for stopped processes only and say so.

mod access;
mod cgroup;
mod clocks;
mod descriptors;
mod files;
mod glimpse;
mod limits;
mod mappings;
mod program;
mod status;
mod tasks;
mod timers;
mod uninterruptible;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use criu_signals_images::{Pid, Tid};

use crate::error::{Cause, Error, Result};

pub use access::why_denied;
pub use cgroup::{
    CgroupName, is_frozen, is_held, is_in_cgroup, is_stopped_and_held, is_stopped_or_held,
};
pub use clocks::{clocks, timerfd_of_stopped};
pub use descriptors::{Descriptor, Descriptors, information};
pub use files::{SIGNALFD, TIMERFD, descriptors, is_directory, is_socket, is_timerfd};
pub use glimpse::Glimpse;
pub use limits::{rlimit_cpu, rlimit_sigpending};
#[cfg(feature = "symbols")]
pub(crate) use mappings::maps_holding;
pub use mappings::{Backing, Mapping, Region, is_local, is_memory, mappings, regions};
pub use program::{
    auxiliary_vector, auxiliary_vector_of_stopped, executable, executable_of_stopped, is_32_bit,
    is_secure, pid_namespace_by_ids, pid_namespace_of_stopped,
};
pub use status::{
    Privileges, Seccomp, SignalStatus, has_capability, is_filtered, is_stopped, may_raise_limits,
    parent, privileges, seccomp, tracer,
};
pub use tasks::{
    age, all, children, cpu_time_of_stopped, exit_signal, exit_signal_of_stopped, exit_status,
    has_thread, is_alive, is_gone, is_kernel_thread, lasting_others, start_time,
    start_time_of_stopped, threads, ticks, tree, wait_stopped, waits_for_any_child,
};
pub(crate) use tasks::{first_argument, is_worker, listed, parse_call};
pub use timers::{TimerLine, timers};
pub use uninterruptible::{Uninterruptible, is_in_vfork, uninterruptible};

// For fuzz/.
#[cfg(feature = "fuzzing")]
pub(crate) use {
    cgroup::cgroups, limits::parse_limit, status::parse_parent, tasks::parse_exit_signal,
    tasks::parse_start, timers::parse_timers,
};

/// More than most files of `/proc/PID` have.
const USUAL_SIZE: usize = 4096;

/// A file of `/proc/PID`. What is not UTF-8 in it is replaced.
fn text_of(pid: Pid, name: &str, operation: &'static str) -> Result<String> {
    let bytes = read(format!("/proc/{pid}/{name}")).map_err(|e| of_task(operation, &e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn not_understood(operation: &'static str) -> Error {
    Error::new(operation, Cause::Proc("unknown format".to_owned()))
}

/// What procfs makes of a file. It panics on some texts that it does not expect, which is an error here.
fn parsed<T>(operation: &'static str, parse: impl FnOnce() -> procfs::ProcResult<T>) -> Result<T> {
    let parsed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(parse));
    parsed
        .map_err(|_| not_understood(operation))?
        .map_err(|e| Error::proc(operation, &e))
}

/// The whole of a small file that the kernel makes when it is read.
///
/// [`std::fs::read`] asks for the size, which is 0 there, and then reads in pieces that begin with 32 bytes: eight system
/// calls where two are enough.
pub(crate) fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(USUAL_SIZE);
    // Without a bound the size is asked for.
    File::open(path)?.take(u64::MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// As [`read`], of a file that is text.
pub(crate) fn read_text(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// A failed look at a file that every task has: there is none of one that is gone, or that is ending and has no memory
/// any more (fs/proc/base.c, proc_exe_link).
fn of_task(operation: &'static str, e: &io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::NotFound => Error::new(operation, Cause::Died),
        _ => Error::io(operation, e),
    }
}

fn process(pid: Pid) -> Result<procfs::process::Process> {
    procfs::process::Process::new(pid.get()).map_err(|e| Error::proc("open /proc/PID", &e))
}

pub(crate) fn task_file(pid: Pid, tid: Tid, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/task/{tid}/{name}"))
}

#[cfg(test)]
mod tests {
    use criu_signals_images::ExitSignal;

    use super::cgroup::cgroups;
    use super::limits::parse_limit;
    use super::tasks::parse_start;
    use super::*;

    /// procfs reads the same of what the kernel writes, and panics where a limit's line is cut off.
    #[test]
    fn limits_stat_and_cgroup() {
        let pid = Pid::own();
        let theirs = process(pid).unwrap();
        let (limits, stat) = (theirs.limits().unwrap(), theirs.stat().unwrap());
        let value = |v| match v {
            procfs::process::LimitValue::Unlimited => u64::MAX,
            procfs::process::LimitValue::Value(n) => n,
        };
        let ours = rlimit_sigpending(pid).unwrap();
        assert_eq!(ours.soft, value(limits.max_pending_signals.soft_limit));
        assert_eq!(ours.hard, value(limits.max_pending_signals.hard_limit));
        let seconds = rlimit_cpu(pid).unwrap().soft;
        assert_eq!(seconds, value(limits.max_cpu_time.soft_limit));
        assert_eq!(start_time(pid).unwrap(), stat.starttime);
        assert_eq!(parent(pid).unwrap(), Pid::new(stat.ppid));
        assert_eq!(exit_signal(pid).unwrap(), ExitSignal::new(17));
        let text = text_of(pid, "cgroup", "read cgroup").unwrap();
        let ours: Vec<_> = cgroups(&text)
            .map(|(number, _, path)| (number, path.to_owned()))
            .collect();
        let theirs: Vec<_> = theirs
            .cgroups()
            .unwrap()
            .into_iter()
            .map(|c| (c.hierarchy, c.pathname))
            .collect();
        assert_eq!(ours, theirs);
        for cut in ["Max pending signals", "Max pending signals 1", ""] {
            assert_eq!(parse_limit(cut, "Max pending signals"), None, "{cut}");
        }
        assert_eq!(parse_start("1 (a) b) S 1"), None);
        let panicked: Result<()> = parsed("read it", || panic!("not expected"));
        assert!(matches!(panicked.unwrap_err().cause(), Cause::Proc(_)));
    }
}
