//! `criu-signals trace`: each signal from its generation to its delivery.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use criu_signals::bpf::process::ProcessReader;
use criu_signals::bpf::trace::{Entry, Event, Fate, Info, Journal, Step, Tracer, Who, Whose};
use criu_signals::images::{CodePlace, Pid, Printable, Shown as _, SigNo, Siginfo};
use criu_signals::live::Cgroup;
use criu_signals::proc;
use criu_signals::reading::{Read as _, Reading};
use criu_signals::symbols::Known;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet as Mask, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::{Value, json};

use super::context::{Context, DIFFERS, FAILED, Failure, count, say};
use super::style::{BOLD, DIM, NAME, WARN};

/// Records each signal from its generation to its delivery: sender, receiver, whether the signal is queued, and when and how it
/// leaves the queue. No process is stopped, and none is traced by ptrace(2).
///
/// BPF programs on tracepoints of the kernel write the records; CAP_BPF, CAP_PERFMON, Linux 5.10 and
/// CONFIG_DEBUG_INFO_BTF are needed. Each signal has a number, and every line about the signal shows that number. If a signal is
/// sent in an interrupt (by a timer, for example), "while" names the thread that was interrupted.
///
/// Handlers are printed with function and file, as by `criu-signals show`, from the files that the process has mapped when the
/// line is written. If the process has ended by then, the line says so.
///
/// The trace ends with Ctrl-C, with --for or --count, or when the processes have ended.
///
/// With --checkpoint, PID is followed through the dumps and restores that COMMAND makes. When COMMAND has ended, the pending
/// signals are read from the kernel. REPORT states how many signals were sent to the process, and how many of them were proven
/// to be delivered exactly once or to be still pending.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  criu-signals trace 4711
  criu-signals trace --all --for 10 --json
  criu-signals trace --cgroup /sys/fs/cgroup/web --count 100
  criu-signals trace --checkpoint report.json 4711 -- sh -c 'criu dump -t 4711 -D d && criu restore -d -D d'

Exit codes:
  0  the trace has ended; with --checkpoint: each signal is accounted for exactly once
  1  with --checkpoint: a signal is lost or doubled, or it is not proven that none is
  2  failure; with --checkpoint, also a failure of COMMAND")]
pub struct Trace {
    /// The process whose signals are followed.
    #[arg(value_name = "PID", value_parser = super::context::pid,
          required_unless_present_any = ["cgroup", "all"])]
    pid: Option<Pid>,
    /// The processes in this cgroup (v2) and in the cgroups below: the folder of the cgroup, or the path in /proc/PID/cgroup.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["pid", "all"])]
    cgroup: Option<String>,
    /// All processes of this pid namespace.
    #[arg(long, conflicts_with = "pid")]
    all: bool,
    /// Print one JSON document per line.
    #[arg(long)]
    json: bool,
    /// End after this number of seconds.
    #[arg(long = "for", value_name = "SECONDS", value_parser = super::context::seconds)]
    time: Option<Duration>,
    /// End after this number of signals has been sent.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Size of the buffer for records that are not printed yet: a power of two, at least 4096. Records that do not fit are lost,
    /// and counted.
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 20, value_parser = room)]
    buffer: usize,
    /// Write a report to this file: what became of the signals while COMMAND dumped and restored PID.
    #[arg(long, value_name = "REPORT", requires_all = ["pid", "command"])]
    checkpoint: Option<PathBuf>,
    /// With --checkpoint: the command that makes the checkpoint.
    #[arg(last = true, value_name = "COMMAND", requires = "checkpoint")]
    command: Vec<String>,
}

fn room(text: &str) -> Result<usize, String> {
    let size: usize = text.parse().map_err(|_| "not a number".to_owned())?;
    if !size.is_power_of_two() || !(4096..=1 << 30).contains(&size) {
        return Err("not a power of two from 4096 to 1073741824".to_owned());
    }
    Ok(size)
}

/// Milliseconds between two checks whether the processes have ended and records were lost.
const LOOK: u16 = 200;
/// How often the pending signals are read at most until no signal arrives during the reading.
const TRIES: usize = 50;
/// How long the reading of a process is repeated if the process cannot be read at once.
const PATIENCE: Duration = Duration::from_secs(5);

impl Trace {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let whose = self.whose()?;
        let stop = signals()?;
        let tracer = Tracer::new(whose, self.buffer)?;
        if let Some(why) = tracer.blind() {
            say(&format!(
                "signals that are taken by sigwaitinfo(2) or signalfd(2) are not seen: {why}"
            ));
        }
        let mut follower = Follower {
            journal: Journal::new(self.checkpoint.is_some()),
            out: Box::new(context.stdout()),
            json: self.json,
            tally: Tally::default(),
            names: Known::default(),
        };
        match (&self.checkpoint, self.pid) {
            (Some(report), Some(pid)) => self.prove(pid, report, &tracer, &stop, &mut follower),
            _ => {
                follower.begun()?;
                self.follow(&tracer, &stop, &mut follower, None)?;
                follower.end(tracer.lost()?)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }

    fn whose(&self) -> Result<Whose, Failure> {
        if let Some(pid) = self.pid {
            return Ok(Whose::Process(pid));
        }
        let Some(path) = &self.cgroup else {
            return Ok(Whose::All);
        };
        let folder = Cgroup::folder(path)?;
        // Cgroups of v1 have no such file, and are not in `task->cgroups->dfl_cgrp`.
        if !folder.join("cgroup.controllers").exists() {
            return Err(
                format!("cgroup {path}: the cgroup is of v1; only v2 can be traced").into(),
            );
        }
        Ok(Whose::Cgroup(fs::metadata(folder)?.ino()))
    }

    /// Until the end. With a command, that is the command's.
    fn follow(
        &self,
        tracer: &Tracer,
        stop: &SignalFd,
        follower: &mut Follower,
        mut command: Option<&mut Child>,
    ) -> Result<(), Failure> {
        let end = self.time.map(|time| Instant::now() + time);
        loop {
            let left = end.map_or(LOOK.into(), |end| {
                end.saturating_duration_since(Instant::now()).as_millis()
            });
            let wait = u16::try_from(left).unwrap_or(LOOK).min(LOOK);
            let fds = &mut [
                PollFd::new(tracer.as_fd(), PollFlags::POLLIN),
                PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            ];
            match poll(fds, PollTimeout::from(wait)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Box::new(errno)),
            }
            // Asked before the records are read: nothing happens any more then.
            let over = match &mut command {
                Some(child) => child.try_wait()?.is_some(),
                None => self.pid.is_some_and(|pid| !proc::is_alive(pid)),
            };
            let interrupted = stop.read_signal()?.is_some();
            follower.names.renew();
            for event in tracer.read() {
                follower.event(&event)?;
                if self.count.is_some_and(|count| follower.tally.sent >= count) {
                    return Ok(());
                }
            }
            follower.out.flush()?;
            let late = end.is_some_and(|end| Instant::now() >= end);
            if over || interrupted || late {
                return Ok(());
            }
        }
    }

    fn prove(
        &self,
        pid: Pid,
        report: &PathBuf,
        tracer: &Tracer,
        stop: &SignalFd,
        follower: &mut Follower,
    ) -> Result<ExitCode, Failure> {
        let mut file = File::create(report).map_err(|e| format!("{}: {e}", report.shown()))?;
        let mut reader = ProcessReader::new()?.with_patience(PATIENCE);
        let before = quiet(&mut reader, pid, tracer, follower)?;
        for (tid, signo, info) in entries(&before) {
            follower.journal.begin_with(pid.get(), tid, signo, info);
            follower.tally.before += 1;
        }
        follower.begun()?;
        let (program, arguments) = self.command.split_first().ok_or("no command")?;
        let mut child = Command::new(program)
            .args(arguments)
            .process_group(0)
            .spawn()
            .map_err(|e| format!("{program}: {e}"))?;
        self.follow(tracer, stop, follower, Some(&mut child))?;
        let status = child.try_wait()?;
        let alive = proc::is_alive(pid);
        let rest = match alive {
            true => quiet(&mut reader, pid, tracer, follower).map(|rest| entries(&rest)),
            false => Ok(Vec::new()),
        };
        let queues = rest
            .map(|found| Queues::compare(follower.journal.rest(), found))
            .map_err(|why| why.to_string());
        let verdict = Verdict {
            alive,
            queues,
            records_lost: tracer.lost()?,
            blind: tracer.blind().is_some(),
            command: status.and_then(|status| status.code()),
        };
        let document = verdict.document(pid, &follower.tally);
        writeln!(file, "{document:#}")?;
        file.sync_all()?;
        follower.verdict(&verdict)?;
        Ok(
            match (verdict.command, verdict.is_proven(&follower.tally)) {
                (Some(0), true) => ExitCode::SUCCESS,
                (Some(0), false) => ExitCode::from(DIFFERS),
                _ => {
                    say(&"the command has failed or has not ended");
                    ExitCode::from(FAILED)
                }
            },
        )
    }
}

/// Ctrl-C and the like become readable. A command that is started has none of that.
fn signals() -> Result<SignalFd, Failure> {
    let mut mask = Mask::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        mask.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
    Ok(SignalFd::with_flags(
        &mask,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// An entry of a queue, or a bit without a siginfo: of which thread, if it is not of the process.
type Pending = (Option<i32>, SigNo, Option<Siginfo>);

/// What is pending at an instant at which all events are in the journal.
fn quiet(
    reader: &mut ProcessReader,
    pid: Pid,
    tracer: &Tracer,
    follower: &mut Follower,
) -> Result<Reading, Failure> {
    for _ in 0..TRIES {
        follower.names.renew();
        for event in tracer.read() {
            follower.event(&event)?;
        }
        let reading = reader.read(pid)?;
        let events = tracer.read();
        for event in &events {
            follower.event(event)?;
        }
        if events.is_empty() {
            return Ok(reading);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(
        "signals are sent to the process all the time, so that what is pending can't be told"
            .into(),
    )
}

fn entries(reading: &Reading) -> Vec<Pending> {
    let process = &reading.process;
    let threads = process.threads.iter();
    let queues = threads
        .map(|thread| (Some(thread.ids.outermost()), &thread.pending))
        .chain([(None, &process.shared)]);
    let mut found = Vec::new();
    for (tid, pending) in queues {
        let infos = pending.queue.iter();
        found.extend(infos.filter_map(|info| Some((tid, SigNo::new(info.signo())?, Some(*info)))));
        let bare = pending.bits_without_info();
        found.extend(bare.iter().map(|signo| (tid, signo, None)));
    }
    found
}

/// The queues at the end, beside what must be pending by the journal.
struct Queues {
    /// How many signals are pending as they must be.
    pending: usize,
    lost: Vec<Entry>,
    /// Signals that are pending and not in the journal.
    added: Vec<Pending>,
}

impl Queues {
    fn compare<'j>(journal: impl Iterator<Item = &'j Entry>, found: Vec<Pending>) -> Queues {
        let mut found: Vec<Option<Pending>> = found.into_iter().map(Some).collect();
        let (mut pending, mut lost, mut first) = (0, Vec::new(), 0);
        for entry in journal.filter(|entry| !entry.of_checkpoint) {
            // The journal and the queues have mostly the same order: what is found is at the front.
            while matches!(found.get(first), Some(None)) {
                first += 1;
            }
            let is_it = |one: &&mut Option<Pending>| {
                one.is_some_and(|(tid, signo, info)| {
                    signo == entry.signo && tid == entry.tid && entry.has(info.as_ref())
                })
            };
            match found.iter_mut().skip(first).find(is_it) {
                Some(one) => {
                    *one = None;
                    pending += 1;
                }
                None => lost.push(entry.clone()),
            }
        }
        Queues {
            pending,
            lost,
            added: found.into_iter().flatten().collect(),
        }
    }
}

/// What is counted.
#[derive(Default)]
struct Tally {
    /// Pending before the trace.
    before: u64,
    sent: u64,
    delivered: u64,
    taken: u64,
    /// Signals that were not queued, or that a later signal removed.
    discarded: u64,
    /// Signals that were pending when the thread or the process ended.
    ended: u64,
    /// Signals that were delivered and never sent.
    unknown: u64,
    taken_out: u64,
    put_back: u64,
    of_checkpoint: u64,
}

fn lost(entry: &Entry) -> Value {
    json!({"id": entry.id, "signal": entry.signo.to_string(), "tid": entry.tid, "time": entry.time,
           "siginfo": text(&entry.info), "owed": entry.owed})
}

fn added((tid, signo, info): &Pending) -> Value {
    json!({"signal": signo.to_string(), "tid": tid, "siginfo": info.map(|info| info.to_string())})
}

struct Verdict {
    alive: bool,
    /// Or why they could not be read.
    queues: Result<Queues, String>,
    records_lost: u64,
    blind: bool,
    command: Option<i32>,
}

impl Verdict {
    fn is_proven(&self, tally: &Tally) -> bool {
        let kept = |queues: &Queues| queues.lost.is_empty() && queues.added.is_empty();
        self.alive
            && self.queues.as_ref().is_ok_and(kept)
            && self.records_lost == 0
            && tally.unknown == 0
    }

    fn document(&self, pid: Pid, tally: &Tally) -> Value {
        let queues = self.queues.as_ref().ok();
        let lost = queues.map(|queues| queues.lost.iter().map(lost).collect::<Vec<_>>());
        let added = queues.map(|queues| queues.added.iter().map(added).collect::<Vec<_>>());
        json!({
            "pid": pid.get(),
            "exactly_once": self.is_proven(tally),
            "pending_before": tally.before,
            "sent": tally.sent,
            "delivered": tally.delivered,
            "taken": tally.taken,
            "discarded": tally.discarded,
            "ended_with_process": tally.ended,
            "still_pending": queues.map(|queues| queues.pending),
            "lost": lost,
            "added": added,
            "queues_not_read": self.queues.as_ref().err(),
            "delivered_without_being_sent": tally.unknown,
            "taken_out_by_checkpoint": tally.taken_out,
            "put_back_by_checkpoint": tally.put_back,
            "sent_by_checkpoint_itself": tally.of_checkpoint,
            "records_lost": self.records_lost,
            "sees_taken_signals": !self.blind,
            "process_is_there": self.alive,
            "command_exit_code": self.command,
        })
    }
}

struct Follower {
    journal: Journal,
    out: Box<dyn Write>,
    json: bool,
    tally: Tally,
    /// Of handlers.
    names: Known,
}

/// Where a handler is, or why that is not known.
type Place = Result<CodePlace, String>;

fn text(info: &Info) -> String {
    match info {
        Info::Given(info) => info.to_string(),
        Info::OfUser => "SI_USER".to_owned(),
        Info::OfKernel => "SI_KERNEL".to_owned(),
    }
}

impl Follower {
    /// Prints that the trace has begun: every signal sent from now on is recorded.
    fn begun(&mut self) -> io::Result<()> {
        if self.json {
            writeln!(self.out, "{}", json!({"event": "begin"}))?;
        } else {
            writeln!(self.out, "{DIM}tracing{DIM:#}")?;
        }
        self.out.flush()
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        for step in self.journal.take(event) {
            self.tally.add(&step, event);
            let place = self.place(&step);
            if self.json {
                let document = document(&step, event, place);
                writeln!(self.out, "{document}")?;
            } else {
                self.line(&step, event, place)?;
            }
        }
        Ok(())
    }

    /// Where the handler is, if the step is that one is called.
    fn place(&mut self, step: &Step) -> Option<Place> {
        let (Step::Settled(_, Fate::Handled(at), who) | Step::Unknown(_, Fate::Handled(at), who)) =
            step
        else {
            return None;
        };
        let pid = Pid::new(who.pid).ok_or("the process is outside this pid namespace");
        Some(match pid {
            Ok(pid) => self.names.place(pid, *at),
            Err(why) => Err(why.to_owned()),
        })
    }

    fn line(&mut self, step: &Step, event: &Event, place: Option<Place>) -> io::Result<()> {
        let place = match place {
            Some(Ok(place)) => format!(" [{place}]"),
            Some(Err(why)) => format!(" [not known: {}]", Printable::from(&why)),
            None => String::new(),
        };
        let out = &mut self.out;
        let time = seconds(event.time());
        match step {
            Step::Sent(entry) => {
                write!(out, "{time} #{} {NAME}{}{NAME:#} ", entry.id, entry.signo)?;
                sent(out, entry, event)?;
                writeln!(out)
            }
            Step::Settled(entry, fate, who) => {
                write!(out, "{time} #{} {NAME}{}{NAME:#} ", entry.id, entry.signo)?;
                if let Fate::Refused(_) = fate {
                    sent(out, entry, event)?;
                    return writeln!(out, ": {WARN}{}{WARN:#}", said(*fate));
                }
                write!(out, "{}: {BOLD}{}{BOLD:#}{place}", name(who), said(*fate))?;
                match entry.time {
                    Some(sent) => writeln!(out, ", after {}", span(event.time(), sent)),
                    None => writeln!(out, ", sent before the trace"),
                }
            }
            Step::Unknown(signo, fate, who) => writeln!(
                out,
                "{time} -  {NAME}{signo}{NAME:#} {}: {BOLD}{}{BOLD:#}{place}, {WARN}and was not seen to be sent{WARN:#}",
                name(who),
                said(*fate)
            ),
            Step::TakenOut(entry) => writeln!(
                out,
                "{time} #{} {NAME}{}{NAME:#} taken out by the checkpoint",
                entry.id, entry.signo
            ),
            Step::PutBack(entry) => writeln!(
                out,
                "{time} #{} {NAME}{}{NAME:#} put back by the checkpoint",
                entry.id, entry.signo
            ),
        }
    }

    /// The last lines.
    fn end(&mut self, lost: u64) -> io::Result<()> {
        let rest = self.journal.rest().count();
        if self.json {
            let tally = &self.tally;
            let document = json!({
                "event": "end", "sent": tally.sent, "delivered": tally.delivered, "taken": tally.taken,
                "discarded": tally.discarded, "ended_with_process": tally.ended,
                "not_delivered_yet": rest, "records_lost": lost,
            });
            writeln!(self.out, "{document}")?;
        } else {
            writeln!(
                self.out,
                "{} sent, {} delivered, {} taken, {} discarded, {} ended with their process, {rest} not delivered yet",
                count(
                    usize::try_from(self.tally.sent).unwrap_or(usize::MAX),
                    "signal",
                    "signals"
                ),
                self.tally.delivered,
                self.tally.taken,
                self.tally.discarded,
                self.tally.ended
            )?;
        }
        if lost > 0 {
            say(&format!(
                "{lost} records are lost, because they came faster than they were printed: a larger --buffer holds more"
            ));
        }
        self.out.flush()
    }

    fn verdict(&mut self, verdict: &Verdict) -> io::Result<()> {
        self.end(verdict.records_lost)?;
        if self.json {
            return Ok(());
        }
        let queues = match &verdict.queues {
            Ok(queues) => queues,
            Err(why) => {
                writeln!(
                    self.out,
                    "NOT known whether exactly once: the queues were not read: {why}"
                )?;
                return self.out.flush();
            }
        };
        let text = if verdict.is_proven(&self.tally) {
            "each signal is accounted for exactly once".to_owned()
        } else {
            format!(
                "NOT exactly once: {} lost, {} added, {} delivered without being sent",
                queues.lost.len(),
                queues.added.len(),
                self.tally.unknown
            )
        };
        writeln!(self.out, "{} still pending; {text}", queues.pending)?;
        self.out.flush()
    }
}

impl Tally {
    fn add(&mut self, step: &Step, event: &Event) {
        let entry = match step {
            Step::Sent(entry) | Step::Settled(entry, ..) => entry,
            Step::Unknown(..) => {
                self.unknown += 1;
                return;
            }
            Step::TakenOut(_) => {
                self.taken_out += 1;
                return;
            }
            Step::PutBack(_) => {
                self.put_back += 1;
                return;
            }
        };
        let is_new = matches!(event, Event::Generated(_)) && is_subject(step);
        if entry.of_checkpoint {
            self.of_checkpoint += u64::from(is_new);
            return;
        }
        self.sent += u64::from(is_new);
        if let Step::Settled(_, fate, _) = step {
            match fate {
                Fate::Handled(_) | Fate::Default | Fate::Ignored => self.delivered += 1,
                Fate::Taken => self.taken += 1,
                Fate::Refused(_) | Fate::Removed(_) => self.discarded += 1,
                Fate::Killed | Fate::ThreadEnded | Fate::ProcessEnded => self.ended += 1,
            }
        }
    }
}

/// Is the step about the signal that is generated, not about one that this removes?
fn is_subject(step: &Step) -> bool {
    matches!(step, Step::Sent(_) | Step::Settled(_, Fate::Refused(_), _))
}

/// By CLOCK_MONOTONIC.
fn seconds(time: u64) -> String {
    format!("{}.{:06}", time / 1_000_000_000, time / 1_000 % 1_000_000)
}

fn span(end: u64, begin: u64) -> String {
    let time = end.saturating_sub(begin);
    match time {
        0..10_000_000 => format!("{} us", time / 1_000),
        _ => format!("{} ms", time / 1_000_000),
    }
}

fn name(who: &Who) -> String {
    match (who.pid, who.pid == who.tid) {
        (0, _) => format!("{} outside this pid namespace", who.comm),
        (pid, true) => format!("{pid} ({})", who.comm),
        (pid, false) => format!("{pid}/{} ({})", who.tid, who.comm),
    }
}

/// Of codes up to 0 the sender is a process, which runs; of the others, and of timers, the kernel.
fn is_of_process(info: &Info) -> bool {
    const SI_TIMER: i32 = -2;
    const SI_SIGIO: i32 = -5;
    match info {
        Info::OfUser => true,
        Info::OfKernel => false,
        Info::Given(info) => info.code() <= 0 && ![SI_TIMER, SI_SIGIO].contains(&info.code()),
    }
}

fn sent(out: &mut dyn Write, entry: &Entry, event: &Event) -> io::Result<()> {
    let Event::Generated(event) = event else {
        return Ok(());
    };
    let by = if is_of_process(&event.info) {
        "from"
    } else {
        "from the kernel while"
    };
    let kind = if event.group { "process" } else { "thread" };
    let bare = if entry.bare {
        ", without its siginfo"
    } else {
        ""
    };
    write!(
        out,
        "{by} {} to {kind} {}: {}{bare}",
        name(&event.running),
        name(&event.target),
        text(&event.info)
    )
}

fn said(fate: Fate) -> String {
    match fate {
        Fate::Handled(at) => format!("handler {at:#x}"),
        Fate::Default => "default action".to_owned(),
        Fate::Ignored => "ignored at delivery".to_owned(),
        Fate::Taken => "taken by sigwaitinfo or signalfd".to_owned(),
        Fate::Refused(outcome) => outcome.name().to_owned(),
        Fate::Removed(by) => format!("removed by {by}"),
        Fate::Killed => "ended the process".to_owned(),
        Fate::ThreadEnded => "the thread has ended".to_owned(),
        Fate::ProcessEnded => "the process has ended".to_owned(),
    }
}

fn who(who: &Who) -> Value {
    json!({"pid": who.pid, "tid": who.tid, "comm": who.comm.as_str()})
}

fn document(step: &Step, event: &Event, place: Option<Place>) -> Value {
    let mut document = json!({"time": event.time()});
    match place {
        Some(Ok(place)) => document["handler_name"] = place.to_string().into(),
        Some(Err(why)) => document["handler_name_unknown"] = why.into(),
        None => {}
    }
    let of = |document: &mut Value, entry: &Entry| {
        document["id"] = entry.id.into();
        document["signal"] = entry.signo.to_string().into();
    };
    match step {
        Step::Sent(entry) => {
            document["event"] = "sent".into();
            of(&mut document, entry);
        }
        Step::Settled(entry, fate, target) => {
            of(&mut document, entry);
            document["event"] = kind(*fate).into();
            document["thread"] = who(target);
            if let Fate::Handled(at) = fate {
                document["handler"] = (*at).into();
            }
            if let Fate::Removed(by) = fate {
                document["by"] = by.to_string().into();
            }
            if !matches!(fate, Fate::Refused(_)) {
                document["pending_ns"] = entry.time.map(|sent| event.time() - sent).into();
            }
        }
        Step::Unknown(signo, fate, target) => {
            document["event"] = kind(*fate).into();
            document["signal"] = signo.to_string().into();
            if let Fate::Handled(at) = fate {
                document["handler"] = (*at).into();
            }
            document["id"] = Value::Null;
            document["thread"] = who(target);
        }
        Step::TakenOut(entry) => {
            document["event"] = "taken_out".into();
            of(&mut document, entry);
        }
        Step::PutBack(entry) => {
            document["event"] = "put_back".into();
            of(&mut document, entry);
        }
    }
    if let Event::Generated(event) = event
        && is_subject(step)
    {
        document["result"] = event.outcome.name().into();
        document["for"] = if event.group { "process" } else { "thread" }.into();
        document["target"] = who(&event.target);
        document["siginfo"] = text(&event.info).into();
        document["sender"] = if is_of_process(&event.info) {
            "process"
        } else {
            "kernel"
        }
        .into();
        document["running"] = who(&event.running);
    }
    document
}

fn kind(fate: Fate) -> &'static str {
    match fate {
        Fate::Handled(_) => "handler",
        Fate::Default => "default",
        Fate::Ignored => "ignored",
        Fate::Taken => "taken",
        Fate::Refused(_) => "not_queued",
        Fate::Removed(_) => "removed",
        Fate::Killed => "ended_process",
        Fate::ThreadEnded => "thread_ended",
        Fate::ProcessEnded => "process_ended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_read_is_not_said_to_be_kept() {
        let mut verdict = Verdict {
            alive: true,
            queues: Ok(Queues::compare(std::iter::empty(), Vec::new())),
            records_lost: 0,
            blind: false,
            command: Some(0),
        };
        let tally = Tally::default();
        let read = verdict.document(Pid::own(), &tally);
        assert_eq!(read["exactly_once"], true);
        assert_eq!(read["lost"], json!([]));
        verdict.queues = Err("it runs".to_owned());
        let unread = verdict.document(Pid::own(), &tally);
        assert_eq!(unread["exactly_once"], false);
        assert_eq!(unread["queues_not_read"], "it runs");
        for name in ["lost", "added", "still_pending"] {
            assert!(unread[name].is_null(), "{name}");
        }
    }
}
