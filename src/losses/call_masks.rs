//! The mask of a system call (pselect, ppoll, epoll_pwait, sigsuspend), which nobody but the call can set: CRIU sets the masks of
//! all threads (compel, `PTRACE_SETSIGMASK`), and with that the kernel drops the mask of the call.

use criu_signals_images::{Pid, ProcessState};

use crate::losses::notices::{Notice, Saying};
use crate::tracee::shield::LostMask;

/// What there is to say where the process is dumped: of each call whose mask matters for a pending signal.
pub fn at_dump(pid: Pid, process: &ProcessState, lost: &[LostMask]) -> Vec<Saying> {
    let saying = |lost: &LostMask| Saying {
        notice: Notice::CallMask,
        what: format!(
            "pid {pid} ({}) tid {}: {lost} (docs/eintr.md)",
            process.comm, lost.tid
        ),
        advice: "checkpoint it when the call has ended or the signal is not pending",
    };
    lost.iter().map(saying).collect()
}
