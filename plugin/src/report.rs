//! The report of a run: gathered while it goes on, and written at its end, whatever becomes of it.
//!
//! A pipeline that finds a report has to know that it is this run's and whole. So an older one of that name is removed
//! when the run begins, and the new one appears under its name when all of it is on the disk. Its file is made at the
//! beginning: where it can't be, that is known before anything is done.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criu_signals::criu::{HookError, Host};
use criu_signals::error::Error;
use criu_signals::images::{Pid, Shown as _};
use criu_signals::run_report::{self, Criu, Document, Outcome, Process, Stage, VERSION};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::beneath;
use crate::settings::{Policy, REPORT, Settings};

/// A report names addresses and values of the program: like an image it is for its owner alone.
const MODE: u32 = 0o600;

/// What is known so far.
pub struct Recorder {
    document: Document,
    started: Instant,
    /// The plugin itself has made the run fail.
    refused: bool,
    target: Option<Target>,
}

impl Recorder {
    /// Begins the report of a run.
    ///
    /// # Errors
    /// If one is wanted and its file can't be made, and the policy is `strict`. With another policy that is an error in
    /// the log, and the run goes on without a report.
    pub fn begin(stage: Stage, host: Host, settings: &Settings) -> Result<Recorder, HookError> {
        let pid = std::process::id();
        let images = host.image_dir().ok().and_then(|dir| {
            let link = std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()));
            Some(link.ok()?.to_string_lossy().into_owned())
        });
        let mut recorder = Recorder {
            document: Document {
                report_version: VERSION,
                plugin_version: env!("CARGO_PKG_VERSION").to_owned(),
                stage,
                outcome: Outcome::Failed,
                criu: Criu {
                    pid,
                    versions: host.versions().map(str::to_owned),
                    result: None,
                },
                images,
                policy: settings.policy.to_string(),
                duration_us: 0,
                processes: Vec::new(),
                notices: Vec::new(),
                errors: Vec::new(),
            },
            started: Instant::now(),
            refused: false,
            target: None,
        };
        if let Some(report) = &settings.report {
            let path = report.path(stage, pid);
            match Target::create(host, path.clone()) {
                Ok(target) => recorder.target = Some(target),
                Err(e) => {
                    let what = Error::io(format!("make report {} ({REPORT})", path.shown()), &e);
                    if settings.policy == Policy::Strict {
                        let what = format!("{what}. Nothing is done (policy=strict)");
                        return Err(HookError::new(Errno::EIO, what));
                    }
                    log::error!("{what}: there will be no report");
                }
            }
        }
        Ok(recorder)
    }

    /// Logs what failed, and keeps it.
    pub fn error(&mut self, what: impl Into<String>) {
        let what = what.into();
        log::error!("{what}");
        self.document.errors.push(what);
    }

    /// What was said, and belongs to no process of the report.
    pub fn notices(&mut self, notices: Vec<run_report::Notice>) {
        self.document.notices.extend(notices);
    }

    /// One process is done with, since `started`.
    pub fn process(&mut self, process: Process, started: Instant) {
        self.document.processes.push(Process {
            duration_us: micros(started.elapsed()),
            ..process
        });
    }

    /// Is there a word of this process?
    pub fn has(&self, pid: Pid) -> bool {
        let mut known = self.document.processes.iter();
        known.any(|process| process.pid == Some(pid.get()))
    }

    /// The plugin makes the run fail.
    pub fn refuse(&mut self) {
        self.refused = true;
    }

    /// Writes it. `result` is criu's, `None` if the plugin lets it do nothing because of `why`.
    pub fn finish(mut self, result: Option<i32>, why: Option<String>) {
        self.document.errors.extend(why);
        self.document.criu.result = result;
        self.document.duration_us = micros(self.started.elapsed());
        self.document.outcome = self.document.overall(self.refused || result.is_none());
        let Some(target) = self.target else {
            return;
        };
        let path = target.path.clone();
        match target.write(&self.document) {
            Ok(()) => log::info!("report {} written", path.shown()),
            Err(e) => {
                let what = Error::io(format!("write report {} ({REPORT})", path.shown()), &e);
                log::error!("{what}: there is no report");
            }
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Where the report goes.
struct Target {
    /// For people.
    path: PathBuf,
    /// criu has closed its image folder when a restore ends.
    folder: OwnedFd,
    name: PathBuf,
    temporary: PathBuf,
    /// Under its temporary name.
    file: File,
}

impl Target {
    /// Makes the file, in the folder where the report is to be: only there can a rename be one step.
    fn create(host: Host, path: PathBuf) -> io::Result<Target> {
        let name = path
            .file_name()
            .map(PathBuf::from)
            .ok_or_else(|| io::Error::other("there is no file name in it"))?;
        // Of a name alone it is "".
        let parent = path.parent().unwrap_or(Path::new(""));
        let folder = if path.is_absolute() {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            open(parent, flags, Mode::empty())?
        } else {
            // Whoever asks for a checkpoint may own the image folder: a link in it is not the settings' word.
            beneath::open_folder(host.image_dir().map_err(io::Error::other)?, parent)?
        };
        let temporary = PathBuf::from(format!(
            ".{}.{}.new",
            name.to_string_lossy(),
            std::process::id()
        ));
        // What a criu of this pid may have left when it was killed.
        remove(&folder, &temporary)?;
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&folder, &temporary, flags, Mode::from_bits_truncate(MODE))?;
        let target = Target {
            path,
            folder,
            name,
            temporary,
            file: file.into(),
        };
        target.file.set_permissions(Permissions::from_mode(MODE))?;
        // A report that is there is another run's.
        remove(&target.folder, &target.name)?;
        Ok(target)
    }

    /// All of it, or nothing.
    fn write(mut self, document: &Document) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(document)?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        self.file.sync_all()?;
        renameat(&self.folder, &self.temporary, &self.folder, &self.name)?;
        match File::from(self.folder.as_fd().try_clone_to_owned()?).sync_all() {
            // fsync(2): the file system has no syncing of folders.
            Err(e) if e.raw_os_error() == Some(Errno::EINVAL as i32) => Ok(()),
            other => other,
        }
    }
}

impl Drop for Target {
    /// It has its name by now, or is not to have one.
    fn drop(&mut self) {
        let _ = remove(&self.folder, &self.temporary);
    }
}

fn remove(folder: &OwnedFd, name: &Path) -> io::Result<()> {
    match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
