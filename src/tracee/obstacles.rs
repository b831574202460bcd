//! Checks for program settings under which an injected system call would not be executed as a system call, before the
//! first call is made.
//!
//! - **Syscall User Dispatch** (prctl(2), PR_SET_SYSCALL_USER_DISPATCH) turns calls into SIGSYS as long as a byte of the
//!   program's says so. For the time of a visit that byte allows them. The dispatch itself is not touched: to turn it on
//!   again can be forbidden (kernel.syscall_user_dispatch), and a tracer that dies in between would leave it off. The
//!   byte is put back by the stub if the tracer dies, behind its last call.
//! - **Protection keys** (pkeys(7)): a thread that may not access key 0, which all memory has by default, can't read the
//!   stub's data. The stub could grant that access, but would have to revoke it after its last memory access, and that
//!   access restores the thread. So such a thread is refused.
//! - **A mask of the call's own** (pselect, ppoll, sigsuspend, epoll_pwait) is gone after a call was made in the thread. In a
//!   stopped process a handler that is due would find the thread's mask instead. CRIU does the same to it, so a checkpoint
//!   goes on with a warning; a visit that nothing else has to follow is refused.
//! - **Programs** that the architecture can't do this to ([`Registers::refused`]).

use criu_signals_images::{Pid, SigNo, Tid};

use super::memory::{Memory, RemoteAddr};
use super::ptrace::{self, Dispatch};
use super::shield::{self, MaskEffect};
use crate::arch::{
    Registers, SYSCALL_DISPATCH_FILTER_ALLOW, SYSCALL_DISPATCH_FILTER_BLOCK, Stub, protection_keys,
};
use crate::error::{Cause, Error, Result};
use crate::proc::{self, Seccomp, SignalStatus};

fn unsupported(what: &'static str, why: &'static str) -> Error {
    Error::new(what, Cause::Unsupported(why.into()))
}

/// The byte that keeps system calls from being made, and has to allow them for the time of a visit. Where the kernel can't
/// say, `assumes_calls` decides that there is none ([`assume_calls`](super::StoppedProcess::assume_calls)).
///
/// # Errors
/// [`Cause::Unsupported`] if calls can't be allowed by a byte.
pub(super) fn selector(
    tid: Tid,
    memory: &Memory,
    assumes_calls: bool,
) -> Result<Option<RemoteAddr>> {
    const WHAT: &str = "make system calls under Syscall User Dispatch";
    let at = match ptrace::dispatch(tid)? {
        Dispatch::Off => return Ok(None),
        Dispatch::Unknown if assumes_calls => return Ok(None),
        Dispatch::Unknown => return refuse_unknown(memory.pid(), tid).map(|()| None),
        Dispatch::By(0) => {
            return Err(unsupported(
                WHAT,
                "it has no selector: only turning it off allows calls, and turning it on again can fail",
            ));
        }
        Dispatch::By(at) => RemoteAddr(at),
    };
    let mut says = [0];
    memory.read_program(at, &mut says)?;
    match says {
        [SYSCALL_DISPATCH_FILTER_ALLOW] => Ok(None),
        [SYSCALL_DISPATCH_FILTER_BLOCK] if Stub::BLOCKS_AGAIN => Ok(Some(at)),
        [SYSCALL_DISPATCH_FILTER_BLOCK] => Err(unsupported(
            WHAT,
            "it blocks calls, and on this architecture the injected code could not block them again if the tracer died",
        )),
        _ => Err(unsupported(
            WHAT,
            "its selector is neither ALLOW nor BLOCK, so every call kills the process",
        )),
    }
}

/// Whether calls may be dispatched, on a kernel that has Syscall User Dispatch but does not tell (5.11 to 6.3). A
/// program that uses the dispatch has a handler of SIGSYS. So calls may be dispatched if the program has such a handler
/// and no other mechanism that sends SIGSYS.
fn refuse_unknown(pid: Pid, tid: Tid) -> Result<()> {
    if !ptrace::has_dispatch()
        || !SignalStatus::read(pid, tid)?.caught.contains(SigNo::SYS)
        || proc::seccomp(pid, tid)? != Seccomp::Off
    {
        return Ok(());
    }
    Err(unsupported(
        "make system calls",
        "the program handles SIGSYS, and this kernel can't say whether Syscall User Dispatch would turn calls into one \
         (PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, Linux 6.4)",
    ))
}

/// Is a thread, whose process is stopped by the calling one, under Syscall User Dispatch?
pub(super) fn is_dispatched(tid: Tid) -> Result<bool> {
    Ok(matches!(ptrace::dispatch(tid)?, Dispatch::By(_)))
}

/// # Errors
/// [`Cause::Unsupported`] if the thread may not access memory that has no protection key.
pub(super) fn refuse_denied_key(tid: Tid) -> Result<()> {
    let Some(keys) = protection_keys() else {
        return Ok(());
    };
    let state = ptrace::protection_registers(tid, keys)?;
    if keys.denies_default(&state) {
        return Err(unsupported(
            "make system calls",
            "the thread's protection keys deny access to memory with key 0, the default key",
        ));
    }
    Ok(())
}

/// # Errors
/// [`Cause::Unsupported`] if a handler would find another mask after calls have been made in this thread of a stopped process.
pub(super) fn refuse_mask_of_call(pid: Pid, tid: Tid, registers: &Registers) -> Result<()> {
    let Some(lost) = shield::loses_mask(pid, tid, registers)? else {
        return Ok(());
    };
    let advice = match lost.effect {
        MaskEffect::OtherMaskInHandler => "Send SIGCONT first, or read",
        MaskEffect::ActionBeforeCall(_) => "Wait until the call has ended, or read",
    };
    let why = format!(
        "injected calls would discard the call's own mask, and {lost} (docs/eintr.md). {advice} the process without a stop \
         (criu-signals show --no-stop)"
    );
    Err(Error::new(
        "make system calls",
        Cause::Unsupported(why.into()),
    ))
}

/// # Errors
/// [`Cause::Unsupported`] if `registers` are those of a thread of a program that the architecture can't do this to. `is_32_bit`:
/// has the kernel started the program as a 32-bit one?
pub(super) fn refuse_program(
    registers: &Registers,
    is_32_bit: impl FnOnce() -> bool,
) -> Result<()> {
    match registers.refused(is_32_bit) {
        Some(why) => Err(unsupported("make system calls", why)),
        None => Ok(()),
    }
}
