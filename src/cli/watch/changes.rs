//! The changes between two readings of a process.

use std::collections::{BTreeSet, HashMap, VecDeque};

use criu_signals::images::{
    CodePlace, Difference, Field, Pending, Place, PosixTimer, ProcessState, Recorded, SigNo,
    Siginfo, ThreadState, compare_all,
};
use criu_signals::reading::Surroundings;

/// What one reading has given.
pub struct Snapshot {
    pub recorded: Recorded,
    pub surroundings: Vec<Surroundings>,
    /// Where handlers and restorers are.
    pub names: Vec<CodePlace>,
}

impl Snapshot {
    pub fn process(&self) -> &ProcessState {
        &self.recorded.image.process
    }
}

/// One change, of the process or of a thread, which has its id in its own pid namespace.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    pub place: Place,
    pub what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub enum What {
    /// The thread is there, and was not.
    Begun(Box<ThreadState>),
    /// The thread was there, and is not.
    Ended,
    /// Into the queue.
    Arrived(Entry),
    /// Out of the queue.
    Left(Entry),
    Other(Value),
}

/// What is pending: an entry of a queue, or a bit without a siginfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Info(Siginfo),
    Bare(SigNo),
}

/// A value that is another one now.
#[derive(Debug, PartialEq, Eq)]
pub struct Value {
    /// As `diff --json` names the field.
    pub name: &'static str,
    /// For people.
    pub label: String,
    pub number: Number,
    pub before: String,
    pub after: String,
    /// The same with the names of addresses, where there may be some.
    pub named: Option<[String; 2]>,
}

/// Which of several.
#[derive(Debug, PartialEq, Eq)]
pub enum Number {
    One,
    Signal(SigNo),
    Timer(i32),
}

/// The changes of the process, then those of its threads, in the order of their ids.
pub fn between(before: &Snapshot, after: &Snapshot) -> Vec<Change> {
    let mut changes = Vec::new();
    let (was, is) = (before.process(), after.process());
    if was.exe != is.exe {
        let text = |process: &ProcessState| match &process.exe {
            Some(name) => name.to_string(),
            None => "not known".to_owned(),
        };
        let value = plain("exe", "program", text(was), text(is));
        changes.push(Change::other(Place::Process, value));
    }
    let differences = compare_all(&before.recorded, &after.recorded).differences;
    let told = differences.into_iter().filter(|one| is_told(one.field));
    changes.extend(told.map(|one| of_difference(&one, before, after)));
    timers(&mut changes, was, is);
    queues(&mut changes, Place::Process, &was.shared, &is.shared);
    threads(&mut changes, before, after);
    changes
}

impl Change {
    fn other(place: Place, value: Value) -> Change {
        let what = What::Other(value);
        Change { place, what }
    }
}

/// Queues, timers and threads are told in another way. What a thread waits in, and what would become of that call, changes all
/// the time.
fn is_told(field: Field) -> bool {
    !matches!(
        field,
        Field::ThreadMissing
            | Field::ThreadExtra
            | Field::PrivateQueue
            | Field::PrivateBits
            | Field::SharedQueue
            | Field::SharedBits
            | Field::Timer(_)
            | Field::InterruptedCall
    )
}

fn of_difference(difference: &Difference, before: &Snapshot, after: &Snapshot) -> Change {
    let named = difference
        .dispositions
        .is_some()
        .then(|| difference.named(&before.names, &after.names));
    let value = Value {
        number: match difference.field {
            Field::Disposition(signo) => Number::Signal(signo),
            _ => Number::One,
        },
        named,
        ..plain(
            difference.field.name(),
            &difference.field.to_string(),
            difference.dumped.clone(),
            difference.found.clone(),
        )
    };
    Change::other(difference.place, value)
}

fn plain(name: &'static str, label: &str, before: String, after: String) -> Value {
    Value {
        name,
        label: label.to_owned(),
        number: Number::One,
        before,
        after,
        named: None,
    }
}

/// How timers are set. The remaining time, overruns and the timer's own entry change by themselves.
fn timers(changes: &mut Vec<Change>, was: &ProcessState, is: &ProcessState) {
    let set = |timer: &PosixTimer| {
        let armed = timer.remaining != 0;
        let settings = (timer.clock, timer.signo, timer.value, timer.notify);
        (settings, timer.interval, armed)
    };
    let text = |timer: Option<&PosixTimer>| match timer {
        None => "no such timer".to_owned(),
        Some(timer) if timer.remaining == 0 => timer.setting() + ", not armed",
        Some(timer) => timer.setting() + ", armed",
    };
    let find = |timers: &[PosixTimer], id| timers.iter().find(|timer| timer.id == id).copied();
    let mut ids: Vec<i32> = was.timers.iter().chain(&is.timers).map(|t| t.id).collect();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        let (before, after) = (find(&was.timers, id), find(&is.timers, id));
        if before.as_ref().map(set) != after.as_ref().map(set) {
            let [before, after] = [before, after].map(|timer| text(timer.as_ref()));
            let value = Value {
                number: Number::Timer(id),
                ..plain("timer", &format!("timer {id}"), before, after)
            };
            changes.push(Change::other(Place::Process, value));
        }
    }
}

fn threads(changes: &mut Vec<Change>, before: &Snapshot, after: &Snapshot) {
    let (was, is) = (by_id(before), by_id(after));
    let ids: BTreeSet<i32> = was.keys().chain(is.keys()).copied().collect();
    let nothing = Pending::default();
    for id in ids {
        let place = Place::Thread(id);
        let both = [was.get(&id), is.get(&id)];
        match both {
            [None, Some(thread)] => {
                let what = What::Begun(Box::new((*thread).clone()));
                changes.push(Change { place, what });
            }
            [Some(one), Some(other)] => handler(changes, place, one, other),
            _ => {}
        }
        let [left, come] = both.map(|thread| thread.map_or(&nothing, |thread| &thread.pending));
        queues(changes, place, left, come);
        match both {
            [Some(_), None] => changes.push(Change {
                place,
                what: What::Ended,
            }),
            [Some(one), Some(other)] => {
                surroundings(changes, place, around(before, one), around(after, other));
            }
            _ => {}
        }
    }
}

fn by_id(snapshot: &Snapshot) -> HashMap<i32, &ThreadState> {
    let threads = snapshot.process().threads.iter();
    threads.map(|one| (one.ids.innermost(), one)).collect()
}

/// Why the mask is another one: a comparison with an image leaves that out.
fn handler(changes: &mut Vec<Change>, place: Place, one: &ThreadState, other: &ThreadState) {
    if one.in_handler != other.in_handler {
        let text =
            |signo: Option<SigNo>| signo.map_or_else(|| "none".to_owned(), |s| s.to_string());
        let (before, after) = (text(one.in_handler), text(other.in_handler));
        let value = plain("in_handler", "in a handler of", before, after);
        changes.push(Change::other(place, value));
    }
}

fn around(snapshot: &Snapshot, thread: &ThreadState) -> Option<Surroundings> {
    let tid = thread.tid();
    let mut all = snapshot.surroundings.iter();
    all.find(|around| around.tid == tid).copied()
}

fn surroundings(
    changes: &mut Vec<Change>,
    place: Place,
    one: Option<Surroundings>,
    other: Option<Surroundings>,
) {
    let (Some(one), Some(other)) = (one, other) else {
        return;
    };
    let mut push = |name, label: &str, before: String, after: String| {
        if before != after {
            changes.push(Change::other(place, plain(name, label, before, after)));
        }
    };
    let tracer = |around: Surroundings| {
        around
            .tracer
            .map_or_else(|| "nobody".to_owned(), |tid| format!("thread {tid}"))
    };
    push("tracer", "traced by", tracer(one), tracer(other));
    let seccomp = |around: Surroundings| match around.seccomp {
        0 => "none".to_owned(),
        1 => "strict".to_owned(),
        _ => "by a filter".to_owned(),
    };
    push("seccomp", "seccomp", seccomp(one), seccomp(other));
    let dispatch = |around: Surroundings| match around.user_dispatch {
        Some([selector, begin, length]) => {
            format!("by the byte at {selector:#x}, but for {length} bytes at {begin:#x}")
        }
        None => "none".to_owned(),
    };
    let (before, after) = (dispatch(one), dispatch(other));
    push("user_dispatch", "Syscall User Dispatch", before, after);
}

/// What has left the queue, then what has come.
///
/// Entries are added at the end and taken out anywhere, so what is in both queues has the same order in both. Two entries with the
/// same bytes can't be told apart: of these the first stays.
fn queues(changes: &mut Vec<Change>, place: Place, was: &Pending, is: &Pending) {
    let mut known: HashMap<&[u8], VecDeque<usize>> = HashMap::new();
    for (at, info) in was.queue.iter().enumerate() {
        known.entry(info.as_bytes()).or_default().push_back(at);
    }
    let mut stays = vec![false; was.queue.len()];
    let (mut next, mut come) = (0, Vec::new());
    for info in &is.queue {
        let places = known.get_mut(info.as_bytes().as_slice());
        let found = places.and_then(|places| {
            while places.front().is_some_and(|&at| at < next) {
                places.pop_front();
            }
            places.pop_front()
        });
        match found {
            Some(at) => {
                stays[at] = true;
                next = at + 1;
            }
            None => come.push(*info),
        }
    }
    let gone = was.queue.iter().zip(stays).filter(|(_, stays)| !stays);
    let mut push = |what| changes.push(Change { place, what });
    for (info, _) in gone {
        push(What::Left(Entry::Info(*info)));
    }
    let [bare, still_bare] = [was, is].map(Pending::bits_without_info);
    for signo in bare.iter().filter(|&signo| !still_bare.contains(signo)) {
        push(What::Left(Entry::Bare(signo)));
    }
    for info in come {
        push(What::Arrived(Entry::Info(info)));
    }
    for signo in still_bare.iter().filter(|&signo| !bare.contains(signo)) {
        push(What::Arrived(Entry::Bare(signo)));
    }
}

#[cfg(test)]
mod tests {
    use criu_signals::images::{Fields, SigSet};

    use super::*;
    use criu_signals::images::NsIds;

    fn info(value: u64) -> Siginfo {
        let (pid, uid) = (7, 0);
        Siginfo::from_fields(34, 0, -1, &Fields::Value { pid, uid, value })
    }

    fn queue(values: &[u64]) -> Pending {
        let queue: Vec<Siginfo> = values.iter().map(|&value| info(value)).collect();
        let signos = queue.iter().filter_map(|info| SigNo::new(info.signo()));
        Pending {
            bits: signos.collect(),
            queue,
        }
    }

    /// `-1 +2`.
    fn lines(was: &[u64], is: &[u64]) -> String {
        let mut changes = Vec::new();
        queues(&mut changes, Place::Process, &queue(was), &queue(is));
        let value = |entry: &Entry| match entry {
            Entry::Info(info) => match info.fields() {
                Fields::Value { value, .. } => value,
                other => panic!("{other:?}"),
            },
            Entry::Bare(signo) => panic!("{signo}"),
        };
        let texts: Vec<String> = changes
            .iter()
            .map(|change| match &change.what {
                What::Left(entry) => format!("-{}", value(entry)),
                What::Arrived(entry) => format!("+{}", value(entry)),
                other => panic!("{other:?}"),
            })
            .collect();
        texts.join(" ")
    }

    #[test]
    fn entries_that_come_and_go() {
        for (was, is, wanted) in [
            (&[][..], &[][..], ""),
            (&[], &[1, 1, 2], "+1 +1 +2"),
            (&[1, 2, 3], &[1, 3], "-2"),
            (&[1, 2, 3], &[2, 3, 4], "-1 +4"),
            (&[1, 1, 1], &[1], "-1 -1"),
            (&[1, 2], &[2, 1], "-1 +1"),
            (&[1, 2, 3], &[1, 9, 3], "-2 +9"),
            (&[1, 2], &[], "-1 -2"),
        ] {
            assert_eq!(lines(was, is), wanted, "{was:?} {is:?}");
        }
    }

    #[test]
    fn bits_without_siginfo() {
        let mut changes = Vec::new();
        let bare = Pending {
            bits: SigSet::from(SigNo::HUP),
            queue: Vec::new(),
        };
        let nothing = Pending::default();
        queues(&mut changes, Place::Process, &nothing, &bare);
        queues(&mut changes, Place::Process, &bare, &bare);
        queues(&mut changes, Place::Process, &bare, &nothing);
        let whats: Vec<What> = changes.into_iter().map(|change| change.what).collect();
        let hup = Entry::Bare(SigNo::HUP);
        assert_eq!(whats, [What::Arrived(hup.clone()), What::Left(hup)]);
    }

    fn timers_of(was: &[PosixTimer], is: &[PosixTimer]) -> usize {
        let with = |timers: &[PosixTimer]| ProcessState {
            timers: timers.to_vec(),
            ..ProcessState::bare(NsIds::new(vec![41]).unwrap())
        };
        let mut changes = Vec::new();
        timers(&mut changes, &with(was), &with(is));
        changes.len()
    }

    #[test]
    fn what_a_timer_does_by_itself_is_no_change() {
        let timer = PosixTimer {
            interval: 1000,
            remaining: 500,
            ..PosixTimer::bare(0, 34)
        };
        let later = PosixTimer {
            remaining: 1,
            overrun: 3,
            entry: criu_signals::images::TimerEntry::Pending,
            entry_overrun: Some(2),
            ..timer
        };
        assert_eq!(timers_of(&[timer], &[later]), 0);
        let expired = PosixTimer {
            remaining: 0,
            ..timer
        };
        let slower = PosixTimer {
            interval: 2000,
            ..timer
        };
        for other in [&[expired][..], &[slower], &[]] {
            assert_eq!(timers_of(&[timer], other), 1, "{other:?}");
        }
    }
}
