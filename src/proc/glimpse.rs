//! State of all threads that is read before the threads are stopped.

use criu_signals_images::{Pid, SigSet, Tid};

use super::status::status_text;
use super::{listed, not_understood};
use crate::error::Result;

/// What one look at the status of a thread shows that may be running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glimpse {
    /// The thread.
    pub tid: Tid,
    /// Is it traced (`TracerPid`)?
    pub traced: bool,
    /// Is it stopped by job control (`State`)?
    pub stopped: bool,
    /// Is it in a pid namespace below ours (`NSpid`)?
    pub nested: bool,
    /// What is pending for the thread or for its process (`SigPnd`, `ShdPnd`).
    pub pending: SigSet,
    /// What the process ignores (`SigIgn`).
    pub ignored: SigSet,
    /// How often the thread gave up its processor because it had to wait (`voluntary_ctxt_switches`).
    pub switches: u64,
}

impl Glimpse {
    /// Looks at the threads of `pid`, the leader first. Threads that end meanwhile are left out. Those that the kernel runs in the
    /// program's name are among them: only `stat` tells them apart, which costs as much as the look, and may have to be waited
    /// for.
    ///
    /// # Errors
    /// [`Cause::Died`](crate::error::Cause::Died) if the process is gone; [`Cause::Proc`](crate::error::Cause::Proc) if
    /// the `status` of a thread has another format.
    pub fn of_threads(pid: Pid) -> Result<Vec<Glimpse>> {
        let is_there = |glimpse: &Result<Glimpse>| !matches!(glimpse, Err(e) if e.is_died());
        let threads = listed(pid)?.into_iter();
        threads
            .map(|tid| Glimpse::of_thread(pid, tid))
            .filter(is_there)
            .collect()
    }

    /// Looks at one thread of `pid`.
    ///
    /// # Errors
    /// [`Cause::Died`](crate::error::Cause::Died) if the thread is gone; [`Cause::Proc`](crate::error::Cause::Proc) if
    /// its `status` has another format.
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
        let nested = value("NSpid")?.split_ascii_whitespace().count() > 1;
        let mut set = |name| {
            let bits = u64::from_str_radix(value(name)?, 16).ok()?;
            Some(SigSet::from_bits(bits))
        };
        let pending = set("SigPnd")?.union(set("ShdPnd")?);
        let ignored = set("SigIgn")?;
        Some(Glimpse {
            tid,
            traced,
            stopped: state.starts_with('T'),
            nested,
            pending,
            ignored,
            switches: value("voluntary_ctxt_switches")?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glimpse_of_this_thread() {
        let own = nix::unistd::gettid().as_raw();
        let glimpses = Glimpse::of_threads(Pid::own()).unwrap();
        let own = glimpses.iter().find(|one| one.tid.get() == own).unwrap();
        assert!(!own.traced && !own.stopped && !own.nested);
        let text = "Name:\tState: T\nState:\tT (stopped)\nTracerPid:\t7\nNSpid:\t7\t1\nSigPnd:\t0000000000000010\n\
                    ShdPnd:\t0000000000000001\nSigIgn:\t0000000000000004\nvoluntary_ctxt_switches:\t5\n";
        let stopped = Glimpse::parse(own.tid, text).unwrap();
        assert!(stopped.traced && stopped.stopped && stopped.nested && stopped.switches == 5);
        assert_eq!((stopped.pending.bits(), stopped.ignored.bits()), (0x11, 4));
        assert_eq!(Glimpse::parse(own.tid, "State:\tT"), None);
    }
}
