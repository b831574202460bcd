//! Filters by place: the cgroup and the pid namespace of a process.

use criu_signals::error::Error;
use criu_signals::images::{Pid, Tid};
use criu_signals::live::Cgroup;
use criu_signals::proc::{self, CgroupName};
use criu_signals::process::pidfd;

/// The filters by place that `ps` and `top` share.
#[derive(clap::Args)]
pub struct Places {
    /// Only those in this cgroup and in the cgroups below: its folder, or its path as in /proc/PID/cgroup.
    #[arg(long, value_name = "PATH", value_parser = cgroup)]
    cgroup: Vec<CgroupName>,
    /// Only those in the pid namespace of this process, or in the one with this inode number (`pid:[INODE]` as well).
    /// Processes of namespaces below are not in it.
    #[arg(long, value_name = "PID|INODE", value_parser = namespace)]
    pid_namespace: Vec<Namespace>,
}

/// A pid namespace, by its inode number.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Namespace(u64);

/// PID_MAX_LIMIT (linux/threads.h). Inode numbers of namespaces are larger (PROC_DYNAMIC_FIRST, fs/proc/generic.c).
const LARGEST_PID: u64 = 1 << 22;

fn cgroup(text: &str) -> Result<CgroupName, String> {
    let dir = Cgroup::folder(text).map_err(|e| e.to_string())?;
    CgroupName::of_folder(&dir).map_err(|e| e.to_string())
}

fn namespace(text: &str) -> Result<Namespace, String> {
    let inside = text
        .strip_prefix("pid:[")
        .and_then(|rest| rest.strip_suffix(']'));
    let number = inside.unwrap_or(text).parse().ok();
    match number.filter(|&number| inside.is_some() || number > LARGEST_PID) {
        Some(inode) => inhabited(Namespace(inode)),
        None => {
            let pid = super::context::pid(text)?;
            let inode = pidfd::pid_namespace(pid).map_err(|e| e.to_string())?;
            Ok(Namespace(inode))
        }
    }
}

/// Fails if no process is in the namespace: a namespace usually ends with its last process, so such a number is a
/// mistake rather than an empty namespace.
fn inhabited(namespace: Namespace) -> Result<Namespace, String> {
    let is_in =
        |pid: Pid| pidfd::pid_namespace(pid).is_ok_and(|inode| Namespace(inode) == namespace);
    if proc::all().into_iter().any(is_in) {
        return Ok(namespace);
    }
    Err(format!(
        "no such pid namespace: no process that can be looked at here is in pid:[{}]",
        namespace.0
    ))
}

impl Places {
    /// Is the thread in one of the cgroups, and its process in one of the namespaces? One that has ended is in none.
    pub fn hold(&self, pid: Pid, tid: Tid) -> Result<bool, Error> {
        match self.look(pid, tid) {
            Err(e) if e.is_died() => Ok(false),
            looked => looked,
        }
    }

    fn look(&self, pid: Pid, tid: Tid) -> Result<bool, Error> {
        if !self.cgroup.is_empty() && !proc::is_in_cgroup(pid, tid, &self.cgroup)? {
            return Ok(false);
        }
        if self.pid_namespace.is_empty() {
            return Ok(true);
        }
        let own = Namespace(pidfd::pid_namespace(pid)?);
        Ok(self.pid_namespace.contains(&own))
    }
}
