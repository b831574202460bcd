//! Calls with a timeout that begin anew with the whole of it, because nobody knows or can be told the rest:
//! docs/eintr.md says which, and why. Said at the dump and at the restore.

use criu_signals::images::{InterruptedCall, Pid, ProcessState};

use crate::notices::{Notice, Saying};

/// What there is to say of a process that is dumped, which is `pid` here.
pub fn at_dump(pid: Pid, process: &ProcessState) -> Option<Saying> {
    let (calls, comm) = (calls(process)?, &process.comm);
    Some(Saying {
        notice: Notice::WholeTimeout,
        what: format!(
            "pid {pid} ({comm}): {calls}: begins anew with its whole timeout, of which a part has passed: it ends late, by \
             as much as it had waited, never early"
        ),
        advice: "checkpoint it if the program can live with that",
    })
}

/// What there is to say of it when it is restored.
pub fn at_restore(pid: Pid, process: &ProcessState) -> Option<String> {
    let (calls, comm) = (calls(process)?, &process.comm);
    Some(format!(
        "pid {pid} ({comm}): {calls}: has begun anew with its whole timeout, of which a part had passed before the dump"
    ))
}

/// The first, and how many more there are.
fn calls(process: &ProcessState) -> Option<String> {
    let mut all = process.threads.iter().filter_map(|thread| {
        let call: InterruptedCall = thread.interrupted.filter(|call| call.whole_timeout)?;
        Some((thread.ids.innermost(), call.number))
    });
    let (tid, number) = all.next()?;
    Some(match all.count() {
        0 => format!("system call {number} of thread {tid}"),
        n => format!("system call {number} of thread {tid}, and such of {n} more"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_signals::images::{NsIds, RestartCode};

    fn process(whole: &[bool]) -> ProcessState {
        let mut process = ProcessState::bare(NsIds::new(vec![7]).unwrap());
        let thread = process.threads[0].clone();
        process.threads = whole
            .iter()
            .map(|&whole_timeout| {
                let mut thread = thread.clone();
                thread.interrupted = Some(InterruptedCall {
                    number: 232,
                    code: RestartCode::UnlessHandled,
                    ip: 0,
                    remaining: None,
                    whole_timeout,
                });
                thread
            })
            .collect();
        process
    }

    #[test]
    fn one_line_for_a_process() {
        assert_eq!(calls(&process(&[])), None);
        assert_eq!(calls(&process(&[false, false])), None);
        let one = calls(&process(&[false, true])).unwrap();
        assert_eq!(one, "system call 232 of thread 7");
        let three = calls(&process(&[true, true, false, true])).unwrap();
        assert_eq!(three, "system call 232 of thread 7, and such of 2 more");
        assert!(at_dump(Pid(7), &process(&[true])).is_some());
        assert_eq!(at_restore(Pid(7), &process(&[false])), None);
    }
}
