//! Image folders: which processes a folder knows, and under which name.

use std::os::fd::BorrowedFd;

use criu_signals_images::{Pid, Tid};
use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::error::{Error, Result};
use crate::proc::SignalStatus;

pub mod corrections;

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
