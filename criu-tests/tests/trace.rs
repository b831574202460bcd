//! Tests `criu-signals trace`: what a process is sent, and what it gets, as it says itself. Each test is pid 1 of its own
//! namespace.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use criu_tests::cases::{self, CHECK, Test, all_need, start, test};
use criu_tests::config;
use criu_tests::procfs::{self, Pid};
use criu_tests::rundir::RunDir;
use criu_tests::skip::{self, Need};
use criu_tests::victim::Victim;
use criu_tests::wait;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde_json::Value;

/// Of nobody, in every Debian.
const NOBODY: u32 = 65534;
/// So many signals are sent.
const MANY: u64 = 1000;
/// For a hundred dumps and restores of up to ten thousand entries.
const PROOF: Duration = Duration::from_secs(240);

fn main() -> ExitCode {
    cases::main("trace", tests)
}

fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = vec![
        test("fates", fates),
        test("names", names),
        test("names.ended", names_of_ended),
        test("filtered", filtered),
        test("lost-records", lost_records),
        test("exactly-once.running", running),
        test("exactly-once.restored", restored),
        test("exactly-once.hundred", hundred),
        test("exactly-once.not", not_restored),
    ];
    tests = all_need(tests, &[Need::Btf]);
    tests.push(test("without-capability", without_capability));
    tests.push(test("wrong", wrong));
    tests
}

/// A trace that sees whatever is sent from now on.
struct Trace {
    child: Child,
    /// Reads on while the test does something else.
    reader: JoinHandle<std::io::Result<Vec<String>>>,
}

impl Trace {
    fn start(args: &[&str]) -> Result<Trace> {
        let mut command = Command::new(config::command()?);
        command.args(["trace", "--json"]).args(args);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut out = BufReader::new(child.stdout.take().context("a pipe")?);
        let mut line = String::new();
        out.read_line(&mut line)?;
        ensure!(line.contains("begin"), "{line:?}");
        let reader = std::thread::spawn(move || out.lines().collect());
        Ok(Trace { child, reader })
    }

    /// All that it has said, and its exit code.
    fn end(mut self) -> Result<(Vec<Value>, i32)> {
        let read = self.reader.join().map_err(|_| anyhow::anyhow!("a panic"))?;
        let lines = read?;
        let parsed = lines.iter().map(|line| serde_json::from_str(line));
        let code = self.child.wait()?.code().context("an exit code")?;
        Ok((parsed.collect::<Result<_, _>>()?, code))
    }
}

/// Sends the first `count` values; ends when all are sent.
fn send(pid: Pid, count: u64) -> Result<()> {
    send_from(pid, 0, count)
}

/// Sends `count` values from `first` on.
fn send_from(pid: Pid, first: u64, count: u64) -> Result<()> {
    let status = Command::new(config::victim("sending", false))
        .args([pid.to_string(), count.to_string(), first.to_string()])
        .status()?;
    ensure!(status.success(), "sending: {status}");
    Ok(())
}

fn events<'v>(lines: &'v [Value], event: &str) -> Vec<&'v Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

fn kill(pid: Pid, signal: &str) -> Result<()> {
    let args = ["-s", signal, &pid.to_string()];
    ensure!(
        Command::new("kill").args(args).status()?.success(),
        "kill {signal}"
    );
    Ok(())
}

/// The victim alone, not the trace.
fn reap(pid: Pid) -> Result<()> {
    waitpid(nix::unistd::Pid::from_raw(pid), None).context("waitpid")?;
    Ok(())
}

/// Each fate has its own line, with the number of the signal.
fn fates(dir: &RunDir) -> Result<()> {
    let victim = start("counting", Some("running"), dir)?;
    let pid = victim.pid();
    let trace = Trace::start(&[&pid.to_string()])?;
    send(pid, 3)?;
    for signal in ["WINCH", "TSTP", "CONT", "TERM"] {
        kill(pid, signal)?;
    }
    reap(pid)?;
    let (lines, code) = trace.end()?;
    ensure!(code == 0, "exit code {code}");
    let own = i64::from(std::process::id());
    let sent = events(&lines, "sent");
    let values = sent.iter().filter(|line| line["signal"] == "SIGRTMIN");
    ensure!(values.count() == 3, "{lines:?}");
    for line in &sent {
        ensure!(line["result"] == "TRACE_SIGNAL_DELIVERED", "{line}");
        ensure!(
            line["target"]["pid"] == pid && line["target"]["comm"] == "counting",
            "{line}"
        );
        ensure!(line["running"]["pid"].as_i64() > Some(own), "{line}");
    }
    let handled = events(&lines, "handler");
    ensure!(handled.len() == 3, "{lines:?}");
    for line in handled {
        ensure!(line["handler"].as_u64() > Some(1), "{line}");
        ensure!(line["pending_ns"].as_u64() > Some(0), "{line}");
        ensure!(sent.iter().any(|sent| sent["id"] == line["id"]), "{line}");
    }
    ensure!(
        events(&lines, "not_queued")[0]["result"] == "TRACE_SIGNAL_IGNORED",
        "{lines:?}"
    );
    let ended = events(&lines, "end");
    ensure!(
        ended[0]["records_lost"] == 0 && ended[0]["not_delivered_yet"] == 0,
        "{ended:?}"
    );
    Ok(())
}

/// A line has the handler's address, function and file, for people and for programs.
fn names(dir: &RunDir) -> Result<()> {
    let victim = start("counting", Some("running"), dir)?;
    let line = first_handled(victim.pid(), 0, &[], ": handler 0x")?;
    ensure!(line.contains(" [handler, counting+0x"), "{line}");
    let line = first_handled(victim.pid(), 2, &["--json"], "\"handler\"")?;
    let line: Value = serde_json::from_str(&line)?;
    let address = line["handler"].as_u64().context("an address")?;
    let name = format!("handler, counting+{address:#x}");
    ensure!(line["handler_name"] == name, "{line}, not {name}");
    victim.finish(CHECK)
}

/// The line that says so, while the process is there. Two values from `value` on are sent.
fn first_handled(pid: Pid, value: u64, args: &[&str], wanted: &str) -> Result<String> {
    let mut command = Command::new(config::command()?);
    command.args(["trace", "--count", "2", &pid.to_string()]);
    let mut child = command.args(args).stdout(Stdio::piped()).spawn()?;
    let mut out = BufReader::new(child.stdout.take().context("a pipe")?);
    let mut seen = String::new();
    out.read_line(&mut seen)?;
    send_from(pid, value, 1)?;
    let mut lines = out.lines();
    let line = loop {
        let line = lines.next().with_context(|| format!("only {seen}"))??;
        if line.contains(wanted) {
            break line;
        }
        seen += &line;
    };
    send_from(pid, value + 1, 1)?;
    ensure!(child.wait()?.success(), "the trace");
    Ok(line)
}

/// A process that has ended before its signals are printed has no names.
fn names_of_ended(dir: &RunDir) -> Result<()> {
    let victim = start("counting", Some("running"), dir)?;
    let trace = Trace::start(&[&victim.pid().to_string()])?;
    let id = Pid::try_from(trace.child.id())?;
    kill(id, "STOP")?;
    procfs::comes_to(id, 'T')?;
    send(victim.pid(), 3)?;
    let all = || {
        let text = fs::read_to_string(format!("/proc/{}/status", victim.pid()))?;
        let none = text.lines().any(|line| line == "ShdPnd:\t0000000000000000");
        Ok(none.then_some(()))
    };
    wait::until("the signals to be taken", CHECK, all)?;
    kill(victim.pid(), "KILL")?;
    reap(victim.pid())?;
    kill(id, "CONT")?;
    let (lines, code) = trace.end()?;
    ensure!(code == 0, "exit code {code}");
    let handled = events(&lines, "handler");
    ensure!(handled.len() == 3, "{lines:?}");
    for line in handled {
        ensure!(
            line["handler_name_unknown"] == "the process has ended",
            "{line}"
        );
        ensure!(line["handler"].as_u64() > Some(1), "{line}");
    }
    Ok(())
}

/// Another process's signals are not shown, and --count ends the trace.
fn filtered(dir: &RunDir) -> Result<()> {
    let victim = start("counting", Some("running"), dir)?;
    let other_dir = RunDir::create(&dir.file("other"))?;
    let other = start("counting", Some("running"), &other_dir)?;
    let trace = Trace::start(&["--count", "2", &victim.pid().to_string()])?;
    let all = Trace::start(&["--all", "--count", "7"])?;
    send(other.pid(), 5)?;
    send(victim.pid(), 2)?;
    let (lines, _) = trace.end()?;
    ensure!(events(&lines, "sent").len() == 2, "{lines:?}");
    ensure!(
        lines
            .iter()
            .all(|line| line["target"].is_null() || line["target"]["pid"] == victim.pid()),
        "{lines:?}"
    );
    let (lines, _) = all.end()?;
    for pid in [victim.pid(), other.pid()] {
        ensure!(
            events(&lines, "sent")
                .iter()
                .any(|line| line["target"]["pid"] == pid),
            "{lines:?}"
        );
    }
    other.finish(CHECK)?;
    victim.finish(CHECK)
}

/// The trace does not print while it is stopped, and what has no room is counted.
fn lost_records(dir: &RunDir) -> Result<()> {
    let victim = start("counting", Some("blocked"), dir)?;
    let trace = Trace::start(&["--buffer", "4096", &victim.pid().to_string()])?;
    let id = Pid::try_from(trace.child.id())?;
    kill(id, "STOP")?;
    send(victim.pid(), 200)?;
    kill(id, "CONT")?;
    kill(victim.pid(), "KILL")?;
    reap(victim.pid())?;
    let (lines, code) = trace.end()?;
    ensure!(code == 0, "exit code {code}");
    let end = events(&lines, "end");
    let [seen, lost] = ["sent", "records_lost"].map(|name| end[0][name].as_u64().unwrap_or(0));
    ensure!(seen < 200 && lost >= 200 - seen, "{seen} seen, {lost} lost");
    Ok(())
}

// ---- through dumps and restores ----------------------------------------------------------------------------------------

/// A shell's words for criu with the plugin.
fn criu(action: &str, folder: &str, more: &str) -> Result<String> {
    Ok(format!(
        "mkdir -p {folder} && '{}' {action} --images-dir {folder} -v4 --log-file {action}.log --libdir '{}' {more} </dev/null >/dev/null 2>&1",
        config::criu()?.display(),
        config::plugin_dir()?.display()
    ))
}

fn prove(dir: &RunDir, pid: Pid, script: &str) -> Result<Trace> {
    let report = dir.file("report.json");
    let report = report.to_str().context("a path")?;
    let (pid, script) = (
        pid.to_string(),
        format!("cd '{}' && {script}", dir.path().display()),
    );
    Trace::start(&["--checkpoint", report, &pid, "--", "sh", "-ec", &script])
}

fn report(dir: &RunDir) -> Result<Value> {
    Ok(serde_json::from_str(&dir.read("report.json"))?)
}

/// The report of a trace that has found each signal exactly once.
fn proven(trace: Trace, dir: &RunDir) -> Result<Value> {
    let (_, code) = trace.end()?;
    let report = report(dir)?;
    ensure!(code == 0 && report["exactly_once"] == true, "{report:#}");
    Ok(report)
}

/// The victim has counted so many signals, each with a value of its own.
fn counted(dir: &RunDir, all: u64) -> Result<()> {
    let counted = dir.read("counted");
    ensure!(counted == format!("{all} of {all}"), "{counted}");
    Ok(())
}

/// Signals are sent all the time while the process is dumped several times, and runs on.
fn running(dir: &RunDir) -> Result<()> {
    let victim = start("counting", Some("running"), dir)?;
    let pid = victim.pid();
    let dump = criu("dump", "images$n", &format!("--tree {pid} --leave-running"))?;
    let script = format!(
        "for n in 1 2 3 4 5; do {dump}; done; until [ -e sent ]; do sleep 0.05; done; sleep 0.2"
    );
    let trace = prove(dir, pid, &script)?;
    send(pid, MANY)?;
    fs::write(dir.file("sent"), "")?;
    let report = proven(trace, dir)?;
    let delivered = report["delivered"].as_u64();
    ensure!(
        report["sent"] == report["delivered"] && delivered == Some(MANY),
        "{report:#}"
    );
    victim.finish(CHECK)?;
    counted(dir, MANY)
}

/// Whether the process has ended: from now on its number is free, which is not so as soon as it has left /proc.
fn reaped(pid: Pid) -> bool {
    let ended = waitpid(nix::unistd::Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    ended.is_ok_and(|status| status != WaitStatus::StillAlive)
}

/// What is pending goes through dump and restore three times, and is put back each time.
fn restored(dir: &RunDir) -> Result<()> {
    let victim = start("counting", Some("blocked"), dir)?;
    let pid = victim.pid();
    let dump = criu("dump", "images$n", &format!("--tree {pid}"))?;
    let restore = criu("restore", "images$n", "--restore-detached")?;
    let script = format!(
        "until [ -e sent ]; do sleep 0.05; done; for n in 1 2 3; do {dump}; \
         until [ -e reaped$n ]; do sleep 0.05; done; {restore}; done"
    );
    let mut trace = prove(dir, pid, &script)?;
    send(pid, MANY)?;
    fs::write(dir.file("sent"), "")?;
    // The victim is this process's child, whose number is free when it has been waited for.
    let mut times = 0;
    wait::until("the trace", CHECK, || {
        if reaped(pid) {
            times += 1;
            fs::write(dir.file(&format!("reaped{times}")), "")?;
        }
        Ok(trace.child.try_wait()?.map(drop))
    })?;
    let report = proven(trace, dir)?;
    ensure!(
        report["sent"] == MANY && report["still_pending"] == MANY,
        "{report:#}"
    );
    ensure!(report["put_back_by_checkpoint"] == 3 * MANY, "{report:#}");
    Victim::restored(pid, dir).finish(CHECK)?;
    counted(dir, MANY)
}

/// Before each of a hundred dumps a hundred signals come, which are delivered after the restore.
fn hundred(dir: &RunDir) -> Result<()> {
    const TIMES: u64 = 100;
    const EACH: u64 = 100;
    let victim = start("counting", Some("blocked"), dir)?;
    let pid = victim.pid();
    let dump = criu("dump", "images$n", &format!("--tree {pid}"))?;
    let restore = criu("restore", "images$n", "--restore-detached")?;
    let script = format!(
        "n=0; while [ $n -lt {TIMES} ]; do \
         touch wants$n; until [ -e sent$n ]; do sleep 0.01; done; {dump}; \
         until [ -e reaped$n ]; do sleep 0.01; done; {restore}; rm -r images$n; \
         touch drain; while [ -e drain ]; do sleep 0.01; done; n=$((n + 1)); done"
    );
    let mut trace = prove(dir, pid, &script)?;
    let (mut sent, mut times) = (0, 0);
    wait::until("the trace", PROOF, || {
        if reaped(pid) {
            fs::write(dir.file(&format!("reaped{times}")), "")?;
            times += 1;
        }
        if dir.file(&format!("wants{sent}")).exists() {
            send_from(pid, sent * EACH, EACH)?;
            fs::write(dir.file(&format!("sent{sent}")), "")?;
            sent += 1;
        }
        Ok(trace.child.try_wait()?.map(drop))
    })?;
    let report = proven(trace, dir)?;
    let all = TIMES * EACH;
    ensure!(
        report["sent"] == all && report["delivered"] == all,
        "{report:#}"
    );
    ensure!(report["put_back_by_checkpoint"] == all, "{report:#}");
    Victim::restored(pid, dir).finish(CHECK)?;
    counted(dir, all)
}

/// A process that is not restored has not got its signals.
fn not_restored(dir: &RunDir) -> Result<()> {
    let victim = start("counting", Some("blocked"), dir)?;
    let pid = victim.pid();
    let dump = criu("dump", "images", &format!("--tree {pid}"))?;
    let trace = prove(
        dir,
        pid,
        &format!("until [ -e sent ]; do sleep 0.05; done; {dump}"),
    )?;
    send(pid, 10)?;
    fs::write(dir.file("sent"), "")?;
    let (_, code) = trace.end()?;
    let report = report(dir)?;
    ensure!(code == 1 && report["exactly_once"] == false, "{report:#}");
    let lost = report["lost"].as_array().context("a list")?;
    ensure!(
        lost.len() == 10 && lost.iter().all(|one| one["owed"] == true),
        "{report:#}"
    );
    Ok(())
}

// ---- bad input ---------------------------------------------------------------------------------------------------------

fn without_capability(dir: &RunDir) -> Result<()> {
    let copy = dir.file("criu-signals");
    fs::copy(config::command()?, &copy)?;
    let output = Command::new(copy)
        .args(["trace", "--all", "--for", "1"])
        .uid(NOBODY)
        .gid(NOBODY)
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(2), "{error}");
    if Need::Btf.missing().is_none() {
        ensure!(error.contains("CAP_BPF"), "{error}");
    }
    Ok(())
}

fn wrong(_: &RunDir) -> Result<()> {
    // The root of a hierarchy of v1 is refused for being of v1.
    let root = skip::freezer(false).map(|root| root.to_string_lossy().into_owned());
    let root = root.as_deref().map(|root| ["--cgroup", root]);
    let of_v1 = root.as_ref().map(|args| (&args[..], "is of v1"));
    let wrong = [
        (&["4194303"][..], "there is no process 4194303"),
        (&["--cgroup", "/no/such"], "no such cgroup"),
        (&["--buffer", "5000", "1"], "power of two"),
        (&["--checkpoint", "x", "1"], "COMMAND"),
        (&[], "PID"),
    ];
    for (args, wanted) in wrong.into_iter().chain(of_v1) {
        let output = Command::new(config::command()?)
            .arg("trace")
            .args(args)
            .output()?;
        let error = String::from_utf8(output.stderr)?;
        ensure!(
            output.status.code() == Some(2) && error.contains(wanted),
            "{args:?}: {error}"
        );
    }
    Ok(())
}
