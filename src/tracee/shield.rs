//! Keeps a stop from ending system calls that wait.
//!
//! Some calls give EINTR at once whatever it was that interrupted them (signal(7), "Interruption of system calls and library
//! functions by stop signals"). For these calls the result is replaced by ERESTARTNOHAND: the kernel then returns EINTR
//! if a handler runs, and restarts the call if none does, as if there had been no stop.

use std::fmt;

use criu_signals_images::{CallTable, InterruptedCall, Pid, RestartCode, SigNo, SigSet, Tid};

use super::memory::{Memory, RemoteAddr};
use super::ptrace;
use crate::arch::{Registers, Timeout, Waiting, may_have_mask, timeout, waiting};
use crate::error::Result;
use crate::proc::{self, SignalStatus};

const EINTR: i64 = libc::EINTR as i64;

/// Can a thread be given back the mask of its call? Only where it comes from such a call into a trap with the result that the kernel
/// evaluates later.
pub(crate) const KEEPS_MASKS_OF_CALLS: bool = Registers::TRAP_KEEPS_RESULT;

/// What a stop and a mask set from outside mean for the call of a thread.
#[derive(Debug, Default)]
pub(crate) struct Shielded {
    /// The call had a timeout under way. It begins anew with the whole of it: the kernel has kept nothing of it, and
    /// docs/eintr.md says why the rest is not put in its place.
    pub anew: bool,
    /// What is lost once somebody has set the thread's mask.
    pub lost: Option<LostMask>,
}

/// A call whose own mask (pselect, ppoll, epoll_pwait, sigsuspend) matters for a pending signal. Only the call can set that mask:
/// with PTRACE_SETSIGMASK the kernel drops the mask, and the thread's own is in force when the thread goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostMask {
    /// Of which thread.
    pub tid: Tid,
    /// The call.
    pub call: InterruptedCall,
    /// Where the number of the call comes from.
    pub table: CallTable,
    /// What comes of it.
    pub effect: MaskEffect,
}

/// What comes of it that the mask of a call is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskEffect {
    /// The handler of a signal that both masks allow finds the thread's mask in force. Only where masks of calls are not put back
    /// ([`KEEPS_MASKS_OF_CALLS`]).
    OtherMaskInHandler,
    /// The default action of these signals, or that they are ignored, comes before the call goes on, and not after the call:
    /// only the mask of the call blocks them, and a call that is restarted gives the thread its own mask before
    /// (`arch_do_signal_or_restart`, `restore_saved_sigmask`).
    ActionBeforeCall(SigSet),
}

impl fmt::Display for LostMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let call = self.call.named(self.table);
        match self.effect {
            MaskEffect::OtherMaskInHandler => write!(
                f,
                "the handler of a signal that is pending will find the thread's mask in force, and not that of {call}"
            ),
            MaskEffect::ActionBeforeCall(signals) => write!(
                f,
                "only the mask of {call} blocks {signals}, pending without a handler: the kernel drops such a signal, or \
                 carries out its default action, before the call goes on"
            ),
        }
    }
}

/// Keeps the stop itself from ending a call with EINTR in any of the `threads` of a stopped process. From here on the thread may be let
/// go at any time, also by the death of its tracer.
///
/// A result that is due stays: that of a process which is stopped, or is about to be.
///
/// # Errors
/// If a thread could not be looked at or changed.
pub(crate) fn shield(pid: Pid, threads: &[Tid]) -> Result<Vec<(Tid, Shielded)>> {
    let mut all = Vec::new();
    for &tid in threads {
        match shield_thread(pid, tid) {
            Ok(shielded) => all.push((tid, shielded)),
            Err(e) if e.is_died() && tid != Tid::from(pid) => {}
            Err(e) => return Err(e.in_thread(tid)),
        }
    }
    Ok(all)
}

/// As [`shield`], for one thread.
///
/// # Errors
/// Those of [`shield`].
pub(crate) fn shield_thread(pid: Pid, tid: Tid) -> Result<Shielded> {
    let registers = ptrace::registers(tid)?;
    let Some(interrupted) = Interrupted::look(pid, tid, &registers)? else {
        return Ok(Shielded::default());
    };
    let Interrupted {
        call, result, due, ..
    } = &interrupted;
    let after_the_call = matches!(due.handler, HandlerDue::Afterwards);
    let lost = interrupted.lost(tid);
    if *result != -EINTR {
        if after_the_call && ends_with_a_handler(*result) {
            set(tid, &registers, call, RestartCode::Always)?;
        }
        return Ok(Shielded { anew: false, lost });
    }
    let args = registers.call_args();
    let once_more = match waiting(call.number, args, registers.is_compat()) {
        Some(Waiting::Once) => true,
        Some(Waiting::OnceOnSocket) => {
            i32::try_from(args[0]).is_ok_and(|fd| proc::is_socket(pid, tid, fd))
        }
        _ => false,
    };
    if !once_more || stop_is_due(pid, tid)? {
        return Ok(Shielded { anew: false, lost });
    }
    log::debug!(
        "pid {pid} tid {tid}: {}: EINTR is only this stop's",
        call.named(CallTable::here(registers.is_compat()))
    );
    let code = if after_the_call {
        RestartCode::Always
    } else {
        RestartCode::UnlessHandled
    };
    set(tid, &registers, call, code)?;
    let anew = match timeout(call.number, args, registers.is_compat()) {
        Timeout::Without => false,
        Timeout::Given | Timeout::Millis(_) | Timeout::At(_) => true,
        Timeout::IfAt(at) => Memory::open(pid)?
            .read_u64(RemoteAddr(at))
            .is_ok_and(|pointer| pointer != 0),
    };
    Ok(Shielded { anew, lost })
}

/// The call of a thread that something has interrupted, and that ends with EINTR or goes on.
struct Interrupted {
    call: InterruptedCall,
    table: CallTable,
    /// As it stands now.
    result: i64,
    due: Due,
}

impl Interrupted {
    /// `None`: the thread is in no call, or the call has ended.
    fn look(pid: Pid, tid: Tid, registers: &Registers) -> Result<Option<Interrupted>> {
        let Some((call, result)) = in_call(registers) else {
            return Ok(None);
        };
        if result != -EINTR && RestartCode::from_result(result).is_none() {
            return Ok(None);
        }
        let due = if may_have_mask(call.number, registers.is_compat()) {
            Due::look(pid, tid)?
        } else {
            Due::default()
        };
        Ok(Some(Interrupted {
            call,
            table: CallTable::here(registers.is_compat()),
            result,
            due,
        }))
    }

    fn lost(&self, tid: Tid) -> Option<LostMask> {
        let effect = if !self.due.unhandled.is_empty() {
            MaskEffect::ActionBeforeCall(self.due.unhandled)
        } else if !KEEPS_MASKS_OF_CALLS && matches!(self.due.handler, HandlerDue::ByBoth) {
            MaskEffect::OtherMaskInHandler
        } else {
            return None;
        };
        Some(LostMask {
            tid,
            call: self.call,
            table: self.table,
            effect,
        })
    }
}

/// ERESTARTSYS or ERESTARTNOHAND.
fn ends_with_a_handler(result: i64) -> bool {
    matches!(
        RestartCode::from_result(result),
        Some(RestartCode::UnlessHandlerForbids | RestartCode::UnlessHandled)
    )
}

/// Which pending signals one of the two masks allows and the other does not, of a thread that is in a call with a mask of its own
/// (pselect, ppoll, epoll_pwait, sigsuspend).
#[derive(Default)]
struct Due {
    /// Of the signals with handlers.
    handler: HandlerDue,
    /// Those without a handler that only the call's mask blocks.
    unhandled: SigSet,
}

/// By which mask a pending signal with a handler is due.
#[derive(Default)]
enum HandlerDue {
    /// By none, by the call's alone, or there is one mask only.
    #[default]
    ByOneMask,
    /// Only by the mask that the thread gets back. The kernel decides by the call's that it is restarted, and lets the handler
    /// run then (arch/x86/kernel/signal.c, `arch_do_signal_or_restart`, `restore_saved_sigmask`). Whoever sets the thread's mask
    /// drops the call's, and the handler would end the call with EINTR.
    Afterwards,
    /// By both: the handler ends the call, and finds the call's mask in force unless somebody has set another.
    ByBoth,
}

impl Due {
    fn look(pid: Pid, tid: Tid) -> Result<Due> {
        let status = SignalStatus::read(pid, tid)?;
        let given_back = ptrace::signal_mask(tid)?;
        Ok(Due::by(&status, status.blocked, given_back))
    }

    /// In a call with the mask `of_call`, of a thread whose own one is `given_back`.
    fn by(status: &SignalStatus, of_call: SigSet, given_back: SigSet) -> Due {
        if of_call == given_back {
            return Due::default();
        }
        let pending = status.pending.union(status.shared_pending);
        let by_call = pending.difference(of_call);
        let by_thread = pending.difference(given_back);
        let handled_by = |by: SigSet| by.intersection(status.caught);
        let handler = if handled_by(by_thread).is_empty() {
            HandlerDue::ByOneMask
        } else if handled_by(by_call).is_empty() {
            HandlerDue::Afterwards
        } else if handled_by(by_call.intersection(by_thread)).is_empty() {
            HandlerDue::ByOneMask
        } else {
            HandlerDue::ByBoth
        };
        Due {
            handler,
            unhandled: by_thread.difference(by_call).difference(status.caught),
        }
    }
}

/// Does a handler run for a signal that is pending now, and only if the thread's `own` mask is in force instead of that `of_call`?
///
/// # Errors
/// If the thread is gone.
pub(crate) fn is_due_afterwards(pid: Pid, tid: Tid, of_call: SigSet, own: SigSet) -> Result<bool> {
    let due = Due::by(&SignalStatus::read(pid, tid)?, of_call, own);
    Ok(matches!(due.handler, HandlerDue::Afterwards))
}

/// The mask that the call in which a thread was interrupted has set for its time, if that is another one than the thread's `own`.
/// A thread may stand behind the call, which the stop has ended. `in_force`: what was in force since the process has been stopped; if
/// nobody has looked, the registers tell whether there can be such a mask.
pub(crate) fn mask_of_call(
    (pid, tid): (Pid, Tid),
    registers: &Registers,
    own: SigSet,
    in_force: Option<SigSet>,
) -> Result<Option<SigSet>> {
    let may_have_one = match in_force {
        Some(in_force) => in_force != own,
        None => registers
            .call()
            .is_some_and(|(number, _)| may_have_mask(number, registers.is_compat())),
    };
    if !may_have_one {
        return Ok(None);
    }
    let in_force = SignalStatus::read(pid, tid)?.blocked;
    Ok((in_force != own).then_some(in_force))
}

/// Is the thread in a call that a stop has interrupted, and that may have set a mask for its time?
pub(crate) fn may_lose_mask(registers: &Registers) -> bool {
    in_call(registers).is_some_and(|(call, result)| {
        let is_interrupted = result == -EINTR || RestartCode::from_result(result).is_some();
        is_interrupted && may_have_mask(call.number, registers.is_compat())
    })
}

/// The call of a thread, if the handlers of pending signals end the call with EINTR as soon as the thread goes on, and the thread's `own`
/// mask lets all of these signals through as well. `is_alone`: no other thread can take the signals of the process.
pub(super) fn ended_by_handler(
    registers: &Registers,
    status: &SignalStatus,
    own: SigSet,
    is_alone: bool,
) -> Option<InterruptedCall> {
    let (call, result) = in_call(registers)?;
    let code = RestartCode::from_result(result)?;
    let mut pending = status.pending;
    if is_alone {
        pending = pending.union(status.shared_pending);
    }
    let by_call = pending
        .difference(status.blocked)
        .intersection(status.caught);
    let by_both = by_call.difference(own);
    let may_end = matches!(code, RestartCode::UnlessHandled | RestartCode::ByBlock);
    // A signal that only the mask of the call lets through ends the call when that is made again.
    (may_end && !by_both.is_empty() && by_both == by_call).then_some(call)
}

/// What the thread loses if calls are made in it now. A handler that finds another mask only where the process is stopped by a
/// signal: in one that runs the handler is about to.
pub(super) fn loses_mask(pid: Pid, tid: Tid, registers: &Registers) -> Result<Option<LostMask>> {
    let interrupted = Interrupted::look(pid, tid, registers)?;
    let Some(lost) = interrupted.and_then(|interrupted| interrupted.lost(tid)) else {
        return Ok(None);
    };
    let counts = match lost.effect {
        MaskEffect::OtherMaskInHandler => stop_is_due(pid, tid)?,
        MaskEffect::ActionBeforeCall(_) => true,
    };
    Ok(counts.then_some(lost))
}

/// Is the process stopped by a signal, or going to be? Then EINTR is what Linux gives (signal(7)).
pub(super) fn stop_is_due(pid: Pid, tid: Tid) -> Result<bool> {
    let is_stop = |signo| SigNo::new(signo).is_some_and(SigNo::is_stop);
    if ptrace::stop_reason(tid)?.is_some_and(|reason| is_stop(reason.signo)) {
        return Ok(true);
    }
    let status = SignalStatus::read(pid, tid)?;
    let stops: SigSet = SigNo::all().filter(|s| s.is_stop()).collect();
    let deliverable = status
        .pending
        .union(status.shared_pending)
        .difference(status.blocked);
    Ok(!deliverable
        .intersection(stops)
        .difference(status.caught)
        .difference(status.ignored)
        .is_empty())
}

/// What the signals that a stopped thread would take at once would do, under its own mask or that of its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtOnce {
    /// There is none.
    Nothing,
    /// Each has a handler.
    Handled,
    /// One has none.
    Unhandled,
}

impl AtOnce {
    pub fn look(pid: Pid, tid: Tid) -> Result<AtOnce> {
        let status = SignalStatus::read(pid, tid)?;
        let blocked = status.blocked.intersection(ptrace::signal_mask(tid)?);
        let pending = status.pending.union(status.shared_pending);
        let due = pending.difference(blocked);
        Ok(if due.is_empty() {
            AtOnce::Nothing
        } else if due.difference(status.caught).is_empty() {
            AtOnce::Handled
        } else {
            AtOnce::Unhandled
        })
    }
}

/// The call that the thread is in, and its result as it stands now.
pub(crate) fn in_call(registers: &Registers) -> Option<(InterruptedCall, i64)> {
    let (number, result) = registers.call()?;
    let call = InterruptedCall {
        number,
        code: RestartCode::UnlessHandled,
        ip: registers.ip(),
        remaining: None,
        whole_timeout: false,
        timeout: None,
    };
    Some((call, result))
}

/// Leaves the thread, whose stop shows it in `call`, there, as if that had been interrupted with `code`.
pub(crate) fn set(
    tid: Tid,
    registers: &Registers,
    call: &InterruptedCall,
    code: RestartCode,
) -> Result<()> {
    ptrace::set_registers(tid, &registers.interrupted_in(call, code))
}
