//! `make install` and `make uninstall`: checks the installed files, and that criu finds the plugin.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use criu_signals::criu::installed;
use criu_tests::cases::{
    self, Test, expect_line, expect_verdict, restored, start, test, with_plugin,
};
use criu_tests::config;
use criu_tests::containers::cgroups;
use criu_tests::containers::engine::Engine;
use criu_tests::containers::host::{self, Host};
use criu_tests::containers::podman::{Podman, quietly};
use criu_tests::criu::Criu;
use criu_tests::plugin::Verdict;
use criu_tests::rundir::RunDir;
use criu_tests::skip::Need;
use criu_tests::victim::reap_all;
use criu_tests::wait::{self, PATIENCE};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// For those that install many times.
const LONG: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    cases::main("install", tests)
}

fn tests() -> Vec<Test> {
    let mut tests = vec![
        test("install.list", list),
        test("install.again", again),
        test("install.settings-stay", settings_stay),
        test("install.no-criu", no_criu),
        test("install.killed", killed).may_take(LONG),
        test("install.killed-over-another", killed_over_another).may_take(LONG),
        test("uninstall.killed", uninstall_killed).may_take(LONG),
        test("install.criu-loads-it", |dir| {
            let root = dir.file("root");
            succeeds(&mut install(dir)?)?;
            let libdir = root.join(plugin_folder()?.strip_prefix("/")?);
            checkpoint(&Criu::new(&config::criu()?, &libdir), dir)
        }),
        test("install.criu-finds-it", criu_finds_it),
        test("node.steps", node_steps),
        test("node.run", node_run),
        test("node.no-payload", node_without_payload),
        test("node.image", |dir| {
            cgroups::enclose(IMAGE_GROUP)?;
            node_image(dir)
        })
        .needs(&[Need::Host])
        .afterwards(|_| cgroups::remove(IMAGE_GROUP)),
    ];
    // Never silently: CI has to have them.
    let strict = env::var("CI").is_ok_and(|ci| ci == "true");
    let missing = ["dpkg-deb", "dpkg-shlibdeps", "dh", "lintian"]
        .into_iter()
        .find(|tool| !is_there(tool));
    match missing {
        Some(tool) if !strict => {
            eprintln!("SKIP deb.*: {tool} is missing; scripts/install-deps deb installs it");
        }
        _ => tests.extend([
            test("deb.list", deb_list),
            test("deb.installed-and-purged", deb_installed),
            test("deb.lintian", deb_lintian),
            test("deb.clean", deb_clean),
        ]),
    }
    // Optional, in CI as well: the spec is for other distributions.
    if is_there("rpmbuild") {
        tests.push(test("rpm.list", rpm_list));
    } else {
        eprintln!("SKIP rpm.list: rpmbuild is missing; scripts/install-deps rpm installs it");
    }
    if static_command().is_file() {
        tests.push(test("static.empty-root", static_empty_root));
    } else {
        eprintln!(
            "SKIP static.empty-root: target/static/criu-signals is not built; make static does"
        );
    }
    tests
}

fn is_there(tool: &str) -> bool {
    config::in_path(tool).is_some()
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/install")
}

/// `PATH`, with the folder of the criu under test in front.
fn path_with_criu() -> Result<OsString> {
    let criu = config::criu()?;
    ensure!(
        criu.ends_with("criu"),
        "{} can't be found in PATH by the name criu",
        criu.display()
    );
    let folder = criu.parent().context("it has a folder")?.to_owned();
    let path = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(
        std::iter::once(folder).chain(env::split_paths(&path)),
    )?)
}

fn script_with(dir: &RunDir, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(script());
    command
        .args(args)
        .env("DESTDIR", dir.file("root"))
        .env("PATH", path_with_criu()?)
        .env_remove("PREFIX")
        .env_remove("PLUGINDIR")
        .env_remove("SYSCONFDIR");
    Ok(command)
}

/// Into `root` in the folder of the run.
fn install(dir: &RunDir) -> Result<Command> {
    let mut command = script_with(dir, &["install"])?;
    command
        .arg(config::plugin_dir()?.join(config::PLUGIN_FILE))
        .arg(config::command()?);
    Ok(command)
}

fn uninstall(dir: &RunDir) -> Result<Command> {
    script_with(dir, &["uninstall"])
}

fn run(command: &mut Command) -> Result<(Output, String)> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok((output, said))
}

fn succeeds(command: &mut Command) -> Result<String> {
    let (output, said) = run(command)?;
    ensure!(
        output.status.success(),
        "{command:?}: {}: {said}",
        output.status
    );
    Ok(said)
}

/// All files below a folder, by their paths from there.
fn files(root: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(root)?.display().to_string());
            }
        }
    }
    Ok(found)
}

/// Where the criu under test looks for plugins.
fn plugin_folder() -> Result<PathBuf> {
    Ok(installed::plugin_dir(&config::criu()?)?.path)
}

fn plugin_file() -> Result<String> {
    let file = plugin_folder()?.join(config::PLUGIN_FILE);
    Ok(file.strip_prefix("/")?.display().to_string())
}

/// What is to be there, by the sources.
fn expected() -> Result<BTreeSet<String>> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let share = "usr/local/share";
    let mut files: BTreeSet<String> = [
        "etc/criu/signals.conf".to_owned(),
        "usr/local/bin/checkpointctl-signals".to_owned(),
        "usr/local/bin/criu-signals".to_owned(),
        plugin_file()?,
        format!("{share}/bash-completion/completions/criu-signals"),
        format!("{share}/criu-signals/installed"),
        format!("{share}/doc/criu-signals/CHANGELOG.md"),
        format!("{share}/doc/criu-signals/README.md"),
        format!("{share}/fish/vendor_completions.d/criu-signals.fish"),
        format!("{share}/man/man1/checkpointctl-signals.1"),
        format!("{share}/man/man1/criu-signals.1"),
        format!("{share}/zsh/site-functions/_criu-signals"),
    ]
    .into();
    let docs = sources.join("docs");
    let mut folders = vec![docs.clone()];
    while let Some(folder) = folders.pop() {
        for doc in fs::read_dir(folder)? {
            let doc = doc?.path();
            if doc.is_dir() {
                folders.push(doc);
                continue;
            }
            let name = doc.strip_prefix(&docs)?.to_string_lossy();
            // Those of the book.
            if !["SUMMARY.md", "book.toml"].contains(&&*name) {
                files.insert(format!("{share}/doc/criu-signals/docs/{name}"));
            }
        }
    }
    // One for each command that the program speaks of.
    let help = Command::new(config::command()?).arg("--help").output()?;
    let help = String::from_utf8(help.stdout)?;
    let (_, commands) = help
        .split_once("Commands:\n")
        .context("no commands in --help")?;
    let names = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help");
    files.extend(names.map(|name| format!("{share}/man/man1/criu-signals-{name}.1")));
    Ok(files)
}

fn list(dir: &RunDir) -> Result<()> {
    let said = succeeds(&mut install(dir)?)?;
    let folder = plugin_folder()?;
    ensure!(
        said.contains(&format!("looks for plugins in {}", folder.display())),
        "{said}"
    );
    let (found, expected) = (files(&dir.file("root"))?, expected()?);
    ensure!(
        found == expected,
        "too much: {:?}; missing: {:?}",
        found.difference(&expected).collect::<Vec<_>>(),
        expected.difference(&found).collect::<Vec<_>>()
    );
    let command = dir.file("root/usr/local/bin/criu-signals");
    let version = succeeds(Command::new(command).arg("--version"))?;
    ensure!(version.starts_with("criu-signals "), "{version}");

    succeeds(&mut uninstall(dir)?)?;
    let left = dir.file("root");
    ensure!(!left.exists(), "left: {:?}", files(&left)?);
    let (again, said) = run(&mut uninstall(dir)?)?;
    ensure!(
        !again.status.success() && said.contains("nothing was installed"),
        "{said}"
    );
    Ok(())
}

/// Over an earlier one, whose plugin was somewhere else and which had a file that this one has not.
fn again(dir: &RunDir) -> Result<()> {
    let root = dir.file("root");
    // Somebody else's, in one of the folders.
    fs::create_dir_all(root.join("opt/plugins"))?;
    fs::write(root.join("opt/plugins/other.so"), "other")?;
    succeeds(install(dir)?.env("PLUGINDIR", "/opt/plugins"))?;
    let list = root.join("usr/local/share/criu-signals/installed");
    let old = root.join("usr/local/bin/criu-signals-old");
    fs::write(&old, "old")?;
    let text = fs::read_to_string(&list)? + "f /usr/local/bin/criu-signals-old\n";
    fs::write(&list, text)?;

    succeeds(&mut install(dir)?)?;
    ensure!(
        root.join(plugin_file()?).exists(),
        "the plugin is not where criu looks"
    );
    ensure!(
        !root.join("opt/plugins").join(config::PLUGIN_FILE).exists(),
        "two plugins"
    );
    ensure!(!old.exists(), "{} is left", old.display());
    succeeds(&mut install(dir)?)?;
    succeeds(&mut uninstall(dir)?)?;
    let left = files(&root)?;
    ensure!(
        left == ["opt/plugins/other.so".to_owned()].into(),
        "left: {left:?}"
    );
    Ok(())
}

fn settings_stay(dir: &RunDir) -> Result<()> {
    let file = dir.file("root/etc/criu/signals.conf");
    succeeds(&mut install(dir)?)?;
    let defaults = fs::read_to_string(&file)?;
    let mine = format!("{defaults}policy = strict\n");
    fs::write(&file, &mine)?;
    let said = succeeds(&mut install(dir)?)?;
    ensure!(
        said.contains("signals.conf is there and differs from the defaults"),
        "{said}"
    );
    let said = succeeds(&mut uninstall(dir)?)?;
    ensure!(
        said.contains("signals.conf is not as it was installed: it stays"),
        "{said}"
    );
    ensure!(
        fs::read_to_string(&file)? == mine,
        "the settings were changed"
    );
    let left = files(&dir.file("root"))?;
    ensure!(
        left == ["etc/criu/signals.conf".to_owned()].into(),
        "left: {left:?}"
    );
    Ok(())
}

/// Tools of the script's, which kill it before they do anything when it has come as far as that.
struct Killer {
    tools: PathBuf,
    count: PathBuf,
}

impl Killer {
    const TOOLS: [&str; 5] = ["install", "mkdir", "mv", "rm", "rmdir"];

    fn new(dir: &RunDir) -> Result<Killer> {
        let killer = Killer {
            tools: dir.file("tools"),
            count: dir.file("count"),
        };
        fs::create_dir(&killer.tools)?;
        for tool in Self::TOOLS {
            let real = config::in_path(tool).with_context(|| format!("no {tool} in PATH"))?;
            let script = format!(
                "#!/bin/sh\necho >>\"$COUNT\"\nif [ \"$(wc -l <\"$COUNT\")\" = \"$KILL_AT\" ]; then kill -9 $PPID; exit \
                 1; fi\nexec {} \"$@\"\n",
                real.display()
            );
            let path = killer.tools.join(tool);
            fs::write(&path, script)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(killer)
    }

    /// Runs the script up to its step `at`, counted from 1. Says how many steps it has come.
    fn run(&self, mut script: Command, at: usize) -> Result<usize> {
        fs::write(&self.count, "")?;
        let path = path_with_criu()?;
        let path =
            env::join_paths(std::iter::once(self.tools.clone()).chain(env::split_paths(&path)))?;
        script
            .env("PATH", path)
            .env("COUNT", &self.count)
            .env("KILL_AT", at.to_string());
        let (output, said) = run(&mut script)?;
        let steps = fs::read_to_string(&self.count)?.lines().count();
        if steps == at {
            ensure!(output.status.signal() == Some(9), "not killed: {said}");
        } else {
            ensure!(output.status.success(), "{}: {said}", output.status);
        }
        Ok(steps)
    }

    /// The first steps, the last ones and some in between.
    fn steps(all: usize) -> impl Iterator<Item = usize> {
        (1..=all).filter(move |&at| at <= 6 || at % 29 == 0 || at + 4 > all)
    }
}

/// More than ever.
const NEVER: usize = usize::MAX;

/// Nothing is left of `root`, nor anything that is not in `kept`.
fn expect_left(root: &Path, kept: &[&str], at: usize) -> Result<()> {
    let left = files(root)?;
    let kept: BTreeSet<String> = kept.iter().map(|name| (*name).to_owned()).collect();
    ensure!(left == kept, "killed at step {at}: left: {left:?}");
    ensure!(
        !kept.is_empty() || !root.exists(),
        "killed at step {at}: folders are left"
    );
    Ok(())
}

/// Wherever an install is killed, `uninstall` takes away what it has put there, and another install makes it whole.
fn killed(dir: &RunDir) -> Result<()> {
    let root = dir.file("root");
    let list = root.join("usr/local/share/criu-signals/installed");
    let killer = Killer::new(dir)?;
    let all = killer.run(install(dir)?, NEVER)?;
    let whole = files(&root)?;
    succeeds(&mut uninstall(dir)?)?;
    for at in Killer::steps(all) {
        ensure!(killer.run(install(dir)?, at)? == at);
        if !list.exists() {
            // Folders alone, and the list that had not its name yet.
            let begun = files(&root)?;
            ensure!(begun.len() <= 1, "step {at}: without a list: {begun:?}");
            succeeds(&mut install(dir)?)?;
            ensure!(files(&root)? == whole, "step {at}");
        }
        if at % 2 == 0 {
            succeeds(&mut install(dir)?)?;
            ensure!(files(&root)? == whole, "step {at}");
        }
        succeeds(&mut uninstall(dir)?)?;
        if root.exists() && files(&root)?.is_empty() {
            // Folders from before there was a list.
            ensure!(at <= 6, "killed at step {at}: folders are left");
            fs::remove_dir_all(&root)?;
        }
        expect_left(&root, &[], at)?;
    }
    Ok(())
}

/// The same over an earlier one, which had a file that this one has not.
fn killed_over_another(dir: &RunDir) -> Result<()> {
    let root = dir.file("root");
    let killer = Killer::new(dir)?;
    let list = root.join("usr/local/share/criu-signals/installed");
    let old = root.join("usr/local/bin/criu-signals-old");
    let make_old = || {
        succeeds(install(dir)?.env("PLUGINDIR", "/opt/plugins"))?;
        fs::write(&old, "old")?;
        let text = fs::read_to_string(&list)? + "f /usr/local/bin/criu-signals-old\n";
        fs::write(&list, text).context("writing the list")
    };
    make_old()?;
    let all = killer.run(install(dir)?, NEVER)?;
    for at in [1, 2, 30, all - 5, all - 3, all - 2, all - 1, all] {
        make_old()?;
        ensure!(killer.run(install(dir)?, at)? == at);
        succeeds(&mut uninstall(dir)?)?;
        expect_left(&root, &[], at)?;
    }
    Ok(())
}

/// What an `uninstall` that was killed has left, the next one takes away.
fn uninstall_killed(dir: &RunDir) -> Result<()> {
    let root = dir.file("root");
    let killer = Killer::new(dir)?;
    succeeds(&mut install(dir)?)?;
    let all = killer.run(uninstall(dir)?, NEVER)?;
    let list = root.join("usr/local/share/criu-signals/installed");
    for at in Killer::steps(all) {
        succeeds(&mut install(dir)?)?;
        ensure!(killer.run(uninstall(dir)?, at)? == at);
        if list.exists() {
            succeeds(&mut uninstall(dir)?)?;
            expect_left(&root, &[], at)?;
        } else {
            let left = files(&root)?;
            ensure!(left.is_empty(), "killed at step {at}: left: {left:?}");
            fs::remove_dir_all(&root)?;
        }
    }
    Ok(())
}

fn no_criu(dir: &RunDir) -> Result<()> {
    let mut command = install(dir)?;
    let (output, said) = run(command.env("PATH", "/usr/bin:/bin"))?;
    // On a machine that has a criu of its own it is found, and that is right.
    if installed::find().is_none() {
        ensure!(!output.status.success(), "installed without a criu: {said}");
        ensure!(said.contains("no criu in PATH"), "{said}");
        ensure!(said.contains("PLUGINDIR="), "{said}");
        ensure!(!dir.file("root").exists(), "something was installed");
    }
    Ok(())
}

/// Installed for good, on a machine of its own: what is written to /usr and /etc goes to another place. criu is told
/// nothing about plugins.
fn criu_finds_it(dir: &RunDir) -> Result<()> {
    overlay(dir, &["/usr", "/etc"])?;
    let file = Path::new("/").join(plugin_file()?);
    ensure!(
        !file.exists(),
        "{} is there before it is installed",
        file.display()
    );
    succeeds(install(dir)?.env_remove("DESTDIR"))?;
    fs::write("/etc/criu/signals.conf", "deep_queue = 17\n")?;
    let log = checkpoint_by_default(dir)?;
    ensure!(
        log.contains("settings: deep_queue=17 (/etc/criu/signals.conf:1)"),
        "{log}"
    );
    succeeds(uninstall(dir)?.env_remove("DESTDIR"))?;
    ensure!(!file.exists(), "{} is left", file.display());
    Ok(())
}

/// Dumps and restores a victim, and sees that the plugin was there.
fn checkpoint(criu: &Criu, dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let dump = criu.dump(victim.pid(), &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    expect_line(&dump, &["captured into signals-"])?;
    reap_all()?;
    let (restore, found) = restored(criu, dir)?;
    expect_verdict(&restore, Verdict::Verified)?;
    found
}

/// The same by a criu that is told nothing about plugins and settings. Returns the log of the restore.
fn checkpoint_by_default(dir: &RunDir) -> Result<String> {
    let criu = with_plugin()?
        .default_libdir()
        .env_remove("CRIU_SIGNALS_CONFIG");
    checkpoint(&criu, dir)?;
    Ok(dir.read("images/restore.log"))
}

/// From now on what is written to these folders of the machine goes to another place, in this namespace.
fn overlay(dir: &RunDir, lowers: &[&str]) -> Result<()> {
    let upper = dir.file("upper");
    fs::create_dir(&upper)?;
    mount(
        Some("tmpfs"),
        &upper,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .context("mounting")?;
    for &lower in lowers {
        let (above, work) = (
            upper.join(&lower[1..]),
            upper.join(format!("{}.work", &lower[1..])),
        );
        fs::create_dir(&above)?;
        fs::create_dir(&work)?;
        let options = format!(
            "lowerdir={lower},upperdir={},workdir={}",
            above.display(),
            work.display()
        );
        mount(
            Some("overlay"),
            lower,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .with_context(|| format!("mounting over {lower}"))?;
    }
    Ok(())
}

// ---- the image for Kubernetes nodes ------------------------------------------------------------------------------

const LABEL: &str = "/etc/kubernetes/node-feature-discovery/features.d/criu-signals";
const CONF: &str = "/etc/criu/signals.conf";
/// What the ConfigMap has.
const GIVEN: &str = "policy = strict\n";

/// The image's program, on this machine as a node of its own.
fn node(dir: &RunDir, action: &str) -> Result<Command> {
    let root = dir.file("image").join("root");
    let mut command = Command::new("sh");
    command
        .arg(root.join("node"))
        .arg(action)
        .env("HOST", "/")
        .env("PAYLOAD", root.join("payload"))
        .env("SETTINGS", dir.file("given.conf"))
        .env("NODE_PATH", path_with_criu()?);
    Ok(command)
}

/// Puts the image's folder together, and what the machine's folders have then.
fn node_prepared(dir: &RunDir) -> Result<BTreeSet<String>> {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/build-node-image");
    succeeds(
        Command::new(build)
            .arg(config::plugin_dir()?.join(config::PLUGIN_FILE))
            .arg(config::command()?)
            .arg(dir.file("image"))
            .env("PATH", path_with_busybox()?),
    )?;
    fs::write(dir.file("given.conf"), GIVEN)?;
    overlay(dir, &["/usr", "/etc", "/run"])?;
    on_node(Path::new("/"))
}

/// `PATH`, and behind it the static busybox of the container engines' host, if that is there.
fn path_with_busybox() -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let of_host = config::host().ok().map(|root| root.join("usr/bin"));
    Ok(env::join_paths(env::split_paths(&path).chain(of_host))?)
}

fn expect_as_before(before: &BTreeSet<String>) -> Result<()> {
    expect_as_before_in(Path::new("/"), before)
}

fn expect_as_before_in(root: &Path, before: &BTreeSet<String>) -> Result<()> {
    let after = on_node(root)?;
    let other: Vec<_> = before.symmetric_difference(&after).collect();
    ensure!(other.is_empty(), "left, or gone: {other:?}");
    Ok(())
}

/// All that is in the folders into which the program writes, but for criu's own file.
fn on_node(root: &Path) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for folder in ["/etc", "/usr/local", "/usr/lib/criu", "/run"] {
        let found = files(&root.join(&folder[1..]))?;
        all.extend(found.into_iter().map(|file| format!("{folder}/{file}")));
    }
    all.retain(|file| !file.starts_with("/run/criu.kdat"));
    Ok(all)
}

/// Each step by itself: the node's criu finds the plugin and the settings, the label says what the check has found, and
/// nothing is left.
fn node_steps(dir: &RunDir) -> Result<()> {
    let before = node_prepared(dir)?;
    succeeds(&mut node(dir, "install")?)?;
    ensure!(fs::read_to_string(CONF)? == GIVEN, "the settings");
    let log = checkpoint_by_default(dir)?;
    ensure!(
        log.contains("policy=strict (/etc/criu/signals.conf:1)"),
        "{log}"
    );
    let (checked, said) = run(&mut node(dir, "check")?)?;
    ensure!(said.contains("plugin"), "{said}");
    succeeds(&mut node(dir, "label")?)?;
    let label = fs::read_to_string(LABEL)?;
    let found = if checked.status.success() {
        "passed"
    } else {
        "failed"
    };
    let wanted = format!(
        "criu-signals.check={found}\ncriu-signals.version={}\n",
        env!("CARGO_PKG_VERSION")
    );
    ensure!(label == wanted, "{label}");
    succeeds(&mut node(dir, "remove")?)?;
    expect_as_before(&before)
}

/// As in the pod: it stays until SIGTERM, and takes everything away then. The settings of the node's own stay.
fn node_run(dir: &RunDir) -> Result<()> {
    let before = node_prepared(dir)?;
    fs::create_dir_all("/etc/criu")?;
    fs::write(CONF, "deep_queue = 17\n")?;
    let mut pod = node(dir, "run")?.spawn()?;
    wait::until("the label", PATIENCE, || {
        ensure!(pod.try_wait()?.is_none(), "it has ended");
        Ok(Path::new(LABEL).exists().then_some(()))
    })?;
    ensure!(Path::new("/").join(plugin_file()?).exists(), "no plugin");
    kill(Pid::from_raw(pod.id().cast_signed()), Signal::SIGTERM)?;
    let ended = wait::until("its end", PATIENCE, || Ok(pod.try_wait()?))?;
    ensure!(ended.success(), "{ended}");
    ensure!(fs::read_to_string(CONF)? == "deep_queue = 17\n");
    fs::remove_file(CONF)?;
    expect_as_before(&before)
}

fn node_without_payload(dir: &RunDir) -> Result<()> {
    let before = node_prepared(dir)?;
    let (output, said) = run(node(dir, "install")?.env("PAYLOAD", dir.file("nothing")))?;
    ensure!(
        !output.status.success() && said.contains("is PAYLOAD right?"),
        "{said}"
    );
    expect_as_before(&before)
}

/// The cgroup of the test of the image.
const IMAGE_GROUP: &str = "criu-signals.node-image";
/// The image, and the container that podman makes of it.
const IMAGE: &str = "criu-signals-node";
/// Where the host of podman has the node's root.
const NODE: &str = "/node";

/// podman builds the image without a registry. Its container does on the node what the pod does, until it is stopped.
fn node_image(dir: &RunDir) -> Result<()> {
    let before = node_prepared(dir)?;
    let path = path_with_criu()?.into_string().ok().context("PATH")?;
    let plugin = Path::new(NODE).join(plugin_file()?);
    let machine = Host::mount(&dir.file("host"))?;
    machine.show(Path::new("/"), Path::new(NODE))?;
    machine.enter()?;
    let node = Path::new(NODE);
    let label = node.join(&LABEL[1..]);

    let podman = Podman::new(Engine::Crun, dir.path());
    let tag = ["build", "--tag", IMAGE];
    host::printed(podman.command(&tag).arg(dir.file("image")))?;
    expect_layout(&podman, dir)?;

    // As in daemonset.yaml.
    let given = dir.file("given.conf").display().to_string();
    let mut run = podman.command(&["run", "--detach", "--name", IMAGE, "--privileged"]);
    run.args(["--network=none", "--pids-limit=0", "--log-driver=k8s-file"]);
    run.args(["--volume", &format!("{NODE}:/host")]);
    run.args(["--volume", &format!("{given}:/settings/signals.conf:ro")]);
    run.args(["--env", "SETTINGS=/settings/signals.conf"]);
    run.args(["--env", &format!("NODE_PATH={path}"), IMAGE]);
    quietly(&mut run)?;
    let logs = || run_on_host(podman.command(&["logs", IMAGE]));
    let is_running = || {
        let asked = podman.command(&["inspect", "--format", "{{.State.Running}}", IMAGE]);
        Ok::<_, anyhow::Error>(run_on_host(asked)?.trim() == "true")
    };
    wait::until("the label", PATIENCE, || {
        if label.exists() {
            return Ok(Some(()));
        }
        ensure!(is_running()?, "it has ended: {}", logs()?);
        Ok(None)
    })?;
    ensure!(plugin.exists(), "no plugin: {}", logs()?);
    let settings = fs::read_to_string(node.join(&CONF[1..]))?;
    ensure!(settings == GIVEN, "the settings: {settings}");
    let found = fs::read_to_string(&label)?;
    ensure!(
        found.contains(concat!("version=", env!("CARGO_PKG_VERSION"), "\n")),
        "{found}"
    );
    ensure!(logs()?.contains("plugin"), "{}", logs()?);

    quietly(&mut podman.command(&["stop", "--time=120", IMAGE]))?;
    let status = host::printed(&mut podman.command(&["wait", IMAGE]))?;
    ensure!(status.trim() == "0", "{status}: {}", logs()?);
    quietly(&mut podman.command(&["rm", IMAGE]))?;
    expect_as_before_in(node, &before)
}

/// What a command says on both outputs, however it ends.
fn run_on_host(mut command: Command) -> Result<String> {
    Ok(run(&mut command)?.1)
}

/// As an OCI image layout in a tar file the image has the folder of which it was made.
fn expect_layout(podman: &Podman, dir: &RunDir) -> Result<()> {
    let archive = dir.file("image.tar");
    let mut save = podman.command(&["save", "--format=oci-archive", "--output"]);
    quietly(save.arg(&archive).arg(IMAGE))?;
    let layout = dir.file("layout");
    fs::create_dir(&layout)?;
    host::printed(host::command("tar").args(["--extract", "--file"]).args([
        &archive,
        Path::new("--directory"),
        &layout,
    ]))?;
    let blob = |digest: &Value| {
        let digest = digest.as_str().context("no digest")?;
        Ok::<_, anyhow::Error>(layout.join("blobs").join(digest.replace(':', "/")))
    };
    let read = |file: &Path| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(file)?)?) };
    let index = read(&layout.join("index.json"))?;
    let manifest = read(&blob(&index["manifests"][0]["digest"])?)?;
    let layers = manifest["layers"].as_array().context("no layers")?;
    ensure!(layers.len() == 1, "{manifest}");
    let unpacked = dir.file("unpacked");
    fs::create_dir(&unpacked)?;
    host::printed(
        host::command("tar")
            .args(["--extract", "--gzip", "--file"])
            .arg(blob(&layers[0]["digest"])?)
            .arg("--directory")
            .arg(&unpacked),
    )?;
    let (found, expected) = (files(&unpacked)?, files(&dir.file("image/root"))?);
    ensure!(found == expected, "{found:?}\n{expected:?}");
    for program in ["bin/busybox", "node", "payload/criu-signals"] {
        let same =
            fs::read(unpacked.join(program))? == fs::read(dir.file("image/root").join(program))?;
        ensure!(same, "{program} is another");
    }
    // It is no checkpoint, and the command says so.
    let (output, said) = run(Command::new(config::command()?).arg("show").arg(&archive))?;
    ensure!(
        !output.status.success() && said.contains("this is no archive of a checkpoint"),
        "{}: {said}",
        output.status
    );
    Ok(())
}

// ---- the Debian package ------------------------------------------------------------------------------------------

/// The packages: the plugin's and the command's.
const PACKAGES: [&str; 2] = ["criu-signals-plugin", "criu-signals"];

/// Makes the packages, and gives their paths in the order of [`PACKAGES`].
fn deb(dir: &RunDir) -> Result<Vec<PathBuf>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/build-deb");
    let said = succeeds(
        Command::new(script)
            .arg(config::plugin_dir()?.join(config::PLUGIN_FILE))
            .arg(config::command()?)
            .arg(config::criu()?)
            .arg(dir.file("debs"))
            // The programs under test are large, and this is no matter of the package's size.
            .env("XZ_LEVEL", "0")
            .env("DEBFULLNAME", MAINTAINER.0)
            .env("DEBEMAIL", MAINTAINER.1),
    )?;
    let made: Vec<PathBuf> = said.lines().map(PathBuf::from).collect();
    let paths = PACKAGES.map(|name| {
        let begin = format!("{name}_");
        let is_it = |path: &&PathBuf| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            file.starts_with(&begin)
        };
        made.iter().find(is_it).cloned()
    });
    let paths = paths.into_iter().collect::<Option<Vec<_>>>();
    let paths = paths.with_context(|| format!("not both are among {made:?}"))?;
    ensure!(made.len() == paths.len(), "{made:?}");
    Ok(paths)
}

/// Who makes the package.
const MAINTAINER: (&str, &str) = ("A Packager", "packager@debian.org");

fn field(package: &Path, name: &str) -> Result<String> {
    let said = succeeds(Command::new("dpkg-deb").arg("-f").arg(package).arg(name))?;
    Ok(said.trim().to_owned())
}

fn deb_list(dir: &RunDir) -> Result<()> {
    let maintainer = format!("{} <{}>", MAINTAINER.0, MAINTAINER.1);
    let mut found = BTreeSet::new();
    for (name, package) in PACKAGES.into_iter().zip(deb(dir)?) {
        let named = field(&package, "Maintainer")?;
        ensure!(named == maintainer, "{named}");
        let unpacked = dir.file(name);
        succeeds(
            Command::new("dpkg-deb")
                .arg("-x")
                .arg(&package)
                .arg(&unpacked),
        )?;
        let changelog = unpacked.join(format!("usr/share/doc/{name}/changelog.Debian.gz"));
        let changelog = succeeds(Command::new("zcat").arg(changelog))?;
        ensure!(
            changelog.contains(&format!("\n -- {maintainer}  ")),
            "{changelog}"
        );
        let files = files(&unpacked)?;
        // The plugin and its settings in the one package, all else in the other.
        let of_plugin = |file: &str| file == "etc/criu/signals.conf" || file.ends_with(".so");
        ensure!(
            files
                .iter()
                .filter(|file| !file.starts_with("usr/share/"))
                .all(|file| of_plugin(file) == (name == PACKAGES[0])),
            "{name}: {files:?}"
        );
        for file in files {
            ensure!(found.insert(file.clone()), "{file} is in both");
        }
        // What a package needs is what its programs need, and no more than a Debian has.
        let depends = field(&package, "Depends")?;
        let names: Vec<&str> = depends
            .split(", ")
            .filter_map(|one| one.split(' ').next())
            .collect();
        ensure!(
            names.contains(&"libc6") && names.iter().all(|n| n.starts_with("lib")),
            "{depends}"
        );
    }
    // As after `make install PREFIX=/usr`, in Debian's places, and compressed.
    let in_debian = |file: String| {
        let file = file.replace("usr/local/", "usr/");
        if file.contains("/man/") {
            return format!("{file}.gz");
        }
        file.replace("/zsh/site-functions/", "/zsh/vendor-completions/")
            .replace("CHANGELOG.md", "changelog.gz")
    };
    let mut expected: BTreeSet<String> = expected()?.into_iter().map(in_debian).collect();
    expected.remove("usr/share/criu-signals/installed");
    for name in PACKAGES {
        for file in [
            "changelog.gz",
            "changelog.Debian.gz",
            "copyright",
            "crates.gz",
        ] {
            expected.insert(format!("usr/share/doc/{name}/{file}"));
        }
        expected.insert(format!("usr/share/lintian/overrides/{name}"));
    }
    ensure!(
        found == expected,
        "too much: {:?}; missing: {:?}",
        found.difference(&expected).collect::<Vec<_>>(),
        expected.difference(&found).collect::<Vec<_>>()
    );
    Ok(())
}

/// Installed by dpkg, on a machine of its own; then removed, which leaves the settings, and purged. In between packaging's own
/// test, debian/tests, is run.
fn deb_installed(dir: &RunDir) -> Result<()> {
    let packages = deb(dir)?;
    overlay(dir, &["/usr", "/etc", "/var"])?;
    let dpkg = |args: &[&str]| {
        succeeds(
            Command::new("dpkg")
                .args(args)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    for package in &packages {
        dpkg(&["--install", &package.to_string_lossy()])?;
    }
    let both = |option| [&[option][..], &PACKAGES[..]].concat();
    let owned = dpkg(&both("--listfiles"))?;
    let owned: Vec<PathBuf> = owned.lines().map(PathBuf::from).collect();
    let owned: Vec<PathBuf> = owned.into_iter().filter(|path| path.is_file()).collect();
    ensure!(
        owned.contains(&Path::new("/").join(plugin_file()?)),
        "{owned:?}"
    );
    ensure!(dpkg(&both("--verify"))?.is_empty());

    let test = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/debian/tests/checkpoint");
    fs::create_dir(dir.file("autopkgtest"))?;
    let (output, said) = run(Command::new(test)
        .env("AUTOPKGTEST_TMP", dir.file("autopkgtest"))
        .env("PATH", path_with_criu()?)
        .env_remove("CRIU_SIGNALS_CONFIG"))?;
    ensure!(output.status.success(), "{}: {said}", output.status);

    let settings = Path::new("/etc/criu/signals.conf");
    fs::write(settings, "deep_queue = 17\n")?;
    let log = checkpoint_by_default(dir)?;
    ensure!(
        log.contains("settings: deep_queue=17 (/etc/criu/signals.conf:1)"),
        "{log}"
    );

    dpkg(&both("--remove"))?;
    ensure!(
        fs::read_to_string(settings)? == "deep_queue = 17\n",
        "the settings were changed"
    );
    dpkg(&both("--purge"))?;
    let left: Vec<&PathBuf> = owned.iter().filter(|path| path.exists()).collect();
    ensure!(left.is_empty(), "left: {left:?}");
    for folder in [
        plugin_folder()?,
        "/etc/criu".into(),
        "/usr/share/doc/criu-signals".into(),
        "/usr/share/doc/criu-signals-plugin".into(),
    ] {
        ensure!(!folder.exists(), "left: {}", folder.display());
    }
    Ok(())
}

/// Nothing to complain of that is not answered in packaging/debian/*.lintian-overrides.
fn deb_lintian(dir: &RunDir) -> Result<()> {
    let said = succeeds(
        Command::new("lintian")
            .args(["--allow-root", "--display-info", "--pedantic"])
            .args(["--fail-on", "error,warning,info,pedantic"])
            .args(deb(dir)?),
    )?;
    ensure!(!said.contains("E: ") && !said.contains("W: "), "{said}");
    Ok(())
}

/// A build of the source package begins by this, and cargo refuses crates of which a file is gone.
fn deb_clean(dir: &RunDir) -> Result<()> {
    let debian = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/debian");
    succeeds(
        Command::new("cp")
            .arg("-R")
            .arg(debian)
            .arg(dir.file("debian")),
    )?;
    let kept = dir.file("vendor/crate/Cargo.toml.orig");
    fs::create_dir_all(dir.file("vendor/crate"))?;
    fs::write(&kept, "")?;
    fs::write(dir.file("left.orig"), "")?;
    let mut clean = Command::new("make");
    clean.args(["-f", "debian/rules", "clean"]);
    // Of the make that runs the tests.
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"] {
        clean.env_remove(variable);
    }
    succeeds(clean.current_dir(dir.path()))?;
    ensure!(!dir.file("left.orig").exists(), "nothing was cleaned");
    ensure!(kept.exists(), "{} is gone", kept.display());
    Ok(())
}

// ---- the RPM packages --------------------------------------------------------------------------------------------

/// Both packages together hold what `make install PREFIX=/usr` installs, and licences.
fn rpm_list(dir: &RunDir) -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/build-rpm");
    let said = succeeds(
        Command::new(script)
            .arg(config::plugin_dir()?.join(config::PLUGIN_FILE))
            .arg(config::command()?)
            .arg(Path::new("/").join(plugin_folder()?))
            .arg(dir.file("rpms")),
    )?;
    let mut found = BTreeSet::new();
    for package in said.lines() {
        // A line for each: mode, then path.
        let listed = succeeds(Command::new("rpm").args([
            "--query",
            "--package",
            "--queryformat",
            "[%{FILEMODES:perms} %{FILENAMES}\\n]",
            package,
        ]))?;
        let files: Vec<&str> = listed
            .lines()
            .filter(|line| line.starts_with('-'))
            .filter_map(|line| Some(line.split_once(" /")?.1))
            .collect();
        let is_plugin = package.contains("criu-signals-plugin");
        ensure!(
            files.iter().any(|file| file.ends_with(".so")) == is_plugin
                && files.contains(&"etc/criu/signals.conf") == is_plugin
                && files.contains(&"usr/bin/criu-signals") != is_plugin,
            "{package}: {files:?}"
        );
        found.extend(
            files
                .into_iter()
                .filter(|file| !file.starts_with("usr/share/licenses/"))
                // rpmbuild compresses man pages, as the distribution has it.
                .map(|file| file.trim_end_matches(".gz").to_owned()),
        );
    }
    let mut expected: BTreeSet<String> = expected()?
        .into_iter()
        .map(|file| file.replace("usr/local/", "usr/"))
        .collect();
    expected.remove("usr/share/criu-signals/installed");
    ensure!(
        found == expected,
        "too much: {:?}; missing: {:?}",
        found.difference(&expected).collect::<Vec<_>>(),
        expected.difference(&found).collect::<Vec<_>>()
    );
    Ok(())
}

// ---- the static command --------------------------------------------------------------------------------------------

/// What `make static` makes.
fn static_command() -> PathBuf {
    config::target_dir().join("static/criu-signals")
}

/// In a root that has the program and /proc, and nothing else: no C library, no criu, no /dev.
fn static_empty_root(dir: &RunDir) -> Result<()> {
    let root = dir.file("root");
    fs::create_dir_all(root.join("proc"))?;
    fs::copy(static_command(), root.join("criu-signals"))?;
    mount(
        Some("/proc"),
        &root.join("proc"),
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .context("mounting /proc")?;
    let says = |args: &[&str]| {
        let mut command = Command::new("chroot");
        command.arg(&root).arg("/criu-signals").args(args);
        run(&mut command)
    };
    let succeeds = |args: &[&str]| {
        let (output, said) = says(args)?;
        ensure!(
            output.status.success(),
            "{args:?}: {}: {said}",
            output.status
        );
        Ok(said)
    };

    let victim = start("demo", None, dir)?;
    let pid = victim.pid().to_string();
    let shown = succeeds(&["show", &pid])?;
    ensure!(shown.contains(&format!("process {pid} (demo)")), "{shown}");
    let listed = succeeds(&["ps", "--pending"])?;
    ensure!(
        listed
            .lines()
            .any(|line| line.starts_with(&format!("{pid} "))),
        "{listed}"
    );
    succeeds(&["dump", "-t", &pid, "-D", "/"])?;
    let image = format!("/signals-{pid}.img");
    let decoded = succeeds(&["decode", &image])?;
    ensure!(decoded.contains("\"format_version\""), "{decoded}");
    let shown = succeeds(&["show", &image])?;
    ensure!(shown.contains("(demo)"), "{shown}");
    succeeds(&["verify", "-D", "/"])?;

    // What needs a criu says so.
    let (output, said) = says(&["plugin-dir"])?;
    ensure!(
        output.status.code() == Some(2) && said.contains("no criu in PATH"),
        "{}: {said}",
        output.status
    );
    let (_, said) = says(&["check"])?;
    ensure!(said.contains("missing  criu"), "{said}");
    Ok(())
}
