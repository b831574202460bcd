//! A namespace that stays for many runs, and who asks it for them.
//!
//! To make one costs more than a run. So each worker of a campaign keeps one: this program again, as pid 1 of the
//! namespace, which reads a [`Job`] from each line of its standard input, and answers with a line. One that does not
//! answer is ended, with everything in it, and another takes its place.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use criu_signals::fault::Point;
use serde::{Deserialize, Serialize};

use crate::chance::oracle::{Difference, Report};
use crate::chance::perform::{self, Tools, With};
use crate::chance::plan::Plan;
use crate::chance::stage::Stage;
use crate::chance::verdict::{self, Shown, Verdict};
use crate::chance::ways::{AtPoint, Kind, Way};
use crate::config;
use crate::ns;

/// When criu alone is run in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Alone {
    /// Where the plugin's run is not as the control.
    OnDifference,
    /// Always: for the table.
    Always,
}

/// A plan, and what is to be done with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Its text.
    pub plan: String,
    /// Of the 32-bit program.
    pub ia32: bool,
    /// The ways, one after the other.
    pub ways: Vec<String>,
    /// Whether criu alone is run, too.
    pub alone: Alone,
    /// A difference is looked at so often again: does it come again?
    pub again: u32,
    /// After how long criu or the command hangs.
    pub patience: Duration,
    /// Folders of runs that are at fault are copied here.
    pub keep: Option<PathBuf>,
}

/// What came out of a way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The way, as it is read again.
    pub way: String,
    /// What is made of it.
    pub verdict: Verdict,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
    /// Of the run with the plugin.
    #[serde(default, skip_serializing_if = "is_same")]
    pub shown: Shown,
    /// The same of criu alone, if it was run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<Shown>,
    /// Runs that came out so badly, of how many.
    pub times: (u32, u32),
    /// How long it took.
    pub ms: u64,
}

fn is_same(shown: &Shown) -> bool {
    *shown == Shown::default()
}

/// Between the two controls' GO: about as long as a checkpoint takes.
const CONTROL_WAITS: Duration = Duration::from_millis(60);
/// How often two controls are made that are to agree.
const CONTROLS: u32 = 2;
/// Where the plugin's run is at fault: does a control come out as that? So many for each time from "ready" to GO.
const MORE_CONTROLS: usize = 3;
/// No control waits longer than this for GO. On a busy machine the write-back of 14 threads takes more than a minute.
const CONTROL_WAITS_AT_MOST: Duration = Duration::from_secs(90);
/// criu alone may differ in one run and not in another.
const ALONE_TRIES: u32 = 2;
/// A restore that is killed at other instants around the same meets what it is in the middle of: at so many in any case, and
/// at most at so many, until it has differed in the same respects.
const ALONE_KILLS: u32 = 12;
const ALONE_KILLS_AT_MOST: u32 = 96;
/// A dump with the plugin takes longer, and instants mean nothing: criu alone is killed where it was killed with the plugin, so
/// often at most, each time a bit later. A line is seen some time after it was written, and what criu does just then takes less: so
/// every second time at an instant before that, by the clock.
const ALONE_KILLS_THERE: u32 = 160;
const LATER: Duration = Duration::from_micros(15);
/// What a job may take for each of its ways, repeats included.
const PER_WAY: Duration = Duration::from_secs(400);

/// Pid 1 of a cell, whose folder is this process's second argument: answers until nobody asks.
pub fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [_, folder] = args.as_slice() else {
        bail!("pid 1 needs a folder")
    };
    serve(Path::new(folder))
}

fn serve(folder: &Path) -> Result<()> {
    let tools = Tools::find()?;
    let mut stage = Stage::new(folder)?;
    for line in std::io::stdin().lines() {
        let job: Job = serde_json::from_str(&line?).context("the job")?;
        let outcomes = work(&mut stage, &tools, &job)?;
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, &outcomes)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    stage.clear()
}

fn work(stage: &mut Stage, tools: &Tools, job: &Job) -> Result<Vec<Outcome>> {
    let plan: Plan = job.plan.parse()?;
    stage.set(job.ia32, job.patience);
    job.ways
        .iter()
        .map(|way| {
            let begin = Instant::now();
            let mut outcome = one(stage, tools, job, &plan, way.parse()?)?;
            outcome.ms = u64::try_from(begin.elapsed().as_millis())?;
            Ok(outcome)
        })
        .collect()
}

fn one(stage: &mut Stage, tools: &Tools, job: &Job, plan: &Plan, way: Way) -> Result<Outcome> {
    let mut outcome = Outcome {
        way: way.to_string(),
        verdict: Verdict::LeftOut,
        left_out: None,
        shown: Shown::default(),
        alone: None,
        times: (1, 1),
        ms: 0,
    };
    let control = match control(stage, plan, way)? {
        Ok(control) => control,
        Err(why) => {
            outcome.left_out = Some(why);
            return Ok(outcome);
        }
    };
    let shown = match perform::run(stage, tools, plan, way, With::Plugin, &control)? {
        Ok(shown) => shown,
        Err(why) => {
            outcome.left_out = Some(why);
            return Ok(outcome);
        }
    };
    if !shown.is_same() {
        keep(stage, job, "plugin")?;
    }
    if job.alone == Alone::Always || !shown.is_same() {
        outcome.alone = alone(stage, tools, plan, way, &control, &shown)?;
    }
    outcome.verdict = verdict::of(&shown, outcome.alone.as_ref(), is_mute(way));
    outcome.shown = shown;
    if outcome.verdict.is_fault() && differs_by_itself(stage, plan, way, &control, &outcome.shown)?
    {
        outcome.verdict = Verdict::LeftOut;
        outcome.left_out = Some("a control differs from the others in the same way".to_owned());
        return Ok(outcome);
    }
    if outcome.verdict.is_fault() {
        // What differs in time alone is looked at again in any case.
        let of_time = outcome.shown.is_of_time();
        for _ in 0..job.again.max(u32::from(of_time)) {
            outcome.times.1 += 1;
            let again = perform::run(stage, tools, plan, way, With::Plugin, &control)?;
            let again =
                again.map(|shown| verdict::of(&shown, outcome.alone.as_ref(), is_mute(way)));
            outcome.times.0 += u32::from(again.is_ok_and(Verdict::is_fault));
        }
        if of_time && outcome.times.0 == 1 {
            outcome.shown.differences.clear();
            outcome.verdict = verdict::of(&outcome.shown, outcome.alone.as_ref(), is_mute(way));
        }
    }
    Ok(outcome)
}

/// Whether all that is different comes without a checkpoint, too: on a busy machine a timer may expire before what is queued
/// next, or after that. A program that was never gone has lived as long as it waited for GO, and its calls may have ended in
/// that time: controls wait as long.
fn differs_by_itself(
    stage: &mut Stage,
    plan: &Plan,
    way: Way,
    control: &Report,
    shown: &Shown,
) -> Result<bool> {
    if shown.differences.is_empty() || shown.hang.is_some() {
        return Ok(false);
    }
    let mut waits = [Duration::ZERO, CONTROL_WAITS].repeat(MORE_CONTROLS);
    if let Some(waited) = shown.waited.filter(|_| !way.kind().restores()) {
        waits.extend([waited.min(CONTROL_WAITS_AT_MOST)].repeat(MORE_CONTROLS));
    }
    for after in waits {
        if let Ok(text) = perform::control(stage, plan, way, after)? {
            let found = Report::read(&text).of_plan(plan).differences(control);
            let comes = |one: &Difference| found.iter().any(|other| other.is_like(one));
            if shown.differences.iter().all(comes) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// criu has been killed in its dump: nobody is left to say anything.
fn is_mute(way: Way) -> bool {
    match way {
        Way::Fault(point, AtPoint::Kill, _) => point.number() < Point::RestoreBegin.number(),
        way => way.kind() == Kind::KillCriu,
    }
}

/// What two controls agree in. `Err` within: they do not, or cannot be made. On a very busy machine they may differ in the
/// number of a thread, so they are made again.
fn control(stage: &mut Stage, plan: &Plan, way: Way) -> Result<Result<Report, String>> {
    let mut first = String::new();
    for _ in 0..CONTROLS {
        let mut reports = Vec::new();
        for after in [Duration::ZERO, CONTROL_WAITS] {
            match perform::control(stage, plan, way, after)? {
                Ok(text) => reports.push(Report::read(&text).of_plan(plan)),
                Err(why) => return Ok(Err(why)),
            }
        }
        let second = reports.swap_remove(1);
        match reports.swap_remove(0).agreed(&second) {
            Ok(control) => return Ok(Ok(control)),
            Err(difference) => first = format!("the controls differ: {difference}"),
        }
    }
    Ok(Err(first))
}

/// criu without the plugin in the same way, or nothing where it has no part in it. It is given some tries to differ.
fn alone(
    stage: &mut Stage,
    tools: &Tools,
    plan: &Plan,
    way: Way,
    control: &Report,
    with: &Shown,
) -> Result<Option<Shown>> {
    if !way.kind().has_criu() {
        return Ok(None);
    }
    let mut all = Shown::default();
    if let (Kind::KillCriu, Some(reached)) = (way.kind(), &with.reached) {
        let mut line_after = None;
        for nth in 0..ALONE_KILLS_THERE {
            let later = LATER * (nth * 29 % ALONE_KILLS_THERE);
            let run = match line_after {
                Some(seen) if nth % 2 == 1 => {
                    let way = Way::Kill(Kind::KillCriu, Duration::saturating_sub(seen, later));
                    perform::run(stage, tools, plan, way, With::Alone, control)?
                }
                _ => perform::run_alone_until(stage, tools, plan, way, (reached, later), control)?,
            };
            line_after = run
                .as_ref()
                .map_or(line_after, |shown| shown.line_after.or(line_after));
            add(&mut all, run);
            if with.is_all_in(&all, is_mute(way)) {
                break;
            }
        }
        return Ok(Some(all));
    }
    let ways = match way {
        Way::Kill(kind, after) => (0..ALONE_KILLS_AT_MOST)
            .map(|nth| {
                Way::Kill(
                    kind,
                    after * (nth * 5 % ALONE_KILLS * 4 + nth / ALONE_KILLS + 16) / 40,
                )
            })
            .collect(),
        way => vec![way; ALONE_TRIES as usize],
    };
    for (nth, way) in ways.into_iter().enumerate() {
        if nth >= ALONE_KILLS as usize && with.is_all_in(&all, is_mute(way)) {
            break;
        }
        add(
            &mut all,
            perform::run(stage, tools, plan, way, With::Alone, control)?,
        );
    }
    Ok(Some(all))
}

fn add(all: &mut Shown, run: Result<Shown, String>) {
    if let Ok(shown) = run {
        all.differences.extend(shown.differences);
        all.refused = all.refused.take().or(shown.refused);
        all.hang = all.hang.take().or(shown.hang);
    }
}

fn keep(stage: &Stage, job: &Job, name: &str) -> Result<()> {
    let Some(to) = &job.keep else { return Ok(()) };
    let to = to.join(name);
    let _ = fs::remove_dir_all(&to);
    fs::create_dir_all(&to).with_context(|| to.display().to_string())?;
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(stage.run())
        .arg(&to)
        .status()
        .context("cp")?;
    if !status.success() {
        bail!("copying the run's folder to {}", to.display());
    }
    Ok(())
}

/// A cell, as its user sees it.
#[derive(Debug)]
pub struct Cell {
    number: u32,
    folder: PathBuf,
    child: Child,
    ask: ChildStdin,
    answers: Receiver<String>,
}

impl Cell {
    /// Makes one. Each that this process has at the same time has a number of its own.
    pub fn new(number: u32) -> Result<Self> {
        // Two campaigns at the same time have no cell in common.
        let name = format!("cell-{}-{number}", std::process::id());
        let folder = folder().join(name);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let said = fs::File::create(folder.with_extension("log"))?;
        let path = folder.to_string_lossy().into_owned();
        let mut child = ns::start(
            &["cell", &path],
            Stdio::piped(),
            Stdio::piped(),
            said.into(),
        )?;
        let ask = child.stdin.take().context("stdin")?;
        let out = child.stdout.take().context("stdout")?;
        let (answer, answers) = channel();
        // Ends with the cell.
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if answer.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            number,
            folder,
            child,
            ask,
            answers,
        })
    }

    /// Has a job done. A cell that breaks is replaced, and that is an error; the next job is done by the new one.
    pub fn ask(&mut self, job: &Job) -> Result<Vec<Outcome>> {
        let ways = u32::try_from(job.ways.len().max(1))?;
        let answer =
            self.send(job)
                .and_then(|()| match self.answers.recv_timeout(PER_WAY * ways) {
                    Ok(line) => serde_json::from_str(&line).context("the answer"),
                    Err(RecvTimeoutError::Timeout) => bail!("no answer in time"),
                    Err(RecvTimeoutError::Disconnected) => bail!("the cell has ended"),
                });
        answer.or_else(|why| {
            let said = fs::read_to_string(self.log()).unwrap_or_default();
            *self = Cell::new(self.number)?;
            Err(why.context(said.trim().to_owned()))
        })
    }

    fn log(&self) -> PathBuf {
        self.folder.with_extension("log")
    }

    fn send(&mut self, job: &Job) -> Result<()> {
        let mut line = serde_json::to_vec(job)?;
        line.push(b'\n');
        self.ask.write_all(&line).context("asking a cell")?;
        self.ask.flush().context("asking a cell")
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        // Its namespace goes with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(self.log());
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Where a campaign keeps what it needs and what it finds.
pub fn folder() -> PathBuf {
    config::target_dir().join("chance")
}
