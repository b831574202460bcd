//! Bounds on waiting for threads, in time and in number of stops. docs/bounds.md lists them.
//!
//! Normally a stop takes microseconds, and no bound is reached. A [`Bound`] limits one operation in one thread: in
//! number of stops, because a stream of signals can stop a thread again and again, and in time. A [`Budget`] limits the
//! total waiting in one process while the budget is held.

use std::cell::Cell;
use std::time::{Duration, Instant};

use criu_signals_images::Tid;
use nix::errno::Errno;

use crate::error::{Error, Result};

/// How long to wait for a stop of a thread that makes injected calls. The calls take milliseconds; the bound leaves
/// room for a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// What each system call of an errand adds to its time.
const CALL: Duration = Duration::from_millis(1);
/// How many stops an errand may have, beside two for each system call.
const STOPS: usize = 10_000;
/// How long to wait for all threads of a process together, in one hook of CRIU's or in one rescue.
pub const PROCESS: Duration = Duration::from_secs(120);
/// How long to wait while changes are undone, after [`PROCESS`] has been used up or another step has failed.
pub const UNDO: Duration = Duration::from_secs(30);

thread_local! {
    /// What is left of the budget. Without a destructor: one would keep a plugin from being unloaded.
    static LEFT: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// An allowance for waiting, for the calling thread, until it is dropped.
#[derive(Debug)]
pub struct Budget {
    /// What is left of the budget that was in force before, and that is in force again when this budget is dropped.
    outer: Option<Duration>,
    /// How much this budget had at first, if it is a part of the outer budget.
    part: Option<Duration>,
}

impl Budget {
    /// Allows `PROCESS`, but no more than what is left of the budget in force.
    #[must_use]
    pub fn of_process() -> Budget {
        let outer = LEFT.get();
        let part = outer.map_or(PROCESS, |left| left.min(PROCESS));
        LEFT.set(Some(part));
        Budget {
            outer,
            part: Some(part),
        }
    }

    /// Allows `UNDO`, whatever has been used up.
    #[must_use]
    pub fn of_undo() -> Budget {
        Budget {
            outer: LEFT.replace(Some(UNDO)),
            part: None,
        }
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        let left = LEFT.get().unwrap_or_default();
        let used = self
            .part
            .map_or(Duration::ZERO, |part| part.saturating_sub(left));
        LEFT.set(self.outer.map(|outer| outer.saturating_sub(used)));
    }
}

/// The earlier of the caller's `deadline` and the end of the budget in force.
pub(super) fn within_budget(deadline: Instant) -> Instant {
    LEFT.get()
        .map_or(deadline, |left| deadline.min(Instant::now() + left))
}

/// Takes the time that was waited off the budget in force.
pub(super) fn charge(waited: Duration) {
    LEFT.set(LEFT.get().map(|left| left.saturating_sub(waited)));
}

/// The bound of one errand to a thread.
#[derive(Debug)]
pub(super) struct Bound {
    tid: Tid,
    what: &'static str,
    deadline: Instant,
    stops: usize,
}

impl Bound {
    /// For an errand of so many system calls, which add to the time.
    pub fn new(tid: Tid, what: &'static str, time: Duration, calls: usize) -> Bound {
        let time =
            time.saturating_add(CALL.saturating_mul(u32::try_from(calls).unwrap_or(u32::MAX)));
        Bound::within(tid, what, time, stops(calls))
    }

    /// With this time and no more than so many stops.
    pub fn within(tid: Tid, what: &'static str, time: Duration, stops: usize) -> Bound {
        Bound {
            tid,
            what,
            deadline: Instant::now() + time,
            stops,
        }
    }

    /// As [`new`](Bound::new), up to this deadline.
    pub fn until(tid: Tid, what: &'static str, deadline: Instant) -> Bound {
        Bound {
            tid,
            what,
            deadline,
            stops: STOPS,
        }
    }

    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// One more stop is about to be waited for.
    ///
    /// # Errors
    /// ETIMEDOUT if there have been too many, or it has taken too long.
    pub fn one_more(&mut self) -> Result<()> {
        let why = if self.stops == 0 {
            "the thread stops over and over, because signals keep arriving"
        } else if Instant::now() >= self.deadline {
            "the work takes too long"
        } else {
            self.stops -= 1;
            return Ok(());
        };
        let what = format!("{} ({why}: given up and undone)", self.what);
        Err(Error::os(what, Errno::ETIMEDOUT).in_thread(self.tid))
    }
}

/// How many stops an errand of so many system calls may have. In builds for tests `CRIU_SIGNALS_STOPS` has the number, which
/// real signals reach only after a long time.
fn stops(calls: usize) -> usize {
    let usual = STOPS.saturating_add(calls.saturating_mul(2));
    #[cfg(feature = "faults")]
    let usual = {
        let set = std::env::var("CRIU_SIGNALS_STOPS").ok();
        set.and_then(|stops| stops.parse().ok()).unwrap_or(usual)
    };
    usual
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tid() -> Tid {
        Tid::new(7).unwrap()
    }

    #[test]
    fn stops_are_counted() {
        let mut bound = Bound::within(tid(), "run", PROCESS, 2);
        assert!(bound.one_more().is_ok() && bound.one_more().is_ok());
        let e = bound.one_more().unwrap_err().to_string();
        assert!(e.contains("tid 7") && e.contains("over and over"), "{e}");
        let mut late = Bound::within(tid(), "run", Duration::ZERO, 2);
        let e = late.one_more().unwrap_err().to_string();
        assert!(e.contains("too long"), "{e}");
    }

    #[test]
    fn a_budget_is_used_up_and_gives_way_to_another() {
        let far = Instant::now() + PROCESS * 100;
        assert_eq!(within_budget(far), far);
        let budget = Budget::of_process();
        assert!(within_budget(far) < far);
        {
            let _part = Budget::of_process();
            charge(PROCESS * 2);
        }
        assert!(
            within_budget(far) <= Instant::now(),
            "a part is charged to the whole"
        );
        {
            let _undo = Budget::of_undo();
            assert!(within_budget(far) > Instant::now());
        }
        assert!(within_budget(far) <= Instant::now());
        drop(budget);
        assert_eq!(within_budget(far), far);
    }
}
