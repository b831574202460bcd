//! Where signal state comes from: a live process, an image, a folder of images.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use criu_signals::images::{Image, Pid, image};
use criu_signals::record;
use criu_signals::tracee::{ByUs, StoppedProcess};

use super::{Context, Failure};

/// A number is a pid, a folder stands for its images.
pub fn load(what: &str, context: &Context) -> Result<Vec<Image>, Failure> {
    if let Ok(pid) = what.parse() {
        return live(Pid(pid), context).map(|image| vec![image]);
    }
    let path = Path::new(what);
    if !path.is_dir() {
        return Ok(vec![image::open(path)?]);
    }
    let dir = File::open(path).map_err(|e| format!("{what}: {e}"))?;
    let pids = record::captured_processes(dir.as_fd())?;
    if pids.is_empty() {
        return Err(format!("{what}: holds no signals-PID.img").into());
    }
    let open = |pid| image::open(&path.join(image::file_name(pid))).map_err(Failure::from);
    pids.into_iter().map(open).collect()
}

/// A live process, which is stopped for as long as it takes.
pub fn live(pid: Pid, context: &Context) -> Result<Image, Failure> {
    let stopped = StoppedProcess::<ByUs>::seize(pid, context.timeout)?;
    let image = record::of(&stopped);
    stopped.release()?;
    Ok(image?)
}
