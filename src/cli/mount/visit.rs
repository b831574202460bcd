//! Answers one request in a process that has the identity of the caller ([`super::identity`]), handles only this
//! request, and exits.
//!
//! However the process ends, the kernel detaches its tracees, including threads that have not stopped yet.

use std::fs::{self, File, Metadata};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use criu_signals::error::{Cause, Error};
use criu_signals::images::Pid;
use criu_signals::images::text::{SigFile, parse};
use criu_signals::in_time;
use criu_signals::proc;
use criu_signals::proc_sig::{self, Addresses, Held, Subject};
use nix::errno::Errno;
use procfs::FromRead;
use procfs::process::Status;
use serde::{Deserialize, Serialize};

use super::identity::{Caller, Identity, errno};
use super::node::Node;

/// What is to be done, for whom. Nodes are named by their numbers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub caller: Caller,
    pub timeout: Duration,
    /// The process whose children answer requests. They are listed for nobody: each request would find one more.
    pub starter: i32,
    pub what: What,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum What {
    Lookup {
        parent: u64,
        name: String,
    },
    Attr(u64),
    List(u64),
    /// Could the file be opened now?
    Access(u64),
    Open(u64),
    /// Of an open file; its descriptor of the program's memory comes along.
    OfOpen(Opened, Act),
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Act {
    Read,
    /// The text itself comes behind the request.
    Write,
    /// Neither, but could it be read now?
    Judge,
}

/// What an open file is bound to: it is one caller's, and about one program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    pub node: u64,
    pub opener: Identity,
    /// Of the process: with its number it means no other.
    started: u64,
    /// Of the program: execve(2) makes another, at other addresses. Nothing where there is no program.
    auxv: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Node(Attr),
    Names(Vec<(String, u64)>),
    /// The memory of the program, and the user namespace if it is not the server's, come along.
    Opened {
        opened: Box<Opened>,
        memory: bool,
        user_ns: bool,
    },
    /// It comes behind the answer.
    Text,
    Done,
}

/// What stat(2) shows.
#[derive(Debug, Serialize, Deserialize)]
pub struct Attr {
    pub node: u64,
    pub uid: u32,
    pub gid: u32,
}

/// An answer, and what comes along.
pub struct Done {
    pub answer: Answer,
    pub text: String,
    pub files: Vec<OwnedFd>,
}

impl From<Answer> for Done {
    fn from(answer: Answer) -> Done {
        Done {
            answer,
            text: String::new(),
            files: Vec::new(),
        }
    }
}

type Outcome<T> = Result<T, Errno>;

/// Answers. This process, which has one thread, is the caller afterwards.
pub fn run(request: &Request, text: &[u8], memory: Option<File>) -> Outcome<Done> {
    in_time::set_patience(request.timeout);
    let who = Identity::of_caller(request.caller)?;
    let user_ns = who.foreign_user_ns(request.caller)?;
    // As long as this process may look.
    let visible = is_visible(request, &who)?;
    // A descriptor may be inherited or passed on, by whatever way: it is of use to its opener alone.
    if matches!(&request.what, What::OfOpen(opened, _) if opened.opener != who) {
        return Err(Errno::EACCES);
    }
    who.assume(user_ns.as_ref())?;
    let visit = Visit {
        who,
        user_ns,
        visible,
    };
    visit.answer(request, text, memory)
}

/// Answers in this process, if nothing has to be traced or waited for and the caller is `own`, which this process is as well.
///
/// Of other processes only lists and `status` are read, for which nobody waits ([`in_time`]); of the caller all, but the caller
/// waits for the answer, so that its process is not in execve(2): another thread that is gets no further than to wait for
/// the caller's end.
pub fn here(request: &Request, own: &Identity) -> Option<Outcome<Done>> {
    let waits = !matches!(
        &request.what,
        What::Lookup { .. } | What::Attr(_) | What::List(_)
    );
    if waits || Identity::of_caller(request.caller).as_ref() != Ok(own) {
        return None;
    }
    let visit = Visit {
        who: own.clone(),
        user_ns: None,
        visible: true,
    };
    Some(visit.answer(request, &[], None))
}

fn node(number: u64) -> Outcome<Node> {
    Node::from_ino(number).ok_or(Errno::ENOENT)
}

/// Does the process of a file that is opened exist for the caller?
fn is_visible(request: &Request, who: &Identity) -> Outcome<bool> {
    let pid = match &request.what {
        What::Lookup { .. } | What::Attr(_) | What::List(_) => None,
        What::Access(number) | What::Open(number) => node(*number)?.pid(),
        What::OfOpen(opened, _) => node(opened.node)?.pid(),
    };
    let Some(pid) = pid else {
        return Ok(true);
    };
    let who = who.clone();
    in_time::look("ns/pid", move || who.sees(pid)).map_err(|e| of_error(&e))
}

/// A request, in a process that is what the caller is.
struct Visit {
    who: Identity,
    user_ns: Option<OwnedFd>,
    visible: bool,
}

impl Visit {
    fn answer(self, request: &Request, text: &[u8], memory: Option<File>) -> Outcome<Done> {
        let caller = request.caller;
        let file = |number| match node(number)? {
            Node::File(..) if !self.visible => Err(Errno::EACCES),
            Node::File(subject, file) => Ok((subject, file)),
            _ => Err(Errno::EISDIR),
        };
        match &request.what {
            What::Lookup { parent, name } => {
                let found = node(*parent)?.child(name.as_ref()).ok_or(Errno::ENOENT)?;
                Ok(Answer::Node(attr(found)?).into())
            }
            What::Attr(number) => Ok(Answer::Node(attr(node(*number)?)?).into()),
            What::List(number) => {
                let found = node(*number)?.children().ok_or(Errno::ENOENT)?;
                let names = found
                    .into_iter()
                    .filter(|(_, node)| !is_child(*node, request.starter))
                    .map(|(name, node)| (name, node.ino()));
                Ok(Answer::Names(names.collect()).into())
            }
            What::Access(number) => {
                let (subject, file) = file(*number)?;
                refuse_itself(caller, subject, file)?;
                in_time::look("mem", move || judge(subject, file)).map_err(|e| of_error(&e))??;
                Ok(Answer::Done.into())
            }
            What::Open(number) => {
                let (subject, file) = file(*number)?;
                refuse_itself(caller, subject, file)?;
                open(*number, subject, file, self.who, self.user_ns)
            }
            What::OfOpen(opened, act) => {
                let (subject, file) = file(opened.node)?;
                refuse_itself(caller, subject, file)?;
                let bound = Bound {
                    subject,
                    file,
                    opened,
                    memory,
                };
                bound.act(act, text, request.timeout)
            }
        }
    }
}

fn is_child(node: Node, parent: i32) -> bool {
    let Node::Process(pid) = node else {
        return false;
    };
    proc::parent(pid).is_ok_and(|found| found.is_some_and(|found| found.get() == parent))
}

fn attr(node: Node) -> Outcome<Attr> {
    if !node.exists() {
        return Err(Errno::ENOENT);
    }
    let (uid, gid) = match node {
        Node::Root => (0, 0),
        // Gone since.
        _ => {
            let owner = |m: Metadata| (m.uid(), m.gid());
            node.status().map(owner).ok_or(Errno::ENOENT)?
        }
    };
    Ok(Attr {
        node: node.ino(),
        uid,
        gid,
    })
}

/// It waits for the answer, and can't be stopped before it has it.
fn refuse_itself(caller: Caller, subject: Subject, file: SigFile) -> Outcome<()> {
    if file == SigFile::Waiters {
        return Ok(());
    }
    let status = Status::from_file(format!("/proc/{}/status", caller.tid));
    if status.is_ok_and(|status| status.tgid == subject.pid.get()) {
        return Err(Errno::EDEADLK);
    }
    Ok(())
}

/// The kernel's verdict on this process, by PTRACE_MODE_ATTACH_FSCREDS: ptrace_may_access, and what security modules say.
fn judge(subject: Subject, file: SigFile) -> Outcome<Option<File>> {
    match File::open(format!("/proc/{}/mem", subject.pid)) {
        Ok(memory) => Ok(Some(memory)),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Err(Errno::EACCES),
        // It has none: of a zombie there may be a waiter. Who looks at that one is judged by the files that say so.
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) && file == SigFile::Waiters => Ok(None),
        Err(e) => Err(errno(e)),
    }
}

fn auxv(pid: Pid) -> Outcome<String> {
    let bytes = fs::read(format!("/proc/{pid}/auxv")).map_err(errno)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What a process executes, and whether the caller may look at that.
struct Program {
    /// `None` if the process is gone.
    started: Option<u64>,
    memory: Outcome<Option<File>>,
    auxv: Outcome<String>,
}

impl Program {
    /// Of a process that may be in execve(2).
    fn in_time(subject: Subject, file: SigFile) -> Outcome<Program> {
        let found = in_time::look("mem", move || Program::of_stopped(subject, file));
        found.map_err(|e| of_error(&e))
    }

    fn of_stopped(subject: Subject, file: SigFile) -> Program {
        Program {
            started: proc::start_time_of_stopped(subject.pid).ok(),
            memory: judge(subject, file),
            auxv: auxv(subject.pid),
        }
    }
}

fn open(
    node: u64,
    subject: Subject,
    file: SigFile,
    opener: Identity,
    user_ns: Option<OwnedFd>,
) -> Outcome<Done> {
    let Program {
        started,
        memory,
        auxv,
    } = Program::in_time(subject, file)?;
    let started = started.ok_or(Errno::ENOENT)?;
    let memory = memory?;
    let auxv = memory.as_ref().map(|_| auxv).transpose()?;
    let answer = Answer::Opened {
        opened: Box::new(Opened {
            node,
            opener,
            started,
            auxv,
        }),
        memory: memory.is_some(),
        user_ns: user_ns.is_some(),
    };
    let files = memory.map(OwnedFd::from).into_iter().chain(user_ns);
    Ok(Done {
        files: files.collect(),
        ..answer.into()
    })
}

/// An open file, in the process that acts on it.
struct Bound<'a> {
    subject: Subject,
    file: SigFile,
    opened: &'a Opened,
    memory: Option<File>,
}

impl Bound<'_> {
    fn act(self, act: &Act, text: &[u8], timeout: Duration) -> Outcome<Done> {
        self.check(self.now()?)?;
        match act {
            Act::Judge => Ok(Answer::Done.into()),
            Act::Read if self.file == SigFile::Waiters => {
                let found = proc_sig::read(self.subject, self.file, timeout);
                let text = found.map_err(|e| of_error(&e))?;
                self.check(self.now()?)?;
                Ok(Done {
                    text,
                    ..Answer::Text.into()
                })
            }
            Act::Read => Ok(Done {
                text: self.stopped(timeout, |held| held.read(self.file))?,
                ..Answer::Text.into()
            }),
            Act::Write => {
                // To its end, before anything is touched.
                let written = parse(self.file, text, None).map_err(|_| Errno::EINVAL)?;
                // Nobody would hear of what was written otherwise, but the text can be read.
                self.stopped(timeout, |held| {
                    held.write_with(self.file, &written, Addresses::Checked)
                })?;
                Ok(Answer::Done.into())
            }
        }
    }

    fn now(&self) -> Outcome<Program> {
        Program::in_time(self.subject, self.file)
    }

    /// Is it still the process and the program that the file was opened for, and may the caller still?
    fn check(&self, now: Program) -> Outcome<()> {
        if now.started != Some(self.opened.started) {
            return Err(Errno::ESRCH);
        }
        now.memory?;
        if let Some(memory) = &self.memory {
            // Nothing at all, where an address that is not mapped gives EIO: it is gone (mem_rw, fs/proc/base.c).
            if matches!(memory.read_at(&mut [0], 0), Ok(0)) {
                return Err(Errno::ESRCH);
            }
        }
        // The old memory may live on in a process that shares it (CLONE_VM).
        if self.opened.auxv.is_some() && now.auxv.ok() != self.opened.auxv {
            return Err(Errno::ESRCH);
        }
        Ok(())
    }

    /// Does `act` while the process is stopped.
    fn stopped<T>(
        &self,
        timeout: Duration,
        act: impl FnOnce(&Held) -> criu_signals::error::Result<T>,
    ) -> Outcome<T> {
        // The kernel judges again, for each thread. From then on a set-user-id program that is executed gets no rights,
        // unless this process has CAP_SYS_PTRACE (ptrace(2), execve(2)).
        let held = Held::seize(self.subject, timeout).map_err(|e| of_error(&e))?;
        // And now that it can't change.
        let done = self
            .check(Program::of_stopped(self.subject, self.file))
            .and_then(|()| act(&held).map_err(|e| of_error(&e)));
        held.release().map_err(|e| of_error(&e))?;
        done
    }
}

fn of_error(e: &Error) -> Errno {
    match e.cause() {
        Cause::Died => Errno::ESRCH,
        Cause::Os(errno) => *errno,
        // A text that can't be made true.
        Cause::Refused(_) | Cause::NotKept(_) => Errno::EINVAL,
        Cause::Unsupported(_) => Errno::EOPNOTSUPP,
        _ => Errno::EIO,
    }
}
