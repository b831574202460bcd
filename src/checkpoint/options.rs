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
    /// Whether signals may be taken out of a process for the duration of a dump.
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
            // tini, node and many other programs wait for a second, again and again, others for five or ten seconds. A
            // delay of that length rarely matters.
            long_timeout: Duration::from_secs(10),
            take_out: TakeOut::default(),
            limits: Limits::default(),
            overruns: Overruns::default(),
            max_siginfos: None,
        }
    }
}

/// What a restore does about a difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The difference is put back. If that fails, the log has an error, and the restore goes on.
    #[default]
    Repair,
    /// The difference is put back. If that fails, or if an image is missing or unreadable, the restore fails.
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

/// Whether signals that CRIU cannot handle may be taken out of a process for the duration of a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TakeOut {
    /// If CRIU makes sure that the restore is done with this plugin: from 4.1 on.
    #[default]
    Auto,
    /// Even if a restore without this plugin would lose them.
    Always,
    /// Never: signals that CRIU cannot handle are left to CRIU.
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
    /// The dump counts them: the timer's entry is taken out of its queue and brought back; see `state/overruns.rs`.
    #[default]
    Count,
    /// The overruns begin at 0 after a restore.
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
