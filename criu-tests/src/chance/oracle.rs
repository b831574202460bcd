//! What a program reports, compared with what it reports when nobody has checkpointed it.
//!
//! Lines are compared word by word; words that begin with `~` depend on the clock, and are judged by how much more time
//! has passed from "ready" to GO than in the control: it may have passed for the program, or it may not (a timer's rest
//! is kept from dump to restore). Everything is compared with the shorter of two controls, which have to agree.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::chance::plan::{Line as PlanLine, Plan};

/// What a difference is about: what has to be said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum About {
    /// Queues, bits, what is delivered.
    Pending,
    /// Dispositions.
    Action,
    /// Masks, alternate stacks, what a handler sees.
    Thread,
    /// RLIMIT_SIGPENDING.
    Limit,
    /// POSIX timers.
    Timer,
    /// Interval timers, timerfd.
    OtherTimer,
    /// Waiting calls.
    Call,
    /// Children and their statuses.
    Child,
    /// What the command said or did.
    Command,
    /// The program itself: gone, silent, not restored, somebody else.
    Life,
}

impl About {
    fn of(line: &str) -> About {
        match line.split(' ').next().unwrap_or_default() {
            "list" | "bits" | "take" | "log" | "status" => About::Pending,
            "act" => About::Action,
            "thread" | "inside" => About::Thread,
            "limit" | "refused" => About::Limit,
            "timer" | "alive" | "ticks" => About::Timer,
            "itimer" | "timerfd" => About::OtherTimer,
            "wait" => About::Call,
            "child" => About::Child,
            _ => About::Life,
        }
    }

    /// A warning, an error or a notice with one of these in it says it.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            About::Pending => &[
                "pending",
                "queue",
                "siginfo",
                "taken out",
                "lost",
                "overrun",
                "timer",
            ],
            About::Action => &["disposition", "action", "handler"],
            About::Thread => &["mask", "stack", "blocked"],
            About::Limit => &["RLIMIT_SIGPENDING", "limit"],
            About::Timer => &["timer", "overrun"],
            About::OtherTimer => &["timer"],
            About::Call => &["timeout", "EINTR", "call"],
            About::Child => &["child", "wait status", "waited for", "stop"],
            About::Command | About::Life => &[""],
        }
    }
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What it is about.
    pub about: About,
    /// What the control says; empty for a line that is new.
    pub control: String,
    /// What was found; empty for a line that is missing.
    pub found: String,
}

impl Difference {
    /// Only the time is not as in the control, and that may be the machine's.
    pub fn is_of_time(&self) -> bool {
        self.control.contains(" ~")
    }

    /// The same, or the same with about the same time.
    pub fn is_like(&self, other: &Difference) -> bool {
        /// A line, and the time in it.
        fn parts(line: &str) -> (&str, Option<i128>) {
            let Some((line, time)) = line.split_once(" ~") else {
                return (line, None);
            };
            let time = time.split_once('=').map(|(_, time)| time);
            let time = time.and_then(|time| time.split(' ').next());
            (line, time.and_then(|time| time.parse().ok()))
        }
        let like = |one: &str, other: &str| {
            let ((line, time), (other, then)) = (parts(one), parts(other));
            line == other
                && match (time, then) {
                    (Some(time), Some(then)) => (time - then).abs() <= ALIKE,
                    (time, then) => time == then,
                }
        };
        self.about == other.about
            && like(&self.control, &other.control)
            && like(&self.found, &other.found)
    }

    /// An entry of a queue is missing, or is there and ought not to be, and no timer has left it.
    pub fn is_of_no_timer(&self) -> bool {
        let code = |line: &str| {
            let mut words = line.trim_start_matches(IN_THIS_PLACE).split(' ');
            let is_entry = words
                .next()
                .is_some_and(|word| word == "list" || word == "take");
            is_entry.then(|| {
                words
                    .nth(1)
                    .and_then(|info| Some(info.get(16..24)? == SI_TIMER))
            })
        };
        code(&self.control).or_else(|| code(&self.found)) == Some(Some(false))
    }
}

/// As the third word of a siginfo is written.
const SI_TIMER: &str = "feffffff";
/// Of two that have changed places.
const IN_THIS_PLACE: &str = "in this place: ";

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}: right {:?}, found {:?}",
            self.about, self.control, self.found
        )
    }
}

/// Scheduling alone may make times differ by so much, on a busy machine.
const SLACK: i128 = 400_000_000;
/// Times of two runs that came out in the same way differ by no more, in nanoseconds.
const ALIKE: i128 = 1_000_000_000;
/// Of timers that expire after half a minute at the earliest.
const FAR: i128 = 6_000_000_000;
/// And counts of what ticks by so many ticks' time less.
const LESS: i128 = 60_000_000;
/// Nothing ends so much too early.
const EARLY: i128 = 20_000_000;
/// Intervals below this tick while a run lasts.
const TICKS: i128 = 2_000_000_000;
/// Of each kind no more are written down.
const MOST: usize = 6;

/// A line of a report.
#[derive(Debug, Clone)]
struct Line {
    text: String,
    clock: Vec<(String, Span)>,
}

/// The least and the most that a control has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    least: i128,
    most: i128,
}

/// A whole report, or what two controls have in common.
#[derive(Debug, Clone)]
pub struct Report {
    lines: Vec<Line>,
    /// Nanoseconds from "ready" to GO.
    waited: i128,
    /// From its start until its queues had been taken.
    taken: i128,
    /// From GO until ticks were counted.
    counted: i128,
    /// The smallest interval of the timers that tick, if any does.
    tick: Option<i128>,
    /// Of calls with a relative timeout, by the thread.
    timeouts: BTreeMap<String, i128>,
    /// How the handlers of signals that end waiting calls are logged: by the beginning of the line.
    ends: Vec<String>,
}

impl Report {
    /// Reads one. Lines that are not understood are compared as they stand.
    pub fn read(text: &str) -> Report {
        let lines: Vec<Line> = text.lines().map(read_line).collect();
        let clock: BTreeMap<&str, i128> = lines
            .iter()
            .filter(|line| line.text == "clock" || line.text == "age")
            .flat_map(|line| {
                line.clock
                    .iter()
                    .map(|(name, at)| (name.as_str(), at.least))
            })
            .collect();
        let at = |name| clock.get(name).copied().unwrap_or(0);
        let tick = lines
            .iter()
            .filter_map(interval)
            .filter(|&interval| interval > 0 && interval < TICKS)
            .min();
        Report {
            waited: at("go") - at("ready"),
            taken: at("taken"),
            counted: at("counted"),
            tick,
            timeouts: BTreeMap::new(),
            ends: Vec::new(),
            lines,
        }
    }

    /// The same, of this plan: no call ends before its timeout, however late that was in the controls. A signal that ends a call
    /// is sent to a thread that waits in it, so that the handler is not called where the call has ended before.
    pub fn of_plan(mut self, plan: &Plan) -> Report {
        for line in &plan.lines {
            let PlanLine::Wait(wait) = line else {
                continue;
            };
            if let Some(ms) = wait.timeout {
                let ns = i128::from(ms) * 1_000_000;
                self.timeouts.insert(wait.thread.to_string(), ns);
            }
            let end = wait.end.map(|end| format!("log {} {end} ", wait.thread));
            self.ends.extend(end);
        }
        self
    }

    /// Whether it has come to its end.
    pub fn is_whole(&self) -> bool {
        self.lines.last().is_some_and(|line| line.text == "done")
    }

    /// Lines by where their order matters.
    fn by_place(&self) -> BTreeMap<(&str, u32), Vec<&str>> {
        let mut found: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for line in &self.lines {
            for place in places(&line.text) {
                found.entry(place).or_default().push(&line.text);
            }
        }
        found
    }

    /// What this and another control agree in. `Err`: they do not, for instance here.
    pub fn agreed(mut self, other: &Report) -> Result<Report, Difference> {
        let mut found = Vec::new();
        // Times are as they are: the machine may have been busy.
        self.matching(other, &mut found);
        if found.is_empty() {
            found = order(&self, other);
        }
        if let Some(first) = found.into_iter().next() {
            return Err(first);
        }
        self.taken = self.taken.min(other.taken);
        for (line, other) in self.lines.iter_mut().zip(&other.lines) {
            for ((_, ours), (_, theirs)) in line.clock.iter_mut().zip(&other.clock) {
                ours.least = ours.least.min(theirs.least);
                ours.most = ours.most.max(theirs.most);
            }
        }
        Ok(self)
    }

    /// How long the program waited from "ready" to GO.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.waited).unwrap_or(0))
    }

    /// What is not as in the control.
    pub fn differences(&self, control: &Report) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut clocks = control.matching(self, &mut found);
        if found.is_empty() {
            found = order(control, self);
        }
        let is_end = |line: &str| control.ends.iter().any(|end| line.starts_with(end));
        for missing in found.iter_mut().filter(|d| d.found.is_empty()) {
            if is_end(&missing.control) {
                missing.about = About::Call;
            }
        }
        masks_of_ended_calls(&mut found);
        found.append(&mut clocks);
        cut(found)
    }

    /// Pairs equal lines in their order, judges their clock words, and says which lines have no partner.
    fn matching(&self, run: &Report, unpaired: &mut Vec<Difference>) -> Vec<Difference> {
        let mut ours: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
        for line in self.lines.iter().rev() {
            ours.entry(&line.text).or_default().push(line);
        }
        let mut clocks = Vec::new();
        let mut new = Vec::new();
        for line in &run.lines {
            match ours.get_mut(line.text.as_str()).and_then(Vec::pop) {
                Some(right) => clocks.extend(self.judge(run, right, line)),
                None => new.push(line),
            }
        }
        for line in &self.lines {
            let missing = ours.get_mut(line.text.as_str()).is_some_and(|left| {
                let at = left.iter().position(|left| std::ptr::eq(*left, line));
                at.map(|at| left.remove(at)).is_some()
            });
            if missing {
                // The line that has taken its place, if there is one.
                let key = key(&line.text);
                let at = new.iter().position(|new| self::key(&new.text) == key);
                let other = at.map_or(String::new(), |at| new.remove(at).text.clone());
                unpaired.push(difference(&line.text, &other));
            }
        }
        unpaired.extend(new.iter().map(|line| difference("", &line.text)));
        clocks
    }

    /// Half of the ticks that a timer has time for after GO, and those before. Of a clock of CPU time that is many.
    fn ticks_by_time(&self, run: &Report, found: &Line) -> i128 {
        let name = |line: &Line| line.text.split(' ').nth(1).map(str::to_owned);
        let id = name(found);
        let of_it = self.lines.iter().filter(|line| name(line) == id);
        let interval = of_it.filter_map(interval).find(|&interval| interval > 0);
        let go = found.clock.iter().find(|(is, _)| is == "go");
        match (interval, go) {
            (Some(interval), Some((_, go))) => go.least + run.counted / interval / 2 - 3,
            _ => i128::MAX,
        }
    }

    /// The clock words of two lines that are equal but for them.
    fn judge(&self, run: &Report, right: &Line, found: &Line) -> Option<Difference> {
        let more = (run.waited - self.waited).max(0);
        // What counts from an expiry on does so in the set-up and while the program looks at itself, too.
        let older = more.max(run.taken - self.taken);
        let tick = interval(right).filter(|&i| i > 0 && i < TICKS);
        let right_text = right.text.as_str();
        let word = right_text.split(' ').next().unwrap_or_default();
        // An entry does not say how often its timer ticks.
        let others_tick = self.tick.filter(|_| !word.starts_with("timer"));
        let bounds = |name: &str, right: Span| -> Option<(i128, i128)> {
            let Span { least, most } = right;
            match (word, name) {
                ("timer" | "itimer" | "timerfd", "left") => Some(match tick {
                    // Its first expiry was far away, or is over.
                    Some(tick) if least <= tick => (0, tick + SLACK),
                    _ => (least - more - FAR, most + SLACK),
                }),
                ("wait", "left") => Some((least - more - SLACK, most + SLACK)),
                // Others are ended when it is their turn.
                ("wait", "took") if !by_timeout(&found.text) => None,
                // What is absolute is shorter where it was begun later.
                ("wait", "took") if is_absolute(&found.text) => Some((0, most + more + SLACK)),
                ("wait", "took") => {
                    let thread = right_text.split(' ').nth(1).unwrap_or_default();
                    let timeout = self.timeouts.get(thread).copied().unwrap_or(least);
                    Some((least.min(timeout) - EARLY, most + more + SLACK))
                }
                // As many as there is time for after GO, or half as many as in the control: that one may have had more time.
                ("ticks", "end") => Some((
                    (least / 2 - 3).min(self.ticks_by_time(run, found)),
                    i128::MAX,
                )),
                (_, "overrun" | "ticks") => Some(match tick.or(others_tick) {
                    Some(tick) => (
                        least - LESS / tick - 2 - least / 4,
                        most + (older + SLACK) / tick + 2 + most / 4,
                    ),
                    None => (least, most),
                }),
                _ => None,
            }
        };
        for (name, at) in &right.clock {
            let other = found.clock.iter().find(|(is, _)| is == name);
            let other = other.map(|(_, other)| other.least);
            let Some((low, high)) = bounds(name, *at) else {
                continue;
            };
            if other.is_none_or(|other| other < low || other > high) {
                let said = other.map_or("nothing".to_owned(), |other| other.to_string());
                let mut found = difference(
                    &format!("{} ~{name}={}", right.text, at.least),
                    &format!("{} ~{name}={said}", right.text),
                );
                found.found += &format!(" ({low} to {high} is right)");
                return Some(found);
            }
        }
        None
    }
}

/// Whether a call has an absolute timeout.
fn is_absolute(line: &str) -> bool {
    let call = line.split(' ').nth(2).unwrap_or_default();
    [
        "clock_nanosleep_abs",
        "futex_bitset",
        "futex_lock_pi",
        "mq_receive",
    ]
    .contains(&call)
}

/// Whether a call has come to its end by its timeout.
fn by_timeout(line: &str) -> bool {
    let ends = ["errno=110", "errno=11"];
    let sleeps = ["nanosleep", "poll", "select", "epoll", "ppoll", "pselect"];
    let mut words = line.split(' ').skip(2);
    let call = words.next().unwrap_or_default();
    let none = line.contains(" ret=0 errno=0") && sleeps.iter().any(|name| call.contains(name));
    none || line.split(' ').any(|word| ends.contains(&word))
}

fn difference(control: &str, found: &str) -> Difference {
    let about = About::of(if control.is_empty() { found } else { control });
    Difference {
        about,
        control: control.to_owned(),
        found: found.to_owned(),
    }
}

/// The same lines, but not in the same order. Entries of different numbers may stand in a queue's list in any order: no
/// call tells a process of it, but for the signals in a thread's own queue that the kernel takes first wherever they stand,
/// by their place.
fn order(control: &Report, run: &Report) -> Vec<Difference> {
    let (right, found) = (control.by_place(), run.by_place());
    let mut all = right.iter().flat_map(|(place, right)| {
        let found = found.get(place).map_or(&[][..], Vec::as_slice);
        right
            .iter()
            .zip(found)
            .filter(|(right, found)| right != found)
    });
    let first = all.next().map(|(right, found)| difference(right, found));
    first
        .into_iter()
        .map(|mut difference| {
            difference.control = format!("{IN_THIS_PLACE}{}", difference.control);
            difference
        })
        .collect()
}

/// `dequeue_synchronous_signal` takes the first of these in a thread's own list that has a code above 0. It does not look at
/// the shared list, of which `next_signal` takes the lowest of these numbers first (kernel/signal.c).
const SYNCHRONOUS: [u32; 6] = [4, 5, 7, 8, 11, 31];

/// Where the place of an entry in a list matters: among those of its queue and number, and in a thread's own among the
/// synchronous.
fn places(line: &str) -> Vec<(&str, u32)> {
    let mut words = line.split(' ');
    if words.next() != Some("list") {
        return vec![("", 0)];
    }
    let queue = words.next().unwrap_or_default();
    let info = words.next().unwrap_or_default();
    // In memory order, without the zero bytes at the end.
    let word = |at: usize| {
        let bytes = (0..4).map(|byte| {
            let digits = info.get(at + 2 * byte..at + 2 * byte + 2);
            digits.map_or(Ok(0), |digits| u8::from_str_radix(digits, 16))
        });
        let bytes: Vec<u8> = bytes.map(Result::unwrap_or_default).collect();
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    };
    let (signal, code) = (word(0), word(16).cast_signed());
    let mut places = vec![(queue, signal)];
    if queue != "shared" && SYNCHRONOUS.contains(&signal) && code > 0 {
        places.push((queue, 0));
    }
    places
}

/// What tells which line of a report it is.
fn key(text: &str) -> String {
    let words = match text.split(' ').next().unwrap_or_default() {
        "list" | "take" | "log" => 2,
        "status" | "bits" | "act" | "timer" | "timerfd" | "itimer" | "thread" | "alive"
        | "ticks" => 2,
        "child" | "wait" | "inside" => 3,
        _ => 1,
    };
    let all: Vec<&str> = text.split(' ').take(words).collect();
    all.join(" ")
}

fn read_line(text: &str) -> Line {
    let mut words = Vec::new();
    let mut clock: Vec<(String, i128)> = Vec::new();
    for word in text.split(' ') {
        let value = word.strip_prefix('~').and_then(|word| word.split_once('='));
        match value.and_then(|(name, value)| Some((name, value.parse().ok()?))) {
            Some((name, value)) => clock.push((name.to_owned(), value)),
            None => words.push(word),
        }
    }
    // It sleeps, or is on its way to or from that.
    if let ["child", _, "state", state @ "R"] = words.as_mut_slice() {
        *state = "S";
    }
    // The number of the delivery: its place among the lines tells that, and one that is missing moves no others.
    if let ["log", thread, _, _, ..] = words.as_slice()
        && *thread != "lost"
    {
        words.remove(2);
    }
    let at = |name| clock.iter().find(|(is, _)| is == name).map(|(_, at)| *at);
    // How long a call has taken does not depend on when it was made.
    if let (Some(entered), Some(returned)) = (at("entered"), at("returned")) {
        clock.push(("took".to_owned(), returned - entered));
    }
    let span = |value| Span {
        least: value,
        most: value,
    };
    Line {
        text: words.join(" "),
        clock: clock
            .into_iter()
            .map(|(name, value)| (name, span(value)))
            .collect(),
    }
}

/// Of a line that says one of a timer.
fn interval(line: &Line) -> Option<i128> {
    let mut words = line.text.split(' ');
    let nth = match words.next()? {
        "timer" => 2,
        "itimer" | "timerfd" => 1,
        _ => return None,
    };
    words.nth(nth)?.parse().ok()
}

/// A thread whose call has ended has its own mask in force, and not that of the call: the mask is what the end of the call has
/// made of it.
fn masks_of_ended_calls(found: &mut [Difference]) {
    let thread_of = |line: &str, what: &str| {
        let (first, rest) = line.split_once(' ')?;
        (first == what).then(|| rest.split(' ').next().unwrap_or_default().to_owned())
    };
    let without_mask = |line: &str| line.split_once(" SigBlk=").map(|(rest, _)| rest.to_owned());
    let ended: Vec<String> = found
        .iter()
        .filter(|one| one.about == About::Call && !one.found.is_empty())
        .filter_map(|one| thread_of(&one.control, "wait"))
        .collect();
    for one in found {
        let thread = thread_of(&one.control, "status");
        let is_of_ended = thread.is_some_and(|thread| ended.contains(&thread));
        if is_of_ended && without_mask(&one.control) == without_mask(&one.found) {
            one.about = About::Call;
        }
    }
}

/// A queue that is gone is many lines. How a child has ended is one of the last, and tells why all of its other lines are missing.
fn cut(differences: Vec<Difference>) -> Vec<Difference> {
    let mut counts: BTreeMap<About, usize> = BTreeMap::new();
    let is_end = |line: &str| line.starts_with("child ") && line.split(' ').nth(2) == Some("then");
    differences
        .into_iter()
        .filter(|difference| {
            let count = counts.entry(difference.about).or_default();
            *count += 1;
            *count <= MOST || is_end(&difference.control) || is_end(&difference.found)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: &str = "report 1 bits 64
clock ~ready=1000000000 ~ready_boot=1000000000 ~go=1000100000 ~go_boot=1000100000
limit 100 100
act 10 handler 0 0 own
timer 0 armed 0 ~left=50000000000 ~overrun=0
timer 1 armed 10000000 ~left=5000000 ~overrun=3
wait 1 poll ret=0 errno=0 ~entered=900000000 ~returned=1200000000
list shared aa
list shared bb
list shared aa
done";

    fn found(change: impl FnOnce(String) -> String) -> Vec<Difference> {
        let control = Report::read(CONTROL);
        assert!(control.is_whole());
        Report::read(&change(CONTROL.to_owned())).differences(&control)
    }

    /// A checkpoint of 0.3 s.
    fn later(text: String) -> String {
        text.replace("~go=1000100000", "~go=1300100000")
    }

    #[test]
    fn time_that_has_passed_is_no_difference() {
        assert_eq!(found(|text| text), []);
        assert_eq!(
            found(|text| {
                later(text)
                    .replace("~left=50000000000", "~left=49700000000")
                    .replace("~overrun=3", "~overrun=33")
                    .replace("~returned=1200000000", "~returned=1500000000")
            }),
            []
        );
        // The rest of a timer is kept from dump to restore.
        assert_eq!(found(later), []);
    }

    #[test]
    fn what_the_clock_does_not_explain_is() {
        for (right, wrong, about) in [
            ("~left=50000000000", "~left=51000000000", About::Timer),
            ("~left=50000000000", "~left=0", About::Timer),
            ("~overrun=0", "~overrun=1", About::Timer),
            ("~returned=1200000000", "~returned=1100000000", About::Call),
            ("~returned=1200000000", "~returned=2100000000", About::Call),
            ("limit 100 100", "limit 100 101", About::Limit),
            ("act 10 handler", "act 10 default", About::Action),
        ] {
            let differences = found(|text| later(text).replacen(right, wrong, 1));
            assert_eq!(differences.len(), 1, "{wrong}: {differences:?}");
            assert_eq!(differences[0].about, about);
        }
    }

    #[test]
    fn as_many_ticks_as_there_is_time_for() {
        let report = |counted: u64, end: u64| {
            let ticks = format!(
                "ticks 1 ~ready=10 ~go=12 ~end={end}\nage ~taken=5000000 ~counted={counted}\ndone"
            );
            Report::read(&CONTROL.replace("done", &ticks))
        };
        let control = report(1_000_000_000, 112);
        let differences = |run: Report| run.differences(&control).len();
        assert_eq!(differences(report(300_000_000, 42)), 0);
        assert_eq!(differences(report(300_000_000, 12)), 1);
        assert_eq!(differences(report(1_000_000_000, 42)), 1);
    }

    #[test]
    fn overruns_of_a_slow_set_up_are_no_difference() {
        let report = |taken: u64, overrun: u64| {
            let age = format!("age ~taken={taken} ~counted=1\ndone");
            let text = CONTROL.replace("done", &age);
            Report::read(&text.replace("~overrun=3", &format!("~overrun={overrun}")))
        };
        let control = report(1_000_000_000, 3);
        let differences = |run: Report| run.differences(&control).len();
        assert_eq!(differences(report(3_000_000_000, 203)), 0);
        assert_eq!(differences(report(1_000_000_000, 203)), 1);
    }

    #[test]
    fn a_call_that_takes_its_timeout_is_not_early() {
        let plan = "plan 1\nwait 1 poll 250\n".parse().expect("a plan");
        let control = Report::read(CONTROL).of_plan(&plan);
        let took = |ns: u64| {
            let text = CONTROL.replace("~returned=1200000000", &format!("~returned={ns}"));
            Report::read(&text).differences(&control).len()
        };
        // The control was 50 ms late.
        assert_eq!(took(1_150_000_000), 0);
        assert_eq!(took(1_100_000_000), 1);
    }

    #[test]
    fn what_is_like_another_difference() {
        let left = |found: i128| {
            let found = format!("itimer real 5 armed ~left={found} (1 to 2 is right)");
            difference("itimer real 5 armed ~left=260000000000", &found)
        };
        assert!(left(268_600_000_000).is_like(&left(268_800_000_000)));
        assert!(!left(268_600_000_000).is_like(&left(258_600_000_000)));
        let entry = |found| difference("list 0 cc", found);
        assert!(entry("").is_like(&entry("")) && !entry("").is_like(&entry("list 0 dd")));
        assert!(!left(1).is_like(&entry("")));
    }

    #[test]
    fn controls_agree_in_a_span() {
        let control = Report::read(CONTROL);
        let slower = CONTROL.replace("~returned=1200000000", "~returned=1300000000");
        let agreed = Report::read(&slower)
            .agreed(&control)
            .expect("the clock is all that differs");
        assert_eq!(control.differences(&agreed), []);
        let early = Report::read(&CONTROL.replace("~returned=1200000000", "~returned=1100000000"));
        assert_eq!(early.differences(&agreed).len(), 1);
        let other = Report::read(&CONTROL.replace("limit 100", "limit 10"));
        assert_eq!(other.agreed(&control).unwrap_err().about, About::Limit);
    }

    #[test]
    fn entries_are_missing_new_or_elsewhere() {
        let missing = found(|text| text.replacen("list shared aa\n", "", 1));
        assert_eq!(missing.len(), 1);
        assert_eq!(
            (&*missing[0].control, &*missing[0].found),
            ("list shared aa", "")
        );
        let new = found(|text| text.replace("bb\n", "bb\nlist 0 cc\n"));
        assert_eq!((&*new[0].control, &*new[0].found), ("", "list 0 cc"));
        let other = found(|text| text.replace("bb\n", "cc\n"));
        assert_eq!(
            (&*other[0].control, &*other[0].found),
            ("list shared bb", "list shared cc")
        );
    }

    #[test]
    fn a_call_that_has_ended_before_is_not_ended_by_a_signal() {
        let plan: Plan = "plan 1\nwait 0 pause none end=55\n".parse().unwrap();
        let control = Report::read("log 0 0 55 - stack=main\nlog 0 1 4 04 stack=main\ndone");
        let run = Report::read("log 0 0 4 04 stack=main\ndone");
        let about = |control: &Report| -> Vec<About> {
            let differences = run.differences(control);
            differences.iter().map(|one| one.about).collect()
        };
        assert_eq!(about(&control), [About::Pending]);
        assert_eq!(about(&control.of_plan(&plan)), [About::Call]);
    }

    #[test]
    fn order_matters_where_a_process_can_tell() {
        let moved = |lines: [&str; 3]| {
            let control = lines.join("\n");
            let run = [lines[1], lines[0], lines[2]].join("\n");
            Report::read(&run)
                .differences(&Report::read(&control))
                .len()
        };
        let (usr1, usr1_too, trap) = ("0a0000000000000000000000aa", "0a", "05000000");
        let list = |queue: &str, info: &str| format!("list {queue} {info}");
        let same = [
            list("shared", usr1),
            list("shared", usr1_too),
            "done".into(),
        ];
        assert_eq!(moved(same.each_ref().map(String::as_str)), 1);
        let other = [list("shared", usr1), list("shared", trap), "done".into()];
        assert_eq!(moved(other.each_ref().map(String::as_str)), 0);
        let (fault, kernel) = ("0b0000000000000001", "070000000000000080");
        let faults = [list("0", fault), list("0", kernel), "done".into()];
        assert_eq!(moved(faults.each_ref().map(String::as_str)), 1);
        let of_process = [list("shared", fault), list("shared", kernel), "done".into()];
        assert_eq!(moved(of_process.each_ref().map(String::as_str)), 0);
        let sent = [
            list("0", "0b00000000000000ffffffff"),
            list("0", kernel),
            "done".into(),
        ];
        assert_eq!(moved(sent.each_ref().map(String::as_str)), 0);
        assert_eq!(moved(["act 1", "act 2", "done"]), 1);
    }

    #[test]
    fn how_a_child_has_ended_is_never_cut() {
        let lost = |number: u32| Difference {
            about: About::Child,
            control: format!("child 0 act {number} handler 0 0 own"),
            found: String::new(),
        };
        let end = Difference {
            about: About::Child,
            control: "child 0 then code=2 value=9".to_owned(),
            found: "child 0 then code=2 value=5".to_owned(),
        };
        let all: Vec<_> = (1..20).map(lost).chain([end.clone()]).collect();
        let cut = cut(all);
        assert_eq!((cut.len(), cut.last()), (MOST + 1, Some(&end)));
    }

    #[test]
    fn the_mask_of_an_ended_call_is_of_the_call() {
        let one = |about, control: &str, found: &str| Difference {
            about,
            control: control.to_owned(),
            found: found.to_owned(),
        };
        let status = |thread: u8, mask: u8| format!("status {thread} SigPnd=00 SigBlk={mask:02}");
        let wait = one(
            About::Call,
            "wait 0 epoll_pwait ret=1 errno=0",
            "wait 0 epoll_pwait ret=-1 errno=4",
        );
        let mut all = [
            one(About::Pending, &status(0, 1), &status(0, 2)),
            one(About::Pending, &status(1, 1), &status(1, 2)),
            one(
                About::Pending,
                &status(0, 1),
                "status 0 SigPnd=10 SigBlk=02",
            ),
            wait,
        ];
        masks_of_ended_calls(&mut all);
        let about = all.map(|one| one.about);
        assert_eq!(
            about,
            [About::Call, About::Pending, About::Pending, About::Call]
        );
    }
}
