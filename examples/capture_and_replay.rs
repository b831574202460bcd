//! Captures the signal state of a live process, writes it down, and puts back what has changed since.
//!
//!     cargo run --example capture_and_replay -- PID FOLDER     captures into FOLDER/signals-N.img
//!     cargo run --example capture_and_replay -- PID IMAGE      compares with the image, and puts back what differs
//!
//! docs/library.md goes through it. It needs the rights of ptrace(2) on the process.

use std::env;
use std::error::Error;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use criu_signals::engine::capture;
use criu_signals::engine::repair::Verdict;
use criu_signals::engine::repair::{self, Arrived};
use criu_signals::images::{Pid, image};
use criu_signals::log_lines;
use criu_signals::tracee::{ByUs, StoppedProcess};

/// How long to wait for a thread in uninterruptible sleep.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [pid, path] = args.as_slice() else {
        return Err("usage: capture_and_replay PID FOLDER|IMAGE".into());
    };
    let pid = Pid::new(pid.parse()?).ok_or("no pid")?;
    let path = Path::new(path);
    if path.is_dir() {
        capture(pid, path)
    } else {
        replay(pid, path)
    }
}

fn capture(pid: Pid, folder: &Path) -> Result<(), Box<dyn Error>> {
    // Every thread is stopped from here on, without a signal.
    let stopped = StoppedProcess::<ByUs>::seize(pid, PATIENCE)?;
    // On an error, `stopped` lets the process go as it is dropped.
    let image = capture::image(&stopped)?;
    stopped.release()?;

    // The process runs again; what follows may take its time.
    let process = &image.process;
    println!("{} has {} threads", process.comm, process.threads.len());
    for info in &process.shared.queue {
        println!("pending for the process: {info}");
    }
    let folder = File::open(folder)?;
    let name = image::create_in(folder.as_fd(), &image)?;
    println!("written: {name}");
    Ok(())
}

fn replay(pid: Pid, image: &Path) -> Result<(), Box<dyn Error>> {
    // Anything can be wrong with a file: that is known before the process is touched.
    let image = image::open(image)?;
    let stopped = StoppedProcess::<ByUs>::seize(pid, PATIENCE)?;
    let now = capture::process(&stopped)?;
    let report = repair::apply(&stopped, now, &image.process, Arrived::Kept)?;
    stopped.release()?;

    for line in log_lines::lines(&report) {
        println!("{line}");
    }
    match report.verdict() {
        Verdict::Verified | Verdict::Repaired => Ok(()),
        bad => Err(format!("the process is not as it was captured: {bad}").into()),
    }
}
