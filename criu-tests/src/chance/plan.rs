//! The plan: what state the program is to put itself into, as text that the program reads (`chance/README.md`) and as
//! lines that the generator writes and the minimiser takes away.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail, ensure};

/// The first line.
pub const HEADER: &str = "plan 1";

/// Words of the text, each a variant.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$what])* $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($name::$variant => $word,)+ })
            }
        }

        impl FromStr for $name {
            type Err = anyhow::Error;
            fn from_str(word: &str) -> Result<Self> {
                match word {
                    $($word => Ok($name::$variant),)+
                    _ => bail!("{word:?} is no {}", stringify!($name)),
                }
            }
        }
    };
}

words! {
    /// The clock of a timer.
    #[allow(missing_docs)]
    Clock {
        Realtime = "realtime",
        Monotonic = "monotonic",
        Boottime = "boottime",
        Tai = "tai",
        RealtimeAlarm = "realtime-alarm",
        BoottimeAlarm = "boottime-alarm",
        ProcessCpu = "process-cpu",
        ThreadCpu = "thread-cpu",
    }
}

words! {
    /// An interval timer of setitimer(2).
    #[allow(missing_docs)]
    Itimer {
        Real = "real",
        Virtual = "virtual",
        Prof = "prof",
    }
}

words! {
    /// A call in which a thread waits.
    #[allow(missing_docs)]
    Call {
        Pause = "pause",
        Sigsuspend = "sigsuspend",
        Nanosleep = "nanosleep",
        ClockNanosleep = "clock_nanosleep",
        ClockNanosleepAbs = "clock_nanosleep_abs",
        Poll = "poll",
        Ppoll = "ppoll",
        Select = "select",
        Pselect = "pselect",
        EpollWait = "epoll_wait",
        EpollPwait = "epoll_pwait",
        EpollPwait2 = "epoll_pwait2",
        Futex = "futex",
        FutexBitset = "futex_bitset",
        FutexLockPi = "futex_lock_pi",
        RtSigtimedwait = "rt_sigtimedwait",
        Read = "read",
        Write = "write",
        Recv = "recv",
        Accept = "accept",
        Send = "send",
        Wait4 = "wait4",
        Waitid = "waitid",
        Msgrcv = "msgrcv",
        Msgsnd = "msgsnd",
        Semop = "semop",
        Semtimedop = "semtimedop",
        MqReceive = "mq_receive",
        IoGetevents = "io_getevents",
        IoUringEnter = "io_uring_enter",
    }
}

words! {
    /// A seccomp filter.
    #[allow(missing_docs)]
    Filter {
        Allow = "allow",
        Errno = "errno",
        Kill = "kill",
        Trap = "trap",
    }
}

words! {
    /// What the program holds that criu refuses to dump.
    #[allow(missing_docs)]
    Refused {
        Lock = "lock",
        Fd = "fd",
    }
}

words! {
    /// How the queues are taken at the end.
    #[allow(missing_docs)]
    End {
        Drain = "drain",
        Deliver = "deliver",
    }
}

/// A queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// The process's.
    Shared,
    /// A thread's.
    Private(u8),
}

/// What a disposition does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// SIG_DFL.
    Default,
    /// SIG_IGN.
    Ignore,
    /// The program's own handler.
    Handler,
    /// An address at which nothing is.
    Address(u64),
}

/// A disposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disposition {
    /// What it does.
    pub action: Action,
    /// `sa_flags`.
    pub flags: u64,
    /// `sa_mask`.
    pub mask: u64,
}

/// An entry of a queue, some number of times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `si_signo`.
    pub signal: u8,
    /// `si_code`.
    pub code: i32,
    /// `si_errno`.
    pub errno: i32,
    /// The bytes of `_sifields`.
    pub raw: Vec<u8>,
    /// How often.
    pub count: u32,
}

/// Whom a timer tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// SIGEV_SIGNAL.
    Signal,
    /// SIGEV_THREAD_ID.
    Thread(u8),
    /// SIGEV_NONE.
    None,
}

/// Which clock a timer runs by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerClock {
    /// One that has a name.
    Named(Clock),
    /// A thread's processor time, by its clock id.
    CpuOf(u8),
}

/// A POSIX timer as it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    /// Its name in the plan.
    pub id: u8,
    /// The thread that makes it.
    pub by: u8,
    /// Its clock.
    pub clock: TimerClock,
    /// Whom it tells.
    pub notify: Notify,
    /// By which signal.
    pub signal: u8,
    /// With which value.
    pub value: u32,
    /// Nanoseconds to the first expiry.
    pub first: u64,
    /// Nanoseconds between expiries.
    pub interval: u64,
}

/// A call that a thread waits in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The thread.
    pub thread: u8,
    /// The call.
    pub call: Call,
    /// Milliseconds.
    pub timeout: Option<u32>,
    /// The signal that ends the call.
    pub end: Option<u8>,
    /// The mask that the call is given.
    pub mask: Option<u64>,
    /// The signals that the call waits for.
    pub set: Option<u64>,
    /// With a place for the rest of the time.
    pub rem: bool,
}

/// What a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildKind {
    /// Sleeps.
    Running,
    /// Stopped by a signal.
    Stopped(u8),
    /// Stopped, and continued.
    Continued(u8),
    /// Has ended with an exit code.
    Zombie(u8),
    /// Was killed by a signal.
    Killed(u8),
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Line {
    Uid(u32),
    Userns,
    Pidns,
    Thread(u8),
    Mask(u8, u64),
    Inside(u8, u8),
    Wait(Wait),
    LeaderExits,
    Vfork(u8),
    /// No thread: all of them.
    Seccomp(Option<u8>, Filter),
    Stopped(u8),
    Due(Queue, u8),
    Refuse(Refused),
    End(End),
    Later(u8, Disposition),
    Act(u8, Disposition),
    /// Size, and whether with SS_AUTODISARM.
    Altstack(u8, Option<(u64, bool)>),
    Limit(u64, Option<u64>),
    Queue(Queue, Entry),
    Bit(Queue, u8),
    Timer(Timer),
    TimerSet(u8, u64, u64),
    TimerWait(u8),
    TimerDelete(u8),
    Itimer(Itimer, u64, u64),
    ItimerWait(Itimer),
    Timerfd(u8, Clock, u64, u64),
    Burn(u8, u64),
    /// With the last, its status has been waited for.
    Child(u8, ChildKind, bool),
    ChildAct(u8, u8, Disposition),
    ChildMask(u8, u64),
    ChildQueue(u8, Queue, Entry),
    ChildSend(u8, u8),
}

/// A whole plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Its lines, without the first.
    pub lines: Vec<Line>,
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Queue::Shared => f.write_str("shared"),
            Queue::Private(thread) => write!(f, "{thread}"),
        }
    }
}

impl fmt::Display for Disposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.action {
            Action::Default => f.write_str("default")?,
            Action::Ignore => f.write_str("ignore")?,
            Action::Handler => f.write_str("handler")?,
            Action::Address(address) => write!(f, "{address:#x}")?,
        }
        write!(f, " {:x} {:x}", self.flags, self.mask)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} ", self.signal, self.code, self.errno)?;
        if self.raw.is_empty() {
            f.write_str("-")?;
        }
        for byte in &self.raw {
            write!(f, "{byte:02x}")?;
        }
        match self.count {
            1 => Ok(()),
            count => write!(f, " x{count}"),
        }
    }
}

impl fmt::Display for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.id, self.by)?;
        match self.clock {
            TimerClock::Named(clock) => write!(f, "{clock} ")?,
            TimerClock::CpuOf(thread) => write!(f, "cpu-of:{thread} ")?,
        }
        match self.notify {
            Notify::Signal => f.write_str("signal")?,
            Notify::Thread(thread) => write!(f, "thread:{thread}")?,
            Notify::None => f.write_str("none")?,
        }
        let Timer {
            signal,
            value,
            first,
            interval,
            ..
        } = self;
        write!(f, " {signal} {value} {first} {interval}")
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.thread, self.call)?;
        match self.timeout {
            Some(ms) => write!(f, "{ms}")?,
            None => f.write_str("none")?,
        }
        if let Some(signal) = self.end {
            write!(f, " end={signal}")?;
        }
        if let Some(mask) = self.mask {
            write!(f, " mask={mask:x}")?;
        }
        if let Some(set) = self.set {
            write!(f, " set={set:x}")?;
        }
        if self.rem {
            f.write_str(" rem")?;
        }
        Ok(())
    }
}

impl fmt::Display for ChildKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChildKind::Running => f.write_str("running"),
            ChildKind::Stopped(signal) => write!(f, "stopped {signal}"),
            ChildKind::Continued(signal) => write!(f, "continued {signal}"),
            ChildKind::Zombie(code) => write!(f, "zombie {code}"),
            ChildKind::Killed(signal) => write!(f, "killed {signal}"),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::Uid(uid) => write!(f, "uid {uid}"),
            Line::Userns => f.write_str("userns"),
            Line::Pidns => f.write_str("pidns"),
            Line::Thread(thread) => write!(f, "thread {thread}"),
            Line::Mask(thread, mask) => write!(f, "mask {thread} {mask:x}"),
            Line::Inside(thread, signal) => write!(f, "inside {thread} {signal}"),
            Line::Wait(wait) => write!(f, "wait {wait}"),
            Line::LeaderExits => f.write_str("leader-exits"),
            Line::Vfork(thread) => write!(f, "vfork {thread}"),
            Line::Seccomp(Some(thread), filter) => write!(f, "seccomp {thread} {filter}"),
            Line::Seccomp(None, filter) => write!(f, "seccomp all {filter}"),
            Line::Stopped(signal) => write!(f, "stopped {signal}"),
            Line::Due(queue, signal) => write!(f, "due {queue} {signal}"),
            Line::Refuse(what) => write!(f, "refuse {what}"),
            Line::End(end) => write!(f, "end {end}"),
            Line::Later(signal, to) => write!(f, "later {signal} {to}"),
            Line::Act(signal, to) => write!(f, "act {signal} {to}"),
            Line::Altstack(thread, None) => write!(f, "altstack {thread} none"),
            Line::Altstack(thread, Some((size, autodisarm))) => {
                let autodisarm = if *autodisarm { " autodisarm" } else { "" };
                write!(f, "altstack {thread} {size}{autodisarm}")
            }
            Line::Limit(soft, None) => write!(f, "limit {soft}"),
            Line::Limit(soft, Some(hard)) => write!(f, "limit {soft} {hard}"),
            Line::Queue(queue, entry) => write!(f, "queue {queue} {entry}"),
            Line::Bit(queue, signal) => write!(f, "bit {queue} {signal}"),
            Line::Timer(timer) => write!(f, "timer {timer}"),
            Line::TimerSet(id, first, interval) => write!(f, "timer-set {id} {first} {interval}"),
            Line::TimerWait(id) => write!(f, "timer-wait {id}"),
            Line::TimerDelete(id) => write!(f, "timer-delete {id}"),
            Line::Itimer(kind, first, interval) => write!(f, "itimer {kind} {first} {interval}"),
            Line::ItimerWait(kind) => write!(f, "itimer-wait {kind}"),
            Line::Timerfd(id, clock, first, interval) => {
                write!(f, "timerfd {id} {clock} {first} {interval}")
            }
            Line::Burn(thread, time) => write!(f, "burn {thread} {time}"),
            Line::Child(child, kind, consumed) => {
                let consumed = if *consumed { " consumed" } else { "" };
                write!(f, "child {child} {kind}{consumed}")
            }
            Line::ChildAct(child, signal, to) => write!(f, "child-act {child} {signal} {to}"),
            Line::ChildMask(child, mask) => write!(f, "child-mask {child} {mask:x}"),
            Line::ChildQueue(child, queue, entry) => {
                let queue = match queue {
                    Queue::Shared => "shared",
                    // A child has one thread.
                    Queue::Private(_) => "0",
                };
                write!(f, "child-queue {child} {queue} {entry}")
            }
            Line::ChildSend(child, signal) => write!(f, "child-send {child} {signal}"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// The words of a line that have not been read.
struct Words<'t>(std::str::SplitWhitespace<'t>);

impl<'t> Words<'t> {
    fn next(&mut self) -> Result<&'t str> {
        self.0.next().context("a word is missing")
    }

    fn number<T: TryFrom<i128>>(&mut self) -> Result<T> {
        number(self.next()?)
    }

    fn word<T: FromStr<Err = anyhow::Error>>(&mut self) -> Result<T> {
        self.next()?.parse()
    }

    fn hex(&mut self) -> Result<u64> {
        hex(self.next()?)
    }

    fn queue(&mut self) -> Result<Queue> {
        match self.next()? {
            "shared" => Ok(Queue::Shared),
            thread => Ok(Queue::Private(number(thread)?)),
        }
    }

    fn disposition(&mut self) -> Result<Disposition> {
        let action = match self.next()? {
            "default" => Action::Default,
            "ignore" => Action::Ignore,
            "handler" => Action::Handler,
            address => Action::Address(hex(address)?),
        };
        Ok(Disposition {
            action,
            flags: self.hex()?,
            mask: self.hex()?,
        })
    }

    fn entry(&mut self) -> Result<Entry> {
        let mut entry = Entry {
            signal: self.number()?,
            code: self.number()?,
            errno: self.number()?,
            raw: bytes(self.next()?)?,
            count: 1,
        };
        if let Some(count) = self.0.next() {
            entry.count = number(count.strip_prefix('x').context("xCOUNT")?)?;
        }
        Ok(entry)
    }

    fn timer(&mut self) -> Result<Timer> {
        let (id, by) = (self.number()?, self.number()?);
        let clock = match self.next()? {
            word if word.starts_with("cpu-of:") => TimerClock::CpuOf(number(&word[7..])?),
            word => TimerClock::Named(word.parse()?),
        };
        let notify = match self.next()? {
            "signal" => Notify::Signal,
            "none" => Notify::None,
            word => Notify::Thread(number(word.strip_prefix("thread:").context("NOTIFY")?)?),
        };
        Ok(Timer {
            id,
            by,
            clock,
            notify,
            signal: self.number()?,
            value: self.number()?,
            first: self.number()?,
            interval: self.number()?,
        })
    }

    fn wait(&mut self) -> Result<Wait> {
        let mut wait = Wait {
            thread: self.number()?,
            call: self.word()?,
            timeout: match self.next()? {
                "none" => None,
                ms => Some(number(ms)?),
            },
            end: None,
            mask: None,
            set: None,
            rem: false,
        };
        for option in self.0.by_ref() {
            match option.split_once('=') {
                Some(("end", signal)) => wait.end = Some(number(signal)?),
                Some(("mask", mask)) => wait.mask = Some(hex(mask)?),
                Some(("set", set)) => wait.set = Some(hex(set)?),
                None if option == "rem" => wait.rem = true,
                _ => bail!("{option:?} is no option"),
            }
        }
        Ok(wait)
    }

    fn child(&mut self) -> Result<Line> {
        let child = self.number()?;
        let kind = match self.next()? {
            "running" => ChildKind::Running,
            "stopped" => ChildKind::Stopped(self.number()?),
            "continued" => ChildKind::Continued(self.number()?),
            "zombie" => ChildKind::Zombie(self.number()?),
            "killed" => ChildKind::Killed(self.number()?),
            word => bail!("{word:?} is no kind of child"),
        };
        let consumed = match self.0.next() {
            None => false,
            Some("consumed") => true,
            Some(word) => bail!("{word:?} is not understood"),
        };
        Ok(Line::Child(child, kind, consumed))
    }
}

fn number<T: TryFrom<i128>>(word: &str) -> Result<T> {
    let number = match word.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16),
        None => word.parse(),
    };
    let number = number.with_context(|| format!("{word:?} is no number"))?;
    T::try_from(number)
        .ok()
        .with_context(|| format!("{word} is out of range"))
}

fn hex(word: &str) -> Result<u64> {
    u64::from_str_radix(word.trim_start_matches("0x"), 16)
        .with_context(|| format!("{word:?} is no hexadecimal number"))
}

fn bytes(word: &str) -> Result<Vec<u8>> {
    if word == "-" {
        return Ok(Vec::new());
    }
    ensure!(
        word.is_ascii() && word.len().is_multiple_of(2),
        "{word:?} are no bytes"
    );
    (0..word.len())
        .step_by(2)
        .map(|at| {
            u8::from_str_radix(&word[at..at + 2], 16)
                .with_context(|| format!("{word:?} are no bytes"))
        })
        .collect()
}

impl FromStr for Line {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = Words(text.split_whitespace());
        let line = read(&mut words).with_context(|| format!("the line {text:?}"))?;
        match words.0.next() {
            None => Ok(line),
            Some(word) => bail!("the line {text:?}: {word:?} is one word too many"),
        }
    }
}

fn read(w: &mut Words<'_>) -> Result<Line> {
    Ok(match w.next()? {
        "uid" => Line::Uid(w.number()?),
        "userns" => Line::Userns,
        "pidns" => Line::Pidns,
        "thread" => Line::Thread(w.number()?),
        "mask" => Line::Mask(w.number()?, w.hex()?),
        "inside" => Line::Inside(w.number()?, w.number()?),
        "wait" => Line::Wait(w.wait()?),
        "leader-exits" => Line::LeaderExits,
        "vfork" => Line::Vfork(w.number()?),
        "seccomp" => {
            let who = match w.next()? {
                "all" => None,
                thread => Some(number(thread)?),
            };
            Line::Seccomp(who, w.word()?)
        }
        "stopped" => Line::Stopped(w.number()?),
        "due" => Line::Due(w.queue()?, w.number()?),
        "refuse" => Line::Refuse(w.word()?),
        "end" => Line::End(w.word()?),
        "later" => Line::Later(w.number()?, w.disposition()?),
        word => return read_ordered(word, w),
    })
}

/// A line whose place matters.
fn read_ordered(word: &str, w: &mut Words<'_>) -> Result<Line> {
    Ok(match word {
        "act" => Line::Act(w.number()?, w.disposition()?),
        "altstack" => {
            let thread = w.number()?;
            let size = match w.next()? {
                "none" => return Ok(Line::Altstack(thread, None)),
                size => number(size)?,
            };
            let autodisarm = match w.0.next() {
                None => false,
                Some("autodisarm") => true,
                Some(word) => bail!("{word:?} is not understood"),
            };
            Line::Altstack(thread, Some((size, autodisarm)))
        }
        "limit" => Line::Limit(w.number()?, w.0.next().map(number).transpose()?),
        "queue" => Line::Queue(w.queue()?, w.entry()?),
        "bit" => Line::Bit(w.queue()?, w.number()?),
        "timer" => Line::Timer(w.timer()?),
        "timer-set" => Line::TimerSet(w.number()?, w.number()?, w.number()?),
        "timer-wait" => Line::TimerWait(w.number()?),
        "timer-delete" => Line::TimerDelete(w.number()?),
        "itimer" => Line::Itimer(w.word()?, w.number()?, w.number()?),
        "itimer-wait" => Line::ItimerWait(w.word()?),
        "timerfd" => Line::Timerfd(w.number()?, w.word()?, w.number()?, w.number()?),
        "burn" => Line::Burn(w.number()?, w.number()?),
        "child" => w.child()?,
        "child-act" => Line::ChildAct(w.number()?, w.number()?, w.disposition()?),
        "child-mask" => Line::ChildMask(w.number()?, w.hex()?),
        "child-queue" => Line::ChildQueue(w.number()?, w.queue()?, w.entry()?),
        "child-send" => Line::ChildSend(w.number()?, w.number()?),
        word => bail!("{word:?} is no directive"),
    })
}

impl FromStr for Plan {
    type Err = anyhow::Error;

    /// Reads a plan. Comments are not kept.
    fn from_str(text: &str) -> Result<Self> {
        let mut lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        ensure!(
            lines.next() == Some(HEADER),
            "the first line is not {HEADER:?}"
        );
        let lines = lines.map(str::parse).collect::<Result<_>>()?;
        Ok(Plan { lines })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn comments_and_spaces_are_nothing() {
        let plan: Plan = "# a\nplan 1\n\n  uid   7 # \n".parse().unwrap_or_default();
        assert_eq!(plan, Plan::default(), "a comment has a line of its own");
        let plan: Plan = "# a\nplan 1\n\n  uid   7 \n# b\n".parse().unwrap();
        assert_eq!(plan.lines, [Line::Uid(7)]);
    }

    #[test]
    fn what_is_no_plan() {
        for bad in [
            "",
            "plan 2\n",
            "plan 1\nthread\n",
            "plan 1\nthread 256\n",
            "plan 1\nthread 1 1\n",
            "plan 1\nqueue shared 1 0 0 abc\n",
            "plan 1\nwait 0 poll none for=1\n",
            "plan 1\nsing 0\n",
        ] {
            assert!(bad.parse::<Plan>().is_err(), "{bad:?}");
        }
    }

    fn queue() -> impl Strategy<Value = Queue> {
        prop_oneof![Just(Queue::Shared), any::<u8>().prop_map(Queue::Private)]
    }

    fn disposition() -> impl Strategy<Value = Disposition> {
        let action = prop_oneof![
            Just(Action::Default),
            Just(Action::Ignore),
            Just(Action::Handler),
            any::<u64>().prop_map(Action::Address),
        ];
        (action, any::<u64>(), any::<u64>()).prop_map(|(action, flags, mask)| Disposition {
            action,
            flags,
            mask,
        })
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let raw = prop::collection::vec(any::<u8>(), 0..40);
        (any::<u8>(), any::<i32>(), any::<i32>(), raw, 1u32..).prop_map(
            |(signal, code, errno, raw, count)| Entry {
                signal,
                code,
                errno,
                raw,
                count,
            },
        )
    }

    fn timer() -> impl Strategy<Value = Timer> {
        let clock = prop_oneof![
            prop::sample::select(Clock::ALL).prop_map(TimerClock::Named),
            any::<u8>().prop_map(TimerClock::CpuOf),
        ];
        let notify = prop_oneof![
            Just(Notify::Signal),
            Just(Notify::None),
            any::<u8>().prop_map(Notify::Thread),
        ];
        let who = (any::<u8>(), any::<u8>(), clock, notify);
        (who, any::<u8>(), any::<u32>(), any::<u64>(), any::<u64>()).prop_map(
            |((id, by, clock, notify), signal, value, first, interval)| Timer {
                id,
                by,
                clock,
                notify,
                signal,
                value,
                first,
                interval,
            },
        )
    }

    fn wait() -> impl Strategy<Value = Wait> {
        (
            any::<u8>(),
            prop::sample::select(Call::ALL),
            any::<Option<u32>>(),
            any::<Option<u8>>(),
            any::<Option<u64>>(),
            any::<Option<u64>>(),
            any::<bool>(),
        )
            .prop_map(|(thread, call, timeout, end, mask, set, rem)| Wait {
                thread,
                call,
                timeout,
                end,
                mask,
                set,
                rem,
            })
    }

    fn child() -> impl Strategy<Value = ChildKind> {
        prop_oneof![
            Just(ChildKind::Running),
            any::<u8>().prop_map(ChildKind::Stopped),
            any::<u8>().prop_map(ChildKind::Continued),
            any::<u8>().prop_map(ChildKind::Zombie),
            any::<u8>().prop_map(ChildKind::Killed),
        ]
    }

    fn line() -> impl Strategy<Value = Line> {
        let n = any::<u8>;
        prop_oneof![
            any::<u32>().prop_map(Line::Uid),
            Just(Line::Userns),
            Just(Line::Pidns),
            n().prop_map(Line::Thread),
            (n(), any::<u64>()).prop_map(|(a, b)| Line::Mask(a, b)),
            (n(), n()).prop_map(|(a, b)| Line::Inside(a, b)),
            wait().prop_map(Line::Wait),
            Just(Line::LeaderExits),
            n().prop_map(Line::Vfork),
            (any::<Option<u8>>(), prop::sample::select(Filter::ALL))
                .prop_map(|(a, b)| Line::Seccomp(a, b)),
            n().prop_map(Line::Stopped),
            (queue(), n()).prop_map(|(a, b)| Line::Due(a, b)),
            prop::sample::select(Refused::ALL).prop_map(Line::Refuse),
            prop::sample::select(End::ALL).prop_map(Line::End),
            (n(), disposition()).prop_map(|(a, b)| Line::Later(a, b)),
            (n(), disposition()).prop_map(|(a, b)| Line::Act(a, b)),
            (n(), any::<Option<(u64, bool)>>()).prop_map(|(a, b)| Line::Altstack(a, b)),
            (any::<u64>(), any::<Option<u64>>()).prop_map(|(a, b)| Line::Limit(a, b)),
            (queue(), entry()).prop_map(|(a, b)| Line::Queue(a, b)),
            (queue(), n()).prop_map(|(a, b)| Line::Bit(a, b)),
            timer().prop_map(Line::Timer),
            (n(), any::<u64>(), any::<u64>()).prop_map(|(a, b, c)| Line::TimerSet(a, b, c)),
            n().prop_map(Line::TimerWait),
            n().prop_map(Line::TimerDelete),
            (
                prop::sample::select(Itimer::ALL),
                any::<u64>(),
                any::<u64>()
            )
                .prop_map(|(a, b, c)| Line::Itimer(a, b, c)),
            prop::sample::select(Itimer::ALL).prop_map(Line::ItimerWait),
            (
                n(),
                prop::sample::select(Clock::ALL),
                any::<u64>(),
                any::<u64>()
            )
                .prop_map(|(a, b, c, d)| Line::Timerfd(a, b, c, d)),
            (n(), any::<u64>()).prop_map(|(a, b)| Line::Burn(a, b)),
            (n(), child(), any::<bool>()).prop_map(|(a, b, c)| Line::Child(a, b, c)),
            (n(), n(), disposition()).prop_map(|(a, b, c)| Line::ChildAct(a, b, c)),
            (n(), any::<u64>()).prop_map(|(a, b)| Line::ChildMask(a, b)),
            (n(), entry()).prop_map(|(a, b)| Line::ChildQueue(a, Queue::Private(0), b)),
            (n(), n()).prop_map(|(a, b)| Line::ChildSend(a, b)),
        ]
    }

    proptest! {
        #[test]
        fn a_plan_is_read_as_it_was_written(lines in prop::collection::vec(line(), 0..20)) {
            let plan = Plan { lines };
            prop_assert_eq!(plan.to_string().parse::<Plan>().unwrap(), plan);
        }
    }
}
