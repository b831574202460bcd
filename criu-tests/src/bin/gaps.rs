//! `make gaps`: runs every case in each way, prints the table, and fails if anything is not as expected.

#![deny(unsafe_code)]

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};
use criu_tests::config;
use criu_tests::criu::Criu;
use criu_tests::gaps::matrix::{self, Plan};
use criu_tests::gaps::table::{DEEPER, ROWS, Row};
use criu_tests::gaps::verdict::Mode;
use criu_tests::gaps::{inside, report};
use criu_tests::ns::{self, Place};
use criu_tests::rundir::RunDir;
use criu_tests::skip::{self, Decision};

const USAGE: &str = "usage: gaps [--case NAME]... [--mode MODE]... [--repeats N] [--jobs N] [--keep] [--markdown FILE] [--json FILE] [--list]
NAME: a case (9-delete) or all of a number (9). MODE: control, alone, plugin, left-alone, left-plugin.";

fn main() -> Result<ExitCode> {
    let place = ns::arrive()?;
    let args: Vec<String> = env::args().skip(1).collect();
    match place {
        Place::Inside => {
            let [name, mode, slower, dir] = args.as_slice() else {
                bail!("pid 1 needs a case, a mode, by how much longer times are, and a folder")
            };
            let row = rows()
                .find(|row| row.name == name)
                .with_context(|| format!("no case {name}"))?;
            let mode = Mode::from_name(mode).with_context(|| format!("no mode {mode}"))?;
            let slower = slower.parse().context("by how much longer times are")?;
            inside::run(row, mode, slower, &RunDir::open(Path::new(dir)))?;
            Ok(ExitCode::SUCCESS)
        }
        Place::Outside => outside(&args),
    }
}

fn rows() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().chain(DEEPER)
}

fn outside(args: &[String]) -> Result<ExitCode> {
    let mut plan = Plan {
        rows: Vec::new(),
        modes: Vec::new(),
        repeats: None,
        jobs: 2,
        keep: false,
    };
    let (mut markdown, mut json) = (None, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || {
            args.next()
                .with_context(|| format!("{arg} needs a value\n{USAGE}"))
        };
        match arg.as_str() {
            "--case" => {
                let name = value()?;
                let found: Vec<_> = rows()
                    .filter(|row| row.name == name || name.parse() == Ok(row.case()))
                    .collect();
                ensure!(!found.is_empty(), "no case {name}");
                plan.rows.extend(found);
            }
            "--mode" => {
                let name = value()?;
                plan.modes.push(
                    Mode::from_name(name).with_context(|| format!("no mode {name}\n{USAGE}"))?,
                );
            }
            "--repeats" => plan.repeats = Some(value()?.parse().context("--repeats")?),
            "--jobs" => plan.jobs = value()?.parse().context("--jobs")?,
            "--keep" => plan.keep = true,
            "--markdown" => markdown = Some(PathBuf::from(value()?)),
            "--json" => json = Some(PathBuf::from(value()?)),
            "--list" => {
                for row in rows() {
                    println!("{:<24} {}", row.name, row.title);
                }
                return Ok(ExitCode::SUCCESS);
            }
            _ => bail!("{USAGE}"),
        }
    }
    let whole = plan.rows.is_empty() && plan.modes.is_empty();
    if plan.rows.is_empty() {
        plan.rows = ROWS.iter().collect();
    }
    if plan.modes.is_empty() {
        plan.modes = Mode::ALL.to_vec();
    }
    let mut refused = Vec::new();
    plan.rows
        .retain(|row| match skip::decide(row.name, row.needs) {
            Decision::Run => true,
            Decision::Skip(reason) => {
                println!("{}: skipped: {reason}", row.name);
                false
            }
            Decision::Refuse(reason) => {
                refused.push(format!("{}: {reason}", row.name));
                false
            }
        });
    ensure!(refused.is_empty(), "{}", refused.join("\n"));
    let criu = Criu::new(&config::criu()?, Path::new("/")).version()?;
    config::plugin_dir()?;
    matrix::build_programs(&plan.rows)?;

    let terminal = std::io::stderr().is_terminal();
    let runs = matrix::run(&plan, &|done, all| {
        if terminal || done == all || done.is_multiple_of(100) {
            let _ = write!(
                std::io::stderr(),
                "{}{done} of {all} runs{}",
                if terminal { "\r" } else { "" },
                if terminal && done < all { "" } else { "\n" }
            );
        }
    })?;
    let judged = report::judge(&plan.rows, &runs);
    print!("{}", report::text(&judged));
    if markdown.is_some() || json.is_some() {
        ensure!(whole, "--markdown and --json are for all cases in all ways");
        let kernel =
            fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's version")?;
        let kernel = kernel.trim().split('-').next().unwrap_or_default();
        let results = report::results(&judged, &criu, kernel);
        let write = |path: Option<PathBuf>, text: String| match path {
            Some(path) => fs::write(&path, text).with_context(|| path.display().to_string()),
            None => Ok(()),
        };
        write(markdown, results.page())?;
        write(json, results.json()?)?;
    }
    let mut code = ExitCode::SUCCESS;
    // With some of the columns only, nothing follows.
    let all_modes = Mode::ALL.iter().all(|mode| plan.modes.contains(mode));
    for j in judged.iter().filter(|j| all_modes && !j.is_expected()) {
        code = ExitCode::FAILURE;
        println!(
            "{}: {}, but criu-tests/src/gaps/table.rs expects {}. Once more: gaps --case {} --keep; folders in {}",
            j.row.name,
            j.verdict,
            j.row.expected,
            j.row.name,
            matrix::folder().display()
        );
    }
    Ok(code)
}
