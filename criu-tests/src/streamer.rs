//! Stands in for criu-image-streamer: takes the images of a dump by CRIU's protocol (criu/img-streamer.c), keeps them in memory,
//! and gives them to a restore.
//!
//! As the real one does, it gives each file once, and answers the next request when the file before has been taken.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// The longest request: it has one name.
const LONGEST: usize = 4096;

/// The files of a stream, by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A streamer that waits for criu, or serves it.
pub struct Streamer<T>(JoinHandle<Result<T>>);

impl<T> Streamer<T> {
    /// Waits until criu has closed the connection.
    ///
    /// # Errors
    /// If criu has not kept to the protocol.
    pub fn finish(self) -> Result<T> {
        let ended = self.0.join();
        ended.map_err(|_| anyhow!("the streamer has panicked"))?
    }
}

/// Takes a dump's images. It ends when it is to take the file `last`, as one that fails.
///
/// # Errors
/// If there can be no socket in the folder.
pub fn capture(folder: &Path, last: Option<String>) -> Result<Streamer<Files>> {
    let listener = listen(folder, "streamer-capture.sock")?;
    let serve = move || {
        let (mut criu, _) = listener.accept()?;
        let mut readers = Vec::new();
        while let Some(name) = request(&mut criu)? {
            let mut pipe = receive(&criu)?;
            if last.as_ref() == Some(&name) {
                break;
            }
            let read = move || -> io::Result<Vec<u8>> {
                let mut bytes = Vec::new();
                pipe.read_to_end(&mut bytes)?;
                Ok(bytes)
            };
            readers.push((name, thread::spawn(read)));
        }
        let mut files = Files::new();
        for (name, reader) in readers {
            let bytes = reader.join().map_err(|_| anyhow!("{name}: a panic"))??;
            let before = files.insert(name.clone(), bytes);
            ensure!(before.is_none(), "criu has sent {name} twice");
        }
        Ok(files)
    };
    Ok(Streamer(thread::spawn(serve)))
}

/// Gives a restore its images. What was not asked for is left over.
///
/// # Errors
/// If there can be no socket in the folder.
pub fn serve(folder: &Path, mut files: Files) -> Result<Streamer<Files>> {
    let listener = listen(folder, "streamer-serve.sock")?;
    let serve = move || {
        let (mut criu, _) = listener.accept()?;
        let mut given = BTreeSet::new();
        while let Some(name) = request(&mut criu)? {
            let Some(bytes) = files.remove(&name) else {
                ensure!(!given.contains(&name), "criu asks for {name} twice");
                reply(&mut criu, false)?;
                continue;
            };
            reply(&mut criu, true)?;
            let mut pipe = receive(&criu)?;
            pipe.write_all(&bytes)
                .with_context(|| format!("{name} was not read to its end"))?;
            given.insert(name);
        }
        Ok(files)
    };
    Ok(Streamer(thread::spawn(serve)))
}

fn listen(folder: &Path, name: &str) -> Result<UnixListener> {
    let path = folder.join(name);
    let _ = fs::remove_file(&path);
    UnixListener::bind(&path).with_context(|| path.display().to_string())
}

/// The name in the next `img_streamer_request_entry` (images/img-streamer.proto); `None` at the end.
fn request(criu: &mut UnixStream) -> Result<Option<String>> {
    /// Field 1, a string.
    const FILENAME: u8 = 0x0a;
    let mut size = [0; 4];
    match criu.read_exact(&mut size) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let size = usize::try_from(u32::from_ne_bytes(size))?;
    ensure!(size <= LONGEST, "a request of {size} bytes");
    let mut message = vec![0; size];
    criu.read_exact(&mut message)?;
    match message.as_slice() {
        [FILENAME, length, name @ ..] if name.len() == usize::from(*length) => {
            Ok(Some(String::from_utf8(name.to_vec())?))
        }
        other => bail!("not a request: {other:?}"),
    }
}

/// An `img_streamer_reply_entry`.
fn reply(criu: &mut UnixStream, exists: bool) -> io::Result<()> {
    /// Field 1, a number.
    const EXISTS: u8 = 0x08;
    let mut bytes = 2u32.to_ne_bytes().to_vec();
    bytes.extend([EXISTS, exists.into()]);
    criu.write_all(&bytes)
}

/// The pipe that CRIU sends with a byte that says nothing.
#[allow(unsafe_code)]
fn receive(criu: &UnixStream) -> Result<File> {
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(criu.as_raw_fd(), &mut bytes, Some(&mut space), flags)?;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = message
            && let [fd] = *fds
        {
            // SAFETY: the kernel has just made it for this process.
            return Ok(unsafe { File::from_raw_fd(fd) });
        }
    }
    bail!("criu has sent no pipe")
}
