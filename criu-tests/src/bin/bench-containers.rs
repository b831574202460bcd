//! `make bench`: measures what the plugin adds to the checkpoint and the restore of a container by its engine, and the
//! size of the plugin's images beside CRIU's.
//!
//! Runs with and without the plugin alternate, so that other load on the machine affects both.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use comfy_table::{Table, presets};
use criu_tests::containers::bundle::Bundle;
use criu_tests::containers::cgroups;
use criu_tests::containers::engine::{Container, Engine};
use criu_tests::containers::host::{self, Host};
use criu_tests::criu::Step;
use criu_tests::ns;
use criu_tests::rundir::RunDir;
use criu_tests::sample::{HEADING, Sample};
use criu_tests::victim::reap_all;
use criu_tests::{bench, config};

/// Both pass without the plugin too: one process with two threads, and three with five.
const PROGRAMS: [&str; 2] = ["demo", "process_tree"];
const GROUP: &str = "criu-signals.bench";

fn main() -> ExitCode {
    ns::main("bench-containers", outside, inside)
}

fn outside() -> Result<()> {
    if let Err(why) = config::host() {
        println!("bench-containers: left out: {why}");
        return Ok(());
    }
    bench::outside("bench-containers", |_| cgroups::remove(GROUP))
}

fn inside() -> Result<()> {
    let (dir, rounds) = bench::inside()?;
    cgroups::enclose(GROUP)?;
    let host = Host::mount(&dir.file("host"))?;
    host.install_plugin(PARKED)?;
    host.install_plugin(host::PLUGINS)?;
    host.enter()?;

    let mut times = Table::new();
    times
        .load_preset(presets::UTF8_FULL_CONDENSED)
        .set_header(HEADING);
    let mut sizes = Table::new();
    sizes.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
        "",
        "CRIU's images",
        "of these, memory",
        "the plugin's",
    ]);
    for engine in [Engine::Runc, Engine::Crun] {
        for program in PROGRAMS {
            let (mut checkpoints, mut restores) = (Sample::default(), Sample::default());
            let name = format!("{engine}, {program}");
            for round in 0..rounds * 2 {
                let with = round % 2 == 1;
                place_plugin(with)?;
                let run = RunDir::create(&dir.file("round"))?;
                let (checkpoint, restore) = once(engine, program, &run)?;
                checkpoints.add(with, checkpoint);
                restores.add(with, restore);
                if round + 1 == rounds * 2 {
                    sizes.add_row(sizes_of(&name, &run.images())?);
                }
            }
            times.add_row(checkpoints.row(&name, "checkpoint"));
            times.add_row(restores.row(&name, "restore"));
        }
    }
    let versions = fs::read_to_string(config::host()?.with_file_name("versions"))?;
    println!("{}", versions.trim().replace('\n', ", "));
    println!(
        "Medians of {rounds} runs each, with and without in turns; from the engine's start to its end"
    );
    println!("{times}");
    println!("{sizes}");
    Ok(())
}

/// Where the plugin is when it is not to be found.
const PARKED: &str = "/opt/criu-signals";

fn place_plugin(there: bool) -> Result<()> {
    let file = Path::new(host::PLUGINS).join(config::PLUGIN_FILE);
    if there && !file.exists() {
        fs::copy(Path::new(PARKED).join(config::PLUGIN_FILE), &file).context("the plugin")?;
    } else if !there && file.exists() {
        fs::remove_file(&file).context("the plugin")?;
    }
    Ok(())
}

fn once(engine: Engine, program: &str, run: &RunDir) -> Result<(Duration, Duration)> {
    let bundle = Bundle::create(&run.file("bundle"), engine, program)?;
    let container = Container::new(engine, "victim", bundle);
    container.run()?;
    let checkpoint = succeeded(container.checkpoint(&run.images())?)?;
    reap_all()?;
    let restore = succeeded(container.restore(&run.images())?)?;
    container.finish()?;
    Ok((checkpoint.took, restore.took))
}

fn succeeded(step: Step) -> Result<Step> {
    ensure!(step.ok, "the engine has failed:\n{}", step.tail(30));
    Ok(step)
}

/// In bytes. Logs and the files that only engines read are left out.
fn sizes_of(name: &str, images: &Path) -> Result<[String; 4]> {
    let (mut criu, mut memory, mut ours) = (0, 0, 0);
    for entry in fs::read_dir(images)? {
        let entry = entry?;
        let (file, size) = (entry.file_name(), entry.metadata()?.len());
        let file = file.to_string_lossy();
        if !file.ends_with(".img") {
            continue;
        }
        if file.starts_with("signals-") {
            ours += size;
        } else {
            criu += size;
        }
        if file.starts_with("pages-") {
            memory += size;
        }
    }
    ensure!(ours > 0, "the plugin has written no image");
    Ok([
        name.to_owned(),
        format!("{criu} bytes"),
        format!("{memory} bytes"),
        format!("{ours} bytes"),
    ])
}
