//! All runs of all rows, some at a time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::config;
use crate::gaps::inside::{TOO_LATE, TOO_SLOW};
use crate::gaps::table::{FEW, Row};
use crate::gaps::verdict::{End, Mode, Run};
use crate::ns::{self, Ended};
use crate::rundir::RunDir;

/// No run takes so long, but for deep queues.
const PATIENCE: Duration = Duration::from_secs(120);
/// For those.
const PATIENCE_DEEP: Duration = Duration::from_secs(240);
/// How often a run is made again that shows nothing.
const ATTEMPTS: u32 = 20;
/// Times on which a case depends get longer by this at most.
const SLOWEST: u32 = 16;

/// What is to be run.
pub struct Plan {
    /// The cases.
    pub rows: Vec<&'static Row>,
    /// In these ways, where they apply.
    pub modes: Vec<Mode>,
    /// Instead of each row's own number, but of those that are measured.
    pub repeats: Option<u32>,
    /// At a time.
    pub jobs: usize,
    /// Keep every run's folder, not only those that went wrong.
    pub keep: bool,
}

/// The runs of each row, by its name.
pub type Runs = BTreeMap<&'static str, Vec<(Mode, Run)>>;

struct Job {
    row: &'static Row,
    mode: Mode,
    number: u32,
}

impl Plan {
    /// How often a row is run in one way.
    pub fn repeats(&self, row: &Row, mode: Mode) -> u32 {
        let most = if mode.has_plugin() {
            row.repeats
        } else {
            row.repeats.min(FEW)
        };
        match self.repeats {
            Some(repeats) if !row.deep => repeats,
            _ => most,
        }
    }

    fn jobs(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for &row in &self.rows {
            for &mode in self
                .modes
                .iter()
                .filter(|mode| row.leave_running || !mode.leaves_running())
            {
                jobs.extend((0..self.repeats(row, mode)).map(|number| Job { row, mode, number }));
            }
        }
        jobs
    }
}

/// Where the runs' folders are.
pub fn folder() -> PathBuf {
    config::target_dir().join("gaps")
}

/// Where a row's program is.
pub fn program(row: &Row) -> PathBuf {
    programs(row.is_ia32()).join(row.program)
}

fn programs(ia32: bool) -> PathBuf {
    folder().join(if ia32 { "programs-ia32" } else { "programs" })
}

/// Builds the programs that the rows need. They are not victims: a failure to build one is not a failure of the tests'
/// build.
pub fn build_programs(rows: &[&Row]) -> Result<()> {
    for ia32 in [false, true] {
        let mut names: Vec<&str> = rows
            .iter()
            .filter(|row| row.is_ia32() == ia32)
            .map(|row| row.program)
            .collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            build_program(name, ia32)?;
        }
    }
    Ok(())
}

fn build_program(name: &str, ia32: bool) -> Result<()> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("gaps");
    let to = programs(ia32);
    fs::create_dir_all(&to).with_context(|| to.display().to_string())?;
    let status = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(if ia32 { &["-m32"][..] } else { &[] })
        .args([
            "-std=gnu11",
            "-O1",
            "-g",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pthread",
            "-o",
        ])
        .arg(to.join(name))
        .args([sources.join(format!("{name}.c")), sources.join("gap.c")])
        .status()
        .context("starting the C compiler")?;
    ensure!(status.success(), "{name}.c does not compile");
    Ok(())
}

/// Makes all runs. `progress` is called after each.
pub fn run(plan: &Plan, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Runs> {
    let jobs = plan.jobs();
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<Run>)>> = Mutex::new(Vec::new());
    let work = |index: usize, job: &Job| {
        let result = one(job, plan.keep);
        if let Ok(mut all) = results.lock() {
            all.push((index, result));
        }
        progress(done.fetch_add(1, Ordering::Relaxed) + 1, jobs.len());
    };
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                while let Some((index, job)) = take(&jobs, &next) {
                    if !job.row.deep {
                        work(index, job);
                    }
                }
            });
        }
    });
    // What is measured is disturbed by nothing of ours.
    for (index, job) in jobs.iter().enumerate() {
        if job.row.deep {
            work(index, job);
        }
    }
    let mut runs = Runs::new();
    let mut all = results
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    all.sort_by_key(|(index, _)| *index);
    for (index, result) in all {
        let job = &jobs[index];
        let run = result
            .with_context(|| format!("{} {}, run {}", job.row.name, job.mode.name(), job.number))?;
        runs.entry(job.row.name).or_default().push((job.mode, run));
    }
    Ok(runs)
}

fn take<'a>(jobs: &'a [Job], next: &AtomicUsize) -> Option<(usize, &'a Job)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    jobs.get(index).map(|job| (index, job))
}

fn one(job: &Job, keep: bool) -> Result<Run> {
    let (mut late, mut slow, mut slower) = (0, 0, 1);
    while late + slow < ATTEMPTS {
        match attempt(job, slower, keep)? {
            Attempt::Ended(run) => return Ok(run),
            Attempt::TooLate => late += 1,
            Attempt::TooSlow => {
                slow += 1;
                slower = SLOWEST.min(slower * 2);
            }
        }
    }
    bail!("the signal came too late {late} times, and the machine was too slow {slow} times")
}

enum Attempt {
    Ended(Run),
    TooLate,
    TooSlow,
}

fn attempt(job: &Job, slower: u32, keep: bool) -> Result<Attempt> {
    let path = folder().join(format!(
        "{}.{}.{}",
        job.row.name,
        job.mode.name(),
        job.number
    ));
    let dir = RunDir::create(&path)?;
    // A case's own uid writes here as well.
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let args = [
        job.row.name,
        job.mode.name(),
        &slower.to_string(),
        &path.to_string_lossy(),
    ];
    let patience = slower
        * if job.row.deep {
            PATIENCE_DEEP
        } else {
            PATIENCE
        };
    match ns::run(&args, &dir.file("inside.out"), patience)? {
        Ended::With(status) => ensure!(status.success(), "{}", dir.tail("inside.out", 10)),
        Ended::TimedOut => {
            let step = if dir.images().join("restore.log").exists() {
                "restore"
            } else {
                "dump"
            };
            return Ok(Attempt::Ended(Run {
                end: End::Lost,
                outcome: format!("criu {step} does not end"),
                afterwards: None,
                warnings: warnings(&dir),
                frozen_us: None,
                left_to_criu: None,
            }));
        }
    }
    let result = dir.read("result");
    match result.as_str() {
        TOO_LATE => return Ok(Attempt::TooLate),
        TOO_SLOW => return Ok(Attempt::TooSlow),
        _ => {}
    }
    let run = parse(&result, warnings(&dir))?;
    if !keep && run.end == End::Finished {
        dir.remove()?;
    }
    Ok(Attempt::Ended(run))
}

fn parse(text: &str, warnings: Vec<String>) -> Result<Run> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.split_once(' ').filter(|(key, _)| *key == name))
            .map(|(_, value)| value)
    };
    Ok(Run {
        end: field("end")
            .and_then(End::from_name)
            .context("the result has no end")?,
        outcome: field("outcome")
            .context("the result has no outcome")?
            .to_owned(),
        afterwards: field("afterwards").map(str::to_owned),
        warnings,
        frozen_us: field("frozen").and_then(|us| us.parse().ok()),
        left_to_criu: field("left-to-criu").and_then(|entries| entries.parse().ok()),
    })
}

/// What the plugin warned of in criu's logs: an information that nobody reads does not count.
fn warnings(dir: &RunDir) -> Vec<String> {
    ["images/dump.log", "images/restore.log"]
        .iter()
        .flat_map(|log| dir.read(log).lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| {
            line.contains("signals: ") && (line.contains("Warn") || line.contains("Error"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_read_back() {
        let run = parse(
            "frozen 12\nleft-to-criu 3\nend finished\noutcome a b; c\n",
            Vec::new(),
        )
        .unwrap();
        assert_eq!(
            (
                run.end,
                run.outcome.as_str(),
                run.frozen_us,
                run.left_to_criu
            ),
            (End::Finished, "a b; c", Some(12), Some(3))
        );
        assert!(parse("outcome a\n", Vec::new()).is_err());
    }
}
