//! The image streamer: with `--stream`, CRIU sends its images to criu-image-streamer, or takes them from there.

// CRIU's function is called through a pointer that dlsym found, and descriptors of CRIU are looked at by their numbers.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::fs::{self, File};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;

/// `int img_streamer_open(char *filename, int flags)` (criu/img-streamer.c).
pub(super) type ImgStreamerOpen = unsafe extern "C" fn(*mut c_char, c_int) -> c_int;

/// `O_DUMP` and `O_RSTR` of criu/include/image.h. CRIU ends itself if the one is asked for in the other's run.
const O_DUMP: c_int = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
const O_RSTR: c_int = libc::O_RDONLY;

/// Which way the images of a run go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// A dump: to the streamer.
    Out,
    /// A restore: from the streamer.
    In,
}

impl Direction {
    /// The name of the socket, in the image folder, where CRIU meets the streamer.
    #[must_use]
    pub const fn socket(self) -> &'static str {
        match self {
            Direction::Out => "streamer-capture.sock",
            Direction::In => "streamer-serve.sock",
        }
    }
}

/// The streamer that takes or gives the images of this run. Its files are pipes, of which the streamer has the other end.
///
/// CRIU sends a request and waits for the streamer without a time limit. What goes through a pipe afterwards is the plugin's
/// own matter. A restore may open each file once, and reads it to the end before the next is opened: the streamer forgets a
/// file as it sends it.
#[derive(Debug, Clone, Copy)]
pub struct ImageStream {
    open: ImgStreamerOpen,
    direction: Direction,
}

impl ImageStream {
    /// The streamer of this process, if there is one.
    pub(super) fn find(open: ImgStreamerOpen) -> io::Result<Option<ImageStream>> {
        let direction = direction()?;
        Ok(direction.map(|direction| ImageStream { open, direction }))
    }

    /// Which way its images go.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Adds a file to the images. What is written to the pipe is the file; its end is that of the last copy of the descriptor.
    ///
    /// # Errors
    /// EINVAL in a restore; EIO if the streamer takes no file, of which CRIU's log says more.
    pub fn create(&self, name: &CStr) -> io::Result<File> {
        if self.direction != Direction::Out {
            return Err(Errno::EINVAL.into());
        }
        match self.ask(name, O_DUMP) {
            fd if fd >= 0 => Ok(own(fd)),
            _ => Err(Errno::EIO.into()),
        }
    }

    /// Opens a file of the images, to be read to its end. `None`: there is none of that name.
    ///
    /// # Errors
    /// EINVAL in a dump; EIO if the streamer gives no file, of which CRIU's log says more.
    pub fn open(&self, name: &CStr) -> io::Result<Option<File>> {
        if self.direction != Direction::In {
            return Err(Errno::EINVAL.into());
        }
        match self.ask(name, O_RSTR) {
            fd if fd >= 0 => Ok(Some(own(fd))),
            fd if fd == -libc::ENOENT => Ok(None),
            _ => Err(Errno::EIO.into()),
        }
    }

    fn ask(&self, name: &CStr, flags: c_int) -> c_int {
        // SAFETY: the function was found by its name, and this run is of the direction that the flags are for. CRIU only reads
        // the name, and keeps no pointer to it.
        unsafe { (self.open)(name.as_ptr().cast_mut(), flags) }
    }
}

fn own(fd: RawFd) -> File {
    // SAFETY: CRIU has made the pipe for the caller, and keeps no copy of this end.
    unsafe { File::from_raw_fd(fd) }
}

/// Which way images are streamed, if this process is connected to a streamer. Only `--stream` connects it: a socket in the
/// image folder may be an old one.
pub(super) fn direction() -> io::Result<Option<Direction>> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let fd = name.to_str().and_then(|name| name.parse().ok());
        if let Some(direction) = fd.and_then(direction_of) {
            return Ok(Some(direction));
        }
    }
    Ok(None)
}

/// Is this descriptor a socket that is connected to a streamer?
fn direction_of(fd: RawFd) -> Option<Direction> {
    // SAFETY: not closed while it is copied: CRIU has one thread, and this is it. The descriptor of the list of descriptors,
    // which is in the list, is open as well.
    let copy = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned();
    let peer = UnixStream::from(copy.ok()?).peer_addr().ok()?;
    let name = peer.as_pathname()?.file_name()?;
    [Direction::Out, Direction::In]
        .into_iter()
        .find(|direction| name == OsStr::new(direction.socket()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    unsafe extern "C" fn never(_: *mut c_char, _: c_int) -> c_int {
        -1
    }

    #[test]
    fn only_a_connection_is_a_stream() {
        let dir = std::env::temp_dir().join(format!("stream-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let path = dir.join(Direction::In.socket());
        let listener = UnixListener::bind(&path).unwrap();
        assert!(ImageStream::find(never).unwrap().is_none(), "not connected");
        let connection = UnixStream::connect(&path).unwrap();
        let stream = ImageStream::find(never).unwrap().unwrap();
        assert_eq!(stream.direction(), Direction::In);
        assert_eq!(
            stream.create(c"x").unwrap_err().raw_os_error(),
            Some(libc::EINVAL)
        );
        assert_eq!(
            stream.open(c"x").unwrap_err().raw_os_error(),
            Some(libc::EIO)
        );
        drop((connection, listener));
        assert!(ImageStream::find(never).unwrap().is_none(), "closed");
        fs::remove_dir_all(&dir).unwrap();
    }
}
