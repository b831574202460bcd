//! The examples of the library, as docs/library.md has them, with real processes and a real criu.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use criu_signals::images::SigNo;
use criu_tests::cases::{self, restored, start, test};
use criu_tests::config;
use criu_tests::criu::Criu;
use criu_tests::rundir::RunDir;
use criu_tests::victim::reap_all;
use criu_tests::wait::{self, PATIENCE};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn main() -> ExitCode {
    cases::main("library", || {
        vec![
            test("example.capture-and-replay", capture_and_replay),
            test("example.witness-plugin", witness_plugin),
            test("docs", |_| documented()),
        ]
    })
}

/// What `cargo build --examples` has put beside the programs of this profile.
fn example(name: &str) -> Result<PathBuf> {
    let command = config::command()?;
    let folder = command
        .parent()
        .context("it has a folder")?
        .join("examples");
    let file = folder.join(name);
    ensure!(
        file.is_file(),
        "{} is not there: cargo build --examples",
        file.display()
    );
    Ok(file)
}

fn run(args: &[&str]) -> Result<String> {
    let output = Command::new(example("capture_and_replay")?)
        .args(args)
        .output()?;
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let said = String::from_utf8(said)?;
    ensure!(output.status.success(), "{said}");
    Ok(said)
}

fn capture_and_replay(dir: &RunDir) -> Result<()> {
    let mut child = Command::new("env")
        .args(["--block-signal=USR1", "sleep", "1000"])
        .spawn()?;
    let pid = child.id().to_string();
    let status = || fs::read_to_string(format!("/proc/{pid}/status"));
    let usr1 = format!("{:016x}", 1u64 << (SigNo::USR1.get() - 1));
    wait::until("sleep is running", PATIENCE, || {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"))?;
        let is_ready = comm == "sleep\n" && status()?.contains(&format!("SigBlk:\t{usr1}"));
        Ok(is_ready.then_some(()))
    })?;
    kill(Pid::from_raw(child.id().try_into()?), Signal::SIGUSR1)?;

    let folder = dir.images();
    let said = run(&[&pid, &folder.to_string_lossy()])?;
    ensure!(said.contains("sleep has 1 threads"), "{said}");
    ensure!(said.contains("pending for the process: SIGUSR1"), "{said}");
    let image = folder.join(format!("signals-{pid}.img"));
    let image = image.to_string_lossy();

    let said = run(&[&pid, &image])?;
    ensure!(said.contains("verdict=verified"), "{said}");

    let (soft, _) = getrlimit(Resource::RLIMIT_SIGPENDING)?;
    let lower = format!("--sigpending={}:", soft - 1);
    let lowered = Command::new("prlimit")
        .args(["--pid", &pid, &lower])
        .status()?;
    ensure!(lowered.success(), "prlimit {lower}");
    let said = run(&[&pid, &image])?;
    ensure!(said.contains("verdict=repaired"), "{said}");
    ensure!(said.contains("RLIMIT_SIGPENDING: dumped: "), "{said}");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max pending signals"));
    ensure!(
        line.is_some_and(|line| line.contains(&format!(" {soft} "))),
        "{limits}"
    );
    ensure!(
        status()?.contains(&format!("ShdPnd:\t{usr1}")),
        "{}",
        status()?
    );
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Alone, and beside ours: neither hides the other.
fn witness_plugin(dir: &RunDir) -> Result<()> {
    let folder = dir.file("plugins");
    fs::create_dir(&folder)?;
    fs::copy(example("libwitness_plugin.so")?, folder.join("witness.so"))?;
    fs::copy(
        config::plugin_dir()?.join(config::PLUGIN_FILE),
        folder.join(config::PLUGIN_FILE),
    )?;
    let criu = Criu::new(&config::criu()?, &folder);
    let victim = start("demo", None, dir)?;
    let pid = victim.pid();
    let dump = criu.dump(pid, &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    reap_all()?;
    let (restore, found) = restored(&criu, dir)?;
    found?;
    for (log, line) in [
        (
            &dump.log,
            format!("witness: pid {pid} (demo) is about to be dumped"),
        ),
        (&dump.log, "witness: dump ended with 0: 1 tasks".to_owned()),
        (
            &restore.log,
            format!("witness: pid {pid} is about to run again"),
        ),
        (
            &restore.log,
            "witness: restore ended with 0: 1 tasks".to_owned(),
        ),
        (&restore.log, "signals: ".to_owned()),
    ] {
        ensure!(log.contains(&line), "no line {line:?}:\n{log}");
    }
    Ok(())
}

/// What docs/library.md quotes of the examples stands in them.
fn documented() -> Result<()> {
    let examples = [
        include_str!("../../examples/capture_and_replay.rs"),
        include_str!("../../examples/witness_plugin.rs"),
    ];
    let docs = include_str!("../../docs/library.md");
    let mut quotes = 0;
    for quote in docs.split("```rust\n").skip(1) {
        let (quote, _) = quote.split_once("```").context("a quote without an end")?;
        quotes += 1;
        for line in quote.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let is_there = examples.iter().any(|e| e.lines().any(|l| l.trim() == line));
            ensure!(
                is_there,
                "docs/library.md has a line that no example has: {line}"
            );
        }
    }
    ensure!(quotes >= 2, "docs/library.md quotes no examples");
    Ok(())
}
