//! A seed's plan, its program and its way.
//!
//! The same seed is the same plan as long as [`GENERATOR`] is the same. Whatever changes what comes out has to raise it:
//! a test here knows the plans of the first seeds by a checksum.

use clap::ValueEnum;
use oorandom::Rand64;
use serde::{Deserialize, Serialize};

use crate::chance::plan::{
    Action, Call, ChildKind, Clock, Disposition, End, Entry, Filter, Itimer, Line, Notify, Plan,
    Queue, Timer, TimerClock, Wait,
};

/// The version of what is made of a seed.
pub const GENERATOR: u32 = 2;

const SIGHUP: u8 = 1;
const SIGTRAP: u8 = 5;
const SIGKILL: u8 = 9;
const SIGALRM: u8 = 14;
const SIGCHLD: u8 = 17;
const SIGCONT: u8 = 18;
const SIGSTOP: u8 = 19;
const STOPS: [u8; 4] = [SIGSTOP, 20, 21, 22];
/// The six of `dequeue_synchronous_signal`.
const SYNCHRONOUS: [u8; 6] = [4, SIGTRAP, 7, 8, 11, 31];
/// Default action: nothing.
const HARMLESS: [u8; 4] = [SIGCHLD, SIGCONT, 23, 28];
const LAST: u8 = 64;

const SA_SIGINFO: u64 = 0x4;
const SA_ONSTACK: u64 = 0x0800_0000;
const SA_RESTART: u64 = 0x1000_0000;
const SA_NODEFER: u64 = 0x4000_0000;
/// SA_NOCLDSTOP, SA_NOCLDWAIT, SA_UNSUPPORTED, SA_EXPOSE_TAGBITS, SA_RESETHAND.
const OTHER_FLAGS: [u64; 5] = [0x1, 0x2, 0x400, 0x800, SA_RESETHAND];
const SA_RESETHAND: u64 = 0x8000_0000;
const SA_NOCLDWAIT: u64 = 0x2;

/// They set a mask for their time.
const SET_MASKS: [Call; 5] = [
    Call::Ppoll,
    Call::Pselect,
    Call::EpollPwait,
    Call::EpollPwait2,
    Call::Sigsuspend,
];

const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;

/// What one number is good for: independent streams, so that what is drawn for the plan does not change the way.
fn stream(seed: u64, number: u64) -> Rand64 {
    Rand64::new(u128::from(seed) << 8 | u128::from(number))
}

/// What plans have more of than the others. The kinds of state are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Focus {
    /// Nothing.
    #[default]
    None,
    /// Stopped processes whose threads wait in calls that set masks, with signals due.
    StoppedCalls,
    /// Timers, of the same number, with ignored signals.
    Timers,
    /// Children with states of their own, and a low RLIMIT_SIGPENDING.
    Children,
}

/// How often what comes, in percent, or numbers to choose from.
struct Weights {
    waits: u64,
    /// Only calls that set a mask.
    mask_calls: u64,
    masked: u64,
    stop: u64,
    due: u64,
    dues: u8,
    timers: &'static [u8],
    same_number: u64,
    ignored: u64,
    children: &'static [u8],
    limited: u64,
}

const EVEN: Weights = Weights {
    waits: 35,
    mask_calls: 0,
    masked: 60,
    stop: 6,
    due: 40,
    dues: 1,
    timers: &[0, 0, 0, 1, 1, 2, 3, 6],
    same_number: 25,
    ignored: 0,
    children: &[0, 0, 0, 0, 0, 1, 1, 2, 3],
    limited: 15,
};

impl Focus {
    fn weights(self) -> Weights {
        match self {
            Focus::None => EVEN,
            Focus::StoppedCalls => Weights {
                waits: 85,
                mask_calls: 75,
                masked: 95,
                stop: 70,
                due: 90,
                dues: 3,
                ..EVEN
            },
            Focus::Timers => Weights {
                timers: &[2, 3, 4, 6, 8],
                same_number: 60,
                ignored: 60,
                stop: 15,
                ..EVEN
            },
            Focus::Children => Weights {
                children: &[1, 2, 3, 4],
                limited: 50,
                stop: 25,
                ..EVEN
            },
        }
    }
}

/// The plan of a seed.
pub fn plan(seed: u64, focus: Focus) -> Plan {
    let mut maker = Maker::new(stream(seed, 0), focus.weights());
    maker.everything();
    maker.into_plan()
}

/// Whether a seed's program is the 32-bit one: every fourth.
pub fn is_ia32(seed: u64) -> bool {
    stream(seed, 1).rand_range(0..4) == 0
}

/// What decides the way of a seed, and what happens in it.
pub fn way_stream(seed: u64) -> Rand64 {
    stream(seed, 2)
}

fn bit(signal: u8) -> u64 {
    1 << (signal - 1)
}

/// A plan that is being made.
struct Maker {
    random: Rand64,
    weights: Weights,
    threads: u8,
    /// In a random order, with what must stay behind one another kept so.
    ordered: Vec<Line>,
    declared: Vec<Line>,
    /// How each signal ends up.
    acts: [Option<Disposition>; 65],
    /// What is queued anywhere, or may come.
    sent: u64,
    /// What must be deliverable in a thread.
    open: [u64; 16],
    /// What every thread blocks.
    closed: u64,
    /// Threads that have something to do other than to sleep.
    busy: [bool; 16],
    leader_exits: bool,
    userns: bool,
    /// RLIMIT_SIGPENDING refuses real-time signals of tgkill(2).
    limited: bool,
    quiet: bool,
}

impl Maker {
    fn new(random: Rand64, weights: Weights) -> Self {
        Self {
            random,
            weights,
            threads: 1,
            ordered: Vec::new(),
            declared: Vec::new(),
            acts: [None; 65],
            sent: 0,
            open: [0; 16],
            closed: 0,
            busy: [false; 16],
            leader_exits: false,
            userns: false,
            limited: false,
            quiet: true,
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random.rand_range(0..n)
    }

    fn small(&mut self, n: u8) -> u8 {
        u8::try_from(self.below(u64::from(n))).unwrap_or(0)
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.random.rand_range(low..high + 1)
    }

    /// In so many of a hundred cases.
    fn percent(&mut self, of: u64) -> bool {
        self.below(100) < of
    }

    /// As [`percent`](Self::percent); nothing is drawn for what never comes.
    fn percent_if_any(&mut self, of: u64) -> bool {
        of > 0 && self.percent(of)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let at = self.below(from.len() as u64);
        from[usize::try_from(at).unwrap_or(0)]
    }

    fn bits(&mut self) -> u64 {
        self.random.rand_u64()
    }

    fn word(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.bits().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// Few, some, nearly all.
    fn mask(&mut self) -> u64 {
        match self.below(4) {
            0 => 0,
            1 => self.bits() & self.bits() & self.bits(),
            2 => self.bits(),
            _ => self.bits() | self.bits(),
        }
    }

    fn everything(&mut self) {
        self.threads = match self.below(10) {
            0..=3 => 1,
            4..=6 => 2,
            7 | 8 => self.small(3) + 3,
            _ => self.small(11) + 6,
        };
        for thread in 1..self.threads {
            self.declared.push(Line::Thread(thread));
        }
        self.quiet = self.percent(75);
        self.leader_exits = self.threads > 1 && self.percent(4);
        self.busy[0] = self.leader_exits;
        self.acts();
        self.queues();
        self.timers();
        self.itimers();
        self.children();
        self.limits();
        self.stacks();
        self.insides();
        self.waits();
        self.stop();
        self.rare();
        self.masks();
    }

    fn disposition(&mut self, signal: u8) -> Disposition {
        let action = match self.below(10) {
            0 => Action::Default,
            1..=4 => Action::Ignore,
            5..=8 => Action::Handler,
            _ => Action::Address(0x1000 + (self.below(1 << 19) << 12)),
        };
        let mut flags = 0;
        for flag in [SA_SIGINFO, SA_ONSTACK, SA_RESTART, SA_NODEFER] {
            flags |= if self.percent(40) { flag } else { 0 };
        }
        for flag in OTHER_FLAGS {
            flags |= if self.percent(12) { flag } else { 0 };
        }
        // Such a child leaves nothing to wait for.
        if signal == SIGCHLD {
            flags &= !SA_NOCLDWAIT;
        }
        Disposition {
            action,
            flags,
            mask: self.mask(),
        }
    }

    /// Any but SIGKILL and SIGSTOP.
    fn signal(&mut self) -> u8 {
        loop {
            let signal = match self.below(10) {
                0..=4 => self.small(31) + 1,
                5 => self.pick(&SYNCHRONOUS),
                _ => self.small(31) + 34,
            };
            if ![SIGKILL, SIGSTOP].contains(&signal) {
                return signal;
            }
        }
    }

    fn acts(&mut self) {
        for _ in 0..self.pick(&[0, 0, 1, 2, 3, 5, 12, 30]) {
            let signal = self.signal();
            let to = self.disposition(signal);
            self.act(signal, to);
        }
    }

    fn act(&mut self, signal: u8, to: Disposition) {
        if self.acts[usize::from(signal)].replace(to).is_none() {
            self.place(vec![Line::Act(signal, to)]);
        } else {
            for line in &mut self.ordered {
                if matches!(line, Line::Act(is, _) if *is == signal) {
                    *line = Line::Act(signal, to);
                }
            }
        }
    }

    /// Puts lines somewhere, in this order.
    fn place(&mut self, lines: Vec<Line>) {
        let mut at = 0;
        for line in lines {
            let end = self.ordered.len() as u64;
            at = usize::try_from(self.between(at as u64, end)).unwrap_or(at);
            self.ordered.insert(at, line);
            at += 1;
        }
    }

    fn queue(&mut self) -> Queue {
        if self.percent(50) {
            return Queue::Shared;
        }
        Queue::Private(self.thread())
    }

    /// One that lives.
    fn thread(&mut self) -> u8 {
        match self.leader_exits {
            true => self.small(self.threads - 1) + 1,
            false => self.small(self.threads),
        }
    }

    fn entry(&mut self, signal: u8) -> Entry {
        const CODES: [i32; 16] = [0, 0x80, -1, -1, -2, -3, -4, -5, -6, -7, -60, 1, 2, 3, 4, 6];
        let code = match self.below(20) {
            0 => self.word().cast_signed(),
            1 => i32::from(self.small(16)),
            _ => self.pick(&CODES),
        };
        let errno = match self.below(4) {
            0 => i32::from(self.small(134)),
            _ => 0,
        };
        let raw = self.raw();
        Entry {
            signal,
            code,
            errno,
            raw,
            count: 1,
        }
    }

    /// Of kill(2), of sigqueue(3), or anything. Behind its 48th byte the kernel wants a siginfo without layout to be empty.
    fn raw(&mut self) -> Vec<u8> {
        let mut raw = Vec::new();
        match self.below(5) {
            0 => {}
            1 | 2 => {
                let pid: u32 = self.pick(&[0, 1, 2, 300, 301, 4711, u32::MAX]);
                let uid: u32 = self.pick(&[0, 1000, 65_534, u32::MAX]);
                raw.extend(pid.to_le_bytes());
                raw.extend(uid.to_le_bytes());
                if self.percent(60) {
                    raw.extend(self.bits().to_le_bytes());
                }
            }
            _ => {
                let length = self.pick(&[1, 4, 8, 12, 16, 20, 24, 28, 31]);
                for _ in 0..length {
                    raw.push(self.bits().to_le_bytes()[0]);
                }
            }
        }
        raw
    }

    fn count(&mut self) -> u32 {
        let count = match self.below(100) {
            0..=69 => 1,
            70..=89 => self.between(2, 20),
            90..=95 => self.between(21, 600),
            96..=98 => self.between(600, 2500),
            _ => self.between(2500, 10_000),
        };
        u32::try_from(count).unwrap_or(1)
    }

    fn queues(&mut self) {
        let mut deep = 0;
        for _ in 0..self.pick(&[0, 1, 1, 2, 3, 5, 8, 16]) {
            let signal = self.signal();
            let queue = self.queue();
            self.sent |= bit(signal);
            if self.percent(8) {
                self.place(vec![Line::Bit(queue, signal)]);
                continue;
            }
            let mut entry = self.entry(signal);
            if signal > 31 && deep < 10_000 {
                entry.count = self.count();
                deep += entry.count;
            }
            self.place(vec![Line::Queue(queue, entry)]);
        }
    }

    fn clock(&mut self) -> TimerClock {
        match self.below(12) {
            0 | 1 => TimerClock::Named(Clock::Realtime),
            2..=4 => TimerClock::Named(Clock::Monotonic),
            5 => TimerClock::Named(Clock::Boottime),
            6 => TimerClock::Named(Clock::Tai),
            7 | 8 => TimerClock::Named(Clock::ProcessCpu),
            9 => TimerClock::Named(Clock::ThreadCpu),
            10 => TimerClock::CpuOf(self.thread()),
            // Few machines have a clock that wakes them up.
            _ if self.percent(8) => {
                let clock = self.pick(&[Clock::RealtimeAlarm, Clock::BoottimeAlarm]);
                TimerClock::Named(clock)
            }
            _ => TimerClock::Named(Clock::Monotonic),
        }
    }

    fn interval(&mut self) -> u64 {
        match self.below(10) {
            0..=4 => 0,
            5..=7 => self.between(10, 50) * MS,
            8 => self.between(30, 1000) * S + self.below(S),
            _ => self.between(1, 9) * MS,
        }
    }

    fn timers(&mut self) {
        let several = self
            .percent(self.weights.same_number)
            .then(|| self.signal());
        for id in 0..self.pick(self.weights.timers) {
            // Behind others of its number as well.
            let signal = match several {
                Some(signal) => signal,
                None => match self.below(2) {
                    0 => self.any_sent(),
                    _ => self.signal(),
                },
            };
            if self.percent_if_any(self.weights.ignored) {
                let mut to = self.disposition(signal);
                to.action = Action::Ignore;
                self.act(signal, to);
            }
            self.timer(id, signal);
        }
        if self.percent(6) {
            let clock = self.pick(&[Clock::Realtime, Clock::Monotonic, Clock::Boottime]);
            let (first, interval) = (self.first(), self.interval());
            self.place(vec![Line::Timerfd(0, clock, first, interval)]);
        }
    }

    /// One that is queued already, if any is.
    fn any_sent(&mut self) -> u8 {
        let sent: Vec<u8> = (SIGHUP..=LAST)
            .filter(|&n| self.sent & bit(n) != 0)
            .collect();
        match sent.as_slice() {
            [] => self.signal(),
            sent => self.pick(sent),
        }
    }

    fn first(&mut self) -> u64 {
        match self.below(3) {
            0 => self.between(100, 3000) * 1000,
            _ => self.between(30, 4000) * S + self.below(S),
        }
    }

    fn timer(&mut self, id: u8, signal: u8) {
        let notify = match self.below(10) {
            0 => Notify::None,
            1..=3 => Notify::Thread(self.thread()),
            _ => Notify::Signal,
        };
        let timer = Timer {
            id,
            by: self.thread(),
            clock: self.clock(),
            notify,
            signal,
            value: self.word(),
            first: self.first(),
            interval: self.interval(),
        };
        self.sent |= bit(signal);
        let soon = timer.first < S;
        let mut lines = vec![Line::Timer(timer)];
        if soon {
            lines.push(Line::TimerWait(id));
        }
        match self.below(12) {
            0 => lines.push(Line::TimerDelete(id)),
            1 => {
                let (first, interval) = (self.between(30, 900) * S, self.interval());
                lines.push(Line::TimerSet(id, first, interval));
            }
            2 => lines.push(Line::TimerSet(id, 0, 0)),
            3 => {
                lines.push(Line::TimerSet(id, MS, 0));
                lines.push(Line::TimerWait(id));
            }
            _ => {}
        }
        self.place(lines);
    }

    fn itimers(&mut self) {
        for (kind, signal) in [
            (Itimer::Real, SIGALRM),
            (Itimer::Virtual, 26),
            (Itimer::Prof, 27),
        ] {
            if !self.percent(6) {
                continue;
            }
            let waits = kind == Itimer::Real && self.sent & bit(signal) == 0 && self.percent(50);
            self.sent |= bit(signal);
            let first = match waits {
                true => self.between(1, 3) * MS,
                false => self.between(30, 900) * S,
            };
            let interval = self.interval();
            let mut lines = vec![Line::Itimer(kind, first, interval)];
            if waits && self.acts[usize::from(signal)].is_none() {
                lines.push(Line::ItimerWait(kind));
            }
            self.place(lines);
        }
    }

    fn children(&mut self) {
        for child in 0..self.pick(self.weights.children) {
            self.sent |= bit(SIGCHLD);
            let stop = self.stop_signal();
            let kind = match self.below(8) {
                0 => ChildKind::Running,
                1..=3 => ChildKind::Stopped(stop),
                4 => ChildKind::Continued(stop),
                5 | 6 if !self.reaps_by_itself() => ChildKind::Zombie(self.exit_code()),
                7 if !self.reaps_by_itself() => ChildKind::Killed(self.pick(&[SIGKILL, 15, 1])),
                _ => ChildKind::Running,
            };
            let lives = matches!(
                kind,
                ChildKind::Running | ChildKind::Stopped(_) | ChildKind::Continued(_)
            );
            let may_consume = matches!(kind, ChildKind::Stopped(_) | ChildKind::Continued(_));
            let consumed = may_consume && self.percent(50);
            let mut lines = vec![Line::Child(child, kind, consumed)];
            if lives {
                lines.extend(self.child_state(child, stop));
            }
            self.place(lines);
        }
    }

    /// criu restores the lower seven bits of it: few are above.
    fn exit_code(&mut self) -> u8 {
        match self.percent(4) {
            true => self.small(128) + 127,
            false => self.small(128),
        }
    }

    /// A child that ends leaves no zombie.
    fn reaps_by_itself(&self) -> bool {
        self.acts[usize::from(SIGCHLD)].is_some_and(|to| to.action == Action::Ignore)
    }

    fn stop_signal(&mut self) -> u8 {
        let stop = self.pick(&STOPS);
        // A child inherits what stands then.
        match self.acts[usize::from(stop)] {
            None => stop,
            Some(_) => SIGSTOP,
        }
    }

    fn child_state(&mut self, child: u8, stop: u8) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut pending = 0;
        for _ in 0..self.pick(&[0, 0, 1, 2, 4]) {
            let signal = self.signal();
            if signal == SIGCONT || STOPS.contains(&signal) {
                continue;
            }
            pending |= bit(signal);
            let queue = self.pick(&[Queue::Shared, Queue::Private(0)]);
            let mut entry = self.entry(signal);
            if signal > 31 && self.percent(30) {
                entry.count = u32::from(self.small(20)) + 1;
            }
            lines.push(Line::ChildQueue(child, queue, entry));
        }
        if self.percent(30) {
            let signal = self.signal();
            if signal != stop && signal != SIGCONT {
                let to = self.disposition(signal);
                lines.push(Line::ChildAct(child, signal, to));
            }
        }
        if self.percent(50) {
            let mask = (self.mask() | pending) & !bit(stop);
            lines.push(Line::ChildMask(child, mask));
        } else if self.percent(20) {
            let signal = self.signal();
            if signal != SIGCONT && !STOPS.contains(&signal) {
                lines.push(Line::ChildSend(child, signal));
            }
        }
        lines
    }

    fn limits(&mut self) {
        self.userns = self.percent(2);
        self.limited = self.percent(self.weights.limited);
        if !self.limited {
            return;
        }
        // What counts against the limit is counted for all processes of a user in a user namespace. So what a limit
        // refuses is the same in each run only in a namespace of its own, which criu does not restore; or if it is 0; or
        // if nothing comes after it.
        self.userns |= self.percent(35);
        if !self.userns {
            let soft = self.below(40);
            let hard = self.percent(30).then(|| soft + self.below(100));
            match self.percent(50) {
                true => self.ordered.push(Line::Limit(soft, hard)),
                false => self.late(Line::Limit(0, None)),
            }
            return;
        }
        // Timers that are made below the limit are refused.
        let last = self
            .ordered
            .iter()
            .rposition(|line| matches!(line, Line::Timer(_)));
        let mut at = last.map_or(0, |at| at as u64 + 1);
        let mut most = 90_000;
        for _ in 0..self.pick(&[1, 1, 2, 3]) {
            let soft = match self.below(3) {
                0 => 0,
                1 => self.below(40),
                _ => self.below(3000),
            };
            let soft = soft.min(most);
            let hard = self.percent(30).then(|| (soft + self.below(100)).min(most));
            // Nobody but root may raise it again, and root in a user namespace may not.
            most = hard.unwrap_or(most);
            at = self.between(at, self.ordered.len() as u64);
            let place = usize::try_from(at).unwrap_or(0);
            self.ordered.insert(place, Line::Limit(soft, hard));
            at += 1;
        }
    }

    /// Somewhere behind the last timer.
    fn late(&mut self, line: Line) {
        let timer = |line: &Line| matches!(line, Line::Timer(_));
        let first = self.ordered.iter().rposition(timer).map_or(0, |at| at + 1);
        let at = self.between(first as u64, self.ordered.len() as u64);
        self.ordered
            .insert(usize::try_from(at).unwrap_or(first), line);
    }

    fn stacks(&mut self) {
        for thread in 0..self.threads {
            if thread == 0 && self.leader_exits || !self.percent(25) {
                continue;
            }
            let stack = match self.below(6) {
                0 => None,
                _ => {
                    let size = self.pick(&[16 << 10, 20 << 10, 64 << 10]);
                    Some((size, self.percent(25)))
                }
            };
            self.place(vec![Line::Altstack(thread, stack)]);
        }
    }

    fn is_unused(&self, signal: u8) -> bool {
        let taken = self.sent & bit(signal) != 0 || self.acts[usize::from(signal)].is_some();
        let special =
            HARMLESS.contains(&signal) || STOPS.contains(&signal) || SYNCHRONOUS.contains(&signal);
        let refused = self.limited && signal > 31;
        !(taken || special || refused || [SIGKILL, 32, 33].contains(&signal))
    }

    /// One that nothing else uses, with a handler. `None`: all are used.
    fn handled(&mut self, mask: u64) -> Option<u8> {
        if !(1..=LAST).any(|signal| self.is_unused(signal)) {
            return None;
        }
        let signal = loop {
            let signal = self.signal();
            if self.is_unused(signal) {
                break signal;
            }
        };
        let mut to = self.disposition(signal);
        to.action = Action::Handler;
        to.mask &= mask;
        self.act(signal, to);
        Some(signal)
    }

    fn change(&mut self, signal: u8, change: impl FnOnce(&mut Disposition)) {
        if let Some(mut to) = self.acts[usize::from(signal)] {
            change(&mut to);
            self.act(signal, to);
        }
    }

    fn insides(&mut self) {
        for thread in 0..self.threads {
            if self.busy[usize::from(thread)] || !self.percent(6) {
                continue;
            }
            let depth = self.pick(&[1, 1, 2, 3]);
            let mut lines = Vec::new();
            for _ in 0..depth {
                // No handler blocks what comes inside of it, nor what is to end its call.
                let Some(signal) = self.handled(0) else {
                    break;
                };
                self.open[usize::from(thread)] |= bit(signal);
                // The frame of a 32-bit handler without it does not say all that is asked for.
                self.change(signal, |to| to.flags |= SA_SIGINFO);
                lines.push(Line::Inside(thread, signal));
            }
            self.declared.extend(lines);
        }
    }

    fn waits(&mut self) {
        for thread in 0..self.threads {
            if self.busy[usize::from(thread)] || !self.percent(self.weights.waits) {
                continue;
            }
            if let Some(wait) = self.wait(thread) {
                self.declared.push(Line::Wait(wait));
            }
        }
    }

    /// `None`: there is no signal that could end the call.
    fn wait(&mut self, thread: u8) -> Option<Wait> {
        use Call::{
            Accept, ClockNanosleep, ClockNanosleepAbs, EpollPwait, EpollPwait2, EpollWait, Futex,
            FutexBitset, FutexLockPi, IoGetevents, IoUringEnter, MqReceive, Nanosleep, Pause, Poll,
            Ppoll, Pselect, Recv, RtSigtimedwait, Select, Semtimedop, Send, Sigsuspend,
        };
        let call = match self.percent_if_any(self.weights.mask_calls) {
            true => self.pick(&SET_MASKS),
            false => self.pick(Call::ALL),
        };
        let needs_time = matches!(
            call,
            Nanosleep | ClockNanosleep | ClockNanosleepAbs | Semtimedop
        );
        let may_time = matches!(
            call,
            Poll | Ppoll
                | Select
                | Pselect
                | EpollWait
                | EpollPwait
                | EpollPwait2
                | Futex
                | FutexBitset
                | FutexLockPi
                | RtSigtimedwait
                | Recv
                | Accept
                | Send
                | MqReceive
                | IoGetevents
        );
        let mut timeout = (needs_time || may_time && self.percent(50)).then(|| self.timeout());
        // Always made again after a handler.
        let may_end = call != FutexLockPi;
        let must_end = matches!(call, Pause | Sigsuspend | IoUringEnter)
            || call == IoGetevents && timeout.is_none();
        let ends = must_end || may_end && self.percent(30);
        let end = if ends { self.handled(u64::MAX) } else { None };
        if must_end && end.is_none() {
            return None;
        }
        if let Some(signal) = end {
            self.open[usize::from(thread)] |= bit(signal);
        }
        // It is not to be over before the signal comes, nor to begin anew after it.
        if let (Some(end), Some(_)) = (end, timeout) {
            timeout = Some(20_000 + u32::from(self.small(100)) * 300);
            self.change(end, |to| to.flags &= !SA_RESTART);
        }
        let masked = SET_MASKS.contains(&call) && self.percent(self.weights.masked);
        let mask = masked.then(|| self.mask() | self.sent);
        let mask = mask.map(|mask| mask & !end.map_or(0, bit));
        Some(Wait {
            thread,
            call,
            timeout,
            end,
            mask,
            set: None,
            rem: matches!(call, Nanosleep | ClockNanosleep) && self.percent(50),
        })
    }

    fn timeout(&mut self) -> u32 {
        let ms = match self.below(12) {
            0 if self.percent(20) => self.between(1200, 1500),
            _ => self.between(120, 300),
        };
        u32::try_from(ms).unwrap_or(0)
    }

    fn stop(&mut self) {
        if !self.percent(self.weights.stop) || self.leader_exits {
            return;
        }
        // The others stop no group that is orphaned, as that of a session's leader is.
        self.declared.push(Line::Stopped(SIGSTOP));
        // Which of two threads takes it when the process is continued is chance.
        self.sent |= bit(SIGCONT);
        self.closed |= bit(SIGCONT);
        for line in &mut self.declared {
            if let Line::Wait(Wait {
                mask: Some(mask), ..
            }) = line
            {
                *mask |= bit(SIGCONT);
            }
        }
        for _ in 0..self.weights.dues {
            if self.percent(self.weights.due)
                && let Some(due) = self.handled(0)
            {
                let thread = self.thread();
                self.open[usize::from(thread)] |= bit(due);
                self.declared.push(Line::Due(Queue::Private(thread), due));
            }
        }
    }

    fn rare(&mut self) {
        if self.leader_exits {
            self.declared.push(Line::LeaderExits);
        }
        if self.percent(3) {
            let who = self.percent(50).then(|| self.thread());
            let filter = self.pick(Filter::ALL);
            self.declared.push(Line::Seccomp(who, filter));
        }
        if self.percent(2) {
            let thread = self.thread();
            let idle = !self
                .declared
                .iter()
                .any(|line| matches!(line, Line::Wait(wait) if wait.thread == thread));
            if idle {
                self.declared.push(Line::Vfork(thread));
            }
        }
        if self.userns {
            self.declared.push(Line::Userns);
        } else if self.percent(4) {
            self.declared.push(Line::Pidns);
        }
        if self.percent(40) {
            self.declared.push(Line::End(End::Deliver));
        }
        if self.percent(8) {
            let signal = self.any_sent();
            let to = Disposition {
                action: Action::Handler,
                flags: SA_SIGINFO,
                mask: 0,
            };
            self.declared.push(Line::Later(signal, to));
        }
    }

    /// What would end or stop the process is blocked everywhere; what has a handler mostly.
    fn masks(&mut self) {
        let deadly = (SIGHUP..=LAST)
            .filter(|&signal| match self.acts[usize::from(signal)] {
                Some(to) => match to.action {
                    // SA_RESETHAND: the second one is not handled.
                    Action::Handler => to.flags & SA_RESETHAND != 0,
                    Action::Ignore => false,
                    Action::Default => !HARMLESS.contains(&signal),
                    Action::Address(_) => true,
                },
                None => !HARMLESS.contains(&signal),
            })
            .fold(0, |set, signal| set | bit(signal));
        let children = bit(SIGCHLD);
        for thread in 0..self.threads {
            let open = self.open[usize::from(thread)];
            if open == 0 && self.percent(40) {
                continue;
            }
            let mut mask = self.mask() | self.sent & (deadly | children) | self.closed;
            if self.quiet {
                mask |= self.sent;
            }
            self.declared.push(Line::Mask(thread, mask & !open));
        }
    }

    fn into_plan(self) -> Plan {
        let mut lines = self.declared;
        lines.extend(self.ordered);
        Plan { lines }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FNV-1a, which no library changes.
    fn checksum(text: &str) -> u64 {
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        })
    }

    #[test]
    fn plans_of_seeds_stay_what_they_are() {
        let text: String = (0..300)
            .map(|seed| format!("{}{}{}", seed, plan(seed, Focus::None), is_ia32(seed)))
            .collect();
        assert_eq!(
            (GENERATOR, checksum(&text)),
            (2, 500_428_947_640_611_389),
            "the plans of these seeds have changed: raise GENERATOR"
        );
    }

    #[test]
    fn a_plan_that_uses_every_signal_ends() {
        for seed in [209_540, 209_673] {
            assert!(
                plan(seed, Focus::None).to_string().lines().count() > 60,
                "{seed}"
            );
        }
    }

    #[test]
    fn plans_can_be_read() {
        for focus in Focus::value_variants() {
            for seed in 0..1000 {
                let plan = plan(seed, *focus);
                assert_eq!(plan.to_string().parse::<Plan>().unwrap(), plan, "{seed}");
            }
        }
    }

    #[test]
    fn a_focus_gives_more_of_its_kind() {
        let count = |focus, word: &str| {
            let plans = (0..200).map(|seed| plan(seed, focus).to_string());
            let of_plan = |plan: String| plan.lines().filter(|line| line.starts_with(word)).count();
            plans.map(of_plan).sum::<usize>()
        };
        for (focus, word) in [
            (Focus::StoppedCalls, "stopped "),
            (Focus::StoppedCalls, "due "),
            (Focus::Timers, "timer "),
            (Focus::Children, "child "),
            (Focus::Children, "limit "),
        ] {
            assert!(count(focus, word) > 2 * count(Focus::None, word), "{word}");
        }
    }

    #[test]
    fn every_directive_comes() {
        let text: String = (0..3000)
            .map(|seed| plan(seed, Focus::None).to_string())
            .collect();
        for word in [
            "userns",
            "pidns",
            "child-send",
            "thread",
            "mask",
            "inside",
            "wait",
            "leader-exits",
            "vfork",
            "seccomp",
            "stopped",
            "due",
            "end",
            "later",
            "act",
            "altstack",
            "limit",
            "queue",
            "bit",
            "timer",
            "timer-set",
            "timer-wait",
            "timer-delete",
            "itimer",
            "itimer-wait",
            "timerfd",
            "child",
            "child-act",
            "child-mask",
            "child-queue",
        ] {
            let start = format!("{word} ");
            let there = text
                .lines()
                .any(|line| line == word || line.starts_with(&start));
            assert!(there, "no plan has {word}");
        }
        for call in Call::ALL {
            assert!(text.contains(&format!(" {call} ")), "no plan has {call}");
        }
    }
}
