//! Dispositions: rt_sigaction(2) of all 64 numbers, in one batch.
//!
//! Read by the 64-bit call in every task. It shows handler, flags, restorer and mask of a 32-bit task as they are,
//! in wider fields; only SA_IA32_ABI, which says that handlers are given 32-bit frames, is shown by no call.
//! Written by the call that the task itself would make: the kernel sets or clears SA_IA32_ABI by the kind of call,
//! whatever the flags say (sigaction_compat_abi, arch/x86/kernel/), and a 32-bit handler does not survive a 64-bit
//! frame.

use std::sync::Arc;

use criu_signals_images::{Disposition, Dispositions, SigNo};

use super::{Kind, Site};
use crate::arch::SYS32_RT_SIGACTION;
use crate::error::{Cause, Error, Result};
use crate::tracee::{Call, Outcome};

/// What the process does on each signal.
#[derive(Debug)]
pub enum SignalDispositions {}

/// `sizeof(sigset_t)` in the kernel.
const SIGSET_SIZE: u64 = 8;
/// `sizeof(struct compat_sigaction)`.
const COMPAT_SIZE: usize = 20;

impl SignalDispositions {
    /// The calls that read them.
    pub(crate) fn read() -> Vec<Call> {
        let name: Arc<str> = "rt_sigaction(read)".into();
        SigNo::all()
            .map(|signo| {
                Call::new(libc::SYS_rt_sigaction, name.clone())
                    .value(u64::from(signo.get().cast_unsigned()))
                    .value(0)
                    .output(Disposition::KERNEL_SIZE)
                    .value(SIGSET_SIZE)
            })
            .collect()
    }

    /// What those calls said.
    pub(crate) fn from_outcomes(outcomes: &[Outcome]) -> Result<Dispositions> {
        let mut dispositions = Dispositions::default();
        for (signo, outcome) in SigNo::all().zip(outcomes) {
            let operation = || format!("rt_sigaction({signo}, read)");
            if let Some(errno) = outcome.errno() {
                return Err(Error::os(operation(), errno));
            }
            dispositions[signo] = outcome
                .output
                .as_slice()
                .try_into()
                .map(Disposition::from_kernel_bytes)
                .map_err(|_| {
                    Error::new(operation(), Cause::Unexpected("not a sigaction".into()))
                })?;
        }
        Ok(dispositions)
    }
}

impl Kind for SignalDispositions {
    const NAME: &'static str = "dispositions";
    type State = Dispositions;

    fn capture<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<Dispositions> {
        let outcomes = site.injector.run(site.tid, &Self::read())?;
        Self::from_outcomes(&outcomes)
    }

    /// Sets those that differ. The kernel flushes pending signals that become ignored (do_sigaction): queues
    /// are put back after this.
    fn replay<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &Dispositions) -> Result<()> {
        let found = Self::capture(site)?;
        let compat = site.injector.process().is_compat()?;
        let calls = wanted
            .iter()
            .filter(|&(signo, disposition)| found[signo] != *disposition)
            .map(|(signo, disposition)| write(signo, disposition, compat))
            .collect::<Result<Vec<Call>>>()?;
        site.injector
            .run(site.tid, &calls)?
            .iter()
            .try_for_each(|outcome| outcome.check().map(drop))
    }
}

fn write(signo: SigNo, disposition: &Disposition, compat: bool) -> Result<Call> {
    let name = format!("rt_sigaction({signo})");
    let call = if compat {
        let bytes = to_compat_bytes(disposition).ok_or_else(|| {
            let what = format!("{disposition}: a 32-bit process cannot have this disposition");
            Error::new(name.clone(), Cause::Unexpected(what))
        })?;
        Call::compat(SYS32_RT_SIGACTION, name)
            .value(u64::from(signo.get().cast_unsigned()))
            .input(bytes)
    } else {
        Call::new(libc::SYS_rt_sigaction, name)
            .value(u64::from(signo.get().cast_unsigned()))
            .input(disposition.to_kernel_bytes())
    };
    Ok(call.value(0).value(SIGSET_SIZE).changing(signo))
}

/// `struct compat_sigaction` of linux/compat.h: `{ u32 handler, flags, restorer; u64 mask; }`, packed. `None` where
/// a field does not fit.
fn to_compat_bytes(disposition: &Disposition) -> Option<[u8; COMPAT_SIZE]> {
    let mut bytes = [0; COMPAT_SIZE];
    let narrow = [disposition.handler, disposition.flags, disposition.restorer];
    for (to, from) in bytes.as_chunks_mut().0.iter_mut().zip(narrow) {
        *to = u32::try_from(from).ok()?.to_le_bytes();
    }
    bytes[12..].copy_from_slice(&disposition.mask.bits().to_le_bytes());
    Some(bytes)
}

/// rt_sigaction(signo, disposition, NULL, 8), of the 64-bit table: of a number that is set back in the same batch.
pub(super) fn sigaction(signo: SigNo, disposition: &Disposition) -> Call {
    Call::new(libc::SYS_rt_sigaction, format!("rt_sigaction({signo})"))
        .value(u64::from(signo.get().cast_unsigned()))
        .input(disposition.to_kernel_bytes())
        .value(0)
        .value(SIGSET_SIZE)
        .changing(signo)
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_signals_images::SigSet;

    #[test]
    fn layout_is_that_of_compat_sigaction() {
        let disposition = Disposition {
            handler: 0x0804_9186,
            flags: 0x8c00_0004,
            restorer: 0xf7f3_a550,
            mask: SigSet::EMPTY.with(SigNo::HUP).with(SigNo::MAX),
        };
        let bytes = [
            0x86, 0x91, 0x04, 0x08, 0x04, 0, 0, 0x8c, 0x50, 0xa5, 0xf3, 0xf7, 1, 0, 0, 0, 0, 0, 0,
            0x80,
        ];
        assert_eq!(to_compat_bytes(&disposition), Some(bytes));
    }

    #[test]
    fn what_is_too_wide_is_not_cut_off() {
        let wide = Disposition {
            handler: 1 << 32,
            ..Disposition::DEFAULT
        };
        assert_eq!(to_compat_bytes(&wide), None);
        assert!(write(SigNo::USR1, &wide, true).is_err());
        assert!(write(SigNo::USR1, &wide, false).is_ok());
    }
}
