//! `criu-signals show`: the signal state of processes, for people and for programs.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use criu_signals::images::json::{self, Besides};
use criu_signals::images::{
    Aspect, CallTable, Disposition, EndedBy, InterruptedCall, NsIds, Pending, Printable,
    ProcessState, Rlimit, SigSet, SignalFiles, ThreadState,
};
use criu_signals::machine::Machine;

use super::context::{Context, Failure};
use super::source::{self, Extent, Found, Loaded, Means, Observed, Origin};
use super::style::{BOLD, DIM, NAME, WARN};

/// How many entries of a queue are printed without --all.
const SUMMARY: usize = 10;
/// How many entries of a live process's queue are read without --all: so few that the stop does not become longer.
const READ: usize = 500;

/// Shows the signal state of live processes, of images, of all images in a folder, or of a core file.
///
/// Threads with the same state are shown together. Of a long queue only the first entries are shown, and only the first
/// entries are read from a live process, to keep the stop short. --all and --json read and show every entry.
/// Addresses of handlers are shown with function and file, if the files that the process has mapped have symbols.
/// For a live process, the open files that receive or cause its signals are listed: signalfds, files with O_ASYNC, and message
/// queues that notify the process.
#[derive(clap::Args)]
#[command(after_help = format!("{}\n\n{EXAMPLES}\n\n{EXIT_CODES}", source::SOURCES))]
pub struct Show {
    /// Sources to show, in one of the forms below.
    #[arg(required = true, value_name = "PID|IMAGE|FOLDER|ARCHIVE|CORE")]
    what: Vec<String>,
    /// Print every entry of long queues.
    #[arg(long)]
    all: bool,
    /// Print one JSON document per process, one per line, in the format of `decode`. The field "not_recorded" lists
    /// what the source does not record; "names" has function and file of handlers and restorers; "clocks" has the timerfds and
    /// the RLIMIT_CPU of a live process.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    means: Means,
}

const EXAMPLES: &str = "\
Examples:
  criu-signals show 4711
  criu-signals show --no-stop 4711
  criu-signals show images/
  criu-signals show criu:images/
  criu-signals show checkpoint.tar.zst
  criu-signals show core.4711
  criu-signals show --json 4711 | jq .process.comm";

const EXIT_CODES: &str = "\
Exit codes:
  0  every source was shown
  2  a source, or an image of a folder or archive, could not be read; the others were shown";

impl Show {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        context.work_in_child()?;
        let mut out = context.stdout();
        let extent = if self.all || self.json {
            Extent::Whole
        } else {
            Extent::AtMost(READ)
        };
        let mut code = ExitCode::SUCCESS;
        let mut first = true;
        for what in &self.what {
            let means = self.means.and_files();
            let (found, failures) = match source::load(what, context, extent, means) {
                Ok(Loaded { found, unreadable }) => {
                    (found, unreadable.into_iter().map(|of| of.why).collect())
                }
                Err(e) => (Vec::new(), vec![e]),
            };
            // The others are of interest all the same.
            for failure in failures {
                super::context::say(&*failure);
                code = ExitCode::from(super::context::FAILED);
            }
            for found in &found {
                if self.json {
                    let clocks = found.observed.clocks.as_ref();
                    let besides = Besides {
                        names: found.known_names(),
                        clocks: clocks.and_then(|clocks| clocks.as_ref().ok()),
                        files: Some(&found.observed.files),
                    };
                    let line = json::to_json_line(&found.recorded, &besides)?;
                    writeln!(out, "{line}")?;
                    continue;
                }
                if !std::mem::take(&mut first) {
                    writeln!(out)?;
                }
                Table {
                    out: &mut out,
                    found,
                    all: self.all,
                }
                .process()?;
            }
        }
        Ok(code)
    }
}

/// Prints one process.
pub fn table(found: &Found, out: &mut impl Write) -> io::Result<()> {
    let all = false;
    Table { out, found, all }.process()
}

/// Of the column of labels.
const WIDTH: usize = 16;

struct Table<'t, W> {
    out: &'t mut W,
    found: &'t Found,
    all: bool,
}

impl<W: Write> Table<'_, W> {
    /// By which its system calls are numbered.
    fn calls(&self) -> CallTable {
        self.found.recorded.image.calls()
    }

    fn row(&mut self, indent: usize, label: &str, value: &str) -> io::Result<()> {
        let width = WIDTH - indent;
        writeln!(self.out, "{:indent$}{DIM}{label:width$}{DIM:#} {value}", "")
    }

    /// A row whose value the source may not have.
    fn known(&mut self, indent: usize, label: &str, aspect: Aspect, value: &str) -> io::Result<()> {
        if self.has(aspect) {
            self.row(indent, label, value)
        } else {
            self.row(indent, label, &format!("{DIM}not recorded{DIM:#}"))
        }
    }

    fn has(&self, aspect: Aspect) -> bool {
        self.found.recorded.has(aspect)
    }

    fn process(&mut self) -> io::Result<()> {
        let found = self.found;
        let process = &found.recorded.image.process;
        self.heading(process)?;
        self.limit(process)?;
        self.taken_out(process)?;
        self.for_parent(process)?;
        self.dispositions(process)?;
        let depths: Vec<usize> = match &found.depths {
            Some(depths) => depths.clone(),
            None => process
                .queues()
                .map(|pending| pending.queue.len())
                .collect(),
        };
        // The shared queue's is the last.
        let shared = depths.last().copied().unwrap_or(0);
        if self.has(Aspect::SharedQueue) {
            self.pending(2, "shared", &process.shared, shared)?;
        } else {
            self.known(2, "shared", Aspect::SharedQueue, "")?;
        }
        self.timers(process)?;
        self.clocks()?;
        self.files()?;
        self.threads(&process.threads, &depths)
    }

    /// Which process it is, and how its state was read.
    fn heading(&mut self, process: &ProcessState) -> io::Result<()> {
        let found = self.found;
        let kind = if process.compat { ", 32-bit" } else { "" };
        writeln!(
            self.out,
            "{BOLD}{}{BOLD:#} ({NAME}{}{NAME:#}{kind}), {}",
            Printable::from(&found.name),
            process.comm,
            self.state()
        )?;
        self.row(2, "pid", &pids(process, found.origin))?;
        if !found.observed.surroundings.is_empty() {
            self.row(2, "read", "by BPF, without a stop")?;
        }
        if let Some(EndedBy {
            siginfo: Some(info),
            ..
        }) = &found.recorded.ended_by
        {
            self.row(2, "siginfo", &info.to_string())?;
        }
        if found.origin != Origin::Live {
            let machine = Machine::recorded_in(&found.recorded.image);
            self.row(2, "dumped on", &machine.to_string())?;
        }
        Ok(())
    }

    fn taken_out(&mut self, process: &ProcessState) -> io::Result<()> {
        if process.taken_out.is_empty() {
            return Ok(());
        }
        let reasons: Vec<String> = process.taken_out.iter().map(ToString::to_string).collect();
        let text = format!("{WARN}for the dump{WARN:#}: {}", reasons.join(", "));
        self.row(2, "taken out", &text)
    }

    /// The status that the parent can wait for, and the signal that the parent is sent.
    fn for_parent(&mut self, process: &ProcessState) -> io::Result<()> {
        let wait = if self.has(Aspect::WaitStatus) {
            process.wait_status.to_string()
        } else if self.found.origin == Origin::Live {
            format!("{DIM}not known: only the parent can read it{DIM:#}")
        } else {
            format!("{DIM}not recorded{DIM:#}")
        };
        self.row(2, "wait status", &wait)?;
        let exit = process
            .exit_signal
            .map_or_else(String::new, |signal| signal.to_string());
        self.known(2, "exit signal", Aspect::ExitSignal, &exit)
    }

    fn files(&mut self) -> io::Result<()> {
        let found = self.found;
        let SignalFiles { files, unknown } = &found.observed.files;
        if !files.is_empty() {
            self.row(2, "signal files", &files.len().to_string())?;
        }
        self.descriptors(files.iter().map(|file| (file.fd, file)))?;
        if let Some(why) = unknown {
            let text = format!("{DIM}not all are known: {}{DIM:#}", Printable::from(why));
            self.row(2, "signal files", &text)?;
        }
        Ok(())
    }

    fn state(&self) -> String {
        let recorded = &self.found.recorded;
        match &recorded.ended_by {
            Some(ended_by) => format!("core of {WARN}{}{WARN:#}", ended_by.signo),
            None if self.has(Aspect::RunState) => recorded.image.process.run_state.to_string(),
            None => "core without a signal".to_owned(),
        }
    }

    fn limit(&mut self, process: &ProcessState) -> io::Result<()> {
        let mut text = process.rlimit_sigpending.to_string();
        if self.has(Aspect::Charged) {
            text += &format!("; {} siginfos are charged to its user", process.queued);
        }
        if let Some(lent) = process.lent_limit {
            text += &format!("; {WARN}in CRIU's image{WARN:#} {lent}");
        }
        self.known(2, "pending limit", Aspect::Limit, &text)
    }

    fn dispositions(&mut self, process: &ProcessState) -> io::Result<()> {
        let mut changed = 0;
        // Signals with the same disposition, in the order of the first of each.
        let mut groups: Vec<(Disposition, SigSet)> = Vec::new();
        for (signo, disposition) in process.dispositions.iter() {
            if *disposition == Disposition::DEFAULT {
                continue;
            }
            changed += 1;
            match groups.iter_mut().find(|(known, _)| known == disposition) {
                Some((_, signals)) => signals.insert(signo),
                None => groups.push((*disposition, signo.into())),
            }
        }
        let text = match changed {
            0 => "all default".to_owned(),
            n => format!("{n} of 64 not default"),
        };
        self.known(2, "dispositions", Aspect::Dispositions, &text)?;
        if let Err(why) = &self.found.names {
            let text = format!("{DIM}not known: {}{DIM:#}", Printable::from(why));
            self.row(4, "names", &text)?;
        }
        for (disposition, signals) in groups {
            let mut label = signals.to_string();
            if label.len() > WIDTH - 4 {
                writeln!(self.out, "    {DIM}{label}{DIM:#}")?;
                label.clear();
            }
            let named = disposition.named(self.found.known_names());
            self.row(4, &label, &named.to_string())?;
        }
        Ok(())
    }

    fn timers(&mut self, process: &ProcessState) -> io::Result<()> {
        if !self.has(Aspect::Timers) {
            return self.known(2, "POSIX timers", Aspect::Timers, "");
        }
        if process.timers.is_empty() {
            return Ok(());
        }
        let text = if self.has(Aspect::TimerEntries) {
            process.timers.len().to_string()
        } else {
            format!(
                "{} {DIM}(whose entries are pending is not recorded){DIM:#}",
                process.timers.len()
            )
        };
        self.row(2, "POSIX timers", &text)?;
        for timer in &process.timers {
            let armed = match timer.remaining {
                0 => "not armed".to_owned(),
                left => format!("{} left", seconds(left)),
            };
            self.row(
                4,
                &format!("timer {}", timer.id),
                &format!("{timer}, {armed}"),
            )?;
        }
        Ok(())
    }

    fn clocks(&mut self) -> io::Result<()> {
        let recorded = &self.found.recorded.image.process.clocks;
        let clocks = match (&self.found.observed.clocks, recorded) {
            (Some(Ok(clocks)), _) | (None, Some(clocks)) => clocks,
            (None, None) => return Ok(()),
            (Some(Err(why)), _) => {
                let text = format!("{DIM}not known: {}{DIM:#}", Printable::from(why));
                return self.row(2, "timerfds", &text);
            }
        };
        if clocks.cpu.limit.soft != Rlimit::INFINITY {
            self.row(2, "CPU limit", &clocks.cpu.to_string())?;
        }
        let (count, unknown) = (clocks.timerfds.len(), clocks.not_looked_at);
        if unknown > 0 {
            let text = format!("{count} {DIM}({unknown} descriptors were not looked at){DIM:#}");
            self.row(2, "timerfds", &text)?;
        } else if count > 0 {
            self.row(2, "timerfds", &count.to_string())?;
        }
        self.descriptors(clocks.timerfds.iter().map(|timer| (timer.fd, timer)))
    }

    /// A line for each, by its number; of many only the first.
    fn descriptors<D: Display>(
        &mut self,
        mut all: impl ExactSizeIterator<Item = (i32, D)>,
    ) -> io::Result<()> {
        let shown = if self.all { all.len() } else { SUMMARY };
        for (fd, what) in all.by_ref().take(shown) {
            self.row(4, &format!("fd {fd}"), &what.to_string())?;
        }
        match all.len() {
            0 => Ok(()),
            more => self.row(4, "...", &format!("and {more} more (--all)")),
        }
    }

    fn pending(
        &mut self,
        indent: usize,
        label: &str,
        pending: &Pending,
        depth: usize,
    ) -> io::Result<()> {
        if pending.bits.is_empty() {
            let none = "nothing pending";
            let of_low = format!("{none} {DIM}(of signals 1 to 32){DIM:#}");
            let all = self.has(Aspect::HighSignals);
            return self.row(indent, label, if all { none } else { &of_low });
        }
        if !self.has(Aspect::Entries) {
            let text = format!(
                "{NAME}{}{NAME:#} {DIM}(how many entries, and their siginfos, is not recorded){DIM:#}",
                pending.bits
            );
            return self.row(indent, label, &text);
        }
        let entries = match depth {
            1 => "1 entry".to_owned(),
            n => format!("{n} entries"),
        };
        let text = format!("{entries}: {NAME}{}{NAME:#}", pending.bits);
        self.row(indent, label, &text)?;
        let shown = if self.all { depth } else { SUMMARY };
        for (n, info) in pending.queue.iter().take(shown).enumerate() {
            self.row(indent + 2, &(n + 1).to_string(), &info.to_string())?;
        }
        if let Some(more) = depth.checked_sub(shown).filter(|&n| n > 0) {
            self.row(indent + 2, "...", &format!("and {more} more (--all)"))?;
        }
        // Where not all was read, an entry may stand further behind.
        let bare = pending.bits_without_info();
        if !bare.is_empty() && pending.queue.len() == depth {
            let text = format!("{WARN}{bare}{WARN:#}: pending without siginfo");
            self.row(indent + 2, "-", &text)?;
        }
        Ok(())
    }

    fn threads(&mut self, threads: &[ThreadState], depths: &[usize]) -> io::Result<()> {
        let groups = groups(threads, &self.found.observed);
        let count = match threads.len() {
            n if groups.len() == n => format!("{n} threads"),
            n if groups.len() == 1 => format!("{n} threads in 1 state"),
            n => format!("{n} threads in {} states", groups.len()),
        };
        if self.has(Aspect::Threads) {
            // One needs no heading.
            if threads.len() > 1 {
                writeln!(self.out, "  {BOLD}{count}{BOLD:#}")?;
            }
        } else {
            writeln!(
                self.out,
                "  {BOLD}the leader{BOLD:#} {DIM}(other threads are not recorded){DIM:#}"
            )?;
        }
        for group in groups {
            let Some((first, depth)) = group
                .first()
                .and_then(|&at| Some((threads.get(at)?, *depths.get(at)?)))
            else {
                continue;
            };
            let members: Vec<&ThreadState> =
                group.iter().filter_map(|&at| threads.get(at)).collect();
            self.thread(&members, first, depth)?;
        }
        Ok(())
    }

    fn thread(
        &mut self,
        members: &[&ThreadState],
        first: &ThreadState,
        depth: usize,
    ) -> io::Result<()> {
        let name = match members {
            [_] => "thread",
            _ => "threads",
        };
        writeln!(
            self.out,
            "  {BOLD}{name}{BOLD:#} {}",
            tids(members.iter().map(|thread| &thread.ids))
        )?;
        self.masks(first)?;
        self.altstack(members, first)?;
        if !self.has(Aspect::Handlers) {
            self.known(4, "in a handler", Aspect::Handlers, "")?;
        }
        if let Some(signo) = first.in_handler {
            let text =
                format!("{WARN}of {signo}{WARN:#}: the mask is in force until the handler returns");
            self.row(4, "in a handler", &text)?;
        }
        if !self.has(Aspect::ParentDeathSignals) {
            self.known(4, "parent death", Aspect::ParentDeathSignals, "")?;
        }
        if let Some(signo) = first.parent_death_signal {
            self.row(4, "parent death", &signo.to_string())?;
        }
        self.system_call(members, first)?;
        self.surroundings(first)?;
        self.pending(4, "private", &first.pending, depth)
    }

    fn masks(&mut self, thread: &ThreadState) -> io::Result<()> {
        let lasting = thread.lasting_mask().to_string();
        self.known(4, "blocked", Aspect::Masks, &lasting)?;
        if !self.has(Aspect::HighSignals) {
            self.known(4, "33 to 64", Aspect::HighSignals, "")?;
        }
        if !self.has(Aspect::LastingMask) {
            let text = format!("{DIM}not recorded, where a call has put the mask in force{DIM:#}");
            self.row(4, "lasting mask", &text)?;
        }
        if thread.saved_mask.is_some() {
            let text = format!("{} (until the present call has ended)", thread.blocked);
            self.row(4, "in force", &text)?;
        }
        Ok(())
    }

    fn altstack(&mut self, members: &[&ThreadState], first: &ThreadState) -> io::Result<()> {
        let stack = first.altstack.to_string();
        let mut members = members.iter();
        let stack = if members.all(|thread| thread.altstack == first.altstack) {
            stack
        } else {
            format!("each its own, like {stack}")
        };
        self.known(4, "altstack", Aspect::AltStacks, &stack)
    }

    /// The call that the threads wait in.
    fn system_call(&mut self, members: &[&ThreadState], first: &ThreadState) -> io::Result<()> {
        let calls = self.calls();
        if let Some(call) = first.interrupted {
            let mut members = members.iter();
            let left = |thread: &ThreadState| thread.interrupted.and_then(|call| call.remaining);
            let same = members.all(|thread| left(thread) == call.remaining);
            return self.row(4, "waits in", &waits(&call, calls, same));
        }
        if let Some(number) = self.found.observed.around(first).0 {
            return self.row(4, "waits in", &calls.call(number).to_string());
        }
        if self.found.origin != Origin::Live && !self.has(Aspect::InterruptedCalls) {
            return self.known(4, "waits in", Aspect::InterruptedCalls, "");
        }
        Ok(())
    }
}

impl<W: Write> Table<'_, W> {
    fn surroundings(&mut self, thread: &ThreadState) -> io::Result<()> {
        let (_, tracer, seccomp, dispatch) = self.found.observed.around(thread);
        if let Some(tracer) = tracer {
            self.row(4, "traced by", &format!("{WARN}thread {tracer}{WARN:#}"))?;
        }
        match seccomp {
            0 => {}
            1 => self.row(4, "seccomp", "strict")?,
            _ => self.row(4, "seccomp", "by a filter")?,
        }
        if let Some([selector, begin, length]) = dispatch {
            let text = format!(
                "system calls are SIGSYS if the byte at {selector:#x} says so, but for {length} bytes at {begin:#x}"
            );
            self.row(4, "user dispatch", &text)?;
        }
        Ok(())
    }
}

/// The indices of threads whose state is the same, but for addresses of stacks and code and for times that are left.
fn groups(threads: &[ThreadState], observed: &Observed) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (at, thread) in threads.iter().enumerate() {
        let same = |group: &&mut Vec<usize>| {
            group
                .first()
                .and_then(|&first| threads.get(first))
                .is_some_and(|first| {
                    is_alike(first, thread) && observed.around(first) == observed.around(thread)
                })
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
    }
    groups
}

fn is_alike(a: &ThreadState, b: &ThreadState) -> bool {
    let call = |thread: &ThreadState| {
        let call = thread.interrupted?;
        Some((call.number, call.code, call.whole_timeout, call.timeout))
    };
    let stack = |thread: &ThreadState| (thread.altstack.flags, thread.altstack.size);
    (a.blocked, a.saved_mask, a.parent_death_signal, a.in_handler)
        == (b.blocked, b.saved_mask, b.parent_death_signal, b.in_handler)
        && a.pending == b.pending
        && stack(a) == stack(b)
        && call(a) == call(b)
}

/// The pids of a process, and what each means.
pub fn pids(process: &ProcessState, origin: Origin) -> String {
    let own = match process.pid_ns {
        0 => "its own pid namespace".to_owned(),
        inode => format!("pid:[{inode}]"),
    };
    let (outer, inner) = (process.ids.outermost(), process.ids.innermost());
    if process.ids.as_slice().len() == 1 {
        return format!("{inner} in {own}");
    }
    let place = match origin {
        Origin::Live => "here",
        Origin::Ours | Origin::Criu | Origin::Core => "where it was dumped",
    };
    format!("{outer} {place}, {inner} in its own {own}, to which all pids below belong")
}

/// `41, 43..47`: the ids in the processes' own pid namespace, and in brackets those outside if they differ.
fn tids<'t>(ids: impl Iterator<Item = &'t NsIds>) -> String {
    let ids: Vec<&NsIds> = ids.collect();
    let own = ranges(ids.iter().map(|ids| ids.innermost()));
    let count = match ids.len() {
        1 => String::new(),
        n => format!(" ({n})"),
    };
    if ids.iter().all(|ids| ids.as_slice().len() == 1) {
        return own + &count;
    }
    format!(
        "{own}{count}, outside {}",
        ranges(ids.iter().map(|ids| ids.outermost()))
    )
}

/// `41, 43..47`.
fn ranges(numbers: impl Iterator<Item = i32>) -> String {
    let mut numbers: Vec<i32> = numbers.collect();
    numbers.sort_unstable();
    let runs = numbers.chunk_by(|low, high| low.checked_add(1) == Some(*high));
    let texts: Vec<String> = runs
        .map(|run| match run {
            [first, _, .., last] => format!("{first}..{last}"),
            few => few
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        })
        .collect();
    texts.join(", ")
}

fn waits(call: &InterruptedCall, table: CallTable, same_time: bool) -> String {
    let name = table.call(call.number);
    let left = match call.remaining {
        Some(left) if same_time => format!(", {} left", seconds(left)),
        Some(_) => ", each with its own time left".to_owned(),
        None if call.whole_timeout => match call.timeout {
            Some(whole) => format!(", whole timeout of {}", seconds(whole)),
            None => ", whole timeout".to_owned(),
        },
        None => String::new(),
    };
    format!("{name} ({}){left}", call.code)
}

fn seconds(nanoseconds: u64) -> String {
    format!(
        "{}.{:03} s",
        nanoseconds / 1_000_000_000,
        nanoseconds / 1_000_000 % 1000
    )
}

#[cfg(test)]
mod tests {
    use criu_signals::images::{Arch, SigNo};

    use super::*;

    fn ids<const N: usize>(ids: [i32; N]) -> NsIds {
        NsIds::new(ids.to_vec()).unwrap()
    }

    #[test]
    fn ids_are_folded_and_told_apart() {
        let many: Vec<NsIds> = [41, 43, 44, 45, 50, 51].map(|id| ids([id])).to_vec();
        assert_eq!(tids(many.iter()), "41, 43..45, 50, 51 (6)");
        assert_eq!(tids([ids([4711, 7])].iter()), "7, outside 4711");
    }

    #[test]
    fn threads_are_alike_whatever_the_addresses() {
        let mut threads: Vec<ThreadState> =
            (1..=4).map(|id| ThreadState::bare(ids([id]))).collect();
        threads[1].altstack.sp = 4096;
        threads[2].blocked = SigNo::HUP.into();
        assert_eq!(
            groups(&threads, &Observed::default()),
            [vec![0, 1, 3], vec![2]]
        );
    }

    #[test]
    fn calls_have_names() {
        let table = |compat| CallTable {
            arch: Some(Arch::X86_64),
            compat,
        };
        let call = InterruptedCall {
            number: 34,
            code: criu_signals::images::RestartCode::UnlessHandled,
            ip: 0,
            remaining: None,
            whole_timeout: false,
            timeout: None,
        };
        assert_eq!(waits(&call, table(false), true), "pause (ERESTARTNOHAND)");
        let call = InterruptedCall {
            number: 29,
            remaining: Some(1_500_000_000),
            ..call
        };
        assert_eq!(
            waits(&call, table(true), true),
            "pause (ERESTARTNOHAND), 1.500 s left"
        );
    }
}
