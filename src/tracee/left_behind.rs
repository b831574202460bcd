//! Threads that are still in the injected code of a tracer that died or gave up. Such threads return to the program by
//! themselves; a tracer that stops them on the way completes the return.

use std::time::Duration;

use criu_signals_images::Tid;

use super::bound::Bound;
use super::cave::InStub;
use super::memory::{Memory, RemoteAddr};
use super::ptrace::{self, Resume, Stop};
use crate::arch::{SYSCALL_DISPATCH_FILTER_BLOCK, Stub};
use crate::error::Result;

/// How long a thread may take to end the batch of calls that it has begun. A deep queue needs many calls, none of which
/// waits.
const PATIENCE: Duration = Duration::from_secs(30);
/// Two for each call, and some for signals that come between.
const STOPS: usize = 4_000_000;

/// Brings these threads back into the program. They execute nothing of the program, and stand in an event stop again.
///
/// # Errors
/// If a thread is gone or does not come to the end of its way: the program itself may hold such code.
pub(super) fn bring_back(memory: &Memory, threads: &[InStub]) -> Result<()> {
    for InStub { tid, base, stub } in threads {
        log::debug!(
            "tid {tid}: was in the injected code of a tracer that died or gave up: brought back"
        );
        leave(memory, *tid, *base, stub).map_err(|e| e.in_thread(*tid))?;
    }
    Ok(())
}

fn leave(memory: &Memory, tid: Tid, base: u64, stub: &[u8]) -> Result<()> {
    let what = "leave the code of a tracer that has died";
    let mut bound = Bound::within(tid, what, PATIENCE, STOPS);
    let mut owed = 0;
    let left = loop {
        match next(memory, tid, base, stub) {
            Ok(true) => {}
            done => break done.map(drop),
        }
        let stopped = bound
            .one_more()
            .and_then(|()| ptrace::resume(tid, Resume::ToSyscall, std::mem::take(&mut owed)))
            .and_then(|()| ptrace::wait_stop(tid, bound.deadline()));
        match stopped {
            Ok(Stop::Signal(signal)) => owed = signal,
            Ok(_) => {}
            Err(e) => break Err(e),
        }
    };
    // Whatever has failed: as its tracer left it, with no signal in this one's hands.
    let trapped = ptrace::interrupt(tid)
        .and_then(|()| ptrace::resume(tid, Resume::Run, owed))
        .and_then(|()| ptrace::await_trap(tid, PATIENCE));
    left.and(trapped)
}

/// Takes a stopped thread out of the code, if there is no system call to be made there any more. False: it is out of it.
fn next(memory: &Memory, tid: Tid, base: u64, stub: &[u8]) -> Result<bool> {
    let now = ptrace::registers(tid)?;
    let Some(way) = Stub::way_back(stub, base, &now) else {
        return Ok((base..base + stub.len() as u64).contains(&now.ip()));
    };
    if way.selector != 0 {
        let selector = RemoteAddr(way.selector);
        memory.write_program(selector, &[SYSCALL_DISPATCH_FILTER_BLOCK])?;
    }
    ptrace::put_back_registers(tid, &way.registers).map(|()| false)
}
