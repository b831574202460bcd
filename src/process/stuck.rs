//! Detects a worker that waits without end for a process that the worker reads.
//!
//! The memory of a process may be locked (mmap_lock) by another one that shares it (CLONE_VM) and that waits in
//! uninterruptible sleep: it unmaps what it has written to a file whose server does not answer (fuse_vma_close, fs/fuse/file.c).
//! Whoever reads `/proc/PID/mem` or `maps`, or calls ptrace(2), waits for the lock, and only SIGKILL ends that
//! (mmap_read_lock_killable). The worker has stopped processes by then, and can't let them go.

use std::fs;
use std::time::{Duration, Instant};

use criu_signals_images::{Pid, Tid};

use crate::proc::{self, Glimpse};

/// In what the worker waits.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wait {
    /// How often it had to wait before.
    switches: u64,
    /// `/proc/PID/syscall`.
    call: String,
}

/// Looks at the worker now and then.
#[derive(Debug)]
pub(super) struct Watch {
    worker: Pid,
    patience: Duration,
    since: Option<(Wait, Instant)>,
}

impl Watch {
    pub(super) fn new(worker: Pid, patience: Duration) -> Watch {
        Watch {
            worker,
            patience,
            since: None,
        }
    }

    /// What the worker has been waiting for, in one system call that is about another process, for longer than it may. What
    /// disks and terminals take is their matter.
    pub(super) fn look(&mut self) -> Option<String> {
        let now = self.now();
        match (&self.since, now) {
            (Some((before, since)), Some(now)) if *before == now => {
                (since.elapsed() > self.patience).then_some(())?;
                self.subject(&now.call)
            }
            (_, now) => {
                self.since = now.map(|now| (now, Instant::now()));
                None
            }
        }
    }

    /// `None` if it does not wait.
    fn now(&self) -> Option<Wait> {
        let call = fs::read_to_string(format!("/proc/{}/syscall", self.worker)).ok()?;
        let switches = Glimpse::of_thread(self.worker, Tid::from(self.worker))
            .ok()?
            .switches;
        proc::parse_call(&call)?;
        Some(Wait { switches, call })
    }

    fn subject(&self, call: &str) -> Option<String> {
        let (number, [first, second, ..]) = proc::parse_call(call)?;
        match i64::from(number) {
            libc::SYS_ptrace => Some(format!("ptrace(2) of {second}")),
            libc::SYS_read | libc::SYS_pread64 | libc::SYS_write | libc::SYS_pwrite64 => {
                let link = format!("/proc/{}/fd/{first}", self.worker);
                let path = fs::read_link(link)
                    .ok()?
                    .into_os_string()
                    .into_string()
                    .ok()?;
                let of_process = path
                    .strip_prefix("/proc/")?
                    .starts_with(|c: char| c.is_ascii_digit());
                of_process.then_some(path)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for() {
        let watch = Watch::new(Pid::own(), Duration::ZERO);
        let call =
            |number: i64, first: u64| format!("{number} {first:#x} 0x29 0x0 0x0 0x0 0x0 0x0 0x0");
        let found = watch.subject(&call(libc::SYS_ptrace, 2));
        assert_eq!(found.as_deref(), Some("ptrace(2) of 41"));
        let own = fs::File::open(format!("/proc/{}/status", Pid::own())).unwrap();
        let fd = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&own)).unwrap();
        let found = watch.subject(&call(libc::SYS_pread64, fd)).unwrap();
        assert!(found.ends_with("/status"), "{found}");
        let other = fs::File::open("/proc/meminfo").unwrap();
        let fd = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&other)).unwrap();
        assert_eq!(watch.subject(&call(libc::SYS_pread64, fd)), None);
        assert_eq!(watch.subject(&call(libc::SYS_fsync, fd)), None);
    }
}
