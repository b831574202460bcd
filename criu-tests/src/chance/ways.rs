//! What is done to a program between "ready" and GO.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use criu_signals::fault::Point;
use oorandom::Rand64;

use crate::chance::plan::Refused;

/// The kinds of ways, and how often each comes among a hundred or so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Dumped and restored.
    Restore,
    /// `criu dump --leave-running`.
    LeaveRunning,
    /// `criu dump --leave-stopped`, then SIGCONT.
    LeaveStopped,
    /// Dumped and restored, two times.
    Twice,
    /// Three times.
    Thrice,
    /// Left running, and at once dumped and restored.
    Again,
    /// A dump that criu refuses for a reason of its own.
    Refused,
    /// The plugin fails, or is killed with criu, at one of its fault points.
    Fault,
    /// criu is killed at some instant of a dump.
    KillCriu,
    /// criu is killed at some instant of a restore, which is then made once more.
    KillRestore,
    /// Whoever the plugin has started to look after the process is killed.
    KillGuardian,
    /// The command is killed, and the process that does its work.
    KillCommand,
    /// `criu-signals show`.
    Show,
    /// `criu-signals cat` of each file of each thread.
    Cat,
    /// `criu-signals dump`.
    CommandDump,
    /// `criu-signals dump`, then `verify`.
    Verify,
    /// `criu-signals dump`, then `restore` into the same processes.
    CommandRestore,
    /// `criu-signals write` of what `cat` has read.
    WriteBack,
}

impl Kind {
    /// All of them, with their names and weights.
    pub const ALL: &'static [(Kind, &'static str, u64)] = &[
        (Kind::Restore, "restore", 22),
        (Kind::LeaveRunning, "leave-running", 16),
        (Kind::LeaveStopped, "leave-stopped", 4),
        (Kind::Twice, "twice", 4),
        (Kind::Thrice, "thrice", 2),
        (Kind::Again, "again", 3),
        (Kind::Refused, "refused", 6),
        (Kind::Fault, "fault", 12),
        (Kind::KillCriu, "kill-criu", 6),
        (Kind::KillRestore, "kill-restore", 2),
        (Kind::KillGuardian, "kill-guardian", 3),
        (Kind::KillCommand, "kill-command", 4),
        (Kind::Show, "show", 3),
        (Kind::Cat, "cat", 2),
        (Kind::CommandDump, "command-dump", 2),
        (Kind::Verify, "verify", 3),
        (Kind::CommandRestore, "command-restore", 4),
        (Kind::WriteBack, "write-back", 4),
    ];

    /// Its name on the command line and in the table.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(kind, ..)| *kind == self)
            .map_or("?", |(_, name, _)| name)
    }

    /// Whether criu takes part, so that there is something to compare with: criu alone.
    pub fn has_criu(self) -> bool {
        !matches!(
            self,
            Kind::KillCommand
                | Kind::Show
                | Kind::Cat
                | Kind::CommandDump
                | Kind::Verify
                | Kind::CommandRestore
                | Kind::WriteBack
        )
    }

    /// Whether the program is restored from images.
    pub fn restores(self) -> bool {
        matches!(
            self,
            Kind::Restore
                | Kind::Twice
                | Kind::Thrice
                | Kind::Again
                | Kind::Fault
                | Kind::KillRestore
        )
    }

    /// One of these, as a seed wills.
    pub fn draw(random: &mut Rand64, among: &[Kind]) -> Option<Kind> {
        let rows = || Self::ALL.iter().filter(|(kind, ..)| among.contains(kind));
        let all: u64 = rows().map(|(.., weight)| weight).sum();
        let mut at = random.rand_range(0..all.max(1));
        rows()
            .find(|(.., weight)| {
                let found = at < *weight;
                at = at.saturating_sub(*weight);
                found
            })
            .map(|(kind, ..)| *kind)
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;
    fn from_str(name: &str) -> Result<Self> {
        let row = Self::ALL.iter().find(|(_, is, _)| *is == name);
        row.map(|(kind, ..)| *kind)
            .with_context(|| format!("{name:?} is no way"))
    }
}

/// What becomes of the work at a fault point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtPoint {
    /// It fails.
    Fail,
    /// Whoever does it is killed.
    Kill,
}

/// A way, with whatever chance has decided in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One in which there is nothing to decide.
    Plain(Kind),
    /// What criu refuses.
    Refused(Refused),
    /// Which point, what happens there, and at which passage.
    Fault(Point, AtPoint, u32),
    /// When somebody is killed: so long after it was started, or after it was seen.
    Kill(Kind, Duration),
}

/// criu's dumps and restores of these programs, and the command's work, are mostly over by then.
const SPAN_US: u64 = 60_000;
const GUARDIAN_SPAN_US: u64 = 20_000;
const COMMAND_SPAN_US: u64 = 15_000;

fn pick<T: Copy>(random: &mut Rand64, from: &[T]) -> T {
    let at = random.rand_range(0..from.len() as u64);
    from[usize::try_from(at).unwrap_or(0)]
}

impl Way {
    /// A way of this kind.
    pub fn draw(kind: Kind, random: &mut Rand64) -> Way {
        let mut until = |us: u64| Way::Kill(kind, Duration::from_micros(random.rand_range(0..us)));
        match kind {
            Kind::Refused => Way::Refused(pick(random, Refused::ALL)),
            Kind::Fault => {
                let point = pick(random, Point::ALL);
                let action = pick(random, &[AtPoint::Fail, AtPoint::Kill]);
                let passage = pick(random, &[1, 1, 1, 2, 3, 5, 20]);
                Way::Fault(point, action, passage)
            }
            Kind::KillCriu | Kind::KillRestore => until(SPAN_US),
            Kind::KillGuardian => until(GUARDIAN_SPAN_US),
            Kind::KillCommand => until(COMMAND_SPAN_US),
            _ => Way::Plain(kind),
        }
    }

    /// Its kind.
    pub fn kind(self) -> Kind {
        match self {
            Way::Plain(kind) | Way::Kill(kind, _) => kind,
            Way::Refused(_) => Kind::Refused,
            Way::Fault(..) => Kind::Fault,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind().name())?;
        match self {
            Way::Plain(_) => Ok(()),
            Way::Refused(what) => write!(f, ":{what}"),
            Way::Fault(point, action, passage) => {
                let action = match action {
                    AtPoint::Fail => "fail",
                    AtPoint::Kill => "kill",
                };
                write!(f, ":{}:{action}:{passage}", point.number())
            }
            Way::Kill(_, after) => write!(f, ":{}", after.as_micros()),
        }
    }
}

impl FromStr for Way {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split(':');
        let kind: Kind = words.next().unwrap_or_default().parse()?;
        let mut next = || words.next().with_context(|| format!("{text:?} is no way"));
        let way = match kind {
            Kind::Refused => Way::Refused(next()?.parse()?),
            Kind::Fault => {
                let number: u32 = next()?.parse().context("the fault point")?;
                let point = Point::ALL.iter().find(|point| point.number() == number);
                let action = match next()? {
                    "fail" => AtPoint::Fail,
                    "kill" => AtPoint::Kill,
                    other => bail!("{other:?} is nothing that happens at a fault point"),
                };
                let passage = next()?.parse().context("the passage")?;
                let point = *point.with_context(|| format!("no fault point {number}"))?;
                Way::Fault(point, action, passage)
            }
            Kind::KillCriu | Kind::KillRestore | Kind::KillGuardian | Kind::KillCommand => {
                let us = next()?.parse().context("microseconds")?;
                Way::Kill(kind, Duration::from_micros(us))
            }
            kind => Way::Plain(kind),
        };
        match words.next() {
            None => Ok(way),
            Some(word) => bail!("{text:?}: {word:?} is one word too many"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::generate::way_stream;

    #[test]
    fn every_kind_is_drawn_and_read() {
        let all: Vec<Kind> = Kind::ALL.iter().map(|(kind, ..)| *kind).collect();
        let mut seen = Vec::new();
        for seed in 0..3000 {
            let mut random = way_stream(seed);
            let kind = Kind::draw(&mut random, &all).unwrap();
            let way = Way::draw(kind, &mut random);
            assert_eq!(way.kind(), kind);
            assert_eq!(way.to_string().parse::<Way>().unwrap(), way);
            seen.push(kind);
        }
        assert!(all.iter().all(|kind| seen.contains(kind)));
        let mut random = way_stream(1);
        assert_eq!(Kind::draw(&mut random, &[]), None);
        assert_eq!(Kind::draw(&mut random, &[Kind::Cat]), Some(Kind::Cat));
    }

    #[test]
    fn what_is_no_way() {
        for bad in [
            "",
            "sing",
            "restore:1",
            "fault:1:fail",
            "fault:9999:fail:1",
            "kill-criu",
        ] {
            assert!(bad.parse::<Way>().is_err(), "{bad:?}");
        }
    }
}
