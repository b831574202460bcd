//! `criu restore`: compares every process with its captured state, and repairs differences, while CRIU holds all
//! processes stopped after restoring them.

mod images;

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use crate::criu::{AfterFailure, HookError, Host};
use crate::engine::repair::Report;
use crate::engine::repair::{Done, Mode, Verdict, check};
use crate::error::{Cause, Error, Phase, Result};
use crate::fault::{self, Point};
use crate::image_folder;
use crate::log_lines;
use crate::losses::altstack_fit;
use crate::losses::zombies;
use crate::machine;
use crate::proc;
use crate::process::pidfd::PidFd;
use crate::run_report::{Document, Outcome, Process};
use crate::tracee::{ByHost, StoppedProcess, rlimit};
use criu_signals_images::criu_images::Ended;
use criu_signals_images::image::Allowance;
use criu_signals_images::{Field, Image, ImageError, Pid, ProcessState, Rlimit, image};
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::checkpoint::INVENTORY_NAME;
use crate::checkpoint::options::{Options, Policy};
use crate::checkpoint::parent_death::{self, Postponed};
use crate::checkpoint::recorder::Recorder;
use crate::checkpoint::stream::Incoming;
use crate::checkpoint::told::ByBpf;
use crate::losses::not_compared;
use crate::losses::notices::{Notice, Notices};
use crate::losses::parents::Ties;
use crate::losses::timeouts::Anew;

/// With any policy: the process would run on without these signals.
const NOT_BACK: &str = "signals that the dump has taken out of the process are not back. The restore fails, and the images are \
                        as good as before";

/// An RLIMIT_SIGPENDING that criu needs to restore the queues, and the process's own.
struct Lent {
    lent: Rlimit,
    own: Rlimit,
}

/// The state of a restore.
pub struct Restore {
    host: Host,
    /// Does CRIU's inventory say that these images need this plugin? `None`: CRIU keeps none.
    recorded: Option<bool>,
    options: Options,
    notices: Notices,
    /// Images that were not used yet, by the pid in their names.
    left: Vec<i32>,
    /// The stream that the images come from, if CRIU streams its own.
    incoming: Option<Incoming>,
    /// The images, as read before CRIU restored a process. The folder is not read again: it may have changed.
    read: HashMap<i32, std::result::Result<Image, ImageError>>,
    /// Processes, by the pid in the names of their images, whose signals the dump has taken out: only this plugin has these
    /// signals.
    owed: HashSet<i32>,
    /// The limits of processes whose RLIMIT_SIGPENDING the dump has raised in CRIU's image, by their innermost ids.
    lent: HashMap<i32, Lent>,
    /// Processes that make the restore fail.
    refused: HashSet<Pid>,
    /// How many more siginfos and timers may be read.
    allowance: Allowance,
    recorder: Recorder,
    /// See [`Restore::bind`].
    bound: bool,
    /// Processes that had ended when they were dumped.
    ended: Vec<Ended>,
    by_bpf: ByBpf,
    /// The processes that were handed over.
    held: HashMap<Pid, PidFd>,
    /// How many parent-death signals of each process are set after the restore.
    postponed: HashMap<Pid, usize>,
}

impl Restore {
    /// Begins a restore. Next is [`examine`](Self::examine).
    ///
    /// # Errors
    /// Only those of fault points.
    pub fn begin(
        host: Host,
        options: Options,
        recorder: Recorder,
    ) -> std::result::Result<Restore, HookError> {
        fault::point(Point::RestoreBegin)?;
        let recorded = host.check_and_remove_inventory_plugin(INVENTORY_NAME);
        Ok(Restore {
            host,
            recorded,
            notices: Notices::default(),
            left: Vec::new(),
            incoming: None,
            read: HashMap::new(),
            owed: HashSet::new(),
            lent: HashMap::new(),
            refused: HashSet::new(),
            allowance: machine::allowance(options.max_siginfos),
            options,
            recorder,
            bound: false,
            ended: Vec::new(),
            by_bpf: ByBpf::default(),
            held: HashMap::new(),
            postponed: HashMap::new(),
        })
    }

    /// Looks at the images before anything is restored.
    ///
    /// # Errors
    /// If the options forbid a restore from these images, or if this machine cannot restore them.
    pub fn examine(&mut self) -> std::result::Result<(), HookError> {
        self.find_images()?;
        let policy = self.options.policy;
        if self.left.is_empty() {
            // The inventory does not name the plugin either: these images were made without it.
            let what = "these images hold no signal state: the dump ran without this plugin, or the plugin's files \
                        were removed";
            if policy == Policy::Strict {
                return Err(HookError::new(Errno::ENOENT, what));
            }
            if self.recorded == Some(true) {
                self.recorder.error(what);
            } else {
                log::warn!("{what}");
            }
        }
        log::info!("policy={policy}, {} processes to check", self.left.len());
        self.prepare_ended();
        let checked = self.check_images();
        self.recorder.notices(self.notices.take_said());
        checked
    }

    /// Finds out which processes have images.
    fn find_images(&mut self) -> std::result::Result<(), HookError> {
        let Some(stream) = self.host.image_stream()? else {
            self.left = image_folder::captured_processes(self.host.image_dir()?)?;
            return Ok(());
        };
        let incoming = Incoming::begin(stream)?;
        let list = incoming.list();
        self.left.clone_from(&list.processes);
        let complete = list.complete;
        self.incoming = Some(incoming);
        if complete {
            return Ok(());
        }
        let what = "the list of images in the stream has no end: the dump has failed, or the stream was cut off";
        if self.options.policy == Policy::Strict {
            return Err(HookError::new(
                Errno::EIO,
                format!("{what}. Nothing is restored (policy=strict)"),
            ));
        }
        self.recorder.error(what);
        Ok(())
    }

    /// The end of a restore that [`examine`](Self::examine) has refused because of `why`. Returns the report.
    #[must_use]
    pub fn refused(self, why: String) -> Document {
        self.recorder.finish(None, Some(why))
    }

    /// CRIU forks the processes that had ended, and lets them end in its own way.
    fn prepare_ended(&mut self) {
        // Only CRIU may take its images out of a stream. The dump has logged the losses.
        if self.incoming.is_some() {
            return;
        }
        let prepared = self
            .host
            .image_dir()
            .map_err(|e| e.to_string())
            .and_then(|dir| zombies::dumped(dir).map_err(|e| e.to_string()))
            .and_then(|ended| {
                self.ended = ended;
                zombies::end_with_whole_status(&self.ended).map_err(|e| e.to_string())
            });
        if let Err(e) = prepared {
            log::warn!(
                "{e}: exit statuses above 127 of children that were not waited for are restored without their highest \
                 bit"
            );
        }
    }

    /// Checks one process.
    ///
    /// # Errors
    /// If the policy is `strict` and the process is not as it was captured, or if signals that the dump has taken out are not
    /// back: without them the process may not run. The error makes the restore fail: by [`Restore::after_failure`] up to CRIU
    /// 4.2, which ignores what the hook returns, and by itself from 4.3 on.
    pub fn check(&mut self, pid: Pid) -> std::result::Result<(), HookError> {
        let started = Instant::now();
        // Without a pidfd the process is identified by its pid, when it has to be killed.
        if let Ok(held) = PidFd::open(pid) {
            self.held.insert(pid, held);
        }
        if let Ok(innermost) = image_folder::innermost(pid) {
            self.left.retain(|&left| left != innermost);
        }
        let compared = self.compare(pid);
        let owes = match &compared {
            Ok((report, process)) => !process.taken_out.is_empty() && report.lacks_signals(),
            Err(_) => self.owes(pid),
        };
        let (verdict, mut record) = match compared {
            Ok((report, process)) => self.compared(report, process),
            Err(e) => {
                log::error!("pid {pid}: verdict={}", Verdict::Failed);
                log::error!("{e}");
                self.take_back_limit(pid);
                let record = Process {
                    pid: Some(pid.get()),
                    pid_in_namespace: image_folder::innermost(pid).ok(),
                    errors: vec![e.to_string()],
                    ..Process::new(Outcome::Failed)
                };
                (Verdict::Failed, record)
            }
        };
        let refused = (self.options.policy == Policy::Strict && verdict == Verdict::Failed) || owes;
        if refused {
            self.refused.insert(pid);
            record.outcome = Outcome::Refused;
            self.recorder.refuse();
        }
        record.notices = self.notices.take_said();
        self.recorder.process(record, started);
        if refused {
            let why = if owes {
                NOT_BACK
            } else {
                "signal state differs from the captured state, and policy=strict"
            };
            return Err(HookError::new(Errno::EIO, why));
        }
        Ok(())
    }

    /// Restores the RLIMIT_SIGPENDING of a process that could not be checked, if its image was readable before: the
    /// raised limit in CRIU's image comes from this library.
    fn take_back_limit(&self, pid: Pid) {
        let innermost = image_folder::innermost(pid).ok();
        let Some(Lent { lent, own }) = innermost.and_then(|id| self.lent.get(&id)) else {
            return;
        };
        // From outside: what has kept the process from being checked may keep calls from being injected.
        let put_back = || match rlimit::sigpending(pid)? == *lent {
            true => rlimit::set_sigpending(pid, *own),
            false => Ok(()),
        };
        if let Err(e) = put_back() {
            log::error!(
                "{}: RLIMIT_SIGPENDING is still {lent}, which the dump set in criu's image; the process's own limit was {own}",
                e.during(Phase::Replay, pid)
            );
        }
    }

    /// Has the dump taken signals of this process out? Known only from the image, if it could be read.
    fn owes(&self, pid: Pid) -> bool {
        match image_folder::innermost(pid) {
            Ok(innermost) => self.owed.contains(&innermost),
            Err(_) => !self.owed.is_empty(),
        }
    }

    /// Logs what the comparison has found.
    fn compared(&mut self, report: Report, process: ProcessState) -> (Verdict, Process) {
        let (pid, verdict) = (report.pid, report.verdict());
        for line in log_lines::lines(&report) {
            match verdict {
                Verdict::Verified => log::info!("{line}"),
                Verdict::Repaired | Verdict::Differs => log::warn!("{line}"),
                Verdict::Failed => log::error!("{line}"),
            }
        }
        for (notice, lost) in &report.lost {
            let what = format!("pid {pid} ({}): {lost}", process.comm);
            self.notices.say(Notice::from(*notice), &what);
        }
        let mut not_compared = not_compared::parts(&process);
        if let Some(postponed) = self.postponed.get(&pid) {
            not_compared.push(format!(
                "parent-death signals, which are postponed ({postponed})"
            ));
        }
        if !not_compared.is_empty() {
            log::info!("{}", log_lines::not_compared(pid, &not_compared));
        }
        if let Err(e) = self.say(pid, &process) {
            log::warn!("{}", e.during(Phase::Verify, pid));
        }
        let record = Process {
            pid_in_namespace: Some(process.ids.innermost()),
            comm: Some(process.comm.into()),
            not_compared,
            ..Process::checked(&report)
        };
        (verdict, record)
    }

    fn compare(&mut self, pid: Pid) -> Result<(Report, ProcessState)> {
        let during = |e: Error| e.during(Phase::Verify, pid);
        self.bind(pid);
        fault::point(Point::RestoreHanded).map_err(during)?;
        let stopped = StoppedProcess::<ByHost>::of_host(pid).map_err(during)?;
        let image = self
            .image_of(pid)
            .and_then(|image| fault::point(Point::ImageRead).map(|()| image))
            .map_err(|e| e.during(Phase::Image, pid))?;
        let mode = if self.options.policy == Policy::Report {
            Mode::Report
        } else {
            Mode::Repair
        };
        let told = self.by_bpf.for_process(pid);
        let postponed = match mode {
            Mode::Report => None,
            Mode::Repair => postpone(&stopped, &image.process),
        };
        let Some(postponed) = postponed else {
            return Ok((check(&stopped, &image.process, mode, told)?, image.process));
        };
        let mut wanted = image.process.clone();
        for thread in &mut wanted.threads {
            thread.parent_death_signal = None;
        }
        let mut report = check(&stopped, &wanted, mode, told)?;
        // The signals were right. A signal that could not be cleared is logged, and the helper process sets none then.
        report.findings.retain(|(difference, done)| {
            difference.field != Field::ParentDeathSignal || *done == Done::NotPutBack
        });
        self.postponed.insert(pid, postponed);
        Ok((report, image.process))
    }

    /// From here until CRIU detaches, the restored processes end with criu: if criu is killed in between, no process runs
    /// on without a part of its signal state, and the images can be restored again.
    ///
    /// The first call, for the root, does that for all processes.
    fn bind(&mut self, root: Pid) {
        if std::mem::replace(&mut self.bound, true) {
            return;
        }
        let tree = proc::tree(root);
        let mut threads = 0;
        for &pid in &tree {
            let bound = StoppedProcess::<ByHost>::of_host(pid).and_then(|s| {
                threads += s.threads().len();
                s.end_with_tracer()
            });
            if let Err(e) = bound
                && !e.is_died()
            {
                log::warn!(
                    "{}: if criu is killed now, the process keeps running in an incomplete state",
                    e.during(Phase::Verify, pid)
                );
            }
        }
        self.by_bpf.prepare(tree.len(), threads);
    }

    /// Logs the losses that this process has from now on.
    fn say(&mut self, pid: Pid, process: &ProcessState) -> Result<()> {
        let exit_signal = proc::exit_signal_of_stopped(pid)?;
        self.say_death_signal(pid, process)?;
        if let (Some(was), Some(is)) = (process.exit_signal, exit_signal)
            && was != is
        {
            let what = format!(
                "pid {pid} ({}): its exit signal is {is} now, not {was} as before the dump: only clone(2) can set an \
                 exit signal",
                process.comm
            );
            self.notices.say(Notice::ExitSignal, &what);
        }
        // Children are listed by thread.
        if !self.ended.is_empty() {
            for what in zombies::at_restore(pid, &zombies::ended_children(pid)?, &self.ended) {
                self.notices.say(Notice::ExitStatus, &what);
            }
        }
        match Anew::find(process, self.options.long_timeout) {
            Some(anew) if anew.is_long() => self
                .notices
                .say(Notice::WholeTimeout, &anew.at_restore(pid)),
            Some(anew) => self
                .notices
                .note(Notice::WholeTimeout, &anew.at_restore(pid)),
            None => {}
        }
        for small in altstack_fit::too_small(process)
            .iter()
            .filter(|s| s.is_fatal())
        {
            log::warn!("pid {pid} ({}): restored, but {small}", process.comm);
        }
        Ok(())
    }

    fn say_death_signal(&mut self, pid: Pid, process: &ProcessState) -> Result<()> {
        let Some((signo, threads)) = Ties::from_state(process).death_signal() else {
            return Ok(());
        };
        let comm = &process.comm;
        if self.postponed.contains_key(&pid) {
            let what = format!(
                "pid {pid} ({comm}): its parent-death signal {signo}{threads} is postponed, because the end of criu, or of \
                 the program that has started criu, would send it. The process {} sets the signal again when the \
                 process has a parent that stays, and writes that to this log",
                parent_death::HELPER
            );
            self.notices.note(Notice::ParentDeathSignal, &what);
            return Ok(());
        }
        let criu = Pid::own();
        if proc::parent(pid)? == Some(criu) {
            let what = format!(
                "pid {pid} ({comm}): its parent-death signal is {signo}{threads}, and its parent is this criu, {criu}. With -d, \
                 criu's exit sends that signal: use --restore-sibling as well, from a program that stays"
            );
            self.notices.say(Notice::ParentDeathSignal, &what);
        }
        Ok(())
    }

    fn image_of(&mut self, pid: Pid) -> Result<Image> {
        let innermost = image_folder::innermost(pid)?;
        let name = image::file_name(innermost);
        let read = match self.read.remove(&innermost) {
            Some(read) => read.map(Some),
            // The image was looked for before, and does not exist.
            None if self.incoming.is_some() => Ok(None),
            None => {
                let dir = self.host.image_dir().map_err(|e| {
                    Error::new(
                        "find the image folder",
                        Cause::Unsupported(e.to_string().into()),
                    )
                })?;
                image::open_in_within(dir, innermost, &mut self.allowance)
            }
        };
        read.map_err(|e| Error::new(format!("read {name}"), Cause::Image(e)))?
            .ok_or_else(|| {
                Error::new(
                    format!("read {name}"),
                    Cause::Unsupported("the image is missing: nothing checked".into()),
                )
            })
    }

    /// The check of this process has failed, perhaps by a panic. Under `policy=strict`, and if signals that the dump has
    /// taken out are not back, the process is killed: without the process CRIU cannot finish, and kills the others.
    /// Otherwise the restore goes on, as it would without this plugin.
    pub fn after_failure(&mut self, pid: Pid) -> AfterFailure {
        if !self.recorder.has(pid) {
            // The panic has not been logged.
            log::error!("pid {pid}: verdict={}", Verdict::Failed);
            let process = Process {
                pid: Some(pid.get()),
                errors: vec![
                    "a bug in this plugin ended the check: the log has the location".to_owned(),
                ],
                ..Process::new(Outcome::Failed)
            };
            self.recorder.process(process, Instant::now());
            if self.owes(pid) {
                log::error!("pid {pid}: {NOT_BACK}");
                self.recorder.refuse();
                self.refused.insert(pid);
            }
        }
        let why = match self.options.policy {
            Policy::Strict => "policy=strict",
            _ if self.refused.contains(&pid) => "its signals are not back",
            _ => return AfterFailure::GoOn,
        };
        log::error!("pid {pid}: killed, so that the restore fails ({why})");
        let killed = match self.held.get(&pid) {
            Some(held) => held.send(Signal::SIGKILL),
            // The process is CRIU's child, or CRIU traces it: its pid stays its own.
            None => PidFd::open(pid).and_then(|held| held.send(Signal::SIGKILL)),
        };
        if let Err(e) = killed
            && !e.is_died()
        {
            log::error!("{}", e.during(Phase::Verify, pid));
        }
        AfterFailure::FailRestore
    }

    /// CRIU has ended its work with `ret`. Returns the report.
    #[must_use]
    pub fn end(mut self, ret: i32) -> Document {
        if ret == 0 {
            self.look_back();
        }
        self.recorder.finish(Some(ret), None)
    }

    /// All processes run again.
    fn look_back(&mut self) {
        if let Some(level) = self.notices.level() {
            log::log!(level, "restore: not kept: {}", self.notices);
        }
        for pid in &self.left {
            let what = format!(
                "pid {pid} (in its own namespace): its signal state is in the images, but criu never handed the \
                 process to this plugin: NOT checked. The RESUME_DEVICES_LATE hook of another plugin kept criu from \
                 calling this plugin"
            );
            log::error!("{what}");
            let process = Process {
                pid_in_namespace: Some(*pid),
                errors: vec![what],
                ..Process::new(Outcome::Unchecked)
            };
            self.recorder.process(process, Instant::now());
        }
    }
}

/// Starts the helper process that sets the parent-death signals of `stopped` again which the end of criu would send, and
/// returns how many there are. `None`: the signals have to be those of `wanted` now.
fn postpone(stopped: &StoppedProcess<ByHost>, wanted: &ProcessState) -> Option<usize> {
    let started = Postponed::look(stopped, wanted).and_then(|found| match found {
        None => Ok(None),
        Some(postponed) => postponed.start().map(|()| Some(postponed.len())),
    });
    started.unwrap_or_else(|e| {
        log::warn!(
            "{}: parent-death signals are left as criu has set them",
            e.during(Phase::Verify, stopped.pid())
        );
        None
    })
}
