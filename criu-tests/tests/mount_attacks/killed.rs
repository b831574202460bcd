//! The server and its processes, killed at random instants: no process stays stopped, and each is as it was or as it was
//! written.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use criu_signals::images::text::SigFile;
use criu_tests::cases::start;
use criu_tests::mounted::Mounted;
use criu_tests::procfs::{self, Pid};
use criu_tests::random::Random;
use criu_tests::rundir::RunDir;
use criu_tests::six::{EMPTY, Way, entry, mask, run};
use criu_tests::victim::reap_all;
use criu_tests::wait::{self, PATIENCE};
use criu_tests::work::finish_killed;
use nix::sys::signal::{Signal, kill};

/// Kills of a process that answers (`KILLS` says otherwise), and of the two without which there is no mount.
const KILLS: usize = 150;
const MOUNTS: usize = 20;
/// From when a kill comes, at most: about as long as a request takes.
const LATEST: Duration = Duration::from_millis(12);

/// Texts that are written in turns.
fn texts() -> [(SigFile, [String; 2]); 2] {
    let queue = mask(&[34]) + &entry(34).repeat(20);
    [
        (SigFile::Blocked, [mask(&[10, 34]), mask(&[10, 34, 35])]),
        (SigFile::Pending, [EMPTY.to_owned(), queue]),
    ]
}

/// Kills one of them, or none.
fn kill_one(pids: &[Pid]) -> bool {
    let end = |&pid: &Pid| kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).is_ok();
    pids.first().is_some_and(end)
}

/// Whatever was done to who looked at it: nobody traces it, it sleeps, and each file is one of both texts.
fn is_whole(pid: Pid) -> Result<()> {
    wait::until("those who answer to end", PATIENCE, || {
        Ok(procfs::named("signals-visit")?.is_empty().then_some(()))
    })?;
    ensure!(procfs::tracer(pid)? == 0);
    procfs::comes_to(pid, 'S')?;
    for (file, texts) in texts() {
        let found = Way::Library.read(pid, pid, file)?;
        ensure!(texts.contains(&found), "{file} is {found}");
    }
    Ok(())
}

/// Reads and writes until it is told to end. Errors are expected; a text that nobody has written is not.
fn use_files(
    paths: &[(PathBuf, [String; 2])],
    ends: &AtomicBool,
    done: &AtomicUsize,
) -> Result<()> {
    for turn in 0.. {
        if ends.load(Ordering::Relaxed) {
            break;
        }
        for (path, texts) in paths {
            if let Ok(mut file) = OpenOptions::new().write(true).open(path) {
                let _ = file.write(texts[turn % 2].as_bytes());
            }
            if let Ok(found) = fs::read_to_string(path) {
                ensure!(texts.contains(&found), "{} is {found}", path.display());
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Has files used while `killing` kills.
fn while_used(
    mount: &Mounted,
    pid: Pid,
    killing: impl FnOnce(&AtomicUsize) -> Result<()>,
) -> Result<()> {
    let paths = texts().map(|(file, texts)| (mount.path(pid, file), texts));
    let (ends, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let user = scope.spawn(|| use_files(&paths, &ends, &done));
        let killed = killing(&done);
        ends.store(true, Ordering::Relaxed);
        let used = user.join().unwrap_or_else(|_| anyhow::bail!("it panicked"));
        // Where the user has ended, the killer has waited for him in vain.
        used.and(killed)
    })
}

pub fn killed(dir: &RunDir) -> Result<()> {
    let wanted = match std::env::var("KILLS") {
        Ok(text) => text.parse()?,
        Err(_) => KILLS,
    };
    let victim = start("standstill", None, dir)?;
    let pid = victim.pid();
    let mut random = Random(1);
    let mount = Mounted::new()?;
    while_used(&mount, pid, |done| {
        let mut kills = 0;
        while kills < wanted {
            let before = done.load(Ordering::Relaxed);
            wait::until("a request", PATIENCE, || {
                Ok((done.load(Ordering::Relaxed) > before).then_some(()))
            })?;
            std::thread::sleep(random.below(LATEST));
            kills += usize::from(kill_one(&procfs::named("signals-visit")?));
        }
        Ok(())
    })?;
    is_whole(pid)?;
    // It serves on.
    ensure!(
        mount.way().read(pid, pid, SigFile::Action)?
            == Way::Library.read(pid, pid, SigFile::Action)?
    );
    drop(mount);
    let mounts = MOUNTS.max(wanted / 5);
    for round in 0..mounts {
        let mount = Mounted::new()?;
        let name = ["criu-signals", "signals-mount"][round % 2];
        while_used(&mount, pid, |done| {
            wait::until("a request", PATIENCE, || {
                Ok((done.load(Ordering::Relaxed) > 0).then_some(()))
            })?;
            std::thread::sleep(random.below(LATEST));
            ensure!(kill_one(&procfs::named(name)?), "no {name}");
            Ok(())
        })?;
        is_whole(pid)?;
        let _ = fs::read_dir(mount.at.join(pid.to_string()));
        let done = run(&["unmount", "/run/sig"], b"")?;
        ensure!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        std::mem::forget(mount);
        // What they leave behind is this process's: it is pid 1.
        wait::until("the processes to end", PATIENCE, || {
            let left = [
                procfs::named("criu-signals")?,
                procfs::named("signals-mount")?,
            ]
            .concat();
            Ok(left.is_empty().then_some(()))
        })?;
    }
    let [_, (file, [nothing, _])] = texts();
    Way::Library.write(pid, pid, file, &nothing)?;
    let kills = u32::try_from(wanted + mounts)?;
    let whom = "the mount's server and its processes";
    finish_killed(victim, whom, kills, dir)?;
    reap_all()
}
