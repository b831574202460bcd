//! Tests the metrics of dumps and restores with a real criu.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::images::image;
use criu_tests::cases::{
    self, CHECK, Test, dumped, expect_line, restored, start, test, with_plugin,
};
use criu_tests::criu::{Criu, Step};
use criu_tests::rundir::RunDir;
use criu_tests::victim::Victim;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};

fn main() -> ExitCode {
    cases::main("metrics", tests)
}

const METRICS: &str = "CRIU_SIGNALS_METRICS";

fn tests() -> Vec<Test> {
    let mut tests = vec![
        test("counted", counted),
        test("refused", refused),
        test("not-kept", not_kept),
        test("at-once", at_once),
        test("lock-held", lock_held),
    ];
    tests.extend(
        BAD.iter()
            .map(|bad| test(format!("bad.{}", bad.name), |dir| bad.run(dir))),
    );
    tests
}

/// What the file says: each sample with its labels, and its value.
type Samples = BTreeMap<String, f64>;

/// Reads a file that a reader of OpenMetrics accepts, that every user may read and only its owner may write.
fn read(path: &Path) -> Result<Samples> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let samples = parse(&text).with_context(|| text.clone())?;
    ensure!(fs::metadata(path)?.permissions().mode() & 0o777 == 0o644);
    for entry in fs::read_dir(path.parent().context("it has a folder")?)? {
        let name = entry?.file_name();
        ensure!(
            !name.to_string_lossy().ends_with(".new"),
            "{name:?} is left behind"
        );
    }
    Ok(samples)
}

/// The rules of OpenMetrics 1.0 that apply: TYPE, UNIT and HELP of a family before its samples, families and the samples of
/// one label set together, nothing twice, and the end.
fn parse(text: &str) -> Result<Samples> {
    let text = text.strip_suffix("# EOF\n").context("no end")?;
    let (mut samples, mut families) = (Samples::new(), BTreeSet::new());
    let (mut family, mut kind, mut unit) = (String::new(), String::new(), String::new());
    let mut labels_before: Vec<String> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "TYPE", name, what] => {
                ensure!(families.insert(name.to_owned()), "{name} twice");
                (family, kind, unit) = (name.to_owned(), what.to_owned(), String::new());
                labels_before.clear();
            }
            ["#", "UNIT", name, what] => {
                ensure!(
                    name == family && name.ends_with(&format!("_{what}")),
                    "{line}"
                );
                what.clone_into(&mut unit);
            }
            ["#", "HELP", name, _] => ensure!(name == family && labels_before.is_empty(), "{line}"),
            [sample, value] => {
                let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
                let end = name.strip_prefix(&family).context(line.to_owned())?;
                let ends: &[&str] = match kind.as_str() {
                    "counter" => &["_total"],
                    "summary" => &["_count", "_sum"],
                    "gauge" => &[""],
                    _ => bail!("{kind}"),
                };
                ensure!(ends.contains(&end), "{line}");
                ensure!(family.ends_with("_seconds") != unit.is_empty(), "{line}");
                if labels_before.last().is_none_or(|last| last != labels) {
                    ensure!(!labels_before.iter().any(|l| l == labels), "apart: {line}");
                    labels_before.push(labels.to_owned());
                }
                let value = value.parse()?;
                ensure!(samples.insert(sample.to_owned(), value).is_none(), "{line}");
            }
            _ => bail!("{line:?}"),
        }
    }
    Ok(samples)
}

fn expect(samples: &Samples, wanted: &[(&str, f64)]) -> Result<()> {
    for (name, value) in wanted {
        let found = samples.get(&format!("criu_signals_{name}"));
        ensure!(
            found == Some(value),
            "{name}: {found:?}, not {value}: {samples:#?}"
        );
    }
    Ok(())
}

fn counting(path: &Path) -> Result<Criu> {
    Ok(with_plugin()?.env(METRICS, path))
}

fn file(dir: &RunDir) -> Result<PathBuf> {
    let folder = dir.file("collector");
    fs::create_dir(&folder)?;
    Ok(folder.join("criu.prom"))
}

/// victims/demo.c has four signals in each of its three queues.
const DEMO: f64 = 12.0;

/// Two dumps and a restore are counted one after the other.
fn counted(dir: &RunDir) -> Result<()> {
    let path = file(dir)?;
    let criu = counting(&path)?;
    let victim = start("demo", None, dir)?;
    let first = dir.file("first");
    fs::create_dir(&first)?;
    let dump = criu.dump(victim.pid(), &first, true)?;
    ensure!(dump.ok, "criu dump failed");
    expect_line(&dump, &[&format!("metrics {} written", path.display())])?;
    expect(&read(&path)?, &[("captured_signals_total", DEMO)])?;
    let dump = criu.dump(victim.pid(), &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    criu_tests::victim::reap_all()?;
    let (_, found) = restored(&criu, dir)?;
    found?;
    let samples = read(&path)?;
    expect(
        &samples,
        &[
            ("runs_total{stage=\"dump\",outcome=\"captured\"}", 2.0),
            ("runs_total{stage=\"dump\",outcome=\"failed\"}", 0.0),
            ("runs_total{stage=\"restore\",outcome=\"verified\"}", 1.0),
            ("processes_total{stage=\"dump\",outcome=\"captured\"}", 2.0),
            (
                "processes_total{stage=\"restore\",outcome=\"verified\"}",
                1.0,
            ),
            ("captured_signals_total", 2.0 * DEMO),
            ("compared_signals_total", DEMO),
            ("run_duration_seconds_count{stage=\"dump\"}", 2.0),
            ("process_duration_seconds_count{stage=\"restore\"}", 1.0),
            (
                "last_run_outcome{stage=\"restore\",outcome=\"verified\"}",
                1.0,
            ),
            (
                "last_run_outcome{stage=\"restore\",outcome=\"failed\"}",
                0.0,
            ),
            ("errors_total{stage=\"dump\"}", 0.0),
        ],
    )?;
    for stage in ["dump", "restore"] {
        let of = |name: &str| samples[&format!("criu_signals_{name}{{stage=\"{stage}\"}}")];
        let whole = of("run_duration_seconds_sum");
        ensure!(of("process_duration_seconds_sum") < whole, "{samples:#?}");
        ensure!(of("last_run_duration_seconds") <= whole && whole > 0.0);
        ensure!(of("last_run_timestamp_seconds") > 1.7e9);
    }
    Ok(())
}

/// A dump that the plugin refuses.
fn refused(dir: &RunDir) -> Result<()> {
    let path = file(dir)?;
    let victim = start("demo", None, dir)?;
    let image = dir.images().join(image::file_name(victim.pid()));
    fs::write(image, "precious")?;
    let dump = counting(&path)?.dump(victim.pid(), &dir.images(), false)?;
    ensure!(!dump.ok, "criu dump has succeeded");
    expect(
        &read(&path)?,
        &[
            ("runs_total{stage=\"dump\",outcome=\"refused\"}", 1.0),
            ("processes_total{stage=\"dump\",outcome=\"refused\"}", 1.0),
            ("last_run_outcome{stage=\"dump\",outcome=\"refused\"}", 1.0),
            ("captured_signals_total", 0.0),
        ],
    )?;
    victim.finish(CHECK)
}

/// Restores a tree of which one process's image is missing.
fn not_kept(dir: &RunDir) -> Result<()> {
    let path = file(dir)?;
    let root = dumped("process_tree", dir)?;
    let of_a_child =
        |name: &String| name.starts_with("signals-") && *name != image::file_name(root);
    let names = fs::read_dir(dir.images())?;
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let name = names.into_iter().find(of_a_child).context("no image")?;
    fs::remove_file(dir.images().join(name))?;
    let (_, _) = counting(&path)?.restore(&dir.images())?;
    let samples = read(&path)?;
    expect(
        &samples,
        &[
            ("runs_total{stage=\"restore\",outcome=\"failed\"}", 1.0),
            ("processes_total{stage=\"restore\",outcome=\"failed\"}", 1.0),
        ],
    )?;
    ensure!(samples["criu_signals_errors_total{stage=\"restore\"}"] > 0.0);
    Ok(())
}

/// Several dumps that end at once are all counted.
fn at_once(dir: &RunDir) -> Result<()> {
    let path = file(dir)?;
    let criu = counting(&path)?;
    let mut running = Vec::new();
    for number in 0..4 {
        // Each victim has an output of its own.
        let dir = RunDir::create(&dir.file(&number.to_string()))?;
        let victim = start("demo", None, &dir)?;
        let dump = criu.start_dump(victim.pid(), &dir.images(), true)?;
        running.push((victim, dump));
    }
    for (_, dump) in &mut running {
        ensure!(dump.wait()?.success(), "a dump failed");
    }
    expect(&read(&path)?, &[("captured_signals_total", 4.0 * DEMO)])?;
    running
        .into_iter()
        .try_for_each(|(victim, _)| victim.finish(CHECK))
}

/// A lock that is never given up holds up no dump.
fn lock_held(dir: &RunDir) -> Result<()> {
    let path = file(dir)?;
    let lock = path.with_file_name(".criu.prom.lock");
    let lock = File::create(lock)?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let (victim, dump) = dump_with(&path, dir)?;
    warned(&dump, &path, "EAGAIN")?;
    ensure!(!path.exists());
    victim.finish(CHECK)
}

fn dump_with(path: &Path, dir: &RunDir) -> Result<(Victim, Step)> {
    let victim = start("demo", None, dir)?;
    let dump = counting(path)?.dump(victim.pid(), &dir.images(), true)?;
    ensure!(dump.ok, "criu dump failed");
    Ok((victim, dump))
}

fn warned(dump: &Step, path: &Path, why: &str) -> Result<()> {
    let path = path.display().to_string();
    expect_line(dump, &["Warn", &path, METRICS, why, "not counted"])
}

/// The path, and a file that must stay as it is.
type Prepared = (PathBuf, Option<PathBuf>);

/// A path to which nothing can or may be written.
struct Bad {
    name: &'static str,
    says: &'static str,
    /// Prepares the folder.
    prepare: fn(&Path) -> Result<Prepared>,
}

const BAD: [Bad; 10] = [
    Bad {
        name: "no-folder",
        says: "ENOENT",
        prepare: |folder| Ok((folder.join("nowhere/criu.prom"), None)),
    },
    Bad {
        name: "folder-is-file",
        says: "ENOTDIR",
        prepare: |folder| {
            let file = folder.join("file");
            fs::write(&file, "precious")?;
            Ok((file.join("criu.prom"), Some(file)))
        },
    },
    Bad {
        name: "read-only",
        says: "EROFS",
        prepare: |folder| {
            let none: Option<&str> = None;
            mount(
                Some("tmpfs"),
                folder,
                Some("tmpfs"),
                MsFlags::MS_RDONLY,
                none,
            )
            .context("mounting")?;
            Ok((folder.join("criu.prom"), None))
        },
    },
    Bad {
        name: "is-folder",
        says: "EISDIR",
        prepare: |folder| {
            let path = folder.join("criu.prom");
            fs::create_dir(&path)?;
            Ok((path, None))
        },
    },
    Bad {
        name: "is-link",
        says: "ELOOP",
        prepare: |folder| {
            let (target, path) = (folder.join("target"), folder.join("criu.prom"));
            fs::write(&target, "precious")?;
            symlink("target", &path)?;
            Ok((path, Some(target)))
        },
    },
    Bad {
        name: "lock-is-link",
        says: "ELOOP",
        prepare: |folder| {
            symlink("lock", folder.join(".criu.prom.lock"))?;
            Ok((folder.join("criu.prom"), None))
        },
    },
    Bad {
        name: "link-in-path",
        says: "ELOOP",
        prepare: |folder| {
            fs::create_dir(folder.join("real"))?;
            symlink("real", folder.join("link"))?;
            Ok((folder.join("link/criu.prom"), None))
        },
    },
    Bad {
        name: "not-metrics",
        says: "the file is left as it is",
        prepare: |folder| {
            let path = folder.join("passwd");
            fs::write(&path, "root:x:0:0:precious\n")?;
            Ok((path.clone(), Some(path)))
        },
    },
    Bad {
        name: "of-another-user",
        says: "it belongs to user 65534",
        prepare: |folder| {
            let path = folder.join("criu.prom");
            fs::write(&path, "precious")?;
            chown(&path, Some(65534), None)?;
            Ok((path.clone(), Some(path)))
        },
    },
    Bad {
        name: "writable-by-others",
        says: "mode 0666",
        prepare: |folder| {
            let path = folder.join("criu.prom");
            fs::write(&path, "precious")?;
            fs::set_permissions(&path, Permissions::from_mode(0o666))?;
            Ok((path.clone(), Some(path)))
        },
    },
];

impl Bad {
    /// The dump is none the worse, its log says why nothing is counted, and nothing is written anywhere.
    fn run(&self, dir: &RunDir) -> Result<()> {
        let folder = dir.file("collector");
        fs::create_dir(&folder)?;
        let (path, precious) = (self.prepare)(&folder)?;
        let before = names(&folder)?;
        let (victim, dump) = dump_with(&path, dir)?;
        warned(&dump, &path, self.says)?;
        if let Some(file) = precious {
            ensure!(fs::read_to_string(file)?.contains("precious"));
        }
        let mut after = names(&folder)?;
        after.retain(|name| before.contains(name) || !name.ends_with(".lock"));
        ensure!(after == before, "{after:?}, not {before:?}");
        victim.finish(CHECK)
    }
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
    let names: Vec<_> = names.collect::<Result<_>>()?;
    let mut names: Vec<_> = names.iter().map(|n| n.display().to_string()).collect();
    names.sort();
    Ok(names)
}
