//! The metrics file, in which runs are counted. [`criu_signals::checkpoint::metrics`] has its contents.
//!
//! No dump and no restore fails because of the metrics. Several criu processes may end at once: a lock makes them add to the file one after the other.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use criu_signals::checkpoint::metrics::Metrics;
use criu_signals::error::Error;
use criu_signals::images::Shown as _;
use criu_signals::run_report::Document;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open, openat};
use nix::sys::stat::Mode;

use crate::beneath;
use crate::new_file::NewFile;
use crate::settings::{METRICS, trusted};

/// The collector of node_exporter is another user. The file has numbers of runs, and nothing of a program.
const MODE: u32 = 0o644;
/// A lock that other users can open is a lock that they can hold.
const LOCK_MODE: u32 = 0o600;
/// Processes wait for the end of a dump.
const PATIENCE: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(5);
/// All that can be counted has some ten kilobytes.
const LONGEST: u64 = 256 * 1024;

/// The metrics, if they are wanted.
pub struct MetricsFile(Option<Open>);

struct Open {
    /// For people.
    path: PathBuf,
    /// Of criu's own mounts, which a restore may leave.
    folder: OwnedFd,
    name: PathBuf,
}

impl MetricsFile {
    /// Opens the folder of the file. If that fails, it is a warning in the log.
    pub fn open(path: Option<PathBuf>) -> MetricsFile {
        let open = path.and_then(|path| match Open::folder(&path) {
            Ok(open) => Some(open),
            Err(e) => {
                warn(&path, &e);
                None
            }
        });
        MetricsFile(open)
    }

    /// Counts the run.
    pub fn count(self, run: &Document) {
        let Some(open) = self.0 else {
            return;
        };
        let path = open.path.clone();
        match open.count(run) {
            Ok(()) => log::info!("metrics {} written", path.shown()),
            Err(e) => warn(&path, &e),
        }
    }
}

impl Open {
    /// A symbolic link in the path may be another user's, so none is followed.
    fn folder(path: &Path) -> io::Result<Open> {
        let name = path.file_name().map(PathBuf::from);
        let name = name.ok_or(Errno::EISDIR)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open("/", flags, Mode::empty())?;
        let parent = parent.strip_prefix("/").unwrap_or(parent);
        Ok(Open {
            path: path.to_owned(),
            folder: beneath::open_folder(root.as_fd(), parent)?,
            name,
        })
    }

    fn count(self, run: &Document) -> io::Result<()> {
        let _lock = self.lock()?;
        let mut metrics = self.read()?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        metrics.count(run, now.unwrap_or_default());
        let file = NewFile::create(self.folder, &self.name, MODE)?;
        file.write(metrics.to_string().as_bytes())
    }

    fn lock(&self) -> io::Result<Flock<File>> {
        let name = format!(".{}.lock", self.name.to_string_lossy());
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | flags();
        let mode = Mode::from_bits_truncate(LOCK_MODE);
        let mut file = File::from(openat(&self.folder, name.as_str(), flags, mode)?);
        trusted(&file.metadata()?)?;
        let end = Instant::now() + PATIENCE;
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((file, Errno::EAGAIN)) if Instant::now() < end => file,
                Err((_, errno)) => return Err(errno.into()),
            };
            thread::sleep(AGAIN);
        }
    }

    /// What earlier runs have counted. A file that is not of this plugin is left alone.
    fn read(&self) -> io::Result<Metrics> {
        let file = match openat(
            &self.folder,
            &self.name,
            OFlag::O_RDONLY | flags(),
            Mode::empty(),
        ) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(Metrics::default()),
            Err(errno) => return Err(errno.into()),
        };
        let found = file.metadata()?;
        if found.is_dir() {
            return Err(Errno::EISDIR.into());
        }
        trusted(&found)?;
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text)?;
        Metrics::parse(&text)
            .map_err(|e| io::Error::other(format!("{e}: the file is left as it is; move it away")))
    }
}

/// A pipe that nobody writes to is not waited for, and another user's link is not followed.
fn flags() -> OFlag {
    OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC
}

fn warn(path: &Path, e: &io::Error) {
    let what = Error::io(format!("metrics {} ({METRICS})", path.shown()), e);
    let hint = match e.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ELOOP) => "; name a path without symbolic links",
        Some(Errno::EAGAIN) => "; another criu has held the lock of the file for too long",
        _ => "",
    };
    log::warn!("{what}{hint}: this run is not counted");
}
