//! State that no verdict covers, because it is captured and restored but not compared.

use criu_signals_images::{ProcessState, WaitStatus};

use crate::state::{cpu_clocks, timers};

/// What there is in this process that the verdict does not cover: docs/report.md has the list.
pub fn parts(process: &ProcessState) -> Vec<String> {
    let mut parts = of_both(process);
    match &process.clocks {
        None => parts.push(NO_CLOCKS.to_owned()),
        Some(clocks) => {
            let armed = clocks.timerfds.iter().filter(|timer| timer.remaining != 0);
            let armed = armed.count();
            if armed != 0 {
                parts.push(format!("how much remains of timerfds ({armed})"));
            }
        }
    }
    parts
}

const NO_CLOCKS: &str = "timerfds and RLIMIT_CPU, of which the image records nothing";

fn of_both(process: &ProcessState) -> Vec<String> {
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
    part(
        timers::hidden(process),
        "whether the entries of POSIX timers with an ignored signal are kept aside",
    );
    let nameless = all()
        .filter(|timer| cpu_clocks::is_nameless(timer.clock))
        .count();
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

/// As [`parts`], for a comparison of an image with a process that has run on since: CRIU's images do not take part in that, nor
/// does the process's parent.
pub fn parts_of_live(process: &ProcessState) -> Vec<String> {
    let mut parts = of_both(process);
    let mut part = |is_there: bool, what: &str| {
        if is_there {
            parts.push(what.to_owned());
        }
    };
    part(
        !process.records_file_owners(),
        "SIGIO owners of files, of which the image records none",
    );
    let clocks = process.clocks.as_ref();
    part(clocks.is_none(), NO_CLOCKS);
    part(
        clocks.is_some_and(|clocks| !clocks.is_empty()),
        "timerfds and RLIMIT_CPU",
    );
    part(
        process.exit_signal.is_none(),
        "the exit signal, which the image does not record",
    );
    part(
        matches!(
            process.wait_status,
            WaitStatus::Stopped(_) | WaitStatus::Continued
        ),
        "what the parent's wait(2) would report",
    );
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_signals_images::clocks::{Clocks, CpuLimit, TimerFd};
    use criu_signals_images::{ExitSignal, FileOwner, IntervalTimer, NsIds, Rlimit};

    /// Timerfds with so much left.
    fn clocks(remaining: &[u64]) -> Clocks {
        let timer = |(fd, &remaining)| TimerFd {
            fd,
            clock: 1,
            ticks: 0,
            flags: 0,
            remaining,
            interval: 0,
        };
        Clocks {
            cpu: CpuLimit {
                limit: Rlimit {
                    soft: Rlimit::INFINITY,
                    hard: Rlimit::INFINITY,
                },
                used: 0,
            },
            timerfds: (0..).zip(remaining).map(timer).collect(),
            not_looked_at: 0,
        }
    }

    #[test]
    fn what_no_verdict_covers() {
        let mut process = ProcessState::bare(NsIds::new(vec![7]).unwrap());
        assert_eq!(parts(&process), [NO_CLOCKS]);
        process.clocks = Some(clocks(&[]));
        assert_eq!(parts(&process), [""; 0]);
        process.clocks = Some(clocks(&[5, 0, 7]));
        assert_eq!(parts(&process), ["how much remains of timerfds (2)"]);
        process.clocks = Some(clocks(&[0]));
        process.interval_timers.push(IntervalTimer {
            which: 0,
            interval: 0,
            remaining: 5,
        });
        assert_eq!(parts(&process), ["how much remains of interval timers (1)"]);
    }

    #[test]
    fn what_an_image_does_not_tell() {
        let mut process = ProcessState::bare(NsIds::new(vec![7]).unwrap());
        process.exit_signal = Some(ExitSignal::CHLD);
        let owners = "SIGIO owners of files, of which the image records none";
        assert_eq!(parts_of_live(&process), [owners, NO_CLOCKS]);
        process.clocks = Some(clocks(&[]));
        assert_eq!(parts_of_live(&process), [owners]);
        process.clocks = Some(clocks(&[5]));
        assert_eq!(parts_of_live(&process), [owners, "timerfds and RLIMIT_CPU"]);
        process.clocks = Some(clocks(&[]));
        process.wait_status = WaitStatus::Continued;
        process.exit_signal = None;
        process.file_owners.push(FileOwner {
            fd: 3,
            kind: 1,
            id: 7,
            uid: 0,
            euid: 0,
        });
        let all = parts_of_live(&process);
        assert!(
            all.len() == 2 && !all.contains(&owners.to_owned()),
            "{all:?}"
        );
    }
}
