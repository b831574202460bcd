//! `make chance`: programs in random states, dumped, restored, looked at and killed, against their own control.

#![deny(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use criu_tests::chance::campaign::{self, Campaign, Record, Ways};
use criu_tests::chance::cell::{self, Alone, Cell};
use criu_tests::chance::generate::{self, Focus};
use criu_tests::chance::known::Known;
use criu_tests::chance::plan::Plan;
use criu_tests::chance::table;
use criu_tests::chance::ways::{Kind, Way};
use criu_tests::config;
use criu_tests::criu::Criu;
use criu_tests::document;
use criu_tests::ns::{self, Place};

/// Programs in random states, dumped, restored, looked at and killed, against their own control.
#[derive(Parser)]
#[command(name = "chance", after_help = after_help())]
struct Args {
    /// Which seeds: A..B, or a number of them from 0 on
    #[arg(long, default_value = "0..300", value_parser = campaign::seeds)]
    seeds: std::ops::Range<u64>,

    /// What the plans have more of. The seeds of CI and of the documents are those without
    #[arg(long, value_enum, default_value_t)]
    focus: Focus,

    /// The kinds of ways, with commas: each seed is run in one of them, which the seed decides. `all`: in each
    #[arg(long, value_delimiter = ',')]
    ways: Vec<String>,

    /// Only the program of so many bits (64 or 32); else the seed decides
    #[arg(long)]
    bits: Option<u32>,

    /// Runs criu alone in the same way also where the plugin's run is as the control
    #[arg(long)]
    alone: bool,

    /// Reduces each plan that fails
    #[arg(long)]
    minimise: bool,

    /// This plan, in the ways that are given with what chance decides in them (kill-criu:1500)
    #[arg(long)]
    plan: Option<PathBuf>,

    /// Prints the plans of the seeds, and does nothing
    #[arg(long)]
    print: bool,

    /// Where results go, one JSON document in a line. What is there already is not done again
    #[arg(long)]
    resume: Option<PathBuf>,

    /// Seeds at a time
    #[arg(long, default_value_t = 8)]
    jobs: u32,

    /// How often a fault is looked at again
    #[arg(long, default_value_t = 2)]
    again: u32,

    /// Keeps the folders of runs that are not as the control
    #[arg(long)]
    keep: Option<PathBuf>,

    /// Prints each result as JSON, and not only the faults
    #[arg(long)]
    json: bool,

    /// Writes the table into this document
    #[arg(long)]
    markdown: Option<PathBuf>,

    /// A list of seeds that are known to be at fault: the exit code is 1 only for others, whose fault came each time it was
    /// looked at
    #[arg(long)]
    known: Option<PathBuf>,
}

fn after_help() -> String {
    let names: Vec<&str> = Kind::ALL.iter().map(|(_, name, _)| *name).collect();
    format!("Kinds of ways: {}", names.join(", "))
}

fn main() -> ExitCode {
    let done = match ns::arrive() {
        Ok(Place::Inside) => cell::main().map(|()| true),
        Ok(Place::Outside) => outside(&Args::parse()),
        Err(why) => Err(why),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("chance: {why:#}");
            ExitCode::FAILURE
        }
    }
}

impl Args {
    fn campaign(&self) -> Result<Campaign> {
        let all: Vec<Kind> = Kind::ALL.iter().map(|(kind, ..)| *kind).collect();
        let ways = match self.ways.as_slice() {
            [] => Ways::OneOf(all),
            [word] if word == "all" => Ways::Each(all),
            names => Ways::OneOf(names.iter().map(|n| n.parse()).collect::<Result<_>>()?),
        };
        let ia32 = match self.bits {
            None => None,
            Some(64) => Some(false),
            Some(32) => Some(true),
            Some(_) => bail!("--bits: 64 or 32"),
        };
        Ok(Campaign {
            seeds: self.seeds.clone(),
            focus: self.focus,
            ways,
            ia32,
            alone: match self.alone {
                true => Alone::Always,
                false => Alone::OnDifference,
            },
            jobs: self.jobs,
            again: self.again,
            minimise: self.minimise,
            keep: self.keep.clone(),
            criu: Criu::new(&config::criu()?, Path::new("/")).version()?,
            no_ia32: !config::has_ia32(),
        })
    }
}

/// Whether nothing is at fault.
fn outside(args: &Args) -> Result<bool> {
    if args.print {
        for seed in args.seeds.clone() {
            let bits = if generate::is_ia32(seed) { 32 } else { 64 };
            println!(
                "# seed {seed}, {bits} bits\n{}",
                generate::plan(seed, args.focus)
            );
        }
        return Ok(true);
    }
    if let Some(plan) = &args.plan {
        return one(args, plan);
    }
    let campaign = args.campaign()?;
    config::plugin_dir()?;
    config::faults_dir()?;
    let results = args.resume.clone().unwrap_or_else(|| {
        let file = cell::folder().join("results.jsonl");
        // Only one that is named goes on.
        let _ = fs::remove_file(&file);
        file
    });
    let begin = Instant::now();
    let records = campaign.run(&results, &|record| say(record, args.json))?;
    let seconds = begin.elapsed().as_secs_f64();
    let table = table::markdown(&records);
    println!("{table}");
    println!(
        "criu {}, generator {}, seeds {}..{}: {} runs in {seconds:.0} s ({:.1} a second); {}",
        campaign.criu,
        generate::GENERATOR,
        args.seeds.start,
        args.seeds.end,
        records.len(),
        records.len() as f64 / seconds,
        results.display()
    );
    let anew = records.iter().filter(|record| record.anew > 0).count();
    if anew > 0 {
        println!("{anew} seeds were run anew, because the machine stood still while they failed");
    }
    if let Some(path) = &args.markdown {
        let table = format!(
            "criu {}, seeds {}..{}, generator {}:\n\n{table}",
            campaign.criu,
            args.seeds.start,
            args.seeds.end,
            generate::GENERATOR
        );
        document::write_table(path, table::BEGIN, &table)?;
    }
    match &args.known {
        None => Ok(!records
            .iter()
            .any(|record| record.outcome.verdict.is_fault())),
        Some(path) => only_known(path, &records),
    }
}

/// Whether all that is at fault is listed.
fn only_known(path: &Path, records: &[Record]) -> Result<bool> {
    let read = || fs::read_to_string(path)?.parse::<Known>();
    let known = read().with_context(|| path.display().to_string())?;
    for seed in known.outdated(records) {
        println!(
            "seed {seed} is not at fault any more: its line can leave {}",
            path.display()
        );
    }
    let unknown = known.unknown(records);
    for record in &unknown {
        println!(
            "seed {} is not listed in {}: {}",
            record.seed,
            path.display(),
            record.outcome.way
        );
    }
    Ok(unknown.is_empty())
}

fn say(record: &Record, json: bool) {
    if json {
        println!("{}", serde_json::to_string(record).unwrap_or_default());
    } else if let Some(line) = table::line(record) {
        println!("{line}");
    }
}

/// Runs one plan, and says all that is known of it.
fn one(args: &Args, path: &Path) -> Result<bool> {
    let campaign = Campaign {
        ways: Ways::OneOf(Vec::new()),
        ..Args {
            ways: Vec::new(),
            ..Args::parse()
        }
        .campaign()?
    };
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let plan: Plan = text.parse().with_context(|| path.display().to_string())?;
    let ways: Vec<Way> = match args.ways.as_slice() {
        [] => vec![Way::Plain(Kind::Restore)],
        words => words
            .iter()
            .map(|word| word.parse())
            .collect::<Result<_>>()?,
    };
    let ia32 = campaign.ia32.unwrap_or(false);
    let mut cell = Cell::new(0)?;
    let mut fine = true;
    for outcome in cell.ask(&campaign.job(&plan, ia32, &ways, campaign.keep.clone()))? {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
        fine &= !outcome.verdict.is_fault();
        if args.minimise && outcome.verdict.is_fault() {
            println!("{}", campaign.smallest(&mut cell, &plan, ia32, &outcome)?);
        }
    }
    Ok(fine)
}
