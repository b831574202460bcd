//! The mask of blocked signals: PTRACE_GETSIGMASK and PTRACE_SETSIGMASK.

use criu_signals_images::SigSet;

use super::{Kind, Site};
use crate::error::Result;
use crate::tracee::ptrace;

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
