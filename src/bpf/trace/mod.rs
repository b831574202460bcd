//! What happens to signals, from generation to delivery: BPF programs on the kernel's tracepoints `signal_generate`,
//! `signal_deliver` and `sched_process_exit`, and at the end of `dequeue_signal()`, write records into a ring buffer.
//!
//! The tracepoints have no fixed arguments for BTF to describe: as raw tracepoints they give plain numbers, which the programs
//! follow by the offsets of the kernel's types. Needed: Linux 5.10, CAP_BPF and CAP_PERFMON, CONFIG_DEBUG_INFO_BTF.

mod journal;
mod programs;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use criu_signals_images::{Name, Pid, SigNo, Siginfo};

use super::kernel::{self, Map, Refused, When};
use super::layout::Layout;
use super::ring::Ring;
use crate::error::{Cause, Error, Result};
pub use journal::{Entry, Fate, Journal, Step};
use programs::{INFO, Kind, Maps, Members, RECORD, Settings, Word};

/// Whose signals are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Of this process, and of what has its number later.
    Process(Pid),
    /// Of the processes in the cgroup of v2 whose folder has this inode, and of those in cgroups below.
    Cgroup(u64),
    /// Of all processes in the caller's pid namespace.
    All,
}

/// A thread, by its numbers in the tracer's pid namespace; 0 if it has none there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// The process.
    pub pid: i32,
    /// The thread.
    pub tid: i32,
    /// What the thread calls itself.
    pub comm: Name,
}

/// What became of a signal when it was generated (include/trace/events/signal.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// TRACE_SIGNAL_DELIVERED: it is pending now.
    Queued,
    /// TRACE_SIGNAL_IGNORED.
    Ignored,
    /// TRACE_SIGNAL_ALREADY_PENDING: of signals below 32 only one is pending at a time.
    AlreadyPending,
    /// TRACE_SIGNAL_OVERFLOW_FAIL: the queue has no room, and the sender gets EAGAIN.
    NoRoom,
    /// TRACE_SIGNAL_LOSE_INFO: the queue has no room, and the signal is pending without its siginfo.
    WithoutInfo,
    /// A number that this version does not know.
    Unknown(u32),
}

impl Outcome {
    fn from_kernel(number: u64) -> Outcome {
        match number & 0xffff_ffff {
            0 => Outcome::Queued,
            1 => Outcome::Ignored,
            2 => Outcome::AlreadyPending,
            3 => Outcome::NoRoom,
            4 => Outcome::WithoutInfo,
            other => Outcome::Unknown(u32::try_from(other).unwrap_or(u32::MAX)),
        }
    }

    /// The kernel's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Queued => "TRACE_SIGNAL_DELIVERED",
            Outcome::Ignored => "TRACE_SIGNAL_IGNORED",
            Outcome::AlreadyPending => "TRACE_SIGNAL_ALREADY_PENDING",
            Outcome::NoRoom => "TRACE_SIGNAL_OVERFLOW_FAIL",
            Outcome::WithoutInfo => "TRACE_SIGNAL_LOSE_INFO",
            Outcome::Unknown(_) => "unknown",
        }
    }

    /// Is the signal pending afterwards?
    pub const fn is_pending(self) -> bool {
        matches!(self, Outcome::Queued | Outcome::WithoutInfo)
    }
}

/// What a siginfo is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Info {
    /// The sender's.
    Given(Siginfo),
    /// SEND_SIG_NOINFO: the kernel makes one of SI_USER and the sender's ids.
    OfUser,
    /// SEND_SIG_PRIV: the kernel makes one of SI_KERNEL.
    OfKernel,
}

/// A signal is generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// By CLOCK_MONOTONIC of the machine, in nanoseconds.
    pub time: u64,
    /// Which signal.
    pub signo: SigNo,
    /// Its siginfo.
    pub info: Info,
    /// Whom it is for. Of a signal for the process this is the thread that the sender has named.
    pub target: Who,
    /// It is for the process.
    pub group: bool,
    /// What became of it.
    pub outcome: Outcome,
    /// The thread that was running. For what the kernel sends at an interrupt, a timer's signals say, this is a bystander.
    pub running: Who,
    /// The running thread is traced.
    pub running_is_traced: bool,
    /// The process that traces the target.
    pub tracer: Option<Pid>,
}

/// A signal is delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// By CLOCK_MONOTONIC of the machine, in nanoseconds.
    pub time: u64,
    /// Which signal.
    pub signo: SigNo,
    /// Its siginfo.
    pub info: Info,
    /// The thread that gets it.
    pub target: Who,
    /// The disposition: 0 is the default, 1 to ignore it, anything else a handler.
    pub handler: u64,
    /// SA_*.
    pub flags: u64,
}

/// A thread has taken a signal by rt_sigtimedwait(2) or through a signalfd(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// By CLOCK_MONOTONIC of the machine, in nanoseconds.
    pub time: u64,
    /// Which signal.
    pub signo: SigNo,
    /// Its siginfo.
    pub info: Info,
    /// The thread.
    pub target: Who,
    /// The process that traces the thread, and that may have made it do so.
    pub tracer: Option<Pid>,
}

/// A thread has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// By CLOCK_MONOTONIC of the machine, in nanoseconds.
    pub time: u64,
    /// The thread.
    pub target: Who,
    /// As wait(2) tells.
    pub status: u32,
    /// It was the last of its process.
    pub is_last: bool,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A signal was generated.
    Generated(Generated),
    /// A signal was delivered.
    Delivered(Delivered),
    /// A signal was taken.
    Taken(Taken),
    /// A thread has ended.
    Ended(Ended),
}

impl Event {
    /// By CLOCK_MONOTONIC of the machine, in nanoseconds.
    pub fn time(&self) -> u64 {
        match self {
            Event::Generated(event) => event.time,
            Event::Delivered(event) => event.time,
            Event::Taken(event) => event.time,
            Event::Ended(event) => event.time,
        }
    }

    /// The process that it happens to.
    pub fn pid(&self) -> i32 {
        match self {
            Event::Generated(event) => event.target.pid,
            Event::Delivered(event) => event.target.pid,
            Event::Taken(event) => event.target.pid,
            Event::Ended(event) => event.target.pid,
        }
    }
}

/// Follows signals from its making until it is dropped.
pub struct Tracer {
    ring: Ring,
    settings: Map,
    /// The programs are attached for as long as these are open.
    _links: Vec<OwnedFd>,
    blind: Option<String>,
}

/// What is being done, for errors.
const TRACE: &str = "trace signals by BPF";

impl Tracer {
    /// Makes the programs for this kernel, loads and attaches them. `room` is the size of the ring buffer in bytes: a power of
    /// two, and a multiple of the page size.
    ///
    /// # Errors
    /// If the kernel has no type information, or other types than this version knows (the error names the member), if a
    /// capability is missing, or if the kernel's verifier refuses a program.
    pub fn new(whose: Whose, room: usize) -> Result<Tracer> {
        let failed = |errno| Refused::alone(errno).error(TRACE);
        let layout = Layout::read()?;
        let members = Members::of_this_kernel(&layout)?;
        let by_cgroup = matches!(whose, Whose::Cgroup(_));
        if by_cgroup && let Some(why) = members.no_cgroups() {
            let why = format!("processes can't be selected by their cgroup: {why}");
            return Err(Error::new(TRACE, Cause::Unsupported(why.into())));
        }
        let settings = Map::create(Settings::SIZE).map_err(failed)?;
        let ring = Ring::create(room).map_err(failed)?;
        let maps = Maps {
            settings: settings.descriptor(),
            ring: ring.descriptor(),
        };
        let load = |program: &[_], when| {
            kernel::load_with(program, &[], when)
                .map_err(|e| e.error("load a BPF program that traces"))
        };
        let attach = |program: &OwnedFd, name| {
            kernel::attach(program, name)
                .map_err(|errno| Error::os("attach a BPF program that traces", errno))
        };
        let home = load(&programs::home(&members, maps)?, When::PassesTracepoint)?;
        kernel::run_once(&home).map_err(|errno| Error::os(TRACE, errno))?;
        tell(&settings, whose)?;
        let mut links = Vec::new();
        for (program, name) in [
            (
                programs::ended(&members, maps, by_cgroup)?,
                c"sched_process_exit",
            ),
            (
                programs::delivered(&members, maps, by_cgroup)?,
                c"signal_deliver",
            ),
            (
                programs::generated(&members, maps, by_cgroup)?,
                c"signal_generate",
            ),
        ] {
            links.push(attach(
                &load(&program, When::PassesTracepoint)?,
                Some(name),
            )?);
        }
        let blind = match &members.taken {
            Ok(dequeue) => {
                let program = programs::taken(&members, maps, by_cgroup, dequeue)?;
                let attached = load(&program, When::Returns(dequeue.function))
                    .and_then(|program| attach(&program, None));
                attached
                    .map(|link| links.push(link))
                    .err()
                    .map(|e| e.to_string())
            }
            Err(why) => Some(why.clone()),
        };
        Ok(Tracer {
            ring,
            settings,
            _links: links,
            blind,
        })
    }

    /// Why it can't be seen that a signal is taken by rt_sigtimedwait(2) or signalfd(2), if it can't.
    pub fn blind(&self) -> Option<&str> {
        self.blind.as_deref()
    }

    /// What has happened since the last call, in order.
    pub fn read(&self) -> Vec<Event> {
        let mut events = Vec::new();
        self.ring.drain(|record| events.extend(parse(record)));
        events
    }

    /// How many events were lost for want of room, up to now.
    ///
    /// # Errors
    /// If bpf(2) fails.
    pub fn lost(&self) -> Result<u64> {
        let mut bytes = Vec::new();
        self.settings
            .read(&mut bytes)
            .map_err(|errno| Error::os(TRACE, errno))?;
        Ok(word(&bytes, Settings::LOST))
    }
}

/// It can be read when poll(2) says so of this.
impl AsFd for Tracer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// No program is attached yet that would count in the map.
fn tell(settings: &Map, whose: Whose) -> Result<()> {
    let failed = |errno| Error::os(TRACE, errno);
    let mut bytes = Vec::new();
    settings.read(&mut bytes).map_err(failed)?;
    let (at, value) = match whose {
        Whose::Process(pid) => (Settings::PID, u64::from(pid.get().cast_unsigned())),
        Whose::Cgroup(id) => (Settings::CGROUP, id),
        Whose::All => return Ok(()),
    };
    let at = usize::try_from(at).unwrap_or(0);
    if let Some(place) = bytes.get_mut(at..at + 8) {
        place.copy_from_slice(&value.to_ne_bytes());
    }
    settings.write(&bytes).map_err(failed)
}

fn word(bytes: &[u8], at: i16) -> u64 {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let place = bytes.get(at..).and_then(|rest| rest.get(..8));
    place
        .and_then(|place| place.try_into().ok())
        .map_or(0, u64::from_ne_bytes)
}

/// `None` of what is no record of these programs'.
fn parse(record: &[u8]) -> Option<Event> {
    if record.len() != RECORD {
        return None;
    }
    let word = |at: Word| word(record, at as i16 * 8);
    let low = |at: Word| u32::try_from(word(at) & 0xffff_ffff).unwrap_or(0);
    let who = |pid: Word, tid: Word, comm: Word| {
        let at = comm as usize * 8;
        let comm = record.get(at..at + 16).unwrap_or_default();
        let comm = comm.split(|&b| b == 0).next().unwrap_or_default();
        Who {
            pid: low(pid).cast_signed(),
            tid: low(tid).cast_signed(),
            comm: Name::from(String::from_utf8_lossy(comm).into_owned()),
        }
    };
    let info = || {
        let mut bytes = [0; criu_signals_images::SIGINFO_SIZE];
        let (at, size) = (Word::Info as usize * 8, usize::try_from(INFO).unwrap_or(0));
        bytes[..size].copy_from_slice(record.get(at..at + size).unwrap_or(&[0; 48]));
        match word(Word::InfoAt) {
            0 => Info::OfUser,
            1 => Info::OfKernel,
            _ => Info::Given(Siginfo::from_bytes(bytes)),
        }
    };
    let signo = SigNo::new(low(Word::Signo).cast_signed());
    let target = who(Word::Pid, Word::Tid, Word::Comm);
    let tracer = Pid::new(low(Word::Tracer).cast_signed());
    let time = word(Word::Time);
    Some(match word(Word::Kind) {
        kind if kind == Kind::Generated as u64 => Event::Generated(Generated {
            time,
            signo: signo?,
            info: info(),
            target,
            group: low(Word::Group) != 0,
            outcome: Outcome::from_kernel(word(Word::Result)),
            running: who(Word::SenderPid, Word::SenderTid, Word::SenderComm),
            running_is_traced: low(Word::SenderPtrace) != 0,
            tracer,
        }),
        kind if kind == Kind::Delivered as u64 => Event::Delivered(Delivered {
            time,
            signo: signo?,
            info: info(),
            target,
            handler: word(Word::Handler),
            flags: word(Word::Flags),
        }),
        kind if kind == Kind::Taken as u64 => Event::Taken(Taken {
            time,
            signo: signo?,
            info: info(),
            target,
            tracer,
        }),
        kind if kind == Kind::Ended as u64 => Event::Ended(Ended {
            time,
            target,
            status: low(Word::Result),
            is_last: word(Word::Group) == 0,
        }),
        _ => return None,
    })
}
