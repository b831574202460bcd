//! `/proc/PID/maps`.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;

use criu_signals_images::Pid;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{major, minor};

use super::{parsed, process};
use crate::error::Result;

/// One mapping of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Is it the vDSO?
    pub vdso: bool,
    /// May the program execute and read it, but not write it, and is it its own?
    pub code: bool,
    /// Where its pages come from.
    pub backing: Backing,
}

/// Where the pages of a mapping come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// From the kernel: the vDSO and what belongs to it.
    Kernel,
    /// From nowhere: they are memory.
    Anonymous,
    /// From a file on this device.
    File {
        /// Major and minor number.
        device: (i32, i32),
    },
}

/// A part of a process's memory, and what the program may do there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// May it be executed?
    pub executable: bool,
    /// May it be written?
    pub writable: bool,
}

/// The memory of `pid`, whose leader the caller has stopped by ptrace(2).
///
/// # Errors
/// [`Cause::Died`](crate::error::Cause::Died) if the process is gone; EACCES if the caller may not look at it;
/// [`Cause::Proc`](crate::error::Cause::Proc) if `maps` has another format.
pub fn regions(pid: Pid) -> Result<Vec<Region>> {
    use procfs::process::MMPermissions;
    let process = process(pid)?;
    let maps = parsed("read maps", || process.maps())?;
    let region = |m: &procfs::process::MemoryMap| Region {
        start: m.address.0,
        end: m.address.1,
        executable: m.perms.contains(MMPermissions::EXECUTE),
        writable: m.perms.contains(MMPermissions::WRITE),
    };
    Ok(maps.iter().map(region).collect())
}

/// The mappings of `pid`, whose leader the caller has stopped by ptrace(2). No page of its memory is touched.
///
/// # Errors
/// [`Cause::Died`](crate::error::Cause::Died) if the process is gone; EACCES if the caller may not look at it;
/// [`Cause::Proc`](crate::error::Cause::Proc) if `maps` has another format.
pub fn mappings(pid: Pid) -> Result<Vec<Mapping>> {
    use procfs::process::{MMPermissions, MMapPath};
    let process = process(pid)?;
    let maps = parsed("read maps", || process.maps())?;
    let backing = |m: &procfs::process::MemoryMap| match m.pathname {
        // A file's path has a slash: nobody can name one like that. It has an inode, too.
        MMapPath::Vdso | MMapPath::Vvar | MMapPath::Vsyscall if m.inode == 0 => Backing::Kernel,
        _ if m.inode == 0 => Backing::Anonymous,
        _ => Backing::File { device: m.dev },
    };
    let mapping = |m: &procfs::process::MemoryMap| Mapping {
        start: m.address.0,
        end: m.address.1,
        vdso: m.pathname == MMapPath::Vdso && m.inode == 0,
        code: m
            .perms
            .contains(MMPermissions::READ | MMPermissions::EXECUTE | MMPermissions::PRIVATE)
            && !m.perms.contains(MMPermissions::WRITE)
            && m.pathname != MMapPath::Vsyscall,
        backing: backing(m),
    };
    Ok(maps.iter().map(mapping).collect())
}

/// Those mappings of `pid` that hold one of the addresses. They may have to be waited for (`in_time`).
#[cfg(feature = "symbols")]
pub(crate) fn maps_holding(pid: Pid, addresses: &[u64]) -> Result<Vec<procfs::process::MemoryMap>> {
    let process = process(pid)?;
    let maps = parsed("read maps", || process.maps())?;
    let holds = |map: &procfs::process::MemoryMap| {
        let within = map.address.0..map.address.1;
        addresses.iter().any(|address| within.contains(address))
    };
    Ok(maps.into_iter().filter(holds).collect())
}

/// File systems that read from a disk of this machine, whatever other processes do. Not those whose device number a
/// mapping does not tell (btrfs, overlay), and not those of memory.
const LOCAL: [&str; 10] = [
    "ext2", "ext3", "ext4", "xfs", "f2fs", "squashfs", "erofs", "iso9660", "vfat", "exfat",
];

/// Does nobody have to be asked for the pages of a file on this device? FUSE and network file systems ask others, who
/// need not answer. Told by the mounts of `pid`: no file system is touched.
pub fn is_local(pid: Pid, device: (i32, i32)) -> bool {
    let number = format!("{}:{}", device.0, device.1);
    let mounts = |pid| {
        let process = process(pid)?;
        parsed("read mountinfo", || process.mountinfo())
    };
    is_memory(device)
        || mounts(pid).is_ok_and(|mounts| {
            mounts
                .into_iter()
                .any(|mount| mount.majmin == number && LOCAL.contains(&&*mount.fs_type))
        })
}

/// Is it the device of memory that is shared: memfd_create(2), shmget(2), MAP_SHARED without a file?
pub fn is_memory(device: (i32, i32)) -> bool {
    static DEVICE: OnceLock<Option<(i32, i32)>> = OnceLock::new();
    let known = DEVICE.get_or_init(|| {
        let file = memfd_create(c"device", MFdFlags::MFD_CLOEXEC).ok()?;
        let number = File::from(file).metadata().ok()?.dev();
        let part = |number: u64| i32::try_from(number).ok();
        Some((part(major(number))?, part(minor(number))?))
    });
    *known == Some(device)
}
