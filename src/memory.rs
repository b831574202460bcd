//! Memory that somebody else decides how much is needed of: a deep queue, an image.
//!
//! A program of Rust's that finds no memory is aborted. In criu that is criu, with the tasks stopped. So before work that
//! grows with what a process or an image holds, there is a look whether there is as much: in a process of one thread what
//! is there is there a moment later. What ends memory with an error is RLIMIT_AS, and vm.overcommit_memory=2; a memory cgroup
//! ends the process by SIGKILL instead, so how much is ever needed is bounded as well (see
//! [`machine::allowance`](crate::machine::allowance)).

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
        "{} MB may be needed for {what}, and this process can't have as much: raise its RLIMIT_AS (ulimit -v)",
        bytes >> 20
    );
    Err(Error::new("look for memory", Cause::Refused(why.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_any_machine_has() {
        ensure_for(0).unwrap();
        ensure_for_reading().unwrap();
        ensure_for(100_000).unwrap();
        for many in [u64::MAX >> 12, u64::MAX] {
            let said = ensure_for(many).unwrap_err().to_string();
            assert!(said.starts_with("look for memory: "), "{said}");
        }
    }
}
