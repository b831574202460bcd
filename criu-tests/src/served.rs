//! A file system whose server does not answer, and who waits for it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use anyhow::{Context as _, Result};

use crate::cases::{CHECK, start};
use crate::config;
use crate::procfs::Pid;
use crate::rundir::RunDir;
use crate::victim::Victim;
use crate::wait::{self, PATIENCE};

/// A file system whose server does not answer whoever wants to read its one file, or to close it, or to write to it. When the server is killed,
/// as it is when this is dropped, whoever waits for it is told that it is gone.
#[derive(Debug)]
pub struct Silent(Child);

impl Silent {
    /// Does not answer reads.
    ///
    /// # Errors
    /// If it can't be mounted.
    pub fn mount(folder: &Path) -> Result<Silent> {
        Silent::with(folder, &[])
    }

    fn with(folder: &Path, options: &[&str]) -> Result<Silent> {
        fs::create_dir(folder)?;
        let program = config::victim("silent_fs", false);
        let server = Command::new(program).arg(folder).args(options).spawn()?;
        let silent = Silent(server);
        wait::until("the file system", PATIENCE, || {
            Ok(folder.join("file").exists().then_some(()))
        })?;
        Ok(silent)
    }

    /// The folder is `silent` in `dir`, and somebody waits for an answer.
    fn await_waiter(dir: &RunDir) -> Result<()> {
        wait::until("somebody to wait for the server", PATIENCE, || {
            Ok(dir.file("silent.waits").exists().then_some(()))
        })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The victim `in_execve`: a process that may be in execve(2) as long as the server of one of its files likes. Until then
/// reading its `/proc/PID/stat` waits, and so does `ps`, everywhere on the machine: tests are to be quick, and the server
/// ends by itself.
#[derive(Debug)]
pub struct InExecve {
    // Its end is the end of the wait: before the others.
    silent: Silent,
    /// The parent of `second`.
    pub first: Victim,
    /// Is in execve(2) as soon as it is told so.
    pub second: Pid,
    /// A child of `second`.
    pub third: Pid,
    dir: RunDir,
}

impl InExecve {
    /// Starts them.
    ///
    /// # Errors
    /// If they can't be started.
    pub fn start(dir: &RunDir) -> Result<InExecve> {
        let folder = dir.file("silent");
        let silent = Silent::with(&folder, &["flush"])?;
        let file = folder.join("file");
        let first = start("in_execve", Some(file.to_str().context("a path")?), dir)?;
        let number = |name: &str| -> Result<Pid> { Ok(dir.read(name).trim().parse()?) };
        Ok(InExecve {
            silent,
            first,
            second: number("second")?,
            third: number("third")?,
            dir: dir.clone(),
        })
    }

    /// Has the second begin its execve(2). It is in it when this returns.
    ///
    /// # Errors
    /// If it does not get there.
    pub fn execute(&self) -> Result<()> {
        fs::write(self.dir.file("execute"), "")?;
        Silent::await_waiter(&self.dir)
    }

    /// Is it in its execve(2) still? Else what was shown was not shown of that.
    pub fn is_in_it(&self) -> bool {
        !self.dir.file("executed").exists()
    }

    /// Ends the wait; all go on, and find what they had.
    ///
    /// # Errors
    /// What the first says that is not as it was.
    pub fn finish(self) -> Result<()> {
        drop(self.silent);
        wait::until("the end of its execve(2)", PATIENCE, || {
            Ok(self.dir.file("executed").exists().then_some(()))
        })?;
        self.first.finish(CHECK)
    }
}

/// The victim `memory_locked`: a process whose memory is locked by another one that shares it, as long as the server of a file
/// likes. Until then reading its `/proc/PID/maps` waits, and so does `ps`.
#[derive(Debug)]
pub struct MemoryLocked {
    // As in `InExecve`.
    silent: Silent,
    /// Its memory is.
    pub process: Victim,
    /// Its child, which has memory of its own.
    pub child: Pid,
    dir: RunDir,
}

impl MemoryLocked {
    /// Starts them. The memory is locked when this returns.
    ///
    /// # Errors
    /// If they can't be started.
    pub fn start(dir: &RunDir) -> Result<MemoryLocked> {
        let folder = dir.file("silent");
        let silent = Silent::with(&folder, &["write"])?;
        let file = folder.join("file");
        let process = start("memory_locked", Some(file.to_str().context("a path")?), dir)?;
        Silent::await_waiter(dir)?;
        Ok(MemoryLocked {
            silent,
            process,
            child: dir.read("child").trim().parse()?,
            dir: dir.clone(),
        })
    }

    /// Is the memory locked still?
    pub fn is_locked(&self) -> bool {
        !self.dir.file("unlocked").exists()
    }

    /// Ends the wait; all go on, and find what they had.
    ///
    /// # Errors
    /// What the process says that is not as it was.
    pub fn finish(self) -> Result<()> {
        drop(self.silent);
        self.process.finish(CHECK)
    }
}
