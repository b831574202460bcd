//! Image folders: what is recorded of a process, which processes a folder knows, and what a log says about them.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::fd::BorrowedFd;

use criu_signals_images::{
    CoreImage, FORMAT_VERSION, Header, Image, ImageError, Pid, PosixTimer, ProcessState, Rlimit,
    SigNo, Tid, criu_files, criu_images,
};
use nix::dir::Dir;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::arch;
use crate::engine::capture;
use crate::engine::repair::Report;
use crate::error::{Cause, Error, Result};
use crate::fault::{self, Point};
use crate::machine;
use crate::proc::SignalStatus;
use crate::tracee::StoppedProcess;

/// Captures a process, as an image to be written.
///
/// # Errors
/// Those of [`capture::process`].
pub fn of<Owner>(stopped: &StoppedProcess<Owner>) -> Result<Image> {
    with_header(capture::process(stopped)?)
}

/// Makes an image of what was captured.
///
/// # Errors
/// If uname(2) fails, which it does not.
pub fn with_header(mut process: ProcessState) -> Result<Image> {
    // What was queued before a change of uid is charged to another one.
    process.queued = process.queued.max(process.siginfos());
    let header = Header {
        format_version: FORMAT_VERSION,
        arch: arch::ARCH,
        kernel_release: machine::kernel_release()?,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        criu_version: None,
    };
    Ok(Image { header, process })
}

/// The id of process `pid` in its own pid namespace, by which its image is named.
///
/// # Errors
/// If the process is gone.
pub fn innermost(pid: Pid) -> Result<i32> {
    Ok(SignalStatus::read(pid, Tid::from(pid))?.ids.innermost())
}

/// The processes of which the image folder holds the signal state: N of every `signals-N.img`.
///
/// # Errors
/// If the folder can't be listed.
pub fn captured_processes(dir: BorrowedFd<'_>) -> Result<Vec<i32>> {
    numbered(dir, "signals-")
}

/// The live processes that CRIU has dumped into the folder: N of every `mm-N.img`, which a zombie has not.
///
/// # Errors
/// If the folder can't be listed.
pub fn dumped_processes(dir: BorrowedFd<'_>) -> Result<Vec<i32>> {
    numbered(dir, "mm-")
}

/// Changes RLIMIT_SIGPENDING in CRIU's own image of the process that is `pid` in its own namespace. The image is replaced
/// as a whole or not at all.
///
/// # Errors
/// If CRIU's image can't be read, understood or replaced.
pub fn lend_room(dir: BorrowedFd<'_>, pid: i32, limit: Rlimit) -> Result<()> {
    change_core(dir, pid, |core| {
        core.set_rlimit_sigpending(limit).map(|()| true)
    })
    .map(drop)
}

/// Corrects the timers in CRIU's own image of the process that is `pid` in its own namespace, as
/// [`CoreImage::correct_timers`]; a timer that is right already is left alone. The image is replaced as a whole or not at
/// all. Returns whether it was.
///
/// # Errors
/// If CRIU's image can't be read, understood or replaced.
pub fn correct_timers(dir: BorrowedFd<'_>, pid: i32, timers: &[PosixTimer]) -> Result<bool> {
    change_core(dir, pid, |core| {
        core.correct_timers(timers).map(|ids| !ids.is_empty())
    })
}

/// What [`correct_files`] has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Corrected {
    /// Files whose owner CRIU is not to set.
    pub owners: usize,
    /// timerfds that would not have been armed.
    pub timerfds: usize,
}

/// Changes CRIU's own image of all open files: an owner that is `unwanted` is taken away, and timerfds that have stopped go
/// on. The image is replaced as a whole or not at all.
///
/// # Errors
/// If CRIU's image can't be read, understood or replaced.
pub fn correct_files(
    dir: BorrowedFd<'_>,
    unwanted: impl Fn(criu_files::Owner) -> bool,
) -> Result<Corrected> {
    let name = criu_files::FILES;
    let image = |e| Error::new(format!("replace {name}"), Cause::Image(e));
    let (mut files, mode) = criu_images::open_files_in(dir).map_err(image)?;
    let corrected = Corrected {
        owners: files.take_owners(unwanted),
        timerfds: files.arm_timerfds(),
    };
    if corrected != Corrected::default() {
        let bytes = files.to_bytes().map_err(image)?;
        replace(dir, name, &bytes, mode)?;
    }
    Ok(corrected)
}

/// `change` says whether there is anything to write.
fn change_core(
    dir: BorrowedFd<'_>,
    pid: i32,
    change: impl FnOnce(&mut CoreImage) -> std::result::Result<bool, ImageError>,
) -> Result<bool> {
    let name = criu_images::core_name(pid);
    let image = |e| Error::new(format!("replace {name}"), Cause::Image(e));
    // Whose the folder is nobody knows: no link in it is followed, and nothing but a regular file is read.
    let (mut core, mode) = criu_images::open_core_in(dir, pid).map_err(image)?;
    if !change(&mut core).map_err(image)? {
        return Ok(false);
    }
    let bytes = core.to_bytes().map_err(image)?;
    replace(dir, &name, &bytes, mode).map(|()| true)
}

/// An image of CRIU's, with its mode.
fn replace(dir: BorrowedFd<'_>, name: &str, bytes: &[u8], mode: Permissions) -> Result<()> {
    let failed = |e: &std::io::Error| Error::io(format!("replace {name}"), e);
    let beside = format!("{name}.signals");
    // What is there under that name already is somebody else's.
    let mut made = None;
    let write = || {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = fs::File::from(openat(dir, &*beside, flags, Mode::S_IRUSR)?);
        made = Some(Beside(dir, &beside));
        file.write_all(bytes)?;
        file.set_permissions(mode)?;
        file.sync_all()
    };
    let written = write()
        .map_err(|e| failed(&e))
        .and_then(|()| fault::point(Point::RoomWritten))
        .and_then(|()| renameat(dir, &*beside, dir, name).map_err(|errno| failed(&errno.into())));
    if written.is_ok() {
        std::mem::forget(made);
    }
    written
}

/// A file that is removed again, by an error and by a panic too, unless it has got its place.
struct Beside<'f>(BorrowedFd<'f>, &'f str);

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        let _ = unlinkat(self.0, self.1, UnlinkatFlags::NoRemoveDir);
    }
}

fn numbered(dir: BorrowedFd<'_>, prefix: &str) -> Result<Vec<i32>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let failed = |errno| Error::os("list the image folder", errno);
    // Opened anew: listing moves the offset of the description that others hold.
    let mut entries = Dir::openat(dir, ".", flags, Mode::empty()).map_err(failed)?;
    let mut numbers = Vec::new();
    for entry in entries.iter() {
        let entry = entry.map_err(failed)?;
        let number = entry.file_name().to_str().ok().and_then(|name| {
            name.strip_prefix(prefix)?
                .strip_suffix(".img")?
                .parse::<i32>()
                .ok()
        });
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// What a capture's log line says.
pub fn summary(pid: Pid, image: &Image, name: &str) -> String {
    let process = &image.process;
    let private: usize = process.threads.iter().map(|t| t.pending.queue.len()).sum();
    let bare: usize = process
        .queues()
        .map(|pending| pending.bits_without_info().len())
        .sum();
    let changed = SigNo::all()
        .filter(|&s| !process.dispositions[s].is_default_handler())
        .count();
    let altstacks = process
        .threads
        .iter()
        .filter(|t| !t.altstack.is_disabled())
        .count();
    format!(
        "pid {pid} ({}): captured into {name}: {}, threads={}, dispositions={changed}, altstacks={altstacks}, \
         pending: shared={} private={private} without-siginfo={bare}",
        process.comm,
        process.run_state,
        process.threads.len(),
        process.shared.queue.len(),
    )
}

/// What a check's log lines say: one for the process, one for each difference, one for each failure.
pub fn lines(report: &Report) -> Vec<String> {
    let pid = report.pid;
    let mut lines = vec![format!(
        "pid {pid}: verdict={} threads={} siginfos={} given-back={} arrived-since={} differences={} failures={}",
        report.verdict(),
        report.threads,
        report.siginfos,
        report.given_back,
        report.arrived,
        report.findings.len(),
        report.errors.len(),
    )];
    lines.extend(report.findings.iter().map(|(d, done)| {
        format!(
            "pid {pid}: {} {}: dumped: {}; found: {}; {done}",
            d.place, d.field, d.dumped, d.found
        )
    }));
    lines.extend(report.errors.iter().map(|e| format!("pid {pid}: {e}")));
    lines
}
