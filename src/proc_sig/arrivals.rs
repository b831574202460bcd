//! Signals that arrive while queues are changed: they stay pending, behind the entries of the change.

use criu_signals_images::{Pending, Siginfo};

use super::removed::Found;
use crate::error::{Cause, Error, Result};
use crate::state::queues::{Counted, Kept, before_arrivals};
use crate::state::{Queue, Site};
use crate::tracee::ByUs;

/// Makes the queue, which was `before`, `wanted`. Returns what the queue holds then: signals that have arrived since it was
/// `before` are behind the wanted entries of their number.
pub(super) fn set(
    site: &mut Site<'_, '_, ByUs>,
    queue: Queue,
    before: &Pending,
    wanted: &Pending,
) -> Result<Pending> {
    queue.set(site, before, wanted)?;
    match queue.kept(site, wanted)? {
        Kept::Exactly => Ok(wanted.clone()),
        Kept::AndArrivals { found, ahead: 0 } => Ok(found),
        Kept::AndArrivals { .. } => Err(Error::new(
            "write a queue",
            Cause::NotKept(
                "signals that are sent all the time stand before the written ones of the same number".into(),
            ),
        )),
        Kept::Not => {
            let found = queue.read(site, usize::MAX)?;
            let what = format!(
                "the queue reads back differently: {} entries, {}",
                found.queue.len(),
                found.bits
            );
            Err(Error::new("write a queue", Cause::NotKept(what)))
        }
    }
}

/// Makes each queue what it was before it was changed to `wanted`, with the signals that have arrived since behind that. The
/// queues are put back in the reverse order. What fails does not keep the others from being put back.
pub(super) fn put_back<'f>(
    site: &mut Site<'_, '_, ByUs>,
    queues: impl DoubleEndedIterator<Item = (&'f Found, &'f Pending)>,
) -> Result<()> {
    let mut done = Ok(());
    for ((tid, queue, before), wanted) in queues.rev() {
        let site = &mut Site {
            injector: &mut *site.injector,
            tid: *tid,
        };
        let back = queue.read(site, usize::MAX).and_then(|found| {
            let with_arrived = undone(before, wanted, &found);
            if found == with_arrived {
                return Ok(());
            }
            set(site, *queue, &found, &with_arrived).map(drop)
        });
        done = done.and(back.map_err(|e| e.in_thread(*tid)));
    }
    done
}

/// What a queue is to hold that was `before`, was being changed to `wanted`, and is `found`. An entry that is equal to one of
/// the wanted ones is the change's, not a signal that has arrived: at no instant does the change have more of them in the queue
/// than there were before or are wanted.
fn undone(before: &Pending, wanted: &Pending, found: &Pending) -> Pending {
    let mut known: Vec<Siginfo> = before.queue.clone();
    known.extend(missing(&wanted.queue, &before.queue));
    let mut found = found.clone();
    let written = wanted.bits_without_info().difference(before.bits);
    let bare = found.bits_without_info();
    found.bits = found.bits.difference(bare.intersection(written));
    before_arrivals(before.clone(), &found, &known)
}

/// The entries of `wanted` that are not in `present`, each so many times.
fn missing(wanted: &[Siginfo], present: &[Siginfo]) -> Vec<Siginfo> {
    let mut there = Counted::from_entries(present);
    let mut missing = wanted.to_vec();
    missing.retain(|info| !there.take(info));
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_signals_images::{Fields, SigNo, SigSet};

    fn info(signo: i32, value: u64) -> Siginfo {
        Siginfo::from_fields(
            signo,
            0,
            -1,
            &Fields::Value {
                pid: 1,
                uid: 0,
                value,
            },
        )
    }

    fn pending(queue: &[Siginfo]) -> Pending {
        Pending {
            bits: queue.iter().filter_map(|i| SigNo::new(i.signo())).collect(),
            queue: queue.to_vec(),
        }
    }

    #[test]
    fn what_has_arrived_stays_and_what_was_written_goes() {
        let (a, b, c) = (info(34, 1), info(34, 2), info(35, 3));
        let undo = |before: &[Siginfo], wanted: &[Siginfo], found: &[Siginfo]| {
            undone(&pending(before), &pending(wanted), &pending(found)).queue
        };
        // Written in whole, in part, not at all; c has arrived.
        for found in [&[b, b, c][..], &[b, c], &[a, c], &[c]] {
            assert_eq!(undo(&[a], &[b, b], found), [a, c], "{found:?}");
        }
        // One more of an entry that was there and is written.
        assert_eq!(undo(&[a], &[a, b], &[a, b, a]), [a, a]);
        // A bit without siginfo that was written goes, and one that was there stays.
        let bare = |signo: i32| Pending {
            bits: SigNo::new(signo).into_iter().collect(),
            queue: Vec::new(),
        };
        assert_eq!(
            undone(&pending(&[]), &bare(34), &bare(34)).bits,
            SigSet::EMPTY
        );
        assert_eq!(undone(&bare(34), &bare(35), &bare(35)), bare(34));
    }
}
