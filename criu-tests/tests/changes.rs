//! `criu-signals set` and `clear` on live processes: what they change, what they report, what they refuse, and what is left
//! when a step fails.
//!
//! As in the scenarios, each test is this program once more as pid 1 of a namespace of its own.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use criu_signals::fault::Point;
use criu_signals::images::text::SigFile;
use criu_tests::cases::{self, CHECK, Test, start, test, with_plugin};
use criu_tests::config;
use criu_tests::plugin::Verdict;
use criu_tests::procfs::{self, Pid};
use criu_tests::rundir::RunDir;
use criu_tests::six::{EMPTY, FULL, Sleeper, Way, entry, mask};
use criu_tests::victim::{Victim, reap_all};
use criu_tests::wait::{self, PATIENCE};
use nix::sys::signal::{Signal, kill};

/// Of nobody, in every Debian.
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    cases::main("changes", tests)
}

fn tests() -> Vec<Test> {
    vec![
        test("blocked", blocked),
        test("blocked.thread", blocked_of_thread),
        test("blocked.delivered", delivered),
        test("action", action),
        test("action.discards", discards),
        test("altstack", altstack),
        test("clear.all", clear_all),
        test("clear.some", clear_some),
        test("clear.thread", clear_of_thread),
        test("clear.timer", clear_timer),
        test("clear.without-siginfo", clear_bare),
        test("refused", refused),
        test("each-failure", each_failure),
        test("left-late", left_late),
        test("arrived", arrived),
        test("checkpointed", checkpointed),
    ]
}

fn run(args: &[&str]) -> Result<Output> {
    Ok(Command::new(config::command()?).args(args).output()?)
}

/// Succeeds, and prints exactly this.
fn says(args: &[&str], wanted: &str) -> Result<()> {
    let output = run(args)?;
    let out = String::from_utf8(output.stdout.clone())?;
    ensure!(
        output.status.success() && out == wanted,
        "{args:?}: {output:?}"
    );
    Ok(())
}

/// Fails with a reason, and changes nothing.
fn fails(pid: Pid, args: &[&str], why: &str) -> Result<()> {
    let before = whole(pid)?;
    let output = run(args)?;
    let error = String::from_utf8(output.stderr)?;
    ensure!(
        output.status.code() == Some(2) && output.stdout.is_empty(),
        "{args:?}: {error}"
    );
    ensure!(error.contains(why), "{args:?}: {error}");
    let after = whole(pid)?;
    ensure!(before == after, "{args:?} changed {before:?} to {after:?}");
    Ok(())
}

fn read(pid: Pid, tid: Pid, file: SigFile) -> Result<String> {
    Way::Library.read(pid, tid, file)
}

fn write(pid: Pid, tid: Pid, file: SigFile, text: &str) -> Result<()> {
    Way::Library.write(pid, tid, file, text)
}

type Whole = BTreeMap<(Pid, &'static str), String>;

/// All that can be written of a process.
fn whole(pid: Pid) -> Result<Whole> {
    let mut whole = Whole::new();
    for tid in procfs::tasks(pid)? {
        for file in SigFile::ALL.into_iter().filter(|file| file.is_writable()) {
            whole.insert((tid, file.name()), read(pid, tid, file)?);
        }
    }
    Ok(whole)
}

/// Only this file is different, and is this.
fn only(before: &Whole, pid: Pid, tid: Pid, file: SigFile, text: &str) -> Result<()> {
    let mut wanted = before.clone();
    wanted.insert((tid, file.name()), text.to_owned());
    let found = whole(pid)?;
    ensure!(found == wanted, "{found:?} is not {wanted:?}");
    Ok(())
}

fn blocked(_: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start(&[15, 10])?;
    let before = whole(pid)?;
    let name = pid.to_string();
    says(
        &["set", &name, "blocked", "-TERM", "+USR2,RTMIN..RTMIN+2"],
        &format!("thread {pid} blocked: SIGUSR1,SIGTERM -> SIGUSR1,SIGUSR2,SIGRTMIN..SIGRTMIN+2\n"),
    )?;
    only(
        &before,
        pid,
        pid,
        SigFile::Blocked,
        &mask(&[10, 12, 34, 35, 36]),
    )?;
    says(
        &["set", &format!("/proc/{pid}"), "blocked", "HUP", "2"],
        &format!("thread {pid} blocked: SIGUSR1,SIGUSR2,SIGRTMIN..SIGRTMIN+2 -> SIGHUP,SIGINT\n"),
    )?;
    only(&before, pid, pid, SigFile::Blocked, &mask(&[1, 2]))?;
    let output = run(&["set", &name, "blocked", "all"])?;
    ensure!(output.status.success(), "{output:?}");
    let but = |n: &i32| ![9, 19, 32, 33].contains(n);
    let all: Vec<i32> = (1..=64).filter(but).collect();
    only(&before, pid, pid, SigFile::Blocked, &mask(&all))?;
    let output = run(&["set", &name, "blocked", "none"])?;
    ensure!(output.status.success(), "{output:?}");
    only(&before, pid, pid, SigFile::Blocked, EMPTY)
}

/// The victim compares all threads with what they were.
fn blocked_of_thread(dir: &RunDir) -> Result<()> {
    let victim = start("masks", None, dir)?;
    let pid = victim.pid();
    let tid = *procfs::tasks(pid)?.last().context("a thread")?;
    let before = whole(pid)?;
    let was = read(pid, tid, SigFile::Blocked)?;
    let is_blocked = was.as_bytes()[29] == b'1';
    let (there, back) = if is_blocked {
        ("-PWR", "+PWR")
    } else {
        ("+PWR", "-PWR")
    };
    for place in [format!("{pid}/{tid}"), format!("/proc/{pid}/task/{tid}")] {
        let output = run(&["set", &place, "blocked", there])?;
        ensure!(output.status.success(), "{output:?}");
        let mut other = was.clone().into_bytes();
        other[29] ^= 1;
        only(
            &before,
            pid,
            tid,
            SigFile::Blocked,
            &String::from_utf8(other)?,
        )?;
        let output = run(&["set", &place, "blocked", back])?;
        ensure!(
            output.status.success() && whole(pid)? == before,
            "{output:?}"
        );
    }
    victim.finish(CHECK)
}

fn delivered(_: &RunDir) -> Result<()> {
    let (mut sleeper, pid) = Sleeper::start(&[15])?;
    kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM)?;
    says(
        &["set", &pid.to_string(), "blocked", "-TERM"],
        &format!(
            "thread {pid} blocked: SIGTERM -> none\npending and not blocked any more: SIGTERM\n"
        ),
    )?;
    let ended = wait::until("the end", PATIENCE, || Ok(sleeper.0.try_wait()?))?;
    ensure!(ended.to_string().contains("15"), "{ended}");
    Ok(())
}

fn line(signo: i32, handler: u64) -> String {
    format!("{signo:10} {:20} {} {handler:20} {:20}", 0, EMPTY.trim(), 0)
}

fn action(_: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start(&[])?;
    write(
        pid,
        pid,
        SigFile::Action,
        &format!("2 268435456 {} 4096 8192\n", mask(&[1]).trim()),
    )?;
    let before = whole(pid)?;
    let name = pid.to_string();
    let text = before[&(pid, "action")].clone();
    let wanted = |changes: &[(usize, u64)]| {
        let lines = text.lines().enumerate().map(|(n, old)| {
            let change = changes.iter().find(|(signo, _)| *signo == n + 1);
            change.map_or(old.to_owned(), |(signo, handler)| {
                line(i32::try_from(*signo).unwrap_or(0), *handler)
            })
        });
        lines.map(|line| line + "\n").collect::<String>()
    };
    says(
        &["set", &name, "action", "INT=default", "USR1,64=ignore"],
        &format!(
            "process {pid} SIGINT: handler 0x1000 flags SA_RESTART restorer 0x2000 mask SIGHUP -> default\n\
             process {pid} SIGUSR1: default -> ignore\nprocess {pid} SIGRTMIN+30: default -> ignore\n"
        ),
    )?;
    only(
        &before,
        pid,
        pid,
        SigFile::Action,
        &wanted(&[(2, 0), (10, 1), (64, 1)]),
    )?;
    // It is ignored indeed.
    kill(nix::unistd::Pid::from_raw(pid), Signal::SIGUSR1)?;
    says(
        &["set", &name, "action", "USR1=default"],
        &format!("process {pid} SIGUSR1: ignore -> default\n"),
    )?;
    only(
        &before,
        pid,
        pid,
        SigFile::Action,
        &wanted(&[(2, 0), (64, 1)]),
    )
}

fn discards(dir: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start(&[10, 12, 34])?;
    let shared = mask(&[10, 12, 34]) + &entry(12) + &entry(10);
    write(pid, pid, SigFile::SharedPending, &shared)?;
    write(pid, pid, SigFile::Pending, &(mask(&[10]) + &entry(10)))?;
    let before = whole(pid)?;
    let name = pid.to_string();
    says(
        &["set", &name, "action", "USR1,34=ignore"],
        &format!(
            "process {pid} SIGUSR1: default -> ignore\nprocess {pid} SIGRTMIN: default -> ignore\n\
             removed from the shared queue: SIGUSR1 SI_USER pid 1 uid 0\n\
             removed from the shared queue: SIGRTMIN without siginfo\n\
             removed from the queue of thread {pid}: SIGUSR1 SI_USER pid 1 uid 0\n"
        ),
    )?;
    ensure!(read(pid, pid, SigFile::SharedPending)? == mask(&[12]) + &entry(12));
    ensure!(read(pid, pid, SigFile::Pending)? == EMPTY);
    ensure!(read(pid, pid, SigFile::Blocked)? == before[&(pid, "blocked")]);
    // `write` discards as well, and says so.
    let text = dir.file("action");
    fs::write(&text, line(12, 1) + "\n")?;
    let text = text.to_string_lossy();
    let output = run(&["write", &format!("{pid}/action"), &text])?;
    let error = String::from_utf8(output.stderr)?;
    ensure!(
        output.status.success()
            && error
                == "criu-signals: discarded, because it is ignored now: shared queue: SIGUSR2 SI_USER pid 1 uid 0\n",
        "{error}"
    );
    Ok(())
}

fn altstack(dir: &RunDir) -> Result<()> {
    let victim = start("altstacks", None, dir)?;
    let pid = victim.pid();
    let mut cleared = 0;
    for tid in procfs::tasks(pid)? {
        let before = whole(pid)?;
        let was = before[&(tid, "altstack")].clone();
        let place = format!("{pid}/{tid}");
        if was.ends_with(" 1\n") || was.ends_with("2147483649\n") {
            fails(pid, &["set", &place, "altstack", "none"], "EPERM")?;
            continue;
        }
        let output = run(&["set", &place, "altstack", "none"])?;
        let out = String::from_utf8(output.stdout.clone())?;
        ensure!(
            output.status.success() && out.ends_with(" -> disabled\n"),
            "{output:?}"
        );
        only(&before, pid, tid, SigFile::AltStack, "0 0 2\n")?;
        cleared += usize::from(was != "0 0 2\n");
        write(pid, tid, SigFile::AltStack, &was)?;
    }
    ensure!(cleared > 0, "no thread had one");
    victim.finish(CHECK)
}

/// All that five threads have, and the process.
fn clear_all(dir: &RunDir) -> Result<()> {
    let victim = start("private_queues", None, dir)?;
    let pid = victim.pid();
    write(
        pid,
        pid,
        SigFile::SharedPending,
        &(mask(&[10]) + &entry(10)),
    )?;
    let before = whole(pid)?;
    let threads = procfs::tasks(pid)?;
    let entries: usize = before
        .iter()
        .filter(|((tid, file), _)| *file == "pending" || *file == "shared_pending" && *tid == pid)
        .map(|(_, text)| text.matches("sig ").count())
        .sum();
    let output = run(&["clear", &pid.to_string(), "pending"])?;
    let out = String::from_utf8(output.stdout.clone())?;
    ensure!(
        output.status.success() && out.lines().count() == entries,
        "{entries}: {output:?}"
    );
    ensure!(
        out.ends_with("removed from the shared queue: SIGUSR1 SI_USER pid 1 uid 0\n"),
        "{out}"
    );
    let mut wanted = before.clone();
    for tid in threads {
        let head = format!("removed from the queue of thread {tid}: ");
        let said = out.lines().filter(|line| line.starts_with(&head)).count();
        let was = &before[&(tid, "pending")];
        ensure!(
            said == was.matches("sig ").count(),
            "thread {tid}: {said}, {was}"
        );
        for file in ["pending", "shared_pending"] {
            wanted.insert((tid, file), EMPTY.to_owned());
        }
    }
    let found = whole(pid)?;
    ensure!(found == wanted, "{found:?}");
    says(
        &["clear", &pid.to_string(), "pending"],
        "nothing to remove\n",
    )?;
    // Put back as they were, for the victim.
    for ((tid, file), text) in before {
        if file == "pending" || file == "shared_pending" && tid == pid {
            let text = if file == "pending" {
                text
            } else {
                EMPTY.to_owned()
            };
            write(pid, tid, file.parse()?, &text)?;
        }
    }
    victim.finish(CHECK)
}

fn clear_some(_: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start(&[10, 12, 34, 35])?;
    let of_user = |n| {
        entry(n)
            .replace("code 0", "code -1")
            .replace("uid 0\n", "uid 0 value 3\n")
    };
    let of_user = |n| of_user(n).replace("code -1 value 3", "code -1");
    let shared = mask(&[10, 34, 35]) + &of_user(34) + &entry(10) + &of_user(35) + &of_user(34);
    write(pid, pid, SigFile::SharedPending, &shared)?;
    write(
        pid,
        pid,
        SigFile::Pending,
        &(mask(&[10, 12]) + &entry(12) + &entry(10)),
    )?;
    let before = whole(pid)?;
    says(
        &[
            "clear",
            &pid.to_string(),
            "pending",
            "USR1",
            "RTMIN",
            "RTMIN+9..RTMAX",
        ],
        &format!(
            "removed from the queue of thread {pid}: SIGUSR1 SI_USER pid 1 uid 0\n\
             removed from the shared queue: SIGRTMIN SI_QUEUE pid 1 uid 0 value 0x3\n\
             removed from the shared queue: SIGUSR1 SI_USER pid 1 uid 0\n\
             removed from the shared queue: SIGRTMIN SI_QUEUE pid 1 uid 0 value 0x3\n"
        ),
    )?;
    let mut wanted = before;
    wanted.insert((pid, "pending"), mask(&[12]) + &entry(12));
    wanted.insert((pid, "shared_pending"), mask(&[35]) + &of_user(35));
    let found = whole(pid)?;
    ensure!(found == wanted, "{found:?} is not {wanted:?}");
    says(
        &["clear", &pid.to_string(), "pending", "USR1"],
        "nothing to remove\n",
    )
}

/// Of a thread its own queue alone.
fn clear_of_thread(dir: &RunDir) -> Result<()> {
    let victim = start("private_queues", None, dir)?;
    let pid = victim.pid();
    let tid = *procfs::tasks(pid)?.last().context("a thread")?;
    write(
        pid,
        pid,
        SigFile::SharedPending,
        &(mask(&[10]) + &entry(10)),
    )?;
    let before = whole(pid)?;
    let output = run(&["clear", &format!("{pid}/{tid}"), "pending"])?;
    ensure!(output.status.success(), "{output:?}");
    only(&before, pid, tid, SigFile::Pending, EMPTY)?;
    write(pid, tid, SigFile::Pending, &before[&(tid, "pending")])?;
    write(pid, pid, SigFile::SharedPending, EMPTY)?;
    victim.finish(CHECK)
}

/// What a timer has queued stays, and with it all that was to be removed together with that.
fn clear_timer(dir: &RunDir) -> Result<()> {
    let victim = start("posix_timer", None, dir)?;
    let pid = victim.pid();
    let text = read(pid, pid, SigFile::SharedPending)?;
    ensure!(text.contains("flags 1"), "{text}");
    let blocked = read(pid, pid, SigFile::Blocked)?;
    write(pid, pid, SigFile::Blocked, FULL)?;
    write(pid, pid, SigFile::Pending, &(mask(&[10]) + &entry(10)))?;
    fails(pid, &["clear", &pid.to_string(), "pending"], "POSIX timer")?;
    says(
        &["clear", &pid.to_string(), "pending", "USR1"],
        &format!("removed from the queue of thread {pid}: SIGUSR1 SI_USER pid 1 uid 0\n"),
    )?;
    write(pid, pid, SigFile::Blocked, &blocked)?;
    ensure!(read(pid, pid, SigFile::SharedPending)? == text);
    victim.finish(CHECK)
}

fn clear_bare(_: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start(&[10, 34])?;
    write(pid, pid, SigFile::SharedPending, &mask(&[10, 34]))?;
    let before = whole(pid)?;
    says(
        &["clear", &pid.to_string(), "pending", "34"],
        "removed from the shared queue: SIGRTMIN without siginfo\n",
    )?;
    only(&before, pid, pid, SigFile::SharedPending, &mask(&[10]))
}

fn refused(_: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start(&[10])?;
    write(pid, pid, SigFile::Pending, &(mask(&[10]) + &entry(10)))?;
    let name = pid.to_string();
    for (args, why) in [
        (
            vec!["set", &name, "blocked", "+KILL"],
            "SIGKILL can't be blocked",
        ),
        (
            vec!["set", &name, "blocked", "USR1", "STOP"],
            "SIGSTOP can't be blocked",
        ),
        (
            vec!["set", &name, "action", "USR1=ignore", "KILL=ignore"],
            "SIGKILL keeps its default",
        ),
        (
            vec!["set", &name, "action", "STOP=default"],
            "SIGSTOP keeps its default",
        ),
        (vec!["set", &name, "altstack", "4096"], "the only change"),
        (
            vec!["set", &name, "blocked", "+USR1", "--timeout", "3"],
            "options go before PID",
        ),
        (
            vec!["clear", &name, "pending", "KILL"],
            "SIGKILL is never pending",
        ),
        (
            vec!["clear", &name, "pending", "1..64"],
            "SIGKILL is never pending",
        ),
    ] {
        fails(pid, &args, why)?;
    }
    let thread = format!("{pid}/{pid}");
    fails(
        pid,
        &["set", &thread, "action", "INT=ignore"],
        "all threads of a process",
    )?;
    fails(
        pid,
        &["set", &format!("{pid}/{}", pid + 1), "blocked", "none"],
        "",
    )?;
    // Of another user.
    let before = whole(pid)?;
    let program = Path::new("/run/command");
    fs::copy(config::command()?, program)?;
    for folder in [program, Path::new("/run")] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    for args in [
        ["set", &name, "blocked", "+TERM"],
        ["set", &name, "action", "INT=ignore"],
        ["set", &name, "altstack", "none"],
        ["clear", &name, "pending", "USR1"],
    ] {
        let mut command = Command::new(program);
        let output = command
            .args(args)
            .uid(NOBODY)
            .gid(NOBODY)
            .current_dir("/")
            .output()?;
        let error = String::from_utf8(output.stderr)?;
        ensure!(
            output.status.code() == Some(2) && error.contains("EPERM"),
            "{args:?}: {error}"
        );
    }
    ensure!(whole(pid)? == before);
    Ok(())
}

/// Of five points, and three changes that are made inside the process.
const LEAST_FAILURES: u32 = 60;

/// Each step of each change fails, one after the other: all is as it was found.
fn each_failure(_: &RunDir) -> Result<()> {
    let mut failed = 0;
    for point in [
        Point::BatchReady,
        Point::BatchDone,
        Point::OutcomesRead,
        Point::MaskBack,
        Point::RegistersBack,
    ] {
        for what in [
            &["set", "", "blocked", "-USR1"][..],
            &["set", "", "action", "USR1,34=ignore"],
            &["set", "", "altstack", "none"],
            &["clear", "", "pending"],
        ] {
            let (_sleeper, pid) = Sleeper::start(&[10, 34])?;
            let shared = mask(&[10, 34]) + &entry(10);
            write(pid, pid, SigFile::SharedPending, &shared)?;
            write(pid, pid, SigFile::Pending, &(mask(&[10]) + &entry(10)))?;
            write(pid, pid, SigFile::AltStack, "4096 16384 0\n")?;
            failed += failures(pid, what, point).with_context(|| format!("{what:?}, {point}"))?;
        }
    }
    ensure!(failed >= LEAST_FAILURES, "only {failed} failures");
    Ok(())
}

/// How many passages of a point there are in a change.
fn failures(pid: Pid, what: &[&str], point: Point) -> Result<u32> {
    const MOST: u32 = 60;
    let name = pid.to_string();
    let args = what
        .iter()
        .map(|word| if word.is_empty() { name.as_str() } else { word });
    let args: Vec<&str> = args.collect();
    let before = whole(pid)?;
    let command = config::faults_dir()?.join("criu-signals");
    for passage in 1..=MOST {
        let fault = format!("{}:fail:{passage}", point.number());
        let output = Command::new(&command)
            .args(&args)
            .env("CRIU_SIGNALS_FAULT", fault)
            .output()?;
        if output.status.success() {
            return Ok(passage - 1);
        }
        let after = whole(pid)?;
        ensure!(
            after == before,
            "passage {passage}: {output:?}: {before:?} became {after:?}"
        );
    }
    anyhow::bail!("it still fails at passage {MOST}")
}

/// A signal that is sent while the injected code is about to change a queue, or other state for which queues are put back if that
/// fails, is pending afterwards: behind what was written, and also where the write fails and is undone.
fn arrived(dir: &RunDir) -> Result<()> {
    let text = mask(&[10, 34]) + &entry(10) + &entry(34);
    let written = dir.file("text");
    fs::write(&written, &text)?;
    let written = written.to_str().context("a name")?;
    let fails = format!(",{}:fail", Point::BatchDone.number());
    let mut arrived = 0;
    for (then, code) in [("", 0), (fails.as_str(), 2)] {
        for (args, is_write) in [
            (&["write", "shared_pending", written][..], true),
            (&["set", "action", "USR1,34=ignore"], false),
            (&["clear", "pending", "USR1", "34"], false),
        ] {
            let (_sleeper, pid) = Sleeper::start(&[10, 12, 34])?;
            let before = mask(&[34]) + &entry(34) + &entry(34);
            write(pid, pid, SigFile::SharedPending, &before)?;
            let place = match *args {
                ["write", file, _] => format!("{pid}/{file}"),
                _ => pid.to_string(),
            };
            let args: Vec<&str> = match *args {
                ["write", _, text] => vec!["write", &place, text],
                [command, ref rest @ ..] => [&[command, place.as_str()], rest].concat(),
                [] => continue,
            };
            let faults = format!("{}:stop{then}", Point::BatchReady.number());
            let output = while_stopped(&args, &faults, || {
                Ok(kill(nix::unistd::Pid::from_raw(pid), Signal::SIGUSR2)?)
            })?;
            ensure!(
                output.status.code() == Some(code),
                "{args:?} {then}: {output:?}"
            );
            let found = read(pid, pid, SigFile::SharedPending)?;
            let wanted = match (code, is_write) {
                (0, true) => text.as_str(),
                (0, false) => EMPTY,
                _ => before.as_str(),
            };
            // The order of different numbers means nothing (next_signal).
            let entries = |text: &str| {
                let lines: Vec<&str> = text.lines().skip(1).collect();
                let mut entries: Vec<String> = lines.chunks(2).map(|e| e.join(" ")).collect();
                entries.sort();
                entries
            };
            let wanted = entries(&format!("\n{}{}", &wanted[65..], entry(12)));
            let found = entries(&found);
            ensure!(
                found == wanted,
                "{args:?} {then}: {found:?} is not {wanted:?}"
            );
            arrived += 1;
        }
    }
    ensure!(arrived == 6, "{arrived}");
    Ok(())
}

/// Runs the command, and does something while the process that does the command's work is stopped at a fault point.
fn while_stopped(args: &[&str], faults: &str, act: impl FnOnce() -> Result<()>) -> Result<Output> {
    let command = Command::new(config::faults_dir()?.join("criu-signals"))
        .args(args)
        .env("CRIU_SIGNALS_FAULT", faults)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let worker = wait::until("the command to stop", PATIENCE, || {
        let workers = procfs::named("signals-work")?;
        Ok(workers
            .into_iter()
            .find(|&pid| procfs::state(pid) == Some('T')))
    })?;
    act()?;
    kill(nix::unistd::Pid::from_raw(worker), Signal::SIGCONT)?;
    Ok(command.wait_with_output()?)
}

/// The change is made, and the injected code can't be taken away: the command says both.
fn left_late(_: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start(&[])?;
    let output = Command::new(config::faults_dir()?.join("criu-signals"))
        .args(["set", &pid.to_string(), "action", "USR1=ignore"])
        .env(
            "CRIU_SIGNALS_FAULT",
            format!("{}:fail", Point::StubCleared.number()),
        )
        .output()?;
    let error = String::from_utf8(output.stderr)?;
    ensure!(
        output.status.code() == Some(2) && error.contains("the change itself was made"),
        "{error}"
    );
    let found = read(pid, pid, SigFile::Action)?;
    ensure!(found.contains(&line(10, 1)), "{found}");
    Ok(())
}

/// What was set and cleared is what a checkpoint dumps and restores.
fn checkpointed(dir: &RunDir) -> Result<()> {
    let criu = with_plugin()?;
    let victim = start("private_queues", None, dir)?;
    let pid = victim.pid();
    let tid = *procfs::tasks(pid)?.last().context("a thread")?;
    let place = format!("{pid}/{tid}");
    for args in [
        &["clear", &place, "pending", "RTMIN..RTMAX"][..],
        &["set", &pid.to_string(), "action", "XFSZ=ignore"],
        &["set", &place, "blocked", "-PWR"],
    ] {
        let output = run(args)?;
        ensure!(output.status.success(), "{output:?}");
    }
    let before = whole(pid)?;
    let dump = criu.dump(pid, &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    reap_all()?;
    let (step, restored) = criu.restore(&dir.images())?;
    ensure!(restored == Some(pid), "criu restore failed");
    cases::expect_verdict(&step, Verdict::Verified)?;
    let after = whole(pid)?;
    ensure!(after == before, "{before:?} was restored as {after:?}");
    Victim::restored(pid, dir).end();
    Ok(())
}
