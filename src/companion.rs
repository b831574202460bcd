//! Processes that outlive the one that starts them, in order to finish or to mend what it has left.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, setsid};

use crate::error::{Cause, Error, Result};
use crate::fault;

/// Does `work` in a process of its own, called `name`, which is nobody's child, in a session of its own and deaf to
/// signals, and which ends with what `work` returns. It begins by closing `foreign`. `what` is for error messages.
///
/// The caller's process must have one thread: the companion goes on in a copy of it.
///
/// # Errors
/// If there can be no further process.
pub fn start(
    name: &CStr,
    what: &'static str,
    foreign: &[RawFd],
    work: impl FnOnce() -> i32,
) -> Result<()> {
    // SAFETY: the caller has one thread, so no lock is held by another that does not exist in the child.
    match unsafe { fork() }.map_err(|errno| Error::os(what, errno))? {
        ForkResult::Parent { child } => loop {
            // The child's child is the companion: not ours to reap, and no SIGCHLD when it ends.
            match waitpid(child, None) {
                Err(Errno::EINTR) => {}
                // ECHILD: somebody else's handler was faster.
                Ok(WaitStatus::Exited(_, 0)) | Err(Errno::ECHILD) => return Ok(()),
                other => {
                    let why = format!("the process that was to start it: {other:?}");
                    return Err(Error::new(what, Cause::Unexpected(why)));
                }
            }
        },
        ForkResult::Child => {
            detach(name, foreign);
            fault::in_companion();
            let work = std::panic::AssertUnwindSafe(work);
            exit(std::panic::catch_unwind(work).unwrap_or(1));
        }
    }
}

/// Leaves the parent's session, signals and descriptors behind, and its parenthood.
fn detach(name: &CStr, foreign: &[RawFd]) {
    // What ends the parent must not end this one: ^C and SIGHUP go to the session.
    let _ = setsid();
    let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None);
    for &fd in foreign {
        let _ = nix::unistd::close(fd);
    }
    // SAFETY: still one thread.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {}
        Ok(ForkResult::Parent { .. }) => exit(0),
        Err(_) => exit(1),
    }
    // For those who look at the list of processes.
    let _ = nix::sys::prctl::set_name(name);
}

/// Ends a copy of the host without running what the host has registered for its own end.
fn exit(code: i32) -> ! {
    // SAFETY: _exit takes a number and does not return.
    unsafe { libc::_exit(code) }
}
