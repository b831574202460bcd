//! Keeps a stop from ending system calls that wait.
//!
//! Some calls give EINTR at once whatever it was that interrupted them (signal(7), "Interruption of system calls and library
//! functions by stop signals"). To these the stop must not have happened: the result is turned into ERESTARTNOHAND, which
//! means EINTR if a handler runs and a restart if none does.

use criu_signals_images::{CallTable, InterruptedCall, Pid, RestartCode, SigNo, SigSet, Tid};

use super::memory::{Memory, RemoteAddr};
use super::ptrace;
use crate::arch::{Registers, Timeout, Waiting, may_have_mask, timeout, waiting};
use crate::error::Result;
use crate::proc::{self, SignalStatus};

const EINTR: i64 = libc::EINTR as i64;

/// Keeps the stop itself from ending a call with EINTR in any of the `threads` of a stopped process. From here on the thread may be let
/// go at any time, also by the death of its tracer.
///
/// A result that is due stays: that of a process which is stopped, or is about to be.
///
/// Returns the threads whose calls had a timeout under way. Such a call begins anew with the whole of it: the kernel
/// has kept nothing of it, and docs/eintr.md says why the rest is not put in its place.
///
/// # Errors
/// If a thread could not be looked at or changed.
pub(crate) fn shield(pid: Pid, threads: &[Tid]) -> Result<Vec<Tid>> {
    let mut anew = Vec::new();
    for &tid in threads {
        match shield_thread(pid, tid) {
            Ok(true) => anew.push(tid),
            Ok(false) => {}
            Err(e) if e.is_died() && tid != Tid::from(pid) => {}
            Err(e) => return Err(e.in_thread(tid)),
        }
    }
    Ok(anew)
}

/// As [`shield`], for one thread. Says whether its call begins anew.
pub(crate) fn shield_thread(pid: Pid, tid: Tid) -> Result<bool> {
    let registers = ptrace::registers(tid)?;
    let Some((call, result)) = in_call(&registers) else {
        return Ok(false);
    };
    if result != -EINTR {
        if ends_with_a_handler(result) && may_have_mask(call.number, registers.is_compat()) {
            match HandlerDue::look(pid, tid)? {
                HandlerDue::Afterwards => set(tid, &registers, &call, RestartCode::Always)?,
                HandlerDue::ByBoth => says_other_mask(pid, tid, &call, &registers),
                HandlerDue::ByOneMask => {}
            }
        }
        return Ok(false);
    }
    let args = registers.call_args();
    let once_more = match waiting(call.number, args, registers.is_compat()) {
        Some(Waiting::Once) => true,
        Some(Waiting::OnceOnSocket) => {
            i32::try_from(args[0]).is_ok_and(|fd| proc::is_socket(pid, tid, fd))
        }
        _ => false,
    };
    if !once_more {
        return Ok(false);
    }
    if stop_is_due(pid, tid)? {
        if matches!(HandlerDue::look(pid, tid)?, HandlerDue::ByBoth) {
            says_other_mask(pid, tid, &call, &registers);
        }
        return Ok(false);
    }
    log::debug!(
        "pid {pid} tid {tid}: {}: EINTR is only this stop's",
        call.named(CallTable::here(registers.is_compat()))
    );
    set(tid, &registers, &call, RestartCode::UnlessHandled)?;
    Ok(match timeout(call.number, args, registers.is_compat()) {
        Timeout::Without => false,
        Timeout::Given | Timeout::Millis(_) | Timeout::At(_) => true,
        Timeout::IfAt(at) => Memory::open(pid)?
            .read_u64(RemoteAddr(at))
            .is_ok_and(|pointer| pointer != 0),
    })
}

/// ERESTARTSYS or ERESTARTNOHAND.
fn ends_with_a_handler(result: i64) -> bool {
    matches!(
        RestartCode::from_result(result),
        Some(RestartCode::UnlessHandlerForbids | RestartCode::UnlessHandled)
    )
}

/// By which mask a pending signal with a handler is due, of a thread that is in a call with a mask of its own (pselect, ppoll,
/// epoll_pwait, sigsuspend).
enum HandlerDue {
    /// By none, by the call's alone, or there is one mask only.
    ByOneMask,
    /// Only by the mask that the thread gets back. The kernel decides by the call's that it is restarted, and lets the handler
    /// run then (arch/x86/kernel/signal.c, `arch_do_signal_or_restart`, `restore_saved_sigmask`). Whoever sets the thread's mask
    /// drops the call's, and the handler would end the call with EINTR.
    Afterwards,
    /// By both: the handler ends the call, and finds the call's mask in force unless somebody has set another.
    ByBoth,
}

impl HandlerDue {
    fn look(pid: Pid, tid: Tid) -> Result<HandlerDue> {
        let status = SignalStatus::read(pid, tid)?;
        let given_back = ptrace::signal_mask(tid)?;
        let handled = status
            .pending
            .union(status.shared_pending)
            .intersection(status.caught);
        let by_call = handled.difference(status.blocked);
        let by_thread = handled.difference(given_back);
        Ok(if status.blocked == given_back || by_thread.is_empty() {
            HandlerDue::ByOneMask
        } else if by_call.is_empty() {
            HandlerDue::Afterwards
        } else if by_call.intersection(by_thread).is_empty() {
            HandlerDue::ByOneMask
        } else {
            HandlerDue::ByBoth
        })
    }
}

/// The call of a thread of a process that is stopped by a signal, if the handler that will end the call would find another mask
/// in force after calls have been made in the thread: nobody but the call itself can set its mask.
pub(super) fn loses_mask(
    pid: Pid,
    tid: Tid,
    registers: &Registers,
) -> Result<Option<InterruptedCall>> {
    let Some((call, result)) = in_call(registers) else {
        return Ok(None);
    };
    if !(result == -EINTR || ends_with_a_handler(result))
        || !may_have_mask(call.number, registers.is_compat())
        || !stop_is_due(pid, tid)?
    {
        return Ok(None);
    }
    let due = HandlerDue::look(pid, tid)?;
    Ok(matches!(due, HandlerDue::ByBoth).then_some(call))
}

fn says_other_mask(pid: Pid, tid: Tid, call: &InterruptedCall, registers: &Registers) {
    let call = call.named(CallTable::here(registers.is_compat()));
    log::warn!(
        "pid {pid} tid {tid}: {call}: the handler of a signal that is pending will find the thread's mask in force, and not that \
         of the call (docs/eintr.md)"
    );
}

/// Is the process stopped by a signal, or going to be? Then EINTR is what Linux gives (signal(7)).
fn stop_is_due(pid: Pid, tid: Tid) -> Result<bool> {
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

/// Leaves the thread in `call`, as if that had been interrupted with `code`.
pub(crate) fn set(
    tid: Tid,
    registers: &Registers,
    call: &InterruptedCall,
    code: RestartCode,
) -> Result<()> {
    ptrace::set_registers(tid, &registers.interrupted_in(call, code))
}
