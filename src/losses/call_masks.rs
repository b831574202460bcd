//! The mask of a system call (pselect, ppoll, epoll_pwait, sigsuspend), which nobody but a call can set: CRIU sets the masks of
//! all threads (compel, `PTRACE_SETSIGMASK`), and with that the kernel drops the mask of the call.

use std::fmt::Write as _;

use criu_signals_images::{Notify, Pid, PosixTimer, ProcessState, SigNo};

use crate::losses::notices::{Notice, Saying};
use crate::tracee::shield::{LostMask, MaskEffect};

/// What there is to say where the process is dumped: of each call whose mask matters for a pending signal.
pub fn at_dump(pid: Pid, process: &ProcessState, lost: &[LostMask]) -> Vec<Saying> {
    let saying = |lost: &LostMask| Saying {
        notice: Notice::CallMask,
        what: format!(
            "pid {pid} ({}) tid {}: {lost} (docs/eintr.md){}",
            process.comm,
            lost.tid,
            timers_of(lost.effect, &process.timers)
        ),
        advice: "checkpoint it when the call has ended or the signal is not pending",
    };
    lost.iter().map(saying).collect()
}

/// The timers whose expiry may be the pending signal. The kernel may have dropped the signal already, so nobody can tell any more.
fn timers_of(effect: MaskEffect, timers: &[PosixTimer]) -> String {
    let MaskEffect::ActionBeforeCall(signals) = effect else {
        return String::new();
    };
    let mut said = String::new();
    for timer in timers {
        let signo = SigNo::new(timer.signo).filter(|&signo| signals.contains(signo));
        let Some(signo) = signo.filter(|_| timer.notify != Notify::Nobody) else {
            continue;
        };
        let _ = write!(
            said,
            "; timer {} sends {signo}: if its expiry is pending, the timer loses that expiry, too",
            timer.id
        );
    }
    said
}

#[cfg(test)]
mod tests {
    use criu_signals_images::SigSet;

    use super::*;

    #[test]
    fn timers_whose_expiry_may_be_lost_are_named() {
        let quiet = PosixTimer {
            notify: Notify::Nobody,
            ..PosixTimer::bare(2, 7)
        };
        let timers = [PosixTimer::bare(0, 7), PosixTimer::bare(1, 14), quiet];
        let bus: SigSet = SigNo::new(7).into_iter().collect();
        let said = timers_of(MaskEffect::ActionBeforeCall(bus), &timers);
        assert!(said.starts_with("; timer 0 sends SIGBUS: "), "{said}");
        assert!(
            !said.contains("timer 1") && !said.contains("timer 2"),
            "{said}"
        );
        assert_eq!(timers_of(MaskEffect::OtherMaskInHandler, &timers), "");
    }
}
