//! `make curve`: measures what a deep queue costs, with the plugin and without, side by side in one run.
//!
//! Runs with and without the plugin alternate, so that other load on the machine affects both. Medians are shown. The
//! figures and the picture are written for `docs/`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use criu_tests::config;
use criu_tests::criu::Criu;
use criu_tests::curve::{Curve, Kind, Point, Times, Way};
use criu_tests::ns;
use criu_tests::rundir::RunDir;
use criu_tests::victim::{Victim, reap_all};

const USAGE: &str = "usage: curve [--depths N,N...] [--kinds one-shared,five-shared,one-private,five-private] [--rounds N] \
[--sweep N,N...] [--sweep-rounds N] [--most-alone SECONDS] [--markdown FILE] [--svg FILE]";
const DEPTHS: [usize; 8] = [100, 300, 1_000, 3_000, 10_000, 20_000, 40_000, 90_000];
const ROUNDS: usize = 3;
/// Where it is asked whether taking out pays.
const SWEEP: [usize; 9] = [50, 100, 200, 300, 500, 750, 1_000, 1_500, 3_000];
const SWEEP_ROUNDS: usize = 9;
const SWEEP_KINDS: [Kind; 2] = [Kind::OneShared, Kind::FivePrivate];
/// What takes longer is not done again.
const LONG: Duration = Duration::from_secs(8);
/// What criu alone would take longer for, by the square of the depth, is left out.
const MOST_ALONE: Duration = Duration::from_secs(180);
/// Entries of others of the same user that may come while this runs.
const ROOM: u64 = 2_000;
const LIMIT: Duration = Duration::from_secs(4 * 3600);
/// For the victim, which checks every entry.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    ns::main("curve", outside, inside)
}

/// What is to be measured.
struct Plan {
    depths: Vec<usize>,
    kinds: Vec<Kind>,
    rounds: usize,
    sweep: Vec<usize>,
    sweep_rounds: usize,
    most_alone: Duration,
    markdown: Option<PathBuf>,
    svg: Option<PathBuf>,
}

impl Plan {
    fn from_args(mut args: impl Iterator<Item = String>) -> Result<Plan> {
        let mut plan = Plan {
            depths: DEPTHS.to_vec(),
            kinds: Kind::ALL.to_vec(),
            rounds: ROUNDS,
            sweep: SWEEP.to_vec(),
            sweep_rounds: SWEEP_ROUNDS,
            most_alone: MOST_ALONE,
            markdown: None,
            svg: None,
        };
        while let Some(arg) = args.next() {
            let mut value = || {
                args.next()
                    .with_context(|| format!("{arg} needs a value\n{USAGE}"))
            };
            match arg.as_str() {
                "--depths" => plan.depths = numbers(&value()?).context("--depths")?,
                "--sweep" => plan.sweep = numbers(&value()?).context("--sweep")?,
                "--sweep-rounds" => {
                    plan.sweep_rounds = value()?.parse().context("--sweep-rounds")?
                }
                "--kinds" => {
                    let kinds = value()?;
                    let kinds = kinds.split(',').map(|name| {
                        Kind::from_name(name).with_context(|| format!("no kind {name}\n{USAGE}"))
                    });
                    plan.kinds = kinds.collect::<Result<_>>()?;
                }
                "--rounds" => plan.rounds = value()?.parse().context("--rounds")?,
                "--most-alone" => {
                    plan.most_alone = Duration::from_secs(value()?.parse().context("--most-alone")?)
                }
                "--markdown" => plan.markdown = Some(std::path::absolute(value()?)?),
                "--svg" => plan.svg = Some(std::path::absolute(value()?)?),
                _ => bail!("{USAGE}"),
            }
        }
        Ok(plan)
    }
}

/// `100,300`; nothing if it is empty.
fn numbers(list: &str) -> Result<Vec<usize>> {
    let numbers = list.split(',').filter(|number| !number.is_empty());
    Ok(numbers.map(str::parse).collect::<Result<_, _>>()?)
}

fn outside() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    Plan::from_args(args.iter().cloned())?;
    let dir = RunDir::create(&config::target_dir().join("curve"))?;
    let folder = dir.path().to_string_lossy();
    let args: Vec<&str> = [&*folder]
        .into_iter()
        .chain(args.iter().map(String::as_str))
        .collect();
    ns::run_and_print(&args, &dir, LIMIT)?;
    dir.remove()
}

fn inside() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = RunDir::open(args.next().context("no folder")?.as_ref());
    let plan = Plan::from_args(args)?;
    let mut curve = Curve::new(Criu::new(&config::criu()?, &dir.no_plugins()).version()?)?;
    let room = room()?;
    let fits = |depth: &usize| *depth as u64 <= room;
    let (depths, too_deep): (Vec<usize>, Vec<usize>) = plan.depths.iter().partition(|d| fits(d));
    if !too_deep.is_empty() {
        println!("RLIMIT_SIGPENDING leaves room for {room} entries: not measured: {too_deep:?}");
        curve.left_out = Some((room, too_deep));
    }
    for &kind in &SWEEP_KINDS {
        for &depth in plan.sweep.iter().filter(|depth| fits(depth)) {
            let ways = [Way::LeftIn, Way::TakenOut];
            let point = measure(kind, depth, &ways, plan.sweep_rounds, &dir)?;
            println!("{}", point.line());
            curve.sweep.push(point);
        }
    }
    for &kind in &plan.kinds {
        for &depth in &depths {
            let before = curve.points.iter().rfind(|point| point.kind == kind);
            let alone = before.is_none_or(|p| by_the_square(p, depth) <= plan.most_alone);
            let ways: &[Way] = if alone {
                &[Way::Alone, Way::Plugin]
            } else {
                &[Way::Plugin]
            };
            let point = measure(kind, depth, ways, plan.rounds, &dir)?;
            println!("{}", point.line());
            curve.points.push(point);
        }
    }
    if let Some(path) = plan.markdown {
        let svg = plan.svg.as_ref().and_then(|svg| svg.file_name());
        let picture = svg.map(|name| name.to_string_lossy().into_owned());
        std::fs::write(&path, curve.markdown(picture.as_deref()))
            .with_context(|| path.display().to_string())?;
    }
    if let Some(path) = plan.svg {
        std::fs::write(&path, curve.svg()).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// What criu alone would take for so many entries, by what it took for fewer.
fn by_the_square(point: &Point, depth: usize) -> Duration {
    let took = point.median(Way::Alone, |times| times.dump);
    if took.is_zero() {
        return Duration::MAX;
    }
    took.mul_f64((depth as f64 / point.depth as f64).powi(2))
}

/// Runs of all ways in turns.
fn measure(kind: Kind, depth: usize, ways: &[Way], rounds: usize, dir: &RunDir) -> Result<Point> {
    let mut point = Point::new(kind, depth);
    for _ in 0..rounds {
        for &way in ways {
            let runs = point.runs.entry(way).or_default();
            if runs.iter().all(|times: &Times| times.dump < LONG) {
                runs.push(once(kind, depth, way, dir)?);
            }
        }
    }
    Ok(point)
}

/// One victim, dumped and restored. It checks every entry.
fn once(kind: Kind, depth: usize, way: Way, dir: &RunDir) -> Result<Times> {
    let run = RunDir::create(&dir.file("round"))?;
    let libdir = if way == Way::Alone {
        dir.no_plugins()
    } else {
        config::plugin_dir()?
    };
    let mut criu = Criu::new(&config::criu()?, &libdir).arg("--display-stats");
    if let Some((name, value)) = way.setting() {
        criu = criu.env(name, value);
    }
    let arg = kind.arg(depth);
    let victim = Victim::start(&config::victim("curve", false), Some(&arg), &run, false)?;
    let cost = run.read("cost");
    let cost = cost.split_once(' ').context("the victim's costs")?;
    let nanos = |text: &str| Ok::<_, anyhow::Error>(Duration::from_nanos(text.parse()?));
    let dump = criu.dump(victim.pid(), &run.images(), false)?;
    ensure!(dump.ok, "{}: the dump failed:\n{}", arg, dump.tail(20));
    reap_all()?;
    let (restore, pid) = criu.restore(&run.images())?;
    ensure!(
        restore.ok,
        "{}: the restore failed:\n{}",
        arg,
        restore.tail(20)
    );
    Victim::restored(pid.context("no pid")?, &run)
        .finish(PATIENCE)
        .with_context(|| arg)?;
    Ok(Times {
        frozen: dump.frozen().context("criu says no frozen time")?,
        dump: dump.took,
        restore: restore.took,
        queueing: nanos(cost.0)?,
        taking: nanos(cost.1)?,
    })
}

/// How many entries this user may still have pending.
fn room() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("SigQ:"));
    let (queued, limit) = line
        .and_then(|line| line.trim().split_once('/'))
        .context("SigQ in /proc/self/status")?;
    let (queued, limit): (u64, u64) = (queued.parse()?, limit.parse()?);
    Ok(limit.saturating_sub(queued + ROOM))
}
