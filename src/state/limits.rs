//! RLIMIT_SIGPENDING, against which queued siginfos are counted.

use criu_signals_images::Rlimit;

use super::{Kind, Site};
use crate::error::Result;
use crate::proc;
use crate::tracee::rlimit;

/// How many siginfos may be queued.
#[derive(Debug)]
pub enum PendingLimit {}

impl Kind for PendingLimit {
    const NAME: &'static str = "RLIMIT_SIGPENDING";
    type State = Rlimit;

    fn capture<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<Rlimit> {
        proc::rlimit_sigpending(site.pid())
    }

    fn replay<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &Rlimit) -> Result<()> {
        rlimit::set_sigpending(site.pid(), *wanted)
    }
}

impl PendingLimit {
    /// Makes as much room as may be made: no limit where CAP_SYS_RESOURCE allows that, else the hard limit.
    ///
    /// # Errors
    /// If not even the soft limit may be raised.
    pub fn raise<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<()> {
        let hard = Self::capture(site)?.hard;
        let no_limit = Rlimit {
            soft: Rlimit::INFINITY,
            hard: Rlimit::INFINITY,
        };
        rlimit::set_sigpending(site.pid(), no_limit)
            .or_else(|_| rlimit::set_sigpending(site.pid(), Rlimit { soft: hard, hard }))
    }

    /// Leaves no room at all, so that a signal which is queued leaves its bit and no siginfo.
    ///
    /// # Errors
    /// If the limit may not be set.
    pub fn close<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<()> {
        let hard = Self::capture(site)?.hard;
        rlimit::set_sigpending(site.pid(), Rlimit { soft: 0, hard })
    }
}
