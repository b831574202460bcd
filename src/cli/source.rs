//! Sources of signal state: a live process, an image of this project, CRIU's own images, a folder of images, an archive, a core file.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use criu_signals::archive::{Checkpoint, Limits};
use criu_signals::bpf::process::ProcessReader;
use criu_signals::core_file;
use criu_signals::error::Cause;
use criu_signals::image_folder;
use criu_signals::images::clocks::Clocks;
use criu_signals::images::{
    CodePlace, ImageError, Pid, ProcessState, Recorded, Shown as _, SignalFiles, ThreadState, Tid,
    criu_core, criu_images, image,
};
use criu_signals::losses::by_stop::refuse_stop;
use criu_signals::machine;
use criu_signals::proc;
use criu_signals::reading::{Read as _, Reading, Stopping, Surroundings, WaitingCall};
use criu_signals::signal_files;
use criu_signals::symbols;
use nix::errno::Errno;

use super::context::{self, Context, Failure};

/// The help text about sources.
pub const SOURCES: &str = "\
Sources:
  PID, /proc/PID     a live process; --stop and --no-stop say how it is read
  NAME               the only process with this name, unless there is a file or folder NAME
  signals-PID.img    an image of this project
  core-PID.img       an image of CRIU; needs pstree.img and the images of the other threads in the same folder
  FOLDER             every process of an image folder, from this project's images, or from CRIU's if there are none
  criu:FOLDER        every process of an image folder, from CRIU's images
  ARCHIVE            every process of a checkpoint of podman, CRI-O or containerd: a tar file, also compressed by gzip, zstd or
                     lz4, or an OCI image layout as a folder or a tar file; criu:ARCHIVE reads CRIU's images
  CORE               an ELF core file of a 64-bit program, also as systemd-coredump keeps it, compressed by zstd or lz4";

/// The prefix that selects CRIU's own images in a folder that has this project's images as well.
const CRIU: &str = "criu:";

/// Where a state comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The process itself, which is in pid namespaces of ours.
    Live,
    /// An image of this project's.
    Ours,
    /// CRIU's own images.
    Criu,
    /// An ELF core file.
    Core,
}

/// One process.
pub struct Found {
    /// The name of the source, for output.
    pub name: String,
    pub origin: Origin,
    pub recorded: Recorded,
    /// The number of entries of each queue, in the order of `ProcessState::queues`; `None` if all entries were read.
    pub depths: Option<Vec<usize>>,
    /// State beside the signal state, of a live process.
    pub observed: Observed,
    /// Functions and files of its handlers and restorers, or why they are not known.
    pub names: Result<Vec<CodePlace>, String>,
}

impl Found {
    /// The names that are known.
    pub fn known_names(&self) -> &[CodePlace] {
        self.names.as_deref().unwrap_or_default()
    }
}

/// What is read of a live process beside its signal state.
#[derive(Default)]
pub struct Observed {
    pub waiting: Vec<WaitingCall>,
    pub surroundings: Vec<Surroundings>,
    /// Timerfds and RLIMIT_CPU, or why they are not known; `None` if they were not looked at.
    pub clocks: Option<Result<Clocks, String>>,
    /// Open files that receive or cause signals; empty if they were not looked at.
    pub files: SignalFiles,
}

/// Of a thread: the number of the system call in which it waits, its tracer, seccomp mode, syscall user dispatch.
pub type Around = (Option<u32>, Option<Tid>, u32, Option<[u64; 3]>);

impl Observed {
    /// What was read of one thread.
    pub fn around(&self, thread: &ThreadState) -> Around {
        let tid = thread.tid();
        let call = self.waiting.iter().find(|call| call.tid == tid);
        let around = self.surroundings.iter().find(|around| around.tid == tid);
        (
            call.map(|call| call.number),
            around.and_then(|around| around.tracer),
            around.map_or(0, |around| around.seccomp),
            around.and_then(|around| around.user_dispatch),
        )
    }
}

/// How live processes are read.
#[derive(Clone, Copy, Default, clap::Args)]
pub struct Means {
    /// Stop a live process by ptrace(2) to read it.
    #[arg(long, conflicts_with = "no_stop")]
    stop: bool,
    /// Read a live process by BPF, without stopping it: fails if that is not possible. Needs CAP_BPF, CAP_PERFMON and Linux
    /// 5.17. Without --stop and --no-stop, BPF is used if it is available and reads everything that is to be shown.
    #[arg(long)]
    no_stop: bool,
    /// Whether open files and RLIMIT_CPU are looked at, too.
    #[arg(skip)]
    files: bool,
}

impl Means {
    pub fn and_files(self) -> Means {
        Means {
            files: true,
            ..self
        }
    }
}

/// How much of the queues of live processes is read. The time of the stop grows with the square of the depth of a queue.
#[derive(Clone, Copy)]
pub enum Extent {
    Whole,
    AtMost(usize),
}

/// The processes of one source; never none.
#[derive(Default)]
pub struct Loaded {
    pub found: Vec<Found>,
    /// Processes of a folder or archive whose images could not be read.
    pub unreadable: Vec<Unreadable>,
}

/// A process whose images could not be read.
pub struct Unreadable {
    /// In its own pid namespace.
    pub pid: i32,
    /// Names the image.
    pub why: Failure,
}

impl Loaded {
    fn one(found: Found) -> Loaded {
        Loaded {
            found: vec![found],
            unreadable: Vec::new(),
        }
    }
}

/// Each process, or why its images could not be read.
impl FromIterator<Result<Found, Unreadable>> for Loaded {
    fn from_iter<I: IntoIterator<Item = Result<Found, Unreadable>>>(each: I) -> Loaded {
        let mut loaded = Loaded::default();
        for process in each {
            match process {
                Ok(found) => loaded.found.push(found),
                Err(unreadable) => loaded.unreadable.push(unreadable),
            }
        }
        loaded
    }
}

/// The processes of one source. An image of a folder or archive that cannot be read hides no other.
pub fn load(
    what: &str,
    context: &Context,
    extent: Extent,
    means: Means,
) -> Result<Loaded, Failure> {
    if what.parse::<i64>().is_ok() || context::number(what).is_some() {
        let pid = context::pid(what).map_err(|why| format!("{what}: {why}"))?;
        return Ok(Loaded::one(live_process(pid, context, extent, means)?));
    }
    // A file or folder of that name is meant rather than a process.
    if is_name(what) {
        let pid = context::named(what)?;
        return Ok(Loaded::one(live_process(pid, context, extent, means)?));
    }
    if let Some(folder) = what.strip_prefix(CRIU) {
        let path = Path::new(folder);
        return match checkpoint(path)? {
            Some(archive) => archived(path, &archive, Wanted::Criu),
            None => of_criu(path, path),
        };
    }
    let path = Path::new(what);
    if !what.contains('/') && is_missing(path) {
        return Err(format!(
            "no such process, and no such file: no process has the name {0}, and there is no file or folder {0} here. \
             `criu-signals ps` lists processes by name",
            what.shown()
        )
        .into());
    }
    if let Some(found) = core(path)? {
        return Ok(Loaded::one(found));
    }
    if let Some(archive) = checkpoint(path)? {
        return archived(path, &archive, Wanted::Any);
    }
    if !path.is_dir() {
        return Ok(Loaded::one(file(path)?));
    }
    let dir = File::open(path).map_err(|e| format!("{what}: {e}"))?;
    let pids = image_folder::captured_processes(dir.as_fd())?;
    if pids.is_empty() {
        if path.join(criu_images::PSTREE).exists() {
            return of_criu(path, path);
        }
        // An archive of podman's or CRI-O's that was unpacked.
        let inner = path.join("checkpoint");
        let hint = if inner.is_dir() {
            format!(": name its folder {}", inner.shown())
        } else {
            String::new()
        };
        return Err(
            format!("{what}: contains neither a signals-PID.img nor images of CRIU{hint}").into(),
        );
    }
    let each = pids
        .into_iter()
        .map(|pid| ours(&path.join(image::file_name(pid))).map_err(|why| Unreadable { pid, why }));
    Ok(each.collect())
}

fn is_missing(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

fn is_name(what: &str) -> bool {
    !what.contains('/')
        && std::fs::symlink_metadata(what).is_err()
        && !context::processes_named(what).is_empty()
}

fn live_process(
    pid: Pid,
    context: &Context,
    extent: Extent,
    means: Means,
) -> Result<Found, Failure> {
    let mut stopping = Stopping {
        timeout: context.timeout,
        most: match extent {
            Extent::Whole => None,
            Extent::AtMost(most) => Some(most),
        },
    };
    // Before the reading: addresses of one program mean nothing in the next.
    let program = proc::auxiliary_vector(pid);
    let mut stop_and_read = || {
        refuse_stop(pid)?;
        stopping.read(pid)
    };
    let reading = if means.stop {
        stop_and_read()?
    } else if means.no_stop {
        ProcessReader::new()?
            .with_patience(context.timeout)
            .read(pid)?
    } else if proc::is_held(pid) {
        frozen(pid, context)?
    } else {
        match untouched(pid, extent) {
            Some((reading, true)) => reading,
            Some((reading, false)) => match stop_and_read() {
                // Another program traces the process, or a stop would change the process: what BPF has read names what it lacks.
                Err(e) if matches!(e.cause(), Cause::Os(Errno::EPERM) | Cause::Unsupported(_)) => {
                    reading
                }
                stopped => stopped?,
            },
            None => stop_and_read()?,
        }
    };
    let observed = Observed {
        waiting: reading.waiting.clone(),
        surroundings: reading.surroundings.clone(),
        // Read without a stop, also if the rest is read with a stop.
        clocks: means
            .files
            .then(|| if_same_program(pid, &program, proc::clocks(pid))),
        files: match means.files {
            true => files_of_live(pid, &program),
            false => SignalFiles::default(),
        },
    };
    let depths = reading.depths.clone();
    let names = names_of_live(pid, &reading, program);
    Ok(Found {
        name: format!("process {pid}"),
        origin: Origin::Live,
        recorded: reading.recorded()?,
        depths,
        observed,
        names,
    })
}

/// `program` is the auxiliary vector from before the reading.
pub fn names_of_live(
    pid: Pid,
    reading: &Reading,
    program: criu_signals::error::Result<Vec<u8>>,
) -> Result<Vec<CodePlace>, String> {
    let addresses = reading.process.dispositions.addresses();
    if_same_program(pid, &program, symbols::of_process(pid, &addresses))
}

/// If the files are not known, the result has the reason.
fn files_of_live(pid: Pid, program: &criu_signals::error::Result<Vec<u8>>) -> SignalFiles {
    if_same_program(pid, program, signal_files::of_process(pid)).unwrap_or_else(|why| SignalFiles {
        files: Vec::new(),
        unknown: Some(why),
    })
}

/// `found`, or why it is not known. If the process has executed another program since `then`, that is the reason.
fn if_same_program<T>(
    pid: Pid,
    then: &criu_signals::error::Result<Vec<u8>>,
    found: criu_signals::error::Result<T>,
) -> Result<T, String> {
    let found = found.map_err(|e| e.to_string())?;
    let then = then.as_ref().map_err(ToString::to_string)?;
    if proc::auxiliary_vector(pid).map_err(|e| e.to_string())? != *then {
        return Err("the process has executed another program meanwhile".to_owned());
    }
    Ok(found)
}

/// Functions and files of the handlers in an image, if CRIU's images of the process are in the same folder.
pub fn names_in_images(
    images: &(impl criu_images::Folder + ?Sized),
    process: &ProcessState,
) -> Result<Vec<CodePlace>, String> {
    let addresses = process.dispositions.addresses();
    let names = symbols::in_images(images, process.ids.innermost(), &addresses);
    Ok(names.map_err(|e| e.to_string())?.unwrap_or_default())
}

/// Reads a process that is frozen by a cgroup freezer: only BPF can, because such a process executes no injected code.
fn frozen(pid: Pid, context: &Context) -> Result<Reading, Failure> {
    let frozen = format!("process {pid} is frozen by a cgroup freezer");
    let reading = ProcessReader::new()
        .and_then(|reader| reader.with_patience(context.timeout).read(pid))
        .map_err(|e| format!("{frozen}, and BPF can't read it: {e}. Thaw the cgroup first"))?;
    let lacks = if reading.missing().is_empty() {
        "shown is all that BPF reads"
    } else {
        "the calls that a stop would interrupt, and their remaining times, are not shown"
    };
    context::say(&format_args!("{frozen}; {lacks}"));
    Ok(reading)
}

/// The state as read by BPF, and whether that is everything that is to be shown. `None` if BPF is not available; `check` gives
/// the reason.
fn untouched(pid: Pid, extent: Extent) -> Option<(Reading, bool)> {
    let reading = ProcessReader::new().ok()?.read(pid).ok()?;
    let complete = match extent {
        Extent::Whole => reading.missing().is_empty(),
        Extent::AtMost(_) => !reading.hides_time(),
    };
    Some((reading, complete))
}

fn ours(path: &Path) -> Result<Found, Failure> {
    let recorded: Recorded = image::open(path).map_err(|e| named(path, e))?.into();
    Ok(Found {
        name: path.shown().to_string(),
        origin: Origin::Ours,
        names: names_in_images(&*folder_of(path), &recorded.image.process),
        recorded,
        depths: None,
        observed: Observed::default(),
    })
}

/// One image, of ours or of CRIU's.
fn file(path: &Path) -> Result<Found, Failure> {
    match image::open(path) {
        Err(ImageError::NotAnImage { found, .. }) if found[1] == criu_core::MAGIC => {}
        Err(ImageError::NotAnImage { .. }) => {
            return Err(format!(
                "{}: is neither an image, nor an archive of a checkpoint, nor a core file; if it was copied, compare it with \
                 the original",
                path.shown()
            )
            .into());
        }
        Err(_) if std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == 0) => {
            return Err(format!(
                "{}: the file is empty; if it was copied, copy it again",
                path.shown()
            )
            .into());
        }
        _ => return ours(path),
    }
    let core = criu_images::open_core(path).map_err(|e| named(path, e))?;
    let pid = core_number(path).ok_or_else(|| {
        format!(
            "{}: the file must be named core-PID.img, because only the name tells the process",
            path.shown()
        )
    })?;
    let folder = folder_of(path);
    let whole = if folder.join(criu_images::PSTREE).exists() {
        criu_images::process(&*folder, pid).map_err(|e| named(&folder, e))?
    } else {
        None
    };
    let recorded = match whole {
        Some(recorded) => recorded,
        None => criu_images::leader_alone(&core, pid).map_err(|e| named(path, e))?,
    };
    Ok(Found {
        name: path.shown().to_string(),
        origin: Origin::Criu,
        names: names_in_images(&*folder, &recorded.image.process),
        recorded,
        depths: None,
        observed: Observed::default(),
    })
}

/// A core file, if it is one.
fn core(path: &Path) -> Result<Option<Found>, Failure> {
    let core = core_file::open(path).map_err(|e| format!("{}: {e}", path.shown()))?;
    Ok(core.map(|recorded| Found {
        name: path.shown().to_string(),
        origin: Origin::Core,
        recorded,
        depths: None,
        observed: Observed::default(),
        names: Ok(Vec::new()),
    }))
}

/// An archive, if it is one, or a folder that is an OCI image layout.
pub fn checkpoint(path: &Path) -> Result<Option<Checkpoint>, Failure> {
    Checkpoint::open(path, &Limits::default()).map_err(|e| format!("{}: {e}", path.shown()).into())
}

/// Which of the images.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Ours, or CRIU's if there are none.
    Any,
    Criu,
}

fn archived(path: &Path, archive: &Checkpoint, wanted: Wanted) -> Result<Loaded, Failure> {
    let within = path.join(archive.place());
    let pids = archive.captured_processes();
    if wanted == Wanted::Criu || pids.is_empty() {
        return of_criu(archive, &within);
    }
    let mut allowance = machine::allowance(None);
    let each = pids.into_iter().map(|pid| {
        let name = within.join(image::file_name(pid));
        let image = archive.ours(pid, &mut allowance);
        let recorded: Recorded = image
            .map_err(|e| Unreadable {
                pid,
                why: named(&name, e),
            })?
            .into();
        Ok(Found {
            name: name.shown().to_string(),
            origin: Origin::Ours,
            names: names_in_images(archive, &recorded.image.process),
            recorded,
            depths: None,
            observed: Observed::default(),
        })
    });
    Ok(each.collect())
}

fn of_criu(images: &(impl criu_images::Folder + ?Sized), folder: &Path) -> Result<Loaded, Failure> {
    let each = criu_images::each_process(images).map_err(|e| named(folder, e))?;
    if each.is_empty() {
        return Err(format!("{}: CRIU's images contain no live process", folder.shown()).into());
    }
    let found = |recorded: Recorded| {
        let pid = recorded.image.process.ids.innermost();
        Found {
            name: folder.join(criu_images::core_name(pid)).shown().to_string(),
            origin: Origin::Criu,
            names: names_in_images(images, &recorded.image.process),
            recorded,
            depths: None,
            observed: Observed::default(),
        }
    };
    let unreadable = |of: criu_images::Unreadable| Unreadable {
        pid: of.pid,
        why: named(&folder.join(&of.image), of.error),
    };
    let each = each.into_iter();
    Ok(each
        .map(|process| process.map(found).map_err(unreadable))
        .collect())
}

/// Adds the name of the image to an error, unless the error has the name already, as errors of the file system have.
pub fn named(path: &Path, error: ImageError) -> Failure {
    match error {
        ImageError::Io { .. } | ImageError::NotRegular { .. } | ImageError::TooLarge { .. } => {
            error.into()
        }
        other => format!("{}: {other}", path.shown()).into(),
    }
}

/// 41 of `core-41.img`.
fn core_number(path: &Path) -> Option<i32> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix("core-")?
        .strip_suffix(".img")?
        .parse()
        .ok()
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Live => "live",
            Origin::Ours => "image",
            Origin::Criu => "CRIU's images",
            Origin::Core => "core file",
        })
    }
}
