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

/// How long a stopped process may take to trap, or to stop again. It has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(2);

/// A process that was stopped before CRIU seized it.
///
/// CRIU knows no stop but that by SIGSTOP and SIGTSTP. And where SIGSTOP or SIGTSTP is pending as well, it lets the
/// process go once for each, so that the kernel hands over whatever is pending, lowest number first, and what is
/// handed over is gone: a SIGUSR1 as well as the SIGTSTP that was meant (skip_sigstop, compel/src/lib/infect.c). A
/// process of either kind is put into a plain stop by SIGSTOP, without stop signals pending, before CRIU looks.
#[derive(Debug)]
pub struct Before {
    /// Its number may be another's before CRIU seizes it, and when the dump has failed.
    held: PidFd,
    signal: SigNo,
    changed_over: bool,
    /// Every stop signal that was pending, for whichever thread. SIGSTOP is among them after a dump that left the
    /// process running: CRIU sends one as it lets go.
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
    /// Looks at process `pid`, which nobody traces. If it is stopped in a way that CRIU can't handle, it is put into a
    /// plain stop by SIGSTOP, of which nobody is told; [`Before::turn_back`] takes that back. `None` if it is not
    /// stopped.
    ///
    /// # Errors
    /// If it could not be looked at or changed over. It stays stopped.
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
        // It is seized, so that its number is its own.
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
        // They are let go all the same, and what there is to turn back must be known.
        if let Err(e) = stopped.release() {
            log::warn!("{e}");
        }
        // Seized before it stands still, it would trap once and not twice, and CRIU waits for the second.
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

    /// What to tell people: the signal that it was stopped by, where it had to be put into another stop.
    pub fn changed_over(&self) -> Option<SigNo> {
        self.changed_over.then_some(self.signal)
    }

    /// Is the process, which CRIU has seized, still in the stop that it was in? To be asked before anything is
    /// injected.
    ///
    /// # Errors
    /// If it is gone.
    pub fn still<Owner>(&self, stopped: &StoppedProcess<Owner>) -> Result<bool> {
        let leader = stopped.leader();
        if let Some(signal) = stopped.trapped_for(leader)? {
            return Ok(signal == self.signal_now());
        }
        // One that was sent when it had been looked at: CRIU leaves the process about to act upon it. The stop is in
        // effect all the same, or the SIGCONT would have taken that signal away.
        Ok(stopped
            .about_to_stop(leader)?
            .is_some_and(|signal| self.pending.contains(signal)))
    }

    /// What the capture of the process, seized by CRIU, does not show any more.
    pub fn complete(&self, state: &mut ProcessState) {
        state.run_state = RunState::Stopped(self.signal);
        put_in(&mut state.shared, &self.shared);
        for (tid, taken) in &self.private {
            if let Some(thread) = state.threads.iter_mut().find(|t| t.tid() == *tid) {
                put_in(&mut thread.pending, taken);
            }
        }
    }

    /// Puts the process, if it is still stopped, back into the stop that it was in, with the stop signals pending that
    /// were used up. It may be seized by CRIU or by nobody.
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
            // Nothing that the process or its parent could see.
            log::debug!(
                "pid {}: stays stopped by SIGSTOP instead of {}",
                stopped.pid(),
                self.signal
            );
        }
        self.queue_again(stopped)
    }

    /// The process is stopped and remains so: they come behind all else that is pending, where nobody can tell, since
    /// signals are taken by their numbers (next_signal).
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
            // One that is not open was left in.
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

/// Takes out of a stopped process what CRIU has sent it as it let it go (compel_resume_task_sig): its stop signal once
/// more, or SIGSTOP. `own` are the stop signals that were pending for the process before that. It stays stopped as it
/// was, and its parent is told nothing.
///
/// Nothing is done if the process has been continued, because SIGCONT has taken that signal away. Returns what was
/// taken out.
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
            // It is what the thread acts upon first when it is let go, whatever the call: the process enters the stop
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

/// Changes a stopped process over to a stop by SIGSTOP, and uses up what other stop signals it would act upon next.
/// They mean nothing to it: the only way out of the stop is SIGCONT, which takes them away (prepare_signal).
///
/// SIGSTOP takes effect when the process is let go for the first injected call, and is the one signal that it takes
/// then: see [`Injector`], which also sees to it that the tracer may die at any instant.
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

/// The stop signals of a queue. Not SIGSTOP: it takes effect whenever the process is let go, even for an injected
/// call, and means nothing to one that is stopped.
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

/// A SIGSTOP that was pending when the process was captured has taken effect in the course of that, since nothing can
/// block it. So the process is stopped; its parent has not heard of it, and is told when the stop is entered again.
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
    // It means nothing to a process that was stopped already.
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
    /// Completes the capture of a process by what its parent can still learn of it, and counts a SIGSTOP that has come
    /// since some event, which the log names.
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

    /// The status of process `child`; not known if its parent is not stopped by the calling thread.
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
    /// How many pid namespaces down from ours its own is.
    depth: usize,
}

impl Parent {
    /// `None` if it is stopped by somebody else or not at all: it is not among what is dumped or restored.
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

    /// Asks for them without using them up.
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
                // A zombie, which nobody asks for here.
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

    /// Leaves of what the child has just done no more than `wanted`. `had_chld`: a SIGCHLD was pending before that,
    /// so that no other was queued.
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

    /// Takes the SIGCHLD about that child out of the shared queue, if it is there.
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
                // Somebody has just sent it to the thread itself.
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

/// What waitid(2) has filled in; nothing but zeros where there was nothing.
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

/// The stop signal among those pending that CRIU has queued to stop the process, and not the program: SIGSTOP where
/// the process was changed over for the dump. CRIU's is lost where the program's is pending.
pub fn queued_by_criu(dumped: &ProcessState, pending: SigSet) -> Option<SigNo> {
    let RunState::Stopped(signal) = dumped.run_state else {
        return None;
    };
    [signal, SigNo::STOP]
        .into_iter()
        .find(|&s| pending.contains(s) && !dumped.shared.bits.contains(s))
}

/// Stops a restored process as it was stopped, and leaves its parent what it had: a status that was waited for
/// already is used up, and the SIGCHLD of the stop, which the parent has got or has pending from before the dump, is
/// taken out. A process that was continued, and whose parent has not heard of it, is stopped and continued.
///
/// Before anything is injected into the process. What other signals are pending, with which masks and dispositions,
/// does not matter. Returns what failed.
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
    // The status for the parent is the first stop's, what a tracer sees the last one's. They differ where a tracer
    // has let a stopped process act upon another stop signal.
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
        // The program's own, which has displaced CRIU's.
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
        // Still there: CRIU takes only what is not blocked.
        put_in(&mut pending, std::slice::from_ref(&taken));
        assert_eq!(pending.queue.len(), 3);
    }
}
