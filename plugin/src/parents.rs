//! What ties a process to its parent by signals, and does not survive a checkpoint: said at the dump, in words that
//! say what can be done.

use criu_signals::images::{ExitSignal, Pid, ProcessState, SigNo};

use crate::notices::Notice;

/// One thing to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saying {
    /// Of which kind.
    pub notice: Notice,
    /// What will not be as it was.
    pub what: String,
    /// What the user can do about it.
    pub advice: &'static str,
}

/// What there is to say about `process`, which is `pid` here. `parent_is_dumped`: its parent is in the same images.
pub fn at_dump(pid: Pid, process: &ProcessState, parent_is_dumped: bool) -> Vec<Saying> {
    let comm = &process.comm;
    let mut sayings = Vec::new();
    // Where the parent is restored as well, CRIU forks the child from it, and all is as it was.
    if !parent_is_dumped && let Some((signo, threads)) = parent_death_signals(process) {
        sayings.push(Saying {
            notice: Notice::ParentDeathSignal,
            what: format!(
                "pid {pid} ({comm}): its parent-death signal is {signo} (PR_SET_PDEATHSIG{threads}), and its parent is \
                 not in these images. After `criu restore -d` the parent is criu, whose exit sends that signal"
            ),
            advice: "restore with --restore-sibling, which makes the caller of criu the parent, or without -d",
        });
    }
    if let Some(signal) = process.exit_signal
        && signal != ExitSignal::CHLD
    {
        sayings.push(Saying {
            notice: Notice::ExitSignal,
            what: format!(
                "pid {pid} ({comm}): its exit signal, which clone(2) set, is {signal}. CRIU makes every process with \
                 SIGCHLD, and nothing can set that afterwards: after a restore the parent gets SIGCHLD, and finds \
                 this child by wait() and not by wait(__WCLONE)"
            ),
            advice: "restore it if its parent can live with that: it can if it waits with __WALL",
        });
    }
    sayings
}

/// The first parent-death signal, and whose it is if it is not the leader's alone.
pub fn parent_death_signals(process: &ProcessState) -> Option<(SigNo, String)> {
    let mut signals = process
        .threads
        .iter()
        .filter_map(|thread| Some((thread.parent_death_signal?, thread.ids.innermost())));
    let (signo, first) = signals.next()?;
    let others = signals.count();
    let threads = match (first == process.ids.innermost(), others) {
        (true, 0) => String::new(),
        (_, 0) => format!(" of thread {first}"),
        (_, n) => format!(" of thread {first} and {n} more"),
    };
    Some((signo, threads))
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_signals::images::{
        AltStack, Dispositions, NsIds, Pending, Rlimit, RunState, SigSet, ThreadState,
    };

    fn process(threads: &[Option<SigNo>], exit_signal: u32) -> ProcessState {
        let ids = |id| NsIds::new(vec![id]).unwrap();
        let threads = threads.iter().zip(7..).map(|(signal, id)| ThreadState {
            ids: ids(id),
            blocked: SigSet::EMPTY,
            saved_mask: None,
            altstack: AltStack::DISABLED,
            pending: Pending::default(),
            parent_death_signal: *signal,
        });
        ProcessState {
            ids: ids(7),
            pid_ns: 0,
            comm: "x".to_owned(),
            compat: false,
            rlimit_sigpending: Rlimit { soft: 0, hard: 0 },
            queued: 0,
            dispositions: Dispositions::default(),
            run_state: RunState::Running,
            shared: Pending::default(),
            exit_signal: ExitSignal::new(exit_signal),
            stack_needs: None,
            threads: threads.collect(),
        }
    }

    fn kinds(process: &ProcessState, parent_is_dumped: bool) -> Vec<Notice> {
        let sayings = at_dump(Pid(7), process, parent_is_dumped);
        sayings.iter().map(|s| s.notice).collect()
    }

    #[test]
    fn an_ordinary_process_is_not_spoken_of() {
        assert_eq!(kinds(&process(&[None, None], 17), false), []);
    }

    #[test]
    fn a_restored_parent_ends_when_it_ends() {
        let asks = process(&[Some(SigNo::TERM)], 17);
        assert_eq!(kinds(&asks, false), [Notice::ParentDeathSignal]);
        assert_eq!(kinds(&asks, true), []);
    }

    #[test]
    fn whose_signal_it_is() {
        let signals = |threads: &[_]| parent_death_signals(&process(threads, 17));
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
            assert_eq!(kinds(&process(&[None], 10), dumped), [Notice::ExitSignal]);
            assert_eq!(kinds(&process(&[None], 0), dumped), [Notice::ExitSignal]);
        }
    }
}
