//! Compares dumped state with found state.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use crate::clocks::{Clocks, TimerFd};
use crate::code_place::CodePlace;
use crate::disposition::Disposition;
use crate::image::Image;
use crate::interrupted::RestartCode;
use crate::itimer::IntervalTimer;
use crate::kernel_names::CallTable;
use crate::owner::FileOwner;
use crate::pending::Pending;
use crate::process::{ProcessState, Rlimit, ThreadState};
use crate::recorded::{Aspect, Recorded};
use crate::siginfo::Siginfo;
use crate::signo::SigNo;
use crate::timer::{Notify, PosixTimer, TimerEntry};

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
    /// Of [`Field::Disposition`] both, so that [`named`](Difference::named) can name their addresses.
    pub dispositions: Option<Box<[Disposition; 2]>>,
}

impl Difference {
    /// `dumped` and `found` with the names of the addresses in either.
    pub fn named(&self, dumped: &[CodePlace], found: &[CodePlace]) -> [String; 2] {
        match &self.dispositions {
            Some(both) => [
                both[0].named(dumped).to_string(),
                both[1].named(found).to_string(),
            ],
            None => [self.dumped.clone(), self.found.clone()],
        }
    }
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
#[non_exhaustive]
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
    /// An interval timer of setitimer(2).
    IntervalTimer,
    /// Whom the SIGIO of the file with this descriptor goes to.
    FileOwner(i32),
    /// The timerfd with this descriptor.
    TimerFd(i32),
    /// RLIMIT_CPU.
    CpuLimit,
    /// The command's name.
    Comm,
    /// What the parent's wait(2) would still report.
    WaitStatus,
    /// What the parent is sent at the end.
    ExitSignal,
    /// The mask in force, where it is not the lasting one.
    MaskInForce,
    /// The call that was interrupted.
    InterruptedCall,
}

impl Field {
    /// The name in JSON documents, without the number of a signal or a timer.
    pub const fn name(self) -> &'static str {
        match self {
            Field::Arch => "compat",
            Field::ThreadMissing | Field::ThreadExtra => "existence",
            Field::Disposition(_) => "disposition",
            Field::Mask => "blocked",
            Field::AltStack => "altstack",
            Field::ParentDeathSignal => "parent_death_signal",
            Field::PrivateQueue => "private_queue",
            Field::PrivateBits => "private_bits",
            Field::SharedQueue => "shared_queue",
            Field::SharedBits => "shared_bits",
            Field::RlimitSigpending => "rlimit_sigpending",
            Field::RunState => "run_state",
            Field::Timer(_) => "timer",
            Field::IntervalTimer => "interval_timer",
            Field::FileOwner(_) => "file_owner",
            Field::TimerFd(_) => "timerfd",
            Field::CpuLimit => "rlimit_cpu",
            Field::Comm => "comm",
            Field::WaitStatus => "wait_status",
            Field::ExitSignal => "exit_signal",
            Field::MaskInForce => "mask_in_force",
            Field::InterruptedCall => "interrupted",
        }
    }
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
            Field::FileOwner(fd) => return write!(f, "owner of file descriptor {fd}"),
            Field::TimerFd(fd) => return write!(f, "timerfd {fd}"),
            Field::CpuLimit => "RLIMIT_CPU",
            Field::IntervalTimer => "interval timer",
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
            Field::Comm => "name",
            Field::WaitStatus => "wait status",
            Field::ExitSignal => "exit signal",
            Field::MaskInForce => "mask in force",
            Field::InterruptedCall => "interrupted call",
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
            dispositions: _,
        } = self;
        write!(f, "{place}: {field}: dumped {dumped}, found {found}")
    }
}

/// Everything that a restored process should have and has not.
///
/// Threads are matched by the id in their own pid namespace. Not compared is what may differ after a
/// restore that did all it should: ids further out, `pid_ns`, `comm`, `exe`, `queued`, `stack_needs`, the mask in
/// force, which a call that was interrupted may still be borrowing. Nor are `exit_signal`, interval timers, the owners
/// of files, timerfds and RLIMIT_CPU compared: see [`compare_exit_signals`], [`compare_interval_timers`],
/// [`file_owner_differs`], [`timerfd_differs`] and [`cpu_limit_differs`].
pub fn compare(dumped: &ProcessState, found: &ProcessState) -> Vec<Difference> {
    let mut differences = Differences(Vec::new());
    differences.process(dumped, found);
    differences.timers(&dumped.timers, &found.timers);
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

/// Whether the parent is sent something else at the end, where both states tell.
pub fn compare_exit_signals(dumped: &ProcessState, found: &ProcessState) -> Option<Difference> {
    let signals = [dumped.exit_signal?, found.exit_signal?];
    let [dumped, found] = signals;
    (dumped != found).then(|| Difference {
        dispositions: None,
        place: Place::Process,
        field: Field::ExitSignal,
        dumped: dumped.to_string(),
        found: found.to_string(),
    })
}

/// Compares the interval timers, of every kind. `same` tells whether the second of two of one kind is what is to be found
/// where the first was dumped: time has passed. Each that differs is returned as it was dumped, and as a difference.
pub fn compare_interval_timers(
    dumped: &[IntervalTimer],
    found: &[IntervalTimer],
    same: impl Fn(&IntervalTimer, &IntervalTimer) -> bool,
) -> Vec<(IntervalTimer, Difference)> {
    let pair = |which| [dumped, found].map(|timers| IntervalTimer::of_kind(timers, which));
    let pairs = IntervalTimer::KINDS.into_iter().map(pair);
    let differs = pairs.filter(|[dumped, found]| !same(dumped, found));
    let difference = |[dumped, found]: [IntervalTimer; 2]| {
        let texts = [dumped, found].map(|timer| format!("{} {timer}", timer.name()));
        let [dumped_text, found_text] = if texts[0] == texts[1] {
            [dumped, found].map(|timer| {
                let (name, left) = (timer.name(), timer.remaining);
                format!("{name} {timer}, {left} ns left")
            })
        } else {
            texts
        };
        let difference = Difference {
            dispositions: None,
            place: Place::Process,
            field: Field::IntervalTimer,
            dumped: dumped_text,
            found: found_text,
        };
        (dumped, difference)
    };
    differs.map(difference).collect()
}

/// The difference between two owners of the file with this descriptor.
pub fn file_owner_differs(
    fd: i32,
    dumped: Option<FileOwner>,
    found: Option<FileOwner>,
) -> Option<Difference> {
    let text = |owner: Option<FileOwner>| {
        owner.map_or_else(|| "nobody".to_owned(), |owner| owner.to_string())
    };
    (dumped != found).then(|| Difference {
        dispositions: None,
        place: Place::Process,
        field: Field::FileOwner(fd),
        dumped: text(dumped),
        found: text(found),
    })
}

/// The difference between two timerfds of this descriptor. `same` is as in [`compare_interval_timers`]; `None` where the
/// descriptor is no timerfd.
pub fn timerfd_differs(
    fd: i32,
    dumped: Option<&TimerFd>,
    found: Option<&TimerFd>,
    same: impl Fn(&TimerFd, &TimerFd) -> bool,
) -> Option<Difference> {
    let text =
        |timer: Option<&TimerFd>| timer.map_or_else(|| "no timerfd".to_owned(), |t| t.to_string());
    let differs = match (dumped, found) {
        (Some(dumped), Some(found)) => !same(dumped, found),
        (dumped, found) => dumped.is_some() || found.is_some(),
    };
    differs.then(|| Difference {
        dispositions: None,
        place: Place::Process,
        field: Field::TimerFd(fd),
        dumped: text(dumped),
        found: text(found),
    })
}

/// The difference between two limits of processor time.
pub fn cpu_limit_differs(dumped: Rlimit, found: Rlimit) -> Option<Difference> {
    (dumped != found).then(|| Difference {
        dispositions: None,
        place: Place::Process,
        field: Field::CpuLimit,
        dumped: dumped.to_string(),
        found: found.to_string(),
    })
}

/// What two states have in common, and what nobody can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Comparison {
    /// [`Difference::dumped`] is the first one's, [`Difference::found`] the second one's; a thread is named by its id in
    /// the first one.
    pub differences: Vec<Difference>,
    /// What one of them does not tell, so that it was not compared.
    pub not_compared: Vec<Aspect>,
    /// Which of these the first one does not tell, and which the second one does not.
    pub lacks: [Vec<Aspect>; 2],
}

/// Compares two states field by field: all that both tell, except for ids, namespaces, `queued`, `stack_needs` and times
/// that are left.
///
/// Threads of one process are matched by the id in their own pid namespace. Those of different processes, which the ids
/// of the leaders tell, are matched in their order.
pub fn compare_all(a: &Recorded, b: &Recorded) -> Comparison {
    let mut lacks = [a, b].map(|recorded| recorded.missing.clone());
    let clocks = [a, b].map(|recorded| recorded.image.process.clocks.as_ref());
    let has_clocks = clocks.iter().flatten().any(|clocks| !clocks.is_empty());
    for (lacks, recorded) in lacks.iter_mut().zip([a, b]) {
        let process = &recorded.image.process;
        if !process.records_file_owners() {
            lacks.push(Aspect::FileOwners);
        }
        if has_clocks && process.clocks.is_none() {
            lacks.push(Aspect::Clocks);
        }
    }
    let mut not_compared = lacks.concat();
    not_compared.sort_unstable();
    not_compared.dedup();
    let tables = [&a.image, &b.image].map(Image::calls);
    let (a, b) = (a.without(&not_compared), b.without(&not_compared));
    // Compared by nobody, so that nothing is lost.
    let ids = [Aspect::Namespaces, Aspect::Charged, Aspect::StackNeeds];
    not_compared.retain(|aspect| !ids.contains(aspect));
    for lacks in &mut lacks {
        lacks.retain(|aspect| not_compared.contains(aspect));
        lacks.sort_unstable();
        lacks.dedup();
    }

    let pairs = pairs(&a, &b);
    let partner = |tid| {
        pairs.iter().find_map(|pair| match pair {
            (Some(a), Some(b)) if a.ids.innermost() == tid => Some(b.ids.innermost()),
            _ => None,
        })
    };
    let mut differences = Differences(Vec::new());
    differences.process(&a, &b);
    differences.rest(&a, &b);
    differences.all_timers(&a.timers, &b.timers, partner);
    differences.owners(&a, &b, partner);
    if let (Some(a), Some(b)) = (&a.clocks, &b.clocks) {
        differences.clocks(a, b);
    }
    for pair in &pairs {
        let place = |thread: &ThreadState| Place::Thread(thread.ids.innermost());
        match pair {
            (Some(a), Some(b)) => {
                differences.thread(place(a), a, b);
                differences.rest_of_thread(place(a), [a, b], tables);
            }
            (Some(a), None) => {
                let tid = a.ids.innermost();
                differences.existence(tid, Field::ThreadMissing, ["a thread", "none"]);
            }
            (None, Some(b)) => {
                let tid = b.ids.innermost();
                differences.existence(tid, Field::ThreadExtra, ["none", "a thread"]);
            }
            (None, None) => {}
        }
    }
    Comparison {
        differences: differences.0,
        not_compared,
        lacks,
    }
}

type Pair<'t> = (Option<&'t ThreadState>, Option<&'t ThreadState>);

fn pairs<'t>(a: &'t ProcessState, b: &'t ProcessState) -> Vec<Pair<'t>> {
    if a.ids.innermost() != b.ids.innermost() {
        let count = a.threads.len().max(b.threads.len());
        return (0..count)
            .map(|n| (a.threads.get(n), b.threads.get(n)))
            .collect();
    }
    let mut others: HashMap<i32, &ThreadState> = by_id(b).collect();
    let mut pairs: Vec<Pair<'t>> = by_id(a)
        .map(|(tid, thread)| (Some(thread), others.remove(&tid)))
        .collect();
    let extra = by_id(b).filter(|(tid, _)| others.contains_key(tid));
    pairs.extend(extra.map(|(_, thread)| (None, Some(thread))));
    pairs
}

fn by_id(process: &ProcessState) -> impl Iterator<Item = (i32, &ThreadState)> {
    process
        .threads
        .iter()
        .map(|thread| (thread.ids.innermost(), thread))
}

/// In the place of a timer that one of them lacks.
const NO_TIMER: &str = "no such timer";

struct Differences(Vec<Difference>);

impl Differences {
    fn process(&mut self, dumped: &ProcessState, found: &ProcessState) {
        let place = Place::Process;
        self.values(place, Field::Arch, task(dumped), task(found));
        self.values(place, Field::RunState, dumped.run_state, found.run_state);
        let limits = [dumped.rlimit_sigpending, found.rlimit_sigpending];
        self.values(place, Field::RlimitSigpending, limits[0], limits[1]);
        for (signo, disposition) in dumped.dispositions.iter() {
            let both = [*disposition, found.dispositions[signo]];
            let before = self.0.len();
            self.values(place, Field::Disposition(signo), both[0], both[1]);
            for difference in self.0.iter_mut().skip(before) {
                difference.dispositions = Some(Box::new(both));
            }
        }
        self.values(
            place,
            Field::SharedBits,
            dumped.shared.bits,
            found.shared.bits,
        );
        self.queues(place, Field::SharedQueue, &dumped.shared, &found.shared);
    }

    /// What a restore need not bring back.
    fn rest(&mut self, a: &ProcessState, b: &ProcessState) {
        let place = Place::Process;
        self.values(place, Field::Comm, &a.comm, &b.comm);
        self.values(place, Field::WaitStatus, a.wait_status, b.wait_status);
        self.0.extend(compare_exit_signals(a, b));
        // What remains is another time whenever one looks.
        let same = |a: &IntervalTimer, b: &IntervalTimer| {
            (a.interval, a.is_armed()) == (b.interval, b.is_armed())
        };
        let timers = compare_interval_timers(&a.interval_timers, &b.interval_timers, same);
        self.0
            .extend(timers.into_iter().map(|(_, difference)| difference));
    }

    /// Owners of files that either has. `partner` is that of [`all_timers`](Self::all_timers).
    fn owners(&mut self, a: &ProcessState, b: &ProcessState, partner: impl Fn(i32) -> Option<i32>) {
        let [own, others] = [a, b].map(|process| process.ids.innermost());
        let renamed =
            |owner: &FileOwner| owner.renamed(&partner, |pid| (pid == own).then_some(others));
        let at = |owners: &[FileOwner], fd| owners.iter().copied().find(|owner| owner.fd == fd);
        let a: Vec<FileOwner> = a.file_owners.iter().map(renamed).collect();
        let b = &b.file_owners;
        let only_b = b.iter().filter(|owner| at(&a, owner.fd).is_none());
        for fd in a.iter().chain(only_b).map(|owner| owner.fd) {
            self.0.extend(file_owner_differs(fd, at(&a, fd), at(b, fd)));
        }
    }

    /// timerfds that either has, and the limits.
    fn clocks(&mut self, a: &Clocks, b: &Clocks) {
        self.0.extend(cpu_limit_differs(a.cpu.limit, b.cpu.limit));
        // What remains is another time whenever one looks.
        let same = |a: &TimerFd, b: &TimerFd| {
            let set = |timer: &TimerFd| (timer.clock, timer.flags, timer.interval, timer.is_set());
            set(a) == set(b)
        };
        let at = |clocks: &Clocks| -> BTreeMap<i32, TimerFd> {
            let timers = clocks.timerfds.iter();
            timers.map(|timer| (timer.fd, timer.clone())).collect()
        };
        let [a, b] = [at(a), at(b)];
        let fds: BTreeSet<i32> = a.keys().chain(b.keys()).copied().collect();
        for fd in fds {
            self.0
                .extend(timerfd_differs(fd, a.get(&fd), b.get(&fd), same));
        }
    }

    fn rest_of_thread(&mut self, place: Place, [a, b]: [&ThreadState; 2], tables: [CallTable; 2]) {
        let in_force = [a, b].map(|thread| match thread.saved_mask {
            Some(_) => thread.blocked.to_string(),
            None => "the lasting one".to_owned(),
        });
        let [a_mask, b_mask] = in_force;
        self.values(place, Field::MaskInForce, a_mask, b_mask);
        let calls =
            [(a, tables[0]), (b, tables[1])].map(|(thread, table)| match thread.interrupted {
                // Where the program's code lies, and how much time is left, is not what it waits in.
                Some(call) => format!("{} ({})", table.call(call.number), call.code),
                None => "none".to_owned(),
            });
        let [a_call, b_call] = calls;
        let goes_on = |(thread, table): (&ThreadState, CallTable)| {
            thread
                .interrupted
                .filter(|call| call.code == RestartCode::ByBlock)
                .map(|call| table.name(call.number) == Some("restart_syscall"))
        };
        // restart_syscall(2) goes on with a call that was interrupted before: which one, only the other may tell.
        if let [Some(one), Some(other)] = [(a, tables[0]), (b, tables[1])].map(goes_on)
            && (one || other)
        {
            return;
        }
        self.values(place, Field::InterruptedCall, a_call, b_call);
    }

    /// Timers that both have, and those that one has. `partner` tells which of b's threads one of a's corresponds to.
    fn all_timers(
        &mut self,
        a: &[PosixTimer],
        b: &[PosixTimer],
        partner: impl Fn(i32) -> Option<i32>,
    ) {
        let line = |timer: Option<&PosixTimer>| {
            timer.map_or_else(|| NO_TIMER.to_owned(), PosixTimer::to_string)
        };
        let same = |a: &PosixTimer, b: &PosixTimer| {
            let notify = match a.notify {
                Notify::Thread(tid) => Notify::Thread(partner(tid).unwrap_or(tid)),
                other => other,
            };
            // What remains is another time whenever one looks.
            let (remaining, entry_overrun) = (b.remaining, b.entry_overrun);
            let a = PosixTimer {
                notify,
                remaining,
                entry_overrun,
                place_aside: b.place_aside,
                ..*a
            };
            a == *b
        };
        let mut push = |id, a: Option<&PosixTimer>, b: Option<&PosixTimer>| {
            let (dumped, mut found) = (line(a), line(b));
            if dumped == found {
                found.push_str(", which is not the thread in the same place");
            }
            self.0.push(Difference {
                dispositions: None,
                place: Place::Process,
                field: Field::Timer(id),
                dumped,
                found,
            });
        };
        for timer in a {
            let other = b.iter().find(|other| other.id == timer.id);
            if !other.is_some_and(|other| same(timer, other)) {
                push(timer.id, Some(timer), other);
            }
        }
        for timer in b {
            if !a.iter().any(|other| other.id == timer.id) {
                push(timer.id, None, Some(timer));
            }
        }
    }

    fn timers(&mut self, dumped: &[PosixTimer], found: &[PosixTimer]) {
        for timer in dumped {
            let now = found.iter().find(|now| now.id == timer.id);
            if now.is_some_and(|now| same_timer(timer, now)) {
                continue;
            }
            self.0.push(Difference {
                dispositions: None,
                place: Place::Process,
                field: Field::Timer(timer.id),
                dumped: timer.to_string(),
                found: now.map_or_else(|| NO_TIMER.to_owned(), PosixTimer::to_string),
            });
        }
        let known = |timer: &&PosixTimer| dumped.iter().any(|was| was.id == timer.id);
        for timer in found.iter().filter(|timer| !known(timer)) {
            self.0.push(Difference {
                dispositions: None,
                place: Place::Process,
                field: Field::Timer(timer.id),
                dumped: NO_TIMER.to_owned(),
                found: timer.to_string(),
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
                dispositions: None,
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
            dispositions: None,
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
        // A timer that signals an ended thread has no recipient, and can only be recreated without one.
        let notify = match notify {
            Notify::Thread(0) => Notify::Nobody,
            other => other,
        };
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
    use crate::clocks::CpuLimit;
    use crate::exit_signal::ExitSignal;
    use crate::ids::NsIds;
    use crate::interrupted::InterruptedCall;
    use crate::owner::{OWNER_GROUP, OWNER_PROCESS, OWNER_THREAD};
    use crate::process::RunState;
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
    fn exit_signals_where_both_tell() {
        let with = |exit_signal| ProcessState {
            exit_signal,
            ..sample()
        };
        let signals = |dumped, found| compare_exit_signals(&with(dumped), &with(found));
        let chld = ExitSignal::CHLD;
        let difference = signals(Some(chld), ExitSignal::new(10)).map(|d| d.to_string());
        assert_eq!(
            difference.as_deref(),
            Some("process: exit signal: dumped SIGCHLD, found SIGUSR1")
        );
        assert_eq!(signals(Some(chld), Some(chld)), None);
        assert_eq!(signals(None, Some(chld)), None);
        assert_eq!(signals(Some(chld), None), None);
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
            found.comm = "".into();
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

    /// What `change` makes of the sample, as lines, with everything compared.
    fn all_lines(change: impl FnOnce(&mut ProcessState)) -> Vec<String> {
        let mut other = testing::sample_image();
        change(&mut other.process);
        compare_all(&testing::sample_image().into(), &other.into())
            .differences
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn what_a_restore_need_not_bring_back() {
        assert_eq!(
            all_lines(|other| {
                other.comm = "other".into();
                other.threads[0].saved_mask = None;
                other.threads[0].blocked = SigSet::from(SigNo::USR1);
                other.queued = 77;
                other.pid_ns = 1;
            }),
            [
                "process: name: dumped sample, found other",
                "thread 41: mask in force: dumped all, found the lasting one",
            ]
        );
    }

    #[test]
    fn threads_of_another_process_in_order() {
        let other = |other: &mut ProcessState| {
            other.ids = NsIds::new(vec![9, 61]).expect("valid");
            for (thread, tid) in other.threads.iter_mut().zip([61, 63]) {
                thread.ids = NsIds::new(vec![tid, tid]).expect("valid");
            }
        };
        assert_eq!(all_lines(other), [""; 0]);
        assert_eq!(
            all_lines(|process| {
                other(process);
                process.threads[1].blocked = SigSet::EMPTY;
                process
                    .threads
                    .push(ThreadState::bare(NsIds::new(vec![64, 64]).expect("valid")));
            }),
            [
                "thread 42: mask: dumped all, found none",
                "thread 64: existence: dumped none, found a thread",
            ]
        );
    }

    const TIMER: PosixTimer = PosixTimer {
        id: 0,
        clock: 0,
        signo: 34,
        value: 0,
        notify: Notify::Thread(42),
        interval: 0,
        remaining: 5,
        overrun: 0,
        entry: TimerEntry::Idle,
        entry_overrun: None,
        place_aside: None,
    };

    #[test]
    fn timers_that_only_one_has() {
        let lines = all_lines(|other| other.timers.push(TIMER));
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].starts_with("process: timer 0: dumped no such timer, found SIGRTMIN value"),
            "{lines:?}"
        );
        let mut dumped = sample();
        dumped.timers.push(TIMER);
        let differences = compare(&dumped, &sample());
        assert_eq!(differences.len(), 1);
        assert_eq!(differences[0].field, Field::Timer(0));
        assert_eq!(differences[0].found, "no such timer");
    }

    /// Is there a difference between a process with one timer and one with the other?
    fn timers_differ(dumped: PosixTimer, found: PosixTimer) -> bool {
        let [dumped, found] = [dumped, found].map(|timer| {
            let mut process = sample();
            process.timers.push(timer);
            process
        });
        !compare(&dumped, &found).is_empty()
    }

    #[test]
    fn a_timer_is_as_it_was_set() {
        assert!(!timers_differ(TIMER, TIMER));
        for other in [
            PosixTimer { clock: 1, ..TIMER },
            PosixTimer { signo: 35, ..TIMER },
            PosixTimer { value: 1, ..TIMER },
            PosixTimer {
                notify: Notify::Process,
                ..TIMER
            },
            PosixTimer {
                interval: 1,
                ..TIMER
            },
            PosixTimer {
                overrun: 1,
                ..TIMER
            },
        ] {
            assert!(timers_differ(TIMER, other), "{other:?}");
        }
        let later = PosixTimer {
            remaining: 1,
            entry_overrun: Some(3),
            ..TIMER
        };
        assert!(!timers_differ(TIMER, later));
        // timer_create(2) takes no thread that is gone.
        let [gone, nobody] =
            [Notify::Thread(0), Notify::Nobody].map(|notify| PosixTimer { notify, ..TIMER });
        assert!(!timers_differ(gone, nobody));
    }

    #[test]
    fn a_timer_s_entry_may_have_come_since() {
        use TimerEntry::{Idle, Ignored, Pending, Stale};

        let all = [Idle, Pending, Stale, Ignored];
        for (entry, may_be) in [
            (Idle, all.as_slice()),
            (Pending, &[Pending]),
            (Stale, &[Stale, Pending]),
            (Ignored, &[Ignored]),
        ] {
            for now in all {
                let differ = timers_differ(
                    PosixTimer { entry, ..TIMER },
                    PosixTimer {
                        entry: now,
                        ..TIMER
                    },
                );
                assert_eq!(differ, !may_be.contains(&now), "{entry:?}, now {now:?}");
            }
        }
        // The count is that of the expiry before the one that is pending.
        let pending = |overrun| PosixTimer {
            entry: Pending,
            overrun,
            ..TIMER
        };
        assert!(!timers_differ(pending(1), pending(2)));
        assert!(!timers_differ(TIMER, pending(2)));
    }

    #[test]
    fn timers_of_two_processes() {
        let recorded = |ids: [i32; 2], timer: PosixTimer| {
            let mut image = testing::sample_image();
            let process = &mut image.process;
            process.ids = NsIds::new(vec![ids[0], ids[0]]).expect("valid");
            for (thread, tid) in process.threads.iter_mut().zip(ids) {
                thread.ids = NsIds::new(vec![tid, tid]).expect("valid");
            }
            process.timers.push(timer);
            Recorded::from(image)
        };
        let differences = |a: &Recorded, b: &Recorded| compare_all(a, b).differences.len();
        let of = |tid| PosixTimer {
            notify: Notify::Thread(tid),
            ..TIMER
        };
        let one = recorded([41, 42], of(42));
        // The thread of the other one that stands in its place.
        assert_eq!(differences(&one, &recorded([61, 63], of(63))), 0);
        assert_eq!(differences(&one, &recorded([61, 63], of(61))), 1);
        let differ = compare_all(&one, &recorded([61, 63], of(42))).differences;
        assert_eq!(differ.len(), 1);
        assert_eq!(alike(&differ), [] as [&Difference; 0]);
        let later = PosixTimer {
            remaining: 1,
            entry_overrun: Some(7),
            place_aside: Some(1),
            ..of(42)
        };
        assert_eq!(differences(&one, &recorded([41, 42], later)), 0);
        let other = PosixTimer {
            overrun: 1,
            ..of(42)
        };
        assert_eq!(differences(&one, &recorded([41, 42], other)), 1);
    }

    /// Programs read them.
    #[test]
    fn names_in_documents() {
        for (field, name) in [
            (Field::Arch, "compat"),
            (Field::ThreadMissing, "existence"),
            (Field::Disposition(SigNo::HUP), "disposition"),
            (Field::PrivateQueue, "private_queue"),
            (Field::RlimitSigpending, "rlimit_sigpending"),
            (Field::Timer(3), "timer"),
            (Field::InterruptedCall, "interrupted"),
        ] {
            assert_eq!(field.name(), name);
        }
    }

    #[test]
    fn what_is_not_known_is_not_compared() {
        let ours = testing::sample_image();
        let mut other: Recorded = ours.clone().into();
        other.missing = vec![Aspect::BitsWithoutInfo, Aspect::MaskInForce, Aspect::Limit];
        let process = &mut other.image.process;
        process.rlimit_sigpending = Rlimit { soft: 0, hard: 0 };
        process.shared.bits.remove(SigNo::HUP);
        process.threads[0].blocked = process.threads[0].lasting_mask();
        process.threads[0].saved_mask = None;
        let comparison = compare_all(&ours.into(), &other);
        assert_eq!(comparison.differences, []);
        assert_eq!(
            comparison.not_compared,
            [
                Aspect::Limit,
                Aspect::MaskInForce,
                Aspect::BitsWithoutInfo,
                Aspect::FileOwners,
                Aspect::WaitStatus,
                Aspect::ExitSignal
            ]
        );
        // An image that was converted knows no wait status; nobody looked at the files of either.
        let neither = [Aspect::FileOwners, Aspect::WaitStatus, Aspect::ExitSignal];
        let here = [Aspect::Limit, Aspect::MaskInForce, Aspect::BitsWithoutInfo];
        assert_eq!(
            comparison.lacks,
            [neither.to_vec(), [&here[..], &neither[..1]].concat()]
        );
    }

    #[test]
    fn a_timer_that_was_made_since() {
        let mut found = sample();
        found.timers.push(TIMER);
        let differences = compare(&sample(), &found);
        assert_eq!(differences.len(), 1);
        assert_eq!(differences[0].field, Field::Timer(0));
        assert_eq!(differences[0].dumped, "no such timer");
    }

    #[test]
    fn restart_syscall_goes_on_with_any_call() {
        const POLL: u32 = 7;
        const NANOSLEEP: u32 = 35;
        const RESTART_SYSCALL: u32 = 219;
        let calls = |numbers: [u32; 2], code| -> usize {
            let [a, b] = numbers.map(|number| {
                let mut image = testing::sample_image();
                image.process.threads[0].interrupted = Some(InterruptedCall {
                    number,
                    code,
                    ip: 0x1000,
                    remaining: None,
                    whole_timeout: false,
                    timeout: None,
                });
                image
            });
            compare_all(&a.into(), &b.into()).differences.len()
        };
        assert_eq!(calls([POLL, NANOSLEEP], RestartCode::ByBlock), 1);
        assert_eq!(calls([POLL, RESTART_SYSCALL], RestartCode::ByBlock), 0);
        assert_eq!(calls([RESTART_SYSCALL, NANOSLEEP], RestartCode::ByBlock), 0);
        assert_eq!(calls([POLL, RESTART_SYSCALL], RestartCode::Always), 1);
    }

    #[test]
    fn interval_timers() {
        let lines = |was: &[(u32, u64, u64)], is: &[(u32, u64, u64)]| -> Vec<String> {
            let [mut a, mut b] = [testing::sample_image(), testing::sample_image()];
            for (image, timers) in [(&mut a, was), (&mut b, is)] {
                let timer = |&(which, interval, remaining)| IntervalTimer {
                    which,
                    interval,
                    remaining,
                };
                image.process.interval_timers = timers.iter().map(timer).collect();
            }
            let all = compare_all(&a.into(), &b.into()).differences;
            all.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            lines(&[(0, 7, 5), (1, 0, 5)], &[(1, 0, 2), (0, 7, 1)]),
            [""; 0]
        );
        assert_eq!(
            lines(&[(0, 7, 5), (1, 0, 5)], &[(0, 3, 1), (2, 9, 0)]),
            [
                "process: interval timer: dumped ITIMER_REAL interval 7 ns, armed, found ITIMER_REAL interval 3 ns, armed",
                "process: interval timer: dumped ITIMER_VIRTUAL interval 0 ns, armed, \
                 found ITIMER_VIRTUAL interval 0 ns, not armed",
                "process: interval timer: dumped ITIMER_PROF interval 0 ns, not armed, \
                 found ITIMER_PROF interval 9 ns, not armed",
            ]
        );
    }

    #[test]
    fn time_that_is_left_is_shown_where_it_is_what_differs() {
        let timer = |remaining| IntervalTimer {
            which: 0,
            interval: 0,
            remaining,
        };
        let found = compare_interval_timers(&[timer(1)], &[timer(9)], PartialEq::eq);
        assert_eq!(
            found[0].1.dumped,
            "ITIMER_REAL interval 0 ns, armed, 1 ns left"
        );
        assert_eq!(
            found[0].1.found,
            "ITIMER_REAL interval 0 ns, armed, 9 ns left"
        );
    }

    #[test]
    fn clocks() {
        let timer = |fd, interval, remaining| TimerFd {
            fd,
            clock: 1,
            ticks: 0,
            flags: 0,
            remaining,
            interval,
        };
        let recorded = |soft, timerfds: Option<Vec<TimerFd>>| {
            let mut image = testing::sample_image();
            image.process.clocks = timerfds.map(|timerfds| Clocks {
                cpu: CpuLimit {
                    limit: Rlimit {
                        soft,
                        hard: Rlimit::INFINITY,
                    },
                    used: 5,
                },
                timerfds,
                not_looked_at: 0,
            });
            Recorded::from(image)
        };
        let fields = |a: &Recorded, b: &Recorded| -> Vec<Field> {
            let differences = compare_all(a, b).differences;
            differences.iter().map(|d| d.field).collect()
        };
        let one = recorded(60, Some(vec![timer(5, 0, 7), timer(6, 2, 1)]));
        let same = recorded(60, Some(vec![timer(6, 2, 2), timer(5, 0, 1)]));
        assert_eq!(fields(&one, &same), []);
        let other = recorded(61, Some(vec![timer(5, 0, 0), timer(7, 2, 1)]));
        let [five, six, seven] = [5, 6, 7].map(Field::TimerFd);
        assert_eq!(fields(&one, &other), [Field::CpuLimit, five, six, seven]);
        // An image from before there was a place for them, and one without any.
        let none = recorded(0, None);
        let empty = recorded(Rlimit::INFINITY, Some(Vec::new()));
        let unknown = compare_all(&one, &none);
        assert_eq!(unknown.differences, []);
        assert!(unknown.not_compared.contains(&Aspect::Clocks));
        assert!(
            !compare_all(&empty, &none)
                .not_compared
                .contains(&Aspect::Clocks)
        );
    }

    #[test]
    fn owners_of_files() {
        let owner = |fd, kind, id| FileOwner {
            fd,
            kind,
            id,
            uid: 0,
            euid: 0,
        };
        let recorded = |ids: [i32; 2], owners: Vec<FileOwner>| {
            let mut image = testing::sample_image();
            let process = &mut image.process;
            process.ids = NsIds::new(vec![ids[0], ids[0]]).expect("valid");
            for (thread, tid) in process.threads.iter_mut().zip(ids) {
                thread.ids = NsIds::new(vec![tid, tid]).expect("valid");
            }
            process.file_owners = owners;
            Recorded::from(image)
        };
        let fields = |a: &Recorded, b: &Recorded| -> Vec<Field> {
            let differences = compare_all(a, b).differences;
            differences.iter().map(|d| d.field).collect()
        };
        let thread = |tid| owner(5, OWNER_THREAD, tid);
        let one = recorded([41, 42], vec![thread(42), owner(6, OWNER_PROCESS, 41)]);
        // Those that stand in their places.
        let other = recorded([61, 63], vec![owner(6, OWNER_PROCESS, 61), thread(63)]);
        assert_eq!(fields(&one, &other), []);
        let other = recorded([61, 63], vec![thread(61), owner(7, OWNER_GROUP, 61)]);
        let all = [5, 6, 7].map(Field::FileOwner);
        assert_eq!(fields(&one, &other), all);
        // Not every dump looks at the files.
        let unknown = compare_all(&one, &recorded([41, 42], Vec::new()));
        assert_eq!(unknown.differences, []);
        assert!(unknown.not_compared.contains(&Aspect::FileOwners));
    }

    /// Those whose two texts are the same, which do not say what differs.
    fn alike(differences: &[Difference]) -> Vec<&Difference> {
        let alike = |d: &&Difference| d.dumped == d.found;
        differences.iter().filter(alike).collect()
    }

    proptest! {
        #[test]
        fn the_texts_of_a_difference_differ(a in testing::image(), b in testing::image()) {
            let all = compare(&a.process, &b.process);
            prop_assert_eq!(alike(&all), [] as [&Difference; 0]);
            let all = compare_all(&a.clone().into(), &b.clone().into()).differences;
            prop_assert_eq!(alike(&all), [] as [&Difference; 0]);
            // Of one process, in which less differs.
            let mut other = b;
            other.process.ids = a.process.ids.clone();
            for (thread, was) in other.process.threads.iter_mut().zip(&a.process.threads) {
                thread.ids = was.ids.clone();
            }
            let all = compare_all(&a.into(), &other.into()).differences;
            prop_assert_eq!(alike(&all), [] as [&Difference; 0]);
        }

        #[test]
        fn nothing_differs_from_itself(process in testing::process()) {
            prop_assert_eq!(compare(&process, &process), []);
        }

        #[test]
        fn nothing_at_all_differs_from_itself(image in testing::image()) {
            let recorded = Recorded::from(image);
            prop_assert_eq!(compare_all(&recorded, &recorded).differences, []);
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
