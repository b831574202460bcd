//! One run, as pid 1 of its own namespace: what the program leaves without a parent becomes a child here.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use criu_signals_images::criu_core::CoreImage;
use criu_signals_images::{AltStack, image};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::config;
use crate::criu::{Criu, Step};
use crate::gaps;
use crate::gaps::matrix;
use crate::gaps::table::{Between, Row};
use crate::gaps::verdict::{End, Mode};
use crate::procfs;
use crate::rundir::RunDir;
use crate::wait::{PATIENCE, until};

/// A program that has been told to go on, and says nothing for so long, never will.
const SILENCE: Duration = Duration::from_secs(12);
/// Its root is gone; others of its processes may still say something.
const AFTER_DEATH: Duration = Duration::from_secs(2);
/// The kernel refuses any alternate stack below MINSIGSTKSZ, 2048 bytes.
const SMALL_STACK: u64 = 1000;

/// The result of a run in which the signal that was to arrive while criu held the task came after criu had looked.
pub const TOO_LATE: &str = "too late";
/// The result of a run that was not through before what it shows was over by itself: the machine is busy.
pub const TOO_SLOW: &str = "too slow";

/// Runs a case, and writes what came out to `result` in the run's folder. The times that it depends on are longer than
/// usual by `slower`.
pub fn run(row: &Row, mode: Mode, slower: u32, dir: &RunDir) -> Result<()> {
    let mut tree = Tree {
        root: 0,
        ended: None,
        silence: SILENCE * slower,
    };
    tree.root = start(row, slower, dir)?;

    let mut text = String::new();
    let (end, outcome) = match mode {
        Mode::Control => {
            // Others are held for some time.
            sleep(Duration::from_millis(100));
            between(row, dir)?;
            go(dir, &mut tree)?
        }
        _ => {
            let libdir = if mode.has_plugin() {
                config::plugin_dir()?
            } else {
                dir.no_plugins()
            };
            // The calls' timeouts are short, so that runs are, and are to be warned of all the same.
            let criu = Criu::new(&config::criu()?, &libdir)
                .arg("--display-stats")
                .env("CRIU_SIGNALS_LONG_TIMEOUT", "1000");
            let dump = criu.dump(tree.root, &dir.images(), mode.leaves_running())?;
            if !dump.ok || mode.leaves_running() {
                helpers_gone()?;
            }
            if let Some(time) = dump.frozen() {
                writeln!(text, "frozen {}", time.as_micros())?;
            }
            if dump.ok && row.deep {
                writeln!(text, "left-to-criu {}", left_to_criu(&dir.images())?)?;
            }
            if dump.ok && row.arrives && !has_shared_entry(&dir.images())? {
                return fs::write(dir.file("result"), TOO_LATE).context("writing the result");
            }
            if !dump.ok {
                let (end, after) = go(dir, &mut tree)?;
                let after = if end == End::Finished {
                    after
                } else {
                    format!("the program: {after}")
                };
                writeln!(text, "afterwards {after}")?;
                (End::DumpFailed, criu_error("dump", &dump))
            } else if mode.leaves_running() {
                go(dir, &mut tree)?
            } else {
                reap_all(&mut tree)?;
                tree.ended = None;
                between(row, dir)?;
                let (restore, _) = criu.restore(&dir.images())?;
                if restore.ok {
                    go(dir, &mut tree)?
                } else {
                    (End::RestoreFailed, criu_error("restore", &restore))
                }
            }
        }
    };
    if too_slow(dir)? {
        text = TOO_SLOW.to_owned();
        return fs::write(dir.file("result"), text).context("writing the result");
    }
    writeln!(text, "end {}", end.name())?;
    writeln!(text, "outcome {outcome}")?;
    fs::write(dir.file("result"), text).context("writing the result")
}

/// Starts the program of a case in the run's folder, and waits until it is set up. Returns the root of its tree.
pub fn start(row: &Row, slower: u32, dir: &RunDir) -> Result<procfs::Pid> {
    let out = fs::File::create(dir.file("program.out")).context("making program.out")?;
    Command::new(matrix::program(row))
        .arg(dir.path())
        .arg(row.sub_case())
        .arg(slower.to_string())
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .with_context(|| format!("starting {}", row.program))?;
    until("the program to be set up", PATIENCE, || {
        Ok((dir.file("ready").exists() || dir.file("out").exists()).then_some(()))
    })?;
    if !dir.file("ready").exists() {
        bail!("the case cannot be set up: {}", dir.read("out").trim());
    }
    dir.read("ready").parse().context("the pid in `ready`")
}

/// Whether, from "ready" to "go", more than half of the time has passed for which what the case is about lasts, where the
/// program has said so. The other half is for the program to notice.
fn too_slow(dir: &RunDir) -> Result<bool> {
    // Of a restore that failed nobody has been told to go on.
    if !dir.file("lasts").exists() || !dir.file("go").exists() {
        return Ok(false);
    }
    let lasts = Duration::from_millis(dir.read("lasts").parse().context("the time in `lasts`")?);
    let at = |name| fs::metadata(dir.file(name))?.modified();
    // Set back in between, the clock is of no use.
    let took = at("go")?.duration_since(at("ready")?).unwrap_or(lasts);
    Ok(took > lasts / 2)
}

/// The root of the program's tree.
struct Tree {
    root: i32,
    ended: Option<WaitStatus>,
    /// After so long nothing more is expected of it.
    silence: Duration,
}

/// Waits for whatever has ended.
fn reap(tree: &mut Tree) -> Result<()> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return Ok(()),
            Ok(status) if status.pid().is_some_and(|pid| pid.as_raw() == tree.root) => {
                tree.ended = Some(status)
            }
            Ok(_) => {}
            Err(why) => return Err(why).context("waitpid"),
        }
    }
}

/// Waits for the helper processes that have something to put right after criu has let go. A helper that was just forked is
/// still called criu.
fn helpers_gone() -> Result<()> {
    until("the plugin's helper processes to end", PATIENCE, || {
        let helpers = procfs::all()?.into_iter().filter(|&pid| {
            procfs::name(pid).is_some_and(|name| name == "criu" || name.starts_with("signals-"))
                && procfs::state(pid) != Some('Z')
        });
        Ok((helpers.count() == 0).then_some(()))
    })
}

/// A pid is free when its zombie is gone. Children become ours only when their parent is gone.
fn reap_all(tree: &mut Tree) -> Result<()> {
    until("the dumped processes to be gone", PATIENCE, || {
        reap(tree)?;
        Ok((tree.ended.is_some() && !any_zombie()?).then_some(()))
    })
}

fn any_zombie() -> Result<bool> {
    for entry in fs::read_dir("/proc").context("/proc")? {
        // Processes may be gone by now.
        let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) else {
            continue;
        };
        if stat
            .rsplit_once(')')
            .is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn between(row: &Row, dir: &RunDir) -> Result<()> {
    match row.between {
        Between::Nothing => Ok(()),
        Between::Program => {
            fs::write(dir.file("between"), "")?;
            until("the program outside", PATIENCE, || {
                Ok(dir.file("between-done").exists().then_some(()))
            })
        }
        Between::SmallStack => shrink_stacks(&dir.images()),
    }
}

/// In criu's images and in the plugin's.
fn shrink_stacks(images: &Path) -> Result<()> {
    let small = |stack: AltStack| AltStack {
        size: SMALL_STACK,
        ..stack
    };
    for entry in fs::read_dir(images)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with("core-") {
            let mut core = CoreImage::read(&fs::read(&path)?).with_context(|| name.clone())?;
            if let Some(stack) = core.altstack().filter(|stack| stack.size > 0) {
                core.set_altstack(Some(small(stack)))?;
                fs::write(&path, core.to_bytes()?)?;
            }
        } else if name.starts_with("signals-") {
            let mut found = image::open(&path).with_context(|| name.clone())?;
            for thread in &mut found.process.threads {
                if thread.altstack.size > 0 {
                    thread.altstack = small(thread.altstack);
                }
            }
            let mut bytes = Vec::new();
            image::write(&mut bytes, &found)?;
            fs::write(&path, bytes)?;
        }
    }
    Ok(())
}

/// How many entries of queues are in criu's own images: criu has read each of them by itself.
fn left_to_criu(images: &Path) -> Result<usize> {
    let mut entries = 0;
    for entry in fs::read_dir(images)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("core-") {
            let core = CoreImage::read(&fs::read(&path)?).with_context(|| name.to_string())?;
            entries += core.shared_queue().len() + core.private_queue().len();
        }
    }
    Ok(entries)
}

/// Whether anything is in a shared queue, in criu's images or in the plugin's.
fn has_shared_entry(images: &Path) -> Result<bool> {
    for entry in fs::read_dir(images)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with("core-")
            && !CoreImage::read(&fs::read(&path)?)?
                .shared_queue()
                .is_empty()
            || name.starts_with("signals-") && !image::open(&path)?.process.shared.queue.is_empty()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Tells the program to go on, and waits for what it says.
fn go(dir: &RunDir, tree: &mut Tree) -> Result<(End, String)> {
    fs::write(dir.file("go"), "").context("writing `go`")?;
    let start = Instant::now();
    let mut died_at: Option<Instant> = None;
    loop {
        reap(tree)?;
        if dir.file("out").exists() {
            let said = dir.read("out");
            return match said.trim().split_once(": ") {
                Some(("outcome", outcome)) => Ok((End::Finished, outcome.to_owned())),
                _ => bail!("the case cannot be set up: {}", said.trim()),
            };
        }
        if tree.ended.is_some() && died_at.is_none() {
            died_at = Some(Instant::now());
        }
        if died_at.is_some_and(|at| at.elapsed() > AFTER_DEATH) {
            return Ok((End::Lost, tree.ended.map_or_else(String::new, died)));
        }
        if start.elapsed() > tree.silence {
            return Ok((End::Lost, "says nothing more".into()));
        }
        sleep(Duration::from_millis(2));
    }
}

fn died(status: WaitStatus) -> String {
    match status {
        WaitStatus::Signaled(_, signal, _) => format!("killed by {signal}"),
        WaitStatus::Exited(_, code) => format!("exited with {code}"),
        other => format!("{other:?}"),
    }
}

/// criu's first error, without what differs from run to run.
fn criu_error(action: &str, step: &Step) -> String {
    // Without CAP_SYS_RESOURCE it cannot raise its own limits, calls that an error, and goes on.
    let mut errors = step
        .log
        .lines()
        .filter(|line| line.contains("Error (") && !line.contains("): rlimit: "));
    let line = errors.next().unwrap_or("no error in its log");
    format!(
        "criu {action} fails: {}",
        gaps::report::without_numbers(line)
    )
}
