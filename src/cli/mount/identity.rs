//! The identity of a caller, and how a process takes on that identity, so that the kernel checks the permissions of the
//! caller.
//!
//! This module makes no decision about who may trace whom. A process that has taken on an identity does the work, and
//! the kernel applies ptrace(2)'s rule ("Ptrace access mode checking") to it: to PTRACE_SEIZE by the real uid, gid and
//! permitted capabilities, to `/proc/PID/mem` by the file-system uid, gid and effective capabilities.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use criu_signals::images::Pid;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid, setgroups, setresgid, setresuid};
use procfs::FromRead;
use procfs::process::{Stat, Status};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

/// linux/sched.h: PF_IO_WORKER, PF_USER_WORKER, PF_KTHREAD. Such a thread acts for somebody whom nobody names.
const KERNEL_THREADS: u32 = 0x10 | 0x4000 | 0x0020_0000;
/// linux/nsfs.h.
const NS_GET_PARENT: libc::Ioctl = 0xb702;
/// include/linux/pid_namespace.h, MAX_PID_NS_LEVEL.
const MOST_NAMESPACES: usize = 32;

/// Who has made a request, as the kernel says in it (`struct fuse_in_header`).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Caller {
    /// The thread, 0 if it is in no pid namespace of the server's.
    pub tid: i32,
    /// Its file-system uid and gid.
    pub uid: u32,
    pub gid: u32,
}

/// All of a thread's credentials by which the kernel judges, and what else restricts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Real, effective, saved, file-system.
    uids: [u32; 4],
    gids: [u32; 4],
    groups: Vec<u32>,
    permitted: u64,
    effective: u64,
    user_ns: Namespace,
    pid_ns: Namespace,
    sandbox: Sandbox,
}

/// Device and inode of a file in `/proc/PID/ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Namespace(u64, u64);

impl Namespace {
    fn read(id: &str, which: &str) -> Result<Namespace, Errno> {
        Ok(Namespace::at(
            &fs::metadata(format!("/proc/{id}/ns/{which}")).map_err(errno)?,
        ))
    }

    fn at(metadata: &fs::Metadata) -> Namespace {
        Namespace(metadata.dev(), metadata.ino())
    }
}

/// Restrictions that another process can't take on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sandbox {
    /// Without capabilities, Landlock demands it; and whether there is a Landlock domain can't be seen.
    no_new_privs: u64,
    /// Mode and number of filters.
    seccomp: [u64; 2],
    /// What a security module calls the thread: SELinux, AppArmor, Smack. Nothing where there is none.
    label: Option<Vec<u8>>,
}

impl Sandbox {
    fn read(id: &str, status: &str) -> Sandbox {
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok())
                .unwrap_or_default()
        };
        Sandbox {
            no_new_privs: number("NoNewPrivs:"),
            seccomp: [number("Seccomp:"), number("Seccomp_filters:")],
            label: fs::read(format!("/proc/{id}/attr/current")).ok(),
        }
    }

    /// May who is in `self` do no more than who is in `other`?
    fn is_stricter_than(&self, other: &Sandbox) -> bool {
        self.label != other.label
            || self.no_new_privs > other.no_new_privs
            || self.seccomp[0] > other.seccomp[0]
            || self.seccomp[1] > other.seccomp[1]
    }
}

impl Identity {
    /// Of the thread that waits for the answer to its request. Until then it can neither change its credentials nor end
    /// (`request_wait_answer`, fs/fuse/dev.c), so that its number is its own.
    ///
    /// EACCES if it is not known who acts: credentials that were put on for the request alone (io_uring, overlayfs,
    /// access(2) of a set-user-id program), a thread of the kernel's, or one in no pid namespace of the server's.
    pub fn of_caller(caller: Caller) -> Result<Identity, Errno> {
        if caller.tid <= 0 {
            return Err(Errno::EACCES);
        }
        let found = Identity::read(&caller.tid.to_string()).map_err(|_| Errno::EACCES)?;
        if found.uids[3] != caller.uid || found.gids[3] != caller.gid {
            return Err(Errno::EACCES);
        }
        Ok(found)
    }

    /// What this process is.
    pub fn own() -> Result<Identity, Errno> {
        Identity::read("self")
    }

    fn read(id: &str) -> Result<Identity, Errno> {
        let stat = Stat::from_file(format!("/proc/{id}/stat")).map_err(|_| Errno::ESRCH)?;
        if stat.flags & KERNEL_THREADS != 0 {
            return Err(Errno::EACCES);
        }
        let text = fs::read_to_string(format!("/proc/{id}/status")).map_err(errno)?;
        Identity::parse(id, &text)
    }

    fn parse(id: &str, text: &str) -> Result<Identity, Errno> {
        let status = Status::from_read(text.as_bytes()).map_err(|_| Errno::EIO)?;
        Ok(Identity {
            uids: [status.ruid, status.euid, status.suid, status.fuid],
            gids: [status.rgid, status.egid, status.sgid, status.fgid],
            groups: status.groups,
            permitted: status.capprm,
            effective: status.capeff,
            user_ns: Namespace::read(id, "user")?,
            pid_ns: Namespace::read(id, "pid")?,
            sandbox: Sandbox::read(id, text),
        })
    }

    /// Does the process exist for it? In its pid namespace, or below.
    pub fn sees(&self, pid: Pid) -> bool {
        if Namespace::read("self", "pid") == Ok(self.pid_ns) {
            return true;
        }
        let Ok(mut at) = File::open(format!("/proc/{pid}/ns/pid")) else {
            return false;
        };
        for _ in 0..MOST_NAMESPACES {
            match at.metadata() {
                Ok(found) if Namespace::at(&found) == self.pid_ns => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
            // SAFETY: the request takes no argument and returns a new descriptor.
            let parent = unsafe { libc::ioctl(at.as_raw_fd(), NS_GET_PARENT) };
            if parent < 0 {
                return false;
            }
            // SAFETY: it is open, and nobody else's.
            at = unsafe { File::from_raw_fd(parent) };
        }
        false
    }

    /// The user namespace of the caller, if that is not this process's: while it is open, no other has its number.
    pub fn foreign_user_ns(&self, caller: Caller) -> Result<Option<OwnedFd>, Errno> {
        if Namespace::read("self", "user")? == self.user_ns {
            return Ok(None);
        }
        let opened = File::open(format!("/proc/{}/ns/user", caller.tid)).map_err(errno)?;
        if Namespace::at(&opened.metadata().map_err(errno)?) != self.user_ns {
            return Err(Errno::EACCES);
        }
        Ok(Some(opened.into()))
    }

    /// Makes this process, which has one thread, what the caller is: it has no right from here on that the caller has not.
    /// `user_ns` is what [`foreign_user_ns`](Self::foreign_user_ns) has returned.
    ///
    /// EACCES if that can't be: the server's rights do not suffice, or the caller is restricted in a way in which this
    /// process is not and can't be.
    pub fn assume(&self, user_ns: Option<&OwnedFd>) -> Result<(), Errno> {
        let own = Identity::own()?;
        if self.sandbox.is_stricter_than(&own.sandbox) {
            return Err(Errno::EACCES);
        }
        // Numbers are shown as they are in the namespace of whoever has opened the file.
        let mut own_status = File::open("/proc/self/status").map_err(errno)?;
        self.change(&own, user_ns).map_err(|_| Errno::EACCES)?;
        let mut text = String::new();
        own_status.read_to_string(&mut text).map_err(errno)?;
        let is = Identity::parse("self", &text)?;
        let same = is.uids == self.uids
            && is.gids == self.gids
            && is.groups == self.groups
            && is.user_ns == self.user_ns
            && is.permitted & !self.permitted == 0
            && is.effective & !self.effective == 0;
        if same { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// What is the same already takes no right: a server without any serves the user that it belongs to.
    fn change(&self, own: &Identity, user_ns: Option<&OwnedFd>) -> Result<(), Errno> {
        let ids_differ = (own.uids, own.gids, &own.groups) != (self.uids, self.gids, &self.groups);
        if ids_differ {
            // What follows takes the capabilities that the next call would drop.
            let keep = CapabilitiesSecureBits::KEEP_CAPS | CapabilitiesSecureBits::NO_SETUID_FIXUP;
            rustix::thread::set_capabilities_secure_bits(keep).map_err(os)?;
            let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
            setgroups(&groups)?;
            let [real, effective, saved, fs] = self.gids.map(Gid::from_raw);
            setresgid(real, effective, saved)?;
            setfsgid(fs);
            let [real, effective, saved, fs] = self.uids.map(Uid::from_raw);
            setresuid(real, effective, saved)?;
            setfsuid(fs);
        }
        if let Some(user_ns) = user_ns {
            // Gives all capabilities in it, and takes those outside.
            nix::sched::setns(user_ns.as_fd(), CloneFlags::CLONE_NEWUSER)?;
        }
        let have = rustix::thread::capabilities(None).map_err(os)?;
        let permitted = CapabilitySet::from_bits_retain(self.permitted) & have.permitted;
        let wanted = CapabilitySets {
            effective: CapabilitySet::from_bits_retain(self.effective) & permitted,
            permitted,
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, wanted).map_err(os)?;
        if ids_differ || user_ns.is_some() {
            // The caller may end this process, as it has his uid, but neither trace it nor read its memory.
            nix::sys::prctl::set_dumpable(false)?;
        }
        Ok(())
    }
}

fn os(e: rustix::io::Errno) -> Errno {
    Errno::from_raw(e.raw_os_error())
}

/// Of a failed call on a file.
pub fn errno(e: std::io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller {
        Caller {
            tid: nix::unistd::gettid().as_raw(),
            uid: Uid::effective().as_raw(),
            gid: Gid::effective().as_raw(),
        }
    }

    #[test]
    fn who_this_is() {
        let this = Identity::of_caller(caller()).expect("this thread");
        assert_eq!(this.uids[0], Uid::current().as_raw());
        assert_eq!(Ok(this.clone()), Identity::read("thread-self"));
        let pid = Pid::new(nix::unistd::getpid().as_raw()).expect("a pid");
        assert!(this.sees(pid));
        assert!(this.foreign_user_ns(caller()).expect("its own").is_none());
        assert!(!this.sandbox.is_stricter_than(&this.sandbox));
    }

    #[test]
    fn who_is_not_what_the_request_says() {
        let this = caller();
        for other in [
            Caller { tid: 0, ..this },
            Caller {
                uid: this.uid + 1,
                ..this
            },
            Caller {
                gid: this.gid + 1,
                ..this
            },
            // kthreadd, or in a namespace of its own nobody.
            Caller { tid: 2, ..this },
        ] {
            if other.tid == 2 && fs::read_to_string("/proc/2/comm").is_ok_and(|c| c != "kthreadd\n")
            {
                continue;
            }
            assert_eq!(Identity::of_caller(other), Err(Errno::EACCES), "{other:?}");
        }
    }

    #[test]
    fn sandboxes() {
        let none = Sandbox {
            no_new_privs: 0,
            seccomp: [0, 0],
            label: None,
        };
        let no_new_privs = Sandbox {
            no_new_privs: 1,
            ..none.clone()
        };
        let filtered = Sandbox {
            seccomp: [2, 1],
            ..none.clone()
        };
        let twice = Sandbox {
            seccomp: [2, 2],
            ..none.clone()
        };
        let labelled = Sandbox {
            label: Some(b"confined".to_vec()),
            ..none.clone()
        };
        for sandbox in [&no_new_privs, &filtered, &twice, &labelled] {
            assert!(sandbox.is_stricter_than(&none), "{sandbox:?}");
        }
        assert!(twice.is_stricter_than(&filtered));
        assert!(!none.is_stricter_than(&filtered));
        assert!(none.is_stricter_than(&labelled));
    }
}
