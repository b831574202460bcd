//! Matches deliveries with generations: follows each signal from its generation to its delivery, also through a dump and a restore.

use std::collections::{HashMap, VecDeque};

use criu_signals_images::{Fields, SigNo, Siginfo};

use super::{Delivered, Ended, Event, Generated, Info, Outcome, Taken, Who};

/// A signal that was sent and of which nothing further is known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number in this journal.
    pub id: u64,
    /// When it was generated; `None` if that was before the journal began.
    pub time: Option<u64>,
    /// Which signal.
    pub signo: SigNo,
    /// Its siginfo.
    pub info: Info,
    /// It is pending without its siginfo.
    pub bare: bool,
    /// The process.
    pub pid: i32,
    /// The thread; `None` if it is for the process.
    pub tid: Option<i32>,
    /// A checkpoint has it, and has to put it back.
    pub owed: bool,
    /// It was sent by who makes the checkpoint, and is no signal of the program's.
    pub of_checkpoint: bool,
}

impl Entry {
    /// Is what is pending with this siginfo, or without any, this signal?
    pub fn has(&self, info: Option<&Siginfo>) -> bool {
        match info {
            Some(info) => is_same(self, &Info::Given(*info), false),
            None => self.bare,
        }
    }
}

/// What has become of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A handler at this address was called.
    Handled(u64),
    /// The default action was taken.
    Default,
    /// It was taken out of the queue, and ignored.
    Ignored,
    /// A thread has taken it by rt_sigtimedwait(2) or signalfd(2).
    Taken,
    /// It was not queued.
    Refused(Outcome),
    /// A later signal has removed it: SIGCONT removes stop signals, and the other way round.
    Removed(SigNo),
    /// The process has ended by it.
    Killed,
    /// The thread that it was for has ended.
    ThreadEnded,
    /// The process has ended.
    ProcessEnded,
}

/// What an event means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This signal is pending now.
    Sent(Entry),
    /// The event ends this signal.
    Settled(Entry, Fate, Who),
    /// A signal is delivered or taken whose generation is not in the journal.
    Unknown(SigNo, Fate, Who),
    /// A checkpoint takes this signal out, and will have to put it back.
    TakenOut(Entry),
    /// A checkpoint puts this signal back.
    PutBack(Entry),
}

/// Follows signals.
#[derive(Debug, Default)]
pub struct Journal {
    next: u64,
    /// In the order in which they were sent.
    pending: HashMap<i32, VecDeque<Entry>>,
    /// Processes are dumped and restored meanwhile.
    checkpoint: bool,
    /// Processes that a checkpoint has killed, and not restored yet.
    killed: Vec<i32>,
}

impl Journal {
    /// With `checkpoint`, signals that a checkpoint takes out and puts back are told from those that are sent.
    pub fn new(checkpoint: bool) -> Journal {
        Journal {
            checkpoint,
            ..Journal::default()
        }
    }

    /// This signal was pending before the journal began.
    pub fn begin_with(&mut self, pid: i32, tid: Option<i32>, signo: SigNo, info: Option<Siginfo>) {
        let entry = Entry {
            id: self.number(),
            time: None,
            signo,
            info: info.map_or(Info::OfUser, Info::Given),
            bare: info.is_none(),
            pid,
            tid,
            owed: false,
            of_checkpoint: false,
        };
        self.pending.entry(pid).or_default().push_back(entry);
    }

    /// What is pending, or owed.
    pub fn rest(&self) -> impl Iterator<Item = &Entry> {
        self.pending.values().flatten()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The next event.
    pub fn take(&mut self, event: &Event) -> Vec<Step> {
        match event {
            Event::Generated(event) => self.generated(event),
            Event::Delivered(event) => {
                let fate = match event.handler {
                    0 => Fate::Default,
                    1 => Fate::Ignored,
                    handler => Fate::Handled(handler),
                };
                self.delivered(event, fate).into_iter().collect()
            }
            Event::Taken(event) => self.taken(event).into_iter().collect(),
            Event::Ended(event) => self.ended(event),
        }
    }

    fn generated(&mut self, event: &Generated) -> Vec<Step> {
        let pid = event.target.pid;
        let mut steps = Vec::new();
        let of_tracer = event
            .tracer
            .is_some_and(|tracer| tracer.get() == event.running.pid);
        // Until a restore has come to the program, the number is that of a process of criu's, whose children end.
        let to_criu = event.tracer.is_none() && self.killed.contains(&pid);
        let by_checkpoint = self.checkpoint && (of_tracer || is_own_and_traced(event) || to_criu);
        if event.tracer.is_some() {
            self.killed.retain(|&killed| killed != pid);
        }
        if by_checkpoint && of_tracer && event.signo == SigNo::KILL {
            self.killed.push(pid);
        }
        // prepare_signal() does so whatever becomes of the signal itself.
        steps.extend(self.removed(event));
        if self.checkpoint
            && event.running.pid == pid
            && event.outcome.is_pending()
            && let Some(entry) = self.put_back(event)
        {
            steps.push(Step::PutBack(entry));
            return steps;
        }
        let entry = Entry {
            id: self.number(),
            time: Some(event.time),
            signo: event.signo,
            info: event.info,
            bare: event.outcome == Outcome::WithoutInfo,
            pid,
            tid: (!event.group).then_some(event.target.tid),
            owed: false,
            of_checkpoint: by_checkpoint,
        };
        if event.outcome.is_pending() {
            steps.push(Step::Sent(entry.clone()));
            self.pending.entry(pid).or_default().push_back(entry);
        } else {
            let who = event.target.clone();
            steps.push(Step::Settled(entry, Fate::Refused(event.outcome), who));
        }
        steps
    }

    fn removed(&mut self, event: &Generated) -> Vec<Step> {
        let removes = |signo: SigNo| {
            (event.signo == SigNo::CONT && signo.is_stop())
                || (event.signo.is_stop() && signo == SigNo::CONT)
        };
        let Some(all) = self.pending.get_mut(&event.target.pid) else {
            return Vec::new();
        };
        let mut steps = Vec::new();
        all.retain(|entry| {
            let goes = !entry.owed && removes(entry.signo);
            if goes {
                let fate = Fate::Removed(event.signo);
                steps.push(Step::Settled(entry.clone(), fate, event.target.clone()));
            }
            !goes
        });
        steps
    }

    /// Is it a signal that a checkpoint has taken out, or that it has with a process that it has killed?
    fn put_back(&mut self, event: &Generated) -> Option<Entry> {
        let all = self.pending.get_mut(&event.target.pid)?;
        let same = |entry: &Entry| {
            entry.signo == event.signo
                && !entry.of_checkpoint
                && is_same(entry, &event.info, event.outcome == Outcome::WithoutInfo)
        };
        let owed = all.iter().position(|entry| entry.owed && same(entry));
        // Code of the checkpoint's that runs in the process may have got it in another way.
        let at = owed.or_else(|| {
            let is_traced = event.running_is_traced;
            all.iter().position(|entry| is_traced && same(entry))
        })?;
        let mut entry = all.remove(at)?;
        entry.owed = false;
        entry.tid = (!event.group).then_some(event.target.tid);
        all.push_back(entry.clone());
        self.killed.retain(|&pid| pid != event.target.pid);
        Some(entry)
    }

    fn delivered(&mut self, event: &Delivered, fate: Fate) -> Option<Step> {
        let who = event.target.clone();
        match self.find(&who, event.signo, &event.info) {
            Some(at) => {
                let entry = self.pending.get_mut(&who.pid)?.remove(at)?;
                Some(Step::Settled(entry, fate, who))
            }
            // Each thread of a process that ends is told so.
            None if event.signo == SigNo::KILL => None,
            None => Some(Step::Unknown(event.signo, fate, who)),
        }
    }

    fn taken(&mut self, event: &Taken) -> Option<Step> {
        let who = event.target.clone();
        let Some(at) = self.find(&who, event.signo, &event.info) else {
            return Some(Step::Unknown(event.signo, Fate::Taken, who));
        };
        let all = self.pending.get_mut(&who.pid)?;
        if self.checkpoint && event.tracer.is_some() {
            let entry = all.get_mut(at)?;
            entry.owed = true;
            return Some(Step::TakenOut(entry.clone()));
        }
        let entry = all.remove(at)?;
        Some(Step::Settled(entry, Fate::Taken, who))
    }

    /// The thread's own come first, as in `dequeue_signal()`; of equals the oldest. If no siginfo is the same, the number counts.
    fn find(&self, who: &Who, signo: SigNo, info: &Info) -> Option<usize> {
        let all = self.pending.get(&who.pid)?;
        let own = |entry: &Entry| entry.tid == Some(who.tid);
        let shared = |entry: &Entry| entry.tid.is_none();
        let there = |entry: &Entry| !entry.owed && entry.signo == signo;
        let same = |entry: &Entry| there(entry) && is_same(entry, info, entry.bare);
        let place = |wanted: &dyn Fn(&Entry) -> bool| all.iter().position(wanted);
        place(&|entry| own(entry) && same(entry))
            .or_else(|| place(&|entry| shared(entry) && same(entry)))
            .or_else(|| place(&|entry| own(entry) && there(entry)))
            .or_else(|| place(&|entry| shared(entry) && there(entry)))
            // A thread that calls execve(2) gets the number of the first.
            .or_else(|| place(&|entry| same(entry)))
            // It was put back, and that was not seen as such.
            .or_else(|| place(&|entry| entry.signo == signo && is_same(entry, info, entry.bare)))
    }

    fn ended(&mut self, event: &Ended) -> Vec<Step> {
        let who = &event.target;
        let by_checkpoint = self.killed.contains(&who.pid);
        let Some(all) = self.pending.get_mut(&who.pid) else {
            return Vec::new();
        };
        let by = SigNo::new((event.status & 0x7f).cast_signed());
        let mut steps = Vec::new();
        all.retain_mut(|entry| {
            let concerned = event.is_last || entry.tid == Some(who.tid);
            if !concerned {
                return true;
            }
            if by_checkpoint && !entry.of_checkpoint {
                entry.owed = true;
                return true;
            }
            let fate = match by {
                Some(signo) if event.is_last && signo == entry.signo => Fate::Killed,
                _ if event.is_last => Fate::ProcessEnded,
                _ => Fate::ThreadEnded,
            };
            steps.push(Step::Settled(entry.clone(), fate, who.clone()));
            false
        });
        steps
    }
}

/// Injected code, which sends to its own process.
fn is_own_and_traced(event: &Generated) -> bool {
    event.running_is_traced && event.running.pid == event.target.pid
}

/// `bare`: only the number and the bit are left of the siginfo.
fn is_same(entry: &Entry, info: &Info, bare: bool) -> bool {
    const SI_USER: i32 = 0;
    const SI_KERNEL: i32 = 0x80;
    if entry.bare || bare {
        return entry.bare == bare;
    }
    match (&entry.info, info) {
        (Info::Given(one), Info::Given(other)) => is_same_info(one, other),
        (Info::OfUser, Info::Given(given)) | (Info::Given(given), Info::OfUser) => {
            given.code() == SI_USER
        }
        (Info::OfKernel, Info::Given(given)) | (Info::Given(given), Info::OfKernel) => {
            given.code() == SI_KERNEL
        }
        (one, other) => one == other,
    }
}

/// But for a timer's overruns, which are counted until it is delivered.
pub(super) fn is_same_info(one: &Siginfo, other: &Siginfo) -> bool {
    match (one.fields(), other.fields()) {
        (
            Fields::Timer {
                id: one_id,
                value: one_value,
                ..
            },
            Fields::Timer { id, value, .. },
        ) => one.signo() == other.signo() && (one_id, one_value) == (id, value),
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use criu_signals_images::{Name, Pid, SIGINFO_SIZE};

    use super::*;

    const PID: i32 = 41;

    fn who(pid: i32) -> Who {
        Who {
            pid,
            tid: pid,
            comm: Name::from("x"),
        }
    }

    fn queued(signo: SigNo, value: u8) -> Info {
        let mut bytes = [0; SIGINFO_SIZE];
        bytes[0] = u8::try_from(signo.get()).unwrap();
        bytes[8..12].copy_from_slice(&(-1_i32).to_ne_bytes());
        bytes[24] = value;
        Info::Given(Siginfo::from_bytes(bytes))
    }

    fn sent(signo: SigNo, value: u8, by: i32) -> Generated {
        Generated {
            time: 1,
            signo,
            info: queued(signo, value),
            target: who(PID),
            group: true,
            outcome: Outcome::Queued,
            running: who(by),
            running_is_traced: false,
            tracer: None,
        }
    }

    fn got(signo: SigNo, value: u8) -> Event {
        Event::Delivered(Delivered {
            time: 2,
            signo,
            info: queued(signo, value),
            target: who(PID),
            handler: 0x1000,
            flags: 0,
        })
    }

    fn ended() -> Event {
        Event::Ended(Ended {
            time: 3,
            target: who(PID),
            status: 9,
            is_last: true,
        })
    }

    fn id(step: &Step) -> u64 {
        match step {
            Step::Sent(entry)
            | Step::Settled(entry, ..)
            | Step::TakenOut(entry)
            | Step::PutBack(entry) => entry.id,
            Step::Unknown(..) => 0,
        }
    }

    #[test]
    fn a_delivery_is_that_of_the_same_siginfo() {
        let rt = SigNo::new(40).unwrap();
        let mut journal = Journal::new(false);
        for value in [1, 2, 3] {
            journal.take(&Event::Generated(sent(rt, value, 7)));
        }
        for (value, wanted) in [(2, 2), (1, 1), (3, 3), (3, 0)] {
            let steps = journal.take(&got(rt, value));
            assert_eq!(steps.iter().map(id).collect::<Vec<_>>(), [wanted]);
        }
        assert_eq!(journal.rest().count(), 0);
    }

    #[test]
    fn sigcont_removes_stop_signals() {
        let mut journal = Journal::new(false);
        journal.take(&Event::Generated(sent(SigNo::TSTP, 0, 7)));
        let steps = journal.take(&Event::Generated(sent(SigNo::CONT, 0, 7)));
        assert!(
            matches!(&steps[..], [Step::Settled(entry, Fate::Removed(SigNo::CONT), _), Step::Sent(_)]
                if entry.signo == SigNo::TSTP),
            "{steps:?}"
        );
    }

    #[test]
    fn what_a_process_has_with_it_when_it_ends_is_settled() {
        let mut journal = Journal::new(true);
        journal.take(&Event::Generated(sent(SigNo::HUP, 0, 7)));
        let steps = journal.take(&ended());
        assert!(
            matches!(&steps[..], [Step::Settled(_, Fate::ProcessEnded, _)]),
            "{steps:?}"
        );
    }

    #[test]
    fn a_checkpoint_owes_what_it_has_and_puts_it_back_once() {
        let rt = SigNo::new(40).unwrap();
        let mut journal = Journal::new(true);
        journal.take(&Event::Generated(sent(rt, 1, 7)));
        let kill = Generated {
            tracer: Pid::new(99),
            ..sent(SigNo::KILL, 0, 99)
        };
        journal.take(&Event::Generated(kill));
        journal.take(&ended());
        assert_eq!(journal.rest().filter(|entry| entry.owed).count(), 1);
        // A child of criu's process, which has the number until then.
        let steps = journal.take(&Event::Generated(sent(SigNo::CHLD, 0, 54)));
        assert!(
            matches!(&steps[..], [Step::Sent(entry)] if entry.of_checkpoint),
            "{steps:?}"
        );
        let steps = journal.take(&Event::Generated(sent(rt, 1, PID)));
        assert!(
            matches!(&steps[..], [Step::PutBack(entry)] if entry.id == 1),
            "{steps:?}"
        );
        // A second one is not owed.
        let steps = journal.take(&Event::Generated(sent(rt, 1, PID)));
        assert!(matches!(&steps[..], [Step::Sent(_)]), "{steps:?}");
        let steps = journal.take(&got(rt, 1));
        assert!(
            matches!(&steps[..], [Step::Settled(entry, ..)] if entry.id == 1),
            "{steps:?}"
        );
    }
}
