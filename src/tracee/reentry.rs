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

use std::collections::BTreeMap;
use std::fmt;

use criu_signals_images::{CallTable, Pid, Tid};

use super::bound::{Bound, PATIENCE};
use super::memory::{Memory, RemoteAddr};
use super::ptrace::{self, Resume, Stop};
use super::shield::{self, AtOnce};
use crate::arch::{Registers, Waiting, is_wait, syscall_number, waiting};
use crate::error::{Phase, Result};
use crate::in_time;
use crate::proc::{self, Glimpse};

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
    /// The thread has gone into the stop since, and nowhere else.
    pub up_to_stop: bool,
}

/// A system call that a stop has ended with EINTR, as far as anybody can tell, and that could not be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedCall {
    /// Of which thread.
    pub tid: Tid,
    number: u32,
}

impl fmt::Display for EndedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match CallTable::here(false).name(self.number) {
            Some(name) => f.write_str(name),
            None => write!(f, "system call {}", self.number),
        }
    }
}

/// Where the thread of a stopped process stands that was in a system call.
struct Outside {
    number: u32,
    /// Behind the call, which the stop has ended with EINTR? Otherwise before the call, which is to be made once more.
    is_behind: bool,
    /// The registers before the call, unless they are not known.
    before: Option<Registers>,
}

/// The calls that threads were seen in before this library stopped them, each with how often the thread had given up its processor.
#[derive(Debug, Default)]
pub(super) struct SeenCalls(BTreeMap<Tid, (SeenCall, u64)>);

impl SeenCalls {
    /// Looks at `threads` of `pid`, which run, where a stop would hide their calls.
    pub fn look(&mut self, pid: Pid, threads: &[Tid]) {
        if !Registers::STOP_HIDES_CALL {
            return;
        }
        let threads = threads.to_vec();
        let looked = in_time::look("syscall", move || {
            let look = |tid| Some((tid, look(pid, tid)?));
            threads.into_iter().filter_map(look).collect::<Vec<_>>()
        });
        match looked {
            Ok(seen) => self.0.extend(seen),
            // Each call that ends for that is told of.
            Err(e) => log::debug!("{}", e.during(Phase::Seize, pid)),
        }
    }

    /// As [`keep_call`].
    ///
    /// # Errors
    /// Those of [`keep_call`].
    pub fn keep(&self, pid: Pid, tid: Tid) -> Result<Option<EndedCall>> {
        let into_the_stop =
            |before| Glimpse::of_thread(pid, tid).is_ok_and(|now| now.switches == before + 1);
        let seen = self.0.get(&tid).map(|&(call, before)| SeenCall {
            up_to_stop: into_the_stop(before),
            ..call
        });
        keep_call(pid, tid, seen.as_ref())
    }
}

/// Keeps the stop itself from ending the call of a thread, which has stopped and in which nothing has run since. Says which call ends
/// all the same. `seen`: as for [`back_in_call`].
///
/// # Errors
/// Those of [`shield::shield`] and [`back_in_call`].
pub(crate) fn keep_call(pid: Pid, tid: Tid, seen: Option<&SeenCall>) -> Result<Option<EndedCall>> {
    let ended = back_in_call(pid, tid, seen)?;
    shield::shield_thread(pid, tid)?;
    leave_ended(tid).map(|()| ended)
}

fn look(pid: Pid, tid: Tid) -> Option<(SeenCall, u64)> {
    let switches = || Glimpse::of_thread(pid, tid).ok().map(|seen| seen.switches);
    let before = switches()?;
    let line = proc::read_text(format!("/proc/{pid}/task/{tid}/syscall")).ok()?;
    let (number, [a0, a1, a2, a3, a4, a5, sp, ip]) = proc::parse_call(&line)?;
    let call = SeenCall {
        number,
        args: [a0, a1, a2, a3, a4, a5],
        sp,
        ip,
        up_to_stop: true,
    };
    // If the thread has run since it was counted, it is switched twice up to its stop.
    Some((call, before))
}

/// Takes the thread of a stopped process to the exit of the call that the stop has interrupted, if there is one. To be done before
/// anything is run in the thread. `seen`: the call that the thread was in before the stop.
///
/// Left as they are: threads that are stopped by a signal, or held by a freezer; those with a pending signal that the kernel drops or
/// that ends or stops the process; those in no call. Where the handler of a pending signal is due, the kernel has decided by that, and the
/// thread goes on up to the handler's first instruction. A call of theirs that has ended with EINTR is returned unless it has to.
///
/// # Errors
/// Those of ptrace(2) and of `/proc`; ETIMEDOUT if the call does not end though it is interrupted.
pub(crate) fn back_in_call(
    pid: Pid,
    tid: Tid,
    seen: Option<&SeenCall>,
) -> Result<Option<EndedCall>> {
    let found = ptrace::registers(tid)?;
    let Some(outside) = call_before_stop(pid, tid, &found, seen) else {
        return Ok(None);
    };
    if shield::stop_is_due(pid, tid)? {
        return Ok(None);
    }
    let Outside {
        number,
        is_behind,
        before,
    } = outside;
    let at_once = AtOnce::look(pid, tid)?;
    if is_behind && at_once == AtOnce::Handled {
        // It has EINTR as the handler has to find it.
        return Ok(None);
    }
    let can_run = |_: &Registers| at_once != AtOnce::Unhandled && !proc::is_held(pid);
    let Some(before) = before.filter(can_run) else {
        return Ok(is_behind.then_some(EndedCall { tid, number }));
    };
    if is_behind {
        ptrace::set_registers(tid, &before)?;
    }
    if !enter(tid, is_behind.then_some(&found))? {
        return Ok(None);
    }
    ptrace::interrupt(tid)?;
    to_exit(tid)?;
    let mut now = ptrace::registers_now(tid)?;
    if now.call().is_some_and(|(made, _)| made == RESTART) && number != RESTART {
        now = now.in_place_of_restart(number);
        ptrace::set_registers(tid, &now)?;
    }
    if now.lacks_argument() {
        ptrace::interrupt(tid)?;
    } else {
        // What it has waited for is there.
        to_trap(tid, &now.outside())?;
    }
    Ok(None)
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

/// Where the thread stands, if the stop has taken it out of a call.
fn call_before_stop(
    pid: Pid,
    tid: Tid,
    found: &Registers,
    seen: Option<&SeenCall>,
) -> Option<Outside> {
    if !Registers::STOP_HIDES_CALL || found.is_compat() || found.call().is_some() {
        return None;
    }
    let memory = Memory::open_of(pid, &[tid]).ok()?;
    let instruction = |ip| {
        let mut bytes = [0; 4];
        let read = memory.read_program(RemoteAddr(ip), &mut bytes);
        read.is_ok().then_some(bytes)
    };
    let seen = seen.filter(|seen| seen.sp == found.sp());
    if let Some(seen) = seen
        && seen.ip == found.ip()
        && found.has_eintr_of(seen.number, seen.args)
        && is_of_stop(tid, seen)
    {
        let is_once = match waiting(seen.number, seen.args, false) {
            Some(Waiting::Once) => true,
            Some(Waiting::OnceOnSocket) => {
                i32::try_from(seen.args[0]).is_ok_and(|fd| proc::is_socket(pid, tid, fd))
            }
            _ => false,
        };
        return is_once.then_some(Outside {
            number: seen.number,
            is_behind: true,
            before: Some(found.before_call(seen.number, seen.ip, seen.args[0])),
        });
    }
    if let Some((start, number)) = found.eintr_behind()
        && Registers::is_call(instruction(start)?)
    {
        let args = found.call_args();
        let is_once = matches!(
            waiting(number, args, false),
            Some(Waiting::Once | Waiting::OnceOnSocket)
        );
        return is_once.then_some(Outside {
            number,
            is_behind: true,
            before: None,
        });
    }
    let (number, ip) = found.next_call(instruction(found.ip())?)?;
    let is_seen =
        seen.is_some_and(|seen| seen.up_to_stop && seen.number == number && seen.ip == ip);
    is_wait(number, is_seen).then_some(Outside {
        number,
        is_behind: false,
        before: Some(*found),
    })
}

/// Is the call that the thread was seen in the one that has ended with EINTR? The kernel still has the first argument of that: a program
/// that waits in a loop makes the same call again, and one whose handler has returned has another there as a rule.
fn is_of_stop(tid: Tid, seen: &SeenCall) -> bool {
    match ptrace::argument_kept(tid) {
        Ok(Some(first)) => first == seen.args[0],
        // It is found out elsewhere if the thread is gone.
        Ok(None) | Err(_) => seen.up_to_stop,
    }
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
