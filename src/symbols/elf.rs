//! Functions and build-ids of ELF files, which may be anybody's: what is read of a file is bounded.

use std::cell::Cell;

use object::read::{ReadCache, ReadCacheOps, ReadRef};
use object::{Object as _, ObjectSegment as _, ObjectSymbol, SymbolKind};

use criu_signals_images::Name;
use criu_signals_images::code_place::ElfPlace;

/// Bytes of one file: symbol tables of some millions of symbols.
const MOST_READ: u64 = 64 << 20;
/// What [`ReadCache`] reads at a time of a text whose end it looks for.
const STRING_STEP: u64 = 256;
/// A longer name is no name.
const LONGEST_NAME: usize = 1024;

/// What one file has to say about places in it.
#[derive(Debug)]
pub(super) struct Found {
    /// In the order of the offsets that were asked for; `None` for one that no segment holds.
    pub(super) places: Vec<Option<ElfPlace>>,
    /// NT_GNU_BUILD_ID.
    pub(super) build_id: Option<Vec<u8>>,
}

/// A file, of which no more than [`MOST_READ`] bytes are read.
struct Bounded<'f, R: ReadCacheOps> {
    cache: &'f ReadCache<R>,
    left: &'f Cell<u64>,
}

impl<R: ReadCacheOps> Clone for Bounded<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R: ReadCacheOps> Copy for Bounded<'_, R> {}

impl<R: ReadCacheOps> Bounded<'_, R> {
    fn spend(self, bytes: u64) -> Result<(), ()> {
        let left = self.left.get().checked_sub(bytes);
        // From here on nothing is read any more.
        self.left.set(left.unwrap_or(0));
        left.map(drop).ok_or(())
    }
}

impl<'f, R: ReadCacheOps> ReadRef<'f> for Bounded<'f, R> {
    fn len(self) -> Result<u64, ()> {
        self.cache.len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'f [u8], ()> {
        self.spend(size)?;
        self.cache.read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: std::ops::Range<u64>, end: u8) -> Result<&'f [u8], ()> {
        self.spend(STRING_STEP)?;
        self.cache.read_bytes_at_until(range, end)
    }
}

/// The name that suits a place best, so far.
struct Best {
    name: Name,
    distance: u64,
    rank: u8,
}

/// What the file has at these offsets in it.
///
/// # Errors
/// Why the file tells nothing: for people.
pub(super) fn look_up(file: impl ReadCacheOps, offsets: &[u64]) -> Result<Found, String> {
    let cache = ReadCache::new(file);
    let left = Cell::new(MOST_READ);
    let bounded = Bounded {
        cache: &cache,
        left: &left,
    };
    let failed = |e: object::Error| {
        if left.get() == 0 {
            format!("its tables are larger than {} MiB", MOST_READ >> 20)
        } else {
            format!("not understood as ELF: {e}")
        }
    };
    let file = object::File::parse(bounded).map_err(failed)?;
    let addresses: Vec<Option<u64>> = offsets.iter().map(|at| address(&file, *at)).collect();
    let names = names(&file, &addresses);
    let build_id = file.build_id().ok().flatten().map(<[u8]>::to_vec);
    let place = |(address, symbol): (Option<u64>, _)| {
        Some(ElfPlace {
            address: address?,
            symbol,
            build_id: build_id.clone(),
        })
    };
    Ok(Found {
        places: addresses.into_iter().zip(names).map(place).collect(),
        build_id,
    })
}

/// The address that the file gives to what is at this offset in it.
fn address<'f>(file: &object::File<'f, impl ReadRef<'f>>, offset: u64) -> Option<u64> {
    file.segments().find_map(|segment| {
        let (begin, size) = segment.file_range();
        let within = offset.checked_sub(begin).filter(|within| *within < size)?;
        segment.address().checked_add(within)
    })
}

/// The function that contains each address, and how far the address is from its beginning.
fn names<'f>(
    file: &object::File<'f, impl ReadRef<'f>>,
    addresses: &[Option<u64>],
) -> Vec<Option<(Name, u64)>> {
    let numbered = addresses.iter().zip(0_usize..);
    let mut wanted: Vec<(u64, usize)> = numbered
        .filter_map(|(address, at)| Some(((*address)?, at)))
        .collect();
    wanted.sort_unstable();
    let mut best: Vec<Option<Best>> = addresses.iter().map(|_| None).collect();
    for symbol in file.symbols().chain(file.dynamic_symbols()) {
        let Some(rank) = rank(&symbol) else {
            continue;
        };
        // A label has no size that could be trusted.
        let size = if rank == LABEL {
            1
        } else {
            symbol.size().max(1)
        };
        let begin = symbol.address();
        let first = wanted.partition_point(|(address, _)| *address < begin);
        for (address, at) in wanted.iter().skip(first) {
            let distance = address - begin;
            if distance >= size {
                break;
            }
            let Some(slot) = best.get_mut(*at) else {
                continue;
            };
            let better = |known: &Best| (distance, rank) < (known.distance, known.rank);
            if slot.as_ref().is_none_or(better)
                && let Some(name) = name(&symbol)
            {
                *slot = Some(Best {
                    name,
                    distance,
                    rank,
                });
            }
        }
    }
    let named = |best: Best| (best.name, best.distance);
    best.into_iter().map(|best| best.map(named)).collect()
}

fn name<'f>(symbol: &impl ObjectSymbol<'f>) -> Option<Name> {
    let name = symbol.name().ok()?;
    // "$x" and "$d" mark code and data on arm.
    let usable = !name.is_empty() && name.len() <= LONGEST_NAME && !name.starts_with('$');
    usable.then(|| name.into())
}

const LABEL: u8 = 2;

/// Which of two symbols at one place is the better name: the lower one. `None`: it names no code.
fn rank<'f>(symbol: &impl ObjectSymbol<'f>) -> Option<u8> {
    if symbol.is_undefined() || symbol.section_index().is_none() {
        return None;
    }
    match symbol.kind() {
        SymbolKind::Text if symbol.is_global() => Some(0),
        SymbolKind::Text => Some(1),
        SymbolKind::Label | SymbolKind::Unknown => Some(LABEL),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// This program, which has symbols.
    fn own() -> std::fs::File {
        std::fs::File::open("/proc/self/exe").expect("this program")
    }

    /// A small file to damage: the C library's loader.
    fn small() -> Vec<u8> {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        let path = maps
            .lines()
            .filter_map(|line| line.split_ascii_whitespace().nth(5))
            .find(|path| path.contains("ld-linux"))
            .expect("a program has a loader");
        std::fs::read(path).expect("the loader")
    }

    #[test]
    fn what_is_no_elf_file_is_told() {
        for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF", &[0; 4096]] {
            let why = look_up(Cursor::new(bytes), &[0]).expect_err("no ELF file");
            assert!(why.contains("not understood as ELF"), "{why}");
        }
        let found = look_up(own(), &[u64::MAX, 0]).expect("this program");
        assert!(found.places[0].is_none());
    }

    /// A section header that says that the symbol table is huge, in a file that has holes.
    #[test]
    fn what_is_read_is_bounded() {
        let mut bytes = small();
        let table =
            usize::try_from(u64::from_le_bytes(bytes[0x28..0x30].try_into().unwrap())).unwrap();
        let count = u16::from_le_bytes(bytes[0x3c..0x3e].try_into().unwrap());
        const SHT_DYNSYM: u32 = 11;
        for n in 0..usize::from(count) {
            let header = table + n * 64;
            let kind = u32::from_le_bytes(bytes[header + 4..header + 8].try_into().unwrap());
            if kind == SHT_DYNSYM {
                bytes[header + 0x20..header + 0x28].copy_from_slice(&(24_u64 << 30).to_le_bytes());
            }
        }
        let file = nix::sys::memfd::memfd_create(c"holes", nix::sys::memfd::MFdFlags::empty());
        let file = std::fs::File::from(file.expect("memfd"));
        std::io::Write::write_all(&mut &file, &bytes).expect("written");
        file.set_len(1 << 40).expect("a hole");
        let why = look_up(file, &[0x1000]).expect_err("too large");
        assert!(why.contains("larger than 64 MiB"), "{why}");
    }

    /// Whatever is in a file: it is read to its end or refused.
    #[test]
    fn damaged_files() {
        let whole = small();
        let tail = whole.len().saturating_sub(2048);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % (below as u64)).unwrap()
        };
        let (mut read, mut refused) = (0, 0);
        for round in 0..2000 {
            let mut bytes = whole.clone();
            for _ in 0..random(12) {
                // The headers are at the beginning and at the end.
                let at = random(4096);
                let at = if at < 2048 { at } else { tail + at - 2048 };
                bytes[at] = u8::try_from(random(256)).unwrap();
            }
            if round % 4 == 0 {
                bytes.truncate(random(4096));
            }
            match look_up(Cursor::new(bytes), &[0, 0x1000, 0x2345, u64::MAX]) {
                Ok(_) => read += 1,
                Err(_) => refused += 1,
            }
        }
        assert!(read > 0 && refused > 0, "{read} {refused}");
    }
}
