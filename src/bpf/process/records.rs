//! Parses the records that the program has written.

use criu_signals_images::{SIGINFO_SIZE, SigSet, Siginfo};

use super::format::{
    HEAD, INFO, Kind, MOST_LEVELS, REGISTERS, UPID, entry, process, thread, timer,
};
use super::members::{Members, TimerMembers};

/// An entry of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) address: u64,
    pub(super) info: Siginfo,
}

/// A POSIX timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Timer {
    pub(super) id: i32,
    pub(super) clock: i32,
    /// The clock by which the kernel measures, unless it is one of processor time: that of a relative time on CLOCK_REALTIME is
    /// CLOCK_MONOTONIC (common_hrtimer_arm, kernel/time/posix-timers.c).
    pub(super) base: i32,
    pub(super) notify: i32,
    pub(super) status: i32,
    pub(super) overrun: i64,
    pub(super) overrun_last: i64,
    /// The entry in a queue is not to be delivered: the timer has been set since.
    pub(super) stale: bool,
    pub(super) interval: u64,
    /// What points to its node in the list of the entries that are kept aside; 0 if it is in none.
    pub(super) ignored: u64,
    /// Where that node is.
    pub(super) node: u64,
    /// Where its own queue entry is.
    pub(super) entry: u64,
    pub(super) info: Siginfo,
    pub(super) real_expires: i64,
    pub(super) cpu_expires: i64,
    pub(super) alarm_expires: i64,
    /// Whom it tells, by the number in its own pid namespace.
    pub(super) told: i32,
    /// Whose processor time it measures, by the number in the caller's pid namespace.
    pub(super) measured: i32,
}

/// What all threads of a process share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pending: SigSet,
    pub(super) flags: u32,
    pub(super) exit_code: i32,
    pub(super) stop_count: i32,
    pub(super) threads: u32,
    pub(super) limit: [u64; 2],
    pub(super) sighand: u64,
    /// Of ITIMER_REAL.
    pub(super) interval: u64,
    pub(super) expires: i64,
    pub(super) active: bool,
    /// Expiry and interval of ITIMER_PROF and ITIMER_VIRTUAL.
    pub(super) cpu_timers: [[u64; 2]; 2],
    pub(super) has_timers: bool,
    pub(super) actions: Vec<u8>,
    pub(super) queue: Vec<Entry>,
    pub(super) timers: Vec<Timer>,
}

/// What belongs to one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Thread {
    pub(super) task: u64,
    pub(super) started: u64,
    pub(super) memory: u64,
    pub(super) numbers: Vec<i32>,
    pub(super) namespace: u64,
    pub(super) comm: [u8; 16],
    pub(super) flags: u32,
    pub(super) dead: bool,
    pub(super) blocked: SigSet,
    pub(super) real_blocked: SigSet,
    /// What the mask will be when a call ends that has put another in force, and whether one has.
    pub(super) saved: SigSet,
    pub(super) restores: bool,
    pub(super) pending: SigSet,
    pub(super) stack: u64,
    pub(super) stack_size: u64,
    pub(super) stack_flags: u32,
    pub(super) jobctl: u64,
    pub(super) parent_death: i32,
    pub(super) exit_signal: i32,
    pub(super) tracer: i32,
    pub(super) seccomp: u32,
    pub(super) dispatch: Option<[u64; 3]>,
    pub(super) queue: Vec<Entry>,
}

/// What says how a thread runs. It is compared apart: a thread that runs changes it all the time, and has a signal state all
/// the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Course {
    pub(super) sleeps: bool,
    /// It did not run while it was read, so that its registers and all else of this thread are of one moment.
    pub(super) still: bool,
    pub(super) registers: [u64; REGISTERS],
    pub(super) block: Vec<u8>,
    /// How long it ran, in nanoseconds; of a running thread up to the last tick.
    pub(super) ran: u64,
}

/// One pass over one process.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    pub(super) process: Process,
    pub(super) threads: Vec<Thread>,
    /// In the order of `threads`.
    pub(super) courses: Vec<Course>,
    /// Of all processes of the user, so that it is not compared either.
    pub(super) charged: u64,
    /// The clocks of the machine when the pass was made.
    pub(super) monotonic: u64,
    pub(super) boottime: u64,
    /// In how many pid namespaces the caller is, besides the first.
    pub(super) level: usize,
}

impl Pass {
    /// Is it the same signal state?
    pub(super) fn is_same(&self, other: &Pass) -> bool {
        self.process == other.process && self.threads == other.threads
    }
}

/// A record, whose members are read by their offset. What is not there reads as zero; `parse` looks at the size before.
struct Record<'b>(&'b [u8]);

impl Record<'_> {
    fn array<const N: usize>(&self, at: i32) -> [u8; N] {
        let mut bytes = [0; N];
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        if let Some(found) = self.0.get(at..).and_then(|rest| rest.get(..N)) {
            bytes.copy_from_slice(found);
        }
        bytes
    }

    fn word(&self, at: impl Into<i32>) -> u64 {
        u64::from_ne_bytes(self.array(at.into()))
    }

    fn signed(&self, at: impl Into<i32>) -> i64 {
        i64::from_ne_bytes(self.array(at.into()))
    }

    fn half(&self, at: impl Into<i32>) -> u32 {
        u32::from_ne_bytes(self.array(at.into()))
    }

    fn int(&self, at: impl Into<i32>) -> i32 {
        i32::from_ne_bytes(self.array(at.into()))
    }

    fn byte(&self, at: impl Into<i32>) -> u8 {
        let [byte] = self.array(at.into());
        byte
    }

    fn set(&self, at: i16) -> SigSet {
        SigSet::from_bits(self.word(at))
    }

    fn siginfo(&self, at: i32) -> Siginfo {
        const SIZE: usize = INFO as usize;
        let mut bytes = [0; SIGINFO_SIZE];
        bytes[..SIZE].copy_from_slice(&self.array::<SIZE>(at));
        Siginfo(bytes)
    }
}

/// What a pass has written. `None`: no such process, or what was written is not understood.
pub(super) fn parse(mut bytes: &[u8], members: &Members) -> Option<Pass> {
    let mut pass: Option<Pass> = None;
    let (mut threads, mut courses) = (Vec::new(), Vec::new());
    // The leader's private queue comes before the process.
    let (mut shared, mut timers) = (Vec::new(), Vec::new());
    while bytes.len() >= HEAD {
        let size = usize::try_from(Record(bytes).word(8_i32)).ok()?;
        if size < HEAD {
            return None;
        }
        let (record, rest) = bytes.split_at_checked(size)?;
        bytes = rest;
        let record = Record(record);
        let kind = record.int(0_i32);
        if kind == Kind::Thread as i32 {
            threads.push(record.thread(members)?);
            courses.push(record.course(members));
        } else if kind == Kind::Private as i32 {
            threads.last_mut()?.queue.push(record.entry(members));
        } else if kind == Kind::Shared as i32 {
            shared.push(record.entry(members));
        } else if kind == Kind::Timer as i32 {
            timers.push(record.timer(members.timers.as_ref().ok()?));
        } else if kind == Kind::Process as i32 {
            pass = Some(Pass {
                process: record.process(),
                threads: Vec::new(),
                courses: Vec::new(),
                charged: record.word(process::CHARGED),
                monotonic: record.word(process::MONOTONIC),
                boottime: record.word(process::BOOTTIME),
                level: 0,
            });
        } else {
            return None;
        }
    }
    let mut pass = pass?;
    (pass.process.queue, pass.process.timers) = (shared, timers);
    (pass.threads, pass.courses) = (threads, courses);
    Some(pass)
}

impl Record<'_> {
    fn entry(&self, members: &Members) -> Entry {
        Entry {
            address: self.word(entry::ADDRESS),
            info: self.siginfo(entry::HEADER + members.entry.info),
        }
    }

    fn timer(&self, members: &TimerMembers) -> Timer {
        let at = |offset: i32| timer::HEADER + offset;
        Timer {
            id: self.int(at(members.id)),
            clock: self.int(at(members.clock)),
            base: self.int(timer::BASE),
            notify: self.int(at(members.notify)),
            status: self.int(at(members.status)),
            overrun: self.signed(at(members.overrun)),
            overrun_last: self.signed(at(members.overrun_last)),
            stale: self.half(at(members.signal_seq)) != self.half(at(members.queue_seq)),
            interval: self.word(at(members.interval)),
            ignored: self.word(at(members.ignored)),
            node: self
                .word(timer::ADDRESS)
                .wrapping_add_signed(members.ignored_list.into()),
            entry: self
                .word(timer::ADDRESS)
                .wrapping_add_signed(members.entry.into()),
            info: self.siginfo(at(members.info)),
            real_expires: self.signed(at(members.real_expires)),
            cpu_expires: self.signed(at(members.cpu_expires)),
            alarm_expires: self.signed(at(members.alarm_expires)),
            told: self.int(timer::TOLD),
            measured: self.int(timer::MEASURED),
        }
    }

    fn process(&self) -> Process {
        let actions = usize::try_from(process::ACTIONS).unwrap_or(0);
        let cpu = |n: i32| [0, 8].map(|at| self.word(i32::from(process::CPU_TIMERS) + n * 16 + at));
        let first = self.word(process::TIMERS);
        Process {
            pending: self.set(process::PENDING),
            flags: self.half(process::FLAGS),
            exit_code: self.int(process::EXIT_CODE),
            stop_count: self.int(process::STOP_COUNT),
            threads: self.half(process::THREADS),
            limit: [0, 8].map(|at| self.word(i32::from(process::LIMIT) + at)),
            sighand: self.word(process::SIGHAND),
            interval: self.word(process::INTERVAL),
            expires: self.signed(process::EXPIRES),
            // HRTIMER_STATE_ENQUEUED (include/linux/hrtimer.h).
            active: self.byte(process::ACTIVE) & 1 != 0,
            cpu_timers: [cpu(0), cpu(1)],
            has_timers: first != 0 && first != self.word(process::TIMERS_HEAD),
            actions: self.0.get(actions..).unwrap_or_default().to_vec(),
            queue: Vec::new(),
            timers: Vec::new(),
        }
    }

    fn thread(&self, members: &Members) -> Option<Thread> {
        let level = self.int(thread::LEVEL);
        if !(0..=MOST_LEVELS).contains(&level) {
            return None;
        }
        let number = |n: i32| self.int(i32::from(thread::NUMBERS) + n * UPID + members.pid.nr);
        let restores = self.byte(thread::RESTORE) & members.task.restore.mask != 0;
        let dispatch = [0, 8, 16].map(|at| self.word(i32::from(thread::DISPATCH) + at));
        Some(Thread {
            task: self.word(thread::TASK),
            started: self.word(thread::STARTED),
            memory: self.word(thread::MEMORY),
            numbers: (0..=level).map(number).collect(),
            namespace: self.word(thread::NAMESPACE),
            comm: self.array(thread::COMM.into()),
            flags: self.half(thread::FLAGS) & FLAGS,
            dead: self.int(thread::EXIT_STATE) != 0,
            blocked: self.set(thread::BLOCKED),
            real_blocked: self.set(thread::REAL_BLOCKED),
            // What an earlier call has left there means nothing, but for sigsuspend(2).
            saved: self.set(thread::SAVED),
            restores,
            pending: self.set(thread::PENDING),
            stack: self.word(thread::STACK),
            stack_size: self.word(thread::STACK_SIZE),
            stack_flags: self.half(thread::STACK_FLAGS),
            jobctl: self.word(thread::JOBCTL),
            parent_death: self.int(thread::PARENT_DEATH),
            exit_signal: self.int(thread::EXIT_SIGNAL),
            tracer: self.int(thread::TRACER),
            seccomp: self.half(thread::SECCOMP),
            dispatch: (self.byte(thread::DISPATCHES) != 0 || dispatch != [0; 3])
                .then_some(dispatch),
            queue: Vec::new(),
        })
    }

    /// Whoever takes a processor away from a thread counts that before another thread runs (kernel/sched/core.c, `__schedule`).
    fn was_still(&self) -> bool {
        let switches =
            |after: i16| [thread::SWITCHES, thread::SWITCHED].map(|at| self.word(at + after));
        let on_cpu = |after: i16| self.half(thread::ON_CPU + after) != 0;
        !on_cpu(0) && !on_cpu(thread::AFTER) && switches(0) == switches(thread::AFTER)
    }

    fn course(&self, members: &Members) -> Course {
        let at = usize::try_from(thread::BLOCK).unwrap_or(0);
        let size = usize::try_from(members.task.block_size).unwrap_or(0);
        let register = |n: usize| {
            let n = i32::try_from(n).unwrap_or(0);
            self.word(i32::from(thread::REGISTERS) + n * 8)
        };
        Course {
            sleeps: self.half(thread::STATE) != 0,
            still: self.was_still(),
            registers: std::array::from_fn(register),
            block: self.0.get(at..at + size).unwrap_or_default().to_vec(),
            ran: self.word(thread::RAN),
        }
    }
}

// include/linux/sched.h
pub(super) const PF_IO_WORKER: u32 = 0x0000_0010;
pub(super) const PF_USER_WORKER: u32 = 0x0000_4000;
pub(super) const PF_KTHREAD: u32 = 0x0020_0000;
/// Others change with what a thread does.
const FLAGS: u32 = PF_IO_WORKER | PF_USER_WORKER | PF_KTHREAD;
