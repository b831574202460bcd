//! One process, read by BPF and by ptrace(2): every field that both tell has to be the same.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::bpf::process::ProcessReader;
use criu_signals::bpf::stopped::StoppedReader;
use criu_signals::engine::capture;
use criu_signals::images::{
    InterruptedCall, Pid, ProcessState, ThreadState, TimerEntry, WaitStatus,
};
use criu_signals::reading::{Read as _, Reading, Stopping};
use criu_signals::tracee::{ByUs, StoppedProcess};

use crate::procfs;
use crate::wait;

/// A program that runs on is read so often until it is the same before and after.
const ROUNDS: u32 = 50;
const STEP: Duration = Duration::from_millis(1);
/// Of these, so often where a thread runs.
const RUNNING: u32 = 8;
/// What is said of a thread that runs.
pub const RUNS: &str = "runs, so that its stack pointer can't be read";
/// So many nanoseconds may pass from one reading to the other, on however busy a machine.
const MOST_APART: u64 = 60_000_000_000;

/// Reads `pid` both ways until it has not changed in between, and compares.
pub fn compare(reader: &mut ProcessReader, pid: procfs::Pid) -> Result<Reading> {
    let pid = Pid::new(pid).context("a pid")?;
    let mut stopping = Stopping {
        timeout: wait::PATIENCE,
        most: None,
    };
    let mut changed = String::new();
    for round in 0..ROUNDS {
        // On a busy machine a process takes some time to be again where it was before it was stopped.
        sleep(STEP * round);
        let before = match reader.read(pid).context("by BPF") {
            // One that has just been started may still be on its way to where it waits.
            Err(why) if round < RUNNING && format!("{why:#}").contains(RUNS) => continue,
            read => read?,
        };
        let stopped = stopping.read(pid).context("by ptrace(2)")?;
        let after = reader.read(pid).context("by BPF")?;
        let mut moved = differences(&before, &after);
        // Calls come and go with time.
        moved.extend(call_differences(&before, &after));
        moved.extend(call_differences(&before, &stopped));
        if !moved.is_empty() {
            changed = moved.join("; ");
            continue;
        }
        ensure_same(pid, "ptrace(2)", &before, &stopped)?;
        return Ok(before);
    }
    bail!("pid {pid} never stands still: {changed}")
}

/// As [`compare`], of a process that somebody sends a signal as soon as it is stopped: read both ways in one stop, when the signal
/// is there.
pub fn compare_stopped(reader: &mut ProcessReader, pid: procfs::Pid) -> Result<()> {
    let pid = Pid::new(pid).context("a pid")?;
    let stopped = StoppedProcess::<ByUs>::seize(pid, wait::PATIENCE)?;
    let both = both_when_sent(reader, &stopped);
    stopped.release()?;
    let (by_bpf, by_calls) = both?;
    ensure_same(pid, "ptrace(2)", &by_bpf, &by_calls)
}

fn both_when_sent(
    reader: &mut ProcessReader,
    stopped: &StoppedProcess<ByUs>,
) -> Result<(Reading, Reading)> {
    let by_bpf = wait::until(
        "the signal that is sent during the stop",
        wait::PATIENCE,
        || {
            let reading = reader.read(stopped.pid()).context("by BPF")?;
            Ok((!reading.process.shared.queue.is_empty()).then_some(reading))
        },
    )?;
    Ok((by_bpf, of_stopped(capture::process(stopped)?)))
}

/// Stops `pid`, and captures it with and without what BPF tells of its threads.
pub fn compare_told(reader: &StoppedReader, pid: procfs::Pid) -> Result<()> {
    let pid = Pid::new(pid).context("a pid")?;
    let stopped = StoppedProcess::<ByUs>::seize(pid, wait::PATIENCE)?;
    let told = reader.read()?;
    let told = told.get(&pid).context("nothing is told of it")?;
    // What injected calls cost a thread: the mask of the call that it waits in.
    let reading = |mut process: ProcessState| {
        for thread in &mut process.threads {
            if let Some(mask) = thread.saved_mask.take() {
                thread.blocked = mask;
            }
        }
        of_stopped(process)
    };
    let by_bpf = capture::told(&stopped, told).map(reading);
    let by_calls = capture::process(&stopped).map(reading);
    let known = stopped.threads().len();
    stopped.release()?;
    ensure!(
        told.threads.len() >= known && told.dispositions.is_some(),
        "{told:?} is not all of {known} threads"
    );
    ensure_same(pid, "injected calls", &by_bpf?, &by_calls?)
}

/// What a capture has found, as a reading.
fn of_stopped(process: ProcessState) -> Reading {
    Reading {
        process,
        depths: None,
        waiting: Vec::new(),
        surroundings: Vec::new(),
        clocks: BTreeMap::new(),
    }
}

fn ensure_same(pid: Pid, other: &str, by_bpf: &Reading, by_other: &Reading) -> Result<()> {
    let differences = differences(by_bpf, by_other);
    ensure!(
        differences.is_empty(),
        "pid {pid}: BPF and {other} differ: {}",
        differences.join("; ")
    );
    Ok(())
}

/// What is not the same, field by field.
pub fn differences(a: &Reading, b: &Reading) -> Vec<String> {
    let mut found = Vec::new();
    let (one, other) = (&a.process, &b.process);
    macro_rules! same {
        ($name:expr, $one:expr, $other:expr) => {
            if $one != $other {
                found.push(format!("{}: {:?} and {:?}", $name, $one, $other));
            }
        };
    }
    same!("ids", one.ids, other.ids);
    same!("pid_ns", one.pid_ns, other.pid_ns);
    same!("comm", one.comm, other.comm);
    same!("exe", one.exe, other.exe);
    same!("compat", one.compat, other.compat);
    same!("limit", one.rlimit_sigpending, other.rlimit_sigpending);
    for ((signo, one), (_, other)) in one.dispositions.iter().zip(other.dispositions.iter()) {
        same!(format!("disposition of {signo}"), one, other);
    }
    same!("run state", one.run_state, other.run_state);
    if one.wait_status != WaitStatus::Unknown && other.wait_status != WaitStatus::Unknown {
        same!("wait status", one.wait_status, other.wait_status);
    }
    same!("shared bits", one.shared.bits, other.shared.bits);
    same!("shared queue", one.shared.queue, other.shared.queue);
    same!("exit signal", one.exit_signal, other.exit_signal);
    same!("stack needs", one.stack_needs, other.stack_needs);
    same!("number of timers", one.timers.len(), other.timers.len());
    for (one, other) in one.timers.iter().zip(&other.timers) {
        let is_aside_unseen = (one.entry, other.entry) == (TimerEntry::Ignored, TimerEntry::Idle);
        let fixed = |timer: &criu_signals::images::PosixTimer| criu_signals::images::PosixTimer {
            remaining: u64::from(timer.remaining != 0),
            entry_overrun: None,
            place_aside: None,
            // ptrace(2) can't tell a timer that was set while its entry was pending from one that was not, within a period.
            // Nor whether an entry is kept aside for an ignored signal of which another is pending.
            entry: match timer.entry {
                TimerEntry::Stale => TimerEntry::Pending,
                TimerEntry::Ignored if is_aside_unseen => TimerEntry::Idle,
                entry => entry,
            },
            ..*timer
        };
        same!(format!("timer {}", one.id), fixed(one), fixed(other));
        let apart = one.remaining.abs_diff(other.remaining);
        if one.interval == 0 && other.interval == 0 && apart > MOST_APART {
            same!(
                format!("timer {}, what remains", one.id),
                one.remaining,
                other.remaining
            );
        }
    }
    let armed = |reading: &Reading| -> Vec<(u32, u64, bool)> {
        let timers = reading.process.interval_timers.iter();
        timers
            .map(|timer| (timer.which, timer.interval, timer.is_armed()))
            .collect()
    };
    same!("interval timers", armed(a), armed(b));
    same!("number of threads", one.threads.len(), other.threads.len());
    for (one, other) in one.threads.iter().zip(&other.threads) {
        let tid = one.tid();
        let fixed = |thread: &ThreadState| ThreadState {
            interrupted: None,
            ..thread.clone()
        };
        same!(format!("thread {tid}"), fixed(one), fixed(other));
        if let (Some(one), Some(other)) = (one.interrupted, other.interrupted) {
            let fixed = |call: InterruptedCall| (call.code, call.ip);
            same!(
                format!("interrupted call of thread {tid}"),
                fixed(one),
                fixed(other)
            );
        }
    }
    found
}

/// As [`differences`], of the calls that threads are in.
fn call_differences(a: &Reading, b: &Reading) -> Vec<String> {
    let both = a.process.threads.iter().zip(&b.process.threads);
    let calls = both.map(|(one, other)| (one.tid(), call(a, one), call(b, other)));
    calls
        .filter(|(_, one, other)| one != other)
        .map(|(tid, one, other)| format!("call of thread {tid}: {one:?} and {other:?}"))
        .collect()
}

/// The call that a thread is in, interrupted or not, by the address behind it. Its number does not tell: a call that was
/// interrupted goes on as restart_syscall(2).
fn call(reading: &Reading, thread: &ThreadState) -> Option<u64> {
    let mut waiting = reading.waiting.iter();
    let waits = waiting.find(|call| call.tid == thread.tid());
    let interrupted = thread.interrupted.map(|call| call.ip);
    interrupted.or(waits.map(|call| call.ip))
}
