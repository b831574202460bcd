//! Parent-death signals that the end of criu, or of the program that has started criu, would send to a restored process.
//!
//! The kernel sends the signal of a thread whenever the thread's parent ends, and with `criu restore -d` the first parent is
//! criu; under a container engine the first parent is mostly a runtime that ends next. So the signals of such a process are
//! postponed: CRIU's are cleared while all threads are stopped, and a helper process waits until the process has its lasting
//! parent, and sets the signals again.
//!
//! A parent lasts if it is
//!
//! - neither criu nor what has started criu: the process has been handed on to it;
//! - pid 1 of its own pid namespace;
//! - a criu that waits for its children, which is one without `-d`, or that has become another program (`--exec-cmd`);
//! - what has started criu, and is still there when criu has been gone for [`SETTLED`].
//!
//! Until then a file tells a dump which signals are postponed ([`recorded`]).

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criu_signals_images::{Name, Pid, ProcessState, Shown as _, SigNo, ThreadState, Tid};

use crate::error::{Cause, Error, Phase, Result};
use crate::losses::by_stop::refuse_stop;
use crate::proc::{self, Privileges, SignalStatus};
use crate::process::detached;
use crate::process::pidfd::PidFd;
use crate::state::{Kind as _, ParentDeathSignal, Site, put_back};
use crate::tracee::{Budget, ByHost, ByUs, Injector, StoppedProcess};

/// The name of the helper process.
pub const HELPER: &str = "signals-parent";
const NAME: &std::ffi::CStr = c"signals-parent";
/// The program that has started criu is a lasting parent if it is still there this long after criu's end: runtimes that do
/// not stay end within milliseconds.
const SETTLED: Duration = Duration::from_secs(30);
/// How long the helper process waits for a lasting parent.
const PARENT_TIME: Duration = Duration::from_secs(600);
/// How long the helper process then tries to set the signals.
const SET_TIME: Duration = Duration::from_secs(60);
/// How long the helper process waits for one stop.
const STOP_TIME: Duration = Duration::from_secs(5);
/// The interval between two looks, at first and after [`SHORTLY`].
const INTERVAL: Duration = Duration::from_millis(1);
const LONG_INTERVAL: Duration = Duration::from_millis(50);
const SHORTLY: Duration = Duration::from_secs(2);
/// Where postponed signals are recorded.
const FOLDER: &str = "/run/criu-signals";

/// The parent-death signals of a process that criu has stopped, and the facts that are needed to set them later.
#[derive(Debug)]
pub struct Postponed {
    process: PidFd,
    threads: Vec<Postponement>,
    /// The process's auxiliary vector.
    program: Vec<u8>,
    criu: PidFd,
    /// The program that criu executes.
    criu_program: Option<Name>,
    /// The parent of criu; `None` if that process is in none of our pid namespaces, or gone.
    starter: Option<PidFd>,
    record: PathBuf,
}

/// One thread's.
#[derive(Clone, Debug)]
struct Postponement {
    tid: Tid,
    signo: SigNo,
    privileges: Privileges,
}

impl Postponed {
    /// The parent-death signals of `wanted`, if criu has set them in `stopped`, and if the parent of `stopped` is this criu
    /// or the program that has started this criu.
    ///
    /// # Errors
    /// If the process cannot be looked at.
    pub fn look(
        stopped: &StoppedProcess<ByHost>,
        wanted: &ProcessState,
    ) -> Result<Option<Postponed>> {
        let signals = wanted
            .threads
            .iter()
            .filter(|t| t.parent_death_signal.is_some());
        if signals.clone().next().is_none() {
            return Ok(None);
        }
        let pid = stopped.pid();
        let own = Pid::own();
        let starter = Pid::new(nix::unistd::getppid().as_raw());
        let parent = proc::parent(pid)?;
        if parent != Some(own) && parent != starter {
            return Ok(None);
        }
        let mut threads = Vec::new();
        for &tid in stopped.threads() {
            let id = SignalStatus::read(pid, tid)?.ids.innermost();
            let thread = signals.clone().find(|t| t.ids.innermost() == id);
            if let Some(signo) = thread.and_then(|t| t.parent_death_signal) {
                let privileges = proc::privileges(pid, tid)?;
                threads.push(Postponement {
                    tid,
                    signo,
                    privileges,
                });
            }
        }
        if threads.is_empty() {
            return Ok(None);
        }
        Ok(Some(Postponed {
            // The process is traced, so its pid stays its own; so does the pid of a parent that does not end at this
            // moment.
            process: PidFd::open(pid)?,
            threads,
            program: proc::auxiliary_vector_of_stopped(pid)?,
            criu: PidFd::open(own)?,
            criu_program: proc::executable(own)?,
            starter: starter.and_then(|starter| PidFd::open(starter).ok()),
            record: record_of(pid),
        }))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.threads.len()
    }

    /// Starts the helper process that sets the signals again. The caller, which must have one thread, clears them next.
    ///
    /// # Errors
    /// If fork(2) fails: then the signals have to stay.
    pub fn start(&self) -> Result<()> {
        if let Err(e) = self.write_record() {
            log::warn!(
                "pid {}: {e}: a dump that is made before the parent-death signals are set again will lack them",
                self.process.pid()
            );
        }
        let what = "start the process that sets parent-death signals again";
        let started = detached::start(NAME, what, &[], || {
            let held = [Some(&self.process), Some(&self.criu), self.starter.as_ref()];
            let held: Vec<_> = held
                .into_iter()
                .flatten()
                .filter_map(PidFd::as_raw_fd)
                .collect();
            detached::leave_files(&held);
            let code = self.work();
            let _ = fs::remove_file(&self.record);
            code
        });
        if started.is_err() {
            let _ = fs::remove_file(&self.record);
        }
        started
    }

    fn work(&self) -> i32 {
        let pid = self.process.pid();
        let set = self.await_lasting_parent().and_then(|found| match found {
            Some(parent) => self.set_in_time().map(|set| set.map(|set| (parent, set))),
            None => Ok(None),
        });
        match set {
            // The process has ended, and its signals with it.
            Ok(None) => 0,
            Ok(Some((parent, set))) => {
                for line in set {
                    log::info!("pid {pid}: {line}; its parent is {parent}");
                }
                0
            }
            Err(e) if e.is_died() && self.is_gone() => 0,
            Err(e) => {
                log::error!("{}: {}", e.during(Phase::Replay, pid), self.advice());
                1
            }
        }
    }

    /// What to do if the signals are not set.
    fn advice(&self) -> String {
        let pid = self.process.pid();
        let mut advice = String::from("the parent-death signals are NOT set. To set them:");
        for (at, one) in self.threads.iter().enumerate() {
            let and = if at == 0 { "" } else { " &&" };
            let name = one.signo.to_string();
            let name = name.strip_prefix("SIG").unwrap_or(&name).to_owned();
            let _ = if one.tid == Tid::from(pid) {
                write!(advice, "{and} criu-signals set {pid} parent-death {name}")
            } else {
                let tid = one.tid;
                write!(
                    advice,
                    "{and} criu-signals set {pid}/{tid} parent-death {name}"
                )
            };
        }
        advice
    }

    fn is_gone(&self) -> bool {
        is_gone(&self.process)
    }

    /// Waits until the process has a lasting parent, and returns that parent; `None`: the process has ended.
    fn await_lasting_parent(&self) -> Result<Option<String>> {
        let begun = Instant::now();
        let mut criu_ended = None;
        loop {
            if self.is_gone() {
                return Ok(None);
            }
            if is_gone(&self.criu) {
                criu_ended.get_or_insert_with(Instant::now);
            }
            let parent = match proc::parent(self.process.pid()) {
                Err(e) if e.is_died() => return Ok(None),
                parent => parent?,
            };
            if self.lasts(parent, criu_ended)? {
                return Ok(Some(described(parent)));
            }
            if begun.elapsed() > PARENT_TIME {
                let parent = described(parent);
                let why = format!(
                    "its parent is {parent}, and criu, process {}, has not ended",
                    self.criu.pid()
                );
                return Err(Error::new(
                    "wait for its lasting parent",
                    Cause::Unsupported(why.into()),
                ));
            }
            std::thread::sleep(if begun.elapsed() < SHORTLY {
                INTERVAL
            } else {
                LONG_INTERVAL
            });
        }
    }

    fn lasts(&self, parent: Option<Pid>, criu_ended: Option<Instant>) -> Result<bool> {
        let criu = self.criu.pid();
        let Some(ended) = criu_ended else {
            // Before criu has detached, a stop by another process could disturb criu.
            let tracer = proc::tracer(self.process.pid(), self.process.pid().into())?;
            let holds = tracer.is_some_and(|(tracer, _)| tracer == Tid::from(criu));
            return Ok(!holds
                && parent == Some(criu)
                && (proc::waits_for_any_child(criu)
                    || proc::executable(criu).is_ok_and(|now| now != self.criu_program)));
        };
        let starter = self.starter.as_ref().map(PidFd::pid);
        // A starter that is gone: its pid may belong to another process, or the kernel is about to hand the process on.
        let starter_is_gone = self.starter.as_ref().is_some_and(is_gone);
        if parent == Some(criu) || starter_is_gone && parent == starter {
            return Ok(false);
        }
        Ok(parent != starter || is_first(parent) || ended.elapsed() >= SETTLED)
    }

    /// Sets the signals, and returns them; `None`: the process has ended.
    fn set_in_time(&self) -> Result<Option<Vec<String>>> {
        let deadline = Instant::now() + SET_TIME;
        loop {
            match self.set() {
                Ok(set) => return Ok(Some(set)),
                Err(_) if self.is_gone() => return Ok(None),
                // Another tracer has the process, a freezer holds it, or it waits in a call that a stop would end.
                Err(_) if Instant::now() < deadline => std::thread::sleep(LONG_INTERVAL),
                Err(e) => return Err(e),
            }
        }
    }

    fn set(&self) -> Result<Vec<String>> {
        let _budget = Budget::of_process();
        self.process.check()?;
        refuse_stop(self.process.pid())?;
        let stopped = StoppedProcess::<ByUs>::seize_held(&self.process, STOP_TIME)?.assume_calls();
        let set = self.set_in(&stopped);
        stopped.release()?;
        set
    }

    fn set_in(&self, stopped: &StoppedProcess<ByUs>) -> Result<Vec<String>> {
        let pid = stopped.pid();
        let now = proc::auxiliary_vector_of_stopped(pid)?;
        let secure = now != self.program && proc::is_secure(&now);
        let mut lines = Vec::new();
        let mut injector = Injector::new(stopped)?;
        for one in &self.threads {
            let Postponement { tid, signo, .. } = *one;
            if !stopped.threads().contains(&tid) {
                continue;
            }
            let whose = if tid == stopped.leader() {
                String::new()
            } else {
                format!(" of thread {tid}")
            };
            if secure || !proc::privileges(pid, tid)?.are_among(&one.privileges) {
                lines.push(format!(
                    "the parent-death signal {signo}{whose} is not set again: the process has changed its credentials \
                     since, which clears the signal (prctl(2))"
                ));
                continue;
            }
            let mut site = Site {
                injector: &mut injector,
                tid,
            };
            if let Some(own) = ParentDeathSignal::capture(&mut site)? {
                lines.push(format!(
                    "the parent-death signal {signo}{whose} is not set again: the program has set {own} itself"
                ));
                continue;
            }
            put_back::<ParentDeathSignal, _>(&mut site, &Some(signo))?;
            lines.push(format!(
                "the parent-death signal {signo}{whose} is set again"
            ));
        }
        injector.finish()?;
        Ok(lines)
    }

    fn write_record(&self) -> Result<()> {
        let failed = |e: io::Error| Error::io(format!("write {}", self.record.shown()), &e);
        let started = proc::start_time_of_stopped(self.process.pid())?;
        let mut text = format!("{started}\n");
        for one in &self.threads {
            let _ = writeln!(text, "{} {}", one.tid, one.signo.get());
        }
        let mut folder = fs::DirBuilder::new();
        folder
            .recursive(true)
            .mode(0o700)
            .create(FOLDER)
            .map_err(failed)?;
        check_owner(Path::new(FOLDER)).map_err(failed)?;
        // The record of an earlier process with the same pid.
        let _ = fs::remove_file(&self.record);
        fs::write(&self.record, text).map_err(failed)
    }
}

fn record_of(pid: Pid) -> PathBuf {
    Path::new(FOLDER).join(format!("parent-death-{pid}"))
}

/// The record of another user must not decide what root does with a process.
fn check_owner(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    let owner = nix::unistd::geteuid().as_raw();
    if found.file_type().is_symlink() || found.uid() != owner || found.mode() & 0o022 != 0 {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    Ok(())
}

/// Adds the parent-death signals that an earlier restore has postponed, and that are not set again yet, to the state of a
/// stopped process. Returns whether there are any.
///
/// # Errors
/// If there is a record, and it cannot be read.
pub fn add_postponed(pid: Pid, state: &mut ProcessState) -> Result<bool> {
    let record = record_of(pid);
    let failed = |e: &io::Error| Error::io(format!("read {}", record.shown()), e);
    let text = match fs::read_to_string(&record) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        text => text.map_err(|e| failed(&e))?,
    };
    check_owner(Path::new(FOLDER)).map_err(|e| failed(&e))?;
    let mut lines = text.lines();
    let started = lines.next().and_then(|line| line.parse().ok());
    // The record of an earlier process, whose helper process was killed.
    if started != Some(proc::start_time_of_stopped(pid)?) {
        return Ok(false);
    }
    let mut any = false;
    for (tid, signo) in lines.filter_map(parse_line) {
        let is_it = |thread: &&mut ThreadState| thread.tid() == tid;
        if let Some(thread) = state.threads.iter_mut().find(is_it)
            && thread.parent_death_signal.is_none()
        {
            thread.parent_death_signal = Some(signo);
            any = true;
        }
    }
    Ok(any)
}

fn parse_line(line: &str) -> Option<(Tid, SigNo)> {
    let (tid, signo) = line.split_once(' ')?;
    Some((
        Tid::new(tid.parse().ok()?)?,
        SigNo::new(signo.parse().ok()?)?,
    ))
}

/// Has the process ended, or is it ending?
fn is_gone(held: &PidFd) -> bool {
    held.check().is_err() || proc::is_gone(held.pid())
}

/// Is it pid 1 of its namespace?
fn is_first(pid: Option<Pid>) -> bool {
    pid.is_some_and(|pid| {
        SignalStatus::read(pid, pid.into()).is_ok_and(|status| status.ids.innermost() == 1)
    })
}

fn described(pid: Option<Pid>) -> String {
    match pid {
        None => "in another pid namespace".to_owned(),
        Some(pid) => match SignalStatus::read(pid, pid.into()) {
            Ok(status) => format!("{pid} ({})", status.comm),
            Err(_) => pid.to_string(),
        },
    }
}
