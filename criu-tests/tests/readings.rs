//! Processes are read by BPF, without a stop, and by ptrace(2): both have to tell the same. Each test is pid 1 of its own
//! namespace.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use criu_signals::bpf::process::ProcessReader;
use criu_signals::bpf::stopped::StoppedReader;
use criu_signals::images::{ProcessState, RunState, ThreadState, TimerEntry, WaitStatus, image};
use criu_signals::reading::Read as _;
use criu_tests::cases::{self, CHECK, Test, all_need, restored, start, test, with_plugin};
use criu_tests::chance::generate::{self, Focus};
use criu_tests::chance::stage::{self, STEP, Stage};
use criu_tests::config;
use criu_tests::criu::{Criu, Step};
use criu_tests::gaps::table::{IA32, ROWS, Row};
use criu_tests::gaps::{inside, matrix};
use criu_tests::procfs::{self, Pid};
use criu_tests::readings::{RUNS, compare, compare_stopped, compare_told};
use criu_tests::rundir::RunDir;
use criu_tests::scenario::Scenario;
use criu_tests::skip::Need;
use criu_tests::table::SCENARIOS;
use criu_tests::victim::{Victim, reap_all};

/// What a gap case is about lasts by so much longer than usual.
const SLOWER: u32 = 4;
/// Of nobody, in every Debian.
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    cases::main("readings", tests)
}

fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = SCENARIOS
        .iter()
        .filter(|scenario| scenario.needs.is_empty())
        .map(|scenario| {
            test(format!("same.{}", scenario.name), move |dir: &RunDir| {
                same(scenario, dir)
            })
        })
        .collect();
    tests.extend(RANDOM.into_iter().map(|first| {
        test(format!("random.{first}"), move |dir: &RunDir| {
            random(first, dir)
        })
        .may_take(MOST_TIME)
    }));
    tests.extend(gap_programs().into_iter().map(|(program, ia32)| {
        let needs: &[Need] = if ia32 {
            &[Need::Btf, Need::Ia32]
        } else {
            &[Need::Btf]
        };
        test(gaps_test(program, ia32), move |dir: &RunDir| {
            gaps(program, ia32, dir)
        })
        .needs(needs)
    }));
    tests.extend([
        test("told-at-dump", told_at_dump),
        test("overruns", overruns).needs(&[Need::TimersByBpf]),
        test("overruns-beside-others", overruns_beside_others).needs(&[Need::TimersByBpf]),
        test("timer-in-deep-queue", timer_in_deep_queue).needs(&[Need::TimersByBpf]),
        test("entries-aside", entries_aside).needs(&[Need::TimersByBpf]),
        test("entry-aside-again", entry_aside_again).needs(&[Need::TimersByBpf]),
        test("traced", traced),
        test("waited", waited),
        test("deep", deep),
        test("without-capability", without_capability),
        test("gone", gone),
    ]);
    all_need(tests, &[Need::Btf])
}

/// A program and all that it has started.
fn same(scenario: &Scenario, dir: &RunDir) -> Result<()> {
    let program = config::victim(scenario.program, scenario.ia32);
    let victim = Victim::start(&program, scenario.arg, dir, scenario.leaves_pid)?;
    if scenario.stops {
        victim.wait_stopped()?;
    }
    let compared = tree(victim.pid());
    victim.end();
    compared
}

/// The programs of the gap cases, and whether they are 32-bit.
fn gap_programs() -> BTreeSet<(&'static str, bool)> {
    ROWS.iter()
        .map(|row| (row.program, row.is_ia32()))
        .collect()
}

fn gaps_test(program: &str, ia32: bool) -> String {
    format!("gaps.{program}{}", if ia32 { IA32 } else { "" })
}

/// All cases of a program, each before criu would dump it.
fn gaps(program: &str, ia32: bool, dir: &RunDir) -> Result<()> {
    let is_of_it = |row: &&Row| (row.program, row.is_ia32()) == (program, ia32);
    let rows: Vec<&Row> = ROWS.iter().filter(is_of_it).collect();
    matrix::build_programs(&rows)?;
    let mut failed = Vec::new();
    for row in rows {
        if let Some(why) = row.needs.iter().find_map(|need| need.missing()) {
            println!("{}: not read: {why}", row.name);
            continue;
        }
        let folder = RunDir::create(&dir.file(row.name))?;
        let root = inside::start(row, SLOWER, &folder)?;
        let compared = if row.arrives {
            compare_stopped(&mut ProcessReader::new()?, root)
        } else {
            tree(root)
        };
        if let Err(why) = compared {
            failed.push(format!("{}: {why:#}", row.name));
        }
        stage::end_all()?;
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

fn tree(root: Pid) -> Result<()> {
    let mut reader = ProcessReader::new()?;
    let of_stopped = StoppedReader::new()?;
    for pid in procfs::tree(root)? {
        compare(&mut reader, pid)?;
        compare_told(&of_stopped, pid)?;
    }
    Ok(())
}

/// The images of a dump are the same whether BPF tells of the threads or they are asked.
fn told_at_dump(dir: &RunDir) -> Result<()> {
    for (program, arg) in [
        ("altstacks", None),
        ("dispositions", None),
        ("itimer", None),
        ("parent_death", None),
        ("process_tree", None),
        ("many_threads", Some("9")),
    ] {
        let folder = dir.file(program);
        fs::create_dir(&folder)?;
        told_and_asked(program, arg, &RunDir::open(&folder)).context(program)?;
    }
    Ok(())
}

fn told_and_asked(program: &str, arg: Option<&str>, dir: &RunDir) -> Result<()> {
    let victim = start(program, arg, dir)?;
    let mut found = Vec::new();
    for (how, is_read) in [("always", true), ("never", false)] {
        let images = dir.file(how);
        let dump = dump_told(how, &victim, &images)?;
        ensure!(
            dump.log.contains("stopped processes read by BPF") == is_read,
            "{how}: {}",
            dump.tail(40)
        );
        let states = procfs::tree(victim.pid())?
            .into_iter()
            .map(|pid| Ok(image::open(&images.join(image::file_name(pid)))?.process))
            .collect::<Result<Vec<_>>>()?;
        found.push(states);
    }
    for (told, asked) in found[0].iter().zip(&found[1]) {
        ensure!(
            told.dispositions == asked.dispositions,
            "{told:?} and {asked:?}"
        );
        let kinds = |state: &ProcessState| -> Vec<_> {
            let timers = state.interval_timers.iter();
            timers.map(|timer| (timer.which, timer.interval)).collect()
        };
        ensure!(kinds(told) == kinds(asked), "{told:?} and {asked:?}");
        let threads = |state: &ProcessState| -> Vec<_> {
            let threads = state.threads.iter();
            let inside = |one: &ThreadState| (one.tid(), one.altstack, one.parent_death_signal);
            threads.map(inside).collect()
        };
        ensure!(threads(told) == threads(asked), "{told:?} and {asked:?}");
    }
    victim.finish(CHECK)
}

fn dump_told(how: &str, victim: &Victim, images: &Path) -> Result<Step> {
    fs::create_dir(images)?;
    let criu = Criu::new(&config::criu()?, &config::faults_dir()?.join("plugins"));
    let dump = criu
        .env("CRIU_SIGNALS_BPF", how)
        .dump(victim.pid(), images, true)?;
    ensure!(dump.ok, "{}", dump.tail(20));
    Ok(dump)
}

/// Dumps the victim, of which nothing may be lost.
fn kept(victim: &Victim, images: &Path, leave_running: bool) -> Result<Step> {
    let dump = with_plugin()?.dump(victim.pid(), images, leave_running)?;
    ensure!(
        dump.ok && dump.log.contains("not kept: nothing"),
        "{}",
        dump.tail(40)
    );
    Ok(dump)
}

/// A pending entry stands for as many expiries by the kernel's own timer as the kernel delivers it with.
fn overruns(dir: &RunDir) -> Result<()> {
    let victim = start("timer_overruns", Some("slow"), dir)?;
    let counts = ["always", "never"].map(|how| {
        let images = dir.file(how);
        dump_told(how, &victim, &images)?;
        let image = image::open(&images.join(image::file_name(victim.pid())))?;
        let timer = image.process.timers.first().context("no timer")?;
        timer.entry_overrun.context("not counted")
    });
    let [told, counted] = counts;
    let (told, counted) = (told?, counted?);
    ensure!(
        (1..=counted).contains(&told),
        "{told} are told, and {counted} counted afterwards"
    );
    victim.finish(CHECK)
}

/// Behind another entry of its number nobody can take it out alone: the kernel tells its overruns, and they are put back.
fn overruns_beside_others(dir: &RunDir) -> Result<()> {
    const NOT_COUNTED: &str = "is not counted";
    let victim = start("timer_overruns", Some("beside"), dir)?;
    let counted = dump_told("never", &victim, &dir.file("never"))?;
    ensure!(counted.log.contains(NOT_COUNTED), "{}", counted.tail(40));
    let dump = kept(&victim, &dir.images(), false)?;
    ensure!(!dump.log.contains(NOT_COUNTED), "{}", dump.tail(40));
    reap_all()?;
    let (restore, checked) = restored(&with_plugin()?, dir)?;
    ensure!(restore.log.contains("verdict="), "{}", restore.tail(20));
    checked
}

/// A timer that expires after CRIU has armed it, and before the plugin looks: the entry is in the queue then, and goes aside.
fn entry_aside_again(dir: &RunDir) -> Result<()> {
    let victim = start("timer_aside", Some("fast"), dir)?;
    kept(&victim, &dir.images(), false)?;
    reap_all()?;
    let (restore, checked) = restored(&with_plugin()?, dir)?;
    ensure!(
        restore.log.contains("verdict=repaired"),
        "{}",
        restore.tail(20)
    );
    checked
}

/// A timer's entry in the middle of a queue that is deep, and all of its number, which therefore stays in: all of it is read
/// without a touch, so that the entry is known, and its overruns.
fn timer_in_deep_queue(dir: &RunDir) -> Result<()> {
    let victim = start("timer_deep", Some("4000"), dir)?;
    let dump = kept(&victim, &dir.images(), false)?;
    ensure!(!dump.log.contains("taken out"), "{}", dump.tail(40));
    reap_all()?;
    let (restore, checked) = restored(&with_plugin()?, dir)?;
    ensure!(
        restore.log.contains("not kept: nothing"),
        "{}",
        restore.tail(20)
    );
    checked
}

/// Entries that the kernel has put aside are known although another thread could take the signal, and keep their order: in what is
/// left running, and in what is restored.
fn entries_aside(dir: &RunDir) -> Result<()> {
    for last in ["first", "second"] {
        let dir = RunDir::create(&dir.file(last))?;
        let victim = start("timer_aside", Some(last), &dir)?;
        let left = dir.file("left-running");
        fs::create_dir(&left)?;
        for (images, leave_running) in [(&left, true), (&dir.images(), false)] {
            kept(&victim, images, leave_running)?;
            let image = image::open(&images.join(image::file_name(victim.pid())))?;
            let timers = image.process.timers.iter();
            let entries: Vec<_> = timers
                .map(|timer| (timer.entry, timer.entry_overrun))
                .collect();
            ensure!(
                entries == [(TimerEntry::Ignored, Some(0)); 2],
                "{entries:?}"
            );
        }
        reap_all()?;
        let (restore, checked) = restored(&with_plugin()?, &dir)?;
        let not_compared = "an ignored signal are kept aside (2)";
        ensure!(
            restore.log.contains("verdict=repaired") && restore.log.contains(not_compared),
            "{}",
            restore.tail(20)
        );
        checked.context(last)?;
    }
    Ok(())
}

// ---- what is refused, and what is left alone ---------------------------------------------------------------------------

fn show(args: &[&str]) -> Result<Output> {
    let mut command = Command::new(config::command()?);
    command.arg("show").args(args);
    command.output().context("criu-signals show")
}

/// A process that somebody traces is read, and does not run for it; ptrace(2) can't.
fn traced(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let pid = nix::unistd::Pid::from_raw(victim.pid());
    nix::sys::ptrace::seize(pid, nix::sys::ptrace::Options::empty()).context("seize")?;
    nix::sys::ptrace::interrupt(pid).context("interrupt")?;
    nix::sys::wait::waitpid(pid, None).context("waitpid")?;
    let switches = || -> Result<Vec<String>> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        Ok(lines.map(str::to_owned).collect())
    };
    let before = switches()?;
    for args in [&["--no-stop", &pid.to_string()][..], &[&pid.to_string()]] {
        let output = show(args)?;
        let text = String::from_utf8(output.stdout)?;
        ensure!(output.status.success(), "{text}");
        let tracer = format!("thread {}", nix::unistd::gettid());
        for line in ["by BPF, without a stop", "SIGHUP", &tracer] {
            ensure!(text.contains(line), "{line:?} is not in {text}");
        }
    }
    ensure!(switches()? == before, "{before:?}, then {:?}", switches()?);
    let output = show(&["--stop", &pid.to_string()])?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    nix::sys::ptrace::detach(pid, None).context("detach")?;
    victim.finish(CHECK)
}

/// Who waits for a stop takes its status, and nobody else.
fn waited(dir: &RunDir) -> Result<()> {
    let victim = start("stopped", None, dir)?;
    victim.wait_stopped()?;
    let mut reader = ProcessReader::new()?;
    let pid = criu_signals::images::Pid::new(victim.pid()).context("a pid")?;
    let stopped = criu_signals::images::SigNo::new(nix::sys::signal::Signal::SIGSTOP as i32)
        .context("SIGSTOP")?;
    let before = reader.read(pid)?.process;
    ensure!(before.run_state == RunState::Stopped(stopped), "{before:?}");
    ensure!(
        before.wait_status == WaitStatus::Stopped(stopped),
        "{before:?}"
    );
    let id = nix::unistd::Pid::from_raw(victim.pid());
    let flags = Some(nix::sys::wait::WaitPidFlag::WUNTRACED);
    nix::sys::wait::waitpid(id, flags).context("waitpid")?;
    let after = reader.read(pid)?.process;
    ensure!(after.run_state == before.run_state, "{after:?}");
    ensure!(after.wait_status == WaitStatus::Nothing, "{after:?}");
    victim.resume()?;
    victim.finish(CHECK)
}

/// More entries than there is room for at first.
fn deep(dir: &RunDir) -> Result<()> {
    const DEPTH: usize = 40_000;
    let victim = start("deep_queue", Some("40000"), dir)?;
    let pid = criu_signals::images::Pid::new(victim.pid()).context("a pid")?;
    let reading = ProcessReader::new()?.read(pid)?;
    let depth = reading.process.shared.queue.len();
    ensure!(depth >= DEPTH, "{depth} entries");
    let stopped = criu_signals::reading::Stopping {
        timeout: CHECK,
        most: Some(500),
    }
    .read(pid)?;
    let head = &stopped.process.shared.queue;
    ensure!(
        reading.process.shared.queue.starts_with(head),
        "another head"
    );
    let depths = stopped.depths.context("depths")?;
    ensure!(depths.last() == Some(&depth), "{depths:?}, read {depth}");
    victim.finish(CHECK)
}

fn without_capability(dir: &RunDir) -> Result<()> {
    // The build's folder may be closed to others.
    let copy = dir.file("criu-signals");
    fs::copy(config::command()?, &copy)?;
    let output = Command::new(copy)
        .args(["show", "--no-stop", "1"])
        .uid(NOBODY)
        .gid(NOBODY)
        .output()?;
    let error = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(2), "{error}");
    ensure!(error.contains("CAP_BPF"), "{error}");
    Ok(())
}

fn gone(_: &RunDir) -> Result<()> {
    let output = show(&["--no-stop", "4194303"])?;
    let error = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(2), "{error}");
    ensure!(error.contains("there is no process 4194303"), "{error}");
    Ok(())
}

// ---- random states ---------------------------------------------------------------------------------------------------

/// The first seeds, and how many of each: CHANCE_SEEDS for more.
const RANDOM: [u64; 3] = [0, 60, 300];
const SEEDS: u64 = 25;
/// With many seeds.
const MOST_TIME: Duration = Duration::from_secs(1_800);

/// Of errors: BPF has what the process shares by way of its leader, as ptrace(2) has, and a thread in vfork(2) does not stop.
const NOT_READ: [&str; 2] = ["its first thread has ended", "vfork"];

fn random(first: u64, dir: &RunDir) -> Result<()> {
    let seeds = match std::env::var("CHANCE_SEEDS") {
        Ok(number) => number.parse().context("CHANCE_SEEDS")?,
        Err(_) => SEEDS,
    };
    let mut stage = Stage::new(&dir.file("stage"))?;
    let mut failed = Vec::new();
    let (mut same, mut spinning, mut apart) = (0, 0, 0);
    for seed in first..first + seeds {
        stage.set(generate::is_ia32(seed) && config::has_ia32(), STEP);
        let Ok(running) = stage.start(&generate::plan(seed, Focus::None))? else {
            // The program can't do that here, with criu or without.
            continue;
        };
        let compared = tree(running.root);
        match compared {
            Ok(()) => same += 1,
            // Some plans have a thread that spins: BPF can't read its stack pointer, and says so. Others have something that one of
            // the two can't read at all.
            Err(why) if format!("{why:#}").contains(RUNS) => spinning += 1,
            Err(why)
                if NOT_READ
                    .iter()
                    .any(|what| format!("{why:#}").contains(what)) =>
            {
                apart += 1
            }
            Err(why) => failed.push(format!("seed {seed}: {why:#}")),
        }
    }
    stage.clear()?;
    println!(
        "{same} the same, {spinning} with a thread that runs, {apart} that one of the two can't read"
    );
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    let not = spinning + apart;
    ensure!(same > 3 * not, "{same} compared, {not} not");
    Ok(())
}
