//! Processes and threads: lists, whether they live, and the contents of `stat` and `syscall`.

use std::io;
use std::time::{Duration, Instant};

use criu_signals_images::{ExitSignal, Pid, SigNo, Tid};

use super::{
    SignalStatus, is_stopped, not_understood, of_task, read, read_text, task_file, text_of,
};
use crate::error::{Cause, Error, Result};
use crate::in_time;

/// In the flags of a task: it was made by the kernel (include/linux/sched.h).
const PF_KTHREAD: u32 = 0x0020_0000;

/// It works for io_uring(7).
const PF_IO_WORKER: u32 = 0x0000_0010;

/// It was made by the kernel for a program: io_uring's workers, and since 6.4 vhost's.
const PF_USER_WORKER: u32 = 0x0000_4000;

/// It is in do_exit, or get_signal has found what ends it (linux/sched.h).
const PF_EXITING: u32 = 0x0000_0004;

const PF_SIGNALED: u32 = 0x0000_0400;

/// Is it a thread of the kernel's own? They are in the first pid namespace only, where kthreadd is 2; in another one that
/// is somebody like all others.
pub fn is_kernel_thread(pid: Pid, tid: Tid) -> bool {
    let flags = in_time::look("stat", move || flags(pid, tid));
    flags.is_ok_and(|flags| flags.is_some_and(|flags| flags & PF_KTHREAD != 0))
}

/// How many threads of `pid`, the first apart, are not about to end. When a process is killed, its first thread can have
/// ended some time before the others.
pub fn lasting_others(pid: Pid) -> usize {
    let others = threads(pid).unwrap_or_default().into_iter().skip(1);
    others.filter(|&tid| lasts(pid, tid)).count()
}

/// Has each thread of `pid` ended, or is about to?
pub fn is_gone(pid: Pid) -> bool {
    !lasts(pid, pid.into()) && lasting_others(pid) == 0
}

/// Neither dead nor about to end.
fn lasts(pid: Pid, tid: Tid) -> bool {
    SignalStatus::read(pid, tid).is_ok_and(|status| {
        let pending = status.pending.union(status.shared_pending);
        !status.dead && status.has_memory && !pending.contains(SigNo::KILL)
    }) && !is_ending(pid, tid)
}

/// Is the thread on its way out of the kernel's get_signal or do_exit? SIGKILL is not pending any more by then.
fn is_ending(pid: Pid, tid: Tid) -> bool {
    const FLAGS: usize = 9;
    const EXIT_CODE: usize = 52;
    let stat = match in_time::look("stat", move || stat(pid, tid)) {
        Ok(Some(stat)) => stat,
        Ok(None) => return true,
        // It is in execve(2).
        Err(_) => return false,
    };
    let flags: u32 = field(&stat, FLAGS).unwrap_or_default();
    // That of a process that ends is shown from the beginning (Linux 5.18, do_task_stat). Only SIGKILL tells: any other number
    // may be that of a stop, which a thread keeps until it runs again (ptrace_stop), also when its tracer has died, and it is
    // traced and stopped no more. What ends in another way has one of the flags a moment later.
    let code: i32 = field(&stat, EXIT_CODE).unwrap_or_default();
    flags & (PF_EXITING | PF_SIGNALED) != 0 || code == libc::SIGKILL
}

/// Is there a process `pid` that has not ended? Its leader may have.
pub fn is_alive(pid: Pid) -> bool {
    SignalStatus::read(pid, Tid::from(pid))
        .is_ok_and(|status| !status.dead || listed(pid).is_ok_and(|threads| threads.len() > 1))
}

/// `35 0x7ffd 0x0 ... SP IP` (proc_pid_syscall(5)); `running` or -1 for a thread that does not wait in a call.
pub(crate) fn parse_call(line: &str) -> Option<(u32, [u64; 8])> {
    let mut words = line.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut numbers = [0; 8];
    for slot in &mut numbers {
        *slot = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    Some((number, numbers))
}

/// The first argument of the system call that a stopped thread is in, or at the exit of.
///
/// # Errors
/// If the kernel does not say it.
pub(crate) fn first_argument(tid: Tid) -> Result<u64> {
    let line = read_text(task_file(Pid::from(tid), tid, "syscall"))
        .map_err(|e| of_task("read syscall", &e).in_thread(tid))?;
    match parse_call(&line) {
        Some((_, [first, ..])) => Ok(first),
        None => {
            let why = Cause::Unexpected(format!(
                "the thread is in a call, and its file says {line:?}"
            ));
            Err(Error::new("read syscall", why).in_thread(tid))
        }
    }
}

/// Does the leader of `pid` wait for a child, whichever ends first: wait4(-1, ...)?
pub fn waits_for_any_child(pid: Pid) -> bool {
    let look = move || {
        let line = read_text(super::task_file(pid, pid.into(), "syscall")).ok()?;
        let (number, args) = parse_call(&line)?;
        // An int: the upper half is anything.
        let any = args[0] & u64::from(u32::MAX) == u64::from(u32::MAX);
        Some(i64::from(number) == libc::SYS_wait4 && any)
    };
    in_time::look("syscall", look)
        .ok()
        .flatten()
        .unwrap_or(false)
}

/// The threads of `pid`, the leader first, without those that the kernel runs in its name.
///
/// # Errors
/// [`Cause::Died`](crate::error::Cause::Died) if the process is gone; ETIMEDOUT if it has several threads
/// ([`in_time::look`]).
pub fn threads(pid: Pid) -> Result<Vec<Tid>> {
    let threads = listed(pid)?;
    // One alone is the program's own.
    if threads.len() == 1 {
        return Ok(threads);
    }
    in_time::look("stat", move || without_workers(pid, threads))
}

fn without_workers(pid: Pid, mut threads: Vec<Tid>) -> Vec<Tid> {
    if threads.len() > 1 {
        threads.retain(|&tid| tid.get() == pid.get() || !is_worker(pid, tid));
    }
    threads
}

/// The threads of `pid`, the leader first, with those that the kernel runs in its name.
pub(crate) fn listed(pid: Pid) -> Result<Vec<Tid>> {
    let dir =
        std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| of_task("list threads", &e))?;
    let mut threads = Vec::new();
    for entry in dir {
        let entry = entry.map_err(|e| Error::io("list threads", &e))?;
        if let Some(tid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            .and_then(Tid::new)
        {
            threads.push(tid);
        }
    }
    threads.sort_by_key(|tid| (tid.get() != pid.get(), tid.get()));
    Ok(threads)
}

/// Is there a thread of `pid` with this number?
pub fn has_thread(pid: Pid, tid: Tid) -> bool {
    std::fs::metadata(task_file(pid, tid, "")).is_ok()
}

/// Is it one of the threads that io_uring(7) and vhost let work inside the kernel? They are listed with the program's, never
/// execute its code, have no signal state that a program could see, and do not stop as its threads do. The caller has stopped
/// the leader of `pid` by ptrace(2).
pub(crate) fn is_worker(pid: Pid, tid: Tid) -> bool {
    flags(pid, tid).is_some_and(|flags| flags & (PF_IO_WORKER | PF_USER_WORKER) != 0)
}

/// The kernel's flags of a thread.
fn flags(pid: Pid, tid: Tid) -> Option<u32> {
    field(&stat(pid, tid)?, 9)
}

/// `/proc/PID/task/TID/stat` (proc_pid_stat(5)) from its third field on. The name before it may hold anything but ends at
/// the last parenthesis.
pub(super) fn stat(pid: Pid, tid: Tid) -> Option<String> {
    let mut bytes = read(task_file(pid, tid, "stat")).ok()?;
    let end = bytes.iter().rposition(|&byte| byte == b')')?;
    String::from_utf8(bytes.split_off(end + 1)).ok()
}

/// A field of [`stat`], by its number in proc_pid_stat(5).
fn field<T: std::str::FromStr>(stat: &str, number: usize) -> Option<T> {
    const FIRST: usize = 3;
    let mut fields = stat.split_ascii_whitespace();
    fields.nth(number - FIRST)?.parse().ok()
}

/// Waits until all of `threads` are stopped by job control again. False if that does not happen before `deadline`.
///
/// # Errors
/// [`Cause::Died`](crate::error::Cause::Died) if one of `threads` is gone; [`Cause::Proc`](crate::error::Cause::Proc)
/// if its `status` has another format.
pub fn wait_stopped(pid: Pid, threads: &[Tid], deadline: Instant) -> Result<bool> {
    for &tid in threads {
        while !is_stopped(pid, tid)? {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    Ok(true)
}

/// The children of all threads of `pid`, zombies among them. Complete only while `pid` is stopped.
///
/// # Errors
/// [`Cause::Died`](crate::error::Cause::Died) if the process is gone; ENOENT if a thread ends meanwhile, or if the
/// kernel has no `children` (CONFIG_PROC_CHILDREN).
pub fn children(pid: Pid) -> Result<Vec<Pid>> {
    let mut children = Vec::new();
    // What the kernel runs has none.
    for tid in listed(pid)? {
        let list = read_text(task_file(pid, tid, "children"))
            .map_err(|e| Error::io("read children", &e).in_thread(tid))?;
        children.extend(
            list.split_ascii_whitespace()
                .filter_map(|n| n.parse().ok())
                .filter_map(Pid::new),
        );
    }
    Ok(children)
}

/// `root` and all that descends from it, parents first. What comes and goes meanwhile may be there or not.
pub fn tree(root: Pid) -> Vec<Pid> {
    let mut tree = vec![root];
    let mut at = 0;
    while let Some(&pid) = tree.get(at) {
        tree.extend(children(pid).unwrap_or_default());
        at += 1;
    }
    tree
}

/// What the parent of `pid` is sent when it ends (field 38 of `/proc/PID/stat`).
///
/// # Errors
/// Those of [`exit_signal_of_stopped`]; ETIMEDOUT ([`in_time::look`]).
pub fn exit_signal(pid: Pid) -> Result<Option<ExitSignal>> {
    in_time::look("stat", move || exit_signal_of_stopped(pid))?
}

/// The same of a process whose leader the caller has stopped by ptrace(2).
///
/// # Errors
/// [`Cause::Died`](crate::error::Cause::Died) if the process is gone; [`Cause::Proc`](crate::error::Cause::Proc) if
/// `stat` has another format.
pub fn exit_signal_of_stopped(pid: Pid) -> Result<Option<ExitSignal>> {
    let text = text_of(pid, "stat", "read stat")?;
    parse_exit_signal(&text).ok_or_else(|| not_understood("read stat"))
}

pub(crate) fn parse_exit_signal(text: &str) -> Option<Option<ExitSignal>> {
    let number: i32 = field(behind_name(text)?, 38)?;
    Some(u32::try_from(number).ok().and_then(ExitSignal::new))
}

/// How `pid` ended, as wait(2) tells it (field 52 of `/proc/PID/stat`); `None` if it has not, or is gone.
pub fn exit_status(pid: Pid) -> Option<u32> {
    // Of those that have not, nothing has to be waited for.
    if !SignalStatus::read(pid, pid.into()).is_ok_and(|status| status.dead) {
        return None;
    }
    let text = in_time::look("stat", move || text_of(pid, "stat", "read stat"));
    let text = text.ok()?.ok()?;
    let stat = behind_name(&text)?;
    let state: char = field(stat, 3)?;
    let threads: i64 = field(stat, 20)?;
    let ended = matches!(state, 'Z' | 'X') && threads <= 1;
    field::<i32>(stat, 52)
        .filter(|_| ended)
        .and_then(|status| u32::try_from(status).ok())
}

/// `/proc/PID/stat` (proc_pid_stat(5)) from its third field on. The name before it may hold anything but ends at the last
/// parenthesis.
fn behind_name(stat: &str) -> Option<&str> {
    stat.rsplit_once(')').map(|(_, rest)| rest)
}

/// When `pid` was started, in clock ticks since boot: with the pid it names one process for good.
///
/// # Errors
/// Those of [`start_time_of_stopped`]; ETIMEDOUT ([`in_time::look`]).
pub fn start_time(pid: Pid) -> Result<u64> {
    in_time::look("stat", move || start_time_of_stopped(pid))?
}

/// The same of a process whose leader the caller has stopped by ptrace(2).
///
/// # Errors
/// [`Cause::Died`](crate::error::Cause::Died) if the process is gone; [`Cause::Proc`](crate::error::Cause::Proc) if
/// `stat` has another format.
pub fn start_time_of_stopped(pid: Pid) -> Result<u64> {
    let text = text_of(pid, "stat", "read stat")?;
    parse_start(&text).ok_or_else(|| not_understood("read stat"))
}

pub(crate) fn parse_start(text: &str) -> Option<u64> {
    field(behind_name(text)?, 22)
}

/// The processor time of all threads of `pid`, also of ended ones, in nanoseconds: what counts against RLIMIT_CPU.
pub(super) fn cpu_time(pid: Pid) -> Result<u64> {
    in_time::look("stat", move || cpu_time_of_stopped(pid))?
}

/// The same of a process that is stopped, so that the read does not wait.
///
/// # Errors
/// If the process is gone.
pub fn cpu_time_of_stopped(pid: Pid) -> Result<u64> {
    let text = text_of(pid, "stat", "read stat")?;
    let ticks = parse_cpu_time(&text).ok_or_else(|| not_understood("read stat"))?;
    Ok(ticks.saturating_mul(1_000_000_000 / procfs::ticks_per_second()))
}

/// utime and stime.
fn parse_cpu_time(text: &str) -> Option<u64> {
    let stat = behind_name(text)?;
    field::<u64>(stat, 14)?.checked_add(field(stat, 15)?)
}

/// The time by which [`start_time`] goes.
pub fn ticks() -> u64 {
    let since_boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_or(Duration::ZERO, Duration::from);
    let ticks = since_boot.as_nanos() * u128::from(procfs::ticks_per_second()) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// How long ago `pid` was started. `None` if it is gone.
pub fn age(pid: Pid) -> Option<Duration> {
    let ticks = start_time(pid).ok()?;
    let since_boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).ok()?;
    let started = Duration::from_millis(ticks.checked_mul(1000)? / procfs::ticks_per_second());
    Some(Duration::from(since_boot).saturating_sub(started))
}

/// All processes that are to be seen.
pub fn all() -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    let pid = |entry: io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    entries.filter_map(pid).filter_map(Pid::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_thread_shows_its_call() {
        let line = "230 0x0 0x0 0x7ffc5c685820 0x0 0x0 0x0 0x7ffc5c685808 0x7fa13996b503\n";
        let (number, numbers) = parse_call(line).unwrap();
        assert_eq!(number, 230);
        assert_eq!(numbers[7], 0x7fa1_3996_b503);
        assert_eq!(parse_call("running\n"), None);
        assert_eq!(parse_call("-1 0x7ffc 0x7fa1\n"), None);
    }
}
