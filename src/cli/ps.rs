//! `criu-signals ps`: the signal state of all processes, without touching any of them.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use criu_signals::bpf::tasks::{MOST_COUNTED, TaskReader, TaskSignals};
use criu_signals::images::{Name, Pid, SigNo, SigSet, Tid};
use criu_signals::proc::{self, SignalStatus};
use nix::unistd::{Uid, User};
use procfs::FromRead as _;
use procfs::process::Status;
use serde_json::{Value, json};

use super::context::{Context, Failure, count, say};
use super::place::Places;
use super::style::{BOLD, NAME, WARN};

/// Lists the signal state of all processes. No process is stopped, and no process notices.
///
/// A BPF program copies the state of every task in one pass. Where BPF is not available, /proc/PID/status is read instead;
/// the columns QUEUED and OLDEST are empty then, and standard error gives the reason.
///
/// Each process has one line. PENDING lists the signals that are pending for the process and for its threads, QUEUED counts the
/// entries of all these queues. BLOCKED lists the signals that every thread blocks. OLDEST is the first entry of the process's
/// queue; if that queue is empty, the first entry of a thread's queue. STOPPED is the stop signal that has stopped the process,
/// with a "+" if the parent has not waited for that stop yet.
///
/// The processes keep running while they are listed. A line is read within some microseconds; the lines are not read at one instant.
#[derive(clap::Args)]
#[command(after_help = "\
If a filter is given several times, a process must match one of the values. If different filters are given, a process must match all.

Examples:
  criu-signals ps
  criu-signals ps --pending --sort queued
  criu-signals ps --blocked TERM --threads
  criu-signals ps --ignores HUP --user postgres
  criu-signals ps --cgroup /sys/fs/cgroup/system.slice --pid-namespace 4711
  criu-signals ps --json | jq -r 'select(.stopped_by != null) | .pid'

Exit codes:
  0  the processes were listed
  2  neither BPF nor /proc could be read, or a PID does not exist")]
pub struct Ps {
    #[command(flatten)]
    listing: Listing,
    /// Print one JSON document per line.
    #[arg(long)]
    json: bool,
}

/// Which processes are listed, and how: the same for `ps` and `top`.
#[derive(clap::Args)]
pub struct Listing {
    /// Only these processes.
    #[arg(value_name = "PID", value_parser = super::context::pid)]
    pids: Vec<Pid>,
    /// One line for each thread.
    #[arg(long)]
    pub threads: bool,
    /// List the kernel's own threads as well.
    #[arg(long)]
    pub kernel: bool,
    /// Only processes with a pending signal; with a value, only processes with this signal pending.
    #[arg(long, value_name = "SIGNAL", num_args = 0..=1, require_equals = true,
          default_missing_value = "any", value_parser = wanted)]
    pending: Vec<Wanted>,
    /// Only processes that block this signal.
    #[arg(long, value_name = "SIGNAL")]
    blocked: Vec<SigNo>,
    /// Only processes that ignore this signal.
    #[arg(long, value_name = "SIGNAL")]
    ignores: Vec<SigNo>,
    /// Only processes that have a handler for this signal.
    #[arg(long, value_name = "SIGNAL")]
    catches: Vec<SigNo>,
    /// Only stopped processes.
    #[arg(long)]
    pub stopped: bool,
    /// Only processes with more than N queued entries. N must be below 500, because at most 500 entries of a queue are counted.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..i64::from(MOST_COUNTED)))]
    queued_over: Option<u32>,
    /// Only processes of this user.
    #[arg(long, value_name = "NAME|UID", value_parser = user)]
    user: Vec<u32>,
    #[command(flatten)]
    places: Places,
    /// The order of the lines.
    #[arg(long, value_name = "KEY", default_value = "pid")]
    pub sort: Key,
    /// Read /proc/PID/status even if BPF is available.
    #[arg(long)]
    proc: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Key {
    /// By pid and tid.
    Pid,
    /// The most queued entries first.
    Queued,
    /// By user, then pid.
    User,
    /// By the name of the process (/proc/PID/comm), then pid.
    Name,
}

/// A signal of a set.
#[derive(Clone, Copy)]
enum Wanted {
    Any,
    This(SigNo),
}

fn wanted(text: &str) -> Result<Wanted, String> {
    if text == "any" {
        return Ok(Wanted::Any);
    }
    let signo = text.parse::<SigNo>().map_err(|e| e.to_string())?;
    Ok(Wanted::This(signo))
}

fn user(text: &str) -> Result<u32, String> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err("no such user".to_owned()),
        Err(errno) => Err(errno.desc().to_owned()),
    }
}

/// What only the kernel's own structures show.
#[derive(Clone, Copy)]
pub struct Inner {
    pub queued: u32,
    /// There are more than could be counted.
    more: bool,
    oldest: Option<SigNo>,
    stopped_by: Option<SigNo>,
    stop_is_waitable: bool,
}

/// A process, or a thread.
#[derive(Clone)]
pub struct Row {
    pub pid: Pid,
    pub tid: Tid,
    parent: Option<Pid>,
    tracer: Option<Tid>,
    pub comm: Name,
    pub uid: u32,
    threads: u32,
    is_kernel: bool,
    is_zombie: bool,
    pub is_stopped: bool,
    pub pending: SigSet,
    blocked: SigSet,
    ignored: SigSet,
    caught: SigSet,
    inner: Option<Inner>,
}

/// Lines whose cgroup or pid namespace could not be read.
pub struct Unseen {
    pub number: usize,
    /// Of the first.
    why: String,
}

/// Where lists come from.
pub enum Source {
    Bpf(TaskReader),
    Proc,
}

/// How many columns there are.
pub const COLUMNS: usize = 10;

impl Ps {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let listing = self.listing;
        let source = listing.source(|why| say(&why));
        let rows = match listing.rows(&source) {
            Err(e) if matches!(source, Source::Bpf(_)) => {
                say(&instead(&*e));
                listing.rows(&Source::Proc)?
            }
            rows => rows?,
        };
        for pid in &listing.pids {
            if !rows.iter().any(|row| row.pid == *pid) {
                return Err(format!("no process {pid}").into());
            }
        }
        let (rows, unseen) = listing.selected(rows);
        if let Some(Unseen { number, why }) = unseen {
            let lines = count(number, "line is", "lines are");
            say(&format!(
                "{lines} left out, because the place is not known: {why}"
            ));
        }
        let out = &mut context.stdout();
        if self.json {
            for row in &rows {
                writeln!(out, "{}", listing.document(row))?;
            }
        } else {
            listing.table(&rows, out)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Listing {
    /// `say` is told why it is not BPF.
    pub fn source(&self, say: impl FnOnce(String)) -> Source {
        if self.proc {
            return Source::Proc;
        }
        match TaskReader::new() {
            Ok(reader) => Source::Bpf(reader),
            Err(e) => {
                say(instead(&e));
                Source::Proc
            }
        }
    }

    /// All processes or threads, in the order of their numbers.
    pub fn rows(&self, source: &Source) -> Result<Vec<Row>, Failure> {
        // All threads, each process's together and its leader first.
        let rows = match source {
            Source::Proc => of_proc()?,
            Source::Bpf(reader) => completed(reader.read()?.into_iter().map(Row::from).collect()),
        };
        Ok(if self.threads { rows } else { processes(rows) })
    }

    /// What is to be listed, in order, and what is left out because it could not be looked at.
    pub fn selected(&self, mut rows: Vec<Row>) -> (Vec<Row>, Option<Unseen>) {
        rows.retain(|row| self.accepts(row));
        // Last: only here something is read of each process.
        let mut unseen = None;
        rows.retain(|row| match self.places.hold(row.pid, row.tid) {
            Ok(held) => held,
            Err(e) => {
                let why = || format!("process {}: {e}", row.pid);
                let unseen = unseen.get_or_insert_with(|| Unseen {
                    number: 0,
                    why: why(),
                });
                unseen.number += 1;
                false
            }
        });
        match self.sort {
            Key::Pid => {}
            Key::Queued => {
                rows.sort_by_key(|row| std::cmp::Reverse(row.inner.map_or(0, |inner| inner.queued)))
            }
            Key::User => rows.sort_by_key(|row| row.uid),
            Key::Name => rows.sort_by(|one, other| one.comm.as_str().cmp(other.comm.as_str())),
        }
        (rows, unseen)
    }

    fn accepts(&self, row: &Row) -> bool {
        let any = |wanted: &[SigNo], set: SigSet| {
            wanted.is_empty() || wanted.iter().any(|&signo| set.contains(signo))
        };
        let is_pending = |wanted: &Wanted| match wanted {
            Wanted::This(signo) => row.pending.contains(*signo),
            Wanted::Any => !row.pending.is_empty(),
        };
        (self.pids.is_empty() || self.pids.contains(&row.pid))
            && (self.kernel || !row.is_kernel)
            && (self.pending.is_empty() || self.pending.iter().any(is_pending))
            && any(&self.blocked, row.blocked)
            && any(&self.ignores, row.ignored)
            && any(&self.catches, row.caught)
            && (!self.stopped || row.is_stopped)
            && self
                .queued_over
                .is_none_or(|most| row.inner.is_some_and(|inner| inner.queued > most))
            && (self.user.is_empty() || self.user.contains(&row.uid))
    }

    fn document(&self, row: &Row) -> Value {
        let names = |set: SigSet| set.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let mut document = json!({
            "pid": row.pid.get(),
            "parent": row.parent.map(Pid::get),
            "tracer": row.tracer.map(Tid::get),
            "comm": row.comm.as_str(),
            "uid": row.uid,
            "threads": row.threads,
            "zombie": row.is_zombie,
            "stopped": row.is_stopped,
            "pending": names(row.pending),
            "blocked": names(row.blocked),
            "ignored": names(row.ignored),
            "caught": names(row.caught),
        });
        if self.threads {
            document["tid"] = row.tid.get().into();
        }
        if let Some(inner) = row.inner {
            document["queued"] = inner.queued.into();
            document["queued_is_more"] = inner.more.into();
            document["oldest"] = inner.oldest.map(|s| s.to_string()).into();
            document["stopped_by"] = inner.stopped_by.map(|s| s.to_string()).into();
            document["stop_is_waitable"] = inner.stop_is_waitable.into();
        }
        document
    }

    pub fn heading(&self) -> [&'static str; COLUMNS] {
        let id = if self.threads { "PID/TID" } else { "PID" };
        [
            id, "USER", "NAME", "STOPPED", "QUEUED", "OLDEST", "PENDING", "BLOCKED", "IGNORED",
            "CAUGHT",
        ]
    }

    fn table(&self, rows: &[Row], out: &mut impl Write) -> io::Result<()> {
        let heading = self.heading();
        let mut users = HashMap::new();
        let cells: Vec<[String; COLUMNS]> =
            rows.iter().map(|row| self.cells(row, &mut users)).collect();
        let mut widths = heading.map(str::len);
        for row in &cells {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        // The last column ends where its text does.
        widths[heading.len() - 1] = 0;
        for (text, width) in heading.iter().zip(widths) {
            write!(out, "{BOLD}{text:width$}{BOLD:#} ")?;
        }
        writeln!(out)?;
        for row in &cells {
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                match heading[column] {
                    "NAME" => write!(out, "{NAME}{cell:width$}{NAME:#} ")?,
                    "PENDING" | "STOPPED" if cell != "-" => {
                        write!(out, "{WARN}{cell:width$}{WARN:#} ")?;
                    }
                    _ => write!(out, "{cell:width$} ")?,
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }

    pub fn cells(&self, row: &Row, users: &mut HashMap<u32, String>) -> [String; COLUMNS] {
        let none = || "-".to_owned();
        let set = |set: SigSet| {
            if set.is_empty() {
                none()
            } else {
                set.to_string()
            }
        };
        let signal = |signo: Option<SigNo>| signo.map_or_else(none, |signo| signo.to_string());
        let user = user_of(row, users);
        let stopped = match row.inner {
            Some(inner) if inner.stop_is_waitable => signal(inner.stopped_by) + "+",
            Some(inner) => signal(inner.stopped_by),
            None if row.is_stopped => "yes".to_owned(),
            None => none(),
        };
        [
            if self.threads {
                format!("{}/{}", row.pid, row.tid)
            } else {
                row.pid.to_string()
            },
            user.to_owned(),
            row.comm.to_string(),
            stopped,
            row.inner.map_or_else(none, |inner| {
                let more = if inner.more { "+" } else { "" };
                format!("{}{more}", inner.queued)
            }),
            row.inner.map_or_else(none, |inner| signal(inner.oldest)),
            set(row.pending),
            set(row.blocked),
            set(row.ignored),
            set(row.caught),
        ]
    }
}

/// Each user is looked up once.
pub fn user_of<'u>(row: &Row, users: &'u mut HashMap<u32, String>) -> &'u str {
    users.entry(row.uid).or_insert_with(|| name_of(row.uid))
}

fn name_of(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

impl From<TaskSignals> for Row {
    fn from(task: TaskSignals) -> Row {
        // The process's queue is told once, with the leader.
        let leader = Tid::from(task.pid) == task.tid;
        let shared = if leader {
            task.shared_queue
        } else {
            Default::default()
        };
        let full = |entries: u32| entries >= MOST_COUNTED;
        Row {
            inner: Some(Inner {
                queued: task.queue.entries + shared.entries,
                more: full(task.queue.entries) || full(shared.entries),
                oldest: shared.oldest.or(task.queue.oldest),
                stopped_by: task.stopped_by,
                stop_is_waitable: task.stop_is_waitable,
            }),
            pid: task.pid,
            tid: task.tid,
            parent: task.parent,
            tracer: task.tracer,
            comm: task.comm,
            uid: task.uid,
            threads: task.threads,
            is_kernel: task.is_kernel,
            is_zombie: task.is_zombie,
            is_stopped: task.stopped_by.is_some(),
            pending: task.pending.union(if leader {
                task.shared_pending
            } else {
                SigSet::EMPTY
            }),
            blocked: task.blocked,
            ignored: task.ignored,
            caught: task.caught,
        }
    }
}

/// One row for each process, made of its threads' rows.
fn processes(rows: Vec<Row>) -> Vec<Row> {
    rows.chunk_by(|one, next| one.pid == next.pid)
        .filter_map(|threads| {
            let (leader, others) = threads.split_first()?;
            let mut process = leader.clone();
            // A leader that has ended before its process blocks nothing any more.
            if leader.is_zombie && !others.is_empty() {
                process.is_zombie = false;
                process.blocked = SigSet::FULL;
            }
            for other in others {
                process.pending = process.pending.union(other.pending);
                process.blocked = process.blocked.intersection(other.blocked);
                if let (Some(all), Some(one)) = (&mut process.inner, other.inner) {
                    all.queued = all.queued.saturating_add(one.queued);
                    all.more |= one.more;
                    all.oldest = all.oldest.or(one.oldest);
                }
            }
            Some(process)
        })
        .collect()
}

fn instead(why: &dyn std::error::Error) -> String {
    format!("{why}; /proc is read instead, which does not show queues and stop signals")
}

/// What /proc shows of all threads. What ends meanwhile is left out.
fn of_proc() -> Result<Vec<Row>, Failure> {
    let mut rows: Vec<Row> = proc::all().into_iter().flat_map(threads_of_proc).collect();
    if rows.is_empty() {
        return Err("/proc shows no process: it is not mounted, or hides them (hidepid)".into());
    }
    sort(&mut rows);
    Ok(rows)
}

fn threads_of_proc(pid: Pid) -> Vec<Row> {
    let row = |tid: Tid| {
        let status = Status::from_file(format!("/proc/{pid}/task/{tid}/status")).ok()?;
        // procfs ends a name at its first colon.
        let own = SignalStatus::read(pid, tid).ok()?;
        Some(Row::of_status(pid, own, tid, status))
    };
    let tids = proc::threads(pid).unwrap_or_default();
    tids.into_iter().filter_map(row).collect()
}

/// With the processes that /proc shows and the pass did not: there are machines whose kernel keeps some from BPF.
fn completed(mut rows: Vec<Row>) -> Vec<Row> {
    let listed: HashSet<Pid> = rows.iter().map(|row| row.pid).collect();
    let missing = proc::all().into_iter().filter(|pid| !listed.contains(pid));
    rows.extend(missing.flat_map(threads_of_proc));
    sort(&mut rows);
    rows
}

fn sort(rows: &mut [Row]) {
    rows.sort_by_key(|row| (row.pid, Tid::from(row.pid) != row.tid, row.tid));
}

impl Row {
    fn of_status(pid: Pid, own: SignalStatus, tid: Tid, status: Status) -> Row {
        let leader = Tid::from(pid) == tid;
        let shared = if leader {
            own.shared_pending
        } else {
            SigSet::EMPTY
        };
        let is = |letters: &str| status.state.starts_with(|c| letters.contains(c));
        Row {
            inner: None,
            pid,
            tid,
            parent: Pid::new(status.ppid),
            tracer: Tid::new(status.tracerpid),
            uid: status.ruid,
            threads: u32::try_from(status.threads).unwrap_or(u32::MAX),
            // Only the kernel's threads have no memory while they live.
            is_kernel: status.vmsize.is_none() && !is("ZX"),
            is_zombie: is("ZX"),
            is_stopped: is("T"),
            pending: own.pending.union(shared),
            blocked: own.blocked,
            ignored: own.ignored,
            caught: own.caught,
            comm: own.comm,
        }
    }
}
