//! A tracee's memory, through `/proc/PID/mem`: unlike process_vm_writev(2) it writes where the program itself
//! may only execute, on a private copy of the page (mm/gup.c, FOLL_FORCE).

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use criu_signals_images::Pid;

use crate::error::{Cause, Error, Result};

/// An address in another process. Not a pointer: nothing here can follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RemoteAddr(pub u64);

impl RemoteAddr {
    /// The address `bytes` further on.
    #[must_use]
    pub fn offset(self, bytes: usize) -> RemoteAddr {
        RemoteAddr(self.0.wrapping_add(bytes as u64))
    }
}

/// No bytes at all, where an address that is not mapped gives EIO: the memory as a whole is gone (mem_rw, fs/proc/base.c).
fn failed(operation: String, e: &std::io::Error) -> Error {
    match e.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::WriteZero => Error::new(operation, Cause::Died),
        _ => Error::io(operation, e),
    }
}

/// The memory of one process.
#[derive(Debug)]
pub struct Memory(File);

impl Memory {
    /// Opens `/proc/PID/mem`. The right to do so is ptrace's (PTRACE_MODE_ATTACH_FSCREDS).
    pub fn open(pid: Pid) -> Result<Memory> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .map(Memory)
            .map_err(|e| Error::io("open mem", &e))
    }

    /// Reads exactly `buf.len()` bytes.
    pub fn read(&self, at: RemoteAddr, buf: &mut [u8]) -> Result<()> {
        self.0
            .read_exact_at(buf, at.0)
            .map_err(|e| failed(format!("read {} bytes at {:#x}", buf.len(), at.0), &e))
    }

    /// Writes all of `bytes`.
    pub fn write(&self, at: RemoteAddr, bytes: &[u8]) -> Result<()> {
        self.0
            .write_all_at(bytes, at.0)
            .map_err(|e| failed(format!("write {} bytes at {:#x}", bytes.len(), at.0), &e))
    }

    /// Reads a little-endian 64-bit number.
    pub fn read_u64(&self, at: RemoteAddr) -> Result<u64> {
        let mut buf = [0; 8];
        self.read(at, &mut buf)?;
        Ok(u64::from_le_bytes(buf))
    }
}
