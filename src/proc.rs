//! Reads the state of processes and threads from `/proc`.
//!
//! Some files of a process that is in execve(2) have to be waited for. They are read with the bound of
//! [`crate::in_time`], but by functions that are for stopped processes only and say so.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use criu_signals_images::{
    ExitSignal, Name, Notify, NsIds, Pid, Rlimit, SigNo, SigSet, Siginfo, Tid,
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{major, minor};
use procfs::FromRead;
use procfs::process::Status;

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

/// More than most files of `/proc/PID` have.
const USUAL_SIZE: usize = 4096;

/// The signal lines of `/proc/PID/task/TID/status` (proc_pid_status(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignalStatus {
    /// Ids in every pid namespace from ours down to the task's own (`NSpid`).
    pub ids: NsIds,
    /// The command's name (`Name`).
    pub comm: Name,
    /// Is it a zombie or dead (`State`)?
    pub dead: bool,
    /// Has it memory? A task that is ending has none any more, a kernel thread never had.
    pub has_memory: bool,
    /// Pending for this thread (`SigPnd`), with siginfo or without.
    pub pending: SigSet,
    /// Pending for the process (`ShdPnd`).
    pub shared_pending: SigSet,
    /// The mask in force (`SigBlk`).
    pub blocked: SigSet,
    /// Numbers whose disposition is SIG_IGN (`SigIgn`).
    pub ignored: SigSet,
    /// Numbers with a handler (`SigCgt`).
    pub caught: SigSet,
    /// Queued signals charged to the task's real uid, those of all its processes together (`SigQ`).
    pub queued: u64,
}

impl SignalStatus {
    /// Reads it for one thread of `pid`.
    pub fn read(pid: Pid, tid: Tid) -> Result<SignalStatus> {
        let text = status_text(pid, tid)?;
        let operation = "read status";
        if !text.contains("\nNSpid:") {
            let why = Cause::Unsupported("the kernel gives no NSpid line".into());
            return Err(Error::new(operation, why));
        }
        SignalStatus::parse(&text).ok_or_else(|| {
            Error::new(operation, Cause::Proc(format!("not understood: {text:?}"))).in_thread(tid)
        })
    }

    /// Takes out of some 60 lines what is asked for here. [`Status`] makes a text and a number of each, which takes
    /// several times as long as the kernel does, and all threads of the process stand still meanwhile.
    pub(crate) fn parse(text: &str) -> Option<SignalStatus> {
        let mut lines = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name, value.trim()));
        // They come in this order (fs/proc/array.c, proc_pid_status).
        let mut value = |name| lines.find(|line| line.0 == name).map(|line| line.1);
        let comm = value("Name")?.to_owned();
        let state = value("State")?;
        let ids = value("NSpid")?.split_ascii_whitespace();
        let ids = NsIds::new(ids.map(|id| id.parse().ok()).collect::<Option<_>>()?)?;
        let has_memory = text.contains("\nVmSize:");
        let queued = value("SigQ")?.split_once('/')?.0.parse().ok()?;
        let mut set = |name| {
            let bits = u64::from_str_radix(value(name)?, 16).ok()?;
            Some(SigSet::from_bits(bits))
        };
        Some(SignalStatus {
            ids,
            comm: comm.into(),
            has_memory,
            dead: state.starts_with(['Z', 'X', 'x']),
            queued,
            pending: set("SigPnd")?,
            shared_pending: set("ShdPnd")?,
            blocked: set("SigBlk")?,
            ignored: set("SigIgn")?,
            caught: set("SigCgt")?,
        })
    }

    /// A signal that does nothing to this thread when it is delivered, and that is not pending now: it is
    /// ignored, by disposition or by default. SIGCHLD is left out, because ignoring it has effects of its own,
    /// and SIGCONT, because sending it has; and real-time signals, because sending one fails where
    /// RLIMIT_SIGPENDING leaves no room, while a legacy one is at least pending without a siginfo
    /// (`__send_signal_locked`). None of the six that faults send is harmless: while one of them is open, the kernel hands
    /// out another's entry, even a blocked one (`dequeue_synchronous_signal`). The tracer would pass that entry back,
    /// and find it again, for ever.
    ///
    /// Nor may it be one of `reserved`. A signal that the thread does not block is preferred: the same signal from
    /// somebody else is then ignored at any time, while a blocked one would have stayed pending.
    pub fn harmless_signal(&self, reserved: SigSet) -> Option<SigNo> {
        let default_ignored: SigSet = [SigNo::URG, SigNo::WINCH].into_iter().collect();
        let harmless = default_ignored.difference(self.caught).union(self.ignored);
        let unfit: SigSet = SigNo::all()
            .filter(|signo| signo.is_stop() || signo.is_realtime() || signo.is_synchronous())
            .chain([SigNo::CHLD, SigNo::CONT, SigNo::KILL])
            .collect();
        let fit = harmless
            .difference(unfit)
            .difference(self.pending)
            .difference(self.shared_pending)
            .difference(reserved);
        let best = fit.difference(self.blocked);
        best.iter().last().or_else(|| fit.iter().last())
    }

    /// The stop signals that are pending and that this thread would act upon if it was let go.
    pub fn open_stops(&self) -> SigSet {
        let pending = self.pending.union(self.shared_pending);
        SigNo::all()
            .filter(|s| s.is_stop())
            .filter(|&s| pending.contains(s) && (s == SigNo::STOP || !self.blocked.contains(s)))
            .collect()
    }
}

/// Is it a thread of the kernel's own? They are in the first pid namespace only, where kthreadd is 2; in another one that
/// is somebody like all others.
pub fn is_kernel_thread(pid: Pid, tid: Tid) -> bool {
    let flags = in_time::look("stat", move || flags(pid, tid));
    flags.is_ok_and(|flags| flags.is_some_and(|flags| flags & PF_KTHREAD != 0))
}

/// How a thread's system calls are judged (`Seccomp` of proc_pid_status(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seccomp {
    /// They are not.
    Off,
    /// SECCOMP_MODE_STRICT: all but four end the thread.
    Strict,
    /// SECCOMP_MODE_FILTER: by a program.
    Filter,
}

/// How are the system calls of the thread judged?
pub fn seccomp(pid: Pid, tid: Tid) -> Result<Seccomp> {
    let status = status(pid, tid)?;
    match status.seccomp {
        None | Some(0) => Ok(Seccomp::Off),
        Some(1) => Ok(Seccomp::Strict),
        Some(_) => Ok(Seccomp::Filter),
    }
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

/// Why a thread in uninterruptible sleep (`D` in proc_pid_stat(5)) does not stop. `Display` says it for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uninterruptible {
    /// A freezer of cgroup v1 holds it.
    Frozen,
    /// It waits for its child, in this function of the kernel.
    InVfork(String),
    /// In this function of the kernel, if that is shown.
    Elsewhere(Option<String>),
}

impl Uninterruptible {
    /// In the function that `/proc/PID/task/TID/wchan` names: as `ps -o wchan` shows it, what it waits for is in the name.
    fn in_function(wchan: Option<String>) -> Uninterruptible {
        match wchan.filter(|function| function != "0") {
            // Which of its functions are inlined is the compiler's choice.
            Some(function) if function.contains("vfork") || function == "kernel_clone" => {
                Uninterruptible::InVfork(function)
            }
            other => Uninterruptible::Elsewhere(other),
        }
    }
}

impl fmt::Display for Uninterruptible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SLEEPS: &str = "in uninterruptible sleep";
        match self {
            Uninterruptible::Frozen => f.write_str("held by a freezer of cgroup v1"),
            Uninterruptible::InVfork(function) => write!(
                f,
                "{SLEEPS}, in {function} (vfork: until its child has called exec or has ended)"
            ),
            Uninterruptible::Elsewhere(Some(function)) => write!(f, "{SLEEPS}, in {function}"),
            Uninterruptible::Elsewhere(None) => f.write_str(SLEEPS),
        }
    }
}

/// What a thread waits for that does not stop; `None` if it is not in uninterruptible sleep.
pub fn uninterruptible(pid: Pid, tid: Tid) -> Option<Uninterruptible> {
    let status = status(pid, tid).ok()?;
    if !status.state.starts_with('D') {
        return None;
    }
    if is_frozen(pid).unwrap_or(false) {
        return Some(Uninterruptible::Frozen);
    }
    let wchan = in_time::look("wchan", move || {
        read_text(task_file(pid, tid, "wchan")).ok()
    });
    Some(Uninterruptible::in_function(wchan.ok().flatten()))
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

/// The threads of `pid`, the leader first, without those that the kernel runs in its name.
pub fn threads(pid: Pid) -> Result<Vec<Tid>> {
    let threads = listed(pid)?;
    // One alone is the program's own.
    if threads.len() == 1 {
        return Ok(threads);
    }
    in_time::look("stat", move || without_workers(pid, threads))
}

/// The same of a process whose leader the caller has stopped by ptrace(2).
pub fn threads_of_stopped(pid: Pid) -> Result<Vec<Tid>> {
    Ok(without_workers(pid, listed(pid)?))
}

fn without_workers(pid: Pid, mut threads: Vec<Tid>) -> Vec<Tid> {
    if threads.len() > 1 {
        threads.retain(|&tid| tid.get() == pid.get() || !is_worker(pid, tid));
    }
    threads
}

/// With those that the kernel runs.
fn listed(pid: Pid) -> Result<Vec<Tid>> {
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
/// execute its code, have no signal state that a program could see, and do not stop as its threads do.
fn is_worker(pid: Pid, tid: Tid) -> bool {
    flags(pid, tid).is_some_and(|flags| flags & (PF_IO_WORKER | PF_USER_WORKER) != 0)
}

/// The kernel's flags of a thread.
fn flags(pid: Pid, tid: Tid) -> Option<u32> {
    field(&stat(pid, tid)?, 9)
}

/// `/proc/PID/task/TID/stat` (proc_pid_stat(5)) from its third field on. The name before it may hold anything but ends at
/// the last parenthesis.
fn stat(pid: Pid, tid: Tid) -> Option<String> {
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

/// Is the thread stopped by job control: not running, and not in the hands of a tracer?
pub fn is_stopped(pid: Pid, tid: Tid) -> Result<bool> {
    let status = status(pid, tid)?;
    Ok(status.state.starts_with('T'))
}

/// What one look at the status of a thread shows that may be running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glimpse {
    /// The thread.
    pub tid: Tid,
    /// Is it traced (`TracerPid`)?
    pub traced: bool,
    /// Is it stopped by job control (`State`)?
    pub stopped: bool,
    /// What is pending for the thread or for its process (`SigPnd`, `ShdPnd`).
    pub pending: SigSet,
    /// How often the thread gave up its processor because it had to wait (`voluntary_ctxt_switches`).
    pub switches: u64,
}

impl Glimpse {
    /// Looks at the threads of `pid`, the leader first. Threads that end meanwhile are left out.
    pub fn of_threads(pid: Pid) -> Result<Vec<Glimpse>> {
        let is_there = |glimpse: &Result<Glimpse>| !matches!(glimpse, Err(e) if e.is_died());
        let threads = threads(pid)?.into_iter();
        threads
            .map(|tid| Glimpse::of_thread(pid, tid))
            .filter(is_there)
            .collect()
    }

    /// Looks at one thread of `pid`.
    pub fn of_thread(pid: Pid, tid: Tid) -> Result<Glimpse> {
        let text = status_text(pid, tid)?;
        Glimpse::parse(tid, &text).ok_or_else(|| not_understood("read status").in_thread(tid))
    }

    pub(crate) fn parse(tid: Tid, text: &str) -> Option<Glimpse> {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        // They come in this order (fs/proc/array.c, proc_pid_status).
        let mut value = |name| lines.find(|line| line.0 == name).map(|line| line.1.trim());
        let state = value("State")?;
        let traced = value("TracerPid")? != "0";
        let mut set = |name| {
            let bits = u64::from_str_radix(value(name)?, 16).ok()?;
            Some(SigSet::from_bits(bits))
        };
        let pending = set("SigPnd")?.union(set("ShdPnd")?);
        Some(Glimpse {
            tid,
            traced,
            stopped: state.starts_with('T'),
            pending,
            switches: value("voluntary_ctxt_switches")?.parse().ok()?,
        })
    }
}

/// The thread that traces this one, and its name.
pub fn tracer(pid: Pid, tid: Tid) -> Result<Option<(Tid, Name)>> {
    let status = status(pid, tid)?;
    let Some(tracer) = Tid::new(status.tracerpid) else {
        return Ok(None);
    };
    // It may end at any moment.
    let name = read_text(format!("/proc/{tracer}/comm"));
    let name = name.unwrap_or_default();
    Ok(Some((tracer, name.trim_end_matches('\n').into())))
}

/// Is a thread of `pid` stopped by job control, although a freezer of cgroup v1 may hold it, which then shows as
/// uninterruptible sleep?
pub fn is_stopped_or_held(pid: Pid) -> bool {
    let threads = threads(pid).unwrap_or_default();
    let stops = move |tid| {
        read_text(task_file(pid, tid, "wchan"))
            .is_ok_and(|function| matches!(&*function, "do_signal_stop" | "get_signal"))
    };
    let mut each = threads.iter();
    each.any(|&tid| is_stopped(pid, tid).unwrap_or(false))
        || in_time::look("wchan", move || threads.into_iter().any(stops)).unwrap_or(false)
}

/// Waits until all of `threads` are stopped by job control again. False if that does not happen before `deadline`.
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

/// Does a freezer of cgroup v1 hold the process? Then no tracer can stop it before it is thawed. That of v2 does not
/// stand in the way.
pub fn is_frozen(pid: Pid) -> Result<bool> {
    let text = text_of(pid, "cgroup", "read cgroup")?;
    Ok(cgroups(&text)
        .filter(|(_, controllers, _)| controllers.split(',').any(|name| name == "freezer"))
        .any(|(_, _, path)| {
            let state = format!("/sys/fs/cgroup/freezer{path}/freezer.state");
            read_text(state).is_ok_and(|state| state.trim() != "THAWED")
        }))
}

/// The lines of `/proc/PID/cgroup` (cgroups(7)): hierarchy, which is 0 for v2, controllers, path.
pub(crate) fn cgroups(text: &str) -> impl Iterator<Item = (u32, &str, &str)> {
    text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let hierarchy = parts.next()?.parse().ok()?;
        Some((hierarchy, parts.next()?, parts.next()?))
    })
}

/// Does a freezer hold the process, of whichever version? Then nothing can be executed in it, although with v2 a tracer can
/// stop it.
pub fn is_held(pid: Pid) -> bool {
    /// Where cgroup v2 is mounted, alone or beside v1.
    const V2: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let text = text_of(pid, "cgroup", "read cgroup");
    let frozen = |dir: &std::path::Path| {
        read_text(dir.join("cgroup.freeze")).is_ok_and(|told| told.trim() == "1")
    };
    let by_v2 = text.is_ok_and(|text| {
        cgroups(&text)
            .filter(|(hierarchy, _, _)| *hierarchy == 0)
            .any(|(_, _, path)| {
                V2.map(|mount| PathBuf::from(format!("{mount}{path}")))
                    .iter()
                    .any(|dir| dir.ancestors().any(frozen))
            })
    });
    by_v2 || is_frozen(pid).unwrap_or(false)
}

/// Is the process stopped by job control, and held by a freezer of cgroup v1, which shows as uninterruptible sleep?
pub fn is_stopped_and_held(pid: Pid) -> bool {
    let Ok(leader) = status(pid, Tid::from(pid)) else {
        return false;
    };
    match leader.state.as_bytes().first() {
        Some(b'D') => is_stopped_or_held(pid),
        // Other threads are left.
        Some(b'Z') => is_frozen(pid).unwrap_or(false) && is_stopped_or_held(pid),
        _ => false,
    }
}

/// The soft and hard RLIMIT_SIGPENDING of `pid`.
pub fn rlimit_sigpending(pid: Pid) -> Result<Rlimit> {
    limit(pid, "Max pending signals")
}

fn limit(pid: Pid, name: &str) -> Result<Rlimit> {
    let text = text_of(pid, "limits", "read limits")?;
    parse_limit(&text, name).ok_or_else(|| not_understood("read limits"))
}

/// A line of `/proc/PID/limits` (proc_pid_limits, fs/proc/base.c): name, soft and hard limit, unit.
pub(crate) fn parse_limit(text: &str, name: &str) -> Option<Rlimit> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut values = line.split_ascii_whitespace().map(|word| match word {
        "unlimited" => Some(Rlimit::INFINITY),
        number => number.parse().ok(),
    });
    Some(Rlimit {
        soft: values.next()??,
        hard: values.next()??,
    })
}

/// A file of `/proc/PID`. What is not UTF-8 in it is replaced.
fn text_of(pid: Pid, name: &str, operation: &'static str) -> Result<String> {
    let bytes = read(format!("/proc/{pid}/{name}")).map_err(|e| of_task(operation, &e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn not_understood(operation: &'static str) -> Error {
    Error::new(operation, Cause::Proc("unknown format".to_owned()))
}

/// What procfs makes of a file. It panics on some texts that it does not expect, which is an error here.
fn parsed<T>(operation: &'static str, parse: impl FnOnce() -> procfs::ProcResult<T>) -> Result<T> {
    let parsed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(parse));
    parsed
        .map_err(|_| not_understood(operation))?
        .map_err(|e| Error::proc(operation, &e))
}

/// The parent of `pid`, which is not the tracer (`PPid`). `None`: it is in none of our pid namespaces.
pub fn parent(pid: Pid) -> Result<Option<Pid>> {
    let text = status_text(pid, pid.into())?;
    parse_parent(&text).ok_or_else(|| not_understood("read status"))
}

pub(crate) fn parse_parent(status: &str) -> Option<Option<Pid>> {
    // A newline in the name before it is escaped (task_name, fs/proc/array.c).
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Some(Pid::new(line.trim().parse().ok()?))
}

/// What the parent of `pid` is sent when it ends (field 38 of `/proc/PID/stat`).
pub fn exit_signal(pid: Pid) -> Result<Option<ExitSignal>> {
    in_time::look("stat", move || exit_signal_of_stopped(pid))?
}

/// The same of a process whose leader the caller has stopped by ptrace(2).
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
pub fn start_time(pid: Pid) -> Result<u64> {
    in_time::look("stat", move || start_time_of_stopped(pid))?
}

/// The same of a process whose leader the caller has stopped by ptrace(2).
pub fn start_time_of_stopped(pid: Pid) -> Result<u64> {
    let text = text_of(pid, "stat", "read stat")?;
    parse_start(&text).ok_or_else(|| not_understood("read stat"))
}

pub(crate) fn parse_start(text: &str) -> Option<u64> {
    field(behind_name(text)?, 22)
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

/// One timer of `/proc/PID/timers` (proc_pid_timers(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerLine {
    /// The kernel's number of it.
    pub id: i32,
    /// The number of its signal.
    pub signo: i32,
    /// The value that comes with the signal.
    pub value: u64,
    /// Whom it tells. Of a thread, the id as the reader sees it.
    pub notify: Notify,
    /// Its clock.
    pub clock: i32,
}

impl TimerLine {
    /// Does this siginfo look as the timer's own entry does?
    pub fn made(&self, info: &Siginfo) -> bool {
        self.notify != Notify::Nobody && info.is_of_timer(self.signo, self.id, self.value)
    }
}

/// The POSIX timers of `pid`, by id. Read without its help.
pub fn timers(pid: Pid) -> Result<Vec<TimerLine>> {
    const OPERATION: &str = "read timers";
    let text = match read_text(format!("/proc/{pid}/timers")) {
        Ok(text) => text,
        Err(e)
            if e.kind() == io::ErrorKind::NotFound
                && std::fs::exists(format!("/proc/{pid}")).unwrap_or(false) =>
        {
            // CONFIG_CHECKPOINT_RESTORE, without which there is no CRIU either.
            return Err(Error::new(
                OPERATION,
                Cause::Unsupported("the kernel has no /proc/PID/timers".into()),
            ));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::new(OPERATION, Cause::Died));
        }
        Err(e) => return Err(Error::io(OPERATION, &e)),
    };
    let mut timers = parse_timers(&text)
        .ok_or_else(|| Error::new(OPERATION, Cause::Proc(format!("not understood: {text:?}"))))?;
    timers.sort_by_key(|timer| timer.id);
    Ok(timers)
}

/// Four lines a timer: `ID: 1`, `signal: 60/00007fff86e452a8`, `notify: signal/pid.2634`, `ClockID: 0`
/// (fs/proc/base.c, show_timer). Lines with other names are left for kernels to come.
pub(crate) fn parse_timers(text: &str) -> Option<Vec<TimerLine>> {
    let mut timers: Vec<TimerLine> = Vec::new();
    for line in text.lines() {
        let (name, value) = line.split_once(':')?;
        let value = value.trim();
        if name == "ID" {
            timers.push(TimerLine {
                id: value.parse().ok()?,
                signo: 0,
                value: 0,
                notify: Notify::Nobody,
                clock: 0,
            });
            continue;
        }
        let timer = timers.last_mut()?;
        match name {
            "signal" => {
                let (signo, pointer) = value.split_once('/')?;
                timer.signo = signo.parse().ok()?;
                // "(null)" is how %p shows a null pointer.
                timer.value = match pointer.trim() {
                    "(null)" => 0,
                    hex => u64::from_str_radix(hex.trim_start_matches("0x"), 16).ok()?,
                };
            }
            "notify" => {
                let (kind, whom) = value.split_once('/')?;
                timer.notify = match (kind, whom.split_once('.')?) {
                    ("signal", ("tid", tid)) => Notify::Thread(tid.parse().ok()?),
                    ("signal", _) => Notify::Process,
                    ("none", _) => Notify::Nobody,
                    ("thread", _) => Notify::Library,
                    _ => return None,
                };
            }
            "ClockID" => timer.clock = value.parse().ok()?,
            _ => {}
        }
    }
    Some(timers)
}

/// Is `fd` of thread `tid` a socket? The caller has stopped the leader by ptrace(2).
pub fn is_socket(pid: Pid, tid: Tid, fd: i32) -> bool {
    std::fs::read_link(task_file(pid, tid, &format!("fd/{fd}")))
        .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
}

/// The open file descriptors of `pid`.
pub fn descriptors(pid: Pid) -> Result<Vec<i32>> {
    let failed = |e| Error::io("list fd", &e);
    let mut descriptors = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        descriptors.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    descriptors.sort_unstable();
    Ok(descriptors)
}

/// Is `fd` of `pid` a timerfd? The caller has stopped the leader by ptrace(2).
pub fn is_timerfd(pid: Pid, fd: i32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/fd/{fd}"))
        .is_ok_and(|target| target.as_os_str() == "anon_inode:[timerfd]")
}

/// Is `fd` of `pid` a directory? The caller has stopped the leader by ptrace(2).
pub fn is_directory(pid: Pid, fd: i32) -> bool {
    std::fs::metadata(format!("/proc/{pid}/fd/{fd}")).is_ok_and(|file| file.is_dir())
}

/// The soft RLIMIT_CPU of `pid`, in seconds; `None`: unlimited.
pub fn cpu_limit(pid: Pid) -> Result<Option<u64>> {
    let seconds = limit(pid, "Max cpu time")?.soft;
    Ok((seconds != Rlimit::INFINITY).then_some(seconds))
}

/// May this process raise hard limits: has it CAP_SYS_RESOURCE, in the first user namespace (do_prlimit)?
pub fn may_raise_limits() -> Result<bool> {
    const CAP_SYS_RESOURCE: u32 = 24;
    Ok(has_capability(CAP_SYS_RESOURCE)? && is_in_first_user_namespace())
}

/// Without such namespaces in the kernel there is no other.
fn is_in_first_user_namespace() -> bool {
    // PROC_USER_INIT_INO (linux/proc_ns.h).
    const FIRST: u64 = 0xEFFF_FFFD;
    std::fs::metadata("/proc/self/ns/user").map_or(true, |namespace| namespace.ino() == FIRST)
}

/// Has this process the capability with this number in linux/capability.h, and in effect?
pub fn has_capability(number: u32) -> Result<bool> {
    Ok(own_status()?.capeff >> number & 1 == 1)
}

/// Is this process under a seccomp filter, or in strict mode?
pub fn is_filtered() -> Result<bool> {
    Ok(own_status()?.seccomp.is_some_and(|mode| mode != 0))
}

fn status(pid: Pid, tid: Tid) -> Result<Status> {
    let text = status_text(pid, tid)?;
    parsed("read status", || Status::from_read(text.as_bytes())).map_err(|e| e.in_thread(tid))
}

/// The whole of a small file that the kernel makes when it is read.
///
/// [`std::fs::read`] asks for the size, which is 0 there, and then reads in pieces that begin with 32 bytes: eight system
/// calls where two are enough.
pub(crate) fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(USUAL_SIZE);
    // Without a bound the size is asked for.
    File::open(path)?.take(u64::MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// As [`read`], of a file that is text.
pub(crate) fn read_text(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// A name that is not UTF-8 (prctl(2), PR_SET_NAME takes any bytes) does not keep anybody from the rest.
fn status_text(pid: Pid, tid: Tid) -> Result<String> {
    let bytes = read(task_file(pid, tid, "status"))
        .map_err(|e| of_task("read status", &e).in_thread(tid))?;
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

fn own_status() -> Result<Status> {
    Status::from_file("/proc/self/status").map_err(|e| Error::proc("read /proc/self/status", &e))
}

/// A failed look at a file that every task has: there is none of one that is gone, or that is ending and has no memory
/// any more (fs/proc/base.c, proc_exe_link).
fn of_task(operation: &'static str, e: &io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::NotFound => Error::new(operation, Cause::Died),
        _ => Error::io(operation, e),
    }
}

/// The program that `pid` executes, as the reader sees it. `None` where it has no name any more, or none in UTF-8.
pub fn executable(pid: Pid) -> Result<Option<Name>> {
    in_time::look("exe", move || executable_of_stopped(pid))?
}

/// The same of a process whose leader the caller has stopped by ptrace(2).
pub fn executable_of_stopped(pid: Pid) -> Result<Option<Name>> {
    let path =
        std::fs::read_link(format!("/proc/{pid}/exe")).map_err(|e| of_task("read exe", &e))?;
    // d_path says so of a file that was replaced or removed.
    let path = path
        .to_str()
        .map(|path| path.trim_end_matches(" (deleted)"));
    Ok(path.map(Name::from))
}

/// What the kernel has told the program at its start (getauxval(3)). Addresses in it are random: another program, or the same
/// one executed once more, has another.
pub fn auxiliary_vector(pid: Pid) -> Result<Vec<u8>> {
    in_time::look("auxv", move || auxiliary_vector_of_stopped(pid))?
}

/// The same of a process whose leader the caller has stopped by ptrace(2).
pub fn auxiliary_vector_of_stopped(pid: Pid) -> Result<Vec<u8>> {
    read(format!("/proc/{pid}/auxv")).map_err(|e| of_task("read auxv", &e))
}

/// Does the program make the system calls of the 32-bit table? What the kernel has told it at its start says so: the
/// program's file may be one that somebody else serves, and is not touched. A 64-bit program that makes such a call all the
/// same is not recognised.
///
/// The auxiliary vector of a process that is not stopped may have to be waited for (`in_time`).
pub fn is_32_bit(pid: Pid) -> bool {
    auxiliary_vector_of_stopped(pid).is_ok_and(|auxv| is_32_bit_vector(&auxv))
}

/// Is this auxiliary vector one of pairs of 32-bit numbers (getauxval(3))? Read as pairs of 64-bit ones, its keys are none:
/// a value that is not 0 is in their upper halves.
fn is_32_bit_vector(auxv: &[u8]) -> bool {
    const WORD: usize = 4;
    let words: Vec<u32> = auxv
        .chunks_exact(WORD)
        .map(|bytes| u32::from_le_bytes(std::array::from_fn(|at| bytes[at])))
        .collect();
    // The upper halves of keys.
    words.chunks_exact(4).any(|entry| entry[1] != 0)
}

/// The inode of `pid`'s pid namespace.
///
/// It may have to be waited for unless the caller has stopped the leader by ptrace(2).
pub fn pid_namespace_of_stopped(pid: Pid) -> Result<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/pid"))
        .map(|m| m.ino())
        .map_err(|e| of_task("stat ns/pid", &e))
}

/// One mapping of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Is it the vDSO?
    pub vdso: bool,
    /// May the program execute and read it, but not write it, and is it its own?
    pub code: bool,
    /// Where its pages come from.
    pub backing: Backing,
}

/// Where the pages of a mapping come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// From the kernel: the vDSO and what belongs to it.
    Kernel,
    /// From nowhere: they are memory.
    Anonymous,
    /// From a file on this device.
    File {
        /// Major and minor number.
        device: (i32, i32),
    },
}

/// A part of a process's memory, and what the program may do there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// May it be executed?
    pub executable: bool,
    /// May it be written?
    pub writable: bool,
}

/// The memory of `pid`, whose leader the caller has stopped by ptrace(2).
pub fn regions(pid: Pid) -> Result<Vec<Region>> {
    use procfs::process::MMPermissions;
    let process = process(pid)?;
    let maps = parsed("read maps", || process.maps())?;
    let region = |m: &procfs::process::MemoryMap| Region {
        start: m.address.0,
        end: m.address.1,
        executable: m.perms.contains(MMPermissions::EXECUTE),
        writable: m.perms.contains(MMPermissions::WRITE),
    };
    Ok(maps.iter().map(region).collect())
}

/// All processes that are to be seen.
pub fn all() -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    let pid = |entry: io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    entries.filter_map(pid).filter_map(Pid::new).collect()
}

/// The mappings of `pid`, whose leader the caller has stopped by ptrace(2). No page of its memory is touched.
pub fn mappings(pid: Pid) -> Result<Vec<Mapping>> {
    use procfs::process::{MMPermissions, MMapPath};
    let process = process(pid)?;
    let maps = parsed("read maps", || process.maps())?;
    let backing = |m: &procfs::process::MemoryMap| match m.pathname {
        // A file's path has a slash: nobody can name one like that. It has an inode, too.
        MMapPath::Vdso | MMapPath::Vvar | MMapPath::Vsyscall if m.inode == 0 => Backing::Kernel,
        _ if m.inode == 0 => Backing::Anonymous,
        _ => Backing::File { device: m.dev },
    };
    let mapping = |m: &procfs::process::MemoryMap| Mapping {
        start: m.address.0,
        end: m.address.1,
        vdso: m.pathname == MMapPath::Vdso && m.inode == 0,
        code: m
            .perms
            .contains(MMPermissions::READ | MMPermissions::EXECUTE | MMPermissions::PRIVATE)
            && !m.perms.contains(MMPermissions::WRITE)
            && m.pathname != MMapPath::Vsyscall,
        backing: backing(m),
    };
    Ok(maps.iter().map(mapping).collect())
}

/// File systems that read from a disk of this machine, whatever other processes do. Not those whose device number a
/// mapping does not tell (btrfs, overlay), and not those of memory.
const LOCAL: [&str; 10] = [
    "ext2", "ext3", "ext4", "xfs", "f2fs", "squashfs", "erofs", "iso9660", "vfat", "exfat",
];

/// Does nobody have to be asked for the pages of a file on this device? FUSE and network file systems ask others, who
/// need not answer. Told by the mounts of `pid`: no file system is touched.
pub fn is_local(pid: Pid, device: (i32, i32)) -> bool {
    let number = format!("{}:{}", device.0, device.1);
    let mounts = |pid| {
        let process = process(pid)?;
        parsed("read mountinfo", || process.mountinfo())
    };
    is_memory(device)
        || mounts(pid).is_ok_and(|mounts| {
            mounts
                .into_iter()
                .any(|mount| mount.majmin == number && LOCAL.contains(&&*mount.fs_type))
        })
}

/// Is it the device of memory that is shared: memfd_create(2), shmget(2), MAP_SHARED without a file?
pub fn is_memory(device: (i32, i32)) -> bool {
    static DEVICE: OnceLock<Option<(i32, i32)>> = OnceLock::new();
    let known = DEVICE.get_or_init(|| {
        let file = memfd_create(c"device", MFdFlags::MFD_CLOEXEC).ok()?;
        let number = File::from(file).metadata().ok()?.dev();
        let part = |number: u64| i32::try_from(number).ok();
        Some((part(major(number))?, part(minor(number))?))
    });
    *known == Some(device)
}

fn process(pid: Pid) -> Result<procfs::process::Process> {
    procfs::process::Process::new(pid.get()).map_err(|e| Error::proc("open /proc/PID", &e))
}

fn task_file(pid: Pid, tid: Tid, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/task/{tid}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glimpse_of_this_thread() {
        let own = nix::unistd::gettid().as_raw();
        let glimpses = Glimpse::of_threads(Pid::own()).unwrap();
        let own = glimpses.iter().find(|one| one.tid.get() == own).unwrap();
        assert!(!own.traced && !own.stopped);
        let text = "Name:\tState: T\nState:\tT (stopped)\nTracerPid:\t7\nSigPnd:\t0000000000000010\n\
                    ShdPnd:\t0000000000000001\nvoluntary_ctxt_switches:\t5\n";
        let stopped = Glimpse::parse(own.tid, text).unwrap();
        assert!(stopped.traced && stopped.stopped && stopped.switches == 5);
        assert_eq!(stopped.pending.bits(), 0x11);
        assert_eq!(Glimpse::parse(own.tid, "State:\tT"), None);
    }

    #[test]
    fn a_waiting_thread_shows_its_call() {
        let line = "230 0x0 0x0 0x7ffc5c685820 0x0 0x0 0x0 0x7ffc5c685808 0x7fa13996b503\n";
        let (number, numbers) = parse_call(line).unwrap();
        assert_eq!(number, 230);
        assert_eq!(numbers[7], 0x7fa1_3996_b503);
        assert_eq!(parse_call("running\n"), None);
        assert_eq!(parse_call("-1 0x7ffc 0x7fa1\n"), None);
    }

    #[test]
    fn a_thread_that_waits_for_its_child_is_told_by_the_function() {
        let told = |function: &str| Uninterruptible::in_function(Some(function.to_owned()));
        assert_eq!(
            told("kernel_clone"),
            Uninterruptible::InVfork("kernel_clone".to_owned())
        );
        assert_eq!(
            told("wait_for_vfork_done").to_string(),
            "in uninterruptible sleep, in wait_for_vfork_done (vfork: until its child has called exec or has ended)"
        );
        assert_eq!(told("0"), Uninterruptible::Elsewhere(None));
        assert_eq!(
            told("io_schedule").to_string(),
            "in uninterruptible sleep, in io_schedule"
        );
    }

    const STATUS: &str = "Name:\ta:b c\nUmask:\t0022\nState:\tt (tracing stop)\nTgid:\t41\nNgid:\t0\nPid:\t43\nPPid:\t2\n\
        TracerPid:\t7\nNStgid:\t41\t1\nNSpid:\t43\t3\nNSpgid:\t41\t1\nVmPeak:\t    2000 kB\nVmSize:\t    1000 kB\nThreads:\t2\n\
        SigQ:\t5/127000\nSigPnd:\t0000000000000001\nShdPnd:\t8000000000000000\nSigBlk:\t0000000000400004\n\
        SigIgn:\t0000000000001000\nSigCgt:\t0000000180000000\nCapInh:\t0000000000000000\n";

    #[test]
    fn status_is_read() {
        let set = |numbers: &[i32]| -> SigSet {
            numbers.iter().copied().filter_map(SigNo::new).collect()
        };
        let expected = SignalStatus {
            ids: NsIds::new(vec![43, 3]).unwrap(),
            comm: "a:b c".into(),
            dead: false,
            has_memory: true,
            pending: set(&[1]),
            shared_pending: set(&[64]),
            blocked: set(&[3, 23]),
            ignored: set(&[13]),
            caught: set(&[32, 33]),
            queued: 5,
        };
        assert_eq!(SignalStatus::parse(STATUS), Some(expected));
        let without = SignalStatus::parse(&STATUS.replace("VmSize:", "Vm:")).unwrap();
        assert!(!without.has_memory);
        assert!(
            SignalStatus::parse(&STATUS.replace("t (tra", "Z (zom"))
                .unwrap()
                .dead
        );
        for line in [
            "Name", "State", "NSpid", "SigQ", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt",
        ] {
            let without = STATUS.replace(&format!("{line}:"), "Other:");
            assert_eq!(SignalStatus::parse(&without), None, "{line}");
        }
    }

    /// procfs reads the same of what the kernel writes, and panics where a limit's line is cut off.
    #[test]
    fn limits_stat_and_cgroup() {
        let pid = Pid::own();
        let theirs = process(pid).unwrap();
        let (limits, stat) = (theirs.limits().unwrap(), theirs.stat().unwrap());
        let value = |v| match v {
            procfs::process::LimitValue::Unlimited => u64::MAX,
            procfs::process::LimitValue::Value(n) => n,
        };
        let ours = rlimit_sigpending(pid).unwrap();
        assert_eq!(ours.soft, value(limits.max_pending_signals.soft_limit));
        assert_eq!(ours.hard, value(limits.max_pending_signals.hard_limit));
        let seconds = cpu_limit(pid).unwrap().unwrap_or(u64::MAX);
        assert_eq!(seconds, value(limits.max_cpu_time.soft_limit));
        assert_eq!(start_time(pid).unwrap(), stat.starttime);
        assert_eq!(parent(pid).unwrap(), Pid::new(stat.ppid));
        assert_eq!(exit_signal(pid).unwrap(), ExitSignal::new(17));
        let text = text_of(pid, "cgroup", "read cgroup").unwrap();
        let ours: Vec<_> = cgroups(&text)
            .map(|(number, _, path)| (number, path.to_owned()))
            .collect();
        let theirs: Vec<_> = theirs
            .cgroups()
            .unwrap()
            .into_iter()
            .map(|c| (c.hierarchy, c.pathname))
            .collect();
        assert_eq!(ours, theirs);
        for cut in ["Max pending signals", "Max pending signals 1", ""] {
            assert_eq!(parse_limit(cut, "Max pending signals"), None, "{cut}");
        }
        assert_eq!(parse_start("1 (a) b) S 1"), None);
        let panicked: Result<()> = parsed("read it", || panic!("not expected"));
        assert!(matches!(panicked.unwrap_err().cause(), Cause::Proc(_)));
    }

    /// procfs reads the same, but for the name.
    #[test]
    fn status_of_this_very_thread() {
        let this = Tid::new(nix::unistd::gettid().as_raw()).unwrap();
        let pid = Pid::own();
        let ours = SignalStatus::read(pid, this).unwrap();
        let theirs = status(pid, this).unwrap();
        assert_eq!(ours.ids.outermost(), this.get());
        // There a name ends at a colon, and this one has some.
        let comm = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        assert_eq!(ours.comm.as_str(), comm.trim_end());
        assert_eq!(ours.blocked.bits(), theirs.sigblk);
        assert_eq!(ours.ignored.bits(), theirs.sigign);
        assert_eq!(ours.caught.bits(), theirs.sigcgt);
        assert!(ours.has_memory && !ours.dead);
    }

    /// Of two signals that would do, the one that is not blocked.
    #[test]
    fn what_the_marker_may_be() {
        let of = |blocked: &str, pending: &str| {
            let text = STATUS
                .replace("0000000000400004", blocked)
                .replace("SigPnd:\t0000000000000001", pending);
            SignalStatus::parse(&text)
                .unwrap()
                .harmless_signal(SigSet::EMPTY)
        };
        let none = "SigPnd:\t0000000000000000";
        assert_eq!(of("0000000000000000", none), Some(SigNo::WINCH));
        assert_eq!(
            of("0000000008000000", none),
            Some(SigNo::URG),
            "WINCH is blocked"
        );
        assert_eq!(of("ffffffffffffffff", none), Some(SigNo::WINCH));
        assert_eq!(
            of("ffffffffffffffff", "SigPnd:\t0000000008000000"),
            Some(SigNo::URG)
        );
    }

    #[test]
    fn how_wide_an_auxiliary_vector_is() {
        // AT_SYSINFO_EHDR, AT_HWCAP, AT_NULL.
        let wide: Vec<u8> = [33u64, 0x7fff_0000_1000, 16, 0xbfeb_fbff, 0, 0]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let narrow: Vec<u8> = [32u32, 0xf7f0_0ff0, 33, 0xf7f0_0000, 16, 0xbfeb_fbff, 0, 0]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        assert!(!is_32_bit_vector(&wide));
        assert!(is_32_bit_vector(&narrow));
        assert!(!is_32_bit_vector(&[]));
        assert!(!is_32_bit(Pid::own()));
    }

    #[test]
    fn timers_are_read() {
        let text = "ID: 1\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n\
                    ID: 0\nsignal: 34/(null)\nnotify: signal/tid.2635\nClockID: -6\n\
                    ID: 7\nsignal: 0/0000000000000007\nnotify: none/pid.2634\nClockID: 7\nNew: 1\n";
        let timer = |id, signo, value, notify, clock| TimerLine {
            id,
            signo,
            value,
            notify,
            clock,
        };
        assert_eq!(
            parse_timers(text),
            Some(vec![
                timer(1, 60, 0x7fff_86e4_52a8, Notify::Process, 0),
                timer(0, 34, 0, Notify::Thread(2635), -6),
                timer(7, 0, 7, Notify::Nobody, 7),
            ])
        );
        assert_eq!(parse_timers(""), Some(vec![]));
        assert_eq!(parse_timers("signal: 1/0\n"), None);
        assert_eq!(parse_timers("ID: x\n"), None);
    }
}
