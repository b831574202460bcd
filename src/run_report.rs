//! The report of a dump or a restore for programs: one JSON document, described in `docs/report.md`.
//!
//! The plugin writes the report; the program that runs criu reads it. Within one [`VERSION`] fields and words are only
//! added, so a reader ignores what it does not know.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::engine::repair::{Done, Report, Verdict};

/// The version of the document. It changes when something is taken away, or means something else.
pub const VERSION: u32 = 1;

/// One run of criu.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// [`VERSION`].
    pub report_version: u32,
    /// The plugin's.
    pub plugin_version: String,
    /// Which run it was.
    pub stage: Stage,
    /// The worst of the processes' outcomes, or worse.
    pub outcome: Outcome,
    /// The criu that ran.
    pub criu: Criu,
    /// The image folder, as criu saw it.
    pub images: Option<String>,
    /// The policy that was in force.
    pub policy: String,
    /// From the plugin's start to its end, in microseconds: nearly the whole of criu's run.
    pub duration_us: u64,
    /// One for each live process, in the order in which criu handed them over.
    pub processes: Vec<Process>,
    /// What was said of the run, or of processes that had not been made yet.
    pub notices: Vec<Notice>,
    /// What failed in the run, as the log has it.
    pub errors: Vec<String>,
}

/// Which run of criu.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// `criu dump`.
    Dump,
    /// `criu restore`.
    Restore,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Dump => "dump",
            Stage::Restore => "restore",
        })
    }
}

/// What came out, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Dump: the signal state is in the image.
    Captured,
    /// Restore: all is as captured, and nothing was changed.
    Verified,
    /// Restore: something was not as captured, and is now.
    Repaired,
    /// Restore: something is not as captured, and was left alone, as the policy wants.
    Differs,
    /// Restore: the process was not looked at, or there is nothing to compare it with.
    Unchecked,
    /// Something could not be captured, looked at or put back. Of the run: or criu itself failed.
    Failed,
    /// The plugin made the run fail, and this is why.
    Refused,
}

impl Outcome {
    /// As the document has it.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Captured => "captured",
            Outcome::Verified => "verified",
            Outcome::Repaired => "repaired",
            Outcome::Differs => "differs",
            Outcome::Unchecked => "unchecked",
            Outcome::Failed => "failed",
            Outcome::Refused => "refused",
        }
    }
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Outcome {
        match verdict {
            Verdict::Verified => Outcome::Verified,
            Verdict::Repaired => Outcome::Repaired,
            Verdict::Differs => Outcome::Differs,
            Verdict::Failed => Outcome::Failed,
        }
    }
}

/// The criu that ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Criu {
    /// Its process id, in its own namespace.
    pub pid: u32,
    /// The versions that it can be, by its plugin interface; criu does not tell a plugin more.
    pub versions: Option<String>,
    /// What criu made of the run as far as the plugin heard of it: 0 if all went well, `None` if the plugin had
    /// refused before anything was done.
    pub result: Option<i32>,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// As criu sees it; `None` for one that was never handed to the plugin.
    pub pid: Option<i32>,
    /// In its own, innermost, namespace, as its image is named; `None` where that could not be found out.
    pub pid_in_namespace: Option<i32>,
    /// The name of the program, for people.
    pub comm: Option<String>,
    /// What came out.
    pub outcome: Outcome,
    /// How many threads were captured or compared.
    pub threads: usize,
    /// How many siginfos, in all queues together, were captured or compared.
    pub siginfos: usize,
    /// Siginfos that had been taken out at the dump and were put back at this restore.
    pub given_back: usize,
    /// Siginfos that have been queued since the dump; they stand behind those of the dump.
    pub arrived_since: usize,
    /// Why signals were taken out for the time of this dump.
    pub taken_out: Vec<String>,
    /// The plugin's time for this process, in microseconds: it stands still meanwhile.
    pub duration_us: u64,
    /// What was not as captured.
    pub differences: Vec<Difference>,
    /// What there is in the process that the outcome of a restore does not cover.
    #[serde(default)]
    pub not_compared: Vec<String>,
    /// What can't be kept.
    pub notices: Vec<Notice>,
    /// What failed, as the log has it.
    pub errors: Vec<String>,
}

impl Process {
    /// One of which nothing is known but what came out.
    pub fn new(outcome: Outcome) -> Process {
        Process {
            pid: None,
            pid_in_namespace: None,
            comm: None,
            outcome,
            threads: 0,
            siginfos: 0,
            given_back: 0,
            arrived_since: 0,
            taken_out: Vec::new(),
            duration_us: 0,
            differences: Vec::new(),
            not_compared: Vec::new(),
            notices: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// What a check has found.
    pub fn checked(report: &Report) -> Process {
        let difference = |(difference, done): &(crate::images::Difference, Done)| Difference {
            place: difference.place.to_string(),
            field: difference.field.to_string(),
            dumped: difference.dumped.clone(),
            found: difference.found.clone(),
            done: match done {
                Done::PutBack => Action::PutBack,
                Done::LeftAlone => Action::LeftAlone,
                Done::NotPutBack => Action::NotPutBack,
            },
        };
        Process {
            pid: Some(report.pid.get()),
            threads: report.threads,
            siginfos: report.siginfos,
            given_back: report.given_back,
            arrived_since: report.arrived,
            differences: report.findings.iter().map(difference).collect(),
            errors: report.errors.iter().map(ToString::to_string).collect(),
            ..Process::new(report.verdict().into())
        }
    }
}

/// Something that was not as captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Whose: `process`, or `thread 42` by its id in its own namespace.
    pub place: String,
    /// What: `mask`, `shared queue`, `disposition of SIGTERM`.
    pub field: String,
    /// What was dumped, for people.
    pub dumped: String,
    /// What was found, for people.
    pub found: String,
    /// What became of it.
    pub done: Action,
}

/// What became of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is as captured now.
    PutBack,
    /// Nothing was changed, as the policy wants.
    LeftAlone,
    /// It could not be put back.
    NotPutBack,
}

impl Action {
    /// As the document has it.
    pub fn word(self) -> &'static str {
        match self {
            Action::PutBack => "put-back",
            Action::LeftAlone => "left-alone",
            Action::NotPutBack => "not-put-back",
        }
    }
}

/// Something that can't be kept, or that is worth knowing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// As the setting `refuse` names it: `pdeathsig`, `exit-signal`, `altstack`, `timeout`, `overrun`, `timer`, `owner`,
    /// `cpu-limit`, `exit-status`, `call-mask`, `call-eintr`; or `machine`.
    pub kind: String,
    /// How much it matters.
    #[serde(default)]
    pub level: Level,
    /// The words of the log.
    pub text: String,
}

/// How much a notice matters: the level that it has in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Something can't be kept.
    #[default]
    Warning,
    /// For those who want to know all.
    Info,
}

impl Level {
    /// As the document has it.
    pub fn word(self) -> &'static str {
        match self {
            Level::Warning => "warning",
            Level::Info => "info",
        }
    }
}

impl Document {
    /// What came out of the run: `refused` if the plugin made it fail, `failed` if criu did or the plugin's own work
    /// did, else the worst of the processes.
    pub fn overall(&self, refused: bool) -> Outcome {
        let worst = self.processes.iter().map(|process| process.outcome).max();
        let none = match self.stage {
            Stage::Dump => Outcome::Captured,
            Stage::Restore => Outcome::Unchecked,
        };
        let worst = worst.unwrap_or(none);
        if refused {
            Outcome::Refused
        } else if self.criu.result != Some(0) || !self.errors.is_empty() {
            worst.max(Outcome::Failed)
        } else {
            worst
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(stage: Stage, outcomes: &[Outcome], result: Option<i32>) -> Document {
        Document {
            report_version: VERSION,
            plugin_version: "1".into(),
            stage,
            outcome: Outcome::Failed,
            criu: Criu {
                pid: 1,
                versions: None,
                result,
            },
            images: None,
            policy: "repair".into(),
            duration_us: 0,
            processes: outcomes.iter().map(|&o| Process::new(o)).collect(),
            notices: Vec::new(),
            errors: Vec::new(),
        }
    }

    #[test]
    fn the_run_is_as_good_as_its_worst_process() {
        use Outcome::{Captured, Failed, Refused, Repaired, Unchecked, Verified};
        let outcome = |stage, outcomes: &[Outcome], result, refused| {
            document(stage, outcomes, result).overall(refused)
        };
        let restore = Stage::Restore;
        assert_eq!(
            outcome(restore, &[Verified, Repaired, Verified], Some(0), false),
            Repaired
        );
        assert_eq!(
            outcome(restore, &[Unchecked, Verified], Some(0), false),
            Unchecked
        );
        assert_eq!(outcome(restore, &[], Some(0), false), Unchecked);
        assert_eq!(outcome(restore, &[Verified], Some(-1), false), Failed);
        assert_eq!(outcome(restore, &[Failed], Some(-1), true), Refused);
        assert_eq!(outcome(restore, &[], None, true), Refused);
        assert_eq!(outcome(Stage::Dump, &[Captured], Some(0), false), Captured);
        let mut failed = document(Stage::Dump, &[Captured], Some(0));
        failed.errors.push("one".into());
        assert_eq!(failed.overall(false), Failed);
    }
}
