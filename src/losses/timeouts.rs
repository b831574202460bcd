//! Warns at the dump and at the restore about system calls that begin anew with their whole timeout, because the
//! remaining time is unknown or cannot be passed to the call. docs/eintr.md lists the calls and the reasons.
//!
//! Such a call ends late by at most its timeout. Many programs sleep for milliseconds or seconds in a loop; for these
//! short timeouts the message is information and not a warning.

use std::time::Duration;

use criu_signals_images::{CallTable, InterruptedCall, Name, Pid, ProcessState};

use crate::losses::notices::{Notice, Saying};
use crate::setting_names::LONG_TIMEOUT;

/// Those of one process.
#[derive(Debug, PartialEq, Eq)]
pub struct Anew<'p> {
    comm: &'p Name,
    /// The one that can end latest, by the id of its thread.
    worst: (i32, InterruptedCall),
    others: usize,
    table: CallTable,
    long: Duration,
}

impl<'p> Anew<'p> {
    /// `None` if there are none. A timeout is long that is longer than `long`, or if nobody knows how long it is.
    pub fn find(process: &'p ProcessState, long: Duration) -> Option<Anew<'p>> {
        let calls = process.threads.iter().filter_map(|thread| {
            let call = thread.interrupted.filter(|call| call.whole_timeout)?;
            Some((thread.ids.innermost(), call))
        });
        let mut worst: Option<(i32, InterruptedCall)> = None;
        let mut all = 0;
        for (tid, call) in calls {
            all += 1;
            if worst.is_none_or(|(_, w)| timeout(&call) > timeout(&w)) {
                worst = Some((tid, call));
            }
        }
        Some(Anew {
            comm: &process.comm,
            worst: worst?,
            others: all - 1,
            table: CallTable::here(process.compat),
            long,
        })
    }

    /// Is it worth a warning?
    pub fn is_long(&self) -> bool {
        timeout(&self.worst.1) > self.long
    }

    /// What there is to say where the process, which is `pid` here, is dumped.
    pub fn at_dump(&self, pid: Pid) -> Saying {
        let late = match self.worst.1.timeout {
            Some(ns) => format!(", at most {:?}", Duration::from_nanos(ns)),
            None => String::new(),
        };
        Saying {
            notice: Notice::WholeTimeout,
            what: format!(
                "pid {pid} ({}): {}: begins anew with its whole timeout, of which a part has passed: the call ends \
                 late by the time waited so far{late}, never early{}",
                self.comm,
                self.calls(),
                self.quiet()
            ),
            advice: "checkpoint it if the program can live with that",
        }
    }

    /// What there is to say where it has been restored.
    pub fn at_restore(&self, pid: Pid) -> String {
        format!(
            "pid {pid} ({}): {}: has begun anew with its whole timeout, of which a part had passed before the dump{}",
            self.comm,
            self.calls(),
            self.quiet()
        )
    }

    /// The worst, and how many more there are.
    fn calls(&self) -> String {
        let (tid, call) = &self.worst;
        let mut text = format!("{} of thread {tid}", self.table.call(call.number));
        if let Some(ns) = call.timeout {
            text += &format!(" ({:?})", Duration::from_nanos(ns));
        }
        if self.others != 0 {
            text += &format!(", and of {} more", self.others);
        }
        text
    }

    /// Why it is no warning.
    fn quiet(&self) -> String {
        if self.is_long() {
            return String::new();
        }
        format!(" ({LONG_TIMEOUT} is {} ms)", self.long.as_millis())
    }
}

/// One that is not known is the longest.
fn timeout(call: &InterruptedCall) -> Duration {
    call.timeout.map_or(Duration::MAX, Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_signals_images::{NsIds, RestartCode};

    const CALL: u32 = crate::arch::syscall_number(libc::SYS_epoll_pwait);
    const LONG: Duration = Duration::from_secs(1);

    /// A process whose threads have calls with such timeouts; `None` where the call has none that begins anew.
    fn process(timeouts: &[Option<Option<u64>>]) -> ProcessState {
        let mut process = ProcessState::bare(NsIds::new(vec![7]).unwrap());
        process.comm = "x".into();
        let thread = process.threads[0].clone();
        process.threads = (7..)
            .zip(timeouts)
            .map(|(tid, timeout)| {
                let mut thread = thread.clone();
                thread.ids = NsIds::new(vec![tid]).unwrap();
                thread.interrupted = Some(InterruptedCall {
                    number: CALL,
                    code: RestartCode::UnlessHandled,
                    ip: 0,
                    remaining: None,
                    whole_timeout: timeout.is_some(),
                    timeout: timeout.flatten(),
                });
                thread
            })
            .collect();
        process
    }

    fn calls(timeouts: &[Option<Option<u64>>]) -> Option<(String, bool)> {
        let process = process(timeouts);
        let anew = Anew::find(&process, LONG)?;
        Some((anew.calls(), anew.is_long()))
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn one_line_for_a_process() {
        assert_eq!(calls(&[]), None);
        assert_eq!(calls(&[None, None]), None);
        let said = |text: &str, long| Some((text.to_owned(), long));
        assert_eq!(
            calls(&[None, Some(None)]),
            said("epoll_pwait of thread 8", true)
        );
        assert_eq!(
            calls(&[Some(Some(2 * MS)), None, Some(Some(999 * MS))]),
            said("epoll_pwait of thread 9 (999ms), and of 1 more", false)
        );
        assert_eq!(
            calls(&[Some(Some(1001 * MS)), Some(Some(2 * MS)), Some(Some(3))]),
            said("epoll_pwait of thread 7 (1.001s), and of 2 more", true)
        );
        // So tini and node wait.
        assert_eq!(
            calls(&[Some(Some(1000 * MS))]),
            said("epoll_pwait of thread 7 (1s)", false)
        );
        // Nobody knows that it is short.
        assert_eq!(
            calls(&[Some(Some(5000 * MS)), Some(None)]),
            said("epoll_pwait of thread 8, and of 1 more", true)
        );
    }

    #[test]
    fn a_short_one_says_why_it_is_quiet() {
        let process = process(&[Some(Some(2 * MS))]);
        let anew = Anew::find(&process, LONG).unwrap();
        for text in [
            anew.at_dump(Pid::new(7).unwrap()).what,
            anew.at_restore(Pid::new(7).unwrap()),
        ] {
            assert!(
                text.ends_with(" (CRIU_SIGNALS_LONG_TIMEOUT is 1000 ms)"),
                "{text}"
            );
        }
        // With 0 all are long.
        assert!(Anew::find(&process, Duration::ZERO).unwrap().is_long());
    }
}
