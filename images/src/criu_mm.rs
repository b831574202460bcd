//! Reads which files a process had mapped from CRIU's `mm-PID.img` and `files.img`.

use std::collections::HashMap;
use std::io;

use protobuf::Message;

use crate::codec::proto::criu_core as pb;
use crate::criu_files::{FILES, FILES_MAGIC};
use crate::criu_images::Folder;
use crate::error::{FieldError, ImageError};
use crate::framing::FrameReader;
use crate::printable::Name;

/// CRIU's `MM_MAGIC`.
const MM_MAGIC: u32 = 0x5749_2820;
/// Some 100 bytes for each mapping, of which a process may have vm.max_map_count.
const MM_LIMIT: u64 = 1 << 28;
/// CRIU sets no limit; an `int` holds the size.
const FILES_LIMIT: u64 = (1 << 31) - 1;
/// criu/include/image.h.
const VMA_AREA_STACK: u32 = 1 << 1;
const VMA_AREA_VDSO: u32 = 1 << 3;
const VMA_FILE: u32 = 1 << 6 | 1 << 7;

/// A mapping of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CriuMapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// What is mapped.
    pub backing: CriuBacking,
}

/// What a mapping is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CriuBacking {
    /// Memory, and how it is called.
    Memory(Option<&'static str>),
    /// The kernel's own code.
    Vdso,
    /// A file.
    File {
        /// By the mount namespace of the process; empty where `files.img` does not tell.
        path: Name,
        /// In bytes.
        offset: u64,
        /// Empty where CRIU has recorded none.
        build_id: Vec<u8>,
    },
}

/// Those mappings of the process with this id in its own pid namespace that hold one of the addresses. `None` where the folder
/// has no `mm-PID.img` of it.
///
/// # Errors
/// If an image cannot be read or is damaged.
pub fn mappings(
    folder: &(impl Folder + ?Sized),
    pid: i32,
    addresses: &[u64],
) -> Result<Option<Vec<CriuMapping>>, ImageError> {
    let bytes = match folder.image(&format!("mm-{pid}.img")) {
        Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        bytes => bytes?,
    };
    let mut frames = FrameReader::new(&*bytes, "mm.img", MM_MAGIC, MM_LIMIT)?;
    let Some(frame) = frames.next()? else {
        return Ok(Some(Vec::new()));
    };
    let mm = pb::Mm_entry::parse_from_bytes(&frame.bytes)
        .map_err(|error| FieldError::new("mm_entry", error.to_string()).in_entry(frame.index))?;
    let holds = |vma: &&pb::Vma_entry| {
        let within = vma.start()..vma.end();
        addresses.iter().any(|address| within.contains(address))
    };
    let vmas: Vec<&pb::Vma_entry> = mm.vmas.iter().filter(holds).collect();
    let files = if vmas.iter().any(|vma| is_of_file(vma)) {
        files(folder)?
    } else {
        HashMap::new()
    };
    Ok(Some(
        vmas.into_iter().map(|vma| mapping(vma, &files)).collect(),
    ))
}

fn is_of_file(vma: &pb::Vma_entry) -> bool {
    vma.status() & VMA_FILE != 0
}

fn mapping(vma: &pb::Vma_entry, files: &HashMap<u32, pb::Reg_file_entry>) -> CriuMapping {
    let file = u32::try_from(vma.shmid())
        .ok()
        .and_then(|id| files.get(&id));
    let backing = if vma.status() & VMA_AREA_VDSO != 0 {
        CriuBacking::Vdso
    } else if is_of_file(vma) {
        let words = file.map_or(&[][..], |file| &file.build_id);
        CriuBacking::File {
            path: file.map_or("", |file| file.name()).into(),
            offset: vma.pgoff(),
            build_id: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        }
    } else {
        let is_stack = vma.status() & VMA_AREA_STACK != 0;
        CriuBacking::Memory(is_stack.then_some("[stack]"))
    };
    CriuMapping {
        start: vma.start(),
        end: vma.end(),
        backing,
    }
}

fn files(folder: &(impl Folder + ?Sized)) -> Result<HashMap<u32, pb::Reg_file_entry>, ImageError> {
    let bytes = folder.image(FILES)?;
    let mut frames = FrameReader::new(&*bytes, FILES, FILES_MAGIC, FILES_LIMIT)?;
    let mut files = HashMap::new();
    while let Some(frame) = frames.next()? {
        let mut entry = pb::Named_file_entry::parse_from_bytes(&frame.bytes).map_err(|error| {
            FieldError::new("file_entry", error.to_string()).in_entry(frame.index)
        })?;
        if let Some(file) = entry.reg.take() {
            files.insert(entry.id(), file);
        }
    }
    Ok(files)
}
