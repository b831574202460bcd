//! Cgroups: freezes a cgroup until every process in the cgroup is seized.
//!
//! Processes that are stopped one after the other do not show one instant: the processes that still run keep forking
//! and sending signals. A freezer stops all of them together. But code cannot run in a frozen process, so the freezer
//! holds them only until each is seized and told to stop:
//!
//! 1. The cgroup is frozen.
//! 2. Every thread is seized and interrupted (PTRACE_SEIZE, PTRACE_INTERRUPT). One that the freezer of cgroup v2 holds
//!    stops for the tracer at once: it sleeps where traps are looked for (do_freezer_trap, kernel/signal.c). One that
//!    the freezer of v1 holds does so when it is thawed (`__refrigerator`, kernel/freezer.c). (Seen with both, on
//!    Linux 6.18.)
//! 3. The cgroup is thawed. The first thing that a thread does is to look whether it has to trap, before it returns to
//!    user mode (get_signal): not one instruction of any program is executed. From here on ptrace holds them.
//! 4. The processes are read and released.
//!
//! Processes that are stopped by job control are the exception with v1: to seize one takes until it is thawed
//! (JOBCTL_TRAPPING, ptrace_attach), so its turn is after step 3. It does not run either.
//!
//! A cgroup that was frozen before is thawed for that time, and nested ones with it; it is frozen again before anybody
//! is let go.
//!
//! Freezing interrupts system calls as a stop does, and some end with EINTR because of it. That is put right as soon as
//! a thread has stopped, as after every stop (`tracee::shield`): with v2 while it is still frozen.
//!
//! **If this program dies**, a detached process puts the freezer back into its previous state, and repairs the system
//! calls that the freezing interrupted in processes that were not seized yet.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criu_signals_images::{Pid, Shown as _, Tid};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::error::{Cause, Error, Result};
use crate::proc::{self, Uninterruptible};
use crate::process::detached;
use crate::process::pidfd::PidFd;
use crate::tracee::StoppingProcess;

/// How often a freezer is asked whether it is through.
const PAUSE: Duration = Duration::from_micros(100);
/// How long the companion takes for what a dead tracer has left.
const MENDING: Duration = Duration::from_secs(5);
/// How long the kernel may take to let go what a dead tracer had seized.
const LETTING_GO: Duration = Duration::from_millis(200);
const DONE: u8 = b'd';

/// A cgroup, of v2 or of any hierarchy of v1.
#[derive(Clone, Debug)]
pub struct Cgroup {
    dir: PathBuf,
    freezer: Option<Freezer>,
}

/// How processes of a cgroup are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freezer {
    /// `freezer.state` (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst).
    V1,
    /// `cgroup.freeze` (Documentation/admin-guide/cgroup-v2.rst).
    V2,
}

impl Freezer {
    /// The file that is written, and what freezes and thaws.
    const fn control(self) -> (&'static str, [&'static str; 2]) {
        match self {
            Freezer::V1 => ("freezer.state", ["FROZEN", "THAWED"]),
            Freezer::V2 => ("cgroup.freeze", ["1", "0"]),
        }
    }

    fn set(self, dir: &Path, frozen: bool) -> io::Result<()> {
        let (file, [freeze, thaw]) = self.control();
        fs::write(dir.join(file), if frozen { freeze } else { thaw })
    }

    /// Was this very cgroup told to freeze?
    fn is_set(self, dir: &Path) -> io::Result<bool> {
        let file = match self {
            Freezer::V1 => "freezer.self_freezing",
            Freezer::V2 => "cgroup.freeze",
        };
        Ok(fs::read_to_string(dir.join(file))?.trim() == "1")
    }

    /// Are all processes of the cgroup, and of those in it, held?
    fn is_frozen(self, dir: &Path) -> io::Result<bool> {
        Ok(match self {
            Freezer::V1 => fs::read_to_string(dir.join("freezer.state"))?.trim() == "FROZEN",
            Freezer::V2 => fs::read_to_string(dir.join("cgroup.events"))?
                .lines()
                .any(|line| line == "frozen 1"),
        })
    }

    /// Does a cgroup further up hold it?
    fn is_held_from_above(self, dir: &Path) -> io::Result<bool> {
        match self {
            Freezer::V1 => {
                Ok(fs::read_to_string(dir.join("freezer.parent_freezing"))?.trim() == "1")
            }
            Freezer::V2 => {
                // The root has no such file.
                let above = dir
                    .ancestors()
                    .skip(1)
                    .map_while(|dir| self.is_set(dir).ok());
                Ok(above.into_iter().any(|frozen| frozen))
            }
        }
    }
}

impl Cgroup {
    /// The cgroup `path`: its folder, or its name as `/proc/PID/cgroup` gives it.
    ///
    /// # Errors
    /// If there is none, or it is the root, which holds this program and the kernel's own threads.
    pub fn open(path: &str) -> Result<Cgroup> {
        let dir = Self::folder(path)?;
        let has = |freezer: &Freezer| dir.join(freezer.control().0).exists();
        let freezer = [Freezer::V2, Freezer::V1].into_iter().find(has);
        let is_root = !dir.parent().is_some_and(|above| above.join(PROCS).exists());
        if is_root {
            return Err(refused(path, "the root cgroup can't be frozen"));
        }
        Ok(Cgroup { dir, freezer })
    }

    /// The folder of the cgroup `path`, which is its folder already or its name as `/proc/PID/cgroup` gives it, without
    /// links.
    ///
    /// # Errors
    /// If there is no such cgroup.
    pub fn folder(path: &str) -> Result<PathBuf> {
        let dir = find(path)?.ok_or_else(|| {
            refused(
                path,
                "no such cgroup: neither a folder with cgroup.procs nor a path below a mounted hierarchy",
            )
        })?;
        fs::canonicalize(dir).map_err(|e| Error::io(format!("cgroup {path}"), &e))
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Has it a freezer?
    pub fn has_freezer(&self) -> bool {
        self.freezer.is_some()
    }

    /// The processes in it and in the cgroups in it.
    ///
    /// # Errors
    /// If they can't be listed, or one of them has no pid here: it is in none of this program's pid namespaces.
    pub fn processes(&self) -> Result<Vec<Pid>> {
        let mut pids = Vec::new();
        for dir in self.folders()? {
            let text = match fs::read_to_string(dir.join(PROCS)) {
                Ok(text) => text,
                // Threads of processes that are listed further up (cgroup-v2.rst, "Threads").
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) && dir != self.dir => continue,
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    return Err(self.refused(
                        "the cgroup is threaded: name the cgroup that contains its processes",
                    ));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound && dir != self.dir => continue,
                Err(e) => return Err(self.failed("list its processes", &e)),
            };
            for word in text.split_ascii_whitespace() {
                match word.parse().map(Pid::new) {
                    Ok(None) => {
                        return Err(self.refused(
                            "a process in the cgroup has no pid here: the process is in a pid namespace that is not \
                             below this one",
                        ));
                    }
                    Ok(Some(pid)) => pids.push(pid),
                    Err(_) => return Err(self.refused("the content of cgroup.procs is malformed")),
                }
            }
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// As [`processes`](Self::processes), each held: a number that was listed may be another's when it is used. Those that
    /// can't be held are left out.
    fn held_processes(&self) -> Result<Vec<PidFd>> {
        let listed = self.processes()?.into_iter();
        let mut held: Vec<PidFd> = listed.filter_map(|pid| PidFd::open(pid).ok()).collect();
        // Of the cgroup are those that are in the list still, now that nobody else can have their numbers.
        let still = self.processes()?;
        held.retain(|one| still.binary_search(&one.pid()).is_ok() && one.check().is_ok());
        Ok(held)
    }

    /// The cgroup's own folder, and those in it, outer ones first.
    fn folders(&self) -> Result<Vec<PathBuf>> {
        let mut folders = vec![self.dir.clone()];
        let mut at = 0;
        while let Some(dir) = folders.get(at).cloned() {
            at += 1;
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound && at > 1 => continue,
                Err(e) => return Err(self.failed("list the cgroups in it", &e)),
            };
            folders.extend(
                entries
                    .filter_map(io::Result::ok)
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
        Ok(folders)
    }

    /// Freezes it. `None` if it has no freezer.
    ///
    /// The caller's process must have one thread: a companion is started (see the module's text).
    ///
    /// # Errors
    /// If it can't be frozen before `deadline`: it is as before then.
    pub fn hold(&self, deadline: Instant) -> Result<Option<Hold>> {
        let Some(freezer) = self.freezer else {
            return Ok(None);
        };
        let failed = |e: io::Error| self.failed("read its freezer", &e);
        let locks = self.lock(deadline)?;
        if freezer.is_held_from_above(&self.dir).map_err(failed)? {
            return Err(self.refused(
                "a parent cgroup is frozen: thaw the parent, or name the parent instead",
            ));
        }
        let folders = self.folders()?;
        let frozen_before = folders
            .into_iter()
            .filter(|dir| freezer.is_set(dir).unwrap_or(false))
            .collect();
        let stopped_before = match freezer {
            Freezer::V1 => self
                .held_processes()?
                .into_iter()
                .filter(|held| proc::is_stopped_or_held(held.pid()))
                .collect(),
            Freezer::V2 => Vec::new(),
        };
        let mut hold = Hold {
            cgroup: self.clone(),
            freezer,
            frozen_before,
            stopped_before: Arc::new(stopped_before),
            link: None,
            _locks: locks,
        };
        hold.link = Some(hold.start_companion()?);
        hold.freeze(deadline)?;
        Ok(Some(hold))
    }

    /// Only one at a time may freeze and thaw it: another would take what this one does for the state that it has to put
    /// back. That holds for the companion of one that was killed, too.
    fn lock(&self, deadline: Instant) -> Result<Vec<Flock<fs::File>>> {
        let mut locks = Vec::new();
        for dir in self.folders()? {
            let mut file = match fs::File::open(&dir) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound && dir != self.dir => continue,
                Err(e) => return Err(self.failed("open", &e)),
            };
            loop {
                match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                    Ok(lock) => break locks.push(lock),
                    Err((again, Errno::EAGAIN)) if Instant::now() < deadline => file = again,
                    Err((_, errno)) => {
                        let what = format!(
                            "cgroup {}: lock (another criu-signals works on this cgroup)",
                            dir.shown()
                        );
                        return Err(Error::os(what, errno));
                    }
                }
                std::thread::sleep(PAUSE);
            }
        }
        Ok(locks)
    }

    fn failed(&self, what: &str, e: &io::Error) -> Error {
        Error::io(format!("cgroup {}: {what}", self.dir.shown()), e)
    }

    fn refused(&self, why: impl Into<String>) -> Error {
        refused(&self.dir.shown().to_string(), why)
    }
}

const PROCS: &str = "cgroup.procs";

fn refused(path: &str, why: impl Into<String>) -> Error {
    Error::new(
        format!("cgroup {path}"),
        Cause::Unsupported(why.into().into()),
    )
}

fn find(path: &str) -> Result<Option<PathBuf>> {
    let is_one = |dir: &PathBuf| dir.join(PROCS).is_file();
    let as_folder = PathBuf::from(path);
    if is_one(&as_folder) {
        return Ok(Some(as_folder));
    }
    let mounts = procfs::process::Process::myself()
        .and_then(|this| this.mountinfo())
        .map_err(|e| Error::proc("read mountinfo", &e))?;
    let freezers = mounts.into_iter().filter(|mount| {
        mount.fs_type == "cgroup2"
            || mount.fs_type == "cgroup" && mount.super_options.contains_key("freezer")
    });
    let name = path.trim_start_matches('/');
    let found: Vec<PathBuf> = freezers
        .map(|mount| mount.mount_point.join(name))
        .filter(is_one)
        .collect();
    // Where both versions are mounted, both may know the name, and processes are in one of them.
    let is_used = |dir: &&PathBuf| {
        fs::read_to_string(dir.join(PROCS)).is_ok_and(|processes| !processes.is_empty())
    };
    Ok(found.iter().find(is_used).or(found.first()).cloned())
}

/// A cgroup that is frozen, or was and has been thawed for a while. Dropped, it is as it was before.
#[derive(Debug)]
pub struct Hold {
    cgroup: Cgroup,
    freezer: Freezer,
    /// The folders that were told to freeze by somebody else.
    frozen_before: Vec<PathBuf>,
    /// The processes that were stopped by job control before it was frozen, which does not show any more.
    stopped_before: Arc<Vec<PidFd>>,
    /// To the companion.
    link: Option<UnixStream>,
    /// Held by the companion as well, which has inherited them: they are free when both have ended.
    _locks: Vec<Flock<fs::File>>,
}

impl Hold {
    /// Was the cgroup frozen before?
    pub fn was_frozen(&self) -> bool {
        self.frozen_before.contains(&self.cgroup.dir)
    }

    /// Can the process be seized while it is frozen? Else that would take until it is thawed.
    pub fn can_be_seized(&self, pid: Pid) -> bool {
        self.freezer == Freezer::V2 || !self.was_stopped(pid) && !proc::is_stopped_or_held(pid)
    }

    fn was_stopped(&self, pid: Pid) -> bool {
        let mut same = self.stopped_before.iter().filter(|held| held.pid() == pid);
        same.any(|held| held.check().is_ok())
    }

    /// Do seized processes stop only when it is thawed?
    pub fn stops_when_thawed(&self) -> bool {
        self.freezer == Freezer::V1
    }

    /// Freezes the cgroup, also after [`Hold::thaw`].
    ///
    /// # Errors
    /// If that takes longer than until `deadline`.
    pub fn freeze(&self, deadline: Instant) -> Result<()> {
        let dir = &self.cgroup.dir;
        loop {
            // That of v1 has to be told again where it was not through.
            self.freezer
                .set(dir, true)
                .map_err(|e| self.cgroup.failed("freeze", &e))?;
            if self.wait_frozen(
                dir,
                deadline.min(Instant::now() + Duration::from_millis(100)),
            )? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::os(
                    format!("cgroup {}: freeze{}", dir.shown(), self.who_runs()),
                    Errno::ETIMEDOUT,
                ));
            }
        }
    }

    fn wait_frozen(&self, dir: &Path, deadline: Instant) -> Result<bool> {
        loop {
            let frozen = self.freezer.is_frozen(dir);
            if frozen.map_err(|e| self.cgroup.failed("freeze", &e))? {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn who_runs(&self) -> String {
        let asleep = self.cgroup.processes().unwrap_or_default().into_iter();
        let mut asleep = asleep
            .filter_map(|pid| Some((pid, proc::uninterruptible(pid, Tid::from(pid))?)))
            .filter(|(_, how)| *how != Uninterruptible::Frozen);
        asleep
            .next()
            .map_or_else(String::new, |(pid, how)| format!(" (pid {pid}: {how})"))
    }

    /// Thaws it, for those who have been seized to stop: all of it, nested cgroups too.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn thaw(&self) -> Result<()> {
        let folders = self.frozen_before.iter().chain([&self.cgroup.dir]);
        for dir in folders {
            match self.freezer.set(dir, false) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && *dir != self.cgroup.dir => {}
                other => other.map_err(|e| self.cgroup.failed("thaw", &e))?,
            }
        }
        Ok(())
    }

    /// Puts the freezer back as it was. To be called before anybody is let go.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn put_back(&self) -> Result<()> {
        if !self.was_frozen() {
            let thawed = self.freezer.set(&self.cgroup.dir, false);
            thawed.map_err(|e| self.cgroup.failed("thaw", &e))?;
        }
        for dir in &self.frozen_before {
            match self.freezer.set(dir, true) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && *dir != self.cgroup.dir => {}
                other => other.map_err(|e| self.cgroup.failed("freeze again", &e))?,
            }
        }
        Ok(())
    }

    /// When everybody has been let go: waits until what was frozen is so again, and sends the companion home.
    ///
    /// # Errors
    /// If it takes longer than until `deadline`.
    pub fn end(mut self, deadline: Instant) -> Result<()> {
        let mut all = true;
        for dir in &self.frozen_before {
            all &= self.wait_frozen(dir, deadline).unwrap_or(true);
        }
        self.dismiss();
        if all {
            return Ok(());
        }
        Err(Error::os(
            format!("cgroup {}: freeze again", self.cgroup.dir.shown()),
            Errno::ETIMEDOUT,
        ))
    }

    fn dismiss(&mut self) {
        if let Some(mut link) = self.link.take() {
            // It may have been killed: nothing is left for it to do.
            let _ = link.write_all(&[DONE]);
        }
    }

    fn start_companion(&self) -> Result<UnixStream> {
        const WHAT: &str = "start the companion that thaws the cgroup if this program dies";
        let (ours, mut theirs) = UnixStream::pair().map_err(|e| Error::io(WHAT, &e))?;
        let copy = Hold {
            cgroup: self.cgroup.clone(),
            freezer: self.freezer,
            frozen_before: self.frozen_before.clone(),
            stopped_before: Arc::clone(&self.stopped_before),
            link: None,
            _locks: Vec::new(),
        };
        detached::start(c"signals-thaw", WHAT, &[ours.as_raw_fd()], move || {
            let mut message = [0];
            if theirs.read_exact(&mut message).is_ok() {
                // Put back already.
                std::mem::forget(copy);
                return 0;
            }
            i32::from(copy.mend().is_err())
        })?;
        Ok(ours)
    }

    /// Its owner is dead.
    fn mend(self) -> Result<()> {
        if self.was_frozen() || !self.freezer.is_set(&self.cgroup.dir).unwrap_or(true) {
            return self.put_back();
        }
        // Who is not seized any more, or was not yet, has calls that were interrupted by the freezing alone.
        let deadline = Instant::now() + LETTING_GO;
        let mut stopping = Vec::new();
        // A descriptor for each of them.
        let _ = getrlimit(Resource::RLIMIT_NOFILE)
            .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
        for held in self.cgroup.held_processes().unwrap_or_default() {
            let held = Arc::new(held);
            // Of one that is stopped, the stop is what has interrupted its calls.
            while self.can_be_seized(held.pid()) {
                match StoppingProcess::begin_held(&held, deadline) {
                    Ok(process) => stopping.push(process),
                    Err(e)
                        if matches!(e.cause(), Cause::Os(Errno::EPERM))
                            && Instant::now() < deadline =>
                    {
                        std::thread::sleep(PAUSE);
                        continue;
                    }
                    // It goes on as the kernel lets it.
                    Err(_) => {}
                }
                break;
            }
        }
        let put_back = self.put_back();
        let deadline = Instant::now() + MENDING;
        for process in stopping {
            let _ = process.wait(deadline);
        }
        put_back
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.link.is_none() {
            return;
        }
        match self.put_back() {
            Ok(()) => self.dismiss(),
            // Its end of the link breaks, and it tries.
            Err(e) => log::error!("{e}"),
        }
    }
}
