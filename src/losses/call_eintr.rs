//! System calls that end with EINTR because nobody can tell which call it was: one that had been interrupted before waits in
//! restart_syscall(2). docs/eintr.md says how the call is mostly known. Also the calls that a stop has ended (aarch64), and those that
//! a pre-dump ends with EINTR.

use std::cell::OnceCell;

use criu_signals_images::{CallTable, InterruptedCall, Pid, ProcessState, Tid};

use crate::arch::{self, Waiting};
use crate::error::Result;
use crate::in_time;
use crate::losses::notices::{Notice, Saying};
use crate::proc::{self, Glimpse};
use crate::state::interrupted::is_restart;
use crate::tracee::reentry::EndedCall;

/// These leave EINTR only where the kernel can't write the remaining time into the program's memory (fs/select.c,
/// poll_select_finish).
const WRITE_THEIR_TIME: [&str; 6] = [
    "select",
    "_newselect",
    "pselect6",
    "pselect6_time64",
    "ppoll",
    "ppoll_time64",
];

const TIMER_ABSTIME: u64 = libc::TIMER_ABSTIME as u64;

/// What there is to say where the process is dumped. `ended`: calls that a stop has ended already.
pub fn at_dump(pid: Pid, process: &ProcessState, ended: &[EndedCall]) -> Vec<Saying> {
    let ended = ended.iter().map(|call| Saying {
        notice: Notice::CallEintr,
        what: format!(
            "pid {pid} ({}) tid {}: {}",
            process.comm,
            call.tid,
            has_ended(call)
        ),
        advice: "checkpoint it when no signal without a handler is pending, and the thread waits",
    });
    let untold = |call: &InterruptedCall| is_restart(call, process.compat);
    let threads = process.threads.iter();
    threads
        .filter(|thread| thread.interrupted.as_ref().is_some_and(untold))
        .map(|thread| Saying {
            notice: Notice::CallEintr,
            what: format!(
                "pid {pid} ({}) tid {}: restart_syscall continues an interrupted call, and only the kernel knows which call: the call \
                 ends with EINTR after a restore, or when the process runs on",
                process.comm,
                thread.tid()
            ),
            advice: "give criu CAP_BPF and CAP_PERFMON, so that the plugin can read which call it is, or checkpoint later",
        })
        .chain(ended)
        .collect()
}

fn has_ended(call: &EndedCall) -> String {
    format!(
        "{call}: the call has ended with EINTR, and nothing tells whether that is this stop's doing (docs/aarch64.md)"
    )
}

/// Says of calls of `pid`, which is not dumped, that a stop has ended them.
pub fn log(pid: Pid, ended: &[EndedCall]) {
    for call in ended {
        log::warn!("pid {pid} tid {}: {}", call.tid, has_ended(call));
    }
}

/// What there is to say before a pre-dump: in which calls threads of `pid`, which run, wait that CRIU ends with EINTR if it does
/// not hand the stopped process to plugins.
///
/// # Errors
/// If a file could not be read in time.
pub fn before_pre_dump(pid: Pid, threads: &[Glimpse]) -> Result<Option<String>> {
    let threads: Vec<Tid> = threads
        .iter()
        .filter(|thread| !thread.stopped)
        .map(|thread| thread.tid)
        .collect();
    let calls = in_time::look("syscall", move || {
        let compat = OnceCell::new();
        let call_of = |tid: Tid| {
            let line = proc::read_text(format!("/proc/{pid}/task/{tid}/syscall")).ok()?;
            let compat = || *compat.get_or_init(|| proc::is_32_bit(pid));
            Some(format!("tid {tid}: {}", ended(pid, tid, &line, compat)?))
        };
        threads.into_iter().filter_map(call_of).collect::<Vec<_>>()
    })?;
    if calls.is_empty() {
        return Ok(None);
    }
    Ok(Some(format!(
        "pid {pid}: a pre-dump ends these system calls with EINTR: {}. If this criu hands stopped processes to plugins, the \
         pre-dump ends none of them, and this log says so later (docs/upstream/pre-dump.md)",
        calls.join(", ")
    )))
}

/// The name of the call of a thread, if the call ends: `line` is its /proc/PID/task/TID/syscall. CRIU runs code of its own in
/// leaders only, so that other threads go on by the kernel's `restart_block`. Of calls on sockets it is not known whether the
/// socket has a timeout.
fn ended(pid: Pid, tid: Tid, line: &str, compat: impl FnOnce() -> bool) -> Option<&'static str> {
    let (number, [a0, a1, a2, a3, a4, a5, _, _]) = proc::parse_call(line)?;
    let args = [a0, a1, a2, a3, a4, a5];
    let compat = compat();
    let name = CallTable::here(compat).name(number)?;
    let ends = match arch::waiting(number, args, compat)? {
        Waiting::Once => !WRITE_THEIR_TIME.contains(&name),
        Waiting::OnceOnSocket => false,
        Waiting::ClockNanosleep if args[1] & TIMER_ABSTIME != 0 => false,
        // Without a timeout there is no `restart_block`.
        Waiting::Futex if args[3] == 0 => false,
        Waiting::Nanosleep
        | Waiting::ClockNanosleep
        | Waiting::Poll
        | Waiting::Futex
        | Waiting::Restart => tid == Tid::from(pid),
    };
    ends.then_some(name)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn what_a_pre_dump_ends() {
        let leader = Pid::new(7).unwrap();
        let other = Tid::new(8).unwrap();
        let says = |tid, line| ended(leader, tid, line, || false);
        let line =
            |number: i64, args: &str| format!("{number} {args} 0x7ffc00000000 0x7f0000000000\n");
        let poll = line(libc::SYS_poll, "0x1000 0x1 0x64 0x0 0x0 0x0");
        assert_eq!(says(leader.into(), &poll), Some("poll"));
        assert_eq!(says(other, &poll), None);
        let epoll = line(libc::SYS_epoll_wait, "0x3 0x1000 0x1 0x64 0x0 0x0");
        assert_eq!(says(leader.into(), &epoll), Some("epoll_wait"));
        assert_eq!(says(other, &epoll), Some("epoll_wait"));
        let instant = line(libc::SYS_clock_nanosleep, "0x1 0x1 0x1000 0x0 0x0 0x0");
        assert_eq!(says(leader.into(), &instant), None);
        let relative = line(libc::SYS_clock_nanosleep, "0x1 0x0 0x1000 0x0 0x0 0x0");
        assert_eq!(says(leader.into(), &relative), Some("clock_nanosleep"));
        let mutex = line(libc::SYS_futex, "0x1000 0x80 0x2 0x0 0x0 0x0");
        assert_eq!(says(leader.into(), &mutex), None);
        let select = line(libc::SYS_select, "0x1 0x1000 0x0 0x0 0x2000 0x0");
        assert_eq!(says(leader.into(), &select), None);
        assert_eq!(says(leader.into(), "running\n"), None);
    }
}
