//! The files and folders below the mount point, and their inode numbers.

use std::ffi::OsStr;
use std::fs;

use criu_signals::images::text::SigFile;
use criu_signals::images::{Pid, Tid};
use criu_signals::proc_sig::Subject;
use procfs::FromRead;
use procfs::process::Status;

/// A folder or a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// The mount point.
    Root,
    /// `PID`.
    Process(Pid),
    /// `PID/task`.
    Tasks(Pid),
    /// `PID/task/TID`.
    Thread(Pid, Tid),
    /// `sig` of a process or a thread.
    Sig(Subject),
    /// A file in it.
    File(Subject, SigFile),
}

const ROOT: u64 = 1;
const PROCESS: u64 = 2;
const TASKS: u64 = 3;
const THREAD: u64 = 4;
const SIG: u64 = 5;
const FIRST_FILE: u64 = 6;

/// The kernel's PID_MAX_LIMIT is 2^22.
const PID_BITS: u32 = 24;
const PID_MASK: u64 = (1 << PID_BITS) - 1;
const PID_SHIFT: u32 = 8;
const TID_SHIFT: u32 = PID_SHIFT + PID_BITS;

impl Node {
    /// Kind, pid and tid in one number, so that nothing has to be remembered.
    pub fn ino(self) -> u64 {
        let (kind, pid, tid) = match self {
            Node::Root => (ROOT, 0, 0),
            Node::Process(pid) => (PROCESS, pid.get(), 0),
            Node::Tasks(pid) => (TASKS, pid.get(), 0),
            Node::Thread(pid, tid) => (THREAD, pid.get(), tid.get()),
            Node::Sig(subject) => (
                SIG,
                subject.pid.get(),
                subject.thread.map_or(0, |tid| tid.get()),
            ),
            Node::File(subject, file) => {
                let place = SigFile::ALL.iter().position(|&known| known == file);
                let kind =
                    FIRST_FILE + u64::try_from(place.unwrap_or_default()).unwrap_or_default();
                (
                    kind,
                    subject.pid.get(),
                    subject.thread.map_or(0, |tid| tid.get()),
                )
            }
        };
        let id = |id: i32| u64::try_from(id).unwrap_or_default() & PID_MASK;
        kind | id(pid) << PID_SHIFT | id(tid) << TID_SHIFT
    }

    /// The reverse.
    pub fn from_ino(ino: u64) -> Option<Node> {
        let id = |shift: u32| i32::try_from(ino >> shift & PID_MASK).unwrap_or_default();
        if ino & 0xff == ROOT {
            return Some(Node::Root);
        }
        let pid = Pid::new(id(PID_SHIFT))?;
        let tid = Tid::new(id(TID_SHIFT));
        let subject = Subject { pid, thread: tid };
        Some(match ino & 0xff {
            PROCESS => Node::Process(pid),
            TASKS => Node::Tasks(pid),
            THREAD => Node::Thread(pid, tid?),
            SIG => Node::Sig(subject),
            kind => {
                let place = usize::try_from(kind.checked_sub(FIRST_FILE)?).ok()?;
                Node::File(subject, *SigFile::ALL.get(place)?)
            }
        })
    }

    /// The process that it is about.
    pub fn pid(self) -> Option<Pid> {
        match self {
            Node::Root => None,
            Node::Process(pid) | Node::Tasks(pid) | Node::Thread(pid, _) => Some(pid),
            Node::Sig(subject) | Node::File(subject, _) => Some(subject.pid),
        }
    }

    fn thread(self) -> Option<Tid> {
        match self {
            Node::Thread(_, tid) => Some(tid),
            Node::Sig(subject) | Node::File(subject, _) => subject.thread,
            _ => None,
        }
    }

    /// Its folder.
    pub fn parent(self) -> Node {
        match self {
            Node::Root | Node::Process(_) => Node::Root,
            Node::Tasks(pid) => Node::Process(pid),
            Node::Thread(pid, _) => Node::Tasks(pid),
            Node::Sig(Subject { pid, thread: None }) => Node::Process(pid),
            Node::Sig(Subject {
                pid,
                thread: Some(tid),
            }) => Node::Thread(pid, tid),
            Node::File(subject, _) => Node::Sig(subject),
        }
    }

    pub fn is_folder(self) -> bool {
        !matches!(self, Node::File(..))
    }

    /// The file of /proc that has the same owner; nothing if the task is gone.
    pub fn status(self) -> Option<fs::Metadata> {
        fs::metadata(self.status_path()?).ok()
    }

    fn status_path(self) -> Option<String> {
        let pid = self.pid()?;
        Some(match self.thread() {
            None => format!("/proc/{pid}/status"),
            Some(tid) => format!("/proc/{pid}/task/{tid}/status"),
        })
    }

    /// Is it there? A number of /proc may be that of a thread, which has no folder at the top.
    pub fn exists(self) -> bool {
        let Some(path) = self.status_path() else {
            return true;
        };
        let pid = self.pid().map(Pid::get);
        Status::from_file(path).is_ok_and(|status| Some(status.tgid) == pid)
    }

    /// What is called `name` in this folder.
    pub fn child(self, name: &OsStr) -> Option<Node> {
        let name = name.to_str()?;
        // As in /proc: no sign, and no zeros in front.
        let number = || {
            let digits = name.bytes().all(|byte| byte.is_ascii_digit()) && !name.starts_with('0');
            name.parse().ok().filter(|_| digits)
        };
        let child = match self {
            Node::Root => Node::Process(Pid::new(number()?)?),
            Node::Process(pid) => match name {
                "sig" => Node::Sig(Subject { pid, thread: None }),
                "task" => Node::Tasks(pid),
                _ => return None,
            },
            Node::Tasks(pid) => Node::Thread(pid, Tid::new(number()?)?),
            Node::Thread(pid, tid) if name == "sig" => Node::Sig(Subject {
                pid,
                thread: Some(tid),
            }),
            Node::Sig(subject) => Node::File(subject, name.parse().ok()?),
            Node::Thread(..) | Node::File(..) => return None,
        };
        child.exists().then_some(child)
    }

    /// What is in this folder; nothing if the task is gone.
    pub fn children(self) -> Option<Vec<(String, Node)>> {
        if !self.exists() {
            return None;
        }
        Some(match self {
            Node::Root => numbers("/proc")?
                .into_iter()
                .filter_map(Pid::new)
                .map(|pid| (pid.to_string(), Node::Process(pid)))
                .collect(),
            Node::Process(pid) => {
                let sig = Node::Sig(Subject { pid, thread: None });
                vec![
                    ("sig".to_owned(), sig),
                    ("task".to_owned(), Node::Tasks(pid)),
                ]
            }
            Node::Tasks(pid) => numbers(&format!("/proc/{pid}/task"))?
                .into_iter()
                .filter_map(Tid::new)
                .map(|tid| (tid.to_string(), Node::Thread(pid, tid)))
                .collect(),
            Node::Thread(pid, tid) => {
                let thread = Some(tid);
                vec![("sig".to_owned(), Node::Sig(Subject { pid, thread }))]
            }
            Node::Sig(subject) => SigFile::ALL
                .into_iter()
                .map(|file| (file.name().to_owned(), Node::File(subject, file)))
                .collect(),
            Node::File(..) => return None,
        })
    }
}

fn numbers(folder: &str) -> Option<Vec<i32>> {
    let mut numbers: Vec<i32> = fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_nodes() {
        let pid = Pid::new(4_194_303).unwrap();
        let tid = Tid::new(4_194_302).unwrap();
        let mut nodes = vec![
            Node::Root,
            Node::Process(pid),
            Node::Tasks(pid),
            Node::Thread(pid, tid),
        ];
        for thread in [None, Some(tid)] {
            let subject = Subject { pid, thread };
            nodes.push(Node::Sig(subject));
            nodes.extend(SigFile::ALL.map(|file| Node::File(subject, file)));
        }
        for node in nodes {
            assert_eq!(Node::from_ino(node.ino()), Some(node));
        }
        assert_eq!(Node::Root.ino(), 1, "FUSE_ROOT_ID");
        assert_eq!(Node::from_ino(0), None);
        assert_eq!(Node::from_ino(0xff), None);
        assert_eq!(Node::from_ino(THREAD | 7 << PID_SHIFT), None);
    }

    #[test]
    fn names() {
        let me = std::process::id().to_string();
        let process = Node::Root.child(OsStr::new(&me)).expect("this process");
        for name in ["0", "-1", "+1", "self", "", &format!("0{me}")] {
            assert_eq!(Node::Root.child(OsStr::new(name)), None, "{name:?}");
        }
        let sig = process.child(OsStr::new("sig")).expect("sig");
        let file = sig.child(OsStr::new("pending")).expect("pending");
        assert_eq!(file.parent().parent(), process);
        assert_eq!(sig.children().map(|all| all.len()), Some(6));
        let tasks = process.child(OsStr::new("task")).expect("task");
        let leader = tasks.child(OsStr::new(&me)).expect("the leader");
        assert!(leader.child(OsStr::new("sig")).is_some());
        assert_eq!(leader.child(OsStr::new("task")), None);
    }
}
