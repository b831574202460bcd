//! `criu-signals watch`: prints each change in the signal state of a process.

mod changes;

use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use criu_signals::bpf::process::ProcessReader;
use criu_signals::error::{Cause, Error};
use criu_signals::images::json::{self, Besides};
use criu_signals::images::{Fields, Pid, Place, Printable, SigNo};
use criu_signals::losses::by_stop::refuse_stop;
use criu_signals::proc;
use criu_signals::process::pidfd::PidFd;
use criu_signals::reading::{Read, Reading, Stopping};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet as Mask, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::context::{Context, Failure, count};
use super::source;
use super::style::{BOLD, DIM, NAME, WARN};
use changes::{Change, Entry, Number, Snapshot, What};

/// Prints each change in the signal state of a live process: signals that become pending or leave a queue, masks, dispositions,
/// alternate stacks, timers, stop and continue, threads that begin and end, the end of the process.
///
/// The process is read by BPF at an interval. It is not stopped and not traced. A change that is undone between two readings is not
/// seen; `criu-signals trace` records every signal that is sent. Values that change all the time are not printed: the remaining
/// times and the overruns of timers, and the calls that threads wait in.
///
/// The command ends when the process ends, on Ctrl-C, or as --for or --count say.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  criu-signals watch 4711
  criu-signals watch nginx --for 60
  criu-signals watch --json 4711 | jq -c 'select(.event == \"arrived\")'
  criu-signals watch --interval 0.01 --count 1 4711

Exit codes:
  0  the process has ended, or the command has ended as it was asked to
  2  the process can't be read, or does not exist")]
pub struct Watch {
    /// The process.
    #[arg(value_name = "PID", value_parser = super::context::pid)]
    pid: Pid,
    /// Print one JSON document per line. The first document has the whole state.
    #[arg(long)]
    json: bool,
    /// Seconds between two readings of the process.
    #[arg(long, value_name = "SECONDS", default_value = "0.1", value_parser = interval)]
    interval: Duration,
    /// End after this number of changes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this number of seconds.
    #[arg(long = "for", value_name = "SECONDS", value_parser = super::context::seconds)]
    time: Option<Duration>,
    /// Stop the process by ptrace(2) for each reading, where BPF is not available.
    #[arg(long)]
    stop: bool,
}

/// How often processes are read.
pub fn interval(text: &str) -> Result<Duration, String> {
    let interval = super::context::seconds(text)?;
    if !(SHORTEST..=LONGEST).contains(&interval) {
        return Err("not between 0.001 and 3600 seconds".to_owned());
    }
    Ok(interval)
}

/// In which a process can be read.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(3600);
/// How long a process that has been read may be unreadable before a line says so: a program that runs on its alternate stack just
/// now, say, is read a little later.
const UNREAD: Duration = Duration::from_secs(1);
/// How long the kernel takes at most to end the last threads of a process whose first has ended.
const ENDING: u16 = 1000;

impl Watch {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let process = PidFd::open(self.pid)?;
        let reader: Box<dyn Read> = if self.stop {
            context.work_in_child()?;
            Box::new(Stopping {
                timeout: context.timeout,
                most: None,
            })
        } else {
            let reader = ProcessReader::new()
                .map_err(|e| format!("{e}. --stop stops the process for each reading instead"))?;
            Box::new(reader)
        };
        Watcher {
            stop: signals()?,
            process,
            reader,
            out: Box::new(context.stdout()),
            changes: 0,
            readings: 0,
            options: self,
        }
        .watch(context)
    }
}

/// Ctrl-C and the like become readable.
fn signals() -> Result<SignalFd, Failure> {
    let mask: Mask = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    Ok(SignalFd::with_flags(&mask, flags)?)
}

/// Why the command ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Process,
    Signal,
    Count,
    Time,
    /// Nobody reads what is printed any more.
    Reader,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            End::Process => "process",
            End::Signal => "signal",
            End::Count => "count",
            End::Time => "time",
            End::Reader => "reader",
        }
    }
}

struct Watcher {
    options: Watch,
    process: PidFd,
    reader: Box<dyn Read>,
    stop: SignalFd,
    out: Box<dyn Write>,
    changes: u64,
    readings: u64,
}

impl Watcher {
    fn watch(mut self, context: &Context) -> Result<ExitCode, Failure> {
        let end = self.options.time.map(|time| Instant::now() + time);
        let mut before = self.first(context)?;
        self.begun(&before)?;
        // Since when the process can't be read, and whether that was said.
        let mut unread: Option<(Instant, bool)> = None;
        let why = loop {
            if let Some(why) = self.wait(end)? {
                break why;
            }
            let after = match self.read(Some(&before)) {
                Ok(after) => after,
                Err(e) if e.is_died() && self.ends()? => break End::Process,
                Err(e) => {
                    let (since, said) = *unread.get_or_insert((Instant::now(), false));
                    if !said && since.elapsed() >= UNREAD {
                        self.unread(&e)?;
                        unread = Some((since, true));
                    }
                    continue;
                }
            };
            if let Some((_, true)) = unread.take() {
                self.read_again()?;
            }
            if self.tell(&before, &after)? {
                break End::Count;
            }
            before = after;
        };
        self.end(why)?;
        Ok(ExitCode::SUCCESS)
    }

    /// A process that changes all the time is tried for as long as any command waits for a process.
    fn first(&mut self, context: &Context) -> Result<Snapshot, Failure> {
        let begun = Instant::now();
        loop {
            match self.read(None) {
                Err(e)
                    if matches!(e.cause(), Cause::Unexpected(_))
                        && begun.elapsed() < context.timeout => {}
                read => return Ok(read?),
            }
        }
    }

    fn reading(&mut self) -> criu_signals::error::Result<Reading> {
        let pid = self.options.pid;
        if self.reader.stops() {
            refuse_stop(pid)?;
        }
        self.reader.read(pid)
    }

    fn read(&mut self, before: Option<&Snapshot>) -> criu_signals::error::Result<Snapshot> {
        let pid = self.options.pid;
        let mut reading = self.reading()?;
        // The number may be another's now.
        self.process.check()?;
        let known = before.filter(|b| b.process().dispositions == reading.process.dispositions);
        let names = match known {
            Some(before) => before.names.clone(),
            None => {
                // From before the reading: addresses of one program mean nothing in the next.
                let program = proc::auxiliary_vector(pid);
                reading = self.reading()?;
                source::names_of_live(pid, &reading, program).unwrap_or_default()
            }
        };
        self.readings += 1;
        let surroundings = reading.surroundings.clone();
        let recorded = reading.recorded()?;
        Ok(Snapshot {
            recorded,
            surroundings,
            names,
        })
    }

    /// Up to the next reading, or to what comes first.
    fn wait(&mut self, end: Option<Instant>) -> Result<Option<End>, Failure> {
        let next = Instant::now() + self.options.interval;
        loop {
            let now = Instant::now();
            if end.is_some_and(|end| now >= end) {
                return Ok(Some(End::Time));
            }
            if now >= next {
                return Ok(None);
            }
            let until = end.map_or(next, |end| end.min(next));
            // A part of a millisecond is a whole one: zero would not wait at all.
            let left = until
                .saturating_duration_since(now)
                .as_micros()
                .div_ceil(1000);
            if let Some(why) = self.poll(u16::try_from(left).unwrap_or(u16::MAX))? {
                return Ok(Some(why));
            }
        }
    }

    fn poll(&self, milliseconds: u16) -> Result<Option<End>, Failure> {
        let stdout = io::stdout();
        let mut fds = vec![
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            // Only that it is closed at the other end.
            PollFd::new(stdout.as_fd(), PollFlags::empty()),
        ];
        if let Some(fd) = self.process.as_fd() {
            fds.push(PollFd::new(fd, PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::from(milliseconds)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Box::new(errno)),
        }
        let has = |n: usize, flags| {
            let events = fds.get(n).and_then(PollFd::revents);
            events.is_some_and(|events: PollFlags| events.intersects(flags))
        };
        if has(2, PollFlags::POLLIN) || fds.len() == 2 && self.process.check().is_err() {
            return Ok(Some(End::Process));
        }
        if has(1, PollFlags::POLLERR) {
            return Ok(Some(End::Reader));
        }
        Ok(self.stop.read_signal()?.map(|_| End::Signal))
    }

    /// Has the process, whose first thread has ended, ended with all its threads?
    fn ends(&self) -> Result<bool, Failure> {
        Ok(self.poll(ENDING)? == Some(End::Process))
    }

    // ---- what is printed ---------------------------------------------------------------------------------------------

    fn line(
        &mut self,
        mut document: Value,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let now = SystemTime::now();
        let utc = humantime::format_rfc3339_micros(now);
        if self.options.json {
            document["utc"] = utc.to_string().into();
            document["time"] = monotonic().into();
            writeln!(self.out, "{document}")
        } else {
            write!(self.out, "{DIM}{utc}{DIM:#} ")?;
            text(&mut self.out)?;
            writeln!(self.out)
        }
    }

    fn begun(&mut self, snapshot: &Snapshot) -> Result<(), Failure> {
        let process = snapshot.process();
        let pid = self.options.pid;
        let by = if self.reader.stops() { "ptrace" } else { "BPF" };
        let mut document = json!({"event": "begin", "pid": pid.get(), "by": by});
        if self.options.json {
            let besides = Besides {
                names: &snapshot.names,
                ..Besides::default()
            };
            let state = json::to_json_line(&snapshot.recorded, &besides)?;
            document["state"] = serde_json::from_str(&state)?;
        }
        let threads = count(process.threads.len(), "thread", "threads");
        let entries: usize = process.queues().map(|pending| pending.queue.len()).sum();
        let entries = count(entries, "pending entry", "pending entries");
        let (name, state) = (&process.comm, process.run_state);
        self.line(document, |out| {
            write!(
                out,
                "watching process {pid} ({NAME}{name}{NAME:#}) by {by}: {state}, {threads}, {entries}"
            )
        })?;
        Ok(self.out.flush()?)
    }

    /// Prints all that has changed. `true`: as many changes as wanted are printed.
    fn tell(&mut self, before: &Snapshot, after: &Snapshot) -> Result<bool, Failure> {
        for change in changes::between(before, after) {
            let document = document(&change);
            self.line(document, |out| print(out, &change))?;
            self.changes += 1;
            if self.options.count == Some(self.changes) {
                return Ok(true);
            }
        }
        self.out.flush()?;
        Ok(false)
    }

    fn unread(&mut self, error: &Error) -> io::Result<()> {
        let why = error.to_string();
        let document = json!({"event": "unreadable", "why": why});
        self.line(document, |out| {
            let why = Printable::from(why.as_str());
            write!(out, "{WARN}can't be read{WARN:#} for the time being: {why}")
        })?;
        self.out.flush()
    }

    fn read_again(&mut self) -> io::Result<()> {
        let document = json!({"event": "readable"});
        self.line(document, |out| write!(out, "can be read again"))
    }

    fn end(&mut self, why: End) -> io::Result<()> {
        if why == End::Reader {
            return Ok(());
        }
        if why == End::Process {
            // While it is a zombie, its number is its own.
            let status = proc::exit_status(self.options.pid);
            let status = status.filter(|_| self.process.check().is_ok());
            self.process_ended(status)?;
        }
        let (changes, readings) = (self.changes, self.readings);
        let name = why.name();
        let document =
            json!({"event": "end", "by": name, "changes": changes, "readings": readings});
        self.line(document, |out| {
            let changes = count(
                usize::try_from(changes).unwrap_or(usize::MAX),
                "change",
                "changes",
            );
            write!(out, "{changes} in {readings} readings")
        })?;
        self.out.flush()
    }

    fn process_ended(&mut self, status: Option<u32>) -> io::Result<()> {
        let signal = status.and_then(|status| SigNo::new((status & 0x7f).cast_signed()));
        let code = status
            .filter(|_| signal.is_none())
            .map(|status| status >> 8 & 0xff);
        let document = json!({
            "event": "ended", "exit_code": code, "signal": signal.map(|signal| signal.to_string()),
        });
        let how = match (code, signal) {
            (_, Some(signal)) => format!("killed by {signal}"),
            (Some(code), None) => format!("exit code {code}"),
            (None, None) => "its parent has taken its exit status already".to_owned(),
        };
        let pid = self.options.pid;
        self.line(document, |out| {
            write!(out, "{BOLD}process {pid} has ended{BOLD:#}: {how}")
        })
    }
}

/// In nanoseconds, as `trace` has it.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

fn print(out: &mut dyn Write, change: &Change) -> io::Result<()> {
    write!(out, "{NAME}{}{NAME:#} ", change.place)?;
    match &change.what {
        What::Begun(thread) => {
            write!(
                out,
                "{BOLD}has begun{BOLD:#}, blocked: {}",
                thread.lasting_mask()
            )
        }
        What::Ended => write!(out, "{BOLD}has ended{BOLD:#}"),
        What::Arrived(entry) => write!(out, "{BOLD}pending{BOLD:#}: {}", text(entry)),
        What::Left(entry) => write!(out, "{BOLD}no longer pending{BOLD:#}: {}", text(entry)),
        What::Other(value) => {
            let [before, after] = match &value.named {
                Some([before, after]) => [before, after],
                None => [&value.before, &value.after],
            };
            let [before, after] = [before, after].map(|text| Printable::from(text.as_str()));
            let label = &value.label;
            write!(
                out,
                "{label}: {before} {DIM}->{DIM:#} {BOLD}{after}{BOLD:#}"
            )
        }
    }
}

fn text(entry: &Entry) -> String {
    match entry {
        Entry::Info(info) => info.to_string(),
        Entry::Bare(signo) => format!("{signo} without siginfo"),
    }
}

fn document(change: &Change) -> Value {
    let event = match &change.what {
        What::Begun(_) => "thread_begun",
        What::Ended => "thread_ended",
        What::Arrived(_) => "arrived",
        What::Left(_) => "left",
        What::Other(_) => "changed",
    };
    let thread = match change.place {
        Place::Process => None,
        Place::Thread(tid) => Some(tid),
    };
    let mut document = json!({"event": event, "thread": thread});
    match &change.what {
        What::Ended => {}
        What::Begun(thread) => document["blocked"] = thread.lasting_mask().to_string().into(),
        What::Arrived(entry) | What::Left(entry) => of_entry(&mut document, entry),
        What::Other(value) => {
            document["field"] = value.name.into();
            document["before"] = value.before.as_str().into();
            document["after"] = value.after.as_str().into();
            if let Some([before, after]) = &value.named {
                document["before_named"] = before.as_str().into();
                document["after_named"] = after.as_str().into();
            }
            match value.number {
                Number::One => {}
                Number::Signal(signo) => document["signal"] = signo.to_string().into(),
                Number::Timer(id) => document["timer"] = id.into(),
            }
        }
    }
    document
}

fn of_entry(document: &mut Value, entry: &Entry) {
    let info = match entry {
        Entry::Info(info) => info,
        Entry::Bare(signo) => {
            document["signal"] = signo.to_string().into();
            document["siginfo"] = Value::Null;
            return;
        }
    };
    document["signal"] = SigNo::new(info.signo())
        .map(|signo| signo.to_string())
        .into();
    document["siginfo"] = info.to_string().into();
    document["code"] = info.code().into();
    match info.fields() {
        Fields::Kill { pid, uid } => {
            document["pid"] = pid.into();
            document["uid"] = uid.into();
        }
        Fields::Value { pid, uid, value } => {
            document["pid"] = pid.into();
            document["uid"] = uid.into();
            // As all numbers of 64 bits.
            document["value"] = value.to_string().into();
        }
        Fields::Child {
            pid, uid, status, ..
        } => {
            document["pid"] = pid.into();
            document["uid"] = uid.into();
            document["status"] = status.into();
        }
        Fields::Timer { id, value, .. } => {
            document["timer"] = id.into();
            document["value"] = value.to_string().into();
        }
        Fields::Poll { .. } | Fields::Fault { .. } | Fields::Sys { .. } => {}
    }
}
