//! Tests other files in criu's plugin folder, and a criu that is too old for the plugin.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use criu_signals::images::image;
use criu_signals::run_report::{Document, Outcome};
use criu_tests::cases::{
    self, CHECK, Test, dumped, expect_error, expect_verdict, refused, restored, start, test,
    with_plugin,
};
use criu_tests::config;
use criu_tests::criu::{Criu, Step};
use criu_tests::plugin::{self, Verdict};
use criu_tests::rundir::RunDir;
use criu_tests::victim::reap_all;
use nix::mount::{MsFlags, mount};

fn main() -> ExitCode {
    cases::main("folder", tests)
}

fn tests() -> Vec<Test> {
    let mut tests = vec![
        test("second-copy", second_copy),
        test("hides.dump", hides_at_dump),
        test("hides.restore", hides_at_restore),
        test("old-criu", |_| old_criu()),
        test("names-none", names_none),
    ];
    for bad in [&BROKEN, &FAILING] {
        for order in [Order::BeforeOurs, Order::BehindOurs] {
            let name = |stage: &str| format!("{}.{}.{stage}", bad.name, order.name());
            tests.push(test(name("dump"), move |dir| bad.at_dump(order, dir)));
            tests.push(test(name("restore"), move |dir| bad.at_restore(order, dir)));
        }
    }
    tests
}

/// When criu reads the other file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    BeforeOurs,
    BehindOurs,
}

impl Order {
    fn name(self) -> &'static str {
        match self {
            Order::BeforeOurs => "before",
            Order::BehindOurs => "behind",
        }
    }
}

/// A plugin folder with ours and another file. criu reads it in the order of readdir, which in memory is that in
/// which the files were made, the last one first.
fn folder(order: Order, other: &Path, name: &str, dir: &RunDir) -> Result<PathBuf> {
    let folder = dir.file("plugins");
    fs::create_dir(&folder)?;
    let none: Option<&str> = None;
    mount(
        Some("tmpfs"),
        &folder,
        Some("tmpfs"),
        MsFlags::empty(),
        none,
    )
    .context("mounting")?;
    let ours = config::plugin_dir()?.join(config::PLUGIN_FILE);
    let mut files = [(ours.as_path(), config::PLUGIN_FILE), (other, name)];
    if order == Order::BehindOurs {
        files.reverse();
    }
    for (from, name) in files {
        fs::copy(from, folder.join(name)).with_context(|| format!("copying {name}"))?;
    }
    let first = fs::read_dir(&folder)?
        .next()
        .context("it is empty")??
        .file_name();
    ensure!(
        (first == name) == (order == Order::BeforeOurs),
        "{first:?} is read first"
    );
    Ok(folder)
}

fn with_folder(folder: &Path) -> Result<Criu> {
    Ok(Criu::new(&config::criu()?, folder))
}

/// A hook that is called with a number that names no process is passed on, and nobody is killed for it.
fn names_none(dir: &RunDir) -> Result<()> {
    let criu = with_folder(&folder(
        Order::BehindOurs,
        &config::other_plugin(),
        "other.so",
        dir,
    )?)?;
    let criu = criu
        .env("OTHER_PLUGIN", "names-none")
        .env("CRIU_SIGNALS_POLICY", "strict");
    let passed_on = |step: &Step, hook: u32| {
        for pid in [-1, 0, i32::MIN] {
            let line = format!("other plugin: hook {hook}({pid}) gives -95");
            ensure!(step.log.contains(&line), "no {line:?}:\n{}", step.log);
        }
        let said = plugin::lines(&step.log).filter(|line| line.contains("not a process"));
        ensure!(said.count() == 1, "said once:\n{}", step.log);
        Ok(())
    };
    let victim = start("masks", None, dir)?;
    let dump = criu.dump(victim.pid(), &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    passed_on(&dump, 11)?;
    reap_all()?;
    let (restore, found) = restored(&criu, dir)?;
    passed_on(&restore, 9)?;
    expect_verdict(&restore, Verdict::Verified)?;
    found
}

/// A backup of the plugin beside it: one of the two does the work, once.
fn second_copy(dir: &RunDir) -> Result<()> {
    let ours = config::plugin_dir()?.join(config::PLUGIN_FILE);
    let name = "signals_plugin (1).so";
    let criu = with_folder(&folder(Order::BehindOurs, &ours, name, dir)?)?;
    let two = ["two copies of this plugin", name, "remove one of them"];

    let victim = start("demo", None, dir)?;
    let dump = criu.dump(victim.pid(), &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    expect_error(&dump, &two)?;
    let captured = plugin::lines(&dump.log).filter(|line| line.contains("captured into"));
    ensure!(captured.count() == 1, "{}", dump.log);
    reap_all()?;

    let (restore, found) = restored(&criu, dir)?;
    expect_error(&restore, &two)?;
    // Of one process there is one verdict.
    expect_verdict(&restore, Verdict::Verified)?;
    found
}

/// A file that makes criu give up.
struct Bad {
    name: &'static str,
    /// `None`: it is no library.
    does: Option<&'static str>,
    /// criu's own words.
    says: &'static str,
}

const BROKEN: Bad = Bad {
    name: "broken",
    does: None,
    says: "Unable to load",
};

const FAILING: Bad = Bad {
    name: "fails-init",
    does: Some("fails-init"),
    says: "of \"other_plugin\"",
};

impl Bad {
    fn criu(&self, order: Order, dir: &RunDir) -> Result<Criu> {
        let broken = dir.file("broken");
        fs::write(&broken, "no library")?;
        let file = self.does.map_or(broken, |_| config::other_plugin());
        let criu = with_folder(&folder(order, &file, "other.so", dir)?)?;
        Ok(criu.env("OTHER_PLUGIN", self.does.unwrap_or_default()))
    }

    /// The task runs on, and nothing of ours is left.
    fn at_dump(&self, order: Order, dir: &RunDir) -> Result<()> {
        let criu = self.criu(order, dir)?;
        let victim = start("demo", None, dir)?;
        let dump = criu.dump(victim.pid(), &dir.images(), false)?;
        ensure!(!dump.ok, "criu dump has succeeded");
        ensure!(dump.log.contains(self.says), "{}", dump.log);
        let image = dir.images().join(image::file_name(victim.pid()));
        ensure!(!image.exists(), "{} is left behind", image.display());
        victim.finish(CHECK)
    }

    /// No task is made, and the images are as good as before.
    fn at_restore(&self, order: Order, dir: &RunDir) -> Result<()> {
        dumped("demo", dir)?;
        let step = refused(&self.criu(order, dir)?, dir)?;
        ensure!(step.log.contains(self.says), "{}", step.log);
        let (restore, found) = restored(&with_plugin()?, dir)?;
        expect_verdict(&restore, Verdict::Verified)?;
        found
    }
}

/// A plugin that criu asks before ours, and that answers for all: ours is not asked, and notices.
fn hiding(dir: &RunDir) -> Result<Criu> {
    let folder = folder(Order::BeforeOurs, &config::other_plugin(), "other.so", dir)?;
    let criu = with_folder(&folder)?.env("OTHER_PLUGIN", "hides");
    Ok(criu.env("CRIU_SIGNALS_REPORT", dir.file("report.json")))
}

fn report(dir: &RunDir) -> Result<Document> {
    Ok(serde_json::from_str(&fs::read_to_string(
        dir.file("report.json"),
    )?)?)
}

fn hides_at_dump(dir: &RunDir) -> Result<()> {
    let criu = hiding(dir)?;
    let victim = start("demo", None, dir)?;
    let dump = criu.dump(victim.pid(), &dir.images(), true)?;
    ensure!(dump.ok, "criu dump failed");
    expect_error(&dump, &["never handed to this plugin", "NOT in the images"])?;
    let report = report(dir)?;
    ensure!(
        report.outcome == Outcome::Failed && report.processes.is_empty(),
        "{report:?}"
    );
    victim.finish(CHECK)
}

fn hides_at_restore(dir: &RunDir) -> Result<()> {
    let pid = dumped("demo", dir)?;
    let (restore, found) = restored(&hiding(dir)?, dir)?;
    expect_error(
        &restore,
        &["never handed the process to this plugin: NOT checked"],
    )?;
    let report = report(dir)?;
    ensure!(report.outcome == Outcome::Unchecked, "{report:?}");
    let process = report.processes.first().context("no process")?;
    ensure!(
        (process.pid, process.pid_in_namespace) == (None, Some(pid)),
        "{process:?}"
    );
    found
}

/// criu before 4.0 calls the plugin corrupted. The plugin says why.
fn old_criu() -> Result<()> {
    let plugin = config::plugin_dir()?.join(config::PLUGIN_FILE);
    let output = Command::new(config::old_criu()).arg(plugin).output()?;
    let said = String::from_utf8(output.stdout)?;
    let expected =
        "1: Error (signals_plugin): this criu knows 10 plugin hooks; CRIU 4.0 or newer is needed\n";
    ensure!(output.status.success() && said == expected, "{said}");
    Ok(())
}
