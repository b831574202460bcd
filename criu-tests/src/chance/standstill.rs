//! Whether the machine stood still: a virtual machine that its host does not run for seconds, a processor on which the kernel
//! runs nothing else than one system call, or a machine that is far too busy.
//!
//! Whatever has a bound in time may then come to its end without a fault of its own, and programs miss what they wait for.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// To sched_setaffinity(2).
const THIS_THREAD: Pid = Pid::from_raw(0);
/// So often the watch looks at the clock.
const LOOKS: Duration = Duration::from_millis(100);
/// So long after it meant to: half of the shortest bound that the plugin, its companions and the programs go by.
const LATE: Duration = Duration::from_secs(1);

/// Looks at the clock on each processor as long as there is this.
#[derive(Debug)]
pub struct Watch {
    seen: Vec<Arc<Mutex<Seen>>>,
    /// The watch ends as soon as these are gone.
    _end: Vec<Sender<()>>,
}

#[derive(Debug)]
struct Seen {
    /// The last look.
    last: Instant,
    /// Looks that were late, and when they came.
    late: Vec<Instant>,
}

impl Seen {
    fn look(&mut self, now: Instant) {
        if now.duration_since(self.last) > LOOKS + LATE {
            self.late.push(now);
        }
        self.last = now;
    }

    fn late_after(&self, begin: Instant) -> bool {
        self.late.iter().any(|&came| came > begin)
    }
}

impl Watch {
    /// From now on.
    ///
    /// # Errors
    /// If the processors on which this process may run are not known.
    pub fn start() -> Result<Self> {
        let may_run = sched_getaffinity(THIS_THREAD)?;
        let is_one = |processor: &usize| may_run.is_set(*processor) == Ok(true);
        let processors = (0..CpuSet::count()).filter(is_one);
        let (seen, end) = processors.map(watch).unzip();
        Ok(Self { seen, _end: end })
    }

    /// Whether any of them stood still at any time after `begin`.
    pub fn stood_still_since(&self, begin: Instant) -> bool {
        self.seen.iter().any(|seen| {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            // The watch itself may be the last one to go on.
            seen.look(Instant::now());
            seen.late_after(begin)
        })
    }
}

/// Starts a thread that stays on that processor.
fn watch(processor: usize) -> (Arc<Mutex<Seen>>, Sender<()>) {
    let seen = Arc::new(Mutex::new(Seen {
        last: Instant::now(),
        late: Vec::new(),
    }));
    let (end, ended) = channel();
    let watched = seen.clone();
    std::thread::spawn(move || {
        let mut here = CpuSet::new();
        let stays = here
            .set(processor)
            .and_then(|()| sched_setaffinity(THIS_THREAD, &here));
        if let Err(e) = stays {
            eprintln!("processor {processor} cannot be watched by itself: {e}");
        }
        while ended.recv_timeout(LOOKS) == Err(RecvTimeoutError::Timeout) {
            let now = Instant::now();
            let mut seen = watched.lock().unwrap_or_else(PoisonError::into_inner);
            seen.look(now);
        }
    });
    (seen, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_is_late_is_known() {
        let begin = Instant::now();
        let mut seen = Seen {
            last: begin,
            late: Vec::new(),
        };
        let mut now = begin;
        for _ in 0..20 {
            now += LOOKS + LATE / 2;
            seen.look(now);
        }
        assert!(!seen.late_after(begin));
        now += LOOKS + LATE * 2;
        seen.look(now);
        assert!(seen.late_after(begin) && seen.late_after(now - LATE));
        assert!(!seen.late_after(now), "what was before is no excuse");
    }
}
