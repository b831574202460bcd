//! Every scenario in every flavour, as one test each: `masks.alone`, `masks.plugin`, ...
//!
//! A run is this same program, started again as pid 1 of a namespace of its own (see `criu_tests::ns`).

use std::env;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use criu_tests::ns::{self, Ended, Place};
use criu_tests::rundir::RunDir;
use criu_tests::scenario::{Flavour, Scenario};
use criu_tests::skip::{self, Decision};
use criu_tests::table::{self, SCENARIOS};
use criu_tests::{config, run};
use libtest_mimic::{Arguments, Failed, Trial};

/// A run takes well under a second. What hangs is ended, and its logs are shown.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    match ns::arrive() {
        Ok(Place::Outside) => {}
        Ok(Place::Inside) => return inside(),
        Err(why) => {
            println!("{why:#}");
            return ExitCode::FAILURE;
        }
    }
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

/// Starts the run in its namespace. What it says goes to the file `run`; if it fails, that and the ends of the logs
/// are the message, and the folder stays.
fn outside(scenario: &Scenario, flavour: Flavour) -> Result<(), String> {
    let name = scenario.run_name(flavour);
    let path = runs().join(&name);
    let dir = RunDir::create(&path).map_err(|why| format!("{why:#}"))?;
    let folder = path.to_string_lossy();
    let ended = ns::run(
        &[scenario.name, flavour.name(), &folder],
        &dir.file("run"),
        PATIENCE,
    );
    let why = match ended {
        Ok(Ended::With(status)) if status.success() => {
            return dir.remove().map_err(|why| format!("{why:#}"));
        }
        Ok(Ended::With(status)) => match dir.read("run") {
            said if said.trim().is_empty() => format!("the run ended: {status}"),
            said => said.trim_end().to_owned(),
        },
        Ok(Ended::TimedOut) => format!("ended after {} s\n{}", PATIENCE.as_secs(), dir.read("run")),
        Err(why) => format!("{why:#}"),
    };
    Err(message(&name, &dir, &why))
}

fn message(name: &str, dir: &RunDir, why: &str) -> String {
    let mut text = format!("{why}\n");
    for log in ["images/dump.log", "images/restore.log"] {
        // The cause often stands far above the end.
        for line in dir
            .read(log)
            .lines()
            .filter(|line| line.contains("Error ("))
            .take(8)
        {
            let _ = writeln!(text, "{log}: {line}");
        }
    }
    for (file, lines) in [
        ("out", 20),
        ("printed", 5),
        ("images/dump.log", 10),
        ("images/restore.log", 10),
    ] {
        let tail = dir.tail(file, lines);
        if !tail.is_empty() {
            let _ = writeln!(text, "--- end of {}\n{tail}", dir.file(file).display());
        }
    }
    let set: String = ["CARGO_TARGET_DIR", "CRIU", "CRIU_SIGNALS_PLUGIN_DIR"]
        .iter()
        .filter_map(|key| Some(format!("{key}={} ", env::var(key).ok()?)))
        .collect();
    let _ = writeln!(
        text,
        "--- once more: {set}cargo test -p criu-tests --test scenarios -- --exact {name}"
    );
    text
}

/// The folders of the runs, beside `target/tmp`, which cargo names to tests.
fn runs() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("criu-tests")
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
