//! The state of a process: its threads, and the state that they share.

use std::collections::HashSet;
use std::fmt;

use crate::altstack::AltStack;
use crate::clocks::Clocks;
use crate::codec::{Codec, limited, proto::signals as pb, required};
use crate::disposition::Dispositions;
use crate::error::FieldError;
use crate::exit_signal::ExitSignal;
use crate::header::{FIRST_VERSION, FORMAT_VERSION};
use crate::ids::{NsIds, Pid, Tid};
use crate::interrupted::InterruptedCall;
use crate::itimer::{self, IntervalTimer};
use crate::owner::{self, FileOwner};
use crate::pending::Pending;
use crate::printable::Name;
pub use crate::rlimit::Rlimit;
use crate::siginfo::Siginfo;
use crate::signo::SigNo;
use crate::sigset::SigSet;
use crate::stack_needs::StackNeeds;
use crate::timer::{self, DeletedTimer, PosixTimer};
use crate::wait_status::WaitStatus;

/// Of `comm`, in bytes. The kernel's own limit is 15 for user tasks.
const COMM_LIMIT: usize = 64;
/// Of `exe`, in bytes: PATH_MAX.
const EXE_LIMIT: usize = 4096;

/// Of siginfos, whatever the limits say: entries that a process got before it changed its uid, and lowered its limit,
/// are charged to somebody else. Tools before this bound was there did not count them in `queued`.
const FEW_SIGINFOS: u64 = 65_536;

/// Whether the process is in a group stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RunState {
    /// It is not.
    #[default]
    Running,
    /// It is, by this signal.
    Stopped(SigNo),
}

impl fmt::Display for RunState {
    /// `running`, `stopped by SIGTSTP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunState::Running => f.write_str("running"),
            RunState::Stopped(signo) => write!(f, "stopped by {signo}"),
        }
    }
}

/// Why the pending signals of a process were taken out of it at the dump. CRIU's images do not hold them then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TakenOut {
    /// A SIGTRAP is pending: CRIU takes it for its own and refuses.
    Trap,
    /// A fault signal of the kernel is pending for one thread: it would be delivered in place of CRIU's trap.
    Fault,
    /// RLIMIT_SIGPENDING leaves little room or none: CRIU's restore could fail, or lose siginfos.
    Limit,
    /// The queue is so deep that CRIU would take long to read it.
    Deep,
}

impl fmt::Display for TakenOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TakenOut::Trap => "a SIGTRAP is pending",
            TakenOut::Fault => "a fault signal is pending for a thread",
            TakenOut::Limit => "RLIMIT_SIGPENDING leaves too little room",
            TakenOut::Deep => "the queue is deep",
        })
    }
}

/// The signal state that belongs to one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadState {
    /// Its ids, in as many pid namespaces as its process's.
    pub ids: NsIds,
    /// The mask in force: `SigBlk` in `/proc/TID/status`.
    pub blocked: SigSet,
    /// What `PTRACE_GETSIGMASK` gives, where it differs: the mask that comes back when the interrupted
    /// sigsuspend, ppoll or epoll_pwait ends (`set_restore_sigmask`).
    pub saved_mask: Option<SigSet>,
    /// The alternate signal stack.
    pub altstack: AltStack,
    /// What is pending for this thread alone.
    pub pending: Pending,
    /// What the process is sent when this thread's parent ends: PR_SET_PDEATHSIG.
    pub parent_death_signal: Option<SigNo>,
    /// The signal whose handler it was executing, where the handler's return puts another mask in force: [`blocked`] and
    /// [`altstack`] are the handler's then.
    ///
    /// [`blocked`]: ThreadState::blocked
    /// [`altstack`]: ThreadState::altstack
    pub in_handler: Option<SigNo>,
    /// The system call that it was waiting in, if that has not ended.
    pub interrupted: Option<InterruptedCall>,
}

impl ThreadState {
    /// A thread with these ids and nothing else: no signal blocked or pending, no alternate stack.
    pub fn bare(ids: NsIds) -> ThreadState {
        ThreadState {
            ids,
            blocked: SigSet::EMPTY,
            saved_mask: None,
            altstack: AltStack::DISABLED,
            pending: Pending::default(),
            interrupted: None,
            parent_death_signal: None,
            in_handler: None,
        }
    }

    /// The mask that the thread has when no call is borrowing another.
    pub fn lasting_mask(&self) -> SigSet {
        self.saved_mask.unwrap_or(self.blocked)
    }

    fn check_alone(&self) -> Result<(), FieldError> {
        self.interrupted.as_ref().map_or(Ok(()), |call| {
            call.check()
                .map_err(|error| error.within("thread.interrupted"))
        })
    }

    /// The id as the reader sees it.
    pub fn tid(&self) -> Tid {
        // A task that the reader can't see has 0 there: no thread has the largest number (PID_MAX_LIMIT, linux/threads.h).
        Tid::new(self.ids.outermost()).unwrap_or(Tid::NONE)
    }
}

/// The whole signal state of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessState {
    /// The ids of the process, which are its leader's.
    pub ids: NsIds,
    /// Inode number of `/proc/PID/ns/pid`: tells whether a number is meant in the same namespace.
    pub pid_ns: u64,
    /// `/proc/PID/comm`, for people: at most 64 bytes.
    pub comm: Name,
    /// The program that it executes, /proc/PID/exe: at most 4,096 bytes. `None` where that is not known.
    pub exe: Option<Name>,
    /// A 32-bit task.
    pub compat: bool,
    /// RLIMIT_SIGPENDING.
    pub rlimit_sigpending: Rlimit,
    /// How many siginfos are charged to the process's uid: `SigQ` in `/proc/PID/status`. In an image at least as many as
    /// the process has.
    pub queued: u64,
    /// What it does on each signal.
    pub dispositions: Dispositions,
    /// Whether it is stopped.
    pub run_state: RunState,
    /// What its parent's wait(2) would still report of that.
    pub wait_status: WaitStatus,
    /// What is pending for the process as a whole.
    pub shared: Pending,
    /// What its parent is sent when it ends; `None` where that is not known.
    pub exit_signal: Option<ExitSignal>,
    /// What a signal takes of an alternate stack where the process ran; `None` where that is not known.
    pub stack_needs: Option<StackNeeds>,
    /// Its POSIX timers.
    pub timers: Vec<PosixTimer>,
    /// Timers that were deleted while their entries were pending. The entries are in the queues, at their places.
    pub deleted_timers: Vec<DeletedTimer>,
    /// Its interval timers that are armed or have an interval; empty where nobody looked.
    pub interval_timers: Vec<IntervalTimer>,
    /// Its file descriptors whose SIGIO goes to somebody; empty where nobody looked.
    pub file_owners: Vec<FileOwner>,
    /// Its timerfds and RLIMIT_CPU; `None` where nobody looked.
    pub clocks: Option<Clocks>,
    /// Why what was pending has been taken out; empty where it was left in, which is the rule.
    pub taken_out: Vec<TakenOut>,
    /// The RLIMIT_SIGPENDING that CRIU restores instead of the process's own, so that it has room for the queue.
    pub lent_limit: Option<Rlimit>,
    /// Its threads, the leader first.
    pub threads: Vec<ThreadState>,
}

impl Codec for RunState {
    /// `stop_signal`: 0 while running.
    type Message = u32;

    fn to_proto(&self) -> u32 {
        match self {
            RunState::Running => 0,
            RunState::Stopped(signo) => signo.to_proto(),
        }
    }

    fn from_proto(stop_signal: &u32) -> Result<RunState, FieldError> {
        if *stop_signal == 0 {
            return Ok(RunState::Running);
        }
        let state = SigNo::from_proto(stop_signal).map(RunState::Stopped);
        let state = state.map_err(|error| error.within("stop_signal"))?;
        state.check()?;
        Ok(state)
    }
}

impl RunState {
    fn check(self) -> Result<(), FieldError> {
        match self {
            RunState::Stopped(signo) if !signo.is_stop() => {
                let reason = format!("{signo} does not stop a process");
                Err(FieldError::new("stop_signal", reason))
            }
            _ => Ok(()),
        }
    }
}

fn signal_or_none(number: u32) -> Result<Option<SigNo>, FieldError> {
    match number {
        0 => Ok(None),
        signo => SigNo::from_proto(&signo).map(Some),
    }
}

/// Without the queue, which may be larger than an entry: it follows in `QueueChunk`s.
impl Codec for ThreadState {
    type Message = pb::Thread;

    fn to_proto(&self) -> pb::Thread {
        pb::Thread {
            ids: self.ids.to_proto(),
            blocked: self.blocked.bits(),
            saved_mask: self.saved_mask.map(SigSet::bits),
            altstack: Some(self.altstack.to_proto()).into(),
            private_bits: self.pending.bits.bits(),
            parent_death_signal: self.parent_death_signal.map_or(0, |s| s.to_proto()),
            in_handler: self.in_handler.map_or(0, |s| s.to_proto()),
            interrupted: self.interrupted.as_ref().map(Codec::to_proto).into(),
            ..pb::Thread::default()
        }
    }

    fn from_proto(message: &pb::Thread) -> Result<ThreadState, FieldError> {
        Ok(ThreadState {
            ids: NsIds::from_proto(&message.ids)?,
            blocked: SigSet::from_bits(message.blocked),
            saved_mask: message.saved_mask.map(SigSet::from_bits),
            altstack: required("altstack", &message.altstack)?,
            pending: Pending {
                bits: SigSet::from_bits(message.private_bits),
                queue: Vec::new(),
            },
            parent_death_signal: signal_or_none(message.parent_death_signal)
                .map_err(|error| error.within("parent_death_signal"))?,
            in_handler: signal_or_none(message.in_handler)
                .map_err(|error| error.within("in_handler"))?,
            interrupted: message
                .interrupted
                .as_ref()
                .map(InterruptedCall::from_proto)
                .transpose()
                .map_err(|error| error.within("interrupted"))?,
        })
    }
}

fn all<T: Codec>(messages: &[T::Message]) -> Result<Vec<T>, FieldError> {
    messages.iter().map(T::from_proto).collect()
}

/// Without the threads and the queue: they follow in entries of their own.
impl Codec for ProcessState {
    type Message = pb::Process;

    fn to_proto(&self) -> pb::Process {
        pb::Process {
            ids: self.ids.to_proto(),
            pid_ns: self.pid_ns,
            comm: self.comm.as_str().to_owned(),
            compat: self.compat,
            rlimit_sigpending: Some(self.rlimit_sigpending.to_proto()).into(),
            queued: self.queued,
            dispositions: self.dispositions.to_proto(),
            stop_signal: self.run_state.to_proto(),
            wait_status: self.wait_status.to_proto(),
            shared_bits: self.shared.bits.bits(),
            exit_signal: self.exit_signal.map(|s| s.to_proto()),
            stack_needs: self.stack_needs.map(|needs| needs.to_proto()).into(),
            exe: self.exe.clone().map(String::from),
            timers: self.timers.iter().map(Codec::to_proto).collect(),
            deleted_timers: self.deleted_timers.iter().map(Codec::to_proto).collect(),
            interval_timers: self.interval_timers.iter().map(Codec::to_proto).collect(),
            file_owners: self.file_owners.iter().map(Codec::to_proto).collect(),
            clocks: self.clocks.as_ref().map(Codec::to_proto).into(),
            taken_out: self.taken_out.iter().map(Codec::to_proto).collect(),
            lent_limit: self.lent_limit.map(|limit| limit.to_proto()).into(),
            ..pb::Process::default()
        }
    }

    fn from_proto(message: &pb::Process) -> Result<ProcessState, FieldError> {
        limited("comm", &message.comm, COMM_LIMIT)?;
        limited("exe", message.exe.as_deref().unwrap_or_default(), EXE_LIMIT)?;
        let timers = message
            .timers
            .iter()
            .enumerate()
            .map(|(index, timer)| {
                PosixTimer::from_proto(timer).map_err(|error| error.within_item("timers", index))
            })
            .collect::<Result<Vec<_>, _>>()?;
        timer::check(&timers)?;
        let deleted_timers: Vec<DeletedTimer> = all(&message.deleted_timers)?;
        timer::check_deleted(&deleted_timers)?;
        let interval_timers = all(&message.interval_timers)?;
        itimer::check(&interval_timers)?;
        let file_owners = all(&message.file_owners)?;
        owner::check(&file_owners)?;
        let clocks = message.clocks.as_ref().map(Clocks::from_proto).transpose();
        Ok(ProcessState {
            interval_timers,
            file_owners,
            clocks: clocks.map_err(|error| error.within("clocks"))?,
            ids: NsIds::from_proto(&message.ids)?,
            pid_ns: message.pid_ns,
            comm: message.comm.as_str().into(),
            exe: message.exe.clone().map(Name::from),
            compat: message.compat,
            rlimit_sigpending: required("rlimit_sigpending", &message.rlimit_sigpending)?,
            queued: message.queued,
            dispositions: Dispositions::from_proto(&message.dispositions)?,
            run_state: RunState::from_proto(&message.stop_signal)?,
            wait_status: WaitStatus::from_proto(&message.wait_status)?,
            shared: Pending {
                bits: SigSet::from_bits(message.shared_bits),
                queue: Vec::new(),
            },
            exit_signal: message
                .exit_signal
                .as_ref()
                .map(ExitSignal::from_proto)
                .transpose()?,
            stack_needs: message
                .stack_needs
                .as_ref()
                .map(StackNeeds::from_proto)
                .transpose()?,
            timers,
            deleted_timers,
            taken_out: taken_out(&message.taken_out)?,
            lent_limit: message
                .lent_limit
                .as_ref()
                .map(Rlimit::from_proto)
                .transpose()?,
            threads: Vec::new(),
        })
    }
}

fn taken_out(
    messages: &[protobuf::EnumOrUnknown<pb::TakenOut>],
) -> Result<Vec<TakenOut>, FieldError> {
    let mut reasons = Vec::new();
    for message in messages {
        let reason = TakenOut::from_proto(message)?;
        if reasons.contains(&reason) {
            return Err(FieldError::new(
                "taken_out",
                format!("{reason:?} occurs twice"),
            ));
        }
        reasons.push(reason);
    }
    Ok(reasons)
}

impl Codec for TakenOut {
    type Message = protobuf::EnumOrUnknown<pb::TakenOut>;

    fn to_proto(&self) -> Self::Message {
        match self {
            TakenOut::Trap => pb::TakenOut::TAKEN_OUT_TRAP,
            TakenOut::Fault => pb::TakenOut::TAKEN_OUT_FAULT,
            TakenOut::Limit => pb::TakenOut::TAKEN_OUT_LIMIT,
            TakenOut::Deep => pb::TakenOut::TAKEN_OUT_DEEP,
        }
        .into()
    }

    fn from_proto(message: &Self::Message) -> Result<TakenOut, FieldError> {
        match message.enum_value() {
            Ok(pb::TakenOut::TAKEN_OUT_TRAP) => Ok(TakenOut::Trap),
            Ok(pb::TakenOut::TAKEN_OUT_FAULT) => Ok(TakenOut::Fault),
            Ok(pb::TakenOut::TAKEN_OUT_LIMIT) => Ok(TakenOut::Limit),
            Ok(pb::TakenOut::TAKEN_OUT_DEEP) => Ok(TakenOut::Deep),
            Ok(pb::TakenOut::TAKEN_OUT_UNSPECIFIED) => Err(FieldError::missing("taken_out")),
            Err(number) => {
                let reason = format!("{number} is not a reason that this program knows");
                Err(FieldError::new("taken_out", reason))
            }
        }
    }
}

/// The innermost ids of the threads so far: tells a leader that is not first, and a thread that is twice.
#[derive(Default)]
pub(crate) struct ThreadIds(HashSet<i32>);

impl ThreadIds {
    /// May this be the next thread of that process?
    pub(crate) fn admit(&mut self, process: &NsIds, thread: &NsIds) -> Result<(), FieldError> {
        let refuse = |reason| Err(FieldError::new("ids", reason));
        if thread.as_slice().len() != process.as_slice().len() {
            return refuse(format!(
                "thread {thread} is in fewer or more pid namespaces than its process, {process}"
            ));
        }
        if self.0.is_empty() && thread.innermost() != process.innermost() {
            return refuse(format!(
                "the first thread, {thread}, is not the leader of process {process}"
            ));
        }
        if !self.0.insert(thread.innermost()) {
            return refuse(format!("there are two threads {thread}"));
        }
        Ok(())
    }
}

pub(crate) fn no_threads() -> FieldError {
    FieldError::new("threads", "a process has one at least")
}

impl ProcessState {
    /// The process, as the reader sees it; a number that no process has where the reader can't.
    pub fn pid(&self) -> Pid {
        Pid::from(Tid::new(self.ids.outermost()).unwrap_or(Tid::NONE))
    }

    /// Every queue: the private ones, thread by thread, and the shared one last.
    pub fn queues(&self) -> impl Iterator<Item = &Pending> {
        let private = self.threads.iter().map(|thread| &thread.pending);
        private.chain([&self.shared])
    }

    /// As [`queues`](Self::queues), to be changed.
    pub fn queues_mut(&mut self) -> impl Iterator<Item = &mut Pending> {
        let private = self.threads.iter_mut().map(|thread| &mut thread.pending);
        private.chain([&mut self.shared])
    }

    /// A running process with these ids and nothing else: default dispositions, no limit, one bare thread.
    pub fn bare(ids: NsIds) -> ProcessState {
        ProcessState {
            pid_ns: 0,
            comm: Name::default(),
            exe: None,
            compat: false,
            rlimit_sigpending: Rlimit {
                soft: Rlimit::INFINITY,
                hard: Rlimit::INFINITY,
            },
            queued: 0,
            dispositions: Dispositions::default(),
            run_state: RunState::Running,
            wait_status: WaitStatus::Unknown,
            shared: Pending::default(),
            timers: Vec::new(),
            deleted_timers: Vec::new(),
            interval_timers: Vec::new(),
            file_owners: Vec::new(),
            clocks: None,
            taken_out: Vec::new(),
            lent_limit: None,
            exit_signal: None,
            stack_needs: None,
            threads: vec![ThreadState::bare(ids.clone())],
            ids,
        }
    }

    /// The limits of `signals.proto` that the types leave open: what a reader would refuse must not be
    /// written.
    pub(crate) fn check(&self) -> Result<(), FieldError> {
        self.check_alone()
            .map_err(|error| error.within("process"))?;
        self.shared.check("shared_queue")?;
        let mut ids = ThreadIds::default();
        for (index, thread) in self.threads.iter().enumerate() {
            ids.admit(&self.ids, &thread.ids)
                .map_err(|error| error.within("thread"))
                .and_then(|()| thread.pending.check("queue"))
                .and_then(|()| thread.check_alone())
                .map_err(|error| error.within_item("threads", index))?;
        }
        if self.threads.is_empty() {
            return Err(no_threads());
        }
        self.check_siginfos(self.siginfos())
    }

    /// Can it have so many siginfos? Real-time signals are refused beyond RLIMIT_SIGPENDING, and what is not refused is
    /// counted in `SigQ` (`__sigqueue_alloc` in `kernel/signal.c`); the limit can have been lowered since.
    pub(crate) fn check_siginfos(&self, count: u64) -> Result<(), FieldError> {
        let Rlimit { soft, hard } = self.rlimit_sigpending;
        let possible = soft.max(hard).max(self.queued).max(FEW_SIGINFOS);
        if count <= possible {
            return Ok(());
        }
        let reason = format!(
            "there are {count} siginfos or more, but by its limits and counts the process can have had at most \
             {possible}"
        );
        Err(FieldError::new("queue", reason))
    }

    /// Does the image tell whom the SIGIO of files goes to? Not every dump looks at the files, and a process of which no
    /// owner is recorded may have had some.
    pub fn records_file_owners(&self) -> bool {
        !self.file_owners.is_empty()
    }

    /// Of an image that holds it: the oldest that can.
    pub fn format_version(&self) -> u32 {
        if self.deleted_timers.is_empty() {
            FIRST_VERSION
        } else {
            FORMAT_VERSION
        }
    }

    /// The timer that is gone and has left this entry in the queue of that thread, or in the shared one.
    pub fn left_by(&self, thread: Option<i32>, info: &Siginfo) -> Option<&DeletedTimer> {
        let mut deleted = self.deleted_timers.iter();
        deleted.find(|timer| timer.thread == thread && timer.made(info))
    }

    /// How many siginfos all its queues hold.
    pub fn siginfos(&self) -> u64 {
        self.queues()
            .map(|pending| pending.queue.len() as u64)
            .sum()
    }

    fn check_alone(&self) -> Result<(), FieldError> {
        limited("comm", self.comm.as_str(), COMM_LIMIT)?;
        limited("exe", self.exe.as_ref().map_or("", Name::as_str), EXE_LIMIT)?;
        self.run_state.check()?;
        itimer::check(&self.interval_timers)?;
        owner::check(&self.file_owners)?;
        let clocks = self.clocks.as_ref().map_or(Ok(()), Clocks::check);
        clocks.map_err(|error| error.within("clocks"))?;
        timer::check_deleted(&self.deleted_timers)?;
        timer::check(&self.timers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    fn ids<const N: usize>(ids: [i32; N]) -> NsIds {
        NsIds::new(ids.to_vec()).expect("valid ids")
    }

    #[test]
    fn threads_that_a_process_can_have() {
        let process = ids([41, 1]);
        let mut seen = ThreadIds::default();
        seen.admit(&process, &ids([42, 2]))
            .expect_err("the leader is first");
        seen.admit(&process, &ids([1])).expect_err("another depth");
        seen.admit(&process, &ids([41, 1])).expect("the leader");
        seen.admit(&process, &ids([42, 2])).expect("another thread");
        seen.admit(&process, &ids([43, 2])).expect_err("twice");
    }

    #[test]
    fn only_stop_signals_stop() {
        for signo in SigNo::all() {
            let found = RunState::from_proto(&signo.to_proto());
            assert_eq!(found.is_ok(), signo.is_stop(), "{signo}");
        }
        RunState::from_proto(&65).expect_err("no signal");
    }

    #[test]
    fn limits() {
        let valid = testing::sample();
        assert_eq!(valid.check(), Ok(()));

        let mut state = valid.clone();
        state.comm = "x".repeat(COMM_LIMIT + 1).into();
        state.check().expect_err("comm is too long");
        ProcessState::from_proto(&state.to_proto()).expect_err("comm is too long");

        state = valid.clone();
        state.run_state = RunState::Stopped(SigNo::HUP);
        state.check().expect_err("no stop signal");

        state = valid.clone();
        state.threads.clear();
        state.check().expect_err("no thread");

        state = valid.clone();
        state.threads.swap(0, 1);
        state.check().expect_err("the leader is not first");

        state = valid.clone();
        state.shared.bits = SigSet::EMPTY;
        state.check().expect_err("entries without bits");

        let mut message = valid.to_proto();
        message.rlimit_sigpending = None.into();
        ProcessState::from_proto(&message).expect_err("no limit");

        let mut message = valid.to_proto();
        message.exit_signal = Some(256);
        ProcessState::from_proto(&message).expect_err("more than a byte");

        let mut message = valid.threads[0].to_proto();
        message.parent_death_signal = 65;
        ThreadState::from_proto(&message).expect_err("no signal");

        let mut message = valid.threads[0].to_proto();
        message.altstack = None.into();
        ThreadState::from_proto(&message).expect_err("no alternate stack");
    }

    #[test]
    fn masks() {
        let mut thread = testing::sample().threads[0].clone();
        thread.blocked = SigSet::FULL;
        thread.saved_mask = None;
        assert_eq!(thread.lasting_mask(), SigSet::FULL);
        thread.saved_mask = Some(SigSet::EMPTY);
        assert_eq!(thread.lasting_mask(), SigSet::EMPTY);
    }

    proptest! {
        /// Queues and threads aside, which `image` and `json` test.
        #[test]
        fn round_trip(mut process in testing::process()) {
            for thread in &mut process.threads {
                thread.pending.queue.clear();
                prop_assert_eq!(ThreadState::from_proto(&thread.to_proto()), Ok(thread.clone()));
            }
            process.shared.queue.clear();
            process.threads.clear();
            prop_assert_eq!(ProcessState::from_proto(&process.to_proto()), Ok(process));
        }
    }
}
