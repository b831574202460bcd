//! The place of the injected code: the unused end of a page that the process can execute.
//!
//! The vDSO is the first choice. Every process has one, its image ends somewhere in its last page, what follows
//! is zeros, nobody executes it, and the kernel lets a tracer write there for the sake of breakpoints: the page
//! becomes the process's own copy. Nothing has to be mapped first, and no byte of the program's own is replaced,
//! not even for an instant: the code can stay where it is if the tracer dies.
//!
//! Where no executable mapping ends in enough zeros, as with the 32-bit vDSO of Linux 6.12 and a statically linked program,
//! the code replaces the section headers of the vDSO. Programs find its functions by the program headers (vdso(7)); only
//! debuggers read section headers, and those of this process would miss them if the tracer died.

use std::ops::Range;

use criu_signals_images::Tid;
use nix::errno::Errno;

use super::memory::{Memory, RemoteAddr};
use crate::arch::{STUB_ALIGN, Stub};
use crate::error::{Cause, Error, Result};
use crate::proc::Mapping;

/// The distance from the last byte that is not zero: the bytes behind it may be zeros that are in use.
const MARGIN: usize = 32;
/// What is looked at behind a mapping's last used byte.
const PAGE: u64 = 4096;

/// Room for the stub in one process.
#[derive(Debug)]
pub struct Cave {
    at: RemoteAddr,
    /// What is there: zeros, the stub of a tracer that died, or section headers.
    before: Vec<u8>,
    dirty: bool,
    /// A thread is in the stub and leaves the stub without a tracer.
    in_use: bool,
}

impl Cave {
    /// Looks for room. Changes nothing. `threads` are all threads of the process, each with where it stands.
    ///
    /// A tracer that died has left its stub behind. If there is no other room, the place of the oldest such stub is
    /// used again; otherwise a few deaths of tracers would use up all room. The oldest stub is taken because a signal
    /// handler that began in a stub returns into that stub, however long the handler runs. For the same reason the old
    /// stub is put back afterwards.
    ///
    /// # Errors
    /// EAGAIN if a thread is in such a stub and has not returned to the program yet
    /// ([`left_behind`](super::left_behind) takes it there).
    pub fn find(memory: &Memory, threads: &[(Tid, u64)]) -> Result<Cave> {
        let mappings = memory.mappings()?;
        if !mappings.iter().any(|m| m.code) {
            // Nothing can run without code: its memory is gone already.
            return Err(Error::new("read maps", Cause::Died));
        }
        let Places {
            room,
            left_behind,
            headers,
        } = Places::find(memory, mappings)?;
        for (_, at, _) in &left_behind {
            let stub = at.0..at.0 + Stub::len() as u64;
            if let Some((tid, _)) = threads.iter().find(|(_, ip)| stub.contains(ip)) {
                return Err(Error::os(
                    "a tracer has just died, and the thread is not back in the program yet",
                    Errno::EAGAIN,
                )
                .in_thread(*tid));
            }
        }
        let fresh = room.map(|at| (at, vec![0; Stub::len()]));
        let oldest = || {
            let oldest = left_behind.into_iter().min_by_key(|(made, ..)| *made);
            oldest.map(|(_, at, before)| (at, before))
        };
        let place = fresh.or_else(oldest).or(headers);
        let (at, before) = place.ok_or_else(|| {
            Error::new(
                "find room for the injected code",
                Cause::Unsupported(
                    format!("no executable mapping ends in {} unused bytes", Stub::len()).into(),
                ),
            )
        })?;
        Ok(Cave {
            at,
            before,
            dirty: false,
            in_use: false,
        })
    }

    /// Where the stub goes.
    pub fn address(&self) -> u64 {
        self.at.0
    }

    /// Writes the stub.
    pub fn write(&mut self, memory: &Memory, stub: &Stub) -> Result<()> {
        if self.in_use {
            return Err(Error::os(
                "a thread that could not be stopped is in the injected code",
                Errno::EBUSY,
            ));
        }
        self.dirty = true;
        memory.write(self.at, &stub.to_bytes())
    }

    /// Leaves the stub to the thread that is in it, as if the tracer had died.
    pub fn leave(&mut self) {
        self.in_use = true;
        self.dirty = false;
    }

    /// Puts back what was there.
    pub fn clear(&mut self, memory: &Memory) -> Result<()> {
        if self.dirty {
            memory.write(self.at, &self.before)?;
            let mut found = vec![0; self.before.len()];
            memory.read(self.at, &mut found)?;
            if found != self.before {
                let why = Cause::NotKept("the bytes read back differ".into());
                return Err(Error::new("restore the bytes under the injected code", why));
            }
            self.dirty = false;
        }
        Ok(())
    }
}

/// Where a stub can be written.
struct Places {
    /// Unused bytes.
    room: Option<RemoteAddr>,
    /// Stubs that dead tracers have left: when each was made, where it is, and its bytes.
    left_behind: Vec<(Option<u64>, RemoteAddr, Vec<u8>)>,
    /// Section headers of the vDSO, and what they hold.
    headers: Option<(RemoteAddr, Vec<u8>)>,
}

impl Places {
    /// Searches the last pages of the executable mappings, the vDSO first.
    fn find(memory: &Memory, mappings: &[Mapping]) -> Result<Places> {
        let mut room = None;
        let mut left_behind = Vec::new();
        let mut headers = None;
        let (vdso, others): (Vec<&Mapping>, Vec<&Mapping>) =
            mappings.iter().filter(|m| m.code).partition(|m| m.vdso);
        for mapping in vdso.into_iter().chain(others) {
            // No other page is touched where the vDSO has room; and none that somebody else serves.
            let is_needed = mapping.vdso || room.is_none() && memory.is_local(mapping);
            if !is_needed {
                continue;
            }
            let Some((start, page)) = last_page(memory, mapping)? else {
                continue;
            };
            for at in stubs_in(&page) {
                let made = Stub::made(&page[at..]);
                let before = page[at..at + Stub::len()].to_vec();
                left_behind.push((made, RemoteAddr(start).offset(at), before));
            }
            if room.is_none() {
                room = room_in(&page).map(|at| RemoteAddr(start).offset(at));
            }
            if mapping.vdso && room.is_none() {
                headers = section_headers(memory, mapping)?
                    .and_then(|table| room_in_table(&table, start, &page))
                    .map(|at| {
                        (
                            RemoteAddr(start).offset(at),
                            page[at..][..Stub::len()].to_vec(),
                        )
                    });
            }
        }
        Ok(Places {
            room,
            left_behind,
            headers,
        })
    }
}

/// The last page of a mapping, and where it is. `None` where it can't be read.
fn last_page(memory: &Memory, mapping: &Mapping) -> Result<Option<(u64, Vec<u8>)>> {
    let start = mapping.end.saturating_sub(PAGE).max(mapping.start);
    page_at(memory, start, mapping.end)
}

fn page_at(memory: &Memory, start: u64, end: u64) -> Result<Option<(u64, Vec<u8>)>> {
    let len = usize::try_from(end.saturating_sub(start));
    let len = len.map_err(|e| Error::new("read a page", Cause::Unexpected(e.to_string())))?;
    let mut page = vec![0; len];
    match memory.read_program(RemoteAddr(start), &mut page) {
        Ok(()) => Ok(Some((start, page))),
        Err(e) if e.is_died() => Err(e),
        // A page behind the end of its file: no room there.
        Err(_) => Ok(None),
    }
}

/// Where stubs like ours are in a page.
fn stubs_in(page: &[u8]) -> impl Iterator<Item = usize> {
    (0..page.len())
        .step_by(STUB_ALIGN)
        .filter(|&at| page.len() - at >= Stub::len() && page[at..].starts_with(Stub::code()))
}

/// A thread in a stub whose tracer has died or given up: the thread still undoes what was done.
#[derive(Debug)]
pub(super) struct InStub {
    pub tid: Tid,
    /// Where the stub begins.
    pub base: u64,
    pub stub: Vec<u8>,
}

/// Those of `threads`, each with where it stands, that are in such a stub.
pub(super) fn in_stubs(memory: &Memory, threads: &[(Tid, u64)]) -> Result<Vec<InStub>> {
    let mut threads = threads.to_vec();
    // Many threads wait at the same place.
    threads.sort_unstable_by_key(|(_, ip)| *ip);
    let mut inside = Vec::new();
    for threads in threads.chunk_by(|(_, a), (_, b)| a / PAGE == b / PAGE) {
        let start = threads[0].1 / PAGE * PAGE;
        let Some((_, page)) = page_at(memory, start, start + PAGE)? else {
            // They execute what nobody may read.
            continue;
        };
        for at in stubs_in(&page) {
            let base = start + at as u64;
            let stub = &page[at..at + Stub::len()];
            let here = threads
                .iter()
                .filter(|(_, ip)| (base..base + stub.len() as u64).contains(ip));
            inside.extend(here.map(|&(tid, _)| InStub {
                tid,
                base,
                stub: stub.to_vec(),
            }));
        }
    }
    Ok(inside)
}

/// Where the section headers of an ELF image are that is mapped as in its file. `None` if it has none.
fn section_headers(memory: &Memory, image: &Mapping) -> Result<Option<Range<u64>>> {
    let mut header = [0; 64];
    match memory.read_program(RemoteAddr(image.start), &mut header) {
        Ok(()) => Ok(table_in(&header, image.start)),
        Err(e) if e.is_died() => Err(e),
        Err(_) => Ok(None),
    }
}

/// By e_shoff, e_shentsize and e_shnum of the header of an ELF image that begins at `base` (elf(5)).
fn table_in(header: &[u8; 64], base: u64) -> Option<Range<u64>> {
    let short = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let (offset, size, number) = match header[..5] {
        [0x7f, b'E', b'L', b'F', 1] => (short(32) | short(34) << 16, short(46), short(48)),
        [0x7f, b'E', b'L', b'F', 2] => {
            let offset = std::array::from_fn(|at| header[40 + at]);
            (u64::from_le_bytes(offset), short(58), short(60))
        }
        _ => return None,
    };
    let start = base.checked_add(offset)?;
    (offset != 0 && number != 0).then_some(start..start.checked_add(size * number)?)
}

/// Where a stub can be written over the section headers, if they are the last of what is in the last page of the image, which
/// begins at `start`.
fn room_in_table(table: &Range<u64>, start: u64, page: &[u8]) -> Option<usize> {
    let end = usize::try_from(table.end.checked_sub(start)?).ok()?;
    let behind = page.get(end..)?;
    let begin = usize::try_from(table.start.saturating_sub(start)).ok()?;
    let at = begin.next_multiple_of(STUB_ALIGN);
    (behind.iter().all(|&b| b == 0) && at + Stub::len() <= page.len()).then_some(at)
}

/// Where a run of zeros begins that goes on to the end of the page and takes the stub.
fn room_in(page: &[u8]) -> Option<usize> {
    let used = page
        .iter()
        .rposition(|&b| b != 0)
        .map_or(0, |last| last + 1);
    let at = (used + MARGIN).next_multiple_of(STUB_ALIGN);
    (at + Stub::len() <= page.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use criu_signals_images::Pid;

    use super::*;
    use crate::tracee::{ByUs, StoppedProcess};

    #[test]
    fn room_is_behind_what_is_used() {
        let mut page = vec![0; 4096];
        page[1000] = 1;
        let at = room_in(&page).unwrap();
        assert!(
            at > 1000 + MARGIN
                && at < 1000 + MARGIN + 2 * STUB_ALIGN
                && at.is_multiple_of(STUB_ALIGN)
        );
        page[4095 - Stub::len()] = 1;
        assert_eq!(room_in(&page), None);
    }

    /// As a statically linked 32-bit program under Linux 6.12: the vDSO ends in 459 zeros.
    #[test]
    fn without_enough_zeros_the_section_headers_of_the_vdso_make_room() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::new(child.id().cast_signed()).unwrap();
        // It has to be past its execve(2).
        std::thread::sleep(Duration::from_millis(50));
        let stopped = StoppedProcess::<ByUs>::seize(pid, Duration::from_secs(5)).unwrap();
        let memory = Memory::open_of(pid, stopped.threads()).unwrap();
        let mappings = memory.mappings().unwrap();
        for mapping in mappings.iter().filter(|m| m.code && !m.vdso) {
            memory.write(RemoteAddr(mapping.end - 1), &[0xff]).unwrap();
        }
        let vdso = mappings.iter().find(|m| m.vdso).unwrap();
        let (start, page) = last_page(&memory, vdso).unwrap().unwrap();
        let (end, size, number) = (page.len() - 459, 64_u16, 10_u16);
        let table = end - usize::from(size * number);
        let offset = start - vdso.start + table as u64;
        let put = |at: u64, bytes: &[u8]| memory.write(RemoteAddr(at), bytes).unwrap();
        put(vdso.start + 40, &offset.to_le_bytes());
        put(vdso.start + 58, &size.to_le_bytes());
        put(vdso.start + 60, &number.to_le_bytes());
        put(start + table as u64, &vec![0xff; end - table]);
        put(start + end as u64, &[0; 459]);
        let (_, before) = last_page(&memory, vdso).unwrap().unwrap();

        let mut cave = Cave::find(&memory, &[]).unwrap();
        let at = table.next_multiple_of(STUB_ALIGN);
        assert_eq!(cave.address(), start + at as u64);
        put(cave.address(), &vec![1; Stub::len()]);
        cave.dirty = true;
        cave.clear(&memory).unwrap();
        assert_eq!(last_page(&memory, vdso).unwrap().unwrap().1, before);

        // What follows the headers is in use.
        put(start + end as u64, &[1]);
        Cave::find(&memory, &[]).unwrap_err();
        stopped.release().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_a_dead_tracer_has_left_is_found_whole() {
        let mut page = vec![0; 4096];
        page[64..64 + Stub::code().len()].copy_from_slice(Stub::code());
        assert_eq!(stubs_in(&page).collect::<Vec<_>>(), [64]);
        let at = 4096 - Stub::code().len().next_multiple_of(STUB_ALIGN);
        page[at..at + Stub::code().len()].copy_from_slice(Stub::code());
        assert_eq!(
            stubs_in(&page).collect::<Vec<_>>(),
            [64],
            "its data is cut off"
        );
    }
}
