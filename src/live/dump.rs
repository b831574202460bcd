//! A dump of live processes: captures the state of several processes at one instant, and writes the images.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use criu_signals_images::{Image, Pid, image};

use super::{Progress, Stage, Stopped, Target, step};
use crate::engine::capture;
use crate::engine::stops::WaitStatuses;
use crate::error::{Cause, Error, Phase, Result};
use crate::image_folder::Written;
use crate::proc::{self, SignalStatus};

/// What was read.
#[derive(Debug)]
pub struct Snapshot {
    /// One for each process, in the order in which they were stopped.
    pub images: Vec<Image>,
    /// How long the first process has stood still.
    pub stopped: Duration,
}

/// Reads all processes of `target` at one instant. They run on when this returns.
///
/// # Errors
/// The first process that could not be stopped or read; there is no partial result.
pub fn take(target: &Target, timeout: Duration, progress: &mut dyn Progress) -> Result<Snapshot> {
    let stopped = Stopped::stop(target, timeout, progress)?;
    let states = read(&stopped, progress);
    let took = stopped.release();
    let images = states?
        .into_iter()
        .map(capture::with_header)
        .collect::<Result<_>>()?;
    Ok(Snapshot {
        images,
        stopped: took?,
    })
}

fn read(
    stopped: &Stopped,
    progress: &mut dyn Progress,
) -> Result<Vec<criu_signals_images::ProcessState>> {
    let processes = stopped.processes();
    told_apart(processes.iter().map(|process| process.pid()))?;
    let mut wait_statuses = WaitStatuses::default();
    let mut states = Vec::with_capacity(processes.len());
    for process in processes {
        let pid = process.pid();
        let mut state = capture::process(process)?;
        wait_statuses
            .complete(&mut state, "it was stopped")
            .map_err(|e| e.during(Phase::Capture, pid))?;
        states.push(state);
        step(progress, Stage::Read, states.len(), processes.len())?;
    }
    Ok(states)
}

/// Images are named by the pid in the process's own pid namespace: two of different ones may have the same.
fn told_apart(pids: impl Iterator<Item = Pid>) -> Result<()> {
    let mut names: HashMap<i32, Pid> = HashMap::new();
    for pid in pids {
        let innermost = SignalStatus::read(pid, pid.into())
            .map_err(|e| e.during(Phase::Seize, pid))?
            .ids
            .innermost();
        if let Some(other) = names.insert(innermost, pid) {
            let why = format!(
                "pid {other} and pid {pid} are both {innermost} in their own pid namespaces ({} and {}), and images \
                 are named by that pid: dump each namespace into a folder of its own",
                proc::pid_namespace_of_stopped(other)?,
                proc::pid_namespace_of_stopped(pid)?,
            );
            return Err(Error::new(
                format!("name {}", image::file_name(innermost)),
                Cause::Unsupported(why.into()),
            ));
        }
    }
    Ok(())
}

/// Writes the images into a folder: all of them, synced, or none. Gives their names.
///
/// # Errors
/// The first that could not be written; those before it are removed.
pub fn write(
    dir: BorrowedFd<'_>,
    images: &[Image],
    progress: &mut dyn Progress,
) -> Result<Vec<String>> {
    let mut written = Written::default();
    let done = images.iter().try_for_each(|one| {
        written
            .write(dir, one)
            .map_err(|e| e.during(Phase::Image, one.process.pid()))?;
        step(progress, Stage::Write, written.len(), images.len())
    });
    match done {
        Ok(()) => Ok(written.into_names()),
        Err(e) => {
            written.remove(dir);
            Err(e)
        }
    }
}
