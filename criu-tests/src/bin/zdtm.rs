//! `make zdtm`: CRIU's own test suite, without the plugin and with it, compared. See docs/zdtm.md.

#![deny(unsafe_code)]

use std::fs::{self, File};
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use criu_tests::config;
use criu_tests::criu::Criu;
use criu_tests::ns::{self, Place};
use criu_tests::skip::Need;
use criu_tests::zdtm::compare::{self, Class};
use criu_tests::zdtm::logs;
use criu_tests::zdtm::output::{Event, Results, Test};
use criu_tests::zdtm::report::{self, Difference};
use criu_tests::zdtm::suite::{self, Selection, Suite, Way};
use criu_tests::zdtm::tree::{self, AsRoot};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Runs CRIU's own test suite without the plugin and with it, and compares.
#[derive(Parser)]
#[command(name = "zdtm")]
struct Options {
    /// CRIU's source tree, of the version of the criu that is tested. Nothing is written into it.
    #[arg(long)]
    tree: PathBuf,
    /// The flavours, with commas: h, ns, uns.
    #[arg(long, default_value = "h")]
    flavour: String,
    /// How many tests run at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// How often a test that ended differently is run again each way.
    #[arg(long, default_value_t = 3)]
    again: usize,
    /// Patterns of names: "sigpending*", "zdtm/transition/*". All tests if there is none.
    tests: Vec<String>,
}

fn main() -> Result<ExitCode> {
    match ns::arrive()? {
        Place::Inside => {
            let args: Vec<String> = std::env::args().skip(1).collect();
            suite::inside(&args)?;
            Ok(ExitCode::SUCCESS)
        }
        Place::Outside => outside(&Options::parse()),
    }
}

fn outside(options: &Options) -> Result<ExitCode> {
    let source = fs::canonicalize(&options.tree)
        .with_context(|| format!("CRIU_SRC: {}", options.tree.display()))?;
    let tree_version = tree::version(&source)?;
    let criu = config::criu()?;
    let version = Criu::new(&criu, Path::new("/")).version()?;
    let pycriu = criu.parent().unwrap_or(Path::new("/")).join("pycriu");
    let python = suite::python(&pycriu)?;

    let home = config::target_dir().join("zdtm");
    fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
    let _lock = only_one(&home)?;
    println!(
        "CRIU's suite of {tree_version} from {}, criu {version}",
        source.display()
    );
    if tree_version != version {
        println!(
            "note: the suite is not of this criu's version: a test may fail both ways for that"
        );
    }
    let as_root = as_root(&home);
    if let Some(why) = &as_root {
        println!("the tests run as root, in a copy of zdtm.py: {why}");
    }

    let start = Instant::now();
    let log = home.join("build.log");
    let cpus = std::thread::available_parallelism().map_or(2, usize::from);
    let copy = home.join("tree");
    let tree = tree::prepare(&source, &tree_version, &copy, as_root.as_ref(), cpus, &log)?;
    println!(
        "copied and built in {}: {}",
        suite::duration(start),
        copy.display()
    );
    if !tree.unbuilt.is_empty() {
        let names: Vec<&str> = tree.unbuilt.iter().map(String::as_str).collect();
        println!("not built: {}: see {}", names.join(" "), log.display());
    }

    let mut suite = Suite {
        test: tree.test,
        criu,
        plugins: config::plugin_dir()?,
        pycriu,
        python,
        jobs: options.jobs.max(1),
    };
    let selection = Selection::from_patterns(&options.tests);
    let mut text = String::new();
    let mut failures = 0;
    for flavour in options.flavour.split(',') {
        let home = home.join(flavour);
        suite.jobs = options.jobs.max(1);
        let (part, failed) = both_ways(&mut suite, flavour, &selection, options.again, &home)?;
        print!("\n{part}");
        text += &part;
        failures += failed;
    }
    let path = home.join("report.txt");
    fs::write(&path, &text).with_context(|| path.display().to_string())?;
    Ok(if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs one flavour both ways. Returns what there is to say, and how many tests are not as they must be.
fn both_ways(
    suite: &mut Suite,
    flavour: &str,
    selection: &Selection,
    again: usize,
    home: &Path,
) -> Result<(String, usize)> {
    let mut text = String::new();
    let mut run = |way: Way| -> Result<Results> {
        let start = Instant::now();
        let to = home.join(way.to_string());
        let mut told = 0;
        let mut tell = |event| tell(way, &event, &mut told);
        let results = suite.run(way, flavour, selection, &to, &mut tell)?;
        let line = report::figures(way, flavour, &results, &suite::duration(start));
        println!("{line}");
        text += &format!("{line}\n");
        Ok(results)
    };
    let without = run(Way::Without)?;
    let with = run(Way::With)?;

    // One at a time: what only the load of the machine did is gone then.
    suite.jobs = 1;
    let all = run_again(suite, flavour, home, again, &without, &with)?;
    let logs = logs::read(&home.join(Way::With.to_string()).join("dump"))?;
    text += "\n";
    text += &report::differences(&all, &|way| home.join(way.to_string()));
    text += "\n";
    text += &report::verdicts(&logs, &with);
    let is_bad = |d: &&Difference| matches!(d.class, Some(Class::NewFailure | Class::SkippedOnce));
    let bad = all.iter().filter(is_bad).count();
    Ok((text, bad))
}

/// Runs what differed some more times each way, and says what came of it.
fn run_again(
    suite: &Suite,
    flavour: &str,
    home: &Path,
    times: usize,
    without: &Results,
    with: &Results,
) -> Result<Vec<Difference>> {
    let end = |results: &Results, test: &Test| results.tests.get(test).cloned();
    let mut all: Vec<Difference> = compare::differing(without, with)
        .into_iter()
        .map(|test| Difference {
            class: None,
            without: end(without, &test).into_iter().collect(),
            with: end(with, &test).into_iter().collect(),
            test,
        })
        .collect();
    if !all.is_empty() && times != 0 {
        println!(
            "{} ended differently: {times} times more each way",
            all.len()
        );
        let names: Vec<String> = all.iter().map(|d| d.test.name.clone()).collect();
        let selection = Selection::from_patterns(&names);
        for number in 1..=times {
            for way in [Way::Without, Way::With] {
                let to = home.join(format!("again/{number}/{way}"));
                let results = suite.run(way, flavour, &selection, &to, &mut |_| ())?;
                for d in &mut all {
                    let ends = match way {
                        Way::Without => &mut d.without,
                        Way::With => &mut d.with,
                    };
                    ends.extend(end(&results, &d.test));
                }
            }
        }
    }
    for d in &mut all {
        d.class = compare::classify(&d.without, &d.with);
    }
    Ok(all)
}

/// Why the tests are to run as root; `None` if zdtm.py's own user will do.
fn as_root(home: &Path) -> Option<AsRoot> {
    if Need::CapSysResource.missing().is_some() {
        return Some(AsRoot::NoSysResource);
    }
    tree::closed_folder(home).map(AsRoot::Closed)
}

/// Two at a time would write over each other's copy.
fn only_one(home: &Path) -> Result<Flock<File>> {
    let path = home.join("lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => bail!("{} is in use by another run", home.display()),
        Err((_, errno)) => Err(errno).with_context(|| path.display().to_string()),
    }
}

/// One line that is written over on a terminal; else a line for every 50 tests or so.
fn tell(way: Way, event: &Event, told: &mut usize) {
    let mut to = std::io::stderr();
    let terminal = to.is_terminal();
    // If nobody can be told, the report is still written.
    let _ = match event {
        Event::Progress(done, all) if terminal => {
            let end = if done < all { " " } else { "\n" };
            write!(to, "\r{way} plugin: {done} of {all}{end}")
        }
        Event::Progress(done, all) if done == all || *done >= *told + 50 => {
            *told = *done;
            writeln!(to, "{way} plugin: {done} of {all}")
        }
        Event::Progress(..) => Ok(()),
        Event::Failed(test, step) => {
            let clear = if terminal { "\r" } else { "" };
            writeln!(to, "{clear}{way} plugin: {test} failed at {step}")
        }
    };
}
