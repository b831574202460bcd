//! The parent-death signal: PR_GET_PDEATHSIG and PR_SET_PDEATHSIG of prctl(2), which only the thread itself can call.
//!
//! The kernel sends the signal when the thread that made this process ends, and again when every later parent ends
//! (reparent_leader and forget_original_parent, kernel/exit.c).

use criu_signals_images::SigNo;

use super::{Kind, Site};
use crate::error::{Cause, Error, Result};
use crate::tracee::{Call, Outcome};

/// The signal that a thread's process gets when the thread's parent ends.
#[derive(Debug)]
pub enum ParentDeathSignal {}

impl ParentDeathSignal {
    /// The call that reads the signal.
    pub(crate) fn read() -> Call {
        Call::new(libc::SYS_prctl, "prctl(PR_GET_PDEATHSIG)")
            .value(u64::from(libc::PR_GET_PDEATHSIG.cast_unsigned()))
            .output(size_of::<libc::c_int>())
    }

    /// The result of that call.
    pub(crate) fn from_outcome(outcome: &Outcome) -> Result<Option<SigNo>> {
        outcome.check()?;
        let number = outcome.output.as_slice().try_into().map(i32::from_le_bytes);
        match number {
            Ok(0) => Ok(None),
            Ok(number) if SigNo::new(number).is_some() => Ok(SigNo::new(number)),
            other => Err(Error::new(
                "prctl(PR_GET_PDEATHSIG)",
                Cause::Unexpected(format!("{other:?} is not a signal number")),
            )),
        }
    }
}

impl Kind for ParentDeathSignal {
    const NAME: &'static str = "parent-death signal";
    type State = Option<SigNo>;

    fn capture<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<Option<SigNo>> {
        let outcomes = site.injector.run(site.tid, &[Self::read()])?;
        let [outcome] = super::exactly(outcomes)?;
        Self::from_outcome(&outcome)
    }

    fn replay<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &Option<SigNo>) -> Result<()> {
        let number = wanted.map_or(0, SigNo::get);
        let call = Call::new(
            libc::SYS_prctl,
            format!("prctl(PR_SET_PDEATHSIG, {number})"),
        )
        .value(u64::from(libc::PR_SET_PDEATHSIG.cast_unsigned()))
        .value(u64::from(number.cast_unsigned()));
        let [outcome] = super::exactly(site.injector.run(site.tid, &[call])?)?;
        outcome.check().map(drop)
    }
}
