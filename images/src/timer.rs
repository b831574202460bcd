//! The signal state of a POSIX timer, `timer_create(2)`.

use std::fmt;

use protobuf::EnumOrUnknown;

use crate::codec::{Codec, at_most, proto::signals as pb};
use crate::error::FieldError;
use crate::kernel_names::{Clock, Signal};
use crate::siginfo::Siginfo;
use crate::signo::SigNo;

/// Of the timers of one process, so that an entry of the image stays small.
pub const TIMERS_LIMIT: usize = 10_000;

/// Whom an expiry is told (`sigev_notify`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Notify {
    /// The process: SIGEV_SIGNAL.
    Process,
    /// Nobody: SIGEV_NONE.
    Nobody,
    /// The process, whose C library starts a thread: SIGEV_THREAD. To the kernel it is SIGEV_SIGNAL.
    Library,
    /// The thread with this id in its own pid namespace, 0 if it is gone: SIGEV_THREAD_ID.
    Thread(i32),
}

/// Where the one queue entry that the kernel has allocated with the timer is. An entry in a queue that looks
/// alike but was queued by somebody is none: it neither re-arms the timer nor counts overruns, and stays when
/// the timer is set or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TimerEntry {
    /// Nowhere.
    #[default]
    Idle,
    /// In the queue that [`PosixTimer::notify`] names: the expiry will be delivered.
    Pending,
    /// In that queue, but the timer has been set since: the kernel drops the entry instead of delivering it,
    /// unless the timer expires again before.
    Stale,
    /// The signal is ignored: the kernel keeps the entry aside, and queues it as soon as the signal is not
    /// ignored any more. Linux 6.13 and later.
    Ignored,
}

/// A POSIX timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PosixTimer {
    /// The kernel's number of it.
    pub id: i32,
    /// The clock: CLOCK_*, or a number below 0 for a CPU-time clock.
    pub clock: i32,
    /// `sigev_signo`; without a meaning for [`Notify::Nobody`].
    pub signo: i32,
    /// `sigev_value`.
    pub value: u64,
    /// Whom an expiry is told.
    pub notify: Notify,
    /// Nanoseconds between expiries; 0: it expires once.
    pub interval: u64,
    /// Nanoseconds up to the next expiry; 0: it is not armed.
    pub remaining: u64,
    /// What timer_getoverrun(2) gives: expiries that the signal delivered last stands for, beyond its own.
    pub overrun: u32,
    /// Where its own queue entry is.
    pub entry: TimerEntry,
    /// Expiries so far that a pending entry stands for, beyond its own. `None` where nobody looked: the kernel
    /// tells it only to whom it delivers the entry.
    pub entry_overrun: Option<u32>,
    /// The place of an entry that is kept aside ([`TimerEntry::Ignored`]) among all such entries of the process, in the order in
    /// which the kernel queues them. `None` where nobody looked: only a BPF program sees the order.
    pub place_aside: Option<u32>,
}

impl PosixTimer {
    /// A timer of CLOCK_MONOTONIC that sends `signo` to the process, and nothing else: not armed, nothing pending.
    pub fn bare(id: i32, signo: i32) -> PosixTimer {
        PosixTimer {
            id,
            clock: 1,
            signo,
            value: 0,
            notify: Notify::Process,
            interval: 0,
            remaining: 0,
            overrun: 0,
            entry: TimerEntry::Idle,
            entry_overrun: None,
            place_aside: None,
        }
    }

    /// Does this siginfo look as the timer's own entry does? [`TimerEntry`] says why it need not be it.
    pub fn made(&self, info: &Siginfo) -> bool {
        self.notify != Notify::Nobody && info.is_of_timer(self.signo, self.id, self.value)
    }

    /// `SIGRTMIN value 0x0 to process, CLOCK_MONOTONIC, interval 1000000 ns`: what does not change by itself.
    pub fn setting(&self) -> String {
        let PosixTimer {
            id: _,
            clock,
            signo,
            value,
            notify,
            interval,
            remaining: _,
            overrun: _,
            entry: _,
            entry_overrun: _,
            place_aside: _,
        } = self;
        format!(
            "{} value {value:#x} to {notify}, {}, interval {interval} ns",
            Signal(*signo),
            Clock(*clock)
        )
    }

    /// The thread whose private queue the entry is put into; `None` for the shared queue.
    pub fn thread(&self) -> Option<i32> {
        match self.notify {
            Notify::Thread(tid) => Some(tid),
            Notify::Process | Notify::Nobody | Notify::Library => None,
        }
    }
}

/// A POSIX timer that is gone: timer_delete(2) leaves an entry that is pending where it is. Since Linux 6.13 the kernel drops
/// it when its signal is looked for; until then it is shown as pending, and keeps out a second signal of a number below 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeletedTimer {
    /// The kernel's number that it had.
    pub id: i32,
    /// The signal.
    pub signo: SigNo,
    /// `sigev_value`.
    pub value: u64,
    /// The thread in whose queue the entry is, by its id in its own pid namespace; `None` for the shared queue.
    pub thread: Option<i32>,
}

impl DeletedTimer {
    /// Does this siginfo look as the entry does? It is one of the timer's, unless it is in another queue.
    pub fn made(&self, info: &Siginfo) -> bool {
        info.is_of_timer(self.signo.get(), self.id, self.value)
    }
}

impl Codec for DeletedTimer {
    type Message = pb::DeletedTimer;

    fn to_proto(&self) -> pb::DeletedTimer {
        pb::DeletedTimer {
            id: self.id,
            signo: self.signo.to_proto(),
            value: self.value,
            tid: self.thread,
            ..pb::DeletedTimer::default()
        }
    }

    fn from_proto(message: &pb::DeletedTimer) -> Result<DeletedTimer, FieldError> {
        let deleted = DeletedTimer {
            id: message.id,
            signo: SigNo::from_proto(&message.signo)
                .map_err(|error| error.within("deleted_timers"))?,
            value: message.value,
            thread: message.tid,
        };
        Ok(deleted)
    }
}

impl fmt::Display for Notify {
    /// `process`, `thread 42`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notify::Process => f.write_str("process"),
            Notify::Nobody => f.write_str("nobody"),
            Notify::Library => f.write_str("library"),
            Notify::Thread(tid) => write!(f, "thread {tid}"),
        }
    }
}

impl fmt::Display for TimerEntry {
    /// `its own entry pending`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TimerEntry::Idle => "no entry of its own pending",
            TimerEntry::Pending => "its own entry pending",
            TimerEntry::Stale => "its own entry pending, and to be dropped",
            TimerEntry::Ignored => "its own entry kept aside while the signal is ignored",
        })
    }
}

impl fmt::Display for PosixTimer {
    /// `SIGRTMIN value 0x0 to process, CLOCK_MONOTONIC, interval 1000000 ns, overrun 0, its own entry pending with overrun 3`.
    /// The first overrun is that of the delivery before, timer_getoverrun(2).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setting = self.setting();
        write!(f, "{setting}, overrun {}, {}", self.overrun, self.entry)?;
        match (self.entry, self.entry_overrun) {
            (TimerEntry::Pending | TimerEntry::Ignored, Some(overrun)) => {
                write!(f, " with overrun {overrun}")
            }
            (TimerEntry::Pending | TimerEntry::Ignored, None) if self.interval != 0 => {
                f.write_str(", whose overrun is not known")
            }
            _ => Ok(()),
        }
    }
}

impl Codec for PosixTimer {
    type Message = pb::PosixTimer;

    fn to_proto(&self) -> pb::PosixTimer {
        let (notify, tid) = match self.notify {
            Notify::Process => (pb::TimerNotify::TIMER_NOTIFY_PROCESS, 0),
            Notify::Nobody => (pb::TimerNotify::TIMER_NOTIFY_NOBODY, 0),
            Notify::Library => (pb::TimerNotify::TIMER_NOTIFY_LIBRARY, 0),
            Notify::Thread(tid) => (pb::TimerNotify::TIMER_NOTIFY_THREAD, tid),
        };
        let entry = match self.entry {
            TimerEntry::Idle => pb::TimerEntry::TIMER_ENTRY_IDLE,
            TimerEntry::Pending => pb::TimerEntry::TIMER_ENTRY_PENDING,
            TimerEntry::Stale => pb::TimerEntry::TIMER_ENTRY_STALE,
            TimerEntry::Ignored => pb::TimerEntry::TIMER_ENTRY_IGNORED,
        };
        pb::PosixTimer {
            id: self.id,
            clock: self.clock,
            signo: self.signo,
            value: self.value,
            notify: notify.into(),
            notify_tid: tid,
            interval: self.interval,
            remaining: self.remaining,
            overrun: self.overrun,
            entry: entry.into(),
            entry_overrun: self.entry_overrun,
            place_aside: self.place_aside,
            ..pb::PosixTimer::default()
        }
    }

    fn from_proto(message: &pb::PosixTimer) -> Result<PosixTimer, FieldError> {
        if message.id < 0 {
            return Err(FieldError::new(
                "id",
                format!("{} is not a timer", message.id),
            ));
        }
        let notify = match known("notify", message.notify)? {
            pb::TimerNotify::TIMER_NOTIFY_UNSPECIFIED => return Err(FieldError::missing("notify")),
            pb::TimerNotify::TIMER_NOTIFY_PROCESS => Notify::Process,
            pb::TimerNotify::TIMER_NOTIFY_NOBODY => Notify::Nobody,
            pb::TimerNotify::TIMER_NOTIFY_LIBRARY => Notify::Library,
            pb::TimerNotify::TIMER_NOTIFY_THREAD => Notify::Thread(message.notify_tid),
        };
        if notify != Notify::Nobody && SigNo::new(message.signo).is_none() {
            let reason = format!("{} is not a signal (1 to 64)", message.signo);
            return Err(FieldError::new("signo", reason));
        }
        Ok(PosixTimer {
            id: message.id,
            clock: message.clock,
            signo: message.signo,
            value: message.value,
            notify,
            interval: message.interval,
            remaining: message.remaining,
            overrun: message.overrun,
            entry: match known("entry", message.entry)? {
                pb::TimerEntry::TIMER_ENTRY_IDLE => TimerEntry::Idle,
                pb::TimerEntry::TIMER_ENTRY_PENDING => TimerEntry::Pending,
                pb::TimerEntry::TIMER_ENTRY_STALE => TimerEntry::Stale,
                pb::TimerEntry::TIMER_ENTRY_IGNORED => TimerEntry::Ignored,
            },
            entry_overrun: message.entry_overrun,
            place_aside: message.place_aside,
        })
    }
}

fn known<E: protobuf::Enum>(field: &str, number: EnumOrUnknown<E>) -> Result<E, FieldError> {
    number.enum_value().map_err(|number| {
        FieldError::new(field, format!("{number} is none that this program knows"))
    })
}

/// All of a process's: not too many, each id once, and none that a reader would refuse.
pub(crate) fn check(timers: &[PosixTimer]) -> Result<(), FieldError> {
    at_most("timers", timers.len(), TIMERS_LIMIT)?;
    let mut ids = std::collections::HashSet::new();
    for (index, timer) in timers.iter().enumerate() {
        if !ids.insert(timer.id) {
            let reason = format!("there are two timers {}", timer.id);
            return Err(FieldError::new("id", reason).within_item("timers", index));
        }
        PosixTimer::from_proto(&timer.to_proto())
            .map_err(|error| error.within_item("timers", index))?;
    }
    Ok(())
}

/// As [`check`], of those that are gone. A number may have been given twice.
pub(crate) fn check_deleted(timers: &[DeletedTimer]) -> Result<(), FieldError> {
    at_most("deleted_timers", timers.len(), TIMERS_LIMIT)?;
    match timers.iter().position(|timer| timer.id < 0) {
        None => Ok(()),
        Some(index) => {
            let reason = format!("{} is not a timer", timers[index].id);
            Err(FieldError::new("id", reason).within_item("deleted_timers", index))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::siginfo::Fields;
    use crate::testing;

    fn timer() -> PosixTimer {
        PosixTimer {
            id: 3,
            clock: 1,
            signo: 34,
            value: 7,
            notify: Notify::Thread(42),
            interval: 1_000_000,
            remaining: 5,
            overrun: 2,
            entry: TimerEntry::Pending,
            entry_overrun: None,
            place_aside: None,
        }
    }

    fn siginfo(signo: i32, id: i32, value: u64) -> Siginfo {
        let fields = Fields::Timer {
            id,
            overrun: 0,
            value,
            sys_private: 0,
        };
        Siginfo::from_fields(signo, 0, libc::SI_TIMER, &fields)
    }

    #[test]
    fn which_siginfo_is_a_timer_s() {
        assert!(timer().made(&siginfo(34, 3, 7)));
        assert!(!timer().made(&siginfo(35, 3, 7)));
        assert!(!timer().made(&siginfo(34, 4, 7)));
        assert!(!timer().made(&siginfo(34, 3, 8)));
        assert!(!timer().made(&testing::queued(34, 3)));
        let silent = PosixTimer {
            notify: Notify::Nobody,
            ..timer()
        };
        assert!(!silent.made(&siginfo(34, 3, 7)));
    }

    #[test]
    fn text() {
        assert_eq!(
            timer().to_string(),
            "SIGRTMIN value 0x7 to thread 42, CLOCK_MONOTONIC, interval 1000000 ns, overrun 2, its own entry pending, whose \
             overrun is not known"
        );
        let known = PosixTimer {
            entry: TimerEntry::Ignored,
            entry_overrun: Some(3),
            ..timer()
        };
        let text = known.to_string();
        assert!(
            text.ends_with("kept aside while the signal is ignored with overrun 3"),
            "{text}"
        );
        let once = PosixTimer {
            interval: 0,
            ..timer()
        };
        assert!(once.to_string().ends_with("its own entry pending"));
    }

    #[test]
    fn what_is_refused() {
        for change in [
            (|message| message.id = -1) as fn(&mut pb::PosixTimer),
            |message| message.signo = 65,
            |message| message.notify = EnumOrUnknown::from_i32(9),
            |message| message.notify = EnumOrUnknown::from_i32(0),
            |message| message.entry = EnumOrUnknown::from_i32(9),
        ] {
            let mut message = timer().to_proto();
            change(&mut message);
            PosixTimer::from_proto(&message).expect_err("not a timer");
        }
        check(&[timer(), timer()]).expect_err("one id twice");
        check(&vec![timer(); TIMERS_LIMIT + 1]).expect_err("too many");
        check(&[timer()]).expect("a timer");
    }

    #[test]
    fn what_a_timer_that_is_gone_has_left() {
        let gone = testing::deleted_timer();
        assert!(gone.made(&siginfo(10, 3, 7)));
        assert!(!gone.made(&siginfo(10, 4, 7)));
        assert!(!gone.made(&siginfo(12, 3, 7)));
        assert!(!gone.made(&testing::queued(10, 7)));
        check_deleted(&[gone, gone]).expect("a number may be given twice");
        check_deleted(&vec![gone; TIMERS_LIMIT + 1]).expect_err("too many");
        check_deleted(&[DeletedTimer { id: -1, ..gone }]).expect_err("no timer");
        let mut message = gone.to_proto();
        message.signo = 65;
        DeletedTimer::from_proto(&message).expect_err("no signal");
    }

    proptest! {
        #[test]
        fn round_trip(timer in testing::timer()) {
            prop_assert_eq!(PosixTimer::from_proto(&timer.to_proto()), Ok(timer));
        }
    }
}
