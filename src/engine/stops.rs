//! Group stops, as the process and its parent see them.
//!
//! A stop consists of the group stop itself ([`GroupStop`](crate::state::GroupStop)), the status that the parent's
//! wait(2) reports once, and the SIGCHLD for the parent. CRIU dumps the group stop and recreates all three, so the
//! parent of a restored process would be notified a second time. This module corrects the status and the SIGCHLD in the
//! parent, which the same tracer has stopped. CRIU hands over parents before their children, so this module does not
//! touch signals that the check of the parent has found in its queue.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use criu_signals_images::{
    Fields, Pending, Pid, ProcessState, RunState, SIGINFO_SIZE, SigNo, SigSet, Siginfo, Tid,
    WaitStatus,
};
use nix::errno::Errno;
use nix::unistd::getsid;

use crate::error::{Cause, Error, Phase, Result};
use crate::fault::{self, Point};
use crate::proc::{self, SignalStatus};
use crate::process::pidfd::PidFd;
use crate::state::queues::{drop_one, take_one};
use crate::state::{Queue, Site};
use crate::tracee::{ByHost, ByUs, Call, Injector, StoppedProcess, ptrace};

/// How long a stopped process may take to trap, or to stop again. The process has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(2);

/// A process that was stopped before CRIU seized it.
///
/// CRIU handles only a stop by SIGSTOP or SIGTSTP. If SIGSTOP or SIGTSTP is pending as well, CRIU releases the process once
/// for each, and the kernel dequeues the pending signal with the lowest number, which is lost then: that can be a SIGUSR1
/// instead of the SIGTSTP (skip_sigstop, compel/src/lib/infect.c). A process of either kind is put into a plain stop by
/// SIGSTOP, without pending stop signals, before CRIU looks at it.
#[derive(Debug)]
pub struct Before {
    /// The pid may belong to another process before CRIU seizes the process, and after a failed dump.
    held: PidFd,
    signal: SigNo,
    changed_over: bool,
    /// Every stop signal that was pending, for any thread. SIGSTOP is among them after a dump that left the process
    /// running: CRIU sends a SIGSTOP when it detaches.
    pending: SigSet,
    shared: Vec<Taken>,
    private: Vec<(Tid, Vec<Taken>)>,
}

/// A pending stop signal, and how many entries stood before it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Taken {
    place: usize,
    info: Siginfo,
}

impl Before {
    /// Looks at process `pid`, which has no tracer. If the process is stopped in a way that CRIU can't handle, it is put
    /// into a plain stop by SIGSTOP, without a notification of its parent; [`Before::turn_back`] undoes that. `None` if the
    /// process is not stopped.
    ///
    /// # Errors
    /// If the process could not be read, or not put into the other stop. The process stays stopped.
    pub fn look(pid: Pid) -> Result<Option<Before>> {
        Before::look_inner(pid).map_err(|e| e.during(Phase::Seize, pid))
    }

    fn look_inner(pid: Pid) -> Result<Option<Before>> {
        if !proc::is_stopped(pid, Tid::from(pid))? {
            return Ok(None);
        }
        if proc::is_frozen(pid)? {
            return Err(Error::new(
                "read the stop",
                Cause::Unsupported("a cgroup v1 freezer holds the process".into()),
            ));
        }
        let stopped = StoppedProcess::<ByUs>::seize(pid, PATIENCE)?.assume_calls();
        // The process is seized, so its pid stays its own.
        let held = PidFd::open(pid)?;
        let Some(signal) = stopped.trapped_for(stopped.leader())? else {
            // Continued meanwhile.
            stopped.release()?;
            return Ok(None);
        };
        let before = Before::read(&stopped, held, signal)?;
        fault::point(Point::StopRead)?;
        if before.changed_over {
            let changed = stop_plainly(&stopped).and_then(|()| fault::point(Point::StopChanged));
            if let Err(e) = changed {
                before.change_back(&stopped)?;
                return Err(e);
            }
        }
        let threads = stopped.threads().to_vec();
        // The process is released all the same, and what has to be undone must be known.
        if let Err(e) = stopped.release() {
            log::warn!("{e}");
        }
        // If CRIU seized the process before it has stopped, the process would trap once and not twice, and CRIU waits for
        // the second trap.
        if !proc::wait_stopped(pid, &threads, Instant::now() + PATIENCE)? {
            log::info!("pid {pid}: was stopped by {signal}, and has been continued");
            return Ok(None);
        }
        Ok(Some(before))
    }

    fn read(stopped: &StoppedProcess<ByUs>, held: PidFd, signal: SigNo) -> Result<Before> {
        let pid = stopped.pid();
        let mut shared = Vec::new();
        let mut private = Vec::new();
        let mut pending = SigSet::EMPTY;
        let mut open = false;
        for &tid in stopped.threads() {
            let status = SignalStatus::read(pid, tid)?;
            pending = pending.union(status.pending).union(status.shared_pending);
            open |= !status.open_stops().is_empty();
            let taken = pending_stops(tid, false, status.pending)?;
            if !taken.is_empty() {
                private.push((tid, taken));
            }
            if tid == stopped.leader() {
                shared = pending_stops(tid, true, status.shared_pending)?;
            }
        }
        Ok(Before {
            held,
            signal,
            changed_over: open || !matches!(signal, SigNo::STOP | SigNo::TSTP),
            pending: stop_signals(pending),
            shared,
            private,
        })
    }

    /// Adds what has been found at a later look: between the two, the process may have been sent more stop signals, or
    /// been continued and stopped again.
    pub fn looked_again(&mut self, later: Before) {
        if later.signal != self.signal_now() || self.check().is_err() {
            *self = later;
            return;
        }
        self.changed_over |= later.changed_over;
        self.pending = self.pending.union(later.pending);
        self.shared.extend(later.shared);
        self.private.extend(later.private);
    }

    /// # Errors
    /// [`Cause::Died`] if the process that was looked at is gone: its number may be another's.
    pub fn check(&self) -> Result<()> {
        self.held.check()
    }

    /// For messages: the signal that the process was stopped by, if it had to be put into another stop.
    pub fn changed_over(&self) -> Option<SigNo> {
        self.changed_over.then_some(self.signal)
    }

    /// Is the process, which CRIU has seized, still in the same stop? To be asked before any code is injected.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn still<Owner>(&self, stopped: &StoppedProcess<Owner>) -> Result<bool> {
        let leader = stopped.leader();
        if let Some(signal) = stopped.trapped_for(leader)? {
            return Ok(signal == self.signal_now());
        }
        // A stop signal that was sent after the look: CRIU leaves the process about to act upon it. The stop is in effect
        // all the same; otherwise the SIGCONT would have removed that signal.
        Ok(stopped
            .about_to_stop(leader)?
            .is_some_and(|signal| self.pending.contains(signal)))
    }

    /// Adds what the capture of the process, which CRIU has seized, does not show any more.
    pub fn complete(&self, state: &mut ProcessState) {
        state.run_state = RunState::Stopped(self.signal);
        put_in(&mut state.shared, &self.shared);
        for (tid, taken) in &self.private {
            if let Some(thread) = state.threads.iter_mut().find(|t| t.tid() == *tid) {
                put_in(&mut thread.pending, taken);
            }
        }
    }

    /// Puts the process, if it is still stopped, back into its earlier stop, with the pending stop signals that were used
    /// up. The process is seized by CRIU or has no tracer.
    ///
    /// # Errors
    /// If it could not be done. The process is stopped all the same.
    pub fn turn_back(&self) -> Result<()> {
        if !self.changed_over {
            return Ok(());
        }
        let pid = self.held.pid();
        let inner = || {
            self.check()?;
            if let Some(stopped) = StoppedProcess::<ByHost>::if_of_host(pid)? {
                return self.change_back(&stopped);
            }
            let stopped = StoppedProcess::<ByUs>::seize_held(&self.held, PATIENCE)?.assume_calls();
            let done = self.change_back(&stopped);
            stopped.release()?;
            done
        };
        inner().map_err(|e| e.during(Phase::Release, pid))
    }

    fn change_back<Owner>(&self, stopped: &StoppedProcess<Owner>) -> Result<()> {
        fault::point(Point::StopTurning)?;
        if stopped.trap_again(stopped.leader())? != Some(SigNo::STOP) {
            // Continued meanwhile.
            return Ok(());
        }
        if !stopped.change_group_stop(self.signal)? {
            // The process and its parent could not see a difference.
            log::debug!(
                "pid {}: stays stopped by SIGSTOP instead of {}",
                stopped.pid(),
                self.signal
            );
        }
        self.queue_again(stopped)
    }

    /// The process is stopped and remains stopped. The stop signals come behind all other pending signals, which cannot be
    /// observed, since signals are dequeued by their numbers (next_signal).
    fn queue_again<Owner>(&self, stopped: &StoppedProcess<Owner>) -> Result<()> {
        let shared = (!self.shared.is_empty()).then_some((stopped.leader(), &self.shared));
        let private = self.private.iter().map(|(tid, taken)| (*tid, taken));
        let places = shared.map(|(tid, taken)| (Queue::Shared, tid, taken));
        let places = places
            .into_iter()
            .chain(private.map(|(tid, taken)| (Queue::Private, tid, taken)))
            .filter(|(_, tid, _)| stopped.threads().contains(tid));
        let mut injector = None;
        for (queue, tid, taken) in places {
            let status = SignalStatus::read(stopped.pid(), tid)?;
            let pending = match queue {
                Queue::Shared => status.shared_pending,
                Queue::Private => status.pending,
            };
            // A signal that is not open was left in the queue.
            let missing: Vec<Siginfo> = taken
                .iter()
                .map(|taken| taken.info)
                .filter(|info| SigNo::new(info.signo()).is_some_and(|s| !pending.contains(s)))
                .collect();
            if missing.is_empty() {
                continue;
            }
            let injector = match &mut injector {
                Some(injector) => injector,
                none => none.insert(Injector::new(stopped)?),
            };
            queue.queue(&mut Site { injector, tid }, &status.ids, &missing)?;
        }
        injector.map_or(Ok(()), Injector::finish)
    }

    fn signal_now(&self) -> SigNo {
        if self.changed_over {
            SigNo::STOP
        } else {
            self.signal
        }
    }
}

/// The stop signals among `signals`.
pub(crate) fn stop_signals(signals: SigSet) -> SigSet {
    signals.iter().filter(|signo| signo.is_stop()).collect()
}

/// Removes the stop signal that CRIU has sent to a stopped process at the detach (compel_resume_task_sig): the stop signal
/// once more, or SIGSTOP. `own` are the stop signals that were pending for the process before. The process stays in the
/// same stop, and its parent is not notified.
///
/// Nothing is done if the process has been continued, because SIGCONT has removed that signal. Returns the removed signals.
///
/// # Errors
/// If it could not be done. The process is stopped all the same.
pub(crate) fn take_out_of_released(held: &PidFd, own: SigSet) -> Result<SigSet> {
    let inner = || {
        let stopped = StoppedProcess::<ByUs>::seize_held(held, PATIENCE)?.assume_calls();
        let done = take_out_sent(&stopped, own);
        stopped.release()?;
        done
    };
    inner().map_err(|e| e.during(Phase::Release, held.pid()))
}

fn take_out_sent(stopped: &StoppedProcess<ByUs>, own: SigSet) -> Result<SigSet> {
    let leader = stopped.leader();
    let Some(signal) = stopped.trapped_for(leader)? else {
        return Ok(SigSet::EMPTY);
    };
    let pending = SignalStatus::read(stopped.pid(), leader)?.shared_pending;
    let sent = stop_signals(pending).difference(own);
    let mut injector = Injector::new(stopped)?;
    for signo in sent.iter() {
        if signo == SigNo::STOP {
            // The thread acts upon that signal first when it is released, before any call: the process enters the stop
            // anew.
            let call = Call::new(libc::SYS_getpid, "getpid");
            for outcome in injector.run(leader, &[call])? {
                outcome.check()?;
            }
            continue;
        }
        let tid = stopped.thread_without(Some(signo))?;
        for outcome in injector.run(tid, &[drop_one(signo)])? {
            outcome.check()?;
        }
    }
    injector.finish()?;
    if sent.contains(SigNo::STOP) {
        stopped.join_group_stop(Some(SigNo::STOP))?;
        if signal != SigNo::STOP && !stopped.change_group_stop(signal)? {
            log::debug!(
                "pid {}: stays stopped by SIGSTOP instead of {signal}",
                stopped.pid()
            );
        }
    }
    Ok(sent)
}

/// Changes the stop of a process to a stop by SIGSTOP, and uses up the other stop signals that the process would act upon
/// next. Those have no effect on a stopped process: it leaves the stop only by SIGCONT, which removes them
/// (prepare_signal).
///
/// SIGSTOP takes effect when the process is released for the first injected call, and is the only signal that the process
/// takes then: see [`Injector`], which also allows the tracer to die at any instant.
fn stop_plainly(stopped: &StoppedProcess<ByUs>) -> Result<()> {
    let pid = stopped.pid();
    let leader = stopped.leader();
    let mut open = false;
    for &tid in stopped.threads() {
        open |= !SignalStatus::read(pid, tid)?.open_stops().is_empty();
    }
    if !open && stopped.change_group_stop(SigNo::STOP)? {
        return Ok(());
    }
    let mut injector = Injector::new(stopped)?;
    ptrace::tgkill(pid, leader, SigNo::STOP)?;
    for &tid in stopped.threads() {
        let status = SignalStatus::read(pid, tid)?;
        let open = status.open_stops().without(SigNo::STOP);
        // Each number once in either queue.
        let calls: Vec<Call> = open
            .iter()
            .flat_map(|signo| [signo; 2])
            .map(drop_one)
            .chain((tid == leader).then(|| Call::new(libc::SYS_getpid, "getpid")))
            .collect();
        for outcome in injector.run(tid, &calls)? {
            if outcome.errno() != Some(Errno::EAGAIN) {
                outcome.check()?;
            }
        }
    }
    injector.finish()?;
    stopped.join_group_stop(Some(SigNo::STOP))?;
    for &tid in stopped.threads() {
        if stopped.trapped_for(tid)? != Some(SigNo::STOP) {
            return Err(Error::new(
                "stop by SIGSTOP",
                Cause::Unexpected("SIGSTOP did not stop the thread".into()),
            )
            .in_thread(tid));
        }
    }
    Ok(())
}

/// The stop signals of a queue, without SIGSTOP, which takes effect whenever the process is released, even for an injected
/// call, and has no effect on a stopped process.
fn pending_stops(tid: Tid, shared: bool, bits: SigSet) -> Result<Vec<Taken>> {
    let is_stop = |signo: &SigNo| signo.is_stop() && *signo != SigNo::STOP;
    if !bits.iter().any(|signo| is_stop(&signo)) {
        return Ok(Vec::new());
    }
    let queue = ptrace::peek(tid, shared, 0, usize::MAX)?;
    Ok(queue
        .into_iter()
        .enumerate()
        .filter(|(_, info)| SigNo::new(info.signo()).is_some_and(|s| is_stop(&s)))
        .map(|(place, info)| Taken { place, info })
        .collect())
}

fn put_in(pending: &mut Pending, taken: &[Taken]) {
    for Taken { place, info } in taken {
        if let Some(signo) = SigNo::new(info.signo())
            && !pending.bits.contains(signo)
        {
            pending.bits.insert(signo);
            pending
                .queue
                .insert((*place).min(pending.queue.len()), *info);
        }
    }
}

/// A SIGSTOP that was pending at the capture took effect during the capture, since SIGSTOP cannot be blocked. So the
/// process is stopped. Its parent was not notified, and is notified when the stop is entered again.
fn count_arrived_stop(state: &mut ProcessState) -> bool {
    let mut arrived = false;
    for pending in state.queues_mut() {
        if pending.bits.contains(SigNo::STOP) {
            arrived = true;
            pending.bits.remove(SigNo::STOP);
            pending
                .queue
                .retain(|info| info.signo() != SigNo::STOP.get());
        }
    }
    // SIGSTOP has no effect on a process that was stopped already.
    let stops = arrived && state.run_state == RunState::Running;
    if stops {
        state.run_state = RunState::Stopped(SigNo::STOP);
        state.wait_status = WaitStatus::Unknown;
    }
    stops
}

/// What parents can still learn of their children. One visit to a parent answers for all of its children.
#[derive(Debug, Default)]
pub struct WaitStatuses {
    known: HashMap<Pid, WaitStatus>,
}

impl WaitStatuses {
    /// Adds to the capture of a process the status that its parent can still wait for, and counts a SIGSTOP that has
    /// arrived since some event, which the log names.
    ///
    /// # Errors
    /// If the parent could not be asked.
    pub fn complete(&mut self, state: &mut ProcessState, since: &str) -> Result<()> {
        let pid = state.pid();
        state.wait_status = self.status(pid)?;
        if count_arrived_stop(state) {
            log::info!("pid {pid}: a SIGSTOP has arrived since {since} and has taken effect");
        }
        Ok(())
    }

    /// The status of process `child`. Unknown if its parent is not stopped by the calling thread.
    fn status(&mut self, child: Pid) -> Result<WaitStatus> {
        if let Some(status) = self.known.get(&child) {
            return Ok(*status);
        }
        let Some(parent) = Parent::find(child)? else {
            return Ok(WaitStatus::Unknown);
        };
        let mut children = proc::children(parent.stopped.pid())?;
        if !children.contains(&child) {
            children.push(child);
        }
        let statuses = parent.statuses(&children)?;
        fault::point(Point::WaitStatusRead)?;
        self.known.extend(children.into_iter().zip(statuses));
        Ok(self.known.get(&child).copied().unwrap_or_default())
    }
}

/// A parent that is stopped by the calling thread, as its child's.
struct Parent {
    stopped: StoppedProcess<ByHost>,
    /// How many pid namespaces its own is below ours.
    depth: usize,
}

impl Parent {
    /// `None` if the calling thread has not stopped the process: then it is not dumped or restored.
    fn find(child: Pid) -> Result<Option<Parent>> {
        let Some(pid) = proc::parent(child)? else {
            return Ok(None);
        };
        let Some(stopped) = StoppedProcess::<ByHost>::if_of_host(pid)? else {
            return Ok(None);
        };
        let ids = SignalStatus::read(pid, Tid::from(pid))?.ids;
        Ok(Some(Parent {
            stopped,
            depth: ids.as_slice().len() - 1,
        }))
    }

    /// `child`'s id as the parent sees it.
    fn id_of(&self, child: Pid) -> Result<i32> {
        if self.depth == 0 {
            return Ok(child.get());
        }
        let ids = SignalStatus::read(child, Tid::from(child))?.ids;
        ids.as_slice().get(self.depth).copied().ok_or_else(|| {
            Error::new(
                "read NSpid",
                Cause::Unexpected(format!("{ids} is not below its parent's namespace")),
            )
        })
    }

    /// Reads the statuses without using them up.
    fn statuses(&self, children: &[Pid]) -> Result<Vec<WaitStatus>> {
        let options = libc::WSTOPPED | libc::WCONTINUED | libc::WNOWAIT;
        self.wait(children, options)
    }

    /// waitid(P_PID, child, info, options | WNOHANG | __WALL, NULL), made by the parent for each.
    fn wait(&self, children: &[Pid], options: i32) -> Result<Vec<WaitStatus>> {
        let options = options | libc::WNOHANG | libc::__WALL;
        let calls = children
            .iter()
            .map(|&child| {
                let id = self.id_of(child)?;
                Ok(Call::new(libc::SYS_waitid, format!("waitid({id})"))
                    .value(u64::from(libc::P_PID))
                    .value(u64::from(id.cast_unsigned()))
                    .output(SIGINFO_SIZE)
                    .value(u64::from(options.cast_unsigned()))
                    .value(0))
            })
            .collect::<Result<Vec<Call>>>()?;
        let outcomes = self.run(self.stopped.leader(), &calls)?;
        outcomes
            .iter()
            .map(|outcome| match outcome.errno() {
                // A zombie, whose status is not wanted here.
                Some(Errno::ECHILD) => Ok(WaitStatus::Nothing),
                _ => {
                    outcome.check()?;
                    Ok(wait_status(&siginfo(&outcome.output)?))
                }
            })
            .collect()
    }

    fn run(&self, tid: Tid, calls: &[Call]) -> Result<Vec<crate::tracee::Outcome>> {
        let mut injector = Injector::new(&self.stopped)?;
        let outcomes = injector.run(tid, calls)?;
        injector.finish()?;
        Ok(outcomes)
    }

    fn has_chld(&self) -> Result<bool> {
        let status = SignalStatus::read(self.stopped.pid(), self.stopped.leader())?;
        Ok(status.shared_pending.contains(SigNo::CHLD))
    }

    /// Uses up every status of the child's last stop or continuation but `wanted`. `had_chld`: a SIGCHLD was pending
    /// before, so the kernel queued no other.
    fn settle(&self, child: Pid, wanted: WaitStatus, had_chld: bool) -> Result<()> {
        if wanted == WaitStatus::Nothing {
            // Not wait4, which would also take the status of a child that has been killed.
            self.wait(&[child], libc::WSTOPPED)?;
        }
        if !had_chld {
            self.take_chld(self.id_of(child)?)?;
        }
        let found = self.statuses(&[child])?;
        if found == [wanted] {
            return Ok(());
        }
        Err(Error::new(
            "put back the status for wait(2)",
            Cause::NotKept(format!(
                "wait(2) in pid {} would report {}, not {wanted}",
                self.stopped.pid(),
                found.first().copied().unwrap_or_default()
            )),
        ))
    }

    /// Removes the SIGCHLD about that child from the shared queue, if it is there.
    fn take_chld(&self, child: i32) -> Result<()> {
        let leader = self.stopped.leader();
        if !self.has_chld()? {
            return Ok(());
        }
        let about = |info: &Siginfo| is_about_stop(info, child);
        if !ptrace::peek(leader, true, 0, usize::MAX)?.iter().any(about) {
            return Ok(());
        }
        // A thread takes from its own queue first.
        let mut clear = None;
        for &tid in self.stopped.threads() {
            let private = SignalStatus::read(self.stopped.pid(), tid)?.pending;
            if !private.contains(SigNo::CHLD) {
                clear = Some(tid);
                break;
            }
        }
        let tid = clear.ok_or_else(|| {
            Error::new(
                "take out the SIGCHLD of the stop",
                Cause::Unsupported(
                    "every thread of the parent has a private SIGCHLD pending".into(),
                ),
            )
        })?;
        for outcome in self.run(tid, &[take_one(SigNo::CHLD)])? {
            outcome.check()?;
            let info = siginfo(&outcome.output)?;
            if !about(&info) {
                // Another process has just sent the signal to the thread itself.
                let ids = SignalStatus::read(self.stopped.pid(), tid)?.ids;
                let mut injector = Injector::new(&self.stopped)?;
                let mut site = Site {
                    injector: &mut injector,
                    tid,
                };
                Queue::Private.queue(&mut site, &ids, &[info])?;
                injector.finish()?;
                return Err(Error::new(
                    "take out the SIGCHLD of the stop",
                    Cause::Unexpected(format!("another signal was removed: {info}")),
                ));
            }
        }
        Ok(())
    }
}

fn siginfo(bytes: &[u8]) -> Result<Siginfo> {
    bytes
        .try_into()
        .map(Siginfo::from_bytes)
        .map_err(|_| Error::new("waitid", Cause::Unexpected("not a siginfo".into())))
}

/// What waitid(2) has filled in: zeros if there was no status.
fn wait_status(info: &Siginfo) -> WaitStatus {
    match (info.code(), info.fields()) {
        (libc::CLD_STOPPED, Fields::Child { status, .. }) => {
            SigNo::new(status).map_or(WaitStatus::Nothing, WaitStatus::Stopped)
        }
        (libc::CLD_CONTINUED, _) => WaitStatus::Continued,
        _ => WaitStatus::Nothing,
    }
}

fn is_about_stop(info: &Siginfo, child: i32) -> bool {
    let stop = matches!(info.code(), libc::CLD_STOPPED | libc::CLD_CONTINUED);
    info.signo() == libc::SIGCHLD
        && stop
        && matches!(info.fields(), Fields::Child { pid, .. } if pid == child)
}

/// The pending stop signal that CRIU, and not the program, has queued to stop the process: SIGSTOP if the stop was changed
/// for the dump. CRIU's signal is lost if the program's own is pending.
pub fn queued_by_criu(dumped: &ProcessState, pending: SigSet) -> Option<SigNo> {
    let RunState::Stopped(signal) = dumped.run_state else {
        return None;
    };
    [signal, SigNo::STOP]
        .into_iter()
        .find(|&s| pending.contains(s) && !dumped.shared.bits.contains(s))
}

/// Stops a restored process as it was stopped at the dump, and leaves the parent in its state: a status that was waited for
/// already is used up, and the new SIGCHLD of the stop is removed, because the parent has received it before the dump or
/// has it pending. A process that was continued, and whose parent has not been notified, is stopped and continued.
///
/// To be called before any code is injected into the process. Other pending signals, masks and dispositions do not matter.
/// Returns the errors.
pub fn enter<Owner>(stopped: &StoppedProcess<Owner>, dumped: &ProcessState) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut note = |result: Result<()>| {
        errors.extend(result.err().map(|e| e.during(Phase::Replay, stopped.pid())));
    };
    let stop = match (dumped.run_state, dumped.wait_status) {
        (RunState::Stopped(signal), _) => Some(signal),
        (RunState::Running, WaitStatus::Continued) => None,
        (RunState::Running, _) => return errors,
    };
    if stop.is_none() && has_sigstop(stopped) {
        // criu restore --leave-stopped: the status would not outlive the stop.
        return errors;
    }
    if let Err(e) = fault::point(Point::StopEntering) {
        note(Err(e));
        return errors;
    }
    let child = stopped.pid();
    let parent = match (dumped.wait_status, Parent::find(child)) {
        (WaitStatus::Unknown, _) | (_, Ok(None)) => None,
        (_, Ok(Some(parent))) => match parent.has_chld() {
            Ok(had_chld) => Some((parent, had_chld)),
            Err(e) => {
                note(Err(e));
                None
            }
        },
        (_, Err(e)) => {
            note(Err(e));
            None
        }
    };
    if stop.is_some() && dies_with_us(child) {
        log::warn!(
            "pid {child}: stopped, a child of this criu and in criu's session: if criu exits first (restore --detach), \
             the process group is orphaned with a stopped member, and the kernel sends SIGHUP and SIGCONT to the \
             group. Restore without --detach, or with --restore-sibling"
        );
    }
    note(match stop {
        Some(signal) => stop_by(stopped, dumped, signal),
        None => stopped.stop_and_continue(),
    });
    if let Some((parent, had_chld)) = parent {
        note(parent.settle(child, dumped.wait_status, had_chld));
    }
    note(fault::point(Point::StopEntered));
    errors
}

/// Will the end of this program orphan the process group of `child` (reparent_leader and kill_orphaned_pgrp,
/// kernel/exit.c)? Only a parent in the same session keeps a group from being orphaned.
fn dies_with_us(child: Pid) -> bool {
    let session = |pid: i32| getsid(Some(nix::unistd::Pid::from_raw(pid))).ok();
    let us = Pid::own();
    proc::parent(child).is_ok_and(|parent| parent == Some(us))
        && session(child.get()).is_some()
        && session(child.get()) == session(0)
}

fn has_sigstop<Owner>(stopped: &StoppedProcess<Owner>) -> bool {
    SignalStatus::read(stopped.pid(), stopped.leader())
        .is_ok_and(|status| status.shared_pending.contains(SigNo::STOP))
}

fn stop_by<Owner>(
    stopped: &StoppedProcess<Owner>,
    dumped: &ProcessState,
    signal: SigNo,
) -> Result<()> {
    let status = SignalStatus::read(stopped.pid(), stopped.leader())?;
    let queued = queued_by_criu(dumped, status.shared_pending);
    // The parent gets the status of the first stop, a tracer sees that of the last stop. The two differ if a tracer has let
    // a stopped process act upon another stop signal.
    match dumped.wait_status {
        WaitStatus::Stopped(first) if first != signal => {
            stopped.enter_group_stop(first, queued)?;
            stopped.enter_group_stop(signal, None)
        }
        _ => stopped.enter_group_stop(signal, queued),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(code: i32, pid: i32, status: i32) -> Siginfo {
        let fields = Fields::Child {
            pid,
            uid: 0,
            status,
            utime: 0,
            stime: 0,
        };
        Siginfo::from_fields(libc::SIGCHLD, 0, code, &fields)
    }

    fn kill(signo: SigNo, pid: i32) -> Siginfo {
        Siginfo::from_fields(signo.get(), 0, 0, &Fields::Kill { pid, uid: 0 })
    }

    #[test]
    fn what_waitid_says() {
        let nothing = Siginfo::from_bytes([0; SIGINFO_SIZE]);
        assert_eq!(wait_status(&nothing), WaitStatus::Nothing);
        let stopped = child(libc::CLD_STOPPED, 7, libc::SIGTTOU);
        assert_eq!(wait_status(&stopped), WaitStatus::Stopped(SigNo::TTOU));
        let continued = child(libc::CLD_CONTINUED, 7, libc::SIGCONT);
        assert_eq!(wait_status(&continued), WaitStatus::Continued);
    }

    #[test]
    fn whose_sigchld() {
        assert!(is_about_stop(&child(libc::CLD_STOPPED, 7, 19), 7));
        assert!(is_about_stop(&child(libc::CLD_CONTINUED, 7, 18), 7));
        assert!(!is_about_stop(&child(libc::CLD_STOPPED, 8, 19), 7));
        assert!(!is_about_stop(&child(libc::CLD_EXITED, 7, 0), 7));
        assert!(!is_about_stop(&kill(SigNo::CHLD, 7), 7));
    }

    #[test]
    fn criu_has_queued_what_the_program_has_not() {
        let (stop, tstp, ttin) = (SigNo::STOP, SigNo::TSTP, SigNo::TTIN);
        let mut dumped = stopped_by(tstp);
        let pending = |signo| SigSet::EMPTY.with(signo);
        assert_eq!(queued_by_criu(&dumped, pending(tstp)), Some(tstp));
        assert_eq!(queued_by_criu(&dumped, SigSet::EMPTY), None);
        // The program's own signal, which has displaced CRIU's.
        dumped.shared.bits.insert(tstp);
        assert_eq!(queued_by_criu(&dumped, pending(tstp)), None);
        let dumped = stopped_by(ttin);
        assert_eq!(queued_by_criu(&dumped, pending(stop)), Some(stop));
        assert_eq!(queued_by_criu(&dumped, pending(tstp)), None);
    }

    #[test]
    fn a_sigstop_that_arrives_stops() {
        let mut state = stopped_by(SigNo::TSTP);
        state.wait_status = WaitStatus::Nothing;
        let mut running = ProcessState {
            run_state: RunState::Running,
            ..state.clone()
        };
        assert!(!count_arrived_stop(&mut running));
        assert_eq!(running.run_state, RunState::Running);
        let arrived = Pending {
            bits: SigSet::EMPTY.with(SigNo::STOP),
            queue: vec![kill(SigNo::STOP, 9)],
        };
        running.shared = arrived.clone();
        assert!(count_arrived_stop(&mut running));
        assert_eq!(running.run_state, RunState::Stopped(SigNo::STOP));
        assert_eq!(running.wait_status, WaitStatus::Unknown);
        assert_eq!(running.shared, Pending::default());
        state.shared = arrived;
        assert!(!count_arrived_stop(&mut state));
        assert_eq!(state.run_state, RunState::Stopped(SigNo::TSTP));
        assert_eq!(state.wait_status, WaitStatus::Nothing);
        assert_eq!(state.shared, Pending::default());
    }

    fn stopped_by(signo: SigNo) -> ProcessState {
        ProcessState {
            run_state: RunState::Stopped(signo),
            ..ProcessState::bare(criu_signals_images::NsIds::new(vec![7]).unwrap())
        }
    }

    #[test]
    fn what_criu_took_goes_back_to_its_place() {
        let taken = Taken {
            place: 1,
            info: kill(SigNo::TSTP, 9),
        };
        let (usr1, usr2) = (kill(SigNo::USR1, 9), kill(SigNo::USR2, 9));
        let mut pending = Pending {
            bits: SigSet::EMPTY.with(SigNo::USR1).with(SigNo::USR2),
            queue: vec![usr1, usr2],
        };
        put_in(&mut pending, std::slice::from_ref(&taken));
        assert_eq!(pending.queue, [usr1, taken.info, usr2]);
        assert!(pending.bits.contains(SigNo::TSTP));
        // Still there: CRIU takes only signals that are not blocked.
        put_in(&mut pending, std::slice::from_ref(&taken));
        assert_eq!(pending.queue.len(), 3);
    }
}
