//! The report file of a run: created when the run begins, and written at its end, whether the run succeeds or fails.
//!
//! A pipeline that finds a report must be sure that the report is complete and belongs to this run. So an older report
//! of the same name is removed when the run begins, and the new report gets its name when it is completely on the disk.
//! The file is created at the beginning, so that a failure to create it is known before any other work.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use criu_signals::checkpoint::options::Policy;
use criu_signals::criu::{HookError, Host};
use criu_signals::error::Error;
use criu_signals::images::Shown as _;
use criu_signals::run_report::{Document, Stage};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::beneath;
use crate::settings::{REPORT, ReportPath};

/// A report names addresses and values of the program: like an image it is for its owner alone.
const MODE: u32 = 0o600;

/// The report of this run, if one is wanted.
pub struct Report(Option<ReportFile>);

impl Report {
    /// Makes the file.
    ///
    /// # Errors
    /// If a report is wanted and its file can't be made, and the policy is `strict`. With another policy that is an error
    /// in the log, and the run goes on without a report.
    pub fn create(
        stage: Stage,
        host: Host,
        policy: Policy,
        path: Option<&ReportPath>,
    ) -> Result<Report, HookError> {
        let Some(path) = path else {
            return Ok(Report(None));
        };
        let path = path.path(stage, std::process::id());
        match ReportFile::create(host, path.clone()) {
            Ok(file) => Ok(Report(Some(file))),
            Err(e) => {
                let what = Error::io(format!("make report {} ({REPORT})", path.shown()), &e);
                if policy == Policy::Strict {
                    let what = format!("{what}. Nothing is done (policy=strict)");
                    return Err(HookError::new(Errno::EIO, what));
                }
                log::error!("{what}: no report will be written");
                Ok(Report(None))
            }
        }
    }

    /// Writes it.
    pub fn write(self, document: &Document) {
        let Some(file) = self.0 else {
            return;
        };
        let path = file.path.clone();
        match file.write(document) {
            Ok(()) => log::info!("report {} written", path.shown()),
            Err(e) => {
                let what = Error::io(format!("write report {} ({REPORT})", path.shown()), &e);
                log::error!("{what}: no report was written");
            }
        }
    }
}

/// Where the report goes.
struct ReportFile {
    /// For people.
    path: PathBuf,
    /// criu has closed its image folder when a restore ends.
    folder: OwnedFd,
    name: PathBuf,
    temporary: PathBuf,
    /// Under its temporary name.
    file: File,
}

impl ReportFile {
    /// Makes the file, in the folder where the report is to be: only there can a rename be one step.
    fn create(host: Host, path: PathBuf) -> io::Result<ReportFile> {
        let name = path
            .file_name()
            .map(PathBuf::from)
            .ok_or_else(|| io::Error::other("the path has no file name"))?;
        // Of a name alone it is "".
        let parent = path.parent().unwrap_or(Path::new(""));
        let folder = if path.is_absolute() {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            open(parent, flags, Mode::empty())?
        } else {
            // An untrusted client may own the image folder, so symbolic links in it are not followed.
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
        let file = ReportFile {
            path,
            folder,
            name,
            temporary,
            file: file.into(),
        };
        file.file.set_permissions(Permissions::from_mode(MODE))?;
        // A report that is there is another run's.
        remove(&file.folder, &file.name)?;
        Ok(file)
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

impl Drop for ReportFile {
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
