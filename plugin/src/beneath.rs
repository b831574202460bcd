//! Opens folders below a folder that may belong to an untrusted user: the image folder, which a client of `criu
//! service` passes.
//!
//! Following a symbolic link there would let the owner of the folder choose the target with the privileges of root.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;

const FLAGS: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// Opens the folder `path` below `dir`: no symbolic link is followed, and no way leads out of `dir`.
///
/// # Errors
/// ELOOP for a symbolic link, EXDEV for a path that leads out of `dir`, and those of open(2).
pub fn open_folder(dir: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    // Nothing, of which open(2) makes ENOENT.
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    match openat2(dir, path, OpenHow::new().flags(FLAGS).resolve(resolve)) {
        // Before Linux 5.6, or by a seccomp filter that does not know it.
        Err(Errno::ENOSYS | Errno::EPERM) => step_by_step(dir, path),
        other => Ok(other?),
    }
}

/// As openat2, but that a folder which is moved out of `dir` meanwhile is followed there.
fn step_by_step(dir: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = FLAGS | OFlag::O_NOFOLLOW;
    let mut folder = openat(dir, ".", flags, Mode::empty())?;
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => {
                folder = match openat(folder.as_fd(), name, flags, Mode::empty()) {
                    // O_DIRECTORY and O_NOFOLLOW together say so of a symbolic link (do_open, fs/namei.c).
                    Err(Errno::ENOTDIR) if is_link(&folder, name) => {
                        return Err(Errno::ELOOP.into());
                    }
                    other => other?,
                };
            }
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(Errno::EXDEV.into());
            }
        }
    }
    Ok(folder)
}

fn is_link(folder: &OwnedFd, name: &std::ffi::OsStr) -> bool {
    nix::fcntl::readlinkat(folder, name).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    /// Both ways are to say the same.
    #[test]
    fn no_way_leads_out() {
        let name = format!("criu-signals-beneath-{}", std::process::id());
        let outside = std::env::temp_dir().join(name);
        let inside = outside.join("images");
        fs::create_dir_all(inside.join("sub/deeper")).unwrap();
        symlink("sub", inside.join("link")).unwrap();
        symlink("..", inside.join("sub/up")).unwrap();
        symlink("/proc/self/root", inside.join("magic")).unwrap();
        fs::write(inside.join("file"), "").unwrap();
        let dir = File::open(&inside).unwrap();
        for (path, errno) in [
            ("", None),
            ("sub/deeper", None),
            ("./sub/./deeper", None),
            ("link", Some(Errno::ELOOP)),
            ("link/deeper", Some(Errno::ELOOP)),
            ("sub/up", Some(Errno::ELOOP)),
            ("magic/tmp", Some(Errno::ELOOP)),
            ("..", Some(Errno::EXDEV)),
            ("sub/../../images", Some(Errno::EXDEV)),
            ("/", Some(Errno::EXDEV)),
            ("file", Some(Errno::ENOTDIR)),
            ("none", Some(Errno::ENOENT)),
        ] {
            let path = Path::new(path);
            for opened in [
                open_folder(dir.as_fd(), path),
                step_by_step(dir.as_fd(), path),
            ] {
                let found = opened.as_ref().err().and_then(io::Error::raw_os_error);
                assert_eq!(
                    found.map(Errno::from_raw),
                    errno,
                    "{}",
                    path.to_string_lossy()
                );
                if let Ok(folder) = opened {
                    let (folder, meant) = (File::from(folder), inside.join(path));
                    assert_eq!(
                        folder.metadata().unwrap().ino(),
                        fs::metadata(meant).unwrap().ino()
                    );
                }
            }
        }
        fs::remove_dir_all(outside).unwrap();
    }
}
