//! `make bench`: measures what the plugin adds to a dump and to a restore, side by side in one run, and the time of one
//! capture.
//!
//! Runs with and without the plugin alternate, so that other load on the machine affects both. Medians are shown,
//! because times of whole processes have outliers only upwards.

use std::env;
use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use comfy_table::{Table, presets};
use criu_signals::engine::capture;
use criu_signals::images::Pid;
use criu_signals::tracee::{ByUs, StoppedProcess};
use criu_tests::baseline::Figures;
use criu_tests::bench;
use criu_tests::criu::Criu;
use criu_tests::document;
use criu_tests::ns;
use criu_tests::rundir::RunDir;
use criu_tests::sample::{HEADING, Sample, median, millis};
use criu_tests::victim::Victim;
use criu_tests::{config, wait::PATIENCE};

/// What is dumped and restored.
#[derive(Clone, Copy)]
enum Load {
    /// One process of so many threads.
    Threads(u32),
    /// A parent and its children, so many processes together.
    Processes(u32),
    /// One process with so many MiB of resident memory.
    Mebibytes(u32),
}

/// A run of a few rounds looks at these only.
const SMALL: [Load; 3] = [Load::Threads(1), Load::Threads(8), Load::Threads(64)];
const LARGE: [Load; 4] = [
    Load::Threads(1024),
    Load::Processes(100),
    Load::Processes(500),
    Load::Mebibytes(1024),
];
/// So few rounds are a smoke test.
const SMOKE: usize = 3;
/// The shortest run may not take so many times as long as by criu alone.
const ABSURD: f64 = 2.0;
/// So often the rounds of a load are repeated before such a ratio is believed: on a busy machine all three rounds of a smoke test
/// can be slow.
const REPETITIONS: usize = 5;
const CAPTURES: usize = 200;
/// Names a document into which the table is written (`make bench DOCUMENT=README.md`), and the line in front of the table.
const DOCUMENT: &str = "CRIU_TESTS_DOCUMENT";
const BEGIN: &str = "<!-- table: written by `make bench` -->";

fn main() -> ExitCode {
    ns::main("bench", || bench::outside("bench", |_| Ok(())), inside)
}

fn inside() -> Result<()> {
    let (dir, rounds) = bench::inside()?;
    let mut times = table(&HEADING);
    let mut captures = table(&["", "stop", "capture", "capture per thread"]);
    let mut figures = Figures::default();
    let mut lines = String::new();
    let mut absurd = Vec::new();
    let all = SMALL.into_iter().chain(LARGE);
    for load in all.take(if rounds <= SMOKE {
        SMALL.len()
    } else {
        usize::MAX
    }) {
        lines += &format!("| {load} |");
        for (what, mut sample) in believed(load, rounds, &dir)? {
            let [alone, plugin] = sample.medians();
            lines += &cells(alone, plugin);
            figures.add(format!("{load}, {what}, criu alone"), alone);
            figures.add(format!("{load}, {what}, with plugin"), plugin);
            if let Some(ratio) = absurd_ratio(&sample) {
                absurd.push(format!("{load}, {what}: {ratio:.2}"));
            }
            times.add_row(sample.row(&load.to_string(), what));
        }
        lines.push('\n');
        if let Load::Threads(threads) = load {
            captures.add_row(capture_row(threads, &RunDir::create(&dir.file("round"))?)?);
        }
    }
    let criu = Criu::new(&config::criu()?, &dir.no_plugins()).version()?;
    println!(
        "criu {criu}; medians of at least {rounds} runs each and where half of them are, with and without in turns"
    );
    println!("{times}");
    println!("The library by itself, on a live process; medians of {CAPTURES}");
    println!("{captures}");
    figures.compare("bench")?;
    if let Some(file) = env::var_os(DOCUMENT).filter(|file| !file.is_empty()) {
        let table = format!("{}{lines}", heading(&criu.to_string(), rounds));
        document::write_table(Path::new(&file), BEGIN, &table)?;
    }
    ensure!(
        absurd.is_empty(),
        "more than {ABSURD} times as long: {absurd:?}"
    );
    Ok(())
}

/// Of the table for a document.
fn heading(criu: &str, rounds: usize) -> String {
    let what = ["Dump", "Frozen", "Restore"];
    let alone = what.map(|what| format!(" {what} alone | With plugin | Ratio |"));
    format!(
        "| criu {criu}, medians of {rounds} |{}\n|---|{}\n",
        alone.concat(),
        "---|".repeat(3 * what.len())
    )
}

/// Three cells of it.
fn cells(alone: Duration, plugin: Duration) -> String {
    let ratio = plugin.as_secs_f64() / alone.as_secs_f64();
    let [alone, plugin] = [alone, plugin].map(|time| match millis(time) {
        time if time < 100.0 => format!("{time:.1} ms"),
        time => format!("{time:.0} ms"),
    });
    format!(" {alone} | {plugin} | {ratio:.2} |")
}

fn table(heading: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_FULL_CONDENSED)
        .set_header(heading.to_vec());
    table
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Load::Threads(1) => f.write_str("1 thread"),
            Load::Threads(count) => write!(f, "{count} threads"),
            Load::Processes(count) => write!(f, "{count} processes"),
            Load::Mebibytes(count) => write!(f, "{count} MiB"),
        }
    }
}

/// Of so many rounds, and of further ones while a ratio is absurd.
fn believed(load: Load, rounds: usize, dir: &RunDir) -> Result<bench::Samples> {
    let mut samples = bench::samples();
    for _ in 0..REPETITIONS {
        bench::in_turns(rounds, dir, &mut samples, |libdir, run| {
            once(load, libdir, run)
        })?;
        let mut absurd = samples
            .iter()
            .filter_map(|(what, sample)| Some((what, absurd_ratio(sample)?)));
        let Some((what, ratio)) = absurd.next() else {
            break;
        };
        eprintln!("bench: {load}, {what}: {ratio:.2} times as long");
    }
    Ok(samples)
}

fn absurd_ratio(sample: &Sample) -> Option<f64> {
    sample.ratio_of_shortest().filter(|ratio| *ratio > ABSURD)
}

/// One victim, dumped and restored.
fn once(load: Load, libdir: &Path, run: &RunDir) -> Result<[Duration; 3]> {
    let criu = Criu::new(&config::criu()?, libdir);
    let victim = start(load, run)?;
    let (took, restored) = bench::dump_and_restore(criu, victim.pid(), run)?;
    match load {
        Load::Threads(threads) if threads <= CHECKED => restored.finish(PATIENCE)?,
        _ => restored.end(),
    }
    Ok(took)
}

fn capture_row(threads: u32, run: &RunDir) -> Result<[String; 4]> {
    let victim = start(Load::Threads(threads), run)?;
    let (mut stops, mut captures) = (Vec::new(), Vec::new());
    for _ in 0..CAPTURES {
        let start = Instant::now();
        let stopped =
            StoppedProcess::<ByUs>::seize(Pid::new(victim.pid()).context("no pid")?, PATIENCE)?;
        stops.push(start.elapsed());
        let start = Instant::now();
        capture::process(&stopped)?;
        captures.push(start.elapsed());
        stopped.release()?;
    }
    if threads <= CHECKED {
        victim.finish(PATIENCE)?;
    } else {
        victim.end();
    }
    let capture = median(&mut captures);
    Ok([
        threads.to_string(),
        format!("{:.2} ms", millis(median(&mut stops))),
        format!("{:.2} ms", millis(capture)),
        format!("{:.0} us", millis(capture) * 1e3 / f64::from(threads)),
    ])
}

/// More threads than a victim can have that checks itself.
const CHECKED: u32 = 64;

fn start(load: Load, run: &RunDir) -> Result<Victim> {
    let (victim, arg) = match load {
        // The number of threads beside the leader.
        Load::Threads(threads) if threads <= CHECKED => ("many_threads", (threads - 1).to_string()),
        Load::Threads(threads) => ("crowd", format!("1,{threads}")),
        Load::Processes(processes) => ("crowd", format!("{processes},1")),
        Load::Mebibytes(count) => ("resident", count.to_string()),
    };
    Victim::start(&config::victim(victim, false), Some(&arg), run, false)
}
