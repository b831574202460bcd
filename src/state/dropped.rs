//! Queue entries of deleted POSIX timers, which the kernel drops instead of delivering.
//!
//! timer_delete(2) leaves the timer's own entry in the queue. Since Linux 6.13 it is dropped as soon as somebody looks for
//! its signal; before, it was delivered (kernel/time/posix-timers.c, `__posixtimer_deliver_signal`). CRIU restores the
//! entry by rt_sigqueueinfo(2), and the kernel delivers an entry queued in that way. PTRACE_PEEKSIGINFO cannot tell the
//! two kinds apart: rt_sigqueueinfo(2) accepts any siginfo of a timer. So one batch takes out all entries of the number
//! by rt_sigtimedwait(2), and queues again those that the kernel delivered. An entry that the kernel dropped is created
//! again at its place.
//!
//! While such an entry is in the queue, its signal is shown as pending, and a further legacy signal of the number is
//! dropped. The entry is created by a timer that expires and is then deleted, with the same timer id where the kernel
//! can create a timer of a given id (Linux 6.15).

use criu_signals_images::{
    DeletedTimer, Notify, Pending, PosixTimer, ProcessState, Rlimit, SigNo, SigSet, Siginfo,
    TIMERS_LIMIT, Tid,
};
use nix::errno::Errno;

use super::queues::{
    Anew, Queue, bare_infos, is_fault, like_a_timers_own, take_one, with_sent_since, without_entry,
};
use super::timers::{TIMER_ABSTIME, comes_into_queue, is_in_queue, number, set, timespec};
use super::{Kind, PendingLimit, Site, itimers, put_back};
use crate::error::{Cause, Error, Phase, Result};
use crate::proc::{self, SignalStatus};
use crate::tracee::{Call, Injector, Outcome, StoppedProcess};

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

/// What [`find`] has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Entries that could not be examined, because other entries are in the way or because there is no room to queue
    /// them again. They are delivered after a restore.
    pub unclear: Vec<DeletedTimer>,
    /// Entries that now have the id of another timer.
    pub renamed: Vec<DeletedTimer>,
}

/// The entries of one number in a queue.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// A thread that takes from the queue: the leader for the shared one.
    pub tid: Tid,
    /// Which of its queues.
    pub queue: Queue,
    /// Whose queue it is, by the id in its own namespace; `None`: the shared one.
    pub thread: Option<i32>,
}

/// Looks for such entries in the queues of `state`, which was captured from `stopped` and not changed since, and enters the
/// timers that they are of. All are in their places afterwards.
///
/// # Errors
/// If a queue can't be read, or what was taken out not be put back.
pub fn find<Owner>(stopped: &StoppedProcess<Owner>, state: &mut ProcessState) -> Result<Found> {
    let mut found = Found::default();
    let groups = groups(state);
    if groups.is_empty() {
        return Ok(found);
    }
    let inner = || {
        let mut injector = Injector::new(stopped)?;
        let mut continued = false;
        for (place, signo) in groups {
            let candidates = candidates(state, place, signo);
            let mut site = Site {
                injector: &mut injector,
                tid: place.tid,
            };
            let room = TIMERS_LIMIT - state.deleted_timers.len();
            let asked = match askable(state, place, signo) && candidates.len() <= room {
                true => ask(&mut site, state, place, signo)?,
                false => None,
            };
            let Some(gone) = asked else {
                let entries = of_number(queue(state, place.thread), signo);
                let (sure, unclear) = sure_and_unclear(state, place, signo, &entries);
                if sure.len() <= room {
                    state.deleted_timers.extend(sure);
                    found.unclear.extend(unclear);
                } else {
                    found.unclear.extend(candidates);
                }
                continue;
            };
            continued |= signo == SigNo::CONT;
            found.renamed.extend(gone);
            // What was queued again is the last now.
            let pending = place.queue.read(&site, usize::MAX)?;
            *queue_mut(state, place.thread) = pending;
        }
        if continued {
            injector.trap_after_sigcont()?;
        }
        injector.finish()
    };
    inner().map_err(|e: Error| e.during(Phase::Capture, stopped.pid()))?;
    Ok(found)
}

/// Asks for all entries of the number, and enters the timers that are gone. Returns those whose entries could not be given the
/// number of their timer again; `None`: there is no room to queue what comes again.
fn ask<Owner>(
    site: &mut Site<'_, '_, Owner>,
    state: &mut ProcessState,
    place: Place,
    signo: SigNo,
) -> Result<Option<Vec<DeletedTimer>>> {
    let entries = of_number(queue_mut(state, place.thread), signo);
    let anew = anew(site, state, place, &entries)?;
    let asked = place.queue.deliver(site, signo, &entries, anew.as_ref())?;
    let Some(came) = asked else {
        return Ok(None);
    };
    if came.len() == entries.len() {
        return Ok(Some(Vec::new()));
    }
    let mut came = came.into_iter().peekable();
    for info in &entries {
        if came.next_if_eq(info).is_none() {
            state.deleted_timers.extend(of_timer(info, place.thread));
        }
    }
    if anew.is_some()
        && of_number(&place.queue.read(site, usize::MAX)?, signo).starts_with(&entries)
    {
        return Ok(Some(Vec::new()));
    }
    build(site, state, place, signo, &entries).map(Some)
}

/// How the one entry that may be of a timer that is gone is made anew as soon as it has not come, so that there is no
/// instant at which the death of the tracer would leave the queue without it. Of several nobody can tell in a batch which
/// have come, and those that have not are made anew by the next.
fn anew<Owner>(
    site: &mut Site<'_, '_, Owner>,
    state: &ProcessState,
    place: Place,
    entries: &[Siginfo],
) -> Result<Option<Anew>> {
    let perhaps = |info: &&Siginfo| may_be_left(state, place.thread, info);
    let mut left = entries.iter().enumerate().filter(|(_, info)| perhaps(info));
    let (Some((nth, info)), None) = (left.next(), left.next()) else {
        return Ok(None);
    };
    let Some(timer) = of_timer(info, place.thread) else {
        return Ok(None);
    };
    let Some(ids) = RestoreIds::asked_for(site, std::slice::from_ref(&timer))? else {
        return Ok(None);
    };
    let [_, then @ ..] = leave(&timer);
    Ok(Some(Anew {
        nth,
        first: restore_ids(RESTORE_IDS_ON),
        last: restore_ids(ids.was),
        // All zeros are no signal's (kernel/time/posix-timers.c, `good_sigevent`).
        create: Call::new(libc::SYS_timer_create, "timer_create")
            .value(number(libc::CLOCK_MONOTONIC)),
        filling: sigevent(&timer),
        id: timer.id.to_ne_bytes(),
        then: then.to_vec(),
    }))
}

/// Makes the queue what is wanted, in which entries are of timers that are gone: what looks like them now may not be of these.
/// What has been sent since the queue was `known` stays, behind that. Returns the timers of which only one with another
/// number could be made.
///
/// # Errors
/// What could not be put back.
pub fn put_back_queue<Owner>(
    site: &mut Site<'_, '_, Owner>,
    state: &ProcessState,
    place: Place,
    known: &Pending,
    wanted: &Pending,
) -> Result<Vec<DeletedTimer>> {
    let numbers = numbers(state, place.thread, wanted);
    let found = place.queue.read(site, usize::MAX)?;
    let wanted = &with_sent_since(known, wanted.clone(), &found);
    let is_of = |info: &Siginfo| SigNo::new(info.signo()).is_some_and(|s| numbers.contains(s));
    // What is there of these numbers has its turn afterwards.
    let there = found.queue.iter().filter(|info| is_of(info));
    let others = wanted.queue.iter().filter(|info| !is_of(info));
    let first = Pending {
        bits: wanted
            .bits
            .difference(numbers)
            .union(found.bits.intersection(numbers)),
        queue: there.chain(others).copied().collect(),
    };
    place.queue.put_back(site, &found, &first)?;
    let mut renamed = Vec::new();
    for signo in numbers.iter() {
        renamed.extend(build(site, state, place, signo, &of_number(wanted, signo))?);
    }
    Ok(renamed)
}

/// The timer that has left this entry, which looks like one of a timer, in the queue of that thread.
pub fn of_timer(info: &Siginfo, thread: Option<i32>) -> Option<DeletedTimer> {
    let (id, value) = like_a_timers_own(info)?;
    Some(DeletedTimer {
        id,
        signo: SigNo::new(info.signo())?,
        value,
        thread,
    })
}

/// The numbers of which entries of timers that are gone are in this queue.
pub fn numbers(state: &ProcessState, thread: Option<i32>, pending: &Pending) -> SigSet {
    if state.deleted_timers.is_empty() {
        return SigSet::EMPTY;
    }
    let entries = pending.queue.iter();
    let gone = entries.filter_map(|info| state.left_by(thread, info));
    gone.map(|timer| timer.signo).collect()
}

/// Puts one such entry at the end of a queue, through thread `tid`. Returns whether it has the number of its timer.
///
/// # Errors
/// If it does not come. No timer is left in any case.
pub fn append<Owner>(
    injector: &mut Injector<'_, Owner>,
    tid: Tid,
    queue: Queue,
    timer: &DeletedTimer,
) -> Result<bool> {
    let place = Place {
        tid,
        queue,
        thread: timer.thread,
    };
    let site = &mut Site { injector, tid };
    let depth = place.queue.depth(site)?;
    let limit = PendingLimit::capture(site)?;
    if let Some(ids) = RestoreIds::asked_for(site, std::slice::from_ref(timer))? {
        for _ in 0..ATTEMPTS {
            let mut calls = vec![raise(limit), restore_ids(RESTORE_IDS_ON)];
            calls.extend(leave(timer));
            calls.extend([restore_ids(ids.was), PendingLimit::call(limit)]);
            let outcomes = site.injector.run_whole(site.tid, &calls)?;
            if outcomes[2].errno() == Some(Errno::EAGAIN) {
                break;
            }
            all(&outcomes)?;
            if is_in_queue(&like(timer, timer.id), place.tid, place.queue, depth)? {
                return Ok(true);
            }
        }
    }
    with_any_id(site, place, timer, depth)?;
    Ok(false)
}

/// Makes the entries of one number what is wanted, in their order. All of it is one batch, which a thread that has begun it
/// ends: there is no instant at which the death of the tracer would lose a signal, or leave a timer or another limit behind.
/// Returns the timers of which only one with another number could be made: their entries are behind all others.
fn build<Owner>(
    site: &mut Site<'_, '_, Owner>,
    state: &ProcessState,
    place: Place,
    signo: SigNo,
    wanted: &[Siginfo],
) -> Result<Vec<DeletedTimer>> {
    let left_by = |info: &Siginfo| state.left_by(place.thread, info).copied();
    let gone: Vec<DeletedTimer> = wanted.iter().filter_map(left_by).collect();
    let live: Vec<Siginfo> = wanted
        .iter()
        .filter(|info| left_by(info).is_none())
        .copied()
        .collect();
    if let Some(ids) = RestoreIds::asked_for(site, &gone)? {
        for _ in 0..ATTEMPTS {
            if !rebuild(site, place, signo, wanted, &left_by, Some(&ids))? {
                break;
            }
            if of_number(&place.queue.read(site, usize::MAX)?, signo).starts_with(wanted) {
                return Ok(Vec::new());
            }
        }
    }
    rebuild(site, place, signo, &live, &|_| None, None)?;
    for timer in &gone {
        let depth = place.queue.depth(site)?;
        with_any_id(site, place, timer, depth)?;
    }
    Ok(gone)
}

/// Takes out what is there of the number and puts `wanted` in its place. False: there is no room for a timer.
fn rebuild<Owner>(
    site: &mut Site<'_, '_, Owner>,
    place: Place,
    signo: SigNo,
    wanted: &[Siginfo],
    left_by: &dyn Fn(&Siginfo) -> Option<DeletedTimer>,
    ids: Option<&RestoreIds>,
) -> Result<bool> {
    let found = of_number(&place.queue.read(site, usize::MAX)?, signo);
    let aside = match found.is_empty() {
        true => Pending::default(),
        false => place.queue.in_the_way(site, SigSet::EMPTY.with(signo))?,
    };
    if aside
        .queue
        .iter()
        .any(|info| like_a_timers_own(info).is_some())
    {
        return Err(in_the_way(signo).in_thread(place.tid));
    }
    let bare = aside.bits_without_info();
    let mut expected = aside.queue.clone();
    expected.extend(bare.iter().map(without_entry));
    expected.extend(&found);
    let status = SignalStatus::read(site.pid(), site.tid)?;
    let limit = PendingLimit::capture(site)?;
    let mut calls = vec![raise(limit)];
    let first = calls.len();
    let signos = expected.iter().filter_map(|info| SigNo::new(info.signo()));
    calls.extend(signos.map(take_one));
    let taking = first..calls.len();
    calls.extend(Queue::Private.queueing(site, &status.ids, &aside.queue)?);
    if !bare.is_empty() {
        calls.push(PendingLimit::call(Rlimit { soft: 0, ..limit }));
        calls.extend(Queue::Private.queueing(site, &status.ids, &bare_infos(bare))?);
        calls.push(raise(limit));
    }
    calls.extend(ids.map(|_| restore_ids(RESTORE_IDS_ON)));
    let mut creating = Vec::new();
    for info in wanted {
        match left_by(info) {
            Some(timer) => {
                creating.push(calls.len());
                calls.extend(leave(&timer));
            }
            None => calls.extend(place.queue.queueing(
                site,
                &status.ids,
                std::slice::from_ref(info),
            )?),
        }
    }
    calls.extend(ids.map(|ids| restore_ids(ids.was)));
    calls.push(PendingLimit::call(limit));
    let outcomes = site.injector.run_whole(site.tid, &calls)?;
    put_back::<PendingLimit, _>(site, &limit)?;
    let taken = &outcomes[taking.clone()];
    put_back_strangers(site, place, signo, &status, taken, expected)?;
    let is_full = |&at: &usize| outcomes[at].errno() == Some(Errno::EAGAIN);
    if creating.iter().any(is_full) {
        return Ok(false);
    }
    all(&outcomes[..taking.start])?;
    all(&outcomes[taking.end..])?;
    Ok(true)
}

/// What has been sent meanwhile came out as well, and of the shared queue what was behind entries that were dropped.
fn put_back_strangers<Owner>(
    site: &mut Site<'_, '_, Owner>,
    place: Place,
    signo: SigNo,
    status: &SignalStatus,
    outcomes: &[Outcome],
    mut expected: Vec<Siginfo>,
) -> Result<()> {
    let mut strange = Vec::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.errno().is_none()) {
        let info = super::queues::siginfo(outcome)?;
        match expected.iter().position(|one| *one == info) {
            Some(at) => drop(expected.remove(at)),
            None => strange.push(info),
        }
    }
    let queue = match place.queue {
        Queue::Private if status.shared_pending.contains(signo) => Queue::Shared,
        own => own,
    };
    queue.queue(site, &status.ids, &strange)
}

/// Whether the process can be given timers of these numbers.
struct RestoreIds {
    /// How timer_create(2) gave numbers before.
    was: u64,
}

impl RestoreIds {
    /// `None`: this kernel can't, or another timer has one of them: a batch does not look at what its calls return, so that
    /// the timer which it sets must be its own.
    fn asked_for<Owner>(
        site: &mut Site<'_, '_, Owner>,
        timers: &[DeletedTimer],
    ) -> Result<Option<RestoreIds>> {
        let there = proc::timers(site.pid())?;
        let is_taken = |timer: &DeletedTimer| there.iter().any(|other| other.id == timer.id);
        if timers.iter().any(is_taken) {
            return Ok(None);
        }
        let answers = site
            .injector
            .run(site.tid, &[restore_ids(RESTORE_IDS_GET)])?;
        if answers[0].errno().is_some() {
            return Ok(None);
        }
        let was = match answers[0].check()? {
            RESTORE_IDS_ON => RESTORE_IDS_ON,
            _ => RESTORE_IDS_OFF,
        };
        Ok(Some(RestoreIds { was }))
    }
}

fn with_any_id<Owner>(
    site: &mut Site<'_, '_, Owner>,
    place: Place,
    timer: &DeletedTimer,
    depth: usize,
) -> Result<()> {
    let limit = PendingLimit::capture(site)?;
    PendingLimit::raise(site, 1)?;
    let made = expire_any(site, place, timer, depth);
    // Every timer is charged to the limit that it was made under.
    put_back::<PendingLimit, _>(site, &limit)?;
    made
}

fn expire_any<Owner>(
    site: &mut Site<'_, '_, Owner>,
    place: Place,
    timer: &DeletedTimer,
    depth: usize,
) -> Result<()> {
    let create = create(timer).output(size_of::<i32>());
    let outcomes = site.injector.run(site.tid, &[create])?;
    outcomes[0].check()?;
    let id = outcomes[0].output.as_slice().try_into();
    let id = i32::from_ne_bytes(id.map_err(|_| {
        Error::new(
            "timer_create",
            Cause::Unexpected("timer_create returned no timer id".into()),
        )
    })?);
    let one = like(timer, id);
    let expired = site
        .injector
        .run(site.tid, &[set(&one, TIMER_ABSTIME, 1)])
        .and_then(|outcomes| outcomes[0].check().map(drop))
        .and_then(|()| comes_into_queue(&one, place.tid, place.queue, depth))
        .and_then(|came| {
            let what = "its entry does not come into the queue";
            let missing = Error::new("let a timer expire", Cause::NotKept(what.into()));
            came.then_some(())
                .ok_or_else(|| missing.in_thread(place.tid))
        });
    let deleted = site.injector.run(site.tid, &[delete(id)])?;
    deleted[0].check()?;
    expired
}

/// The calls that make the timer, let it expire and delete it.
fn leave(timer: &DeletedTimer) -> [Call; 4] {
    [
        create(timer).input(timer.id.to_ne_bytes()),
        set(&like(timer, timer.id), TIMER_ABSTIME, 1).sending(Some(timer.signo)),
        // Unlike nanosleep(2), it leaves what the thread's own interrupted call goes on by (restart_block).
        Call::new(libc::SYS_ppoll, "ppoll")
            .value(0)
            .value(0)
            .input(timespec(EXPIRES_IN))
            .value(0),
        delete(timer.id),
    ]
}

fn create(timer: &DeletedTimer) -> Call {
    Call::new(libc::SYS_timer_create, "timer_create")
        .value(number(libc::CLOCK_MONOTONIC))
        .input(sigevent(timer))
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

fn raise(limit: Rlimit) -> Call {
    PendingLimit::call(Rlimit {
        soft: limit.hard,
        ..limit
    })
}

fn all(outcomes: &[Outcome]) -> Result<()> {
    outcomes
        .iter()
        .try_for_each(|outcome| outcome.check().map(drop))
}

fn in_the_way(signo: SigNo) -> Error {
    let why = format!("an entry of a timer in the leader's own queue is in the way of {signo}");
    Error::new("put back what a timer has left", Cause::NotKept(why))
}

/// The timer as it was when it expired, with this number.
fn like(timer: &DeletedTimer, id: i32) -> PosixTimer {
    PosixTimer {
        value: timer.value,
        notify: timer.thread.map_or(Notify::Process, Notify::Thread),
        ..PosixTimer::bare(id, timer.signo.get())
    }
}

fn sigevent(timer: &DeletedTimer) -> Vec<u8> {
    let notify = timer.thread.map_or(SIGEV_SIGNAL, |_| SIGEV_THREAD_ID);
    let mut event = timer.value.to_ne_bytes().to_vec();
    for word in [timer.signo.get(), notify, timer.thread.unwrap_or(0)] {
        event.extend(word.to_ne_bytes());
    }
    event.resize(SIGEVENT_SIZE, 0);
    event
}

fn of_number(pending: &Pending, signo: SigNo) -> Vec<Siginfo> {
    let entries = pending.queue.iter();
    let of_number = entries.filter(|info| info.signo() == signo.get());
    of_number.copied().collect()
}

/// Each number, in each queue, of which entries look like those of timers that are not there.
fn groups(state: &ProcessState) -> Vec<(Place, SigNo)> {
    let mut groups = Vec::new();
    let Some(leader) = state.threads.first() else {
        return groups;
    };
    let shared = Place {
        tid: leader.tid(),
        queue: Queue::Shared,
        thread: None,
    };
    let private = state.threads.iter().map(|thread| {
        let place = Place {
            tid: thread.tid(),
            queue: Queue::Private,
            thread: Some(thread.ids.innermost()),
        };
        (place, &thread.pending)
    });
    for (place, pending) in std::iter::once((shared, &state.shared)).chain(private) {
        let entries = pending.queue.iter();
        let perhaps = entries.filter(|info| may_be_left(state, place.thread, info));
        let numbers: SigSet = perhaps
            .filter_map(|info| SigNo::new(info.signo()))
            .collect();
        groups.extend(numbers.iter().map(|signo| (place, signo)));
    }
    groups
}

/// Is an entry of a timer that is there in the same queue and of the same number as what this timer has left? Entries of the number
/// then stay where they are: nobody can take out one of them without the others, and only an expiry brings back the one of a timer.
pub fn is_beside_own(state: &ProcessState, timer: &DeletedTimer) -> bool {
    let mut queue = queue(state, timer.thread).queue.iter();
    queue.any(|info| info.signo() == timer.signo.get() && is_own(state, timer.thread, info))
}

/// Does this entry look like one of a timer that is not there?
pub fn may_be_left(state: &ProcessState, thread: Option<i32>, info: &Siginfo) -> bool {
    like_a_timers_own(info).is_some() && !is_own(state, thread, info)
}

fn is_own(state: &ProcessState, thread: Option<i32>, info: &Siginfo) -> bool {
    let mut timers = state.timers.iter();
    timers.any(|timer| timer.thread() == thread && timer.made(info))
}

fn candidates(state: &ProcessState, place: Place, signo: SigNo) -> Vec<DeletedTimer> {
    let entries = queue(state, place.thread).queue.iter();
    let of_number = entries.filter(|info| info.signo() == signo.get());
    of_number
        .filter(|info| may_be_left(state, place.thread, info))
        .filter_map(|info| of_timer(info, place.thread))
        .collect()
}

/// The timers that are gone for sure, and those of which nobody can tell: of a number below 32 the kernel queues nothing behind
/// another entry but what is a timer's (legacy_queue, posixtimer_queue_sigqueue).
fn sure_and_unclear(
    state: &ProcessState,
    place: Place,
    signo: SigNo,
    entries: &[Siginfo],
) -> (Vec<DeletedTimer>, Vec<DeletedTimer>) {
    let left = |(_, info): &(usize, &Siginfo)| may_be_left(state, place.thread, info);
    let left = entries.iter().enumerate().filter(left);
    let (sure, unclear): (Vec<_>, Vec<_>) =
        left.partition(|(nth, _)| *nth > 0 && !signo.is_realtime());
    let timers = |entries: Vec<(usize, &Siginfo)>| {
        let timer = |(_, info): (usize, &Siginfo)| of_timer(info, place.thread);
        entries.into_iter().filter_map(timer).collect()
    };
    (timers(sure), timers(unclear))
}

/// Can all entries of the number be taken out of the queue without any other, and go back?
fn askable(state: &ProcessState, place: Place, signo: SigNo) -> bool {
    let Some(leader) = state.threads.first() else {
        return false;
    };
    let entries = of_number(queue(state, place.thread), signo);
    // Where the kernel drops the last, the first of the other queue comes instead.
    let (other, armed) = match place.queue {
        Queue::Private => (&state.shared, SigSet::EMPTY),
        Queue::Shared => (&leader.pending, itimers::armed_by_taking(state)),
    };
    let stays = |info: &Siginfo| {
        is_own(state, place.thread, info) || place.queue == Queue::Private && is_fault(info)
    };
    !other.bits.contains(signo) && !armed.contains(signo) && !entries.iter().any(stays)
}

fn queue(state: &ProcessState, thread: Option<i32>) -> &Pending {
    let mut threads = state.threads.iter();
    match threads.find(|t| Some(t.ids.innermost()) == thread) {
        Some(thread) => &thread.pending,
        None => &state.shared,
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
    fn behind_another_entry_of_a_number_below_32_only_a_timers_can_be() {
        let state = process(&[entry(1, 0, 0), entry(2, 0, 0)], &[]);
        let place = Place {
            tid: Tid::new(7).unwrap(),
            queue: Queue::Shared,
            thread: None,
        };
        let told = |signo: SigNo| {
            let (sure, unclear) = sure_and_unclear(&state, place, signo, &state.shared.queue);
            let ids = |timers: Vec<DeletedTimer>| timers.iter().map(|t| t.id).collect::<Vec<_>>();
            (ids(sure), ids(unclear))
        };
        assert_eq!(told(SigNo::USR1), (vec![2], vec![1]));
        assert_eq!(told(SigNo::new(34).unwrap()), (vec![], vec![1, 2]));
    }

    #[test]
    fn what_may_be_left() {
        let count = |state: &ProcessState| {
            let groups = groups(state).into_iter();
            let all = groups.map(|(place, signo)| candidates(state, place, signo).len());
            all.sum::<usize>()
        };
        let mut state = process(&[entry(1, 0, 0)], &[]);
        assert_eq!(count(&state), 1);
        let gone = candidates(&state, groups(&state)[0].0, SigNo::USR1)[0];
        state.timers = vec![like(&gone, 1)];
        assert_eq!(count(&state), 0, "its timer is there");
        state.timers[0].id = 2;
        assert_eq!(count(&state), 1, "another timer is");
        let queued = process(&[entry(1, 3, 0)], &[entry(1, 0, 9)]);
        assert_eq!(count(&queued), 0, "the kernel shows no such ones");
    }

    #[test]
    fn what_can_be_asked_for() {
        let can = |state: &ProcessState| {
            let groups = groups(state);
            groups
                .iter()
                .all(|&(place, signo)| askable(state, place, signo))
        };
        assert!(can(&process(&[entry(1, 0, 0)], &[])));
        assert!(can(&process(&[entry(1, 0, 0), entry(2, 0, 0)], &[])));
        assert!(can(&process(&[], &[entry(1, 0, 0)])));
        let in_the_way = process(&[entry(1, 0, 0)], &[entry(1, 3, 0)]);
        assert!(!can(&in_the_way));
        let shared_too = process(&[entry(1, 3, 0)], &[entry(1, 0, 0)]);
        assert!(!can(&shared_too), "that would come in its place");
        let mut beside = process(&[entry(1, 0, 0), entry(2, 0, 0)], &[]);
        beside.timers = vec![PosixTimer {
            value: 7,
            ..PosixTimer::bare(2, 10)
        }];
        assert!(!can(&beside), "nobody but the timer could queue that again");
    }

    #[test]
    fn numbers_of_what_is_left() {
        let mut state = process(&[entry(1, 0, 0)], &[entry(1, 0, 0)]);
        let of = |state: &ProcessState, thread| numbers(state, thread, queue(state, thread));
        assert_eq!(of(&state, None), SigSet::EMPTY);
        state.deleted_timers = vec![DeletedTimer {
            id: 1,
            signo: SigNo::USR1,
            value: 7,
            thread: Some(7),
        }];
        assert_eq!(of(&state, None), SigSet::EMPTY);
        assert_eq!(of(&state, Some(7)), SigSet::from(SigNo::USR1));
    }
}
