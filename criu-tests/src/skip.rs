//! Scenarios that a machine cannot run are skipped, but never silently.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use criu_signals::bpf::process::ProcessReader;

use crate::config;

/// What a scenario may need of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The capability to raise hard limits.
    CapSysResource,
    /// That nobody has that capability: where criu has it, queues without room are dealt with in another way.
    NoCapSysResource,
    /// The 32-bit victims.
    Ia32,
    /// A kernel that tells which pages have been written to: CONFIG_MEM_SOFT_DIRTY.
    SoftDirty,
    /// A criu with the patches of docs/upstream.
    PatchedCriu,
    /// More than one version of criu.
    TwoCrius,
    /// The root of a machine with container engines, and overlayfs to write on it.
    Host,
    /// A kernel that serves FUSE.
    Fuse,
    /// The helper by which users mount.
    Fusermount,
    /// A kernel with uprobes, and tracefs to set them.
    Uprobes,
    /// The kernel's own types: CONFIG_DEBUG_INFO_BTF.
    Btf,
    /// POSIX timers that BPF programs of ours can read.
    TimersByBpf,
    /// POSIX message queues: CONFIG_POSIX_MQUEUE.
    MessageQueues,
    /// io_uring(7), which can be turned off.
    IoUring,
    /// The freezer of cgroup v1.
    FreezerV1,
    /// Cgroup v2, which has one.
    FreezerV2,
    /// Cgroups that bound memory.
    MemoryCgroup,
    /// Cgroups that bound the number of processes.
    PidsCgroup,
    /// Core files in the working directory: a kernel.core_pattern that neither pipes nor names a folder.
    Cores,
}

impl Need {
    /// Why the machine lacks it; `None` if it is there.
    pub fn missing(self) -> Option<&'static str> {
        match self {
            Need::CapSysResource => (!has_capability(CAP_SYS_RESOURCE)).then_some(
                "it raises a hard limit, and this machine gives nobody CAP_SYS_RESOURCE",
            ),
            Need::NoCapSysResource => has_capability(CAP_SYS_RESOURCE)
                .then_some("it shows what is done without CAP_SYS_RESOURCE, which is there"),
            Need::Ia32 if !cfg!(target_arch = "x86_64") => {
                Some("there are 32-bit programs for x86_64 only")
            }
            Need::Ia32 => (!config::has_ia32())
                .then_some("no 32-bit programs can be built: gcc-multilib is missing"),
            Need::Fuse => {
                (!Path::new("/dev/fuse").exists()).then_some("there is no /dev/fuse: modprobe fuse")
            }
            Need::Fusermount => (Command::new("fusermount3").arg("-V").output().is_err())
                .then_some("there is no fusermount3: install fuse3"),
            Need::Uprobes => {
                let has_events = fs::read_to_string("/proc/kallsyms")
                    .is_ok_and(|symbols| symbols.contains(" __uprobe_trace_func"));
                (!has_events || !has_file_system("tracefs"))
                    .then_some("this kernel has no uprobes (CONFIG_UPROBE_EVENTS)")
            }
            Need::Btf => (!Path::new("/sys/kernel/btf/vmlinux").exists())
                .then_some("this kernel has no type information (CONFIG_DEBUG_INFO_BTF)"),
            Need::TimersByBpf => (ProcessReader::new().map_or(true, |reader| reader.without_timers().is_some())).then_some(
                "BPF reads no POSIX timers here: the kernel has no type information, or is older than Linux 6.13",
            ),
            Need::MessageQueues => (!Path::new("/proc/sys/fs/mqueue").exists())
                .then_some("this kernel has no POSIX message queues (CONFIG_POSIX_MQUEUE)"),
            Need::IoUring => {
                let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
                let is_there = disabled.is_ok_and(|disabled| disabled.trim() == "0");
                (!is_there).then_some("there is no io_uring (kernel.io_uring_disabled)")
            }
            Need::SoftDirty => (!has_soft_dirty()).then_some(
                "this kernel does not track written pages (CONFIG_MEM_SOFT_DIRTY), without which criu pre-dumps nothing",
            ),
            Need::PatchedCriu => config::patched_criu().is_none().then_some(
                "there is no criu with the patches of docs/upstream: `make patched CRIU_SRC=dir` builds one",
            ),
            Need::TwoCrius => config::crius().is_ok_and(|all| all.len() < 2).then_some(
                "there is one version of criu only: `make versions` gets others, scripts/get-criu 4.3 target/criu-4.3 one",
            ),
            Need::Host if config::host().is_err() => Some(
                "there are no container engines: `make host` gets them, together with a criu that it fetches",
            ),
            Need::FreezerV1 => freezer(false)
                .is_none()
                .then_some("no freezer of cgroup v1 is mounted"),
            Need::FreezerV2 => freezer(true)
                .is_none()
                .then_some("cgroup v2 is not mounted"),
            Need::MemoryCgroup => controller("memory")
                .is_none()
                .then_some("no memory controller of cgroup v1 or v2 is mounted"),
            Need::PidsCgroup => controller("pids")
                .is_none()
                .then_some("no pids controller of cgroup v1 or v2 is mounted"),
            Need::Cores => {
                let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
                (pattern.trim().is_empty() || pattern.contains(['|', '/', '@'])).then_some(
                    "kernel.core_pattern puts no core files into the working directory: `sysctl kernel.core_pattern=core`",
                )
            }
            Need::Host => (!has_file_system("overlay")).then_some("this kernel has no overlayfs"),
        }
    }
}

/// Where cgroups with a freezer are mounted, of v2 or of v1.
pub fn freezer(v2: bool) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (at, kind, options) = (words.next()?, words.next()?, words.next()?);
        let fits = if v2 {
            kind == "cgroup2"
        } else {
            kind == "cgroup" && options.split(',').any(|option| option == "freezer")
        };
        fits.then(|| PathBuf::from(at))
    })
}

/// Where cgroups can be made that this controller bounds, and whether they are of v2.
pub fn controller(name: &str) -> Option<(PathBuf, bool)> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (at, kind, options) = (PathBuf::from(words.next()?), words.next()?, words.next()?);
        let enabled = || {
            let control = fs::read_to_string(at.join("cgroup.subtree_control"));
            control.is_ok_and(|control| control.split_whitespace().any(|word| word == name))
        };
        match kind {
            "cgroup" if options.split(',').any(|option| option == name) => Some((at, false)),
            "cgroup2" if enabled() => Some((at, true)),
            _ => None,
        }
    })
}

/// Its number in linux/capability.h.
const CAP_SYS_RESOURCE: u32 = 24;

fn has_capability(number: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set >> number & 1 == 1)
}

/// By bit 55 of a page's entry in /proc/self/pagemap, which is set in one that was just written to (proc_pid_pagemap(5)).
fn has_soft_dirty() -> bool {
    const PAGE: usize = 4096;
    let written = vec![1u8; PAGE];
    let at = std::hint::black_box(&written).as_ptr().addr() / PAGE * 8;
    let entry = || {
        let mut entry = [0; 8];
        let pagemap = fs::File::open("/proc/self/pagemap").ok()?;
        pagemap
            .read_exact_at(&mut entry, at.try_into().ok()?)
            .ok()?;
        Some(u64::from_ne_bytes(entry))
    };
    entry().is_some_and(|entry| entry >> 55 & 1 == 1)
}

/// By /proc/filesystems: overlayfs may be a module that has not been loaded yet.
fn has_file_system(name: &str) -> bool {
    let known = || {
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        known.split_whitespace().any(|word| word == name)
    };
    known() || (Command::new("modprobe").arg(name).status().is_ok() && known())
}

/// What is to become of a run.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing is missing.
    Run,
    /// Reported as ignored, with the reason.
    Skip(String),
    /// It would be skipped, but CI has not been told to expect that.
    Refuse(String),
}

/// The decision by what the machine has, and by `CI` and `CRIU_TESTS_ALLOW_SKIP`.
pub fn decide(name: &str, needs: &[Need]) -> Decision {
    let strict = env::var("CI").is_ok_and(|ci| ci == "true");
    let allowed = env::var("CRIU_TESTS_ALLOW_SKIP").unwrap_or_default();
    decide_by(
        name,
        needs.iter().find_map(|need| need.missing()),
        strict,
        &allowed,
    )
}

fn decide_by(name: &str, missing: Option<&str>, strict: bool, allowed: &str) -> Decision {
    let Some(reason) = missing else {
        return Decision::Run;
    };
    // A whole scenario may be named as well as one run of it.
    let known = allowed.split(',').map(str::trim).any(|entry| {
        entry == name
            || name
                .rsplit_once('.')
                .is_some_and(|(scenario, _)| entry == scenario)
    });
    if strict && !known {
        Decision::Refuse(format!(
            "would be skipped, and CRIU_TESTS_ALLOW_SKIP does not name it: {reason}"
        ))
    } else {
        Decision::Skip(reason.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ci_accepts_only_skips_that_it_was_told() {
        assert_eq!(decide_by("a.alone", None, true, ""), Decision::Run);
        assert_eq!(
            decide_by("a.alone", Some("why"), false, ""),
            Decision::Skip("why".into())
        );
        assert!(matches!(
            decide_by("a.alone", Some("why"), true, "b,c.alone"),
            Decision::Refuse(_)
        ));
        assert_eq!(
            decide_by("a.alone", Some("why"), true, "b, a.alone"),
            Decision::Skip("why".into())
        );
        assert_eq!(
            decide_by("a.alone", Some("why"), true, "a"),
            Decision::Skip("why".into())
        );
    }
}
