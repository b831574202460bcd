//! The worker: a child that does the command's work, so that killing the command cannot interrupt the work half-way.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::sync::OnceLock;

use criu_signals_images::Pid;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, signal, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, setsid};

use crate::error::{Error, Result};

/// The process that waits for this one, which does its work.
static WAITER: OnceLock<Pid> = OnceLock::new();

/// The process that waits for this one, if [`run_in_child`] has started this one.
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
/// A tracer must not be killed at an arbitrary instant: a thread undoes the injected work if its tracer dies, but its
/// seccomp filter applies to the system calls for that, and a half-finished restore stays half-finished. A user who
/// kills a command kills the process that he knows, and that one does not trace.
///
/// The caller's process must have one thread.
///
/// # Errors
/// If there can be no further process.
pub fn run_in_child(name: &CStr) -> Result<Role> {
    let failed = |errno| Error::os("start the worker process", errno);
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
