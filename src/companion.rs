//! Processes that outlive the one that starts them, in order to finish or to mend what it has left; and one that does all
//! of the work, so that nobody who ends the one that was asked for it ends it in the middle.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use criu_signals_images::Pid;
use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, signal, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, setsid};

use crate::error::{Cause, Error, Result};
use crate::fault;

/// How long the process that starts a companion may take.
const START_TIME: Duration = Duration::from_secs(30);

/// Does `work` in a process of its own, called `name`, which is nobody's child, in a session of its own and deaf to
/// signals, and which ends with what `work` returns. It begins by closing `foreign`. `what` is for error messages.
///
/// The caller's process must have one thread: the companion goes on in a copy of it.
///
/// # Errors
/// If there can be no further process.
pub(crate) fn start(
    name: &CStr,
    what: &'static str,
    foreign: &[RawFd],
    work: impl FnOnce() -> i32,
) -> Result<()> {
    // SAFETY: the caller has one thread, so no lock is held by another that does not exist in the child.
    match unsafe { fork() }.map_err(|errno| Error::os(what, errno))? {
        // The child's child is the companion: not ours to reap, and no SIGCHLD when it ends.
        ForkResult::Parent { child } => await_start(child, what),
        ForkResult::Child => {
            detach(name, foreign);
            fault::in_companion();
            let work = std::panic::AssertUnwindSafe(work);
            exit(std::panic::catch_unwind(work).unwrap_or(1));
        }
    }
}

/// Waits until the process that starts the companion has ended, which does no more than that; but it may be stopped, frozen,
/// or without memory.
fn await_start(child: nix::unistd::Pid, what: &'static str) -> Result<()> {
    let deadline = Instant::now() + START_TIME;
    let ended = loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::EINTR) => {}
            // ECHILD: somebody else's handler was faster.
            Ok(WaitStatus::Exited(_, 0)) | Err(Errno::ECHILD) => return Ok(()),
            Ok(WaitStatus::StillAlive) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_micros(100));
            }
            other => break other,
        }
    };
    if let Ok(WaitStatus::StillAlive) = ended {
        let _ = kill(child, Signal::SIGKILL);
        let _ = waitpid(child, Some(WaitPidFlag::WNOHANG));
        return Err(Error::os(
            format!("{what} (the process that was to start it does not get on)"),
            Errno::ETIMEDOUT,
        ));
    }
    let why = format!("the process that was to start it: {ended:?}");
    Err(Error::new(what, Cause::Unexpected(why)))
}

/// Leaves the parent's session, signals and descriptors behind, and its parenthood.
fn detach(name: &CStr, foreign: &[RawFd]) {
    // What ends the parent must not end this one: ^C and SIGHUP go to the session.
    let _ = setsid();
    let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None);
    for &fd in foreign {
        let _ = nix::unistd::close(fd);
    }
    // For those who look at the list of processes. Before the fork: the companion has the name from its first instant on,
    // however long it waits for a processor.
    let _ = nix::sys::prctl::set_name(name);
    // SAFETY: still one thread.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {}
        Ok(ForkResult::Parent { .. }) => exit(0),
        Err(_) => exit(1),
    }
}

/// Ends a copy of the host without running what the host has registered for its own end.
fn exit(code: i32) -> ! {
    // SAFETY: _exit takes a number and does not return.
    unsafe { libc::_exit(code) }
}

/// The process that waits for this one, which does its work.
static WAITER: OnceLock<Pid> = OnceLock::new();

/// The process that waits for this one, if [`hand_over`] has started this one.
pub fn waiter() -> Option<Pid> {
    WAITER.get().copied()
}

/// Which of the two processes this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that goes on.
    Worker,
    /// The one that was there before: the worker has ended so.
    Waited(WaitStatus),
}

/// Goes on in a child, called `name`, which is in a session of its own and blocks [`DEFERRED`]. This process waits for it
/// and passes those signals on.
///
/// Whoever traces others must not be killed at any instant: a thread puts itself right if its tracer dies, but its seccomp
/// filter judges what it does for that, and a restore of which a half was done stays a half. Whoever ends a command ends
/// the process that he knows, and that one does not trace.
///
/// The caller's process must have one thread.
///
/// # Errors
/// If there can be no further process.
pub fn hand_over(name: &CStr) -> Result<Role> {
    let failed = |errno| Error::os("start the process that does the work", errno);
    // With SIG_IGN, which a program may inherit, nobody hears of a child's end.
    // SAFETY: no handler is set.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.map_err(failed)?;
    let deferred: SigSet = DEFERRED.into_iter().collect();
    let mut awaited = deferred;
    awaited.add(Signal::SIGCHLD);
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&awaited), Some(&mut before)).map_err(failed)?;
    let this = Pid::own();
    // SAFETY: the caller has one thread, so no lock is held by another that does not exist in the child.
    let child = match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => child,
        Ok(ForkResult::Child) => {
            let _ = WAITER.set(this);
            // ^C and SIGHUP go to the session, and SIGKILL may go to the process group.
            let _ = setsid();
            let _ = nix::sys::prctl::set_name(name);
            before.extend(&deferred);
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None).map_err(failed)?;
            return Ok(Role::Worker);
        }
        Err(errno) => {
            let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
            return Err(failed(errno));
        }
    };
    loop {
        match awaited.wait().map_err(failed)? {
            Signal::SIGCHLD => match waitpid(child, Some(WaitPidFlag::WNOHANG)).map_err(failed)? {
                WaitStatus::StillAlive => {}
                status => {
                    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None).map_err(failed)?;
                    return Ok(Role::Waited(status));
                }
            },
            // It may have ended: until it is waited for, above, its number is nobody else's.
            other => drop(kill(child, other)),
        }
    }
}

/// What ends a program by default, and can wait until it is through.
pub const DEFERRED: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];
