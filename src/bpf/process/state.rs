//! Builds a process state from a pass that has read the same as the pass before.

use std::collections::{BTreeMap, HashMap, HashSet};

use criu_signals_images::{
    Clock, Disposition, Dispositions, ExitSignal, InterruptedCall, IntervalTimer, Notify, NsIds,
    Pending, Pid, PosixTimer, ProcessState, RestartCode, Rlimit, RunState, SigNo, SigSet,
    ThreadState, Tid, TimerEntry, WaitStatus,
};
use nix::time::{ClockId, clock_gettime};

use super::format::{ACTION, READ};
use super::members::{Action, Members};
use super::records::{
    Course, Entry, PF_IO_WORKER, PF_KTHREAD, PF_USER_WORKER, Pass, Process, Thread, Timer,
};
use crate::arch::{self, Registers, Waiting, is_sigsuspend, waiting};
use crate::error::{Cause, Error, Result};
use crate::in_time;
use crate::proc;
use crate::reading::{Reading, Surroundings, WaitingCall};
use crate::state::{AlternateStack, cpu_clocks, in_handler, interrupted::written_back};
use crate::tracee::Memory;
use crate::tracee::shield::in_call;

pub(super) enum Made {
    Whole(Box<Reading>),
    /// What can't be told because a thread runs just now.
    Unsettled(String),
}

// include/linux/sched/jobctl.h and sched/signal.h.
const JOBCTL_STOP_SIGMASK: u64 = 0xffff;
const SIGNAL_STOP_STOPPED: u32 = 0x1;
const SIGNAL_STOP_CONTINUED: u32 = 0x2;
/// What sigaction(2) tells of the flags (UAPI_SA_FLAGS, include/linux/signal_types.h): the kernel's own marks are no part of it.
const SA_KNOWN: u64 = 0xdc00_0807;
/// include/uapi/linux/errno.h: in a call that has not ended (entry_64.S).
const ENOSYS: i64 = libc::ENOSYS as i64;
/// What a timer of CPU time that is overdue is said to have left (getitimer(2)), with the finest tick.
const OVERDUE: u64 = 1_000_000;

pub(super) fn make(pid: Pid, members: &Members, pass: &Pass) -> Result<Made> {
    let threads = threads(pass);
    let [leader, ..] = threads.as_slice() else {
        return Err(Error::new(READ, Cause::Died));
    };
    if leader.thread.dead {
        let why = "its first thread has ended, and the others run on: what the process shares is read with the first";
        return Err(Error::new(READ, Cause::Unsupported(why.into())));
    }
    if leader.thread.flags & PF_KTHREAD != 0 {
        let why = "it is a thread of the kernel's own";
        return Err(Error::new(READ, Cause::Unsupported(why.into())));
    }
    if pass.process.has_timers
        && let Err(why) = &members.timers
    {
        let why = format!("it has POSIX timers, and {why}");
        return Err(Error::new(READ, Cause::Unsupported(why.into())));
    }
    let maker = Maker {
        members,
        pass,
        dispositions: dispositions(&pass.process.actions, &members.action_members),
        pid,
        own_entries: own_entries(pass),
    };
    maker.process(&threads)
}

/// A thread of the program's own.
struct Looked<'p> {
    thread: &'p Thread,
    course: &'p Course,
}

/// The leader first, in the order of their numbers.
fn threads(pass: &Pass) -> Vec<Looked<'_>> {
    let both = pass.threads.iter().zip(&pass.courses);
    let mut threads: Vec<Looked<'_>> = both
        .map(|(thread, course)| Looked { thread, course })
        .collect();
    let Some((leader, others)) = threads.split_first_mut() else {
        return threads;
    };
    debug_assert!(
        !others
            .iter()
            .any(|other| other.thread.task == leader.thread.task)
    );
    let is_ours = |looked: &Looked<'_>| {
        !looked.thread.dead && looked.thread.flags & (PF_IO_WORKER | PF_USER_WORKER) == 0
    };
    let mut kept: Vec<Looked<'_>> = Vec::new();
    let mut all = threads.into_iter();
    kept.extend(all.next());
    kept.extend(all.filter(is_ours));
    kept[1..].sort_by_key(|looked| looked.thread.numbers.get(pass.level).copied());
    kept
}

fn own_entries(pass: &Pass) -> HashSet<u64> {
    let threads = pass.threads.iter().flat_map(|thread| &thread.queue);
    let all = threads.chain(&pass.process.queue);
    all.map(|entry| entry.address).collect()
}

struct Maker<'p> {
    members: &'p Members,
    pass: &'p Pass,
    dispositions: Dispositions,
    pid: Pid,
    /// Addresses of all entries that are in a queue.
    own_entries: HashSet<u64>,
}

impl Maker<'_> {
    fn process(self, looked: &[Looked<'_>]) -> Result<Made> {
        let (mut threads, mut waiting, mut surroundings) = (Vec::new(), Vec::new(), Vec::new());
        for one in looked {
            let (state, call) = match self.thread(one)? {
                Ok(made) => made,
                Err(why) => return Ok(Made::Unsettled(why)),
            };
            let tid = state.tid();
            let call = call.map(|(number, ip)| WaitingCall { tid, number, ip });
            waiting.extend(call);
            surroundings.push(Surroundings {
                tid,
                tracer: Tid::new(one.thread.tracer),
                seccomp: one.thread.seccomp,
                user_dispatch: one.thread.dispatch,
            });
            threads.push(state);
        }
        let Some(first) = looked.first() else {
            return Err(Error::new(READ, Cause::Died));
        };
        let shared = &self.pass.process;
        let clocks = self.clocks();
        let process = ProcessState {
            ids: self.ids(first.thread)?,
            pid_ns: first.thread.namespace,
            comm: comm(&first.thread.comm).into(),
            exe: proc::executable(self.pid)?,
            compat: registers(first.course).is_compat(),
            rlimit_sigpending: Rlimit {
                soft: shared.limit[0],
                hard: shared.limit[1],
            },
            queued: self.pass.charged,
            run_state: run_state(shared, first.thread),
            wait_status: wait_status(shared),
            shared: pending(shared.pending, &shared.queue),
            exit_signal: u32::try_from(first.thread.exit_signal)
                .ok()
                .and_then(ExitSignal::new),
            stack_needs: Some(arch::stack_needs()),
            timers: self.timers(&threads)?,
            deleted_timers: Vec::new(),
            interval_timers: self.interval_timers()?,
            file_owners: Vec::new(),
            clocks: None,
            taken_out: Vec::new(),
            lent_limit: None,
            threads,
            dispositions: self.dispositions,
        };
        Ok(Made::Whole(Box::new(Reading {
            process,
            depths: None,
            waiting,
            surroundings,
            clocks,
        })))
    }

    fn ids(&self, thread: &Thread) -> Result<NsIds> {
        let ids = thread.numbers.get(self.pass.level..).unwrap_or_default();
        NsIds::new(ids.to_vec()).ok_or_else(|| {
            let why = format!("{ids:?} are no ids of a thread");
            Error::new(READ, Cause::Unexpected(why))
        })
    }

    /// The inner `Err` says what has to be read once more.
    #[expect(
        clippy::type_complexity,
        reason = "a thread, and the call that it waits in"
    )]
    fn thread(
        &self,
        looked: &Looked<'_>,
    ) -> Result<std::result::Result<(ThreadState, Option<(u32, u64)>), String>> {
        let Looked { thread, course } = *looked;
        let registers = registers(course);
        // rt_sigtimedwait(2) takes what it waits for out of the mask for as long as it waits, and puts it back before anything
        // is delivered: whoever stops the thread never sees that.
        let blocked = if thread.real_blocked == SigSet::EMPTY {
            thread.blocked
        } else {
            thread.real_blocked
        };
        let mut state = ThreadState {
            blocked,
            saved_mask: thread.restores.then_some(thread.saved),
            pending: pending(thread.pending, &thread.queue),
            parent_death_signal: SigNo::new(thread.parent_death),
            ..ThreadState::bare(self.ids(thread)?)
        };
        let tid = state.tid();
        let call = if course.still {
            in_call(&registers)
        } else {
            None
        };
        let sleeps_in = call.filter(|(_, result)| *result == -ENOSYS && course.sleeps);
        // It says that the mask is to be put back only when it ends (kernel/signal.c, sigsuspend).
        if sleeps_in.is_some_and(|(call, _)| is_sigsuspend(call.number, registers.is_compat())) {
            state.saved_mask = Some(thread.saved);
        }
        let needs_stack_pointer =
            AlternateStack::is_told_by_place(thread.stack_size, thread.stack_flags);
        if !course.still && (needs_stack_pointer || in_handler::may_be(&state, &self.dispositions))
        {
            return Ok(Err(format!(
                "thread {tid} runs, so that its stack pointer can't be read, which tells whether the thread is in a handler or \
                 on its alternate stack"
            )));
        }
        state.altstack = AlternateStack::from_kernel(
            [thread.stack, thread.stack_size],
            thread.stack_flags,
            registers.sp(),
        );
        if in_handler::may_be(&state, &self.dispositions) {
            state.in_handler = self.in_handler(&state, registers)?;
        }
        if let Some((mut call, result)) = call
            && let Some(code) = RestartCode::from_result(result)
        {
            call.code = code;
            call.remaining = self.remaining(&registers, &call, course)?;
            state.interrupted = Some(call);
        }
        let waits = sleeps_in.map(|(call, _)| (call.number, call.ip));
        state.saved_mask = state.saved_mask.filter(|&saved| saved != blocked);
        Ok(Ok((state, waits)))
    }

    fn in_handler(&self, state: &ThreadState, registers: Registers) -> Result<Option<SigNo>> {
        let thread = ThreadState {
            blocked: state.blocked,
            saved_mask: state.saved_mask,
            ..ThreadState::bare(state.ids.clone())
        };
        let dispositions = self.dispositions.clone();
        let look =
            move |memory: &Memory| in_handler::find(&thread, &dispositions, &registers, memory);
        self.in_memory(look).map_err(|e| e.in_thread(state.tid()))
    }

    /// Looks into the program's memory. For that one has to wait if the process is in execve(2), or changes its mappings.
    fn in_memory<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Memory) -> Option<T> + Send + 'static,
    ) -> Result<Option<T>> {
        let pid = self.pid;
        in_time::look("mem", move || Memory::open(pid).map(|memory| look(&memory)))?
    }

    /// What the kernel has noted down, for restart_syscall(2), of when the call would have ended.
    fn remaining(
        &self,
        registers: &Registers,
        call: &InterruptedCall,
        course: &Course,
    ) -> Result<Option<u64>> {
        if call.code != RestartCode::ByBlock {
            return Ok(None);
        }
        let at = &self.members.block;
        let word = |at: i32| {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let bytes = course.block.get(at..).and_then(|rest| rest.get(..8));
            bytes
                .and_then(|bytes| bytes.try_into().ok())
                .map_or(0, u64::from_ne_bytes)
        };
        let low = |at: i32| i32::try_from(word(at) & 0x7fff_ffff).unwrap_or(0);
        let (end, clock) = match waiting(call.number, registers.call_args(), registers.is_compat())
        {
            Some(Waiting::Nanosleep | Waiting::ClockNanosleep) => {
                (word(at.nanosleep), low(at.clock))
            }
            Some(Waiting::Poll) if low(at.poll_has) != 0 => {
                let seconds = word(at.poll_seconds).saturating_mul(1_000_000_000);
                (
                    seconds.saturating_add(word(at.poll_nanoseconds)),
                    libc::CLOCK_MONOTONIC,
                )
            }
            Some(Waiting::Futex) => (word(at.futex), libc::CLOCK_MONOTONIC),
            // restart_syscall(2) itself: of which call, only the address of a kernel function tells.
            _ => return Ok(None),
        };
        if clock < 0 {
            let call = *call;
            let registers = *registers;
            return self.in_memory(move |memory| written_back(memory, &registers, &call));
        }
        let Some(now) = self.now(clock) else {
            return Ok(None);
        };
        Ok(Some(end.saturating_sub(now)))
    }

    /// What the clock of the machine shows, whatever the time namespace. `None`: nobody knows that clock.
    fn now(&self, clock: i32) -> Option<u64> {
        match clock {
            libc::CLOCK_MONOTONIC => Some(self.pass.monotonic),
            libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => Some(self.pass.boottime),
            libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM => clock_now(libc::CLOCK_REALTIME),
            libc::CLOCK_TAI => clock_now(libc::CLOCK_TAI),
            _ => None,
        }
    }

    fn timers(&self, threads: &[ThreadState]) -> Result<Vec<PosixTimer>> {
        let timers = self.pass.process.timers.iter();
        let mut timers = timers
            .map(|timer| self.timer(timer, threads))
            .collect::<Result<Vec<_>>>()?;
        timers.sort_by_key(|timer| timer.id);
        for (place, id) in (0..).zip(self.aside()) {
            if let Ok(at) = timers.binary_search_by_key(&id, |timer| timer.id)
                && timers[at].entry == TimerEntry::Ignored
            {
                timers[at].place_aside = Some(place);
            }
        }
        Ok(timers)
    }

    fn timer(&self, timer: &Timer, threads: &[ThreadState]) -> Result<PosixTimer> {
        const SIGEV_THREAD_ID: i32 = 4;
        let notify = match timer.notify {
            n if n & SIGEV_THREAD_ID != 0 => {
                let is_told = |thread: &&ThreadState| thread.ids.innermost() == timer.told;
                let told = threads.iter().find(is_told);
                Notify::Thread(told.map_or(0, |thread| thread.ids.innermost()))
            }
            libc::SIGEV_NONE => Notify::Nobody,
            libc::SIGEV_THREAD => Notify::Library,
            _ => Notify::Process,
        };
        let entry = if timer.ignored != 0 {
            // timer_settime(2) leaves it there, and the kernel drops it when it is delivered (posixtimer_deliver_signal).
            match timer.stale {
                true => TimerEntry::Idle,
                false => TimerEntry::Ignored,
            }
        } else if !self.own_entries.contains(&timer.entry) {
            TimerEntry::Idle
        } else if timer.stale {
            TimerEntry::Stale
        } else {
            TimerEntry::Pending
        };
        let time = self.time(timer)?;
        let (remaining, missed) = time.map_or((0, 0), |time| left(timer, time));
        let value = timer.info.fields();
        let value = match value {
            criu_signals_images::Fields::Timer { value, .. } => value,
            _ => 0,
        };
        Ok(PosixTimer {
            id: timer.id,
            clock: timer.clock,
            signo: timer.info.signo(),
            value,
            notify,
            // Of what has ended, nothing is told (posix_cpu_timer_get).
            interval: if time.is_some() { timer.interval } else { 0 },
            remaining,
            overrun: u32::try_from(timer.overrun_last.clamp(0, i32::MAX.into())).unwrap_or(0),
            entry,
            // `it_overrun` is -1 until the first of the missed periods, which is the expiry itself, has been counted.
            entry_overrun: matches!(entry, TimerEntry::Pending | TimerEntry::Ignored)
                .then(|| u32::try_from((timer.overrun + missed).max(0)).unwrap_or(u32::MAX)),
            place_aside: None,
        })
    }

    /// The entries that are kept aside, in their order, by the ids of their timers. A node is pointed to by the node before it, the
    /// first by the list.
    fn aside(&self) -> Vec<i32> {
        let timers = self.pass.process.timers.iter();
        let aside: HashMap<u64, &Timer> = timers
            .filter(|timer| timer.ignored != 0)
            .map(|timer| (timer.ignored, timer))
            .collect();
        let nodes: HashSet<u64> = aside.values().map(|timer| timer.node).collect();
        let first = aside.keys().find(|before| !nodes.contains(before));
        let mut next = first.and_then(|before| aside.get(before));
        let mut ids = Vec::new();
        // Each node has another before it, so that this ends.
        while let Some(timer) = next {
            ids.push(timer.id);
            next = aside.get(&timer.node);
        }
        ids
    }

    /// The clocks that name the threads of timers that do not.
    fn clocks(&self) -> BTreeMap<i32, i32> {
        let nameless = self.pass.process.timers.iter();
        let nameless = nameless.filter(|timer| cpu_clocks::is_nameless(timer.clock));
        nameless
            .filter_map(|timer| {
                let (thread, _) = self.measured_thread(timer.measured)?;
                let named = cpu_clocks::named(timer.clock, *thread.numbers.last()?);
                Some((timer.id, named))
            })
            .collect()
    }

    /// The thread whose time a timer measures, by its id in the caller's pid namespace. `None`: it has ended.
    fn measured_thread(&self, measured: i32) -> Option<(&Thread, &Course)> {
        let threads = self.pass.threads.iter().zip(&self.pass.courses);
        let mut threads = threads.filter(|(thread, _)| !thread.dead);
        threads.find(|(thread, _)| thread.numbers.get(self.pass.level) == Some(&measured))
    }

    /// When the timer expires, and what its clock shows now. `None`: what it measures has ended.
    fn time(&self, timer: &Timer) -> Result<Option<(i64, i64)>> {
        let (expires, now) = match timer.clock {
            clock if clock < 0 => match self.cpu_now(clock, timer.measured) {
                Some(None) => return Ok(None),
                now => (timer.cpu_expires, now.flatten()),
            },
            clock @ (libc::CLOCK_REALTIME_ALARM | libc::CLOCK_BOOTTIME_ALARM) => {
                (timer.alarm_expires, self.now(clock))
            }
            _ => (timer.real_expires, self.now(timer.base)),
        };
        let now = now.ok_or_else(|| {
            let why = format!(
                "what the clock of timer {} shows is not known here: {}",
                timer.id,
                Clock(timer.clock)
            );
            Error::new(READ, Cause::Unsupported(why.into()))
        })?;
        Ok(Some((expires, i64::try_from(now).unwrap_or(i64::MAX))))
    }

    /// What a clock of processor time shows. The kernel tells that of a thread only to its own process; a timer measures
    /// threads of its process alone. `None`: it is no such clock. `Some(None)`: what it measures has ended.
    fn cpu_now(&self, clock: i32, measured: i32) -> Option<Option<u64>> {
        // 3: the clock of a device.
        if clock & 3 == 3 {
            return None;
        }
        if clock & CPUCLOCK_PERTHREAD == 0 {
            return Some(cpu_now(clock, measured));
        }
        let of_it = self.measured_thread(measured);
        Some(of_it.map(|(_, course)| course.ran))
    }

    fn interval_timers(&self) -> Result<Vec<IntervalTimer>> {
        let shared = &self.pass.process;
        let monotonic = i64::try_from(self.pass.monotonic).unwrap_or(i64::MAX);
        let left = shared.expires.saturating_sub(monotonic).max(1_000);
        let mut timers = vec![IntervalTimer {
            which: 0,
            interval: shared.interval,
            remaining: if shared.active {
                left.unsigned_abs()
            } else {
                0
            },
        }];
        // CPUCLOCK_PROF is 0 and CPUCLOCK_VIRT is 1 (kernel/time/itimer.c), ITIMER_VIRTUAL 1 and ITIMER_PROF 2.
        for (which, [expires, interval]) in [(1, shared.cpu_timers[1]), (2, shared.cpu_timers[0])] {
            let clock = if which == 1 {
                CPUCLOCK_VIRT
            } else {
                CPUCLOCK_PROF
            };
            let mut remaining = 0;
            if expires != 0 {
                let now = cpu_now(clock, self.pid.get());
                let now = now.ok_or_else(|| Error::new("clock_gettime", Cause::Died))?;
                remaining = expires
                    .checked_sub(now)
                    .filter(|&left| left > 0)
                    .unwrap_or(OVERDUE);
            }
            timers.push(IntervalTimer {
                which,
                interval,
                remaining,
            });
        }
        timers.retain(|timer| timer.interval != 0 || timer.remaining != 0);
        Ok(timers)
    }
}

/// As timer_gettime(2) has it (kernel/time/posix-timers.c, common_timer_get; posix-cpu-timers.c, __posix_cpu_timer_get), and how
/// often the timer would have expired since.
fn left(timer: &Timer, (expires, now): (i64, i64)) -> (u64, i64) {
    const POSIX_TIMER_DISARMED: i32 = 0;
    const POSIX_TIMER_ARMED: i32 = 1;
    let nobody = timer.notify == libc::SIGEV_NONE;
    let cpu = timer.clock < 0;
    let disarmed = if cpu {
        expires == 0
    } else {
        timer.interval == 0 && timer.status == POSIX_TIMER_DISARMED && !nobody
    };
    if disarmed {
        return (0, 0);
    }
    let (mut end, mut missed) = (expires, 0);
    if timer.interval != 0 && timer.status != POSIX_TIMER_ARMED {
        let interval = i64::try_from(timer.interval).unwrap_or(i64::MAX);
        if now >= expires {
            missed = (now - expires) / interval + 1;
            end = expires.saturating_add(missed.saturating_mul(interval));
        }
    }
    let left = match end - now {
        left if left > 0 => left.unsigned_abs(),
        _ if nobody => 0,
        _ => 1,
    };
    (left, missed)
}

// include/linux/posix-timers.h.
const CPUCLOCK_PROF: i32 = 0;
const CPUCLOCK_VIRT: i32 = 1;
const CPUCLOCK_PERTHREAD: i32 = 4;

/// What a clock of processor time shows for this process. `clock` tells the kind in its lowest two bits.
fn cpu_now(clock: i32, of: i32) -> Option<u64> {
    if of <= 0 {
        return None;
    }
    clock_now(!of << 3 | clock & 3)
}

fn clock_now(clock: i32) -> Option<u64> {
    let time = clock_gettime(ClockId::from_raw(clock)).ok()?;
    u64::try_from(std::time::Duration::from(time).as_nanos()).ok()
}

fn registers(course: &Course) -> Registers {
    Registers::on_kernel_stack(&course.registers)
}

fn pending(bits: SigSet, queue: &[Entry]) -> Pending {
    Pending {
        bits,
        queue: queue.iter().map(|entry| entry.info).collect(),
    }
}

pub(in super::super) fn dispositions(actions: &[u8], at: &Action) -> Dispositions {
    let mut dispositions = Dispositions::default();
    let size = usize::try_from(ACTION).unwrap_or(1);
    for (signo, action) in SigNo::all().zip(actions.chunks_exact(size)) {
        let word = |at: i32| {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let bytes = action.get(at..).and_then(|rest| rest.get(..8));
            bytes
                .and_then(|bytes| bytes.try_into().ok())
                .map_or(0, u64::from_ne_bytes)
        };
        dispositions[signo] = Disposition {
            handler: word(at.handler),
            flags: word(at.flags) & SA_KNOWN,
            restorer: word(at.restorer),
            mask: SigSet::from_bits(word(at.mask)),
        };
    }
    dispositions
}

/// As a tracer is told (kernel/signal.c, do_jobctl_trap).
fn run_state(process: &Process, leader: &Thread) -> RunState {
    let by = i32::try_from(leader.jobctl & JOBCTL_STOP_SIGMASK).unwrap_or(0);
    let stopped = process.flags & SIGNAL_STOP_STOPPED != 0 || process.stop_count != 0;
    match SigNo::new(by) {
        Some(signo) if stopped && signo.is_stop() => RunState::Stopped(signo),
        _ => RunState::Running,
    }
}

/// The parent's wait(2) takes the code, or the flag (kernel/exit.c, wait_task_stopped and wait_task_continued).
fn wait_status(process: &Process) -> WaitStatus {
    let stopped = process.flags & SIGNAL_STOP_STOPPED != 0;
    match SigNo::new(process.exit_code) {
        Some(signo) if stopped && signo.is_stop() => WaitStatus::Stopped(signo),
        _ if process.flags & SIGNAL_STOP_CONTINUED != 0 => WaitStatus::Continued,
        _ => WaitStatus::Nothing,
    }
}

/// As /proc/PID/status escapes it (fs/proc/array.c, proc_task_name).
fn comm(bytes: &[u8]) -> String {
    let name = bytes.split(|&b| b == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name);
    name.replace('\\', "\\\\").replace('\n', "\\n")
}
