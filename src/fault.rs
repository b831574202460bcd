//! Fault points: numbered places in the code at which a test makes the operation fail or kills the process.
//!
//! Fault points do nothing unless this crate is built with the feature `faults`, which only tests enable: a release
//! build reads no variable that could break it. With the feature, `CRIU_SIGNALS_FAULT` arms fault points: a
//! comma-separated list of `NUMBER:ACTION` or `NUMBER:ACTION:N`, where N selects the N-th passage instead of the first:
//!
//! | action | what happens there |
//! |---|---|
//! | `fail` | the operation fails once, with an error that names the point |
//! | `kill` | the process ends by SIGKILL: criu, the command, or the guardian |
//! | `panic` | the thread panics, as a bug in the program would |
//! | `stop` | the process stops by SIGSTOP, so that a test can act at that instant and continue the process |
//!
//! The prefix `companion/` arms a point in all detached processes, such as the guardian: `companion/52:kill`.
//!
//! With the feature, each passage of a point is logged at the level debug.
//!
//! `criu-tests/tests/faults.rs` drives every point. Such builds can also run the replay in a wrong order: see
//! [`replay`](crate::engine::replay).

use std::fmt;

macro_rules! points {
    ($($(#[$doc:meta])+ $name:ident = $number:literal,)+) => {
        /// A fault point. Numbers are never used again for another place.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Point {
            $($(#[$doc])+ $name = $number,)+
        }

        impl Point {
            /// All of them.
            pub const ALL: &'static [Point] = &[$(Point::$name,)+];
        }
    };
}

points! {
    /// Seizing: a thread is seized, and not stopped yet.
    ThreadSeized = 1,
    /// Seizing: all threads are stopped, and their interrupted calls are safe from EINTR.
    Seized = 2,
    /// Releasing: no thread has been let go.
    Releasing = 3,

    /// Injection: the stub is in the process, and no thread has been touched.
    StubWritten = 10,
    /// Injection: the thread stands on the stub, with its own mask.
    RegistersSet = 11,
    /// Injection: everything is blocked in the thread.
    MaskSet = 12,
    /// Injection: scratch memory is mapped.
    ScratchMapped = 13,
    /// Injection: the table of calls is in scratch memory.
    TableWritten = 14,
    /// Injection: the thread stands before the table, and what undoes it is named.
    BatchReady = 15,
    /// Injection: the thread is through with the table, and stopped by the marker.
    BatchDone = 16,
    /// Injection: the outcomes are known, and scratch memory is still there.
    OutcomesRead = 17,
    /// Injection: scratch memory is unmapped.
    ScratchUnmapped = 18,
    /// Injection: the thread has its mask back, and not its registers.
    MaskBack = 19,
    /// Injection: the thread has its registers back.
    RegistersBack = 20,
    /// Injection: the thread is on its way out of the stub's stop, into the one that it was found in.
    LetGo = 21,
    /// Injection: the stub is taken away.
    StubCleared = 22,
    /// Injection without a marker: the thread stands at the entry of a system call.
    CallEntered = 23,
    /// Injection without a marker: the thread stands at the exit of a system call.
    CallLeft = 24,
    /// Injection: a call that waits has been begun anew and interrupted.
    CallInterrupted = 25,
    /// Injection: the thread stands before the two calls of a glance.
    GlanceReady = 26,
    /// Injection: it has made them, and scratch memory has come and gone.
    GlanceDone = 27,
    /// Injection: a thread of several has its registers back and is on its way to its trap, and the next one's turn has come.
    NextThread = 28,
    /// Injection: the thread stands at the entry of the call that gives it the mask of the call that it was found in.
    MaskOfCallAsked = 29,

    /// Capture: nothing has been injected so far.
    CapturedOutside = 30,
    /// Capture: dispositions are read.
    CapturedDispositions = 31,
    /// Capture: alternate stacks and parent-death signals are read.
    CapturedThreads = 32,
    /// Capture: all is read.
    Captured = 33,
    /// Capture: a timer's entry has been taken out for its overruns and is back, and they are not gathered again.
    OverrunCounted = 34,
    /// Stops: the stop is read, and nothing changed.
    StopRead = 35,
    /// Stops: it is another one.
    StopChanged = 36,
    /// Stops: the process is stopped once more, to be turned back.
    StopTurning = 37,
    /// Stops: a parent has been asked what it can still learn of its children.
    WaitStatusRead = 38,

    /// Guardian: about to be forked.
    GuardianForking = 40,
    /// Guardian: forked, as its parent sees it.
    GuardianStarted = 41,
    /// Guardian: the guardian itself begins to watch.
    GuardianWatching = 42,
    /// Guardian: about to be told what is taken out next.
    GuardianTelling = 43,
    /// Guardian: has been told.
    GuardianTold = 44,
    /// Guardian: the guardian itself has understood.
    GuardianHeard = 45,
    /// Custody: about to take out a piece of a queue.
    TakingOut = 46,
    /// Custody: a piece is out.
    TakenOut = 47,
    /// Custody: all is out.
    CustodyWhole = 48,
    /// Custody: about to put back.
    GivingBack = 49,
    /// Custody: all is back, and the guardian has not been told.
    GivenBack = 50,
    /// Custody: the guardian has been told.
    GuardianDismissed = 51,
    /// Guardian: the guardian itself has noticed that criu is gone.
    CriuGone = 52,
    /// Guardian: it has stopped the process.
    RescueSeized = 53,
    /// Guardian: it has put all back, and not let the process go.
    RescueDone = 54,

    /// Dump: `init`.
    DumpBegin = 60,
    /// Dump: before a process is looked at that nobody has seized.
    DumpLook = 61,
    /// Dump: the process is captured, and nothing written or taken out.
    DumpCaptured = 62,
    /// Dump: the image has a name.
    ImageCreated = 63,
    /// Dump: the image is written, and not synced.
    ImageWritten = 64,
    /// Dump: the image is on the disk, with its name.
    ImageSynced = 65,
    /// Dump: interrupted calls are about to be made what CRIU can restart.
    HandingOver = 66,
    /// Dump: they are.
    HandedOver = 67,
    /// Dump: `exit`, before anything is put back.
    DumpEnd = 68,
    /// Dump: what was in custody is back.
    CustodyBack = 69,
    /// Dump: dispositions that CRIU has reset are back.
    DispositionsBack = 70,
    /// Dump: interrupted calls are what they were.
    CallsBack = 71,
    /// Dump: stops are what they were.
    StopsBack = 72,
    /// Dump: CRIU's image with a larger limit is written, and has not taken the place of the other.
    RoomWritten = 73,
    /// Dump: the process that removes stray stop signals begins to wait until CRIU detaches.
    LetGoAwaited = 74,
    /// Dump: it has been let go, and CRIU's stop signal is pending.
    LetGoSeen = 75,

    /// Dump: a process that nobody has seized has been looked at, and let go if it was stopped for that.
    DumpLooked = 76,

    /// Restore: `init`.
    RestoreBegin = 80,
    /// Restore: a process is handed over, and not looked at.
    RestoreHanded = 81,
    /// Restore: its image is read.
    ImageRead = 82,
    /// Restore: about to enter the stop.
    StopEntering = 83,
    /// Restore: the stop is entered, and its parent has been told what it had been told before.
    StopEntered = 84,
    /// Restore: what was taken out at the dump is about to go back.
    OutGoingBack = 85,
    /// Restore: RLIMIT_SIGPENDING is no longer the one that CRIU was lent.
    LimitBack = 86,
    /// Restore: it is known what differs.
    Compared = 87,
    /// Replay: [`Step::BlockAll`](crate::engine::replay::Step).
    BlockAll = 90,
    /// Replay: dispositions.
    Dispositions = 91,
    /// Replay: the raised limit.
    RaiseLimit = 92,
    /// Replay: private queues.
    PrivateQueues = 93,
    /// Replay: the shared queue.
    SharedQueue = 94,
    /// Replay: POSIX timers.
    Timers = 95,
    /// Replay: alternate stacks.
    AlternateStacks = 96,
    /// Replay: parent-death signals.
    ParentDeathSignals = 97,
    /// Replay: the limit as captured.
    Limit = 98,
    /// Replay: masks.
    Masks = 99,
    /// Replay: interrupted system calls.
    InterruptedCalls = 100,
    /// Replay: the group stop.
    GroupStop = 101,
    /// Replay: every step is taken.
    Replayed = 102,
    /// Restore: what was put back has been read back.
    ReadBack = 103,
}

impl Point {
    /// By which it is armed.
    pub fn number(self) -> u32 {
        self as u32
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fault point {} ({self:?})", self.number())
    }
}

/// Passes a point: nothing, in a build without the feature `faults`.
///
/// # Errors
/// If a test has armed it so.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn point(_: Point) -> crate::error::Result<()> {
    Ok(())
}

/// From here on this process is a companion.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(crate) fn in_companion() {}

#[cfg(feature = "faults")]
pub(crate) use armed::in_companion;
#[cfg(feature = "faults")]
pub use armed::point;

#[cfg(any(feature = "faults", test))]
#[cfg_attr(not(feature = "faults"), allow(dead_code))]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use nix::sys::signal::{Signal, raise};

    use super::Point;
    use crate::error::{Cause, Error, Result};

    /// What arms the points.
    const VARIABLE: &str = "CRIU_SIGNALS_FAULT";
    const COMPANION: &str = "companion/";

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Action {
        Fail,
        Kill,
        Panic,
        Stop,
    }

    #[derive(Debug)]
    struct Armed {
        number: u32,
        in_companion: bool,
        action: Action,
        /// Passages left.
        left: AtomicU32,
    }

    static IN_COMPANION: AtomicBool = AtomicBool::new(false);

    pub(crate) fn in_companion() {
        IN_COMPANION.store(true, Ordering::Relaxed);
    }

    static ARMED: OnceLock<Option<Vec<Armed>>> = OnceLock::new();

    /// As in a build without the feature, unless it is armed.
    ///
    /// # Errors
    /// If it is armed with `fail`, or the variable is not understood.
    pub fn point(point: Point) -> Result<()> {
        let armed = ARMED.get_or_init(|| {
            let text = std::env::var(VARIABLE).ok()?;
            Some(parse(&text).unwrap_or_else(|| panic!("{VARIABLE}={text:?} is not understood")))
        });
        let Some(armed) = armed else { return Ok(()) };
        log::debug!("passing {point}");
        let due = armed
            .iter()
            .filter(|armed| armed.number == point.number())
            .filter(|armed| armed.in_companion == IN_COMPANION.load(Ordering::Relaxed))
            .find(|armed| {
                armed
                    .left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                    == Ok(1)
            });
        let Some(due) = due else { return Ok(()) };
        match due.action {
            Action::Fail => {
                log::info!("{point}: fails");
                let why = format!("made to fail by {VARIABLE}");
                Err(Error::new(point.to_string(), Cause::Unexpected(why)))
            }
            Action::Kill => {
                log::info!("{point}: killed");
                let _ = raise(Signal::SIGKILL);
                unreachable!("SIGKILL")
            }
            Action::Panic => {
                log::info!("{point}: panics");
                panic!("{point}: made to panic by {VARIABLE}")
            }
            Action::Stop => {
                log::info!("{point}: stopped");
                let _ = raise(Signal::SIGSTOP);
                Ok(())
            }
        }
    }

    fn parse(text: &str) -> Option<Vec<Armed>> {
        text.split(',')
            .filter(|word| !word.is_empty())
            .map(|word| {
                let in_companion = word.starts_with(COMPANION);
                let mut parts = word.strip_prefix(COMPANION).unwrap_or(word).split(':');
                let number = parts.next()?.parse().ok()?;
                Point::ALL.iter().find(|point| point.number() == number)?;
                let action = match parts.next()? {
                    "fail" => Action::Fail,
                    "kill" => Action::Kill,
                    "panic" => Action::Panic,
                    "stop" => Action::Stop,
                    _ => return None,
                };
                let left = match parts.next() {
                    None => 1,
                    Some(n) => n.parse().ok().filter(|n| *n > 0)?,
                };
                parts.next().is_none().then_some(Armed {
                    number,
                    in_companion,
                    action,
                    left: AtomicU32::new(left),
                })
            })
            .collect()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_arms_a_point() {
            let armed = parse("16:kill,companion/46:fail:3,").unwrap();
            assert_eq!(
                [armed[0].in_companion, armed[1].in_companion],
                [false, true]
            );
            assert_eq!(armed.len(), 2);
            assert_eq!((armed[0].number, armed[0].action), (16, Action::Kill));
            assert_eq!(armed[0].left.load(Ordering::Relaxed), 1);
            assert_eq!((armed[1].number, armed[1].action), (46, Action::Fail));
            assert_eq!(armed[1].left.load(Ordering::Relaxed), 3);
            for bad in [
                "16",
                "16:explode",
                "16:fail:0",
                "16:fail:1:1",
                "9999:fail",
                "x:fail",
            ] {
                assert!(parse(bad).is_none(), "{bad}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_name_one_point_each() {
        let mut numbers: Vec<u32> = Point::ALL.iter().map(|point| point.number()).collect();
        let count = numbers.len();
        numbers.dedup();
        assert_eq!(numbers.len(), count);
        assert!(numbers.is_sorted());
        assert_eq!(Point::BatchDone.to_string(), "fault point 16 (BatchDone)");
    }

    #[test]
    fn nothing_is_armed_by_itself() {
        for &at in Point::ALL {
            point(at).unwrap();
        }
    }
}
