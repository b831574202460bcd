//! The file system: each request worked out for the process that made it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use criu_signals::error::{Cause, Error};
use criu_signals::images::Pid;
use criu_signals::images::text::{Pieces, SigFile, Written};
use criu_signals::live::{Held, Subject};
use criu_signals::{live, proc};
use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use procfs::FromRead;
use procfs::process::Status;

use super::access::{self, Caller};
use super::node::Node;

/// Nothing is cached: a task may be gone at once, and its number another's.
const NO_TIME: Duration = Duration::ZERO;
/// How many processes are worked on at a time, at least.
const LOCKS: usize = 64;

/// What is served below the mount point.
pub struct SigFs {
    timeout: Duration,
    /// Is it mounted, and are requests answered?
    serving: Arc<AtomicBool>,
    open: Mutex<HashMap<u64, Arc<Mutex<Open>>>>,
    next: AtomicU64,
    /// One process has one tracer: requests about one wait for each other.
    busy: [Mutex<()>; LOCKS],
}

/// An open file.
struct Open {
    subject: Subject,
    file: SigFile,
    /// So that a process that got the number later is not taken for it.
    started: u64,
    /// What a read at offset 0 has found, for the reads behind it.
    text: Option<String>,
    pieces: Pieces,
}

type Outcome<T> = Result<T, Errno>;

impl SigFs {
    pub fn new(timeout: Duration, serving: Arc<AtomicBool>) -> SigFs {
        SigFs {
            timeout,
            serving,
            open: Mutex::default(),
            next: AtomicU64::new(1),
            busy: std::array::from_fn(|_| Mutex::new(())),
        }
    }

    fn attr(&self, node: Node) -> Outcome<FileAttr> {
        if !node.exists() {
            return Err(Errno::ENOENT);
        }
        let (uid, gid) = match node {
            Node::Root => (0, 0),
            // Gone since.
            _ => node
                .status()
                .map(|m| (m.uid(), m.gid()))
                .ok_or(Errno::ENOENT)?,
        };
        let (kind, perm) = match node {
            Node::File(_, file) if file.is_writable() => (FileType::RegularFile, 0o600),
            Node::File(..) => (FileType::RegularFile, 0o400),
            _ => (FileType::Directory, 0o555),
        };
        let now = SystemTime::now();
        Ok(FileAttr {
            ino: INodeNo(node.ino()),
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
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn handle(&self, fh: FileHandle) -> Outcome<Arc<Mutex<Open>>> {
        lock(&self.open).get(&fh.0).cloned().ok_or(Errno::EBADF)
    }

    fn open_file(&self, caller: Caller, ino: INodeNo, flags: OpenFlags) -> Outcome<u64> {
        let Some(Node::File(subject, file)) = Node::from_ino(ino.0) else {
            return Err(Errno::EISDIR);
        };
        if flags.acc_mode() != OpenAccMode::O_RDONLY && !file.is_writable() {
            return Err(Errno::EACCES);
        }
        let started = proc::start_time(subject.pid).map_err(|_| Errno::ENOENT)?;
        may_access(caller, subject, file)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let open = Open {
            subject,
            file,
            started,
            text: None,
            pieces: Pieces::new(file, None),
        };
        lock(&self.open).insert(number, Arc::new(Mutex::new(open)));
        Ok(number)
    }

    fn read_file(
        &self,
        caller: Caller,
        fh: FileHandle,
        offset: u64,
        size: u32,
    ) -> Outcome<Vec<u8>> {
        let open = self.handle(fh)?;
        let mut open = lock(&open);
        if offset == 0 || open.text.is_none() {
            let text = if open.file == SigFile::Waiters {
                may_access(caller, open.subject, open.file)?;
                live::read(open.subject, open.file, self.timeout).map_err(|e| errno(&e))?
            } else {
                self.stopped(caller, &open, |held| held.read(open.file))?
            };
            open.text = Some(text);
        }
        let text = open.text.as_deref().unwrap_or_default().as_bytes();
        let from = usize::try_from(offset).map_or(text.len(), |offset| offset.min(text.len()));
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Ok(text[from..].iter().take(size).copied().collect())
    }

    fn write_file(&self, caller: Caller, fh: FileHandle, data: &[u8]) -> Outcome<()> {
        let open = self.handle(fh)?;
        let mut open = lock(&open);
        let written = open.pieces.push(data).map_err(|_| Errno::EINVAL)?;
        self.apply(caller, &open, written)
    }

    /// A descriptor is closed, or fsync(2) is called.
    fn finish(&self, caller: Caller, fh: FileHandle) -> Outcome<()> {
        let open = self.handle(fh)?;
        let mut open = lock(&open);
        let written = open.pieces.finish().map_err(|_| Errno::EINVAL)?;
        self.apply(caller, &open, written)
    }

    fn apply(&self, caller: Caller, open: &Open, written: Option<Written>) -> Outcome<()> {
        match written {
            None => Ok(()),
            Some(written) => self.stopped(caller, open, |held| held.write(open.file, &written)),
        }
    }

    /// Does `act` while the process is stopped, if the caller may.
    fn stopped<T>(
        &self,
        caller: Caller,
        open: &Open,
        act: impl FnOnce(&Held) -> criu_signals::error::Result<T>,
    ) -> Outcome<T> {
        let pid = open.subject.pid;
        let place = usize::try_from(pid.get()).unwrap_or_default() % LOCKS;
        let _busy = lock(&self.busy[place]);
        // Before, so that nobody stops what is not his.
        may_access(caller, open.subject, open.file)?;
        let held = Held::seize(open.subject, self.timeout).map_err(|e| errno(&e))?;
        // And now that it can't change: it might have executed a set-user-id program, or be another by now.
        let still =
            may_access(caller, open.subject, open.file).and_then(|()| {
                match proc::start_time(pid) {
                    Ok(started) if started == open.started => Ok(()),
                    _ => Err(Errno::ESRCH),
                }
            });
        let done = still.and_then(|()| act(&held).map_err(|e| errno(&e)));
        held.release().map_err(|e| errno(&e))?;
        done
    }
}

/// A panic in another request is no reason for this one to fail.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn caller(req: &Request) -> Caller {
    Caller {
        tid: i32::try_from(req.pid()).unwrap_or_default(),
        uid: req.uid(),
        gid: req.gid(),
    }
}

fn may_access(caller: Caller, subject: Subject, file: SigFile) -> Outcome<()> {
    let may = |pid| {
        if access::may_trace(caller, pid) {
            Ok(())
        } else {
            Err(Errno::EACCES)
        }
    };
    if file != SigFile::Waiters {
        // It waits for the answer, and can't be stopped before it has it.
        if access::is_thread_of(caller, subject.pid) {
            return Err(Errno::from_i32(libc::EDEADLK));
        }
        return may(subject.pid);
    }
    // What is shown is the parent's, and the tracer's.
    let status = Status::from_file(format!("/proc/{}/status", subject.pid));
    let status = status.map_err(|_| Errno::ESRCH)?;
    [subject.pid.get(), status.ppid, status.tracerpid]
        .into_iter()
        .filter_map(Pid::new)
        .filter(|&pid| !access::is_thread_of(caller, pid))
        .try_for_each(may)
}

fn errno(e: &Error) -> Errno {
    match e.cause() {
        Cause::Died => Errno::ESRCH,
        Cause::Os(errno) => Errno::from_i32(*errno as i32),
        // A text that can't be made true.
        Cause::Refused(_) | Cause::NotKept(_) => Errno::EINVAL,
        Cause::Unsupported(_) => Errno::EOPNOTSUPP,
        _ => Errno::EIO,
    }
}

impl Filesystem for SigFs {
    /// It has been unmounted. What fuser does next is to unmount the folder once more, because up to 0.18 it takes POLLERR
    /// for the sign that its mount is still there, which is that it is gone: that would hit what somebody has mounted there
    /// since.
    fn destroy(&mut self) {
        if self.serving.load(Ordering::Relaxed) {
            std::process::exit(0);
        }
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = Node::from_ino(parent.0).and_then(|parent| parent.child(name));
        match found.ok_or(Errno::ENOENT).and_then(|node| self.attr(node)) {
            Ok(attr) => reply.entry(&NO_TIME, &attr, Generation(0)),
            Err(e) => reply.error(e),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match Node::from_ino(ino.0)
            .ok_or(Errno::ENOENT)
            .and_then(|node| self.attr(node))
        {
            Ok(attr) => reply.attr(&NO_TIME, &attr),
            Err(e) => reply.error(e),
        }
    }

    /// `> FILE` truncates, which means nothing here. Owner and mode can't be changed.
    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if mode.is_some() || uid.is_some() || gid.is_some() {
            return reply.error(Errno::EPERM);
        }
        match Node::from_ino(ino.0)
            .ok_or(Errno::ENOENT)
            .and_then(|node| self.attr(node))
        {
            Ok(attr) => reply.attr(&NO_TIME, &attr),
            Err(e) => reply.error(e),
        }
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let answer = match Node::from_ino(ino.0) {
            None => Err(Errno::ENOENT),
            Some(Node::File(subject, file)) => {
                let refused = mask.contains(AccessFlags::X_OK)
                    || mask.contains(AccessFlags::W_OK) && !file.is_writable();
                if refused {
                    Err(Errno::EACCES)
                } else if mask.is_empty() {
                    Ok(())
                } else {
                    may_access(caller(req), subject, file)
                }
            }
            Some(_) if mask.contains(AccessFlags::W_OK) => Err(Errno::EACCES),
            Some(_) => Ok(()),
        };
        empty(answer, reply);
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(node) = Node::from_ino(ino.0).filter(|node| node.is_folder()) else {
            return reply.error(Errno::ENOTDIR);
        };
        let Some(children) = node.children() else {
            return reply.error(Errno::ENOENT);
        };
        // Positions follow from the numbers, so that tasks which come and go meanwhile shift nothing.
        let dots = [
            (1, ".".to_owned(), node),
            (2, "..".to_owned(), node.parent()),
        ];
        let entries = children.into_iter().zip(3..).map(|((name, child), place)| {
            let place = match child {
                Node::Process(pid) => u64::try_from(pid.get()).unwrap_or_default() + 3,
                Node::Thread(_, tid) => u64::try_from(tid.get()).unwrap_or_default() + 3,
                _ => place,
            };
            (place, name, child)
        });
        for (place, name, node) in dots.into_iter().chain(entries) {
            let kind = if node.is_folder() {
                FileType::Directory
            } else {
                FileType::RegularFile
            };
            if place > offset && reply.add(INodeNo(node.ino()), place, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_file(caller(req), ino, flags) {
            // Past the page cache, which would believe the size.
            Ok(number) => reply.opened(FileHandle(number), FopenFlags::FOPEN_DIRECT_IO),
            Err(e) => reply.error(e),
        }
    }

    fn read(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read_file(caller(req), fh, offset, size) {
            Ok(data) => reply.data(&data),
            Err(e) => reply.error(e),
        }
    }

    /// The offset means nothing, as in /proc: what is written goes on where the last write ended.
    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.write_file(caller(req), fh, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(e) => reply.error(e),
        }
    }

    fn flush(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        empty(self.finish(caller(req), fh), reply);
    }

    fn fsync(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        empty(self.finish(caller(req), fh), reply);
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.open).remove(&fh.0);
        reply.ok();
    }
}

fn empty(outcome: Outcome<()>, reply: ReplyEmpty) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}
