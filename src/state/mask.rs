//! The mask of blocked signals: PTRACE_GETSIGMASK and PTRACE_SETSIGMASK.

use criu_signals_images::{SigSet, ThreadState};

use super::{Kind, Site};
use crate::error::{Cause, Error, Result};
use crate::proc::SignalStatus;
use crate::tracee::{ptrace, shield};

/// The mask that a thread has for good: the saved one where sigsuspend, ppoll or the like has put another in
/// force for its own duration.
#[derive(Debug)]
pub enum SignalMask {}

impl Kind for SignalMask {
    const NAME: &'static str = "signal mask";
    type State = SigSet;

    fn capture<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<SigSet> {
        ptrace::signal_mask(site.tid)
    }

    fn replay<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &SigSet) -> Result<()> {
        ptrace::set_signal_mask(site.tid, *wanted)
    }
}

/// The mask that a system call has set for its time (pselect, ppoll, epoll_pwait, sigsuspend), and the thread's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Masks {
    pub of_call: SigSet,
    pub own: SigSet,
}

impl Masks {
    pub fn from_thread(thread: &ThreadState) -> Option<Masks> {
        let own = thread.saved_mask?;
        Some(Masks {
            of_call: thread.blocked,
            own,
        })
    }

    /// As [`put_back`](Self::put_back), in a thread that may have run since. One that has made its call again has the mask of that call in
    /// force, and one whose call has ended is in none that a stop interrupts.
    ///
    /// # Errors
    /// Those of [`put_back`](Self::put_back).
    pub fn put_back_if_lost<Owner>(self, site: &mut Site<'_, '_, Owner>) -> Result<()> {
        let registers = ptrace::registers(site.tid)?;
        if shield::may_lose_mask(&registers) && ptrace::signal_mask(site.tid)? == self.own {
            self.put_back(site)
        } else {
            Ok(())
        }
    }

    /// Puts the mask of the call into force once more. CRIU leaves a thread with its own mask alone.
    ///
    /// # Errors
    /// If no calls can be made in the thread, or if the thread's own mask is another one.
    pub fn put_back<Owner>(self, site: &mut Site<'_, '_, Owner>) -> Result<()> {
        if !shield::KEEPS_MASKS_OF_CALLS {
            return Ok(());
        }
        let own = ptrace::signal_mask(site.tid)?;
        if own != self.own {
            let why = Cause::NotKept(format!("the mask of the thread is {own}, not {}", self.own));
            return Err(Error::new("put back the mask of a system call", why).in_thread(site.tid));
        }
        let in_force = SignalStatus::read(site.pid(), site.tid)?.blocked;
        if in_force == self.of_call {
            return Ok(());
        }
        site.injector.put_back_mask_of_call(site.tid, self.of_call)
    }
}
