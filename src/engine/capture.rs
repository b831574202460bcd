//! The whole signal state of one stopped process.

use criu_signals_images::{
    AltStack, Dispositions, Header, Image, InterruptedCall, IntervalTimer, Pending, ProcessState,
    SIGINFO_SIZE, SigNo, ThreadState, Tid, WaitStatus,
};
use nix::errno::Errno;

use super::told::{Told, ToldThread};
use crate::arch;
use crate::error::{Error, Phase, Result};
use crate::fault::{self, Point};
use crate::machine;
use crate::memory;
use crate::proc::{self, SignalStatus};
use crate::state::queues::is_fault;
use crate::state::{
    AlternateStack, GroupStop, InterruptedSystemCall, Kind, ParentDeathSignal, PendingLimit,
    PosixTimers, Queue, SignalDispositions, SignalMask, Site, exactly, in_handler, itimers,
};
use crate::tracee::{Budget, Call, Injector, Outcome, Remembered, StoppedProcess, ptrace};

/// Captures the signal state of `stopped`, and leaves the process as it was.
///
/// # Errors
/// If any state could not be read: the error has phase, pid, tid, operation and errno. There is no partial result.
pub fn process<Owner>(stopped: &StoppedProcess<Owner>) -> Result<ProcessState> {
    let known = Known::default();
    run(stopped, Phase::Capture, &Reading::Whole, known).map(|found| found.state)
}

/// As [`process`], but state that is in `told` is not read from the threads again.
///
/// # Errors
/// Those of [`process`].
pub fn told<Owner>(stopped: &StoppedProcess<Owner>, told: &Told) -> Result<ProcessState> {
    let known = Known {
        told: Some(told),
        read: None,
    };
    run(stopped, Phase::Capture, &Reading::Whole, known).map(|found| found.state)
}

/// What is known of a stopped process before it is captured.
#[derive(Clone, Copy, Default)]
pub(crate) struct Known<'k> {
    /// State that is in here is not read from the threads again.
    pub told: Option<&'k Told>,
    /// The process as BPF has read it during the same stop. Deep queues and the entries of timers are taken from here.
    pub read: Option<&'k ProcessState>,
}

/// As [`process`], with the further facts that a dump needs. `most`, if given: as for [`unless_deeper`].
pub(crate) fn dumped<Owner>(
    stopped: &StoppedProcess<Owner>,
    most: Option<usize>,
    known: Known<'_>,
) -> Result<(Found, Entries)> {
    let Some(most) = most else {
        let found = run(stopped, Phase::Capture, &Reading::Whole, known)?;
        return Ok((found, Entries::Known));
    };
    let mut found = run(stopped, Phase::Capture, &Reading::UpTo(most + 1), known)?;
    let is_shallow = |pending: &Pending| pending.queue.len() <= most;
    if found.state.queues().all(is_shallow)
        || known
            .read
            .is_some_and(|read| fill(&mut found.state, read, most))
    {
        return Ok((found, Entries::Known));
    }
    for pending in found.state.queues_mut() {
        pending.queue.clear();
    }
    Ok((found, Entries::Unread))
}

/// Takes the queues of more than `most` entries, of which `state` has the first entries, from the state that was `read`
/// before. Returns false if a queue begins with other entries: then another queue was read.
fn fill(state: &mut ProcessState, read: &ProcessState, most: usize) -> bool {
    let ids =
        |state: &ProcessState| -> Vec<Tid> { state.threads.iter().map(ThreadState::tid).collect() };
    if ids(state) != ids(read) {
        return false;
    }
    state
        .queues_mut()
        .zip(read.queues())
        .all(|(pending, read)| {
            if pending.queue.len() <= most {
                return true;
            }
            let is_it = read.queue.starts_with(&pending.queue);
            // Signals that have arrived since are in neither.
            *pending = read.clone();
            is_it
        })
}

/// What a capture has found.
pub(crate) struct Found {
    /// The signal state.
    pub state: ProcessState,
    /// Has the process a child that has ended and was not waited for? Also true if that is not known.
    pub has_zombies: bool,
}

/// What a captured state knows of the entries of queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entries {
    /// All entries are in the state.
    Known,
    /// No entry is in the state, because one of the queues is deep. The numbers of the pending signals are.
    Unread,
}

/// As [`process`], but a queue of more than `most` entries is not read whole.
///
/// # Errors
/// Those of [`process`].
pub fn unless_deeper<Owner>(
    stopped: &StoppedProcess<Owner>,
    most: usize,
) -> Result<(ProcessState, Entries)> {
    let known = Known::default();
    dumped(stopped, Some(most), known).map(|(found, entries)| (found.state, entries))
}

/// Reads the queues of at most `most` entries into `state`, whose queues are empty. Deeper queues stay empty.
///
/// # Errors
/// If a thread is gone.
pub fn shallow_queues<Owner>(
    stopped: &StoppedProcess<Owner>,
    state: &mut ProcessState,
    most: usize,
) -> Result<()> {
    let leader = stopped.leader();
    let read = |queue: Queue, tid, into: &mut Pending| {
        let entries = queue.peek(tid, 0, most + 1)?;
        if entries.len() <= most {
            into.queue = entries;
            into.bits = into.bits.union(into.queued());
        }
        Ok::<_, Error>(())
    };
    let mut inner = || {
        for thread in &mut state.threads {
            read(Queue::Private, thread.tid(), &mut thread.pending)?;
        }
        read(Queue::Shared, leader, &mut state.shared)
    };
    inner().map_err(|e| e.during(Phase::Capture, stopped.pid()))
}

/// Is an entry for a fault in the private queue of a thread? `state` has the bits; the queues of threads in which such a number is
/// pending are read whole.
///
/// # Errors
/// If a thread is gone.
pub fn has_fault<Owner>(stopped: &StoppedProcess<Owner>, state: &ProcessState) -> Result<bool> {
    for thread in &state.threads {
        if thread.pending.bits.iter().any(SigNo::is_synchronous) {
            let queue = Queue::Private
                .peek(thread.tid(), 0, usize::MAX)
                .map_err(|e| e.during(Phase::Capture, stopped.pid()))?;
            if queue.iter().any(is_fault) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// As [`process`], but at most `most` entries of each queue are read, so that a deep queue does not make the stop longer.
/// The second value is the number of entries of each queue, in the order of [`ProcessState::queues`].
///
/// # Errors
/// Those of [`process`].
pub fn at_most<Owner>(
    stopped: &StoppedProcess<Owner>,
    most: usize,
) -> Result<(ProcessState, Vec<usize>)> {
    let inner = || {
        let mut injector = Injector::new(stopped)?;
        let Found { state, .. } = capture(&mut injector, &Reading::UpTo(most), Known::default())?;
        let mut depth = |queue: Queue, tid, pending: &Pending| {
            if pending.queue.len() < most {
                return Ok(pending.queue.len());
            }
            let site = Site {
                injector: &mut injector,
                tid,
            };
            queue.depth(&site)
        };
        let mut depths = Vec::new();
        for thread in &state.threads {
            depths.push(depth(Queue::Private, thread.tid(), &thread.pending)?);
        }
        depths.push(depth(Queue::Shared, stopped.leader(), &state.shared)?);
        injector.finish()?;
        Ok((state, depths))
    };
    inner().map_err(|e: Error| e.during(Phase::Capture, stopped.pid()))
}

/// As [`process`], after `expected` was put back. Of a deep queue samples are compared: a queue that agrees in all of them
/// is taken for the expected one.
pub(crate) fn expecting<Owner>(
    stopped: &StoppedProcess<Owner>,
    phase: Phase,
    expected: &ProcessState,
) -> Result<ProcessState> {
    expecting_told(stopped, phase, expected, None)
}

/// As [`expecting`], but state that is in `told` is not read from the threads again.
pub(crate) fn expecting_told<Owner>(
    stopped: &StoppedProcess<Owner>,
    phase: Phase,
    expected: &ProcessState,
    told: Option<&Told>,
) -> Result<ProcessState> {
    let known = Known { told, read: None };
    run(stopped, phase, &Reading::Expecting(expected), known).map(|found| found.state)
}

/// How queues are read.
enum Reading<'e> {
    Whole,
    UpTo(usize),
    Expecting(&'e ProcessState),
}

impl Reading<'_> {
    /// At most this many entries of each queue.
    fn most(&self) -> usize {
        match self {
            Reading::Whole | Reading::Expecting(_) => usize::MAX,
            Reading::UpTo(most) => *most,
        }
    }

    /// `status` is that of the site's thread.
    fn read<Owner>(
        &self,
        queue: Queue,
        site: &Site<'_, '_, Owner>,
        status: &SignalStatus,
    ) -> Result<Pending> {
        let most = match self {
            Reading::Whole => usize::MAX,
            Reading::UpTo(most) => *most,
            Reading::Expecting(state) => {
                let thread = || {
                    state
                        .threads
                        .iter()
                        .find(|t| t.ids.innermost() == status.ids.innermost())
                };
                let expected = match queue {
                    Queue::Shared => Some(&state.shared),
                    Queue::Private => thread().map(|t| &t.pending),
                };
                match expected {
                    Some(expected) if queue.holds_with(status, site.tid, expected)? => {
                        return Ok(expected.clone());
                    }
                    _ => usize::MAX,
                }
            }
        };
        queue.read_with(status, site.tid, most)
    }
}

fn run<Owner>(
    stopped: &StoppedProcess<Owner>,
    phase: Phase,
    reading: &Reading<'_>,
    known: Known<'_>,
) -> Result<Found> {
    let _budget = Budget::of_process();
    let _registers = Remembered::begin();
    let inner = || {
        let mut injector = Injector::new(stopped)?;
        let found = capture(&mut injector, reading, known)?;
        injector.finish()?;
        Ok(found)
    };
    inner().map_err(|e: Error| e.during(phase, stopped.pid()))
}

fn capture<Owner>(
    injector: &mut Injector<'_, Owner>,
    reading: &Reading<'_>,
    Known { told, read }: Known<'_>,
) -> Result<Found> {
    let stopped = injector.process();
    let pid = stopped.pid();
    let leader = stopped.leader();

    // First all state that can be read from outside: after an injected call the mask in force and the saved mask cannot be
    // told apart, and a SIGSTOP that has just arrived has taken effect.
    let status = SignalStatus::read(pid, leader)?;
    memory::ensure_for(status.queued.min(reading.most() as u64))?;
    let mut site = Site {
        injector,
        tid: leader,
    };
    let run_state = GroupStop::capture(&mut site)?;
    let rlimit_sigpending = PendingLimit::capture(&mut site)?;
    let shared = reading.read(Queue::Shared, &site, &status)?;
    let threads = threads_from_outside(injector, &status, reading)?;
    fault::point(Point::CapturedOutside)?;
    let answers = told.and_then(|told| Some((told, known(told, &threads)?)));
    let (of_process, threads) = match answers {
        Some((told, known)) => inside_by(told, known, injector, &status, threads)?,
        None => ask(injector, &status, threads)?,
    };
    fault::point(Point::CapturedThreads)?;

    let mut state = ProcessState {
        pid_ns: proc::pid_namespace_by_ids(pid, &status.ids)?,
        ids: status.ids,
        comm: status.comm,
        exe: proc::executable_of_stopped(pid)?,
        compat: stopped.is_compat()?,
        rlimit_sigpending,
        queued: status.queued,
        dispositions: of_process.dispositions,
        run_state,
        wait_status: WaitStatus::Unknown,
        shared,
        exit_signal: proc::exit_signal_of_stopped(pid)?,
        stack_needs: Some(arch::stack_needs()),
        taken_out: Vec::new(),
        lent_limit: None,
        timers: Vec::new(),
        interval_timers: of_process.interval_timers,
        file_owners: Vec::new(),
        clocks: None,
        deleted_timers: Vec::new(),
        threads,
    };
    for thread in &mut state.threads {
        let registers = ptrace::registers(thread.tid()).map_err(|e| e.in_thread(thread.tid()))?;
        thread.in_handler =
            in_handler::find(thread, &state.dispositions, &registers, injector.memory());
    }
    let timers = read.map(|read| read.timers.as_slice());
    state.timers = PosixTimers::capture(injector, &state, timers)?;
    fault::point(Point::Captured)?;
    Ok(Found {
        state,
        has_zombies: of_process.has_zombies,
    })
}

fn threads_from_outside<Owner>(
    injector: &mut Injector<'_, Owner>,
    status: &SignalStatus,
    reading: &Reading<'_>,
) -> Result<Vec<Outside>> {
    let (pid, leader) = (injector.process().pid(), injector.process().leader());
    injector
        .process()
        .threads()
        .iter()
        .map(|&tid| {
            let site = &mut Site {
                injector: &mut *injector,
                tid,
            };
            let status = if tid == leader {
                Ok(status.clone())
            } else {
                SignalStatus::read(pid, tid)
            };
            status
                .and_then(|status| from_outside(site, status, reading))
                .map_err(|e| e.in_thread(tid))
        })
        .collect()
}

/// waitid(P_ALL, 0, info, WEXITED | WNOHANG | WNOWAIT | __WALL, NULL): answers for the children of all threads, which
/// /proc lists by thread, and uses nothing up.
fn look_for_zombies() -> Call {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    Call::new(libc::SYS_waitid, "waitid")
        .value(u64::from(libc::P_ALL))
        .value(0)
        .output(SIGINFO_SIZE)
        .value(u64::from(options.cast_unsigned()))
        .value(0)
}

/// `si_signo` is 0 if there is none (waitid(2)).
fn has_zombies(found: &Outcome) -> bool {
    match found.errno() {
        Some(errno) => errno != Errno::ECHILD,
        None => found.output.iter().take(4).any(|&byte| byte != 0),
    }
}

/// What is known of the process, by an injected call of its leader or from another reader.
struct OfProcess {
    dispositions: Dispositions,
    interval_timers: Vec<IntervalTimer>,
    has_zombies: bool,
}

/// Makes the calls for the process in the leader, whose status is `status`, and the calls `of_itself`, whose outcomes are
/// the second value. To visit a thread costs more than the calls there.
fn ask_leader<Owner>(
    injector: &mut Injector<'_, Owner>,
    status: &SignalStatus,
    of_itself: &[Call],
) -> Result<(OfProcess, Vec<Outcome>)> {
    let leader = injector.process().leader();
    let mut of_leader = SignalDispositions::read();
    let dispositions = of_leader.len();
    of_leader.extend(itimers::read());
    let zombies = of_leader.len();
    of_leader.push(look_for_zombies());
    let of_process = of_leader.len();
    of_leader.extend_from_slice(of_itself);
    let [outcomes] = exactly(injector.run_in_each([(leader, status)], &of_leader)?)?;
    let mut outcomes = outcomes;
    let leaders = outcomes.split_off(of_process);
    let has_zombies = outcomes.split_off(zombies).iter().any(has_zombies);
    let interval_timers = itimers::from_outcomes(&outcomes.split_off(dispositions))?;
    let found = OfProcess {
        dispositions: SignalDispositions::from_outcomes(&outcomes)?,
        interval_timers,
        has_zombies,
    };
    fault::point(Point::CapturedDispositions)?;
    Ok((found, leaders))
}

/// `status` is the leader's.
fn ask<Owner>(
    injector: &mut Injector<'_, Owner>,
    status: &SignalStatus,
    threads: Vec<Outside>,
) -> Result<(OfProcess, Vec<ThreadState>)> {
    let leader = injector.process().leader();
    let asked = [AlternateStack::read(), ParentDeathSignal::read()];
    let (of_process, leaders) = ask_leader(injector, status, &asked)?;
    let mut leaders = Some(leaders);
    let others = threads.iter().filter(|thread| thread.tid != leader);
    let others = others.map(|thread| (thread.tid, &thread.status));
    let mut answers = injector.run_in_each(others, &asked)?.into_iter();
    let threads = threads
        .into_iter()
        .map(|thread| {
            let tid = thread.tid;
            let answers = if tid == leader {
                leaders.take()
            } else {
                answers.next()
            };
            thread
                .and_inside(answers.unwrap_or_default())
                .map_err(|e| e.in_thread(tid))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok((of_process, threads))
}

/// What is known of each thread; `None` if nothing is known of one of them.
fn known<'t>(told: &'t Told, threads: &[Outside]) -> Option<Vec<&'t ToldThread>> {
    let threads = threads.iter();
    threads.map(|one| told.threads.get(&one.tid)).collect()
}

/// As [`ask`], if the answers of all threads are `known`. Only the leader makes calls, for the answers that are not known.
fn inside_by<Owner>(
    told: &Told,
    known: Vec<&ToldThread>,
    injector: &mut Injector<'_, Owner>,
    status: &SignalStatus,
    threads: Vec<Outside>,
) -> Result<(OfProcess, Vec<ThreadState>)> {
    let threads = threads
        .into_iter()
        .zip(known)
        .map(|(thread, known)| {
            let tid = thread.tid;
            thread.and_told(known).map_err(|e| e.in_thread(tid))
        })
        .collect::<Result<Vec<_>>>()?;
    let of_process = match told.of_process() {
        Some(dispositions) => OfProcess {
            dispositions: dispositions.clone(),
            interval_timers: Vec::new(),
            has_zombies: false,
        },
        None => ask_leader(injector, status, &[])?.0,
    };
    Ok((of_process, threads))
}

/// The state of one thread that is read without a call in the thread.
struct Outside {
    tid: Tid,
    status: SignalStatus,
    saved_mask: Option<criu_signals_images::SigSet>,
    pending: Pending,
    interrupted: Option<InterruptedCall>,
}

impl Outside {
    /// With what the thread itself has answered.
    fn and_inside(self, answers: Vec<Outcome>) -> Result<ThreadState> {
        let [altstack, parent_death_signal] = exactly(answers)?;
        let altstack = AlternateStack::from_outcome(&altstack)?;
        let parent_death_signal = ParentDeathSignal::from_outcome(&parent_death_signal)?;
        Ok(self.with(altstack, parent_death_signal))
    }

    /// With what the thread would answer.
    fn and_told(self, told: &ToldThread) -> Result<ThreadState> {
        let altstack = told.altstack(ptrace::registers(self.tid)?.sp());
        Ok(self.with(altstack, told.parent_death))
    }

    fn with(self, altstack: AltStack, parent_death_signal: Option<SigNo>) -> ThreadState {
        ThreadState {
            ids: self.status.ids,
            blocked: self.status.blocked,
            saved_mask: self.saved_mask,
            altstack,
            pending: self.pending,
            interrupted: self.interrupted,
            parent_death_signal,
            in_handler: None,
        }
    }
}

fn from_outside<Owner>(
    site: &mut Site<'_, '_, Owner>,
    status: SignalStatus,
    reading: &Reading<'_>,
) -> Result<Outside> {
    let mask = SignalMask::capture(site)?;
    let pending = reading.read(Queue::Private, site, &status)?;
    let interrupted = InterruptedSystemCall::capture(site)?;
    Ok(Outside {
        tid: site.tid,
        saved_mask: (mask != status.blocked).then_some(mask),
        status,
        pending,
        interrupted,
    })
}

/// Captures a process, as an image to be written.
///
/// # Errors
/// Those of [`process`].
pub fn image<Owner>(stopped: &StoppedProcess<Owner>) -> Result<Image> {
    with_header(process(stopped)?)
}

/// Makes an image of what was captured.
///
/// # Errors
/// If uname(2) fails, which it does not.
pub fn with_header(mut process: ProcessState) -> Result<Image> {
    // Signals queued before a change of uid are charged to the old uid.
    process.queued = process.queued.max(process.siginfos());
    let header = Header {
        format_version: process.format_version(),
        arch: arch::ARCH,
        kernel_release: machine::kernel_release()?,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        criu_version: None,
    };
    Ok(Image { header, process })
}
