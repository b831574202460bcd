//! Lists the waiters of a process or thread: the threads in wait4(2) or waitid(2) to which the kernel would report it.
//!
//! Read from `/proc` alone; nobody is stopped. The waiter can only be a thread of the parent, or of the tracer
//! (kernel/exit.c, `__do_wait`), and where it waits, and for whom, is in `/proc/PID/task/TID/syscall`. That shows the call of
//! a thread which has been stopped in it, too: it waits again when it goes on.

use std::fs;
use std::path::PathBuf;

use criu_signals_images::text::{WaitCall, WaitFor, Waiter};
use criu_signals_images::{ExitSignal, NsIds, Pid, Shown as _, SigNo, Tid};
use nix::errno::Errno;
use procfs::FromRead;
use procfs::process::Status;

use super::Subject;
use crate::arch::wait_call;
use crate::error::{Cause, Error, Phase, Result};
use crate::in_time;
use crate::proc;

/// linux/wait.h.
const WNOTHREAD: u32 = 0x2000_0000;
const WALL: u32 = 0x4000_0000;
const WCLONE: u32 = 0x8000_0000;
const P_ALL: u64 = 0;
const P_PID: u64 = 1;
const P_PGID: u64 = 2;
const P_PIDFD: u64 = 3;

/// Those who wait for a process, or for one of its threads: that only a tracer does.
///
/// # Errors
/// If the task is gone, or a possible waiter can't be looked at.
pub fn list(subject: Subject) -> Result<Vec<Waiter>> {
    let Readable { waiters, unread } = readable(subject)?;
    unread.into_iter().next().map_or(Ok(waiters), Err)
}

/// What could be looked at.
#[derive(Debug, Default)]
pub struct Readable {
    /// Those who wait.
    pub waiters: Vec<Waiter>,
    /// Possible waiters that could not be looked at, and why.
    pub unread: Vec<Error>,
}

/// As [`list`], where not every possible waiter has to be looked at.
///
/// # Errors
/// If the task itself is gone or can't be looked at.
pub fn readable(subject: Subject) -> Result<Readable> {
    look(subject).map_err(|e| e.during(Phase::Capture, subject.pid))
}

fn look(subject: Subject) -> Result<Readable> {
    let tid = subject.tid();
    let status = status(subject.pid, tid)?;
    let ids = status.nspid.clone().and_then(NsIds::new).ok_or_else(|| {
        let why = "the kernel gives no NSpid line".into();
        Error::new("read status", Cause::Unsupported(why))
    })?;
    let exit_signal = proc::exit_signal(subject.pid)?;
    let child = Child {
        tid,
        ids,
        groups: status.nspgid.unwrap_or_default(),
        is_clone: exit_signal.and_then(ExitSignal::signo) != Some(SigNo::CHLD),
    };
    let mut found = Readable::default();
    // Threads are nobody's children.
    if tid == Tid::from(subject.pid)
        && let Some(parent) = Pid::new(status.ppid)
    {
        found.look_among(parent, Tie::Parent, &child);
    }
    if let Some(tracer) = Tid::new(status.tracerpid)
        && let Some(process) = process_of(tracer)
    {
        found.look_among(process, Tie::Tracer(tracer), &child);
    }
    Ok(found)
}

impl Readable {
    fn look_among(&mut self, process: Pid, tie: Tie, child: &Child) {
        let during = |e: Error| e.during(Phase::Capture, process);
        match among(process, tie, child) {
            Err(e) => self.unread.push(during(e)),
            Ok(each) => {
                for one in each {
                    match one {
                        Ok(waiter) if !self.waiters.contains(&waiter) => self.waiters.push(waiter),
                        Ok(_) => {}
                        Err(e) => self.unread.push(during(e)),
                    }
                }
            }
        }
    }
}

/// What a wait may name.
struct Child {
    tid: Tid,
    /// In the reader's pid namespace first.
    ids: NsIds,
    groups: Vec<i32>,
    /// What its parent is sent is not SIGCHLD.
    is_clone: bool,
}

/// What makes somebody a possible waiter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tie {
    Parent,
    /// By this thread.
    Tracer(Tid),
}

/// The waiters of a process, and each thread that could not be looked at.
fn among(process: Pid, tie: Tie, child: &Child) -> Result<Vec<Result<Waiter>>> {
    let threads = match proc::threads(process) {
        Err(e) if e.is_died() => Vec::new(),
        other => other?,
    };
    let found = in_time::look("syscall of a possible waiter", move || {
        let is_32_bit = proc::is_32_bit(process);
        let wait = |&tid: &Tid| (tid, wait_of(process, tid, is_32_bit));
        threads.iter().map(wait).collect::<Vec<_>>()
    });
    let mut waiters = Vec::new();
    for (tid, wait) in found? {
        let wait = wait.and_then(|wait| match wait {
            Some(waiter) if matches(process, &waiter, tie, child)? => Ok(Some(waiter)),
            _ => Ok(None),
        });
        match wait {
            Ok(Some(waiter)) => waiters.push(Ok(waiter)),
            Ok(None) => {}
            Err(e) if e.is_died() => {}
            Err(e) => waiters.push(Err(e.in_thread(tid))),
        }
    }
    Ok(waiters)
}

/// The wait that a thread is in.
fn wait_of(pid: Pid, tid: Tid, is_32_bit: bool) -> Result<Option<Waiter>> {
    let path = task_file(pid, tid, "syscall");
    let line = fs::read_to_string(&path).map_err(|e| match e.raw_os_error() {
        Some(libc::ENOENT) => Error::new("read syscall", Cause::Died),
        _ => Error::io(format!("read {} of a possible waiter", path.shown()), &e),
    })?;
    // "running", or in no call.
    let Some((number, [a0, a1, a2, a3, ..])) = proc::parse_call(&line) else {
        return Ok(None);
    };
    Ok(
        wait_in(number, [a0, a1, a2, a3], is_32_bit).map(|(call, options, target)| Waiter {
            tid,
            call,
            options,
            target,
        }),
    )
}

/// What a call waits for: wait4(pid, status, options, usage), waitid(type, id, info, options, usage).
fn wait_in(number: u32, args: [u64; 4], is_32_bit: bool) -> Option<(WaitCall, u32, WaitFor)> {
    let call = wait_call(number, is_32_bit)?;
    let int = |arg: u64| low(arg).cast_signed();
    Some(match call {
        WaitCall::Waitpid | WaitCall::Wait4 => {
            let target = match int(args[0]) {
                -1 => WaitFor::Any,
                // The caller's own group at the time of the call.
                0 => WaitFor::Group(0),
                pid if pid < 0 => WaitFor::Group(pid.checked_neg()?),
                pid => WaitFor::Pid(pid),
            };
            (call, low(args[2]), target)
        }
        WaitCall::Waitid => {
            let id = int(args[1]);
            let target = match u64::from(low(args[0])) {
                P_ALL => WaitFor::Any,
                P_PID => WaitFor::Pid(id),
                P_PGID => WaitFor::Group(id),
                P_PIDFD => WaitFor::PidFd(id),
                _ => return None,
            };
            (call, low(args[3]), target)
        }
    })
}

/// The kernel takes these arguments as ints.
fn low(arg: u64) -> u32 {
    u32::try_from(arg & u64::from(u32::MAX)).unwrap_or_default()
}

/// Would the end of `child` end this wait (kernel/exit.c, `wait_consider_task`)?
fn matches(process: Pid, waiter: &Waiter, tie: Tie, child: &Child) -> Result<bool> {
    let options = waiter.options;
    // A tracer may wait for all, whatever they send it (eligible_child).
    let eligible = options & WALL != 0
        || child.is_clone == (options & WCLONE != 0)
        || matches!(tie, Tie::Tracer(_));
    if !eligible {
        return Ok(false);
    }
    if options & WNOTHREAD != 0 {
        let own = match tie {
            Tie::Parent => has_child(process, waiter.tid, child.tid)?,
            Tie::Tracer(tracer) => tracer == waiter.tid,
        };
        if !own {
            return Ok(false);
        }
    }
    let status = status(process, waiter.tid)?;
    // The ids that count are those in the waiter's namespace: as many levels below the reader's as it has ids.
    let level = status.nspid.map_or(1, |ids| ids.len()) - 1;
    let group = |groups: &[i32]| groups.get(level).copied();
    let here = |ids: &[i32]| ids.get(level).copied().filter(|&id| id > 0);
    Ok(match waiter.target {
        WaitFor::Any => true,
        WaitFor::Pid(pid) => here(child.ids.as_slice()) == Some(pid),
        // A group from outside of the namespace is 0 to both: then it is taken for one, as what is inherited is.
        WaitFor::Group(0) => status.nspgid.as_deref().and_then(group) == group(&child.groups),
        WaitFor::Group(group) => here(&child.groups) == Some(group),
        WaitFor::PidFd(fd) => pid_of_fd(process, waiter.tid, fd)? == Some(child.ids.outermost()),
    })
}

fn has_child(process: Pid, tid: Tid, child: Tid) -> Result<bool> {
    let list = fs::read_to_string(task_file(process, tid, "children"))
        .map_err(|e| Error::io("read children", &e).in_thread(tid))?;
    Ok(list
        .split_ascii_whitespace()
        .any(|id| id.parse() == Ok(child.get())))
}

/// Whom a pidfd stands for, as the reader sees it (`Pid:` in fdinfo).
fn pid_of_fd(process: Pid, tid: Tid, fd: i32) -> Result<Option<i32>> {
    let info = match fs::read_to_string(task_file(process, tid, &format!("fdinfo/{fd}"))) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| Error::io("read fdinfo", &e).in_thread(tid))?,
    };
    Ok(info
        .lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|pid| pid.trim().parse().ok()))
}

/// The process of a thread, which may be any.
fn process_of(tid: Tid) -> Option<Pid> {
    let status = Status::from_file(format!("/proc/{tid}/status")).ok()?;
    Pid::new(status.tgid)
}

fn status(pid: Pid, tid: Tid) -> Result<Status> {
    Status::from_file(task_file(pid, tid, "status"))
        .map_err(|e| match e {
            procfs::ProcError::Io(e, _) if e.raw_os_error() == Some(libc::ENOENT) => {
                Error::os("read status", Errno::ESRCH)
            }
            e => Error::proc("read status", &e),
        })
        .map_err(|e| e.in_thread(tid))
}

fn task_file(pid: Pid, tid: Tid, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/task/{tid}/{name}"))
}

#[cfg(test)]
mod tests {
    use criu_signals_images::Arch;

    use super::*;
    use crate::arch::syscall_number;

    const MINUS_ONE: u64 = u64::MAX;

    #[test]
    fn calls_that_wait() {
        use WaitCall::{Wait4, Waitid};
        const WAIT4: u32 = syscall_number(libc::SYS_wait4);
        const WAITID: u32 = syscall_number(libc::SYS_waitid);
        for (number, args, wanted) in [
            (WAIT4, [MINUS_ONE, 1, 2, 0], Some((Wait4, 2, WaitFor::Any))),
            (
                WAIT4,
                [0xffff_ffff, 1, 0, 0],
                Some((Wait4, 0, WaitFor::Any)),
            ),
            (WAIT4, [0, 1, 0, 0], Some((Wait4, 0, WaitFor::Group(0)))),
            (
                WAIT4,
                [MINUS_ONE - 6, 1, 0, 0],
                Some((Wait4, 0, WaitFor::Group(7))),
            ),
            (
                WAIT4,
                [7, 1, 0x4000_0000, 0],
                Some((Wait4, WALL, WaitFor::Pid(7))),
            ),
            (WAITID, [0, 0, 1, 4], Some((Waitid, 4, WaitFor::Any))),
            (WAITID, [1, 7, 1, 4], Some((Waitid, 4, WaitFor::Pid(7)))),
            (WAITID, [2, 7, 1, 4], Some((Waitid, 4, WaitFor::Group(7)))),
            (WAITID, [3, 7, 1, 4], Some((Waitid, 4, WaitFor::PidFd(7)))),
            (WAITID, [9, 7, 1, 4], None),
            // INT_MIN has no group.
            (WAIT4, [0x8000_0000, 1, 0, 0], None),
        ] {
            assert_eq!(wait_in(number, args, false), wanted, "{number} {args:?}");
        }
    }

    #[test]
    fn calls_of_32_bit_programs_that_wait() {
        use WaitCall::{Wait4, Waitid, Waitpid};
        if Arch::current() != Some(Arch::X86_64) {
            eprintln!("the numbers are i386's");
            return;
        }
        let pid = WaitFor::Pid(7);
        let compat = |number, args| wait_in(number, args, true);
        assert_eq!(compat(7, [7, 1, 2, 0]), Some((Waitpid, 2, pid)));
        assert_eq!(compat(114, [7, 1, 2, 0]), Some((Wait4, 2, pid)));
        let any = Some((Waitid, 4, WaitFor::Any));
        assert_eq!(compat(284, [0, 0, 1, 4]), any);
        // poll, and i386's chroot.
        assert_eq!(wait_in(7, [7, 1, 2, 0], false), None);
        assert_eq!(compat(61, [7, 1, 2, 0]), None);
    }
}
