//! The whole signal state of one stopped process.

use criu_signals_images::{Pending, ProcessState, ThreadState, Tid};

use crate::error::{Phase, Result};
use crate::proc::{self, SignalStatus};
use crate::sigstack;
use crate::state::{
    AlternateStack, GroupStop, Kind, ParentDeathSignal, PendingLimit, PrivateQueue, SharedQueue,
    SignalDispositions, SignalMask, Site, exactly,
};
use crate::tracee::{Injector, StoppedProcess};

/// Captures the signal state of `stopped`, which is afterwards as it was before.
///
/// # Errors
/// Whatever could not be read, with phase, pid, tid, operation and errno. There is no partial result.
pub fn process<Owner>(stopped: &StoppedProcess<Owner>) -> Result<ProcessState> {
    during(stopped, Phase::Capture)
}

/// As [`process`], for a caller whose errors belong to another phase.
pub(crate) fn during<Owner>(stopped: &StoppedProcess<Owner>, phase: Phase) -> Result<ProcessState> {
    let inner = || {
        let mut injector = Injector::new(stopped)?;
        let state = capture(&mut injector)?;
        injector.finish()?;
        Ok(state)
    };
    inner().map_err(|e: crate::error::Error| e.during(phase, stopped.pid()))
}

fn capture<Owner>(injector: &mut Injector<'_, Owner>) -> Result<ProcessState> {
    let stopped = injector.process();
    let pid = stopped.pid();
    let leader = stopped.leader();

    // First all that can be read from outside: an injected call drops the distinction between the mask in
    // force and a saved one, and lets a SIGSTOP that has just arrived take effect.
    let status = SignalStatus::read(pid, leader)?;
    let mut site = Site {
        injector,
        tid: leader,
    };
    let run_state = GroupStop::capture(&mut site)?;
    let rlimit_sigpending = PendingLimit::capture(&mut site)?;
    let shared = SharedQueue::capture(&mut site)?;
    let threads = stopped
        .threads()
        .iter()
        .map(|&tid| {
            from_outside(&mut Site {
                injector: &mut *injector,
                tid,
            })
            .map_err(|e| e.in_thread(tid))
        })
        .collect::<Result<Vec<_>>>()?;

    let dispositions = SignalDispositions::capture(&mut Site {
        injector: &mut *injector,
        tid: leader,
    })?;
    let threads = threads
        .into_iter()
        .map(|thread| {
            let tid = thread.tid;
            // In one go: a visit to a thread costs more than what it asks for there.
            let calls = [AlternateStack::read(), ParentDeathSignal::read()];
            let [altstack, parent_death_signal] = exactly(injector.run(tid, &calls)?)?;
            let altstack = AlternateStack::from_outcome(&altstack).map_err(|e| e.in_thread(tid))?;
            let parent_death_signal = ParentDeathSignal::from_outcome(&parent_death_signal)
                .map_err(|e| e.in_thread(tid))?;
            Ok(ThreadState {
                ids: thread.status.ids,
                blocked: thread.status.blocked,
                saved_mask: thread.saved_mask,
                altstack,
                pending: thread.pending,
                parent_death_signal,
            })
        })
        .collect::<Result<Vec<_>>>()?;

    Ok(ProcessState {
        ids: status.ids,
        pid_ns: proc::pid_namespace(pid)?,
        comm: status.comm,
        compat: stopped.is_compat()?,
        rlimit_sigpending,
        queued: status.queued,
        dispositions,
        run_state,
        shared,
        exit_signal: proc::parentage(pid)?.exit_signal,
        stack_needs: Some(sigstack::here()),
        threads,
    })
}

/// What one thread shows without its help.
struct Outside {
    tid: Tid,
    status: SignalStatus,
    saved_mask: Option<criu_signals_images::SigSet>,
    pending: Pending,
}

fn from_outside<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<Outside> {
    let status = SignalStatus::read(site.pid(), site.tid)?;
    let mask = SignalMask::capture(site)?;
    let pending = PrivateQueue::capture(site)?;
    Ok(Outside {
        tid: site.tid,
        saved_mask: (mask != status.blocked).then_some(mask),
        status,
        pending,
    })
}
