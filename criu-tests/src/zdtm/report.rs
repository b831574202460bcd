//! The comparison as a text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::compare::Class;
use super::logs::{self, Logs};
use super::output::{Outcome, Results, Test};
use super::suite::Way;

/// One test that did not end the same both ways.
#[derive(Debug)]
pub struct Difference {
    /// Which.
    pub test: Test,
    /// Of what kind; `None` where it was only the first runs that differed.
    pub class: Option<Class>,
    /// How it ended in each run without the plugin, the first one first.
    pub without: Vec<Outcome>,
    /// The same with it.
    pub with: Vec<Outcome>,
}

/// The figures of one run.
pub fn figures(way: Way, flavour: &str, results: &Results, took: &str) -> String {
    let passed = results.count(|o| *o == Outcome::Passed);
    let failed = results.count(|o| matches!(o, Outcome::Failed(_)));
    let skipped = results.count(|o| matches!(o, Outcome::Skipped(_)));
    let not_refused = results.count(|o| *o == Outcome::NotRefused);
    let mut line = format!(
        "{:<21} {:>3} tests: {passed} passed, {failed} failed, {skipped} skipped",
        format!("{way} plugin, {flavour}:"),
        results.tests.len()
    );
    if not_refused != 0 {
        let _ = write!(line, ", {not_refused} not refused");
    }
    line + &format!("; {took}")
}

/// Where the two ways differ, kind by kind. `folder` is where a way's logs are.
pub fn differences(all: &[Difference], folder: &dyn Fn(Way) -> PathBuf) -> String {
    let mut by_class: BTreeMap<Class, Vec<&Difference>> = BTreeMap::new();
    for difference in all {
        if let Some(class) = difference.class {
            by_class.entry(class).or_default().push(difference);
        }
    }
    if by_class.is_empty() {
        return "Every test ends the same with the plugin as without it.\n".to_owned();
    }
    let mut text = String::new();
    for (class, list) in by_class {
        let _ = writeln!(text, "{} {class}:", list.len());
        for d in list {
            let _ = writeln!(text, "  {}", d.test);
            for (way, ends) in [(Way::Without, &d.without), (Way::With, &d.with)] {
                let _ = writeln!(text, "    {way}: {}", ends_of(ends));
            }
            for way in [Way::Without, Way::With] {
                let dir = folder(way).join("dump").join(&d.test.name);
                if class != Class::SkippedOnce && dir.is_dir() {
                    let _ = writeln!(text, "    logs {way}: {}", dir.display());
                }
            }
            let printed = folder(Way::With).join(format!("failed/{}.log", d.test.name));
            if printed.is_file() {
                let _ = writeln!(text, "    printed: {}", printed.display());
            }
        }
    }
    text
}

/// `passed; passed; failed at CRIU dump`
fn ends_of(ends: &[Outcome]) -> String {
    match ends {
        [] => "not run".to_owned(),
        ends => ends
            .iter()
            .map(Outcome::to_string)
            .collect::<Vec<_>>()
            .join("; "),
    }
}

/// What the plugin said: the verdicts, and every line that is not said of each process.
pub fn verdicts(logs: &Logs, results: &Results) -> String {
    let tally = logs::tally(logs);
    let counts: Vec<String> = tally
        .verdicts
        .iter()
        .map(|(verdict, count)| format!("{count} {verdict}"))
        .collect();
    let mut text = format!(
        "The plugin was in {} dumps and {} restores. Processes restored: {}.\n",
        tally.dumps,
        tally.restores,
        if counts.is_empty() {
            "none".to_owned()
        } else {
            counts.join(", ")
        }
    );
    let passed = |o: &Outcome| *o == Outcome::Passed || *o == Outcome::NotRefused;
    let unheard: Vec<&str> = results
        .tests
        .iter()
        .filter(|(test, outcome)| {
            passed(outcome) && logs.get(&test.name).is_none_or(|s| s.verdicts.is_empty())
        })
        .map(|(test, _)| test.name.as_str())
        .collect();
    if !unheard.is_empty() {
        let _ = writeln!(
            text,
            "{} tests passed without a verdict (criu refused, as the suite expects, or was given another --libdir): {}",
            unheard.len(),
            unheard.join(" ")
        );
    }
    for (test, said) in logs.iter().filter(|(_, said)| said.is_remarkable()) {
        let _ = writeln!(text, "{test}");
        for line in &said.lines {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Verdict;
    use crate::zdtm::logs::Said;

    fn test(name: &str) -> Test {
        Test {
            name: format!("zdtm/static/{name}"),
            flavour: "h".into(),
        }
    }

    #[test]
    fn a_new_failure_is_named_with_its_ends() {
        let all = [
            Difference {
                test: test("aio00"),
                class: Some(Class::NewFailure),
                without: vec![Outcome::Passed],
                with: vec![Outcome::Failed("CRIU restore".into())],
            },
            Difference {
                test: test("pid00"),
                class: None,
                without: vec![Outcome::Passed; 2],
                with: vec![Outcome::Passed; 2],
            },
        ];
        let text = differences(&all, &|way| format!("/nowhere/{way}").into());
        assert!(text.starts_with("1 fail only with the plugin:\n  zdtm/static/aio00 (h)\n"));
        assert!(text.contains("with: failed at CRIU restore"));
        assert!(!text.contains("pid00"), "{text}");
        assert!(differences(&all[1..], &|_| "/".into()).contains("the same"));
    }

    #[test]
    fn passing_without_the_plugin_is_noticed() {
        let tests = ["aio00", "rtc"].map(|name| (test(name), Outcome::Passed));
        let results = Results {
            tests: tests.into(),
            ..Results::default()
        };
        let said = Said {
            dumps: 1,
            restores: 1,
            verdicts: vec![Ok(Verdict::Verified)],
            lines: Vec::new(),
        };
        let logs = Logs::from([("zdtm/static/aio00".to_owned(), said)]);
        let text = verdicts(&logs, &results);
        assert!(text.contains("1 dumps and 1 restores. Processes restored: 1 verified"));
        assert!(text.contains("1 tests passed without a verdict"));
        assert!(
            text.contains("zdtm/static/rtc") && !text.contains("aio00"),
            "{text}"
        );
    }
}
