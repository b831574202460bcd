//! Replaces a file as a whole: the new file gets its name when it is completely on the disk, so that readers find the old file or
//! the new file, and never a part.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// In the folder where the file is to be: only there can a rename be one step.
pub struct NewFile {
    folder: OwnedFd,
    name: PathBuf,
    temporary: PathBuf,
    /// Under its temporary name.
    file: File,
}

impl NewFile {
    /// Makes the file.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn create(folder: OwnedFd, name: &Path, mode: u32) -> io::Result<NewFile> {
        let temporary = PathBuf::from(format!(
            ".{}.{}.new",
            name.to_string_lossy(),
            std::process::id()
        ));
        // What a criu of this pid may have left when it was killed.
        remove(&folder, &temporary)?;
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&folder, &temporary, flags, Mode::from_bits_truncate(mode))?;
        let file = NewFile {
            folder,
            name: name.to_owned(),
            temporary,
            file: file.into(),
        };
        // Whatever the umask is.
        file.file.set_permissions(Permissions::from_mode(mode))?;
        Ok(file)
    }

    /// Removes the file that has the name now.
    ///
    /// # Errors
    /// Those of unlink(2), but for ENOENT.
    pub fn remove_old(&self) -> io::Result<()> {
        remove(&self.folder, &self.name)
    }

    /// All of it, or nothing.
    ///
    /// # Errors
    /// Those of write(2), fsync(2) and rename(2).
    pub fn write(mut self, text: &[u8]) -> io::Result<()> {
        self.file.write_all(text)?;
        self.file.sync_all()?;
        renameat(&self.folder, &self.temporary, &self.folder, &self.name)?;
        match File::from(self.folder.as_fd().try_clone_to_owned()?).sync_all() {
            // fsync(2): the file system has no syncing of folders.
            Err(e) if e.raw_os_error() == Some(Errno::EINVAL as i32) => Ok(()),
            other => other,
        }
    }
}

impl Drop for NewFile {
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
