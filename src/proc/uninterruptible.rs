//! The reason why a thread does not stop: uninterruptible sleep, and the kernel function in which it sleeps.

use std::fmt;

use criu_signals_images::{Pid, Tid};

use super::status::status;
use super::{is_frozen, read_text, task_file};
use crate::in_time;

/// Why a thread in uninterruptible sleep (`D` in proc_pid_stat(5)) does not stop. `Display` says it for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uninterruptible {
    /// A freezer of cgroup v1 holds it.
    Frozen,
    /// It waits for its child, in this function of the kernel.
    InVfork(String),
    /// In this function of the kernel, if that is shown.
    Elsewhere(Option<String>),
}

impl Uninterruptible {
    /// In the function that `/proc/PID/task/TID/wchan` names: as `ps -o wchan` shows it, what it waits for is in the name.
    fn in_function(wchan: Option<String>) -> Uninterruptible {
        match wchan.filter(|function| function != "0") {
            // Which of its functions are inlined is the compiler's choice.
            Some(function) if function.contains("vfork") || function == "kernel_clone" => {
                Uninterruptible::InVfork(function)
            }
            other => Uninterruptible::Elsewhere(other),
        }
    }
}

impl fmt::Display for Uninterruptible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SLEEPS: &str = "in uninterruptible sleep";
        match self {
            Uninterruptible::Frozen => f.write_str("held by a freezer of cgroup v1"),
            Uninterruptible::InVfork(function) => write!(
                f,
                "{SLEEPS}, in {function} (vfork: until its child has called exec or has ended)"
            ),
            Uninterruptible::Elsewhere(Some(function)) => write!(f, "{SLEEPS}, in {function}"),
            Uninterruptible::Elsewhere(None) => f.write_str(SLEEPS),
        }
    }
}

/// What a thread waits for that does not stop; `None` if it is not in uninterruptible sleep.
pub fn uninterruptible(pid: Pid, tid: Tid) -> Option<Uninterruptible> {
    let status = status(pid, tid).ok()?;
    if !status.state.starts_with('D') {
        return None;
    }
    if is_frozen(pid).unwrap_or(false) {
        return Some(Uninterruptible::Frozen);
    }
    let wchan = in_time::look("wchan", move || {
        read_text(task_file(pid, tid, "wchan")).ok()
    });
    Some(Uninterruptible::in_function(wchan.ok().flatten()))
}

/// Does the thread wait for its child in vfork(2)?
pub fn is_in_vfork(pid: Pid, tid: Tid) -> bool {
    matches!(uninterruptible(pid, tid), Some(Uninterruptible::InVfork(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_for_its_child_is_told_by_the_function() {
        let told = |function: &str| Uninterruptible::in_function(Some(function.to_owned()));
        assert_eq!(
            told("kernel_clone"),
            Uninterruptible::InVfork("kernel_clone".to_owned())
        );
        assert_eq!(
            told("wait_for_vfork_done").to_string(),
            "in uninterruptible sleep, in wait_for_vfork_done (vfork: until its child has called exec or has ended)"
        );
        assert_eq!(told("0"), Uninterruptible::Elsewhere(None));
        assert_eq!(
            told("io_schedule").to_string(),
            "in uninterruptible sleep, in io_schedule"
        );
    }
}
