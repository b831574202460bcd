//! Queues of pending signals: each thread's private one, and the process's shared one.
//!
//! Read from outside by PTRACE_PEEKSIGINFO. Filled from inside: a siginfo with `si_code >= 0` or SI_TKILL may be
//! queued by nobody but the thread itself (do_rt_sigqueueinfo, do_rt_tgsigqueueinfo), not even by root. What is
//! in a queue can be taken out from inside only, too, by rt_sigtimedwait(2).

use std::collections::HashMap;

use criu_signals_images::{NsIds, Pending, SIGINFO_SIZE, SigNo, SigSet, Siginfo, Tid};

use super::{Kind, PendingLimit, Site};
use crate::error::{Cause, Error, Result};
use crate::proc::SignalStatus;
use crate::tracee::{Call, ptrace};

/// `sizeof(sigset_t)` in the kernel.
const SIGSET_SIZE: u64 = 8;
/// How often a queue is read before it is given up as unreadable. There are 64 bits to be set, so it ends earlier.
const READ_ATTEMPTS: usize = 100;
/// `si_code` of sigqueue(3). With it a legacy signal does not override RLIMIT_SIGPENDING, so that under a limit
/// of 0 only its bit is set (`__send_signal_locked`).
const SI_QUEUE: i32 = -1;
/// `si_code` of kill(2). With any other a real-time signal that finds no room is refused with EAGAIN.
const SI_USER: i32 = 0;

/// One thread's own queue.
#[derive(Debug)]
pub enum PrivateQueue {}

/// The queue of the whole process, reached through its leader.
#[derive(Debug)]
pub enum SharedQueue {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Private,
    Shared,
}

impl Kind for PrivateQueue {
    const NAME: &'static str = "private queue";
    type State = Pending;

    fn capture<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<Pending> {
        Which::Private.read(site)
    }

    fn replay<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &Pending) -> Result<()> {
        Which::Private.make(site, wanted)
    }
}

impl Kind for SharedQueue {
    const NAME: &'static str = "shared queue";
    type State = Pending;

    fn capture<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<Pending> {
        Which::Shared.read(site)
    }

    /// rt_sigtimedwait takes from the private queue first, so the leader's is taken out of the way and put back.
    fn replay<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &Pending) -> Result<()> {
        let private = Which::Private.read(site)?;
        Which::Private.make(site, &Pending::default())?;
        let shared = Which::Shared.make(site, wanted);
        Which::Private.make(site, &private)?;
        shared
    }
}

impl Which {
    fn read<Owner>(self, site: &mut Site<'_, '_, Owner>) -> Result<Pending> {
        let bits = || {
            let status = SignalStatus::read(site.pid(), site.tid)?;
            Ok::<_, Error>(match self {
                Which::Private => status.pending,
                Which::Shared => status.shared_pending,
            })
        };
        // Signals arrive at stopped threads too. One that comes between the two reads would be a siginfo without its
        // bit, or a bit that seems to have no siginfo.
        let mut before = bits()?;
        for _ in 0..READ_ATTEMPTS {
            let queue = ptrace::peek_queue(site.tid, self == Which::Shared)?;
            let after = bits()?;
            if before == after {
                return Ok(Pending { bits: after, queue });
            }
            before = after;
        }
        Err(Error::new(
            "read the queue",
            Cause::Unexpected("signals arrive faster than they can be read".into()),
        ))
    }

    /// Makes the queue what is wanted: keeps the head that is right, takes out the rest, queues what is missing.
    /// The thread's other signals must be blocked, and RLIMIT_SIGPENDING leave room.
    fn make<Owner>(self, site: &mut Site<'_, '_, Owner>, wanted: &Pending) -> Result<()> {
        let found = self.read(site)?;
        let right = found
            .queue
            .iter()
            .zip(&wanted.queue)
            .take_while(|(a, b)| a == b)
            .count();
        // Taking one out needs its number to be at the head of its kind: behind `right` equal ones it is not.
        let keep = if found.queue.len() == right && found.bits_without_info().is_empty() {
            right
        } else {
            0
        };
        if keep == 0 {
            self.take_out(site, &found)?;
        }
        let ids = SignalStatus::read(site.pid(), site.tid)?.ids;
        self.queue(site, &ids, &wanted.queue[keep..])?;
        let bare = wanted.bits_without_info();
        if bare.is_empty() {
            Ok(())
        } else {
            self.set_bits(site, &ids, bare)
        }
    }

    /// In list order, each call naming one number: the kernel then finds its entry at the head of the list.
    fn take_out<Owner>(self, site: &mut Site<'_, '_, Owner>, found: &Pending) -> Result<()> {
        let queued = found
            .queue
            .iter()
            .filter_map(|info| SigNo::new(info.signo()));
        let calls: Vec<Call> = queued
            .chain(found.bits_without_info().iter())
            .map(take_one)
            .collect();
        for outcome in site.injector.run(site.tid, &calls)? {
            outcome.check()?;
        }
        Ok(())
    }

    fn queue<Owner>(
        self,
        site: &mut Site<'_, '_, Owner>,
        ids: &NsIds,
        infos: &[Siginfo],
    ) -> Result<()> {
        let leader = self.leader_in_namespace(site)?;
        let calls: Vec<Call> = infos
            .iter()
            .map(|info| self.queue_one(leader, Tid(ids.innermost()), info))
            .collect();
        for outcome in site.injector.run(site.tid, &calls)? {
            outcome.check()?;
        }
        Ok(())
    }

    /// Pending bits without siginfo: queued again where there is no room for one.
    fn set_bits<Owner>(
        self,
        site: &mut Site<'_, '_, Owner>,
        ids: &NsIds,
        bits: SigSet,
    ) -> Result<()> {
        let infos: Vec<Siginfo> = bits
            .iter()
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
            .collect();
        let limit = PendingLimit::capture(site)?;
        PendingLimit::close(site)?;
        let queued = self.queue(site, ids, &infos);
        PendingLimit::replay(site, &limit)?;
        queued
    }

    fn queue_one(self, leader: u64, tid: Tid, info: &Siginfo) -> Call {
        let signo = u64::from(info.signo().cast_unsigned());
        let name = |call: &str| match SigNo::new(info.signo()) {
            Some(signo) => format!("{call}({signo})"),
            None => format!("{call}({})", info.signo()),
        };
        match self {
            Which::Private => Call::new(libc::SYS_rt_tgsigqueueinfo, name("rt_tgsigqueueinfo"))
                .value(leader)
                .value(u64::from(tid.0.cast_unsigned())),
            Which::Shared => {
                Call::new(libc::SYS_rt_sigqueueinfo, name("rt_sigqueueinfo")).value(leader)
            }
        }
        .value(signo)
        .input(info.as_bytes().to_vec())
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
}

fn take_one(signo: SigNo) -> Call {
    let set = SigSet::EMPTY.with(signo);
    let no_time = [0u8; 16];
    Call::new(
        libc::SYS_rt_sigtimedwait,
        format!("rt_sigtimedwait({signo})"),
    )
    .input(set.bits().to_le_bytes())
    .value(0)
    .input(no_time)
    .value(SIGSET_SIZE)
}

/// What a queue must hold after a restore: what was pending at the dump, in its order, and behind it what has
/// been queued since. A legacy signal that is pending keeps its entry; a second one is dropped, as the kernel
/// drops it (legacy_queue).
pub fn with_arrivals(dumped: &Pending, found: &Pending) -> Pending {
    let mut known: HashMap<&Siginfo, usize> = HashMap::new();
    for info in &dumped.queue {
        *known.entry(info).or_default() += 1;
    }
    let mut merged = dumped.clone();
    for info in &found.queue {
        match known.get_mut(info) {
            Some(left) if *left > 0 => *left -= 1,
            _ => {
                let Some(signo) = SigNo::new(info.signo()) else {
                    continue;
                };
                if signo.is_realtime() || !merged.bits.contains(signo) {
                    merged.bits.insert(signo);
                    merged.queue.push(*info);
                }
            }
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
    use criu_signals_images::Fields;

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
            with_arrivals(&dumped, &found).queue,
            [
                info(rt(0), 1),
                info(SigNo::USR1, 2),
                info(rt(0), 3),
                info(rt(0), 9)
            ]
        );
    }

    #[test]
    fn a_second_legacy_signal_is_dropped() {
        let dumped = pending(&[info(SigNo::CHLD, 1)]);
        let found = pending(&[info(SigNo::CHLD, 2)]);
        assert_eq!(with_arrivals(&dumped, &found), dumped);
    }

    #[test]
    fn equal_entries_are_counted() {
        let dumped = pending(&[info(rt(1), 5), info(rt(1), 5)]);
        let found = pending(&[info(rt(1), 5), info(rt(1), 5), info(rt(1), 5)]);
        assert_eq!(with_arrivals(&dumped, &found).queue.len(), 3);
        assert_eq!(with_arrivals(&dumped, &dumped), dumped);
    }

    #[test]
    fn bits_without_siginfo_stay() {
        let dumped = Pending {
            bits: SigSet::EMPTY.with(SigNo::USR2),
            queue: vec![],
        };
        let merged = with_arrivals(&dumped, &pending(&[info(rt(0), 1)]));
        assert_eq!(merged.bits, SigSet::EMPTY.with(SigNo::USR2).with(rt(0)));
        assert_eq!(merged.bits_without_info(), SigSet::EMPTY.with(SigNo::USR2));
    }
}
