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
use crate::tracee::shield::LostMask;
use crate::tracee::{ByHost, StoppedProcess};

/// What a dump knows of a process, and what it owes to that: everything here is taken back at the end.
#[derive(Default)]
pub(super) struct DumpedProcess {
    /// What its threads were seen waiting in, until CRIU hands the process over.
    pub waiting: interrupted::Seen,
    /// How it was stopped before CRIU seized it.
    pub before: Option<Before>,
    /// It has been stopped since it was looked at.
    pub stopped_since: bool,
    /// What is lost already, because the process was stopped to take something out of it.
    pub lost_masks: Vec<LostMask>,
    /// Signals that are with us for the time of the dump.
    pub custody: Vec<Custody>,
    /// Is it in criu's own pid namespace? False if that was not seen.
    pub beside_criu: bool,
    /// How many threads were seen.
    pub threads: usize,
    /// CRIU was about to seize it.
    pub looked_at: bool,
    /// CRIU has handed it over.
    pub handed: bool,
    /// Its id in its own namespace, if it was captured.
    pub captured: Option<i32>,
    /// It ignores SIGTRAP.
    pub trap_ignored: Option<TrapIgnored>,
    /// System calls that CRIU has to find in another state than the one that they were captured in.
    pub calls: Option<HandedOver>,
    /// How it was, if anything was done in it while it has been stopped.
    pub touched: Option<ProcessState>,
    pub corrections: Corrections,
}

impl DumpedProcess {
    /// Forgets what is known of a process that had this number before, and has ended.
    pub fn forget_former(&mut self) {
        self.before = self.before.take().filter(|one| one.check().is_ok());
        self.custody.retain(|one| one.held().check().is_ok());
        if self.custody.is_empty() {
            self.lost_masks.clear();
        }
    }
}

/// What is to be corrected in CRIU's own images.
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

/// A process that CRIU has stopped, and in which nothing has run since.
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

    /// Does a call of the process need what only the kernel's memory tells?
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
    /// The kernel's own timers, where it could be asked.
    pub timers: Option<Vec<PosixTimer>>,
    /// Has it perhaps children that have ended and that nobody has waited for?
    pub has_zombies: bool,
}

impl<'p> Captured<'p> {
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

/// A process of which all is known.
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
    /// `state`: the whole of it, as the image has it.
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

/// CRIU runs code of its own in each task, next, and does not know of Syscall User Dispatch: its calls become SIGSYS, which
/// ends the task.
fn refuse_dispatch(stopped: &StoppedProcess<ByHost>) -> Result<()> {
    let Some(tid) = stopped.dispatched()? else {
        return Ok(());
    };
    let why = "the thread uses Syscall User Dispatch: the system calls that criu makes in the thread would kill the \
               process, so the dump is refused";
    Err(Error::new("dump", Cause::Unsupported(why.into())).in_thread(tid))
}

/// A process that ignores SIGTRAP. The trap that ends CRIU's own code in it makes that SIG_DFL (force_sig), and CRIU looks at
/// dispositions only after the first of them.
pub(super) struct TrapIgnored {
    pid: Pid,
    state: ProcessState,
    /// Who sees to it if criu ends before.
    guardian: Option<Guardian>,
}

impl TrapIgnored {
    /// How the process was.
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

    /// Returns what failed; then the guardian tries again when criu has ended.
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
