//! The criu command: dump and restore, with their logs.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::numbers;
use crate::procfs::{self, Pid};
use crate::wait::{PATIENCE, until};

/// A criu binary and what it is always called with.
#[derive(Debug, Clone)]
pub struct Criu {
    binary: PathBuf,
    libdir: Option<PathBuf>,
    work_dir: Option<PathBuf>,
    /// What criu is started by, and its arguments.
    through: Vec<OsString>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    env_removed: Vec<OsString>,
}

/// How one call of criu went.
#[derive(Debug)]
pub struct Step {
    /// It exited with 0.
    pub ok: bool,
    /// It was ended by this signal.
    pub signal: Option<i32>,
    /// Its whole log, of level `-v4`, and before it what it printed.
    pub log: String,
    /// From start to exit, as seen from outside.
    pub took: Duration,
}

impl Step {
    /// How long the processes were held, of a dump with `--display-stats`.
    pub fn frozen(&self) -> Option<Duration> {
        let mut lines = self.log.lines();
        let line = lines.find_map(|line| line.strip_prefix("Frozen time: "))?;
        let micros = line.split(' ').next()?.parse().ok()?;
        Some(Duration::from_micros(micros))
    }

    /// The last lines of the log.
    pub fn tail(&self, lines: usize) -> String {
        let all: Vec<&str> = self.log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Criu {
    /// `libdir` is the folder whose plugins are loaded; it is given, since criu has a default one.
    pub fn new(binary: &Path, libdir: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            libdir: Some(libdir.to_owned()),
            work_dir: None,
            through: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            env_removed: Vec::new(),
        }
    }

    /// Without `--libdir`: criu looks for plugins where it does by itself.
    #[must_use]
    pub fn default_libdir(mut self) -> Self {
        self.libdir = None;
        self
    }

    /// Logs and pid files go to this folder, and not to that of the images (`--work-dir`).
    #[must_use]
    pub fn work_dir(mut self, folder: &Path) -> Self {
        self.work_dir = Some(folder.to_owned());
        self
    }

    /// Where logs and pid files are.
    fn work<'f>(&'f self, images: &'f Path) -> &'f Path {
        self.work_dir.as_deref().unwrap_or(images)
    }

    /// One more argument for every call.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// As root without this capability, in the words of setpriv(1).
    #[must_use]
    pub fn without_capability(mut self, name: &str) -> Self {
        let through = ["setpriv".to_owned()].into_iter();
        let through =
            through.chain(["bounding-set", "inh-caps"].map(|set| format!("--{set}=-{name}")));
        self.through = through.map(OsString::from).collect();
        self
    }

    /// A variable for criu's environment, from which plugins read their settings.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Without a variable that criu otherwise has in its environment.
    #[must_use]
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.env_removed.push(name.into());
        self
    }

    /// The version, as `criu --version` says it: "4.1.1".
    pub fn version(&self) -> Result<String> {
        let out = Command::new(&self.binary)
            .arg("--version")
            .output()
            .with_context(|| format!("{} --version", self.binary.display()))?;
        let text = String::from_utf8_lossy(&out.stdout);
        let version = text.lines().find_map(|line| line.strip_prefix("Version:"));
        version.map(|v| v.trim().to_owned()).with_context(|| {
            format!(
                "{} --version printed no version: {text}",
                self.binary.display()
            )
        })
    }

    /// `criu dump`: the images and `dump.log` go to `images`. Without `leave_running` the tree is gone afterwards, but
    /// its processes remain zombies, and their pids taken, until their parent has waited for them.
    pub fn dump(&self, pid: Pid, images: &Path, leave_running: bool) -> Result<Step> {
        let command = self.dump_command(pid, images, leave_running);
        Self::run(command, &self.work(images).join("dump.log"))
    }

    /// `criu pre-dump`: memory goes to `images`, and the tree runs on.
    pub fn pre_dump(&self, pid: Pid, images: &Path) -> Result<Step> {
        let mut command = self.command("pre-dump", images);
        command.arg("--tree").arg(pid.to_string());
        Self::run(command, &self.work(images).join("pre-dump.log"))
    }

    /// Starts what goes on until others have come and gone: `page-server`, `lazy-pages`, a dump whose pages are asked
    /// for later.
    pub fn start(&self, action: &str, images: &Path, args: &[&str]) -> Result<Child> {
        Self::spawn(self.command(action, images).args(args))
    }

    fn dump_command(&self, pid: Pid, images: &Path, leave_running: bool) -> Command {
        let mut command = self.command("dump", images);
        command.arg("--tree").arg(pid.to_string());
        if leave_running {
            command.arg("--leave-running");
        }
        command
    }

    /// As [`dump`](Self::dump), but does not wait for it.
    pub fn start_dump(&self, pid: Pid, images: &Path, leave_running: bool) -> Result<Child> {
        Self::spawn(&mut self.dump_command(pid, images, leave_running))
    }

    fn spawn(command: &mut Command) -> Result<Child> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {command:?}"))
    }

    /// `criu restore --restore-detached`: the restored tree becomes a child of whoever adopts orphans. Its root's pid
    /// is given where the restore succeeded.
    pub fn restore(&self, images: &Path) -> Result<(Step, Option<Pid>)> {
        let work = self.work(images);
        let pidfile = work.join("restored.pid");
        // That of a restore that failed late: criu writes over nothing.
        let _ = fs::remove_file(&pidfile);
        numbers::await_free(images)?;
        let mut command = self.command("restore", images);
        command
            .arg("--restore-detached")
            .arg("--pidfile")
            .arg(&pidfile);
        let step = Self::run(command, &work.join("restore.log"))?;
        if !step.ok {
            return Ok((step, None));
        }
        parents_found()?;
        let text = fs::read_to_string(&pidfile).with_context(|| pidfile.display().to_string())?;
        let pid = text
            .trim()
            .parse()
            .with_context(|| format!("{}: {text:?}", pidfile.display()))?;
        Ok((step, Some(pid)))
    }

    /// A call that is the caller's to make: the images and ACTION.log are in `images`.
    pub fn command(&self, action: &str, images: &Path) -> Command {
        let words = [self.through.as_slice(), &[self.binary.clone().into()]].concat();
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg(action)
            .arg("--images-dir")
            .arg(images)
            .arg("-v4");
        command.arg("--log-file").arg(format!("{action}.log"));
        if let Some(libdir) = &self.libdir {
            command.arg("--libdir").arg(libdir);
        }
        if let Some(work_dir) = &self.work_dir {
            command.arg("--work-dir").arg(work_dir);
        }
        command.args(&self.args);
        command
            .env_remove("CRIU_LIBS_DIR")
            .env_remove("CRIU_SIGNALS_PLUGIN_DIR")
            .env_remove("CRIU_SIGNALS_FAULTS_DIR")
            // Of this machine's settings none is to count.
            .env("CRIU_SIGNALS_CONFIG", "")
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        for name in &self.env_removed {
            command.env_remove(name);
        }
        command
    }

    /// The output goes to a file, not to a pipe: what criu leaves behind would keep the pipe open.
    fn run(mut command: Command, log: &Path) -> Result<Step> {
        let printed = log.with_extension("out");
        let out = fs::File::create(&printed).with_context(|| printed.display().to_string())?;
        let start = Instant::now();
        let status = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .status()
            .with_context(|| format!("starting {command:?}"))?;
        let took = start.elapsed();
        let mut text = String::from_utf8_lossy(&fs::read(&printed)?).into_owned();
        match fs::read(log) {
            Ok(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
            // It gave up before it had opened its log.
            Err(why) => ensure!(!status.success(), "{}: {why}", log.display()),
        }
        Ok(Step {
            ok: status.success(),
            signal: status.signal(),
            log: text,
            took,
        })
    }
}

/// Waits until no helper process of the plugin has parent-death signals to set any more.
pub fn parents_found() -> Result<()> {
    until("parent-death signals to be set again", PATIENCE, || {
        let mut all = procfs::all()?.into_iter();
        let waits = all.any(|pid| {
            procfs::name(pid).is_some_and(|name| name == "signals-parent")
                && procfs::state(pid) != Some('Z')
        });
        Ok((!waits).then_some(()))
    })
}
