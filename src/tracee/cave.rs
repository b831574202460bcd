//! Where the injected code lives: the unused end of a page that the process can execute.
//!
//! The vDSO is the first choice. Every process has one, its image ends somewhere in its last page, what follows
//! is zeros, nobody executes it, and the kernel lets a tracer write there for the sake of breakpoints: the page
//! becomes the process's own copy. Nothing has to be mapped first, and no byte of the program's own is replaced,
//! not even for an instant: the code can stay where it is if the tracer dies.

use criu_signals_images::{Pid, Tid};
use nix::errno::Errno;

use super::memory::{Memory, RemoteAddr};
use crate::arch::Stub;
use crate::error::{Cause, Error, Result};
use crate::proc::{self, Mapping};

const ALIGN: u64 = 16;
const ALIGN_STEP: usize = 16;
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
    /// Looks for room. Changes nothing. `threads` are all threads of the process, each with where it stands.
    ///
    /// A tracer that died has left its stub behind. It is not the program's, so its place is used again, or a few
    /// such deaths would use up all room; but not while a thread is in it.
    pub fn find(pid: Pid, memory: &Memory, threads: &[(Tid, u64)]) -> Result<Cave> {
        let mut mappings = proc::code_mappings(pid)?;
        mappings.sort_by_key(|m| !m.vdso);
        for mapping in &mappings {
            for at in left_behind(memory, mapping)? {
                let stub = at.0..at.0 + Stub::len() as u64;
                if let Some((tid, _)) = threads.iter().find(|(_, ip)| stub.contains(ip)) {
                    log::debug!(
                        "tid {tid}: in the stub of a tracer that died, at {:#x}",
                        at.0
                    );
                    return Err(Error::os(
                        "a tracer died a moment ago, and the thread is not yet back in the program",
                        Errno::EAGAIN,
                    )
                    .in_thread(*tid));
                }
            }
        }
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

fn last_page(memory: &Memory, mapping: &Mapping) -> Result<Option<(u64, Vec<u8>)>> {
    let page_start = mapping.end.saturating_sub(PAGE).max(mapping.start);
    let mut page = vec![0; usize::try_from(mapping.end - page_start).unwrap_or(0)];
    match memory.read(RemoteAddr(page_start), &mut page) {
        Ok(()) => Ok(Some((page_start, page))),
        Err(e) if e.is_died() => Err(e),
        // A page behind the end of its file: no room there.
        Err(_) => Ok(None),
    }
}

/// Where stubs like ours are in the last page.
fn left_behind(memory: &Memory, mapping: &Mapping) -> Result<Vec<RemoteAddr>> {
    let Some((page_start, page)) = last_page(memory, mapping)? else {
        return Ok(Vec::new());
    };
    Ok(stubs_in(&page)
        .map(|at| RemoteAddr(page_start + at as u64))
        .collect())
}

fn stubs_in(page: &[u8]) -> impl Iterator<Item = usize> {
    (0..page.len())
        .step_by(ALIGN_STEP)
        .filter(|&at| page.len() - at >= Stub::len() && page[at..].starts_with(Stub::code()))
}

/// The address of a run of zeros at the end of the mapping that takes the stub.
fn room_at_end(memory: &Memory, mapping: &Mapping) -> Result<Option<RemoteAddr>> {
    let need = Stub::len() as u64;
    let Some((page_start, mut page)) = last_page(memory, mapping)? else {
        return Ok(None);
    };
    for at in stubs_in(&page).collect::<Vec<_>>() {
        page[at..at + Stub::len()].fill(0);
    }
    let used = page
        .iter()
        .rposition(|&b| b != 0)
        .map_or(0, |last| last + 1);
    let at = (page_start + used as u64 + MARGIN).next_multiple_of(ALIGN);
    Ok((at + need <= mapping.end).then_some(RemoteAddr(at)))
}
