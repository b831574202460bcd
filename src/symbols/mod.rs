//! Names of addresses in programs: the function, or the file and the place in it.
//!
//! Files are those that the process has mapped (`/proc/PID/map_files`, `/proc/PID/exe`, `/proc/PID/root`), so that files of another
//! mount namespace and files without a name are the right ones. Nothing of the process is stopped or changed.

mod elf;
mod known;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Cursor;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use criu_signals_images::code_place::{Content, ElfPlace, Module};
use criu_signals_images::criu_images::Folder;
use criu_signals_images::criu_mm::{self, CriuBacking};
use criu_signals_images::{CodePlace, ImageError, Name, Pid, Shown as _};
use procfs::process::{MMapPath, MemoryMap};

use crate::error::Result;
use crate::in_time;
use crate::proc;

pub use known::Known;

/// Device, inode and path of a mapped file.
type MappedFile = (i32, i32, u64, PathBuf);

/// The vDSO has some pages.
const LARGEST_VDSO: u64 = 1 << 16;
const VDSO: &str = "[vdso]";

/// What is at these addresses in the memory of a process.
///
/// # Errors
/// If `maps` of the process cannot be read, or not in time. A file that cannot be read is no error:
/// [`Module::elf`](criu_signals_images::code_place::Module::elf) says why.
pub fn of_process(pid: Pid, addresses: &[u64]) -> Result<Vec<CodePlace>> {
    if addresses.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = addresses.to_vec();
    let maps = in_time::look("maps", move || proc::maps_holding(pid, &wanted))??;
    let mapping = |address| {
        let holds = |map: &&MemoryMap| (map.address.0..map.address.1).contains(&address);
        maps.iter().find(holds)
    };
    // Each file is read once, for all addresses in it.
    let mut files: BTreeMap<MappedFile, (MemoryMap, Vec<u64>)> = BTreeMap::new();
    for &address in addresses {
        if let Some(map) = mapping(address)
            && let Some(path) = path(map)
        {
            let key = (map.dev.0, map.dev.1, map.inode, path);
            let entry = files
                .entry(key)
                .or_insert_with(|| (map.clone(), Vec::new()));
            entry.1.push(address);
        }
    }
    let mut modules: BTreeMap<u64, Module> = BTreeMap::new();
    let mut late = None;
    for ((.., path), (map, within)) in files {
        modules.extend(modules_of(pid, &maps, &path, &map, within, &mut late));
    }
    let place = |&address: &u64| CodePlace {
        address,
        content: match (modules.remove(&address), mapping(address)) {
            (Some(module), _) => Content::File(module),
            (None, Some(map)) => Content::Memory(memory_name(map)),
            (None, None) => Content::Nothing,
        },
    };
    Ok(addresses.iter().map(place).collect())
}

/// The places of one file. `late` is why no more files are read: one whose server does not answer is enough.
fn modules_of(
    pid: Pid,
    maps: &[MemoryMap],
    path: &Path,
    map: &MemoryMap,
    addresses: Vec<u64>,
    late: &mut Option<String>,
) -> Vec<(u64, Module)> {
    let offset = |address: u64| {
        let holds = |map: &&MemoryMap| (map.address.0..map.address.1).contains(&address);
        let map = maps.iter().find(holds)?;
        (address - map.address.0).checked_add(map.offset)
    };
    let offsets: Vec<u64> = addresses
        .iter()
        .map(|address| offset(*address).unwrap_or(0))
        .collect();
    let found = match late {
        Some(why) => Err(why.clone()),
        None => {
            let (map, asked, file) = (map.clone(), offsets.clone(), path.to_owned());
            let look = move || read_mapped(pid, &map, &file, &asked);
            in_time::look("a mapped file", look).unwrap_or_else(|e| {
                let why = e.cause().to_string();
                *late = Some(why.clone());
                Err(why)
            })
        }
    };
    let text = path.to_string_lossy();
    let (name, deleted) = match text.strip_suffix(" (deleted)") {
        Some(name) => (name, true),
        None => (&*text, false),
    };
    let module = |n: usize, address: u64| {
        let elf = match &found {
            Ok(found) => found
                .places
                .get(n)
                .cloned()
                .flatten()
                .ok_or_else(|| "no segment of the file holds this place".to_owned()),
            Err(why) => Err(why.clone()),
        };
        let module = Module {
            path: name.into(),
            deleted,
            file_offset: offsets.get(n).copied().unwrap_or(0),
            elf,
        };
        (address, module)
    };
    let numbered = addresses.into_iter().enumerate();
    numbered.map(|(n, address)| module(n, address)).collect()
}

/// Of a file, and of the vDSO, which is an ELF file as well.
fn path(map: &MemoryMap) -> Option<PathBuf> {
    match &map.pathname {
        MMapPath::Path(path) => Some(path.clone()),
        MMapPath::Vdso if map.inode == 0 => Some(VDSO.into()),
        _ => None,
    }
}

fn memory_name(map: &MemoryMap) -> Option<Name> {
    Some(match &map.pathname {
        MMapPath::Heap => "[heap]".into(),
        MMapPath::Stack => "[stack]".into(),
        MMapPath::Vsyscall => "[vsyscall]".into(),
        MMapPath::Other(name) => Name::from(format!("[{name}]")),
        _ => return None,
    })
}

fn read_mapped(
    pid: Pid,
    map: &MemoryMap,
    path: &Path,
    offsets: &[u64],
) -> std::result::Result<elf::Found, String> {
    if map.inode == 0 && map.pathname == MMapPath::Vdso {
        let (start, end) = map.address;
        let size = usize::try_from((end - start).min(LARGEST_VDSO)).map_err(|e| e.to_string())?;
        let mut bytes = vec![0; size];
        File::open(format!("/proc/{pid}/mem"))
            .and_then(|memory| memory.read_exact_at(&mut bytes, start))
            .map_err(|e| format!("read mem: {e}"))?;
        return elf::look_up(Cursor::new(bytes), offsets);
    }
    let inside = path.strip_prefix("/").unwrap_or(path);
    let candidates = [
        format!(
            "/proc/{pid}/map_files/{:x}-{:x}",
            map.address.0, map.address.1
        )
        .into(),
        PathBuf::from(format!("/proc/{pid}/exe")),
        Path::new(&format!("/proc/{pid}/root")).join(inside),
    ];
    let mut why = String::new();
    for candidate in candidates {
        match open(&candidate, Some(map.inode)) {
            Ok(file) => return elf::look_up(file, offsets),
            Err(e) => why = e,
        }
    }
    Err(why)
}

/// Opens a regular file, and nothing that opening could do something to. `inode`: the file must have this number.
fn open(path: &Path, inode: Option<u64>) -> std::result::Result<File, String> {
    let failed = |e: std::io::Error| format!("open {}: {e}", path.shown());
    let seen = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(path)
        .map_err(failed)?;
    let metadata = seen.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("{} is no regular file", path.shown()));
    }
    if inode.is_some_and(|inode| inode != metadata.ino()) {
        return Err(format!("{} is another file now", path.shown()));
    }
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", seen.as_raw_fd()))
        .map_err(failed)
}

/// What was at these addresses of a process that CRIU has dumped. `None` where the images do not tell. Symbols are looked up in
/// the file of the same name here, if CRIU has recorded its build-id and the file has the same.
///
/// # Errors
/// If an image cannot be read or is damaged.
pub fn in_images(
    folder: &(impl Folder + ?Sized),
    pid: i32,
    addresses: &[u64],
) -> std::result::Result<Option<Vec<CodePlace>>, ImageError> {
    if addresses.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let Some(mappings) = criu_mm::mappings(folder, pid, addresses)? else {
        return Ok(None);
    };
    let place = |&address: &u64| {
        let mapping = mappings
            .iter()
            .find(|mapping| (mapping.start..mapping.end).contains(&address));
        let content = match mapping.map(|mapping| (mapping.start, &mapping.backing)) {
            None => Content::Nothing,
            Some((_, CriuBacking::Memory(name))) => Content::Memory(name.map(Name::from)),
            Some((_, CriuBacking::Vdso)) => Content::Memory(Some(VDSO.into())),
            Some((
                start,
                CriuBacking::File {
                    path,
                    offset,
                    build_id,
                },
            )) => {
                let file_offset = (address - start).saturating_add(*offset);
                Content::File(Module {
                    path: path.clone(),
                    deleted: false,
                    file_offset,
                    elf: local(path.as_str(), file_offset, build_id),
                })
            }
        };
        CodePlace { address, content }
    };
    Ok(Some(addresses.iter().map(place).collect()))
}

/// A place in the file of this name, if the file is the one that was dumped.
fn local(path: &str, offset: u64, build_id: &[u8]) -> std::result::Result<ElfPlace, String> {
    if build_id.is_empty() {
        return Err("CRIU's image has no build-id of it".to_owned());
    }
    let name = PathBuf::from(path);
    let look = move || open(&name, None).and_then(|file| elf::look_up(file, &[offset]));
    let found = in_time::look("a file that was mapped", look)
        .unwrap_or_else(|e| Err(e.cause().to_string()))?;
    // CRIU writes words: the last may be filled up with zeros.
    let same = |id: &Vec<u8>| {
        build_id.starts_with(id) && build_id.iter().skip(id.len()).all(|byte| *byte == 0)
    };
    if !found.build_id.as_ref().is_some_and(same) {
        return Err(format!(
            "{} is another file here, by its build-id",
            path.shown()
        ));
    }
    let place = found.places.into_iter().next().flatten();
    place.ok_or_else(|| "no segment of the file holds this place".to_owned())
}
