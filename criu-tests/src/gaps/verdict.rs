//! The result of a run, and the verdict from all runs of a case.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::gaps::table::Row;

/// The ways to run a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Never checkpointed: what is right.
    Control,
    /// Dumped and restored by criu without the plugin.
    Alone,
    /// Dumped and restored with the plugin.
    Plugin,
    /// `criu dump --leave-running` without the plugin.
    LeftAlone,
    /// `criu dump --leave-running` with the plugin.
    LeftPlugin,
}

impl Mode {
    /// All of them, in the order of the columns.
    pub const ALL: [Mode; 5] = [
        Mode::Control,
        Mode::Alone,
        Mode::Plugin,
        Mode::LeftAlone,
        Mode::LeftPlugin,
    ];

    /// Its name on the command line and in the table.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Control => "control",
            Mode::Alone => "alone",
            Mode::Plugin => "plugin",
            Mode::LeftAlone => "left-alone",
            Mode::LeftPlugin => "left-plugin",
        }
    }

    /// By its name.
    pub fn from_name(name: &str) -> Option<Mode> {
        Mode::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// Whether the plugin is loaded.
    pub fn has_plugin(self) -> bool {
        matches!(self, Mode::Plugin | Mode::LeftPlugin)
    }

    /// Whether the tasks go on after the dump.
    pub fn leaves_running(self) -> bool {
        matches!(self, Mode::LeftAlone | Mode::LeftPlugin)
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The program has said what it finds.
    Finished,
    /// The dump failed; the program went on and has said what it finds.
    DumpFailed,
    /// The restore failed: there is no program any more.
    RestoreFailed,
    /// The program is gone, or silent.
    Lost,
}

impl End {
    const ALL: [End; 4] = [
        End::Finished,
        End::DumpFailed,
        End::RestoreFailed,
        End::Lost,
    ];

    /// Its name in the file of results.
    pub fn name(self) -> &'static str {
        match self {
            End::Finished => "finished",
            End::DumpFailed => "dump-failed",
            End::RestoreFailed => "restore-failed",
            End::Lost => "lost",
        }
    }

    /// By its name.
    pub fn from_name(name: &str) -> Option<End> {
        End::ALL.into_iter().find(|end| end.name() == name)
    }
}

/// One run.
#[derive(Debug, Clone)]
pub struct Run {
    /// How it ended.
    pub end: End,
    /// What the program said, or what became of it. Where criu failed: criu's error.
    pub outcome: String,
    /// Where the dump failed: what the program said afterwards.
    pub afterwards: Option<String>,
    /// What the plugin warned of.
    pub warnings: Vec<String>,
    /// How long the tasks were held, by criu's own statistics, in microseconds.
    pub frozen_us: Option<u64>,
    /// How many entries of queues criu has read and written into its own images. `None` where the dump failed, and of other rows than
    /// those with a deep queue.
    pub left_to_criu: Option<usize>,
}

/// What came out for a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As if there had been no checkpoint.
    Fixed,
    /// The dump stopped, said why, and nothing was harmed.
    Refused,
    /// Not as without a checkpoint, and the log says so.
    Said,
    /// Not as without a checkpoint, and nothing says so.
    #[serde(rename = "SILENT")]
    Silent,
    /// Without a checkpoint there is not one outcome: nothing can be compared with it.
    #[serde(rename = "NO CONTROL")]
    NoControl,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Fixed => "fixed",
            Verdict::Refused => "refused",
            Verdict::Said => "said",
            Verdict::Silent => "SILENT",
            Verdict::NoControl => "NO CONTROL",
        })
    }
}

/// The outcome of the runs without a checkpoint, if it is the same in all of them.
pub fn control(runs: &[(Mode, Run)]) -> Option<&str> {
    let mut all = runs
        .iter()
        .filter(|(mode, _)| *mode == Mode::Control)
        .map(|(_, run)| run);
    let first = all.next()?;
    (first.end == End::Finished
        && all.all(|run| run.end == End::Finished && run.outcome == first.outcome))
    .then_some(first.outcome.as_str())
}

/// Whether a run ended as it would have without a checkpoint.
pub fn is_right(run: &Run, control: &str) -> bool {
    run.end == End::Finished && run.outcome == control
}

/// Of a row with a deep queue: whether criu had to read the queue itself in a run with the plugin, or nobody knows.
///
/// How long the tasks are held goes by this, and by what else the machine does: the entries can be counted.
fn was_left_to_criu(row: &Row, mode: Mode, run: &Run) -> bool {
    row.deep && mode.has_plugin() && run.left_to_criu != Some(0)
}

/// What the plugin says of whatever it could not put back, with the signal and the reason.
const NOT_PUT_BACK: [&str; 2] = ["not put back", "not be put back"];

fn of_run(row: &Row, run: &Run, control: &str) -> Verdict {
    let named = run.warnings.iter().any(|line| {
        let line = line.to_lowercase();
        let words = row.words.iter().copied().chain(NOT_PUT_BACK);
        words
            .map(str::to_lowercase)
            .any(|word| line.contains(&word))
    });
    if is_right(run, control) {
        return Verdict::Fixed;
    }
    let unharmed = match run.end {
        End::DumpFailed => run.afterwards.as_deref() == Some(control),
        // What is wrong shows only at the place of the restore, where nothing has run yet.
        End::RestoreFailed => row.case() == 23,
        End::Finished | End::Lost => false,
    };
    match (named, unharmed) {
        (true, true) => Verdict::Refused,
        (true, false) => Verdict::Said,
        (false, _) => Verdict::Silent,
    }
}

/// The worst of all runs with the plugin. To say it is not enough where criu alone does it right.
pub fn verdict(row: &Row, runs: &[(Mode, Run)]) -> Verdict {
    let Some(control) = control(runs) else {
        return Verdict::NoControl;
    };
    let right_in = |mode: Mode| {
        let mut of_mode = runs.iter().filter(|(m, _)| *m == mode).peekable();
        of_mode.peek().is_some() && of_mode.all(|(_, run)| is_right(run, control))
    };
    let (alone, left_alone) = (right_in(Mode::Alone), right_in(Mode::LeftAlone));
    let worst = runs
        .iter()
        .filter(|(mode, _)| mode.has_plugin())
        .map(|(mode, run)| {
            let without = if mode.leaves_running() {
                left_alone
            } else {
                alone
            };
            match of_run(row, run, control) {
                Verdict::Said if without => Verdict::Silent,
                Verdict::Fixed if was_left_to_criu(row, *mode, run) => Verdict::Silent,
                verdict => verdict,
            }
        })
        .max();
    // Not one run with the plugin shows nothing.
    worst.unwrap_or(Verdict::NoControl)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gaps::table::ROWS;

    fn row(name: &str) -> &'static Row {
        ROWS.iter().find(|row| row.name == name).unwrap()
    }

    fn run(end: End, outcome: &str) -> Run {
        Run {
            end,
            outcome: outcome.into(),
            afterwards: None,
            warnings: Vec::new(),
            frozen_us: None,
            left_to_criu: None,
        }
    }

    #[test]
    fn the_worst_run_decides() {
        let good = (Mode::Plugin, run(End::Finished, "stopped"));
        let mut runs = vec![
            (Mode::Control, run(End::Finished, "stopped")),
            good.clone(),
            good,
        ];
        assert_eq!(verdict(row("1-stop"), &runs), Verdict::Fixed);
        runs.push((Mode::LeftPlugin, run(End::Finished, "dead")));
        assert_eq!(verdict(row("1-stop"), &runs), Verdict::Silent);
        runs[3]
            .1
            .warnings
            .push("pid 5: stop state could not be put back".into());
        assert_eq!(verdict(row("1-stop"), &runs), Verdict::Said);
    }

    #[test]
    fn what_criu_does_alone_does_not_matter() {
        let runs = [
            (Mode::Control, run(End::Finished, "stopped")),
            (Mode::Alone, run(End::Lost, "dead")),
            (Mode::Plugin, run(End::Finished, "stopped")),
        ];
        assert_eq!(verdict(row("1-stop"), &runs), Verdict::Fixed);
    }

    #[test]
    fn refused_is_only_what_harms_nothing_and_says_why() {
        let mut refused = run(End::DumpFailed, "criu: Error");
        refused.afterwards = Some("alive".into());
        let control = (Mode::Control, run(End::Finished, "alive"));
        let of = |run: &Run| verdict(row("21"), &[control.clone(), (Mode::Plugin, run.clone())]);
        assert_eq!(of(&refused), Verdict::Silent);
        refused.warnings.push("PDEATHSIG would kill it".into());
        assert_eq!(of(&refused), Verdict::Refused);
        refused.afterwards = Some("dead".into());
        assert_eq!(of(&refused), Verdict::Said);
    }

    #[test]
    fn what_criu_alone_does_right_must_not_be_lost_with_a_warning() {
        let mut lost = run(End::Finished, "nothing queued");
        lost.warnings
            .push("pending signals could NOT be put back".into());
        let mut runs = vec![
            (Mode::Control, run(End::Finished, "20 entries")),
            (Mode::LeftPlugin, lost),
            (Mode::LeftAlone, run(End::Lost, "dead")),
        ];
        assert_eq!(verdict(row("12-hard"), &runs), Verdict::Said);
        runs[2].1 = run(End::Finished, "20 entries");
        assert_eq!(verdict(row("12-hard"), &runs), Verdict::Silent);
    }

    #[test]
    fn a_control_that_is_not_one_is_none() {
        let runs = [
            (Mode::Control, run(End::Finished, "a")),
            (Mode::Control, run(End::Finished, "b")),
            (Mode::Plugin, run(End::Finished, "a")),
        ];
        assert_eq!(verdict(row("1-stop"), &runs), Verdict::NoControl);
    }

    fn deep(mode: Mode, left_to_criu: Option<usize>) -> Verdict {
        let there = |left_to_criu| Run {
            left_to_criu,
            ..run(End::Finished, "there")
        };
        let runs = [
            (Mode::Control, there(None)),
            (Mode::Alone, there(Some(10_000))),
            (Mode::Plugin, there(Some(0))),
            (mode, there(left_to_criu)),
        ];
        verdict(row("24-10000"), &runs)
    }

    #[test]
    fn a_deep_queue_that_criu_has_to_read_is_not_right() {
        assert_eq!(deep(Mode::Plugin, Some(0)), Verdict::Fixed);
        assert_eq!(deep(Mode::Plugin, Some(10_000)), Verdict::Silent);
        assert_eq!(deep(Mode::LeftPlugin, Some(1)), Verdict::Silent);
        assert_eq!(deep(Mode::LeftPlugin, None), Verdict::Silent);
        assert_eq!(deep(Mode::LeftAlone, Some(10_000)), Verdict::Fixed);
    }
}
