//! Images in a stream: with `--stream`, CRIU's images go to criu-image-streamer and come from there, and those of this project
//! go the same way, under the names that they have in a folder.
//!
//! Beside the images goes [`LIST`], which names their processes: a restore cannot ask a stream what is in it. A dump adds each
//! process when its image is sent, and a last line when the dump has succeeded.
//!
//! During the dump the images are in the folder as well: signals that are taken out of a process have to outlive criu and
//! the streamer.
//!
//! CRIU's own images in the stream cannot be corrected afterwards: [`refuse`] reports a process that needs a correction.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsFd as _;
use std::time::Duration;

use criu_signals_images::image::{self, Allowance, MAX_FILE};
use criu_signals_images::{Image, ImageError, Pid};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::criu::ImageStream;
use crate::error::{Cause, Error, Phase, Result};

/// The list of the processes of which there are images.
const LIST: &CStr = c"signals-list.img";
/// Its first line.
const BEGINNING: &str = "criu-signals 1";
/// Its last line.
const END: &str = "end";
/// The longest list that is read: for more processes than a kernel can have (PID_MAX_LIMIT).
const MAX_LIST: u64 = 1 << 26;

/// How long the streamer may accept no data, or send none that was asked for.
const STALL: Duration = Duration::from_secs(30);

/// One end of a pipe; the streamer has the other end. Waits for the streamer with a bound.
struct Pipe {
    file: File,
    stall: Duration,
}

impl Pipe {
    fn new(file: File) -> io::Result<Pipe> {
        Pipe::within(file, STALL)
    }

    fn within(file: File, stall: Duration) -> io::Result<Pipe> {
        fcntl(&file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        fcntl(&file, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        Ok(Pipe { file, stall })
    }

    fn wait(&self, event: PollFlags) -> io::Result<()> {
        let timeout = PollTimeout::try_from(self.stall).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.file.as_fd(), event)];
        match poll(&mut fds, timeout) {
            Ok(0) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the image streamer has done nothing for {:?}", self.stall),
            )),
            // After EINTR the read or write is tried again.
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::POLLOUT)?,
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Pipe {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::POLLIN)?,
                done => return done,
            }
        }
    }
}

/// The data that a dump sends.
pub(super) struct Outgoing {
    stream: ImageStream,
    /// Opened with the first image: to the streamer, the first file says that the processes are stopped.
    list: Option<Pipe>,
}

impl Outgoing {
    pub fn new(stream: ImageStream) -> Outgoing {
        Outgoing { stream, list: None }
    }

    /// Sends the image of a process, and adds the process to the list.
    ///
    /// # Errors
    /// If the streamer does not take it. The dump cannot go on: a restore would not find the image.
    pub fn send(&mut self, image: &Image) -> Result<()> {
        let innermost = image.process.ids.innermost();
        let name = image::file_name(innermost);
        let what = format!("send {name} to the image streamer (--stream)");
        let failed = |e: io::Error| Error::io(what.clone(), &e);
        let c_name = CString::new(name.clone()).map_err(|e| failed(e.into()))?;
        let pipe = self.create(&c_name).map_err(failed)?;
        let mut pipe = BufWriter::new(pipe);
        image::write(&mut pipe, image).map_err(|e| Error::new(what.clone(), Cause::Image(e)))?;
        pipe.flush().map_err(failed)?;
        drop(pipe);
        self.list(&innermost.to_string()).map_err(failed)
    }

    fn create(&self, name: &CStr) -> io::Result<Pipe> {
        Pipe::new(self.stream.create(name)?)
    }

    fn list(&mut self, line: &str) -> io::Result<()> {
        if self.list.is_none() {
            let mut list = self.create(LIST)?;
            writeln!(list, "{BEGINNING}")?;
            self.list = Some(list);
        }
        match &mut self.list {
            // In one call, so that the data always end with a line.
            Some(list) => list.write_all(format!("{line}\n").as_bytes()),
            None => Ok(()),
        }
    }

    /// Notes that the dump has succeeded. Nothing more is sent.
    ///
    /// # Errors
    /// If the streamer does not take the end of the list.
    pub fn finish(mut self) -> Result<()> {
        self.list(END)
            .map_err(|e| Error::io("end the list of images in the stream (--stream)", &e))
    }
}

/// The error that a process cannot be dumped into a stream, because `what` has to be corrected in CRIU's own images
/// afterwards.
pub(super) fn refuse(pid: Pid, what: &str) -> Error {
    Error::new(
        "dump into a stream (--stream)",
        Cause::Unsupported(
            format!(
                "{what}: the plugin corrects that in criu's images when criu has written them, and what criu has sent to \
                 the image streamer cannot be corrected. Dump into a folder"
            )
            .into(),
        ),
    )
    .during(Phase::Capture, pid)
}

/// The data that a restore receives.
pub(super) struct Incoming {
    stream: ImageStream,
    list: List,
}

/// The processes of which there are images in the stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct List {
    pub processes: Vec<i32>,
    /// Does the list say that the dump has succeeded?
    pub complete: bool,
}

impl Incoming {
    /// Reads the list.
    ///
    /// # Errors
    /// If the streamer does not send the list, or sends no such list.
    pub fn begin(stream: ImageStream) -> Result<Incoming> {
        let what = format!(
            "read {} of the image stream (--stream)",
            LIST.to_string_lossy()
        );
        let failed = |e: io::Error| Error::io(what.clone(), &e);
        let mut text = String::new();
        let list = match stream.open(LIST).map_err(failed)? {
            None => List {
                complete: true,
                ..List::default()
            },
            Some(file) => {
                let pipe = Pipe::new(file).map_err(failed)?;
                pipe.take(MAX_LIST)
                    .read_to_string(&mut text)
                    .map_err(failed)?;
                List::parse(&text)
                    .map_err(|why| Error::new(what.clone(), Cause::Unsupported(why.into())))?
            }
        };
        Ok(Incoming { stream, list })
    }

    pub fn list(&self) -> &List {
        &self.list
    }

    /// Reads the image of a process; `None` if there is none. Each image can be read once.
    ///
    /// # Errors
    /// Those of [`image::read_of_within`].
    pub fn read(
        &self,
        innermost: i32,
        allowance: &mut Allowance,
    ) -> std::result::Result<Option<Image>, ImageError> {
        let name = image::file_name(innermost);
        let failed = |source: io::Error| ImageError::Io {
            operation: "read from the image stream",
            name: name.clone(),
            source,
        };
        let c_name = CString::new(name.clone()).map_err(|e| failed(e.into()))?;
        let Some(file) = self.stream.open(&c_name).map_err(failed)? else {
            return Ok(None);
        };
        let mut pipe = Pipe::new(file).map_err(failed)?;
        let image = image::read_of_within((&mut pipe).take(MAX_FILE), innermost, allowance);
        // The streamer gives CRIU no other file before this one was read to its end.
        let rest = io::copy(&mut pipe.take(MAX_FILE), &mut io::sink());
        match image {
            Ok(image) => rest.map(|_| Some(image)).map_err(failed),
            Err(e) => Err(e),
        }
    }
}

impl List {
    /// Reads the text of a list.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> std::result::Result<List, String> {
        let mut lines = text.split_inclusive('\n');
        if lines.next().map(str::trim_end) != Some(BEGINNING) {
            return Err(format!(
                "the list of images does not begin with \"{BEGINNING}\": it is of another version, or of another program"
            ));
        }
        let mut list = List::default();
        for line in lines {
            if list.complete {
                return Err("something follows the end of the list of images".to_owned());
            }
            // The last line of a stream that was cut off.
            let Some(line) = line.strip_suffix('\n') else {
                break;
            };
            if line == END {
                list.complete = true;
                continue;
            }
            match line.parse() {
                Ok(pid) if pid > 0 && line == i32::to_string(&pid) => list.processes.push(pid),
                _ => {
                    let line: String = line.chars().take(40).collect();
                    return Err(format!("the list of images names {line:?} for a process"));
                }
            }
        }
        list.processes.sort_unstable();
        let count = list.processes.len();
        list.processes.dedup();
        if list.processes.len() != count {
            return Err("the list of images names a process twice".to_owned());
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_streamer_is_waited_for_for_ever() {
        let stall = Duration::from_millis(10);
        let (read, write) = nix::unistd::pipe().unwrap();
        let mut incoming = Pipe::within(read.into(), stall).unwrap();
        let mut outgoing = Pipe::within(write.into(), stall).unwrap();
        let nothing = incoming.read(&mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::TimedOut);
        assert!(
            nothing.to_string().contains("nothing for 10ms"),
            "{nothing}"
        );
        let full = outgoing.write_all(&vec![1; 1 << 20]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::TimedOut);
        let mut taken = vec![0; 1 << 12];
        incoming.read_exact(&mut taken).unwrap();
        outgoing.write_all(&taken).unwrap();
    }

    #[test]
    fn a_list_says_whether_it_is_whole() {
        let list = List::parse("criu-signals 1\n7\n3\nend\n").unwrap();
        assert_eq!((list.processes, list.complete), (vec![3, 7], true));
        for (text, processes) in [
            ("criu-signals 1\n", vec![]),
            ("criu-signals 1\n12\n3", vec![12]),
            ("criu-signals 1\n12\nend", vec![12]),
        ] {
            let list = List::parse(text).unwrap();
            assert_eq!(
                (list.processes, list.complete),
                (processes, false),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for (text, why) in [
            ("", "does not begin"),
            ("criu-signals 2\n1\nend\n", "does not begin"),
            ("criu-signals 1\n-4\n", "names \"-4\""),
            ("criu-signals 1\n0\n", "names \"0\""),
            ("criu-signals 1\n+5\n", "names \"+5\""),
            ("criu-signals 1\n5\n5\nend\n", "twice"),
            ("criu-signals 1\nend\n5\n", "follows the end"),
            ("criu-signals 1\n99999999999\n", "names \"99999999999\""),
        ] {
            let refused = List::parse(text).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
