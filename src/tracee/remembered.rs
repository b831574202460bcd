//! Remembers the registers of stopped threads, so that each stop costs one read of them.
//!
//! Only its tracer changes the registers of a thread in a ptrace stop, and the tracer is the calling thread. Many steps of a
//! capture and of a replay ask for the registers, one step after the other. While a [`Remembered`] is held,
//! [`super::ptrace`] answers with the registers that were read last, until it sets other registers, lets the thread go on,
//! or hears of the thread by waitpid(2).
//!
//! A thread can be killed meanwhile. Its registers are then those that it had, and the next request to the kernel fails with
//! ESRCH.
//!
//! A forked child inherits the memory of its parent but not the parent's tracees. So what is remembered is bound to the
//! process that has read it, and is worth nothing in another.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::mem::ManuallyDrop;

use criu_signals_images::{Pid, Tid};

use crate::arch::Registers;

/// Registers by thread, and the process that has read them.
#[derive(Debug)]
struct Known {
    reader: Pid,
    registers: BTreeMap<Tid, Registers>,
}

thread_local! {
    /// `None`: no [`Remembered`] is held. Without a destructor, which would keep a plugin from being unloaded; the
    /// [`Remembered`] frees the content.
    static KNOWN: ManuallyDrop<RefCell<Option<Known>>> = const { ManuallyDrop::new(RefCell::new(None)) };
}

/// While this is held, registers are read once for each stop. To be held only while nobody but this crate works on the
/// threads: inside one hook, not between two hooks.
#[derive(Debug)]
pub struct Remembered {
    outermost: bool,
}

impl Remembered {
    /// Begins to remember.
    #[must_use]
    pub fn begin() -> Remembered {
        let outermost = with_own(|_| ()).is_none();
        if outermost {
            KNOWN.with(|known| {
                *known.borrow_mut() = Some(Known {
                    reader: Pid::own(),
                    registers: BTreeMap::new(),
                });
            });
        }
        Remembered { outermost }
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        if self.outermost {
            KNOWN.with(|known| known.borrow_mut().take());
        }
    }
}

/// `None` if nothing is remembered, or another process has read it.
fn with_own<T>(work: impl FnOnce(&mut BTreeMap<Tid, Registers>) -> T) -> Option<T> {
    KNOWN.with(|known| match &mut *known.borrow_mut() {
        Some(known) if known.reader == Pid::own() => Some(work(&mut known.registers)),
        _ => None,
    })
}

pub(super) fn known(tid: Tid) -> Option<Registers> {
    with_own(|known| known.get(&tid).copied())?
}

pub(super) fn keep(tid: Tid, registers: &Registers) {
    with_own(|known| known.insert(tid, *registers));
}

/// The thread is about to have other registers.
pub(super) fn forget(tid: Tid) {
    with_own(|known| known.remove(&tid));
}

#[cfg(all(test, feature = "bpf"))]
mod tests {
    use super::*;
    use crate::arch::PT_REGS_WORDS;

    fn this_thread() -> (Tid, Registers) {
        let tid = Tid::new(nix::unistd::gettid().as_raw()).unwrap();
        (tid, Registers::on_kernel_stack(&[7; PT_REGS_WORDS]))
    }

    /// A child has what its parent remembered at the fork.
    #[test]
    fn what_another_process_has_read_is_worth_nothing() {
        let (tid, registers) = this_thread();
        let _remembered = Remembered::begin();
        keep(tid, &registers);
        KNOWN.with(|known| {
            known.borrow_mut().as_mut().unwrap().reader = Pid::new(1).unwrap();
        });
        assert!(known(tid).is_none());
        let _own = Remembered::begin();
        assert!(known(tid).is_none());
        keep(tid, &registers);
        assert_eq!(known(tid), Some(registers));
    }
}
