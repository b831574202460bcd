//! The metrics of dumps and restores: counters over all runs, in the text format of OpenMetrics, described in
//! `docs/metrics.md`.
//!
//! Prometheus cannot ask a criu that has ended. So the file keeps the counters: a run reads the counters of earlier runs,
//! adds its own, and writes the sums.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::losses::notices::Notice;
use crate::run_report::{Action, Document, Level, Outcome, Process, Stage};

/// What all names begin with.
const PREFIX: &str = "criu_signals_";
/// The last line, by which a reader knows that nothing is missing.
const END: &str = "# EOF";
const MICROS: u64 = 1_000_000;

/// What OpenMetrics knows of a family.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Its samples end in `_total`.
    Counter,
    /// A number of events in `_count`, and the sum of their values in `_sum`.
    Summary,
    Gauge,
}

/// Metrics of one name.
struct Family {
    /// Without [`PREFIX`]. The name of a family in seconds ends in `_seconds`, as OpenMetrics requires for the unit.
    name: &'static str,
    kind: Kind,
    help: &'static str,
}

const RUNS: &str = "runs";
const RUN_DURATION: &str = "run_duration_seconds";
const PROCESSES: &str = "processes";
const PROCESS_DURATION: &str = "process_duration_seconds";
const CAPTURED: &str = "captured_signals";
const COMPARED: &str = "compared_signals";
const GIVEN_BACK: &str = "given_back_signals";
const ARRIVED: &str = "arrived_signals";
const TAKEN_OUT: &str = "taken_out_processes";
const DIFFERENCES: &str = "differences";
const NOTICES: &str = "notices";
const ERRORS: &str = "errors";
const LAST_END: &str = "last_run_timestamp_seconds";
const LAST_DURATION: &str = "last_run_duration_seconds";
const LAST_OUTCOME: &str = "last_run_outcome";

/// All families, in the order of the file. Samples of other names are not kept.
const FAMILIES: [Family; 15] = [
    family(
        RUNS,
        Kind::Counter,
        "Runs of criu, by the outcome of the run.",
    ),
    family(
        RUN_DURATION,
        Kind::Summary,
        "Time from the start of the plugin to its end, nearly the whole run of criu.",
    ),
    family(
        PROCESSES,
        Kind::Counter,
        "Processes that were dumped or restored, by their outcome.",
    ),
    family(
        PROCESS_DURATION,
        Kind::Summary,
        "Time that the plugin took for a process, which is stopped meanwhile.",
    ),
    family(
        CAPTURED,
        Kind::Counter,
        "Pending signals that dumps have captured.",
    ),
    family(
        COMPARED,
        Kind::Counter,
        "Pending signals that restores have compared.",
    ),
    family(
        GIVEN_BACK,
        Kind::Counter,
        "Pending signals that dumps had taken out and restores have put back.",
    ),
    family(
        ARRIVED,
        Kind::Counter,
        "Pending signals that were sent after the dump and found at the restore.",
    ),
    family(
        TAKEN_OUT,
        Kind::Counter,
        "Processes from which signals were taken out for the time of the dump.",
    ),
    family(
        DIFFERENCES,
        Kind::Counter,
        "State that a restore found not as captured, by what became of the difference.",
    ),
    family(
        NOTICES,
        Kind::Counter,
        "Notices, by the kind of the state that cannot be kept and by the level.",
    ),
    family(ERRORS, Kind::Counter, "Errors in reports."),
    family(
        LAST_END,
        Kind::Gauge,
        "When the last run ended, as Unix time.",
    ),
    family(LAST_DURATION, Kind::Gauge, "Duration of the last run."),
    family(
        LAST_OUTCOME,
        Kind::Gauge,
        "1 for the outcome of the last run, 0 for the other outcomes.",
    ),
];

const fn family(name: &'static str, kind: Kind, help: &'static str) -> Family {
    Family { name, kind, help }
}

impl Family {
    fn position(name: &str) -> Option<usize> {
        FAMILIES.iter().position(|family| family.name == name)
    }

    fn in_seconds(&self) -> bool {
        self.name.ends_with("_seconds")
    }

    /// What the names of its samples end in.
    fn samples(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Counter => &["_total"],
            Kind::Summary => &["_count", "_sum"],
            Kind::Gauge => &[""],
        }
    }

    fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "counter",
            Kind::Summary => "summary",
            Kind::Gauge => "gauge",
        }
    }
}

/// Which sample: the place of the family in [`FAMILIES`], the labels, the end of the name. The order is that of the file, in
/// which OpenMetrics wants the samples of one summary together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    family: usize,
    labels: String,
    end: &'static str,
}

impl Key {
    fn in_seconds(&self) -> bool {
        FAMILIES[self.family].in_seconds() && self.end != "_count"
    }
}

/// Why a text is not taken for metrics of this plugin.
#[derive(Debug, PartialEq, Eq)]
pub enum NotMetrics {
    /// A line, counted from 1.
    Line(usize),
    /// The end is missing.
    End,
}

impl fmt::Display for NotMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotMetrics::Line(line) => write!(f, "line {line} is no metric of this plugin"),
            NotMetrics::End => write!(f, "the last line is not {END:?}"),
        }
    }
}

impl std::error::Error for NotMetrics {}

/// What has been counted. `Display` gives the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics(BTreeMap<Key, u64>);

impl Default for Metrics {
    /// The metrics before the first run. A sample that can occur is 0, not absent, because a rate needs a first value.
    fn default() -> Metrics {
        let mut metrics = Metrics(BTreeMap::new());
        for stage in [Stage::Dump, Stage::Restore] {
            metrics.begin(stage);
        }
        for action in [Action::PutBack, Action::LeftAlone, Action::NotPutBack] {
            metrics.add(DIFFERENCES, &done(action), 0);
        }
        for family in [CAPTURED, COMPARED, GIVEN_BACK, ARRIVED, TAKEN_OUT] {
            metrics.add(family, "", 0);
        }
        metrics
    }
}

impl Metrics {
    /// Parses what earlier runs have written. An empty text is the file before the first run.
    ///
    /// # Errors
    /// If the text is another program's, or is cut off.
    pub fn parse(text: &str) -> Result<Metrics, NotMetrics> {
        let mut metrics = Metrics::default();
        if text.is_empty() {
            return Ok(metrics);
        }
        let Some(text) = text.strip_suffix('\n').and_then(|t| t.strip_suffix(END)) else {
            return Err(NotMetrics::End);
        };
        for (at, line) in text.lines().enumerate() {
            if line.starts_with('#') {
                continue;
            }
            let ours = line.strip_prefix(PREFIX);
            let (name, value) = ours
                .and_then(|sample| sample.rsplit_once(' '))
                .ok_or(NotMetrics::Line(at + 1))?;
            // A younger plugin may have more families.
            let Some(key) = key(name) else { continue };
            let value = number(value, key.in_seconds()).ok_or(NotMetrics::Line(at + 1))?;
            metrics.0.insert(key, value);
        }
        Ok(metrics)
    }

    /// Counts a run that ended at `now`, as time since 1970.
    pub fn count(&mut self, run: &Document, now: Duration) {
        let stage = run.stage;
        self.add(RUNS, &outcome(stage, run.outcome), 1);
        self.took(RUN_DURATION, stage, run.duration_us);
        self.add(ERRORS, &stage_label(stage), run.errors.len());
        for notice in &run.notices {
            self.notice(stage, &notice.kind, notice.level);
        }
        for process in &run.processes {
            self.process(stage, process);
        }
        self.set(LAST_END, &stage_label(stage), micros(now));
        self.set(LAST_DURATION, &stage_label(stage), run.duration_us);
        for &one in outcomes(stage) {
            self.set(
                LAST_OUTCOME,
                &outcome(stage, one),
                u64::from(one == run.outcome),
            );
        }
    }

    fn process(&mut self, stage: Stage, process: &Process) {
        self.add(PROCESSES, &outcome(stage, process.outcome), 1);
        self.took(PROCESS_DURATION, stage, process.duration_us);
        let signals = match stage {
            Stage::Dump => CAPTURED,
            Stage::Restore => COMPARED,
        };
        self.add(signals, "", process.siginfos);
        self.add(GIVEN_BACK, "", process.given_back);
        self.add(ARRIVED, "", process.arrived_since);
        self.add(TAKEN_OUT, "", usize::from(!process.taken_out.is_empty()));
        self.add(ERRORS, &stage_label(stage), process.errors.len());
        for difference in &process.differences {
            self.add(DIFFERENCES, &done(difference.done), 1);
        }
        for notice in &process.notices {
            self.notice(stage, &notice.kind, notice.level);
        }
    }

    /// What a stage can count, as 0.
    fn begin(&mut self, stage: Stage) {
        for &one in outcomes(stage) {
            self.add(RUNS, &outcome(stage, one), 0);
            self.add(PROCESSES, &outcome(stage, one), 0);
        }
        for family in [RUN_DURATION, PROCESS_DURATION] {
            self.entry(family, &stage_label(stage), "_count");
            self.entry(family, &stage_label(stage), "_sum");
        }
        self.add(ERRORS, &stage_label(stage), 0);
        for kind in Notice::REFUSABLE {
            if (kind == Notice::SmallStack) == (stage == Stage::Restore) {
                self.add(
                    NOTICES,
                    &kind_and_level(stage, &kind.to_string(), Level::Warning),
                    0,
                );
            }
        }
    }

    fn notice(&mut self, stage: Stage, kind: &str, level: Level) {
        self.add(NOTICES, &kind_and_level(stage, kind, level), 1);
    }

    fn add(&mut self, family: &'static str, labels: &str, more: usize) {
        let value = self.entry(family, labels, "_total");
        *value = value.saturating_add(more as u64);
    }

    fn took(&mut self, family: &'static str, stage: Stage, micros: u64) {
        for (end, more) in [("_count", 1), ("_sum", micros)] {
            let value = self.entry(family, &stage_label(stage), end);
            *value = value.saturating_add(more);
        }
    }

    fn set(&mut self, family: &'static str, labels: &str, value: u64) {
        *self.entry(family, labels, "") = value;
    }

    fn entry(&mut self, family: &'static str, labels: &str, end: &'static str) -> &mut u64 {
        let key = Key {
            family: Family::position(family).unwrap_or_default(),
            labels: labels.to_owned(),
            end,
        };
        self.0.entry(key).or_default()
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, family) in FAMILIES.iter().enumerate() {
            let name = format!("{PREFIX}{}", family.name);
            writeln!(f, "# TYPE {name} {}", family.kind())?;
            if family.in_seconds() {
                writeln!(f, "# UNIT {name} seconds")?;
            }
            writeln!(f, "# HELP {name} {}", family.help)?;
            for (key, &value) in self.0.iter().filter(|(key, _)| key.family == at) {
                let labels = match key.labels.as_str() {
                    "" => String::new(),
                    labels => format!("{{{labels}}}"),
                };
                let value = written(value, key.in_seconds());
                writeln!(f, "{name}{}{labels} {value}", key.end)?;
            }
        }
        writeln!(f, "{END}")
    }
}

/// The sample of this name, without [`PREFIX`].
fn key(name: &str) -> Option<Key> {
    let (name, labels) = match name.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (name, ""),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-=\",".contains(c);
    if !labels.chars().all(plain) {
        return None;
    }
    FAMILIES.iter().enumerate().find_map(|(family, known)| {
        let end = name.strip_prefix(known.name)?;
        let end = known.samples().iter().find(|&&known| known == end)?;
        let labels = labels.to_owned();
        Some(Key {
            family,
            labels,
            end,
        })
    })
}

/// Microseconds are written as seconds, so that no digit is lost when they are read again.
fn written(value: u64, in_seconds: bool) -> String {
    if in_seconds {
        format!("{}.{:06}", value / MICROS, value % MICROS)
    } else {
        value.to_string()
    }
}

fn number(text: &str, in_seconds: bool) -> Option<u64> {
    if !in_seconds {
        return text.parse().ok();
    }
    let (seconds, micros) = text.split_once('.')?;
    let micros: u64 = Some(micros).filter(|m| m.len() == 6)?.parse().ok()?;
    let seconds: u64 = seconds.parse().ok()?;
    seconds.checked_mul(MICROS)?.checked_add(micros)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The outcomes that a run of this stage can have.
fn outcomes(stage: Stage) -> &'static [Outcome] {
    match stage {
        Stage::Dump => &[Outcome::Captured, Outcome::Failed, Outcome::Refused],
        Stage::Restore => &[
            Outcome::Verified,
            Outcome::Repaired,
            Outcome::Differs,
            Outcome::Unchecked,
            Outcome::Failed,
            Outcome::Refused,
        ],
    }
}

fn stage_label(stage: Stage) -> String {
    format!("stage=\"{stage}\"")
}

fn outcome(stage: Stage, outcome: Outcome) -> String {
    format!("stage=\"{stage}\",outcome=\"{}\"", outcome.word())
}

fn done(action: Action) -> String {
    format!("done=\"{}\"", action.word())
}

fn kind_and_level(stage: Stage, kind: &str, level: Level) -> String {
    let mut labels = stage_label(stage);
    let _ = write!(labels, ",kind=\"{kind}\",level=\"{}\"", level.word());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_report::{Criu, Difference, Notice, VERSION};

    fn run(stage: Stage, outcome: Outcome) -> Document {
        Document {
            report_version: VERSION,
            plugin_version: "1".into(),
            stage,
            outcome,
            criu: Criu {
                pid: 1,
                versions: None,
                result: Some(0),
            },
            images: None,
            policy: "repair".into(),
            duration_us: 2_000_003,
            processes: vec![Process {
                siginfos: 12,
                given_back: 3,
                duration_us: 5,
                differences: vec![Difference {
                    place: "process".into(),
                    field: "mask".into(),
                    dumped: String::new(),
                    found: String::new(),
                    done: Action::PutBack,
                }],
                notices: vec![Notice {
                    kind: "timeout".into(),
                    level: Level::Info,
                    text: String::new(),
                }],
                ..Process::new(outcome)
            }],
            notices: Vec::new(),
            errors: vec!["one".into()],
        }
    }

    fn has(metrics: &Metrics, line: &str) -> bool {
        metrics.to_string().lines().any(|one| one == line)
    }

    #[test]
    fn runs_are_counted_over_the_file() {
        let mut text = String::new();
        for second in 1..=2 {
            let mut metrics = Metrics::parse(&text).unwrap();
            let now = Duration::new(second, 7_000);
            metrics.count(&run(Stage::Restore, Outcome::Repaired), now);
            text = metrics.to_string();
        }
        let metrics = Metrics::parse(&text).unwrap();
        assert_eq!(metrics.to_string(), text);
        let repaired = "stage=\"restore\",outcome=\"repaired\"";
        for line in [
            format!("criu_signals_runs_total{{{repaired}}} 2"),
            format!("criu_signals_processes_total{{{repaired}}} 2"),
            format!("criu_signals_last_run_outcome{{{repaired}}} 1"),
            "criu_signals_run_duration_seconds_count{stage=\"restore\"} 2".to_owned(),
            "criu_signals_run_duration_seconds_sum{stage=\"restore\"} 4.000006".to_owned(),
            "criu_signals_process_duration_seconds_sum{stage=\"restore\"} 0.000010".to_owned(),
            "criu_signals_compared_signals_total 24".to_owned(),
            "criu_signals_captured_signals_total 0".to_owned(),
            "criu_signals_given_back_signals_total 6".to_owned(),
            "criu_signals_differences_total{done=\"put-back\"} 2".to_owned(),
            "criu_signals_errors_total{stage=\"restore\"} 2".to_owned(),
            "criu_signals_notices_total{stage=\"restore\",kind=\"timeout\",level=\"info\"} 2"
                .to_owned(),
            "criu_signals_last_run_timestamp_seconds{stage=\"restore\"} 2.000007".to_owned(),
        ] {
            assert!(has(&metrics, &line), "no {line}:\n{text}");
        }
    }

    /// A dump leaves what a restore has counted alone.
    #[test]
    fn the_stages_share_a_file() {
        let mut metrics = Metrics::default();
        metrics.count(
            &run(Stage::Restore, Outcome::Verified),
            Duration::from_secs(8),
        );
        let mut metrics = Metrics::parse(&metrics.to_string()).unwrap();
        metrics.count(&run(Stage::Dump, Outcome::Refused), Duration::from_secs(9));
        for line in [
            "criu_signals_runs_total{stage=\"restore\",outcome=\"verified\"} 1",
            "criu_signals_runs_total{stage=\"dump\",outcome=\"refused\"} 1",
            "criu_signals_last_run_timestamp_seconds{stage=\"restore\"} 8.000000",
            "criu_signals_last_run_timestamp_seconds{stage=\"dump\"} 9.000000",
            "criu_signals_captured_signals_total 12",
            "criu_signals_compared_signals_total 12",
        ] {
            assert!(has(&metrics, line), "no {line}:\n{metrics}");
        }
    }

    #[test]
    fn another_text_is_not_taken_for_metrics() {
        let good = Metrics::default().to_string();
        assert_eq!(Metrics::parse(""), Ok(Metrics::default()));
        assert_eq!(Metrics::parse(&good), Ok(Metrics::default()));
        assert_eq!(
            Metrics::parse(&good[..good.len() - 9]),
            Err(NotMetrics::End)
        );
        assert_eq!(Metrics::parse("root:x:0:0\n"), Err(NotMetrics::End));
        let foreign = "# TYPE a gauge\na 1\n# EOF\n";
        assert_eq!(Metrics::parse(foreign), Err(NotMetrics::Line(2)));
        let bad = good.replace("captured_signals_total 0", "captured_signals_total -1");
        assert!(matches!(Metrics::parse(&bad), Err(NotMetrics::Line(_))));
        let bad = good.replacen("0.000000", "0.5", 1);
        assert!(matches!(Metrics::parse(&bad), Err(NotMetrics::Line(_))));
    }

    /// A younger plugin's file is read, and what is not known is not kept.
    #[test]
    fn more_families_are_no_fault() {
        let good = Metrics::default().to_string();
        let more = good.replace(END, "criu_signals_moons_total{a=\"b\"} 7\n# EOF");
        assert_eq!(Metrics::parse(&more), Ok(Metrics::default()));
    }

    /// The largest values stay what they are.
    #[test]
    fn a_counter_does_not_wrap() {
        let mut metrics = Metrics::default();
        metrics.took(RUN_DURATION, Stage::Dump, u64::MAX);
        metrics.took(RUN_DURATION, Stage::Dump, 1);
        assert_eq!(Metrics::parse(&metrics.to_string()), Ok(metrics));
    }
}
