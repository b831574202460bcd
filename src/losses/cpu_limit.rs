//! RLIMIT_CPU: the CPU time that a process has used begins anew at a restore.

use criu_signals_images::{Pid, ProcessState};

use crate::losses::notices::{Notice, Saying};

/// RLIMIT_CPU of so many seconds.
pub fn at_dump(pid: Pid, process: &ProcessState, seconds: u64) -> Saying {
    Saying {
        notice: Notice::CpuLimit,
        what: format!(
            "pid {pid} ({}): RLIMIT_CPU is {seconds} s, and the CPU time used begins at 0 after a restore: SIGXCPU \
             comes late by the time used before the dump",
            process.comm
        ),
        advice: "checkpoint it if the program can live with that",
    }
}
