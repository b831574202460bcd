//! SIGIO owners of files (`F_SETOWN`): CRIU can restore an owner only if the owner is dumped with the process.

use crate::state::owners;
use criu_signals_images::owner::{OWNER_GROUP, OWNER_PROCESS, OWNER_THREAD};
use criu_signals_images::{FileOwner, Pid, ProcessState};

use crate::losses::notices::{Notice, Saying};

/// Who is dumped, by ids in the namespace of one of the processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dumped {
    /// Processes.
    pub processes: Vec<i32>,
    /// Their process groups.
    pub groups: Vec<i32>,
}

impl Dumped {
    /// Can CRIU set this owner when it opens the files: before there are other threads than leaders?
    pub fn is_there(&self, owner: &FileOwner) -> bool {
        match owner.kind {
            OWNER_GROUP => self.groups.contains(&owner.id),
            _ => self.processes.contains(&owner.id),
        }
    }

    /// Will it be there at the end of the restore?
    fn will_be_there(&self, process: &ProcessState, owner: &FileOwner) -> bool {
        let own = |tid| {
            process
                .threads
                .iter()
                .any(|thread| thread.ids.innermost() == tid)
        };
        self.is_there(owner) || (owner.kind == OWNER_THREAD && own(owner.id))
    }
}

/// What there is to say of the files of a process, which is `pid` here.
pub fn files(
    pid: Pid,
    process: &ProcessState,
    looked: &owners::Looked,
    dumped: &Dumped,
) -> Vec<Saying> {
    let comm = &process.comm;
    let mut sayings = Vec::new();
    for owner in &looked.owners {
        if dumped.will_be_there(process, owner) {
            continue;
        }
        let what = match owner.kind {
            OWNER_PROCESS | OWNER_GROUP => "which is not in these images",
            _ => "which is not a thread of this process",
        };
        sayings.push(Saying {
            notice: Notice::Owner,
            what: format!(
                "pid {pid} ({comm}): the SIGIO of file descriptor {} goes to {owner}, {what}: if there is no such \
                 process or group at the restore, no process gets the SIGIO",
                owner.fd
            ),
            advice: "make sure that the owner exists at the restore, or checkpoint the process if the program can live \
                     with the loss",
        });
    }
    for fd in &looked.directories {
        sayings.push(Saying {
            notice: Notice::Owner,
            what: format!(
                "pid {pid} ({comm}): file descriptor {fd} is a directory with a SIGIO owner, so the program watches \
                 the directory by dnotify (F_NOTIFY): criu does not restore dnotify, and the kernel does not show it"
            ),
            advice: "checkpoint it if the program can live with that; inotify is restored",
        });
    }
    sayings
}

/// Where the files could not be looked at, `why`.
pub fn unseen_files(pid: Pid, process: &ProcessState, why: &str) -> Saying {
    Saying {
        notice: Notice::Owner,
        what: format!(
            "pid {pid} ({}): the SIGIO owners of its files are not known ({why}). If an owner is a thread, criu's \
             restore will fail",
            process.comm
        ),
        advice: "dump under Linux 5.6 or later",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_signals_images::NsIds;

    fn process() -> ProcessState {
        ProcessState::bare(NsIds::new(vec![7]).unwrap())
    }

    fn owner(kind: u32, id: i32) -> FileOwner {
        FileOwner {
            fd: 3,
            kind,
            id,
            uid: 0,
            euid: 0,
        }
    }

    #[test]
    fn who_is_there_when() {
        let dumped = Dumped {
            processes: vec![7, 9],
            groups: vec![7],
        };
        let mut process = process();
        let thread = process.threads[0].clone();
        process.threads.push(criu_signals_images::ThreadState {
            ids: NsIds::new(vec![8]).unwrap(),
            ..thread
        });
        let there = |kind, id| {
            let owner = owner(kind, id);
            (
                dumped.is_there(&owner),
                dumped.will_be_there(&process, &owner),
            )
        };
        assert_eq!(there(OWNER_THREAD, 7), (true, true));
        assert_eq!(
            there(OWNER_THREAD, 8),
            (false, true),
            "made when the files are open"
        );
        assert_eq!(there(OWNER_THREAD, 10), (false, false));
        assert_eq!(there(OWNER_PROCESS, 9), (true, true));
        assert_eq!(there(OWNER_PROCESS, 8), (false, false));
        assert_eq!(there(OWNER_GROUP, 7), (true, true));
        assert_eq!(there(OWNER_GROUP, 9), (false, false));

        let looked = owners::Looked {
            owners: vec![owner(OWNER_THREAD, 8), owner(OWNER_GROUP, 9)],
            directories: vec![4],
            timerfds: vec![],
        };
        let said = files(Pid::new(7).unwrap(), &process, &looked, &dumped);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].what.contains("process group 9") && said[1].what.contains("dnotify"));
    }
}
