//! RLIMIT_SIGPENDING, the limit on queued siginfos.
//!
//! Set by the process itself wherever the hard limit is not raised: from outside it takes CAP_SYS_RESOURCE to set those of a
//! process of another user (check_prlimit_permission, kernel/sys.c), and a tracer can have all rights but that.

use criu_signals_images::{Pid, Rlimit};

use super::{Kind, Site};
use crate::error::Result;
use crate::proc::SignalStatus;
use crate::tracee::{Call, rlimit};

/// Siginfos that may arrive meanwhile.
const ARRIVALS: u64 = 64;

/// The number as a register holds it; C libraries give it different types.
const SIGPENDING: u64 = libc::RLIMIT_SIGPENDING as u64;

/// How many siginfos may be queued.
#[derive(Debug)]
pub enum PendingLimit {}

impl Kind for PendingLimit {
    const NAME: &'static str = "RLIMIT_SIGPENDING";
    type State = Rlimit;

    fn capture<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<Rlimit> {
        rlimit::sigpending(site.pid())
    }

    fn replay<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &Rlimit) -> Result<()> {
        if wanted.hard > Self::capture(site)?.hard {
            // The process itself may have a right that the caller lacks.
            return rlimit::set_sigpending(site.pid(), *wanted)
                .or_else(|e| Self::set_inside(site, *wanted).map_err(|_| e));
        }
        Self::set_inside(site, *wanted)
    }
}

impl PendingLimit {
    /// Makes room for `more` siginfos beside the queued ones: up to the hard limit, and beyond with CAP_SYS_RESOURCE.
    ///
    /// # Errors
    /// If not even the soft limit may be raised.
    pub fn raise<Owner>(site: &mut Site<'_, '_, Owner>, more: u64) -> Result<()> {
        let limit = Self::capture(site)?;
        let queued = SignalStatus::read(site.pid(), site.tid)?.queued;
        let needed = queued.saturating_add(more).saturating_add(ARRIVALS);
        if needed <= limit.soft {
            return Ok(());
        }
        let no_limit = Rlimit {
            soft: Rlimit::INFINITY,
            hard: Rlimit::INFINITY,
        };
        if needed > limit.hard && rlimit::set_sigpending(site.pid(), no_limit).is_ok() {
            return Ok(());
        }
        if limit.soft == limit.hard {
            return Ok(());
        }
        Self::set_inside(
            site,
            Rlimit {
                soft: limit.hard,
                ..limit
            },
        )
    }

    /// Can the process set its limit? Sets the present limit again.
    ///
    /// # Errors
    /// If not: then steps that need another limit for a moment cannot be done.
    pub fn try_out<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<()> {
        let limit = Self::capture(site)?;
        Self::set_inside(site, limit)
    }

    /// Sets the limit of a process in which no call can be made.
    ///
    /// # Errors
    /// EPERM: what the kernel lets a process do to itself, a caller with other credentials may not do to it.
    pub fn from_outside(pid: Pid, wanted: Rlimit) -> Result<()> {
        if rlimit::sigpending(pid)? == wanted {
            return Ok(());
        }
        rlimit::set_sigpending(pid, wanted)
    }

    fn set_inside<Owner>(site: &mut Site<'_, '_, Owner>, limit: Rlimit) -> Result<()> {
        for outcome in site.injector.run(site.tid, &[Self::call(limit)])? {
            outcome.check()?;
        }
        Ok(())
    }

    /// By which a process sets its own.
    pub(super) fn call(limit: Rlimit) -> Call {
        Call::new(
            libc::SYS_prlimit64,
            format!("prlimit(RLIMIT_SIGPENDING, {limit})"),
        )
        .value(0)
        .value(SIGPENDING)
        .input([limit.soft, limit.hard].map(u64::to_le_bytes).concat())
        .value(0)
    }
}
