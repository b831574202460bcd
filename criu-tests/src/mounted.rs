//! `criu-signals mount` and its users: ordinary users, and set-user-id programs.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::images::text::SigFile;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::procfs::Pid;
use crate::six::{Way, run};
use crate::wait::{self, PATIENCE};

/// A user whom nobody else is.
pub const USER: u32 = 12345;
/// And another.
pub const OTHER: u32 = 12346;

/// Where it is mounted.
const AT: &str = "/run/sig";
/// Where programs are that users may execute, on a file system with set-user-id.
const PROGRAMS: &str = "/run/programs";

/// Mounted where everybody can get. Unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    /// Where.
    pub at: PathBuf,
}

impl Mounted {
    /// For root alone.
    ///
    /// # Errors
    /// If it can't be mounted.
    pub fn new() -> Result<Mounted> {
        Mounted::with(&[])
    }

    /// And for every user.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_all() -> Result<Mounted> {
        Mounted::with(&["--allow-other"])
    }

    /// With these options of the command.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(options: &[&str]) -> Result<Mounted> {
        fs::create_dir_all(AT)?;
        for folder in ["/run", AT] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        let done = run(&[&["mount", AT], options].concat(), b"")?;
        ensure!(
            done.status.success(),
            "mount: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(Mounted {
            at: PathBuf::from(AT),
        })
    }

    /// The way to the files.
    pub fn way(&self) -> Way {
        Way::Mount(self.at.clone())
    }

    /// Where a file is.
    pub fn path(&self, pid: Pid, file: SigFile) -> PathBuf {
        self.at.join(format!("{pid}/sig/{file}"))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run(&["unmount", AT], b"");
    }
}

/// Of a failed call on a file; 0 if it has not failed.
pub fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.err().and_then(|e| e.raw_os_error()).unwrap_or(0)
}

/// Copies of the program `mount-actor`, and what they may become.
#[derive(Debug)]
pub struct Programs {
    /// With nobody's rights.
    pub own: String,
    /// Set-user-id root.
    pub of_root: String,
    /// Set-user-id [`OTHER`].
    pub of_other: String,
    /// May be executed and not be read.
    pub unreadable: String,
}

impl Programs {
    /// Makes them of `actor`, in a file system of their own.
    ///
    /// # Errors
    /// If that can't be made.
    pub fn make(actor: &Path) -> Result<Programs> {
        fs::create_dir_all(PROGRAMS)?;
        fs::set_permissions("/run", fs::Permissions::from_mode(0o755))?;
        let none: Option<&str> = None;
        mount(
            Some("tmpfs"),
            PROGRAMS,
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )?;
        fs::set_permissions(PROGRAMS, fs::Permissions::from_mode(0o1777))?;
        let make = |name: &str, owner: u32, mode: u32| -> Result<String> {
            let path = format!("{PROGRAMS}/{name}");
            fs::copy(actor, &path)?;
            chown(&path, Some(owner), Some(owner))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            Ok(path)
        };
        Ok(Programs {
            own: make("own", 0, 0o755)?,
            of_root: make("of-root", 0, 0o4755)?,
            of_other: make("of-other", OTHER, 0o4755)?,
            unreadable: make("unreadable", 0, 0o711)?,
        })
    }

    /// A place where everybody may make a file.
    pub fn place(&self, name: &str) -> String {
        format!("{PROGRAMS}/{name}")
    }
}

/// A running `mount-actor`. Ended when dropped.
#[derive(Debug)]
pub struct Actor {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Actor {
    /// Starts one of [`Programs`].
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(program: &str, uid: u32) -> Result<Actor> {
        let mut command = Command::new(program);
        command.uid(uid).gid(uid).current_dir("/").process_group(0);
        Actor::started(&mut command)
    }

    /// A command that comes to be one.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn started(command: &mut Command) -> Result<Actor> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take().context("a pipe")?;
        let from = BufReader::new(child.stdout.take().context("a pipe")?);
        Ok(Actor { child, to, from })
    }

    /// Its pid.
    ///
    /// # Errors
    /// None that can be seen.
    pub fn pid(&self) -> Result<Pid> {
        Ok(Pid::try_from(self.child.id())?)
    }

    /// Says what it is to do, and does not wait until it has.
    ///
    /// # Errors
    /// If it has ended.
    pub fn begin(&mut self, line: &str) -> Result<()> {
        writeln!(self.to, "{line}").context("the actor has ended")
    }

    /// What it answers: what was found, or the errno.
    ///
    /// # Errors
    /// If it has ended.
    pub fn answer(&mut self) -> Result<Result<String, Errno>> {
        let line = self.line()?;
        match line.trim_end_matches('\n').split_once(' ') {
            Some(("ok", found)) => Ok(Ok(found.to_owned())),
            Some(("err", errno)) => Ok(Err(Errno::from_raw(errno.parse()?))),
            _ => bail!("the actor says {line:?}"),
        }
    }

    /// What it says, once it says something.
    ///
    /// # Errors
    /// If its output can't be read.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        Ok(line)
    }

    /// Has it do something.
    ///
    /// # Errors
    /// If it has ended.
    pub fn ask(&mut self, line: &str) -> Result<Result<String, Errno>> {
        self.begin(line)?;
        self.answer().with_context(|| line.to_owned())
    }

    /// Has it do what it can do.
    ///
    /// # Errors
    /// If it can't.
    pub fn does(&mut self, line: &str) -> Result<String> {
        self.ask(line)?
            .with_context(|| format!("{line}: it may do that"))
    }

    /// Has it try what it may not do.
    ///
    /// # Errors
    /// If it can, or fails in another way.
    pub fn fails(&mut self, line: &str, errno: Errno) -> Result<()> {
        let found = self.ask(line)?;
        ensure!(
            found == Err(errno),
            "{line}: {found:?}, and {errno} was expected"
        );
        Ok(())
    }

    /// Has it execute a program.
    ///
    /// # Errors
    /// If it can't.
    pub fn becomes(&mut self, program: &str) -> Result<()> {
        self.does(&format!("exec {program}"))?;
        // That answers, whatever it is now.
        self.does("blocked").map(drop)
    }

    /// Gives an open file to another by SCM_RIGHTS.
    ///
    /// # Errors
    /// If either can't.
    pub fn give(&mut self, number: i32, to: &mut Actor, at: &str) -> Result<()> {
        to.begin(&format!("take {number} {at}"))?;
        wait::until("the socket", PATIENCE, || {
            Ok(match self.ask(&format!("give {number} {at}"))? {
                Ok(_) => Some(()),
                Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::EACCES) => None,
                Err(e) => bail!("give: {e}"),
            })
        })?;
        to.answer()?.context("take")?;
        fs::remove_file(at)?;
        Ok(())
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
