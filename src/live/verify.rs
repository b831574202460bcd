//! Compares live processes with a dump.

use std::time::{Duration, Instant};

use criu_signals_images::{
    CallTable, Difference, Field, InterruptedCall, Pid, Place, ProcessState, ThreadState, compare,
    compare_exit_signals,
};

use super::names::{Pair, matched_threads, missing_threads, translated};
use super::{Cgroup, Progress, Stage, Stopped, Target, step};
use crate::engine::capture;
use crate::engine::repair;
use crate::engine::repair::{Done, Report};
use crate::error::{Cause, Error, Phase, Result};
use crate::losses::not_compared;
use crate::state::interrupted::is_restart;
use crate::state::{itimers, timers};

/// How long a thread that waited may take to be seen waiting again: one that works in a loop is not always found in
/// its call, and one that was just restored has to make it first.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many looks there are at least: on a busy machine a second may be two looks.
const LOOKS: u32 = 25;
/// How long they may take.
const PATIENCE_IF_BUSY: Duration = Duration::from_secs(15);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Compares processes, all at one instant, with their images. Nothing is changed. One report for each pair.
///
/// What is compared is what [`compare`] does, interval timers, the exit signal, the owners of files where the image records
/// them, and that threads that waited in a system call wait in it: processes that have some that do not are looked at again
/// for up to a second, on a busy machine longer.
///
/// # Errors
/// If a process could not be stopped or read.
pub fn verify(
    pairs: &[Pair],
    timeout: Duration,
    progress: &mut dyn Progress,
) -> Result<Vec<Report>> {
    verify_stopped(pairs, progress, &mut |pids, progress| {
        Stopped::stop_these(pids, timeout, progress)
    })
}

/// As [`verify`], of processes of a cgroup, which is stopped as a whole. Returns, besides the reports, the processes of the
/// cgroup that belong to no pair.
///
/// # Errors
/// If a process could not be stopped or read.
pub fn verify_members(
    pairs: &[Pair],
    cgroup: &Cgroup,
    timeout: Duration,
    progress: &mut dyn Progress,
) -> Result<(Vec<Report>, Vec<Pid>)> {
    let target = Target::Cgroup(cgroup.clone());
    let mut others: Option<Vec<Pid>> = None;
    let reports = verify_stopped(pairs, progress, &mut |_, progress| {
        let stopped = Stopped::stop(&target, timeout, progress)?;
        let pids = stopped.processes().iter().map(|process| process.pid());
        let of_no_pair = |pid: &Pid| !pairs.iter().any(|pair| pair.pid == *pid);
        // As the first look is what is compared.
        others.get_or_insert_with(|| pids.filter(of_no_pair).collect());
        Ok(stopped)
    })?;
    Ok((reports, others.unwrap_or_default()))
}

type Stop<'s> = dyn FnMut(&[Pid], &mut dyn Progress) -> Result<Stopped> + 's;

fn verify_stopped(
    pairs: &[Pair],
    progress: &mut dyn Progress,
    stop: &mut Stop<'_>,
) -> Result<Vec<Report>> {
    let begun = Instant::now();
    let mut looks = 0;
    let mut reports: Vec<Option<(Report, Vec<Difference>)>> = pairs.iter().map(|_| None).collect();
    loop {
        // At first all of them; then those with threads that have not been seen to wait.
        let open: Vec<usize> = (0..pairs.len())
            .filter(|&at| {
                reports[at]
                    .as_ref()
                    .is_none_or(|(_, waiting)| !waiting.is_empty())
            })
            .collect();
        let enough = begun.elapsed()
            > if looks < LOOKS {
                PATIENCE_IF_BUSY
            } else {
                PATIENCE
            };
        if open.is_empty() || enough && reports.iter().all(Option::is_some) {
            break;
        }
        looks += 1;
        let pids: Vec<_> = open.iter().map(|&at| pairs[at].pid).collect();
        let stopped = stop(&pids, progress)?;
        open.iter().try_for_each(|&at| pairs[at].check())?;
        for (done, &at) in open.iter().enumerate() {
            let pair = &pairs[at];
            let mut processes = stopped.processes().iter();
            let process = processes.find(|p| p.pid() == pair.pid).ok_or_else(gone);
            let process = process.map_err(|e| e.during(Phase::Seize, pair.pid))?;
            let mut now = capture::process(process)?;
            timers::trust_unseen(&pair.image.process, &mut now)?;
            let (report, waiting) = look(pair, &now, pairs);
            match &mut reports[at] {
                // The first look is what is compared; who has been seen to wait once waits.
                Some((_, still)) => still.retain(|d| waiting.iter().any(|w| w.place == d.place)),
                first => *first = Some((report, waiting)),
            }
            step(progress, Stage::Read, done + 1, open.len())?;
        }
        stopped.release()?;
        if reports
            .iter()
            .flatten()
            .all(|(_, waiting)| waiting.is_empty())
        {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    let finish = |(mut report, waiting): (Report, Vec<Difference>)| {
        report
            .findings
            .extend(waiting.into_iter().map(|d| (d, Done::LeftAlone)));
        report
    };
    Ok(reports.into_iter().flatten().map(finish).collect())
}

fn gone() -> Error {
    let why = "the process has ended or left the cgroup: verify again";
    Error::new("find the process", Cause::Unsupported(why.into()))
}

/// What differs, and which threads do not wait as they did.
fn look(pair: &Pair, now: &ProcessState, pairs: &[Pair]) -> (Report, Vec<Difference>) {
    let dumped = &pair.image.process;
    let wanted = translated(pair, now, pairs);
    let mut differences = compare(&wanted, now);
    let timers = itimers::differences(&wanted, now);
    differences.extend(timers.into_iter().map(|(_, difference)| difference));
    differences.extend(compare_exit_signals(&wanted, now));
    differences.extend(missing_threads(dumped, now));
    let mut report = repair::report(pair.pid, &wanted, differences);
    let owners = repair::differing_owners(&wanted, &mut report);
    let left_alone = |(_, difference)| (difference, Done::LeftAlone);
    report.findings.extend(owners.into_iter().map(left_alone));
    // In which interrupted calls are not: they are compared.
    report.not_compared = not_compared::parts_of_live(&wanted);
    (report, not_waiting(dumped, now))
}

fn not_waiting(dumped: &ProcessState, now: &ProcessState) -> Vec<Difference> {
    let table = CallTable::here(dumped.compat);
    let text = |call: InterruptedCall| format!("{} at {:#x}", call.named(table), call.ip);
    let in_call = |thread: &ThreadState| {
        thread
            .interrupted
            .map_or_else(|| "in none".to_owned(), text)
    };
    let differs = |(then, ids): (&ThreadState, i32)| {
        let call = then.interrupted?;
        let thread = now.threads.iter().find(|t| t.ids.innermost() == ids)?;
        let waits = thread
            .interrupted
            .is_some_and(|found| same_call(dumped.compat, &call, &found));
        (!waits).then(|| Difference {
            dispositions: None,
            place: Place::Thread(ids),
            field: Field::InterruptedCall,
            dumped: text(call),
            found: in_call(thread),
        })
    };
    let matched = matched_threads(dumped, now).into_iter();
    matched.filter_map(differs).collect()
}

/// From the same place in the program. One that was interrupted before may go on by restart_syscall(2).
fn same_call(compat: bool, then: &InterruptedCall, now: &InterruptedCall) -> bool {
    let restarted = |call| is_restart(call, compat);
    then.ip == now.ip && (then.number == now.number || restarted(then) || restarted(now))
}

#[cfg(test)]
mod tests {
    use criu_signals_images::RestartCode;

    use super::*;
    use crate::arch::syscall_number;

    #[test]
    fn a_call_that_goes_on() {
        const PPOLL: u32 = syscall_number(libc::SYS_ppoll);
        const WAIT4: u32 = syscall_number(libc::SYS_wait4);
        const NANOSLEEP: u32 = syscall_number(libc::SYS_nanosleep);
        const RESTART: u32 = syscall_number(libc::SYS_restart_syscall);
        let call = |number, code, ip| InterruptedCall {
            number,
            code,
            ip,
            remaining: None,
            whole_timeout: false,
            timeout: None,
        };
        let ppoll = call(PPOLL, RestartCode::UnlessHandled, 0x1000);
        assert!(same_call(false, &ppoll, &ppoll));
        assert!(!same_call(
            false,
            &ppoll,
            &call(PPOLL, RestartCode::UnlessHandled, 0x2000)
        ));
        assert!(!same_call(
            false,
            &ppoll,
            &call(WAIT4, RestartCode::UnlessHandlerForbids, 0x1000)
        ));
        let sleep = call(NANOSLEEP, RestartCode::ByBlock, 0x1000);
        let again = call(RESTART, RestartCode::ByBlock, 0x1000);
        assert!(same_call(false, &sleep, &again) && same_call(false, &again, &sleep));
    }
}
