//! Runs criu in its own cgroup with a limit.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::config;
use crate::criu::{Criu, Step};
use crate::procfs::Pid;
use crate::rundir::RunDir;
use crate::skip;
use crate::wait::{self, PATIENCE};

/// What is limited: the controller, and its files for the limit and for what is used, of v1 and of v2.
pub struct Resource {
    controller: &'static str,
    limit: [&'static str; 2],
    used: [&'static str; 2],
}

/// Memory, in bytes.
pub const MEMORY: Resource = Resource {
    controller: "memory",
    limit: ["memory.limit_in_bytes", "memory.max"],
    used: ["memory.usage_in_bytes", "memory.current"],
};

/// Processes and threads.
pub const PIDS: Resource = Resource {
    controller: "pids",
    limit: ["pids.max", "pids.max"],
    used: ["pids.current", "pids.current"],
};

/// A cgroup, with a limit, in which criu runs. Removed when dropped.
pub struct Limited {
    dir: PathBuf,
    limit: PathBuf,
    used: PathBuf,
    script: PathBuf,
}

impl Limited {
    /// Makes it, without a limit. A test of this kind needs [`skip::Need::MemoryCgroup`] or its like.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn new(resource: &Resource, run: &RunDir) -> Result<Limited> {
        let controller = resource.controller;
        let (root, v2) = skip::controller(controller).context("no such controller")?;
        let unique = fs::metadata(run.path())?.ino();
        let dir = root.join(format!("criu-tests-{controller}-{unique}"));
        fs::create_dir(&dir)?;
        let script = run.file("limited");
        let text = format!(
            "#!/bin/sh\necho $$ > '{}/cgroup.procs'\nexec '{}' \"$@\"\n",
            dir.display(),
            config::criu()?.display()
        );
        fs::write(&script, text)?;
        fs::set_permissions(&script, Permissions::from_mode(0o755))?;
        // Where there is swap, nothing of it.
        let _ = fs::write(dir.join("memory.swap.max"), "0");
        Ok(Limited {
            limit: dir.join(resource.limit[usize::from(v2)]),
            used: dir.join(resource.used[usize::from(v2)]),
            dir,
            script,
        })
    }

    /// A criu in it.
    pub fn criu(&self, plugins: &Path) -> Criu {
        Criu::new(&self.script, plugins)
    }

    /// Sets the limit.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set(&self, limit: usize) -> Result<()> {
        fs::write(&self.limit, limit.to_string()).context("the limit")
    }

    /// There is to be no more than what is used.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn no_more(&self) -> Result<()> {
        const PAGE: usize = 4096;
        for pages in 1..64 {
            let used: usize = fs::read_to_string(&self.used)?.trim().parse()?;
            // That of v1 must not be below.
            if self.set(used + pages * PAGE).is_ok() {
                return Ok(());
            }
        }
        bail!("ever more is used")
    }

    /// Dumps a process, which runs on, and waits until the last that criu has started has ended.
    ///
    /// # Errors
    /// If that does not end.
    pub fn dump(&self, criu: &Criu, pid: Pid, run: &RunDir) -> Result<Step> {
        let dump = criu.dump(pid, &run.images(), true)?;
        wait::until("what criu has started to end", PATIENCE, || {
            let left = fs::read_to_string(self.dir.join("cgroup.procs"))?;
            Ok(left.is_empty().then_some(()))
        })?;
        Ok(dump)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.dir);
    }
}
