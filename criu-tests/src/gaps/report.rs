//! What the runs of the cases show, as text and as data.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::gaps::matrix::Runs;
use crate::gaps::results::{self, Case, Results};
use crate::gaps::table::Row;
use crate::gaps::verdict::{End, Mode, Run, Verdict, control, is_right, verdict};

/// A row with all of its runs, judged.
pub struct Judged<'a> {
    /// The case.
    pub row: &'static Row,
    /// Its runs.
    pub runs: &'a [(Mode, Run)],
    /// What follows.
    pub verdict: Verdict,
}

/// Judges all rows.
pub fn judge<'a>(rows: &[&'static Row], runs: &'a Runs) -> Vec<Judged<'a>> {
    rows.iter()
        .filter_map(|row| {
            runs.get(row.name).map(|runs| Judged {
                row,
                runs,
                verdict: verdict(row, runs),
            })
        })
        .collect()
}

impl Judged<'_> {
    /// Whether it is what the table of cases says.
    pub fn is_expected(&self) -> bool {
        self.verdict == self.row.expected
    }

    fn repeats(&self) -> usize {
        Mode::ALL
            .into_iter()
            .map(|mode| self.runs_in(mode).count())
            .max()
            .unwrap_or(0)
    }

    fn runs_in(&self, mode: Mode) -> impl Iterator<Item = &Run> {
        self.runs
            .iter()
            .filter(move |(m, _)| *m == mode)
            .map(|(_, run)| run)
    }

    /// Whether criu without the plugin does it right, in all runs.
    fn alone_is_right(&self) -> bool {
        let Some(control) = control(self.runs) else {
            return false;
        };
        let mut alone = self
            .runs
            .iter()
            .filter(|(mode, _)| matches!(mode, Mode::Alone | Mode::LeftAlone))
            .peekable();
        alone.peek().is_some() && alone.all(|(_, run)| is_right(run, control))
    }

    /// What the runs of one way ended with, each once, with its count if there are several. `None` without a run.
    fn cell(&self, mode: Mode) -> Option<String> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut frozen: Vec<u64> = Vec::new();
        for run in self.runs_in(mode) {
            *counts.entry(self.words(mode, run)).or_default() += 1;
            frozen.extend(run.frozen_us);
        }
        if counts.is_empty() {
            return None;
        }
        let one = counts.len() == 1;
        let mut text = counts
            .into_iter()
            .map(|(outcome, n)| {
                if one {
                    outcome
                } else {
                    format!("{n} x {outcome}")
                }
            })
            .collect::<Vec<_>>()
            .join(" / ");
        if let (true, Some(us)) = (self.row.deep, frozen.iter().min()) {
            let _ = write!(text, ", held for {} ms", us / 1000);
        }
        Some(text)
    }

    fn case(&self) -> Case {
        let outcomes = Mode::ALL.into_iter();
        Case {
            verdict: self.verdict,
            criu_alone_is_right: self.alone_is_right(),
            runs: self.repeats(),
            outcomes: outcomes
                .map(|mode| (mode.name().into(), self.cell(mode)))
                .collect(),
            ..Case::from_row(self.row)
        }
    }

    fn words(&self, mode: Mode, run: &Run) -> String {
        let right = control(self.runs);
        if mode != Mode::Control && run.end == End::Finished && Some(run.outcome.as_str()) == right
        {
            return "as control".into();
        }
        match &run.afterwards {
            Some(after) if Some(after.as_str()) == right => format!("{}; unharmed", run.outcome),
            Some(after) => format!("{}; afterwards: {after}", run.outcome),
            None => run.outcome.clone(),
        }
    }
}

/// For a terminal: a block for each row.
pub fn text(judged: &[Judged<'_>]) -> String {
    let mut out = String::new();
    for j in judged {
        let expected = if j.is_expected() {
            String::new()
        } else {
            format!(", EXPECTED {}", j.row.expected)
        };
        let alone = if j.alone_is_right() {
            ", criu alone is right"
        } else {
            ""
        };
        let _ = writeln!(
            out,
            "{:<24} {:<8} {} ({} runs each{alone}{expected})",
            j.row.name,
            j.verdict.to_string(),
            j.row.title,
            j.repeats()
        );
        for mode in Mode::ALL {
            if let Some(cell) = j.cell(mode) {
                let _ = writeln!(out, "    {:<12} {cell}", mode.name());
            }
        }
    }
    let cases: Vec<Case> = judged.iter().map(Judged::case).collect();
    let _ = writeln!(out, "{}", results::summary(&cases));
    out
}

/// For the documents.
pub fn results(judged: &[Judged<'_>], criu: &str, kernel: &str) -> Results {
    Results {
        version: results::VERSION,
        criu: criu.into(),
        kernel: kernel.into(),
        cases: judged.iter().map(Judged::case).collect(),
    }
}

/// A line of criu's log without time stamp, place and pids.
pub fn without_numbers(line: &str) -> String {
    let line = line.split_once("Error (").map_or(line, |(_, rest)| {
        rest.split_once("): ").map_or(rest, |(_, r)| r)
    });
    let mut out = String::new();
    for c in line.trim().chars() {
        match c {
            '0'..='9' if out.ends_with('N') => {}
            '0'..='9' => out.push('N'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_the_same_in_every_run() {
        let line = "(00.012345) Error (criu/cr-dump.c:1234): Task 45 stopped by SIGTTIN 21";
        assert_eq!(without_numbers(line), "Task N stopped by SIGTTIN N");
    }
}
