//! ELF core files (core(5)): what they tell of the signal state of a process. Files that systemd-coredump has compressed are
//! read as well.
//!
//! A core tells of each thread the mask in force and which signals are pending for the thread alone (NT_PRSTATUS:
//! `fill_prstatus`, fs/binfmt_elf.c), and of the process the signal that the core was written for (NT_SIGINFO). It tells
//! nothing of dispositions, alternate stacks, the shared queue, the siginfos of pending signals and timers.
//!
//! A core can be anybody's: what is read of a file is bounded, and its memory is never read.

mod bytes;
mod error;
mod notes;

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use criu_signals_images::Recorded;
use object::elf::ELFMAG;

use crate::archive::{self, Limits};
use bytes::{Bytes, Stream};
pub use error::Error;

/// Opens a core file; `None` if the file is none, nor a compressed one.
///
/// # Errors
/// Those of [`Error`].
pub fn open(path: &Path) -> Result<Option<Recorded>, Error> {
    // O_NONBLOCK: to open a pipe that nobody writes to would hang.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(path) else {
        // Whoever reads it as an image says why.
        return Ok(None);
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    read(file)
}

fn read(mut file: File) -> Result<Option<Recorded>, Error> {
    let mut magic = Vec::new();
    file.by_ref()
        .take(ELFMAG.len() as u64)
        .read_to_end(&mut magic)?;
    if magic == ELFMAG {
        return notes::read(&mut file).map(Some);
    }
    file.seek(SeekFrom::Start(0))?;
    let limits = Limits::default();
    let Ok(Some(unpacked)) = archive::unpacked(file, &limits) else {
        // No archive either, and who reads it as one says why.
        return Ok(None);
    };
    let mut stream = Stream::new(unpacked);
    match stream.at(0, ELFMAG.len() as u64, "ELF header") {
        Ok(magic) if magic == ELFMAG => notes::read(&mut stream).map(Some),
        _ => Ok(None),
    }
}

/// The same of bytes in memory, for the tests and `fuzz/`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_bytes(bytes: &[u8]) -> Result<Recorded, Error> {
    notes::read(&mut Stream::new(bytes))
}

#[cfg(test)]
mod tests {
    use criu_signals_images::{Aspect, SigNo};

    use super::*;

    /// Of a program with four threads that SIGQUIT has ended; its notes alone, and of two threads.
    const CORE: &[u8] = include_bytes!("../../fuzz/corpus/core_file/two-threads");

    #[test]
    fn what_a_core_tells() {
        let core = read_bytes(CORE).unwrap();
        let process = &core.image.process;
        assert_eq!(process.threads.len(), 2);
        assert_eq!(process.threads[0].ids, process.ids, "the leader is first");
        for thread in &process.threads {
            assert!(thread.blocked.contains(SigNo::HUP));
            assert!(thread.pending.bits.contains(SigNo::HUP) && thread.pending.queue.is_empty());
        }
        let ended_by = core.ended_by.unwrap();
        assert_eq!(ended_by.signo, SigNo::QUIT);
        assert_eq!(ended_by.siginfo.map(|info| info.signo()), Some(3));
        assert!(core.missing.contains(&Aspect::Entries) && core.missing.is_sorted());
    }

    #[test]
    fn no_damage_is_a_panic() {
        for length in 0..CORE.len() {
            read_bytes(&CORE[..length]).unwrap_err();
        }
        for at in 0..CORE.len() {
            for byte in [0, 1, 0x7f, 0xff, CORE[at] ^ 0x80] {
                let mut core = CORE.to_vec();
                core[at] = byte;
                let _ = read_bytes(&core);
            }
        }
    }
}
