//! The notes of a core (elfcore.h): one process, its threads, and the signal that the core was written for.

use std::collections::HashSet;

use criu_signals_images::siginfo::SIGINFO_SIZE;
use criu_signals_images::{
    Arch, Aspect, EndedBy, Header, Image, NsIds, Pending, ProcessState, Recorded, SigNo, SigSet,
    Siginfo, ThreadState,
};
use object::elf::{
    ELFCLASS32, ELFCLASS64, ELFDATA2LSB, EM_386, EM_AARCH64, EM_X86_64, ET_CORE, FileHeader32,
    FileHeader64, NT_PRPSINFO, NT_PRSTATUS, NT_SIGINFO, PT_NOTE,
};
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader as _};
use object::{LittleEndian, ReadRef as _};

use super::bytes::Bytes;
use super::error::Error;

/// Bytes of all notes together: those of 16,000 threads are 200 MB.
const MOST_NOTES: u64 = 256 << 20;

/// EI_NIDENT (elf.h): tells the layout of all that follows.
const IDENT: u64 = 16;

/// What a core never tells.
const NEVER: [Aspect; 19] = [
    Aspect::Namespaces,
    Aspect::Charged,
    Aspect::Limit,
    Aspect::Dispositions,
    Aspect::AltStacks,
    Aspect::InterruptedCalls,
    Aspect::TimerEntries,
    Aspect::IntervalTimers,
    Aspect::FileOwners,
    Aspect::WaitStatus,
    Aspect::ExitSignal,
    Aspect::StackNeeds,
    Aspect::LastingMask,
    Aspect::SharedQueue,
    Aspect::Entries,
    Aspect::Timers,
    Aspect::RunState,
    Aspect::ParentDeathSignals,
    Aspect::Handlers,
];

/// Where the notes of a program have what is read. Notes of 32-bit programs have words of 4 bytes (fs/compat_binfmt_elf.c).
#[derive(Clone, Copy)]
struct Layout {
    arch: Arch,
    compat: bool,
    /// Of a mask, of which a word of 4 bytes has the signals 1 to 32 alone.
    word: usize,
    /// `sizeof(struct elf_prstatus)` (linux/elfcore.h): the same up to the registers, and these go by the architecture.
    status: usize,
    tid: usize,
    /// `sizeof(struct elf_prpsinfo)`.
    program: usize,
    pid: usize,
    name: usize,
}

impl Layout {
    const X86_64: Layout = Layout {
        arch: Arch::X86_64,
        compat: false,
        word: 8,
        status: 336,
        tid: 32,
        program: 136,
        pid: 24,
        name: 40,
    };
    const AARCH64: Layout = Layout {
        arch: Arch::Aarch64,
        status: 392,
        ..Layout::X86_64
    };
    const I386: Layout = Layout {
        arch: Arch::X86_64,
        compat: true,
        word: 4,
        status: 144,
        tid: 24,
        program: 124,
        pid: 12,
        name: 28,
    };

    /// `pr_sigpend` and `pr_sighold`.
    fn masks(&self, status: &[u8]) -> [SigSet; 2] {
        [16, 16 + self.word].map(|at| {
            let bits = match self.word {
                4 => u32::from_le_bytes(field(status, at)).into(),
                _ => u64::from_le_bytes(field(status, at)),
            };
            SigSet::from_bits(bits)
        })
    }
}

/// Reads the headers and the notes.
pub(super) fn read(core: &mut impl Bytes) -> Result<Recorded, Error> {
    let ident = core.at(0, IDENT, "ELF header")?;
    let class = ident.get(4).zip(ident.get(5));
    match class.filter(|(_, data)| **data == ELFDATA2LSB.0) {
        Some((&class, _)) if class == ELFCLASS64.0 => read_as::<FileHeader64<LittleEndian>>(core),
        Some((&class, _)) if class == ELFCLASS32.0 => read_as::<FileHeader32<LittleEndian>>(core),
        _ => Err(unsupported(
            "the ELF file is not of a little-endian program of 32 or 64 bits: cores of such programs are not read",
        )),
    }
}

fn unsupported(what: &str) -> Error {
    Error::Unsupported(what.to_owned())
}

fn read_as<Elf: FileHeader<Endian = LittleEndian>>(
    core: &mut impl Bytes,
) -> Result<Recorded, Error> {
    let head = core.at(0, size_of::<Elf>() as u64, "ELF header")?;
    let (layout, at, count) = header::<Elf>(&head)?;
    let size = u64::from(count) * size_of::<Elf::ProgramHeader>() as u64;
    let table = core.at(at, size, "program headers")?;
    let segments = table
        .as_slice()
        .read_slice_at::<Elf::ProgramHeader>(0, usize::from(count))
        .map_err(|()| Error::Damaged("its program headers are not understood".to_owned()))?;
    let mut found = Notes::default();
    let mut left = MOST_NOTES;
    for segment in segments {
        if segment.p_type(LittleEndian) != PT_NOTE {
            continue;
        }
        let size = segment.p_filesz(LittleEndian).into();
        left = left.checked_sub(size).ok_or(Error::TooMuch {
            what: "bytes of notes",
            limit: MOST_NOTES,
        })?;
        let bytes = core.at(segment.p_offset(LittleEndian).into(), size, "notes")?;
        let align = segment.p_align(LittleEndian);
        found.read::<Elf>(layout, align, &bytes)?;
    }
    found.process(layout)
}

/// The layout of the notes, and where the program headers are and how many.
fn header<Elf: FileHeader<Endian = LittleEndian>>(
    head: &[u8],
) -> Result<(Layout, u64, u16), Error> {
    let damaged = |e: object::Error| Error::Damaged(format!("its ELF header: {e}"));
    let elf = Elf::parse(head).map_err(damaged)?;
    if elf.e_type(LittleEndian) != ET_CORE {
        return Err(unsupported(
            "the file is a program or a library, not a core file: name the core file, or the pid of a process",
        ));
    }
    let layout = match (elf.e_machine(LittleEndian), elf.is_type_64()) {
        (EM_X86_64, true) => Layout::X86_64,
        (EM_AARCH64, true) => Layout::AARCH64,
        (EM_386, false) => Layout::I386,
        (EM_X86_64, false) => {
            return Err(unsupported(
                "the core file is of an x32 program: cores of x86_64, i386 and aarch64 are read",
            ));
        }
        (other, is_64) => {
            return Err(unsupported(&format!(
                "the core file is of the architecture {other} (e_machine) with {} bits; cores of x86_64, i386 and \
                 aarch64 are read",
                if is_64 { 64 } else { 32 }
            )));
        }
    };
    if usize::from(elf.e_phentsize(LittleEndian)) != size_of::<Elf::ProgramHeader>() {
        let what = "the size of its program headers is not that of ELF";
        return Err(Error::Damaged(what.to_owned()));
    }
    // With more (PN_XNUM) this is the largest number, and the kernel writes the notes first (elf_core_dump).
    let at = elf.e_phoff(LittleEndian).into();
    Ok((layout, at, elf.e_phnum(LittleEndian)))
}

/// What the notes say.
#[derive(Default)]
struct Notes {
    threads: Vec<ThreadState>,
    known: HashSet<i32>,
    /// The pid and the name.
    process: Option<(i32, Vec<u8>)>,
    signal: Option<SigNo>,
    siginfo: Option<Siginfo>,
}

impl Notes {
    fn read<Elf: FileHeader<Endian = LittleEndian>>(
        &mut self,
        layout: Layout,
        align: Elf::Word,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let damaged = |e: object::Error| Error::Damaged(format!("its notes: {e}"));
        // The kernel says 4 or 0, and means 4, as 0 does here.
        let align = if align.into() == 8 {
            align
        } else {
            Elf::Word::default()
        };
        let mut notes = NoteIterator::<Elf>::new(LittleEndian, align, bytes).map_err(damaged)?;
        while let Some(note) = notes.next().map_err(damaged)? {
            if note.name() != b"CORE" {
                continue;
            }
            match note.n_type(LittleEndian) {
                NT_PRSTATUS => self.thread(layout, note.desc())?,
                NT_PRPSINFO => self.program(layout, note.desc())?,
                NT_SIGINFO => self.siginfo(layout, note.desc())?,
                _ => {}
            }
        }
        Ok(())
    }

    /// `struct elf_prstatus` (linux/elfcore.h).
    fn thread(&mut self, layout: Layout, desc: &[u8]) -> Result<(), Error> {
        sized("NT_PRSTATUS", desc, layout.status)?;
        let tid = i32::from_le_bytes(field(desc, layout.tid));
        let ids = NsIds::new(vec![tid]).filter(|_| tid > 0);
        let ids = ids.ok_or_else(|| Error::Damaged(format!("a thread has the id {tid}")))?;
        if !self.known.insert(tid) {
            return Err(Error::Damaged(format!("two threads have the id {tid}")));
        }
        // The kernel writes the same signal for each (fill_thread_core_info), gdb for the first alone.
        let signal = SigNo::new(i16::from_le_bytes(field(desc, 12)).into());
        self.signal = self.signal.or(signal);
        let [pending, blocked] = layout.masks(desc);
        self.threads.push(ThreadState {
            blocked,
            pending: Pending {
                bits: pending,
                queue: Vec::new(),
            },
            ..ThreadState::bare(ids)
        });
        Ok(())
    }

    /// `struct elf_prpsinfo` (linux/elfcore.h): `pr_pid` and `pr_fname`.
    fn program(&mut self, layout: Layout, desc: &[u8]) -> Result<(), Error> {
        sized("NT_PRPSINFO", desc, layout.program)?;
        let pid = i32::from_le_bytes(field(desc, layout.pid));
        let name: [u8; 16] = field(desc, layout.name);
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(16);
        let process = (pid, name[..length].to_vec());
        if self.process.replace(process).is_some() {
            let what = "it has two NT_PRPSINFO, so that it is of two processes";
            return Err(Error::Damaged(what.to_owned()));
        }
        Ok(())
    }

    fn siginfo(&mut self, layout: Layout, desc: &[u8]) -> Result<(), Error> {
        sized("NT_SIGINFO", desc, SIGINFO_SIZE)?;
        let bytes = field(desc, 0);
        let info = if layout.compat {
            Siginfo::from_compat(&bytes)
        } else {
            Siginfo::from_bytes(bytes)
        };
        // Of a core that no signal has caused, all is 0. gdb writes one for each thread; the first is that of the core.
        if info.signo() != 0 && self.siginfo.is_none() {
            self.siginfo = Some(info);
        }
        Ok(())
    }

    fn process(mut self, layout: Layout) -> Result<Recorded, Error> {
        let missing = |what: &str| Error::Damaged(format!("it has no {what}"));
        let (pid, name) = self.process.ok_or_else(|| missing("NT_PRPSINFO"))?;
        if self.threads.is_empty() {
            return Err(missing("NT_PRSTATUS"));
        }
        // First the thread that the core was written for; images have the leader first.
        let leader = |thread: &ThreadState| thread.ids.innermost() == pid;
        if let Some(at) = self.threads.iter().position(leader) {
            self.threads[..=at].rotate_right(1);
        }
        let ids = NsIds::new(vec![pid])
            .filter(|_| pid > 0)
            .ok_or_else(|| Error::Damaged(format!("the process has the id {pid}")))?;
        let mut process = ProcessState::bare(ids);
        process.comm = String::from_utf8_lossy(&name).into_owned().into();
        process.threads = self.threads;
        process.compat = layout.compat;
        let signo = self.siginfo.and_then(|info| SigNo::new(info.signo()));
        let ended_by = self.signal.or(signo).map(|signo| EndedBy {
            signo,
            siginfo: self.siginfo.filter(|info| info.signo() == signo.get()),
        });
        let header = Header {
            format_version: process.format_version(),
            arch: layout.arch,
            kernel_release: String::new(),
            tool_version: String::new(),
            criu_version: None,
        };
        let mut missing = NEVER.to_vec();
        if layout.word == 4 {
            missing.push(Aspect::HighSignals);
        }
        missing.sort_unstable();
        Ok(Recorded {
            image: Image { header, process },
            missing,
            ended_by,
        })
    }
}

fn sized(note: &str, desc: &[u8], size: usize) -> Result<(), Error> {
    if desc.len() == size {
        return Ok(());
    }
    let has = desc.len();
    Err(Error::Damaged(format!(
        "{note} has {has} bytes, and {size} are right"
    )))
}

/// Of a note whose size was checked.
fn field<const N: usize>(desc: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    if let Some(found) = desc.get(at..at + N) {
        bytes.copy_from_slice(found);
    }
    bytes
}
