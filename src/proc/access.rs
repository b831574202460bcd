//! Finds in `/proc` why ptrace(2) is not permitted on a task that no process traces: `__ptrace_may_access` (kernel/ptrace.c)
//! gives EPERM for every reason.

use std::os::unix::fs::MetadataExt as _;

use criu_signals_images::{Pid, Tid};
use procfs::process::Status;

use super::read_text;
use super::status::{own_status, status};

const CAP_SYS_PTRACE: u32 = 19;
const REMEDY: &str = "run the command as root or with CAP_SYS_PTRACE";

/// The rule that forbids it, and what would help.
pub fn why_denied(pid: Pid, tid: Tid) -> String {
    let scope = read_text("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let (Ok(own), Ok(theirs)) = (own_status(), status(pid, tid)) else {
        return format!("what forbids it is not visible: {REMEDY}");
    };
    // The folder itself belongs to the user all the same (task_dump_owner, fs/proc/base.c).
    let owner =
        std::fs::metadata(format!("/proc/{tid}/status")).map_or(theirs.euid, |file| file.uid());
    denied(&own, &theirs, owner, scope.trim())
}

/// In the order of the kernel's checks. `owner` is that of the files in `/proc/PID`.
fn denied(own: &Status, theirs: &Status, owner: u32, scope: &str) -> String {
    if scope == "3" {
        return "Yama's ptrace_scope is 3: no process can be traced until the machine is booted anew"
            .to_owned();
    }
    if own.capeff >> CAP_SYS_PTRACE & 1 == 1 {
        return "although this command has CAP_SYS_PTRACE: a security module forbids it, or a tracer of another pid \
                namespace has the process, or the process belongs to a user namespace outside of the command's; run the \
                command outside of the container"
            .to_owned();
    }
    let uids = [theirs.ruid, theirs.euid, theirs.suid];
    let gids = [theirs.rgid, theirs.egid, theirs.sgid];
    if uids.iter().any(|&uid| uid != own.ruid) {
        let uid = theirs.ruid;
        return format!(
            "the process belongs to uid {uid}, the command to uid {}: {REMEDY}",
            own.ruid
        );
    }
    if gids.iter().any(|&gid| gid != own.rgid) {
        let gid = theirs.rgid;
        return format!(
            "the process belongs to gid {gid}, the command to gid {}: {REMEDY}",
            own.rgid
        );
    }
    if owner != theirs.euid {
        return format!(
            "the process is not dumpable (PR_SET_DUMPABLE in prctl(2), or a program that its user may not read): {REMEDY}"
        );
    }
    if theirs.capprm & !own.capprm != 0 {
        return format!("the process has capabilities that the command has not: {REMEDY}");
    }
    match scope {
        "1" => format!(
            "Yama's ptrace_scope is 1, and the process is no descendant of the command: {REMEDY}, or set \
             kernel.yama.ptrace_scope to 0"
        ),
        "2" => format!("Yama's ptrace_scope is 2: {REMEDY}"),
        _ => format!("a security module forbids it: {REMEDY}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_forbids_it() {
        let mut own = own_status().unwrap();
        own.capeff = 0;
        own.capprm = 0;
        let mut theirs = own.clone();
        let uid = own.ruid;
        let said = |own: &Status, theirs: &Status, owner, scope| denied(own, theirs, owner, scope);
        assert!(said(&own, &theirs, uid, "1").contains("ptrace_scope is 1"));
        assert!(said(&own, &theirs, uid, "2").contains("ptrace_scope is 2"));
        assert!(said(&own, &theirs, uid, "3").contains("ptrace_scope is 3"));
        assert!(said(&own, &theirs, uid, "0").contains("a security module"));
        assert!(said(&own, &theirs, uid + 1, "1").contains("not dumpable"));
        theirs.capprm = 1;
        assert!(said(&own, &theirs, uid, "1").contains("has capabilities"));
        theirs.egid += 1;
        assert!(said(&own, &theirs, uid, "1").contains("belongs to gid"));
        theirs.ruid += 1;
        assert!(said(&own, &theirs, uid, "1").contains(&format!("belongs to uid {}", uid + 1)));
        own.capeff = 1 << CAP_SYS_PTRACE;
        assert!(said(&own, &theirs, uid, "1").contains("although"));
    }
}
