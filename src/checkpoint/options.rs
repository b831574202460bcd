//! Options of a dump and of a restore. The plugin reads them from its settings.

use std::fmt;
use std::time::Duration;

use crate::checkpoint::custody::Limits;
use crate::losses::notices::Refuse;

/// All options of a dump or a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What happens to differences.
    pub policy: Policy,
    /// What makes the run fail instead of being a warning.
    pub refuse: Refuse,
    /// A timeout that begins anew and is longer than this is a warning; a shorter one is a note.
    pub long_timeout: Duration,
    /// Whether signals may be taken out of a process for the time of a dump.
    pub take_out: TakeOut,
    /// When signals are taken out.
    pub limits: Limits,
    /// Whether a dump counts the overruns of pending timers.
    pub overruns: Overruns,
    /// How many siginfos and POSIX timers all images of a restore may hold; `None`: as many as this machine's processes
    /// can have.
    pub max_siginfos: Option<u64>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            policy: Policy::default(),
            refuse: Refuse::default(),
            // tini, node and many more wait for just a second, again and again, others for five or ten. Nobody acts on
            // what is late by so little.
            long_timeout: Duration::from_secs(10),
            take_out: TakeOut::default(),
            limits: Limits::default(),
            overruns: Overruns::default(),
            max_siginfos: None,
        }
    }
}

/// What happens to a difference that a restore shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// It is put back. What can't be put back is an error in the log, and the restore goes on.
    #[default]
    Repair,
    /// It is put back. What can't be put back, or an image that is missing or unreadable, makes the restore fail.
    Strict,
    /// The difference is logged, and nothing is changed.
    Report,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Policy::Repair => "repair",
            Policy::Strict => "strict",
            Policy::Report => "report",
        })
    }
}

/// Whether signals may be taken out of a process for the time of a dump, where CRIU cannot cope with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TakeOut {
    /// If CRIU makes sure that the restore is done with this plugin: from 4.1 on.
    #[default]
    Auto,
    /// Even if a restore without this plugin would lose them.
    Always,
    /// Never: what CRIU cannot cope with is left to it.
    Never,
}

impl fmt::Display for TakeOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TakeOut::Auto => "auto",
            TakeOut::Always => "always",
            TakeOut::Never => "never",
        })
    }
}

/// Whether a dump counts how many overruns a pending timer stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overruns {
    /// It does, for which the timer's entry has to be taken out of its queue and brought back; see
    /// `state/overruns.rs`.
    #[default]
    Count,
    /// They begin at 0 after a restore.
    Leave,
}

impl fmt::Display for Overruns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Overruns::Count => "count",
            Overruns::Leave => "leave",
        })
    }
}
