//! Restores a dump into live processes.

use std::time::Duration;

use criu_signals_images::{Disposition, ProcessState, ThreadState};

use super::names::{Pair, missing_threads, translated};
use super::stop::Stopped;
use super::{Progress, Stage, step};
use crate::engine::capture;
use crate::engine::repair::{Arrived, Done, Report, apply};
use crate::error::{Cause, Error, Phase, Result};
use crate::losses::not_compared;
use crate::proc::{self, Region};
use crate::tracee::{ByUs, StoppedProcess};

/// How it is put back.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What becomes of what is pending now and was not at the dump.
    pub arrived: Arrived,
    /// Put it even into a process that executes another program than the image's.
    pub force: bool,
}

/// Puts images into their processes, all of which stand still meanwhile. One report for each pair, or why there is none.
///
/// # Errors
/// If nothing was changed: a process could not be stopped, or executes another program.
pub fn restore(
    pairs: &[Pair],
    options: Options,
    timeout: Duration,
    progress: &mut dyn Progress,
) -> Result<Vec<Result<Report>>> {
    if !options.force {
        for pair in pairs {
            refuse_other_program(pair).map_err(|e| e.during(Phase::Verify, pair.pid))?;
        }
    }
    let pids: Vec<_> = pairs.iter().map(|pair| pair.pid).collect();
    let stopped = Stopped::stop_these(&pids, timeout, progress)?;
    // Stopped by their numbers, they are those that were found, and execute what they executed then.
    pairs.iter().try_for_each(Pair::check)?;
    // In the order in which they were stopped. A child's stop is the parent's business, too: what a parent is told of it
    // is settled when its own queue is in place.
    let mut plan = Vec::with_capacity(pairs.len());
    for process in stopped.processes() {
        if let Some(at) = pairs.iter().position(|pair| pair.pid == process.pid()) {
            let now = capture::process(process)?;
            let wanted = translated(&pairs[at], &now, pairs);
            if !options.force {
                refuse_lost_addresses(&wanted, &now)
                    .and_then(|()| refuse_handlers(&wanted, &now))
                    .map_err(|e| e.during(Phase::Verify, process.pid()))?;
            }
            plan.push((at, process, now, wanted));
        }
        step(progress, Stage::Read, plan.len(), pairs.len())?;
    }
    let mut reports: Vec<Option<Result<Report>>> = pairs.iter().map(|_| None).collect();
    for (done, (at, process, now, wanted)) in plan.into_iter().enumerate() {
        // From here on it is gone through with: half a restore is none.
        let _ = step(progress, Stage::PutBack, done + 1, pairs.len());
        reports[at] = Some(put_back(process, &pairs[at], now, &wanted, options.arrived));
    }
    stopped.release()?;
    Ok(reports.into_iter().flatten().collect())
}

fn put_back(
    process: &StoppedProcess<ByUs>,
    pair: &Pair,
    now: ProcessState,
    wanted: &ProcessState,
    arrived: Arrived,
) -> Result<Report> {
    let mut report = apply(process, now, wanted, arrived)?;
    report.not_compared = not_compared::parts_of_live(&pair.image.process);
    let missing = missing_threads(&pair.image.process, wanted);
    let missing = missing.into_iter().map(|d| (d, Done::NotPutBack));
    report.findings.extend(missing);
    Ok(report)
}

/// The addresses of handlers and stacks mean something only in the program that they were taken from.
fn refuse_other_program(pair: &Pair) -> Result<()> {
    let dumped = &pair.image.process;
    match (&dumped.exe, &proc::executable(pair.pid)?) {
        (Some(then), Some(now)) if then != now => {
            return Err(refused(format!(
                "the process executes {now}, but the image was made of {then}"
            )));
        }
        (Some(_), Some(_)) => {}
        _ => {
            let now = proc::SignalStatus::read(pair.pid, pair.pid.into())?.comm;
            if now != dumped.comm {
                return Err(refused(format!(
                    "the process is {now}, but the image was made of {}",
                    dumped.comm
                )));
            }
        }
    }
    Ok(())
}

fn refused(why: impl std::fmt::Display) -> Error {
    Error::new(
        "look at the program",
        Cause::Unsupported(format!("{why}. Use --force to restore anyway").into()),
    )
}

/// The mask and the alternate stack of a thread in a handler are not for good. Put into a thread that is in none they would
/// be, and those that are put into a thread which is in one are gone when that returns.
fn refuse_handlers(wanted: &ProcessState, now: &ProcessState) -> Result<()> {
    for thread in &wanted.threads {
        let Some(found) = now.threads.iter().find(|found| found.ids == thread.ids) else {
            continue;
        };
        let same =
            thread.lasting_mask() == found.lasting_mask() && thread.altstack == found.altstack;
        let why = match (thread.in_handler, found.in_handler) {
            _ if same => continue,
            (None, None) => continue,
            (Some(signo), _) => format!(
                "thread {} was in its handler of {signo} at the dump: the mask of the handler would stay in force for \
                 good, because the handler that would restore the mask is not running now",
                thread.ids.outermost()
            ),
            (None, Some(signo)) => format!(
                "thread {} is in its handler of {signo} now, which will overwrite the mask when it returns",
                thread.ids.outermost()
            ),
        };
        return Err(refused(why));
    }
    Ok(())
}

/// The program may be the same, and its addresses be others: it was started anew, and is laid out at random.
fn refuse_lost_addresses(wanted: &ProcessState, now: &ProcessState) -> Result<()> {
    let pid = now.pid();
    match lost_address(wanted, now, &proc::regions(pid)?) {
        Some(why) => Err(refused(format_args!(
            "{why}: the memory of the process does not match the image"
        ))),
        None => Ok(()),
    }
}

/// Something that a signal would make the program jump to, or write to, and that is not there. What the program has set
/// itself is its own matter.
fn lost_address(wanted: &ProcessState, now: &ProcessState, regions: &[Region]) -> Option<String> {
    let region = |at: u64| regions.iter().find(|r| (r.start..r.end).contains(&at));
    let runs = |at: u64| region(at).is_some_and(|r| r.executable);
    for (signo, disposition) in wanted.dispositions.iter() {
        let own = now.dispositions[signo] == *disposition;
        if own || disposition.is_default_handler() || disposition.is_ignored() {
            continue;
        }
        let Disposition {
            handler, restorer, ..
        } = *disposition;
        if !runs(handler) {
            return Some(format!(
                "no executable memory at {handler:#x}, the handler of {signo}"
            ));
        }
        if restorer != 0 && !runs(restorer) {
            return Some(format!(
                "no executable memory at {restorer:#x}, where the handler of {signo} returns"
            ));
        }
    }
    let own = |thread: &ThreadState| {
        now.threads
            .iter()
            .any(|t| t.ids == thread.ids && t.altstack == thread.altstack)
    };
    let lost = wanted
        .threads
        .iter()
        .filter(|thread| !own(thread))
        .find(|thread| {
            let stack = thread.altstack;
            !stack.is_disabled() && stack.size != 0 && !region(stack.sp).is_some_and(|r| r.writable)
        })?;
    Some(format!(
        "no memory at {:#x}, the alternate stack of thread {}",
        lost.altstack.sp,
        lost.ids.innermost()
    ))
}

#[cfg(test)]
mod tests {
    use criu_signals_images::{AltStack, NsIds, SigNo};

    use super::*;

    #[test]
    fn addresses_must_be_there() {
        let regions = [
            Region {
                start: 0x1000,
                end: 0x2000,
                executable: true,
                writable: false,
            },
            Region {
                start: 0x2000,
                end: 0x3000,
                executable: false,
                writable: true,
            },
        ];
        let mut state = ProcessState::bare(NsIds::new(vec![1]).expect("an id"));
        let now = state.clone();
        let lost = |state: &ProcessState| lost_address(state, &now, &regions);
        assert_eq!(lost(&state), None);
        state.dispositions[SigNo::USR1].handler = 0x1fff;
        state.dispositions[SigNo::USR1].restorer = 0x1000;
        state.dispositions[SigNo::HUP].handler = 1;
        state.threads[0].altstack = AltStack {
            sp: 0x2000,
            flags: 0,
            size: 0x1000,
        };
        assert_eq!(lost(&state), None);
        state.threads[0].altstack.sp = 0x1000;
        assert!(lost(&state).is_some_and(|why| why.contains("stack")));
        state.dispositions[SigNo::USR1].handler = 0x2000;
        assert!(lost(&state).is_some_and(|why| why.contains("SIGUSR1")));
        assert_eq!(lost_address(&state, &state, &regions), None, "its own");
    }
}
