//! `/proc/PID/fd`: open files.

use criu_signals_images::{Pid, Tid};

use super::task_file;
use crate::error::{Error, Result};

/// The link in `/proc/PID/fd` of a signalfd(2).
pub const SIGNALFD: &str = "anon_inode:[signalfd]";
/// That of a timerfd_create(2).
pub const TIMERFD: &str = "anon_inode:[timerfd]";

/// Is `fd` of thread `tid` a socket? The caller has stopped the leader by ptrace(2).
pub fn is_socket(pid: Pid, tid: Tid, fd: i32) -> bool {
    std::fs::read_link(task_file(pid, tid, &format!("fd/{fd}")))
        .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
}

/// The open file descriptors of `pid`.
///
/// # Errors
/// The errno of listing `/proc/PID/fd`: ENOENT if the process is gone, EACCES if the caller may not look at it.
pub fn descriptors(pid: Pid) -> Result<Vec<i32>> {
    let failed = |e| Error::io("list fd", &e);
    let mut descriptors = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        descriptors.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    descriptors.sort_unstable();
    Ok(descriptors)
}

/// Is `fd` of `pid` a timerfd? The caller has stopped the leader by ptrace(2).
pub fn is_timerfd(pid: Pid, fd: i32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/fd/{fd}"))
        .is_ok_and(|target| target.as_os_str() == TIMERFD)
}

/// Is `fd` of `pid` a directory? The caller has stopped the leader by ptrace(2).
pub fn is_directory(pid: Pid, fd: i32) -> bool {
    std::fs::metadata(format!("/proc/{pid}/fd/{fd}")).is_ok_and(|file| file.is_dir())
}
