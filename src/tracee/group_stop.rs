//! Enters, joins and ends group stops in a process that stays traced.
//!
//! Nothing is injected, and not one instruction of the program is executed: a thread that is let go with a signal
//! pending handles that one, and traps again, on its way out of the kernel (get_signal, kernel/signal.c). So this
//! works in a process without room for a stub, and in one that ignores no signal.
//!
//! What makes it work:
//!
//! - A group stop begins when a thread dequeues a stop signal (do_signal_stop). The tracer sees the signal before it
//!   takes effect and may put another in its place (ptrace_signal). SIGSTOP is the carrier: it cannot be blocked,
//!   handled or ignored. While everything else is blocked it is what gets dequeued, whatever is pending.
//! - The stop is complete, and the real parent is told, when the last thread has trapped for it
//!   (task_participate_group_stop). It stays when the tracer lets go (`__ptrace_unlink`).
//! - A traced process that is in a group stop already can be put into another: the status for the parent stays the
//!   first one's, and nobody is told (do_signal_stop, SIGNAL_STOP_STOPPED). What a tracer sees is the new one's.

use std::time::{Duration, Instant};

use criu_signals_images::{Pid, SigNo, SigSet, Tid};
use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::bound::Bound;
use super::ptrace::{self, EVENT_SHIFT, Resume, Stop};
use super::stopped::StoppedProcess;
use crate::error::{Cause, Error, Result};
use crate::proc::SignalStatus;
use crate::process::pidfd::PidFd;

/// What takes microseconds unless somebody interferes: a SIGCONT from outside takes away the stop signal that a
/// thread was let go for.
const PATIENCE: Duration = Duration::from_secs(2);

impl<Owner> StoppedProcess<Owner> {
    /// The signal of the group stop that the thread has trapped for; `None` if it has trapped for something else.
    ///
    /// # Errors
    /// If the thread is gone.
    pub fn trapped_for(&self, tid: Tid) -> Result<Option<SigNo>> {
        Ok(match ptrace::stop_reason(tid)? {
            Some(reason) if reason.code >> EVENT_SHIFT == libc::PTRACE_EVENT_STOP => {
                stop_signal(reason.signo)
            }
            _ => None,
        })
    }

    /// The stop signal that the thread is about to act upon: it stands in a signal-delivery-stop.
    ///
    /// # Errors
    /// If the thread is gone.
    pub fn about_to_stop(&self, tid: Tid) -> Result<Option<SigNo>> {
        Ok(match ptrace::stop_reason(tid)? {
            Some(reason) if reason.code >> EVENT_SHIFT != libc::PTRACE_EVENT_STOP => {
                stop_signal(reason.signo)
            }
            _ => None,
        })
    }

    /// Makes the thread trap once more and tells what group stop it traps for; in one that is under way it takes its
    /// part. Nothing is executed or delivered.
    ///
    /// # Errors
    /// If the thread is gone.
    pub fn trap_again(&self, tid: Tid) -> Result<Option<SigNo>> {
        ptrace::interrupt(tid)?;
        ptrace::resume(tid, Resume::Run, 0)?;
        wait_trap(tid).map(stop_signal)
    }

    /// Puts the whole process into a group stop by `signal`, which is complete on return. A process that is in one
    /// changes over to this one, unseen by its parent.
    ///
    /// `queued` is a stop signal in the shared queue that is not the program's: it is used up. All other signals stay
    /// where they are, except that a pending SIGCONT is lost (prepare_signal), which a stopped process has not.
    ///
    /// # Errors
    /// [`Cause::Unsupported`] if `signal` does not stop this process: it has a handler, or is ignored, or the process
    /// group is orphaned. The process is then stopped by SIGSTOP instead. Else, if it could not be stopped.
    pub fn enter_group_stop(&self, signal: SigNo, queued: Option<SigNo>) -> Result<()> {
        let tid = self.thread_without(queued)?;
        let status = SignalStatus::read(self.pid(), tid)?;
        let first = if is_default(&status, signal) {
            signal
        } else {
            SigNo::STOP
        };
        let queued = queued.filter(|&q| {
            status.shared_pending.contains(q)
                && (q == SigNo::STOP || !status.pending.contains(q) && is_default(&status, q))
        });
        let mut by = self.stop_thread(tid, first, queued)?;
        if by != Some(first) && first != SigNo::STOP {
            // The kernel drops all but SIGSTOP in an orphaned process group, and in the init of a pid namespace
            // (get_signal).
            by = self.stop_thread(tid, SigNo::STOP, None)?;
        }
        let by = by.ok_or_else(|| {
            Error::new(
                "enter the group stop",
                Cause::Unexpected("the thread does not stop".into()),
            )
            .in_thread(tid)
        })?;
        self.join_group_stop(Some(by))?;
        if by == signal {
            return Ok(());
        }
        Err(Error::new(
            format!("enter the group stop by {signal}"),
            Cause::Unsupported(
                format!(
                    "this signal does not stop the process here, because it is handled or ignored or the process \
                     group is orphaned; stopped by {by} instead"
                )
                .into(),
            ),
        ))
    }

    /// Changes a stopped process over to a stop by `signal`, unseen by its parent and without touching a mask, so that
    /// it does not matter if the tracer dies. Says whether that was possible: `signal` must not be blocked in the
    /// leader, and nothing may be pending for the leader alone that would be handed over before the carrier.
    ///
    /// # Errors
    /// If the leader is gone, or does not stop.
    pub fn change_group_stop(&self, signal: SigNo) -> Result<bool> {
        let tid = self.leader();
        let status = SignalStatus::read(self.pid(), tid)?;
        let mask = ptrace::signal_mask(tid)?;
        let in_the_way = !status.pending.difference(mask).is_empty();
        if in_the_way || mask.contains(signal) || !is_default(&status, signal) {
            return Ok(false);
        }
        // The thread's own queue comes before the shared one (dequeue_signal).
        ptrace::tgkill(self.pid(), tid, SigNo::STOP)?;
        wait_signal(tid, SigNo::STOP)?;
        ptrace::interrupt(tid)?;
        ptrace::resume(tid, Resume::Run, signal.get())?;
        let by = wait_trap(tid).map(stop_signal)?;
        self.join_group_stop(by)?;
        Ok(by == Some(signal))
    }

    /// Lets every thread that has not trapped for the group stop by `signal` do so.
    ///
    /// # Errors
    /// If a thread is gone.
    pub fn join_group_stop(&self, signal: Option<SigNo>) -> Result<()> {
        for &tid in self.threads() {
            if self.trapped_for(tid)? != signal {
                self.trap_again(tid)?;
            }
        }
        Ok(())
    }

    /// Makes wait(2) with WCONTINUED in the real parent report the process, which runs: it is stopped and continued.
    /// A SIGCONT that is pending is lost, and so are pending stop signals: who calls this puts them back.
    ///
    /// # Errors
    /// If one of both could not be done.
    pub fn stop_and_continue(&self) -> Result<()> {
        let tid = self.leader();
        self.stop_thread(tid, SigNo::STOP, None)?;
        send(self.pid(), Signal::SIGCONT)?;
        let cont = SigNo::CONT;
        // On its way the thread tells the parent (get_signal, SIGNAL_CLD_MASK). Other threads need not take part: a
        // stop that is under way counts as one (prepare_signal).
        masked(tid, |tid| {
            ptrace::set_signal_mask(tid, SigSet::FULL.without(cont))?;
            wait_signal(tid, cont)?;
            ptrace::interrupt(tid)?;
            ptrace::resume(tid, Resume::Run, 0)?;
            wait_trap(tid).map(drop)
        })
    }

    /// Lets `tid` be stopped by `signal`; what it traps for then.
    fn stop_thread(&self, tid: Tid, signal: SigNo, queued: Option<SigNo>) -> Result<Option<SigNo>> {
        masked(tid, |tid| {
            let carrier = queued.unwrap_or(SigNo::STOP);
            ptrace::set_signal_mask(tid, SigSet::FULL.without(carrier))?;
            if queued.is_none() {
                // One that is pending already serves as well.
                send(self.pid(), Signal::SIGSTOP)?;
            }
            wait_signal(tid, carrier)?;
            // Whatever becomes of the signal, the thread traps before it executes anything. The mask must let it
            // pass: a signal that is blocked goes back into the queue (ptrace_signal).
            ptrace::interrupt(tid)?;
            ptrace::set_signal_mask(tid, SigSet::FULL.without(signal))?;
            ptrace::resume(tid, Resume::Run, signal.get())?;
            wait_trap(tid).map(stop_signal)
        })
    }

    /// A thread that dequeues a signal of the shared queue and not one of its own of the same number.
    pub(crate) fn thread_without(&self, queued: Option<SigNo>) -> Result<Tid> {
        let Some(queued) = queued else {
            return Ok(self.leader());
        };
        for &tid in self.threads() {
            if !SignalStatus::read(self.pid(), tid)?
                .pending
                .contains(queued)
            {
                return Ok(tid);
            }
        }
        Ok(self.leader())
    }
}

fn is_default(status: &SignalStatus, signal: SigNo) -> bool {
    !status.caught.contains(signal) && !status.ignored.contains(signal)
}

fn stop_signal(signo: i32) -> Option<SigNo> {
    SigNo::new(signo).filter(|s| s.is_stop())
}

/// Does `work` on a thread and puts back its mask, whatever comes of it, unless the tracer dies: only for what is
/// being restored, which is of no use then.
fn masked<T>(tid: Tid, work: impl FnOnce(Tid) -> Result<T>) -> Result<T> {
    let mask = ptrace::signal_mask(tid)?;
    let done = work(tid);
    let back = ptrace::put_back_signal_mask(tid, mask);
    // What went wrong first is what the reader needs.
    let done = done?;
    back?;
    Ok(done)
}

/// Lets the thread go, nothing but `carrier` and SIGSTOP being unblocked, until it is about to act upon it.
fn wait_signal(tid: Tid, carrier: SigNo) -> Result<()> {
    let mut bound = Bound::until(tid, "wait for a signal", Instant::now() + PATIENCE);
    let mut deliver = 0;
    loop {
        ptrace::resume(tid, Resume::Run, deliver)?;
        deliver = match ptrace::wait_stop(tid, bound.deadline()) {
            Ok(Stop::Signal(signo)) if signo == carrier.get() || signo == libc::SIGSTOP => {
                return Ok(());
            }
            // Blocked meanwhile, it goes back into its queue (ptrace_signal).
            Ok(Stop::Signal(signo)) => signo,
            // A trap that was pending.
            Ok(Stop::Event(_) | Stop::Syscall | Stop::OtherEvent(_)) => 0,
            Err(e) if matches!(e.cause(), Cause::Os(Errno::ETIMEDOUT)) => {
                ptrace::interrupt(tid)?;
                wait_trap(tid)?;
                return Err(Error::new(
                    format!("wait for {carrier}"),
                    Cause::Unexpected("the signal is gone: another process sent SIGCONT".into()),
                )
                .in_thread(tid));
            }
            Err(e) => return Err(e),
        };
        if let Err(e) = bound.one_more() {
            // The signal that it has stopped for goes where it goes without a tracer.
            ptrace::interrupt(tid)?;
            ptrace::resume(tid, Resume::Run, deliver)?;
            wait_trap(tid)?;
            return Err(e);
        }
    }
}

/// Waits for the trap that was asked for, and gives its signal: that of a group stop, or SIGTRAP.
fn wait_trap(tid: Tid) -> Result<i32> {
    let mut bound = Bound::new(tid, "wait for the trap", super::bound::PATIENCE, 0);
    loop {
        bound.one_more()?;
        match ptrace::wait_stop(tid, bound.deadline())? {
            Stop::Event(signo) => return Ok(signo),
            // Dequeued before the interrupt was seen: it takes its course, and the trap follows.
            Stop::Signal(signo) => ptrace::resume(tid, Resume::Run, signo)?,
            Stop::Syscall | Stop::OtherEvent(_) => ptrace::resume(tid, Resume::Run, 0)?,
        }
    }
}

/// The process is traced, so that its number is its own.
fn send(pid: Pid, signal: Signal) -> Result<()> {
    PidFd::open(pid)?.send(signal)
}
