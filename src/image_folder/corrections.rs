//! Corrections of CRIU's own images at the dump, for state that CRIU would restore wrongly.
//!
//! An image is replaced as a whole or not at all.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::fd::BorrowedFd;

use criu_signals_images::{CoreImage, ImageError, PosixTimer, Rlimit, criu_files, criu_images};
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::error::{Cause, Error, Result};
use crate::fault::{self, Point};

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
