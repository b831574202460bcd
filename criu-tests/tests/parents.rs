//! Parent-death signals after a restore: no parent that ends before the process has its lasting one sends them, and they are set
//! then.
//!
//! criu is started by a shell, and the shell by a program that adopts orphans, as the shims of container engines do. The
//! adopting program is the lasting parent.

use std::fs;
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::engine::capture;
use criu_signals::images::criu_core::CoreImage;
use criu_signals::images::{Pid, SigNo, image};
use criu_signals::run_report::Document;
use criu_signals::tracee::{ByUs, StoppedProcess};
use criu_tests::cases::{self, Test, start, test, with_plugin};
use criu_tests::config;
use criu_tests::criu::{Criu, parents_found};
use criu_tests::procfs;
use criu_tests::rundir::RunDir;
use criu_tests::victim::reap_all;
use criu_tests::wait::{PATIENCE, until};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};

fn main() -> ExitCode {
    cases::main("parents", tests)
}

fn tests() -> Vec<Test> {
    vec![
        test("handed-on", handed_on),
        test("caller.alone", caller_alone),
        test("caller.ends", caller_ends),
        test("caller.stays", caller_stays),
        test("caller.helper-killed", helper_killed),
        test("attached", attached),
        test("criu-sets-none", criu_sets_none),
        test("by-hand", by_hand),
    ]
}

/// The leader's signal ends the process, the thread's does nothing.
const SET: [Option<SigNo>; 2] = [Some(SigNo::TERM), Some(SigNo::URG)];
const NONE: [Option<SigNo>; 2] = [None, None];

/// A restored process, and the program that adopts it.
struct Adopted {
    pid: Pid,
    by: Child,
}

impl Adopted {
    /// The signals of its threads.
    fn signals(&self) -> Result<Vec<Option<SigNo>>> {
        signals(self.pid)
    }

    fn parent(&self) -> Result<i32> {
        Ok(criu_signals::proc::parent(self.pid)?.map_or(0, Pid::get))
    }

    fn is_alive(&self) -> bool {
        procfs::state(self.pid.get()).is_some_and(|state| state != 'Z')
    }

    /// The end of the lasting parent ends the process.
    fn ends_with_parent(mut self) -> Result<()> {
        self.by.kill()?;
        self.by.wait()?;
        self.ends()
    }

    fn ends(self) -> Result<()> {
        until(
            "the parent-death signal to end the process",
            PATIENCE,
            || {
                let _ = waitpid(None, Some(WaitPidFlag::WNOHANG));
                Ok((!self.is_alive()).then_some(()))
            },
        )
    }
}

fn signals(pid: Pid) -> Result<Vec<Option<SigNo>>> {
    let stopped = StoppedProcess::<ByUs>::seize(pid, PATIENCE)?;
    let state = capture::process(&stopped)?;
    stopped.release()?;
    let threads = state.threads.iter();
    Ok(threads.map(|thread| thread.parent_death_signal).collect())
}

fn dumped(dir: &RunDir) -> Result<i32> {
    let victim = start("parent_death", Some("term"), dir)?;
    let pid = victim.pid();
    let dump = with_plugin()?.dump(pid, &dir.images(), false)?;
    ensure!(dump.ok, "criu dump: {}", dump.tail(20));
    reap_all()?;
    Ok(pid)
}

/// Restores with these options by a shell that ends as soon as `and_then` has.
fn restored(criu: &Criu, options: &[&str], and_then: &str, dir: &RunDir) -> Result<Adopted> {
    let pid = dumped(dir)?;
    started(criu, pid, options, and_then, dir)
}

fn started(
    criu: &Criu,
    pid: i32,
    options: &[&str],
    and_then: &str,
    dir: &RunDir,
) -> Result<Adopted> {
    let report = dir.file("report.json");
    let criu = criu.clone().env("CRIU_SIGNALS_REPORT", report);
    let mut command = criu.command("restore", &dir.images());
    command.args(options);
    let done = dir.file("done");
    // The words of the command, and its environment, by env(1).
    let words = |text: &std::ffi::OsStr| format!("'{}'", text.to_string_lossy());
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), words(value?))));
    let mut line: Vec<String> = variables.collect();
    line.push(words(command.get_program()));
    line.extend(command.get_args().map(words));
    let script = format!("{} && : > '{}'; {and_then}", line.join(" "), done.display());
    let by = Command::new(config::victim("subreaper", false))
        .arg(script)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the subreaper")?;
    until("the restore to succeed", PATIENCE, || {
        Ok(done.exists().then_some(()))
    })
    .with_context(|| dir.read("images/restore.log"))?;
    Ok(Adopted {
        pid: Pid::new(pid).context("pid")?,
        by,
    })
}

/// The shell stays until this file is there.
fn until_file(dir: &RunDir) -> String {
    format!(
        "while [ ! -e '{}' ]; do sleep 0.05; done",
        dir.file("end").display()
    )
}

const BY_CALLER: [&str; 2] = ["--restore-detached", "--restore-sibling"];

/// criu is the first parent and ends, and the adopting program is the next one.
fn handed_on(dir: &RunDir) -> Result<()> {
    let adopted = restored(&with_plugin()?, &["--restore-detached"], ":", dir)?;
    parents_found()?;
    ensure!(
        adopted.is_alive(),
        "dead: {}",
        dir.read("images/restore.log")
    );
    ensure!(
        adopted.parent()? == adopted.by.id().cast_signed(),
        "it has another parent"
    );
    let found = adopted.signals()?;
    ensure!(found == SET, "{found:?}");
    let log = dir.read("images/restore.log");
    ensure!(
        log.contains("the parent-death signal SIGTERM is set again"),
        "{log}"
    );
    ensure!(log.contains("verdict=verified"), "{log}");
    let report: Document = serde_json::from_str(&dir.read("report.json"))?;
    let process = report.processes.first().context("no process")?;
    let postponed = process
        .not_compared
        .iter()
        .any(|part| part.contains("postponed (2)"));
    ensure!(postponed, "{:?}", process.not_compared);
    ensure!(
        fs::read_dir("/run/criu-signals")?.next().is_none(),
        "the record is left"
    );
    adopted.ends_with_parent()
}

/// The shell is the first parent, as a container runtime is, and its end sends the signal.
fn caller_alone(dir: &RunDir) -> Result<()> {
    let criu = Criu::new(&config::criu()?, &dir.no_plugins());
    let adopted = restored_alone(&criu, dir)?;
    fs::write(dir.file("end"), "")?;
    adopted.ends()
}

fn restored_alone(criu: &Criu, dir: &RunDir) -> Result<Adopted> {
    // What the inventory asks for is not there.
    let images = dir.images();
    let victim = start("parent_death", Some("term"), dir)?;
    let pid = victim.pid();
    let dump = criu.dump(pid, &images, false)?;
    ensure!(dump.ok, "criu dump: {}", dump.tail(20));
    reap_all()?;
    started(criu, pid, &BY_CALLER, &until_file(dir), dir)
}

fn caller_ends(dir: &RunDir) -> Result<()> {
    let adopted = restored(&with_plugin()?, &BY_CALLER, &until_file(dir), dir)?;
    ensure!(
        adopted.parent()? != adopted.by.id().cast_signed(),
        "the shell is not the parent"
    );
    let found = adopted.signals()?;
    ensure!(found == NONE, "set already: {found:?}");
    fs::write(dir.file("end"), "")?;
    parents_found()?;
    ensure!(
        adopted.parent()? == adopted.by.id().cast_signed(),
        "it has another parent"
    );
    let found = adopted.signals()?;
    ensure!(found == SET, "{found:?}");
    adopted.ends_with_parent()
}

/// A caller that stays is the lasting parent.
fn caller_stays(dir: &RunDir) -> Result<()> {
    let adopted = restored(&with_plugin()?, &BY_CALLER, &until_file(dir), dir)?;
    parents_found()?;
    let found = adopted.signals()?;
    ensure!(found == SET, "{found:?}");
    fs::write(dir.file("end"), "")?;
    adopted.ends()
}

/// Without the helper process no signal is set, none is sent, and the next dump has them all the same.
fn helper_killed(dir: &RunDir) -> Result<()> {
    let adopted = restored(&with_plugin()?, &BY_CALLER, &until_file(dir), dir)?;
    let helper = procfs::all()?
        .into_iter()
        .find(|&pid| procfs::name(pid).is_some_and(|name| name == "signals-parent"));
    kill(
        nix::unistd::Pid::from_raw(helper.context("no helper")?),
        Signal::SIGKILL,
    )?;
    parents_found()?;
    fs::write(dir.file("end"), "")?;
    until("the caller to end", PATIENCE, || {
        Ok((adopted.parent()? == adopted.by.id().cast_signed()).then_some(()))
    })?;
    ensure!(adopted.is_alive(), "the caller's end has ended the process");
    let found = adopted.signals()?;
    ensure!(found == NONE, "{found:?}");
    let second = dir.file("second");
    fs::create_dir(&second)?;
    let dump = with_plugin()?.dump(adopted.pid.get(), &second, true)?;
    ensure!(dump.ok, "criu dump: {}", dump.tail(20));
    let image = image::open(&second.join(image::file_name(adopted.pid.get())))?;
    let threads = image.process.threads.iter();
    let dumped: Vec<_> = threads.map(|thread| thread.parent_death_signal).collect();
    ensure!(dumped == SET, "the image has {dumped:?}");
    let found = adopted.signals()?;
    ensure!(found == NONE, "the dump has set {found:?}");
    adopted_end(adopted)
}

fn adopted_end(adopted: Adopted) -> Result<()> {
    kill(
        nix::unistd::Pid::from_raw(adopted.pid.get()),
        Signal::SIGKILL,
    )?;
    adopted.ends_with_parent()
}

/// A criu that waits for its child is a parent that stays.
fn attached(dir: &RunDir) -> Result<()> {
    let pid = dumped(dir)?;
    let mut criu = with_plugin()?.start("restore", &dir.images(), &[])?;
    let pid = Pid::new(pid).context("pid")?;
    until("criu to wait for its child", PATIENCE, || {
        if let Some(status) = criu.try_wait()? {
            bail!("criu ended: {status}: {}", dir.read("images/restore.log"));
        }
        let log = dir.read("images/restore.log");
        Ok(log
            .contains("the parent-death signal SIGTERM is set again")
            .then_some(()))
    })?;
    let found = signals(pid)?;
    ensure!(found == SET, "{found:?}");
    let adopted = Adopted { pid, by: criu };
    adopted.ends_with_parent()
}

/// criu has restored no signal, as after a dump that was made while the signals were postponed: they come from the image.
fn criu_sets_none(dir: &RunDir) -> Result<()> {
    let pid = dumped(dir)?;
    let mut changed = 0;
    for entry in fs::read_dir(dir.images())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("core-") {
            let mut core = CoreImage::read(&fs::read(&path)?)?;
            changed += u32::from(core.parent_death_signal().is_some());
            core.set_parent_death_signal(None)?;
            fs::write(&path, core.to_bytes()?)?;
        }
    }
    ensure!(changed == 2, "criu's images had {changed}");
    let adopted = started(&with_plugin()?, pid, &["--restore-detached"], ":", dir)?;
    parents_found()?;
    let found = adopted.signals()?;
    ensure!(found == SET, "{found:?}");
    adopted.ends_with_parent()
}

/// What a message tells the user to do.
fn by_hand(dir: &RunDir) -> Result<()> {
    let victim = start("parent_death", Some("term"), dir)?;
    let pid = Pid::new(victim.pid()).context("pid")?;
    let set = |subject: String, signal: &str| -> Result<String> {
        let mut command = Command::new(config::command()?);
        let done = command
            .args(["set", &subject, "parent-death", signal])
            .output()?;
        ensure!(done.status.success(), "{done:?}");
        Ok(String::from_utf8(done.stdout)?)
    };
    let said = set(pid.to_string(), "none")?;
    ensure!(
        said == format!("thread {pid} parent-death: SIGTERM -> none\n"),
        "{said}"
    );
    ensure!(signals(pid)? == [None, SET[1]]);
    let threads = procfs::tasks(pid.get())?;
    let thread = threads
        .iter()
        .find(|&&tid| tid != pid.get())
        .context("no thread")?;
    set(format!("{pid}/{thread}"), "HUP")?;
    set(pid.to_string(), "TERM")?;
    ensure!(signals(pid)? == [SET[0], SigNo::new(1)]);
    victim.end();
    Ok(())
}
