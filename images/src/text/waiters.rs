//! `waiters`: the threads that wait for the process or thread.

use std::fmt;

use crate::ids::Tid;

/// A thread that waits for the task, or for it among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiter {
    /// The thread, as the reader sees it.
    pub tid: Tid,
    /// By which call.
    pub call: WaitCall,
    /// The call's options: WNOHANG, WUNTRACED, __WALL, ...
    pub options: u32,
    /// For whom.
    pub target: WaitFor,
}

/// A system call that waits for children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCall {
    /// waitpid(2) of a 32-bit program.
    Waitpid,
    /// wait4(2).
    Wait4,
    /// waitid(2).
    Waitid,
}

/// For whom a thread waits. Ids are those of the waiter's own pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// Any child.
    Any,
    /// This child.
    Pid(i32),
    /// Any child in this process group.
    Group(i32),
    /// The child that this descriptor of the waiter's stands for.
    PidFd(i32),
}

impl fmt::Display for WaitCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WaitCall::Waitpid => "waitpid",
            WaitCall::Wait4 => "wait4",
            WaitCall::Waitid => "waitid",
        })
    }
}

impl fmt::Display for WaitFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitFor::Any => f.write_str("any"),
            WaitFor::Pid(pid) => write!(f, "pid {pid}"),
            WaitFor::Group(group) => write!(f, "pgid {group}"),
            WaitFor::PidFd(fd) => write!(f, "pidfd {fd}"),
        }
    }
}

/// `"%u %d"` of the patches, and what it waits in and for.
pub fn render(waiters: &[Waiter]) -> String {
    waiters
        .iter()
        .map(|w| format!("{} {} {} {}\n", w.options, w.tid, w.call, w.target))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text() {
        let waiter = |call, options, target| Waiter {
            tid: Tid::new(12).unwrap(),
            call,
            options,
            target,
        };
        let waiters = [
            waiter(WaitCall::Wait4, 0, WaitFor::Any),
            waiter(WaitCall::Waitid, 0x4000_0004, WaitFor::PidFd(3)),
            waiter(WaitCall::Waitpid, 2, WaitFor::Pid(7)),
            waiter(WaitCall::Wait4, 2, WaitFor::Group(8)),
        ];
        assert_eq!(
            render(&waiters),
            "0 12 wait4 any\n1073741828 12 waitid pidfd 3\n2 12 waitpid pid 7\n2 12 wait4 pgid 8\n"
        );
        assert_eq!(render(&[]), "");
    }
}
