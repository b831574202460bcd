//! Entries in queues that the kernel drops instead of delivering them, because their POSIX timer is gone.
//!
//! timer_delete(2) leaves the timer's own entry in the queue. Since Linux 6.13 it is dropped as soon as somebody looks for
//! its signal; before, it was delivered (kernel/time/posix-timers.c, `__posixtimer_deliver_signal`). CRIU queues it as one
//! of somebody's, and that is delivered. Nothing that PTRACE_PEEKSIGINFO gives tells the two apart: rt_sigqueueinfo(2)
//! takes any siginfo of a timer. So the entry is asked for, and what was delivered is queued again in the same batch.
//!
//! While it is there, its signal is shown as pending, and a legacy one that comes is dropped. So a process that runs on gets
//! one anew: of a timer that expires and is deleted.

use std::time::{Duration, Instant};

use criu_signals_images::{
    Fields, Notify, Pending, PosixTimer, ProcessState, SigNo, Siginfo, Tid, TimerEntry,
};

use super::Site;
use super::queues::Queue;
use super::timers::{PATIENCE, TIMER_ABSTIME, number, set};
use crate::error::{Cause, Error, Phase, Result};
use crate::tracee::{Call, Injector, StoppedProcess, ptrace};

/// `sizeof(struct sigevent)`, and what `sigev_notify` can be.
const SIGEVENT_SIZE: usize = 64;
const SIGEV_SIGNAL: i32 = 0;
const SIGEV_THREAD_ID: i32 = 4;

/// An entry that was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The thread whose queue it was in, by its id in its own pid namespace; `None`: the shared one.
    pub thread: Option<i32>,
    /// Its signal.
    pub signo: SigNo,
    /// What had come with it.
    pub value: u64,
    /// Of the timer that is gone.
    pub timer: i32,
}

/// What [`find`] has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// They are in no queue any more.
    pub dropped: Vec<Dropped>,
    /// Of these nobody can tell, because other entries of their numbers are pending: they are delivered after a restore.
    pub unclear: Vec<Dropped>,
}

/// Looks for such entries in the queues of `state`, which was captured from `stopped` and not changed since. What is dropped
/// is taken out of it as well.
///
/// # Errors
/// If a queue can't be read, or an entry that was taken out not be queued again.
pub fn find<Owner>(stopped: &StoppedProcess<Owner>, state: &mut ProcessState) -> Result<Found> {
    let mut found = Found::default();
    let candidates = candidates(state);
    if candidates.is_empty() {
        return Ok(found);
    }
    let inner = || {
        let mut injector = Injector::new(stopped)?;
        for (dropped, info) in candidates {
            let Some((tid, which)) = alone(state, &dropped) else {
                found.unclear.push(dropped);
                continue;
            };
            let mut site = Site {
                injector: &mut injector,
                tid,
            };
            if !which.delivers(&mut site, &info)? {
                found.dropped.push(dropped);
            }
            // What was queued again is the last now.
            let queue = which.read(&site, usize::MAX)?;
            *queue_mut(state, dropped.thread) = queue;
        }
        injector.finish()
    };
    inner().map_err(|e: Error| e.during(Phase::Capture, stopped.pid()))?;
    Ok(found)
}

/// Puts such an entry into the queue again.
///
/// # Errors
/// If there can be no timer, or it does not expire. It is deleted in any case.
pub fn make_again<Owner>(
    stopped: &StoppedProcess<Owner>,
    dropped: &Dropped,
    thread: Option<Tid>,
) -> Result<()> {
    let inner = || {
        let mut injector = Injector::new(stopped)?;
        let leader = stopped.leader();
        let create = Call::new(libc::SYS_timer_create, "timer_create")
            .value(number(libc::CLOCK_MONOTONIC))
            .input(sigevent(dropped))
            .output(size_of::<i32>());
        let outcomes = injector.run(leader, &[create])?;
        outcomes[0].check()?;
        let id = outcomes[0].output.as_slice().try_into();
        let id = i32::from_ne_bytes(id.map_err(|_| {
            Error::new(
                "timer_create",
                Cause::Unexpected("it gives no timer".into()),
            )
        })?);
        let timer = timer(dropped, id);
        let expired = injector
            .run(leader, &[set(&timer, TIMER_ABSTIME, 1)])
            .and_then(|outcomes| outcomes[0].check().map(drop))
            .and_then(|()| wait_for(&timer, thread.unwrap_or(leader)));
        let delete = Call::new(libc::SYS_timer_delete, format!("timer_delete({id})"));
        let deleted = injector.run(leader, &[delete.value(number(id))])?;
        deleted[0].check()?;
        expired?;
        injector.finish()
    };
    inner().map_err(|e: Error| e.during(Phase::Replay, stopped.pid()))
}

fn wait_for(timer: &PosixTimer, tid: Tid) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let queue = ptrace::peek(tid, timer.thread().is_none(), 0, usize::MAX)?;
        if queue.iter().any(|info| timer.made(info)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let what = "its entry does not come into the queue";
            return Err(
                Error::new("let a timer expire", Cause::NotKept(what.into())).in_thread(tid),
            );
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn timer(dropped: &Dropped, id: i32) -> PosixTimer {
    PosixTimer {
        id,
        clock: libc::CLOCK_MONOTONIC,
        signo: dropped.signo.get(),
        value: dropped.value,
        notify: dropped.thread.map_or(Notify::Process, Notify::Thread),
        interval: 0,
        remaining: 0,
        overrun: 0,
        entry: TimerEntry::Idle,
        entry_overrun: None,
    }
}

fn sigevent(dropped: &Dropped) -> Vec<u8> {
    let notify = dropped.thread.map_or(SIGEV_SIGNAL, |_| SIGEV_THREAD_ID);
    let mut event = dropped.value.to_ne_bytes().to_vec();
    for word in [dropped.signo.get(), notify, dropped.thread.unwrap_or(0)] {
        event.extend(word.to_ne_bytes());
    }
    event.resize(SIGEVENT_SIZE, 0);
    event
}

/// Entries that look like those of timers, where there is no such timer.
fn candidates(state: &ProcessState) -> Vec<(Dropped, Siginfo)> {
    let own = |thread: &criu_signals_images::ThreadState| Some(thread.ids.innermost());
    let queues = std::iter::once((None, &state.shared)).chain(
        state
            .threads
            .iter()
            .map(|thread| (own(thread), &thread.pending)),
    );
    queues
        .flat_map(|(thread, pending)| pending.queue.iter().map(move |info| (thread, info)))
        .filter_map(|(thread, info)| {
            let dropped = Dropped {
                thread,
                ..made_by_a_timer(info)?
            };
            let is_there = |timer: &PosixTimer| timer.thread() == thread && timer.made(info);
            (!state.timers.iter().any(is_there)).then_some((dropped, *info))
        })
        .collect()
}

/// The kernel tells overruns only when it delivers, and shows nothing else than number and value (from Linux 6.13 on; before,
/// no entry is dropped).
fn made_by_a_timer(info: &Siginfo) -> Option<Dropped> {
    let Fields::Timer {
        id,
        overrun: 0,
        value,
        sys_private: 0,
    } = info.fields()
    else {
        return None;
    };
    let signo = SigNo::new(info.signo())?;
    let fields = Fields::Timer {
        id,
        overrun: 0,
        value,
        sys_private: 0,
    };
    let own = Siginfo::from_fields(info.signo(), 0, libc::SI_TIMER, &fields);
    (own == *info).then_some(Dropped {
        thread: None,
        signo,
        value,
        timer: id,
    })
}

/// Where the entry can be taken out without any other.
fn alone(state: &ProcessState, dropped: &Dropped) -> Option<(Tid, Queue)> {
    let leader = state.threads.first()?;
    let none = |pending: &Pending| !pending.bits.contains(dropped.signo);
    let only = |pending: &Pending| {
        let signo = dropped.signo.get();
        pending
            .queue
            .iter()
            .filter(|info| info.signo() == signo)
            .count()
            == 1
    };
    match dropped.thread {
        Some(id) => {
            let thread = state.threads.iter().find(|t| t.ids.innermost() == id)?;
            only(&thread.pending).then(|| (thread.tid(), Queue::Private))
        }
        None => {
            (only(&state.shared) && none(&leader.pending)).then(|| (leader.tid(), Queue::Shared))
        }
    }
}

fn queue_mut(state: &mut ProcessState, thread: Option<i32>) -> &mut Pending {
    let ProcessState {
        shared, threads, ..
    } = state;
    match threads
        .iter_mut()
        .find(|t| Some(t.ids.innermost()) == thread)
    {
        Some(thread) => &mut thread.pending,
        None => shared,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_signals_images::{NsIds, ThreadState};

    fn entry(id: i32, overrun: i32, sys_private: i32) -> Siginfo {
        let fields = Fields::Timer {
            id,
            overrun,
            value: 7,
            sys_private,
        };
        Siginfo::from_fields(10, 0, libc::SI_TIMER, &fields)
    }

    fn pending(queue: &[Siginfo]) -> Pending {
        Pending {
            bits: queue.iter().filter_map(|i| SigNo::new(i.signo())).collect(),
            queue: queue.to_vec(),
        }
    }

    fn process(shared: &[Siginfo], leader: &[Siginfo]) -> ProcessState {
        let ids = |id| NsIds::new(vec![id]).expect("an id");
        ProcessState {
            shared: pending(shared),
            threads: vec![ThreadState {
                pending: pending(leader),
                ..ThreadState::bare(ids(7))
            }],
            ..ProcessState::bare(ids(7))
        }
    }

    #[test]
    fn what_may_be_dropped() {
        let mut state = process(&[entry(1, 0, 0)], &[]);
        assert_eq!(candidates(&state).len(), 1);
        state.timers = vec![timer(&candidates(&state)[0].0, 1)];
        assert_eq!(candidates(&state).len(), 0, "its timer is there");
        state.timers[0].id = 2;
        assert_eq!(candidates(&state).len(), 1, "another timer is");
        let queued = process(&[entry(1, 3, 0)], &[entry(1, 0, 9)]);
        assert_eq!(
            candidates(&queued).len(),
            0,
            "the kernel shows no such ones"
        );
    }

    #[test]
    fn only_what_comes_out_alone_is_asked_for() {
        let at = |state: &ProcessState| alone(state, &candidates(state)[0].0);
        let once = process(&[entry(1, 0, 0)], &[]);
        assert_eq!(at(&once), Tid::new(7).map(|tid| (tid, Queue::Shared)));
        assert_eq!(at(&process(&[entry(1, 0, 0), entry(2, 0, 0)], &[])), None);
        assert_eq!(at(&process(&[entry(1, 0, 0)], &[entry(1, 3, 0)])), None);
    }
}
