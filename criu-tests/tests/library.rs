//! The examples of the library, as docs/library.md has them, with real processes and a real criu.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
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
            test("sdk.crates", |_| sdk_crates()),
            test("sdk.witness-plugin", witness_plugin),
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

/// This project's root folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("criu-tests is in it")
        .to_owned()
}

/// The cargo that runs this test.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn said_by(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// The crates that are compiled for the library with these features, without the library itself.
fn crates(features: &[&str]) -> Result<BTreeSet<String>> {
    let said = said_by(
        cargo()
            .args(["tree", "--offline", "--package", "criu-signals"])
            .args(["--edges", "normal,build", "--prefix", "none"])
            .args(["--no-default-features", "--features", &features.join(",")])
            .current_dir(root()),
    )?;
    let name_and_version = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().take(2).collect();
        (words.len() == 2).then(|| words.join(" "))
    };
    Ok(said
        .lines()
        // "[build-dependencies]" and the empty line.
        .filter_map(name_and_version)
        .filter(|name| !name.starts_with("criu-signals v"))
        .collect())
}

/// What the author of a plugin compiles is the SDK and nothing of signals; what a user of the library compiles has
/// nothing of the command.
fn sdk_crates() -> Result<()> {
    /// Without room for another dependency: whoever adds one looks at what it brings along.
    const MOST: usize = 27;
    const ENGINE: [&str; 5] = [
        "criu-signals-images",
        "procfs",
        "protobuf",
        "serde",
        "syscalls",
    ];
    const COMMAND: [&str; 5] = ["anstream", "clap", "fuser", "indicatif", "ratatui"];

    let has = |set: &BTreeSet<String>, name: &str| {
        set.iter()
            .any(|found| found.split(' ').next() == Some(name))
    };
    let sdk = crates(&[])?;
    ensure!(
        sdk.len() <= MOST,
        "the SDK alone takes {} crates, and {MOST} are the limit: {sdk:#?}",
        sdk.len()
    );
    let engine = crates(&["engine"])?;
    let command = crates(&["command"])?;
    for name in ENGINE {
        ensure!(!has(&sdk, name), "the SDK takes {name}");
        ensure!(has(&engine, name), "the engine does not take {name}");
    }
    for name in COMMAND {
        ensure!(!has(&engine, name), "the engine takes {name}");
        ensure!(has(&command, name), "the command does not take {name}");
    }
    println!(
        "crates: SDK {}, engine {}, command {}",
        sdk.len(),
        engine.len(),
        command.len()
    );
    Ok(())
}

/// Builds `plugins/witness` as somebody else would, who has the package in a folder of his own. Offline, from the
/// versions that this project is locked to.
fn build_witness(dir: &RunDir) -> Result<PathBuf> {
    let (root, package) = (root(), dir.file("witness"));
    let source = root.join("criu-tests/plugins/witness");
    fs::create_dir_all(package.join("src"))?;
    fs::copy(root.join("examples/witness.rs"), package.join("src/lib.rs"))?;
    let manifest = fs::read_to_string(source.join("Cargo.toml"))?;
    let path = "path = \"../../..\"";
    ensure!(manifest.contains(path), "no {path} in its Cargo.toml");
    let manifest = manifest.replace(path, &format!("path = {root:?}"));
    let manifest = manifest.replace("path = \"../../../examples/witness.rs\"\n", "");
    fs::write(package.join("Cargo.toml"), manifest)?;
    // cargo takes out of it what the package does not need.
    fs::copy(root.join("Cargo.lock"), package.join("Cargo.lock"))?;
    // What it needs is compiled once, not at every run of the test.
    let target = config::target_dir().join("witness");
    said_by(
        cargo()
            .args(["build", "--offline", "--target-dir"])
            .arg(&target)
            .current_dir(&package),
    )?;
    Ok(target.join("debug/libwitness.so"))
}

/// Alone, and beside ours: neither hides the other.
fn witness_plugin(dir: &RunDir) -> Result<()> {
    let folder = dir.file("plugins");
    fs::create_dir(&folder)?;
    fs::copy(build_witness(dir)?, folder.join("witness.so"))?;
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
        include_str!("../../examples/witness.rs"),
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
