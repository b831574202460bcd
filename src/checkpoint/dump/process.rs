//! One process during a dump: an order of types, in which each step consumes the type of the step before.
//!
//! | Type | What holds |
//! |---|---|
//! | [`Seen`](interrupted::Seen) | CRIU has not seized the process; the system calls in which its threads wait are known |
//! | [`Confirmed`] | CRIU has stopped the process, and no code has run in the process since; the stop itself ends no system call |
//! | [`Captured`] | the state of the process was read |
//! | [`Completed`] | the state that only the time before the stop shows was added |
//! | [`Secured`] | the image is written, and the signals that CRIU cannot handle are taken out |
//! | [`HandedOver`] | CRIU dumps the process as it is now |
//!
//! Every change is noted in [`DumpedProcess`] as soon as it is made, so that a failed step or a panic loses nothing.

use criu_signals_images::{Pid, PosixTimer, ProcessState, Rlimit, SigNo};

use crate::checkpoint::custody::Custody;
use crate::checkpoint::guardian::Guardian;
use crate::checkpoint::options::{Options, TakeOut};
use crate::engine::capture::{self, Entries, Found, Known};
use crate::engine::repair;
use crate::engine::stops::Before;
use crate::engine::told::Told;
use crate::error::{Cause, Error, Phase, Result};
use crate::fault::{self, Point};
use crate::image_folder::InFolder;
use crate::state::interrupted::{self, HandedOver};
use crate::tracee::reentry::EndedCall;
use crate::tracee::shield::LostMask;
use crate::tracee::{ByHost, StoppedProcess};

/// What a dump knows of a process, and what it has changed in it: every change is taken back at the end.
#[derive(Default)]
pub(super) struct DumpedProcess {
    /// The calls in which its threads were seen waiting, until CRIU hands the process over.
    pub waiting: interrupted::Seen,
    /// The stop of the process before CRIU seized it.
    pub before: Option<Before>,
    /// The process has been stopped since it was looked at.
    pub stopped_since: bool,
    /// The state that is lost already, because the process was stopped to take signals out.
    pub lost_masks: Vec<LostMask>,
    /// The calls that this has ended.
    pub ended_calls: Vec<EndedCall>,
    /// Signals that are taken out for the duration of the dump.
    pub custody: Vec<Custody>,
    /// Is the process in criu's own pid namespace? False if that was not seen.
    pub beside_criu: bool,
    /// How many threads were seen.
    pub threads: usize,
    /// CRIU was about to seize the process.
    pub looked_at: bool,
    /// CRIU has handed the process over.
    pub handed: bool,
    /// The pid in its own namespace, if the process was captured.
    pub captured: Option<i32>,
    /// The process ignores SIGTRAP.
    pub trap_ignored: Option<TrapIgnored>,
    /// System calls that CRIU has to find in another state than at the capture.
    pub calls: Option<HandedOver>,
    /// The state before the first change, if the process was changed while it has been stopped.
    pub touched: Option<ProcessState>,
    pub corrections: Corrections,
}

impl DumpedProcess {
    /// Forgets what is known of an ended process that had this pid before.
    pub fn forget_former(&mut self) {
        self.before = self.before.take().filter(|one| one.check().is_ok());
        self.custody.retain(|one| one.held().check().is_ok());
        if self.custody.is_empty() {
            self.lost_masks.clear();
            self.ended_calls.clear();
        }
    }
}

/// The corrections of CRIU's own images.
#[derive(Default)]
pub(super) struct Corrections {
    /// A larger RLIMIT_SIGPENDING, without which CRIU can't restore queues and timers.
    pub lent_room: Option<Rlimit>,
    /// Timers, if CRIU may give some of them another clock or another thread.
    pub timers: Vec<PosixTimer>,
    /// Owners of files, as F_SETOWN_EX has them, that CRIU can't set.
    pub unwanted: Vec<(u32, i32)>,
    /// Has the process a timerfd?
    pub timerfds: bool,
}

/// A process that CRIU has stopped, and in which no code has run since.
pub(super) struct Confirmed<'p> {
    stopped: &'p StoppedProcess<ByHost>,
    calls: interrupted::Confirmed,
}

impl<'p> Confirmed<'p> {
    pub fn new(
        stopped: &'p StoppedProcess<ByHost>,
        waiting: interrupted::Seen,
    ) -> Result<Confirmed<'p>> {
        refuse_dispatch(stopped)?;
        let calls = waiting.confirm(stopped)?;
        Ok(Confirmed { stopped, calls })
    }

    /// Does a call of the process need facts that only BPF can read?
    pub fn needs_blocks(&self) -> Result<bool> {
        self.calls.needs_blocks(self.stopped)
    }

    pub fn capture(self, options: &Options, known: Known<'_>) -> Result<Captured<'p>> {
        let Confirmed { stopped, calls } = self;
        let calls = calls.with_blocks(known.told.map(Told::blocks).unwrap_or_default());
        let deep = match options.take_out {
            TakeOut::Never => None,
            TakeOut::Auto | TakeOut::Always => Some(options.limits.deep),
        };
        let (Found { state, has_zombies }, entries) = capture::dumped(stopped, deep, known)?;
        Ok(Captured {
            stopped,
            calls,
            state,
            entries,
            timers: known.read.map(|read| read.timers.clone()),
            has_zombies,
        })
    }
}

/// A process whose state was read.
pub(super) struct Captured<'p> {
    pub stopped: &'p StoppedProcess<ByHost>,
    calls: interrupted::Confirmed,
    pub state: ProcessState,
    pub entries: Entries,
    /// The kernel's own timers, if BPF could read them.
    pub timers: Option<Vec<PosixTimer>>,
    /// May the process have children that have ended and were not waited for?
    pub has_zombies: bool,
}

impl<'p> Captured<'p> {
    pub fn ended_calls(&self) -> &[EndedCall] {
        self.calls.ended_calls()
    }

    pub fn lost_masks(&self) -> &[LostMask] {
        self.calls.lost_masks()
    }

    pub fn complete(mut self) -> Result<Completed<'p>> {
        let calls = self.calls.complete(self.stopped, &mut self.state)?;
        Ok(Completed {
            stopped: self.stopped,
            calls,
            state: self.state,
            entries: self.entries,
        })
    }
}

/// A process whose state is complete.
pub(super) struct Completed<'p> {
    pub stopped: &'p StoppedProcess<ByHost>,
    pub calls: interrupted::Completed,
    pub state: ProcessState,
    pub entries: Entries,
}

/// A process whose image is written.
pub(super) struct Secured<'p> {
    stopped: &'p StoppedProcess<ByHost>,
    calls: interrupted::Completed,
    state: ProcessState,
}

impl<'p> Secured<'p> {
    /// `state`: the whole state, as the image has it.
    pub fn new(
        stopped: &'p StoppedProcess<ByHost>,
        calls: interrupted::Completed,
        state: ProcessState,
        _image: &InFolder,
    ) -> Secured<'p> {
        Secured {
            stopped,
            calls,
            state,
        }
    }

    /// From here on CRIU dumps the process as it is. Returns the whole state.
    pub fn finish(self, process: &mut DumpedProcess) -> Result<ProcessState> {
        let pid = self.stopped.pid();
        if self.state.dispositions[SigNo::TRAP].is_ignored() {
            process.trap_ignored = Some(TrapIgnored::watched(pid, &self.state));
        }
        fault::point(Point::HandingOver)?;
        process.calls = Some(self.calls.hand_over(self.stopped)?);
        fault::point(Point::HandedOver)?;
        Ok(self.state)
    }
}

/// CRIU runs its own code in each process next, and does not know Syscall User Dispatch: its calls become SIGSYS, which
/// ends the process.
fn refuse_dispatch(stopped: &StoppedProcess<ByHost>) -> Result<()> {
    let Some(tid) = stopped.dispatched()? else {
        return Ok(());
    };
    let why = "the thread uses Syscall User Dispatch: the system calls that criu makes in the thread would kill the \
               process, so the dump is refused";
    Err(Error::new("dump", Cause::Unsupported(why.into())).in_thread(tid))
}

/// A process that ignores SIGTRAP. The trap that ends CRIU's own code in the process resets the disposition to SIG_DFL
/// (force_sig), and CRIU reads dispositions only after the first of these traps.
pub(super) struct TrapIgnored {
    pid: Pid,
    state: ProcessState,
    /// The guardian that sets SIG_IGN again if criu ends before.
    guardian: Option<Guardian>,
}

impl TrapIgnored {
    /// The state of the process before.
    pub fn state(&self) -> &ProcessState {
        &self.state
    }

    /// CRIU's own code runs in the process next.
    fn watched(pid: Pid, state: &ProcessState) -> TrapIgnored {
        let guardian = Guardian::of_trap(pid, state).map_err(|e| {
            let e = e.during(Phase::Capture, pid);
            log::warn!(
                "{e}: the process ignores SIGTRAP; if criu is killed during the dump, the disposition may become \
                 SIG_DFL"
            );
        });
        TrapIgnored {
            pid,
            state: state.clone(),
            guardian: guardian.ok(),
        }
    }

    /// Returns the error; then the guardian tries again when criu has ended.
    pub fn give_back(self) -> Vec<Error> {
        let errors = match StoppedProcess::<ByHost>::of_host(self.pid) {
            Ok(stopped) => repair::dispositions(&stopped, &self.state),
            Err(e) => vec![e.during(Phase::Replay, self.pid)],
        };
        match self.guardian {
            Some(guardian) if errors.is_empty() => {
                if let Err(e) = guardian.dismiss() {
                    log::warn!(
                        "pid {}: dispositions are put back, but the guardian had died: {e}",
                        self.pid
                    );
                }
            }
            // Until this process ends.
            guardian => std::mem::forget(guardian),
        }
        errors
    }
}
