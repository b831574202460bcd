//! The report file of a run: created when the run begins, and written at its end, whether the run succeeds or fails.
//!
//! A pipeline that finds a report must be sure that the report is complete and belongs to this run. So an older report
//! of the same name is removed when the run begins, and the new report gets its name when it is completely on the disk.
//! The file is created at the beginning, so that a failure to create it is known before any other work.

use std::io;
use std::path::{Path, PathBuf};

use criu_signals::checkpoint::options::Policy;
use criu_signals::criu::{HookError, Host};
use criu_signals::error::Error;
use criu_signals::images::Shown as _;
use criu_signals::run_report::{Document, Stage};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::beneath;
use crate::new_file::NewFile;
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
    file: NewFile,
}

impl ReportFile {
    /// Makes the file.
    fn create(host: Host, path: PathBuf) -> io::Result<ReportFile> {
        let name = path
            .file_name()
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
        let file = NewFile::create(folder, Path::new(name), MODE)?;
        // A report that is there is another run's.
        file.remove_old()?;
        Ok(ReportFile { path, file })
    }

    fn write(self, document: &Document) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(document)?;
        text.push(b'\n');
        self.file.write(&text)
    }
}
