//! `criu-signals mount` and `unmount`: the six files in a FUSE file system.

mod fair;
mod fs;
mod identity;
mod node;
mod visit;
mod workers;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use criu_signals::images::Shown as _;
use fuser::{Config, MountOption, Session, SessionACL};
use nix::unistd::geteuid;
use procfs::process::Process;

use super::context::{Context, Failure};
use workers::Workers;

/// What the mount is called in /proc/mounts.
const NAME: &str = "criu-signals";
/// They take requests, and wait for nothing.
const THREADS: usize = 2;
/// What the server says when files can be opened.
const READY: &str = "mounted";

/// Mounts a file system with the signal state of all processes: PID/sig/FILE, and PID/task/TID/sig/FILE for each
/// thread.
///
/// Only the user who mounts the file system can access it, unless --allow-other is given. The command returns as soon
/// as the files can be opened; the server runs in the background until `unmount`. docs/proc-sig.md describes the files
/// and the permissions.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  criu-signals mount /mnt
  cat /mnt/4711/sig/pending
  cat action > /mnt/4711/sig/action
  criu-signals unmount /mnt

Exit codes:
  0  the file system is mounted; with --foreground: it was mounted and has been unmounted
  2  the file system could not be mounted")]
pub struct Mount {
    /// Mount point. Its contents are hidden while mounted.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Serve all users; root only. Through the files a user can do what `criu-signals cat` and `write` permit the user,
    /// and no more: a process with the user's credentials does the work.
    #[arg(long)]
    allow_other: bool,
    /// Stay in the foreground and return when the file system is unmounted.
    #[arg(long)]
    foreground: bool,
    /// Runs the server in the background: leaves the session, and reports when the server is ready.
    #[arg(long, hide = true, conflicts_with = "foreground")]
    serve: bool,
}

impl Mount {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let folder = &self.folder;
        let folder = folder
            .canonicalize()
            .map_err(|e| format!("open {}: {e}", folder.shown()))?;
        // FUSE would put its top folder onto a file, too.
        if !folder.is_dir() {
            return Err(format!("{}: not a folder", folder.shown()).into());
        }
        if self.allow_other && !geteuid().is_root() {
            return Err(
                "--allow-other needs root: the server must be able to take on the identity of other users".into(),
            );
        }
        if self.foreground || self.serve {
            self.serve(&folder, context)
        } else {
            self.background(&folder, context)
        }
    }

    fn serve(&self, folder: &Path, context: &Context) -> Result<ExitCode, Failure> {
        // Before there are threads.
        let workers = Workers::start()?;
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(NAME.to_owned()),
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::NoExec,
            MountOption::NoAtime,
        ];
        config.acl = if self.allow_other {
            SessionACL::All
        } else {
            SessionACL::Owner
        };
        config.n_threads = Some(THREADS);
        let serving = Arc::new(AtomicBool::new(false));
        let owner = geteuid().as_raw();
        let files = fs::SigFs::new(context.timeout, owner, workers, Arc::clone(&serving))?;
        let session = Session::new(files, folder, &config)
            .map_err(|e| format!("mount on {}: {}", folder.shown(), e.to_string().trim_end()))?;
        if self.serve {
            std::env::set_current_dir("/")?;
            // Already the leader of one, if it fails.
            let _ = nix::unistd::setsid();
        }
        let mut out = io::stdout();
        writeln!(out, "{READY}")?;
        out.flush()?;
        serving.store(true, Ordering::Relaxed);
        session.run()?;
        Ok(ExitCode::SUCCESS)
    }

    /// Starts the server, and waits until it is ready.
    fn background(&self, folder: &Path, context: &Context) -> Result<ExitCode, Failure> {
        let mut server = Command::new(std::env::current_exe()?)
            .arg(format!("--timeout={}", context.timeout.as_secs_f64()))
            .args(["mount", "--serve"])
            .args(self.allow_other.then_some("--allow-other"))
            .arg("--")
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut said = String::new();
        if let Some(out) = server.stdout.take() {
            BufReader::new(out).read_line(&mut said)?;
        }
        if said.trim_end() == READY {
            return Ok(ExitCode::SUCCESS);
        }
        let mut why = String::new();
        if let Some(mut err) = server.stderr.take() {
            err.read_to_string(&mut why)?;
        }
        server.wait()?;
        let why = why.trim_end();
        Err(why.strip_prefix("criu-signals: ").unwrap_or(why).into())
    }
}

/// Unmounts the file system of `mount` and ends its server.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  criu-signals unmount /mnt

Exit codes:
  0  the file system is unmounted
  2  the file system is in use, or no file system of criu-signals is mounted there")]
pub struct Unmount {
    /// Mount point.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Unmount {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let folder = resolve(&self.folder)?;
        let shown = folder.shown();
        // The last one lies on top.
        let mounts = Process::myself()?.mountinfo()?;
        let top = mounts.into_iter().rfind(|m| m.mount_point == folder);
        if !top.is_some_and(|m| {
            m.fs_type.starts_with("fuse") && m.mount_source.as_deref() == Some(NAME)
        }) {
            return Err(format!("{shown}: no file system of {NAME} is mounted there").into());
        }
        match nix::mount::umount2(&folder, nix::mount::MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(nix::errno::Errno::EPERM) => by_helper(&folder),
            Err(e) => Err(format!("unmount {shown}: {e}").into()),
        }
    }
}

/// As somebody who may not unmount.
fn by_helper(folder: &Path) -> Result<ExitCode, Failure> {
    let done = Command::new("fusermount3")
        .arg("-u")
        .arg("--")
        .arg(folder)
        .output();
    let done = done.map_err(|e| format!("fusermount3: {e}"))?;
    if done.status.success() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(String::from_utf8_lossy(&done.stderr)
        .trim_end()
        .to_owned()
        .into())
}

/// The path without links. The folder itself may not be looked at: if its server is gone, that fails.
fn resolve(folder: &Path) -> io::Result<PathBuf> {
    let folder = std::path::absolute(folder)?;
    match (folder.parent(), folder.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Ok(folder),
    }
}
