//! runc and crun.
//!
//! Both look for `criu` in `PATH`, start it as `criu swrk` and talk to it by CRIU's RPC: runc through go-criu, crun
//! through libcriu. What criu says goes to `dump.log` and `restore.log` in the work folder.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::bundle::Bundle;
use super::host;
use crate::criu::Step;
use crate::procfs::Pid;
use crate::rundir::RunDir;
use crate::victim::Victim;
use crate::wait::{self, PATIENCE};

/// An OCI runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// opencontainers/runc
    Runc,
    /// containers/crun
    Crun,
}

impl Engine {
    /// Its command.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Runc => "runc",
            Engine::Crun => "crun",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A container of an engine, on the host that this process has entered.
#[derive(Debug)]
pub struct Container {
    engine: Engine,
    id: String,
    bundle: Bundle,
}

impl Container {
    /// A container that need not exist yet.
    pub fn new(engine: Engine, id: &str, bundle: Bundle) -> Self {
        Self {
            engine,
            id: id.to_owned(),
            bundle,
        }
    }

    /// Its bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Starts it, and waits until the victim in it has said that it is ready.
    pub fn run(&self) -> Result<()> {
        let mut command = self.command("run");
        command.args(["--detach", "--bundle"]);
        command.arg(self.bundle.path()).arg(&self.id);
        ensure!(self.status(command)?, "{self}: run: {}", self.said());
        wait::until("the victim to be ready", PATIENCE, || {
            Ok(self.bundle.state().join("ready").exists().then_some(()))
        })
        .with_context(|| format!("{self}: {}", self.victim_said()))
    }

    /// The pid of its first process, as the engine gives it: that of the host.
    pub fn pid(&self) -> Result<Pid> {
        let state = host::printed(self.command("state").arg(&self.id))?;
        let state: Value = serde_json::from_str(&state).with_context(|| state.clone())?;
        let pid = state["pid"].as_i64().and_then(|pid| pid.try_into().ok());
        // 0 is what an engine says of one that has ended, and the caller's own process group to kill(2).
        pid.filter(|pid| *pid > 0)
            .with_context(|| format!("{self}: no pid in {state}"))
    }

    /// `checkpoint`: the container is gone if that succeeds, and the engine has forgotten it.
    pub fn checkpoint(&self, images: &Path) -> Result<Step> {
        let step = self.step("checkpoint", images, "dump.log", &[])?;
        if step.ok {
            let state = self.command("state").arg(&self.id).output()?;
            ensure!(!state.status.success(), "{self} is still there");
        }
        Ok(step)
    }

    /// `checkpoint --leave-running`.
    pub fn snapshot(&self, images: &Path) -> Result<Step> {
        self.step("checkpoint", images, "dump.log", &["--leave-running"])
    }

    /// `restore --detach`: a new container, out of the images.
    pub fn restore(&self, images: &Path) -> Result<Step> {
        let bundle = self.bundle.path().to_string_lossy();
        let args = ["--detach", "--bundle", &bundle];
        self.step("restore", images, "restore.log", &args)
    }

    /// Tells the victim that it may go on and check itself. `Err` says why it has not passed.
    pub fn finish(&self) -> Result<()> {
        // An engine that does not stay leaves its container to whoever adopts orphans: this process.
        Victim::restored(self.pid()?, &RunDir::open(&self.bundle.state())).finish(PATIENCE)?;
        self.delete()
    }

    /// Ends it, if it still runs, and forgets it.
    pub fn delete(&self) -> Result<()> {
        host::printed(self.command("delete").arg("--force").arg(&self.id)).map(drop)
    }

    fn step(&self, action: &str, images: &Path, log: &str, args: &[&str]) -> Result<Step> {
        let mut command = self.command(action);
        command.arg("--image-path").arg(images);
        command.arg("--work-path").arg(images);
        command.args(args).arg(&self.id);
        fs::create_dir_all(images).with_context(|| images.display().to_string())?;
        let start = Instant::now();
        let ok = self.status(command)?;
        let took = start.elapsed();
        let mut text = self.said();
        match fs::read(images.join(log)) {
            Ok(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
            Err(why) => ensure!(!ok, "{self}: {action}: {log}: {why}"),
        }
        Ok(Step {
            ok,
            // Of the engine: what became of criu it has said.
            signal: None,
            log: text,
            took,
        })
    }

    fn command(&self, action: &str) -> Command {
        let mut command = host::command(self.engine.name());
        command.arg("--log").arg(self.log()).arg(action);
        command
    }

    fn log(&self) -> PathBuf {
        Path::new("/run").join(format!("{}.log", self.engine))
    }

    /// The container inherits what the command has open, so that is /dev/null; errors go to the engine's own log.
    fn status(&self, mut command: Command) -> Result<bool> {
        let _ = fs::remove_file(self.log());
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let patience = Duration::from_secs(40);
        let status = wait::until("the engine", patience, || Ok(child.try_wait()?));
        match status {
            Ok(status) => Ok(status.success()),
            Err(why) => {
                child.kill().context("kill")?;
                bail!("{self}: {command:?}: {why}; {}", self.said())
            }
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn victim_said(&self) -> String {
        fs::read_to_string(self.bundle.state().join("out")).unwrap_or_default()
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} container {}", self.engine, self.id)
    }
}
