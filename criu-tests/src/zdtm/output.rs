//! What `zdtm.py run` prints, line by line: which test ended how.
//!
//! The lines that count are made by `print_sep`, `Launcher` and `do_run_test` in CRIU's `test/zdtm.py`:
//!
//! ```text
//! === Run 3/475 =--------------- zdtm/static/aio00
//! ========================= Run zdtm/static/aio00 in h ==========================
//! ====================== Test zdtm/static/aio00 PASS ============================
//! ############ Test zdtm/static/pid00 FAIL at CRIU dump #########################
//! Skipping zdtm/static/apparmor (no apparmor_stacking feature)
//! ################## 2 TEST(S) FAILED (TOTAL 13/SKIPPED 0) ######################
//!  * zdtm/static/pid00(h)
//! ```
//!
//! Between them stands whatever a test, make and criu print.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, ensure};

/// A test in one flavour: `h` (host), `ns`, `uns`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Test {
    /// As zdtm.py names it: `zdtm/static/aio00`.
    pub name: String,
    /// Of one that was skipped, the one that was asked for.
    pub flavour: String,
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.flavour)
    }
}

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As the suite expects. For a test with the flag `crfail` that is: criu refused.
    Passed,
    /// A test with the flag `crfail`, which criu was expected to refuse, was dumped and restored, and its own check of
    /// itself passed. (zdtm.py asks the test before it says "unexpected success".)
    NotRefused,
    /// With the step that failed.
    Failed(String),
    /// With the reason.
    Skipped(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Passed => f.write_str("passed"),
            Outcome::NotRefused => f.write_str("not refused"),
            Outcome::Failed(step) => write!(f, "failed at {step}"),
            Outcome::Skipped(reason) => write!(f, "skipped: {reason}"),
        }
    }
}

/// What one run of the suite came to.
#[derive(Debug, Default)]
pub struct Results {
    /// Every test that was run or skipped.
    pub tests: BTreeMap<Test, Outcome>,
    /// What was printed about those that failed.
    pub texts: BTreeMap<Test, String>,
}

impl Results {
    /// How many ended so.
    pub fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        self.tests.values().filter(|outcome| which(outcome)).count()
    }
}

/// Something that is worth showing while the suite runs.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// So many of so many have been started or skipped.
    Progress(usize, usize),
    /// A test has failed.
    Failed(Test, String),
}

/// Reads the output as it comes.
#[derive(Debug, Default)]
pub struct Parser {
    /// The flavour that was asked for.
    flavour: String,
    results: Results,
    /// All that will be run or skipped, as zdtm.py says it; how many of them are known by name.
    total: usize,
    announced: Vec<String>,
    /// The test whose output is being read, and that output.
    current: Option<Test>,
    text: String,
    /// The last line of a whole run has been seen.
    complete: bool,
}

/// The step that zdtm.py names where a test with `crfail` goes through.
const NOT_REFUSED: &str = "unexpected success";

impl Parser {
    /// For the output of a run of one flavour. (Of several, zdtm.py leaves out what follows the first that fails, in an
    /// order that is another each time.)
    pub fn for_flavour(flavour: &str) -> Self {
        Parser {
            flavour: flavour.to_owned(),
            ..Parser::default()
        }
    }

    /// The next line, without its end.
    pub fn line(&mut self, line: &str) -> Option<Event> {
        if let Some((number, total, name)) = announcement(line) {
            self.total = total;
            self.announced.push(name.to_owned());
            self.leave();
            return Some(Event::Progress(number, total));
        }
        if let Some((name, reason)) = skip(line) {
            let test = Test {
                name: name.to_owned(),
                flavour: self.flavour.clone(),
            };
            let outcome = Outcome::Skipped(reason.to_owned());
            self.results.tests.insert(test, outcome);
            self.leave();
            return None;
        }
        if let Some((name, flavour)) = start(line) {
            self.leave();
            self.current = Some(Test {
                name: name.to_owned(),
                flavour: flavour.to_owned(),
            });
        }
        if line.contains(" TEST(S) ") && line.contains("(TOTAL ") {
            self.complete = true;
            self.leave();
        }
        if self.complete
            && let Some((name, flavour)) = failed(line)
        {
            // One that ended without a word of its own: an exception in zdtm.py, or something killed it.
            let test = Test {
                name: name.to_owned(),
                flavour: flavour.to_owned(),
            };
            self.results
                .tests
                .entry(test)
                .or_insert_with(|| Outcome::Failed("no known step: it said nothing".into()));
            return None;
        }
        self.text.push_str(line);
        self.text.push('\n');
        let current = self.current.as_ref()?;
        let outcome = end(line, &current.name)?;
        let event = match &outcome {
            Outcome::Failed(step) => Some(Event::Failed(current.clone(), step.clone())),
            _ => None,
        };
        self.results.tests.insert(current.clone(), outcome);
        event
    }

    /// What follows is not the current test's any more.
    fn leave(&mut self) {
        let text = std::mem::take(&mut self.text);
        let Some(test) = self.current.take() else {
            return;
        };
        let outcome = self.results.tests.entry(test.clone());
        let outcome = outcome.or_insert_with(|| Outcome::Failed("no known step: no end".into()));
        if matches!(outcome, Outcome::Failed(_)) {
            self.results.texts.insert(test, text);
        }
    }

    /// All lines have been read.
    ///
    /// # Errors
    /// If it was not the output of a whole run.
    pub fn end(mut self) -> Result<Results> {
        self.leave();
        ensure!(self.complete, "zdtm.py did not come to its end");
        let tests = &self.results.tests;
        for name in &self.announced {
            ensure!(
                tests.keys().any(|test| test.name == *name),
                "zdtm.py started {name} and never said how it ended"
            );
        }
        let skipped = self.results.count(|o| matches!(o, Outcome::Skipped(_)));
        ensure!(
            self.announced.is_empty() || self.announced.len() + skipped == self.total,
            "zdtm.py spoke of {} tests, of which {} were started and {skipped} skipped",
            self.total,
            self.announced.len()
        );
        Ok(self.results)
    }
}

/// `=== Run 3/475 =--------------- zdtm/static/aio00`
fn announcement(line: &str) -> Option<(usize, usize, &str)> {
    let mut words = line.strip_prefix("=== Run ")?.split_whitespace();
    let (number, total) = words.next()?.split_once('/')?;
    let _bar = words.next()?;
    Some((number.parse().ok()?, total.parse().ok()?, words.next()?))
}

/// `Skipping zdtm/static/apparmor (no apparmor_stacking feature)`
fn skip(line: &str) -> Option<(&str, &str)> {
    let (name, reason) = line.strip_prefix("Skipping ")?.split_once(" (")?;
    name.starts_with("zdtm/").then_some(())?;
    Some((name, reason.strip_suffix(')')?))
}

/// What stands between the signs that `print_sep` fills a line with.
fn heading(line: &str, fill: char) -> &str {
    line.trim_matches(fill).trim()
}

/// `==== Run zdtm/static/aio00 in h ====`
fn start(line: &str) -> Option<(&str, &str)> {
    let (name, flavour) = heading(line, '=')
        .strip_prefix("Run ")?
        .split_once(" in ")?;
    (name.starts_with("zdtm/") && !flavour.contains(' ')).then_some((name, flavour))
}

/// `==== Test zdtm/static/aio00 PASS ====`, `#### Test zdtm/static/aio00 FAIL at CRIU dump ####`
fn end(line: &str, name: &str) -> Option<Outcome> {
    let of = |fill| {
        heading(line, fill)
            .strip_prefix("Test ")?
            .strip_prefix(name)
    };
    if of('=') == Some(" PASS") {
        return Some(Outcome::Passed);
    }
    let step = of('#')?.strip_prefix(" FAIL at ")?;
    Some(match step {
        NOT_REFUSED => Outcome::NotRefused,
        _ => Outcome::Failed(step.to_owned()),
    })
}

/// ` * zdtm/static/pid00(h)`
fn failed(line: &str) -> Option<(&str, &str)> {
    let (name, flavour) = line.strip_prefix(" * zdtm/").and_then(|_| {
        let listed = line.strip_prefix(" * ")?;
        listed.strip_suffix(')')?.rsplit_once('(')
    })?;
    Some((name, flavour))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Results> {
        let mut parser = Parser::for_flavour("h");
        for line in text.lines() {
            parser.line(line);
        }
        parser.end()
    }

    fn outcome(results: &Results, name: &str, flavour: &str) -> Option<Outcome> {
        let test = Test {
            name: format!("zdtm/static/{name}"),
            flavour: flavour.to_owned(),
        };
        results.tests.get(&test).cloned()
    }

    /// As printed by zdtm.py of CRIU 4.1.1, with two tests at a time, shortened.
    const RUN: &str = "\
Checking feature apparmor_stacking
Skipping zdtm/static/apparmor (no apparmor_stacking feature)
=== Run 2/5 ====------------ zdtm/static/pid00
=== Run 3/5 ========-------- zdtm/static/sigtrap
======================== Run zdtm/static/pid00 in h ========================
Start test
b'(00.034520) Error (criu/util.c:1533): rlimit: no'
################### Test zdtm/static/pid00 FAIL at CRIU dump ###################
Test output: ================================

 <<< ================================
Send the 9 signal to  62

=== Run 4/5 ============---- zdtm/static/stopped12
======================= Run zdtm/static/sigtrap in h ========================
############# Test zdtm/static/sigtrap FAIL at unexpected success ##############
Send the 9 signal to  62

=== Run 5/5 ================ zdtm/static/busyloop00
====================== Run zdtm/static/stopped12 in h =======================
Send the 15 signal to  62
Wait for zdtm/static/stopped12(62) to die for 0.100000
======================= Test zdtm/static/stopped12 PASS ========================

====================== Run zdtm/static/busyloop00 in h =======================
Traceback (most recent call last):
subprocess.TimeoutExpired: criu

################### 3 TEST(S) FAILED (TOTAL 5/SKIPPED 1) ###################
 * zdtm/static/pid00(h)
 * zdtm/static/sigtrap(h)
 * zdtm/static/busyloop00(h)
##################################### FAIL #####################################
";

    #[test]
    fn every_kind_of_end() {
        let results = read(RUN).unwrap();
        assert_eq!(results.tests.len(), 5);
        assert_eq!(
            outcome(&results, "pid00", "h"),
            Some(Outcome::Failed("CRIU dump".into()))
        );
        assert_eq!(outcome(&results, "sigtrap", "h"), Some(Outcome::NotRefused));
        assert_eq!(outcome(&results, "stopped12", "h"), Some(Outcome::Passed));
        assert_eq!(
            outcome(&results, "apparmor", "h"),
            Some(Outcome::Skipped("no apparmor_stacking feature".into()))
        );
        assert_eq!(
            outcome(&results, "busyloop00", "h"),
            Some(Outcome::Failed("no known step: no end".into()))
        );
        assert_eq!(results.count(|o| *o == Outcome::Passed), 1);
    }

    #[test]
    fn what_a_failed_test_printed_is_kept_and_nothing_of_others() {
        let results = read(RUN).unwrap();
        let (test, text) = results.texts.last_key_value().unwrap();
        assert_eq!(test.name, "zdtm/static/pid00");
        assert!(text.contains("Run zdtm/static/pid00 in h") && text.contains("Send the 9 signal"));
        assert!(!text.contains("stopped12"), "{text}");
        assert_eq!(results.texts.len(), 2, "of busyloop00 as well");
    }

    #[test]
    fn progress_and_failures_are_told_as_they_come() {
        let mut parser = Parser::for_flavour("h");
        let events: Vec<Event> = RUN.lines().filter_map(|line| parser.line(line)).collect();
        assert_eq!(events.len(), 5);
        assert_eq!(events[0], Event::Progress(2, 5));
        assert!(matches!(&events[2], Event::Failed(test, step)
            if test.to_string() == "zdtm/static/pid00 (h)" && step == "CRIU dump"));
    }

    #[test]
    fn one_that_never_spoke_is_known_from_the_list_at_the_end() {
        let results = read(
            "=== Run 1/1 ================ zdtm/static/aio00\n\
             \n\
             ####### 1 TEST(S) FAILED (TOTAL 1/SKIPPED 0) #######\n \
             * zdtm/static/aio00(h)\n",
        )
        .unwrap();
        assert!(matches!(
            outcome(&results, "aio00", "h"),
            Some(Outcome::Failed(_))
        ));
    }

    #[test]
    fn a_run_that_broke_off_is_an_error() {
        let text = RUN.split("################### 3 TEST(S)").next().unwrap();
        assert!(read(text).is_err(), "no last line");
        let unended = RUN.replace("Run zdtm/static/stopped12 in h", "");
        let unended = unended.replace("Test zdtm/static/stopped12 PASS", "");
        assert!(read(&unended).is_err(), "stopped12 was started only");
        assert!(read("").is_err());
    }

    #[test]
    fn what_a_test_prints_is_not_taken_for_an_end() {
        let results = read(
            "=== Run 1/1 ================ zdtm/static/aio00\n\
             ======= Run zdtm/static/aio00 in h =======\n\
             Test zdtm/static/aio PASS\n\
             Skipping this (for now)\n \
             * zdtm/static/aio00(h)\n\
             ####### Test zdtm/static/aio00 FAIL at result check #######\n\
             ####### 1 TEST(S) FAILED (TOTAL 1/SKIPPED 0) #######\n",
        )
        .unwrap();
        assert_eq!(results.tests.len(), 1);
        assert!(matches!(
            outcome(&results, "aio00", "h"),
            Some(Outcome::Failed(_))
        ));
    }
}
