//! A pid namespace for each run.
//!
//! A restore needs the very pids that were dumped. On a machine where other runs start processes meanwhile, one of
//! those may be taken by then. So each run is pid 1 of a pid namespace of its own, with its own /proc: whatever
//! runs elsewhere, its pids are free; everything it starts and loses becomes its child, also what `criu restore -d`
//! leaves behind; and when it ends, for whatever reason, the kernel ends all that is left.
//!
//! A process enters a new pid namespace only by being born into it. So there are two steps, both in new processes
//! of the same program, told apart by an environment variable: the first (`enter`) unshares, the second (`inside`) is
//! its child.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio, exit};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, io};

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::images::{Pid, SigNo, Tid};
use criu_signals::proc::SignalStatus;
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};

use crate::rundir::RunDir;

const STEP: &str = "CRIU_TESTS_STEP";

/// Where `main` finds itself.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// In the program as it was started.
    Outside,
    /// In pid 1 of a new namespace, with the arguments given to [`run`].
    Inside,
}

/// To be called first in `main` of every program that uses [`run`], while it has one thread.
pub fn arrive() -> Result<Place> {
    match env::var(STEP).as_deref() {
        Ok("enter") => {
            set_pdeathsig(Signal::SIGKILL).context("prctl(PR_SET_PDEATHSIG)")?;
            unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS).context("unshare")?;
            let status = again("inside")?
                .args(env::args_os().skip(1))
                .status()
                .context("starting pid 1")?;
            exit(
                status
                    .code()
                    .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            );
        }
        Ok("inside") => {
            // The first step is killed when a run takes too long; this takes the namespace along.
            set_pdeathsig(Signal::SIGKILL).context("prctl(PR_SET_PDEATHSIG)")?;
            ensure!(
                nix::unistd::getpid().as_raw() == 1,
                "this is to be pid 1 of its namespace"
            );
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
                .context("making mounts private")?;
            mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)
                .context("mounting /proc")?;
            // criu keeps what it learnt about the kernel in /run/criu.kdat, where runs of another version write too.
            mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none)
                .context("mounting /run")?;
            usual_signals().context("signals as a program usually has them")?;
            Ok(Place::Inside)
        }
        _ => Ok(Place::Outside),
    }
}

/// Signals as most programs find them, whoever has started this one: nohup(1) ignores SIGHUP, and so would all that is started
/// here. SIGPIPE is the runtime's, which makes it SIG_DFL in what it starts.
#[allow(unsafe_code)]
fn usual_signals() -> Result<()> {
    SigSet::empty().thread_set_mask()?;
    let own = Pid::own();
    let ignored = SignalStatus::read(own, Tid::from(own))?.ignored;
    for signo in SigNo::all().filter(|&signo| ignored.contains(signo)) {
        if signo.get() == libc::SIGPIPE {
            continue;
        }
        // Those of the C library, which its sigaction(3) refuses, too.
        let default = [0_u64; 4];
        // SAFETY: a `struct sigaction` of the kernel, SIG_DFL without flags, which is only read.
        let set = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signo.get(),
                default.as_ptr(),
                std::ptr::null::<u64>(),
                8,
            )
        };
        Errno::result(set).with_context(|| format!("sigaction of {signo}"))?;
    }
    Ok(())
}

/// What `main` of a program is that runs `inside` in a namespace, and `outside` before: its error is printed.
pub fn main(
    name: &str,
    outside: impl FnOnce() -> Result<()>,
    inside: impl FnOnce() -> Result<()>,
) -> ExitCode {
    let done = match arrive() {
        Ok(Place::Outside) => outside(),
        Ok(Place::Inside) => inside(),
        Err(why) => Err(why),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{name}: {why:#}");
            ExitCode::FAILURE
        }
    }
}

/// As [`main`], of a test program: both say by themselves what has failed.
pub fn test_main(
    outside: impl FnOnce() -> ExitCode,
    inside: impl FnOnce() -> ExitCode,
) -> ExitCode {
    match arrive() {
        Ok(Place::Outside) => outside(),
        Ok(Place::Inside) => inside(),
        Err(why) => {
            println!("{why:#}");
            ExitCode::FAILURE
        }
    }
}

/// As [`run`], in a run folder: prints what the program said, and fails if it did.
pub fn run_and_print(args: &[&str], dir: &RunDir, patience: Duration) -> Result<()> {
    let ended = run(args, &dir.file("run"), patience)?;
    print!("{}", dir.read("run"));
    match ended {
        Ended::With(status) => ensure!(status.success(), "see above"),
        Ended::TimedOut => bail!("it took longer than {patience:?}"),
    }
    Ok(())
}

/// How a run in a namespace ended.
#[derive(Debug)]
pub enum Ended {
    /// By itself.
    With(ExitStatus),
    /// It was ended, with everything in its namespace.
    TimedOut,
}

/// Runs this program again as pid 1 of a new namespace, with these arguments, and its output to a file.
pub fn run(args: &[&str], output: &Path, patience: Duration) -> Result<Ended> {
    let out = File::create(output).with_context(|| format!("making {}", output.display()))?;
    let copy = out.try_clone().context("dup")?;
    let mut child = start(args, Stdio::null(), copy.into(), out.into())?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("wait")? {
            return Ok(Ended::With(status));
        }
        if start.elapsed() > patience {
            child.kill().context("kill")?;
            child.wait().context("wait")?;
            return Ok(Ended::TimedOut);
        }
        sleep(Duration::from_millis(5));
    }
}

/// Starts this program again as pid 1 of a new namespace, with these arguments. What is killed with what is returned is
/// the whole namespace; it ends with the thread that has started it, too.
pub fn start(args: &[&str], stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Result<Child> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "criu and namespaces need root: run the tests as root"
    );
    again("enter")?
        .args(args)
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .context("starting the first step")
}

fn again(step: &str) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.env(STEP, step);
    Ok(command)
}
