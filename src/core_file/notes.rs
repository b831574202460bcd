//! The notes of a core (elfcore.h): one process, its threads, and the signal that the core was written for.

use std::collections::HashSet;

use criu_signals_images::siginfo::SIGINFO_SIZE;
use criu_signals_images::{
    Arch, Aspect, EndedBy, Header, Image, NsIds, Pending, ProcessState, Recorded, SigNo, SigSet,
    Siginfo, ThreadState,
};
use object::elf::{
    ELFCLASS64, ELFDATA2LSB, EM_AARCH64, EM_X86_64, ET_CORE, FileHeader64, NT_PRPSINFO,
    NT_PRSTATUS, NT_SIGINFO, PT_NOTE, ProgramHeader64,
};
use object::read::elf::{FileHeader as _, NoteIterator, ProgramHeader as _};
use object::{LittleEndian, ReadRef as _};

use super::bytes::Bytes;
use super::error::Error;

/// Bytes of all notes together: those of 16,000 threads are 200 MB.
const MOST_NOTES: u64 = 256 << 20;

/// `sizeof(Elf64_Ehdr)` and `sizeof(Elf64_Phdr)` (elf.h).
const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;

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

type Elf = FileHeader64<LittleEndian>;

/// Reads the headers and the notes.
pub(super) fn read(core: &mut impl Bytes) -> Result<Recorded, Error> {
    let head = core.at(0, HEADER, "ELF header")?;
    let (arch, at, count) = header(&head)?;
    let size = u64::from(count) * PROGRAM_HEADER;
    let table = core.at(at, size, "program headers")?;
    let segments = table
        .as_slice()
        .read_slice_at::<ProgramHeader64<LittleEndian>>(0, usize::from(count))
        .map_err(|()| Error::Damaged("its program headers are not understood".to_owned()))?;
    let mut found = Notes::default();
    let mut left = MOST_NOTES;
    for segment in segments {
        if segment.p_type(LittleEndian) != PT_NOTE {
            continue;
        }
        let size = segment.p_filesz(LittleEndian);
        left = left.checked_sub(size).ok_or(Error::TooMuch {
            what: "bytes of notes",
            limit: MOST_NOTES,
        })?;
        let bytes = core.at(segment.p_offset(LittleEndian), size, "notes")?;
        let align = segment.p_align(LittleEndian);
        found.read(arch, align, &bytes)?;
    }
    found.process(arch)
}

/// The architecture, and where the program headers are and how many.
fn header(head: &[u8]) -> Result<(Arch, u64, u16), Error> {
    // e_ident before the rest: the layout of the header goes by it.
    let unsupported = |what: &str| Err(Error::Unsupported(what.to_owned()));
    match head {
        [_, _, _, _, class, data, ..] if *class == ELFCLASS64.0 && *data == ELFDATA2LSB.0 => {}
        _ => {
            return unsupported(
                "the ELF file is not of a 64-bit little-endian program: cores of such programs are not read",
            );
        }
    }
    let damaged = |e: object::Error| Error::Damaged(format!("its ELF header: {e}"));
    let elf = Elf::parse(head).map_err(damaged)?;
    if elf.e_type(LittleEndian) != ET_CORE {
        return unsupported(
            "the file is a program or a library, not a core file: name the core file, or the pid of a process",
        );
    }
    let arch = match elf.e_machine(LittleEndian) {
        EM_X86_64 => Arch::X86_64,
        EM_AARCH64 => Arch::Aarch64,
        other => {
            return unsupported(&format!(
                "the core file is of the architecture {other} (e_machine); cores of x86_64 and aarch64 are read"
            ));
        }
    };
    if u64::from(elf.e_phentsize(LittleEndian)) != PROGRAM_HEADER {
        let what = "the size of its program headers is not that of ELF";
        return Err(Error::Damaged(what.to_owned()));
    }
    // With more (PN_XNUM) this is the largest number, and the kernel writes the notes first (elf_core_dump).
    Ok((arch, elf.e_phoff(LittleEndian), elf.e_phnum(LittleEndian)))
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
    fn read(&mut self, arch: Arch, align: u64, bytes: &[u8]) -> Result<(), Error> {
        let damaged = |e: object::Error| Error::Damaged(format!("its notes: {e}"));
        // The kernel says 4 or 0, and means 4.
        let align = if align == 8 { 8 } else { 4 };
        let mut notes = NoteIterator::<Elf>::new(LittleEndian, align, bytes).map_err(damaged)?;
        while let Some(note) = notes.next().map_err(damaged)? {
            if note.name() != b"CORE" {
                continue;
            }
            match note.n_type(LittleEndian) {
                NT_PRSTATUS => self.thread(arch, note.desc())?,
                NT_PRPSINFO => self.program(note.desc())?,
                NT_SIGINFO => self.siginfo(note.desc())?,
                _ => {}
            }
        }
        Ok(())
    }

    /// `struct elf_prstatus` (linux/elfcore.h), 64-bit.
    fn thread(&mut self, arch: Arch, desc: &[u8]) -> Result<(), Error> {
        sized("NT_PRSTATUS", desc, prstatus_size(arch))?;
        let tid = i32::from_le_bytes(field(desc, 32));
        let ids = NsIds::new(vec![tid]).filter(|_| tid > 0);
        let ids = ids.ok_or_else(|| Error::Damaged(format!("a thread has the id {tid}")))?;
        if !self.known.insert(tid) {
            return Err(Error::Damaged(format!("two threads have the id {tid}")));
        }
        // The kernel writes the same signal for each (fill_thread_core_info), gdb for the first alone.
        let signal = SigNo::new(i16::from_le_bytes(field(desc, 12)).into());
        self.signal = self.signal.or(signal);
        self.threads.push(ThreadState {
            blocked: SigSet::from_bits(u64::from_le_bytes(field(desc, 24))),
            pending: Pending {
                bits: SigSet::from_bits(u64::from_le_bytes(field(desc, 16))),
                queue: Vec::new(),
            },
            ..ThreadState::bare(ids)
        });
        Ok(())
    }

    /// `struct elf_prpsinfo` (linux/elfcore.h), 64-bit: `pr_pid` and `pr_fname`.
    fn program(&mut self, desc: &[u8]) -> Result<(), Error> {
        sized("NT_PRPSINFO", desc, 136)?;
        let pid = i32::from_le_bytes(field(desc, 24));
        let name: [u8; 16] = field(desc, 40);
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(16);
        let process = (pid, name[..length].to_vec());
        if self.process.replace(process).is_some() {
            let what = "it has two NT_PRPSINFO, so that it is of two processes";
            return Err(Error::Damaged(what.to_owned()));
        }
        Ok(())
    }

    fn siginfo(&mut self, desc: &[u8]) -> Result<(), Error> {
        sized("NT_SIGINFO", desc, SIGINFO_SIZE)?;
        let info = Siginfo::from_bytes(field(desc, 0));
        // Of a core that no signal has caused, all is 0. gdb writes one for each thread; the first is that of the core.
        if info.signo() != 0 && self.siginfo.is_none() {
            self.siginfo = Some(info);
        }
        Ok(())
    }

    fn process(mut self, arch: Arch) -> Result<Recorded, Error> {
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
        let signo = self.siginfo.and_then(|info| SigNo::new(info.signo()));
        let ended_by = self.signal.or(signo).map(|signo| EndedBy {
            signo,
            siginfo: self.siginfo.filter(|info| info.signo() == signo.get()),
        });
        let header = Header {
            format_version: process.format_version(),
            arch,
            kernel_release: String::new(),
            tool_version: String::new(),
            criu_version: None,
        };
        let mut missing = NEVER.to_vec();
        missing.sort_unstable();
        Ok(Recorded {
            image: Image { header, process },
            missing,
            ended_by,
        })
    }
}

/// `sizeof(struct elf_prstatus)`: the same up to the registers, and these go by the architecture.
const fn prstatus_size(arch: Arch) -> usize {
    match arch {
        Arch::X86_64 => 336,
        _ => 392,
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
