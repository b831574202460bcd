//! Takes threads back into the system calls that a stop shows them outside of ([`Registers::STOP_HIDES_CALL`]).
//!
//! Where the kernel decides on the restart of a call before it traps, the thread stands before the call's instruction, or behind that
//! with EINTR, and the decision is lost as soon as anything else runs in the thread. So the thread makes its call once more, by
//! itself, with an interrupt pending: up to the exit of the call, where registers say which call it is and what has interrupted it,
//! and where the decision is still to be made. There the thread stays: it can be let go at any time, also by the death of its
//! tracer, and the kernel then decides by the signals that are pending then. The call that is entered is the one that the kernel
//! would have gone on with: restart_syscall(2) after ERESTART_RESTARTBLOCK.
//!
//! An interrupt is pending as long as a thread stands there, without which the kernel would look for no signals, and the restart code
//! would be the call's result.

use criu_signals_images::{Pid, Tid};

use super::bound::Bound;
use super::memory::{Memory, RemoteAddr};
use super::ptrace::{self, Resume, Stop};
use super::shield::{self, AtOnce};
use super::stopped::PATIENCE;
use crate::arch::{Registers, Waiting, is_wait, syscall_number, waiting};
use crate::error::Result;
use crate::proc;

const WHAT: &str = "go back into an interrupted system call";
const RESTART: u32 = syscall_number(libc::SYS_restart_syscall);

/// A system call that a thread was seen in while it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeenCall {
    pub number: u32,
    pub args: [u64; 6],
    pub sp: u64,
    /// Behind its instruction.
    pub ip: u64,
}

/// Takes the thread of a stopped process to the exit of the call that the stop has interrupted, if there is one. To be done before
/// anything is run in the thread. `seen`: the call that the thread was in before the stop.
///
/// Left as they are: threads that are stopped by a signal, or held by a freezer; those with a pending signal that the kernel drops or
/// that ends or stops the process; those in no call. Where the handler of a pending signal is due, the kernel has decided by that, and the
/// thread goes on up to the handler's first instruction.
///
/// # Errors
/// Those of ptrace(2) and of `/proc`; ETIMEDOUT if the call does not end though it is interrupted.
pub(crate) fn back_in_call(
    pid: Pid,
    tid: Tid,
    memory: &Memory,
    seen: Option<&SeenCall>,
) -> Result<()> {
    let found = ptrace::registers(tid)?;
    let Some((number, ended)) = call_before_stop(pid, tid, memory, &found, seen)? else {
        return Ok(());
    };
    if proc::is_held(pid) || shield::stop_is_due(pid, tid)? {
        return Ok(());
    }
    match AtOnce::look(pid, tid)? {
        AtOnce::Unhandled => return Ok(()),
        // It stands behind the call, with EINTR, as the handler has to find it.
        AtOnce::Handled if ended.is_some() => return Ok(()),
        AtOnce::Handled | AtOnce::Nothing => {}
    }
    if let Some(before) = &ended {
        ptrace::set_registers(tid, before)?;
    }
    if !enter(tid, ended.map(|_| found).as_ref())? {
        return Ok(());
    }
    ptrace::interrupt(tid)?;
    to_exit(tid)?;
    let mut now = ptrace::registers_now(tid)?;
    if now.call().is_some_and(|(made, _)| made == RESTART) && number != RESTART {
        now = now.in_place_of_restart(number);
        ptrace::set_registers(tid, &now)?;
    }
    if now.lacks_argument() {
        return ptrace::interrupt(tid);
    }
    // What it has waited for is there.
    to_trap(tid, &now.outside())
}

/// A thread that was taken back into its call, which ends with EINTR all the same: it has no more to do with that.
///
/// # Errors
/// Those of ptrace(2).
pub(crate) fn leave_ended(tid: Tid) -> Result<()> {
    if !Registers::STOP_HIDES_CALL {
        return Ok(());
    }
    let now = ptrace::registers(tid)?;
    if now.call().is_none() || now.is_interrupted() {
        return Ok(());
    }
    to_trap(tid, &now.outside())
}

/// Takes a thread that stands at the exit of a call to the trap in which others expect a thread that is stopped, with
/// `registers`, which are those of a thread in no call.
///
/// # Errors
/// Those of ptrace(2).
pub(crate) fn to_trap(tid: Tid, registers: &Registers) -> Result<()> {
    ptrace::set_registers(tid, registers)?;
    trap(tid)
}

/// As [`to_trap`], with the registers as they are.
pub(super) fn trap(tid: Tid) -> Result<()> {
    ptrace::interrupt(tid)?;
    ptrace::resume(tid, Resume::Run, 0)?;
    ptrace::await_trap(tid, PATIENCE)
}

/// The number of the call that the thread was in, and, where the stop has ended the call with EINTR, the registers before the call.
fn call_before_stop(
    pid: Pid,
    tid: Tid,
    memory: &Memory,
    found: &Registers,
    seen: Option<&SeenCall>,
) -> Result<Option<(u32, Option<Registers>)>> {
    if !Registers::STOP_HIDES_CALL || found.is_compat() || found.call().is_some() {
        return Ok(None);
    }
    let seen = seen.filter(|seen| seen.sp == found.sp());
    if let Some(seen) = seen
        && seen.ip == found.ip()
        && found.has_eintr_of(seen.number, seen.args)
    {
        let before = found.before_call(seen.number, seen.ip, seen.args[0]);
        let is_once = match waiting(seen.number, seen.args, false) {
            Some(Waiting::Once) => true,
            Some(Waiting::OnceOnSocket) => {
                i32::try_from(seen.args[0]).is_ok_and(|fd| proc::is_socket(pid, tid, fd))
            }
            _ => false,
        };
        return Ok(is_once.then_some((seen.number, Some(before))));
    }
    let mut next = [0; 4];
    if memory
        .read_program(RemoteAddr(found.ip()), &mut next)
        .is_err()
    {
        return Ok(None);
    }
    let Some((number, ip)) = found.next_call(next) else {
        return Ok(None);
    };
    let is_seen = seen.is_some_and(|seen| seen.number == number && seen.ip == ip);
    Ok((is_wait(number, is_seen)).then_some((number, None)))
}

/// Lets the thread go on into its call. False if it stands elsewhere: a signal has come first. `behind`: the registers behind the call
/// that the stop has ended, which a handler has to find.
fn enter(tid: Tid, behind: Option<&Registers>) -> Result<bool> {
    let put_behind = || behind.map_or(Ok(()), |behind| ptrace::set_registers(tid, behind));
    let mut bound = Bound::new(tid, WHAT, PATIENCE, 1);
    loop {
        bound.one_more()?;
        ptrace::resume(tid, Resume::ToSyscall, 0)?;
        match ptrace::wait_stop(tid, bound.deadline())? {
            Stop::Syscall => return Ok(true),
            Stop::Event(libc::SIGTRAP) | Stop::OtherEvent(_) => {}
            // Stopped by a signal.
            Stop::Event(_) => return put_behind().map(|()| false),
            Stop::Signal(signal) => {
                put_behind()?;
                ptrace::interrupt(tid)?;
                ptrace::resume(tid, Resume::Run, signal)?;
                return ptrace::await_trap(tid, PATIENCE).map(|()| false);
            }
        }
    }
}

/// From the entry of a call to its exit: nothing stops a thread in between.
fn to_exit(tid: Tid) -> Result<()> {
    let mut bound = Bound::new(tid, WHAT, PATIENCE, 1);
    loop {
        bound.one_more()?;
        ptrace::resume(tid, Resume::ToSyscall, 0)?;
        if ptrace::wait_stop(tid, bound.deadline())? == Stop::Syscall {
            return Ok(());
        }
    }
}
