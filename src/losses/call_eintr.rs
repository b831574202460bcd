//! System calls that end with EINTR because nobody can tell which call it was: one that had been interrupted before waits in
//! restart_syscall(2). docs/eintr.md says who can tell it mostly.

use criu_signals_images::{InterruptedCall, Pid, ProcessState, RestartCode};

use crate::arch::{self, Waiting};
use crate::losses::notices::{Notice, Saying};

/// What there is to say where the process is dumped.
pub fn at_dump(pid: Pid, process: &ProcessState) -> Vec<Saying> {
    let untold = |call: &InterruptedCall| {
        call.code == RestartCode::ByBlock
            && arch::waiting(call.number, [0; 6], process.compat) == Some(Waiting::Restart)
    };
    let threads = process.threads.iter();
    threads
        .filter(|thread| thread.interrupted.as_ref().is_some_and(untold))
        .map(|thread| Saying {
            notice: Notice::CallEintr,
            what: format!(
                "pid {pid} ({}) tid {}: restart_syscall: a call that had been interrupted before, and only the kernel knows which: the call \
                 ends with EINTR, after a restore or when the process runs on",
                process.comm,
                thread.tid()
            ),
            advice: "give criu CAP_BPF and CAP_PERFMON, so that the plugin can read it, or checkpoint later",
        })
        .collect()
}
