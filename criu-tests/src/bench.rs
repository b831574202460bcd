//! Shared parts of the benchmarks: the number of rounds as argument, and a run as pid 1 of a namespace.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::config;
use crate::ns;
use crate::rundir::RunDir;

const DEFAULT_ROUNDS: usize = 30;
const LIMIT: Duration = Duration::from_secs(7200);

/// Before the namespace: runs the bench inside, and `afterwards` whatever became of that. `name` is that of its folder.
pub fn outside(name: &str, afterwards: impl FnOnce(&RunDir) -> Result<()>) -> Result<()> {
    let rounds: usize = match std::env::args().nth(1) {
        Some(text) => text.parse().context("the number of rounds")?,
        None => DEFAULT_ROUNDS,
    };
    let dir = RunDir::create(&config::target_dir().join(name))?;
    let folder = dir.path().to_string_lossy();
    let ran = ns::run_and_print(&[&folder, &rounds.to_string()], &dir, LIMIT);
    afterwards(&dir)?;
    ran?;
    dir.remove()
}

/// In the namespace: the folder of the run, and how many rounds there are to be.
pub fn inside() -> Result<(RunDir, usize)> {
    let mut args = std::env::args_os().skip(1);
    let path = args.next().context("no folder")?;
    let rounds = args
        .next()
        .and_then(|text| text.to_str()?.parse().ok())
        .context("no number of rounds")?;
    Ok((RunDir::open(path.as_ref()), rounds))
}
