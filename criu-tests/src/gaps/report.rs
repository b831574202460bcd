//! The table, as text, as Markdown and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::gaps::matrix::Runs;
use crate::gaps::table::Row;
use crate::gaps::verdict::{End, Mode, Run, Verdict, control, held_too_long, is_right, verdict};

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
            .map(|mode| self.of(mode).count())
            .max()
            .unwrap_or(0)
    }

    fn of(&self, mode: Mode) -> impl Iterator<Item = &Run> {
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
        let slow = |mode: &Mode| !mode.has_plugin() && held_too_long(self.row, self.runs, *mode);
        alone.peek().is_some()
            && alone.all(|(_, run)| is_right(run, control))
            && !Mode::ALL.iter().any(slow)
    }

    /// What the runs of one way ended with, each once, with its count if there are several.
    fn cell(&self, mode: Mode) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut frozen: Vec<u64> = Vec::new();
        for run in self.of(mode) {
            *counts.entry(self.words(mode, run)).or_default() += 1;
            frozen.extend(run.frozen_us);
        }
        if counts.is_empty() {
            return "n/a".into();
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
        if let (Some(_), Some(us)) = (self.row.frozen_us, frozen.iter().min()) {
            let _ = write!(text, ", held for {} ms", us / 1000);
        }
        text
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
            if j.of(mode).next().is_some() {
                let _ = writeln!(out, "    {:<12} {}", mode.name(), j.cell(mode));
            }
        }
    }
    let _ = writeln!(out, "{}", summary(judged));
    out
}

/// Counts.
pub fn summary(judged: &[Judged<'_>]) -> String {
    let mut counts: BTreeMap<Verdict, usize> = BTreeMap::new();
    for j in judged {
        *counts.entry(j.verdict).or_default() += 1;
    }
    let parts: Vec<String> = counts
        .iter()
        .map(|(verdict, n)| format!("{n} {verdict}"))
        .collect();
    let alone = judged.iter().filter(|j| j.alone_is_right()).count();
    format!(
        "{} cases: {}; in {alone} criu alone is right",
        judged.len(),
        parts.join(", ")
    )
}

/// For the documentation.
pub fn markdown(judged: &[Judged<'_>], criu: &str, kernel: &str) -> String {
    let mut out = format!(
        "# What CRIU loses, and what becomes of it with the plugin\n\n\
         Written by `make gaps` with criu {criu} on Linux {kernel}: do not edit.\n\n\
         Each case is a program in `criu-tests/gaps/`. *Control* is what it finds when it was never checkpointed, \
         *alone* after dump and restore by criu without the plugin, *plugin* with it, *left running* after \
         `criu dump --leave-running` (alone, with the plugin). **fixed**: with the plugin every run is as the \
         control. **refused**: the dump stops, says why, and the program goes on unharmed. **said**: the log warns. \
         **SILENT**: none of these.\n\n{}.\n\n\
         | Case | | Control | Alone | Plugin | Left running, alone | Left running, plugin | Verdict | Runs |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        summary(judged)
    );
    for j in judged {
        let mark = if j.alone_is_right() {
            " (criu alone too)"
        } else {
            ""
        };
        let cells: Vec<String> = Mode::ALL
            .into_iter()
            .map(|mode| j.cell(mode).replace('|', "\\|"))
            .collect();
        let _ = writeln!(
            out,
            "| {} | {} | {} | {}{mark} | {} |",
            j.row.name,
            j.row.title,
            cells.join(" | "),
            j.verdict,
            j.repeats()
        );
    }
    out
}

/// For programs: the same as [`markdown`]. `outcomes` has the ways by their names (`gaps --mode`).
pub fn json(judged: &[Judged<'_>], criu: &str, kernel: &str) -> Value {
    let cases = judged.iter().map(|j| {
        let outcomes: serde_json::Map<String, Value> = Mode::ALL
            .into_iter()
            .map(|mode| (mode.name().to_owned(), j.cell(mode).into()))
            .collect();
        json!({
            "case": j.row.name,
            "title": j.row.title,
            "verdict": j.verdict.to_string(),
            "criu_alone_is_right": j.alone_is_right(),
            "runs": j.repeats(),
            "outcomes": outcomes,
        })
    });
    json!({"criu": criu, "kernel": kernel, "cases": cases.collect::<Vec<_>>()})
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
