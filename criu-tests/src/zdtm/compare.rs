//! Compares a run without the plugin and a run with the plugin.

use std::fmt;

use super::output::{Outcome, Results, Test};

/// How the two ways of one test relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Passes without the plugin and fails with it: what must not be.
    NewFailure,
    /// The suite expects criu to refuse the dump, as it does without the plugin; with it the test is dumped, restored
    /// and passes its own check.
    NotRefused,
    /// Fails without the plugin and passes with it.
    OnlyWith,
    /// Was skipped one way only.
    SkippedOnce,
    /// Differs from run to run of the same way, or failed once and not again.
    Unsteady,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::NewFailure => "fail only with the plugin",
            Class::NotRefused => {
                "refused by criu alone, as the suite expects; dumped, restored and passed with the plugin"
            }
            Class::OnlyWith => "pass only with the plugin",
            Class::SkippedOnce => "skipped one way only",
            Class::Unsteady => "not the same in each run",
        })
    }
}

/// The tests that ended differently in the two runs.
pub fn differing(without: &Results, with: &Results) -> Vec<Test> {
    let mut tests: Vec<&Test> = without.tests.keys().chain(with.tests.keys()).collect();
    tests.sort_unstable();
    tests.dedup();
    let differ = |test: &&Test| {
        let ends = [without, with].map(|results| results.tests.get(*test).map(kind));
        ends[0] != ends[1]
    };
    tests.into_iter().filter(differ).cloned().collect()
}

/// What an outcome is, whatever the step or the reason.
fn kind(outcome: &Outcome) -> Kind {
    match outcome {
        Outcome::Passed => Kind::Passed,
        Outcome::NotRefused => Kind::NotRefused,
        Outcome::Failed(_) => Kind::Failed,
        Outcome::Skipped(_) => Kind::Skipped,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Passed,
    NotRefused,
    Failed,
    Skipped,
}

/// The class of one test by all its runs, the first ones first; `None` if there is no difference after all.
pub fn classify(without: &[Outcome], with: &[Outcome]) -> Option<Class> {
    let count = |ends: &[Outcome], which: Kind| ends.iter().filter(|o| kind(o) == which).count();
    let all = |ends: &[Outcome], which| !ends.is_empty() && count(ends, which) == ends.len();
    let skipped = [without, with].map(|ends| ends.is_empty() || count(ends, Kind::Skipped) != 0);
    if skipped[0] != skipped[1] {
        return Some(Class::SkippedOnce);
    }
    let fails_with = count(with, Kind::Failed);
    if all(without, Kind::Passed) {
        return match fails_with {
            0 if all(with, Kind::Passed) => None,
            0 if all(with, Kind::NotRefused) => Some(Class::NotRefused),
            // Once in several runs: the load of the machine is as likely.
            1 if with.len() > 1 => Some(Class::Unsteady),
            0 => Some(Class::Unsteady),
            _ => Some(Class::NewFailure),
        };
    }
    let same = [Kind::Failed, Kind::Skipped, Kind::NotRefused];
    if same.iter().any(|&k| all(without, k) && all(with, k)) {
        return None;
    }
    Some(if all(without, Kind::Failed) && all(with, Kind::Passed) {
        Class::OnlyWith
    } else {
        Class::Unsteady
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Class::*;

    /// `p`assed, `f`ailed, `n`ot refused, `s`kipped.
    fn outcomes(letters: &str) -> Vec<Outcome> {
        let of = |letter| match letter {
            'p' => Outcome::Passed,
            'f' => Outcome::Failed("somewhere".into()),
            'n' => Outcome::NotRefused,
            _ => Outcome::Skipped("something".into()),
        };
        letters.chars().map(of).collect()
    }

    #[test]
    fn classes() {
        for (without, with, expected) in [
            ("p", "p", None),
            ("f", "f", None),
            ("s", "s", None),
            ("p", "f", Some(NewFailure)),
            ("ppp", "fff", Some(NewFailure)),
            ("ppp", "fpf", Some(NewFailure)),
            ("ppp", "fpp", Some(Unsteady)),
            ("ppf", "fff", Some(Unsteady)),
            ("f", "p", Some(OnlyWith)),
            ("fff", "ppp", Some(OnlyWith)),
            ("ffp", "ppp", Some(Unsteady)),
            ("fff", "ppf", Some(Unsteady)),
            ("p", "n", Some(NotRefused)),
            ("ppp", "nnn", Some(NotRefused)),
            ("ppp", "nff", Some(NewFailure)),
            ("ppp", "npn", Some(Unsteady)),
            ("s", "p", Some(SkippedOnce)),
            ("ppp", "sss", Some(SkippedOnce)),
            ("", "p", Some(SkippedOnce)),
            ("p", "", Some(SkippedOnce)),
        ] {
            assert_eq!(
                classify(&outcomes(without), &outcomes(with)),
                expected,
                "{without} {with}"
            );
        }
    }

    #[test]
    fn only_the_kind_of_an_end_makes_a_difference() {
        let test = |name: &str| Test {
            name: name.into(),
            flavour: "h".into(),
        };
        let results = |ends: &[(&str, Outcome)]| Results {
            tests: ends
                .iter()
                .map(|(name, end)| (test(name), end.clone()))
                .collect(),
            ..Results::default()
        };
        let without = results(&[
            ("a", Outcome::Passed),
            ("b", Outcome::Failed("CRIU dump".into())),
            ("c", Outcome::Passed),
            ("d", Outcome::Passed),
        ]);
        let with = results(&[
            ("a", Outcome::Passed),
            ("b", Outcome::Failed("CRIU restore".into())),
            ("c", Outcome::Failed("CRIU restore".into())),
        ]);
        assert_eq!(differing(&without, &with), [test("c"), test("d")]);
    }
}
