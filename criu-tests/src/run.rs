//! One run: a scenario in a flavour, from the start of the victim to the comparison with what was expected.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MsFlags, mount};

use crate::config;
use crate::criu::{Criu, Step};
use crate::plugin;
use crate::procfs::{self, Pid};
use crate::rundir::RunDir;
use crate::scenario::{Expect, Flavour, Scenario};
use crate::victim::{Victim, reap_all};
use crate::wait;

/// What came out, before it is compared with what was expected.
enum Outcome {
    Passed,
    /// And what the task that runs on then found.
    DumpFailed(Result<(), String>),
    RestoreFailed,
    Failed(String),
}

/// A run that has come to its end, and what criu did in it.
struct Done {
    outcome: Outcome,
    /// The processes that were there when the dump began.
    processes: Vec<Pid>,
    dump: Option<Step>,
    restore: Option<Step>,
}

/// Runs a scenario in this process, which must be pid 1 of a namespace ([`crate::ns`]). `Err` says in what it
/// differs from the table.
pub fn run(scenario: &Scenario, flavour: Flavour, dir: &RunDir) -> Result<()> {
    let done = match flavour {
        Flavour::Control => control(scenario, dir)?,
        Flavour::Alone | Flavour::Plugin => dump_and_restore(scenario, flavour, dir)?,
        Flavour::LeaveRunning => leave_running(scenario, dir)?,
    };
    // First what the victim found: it says more than the logs do.
    compare(scenario.expected(flavour), &done)?;
    if scenario.other_plugins {
        for (step, what) in [(&done.dump, "checkpoint"), (&done.restore, "resume")] {
            step.as_ref().map_or(Ok(()), |step| {
                expect_other_plugins(step, what, &done.processes)
            })?;
        }
    }
    match &done.restore {
        // Where the table says that the plugin does not help, its verdict is not of interest.
        Some(restore)
            if flavour == Flavour::Plugin
                && matches!(scenario.plugin, Expect::Pass | Expect::Race(_)) =>
        {
            expect_verdicts(scenario, restore, &done.processes)?;
            let steps = || done.dump.iter().chain([restore]);
            steps().try_for_each(|step| expect_unsaid(scenario, step))?;
            expect_said(scenario, steps())
        }
        _ => Ok(()),
    }
}

fn expect_said<'s>(scenario: &Scenario, steps: impl Iterator<Item = &'s Step>) -> Result<()> {
    let Some(text) = scenario.said else {
        return Ok(());
    };
    let mut steps = steps;
    if steps.any(|step| plugin::lines(&step.log).any(|line| line.contains(text))) {
        return Ok(());
    }
    bail!("the plugin does not say {text:?}")
}

fn expect_unsaid(scenario: &Scenario, step: &Step) -> Result<()> {
    let unsaid = |line: &&str| scenario.unsaid.is_some_and(|text| line.contains(text));
    match plugin::lines(&step.log).find(unsaid) {
        Some(line) => bail!("the plugin is not to say this: {line}"),
        None => Ok(()),
    }
}

fn compare(expected: Expect, done: &Done) -> Result<()> {
    let says =
        |step: &Option<Step>, text: &str| step.as_ref().is_some_and(|step| step.log.contains(text));
    match (expected, &done.outcome) {
        (Expect::Pass | Expect::Race(_) | Expect::RestoreMayFail(_), Outcome::Passed) => Ok(()),
        (Expect::DumpFails(text), Outcome::DumpFailed(Ok(()))) if says(&done.dump, text) => Ok(()),
        (Expect::DumpHarms(text), Outcome::DumpFailed(Err(_))) if says(&done.dump, text) => Ok(()),
        (Expect::RestoreFails(text) | Expect::RestoreMayFail(text), Outcome::RestoreFailed)
            if says(&done.restore, text) =>
        {
            Ok(())
        }
        (Expect::Fails(text) | Expect::Race(text), Outcome::Failed(why)) if why.contains(text) => {
            Ok(())
        }
        (_, Outcome::Passed) => bail!("the victim passes, but the table says: {expected}"),
        (_, Outcome::DumpFailed(Ok(()))) => {
            bail!("criu dump failed, expected: {expected}; the victim passes after it")
        }
        (_, Outcome::DumpFailed(Err(why))) => {
            bail!("criu dump failed, expected: {expected}; the victim after it: {why}")
        }
        (_, Outcome::RestoreFailed) => bail!("criu restore failed, expected: {expected}"),
        (_, Outcome::Failed(why)) => bail!("expected: {expected}; the victim: {why}"),
    }
}

fn start(scenario: &Scenario, dir: &RunDir) -> Result<Victim> {
    let program = config::victim(scenario.program, scenario.ia32);
    let victim = Victim::start(&program, scenario.arg, dir, scenario.leaves_pid)?;
    if scenario.stops {
        victim.wait_stopped()?;
    }
    Ok(victim)
}

fn finish(scenario: &Scenario, victim: Victim) -> Result<Outcome> {
    if scenario.stops {
        if let Err(why) = victim.wait_stopped() {
            return Ok(Outcome::Failed(why.to_string()));
        }
        victim.resume()?;
    }
    Ok(match victim.finish(wait::PATIENCE) {
        Ok(()) => Outcome::Passed,
        Err(why) => Outcome::Failed(why.to_string()),
    })
}

fn after_failed_dump(scenario: &Scenario, victim: Victim) -> Result<Outcome> {
    Ok(Outcome::DumpFailed(match finish(scenario, victim)? {
        Outcome::Failed(why) => Err(why),
        _ => Ok(()),
    }))
}

fn control(scenario: &Scenario, dir: &RunDir) -> Result<Done> {
    let victim = start(scenario, dir)?;
    let processes = procfs::tree(victim.pid())?;
    Ok(Done {
        outcome: finish(scenario, victim)?,
        processes,
        dump: None,
        restore: None,
    })
}

fn dump_and_restore(scenario: &Scenario, flavour: Flavour, dir: &RunDir) -> Result<Done> {
    let criu = criu(scenario, flavour, dir)?;
    let victim = start(scenario, dir)?;
    let root = victim.pid();
    let processes = procfs::tree(root)?;

    let dump = criu.dump(root, &dir.images(), false)?;
    if !dump.ok {
        let outcome = after_failed_dump(scenario, victim)?;
        return Ok(Done {
            outcome,
            processes,
            dump: Some(dump),
            restore: None,
        });
    }
    reap_all()?;

    let (restore, restored) = criu.restore(&dir.images())?;
    let outcome = match restored {
        Some(pid) => {
            // In a pid namespace of its own it is pid 1 there, and anything here.
            ensure!(
                pid == root || scenario.leaves_pid,
                "pid {root} was dumped, and is {pid} after the restore"
            );
            finish(scenario, Victim::restored(pid, dir))?
        }
        None => Outcome::RestoreFailed,
    };
    Ok(Done {
        outcome,
        processes,
        dump: Some(dump),
        restore: Some(restore),
    })
}

fn leave_running(scenario: &Scenario, dir: &RunDir) -> Result<Done> {
    let criu = criu(scenario, Flavour::LeaveRunning, dir)?;
    let victim = start(scenario, dir)?;
    let processes = procfs::tree(victim.pid())?;
    let before = procfs::signal_lines(&processes)?;

    let dump = criu.dump(victim.pid(), &dir.images(), true)?;
    if !dump.ok {
        let outcome = after_failed_dump(scenario, victim)?;
        return Ok(Done {
            outcome,
            processes,
            dump: Some(dump),
            restore: None,
        });
    }
    // A thread that was in sigsuspend or ppoll shows its own mask until it has entered the call again.
    let mut difference = String::new();
    let same = wait::until("the signal state to be as before", wait::PATIENCE, || {
        difference = procfs::describe_difference(&before, &procfs::signal_lines(&processes)?);
        Ok(difference.is_empty().then_some(()))
    });
    let mut outcome = finish(scenario, victim)?;
    if same.is_err() {
        let found = if let Outcome::Failed(why) = outcome {
            why
        } else {
            String::new()
        };
        outcome = Outcome::Failed(format!("/proc shows a change: {difference}\n{found}"));
    }
    Ok(Done {
        outcome,
        processes,
        dump: Some(dump),
        restore: None,
    })
}

/// criu with the plugins of the flavour.
fn criu(scenario: &Scenario, flavour: Flavour, dir: &RunDir) -> Result<Criu> {
    let ours = if flavour == Flavour::Alone {
        None
    } else {
        Some(config::plugin_dir()?)
    };
    let libdir = match (scenario.other_plugins, ours) {
        (false, None) => dir.no_plugins(),
        (false, Some(ours)) => ours,
        (true, ours) => with_other_plugins(ours.as_deref(), dir)?,
    };
    Ok(Criu::new(&config::criu()?, &libdir))
}

/// The names of the two copies of the other plugin.
const OTHERS: [&str; 2] = ["aaa_other.so", "zzz_other.so"];

/// A folder with two copies of the other plugin, and ours between them in the order in which criu reads the folder.
/// That is the order of readdir, which only a file system in memory makes predictable: the run mounts one.
fn with_other_plugins(ours: Option<&Path>, dir: &RunDir) -> Result<PathBuf> {
    let folder = dir.file("plugins");
    fs::create_dir(&folder).context("making plugins")?;
    let none: Option<&str> = None;
    mount(
        Some("tmpfs"),
        &folder,
        Some("tmpfs"),
        MsFlags::empty(),
        none,
    )
    .context("mounting plugins")?;
    fs::copy(config::other_plugin(), folder.join(OTHERS[0])).context("copying the other plugin")?;
    if let Some(ours) = ours {
        fs::copy(
            ours.join(config::PLUGIN_FILE),
            folder.join(config::PLUGIN_FILE),
        )
        .context("copying the plugin")?;
    }
    fs::copy(config::other_plugin(), folder.join(OTHERS[1])).context("copying the other plugin")?;
    if ours.is_some() {
        let names: Vec<_> = fs::read_dir(&folder)?
            .map(|e| Ok(e?.file_name()))
            .collect::<Result<_>>()?;
        ensure!(
            names.get(1).is_some_and(|name| name == config::PLUGIN_FILE),
            "ours is not between the others: {names:?}"
        );
    }
    Ok(folder)
}

fn expect_other_plugins(step: &Step, what: &str, processes: &[Pid]) -> Result<()> {
    for pid in processes {
        for name in OTHERS {
            let line = format!("other plugin: {what} {pid} ({name})");
            ensure!(
                step.log.contains(&line),
                "criu's log lacks {line:?}: a plugin was not called"
            );
        }
    }
    Ok(())
}

fn expect_verdicts(scenario: &Scenario, restore: &Step, processes: &[Pid]) -> Result<()> {
    let found = plugin::verdicts(&restore.log);
    ensure!(
        found.len() == processes.len(),
        "{} processes were restored, and the plugin gave {} verdicts: {found:?}",
        processes.len(),
        found.len()
    );
    for verdict in found {
        match verdict {
            Ok(verdict) if scenario.verdicts.contains(&verdict) => {}
            Ok(verdict) => {
                let wanted: Vec<String> =
                    scenario.verdicts.iter().map(ToString::to_string).collect();
                let lines: Vec<&str> = plugin::lines(&restore.log).collect();
                bail!(
                    "the verdict is {verdict}, expected {}:\n{}",
                    wanted.join(" or "),
                    lines.join("\n")
                );
            }
            Err(line) => bail!("a verdict that is not known: {line}"),
        }
    }
    Ok(())
}
