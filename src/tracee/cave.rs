//! Where the injected code lives: the unused end of a page that the process can execute.
//!
//! The vDSO is the first choice. Every process has one, its image ends somewhere in its last page, what follows
//! is zeros, nobody executes it, and the kernel lets a tracer write there for the sake of breakpoints: the page
//! becomes the process's own copy. Nothing has to be mapped first, and no byte of the program's own is replaced,
//! not even for an instant: the code can stay where it is if the tracer dies.

use criu_signals_images::Pid;

use super::memory::{Memory, RemoteAddr};
use crate::arch::{STUB_ALIGN, Stub};
use crate::error::{Cause, Error, Result};
use crate::proc::{self, Mapping};

/// The last bytes in use may be zeros themselves: kept clear of.
const MARGIN: u64 = 32;
/// What is looked at behind a mapping's last used byte.
const PAGE: u64 = 4096;

/// Room for the stub in one process.
#[derive(Debug)]
pub struct Cave {
    at: RemoteAddr,
    dirty: bool,
}

impl Cave {
    /// Looks for room. Changes nothing.
    pub fn find(pid: Pid, memory: &Memory) -> Result<Cave> {
        let mut mappings = proc::code_mappings(pid)?;
        mappings.sort_by_key(|m| !m.vdso);
        for mapping in &mappings {
            if let Some(at) = room_at_end(memory, mapping)? {
                return Ok(Cave { at, dirty: false });
            }
        }
        Err(Error::new(
            "look for room for the injected code",
            Cause::Unsupported(
                format!("no executable mapping ends in {} unused bytes", Stub::len()).into(),
            ),
        ))
    }

    /// Where the stub goes.
    pub fn address(&self) -> u64 {
        self.at.0
    }

    /// Writes the stub.
    pub fn write(&mut self, memory: &Memory, stub: &Stub) -> Result<()> {
        self.dirty = true;
        memory.write(self.at, &stub.to_bytes())
    }

    /// Puts back the zeros.
    pub fn clear(&mut self, memory: &Memory) -> Result<()> {
        if self.dirty {
            memory.write(self.at, &vec![0; Stub::len()])?;
            self.dirty = false;
        }
        Ok(())
    }
}

/// The address of a run of zeros at the end of the mapping that takes the stub.
fn room_at_end(memory: &Memory, mapping: &Mapping) -> Result<Option<RemoteAddr>> {
    let need = Stub::len() as u64;
    let page_start = mapping.end.saturating_sub(PAGE).max(mapping.start);
    let mut page = vec![0; usize::try_from(mapping.end - page_start).unwrap_or(0)];
    match memory.read(RemoteAddr(page_start), &mut page) {
        Ok(()) => {}
        Err(e) if e.is_died() => return Err(e),
        // A page behind the end of its file: no room there.
        Err(_) => return Ok(None),
    }
    // A stub that somebody left who died: no thread is in it, or the process would not count as stopped.
    if let Some(at) = Stub::find(&page) {
        return Ok(Some(RemoteAddr(page_start + at as u64)));
    }
    let used = page
        .iter()
        .rposition(|&b| b != 0)
        .map_or(0, |last| last + 1);
    let at = (page_start + used as u64 + MARGIN).next_multiple_of(STUB_ALIGN as u64);
    Ok((at + need <= mapping.end).then_some(RemoteAddr(at)))
}

/// Is a thread at `ip` on its way out of a stub whose tracer has died? It then still undoes what was done.
pub(super) fn is_in_stub(memory: &Memory, ip: u64) -> Result<bool> {
    let start = ip - ip % PAGE;
    let mut page = vec![0; usize::try_from(PAGE).unwrap_or(0)];
    match memory.read(RemoteAddr(start), &mut page) {
        Ok(()) => {}
        Err(e) if e.is_died() => return Err(e),
        // It executes what nobody may read.
        Err(_) => return Ok(false),
    }
    Ok(Stub::find(&page)
        .is_some_and(|at| (ip - start).wrapping_sub(at as u64) < Stub::len() as u64))
}
