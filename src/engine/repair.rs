//! Repair: compares a process with captured state, replays what differs, and reads the result back.

use std::collections::HashMap;
use std::fmt;

use criu_signals_images::{
    Difference, Disposition, Field, FileOwner, Pending, Pid, PosixTimer, ProcessState, Rlimit,
    RunState, SigNo, SigSet, Siginfo, TakenOut, ThreadState, Tid, TimerEntry, compare,
    compare_exit_signals,
};

use crate::engine::capture::{self, Entries};
use crate::engine::replay::{Extent, Replay, Step};
use crate::engine::stops;
use crate::engine::told::Told;
use crate::error::{Error, Phase, Result};
use crate::fault::{self, Point};
use crate::proc::SignalStatus;
use crate::state::mask::Masks;
use crate::state::queues::{Arrivals, Counted, before_arrivals, is_timers};
use crate::state::timers::{self, with_expiries, with_timer_arrivals};
use crate::state::{
    self, PendingLimit, Queue, Site, cpu_limit, dropped, interrupted, itimers, owners, timerfds,
};
pub use crate::state::{Done, Lost};
use crate::tracee::{Budget, Injector, Remembered, StoppedProcess, ptrace, rlimit};

/// What to do about a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Put it back.
    Repair,
    /// Say so and leave it.
    Report,
}

/// The outcome for one process, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is as captured; nothing was changed.
    Verified,
    /// Something differed and is now as captured.
    Repaired,
    /// Something differs and was left alone.
    Differs,
    /// Something differs and could not be put back, or could not be looked at.
    Failed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Verified => "verified",
            Verdict::Repaired => "repaired",
            Verdict::Differs => "differs",
            Verdict::Failed => "failed",
        })
    }
}

/// What was found in one process, and done.
#[derive(Debug)]
pub struct Report {
    /// The process, as the reader sees it.
    pub pid: Pid,
    /// How many threads were compared.
    pub threads: usize,
    /// How many siginfos, in all queues together, were compared.
    pub siginfos: usize,
    /// Siginfos that had been taken out at the dump and were put back.
    pub given_back: usize,
    /// Siginfos that had been taken out at the dump may be missing.
    pub(crate) give_back_failed: bool,
    /// Siginfos that have been queued since the dump; they stand behind those of the dump.
    pub arrived: usize,
    /// Every difference, and what became of it.
    pub findings: Vec<(Difference, Done)>,
    /// What was given up, in words.
    pub lost: Vec<(Lost, String)>,
    /// What the process has, or the image does not tell, that the outcome does not cover, in words. A comparison with what CRIU
    /// has restored leaves that to its caller.
    pub not_compared: Vec<String>,
    /// Operations that failed.
    pub errors: Vec<Error>,
}

impl Report {
    /// How many operations failed, and how many differences were not put back. The outcome is [`Verdict::Failed`] where there
    /// are any.
    pub fn failures(&self) -> usize {
        let not_put_back = |(_, done): &&(Difference, Done)| *done == Done::NotPutBack;
        self.errors.len() + self.findings.iter().filter(not_put_back).count()
    }

    /// Does the process lack signals that are pending in the image, as far as this is known? A difference that the mode
    /// leaves alone counts only if signals that the dump has taken out could not be put back.
    pub(crate) fn lacks_signals(&self) -> bool {
        self.findings.iter().any(|(difference, done)| {
            let is_of_queues = matches!(
                difference.field,
                Field::ThreadMissing
                    | Field::PrivateQueue
                    | Field::PrivateBits
                    | Field::SharedQueue
                    | Field::SharedBits
            );
            is_of_queues
                && match done {
                    Done::PutBack => false,
                    Done::NotPutBack => true,
                    Done::LeftAlone => self.give_back_failed,
                }
        })
    }

    /// The outcome.
    pub fn verdict(&self) -> Verdict {
        let any = |done| self.findings.iter().any(|(_, d)| *d == done);
        if self.failures() != 0 {
            Verdict::Failed
        } else if any(Done::LeftAlone) {
            Verdict::Differs
        } else if any(Done::PutBack) {
            Verdict::Repaired
        } else {
            Verdict::Verified
        }
    }
}

/// Compares a stopped, restored process with its captured state, and puts back what differs if `mode` says so.
///
/// CRIU leaves a stopped process with its stop signal queued. The stop is entered here, unless `mode` forbids that, because
/// a queued stop signal competes with the other pending signals; see `stops::enter`.
///
/// State that is in `told` is not read from the threads again.
///
/// # Errors
/// If the process could not be looked at. What could not be put back is in the report.
pub fn check<Owner>(
    stopped: &StoppedProcess<Owner>,
    dumped: &ProcessState,
    mode: Mode,
    told: Option<&Told>,
) -> Result<Report> {
    let _budget = Budget::of_process();
    let _registers = Remembered::begin();
    let stop = match mode {
        // Before any code is injected: a queued SIGSTOP takes effect as soon as a thread is released.
        Mode::Repair => stops::enter(stopped, dumped),
        Mode::Report => Vec::new(),
    };
    let mut report = report(stopped.pid(), dumped, Vec::new());
    let checked = check_under_lent_limit(stopped, dumped, mode, told, stop, &mut report);
    // Not before: under the process's own limit, signals queued for other processes of the user may leave no room for an
    // entry that comes out of a queue for a moment, and a hard limit that was lowered stays low.
    report.errors.extend(take_back_limit(stopped, dumped).err());
    report.errors.extend(fault::point(Point::LimitBack).err());
    // Last: a call that is begun anew in a thread looks at the registers alone for such a mask, and a call that has ended is not in them.
    if mode == Mode::Repair && checked.is_ok() {
        report
            .errors
            .extend(masks_of_calls(stopped, dumped, Held::Throughout).err());
    }
    checked.map(|()| report)
}

fn check_under_lent_limit<Owner>(
    stopped: &StoppedProcess<Owner>,
    dumped: &ProcessState,
    mode: Mode,
    told: Option<&Told>,
    stop: Vec<Error>,
    report: &mut Report,
) -> Result<()> {
    give_back_taken_out(stopped, dumped, report);
    put_back_clocks(stopped.pid(), dumped, mode, report);
    // Before the queues are read, so that they have the signal of a timer that expires here.
    report.errors.extend(
        put_back_rest(
            stopped,
            dumped,
            mode,
            &mut report.findings,
            &mut report.lost,
        )
        .err(),
    );
    // What is told was read before interval timers were put back.
    let told = told.filter(|_| dumped.interval_timers.is_empty());
    let mut found = look_as_it_is(stopped, dumped, dumped, told)?;
    let is_changed = dumped.run_state != RunState::Running || !dumped.deleted_timers.is_empty();
    let as_it_is = is_changed.then(|| found.clone());
    count_queued_stop(&mut found, dumped);
    distrust_entries(&mut found, dumped);
    let wanted = wanted(dumped, &found);
    report.arrived = siginfos(&wanted).saturating_sub(siginfos(dumped));
    let differences = compare(&wanted, &found);
    report.errors.extend(fault::point(Point::Compared).err());
    if mode == Mode::Report {
        let left_alone = |d| (d, Done::LeftAlone);
        report
            .findings
            .extend(differences.into_iter().map(left_alone));
        return Ok(());
    }

    report.errors.extend(stop);
    if differences.is_empty() {
        report.errors.extend(resume_calls(stopped, &wanted, &found));
        return Ok(());
    }
    let as_it_is = as_it_is.as_ref().unwrap_or(&found);
    put_back_and_read_back(stopped, dumped, (wanted, as_it_is), differences, report);
    Ok(())
}

/// Puts back the signals that the dump has taken out: these are no differences, and are put back in every mode.
fn give_back_taken_out<Owner>(
    stopped: &StoppedProcess<Owner>,
    dumped: &ProcessState,
    report: &mut Report,
) {
    if dumped.taken_out.is_empty() {
        return;
    }
    // The limit was not taken out.
    let back = || {
        fault::point(Point::OutGoingBack)?;
        let limit = rlimit::sigpending(stopped.pid())?;
        // If SIGTRAP alone was taken out, no number that can be pending twice was.
        if dumped.taken_out.iter().all(|why| *why == TakenOut::Trap) {
            return give_back_under(stopped, dumped, limit);
        }
        give_back_restored(stopped, dumped, limit)
    };
    match back() {
        Ok(count) => report.given_back = count,
        Err(e) => {
            report.give_back_failed = true;
            report.errors.push(e);
        }
    }
}

/// Puts back what differs between the wanted state and the state that was found, and reports for each difference whether
/// it is gone.
fn put_back_and_read_back<Owner>(
    stopped: &StoppedProcess<Owner>,
    dumped: &ProcessState,
    (wanted, found): (ProcessState, &ProcessState),
    differences: Vec<Difference>,
    report: &mut Report,
) {
    let (errors, lost) = put_back_and_say(stopped, &wanted, found, Extent::All);
    report.errors.extend(errors);
    report.lost.extend(lost);
    let seen = look(stopped, dumped, &wanted, None).and_then(|mut found| {
        fault::point(Point::ReadBack)?;
        timers::trust_unseen(&wanted, &mut found)?;
        Ok(found)
    });
    let left = match seen {
        Ok(found) => compare(&read_back(dumped, wanted, &found), &found),
        Err(e) => {
            report.errors.push(e);
            differences.clone()
        }
    };
    report.findings.extend(judged(differences, &left));
}

/// Timerfds and RLIMIT_CPU, which belong to no step of the order and are set from outside the process.
fn put_back_clocks(pid: Pid, dumped: &ProcessState, mode: Mode, report: &mut Report) {
    let Some(clocks) = &dumped.clocks else { return };
    let repair = mode == Mode::Repair;
    let mut errors = Vec::new();
    match timerfds::check(pid, &clocks.timerfds, repair, &mut errors) {
        Ok(findings) => report.findings.extend(findings),
        Err(e) => errors.push(e),
    }
    match cpu_limit::check(pid, &clocks.cpu, repair, &mut report.lost) {
        Ok(finding) => report.findings.extend(finding),
        Err(e) => errors.push(e),
    }
    let errors = errors.into_iter().map(|e| e.during(Phase::Replay, pid));
    report.errors.extend(errors);
}

/// Interval timers and the owners of files (SIGIO), which belong to no step of the order.
fn put_back_rest<Owner>(
    stopped: &StoppedProcess<Owner>,
    dumped: &ProcessState,
    mode: Mode,
    findings: &mut Vec<(Difference, Done)>,
    lost: &mut Vec<(Lost, String)>,
) -> Result<()> {
    if dumped.interval_timers.is_empty() && dumped.file_owners.is_empty() {
        return Ok(());
    }
    let repair = mode == Mode::Repair;
    let mut inner = || {
        let mut injector = Injector::new(stopped)?;
        findings.extend(itimers::check(&mut injector, dumped, repair)?);
        findings.extend(owners::check(&mut injector, dumped, repair, lost)?);
        injector.finish()
    };
    inner().map_err(|e: Error| e.during(Phase::Replay, stopped.pid()))
}

/// What becomes of signals that are pending in a live process and were not pending at the dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// They stay, behind the signals of the dump: no signal is lost.
    Kept,
    /// They are taken out: the queues are as they were at the dump.
    TakenOut,
}

/// Puts the state of a dump into a live process that has run on since, and whose state a moment ago was `now`. All of
/// `wanted` is put back, except for the system calls in which threads waited: the threads keep what they do now. A status
/// that wait(2) has not reported yet is put back together with a stop.
///
/// # Errors
/// If the process could not be looked at. What could not be put back is in the report.
pub fn apply<Owner>(
    stopped: &StoppedProcess<Owner>,
    now: ProcessState,
    wanted: &ProcessState,
    arrived: Arrived,
) -> Result<Report> {
    let _budget = Budget::of_process();
    let mut errors = Vec::new();
    let mut found = now;
    if found.run_state != wanted.run_state {
        let was = found.run_state;
        match wanted.run_state {
            RunState::Stopped(_) => errors = stops::enter(stopped, wanted),
            RunState::Running => errors.extend(
                stopped
                    .stop_and_continue()
                    .err()
                    .map(|e| e.during(Phase::Replay, stopped.pid())),
            ),
        }
        // A stop removes a pending SIGCONT, and SIGCONT removes pending stop signals.
        found = capture::expecting(stopped, Phase::Verify, wanted)?;
        found.run_state = was;
    }
    let mut aim = match arrived {
        Arrived::Kept => self::wanted(wanted, &found),
        Arrived::TakenOut => wanted.clone(),
    };
    for thread in &mut aim.threads {
        thread.interrupted = None;
    }
    let since = |aim: ProcessState, found: &ProcessState| match arrived {
        Arrived::Kept => read_back(wanted, aim, found),
        Arrived::TakenOut => aim,
    };
    let mut report = report(stopped.pid(), wanted, Vec::new());
    report.arrived = siginfos(&aim).saturating_sub(siginfos(wanted));
    if put_back_rest_of_live(stopped, wanted, &found, &mut report) {
        // A timer may have expired.
        let was = found.run_state;
        found = capture::expecting(stopped, Phase::Verify, &aim)?;
        found.run_state = was;
        aim = since(aim, &found);
    }
    let differences = compare(&aim, &found);
    if !differences.is_empty() {
        let (failed, lost) = put_back_and_say(stopped, &aim, &found, Extent::All);
        errors.extend(failed);
        report.lost = lost;
        found = capture::expecting(stopped, Phase::Verify, &aim)?;
        timers::trust_unseen(&aim, &mut found)?;
        let left = compare(&since(aim, &found), &found);
        report.findings.extend(judged(differences, &left));
    }
    // Only clone(2) sets it.
    let exit_signal = compare_exit_signals(wanted, &found);
    let exit_signal = exit_signal.map(|d| (d, Done::NotPutBack));
    report.findings.extend(exit_signal);
    report.errors.extend(errors);
    Ok(report)
}

/// As [`put_back_rest`], of a process that has run on. Returns whether anything was done. What failed is in the report.
fn put_back_rest_of_live<Owner>(
    stopped: &StoppedProcess<Owner>,
    wanted: &ProcessState,
    found: &ProcessState,
    report: &mut Report,
) -> bool {
    let pid = stopped.pid();
    let timers = itimers::differences(wanted, found);
    let owners = differing_owners(wanted, report);
    if timers.is_empty() && owners.is_empty() {
        return false;
    }
    let not_put_back = |d| (d, Done::NotPutBack);
    let all_timers: Vec<Difference> = timers.iter().map(|(_, d)| d.clone()).collect();
    let mut failed = Vec::new();
    let inner = || {
        let mut injector = Injector::new(stopped)?;
        let put_back = itimers::put_back_all(&mut injector, wanted, timers);
        failed.extend(owners::set_all(&mut injector, &owners).err());
        failed.extend(injector.finish().err());
        put_back
    };
    let put_back = inner().unwrap_or_else(|e| {
        failed.push(e);
        all_timers.into_iter().map(not_put_back).collect()
    });
    report.findings.extend(put_back);
    let failed = failed.into_iter().map(|e| e.during(Phase::Replay, pid));
    report.errors.extend(failed);
    let left: Vec<Difference> = differing_owners(wanted, report)
        .into_iter()
        .map(|(_, d)| d)
        .collect();
    let owners = owners.into_iter().map(|(_, d)| d).collect();
    report.findings.extend(judged(owners, &left));
    true
}

/// The owners of files that differ in the process of `report`. If they cannot be read, the report gets an error.
pub(crate) fn differing_owners(
    wanted: &ProcessState,
    report: &mut Report,
) -> Vec<(FileOwner, Difference)> {
    owners::differences(report.pid, wanted).unwrap_or_else(|e| {
        report.errors.push(e.during(Phase::Verify, report.pid));
        Vec::new()
    })
}

/// A report on a process in which nothing was changed.
pub fn report(pid: Pid, dumped: &ProcessState, differences: Vec<Difference>) -> Report {
    let left_alone = |d| (d, Done::LeftAlone);
    Report {
        pid,
        threads: dumped.threads.len(),
        siginfos: siginfos(dumped),
        given_back: 0,
        give_back_failed: false,
        arrived: 0,
        findings: differences.into_iter().map(left_alone).collect(),
        lost: Vec::new(),
        not_compared: Vec::new(),
        errors: Vec::new(),
    }
}

/// What became of `differences`, if `left` still differs. State that was right before and is not right now is a difference
/// as well, which this library has made.
fn judged(differences: Vec<Difference>, left: &[Difference]) -> Vec<(Difference, Done)> {
    let same = |a: &Difference, b: &Difference| a.place == b.place && a.field == b.field;
    let new: Vec<Difference> = left
        .iter()
        .filter(|l| !differences.iter().any(|d| same(d, l)))
        .cloned()
        .collect();
    let judge = |d: Difference| {
        let done = if left.iter().any(|l| same(l, &d)) {
            Done::NotPutBack
        } else {
            Done::PutBack
        };
        (d, done)
    };
    let new = new.into_iter().map(|d| (d, Done::NotPutBack));
    differences.into_iter().map(judge).chain(new).collect()
}

/// Puts back the pending signals of `state`, which have been taken out of the process, before whatever has arrived
/// since. Returns how many siginfos were missing.
///
/// # Errors
/// The first that could not be put back; as many as possible of the others are.
pub fn give_back<Owner>(stopped: &StoppedProcess<Owner>, state: &ProcessState) -> Result<usize> {
    give_back_under(stopped, state, state.rlimit_sigpending)
}

/// As [`give_back`], if only the signals of `still_in` are still in the process: any further entry that equals one of them
/// has arrived since, or stood behind it.
///
/// # Errors
/// Those of [`give_back`]. It is not known then which signals are back; [`give_back`] can be tried.
pub fn give_back_all<Owner>(
    stopped: &StoppedProcess<Owner>,
    taken: &ProcessState,
    still_in: Option<&ProcessState>,
) -> Result<usize> {
    let _budget = Budget::of_process();
    let found = capture::expecting(stopped, Phase::Replay, taken)?;
    let wanted = queue_by_queue(taken.clone(), &found, |taken, found, _, thread| {
        let still_in = still_in.and_then(|state| queue_in(state, thread));
        before_arrivals(taken, found, still_in.map_or(&[], |pending| &pending.queue))
    });
    bring_about_around_dropped(stopped, wanted, found)
}

/// As [`give_back`], in a process that CRIU has restored. Such a process has the signals that had arrived before CRIU read
/// the queues, and these may equal signals that were taken out. Leaves the process with this RLIMIT_SIGPENDING.
fn give_back_restored<Owner>(
    stopped: &StoppedProcess<Owner>,
    dumped: &ProcessState,
    limit: Rlimit,
) -> Result<usize> {
    let _budget = Budget::of_process();
    let found = capture::expecting(stopped, Phase::Replay, dumped)?;
    let stay = may_have_stayed(dumped);
    // The leader's private entries are in the way of the shared ones.
    let leaders = [dumped.threads.first(), found.threads.first()];
    let bits = leaders.iter().flatten().map(|leader| leader.pending.bits);
    let in_the_way = bits.fold(stay, SigSet::union);
    let mut wanted = queue_by_queue(dumped.clone(), &found, |dumped, found, timers, thread| {
        let stay = if thread.is_none() { in_the_way } else { stay };
        let stays = |info: &&Siginfo| SigNo::new(info.signo()).is_some_and(|s| stay.contains(s));
        let still_in: Vec<Siginfo> = dumped.queue.iter().filter(stays).copied().collect();
        let merged = before_arrivals(dumped, found, &still_in);
        with_expiries(merged, found, timers, thread)
    });
    wanted.rlimit_sigpending = limit;
    bring_about(stopped, &wanted, &found)
}

/// The numbers of which entries may have been left in, in any queue, while the others were taken out: see
/// `Custody::numbers_that_stay`.
fn may_have_stayed(dumped: &ProcessState) -> SigSet {
    let entries = dumped.queues().flat_map(|pending| &pending.queue);
    let of_timers = entries.filter(|info| is_timers(info));
    let of_timers = of_timers.filter_map(|info| SigNo::new(info.signo()));
    let timers = dumped.timers.iter();
    let timers = timers.filter_map(|timer| SigNo::new(timer.signo));
    let mut stay: SigSet = of_timers.chain(timers).collect();
    stay.extend(itimers::armed_by_taking(dumped).iter());
    stay
}

/// As [`give_back`], and leaves the process with this RLIMIT_SIGPENDING.
fn give_back_under<Owner>(
    stopped: &StoppedProcess<Owner>,
    state: &ProcessState,
    limit: Rlimit,
) -> Result<usize> {
    let _budget = Budget::of_process();
    let found = capture::expecting(stopped, Phase::Replay, state)?;
    let mut wanted = wanted(state, &found);
    wanted.rlimit_sigpending = limit;
    bring_about_around_dropped(stopped, wanted, found)
}

/// If entries have to be taken out for a moment, the entries of deleted timers would not come out.
fn bring_about_around_dropped<Owner>(
    stopped: &StoppedProcess<Owner>,
    mut wanted: ProcessState,
    mut found: ProcessState,
) -> Result<usize> {
    let is_head = std::iter::zip(found.queues(), wanted.queues())
        .all(|(found, wanted)| wanted.queue.starts_with(&found.queue));
    if !is_head {
        dropped::find(stopped, &mut found)?;
        wanted.deleted_timers.extend(&found.deleted_timers);
    }
    wanted
        .deleted_timers
        .retain(|timer| !dropped::is_beside_own(&found, timer));
    bring_about(stopped, &wanted, &found)
}

fn bring_about<Owner>(
    stopped: &StoppedProcess<Owner>,
    wanted: &ProcessState,
    found: &ProcessState,
) -> Result<usize> {
    let missing = siginfos(wanted).saturating_sub(siginfos(found));
    match put_back(stopped, wanted, found, Extent::Queues)
        .into_iter()
        .next()
    {
        None => Ok(missing),
        Some(e) => Err(e),
    }
}

/// CRIU has queued the pending signals under a limit that this library had put into CRIU's image. The process gets its own
/// limit back in every mode. A limit that is neither of the two is a difference like any other.
fn take_back_limit<Owner>(stopped: &StoppedProcess<Owner>, dumped: &ProcessState) -> Result<()> {
    let (pid, own) = (stopped.pid(), dumped.rlimit_sigpending);
    let inner = || match dumped.lent_limit {
        Some(lent) if rlimit::sigpending(pid)? == lent => {
            let mut injector = Injector::new(stopped)?;
            let mut site = Site {
                injector: &mut injector,
                tid: stopped.leader(),
            };
            state::put_back::<PendingLimit, _>(&mut site, &own)?;
            injector.finish()
        }
        _ => Ok(()),
    };
    inner()
        .or_else(|e: Error| PendingLimit::from_outside(pid, own).map_err(|_| e))
        .map_err(|e| e.during(Phase::Replay, pid))
}

/// Was a process held all the time since it was captured?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Yes, or it is restored.
    Throughout,
    /// It may have run.
    AtTimes,
}

/// CRIU leaves each thread with its own mask in force. Where a system call had set another one for its time, the signals that are
/// pending meet that one.
///
/// # Errors
/// If calls can't be made in a thread, or if the mask of a thread is not as captured.
pub fn masks_of_calls<Owner>(
    stopped: &StoppedProcess<Owner>,
    dumped: &ProcessState,
    held: Held,
) -> Result<()> {
    at_threads(
        stopped,
        dumped,
        Masks::from_thread,
        |site, masks| match held {
            Held::Throughout => masks.put_back(site),
            Held::AtTimes => masks.put_back_if_lost(site),
        },
    )
    .map_err(|e| e.during(Phase::Replay, stopped.pid()))
}

/// CRIU steps the threads of a process back, so that they make their calls once more. Where the process is stopped, a handler that is
/// due would run before that, and the call would not end with EINTR. So the calls are as they were captured again, in threads that
/// stand as CRIU leaves them. The threads of a process that runs have begun their calls by now.
///
/// # Errors
/// If a call can't be put back.
pub fn calls_of_stopped<'d, Owner>(
    stopped: &StoppedProcess<Owner>,
    dumped: &'d ProcessState,
) -> Result<()> {
    let inner = || {
        if dumped.threads.iter().all(|t| t.interrupted.is_none())
            || stopped.trapped_for(stopped.leader())?.is_none()
        {
            return Ok(());
        }
        let waited = |thread: &'d ThreadState| Some((thread, thread.interrupted.as_ref()?));
        at_threads(
            stopped,
            dumped,
            waited,
            |site, (thread, call)| match ptrace::registers(site.tid)?.stands_before(call) {
                true => interrupted::put_back_call(site, thread),
                false => Ok(()),
            },
        )
    };
    inner().map_err(|e: Error| e.during(Phase::Replay, stopped.pid()))
}

/// Does `act` in each thread of which the dump knows something that `known` names. Nothing is asked if there is none.
fn at_threads<'d, Owner, T>(
    stopped: &StoppedProcess<Owner>,
    dumped: &'d ProcessState,
    known: impl Fn(&'d ThreadState) -> Option<T>,
    act: impl Fn(&mut Site<'_, '_, Owner>, &T) -> Result<()>,
) -> Result<()> {
    let known: HashMap<i32, T> = dumped
        .threads
        .iter()
        .filter_map(|thread| Some((thread.ids.innermost(), known(thread)?)))
        .collect();
    if known.is_empty() {
        return Ok(());
    }
    let mut injector = Injector::new(stopped)?;
    for &tid in stopped.threads() {
        let id = SignalStatus::read(stopped.pid(), tid)?.ids.innermost();
        if let Some(known) = known.get(&id) {
            let mut site = Site {
                injector: &mut injector,
                tid,
            };
            act(&mut site, known)?;
        }
    }
    injector.finish()
}

/// Puts back the dispositions of the process from which `state` was captured, and the signals that this takes out of its
/// queues: the kernel drops signals that become ignored, blocked or not (do_sigaction). Returns the errors.
pub fn dispositions<Owner>(stopped: &StoppedProcess<Owner>, state: &ProcessState) -> Vec<Error> {
    let mut found = match capture::expecting(stopped, Phase::Replay, state) {
        Ok(found) => found,
        Err(e) => return vec![e],
    };
    if found.dispositions == state.dispositions {
        return Vec::new();
    }
    let mut errors = put_back(stopped, state, &found, Extent::Only(Step::Dispositions));
    found.timers.clear();
    errors.extend(give_back(stopped, &found).err());
    errors
}

/// Compares a process, which has been stopped since `state` was captured from it, with `state`: every change by this
/// library and by its host has to be undone by now. What differs is put back, and returned. `entries`: what `state` knows
/// of the entries of queues.
///
/// Not counted as differences: signals that have arrived, timers, and signals that a SIGCONT or a stop signal has removed.
/// Nor are the stop and the calls in which threads wait, which other steps put back.
///
/// # Errors
/// If the process can't be looked at.
pub fn untouched<Owner>(
    stopped: &StoppedProcess<Owner>,
    state: &ProcessState,
    entries: Entries,
) -> Result<Vec<(Difference, Done)>> {
    let _budget = Budget::of_process();
    let look = || match entries {
        Entries::Unread => capture::unless_deeper(stopped, 0).map(|(found, _)| found),
        Entries::Known => capture::expecting(stopped, Phase::Verify, state),
    };
    let found = look()?;
    let wanted = undisturbed(state, &found);
    let differences = compare(&wanted, &found);
    if differences.is_empty() {
        return Ok(Vec::new());
    }
    let extent = match entries {
        Entries::Unread => Extent::State,
        Entries::Known => Extent::StateAndQueues,
    };
    for error in put_back(stopped, &wanted, &found, extent) {
        log::warn!("{error}");
    }
    let found = look()?;
    let left = compare(&undisturbed(state, &found), &found);
    Ok(judged(differences, &left))
}

/// The state that a process which was in `state` must have now, if only other processes and the kernel have changed it
/// since.
fn undisturbed(state: &ProcessState, found: &ProcessState) -> ProcessState {
    let of = |state: &ProcessState| {
        let bits = state.queues().map(|pending| pending.bits);
        bits.fold(SigSet::EMPTY, SigSet::union)
    };
    let arrived = of(found).difference(of(state));
    let mut kept = state.clone();
    for pending in kept.queues_mut() {
        // prepare_signal
        let flushed = |signo: SigNo| {
            signo.is_stop() && arrived.contains(SigNo::CONT)
                || signo == SigNo::CONT && arrived.iter().any(SigNo::is_stop)
        };
        pending.bits = pending
            .bits
            .iter()
            .filter(|&signo| !flushed(signo))
            .collect();
        let bits = pending.bits;
        pending
            .queue
            .retain(|info| SigNo::new(info.signo()).is_some_and(|signo| bits.contains(signo)));
    }
    let mut wanted = arrived_since(kept.clone(), found);
    wanted.run_state = found.run_state;
    wanted.timers.clone_from(&found.timers);
    // The order of different numbers around the entry of a timer cannot be observed. If a sender kept sending, some of its
    // signals stand among older ones: that was logged when these were put back.
    let settle = |queue: Queue, kept: &Pending, wanted: &mut Pending, found: &Pending| {
        let among = |arrivals: Arrivals| arrivals.instead == 0;
        if queue.same_by_number(&wanted.queue, &found.queue)
            || queue.arrivals(kept, found).is_some_and(among)
        {
            wanted.queue.clone_from(&found.queue);
        }
    };
    settle(
        Queue::Shared,
        &kept.shared,
        &mut wanted.shared,
        &found.shared,
    );
    for (thread, kept) in std::iter::zip(&mut wanted.threads, &kept.threads) {
        if let Some(found) = same_thread(&found.threads, thread) {
            settle(
                Queue::Private,
                &kept.pending,
                &mut thread.pending,
                &found.pending,
            );
        }
    }
    wanted
}

/// Sets SIGTRAP to ignored again in a process that ignored SIGTRAP, if the trap that ends CRIU's own code has reset the
/// disposition to SIG_DFL (force_sig). A change that the program itself has made since stays. Returns whether anything had
/// to be done.
///
/// # Errors
/// The first thing that failed.
pub fn ignore_trap_again<Owner>(
    stopped: &StoppedProcess<Owner>,
    state: &ProcessState,
) -> Result<bool> {
    let was = state.dispositions[SigNo::TRAP];
    if !was.is_ignored() {
        return Ok(false);
    }
    let mut found = capture::expecting(stopped, Phase::Replay, state)?;
    let now = found.dispositions[SigNo::TRAP];
    // The kernel changes only the handler; a program that sets SIG_DFL mostly changes the flags as well.
    if now
        != (Disposition {
            handler: Disposition::DEFAULT.handler,
            ..was
        })
    {
        return Ok(false);
    }
    let mut wanted = found.clone();
    wanted.dispositions[SigNo::TRAP] = was;
    let only = Extent::Only(Step::Dispositions);
    let mut errors = put_back(stopped, &wanted, &found, only);
    // Signals that have become ignored are gone from the queues.
    found.timers.clear();
    errors.extend(give_back(stopped, &found).err());
    errors.into_iter().next().map_or(Ok(true), Err)
}

/// The process as it is now, with the stop that CRIU has queued counted as entered.
fn look<Owner>(
    stopped: &StoppedProcess<Owner>,
    dumped: &ProcessState,
    expected: &ProcessState,
    told: Option<&Told>,
) -> Result<ProcessState> {
    let mut found = look_as_it_is(stopped, dumped, expected, told)?;
    count_queued_stop(&mut found, dumped);
    Ok(found)
}

/// As [`look`], with that stop among what is pending.
fn look_as_it_is<Owner>(
    stopped: &StoppedProcess<Owner>,
    dumped: &ProcessState,
    expected: &ProcessState,
    told: Option<&Told>,
) -> Result<ProcessState> {
    let mut found = capture::expecting_told(stopped, Phase::Verify, expected, told)?;
    // Taken back at the end (`take_back_limit`).
    if dumped.lent_limit == Some(found.rlimit_sigpending) {
        found.rlimit_sigpending = dumped.rlimit_sigpending;
    }
    Ok(found)
}

fn siginfos(state: &ProcessState) -> usize {
    state.queues().map(|pending| pending.queue.len()).sum()
}

/// CRIU restores a stop by queueing the stop signal as its last act: that entry stands for the stop.
fn count_queued_stop(found: &mut ProcessState, dumped: &ProcessState) {
    if found.run_state != RunState::Running {
        return;
    }
    let Some(signal) = stops::queued_by_criu(dumped, found.shared.bits) else {
        return;
    };
    let is_stop = |info: &Siginfo| SigNo::new(info.signo()) == Some(signal);
    found.shared.queue.retain(|info| !is_stop(info));
    found.shared.bits.remove(signal);
    found.run_state = dumped.run_state;
}

/// CRIU puts an entry into a queue that looks exactly like a timer's own entry, but is not: only the timer can queue its
/// own entry.
///
/// The same holds for the entries of deleted timers: CRIU's entries would be delivered.
fn distrust_entries(found: &mut ProcessState, dumped: &ProcessState) {
    let distrust = |pending: &mut Pending, thread| {
        pending.retain(|info| dumped.left_by(thread, info).is_none());
    };
    if !dumped.deleted_timers.is_empty() {
        distrust(&mut found.shared, None);
        for thread in &mut found.threads {
            let id = thread.ids.innermost();
            distrust(&mut thread.pending, Some(id));
        }
    }
    for timer in &mut found.timers {
        let was = dumped.timers.iter().find(|was| was.id == timer.id);
        if was.is_some_and(|was| was.entry != TimerEntry::Idle) {
            timer.entry = TimerEntry::Idle;
        }
    }
}

/// How the process must be: as captured, with what has arrived since behind it.
fn wanted(dumped: &ProcessState, found: &ProcessState) -> ProcessState {
    let mut wanted = arrived_since(dumped.clone(), found);
    for timer in &mut wanted.timers {
        let now = found.timers.iter().find(|now| now.id == timer.id);
        if let Some(now) = now
            && timer.entry == TimerEntry::Idle
            && now.entry != TimerEntry::Idle
        {
            *timer = *now;
        }
    }
    wanted
}

/// The state that was put back, followed by the signals that running timers or other processes have queued since.
fn arrived_since(wanted: ProcessState, found: &ProcessState) -> ProcessState {
    queue_by_queue(wanted, found, with_timer_arrivals)
}

/// As [`arrived_since`], after something was put back. A signal that had arrived before may have come anew since, and then stands
/// elsewhere among those of other numbers, of which no process can tell: it counts as in its place, if those of the dump are in
/// theirs.
fn read_back(dumped: &ProcessState, wanted: ProcessState, found: &ProcessState) -> ProcessState {
    queue_by_queue(wanted, found, |wanted, found, timers, thread| {
        let mut wanted = with_timer_arrivals(wanted, found, timers, thread);
        if let Some(dumped) = queue_in(dumped, thread) {
            let which = thread.map_or(Queue::Shared, |_| Queue::Private);
            place_arrivals(which, dumped, &mut wanted, found);
        }
        wanted
    })
}

fn place_arrivals(which: Queue, dumped: &Pending, wanted: &mut Pending, found: &Pending) {
    if wanted.queue == found.queue || !which.same_by_number(&wanted.queue, &found.queue) {
        return;
    }
    let without = |queue: &[Siginfo], known: &[Siginfo]| -> Vec<Siginfo> {
        let mut known = Counted::from_entries(known);
        let rest = queue.iter().filter(|info| !known.take(info));
        rest.copied().collect()
    };
    let arrived = without(&wanted.queue, &dumped.queue);
    if without(&wanted.queue, &arrived) == without(&found.queue, &arrived) {
        wanted.queue.clone_from(&found.queue);
    }
}

/// The queue of the thread with this innermost id, `None`: the shared one.
fn queue_in(state: &ProcessState, thread: Option<i32>) -> Option<&Pending> {
    let Some(id) = thread else {
        return Some(&state.shared);
    };
    let mut threads = state.threads.iter();
    let thread = threads.find(|t| t.ids.innermost() == id);
    thread.map(|thread| &thread.pending)
}

/// Each queue of `state`, merged with the queue that was found. `merge` gets the timers of `state` and the thread of the
/// queue, `None` for the shared queue.
fn queue_by_queue(
    mut state: ProcessState,
    found: &ProcessState,
    merge: impl Fn(Pending, &Pending, &[PosixTimer], Option<i32>) -> Pending,
) -> ProcessState {
    let timers = &state.timers;
    let shared = std::mem::take(&mut state.shared);
    state.shared = merge(shared, &found.shared, timers, None);
    for thread in &mut state.threads {
        if let Some(found) = same_thread(&found.threads, thread) {
            let id = Some(thread.ids.innermost());
            let pending = std::mem::take(&mut thread.pending);
            thread.pending = merge(pending, &found.pending, timers, id);
        }
    }
    state
}

fn same_thread<'t>(threads: &'t [ThreadState], thread: &ThreadState) -> Option<&'t ThreadState> {
    threads
        .iter()
        .find(|t| t.ids.innermost() == thread.ids.innermost())
}

/// CRIU restores no interrupted call as interrupted, so there is nothing to compare: CRIU leaves a thread that makes the
/// call once more.
fn resume_calls<Owner>(
    stopped: &StoppedProcess<Owner>,
    wanted: &ProcessState,
    found: &ProcessState,
) -> Vec<Error> {
    if wanted.threads.iter().all(|t| t.interrupted.is_none()) {
        return Vec::new();
    }
    put_back(stopped, wanted, found, Extent::Only(Step::InterruptedCalls))
}

fn put_back<Owner>(
    stopped: &StoppedProcess<Owner>,
    wanted: &ProcessState,
    found: &ProcessState,
    extent: Extent,
) -> Vec<Error> {
    put_back_and_say(stopped, wanted, found, extent).0
}

/// The errors, and the state that was given up for other state.
fn put_back_and_say<Owner>(
    stopped: &StoppedProcess<Owner>,
    wanted: &ProcessState,
    found: &ProcessState,
    extent: Extent,
) -> (Vec<Error>, Vec<(Lost, String)>) {
    let mut lost = Vec::new();
    let threads: Vec<(Tid, &ThreadState)> = found
        .threads
        .iter()
        .map(|t| (t.tid(), same_thread(&wanted.threads, t).unwrap_or(t)))
        .collect();
    let mut inner = || {
        let mut injector = Injector::new(stopped)?;
        let mut replay = Replay {
            injector: &mut injector,
            wanted,
            found,
            threads: &threads,
            lost: &mut lost,
        };
        let mut errors = replay.walk(extent);
        errors.extend(fault::point(Point::Replayed).err());
        errors.extend(injector.finish().err());
        Ok(errors)
    };
    let errors = inner().unwrap_or_else(|e: Error| vec![e]);
    let during = |e: Error| e.during(Phase::Replay, stopped.pid());
    (errors.into_iter().map(during).collect(), lost)
}

#[cfg(test)]
mod tests {
    use criu_signals_images::{DeletedTimer, Fields, IntervalTimer, NsIds, Place};

    use super::*;
    use crate::error::Cause;

    const SI_QUEUE: i32 = -1;
    const SI_TIMER: i32 = -2;
    const RT: SigNo = SigNo::new(40).unwrap();

    fn sent(signo: SigNo, value: u64) -> Siginfo {
        let fields = Fields::Value {
            pid: 9,
            uid: 0,
            value,
        };
        Siginfo::from_fields(signo.get(), 0, SI_QUEUE, &fields)
    }

    fn entry_of_timer(id: i32) -> Siginfo {
        let fields = Fields::Timer {
            id,
            overrun: 0,
            value: 0,
            sys_private: 0,
        };
        Siginfo::from_fields(RT.get(), 0, SI_TIMER, &fields)
    }

    fn pending(queue: &[Siginfo]) -> Pending {
        let bits = queue.iter().filter_map(|info| SigNo::new(info.signo()));
        Pending {
            bits: bits.collect(),
            queue: queue.to_vec(),
        }
    }

    /// With the threads 7 and 8.
    fn process(shared: &[Siginfo], private: [&[Siginfo]; 2]) -> ProcessState {
        let ids = |id| NsIds::new(vec![id]).expect("ids");
        let mut state = ProcessState::bare(ids(7));
        state.shared = pending(shared);
        state.threads = [7, 8].map(ids).map(ThreadState::bare).to_vec();
        for (thread, queue) in state.threads.iter_mut().zip(private) {
            thread.pending = pending(queue);
        }
        state
    }

    fn shared(queue: &[Siginfo]) -> ProcessState {
        process(queue, [&[], &[]])
    }

    #[test]
    fn what_has_arrived_may_stand_among_other_numbers() {
        let (alarm, first, second) = (sent(SigNo::ALRM, 0), sent(SigNo::CHLD, 1), sent(RT, 2));
        let dumped = shared(&[first, second]);
        let wanted = || shared(&[first, second, alarm]);
        let is_back = |found: &[Siginfo]| {
            let found = shared(found);
            compare(&read_back(&dumped, wanted(), &found), &found).is_empty()
        };
        assert!(is_back(&[first, second, alarm]));
        assert!(is_back(&[alarm, first, second]));
        // What was dumped has its order, and has not been sent a second time.
        assert!(!is_back(&[second, first, alarm]));
        assert!(!is_back(&[alarm, second]));
    }

    fn with_timer(entry: TimerEntry, remaining: u64) -> ProcessState {
        let timer = PosixTimer {
            entry,
            remaining,
            ..PosixTimer::bare(3, RT.get())
        };
        ProcessState {
            timers: vec![PosixTimer::bare(2, RT.get()), timer],
            ..shared(&[])
        }
    }

    fn differs(place: Place, field: Field) -> Difference {
        Difference {
            place,
            field,
            dumped: "one".to_owned(),
            found: "another".to_owned(),
            dispositions: None,
        }
    }

    fn report_of(findings: &[(Field, Done)]) -> Report {
        let mut report = report(Pid::new(7).expect("a pid"), &shared(&[]), Vec::new());
        let findings = findings.iter();
        report.findings = findings
            .map(|&(field, done)| (differs(Place::Process, field), done))
            .collect();
        report
    }

    #[test]
    fn the_worst_finding_is_the_verdict() {
        assert_eq!(report_of(&[]).verdict(), Verdict::Verified);
        let mut findings = Vec::new();
        for (done, verdict) in [
            (Done::PutBack, Verdict::Repaired),
            (Done::LeftAlone, Verdict::Differs),
            (Done::NotPutBack, Verdict::Failed),
        ] {
            findings.push((Field::Mask, done));
            assert_eq!(
                report_of(&findings[findings.len() - 1..]).verdict(),
                verdict
            );
            assert_eq!(report_of(&findings).verdict(), verdict);
        }
    }

    #[test]
    fn an_operation_that_failed_is_never_verified() {
        let mut report = report_of(&[]);
        report.errors.push(Error::new("look", Cause::Died));
        assert_eq!(report.verdict(), Verdict::Failed);
        let mut report = report_of(&[
            (Field::Mask, Done::NotPutBack),
            (Field::Mask, Done::PutBack),
        ]);
        assert_eq!(report.failures(), 1);
        for _ in 0..2 {
            report.errors.push(Error::new("look", Cause::Died));
        }
        assert_eq!(report.failures(), 3);
    }

    #[test]
    fn verdicts_have_the_words_that_programs_parse() {
        let words = [
            (Verdict::Verified, "verified"),
            (Verdict::Repaired, "repaired"),
            (Verdict::Differs, "differs"),
            (Verdict::Failed, "failed"),
        ];
        for (verdict, word) in words {
            assert_eq!(verdict.to_string(), word);
        }
    }

    #[test]
    fn signals_are_lacking_where_a_queue_is_not_as_dumped() {
        let lacks = |field, done, give_back_failed| {
            let mut report = report_of(&[(Field::Mask, Done::NotPutBack), (field, done)]);
            report.give_back_failed = give_back_failed;
            report.lacks_signals()
        };
        for field in [
            Field::ThreadMissing,
            Field::PrivateQueue,
            Field::PrivateBits,
            Field::SharedQueue,
            Field::SharedBits,
        ] {
            assert!(lacks(field, Done::NotPutBack, false), "{field:?}");
            assert!(!lacks(field, Done::PutBack, true), "{field:?}");
            // What the mode leaves alone is the dump's doing only if the dump had taken it out.
            assert!(!lacks(field, Done::LeftAlone, false), "{field:?}");
            assert!(lacks(field, Done::LeftAlone, true), "{field:?}");
        }
        assert!(!lacks(Field::RunState, Done::NotPutBack, true));
    }

    #[test]
    fn what_still_differs_was_not_put_back_and_what_differs_now_is_new() {
        let [of_process, of_leader, of_other] =
            [Place::Process, Place::Thread(7), Place::Thread(8)];
        let mask = |place| differs(place, Field::Mask);
        let stack = differs(of_leader, Field::AltStack);
        let before = vec![mask(of_leader), mask(of_other), stack.clone()];
        let left = [mask(of_other), mask(of_process), stack.clone()];
        let judged = judged(before, &left);
        assert_eq!(
            judged,
            [
                (mask(of_leader), Done::PutBack),
                (mask(of_other), Done::NotPutBack),
                (stack, Done::NotPutBack),
                (mask(of_process), Done::NotPutBack),
            ]
        );
    }

    #[test]
    fn the_stop_signal_that_criu_queues_counts_as_the_stop() {
        let stopped = ProcessState {
            run_state: RunState::Stopped(SigNo::TSTP),
            ..shared(&[sent(SigNo::USR1, 1)])
        };
        let looked = |mut found: ProcessState, dumped| {
            count_queued_stop(&mut found, dumped);
            found
        };
        let queued = shared(&[sent(SigNo::USR1, 1), sent(SigNo::TSTP, 0)]);
        assert_eq!(looked(queued.clone(), &stopped), stopped);
        // The process ran: the signal was sent since.
        let ran = shared(&[]);
        assert_eq!(looked(queued.clone(), &ran), queued);
        // The stop is there, so the signal is another one.
        let both = ProcessState {
            run_state: stopped.run_state,
            ..queued
        };
        assert_eq!(looked(both.clone(), &stopped), both);
    }

    #[test]
    fn an_entry_that_criu_has_queued_is_none_of_the_timers() {
        let looked = |found: TimerEntry, dumped: TimerEntry| {
            let mut found = with_timer(found, 0);
            distrust_entries(&mut found, &with_timer(dumped, 0));
            found.timers[1].entry
        };
        assert_eq!(
            looked(TimerEntry::Pending, TimerEntry::Pending),
            TimerEntry::Idle
        );
        // Expired since: only the timer itself can have queued that.
        assert_eq!(
            looked(TimerEntry::Pending, TimerEntry::Idle),
            TimerEntry::Pending
        );
    }

    #[test]
    fn a_copy_of_what_a_deleted_timer_has_left_is_not_that() {
        let deleted = |thread| DeletedTimer {
            id: 3,
            signo: RT,
            value: 0,
            thread,
        };
        let queue = [entry_of_timer(3), entry_of_timer(4), sent(RT, 0)];
        let looked = |thread| {
            let mut dumped = shared(&[]);
            dumped.deleted_timers = vec![deleted(thread)];
            let mut found = process(&queue, [&queue, &queue]);
            distrust_entries(&mut found, &dumped);
            found
        };
        assert_eq!(looked(None), process(&queue[1..], [&queue, &queue]));
        assert_eq!(looked(Some(8)), process(&queue, [&queue, &queue[1..]]));
    }

    #[test]
    fn a_timer_that_has_expired_since_may_have() {
        let timer = |dumped, found| wanted(&dumped, &found).timers[1];
        let pending = || with_timer(TimerEntry::Pending, 5);
        let idle = || with_timer(TimerEntry::Idle, 6);
        assert_eq!(timer(idle(), pending()), pending().timers[1]);
        assert_eq!(timer(pending(), idle()), pending().timers[1]);
        assert_eq!(
            timer(idle(), with_timer(TimerEntry::Idle, 7)),
            idle().timers[1]
        );
    }

    #[test]
    fn what_arrived_is_behind_what_was_dumped_in_the_same_queue() {
        let [a, b, c, x, y, z] = [1, 2, 3, 4, 5, 6].map(|value| sent(RT, value));
        let mut found = process(&[x], [&[y], &[z]]);
        found.threads.reverse();
        assert_eq!(
            wanted(&process(&[a], [&[b], &[c]]), &found),
            process(&[a, x], [&[b, y], &[c, z]])
        );
    }

    #[test]
    fn others_may_stop_and_continue_a_process_and_send_signals() {
        let kept = |before: &[SigNo], now: &[SigNo]| {
            let [before, now] = [before, now].map(|signals| {
                let queue: Vec<Siginfo> = signals.iter().map(|&signo| sent(signo, 0)).collect();
                shared(&queue)
            });
            let now = ProcessState {
                run_state: RunState::Stopped(SigNo::STOP),
                ..now
            };
            compare(&undisturbed(&before, &now), &now).is_empty()
        };
        use SigNo as S;
        assert!(kept(&[S::USR1], &[S::USR1, S::USR2]), "one has arrived");
        assert!(!kept(&[S::USR1, S::USR2], &[S::USR1]), "one is lost");
        assert!(kept(&[S::TSTP], &[S::CONT]), "SIGCONT removes stop signals");
        assert!(
            !kept(&[S::USR1], &[S::CONT]),
            "SIGCONT removes nothing else"
        );
        assert!(
            !kept(&[S::TSTP, S::CONT], &[S::CONT]),
            "SIGCONT was there before"
        );
        assert!(
            kept(&[S::CONT], &[S::TTIN]),
            "a stop signal removes SIGCONT"
        );
        assert!(
            !kept(&[S::USR1], &[S::TTIN]),
            "a stop signal removes nothing else"
        );
        assert!(!kept(&[S::CONT], &[]), "nothing has removed SIGCONT");
        assert!(
            !kept(&[S::TSTP], &[]),
            "nothing has removed the stop signal"
        );
        // Nobody can see the order among different numbers.
        assert!(kept(&[S::USR1, RT], &[RT, S::USR1]));
    }

    #[test]
    fn the_order_of_one_number_is_kept_in_every_queue() {
        let [a, b] = [1, 2].map(|value| sent(RT, value));
        let is_kept = |before: &ProcessState, now: &ProcessState| {
            compare(&undisturbed(before, now), now).is_empty()
        };
        let (ab, ba): (&[Siginfo], &[Siginfo]) = (&[a, b], &[b, a]);
        assert!(is_kept(&process(ab, [ab, ab]), &process(ab, [ab, ab])));
        assert!(!is_kept(&process(ab, [&[], &[]]), &process(ba, [&[], &[]])));
        assert!(!is_kept(&process(&[], [&[], ab]), &process(&[], [&[], ba])));
        let other = sent(SigNo::USR1, 0);
        let (first, last): (&[Siginfo], &[Siginfo]) = (&[other, a], &[a, other]);
        assert!(is_kept(
            &process(&[], [&[], first]),
            &process(&[], [&[], last])
        ));
    }

    #[test]
    fn arrivals_stand_among_older_entries_but_not_in_their_place() {
        let is_kept = |before: &[Siginfo], now: &[Siginfo]| {
            let shared = [before, now].map(|queue| process(queue, [&[], &[]]));
            let private = [before, now].map(|queue| process(&[], [&[], queue]));
            [shared, private]
                .map(|[before, now]| compare(&undisturbed(&before, &now), &now).is_empty())
        };
        let [a, b, new] = [1, 2, 3].map(|value| sent(RT, value));
        assert_eq!(is_kept(&[a, b], &[a, new, b]), [true, true]);
        // The kernel queues one entry of a number below 32.
        let [old, new] = [1, 2].map(|value| sent(SigNo::USR1, value));
        assert_eq!(is_kept(&[old], &[new]), [false, false]);
    }

    #[test]
    fn numbers_that_a_timer_uses_may_have_stayed() {
        let mut state = process(&[sent(SigNo::USR1, 0)], [&[], &[entry_of_timer(1)]]);
        assert_eq!(may_have_stayed(&state), RT.into());
        state.timers = vec![PosixTimer::bare(1, SigNo::USR2.get())];
        assert_eq!(may_have_stayed(&state), SigSet::from(RT).with(SigNo::USR2));
        let periodic = IntervalTimer {
            which: 0,
            interval: 1,
            remaining: 0,
        };
        state.interval_timers = vec![periodic];
        assert!(may_have_stayed(&state).contains(SigNo::ALRM));
    }
}
