//! Pending signals that a stop alone would lose, before the process is stopped.
//!
//! A stop interrupts pselect, ppoll, epoll_pwait and sigsuspend, and the kernel puts the thread's own mask in force before the call
//! goes on (`restore_saved_sigmask`). A pending signal without a handler that only the call's mask blocks is then dropped, or its
//! default action carried out.

use std::fs;

use criu_signals_images::{Pid, ProcessState, SigNo, SigSet, Tid};

use crate::arch::may_have_mask;
use crate::bpf::process::ProcessReader;
use crate::error::{Cause, Error, Phase, Result};
use crate::in_time;
use crate::proc::{self, SignalStatus};
use crate::reading::Read as _;

/// Refuses a process of which a stop would lose a signal. To be called by what is asked to look at a process, or to change it, and
/// not by a checkpoint, which CRIU makes in any case.
///
/// Which mask a thread gets back BPF alone shows without a stop. Where BPF cannot be had, a process is refused that may lose one.
///
/// # Errors
/// [`Cause::Unsupported`], with the thread and its signals.
pub fn refuse_stop(pid: Pid) -> Result<()> {
    let perhaps = perhaps_lost(pid)?;
    if perhaps.is_empty() {
        return Ok(());
    }
    let seen = ProcessReader::new().and_then(|mut reader| reader.read(pid));
    let seen = seen.map(|reading| reading.process);
    for (tid, signals) in perhaps {
        let (verb, lost) = match &seen {
            Ok(process) => ("would", signals.difference(mask_afterwards(process, tid))),
            Err(_) => ("may", signals),
        };
        if lost.is_empty() {
            continue;
        }
        let why = format!(
            "a stop {verb} discard the mask of the system call that the thread waits in, and that mask alone blocks {lost}, \
             pending without a handler: the kernel drops such a signal, or carries out its default action (docs/eintr.md). Wait \
             until the call has ended, or read the process without a stop (criu-signals show --no-stop)"
        );
        return Err(Error::new("stop the process", Cause::Unsupported(why.into()))
            .in_thread(tid)
            .during(Phase::Seize, pid));
    }
    Ok(())
}

/// Threads in calls that may have masks of their own, and their pending signals that are blocked and have no handler.
fn perhaps_lost(pid: Pid) -> Result<Vec<(Tid, SigSet)>> {
    let mut found = Vec::new();
    for tid in proc::threads(pid)? {
        // One that has ended, or that cannot be looked at, is left to the stop to tell.
        let Ok(status) = SignalStatus::read(pid, tid) else {
            continue;
        };
        let signals = status
            .pending
            .union(status.shared_pending)
            .intersection(status.blocked)
            .difference(status.caught);
        if !signals.is_empty() && is_perhaps_in_such_a_call(pid, tid) {
            found.push((tid, signals));
        }
    }
    Ok(found)
}

/// The mask in force when the thread's call has ended. No signal is lost of a thread that has ended.
fn mask_afterwards(process: &ProcessState, tid: Tid) -> SigSet {
    let thread = process.threads.iter().find(|thread| thread.tid() == tid);
    thread.map_or_else(|| SigNo::all().collect(), |thread| {
        thread.saved_mask.unwrap_or(thread.blocked)
    })
}

fn is_perhaps_in_such_a_call(pid: Pid, tid: Tid) -> bool {
    // Another stop has done to the call what this one would.
    if proc::is_stopped(pid, tid).unwrap_or(true) {
        return false;
    }
    let look = move || {
        let line = fs::read_to_string(proc::task_file(pid, tid, "syscall")).ok()?;
        let (number, _) = proc::parse_call(&line)?;
        Some(may_have_mask(number, proc::is_32_bit(pid)))
    };
    in_time::look("syscall", look).ok().flatten().unwrap_or(false)
}
