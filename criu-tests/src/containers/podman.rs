//! podman, which packs a container for another machine: `container checkpoint --export`, `container restore --import`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::bundle::{self, STATE, VICTIM};
use super::engine::Engine;
use super::host;
use crate::procfs::Pid;
use crate::wait::{self, PATIENCE};

/// The one container, and the image that it is made of.
const NAME: &str = "victim";
const IMAGE: &str = "localhost/victim";

/// podman on the host that this process has entered, with an OCI runtime.
///
/// It needs no service, no network and no layers: images are kept as plain folders (vfs), groups are made by the runtime
/// itself, and nothing limits the number of processes, as that controller may not be there.
#[derive(Debug)]
pub struct Podman {
    runtime: Engine,
    state: PathBuf,
}

impl Podman {
    /// `state` is the victim's run folder. It is the one thing that does not travel in the archive: a volume.
    pub fn new(runtime: Engine, state: &Path) -> Self {
        Self {
            runtime,
            state: state.to_owned(),
        }
    }

    /// Makes the image.
    pub fn import_image(&self, program: &str) -> Result<()> {
        let rootfs = Path::new("/var/tmp/rootfs");
        bundle::rootfs(rootfs, program)?;
        let tar = "/var/tmp/rootfs.tar";
        let mut pack = host::command("tar");
        host::printed(
            pack.args(["--create", "--file", tar, "--directory"])
                .args([rootfs, Path::new(".")]),
        )?;
        host::printed(self.command(&["import"]).args([tar, IMAGE])).map(drop)
    }

    /// Packs the image. The very same must be there for a restore: on a real host it would come from a registry.
    pub fn save_image(&self, archive: &Path) -> Result<()> {
        quietly(self.command(&["save", "--output"]).arg(archive).arg(IMAGE))
    }

    /// Unpacks it.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        quietly(self.command(&["load", "--input"]).arg(archive))
    }

    /// Starts the container, whose victim gets these arguments, and waits until the victim has said that it is ready.
    pub fn run(&self, arguments: &[&str]) -> Result<()> {
        let volume = format!("{}:{STATE}", self.state.display());
        let mut run = self.command(&["run", "--detach", "--name", NAME, "--network=none"]);
        run.args(["--pids-limit=0", "--volume", &volume, IMAGE]);
        quietly(run.args([VICTIM, STATE]).args(arguments))?;
        wait::until("the victim to be ready", PATIENCE, || {
            Ok(self.state.join("ready").exists().then_some(()))
        })
    }

    /// The pid on the host of the container's first process.
    pub fn pid(&self) -> Result<Pid> {
        self.inspect("{{.State.Pid}}")
    }

    /// The pid of conmon, which adopts the container when the OCI runtime ends.
    pub fn conmon(&self) -> Result<Pid> {
        self.inspect("{{.State.ConmonPid}}")
    }

    fn inspect(&self, format: &str) -> Result<Pid> {
        let said = host::printed(&mut self.command(&["inspect", "--format", format, NAME]))?;
        let pid = said.trim().parse::<Pid>().ok().filter(|pid| *pid > 0);
        pid.with_context(|| format!("{format} is {}", said.trim()))
    }

    /// `container checkpoint --export`, and what criu's log says of it.
    pub fn checkpoint(&self, archive: &Path) -> Result<String> {
        let mut checkpoint = self.command(&["container", "checkpoint", "--keep", "--export"]);
        self.logged(checkpoint.arg(archive).arg(NAME), "dump.log")
    }

    /// `rm`: nothing is left but the archive.
    pub fn remove(&self) -> Result<()> {
        quietly(&mut self.command(&["rm", "--force", "--time=0", NAME]))
    }

    /// `container restore --import`, and what criu's log says of it.
    pub fn restore(&self, archive: &Path) -> Result<String> {
        let mut restore = self.command(&["container", "restore", "--keep", "--import"]);
        self.logged(restore.arg(archive), "restore.log")
    }

    /// Tells the victim that it may go on and check itself, and waits for the container's end.
    pub fn finish(&self) -> Result<()> {
        fs::write(self.state.join("go"), "").context("making the file go")?;
        let status = host::printed(&mut self.command(&["wait", NAME]))?;
        let out = fs::read_to_string(self.state.join("out")).unwrap_or_default();
        ensure!(
            status.trim() == "0" && out == "PASS\n",
            "exit status {}; {out}",
            status.trim()
        );
        Ok(())
    }

    /// A command of podman's.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = host::command("podman");
        command.args(["--runtime", self.runtime.name()]);
        command.args([
            "--storage-driver=vfs",
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
        ]);
        command.args(args);
        command
    }

    /// Logs are kept beside the container: the archive has them as well.
    fn logged(&self, command: &mut Command, log: &str) -> Result<String> {
        let done = quietly(command);
        let data = "/var/lib/containers/storage/vfs-containers";
        let mut text = String::new();
        for entry in fs::read_dir(data).with_context(|| data.to_owned())? {
            let file = entry?.path().join("userdata").join(log);
            text.push_str(&fs::read_to_string(file).unwrap_or_default());
        }
        match done {
            Ok(()) => Ok(text),
            Err(why) => bail!("{why:#}\n{text}"),
        }
    }
}

/// Runs a command that must succeed. What stays behind (conmon) keeps what it has open, so podman gets no pipe.
pub fn quietly(command: &mut Command) -> Result<()> {
    let said = Path::new("/run/podman.log");
    let log = fs::File::create(said).with_context(|| said.display().to_string())?;
    let status = command
        .stdout(Stdio::null())
        .stderr(log)
        .status()
        .with_context(|| format!("starting {command:?}"))?;
    let said = fs::read_to_string(said).unwrap_or_default();
    ensure!(status.success(), "{command:?}: {status}: {said}");
    Ok(())
}
