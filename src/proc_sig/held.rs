//! Reads and writes a whole file while the process is stopped.

use std::time::Duration;

use criu_signals_images::text::{
    self, Actions, Dialect, SigFile, TextError, Written, WrittenQueue,
};
use criu_signals_images::{
    AltStack, DefaultAction, Disposition, Dispositions, Pending, SigNo, SigSet, Siginfo, Tid,
};
use nix::errno::Errno;

use crate::error::{Cause, Error, Phase, Result};
use crate::losses::by_stop::refuse_stop;
use crate::proc::{self, Region, SignalStatus};
use crate::process::same_program::SameProgram;
use crate::state::{AlternateStack, Kind, Queue, SignalDispositions, SignalMask, Site, put_back};
use crate::tracee::{ByUs, Injector, StoppedProcess};

use super::Subject;
use super::arrivals;
use super::removed::{Found, Removed, only};
use super::waiters;

const SA_SIGINFO: u64 = 0x4;
/// What the handler returns to is in the disposition (asm/signal.h).
const SA_RESTORER: u64 = 0x0400_0000;

/// Why a text could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The text is wrong; the process was not touched.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The process could not be changed, and is as it was unless this says something else.
    #[error(transparent)]
    Process(#[from] Error),
}

/// Reads one file.
///
/// # Errors
/// If the process can't be stopped within `timeout`, or looked at.
pub fn read(subject: Subject, file: SigFile, timeout: Duration) -> Result<String> {
    if file == SigFile::Waiters {
        return Ok(text::render_waiters(&waiters::list(subject)?));
    }
    let held = Held::seize(subject, timeout)?;
    let text = held.read(file);
    held.release()?;
    text
}

/// Writes one file. Whose the text is follows from it, unless `dialect` says it. If `seen` is there, nothing is written into
/// another process or program than that.
///
/// # Errors
/// [`WriteError`]: all of the text is written, or nothing.
pub fn write(
    subject: Subject,
    file: SigFile,
    text: &[u8],
    dialect: Option<Dialect>,
    addresses: Addresses,
    seen: Option<&SameProgram>,
    timeout: Duration,
) -> std::result::Result<Vec<String>, WriteError> {
    let written = text::parse(file, text, dialect)?;
    let held = Held::seize(subject, timeout)?;
    let done = seen
        .map_or(Ok(()), |seen| seen.check("nothing is written"))
        .map_err(|e| e.during(Phase::Seize, subject.pid))
        .and_then(|()| held.write_with(file, &written, addresses));
    held.release()?;
    Ok(done?)
}

/// What becomes of addresses in a text that mean nothing in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// A handler where the process has no code is refused. It returns to where the process's own handlers do, if there is no
    /// code where the text says.
    Checked,
    /// They are written all the same.
    AsWritten,
}

/// A subject whose process is stopped.
#[derive(Debug)]
pub struct Held {
    pub(super) stopped: StoppedProcess<ByUs>,
    pub(super) tid: Tid,
}

impl Held {
    /// Stops the process.
    ///
    /// # Errors
    /// Those of [`StoppedProcess::seize`]; [`Cause::Died`] if the process has no such thread.
    pub fn seize(subject: Subject, timeout: Duration) -> Result<Held> {
        refuse_stop(subject.pid)?;
        let stopped = StoppedProcess::<ByUs>::seize(subject.pid, timeout)?;
        let tid = subject.tid();
        if !stopped.threads().contains(&tid) {
            let e = Error::new("find the thread", Cause::Died).in_thread(tid);
            return Err(e.during(Phase::Seize, subject.pid));
        }
        Ok(Held { stopped, tid })
    }

    /// Lets the process go on.
    ///
    /// # Errors
    /// Those of [`StoppedProcess::release`].
    pub fn release(self) -> Result<()> {
        self.stopped.release()
    }

    /// The text of a file.
    ///
    /// # Errors
    /// What could not be read.
    pub fn read(&self, file: SigFile) -> Result<String> {
        self.at_site(file, Phase::Capture, |site| {
            Ok(match file {
                SigFile::Action => text::render_actions(&SignalDispositions::capture(site)?),
                SigFile::AltStack => text::render_altstack(&AlternateStack::capture(site)?),
                // The one that is the thread's own and that a write sets, also while sigsuspend(2) or the like has
                // put another in force.
                SigFile::Blocked => text::render_blocked(SignalMask::capture(site)?),
                SigFile::Pending => queue_text(site, Queue::Private)?,
                SigFile::SharedPending => queue_text(site, Queue::Shared)?,
                SigFile::Waiters => {
                    let subject = Subject {
                        pid: site.pid(),
                        thread: Some(self.tid),
                    };
                    text::render_waiters(&waiters::list(subject)?)
                }
            })
        })
    }

    /// Makes the process what `written`, a text of `file`, says, to the letter.
    ///
    /// # Errors
    /// [`Cause::Refused`] if that can't be; else what failed, and if what was there before could not be put back, that
    /// too.
    pub fn write(&self, file: SigFile, written: &Written) -> Result<()> {
        self.write_with(file, written, Addresses::AsWritten)
            .map(drop)
    }

    /// As [`write`](Self::write). Returns what was written otherwise than the text has it, and why.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    pub fn write_with(
        &self,
        file: SigFile,
        written: &Written,
        addresses: Addresses,
    ) -> Result<Vec<String>> {
        let mut said = Vec::new();
        self.at_site(file, Phase::Replay, |site| match (file, written) {
            (SigFile::Action, Written::Actions(actions)) => {
                said = write_actions(site, actions, addresses)?;
                Ok(())
            }
            (SigFile::AltStack, Written::AltStack(stack)) => write_altstack(site, stack),
            (SigFile::Blocked, Written::Blocked(blocked)) => {
                // As sigprocmask(2): an attempt to block these two is ignored.
                let blocked = without_unblockable(*blocked);
                replace::<SignalMask>(site, &blocked)
            }
            (SigFile::Pending, Written::Queue(queue)) => write_queue(site, Queue::Private, queue),
            (SigFile::SharedPending, Written::Queue(queue)) => {
                write_queue(site, Queue::Shared, queue)
            }
            _ => Err(refused(format!("{file} cannot be written with this text"))),
        })?;
        Ok(said)
    }

    /// What belongs to the process is reached through its leader.
    pub(super) fn at_site<T>(
        &self,
        file: SigFile,
        phase: Phase,
        act: impl FnOnce(&mut Site<'_, '_, ByUs>) -> Result<T>,
    ) -> Result<T> {
        let tid = match file {
            SigFile::Action | SigFile::SharedPending => self.stopped.leader(),
            _ => self.tid,
        };
        let inner = || {
            let mut injector = Injector::new(&self.stopped)?;
            let done = act(&mut Site {
                injector: &mut injector,
                tid,
            });
            match (injector.finish(), &done) {
                (Ok(()), _) => done,
                // Nothing can be made inside the process any more, so that nothing can be put back either.
                (Err(e), Ok(_)) if phase == Phase::Replay && !e.is_died() => {
                    let what = format!("{e}; the change itself was made and read back");
                    Err(Error::new("leave the process", Cause::Unexpected(what)))
                }
                (Err(e), _) => Err(e),
            }
        };
        inner().map_err(|e: Error| e.in_thread(tid).during(phase, self.stopped.pid()))
    }
}

pub(super) fn refused(why: impl Into<String>) -> Error {
    Error::new("write", Cause::Refused(why.into().into()))
}

fn without_unblockable(set: SigSet) -> SigSet {
    set.without(SigNo::KILL).without(SigNo::STOP)
}

fn queue_text(site: &Site<'_, '_, ByUs>, which: Queue) -> Result<String> {
    let timers = proc::timers(site.pid())?;
    let pending = which.read(site, usize::MAX)?;
    Ok(text::render_queue(&pending, |info| {
        timers.iter().any(|timer| timer.made(info))
    }))
}

/// Puts `wanted` there, or else what was there before.
pub(super) fn replace<K: Kind>(site: &mut Site<'_, '_, ByUs>, wanted: &K::State) -> Result<()> {
    let before = K::capture(site)?;
    put_back::<K, _>(site, wanted).map(drop).map_err(|e| {
        let back = put_back::<K, _>(site, &before);
        also(e, back.err())
    })
}

/// Something failed, and perhaps putting back what was there before as well.
pub(super) fn also(e: Error, back: Option<Error>) -> Error {
    match back {
        None => e,
        Some(back) if back.is_died() => back,
        Some(back) => Error::new(
            "write",
            Cause::Unexpected(format!(
                "{e}; and the previous content could NOT be put back: {back}"
            )),
        ),
    }
}

pub(super) fn write_altstack(site: &mut Site<'_, '_, ByUs>, wanted: &AltStack) -> Result<()> {
    let found = AlternateStack::capture(site)?;
    if found == *wanted {
        return Ok(());
    }
    if wanted.on_stack() {
        return Err(refused(
            "SS_ONSTACK (1) means that the thread runs on its alternate stack now: the flag is read-only",
        ));
    }
    if found.on_stack() {
        return Err(Error::new(
            "sigaltstack, while the thread runs on its alternate stack",
            Cause::Os(Errno::EPERM),
        ));
    }
    // do_sigaltstack keeps no address and size of a stack that is disabled.
    let wanted = if wanted.is_disabled() {
        AltStack::DISABLED
    } else {
        *wanted
    };
    replace::<AlternateStack>(site, &wanted)
}

/// A handler runs, and returns, where the process has code: in another process, also one of the same program, libraries are
/// elsewhere, and so is what handlers return to. Returns what was changed for that.
fn fit_addresses(
    before: &Dispositions,
    wanted: &mut Dispositions,
    regions: &[Region],
) -> Result<Vec<String>> {
    let runs = |at: u64| {
        let region = regions.iter().find(|r| (r.start..r.end).contains(&at));
        region.is_some_and(|region| region.executable)
    };
    let is_handler = |d: &Disposition| !d.is_default_handler() && !d.is_ignored();
    // One that takes a siginfo returns elsewhere than one that does not, in a 32-bit program.
    let kind = |d: &Disposition| d.flags & (SA_RESTORER | SA_SIGINFO);
    let mut said = Vec::new();
    for signo in SigNo::all() {
        let new = wanted[signo];
        if new == before[signo] || !is_handler(&new) {
            continue;
        }
        if !runs(new.handler) {
            return Err(refused(format!(
                "the process has no executable memory at {:#x}, the handler of {signo}. Use --force to write it anyway",
                new.handler
            )));
        }
        if new.flags & SA_RESTORER == 0 || runs(new.restorer) {
            continue;
        }
        let has_one = |d: &&Disposition| is_handler(d) && kind(d) == kind(&new) && runs(d.restorer);
        let own = std::iter::once(&before[signo])
            .chain(before.iter().map(|(_, d)| d))
            .find(has_one);
        let Some(own) = own else {
            return Err(refused(format!(
                "the process has no executable memory at {:#x}, where the handler of {signo} would return, and no \
                 handler of its own with a restorer to use instead. Use --force to write it anyway",
                new.restorer
            )));
        };
        said.push(format!(
            "the handler of {signo} returns to {:#x}, like the process's own handlers, because the process has no \
             executable memory at {:#x}",
            own.restorer, new.restorer
        ));
        wanted[signo].restorer = own.restorer;
    }
    Ok(said)
}

fn write_actions(
    site: &mut Site<'_, '_, ByUs>,
    actions: &Actions,
    addresses: Addresses,
) -> Result<Vec<String>> {
    let before = SignalDispositions::capture(site)?;
    let mut wanted = actions.over(&before);
    let mut said = match addresses {
        Addresses::Checked => fit_addresses(&before, &mut wanted, &proc::regions(site.pid())?)?,
        Addresses::AsWritten => Vec::new(),
    };
    let removed = replace_actions(site, &before, wanted)?;
    let discarded = removed.iter().flat_map(Removed::lines);
    said.extend(discarded.map(|what| format!("discarded, because it is ignored now: {what}")));
    Ok(said)
}

/// Makes the dispositions `wanted`, or else what they were `before`. Returns the pending signals that this has discarded.
pub(super) fn replace_actions(
    site: &mut Site<'_, '_, ByUs>,
    before: &Dispositions,
    mut wanted: Dispositions,
) -> Result<Vec<Removed>> {
    for signo in SigNo::all() {
        // As sigaction(2): an attempt to block these two is ignored.
        wanted[signo].mask = without_unblockable(wanted[signo].mask);
    }
    for signo in [SigNo::KILL, SigNo::STOP] {
        if wanted[signo] != before[signo] {
            return Err(refused(format!(
                "{signo} keeps its default action (sigaction(2))"
            )));
        }
    }
    // Pending signals that become ignored are flushed (do_sigaction), which is what the write means, unless it fails.
    let ignored = newly_ignored(before, &wanted);
    let queues = if any_pending(site, ignored)? {
        all_queues(site)?
    } else {
        Vec::new()
    };
    if let Err(e) = put_back::<SignalDispositions, _>(site, &wanted) {
        let mut back = || {
            put_back::<SignalDispositions, _>(site, before)?;
            let unchanged = queues.iter().map(|(_, _, pending)| pending);
            arrivals::put_back(site, queues.iter().zip(unchanged))
        };
        return Err(also(e, back().err()));
    }
    let discarded = |(tid, queue, pending): Found| Removed {
        tid,
        queue,
        pending: only(&pending, ignored),
        again: SigSet::EMPTY,
    };
    let removed = queues.into_iter().map(discarded);
    Ok(removed
        .filter(|removed| !removed.pending.bits.is_empty())
        .collect())
}

fn is_ignored(signo: SigNo, disposition: &Disposition) -> bool {
    disposition.is_ignored()
        || disposition.is_default_handler() && signo.default_action() == DefaultAction::Ignore
}

fn newly_ignored(before: &Dispositions, wanted: &Dispositions) -> SigSet {
    let changed = wanted.iter().filter(|&(signo, disposition)| {
        *disposition != before[signo] && is_ignored(signo, disposition)
    });
    changed.map(|(signo, _)| signo).collect()
}

fn any_pending(site: &Site<'_, '_, ByUs>, signals: SigSet) -> Result<bool> {
    let pending = all_bits(site)?
        .iter()
        .fold(SigSet::EMPTY, |all, (_, _, bits)| all.union(*bits));
    Ok(!pending.intersection(signals).is_empty())
}

/// What is pending in each queue of the process.
fn all_bits(site: &Site<'_, '_, ByUs>) -> Result<Vec<(Tid, Queue, SigSet)>> {
    let process = site.injector.process();
    let leader = process.leader();
    let shared = SignalStatus::read(process.pid(), leader)?.shared_pending;
    let mut all = vec![(leader, Queue::Shared, shared)];
    for &tid in process.threads() {
        let private = SignalStatus::read(process.pid(), tid)?.pending;
        all.push((tid, Queue::Private, private));
    }
    Ok(all)
}

pub(super) fn all_queues(site: &mut Site<'_, '_, ByUs>) -> Result<Vec<Found>> {
    all_bits(site)?
        .into_iter()
        .map(|(tid, which, _)| {
            let site = &Site {
                injector: &mut *site.injector,
                tid,
            };
            Ok((tid, which, which.read(site, usize::MAX)?))
        })
        .collect()
}

fn write_queue(site: &mut Site<'_, '_, ByUs>, which: Queue, written: &WrittenQueue) -> Result<()> {
    let wanted = &written.pending;
    let before = which.read(site, usize::MAX)?;
    if before == *wanted {
        return Ok(());
    }
    may_be_pending(site, which, wanted)?;
    may_be_preallocated(site, &before, written)?;
    match arrivals::set(site, which, &before, wanted) {
        Ok(_) => Ok(()),
        Err(e) if matches!(e.cause(), Cause::Refused(_)) => Err(e),
        Err(e) => {
            let queue = (site.tid, which, before);
            let back = arrivals::put_back(site, std::iter::once((&queue, wanted)));
            Err(also(e, back.err()))
        }
    }
}

/// What the kernel never keeps in a queue, or would change something else for.
fn may_be_pending(site: &Site<'_, '_, ByUs>, which: Queue, wanted: &Pending) -> Result<()> {
    for signo in [SigNo::KILL, SigNo::STOP] {
        if wanted.bits.contains(signo) {
            return Err(refused(format!(
                "{signo} can't be made pending: it takes effect as soon as it is sent"
            )));
        }
    }
    let stops: SigSet = SigNo::all().filter(|signo| signo.is_stop()).collect();
    let all = all_bits(site)?;
    let is_this = |tid, queue| queue == which && (queue == Queue::Shared || tid == site.tid);
    let bits = all
        .iter()
        .filter(|(tid, queue, _)| !is_this(*tid, *queue))
        .fold(wanted.bits, |bits, (_, _, other)| bits.union(*other));
    let cont = SigNo::CONT;
    // prepare_signal: each of them removes the other, from every queue of the process.
    if wanted.bits.contains(cont) && !bits.intersection(stops).is_empty()
        || bits.contains(cont) && !wanted.bits.intersection(stops).is_empty()
    {
        return Err(refused(format!(
            "{cont} and a stop signal ({}) can't be pending in the same process: each removes the other",
            bits.intersection(stops)
        )));
    }
    if wanted.bits.contains(cont)
        && site.injector.process().trapped_for(site.tid)?.is_some()
        && !all.iter().any(|(_, _, bits)| bits.contains(cont))
    {
        return Err(refused(format!(
            "the process is stopped, and queueing {cont} would continue it at once"
        )));
    }
    Ok(())
}

/// Only a timer queues its own entry: what is said to be one must be there.
fn may_be_preallocated(
    site: &Site<'_, '_, ByUs>,
    before: &Pending,
    written: &WrittenQueue,
) -> Result<()> {
    let timers = proc::timers(site.pid())?;
    let is_own = |info: &Siginfo| timers.iter().any(|timer| timer.made(info));
    for entry in &written.preallocated {
        let info = &written.pending.queue[entry.index];
        if !is_own(info) || !before.queue.contains(info) {
            return Err(refused(format!(
                "line {}: flags 1 marks the own entry of a POSIX timer, which only the timer can queue, and this one is \
                 not in the queue now; flags 0 queues a copy, which does not re-arm the timer",
                entry.line
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_signals_images::Pid;

    #[test]
    fn subjects() {
        let subject = |pid, thread: Option<i32>| Subject {
            pid: Pid::new(pid).unwrap(),
            thread: thread.and_then(Tid::new),
        };
        for (text, wanted) in [("41", subject(41, None)), ("41/43", subject(41, Some(43)))] {
            assert_eq!(text.parse(), Ok(wanted));
            assert_eq!(wanted.to_string(), text);
        }
        for text in ["", "x", "0", "-1", "41/", "/41", "41/x", "41/43/44", "41/0"] {
            text.parse::<Subject>().expect_err(text);
        }
        assert_eq!(subject(41, None).tid().get(), 41);
    }

    #[test]
    fn handlers_return_to_where_the_process_has_code() {
        let code = |start| Region {
            start,
            end: start + 0x1000,
            executable: true,
            writable: false,
        };
        let regions = [code(0x1000), code(0x7000)];
        let handler = |handler, restorer| Disposition {
            handler,
            flags: SA_RESTORER,
            restorer,
            mask: SigSet::EMPTY,
        };
        let mut before = Dispositions::default();
        let fit = |before: &Dispositions, new: Disposition| {
            let mut wanted = before.clone();
            wanted[SigNo::USR1] = new;
            fit_addresses(before, &mut wanted, &regions)
                .map(|said| (wanted[SigNo::USR1], said.len()))
        };
        let refused = |before: &Dispositions, new| fit(before, new).unwrap_err().to_string();
        assert!(refused(&before, handler(0x1100, 0x9000)).contains("would return,"));
        assert!(refused(&before, handler(0x9000, 0x7000)).contains("the handler of SIGUSR1"));
        before[SigNo::HUP] = handler(0x1200, 0x7123);
        let kept = handler(0x1100, 0x7123);
        assert_eq!(fit(&before, handler(0x1100, 0x9000)).unwrap(), (kept, 1));
        assert_eq!(
            fit(&before, handler(0x1100, 0x7200)).unwrap(),
            (handler(0x1100, 0x7200), 0)
        );
        before[SigNo::USR1] = handler(0x9000, 0x9000);
        assert_eq!(
            fit(&before, before[SigNo::USR1]).unwrap().1,
            0,
            "its own matter"
        );
    }

    #[test]
    fn what_a_disposition_ignores() {
        let ignore = Disposition {
            handler: 1,
            ..Disposition::DEFAULT
        };
        assert!(is_ignored(SigNo::TERM, &ignore));
        assert!(is_ignored(SigNo::CHLD, &Disposition::DEFAULT));
        assert!(!is_ignored(SigNo::TERM, &Disposition::DEFAULT));
    }
}
