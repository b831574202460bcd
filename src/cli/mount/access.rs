//! Who may look at whom: ptrace(2)'s rule, "Ptrace access mode checking", applied to the process that made the request.
//!
//! The kernel applies it to the server, which may have rights that the caller has not. So it is worked out here, from what
//! `/proc` says of both (kernel/ptrace.c, `__ptrace_may_access` for PTRACE_MODE_ATTACH_FSCREDS; security/commoncap.c,
//! `cap_ptrace_access_check`; security/yama/yama_lsm.c). What can't be known counts against the caller. The rules of
//! other security modules are applied to the server only.

use std::fs;
use std::os::unix::fs::MetadataExt;

use criu_signals::images::Pid;
use procfs::FromRead;
use procfs::process::Status;

const CAP_SYS_PTRACE: u64 = 1 << 19;
/// linux/proc_ns.h, `PROC_USER_INIT_INO`: the inode of the first user namespace, the ancestor of all.
const INIT_USER_NS: u64 = 0xEFFF_FFFD;
/// No chain of parents is longer.
const MOST_PARENTS: usize = 1 << 16;

/// Who asks, as the kernel tells the server.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The thread, 0 if it is in no pid namespace of the server's.
    pub tid: i32,
    /// Its file-system uid and gid.
    pub uid: u32,
    pub gid: u32,
}

/// What counts of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Task {
    tgid: i32,
    parent: i32,
    /// Real, effective, saved.
    uids: [u32; 3],
    gids: [u32; 3],
    fs_uid: u32,
    fs_gid: u32,
    permitted: u64,
    effective: u64,
    user_ns: u64,
    /// Of the files in its folder of /proc, which belong to root if it is not dumpable (task_dump_owner).
    owner: u32,
}

impl Task {
    fn read(id: i32) -> Option<Task> {
        let path = format!("/proc/{id}/status");
        let owner = fs::metadata(&path).ok()?.uid();
        let status = Status::from_file(&path).ok()?;
        Some(Task {
            tgid: status.tgid,
            parent: status.ppid,
            uids: [status.ruid, status.euid, status.suid],
            gids: [status.rgid, status.egid, status.sgid],
            fs_uid: status.fuid,
            fs_gid: status.fgid,
            permitted: status.capprm,
            effective: status.capeff,
            user_ns: fs::metadata(format!("/proc/{id}/ns/user")).ok()?.ino(),
            owner,
        })
    }

    /// For a task of root's the owner says nothing.
    fn is_surely_dumpable(&self) -> bool {
        let euid = self.uids[1];
        euid != 0 && self.owner == euid
    }
}

/// May `caller` trace the process?
pub fn may_trace(caller: Caller, pid: Pid) -> bool {
    let (Some(by), Some(target)) = (Task::read(caller.tid), Task::read(pid.get())) else {
        return false;
    };
    // Another one by now: it was the caller's number.
    if caller.tid <= 0 || by.fs_uid != caller.uid || by.fs_gid != caller.gid {
        return false;
    }
    allowed(&by, &target, yama_scope(), || {
        is_descendant(pid.get(), by.tgid)
    })
}

/// Is the caller a thread of that process?
pub fn is_thread_of(caller: Caller, pid: Pid) -> bool {
    Task::read(caller.tid).is_some_and(|by| by.tgid == pid.get())
}

fn allowed(by: &Task, target: &Task, yama: u32, is_descendant: impl FnOnce() -> bool) -> bool {
    // ns_capable(target's namespace, CAP_SYS_PTRACE), as far as the relation of both namespaces is known.
    let capable = by.effective & CAP_SYS_PTRACE != 0
        && (by.user_ns == target.user_ns || by.user_ns == INIT_USER_NS);
    if capable {
        return yama < 3;
    }
    target.uids == [by.fs_uid; 3]
        && target.gids == [by.fs_gid; 3]
        && target.is_surely_dumpable()
        && by.user_ns == target.user_ns
        && target.permitted & !by.effective == 0
        && match yama {
            0 => true,
            // PR_SET_PTRACER makes exceptions that can't be seen.
            1 => is_descendant(),
            _ => false,
        }
}

/// `kernel.yama.ptrace_scope`; 0 where there is no Yama.
fn yama_scope() -> u32 {
    match fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope") {
        Ok(text) => text.trim().parse().unwrap_or(u32::MAX),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
        Err(_) => u32::MAX,
    }
}

fn is_descendant(mut pid: i32, ancestor: i32) -> bool {
    for _ in 0..MOST_PARENTS {
        if pid == ancestor {
            return true;
        }
        match Task::read(pid) {
            Some(task) if task.parent > 0 => pid = task.parent,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const NS: u64 = 17;

    fn user(uid: u32) -> Task {
        Task {
            tgid: 41,
            parent: 1,
            uids: [uid; 3],
            gids: [uid; 3],
            fs_uid: uid,
            fs_gid: uid,
            permitted: 0,
            effective: 0,
            user_ns: NS,
            owner: uid,
        }
    }

    fn may(by: &Task, target: &Task) -> bool {
        allowed(by, target, 0, || false)
    }

    #[test]
    fn ones_own() {
        assert!(may(&user(7), &user(7)));
        assert!(!may(&user(7), &user(8)));
        for at in 0..3 {
            let mut set_uid = user(7);
            set_uid.uids[at] = 0;
            assert!(!may(&user(7), &set_uid));
            let mut set_gid = user(7);
            set_gid.gids[at] = 0;
            assert!(!may(&user(7), &set_gid));
        }
    }

    #[test]
    fn what_is_not_dumpable_is_not() {
        let target = Task {
            owner: 0,
            ..user(7)
        };
        assert!(!may(&user(7), &target));
        // Of root's it can't be told.
        assert!(!may(&user(0), &user(0)));
    }

    #[test]
    fn more_capabilities_than_the_caller() {
        let target = Task {
            permitted: 1 << 12,
            ..user(7)
        };
        assert!(!may(&user(7), &target));
        let by = Task {
            effective: 1 << 12 | 1,
            ..user(7)
        };
        assert!(may(&by, &target));
        let elsewhere = Task { user_ns: 18, ..by };
        assert!(!may(&elsewhere, &target));
    }

    #[test]
    fn cap_sys_ptrace() {
        let by = Task {
            effective: CAP_SYS_PTRACE,
            ..user(0)
        };
        let target = Task {
            owner: 0,
            permitted: u64::MAX,
            ..user(8)
        };
        assert!(may(&by, &target));
        assert!(allowed(&by, &target, 2, || false));
        assert!(!allowed(&by, &target, 3, || true));
        let child = Task {
            user_ns: 18,
            ..target
        };
        assert!(!may(&by, &child), "whether it is a child is not known");
        let init = Task {
            user_ns: INIT_USER_NS,
            ..by
        };
        assert!(may(&init, &child), "all are children of the first");
        // Permitted is not enough.
        let by = Task {
            permitted: CAP_SYS_PTRACE,
            ..user(0)
        };
        assert!(!may(&by, &target));
    }

    #[test]
    fn yama() {
        let (by, target) = (user(7), user(7));
        assert!(allowed(&by, &target, 1, || true));
        assert!(!allowed(&by, &target, 1, || false));
        assert!(!allowed(&by, &target, 2, || true));
        assert!(!allowed(&by, &target, u32::MAX, || true));
    }
}
