//! Programs in states in which reading them could harm them, hang, or give wrong results: each is read without harm, or
//! refused before it is touched.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use criu_tests::cases::{self, CHECK, Test, expect_line, start, test, with_plugin};
use criu_tests::config;
use criu_tests::procfs::{self, Pid};
use criu_tests::random::Random;
use criu_tests::rundir::RunDir;
use criu_tests::served::{InExecve, MemoryLocked, Silent};
use criu_tests::skip::Need;
use criu_tests::victim::Victim;
use criu_tests::wait::{self, PATIENCE};
use criu_tests::work::kill_all;
use nix::mount::{MsFlags, mount};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid as Raw;

/// How often the command is killed at a program under Syscall User Dispatch.
const KILLS: u32 = 60;

fn main() -> ExitCode {
    cases::main("obstacles", tests)
}

fn tests() -> Vec<Test> {
    vec![
        test("dispatch.show", dispatch_show),
        test("dispatch.killed", dispatch_killed),
        test("dispatch.no-selector", dispatch_bare),
        test("dispatch.criu", dispatch_criu),
        test("leaderless.show", leaderless_show),
        test("leaderless.killed", leaderless_killed),
        test("leaderless.cgroup", leaderless_cgroup).needs(&[Need::FreezerV2]),
        test("growing-queue", growing_queue),
        test("in-handler.dumped", in_handler_dumped),
        test("in-handler.restored", in_handler_restored),
        test("other-restorer", other_restorer),
        test("ring.show", ring_show).needs(&[Need::IoUring]),
        test("served-code.show", served_code_show).needs(&[Need::Fuse]),
        test("served-code.criu", served_code_criu).needs(&[Need::Fuse]),
        test("in-execve.command", in_execve_command).needs(&[Need::Fuse]),
        test("in-execve.images", in_execve_images).needs(&[Need::Fuse]),
        test("in-execve.tree", in_execve_tree).needs(&[Need::Fuse]),
        test("in-execve.criu", in_execve_criu).needs(&[Need::Fuse]),
        test("memory-locked.command", memory_locked_command).needs(&[Need::Fuse]),
        test("memory-locked.tree", memory_locked_tree).needs(&[Need::Fuse]),
        test("long-mode.show", long_mode_show).needs(&[Need::Ia32]),
        test("executing.criu", executing_criu),
        test("siblings.show", siblings_show),
        test("thread-zombie.criu", thread_zombie_criu),
        probed("probed.show", |victim, _| probed_show(victim)),
        probed("probed.killed", |victim, _| probed_killed(victim)),
        probed("probed.criu", probed_criu),
    ]
}

/// Exit code, and what the command has printed.
struct Said(Option<i32>, String);

impl Said {
    fn expect(&self, code: i32, parts: &[&str]) -> Result<()> {
        let Said(found, all) = self;
        ensure!(
            *found == Some(code) && parts.iter().all(|part| all.contains(part)),
            "expected exit code {code} and {parts:?}: {found:?}: {all}"
        );
        Ok(())
    }
}

fn spawn(args: &[&str]) -> Result<Child> {
    Ok(Command::new(config::command()?)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?)
}

fn tool(args: &[&str]) -> Result<Said> {
    let mut child = spawn(args)?;
    let ended = wait::until("criu-signals", PATIENCE / 3, || Ok(child.try_wait()?));
    if let Err(e) = ended {
        kill_all(&mut child)?;
        return Err(e.context(format!("{args:?}")));
    }
    let output = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said(
        output.status.code(),
        text(&output.stdout) + &text(&output.stderr),
    ))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path")
}

/// A look at the process that is killed at some instant.
fn killed_show(pid: &str, random: &mut Random) -> Result<()> {
    let mut command = spawn(&["show", "--stop", pid])?;
    std::thread::sleep(random.below(Duration::from_millis(8)));
    kill_all(&mut command)
}

// ---- Syscall User Dispatch ------------------------------------------------------------------------------------------

fn dispatch_show(dir: &RunDir) -> Result<()> {
    let victim = start("dispatch", None, dir)?;
    let pid = victim.pid().to_string();
    for _ in 0..3 {
        tool(&["show", "--stop", &pid])?.expect(0, &["SIGSYS"])?;
    }
    let action = tool(&["cat", &format!("{pid}/action")])?;
    action.expect(0, &[])?;
    let folder = dir.file("live");
    tool(&["dump", "-t", &pid, "-D", text(&folder)?])?.expect(0, &["2 threads"])?;
    tool(&["restore", "-D", text(&folder)?])?.expect(0, &["verdict=verified"])?;
    victim.finish(CHECK)
}

/// Whenever the tracer dies, calls are dispatched afterwards as before.
fn dispatch_killed(dir: &RunDir) -> Result<()> {
    let victim = start("dispatch", None, dir)?;
    let pid = victim.pid().to_string();
    let mut random = Random(7);
    (0..KILLS).try_for_each(|_| killed_show(&pid, &mut random))?;
    victim.finish(CHECK)
}

/// Nothing but to turn it off would allow calls, and that could not be undone.
fn dispatch_bare(dir: &RunDir) -> Result<()> {
    let victim = start("dispatch", Some("bare"), dir)?;
    let pid = victim.pid().to_string();
    let parts = [
        "Syscall User Dispatch: it has no selector",
        &format!("tid {pid}"),
    ];
    tool(&["show", "--stop", &pid])?.expect(2, &parts)?;
    victim.finish(CHECK)
}

/// criu's own calls would be dispatched: it ends such a process. With the plugin it refuses, and the process runs on.
fn dispatch_criu(dir: &RunDir) -> Result<()> {
    let victim = start("dispatch", None, dir)?;
    let dump = with_plugin()?.dump(victim.pid(), &dir.images(), true)?;
    ensure!(!dump.ok, "the dump has succeeded");
    cases::expect_line(&dump, &["Syscall User Dispatch", "refused"])?;
    victim.finish(CHECK)
}

/// A program that looks like one of x32 is let be.
fn long_mode_show(dir: &RunDir) -> Result<()> {
    let program = config::victim("long_mode", true);
    let victim = Victim::start(&program, None, dir, false)?;
    let pid = victim.pid();
    // It says that it is ready some instructions before.
    wait::until("64-bit code", PATIENCE, || {
        Ok(is_in_long_mode(pid)?.then_some(()))
    })?;
    for args in [
        &["show", "--stop", &pid.to_string()][..],
        &["cat", &format!("{pid}/action")],
    ] {
        tool(args)?.expect(2, &["x32", &format!("tid {pid}")])?;
    }
    ensure!(is_in_long_mode(pid)?, "it has left its loop");
    victim.end();
    Ok(())
}

/// Does the process, which makes no call, execute 64-bit code?
fn is_in_long_mode(pid: Pid) -> Result<bool> {
    const USER_CS: u64 = 0x33;
    let raw = Raw::from_raw(pid);
    ptrace::attach(raw)?;
    waitpid(raw, None)?;
    let registers = ptrace::getregs(raw);
    ptrace::detach(raw, None)?;
    Ok(registers?.cs == USER_CS)
}

// ---- a process whose first thread has ended -------------------------------------------------------------------------

fn leaderless_show(dir: &RunDir) -> Result<()> {
    let victim = start("leaderless", None, dir)?;
    let pid = victim.pid().to_string();
    let said = ["the leader of leaderless has ended", &format!("pid {pid}")];
    for args in [
        &["show", "--stop", &pid][..],
        &["cat", &format!("{pid}/action")],
        &["dump", "-t", &pid, "-D", text(&dir.file("one"))?],
        &["dump", "-t", &pid, "--tree", "-D", text(&dir.file("tree"))?],
    ] {
        tool(args)?.expect(2, &said)?;
    }
    victim.finish(CHECK)
}

/// Its first thread has ended as well, and is no one that has called pthread_exit: the process is killed, and another thread
/// is held on its way out.
fn leaderless_killed(dir: &RunDir) -> Result<()> {
    let victim = start("many_threads", None, dir)?;
    let pid = victim.pid();
    let tid = fs::read_dir(format!("/proc/{pid}/task"))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(|&tid| tid != pid)
        .context("it has one thread only")?;
    let tid = Raw::from_raw(tid);
    ptrace::seize(tid, ptrace::Options::PTRACE_O_TRACEEXIT)?;
    kill(Raw::from_raw(pid), Signal::SIGKILL)?;
    let stopped = waitpid(tid, Some(WaitPidFlag::__WALL))?;
    ensure!(
        matches!(stopped, WaitStatus::PtraceEvent(_, _, event) if event == ptrace::Event::PTRACE_EVENT_EXIT as i32),
        "{stopped:?}"
    );
    wait::until("the first thread to end", PATIENCE, || {
        Ok((procfs::state(pid) == Some('Z')).then_some(()))
    })?;
    let Said(code, said) = tool(&["show", "--stop", &pid.to_string()])?;
    ptrace::cont(tid, None)?;
    ensure!(
        code != Some(0) && !said.contains("pthread_exit") && said.contains("has ended"),
        "{code:?}: {said}"
    );
    waitpid(tid, Some(WaitPidFlag::__WALL))?;
    victim.end();
    Ok(())
}

/// It is one of the cgroup's, so that there is no dump of the cgroup without it.
fn leaderless_cgroup(dir: &RunDir) -> Result<()> {
    let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .into_iter()
        .find(|root| Path::new(root).join("cgroup.procs").exists())
        .context("no cgroup v2")?;
    let run = dir
        .path()
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let cgroup = &Path::new(root).join(format!("criu-tests-{run}"));
    fs::create_dir(cgroup)?;
    let run = || -> Result<()> {
        // A thread that has ended is not moved any more.
        fs::write(cgroup.join("cgroup.procs"), "0")?;
        let victim = start("leaderless", None, dir);
        fs::write(Path::new(root).join("cgroup.procs"), "0")?;
        let victim = victim?;
        let said = tool(&[
            "dump",
            "--cgroup",
            text(cgroup)?,
            "-D",
            text(&dir.file("live"))?,
        ])?;
        said.expect(2, &["the leader of leaderless has ended"])?;
        victim.finish(CHECK)
    };
    let done = run();
    wait::until("the cgroup to be removed", PATIENCE, || {
        Ok(fs::remove_dir(cgroup).ok())
    })?;
    done
}

// ---- inside a handler -----------------------------------------------------------------------------------------------

fn handle(victim: &Victim, dir: &RunDir) -> Result<()> {
    fs::write(dir.file("handle"), "")?;
    kill(Raw::from_raw(victim.pid()), Signal::SIGUSR1)?;
    wait::until("the handler", PATIENCE, || {
        Ok(dir.file("handling").exists().then_some(()))
    })
}

fn handled(dir: &RunDir) -> Result<()> {
    fs::remove_file(dir.file("handle"))?;
    wait::until("the handler's end", PATIENCE, || {
        Ok((!dir.file("handling").exists()).then_some(()))
    })?;
    // It has that to return from.
    std::thread::sleep(Duration::from_millis(50));
    Ok(())
}

/// Its queue grows faster than it can be read: what was in it is read.
fn growing_queue(dir: &RunDir) -> Result<()> {
    let victim = start("queued", Some("s:35:-1"), dir)?;
    let pid = victim.pid().to_string();
    let script =
        "for (1 .. 30_000) { kill 35, $ARGV[0] for 1 .. 100; select undef, undef, undef, 0.001 }";
    let mut sender = Command::new("perl").args(["-e", script, &pid]).spawn()?;
    let queued = wait::until("a queue that grows", PATIENCE, || {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("SigQ:"));
        let count = line.and_then(|line| line.split('/').next()?.trim().parse::<u32>().ok());
        Ok(count.is_some_and(|count| count > 5_000).then_some(()))
    });
    let folder = dir.file("live");
    let said = queued.and_then(|()| tool(&["dump", "-t", &pid, "-D", text(&folder)?]));
    sender.kill()?;
    sender.wait()?;
    victim.end();
    said?.expect(0, &["1 process of 1 thread dumped"])
}

/// Dumped in a handler: that mask would be for good where the handler has returned.
fn in_handler_dumped(dir: &RunDir) -> Result<()> {
    let victim = start("in_handler", None, dir)?;
    let pid = victim.pid().to_string();
    handle(&victim, dir)?;
    tool(&["show", "--stop", &pid])?.expect(0, &["in a handler", "of SIGUSR1"])?;
    let folder = dir.file("live");
    tool(&["dump", "-t", &pid, "-D", text(&folder)?])?.expect(0, &[])?;
    // In the same handler still it is what it was.
    tool(&["restore", "-D", text(&folder)?])?.expect(0, &["verdict=verified"])?;
    handled(dir)?;
    let said = tool(&["show", "--stop", &pid])?;
    ensure!(!said.1.contains("in a handler"), "{}", said.1);
    tool(&["restore", "-D", text(&folder)?])?
        .expect(2, &["was in its handler of SIGUSR1 at the dump", "--force"])?;
    victim.finish(CHECK)
}

/// Restored into a handler: its return would take the mask away.
fn in_handler_restored(dir: &RunDir) -> Result<()> {
    let victim = start("in_handler", None, dir)?;
    let pid = victim.pid().to_string();
    let folder = dir.file("live");
    tool(&["dump", "-t", &pid, "-D", text(&folder)?])?.expect(0, &[])?;
    handle(&victim, dir)?;
    tool(&["restore", "-D", text(&folder)?])?
        .expect(2, &["is in its handler of SIGUSR1 now", "--force"])?;
    handled(dir)?;
    tool(&["restore", "-D", text(&folder)?])?.expect(0, &["verdict=verified"])?;
    victim.finish(CHECK)
}

// ---- addresses of another process -----------------------------------------------------------------------------------

/// The table of another process: what its handlers return to is nowhere here.
fn other_restorer(dir: &RunDir) -> Result<()> {
    let victim = start("in_handler", None, dir)?;
    let pid = victim.pid().to_string();
    let action = tool(&["cat", &format!("{pid}/action")])?.1;
    let is_usr1 = |line: &&str| line.split_whitespace().next() == Some("10");
    let own = action.lines().find(is_usr1).context("SIGUSR1")?;
    let words: Vec<&str> = own.split_whitespace().collect();
    let [signo, flags, mask, handler, _] = words.as_slice() else {
        anyhow::bail!("{own}")
    };
    let write = |line: String, more: &[&str]| {
        let path = dir.file("line");
        fs::write(&path, line)?;
        let place = format!("{pid}/action");
        tool(&[&["write", &place, text(&path)?], more].concat())
    };
    let foreign = format!("{signo} {flags} {mask} {handler} 4096\n");
    write(foreign.clone(), &[])?.expect(
        0,
        &[
            "the handler of SIGUSR1 returns to",
            "like the process's own handlers",
        ],
    )?;
    // It runs, and returns.
    handle(&victim, dir)?;
    handled(dir)?;
    let nowhere = format!("{signo} {flags} {mask} 4096 4096\n");
    write(nowhere, &[])?.expect(
        2,
        &[
            "no executable memory at 0x1000, the handler of SIGUSR1",
            "--force",
        ],
    )?;
    let other = format!("12 0 {mask} {handler} 0\n");
    write(other, &[])?.expect(0, &[])?;
    write(foreign, &["--force"])?.expect(0, &[])?;
    write(format!("{own}\n"), &[])?.expect(0, &[])?;
    victim.finish(CHECK)
}

// ---- threads that the kernel runs -----------------------------------------------------------------------------------

fn ring_show(dir: &RunDir) -> Result<()> {
    let victim = start("ring", None, dir)?;
    let pid = victim.pid().to_string();
    let begun = Instant::now();
    tool(&["--timeout", "2", "show", "--stop", &pid])?.expect(0, &["SIGRTMIN+1"])?;
    let folder = dir.file("live");
    tool(&["--timeout", "2", "dump", "-t", &pid, "-D", text(&folder)?])?
        .expect(0, &["1 process of 1 thread"])?;
    // It took 30 s.
    let took = begun.elapsed();
    ensure!(took < Duration::from_secs(20), "it took {took:?}");
    victim.finish(CHECK)
}

// ---- code that somebody else serves ---------------------------------------------------------------------------------

fn served_code_show(dir: &RunDir) -> Result<()> {
    let folder = dir.file("silent");
    let _silent = Silent::mount(&folder)?;
    let victim = start("foreign_code", Some(text(&folder.join("file"))?), dir)?;
    let pid = victim.pid().to_string();
    tool(&["--timeout", "2", "show", "--stop", &pid])?.expect(0, &["foreign_code"])?;
    let images = dir.file("live");
    tool(&["--timeout", "2", "dump", "-t", &pid, "-D", text(&images)?])?.expect(0, &[])?;
    tool(&["--timeout", "2", "restore", "-D", text(&images)?])?.expect(0, &["verdict=verified"])?;
    victim.finish(CHECK)
}

/// criu alone refuses the file system, and lets the program run on.
fn served_code_criu(dir: &RunDir) -> Result<()> {
    let folder = dir.file("silent");
    let _silent = Silent::mount(&folder)?;
    let victim = start("foreign_code", Some(text(&folder.join("file"))?), dir)?;
    let dump = with_plugin()?.dump(victim.pid(), &dir.images(), true)?;
    ensure!(!dump.ok, "the dump has succeeded");
    ensure!(
        matches!(procfs::state(victim.pid()), Some('S' | 'R')),
        "it does not run on"
    );
    victim.finish(CHECK)
}

// ---- a process in execve(2) that closes a file whose server does not answer ------------------------------------------

/// In seconds, for `--timeout`.
const SOON: &str = "1";

/// None of them is stopped, and nobody traces one.
fn runs_on(pids: &[Pid]) -> Result<()> {
    for &pid in pids {
        ensure!(
            procfs::tracer(pid)? == 0
                && !matches!(procfs::state(pid), None | Some('T' | 't' | 'Z')),
            "pid {pid} does not run on: {:?}, traced by {}",
            procfs::state(pid),
            procfs::tracer(pid)?
        );
    }
    Ok(())
}

/// Looks at it, and at those beside it.
fn in_execve_command(dir: &RunDir) -> Result<()> {
    let attack = InExecve::start(dir)?;
    let (first, second) = (attack.first.pid(), attack.second);
    attack.execute()?;
    let cat = |pid: Pid, file: &str| {
        let place = format!("{pid}/{file}");
        tool(&["--timeout", SOON, "cat", &place])
    };
    let late = format!("pid {second}");
    tool(&["--timeout", SOON, "show", "--stop", &second.to_string()])?
        .expect(2, &[&late, "ETIMEDOUT"])?;
    cat(second, "blocked")?.expect(2, &[&late, "ETIMEDOUT"])?;
    cat(second, "waiters")?.expect(2, &[&late, "stat", "ETIMEDOUT", "--timeout"])?;
    // Its parent waits for it.
    cat(attack.third, "waiters")?.expect(2, &[&late, "ETIMEDOUT", "--timeout"])?;
    // And nobody for the first.
    cat(first, "waiters")?.expect(0, &[])?;
    cat(first, "blocked")?.expect(0, &[])?;
    ensure!(attack.is_in_it(), "it was through");
    runs_on(&[first, second, attack.third])?;
    attack.finish()
}

/// Images of others are restored, also that of its child; one of it is not.
fn in_execve_images(dir: &RunDir) -> Result<()> {
    let attack = InExecve::start(dir)?;
    let (first, second) = (attack.first.pid(), attack.second);
    let [of_first, of_second, of_third] =
        ["of-first", "of-second", "of-third"].map(|name| dir.file(name));
    let third = (attack.third, &of_third);
    for (pid, folder) in [(first, &of_first), (second, &of_second), third] {
        tool(&["dump", "-t", &pid.to_string(), "-D", text(folder)?])?.expect(0, &["1 process"])?;
    }
    attack.execute()?;
    for command in ["verify", "restore"] {
        for folder in [&of_first, &of_third] {
            tool(&["--timeout", SOON, command, "-D", text(folder)?])?
                .expect(0, &["verdict=verified"])?;
        }
    }
    for command in ["verify", "restore"] {
        tool(&["--timeout", SOON, command, "-D", text(&of_second)?])?
            .expect(2, &[&format!("pid {second}"), "ETIMEDOUT", "--timeout"])?;
    }
    ensure!(attack.is_in_it(), "it was through");
    runs_on(&[first, second, attack.third])?;
    attack.finish()
}

fn dump_tree(root: &str, folder: &Path) -> Result<Said> {
    let folder = text(folder)?;
    tool(&[
        "--timeout",
        SOON,
        "dump",
        "-t",
        root,
        "--tree",
        "-D",
        folder,
    ])
}

/// A tree with it: nobody is left stopped.
fn in_execve_tree(dir: &RunDir) -> Result<()> {
    let attack = InExecve::start(dir)?;
    let (first, second) = (attack.first.pid(), attack.second);
    attack.execute()?;
    let folder = dir.file("tree");
    let root = first.to_string();
    dump_tree(&root, &folder)?.expect(2, &[&format!("pid {second}"), "execve(2)", "ETIMEDOUT"])?;
    ensure!(!folder.exists(), "there are images");
    runs_on(&[first, second, attack.third])?;
    tool(&["--timeout", SOON, "dump", "-t", &root, "-D", text(&folder)?])?
        .expect(0, &["1 process"])?;
    ensure!(attack.is_in_it(), "it was through");
    runs_on(&[first, second, attack.third])?;
    attack.finish()
}

/// criu with the plugin fails when criu alone does, and all run on.
fn in_execve_criu(dir: &RunDir) -> Result<()> {
    let attack = InExecve::start(dir)?;
    let first = attack.first.pid();
    attack.execute()?;
    let dump = with_plugin()?
        .arg("--timeout=3")
        .dump(first, &dir.images(), true)?;
    ensure!(!dump.ok && attack.is_in_it(), "it was through");
    expect_line(
        &dump,
        &[&format!("pid {}", attack.second), "syscall", "ETIMEDOUT"],
    )?;
    runs_on(&[first, attack.third])?;
    attack.finish()
}

// ---- memory that another process keeps locked ------------------------------------------------------------------------

fn memory_locked_command(dir: &RunDir) -> Result<()> {
    let attack = MemoryLocked::start(dir)?;
    let pid = attack.process.pid();
    let place = format!("{pid}/action");
    let shown = pid.to_string();
    for args in [&["show", "--stop", &shown][..], &["cat", &place]] {
        tool(&[&["--timeout", SOON], args].concat())?
            .expect(2, &[&format!("/proc/{pid}/"), "ETIMEDOUT", "--timeout"])?;
        runs_on(&[pid, attack.child])?;
    }
    ensure!(attack.is_locked(), "it was through");
    attack.finish()
}

/// Its child is stopped meanwhile, and goes on.
fn memory_locked_tree(dir: &RunDir) -> Result<()> {
    let attack = MemoryLocked::start(dir)?;
    let (pid, folder) = (attack.process.pid(), dir.file("tree"));
    let root = pid.to_string();
    dump_tree(&root, &folder)?.expect(2, &[&format!("/proc/{pid}/"), "ETIMEDOUT", "--timeout"])?;
    runs_on(&[pid, attack.child])?;
    ensure!(attack.is_locked(), "it was through");
    attack.finish()
}

// ---- programs that are executed meanwhile ---------------------------------------------------------------------------

/// Executed anew from a thread that is not the first, before and while criu seizes the process, and with a signal in custody
/// from before that: whatever becomes of the dump, the process runs on and has its signal.
fn executing_criu(dir: &RunDir) -> Result<()> {
    const DUMPS: u32 = 20;
    let victim = start("executing", None, dir)?;
    let pid = victim.pid();
    let mut dumped = 0;
    for round in 0..DUMPS {
        let run = RunDir::create(&dir.file("round"))?;
        let dump = with_plugin()?.dump(pid, &run.images(), true)?;
        dumped += u32::from(dump.ok);
        wait::until("the guardians to end", PATIENCE, || {
            Ok(procfs::named("signals-guard")?.is_empty().then_some(()))
        })?;
        ensure!(
            matches!(procfs::state(pid), Some('R' | 'S' | 'D' | 'Z')) && procfs::tracer(pid)? == 0,
            "round {round}: it does not run on: {:?}",
            procfs::state(pid)
        );
    }
    println!("{dumped} of {DUMPS} dumps succeeded");
    victim.finish(CHECK)
}

// ---- processes that share their memory ------------------------------------------------------------------------------

/// What is injected into one is in the other's memory, which runs meanwhile; and who injects it may be killed.
fn siblings_show(dir: &RunDir) -> Result<()> {
    let victim = start("siblings", None, dir)?;
    let pids = [victim.pid().to_string(), dir.read("sibling")];
    let mut random = Random(7);
    for _ in 0..KILLS / 2 {
        for pid in &pids {
            tool(&["show", "--stop", pid])?.expect(0, &["siblings"])?;
            killed_show(pid, &mut random)?;
        }
    }
    victim.finish(CHECK)
}

/// A child that has ended is found whichever thread has made it, and one whose end CRIU recreates is not spoken of.
fn thread_zombie_criu(dir: &RunDir) -> Result<()> {
    for (signal, said) in [("64", true), ("9", false)] {
        let dir = RunDir::create(&dir.file(signal))?;
        let victim = start("thread_zombie", Some(signal), &dir)?;
        let dump = with_plugin()?.dump(victim.pid(), &dir.images(), true)?;
        ensure!(dump.ok, "the dump failed:\n{}", dump.tail(20));
        let found = dump.log.contains("is a zombie (not waited for)");
        ensure!(found == said, "signal {signal}: {}", dump.tail(20));
        victim.finish(CHECK)?;
    }
    Ok(())
}

// ---- uprobes --------------------------------------------------------------------------------------------------------

/// Those of one program, of all processes that run it.
struct Probes {
    tracefs: PathBuf,
    name: String,
}

impl Probes {
    /// At what the program says, and where the last of these returns.
    fn set(program: &Path, dir: &RunDir) -> Result<Probes> {
        let tracefs = dir.file("tracefs");
        fs::create_dir(&tracefs)?;
        mount(
            Some("tracefs"),
            &tracefs,
            Some("tracefs"),
            MsFlags::empty(),
            None::<&str>,
        )?;
        // Those of other tests are there at the same time.
        let run = dir.path().file_name().and_then(|name| name.to_str());
        let name = run.context("the run's name")?.replace('.', "_");
        let probes = Probes { tracefs, name };
        probes.remove();
        let said = dir.read("probes");
        let places: Vec<&str> = said.split(' ').collect();
        for (n, place) in places.iter().enumerate() {
            probes.add(&format!("p:{} {}:{place}", probes.event(n), text(program)?))?;
        }
        let last = places.last().context("no place")?;
        let event = probes.event(places.len());
        probes.add(&format!("r:{event} {}:{last}", text(program)?))?;
        fs::write(probes.events().join("enable"), "1")?;
        Ok(probes)
    }

    /// Group and name.
    fn event(&self, n: usize) -> String {
        format!("{0}/{0}_{n}", self.name)
    }

    fn events(&self) -> PathBuf {
        self.tracefs.join("events").join(&self.name)
    }

    /// Those that a run which was killed has left, too.
    fn remove(&self) {
        let _ = fs::write(self.events().join("enable"), "0");
        for n in 0..4 {
            let _ = self.add(&format!("-:{}", self.event(n)));
        }
    }

    fn add(&self, line: &str) -> Result<()> {
        let events = self.tracefs.join("uprobe_events");
        let mut events = fs::OpenOptions::new().append(true).open(events)?;
        events.write_all(line.as_bytes()).context(line.to_owned())
    }

    /// How often each has been met.
    fn met(&self) -> Result<Vec<u64>> {
        let profile = fs::read_to_string(self.tracefs.join("uprobe_profile"))?;
        let count = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_ours = words.get(1)?.starts_with(&self.name);
            words.get(2)?.parse().ok().filter(|_| is_ours)
        };
        Ok(profile.lines().filter_map(count).collect())
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.remove();
        let _ = nix::mount::umount(&self.tracefs);
    }
}

fn probed(name: &str, run: fn(&Victim, &RunDir) -> Result<()>) -> Test {
    let probed = move |dir: &RunDir| {
        let victim = start("probed", None, dir)?;
        // Of this run's alone.
        let probes = Probes::set(&config::victim("probed", false), dir)?;
        wait::until("the probes to be met", PATIENCE, || {
            let met = probes.met()?;
            Ok((met.len() >= 4 && met.iter().all(|&n| n > 0)).then_some(()))
        })?;
        run(&victim, dir)?;
        victim.finish(CHECK)
    };
    test(name, probed).needs(&[Need::Uprobes])
}

/// The thread stands at a breakpoint, before one, or in the copy of an instruction that the kernel has it execute.
fn probed_show(victim: &Victim) -> Result<()> {
    let pid = victim.pid().to_string();
    for _ in 0..40 {
        tool(&["show", "--stop", &pid])?.expect(0, &["SIGUSR2"])?;
        tool(&["cat", &format!("{pid}/action")])?.expect(0, &[])?;
    }
    Ok(())
}

fn probed_killed(victim: &Victim) -> Result<()> {
    let pid = victim.pid().to_string();
    let mut random = Random(7);
    (0..KILLS).try_for_each(|_| killed_show(&pid, &mut random))?;
    Ok(())
}

/// criu refuses the page that the kernel has mapped for the copies of instructions, with the plugin as without, unless it is
/// told to go on without the probes (4.2). The program runs on in either case.
fn probed_criu(victim: &Victim, dir: &RunDir) -> Result<()> {
    let dump = with_plugin()?.dump(victim.pid(), &dir.images(), true)?;
    ensure!(!dump.ok, "the dump has succeeded");
    if dump.log.contains("Unsupported mapping found") {
        return Ok(());
    }
    let all = RunDir::create(&dir.file("all"))?;
    let dump = with_plugin()?
        .arg("--allow-uprobes")
        .dump(victim.pid(), &all.images(), true)?;
    ensure!(dump.ok, "{}", dump.tail(20));
    Ok(())
}
