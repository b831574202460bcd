//! One module per kind of signal state, with its capture from a stopped process and its replay.

mod altstack;
pub(crate) mod asleep;
pub(crate) mod cpu_clocks;
pub(crate) mod cpu_limit;
mod dispositions;
pub(crate) mod dropped;
pub(crate) mod in_handler;
pub(crate) mod interrupted;
pub(crate) mod itimers;
mod limits;
pub(crate) mod mask;
pub(crate) mod overruns;
pub(crate) mod owners;
mod parent_death;
pub(crate) mod queues;
pub(crate) mod restart_block;
mod run_state;
pub(crate) mod timerfds;
pub(crate) mod timers;

pub use altstack::AlternateStack;
pub use dispositions::SignalDispositions;
pub use interrupted::InterruptedSystemCall;
pub use limits::PendingLimit;
pub use mask::SignalMask;
pub use parent_death::ParentDeathSignal;
pub use queues::{PrivateQueue, Queue, SharedQueue};
pub use run_state::GroupStop;
pub use timers::PosixTimers;

use std::fmt;
use std::time::Duration;

use criu_signals_images::{Pid, Tid};

use crate::error::{Cause, Error, Result};
use crate::tracee::Injector;

/// How long a timer that is set to the past may take to expire. The interrupt comes at once, but a machine may be busy.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where state is: in one thread of a stopped process. What belongs to the whole process is reached through its
/// leader.
pub struct Site<'s, 'p, Owner> {
    /// Makes system calls there.
    pub injector: &'s mut Injector<'p, Owner>,
    /// The thread.
    pub tid: Tid,
}

impl<Owner> Site<'_, '_, Owner> {
    /// The process.
    pub fn pid(&self) -> Pid {
        self.injector.process().pid()
    }
}

/// A kind of signal state: both directions, so that nothing is captured that cannot be put back.
pub trait Kind {
    /// Its name in messages.
    const NAME: &'static str;

    /// The state that is captured and put back.
    type State: PartialEq;

    /// Reads the state.
    ///
    /// # Errors
    /// If the state cannot be read. Never an empty state instead.
    fn capture<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<Self::State>;

    /// Puts `wanted` in the place of what is there.
    ///
    /// # Errors
    /// If the kernel refuses the state. See [`put_back`] for state that the kernel accepts and does not keep.
    fn replay<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &Self::State) -> Result<()>;

    /// Does the process have the state `wanted`?
    ///
    /// # Errors
    /// Those of [`Kind::capture`].
    fn holds<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &Self::State) -> Result<bool> {
        Ok(Self::capture(site)? == *wanted)
    }

    /// Does the process have the state `wanted`, which was just put back? Signals that others have sent meanwhile do not
    /// count.
    ///
    /// # Errors
    /// Those of [`Kind::holds`].
    fn has_kept<Owner>(site: &mut Site<'_, '_, Owner>, wanted: &Self::State) -> Result<bool> {
        Self::holds(site, wanted)
    }
}

/// What was done about a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The state was put back, and reads back as captured.
    PutBack,
    /// The difference was left alone, as asked for.
    LeftAlone,
    /// The state could not be put back.
    NotPutBack,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Done::PutBack => "put back",
            Done::LeftAlone => "left alone",
            Done::NotPutBack => "NOT put back",
        })
    }
}

/// State that was given up, because it excludes other state or cannot exist on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The overruns of a delivery, for an entry that is pending.
    Overruns,
    /// The SIGIO owner of a file.
    Owner,
    /// The number of a deleted timer, in the entry that it has left.
    DeletedTimer,
    /// The processor time that was used, if it is limited.
    CpuTime,
}

/// As many outcomes as there were calls.
pub(crate) fn exactly<T, const N: usize>(outcomes: Vec<T>) -> Result<[T; N]> {
    outcomes.try_into().map_err(|_| {
        Error::new(
            "batch",
            Cause::Unexpected("the number of results differs from the number of calls".into()),
        )
    })
}

/// Puts `wanted` back unless the process has that state already, and reads it back: a system call that returns 0 is no
/// proof (`__send_signal_locked` and `restore_altstack` can drop their arguments without an error).
///
/// Returns whether anything had to be done.
///
/// # Errors
/// [`Cause::NotKept`] if the kernel accepted the state and shows another.
pub fn put_back<K: Kind, Owner>(site: &mut Site<'_, '_, Owner>, wanted: &K::State) -> Result<bool> {
    put_back_by::<K, _>(site, wanted, |site| K::replay(site, wanted))
}

/// As [`put_back`], by `replay`.
fn put_back_by<K: Kind, Owner>(
    site: &mut Site<'_, '_, Owner>,
    wanted: &K::State,
    replay: impl FnOnce(&mut Site<'_, '_, Owner>) -> Result<()>,
) -> Result<bool> {
    let tid = site.tid;
    let inner = |site: &mut Site<'_, '_, Owner>| {
        if K::holds(site, wanted)? {
            return Ok(false);
        }
        replay(site)?;
        if K::has_kept(site, wanted)? {
            Ok(true)
        } else {
            Err(Error::new(
                format!("put back {}", K::NAME),
                Cause::NotKept("the kernel accepted the value but returns another value".into()),
            ))
        }
    };
    inner(site).map_err(|e| e.in_thread(tid))
}
