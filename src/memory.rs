//! Reserves memory for work whose size other programs determine: a deep queue, an image.
//!
//! A Rust program that runs out of memory aborts. In a plugin that aborts criu, with the processes stopped. So before
//! work whose size depends on a process or an image, this module checks that the memory can be allocated; in a
//! single-threaded process the answer stays valid. RLIMIT_AS and vm.overcommit_memory=2 make allocations fail. A memory
//! cgroup kills the process instead, so the total is bounded as well (see
//! [`machine::allowance`](crate::machine::allowance)).

#![allow(unsafe_code)]

use std::fmt;

use crate::error::{Cause, Error, Result};

/// For one siginfo, whatever is done with it: those of the dump, those found and those to be queued are 128 bytes each, and
/// a system call that is laid out for one takes up to 300.
const FOR_A_SIGINFO: u64 = 1024;
/// For all else: maps of a process, a report.
const FOR_THE_REST: u64 = 32 << 20;
/// For an entry of an image that is made up to waste memory, while it is decoded.
const FOR_AN_ENTRY: u64 = 128 << 20;

/// Makes sure that there is memory for work on so many siginfos.
///
/// # Errors
/// If there is not.
pub fn ensure_for(siginfos: u64) -> Result<()> {
    let bytes = siginfos
        .saturating_mul(FOR_A_SIGINFO)
        .saturating_add(FOR_THE_REST);
    ensure(bytes, format_args!("{siginfos} siginfos"))
}

/// Makes sure that there is memory to read images with, whatever they hold.
///
/// # Errors
/// If there is not.
pub fn ensure_for_reading() -> Result<()> {
    ensure(FOR_AN_ENTRY, format_args!("reading images"))
}

fn ensure(bytes: u64, what: fmt::Arguments<'_>) -> Result<()> {
    let there = usize::try_from(bytes).is_ok_and(|bytes| {
        // Never touched: no page of it is used.
        Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
    });
    if there {
        return Ok(());
    }
    let why = format!(
        "{what} may need {} MB, which this process can't allocate: raise its RLIMIT_AS (ulimit -v)",
        bytes >> 20
    );
    Err(Error::new("check memory", Cause::Refused(why.into())))
}

/// Memory for a process that has to go through with its work when there is no more to be had: a memory cgroup ends by SIGKILL
/// who asks for more. Until then it is charged to this one; dropped, it is there for whatever the work takes.
#[derive(Debug, Default)]
pub struct Reserve {
    bytes: usize,
    pages: Vec<Pages>,
}

impl Reserve {
    /// What putting back takes, whatever is put back: files of /proc, a process's maps.
    const FOR_THE_WORK: usize = 1 << 20;
    /// For each siginfo, and for each beyond so many: it is done in pieces.
    const FOR_A_SIGINFO: usize = 4096;
    const MANY: usize = 6000;
    const FOR_ONE_OF_MANY: usize = 1536;

    /// How much it has to be for so many siginfos; `None` if it is.
    fn growth(&self, siginfos: usize) -> Option<usize> {
        let beyond = siginfos.saturating_sub(Self::MANY);
        let wanted = beyond
            .saturating_mul(Self::FOR_ONE_OF_MANY)
            .saturating_add(Self::FOR_THE_WORK + (siginfos - beyond) * Self::FOR_A_SIGINFO);
        // A half more: where a queue comes piece by piece this is not done for each.
        let more = if self.bytes == 0 { 0 } else { wanted / 2 };
        (wanted > self.bytes).then(|| wanted.saturating_add(more))
    }

    /// Makes sure that so many siginfos can be put back.
    ///
    /// # Errors
    /// If there is no memory. A memory cgroup ends the process instead.
    pub fn ensure_for(&mut self, siginfos: usize) -> Result<()> {
        if let Some(bytes) = self.growth(siginfos) {
            self.pages.push(Pages::touched(bytes - self.bytes)?);
            self.bytes = bytes;
        }
        Ok(())
    }

    /// The same in another process of the cgroup is about to grow: makes sure, in this one, that there is room. If there is not,
    /// a memory cgroup ends this one, and the other has what it had.
    ///
    /// # Errors
    /// If there is none.
    pub fn try_for_other(&mut self, siginfos: usize) -> Result<()> {
        if let Some(bytes) = self.growth(siginfos) {
            drop(Pages::touched(bytes - self.bytes)?);
            self.bytes = bytes;
        }
        Ok(())
    }
}

/// Whom the kernel ends first when memory is short (proc_pid_oom_score_adj(5)).
const SCORE: &str = "/proc/self/oom_score_adj";

/// This process is the first of all to be ended for want of memory, and another has what it would lose. The score that it had,
/// for [`score_again`]; `None` if that can't be done.
pub fn end_first() -> Option<i32> {
    let score = std::fs::read_to_string(SCORE).ok()?.trim().parse().ok()?;
    std::fs::write(SCORE, "1000").ok()?;
    Some(score)
}

/// Gives it back the score that it had. Everybody may, down to what somebody with CAP_SYS_RESOURCE has set.
pub fn score_again(score: i32) {
    if let Err(e) = std::fs::write(SCORE, score.to_string()) {
        log::warn!("{SCORE} stays 1000, and was {score}: {e}");
    }
}

/// Pages that are there.
#[derive(Debug)]
struct Pages {
    at: *mut libc::c_void,
    bytes: usize,
}

// SAFETY: nobody reads or writes them, and every thread may unmap them.
unsafe impl Send for Pages {}

impl Pages {
    /// mmap(NULL, bytes, ..., MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0)
    fn touched(bytes: usize) -> Result<Pages> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a new mapping, wherever there is room.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            let why = format!("{} KB to put signals back if criu ends", bytes >> 10);
            return Err(Error::new("check memory", Cause::Refused(why.into())));
        }
        Ok(Pages { at, bytes })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: this very mapping, which nobody else knows of.
        unsafe { libc::munmap(self.at, self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_grows_by_a_half() {
        let mut reserve = Reserve::default();
        reserve.ensure_for(0).unwrap();
        assert_eq!(reserve.bytes, 1 << 20);
        reserve.ensure_for(1000).unwrap();
        let first = reserve.bytes;
        assert_eq!(first, ((1 << 20) + 4096 * 1000) / 2 * 3);
        reserve.ensure_for(1200).unwrap();
        assert_eq!(reserve.bytes, first);
        assert!(reserve.ensure_for(usize::MAX >> 12).is_err());
    }

    #[test]
    fn more_than_any_machine_has() {
        ensure_for(0).unwrap();
        ensure_for_reading().unwrap();
        ensure_for(100_000).unwrap();
        for many in [u64::MAX >> 12, u64::MAX] {
            let said = ensure_for(many).unwrap_err().to_string();
            assert!(said.starts_with("check memory: "), "{said}");
        }
    }
}
