//! Finds, before a process is stopped, the pending signals that the stop alone would lose.
//!
//! A stop interrupts pselect, ppoll, epoll_pwait and sigsuspend, and the kernel puts the thread's own mask in force before the call
//! goes on (`restore_saved_sigmask`). A pending signal without a handler that only the call's mask blocks is then dropped, or its
//! default action carried out.

use std::collections::BTreeMap;
use std::fs;

use criu_signals_images::{CallTable, Pid, SigSet, Tid};

use crate::error::{Cause, Error, Phase, Result};
use crate::in_time;
use crate::proc::{self, SignalStatus};

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
    let seen = masks_afterwards(pid);
    for (tid, signals) in perhaps {
        let (verb, lost) = match &seen {
            // No signal is lost of a thread that has ended.
            Some(masks) => (
                "would",
                masks
                    .get(&tid)
                    .map_or_else(SigSet::default, |mask| signals.difference(*mask)),
            ),
            None => ("may", signals),
        };
        if lost.is_empty() {
            continue;
        }
        let why = format!(
            "a stop {verb} discard the mask of the system call that the thread waits in, and that mask alone blocks {lost}, \
             pending without a handler: the kernel drops such a signal, or carries out its default action (docs/eintr.md). Wait \
             until the call has ended, or read the process without a stop (criu-signals show --no-stop)"
        );
        return Err(
            Error::new("stop the process", Cause::Unsupported(why.into()))
                .in_thread(tid)
                .during(Phase::Seize, pid),
        );
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

/// The masks in force when the calls of the threads have ended; `None` if they cannot be seen.
#[cfg(feature = "bpf")]
fn masks_afterwards(pid: Pid) -> Option<BTreeMap<Tid, SigSet>> {
    use crate::reading::Read as _;

    let mut reader = crate::bpf::process::ProcessReader::new().ok()?;
    let process = reader.read(pid).ok()?.process;
    let mask = |thread: &criu_signals_images::ThreadState| {
        (thread.tid(), thread.saved_mask.unwrap_or(thread.blocked))
    };
    Some(process.threads.iter().map(mask).collect())
}

#[cfg(not(feature = "bpf"))]
fn masks_afterwards(_: Pid) -> Option<BTreeMap<Tid, SigSet>> {
    None
}

fn is_perhaps_in_such_a_call(pid: Pid, tid: Tid) -> bool {
    // Another stop has done to the call what this one would.
    if proc::is_stopped(pid, tid).unwrap_or(true) {
        return false;
    }
    let look = move || {
        let line = fs::read_to_string(proc::task_file(pid, tid, "syscall")).ok()?;
        let (number, args) = proc::parse_call(&line)?;
        Some(has_mask(
            CallTable::here(proc::is_32_bit(pid)),
            number,
            &args,
        ))
    };
    in_time::look("syscall", look)
        .ok()
        .flatten()
        .unwrap_or(false)
}

/// Is it a call that is given a mask, or may be?
fn has_mask(table: CallTable, number: u32, args: &[u64]) -> bool {
    let given = |at: usize| args.get(at).is_some_and(|&pointer| pointer != 0);
    match table.name(number) {
        Some("rt_sigsuspend" | "sigsuspend") => true,
        Some("ppoll" | "ppoll_time64") => given(3),
        Some("epoll_pwait" | "epoll_pwait2" | "io_uring_enter") => given(4),
        // By way of a struct, which may have none.
        Some("pselect6" | "pselect6_time64" | "io_pgetevents" | "io_pgetevents_time64") => given(5),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_with_masks() {
        let native = CallTable::here(false);
        let number = |number: i64| u32::try_from(number).unwrap();
        let ppoll = number(libc::SYS_ppoll);
        assert!(has_mask(native, ppoll, &[0, 0, 0, 1, 8, 0]));
        // poll(3) of some architectures.
        assert!(!has_mask(native, ppoll, &[1, 1, 1, 0, 8, 1]));
        assert!(has_mask(native, number(libc::SYS_rt_sigsuspend), &[0; 6]));
        assert!(!has_mask(
            native,
            number(libc::SYS_restart_syscall),
            &[1; 6]
        ));
        assert!(!has_mask(native, u32::MAX, &[1; 6]));
        // sigsuspend, of i386 as of arm.
        assert!(has_mask(CallTable::here(true), 72, &[0; 6]));
    }
}
