//! Reports at the dump on the signals between a process and its parent: a parent-death signal is postponed by the restore, and
//! an exit signal does not survive a checkpoint.

use criu_signals_images::{ExitSignal, Name, Pid, ProcessState, SigNo, ThreadState};

use crate::losses::notices::{Notice, Saying};

/// What ties a process to its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ties {
    /// For people.
    comm: Name,
    /// The leader's id in its own pid namespace.
    leader: i32,
    exit_signal: Option<ExitSignal>,
    /// Threads, as `leader`, that ask for a signal.
    death_signals: Vec<(i32, SigNo)>,
}

impl Ties {
    /// Those of `process`.
    pub fn from_state(process: &ProcessState) -> Self {
        let asks =
            |thread: &ThreadState| Some((thread.ids.innermost(), thread.parent_death_signal?));
        Ties {
            comm: process.comm.clone(),
            leader: process.ids.innermost(),
            exit_signal: process.exit_signal,
            death_signals: process.threads.iter().filter_map(asks).collect(),
        }
    }

    /// The first parent-death signal, and whose it is if it is not the leader's alone.
    pub fn death_signal(&self) -> Option<(SigNo, String)> {
        let (&(first, signo), others) = self.death_signals.split_first()?;
        let threads = match (first == self.leader, others.len()) {
            (true, 0) => String::new(),
            (_, 0) => format!(" of thread {first}"),
            (_, n) => format!(" of thread {first} and {n} more"),
        };
        Some((signo, threads))
    }
}

/// What there is to say about a process, which is `pid` here. `parent_is_dumped`: its parent is in the same images.
pub fn at_dump(pid: Pid, ties: &Ties, parent_is_dumped: bool) -> Vec<Saying> {
    let comm = &ties.comm;
    let mut sayings = Vec::new();
    // Where the parent is restored as well, CRIU forks the child from it, and all is as it was.
    if !parent_is_dumped && let Some((signo, threads)) = ties.death_signal() {
        sayings.push(Saying {
            notice: Notice::ParentDeathSignal,
            what: format!(
                "pid {pid} ({comm}): its parent-death signal is {signo} (PR_SET_PDEATHSIG{threads}), and its parent is \
                 not in these images. A restore postpones the signal until the process has a parent that stays: a parent \
                 that ends before sends none"
            ),
            advice: "remove the word pdeathsig from the list: the restored process has the signal again when criu, and the \
                     program that has started criu, have ended",
        });
    }
    if let Some(signal) = ties.exit_signal
        && signal != ExitSignal::CHLD
    {
        sayings.push(Saying {
            notice: Notice::ExitSignal,
            what: format!(
                "pid {pid} ({comm}): its exit signal, which clone(2) set, is {signal}. CRIU creates every process with \
                 SIGCHLD, and an exit signal cannot be changed afterwards: after a restore the parent gets SIGCHLD, \
                 and wait() reports this child, not wait(__WCLONE)"
            ),
            advice: "restore it if the parent can live with SIGCHLD; a parent that waits with __WALL can",
        });
    }
    sayings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thread 7 leads.
    fn ties(threads: &[Option<SigNo>], exit_signal: u32) -> Ties {
        let ids = 7..;
        Ties {
            comm: "x".into(),
            leader: 7,
            exit_signal: ExitSignal::new(exit_signal),
            death_signals: ids
                .zip(threads)
                .filter_map(|(id, signal)| Some((id, (*signal)?)))
                .collect(),
        }
    }

    fn kinds(ties: &Ties, parent_is_dumped: bool) -> Vec<Notice> {
        let sayings = at_dump(Pid::new(7).unwrap(), ties, parent_is_dumped);
        sayings.iter().map(|s| s.notice).collect()
    }

    #[test]
    fn an_ordinary_process_is_not_spoken_of() {
        assert_eq!(kinds(&ties(&[None, None], 17), false), []);
    }

    #[test]
    fn a_restored_parent_ends_when_it_ends() {
        let asks = ties(&[Some(SigNo::TERM)], 17);
        assert_eq!(kinds(&asks, false), [Notice::ParentDeathSignal]);
        assert_eq!(kinds(&asks, true), []);
    }

    #[test]
    fn whose_signal_it_is() {
        let signals = |threads: &[_]| ties(threads, 17).death_signal();
        let of = |text: &str| Some((SigNo::TERM, text.to_owned()));
        let term = Some(SigNo::TERM);
        assert_eq!(signals(&[None, None]), None);
        assert_eq!(signals(&[term, None]), of(""));
        assert_eq!(signals(&[None, term]), of(" of thread 8"));
        assert_eq!(signals(&[term, term, term]), of(" of thread 7 and 2 more"));
    }

    #[test]
    fn an_exit_signal_is_lost_whoever_the_parent_is() {
        for dumped in [false, true] {
            assert_eq!(kinds(&ties(&[None], 10), dumped), [Notice::ExitSignal]);
            assert_eq!(kinds(&ties(&[None], 0), dumped), [Notice::ExitSignal]);
        }
    }
}
