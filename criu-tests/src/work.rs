//! Kills the command `criu-signals` and its worker process.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::process::Child;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid as Raw, getsid};

use crate::procfs;
use crate::rundir::RunDir;
use crate::victim::Victim;
use crate::wait::{self, PATIENCE};

/// Those that do the work of commands which have been killed.
fn workers() -> Result<Vec<i32>> {
    // This process adopts them: it is pid 1.
    let children = fs::read_to_string("/proc/1/task/1/children")?;
    let pids = children.split_whitespace().map(str::parse);
    let pids = pids.collect::<Result<Vec<i32>, _>>()?;
    // A companion that a worker has just started has the same name, and is in a session that another one leads.
    let is_one = |pid: &i32| match procfs::name(*pid).as_deref() {
        Some("criu-signals") => true,
        Some("signals-work") => {
            let pid = Raw::from_raw(*pid);
            getsid(Some(pid)).is_ok_and(|leader| leader == pid)
        }
        _ => false,
    };
    Ok(pids.into_iter().filter(is_one).collect())
}

/// Kills the command, and the process that does its work.
pub fn kill_all(command: &mut Child) -> Result<()> {
    command.kill()?;
    command.wait()?;
    for pid in workers()? {
        let pid = Raw::from_raw(pid);
        kill(pid, Signal::SIGKILL)?;
        waitpid(pid, None)?;
    }
    Ok(())
}

/// Kills the command alone, and waits until its work is done. Was it still to be done?
pub fn kill_front(command: &mut Child) -> Result<bool> {
    command.kill()?;
    command.wait()?;
    let workers = workers()?;
    let mut worked = false;
    for &pid in &workers {
        worked |= procfs::state(pid) != Some('Z');
        let pid = Raw::from_raw(pid);
        wait::until("the work to be done", PATIENCE, || {
            let flags = Some(WaitPidFlag::WNOHANG);
            match waitpid(pid, flags)? {
                WaitStatus::StillAlive => Ok(None),
                WaitStatus::Exited(_, _) => Ok(Some(())),
                other => bail!("the process that did the work: {other:?}"),
            }
        })?;
    }
    Ok(worked)
}

/// The file, beside the runs' folders, that [`finish_killed`] adds a line to, and `make kills` shows.
const SUMMARY: &str = "kills.txt";

/// Lets a victim that has a clock check itself, and notes that it has passed: after so many kills of `whom`, and how long it
/// stood still at most.
///
/// # Errors
/// If it has not.
pub fn finish_killed(victim: Victim, whom: &str, kills: u32, dir: &RunDir) -> Result<()> {
    victim.finish(PATIENCE)?;
    let longest: f64 = dir.read("standstill").parse().context("standstill")?;
    let line = format!(
        "{kills:6} kills of {whom}: the process stood still {:.1} ms at most",
        longest / 1000.0
    );
    println!("{line}");
    let summary = dir.path().with_file_name(SUMMARY);
    let mut summary = OpenOptions::new().create(true).append(true).open(summary)?;
    Ok(writeln!(summary, "{line}")?)
}
