//! Creates and opens image files.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Read, Take};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{self, UnlinkatFlags, unlinkat};

use super::{Allowance, Image, MAX_FILE, read_named, write_named};
use crate::error::{FieldError, ImageError};
use crate::printable::Shown as _;

const MODE: u32 = 0o600;

// O_NONBLOCK: to open a pipe that nobody writes to would hang.
const OPEN_FLAGS: OFlag = OFlag::O_NONBLOCK
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

/// `signals-41.img`: named, as CRIU's own images are, by the pid in the innermost namespace.
pub fn file_name(innermost_pid: i32) -> String {
    format!("signals-{innermost_pid}.img")
}

/// Makes the image's file in a folder and gives its name. Only its owner may read it, whatever the umask.
///
/// The file and its name are on the disk when this returns.
///
/// # Errors
/// [`ImageError::Exists`] if there is a file of that name; the file is left alone. [`ImageError::Invalid`] if no process can
/// have this state. [`ImageError::Io`] if the file cannot be made, written or synced; what was written is removed.
pub fn create_in(dir: BorrowedFd<'_>, image: &Image) -> Result<String, ImageError> {
    create_in_passing(dir, image, Durability::OnDisk, |_| Ok(()))
}

/// How safe an image's file is when its maker returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The kernel has all of it, as it has CRIU's own images: it outlives every process, and not a crash of the machine.
    InCache,
    /// The file and its name are on the disk (fsync(2) of both).
    OnDisk,
}

/// How far the making of an image's file has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The file has its name, and is empty.
    Created,
    /// It is written.
    Written,
    /// It is on the disk, and so is its name.
    Synced,
}

/// As [`create_in`], as safe as asked for, and with a look in at every step, for tests. There is no step
/// [`Synced`](Step::Synced) where nothing is synced.
///
/// # Errors
/// Those of [`create_in`]. An error of `passing` is a failure of that step.
pub fn create_in_passing(
    dir: BorrowedFd<'_>,
    image: &Image,
    durability: Durability,
    passing: impl Fn(Step) -> io::Result<()>,
) -> Result<String, ImageError> {
    image.check()?;
    let name = file_name(image.process.ids.innermost());
    let passing =
        |step| passing(step).map_err(|source| ImageError::io("write", name.as_str(), source));
    create(dir, &name, durability, passing, |file| {
        write_named(BufWriter::new(file), &name, image)
    })?;
    Ok(name)
}

fn create(
    dir: BorrowedFd<'_>,
    name: &str,
    durability: Durability,
    passing: impl Fn(Step) -> Result<(), ImageError>,
    fill: impl FnOnce(&File) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = match openat(dir, name, flags, Mode::from_bits_truncate(MODE)) {
        Ok(fd) => File::from(fd),
        Err(Errno::EEXIST) => {
            let name = name.to_owned();
            return Err(ImageError::Exists { name });
        }
        Err(errno) => return Err(ImageError::io("create", name, errno)),
    };
    let mut unfinished = Unfinished {
        dir,
        name,
        kept: false,
    };
    let made = set_mode(&file, name)
        .and_then(|()| passing(Step::Created))
        .and_then(|()| fill(&file))
        .and_then(|()| passing(Step::Written))
        .and_then(|()| match durability {
            Durability::InCache => close(file, name),
            Durability::OnDisk => sync(&file, dir, name).and_then(|()| passing(Step::Synced)),
        });
    unfinished.kept = made.is_ok();
    made
}

/// A file that has just been made, and is removed again unless it is kept: by an error, and by a panic too.
struct Unfinished<'f> {
    dir: BorrowedFd<'f>,
    name: &'f str,
    kept: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // Ours, because of O_EXCL. Should this fail as well, a reader finds the trailer missing; why the
            // image could not be made matters more.
            let _ = unlinkat(self.dir, self.name, UnlinkatFlags::NoRemoveDir);
        }
    }
}

fn set_mode(file: &File, name: &str) -> Result<(), ImageError> {
    let set = file.set_permissions(Permissions::from_mode(MODE));
    set.map_err(|source| ImageError::io("set the mode of", name, source))
}

/// Some file systems say only now that what was written is not kept: close(2).
fn close(file: File, name: &str) -> Result<(), ImageError> {
    unistd::close(file).map_err(|errno| ImageError::io("close", name, errno))
}

fn sync(file: &File, dir: BorrowedFd<'_>, name: &str) -> Result<(), ImageError> {
    file.sync_all()
        .map_err(|source| ImageError::io("sync", name, source))?;
    sync_folder(dir, name)
}

/// Opened anew, because the caller's descriptor may be one that cannot be synced (O_PATH).
fn sync_folder(dir: BorrowedFd<'_>, name: &str) -> Result<(), ImageError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let synced = openat(dir, ".", flags, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|folder| File::from(folder).sync_all());
    match synced {
        // fsync(2): the file system has no syncing of folders.
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => Ok(()),
        other => other.map_err(|source| ImageError::io("sync the folder of", name, source)),
    }
}

/// Reads the image of a process from a folder; `None` if the folder has none.
///
/// `innermost_pid` is the process's id in its own pid namespace.
///
/// # Errors
/// If the file cannot be opened or read, or is a symbolic link; those of [`read`](super::read); [`ImageError::Corrupt`] if
/// the image is that of another process.
pub fn open_in(dir: BorrowedFd<'_>, innermost_pid: i32) -> Result<Option<Image>, ImageError> {
    open_in_within(dir, innermost_pid, &mut Allowance::unlimited())
}

/// As [`open_in`], and no more than this; what has been read is taken off it.
///
/// # Errors
/// Those of [`open_in`] and of [`read_within`](super::read_within).
pub fn open_in_within(
    dir: BorrowedFd<'_>,
    innermost_pid: i32,
    allowance: &mut Allowance,
) -> Result<Option<Image>, ImageError> {
    let name = file_name(innermost_pid);
    let Some(file) = open_regular_in(dir, &name)? else {
        return Ok(None);
    };
    read_of_within(file, innermost_pid, allowance).map(Some)
}

/// Reads the image of a process from a stream that has the name of the process's image, say in an archive.
///
/// # Errors
/// Those of [`read_within`](super::read_within); [`ImageError::Corrupt`] if the image is that of another process.
pub fn read_of_within(
    reader: impl Read,
    innermost_pid: i32,
    allowance: &mut Allowance,
) -> Result<Image, ImageError> {
    let image = read_named(reader, &file_name(innermost_pid), allowance)?;
    let found = image.process.ids.innermost();
    if found != innermost_pid {
        let reason =
            format!("the file is named after process {innermost_pid} and holds process {found}");
        return Err(FieldError::new("process.ids", reason).in_entry(1));
    }
    Ok(image)
}

/// A file of a folder that may be anybody's, as far as an image can be long. No symbolic link is followed, and nothing
/// but a regular file is read, or waited for.
pub(crate) fn open_regular_in(
    dir: BorrowedFd<'_>,
    name: &str,
) -> Result<Option<Take<File>>, ImageError> {
    let flags = OPEN_FLAGS | OFlag::O_RDONLY | OFlag::O_NOFOLLOW;
    let file = match openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOENT) => return Ok(None),
        // open(2), O_NOFOLLOW: a symbolic link. ENXIO: a socket, or a device without a driver.
        Err(Errno::ELOOP | Errno::ENXIO) => {
            return Err(ImageError::NotRegular {
                name: name.to_owned(),
            });
        }
        Err(errno) => return Err(ImageError::io("open", name, errno)),
    };
    regular(file, name).map(Some)
}

/// Reads an image file. A symbolic link is followed: the caller named it.
///
/// # Errors
/// If the file cannot be opened or read; those of [`read`](super::read).
pub fn open(path: &Path) -> Result<Image, ImageError> {
    open_within(path, &mut Allowance::unlimited())
}

/// As [`open`], and no more than this; what has been read is taken off it.
///
/// # Errors
/// Those of [`open`] and of [`read_within`](super::read_within).
pub fn open_within(path: &Path, allowance: &mut Allowance) -> Result<Image, ImageError> {
    read_named(open_path(path)?, &path.shown().to_string(), allowance)
}

/// A file that somebody named, as far as an image can be long.
pub(crate) fn open_path(path: &Path) -> Result<Take<File>, ImageError> {
    let name = path.shown().to_string();
    let file = File::options()
        .read(true)
        .custom_flags(OPEN_FLAGS.bits())
        .open(path)
        .map_err(|source| ImageError::io("open", &name, source))?;
    regular(file, &name)
}

fn regular(file: File, name: &str) -> Result<Take<File>, ImageError> {
    let metadata = file
        .metadata()
        .map_err(|source| ImageError::io("look at", name, source))?;
    let name = || name.to_owned();
    if !metadata.is_file() {
        return Err(ImageError::NotRegular { name: name() });
    }
    if metadata.len() > MAX_FILE {
        return Err(ImageError::TooLarge {
            name: name(),
            size: metadata.len(),
            limit: MAX_FILE,
        });
    }
    // It may have grown since.
    Ok(file.take(MAX_FILE))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixListener;

    use nix::unistd::mkfifo;
    use tempfile::TempDir;

    use super::*;
    use crate::testing::sample_image;

    const NAME: &str = "signals-41.img";

    fn folder() -> (TempDir, File) {
        let folder = TempDir::new().expect("a temporary folder");
        let opened = File::open(folder.path()).expect("it is there");
        (folder, opened)
    }

    fn names(folder: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(folder.path()).expect("it is there");
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("read").file_name();
        entries
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn made_and_found() {
        let (folder, dir) = folder();
        assert_eq!(open_in(dir.as_fd(), 41).expect("readable"), None);
        let name = create_in(dir.as_fd(), &sample_image()).expect("writable");
        assert_eq!(name, NAME);
        assert_eq!(
            open_in(dir.as_fd(), 41).expect("readable"),
            Some(sample_image())
        );
        assert_eq!(
            open(&folder.path().join(NAME)).expect("readable"),
            sample_image()
        );
    }

    #[test]
    fn a_descriptor_that_only_names_the_folder() {
        let (folder, _) = folder();
        let flags = OFlag::O_PATH.bits();
        let dir = File::options()
            .read(true)
            .custom_flags(flags)
            .open(folder.path())
            .expect("O_PATH");
        create_in(dir.as_fd(), &sample_image()).expect("writable");
        assert_eq!(
            open_in(dir.as_fd(), 41).expect("readable"),
            Some(sample_image())
        );
    }

    #[test]
    fn nothing_is_overwritten() {
        let (folder, dir) = folder();
        let path = folder.path().join(NAME);
        let refused = || match create_in(dir.as_fd(), &sample_image()) {
            Err(ImageError::Exists { name }) => assert_eq!(name, NAME),
            other => panic!("{other:?}"),
        };
        fs::write(&path, "precious").expect("writable");
        refused();
        assert_eq!(fs::read(&path).expect("readable"), b"precious");

        fs::remove_file(&path).expect("removable");
        symlink("elsewhere", &path).expect("writable");
        refused();
        assert_eq!(names(&folder), [NAME]);
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let (folder, dir) = folder();
        let failed = create(
            dir.as_fd(),
            NAME,
            Durability::InCache,
            |_| Ok(()),
            |_| Err(ImageError::io("write", NAME, Errno::ENOSPC)),
        );
        match failed {
            Err(ImageError::Io { source, .. }) => {
                assert_eq!(source.raw_os_error(), Some(Errno::ENOSPC as i32));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(names(&folder), [""; 0]);

        let mut image = sample_image();
        image.process.threads.clear();
        create_in(dir.as_fd(), &image).expect_err("no threads");
        assert_eq!(names(&folder), [""; 0]);

        let panicked = std::panic::catch_unwind(|| {
            create_in_passing(dir.as_fd(), &sample_image(), Durability::OnDisk, |_| {
                panic!("at a step")
            })
        });
        assert!(panicked.is_err());
        assert_eq!(names(&folder), [""; 0]);
    }

    #[test]
    fn only_what_is_to_be_on_the_disk_is_synced() {
        use std::cell::RefCell;
        for (durability, last) in [
            (Durability::InCache, Step::Written),
            (Durability::OnDisk, Step::Synced),
        ] {
            let (_folder, dir) = folder();
            let steps = RefCell::new(Vec::new());
            let passing = |step| {
                steps.borrow_mut().push(step);
                Ok(())
            };
            let image = sample_image();
            create_in_passing(dir.as_fd(), &image, durability, passing).expect("writable");
            assert_eq!(steps.borrow().last(), Some(&last));
            assert_eq!(open_in(dir.as_fd(), 41).expect("readable"), Some(image));
        }
    }

    #[test]
    fn only_regular_files() {
        let (folder, dir) = folder();
        let path = folder.path().join(NAME);
        let in_folder = || match open_in(dir.as_fd(), 41) {
            Err(ImageError::NotRegular { name }) => assert_eq!(name, NAME),
            other => panic!("{other:?}"),
        };

        fs::create_dir(&path).expect("writable");
        in_folder();
        fs::remove_dir(&path).expect("removable");

        mkfifo(&path, Mode::S_IRWXU).expect("writable");
        in_folder();
        match open(&path) {
            Err(ImageError::NotRegular { .. }) => {}
            other => panic!("{other:?}"),
        }
        fs::remove_file(&path).expect("removable");

        let socket = UnixListener::bind(&path).expect("writable");
        in_folder();
        drop(socket);
        fs::remove_file(&path).expect("removable");

        create_in(dir.as_fd(), &sample_image()).expect("writable");
        fs::rename(&path, folder.path().join("moved")).expect("writable");
        symlink("moved", &path).expect("writable");
        in_folder();
        assert_eq!(open(&path).expect("followed"), sample_image());
    }

    #[test]
    fn the_name_and_the_process_agree() {
        let (folder, dir) = folder();
        create_in(dir.as_fd(), &sample_image()).expect("writable");
        fs::rename(
            folder.path().join(NAME),
            folder.path().join("signals-42.img"),
        )
        .expect("writable");
        match open_in(dir.as_fd(), 42) {
            Err(ImageError::Corrupt { field, .. }) => assert_eq!(field, "process.ids"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_that_no_image_can_be() {
        let (folder, dir) = folder();
        let huge = File::create(folder.path().join(NAME)).expect("writable");
        huge.set_len(MAX_FILE + 1).expect("sparse");
        match open_in(dir.as_fd(), 41) {
            Err(ImageError::TooLarge { size, .. }) => assert_eq!(size, MAX_FILE + 1),
            other => panic!("{other:?}"),
        }
        let (folder, dir) = self::folder();
        create_in(dir.as_fd(), &sample_image()).expect("writable");
        let size = folder.path().join(NAME).metadata().expect("there").size();
        assert!(size < 4096, "{size}");
    }
}
