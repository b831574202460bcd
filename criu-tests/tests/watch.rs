//! Tests `criu-signals watch`: what a process changes in its signal state is printed, and the process does not notice. Each test
//! is pid 1 of its own namespace.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use anyhow::{Context as _, Result, bail, ensure};
use criu_tests::cases::{self, CHECK, Test, all_need, start, test};
use criu_tests::config;
use criu_tests::procfs::Pid;
use criu_tests::rundir::RunDir;
use criu_tests::six::Sleeper;
use criu_tests::skip::Need;
use criu_tests::wait::PATIENCE;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd;
use serde_json::Value;

/// Of nobody, in every Debian.
const NOBODY: u32 = 65534;
/// So many signals are sent.
const MANY: u64 = 1000;
/// Often, so that the tests are short.
const OFTEN: [&str; 2] = ["--interval", "0.005"];

fn main() -> ExitCode {
    cases::main("watch", tests)
}

fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = vec![
        test("steps", steps),
        test("text", text),
        test("entries", entries),
        test("stop-and-end", stop_and_end),
        test("untouched", untouched),
        test("traced", traced),
        test("ends.signal", ends_by_signal),
        test("ends.count", ends_by_count),
        test("ends.time", ends_by_time),
        test("ends.reader", ends_by_reader),
        test("names", names),
        test("unreadable", unreadable),
        test("namespace", namespace),
    ];
    tests = all_need(tests, &[Need::Btf]);
    tests.push(test("without-capability", without_capability));
    tests.push(test("wrong", wrong));
    tests
}

/// A watch that sees whatever changes from now on.
struct Watch {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Watch {
    fn spawn(command: &mut Command) -> Result<Watch> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let out = BufReader::new(child.stdout.take().context("a pipe")?);
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Watch {
            child,
            lines,
            seen: Vec::new(),
        })
    }

    fn text(args: &[&str]) -> Result<Watch> {
        let mut command = Command::new(config::command()?);
        command.arg("watch").args(args);
        let mut watch = Watch::spawn(&mut command)?;
        let first = watch.line()?.context("a first line")?;
        ensure!(first.contains("watching process"), "{first}");
        Ok(watch)
    }

    fn start(args: &[&str]) -> Result<Watch> {
        let mut command = Command::new(config::command()?);
        command.args(["watch", "--json"]).args(args);
        let mut watch = Watch::spawn(&mut command)?;
        watch.until(|line| line["event"] == "begin")?;
        Ok(watch)
    }

    /// `None`: it has ended.
    fn line(&mut self) -> Result<Option<String>> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.seen.push(line.clone());
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("no such line: {:#?}", self.seen),
        }
    }

    /// The next line that is so.
    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            let Some(line) = self.line()? else {
                bail!("it has ended, and has printed {:#?}", self.seen);
            };
            let document: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
            ensure!(
                document["time"].as_u64() > Some(0) && document["utc"].is_string(),
                "{line}"
            );
            if wanted(&document) {
                return Ok(document);
            }
        }
    }

    /// The next change of this field.
    fn changed(&mut self, field: &str) -> Result<Value> {
        self.until(|line| line["event"] == "changed" && line["field"] == field)
    }

    /// The next line that has this text.
    fn has(&mut self, text: &str) -> Result<String> {
        loop {
            let Some(line) = self.line()? else {
                bail!("no {text:?}: {:#?}", self.seen);
            };
            if line.contains(text) {
                return Ok(line);
            }
        }
    }

    /// All lines up to the end, and the exit code.
    fn end(mut self) -> Result<(Vec<String>, i32)> {
        let mut rest = Vec::new();
        while let Some(line) = self.line()? {
            rest.push(line);
        }
        let code = self.child.wait()?.code().context("an exit code")?;
        Ok((rest, code))
    }
}

fn step(dir: &RunDir, number: u32) -> Result<()> {
    Ok(fs::write(dir.file(&format!("step{number}")), "")?)
}

fn signal(pid: Pid, signal: Signal) -> Result<()> {
    kill(unistd::Pid::from_raw(pid), signal).context("kill")
}

/// The victim alone, not the watch.
fn reap(pid: Pid) -> Result<()> {
    waitpid(unistd::Pid::from_raw(pid), None).context("waitpid")?;
    Ok(())
}

/// Each change of the program's is a line, in the order in which it makes them.
fn steps(dir: &RunDir) -> Result<()> {
    let victim = start("steps", None, dir)?;
    let pid = victim.pid();
    let mut watch = Watch::start(&[&OFTEN[..], &[&pid.to_string()]].concat())?;
    let is = |value: &Value, before: &str, after: &str| {
        ensure!(
            value["before"] == before && value["after"] == after,
            "{value}"
        );
        Ok(())
    };

    step(dir, 1)?;
    let line = watch.changed("blocked")?;
    is(&line, "none", "SIGUSR1")?;
    ensure!(line["thread"] == pid, "{line}");

    step(dir, 2)?;
    let line = watch.changed("disposition")?;
    ensure!(
        line["signal"] == "SIGTERM" && line["before"] == "default" && line["thread"].is_null(),
        "{line}"
    );
    let named = line["after_named"].as_str().unwrap_or_default();
    ensure!(named.contains("[on_term, steps+0x"), "{line}");

    step(dir, 3)?;
    let line = watch.changed("altstack")?;
    ensure!(
        line["before"] == "disabled"
            && line["after"]
                .as_str()
                .is_some_and(|s| s.ends_with("size 65536")),
        "{line}"
    );

    step(dir, 4)?;
    let line = watch.changed("altstack")?;
    ensure!(line["after"] == "disabled", "{line}");
    let begun = watch.until(|line| line["event"] == "thread_begun")?;
    let tid = &begun["thread"];
    ensure!(tid.is_i64() && *tid != pid, "{begun}");
    step(dir, 5)?;
    watch.until(|line| line["event"] == "thread_ended" && line["thread"] == *tid)?;

    step(dir, 6)?;
    let line = watch.changed("timer")?;
    ensure!(
        line["timer"] == 0 && line["before"] == "no such timer",
        "{line}"
    );
    let unarmed = "SIGRTMIN value 0x0 to process, CLOCK_MONOTONIC, interval 0 ns, not armed";
    ensure!(line["after"] == unarmed, "{line}");
    step(dir, 7)?;
    let armed = "SIGRTMIN value 0x0 to process, CLOCK_MONOTONIC, interval 1000000000 ns, armed";
    is(&watch.changed("timer")?, unarmed, armed)?;
    step(dir, 8)?;
    is(&watch.changed("timer")?, armed, "no such timer")?;
    step(dir, 9)?;
    let line = watch.changed("interval_timer")?;
    ensure!(
        line["after"]
            .as_str()
            .is_some_and(|s| s.contains("ITIMER_REAL")),
        "{line}"
    );

    signal(pid, Signal::SIGUSR1)?;
    let line = watch.until(|line| line["event"] == "arrived")?;
    ensure!(
        line["signal"] == "SIGUSR1" && line["pid"] == unistd::getpid().as_raw() && line["uid"] == 0,
        "{line}"
    );
    ensure!(line["thread"].is_null(), "{line}");
    step(dir, 10)?;
    let line = watch.until(|line| line["event"] == "left")?;
    ensure!(line["signal"] == "SIGUSR1", "{line}");

    step(dir, 11)?;
    is(&watch.changed("comm")?, "steps", "stepped")?;

    step(dir, 12)?;
    let line = watch.changed("exe")?;
    ensure!(
        line["before"]
            .as_str()
            .is_some_and(|s| s.ends_with("/steps"))
            && line["after"]
                .as_str()
                .is_some_and(|s| s.ends_with("/sleep")),
        "{line}"
    );
    let line = watch.changed("disposition")?;
    ensure!(line["after"] == "default", "{line}");
    signal(pid, Signal::SIGKILL)?;
    let (rest, code) = watch.end()?;
    ensure!(
        code == 0 && rest.iter().any(|line| line.contains("\"ended\"")),
        "{rest:#?}"
    );
    reap(pid)
}

/// The lines for people: when, whose, what.
fn text(dir: &RunDir) -> Result<()> {
    let victim = start("steps", None, dir)?;
    let pid = victim.pid();
    let mut watch = Watch::text(&[&OFTEN[..], &[&pid.to_string()]].concat())?;
    step(dir, 1)?;
    let line = watch.has("mask: ")?;
    let (time, rest) = line.split_once(' ').context("a time")?;
    // 2026-11-27T12:00:00.123456Z
    ensure!(
        time.len() == 27 && time.ends_with('Z') && time.as_bytes()[10] == b'T',
        "{line}"
    );
    ensure!(
        rest == format!("thread {pid} mask: none -> SIGUSR1"),
        "{line}"
    );
    signal(pid, Signal::SIGUSR1)?;
    let sender = unistd::getpid();
    watch.has(&format!(
        "process pending: SIGUSR1 SI_USER pid {sender} uid 0"
    ))?;
    signal(pid, Signal::SIGKILL)?;
    watch.has(&format!("process {pid} has ended: killed by SIGKILL"))?;
    let line = watch.has(" readings")?;
    ensure!(line.contains(" 2 changes in "), "{line}");
    let (_, code) = watch.end()?;
    ensure!(code == 0, "exit code {code}");
    reap(pid)
}

/// Each of many entries comes once and goes once, with its value.
fn entries(dir: &RunDir) -> Result<()> {
    let victim = start("counting", Some("blocked"), dir)?;
    let pid = victim.pid();
    let mut watch = Watch::start(&[&OFTEN[..], &[&pid.to_string()]].concat())?;
    let status = Command::new(config::victim("sending", false))
        .args([pid.to_string(), MANY.to_string(), "0".to_owned()])
        .status()?;
    ensure!(status.success(), "sending: {status}");
    for event in ["arrived", "left"] {
        for n in (0..MANY).map(|n| n.to_string()) {
            let line = watch.until(|line| line["event"] == "arrived" || line["event"] == "left")?;
            ensure!(
                line["event"] == event && line["value"] == n,
                "entry {n}: {line}"
            );
        }
        fs::write(dir.file("drain"), "")?;
    }
    victim.finish(CHECK)?;
    let (rest, _) = watch.end()?;
    ensure!(
        !rest.iter().any(|line| line.contains("\"arrived\"")),
        "{rest:#?}"
    );
    Ok(())
}

fn stop_and_end(dir: &RunDir) -> Result<()> {
    let victim = start("steps", None, dir)?;
    let pid = victim.pid();
    let mut watch = Watch::start(&[&OFTEN[..], &[&pid.to_string()]].concat())?;
    signal(pid, Signal::SIGSTOP)?;
    let line = watch.changed("run_state")?;
    ensure!(
        line["before"] == "running" && line["after"] == "stopped by SIGSTOP",
        "{line}"
    );
    signal(pid, Signal::SIGCONT)?;
    let line = watch.changed("run_state")?;
    ensure!(line["after"] == "running", "{line}");
    signal(pid, Signal::SIGKILL)?;
    let line = watch.until(|line| line["event"] == "ended")?;
    // It has not been waited for.
    ensure!(
        line["signal"] == "SIGKILL" && line["exit_code"].is_null(),
        "{line}"
    );
    let (rest, code) = watch.end()?;
    ensure!(
        code == 0 && rest.len() == 1 && rest[0].contains("\"by\":\"process\""),
        "exit code {code}: {rest:?}"
    );
    reap(pid)
}

/// A stopped process is read all the time, and has not run when the next change of its state is seen.
fn untouched(dir: &RunDir) -> Result<()> {
    let victim = start("stopped", None, dir)?;
    victim.wait_stopped()?;
    let pid = victim.pid();
    let look = || -> Result<Vec<String>> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let of_interest =
            |line: &&str| line.contains("ctxt_switches") || line.contains("TracerPid");
        Ok(status
            .lines()
            .filter(of_interest)
            .map(str::to_owned)
            .collect())
    };
    let before = look()?;
    ensure!(before.len() == 3, "{before:?}");
    let mut watch = Watch::start(&[&OFTEN[..], &["--count", "1", &pid.to_string()]].concat())?;
    ensure!(look()? == before, "{before:?}, then {:?}", look()?);
    signal(pid, Signal::SIGURG)?;
    signal(pid, Signal::SIGUSR1)?;
    watch.until(|line| line["event"] == "arrived" && line["signal"] == "SIGUSR1")?;
    ensure!(look()? == before, "{before:?}, then {:?}", look()?);
    victim.end();
    Ok(())
}

/// A process that somebody traces can be watched, and that it is traced is seen.
fn traced(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let pid = unistd::Pid::from_raw(victim.pid());
    let mut watch = Watch::start(&[&OFTEN[..], &[&pid.to_string()]].concat())?;
    nix::sys::ptrace::seize(pid, nix::sys::ptrace::Options::empty()).context("seize")?;
    let line = watch.changed("tracer")?;
    let tracer = format!("thread {}", unistd::gettid());
    ensure!(
        line["before"] == "nobody" && line["after"] == tracer,
        "{line}"
    );
    nix::sys::ptrace::interrupt(pid).context("interrupt")?;
    waitpid(pid, None).context("waitpid")?;
    nix::sys::ptrace::detach(pid, None).context("detach")?;
    let line = watch.changed("tracer")?;
    ensure!(line["after"] == "nobody", "{line}");
    victim.finish(CHECK)
}

fn ends_by_signal(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    for by in [Signal::SIGINT, Signal::SIGTERM] {
        let watch = Watch::start(&[&victim.pid().to_string()])?;
        signal(Pid::try_from(watch.child.id())?, by)?;
        let (rest, code) = watch.end()?;
        ensure!(
            code == 0
                && rest
                    .last()
                    .is_some_and(|line| line.contains("\"by\":\"signal\"")),
            "{by}: exit code {code}, {rest:?}"
        );
    }
    victim.finish(CHECK)
}

/// Exactly so many changes, also where there are more at once.
fn ends_by_count(dir: &RunDir) -> Result<()> {
    let victim = start("counting", Some("blocked"), dir)?;
    let pid = victim.pid();
    let watch = Watch::start(&["--count", "2", &pid.to_string()])?;
    let status = Command::new(config::victim("sending", false))
        .args([pid.to_string(), "5".to_owned(), "0".to_owned()])
        .status()?;
    ensure!(status.success(), "sending: {status}");
    let (rest, code) = watch.end()?;
    ensure!(
        code == 0 && rest.len() == 3 && rest[2].contains("\"by\":\"count\""),
        "exit code {code}, {rest:#?}"
    );
    victim.finish(CHECK)
}

fn ends_by_time(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let pid = victim.pid().to_string();
    let watch = Watch::start(&["--for", "0.05", "--interval", "3600", &pid])?;
    let (rest, code) = watch.end()?;
    ensure!(
        code == 0 && rest.len() == 1 && rest[0].contains("\"by\":\"time\""),
        "exit code {code}, {rest:#?}"
    );
    victim.finish(CHECK)
}

/// A pipe that nobody reads ends it, though nothing changes that could be written.
fn ends_by_reader(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let mut command = Command::new(config::command()?);
    command.args(["watch", &victim.pid().to_string()]);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut out = BufReader::new(child.stdout.take().context("a pipe")?);
    out.read_line(&mut String::new())?;
    drop(out);
    let status = child.wait()?;
    ensure!(status.code() == Some(0), "{status}");
    victim.finish(CHECK)
}

/// As other commands take a process.
fn names(_: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start(&[])?;
    for what in [
        "sleep".to_owned(),
        format!("/proc/{pid}"),
        format!("/proc/{pid}/"),
    ] {
        let watch = Watch::start(&["--for", "0", &what])?;
        ensure!(
            watch.seen[0].contains(&format!("\"pid\":{pid},")),
            "{what}: {:?}",
            watch.seen
        );
        let first: Value = serde_json::from_str(&watch.seen[0])?;
        ensure!(first["state"]["process"]["comm"] == "sleep", "{first}");
        let (_, code) = watch.end()?;
        ensure!(code == 0, "exit code {code}");
    }
    Ok(())
}

/// A process whose first thread has ended can't be read, and a line says so; its end is seen all the same.
fn unreadable(dir: &RunDir) -> Result<()> {
    let victim = start("leaving", None, dir)?;
    let pid = victim.pid();
    let mut watch = Watch::start(&[&OFTEN[..], &[&pid.to_string()]].concat())?;
    step(dir, 1)?;
    let line = watch.until(|line| line["event"] == "unreadable")?;
    ensure!(
        line["why"]
            .as_str()
            .is_some_and(|why| why.contains("its first thread has ended")),
        "{line}"
    );
    step(dir, 2)?;
    let line = watch.until(|line| line["event"] == "ended")?;
    ensure!(line["exit_code"] == 7, "{line}");
    let (_, code) = watch.end()?;
    ensure!(code == 0, "exit code {code}");
    reap(pid)
}

/// Ids are those of the caller's pid namespace where the process is looked for, and its own where it is spoken of.
fn namespace(dir: &RunDir) -> Result<()> {
    let victim =
        criu_tests::victim::Victim::start(&config::victim("pidns", false), None, dir, true)?;
    let pid = victim.pid();
    let mut watch = Watch::start(&[&OFTEN[..], &[&pid.to_string()]].concat())?;
    let first: Value = serde_json::from_str(&watch.seen[0])?;
    ensure!(first["pid"] == pid, "{first}");
    signal(pid, Signal::SIGKILL)?;
    watch.until(|line| line["event"] == "ended")?;
    victim.end();
    Ok(())
}

// ---- bad input ---------------------------------------------------------------------------------------------------------

/// A user without capabilities is told what is missing, and can have the process stopped.
fn without_capability(dir: &RunDir) -> Result<()> {
    let copy = dir.file("criu-signals");
    fs::copy(config::command()?, &copy)?;
    let (_sleeper, pid) = Sleeper::start_as(NOBODY)?;
    let command = || {
        let mut command = Command::new(&copy);
        command.arg("watch").uid(NOBODY).gid(NOBODY);
        command
    };
    let output = command().arg(pid.to_string()).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(2)
            && error.starts_with("criu-signals: ")
            && error.contains("--stop"),
        "{error}"
    );
    if Need::Btf.missing().is_none() {
        ensure!(error.contains("CAP_BPF"), "{error}");
    }
    let mut stopping = command();
    stopping
        .args(["--json", "--stop", "--count", "1"])
        .args(OFTEN)
        .arg(pid.to_string());
    let mut watch = Watch::spawn(&mut stopping)?;
    let first = watch.until(|line| line["event"] == "begin")?;
    ensure!(first["by"] == "ptrace", "{first}");
    signal(pid, Signal::SIGSTOP)?;
    let line = watch.changed("run_state")?;
    ensure!(line["after"] == "stopped by SIGSTOP", "{line}");
    let (_, code) = watch.end()?;
    ensure!(code == 0, "exit code {code}");
    Ok(())
}

fn wrong(dir: &RunDir) -> Result<()> {
    let zombie = Command::new("true").spawn()?;
    let zombie_pid = Pid::try_from(zombie.id())?;
    criu_tests::procfs::comes_to(zombie_pid, 'Z')?;
    let ended = zombie_pid.to_string();
    let mut cases = vec![
        (vec!["4194303"], "there is no process 4194303"),
        (vec!["--interval", "0", "1"], "between 0.001 and 3600"),
        (vec!["--count", "0", "1"], "--count"),
        (vec![], "PID"),
    ];
    if Need::Btf.missing().is_none() {
        cases.push((vec![&ended], "has ended"));
    }
    for (args, wanted) in cases {
        let output = Command::new(config::command()?)
            .arg("watch")
            .args(&args)
            .current_dir(dir.path())
            .output()?;
        let error = String::from_utf8(output.stderr)?;
        ensure!(
            output.status.code() == Some(2) && error.contains(wanted),
            "{args:?}: {error}"
        );
    }
    reap(zombie_pid)
}
