//! Detached helper processes: they outlive the process that starts them, and finish or undo its unfinished work.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, setsid};

use crate::error::{Cause, Error, Result};
use crate::fault;
use crate::in_time;

/// How long the intermediate process may take, which forks the helper process and exits.
const START_TIME: Duration = Duration::from_secs(30);

/// Runs `work` in a helper process called `name` and exits with the result of `work`. The helper process is no child of
/// the caller, has a session of its own and blocks signals. The descriptors `foreign` are closed there. `what` is for
/// error messages.
///
/// The caller's process must have one thread: the helper process is a fork of it.
///
/// # Errors
/// If there can be no further process.
pub(crate) fn start(
    name: &CStr,
    what: &'static str,
    foreign: &[RawFd],
    work: impl FnOnce() -> i32,
) -> Result<()> {
    in_time::end_helper();
    // SAFETY: the caller has one thread, so no lock is held by another that does not exist in the child.
    match unsafe { fork() }.map_err(|errno| Error::os(what, errno))? {
        // The helper process is the child's child: its end sends this process no SIGCHLD, and this process does not
        // reap it.
        ForkResult::Parent { child } => await_start(child, what),
        ForkResult::Child => {
            detach(name, foreign);
            fault::in_companion();
            let work = std::panic::AssertUnwindSafe(work);
            exit(std::panic::catch_unwind(work).unwrap_or(1));
        }
    }
}

/// Waits until the intermediate process has ended, which only forks the helper process. The wait has a bound, because
/// that process may be stopped, frozen, or short of memory.
fn await_start(child: nix::unistd::Pid, what: &'static str) -> Result<()> {
    let deadline = Instant::now() + START_TIME;
    let ended = loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::EINTR) => {}
            // ECHILD: somebody else's handler was faster.
            Ok(WaitStatus::Exited(_, 0)) | Err(Errno::ECHILD) => return Ok(()),
            // fork(2) has failed in it.
            Ok(WaitStatus::Exited(_, errno)) => {
                return Err(Error::os(what, Errno::from_raw(errno)));
            }
            Ok(WaitStatus::StillAlive) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_micros(100));
            }
            other => break other,
        }
    };
    if let Ok(WaitStatus::StillAlive) = ended {
        let state = what_it_does(child);
        let _ = kill(child, Signal::SIGKILL);
        let _ = waitpid(child, Some(WaitPidFlag::WNOHANG));
        return Err(Error::os(
            format!("{what} (the process that should start it makes no progress: {state})"),
            Errno::ETIMEDOUT,
        ));
    }
    let why = format!("the process that should start it ended: {ended:?}");
    Err(Error::new(what, Cause::Unexpected(why)))
}

/// The lines of `/proc/PID/status` that tell why a child that is not in execve(2) does not go on, and the function of the kernel
/// in which it waits.
fn what_it_does(child: nix::unistd::Pid) -> String {
    let read = |file| std::fs::read_to_string(format!("/proc/{child}/{file}")).unwrap_or_default();
    let status = read("status");
    let told = |line: &&str| line.starts_with("State:") || line.starts_with("TracerPid:");
    let told: Vec<String> = status
        .lines()
        .filter(told)
        .map(|line| line.replace('\t', " "))
        .collect();
    format!("{}, waits in {}", told.join(", "), read("wchan"))
}

/// Leaves the parent's session, signals and descriptors behind, and its parenthood.
fn detach(name: &CStr, foreign: &[RawFd]) {
    // What ends the parent must not end this one: ^C and SIGHUP go to the session.
    let _ = setsid();
    let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None);
    for &fd in foreign {
        let _ = nix::unistd::close(fd);
    }
    // For those who look at the list of processes. The name is set before the fork, so that the helper process has the
    // name from its first instant on.
    let _ = nix::sys::prctl::set_name(name);
    // SAFETY: still one thread.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {}
        Ok(ForkResult::Parent { .. }) => exit(0),
        Err(errno) => exit(errno as i32),
    }
}

/// Closes all descriptors but `kept` and the host's log, where that is a file: whoever reads the other end of a pipe waits
/// until nobody has it open. For a companion that may outlive the host by long.
pub(crate) fn leave_files(kept: &[RawFd]) {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let number = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok()
    };
    // The list's own descriptor is closed by then.
    let open: Vec<RawFd> = entries.filter_map(number).collect();
    for fd in open
        .into_iter()
        .filter(|fd| !kept.contains(fd) && !is_log(*fd))
    {
        let _ = nix::unistd::close(fd);
    }
    // What is opened next must not become the standard input or output.
    loop {
        // SAFETY: the path is a C string; the descriptor is nobody's but the process's own.
        let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        if !(0..libc::STDERR_FILENO).contains(&fd) {
            if fd > libc::STDERR_FILENO {
                let _ = nix::unistd::close(fd);
            }
            break;
        }
    }
    // The folder may have to be unmounted.
    let _ = nix::unistd::chdir("/");
}

/// A log is opened to be appended to (log_init, criu/log.c).
fn is_log(fd: RawFd) -> bool {
    // SAFETY: numbers only.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    flags >= 0
        && flags & libc::O_APPEND != 0
        && std::fs::metadata(format!("/proc/self/fd/{fd}")).is_ok_and(|file| file.is_file())
}

/// Ends a copy of the host without running what the host has registered for its own end.
fn exit(code: i32) -> ! {
    // SAFETY: _exit takes a number and does not return.
    unsafe { libc::_exit(code) }
}
