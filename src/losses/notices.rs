//! Notices: messages about state that a run cannot preserve, logged where they are found and counted in a summary at
//! the end.

use std::collections::BTreeMap;
use std::fmt;

use crate::engine::repair::Lost;
use crate::error::{Cause, Error, Result};
use crate::run_report::{self, Level};
use crate::setting_names::REFUSE;

/// A kind of notice: state that cannot be preserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// A parent-death signal of a process whose parent is another one after a restore.
    ParentDeathSignal,
    /// An exit signal other than SIGCHLD.
    ExitSignal,
    /// An alternate stack on which this machine's signal frames do not fit.
    SmallStack,
    /// A system call that begins anew with its whole timeout.
    WholeTimeout,
    /// How often a timer has expired while its signal was pending, or ignored.
    Overruns,
    /// A timer that becomes another one.
    Timer,
    /// Whom the SIGIO of a file goes to.
    Owner,
    /// A limit of CPU time, which begins anew.
    CpuLimit,
    /// How a process ended that was not waited for.
    ExitStatus,
    /// The mask of a system call, where that matters for a pending signal.
    CallMask,
    /// A system call that ends with EINTR.
    CallEintr,
    /// Images from another kernel or processor. Nothing is lost, so this is always information and never a warning.
    Machine,
}

impl fmt::Display for Notice {
    /// As [`REFUSE`] names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Notice::ParentDeathSignal => "pdeathsig",
            Notice::ExitSignal => "exit-signal",
            Notice::SmallStack => "altstack",
            Notice::WholeTimeout => "timeout",
            Notice::Overruns => "overrun",
            Notice::Timer => "timer",
            Notice::Owner => "owner",
            Notice::CpuLimit => "cpu-limit",
            Notice::ExitStatus => "exit-status",
            Notice::CallMask => "call-mask",
            Notice::CallEintr => "call-eintr",
            Notice::Machine => "machine",
        })
    }
}

impl From<Lost> for Notice {
    fn from(lost: Lost) -> Notice {
        match lost {
            Lost::Overruns => Notice::Overruns,
            Lost::Owner => Notice::Owner,
            Lost::DeletedTimer => Notice::Timer,
            Lost::CpuTime => Notice::CpuLimit,
        }
    }
}

impl Notice {
    /// Those that can be refused.
    pub const REFUSABLE: [Notice; 11] = [
        Notice::ParentDeathSignal,
        Notice::ExitSignal,
        Notice::SmallStack,
        Notice::WholeTimeout,
        Notice::Overruns,
        Notice::Timer,
        Notice::Owner,
        Notice::CpuLimit,
        Notice::ExitStatus,
        Notice::CallMask,
        Notice::CallEintr,
    ];
}

/// One thing to say at a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saying {
    /// Of which kind.
    pub notice: Notice,
    /// What will not be as it was.
    pub what: String,
    /// What the user can do about it.
    pub advice: &'static str,
}

/// The kinds of notice that make a run fail: `altstack` a restore, before anything is restored, as the policy `strict` does;
/// the others a dump, after which the tasks run on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refuse(Vec<Notice>);

impl Refuse {
    /// Those of this kind fail.
    pub fn new(notices: Vec<Notice>) -> Refuse {
        Refuse(notices)
    }

    /// Does a notice of this kind make the run fail?
    pub fn includes(&self, notice: Notice) -> bool {
        self.0.contains(&notice)
    }

    /// Lets `saying` pass unless its kind makes the run fail.
    fn check(&self, saying: &Saying) -> Result<()> {
        let Saying {
            notice,
            what,
            advice,
        } = saying;
        if !self.includes(*notice) {
            return Ok(());
        }
        let refused = format!("refused, because {REFUSE} lists {notice}. Otherwise: {advice}");
        Err(Error::new(what.clone(), Cause::Unsupported(refused.into())))
    }
}

/// What has been said so far.
#[derive(Debug, Default)]
pub struct Notices {
    counts: BTreeMap<Notice, usize>,
    noted: BTreeMap<Notice, usize>,
    /// Not yet in the report.
    said: Vec<run_report::Notice>,
}

impl Notices {
    /// Says it, as a warning.
    pub fn say(&mut self, notice: Notice, what: &str) {
        *self.counts.entry(notice).or_default() += 1;
        log::warn!("{what}");
        self.keep(notice, Level::Warning, what);
    }

    /// Says at a dump what can't be kept, or fails if that is to be refused.
    ///
    /// # Errors
    /// The first that is to be refused.
    pub fn say_or_refuse(
        &mut self,
        refuse: &Refuse,
        sayings: impl IntoIterator<Item = Saying>,
    ) -> Result<()> {
        for saying in sayings {
            refuse.check(&saying)?;
            let Saying {
                notice,
                what,
                advice,
            } = saying;
            let what = format!(
                "{what}. What to do: {advice}; or set {REFUSE}={notice} to make such a dump fail"
            );
            self.say(notice, &what);
        }
        Ok(())
    }

    /// As [`say_or_refuse`](Self::say_or_refuse), of what is kept in most cases: information, unless it is to be refused.
    ///
    /// # Errors
    /// If it is to be refused.
    pub fn note_or_refuse(&mut self, refuse: &Refuse, saying: &Saying) -> Result<()> {
        refuse.check(saying)?;
        self.note(saying.notice, &saying.what);
        Ok(())
    }

    /// Says what nobody has to act on. It does not count as something that was not kept.
    pub fn note(&mut self, notice: Notice, what: &str) {
        *self.noted.entry(notice).or_default() += 1;
        log::info!("{what}");
        self.keep(notice, Level::Info, what);
    }

    fn keep(&mut self, notice: Notice, level: Level, what: &str) {
        self.said.push(run_report::Notice {
            kind: notice.to_string(),
            level,
            text: what.to_owned(),
        });
    }

    /// What was said since this was asked last, for the report.
    pub fn take_said(&mut self) -> Vec<run_report::Notice> {
        std::mem::take(&mut self.said)
    }

    /// The level of the line that counts them; `None` if there is nothing to count.
    pub fn level(&self) -> Option<log::Level> {
        match (self.counts.is_empty(), self.noted.is_empty()) {
            (false, _) => Some(log::Level::Warn),
            (_, false) => Some(log::Level::Info),
            _ => None,
        }
    }
}

impl fmt::Display for Notices {
    /// `nothing`, `pdeathsig=1 exit-signal=2`, `nothing; noted: timeout=1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |counts: &BTreeMap<Notice, usize>| {
            let counts = counts.iter().map(|(n, c)| format!("{n}={c}"));
            counts.collect::<Vec<_>>().join(" ")
        };
        if self.counts.is_empty() {
            f.write_str("nothing")?;
        } else {
            f.write_str(&list(&self.counts))?;
        }
        if !self.noted.is_empty() {
            write!(f, "; noted: {}", list(&self.noted))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_counted() {
        let mut notices = Notices::default();
        assert_eq!(notices.to_string(), "nothing");
        notices.say(Notice::ExitSignal, "one");
        notices.say(Notice::ParentDeathSignal, "two");
        notices.say(Notice::ExitSignal, "three");
        notices.note(Notice::Machine, "four");
        assert_eq!(
            notices.to_string(),
            "pdeathsig=1 exit-signal=2; noted: machine=1"
        );
        assert_eq!(notices.level(), Some(log::Level::Warn));
        let said: Vec<String> = notices.take_said().into_iter().map(|n| n.text).collect();
        assert_eq!(said, ["one", "two", "three", "four"]);
        assert!(notices.take_said().is_empty());
        assert_eq!(notices.level(), Some(log::Level::Warn));
    }

    #[test]
    fn notes_alone_are_counted_quietly() {
        let mut notices = Notices::default();
        assert_eq!(notices.level(), None);
        notices.note(Notice::WholeTimeout, "one");
        assert_eq!(notices.to_string(), "nothing; noted: timeout=1");
        assert_eq!(notices.level(), Some(log::Level::Info));
    }
}
