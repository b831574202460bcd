//! Shared parts of the benchmarks: the number of rounds as argument, a run as pid 1 of a namespace, and dumps and restores with and
//! without the plugin in turns.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::config;
use crate::criu::Criu;
use crate::ns;
use crate::procfs::Pid;
use crate::rundir::RunDir;
use crate::sample::Sample;
use crate::victim::{Victim, reap_all};

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

/// Dumps, time frozen by criu's own statistics, and restores.
pub type Samples = [(&'static str, Sample); 3];

/// Nothing is measured yet.
pub fn samples() -> Samples {
    ["dump", "frozen", "restore"].map(|what| (what, Sample::default()))
}

/// Adds so many rounds without the plugin and with it, in turns. `once` makes one with the plugins of a folder, in a folder of its own.
///
/// # Errors
/// The first of `once`.
pub fn in_turns(
    rounds: usize,
    dir: &RunDir,
    samples: &mut Samples,
    mut once: impl FnMut(&Path, &RunDir) -> Result<[Duration; 3]>,
) -> Result<()> {
    let none = dir.no_plugins();
    let ours = config::plugin_dir()?;
    for round in 0..rounds * 2 {
        let with = round % 2 == 1;
        let libdir = if with { &ours } else { &none };
        let run = RunDir::create(&dir.file("round"))?;
        let took = once(libdir, &run).with_context(|| format!("with the plugin: {with}"))?;
        for ((_, sample), took) in samples.iter_mut().zip(took) {
            sample.add(with, took);
        }
    }
    Ok(())
}

/// Dumps a tree and restores it: how long the dump took, the tree was frozen and the restore took, and what was restored.
///
/// # Errors
/// If either fails.
pub fn dump_and_restore(criu: Criu, pid: Pid, run: &RunDir) -> Result<([Duration; 3], Victim)> {
    let criu = criu.arg("--display-stats");
    let dump = criu.dump(pid, &run.images(), false)?;
    ensure!(dump.ok, "the dump failed:\n{}", dump.tail(20));
    let frozen = dump.frozen().context("criu does not say how long")?;
    reap_all()?;
    let (restore, pid) = criu.restore(&run.images())?;
    ensure!(restore.ok, "the restore failed:\n{}", restore.tail(20));
    let restored = Victim::restored(pid.context("no pid")?, run);
    Ok(([dump.took, frozen, restore.took], restored))
}
