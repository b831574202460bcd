//! Every scenario in every flavour, as one test each: `masks.alone`, `masks.plugin`, ...
//!
//! A run is this same program, started again as pid 1 of a namespace of its own (see `criu_tests::ns`).

use std::env;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use criu_tests::harness::isolated;
use criu_tests::ns;
use criu_tests::rundir::RunDir;
use criu_tests::scenario::{Flavour, Scenario};
use criu_tests::skip::{self, Decision};
use criu_tests::table::{self, SCENARIOS};
use criu_tests::{config, run};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    ns::test_main(tests, inside)
}

fn tests() -> ExitCode {
    let args = Arguments::from_args();
    let mut trials = Vec::new();
    for scenario in SCENARIOS {
        for flavour in Flavour::ALL {
            trials.push(trial(scenario, flavour, !args.list));
        }
    }
    libtest_mimic::run(&args, trials).exit_code()
}

fn trial(scenario: &'static Scenario, flavour: Flavour, say: bool) -> Trial {
    let name = scenario.run_name(flavour);
    match skip::decide(&name, scenario.needs) {
        Decision::Run => Trial::test(name, move || {
            outside(scenario, flavour).map_err(Failed::from)
        }),
        Decision::Skip(reason) => {
            if say {
                println!("SKIP {name}: {reason}");
            }
            // Asked for all the same (--include-ignored), it is run.
            Trial::test(name, move || {
                outside(scenario, flavour).map_err(Failed::from)
            })
            .with_ignored_flag(true)
        }
        Decision::Refuse(reason) => Trial::test(name, move || Err(reason.into())),
    }
}

fn outside(scenario: &Scenario, flavour: Flavour) -> Result<(), String> {
    let name = scenario.run_name(flavour);
    isolated("scenarios", &name, &[scenario.name, flavour.name()])
}

/// Pid 1 of the namespace.
fn inside() -> ExitCode {
    match run_inside() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_inside() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [scenario, flavour, dir] = args.as_slice() else {
        bail!("three arguments are needed: {args:?}")
    };
    let scenario = table::find(scenario).with_context(|| format!("no scenario {scenario}"))?;
    let flavour = Flavour::ALL
        .into_iter()
        .find(|f| f.name() == flavour)
        .with_context(|| format!("no flavour {flavour}"))?;
    if flavour != Flavour::Control {
        config::criu()?;
    }
    run::run(scenario, flavour, &RunDir::open(Path::new(dir)))
}
