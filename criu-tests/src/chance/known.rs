//! Seeds that are known to be at fault, and why: what CI does not fail for.
//!
//! A file of lines `SEED REASON`, below a line `generator N`: a seed means nothing without the version that made its plan.
//! Empty lines and lines that begin with `#` are comments.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};

use super::campaign::Record;
use super::generate;

/// What the file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Known {
    reasons: BTreeMap<u64, String>,
}

impl FromStr for Known {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Known> {
        let mut lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let first = lines.next().context("there is no line `generator N`")?;
        let generator = first
            .strip_prefix("generator ")
            .with_context(|| format!("`{first}`: the first line is `generator N`"))?;
        ensure!(
            generator.parse() == Ok(generate::GENERATOR),
            "the seeds are of generator {generator}, and this is generator {}: run the set again, and list what fails",
            generate::GENERATOR
        );
        let mut reasons = BTreeMap::new();
        for line in lines {
            let (seed, reason) = line
                .split_once(' ')
                .with_context(|| format!("`{line}`: a line is `SEED REASON`"))?;
            let seed = seed.parse().with_context(|| format!("`{line}`"))?;
            ensure!(
                reasons.insert(seed, reason.to_owned()).is_none(),
                "seed {seed} is listed twice"
            );
        }
        Ok(Known { reasons })
    }
}

impl Known {
    /// The records that CI fails for: of a fault that came each time, of a seed that is not listed; and all that could not be
    /// made, if they are more than `NOT_MADE`.
    pub fn unknown<'a>(&self, records: &'a [Record]) -> Vec<&'a Record> {
        let not_made = records.iter().filter(|record| was_not_made(record)).count();
        records
            .iter()
            .filter(|record| {
                if was_not_made(record) {
                    return not_made > NOT_MADE;
                }
                came_each_time(record) && !self.reasons.contains_key(&record.seed)
            })
            .collect()
    }

    /// Seeds that are listed, were run, and are not at fault any more.
    pub fn outdated(&self, records: &[Record]) -> Vec<u64> {
        let listed = self.reasons.keys().copied();
        listed
            .filter(|seed| {
                let mut of_seed = records.iter().filter(|r| r.seed == *seed).peekable();
                of_seed.peek().is_some() && of_seed.all(|r| !r.outcome.verdict.is_fault())
            })
            .collect()
    }
}

/// Runs of a set that may fail on a busy machine, before anything is known of the plan.
const NOT_MADE: usize = 4;

/// The namespace of the run has ended, or did not answer.
fn was_not_made(record: &Record) -> bool {
    record.outcome.verdict.is_fault() && record.outcome.left_out.is_some()
}

/// A fault that does not come each time depends on an instant: it is printed, and nobody else's change is refused for it.
fn came_each_time(record: &Record) -> bool {
    let (times, of) = record.outcome.times;
    record.outcome.verdict.is_fault() && times == of
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seed: u64, verdict: &str, times: (u32, u32)) -> Record {
        let json = serde_json::json!({
            "seed": seed, "generator": generate::GENERATOR, "criu": "4.2.1", "bits": 64,
            "way": "restore", "verdict": verdict, "times": times, "ms": 1,
        });
        serde_json::from_value(json).unwrap()
    }

    fn known(lines: &str) -> Result<Known> {
        format!("# of CI\ngenerator {}\n{lines}", generate::GENERATOR).parse()
    }

    #[test]
    fn only_what_is_not_listed_and_came_each_time() {
        let records = [
            record(1, "same", (1, 1)),
            record(2, "silent", (3, 3)),
            record(3, "silent", (3, 3)),
            record(4, "silent", (2, 3)),
            record(6, "worse", (3, 3)),
            record(7, "worse", (2, 3)),
            record(5, "hang", (1, 1)),
        ];
        let known = known("\n2 a reason\n").unwrap();
        let seeds: Vec<u64> = known.unknown(&records).iter().map(|r| r.seed).collect();
        assert_eq!(seeds, [3, 6, 5]);
    }

    #[test]
    fn a_machine_that_can_do_nothing_is_no_success() {
        let not_made = |seed| {
            let mut record = record(seed, "hang", (1, 1));
            record.outcome.left_out = Some("the cell has ended".to_owned());
            record
        };
        let known = known("").unwrap();
        let some: Vec<Record> = (0..4).map(not_made).collect();
        assert!(known.unknown(&some).is_empty());
        let many: Vec<Record> = (0..5).map(not_made).collect();
        assert_eq!(known.unknown(&many).len(), 5);
    }

    #[test]
    fn what_is_mended_is_named() {
        let records = [record(1, "same", (1, 1)), record(2, "silent", (3, 3))];
        let known = known("1 mended\n2 not\n9 not run").unwrap();
        assert_eq!(known.outdated(&records), [1]);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        assert!("".parse::<Known>().is_err());
        assert!("1 reason".parse::<Known>().is_err());
        assert!("generator 0\n1 reason".parse::<Known>().is_err());
        assert!(known("one reason").is_err());
        assert!(known("1").is_err());
        assert!(known("1 a\n1 b").is_err());
    }
}
