//! Where a plan is carried out: in pid 1 of a namespace, one run after the other, each as if it were the first.
//!
//! After a run everything in the namespace is killed, and the next pid is set back, so that each run of a plan has the
//! same pids and thread ids, and siginfos can be compared byte by byte. The folder is in a file system in memory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd;

use crate::chance::plan::Plan;
use crate::config;
use crate::numbers;
use crate::procfs::{self, Pid};
use crate::rundir::RunDir;

/// To be set up takes milliseconds, and up to 2 s for each timer of a slow clock.
const SETUP: Duration = Duration::from_secs(25);
/// A program looks at itself in well under a second; a call that does not end it waits for 10 s.
const FINISH: Duration = Duration::from_secs(45);
/// A dump or a restore takes a tenth of a second, of deep queues or on a busy machine some seconds. What takes longer than
/// this hangs.
pub const STEP: Duration = Duration::from_secs(40);
/// Companions need that long at most to put things right.
const COMPANIONS: Duration = Duration::from_secs(20);
/// How often is looked whether something has happened.
const TICK: Duration = Duration::from_millis(1);
/// The program of each run has the next one.
const BEFORE_FIRST_PID: &str = "299";
/// Those of its processes and threads, and of all others in a run.
const NUMBERS: std::ops::Range<Pid> = 300..500;

/// How the program of a run came to its end.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// It has reported this.
    Reported(String),
    /// It ended before that, so.
    Died(String),
    /// It says nothing more.
    Silent,
}

/// Why no run can be made of a plan.
#[derive(Debug, PartialEq, Eq)]
pub enum NotReady {
    /// The program says so.
    BadPlan(String),
    /// It did not become ready.
    Stuck,
}

/// How a command went.
#[derive(Debug)]
pub struct Called {
    /// `None` if it had to be ended: it hung.
    pub status: Option<ExitStatus>,
    /// What it printed, on both.
    pub output: String,
}

impl Called {
    /// It exited with 0.
    pub fn ok(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// It was ended by SIGKILL from outside.
    pub fn killed(&self) -> bool {
        self.status
            .is_some_and(|status| status.signal() == Some(Signal::SIGKILL as i32))
    }
}

/// The place.
#[derive(Debug)]
pub struct Stage {
    folder: PathBuf,
    ia32: bool,
    patience: Duration,
    /// Runs so far.
    runs: u32,
}

/// A run under way.
#[derive(Debug)]
pub struct Running {
    /// Its folder.
    pub dir: RunDir,
    /// The program.
    pub root: Pid,
    /// A command that takes longer hangs.
    pub patience: Duration,
    ended: Option<String>,
}

impl Stage {
    /// Makes it, in pid 1 of a namespace.
    pub fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let none: Option<&str> = None;
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), none)
            .context("mounting the folder")?;
        Ok(Self {
            folder: folder.to_owned(),
            ia32: false,
            patience: STEP,
            runs: 0,
        })
    }

    /// The folder of the last run.
    pub fn run(&self) -> PathBuf {
        self.folder.join(self.runs.to_string())
    }

    /// Which program the next runs are of, and after how long criu hangs.
    pub fn set(&mut self, ia32: bool, patience: Duration) {
        self.ia32 = ia32;
        self.patience = patience;
    }

    /// Starts the program, and waits until it is ready.
    pub fn start(&mut self, plan: &Plan) -> Result<Result<Running, NotReady>> {
        self.clear()?;
        numbers::await_free_of(&NUMBERS.collect::<Vec<_>>())?;
        let _ = fs::remove_dir_all(self.folder.join(self.runs.to_string()));
        // A new one each time: criu may have left something mounted in the last.
        self.runs += 1;
        let dir = RunDir::create(&self.run())?;
        // The program may run as somebody else.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777))?;
        fs::write(dir.file("plan"), plan.to_string())?;
        fs::write("/proc/sys/kernel/ns_last_pid", BEFORE_FIRST_PID).context("ns_last_pid")?;
        let printed = fs::File::create(dir.file("printed"))?;
        let child = Command::new(config::chance(self.ia32))
            .args([dir.file("plan"), dir.file("out")])
            .env_clear()
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(printed.try_clone()?)
            .stderr(printed)
            .spawn()
            .context("starting the program")?;
        let root = Pid::try_from(child.id())?;
        let mut running = Running {
            dir,
            root,
            patience: self.patience,
            ended: None,
        };
        running.wait_ready().map(|why| match why {
            None => Ok(running),
            Some(why) => Err(why),
        })
    }

    /// Ends everything that is in the namespace.
    pub fn clear(&self) -> Result<()> {
        end_all()
    }
}

/// Kills everything but this process, and waits until it is gone.
pub fn end_all() -> Result<()> {
    let start = Instant::now();
    loop {
        match kill(unistd::Pid::from_raw(-1), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(why) => return Err(why).context("kill"),
        }
        if !reap_some()? {
            return Ok(());
        }
        ensure!(
            start.elapsed() < 3 * COMPANIONS,
            "killed processes do not end: {:?}",
            procfs::others(&[])?
        );
        sleep(TICK);
    }
}

/// Waits for whatever has ended; whether any child is left.
fn reap_some() -> Result<bool> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::StillAlive) => return Ok(true),
            Err(Errno::ECHILD) => return Ok(false),
            // One that was ended by a real-time signal, which nix does not know: it is reaped.
            Ok(_) | Err(Errno::EINVAL) => {}
            Err(why) => return Err(why).context("waitpid"),
        }
    }
}

impl Running {
    /// Waits for what has ended, the program among it.
    fn reap(&mut self) -> Result<()> {
        let root = unistd::Pid::from_raw(self.root);
        if self.ended.is_none() {
            self.ended = match waitpid(root, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(_, code)) => Some(format!("exited with {code}")),
                Ok(WaitStatus::Signaled(_, signal, _)) => Some(format!("killed by {signal}")),
                Err(Errno::EINVAL) => Some("killed by a real-time signal".to_owned()),
                Err(Errno::ECHILD) => Some("gone".to_owned()),
                Ok(_) => None,
                Err(why) => return Err(why).context("waitpid"),
            };
        }
        Ok(())
    }

    fn wait_ready(&mut self) -> Result<Option<NotReady>> {
        let start = Instant::now();
        loop {
            self.reap()?;
            let out = self.dir.read("out");
            for line in out.lines() {
                if line == "ready" && !self.is_starter() {
                    return Ok(None);
                }
                if line.starts_with("bad plan") || line.starts_with("failed") {
                    return Ok(Some(NotReady::BadPlan(line.to_owned())));
                }
            }
            if self.is_starter() {
                sleep(TICK);
                continue;
            }
            if let Some(how) = &self.ended {
                let why = format!("it {how} before it was ready");
                return Ok(Some(NotReady::BadPlan(why)));
            }
            if start.elapsed() > SETUP {
                return Ok(Some(NotReady::Stuck));
            }
            sleep(TICK);
        }
    }

    /// Of a program in a pid namespace of its own: it has been started by another, which has not ended yet. When it has,
    /// the program is known.
    fn is_starter(&mut self) -> bool {
        let Ok(pid) = self.dir.read("pid").trim().parse() else {
            return false;
        };
        if pid != self.root && self.ended.as_deref() == Some("exited with 0") {
            self.root = pid;
            self.ended = None;
        }
        pid != self.root
    }

    /// The program and its descendants that live.
    pub fn tree(&self) -> Result<Vec<Pid>> {
        procfs::tree(self.root)
    }

    /// The dumped processes are gone, and their pids free.
    pub fn gone(&mut self) -> Result<bool> {
        let start = Instant::now();
        while reap_some()? {
            if start.elapsed() > COMPANIONS {
                return Ok(false);
            }
            sleep(TICK);
        }
        self.ended = Some("gone".to_owned());
        Ok(true)
    }

    /// It is there again, as this process.
    pub fn restored(&mut self, root: Pid) {
        self.root = root;
        self.ended = None;
    }

    /// Says GO, and waits for the report.
    pub fn finish(mut self) -> Result<End> {
        fs::write(self.dir.file("GO"), "").context("GO")?;
        let start = Instant::now();
        let mut size = 0;
        loop {
            // Before its words are read: what it says at last is then there.
            self.reap()?;
            let now = fs::metadata(self.dir.file("out")).map_or(0, |file| file.len());
            if now != size || self.ended.is_some() {
                size = now;
                let out = self.dir.read("out");
                if out.ends_with("\ndone\n") {
                    let report = out.split_once("ready\n").map_or("", |(_, report)| report);
                    return Ok(End::Reported(report.to_owned()));
                }
                if let Some(line) = out.lines().find(|line| line.starts_with("failed")) {
                    return Ok(End::Died(line.to_owned()));
                }
            }
            if let Some(how) = self.ended {
                return Ok(End::Died(how));
            }
            if start.elapsed() > FINISH {
                return Ok(End::Silent);
            }
            sleep(TICK);
        }
    }

    /// Runs a command to its end, or until it must be ended. Its words go to a file, which what it leaves behind may
    /// keep open.
    pub fn call(&self, command: &mut Command) -> Result<Called> {
        let child = self.begin(command)?;
        self.await_end(child)
    }

    /// Starts a command.
    pub fn begin(&self, command: &mut Command) -> Result<Child> {
        let printed = fs::File::create(self.dir.file("command.out"))?;
        command
            .stdin(Stdio::null())
            .stdout(printed.try_clone()?)
            .stderr(printed)
            .spawn()
            .with_context(|| format!("starting {command:?}"))
    }

    /// Waits for it.
    pub fn await_end(&self, mut child: Child) -> Result<Called> {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().context("wait")? {
                break Some(status);
            }
            if start.elapsed() > self.patience {
                child.kill().context("kill")?;
                child.wait().context("wait")?;
                break None;
            }
            sleep(TICK);
        };
        Ok(Called {
            status,
            output: self.dir.read("command.out"),
        })
    }

    /// Waits until nobody is left but the program's processes. Returns who does not end.
    ///
    /// With `killed` criu has been killed, and what it tried out the kernel's ptrace with is ended here.
    pub fn stragglers(&self, tree: &[Pid], killed: bool) -> Result<Option<String>> {
        let start = Instant::now();
        loop {
            // A companion is nobody's child but this one's.
            for pid in procfs::all()?
                .into_iter()
                .filter(|pid| *pid != 1 && !tree.contains(pid))
            {
                let _ = waitpid(
                    unistd::Pid::from_raw(pid),
                    Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL),
                );
            }
            let left = procfs::others(tree)?;
            if killed {
                let probes: Vec<Pid> = left.iter().copied().filter(|&pid| is_probe(pid)).collect();
                send(&probes, Signal::SIGKILL)?;
            }
            if left.is_empty() {
                return Ok(None);
            }
            if start.elapsed() > COMPANIONS {
                return Ok(Some(described(&left)));
            }
            sleep(TICK);
        }
    }
}

/// At its start criu makes a child that sleeps, and PTRACE_ATTACHes to it, to learn what the kernel's ptrace can (criu/util.c,
/// `fork_and_ptrace_attach`). If criu is killed, the child sleeps on, or stays in the stop by the SIGSTOP of that. Nobody else
/// is in either: companions of ours have a name before they do anything.
fn is_probe(pid: Pid) -> bool {
    let ours = |name: String| name.starts_with("signals");
    (procfs::state(pid) == Some('T') || sleeps(pid)) && !procfs::name(pid).is_some_and(ours)
}

/// In nanosleep(2) or clock_nanosleep(2). By the call's number: a sleep that a stop has interrupted goes on in
/// restart_syscall(2), whose function the kernel's `wchan` passes over (`hrtimer_nanosleep_restart` is `__sched`).
fn sleeps(pid: Pid) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number = call
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok());
    let sleeps: [nix::libc::c_long; 3] = [
        nix::libc::SYS_nanosleep,
        nix::libc::SYS_clock_nanosleep,
        nix::libc::SYS_restart_syscall,
    ];
    number.is_some_and(|number| sleeps.contains(&number))
}

/// `310 criu (S, child of 1, traced by 0, in do_poll)`, for each.
fn described(pids: &[Pid]) -> String {
    let one = |&pid: &Pid| {
        let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let (status, sleeps) = (read("status"), read("wchan"));
        let field = |name| {
            let mut lines = status.lines();
            let value = lines.find_map(|line| line.strip_prefix(name));
            value.unwrap_or("?").trim().to_owned()
        };
        format!(
            "{pid} {} ({}, child of {}, traced by {}, in {sleeps})",
            field("Name:"),
            field("State:"),
            field("PPid:"),
            field("TracerPid:")
        )
    };
    pids.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Waits until each of these processes shows that it is stopped.
pub fn stopped(pids: &[Pid]) -> Result<()> {
    // A leader that has ended does not show it, nor does a parent in vfork(2) before its child lets it go.
    let lives = |pid: &&Pid| !matches!(procfs::state(**pid), Some('Z' | 'D'));
    for &pid in pids.iter().filter(lives) {
        procfs::comes_to(pid, 'T')?;
    }
    Ok(())
}

/// Sends a signal to each.
pub fn send(pids: &[Pid], signal: Signal) -> Result<()> {
    for &pid in pids {
        match kill(unistd::Pid::from_raw(pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(why) => bail!("kill({pid}, {signal}): {why}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What criu's child is in after criu, which had stopped it, was killed.
    #[test]
    fn a_sleep_that_goes_on_is_a_sleep() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid::try_from(child.id()).unwrap();
        let comes_to_sleep = || {
            let until = Instant::now() + COMPANIONS;
            while !sleeps(pid) && Instant::now() < until {
                sleep(TICK);
            }
            sleeps(pid)
        };
        let slept = comes_to_sleep();
        send(&[pid], Signal::SIGSTOP).unwrap();
        procfs::comes_to(pid, 'T').unwrap();
        let stopped = is_probe(pid);
        send(&[pid], Signal::SIGCONT).unwrap();
        procfs::comes_to(pid, 'S').unwrap();
        let went_on = comes_to_sleep();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(slept && stopped && went_on, "{slept} {stopped} {went_on}");
    }
}
