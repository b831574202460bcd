//! The file system. The server's threads receive requests and send replies; a process with the identity of the caller
//! does the work ([`super::visit`]), so that no work is done with the privileges of the server.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use criu_signals::images::Pid;
use fuser::{
    AccessFlags, BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request as FuseRequest,
    TimeOrNow, WriteFlags,
};
use nix::errno::Errno;

use super::fair::{Share, Shares, Turns, lock};
use super::identity::{Caller, Identity};
use super::node::Node;
use super::visit::{self, Act, Answer, Attr, Done, Opened, Request, What};
use super::workers::Workers;

/// Nothing is cached: a task may end at any time, and its number may become the number of another task.
const NO_TIME: Duration = Duration::ZERO;
/// What the kernel hands over of a write(2) at once. It holds a text that may be written, wherever in a page that begins.
const MAX_WRITE: u32 = 1 << 20;
/// A text of this length or more may be a piece of a longer one. Programs that copy write pieces of this size, as it is
/// st_blksize.
const TOO_LONG: usize = 1 << 19;
/// Descriptors of the server's for anything but open files.
const OWN_FILES: u64 = 512;

/// What is served below the mount point.
#[derive(Clone)]
pub struct SigFs(Arc<Server>);

/// The state that all threads of the server share.
struct Server {
    timeout: Duration,
    /// What all of its threads are, always.
    own: Identity,
    /// Is it mounted, and are requests answered?
    serving: Arc<AtomicBool>,
    workers: Workers,
    turns: Arc<Turns>,
    open: Mutex<HashMap<u64, Arc<Open>>>,
    next: AtomicU64,
    /// Of open files, and of the bytes of texts that are kept for their readers.
    files: Arc<Shares>,
    texts: Arc<Shares>,
}

/// An open file.
struct Open {
    subject: Pid,
    opened: Opened,
    /// Of the program that it was opened for.
    memory: Option<OwnedFd>,
    /// The opener's, as long as no other may have its number.
    _user_ns: Option<OwnedFd>,
    /// What a read at offset 0 has found, for the reads behind it.
    text: Mutex<Option<Arc<Text>>>,
    _share: Share,
}

struct Text {
    bytes: Vec<u8>,
    _share: Share,
}

type Outcome<T> = Result<T, Errno>;

impl SigFs {
    /// `owner` is the uid that the server runs as.
    pub fn new(
        timeout: Duration,
        owner: u32,
        workers: Workers,
        serving: Arc<AtomicBool>,
    ) -> io::Result<SigFs> {
        // Two descriptors for each, at most.
        let files = usize::try_from(file_limit()?.saturating_sub(OWN_FILES) / 4);
        let files = files.unwrap_or(usize::MAX).min(2048);
        Ok(SigFs(Arc::new(Server {
            timeout,
            own: Identity::own()?,
            serving,
            workers,
            turns: Turns::start(owner)?,
            open: Mutex::default(),
            next: AtomicU64::new(1),
            files: Shares::new(owner, Errno::EMFILE, (files / 8).max(1), files.max(1)),
            texts: Shares::new(owner, Errno::ENOMEM, 32 << 20, 128 << 20),
        })))
    }

    /// Has `answer` give the answer when it is the caller's turn.
    fn later<R: Send + 'static>(
        &self,
        req: &FuseRequest,
        reply: R,
        bytes: usize,
        target: Option<Pid>,
        answer: impl FnOnce(&Server, Caller, Outcome<()>, R) + Send + 'static,
    ) {
        let server = Arc::clone(&self.0);
        let caller = caller(req);
        let work = move |turn| answer(&server, caller, turn, reply);
        self.0.turns.add(caller.uid, target, bytes, Box::new(work));
    }
}

/// As many as there may be.
fn file_limit() -> io::Result<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

fn caller(req: &FuseRequest) -> Caller {
    Caller {
        tid: i32::try_from(req.pid()).unwrap_or_default(),
        uid: req.uid(),
        gid: req.gid(),
    }
}

impl Server {
    fn visit(&self, caller: Caller, what: What) -> Outcome<Done> {
        Ok(self.have_answered(caller, what, &[], None)?.0)
    }

    /// As [`visit`](Self::visit), of an open file.
    fn visit_open(
        &self,
        caller: Caller,
        open: &Open,
        act: Act,
        text: &[u8],
    ) -> Outcome<(Done, Share)> {
        let what = What::OfOpen(open.opened.clone(), act);
        self.have_answered(caller, what, text, open.memory.as_ref())
    }

    /// With what the text takes of the caller's share.
    fn have_answered(
        &self,
        caller: Caller,
        what: What,
        text: &[u8],
        memory: Option<&OwnedFd>,
    ) -> Outcome<(Done, Share)> {
        let request = Request {
            caller,
            timeout: self.timeout,
            starter: self.workers.starter(),
            what,
        };
        let mut share = Share::default();
        let done = match visit::here(&request, &self.own) {
            Some(answer) => answer?,
            None => self.workers.visit(&request, text, memory, |bytes| {
                share.join(self.texts.take(caller.uid, bytes)?);
                Ok(())
            })?,
        };
        Ok((done, share))
    }

    fn attr(&self, caller: Caller, what: What) -> Outcome<FileAttr> {
        match self.visit(caller, what)?.answer {
            Answer::Node(found) => shown(&found),
            _ => Err(Errno::EIO),
        }
    }

    fn handle(&self, fh: FileHandle) -> Outcome<Arc<Open>> {
        lock(&self.open).get(&fh.0).cloned().ok_or(Errno::EBADF)
    }

    fn open_file(&self, caller: Caller, node: u64, subject: Pid) -> Outcome<u64> {
        let share = self.files.take(caller.uid, 1)?;
        let Done { answer, files, .. } = self.visit(caller, What::Open(node))?;
        let Answer::Opened {
            opened,
            memory,
            user_ns,
        } = answer
        else {
            return Err(Errno::EIO);
        };
        let mut files = files.into_iter();
        let memory = memory.then(|| files.next().ok_or(Errno::EIO)).transpose()?;
        let user_ns = user_ns
            .then(|| files.next().ok_or(Errno::EIO))
            .transpose()?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let open = Open {
            subject,
            opened: *opened,
            memory,
            _user_ns: user_ns,
            text: Mutex::default(),
            _share: share,
        };
        lock(&self.open).insert(number, Arc::new(open));
        Ok(number)
    }

    /// Judges without writing: by the open file, if the caller names one, as a write to it would be.
    fn may_write(&self, caller: Caller, node: u64, fh: Option<FileHandle>) -> Outcome<()> {
        if let Some(fh) = fh {
            let open = self.handle(fh)?;
            return self.visit_open(caller, &open, Act::Judge, &[]).map(drop);
        }
        match Node::from_ino(node).ok_or(Errno::ENOENT)? {
            Node::File(_, file) if !file.is_writable() => Err(Errno::EACCES),
            Node::File(..) => self.visit(caller, What::Access(node)).map(drop),
            _ => Err(Errno::EISDIR),
        }
    }

    /// Each read is judged, also of a text that is there already.
    fn read_file(&self, caller: Caller, open: &Open, offset: u64) -> Outcome<Arc<Text>> {
        let kept = lock(&open.text).clone().filter(|_| offset > 0);
        if let Some(text) = kept {
            self.visit_open(caller, open, Act::Judge, &[])?;
            return Ok(text);
        }
        let (done, share) = self.visit_open(caller, open, Act::Read, &[])?;
        let text = Arc::new(Text {
            bytes: done.text.into_bytes(),
            _share: share,
        });
        *lock(&open.text) = Some(Arc::clone(&text));
        Ok(text)
    }
}

fn shown(found: &Attr) -> Outcome<FileAttr> {
    let node = Node::from_ino(found.node).ok_or(Errno::ENOENT)?;
    let (kind, perm) = match node {
        Node::File(_, file) if file.is_writable() => (FileType::RegularFile, 0o600),
        Node::File(..) => (FileType::RegularFile, 0o400),
        _ => (FileType::Directory, 0o555),
    };
    let now = SystemTime::now();
    Ok(FileAttr {
        ino: INodeNo(found.node),
        // As in /proc: nobody knows before it is read.
        size: 0,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        kind,
        perm,
        nlink: if node.is_folder() { 2 } else { 1 },
        uid: found.uid,
        gid: found.gid,
        rdev: 0,
        blksize: u32::try_from(TOO_LONG).unwrap_or(u32::MAX),
        flags: 0,
    })
}

fn root() -> Attr {
    Attr {
        node: Node::Root.ino(),
        uid: 0,
        gid: 0,
    }
}

fn code(e: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(e as i32)
}

fn answer_attr(server: &Server, caller: Caller, turn: Outcome<()>, ino: u64, reply: ReplyAttr) {
    match turn.and_then(|()| server.attr(caller, What::Attr(ino))) {
        Ok(attr) => reply.attr(&NO_TIME, &attr),
        Err(e) => reply.error(code(e)),
    }
}

impl Filesystem for SigFs {
    fn init(&mut self, _req: &FuseRequest, config: &mut KernelConfig) -> io::Result<()> {
        // Else a lookup that waits for its turn holds a lock on the folder (fuse_lock_inode, fs/fuse/inode.c), and all
        // others wait for it, whoever they are. Kernels before 4.7 have no other way.
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        // Never FUSE_ASYNC_DIO: io_submit(2) of a file opened with O_DIRECT would return before the answer, and the thread that
        // has asked be somebody else by then (`super::identity`).
        let refused = |_| io::Error::other("the kernel takes no writes of that size");
        config.set_max_write(MAX_WRITE).map_err(refused).map(drop)
    }

    /// It has been unmounted. What fuser does next is to unmount the folder once more, because up to 0.18 it takes POLLERR
    /// for the sign that its mount is still there, which is that it is gone: that would hit what somebody has mounted there
    /// since.
    fn destroy(&mut self) {
        if self.0.serving.load(Ordering::Relaxed) {
            std::process::exit(0);
        }
    }

    fn lookup(&self, req: &FuseRequest, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let Some(name) = name.to_str().map(str::to_owned) else {
            return reply.error(code(Errno::ENOENT));
        };
        let what = What::Lookup {
            parent: parent.0,
            name,
        };
        self.later(
            req,
            reply,
            0,
            None,
            move |server, caller, turn, reply| match turn.and_then(|()| server.attr(caller, what)) {
                Ok(attr) => reply.entry(&NO_TIME, &attr, Generation(0)),
                Err(e) => reply.error(code(e)),
            },
        );
    }

    fn getattr(&self, req: &FuseRequest, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        // Of the top folder nothing has to be found out.
        if let (true, Ok(attr)) = (ino.0 == Node::Root.ino(), shown(&root())) {
            return reply.attr(&NO_TIME, &attr);
        }
        self.later(req, reply, 0, None, move |server, caller, turn, reply| {
            answer_attr(server, caller, turn, ino.0, reply);
        });
    }

    /// `> FILE` makes the file empty. The size is 0 already: nothing is done, and that is for those who may write the file.
    /// Owner, mode, times and other sizes can't be set.
    fn setattr(
        &self,
        req: &FuseRequest,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let owner_or_mode = mode.is_some() || uid.is_some() || gid.is_some();
        let times = atime.is_some() || mtime.is_some();
        if owner_or_mode || times || size.is_some_and(|size| size > 0) {
            return reply.error(code(Errno::EPERM));
        }
        self.later(req, reply, 0, None, move |server, caller, turn, reply| {
            let judge = |()| match size {
                Some(_) => server.may_write(caller, ino.0, fh),
                None => Ok(()),
            };
            answer_attr(server, caller, turn.and_then(judge), ino.0, reply);
        });
    }

    fn access(&self, req: &FuseRequest, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let answer = match Node::from_ino(ino.0) {
            None => Err(Errno::ENOENT),
            Some(Node::File(_, file)) => {
                let refused = mask.contains(AccessFlags::X_OK)
                    || mask.contains(AccessFlags::W_OK) && !file.is_writable();
                if !refused && !mask.is_empty() {
                    return self.later(req, reply, 0, None, move |server, caller, turn, reply| {
                        let may = turn.and_then(|()| server.visit(caller, What::Access(ino.0)));
                        empty(may.map(drop), reply);
                    });
                }
                if refused { Err(Errno::EACCES) } else { Ok(()) }
            }
            Some(_) if mask.contains(AccessFlags::W_OK) => Err(Errno::EACCES),
            Some(_) => Ok(()),
        };
        empty(answer, reply);
    }

    fn readdir(
        &self,
        req: &FuseRequest,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let Some(node) = Node::from_ino(ino.0).filter(|node| node.is_folder()) else {
            return reply.error(code(Errno::ENOTDIR));
        };
        self.later(
            req,
            reply,
            0,
            None,
            move |server, caller, turn, reply| match turn
                .and_then(|()| server.visit(caller, What::List(ino.0)))
            {
                Ok(Done {
                    answer: Answer::Names(names),
                    ..
                }) => list(node, &names, offset, reply),
                Ok(_) => reply.error(code(Errno::EIO)),
                Err(e) => reply.error(code(e)),
            },
        );
    }

    fn open(&self, req: &FuseRequest, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let Some(Node::File(subject, file)) = Node::from_ino(ino.0) else {
            return reply.error(code(Errno::EISDIR));
        };
        if flags.acc_mode() != OpenAccMode::O_RDONLY && !file.is_writable() {
            return reply.error(code(Errno::EACCES));
        }
        self.later(req, reply, 0, None, move |server, caller, turn, reply| {
            match turn.and_then(|()| server.open_file(caller, ino.0, subject.pid)) {
                // Past the page cache, which belongs to all openers.
                Ok(number) => reply.opened(FileHandle(number), FopenFlags::FOPEN_DIRECT_IO),
                Err(e) => reply.error(code(e)),
            }
        });
    }

    /// A read for the page cache, from where others would have it without being judged, is one of a private mapping, and
    /// has no lock owner (fuse_do_readpage; fuse_direct_io has one, fs/fuse/file.c).
    fn read(
        &self,
        req: &FuseRequest,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let open = match self.0.handle(fh) {
            Ok(open) if lock_owner.is_some() => open,
            Ok(_) => return reply.error(code(Errno::EIO)),
            Err(e) => return reply.error(code(e)),
        };
        let looks = offset == 0 || lock(&open.text).is_none();
        let target = looks.then_some(open.subject);
        self.later(
            req,
            reply,
            0,
            target,
            move |server, caller, turn, reply| match turn
                .and_then(|()| server.read_file(caller, &open, offset))
            {
                Ok(text) => {
                    let length = text.bytes.len();
                    let from = usize::try_from(offset).map_or(length, |offset| offset.min(length));
                    let size = usize::try_from(size).unwrap_or(usize::MAX);
                    reply.data(&text.bytes[from..length.min(from.saturating_add(size))]);
                }
                Err(e) => reply.error(code(e)),
            },
        );
    }

    /// One write(2), one text, wherever it is written to: it is made true before the call returns, and nothing is kept for
    /// anybody else to finish.
    fn write(
        &self,
        req: &FuseRequest,
        _ino: INodeNo,
        fh: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let open = match self.0.handle(fh) {
            _ if data.len() >= TOO_LONG => return reply.error(code(Errno::EFBIG)),
            Ok(open) if lock_owner.is_some() => open,
            Ok(_) => return reply.error(code(Errno::EIO)),
            Err(e) => return reply.error(code(e)),
        };
        let target = Some(open.subject);
        let (text, length) = (data.to_vec(), data.len());
        self.later(
            req,
            reply,
            length,
            target,
            move |server, caller, turn, reply| {
                let done = turn.and_then(|()| server.visit_open(caller, &open, Act::Write, &text));
                match done {
                    Ok(_) => reply.written(u32::try_from(length).unwrap_or(u32::MAX)),
                    Err(e) => reply.error(code(e)),
                }
            },
        );
    }

    /// A descriptor is closed. Nothing is left to do, whoever closes it.
    fn flush(
        &self,
        _req: &FuseRequest,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    /// As [`flush`](Self::flush).
    fn fsync(
        &self,
        _req: &FuseRequest,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &FuseRequest,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.0.open).remove(&fh.0);
        reply.ok();
    }
}

fn list(node: Node, names: &[(String, u64)], offset: u64, mut reply: ReplyDirectory) {
    // Positions follow from the numbers, so that tasks which come and go meanwhile shift nothing.
    let dots = [(1, ".", node.ino()), (2, "..", node.parent().ino())];
    let entries = names.iter().zip(3..).map(|((name, number), place)| {
        let place = match Node::from_ino(*number) {
            Some(Node::Process(pid)) => u64::try_from(pid.get()).unwrap_or_default() + 3,
            Some(Node::Thread(_, tid)) => u64::try_from(tid.get()).unwrap_or_default() + 3,
            _ => place,
        };
        (place, name.as_str(), *number)
    });
    for (place, name, number) in dots.into_iter().chain(entries) {
        let is_folder = Node::from_ino(number).is_none_or(Node::is_folder);
        let kind = if is_folder {
            FileType::Directory
        } else {
            FileType::RegularFile
        };
        if place > offset && reply.add(INodeNo(number), place, kind, name) {
            break;
        }
    }
    reply.ok();
}

fn empty(outcome: Outcome<()>, reply: ReplyEmpty) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(code(e)),
    }
}
