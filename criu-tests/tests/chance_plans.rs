//! The plans in `chance/plans`: the program of random states (`chance/README.md`) carries each of them out twice, without
//! a checkpoint, and must say the same both times, apart from what depends on the clock.
//!
//! A line `#= TEXT` of a plan asks for a line of the report that begins with TEXT. Each run is pid 1 of a namespace of
//! its own, so that pids are the same.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use criu_tests::harness::PATIENCE;
use criu_tests::ns::{self, Ended};
use criu_tests::rundir::RunDir;
use criu_tests::{config, wait};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// Plans that are none, and a part of what is to be said of them.
const BAD: &[(&str, &str)] = &[
    ("thread 1", "the first line"),
    ("plan 1\nnothing 1", "line 2 (nothing 1): there is no such"),
    (
        "plan 1\ntimer-wait 3",
        "line 2 (timer-wait 3): there is no such timer",
    ),
    ("plan 1\nqueue shared 9 -1 0 -", "SIGKILL"),
    (
        "plan 1\nqueue shared 34 -1 0 0g",
        "pairs of hexadecimal digits",
    ),
    (
        "plan 1\nmask 0 0\nqueue shared 10 -1 0 -",
        "signal 10 would end",
    ),
    (
        "plan 1\nmask 0 0\ntimer 0 0 realtime signal 34 0 1000000000 0",
        "signal 34 would end",
    ),
    ("plan 1\nwait 0 pause none", "nothing ends this call"),
    ("plan 1\nwait 0 nanosleep none", "to have a timeout"),
    ("plan 1\nwait 0 read 500", "no timeout"),
    (
        "plan 1\nqueue 0 64 -1 0 -\nwait 0 rt_sigtimedwait none",
        "over before",
    ),
    ("plan 1\nthread 16", "no number from 0 to 15"),
    ("plan 1\ninside 0 10", "not delivered there"),
    ("plan 1\nleader-exits", "other than the leader"),
    ("plan 1\nstopped 20", "only SIGSTOP"),
    (
        "plan 1\nact 10 ignore 0 0\nmask 0 0\ndue shared 10",
        "without 'stopped'",
    ),
    ("plan 1\nchild 0 zombie 3 consumed", "too few or too many"),
    ("plan 1\nchild 0 stopped 10", "stops nothing"),
    (
        "plan 1\nact 20 ignore 0 0\nchild 0 stopped 20",
        "ignored or has a handler",
    ),
];

fn main() -> ExitCode {
    ns::test_main(tests, inside)
}

fn tests() -> ExitCode {
    let mut trials = vec![Trial::test("bad", || bad().map_err(failure))];
    for plan in plans().expect("chance/plans can be read") {
        for ia32 in [false, true] {
            let plan = plan.clone();
            let stem = plan.file_stem().unwrap_or_default().to_string_lossy();
            let name = format!("{stem}.{}", if ia32 { "ia32" } else { "native" });
            let without = ia32 && !config::has_ia32();
            let test = Trial::test(name.clone(), move || {
                same(&name, &plan, ia32).map_err(failure)
            });
            trials.push(test.with_ignored_flag(without));
        }
    }
    trials.push(Trial::test("each-line-deleted", || {
        each_line_deleted().map_err(failure)
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn failure(why: anyhow::Error) -> Failed {
    format!("{why:#}").into()
}

fn plans() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("chance/plans");
    let mut plans = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        plans.push(entry?.path());
    }
    plans.sort();
    Ok(plans)
}

/// What the program says of a plan, and its exit code, in a folder that is removed unless the run itself fails.
fn said(name: &str, plan: &str, ia32: bool) -> Result<(String, i32)> {
    let path = config::target_dir().join("criu-tests").join(name);
    let dir = RunDir::create(&path)?;
    fs::write(dir.file("plan"), plan)?;
    let folder = path.to_string_lossy();
    let args = [if ia32 { "ia32" } else { "native" }, folder.as_ref()];
    match ns::run(&args, &dir.file("run"), PATIENCE)? {
        Ended::With(status) if status.success() => {
            let code = dir.read("code").parse().context("the exit code")?;
            let out = dir.read("out");
            dir.remove()?;
            Ok((out, code))
        }
        Ended::With(status) => bail!("{folder}: {status}: {}", dir.read("run")),
        Ended::TimedOut => bail!("{folder}: no end; {}", dir.read("out")),
    }
}

/// Without the words `~name=number`.
fn without_times(report: &str) -> Vec<String> {
    let words = |line: &str| {
        let words = line.split(' ').filter(|word| !word.starts_with('~'));
        words.collect::<Vec<_>>().join(" ")
    };
    report.lines().map(words).collect()
}

fn same(name: &str, plan: &Path, ia32: bool) -> Result<()> {
    let plan = fs::read_to_string(plan).with_context(|| plan.display().to_string())?;
    let (first, code) = said(&format!("chance-plans.{name}.1"), &plan, ia32)?;
    ensure!(code == 0, "exit code {code}: {first}");
    ensure!(first.ends_with("\ndone\n"), "no end: {first}");
    let (second, _) = said(&format!("chance-plans.{name}.2"), &plan, ia32)?;
    let (first, second) = (without_times(&first), without_times(&second));
    ensure!(
        first == second,
        "two runs differ\n--- the first\n{}\n--- the second\n{}",
        first.join("\n"),
        second.join("\n")
    );
    // Bytes of a siginfo are those of a 64-bit program.
    let wanted = plan.lines().filter_map(|line| line.strip_prefix("#= "));
    for wanted in
        wanted.filter(|line| !ia32 || !(line.starts_with("list ") || line.starts_with("take ")))
    {
        ensure!(
            first.iter().any(|line| line.starts_with(wanted)),
            "no line '{wanted}...' in\n{}",
            first.join("\n")
        );
    }
    Ok(())
}

fn bad() -> Result<()> {
    for (i, (plan, expected)) in BAD.iter().enumerate() {
        let (out, code) = said(&format!("chance-plans.bad.{i}"), plan, false)?;
        let last = out.lines().last().unwrap_or_default();
        ensure!(
            code == 2 && last.starts_with("bad plan: ") && last.contains(expected),
            "{plan:?}: exit code {code}, {out:?}, and not '{expected}'"
        );
        ensure!(
            !out.lines().any(|line| line == "ready"),
            "{plan:?} was ready: {out}"
        );
    }
    Ok(())
}

/// A smaller plan is a plan, or is said to be none.
fn each_line_deleted() -> Result<()> {
    let plan = plans()?
        .into_iter()
        .find(|path| path.ends_with("mixture.plan"));
    let plan = fs::read_to_string(plan.context("there is no mixture.plan")?)?;
    let lines: Vec<&str> = plan.lines().filter(|line| !line.starts_with('#')).collect();
    for i in 1..lines.len() {
        let less = [&lines[..i], &lines[i + 1..]].concat().join("\n");
        let (out, code) = said(&format!("chance-plans.less.{i}"), &less, false)?;
        // A timer that other lines name, and a handler that a signal needs.
        let needed = lines[i].starts_with("timer ") || lines[i].starts_with("act 10 ");
        let bad = code == 2 && out.contains("bad plan: ");
        ensure!(
            (bad && needed) || (code == 0 && out.ends_with("\ndone\n")),
            "without '{}': exit code {code}: {out}",
            lines[i]
        );
    }
    Ok(())
}

/// Pid 1 of the namespace: starts the program, and says GO when it is ready.
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
    let [width, dir] = args.as_slice() else {
        bail!("two arguments are needed: {args:?}")
    };
    let dir = RunDir::open(Path::new(dir));
    let mut child = Command::new(config::chance(width == "ia32"))
        .args(["plan", "out"])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let early = wait::until("the program to be ready", wait::PATIENCE, || {
        if dir.read("out").lines().any(|line| line == "ready") {
            return Ok(Some(None));
        }
        // With `pidns` it ends well, and the process is ours.
        let ended = child.try_wait()?;
        Ok(ended.filter(|status| !status.success()).map(Some))
    })?;
    let code = match early {
        Some(status) => status.code(),
        None => {
            File::create(dir.file("GO"))?;
            end_of(&mut child, dir.read("pid").trim())?
        }
    };
    let code = code.with_context(|| format!("killed: {}", dir.read("out")))?;
    fs::write(dir.file("code"), code.to_string())?;
    Ok(())
}

/// The exit code of the process: the program itself, or (`pidns`) the one whose pid it has left.
fn end_of(child: &mut Child, pid: &str) -> Result<Option<i32>> {
    if pid.is_empty() {
        return Ok(child.wait()?.code());
    }
    match waitpid(Pid::from_raw(pid.parse()?), None)? {
        WaitStatus::Exited(_, code) => Ok(Some(code)),
        _ => Ok(None),
    }
}
