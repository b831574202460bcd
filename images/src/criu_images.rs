//! Reads processes from CRIU's own images: `pstree.img`, and a `core-*.img` for each thread.

use std::fs::Permissions;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::Path;

use protobuf::Message;

use crate::altstack::AltStack;
use crate::codec::proto::criu_core as pb;
use crate::criu_core::CoreImage;
use crate::criu_files::{FILES, FilesImage};
use crate::error::{FieldError, ImageError};
use crate::framing::FrameReader;
use crate::header::Header;
use crate::ids::NsIds;
use crate::image::{Image, open_path, open_regular_in};
use crate::pending::Pending;
use crate::printable::Shown as _;
use crate::process::{ProcessState, Rlimit, RunState, ThreadState};
use crate::recorded::{Aspect, Recorded};
use crate::siginfo::Siginfo;
use crate::sigset::SigSet;

/// CRIU's `PSTREE_MAGIC`.
pub const PSTREE_MAGIC: u32 = 0x5027_3030;
/// The file that names all processes and their threads.
pub const PSTREE: &str = "pstree.img";
/// An entry of it, with 10 bytes for each thread.
const PSTREE_LIMIT: u64 = 1 << 26;

/// Never in CRIU's images, whatever the process.
const NEVER: [Aspect; 10] = [
    Aspect::Namespaces,
    Aspect::Charged,
    Aspect::MaskInForce,
    Aspect::BitsWithoutInfo,
    Aspect::InterruptedCalls,
    Aspect::TimerEntries,
    Aspect::IntervalTimers,
    Aspect::FileOwners,
    Aspect::WaitStatus,
    Aspect::ExitSignal,
];

/// `core-41.img`: one thread, named by its id in its own pid namespace.
pub fn core_name(tid: i32) -> String {
    format!("core-{tid}.img")
}

/// Where the images of one folder are read from.
pub trait Folder {
    /// The bytes of the file of this name, which has no `/`.
    ///
    /// # Errors
    /// [`ImageError::Io`] if there is no such file, or it cannot be read.
    fn image(&self, name: &str) -> Result<Vec<u8>, ImageError>;
}

/// A folder of a file system. A symbolic link is followed: the caller named the folder.
impl Folder for Path {
    fn image(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        read_file(&self.join(name))
    }
}

/// All processes of an image folder that were alive, in the order of `pstree.img`: parents first.
///
/// # Errors
/// If an image of a process that was alive is missing, cannot be read or is damaged.
pub fn processes(folder: &(impl Folder + ?Sized)) -> Result<Vec<Recorded>, ImageError> {
    let each = each_process(folder)?.into_iter();
    each.map(|process| process.map_err(|unreadable| unreadable.error))
        .collect()
}

/// A process whose images CRIU has written, and that could not be read.
#[derive(Debug)]
pub struct Unreadable {
    /// In its own pid namespace.
    pub pid: i32,
    /// The name of the image that is missing or damaged.
    pub image: String,
    /// What is wrong with the image.
    pub error: ImageError,
}

/// As [`processes`], with an error for each process whose images cannot be read: the other processes are returned all the same.
///
/// # Errors
/// If `pstree.img` is missing, cannot be read or is damaged.
pub fn each_process(
    folder: &(impl Folder + ?Sized),
) -> Result<Vec<Result<Recorded, Unreadable>>, ImageError> {
    let each = tree(folder)?
        .into_iter()
        .map(|process| alive(folder, &process));
    Ok(each.filter_map(Result::transpose).collect())
}

/// `None` for a process that was dead.
fn alive(folder: &(impl Folder + ?Sized), process: &Entry) -> Result<Option<Recorded>, Unreadable> {
    let unreadable = |tid, error| Unreadable {
        pid: process.pid,
        image: core_name(tid),
        error,
    };
    let core = |tid| read_core(folder, tid).map_err(|error| unreadable(tid, error));
    let leader = core(process.pid)?;
    if !leader.is_alive() {
        return Ok(None);
    }
    let others = process.threads.iter().filter(|tid| **tid != process.pid);
    let others = others
        .map(|&tid| Ok((tid, core(tid)?)))
        .collect::<Result<Vec<_>, Unreadable>>()?;
    let mut cores = vec![(process.pid, &leader)];
    cores.extend(others.iter().map(|(tid, core)| (*tid, core)));
    from_cores(process.pid, &cores)
        .map(Some)
        .map_err(|error| unreadable(process.pid, error))
}

/// The process with this id in its own pid namespace; `None` where `pstree.img` does not name it, or it was dead.
///
/// # Errors
/// If `pstree.img` or an image of the process is missing, cannot be read or is damaged.
pub fn process(folder: &(impl Folder + ?Sized), pid: i32) -> Result<Option<Recorded>, ImageError> {
    let tree = tree(folder)?;
    let Some(process) = tree.iter().find(|process| process.pid == pid) else {
        return Ok(None);
    };
    alive(folder, process).map_err(|unreadable| unreadable.error)
}

/// One core image alone, that of a leader: a process of whose other threads nothing is known.
///
/// # Errors
/// [`ImageError::Invalid`] if the image is that of another thread, or says what cannot be.
pub fn leader_alone(core: &CoreImage, pid: i32) -> Result<Recorded, ImageError> {
    let mut recorded = from_cores(pid, &[(pid, core)])?;
    recorded.missing.push(Aspect::Threads);
    recorded.missing.sort_unstable();
    Ok(recorded)
}

/// Reads a core image. A symbolic link is followed: the caller named it.
///
/// # Errors
/// If the file cannot be opened or read, or those of [`CoreImage::read`].
pub fn open_core(path: &Path) -> Result<CoreImage, ImageError> {
    CoreImage::read(&read_file(path)?)
}

/// Reads the core image of a thread from a folder that may be anybody's, with the file's permissions. No symbolic link is
/// followed.
///
/// # Errors
/// [`ImageError::NotRegular`] if the file is a symbolic link, a pipe or a device. [`ImageError::Io`] if there is no such file,
/// or it cannot be read. Those of [`CoreImage::read`].
pub fn open_core_in(dir: BorrowedFd<'_>, tid: i32) -> Result<(CoreImage, Permissions), ImageError> {
    let (bytes, permissions) = read_in(dir, &core_name(tid))?;
    Ok((CoreImage::read(&bytes)?, permissions))
}

/// A process that had ended and not been waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// In its own pid namespace.
    pub pid: i32,
    /// `/proc/PID/comm`.
    pub comm: String,
    /// As wait(2) tells it.
    pub status: u32,
}

/// The processes in a folder that had ended when they were dumped. `alive`: those of which that is known not to be so, so
/// that their images need not be read.
///
/// # Errors
/// Those of [`open_core_in`], for `pstree.img` as well.
pub fn ended_in(dir: BorrowedFd<'_>, alive: &[i32]) -> Result<Vec<Ended>, ImageError> {
    let (bytes, _) = read_in(dir, PSTREE)?;
    let mut ended = Vec::new();
    for entry in entries(&bytes)? {
        if alive.contains(&entry.pid) {
            continue;
        }
        let (core, _) = open_core_in(dir, entry.pid)?;
        if let Some(status) = core.exit_status() {
            ended.push(Ended {
                pid: entry.pid,
                comm: core.comm().unwrap_or_default(),
                status,
            });
        }
    }
    Ok(ended)
}

/// As [`open_core_in`], the image of all open files.
///
/// # Errors
/// Those of [`open_core_in`], and of [`FilesImage::read`].
pub fn open_files_in(dir: BorrowedFd<'_>) -> Result<(FilesImage, Permissions), ImageError> {
    let (bytes, permissions) = read_in(dir, FILES)?;
    Ok((FilesImage::read(&bytes)?, permissions))
}

fn read_in(dir: BorrowedFd<'_>, name: &str) -> Result<(Vec<u8>, Permissions), ImageError> {
    let failed = |operation, source| ImageError::io(operation, name, source);
    let mut file = open_regular_in(dir, name)?
        .ok_or_else(|| failed("open", io::ErrorKind::NotFound.into()))?;
    let metadata = file.get_ref().metadata();
    let permissions = metadata
        .map_err(|source| failed("look at", source))?
        .permissions();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .map_err(|source| failed("read", source))?;
    Ok((bytes, permissions))
}

struct Entry {
    pid: i32,
    threads: Vec<i32>,
}

fn tree(folder: &(impl Folder + ?Sized)) -> Result<Vec<Entry>, ImageError> {
    entries(&folder.image(PSTREE)?)
}

fn entries(bytes: &[u8]) -> Result<Vec<Entry>, ImageError> {
    let mut frames = FrameReader::new(bytes, PSTREE, PSTREE_MAGIC, PSTREE_LIMIT)?;
    let mut tree = Vec::new();
    while let Some(frame) = frames.next()? {
        let entry = pb::Pstree_entry::parse_from_bytes(&frame.bytes).map_err(|error| {
            FieldError::new("pstree_entry", error.to_string()).in_entry(frame.index)
        })?;
        tree.push(Entry {
            pid: entry.pid().cast_signed(),
            threads: entry.threads.iter().map(|tid| tid.cast_signed()).collect(),
        });
    }
    Ok(tree)
}

fn read_core(folder: &(impl Folder + ?Sized), tid: i32) -> Result<CoreImage, ImageError> {
    CoreImage::read(&folder.image(&core_name(tid))?)
}

/// The leader first.
fn from_cores(pid: i32, cores: &[(i32, &CoreImage)]) -> Result<Recorded, ImageError> {
    let Some((_, leader)) = cores.first().filter(|(_, core)| core.has_process()) else {
        let reason = format!("{} is that of a thread, not of a process", core_name(pid));
        return Err(FieldError::new("tc", reason).into());
    };
    let mut missing = NEVER.to_vec();
    let mut lacking = |aspect, lacks: bool| {
        if lacks {
            missing.push(aspect);
        }
    };
    lacking(Aspect::StackNeeds, true);
    lacking(Aspect::Dispositions, leader.dispositions().is_none());
    lacking(Aspect::Limit, leader.rlimit_sigpending().is_none());
    lacking(
        Aspect::Masks,
        cores.iter().any(|(_, core)| core.mask().is_none()),
    );
    lacking(
        Aspect::AltStacks,
        cores.iter().any(|(_, core)| core.altstack().is_none()),
    );
    missing.sort_unstable();

    let mut process = ProcessState::bare(ids(pid)?);
    process.comm = leader.comm().unwrap_or_default().into();
    process.compat = leader.is_compat();
    process.dispositions = leader.dispositions().unwrap_or_default();
    process.rlimit_sigpending = leader.rlimit_sigpending().unwrap_or(Rlimit {
        soft: Rlimit::INFINITY,
        hard: Rlimit::INFINITY,
    });
    process.run_state = leader
        .stop_signo()
        .map_or(RunState::Running, RunState::Stopped);
    process.shared = pending(leader.shared_queue());
    process.timers = leader.timers()?;
    process.threads = cores
        .iter()
        .map(|(tid, core)| {
            Ok(ThreadState {
                blocked: core.mask().unwrap_or(SigSet::EMPTY),
                altstack: core.altstack().unwrap_or(AltStack::DISABLED),
                pending: pending(core.private_queue()),
                parent_death_signal: core.parent_death_signal(),
                ..ThreadState::bare(ids(*tid)?)
            })
        })
        .collect::<Result<_, ImageError>>()?;
    process.queued = process.siginfos();
    let header = Header {
        format_version: process.format_version(),
        arch: leader.arch()?,
        kernel_release: String::new(),
        tool_version: String::new(),
        criu_version: None,
    };
    let image = Image { header, process };
    image.check()?;
    Ok(Recorded {
        image,
        missing,
        ended_by: None,
    })
}

fn ids(id: i32) -> Result<NsIds, ImageError> {
    NsIds::new(vec![id])
        .ok_or_else(|| FieldError::new("pid", format!("{id} is no id of a task")).into())
}

fn pending(queue: Vec<Siginfo>) -> Pending {
    let mut pending = Pending {
        bits: SigSet::EMPTY,
        queue,
    };
    pending.bits = pending.queued();
    pending
}

fn read_file(path: &Path) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    open_path(path)?
        .read_to_end(&mut bytes)
        .map_err(|source| ImageError::io("read", &path.shown().to_string(), source))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use tempfile::TempDir;

    use super::*;
    use crate::diff::{Comparison, compare_all};
    use crate::framing::FrameWriter;
    use crate::signo::SigNo;
    use crate::testing::{queued, sample_image};
    use crate::timer::{Notify, PosixTimer, TimerEntry};

    fn framed(magic: u32, entries: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut frames = FrameWriter::new(&mut bytes, "", magic, PSTREE_LIMIT).expect("a Vec");
        for entry in entries {
            frames.write(entry).expect("a Vec");
        }
        frames.finish().expect("a Vec");
        bytes
    }

    fn pstree(pid: u32, threads: &[u32]) -> Vec<u8> {
        let mut entry = pb::Pstree_entry::new();
        entry.set_pid(pid);
        entry.set_ppid(0);
        entry.threads = threads.to_vec();
        entry.write_to_bytes().expect("whole")
    }

    fn core(process: bool) -> pb::Core_entry {
        let mut entry = pb::Core_entry::new();
        entry.set_mtype(1);
        entry.thread_core.mut_or_insert_default();
        if process {
            let tc = entry.tc.mut_or_insert_default();
            tc.set_task_state(TASK_STATE_STOPPED);
            tc.set_blk_sigset(0);
            tc.set_comm(b"sample".to_vec());
        }
        entry
    }

    const TASK_STATE_STOPPED: u32 = 3;

    /// The sample process, 41 with the threads 41 and 42, as CRIU would write it down; and a zombie, 50.
    fn folder() -> TempDir {
        let sample = sample_image().process;
        let folder = TempDir::new().expect("a temporary folder");
        let save = |name: &str, bytes: &[u8]| {
            fs::write(folder.path().join(name), bytes).expect("writable")
        };
        let entries = [pstree(41, &[41, 42]), pstree(50, &[50])];
        save(PSTREE, &framed(PSTREE_MAGIC, &entries));
        for (thread, leader) in sample.threads.iter().zip([true, false]) {
            let mut entry = core(leader);
            if leader {
                let timers = entry
                    .tc
                    .mut_or_insert_default()
                    .timers
                    .mut_or_insert_default();
                let mut timer = pb::Posix_timer_entry::new();
                timer.set_it_id(3);
                timer.set_clock_id(1);
                timer.set_si_signo(34);
                timer.set_it_sigev_notify(4);
                timer.set_notify_thread_id(42);
                timer.set_sival_ptr(7);
                timer.set_overrun(5);
                timer.set_isec(1);
                timer.set_insec(2);
                timer.set_vsec(0);
                timer.set_vnsec(9);
                timers.posix.push(timer);
                let limits = entry
                    .tc
                    .mut_or_insert_default()
                    .rlimits
                    .mut_or_insert_default();
                limits.rlimits = (0..16)
                    .map(|_| {
                        let mut limit = pb::Rlimit_entry::new();
                        limit.set_cur(0);
                        limit.set_max(0);
                        limit
                    })
                    .collect();
            }
            let bytes = framed(
                crate::criu_core::MAGIC,
                &[entry.write_to_bytes().expect("whole")],
            );
            let mut core = CoreImage::read(&bytes).expect("valid");
            core.set_mask(thread.lasting_mask()).expect("a thread");
            core.set_altstack(Some(thread.altstack)).expect("a thread");
            core.set_private_queue(&thread.pending.queue)
                .expect("a thread");
            core.set_parent_death_signal(thread.parent_death_signal)
                .expect("a thread");
            if leader {
                core.set_dispositions(&sample.dispositions)
                    .expect("a process");
                core.set_shared_queue(&sample.shared.queue)
                    .expect("a process");
                core.set_stop_signo(Some(SigNo::TSTP)).expect("a process");
                core.set_rlimit_sigpending(sample.rlimit_sigpending)
                    .expect("a process");
            }
            save(
                &core_name(thread.ids.innermost()),
                &core.to_bytes().expect("valid"),
            );
        }
        let mut zombie = core(true);
        let ended = zombie.tc.mut_or_insert_default();
        ended.set_task_state(2);
        ended.set_exit_code(163 << 8);
        let zombie = framed(
            crate::criu_core::MAGIC,
            &[zombie.write_to_bytes().expect("whole")],
        );
        save(&core_name(50), &zombie);
        folder
    }

    #[test]
    fn those_that_have_ended() {
        let folder = folder();
        let dir = fs::File::open(folder.path()).expect("a folder");
        let ended = |alive: &[i32]| ended_in(dir.as_fd(), alive).expect("readable");
        let [found] = &*ended(&[]) else {
            panic!("there is one")
        };
        assert_eq!((found.pid, found.status), (50, 163 << 8));
        assert_eq!(ended(&[41]).len(), 1);
        assert_eq!(ended(&[41, 50]), []);
    }

    fn timer() -> PosixTimer {
        PosixTimer {
            id: 3,
            clock: 1,
            signo: 34,
            value: 7,
            notify: Notify::Thread(42),
            interval: 1_000_000_002,
            remaining: 9,
            overrun: 5,
            entry: TimerEntry::Idle,
            entry_overrun: None,
            place_aside: None,
        }
    }

    #[test]
    fn what_is_recorded_is_the_same() {
        let folder = folder();
        let found = processes(folder.path()).expect("readable");
        let [found] = &*found else {
            panic!("the zombie has no signal state: {found:?}")
        };
        assert_eq!(found.image.process.timers, [timer()]);
        assert!(!found.has(Aspect::BitsWithoutInfo) && found.has(Aspect::Threads));
        assert!(found.has(Aspect::Dispositions) && found.has(Aspect::Limit));

        let mut ours = sample_image();
        ours.process.timers = vec![PosixTimer {
            entry: TimerEntry::Pending,
            ..timer()
        }];
        let Comparison {
            differences,
            not_compared,
            lacks: _,
        } = compare_all(&ours.clone().into(), found);
        assert_eq!(differences, []);
        assert!(
            not_compared.contains(&Aspect::BitsWithoutInfo),
            "{not_compared:?}"
        );

        ours.process.shared.queue.push(queued(64, 10));
        ours.process.threads[1].blocked = SigSet::EMPTY;
        let lines: Vec<String> = compare_all(&ours.into(), found)
            .differences
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
    }

    #[test]
    fn one_process() {
        let folder = folder();
        assert!(process(folder.path(), 41).expect("readable").is_some());
        assert_eq!(
            process(folder.path(), 50).expect("readable"),
            None,
            "a zombie"
        );
        assert_eq!(
            process(folder.path(), 42).expect("readable"),
            None,
            "a thread"
        );
        let core = open_core(&folder.path().join("core-41.img")).expect("readable");
        let alone = leader_alone(&core, 41).expect("a leader");
        assert!(!alone.has(Aspect::Threads) && alone.image.process.threads.len() == 1);
        let core = open_core(&folder.path().join("core-42.img")).expect("readable");
        leader_alone(&core, 42).expect_err("a thread");
    }

    #[test]
    fn damaged_trees_are_survived() {
        let folder = folder();
        let path = folder.path().join(PSTREE);
        let whole = fs::read(&path).expect("it is there");
        let mut refused = 0;
        for at in 0..whole.len() {
            for damaged in [whole[..at].to_vec(), {
                let mut bytes = whole.clone();
                bytes[at] ^= 0xff;
                bytes
            }] {
                fs::write(&path, damaged).expect("writable");
                // The last threads and processes may be gone without a trace: there is no checksum.
                refused += usize::from(processes(folder.path()).is_err());
            }
        }
        assert!(refused > whole.len(), "{refused}");
    }

    #[test]
    fn what_is_missing_is_an_error() {
        let folder = folder();
        fs::remove_file(folder.path().join("core-42.img")).expect("it is there");
        processes(folder.path()).expect_err("a thread is missing");
        fs::remove_file(folder.path().join(PSTREE)).expect("it is there");
        processes(folder.path()).expect_err("the tree is missing");
    }
}
