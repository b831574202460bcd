//! Whether a thread is executing a signal handler. The mask of a handler is temporary: its return restores the mask in
//! the signal frame on the thread's stack (setup_rt_frame, arch/x86/kernel/signal_64.c). In a thread without such a
//! frame, the mask of a handler would stay in force for good.
//!
//! The kernel does not tell, so this module searches the stack for a frame: the return address of a handler, followed
//! by two copies of a mask that is a subset of the mask in force. Old frames may remain on a stack, so a frame counts
//! only if its handler would have the mask in force. Threads whose mask matches no handler are not searched.

use criu_signals_images::{Disposition, Dispositions, SigNo, SigSet, ThreadState};

use crate::arch::{HandlerFrame, Registers};
use crate::tracee::{Memory, RemoteAddr};

const SA_SIGINFO: u64 = 0x4;
const SA_NODEFER: u64 = 0x4000_0000;
/// How far above the stack pointer a frame is searched for: the space that a handler and the functions that it calls may
/// take.
const DEPTH: usize = 256 * 1024;
const PAGE: usize = 4096;

/// The signals that the handler of `signo` has blocked, besides those blocked before.
fn blocked_by(signo: SigNo, disposition: &Disposition) -> SigSet {
    if disposition.flags & SA_NODEFER != 0 {
        disposition.mask
    } else {
        disposition.mask.union(signo.into())
    }
    .difference([SigNo::KILL, SigNo::STOP].into_iter().collect())
}

fn handlers(dispositions: &Dispositions) -> impl Iterator<Item = (SigNo, &Disposition)> {
    let is_handler = |d: &Disposition| !d.is_default_handler() && !d.is_ignored();
    dispositions.iter().filter(move |(_, d)| is_handler(d))
}

/// Has the thread a mask that a handler would have, so that its stack has to be looked at?
pub(crate) fn may_be(thread: &ThreadState, dispositions: &Dispositions) -> bool {
    let mask = thread.lasting_mask();
    handlers(dispositions).any(|(signo, disposition)| {
        let own = blocked_by(signo, disposition);
        !own.is_empty() && own.difference(mask).is_empty()
    })
}

/// The signal whose handler the thread executes, if the return of the handler changes the mask.
pub(crate) fn find(
    thread: &ThreadState,
    dispositions: &Dispositions,
    registers: &Registers,
    memory: &Memory,
) -> Option<SigNo> {
    let mask = thread.lasting_mask();
    if !may_be(thread, dispositions) {
        return None;
    }
    let word = if registers.is_compat() { 4 } else { 8 };
    let start = registers.sp().next_multiple_of(word);
    let mut stack = Vec::new();
    let mut at = 0;
    while at + HandlerFrame::SIZE <= DEPTH {
        if stack.len() < at + HandlerFrame::SIZE {
            // Up to the end of a present page; no page is fetched from a server.
            let next = RemoteAddr(start).offset(stack.len());
            let page = PAGE as u64;
            let len = usize::try_from(page - next.0 % page).unwrap_or(PAGE);
            let mut more = vec![0; len];
            memory.read_program(next, &mut more).ok()?;
            stack.extend(more);
            continue;
        }
        let frame = HandlerFrame::at(&stack[at..], start + at as u64, registers.is_compat());
        if let Some(signo) = frame.and_then(|frame| whose(&frame, mask, dispositions)) {
            return Some(signo);
        }
        at += usize::try_from(word).unwrap_or(8);
    }
    None
}

/// Whose frame it is, if the mask in force is that of a handler on it.
fn whose(frame: &HandlerFrame, mask: SigSet, dispositions: &Dispositions) -> Option<SigNo> {
    let before = SigSet::from_bits(frame.mask);
    if before == mask || !before.difference(mask).is_empty() {
        return None;
    }
    let fits = |(signo, d): &(SigNo, &Disposition)| {
        let own = blocked_by(*signo, d);
        // A handler without a siginfo leaves none on the frame.
        let numbered = d.flags & SA_SIGINFO == 0 || frame.signo == signo.get();
        let returns = frame.restorer.is_none_or(|at| at == d.restorer);
        numbered && returns && !own.is_empty() && own.difference(mask).is_empty()
    };
    let exact = |(signo, d): &(SigNo, &Disposition)| before.union(blocked_by(*signo, d)) == mask;
    let candidates = || handlers(dispositions).filter(fits);
    let found = candidates().find(exact).or_else(|| candidates().next());
    found.map(|(signo, _)| signo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_whose_mask_is_in_force() {
        let mut dispositions = Dispositions::default();
        dispositions[SigNo::USR1] = Disposition {
            handler: 0x40_1000,
            flags: 0x0400_0000,
            restorer: 0x40_2000,
            mask: SigNo::INT.into(),
        };
        let frame = HandlerFrame {
            restorer: Some(0x40_2000),
            mask: SigSet::from(SigNo::HUP).bits(),
            signo: 0,
        };
        let set = |signals: &[SigNo]| signals.iter().copied().collect::<SigSet>();
        let of = |signals: &[SigNo]| whose(&frame, set(signals), &dispositions);
        assert_eq!(
            of(&[SigNo::HUP, SigNo::USR1, SigNo::INT]),
            Some(SigNo::USR1)
        );
        assert_eq!(of(&[SigNo::HUP]), None, "the handler has returned");
        assert_eq!(
            of(&[SigNo::USR1, SigNo::INT]),
            None,
            "HUP was blocked before"
        );
        let elsewhere = HandlerFrame {
            restorer: Some(0x40_3000),
            ..frame
        };
        assert_eq!(
            whose(
                &elsewhere,
                set(&[SigNo::HUP, SigNo::USR1, SigNo::INT]),
                &dispositions
            ),
            None
        );
    }
}
