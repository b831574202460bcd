//! What differs between the state that was dumped and the state that is found.

use std::collections::HashMap;
use std::fmt;

use crate::pending::Pending;
use crate::process::{ProcessState, ThreadState};
use crate::siginfo::Siginfo;
use crate::signo::SigNo;
use crate::timer::{PosixTimer, TimerEntry};

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Whose it is.
    pub place: Place,
    /// What it is.
    pub field: Field,
    /// What was dumped, for people.
    pub dumped: String,
    /// What is found, for people.
    pub found: String,
}

/// Whose state differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// The process's own.
    Process,
    /// That of the thread with this id in its own pid namespace.
    Thread(i32),
}

/// What differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// A 32-bit task became a 64-bit one, or the other way round.
    Arch,
    /// The thread was dumped and is not there.
    ThreadMissing,
    /// The thread is there and was not dumped.
    ThreadExtra,
    /// What the process does on this signal.
    Disposition(SigNo),
    /// The lasting mask.
    Mask,
    /// The alternate stack.
    AltStack,
    /// What is sent when the thread's parent ends.
    ParentDeathSignal,
    /// The siginfos that are pending for the thread.
    PrivateQueue,
    /// Which signals are pending for the thread.
    PrivateBits,
    /// The siginfos that are pending for the process.
    SharedQueue,
    /// Which signals are pending for the process.
    SharedBits,
    /// RLIMIT_SIGPENDING.
    RlimitSigpending,
    /// Stopped or not.
    RunState,
    /// The POSIX timer with this id, and where its own queue entry is.
    Timer(i32),
}

impl fmt::Display for Place {
    /// `process`, `thread 42`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Process => f.write_str("process"),
            Place::Thread(tid) => write!(f, "thread {tid}"),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Field::Disposition(signo) => return write!(f, "disposition of {signo}"),
            Field::Timer(id) => return write!(f, "timer {id}"),
            Field::Arch => "kind of task",
            Field::ThreadMissing | Field::ThreadExtra => "existence",
            Field::Mask => "mask",
            Field::AltStack => "alternate stack",
            Field::ParentDeathSignal => "parent-death signal",
            Field::PrivateQueue => "private queue",
            Field::PrivateBits => "private pending signals",
            Field::SharedQueue => "shared queue",
            Field::SharedBits => "shared pending signals",
            Field::RlimitSigpending => "RLIMIT_SIGPENDING",
            Field::RunState => "run state",
        })
    }
}

impl fmt::Display for Difference {
    /// `thread 42: mask: dumped SIGINT, found none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference {
            place,
            field,
            dumped,
            found,
        } = self;
        write!(f, "{place}: {field}: dumped {dumped}, found {found}")
    }
}

/// Everything that a restored process should have and has not.
///
/// Threads are matched by the id in their own pid namespace. Not compared is what may differ after a
/// restore that did all it should: ids further out, `pid_ns`, `comm`, `queued`, `stack_needs`, the mask in
/// force, which a call that was interrupted may still be borrowing, and `exit_signal`, which cannot be set.
pub fn compare(dumped: &ProcessState, found: &ProcessState) -> Vec<Difference> {
    let mut differences = Differences(Vec::new());
    differences.process(dumped, found);
    let mut extra: HashMap<i32, &ThreadState> = by_id(found).collect();
    for (tid, thread) in by_id(dumped) {
        match extra.remove(&tid) {
            Some(found) => differences.thread(Place::Thread(tid), thread, found),
            None => differences.existence(tid, Field::ThreadMissing, ["a thread", "none"]),
        }
    }
    for (tid, _) in by_id(found) {
        if extra.contains_key(&tid) {
            differences.existence(tid, Field::ThreadExtra, ["none", "a thread"]);
        }
    }
    differences.0
}

fn by_id(process: &ProcessState) -> impl Iterator<Item = (i32, &ThreadState)> {
    process
        .threads
        .iter()
        .map(|thread| (thread.ids.innermost(), thread))
}

struct Differences(Vec<Difference>);

impl Differences {
    fn process(&mut self, dumped: &ProcessState, found: &ProcessState) {
        let place = Place::Process;
        self.values(place, Field::Arch, task(dumped), task(found));
        self.values(place, Field::RunState, dumped.run_state, found.run_state);
        let limits = [dumped.rlimit_sigpending, found.rlimit_sigpending];
        self.values(place, Field::RlimitSigpending, limits[0], limits[1]);
        for (signo, disposition) in dumped.dispositions.iter() {
            let field = Field::Disposition(signo);
            self.values(place, field, *disposition, found.dispositions[signo]);
        }
        self.values(
            place,
            Field::SharedBits,
            dumped.shared.bits,
            found.shared.bits,
        );
        self.queues(place, Field::SharedQueue, &dumped.shared, &found.shared);
        self.timers(&dumped.timers, &found.timers);
    }

    fn timers(&mut self, dumped: &[PosixTimer], found: &[PosixTimer]) {
        for timer in dumped {
            let now = found.iter().find(|now| now.id == timer.id);
            if now.is_some_and(|now| same_timer(timer, now)) {
                continue;
            }
            self.0.push(Difference {
                place: Place::Process,
                field: Field::Timer(timer.id),
                dumped: timer.to_string(),
                found: now.map_or_else(|| "no such timer".to_owned(), PosixTimer::to_string),
            });
        }
    }

    fn thread(&mut self, place: Place, dumped: &ThreadState, found: &ThreadState) {
        self.values(
            place,
            Field::Mask,
            dumped.lasting_mask(),
            found.lasting_mask(),
        );
        self.values(place, Field::AltStack, dumped.altstack, found.altstack);
        let signals = [dumped, found].map(|thread| {
            thread
                .parent_death_signal
                .map_or_else(|| "none".to_owned(), |signo| signo.to_string())
        });
        let [dumped_signal, found_signal] = signals;
        self.values(place, Field::ParentDeathSignal, dumped_signal, found_signal);
        self.values(
            place,
            Field::PrivateBits,
            dumped.pending.bits,
            found.pending.bits,
        );
        self.queues(place, Field::PrivateQueue, &dumped.pending, &found.pending);
    }

    fn existence(&mut self, tid: i32, field: Field, [dumped, found]: [&str; 2]) {
        self.values(Place::Thread(tid), field, dumped, found);
    }

    fn values<T: PartialEq + fmt::Display>(
        &mut self,
        place: Place,
        field: Field,
        dumped: T,
        found: T,
    ) {
        if dumped != found {
            self.0.push(Difference {
                place,
                field,
                dumped: dumped.to_string(),
                found: found.to_string(),
            });
        }
    }

    fn queues(&mut self, place: Place, field: Field, dumped: &Pending, found: &Pending) {
        let (dumped, found) = (&dumped.queue, &found.queue);
        if dumped == found {
            return;
        }
        let same = dumped
            .iter()
            .zip(found)
            .take_while(|(dumped, found)| dumped == found);
        let at = same.count();
        let byte = dumped
            .get(at)
            .zip(found.get(at))
            .and_then(|(dumped, found)| hidden(dumped, found));
        self.0.push(Difference {
            place,
            field,
            dumped: entry(dumped, at, byte),
            found: entry(found, at, byte),
        });
    }
}

/// Not compared is what time changes: what remains, and the overruns of an entry that is still pending. Nor, for
/// a timer whose entry is pending, those of the one before: it is set with the timer and can't be had together
/// with a pending entry.
fn same_timer(dumped: &PosixTimer, found: &PosixTimer) -> bool {
    let what = |timer: &PosixTimer| {
        let PosixTimer {
            clock,
            signo,
            value,
            notify,
            interval,
            ..
        } = *timer;
        (clock, signo, value, notify, interval)
    };
    let entry = match (dumped.entry, found.entry) {
        // It has expired since, or again.
        (TimerEntry::Idle, _) => true,
        (TimerEntry::Stale, now) => matches!(now, TimerEntry::Stale | TimerEntry::Pending),
        (dumped, now) => dumped == now,
    };
    let idle = dumped.entry == TimerEntry::Idle && found.entry == TimerEntry::Idle;
    what(dumped) == what(found) && entry && (!idle || dumped.overrun == found.overrun)
}

fn task(process: &ProcessState) -> &'static str {
    if process.compat {
        "a 32-bit task"
    } else {
        "a 64-bit task"
    }
}

/// The first byte that differs, where the lines that people see do not tell the two apart.
fn hidden(dumped: &Siginfo, found: &Siginfo) -> Option<usize> {
    let mut pairs = dumped.as_bytes().iter().zip(found.as_bytes());
    (dumped.to_string() == found.to_string())
        .then(|| pairs.position(|(dumped, found)| dumped != found))
        .flatten()
}

/// `entry 3 of 12: SIGRTMIN+1 SI_QUEUE pid 7 uid 0 value 0x3`, or `2 entries` where there is no such one.
fn entry(queue: &[Siginfo], at: usize, byte: Option<usize>) -> String {
    let Some(siginfo) = queue.get(at) else {
        return match queue.len() {
            0 => "no entries".to_owned(),
            1 => "1 entry".to_owned(),
            count => format!("{count} entries"),
        };
    };
    let line = format!("entry {} of {}: {siginfo}", at + 1, queue.len());
    match byte.and_then(|byte| Some((byte, siginfo.as_bytes().get(byte)?))) {
        Some((byte, value)) => format!("{line} (byte {byte} is {value:#04x})"),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::altstack::AltStack;
    use crate::ids::NsIds;
    use crate::process::{Rlimit, RunState};
    use crate::sigset::SigSet;
    use crate::testing::{self, queued, sample};

    /// What `change` makes of the sample, as lines.
    fn lines(change: impl FnOnce(&mut ProcessState)) -> Vec<String> {
        let mut found = sample();
        change(&mut found);
        compare(&sample(), &found)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn everything_that_must_come_back() {
        assert_eq!(
            lines(|found| {
                found.compat = true;
                found.run_state = RunState::Running;
                found.rlimit_sigpending = Rlimit { soft: 1, hard: 2 };
                found.dispositions[SigNo::HUP].handler = 1;
                found.shared.bits.insert(SigNo::INT);
            }),
            [
                "process: kind of task: dumped a 64-bit task, found a 32-bit task",
                "process: run state: dumped stopped by SIGTSTP, found running",
                "process: RLIMIT_SIGPENDING: dumped soft 128 hard unlimited, found soft 1 hard 2",
                "process: disposition of SIGHUP: dumped default, found ignore",
                "process: shared pending signals: dumped SIGHUP,SIGRTMIN+30, found SIGHUP,SIGINT,SIGRTMIN+30",
            ]
        );
        assert_eq!(
            lines(|found| {
                let thread = &mut found.threads[1];
                thread.blocked = SigSet::EMPTY;
                thread.altstack.flags = 0;
                thread.pending = Pending::default();
            }),
            [
                "thread 42: mask: dumped all, found none",
                "thread 42: alternate stack: dumped disabled, found 0x0 size 0",
                "thread 42: private pending signals: dumped SIGUSR1,SIGRTMIN, found none",
                "thread 42: private queue: dumped entry 1 of 3: SIGRTMIN SI_QUEUE pid 12 uid 1000 value 0x1, \
                 found no entries",
            ]
        );
    }

    #[test]
    fn what_may_differ() {
        let differences = lines(|found| {
            found.queued += 1;
            found.pid_ns += 1;
            found.comm.clear();
            found.ids = NsIds::new(vec![99, 41]).expect("valid");
            for thread in &mut found.threads {
                thread.ids = NsIds::new(vec![99, thread.ids.innermost()]).expect("valid");
            }
            // The borrowed mask has been given back.
            found.threads[0].blocked = SigSet::from(SigNo::USR1);
            found.threads[0].saved_mask = None;
        });
        assert_eq!(differences, [""; 0]);
    }

    #[test]
    fn threads_by_innermost_id() {
        assert_eq!(
            lines(|found| found.threads[1].ids = NsIds::new(vec![4712, 43]).expect("valid")),
            [
                "thread 42: existence: dumped a thread, found none",
                "thread 43: existence: dumped none, found a thread",
            ]
        );
        assert_eq!(lines(|found| found.threads.swap(0, 1)), [""; 0]);
    }

    #[test]
    fn the_entry_where_queues_part() {
        let queue = |change: fn(&mut Vec<Siginfo>)| {
            lines(|found| change(&mut found.threads[1].pending.queue)).join("; ")
        };
        assert_eq!(
            queue(|queue| queue.swap(0, 1)),
            "thread 42: private queue: \
             dumped entry 1 of 3: SIGRTMIN SI_QUEUE pid 12 uid 1000 value 0x1, \
             found entry 1 of 3: SIGRTMIN SI_QUEUE pid 12 uid 1000 value 0x2"
        );
        assert_eq!(
            queue(|queue| queue.push(queued(34, 7))),
            "thread 42: private queue: dumped 3 entries, \
             found entry 4 of 4: SIGRTMIN SI_QUEUE pid 12 uid 1000 value 0x7"
        );
        let mut dumped = sample();
        let mut found = sample();
        dumped.shared.queue[0].0[100] = 1;
        found.shared.queue[0].0[100] = 2;
        let line = "entry 1 of 1: SIGRTMIN+30 SI_QUEUE pid 12 uid 1000 value 0x9 and bytes outside of these";
        let difference = &compare(&dumped, &found)[0];
        assert_eq!(difference.dumped, format!("{line} (byte 100 is 0x01)"));
        assert_eq!(difference.found, format!("{line} (byte 100 is 0x02)"));
    }

    proptest! {
        #[test]
        fn nothing_differs_from_itself(process in testing::process()) {
            prop_assert_eq!(compare(&process, &process), []);
        }

        #[test]
        fn an_altstack_that_is_gone(process in testing::process()) {
            let mut found = process.clone();
            for thread in &mut found.threads {
                thread.altstack = AltStack::DISABLED;
            }
            let gone = process.threads.iter().filter(|thread| thread.altstack != AltStack::DISABLED);
            prop_assert_eq!(compare(&process, &found).len(), gone.count());
        }
    }
}
