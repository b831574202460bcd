//! The group stop: whether the process is stopped, and by which signal.

use criu_signals_images::RunState;

use super::{Kind, Site};
use crate::error::{Cause, Error, Result};

/// Whether the process is in a group stop.
#[derive(Debug)]
pub enum GroupStop {}

impl Kind for GroupStop {
    const NAME: &'static str = "stop state";
    type State = RunState;

    /// A seized thread of a process in a group stop traps with the signal that stopped it, any other with
    /// SIGTRAP.
    fn capture<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<RunState> {
        let process = site.injector.process();
        Ok(process
            .trapped_for(site.tid)?
            .map_or(RunState::Running, RunState::Stopped))
    }

    /// Enters the stop now, while the process is still traced; the process stays in the stop when it is released
    /// (`__ptrace_unlink`, kernel/ptrace.c). A stop signal that is only queued would compete with the other pending
    /// signals: the lower number wins.
    fn replay<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &RunState) -> Result<()> {
        match *wanted {
            RunState::Stopped(signal) => site.injector.process().enter_group_stop(signal, None),
            RunState::Running => Err(Error::new(
                "leave the group stop",
                Cause::Unsupported(
                    "only SIGCONT ends a group stop, and SIGCONT has effects of its own".into(),
                ),
            )),
        }
    }
}
