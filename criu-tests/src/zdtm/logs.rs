//! Collects the plugin's lines from the logs of a run of the suite: every verdict, and every unusual line.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::plugin::{self, Verdict};

/// What it said about one test, in all dumps and restores of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Logs of dumps in which the plugin spoke.
    pub dumps: usize,
    /// Logs of restores in which it did.
    pub restores: usize,
    /// The verdict over each process.
    pub verdicts: Vec<Result<Verdict, String>>,
    /// The lines at which someone should look, without time, place and prefix: what differed, warnings, errors, and
    /// what was done to a process for the time of the dump.
    pub lines: Vec<String>,
}

/// By the test's name.
pub type Logs = BTreeMap<String, Said>;

/// Reads the logs below `dump/`, whose folders are `dump/zdtm/static/NAME/PID/ITERATION`.
///
/// # Errors
/// If they can't be read.
pub fn read(dump: &Path) -> Result<Logs> {
    let mut logs = Logs::new();
    if dump.is_dir() {
        read_below(dump, dump, &mut logs)?;
    }
    Ok(logs)
}

fn read_below(dump: &Path, dir: &Path, logs: &mut Logs) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut paths = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| dir.display().to_string())?;
    paths.sort();
    for path in paths {
        if path.is_dir() && !path.is_symlink() {
            read_below(dump, &path, logs)?;
            continue;
        }
        let stage = match path.file_name().and_then(OsStr::to_str) {
            Some("dump.log") => Stage::Dump,
            Some("restore.log") => Stage::Restore,
            _ => continue,
        };
        // Above the log: the iteration, the pid, the test.
        let test = path
            .ancestors()
            .nth(3)
            .and_then(|t| t.strip_prefix(dump).ok());
        let Some(test) = test else { continue };
        let text = fs::read(&path).with_context(|| path.display().to_string())?;
        let said = logs.entry(test.to_string_lossy().into_owned()).or_default();
        said.add(stage, &String::from_utf8_lossy(&text));
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Stage {
    Dump,
    Restore,
}

impl Said {
    fn add(&mut self, stage: Stage, log: &str) {
        self.verdicts.extend(plugin::verdicts(log));
        let mut spoke = false;
        for line in plugin::lines(log) {
            spoke = true;
            let Some((before, text)) = line.split_once(plugin::PREFIX) else {
                continue;
            };
            let is_loud = before.contains("Error") || before.contains("Warn");
            if is_loud || !is_ordinary(text) {
                self.lines.push(text.to_owned());
            }
        }
        if spoke {
            match stage {
                Stage::Dump => self.dumps += 1,
                Stage::Restore => self.restores += 1,
            }
        }
    }

    /// Whether there is anything to look at.
    pub fn is_remarkable(&self) -> bool {
        !self.lines.is_empty() || self.verdicts.iter().any(|v| *v != Ok(Verdict::Verified))
    }
}

/// What is said of a run as a whole, and of any process where nothing is to be told.
fn is_ordinary(text: &str) -> bool {
    let of_a_process = [
        "verdict=verified",
        ": captured into signals-",
        // A call that will go on as if there had been no dump: of most processes that wait for something.
        "EINTR is only this stop's",
    ];
    !text.starts_with("pid ") || of_a_process.iter().any(|part| text.contains(part))
}

/// How many processes got each verdict.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Processes by verdict.
    pub verdicts: BTreeMap<String, usize>,
    /// Dumps in which the plugin spoke.
    pub dumps: usize,
    /// Restores in which it did.
    pub restores: usize,
}

/// Over all tests.
pub fn tally(logs: &Logs) -> Tally {
    let mut tally = Tally::default();
    for said in logs.values() {
        tally.dumps += said.dumps;
        tally.restores += said.restores;
        for verdict in &said.verdicts {
            let word = match verdict {
                Ok(verdict) => verdict.to_string(),
                Err(line) => format!("unknown ({line})"),
            };
            *tally.verdicts.entry(word).or_default() += 1;
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "\
(00.098963) Plugin \"signals_plugin\" (version 512 hooks 12)
(00.155228) signals: pid 62: SIGTRAP taken out until the end of the dump: a SIGTRAP is pending
(00.214435) signals: pid 62 (sigtrap): captured into signals-62.img: running, threads=1, dispositions=4, altstacks=0
(00.216382) Dump private signals of 62
(00.220000) Warn  (src/state/timers.rs:239): signals: pid 62: periodic timers
(00.258769) signals: pid 62: 1 pending signals put back
(00.258804) signals: dump: 1 processes captured; not kept: nothing
";
    const RESTORE: &str = "\
(00.086591) signals: policy=repair, 2 processes to check
(00.130411) signals: pid 62: verdict=verified threads=1 siginfos=0 given-back=0 arrived-since=0 differences=0 failures=0
(00.160946) Warn  (plugin/src/restore.rs:133): signals: pid 63: verdict=repaired threads=1 siginfos=0 differences=1
(00.160950) Warn  (plugin/src/restore.rs:133): signals: pid 63: thread 63 mask: dumped: none; found: SIGHUP; put back
";

    #[test]
    fn verdicts_are_counted_and_the_rest_is_listed() {
        let mut said = Said::default();
        said.add(Stage::Dump, DUMP);
        assert!(said.is_remarkable());
        assert_eq!(
            said.lines,
            [
                "pid 62: SIGTRAP taken out until the end of the dump: a SIGTRAP is pending",
                "pid 62: periodic timers",
                "pid 62: 1 pending signals put back"
            ]
        );
        said.add(Stage::Restore, RESTORE);
        assert_eq!(said.lines.len(), 5);
        let logs = Logs::from([("zdtm/static/sigtrap".to_owned(), said)]);
        let expected = [("repaired".to_owned(), 1), ("verified".to_owned(), 1)];
        assert_eq!(
            tally(&logs),
            Tally {
                verdicts: BTreeMap::from(expected),
                dumps: 1,
                restores: 1
            }
        );
    }

    #[test]
    fn a_log_without_the_plugin_does_not_count() {
        let mut said = Said::default();
        said.add(Stage::Dump, "(00.216382) Dump private signals of 62\n");
        said.add(Stage::Restore, "");
        assert_eq!(said, Said::default());
        assert!(!said.is_remarkable());
    }

    #[test]
    fn an_ordinary_restore_is_not_remarkable() {
        let mut said = Said::default();
        let ordinary: Vec<&str> = RESTORE.lines().take(2).collect();
        said.add(Stage::Restore, &ordinary.join("\n"));
        assert!(!said.is_remarkable());
        assert_eq!(said.restores, 1);
        said.add(
            Stage::Restore,
            "(00.1) Error (x:1): signals: dump: pid 9 was not captured",
        );
        assert!(said.is_remarkable());
    }
}
