//! RLIMIT_CPU: the CPU time that a process has used begins anew at a restore.

use std::time::Duration;

use criu_signals_images::clocks::CpuLimit;
use criu_signals_images::{Pid, ProcessState, Rlimit};

use crate::losses::notices::{Notice, Saying};

/// `None` if the process may use as much as it likes.
pub fn at_dump(pid: Pid, process: &ProcessState, cpu: &CpuLimit) -> Option<Saying> {
    let seconds = cpu.limit.soft;
    let used = Duration::from_nanos(cpu.used).as_secs_f64();
    (seconds != Rlimit::INFINITY).then(|| Saying {
        notice: Notice::CpuLimit,
        what: format!(
            "pid {pid} ({}): RLIMIT_CPU is {seconds} s, and the CPU time used begins at 0 after a restore: SIGXCPU \
             comes late by the time used before the dump, {used:.3} s",
            process.comm
        ),
        advice: "checkpoint it if the program can live with that",
    })
}
