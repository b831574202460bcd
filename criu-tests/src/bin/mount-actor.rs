//! A user or a target of mounted files: executes commands of a test, one per line, with the privileges with which the
//! test has started the program, or those of its file (set-user-id).
//!
//! Each command line gets one line in reply: `ok` and the result, or `err` and the errno. Descriptors have numbers,
//! which they keep across `exec`.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, RawFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::stat::{UtimensatFlags, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Uid, setresuid};

type Files = BTreeMap<i32, File>;

fn main() {
    let mut args = std::env::args().skip(1).peekable();
    if args.peek().is_some_and(|arg| arg == "flip") {
        let rest: Vec<String> = args.skip(1).collect();
        return flip(&rest).unwrap_or_else(|e| println!("err {e}"));
    }
    if args.peek().is_some_and(|arg| arg == "vfork") {
        return vfork();
    }
    let mut files = args.filter_map(|arg| inherited(&arg)).collect();
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let answer = match obey(&line, &mut files) {
            Ok(found) => format!("ok {found}"),
            Err(e) => format!("err {}", e.raw_os_error().unwrap_or(-1)),
        };
        println!("{answer}");
    }
}

/// `NUMBER=DESCRIPTOR`.
fn inherited(arg: &str) -> Option<(i32, File)> {
    let (number, fd) = arg.split_once('=')?;
    let fd: RawFd = fd.parse().ok()?;
    // SAFETY: the program that this one was has left it open for it.
    Some((number.parse().ok()?, unsafe { File::from_raw_fd(fd) }))
}

fn wrong() -> io::Error {
    io::Error::from_raw_os_error(libc::EDOM)
}

fn obey(line: &str, files: &mut Files) -> io::Result<String> {
    let words: Vec<&str> = line.splitn(4, ' ').collect();
    let number = |at: usize| -> io::Result<i32> {
        words.get(at).and_then(|w| w.parse().ok()).ok_or_else(wrong)
    };
    let word = |at: usize| words.get(at).copied().ok_or_else(wrong);
    match word(0)? {
        "open" => {
            let how = word(2)?;
            let file = OpenOptions::new()
                .read(how.contains('r'))
                .write(how.contains('w'))
                .open(word(3)?)?;
            files.insert(number(1)?, file);
            Ok(String::new())
        }
        "close" => files
            .remove(&number(1)?)
            .map(|_| String::new())
            .ok_or_else(wrong),
        "give" => give(file(files, number(1)?)?, word(2)?),
        "take" => {
            files.insert(number(1)?, take(word(2)?)?);
            Ok(String::new())
        }
        "list" => {
            let names = fs::read_dir(word(1)?)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<_>>>()?;
            Ok(names.join(" "))
        }
        "stat" => fs::symlink_metadata(word(1)?).map(|m| m.len().to_string()),
        "truncate" => {
            nix::unistd::truncate(word(1)?, number(2)?.into())?;
            Ok(String::new())
        }
        "touch" => {
            let (now, flag) = (TimeSpec::UTIME_NOW, UtimensatFlags::FollowSymlink);
            utimensat(nix::fcntl::AT_FDCWD, word(1)?, &now, &now, flag)?;
            Ok(String::new())
        }
        "exec" => Err(exec(word(1)?, files)),
        "run" => run(word(1)?, files),
        "block" => block(number(1)?).map(|()| String::new()),
        "blocked" => blocked().map(|mask| mask.to_string()),
        "unshare" => {
            unshare(CloneFlags::CLONE_NEWUSER)?;
            Ok(String::new())
        }
        "share-memory" => share_memory(),
        "no-new-privs" => {
            nix::sys::prctl::set_no_new_privs()?;
            Ok(String::new())
        }
        "hide" => {
            nix::sys::prctl::set_dumpable(false)?;
            Ok(String::new())
        }
        other => use_file(other, file(files, number(1)?)?, &words[2..]),
    }
}

fn file(files: &Files, number: i32) -> io::Result<&File> {
    files.get(&number).ok_or_else(wrong)
}

fn use_file(what: &str, file: &File, words: &[&str]) -> io::Result<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\n', "|");
    match what {
        "read" => {
            let offset = words
                .first()
                .and_then(|w| w.parse().ok())
                .ok_or_else(wrong)?;
            let mut found = [0; 4096];
            let length = file.read_at(&mut found, offset)?;
            Ok(text(&found[..length]))
        }
        "splice" => {
            let (mut read, write) = io::pipe()?;
            let length = nix::fcntl::splice(
                file.as_fd(),
                Some(&mut 0),
                write.as_fd(),
                None,
                4096,
                nix::fcntl::SpliceFFlags::empty(),
            )?;
            let mut found = vec![0; length];
            read.read_exact(&mut found)?;
            Ok(text(&found))
        }
        "map" => map(file),
        "write" => {
            let (mut file, text) = (file, words.join(" ").replace('|', "\n"));
            Ok(file.write(text.as_bytes())?.to_string())
        }
        "sync" => file.sync_all().map(|()| String::new()),
        "cut" => file.set_len(0).map(|()| String::new()),
        "date" => {
            futimens(file.as_fd(), &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW)?;
            Ok(String::new())
        }
        _ => Err(wrong()),
    }
}

/// The first byte of a private mapping; SIGBUS, in a child, where there is none.
fn map(file: &File) -> io::Result<String> {
    // SAFETY: this process has one thread.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => {
            // SAFETY: a new mapping of one page, which is read once.
            unsafe {
                let at = libc::mmap(
                    std::ptr::null_mut(),
                    4096,
                    libc::PROT_READ,
                    libc::MAP_PRIVATE,
                    file.as_raw_fd(),
                    0,
                );
                if at == libc::MAP_FAILED {
                    libc::_exit(101);
                }
                libc::_exit(i32::from(*at.cast::<u8>()));
            }
        }
        nix::unistd::ForkResult::Parent { child } => {
            Ok(format!("{:?}", nix::sys::wait::waitpid(child, None)?))
        }
    }
}

fn give(file: &File, at: &str) -> io::Result<String> {
    let socket = UnixStream::connect(at)?;
    let fds = [file.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &rights,
        MsgFlags::empty(),
        None,
    )?;
    Ok(String::new())
}

fn take(at: &str) -> io::Result<File> {
    let listener = UnixListener::bind(at)?;
    fs::set_permissions(at, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    // The test waits for the socket, and has the other one give.
    let (socket, _) = listener.accept()?;
    let mut byte = [0];
    let mut into = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut into,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: it has been received just now.
            return Ok(unsafe { File::from_raw_fd(fds[0]) });
        }
    }
    Err(wrong())
}

/// The descriptors as arguments, open across execve(2).
fn arguments(files: &Files) -> Vec<String> {
    let kept = files.iter().map(|(number, file)| {
        let _ = fcntl(file.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()));
        format!("{number}={}", file.as_raw_fd())
    });
    kept.collect()
}

fn exec(program: &str, files: &Files) -> io::Error {
    use std::os::unix::process::CommandExt as _;
    // The answer is given by the program that is executed: it could do nothing else.
    println!("ok ");
    Command::new(program).args(arguments(files)).exec()
}

/// Another program, which has the descriptors as well and ends at once.
fn run(program: &str, files: &Files) -> io::Result<String> {
    let args = arguments(files);
    let ended = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    Ok(ended.to_string())
}

fn block(signo: i32) -> io::Result<()> {
    let mut set = SigSet::empty();
    set.add(Signal::try_from(signo)?);
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None)?)
}

/// The sum of those of SIGUSR1, SIGUSR2 and SIGPIPE that are blocked.
fn blocked() -> io::Result<i32> {
    let mut set = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, None, Some(&mut set))?;
    let found = [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGPIPE]
        .into_iter()
        .filter(|&signal| set.contains(signal))
        .map(|signal| signal as i32);
    Ok(found.sum())
}

/// A process whose memory is this one's lives on when this one executes another program.
fn share_memory() -> io::Result<String> {
    extern "C" fn sleep(_: *mut libc::c_void) -> libc::c_int {
        loop {
            // SAFETY: it takes nothing and changes nothing.
            unsafe { libc::pause() };
        }
    }
    let stack = Box::leak(vec![0u8; 1 << 16].into_boxed_slice());
    let top = stack.as_mut_ptr_range().end.cast();
    // SAFETY: the stack is the new process's for ever.
    let pid = unsafe {
        libc::clone(
            sleep,
            top,
            libc::CLONE_VM | libc::SIGCHLD,
            std::ptr::null_mut(),
        )
    };
    Errno::result(pid)?;
    Ok(pid.to_string())
}

/// Until the child ends, which only a signal does, this process does not stop (wait_for_vfork_done).
#[allow(deprecated)]
fn vfork() {
    // SAFETY: the child does nothing but wait, and never returns.
    if unsafe { libc::vfork() } == 0 {
        loop {
            // SAFETY: it takes nothing and changes nothing.
            unsafe { libc::pause() };
        }
    }
}

/// `OWN SET-USER-ID COUNT`: is now the one, with SIGUSR1 blocked, now the other, with SIGUSR2 blocked, which somebody who has
/// no right to must neither see nor change.
fn flip(args: &[String]) -> io::Result<()> {
    let [own, other, count] = args else {
        return Err(wrong());
    };
    let count: u32 = count.parse().map_err(|_| wrong())?;
    let privileged = Uid::effective() != Uid::current();
    let signo = if privileged {
        libc::SIGUSR2
    } else {
        libc::SIGUSR1
    };
    block(signo)?;
    for _ in 0..50 {
        std::thread::yield_now();
    }
    let found = blocked()?;
    if privileged && found != signo {
        println!("changed to {found}");
        return Ok(());
    }
    if count == 0 {
        println!("unchanged");
        return io::stdin().read_exact(&mut [0]);
    }
    let next = if privileged {
        // The next program begins with it.
        block(libc::SIGUSR1)?;
        let uid = Uid::current();
        setresuid(uid, uid, uid)?;
        own
    } else {
        other
    };
    let program = CString::new(next.as_bytes()).map_err(|_| wrong())?;
    let count = (count - 1).to_string();
    let args = ["mount-actor", "flip", own, other, &count]
        .map(|arg| CString::new(arg).unwrap_or_default());
    nix::unistd::execv(&program, &args)?;
    Ok(())
}
