//! What `/proc` says about a task, read once per thread.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use criu_signals_images::{NsIds, Pid, Rlimit, SigNo, SigSet, Tid};
use procfs::FromRead;
use procfs::process::{LimitValue, Status};

use crate::error::{Cause, Error, Result};

/// The signal lines of `/proc/PID/task/TID/status` (proc_pid_status(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignalStatus {
    /// Ids in every pid namespace from ours down to the task's own (`NSpid`).
    pub ids: NsIds,
    /// The command's name (`Name`).
    pub comm: String,
    /// Is it a zombie or dead (`State`)?
    pub dead: bool,
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
        let status = Status::from_file(task_file(pid, tid, "status"))
            .map_err(|e| Error::proc("read status", &e).in_thread(tid))?;
        let ids = status.nspid.and_then(NsIds::new).ok_or_else(|| {
            Error::new(
                "read status",
                Cause::Unsupported("the kernel gives no NSpid line".into()),
            )
        })?;
        Ok(SignalStatus {
            ids,
            comm: status.name,
            dead: matches!(status.state.as_bytes().first(), Some(b'Z' | b'X' | b'x')),
            pending: SigSet::from_bits(status.sigpnd),
            shared_pending: SigSet::from_bits(status.shdpnd),
            blocked: SigSet::from_bits(status.sigblk),
            ignored: SigSet::from_bits(status.sigign),
            caught: SigSet::from_bits(status.sigcgt),
            queued: status.sigq.0,
        })
    }

    /// A signal that does nothing to this thread when it is delivered, and that is not pending now: it is
    /// ignored, by disposition or by default. SIGCHLD is left out, because ignoring it has effects of its own,
    /// and SIGCONT, because sending it has; and real-time signals, because sending one fails where
    /// RLIMIT_SIGPENDING leaves no room, while a legacy one is at least pending without a siginfo
    /// (`__send_signal_locked`).
    pub fn harmless_signal(&self) -> Option<SigNo> {
        let default_ignored: SigSet = [SigNo::URG, SigNo::WINCH].into_iter().collect();
        let harmless = default_ignored.difference(self.caught).union(self.ignored);
        let unfit: SigSet = SigNo::all()
            .filter(|signo| signo.is_stop() || signo.is_realtime())
            .chain([SigNo::CHLD, SigNo::CONT, SigNo::KILL])
            .collect();
        harmless
            .difference(unfit)
            .difference(self.pending)
            .difference(self.shared_pending)
            .iter()
            .last()
    }
}

/// The threads of `pid`, the leader first.
pub fn threads(pid: Pid) -> Result<Vec<Tid>> {
    let dir = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::new("list threads", Cause::Died),
        _ => Error::io("list threads", &e),
    })?;
    let mut threads = Vec::new();
    for entry in dir {
        let entry = entry.map_err(|e| Error::io("list threads", &e))?;
        if let Some(tid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        {
            threads.push(Tid(tid));
        }
    }
    threads.sort_by_key(|tid| (tid.0 != pid.0, tid.0));
    Ok(threads)
}

/// The soft and hard RLIMIT_SIGPENDING of `pid`.
pub fn rlimit_sigpending(pid: Pid) -> Result<Rlimit> {
    let limits = process(pid)?
        .limits()
        .map_err(|e| Error::proc("read limits", &e))?;
    let value = |v: LimitValue| match v {
        LimitValue::Unlimited => u64::MAX,
        LimitValue::Value(n) => n,
    };
    let limit = limits.max_pending_signals;
    Ok(Rlimit {
        soft: value(limit.soft_limit),
        hard: value(limit.hard_limit),
    })
}

/// Is `fd` of thread `tid` a socket?
pub fn is_socket(pid: Pid, tid: Tid, fd: i32) -> bool {
    std::fs::read_link(task_file(pid, tid, &format!("fd/{fd}")))
        .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
}

/// When `pid` was started, in clock ticks since boot: with the pid it names one process for good.
pub fn start_time(pid: Pid) -> Result<u64> {
    process(pid)?
        .stat()
        .map(|stat| stat.starttime)
        .map_err(|e| Error::proc("read stat", &e))
}

/// The inode of `pid`'s pid namespace.
pub fn pid_namespace(pid: Pid) -> Result<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/pid"))
        .map(|m| m.ino())
        .map_err(|e| Error::io("stat ns/pid", &e))
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
}

/// The mappings of `pid` that the program may execute but not write, and that are its own.
pub fn code_mappings(pid: Pid) -> Result<Vec<Mapping>> {
    use procfs::process::{MMPermissions, MMapPath};
    let maps = process(pid)?
        .maps()
        .map_err(|e| Error::proc("read maps", &e))?;
    Ok(maps
        .iter()
        .filter(|m| {
            m.perms
                .contains(MMPermissions::READ | MMPermissions::EXECUTE | MMPermissions::PRIVATE)
                && !m.perms.contains(MMPermissions::WRITE)
                && m.pathname != MMapPath::Vsyscall
        })
        .map(|m| Mapping {
            start: m.address.0,
            end: m.address.1,
            vdso: m.pathname == MMapPath::Vdso,
        })
        .collect())
}

fn process(pid: Pid) -> Result<procfs::process::Process> {
    procfs::process::Process::new(pid.0).map_err(|e| Error::proc("open /proc/PID", &e))
}

fn task_file(pid: Pid, tid: Tid, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/task/{tid}/{name}"))
}
