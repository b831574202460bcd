//! Image folders: which processes an image folder contains, and under which names.

use std::io;
use std::os::fd::BorrowedFd;

use criu_signals_images::image::Durability;
use criu_signals_images::{Image, Pid, Tid, image};
use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::error::{Cause, Error, Result};
use crate::fault::{self, Point};
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

/// Proof that the image of a process is in the folder, under its name: it outlives this program.
#[derive(Debug)]
pub struct InFolder {
    name: String,
}

impl InFolder {
    /// The image's file name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Proof that the image of a process is on the disk as well: it outlives a crash of the machine.
#[derive(Debug)]
pub struct OnDisk(InFolder);

impl OnDisk {
    /// The same image, and less is said of it.
    pub fn in_folder(&self) -> &InFolder {
        &self.0
    }

    /// See [`in_folder`](Self::in_folder).
    pub fn into_in_folder(self) -> InFolder {
        self.0
    }
}

/// The images that a dump has written: all of them are good for a restore, or none is left.
#[derive(Debug, Default)]
pub struct Written {
    names: Vec<String>,
}

impl Written {
    /// Writes an image of a process from which nothing is taken out, no safer than CRIU's own images are.
    ///
    /// # Errors
    /// If there is an image of that name, or it could not be written.
    pub fn write(&mut self, dir: BorrowedFd<'_>, image: &Image) -> Result<InFolder> {
        self.create(dir, image, Durability::InCache)
    }

    /// Writes an image that will be all that is left of signals in custody, and syncs it.
    ///
    /// # Errors
    /// If there is an image of that name, or it could not be written or synced.
    pub fn write_to_disk(&mut self, dir: BorrowedFd<'_>, image: &Image) -> Result<OnDisk> {
        self.create(dir, image, Durability::OnDisk).map(OnDisk)
    }

    fn create(
        &mut self,
        dir: BorrowedFd<'_>,
        image: &Image,
        durability: Durability,
    ) -> Result<InFolder> {
        let passing = |step| fault::point(at(step)).map_err(io::Error::other);
        let name = image::create_in_passing(dir, image, durability, passing)
            .map_err(|e| Error::new("write", Cause::Image(e)))?;
        self.names.push(name.clone());
        Ok(InFolder { name })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Their file names.
    pub fn into_names(self) -> Vec<String> {
        self.names
    }

    /// Removes all, after a dump that has failed, or whose images are elsewhere: they would be in the way of the next.
    pub fn remove(&self, dir: BorrowedFd<'_>) {
        for name in &self.names {
            if let Err(errno) = unlinkat(dir, name.as_str(), UnlinkatFlags::NoRemoveDir) {
                log::warn!("removing {name}, which no restore will read: {errno}");
            }
        }
    }
}

fn at(step: image::Step) -> Point {
    match step {
        image::Step::Created => Point::ImageCreated,
        image::Step::Written => Point::ImageWritten,
        image::Step::Synced => Point::ImageSynced,
    }
}
