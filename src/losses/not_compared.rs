//! State that no verdict covers, because it is captured and restored but not compared.

use criu_signals_images::ProcessState;

use crate::state::{cpu_clocks, timers};

/// What there is in this process that the verdict does not cover: docs/report.md has the list.
pub fn parts(process: &ProcessState) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = |count: usize, what: &str| {
        if count != 0 {
            parts.push(format!("{what} ({count})"));
        }
    };
    let all = || process.timers.iter();
    part(
        all().filter(|timer| timer.remaining != 0).count(),
        "how much remains of POSIX timers",
    );
    part(
        all()
            .filter(|timer| timers::is_countable(timer) && timer.interval != 0)
            .count(),
        "overruns of POSIX timers whose signal is pending",
    );
    let nameless = all().filter(|timer| cpu_clocks::is_nameless(timer)).count();
    part(
        if process.threads.len() == 1 {
            0
        } else {
            nameless
        },
        "which thread's CPU time POSIX timers count",
    );
    part(
        process
            .interval_timers
            .iter()
            .filter(|timer| timer.remaining != 0)
            .count(),
        "how much remains of interval timers",
    );
    let threads = || process.threads.iter();
    part(
        threads()
            .filter(|thread| thread.interrupted.is_some())
            .count(),
        "interrupted system calls",
    );
    part(
        threads()
            .filter(|thread| thread.saved_mask.is_some())
            .count(),
        "masks that a call has set for its time",
    );
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_signals_images::{IntervalTimer, NsIds};

    #[test]
    fn what_no_verdict_covers() {
        let mut process = ProcessState::bare(NsIds::new(vec![7]).unwrap());
        assert_eq!(parts(&process), [""; 0]);
        process.interval_timers.push(IntervalTimer {
            which: 0,
            interval: 0,
            remaining: 5,
        });
        assert_eq!(parts(&process), ["how much remains of interval timers (1)"]);
    }
}
