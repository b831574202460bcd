//! Whether numbers of processes and threads that have ended can be given again.
//!
//! A thread that ends leaves /proc, and lets wait(2) see its process end, some instructions before its number is free
//! (`release_task`, `free_pids`), and on a busy machine it may be preempted in between. A restore in that time fails: clone3(2)
//! with `set_tid` says EEXIST.

use std::fs;
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc;

use crate::procfs::Pid;

/// Some thousand times what it takes where nothing is preempted.
const PATIENCE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_micros(100);

/// Waits until the numbers are free that criu's images in this folder name, but for those that somebody has.
///
/// # Errors
/// If /dev/null cannot be opened.
pub fn await_free(images: &Path) -> Result<()> {
    // Of a folder that cannot be read, criu says so.
    let entries = fs::read_dir(images).into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| {
        let name = entry.file_name();
        let number = name.to_str()?.strip_prefix("core-")?.strip_suffix(".img")?;
        number.parse().ok()
    });
    await_free_of(&numbers.collect::<Vec<_>>())
}

/// Waits until these numbers are free, but for those that somebody has.
///
/// # Errors
/// If /dev/null cannot be opened.
pub fn await_free_of(numbers: &[Pid]) -> Result<()> {
    let null = fs::File::open("/dev/null").context("/dev/null")?;
    let deadline = Instant::now() + PATIENCE;
    let taken = |&number: &Pid| is_known(null.as_raw_fd(), number) && !is_somebodys(number);
    while numbers.iter().any(taken) && Instant::now() < deadline {
        std::thread::sleep(TICK);
    }
    Ok(())
}

fn is_somebodys(number: Pid) -> bool {
    Path::new(&format!("/proc/{number}")).exists()
}

/// Whether the kernel has a `struct pid` of this number: to own a file it need not be anybody's (`f_setown`, `find_vpid`).
#[allow(unsafe_code)]
fn is_known(fd: RawFd, number: Pid) -> bool {
    // SAFETY: takes numbers only; the descriptor is open, and nothing sends signals for it.
    let set = unsafe { libc::fcntl(fd, libc::F_SETOWN, number) };
    Errno::result(set) != Err(Errno::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_known_until_its_process_has_been_waited_for() {
        let null = fs::File::open("/dev/null").unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::try_from(child.id()).unwrap();
        assert!(is_known(null.as_raw_fd(), pid));
        child.wait().unwrap();
        await_free_of(&[pid]).unwrap();
        assert!(!is_known(null.as_raw_fd(), pid) || is_somebodys(pid));
    }
}
