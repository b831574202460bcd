//! Dumps with one version of criu and restores with another.
//!
//! A container may be restored on a machine with another criu than the one that it was dumped on, an older one too. The
//! plugin's images must work there as well. All versions that are in the target folder take part (`config::crius`), all
//! with the one plugin: each pair in both directions, and a tour through all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::criu::installed::Version;
use criu_tests::cases::{self, CHECK, Test, expect_verdicts, refused, restored, start, test};
use criu_tests::config;
use criu_tests::criu::{Criu, Step};
use criu_tests::plugin::Verdict::{self, Repaired, Verified};
use criu_tests::procfs::Pid;
use criu_tests::rundir::RunDir;
use criu_tests::skip::Need;
use criu_tests::victim::{Victim, reap_all};

/// What is dumped.
#[derive(Clone, Copy)]
struct Program {
    name: &'static str,
    /// The plugin's, of its processes.
    verdicts: &'static [Verdict],
}

const PROGRAMS: [Program; 2] = [
    // A tree of three: queues, masks and stacks of threads, an expired timer, pending bits that CRIU loses.
    Program {
        name: "container",
        verdicts: &[Repaired, Repaired, Verified],
    },
    // Signals that the plugin takes out for a dump, calls that a stop ends, a child in a stop that CRIU refuses.
    Program {
        name: "everything",
        verdicts: &[Repaired, Verified],
    },
];

/// The first criu whose images no older one can read: it writes the number of a mapping's pages to another field
/// (`nr_pages` of `pagemap_entry`, images/pagemap.proto), and those before it find none in theirs.
const NEW_PAGEMAP: Version = Version {
    major: 4,
    minor: 2,
    sublevel: 0,
};
/// What they notice first, in memory that is all zeros.
const NO_PAGES: &str = "vdso: ELF header magic mismatch";

/// Whether CRIU itself restores what the one has dumped by the other.
fn can(from: Version, to: Version) -> bool {
    from < NEW_PAGEMAP || to >= NEW_PAGEMAP
}

type Installed = (Version, PathBuf);

fn main() -> ExitCode {
    cases::main("across", tests)
}

fn tests() -> Vec<Test> {
    let crius = match config::crius() {
        Ok(crius) => crius,
        Err(why) => {
            let why = format!("{why:#}");
            return vec![test("versions", move |_| bail!("{why}"))];
        }
    };
    if crius.len() < 2 {
        let none = test("versions", |_| bail!("there is one version of criu only"));
        return vec![none.needs(&[Need::TwoCrius])];
    }
    let mut tests = Vec::new();
    for program in PROGRAMS {
        for from in &crius {
            for to in crius.iter().filter(|to| to.0 != from.0) {
                let name = format!("{}.{}-to-{}", program.name, from.0, to.0);
                let pair = [from.clone(), to.clone()];
                tests.push(if can(from.0, to.0) {
                    test(name, move |dir| travels(program, &pair, dir))
                } else {
                    test(name, move |dir| stays(program, &pair, dir))
                });
            }
        }
        // To the newest, and back as far as that goes.
        let newest = crius[crius.len() - 1].0;
        let back = crius.iter().rev().skip(1);
        let back = back.take_while(|older| can(newest, older.0));
        let route: Vec<Installed> = crius.iter().chain(back).cloned().collect();
        let tour = test(format!("{}.tour", program.name), move |dir| {
            travels(program, &route, dir)
        });
        tests.push(tour.may_take(Duration::from_secs(240)));
    }
    tests
}

/// The program is dumped by each criu of the route but the last, and restored by the one behind it. Then it compares its
/// whole state with what it was at first.
fn travels(program: Program, route: &[Installed], dir: &RunDir) -> Result<()> {
    let mut pid = start(program.name, None, dir)?.pid();
    for (hop, pair) in route.windows(2).enumerate() {
        let images = dir.file(&format!("images-{hop}"));
        fs::create_dir(&images)?;
        let how = || format!("{} to {}, hop {hop}", pair[0].0, pair[1].0);
        pid = travel(program, pid, pair, &images).with_context(how)?;
    }
    Victim::restored(pid, dir).finish(CHECK)
}

fn travel(program: Program, pid: Pid, pair: &[Installed], images: &Path) -> Result<Pid> {
    let plugin = config::plugin_dir()?;
    succeeded(&Criu::new(&pair[0].1, &plugin).dump(pid, images, false)?)?;
    reap_all()?;
    let (restore, pid) = Criu::new(&pair[1].1, &plugin).restore(images)?;
    succeeded(&restore)?;
    expect_verdicts(&restore.log, program.verdicts)?;
    pid.context("no pid")
}

/// CRIU itself can't restore there what it has dumped here. With the plugin it can't either, says the same, leaves nothing
/// behind, and the images are as good as before.
fn stays(program: Program, [from, to]: &[Installed; 2], dir: &RunDir) -> Result<()> {
    alone_stays(&from.1, &to.1, dir)?;
    let plugin = config::plugin_dir()?;
    let home = Criu::new(&from.1, &plugin);
    let victim = start(program.name, None, dir)?;
    succeeded(&home.dump(victim.pid(), &dir.images(), false)?)?;
    reap_all()?;
    let restore = refused(&Criu::new(&to.1, &plugin), dir)?;
    ensure!(restore.log.contains(NO_PAGES), "{}", restore.tail(30));
    expect_verdicts(&restore.log, &[])?;
    let (restore, found) = restored(&home, dir)?;
    found?;
    expect_verdicts(&restore.log, program.verdicts)
}

/// That it can't is to be seen without the plugin.
fn alone_stays(from: &Path, to: &Path, dir: &RunDir) -> Result<()> {
    let alone = RunDir::create(&dir.file("alone"))?;
    let none = alone.no_plugins();
    let victim = start("masks", None, &alone)?;
    succeeded(&Criu::new(from, &none).dump(victim.pid(), &alone.images(), false)?)?;
    reap_all()?;
    let restore = refused(&Criu::new(to, &none), &alone)
        .context("if CRIU can do it now, `can` is to be changed")?;
    ensure!(restore.log.contains(NO_PAGES), "{}", restore.tail(30));
    Ok(())
}

fn succeeded(step: &Step) -> Result<()> {
    ensure!(step.ok, "criu has failed:\n{}", step.tail(30));
    Ok(())
}
