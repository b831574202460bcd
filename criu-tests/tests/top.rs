//! Tests `criu-signals top` on a terminal: keys are pressed, and the screen is read. Each test is pid 1 of its own namespace.

use std::fs;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use criu_tests::cases::{self, CHECK, Test, all_need, start, test};
use criu_tests::config;
use criu_tests::procfs;
use criu_tests::rundir::RunDir;
use criu_tests::six::Sleeper;
use criu_tests::skip::Need;
use criu_tests::terminal::Terminal;
use criu_tests::victim::Victim;
use nix::sys::signal::{Signal, kill};
use nix::unistd;

/// Of nobody, in every Debian.
const NOBODY: u32 = 65534;
/// The terminal that everybody has.
const USUAL: [u16; 2] = [24, 80];
const OFTEN: [&str; 2] = ["--interval", "0.05"];
const RIGHT: &str = "\x1b[C";
const DOWN: &str = "\x1b[B";

fn main() -> ExitCode {
    cases::main("top", tests)
}

fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = vec![
        test("list", list),
        test("keys", keys),
        test("live", live),
        test("cursor", cursor),
        test("sizes", sizes),
        test("place", place),
    ];
    tests = all_need(tests, &[Need::Btf]);
    tests.push(test("put-back", put_back));
    tests.push(test("suspended", suspended));
    tests.push(test("without-capability", without_capability));
    tests.push(test("no-terminal", no_terminal));
    tests
}

fn top(args: &[&str], size: [u16; 2]) -> Result<Terminal> {
    let args = [&["top"], &OFTEN[..], args].concat();
    Terminal::start(config::command()?, &args, size, |_| {})
}

/// The line of the list in which the process has its pid.
fn line_of(text: &str, pid: i32) -> Option<&str> {
    let begin = format!("{pid} ");
    text.lines().find(|line| line.starts_with(&begin))
}

/// `q` ends it, and the terminal is as it was.
fn quit(mut terminal: Terminal) -> Result<()> {
    terminal.press("q")?;
    let status = terminal.ended()?;
    ensure!(status.code() == Some(0), "{status}");
    terminal.is_put_back()
}

/// The columns of `ps`, and what `show` prints of the first process.
fn list(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let pid = victim.pid();
    let terminal = top(&[&pid.to_string()], USUAL)?;
    let text = terminal.shows("by BPF, without a stop")?;
    let heading = text.lines().nth(1).context("a heading")?;
    let columns: Vec<&str> = heading.split_whitespace().collect();
    ensure!(
        columns[..7]
            == [
                "PID", "USER", "NAME", "STOPPED", "QUEUED", "OLDEST", "PENDING"
            ],
        "{text}"
    );
    let line = line_of(&text, pid).context("its line")?;
    ensure!(
        line.contains(" root ") && line.contains(" demo ") && line.contains(" SIGHUP,"),
        "{text}"
    );
    ensure!(
        text.contains(&format!("-- {pid} --"))
            && text.contains(&format!("process {pid} (demo), running")),
        "{text}"
    );
    quit(terminal)?;
    victim.finish(CHECK)
}

/// Those of a pid namespace, each time anew.
fn place(dir: &RunDir) -> Result<()> {
    let victim = Victim::start(&config::victim("pidns", false), None, dir, true)?;
    let pid = victim.pid();
    let terminal = top(&["--pid-namespace", &pid.to_string()], USUAL)?;
    let text = terminal.until("its line", |text| line_of(text, pid).is_some())?;
    let headline = text.lines().next().context("a line")?;
    ensure!(headline.starts_with("2 of "), "{text}");
    ensure!(line_of(&text, 1).is_none(), "{text}");
    quit(terminal)?;
    victim.finish(CHECK)
}

fn keys(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let (_sleeper, sleeper) = Sleeper::start(&[])?;
    let mut terminal = top(&[], USUAL)?;
    let both = |text: &str| [victim.pid(), sleeper].map(|pid| line_of(text, pid).is_some());
    terminal.until("both processes", |text| both(text) == [true, true])?;
    terminal.press("p")?;
    terminal.shows(", pending only")?;
    terminal.until("the pending one", |text| both(text) == [true, false])?;
    terminal.press("p/slee")?;
    terminal.shows("filter: slee_")?;
    terminal.until("the other one", |text| both(text) == [false, true])?;
    terminal.press("p\r")?;
    let text = terminal.shows(", with \"sleep\"")?;
    ensure!(both(&text) == [false, true], "{text}");
    terminal.press("\x1b")?;
    terminal.until("both again", |text| both(text) == [true, true])?;
    for order in ["queued", "user", "name", "pid"] {
        terminal.press("s")?;
        terminal.shows(&format!(", by {order}"))?;
    }
    terminal.press("sr")?;
    terminal.shows(", by queued, reversed")?;
    terminal.press("r")?;
    let text = terminal.until("not reversed", |text| !text.contains("reversed"))?;
    // The most queued is first.
    let first = text.lines().nth(2).context("a line")?;
    ensure!(first.starts_with(&victim.pid().to_string()), "{text}");
    terminal.press("t")?;
    terminal.shows("PID/TID")?;
    terminal.press("t")?;
    terminal.until("processes", |text| !text.contains("PID/TID"))?;
    for _ in 0..6 {
        terminal.press(RIGHT)?;
    }
    terminal.until("the last column", |text| {
        text.contains("CAUGHT") && !text.contains("BLOCKED") && text.contains("NAME")
    })?;
    terminal.press("\r")?;
    terminal.until("the details alone", |text| !text.contains("CAUGHT"))?;
    terminal.press("\r")?;
    terminal.shows("CAUGHT")?;
    terminal.press("d")?;
    terminal.until("no details", |text| !text.contains("-- "))?;
    quit(terminal)?;
    victim.finish(CHECK)
}

/// What happens meanwhile is shown, but not while the list is paused.
fn live(_: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start(&[Signal::SIGUSR1 as i32, Signal::SIGUSR2 as i32])?;
    let send = |signal| kill(unistd::Pid::from_raw(pid), signal);
    let mut terminal = top(&[&pid.to_string()], USUAL)?;
    terminal.until("its line", |text| line_of(text, pid).is_some())?;
    let has = |signal: &'static str| {
        move |text: &str| {
            let pending = line_of(text, pid).and_then(|line| line.split_whitespace().nth(6));
            pending.is_some_and(|pending| pending.contains(signal))
        }
    };
    send(Signal::SIGUSR1)?;
    terminal.until("SIGUSR1", has("SIGUSR1"))?;
    // And the details.
    terminal.shows("SIGUSR1 SI_USER pid 1 uid 0")?;
    terminal.press(" ")?;
    terminal.shows(", paused")?;
    send(Signal::SIGUSR2)?;
    terminal.press("d")?;
    let text = terminal.until("no details", |text| !text.contains("-- "))?;
    ensure!(!has("SIGUSR2")(&text), "{text}");
    terminal.press(" ")?;
    terminal.until("SIGUSR2", has("SIGUSR2"))?;
    quit(terminal)
}

/// The details are those of the process under the cursor, which stays on its process.
fn cursor(_: &RunDir) -> Result<()> {
    let (one, first) = Sleeper::start(&[])?;
    let (_other, second) = Sleeper::start(&[])?;
    let ids = [first, second].map(|pid| pid.to_string());
    let mut terminal = top(&[&ids[0], &ids[1]], USUAL)?;
    terminal.shows(&format!("-- {first} --"))?;
    terminal.press(DOWN)?;
    terminal.shows(&format!("-- {second} --"))?;
    terminal.press("r")?;
    let text = terminal.shows(", reversed")?;
    ensure!(text.contains(&format!("-- {second} --")), "{text}");
    terminal.press(DOWN)?;
    terminal.shows(&format!("-- {first} --"))?;
    // One that ends leaves the cursor to another.
    drop(one);
    terminal.shows(&format!("-- {second} --"))?;
    quit(terminal)
}

/// It is drawn anew when the terminal gets another size, and no size is too small.
fn sizes(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let mut terminal = top(&[&victim.pid().to_string()], USUAL)?;
    let text = terminal.shows("PENDING")?;
    ensure!(!text.contains("CAUGHT"), "{text}");
    terminal.resize([40, 200])?;
    terminal.shows("CAUGHT")?;
    for size in [[5, 20], [2, 10], [1, 1]] {
        terminal.resize(size)?;
        terminal.press("d\r\rd")?;
        terminal.press(DOWN)?;
    }
    terminal.resize(USUAL)?;
    // crossterm keeps a key that comes together with a change of the size until the next key comes.
    std::thread::sleep(std::time::Duration::from_secs(1));
    terminal.shows("PENDING")?;
    quit(terminal)?;
    victim.finish(CHECK)
}

/// Whatever ends it, the terminal is as it was.
fn put_back(_: &RunDir) -> Result<()> {
    for signal in [
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
    ] {
        let mut terminal = top(&[], USUAL)?;
        terminal.shows("PENDING")?;
        terminal.signal(signal)?;
        let status = terminal.ended()?;
        ensure!(status.signal() == Some(signal as i32), "{signal}: {status}");
        terminal.is_put_back()?;
    }
    // Ctrl-C is a key.
    let mut terminal = top(&[], USUAL)?;
    terminal.shows("PENDING")?;
    terminal.press("\x03")?;
    let status = terminal.ended()?;
    ensure!(status.code() == Some(0), "{status}");
    terminal.is_put_back()
}

/// Ctrl-Z, and the same as a signal.
fn suspended(_: &RunDir) -> Result<()> {
    let mut terminal = top(&[], USUAL)?;
    let pid = terminal.pid().as_raw();
    for by_key in [true, false] {
        terminal.shows("PENDING")?;
        if by_key {
            terminal.press("\x1a")?;
        } else {
            terminal.signal(Signal::SIGTSTP)?;
        }
        procfs::comes_to(pid, 'T')?;
        terminal.is_put_back()?;
        terminal.signal(Signal::SIGCONT)?;
    }
    terminal.shows("PENDING")?;
    quit(terminal)
}

/// A user without capabilities gets what /proc shows, and is told why.
fn without_capability(dir: &RunDir) -> Result<()> {
    // The build's folder may be closed to others.
    let copy = dir.file("criu-signals");
    fs::copy(config::command()?, &copy)?;
    let terminal = Terminal::start(&copy, &["top", "--interval", "0.05"], USUAL, |command| {
        command.uid(NOBODY).gid(NOBODY);
    })?;
    let text = terminal.shows("/proc is read instead")?;
    ensure!(
        text.contains(", from /proc") && line_of(&text, 1).is_some(),
        "{text}"
    );
    if Need::Btf.missing().is_none() {
        ensure!(text.contains("CAP_BPF"), "{text}");
    }
    quit(terminal)
}

fn no_terminal(_: &RunDir) -> Result<()> {
    let output = Command::new(config::command()?)
        .arg("top")
        .stdin(Stdio::null())
        .output()?;
    let error = String::from_utf8(output.stderr)?;
    ensure!(
        output.status.code() == Some(2)
            && output.stdout.is_empty()
            && error.starts_with("criu-signals: ")
            && error.contains("needs a terminal"),
        "{error}"
    );
    Ok(())
}
