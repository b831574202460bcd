//! Stopped processes as types: every operation that needs a stopped thread takes such a type, and only processes that
//! this crate has stopped can be released by this crate.

use std::cell::OnceCell;
use std::collections::{BTreeSet, VecDeque};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criu_signals_images::{Pid, Tid};
use nix::errno::Errno;

use super::alarm::Alarm;
use super::bound::{Bound, PATIENCE};
use super::cave;
use super::left_behind;
use super::memory::Memory;
use super::obstacles;
use super::ptrace::{self, Resume, Stop};
use super::reentry::{EndedCall, SeenCalls};
use super::shield::{LostMask, loses_mask};
use crate::error::{Cause, Error, Phase, Result};
use crate::fault::{self, Point};
use crate::proc::{self, Uninterruptible};
use crate::process::pidfd::PidFd;

/// Stopped and seized by the program that this library runs in: CRIU, around a plugin's hook. It must be found
/// again as it was left, and cannot be detached.
#[derive(Debug)]
pub enum ByHost {}

/// Stopped and seized by this library. Let go when dropped.
#[derive(Debug)]
pub enum ByUs {}

/// And how long at least, where the caller gives less time for the stopping.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// How long to wait for one thread before the other threads are checked: this time, or a fraction of the time waited so
/// far.
const SLICE: Duration = Duration::from_millis(5);
const SLICE_PART: u32 = 8;

/// The fraction of the timeout to wait for a thread in vfork(2). Such a thread stops when its child has called
/// execve(2) or has ended, which is mostly at once, but may take as long as the child runs.
const VFORK_PART: u32 = 5;

/// How long threads that are to be let go again may take to stop. Only one in uninterruptible sleep takes any time.
const SHIELD_TIME: Duration = Duration::from_millis(100);

/// How long a command waits before it tries again to seize a process that another one of this project's has.
const BETWEEN_TRIES: Duration = Duration::from_millis(2);
/// How often a command tries if no tracer of the process is visible: mostly the command lacks the right to trace the
/// process.
const UNSEEN: u32 = 20;

/// How long execve(2) may take to end the other threads.
const EXEC_TIME: Duration = Duration::from_millis(100);

/// A process all of whose threads are ptrace-stopped by the calling thread.
#[derive(Debug)]
pub struct StoppedProcess<Owner> {
    pid: Pid,
    /// The leader first.
    threads: Vec<Tid>,
    /// How long a stop of a thread that works inside the process is waited for.
    patience: Duration,
    memory: OnceCell<Memory>,
    owned: bool,
    /// Calls that this library's own stop has ended.
    ended_calls: Vec<EndedCall>,
    /// See [`assume_calls`](Self::assume_calls).
    assumes_calls: bool,
    owner: PhantomData<Owner>,
}

impl<Owner> StoppedProcess<Owner> {
    /// How long a stop of one of its threads is waited for while that works for this program.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Makes system calls also where the kernel can't say whether Syscall User Dispatch would turn them into SIGSYS, as CRIU
    /// does in every thread. For a process that CRIU seizes as well: whatever its calls would do to the process, CRIU's do.
    #[must_use]
    pub fn assume_calls(mut self) -> Self {
        self.assumes_calls = true;
        self
    }

    pub(super) fn assumes_calls(&self) -> bool {
        self.assumes_calls
    }

    /// A thread whose system calls Syscall User Dispatch (prctl(2)) may turn into SIGSYS, if there is one.
    ///
    /// # Errors
    /// If a thread is gone.
    pub fn dispatched(&self) -> Result<Option<Tid>> {
        for &tid in &self.threads {
            if obstacles::is_dispatched(tid).map_err(|e| e.in_thread(tid))? {
                return Ok(Some(tid));
            }
        }
        Ok(None)
    }

    /// Its memory, as it is mapped while it is stopped.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn memory(&self) -> Result<&Memory> {
        if let Some(memory) = self.memory.get() {
            return Ok(memory);
        }
        let memory = Memory::open_of(self.pid, &self.threads)?;
        Ok(self.memory.get_or_init(|| memory))
    }

    /// Its thread-group id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its threads, the leader first.
    pub fn threads(&self) -> &[Tid] {
        &self.threads
    }

    /// What the stop alone loses: as soon as the threads go on, or make calls, the masks of the system calls that they wait in are
    /// gone (`restore_saved_sigmask`).
    ///
    /// # Errors
    /// Those of ptrace(2) and of `/proc/PID/task/TID/status`.
    pub fn lost_masks(&self) -> Result<Vec<LostMask>> {
        let mut lost = Vec::new();
        for &tid in self.threads() {
            let of_thread = ptrace::registers(tid)
                .and_then(|registers| loses_mask(self.pid(), tid, &registers))
                .map_err(|e| e.in_thread(tid))?;
            lost.extend(of_thread);
        }
        Ok(lost)
    }

    /// The calls that this library's own stop has ended with EINTR all the same: each was logged.
    pub fn ended_calls(&self) -> &[EndedCall] {
        &self.ended_calls
    }

    /// Does it run 32-bit code?
    ///
    /// # Errors
    /// If the leader is gone.
    pub fn is_compat(&self) -> Result<bool> {
        Ok(ptrace::registers(self.leader())?.is_compat())
    }

    /// The leader.
    pub fn leader(&self) -> Tid {
        Tid::from(self.pid)
    }
}

impl StoppedProcess<ByHost> {
    /// Takes over the process `pid`, whose threads the caller's program has seized and stopped.
    ///
    /// # Errors
    /// [`Cause::Died`] if a thread is not stopped by the calling thread, or is gone: the kernel says the same of both.
    /// Whatever else keeps the threads from being looked at.
    pub fn of_host(pid: Pid) -> Result<Self> {
        let not_ours =
            |tid| Error::new("thread is not stopped by this tracer", Cause::Died).in_thread(tid);
        let registers = |tid| match ptrace::registers(tid) {
            Err(e) if e.is_died() => Err(not_ours(tid)),
            found => found.map_err(|e| e.in_thread(tid)),
        };
        let leader = Tid::from(pid);
        registers(leader)?;
        let mut threads = vec![leader];
        for tid in proc::listed(pid)?.into_iter().filter(|&tid| tid != leader) {
            let found = registers(tid);
            // What the kernel runs for the program stands at 0 (copy_thread, arch/x86/kernel/process.c). So `stat`, which
            // costs as much as all else here, has to be read of few threads.
            let in_program = matches!(&found, Ok(registers) if registers.ip() != 0);
            if in_program || !proc::is_worker(pid, tid) {
                found?;
                threads.push(tid);
            }
        }
        Ok(StoppedProcess {
            pid,
            threads,
            patience: PATIENCE,
            memory: OnceCell::new(),
            owned: false,
            ended_calls: Vec::new(),
            assumes_calls: true,
            owner: PhantomData,
        })
    }

    /// As [`of_host`](Self::of_host), where the process may be somebody else's, or running, or gone: `None` then.
    ///
    /// # Errors
    /// Whatever keeps the threads from being looked at.
    pub fn if_of_host(pid: Pid) -> Result<Option<Self>> {
        match Self::of_host(pid) {
            Ok(stopped) => Ok(Some(stopped)),
            Err(e) if e.is_died() => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl StoppedProcess<ByHost> {
    /// The process does not outlive this tracer from here on, until it is let go. CRIU has set PTRACE_O_TRACESYSGOOD,
    /// and PTRACE_O_SUSPEND_SECCOMP where there is a filter (attach_to_tasks, criu/cr-restore.c); nobody can ask.
    ///
    /// # Errors
    /// If a thread is gone.
    pub fn end_with_tracer(&self) -> Result<()> {
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        self.threads.iter().try_for_each(|&tid| {
            // Needs CAP_SYS_ADMIN, and CRIU's own did where there is a filter.
            ptrace::set_options(tid, options | libc::PTRACE_O_SUSPEND_SECCOMP)
                .or_else(|_| ptrace::set_options(tid, options))
        })
    }
}

impl StoppedProcess<ByUs> {
    /// Seizes every thread of `pid` and stops it. No signal is sent, nobody's wait(2) sees anything, a stopped
    /// process stays stopped, and no system call ends with EINTR because of it.
    ///
    /// # Errors
    /// EPERM where ptrace(2) is not allowed or somebody traces the process already, ETIMEDOUT if a thread does
    /// not stop within `timeout` (uninterruptible sleep). The threads stopped until then go on. One that has not
    /// stopped stays seized until the calling thread ends. Another process of this project's that has the process is waited for.
    pub fn seize(pid: Pid, timeout: Duration) -> Result<Self> {
        let deadline = Instant::now() + timeout;
        // A tracer may have let the process go since the kernel said EPERM, and the next one as well.
        let mut unseen = 0;
        loop {
            let stopping = StoppingProcess::begin(pid, deadline);
            let seized =
                stopping.and_then(|stopping| stopping.wait(deadline).map_err(|late| late.why));
            match seized {
                Err(e) if matches!(e.cause(), Cause::Os(Errno::EPERM)) => match other_tracer(pid) {
                    Other::Ours if Instant::now() < deadline => {
                        unseen = 0;
                        std::thread::sleep(BETWEEN_TRIES);
                    }
                    Other::Nobody if unseen < UNSEEN && Instant::now() < deadline => {
                        unseen += 1;
                        std::thread::sleep(BETWEEN_TRIES);
                    }
                    _ => return Err(e),
                },
                done => return done,
            }
        }
    }

    /// As [`seize`](Self::seize), but this process and no other: its number may have become another's before it was stopped,
    /// which then goes on.
    ///
    /// # Errors
    /// Those of [`seize`](Self::seize); [`Cause::Died`] if the process is gone.
    pub fn seize_held(held: &PidFd, timeout: Duration) -> Result<Self> {
        held.check()?;
        let stopped = Self::seize(held.pid(), timeout)?;
        // A process that is seized keeps its number, also if it is killed: so whose it is now it was.
        match held.check() {
            Ok(()) => Ok(stopped),
            Err(e) => {
                stopped.release()?;
                Err(e)
            }
        }
    }

    /// Threads that a dead tracer has left in its code are not themselves. False: they are on their way back into the
    /// program, if they are let go. Those of a stopped process are taken there, as they would not get there by themselves.
    fn is_itself(&self) -> Result<bool> {
        let memory = self.memory()?;
        let threads = self.threads.iter();
        let at = threads.map(|&tid| Ok((tid, ptrace::registers(tid)?.ip())));
        let at: Vec<_> = at.collect::<Result<_>>()?;
        let left = cave::in_stubs(memory, &at)?;
        if !left.is_empty() && self.trapped_for(self.leader())?.is_none() {
            return Ok(false);
        }
        left_behind::bring_back(memory, &left).map(|()| true)
    }

    /// Lets all threads go on as they were found.
    ///
    /// # Errors
    /// The first thread that could not be detached; the others are detached all the same.
    pub fn release(mut self) -> Result<()> {
        self.detach_all()
    }

    fn detach_all(&mut self) -> Result<()> {
        let mut first = fault::point(Point::Releasing);
        let mut dead = Vec::new();
        for tid in std::mem::take(&mut self.threads) {
            match ptrace::detach(tid) {
                Ok(()) => {}
                Err(e) if e.is_died() => dead.push(tid),
                Err(e) if first.is_ok() => first = Err(e.during(Phase::Release, self.pid)),
                Err(_) => {}
            }
        }
        // The leader last: it is reported when the others are.
        dead.iter().rev().for_each(|&tid| ptrace::note_end(tid));
        first
    }
}

/// A process whose threads have been seized and told to stop, and may not have done so yet: what a freezer of cgroup v1
/// holds stops when it is thawed, before it executes anything.
#[derive(Debug)]
pub struct StoppingProcess {
    /// The threads that are seized.
    process: StoppedProcess<ByUs>,
    /// Those of them that are not known to have stopped. The one that was told first is the first.
    due: VecDeque<Tid>,
    /// Ids that have been seen, of threads that have ended, too.
    known: BTreeSet<i32>,
    /// What was seen of the threads before they were seized.
    seen: SeenCalls,
    /// Those that could not be let go because they were ending, and whose end has not been heard of.
    ending: Vec<Tid>,
    /// When it was told to stop.
    begun: Instant,
    /// Until when a thread in vfork(2) is waited for.
    vfork_deadline: Instant,
    /// Could seccomp not be suspended?
    exposed: bool,
    /// What it has to be, if that is more than a number.
    held: Option<Arc<PidFd>>,
}

/// A process that has not stopped, and why not.
#[derive(Debug)]
pub struct Unfinished {
    /// It is still to stop, and may be waited for again.
    pub stopping: StoppingProcess,
    /// Why it was not waited for any longer.
    pub why: Error,
}

impl StoppingProcess {
    /// Seizes every thread of `pid` and tells it to stop.
    ///
    /// # Errors
    /// EPERM where ptrace(2) is not allowed or somebody traces the process already; ETIMEDOUT if one can't be seized until
    /// `deadline` because another one is in execve(2).
    pub fn begin(pid: Pid, deadline: Instant) -> Result<Self> {
        // PTRACE_SEIZE would wait until it is thawed (JOBCTL_TRAPPING, ptrace_attach), and nothing but SIGKILL end that.
        while proc::is_stopped_and_held(pid) {
            if Instant::now() >= deadline {
                return Err(Error::os(
                    "PTRACE_SEIZE (the process is stopped, and a freezer of cgroup v1 holds it)",
                    Errno::ETIMEDOUT,
                )
                .during(Phase::Seize, pid));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let begun = Instant::now();
        let time = deadline.saturating_duration_since(begun);
        let mut stopping = StoppingProcess {
            process: StoppedProcess {
                pid,
                threads: Vec::new(),
                patience: time.clamp(LEAST_PATIENCE, PATIENCE),
                memory: OnceCell::new(),
                owned: true,
                ended_calls: Vec::new(),
                assumes_calls: false,
                owner: PhantomData,
            },
            due: VecDeque::new(),
            known: BTreeSet::new(),
            seen: SeenCalls::default(),
            ending: Vec::new(),
            begun,
            vfork_deadline: begun + time / VFORK_PART,
            exposed: false,
            held: None,
        };
        let mut seized = stopping.seize_new(deadline).map(drop);
        // Its leader has ended for a moment while another thread is in execve(2).
        while let Err(e) = &seized
            && e.is_died()
            && begun.elapsed() < EXEC_TIME
            && Instant::now() < deadline
            && proc::is_alive(pid)
        {
            seized = stopping.begin_again(deadline);
        }
        seized.map_err(|e| without_leader(pid, e).during(Phase::Seize, pid))?;
        Ok(stopping)
    }

    /// As [`begin`](Self::begin), but this process and no other: see [`StoppedProcess::seize_held`].
    ///
    /// # Errors
    /// Those of [`begin`](Self::begin); [`Cause::Died`] if the process is gone, which [`wait`](Self::wait) says as well.
    pub fn begin_held(held: &Arc<PidFd>, deadline: Instant) -> Result<Self> {
        held.check()?;
        let mut stopping = Self::begin(held.pid(), deadline)?;
        // It may be let go before it has stopped, and be seized by its number once more: it is asked at the end.
        stopping.held = Some(Arc::clone(held));
        Ok(stopping)
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        self.process.pid
    }

    /// Waits until all threads have stopped, and does no more: for whoever stops many processes at once, each of which is
    /// then to be waited for by [`wait`](Self::wait).
    ///
    /// # Errors
    /// As that one's.
    pub fn meet(&mut self, deadline: Instant) -> Result<()> {
        self.stop_all(deadline)
            .map_err(|e| e.during(Phase::Seize, self.process.pid))
    }

    /// Waits until all threads have stopped, those too that are made meanwhile.
    ///
    /// # Errors
    /// ETIMEDOUT if one does not until `deadline`, and what [`StoppedProcess::seize`] says.
    pub fn wait(
        mut self,
        deadline: Instant,
    ) -> std::result::Result<StoppedProcess<ByUs>, Box<Unfinished>> {
        let pid = self.process.pid;
        let begun = Instant::now();
        loop {
            match self.settle(deadline) {
                Ok(true) => return self.finish(),
                Ok(false) => {}
                // execve(2) gives the leader's id to the thread that calls it, and ends all others.
                Err(e) if e.is_died() && begun.elapsed() < EXEC_TIME && proc::is_alive(pid) => {}
                Err(e) => {
                    return Err(Box::new(Unfinished {
                        stopping: self,
                        why: without_leader(pid, e).during(Phase::Seize, pid),
                    }));
                }
            }
            if let Err(e) = self.begin_again(deadline) {
                return Err(Box::new(Unfinished {
                    stopping: self,
                    why: e.during(Phase::Seize, pid),
                }));
            }
        }
    }

    fn finish(self) -> std::result::Result<StoppedProcess<ByUs>, Box<Unfinished>> {
        match self.held.as_ref().map_or(Ok(()), |held| held.check()) {
            Ok(()) => Ok(self.process),
            // All of it has stopped, and is let go with this.
            Err(why) => Err(Box::new(Unfinished {
                why: why.during(Phase::Seize, self.process.pid),
                stopping: self,
            })),
        }
    }

    /// False: it cannot be worked on just now.
    fn settle(&mut self, deadline: Instant) -> Result<bool> {
        self.stop_all(deadline)?;
        if self.exposed {
            refuse_seccomp(&self.process)?;
        }
        self.wait_until_thawed(deadline)?;
        if !self.process.is_itself()? {
            return Ok(false);
        }
        fault::point(Point::Seized)?;
        Ok(true)
    }

    /// With cgroup v2 a frozen process stops for a tracer, and that is all it does.
    fn wait_until_thawed(&self, deadline: Instant) -> Result<()> {
        while proc::is_held(self.process.pid) {
            if Instant::now() >= deadline {
                return Err(Error::os(
                    "wait until the process is thawed (its cgroup is frozen, and nothing can run in it; `dump \
                     --cgroup` thaws the cgroup for the dump)",
                    Errno::ETIMEDOUT,
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Its last tracer has died a moment ago, and a thread still undoes what was done in it; or another program has
    /// begun to run in it.
    fn begin_again(&mut self, deadline: Instant) -> Result<()> {
        for tid in std::mem::take(&mut self.process.threads) {
            match ptrace::detach(tid) {
                Err(e) if e.is_died() => self.ending.push(tid),
                other => other?,
            }
        }
        // Another program may run in it from now on.
        self.process.memory.take();
        self.due.clear();
        self.known.clear();
        self.bury(None);
        if Instant::now() >= deadline {
            return Err(Error::os(
                "wait until a dead tracer's work is undone",
                Errno::ETIMEDOUT,
            ));
        }
        std::thread::sleep(Duration::from_micros(200));
        self.seize_new(deadline).map(drop)
    }

    /// Threads that run may clone others, so until a whole pass finds nobody new.
    fn stop_all(&mut self, deadline: Instant) -> Result<()> {
        let pid = self.process.pid;
        loop {
            while let Some(&tid) = self.due.front() {
                let now = Instant::now();
                let slice = SLICE.max(now.duration_since(self.begun) / SLICE_PART);
                let slice = deadline.min(now + slice);
                let stopped = stop_thread(tid, slice)
                    // At once: until then the death of this tracer would end some calls with EINTR.
                    .and_then(|()| self.keep_call(tid));
                match stopped {
                    Ok(()) => {
                        self.due.pop_front();
                    }
                    // A thread may end between being listed and being stopped; the leader may not.
                    Err(e) if e.is_died() && tid.get() != pid.get() => {
                        ptrace::reap(tid);
                        self.forget(tid);
                        self.look_at_leader();
                    }
                    Err(e) if is_timeout(&e) && slice < deadline && !self.waits_for_child(tid) => {
                        self.bury(Some(tid));
                        // A thread that was seized while it was in execve(2) has been seen to run on.
                        match ptrace::interrupt(tid) {
                            Err(e) if e.is_died() => {}
                            other => other?,
                        }
                        // The others have stopped perhaps, and are shielded before this one is waited for again.
                        if self.due.front() == Some(&tid) {
                            self.due.rotate_left(1);
                        }
                    }
                    Err(e) if is_timeout(&e) => return Err(why_it_runs(pid, tid, e)),
                    Err(e) => return Err(e),
                }
            }
            if !self.seize_new(deadline)? {
                return if self.process.threads.is_empty() {
                    Err(Error::new("seize", Cause::Died))
                } else {
                    Ok(())
                };
            }
        }
    }

    /// Is it a thread in vfork(2) that has been waited for long enough?
    fn waits_for_child(&self, tid: Tid) -> bool {
        Instant::now() >= self.vfork_deadline && proc::is_in_vfork(self.process.pid, tid)
    }

    /// Of a thread that has stopped.
    fn keep_call(&mut self, tid: Tid) -> Result<()> {
        let pid = self.process.pid;
        if let Some(call) = self.seen.keep(pid, tid)? {
            log::warn!("pid {pid} tid {tid}: {call}: the stop may have ended the call with EINTR");
            self.process.ended_calls.push(call);
        }
        Ok(())
    }

    fn forget(&mut self, tid: Tid) {
        self.process.threads.retain(|&seized| seized != tid);
        self.due.retain(|&seized| seized != tid);
        self.ending.retain(|&seized| seized != tid);
    }

    /// Before threads are let go that were seized and not waited for. Only a thread that has stopped can be let go, and the stop
    /// ends some calls with EINTR.
    fn shield_due(&mut self) {
        let pid = self.process.pid;
        let deadline = Instant::now() + SHIELD_TIME;
        let due = std::mem::take(&mut self.due);
        let told: Vec<Result<()>> = due.iter().map(|&tid| tell(tid)).collect();
        for (tid, told) in due.into_iter().zip(told) {
            let shielded = told
                .and_then(|()| stop_thread(tid, deadline))
                .and_then(|()| self.keep_call(tid));
            if let Err(e) = shielded
                && !e.is_died()
            {
                log::debug!("{}", e.in_thread(tid).during(Phase::Release, pid));
            }
        }
    }

    /// A thread in execve(2) waits until all others are gone, and those that are traced are gone when their tracer has
    /// heard of it (de_thread, fs/exec.c).
    fn bury(&mut self, but: Option<Tid>) {
        let leader = self.process.leader();
        let seized = self.process.threads.iter().chain(&self.ending);
        let others: Vec<Tid> = seized
            .copied()
            .filter(|&tid| Some(tid) != but && tid != leader)
            .collect();
        for tid in others {
            if ptrace::is_dead(tid) {
                ptrace::reap(tid);
                self.forget(tid);
            }
        }
    }

    /// A thread that has vanished may be the leader now, by execve(2), and not have stopped.
    fn look_at_leader(&mut self) {
        let leader = self.process.leader();
        if self.process.threads.contains(&leader)
            && !self.due.contains(&leader)
            && ptrace::registers(leader).is_err()
        {
            self.due.push_back(leader);
        }
    }

    /// Seizes the threads that have not been seen, and then tells them to stop. Were there any? As long as one is still to be
    /// seized, the death of this tracer ends no call.
    fn seize_new(&mut self, deadline: Instant) -> Result<bool> {
        let fresh: Vec<Tid> = proc::threads(self.process.pid)?
            .into_iter()
            .filter(|tid| !self.known.contains(&tid.get()))
            .collect();
        if fresh.is_empty() {
            return Ok(false);
        }
        // The first pass has to be made; whoever makes threads faster than they are stopped is not followed for ever.
        if !self.known.is_empty() && Instant::now() >= deadline {
            return Err(Error::os(
                "seize (the process creates threads faster than they are stopped)",
                Errno::ETIMEDOUT,
            ));
        }
        self.seen.look(self.process.pid, &fresh);
        let alarm = Alarm::begin();
        if let Err(e) = &alarm {
            log::debug!("PTRACE_SEIZE may wait for an execve(2): {e}");
        }
        for &tid in &fresh {
            match self.seize_in_time(tid, deadline) {
                Ok(_) if self.is_strangers(tid) => let_go(tid)?,
                Ok(suspended) => {
                    self.process.threads.push(tid);
                    self.due.push_back(tid);
                    self.exposed |= !suspended;
                }
                Err(e) if tid != self.process.leader() && (e.is_died() || !self.has(tid)) => {
                    ptrace::reap(tid);
                }
                // By execve(2) a thread that was seized has become the leader.
                Err(e)
                    if matches!(e.cause(), Cause::Os(Errno::EPERM))
                        && is_ours(self.process.pid, tid) =>
                {
                    self.process.threads.push(tid);
                    self.due.push_back(tid);
                }
                Err(e) => {
                    self.shield_due();
                    // Seized, perhaps: it is let go, or its death noted, with the others.
                    self.process.threads.push(tid);
                    return Err(e);
                }
            }
            self.known.insert(tid.get());
        }
        let told = self.due.iter().try_for_each(|&tid| tell(tid));
        if told.is_err() {
            self.shield_due();
        }
        told.map(|()| true)
    }

    /// Is there a thread of this process with this number?
    fn has(&self, tid: Tid) -> bool {
        proc::has_thread(self.process.pid, tid)
    }

    /// Has a thread that ended after it was listed left its number to another process, whose thread has been seized now? What
    /// is seized keeps its number: what holds now holds on.
    fn is_strangers(&self, tid: Tid) -> bool {
        // Not where execve(2) has given the thread the leader's number: nobody has this one then.
        !self.has(tid) && is_ours(Pid::from(tid), tid)
    }

    /// As [`seize_thread`], which waits for a thread in execve(2) that may wait for this one: see [`super::alarm`].
    fn seize_in_time(&mut self, tid: Tid, deadline: Instant) -> Result<bool> {
        loop {
            match seize_thread(tid) {
                Err(e) if !matches!(e.cause(), Cause::Os(Errno::EINTR)) => return Err(e),
                Err(_) if Instant::now() >= deadline => {
                    return Err(Error::os(
                        "PTRACE_SEIZE (a thread of the process is in execve(2), which does not end)",
                        Errno::ETIMEDOUT,
                    )
                    .in_thread(tid));
                }
                Err(_) => self.bury(Some(tid)),
                seized => return seized,
            }
        }
    }
}

/// The kernel says EPERM for a task that is ending, too: it has no memory any more by which permission is judged
/// (`__ptrace_may_access`); and for one that has a tracer.
fn why_not(tid: Tid, e: Error) -> Error {
    let pid = Pid::from(tid);
    match proc::SignalStatus::read(pid, tid) {
        Err(gone) if gone.is_died() => return gone,
        Ok(status) if status.dead => {
            return Error::new(
                "PTRACE_SEIZE (the process has ended, and its parent has not waited for it)",
                Cause::Died,
            )
            .in_thread(tid);
        }
        Ok(status) if !status.has_memory && !proc::is_kernel_thread(pid, tid) => {
            return Error::new("PTRACE_SEIZE", Cause::Died).in_thread(tid);
        }
        Ok(status) if !status.has_memory => {
            return Error::new(
                "PTRACE_SEIZE",
                Cause::Unsupported("a kernel thread has no signal state of its own".into()),
            )
            .in_thread(tid);
        }
        _ => {}
    }
    match (e.cause(), proc::tracer(pid, tid)) {
        (Cause::Os(errno), Ok(Some((tracer, name)))) => Error::os(
            format!("PTRACE_SEIZE (already traced by {tracer} ({name}), which has to let the process go first)"),
            *errno,
        )
        .in_thread(tid),
        (Cause::Os(Errno::EPERM), _) => Error::os(
            format!("PTRACE_SEIZE ({})", proc::why_denied(pid, tid)),
            Errno::EPERM,
        )
        .in_thread(tid),
        _ => e,
    }
}

/// A process whose first thread has ended, by pthread_exit(3), and whose others run on, is not gone. What belongs to the
/// process, its dispositions and the shared queue, is read and written by way of that thread.
fn without_leader(pid: Pid, e: Error) -> Error {
    if !e.is_died() {
        return e;
    }
    let Ok(status) = proc::SignalStatus::read(pid, pid.into()) else {
        return e;
    };
    if !status.dead {
        return e;
    }
    match lasting_others(pid) {
        0 => e,
        others => {
            let why = format!(
                "the leader of {} has ended (pthread_exit), and {others} other threads still run: a process without \
                 its leader can't be read or changed",
                status.comm
            );
            Error::new("PTRACE_SEIZE", Cause::Unsupported(why.into()))
        }
    }
}

/// How many threads run on behind a first one that has ended. Of a process that is ending they soon are none: the thread
/// that calls exit_group(2) can't be told from others until it is in do_exit.
fn lasting_others(pid: Pid) -> usize {
    let begun = Instant::now();
    loop {
        let others = proc::lasting_others(pid);
        if others == 0 || begun.elapsed() >= EXEC_TIME {
            return others;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Says whether the thread's seccomp filter is suspended, if it has one.
fn seize_thread(tid: Tid) -> Result<bool> {
    let mut suspended = true;
    let options = libc::PTRACE_O_TRACESYSGOOD;
    // Injected system calls are not the program's: its seccomp filter must not judge them. Needs CAP_SYS_ADMIN.
    match ptrace::seize(tid, options | libc::PTRACE_O_SUSPEND_SECCOMP) {
        Err(e) if matches!(e.cause(), Cause::Os(Errno::EPERM | Errno::EINVAL)) => {
            ptrace::seize(tid, options).map_err(|e| why_not(tid, e))?;
            suspended = false;
        }
        other => other?,
    }
    fault::point(Point::ThreadSeized)?;
    Ok(suspended)
}

/// Tells a thread that is seized to stop.
fn tell(tid: Tid) -> Result<()> {
    match ptrace::interrupt(tid) {
        // It is ending, and its end is waited for as its stop would be: somebody may wait until we have heard of it.
        Err(e) if e.is_died() => Ok(()),
        other => other,
    }
}

/// A system call that is made inside a thread is judged by its seccomp filter unless that is suspended: it could fail,
/// or end the process (seccomp(2)).
fn refuse_seccomp(stopped: &StoppedProcess<ByUs>) -> Result<()> {
    for &tid in stopped.threads() {
        let mode = match proc::seccomp(stopped.pid(), tid)? {
            proc::Seccomp::Off => continue,
            proc::Seccomp::Strict => "seccomp's strict mode",
            proc::Seccomp::Filter => "a seccomp filter",
        };
        let what = format!(
            "the thread is under {mode}, which would apply to the system calls that have to be made in it; suspending \
             seccomp needs CAP_SYS_ADMIN and a tracer that is not under seccomp itself"
        );
        return Err(
            Error::new("PTRACE_O_SUSPEND_SECCOMP", Cause::Unsupported(what.into())).in_thread(tid),
        );
    }
    Ok(())
}

/// Waits until a thread that was told to has stopped.
fn stop_thread(tid: Tid, deadline: Instant) -> Result<()> {
    let mut bound = Bound::until(tid, "stop", deadline);
    loop {
        match ptrace::wait_stop(tid, deadline)? {
            Stop::Event(_) => return Ok(()),
            // A signal came first: it is delivered as it would have been, and the interrupt is still pending.
            Stop::Signal(signal) => ptrace::resume(tid, Resume::Run, signal)?,
            Stop::Syscall | Stop::OtherEvent(_) => ptrace::resume(tid, Resume::Run, 0)?,
        }
        // By then it runs, and has been told to stop.
        bound.one_more()?;
    }
}

/// A thread that was seized by mistake goes on as it was. Only one that has stopped can be let go, so it is waited for,
/// however little time is left for the others.
fn let_go(tid: Tid) -> Result<()> {
    let (pid, deadline) = (Pid::from(tid), Instant::now() + LEAST_PATIENCE);
    log::debug!("tid {tid}: the thread id belongs to another process by now: released");
    let stopped = tell(tid)
        .and_then(|()| stop_thread(tid, deadline))
        .and_then(|()| SeenCalls::default().keep(pid, tid));
    match stopped.and_then(|_| ptrace::detach(tid)) {
        Err(e) if e.is_died() => {
            ptrace::note_end(tid);
            Ok(())
        }
        done => done,
    }
}

fn is_timeout(e: &Error) -> bool {
    matches!(e.cause(), Cause::Os(Errno::ETIMEDOUT))
}

/// A timeout, in words.
fn why_it_runs(pid: Pid, tid: Tid, e: Error) -> Error {
    match proc::uninterruptible(pid, tid) {
        Some(sleep) => {
            let share = match sleep {
                Uninterruptible::InVfork(_) => "; waited for a fifth of the time allowed",
                _ => "",
            };
            let what = format!("wait for the stop ({sleep}{share})");
            Error::os(what, Errno::ETIMEDOUT).in_thread(tid)
        }
        None => e,
    }
}

/// Who has a process that can't be seized.
enum Other {
    Nobody,
    /// A command or a companion of this project's, by its name; they let go soon.
    Ours,
    Stranger,
}

fn other_tracer(pid: Pid) -> Other {
    let threads = proc::threads(pid).unwrap_or_default();
    let tracers = threads
        .into_iter()
        .filter_map(|tid| proc::tracer(pid, tid).ok()?);
    let mut found = Other::Nobody;
    for (_, name) in tracers {
        if !name.as_str().starts_with("signals-") {
            return Other::Stranger;
        }
        found = Other::Ours;
    }
    found
}

/// Is it this very thread that traces `tid`?
fn is_ours(pid: Pid, tid: Tid) -> bool {
    let this = nix::unistd::gettid().as_raw();
    proc::tracer(pid, tid).is_ok_and(|tracer| tracer.is_some_and(|(by, _)| by.get() == this))
}

impl<Owner> Drop for StoppedProcess<Owner> {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        for &tid in self.threads.iter().rev() {
            match ptrace::detach(tid) {
                Ok(()) => {}
                Err(e) if e.is_died() => ptrace::note_end(tid),
                Err(e) => log::error!("{}", e.during(Phase::Release, self.pid)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    fn pid(child: &Child) -> Pid {
        Pid::new(child.id().cast_signed()).unwrap()
    }

    /// Neither one that runs, nor one that has ended, nor one that is not this thread's.
    #[test]
    fn a_stop_of_this_thread_s_is_told() {
        let mut child = sleeper();
        let tid = Tid::from(pid(&child));
        assert!(!ptrace::is_stopped(tid));
        let stopped = StoppedProcess::<ByUs>::seize(pid(&child), Duration::from_secs(60)).unwrap();
        assert!(ptrace::is_stopped(tid));
        assert!(
            !std::thread::spawn(move || ptrace::is_stopped(tid))
                .join()
                .unwrap()
        );
        stopped.release().unwrap();
        assert!(!ptrace::is_stopped(tid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!ptrace::is_stopped(tid));
    }

    /// Let go before it had stopped, and seized once more by a number that is another's by then: that one goes on.
    #[test]
    fn another_with_its_number_goes_on() {
        let (mut former, mut other) = (sleeper(), sleeper());
        let held = PidFd::open(pid(&former)).unwrap();
        former.kill().unwrap();
        former.wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut stopping = StoppingProcess::begin(pid(&other), deadline).unwrap();
        stopping.held = Some(Arc::new(held));
        assert!(stopping.wait(deadline).unwrap_err().why.is_died());
        assert_eq!(proc::tracer(pid(&other), pid(&other).into()).unwrap(), None);
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
