//! Dispositions: rt_sigaction(2) of all 64 numbers, in one batch.

use criu_signals_images::{Disposition, Dispositions, SigNo};

use super::{Kind, Site};
use crate::error::{Cause, Error, Result};
use crate::tracee::Call;

/// What the process does on each signal.
#[derive(Debug)]
pub enum SignalDispositions {}

/// `sizeof(sigset_t)` in the kernel.
const SIGSET_SIZE: u64 = 8;

impl Kind for SignalDispositions {
    const NAME: &'static str = "dispositions";
    type State = Dispositions;

    fn capture<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<Dispositions> {
        let calls: Vec<Call> = SigNo::all()
            .map(|signo| {
                Call::new(
                    libc::SYS_rt_sigaction,
                    format!("rt_sigaction({signo}, read)"),
                )
                .value(u64::from(signo.get().cast_unsigned()))
                .value(0)
                .output(Disposition::KERNEL_SIZE)
                .value(SIGSET_SIZE)
            })
            .collect();
        let outcomes = site.injector.run(site.tid, &calls)?;
        let mut dispositions = Dispositions::default();
        for (signo, outcome) in SigNo::all().zip(&outcomes) {
            outcome.check()?;
            dispositions[signo] = outcome
                .output
                .as_slice()
                .try_into()
                .map(Disposition::from_kernel_bytes)
                .map_err(|_| {
                    Error::new("rt_sigaction", Cause::Unexpected("not a sigaction".into()))
                })?;
        }
        Ok(dispositions)
    }

    /// Sets those that differ. The kernel flushes pending signals that become ignored (do_sigaction): queues
    /// are put back after this.
    fn replay<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &Dispositions) -> Result<()> {
        let found = Self::capture(site)?;
        let calls: Vec<Call> = wanted
            .iter()
            .filter(|&(signo, disposition)| found[signo] != *disposition)
            .map(|(signo, disposition)| {
                Call::new(libc::SYS_rt_sigaction, format!("rt_sigaction({signo})"))
                    .value(u64::from(signo.get().cast_unsigned()))
                    .input(disposition.to_kernel_bytes())
                    .value(0)
                    .value(SIGSET_SIZE)
            })
            .collect();
        if !calls.is_empty() && site.injector.process().is_compat()? {
            // By a 64-bit system call the kernel would clear SA_IA32_ABI, and the handlers would be given
            // 64-bit frames (arch/x86/kernel/signal_compat.c).
            return Err(Error::new(
                "rt_sigaction",
                Cause::Unsupported("a 32-bit task's dispositions".into()),
            ));
        }
        site.injector
            .run(site.tid, &calls)?
            .iter()
            .try_for_each(|outcome| outcome.check().map(drop))
    }
}
