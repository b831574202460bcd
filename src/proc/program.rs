//! The program that a process executes: `/proc/PID/exe` and the auxiliary vector.

use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;

use criu_signals_images::{Name, NsIds, Pid};

use super::{SignalStatus, of_task, read};
use crate::error::Result;
use crate::in_time;

/// The program that `pid` executes, as the reader sees it. `None` where it has no name any more, or none in UTF-8.
///
/// # Errors
/// [`Cause::Died`](crate::error::Cause::Died) if the process is gone or has no memory any more; EACCES if the caller
/// may not look at it; ETIMEDOUT ([`in_time::look`]).
pub fn executable(pid: Pid) -> Result<Option<Name>> {
    in_time::look("exe", move || executable_of_stopped(pid))?
}

/// The same of a process whose leader the caller has stopped by ptrace(2).
///
/// # Errors
/// [`Cause::Died`](crate::error::Cause::Died) if the process is gone or has no memory any more; EACCES if the caller
/// may not look at it.
pub fn executable_of_stopped(pid: Pid) -> Result<Option<Name>> {
    let path =
        std::fs::read_link(format!("/proc/{pid}/exe")).map_err(|e| of_task("read exe", &e))?;
    // d_path says so of a file that was replaced or removed.
    let path = path
        .to_str()
        .map(|path| path.trim_end_matches(" (deleted)"));
    Ok(path.map(Name::from))
}

/// What the kernel has told the program at its start (getauxval(3)). Addresses in it are random: another program, or the same
/// one executed once more, has another.
///
/// # Errors
/// [`Cause::Died`](crate::error::Cause::Died) if the process is gone; EACCES if the caller may not look at it;
/// ETIMEDOUT ([`in_time::look`]).
pub fn auxiliary_vector(pid: Pid) -> Result<Vec<u8>> {
    in_time::look("auxv", move || auxiliary_vector_of_stopped(pid))?
}

/// The same of a process whose leader the caller has stopped by ptrace(2).
///
/// # Errors
/// [`Cause::Died`](crate::error::Cause::Died) if the process is gone; EACCES if the caller may not look at it.
pub fn auxiliary_vector_of_stopped(pid: Pid) -> Result<Vec<u8>> {
    read(format!("/proc/{pid}/auxv")).map_err(|e| of_task("read auxv", &e))
}

/// Does the program make the system calls of the 32-bit table? What the kernel has told it at its start says so: the
/// program's file may be one that somebody else serves, and is not touched. A 64-bit program that makes such a call all the
/// same is not recognised.
///
/// The auxiliary vector of a process that is not stopped may have to be waited for (`in_time`).
pub fn is_32_bit(pid: Pid) -> bool {
    auxiliary_vector_of_stopped(pid).is_ok_and(|auxv| is_32_bit_vector(&auxv))
}

/// Is this auxiliary vector one of pairs of 32-bit numbers (getauxval(3))? Read as pairs of 64-bit ones, its keys are none:
/// a value that is not 0 is in their upper halves.
pub(super) fn is_32_bit_vector(auxv: &[u8]) -> bool {
    const WORD: usize = 4;
    let words: Vec<u32> = auxv
        .chunks_exact(WORD)
        .map(|bytes| u32::from_le_bytes(std::array::from_fn(|at| bytes[at])))
        .collect();
    // The upper halves of keys.
    words.chunks_exact(4).any(|entry| entry[1] != 0)
}

/// Has execve(2) started the program with more privileges than its caller had, or so that a security module wants it to be
/// careful (AT_SECURE, getauxval(3))? `vector` is its auxiliary vector.
pub fn is_secure(vector: &[u8]) -> bool {
    const AT_SECURE: u64 = 23;
    let word = if is_32_bit_vector(vector) { 4 } else { 8 };
    let number = |bytes: &[u8]| {
        let bytes = bytes.iter().rev();
        bytes.fold(0, |number, &byte| number << 8 | u64::from(byte))
    };
    vector
        .chunks_exact(2 * word)
        .any(|entry| number(&entry[..word]) == AT_SECURE && number(&entry[word..]) != 0)
}

/// The inode of `pid`'s pid namespace.
///
/// It may have to be waited for unless the caller has stopped the leader by ptrace(2).
///
/// # Errors
/// [`Cause::Died`](crate::error::Cause::Died) if the process is gone; EACCES if the caller may not look at it.
pub fn pid_namespace_of_stopped(pid: Pid) -> Result<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/pid"))
        .map(|m| m.ino())
        .map_err(|e| of_task("stat ns/pid", &e))
}

/// As [`pid_namespace_of_stopped`], for a process of these ids (`NSpid`). One id alone says that the process is in the pid
/// namespace that /proc shows (proc_pid_status, fs/proc/array.c), of which nothing has to be read again if this process is
/// in it, too.
///
/// # Errors
/// Those of [`pid_namespace_of_stopped`], if the namespace is another.
pub fn pid_namespace_by_ids(pid: Pid, ids: &NsIds) -> Result<u64> {
    static OWN: OnceLock<Option<u64>> = OnceLock::new();
    let own = || {
        let this = Pid::own();
        let ids = SignalStatus::read(this, this.into()).ok()?.ids;
        (ids.as_slice().len() == 1).then(|| pid_namespace_of_stopped(this).ok())?
    };
    match OWN.get_or_init(own) {
        Some(own) if ids.as_slice().len() == 1 => Ok(*own),
        _ => pid_namespace_of_stopped(pid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_namespace_by_ids() {
        let own = Pid::own();
        let inode = pid_namespace_of_stopped(own).unwrap();
        for ids in [vec![own.get()], vec![own.get(), 1]] {
            let ids = NsIds::new(ids).unwrap();
            assert_eq!(pid_namespace_by_ids(own, &ids).unwrap(), inode);
        }
        // One that is here is not read, and one that is below is.
        let nobody = Pid::new(i32::MAX).unwrap();
        let here = NsIds::new(vec![nobody.get()]).unwrap();
        let below = NsIds::new(vec![nobody.get(), 1]).unwrap();
        assert_eq!(pid_namespace_by_ids(nobody, &here).unwrap(), inode);
        assert!(pid_namespace_by_ids(nobody, &below).unwrap_err().is_died());
    }

    #[test]
    fn how_wide_an_auxiliary_vector_is() {
        // AT_SYSINFO_EHDR, AT_HWCAP, AT_NULL.
        let wide: Vec<u8> = [33u64, 0x7fff_0000_1000, 16, 0xbfeb_fbff, 0, 0]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let narrow: Vec<u8> = [32u32, 0xf7f0_0ff0, 33, 0xf7f0_0000, 16, 0xbfeb_fbff, 0, 0]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        assert!(!is_32_bit_vector(&wide));
        assert!(is_32_bit_vector(&narrow));
        assert!(!is_32_bit_vector(&[]));
        assert!(!is_32_bit(Pid::own()));
    }
}
