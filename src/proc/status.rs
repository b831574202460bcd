//! `/proc/PID/task/TID/status`: sets of signals, states, capabilities.

use std::os::unix::fs::MetadataExt as _;

use criu_signals_images::{Name, NsIds, Pid, SigNo, SigSet, Tid};
use procfs::FromRead as _;
use procfs::process::Status;

use super::{not_understood, of_task, parsed, read, read_text, task_file};
use crate::error::{Cause, Error, Result};

/// How many tracers of a thread, each of which has ended before its name was read, are looked at.
const TRACERS: u32 = 10;

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
    ///
    /// # Errors
    /// [`Cause::Died`] if the thread is gone; [`Cause::Unsupported`] if the kernel gives no `NSpid`; [`Cause::Proc`] if
    /// `status` has another format.
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
///
/// # Errors
/// [`Cause::Died`] if the thread is gone; [`Cause::Proc`] if `status` has another format.
pub fn seccomp(pid: Pid, tid: Tid) -> Result<Seccomp> {
    let status = status(pid, tid)?;
    match status.seccomp {
        None | Some(0) => Ok(Seccomp::Off),
        Some(1) => Ok(Seccomp::Strict),
        Some(_) => Ok(Seccomp::Filter),
    }
}

/// Is the thread stopped by job control: not running, and not in the hands of a tracer?
///
/// # Errors
/// [`Cause::Died`] if the thread is gone; [`Cause::Proc`] if `status` has another format.
pub fn is_stopped(pid: Pid, tid: Tid) -> Result<bool> {
    let status = status(pid, tid)?;
    Ok(status.state.starts_with('T'))
}

/// The thread that traces this one, and its name. No name is known of a tracer whose /proc folder is hidden (hidepid, proc(5)).
///
/// # Errors
/// [`Cause::Died`] if the thread is gone; [`Cause::Proc`] if `status` has another format.
pub fn tracer(pid: Pid, tid: Tid) -> Result<Option<(Tid, Name)>> {
    let mut last = None;
    // A tracer that has ended since its number was read does not trace the thread any more: another one may.
    for _ in 0..TRACERS {
        let Some(tracer) = Tid::new(status(pid, tid)?.tracerpid) else {
            return Ok(None);
        };
        if let Ok(name) = read_text(format!("/proc/{tracer}/comm")) {
            return Ok(Some((tracer, name.trim_end_matches('\n').into())));
        }
        if last.replace(tracer) == Some(tracer) {
            break;
        }
    }
    Ok(last.map(|tracer| (tracer, Name::default())))
}

/// The parent of `pid`, which is not the tracer (`PPid`). `None`: it is in none of our pid namespaces.
///
/// # Errors
/// [`Cause::Died`] if the process is gone; [`Cause::Proc`] if `status` has another format.
pub fn parent(pid: Pid) -> Result<Option<Pid>> {
    let text = status_text(pid, pid.into())?;
    parse_parent(&text).ok_or_else(|| not_understood("read status"))
}

pub(crate) fn parse_parent(status: &str) -> Option<Option<Pid>> {
    // A newline in the name before it is escaped (task_name, fs/proc/array.c).
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Some(Pid::new(line.trim().parse().ok()?))
}

/// What a thread may do: its credentials, as far as a change of them clears the parent-death signal (commit_creds,
/// kernel/cred.c).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// Effective user and group id, and those for file systems.
    ids: [u32; 4],
    /// Permitted capabilities.
    capabilities: u64,
}

impl Privileges {
    /// Has a thread that has these now only lost capabilities since it had `before`? Then its parent-death signal stays.
    pub fn are_among(&self, before: &Privileges) -> bool {
        self.ids == before.ids && self.capabilities & !before.capabilities == 0
    }
}

/// What the thread may do (`Uid`, `Gid`, `CapPrm`).
///
/// # Errors
/// [`Cause::Died`] if the thread is gone; [`Cause::Proc`] if `status` has another format.
pub fn privileges(pid: Pid, tid: Tid) -> Result<Privileges> {
    let status = status(pid, tid)?;
    Ok(Privileges {
        ids: [status.euid, status.egid, status.fuid, status.fgid],
        capabilities: status.capprm,
    })
}

/// May this process raise hard limits: has it CAP_SYS_RESOURCE, in the first user namespace (do_prlimit)?
///
/// # Errors
/// If `/proc/self/status` can't be read or has another format.
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
///
/// # Errors
/// If `/proc/self/status` can't be read or has another format.
pub fn has_capability(number: u32) -> Result<bool> {
    Ok(own_status()?.capeff >> number & 1 == 1)
}

/// Is this process under a seccomp filter, or in strict mode?
///
/// # Errors
/// If `/proc/self/status` can't be read or has another format.
pub fn is_filtered() -> Result<bool> {
    Ok(own_status()?.seccomp.is_some_and(|mode| mode != 0))
}

pub(super) fn status(pid: Pid, tid: Tid) -> Result<Status> {
    let text = status_text(pid, tid)?;
    parsed("read status", || Status::from_read(text.as_bytes())).map_err(|e| e.in_thread(tid))
}

/// A name that is not UTF-8 (prctl(2), PR_SET_NAME takes any bytes) does not keep anybody from the rest.
pub(super) fn status_text(pid: Pid, tid: Tid) -> Result<String> {
    let bytes = read(task_file(pid, tid, "status"))
        .map_err(|e| of_task("read status", &e).in_thread(tid))?;
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

pub(super) fn own_status() -> Result<Status> {
    Status::from_file("/proc/self/status").map_err(|e| Error::proc("read /proc/self/status", &e))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
