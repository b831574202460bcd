//! Attacks on mounted files: by users, by set-user-id programs, and by passing descriptors between processes.
//! docs/proc-sig.md ("Who may do what") lists the guarantees.
//!
//! As in the scenarios, each test is this program once more as pid 1 of a namespace of its own.

mod killed;
mod model;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use criu_signals::images::text::SigFile;
use criu_tests::cases::{self, Test, test};
use criu_tests::mounted::{Actor, Mounted, OTHER, Programs, USER, errno};
use criu_tests::procfs::{self, Pid};
use criu_tests::rundir::RunDir;
use criu_tests::served::InExecve;
use criu_tests::six::{EMPTY, Sleeper, Way, mask};
use criu_tests::skip::Need;
use criu_tests::wait::{self, PATIENCE};
use nix::errno::Errno;

/// For those that do something very often.
const LONG: Duration = Duration::from_secs(1800);

fn main() -> ExitCode {
    cases::main("mount_attacks", tests)
}

fn tests() -> Vec<Test> {
    let attack = |name: &str, run: fn(&mut Scene) -> Result<()>| {
        test(name, move |_: &RunDir| run(&mut Scene::new()?)).needs(&[Need::Fuse])
    };
    vec![
        attack("closed-by-another", closed_by_another),
        attack("read-by-another", read_by_another),
        attack("passed-to-another", passed_to_another),
        attack("caller-executes", caller_executes),
        attack("target-executes", target_executes),
        attack("target-shares-memory", target_shares_memory),
        attack("attributes", attributes),
        attack("mapped", mapped),
        attack("unreadable-program", unreadable_program),
        attack("own-user-namespace", own_user_namespace),
        attack("sandboxed", sandboxed),
        attack("hidepid", hidepid),
        attack("open-files", open_files),
        attack("much-text", much_text),
        test("root-alone", root_alone).needs(&[Need::Fuse]),
        test("flipping", flipping).needs(&[Need::Fuse]),
        test("vfork", vfork).needs(&[Need::Fuse]),
        test("others-wait", others_wait).needs(&[Need::Fuse]),
        test("in-execve", in_execve).needs(&[Need::Fuse]),
        test("killed", killed::killed)
            .needs(&[Need::Fuse])
            .may_take(LONG),
        test("model", |_| {
            let mount = Mounted::for_all()?;
            model::model(programs()?, mount)
        })
        .needs(&[Need::Fuse])
        .may_take(LONG),
    ]
}

fn programs() -> Result<Programs> {
    Programs::make(Path::new(env!("CARGO_BIN_EXE_mount-actor")))
}

/// A user, a process of his, and a mount for all.
struct Scene {
    mount: Mounted,
    programs: Programs,
    user: Actor,
    target: Actor,
}

impl Scene {
    fn new() -> Result<Scene> {
        Scene::with(Mounted::for_all()?)
    }

    fn with(mount: Mounted) -> Result<Scene> {
        let programs = programs()?;
        let user = Actor::start(&programs.own, USER)?;
        let mut target = Actor::start(&programs.own, USER)?;
        target.does("block 10")?;
        Ok(Scene {
            mount,
            programs,
            user,
            target,
        })
    }

    fn path(&self, file: SigFile) -> Result<String> {
        let path = self.mount.path(self.target.pid()?, file);
        Ok(path.display().to_string())
    }

    /// The user opens a file of the process while that is his.
    fn open(&mut self, number: i32, how: &str, file: SigFile) -> Result<()> {
        let path = self.path(file)?;
        self.user.does(&format!("open {number} {how} {path}"))?;
        Ok(())
    }

    fn all(&self) -> Result<Vec<String>> {
        let pid = self.target.pid()?;
        let files = SigFile::ALL.into_iter();
        files
            .filter(|&file| file != SigFile::Waiters)
            .map(|file| Way::Library.read(pid, pid, file))
            .collect()
    }

    fn is_as(&self, before: &[String]) -> Result<()> {
        let after = self.all()?;
        for (before, after) in before.iter().zip(after) {
            ensure!(*before == after, "{before}became\n{after}");
        }
        Ok(())
    }
}

/// In the actors' lines a newline is a bar.
fn line(text: &str) -> String {
    text.replace('\n', "|")
}

fn action(signo: i32) -> String {
    format!("{signo} 0 {} 1 0", EMPTY.trim())
}

/// A text without its newline, written by somebody who may not, is finished by nobody: neither by a set-user-id program that
/// inherits the descriptor and ends, nor by one that calls fsync(2).
fn closed_by_another(scene: &mut Scene) -> Result<()> {
    scene.open(1, "w", SigFile::Action)?;
    scene.open(2, "w", SigFile::Blocked)?;
    // While it may still be written, a piece is kept by nobody.
    scene.user.fails("write 1 12 0", Errno::EINVAL)?;
    let programs = [
        scene.programs.of_root.clone(),
        scene.programs.of_other.clone(),
    ];
    scene.target.becomes(&programs[0])?;
    let before = scene.all()?;
    for text in [action(12), action(12) + "|", "12 0".to_owned()] {
        scene
            .user
            .fails(&format!("write 1 {text}"), Errno::EACCES)?;
    }
    scene
        .user
        .fails(&format!("write 2 {}", mask(&[12]).trim()), Errno::EACCES)?;
    for program in &programs {
        scene.user.does(&format!("run {program}"))?;
        scene.is_as(&before)?;
    }
    scene.user.becomes(&programs[0])?;
    let _ = scene.user.ask("sync 1")?;
    scene.user.does("close 1")?;
    scene.user.does("close 2")?;
    scene.is_as(&before)
}

/// What a set-user-id program has read through an inherited descriptor is not there for others who have it.
fn read_by_another(scene: &mut Scene) -> Result<()> {
    scene.open(1, "r", SigFile::Action)?;
    scene.user.does("read 1 0")?;
    scene.user.does("read 1 1")?;
    let program = scene.programs.of_root.clone();
    scene.target.becomes(&program)?;
    let mut other = Actor::start(&scene.programs.own, 0)?;
    let at = scene.programs.place("socket");
    scene.user.give(1, &mut other, &at)?;
    let _ = other.ask("read 1 0")?;
    for offset in [0, 1, 65] {
        scene
            .user
            .fails(&format!("read 1 {offset}"), Errno::EACCES)?;
    }
    Ok(())
}

/// A descriptor is of use to its opener alone, also where the other one might open the file.
fn passed_to_another(scene: &mut Scene) -> Result<()> {
    scene.open(1, "rw", SigFile::Blocked)?;
    let before = scene.all()?;
    let at = scene.programs.place("socket");
    for uid in [0, OTHER] {
        let mut other = Actor::start(&scene.programs.own, uid)?;
        scene.user.give(1, &mut other, &at)?;
        let line = format!("write 1 {}", mask(&[12]).trim());
        for line in ["read 1 0", "read 1 1", &line] {
            other.fails(line, Errno::EACCES)?;
        }
        scene.is_as(&before)?;
    }
    // Another process of the same identity is the same to the kernel.
    let mut same = Actor::start(&scene.programs.own, USER)?;
    scene.user.give(1, &mut same, &at)?;
    ensure!(same.does("read 1 0")? == line(&mask(&[10])));
    // And the other way round: what root has opened is not for users.
    let mut root = Actor::start(&scene.programs.own, 0)?;
    let (_sleeper, of_root) = Sleeper::start(&[])?;
    let path = scene.mount.path(of_root, SigFile::Blocked);
    root.does(&format!("open 2 rw {}", path.display()))?;
    root.does("read 2 0")?;
    root.give(2, &mut scene.user, &at)?;
    for line in [
        "read 2 0",
        "read 2 1",
        &format!("write 2 {}", mask(&[12]).trim()),
    ] {
        scene.user.fails(line, Errno::EACCES)?;
    }
    ensure!(fs::read_to_string(path)? == EMPTY);
    Ok(())
}

/// The caller becomes somebody else, with a file open.
fn caller_executes(scene: &mut Scene) -> Result<()> {
    scene.open(1, "rw", SigFile::Blocked)?;
    let before = scene.all()?;
    let (of_root, own) = (scene.programs.of_root.clone(), scene.programs.own.clone());
    // Of his own, with the same rights.
    scene.user.becomes(&own)?;
    scene.user.does("read 1 0")?;
    scene.user.becomes(&of_root)?;
    for line in [
        "read 1 0",
        "read 1 1",
        &format!("write 1 {}", mask(&[12]).trim()),
    ] {
        scene.user.fails(line, Errno::EACCES)?;
    }
    scene.is_as(&before)?;
    // It has rights of its own: its effective uid is root's.
    scene.open(2, "r", SigFile::Blocked)?;
    scene.user.does("read 2 0")?;
    Ok(())
}

/// A descriptor is of the program that was there when it was opened: it is of no use for the next, also of the same user's.
fn target_executes(scene: &mut Scene) -> Result<()> {
    scene.open(1, "rw", SigFile::Blocked)?;
    scene.user.does("read 1 0")?;
    let (own, of_root) = (scene.programs.own.clone(), scene.programs.of_root.clone());
    let lines = [
        "read 1 0",
        "read 1 1",
        &format!("write 1 {}", mask(&[12]).trim()),
    ];
    scene.target.becomes(&own)?;
    let before = scene.all()?;
    for line in lines {
        scene.user.fails(line, Errno::ESRCH)?;
    }
    scene.is_as(&before)?;
    scene.open(2, "rw", SigFile::Blocked)?;
    ensure!(scene.user.does("read 2 0")? == line(&mask(&[10])));
    scene.target.becomes(&of_root)?;
    let before = scene.all()?;
    for line in lines.map(|line| line.replace(" 1 ", " 2 ")) {
        scene.user.fails(&line, Errno::EACCES)?;
    }
    let path = scene.path(SigFile::Blocked)?;
    scene
        .user
        .fails(&format!("open 3 r {path}"), Errno::EACCES)?;
    scene.is_as(&before)
}

/// The memory of the old program lives on in a process that shares it.
fn target_shares_memory(scene: &mut Scene) -> Result<()> {
    let sharer: Pid = scene.target.does("share-memory")?.parse()?;
    scene.open(1, "rw", SigFile::Blocked)?;
    scene.user.does("read 1 0")?;
    let own = scene.programs.own.clone();
    scene.target.becomes(&own)?;
    ensure!(procfs::state(sharer) == Some('S'));
    for line in [
        "read 1 0",
        "read 1 1",
        &format!("write 1 {}", mask(&[12]).trim()),
    ] {
        scene.user.fails(line, Errno::ESRCH)?;
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(sharer),
        nix::sys::signal::Signal::SIGKILL,
    )?;
    Ok(())
}

/// Nothing gets into the page cache, which is all openers': a private mapping and splice(2) show nothing, also after a write
/// has given the file a size.
fn mapped(scene: &mut Scene) -> Result<()> {
    scene.open(1, "rw", SigFile::Blocked)?;
    let mut root = Actor::start(&scene.programs.own, 0)?;
    root.does(&format!("open 1 rw {}", scene.path(SigFile::Blocked)?))?;
    for actor in [&mut scene.user, &mut root] {
        actor.does(&format!("write 1 {}", mask(&[10]).trim()))?;
        let found = actor.ask("splice 1")?;
        ensure!(
            found == Err(Errno::EIO) || found == Ok(String::new()),
            "{found:?}"
        );
        let found = actor.does("map 1")?;
        ensure!(found.contains("SIGBUS"), "{found}");
    }
    Ok(())
}

/// What changes no text: to empty a file is for those who may write it, and times, sizes, owner and mode are nobody's to set.
fn attributes(scene: &mut Scene) -> Result<()> {
    let before = scene.all()?;
    let path = scene.path(SigFile::Blocked)?;
    scene.open(1, "rw", SigFile::Blocked)?;
    scene.user.does(&format!("truncate {path} 0"))?;
    scene.user.does("cut 1")?;
    let mut other = Actor::start(&scene.programs.own, OTHER)?;
    other.fails(&format!("truncate {path} 0"), Errno::EACCES)?;
    let mut root = Actor::start(&scene.programs.own, 0)?;
    let place = scene.programs.place("socket");
    for actor in [&mut other, &mut root] {
        scene.user.give(1, actor, &place)?;
        actor.fails("cut 1", Errno::EACCES)?;
        actor.fails("date 1", Errno::EPERM)?;
    }
    for actor in [&mut scene.user, &mut other, &mut root] {
        actor.fails(&format!("touch {path}"), Errno::EPERM)?;
        actor.fails(&format!("truncate {path} 1"), Errno::EPERM)?;
    }
    let waiters = scene.path(SigFile::Waiters)?;
    root.fails(&format!("truncate {waiters} 0"), Errno::EACCES)?;
    // As the shell does.
    let script = format!("echo {} > {path}", mask(&[10]).trim());
    let done = Command::new("sh").args(["-c", &script]).status()?;
    ensure!(done.success(), "{done}");
    scene.is_as(&before)?;
    // The program is another one: the file that was opened is not its.
    let program = scene.programs.own.clone();
    scene.target.becomes(&program)?;
    scene.user.fails("cut 1", Errno::ESRCH)?;
    scene.user.does(&format!("truncate {path} 0"))?;
    Ok(())
}

/// A program that may not be read, also where the caller has all capabilities of its user namespace: the kernel refuses
/// `/proc/PID/mem`, and so does this.
fn unreadable_program(scene: &mut Scene) -> Result<()> {
    let unreadable = scene.programs.unreadable.clone();
    for actor in [&mut scene.user, &mut scene.target] {
        actor.does("unshare")?;
    }
    let mut user = Actor::start(&scene.programs.own, USER)?;
    join(&mut user, scene.target.pid()?)?;
    scene.target.becomes(&unreadable)?;
    let pid = scene.target.pid()?;
    let files = [
        scene.path(SigFile::Blocked)?,
        scene.path(SigFile::Action)?,
        format!("/proc/{pid}/mem"),
    ];
    for path in files {
        user.fails(&format!("open 1 r {path}"), Errno::EACCES)?;
    }
    Ok(())
}

/// Puts the user namespace of `pid` in order, and a program into it that has all capabilities there.
fn join(actor: &mut Actor, pid: Pid) -> Result<()> {
    fs::write(format!("/proc/{pid}/uid_map"), format!("0 {USER} 1"))?;
    fs::write(format!("/proc/{pid}/gid_map"), format!("0 {USER} 1"))?;
    let mut inside = Command::new("nsenter");
    inside
        .args([
            "--user",
            &format!("--target={pid}"),
            "--preserve-credentials",
        ])
        .arg("/run/programs/own")
        .uid(USER)
        .gid(USER)
        .current_dir("/")
        .process_group(0)
        .stderr(Stdio::null());
    *actor = Actor::started(&mut inside)?;
    // It has answered: it is the actor by now.
    actor.does("blocked")?;
    Ok(())
}

/// Capabilities in a user namespace of one's own are good for what is in it, and for nothing else.
fn own_user_namespace(scene: &mut Scene) -> Result<()> {
    let own = scene.programs.own.clone();
    scene.target.does("unshare")?;
    let mut inside = Actor::start(&own, USER)?;
    join(&mut inside, scene.target.pid()?)?;
    // Of a program that is not dumpable it takes the capability where that was executed: inside.
    scene.target.becomes(&own)?;
    scene.target.does("hide")?;
    let path = scene.path(SigFile::Blocked)?;
    inside.does(&format!("open 1 r {path}"))?;
    ensure!(inside.does("read 1 0")? == line(&mask(&[10])));
    let mut other = Actor::start(&own, OTHER)?;
    other.fails(&format!("open 1 r {path}"), Errno::EACCES)?;
    // As to the kernel, who is inside is nobody outside, also to processes of the same uid.
    let (_root, of_root) = Sleeper::start(&[])?;
    let (_other, of_other) = Sleeper::start_as(OTHER)?;
    let (_own, own) = Sleeper::start_as(USER)?;
    for pid in [of_root, of_other, own] {
        let path = scene.mount.path(pid, SigFile::Blocked);
        for path in [path, format!("/proc/{pid}/mem").into()] {
            inside.fails(&format!("open 2 r {}", path.display()), Errno::EACCES)?;
        }
    }
    Ok(())
}

/// Restrictions that a server can't take on: with no_new_privs there may be a Landlock domain, which nobody can see.
fn sandboxed(scene: &mut Scene) -> Result<()> {
    scene.open(1, "r", SigFile::Blocked)?;
    scene.user.does("no-new-privs")?;
    scene.user.fails("read 1 0", Errno::EACCES)?;
    let path = scene.path(SigFile::Blocked)?;
    scene.user.fails(&format!("open 2 r {path}"), Errno::EACCES)
}

/// With hidepid a user sees his own processes, here as there.
fn hidepid(scene: &mut Scene) -> Result<()> {
    let (_root, of_root) = Sleeper::start(&[])?;
    let (at, own) = (scene.mount.at.display().to_string(), scene.target.pid()?);
    let numbers = |text: &str| -> Vec<Pid> {
        text.split(' ')
            .filter_map(|name| name.parse().ok())
            .collect()
    };
    let listed = numbers(&scene.user.does(&format!("list {at}"))?);
    ensure!(listed.contains(&own) && listed.contains(&of_root));
    nix::mount::mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        nix::mount::MsFlags::MS_REMOUNT,
        Some("hidepid=2"),
    )?;
    let listed = numbers(&scene.user.does(&format!("list {at}"))?);
    ensure!(
        listed.contains(&own) && !listed.contains(&of_root),
        "{listed:?}"
    );
    for path in ["", "/sig", "/sig/blocked", "/task"] {
        let path = format!("{at}/{of_root}{path}");
        scene.user.fails(&format!("stat {path}"), Errno::ENOENT)?;
    }
    scene.open(1, "r", SigFile::Blocked)?;
    ensure!(scene.user.does("read 1 0")? == line(&mask(&[10])));
    // Root sees all.
    ensure!(fs::read_dir(scene.mount.at.join(of_root.to_string()))?.count() == 2);
    Ok(())
}

/// One user's open files leave room for others'.
fn open_files(scene: &mut Scene) -> Result<()> {
    let path = scene.path(SigFile::Blocked)?;
    let mut opened = 0;
    let refused = loop {
        match scene.user.ask(&format!("open {opened} r {path}"))? {
            Ok(_) => opened += 1,
            Err(e) => break e,
        }
        ensure!(opened < 5000, "no bound");
    };
    ensure!(
        refused == Errno::EMFILE && opened >= 16,
        "{opened}: {refused}"
    );
    let (_other, of_other) = Sleeper::start_as(OTHER)?;
    let path_of_other = scene.mount.path(of_other, SigFile::Blocked);
    let mut other = Actor::start(&scene.programs.own, OTHER)?;
    other.does(&format!("open 1 r {}", path_of_other.display()))?;
    ensure!(
        fs::read_to_string(scene.mount.path(scene.target.pid()?, SigFile::Blocked))? == mask(&[10])
    );
    // What is closed is given back.
    scene.user.does("close 0")?;
    scene.user.does(&format!("open 0 r {path}"))?;
    Ok(())
}

/// Text is bounded where it comes in: nothing of it is kept.
fn much_text(scene: &mut Scene) -> Result<()> {
    let path = scene.path(SigFile::Pending)?;
    let script = format!(
        "yes 'sig 34: uid 0 pid 1 flags 0 errno 0 code 0' | head -c 50000000 | dd of={path} bs=50000000 iflag=fullblock"
    );
    let writers = (0..4)
        .map(|_| {
            Ok(Command::new("sh")
                .args(["-c", &script])
                .uid(USER)
                .gid(USER)
                .stderr(Stdio::piped())
                .spawn()?)
        })
        .collect::<Result<Vec<_>>>()?;
    for writer in writers {
        let done = writer.wait_with_output()?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(said.contains("File too large"), "{said}");
    }
    let server = server()?;
    let peak = wait::until("VmHWM", PATIENCE, || {
        let status = fs::read_to_string(format!("/proc/{server}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        Ok(line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()))
    })?;
    ensure!(peak < 100_000, "the server had {peak} kB");
    Ok(())
}

fn server() -> Result<Pid> {
    procfs::named("criu-signals")?
        .into_iter()
        .find(|&pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|&byte| byte == 0).any(|word| word == b"--serve")
        })
        .context("no server")
}

/// Without `--allow-other` what root mounts is root's, also a descriptor that root passes on.
fn root_alone(_: &RunDir) -> Result<()> {
    let mut scene = Scene::with(Mounted::new()?)?;
    let path = scene.path(SigFile::Blocked)?;
    scene
        .user
        .fails(&format!("open 1 r {path}"), Errno::EACCES)?;
    let at = scene.mount.at.display().to_string();
    scene.user.fails(&format!("list {at}"), Errno::EACCES)?;
    let mut root = Actor::start(&scene.programs.own, 0)?;
    root.does(&format!("open 1 rw {path}"))?;
    root.does("read 1 0")?;
    let place = scene.programs.place("socket");
    root.give(1, &mut scene.user, &place)?;
    for line in [
        "read 1 0",
        "read 1 1",
        &format!("write 1 {}", mask(&[12]).trim()),
    ] {
        scene.user.fails(line, Errno::EACCES)?;
    }
    Ok(())
}

/// The process is now the user's, now a set-user-id program, as fast as it can: whatever the user reads is of his own
/// program, and what he writes is nobody else's.
fn flipping(_: &RunDir) -> Result<()> {
    let mut scene = Scene::new()?;
    let programs = &scene.programs;
    let mut target = Command::new(&programs.own);
    target
        .args(["flip", &programs.own, &programs.of_root, "400"])
        .uid(USER)
        .gid(USER)
        .process_group(0);
    let mut target = Actor::started(&mut target)?;
    let path = scene.mount.path(target.pid()?, SigFile::Blocked);
    let write = format!("write 1 {}", mask(&[13]).trim());
    let (mut reads, mut writes) = (0, 0);
    while procfs::state(target.pid()?) != Some('S') {
        if scene
            .user
            .ask(&format!("open 1 rw {}", path.display()))?
            .is_err()
        {
            continue;
        }
        if let Ok(text) = scene.user.ask("read 1 0")? {
            ensure!(text.as_bytes()[11] == b'0', "the other program's: {text}");
            reads += 1;
        }
        writes += i32::from(scene.user.ask(&write)?.is_ok());
        scene.user.does("close 1")?;
    }
    println!("{reads} reads, {writes} writes");
    let said = target.line()?;
    ensure!(said == "unchanged\n", "{said}");
    Ok(())
}

/// A parent in vfork(2), which does not stop before its child ends.
struct Vforked {
    parent: std::process::Child,
}

impl Vforked {
    fn start(programs: &Programs, uid: u32) -> Result<Vforked> {
        let parent = Command::new(&programs.own)
            .arg("vfork")
            .uid(uid)
            .gid(uid)
            .process_group(0)
            .spawn()?;
        let vforked = Vforked { parent };
        wait::until("the child", PATIENCE, || Ok(vforked.child()?.map(drop)))?;
        Ok(vforked)
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::try_from(self.parent.id())?)
    }

    fn child(&self) -> Result<Option<Pid>> {
        let pid = self.pid()?;
        Ok(procfs::tree(pid)?.get(1).copied())
    }

    /// Its child ends, and so does it.
    fn finish(mut self) -> Result<()> {
        let child = self.child()?.context("the child")?;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(child),
            nix::sys::signal::Signal::SIGKILL,
        )?;
        let ended = wait::until("its end", PATIENCE, || Ok(self.parent.try_wait()?))?;
        ensure!(ended.success(), "{ended}");
        Ok(())
    }
}

/// A process that does not stop in time is let go, stops never, and goes on; killed, it is reaped.
fn vfork(_: &RunDir) -> Result<()> {
    let scene = Scene::with(Mounted::with(&["--timeout", "0.2"])?)?;
    for uid in [0, USER] {
        let vforked = Vforked::start(&scene.programs, uid)?;
        let pid = vforked.pid()?;
        let read = fs::read(scene.mount.path(pid, SigFile::Blocked));
        ensure!(errno(read) == nix::libc::ETIMEDOUT);
        wait::until("it to be let go", PATIENCE, || {
            Ok((procfs::tracer(pid)? == 0).then_some(()))
        })?;
        vforked.finish()?;
    }
    // Killed while it is seized.
    let vforked = Vforked::start(&scene.programs, USER)?;
    let path = scene.mount.path(vforked.pid()?, SigFile::Blocked);
    let reader = std::thread::spawn(move || fs::read(path));
    let mut parent = vforked.parent;
    parent.kill()?;
    let _ = reader.join();
    wait::until("its end", PATIENCE, || Ok(parent.try_wait()?))?;
    ensure!(procfs::state(Pid::try_from(parent.id())?).is_none());
    Ok(())
}

/// A process that is in execve(2) as long as its user likes: root can list all, and look at others, and is told of this one
/// that it takes too long.
fn in_execve(dir: &RunDir) -> Result<()> {
    /// More than the server has threads.
    const READERS: usize = 40;
    let mount = Mounted::with(&["--timeout", "1"])?;
    let attack = InExecve::start(dir)?;
    let (first, second) = (attack.first.pid(), attack.second);
    let open = fs::File::open(mount.path(second, SigFile::Blocked))?;
    attack.execute()?;
    let mut listed = Vec::new();
    for entry in fs::read_dir(&mount.at)? {
        listed.push(entry?.file_name());
    }
    ensure!(
        listed.iter().any(|name| *name == *second.to_string()),
        "{listed:?}"
    );
    for file in SigFile::ALL {
        fs::metadata(mount.path(second, file))?;
    }
    let late = |path| move || errno(fs::read(path));
    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(std::thread::spawn(late(
            mount.path(second, SigFile::Blocked),
        )));
    }
    readers.push(std::thread::spawn(late(
        mount.path(attack.third, SigFile::Waiters),
    )));
    readers.push(std::thread::spawn(move || {
        use std::os::unix::fs::FileExt as _;
        errno(open.read_at(&mut [0; 100], 0))
    }));
    ensure!(fs::read_to_string(mount.path(first, SigFile::Blocked))? == EMPTY);
    for reader in readers {
        let found = reader.join().ok();
        ensure!(found == Some(nix::libc::ETIMEDOUT), "{found:?}");
    }
    ensure!(attack.is_in_it(), "it was through");
    attack.finish()
}

/// The number of openat(2) on x86_64.
const OPENAT: i64 = 257;

/// Those who wait for a process that does not stop keep nobody waiting who asks for another.
fn others_wait(_: &RunDir) -> Result<()> {
    // Longer than this test may take.
    let mount = Mounted::with(&["--timeout", "600", "--allow-other"])?;
    let mut scene = Scene::with(mount)?;
    let vforked = (0..12)
        .map(|_| Vforked::start(&scene.programs, USER))
        .collect::<Result<Vec<_>>>()?;
    let mut readers = Vec::new();
    for vforked in &vforked {
        for _ in 0..4 {
            let path = scene.mount.path(vforked.pid()?, SigFile::Blocked);
            let mut cat = Command::new("cat");
            readers.push(
                cat.arg(path)
                    .uid(USER)
                    .gid(USER)
                    .stdout(Stdio::null())
                    .spawn()?,
            );
        }
    }
    wait::until("a visit", PATIENCE, || {
        let mut visited = 0;
        for vforked in &vforked {
            visited += usize::from(procfs::tracer(vforked.pid()?)? != 0);
        }
        Ok((visited >= 4).then_some(()))
    })?;
    // A lookup in the top folder that waits for its turn, as all of the user's do by now: nobody else waits with it.
    let late = Actor::start(&scene.programs.own, USER)?;
    let path = scene.mount.path(late.pid()?, SigFile::Blocked);
    let mut cat = Command::new("cat");
    cat.arg(path).uid(USER).gid(USER).stdout(Stdio::null());
    let looks_up = cat.spawn()?;
    let call = format!("/proc/{}/syscall", looks_up.id());
    wait::until("the lookup", PATIENCE, || {
        let openat = format!("{} ", OPENAT);
        Ok(fs::read_to_string(&call)?
            .starts_with(&openat)
            .then_some(()))
    })?;
    readers.push(looks_up);
    // Root's, and another user's.
    let own = scene.target.pid()?;
    for _ in 0..20 {
        ensure!(fs::read_to_string(scene.mount.path(own, SigFile::Blocked))? == mask(&[10]));
    }
    let (_other, of_other) = Sleeper::start_as(OTHER)?;
    scene.user = Actor::start(&scene.programs.own, OTHER)?;
    let path = scene.mount.path(of_other, SigFile::Blocked);
    scene.user.does(&format!("open 1 r {}", path.display()))?;
    ensure!(scene.user.does("read 1 0")? == line(EMPTY));
    for reader in &mut readers {
        ensure!(reader.try_wait()?.is_none(), "the others have not waited");
    }
    for vforked in vforked {
        vforked.finish()?;
    }
    for mut reader in readers {
        reader.wait()?;
    }
    Ok(())
}
