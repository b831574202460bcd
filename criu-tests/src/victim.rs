//! A victim: starts the program, tells it to continue, waits for it, and accepts only a printed PASS.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd;

use crate::procfs::{self, Pid};
use crate::rundir::RunDir;
use crate::wait::{self, PATIENCE};

/// A running victim. Its parent is this process: the one that started it, or the one that adopts orphans.
#[derive(Debug)]
pub struct Victim {
    pid: Pid,
    dir: RunDir,
}

impl Victim {
    /// Starts a program with the run folder and `arg`, and waits until it has said that it is ready. It leads a
    /// session of its own and has no open file but stdin, stdout and stderr.
    ///
    /// With `leaves_pid` the program starts the victim and ends, having written its pid to the file `pid`.
    pub fn start(
        program: &std::path::Path,
        arg: Option<&str>,
        dir: &RunDir,
        leaves_pid: bool,
    ) -> Result<Self> {
        let out = File::create(dir.file("printed")).context("making the file for its output")?;
        let child = Command::new(program)
            .arg(dir.path())
            .args(arg)
            .env_clear()
            // Where a task is in another pid namespace than its /proc, CRIU's parasite mounts one on `proc.crtools` in
            // the task's working folder for a moment: dumps at the same time must not share it.
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let mut pid = Pid::try_from(child.id()).context("pid")?;
        if leaves_pid {
            let status = waitpid(unistd::Pid::from_raw(pid), None).context("waitpid")?;
            let text = fs::read_to_string(dir.file("pid"))
                .with_context(|| format!("no pid file; {status:?}; {}", dir.read("out")))?;
            pid = text
                .parse()
                .with_context(|| format!("pid file: {text:?}"))?;
        }
        let victim = Self {
            pid,
            dir: dir.clone(),
        };
        victim.wait_ready()?;
        Ok(victim)
    }

    /// The restored one.
    pub fn restored(pid: Pid, dir: &RunDir) -> Self {
        Self {
            pid,
            dir: dir.clone(),
        }
    }

    /// The root of its tree.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    fn wait_ready(&self) -> Result<()> {
        let ready = self.dir.file("ready");
        wait::until("the victim to be ready", PATIENCE, || {
            if ready.exists() {
                return Ok(Some(()));
            }
            match self.ended()? {
                Some(how) => bail!(
                    "the victim ended before it was ready: {how}; {}",
                    self.dir.read("out")
                ),
                None => Ok(None),
            }
        })
    }

    /// Waits until it is stopped by a signal.
    pub fn wait_stopped(&self) -> Result<()> {
        procfs::comes_to(self.pid, 'T').context("the victim is to be stopped")
    }

    /// Sends SIGCONT.
    pub fn resume(&self) -> Result<()> {
        kill(unistd::Pid::from_raw(self.pid), Signal::SIGCONT).context("sending SIGCONT")
    }

    /// Tells it that it may go on and check itself, and waits for its end. `Err` says why it has not passed.
    pub fn finish(self, patience: Duration) -> Result<()> {
        File::create(self.dir.file("go")).context("making the file go")?;
        let ended = wait::until("the victim to end", patience, || self.ended());
        let how = match ended {
            Ok(how) => how,
            Err(why) => {
                let at = procfs::state(self.pid);
                let out = self.dir.read("out");
                self.end();
                bail!("{why} (state {at:?}); {out}");
            }
        };
        let out = self.dir.read("out");
        if how == "exit status 0" && out == "PASS\n" {
            return Ok(());
        }
        bail!(
            "{}{how}",
            if out.is_empty() {
                "it printed nothing; ".to_owned()
            } else {
                out
            }
        );
    }

    /// Ends the whole tree by SIGKILL, by pid, and waits for it.
    pub fn end(self) {
        for pid in procfs::tree(self.pid).unwrap_or_else(|_| vec![self.pid]) {
            // Gone already: nothing to do.
            let _ = kill(unistd::Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = reap_all();
    }

    /// How it ended, if it has.
    fn ended(&self) -> Result<Option<String>> {
        match waitpid(unistd::Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => Ok(Some(format!("exit status {code}"))),
            Ok(WaitStatus::Signaled(_, signal, _)) => Ok(Some(format!("ended by {signal}"))),
            Ok(_) => Ok(None),
            // nix knows no real-time signals: waitpid has reaped the process by then.
            Err(Errno::EINVAL) => Ok(Some("ended by a real-time signal".to_owned())),
            Err(why) => Err(why).context("waitpid of the victim"),
        }
    }
}

/// Waits for all children: after a dump the tree's processes are zombies, its orphans ours, and the pids are taken
/// until that. Only for a process that adopts orphans and has no other children.
pub fn reap_all() -> Result<()> {
    wait::until(
        "the dumped processes to be gone",
        PATIENCE,
        || match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Err(Errno::ECHILD) => Ok(Some(())),
            Ok(_) | Err(Errno::EINVAL) => Ok(None),
            Err(why) => Err(why).context("waitpid"),
        },
    )
}
