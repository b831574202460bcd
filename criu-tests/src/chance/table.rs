//! What came out of a campaign: for people, and for `docs/chance.md`.

use std::fmt::Write as _;

use crate::chance::campaign::Record;
use crate::chance::verdict::Verdict;
use crate::chance::ways::Kind;

/// In front of the part of the document that the command writes.
pub const BEGIN: &str = "<!-- table: written by `make chance` -->";

/// A row: the records of a way, or all.
struct Row<'r> {
    name: &'static str,
    records: Vec<&'r Record>,
}

impl Row<'_> {
    fn count(&self, verdict: Verdict) -> usize {
        self.records
            .iter()
            .filter(|record| record.outcome.verdict == verdict)
            .count()
    }

    /// Of those that were judged, and in which criu alone was run.
    fn alone(&self) -> (usize, usize) {
        let mut alone = self
            .records
            .iter()
            .filter_map(|record| record.outcome.alone.as_ref());
        let all = alone.clone().count();
        (alone.by_ref().filter(|shown| !shown.is_same()).count(), all)
    }
}

fn rows(records: &[Record]) -> Vec<Row<'_>> {
    let of = |kind: Kind| {
        records
            .iter()
            .filter(|record| record.outcome.way.split(':').next() == Some(kind.name()))
            .collect::<Vec<_>>()
    };
    let mut rows: Vec<Row<'_>> = Kind::ALL
        .iter()
        .map(|(kind, name, _)| Row {
            name,
            records: of(*kind),
        })
        .filter(|row| !row.records.is_empty())
        .collect();
    rows.push(Row {
        name: "all",
        records: records.iter().collect(),
    });
    rows
}

/// The table as Markdown. With `--alone` the last column counts all runs; else criu alone was run only where the plugin's
/// run was not as the control.
pub fn markdown(records: &[Record]) -> String {
    let mut text = String::from(
        "| Way | Runs | Left out | Same | Said | **Silent** | **Worse** | **Hang** | criu alone differs |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows(records) {
        let (differs, of) = row.alone();
        let alone = match of {
            0 => "n/a".to_owned(),
            of => format!("{differs} of {of}"),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {alone} |",
            row.name,
            row.records.len(),
            row.count(Verdict::LeftOut),
            row.count(Verdict::Same),
            row.count(Verdict::Said),
            row.count(Verdict::Silent),
            row.count(Verdict::Worse),
            row.count(Verdict::Hang),
        );
    }
    text
}

/// One result for people; nothing of one that is as it should be.
pub fn line(record: &Record) -> Option<String> {
    let outcome = &record.outcome;
    if !outcome.verdict.is_fault() {
        return None;
    }
    let mut text = format!(
        "seed {} {} {}-bit: {} ({} of {})",
        record.seed, outcome.way, record.bits, outcome.verdict, outcome.times.0, outcome.times.1
    );
    if let Some(why) = &outcome.left_out {
        let _ = write!(text, "\n  {why}");
    }
    if let Some(who) = &outcome.shown.hang {
        let _ = write!(text, "\n  does not end: {who}");
    }
    if let Some(why) = &outcome.shown.refused {
        let _ = write!(text, "\n  {why}");
    }
    for difference in outcome.shown.differences.iter().take(4) {
        let _ = write!(text, "\n  {difference}");
    }
    for said in outcome.shown.said.iter().take(4) {
        let _ = write!(text, "\n  said: {said}");
    }
    if let Some(plan) = &record.smallest {
        let _ = write!(text, "\n  the smallest plan that fails:\n    ");
        text += &plan.trim_end().replace('\n', "\n    ");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::cell::Outcome;
    use crate::chance::generate::Focus;
    use crate::chance::verdict::Shown;

    fn record(way: &str, verdict: Verdict, alone: Option<Shown>) -> Record {
        Record {
            seed: 1,
            generator: 1,
            focus: Focus::None,
            criu: "4.2.1".into(),
            bits: 64,
            anew: 0,
            outcome: Outcome {
                way: way.into(),
                verdict,
                left_out: None,
                shown: Shown::default(),
                alone,
                times: (1, 1),
                ms: 0,
            },
            smallest: None,
        }
    }

    #[test]
    fn a_row_for_each_way_and_one_for_all() {
        let hung = Shown {
            hang: Some("criu dump".into()),
            ..Shown::default()
        };
        let records = [
            record("restore", Verdict::Same, Some(Shown::default())),
            record("restore", Verdict::Silent, Some(hung)),
            record("fault:3:fail:1", Verdict::Worse, None),
        ];
        let text = markdown(&records);
        assert!(
            text.contains("| restore | 2 | 0 | 1 | 0 | 1 | 0 | 0 | 1 of 2 |"),
            "{text}"
        );
        assert!(
            text.contains("| fault | 1 | 0 | 0 | 0 | 0 | 1 | 0 | n/a |"),
            "{text}"
        );
        assert!(
            text.contains("| all | 3 | 0 | 1 | 0 | 1 | 1 | 0 | 1 of 2 |"),
            "{text}"
        );
    }
}
