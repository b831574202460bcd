//! Queues one signal with any siginfo. The receiver makes the system call itself, because the kernel refuses an
//! `si_code` of 0 or above from other processes (do_rt_sigqueueinfo).

use criu_signals_images::{SigNo, Siginfo, Tid};

use crate::error::{Cause, Error, Phase, Result};
use crate::proc::SignalStatus;
use crate::state::{Queue, Site};
use crate::tracee::{Injector, StoppedProcess};

/// How many entries a SIGCONT removes from a queue: one of each stop signal, and a few of timers.
const TAKEN_OUT_AT_MOST: usize = 16;

/// What became of the signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The signal is in the queue, with its siginfo.
    Queued,
    /// The number is pending, but RLIMIT_SIGPENDING left no room for the siginfo: the signal will be delivered as SI_USER
    /// from pid 0.
    WithoutInfo,
    /// Not queued: a signal of this number is pending in that queue already, and of numbers below 32 the kernel keeps only
    /// the first (legacy_queue).
    AlreadyPending,
}

/// Queues `info` behind what is in the queue: the shared one, or that of thread `tid`.
///
/// The signal takes effect when the process is released, by the masks and dispositions that the process has then. A stopped
/// process stays stopped, unless the signal is SIGCONT.
///
/// # Errors
/// [`Cause::Unsupported`] for SIGKILL and SIGSTOP, which take effect at once and whose siginfo no program sees; EAGAIN if
/// RLIMIT_SIGPENDING leaves no room for a real-time signal; any other errno of the call.
pub fn send<Owner>(
    stopped: &StoppedProcess<Owner>,
    queue: Queue,
    tid: Tid,
    info: &Siginfo,
) -> Result<Sent> {
    let inner = || {
        let signo = SigNo::new(info.signo()).ok_or_else(|| {
            let number = info.signo();
            Error::new(
                "send",
                Cause::Unsupported(format!("{number} is not a signal number").into()),
            )
        })?;
        if signo == SigNo::KILL || signo == SigNo::STOP {
            let reason = format!(
                "{signo} cannot be blocked or handled, so no program ever sees the siginfo: use kill(1)"
            );
            return Err(Error::new("send", Cause::Unsupported(reason.into())));
        }
        let mut injector = Injector::new(stopped)?;
        let sent = in_thread(
            &mut Site {
                injector: &mut injector,
                tid,
            },
            queue,
            signo,
            info,
        )
        .map_err(|e| e.in_thread(tid))?;
        injector.finish()?;
        Ok(sent)
    };
    inner().map_err(|e: Error| e.during(Phase::Send, stopped.pid()))
}

fn in_thread<Owner>(
    site: &mut Site<'_, '_, Owner>,
    queue: Queue,
    signo: SigNo,
    info: &Siginfo,
) -> Result<Sent> {
    let pending = |site: &Site<'_, '_, Owner>| {
        let status = SignalStatus::read(site.pid(), site.tid)?;
        let bits = match queue {
            Queue::Private => status.pending,
            Queue::Shared => status.shared_pending,
        };
        Ok::<_, Error>((bits.contains(signo), status.ids))
    };
    let (is_pending, ids) = pending(site)?;
    if signo.is_legacy() && is_pending {
        return Ok(Sent::AlreadyPending);
    }
    let depth = queue.depth(site)?;
    queue.queue(site, &ids, std::slice::from_ref(info))?;
    // The return value 0 is no proof (__send_signal_locked). Other processes may have sent signals as well, and SIGCONT
    // removes stop signals, as stop signals remove SIGCONT (prepare_signal).
    let from = depth.saturating_sub(TAKEN_OUT_AT_MOST);
    if queue.peek(site.tid, from, usize::MAX)?.contains(info) {
        Ok(Sent::Queued)
    } else if pending(site)?.0 {
        Ok(Sent::WithoutInfo)
    } else {
        let reason = "the kernel accepted the signal, but the signal is not pending";
        Err(Error::new(
            format!("queue {signo}"),
            Cause::NotKept(reason.into()),
        ))
    }
}
