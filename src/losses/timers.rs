//! Warns at the dump about POSIX timers whose state cannot be preserved completely, with a remedy.

use crate::error::Result;
use crate::state::cpu_clocks::{self, Unclear};
use crate::state::overruns::Uncounted;
use crate::state::timers;
use criu_signals_images::{DeletedTimer, Notify, Pid, ProcessState, SigSet};

use crate::losses::notices::{Notice, Saying};
use crate::setting_names::OVERRUNS;

const LIVE_WITH_IT: &str = "checkpoint it if the program can live with that";
const LET_IT_COME: &str =
    "checkpoint it when the signal has been delivered, or if the program can live with that";

/// What [`cpu_clocks::resolve`] could not find out, or what can't be made again.
pub fn clocks(pid: Pid, process: &ProcessState, unclear: &[(i32, Unclear)]) -> Vec<Saying> {
    let say = |(id, unclear): &(i32, Unclear)| {
        let what = match unclear {
            Unclear::Unknown(why) => format!(
                "the timer counts the CPU time of a thread, but which thread is unknown ({why}): after a restore the \
                 timer counts the CPU time of the leader"
            ),
            Unclear::ThreadIsGone => "the timer counts the CPU time of a thread that has ended and never expires \
                                      again. The same holds after a restore, but timer_settime(2) succeeds there, and \
                                      fails with ESRCH without a restore"
                .to_owned(),
            Unclear::Elsewhere(other) => format!(
                "the timer counts the CPU time of process {other}, which is not in these images: after a restore the \
                 timer is not armed"
            ),
        };
        saying(Notice::Timer, pid, process, *id, &what, LIVE_WITH_IT)
    };
    unclear.iter().map(say).collect()
}

/// Timers that tell threads which have ended. Nothing comes of such a one, and nothing is lost: it is worth a note.
pub fn tell_nobody(pid: Pid, process: &ProcessState) -> Vec<String> {
    let timers = process.timers.iter();
    let gone = timers.filter(|timer| timer.notify == Notify::Thread(0));
    gone.map(|timer| {
        format!(
            "pid {pid} ({}): timer {} signals a thread that has ended (SIGEV_THREAD_ID), so its signals are dropped: \
             the timer is restored without a recipient (SIGEV_NONE)",
            process.comm, timer.id
        )
    })
    .collect()
}

/// What [`overruns::take`](crate::state::overruns::take) and [`overruns::count`](crate::state::overruns::count) have left, or
/// had to give up.
pub fn uncounted(pid: Pid, process: &ProcessState, left: &[(i32, Uncounted)]) -> Vec<Saying> {
    let say = |(id, uncounted): &(i32, Uncounted)| {
        let what = match uncounted {
            Uncounted::Left(why) => format!(
                "the overrun of its pending signal is not counted ({why}) and begins at 0 after a restore"
            ),
            Uncounted::Forgotten(overrun) => format!(
                "its pending signal was taken out for a moment to count the overrun: timer_getoverrun(2) of the \
                 previous delivery, {overrun}, is lost"
            ),
            Uncounted::NotBoth(overrun) => format!(
                "its signal has been pending for too long, or behind others of its number: a restore puts back the \
                 overrun of the pending signal, and loses timer_getoverrun(2) of the previous delivery, {overrun}"
            ),
        };
        saying(Notice::Overruns, pid, process, *id, &what, LET_IT_COME)
    };
    left.iter().map(say).collect()
}

/// The CPU time of a restored process begins anew, and a timer can't have expired on a clock before that began to run. What
/// timer_getoverrun(2) gives is taken out of `process`: it is not to be looked for.
pub fn of_new_clocks(pid: Pid, process: &mut ProcessState) -> Vec<Saying> {
    let mut overruns = Vec::new();
    for timer in &mut process.timers {
        if !cpu_clocks::is_cpu_time(timer.clock) {
            continue;
        }
        if timer.overrun != 0 || timer.entry_overrun.unwrap_or(0) != 0 {
            overruns.push((timer.id, timer.overrun, timer.entry_overrun.unwrap_or(0)));
        }
        timer.overrun = 0;
    }
    let say = |&(id, before, pending): &(i32, u32, u32)| {
        let what = format!(
            "the timer runs on a CPU-time clock, which begins at 0 after a restore: its overruns ({pending} of the \
             pending signal, {before} of the previous delivery) are lower there"
        );
        saying(Notice::Overruns, pid, process, id, &what, LIVE_WITH_IT)
    };
    overruns.iter().map(say).collect()
}

/// What nobody has counted, because nobody asked for it or the queue is too deep to be read (`why`).
pub fn not_counted(pid: Pid, process: &ProcessState, why: &str) -> Vec<Saying> {
    let timers = process.timers.iter();
    let periodic = timers.filter(|timer| timer.interval != 0 && timers::is_countable(timer));
    let say = |id| {
        let what = format!(
            "the overrun of a pending signal is not counted ({why}) and begins at 0 after a restore"
        );
        saying(Notice::Overruns, pid, process, id, &what, LET_IT_COME)
    };
    periodic.map(|timer| say(timer.id)).collect()
}

/// Timers whose entries may be in a queue that was not read, and is left to CRIU.
pub fn unread(pid: Pid, process: &ProcessState) -> Vec<Saying> {
    let timers = process.timers.iter();
    let perhaps = timers.filter(|timer| timers::may_be_pending(process, timer));
    let what = "its signal may be pending, in a queue that is too deep to be read and is left to criu, because \
                RLIMIT_SIGPENDING leaves no room to put the queue back. criu queues the signal like one that a process \
                has sent: after a restore the signal is delivered even if the timer has been set since, and does not start \
                the timer's next period";
    perhaps
        .map(|timer| saying(Notice::Timer, pid, process, timer.id, what, LET_IT_COME))
        .collect()
}

/// An entry that the kernel drops, and that was put back.
pub fn renamed(pid: Pid, process: &ProcessState, timer: &DeletedTimer) -> String {
    format!("pid {pid} ({}): {}", process.comm, timers::renamed(timer))
}

/// One of which there is no telling.
pub fn perhaps(pid: Pid, process: &ProcessState, entry: &DeletedTimer) -> Saying {
    let what = format!(
        "the timer was deleted, and a pending entry of {} may be the timer's. The kernel would drop an entry of the \
         timer, but other signals of that number are pending or RLIMIT_SIGPENDING has no room for it, so the origin is unknown: after a restore the entry is \
         delivered",
        entry.signo
    );
    saying(Notice::Timer, pid, process, entry.id, &what, LET_IT_COME)
}

/// The `why` of [`not_counted`] where the settings have it so.
pub fn nobody_asked() -> String {
    format!("{OVERRUNS}=count counts it")
}

/// Periodic timers of which nobody can tell whether they run.
///
/// # Errors
/// Those of [`timers::unseen`].
pub fn unseen(pid: Pid, process: &ProcessState, are_told: bool) -> Result<Vec<Saying>> {
    let unseen = timers::unseen(process, are_told)?;
    let say = |numbers: SigSet, which: &str, why: &str| {
        (!numbers.is_empty()).then(|| Saying {
            notice: Notice::Overruns,
            what: format!(
                "pid {pid} ({}): periodic timers {which} ({numbers}): the plugin cannot tell whether they have expired, \
                 because {why}. After a restore they expire at the end of their period",
                process.comm
            ),
            advice: LIVE_WITH_IT,
        })
    };
    let ignored = say(
        unseen.ignored,
        "whose signals are ignored",
        "another thread does not block these signals, or other signals of these numbers are pending, or the timers have \
         several recipients",
    );
    let removed = say(
        unseen.removed,
        "with SIGCONT or a stop signal",
        "the kernel removes a pending SIGCONT when a stop signal is sent, and the reverse, and such a timer never \
         expires again",
    );
    Ok(ignored.into_iter().chain(removed).collect())
}

fn saying(
    notice: Notice,
    pid: Pid,
    process: &ProcessState,
    id: i32,
    what: &str,
    advice: &'static str,
) -> Saying {
    Saying {
        notice,
        what: format!("pid {pid} ({}): timer {id}: {what}", process.comm),
        advice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_signals_images::{NsIds, PosixTimer, TimerEntry};

    fn process(timers: &[(Notify, TimerEntry)]) -> ProcessState {
        let mut process = ProcessState::bare(NsIds::new(vec![7]).unwrap());
        process.comm = "x".into();
        process.timers = (0..)
            .zip(timers)
            .map(|(id, &(notify, entry))| PosixTimer {
                notify,
                interval: 10,
                remaining: 5,
                entry,
                ..PosixTimer::bare(id, 34)
            })
            .collect();
        process
    }

    #[test]
    fn one_that_tells_a_thread_which_has_ended() {
        let process = process(&[
            (Notify::Process, TimerEntry::Idle),
            (Notify::Thread(0), TimerEntry::Idle),
            (Notify::Thread(8), TimerEntry::Idle),
        ]);
        let said = tell_nobody(Pid::new(7).unwrap(), &process);
        assert_eq!(said.len(), 1);
        assert!(
            said[0].starts_with("pid 7 (x): timer 1 signals a thread"),
            "{said:?}"
        );
    }

    #[test]
    fn what_nobody_has_counted() {
        let process = process(&[
            (Notify::Process, TimerEntry::Idle),
            (Notify::Process, TimerEntry::Pending),
            (Notify::Process, TimerEntry::Stale),
        ]);
        let said = not_counted(Pid::new(7).unwrap(), &process, "why");
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].notice, Notice::Overruns);
        assert!(said[0].what.contains("timer 1: the overrun"), "{said:?}");
    }
}
