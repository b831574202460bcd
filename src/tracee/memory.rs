//! A tracee's memory, through `/proc/PID/mem`: unlike process_vm_writev(2) it writes where the program itself
//! may only execute, on a private copy of the page (mm/gup.c, FOLL_FORCE).
//!
//! A page that is not present is fetched from a server: a FUSE server, a host on the network, a program that uses
//! userfaultfd(2). The server may never answer, and the access waits in uninterruptible sleep. So there are two kinds
//! of access. [`Memory::read`] and [`Memory::write`] are for what the kernel or this program has put there: the vDSO,
//! scratch memory. [`Memory::read_program`] and [`Memory::write_program`] are for addresses that the program has
//! chosen, and refuse a page that would have to be fetched.

use std::cell::OnceCell;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use criu_signals_images::{Pid, Tid};
use nix::errno::Errno;

use super::ptrace;
use crate::error::{Cause, Error, Result};
use crate::proc::{self, Backing, Mapping};

/// Size of a page, and of its entry in `/proc/PID/pagemap`.
const PAGE: u64 = 4096;
const ENTRY: usize = 8;
/// Bits of such an entry (Documentation/admin-guide/mm/pagemap.rst).
const PM_PRESENT: u64 = 1 << 63;
const PM_SWAP: u64 = 1 << 62;
const PM_UFFD_WP: u64 = 1 << 57;
/// What PTRACE_POKEDATA writes.
const WORD: usize = 8;

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

/// Of a write that the file does not make, and PTRACE_POKEDATA may.
fn is_forbidden(e: &std::io::Error) -> bool {
    matches!(
        e.raw_os_error().map(Errno::from_raw),
        Some(Errno::EIO | Errno::EBADF | Errno::EACCES | Errno::EPERM)
    )
}

/// The memory of one process.
#[derive(Debug)]
pub struct Memory {
    pid: Pid,
    file: File,
    /// Threads by which words can be written where the file does not let.
    stopped: Vec<Tid>,
    mappings: OnceCell<Vec<Mapping>>,
    pagemap: OnceCell<File>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl Memory {
    /// Opens `/proc/PID/mem`. The right to do so is ptrace's (PTRACE_MODE_ATTACH_FSCREDS).
    ///
    /// # Errors
    /// The errno of open(2): ENOENT if the process is gone, EACCES if the caller may not access its memory.
    pub fn open(pid: Pid) -> Result<Memory> {
        Memory::open_of(pid, &[])
    }

    /// As [`open`](Memory::open), of a process of which the calling thread has stopped `threads`.
    ///
    /// Since Linux 6.12 the file can be forbidden to write what the program itself may not
    /// (proc_mem.force_override), or be kept from being written at all. A tracer may still do so by PTRACE_POKEDATA.
    ///
    /// # Errors
    /// Those of [`open`](Memory::open).
    pub fn open_of(pid: Pid, threads: &[Tid]) -> Result<Memory> {
        let path = format!("/proc/{pid}/mem");
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(e) if e.kind() == ErrorKind::PermissionDenied => File::open(&path),
            other => other,
        };
        Ok(Memory {
            pid,
            file: file.map_err(|e| Error::io("open mem", &e))?,
            stopped: threads.to_vec(),
            mappings: OnceCell::new(),
            pagemap: OnceCell::new(),
        })
    }

    /// Whose it is.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Reads exactly `buf.len()` bytes of what no program has put there.
    ///
    /// # Errors
    /// [`Cause::Died`] if the process has no memory any more; EIO if nothing is mapped there.
    pub fn read(&self, at: RemoteAddr, buf: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(buf, at.0)
            .map_err(|e| failed(format!("read {} bytes at {:#x}", buf.len(), at.0), &e))
    }

    /// Writes all of `bytes` to where no program has put anything.
    ///
    /// # Errors
    /// [`Cause::Died`] if the process has no memory any more, the errno of write(2) if neither the file nor
    /// PTRACE_POKEDATA can write there: EIO if nothing is mapped.
    pub fn write(&self, at: RemoteAddr, bytes: &[u8]) -> Result<()> {
        let Err(e) = self.file.write_all_at(bytes, at.0) else {
            return Ok(());
        };
        let operation = || format!("write {} bytes at {:#x}", bytes.len(), at.0);
        let forbidden = is_forbidden(&e);
        for &tid in self.stopped.iter().filter(|_| forbidden) {
            match self.poke(tid, at, bytes) {
                // Another one may be stopped.
                Err(e) if e.is_died() => {}
                Err(poked) => return Err(poked),
                Ok(()) => return Ok(()),
            }
        }
        Err(failed(operation(), &e))
    }

    /// Does the file write where the program itself may only execute? Found out by writing to the vDSO what is there already;
    /// `None` without a vDSO. Where the file does not, words are written by a stopped thread ([`open_of`](Memory::open_of)).
    ///
    /// # Errors
    /// If the vDSO can't be found or read.
    pub fn file_writes_code(&self) -> Result<Option<bool>> {
        let Some(vdso) = self.mappings()?.iter().find(|m| m.vdso) else {
            return Ok(None);
        };
        let at = RemoteAddr(vdso.end - WORD as u64);
        let mut word = [0; WORD];
        self.read(at, &mut word)?;
        match self.file.write_all_at(&word, at.0) {
            Ok(()) => Ok(Some(true)),
            Err(e) if is_forbidden(&e) => Ok(Some(false)),
            Err(e) => Err(failed("write to the vDSO".to_owned(), &e)),
        }
    }

    /// Reads exactly `buf.len()` bytes at an address that the program has chosen.
    ///
    /// # Errors
    /// [`Cause::Refused`] if somebody might have to be asked for a page of it.
    pub fn read_program(&self, at: RemoteAddr, buf: &mut [u8]) -> Result<()> {
        self.refuse_served(at, buf.len(), Access::Read)?;
        self.read(at, buf)
    }

    /// Writes all of `bytes` to an address that the program has chosen.
    ///
    /// # Errors
    /// [`Cause::Refused`] if somebody might have to be asked for a page of it.
    pub fn write_program(&self, at: RemoteAddr, bytes: &[u8]) -> Result<()> {
        self.refuse_served(at, bytes.len(), Access::Write)?;
        self.write(at, bytes)
    }

    /// Reads a little-endian 64-bit number of the program's.
    ///
    /// # Errors
    /// Those of [`read_program`](Memory::read_program).
    pub fn read_u64(&self, at: RemoteAddr) -> Result<u64> {
        let mut buf = [0; 8];
        self.read_program(at, &mut buf)?;
        Ok(u64::from_le_bytes(buf))
    }

    /// The mappings of the process, as they were when they were asked for first.
    ///
    /// # Errors
    /// Those of [`proc::mappings`], the first time.
    pub fn mappings(&self) -> Result<&[Mapping]> {
        if let Some(mappings) = self.mappings.get() {
            return Ok(mappings);
        }
        let mappings = proc::mappings(self.pid)?;
        Ok(self.mappings.get_or_init(|| mappings))
    }

    /// Is the file of this mapping one that nobody has to be asked for?
    pub fn is_local(&self, mapping: &Mapping) -> bool {
        match mapping.backing {
            Backing::Kernel | Backing::Anonymous => true,
            Backing::File { device } => proc::is_local(self.pid, device),
        }
    }

    fn refuse_served(&self, at: RemoteAddr, len: usize, access: Access) -> Result<()> {
        let refused = |why: &str| {
            let operation = match access {
                Access::Read => "read",
                Access::Write => "write",
            };
            let why = format!("{why}, and the server of the page may never answer");
            Error::new(
                format!("{operation} {len} bytes at {:#x}", at.0),
                Cause::Refused(why.into()),
            )
        };
        let last = at.0.saturating_add((len as u64).saturating_sub(1));
        for page in at.0 / PAGE..=last / PAGE {
            let address = page * PAGE;
            let mapping = self
                .mappings()?
                .iter()
                .find(|m| (m.start..m.end).contains(&address));
            // Where nothing is mapped, reading says so at once.
            let Some(mapping) = mapping else { continue };
            if mapping.backing == Backing::Kernel {
                continue;
            }
            if !self.is_local(mapping) {
                return Err(refused(
                    "the page belongs to a file on a FUSE or network file system",
                ));
            }
            let entry = self.page(page)?;
            let is_there = entry & (PM_PRESENT | PM_SWAP) != 0;
            let is_kept = access == Access::Write && entry & PM_UFFD_WP != 0;
            // One of a file on a local disk is read from there; memory may be a userfaultfd's.
            let is_on_disk =
                matches!(mapping.backing, Backing::File { device } if !proc::is_memory(device));
            if is_kept || !is_there && !is_on_disk {
                return Err(refused("the page is not present"));
            }
        }
        Ok(())
    }

    /// The entry of a page, by its number, in `/proc/PID/pagemap`.
    fn page(&self, number: u64) -> Result<u64> {
        let file = match self.pagemap.get() {
            Some(file) => file,
            None => {
                let file = File::open(format!("/proc/{}/pagemap", self.pid))
                    .map_err(|e| Error::io("open pagemap", &e))?;
                self.pagemap.get_or_init(|| file)
            }
        };
        let mut entry = [0; ENTRY];
        file.read_exact_at(&mut entry, number * ENTRY as u64)
            .map_err(|e| failed("read pagemap".to_owned(), &e))?;
        Ok(u64::from_le_bytes(entry))
    }

    /// Word by word; what of the first and last one is not to be written is read before.
    fn poke(&self, tid: Tid, at: RemoteAddr, bytes: &[u8]) -> Result<()> {
        let before = usize::from(at.0.to_le_bytes()[0]) % WORD;
        let start = RemoteAddr(at.0 - before as u64);
        let mut words = vec![0; (before + bytes.len()).next_multiple_of(WORD)];
        self.read(start, &mut words)?;
        words[before..before + bytes.len()].copy_from_slice(bytes);
        for (n, word) in words.chunks_exact(WORD).enumerate() {
            let word = std::array::from_fn(|at| word[at]);
            ptrace::poke(tid, start.offset(n * WORD).0, word)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::time::Duration;

    use super::*;
    use crate::tracee::{ByUs, StoppedProcess};

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    /// As where proc_mem.force_override=never.
    #[test]
    fn what_the_file_does_not_write_is_poked() {
        let mut child = sleeper();
        let pid = Pid::new(child.id().cast_signed()).unwrap();
        // It has to be past its execve(2).
        std::thread::sleep(Duration::from_millis(50));
        let stopped = StoppedProcess::<ByUs>::seize(pid, Duration::from_secs(5)).unwrap();
        let mut memory = Memory::open_of(pid, stopped.threads()).unwrap();
        memory.file = File::open(format!("/proc/{pid}/mem")).unwrap();
        assert_eq!(memory.file_writes_code().unwrap(), Some(false));
        let vdso = memory.mappings().unwrap().iter().find(|m| m.vdso).unwrap();
        let at = RemoteAddr(vdso.end - 37);
        let mut before = [0; 37];
        memory.read(at, &mut before).unwrap();
        let ours: Vec<u8> = (1..=29).collect();
        memory.write(at.offset(3), &ours).unwrap();
        let mut after = [0; 37];
        memory.read(at, &mut after).unwrap();
        assert_eq!(after[3..32], ours[..]);
        assert_eq!(after[..3], before[..3]);
        assert_eq!(after[32..], before[32..]);
        memory.stopped.clear();
        memory.write(at, &ours).unwrap_err();
        stopped.release().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_page_that_is_not_there_is_not_asked_for() {
        let mut child = sleeper();
        let pid = Pid::new(child.id().cast_signed()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let memory = Memory::open(pid).unwrap();
        let mappings = memory.mappings().unwrap();
        let anonymous = mappings.iter().filter(|m| m.backing == Backing::Anonymous);
        let pages = anonymous.flat_map(|m| m.start / PAGE..m.end / PAGE);
        let (there, not): (Vec<u64>, Vec<u64>) =
            pages.partition(|&page| memory.page(page).unwrap() & (PM_PRESENT | PM_SWAP) != 0);
        let read = |pages: &[u64]| memory.read_u64(RemoteAddr(pages[0] * PAGE));
        read(&there).unwrap();
        let refused = read(&not).unwrap_err();
        assert!(matches!(refused.cause(), Cause::Refused(_)), "{refused}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
