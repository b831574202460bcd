//! The group stop: whether the process is stopped, and by which signal.

use criu_signals_images::{RunState, SigNo};

use super::{Kind, Site};
use crate::error::{Cause, Error, Result};
use crate::tracee::ptrace;

/// PTRACE_EVENT_STOP in the second byte of `si_code` (do_jobctl_trap, kernel/signal.c).
const EVENT_SHIFT: u32 = 8;

/// Whether the process is in a group stop.
#[derive(Debug)]
pub enum GroupStop {}

impl Kind for GroupStop {
    const NAME: &'static str = "stop state";
    type State = RunState;

    /// A seized thread of a process in a group stop traps with the signal that stopped it, any other with
    /// SIGTRAP.
    fn capture<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<RunState> {
        let reason = ptrace::stop_reason(site.tid)?;
        Ok(match reason {
            Some(reason) if reason.code >> EVENT_SHIFT == libc::PTRACE_EVENT_STOP => {
                SigNo::new(reason.signo)
                    .filter(|s| s.is_stop())
                    .map_or(RunState::Running, RunState::Stopped)
            }
            _ => RunState::Running,
        })
    }

    /// Enters the stop now, while the process is still traced; it stays in it when it is let go
    /// (`__ptrace_unlink`, kernel/ptrace.c). A stop that is only queued would compete with whatever else is
    /// pending: the lower number wins.
    fn replay<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &RunState) -> Result<()> {
        match *wanted {
            RunState::Stopped(signal) => site.injector.enter_group_stop(site.tid, signal),
            RunState::Running => Err(Error::new(
                "leave the group stop",
                Cause::Unsupported("only SIGCONT ends it, and that has effects of its own".into()),
            )),
        }
    }
}
