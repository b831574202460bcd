//! What `make gaps` has found: the file `docs/gaps.json`, and the page `docs/gaps.md`, which is written from the same data.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::gaps::table::Row;
use crate::gaps::verdict::{Mode, Verdict};

/// The number that a change of the fields increases which a reader of an older version would misunderstand.
pub const VERSION: u32 = 1;

/// All cases, and the machine that they were run on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// [`VERSION`].
    pub version: u32,
    /// The version of criu.
    pub criu: String,
    /// The kernel's version, without what distributions append.
    pub kernel: String,
    /// In the order of the table of cases.
    pub cases: Vec<Case>,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Its name, by which `gaps --case` runs it.
    pub name: String,
    /// Its number, which variants of one case share.
    pub number: u32,
    /// What it is about.
    pub title: String,
    /// The program that sets the state up and looks at it, as a path from the root of the sources.
    pub program: String,
    /// The program's argument.
    pub argument: String,
    /// Of the program: 32 or 64.
    pub bits: u32,
    /// What became of it with the plugin.
    pub verdict: Verdict,
    /// Whether criu does it right without the plugin.
    pub criu_alone_is_right: bool,
    /// How often it was run in the way that was run most often.
    pub runs: usize,
    /// What the runs ended with, by the names of the ways ([`Mode::name`]). A way that does not apply is null.
    pub outcomes: BTreeMap<String, Option<String>>,
}

impl Case {
    /// What is known of a case before it is run.
    pub fn from_row(row: &Row) -> Case {
        Case {
            name: row.name.into(),
            number: row.case(),
            title: row.title.into(),
            program: format!("criu-tests/gaps/{}.c", row.program),
            argument: row.sub_case().into(),
            bits: if row.is_ia32() { 32 } else { 64 },
            verdict: row.expected,
            criu_alone_is_right: false,
            runs: 0,
            outcomes: BTreeMap::new(),
        }
    }

    fn outcome(&self, mode: Mode) -> &str {
        let outcome = self.outcomes.get(mode.name());
        outcome.and_then(Option::as_deref).unwrap_or("n/a")
    }
}

/// Counts of the verdicts.
pub fn summary(cases: &[Case]) -> String {
    let mut counts: BTreeMap<Verdict, usize> = BTreeMap::new();
    for case in cases {
        *counts.entry(case.verdict).or_default() += 1;
    }
    let parts: Vec<String> = counts
        .iter()
        .map(|(verdict, n)| format!("{n} {verdict}"))
        .collect();
    let alone = cases.iter().filter(|case| case.criu_alone_is_right).count();
    format!(
        "{} cases: {}; in {alone} criu alone is right",
        cases.len(),
        parts.join(", ")
    )
}

/// In front of the table.
const HEAD: &str = "\
Each case is a program in `criu-tests/gaps/`. *Control* is what it finds when it was never checkpointed, *alone* after dump \
and restore by criu without the plugin, *plugin* with it, *left running* after `criu dump --leave-running` (alone, with the \
plugin). **fixed**: with the plugin every run is as the control. **refused**: the dump stops, says why, and the program goes \
on unharmed. **said**: the log warns. **SILENT**: none of these.";

/// Behind the table.
const SCHEMA: &str = "\
## The same as data

[gaps.json](gaps.json) has the table for programs. A test compares both with the cases that exist.

| Field | Content |
|---|---|
| `version` | 1; a higher number means that fields have another meaning |
| `criu`, `kernel` | the versions that the cases were run with |
| `cases` | a list, in the order of the table; without those that need what the machine lacks (`make gaps` names them) |
| `cases[].name` | the name of the case; `make gaps ARGS=\"--case NAME\"` runs the case |
| `cases[].number`, `.title` | the number that variants of one case share; what the case is about |
| `cases[].program`, `.argument`, `.bits` | where the case is tested: the source of the program, its argument, and whether it is built as a 32-bit or a 64-bit program |
| `cases[].verdict` | `fixed`, `refused`, `said` or `SILENT`, as above |
| `cases[].criu_alone_is_right` | true if criu without the plugin does no damage |
| `cases[].runs` | how often the case was run with the plugin; without the plugin it is at most 5 times |
| `cases[].outcomes` | an object with the columns of the table: `control`, `alone`, `plugin`, `left-alone`, `left-plugin`. Null: this way does not apply to the case. Outcomes that differ from run to run are separated by ` / `, each with its count. |
";

impl Results {
    /// The file for programs.
    ///
    /// # Errors
    /// Never, with these fields.
    pub fn json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// The page for people.
    pub fn page(&self) -> String {
        let mut out = format!(
            "# What CRIU loses, and what becomes of it with the plugin\n\n{}. Written by `make gaps` with criu {} on \
             Linux {}: do not edit.\n\n{HEAD}\n\n\
             | Case | | Control | Alone | Plugin | Left running, alone | Left running, plugin | Verdict | Runs |\n\
             |---|---|---|---|---|---|---|---|---|\n",
            summary(&self.cases),
            self.criu,
            self.kernel,
        );
        for case in &self.cases {
            let alone = if case.criu_alone_is_right {
                " (criu alone too)"
            } else {
                ""
            };
            let cells = Mode::ALL.map(|mode| case.outcome(mode).replace('|', "\\|"));
            let _ = writeln!(
                out,
                "| {} | {} | {} | {}{alone} | {} |",
                case.name,
                case.title,
                cells.join(" | "),
                case.verdict,
                case.runs
            );
        }
        out + "\n" + SCHEMA
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::gaps::table::ROWS;
    use crate::skip::Need;

    const AGAIN: &str = "run make gaps";

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    fn read(name: &str) -> String {
        let path = root().join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn written() -> Results {
        serde_json::from_str(&read("docs/gaps.json")).unwrap()
    }

    #[test]
    fn the_page_and_the_data_are_of_one_run() {
        let written = written();
        assert_eq!(written.version, VERSION);
        assert_eq!(written.json().unwrap(), read("docs/gaps.json"), "{AGAIN}");
        assert_eq!(written.page(), read("docs/gaps.md"), "{AGAIN}");
    }

    /// The cases of the table that are to be in the data. One whose needs a machine does not meet may be missing, but not for
    /// 32-bit programs: CI has them.
    fn rows(written: &Results) -> Vec<&'static Row> {
        let is_there = |row: &Row| written.cases.iter().any(|case| case.name == row.name);
        let may_be_missing = |row: &Row| row.needs.iter().any(|need| *need != Need::Ia32);
        let rows = ROWS.iter();
        rows.filter(|row| is_there(row) || !may_be_missing(row))
            .collect()
    }

    #[test]
    fn the_data_has_the_cases_that_exist_and_no_others() {
        let written = written();
        let names = |cases: &[Case]| {
            let names = cases.iter().map(|case| case.name.clone());
            names.collect::<Vec<_>>()
        };
        let cases: Vec<Case> = rows(&written).into_iter().map(Case::from_row).collect();
        assert_eq!(names(&written.cases), names(&cases), "{AGAIN}");
        for (written, case) in written.cases.iter().zip(cases) {
            // What is known only from a run.
            let case = Case {
                criu_alone_is_right: written.criu_alone_is_right,
                runs: written.runs,
                outcomes: written.outcomes.clone(),
                ..case
            };
            assert_eq!(*written, case, "{AGAIN}");
        }
    }

    #[test]
    fn each_case_has_been_run_in_each_way_that_applies() {
        let written = written();
        for (case, row) in written.cases.iter().zip(rows(&written)) {
            assert!(root().join(&case.program).is_file(), "{}", case.program);
            assert_eq!(case.runs, row.repeats as usize, "{}", case.name);
            let ways: Vec<&str> = case.outcomes.keys().map(String::as_str).collect();
            let mut all = Mode::ALL.map(Mode::name);
            all.sort_unstable();
            assert_eq!(ways, all, "{}", case.name);
            for mode in Mode::ALL {
                let applies = row.leave_running || !mode.leaves_running();
                assert_eq!(
                    case.outcomes[mode.name()].is_some(),
                    applies,
                    "{} {}",
                    case.name,
                    mode.name()
                );
            }
        }
    }

    #[test]
    fn readme_counts_the_cases() {
        let counted = format!("[all {} cases](docs/gaps.md)", written().cases.len());
        assert!(read("README.md").contains(&counted), "README: {counted}");
    }

    #[test]
    fn a_way_that_does_not_apply_is_null_in_the_data() {
        let row = ROWS.iter().find(|row| row.name == "21").unwrap();
        let mut case = Case::from_row(row);
        case.outcomes.insert("plugin".into(), Some("a|b".into()));
        case.outcomes.insert("left-plugin".into(), None);
        let results = Results {
            version: VERSION,
            criu: "4.3".into(),
            kernel: "6.1".into(),
            cases: vec![case],
        };
        let json = results.json().unwrap();
        assert!(json.contains("\"left-plugin\": null"), "{json}");
        let back: Results = serde_json::from_str(&json).unwrap();
        assert_eq!(back, results);
        let page = results.page();
        assert!(
            page.contains(" | a\\|b | n/a | n/a | fixed | 0 |"),
            "{page}"
        );
        assert!(page.contains("1 cases: 1 fixed"), "{page}");
    }
}
