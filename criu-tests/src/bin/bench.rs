//! `make bench`: measures what the plugin adds to a dump and to a restore, side by side in one run, and the time of one
//! capture.
//!
//! Runs with and without the plugin alternate, so that other load on the machine affects both. Medians are shown,
//! because times of whole processes have outliers only upwards.

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
use criu_tests::ns;
use criu_tests::rundir::RunDir;
use criu_tests::sample::{HEADING, Sample, median, millis};
use criu_tests::victim::{Victim, reap_all};
use criu_tests::{config, wait::PATIENCE};

const THREADS: [u32; 3] = [1, 8, 64];
const CAPTURES: usize = 200;

fn main() -> ExitCode {
    ns::main("bench", || bench::outside("bench", |_| Ok(())), inside)
}

fn inside() -> Result<()> {
    let (dir, rounds) = bench::inside()?;
    let none = dir.no_plugins();
    let ours = config::plugin_dir()?;
    let mut times = Table::new();
    times
        .load_preset(presets::UTF8_FULL_CONDENSED)
        .set_header(HEADING);
    let mut captures = Table::new();
    captures
        .load_preset(presets::UTF8_FULL_CONDENSED)
        .set_header(["threads", "stop", "capture", "capture per thread"]);

    let mut figures = Figures::default();
    for threads in THREADS {
        let (mut dumps, mut restores) = (Sample::default(), Sample::default());
        for round in 0..rounds * 2 {
            let with = round % 2 == 1;
            let libdir = if with { &ours } else { &none };
            let run = RunDir::create(&dir.file("round"))?;
            let (dump, restore) = once(threads, libdir, &run)?;
            dumps.add(with, dump);
            restores.add(with, restore);
        }
        let of = format!("{threads} threads");
        for (what, sample) in [("dump", &mut dumps), ("restore", &mut restores)] {
            let [alone, plugin] = sample.medians();
            figures.add(format!("{threads:>2} threads, {what}, criu alone"), alone);
            figures.add(format!("{threads:>2} threads, {what}, with plugin"), plugin);
        }
        times.add_row(dumps.row(&of, "dump"));
        times.add_row(restores.row(&of, "restore"));
        captures.add_row(capture_row(threads, &RunDir::create(&dir.file("round"))?)?);
    }
    let criu = Criu::new(&config::criu()?, &none);
    println!(
        "criu {}; medians of {rounds} runs each, with and without in turns",
        criu.version()?
    );
    println!("{times}");
    println!("The library by itself, on a live process; medians of {CAPTURES}");
    println!("{captures}");
    figures.compare("bench")
}

/// One victim, dumped and restored.
fn once(threads: u32, libdir: &std::path::Path, run: &RunDir) -> Result<(Duration, Duration)> {
    let criu = Criu::new(&config::criu()?, libdir);
    let victim = start(threads, run)?;
    let dump = criu.dump(victim.pid(), &run.images(), false)?;
    ensure!(dump.ok, "the dump failed:\n{}", dump.tail(20));
    reap_all()?;
    let (restore, pid) = criu.restore(&run.images())?;
    ensure!(restore.ok, "the restore failed:\n{}", restore.tail(20));
    Victim::restored(pid.context("no pid")?, run).finish(PATIENCE)?;
    Ok((dump.took, restore.took))
}

fn capture_row(threads: u32, run: &RunDir) -> Result<[String; 4]> {
    let victim = start(threads, run)?;
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
    victim.finish(PATIENCE)?;
    let capture = median(&mut captures);
    Ok([
        threads.to_string(),
        format!("{:.2} ms", millis(median(&mut stops))),
        format!("{:.2} ms", millis(capture)),
        format!("{:.0} us", millis(capture) * 1e3 / f64::from(threads)),
    ])
}

/// `many_threads` takes the number of threads beside the leader.
fn start(threads: u32, run: &RunDir) -> Result<Victim> {
    let beside = (threads - 1).to_string();
    Victim::start(
        &config::victim("many_threads", false),
        Some(&beside),
        run,
        false,
    )
}
