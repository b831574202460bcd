//! The plans in `chance/ways`: what `make chance` has found, made small. Each is run in the ways that its lines `#way WAY`
//! name, against its own control, and has to come out as that.
//!
//! A line `#refused TEXT` is for dumps that criu refuses, with or without the plugin, with that in its first error: the program
//! has to be as in the control.
//! A line `#said TEXT` is for what the plugin can only say: the program is not as in the control, with criu alone neither, and the
//! log has that text. With a line `#by-bpf` that holds only where BPF does not read timers; elsewhere the program is as the control.
//! A line `#unsaid TEXT` is for what need not be said where BPF reads timers: there no line of the log has that text.
//! A line `#bits 32` is for a plan of the 32-bit program, `#bits both` for one of both; else it is of the 64-bit one.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use criu_tests::chance::cell::{self, Alone, Cell, Job};
use criu_tests::chance::verdict::Verdict;
use criu_tests::harness::PATIENCE;
use criu_tests::skip::Need;
use criu_tests::{config, ns};
use libtest_mimic::{Arguments, Trial};

/// A fault that does not come every time is no reason to fail: what is here comes, or came, each time.
const AGAIN: u32 = 0;
/// Cells of `make chance` have lower numbers.
const FIRST_CELL: u32 = 1_000;

fn main() -> ExitCode {
    ns::test_main(tests, || match cell::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("chance: {why:#}");
            ExitCode::FAILURE
        }
    })
}

fn tests() -> ExitCode {
    let mut trials = Vec::new();
    for path in plans().expect("chance/ways can be read") {
        let text = fs::read_to_string(&path).expect("a plan can be read");
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        for ia32 in widths(&text) {
            for way in named(&text, "#way ") {
                let name = format!("{stem}.{way}.{}", if ia32 { "ia32" } else { "native" });
                let (text, way) = (text.clone(), way.to_owned());
                let without = ia32 && !config::has_ia32();
                let test = Trial::test(name, move || {
                    same(&text, ia32, &way).map_err(|why| format!("{why:#}").into())
                });
                trials.push(test.with_ignored_flag(without));
            }
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn plans() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("chance/ways");
    let mut plans = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        plans.push(entry?.path());
    }
    plans.sort();
    Ok(plans)
}

fn named<'t>(text: &'t str, start: &'t str) -> impl Iterator<Item = &'t str> {
    text.lines()
        .filter_map(move |line| line.strip_prefix(start))
}

fn widths(text: &str) -> Vec<bool> {
    match named(text, "#bits ").next() {
        Some("32") => vec![true],
        Some("both") => vec![false, true],
        _ => vec![false],
    }
}

fn same(plan: &str, ia32: bool, way: &str) -> Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(FIRST_CELL);
    let mut cell = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed))?;
    let outcomes = cell.ask(&Job {
        plan: plan.to_owned(),
        ia32,
        ways: vec![way.to_owned()],
        alone: Alone::OnDifference,
        again: AGAIN,
        patience: PATIENCE,
        keep: None,
    })?;
    for outcome in outcomes {
        if let Some(why) = outcome.left_out {
            bail!("left out: {why}");
        }
        let shown = &outcome.shown;
        let refused = named(plan, "#refused ").next();
        let by_bpf = plan.lines().any(|line| line == "#by-bpf");
        let is_known = by_bpf && Need::TimersByBpf.missing().is_none();
        let said = named(plan, "#said ").next().filter(|_| !is_known);
        if Need::TimersByBpf.missing().is_none() {
            for unsaid in named(plan, "#unsaid ") {
                ensure!(
                    !shown.said.iter().any(|line| line.contains(unsaid)),
                    "{unsaid:?} is said: {:?}",
                    shown.said
                );
            }
        }
        let as_wanted = match (refused, &shown.refused) {
            (None, _)
                if said.is_some_and(|said| shown.said.iter().any(|line| line.contains(said))) =>
            {
                outcome.verdict == Verdict::Said
            }
            (None, _) => said.is_none() && outcome.verdict == Verdict::Same,
            (Some(why), Some(error)) => {
                error.contains(why) && shown.differences.is_empty() && shown.hang.is_none()
            }
            (Some(_), None) => false,
        };
        let differences: Vec<String> = shown.differences.iter().map(ToString::to_string).collect();
        ensure!(
            as_wanted,
            "{}: {}; refused {:?}, hang {:?}, said {:?}",
            outcome.verdict,
            differences.join("; "),
            shown.refused,
            shown.hang,
            shown.said
        );
    }
    Ok(())
}
