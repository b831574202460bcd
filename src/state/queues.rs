//! Queues of pending signals: each thread's private one, and the process's shared one.
//!
//! The tracer reads a queue by PTRACE_PEEKSIGINFO. Entries are added by calls inside the process: only the process
//! itself may queue a siginfo with `si_code >= 0` or SI_TKILL to itself (do_rt_sigqueueinfo, do_rt_tgsigqueueinfo), not
//! even root may do so from outside. Entries are taken out by rt_sigtimedwait(2), which only the process itself can
//! call.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use criu_signals_images::{
    Fields, NsIds, Pending, Pid, Rlimit, SIGINFO_SIZE, SigNo, SigSet, Siginfo, Tid,
};
use nix::errno::Errno;

use super::{Kind, PendingLimit, Site, itimers, put_back, put_back_by};
use crate::error::{Cause, Error, Result};
use crate::proc::{self, SignalStatus};
use crate::tracee::{Call, Outcome, ptrace};

/// `sizeof(sigset_t)` in the kernel.
pub(super) const SIGSET_SIZE: u64 = 8;
/// `si_code` of sigqueue(3). With it a legacy signal does not override RLIMIT_SIGPENDING, so that under a limit
/// of 0 only its bit is set (`__send_signal_locked`).
const SI_QUEUE: i32 = -1;
/// `si_code` of kill(2). With any other a real-time signal that finds no room is refused with EAGAIN.
const SI_USER: i32 = 0;

/// A queue longer than this is not read whole to be compared: PTRACE_PEEKSIGINFO walks the list anew for every
/// entry, which takes a second for 20,000 of them.
const READ_WHOLE: usize = 2_048;
/// A queue longer than this is not read whole to tell what has arrived from what was put into it.
const MOST_READ: usize = 20_000;
/// How many entries of a longer queue are compared at its head and at its end. The position of the end proves the
/// length, and the result of each queueing call proves that the kernel has stored the entry.
const SAMPLE: usize = 512;
const SAMPLE_AT_END: usize = 2;
/// How many calls are prepared at a time: a few times as many as fit into the memory in the thread, so that visits to
/// the thread cost little, and so that this program's memory does not grow with the queue.
const AT_A_TIME: usize = 16_384;
/// How often the library puts back signals that another process sent while entries were taken out, and then tries
/// again.
const STRANGERS: usize = 8;

/// `si_code` of an entry that belongs to a POSIX timer. Taken out, the kernel's own entry would be lost for good:
/// what is queued in its stead neither re-arms the timer nor counts overruns (posixtimer_rearm).
const SI_TIMER: i32 = -2;

/// One thread's own queue.
#[derive(Debug)]
pub enum PrivateQueue {}

/// The queue of the whole process, reached through its leader.
#[derive(Debug)]
pub enum SharedQueue {}

/// Which of the two queues that a thread can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Its own.
    Private,
    /// Its process's.
    Shared,
}

impl Kind for PrivateQueue {
    const NAME: &'static str = "private queue";
    type State = Pending;

    fn capture<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<Pending> {
        Queue::Private.read(site, usize::MAX)
    }

    fn replay<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &Pending) -> Result<()> {
        let known = Queue::Private.read(site, usize::MAX)?;
        Queue::Private.replay_over(site, &known, wanted)
    }

    fn holds<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &Pending) -> Result<bool> {
        Queue::Private.holds(site, wanted)
    }

    fn has_kept<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &Pending) -> Result<bool> {
        Queue::Private.has_kept(site, wanted)
    }
}

impl Kind for SharedQueue {
    const NAME: &'static str = "shared queue";
    type State = Pending;

    fn capture<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<Pending> {
        Queue::Shared.read(site, usize::MAX)
    }

    fn replay<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &Pending) -> Result<()> {
        let known = Queue::Shared.read(site, usize::MAX)?;
        Queue::Shared.replay_over(site, &known, wanted)
    }

    fn holds<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &Pending) -> Result<bool> {
        Queue::Shared.holds(site, wanted)
    }

    fn has_kept<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &Pending) -> Result<bool> {
        Queue::Shared.has_kept(site, wanted)
    }
}

/// Makes the shared queue what is wanted where entries have to be taken out first.
fn make_shared<Owner>(
    site: &mut Site<'_, '_, Owner>,
    known: &Pending,
    wanted: &Pending,
) -> Result<()> {
    let found = Queue::Shared.read(site, usize::MAX)?;
    let aim = with_sent_since(known, wanted.clone(), &found);
    if Queue::Shared.set_whole(site, &found, &aim)? {
        return Ok(());
    }
    // rt_sigtimedwait takes from the private queue first: the leader's is taken out of the way and put back, whatever has
    // failed. What a timer has queued stays, and `plan_in_place` goes around that.
    let private = Queue::Private.read(site, usize::MAX)?;
    let stay = signos_of(own_entries(site.pid(), private.queue.iter())?.into_iter());
    let mut rest = private.clone();
    rest.queue.retain(|info| is_of(info, stay));
    rest.bits = rest.bits.intersection(stay);
    let shared = Queue::Private
        .make(site, &private, &rest)
        .and_then(|()| Queue::Shared.make(site, &found, &aim));
    let back = Queue::Private.make(site, &rest, &private);
    shared.and(back)
}

impl Queue {
    /// The thread's other one.
    fn other(self) -> Queue {
        match self {
            Queue::Private => Queue::Shared,
            Queue::Shared => Queue::Private,
        }
    }

    fn bits<Owner>(self, site: &Site<'_, '_, Owner>) -> Result<SigSet> {
        Ok(self.bits_in(&SignalStatus::read(site.pid(), site.tid)?))
    }

    fn bits_in(self, status: &SignalStatus) -> SigSet {
        match self {
            Queue::Private => status.pending,
            Queue::Shared => status.shared_pending,
        }
    }

    /// Its bits, and at most `most` of its entries.
    ///
    /// # Errors
    /// If the thread is gone.
    pub fn read<Owner>(self, site: &Site<'_, '_, Owner>, most: usize) -> Result<Pending> {
        let status = SignalStatus::read(site.pid(), site.tid)?;
        self.read_with(&status, site.tid, most)
    }

    /// As [`read`](Self::read), where the thread's status has been read since it was stopped.
    ///
    /// # Errors
    /// If the thread is gone.
    pub fn read_with(self, status: &SignalStatus, tid: Tid, most: usize) -> Result<Pending> {
        let bits = self.bits_in(status);
        let queue = self.peek(tid, 0, most)?;
        // A signal may have come between the two: a timer's, or anybody's. Its entry came with its bit.
        let mut pending = Pending { bits, queue };
        pending.bits = pending.bits.union(pending.queued());
        Ok(pending)
    }

    /// At most `most` entries, from the one at index `from` on, of `tid`'s queue or its process's.
    ///
    /// # Errors
    /// If the thread is gone.
    pub fn peek(self, tid: Tid, from: usize, most: usize) -> Result<Vec<Siginfo>> {
        ptrace::peek(tid, self == Queue::Shared, from, most)
    }

    /// How many entries it has.
    ///
    /// # Errors
    /// If the thread is gone.
    pub fn depth<Owner>(self, site: &Site<'_, '_, Owner>) -> Result<usize> {
        ptrace::depth(site.tid, self == Queue::Shared)
    }

    /// Is `wanted` what is in the queue? A long one is looked at in places only.
    ///
    /// Around the entry of a timer, which cannot be moved, the order of other numbers may differ: nobody can tell,
    /// since signals are taken by number (next_signal).
    ///
    /// # Errors
    /// If the thread is gone.
    pub fn holds<Owner>(self, site: &Site<'_, '_, Owner>, wanted: &Pending) -> Result<bool> {
        let status = SignalStatus::read(site.pid(), site.tid)?;
        self.holds_with(&status, site.tid, wanted)
    }

    /// As [`holds`](Self::holds), where `status` of the thread `tid` has been read.
    ///
    /// # Errors
    /// If the thread is gone.
    pub fn holds_with(self, status: &SignalStatus, tid: Tid, wanted: &Pending) -> Result<bool> {
        if self.bits_in(status) != wanted.bits {
            return Ok(false);
        }
        let queue = &wanted.queue;
        if self.is_in_places(tid, queue)? {
            return Ok(true);
        }
        if queue.iter().any(is_timers) {
            let found = self.peek(tid, 0, usize::MAX)?;
            return Ok(self.same_by_number(&found, queue));
        }
        Ok(false)
    }

    /// Is a long queue the same wherever it is looked at, or a short one the same?
    fn is_in_places(self, tid: Tid, queue: &[Siginfo]) -> Result<bool> {
        if queue.len() <= READ_WHOLE {
            return Ok(self.peek(tid, 0, queue.len() + 1)? == queue);
        }
        let end = queue.len() - SAMPLE_AT_END;
        Ok(self.peek(tid, 0, SAMPLE)? == queue[..SAMPLE]
            && self.peek(tid, end, SAMPLE_AT_END + 1)? == queue[end..])
    }

    /// As [`put_back`](super::put_back), if signals may have been sent since the queue was read: `known` is the queue
    /// as it was read, and `wanted` was made from `known`. Later signals are in neither; they stay pending behind
    /// `wanted`.
    ///
    /// # Errors
    /// Those of [`put_back`](super::put_back).
    pub(crate) fn put_back<Owner>(
        self,
        site: &mut Site<'_, '_, Owner>,
        known: &Pending,
        wanted: &Pending,
    ) -> Result<bool> {
        let replay = |site: &mut Site<'_, '_, Owner>| self.replay_over(site, known, wanted);
        match self {
            Queue::Private => put_back_by::<PrivateQueue, _>(site, wanted, replay),
            Queue::Shared => put_back_by::<SharedQueue, _>(site, wanted, replay),
        }
    }

    fn replay_over<Owner>(
        self,
        site: &mut Site<'_, '_, Owner>,
        known: &Pending,
        wanted: &Pending,
    ) -> Result<()> {
        if self == Queue::Private || self.is_head_of(site, wanted)? {
            return self.make(site, known, wanted);
        }
        itimers::keeping_expired(site, |site| make_shared(site, known, wanted))
    }

    fn has_kept<Owner>(self, site: &mut Site<'_, '_, Owner>, wanted: &Pending) -> Result<bool> {
        Ok(match self.kept(site, wanted)? {
            Kept::Exactly | Kept::AndArrivals { ahead: 0, .. } => true,
            Kept::AndArrivals { ahead, .. } => {
                log::warn!(
                    "pid {} tid {}: {ahead} signals that were sent while a queue was put back stand before older ones of the \
                     same number, and the process gets the signals in that order: the sender never pauses",
                    site.pid(),
                    site.tid
                );
                true
            }
            Kept::Not => false,
        })
    }

    /// Compares the queue with `wanted` after `wanted` has been put into it. Signals that other processes sent
    /// meanwhile stand among the entries. They are moved behind the older entries of their number where that is
    /// possible.
    ///
    /// # Errors
    /// If the thread is gone, or the kernel refused a call that moves entries.
    pub(crate) fn kept<Owner>(
        self,
        site: &mut Site<'_, '_, Owner>,
        wanted: &Pending,
    ) -> Result<Kept> {
        if self.holds(site, wanted)? {
            return Ok(Kept::Exactly);
        }
        if wanted.queue.len() > MOST_READ {
            return Ok(Kept::Not);
        }
        for moved in 0.. {
            let found = self.read(site, usize::MAX)?;
            let Some(arrivals) = self.arrivals(wanted, &found) else {
                return Ok(Kept::Not);
            };
            let Arrivals { ahead, instead } = arrivals;
            if ahead == 0 && instead == 0 {
                return Ok(Kept::AndArrivals { found, ahead });
            }
            // While a long queue is queued anew more arrives.
            let moves = match wanted.queue.len() {
                0..=READ_WHOLE => STRANGERS,
                _ => instead.min(1),
            };
            if moved == moves {
                return Ok(match instead {
                    0 => Kept::AndArrivals { found, ahead },
                    _ => Kept::Not,
                });
            }
            let behind = with_arrivals(wanted.clone(), &found);
            if !self.set_whole(site, &found, &behind)? {
                return Ok(Kept::Not);
            }
        }
        Ok(Kept::Not)
    }

    /// Where signals from other processes stand in `found`, a queue into which `kept` has been put. `None`: the entries
    /// of `kept` are out of order, or an entry is missing and no other signal stands in its place.
    pub(crate) fn arrivals(self, kept: &Pending, found: &Pending) -> Option<Arrivals> {
        if !kept.bits.difference(found.bits).is_empty() {
            return None;
        }
        let mut due = Counted::from_entries(&kept.queue);
        let mut of_kept = Vec::with_capacity(kept.queue.len());
        let mut ahead = 0;
        // Of each number, what nothing older has followed yet.
        let mut arrived: HashMap<i32, usize> = HashMap::new();
        for info in &found.queue {
            if due.take(info) {
                of_kept.push(*info);
                ahead += arrived.remove(&info.signo()).unwrap_or(0);
            } else {
                *arrived.entry(info.signo()).or_default() += 1;
            }
        }
        // The kernel has dropped them when they were queued again (legacy_queue).
        let missing = due.last_of(&kept.queue);
        let is_legacy =
            |info: &Siginfo| SigNo::new(info.signo()).is_some_and(|signo| !signo.is_realtime());
        if !missing.iter().all(is_legacy) {
            return None;
        }
        let mut there = kept.queue.clone();
        there.retain(|info| !missing.contains(info));
        let instead = missing.len();
        self.same_by_number(&of_kept, &there)
            .then_some(Arrivals { ahead, instead })
    }

    /// Is what is in the queue the beginning of `wanted`, so that nothing has to be taken out?
    fn is_head_of<Owner>(self, site: &Site<'_, '_, Owner>, wanted: &Pending) -> Result<bool> {
        let found = self.peek(site.tid, 0, wanted.queue.len().min(READ_WHOLE) + 1)?;
        let bare = self.bits(site)?.difference(signos(&found));
        Ok(wanted.queue.starts_with(&found)
            && bare.difference(wanted.bits_without_info()).is_empty())
    }

    /// Makes the queue hold `wanted`. If the queue is the beginning of `wanted`, the rest is queued; otherwise the
    /// wrong entries are taken out first. Signals sent since the queue was read as `known` stay behind `wanted`. The
    /// thread must block all signals, and RLIMIT_SIGPENDING must leave room.
    fn make<Owner>(
        self,
        site: &mut Site<'_, '_, Owner>,
        known: &Pending,
        wanted: &Pending,
    ) -> Result<()> {
        let mut wanted = Cow::Borrowed(wanted);
        let missing = if self.is_head_of(site, &wanted)? {
            let have = self.peek(site.tid, 0, wanted.queue.len())?.len();
            wanted.queue[have..].to_vec()
        } else {
            let found = self.read(site, usize::MAX)?;
            wanted = Cow::Owned(with_sent_since(known, wanted.into_owned(), &found));
            if self.set_whole(site, &found, &wanted)? {
                return Ok(());
            }
            let (wrong, missing) = self.plan_in_place(site, &found.queue, &wanted.queue)?;
            self.take_out(site, &wrong)?;
            self.take_out_bits(site, found.bits_without_info())?;
            missing
        };
        let ids = SignalStatus::read(site.pid(), site.tid)?.ids;
        self.queue(site, &ids, &missing)?;
        let bare = wanted.bits_without_info().difference(self.bits(site)?);
        if bare.is_empty() {
            Ok(())
        } else {
            self.set_bits(site, &ids, bare)
        }
    }

    /// Makes the queue, which holds `found`, hold exactly `wanted`. The shared queue is changed through the leader.
    ///
    /// All of it is one batch: taking out, queueing, and RLIMIT_SIGPENDING raised up to the hard limit, or closed for
    /// bits without siginfo, and back. The thread ends a batch that it has begun, so that no instant is left at which
    /// the death of the tracer would lose a signal or leave a limit behind, however deep the queue is. It takes up to 300
    /// bytes of memory in the process for each entry, for that time.
    ///
    /// A POSIX timer's own entry stays where it is.
    ///
    /// # Errors
    /// Before anything is changed: [`Cause::Refused`] if there is no room or no memory, or a timer's own entry would have to be
    /// moved. Otherwise the error of the call that the kernel refused; the queue may then hold neither `found` nor
    /// `wanted`. An accepted entry that the kernel did not keep is no error: the caller compares the queue.
    pub fn set<Owner>(
        self,
        site: &mut Site<'_, '_, Owner>,
        found: &Pending,
        wanted: &Pending,
    ) -> Result<()> {
        match self {
            Queue::Private => self.set_inner(site, found, wanted),
            Queue::Shared => {
                itimers::keeping_expired(site, |site| self.set_inner(site, found, wanted))
            }
        }
    }

    fn set_inner<Owner>(
        self,
        site: &mut Site<'_, '_, Owner>,
        found: &Pending,
        wanted: &Pending,
    ) -> Result<()> {
        let (wrong, missing) = match wanted.queue.strip_prefix(found.queue.as_slice()) {
            Some(missing) => (Vec::new(), missing.to_vec()),
            None => self.plan_in_place(site, &found.queue, &wanted.queue)?,
        };
        let bare_in = wanted
            .bits_without_info()
            .difference(found.bits_without_info());
        let bare_out = found
            .bits_without_info()
            .difference(wanted.bits_without_info());
        let numbers = signos(&wrong).union(bare_out);
        let aside = self.in_the_way(site, numbers)?;

        refuse_own_entries(site.pid(), wrong.iter().chain(&aside.queue))?;
        let status = SignalStatus::read(site.pid(), site.tid)?;
        let limit = PendingLimit::capture(site)?;
        let raise = needs_room(
            &status,
            &limit,
            &[&wrong, &aside.queue],
            &[&missing, &aside.queue],
        )?;
        let bits = aside.bits_without_info().iter().chain(bare_out.iter());
        let mut out = [aside.queue.as_slice(), &wrong].concat();
        out.extend(bits.map(without_entry));
        let change = Change {
            queue: self,
            leader: self.leader_in_namespace(site)?,
            tid: status.ids.innermost(),
            limit,
            raise,
            out: &out,
            aside: &aside,
            missing: &missing,
            bare: bare_infos(bare_in),
        };
        let (calls, taking) = change.calls();
        let outcomes = site.injector.run_whole(site.tid, &calls)?;
        let mixed = Mixed::from_outcomes(&out, &outcomes[taking.clone()])?;
        // What has arrived since `found` was read stands behind the leader's own.
        self.settle(site, mixed, Place::Behind, &mut StillIn::default())?;
        let others = outcomes[..taking.start].iter();
        for outcome in others.chain(&outcomes[taking.end..]) {
            outcome.check()?;
        }
        Ok(())
    }

    /// As [`set`](Self::set), where that can be done. False: it cannot, and nothing has been changed.
    ///
    /// The caller keeps a copy only of the entries that it puts in. Entries of the program that are out of the queue
    /// for a moment exist only in the thread's batch.
    fn set_whole<Owner>(
        self,
        site: &mut Site<'_, '_, Owner>,
        found: &Pending,
        wanted: &Pending,
    ) -> Result<bool> {
        match self.set(site, found, wanted) {
            Err(e) if matches!(e.cause(), Cause::Refused(_)) => {
                log::debug!("tid {}: {e}: retrying in smaller pieces", site.tid);
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }

    /// rt_sigtimedwait takes from the thread's private queue first: what of the leader's has to be out of the way of
    /// these numbers in the shared queue. All of it, so that its order stays; but entries of timers do not move.
    pub(super) fn in_the_way<Owner>(
        self,
        site: &Site<'_, '_, Owner>,
        numbers: SigSet,
    ) -> Result<Pending> {
        if self == Queue::Private || Queue::Private.bits(site)?.intersection(numbers).is_empty() {
            return Ok(Pending::default());
        }
        let mut private = Queue::Private.read(site, usize::MAX)?;
        if private.queue.iter().any(is_timers) {
            let in_the_way = |info: &Siginfo| is_of(info, numbers);
            // Those for faults are delivered in their order, and what steps aside comes back as the last.
            let of_timers: SigSet = signos_of(private.queue.iter().filter(|info| is_timers(info)));
            let movable = |info: &Siginfo| is_fault(info) && !is_of(info, of_timers);
            let any_fault = private
                .queue
                .iter()
                .any(|info| is_fault(info) && in_the_way(info));
            private
                .queue
                .retain(|info| in_the_way(info) || (any_fault && movable(info)));
            let bare = private.bits.intersection(numbers);
            private.bits = bare.union(private.queued());
        }
        Ok(private)
    }

    /// The SIGTRAP that is pending in the queue; for a private queue, together with all entries whose order relative to
    /// SIGTRAP matters.
    ///
    /// # Errors
    /// If the thread is gone, or what is in the queue could not go back as it is: `stays_beside_timer`, a second SIGTRAP, which
    /// only a timer can queue beside another, and a SIGTRAP that is a timer's.
    pub fn trap(self, pid: Pid, tid: Tid) -> Result<Pending> {
        let mut pending = Pending::default();
        let bits = self.bits_in(&SignalStatus::read(pid, tid)?);
        if !bits.contains(SigNo::TRAP) {
            return Ok(pending);
        }
        pending.queue = self.peek(tid, 0, usize::MAX)?;
        let of_timers: SigSet = signos_of(pending.queue.iter().filter(|info| is_timers(info)));
        let is_trap = |info: &Siginfo| info.signo() == SigNo::TRAP.get();
        let stays = match self {
            Queue::Private => stays_beside_timer(&pending.queue),
            Queue::Shared => None,
        };
        let second = pending.queue.iter().filter(|info| is_trap(info)).nth(1);
        if let Some(info) = stays.or(second) {
            return Err(only_by_timer(info));
        }
        let timers = proc::timers(pid)?;
        let is_own = |info: &&Siginfo| {
            let is_there = timers.iter().any(|timer| timer.made(info));
            is_trap(info) && (is_there || like_a_timers_own(info).is_some())
        };
        if let Some(info) = pending.queue.iter().find(is_own) {
            return Err(timers_own(info));
        }
        let goes_along = |info: &Siginfo| {
            let signo = SigNo::new(info.signo());
            self == Queue::Private
                && is_fault(info)
                && signo.is_some_and(|s| !of_timers.contains(s))
        };
        pending
            .queue
            .retain(|info| is_trap(info) || goes_along(info));
        pending.bits = pending.queued().with(SigNo::TRAP);
        Ok(pending)
    }

    /// Takes out pending bits that have no siginfo, as [`take_out`](Self::take_out) takes entries.
    ///
    /// # Errors
    /// If one was not pending.
    pub fn take_out_bits<Owner>(self, site: &mut Site<'_, '_, Owner>, bits: SigSet) -> Result<()> {
        let infos: Vec<Siginfo> = bits.iter().map(without_entry).collect();
        self.take_out(site, &infos)
    }

    /// Takes `infos` out of the queue, which are in it in this order. Each call names one number, and where
    /// nothing of that number stands in front, the kernel finds its entry at once (collect_signal).
    ///
    /// If the tracer dies meanwhile, the thread queues again the entries that it has taken out.
    ///
    /// If another process sends a signal to the thread's private queue meanwhile, rt_sigtimedwait(2) returns that
    /// signal before an entry of the same number in the shared queue. The signal is put back into the private queue,
    /// and the entry that stayed in the shared queue is taken out.
    ///
    /// # Errors
    /// If one of them was not in the queue, or somebody sends the same numbers over and over. What came out beside `infos` is
    /// back.
    pub fn take_out<Owner>(self, site: &mut Site<'_, '_, Owner>, infos: &[Siginfo]) -> Result<()> {
        let mut pieces = infos.chunks(AT_A_TIME);
        let next = |_: Dropped<'_>| Ok(pieces.next().unwrap_or_default().to_vec());
        self.take_out_in_pieces(site, next, |_| false, &mut StillIn::default())
    }

    /// As [`take_out`](Self::take_out), for each piece that `next` returns, until `next` returns an empty piece, all in
    /// one visit to the thread. `next` is called when all earlier pieces are out, and may read the queue. Its argument
    /// has the entries of the previous piece that the kernel has dropped (only entries for which `may_be_dropped` is
    /// true), and the entries that came out in their place. After an error, `still_in` tells which entries of the last
    /// piece are still in the queue.
    ///
    /// # Errors
    /// Those of [`take_out`](Self::take_out), and what `next` says.
    pub fn take_out_in_pieces<Owner>(
        self,
        site: &mut Site<'_, '_, Owner>,
        mut next: impl FnMut(Dropped<'_>) -> Result<Vec<Siginfo>>,
        may_be_dropped: impl Fn(&Siginfo) -> bool,
        still_in: &mut StillIn,
    ) -> Result<()> {
        let ids = SignalStatus::read(site.pid(), site.tid)?.ids;
        let leader = self.leader_in_namespace(site)?;
        let tid = ids.innermost();
        let (pid, site_tid) = (site.pid(), site.tid);
        loop {
            let mut infos: Vec<Siginfo> = Vec::new();
            let mut mixed = None;
            site.injector.run_in_pieces(site.tid, |outcomes| {
                let found = Mixed::from_outcomes(&infos, &outcomes)?;
                let other = || {
                    let status = SignalStatus::read(pid, site_tid)?;
                    Ok(self.other().bits_in(&status))
                };
                if !found.are_dropped(&may_be_dropped, other)? {
                    mixed = Some(found);
                    return Ok(Vec::new());
                }
                *still_in = StillIn::These(Vec::new());
                infos = next(Dropped {
                    gone: &found.left,
                    instead: &found.strange,
                })?;
                *still_in = StillIn::Unknown;
                Ok(self.taking(leader, tid, &infos))
            })?;
            match mixed {
                None => return Ok(()),
                Some(mixed) => self.settle(site, mixed, Place::Front, still_in)?,
            }
        }
    }

    /// The calls that take out `infos`, and put them back if the tracer dies.
    fn taking(self, leader: u64, tid: i32, infos: &[Siginfo]) -> Vec<Call> {
        let tid = u64::from(tid.cast_unsigned());
        let mut names = Names::for_call("rt_sigtimedwait");
        let signos = infos.iter().filter_map(|info| SigNo::new(info.signo()));
        signos
            .map(|signo| {
                let number = u64::from(signo.get().cast_unsigned());
                let call = take_one_named(signo, names.with(signo.get()));
                match self {
                    Queue::Private => {
                        call.undone_by(libc::SYS_rt_tgsigqueueinfo, &[leader, tid, number])
                    }
                    Queue::Shared => call.undone_by(libc::SYS_rt_sigqueueinfo, &[leader, number]),
                }
            })
            .collect()
    }

    /// Puts entries that came out of the thread's other queue back into that queue, and takes out of this queue the
    /// entries that stayed in their place.
    fn settle<Owner>(
        self,
        site: &mut Site<'_, '_, Owner>,
        mut mixed: Mixed,
        place: Place,
        still_in: &mut StillIn,
    ) -> Result<()> {
        for round in 1.. {
            if mixed.strange.is_empty() {
                *still_in = StillIn::These(mixed.left.clone());
                return mixed.ended();
            }
            log::info!(
                "pid {} tid {}: rt_sigtimedwait returned {} signals that were just sent to the thread instead of \
                 signals of the shared queue: they are put back",
                site.pid(),
                site.tid,
                mixed.strange.len()
            );
            // The last time they only go back.
            let again = round < STRANGERS && mixed.failed.is_none();
            let left = std::mem::take(&mut mixed.left);
            let take: &[Siginfo] = if again { &left } else { &[] };
            let next = self.exchange(site, &mixed.strange, take, place)?;
            if !again {
                mixed.strange.clear();
                mixed.left = left;
                break;
            }
            mixed = next;
        }
        *still_in = StillIn::These(mixed.left.clone());
        mixed.ended()
    }

    /// In one batch: takes out `take` and puts `strange` into the other queue, whose entries of the same numbers step aside.
    fn exchange<Owner>(
        self,
        site: &mut Site<'_, '_, Owner>,
        strange: &[Siginfo],
        take: &[Siginfo],
        place: Place,
    ) -> Result<Mixed> {
        let other = self.other();
        let mut aside = Vec::new();
        if other == Queue::Private {
            let numbers = signos(take);
            let private = other.read(site, usize::MAX)?;
            let bare = private.bits_without_info().intersection(numbers);
            let in_the_way = private.queue.iter().filter(|info| is_of(info, numbers));
            aside.extend(in_the_way.copied());
            aside.extend(bare.iter().map(without_entry));
        }
        // The entry of a timer can't step aside.
        let take = if aside.iter().any(is_timers) {
            aside.clear();
            &[]
        } else {
            take
        };
        let status = SignalStatus::read(site.pid(), site.tid)?;
        let limit = PendingLimit::capture(site)?;
        let leader = self.leader_in_namespace(site)?;
        let tid = status.ids.innermost();
        let back: Vec<&Siginfo> = match place {
            Place::Front => strange.iter().chain(&aside).collect(),
            Place::Behind => aside.iter().chain(strange).collect(),
        };
        let raise = status.queued.saturating_add(back.len() as u64) > limit.soft;
        let mut calls = Vec::new();
        if raise {
            calls.push(PendingLimit::call(Rlimit {
                soft: limit.hard,
                ..limit
            }));
        }
        let first = calls.len();
        calls.extend(other.taking(leader, tid, &aside));
        calls.extend(self.taking(leader, tid, take));
        let last = calls.len();
        let mut names = other.names();
        calls.extend(
            back.iter()
                .map(|info| other.queue_one(leader, tid, info, names.with(info.signo()))),
        );
        if raise {
            calls.push(PendingLimit::call(limit));
        }
        let outcomes = run_whole_or_not(site, &calls)?;
        for outcome in outcomes[..first].iter().chain(&outcomes[last..]) {
            outcome.check()?;
        }
        let expected = [aside.as_slice(), take].concat();
        Mixed::from_outcomes(&expected, &outcomes[first..last])
    }

    /// Queues `infos` behind what is in the queue. `ids` are those of the thread.
    pub(crate) fn queue<Owner>(
        self,
        site: &mut Site<'_, '_, Owner>,
        ids: &NsIds,
        infos: &[Siginfo],
    ) -> Result<()> {
        let leader = self.leader_in_namespace(site)?;
        let mut names = self.names();
        for infos in infos.chunks(AT_A_TIME) {
            let calls: Vec<Call> = infos
                .iter()
                .map(|info| {
                    let name = names.with(info.signo());
                    self.queue_one(leader, ids.innermost(), info, name)
                })
                .collect();
            for outcome in site.injector.run(site.tid, &calls)? {
                outcome.check()?;
            }
        }
        Ok(())
    }

    /// Which of these entries does the kernel deliver? `entries` are all entries of their number in the queue. One
    /// batch takes the entries out by rt_sigtimedwait(2) and queues the delivered ones again at the end of the queue.
    /// The thread completes a batch that it has begun, so the death of the tracer cannot lose a delivered entry or
    /// leave a dropped one. `None`: nothing was taken out, because RLIMIT_SIGPENDING has no room to queue the entries
    /// again.
    ///
    /// `anew` creates one of the entries again at its place, in the same batch, if the kernel has dropped that entry.
    ///
    /// # Errors
    /// If what was taken out could not be queued again.
    pub(super) fn deliver<Owner>(
        self,
        site: &mut Site<'_, '_, Owner>,
        signo: SigNo,
        entries: &[Siginfo],
        anew: Option<&Anew>,
    ) -> Result<Option<Vec<Siginfo>>> {
        let status = SignalStatus::read(site.pid(), site.tid)?;
        let limit = PendingLimit::capture(site)?;
        let all = entries.to_vec();
        match needs_room(&status, &limit, &[&all], &[&all]) {
            Err(e) if matches!(e.cause(), Cause::Refused(_)) => return Ok(None),
            room => room?,
        };
        let soft = limit.hard;
        let mut calls = vec![PendingLimit::call(Rlimit { soft, ..limit })];
        calls.extend(anew.map(|anew| anew.first.clone()));
        let first = calls.len();
        let filling = anew.map_or(&[][..], |anew| &anew.filling);
        calls.extend(entries.iter().map(|_| take_one_or_none(signo, filling)));
        let taken = first..calls.len();
        let leader = self.leader_in_namespace(site)?;
        let (tid, name) = (status.ids.innermost(), self.names().with(signo.get()));
        let mut again = Vec::with_capacity(entries.len());
        for nth in 0..entries.len() {
            if let Some(anew) = anew.filter(|anew| anew.nth == nth) {
                let last = calls.len() - (taken.end - 1);
                calls.push(
                    anew.create
                        .clone()
                        .output_of(last, NONE_FROM)
                        .input(anew.id),
                );
                calls.extend_from_slice(&anew.then);
            }
            again.push(calls.len());
            let call = self.queue_signal(leader, tid, signo.get(), name.clone());
            calls.push(call.output_of(again[nth] - (first + nth), 0));
        }
        calls.extend(anew.map(|anew| anew.last.clone()));
        let after = again.last().map_or(first, |at| at + 1);
        calls.push(PendingLimit::call(limit));
        let outcomes = site.injector.run_whole(site.tid, &calls);
        put_back::<PendingLimit, _>(site, &limit)?;
        let outcomes = match outcomes {
            Err(e) if matches!(e.cause(), Cause::Refused(_)) => return Ok(None),
            outcomes => outcomes?,
        };
        for outcome in outcomes[after..].iter().chain(&outcomes[..first]) {
            outcome.check()?;
        }
        let mut came = Vec::new();
        for (outcome, again) in outcomes[taken].iter().zip(again) {
            if outcome.errno() == Some(Errno::EAGAIN) {
                continue;
            }
            outcome.check()?;
            outcomes[again].check()?;
            came.push(siginfo(outcome)?);
        }
        Ok(Some(came))
    }

    /// The calls that queue `infos`. `ids` are those of the thread.
    pub(super) fn queueing<Owner>(
        self,
        site: &Site<'_, '_, Owner>,
        ids: &NsIds,
        infos: &[Siginfo],
    ) -> Result<Vec<Call>> {
        if infos.is_empty() {
            return Ok(Vec::new());
        }
        let leader = self.leader_in_namespace(site)?;
        let mut names = self.names();
        let call = |info: &Siginfo| {
            let name = names.with(info.signo());
            self.queue_one(leader, ids.innermost(), info, name)
        };
        Ok(infos.iter().map(call).collect())
    }

    /// Sets pending bits without a siginfo, by queueing the signals while RLIMIT_SIGPENDING leaves no room for a
    /// siginfo. The lowered limit lasts for one batch, which the thread completes even if the tracer dies.
    pub(super) fn set_bits<Owner>(
        self,
        site: &mut Site<'_, '_, Owner>,
        ids: &NsIds,
        bits: SigSet,
    ) -> Result<()> {
        let limit = PendingLimit::capture(site)?;
        let leader = self.leader_in_namespace(site)?;
        let mut names = self.names();
        let mut calls = vec![PendingLimit::call(Rlimit { soft: 0, ..limit })];
        calls.extend(
            bare_infos(bits).iter().map(|info| {
                self.queue_one(leader, ids.innermost(), info, names.with(info.signo()))
            }),
        );
        calls.push(PendingLimit::call(limit));
        let outcomes = run_whole_or_not(site, &calls);
        // Whatever has failed in between, the limit is what it was.
        put_back::<PendingLimit, _>(site, &limit)?;
        for outcome in outcomes? {
            outcome.check()?;
        }
        Ok(())
    }

    fn names(self) -> Names {
        Names::for_call(match self {
            Queue::Private => "rt_tgsigqueueinfo",
            Queue::Shared => "rt_sigqueueinfo",
        })
    }

    fn queue_one(self, leader: u64, tid: i32, info: &Siginfo, name: Arc<str>) -> Call {
        self.queue_signal(leader, tid, info.signo(), name)
            .input(info.as_bytes().to_vec())
    }

    /// [`queue_one`](Self::queue_one), but for the siginfo, which is the next argument.
    fn queue_signal(self, leader: u64, tid: i32, signo: i32, name: Arc<str>) -> Call {
        match self {
            Queue::Private => Call::new(libc::SYS_rt_tgsigqueueinfo, name)
                .value(leader)
                .value(u64::from(tid.cast_unsigned())),
            Queue::Shared => Call::new(libc::SYS_rt_sigqueueinfo, name).value(leader),
        }
        .value(u64::from(signo.cast_unsigned()))
        .sending(SigNo::new(signo))
    }

    /// The process's pid as the process itself sees it.
    fn leader_in_namespace<Owner>(self, site: &Site<'_, '_, Owner>) -> Result<u64> {
        let pid = site.pid();
        Ok(u64::from(
            SignalStatus::read(pid, Tid::from(pid))?
                .ids
                .innermost()
                .cast_unsigned(),
        ))
    }

    /// The entries to take out of `found` and the entries to queue afterwards, so that the queue holds `wanted`: all
    /// entries, unless `found` has an entry of a timer. An entry of a timer must stay in the queue; so only entries of
    /// the numbers that differ are taken out and queued.
    fn plan(self, found: &[Siginfo], wanted: &[Siginfo]) -> (Vec<Siginfo>, Vec<Siginfo>) {
        if found.iter().any(is_timers) {
            self.plan_by_number(found, wanted)
        } else {
            (found.to_vec(), wanted.to_vec())
        }
    }

    /// As [`plan`](Self::plan), where the thread's private queue may have the own entry of a timer. rt_sigtimedwait would take
    /// that one instead of an entry of the same number in the shared queue, and the kernel drop it if the timer has been set
    /// since. So entries of such a number stay in the shared queue.
    ///
    /// # Errors
    /// [`Cause::Refused`] if one of them would have to be moved.
    fn plan_in_place<Owner>(
        self,
        site: &Site<'_, '_, Owner>,
        found: &[Siginfo],
        wanted: &[Siginfo],
    ) -> Result<(Vec<Siginfo>, Vec<Siginfo>)> {
        let planned = self.plan(found, wanted);
        let numbers = signos(&planned.0);
        if self == Queue::Private || Queue::Private.bits(site)?.intersection(numbers).is_empty() {
            return Ok(planned);
        }
        let private = Queue::Private.read(site, usize::MAX)?.queue;
        let own = own_entries(site.pid(), private.iter())?;
        if !own.iter().any(|info| is_of(info, numbers)) {
            return Ok(planned);
        }
        let planned = self.plan_by_number(found, wanted);
        let numbers = signos(&planned.0);
        match own.iter().find(|info| is_of(info, numbers)) {
            None => Ok(planned),
            Some(own) => Err(stays_where_it_is(own)),
        }
    }

    /// Only numbers that are not right are touched.
    fn plan_by_number(self, found: &[Siginfo], wanted: &[Siginfo]) -> (Vec<Siginfo>, Vec<Siginfo>) {
        let (have, want) = (self.by_number(found), self.by_number(wanted));
        let none = Vec::new();
        let is_right = |signo: &i32| want.get(signo).unwrap_or(&none).starts_with(&have[signo]);
        let faults_are_right = !have.contains_key(&FAULTS) || is_right(&FAULTS);
        let is_fault_in = |signo: &i32| {
            let faults = have.get(&FAULTS).unwrap_or(&none);
            faults.iter().any(|info| info.signo() == *signo)
        };
        let (right, wrong): (Vec<i32>, Vec<i32>) = have
            .keys()
            .copied()
            .filter(|&signo| signo != FAULTS)
            .partition(|signo| is_right(signo) && (faults_are_right || !is_fault_in(signo)));
        let out = found.iter().filter(|info| wrong.contains(&info.signo()));
        let mut skip: HashMap<i32, usize> = right
            .iter()
            .map(|signo| (*signo, have[signo].len()))
            .collect();
        let missing = wanted
            .iter()
            .filter(|info| match skip.get_mut(&info.signo()) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    false
                }
                _ => true,
            });
        (out.copied().collect(), missing.copied().collect())
    }

    /// Are these the same entries, but for the order of different numbers?
    pub(crate) fn same_by_number(self, a: &[Siginfo], b: &[Siginfo]) -> bool {
        a.len() == b.len() && (a == b || self.by_number(a) == self.by_number(b))
    }

    /// The entries of each number, in their order; and of a thread's own queue those for faults. Of the shared one nobody can tell
    /// how these stand to each other: `dequeue_synchronous_signal` does not look at it, and `next_signal` takes the lowest.
    fn by_number(self, infos: &[Siginfo]) -> HashMap<i32, Vec<Siginfo>> {
        let mut numbers: HashMap<i32, Vec<Siginfo>> = HashMap::new();
        for info in infos {
            numbers.entry(info.signo()).or_default().push(*info);
            if self == Queue::Private && is_fault(info) {
                numbers.entry(FAULTS).or_default().push(*info);
            }
        }
        numbers
    }
}

/// How many there are of each of some entries, equal ones together.
#[derive(Debug, Default)]
pub(crate) struct Counted(HashMap<Siginfo, usize>);

impl Counted {
    pub(crate) fn from_entries<'i>(infos: impl IntoIterator<Item = &'i Siginfo>) -> Counted {
        let mut counted = Counted::default();
        for info in infos {
            *counted.0.entry(*info).or_default() += 1;
        }
        counted
    }

    /// Takes one. False: there is none.
    pub(crate) fn take(&mut self, info: &Siginfo) -> bool {
        match self.0.get_mut(info) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }

    /// Those of `infos` that are still here, in their order: of equal ones the last.
    fn last_of(mut self, infos: &[Siginfo]) -> Vec<Siginfo> {
        let mut left: Vec<Siginfo> = infos.iter().rev().copied().collect();
        left.retain(|info| self.take(info));
        left.reverse();
        left
    }
}

/// What a queue holds after something has been put into it.
#[derive(Clone, Debug)]
pub(crate) enum Kept {
    /// That.
    Exactly,
    /// That, and what others have sent since: all of it is in `found`. So many of these signals stand before older ones of
    /// their number.
    AndArrivals { found: Pending, ahead: usize },
    /// Something else.
    Not,
}

/// How signals that others have sent stand among those that were put into a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrivals {
    /// So many of them stand before older ones of their number.
    pub(crate) ahead: usize,
    /// So many stand instead of older ones: of a number below 32 there is one at a time.
    pub(crate) instead: usize,
}

/// The entries of a piece that did not come out, because their timers are gone.
#[derive(Clone, Copy, Debug)]
pub struct Dropped<'d> {
    /// These.
    pub gone: &'d [Siginfo],
    /// What has come out instead: the next ones of these numbers behind the piece.
    pub instead: &'d [Siginfo],
}

/// The entries that are still in the queue after a failure to take entries out. Only the last piece can have such
/// entries: all earlier pieces are out.
#[derive(Debug, Default)]
pub enum StillIn {
    /// Nobody knows.
    #[default]
    Unknown,
    /// These.
    These(Vec<Siginfo>),
}

/// What the calls that were to take out some entries have brought out.
#[derive(Debug, Default)]
struct Mixed {
    /// It is none of them: it came from the thread's other queue.
    strange: Vec<Siginfo>,
    /// These did not come.
    left: Vec<Siginfo>,
    /// A call that failed otherwise than by finding nothing.
    failed: Option<Error>,
}

/// Where in the other queue what came out of it goes back, by the entries of the same numbers that are there.
#[derive(Clone, Copy, Debug)]
enum Place {
    Front,
    Behind,
}

impl Mixed {
    fn from_outcomes(expected: &[Siginfo], outcomes: &[Outcome]) -> Result<Mixed> {
        let mut came = Vec::with_capacity(outcomes.len());
        let mut failed = None;
        for outcome in outcomes {
            match outcome.errno() {
                None => came.push(siginfo(outcome)?),
                Some(Errno::EAGAIN) => {}
                Some(_) => failed = failed.or(outcome.check().err()),
            }
        }
        let mut mixed = Mixed {
            failed,
            ..Mixed::default()
        };
        if came == expected {
            return Ok(mixed);
        }
        let mut due = Counted::from_entries(expected);
        came.retain(|info| !due.take(info));
        mixed.strange = came;
        mixed.left = due.last_of(expected);
        Ok(mixed)
    }

    /// Has come what was to come, but for entries that may have been dropped? In their stead the next ones of their numbers
    /// have come, where there are none in the `other` queue.
    fn are_dropped(
        &self,
        may_be: impl Fn(&Siginfo) -> bool,
        other: impl Fn() -> Result<SigSet>,
    ) -> Result<bool> {
        let numbers = signos(&self.strange);
        if self.failed.is_some()
            || !self.left.iter().all(may_be)
            || self.strange.len() > self.left.len()
            || !numbers.difference(signos(&self.left)).is_empty()
        {
            return Ok(false);
        }
        Ok(numbers.is_empty() || other()?.intersection(numbers).is_empty())
    }

    /// When nothing strange is out.
    fn ended(self) -> Result<()> {
        match (self.failed, self.left.first()) {
            (Some(e), _) => Err(e),
            (None, None) => Ok(()),
            (None, Some(info)) => Err(Error::new(
                "rt_sigtimedwait",
                Cause::Unexpected(format!(
                    "{info} was not returned: the entry is gone, or the same signal is sent to the thread again and \
                     again"
                )),
            )),
        }
    }
}

pub(super) fn siginfo(outcome: &Outcome) -> Result<Siginfo> {
    let bytes = outcome.output.as_slice().try_into();
    bytes
        .map(Siginfo::from_bytes)
        .map_err(|_| Error::new("rt_sigtimedwait", Cause::Unexpected("no siginfo".into())))
}

/// In one batch, or where nothing can be mapped for that, one call after the other.
fn run_whole_or_not<Owner>(site: &mut Site<'_, '_, Owner>, calls: &[Call]) -> Result<Vec<Outcome>> {
    match site.injector.run_whole(site.tid, calls) {
        Err(e) if matches!(e.cause(), Cause::Refused(_)) => site.injector.run(site.tid, calls),
        done => done,
    }
}

/// What comes out of a queue for a bit without an entry (collect_signal).
pub(super) fn without_entry(signo: SigNo) -> Siginfo {
    let mut bytes = [0; SIGINFO_SIZE];
    bytes[..4].copy_from_slice(&signo.get().to_le_bytes());
    Siginfo::from_bytes(bytes)
}

/// What leaves its bit alone where there is no room.
pub(super) fn bare_infos(bits: SigSet) -> Vec<Siginfo> {
    bits.iter()
        .map(|signo| {
            let code = if signo.is_realtime() {
                SI_USER
            } else {
                SI_QUEUE
            };
            let mut bytes = [0; SIGINFO_SIZE];
            bytes[..4].copy_from_slice(&signo.get().to_le_bytes());
            bytes[8..12].copy_from_slice(&code.to_le_bytes());
            Siginfo::from_bytes(bytes)
        })
        .collect()
}

/// Has the soft limit to be raised, so that after `out` is taken out there is room for `queued`?
///
/// Legacy signals with si_code >= 0 need none (`__send_signal_locked`, override_rlimit).
fn needs_room(
    status: &SignalStatus,
    limit: &Rlimit,
    out: &[&Vec<Siginfo>],
    queued: &[&Vec<Siginfo>],
) -> Result<bool> {
    let count = |lists: &[&Vec<Siginfo>]| {
        let infos = lists.iter().flat_map(|list| list.iter());
        let needs = |info: &&Siginfo| {
            info.code() < 0 || SigNo::new(info.signo()).is_none_or(SigNo::is_realtime)
        };
        u64::try_from(infos.filter(needs).count()).unwrap_or(u64::MAX)
    };
    let queued = count(queued);
    let needed = status
        .queued
        .saturating_sub(count(out))
        .saturating_add(queued);
    if queued == 0 || needed <= limit.soft {
        return Ok(false);
    }
    if needed <= limit.hard {
        return Ok(true);
    }
    Err(Error::new(
        "change a queue",
        Cause::Refused(
            format!(
                "RLIMIT_SIGPENDING has no room for the queue: the user of the process would have {needed} entries, and \
                 the hard limit is {}",
                limit.hard
            )
            .into(),
        ),
    ))
}

/// The name of a system call with each signal's, made once for as many calls as there may be.
struct Names {
    call: &'static str,
    made: HashMap<i32, Arc<str>>,
}

impl Names {
    fn for_call(call: &'static str) -> Names {
        Names {
            call,
            made: HashMap::new(),
        }
    }

    /// `rt_sigqueueinfo(SIGUSR1)`.
    fn with(&mut self, signo: i32) -> Arc<str> {
        let call = self.call;
        let name = self.made.entry(signo).or_insert_with(|| {
            Arc::from(match SigNo::new(signo) {
                Some(signo) => format!("{call}({signo})"),
                None => format!("{call}({signo})"),
            })
        });
        Arc::clone(name)
    }
}

/// The own entry of a POSIX timer has only one way into a queue.
fn refuse_own_entries<'i>(pid: Pid, infos: impl Iterator<Item = &'i Siginfo>) -> Result<()> {
    match own_entries(pid, infos)?.first() {
        None => Ok(()),
        Some(own) => Err(stays_where_it_is(own)),
    }
}

fn stays_where_it_is(own: &Siginfo) -> Error {
    let why = format!(
        "{own} is the own entry of a POSIX timer, which only the timer can queue: the entry cannot be removed or \
         moved; entries of other signals, and entries behind it, can"
    );
    Error::new("change a queue", Cause::Refused(why.into()))
}

/// Which of these are the own entries of timers.
fn own_entries<'i>(pid: Pid, infos: impl Iterator<Item = &'i Siginfo>) -> Result<Vec<&'i Siginfo>> {
    let mut like: Vec<&Siginfo> = infos.filter(|info| is_timers(info)).collect();
    if !like.is_empty() {
        let timers = proc::timers(pid)?;
        like.retain(|info| timers.iter().any(|timer| timer.made(info)));
    }
    Ok(like)
}

/// How a queue is changed, in one batch.
struct Change<'c> {
    queue: Queue,
    /// The ids of the process and of the thread in their own namespace.
    leader: u64,
    tid: i32,
    /// RLIMIT_SIGPENDING as it is, and whether it has to be raised.
    limit: Rlimit,
    raise: bool,
    /// What is taken out, in this order.
    out: &'c [Siginfo],
    /// What of that goes back into the thread's own queue.
    aside: &'c Pending,
    /// What is queued.
    missing: &'c [Siginfo],
    /// What is queued without a siginfo.
    bare: Vec<Siginfo>,
}

impl Change<'_> {
    /// The calls, and which of them take out.
    fn calls(&self) -> (Vec<Call>, std::ops::Range<usize>) {
        let set_limit = |soft| PendingLimit::call(Rlimit { soft, ..self.limit });
        let mut calls = Vec::new();
        calls.extend(self.raise.then(|| set_limit(self.limit.hard)));
        let first = calls.len();
        let mut taking = Names::for_call("rt_sigtimedwait");
        let signos = self.out.iter().filter_map(|info| SigNo::new(info.signo()));
        calls.extend(signos.map(|signo| take_one_named(signo, taking.with(signo.get()))));
        let last = calls.len();
        calls.extend(self.queue(Queue::Private, &self.aside.queue));
        calls.extend(self.queue(self.queue, self.missing));
        let aside_bare = bare_infos(self.aside.bits_without_info());
        let any_bare = !aside_bare.is_empty() || !self.bare.is_empty();
        if any_bare {
            calls.push(set_limit(0));
            calls.extend(self.queue(Queue::Private, &aside_bare));
            calls.extend(self.queue(self.queue, &self.bare));
        }
        if self.raise || any_bare {
            calls.push(set_limit(self.limit.soft));
        }
        (calls, first..last)
    }

    fn queue(&self, which: Queue, infos: &[Siginfo]) -> Vec<Call> {
        let mut names = which.names();
        infos
            .iter()
            .map(|info| which.queue_one(self.leader, self.tid, info, names.with(info.signo())))
            .collect()
    }
}

/// `struct timespec` of no time at all.
const NO_TIME: [u8; 16] = [0; 16];

/// One entry of this number, in the order in which they were queued.
pub(crate) fn take_one(signo: SigNo) -> Call {
    take_one_within(signo, NO_TIME)
}

/// How an entry is made anew, in the batch that finds that the kernel drops it ([`Queue::deliver`]).
#[derive(Debug)]
pub(super) struct Anew {
    /// Which of the entries.
    pub nth: usize,
    /// Before and behind all that is made here.
    pub first: Call,
    pub last: Call,
    /// A call that gets a pointer to these bytes if the entry has not come, and else to zeros, and then one to `id`. `then` must
    /// do nothing if it has failed, as it has to with zeros.
    pub create: Call,
    pub filling: Vec<u8>,
    pub id: [u8; 4],
    pub then: Vec<Call>,
}

/// As [`take_one`]; if there is none, its output cannot be queued: the kernel takes no siginfo of a layout that it does not
/// know, with something behind its own part of it (kernel/signal.c, `post_copy_siginfo_from_user`: E2BIG). `filling` is
/// what is there then; where one has come, the kernel writes zeros there.
fn take_one_or_none(signo: SigNo, filling: &[u8]) -> Call {
    let mut none = [0xff; SIGINFO_SIZE];
    none[SI_CODE].copy_from_slice(&i32::MAX.to_ne_bytes());
    for (to, from) in none[NONE_FROM..].iter_mut().zip(filling) {
        *to = *from;
    }
    Call::new(libc::SYS_rt_sigtimedwait, waits_for(signo))
        .input(SigSet::EMPTY.with(signo).bits().to_le_bytes())
        .filled(none)
        .input(NO_TIME)
        .value(SIGSET_SIZE)
}

/// Where the kernel's own part of a siginfo ends: sizeof(struct kernel_siginfo).
const NONE_FROM: usize = 48;
/// Where si_code is in a siginfo.
const SI_CODE: std::ops::Range<usize> = 8..12;

/// As [`take_one`], waiting for it if there is none. `time` is a `struct timespec`.
pub(super) fn take_one_within(signo: SigNo, time: impl Into<Vec<u8>>) -> Call {
    sigtimedwait(signo, waits_for(signo), Some(SIGINFO_SIZE), time)
}

/// As [`take_one`], whatever the entry is: its siginfo is not asked for.
pub(crate) fn drop_one(signo: SigNo) -> Call {
    sigtimedwait(signo, waits_for(signo), None, NO_TIME)
}

fn take_one_named(signo: SigNo, name: Arc<str>) -> Call {
    sigtimedwait(signo, name, Some(SIGINFO_SIZE), NO_TIME)
}

fn waits_for(signo: SigNo) -> Arc<str> {
    format!("rt_sigtimedwait({signo})").into()
}

/// rt_sigtimedwait({signo}, info, time, 8), with `info` bytes for the siginfo or a null pointer.
fn sigtimedwait(
    signo: SigNo,
    name: Arc<str>,
    info: Option<usize>,
    time: impl Into<Vec<u8>>,
) -> Call {
    let call = Call::new(libc::SYS_rt_sigtimedwait, name)
        .input(SigSet::EMPTY.with(signo).bits().to_le_bytes());
    let call = match info {
        Some(len) => call.output(len),
        None => call.value(0),
    };
    call.input(time).value(SIGSET_SIZE)
}

/// Under which those of all numbers are that [`is_fault`] is true of.
const FAULTS: i32 = 0;

/// A signal of the kernel's for a fault of the thread. Of those in a thread's own queue the first in the list is delivered
/// first, whatever its number is (`dequeue_synchronous_signal`, kernel/signal.c).
pub(crate) fn is_fault(info: &Siginfo) -> bool {
    info.code() > 0 && SigNo::new(info.signo()).is_some_and(SigNo::is_synchronous)
}

/// The first entry for a fault whose number has a timer's entry, too. It can't be taken out and go back: the kernel drops a
/// second entry of a number below 32 (legacy_queue), unless it is the timer that queues it.
pub(crate) fn stays_beside_timer(queue: &[Siginfo]) -> Option<&Siginfo> {
    let of_timers: SigSet = signos_of(queue.iter().filter(|info| is_timers(info)));
    queue.iter().find(|info| {
        is_fault(info) && SigNo::new(info.signo()).is_some_and(|signo| of_timers.contains(signo))
    })
}

/// What there is to say of an entry that would have to be taken out, and could not go back.
pub(crate) fn only_by_timer(info: &Siginfo) -> Error {
    Error::new(
        "take out pending signals",
        Cause::Unsupported(
            format!(
                "{info} can't be taken out: an entry of a POSIX timer with the same number is or may be pending as \
                 well, and only the timer can queue a second entry of a number below 32. criu cannot cope with the \
                 entry in the queue: checkpoint the process when one of the two has been delivered"
            )
            .into(),
        ),
    )
}

/// What there is to say of a SIGTRAP that is, or may be, the kernel's own entry of a POSIX timer. Who takes it out has the
/// kernel drop it, if the timer has been set or deleted since, or count its overruns and arm the timer again
/// (`__posixtimer_deliver_signal`, kernel/time/posix-timers.c).
fn timers_own(info: &Siginfo) -> Error {
    let why = format!(
        "{info} can't be taken out: the entry is or may be the own entry of a POSIX timer, which only the timer can \
         queue. criu does not seize a process with a pending SIGTRAP: checkpoint the process when the signal has been \
         delivered"
    );
    Error::new("take out pending signals", Cause::Unsupported(why.into()))
}

/// Does it look like a POSIX timer's own entry, as the kernel makes it? Then these are the timer and what comes with it. The
/// kernel tells overruns only when it delivers, and shows nothing else than number and value (from Linux 6.13 on; before, no
/// entry is dropped).
pub(super) fn like_a_timers_own(info: &Siginfo) -> Option<(i32, u64)> {
    let fields = info.fields();
    let Fields::Timer {
        id,
        overrun: 0,
        value,
        sys_private: 0,
    } = fields
    else {
        return None;
    };
    let own = Siginfo::from_fields(info.signo(), 0, libc::SI_TIMER, &fields);
    (own == *info).then_some((id, value))
}

/// Is it, or does it look like, the entry of a POSIX timer?
pub(crate) fn is_timers(info: &Siginfo) -> bool {
    info.code() == SI_TIMER
}

fn is_of(info: &Siginfo, numbers: SigSet) -> bool {
    SigNo::new(info.signo()).is_some_and(|signo| numbers.contains(signo))
}

fn signos(infos: &[Siginfo]) -> SigSet {
    signos_of(infos.iter())
}

fn signos_of<'i>(infos: impl Iterator<Item = &'i Siginfo>) -> SigSet {
    infos.filter_map(|info| SigNo::new(info.signo())).collect()
}

/// What a queue must hold after a restore: what was pending at the dump, in its order, and behind it what has
/// been queued since. A legacy signal that was pending at the dump keeps its entry; a second one is dropped, as the
/// kernel drops it (legacy_queue). The kernel drops no entry of a timer (posixtimer_queue_sigqueue), and nobody but the
/// timer could queue it again: each stays.
///
/// An entry that is found equal to one of the dump is taken for that one.
pub fn with_arrivals(dumped: Pending, found: &Pending) -> Pending {
    // Nearly always one of the two is the beginning of the other; deep queues need not be hashed for that.
    let same = std::iter::zip(&dumped.queue, &found.queue).take_while(|(a, b)| a == b);
    let same = same.count();
    let others = &found.queue[same..];
    let known = match others {
        [] => Counted::default(),
        _ => Counted::from_entries(&dumped.queue[same..]),
    };
    with_others(dumped, found, others, known)
}

/// As [`with_arrivals`], of entries that have been taken out, but for those that are `still_in` the queue: one that is found
/// equal to one of the others has been sent since, by the same sender with the same value, or was behind it.
pub fn before_arrivals(taken: Pending, found: &Pending, still_in: &[Siginfo]) -> Pending {
    with_others(taken, found, &found.queue, Counted::from_entries(still_in))
}

/// `wanted`, and behind it what of `found` has been sent since the queue was `known`.
pub(crate) fn with_sent_since(known: &Pending, wanted: Pending, found: &Pending) -> Pending {
    if found == known {
        return wanted;
    }
    let mut found = found.clone();
    found.bits = found.bits.difference(known.bits_without_info());
    before_arrivals(wanted, &found, &known.queue)
}

/// Behind what was pending at the dump, those of `others` that are not `known`, each so many times.
fn with_others(
    dumped: Pending,
    found: &Pending,
    others: &[Siginfo],
    mut known: Counted,
) -> Pending {
    let mut merged = dumped;
    let dumped_bits = merged.bits;
    for info in others {
        if known.take(info) {
            continue;
        }
        let Some(signo) = SigNo::new(info.signo()) else {
            continue;
        };
        if signo.is_realtime() || is_timers(info) || !dumped_bits.contains(signo) {
            merged.bits.insert(signo);
            merged.queue.push(*info);
        }
    }
    for signo in found.bits_without_info().iter() {
        merged.bits.insert(signo);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_signals_images::{Fields, Name};

    fn info(signo: SigNo, value: u64) -> Siginfo {
        Siginfo::from_fields(
            signo.get(),
            0,
            SI_QUEUE,
            &Fields::Value {
                pid: 7,
                uid: 0,
                value,
            },
        )
    }

    fn pending(queue: &[Siginfo]) -> Pending {
        let bits = queue.iter().filter_map(|i| SigNo::new(i.signo())).collect();
        Pending {
            bits,
            queue: queue.to_vec(),
        }
    }

    fn rt(n: i32) -> SigNo {
        SigNo::new(34 + n).unwrap()
    }

    #[test]
    fn what_was_pending_comes_first() {
        let dumped = pending(&[info(rt(0), 1), info(SigNo::USR1, 2), info(rt(0), 3)]);
        let found = pending(&[info(rt(0), 9), info(rt(0), 1)]);
        assert_eq!(
            with_arrivals(dumped, &found).queue,
            [
                info(rt(0), 1),
                info(SigNo::USR1, 2),
                info(rt(0), 3),
                info(rt(0), 9)
            ]
        );
    }

    #[test]
    fn what_others_have_sent_is_told_from_what_was_put_back() {
        let (a, b, c) = (
            info(SigNo::new(34).unwrap(), 1),
            info(SigNo::new(34).unwrap(), 2),
            info(SigNo::new(64).unwrap(), 3),
        );
        let arrivals = |kept: &[Siginfo], found: &[Siginfo]| {
            Queue::Shared.arrivals(&pending(kept), &pending(found))
        };
        let ahead = |kept: &[Siginfo], found: &[Siginfo]| {
            arrivals(kept, found).map(|arrivals| (arrivals.ahead, arrivals.instead))
        };
        assert_eq!(ahead(&[a, b], &[a, b, c]), Some((0, 0)));
        assert_eq!(ahead(&[a], &[c, a, a, b]), Some((0, 0)));
        assert_eq!(ahead(&[a], &[b, a]), Some((1, 0)));
        assert_eq!(ahead(&[a, a, c], &[b, a, b, c, a]), Some((2, 0)));
        assert_eq!(ahead(&[a, b], &[b, a]), None, "in another order");
        assert_eq!(ahead(&[a, a], &[a, b]), None, "one is gone");
        let (first, second) = (info(SigNo::USR1, 1), info(SigNo::USR1, 2));
        assert_eq!(ahead(&[first, c], &[second, c]), Some((0, 1)));
        assert_eq!(ahead(&[first], &[c]), None);
    }

    #[test]
    fn what_was_sent_since_stays_and_what_was_known_goes() {
        let [a, b, c] = [1, 2, 3].map(|value| info(SigNo::new(34).unwrap(), value));
        let since = |known: &[Siginfo], wanted: &[Siginfo], found: &[Siginfo]| {
            with_sent_since(&pending(known), pending(wanted), &pending(found)).queue
        };
        assert_eq!(since(&[a], &[b], &[a, c]), [b, c]);
        assert_eq!(since(&[a], &[b], &[a]), [b]);
        assert_eq!(
            since(&[], &[a, b], &[a]),
            [a, b, a],
            "equal to one that is out"
        );
        let bare = Pending {
            bits: SigNo::USR1.into(),
            ..Pending::default()
        };
        let none = Pending::default();
        assert_eq!(with_sent_since(&bare, none.clone(), &bare), none);
        assert_eq!(with_sent_since(&none, none.clone(), &bare), bare);
    }

    #[test]
    fn a_second_legacy_signal_is_dropped() {
        let dumped = pending(&[info(SigNo::CHLD, 1)]);
        let found = pending(&[info(SigNo::CHLD, 2)]);
        assert_eq!(with_arrivals(dumped.clone(), &found), dumped);
    }

    #[test]
    fn no_entry_of_a_timer_is_dropped() {
        let expiry = |id| {
            let fields = Fields::Timer {
                id,
                overrun: 0,
                value: 0,
                sys_private: 0,
            };
            Siginfo::from_fields(SigNo::USR1.get(), 0, SI_TIMER, &fields)
        };
        // Two timers and kill(2), beside a SIGTRAP that was taken out.
        let queue = [info(SigNo::USR1, 1), expiry(1), expiry(2)];
        let found = pending(&queue);
        assert_eq!(
            with_arrivals(pending(&[info(SigNo::TRAP, 7)]), &found).queue,
            [&[info(SigNo::TRAP, 7)], queue.as_slice()].concat()
        );
        // With one of that number at the dump, kill(2) would have been dropped.
        assert_eq!(
            with_arrivals(pending(&[info(SigNo::USR1, 7)]), &found).queue,
            [info(SigNo::USR1, 7), expiry(1), expiry(2)]
        );
    }

    #[test]
    fn equal_entries_are_counted() {
        let dumped = pending(&[info(rt(1), 5), info(rt(1), 5)]);
        let found = pending(&[info(rt(1), 5), info(rt(1), 5), info(rt(1), 5)]);
        assert_eq!(with_arrivals(dumped.clone(), &found).queue.len(), 3);
        assert_eq!(with_arrivals(dumped.clone(), &dumped), dumped);
    }

    #[test]
    fn what_was_taken_out_is_not_found() {
        let taken = pending(&[info(rt(1), 5), info(rt(1), 5)]);
        let found = pending(&[info(rt(1), 5)]);
        let merged = |still_in| before_arrivals(taken.clone(), &found, still_in).queue.len();
        assert_eq!(merged(&[]), 3);
        assert_eq!(merged(&taken.queue[..1]), 2);
        // The kernel would have dropped the second.
        let taken = pending(&[info(SigNo::USR1, 5)]);
        let merged = before_arrivals(taken.clone(), &taken, &[]);
        assert_eq!(merged.queue.len(), 1);
    }

    #[test]
    fn a_timers_entry_is_built_around() {
        let timers = Siginfo::from_fields(
            rt(3).get(),
            0,
            SI_TIMER,
            &Fields::Timer {
                id: 1,
                overrun: 0,
                value: 0,
                sys_private: 0,
            },
        );
        let (a, b, c) = (info(rt(0), 1), info(rt(0), 2), info(SigNo::USR1, 3));
        assert_eq!(Queue::Private.plan(&[b], &[a, b]), (vec![b], vec![a, b]));
        assert_eq!(
            Queue::Private.plan(&[timers, a], &[c, a, timers, b]),
            (vec![], vec![c, b])
        );
        assert_eq!(
            Queue::Private.plan(&[timers, b], &[c, a, timers, b]),
            (vec![b], vec![c, a, b])
        );
    }

    #[test]
    fn those_that_come_first_keep_their_order() {
        let fault = |signo: SigNo| {
            Siginfo::from_fields(
                signo.get(),
                0,
                2,
                &Fields::Value {
                    pid: 0,
                    uid: 0,
                    value: 0,
                },
            )
        };
        let fields = Fields::Timer {
            id: 1,
            overrun: 0,
            value: 0,
            sys_private: 0,
        };
        let timers = Siginfo::from_fields(rt(3).get(), 0, SI_TIMER, &fields);
        let (trap, fpe) = (fault(SigNo::TRAP), fault(SigNo::FPE));
        let sent = info(SigNo::SEGV, 1);
        assert_eq!(
            Queue::Private.plan(&[timers, sent, fpe], &[trap, timers, sent, fpe]),
            (vec![fpe], vec![trap, fpe])
        );
        assert_eq!(
            Queue::Private.plan(&[timers, trap], &[trap, timers, sent, fpe]),
            (vec![], vec![sent, fpe])
        );
        let private = |a: &[Siginfo], b: &[Siginfo]| Queue::Private.same_by_number(a, b);
        assert!(!private(&[trap, fpe], &[fpe, trap]));
        assert!(private(&[sent, fpe], &[fpe, sent]));
        assert!(Queue::Shared.same_by_number(&[trap, fpe], &[fpe, trap]));
    }

    #[test]
    fn a_fault_beside_a_timer_of_its_number_stays() {
        let entry = |signo: SigNo, code| {
            let fields = Fields::Value {
                pid: 0,
                uid: 0,
                value: 0,
            };
            Siginfo::from_fields(signo.get(), 0, code, &fields)
        };
        let (ill, timer) = (entry(SigNo::ILL, 4), entry(SigNo::ILL, SI_TIMER));
        assert_eq!(stays_beside_timer(&[ill, timer]), Some(&ill));
        assert_eq!(stays_beside_timer(&[timer, ill]), Some(&ill));
        for queue in [
            vec![ill],
            vec![timer],
            vec![ill, entry(SigNo::FPE, SI_TIMER)],
            vec![entry(SigNo::ILL, SI_QUEUE), timer],
        ] {
            assert_eq!(stays_beside_timer(&queue), None, "{queue:?}");
        }
    }

    #[test]
    fn bits_without_siginfo_stay() {
        let dumped = Pending {
            bits: SigSet::EMPTY.with(SigNo::USR2),
            queue: vec![],
        };
        let merged = with_arrivals(dumped, &pending(&[info(rt(0), 1)]));
        assert_eq!(merged.bits, SigSet::EMPTY.with(SigNo::USR2).with(rt(0)));
        assert_eq!(merged.bits_without_info(), SigSet::EMPTY.with(SigNo::USR2));
    }

    #[test]
    fn room_is_needed_for_entries_and_not_for_those_without_a_siginfo() {
        let room = |charged: u64, hard: u64, out: &[Siginfo], queued: &[Siginfo]| {
            let status = SignalStatus {
                ids: NsIds::new(vec![7]).unwrap(),
                comm: Name::default(),
                dead: false,
                has_memory: true,
                pending: SigSet::EMPTY,
                shared_pending: SigSet::EMPTY,
                blocked: SigSet::EMPTY,
                ignored: SigSet::EMPTY,
                caught: SigSet::EMPTY,
                queued: charged,
            };
            let limit = Rlimit { soft: 5, hard };
            needs_room(&status, &limit, &[&out.to_vec()], &[&queued.to_vec()]).ok()
        };
        let one = [info(rt(0), 1)];
        assert_eq!(room(4, 5, &[], &one), Some(false));
        assert_eq!(room(5, 6, &[], &one), Some(true));
        assert_eq!(room(6, 6, &[], &one), None, "the hard limit is 6");
        assert_eq!(room(6, 6, &one, &one), Some(true));
        assert_eq!(room(9, 5, &[], &[]), Some(false), "nothing is queued");
        let legacy = |code| {
            let fields = Fields::Kill { pid: 7, uid: 0 };
            [Siginfo::from_fields(SigNo::USR1.get(), 0, code, &fields)]
        };
        assert_eq!(room(5, 5, &[], &legacy(SI_USER)), Some(false));
        assert_eq!(room(5, 6, &[], &legacy(SI_QUEUE)), Some(true));
        let user = Siginfo::from_fields(rt(0).get(), 0, SI_USER, &Fields::Kill { pid: 7, uid: 0 });
        assert_eq!(room(5, 6, &[], &[user]), Some(true));
    }

    /// `__send_signal_locked`: a legacy number with si_code >= 0 gets an entry whatever the limit, and a real-time number with
    /// another code than SI_USER is refused.
    #[test]
    fn bits_without_siginfo_are_queued_with_codes_that_leave_no_entry() {
        let bits = SigSet::EMPTY.with(SigNo::USR2).with(rt(3));
        let infos = bare_infos(bits);
        let shown: Vec<(i32, i32)> = infos.iter().map(|i| (i.signo(), i.code())).collect();
        let wanted = [(SigNo::USR2.get(), SI_QUEUE), (rt(3).get(), SI_USER)];
        assert_eq!(shown, wanted);
    }

    #[test]
    fn the_entry_of_a_timer_is_told_from_an_entry_that_looks_alike() {
        use nix::sys::signal::{SigEvent, SigevNotify, Signal};
        use nix::sys::timer::Timer;
        use nix::time::ClockId;

        const VALUE: u64 = 0xa5;
        let event = SigEvent::new(SigevNotify::SigevSignal {
            signal: Signal::SIGURG,
            si_value: 0xa5,
        });
        let _timer = Timer::new(ClockId::CLOCK_MONOTONIC, event).unwrap();
        let mut timers = proc::timers(Pid::own()).unwrap().into_iter();
        let line = timers.find(|timer| timer.value == VALUE).unwrap();
        let entry = |code, value| {
            let fields = Fields::Timer {
                id: line.id,
                overrun: 0,
                value,
                sys_private: 0,
            };
            Siginfo::from_fields(line.signo, 0, code, &fields)
        };
        let own = entry(SI_TIMER, VALUE);
        let others = [entry(SI_TIMER, 1), entry(SI_QUEUE, VALUE)];
        let all = [others[0], own, others[1]];
        assert_eq!(own_entries(Pid::own(), all.iter()).unwrap(), [&own]);
        refuse_own_entries(Pid::own(), all.iter()).unwrap_err();
        refuse_own_entries(Pid::own(), others.iter()).unwrap();
        assert_eq!(signos(&all), SigNo::new(line.signo).unwrap().into());
        assert_eq!(signos(&[]), SigSet::EMPTY);
    }
}
