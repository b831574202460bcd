//! Measures how long a thread has been waiting in a system call when it is stopped.
//!
//! The kernel does not tell when a call with a relative timeout ends: `restart_block` is not visible, and
//! /proc/timer_list names no threads. But before the stop, /proc/PID/sched shows when the thread last ran
//! (`se.exec_start`, kernel/sched/fair.c, update_curr), by the clock of its processor, and a waiting thread last ran
//! when it began to wait. If the thread has been switched exactly once since then, into the stop, the interrupted call
//! is the call that was seen.
//!
//! The estimate never understates the remaining time and never exceeds the whole timeout: a spurious wakeup makes the
//! wait appear to begin later, and the processor's clock excludes the time spent in interrupts.

use std::cell::OnceCell;
use std::time::{Duration, Instant};

use criu_signals_images::{Pid, Tid};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid as NixPid;

use crate::arch::{self, Registers, Timespec, Waiting, waiting};
use crate::error::{Phase, Result};
use crate::in_time;
use crate::proc::{self, Glimpse};
use crate::tracee::reentry::{self, EndedCall, SeenCall};
use crate::tracee::{Memory, RemoteAddr, StoppedProcess, ptrace};

/// How often the clocks of processors are compared; the comparison with the least delay counts.
const COMPARISONS: usize = 3;
/// How long a comparison holds: CLOCK_MONOTONIC is slewed by up to 500 ppm (adjtimex(2)), which makes 50 us by then.
const CLOCKS_HOLD: Duration = Duration::from_millis(100);
/// How long a released thread may take to be back in its call, and the interval between two looks.
const RETURN_TIME: Duration = Duration::from_millis(20);
const RETURN_INTERVAL: Duration = Duration::from_micros(100);
/// restart_syscall(2) calls these (the kernel's names).
const RESTARTS: [(&str, Restarted); 3] = [
    ("hrtimer_nanosleep_restart", Restarted::Nanosleep),
    ("do_restart_poll", Restarted::Poll),
    ("futex_wait_restart", Restarted::Futex),
];
/// The callers of restart_syscall(2), which a stack begins with if it does not show restart_syscall(2) itself. The 32-bit
/// call is made by int 0x80 only, whose function has another name since 6.7, and a third on machines with FRED.
const BARE: [&str; 4] = [
    "do_syscall_64+",
    "do_int80_emulation+",
    "do_int80_syscall_32+",
    "fred_int80_emulation+",
];
/// Addresses begin above this (vm.mmap_min_addr), and numbers of clocks end below.
const LOWEST_ADDRESS: u64 = 4096;
/// Where the kernel's half of the addresses begins, at the least.
const HIGHEST_ADDRESS: u64 = 1 << 56;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restarted {
    Nanosleep,
    Poll,
    Futex,
}

/// A thread that was seen waiting in a call with a relative timeout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asleep {
    tid: Tid,
    /// Its calls are those of the 32-bit table.
    compat: bool,
    number: u32,
    args: [u64; 6],
    sp: u64,
    ip: u64,
    restarted: Option<Restarted>,
    switches: u64,
    /// When it began to wait, in nanoseconds of CLOCK_MONOTONIC.
    since: Option<u64>,
}

/// What is known of a call in which a thread was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    /// The thread.
    pub tid: Tid,
    /// The number of the call that restart_syscall(2) went on with.
    pub restarted: Option<u32>,
    /// How long the thread has waited at least, in nanoseconds.
    pub time: Option<u64>,
}

/// Waits until the threads of `pid`, which have just been released, are back in the calls in which they waited. For a
/// thread that does other work the wait is short.
pub fn await_return(pid: Pid) {
    let deadline = Instant::now() + RETURN_TIME;
    // proc_pid_syscall(5): "If the process is not blocked, the file displays just the word 'running'."
    let runs =
        move |tid: Tid| read(pid, tid, "syscall").is_some_and(|call| call.starts_with("running"));
    let any_runs = || {
        let threads = proc::threads(pid)?;
        in_time::look("syscall", move || threads.into_iter().any(runs))
    };
    while any_runs().unwrap_or(false) && Instant::now() < deadline {
        std::thread::sleep(RETURN_INTERVAL);
    }
}

/// What was seen of the threads of a process while they ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked(Vec<LookedAt>);

/// What was seen of one thread, and how often it had been switched by then.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LookedAt {
    tid: Tid,
    switches: u64,
    asleep: Option<Asleep>,
}

impl Looked {
    /// Looks at these threads of `pid`, which run. Threads that cannot be read are left out: every look only makes an
    /// estimate better. What was seen `before` of a thread that has not been switched since still holds. `meanwhile` is done
    /// beside that.
    pub fn look(
        pid: Pid,
        threads: &[Glimpse],
        before: &Looked,
        clocks: &mut ProcessorClocks,
        meanwhile: impl FnOnce(),
    ) -> Looked {
        let mut seen: Vec<LookedAt> = Vec::with_capacity(threads.len());
        let mut changed = Vec::new();
        for thread in threads {
            match before.0.iter().find(|known| known.is(thread)) {
                Some(known) => seen.push(known.clone()),
                None => {
                    changed.push((seen.len(), *thread));
                    seen.push(LookedAt {
                        tid: thread.tid,
                        switches: thread.switches,
                        asleep: None,
                    });
                }
            }
        }
        let mut ran = Vec::new();
        for (at, (asleep, since)) in look_at_all(pid, changed, meanwhile) {
            seen[at].asleep = Some(asleep);
            ran.extend(since.map(|since| (at, since)));
        }
        clocks.visit(|clocks| {
            for (at, ran) in ran {
                if let Some(asleep) = &mut seen[at].asleep {
                    asleep.since = clocks.monotonic(ran);
                }
            }
        });
        Looked(seen)
    }

    /// Was no thread seen waiting?
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|thread| thread.asleep.is_none())
    }

    /// The call that a thread of `pid`, which is stopped now, was seen in.
    pub fn call_of(&self, pid: Pid, tid: Tid) -> Option<SeenCall> {
        let mut asleep = self.asleep();
        let thread = asleep.find(|thread| thread.tid == tid)?;
        Some(thread.call(pid))
    }

    fn asleep(&self) -> impl Iterator<Item = &Asleep> {
        self.0.iter().filter_map(|thread| thread.asleep.as_ref())
    }
}

impl LookedAt {
    /// Is it this thread, and has the thread not been switched since?
    fn is(&self, now: &Glimpse) -> bool {
        (self.tid, self.switches) == (now.tid, now.switches)
    }
}

/// Takes threads back into their calls where a stop shows them outside ([`reentry`]), and says what of `seen` is true of them now that
/// they are stopped, and which calls the stop has ended. To be done before anything else has been done to them.
///
/// # Errors
/// If a thread could not be looked at or changed.
pub fn confirm<Owner>(
    stopped: &StoppedProcess<Owner>,
    seen: &Looked,
) -> Result<(Vec<Waited>, Vec<EndedCall>)> {
    let now = monotonic();
    let threads = seen
        .asleep()
        .filter(|thread| stopped.threads().contains(&thread.tid));
    let threads: Vec<&Asleep> = threads
        .filter(|thread| thread.switched_once(stopped.pid()))
        .collect();
    let mut ended = Vec::new();
    if Registers::STOP_HIDES_CALL {
        for &tid in stopped.threads() {
            let seen = seen.call_of(stopped.pid(), tid);
            match reentry::back_in_call(stopped.pid(), tid, seen.as_ref()) {
                Err(e) if e.is_died() && tid != stopped.leader() => {}
                other => ended.extend(other.map_err(|e| e.in_thread(tid))?),
            }
        }
    }
    let waited = threads
        .into_iter()
        .filter(|thread| {
            let registers = ptrace::registers(thread.tid);
            registers.is_ok_and(|registers| thread.is_in(&registers))
        })
        .map(|thread| Waited {
            tid: thread.tid,
            restarted: thread
                .restarted
                .map(|kind| kind.number_of(thread.compat, thread.args, stopped.memory().ok())),
            time: thread.since.and_then(|since| now?.checked_sub(since)),
        });
    Ok((waited.collect(), ended))
}

/// Looks at threads, which run, each with its place. `meanwhile` is done beside that.
fn look_at_all(
    pid: Pid,
    threads: Vec<(usize, Glimpse)>,
    meanwhile: impl FnOnce(),
) -> Vec<(usize, (Asleep, Option<Ran>))> {
    if threads.is_empty() {
        meanwhile();
        return Vec::new();
    }
    let look = move || {
        let compat = OnceCell::new();
        let look = |(at, thread): (usize, Glimpse)| {
            let compat = || *compat.get_or_init(|| proc::is_32_bit(pid));
            Some((at, look_at(pid, &thread, compat)?))
        };
        threads.into_iter().filter_map(look).collect()
    };
    let looked = in_time::look_beside("syscall", look, meanwhile);
    looked.unwrap_or_else(|e| {
        log::warn!("{}", e.during(Phase::Seize, pid));
        Vec::new()
    })
}

fn look_at(
    pid: Pid,
    thread: &Glimpse,
    compat: impl FnOnce() -> bool,
) -> Option<(Asleep, Option<Ran>)> {
    let (tid, before) = (thread.tid, thread.switches);
    let call = read(pid, tid, "syscall")?;
    let (number, numbers) = proc::parse_call(&call)?;
    let [a0, a1, a2, a3, a4, a5, sp, ip] = numbers;
    let args = [a0, a1, a2, a3, a4, a5];
    let compat = compat();
    let restarted = match waiting(number, args, compat) {
        Some(Waiting::Nanosleep | Waiting::ClockNanosleep | Waiting::Poll | Waiting::Futex) => None,
        Some(Waiting::Restart) => Some(restarted(&read(pid, tid, "stack")?)?),
        // To be taken back into.
        _ if Registers::STOP_HIDES_CALL => None,
        Some(Waiting::Once | Waiting::OnceOnSocket) | None => return None,
    };
    let cpu = read(pid, tid, "stat").and_then(|stat| processor(&stat));
    // In the file the number of switches stands behind the time when the thread last ran, so the file is read up to that
    // number.
    let sched = read(pid, tid, "sched").unwrap_or_default();
    let now = voluntary_switches(&sched).or_else(|| switches(pid, tid))?;
    let at = exec_start(&sched);
    let asleep = Asleep {
        tid,
        compat,
        number,
        args,
        sp,
        ip,
        restarted,
        switches: before,
        since: None,
    };
    if now == before {
        return Some((asleep, cpu.zip(at).map(|(cpu, at)| Ran { cpu, at })));
    }
    // The thread has run in between, and the values are of two calls. To know the call again, in a loop say, those of the first are
    // enough; a thread that is stopped now has been switched twice since.
    (Registers::STOP_HIDES_CALL && restarted.is_none()).then_some((asleep, None))
}

impl Asleep {
    /// Into a stop, and nowhere else?
    fn switched_once(&self, pid: Pid) -> bool {
        switches(pid, self.tid) == Some(self.switches + 1)
    }

    fn call(&self, pid: Pid) -> SeenCall {
        SeenCall {
            number: self.number,
            args: self.args,
            sp: self.sp,
            ip: self.ip,
            up_to_stop: self.switched_once(pid),
        }
    }

    fn is_in(&self, registers: &Registers) -> bool {
        registers
            .call()
            .is_some_and(|(number, _)| number == self.number)
            && registers.is_compat() == self.compat
            && registers.call_args() == self.args
            && registers.sp() == self.sp
            && registers.ip() == self.ip
    }
}

impl Restarted {
    /// By the name of the kernel's function.
    pub(crate) fn by_function(name: &str) -> Option<Restarted> {
        let mut known = RESTARTS.into_iter();
        known.find_map(|(function, kind)| (function == name).then_some(kind))
    }

    /// The number of the call with these arguments, in the table of the thread's calls.
    pub(crate) fn number_of(self, compat: bool, args: [u64; 6], memory: Option<&Memory>) -> u32 {
        if compat {
            self.number_32(args, |at| read_words(memory?, at))
        } else {
            self.number(args)
        }
    }

    /// The call whose arguments these are. nanosleep and clock_nanosleep are restarted by one function.
    fn number(self, args: [u64; 6]) -> u32 {
        const CLOCK_NANOSLEEP: u32 = arch::syscall_number(libc::SYS_clock_nanosleep);
        const NANOSLEEP: u32 = arch::syscall_number(libc::SYS_nanosleep);
        const POLL: u32 = arch::POLL;
        const FUTEX: u32 = arch::syscall_number(libc::SYS_futex);
        match self {
            // A clock's number is small; those of other processes' clocks are negative.
            Restarted::Nanosleep if !(LOWEST_ADDRESS..HIGHEST_ADDRESS).contains(&args[0]) => {
                CLOCK_NANOSLEEP
            }
            Restarted::Nanosleep => NANOSLEEP,
            Restarted::Poll => POLL,
            Restarted::Futex => FUTEX,
        }
    }

    /// The same in the 32-bit table, where two of them take their time in either of two layouts, and `words` reads the
    /// program's memory. Clocks with negative numbers are not slept on by these functions.
    fn number_32(self, args: [u64; 6], words: impl Fn(u64) -> Option<Words>) -> u32 {
        match self {
            Restarted::Nanosleep if args[0] >= LOWEST_ADDRESS => arch::SYS32_NANOSLEEP,
            Restarted::Nanosleep => match is_time64(args[2], args[3], words) {
                true => arch::SYS32_CLOCK_NANOSLEEP_TIME64,
                false => arch::SYS32_CLOCK_NANOSLEEP,
            },
            Restarted::Poll => arch::SYS32_POLL,
            Restarted::Futex => match is_time64(args[3], 0, words) {
                true => arch::SYS32_FUTEX_TIME64,
                false => arch::SYS32_FUTEX,
            },
        }
    }
}

/// The longest `struct timespec`, as words.
type Words = [u32; Timespec::MAX_SIZE / 4];

fn read_words(memory: &Memory, at: u64) -> Option<Words> {
    let mut bytes = [0; Timespec::MAX_SIZE];
    memory.read_program(RemoteAddr(at), &mut bytes).ok()?;
    let mut words = Words::default();
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes(bytes.try_into().ok()?);
    }
    Some(words)
}

/// Are the times at these addresses of 64 bits? They tell it by themselves, because the second word is either the upper
/// half of the seconds, which is 0 for the next 136 years, or the nanoseconds.
///
/// In the time that the kernel has written at the last interruption (nanosleep_copyout), nanoseconds are as good as
/// never 0. In the one that the program has asked for they often are; then it is taken for one of 64 bits if it can be
/// one: that is never shorter, and longer by less than a second.
fn is_time64(request: u64, remaining: u64, words: impl Fn(u64) -> Option<Words>) -> bool {
    if remaining != 0 {
        return words(remaining).is_some_and(|[_, second, ..]| second == 0);
    }
    words(request).is_some_and(|words| {
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        words[1] == 0 && Timespec::Time64.read(&bytes).is_some()
    })
}

pub(crate) fn restarted(stack: &str) -> Option<Restarted> {
    let named = RESTARTS.into_iter().find(|(name, _)| stack.contains(name));
    // All of it belongs to the scheduler's own functions (`__sched`), which a stack does not show.
    let bare = stack
        .split("[<0>] ")
        .nth(1)
        .is_some_and(|first| BARE.iter().any(|entry| first.starts_with(entry)));
    named
        .map(|(_, kind)| kind)
        .or(bare.then_some(Restarted::Nanosleep))
}

/// When a thread last ran, by the clock of which processor.
#[derive(Clone, Copy, Debug)]
struct Ran {
    cpu: usize,
    at: u64,
}

/// Fields are counted from behind the name, which may contain anything: `processor` is the 39th.
fn processor(stat: &str) -> Option<usize> {
    stat.rsplit_once(") ")?.1.split(' ').nth(36)?.parse().ok()
}

/// Milliseconds and six digits, in nanoseconds. 0 is what a thread has that was moved and has not run since.
pub(crate) fn exec_start(sched: &str) -> Option<u64> {
    let line = sched
        .lines()
        .find(|line| line.starts_with("se.exec_start"))?;
    let (millis, nanos) = line.rsplit_once(':')?.1.trim().split_once('.')?;
    if nanos.len() != 6 {
        return None;
    }
    let at = millis.parse::<u64>().ok()?.checked_mul(1_000_000)? + nanos.parse::<u64>().ok()?;
    (at != 0).then_some(at)
}

/// What [`switches`] reads in `status`, from a file that is read anyway (kernel/sched/debug.c, proc_sched_show_task).
fn voluntary_switches(sched: &str) -> Option<u64> {
    let mut lines = sched.lines();
    let line = lines.find(|line| line.starts_with("nr_voluntary_switches"))?;
    line.rsplit_once(':')?.1.trim().parse().ok()
}

/// How often the thread gave up its processor because it had to wait.
fn switches(pid: Pid, tid: Tid) -> Option<u64> {
    Glimpse::of_thread(pid, tid).ok().map(|seen| seen.switches)
}

fn read(pid: Pid, tid: Tid, name: &str) -> Option<String> {
    proc::read_text(format!("/proc/{pid}/task/{tid}/{name}")).ok()
}

fn monotonic() -> Option<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
    u64::try_from(Duration::from(now).as_nanos()).ok()
}

/// The differences between the processors' clocks and CLOCK_MONOTONIC, measured by a thread on each processor.
#[derive(Debug, Default)]
pub struct ProcessorClocks {
    known: Vec<(usize, Option<i128>, Instant)>,
    /// The processors on which this thread may run, while the thread has moved to another.
    allowed: Option<CpuSet>,
}

impl ProcessorClocks {
    /// Does `work`, for which this thread may have to run on other processors, and comes back.
    fn visit(&mut self, work: impl FnOnce(&mut ProcessorClocks)) {
        work(self);
        if let Some(allowed) = self.allowed.take()
            && let Err(e) = sched_setaffinity(NixPid::from_raw(0), &allowed)
        {
            log::error!("cannot restore the CPU affinity of criu: {e}");
        }
    }

    fn monotonic(&mut self, ran: Ran) -> Option<u64> {
        self.known
            .retain(|(_, _, found)| found.elapsed() < CLOCKS_HOLD);
        let offset = match self.known.iter().find(|(cpu, _, _)| *cpu == ran.cpu) {
            Some((_, offset, _)) => *offset,
            None => {
                let offset = self.compare(ran.cpu);
                self.known.push((ran.cpu, offset, Instant::now()));
                offset
            }
        };
        u64::try_from(i128::from(ran.at) + offset?).ok()
    }

    fn compare(&mut self, cpu: usize) -> Option<i128> {
        let this = NixPid::from_raw(0);
        if self.allowed.is_none() {
            self.allowed = Some(sched_getaffinity(this).ok()?);
        }
        let mut only = CpuSet::new();
        only.set(cpu).ok()?;
        sched_setaffinity(this, &only).ok()?;
        // Monotonic time is read after the other clock, so that the difference is too large by what lies between.
        let offset = || {
            // Has the kernel note that this thread runs now (task_sched_runtime, kernel/sched/core.c).
            clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).ok()?;
            let ran = exec_start(&proc::read_text("/proc/thread-self/sched").ok()?)?;
            Some(i128::from(monotonic()?) - i128::from(ran))
        };
        (0..COMPARISONS).filter_map(|_| offset()).min()
    }
}

#[cfg(test)]
mod tests {
    use criu_signals_images::Arch;

    use super::*;

    #[test]
    fn time_of_the_last_run_and_switches() {
        let sched = "bash (1, #threads: 1)\n---\nse.exec_start      :       5482240.580727\nse.vruntime : 1.5\n";
        assert_eq!(exec_start(sched), Some(5_482_240_580_727));
        assert_eq!(exec_start("se.exec_start : 0.000000\n"), None);
        assert_eq!(exec_start("se.exec_start : 12\n"), None);
        assert_eq!(voluntary_switches(sched), None);
        let sched = "nr_switches : 9\nnr_voluntary_switches                :      7\nnr_involuntary_switches : 2\n";
        assert_eq!(voluntary_switches(sched), Some(7));
    }

    /// This thread has just been switched, and is not switched while it reads.
    #[test]
    fn both_files_count_the_same_switches() {
        let own = Tid::new(nix::unistd::gettid().as_raw()).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        let same = || {
            let sched = read(Pid::own(), own, "sched")?;
            Some(voluntary_switches(&sched)? == switches(Pid::own(), own)?)
        };
        // Without the file, as in older kernels without CONFIG_SCHED_DEBUG, there is nothing to compare. The read may have
        // waited for a lock.
        assert!((0..10).any(|_| same() != Some(false)));
    }

    #[test]
    fn restarted_calls_are_told_by_the_stack() {
        let stack = "[<0>] do_nanosleep+0x74/0xf0\n[<0>] hrtimer_nanosleep_restart+0x30/0x60\n";
        let kind = restarted(stack).unwrap();
        assert_eq!(
            i64::from(kind.number([1, 0, 0, 0, 0, 0])),
            libc::SYS_clock_nanosleep
        );
        assert_eq!(
            i64::from(kind.number([0x7ffc_0000_1000, 0, 0, 0, 0, 0])),
            libc::SYS_nanosleep
        );
        let bare =
            "[<0>] do_syscall_64+0x71/0x280\n[<0>] entry_SYSCALL_64_after_hwframe+0x76/0x7e\n";
        assert_eq!(restarted(bare), Some(kind));
        let other = "[<0>] alarm_timer_nsleep_restart+0x1/0x2\n[<0>] do_syscall_64+0x71/0x280\n";
        assert_eq!(restarted(other), None);
    }

    #[test]
    fn restarted_calls_of_32_bit_programs() {
        if Arch::current() != Some(Arch::X86_64) {
            eprintln!("the kernel's functions and numbers are those of x86");
            return;
        }
        let bare = "[<0>] do_int80_emulation+0xa8/0x1c0\n[<0>] asm_int80_emulation+0x16/0x20\n";
        assert_eq!(restarted(bare), Some(Restarted::Nanosleep));
        let other = "[<0>] hrtimer_nanosleep+0x74/0xf0\n[<0>] do_int80_emulation+0xa8/0x1c0\n";
        assert_eq!(restarted(other), None);

        const REQUEST: u64 = 0xff90_85c8;
        const REMAINING: u64 = 0xff90_85d8;
        let sleep = |args, request: Words, remaining: Words| {
            Restarted::Nanosleep.number_32(args, |at| match at {
                REQUEST => Some(request),
                REMAINING => Some(remaining),
                _ => None,
            })
        };
        let clock = [1, 0, REQUEST, REMAINING, 0, 0];
        let old = [1, 600_000_000, 7, 7];
        let new = [1, 0, 600_000_000, 0xffff_ffff];
        let whole_seconds = [1, 0, 7, 7];
        assert_eq!(sleep([REQUEST, 0, 0, 0, 0, 0], old, old), 162);
        assert_eq!(sleep(clock, whole_seconds, old), 267);
        assert_eq!(sleep(clock, whole_seconds, new), 407);
        // Nothing was written anywhere.
        let clock = [1, 0, REQUEST, 0, 0, 0];
        assert_eq!(sleep(clock, old, old), 267);
        assert_eq!(sleep(clock, new, old), 407);
        assert_eq!(sleep(clock, whole_seconds, old), 407, "late, never early");
        let code_behind = [1, 0, 0xffff_ffff, 0];
        assert_eq!(sleep(clock, code_behind, old), 267);
        assert_eq!(sleep([1, 0, 4096, 0, 0, 0], new, new), 267, "out of reach");

        let futex = |at| Restarted::Futex.number_32([8192, 128, 0, at, 0, 0], |_| Some(new));
        assert_eq!(futex(REQUEST), 422);
        assert_eq!(Restarted::Poll.number_32(clock, |_| None), 168);
    }

    #[test]
    fn a_sleeper_is_timed() {
        if std::fs::metadata("/proc/thread-self/sched").is_err() {
            eprintln!("this kernel does not say when a thread ran last");
            return;
        }
        let begun = std::time::Instant::now();
        let sleeper = std::thread::spawn(|| std::thread::sleep(Duration::from_secs(2)));
        std::thread::sleep(Duration::from_millis(500));
        let pid = Pid::own();
        let mut clocks = ProcessorClocks::default();
        let threads = Glimpse::of_threads(pid).unwrap();
        let seen = Looked::look(pid, &threads, &Looked::default(), &mut clocks, || ());
        let now = monotonic().unwrap();
        let most = u64::try_from(begun.elapsed().as_nanos()).unwrap();
        let milli = 1_000_000;
        let since = seen.asleep().filter_map(|thread| thread.since);
        let waited: Vec<u64> = since.map(|since| now - since).collect();
        // Who has slept since then is not looked at again.
        let asleep_since = |looked: &Looked| {
            let since = |thread: &Asleep| (thread.tid, thread.since);
            looked.asleep().map(since).collect::<Vec<_>>()
        };
        let threads = Glimpse::of_threads(pid).unwrap();
        let again = Looked::look(pid, &threads, &seen, &mut clocks, || ());
        let (first, again) = (asleep_since(&seen), asleep_since(&again));
        sleeper.join().unwrap();
        // The clocks of two processors are compared with some microseconds' error.
        let about = 200 * milli..=most + milli;
        assert!(waited.iter().any(|w| about.contains(w)), "{waited:?}");
        let same = |sleeper| again.contains(sleeper);
        assert!(first.iter().any(same), "{first:?} {again:?}");
    }
}
