//! Reads the whole signal state of one process while the process keeps running.
//!
//! Each pass of the program copies the process as it is within some microseconds, but without a lock: it may change between two
//! members. So a state is only one if two passes, one after the other, have read the same: it was the state of the process then
//! from the end of the first to the beginning of the second. Entries of queues are compared by their addresses too. Registers,
//! and the call that they tell of, are those of the second pass, of a thread that did not run while its record was written.

mod format;
pub(super) mod members;
mod records;
pub(super) mod state;
mod walk;

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use criu_signals_images::Pid;

use super::kernel::{self, Map, Refused};
use super::layout::Layout;
use crate::error::{Cause, Error, Phase, Result};
use crate::proc;
use crate::reading::{Read, Reading};
use format::{READ, Request, Status};
use members::Members;
use records::Pass;

/// Room for records to begin with, and how often more may be taken: 64 MiB are enough for half a million entries.
const ROOM: usize = 256 << 10;
const MORE: usize = 16;
const MOST_ROOM: usize = 64 << 20;

/// So many passes are compared until a process is taken to change faster than it can be read.
const PASSES: usize = 200;
/// A pause between passes, which a process may need to become one that can be read; and between those beyond `PASSES`.
const PAUSE: Duration = Duration::from_micros(100);
const LONG_PAUSE: Duration = Duration::from_millis(1);

/// Reads processes by BPF, without stopping them.
pub struct ProcessReader {
    members: Members,
    /// The kernel's function that the program is for.
    target: u32,
    program: OwnedFd,
    request: Map,
    records: Map,
    room: usize,
    patience: Duration,
}

impl ProcessReader {
    /// Makes the program for this kernel and loads it.
    ///
    /// # Errors
    /// If the kernel has no type information, or other types than this version knows (the error names the member), if a
    /// capability is missing, or if the kernel's verifier refuses the program.
    pub fn new() -> Result<ProcessReader> {
        let layout = Layout::read()?;
        let target = layout.function("bpf_iter_task")?;
        let members = Members::of_this_kernel(&layout)?;
        let (program, request, records) = load(&members, target, ROOM)?;
        Ok(ProcessReader {
            members,
            target,
            program,
            request,
            records,
            room: ROOM,
            patience: Duration::ZERO,
        })
    }

    /// Why POSIX timers of this kernel can't be read: a process that has some is refused then. `None` if they can.
    #[must_use]
    pub fn without_timers(&self) -> Option<&str> {
        self.members.timers.as_ref().err().map(String::as_str)
    }

    /// Goes on for so long at least with a process that cannot be read at once: on a busy machine a thread that is about to sleep
    /// may wait for a processor longer than many passes take.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> ProcessReader {
        ProcessReader { patience, ..self }
    }

    fn grow(&mut self) -> Result<()> {
        let room = self.room * MORE;
        if room > MOST_ROOM {
            let why = format!("its queues need more than {MOST_ROOM} bytes");
            return Err(Error::new(READ, Cause::Unsupported(why.into())));
        }
        (self.program, self.request, self.records) = load(&self.members, self.target, room)?;
        self.room = room;
        Ok(())
    }

    /// One pass. `None`: a list was changed while it was followed.
    fn pass(&mut self, pid: Pid) -> Result<Option<Pass>> {
        let failed = |errno| Error::os(READ, errno);
        loop {
            let wanted = u32::try_from(pid.get()).unwrap_or(0);
            let link = kernel::link_to(&self.program, wanted).map_err(failed)?;
            let mut request = vec![0; Request::SIZE];
            put(&mut request, Request::WANTED, wanted.into());
            self.request.write(&request).map_err(failed)?;
            let mut file = kernel::open(&link).map_err(failed)?;
            let mut nothing = Vec::new();
            file.read_to_end(&mut nothing)
                .map_err(|e| Error::io(READ, &e))?;
            self.request.read(&mut request).map_err(failed)?;
            match get(&request, Request::STATUS) {
                status if status == Status::Full as u64 => self.grow()?,
                status if status == Status::Torn as u64 => return Ok(None),
                _ => return self.parse(&request, pid).map(Some),
            }
        }
    }

    fn parse(&self, request: &[u8], pid: Pid) -> Result<Pass> {
        let mut bytes = Vec::new();
        self.records
            .read(&mut bytes)
            .map_err(|errno| Error::os(READ, errno))?;
        let number = |at| {
            let word = get(request, at);
            let why = || format!("{word} in the request");
            usize::try_from(word).map_err(|_| Error::new(READ, Cause::Unexpected(why())))
        };
        bytes.truncate(number(Request::CURSOR)?);
        if bytes.is_empty() {
            return Err(absent(pid));
        }
        let mut pass = records::parse(&bytes, &self.members).ok_or_else(|| {
            let why = format!("{} bytes of records are not understood", bytes.len());
            Error::new(READ, Cause::Unexpected(why))
        })?;
        pass.level = number(Request::LEVEL)?;
        Ok(pass)
    }

    fn settle(&mut self, pid: Pid) -> Result<Reading> {
        let mut before = None;
        let mut why = "its signal state changes faster than it can be read".to_owned();
        let begun = Instant::now();
        let mut passes = 0;
        while passes < PASSES || begun.elapsed() < self.patience {
            match passes {
                0..=2 => {}
                PASSES.. => std::thread::sleep(LONG_PAUSE),
                _ => std::thread::sleep(PAUSE),
            }
            passes += 1;
            let after = self.pass(pid)?;
            if let (Some(one), Some(other)) = (&before, &after) {
                if !Pass::is_same(one, other) {
                    why = "its signal state changes faster than it can be read".to_owned();
                } else {
                    match state::make(pid, &self.members, other)? {
                        state::Made::Whole(reading) => return Ok(*reading),
                        state::Made::Unsettled(what) => why = what,
                    }
                }
            }
            before = after;
        }
        let why = format!("{why} ({passes} passes): stop the process to read it (--stop)");
        Err(Error::new(READ, Cause::Unexpected(why)))
    }
}

impl Read for ProcessReader {
    fn stops(&self) -> bool {
        false
    }

    fn read(&mut self, pid: Pid) -> Result<Reading> {
        self.settle(pid).map_err(|e| e.during(Phase::Capture, pid))
    }
}

/// What is in /proc and not among the kernel's tasks is hidden from programs.
fn absent(pid: Pid) -> Error {
    if proc::is_alive(pid) {
        let why = "the kernel does not show this process to BPF programs";
        return Error::new(READ, Cause::Unsupported(why.into()));
    }
    Error::new(READ, Cause::Died)
}

fn load(members: &Members, target: u32, room: usize) -> Result<(OwnedFd, Map, Map)> {
    let what = "load the BPF program that reads a process";
    let failed = |errno| Refused::alone(errno).error(what);
    let request = Map::create(Request::SIZE).map_err(failed)?;
    let records = Map::create(room).map_err(failed)?;
    let maps = walk::Maps {
        request: request.descriptor(),
        records: records.descriptor(),
        room,
    };
    let made = walk::program(members, maps)?;
    let program = kernel::load_with(
        &made.instructions,
        &made.functions,
        kernel::When::Iterates(target),
    )
    .map_err(|e| e.error(what))?;
    Ok((program, request, records))
}

fn put(bytes: &mut [u8], at: i16, value: u64) {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..8)) {
        place.copy_from_slice(&value.to_ne_bytes());
    }
}

fn get(bytes: &[u8], at: i16) -> u64 {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let place = bytes.get(at..).and_then(|rest| rest.get(..8));
    place
        .and_then(|place| place.try_into().ok())
        .map_or(0, u64::from_ne_bytes)
}
