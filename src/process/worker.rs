//! The worker: a child that does the command's work, so that killing the command cannot interrupt the work half-way.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use criu_signals_images::Pid;
use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, signal, sigprocmask};
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, setsid};

use super::stuck::Watch;
use crate::error::{Error, Result};

/// The process that waits for this one, which does its work.
static WAITER: OnceLock<Pid> = OnceLock::new();

/// The process that waits for this one, if [`run_in_child`] has started this one.
pub fn waiter() -> Option<Pid> {
    WAITER.get().copied()
}

/// How often the worker is looked at.
const INTERVAL: Duration = Duration::from_millis(200);
/// On a busy machine any system call may take some time.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// Which of the two processes this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that goes on.
    Worker,
    /// The one that was there before: the worker has ended so.
    Waited(WaitStatus),
    /// The one that was there before: the worker was killed, as it waited too long for what this says.
    Killed(String),
}

/// Goes on in a child, called `name`, which is in a session of its own and blocks [`DEFERRED`]. This process waits for it
/// and passes those signals on.
///
/// A tracer must not be killed at an arbitrary instant: a thread undoes the injected work if its tracer dies, but its
/// seccomp filter applies to the system calls for that, and a half-finished restore stays half-finished. A user who
/// kills a command kills the process that he knows, and that one does not trace.
///
/// Nor may its processes stand still for ever. If it waits for one for longer than `patience`, in a system call that nothing
/// but SIGKILL ends, it is killed all the same: the kernel lets go what it traces.
///
/// The caller's process must have one thread.
///
/// # Errors
/// If there can be no further process.
pub fn run_in_child(name: &CStr, patience: Duration) -> Result<Role> {
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
    let watch = |worker| Watch::new(worker, patience.max(LEAST_PATIENCE));
    let mut watch = Pid::new(child.as_raw()).map(watch);
    loop {
        let Some(signal) = next(&awaited, INTERVAL).map_err(failed)? else {
            if let Some(what) = watch.as_mut().and_then(Watch::look) {
                kill(child, Signal::SIGKILL).map_err(failed)?;
                await_end(child);
                return Ok(Role::Killed(what));
            }
            continue;
        };
        match signal {
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

/// The next of these signals, which are blocked; `None` if none comes in time.
fn next(awaited: &SigSet, within: Duration) -> nix::Result<Option<Signal>> {
    let within = TimeSpec::from(within);
    // SAFETY: reads a set and a time; the siginfo is not wanted.
    let number =
        unsafe { libc::sigtimedwait(awaited.as_ref(), std::ptr::null_mut(), within.as_ref()) };
    match Errno::result(number) {
        Ok(number) => Signal::try_from(number).map(Some),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Until it is gone, so is not what it traces let go.
fn await_end(child: nix::unistd::Pid) {
    let begun = Instant::now();
    while let Ok(WaitStatus::StillAlive) = waitpid(child, Some(WaitPidFlag::WNOHANG))
        && begun.elapsed() < LEAST_PATIENCE
    {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What ends a program by default, and can wait until it is through.
pub const DEFERRED: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];
