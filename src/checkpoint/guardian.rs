//! The guardian: a process that puts signals back if criu dies while signals are taken out.
//!
//! The guardian is forked before the first signal is taken out, and is told of every signal that is taken out. It
//! allocates the memory for its work before it acknowledges: a memory cgroup whose limit has killed the parent would
//! kill the guardian as soon as it asks for more. As long as the socket to the parent is open, the guardian does
//! nothing. If the socket closes without the message "done", the parent has died and the kernel has detached its
//! tracees, which run. The guardian then stops them itself and queues the missing signals before the signals that have
//! arrived since. If the trap at the end of CRIU's own code has reset an ignored SIGTRAP to SIG_DFL, the guardian sets
//! SIG_IGN again.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use criu_signals_images::{Pending, Pid, ProcessState, SIGINFO_SIZE, SigNo, Siginfo, Tid};
use nix::errno::Errno;

use crate::engine::repair::{self, Held};
use crate::error::{Cause, Error, Result};
use crate::fault::{self, Point};
use crate::memory::{self, Reserve};
use crate::proc;
use crate::process::detached;
use crate::process::pidfd::PidFd;
use crate::state::{Queue, dropped};
use crate::tracee::{Budget, ByUs, StoppedProcess, ptrace};

/// How long the guardian tries to stop the process, whose tracer is about to end or has ended.
const RESCUE_TIME: Duration = Duration::from_secs(30);

/// How often the guardian tries again to put signals back, once it has stopped the process.
const RESCUE_ATTEMPTS: u32 = 3;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

/// How long the guardian may take to be ready, also on a busy machine.
const READY_TIME: Duration = Duration::from_secs(30);

const READY: u8 = b'r';
const HOLD: u8 = b'h';
const GONE: u8 = b'g';
const RETURNING: u8 = b'r';
const DONE: u8 = b'd';
/// Kind, whether shared, tid, number of siginfos.
const HEADER: usize = 10;

/// The parent's ends of the sockets of all guardians that run. A guardian must not keep the ends of other guardians open:
/// those would not notice that the parent is gone.
static LINKS: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// The oom_score_adj of this process before it had a guardian. A guardian, with the memory for its work, is larger than
/// this process.
static SCORE: Mutex<Option<i32>> = Mutex::new(None);

fn score() -> MutexGuard<'static, Option<i32>> {
    SCORE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with_links<T>(work: impl FnOnce(&mut Vec<RawFd>) -> T) -> T {
    work(&mut LINKS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The parent's end of the socket to a guardian.
#[derive(Debug)]
pub struct Guardian {
    link: UnixStream,
    /// The signals that the guardian was told of, and the memory that it has for them.
    amount: Amount,
    reserve: Reserve,
    /// The process. The guardian identifies the process by its copy of this descriptor.
    held: PidFd,
}

impl Drop for Guardian {
    fn drop(&mut self) {
        let last = with_links(|links| {
            links.retain(|&link| link != self.link.as_raw_fd());
            links.is_empty()
        });
        if last && let Some(score) = score().take() {
            memory::score_again(score);
        }
    }
}

/// Why the guardian could not be told. The end of a guardian that has not read all messages resets the socket
/// (unix_release_sock).
fn told(e: &io::Error) -> Error {
    let what = "tell the guardian";
    match e.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            Error::os(what, Errno::EPIPE)
        }
        io::ErrorKind::WouldBlock => Error::os(what, Errno::ETIMEDOUT),
        _ => Error::io(what, e),
    }
}

impl Guardian {
    /// Starts a guardian for `pid`, which knows `state`. `queued`: the number of entries in the process's queues, known to
    /// the guardian or not: all are queued anew when a signal is put back before them.
    ///
    /// The caller's process must have one thread: the guardian is a fork of it.
    ///
    /// # Errors
    /// If fork(2) fails, or `pid` is gone.
    pub fn start(pid: Pid, state: &ProcessState, queued: usize) -> Result<Guardian> {
        let failed = |e: io::Error| Error::io("start the guardian", &e);
        // The pid may belong to another process when criu is gone.
        let held = PidFd::open(pid)?;
        fault::point(Point::GuardianForking)?;
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let foreign = with_links(|links| {
            links.push(ours.as_raw_fd());
            links.clone()
        });
        let mut guardian = Guardian {
            link: ours,
            amount: Amount::known_first(state, queued),
            reserve: Reserve::default(),
            held,
        };
        let score = {
            let mut known = score();
            if known.is_none() {
                *known = memory::end_first();
            }
            *known
        };
        detached::start(c"signals-guard", "start the guardian", &foreign, || {
            if let Some(score) = score {
                memory::score_again(score);
            }
            watch(theirs, &guardian.held, state.clone(), queued)
        })?;
        let link = &guardian.link;
        let bounded = link
            .set_read_timeout(Some(READY_TIME))
            .and_then(|()| link.set_write_timeout(Some(READY_TIME)));
        bounded.map_err(failed)?;
        guardian.reserve.try_for_other(guardian.amount.whole())?;
        guardian.await_ready()?;
        Ok(guardian)
    }

    /// The process that the guardian watches.
    pub fn held(&self) -> &PidFd {
        &self.held
    }

    /// As [`start`](Self::start), for a process that ignores SIGTRAP and whose signals stay in.
    ///
    /// # Errors
    /// Those of [`start`](Self::start).
    pub fn of_trap(pid: Pid, state: &ProcessState) -> Result<Guardian> {
        let mut state = ProcessState {
            timers: Vec::new(),
            ..state.clone()
        };
        state
            .queues_mut()
            .for_each(|pending| *pending = Pending::default());
        // Dispositions alone are put back.
        Guardian::start(pid, &state, 0)
    }

    /// Tells the guardian of signals that are about to be taken out, and that were not in the state at its start.
    ///
    /// # Errors
    /// EPIPE if the guardian is gone: then nothing may be taken out.
    pub fn hold(&mut self, queue: Queue, tid: Tid, infos: &[Siginfo]) -> Result<()> {
        let message = message(HOLD, queue, tid, infos);
        fault::point(Point::GuardianTelling)?;
        // The guardian holds earlier signals, and must not be the process that the OOM killer ends.
        self.amount.told += infos.len();
        self.reserve.try_for_other(self.amount.whole())?;
        self.tell(&message)?;
        fault::point(Point::GuardianTold)
    }

    /// Tells the guardian which entries that it holds the kernel has dropped, because their timers are deleted.
    ///
    /// # Errors
    /// Those of [`hold`](Self::hold).
    pub fn dropped(&mut self, queue: Queue, tid: Tid, infos: &[Siginfo]) -> Result<()> {
        self.tell(&message(GONE, queue, tid, infos))
    }

    /// Tells the guardian that this process puts signals back from now on: entries that the guardian finds in the
    /// queues may be among those that were taken out. Until then such entries can only have been sent since.
    ///
    /// # Errors
    /// EPIPE if the guardian is gone.
    pub fn returning(&mut self) -> Result<()> {
        self.tell(&message(RETURNING, Queue::Shared, Tid::NONE, &[]))
    }

    /// The guardian holds what it was told, and has the memory to put that back.
    fn await_ready(&self) -> Result<()> {
        let mut answer = [0];
        (&self.link).read_exact(&mut answer).map_err(|e| told(&e))
    }

    /// Is the guardian still there?
    ///
    /// # Errors
    /// EPIPE if not.
    pub fn check(&mut self) -> Result<()> {
        self.hold(Queue::Shared, Tid::NONE, &[])
    }

    /// All signals are back: the guardian exits.
    ///
    /// # Errors
    /// EPIPE if the guardian has ended before.
    pub fn dismiss(mut self) -> Result<()> {
        let mut message = [0; HEADER];
        message[0] = DONE;
        self.send(&message)?;
        fault::point(Point::GuardianDismissed)
    }

    fn tell(&mut self, message: &[u8]) -> Result<()> {
        self.send(message)?;
        self.await_ready()
    }

    fn send(&mut self, message: &[u8]) -> Result<()> {
        self.link.write_all(message).map_err(|e| told(&e))
    }
}

fn message(kind: u8, queue: Queue, tid: Tid, infos: &[Siginfo]) -> Vec<u8> {
    let count = u32::try_from(infos.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER + infos.len() * SIGINFO_SIZE);
    message.push(kind);
    message.push(u8::from(queue == Queue::Shared));
    message.extend_from_slice(&tid.get().to_le_bytes());
    message.extend_from_slice(&count.to_le_bytes());
    for info in infos {
        message.extend_from_slice(info.as_bytes());
    }
    message
}

/// How much may have to be put back.
#[derive(Clone, Copy, Debug)]
struct Amount {
    /// What the guardian knew at first.
    known: usize,
    /// The number of entries in the queues then, and how many of these the guardian has been told of since.
    queued: usize,
    told: usize,
}

impl Amount {
    fn known_first(state: &ProcessState, queued: usize) -> Amount {
        Amount {
            known: siginfos(state),
            queued,
            told: 0,
        }
    }

    fn whole(self) -> usize {
        self.known + self.queued.max(self.told)
    }
}

fn siginfos(state: &ProcessState) -> usize {
    state.queues().map(|pending| pending.queue.len()).sum()
}

fn watch(mut link: UnixStream, held: &PidFd, mut state: ProcessState, queued: usize) -> i32 {
    let pid = held.pid();
    let told = |e: Error| {
        log::error!("pid {pid}: the guardian failed: {e}");
        1
    };
    if let Err(e) = fault::point(Point::GuardianWatching) {
        return told(e);
    }
    let mut reserve = Reserve::default();
    let mut amount = Amount::known_first(&state, queued);
    let mut told_of = Told {
        amount,
        last: [None; 2],
        returning: false,
    };
    loop {
        if let Err(e) = reserve.ensure_for(amount.whole()) {
            return told(e);
        }
        // If this fails, the parent is gone, and the next message does not come.
        let _ = link.write_all(&[READY]);
        match receive(&mut link, &mut state) {
            Ok(Message::Held(piece)) => {
                amount.told = siginfos(&state) - amount.known;
                told_of.amount = amount;
                if piece.is_some() {
                    told_of.last = [told_of.last[1], piece];
                }
            }
            Ok(Message::Returning) => told_of.returning = true,
            Ok(Message::Done) => return 0,
            Err(_) => break,
        }
        if let Err(e) = fault::point(Point::GuardianHeard) {
            return told(e);
        }
    }
    // From here on there is that much room.
    drop(reserve);
    match rescue(held, &state, &told_of) {
        Ok(count) => {
            if holds_any(&state) {
                log::error!("pid {pid}: criu is gone; {count} pending signals were put back");
            }
            0
        }
        Err(e) if e.is_died() && is_gone(held) => {
            log::warn!("pid {pid}: the process has ended, and its pending signals with it: {e}");
            0
        }
        Err(e) => {
            log::error!("pid {pid}: criu is gone, and pending signals could NOT be put back: {e}");
            1
        }
    }
}

/// What the guardian was told while the queue was taken out piece by piece.
#[derive(Clone, Copy, Debug)]
struct Told {
    amount: Amount,
    /// The last two pieces. If the tracer dies, the thread queues the entries of its present piece again, until it begins
    /// with the next piece; so only entries of these two pieces may be in the queue.
    last: [Option<Piece>; 2],
    /// criu has begun to put all of it back.
    returning: bool,
}

/// A piece: the number of entries that were about to be taken out of one queue.
#[derive(Clone, Copy, Debug)]
struct Piece {
    queue: Queue,
    tid: Tid,
    entries: usize,
}

/// What the parent has said.
enum Message {
    /// What is about to be taken out, if anything is.
    Held(Option<Piece>),
    /// What was taken out is being put back.
    Returning,
    /// All is done.
    Done,
}

/// Takes one message. An error: the parent is gone.
fn receive(link: &mut UnixStream, state: &mut ProcessState) -> io::Result<Message> {
    let mut header = [0; HEADER];
    link.read_exact(&mut header)?;
    match header[0] {
        DONE => return Ok(Message::Done),
        RETURNING => return Ok(Message::Returning),
        _ => {}
    }
    let number = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
    let tid = Tid::new(number(2).cast_signed()).unwrap_or(Tid::NONE);
    let mut infos = vec![0; number(6) as usize * SIGINFO_SIZE];
    link.read_exact(&mut infos)?;
    let infos: Vec<Siginfo> = infos
        .chunks_exact(SIGINFO_SIZE)
        .map(|bytes| Siginfo::from_bytes(std::array::from_fn(|i| bytes[i])))
        .collect();
    let queue = if header[1] == 1 {
        Queue::Shared
    } else {
        Queue::Private
    };
    if header[0] == GONE {
        dropped(state, queue, tid, &infos);
        return Ok(Message::Held(None));
    }
    hold(state, queue, tid, &infos);
    let piece = Piece {
        queue,
        tid,
        entries: infos.len(),
    };
    Ok(Message::Held((!infos.is_empty()).then_some(piece)))
}

/// Notes in `state` of which entries the timers are gone.
pub fn dropped(state: &mut ProcessState, queue: Queue, tid: Tid, infos: &[Siginfo]) {
    let thread = thread_of(state, queue, tid);
    let gone = infos
        .iter()
        .filter_map(|info| dropped::of_timer(info, thread));
    state.deleted_timers.extend(gone);
}

/// Notes in `state` what is about to be taken out.
pub fn hold(state: &mut ProcessState, queue: Queue, tid: Tid, infos: &[Siginfo]) {
    if let Some(pending) = pending_of(state, queue, tid) {
        pending
            .bits
            .extend(infos.iter().filter_map(|info| SigNo::new(info.signo())));
        pending.queue.extend_from_slice(infos);
    }
}

fn rescue(held: &PidFd, state: &ProcessState, told: &Told) -> Result<usize> {
    let pid = held.pid();
    let deadline = Instant::now() + RESCUE_TIME;
    let mut attempts = 0;
    loop {
        if is_gone(held) {
            return Err(Error::new("find the process", Cause::Died));
        }
        let told = (attempts == 0).then_some(told);
        match try_rescue(held, state, told, deadline) {
            Ok(Some(count)) => return Ok(count),
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            // No other process tries after the guardian. Signals that are back already are not put back twice. The error
            // "the task is gone" can mean a thread that has just ended.
            Err(e) if attempts < RESCUE_ATTEMPTS && Instant::now() < deadline => {
                attempts += 1;
                log::warn!("pid {pid}: retrying to put pending signals back: {e}");
                std::thread::sleep(BETWEEN_ATTEMPTS);
            }
            Err(e) => return Err(e),
        }
    }
}

/// Has the process ended, or is it ending?
fn is_gone(held: &PidFd) -> bool {
    held.check().is_err() || proc::is_gone(held.pid())
}

fn holds_any(state: &ProcessState) -> bool {
    state.queues().any(|pending| *pending != Pending::default())
}

fn put_back(
    stopped: &StoppedProcess<ByUs>,
    state: &ProcessState,
    told: Option<&Told>,
) -> Result<usize> {
    // First: a signal that becomes ignored is taken out of all queues (do_sigaction).
    if repair::ignore_trap_again(stopped, state)? {
        log::error!(
            "pid {}: criu is gone; SIGTRAP, which the process ignored before criu's trap, is ignored again",
            stopped.pid()
        );
    }
    if !holds_any(state) {
        return Ok(0);
    }
    let depth = depth(stopped)?;
    match told {
        // Entries that are still in the queue, which was not read, may be equal to entries that are out.
        Some(told) if told.is_out(depth) => {
            repair::give_back_all(stopped, state, Some(&told.still_in(state, depth)))
        }
        _ => repair::give_back(stopped, state),
    }
}

impl Told {
    /// Are the entries that the guardian was told of out of the process, except for those of the last two pieces?
    /// `depth`: the number of entries in the process now. If there are more entries than that leaves, some have been
    /// put back.
    fn is_out(&self, depth: usize) -> bool {
        let Amount {
            known,
            queued,
            told,
        } = self.amount;
        let last: usize = self.last.iter().flatten().map(|one| one.entries).sum();
        !self.returning && known == 0 && told > 0 && depth + told <= queued + last
    }

    /// The part of `state` that is in the process, which has `depth` entries now. The kernel may have dropped some of
    /// these entries, and further signals may have been sent since.
    fn still_in(&self, state: &ProcessState, depth: usize) -> ProcessState {
        let mut still_in = state.clone();
        let mut rest = state.clone();
        for pending in still_in.queues_mut() {
            *pending = Pending::default();
        }
        let Amount { queued, told, .. } = self.amount;
        let mut out = told;
        for piece in self.last.iter().rev().flatten() {
            if depth + out < queued + piece.entries.div_ceil(2) {
                break;
            }
            out = out.saturating_sub(piece.entries);
            if let Some(pending) = pending_of(&mut rest, piece.queue, piece.tid) {
                let first = pending.queue.len().saturating_sub(piece.entries);
                let entries = pending.queue.split_off(first);
                hold(&mut still_in, piece.queue, piece.tid, &entries);
            }
        }
        still_in
    }
}

/// How many entries all queues of a process have.
///
/// # Errors
/// If it is gone.
pub fn depth<Owner>(stopped: &StoppedProcess<Owner>) -> Result<usize> {
    let mut depth = ptrace::depth(stopped.leader(), true)?;
    for &tid in stopped.threads() {
        depth += ptrace::depth(tid, false)?;
    }
    Ok(depth)
}

/// The thread of the queue, by its id in its own namespace; `None`: the shared queue.
pub fn thread_of(state: &ProcessState, queue: Queue, tid: Tid) -> Option<i32> {
    let mut threads = state.threads.iter();
    let thread = threads.find(|t| queue == Queue::Private && t.tid() == tid);
    thread.map(|t| t.ids.innermost())
}

/// The queue of that thread, or the shared queue.
pub fn pending_of(state: &mut ProcessState, queue: Queue, tid: Tid) -> Option<&mut Pending> {
    match queue {
        Queue::Shared => Some(&mut state.shared),
        Queue::Private => {
            let thread = state.threads.iter_mut().find(|t| t.tid() == tid);
            thread.map(|t| &mut t.pending)
        }
    }
}

/// `None`: the process is still traced.
fn try_rescue(
    held: &PidFd,
    state: &ProcessState,
    told: Option<&Told>,
    deadline: Instant,
) -> Result<Option<usize>> {
    let _budget = Budget::of_process();
    fault::point(Point::CriuGone)?;
    let left = deadline.saturating_duration_since(Instant::now());
    let stopped = match StoppedProcess::<ByUs>::seize_held(held, left) {
        // The kernel closes the files of a process that ends before it lets its tracees go.
        Err(e) if matches!(e.cause(), Cause::Os(Errno::EPERM)) && Instant::now() < deadline => {
            return Ok(None);
        }
        // The plugin and CRIU have made calls in it.
        seized => seized?.assume_calls(),
    };
    let result = fault::point(Point::RescueSeized)
        .and_then(|()| {
            let count = put_back(&stopped, state, told)?;
            repair::calls_of_stopped(&stopped, state)?;
            repair::masks_of_calls(&stopped, state, Held::AtTimes).map(|()| count)
        })
        .and_then(|count| fault::point(Point::RescueDone).map(|()| count));
    stopped.release()?;
    result.map(Some)
}

#[cfg(test)]
mod tests {
    use criu_signals_images::{Fields, NsIds, ThreadState};

    use super::*;

    const RT: i32 = 54;

    fn sent(value: u64) -> Siginfo {
        let fields = Fields::Value {
            pid: 9,
            uid: 0,
            value,
        };
        Siginfo::from_fields(RT, 0, -1, &fields)
    }

    fn heard(
        link: &mut (UnixStream, UnixStream),
        state: &mut ProcessState,
        said: &[u8],
    ) -> Message {
        link.0.write_all(said).unwrap();
        receive(&mut link.1, state).unwrap()
    }

    #[test]
    fn what_is_being_put_back_was_not_sent_since() {
        let ids = |id| NsIds::new(vec![id]).unwrap();
        let mut state = ProcessState::bare(ids(7));
        state.threads = [7, 8, 9].map(ids).map(ThreadState::bare).to_vec();
        let mut told = Told {
            amount: Amount::known_first(&state, 3),
            last: [None; 2],
            returning: false,
        };
        let mut link = UnixStream::pair().unwrap();
        for (tid, value) in [(8, 1), (9, 2), (9, 3)] {
            let held = message(HOLD, Queue::Private, Tid::new(tid).unwrap(), &[sent(value)]);
            match heard(&mut link, &mut state, &held) {
                Message::Held(piece) => told.last = [told.last[1], piece],
                _ => panic!("it is a HOLD"),
            }
        }
        told.amount.told = siginfos(&state);
        // criu is killed when the entry of thread 8 alone is back. By the number of entries that may have been sent since, and one
        // of thread 9 be in the process still.
        assert!(told.is_out(1));
        let returning = message(RETURNING, Queue::Shared, Tid::NONE, &[]);
        told.returning = matches!(heard(&mut link, &mut state, &returning), Message::Returning);
        assert!(!told.is_out(1));
        assert_eq!(siginfos(&state), 3);
    }
}
