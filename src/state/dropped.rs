//! Queue entries of deleted POSIX timers, which the kernel drops instead of delivering.
//!
//! timer_delete(2) leaves the timer's own entry in the queue. Since Linux 6.13 it is dropped as soon as somebody looks for
//! its signal; before, it was delivered (kernel/time/posix-timers.c, `__posixtimer_deliver_signal`). CRIU queues it as one
//! of somebody's, and that is delivered. Nothing that PTRACE_PEEKSIGINFO gives tells the two apart: rt_sigqueueinfo(2)
//! takes any siginfo of a timer. So the entry is asked for, and what was delivered is queued again in the same batch.
//!
//! While it is there, its signal is shown as pending, and a legacy one that comes is dropped. So a process that runs on gets
//! one anew: of a timer that expires and is deleted.

use criu_signals_images::{Notify, Pending, PosixTimer, ProcessState, Rlimit, SigNo, Siginfo, Tid};
use nix::errno::Errno;

use super::queues::{Queue, like_a_timers_own};
use super::timers::{TIMER_ABSTIME, comes_into_queue, is_in_queue, number, set, timespec};
use super::{Kind, PendingLimit, Site, put_back};
use crate::error::{Cause, Error, Phase, Result};
use crate::proc::{self, TimerLine};
use crate::tracee::{Call, Injector, StoppedProcess};

/// `sizeof(struct sigevent)`, and what `sigev_notify` can be.
const SIGEVENT_SIZE: usize = 64;
const SIGEV_SIGNAL: i32 = 0;
const SIGEV_THREAD_ID: i32 = 4;
/// include/uapi/linux/prctl.h
const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
const RESTORE_IDS_OFF: u64 = 0;
const RESTORE_IDS_ON: u64 = 1;
const RESTORE_IDS_GET: u64 = 2;

/// Nanoseconds that a timer which has expired already is given to queue its entry: it does so from the interrupt that comes at
/// once (hrtimer_reprogram). How often that is tried.
const EXPIRES_IN: u64 = 100_000;
const ATTEMPTS: usize = 8;

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
    /// Of these nobody can tell, because other entries of their numbers are pending, or there is no room to queue them again: they
    /// are delivered after a restore.
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
        let mut continued = false;
        for (dropped, info) in candidates {
            let Some((tid, which)) = alone(state, &dropped) else {
                found.unclear.push(dropped);
                continue;
            };
            let mut site = Site {
                injector: &mut injector,
                tid,
            };
            match which.delivers(&mut site, &info)? {
                Some(true) => {}
                Some(false) => found.dropped.push(dropped),
                None => {
                    found.unclear.push(dropped);
                    continue;
                }
            }
            continued |= dropped.signo == SigNo::CONT;
            // What was queued again is the last now.
            let queue = which.read(&site, usize::MAX)?;
            *queue_mut(state, dropped.thread) = queue;
        }
        if continued {
            injector.trap_after_sigcont()?;
        }
        injector.finish()
    };
    inner().map_err(|e: Error| e.during(Phase::Capture, stopped.pid()))?;
    Ok(found)
}

/// Puts such an entry into the queue again: that of a timer with the same id, where the kernel can make one (Linux 6.15).
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
        let mut site = Site {
            injector: &mut injector,
            tid: stopped.leader(),
        };
        let limit = PendingLimit::capture(&mut site)?;
        let queue_of = thread.unwrap_or(stopped.leader());
        let made = match with_its_id(&mut site, dropped, &limit, queue_of) {
            Ok(false) => PendingLimit::raise(&mut site, 1)
                .and_then(|()| with_any_id(site.injector, dropped, queue_of)),
            made => made.map(drop),
        };
        // Every timer is charged to the limit that it was made under.
        made.and(put_back::<PendingLimit, _>(&mut site, &limit).map(drop))?;
        injector.finish()
    };
    inner().map_err(|e: Error| e.during(Phase::Replay, stopped.pid()))
}

/// In one batch, which a thread that has begun it ends: there is no instant at which the death of the tracer would leave the
/// timer or another limit behind. False: this kernel, this limit or another timer does not allow it, and nothing is changed.
fn with_its_id<Owner>(
    site: &mut Site<'_, '_, Owner>,
    dropped: &Dropped,
    limit: &Rlimit,
    queue_of: Tid,
) -> Result<bool> {
    let id = dropped.timer;
    // A batch does not look at what its calls return: the timer that it sets must be its own.
    let is_taken = |timers: Vec<TimerLine>| timers.iter().any(|timer| timer.id == id);
    let asked = [restore_ids(RESTORE_IDS_GET)];
    let answers = site.injector.run(site.tid, &asked)?;
    if id < 0 || answers[0].errno().is_some() || is_taken(proc::timers(site.pid())?) {
        return Ok(false);
    }
    let was = if answers[0].check()? == RESTORE_IDS_ON {
        RESTORE_IDS_ON
    } else {
        RESTORE_IDS_OFF
    };
    let timer = timer(dropped, id);
    let calls = [
        PendingLimit::call(Rlimit {
            soft: limit.hard,
            ..*limit
        }),
        restore_ids(RESTORE_IDS_ON),
        create(dropped).input(id.to_ne_bytes()),
        restore_ids(was),
        set(&timer, TIMER_ABSTIME, 1).sending(Some(dropped.signo)),
        Call::new(libc::SYS_nanosleep, "nanosleep")
            .input(timespec(EXPIRES_IN))
            .value(0),
        delete(id),
        PendingLimit::call(*limit),
    ];
    for _ in 0..ATTEMPTS {
        let outcomes = site.injector.run_whole(site.tid, &calls)?;
        if outcomes[2].errno() == Some(Errno::EAGAIN) {
            return Ok(false);
        }
        for outcome in &outcomes {
            outcome.check()?;
        }
        if is_in_queue(&timer, queue_of, queue(dropped), 0)? {
            return Ok(true);
        }
    }
    Err(does_not_come(queue_of))
}

fn with_any_id<Owner>(
    injector: &mut Injector<'_, Owner>,
    dropped: &Dropped,
    queue_of: Tid,
) -> Result<()> {
    let leader = injector.process().leader();
    let create = create(dropped).output(size_of::<i32>());
    let outcomes = injector.run(leader, &[create])?;
    outcomes[0].check()?;
    let id = outcomes[0].output.as_slice().try_into();
    let id = i32::from_ne_bytes(id.map_err(|_| {
        Error::new(
            "timer_create",
            Cause::Unexpected("timer_create returned no timer id".into()),
        )
    })?);
    let timer = timer(dropped, id);
    let expired = injector
        .run(leader, &[set(&timer, TIMER_ABSTIME, 1)])
        .and_then(|outcomes| outcomes[0].check().map(drop))
        .and_then(|()| comes_into_queue(&timer, queue_of, queue(dropped), 0))
        .and_then(|came| came.then_some(()).ok_or_else(|| does_not_come(queue_of)));
    let deleted = injector.run(leader, &[delete(id)])?;
    deleted[0].check()?;
    expired
}

fn create(dropped: &Dropped) -> Call {
    Call::new(libc::SYS_timer_create, "timer_create")
        .value(number(libc::CLOCK_MONOTONIC))
        .input(sigevent(dropped))
}

fn delete(id: i32) -> Call {
    Call::new(libc::SYS_timer_delete, format!("timer_delete({id})")).value(number(id))
}

/// prctl(PR_TIMER_CREATE_RESTORE_IDS, what, 0, 0, 0), since Linux 6.15: timer_create(2) takes the id from where it stores it
/// otherwise.
fn restore_ids(what: u64) -> Call {
    let call = Call::new(libc::SYS_prctl, "prctl(PR_TIMER_CREATE_RESTORE_IDS)");
    call.value(PR_TIMER_CREATE_RESTORE_IDS)
        .value(what)
        .value(0)
        .value(0)
        .value(0)
}

/// Where its entry was.
fn queue(dropped: &Dropped) -> Queue {
    dropped.thread.map_or(Queue::Shared, |_| Queue::Private)
}

fn does_not_come(tid: Tid) -> Error {
    let what = "the timer's entry does not appear in the queue";
    Error::new("let a timer expire", Cause::NotKept(what.into())).in_thread(tid)
}

fn timer(dropped: &Dropped, id: i32) -> PosixTimer {
    PosixTimer {
        value: dropped.value,
        notify: dropped.thread.map_or(Notify::Process, Notify::Thread),
        ..PosixTimer::bare(id, dropped.signo.get())
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

fn made_by_a_timer(info: &Siginfo) -> Option<Dropped> {
    let (timer, value) = like_a_timers_own(info)?;
    Some(Dropped {
        thread: None,
        signo: SigNo::new(info.signo())?,
        value,
        timer,
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
            // Where the kernel drops it, the first of the shared queue comes instead.
            (only(&thread.pending) && none(&state.shared)).then(|| (thread.tid(), Queue::Private))
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
    use criu_signals_images::{Fields, NsIds, ThreadState};

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
        let private = process(&[], &[entry(1, 0, 0)]);
        assert_eq!(at(&private), Tid::new(7).map(|tid| (tid, Queue::Private)));
        let shared_too = process(&[entry(1, 3, 0)], &[entry(1, 0, 0)]);
        assert_eq!(at(&shared_too), None, "that would come in its place");
    }
}
