//! A container with rich signal state under runc and crun: checkpointed, removed, restored; moved to another host.
//!
//! Each test is on a machine of its own (`criu_tests::containers`), on which criu is the one that the engines find.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::images::Pid;
use criu_tests::cases::{self, Test, expect_line, expect_verdicts, test};
use criu_tests::config;
use criu_tests::containers::bundle::Bundle;
use criu_tests::containers::cgroups;
use criu_tests::containers::engine::{Container, Engine};
use criu_tests::containers::host::{self, Host};
use criu_tests::containers::podman::Podman;
use criu_tests::criu::{Step, parents_found};
use criu_tests::plugin::Verdict;
use criu_tests::procfs;
use criu_tests::rundir::RunDir;
use criu_tests::skip::Need;
use criu_tests::victim::reap_all;

fn main() -> ExitCode {
    cases::main("containers", tests)
}

fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for engine in [Engine::Runc, Engine::Crun] {
        let mut add = |name: &str, run: fn(Engine, &RunDir) -> Result<()>| {
            let name = format!("{engine}.{name}");
            let enclosed = group(&name);
            let run = move |dir: &RunDir| {
                cgroups::enclose(&enclosed)?;
                run(engine, dir)
            };
            let test = test(name, run).needs(&[Need::Host]);
            tests.push(test.afterwards(|name| cgroups::remove(&group(name))));
        };
        add("control", control);
        add("alone", alone);
        add("restored", restored);
        add("snapshot", snapshot);
        add("dumped-live", dumped_live);
        add("moved", moved);
        add("refused", refused);
        add("parent-death", parent_death);
        add("podman", exported);
        add("podman-parent-death", podman_parent_death);
        add("podman-parent-death-alone", podman_parent_death_alone);
        if engine == Engine::Runc {
            // crun tells criu of such a file from crun 1.25 and criu 4.2 on.
            add("configured", configured);
        }
    }
    tests
}

fn group(test: &str) -> String {
    format!("criu-signals.{test}")
}

/// No checkpoint.
fn control(engine: Engine, dir: &RunDir) -> Result<()> {
    enter(dir, true)?;
    running(engine, dir)?.finish()
}

/// Without the plugin the container is not what it was: what the victim checks is not nothing.
fn alone(engine: Engine, dir: &RunDir) -> Result<()> {
    enter(dir, false)?;
    let container = running(engine, dir)?;
    checkpointed(&container, dir)?;
    succeeded(&container.restore(&dir.images())?)?;
    match container.finish() {
        Err(why) if format!("{why:#}").contains("Pnd, expected") => Ok(()),
        Err(why) => Err(why),
        Ok(()) => bail!("the victim passes without the plugin"),
    }
}

/// Checkpointed, removed, restored.
fn restored(engine: Engine, dir: &RunDir) -> Result<()> {
    enter(dir, true)?;
    let container = running(engine, dir)?;
    let before = shown(&container)?;
    checkpointed(&container, dir)?;
    let restore = container.restore(&dir.images())?;
    succeeded(&restore)?;
    let after = shown(&container)?;
    container.finish()?;
    expect_verdicts(&restore.log, &VERDICTS)?;
    ensure!(
        before == after,
        "criu-signals show says before:\n{before}\nand after:\n{after}"
    );
    Ok(())
}

/// The engine is the container's first parent, and ends: the parent-death signal waits for the parent after that.
fn parent_death(engine: Engine, dir: &RunDir) -> Result<()> {
    enter(dir, true)?;
    let (container, restore) = mortal(engine, dir)?;
    ensure!(
        restore
            .log
            .contains(" is postponed, because the end of criu"),
        "{}",
        restore.log
    );
    parents_found()?;
    // It checks that it has its signals.
    container.finish()
}

/// A container that ends with its parent, restored.
fn mortal(engine: Engine, dir: &RunDir) -> Result<(Container, Step)> {
    let bundle = Bundle::create(&dir.file("bundle"), engine, "parent_death")?;
    bundle.argument("kill")?;
    let container = Container::new(engine, "victim", bundle);
    container.run()?;
    // The engine that has started the container has ended by now.
    let pid = container.pid()?.to_string();
    let mut set = host::command(&config::command()?.to_string_lossy());
    host::printed(set.args(["set", &pid, "parent-death", "KILL"]))?;
    checkpointed(&container, dir)?;
    let restore = container.restore(&dir.images())?;
    Ok((container, restore))
}

/// The plugin is in a folder that only a configuration file of CRIU's names, to which an annotation points.
fn configured(engine: Engine, dir: &RunDir) -> Result<()> {
    let host = host(&dir.file("host"), false)?;
    host.install_plugin("/opt/criu-signals")?;
    host.write("/opt/criu.conf", "libdir /opt/criu-signals\n")?;
    host.enter()?;
    let bundle = Bundle::create(&dir.file("bundle"), engine, "container")?;
    bundle.annotate("org.criu.config", "/opt/criu.conf")?;
    let container = Container::new(engine, "victim", bundle);
    container.run()?;
    checkpointed(&container, dir)?;
    let restore = container.restore(&dir.images())?;
    succeeded(&restore)?;
    container.finish()?;
    expect_verdicts(&restore.log, &VERDICTS)
}

/// A snapshot is taken, and the container runs on.
fn snapshot(engine: Engine, dir: &RunDir) -> Result<()> {
    enter(dir, true)?;
    let container = running(engine, dir)?;
    let processes = procfs::tree(container.pid()?)?;
    let before = procfs::signal_lines(&processes)?;
    succeeded(&container.snapshot(&dir.images())?)?;
    let after = procfs::signal_lines(&processes)?;
    let difference = procfs::describe_difference(&before, &after);
    ensure!(difference.is_empty(), "/proc shows a change: {difference}");
    container.finish()
}

/// No checkpoint: the command dumps the whole container by its cgroup, which its first process names (docs/migration.md).
fn dumped_live(engine: Engine, dir: &RunDir) -> Result<()> {
    enter(dir, true)?;
    let container = running(engine, dir)?;
    let pid = container.pid()?;
    let processes = procfs::tree(pid)?;
    let before = procfs::signal_lines(&processes)?;
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let group = format!("/sys/fs/cgroup{}", group.context("not in cgroup v2")?);
    let live = dir.file("live");
    let tool = |args: &[&str]| {
        let mut command = host::command(&config::command()?.to_string_lossy());
        host::printed(command.args(args).arg("-D").arg(&live))
    };
    let said = tool(&["dump", "--cgroup", &group])?;
    let all = format!("{} processes of ", processes.len());
    ensure!(said.starts_with(&all), "{said}");
    // By their pids in the container.
    ensure!(live.join("signals-1.img").exists(), "no signals-1.img");
    let said = tool(&["verify"])?;
    ensure!(
        said.matches("verdict=verified").count() == processes.len(),
        "{said}"
    );
    let difference = procfs::describe_difference(&before, &procfs::signal_lines(&processes)?);
    ensure!(difference.is_empty(), "/proc shows a change: {difference}");
    container.finish()
}

/// Bundle and images are packed, and restored from another folder, on another host.
fn moved(engine: Engine, dir: &RunDir) -> Result<()> {
    let other = host(&dir.file("other"), true)?;
    let packed = dir.file("packed.tar");
    enter(dir, true)?;
    let container = running(engine, dir)?;
    checkpointed(&container, dir)?;
    let bundle = container.bundle().path();
    let mut tar = host::command("tar");
    tar.arg("--create").arg("--file").arg(&packed);
    tar.arg("--directory").arg(dir.path());
    tar.args(["images", &name_of(bundle)?]);
    host::printed(&mut tar)?;
    for gone in [bundle, dir.images().as_path()] {
        std::fs::remove_dir_all(gone).with_context(|| format!("removing {}", gone.display()))?;
    }

    other.enter()?;
    let there = Path::new("/srv/moved");
    std::fs::create_dir_all(there)?;
    let mut tar = host::command("tar");
    tar.arg("--extract").arg("--file").arg(&packed);
    tar.arg("--directory").arg(there);
    host::printed(&mut tar)?;
    let bundle = Bundle::moved(&there.join(name_of(bundle)?))?;
    let container = Container::new(engine, "elsewhere", bundle);
    let restore = container.restore(&there.join("images"))?;
    succeeded(&restore)?;
    container.finish()?;
    expect_verdicts(&restore.log, &VERDICTS)
}

/// podman packs it, and unpacks it on another host.
fn exported(engine: Engine, dir: &RunDir) -> Result<()> {
    let other = host(&dir.file("other"), true)?;
    let (archive, image) = (dir.file("archive.tar"), dir.file("image.tar"));
    let state = dir.file("state");
    std::fs::create_dir(&state)?;
    enter(dir, true)?;
    let podman = Podman::new(engine, &state);
    podman.import_image("container")?;
    podman.save_image(&image)?;
    podman.run(&[])?;
    podman.checkpoint(&archive)?;
    podman.remove()?;
    reap_all()?;

    other.enter()?;
    podman.load_image(&image)?;
    let log = podman.restore(&archive)?;
    podman.finish()?;
    expect_verdicts(&log, &VERDICTS)
}

/// The runtime is the first parent, and ends; conmon is the lasting one, whose end sends the signal.
fn podman_parent_death(engine: Engine, dir: &RunDir) -> Result<()> {
    enter(dir, true)?;
    let (podman, log) = podman_mortal(engine, dir)?;
    ensure!(
        log.contains(" is postponed, because the end of criu"),
        "{log}"
    );
    parents_found()?;
    let (pid, conmon) = (podman.pid()?, podman.conmon()?);
    let parent = criu_signals::proc::parent(Pid::new(pid).context("pid")?)?;
    ensure!(
        parent.map(Pid::get) == Some(conmon),
        "the parent of {pid} is {parent:?}, and not conmon, {conmon}"
    );
    // It checks that it has its signals.
    podman.finish()
}

/// Without the plugin the runtime's end ends the container.
fn podman_parent_death_alone(engine: Engine, dir: &RunDir) -> Result<()> {
    enter(dir, false)?;
    let (podman, _) = podman_mortal(engine, dir)?;
    match podman.finish() {
        // 128 and SIGKILL.
        Err(why) if format!("{why:#}").contains("exit status 137;") => Ok(()),
        Err(why) => Err(why),
        Ok(()) => bail!("the container has outlived the runtime without the plugin"),
    }
}

/// A container that ends with its parent, restored by podman on the same host.
fn podman_mortal(engine: Engine, dir: &RunDir) -> Result<(Podman, String)> {
    let (archive, state) = (dir.file("archive.tar"), dir.file("state"));
    std::fs::create_dir(&state)?;
    let podman = Podman::new(engine, &state);
    podman.import_image("parent_death")?;
    podman.run(&["kill"])?;
    // The runtime that has started the container has ended by now.
    let mut set = host::command(&config::command()?.to_string_lossy());
    host::printed(set.args(["set", &podman.pid()?.to_string(), "parent-death", "KILL"]))?;
    podman.checkpoint(&archive)?;
    podman.remove()?;
    reap_all()?;
    let log = podman.restore(&archive)?;
    Ok((podman, log))
}

/// By the host's settings an image that did not travel along is noticed before anything is restored.
fn refused(engine: Engine, dir: &RunDir) -> Result<()> {
    let host = host(&dir.file("host"), true)?;
    host.write("/etc/criu/signals.conf", "policy = strict\n")?;
    host.enter()?;
    let container = running(engine, dir)?;
    checkpointed(&container, dir)?;
    std::fs::remove_file(dir.images().join("signals-1.img"))?;
    let restore = container.restore(&dir.images())?;
    ensure!(!restore.ok, "the restore has succeeded");
    expect_line(&restore, &["Error (", "signals-1.img"])
}

/// A host below the run's folder, with criu and the engines.
fn host(at: &Path, with_plugin: bool) -> Result<Host> {
    let host = Host::mount(at)?;
    if with_plugin {
        host.install_plugin(host::PLUGINS)?;
    }
    Ok(host)
}

fn enter(dir: &RunDir, with_plugin: bool) -> Result<()> {
    host(&dir.file("host"), with_plugin)?.enter()
}

/// The container of all tests, ready to be checkpointed.
fn running(engine: Engine, dir: &RunDir) -> Result<Container> {
    let bundle = Bundle::create(&dir.file("bundle"), engine, "container")?;
    let container = Container::new(engine, "victim", bundle);
    container.run()?;
    Ok(container)
}

/// Nothing of it is left but the images.
fn checkpointed(container: &Container, dir: &RunDir) -> Result<()> {
    succeeded(&container.checkpoint(&dir.images())?)?;
    reap_all()
}

/// What `criu-signals show` says of the container's processes, by the pid that the engine gives. What is another
/// process's or of this very moment is left out.
fn shown(container: &Container) -> Result<String> {
    let mut all = Vec::new();
    for pid in procfs::tree(container.pid()?)? {
        let mut show = host::command(&config::command()?.to_string_lossy());
        // However the victim waits just now: one way of reading, so that both texts say the same.
        let said = host::printed(show.args(["show", "--stop"]).arg(pid.to_string()))?;
        let mut text = String::new();
        for line in said.lines() {
            match line.split_whitespace().next() {
                Some("process" | "pid" | "pending" | "waits") => {}
                Some("thread") => text.push_str("  thread\n"),
                _ => text.extend([line, "\n"]),
            }
        }
        all.push(text);
    }
    // The kernel lists children in the order in which they came, which is criu's after the restore.
    all.sort();
    let text = all.join("\n");
    for part in [
        "SI_TIMER",
        "SS_AUTODISARM",
        "SIGUSR2: pending without siginfo",
    ] {
        ensure!(text.contains(part), "there is no {part} in:\n{text}");
    }
    Ok(text)
}

fn succeeded(step: &Step) -> Result<()> {
    ensure!(step.ok, "the engine has failed:\n{}", step.tail(30));
    Ok(())
}

/// CRIU keeps the queues and loses the bits without an entry; a timer's entry that it queues is none of the timer's.
const VERDICTS: [Verdict; 3] = [Verdict::Repaired, Verdict::Repaired, Verdict::Verified];

fn name_of(path: &Path) -> Result<String> {
    let name = path.file_name().context("a path without a name")?;
    Ok(PathBuf::from(name).to_string_lossy().into_owned())
}
