//! RLIMIT_CPU, and the processor time that counts against it.
//!
//! CRIU restores the limit. The time used begins anew at 0, and no system call can set it.

use std::time::Duration;

use criu_signals_images::clocks::CpuLimit;
use criu_signals_images::{Difference, Pid, Rlimit, cpu_limit_differs};

use super::{Done, Lost};
use crate::error::Result;
use crate::proc;
use crate::tracee::rlimit;

/// The limit counts whole seconds: a shorter time is not reported.
const LATE: Duration = Duration::from_secs(1);

/// The limit of a stopped process. The used time is read only if there is a limit.
///
/// # Errors
/// If the process is gone.
pub fn capture(pid: Pid) -> Result<CpuLimit> {
    let mut cpu = CpuLimit {
        limit: rlimit::cpu(pid)?,
        used: 0,
    };
    if cpu.is_limited() {
        cpu.used = proc::cpu_time_of_stopped(pid)?;
    }
    Ok(cpu)
}

/// Compares the limit of a restored process with the captured limit, and sets the captured limit if `repair` says so. The
/// delay of SIGXCPU is added to `lost`.
///
/// # Errors
/// If the limit can't be read or set.
pub fn check(
    pid: Pid,
    dumped: &CpuLimit,
    repair: bool,
    lost: &mut Vec<(Lost, String)>,
) -> Result<Option<(Difference, Done)>> {
    let found = capture(pid)?;
    lost.extend(late(pid, dumped, &found).map(|text| (Lost::CpuTime, text)));
    let Some(difference) = cpu_limit_differs(dumped.limit, found.limit) else {
        return Ok(None);
    };
    if !repair {
        return Ok(Some((difference, Done::LeftAlone)));
    }
    rlimit::set_cpu(pid, dumped.limit)?;
    let done = if rlimit::cpu(pid)? == dumped.limit {
        Done::PutBack
    } else {
        Done::NotPutBack
    };
    Ok(Some((difference, done)))
}

/// How late SIGXCPU comes, and what to do.
fn late(pid: Pid, dumped: &CpuLimit, found: &CpuLimit) -> Option<String> {
    let soft = dumped.limit.soft;
    let used = Duration::from_nanos(dumped.used);
    let late = used.checked_sub(Duration::from_nanos(found.used))?;
    if soft == Rlimit::INFINITY || late < LATE {
        return None;
    }
    let left = soft.saturating_sub(late.as_secs()).max(1);
    Some(format!(
        "the process had used {:.3} s of the {soft} s of RLIMIT_CPU before the dump, and its used CPU time begins at 0 again: \
         SIGXCPU comes {:.3} s late. With prlimit --pid {pid} --cpu={left} SIGXCPU comes in time, but the program sees \
         that limit",
        used.as_secs_f64(),
        late.as_secs_f64()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late() {
        let pid = Pid::new(7).unwrap();
        let cpu = |soft, milliseconds: u64| CpuLimit {
            limit: Rlimit {
                soft,
                hard: Rlimit::INFINITY,
            },
            used: milliseconds * 1_000_000,
        };
        let late = |soft, used, now| super::late(pid, &cpu(soft, used), &cpu(soft, now));
        let text = late(60, 12_340, 20).unwrap();
        assert!(
            text.starts_with("the process had used 12.340 s of the 60 s of RLIMIT_CPU"),
            "{text}"
        );
        assert!(
            text.contains("12.320 s late") && text.contains("--cpu=48 "),
            "{text}"
        );
        assert!(late(1, 5_000, 0).unwrap().contains("--cpu=1 "));
        assert_eq!(late(60, 900, 0), None);
        assert_eq!(late(60, 20, 30), None);
        assert_eq!(late(Rlimit::INFINITY, 12_340, 0), None);
    }

    #[test]
    fn the_limit_of_another_process() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let pid = Pid::new(child.id().cast_signed()).unwrap();
        let mut lost = Vec::new();
        let own = capture(pid).unwrap();
        assert_eq!(check(pid, &own, true, &mut lost).unwrap(), None);
        let mut other = own;
        other.limit.soft = 1_000_000;
        let (difference, done) = check(pid, &other, false, &mut lost).unwrap().unwrap();
        assert_eq!(done, Done::LeftAlone);
        assert!(
            difference.dumped.starts_with("soft 1000000"),
            "{difference}"
        );
        let (_, done) = check(pid, &other, true, &mut lost).unwrap().unwrap();
        assert_eq!(done, Done::PutBack);
        assert_eq!(rlimit::cpu(pid).unwrap(), other.limit);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(lost.is_empty(), "{lost:?}");
    }
}
