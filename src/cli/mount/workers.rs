//! The worker processes, one per request. A single-threaded starter process forks them.
//!
//! The server has many threads, and the child of a multi-threaded process may call hardly anything. So the server forks
//! the starter before it creates threads. The starter exits when the server has ended, however the server ended;
//! workers finish their request.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, fork, setsid};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::{PidfdFlags, getpid, pidfd_open, pidfd_send_signal};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::visit::{self, Done, Request};

/// How long a visit may take, beyond the time for which the process may be waited for. The deepest queues are the reason.
const LONGEST_VISIT: Duration = Duration::from_secs(120);
/// How many descriptors come along at most.
const MOST_FILES: usize = 2;
/// How much of a text is taken in one piece.
const PIECE: usize = 1 << 18;
/// The size of the message that descriptors come with.
const MARK: [u8; 1] = [0];

/// The starter process, which forks the workers.
pub struct Workers {
    starter: OwnedFd,
    pid: i32,
}

impl Workers {
    /// To be called while this process has one thread.
    pub fn start() -> io::Result<Workers> {
        let (starter, other) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // SAFETY: this process has one thread, so no lock is held by another that does not exist in the child.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Workers {
                starter,
                pid: child.as_raw(),
            }),
            ForkResult::Child => {
                drop(starter);
                let done = std::panic::catch_unwind(|| start_others(&other));
                exit(done.map_or(1, |()| 0))
            }
        }
    }

    /// The process that starts the workers.
    pub fn starter(&self) -> i32 {
        self.pid
    }

    /// Lets a worker answer a request. `accept` is called for each piece of the answer's text, and an error of `accept`
    /// ends the visit.
    pub fn visit(
        &self,
        request: &Request,
        text: &[u8],
        memory: Option<&OwnedFd>,
        accept: impl FnMut(usize) -> Result<(), Errno>,
    ) -> Result<Done, Errno> {
        let deadline = Instant::now() + request.timeout + LONGEST_VISIT;
        let (socket, other) = UnixStream::pair().map_err(errno)?;
        let files: Vec<BorrowedFd<'_>> = std::iter::once(other.as_fd())
            .chain(memory.map(AsFd::as_fd))
            .collect();
        if send_files(&self.starter, &files).is_err() {
            // Without that one there is nothing left to serve.
            eprintln!("criu-signals: the process that starts the workers has ended");
            std::process::exit(1);
        }
        drop(other);
        let mut visit = Visit {
            socket,
            deadline,
            process: None,
        };
        let done = visit.exchange(request, text, accept);
        if let Err(Errno::ETIMEDOUT) = done {
            visit.end();
        }
        done
    }
}

/// A visit, from the server's side.
struct Visit {
    socket: UnixStream,
    deadline: Instant,
    process: Option<OwnedFd>,
}

impl Visit {
    fn exchange(
        &mut self,
        request: &Request,
        text: &[u8],
        mut accept: impl FnMut(usize) -> Result<(), Errno>,
    ) -> Result<Done, Errno> {
        self.set_timeout()?;
        self.process = receive_files(&self.socket).map_err(errno)?.pop();
        if self.process.is_none() {
            return Err(Errno::EIO);
        }
        // Somebody may have ended it: then there is no answer.
        let sent = send_text(&self.socket, request, text)
            .and_then(|()| self.socket.shutdown(Shutdown::Write));
        sent.map_err(|_| Errno::EIO)?;
        self.set_timeout()?;
        let files = receive_files(&self.socket).map_err(|e| match errno(e) {
            Errno::ETIMEDOUT => Errno::ETIMEDOUT,
            _ => Errno::EIO,
        })?;
        let mut found = Vec::new();
        loop {
            self.set_timeout()?;
            found.try_reserve(PIECE).map_err(|_| Errno::ENOMEM)?;
            let mut piece = (&self.socket).take(PIECE as u64);
            match piece.read_to_end(&mut found).map_err(errno)? {
                0 => break,
                length => accept(length)?,
            }
        }
        let answer: Result<_, i32> = take_head(&mut found).ok_or(Errno::EIO)?;
        Ok(Done {
            answer: answer.map_err(Errno::from_raw)?,
            text: String::from_utf8(found).map_err(|_| Errno::EIO)?,
            files,
        })
    }

    fn set_timeout(&self) -> Result<(), Errno> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let left = left.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(left)).map_err(errno)?;
        self.socket.set_write_timeout(Some(left)).map_err(errno)
    }

    /// The caller has stopped it, or what it does does not end. With its end the process that it traces is let go.
    fn end(&self) {
        if let Some(process) = &self.process {
            let _ = pidfd_send_signal(process, rustix::process::Signal::KILL);
        }
    }
}

fn errno(e: io::Error) -> Errno {
    match e.kind() {
        // SO_RCVTIMEO
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Errno::ETIMEDOUT,
        _ => super::identity::errno(e),
    }
}

/// Runs the starter process, until the server ends.
fn start_others(server: &OwnedFd) {
    // ^C goes to the session.
    let _ = setsid();
    let _ = nix::sys::prctl::set_name(c"signals-mount");
    // Nobody waits for the others.
    // SAFETY: no handler is set.
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) };
    while let Ok(mut files) = receive_files(server) {
        if files.is_empty() {
            // The server has ended.
            return;
        }
        let memory = (files.len() > 1).then(|| files.pop()).flatten();
        let Some(socket) = files.pop() else { continue };
        // SAFETY: still one thread.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                // SAFETY: it belongs to `server`, whose copy in this process is used no more and never dropped.
                unsafe { libc::close(std::os::fd::AsRawFd::as_raw_fd(server)) };
                let socket = UnixStream::from(socket);
                let work = std::panic::AssertUnwindSafe(|| answer(&socket, memory));
                exit(match std::panic::catch_unwind(work) {
                    Ok(Ok(())) => 0,
                    _ => 1,
                });
            }
            // Whoever waits for the answer finds the socket closed.
            Ok(ForkResult::Parent { .. }) | Err(_) => {}
        }
    }
}

/// Runs a worker: answers one request.
fn answer(socket: &UnixStream, memory: Option<OwnedFd>) -> io::Result<()> {
    let _ = nix::sys::prctl::set_name(c"signals-visit");
    // With SIG_IGN, waitpid(2) does not report a tracee's end.
    // SAFETY: no handler is set.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    send_files(socket, &[this.as_fd()])?;
    drop(this);
    let mut said = Vec::new();
    (&*socket).read_to_end(&mut said)?;
    let request: Request = take_head(&mut said).ok_or(io::ErrorKind::UnexpectedEof)?;
    let done = visit::run(&request, &said, memory.map(File::from));
    let (answer, text, files) = match done {
        Ok(done) => (Ok(done.answer), done.text, done.files),
        Err(e) => (Err(e as i32), String::new(), Vec::new()),
    };
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    send_files(socket, &files)?;
    send_text(socket, &answer, text.as_bytes())
}

/// Sends a line with `head` and the length of the text, then the text. The length is needed because the sender may be
/// killed at any byte, and a cut text would be taken for a shorter one.
fn send_text(mut out: impl Write, head: &impl Serialize, text: &[u8]) -> io::Result<()> {
    let mut line = serde_json::to_vec(&(head, text.len()))?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.write_all(text)
}

/// Receives what [`send_text`] has sent: takes the line off `said` and leaves the text. `None` if `said` is incomplete.
fn take_head<Head: DeserializeOwned>(said: &mut Vec<u8>) -> Option<Head> {
    let end = said.iter().position(|&byte| byte == b'\n')?;
    let (head, length): (Head, usize) = serde_json::from_slice(&said[..end]).ok()?;
    said.drain(..=end);
    (said.len() == length).then_some(head)
}

fn send_files(socket: impl AsFd, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        let mark = [IoSlice::new(&MARK)];
        match rustix::net::sendmsg(&socket, &mark, &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other.map(drop)?),
        }
    }
}

/// Without any if the other end is closed.
fn receive_files(socket: impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut mark = MARK;
    loop {
        let into = &mut [IoSliceMut::new(&mut mark)];
        match rustix::net::recvmsg(&socket, into, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
            Ok(_) => break,
        }
    }
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    Ok(files.flatten().collect())
}

/// Ends a copy of the server without running what that one has registered for its end.
fn exit(code: i32) -> ! {
    // SAFETY: _exit takes a number and does not return.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_cut_off_is_none() {
        for text in ["", "one\ntwo\n"] {
            let mut sent = Vec::new();
            send_text(&mut sent, &Ok::<u32, i32>(7), text.as_bytes()).unwrap();
            for length in 0..sent.len() {
                let mut part = sent[..length].to_vec();
                let head: Option<Result<u32, i32>> = take_head(&mut part);
                assert_eq!(head, None, "{length} bytes");
            }
            let head: Option<Result<u32, i32>> = take_head(&mut sent);
            assert_eq!((head, &*sent), (Some(Ok(7)), text.as_bytes()));
        }
    }
}
