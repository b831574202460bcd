//! Live processes: tests `criu-signals dump`, `restore` and `verify`, and that a program cannot observe that it is
//! read.
//!
//! `SHOWS` sets how often one program is read, `KILLS` how often the command is killed meanwhile.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::engine::capture;
use criu_signals::images::owner::OWNER_PROCESS;
use criu_signals::images::{
    AltStack, ExitSignal, Fields, FileOwner, Image, Pid, ProcessState, SigNo, Siginfo, image,
};
use criu_signals::proc::SignalStatus;
use criu_signals::tracee::{ByUs, Call, Injector, StoppedProcess};
use criu_tests::cases::{self, CHECK, Test, start, test, with_plugin};
use criu_tests::random::Random;
use criu_tests::rundir::RunDir;
use criu_tests::skip::{self, Need};
use criu_tests::victim::Victim;
use criu_tests::wait::{self, PATIENCE};
use criu_tests::work::{finish_killed, kill_all, kill_front};
use criu_tests::{config, procfs};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};

const NOBODY: u32 = 65534;
const DEFAULT_SHOWS: u32 = 1000;
/// Of so many looks one is the command's, and the others are the library's, which takes less time to start.
const BY_COMMAND: u32 = 8;
const DEFAULT_KILLS: u32 = 200;
/// For loops that are as long as the caller wants.
const LONG: Duration = Duration::from_secs(1800);

fn main() -> ExitCode {
    cases::main("live", tests)
}

/// Victims of all kinds, with what each is started with.
const UNCHANGED: [(&str, &str); 20] = [
    ("dispositions", "0"),
    ("dispositions", "ignored"),
    ("masks", ""),
    ("altstacks", ""),
    ("fifo", ""),
    ("private_queues", ""),
    ("private_fault", ""),
    ("private_sigchld", ""),
    ("shared_queue", ""),
    ("siginfo_user", ""),
    ("bits_without_info", ""),
    ("sigsuspend", ""),
    ("ppoll", ""),
    ("registers", ""),
    ("posix_timer", ""),
    ("sigchld", "exited"),
    ("deep_queue", "2000"),
    ("many_threads", "20"),
    ("trap_pending", ""),
    ("stopped", ""),
];

fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for (program, arg) in UNCHANGED {
        let name = format!(
            "unchanged.{program}{}{arg}",
            if arg.is_empty() { "" } else { "-" }
        );
        tests.push(test(name, move |dir| unchanged(program, arg, dir)));
    }
    tests.extend([
        test("restore.what-was-sent-since", restore_what_was_sent),
        test("restore.stop", restore_stop),
        test("restore.into-another", restore_into_another),
        test("restore.changed-meanwhile", changed_meanwhile),
        test("restore.senders", restore_senders),
        test("restore.senders-of-each-other", senders_of_each_other),
        test("restore.other-program", restore_other_program),
        test("restore.fewer-threads", restore_fewer_threads),
        test("other-machine", other_machine),
        test("folder-read-only", folder_read_only),
        test("verify.waiters", verify_waiters),
        test("verify.waiters-elsewhere", verify_waiters_elsewhere),
        test("verify.exit-signal", verify_exit_signal),
        test("verify.made-timer", verify_made_timer),
        test("restore.interval-timers", restore_interval_timers),
        test(
            "restore.expired-interval-timer",
            restore_expired_interval_timer,
        ),
        test("restore.file-owners", restore_file_owners),
        test("tree", tree),
        test("all-or-nothing", all_or_nothing),
        test("namespaces", namespaces).needs(&[Need::FreezerV2]),
        test("traced", traced),
        test("zombie", zombie),
        test("vfork", vforked),
        test("gone", gone),
        test("exec-held", exec_held),
        test("churn", |dir| churn("", dir)),
        test("churn-exec", |dir| churn("exec", dir)),
        test("own-uid", own_uid),
        test("seccomp-strict.root", |dir| seccomp("strict", dir)),
        test("seccomp-filter.root", |dir| seccomp("filter", dir)),
        test("seccomp-strict.nobody", |dir| {
            seccomp_as_nobody("strict", dir)
        }),
        test("seccomp-filter.nobody", |dir| {
            seccomp_as_nobody("filter", dir)
        }),
        test("invisible", invisible).may_take(LONG),
        test("killed.show", killed_show).may_take(LONG),
        test("killed.front-of-show", killed_front_of_show).may_take(LONG),
        test("killed.front-of-restore", killed_front_of_restore).may_take(LONG),
    ]);
    for version in [Version::V1, Version::V2] {
        let needs: &'static [Need] = match version {
            Version::V1 => &[Need::FreezerV1],
            Version::V2 => &[Need::FreezerV2],
        };
        let of_cgroup = |what: &str, run: fn(Version, &RunDir) -> Result<()>| {
            test(format!("{what}-{version:?}"), move |dir| run(version, dir)).needs(needs)
        };
        tests.extend([
            of_cgroup("cgroup.dump", cgroup_dump),
            of_cgroup("cgroup.vfork", cgroup_vfork),
            of_cgroup("cgroup.refused", cgroup_refused),
            of_cgroup("cgroup.verify", cgroup_verify),
            of_cgroup("cgroup.frozen", cgroup_frozen),
            of_cgroup("cgroup.freezing", cgroup_freezing),
            of_cgroup("killed.dump", killed_dump).may_take(LONG),
        ]);
    }
    tests
}

// ---- the command ----------------------------------------------------------------------------------------------------

/// What it said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn wait(mut child: Child) -> Result<Said> {
        // Both are small; what would fill a pipe would be a failure.
        let ended = wait::until("criu-signals", PATIENCE, || Ok(child.try_wait()?));
        if ended.is_err() {
            child.kill()?;
        }
        let output = child.wait_with_output()?;
        ended?;
        Ok(Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// The exit code, and what must be in what it said.
    fn expect(&self, code: i32, parts: &[&str]) -> Result<()> {
        let all = format!("{}{}", self.out, self.err);
        ensure!(
            self.code == Some(code) && parts.iter().all(|part| all.contains(part)),
            "expected exit code {code} and {parts:?}: {self:?}"
        );
        Ok(())
    }
}

fn spawn(program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn tool(args: &[&str]) -> Result<Said> {
    Said::wait(spawn(&config::command()?, args).spawn()?)
}

/// In what processes differ from their images. Programs sleep a few ms at a time: a call that has ended since, or that the dump has
/// not found, is no difference of theirs.
fn differences(said: &Said) -> Vec<&str> {
    let lines = said.out.lines();
    let differs = |line: &&str| line.contains(" dumped: ") && !line.contains("interrupted call: ");
    lines.filter(differs).collect()
}

/// The process is as in the images. Between two calls of a program is looked again.
fn verified(args: &[&str]) -> Result<()> {
    let mut said = tool(&[&["verify"], args].concat())?;
    for _ in 0..10 {
        if said.code == Some(0) || !differences(&said).is_empty() {
            break;
        }
        said = tool(&[&["verify"], args].concat())?;
    }
    if said.code == Some(1) {
        return is_as_dumped(&said);
    }
    said.expect(0, &["verdict=verified"])?;
    Ok(())
}

fn dump(pid: i32, into: &Path) -> Result<Said> {
    tool(&["dump", "-t", &pid.to_string(), "-D", text(into)?])
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path")
}

fn images(folder: &Path) -> Result<Vec<Image>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.sort();
    Ok(paths
        .iter()
        .map(|path| image::open(path))
        .collect::<Result<_, _>>()?)
}

// ---- dump, verify, restore ------------------------------------------------------------------------------------------

/// Dumped, compared and restored: nothing has changed, says the program itself, and says the command.
fn unchanged(program: &str, arg: &str, dir: &RunDir) -> Result<()> {
    let arg = Some(arg).filter(|arg| !arg.is_empty());
    let victim = start(program, arg, dir)?;
    let stops = program == "stopped";
    if stops {
        victim.wait_stopped()?;
    }
    let folder = dir.file("live");
    dump(victim.pid(), &folder)?.expect(0, &["1 process"])?;
    verified(&["-D", text(&folder)?])?;
    tool(&["restore", "-D", text(&folder)?])?.expect(0, &["verdict=verified"])?;
    if stops {
        procfs::comes_to(victim.pid(), 'T').context("it is to be stopped still")?;
        victim.resume()?;
    }
    victim.finish(CHECK)
}

/// Signals that others have sent stay, or go, as is asked for.
fn restore_what_was_sent(dir: &RunDir) -> Result<()> {
    let victim = start("shared_queue", None, dir)?;
    let pid = victim.pid();
    let folder = dir.file("live");
    dump(pid, &folder)?.expect(0, &[])?;
    let was = images(&folder)?.remove(0).process.shared;
    let free = criu_signals::images::SigNo::all()
        .find(|&s| {
            !was.bits.contains(s) && was_blocked(&folder, s) && !s.is_realtime() && !s.is_stop()
        })
        .context("every legacy signal is pending")?;
    kill(
        nix::unistd::Pid::from_raw(pid),
        Signal::try_from(free.get())?,
    )?;
    let found = format!("{free} SI_USER pid 1 uid 0");
    tool(&["verify", "-D", text(&folder)?])?.expect(1, &["verdict=differs", &found])?;
    tool(&["restore", "-D", text(&folder)?])?
        .expect(0, &["verdict=verified", "arrived-since=1"])?;
    tool(&["verify", "-D", text(&folder)?])?.expect(1, &[&found])?;
    tool(&["restore", "--exact", "-D", text(&folder)?])?
        .expect(0, &["verdict=repaired", "put back"])?;
    tool(&["verify", "-D", text(&folder)?])?.expect(0, &[])?;
    victim.finish(CHECK)
}

fn was_blocked(folder: &Path, signo: criu_signals::images::SigNo) -> bool {
    images(folder).is_ok_and(|images| {
        images.iter().all(|image| {
            image
                .process
                .threads
                .iter()
                .all(|t| t.blocked.contains(signo))
        })
    })
}

/// A process that was running is continued, and one that was stopped is stopped.
fn restore_stop(dir: &RunDir) -> Result<()> {
    let victim = start("masks", None, dir)?;
    let (pid, raw) = (victim.pid(), nix::unistd::Pid::from_raw(victim.pid()));
    let (running, stopped) = (dir.file("running"), dir.file("stopped"));
    dump(pid, &running)?.expect(0, &[])?;
    kill(raw, Signal::SIGSTOP)?;
    victim.wait_stopped()?;
    dump(pid, &stopped)?.expect(0, &[])?;
    tool(&["verify", "-D", text(&running)?])?
        .expect(1, &["run state", "found: stopped by SIGSTOP"])?;
    tool(&["restore", "-D", text(&running)?])?.expect(0, &["verdict=repaired", "run state"])?;
    procfs::comes_to(pid, 'S')?;
    tool(&["restore", "-D", text(&stopped)?])?.expect(0, &["verdict=repaired", "run state"])?;
    procfs::comes_to(pid, 'T')?;
    tool(&["restore", "-D", text(&running)?])?.expect(0, &["verdict=repaired"])?;
    victim.finish(CHECK)
}

/// Two runs of one program, each with other dispositions: the one's are put into the other, which has its own back
/// before it looks.
fn restore_into_another(dir: &RunDir) -> Result<()> {
    let runs = ["0", "1"].map(|arg| (arg, RunDir::create(&dir.file(arg))));
    let mut victims = Vec::new();
    for (arg, run) in runs {
        let run = run?;
        let victim = start("dispositions", Some(arg), &run)?;
        let folder = run.file("live");
        dump(victim.pid(), &folder)?.expect(0, &[])?;
        victims.push((victim, folder));
    }
    let [(a, of_a), (b, of_b)] = victims.as_slice() else {
        bail!("two")
    };
    let map = format!("{}:{}", a.pid(), b.pid());
    let (of_a, of_b) = (text(of_a)?, text(of_b)?);
    tool(&["verify", "-D", of_a, "--map", &map])?.expect(1, &["disposition of"])?;
    // Some of their handlers are nowhere.
    tool(&["restore", "-D", of_a, "--map", &map])?
        .expect(2, &["no executable memory at", "--force"])?;
    verified(&["-D", of_b])?;
    tool(&["restore", "--force", "-D", of_a, "--map", &map])?
        .expect(0, &["verdict=repaired", "disposition of"])?;
    verified(&["-D", of_a, "--map", &map])?;
    tool(&["verify", "-D", of_b])?.expect(1, &["disposition of"])?;
    // A folder's single image may be put into any process.
    verified(&["-D", of_a, "-t", &b.pid().to_string()])?;
    tool(&["restore", "--force", "-D", of_b])?.expect(0, &["verdict=repaired"])?;
    for (victim, _) in victims {
        victim.finish(CHECK)?;
    }
    Ok(())
}

/// A tree's siginfos, put into another tree of the program: who had sent them has another pid there.
fn restore_senders(dir: &RunDir) -> Result<()> {
    let mut trees = Vec::new();
    for name in ["a", "b"] {
        let run = RunDir::create(&dir.file(name))?;
        let victim = start("process_tree", None, &run)?;
        let folder = run.file("live");
        let root = victim.pid().to_string();
        tool(&["dump", "-t", &root, "--tree", "-D", text(&folder)?])?
            .expect(0, &["3 processes"])?;
        let mut pids = procfs::tree(victim.pid())?;
        pids.sort_unstable();
        trees.push((victim, folder, pids));
    }
    let [(_, of_a, a), (_, of_b, b)] = trees.as_slice() else {
        bail!("two")
    };
    let maps: Vec<String> = a.iter().zip(b).map(|(a, b)| format!("{a}:{b}")).collect();
    let mut args = vec!["restore", "--exact", "-D", text(of_a)?];
    maps.iter().for_each(|map| args.extend(["--map", map]));
    // Of themselves: process_tree's own signals are sent by each process to itself.
    tool(&args)?.expect(0, &["verdict=verified"])?;
    let senders = |of: &Path| -> Result<Vec<i32>> {
        let sender = |info: &criu_signals::images::Siginfo| match info.fields() {
            Fields::Value { pid, .. } | Fields::Kill { pid, .. } => Some(pid),
            _ => None,
        };
        Ok(images(of)?
            .iter()
            .flat_map(|image| {
                image
                    .process
                    .queues()
                    .flat_map(|p| &p.queue)
                    .collect::<Vec<_>>()
            })
            .filter_map(sender)
            .collect())
    };
    let now = dir.file("now");
    tool(&["dump", "-t", &b[0].to_string(), "--tree", "-D", text(&now)?])?.expect(0, &[])?;
    ensure!(
        senders(&now)? == senders(of_b)?,
        "senders are {:?}",
        senders(&now)?
    );
    ensure!(
        senders(of_a)?.iter().all(|pid| a.contains(pid)),
        "the test is wrong"
    );
    // Without a mapping for the others, their numbers stay what they are.
    let leader = format!("{}:{}", a[0], b[0]);
    let only = b[0].to_string();
    verified(&["-D", text(of_a)?, "--map", &leader, "-t", &only])?;
    for (victim, _, _) in trees {
        victim.finish(CHECK)?;
    }
    Ok(())
}

/// What two processes have sent each other, put into two others: it comes from each other there, and what a third one had
/// sent still comes from that.
fn senders_of_each_other(dir: &RunDir) -> Result<()> {
    let mut couples = Vec::new();
    for (name, arg) in [("a", "1:1"), ("b", "2:1")] {
        let run = RunDir::create(&dir.file(name))?;
        let victim = start("couple", Some(arg), &run)?;
        let child: i32 = run.read("child").parse()?;
        couples.push((victim, child));
    }
    let [(a, child_of_a), (b, child_of_b)] = couples.as_slice() else {
        bail!("two")
    };
    for pid in [a.pid(), *child_of_a] {
        kill(nix::unistd::Pid::from_raw(pid), Signal::SIGUSR2)?;
    }
    let folder = dir.file("live");
    let root = a.pid().to_string();
    tool(&["dump", "-t", &root, "--tree", "-D", text(&folder)?])?.expect(0, &["2 processes"])?;
    let maps = [
        format!("{}:{}", a.pid(), b.pid()),
        format!("{child_of_a}:{child_of_b}"),
    ];
    let mut args = vec!["-D", text(&folder)?];
    maps.iter().for_each(|map| args.extend(["--map", map]));
    let restore = [&["restore", "--exact"], &args[..]].concat();
    tool(&restore)?.expect(0, &["verdict=repaired"])?;
    verified(&args)?;
    verified(&["-D", text(&folder)?])?;
    for (victim, _) in couples {
        victim.finish(CHECK)?;
    }
    Ok(())
}

/// Another program's handlers and stacks are elsewhere.
fn restore_other_program(dir: &RunDir) -> Result<()> {
    let runs = ["masks", "altstacks"].map(|name| (name, RunDir::create(&dir.file(name))));
    let mut victims = Vec::new();
    for (name, run) in runs {
        victims.push(start(name, None, &run?)?);
    }
    let [masks, altstacks] = victims.as_slice() else {
        bail!("two")
    };
    let folder = dir.file("live");
    dump(altstacks.pid(), &folder)?.expect(0, &[])?;
    let map = format!("{}:{}", altstacks.pid(), masks.pid());
    tool(&["restore", "-D", text(&folder)?, "--map", &map])?.expect(
        2,
        &["the process executes", "masks", "altstacks", "--force"],
    )?;
    for victim in victims {
        victim.finish(CHECK)?;
    }
    Ok(())
}

/// Threads that are not there can't be restored, and are said.
fn restore_fewer_threads(dir: &RunDir) -> Result<()> {
    let mut victims = Vec::new();
    for threads in ["5", "3"] {
        let run = RunDir::create(&dir.file(threads))?;
        victims.push(start("many_threads", Some(threads), &run)?);
    }
    let [five, three] = victims.as_slice() else {
        bail!("two")
    };
    let folder = dir.file("live");
    dump(five.pid(), &folder)?.expect(0, &["1 process of 6 threads"])?;
    let map = format!("{}:{}", five.pid(), three.pid());
    let last = format!(
        "thread {} existence: dumped: a thread; found: none; left alone",
        five.pid() + 5
    );
    tool(&["verify", "-D", text(&folder)?, "--map", &map])?.expect(1, &[&last])?;
    let last = last.replace("left alone", "NOT put back");
    tool(&["restore", "--force", "-D", text(&folder)?, "--map", &map])?
        .expect(1, &["verdict=failed", "failures=2", &last])?;
    // It is not what it was, and does not say so before it is asked.
    let mut victims = victims.into_iter();
    victims.next().context("five")?.finish(CHECK)?;
    victims.next().context("three")?.end();
    Ok(())
}

/// Images are read from where nothing can be written; a dump into such a folder leaves nothing behind.
fn folder_read_only(dir: &RunDir) -> Result<()> {
    let victim = start("masks", None, dir)?;
    let folder = dir.file("live");
    dump(victim.pid(), &folder)?.expect(0, &[])?;
    let other = dir.file("other");
    fs::create_dir(&other)?;
    let none: Option<&str> = None;
    for folder in [&folder, &other] {
        mount(Some(folder), folder, none, MsFlags::MS_BIND, none).context("mounting")?;
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(none, folder, none, flags, none).context("mounting it anew")?;
    }
    for action in ["verify", "restore"] {
        tool(&[action, "-D", text(&folder)?])?.expect(0, &["verdict=verified"])?;
    }
    let name = image::file_name(victim.pid());
    dump(victim.pid(), &other)?.expect(2, &[&name, "Read-only file system"])?;
    ensure!(images(&other)?.is_empty(), "something was written");
    victim.finish(CHECK)
}

/// An image of another kernel is one like any other, and that is said; one of another architecture is refused.
fn other_machine(dir: &RunDir) -> Result<()> {
    let victim = start("masks", None, dir)?;
    let name = image::file_name(victim.pid());
    let folder = dir.file("live");
    dump(victim.pid(), &folder)?.expect(0, &[])?;
    let here = nix::sys::utsname::uname()?;
    let here = here.release().to_str().context("a release")?;
    let json = tool(&["decode", text(&folder.join(&name))?])?.out;
    let changed = |from: &str, to: &str| {
        let into = dir.file(to);
        ensure!(json.contains(from), "no {from}: {json}");
        fs::create_dir(&into)?;
        let file = into.join("state.json");
        fs::write(&file, json.replace(from, to))?;
        tool(&["encode", text(&file)?, "-o", text(&into.join(&name))?])?.expect(0, &[])?;
        Ok(into)
    };

    let kernel = changed(here, "5.10.0-28-amd64")?;
    let says = "1 process was dumped on another machine: under Linux 5.10.0-28-amd64, and this is ";
    for action in ["verify", "restore"] {
        let said = tool(&[action, "-D", text(&kernel)?])?;
        said.expect(0, &[says, here, "verdict=verified"])?;
        let said = tool(&[action, "-D", text(&folder)?])?;
        ensure!(!said.out.contains("another machine"), "{said:?}");
    }
    tool(&["show", "--stop", text(&kernel)?])?
        .expect(0, &["dumped on", "x86_64, Linux 5.10.0-28-amd64"])?;

    let architecture = changed("ARCH_X86_64", "ARCH_AARCH64")?;
    for args in [&["verify"][..], &["restore"], &["restore", "--force"]] {
        let args = [args, &["-D", text(&architecture)?]].concat();
        tool(&args)?.expect(
            2,
            &["the image was dumped on aarch64, and this machine is x86_64"],
        )?;
    }
    tool(&["show", "--stop", text(&architecture)?])?
        .expect(0, &["dumped on", "aarch64, Linux "])?;
    victim.finish(CHECK)
}

/// A thread that waited in a call waits in it, or it is said that it does not.
fn verify_waiters(dir: &RunDir) -> Result<()> {
    let victim = start("sigsuspend", None, dir)?;
    let folder = dir.file("live");
    dump(victim.pid(), &folder)?.expect(0, &[])?;
    let mut image = images(&folder)?.remove(0);
    let waiting = |t: &criu_signals::images::ThreadState| {
        t.interrupted
            .is_some_and(|call| i64::from(call.number) == nix::libc::SYS_rt_sigsuspend)
    };
    ensure!(
        image.process.threads.iter().any(waiting),
        "nobody waits in rt_sigsuspend"
    );
    verified(&["-D", text(&folder)?])?;
    // As if it had waited in another one.
    for thread in &mut image.process.threads {
        if waiting(thread)
            && let Some(call) = &mut thread.interrupted
        {
            call.number = u32::try_from(nix::libc::SYS_wait4)?;
        }
    }
    let other = dir.file("other");
    fs::create_dir(&other)?;
    let path = other.join(image::file_name(victim.pid()));
    image::write(File::create(path)?, &image)?;
    tool(&["verify", "-D", text(&other)?])?.expect(
        1,
        &[
            "interrupted call: dumped: wait4 (ERESTARTNOHAND)",
            "found: rt_sigsuspend (ERESTARTNOHAND)",
        ],
    )?;
    victim.finish(CHECK)
}

/// Changes the one image of a folder, and writes it into another folder.
fn changed(folder: &Path, other: &Path, change: impl FnOnce(&mut ProcessState)) -> Result<()> {
    let mut image = images(folder)?.remove(0);
    change(&mut image.process);
    fs::create_dir(other)?;
    let path = other.join(image::file_name(image.process.ids.innermost()));
    image::write(File::create(path)?, &image)?;
    Ok(())
}

/// Has the program make system calls, as it could by itself at any time.
fn has_called(pid: i32, calls: &[Call]) -> Result<()> {
    let pid = Pid::new(pid).context("a pid")?;
    let stopped = StoppedProcess::<ByUs>::seize(pid, PATIENCE)?;
    let mut injector = Injector::new(&stopped)?;
    let outcomes = injector.run(stopped.leader(), calls)?;
    injector.finish()?;
    stopped.release()?;
    outcomes
        .iter()
        .try_for_each(|outcome| outcome.check().map(drop))?;
    Ok(())
}

/// setitimer(2), with an interval and a first time in seconds.
fn setitimer(which: u32, interval: u64, first: u64) -> Call {
    let bytes: Vec<u8> = [interval, 0, first, 0]
        .iter()
        .flat_map(|n: &u64| n.to_le_bytes())
        .collect();
    Call::new(nix::libc::SYS_setitimer, "setitimer")
        .value(which.into())
        .input(bytes)
        .value(0)
}

/// The same call from another place of the program: the line says what differs.
fn verify_waiters_elsewhere(dir: &RunDir) -> Result<()> {
    let victim = start("sigsuspend", None, dir)?;
    let (folder, other) = (dir.file("live"), dir.file("other"));
    dump(victim.pid(), &folder)?.expect(0, &[])?;
    changed(&folder, &other, |process| {
        for thread in &mut process.threads {
            if let Some(call) = &mut thread.interrupted {
                call.ip += 0x10;
            }
        }
    })?;
    let said = tool(&["verify", "-D", text(&other)?])?;
    said.expect(
        1,
        &["interrupted call: dumped: rt_sigsuspend (ERESTARTNOHAND) at 0x"],
    )?;
    for line in said.out.lines().filter(|l| l.contains("interrupted call")) {
        let rest = line.split_once("dumped: ").context("what was dumped")?.1;
        let mut texts = rest.split("; ");
        let (dumped, found) = (texts.next(), texts.next());
        let found = found.and_then(|found| found.strip_prefix("found: "));
        ensure!(dumped.is_some() && dumped != found, "{line}");
    }
    victim.finish(CHECK)
}

/// What only clone(2) sets can't be put back.
fn verify_exit_signal(dir: &RunDir) -> Result<()> {
    let victim = start("masks", None, dir)?;
    let (folder, other) = (dir.file("live"), dir.file("other"));
    dump(victim.pid(), &folder)?.expect(0, &[])?;
    changed(&folder, &other, |process| {
        process.exit_signal = ExitSignal::new(10);
    })?;
    let line = "process exit signal: dumped: SIGUSR1; found: SIGCHLD";
    let other = text(&other)?;
    tool(&["verify", "-D", other])?.expect(1, &["verdict=differs", line])?;
    let line = format!("{line}; NOT put back");
    tool(&["restore", "-D", other])?
        .expect(1, &["verdict=failed", "differences=1 failures=1", &line])?;
    victim.finish(CHECK)
}

/// A timer that the program has made since.
fn verify_made_timer(dir: &RunDir) -> Result<()> {
    let victim = start("masks", None, dir)?;
    let folder = dir.file("live");
    dump(victim.pid(), &folder)?.expect(0, &[])?;
    let create = Call::new(nix::libc::SYS_timer_create, "timer_create")
        .value(1)
        .value(0)
        .output(4);
    has_called(victim.pid(), &[create])?;
    let line = "process timer 0: dumped: no such timer; found: SIGALRM value 0x0 to process, CLOCK_MONOTONIC";
    tool(&["verify", "-D", text(&folder)?])?.expect(1, &["verdict=differs", line])?;
    let delete = Call::new(nix::libc::SYS_timer_delete, "timer_delete").value(0);
    has_called(victim.pid(), &[delete])?;
    verified(&["-D", text(&folder)?])?;
    victim.finish(CHECK)
}

/// Another interval, one that is stopped, and one that is started: each is seen, and put back.
fn restore_interval_timers(dir: &RunDir) -> Result<()> {
    let victim = start("masks", None, dir)?;
    let pid = victim.pid();
    has_called(pid, &[setitimer(0, 500, 500), setitimer(1, 0, 1000)])?;
    let (folder, later) = (dir.file("live"), dir.file("later"));
    dump(pid, &folder)?.expect(0, &[])?;
    let (folder, of_later) = (text(&folder)?, text(&later)?);
    verified(&["-D", folder])?;
    has_called(
        pid,
        &[
            setitimer(0, 3, 3000),
            setitimer(1, 0, 0),
            setitimer(2, 7, 1000),
        ],
    )?;
    dump(pid, &later)?.expect(0, &[])?;
    // What is read anew for the timers does not hide that it was stopped.
    kill(nix::unistd::Pid::from_raw(pid), Signal::SIGSTOP)?;
    victim.wait_stopped()?;
    let lines = [
        "dumped: ITIMER_REAL interval 500000000000 ns, armed; found: ITIMER_REAL interval 3000000000 ns, armed",
        "dumped: ITIMER_VIRTUAL interval 0 ns, armed; found: ITIMER_VIRTUAL interval 0 ns, not armed",
        "dumped: ITIMER_PROF interval 0 ns, not armed; found: ITIMER_PROF interval 7000000000 ns, armed",
    ];
    for pair in [[folder, of_later], [folder, &pid.to_string()]] {
        let said = tool(&["diff", pair[0], pair[1]])?;
        said.expect(1, &["ITIMER_REAL interval 3000000000 ns, armed"])?;
        ensure!(
            said.out.matches("process interval timer").count() == 3,
            "{said:?}"
        );
    }
    let said = tool(&["verify", "-D", folder])?;
    said.expect(1, &["verdict=differs", "run state"])?;
    said.expect(1, &lines)?;
    ensure!(differences(&said).len() == 4, "{said:?}");
    let put_back = lines.map(|line| format!("{line}; put back"));
    let put_back = put_back.each_ref().map(String::as_str);
    let restored = tool(&["restore", "-D", folder])?;
    restored.expect(0, &["verdict=repaired", "run state", "failures=0"])?;
    restored.expect(0, &put_back)?;
    verified(&["-D", folder])?;
    let said = tool(&["diff", folder, &pid.to_string()])?;
    ensure!(!said.out.contains("interval timer"), "{said:?}");
    victim.finish(CHECK)
}

/// A periodic ITIMER_REAL whose SIGALRM is pending is armed by the delivery, and by nothing else.
fn restore_expired_interval_timer(dir: &RunDir) -> Result<()> {
    let victim = start("deep_queue", Some("3"), dir)?;
    let pid = victim.pid();
    let (folder, before) = (dir.file("live"), dir.file("before"));
    dump(pid, &before)?.expect(0, &[])?;
    ensure!(
        was_blocked(&before, SigNo::ALRM),
        "SIGALRM would be delivered"
    );
    let expires = Call::new(nix::libc::SYS_setitimer, "setitimer")
        .value(0)
        .input([500_u64, 0, 0, 1].map(u64::to_le_bytes).concat())
        .value(0);
    has_called(pid, &[expires])?;
    wait::until("SIGALRM", PATIENCE, || {
        let pid = Pid::new(pid).context("a pid")?;
        let status = SignalStatus::read(pid, pid.into())?;
        Ok(status.shared_pending.contains(SigNo::ALRM).then_some(()))
    })?;
    dump(pid, &folder)?.expect(0, &[])?;
    let folder = text(&folder)?;
    tool(&["restore", "--exact", "-D", text(&before)?])?.expect(
        0,
        &[
            "verdict=repaired",
            "found: ITIMER_REAL interval 500000000000 ns, not armed; put back",
        ],
    )?;
    has_called(pid, &[setitimer(0, 500, 500)])?;
    let armed = "found: ITIMER_REAL interval 500000000000 ns, armed";
    tool(&["verify", "-D", folder])?.expect(1, &[armed, "shared queue"])?;
    tool(&["restore", "-D", folder])?.expect(0, &["verdict=repaired", armed, "put back"])?;
    verified(&["-D", folder])?;
    tool(&["restore", "--exact", "-D", text(&before)?])?.expect(0, &["verdict=repaired"])?;
    victim.finish(CHECK)
}

fn recorded_owners(folder: &Path, pid: i32) -> Result<Vec<FileOwner>> {
    Ok(image::open(&folder.join(image::file_name(pid)))?
        .process
        .file_owners)
}

/// Owners that a dump by criu has recorded: one that is gone is seen, and set again; that of a file which is gone is seen.
fn restore_file_owners(dir: &RunDir) -> Result<()> {
    let victim = start("file_owners", None, dir)?;
    let pid = victim.pid();
    let live = dir.file("live");
    dump(pid, &live)?.expect(0, &[])?;
    // A dump of a live process does not look at files: that is said.
    let unknown = "SIGIO owners of files, of which the image records none";
    for action in ["verify", "restore"] {
        let said = tool(&[action, "-D", text(&live)?])?;
        said.expect(0, &["verdict=verified", "not compared: ", unknown])?;
    }
    let step = with_plugin()?.dump(pid, &dir.images(), true)?;
    ensure!(step.ok, "criu dump failed");
    let images = dir.images();
    let owners = recorded_owners(&images, pid)?;
    let owner = owners
        .iter()
        .find(|owner| owner.kind == OWNER_PROCESS)
        .context("no owner is recorded")?;
    let images = text(&images)?;
    let said = tool(&["verify", "-D", images])?;
    said.expect(0, &["verdict=verified"])?;
    ensure!(!said.out.contains(unknown), "{said:?}");
    let fcntl = |fd: i32, owner: i32| -> Result<Call> {
        Ok(Call::new(nix::libc::SYS_fcntl, "fcntl(F_SETOWN)")
            .value(fd.try_into()?)
            .value(nix::libc::F_SETOWN.try_into()?)
            .value(owner.try_into()?))
    };
    let line = format!(
        "process owner of file descriptor {}: dumped: process {pid} (uid 0 euid 0); found: nobody",
        owner.fd
    );
    has_called(pid, &[fcntl(owner.fd, 0)?, fcntl(owner.fd + 1, pid)?])?;
    // The other end of its socket.
    let other = format!(
        "process owner of file descriptor {}: dumped: nobody; found: process",
        owner.fd + 1
    );
    let said = tool(&["verify", "-D", images])?;
    said.expect(1, &["verdict=differs", &line, &other])?;
    ensure!(differences(&said).len() == 2, "{said:?}");
    let put_back = format!("{line}; put back");
    tool(&["restore", "-D", images])?.expect(0, &["verdict=repaired", &put_back, &other])?;
    verified(&["-D", images])?;
    let close = Call::new(nix::libc::SYS_close, "close").value(owner.fd.try_into()?);
    has_called(pid, &[close])?;
    let said = tool(&["verify", "-D", images])?;
    said.expect(1, &[&line])?;
    ensure!(differences(&said).len() == 1, "{said:?}");
    let not_put_back = format!("{line}; NOT put back");
    tool(&["restore", "-D", images])?
        .expect(1, &["verdict=failed", "failures=1", &not_put_back])?;
    victim.end();
    Ok(())
}

fn tree(dir: &RunDir) -> Result<()> {
    let victim = start("process_tree", None, dir)?;
    let folder = dir.file("live");
    let root = victim.pid().to_string();
    tool(&["dump", "-t", &root, "--tree", "-D", text(&folder)?])?.expect(0, &["3 processes"])?;
    let mut found: Vec<i32> = images(&folder)?
        .iter()
        .map(|i| i.process.ids.innermost())
        .collect();
    let mut expected = procfs::tree(victim.pid())?;
    found.sort_unstable();
    expected.sort_unstable();
    ensure!(
        found == expected,
        "{found:?} were dumped, and the tree is {expected:?}"
    );
    verified(&["-D", text(&folder)?])?;
    tool(&["restore", "-D", text(&folder)?])?.expect(0, &["verdict=verified"])?;
    // Of three images, one.
    tool(&["verify", "-D", text(&folder)?, "-t", &root])?.expect(0, &[&format!("pid {root}")])?;
    victim.finish(CHECK)
}

/// One image can't be written, so none is.
fn all_or_nothing(dir: &RunDir) -> Result<()> {
    let victim = start("process_tree", None, dir)?;
    let pids = procfs::tree(victim.pid())?;
    let folder = dir.file("live");
    fs::create_dir(&folder)?;
    let in_the_way = folder.join(image::file_name(pids[2]));
    fs::write(&in_the_way, "precious")?;
    let root = victim.pid().to_string();
    tool(&["dump", "-t", &root, "--tree", "-D", text(&folder)?])?.expect(2, &["exists already"])?;
    let left: Vec<_> = fs::read_dir(&folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    ensure!(left == [in_the_way.clone()], "{left:?} are there");
    ensure!(fs::read(&in_the_way)? == b"precious", "it was overwritten");
    // Nor does a folder stay that was made for nothing.
    let made = dir.file("made");
    tool(&["dump", "-t", "99999", "-D", text(&made)?])?
        .expect(2, &["there is no process 99999 in /proc"])?;
    ensure!(!made.exists(), "a folder was made for nothing");
    victim.finish(CHECK)
}

// ---- namespaces -----------------------------------------------------------------------------------------------------

/// Two processes that are 1 in pid namespaces of their own, beside this program, which is 1 in its own.
fn namespaces(dir: &RunDir) -> Result<()> {
    let mut victims = Vec::new();
    for name in ["a", "b"] {
        let run = RunDir::create(&dir.file(name))?;
        let victim = Victim::start(&config::victim("pidns", false), None, &run, true)?;
        let folder = run.file("live");
        let root = victim.pid().to_string();
        tool(&["dump", "-t", &root, "--tree", "-D", text(&folder)?])?
            .expect(0, &["2 processes"])?;
        victims.push((victim, folder));
    }
    let [(a, of_a), (b, of_b)] = victims.as_slice() else {
        bail!("two")
    };
    for (victim, folder) in [(a, of_a), (b, of_b)] {
        let ns = fs::metadata(format!("/proc/{}/ns/pid", victim.pid()))?.ino();
        let names = format!(
            "signals-1.img: pid {} (1 in pid namespace {ns})",
            victim.pid()
        );
        tool(&["verify", "-D", text(folder)?])?.expect(0, &[&names, "signals-2.img"])?;
        tool(&["restore", "-D", text(folder)?])?.expect(0, &[&names, "verdict=verified"])?;
    }
    // Into the other namespace: one mapping tells the whole of it. (In what order two processes have sent a third one
    // signals is another matter.)
    let map = format!("1:{}", b.pid());
    let names = format!("signals-1.img: pid {} (1 in pid namespace", b.pid());
    let said = tool(&["verify", "-D", text(of_a)?, "--map", &map])?;
    ensure!(
        said.out.contains(&names) && !said.out.contains("signals-2.img"),
        "only what is mapped is touched: {said:?}"
    );
    let said = tool(&["verify", "-D", text(of_a)?, "--map", &map, "--others"])?;
    let code = said
        .code
        .filter(|&code| code < 2)
        .context("verify failed")?;
    said.expect(code, &[&names, "signals-2.img"])?;
    // Both have images of one name.
    let both = Cgroup::create(Version::V2, dir)?;
    for pid in [a.pid(), b.pid()]
        .into_iter()
        .map(procfs::tree)
        .collect::<Result<Vec<_>>>()?
        .concat()
    {
        both.add(pid)?;
    }
    let folder = dir.file("both");
    tool(&["dump", "--cgroup", text(&both.dir)?, "-D", text(&folder)?])?.expect(
        2,
        &[
            "signals-",
            "in their own pid namespaces",
            "a folder of its own",
        ],
    )?;
    ensure!(!folder.exists(), "images were written");
    let of_a = of_a.clone();
    for (victim, _) in victims {
        victim.finish(CHECK)?;
    }
    // Its namespace is gone, and 1 is another process here, which is not taken for it.
    tool(&["verify", "-D", text(&of_a)?])?
        .expect(2, &["signals-1.img", "pid namespace", "--map 1:PID"])?;
    Ok(())
}

// ---- what can't be looked at ----------------------------------------------------------------------------------------

/// As by gdb or strace: by this program.
fn traced(dir: &RunDir) -> Result<()> {
    let victim = start("masks", None, dir)?;
    let pid = victim.pid();
    let stopped = StoppedProcess::<ByUs>::seize(Pid::new(pid).context("no pid")?, PATIENCE)?;
    let name = fs::read_to_string("/proc/self/comm")?;
    let by = format!("already traced by 1 ({})", name.trim());
    dump(pid, &dir.file("live"))?.expect(2, &[&format!("pid {pid}"), &by, "EPERM"])?;
    tool(&["show", "--stop", &pid.to_string()])?.expect(2, &[&by])?;
    stopped.release()?;
    dump(pid, &dir.file("live"))?.expect(0, &[])?;
    victim.finish(CHECK)
}

fn zombie(dir: &RunDir) -> Result<()> {
    let mut child = Command::new("/bin/true").spawn()?;
    let pid = i32::try_from(child.id())?;
    procfs::comes_to(pid, 'Z')?;
    let said = dump(pid, &dir.file("live"))?;
    said.expect(
        2,
        &[
            &format!("pid {pid}"),
            "the process has ended, and its parent has not waited for it",
        ],
    )?;
    child.wait()?;
    Ok(())
}

/// In uninterruptible sleep for as long as its child likes: nothing hangs, and when it wakes up it goes on.
fn vforked(dir: &RunDir) -> Result<()> {
    let victim = start("vfork", None, dir)?;
    let pid = victim.pid().to_string();
    let begun = Instant::now();
    let said = tool(&[
        "--timeout",
        "0.3",
        "dump",
        "-t",
        &pid,
        "-D",
        text(&dir.file("live"))?,
    ])?;
    said.expect(2, &["ETIMEDOUT", "uninterruptible sleep"])?;
    let took = begun.elapsed();
    ensure!(
        (Duration::from_millis(60)..PATIENCE).contains(&took),
        "it took {took:?}"
    );
    let said =
        "vfork: until its child has called exec or has ended); waited for a fifth of the time";
    tool(&["--timeout", "10", "show", "--stop", &pid])?.expect(2, &["ETIMEDOUT", said])?;
    victim.finish(CHECK)
}

/// It ends at some instant of being looked at, again and again.
fn gone(dir: &RunDir) -> Result<()> {
    let mut random = Random(u64::from(std::process::id()) + 7);
    let (mut rounds, mut ended_early) = (0, 0);
    let begun = Instant::now();
    // On a busy machine it may take a while until one is looked at that has not ended.
    while rounds < 40 || ended_early == 0 && begun.elapsed() < PATIENCE {
        rounds += 1;
        let mut child = Command::new("/bin/sleep").arg("60").spawn()?;
        let pid = i32::try_from(child.id())?;
        let command = spawn(&config::command()?, &["show", "--stop", &pid.to_string()]).spawn()?;
        std::thread::sleep(random.below(Duration::from_millis(12)));
        child.kill()?;
        let said = Said::wait(command)?;
        child.wait()?;
        if said.code == Some(0) {
            continue;
        }
        ended_early += 1;
        said.expect(2, &[&format!("pid {pid}"), "the task is gone"])?;
    }
    ensure!(ended_early > 0, "it never ended early: nothing was shown");
    dir.read("run");
    Ok(())
}

/// Threads and children come and go, and programs are executed, while it is looked at.
fn churn(how: &str, dir: &RunDir) -> Result<()> {
    let victim = start("churn", Some(how).filter(|how| !how.is_empty()), dir)?;
    let pid = victim.pid().to_string();
    let begun = Instant::now();
    let (mut whole, mut trees) = (0, 0);
    // Some seconds, and on a busy machine until enough has been seen.
    let enough = |whole, trees| whole > 10 && (trees > 5 || !how.is_empty());
    while begun.elapsed() < Duration::from_secs(5)
        || !enough(whole, trees) && begun.elapsed() < PATIENCE
    {
        let said = tool(&["show", "--stop", &pid])?;
        said.expect(0, &[])?;
        whole += 1;
        let folder = dir.file("live");
        if how.is_empty() {
            // One that is there when it is stopped may be killed by its parent before that is.
            let said = tool(&["dump", "-t", &pid, "--tree", "-D", text(&folder)?])?;
            if said.code == Some(0) {
                trees += 1;
                fs::remove_dir_all(&folder)?;
            } else {
                said.expect(2, &["the task is gone"])?;
            }
        } else {
            tool(&["cat", &format!("{pid}/action")])?.expect(0, &[])?;
            tool(&["dump", "-t", &pid, "-D", text(&folder)?])?.expect(0, &["1 process"])?;
            fs::remove_dir_all(&folder)?;
        }
    }
    ensure!(enough(whole, trees), "{whole} and {trees} looks were all");
    victim.finish(CHECK)
}

/// A thread in execve(2) that waits for another one, whose tracer does not want to know that it has ended: whoever would
/// trace the process waits as well (ptrace_attach), and not longer than he likes.
fn exec_held(dir: &RunDir) -> Result<()> {
    let victim = start("churn", Some("exec"), dir)?;
    let pid = victim.pid();
    let held = wait::until("an execve that waits", PATIENCE, || {
        let other = procfs::tasks(pid)?.into_iter().find(|&tid| tid != pid);
        let Some(tid) = other else { return Ok(None) };
        let raw = nix::unistd::Pid::from_raw(tid);
        if nix::sys::ptrace::seize(raw, nix::sys::ptrace::Options::empty()).is_err() {
            return Ok(None);
        }
        let ended = || Ok((procfs::state(tid) == Some('Z')).then_some(()));
        if wait::until("its end", Duration::from_secs(2), ended).is_ok() {
            return Ok(Some(raw));
        }
        // It was the leader by then.
        nix::sys::ptrace::detach(raw, None).ok();
        Ok(None)
    })?;
    let begun = Instant::now();
    for args in [&["show", "--stop"][..], &["cat"]] {
        let what = if args == ["cat"] {
            format!("{pid}/action")
        } else {
            pid.to_string()
        };
        let said = tool(&[&["--timeout", "0.3"], args, &[&what]].concat())?;
        said.expect(2, &["ETIMEDOUT", "execve", &format!("pid {pid}")])?;
    }
    let took = begun.elapsed();
    ensure!(took < Duration::from_secs(5), "it took {took:?}");
    nix::sys::wait::waitpid(held, Some(nix::sys::wait::WaitPidFlag::__WALL))?;
    tool(&["show", "--stop", &pid.to_string()])?.expect(0, &[])?;
    victim.finish(CHECK)
}

/// Of one's own uid, without any capability.
fn own_uid(_: &RunDir) -> Result<()> {
    let nobody = Nobodys::new()?;
    let victim = nobody.start("shared_queue", None)?;
    let pid = victim.pid().to_string();
    nobody
        .tool(&["show", "--stop", &pid])?
        .expect(0, &["SIG"])?;
    nobody
        .tool(&["dump", "-t", &pid, "-D", nobody.file("live")?.as_str()])?
        .expect(0, &[])?;
    nobody
        .tool(&["verify", "-D", nobody.file("live")?.as_str()])?
        .expect(0, &["verdict=verified"])?;
    nobody
        .tool(&["restore", "-D", nobody.file("live")?.as_str()])?
        .expect(0, &["verdict=verified"])?;
    nobody.tool(&["show", "1"])?.expect(2, &["EPERM"])?;
    victim.finish(CHECK)
}

/// Root suspends the filter for the time of it.
fn seccomp(mode: &str, dir: &RunDir) -> Result<()> {
    let victim = start("seccomp", Some(mode), dir)?;
    let child = dir.read("child");
    tool(&["show", "--stop", &child])?.expect(0, &["SIGUSR1"])?;
    dump(child.parse()?, &dir.file("live"))?.expect(0, &[])?;
    victim.finish(CHECK)
}

/// Without CAP_SYS_ADMIN it is refused: a call that is made inside would end the process.
fn seccomp_as_nobody(mode: &str, _: &RunDir) -> Result<()> {
    let nobody = Nobodys::new()?;
    let victim = nobody.start("seccomp", Some(mode))?;
    let child = nobody.dir.read("child");
    let what = if mode == "strict" {
        "seccomp's strict mode"
    } else {
        "a seccomp filter"
    };
    for _ in 0..20 {
        nobody
            .tool(&["show", "--stop", &child])?
            .expect(2, &[&format!("pid {child}"), what, "CAP_SYS_ADMIN"])?;
    }
    victim.finish(CHECK)
}

/// A folder that nobody can reach, with copies of what is run in it.
struct Nobodys {
    dir: RunDir,
}

impl Nobodys {
    fn new() -> Result<Nobodys> {
        // In the namespace all are pid 1: the name is that of the run, outside.
        let unique = File::open("/proc/self/ns/pid")?.metadata()?.ino();
        let path = std::env::temp_dir().join(format!("criu-tests-live-{unique}"));
        let dir = RunDir::create(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        fs::copy(config::command()?, dir.file("criu-signals"))?;
        Ok(Nobodys { dir })
    }

    fn file(&self, name: &str) -> Result<String> {
        Ok(text(&self.dir.file(name))?.to_owned())
    }

    fn start(&self, program: &str, arg: Option<&str>) -> Result<Victim> {
        let copy = self.dir.file(program);
        fs::copy(config::victim(program, false), &copy)?;
        let child = Command::new(copy)
            .arg(self.dir.path())
            .args(arg)
            .stdin(Stdio::null())
            .current_dir("/")
            .uid(NOBODY)
            .gid(NOBODY)
            .spawn()?;
        let victim = Victim::restored(i32::try_from(child.id())?, &self.dir);
        let ready = self.dir.file("ready");
        wait::until("the victim", PATIENCE, || Ok(ready.exists().then_some(())))?;
        Ok(victim)
    }

    fn tool(&self, args: &[&str]) -> Result<Said> {
        let mut command = spawn(&self.dir.file("criu-signals"), args);
        Said::wait(command.current_dir("/").uid(NOBODY).gid(NOBODY).spawn()?)
    }
}

impl Drop for Nobodys {
    fn drop(&mut self) {
        let _ = self.dir.clone().remove();
    }
}

// ---- nothing shows --------------------------------------------------------------------------------------------------

fn number(name: &str, default: u32) -> Result<u32> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| name.to_owned()),
        Err(_) => Ok(default),
    }
}

/// A program that would notice anything is looked at over and over; and its stopped child, which stays stopped.
fn invisible(dir: &RunDir) -> Result<()> {
    let shows = number("SHOWS", DEFAULT_SHOWS)?;
    let victim = start("vigilant", None, dir)?;
    let children = dir.read("children");
    let mut pids = vec![victim.pid()];
    for child in children.split_whitespace() {
        pids.push(child.parse()?);
    }
    for round in 0..shows {
        let pid = pids[if round % 4 == 3 {
            1 + round as usize / 4 % 2
        } else {
            0
        }];
        if round % BY_COMMAND == 0 {
            tool(&["show", "--stop", &pid.to_string()])?.expect(0, &[])?;
        } else {
            let stopped =
                StoppedProcess::<ByUs>::seize(Pid::new(pid).context("no pid")?, PATIENCE)?;
            capture::process(&stopped)?;
            stopped.release()?;
        }
        ensure!(
            dir.read("out").is_empty(),
            "round {round}: {}",
            dir.read("out")
        );
    }
    println!("{shows} looks");
    victim.finish(CHECK)
}

/// A program under a filter that allows next to nothing: what its thread would do by itself if its tracer died would end
/// it. Who is killed is not its tracer.
fn killed_front_of_show(dir: &RunDir) -> Result<()> {
    let kills = number("KILLS", DEFAULT_KILLS)?;
    let victim = start("seccomp", Some("filter"), dir)?;
    let child = dir.read("child");
    let mut random = Random(u64::from(std::process::id()) + 2000 + u64::from(kills));
    let mut at_work = 0;
    for round in 0..kills {
        let mut command = spawn(&config::command()?, &["show", "--stop", &child])
            .stdout(Stdio::null())
            .spawn()?;
        std::thread::sleep(random.below(Duration::from_millis(12)));
        at_work += u32::from(kill_front(&mut command)?);
        ensure!(
            !matches!(procfs::state(child.parse()?), None | Some('Z')),
            "round {round}: the program is gone"
        );
    }
    println!("{at_work} of {kills} were killed while it was worked on");
    ensure!(
        at_work > 0,
        "nobody was ever killed in the middle: nothing was shown"
    );
    victim.finish(CHECK)
}

/// Of two states one is restored and then the other, and whoever restores is killed: it is one of them, whole.
fn killed_front_of_restore(dir: &RunDir) -> Result<()> {
    let kills = number("KILLS", DEFAULT_KILLS)?;
    let victim = start("many_threads", Some("8"), dir)?;
    let pid = victim.pid();
    let (one, other) = (dir.file("one"), dir.file("other"));
    dump(pid, &one)?.expect(0, &[])?;
    let mut image = images(&one)?.remove(0);
    let process = &mut image.process;
    for signo in [SigNo::USR1, SigNo::USR2] {
        process.dispositions[signo].mask = process.dispositions[signo].mask.with(SigNo::HUP);
    }
    for thread in &mut process.threads {
        thread.blocked = thread.blocked.with(SigNo::WINCH).with(SigNo::PWR);
        thread.altstack = AltStack::DISABLED;
        let fields = Fields::Value {
            pid: 1,
            uid: 0,
            value: 7,
        };
        let info = Siginfo::from_fields(SigNo::PWR.get(), 0, -1, &fields);
        thread.pending.queue.insert(0, info);
        thread.pending.bits.insert(SigNo::PWR);
    }
    fs::create_dir(&other)?;
    image::create_in(File::open(&other)?.as_fd(), &image)?;
    let folders = [&one, &other].map(|folder| text(folder));
    let [one, other] = folders;
    let folders = [one?, other?];
    let restore = |folder: &str| tool(&["restore", "--exact", "-D", folder]);
    restore(folders[1])?.expect(0, &["verdict=repaired"])?;
    restore(folders[0])?.expect(0, &["verdict=repaired"])?;
    let mut random = Random(u64::from(std::process::id()) + 3000 + u64::from(kills));
    let (mut at_work, mut found) = (0, [0, 0]);
    let mut is = 0;
    for round in 0..kills {
        let mut command = spawn(
            &config::command()?,
            &["restore", "--exact", "-D", folders[1 - is]],
        )
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
        std::thread::sleep(random.below(Duration::from_millis(40)));
        at_work += u32::from(kill_front(&mut command)?);
        let verify = |folder: &str| tool(&["verify", "-D", folder]);
        if verify(folders[is])?.code != Some(0) {
            is = 1 - is;
            verify(folders[is])?
                .expect(0, &["verdict=verified"])
                .with_context(|| format!("round {round}: it is neither of both"))?;
        }
        found[is] += 1;
    }
    println!("{at_work} of {kills} were killed at work; found {found:?}");
    ensure!(
        at_work > 0 && found.iter().all(|&n| n > 0),
        "nothing was shown: {at_work} killed at work, {found:?}"
    );
    restore(folders[0])?.expect(0, &[])?;
    victim.finish(CHECK)
}

/// The command is killed at any instant of `show`, and whoever works for it.
fn killed_show(dir: &RunDir) -> Result<()> {
    let kills = number("KILLS", DEFAULT_KILLS)?;
    let victim = start("vigilant", Some("killed"), dir)?;
    let pid = victim.pid().to_string();
    let mut random = Random(u64::from(std::process::id()) + kills as u64);
    for round in 0..kills {
        let mut command = spawn(&config::command()?, &["show", "--stop", &pid])
            .stdout(Stdio::null())
            .spawn()?;
        std::thread::sleep(random.below(Duration::from_millis(25)));
        kill_all(&mut command)?;
        ensure!(
            dir.read("out").is_empty(),
            "round {round}: {}",
            dir.read("out")
        );
    }
    few_interrupted(victim, "show and its worker", kills, dir)
}

// ---- cgroups --------------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// A cgroup with another one in it. Removed when dropped, when its processes have ended.
struct Cgroup {
    version: Version,
    dir: PathBuf,
}

impl Cgroup {
    fn create(version: Version, run: &RunDir) -> Result<Cgroup> {
        let mount = skip::freezer(version == Version::V2)
            .with_context(|| format!("no freezer of cgroup {version:?} is mounted"))?;
        // Other runs of this test are on this machine.
        let unique = fs::metadata(run.path())?.ino();
        let dir = mount.join(format!("criu-tests-live-{unique}"));
        fs::create_dir_all(dir.join("inner"))?;
        Ok(Cgroup { version, dir })
    }

    fn inner(&self) -> PathBuf {
        self.dir.join("inner")
    }

    fn add(&self, pid: i32) -> Result<()> {
        fs::write(self.dir.join("cgroup.procs"), pid.to_string()).context("cgroup.procs")
    }

    fn add_inner(&self, pid: i32) -> Result<()> {
        fs::write(self.inner().join("cgroup.procs"), pid.to_string()).context("cgroup.procs")
    }

    fn freeze(&self, dir: &Path, frozen: bool) -> Result<()> {
        match (self.version, frozen) {
            (Version::V1, true) => fs::write(dir.join("freezer.state"), "FROZEN"),
            (Version::V1, false) => fs::write(dir.join("freezer.state"), "THAWED"),
            (Version::V2, frozen) => {
                fs::write(dir.join("cgroup.freeze"), if frozen { "1" } else { "0" })
            }
        }
        .context("freezing")?;
        wait::until("the freezer", PATIENCE, || {
            Ok((self.is_frozen(dir)? == frozen).then_some(()))
        })
    }

    /// Waits for the companion of a command that was killed, which may yet freeze or thaw: it holds the lock until then.
    fn settle(&self) -> Result<()> {
        let lock = Flock::lock(File::open(&self.dir)?, FlockArg::LockExclusive);
        drop(lock.map_err(|(_, errno)| errno)?);
        Ok(())
    }

    fn is_frozen(&self, dir: &Path) -> Result<bool> {
        Ok(match self.version {
            Version::V1 => fs::read_to_string(dir.join("freezer.state"))?.trim() != "THAWED",
            // It takes a moment until that is so.
            Version::V2 => {
                fs::read_to_string(dir.join("cgroup.freeze"))?.trim() == "1"
                    || fs::read_to_string(dir.join("cgroup.events"))?.contains("frozen 1")
            }
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let begun = Instant::now();
        let inner = self.inner();
        for dir in [&self.dir, &inner] {
            let _ = self.freeze(dir, false);
        }
        for dir in [&inner, &self.dir] {
            while fs::remove_dir(dir).is_err() && begun.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Programs in a cgroup and in one inside it: all are dumped, and each freezer is as before.
fn cgroup_dump(version: Version, dir: &RunDir) -> Result<()> {
    let cgroup = Cgroup::create(version, dir)?;
    let mut victims = Vec::new();
    for (number, program) in ["vigilant", "masks", "shared_queue", "sigsuspend"]
        .into_iter()
        .enumerate()
    {
        let run = RunDir::create(&dir.file(program))?;
        let victim = start(program, None, &run)?;
        for pid in procfs::tree(victim.pid())? {
            if number % 2 == 0 {
                cgroup.add(pid)?;
            } else {
                cgroup.add_inner(pid)?;
            }
        }
        victims.push(victim);
    }
    let (outer, inner) = (cgroup.dir.clone(), cgroup.inner());
    let mut dumps = 0;
    let mut dump_all = |what: &Path, processes: &str| -> Result<PathBuf> {
        dumps += 1;
        let folder = dir.file(&format!("live-{dumps}"));
        tool(&["dump", "--cgroup", text(what)?, "-D", text(&folder)?])?.expect(0, &[processes])?;
        Ok(folder)
    };
    for _ in 0..20 {
        dump_all(&outer, "6 processes")?;
        ensure!(!cgroup.is_frozen(&outer)?, "it stays frozen");
    }
    dump_all(&inner, "2 processes")?;
    // By the name that /proc/PID/cgroup gives.
    let name = PathBuf::from("/").join(outer.file_name().context("a name")?);
    let folder = dump_all(&name, "6 processes")?;
    let masks = victims[1].pid().to_string();
    verified(&["-D", text(&folder)?, "-t", &masks])?;

    cgroup.freeze(&inner, true)?;
    dump_all(&outer, "6 processes")?;
    ensure!(
        cgroup.is_frozen(&inner)?,
        "the inner one does not stay frozen"
    );
    ensure!(!cgroup.is_frozen(&outer)?, "the outer one stays frozen");
    cgroup.freeze(&inner, false)?;

    cgroup.freeze(&outer, true)?;
    dump_all(&outer, "6 processes")?;
    ensure!(cgroup.is_frozen(&outer)?, "it does not stay frozen");
    tool(&[
        "dump",
        "--cgroup",
        text(&inner)?,
        "-D",
        text(&dir.file("not"))?,
    ])?
    .expect(2, &["a parent cgroup is frozen"])?;
    cgroup.freeze(&outer, false)?;
    for victim in victims {
        victim.finish(CHECK)?;
    }
    Ok(())
}

/// Each process of the cgroup is compared with its image, also where the pid namespace has another number, and whatever the
/// freezer does. A process without an image and an image without a process are differences.
/// The programs sleep 20 ms at a time.
fn is_as_dumped(said: &Said) -> Result<()> {
    ensure!(
        differences(said).is_empty() && said.out.contains("verdict="),
        "{said:?}"
    );
    Ok(())
}

fn cgroup_verify(version: Version, dir: &RunDir) -> Result<()> {
    let cgroup = Cgroup::create(version, dir)?;
    let mut victims = Vec::new();
    for program in ["masks", "shared_queue", "sigsuspend"] {
        let run = RunDir::create(&dir.file(program))?;
        let victim = start(program, None, &run)?;
        cgroup.add(victim.pid())?;
        victims.push(victim);
    }
    let what = text(&cgroup.dir)?.to_owned();
    let folder = dir.file("live");
    let verify = |folder: &Path| tool(&["verify", "-D", text(folder)?, "--cgroup", &what]);
    tool(&["dump", "--cgroup", &what, "-D", text(&folder)?])?.expect(0, &["3 processes"])?;
    let all = verify(&folder)?;
    is_as_dumped(&all)?;
    ensure!(all.out.matches("verdict=").count() == 3, "{all:?}");
    cgroup.freeze(&cgroup.dir, true)?;
    let frozen = verify(&folder);
    ensure!(cgroup.is_frozen(&cgroup.dir)?, "it does not stay frozen");
    cgroup.freeze(&cgroup.dir, false)?;
    is_as_dumped(&frozen?)?;

    let [first, second, third] = [0, 1, 2].map(|at| victims[at].pid());
    let alone = dir.file("alone");
    dump(first, &dir.file("first"))?.expect(0, &[])?;
    changed(&dir.file("first"), &alone, |process| process.pid_ns = 1)?;
    tool(&["verify", "-D", text(&alone)?])?.expect(2, &["no accessible process"])?;
    let said = verify(&alone)?;
    said.expect(
        1,
        &[&format!("signals-{first}.img: pid {first}"), "verdict="],
    )?;
    for (pid, comm) in [(second, "shared_queue"), (third, "sigsuspend")] {
        said.expect(1, &[&format!("pid {pid} ({comm}): no image belongs")])?;
    }
    cgroup.add_inner(third)?;
    let inner = text(&cgroup.inner())?.to_owned();
    let said = tool(&["verify", "-D", text(&folder)?, "--cgroup", &inner])?;
    for absent in [first, second] {
        said.expect(
            1,
            &[&format!(
                "signals-{absent}.img: no process of the cgroup has this pid"
            )],
        )?;
    }
    ensure!(
        said.out.matches("verdict=verified").count() == 1,
        "{said:?}"
    );
    let map = format!("{second}:{third}");
    tool(&[
        "verify",
        "-D",
        text(&folder)?,
        "--cgroup",
        &inner,
        "--map",
        &map,
    ])?
    .expect(
        1,
        &[
            &format!("signals-{second}.img: pid {third}"),
            "verdict=differs",
        ],
    )?;
    tool(&["verify", "-D", text(&alone)?, "--cgroup", &inner])?.expect(
        2,
        &["no process of the cgroup has the pid of an image", "--map"],
    )?;
    for victim in victims {
        victim.finish(CHECK)?;
    }
    Ok(())
}

/// A parent in vfork(2) waits for a child that the freezer holds: they are let go until the child is through, or the time.
fn cgroup_vfork(version: Version, dir: &RunDir) -> Result<()> {
    let cgroup = Cgroup::create(version, dir)?;
    let victim = start("vfork", None, dir)?;
    for pid in procfs::tree(victim.pid())? {
        cgroup.add(pid)?;
    }
    let folder = dir.file("live");
    let args = ["dump", "--cgroup", text(&cgroup.dir)?, "-D", text(&folder)?];
    tool(&[&["--timeout", "0.5"], &args[..]].concat())?.expect(2, &["ETIMEDOUT", "vfork"])?;
    ensure!(!cgroup.is_frozen(&cgroup.dir)?, "it stays frozen");
    // Now the child is told to end, some time after the dump has begun.
    let command = spawn(&config::command()?, &args).spawn()?;
    std::thread::sleep(Duration::from_millis(300));
    let ended = victim.finish(CHECK);
    let said = Said::wait(command)?;
    // The parent ends soon after its child: it may have been dumped, or nobody may be left.
    ensure!(matches!(said.code, Some(0 | 2)), "{said:?}");
    ended
}

fn cgroup_refused(version: Version, dir: &RunDir) -> Result<()> {
    let cgroup = Cgroup::create(version, dir)?;
    let folder = dir.file("live");
    let dump = |what: &Path| tool(&["dump", "--cgroup", text(what)?, "-D", text(&folder)?]);
    dump(&cgroup.dir)?.expect(2, &["no process to stop"])?;
    dump(cgroup.dir.parent().context("the root")?)?
        .expect(2, &["the root cgroup can't be frozen"])?;
    dump(Path::new("/no/such"))?.expect(2, &["no such cgroup"])?;
    // One of them can't be stopped: nobody is.
    let runs = ["masks", "shared_queue"].map(|name| (name, RunDir::create(&dir.file(name))));
    let mut victims = Vec::new();
    for (name, run) in runs {
        let victim = start(name, None, &run?)?;
        cgroup.add(victim.pid())?;
        victims.push(victim);
    }
    let traced =
        StoppedProcess::<ByUs>::seize(Pid::new(victims[1].pid()).context("no pid")?, PATIENCE)?;
    dump(&cgroup.dir)?.expect(2, &["already traced"])?;
    ensure!(!cgroup.is_frozen(&cgroup.dir)?, "it stays frozen");
    traced.release()?;
    ensure!(!folder.exists(), "images were written");
    // The command itself is in it.
    let mut command = spawn(
        Path::new("/bin/sh"),
        &[
            "-c",
            "echo $$ > $1/cgroup.procs && exec $2 dump --cgroup $1 -D $3",
            "sh",
        ],
    );
    command.args([&cgroup.dir, &config::command()?, &folder]);
    Said::wait(command.spawn()?)?.expect(2, &["this program is in the cgroup"])?;
    ensure!(!cgroup.is_frozen(&cgroup.dir)?, "it is frozen");
    for victim in victims {
        victim.finish(CHECK)?;
    }
    Ok(())
}

/// Frozen by somebody else, running or stopped: nothing can be executed in it, which is said in the time that there is for
/// it, and nothing has become of it when it is thawed.
fn cgroup_frozen(version: Version, dir: &RunDir) -> Result<()> {
    let cgroup = Cgroup::create(version, dir)?;
    let victim = start("masks", None, dir)?;
    let (pid, raw) = (victim.pid(), nix::unistd::Pid::from_raw(victim.pid()));
    cgroup.add(pid)?;
    let shown = pid.to_string();
    for stopped in [false, true] {
        if stopped {
            kill(raw, Signal::SIGSTOP)?;
            victim.wait_stopped()?;
        }
        cgroup.freeze(&cgroup.dir, true)?;
        let begun = Instant::now();
        tool(&["--timeout", "0.3", "show", "--stop", &shown])?.expect(2, &["ETIMEDOUT", &shown])?;
        let took = begun.elapsed();
        ensure!(took < Duration::from_secs(3), "it took {took:?}");
        cgroup.freeze(&cgroup.dir, false)?;
        tool(&["show", "--stop", &shown])?.expect(0, &[])?;
        if stopped {
            victim.wait_stopped()?;
            victim.resume()?;
        }
    }
    victim.finish(CHECK)
}

/// A process that executes another program while others are being stopped is not restored: root would put what its user
/// has chosen into a set-user-id program. `--force` is for what was listed, and makes no difference.
fn changed_meanwhile(dir: &RunDir) -> Result<()> {
    for force in [false, true] {
        let run = RunDir::create(&dir.file(if force { "forced" } else { "plain" }))?;
        let victim = start("changeling", None, &run)?;
        let second: i32 = run.read("second").trim().parse()?;
        let (first, images) = (victim.pid().to_string(), run.file("live"));
        let args = ["dump", "-t", &first, "--tree", "-D", text(&images)?];
        tool(&args)?.expect(0, &["2 processes"])?;
        fs::write(run.file("slow"), "")?;
        wait::until("the first to be in vfork(2)", PATIENCE, || {
            Ok((procfs::state(victim.pid()) == Some('D')).then_some(()))
        })?;
        let mut args = vec!["restore", "-D", text(&images)?];
        args.extend(force.then_some("--force"));
        let shown = format!("pid {second}");
        tool(&args)?.expect(2, &["executes another program since it was found", &shown])?;
        ensure!(procfs::name(second).as_deref() == Some("sleep"));
        victim.end();
    }
    Ok(())
}

const FREEZES: u32 = 60;

/// It is frozen at any instant of being looked at: whoever looks ends, and the program has what it had.
fn cgroup_freezing(version: Version, dir: &RunDir) -> Result<()> {
    let cgroup = Cgroup::create(version, dir)?;
    let victim = start("busy", None, dir)?;
    let pid = victim.pid();
    cgroup.add(pid)?;
    let before = masks(pid)?;
    let mut random = Random(u64::from(std::process::id()) + 4000);
    let mut late = 0;
    for round in 0..FREEZES {
        let shown = pid.to_string();
        let command = spawn(
            &config::command()?,
            &["--timeout", "0.2", "show", "--stop", &shown],
        )
        .spawn()?;
        std::thread::sleep(random.below(Duration::from_millis(12)));
        cgroup.freeze(&cgroup.dir, true)?;
        let begun = Instant::now();
        let said = Said::wait(command)?;
        let took = begun.elapsed();
        ensure!(
            took < Duration::from_secs(3),
            "round {round}: it took {took:?}"
        );
        if said.code != Some(0) {
            late += 1;
            said.expect(2, &["ETIMEDOUT"])
                .with_context(|| format!("round {round}"))?;
        }
        cgroup.freeze(&cgroup.dir, false)?;
        ensure!(
            !matches!(procfs::state(pid), None | Some('Z')),
            "round {round}: the program is gone; {}",
            said.err
        );
    }
    println!("{late} of {FREEZES} looks came too late");
    ensure!(late > 0, "it was never frozen in time: nothing was shown");
    // A thread that was frozen in the middle of a visit goes back by itself when it runs again.
    wait::until("the threads to be back in the program", PATIENCE, || {
        Ok((masks(pid)? == before).then_some(()))
    })?;
    victim.finish(CHECK)
}

/// The masks of all threads, as their status has them.
fn masks(pid: i32) -> Result<Vec<String>> {
    let mut masks = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let mask = status.lines().find(|line| line.starts_with("SigBlk:"));
        masks.push(mask.context("no SigBlk")?.to_owned());
    }
    Ok(masks)
}

/// The command is killed at any instant of a cgroup's dump: it does not stay frozen, or is so again if it was; and no
/// program in it notices.
fn killed_dump(version: Version, dir: &RunDir) -> Result<()> {
    let kills = number("KILLS", DEFAULT_KILLS)?;
    let cgroup = Cgroup::create(version, dir)?;
    let victim = start("vigilant", Some("killed"), dir)?;
    for pid in procfs::tree(victim.pid())? {
        cgroup.add(pid)?;
    }
    let mut random = Random(u64::from(std::process::id()) + 1000 + u64::from(kills));
    let mut found_frozen = 0;
    for round in 0..kills {
        let folder = dir.file("live");
        let args = ["dump", "--cgroup", text(&cgroup.dir)?, "-D", text(&folder)?];
        let mut command = spawn(&config::command()?, &args)
            .stdout(Stdio::null())
            .spawn()?;
        std::thread::sleep(random.below(Duration::from_millis(30)));
        kill_all(&mut command)?;
        found_frozen += u32::from(cgroup.is_frozen(&cgroup.dir)?);
        wait::until("the cgroup to be thawed", PATIENCE, || {
            Ok((!cgroup.is_frozen(&cgroup.dir)?).then_some(()))
        })
        .with_context(|| format!("round {round}"))?;
        ensure!(
            dir.read("out").is_empty(),
            "round {round}: {}",
            dir.read("out")
        );
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
    }
    println!("killed {kills} times, {found_frozen} times with the cgroup frozen");
    // One that was frozen before is frozen afterwards.
    cgroup.settle()?;
    for _ in 0..kills / 10 {
        cgroup.freeze(&cgroup.dir, true)?;
        let folder = dir.file("live");
        let args = ["dump", "--cgroup", text(&cgroup.dir)?, "-D", text(&folder)?];
        let mut command = spawn(&config::command()?, &args)
            .stdout(Stdio::null())
            .spawn()?;
        std::thread::sleep(random.below(Duration::from_millis(30)));
        kill_all(&mut command)?;
        wait::until("the cgroup to be frozen again", PATIENCE, || {
            Ok(cgroup.is_frozen(&cgroup.dir)?.then_some(()))
        })?;
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        cgroup.settle()?;
        cgroup.freeze(&cgroup.dir, false)?;
    }
    let whom = format!("dump --cgroup ({version:?}) and its worker");
    few_interrupted(victim, &whom, kills + kills / 10, dir)
}

/// Of calls that Linux ends with EINTR after any stop a few may do so: those of a thread that had stopped a moment ago
/// when the command was killed.
fn few_interrupted(victim: Victim, whom: &str, kills: u32, dir: &RunDir) -> Result<()> {
    finish_killed(victim, whom, kills, dir)?;
    let interrupted: u32 = dir.read("interrupted").parse().context("interrupted")?;
    println!("of {kills} kills {interrupted} had a call end with EINTR");
    ensure!(
        interrupted <= kills / 10,
        "{interrupted} calls ended with EINTR in {kills} kills"
    );
    Ok(())
}
