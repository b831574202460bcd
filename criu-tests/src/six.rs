//! Shared parts of the tests of the six files (docs/proc-sig.md): texts, processes to write into, and the two ways to
//! write.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use criu_signals::images::text::SigFile;
use criu_signals::images::{Pid as LibPid, Tid};
use criu_signals::proc_sig::{self, Addresses, Subject};

use crate::config;
use crate::procfs::{self, Pid};
use crate::wait::{self, PATIENCE};

/// No signal.
pub const EMPTY: &str = "0000000000000000000000000000000000000000000000000000000000000000\n";
/// All of them.
pub const FULL: &str = "1111111111111111111111111111111111111111111111111111111111111111\n";

/// The mask line of these.
pub fn mask(signals: &[i32]) -> String {
    let column = |n| if signals.contains(&n) { '1' } else { '0' };
    (1..=64).map(column).collect::<String>() + "\n"
}

/// An entry as kill(2) makes it.
pub fn entry(signo: i32) -> String {
    format!("sig {signo}: uid 0 pid 1 flags 0 errno 0 code 0\n    pid 1 uid 0\n")
}

/// A thread of a process.
pub fn subject(pid: Pid, tid: Pid) -> Subject {
    Subject {
        pid: LibPid::new(pid).expect("a pid"),
        thread: Tid::new(tid),
    }
}

/// How the files are reached.
#[derive(Debug, Clone)]
pub enum Way {
    /// By the library.
    Library,
    /// Below this mount point.
    Mount(PathBuf),
}

impl Way {
    /// Where a file is; of the library's nowhere.
    pub fn path(&self, pid: Pid, tid: Pid, file: SigFile) -> Option<PathBuf> {
        match self {
            Way::Library => None,
            Way::Mount(at) => Some(at.join(format!("{pid}/task/{tid}/sig/{file}"))),
        }
    }

    /// The text of a file.
    pub fn read(&self, pid: Pid, tid: Pid, file: SigFile) -> Result<String> {
        match self.path(pid, tid, file) {
            None => Ok(proc_sig::read(subject(pid, tid), file, PATIENCE)?),
            Some(path) => fs::read_to_string(&path).with_context(|| path.display().to_string()),
        }
    }

    /// Writes a text; an error says why not.
    pub fn write(&self, pid: Pid, tid: Pid, file: SigFile, text: &str) -> Result<()> {
        match self.path(pid, tid, file) {
            None => {
                let (subject, text) = (subject(pid, tid), text.as_bytes());
                proc_sig::write(
                    subject,
                    file,
                    text,
                    None,
                    Addresses::AsWritten,
                    None,
                    PATIENCE,
                )?;
                Ok(())
            }
            Some(path) => {
                let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
                file.write_all(text.as_bytes())?;
                // What close(2) says is for nobody to be seen in Rust.
                Ok(file.sync_all()?)
            }
        }
    }
}

/// `sleep`. Ended when dropped.
#[derive(Debug)]
pub struct Sleeper(pub Child);

impl Sleeper {
    /// With the signals of `blocked` blocked.
    pub fn start(blocked: &[i32]) -> Result<(Sleeper, Pid)> {
        let (sleeper, pid) = Sleeper::started(Command::new("sleep").arg("1000"))?;
        if !blocked.is_empty() {
            Way::Library.write(pid, pid, SigFile::Blocked, &mask(blocked))?;
        }
        Ok((sleeper, pid))
    }

    /// As the user `uid`.
    pub fn start_as(uid: u32) -> Result<(Sleeper, Pid)> {
        Sleeper::started(Command::new("sleep").arg("1000").uid(uid).gid(uid))
    }

    /// A command that sleeps.
    pub fn started(command: &mut Command) -> Result<(Sleeper, Pid)> {
        let parent = procfs::name(nix::unistd::getpid().as_raw());
        // In a process group of its own: whoever runs the tests may have put them into an orphaned one, in which the kernel
        // drops the signals of terminal stops.
        let child = command.stdout(Stdio::null()).process_group(0).spawn()?;
        let pid = Pid::try_from(child.id())?;
        let sleeper = Sleeper(child);
        wait::until("it to sleep", PATIENCE, || {
            let other = procfs::name(pid) != parent;
            Ok((other && procfs::state(pid) == Some('S')).then_some(()))
        })?;
        Ok((sleeper, pid))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An address at which a process has code.
///
/// # Errors
/// If it has none.
pub fn code(pid: Pid) -> Result<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let executable = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let start = range.split('-').next()?;
        rest.starts_with("r-xp")
            .then(|| u64::from_str_radix(start, 16).ok())?
    };
    maps.lines().find_map(executable).context("no code")
}

/// Everything is written as it was read; then it is made something else, and written back.
pub fn rewrite(way: &Way, pid: Pid, tid: Pid) -> Result<()> {
    let files = SigFile::ALL.into_iter().filter(|file| file.is_writable());
    let texts = files
        .map(|file| Ok((file, way.read(pid, tid, file)?)))
        .collect::<Result<Vec<_>>>()?;
    for (file, text) in &texts {
        way.write(pid, tid, *file, text)
            .with_context(|| format!("{file}, as it was"))?;
    }
    // All blocked, so that nothing is delivered in between.
    way.write(pid, tid, SigFile::Blocked, FULL)?;
    let code = code(pid)?;
    for (file, text) in &texts {
        let other = match file {
            SigFile::Pending | SigFile::SharedPending => EMPTY.to_owned(),
            // One that the thread runs on stays.
            SigFile::AltStack if text.ends_with(" 1\n") => continue,
            SigFile::AltStack => "0 0 2\n".to_owned(),
            // SIGVTALRM: one that is ignored by default would be flushed.
            SigFile::Action => format!("26 268435456 {} {code} 8192\n", mask(&[1, 64]).trim()),
            _ => continue,
        };
        // A timer's own entry stays.
        if text.contains("flags 1") {
            let refused = way.write(pid, tid, *file, &other);
            ensure!(refused.is_err(), "{file}: a timer's entry was taken out");
        } else {
            way.write(pid, tid, *file, &other)
                .with_context(|| format!("{file}, changed"))?;
            let found = way.read(pid, tid, *file)?;
            ensure!(
                found == other || *file == SigFile::Action && found.contains(&format!(" {code} ")),
                "{file} was written and reads {found:?}"
            );
        }
        way.write(pid, tid, *file, text)
            .with_context(|| format!("{file}, as before"))?;
    }
    for (file, text) in &texts {
        if *file == SigFile::Blocked {
            way.write(pid, tid, *file, text)
                .context("blocked, as before")?;
        }
        let found = way.read(pid, tid, *file)?;
        ensure!(found == *text, "{file} was {text:?} and is {found:?}");
    }
    Ok(())
}

/// The command `criu-signals`.
pub fn run(args: &[&str], input: &[u8]) -> Result<Output> {
    let mut child = Command::new(config::command()?)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("a pipe")?.write_all(input)?;
    Ok(child.wait_with_output()?)
}
