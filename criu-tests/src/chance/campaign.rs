//! Many seeds: some at a time, each result a line of a file as soon as it is known, so that a campaign that was ended
//! goes on where it was.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::chance::cell::{Alone, Cell, Job, Outcome};
use crate::chance::generate::{self, Focus, GENERATOR};
use crate::chance::minimise::minimise;
use crate::chance::plan::Plan;
use crate::chance::stage::STEP;
use crate::chance::standstill::Watch;
use crate::chance::verdict::Verdict;
use crate::chance::ways::{Kind, Way};

/// Which ways a seed is run in.
#[derive(Clone, Debug)]
pub enum Ways {
    /// One of these, by the seed.
    OneOf(Vec<Kind>),
    /// Each of these.
    Each(Vec<Kind>),
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The seeds.
    pub seeds: Range<u64>,
    /// What their plans have more of.
    pub focus: Focus,
    /// The ways.
    pub ways: Ways,
    /// Only programs of 32 bits, or of 64.
    pub ia32: Option<bool>,
    /// Whether criu alone is run where the plugin makes no difference.
    pub alone: Alone,
    /// At a time.
    pub jobs: u32,
    /// How often a fault is looked at again.
    pub again: u32,
    /// Plans that fail are reduced.
    pub minimise: bool,
    /// Folders of what fails are kept here.
    pub keep: Option<PathBuf>,
    /// The version of criu, for the records.
    pub criu: String,
    /// Whether there is no 32-bit program.
    pub no_ia32: bool,
}

/// One line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The seed.
    pub seed: u64,
    /// The version of what makes plans of seeds.
    pub generator: u32,
    /// What the plans have more of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub focus: Focus,
    /// The version of criu.
    pub criu: String,
    /// 32 or 64.
    pub bits: u32,
    /// How often it was run anew because it had failed while the machine stood still.
    #[serde(default, skip_serializing_if = "is_default")]
    pub anew: u32,
    /// What came out.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The smallest plan that fails so, if it was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smallest: Option<String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// So often a seed that fails while the machine stands still is run anew.
const ANEW: u32 = 3;
/// Some hundred times what is usual: of a plan that hangs it is asked whether a smaller one does, too.
const SOON: Duration = Duration::from_secs(12);
/// Questions that the minimiser may ask of one plan.
const QUESTIONS: u32 = 250;

impl Campaign {
    /// The ways of a seed.
    pub fn ways_of(&self, seed: u64) -> Vec<Way> {
        let mut random = generate::way_stream(seed);
        match &self.ways {
            Ways::Each(kinds) => kinds
                .iter()
                .map(|kind| Way::draw(*kind, &mut random))
                .collect(),
            Ways::OneOf(kinds) => Kind::draw(&mut random, kinds)
                .map(|kind| Way::draw(kind, &mut random))
                .into_iter()
                .collect(),
        }
    }

    fn is_ia32(&self, seed: u64) -> bool {
        !self.no_ia32 && self.ia32.unwrap_or_else(|| generate::is_ia32(seed))
    }

    fn bits(&self, seed: u64) -> u32 {
        if self.is_ia32(seed) { 32 } else { 64 }
    }

    /// The job of a plan.
    pub fn job(&self, plan: &Plan, ia32: bool, ways: &[Way], keep: Option<PathBuf>) -> Job {
        Job {
            plan: plan.to_string(),
            ia32,
            ways: ways.iter().map(Way::to_string).collect(),
            alone: self.alone,
            again: self.again,
            patience: STEP,
            keep,
        }
    }

    /// What one that was ended before has written down, of the same generator and focus, the same criu and seeds of this one.
    pub fn done(&self, file: &Path) -> Result<Vec<Record>> {
        if !file.exists() {
            return Ok(Vec::new());
        }
        let lines = BufReader::new(File::open(file).with_context(|| file.display().to_string())?);
        let mut records = Vec::new();
        for line in lines.lines() {
            // The last one may be half written.
            if let Ok(record) = serde_json::from_str::<Record>(&line?) {
                let ours = record.generator == GENERATOR
                    && record.focus == self.focus
                    && record.criu == self.criu
                    && self.seeds.contains(&record.seed);
                records.extend(ours.then_some(record));
            }
        }
        Ok(records)
    }

    /// Does it. Each record goes to `file` at once, and to `said` too.
    pub fn run(&self, file: &Path, said: &(dyn Fn(&Record) + Sync)) -> Result<Vec<Record>> {
        let mut records = self.done(file)?;
        let known: BTreeSet<(u64, String)> = records
            .iter()
            .map(|record| (record.seed, record.outcome.way.clone()))
            .collect();
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let out = OpenOptions::new().create(true).append(true).open(file);
        let out = Mutex::new(out.with_context(|| file.display().to_string())?);
        // What was half written is a line of its own.
        if let Ok(mut out) = out.lock() {
            writeln!(out)?;
        }
        let bar = progress(self.seeds.end - self.seeds.start);
        let watch = Watch::start()?;
        let next = AtomicU64::new(self.seeds.start);
        let broken = AtomicBool::new(false);
        let work = |number: u32| -> Result<Vec<Record>> {
            let mut cell = Cell::new(number)?;
            let mut found = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= self.seeds.end || broken.load(Ordering::Relaxed) {
                    return Ok(found);
                }
                for record in self.seed(&mut cell, seed, &known, &watch)? {
                    let mut line = serde_json::to_vec(&record)?;
                    line.push(b'\n');
                    let mut out = out
                        .lock()
                        .map_err(|_| anyhow!("another worker has failed"))?;
                    out.write_all(&line).context("writing a result")?;
                    drop(out);
                    bar.suspend(|| said(&record));
                    found.push(record);
                }
                bar.inc(1);
            }
        };
        let results: Vec<Result<Vec<Record>>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.max(1))
                .map(|number| {
                    let (work, broken) = (&work, &broken);
                    scope.spawn(move || {
                        let result = work(number);
                        if result.is_err() {
                            broken.store(true, Ordering::Relaxed);
                        }
                        result
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| {
                    worker
                        .join()
                        .unwrap_or_else(|_| Err(anyhow!("a worker has panicked")))
                })
                .collect()
        });
        bar.finish_and_clear();
        for result in results {
            records.extend(result?);
        }
        records.sort_by(|a, b| (a.seed, &a.outcome.way).cmp(&(b.seed, &b.outcome.way)));
        Ok(records)
    }

    fn seed(
        &self,
        cell: &mut Cell,
        seed: u64,
        known: &BTreeSet<(u64, String)>,
        watch: &Watch,
    ) -> Result<Vec<Record>> {
        let ways: Vec<Way> = self
            .ways_of(seed)
            .into_iter()
            .filter(|way| !known.contains(&(seed, way.to_string())))
            .collect();
        if ways.is_empty() {
            return Ok(Vec::new());
        }
        let plan = generate::plan(seed, self.focus);
        let keep = self.keep.as_ref().map(|keep| keep.join(seed.to_string()));
        let job = self.job(&plan, self.is_ia32(seed), &ways, keep);
        let mut anew = 0;
        let outcomes = loop {
            let begin = Instant::now();
            let outcomes = answered(cell, &job);
            let at_fault = outcomes.iter().any(|one| one.verdict.is_fault());
            if !at_fault || anew == ANEW || !watch.stood_still_since(begin) {
                break outcomes;
            }
            anew += 1;
        };
        let mut records = Vec::new();
        for outcome in outcomes {
            let fault = outcome.verdict.is_fault() && outcome.left_out.is_none();
            let smallest = match fault && self.minimise {
                true => Some(self.smallest(cell, &plan, self.is_ia32(seed), &outcome)?),
                false => None,
            };
            records.push(Record {
                seed,
                generator: GENERATOR,
                focus: self.focus,
                criu: self.criu.clone(),
                bits: self.bits(seed),
                anew,
                outcome,
                smallest: smallest.map(|plan| plan.to_string()),
            });
        }
        Ok(records)
    }

    /// Reduces a plan that has failed in a way, to one that fails in the same. One that fails in one run of several only
    /// is asked several times.
    pub fn smallest(
        &self,
        cell: &mut Cell,
        plan: &Plan,
        ia32: bool,
        outcome: &Outcome,
    ) -> Result<Plan> {
        let way: Way = outcome.way.parse()?;
        let (bad, of) = outcome.times;
        let tries = if bad == of {
            1
        } else {
            (2 * of / bad.max(1)).min(6)
        };
        let about = outcome.shown.differences.first().map(|first| first.about);
        let hang = outcome.shown.hang.clone();
        let mut job = self.job(plan, ia32, &[way], None);
        job.again = 0;
        if outcome.shown.hang.is_some() {
            job.patience = SOON;
        }
        job.alone = Alone::OnDifference;
        let mut fails = |plan: &Plan| {
            job.plan = plan.to_string();
            (0..tries).any(|_| {
                cell.ask(&job).is_ok_and(|outcomes| {
                    outcomes.first().is_some_and(|found| {
                        // Another fault is another case.
                        let same = found.shown.differences.iter().map(|d| d.about);
                        found.verdict == outcome.verdict
                            && found.left_out.is_none()
                            && found.shown.hang == hang
                            && about.is_none_or(|about| same.clone().any(|is| is == about))
                    })
                })
            })
        };
        Ok(minimise(plan, QUESTIONS, &mut fails))
    }
}

/// What becomes of one seed is not the end of the others.
fn answered(cell: &mut Cell, job: &Job) -> Vec<Outcome> {
    cell.ask(job).unwrap_or_else(|why| {
        vec![Outcome {
            way: job.ways.join(","),
            verdict: Verdict::Hang,
            left_out: Some(format!("{why:#}")),
            shown: Default::default(),
            alone: None,
            times: (1, 1),
            ms: 0,
        }]
    })
}

fn progress(seeds: u64) -> ProgressBar {
    let bar = ProgressBar::new(seeds);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {pos} of {len} seeds, {per_sec}, {eta} left")
    {
        bar.set_style(style);
    }
    bar
}

/// `A..B`, or a number of seeds from 0 on.
pub fn seeds(text: &str) -> Result<Range<u64>> {
    let range = match text.split_once("..") {
        Some((from, to)) => from.parse()?..to.parse()?,
        None => 0..text.parse()?,
    };
    ensure!(!range.is_empty(), "{text}: no seed is in it");
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn campaign() -> Campaign {
        Campaign {
            seeds: 0..10,
            focus: Focus::None,
            ways: Ways::OneOf(vec![Kind::Restore, Kind::Twice]),
            ia32: None,
            alone: Alone::OnDifference,
            jobs: 1,
            again: 0,
            minimise: false,
            keep: None,
            criu: "4.2.1".into(),
            no_ia32: false,
        }
    }

    #[test]
    fn seeds_are_a_range_or_a_number() {
        assert_eq!(seeds("7").unwrap(), 0..7);
        assert_eq!(seeds("7..9").unwrap(), 7..9);
        for bad in ["", "9..7", "0", "a..b"] {
            assert!(seeds(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_seed_has_one_way_or_all() {
        let mut campaign = campaign();
        for seed in 0..50 {
            let ways = campaign.ways_of(seed);
            assert_eq!(ways, campaign.ways_of(seed));
            assert_eq!(ways.len(), 1);
        }
        campaign.ways = Ways::Each(vec![Kind::Restore, Kind::Fault]);
        assert_eq!(campaign.ways_of(1).len(), 2);
    }

    #[test]
    fn what_is_done_is_known_again() {
        let campaign = campaign();
        let record = |seed, criu: &str| Record {
            seed,
            generator: GENERATOR,
            focus: Focus::None,
            criu: criu.into(),
            bits: 64,
            anew: 0,
            outcome: Outcome {
                way: "restore".into(),
                verdict: Verdict::Same,
                left_out: None,
                shown: Default::default(),
                alone: None,
                times: (1, 1),
                ms: 3,
            },
            smallest: None,
        };
        let lines: Vec<String> = [record(3, "4.2.1"), record(4, "4.3"), record(99, "4.2.1")]
            .iter()
            .map(|record| serde_json::to_string(record).unwrap())
            .collect();
        let file = std::env::temp_dir().join(format!("chance-{}.jsonl", std::process::id()));
        fs::write(&file, format!("{}\n{{\"seed\":5", lines.join("\n"))).unwrap();
        let done = campaign.done(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(done.len(), 1);
        assert_eq!((done[0].seed, &*done[0].outcome.way), (3, "restore"));
        assert_eq!(campaign.done(&file).unwrap().len(), 0);
    }
}
