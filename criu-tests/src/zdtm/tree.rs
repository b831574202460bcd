//! A copy of the suite out of CRIU's source tree, built: nothing is written into the tree itself.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, FileTimes};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// What the suite needs of CRIU's tree: itself, and the plugin header for the plugin that one of its tests builds.
const NEEDED: [&str; 2] = ["test", "criu/include"];

/// Why the tests run as root instead of the user that zdtm.py chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AsRoot {
    /// criu then can't dump a process of another user.
    NoSysResource,
    /// That user can't get into a folder above the copy.
    Closed(PathBuf),
}

impl fmt::Display for AsRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AsRoot::NoSysResource => f.write_str(
                "this machine gives nobody CAP_SYS_RESOURCE, and criu then can't dump a process of another user",
            ),
            AsRoot::Closed(dir) => write!(
                f,
                "{} is closed to the user that zdtm.py gives its tests",
                dir.display()
            ),
        }
    }
}

/// A copy, ready to be run.
#[derive(Debug)]
pub struct Tree {
    /// The folder with `zdtm.py`.
    pub test: PathBuf,
    /// Tests that did not build, as `make` names them.
    pub unbuilt: BTreeSet<String>,
}

/// The version of CRIU's tree at `source`: "4.1.1".
///
/// # Errors
/// If `source` is not such a tree.
pub fn version(source: &Path) -> Result<String> {
    if source.join("HEAD").is_file() && source.join("objects").is_dir() {
        bail!(
            "{0} is a bare repository; a tree comes out of it by: git --git-dir={0} archive v4.2 | tar x -C DIR",
            source.display()
        );
    }
    let path = source.join("Makefile.versions");
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "{}: CRIU_SRC is to be the top of CRIU's source tree",
            path.display()
        )
    })?;
    ensure!(
        source.join("test/zdtm.py").is_file(),
        "{} has no test/zdtm.py",
        source.display()
    );
    version_in(&text).with_context(|| format!("no version in {}", path.display()))
}

/// As CRIU's makefile joins it: an empty MINOR or SUBLEVEL leaves no dot.
fn version_in(makefile: &str) -> Option<String> {
    let value = |name: &str| {
        makefile.lines().find_map(|line| {
            let rest = line.strip_prefix("CRIU_VERSION_")?.strip_prefix(name)?;
            Some(rest.trim_start().strip_prefix(":=")?.trim().to_owned())
        })
    };
    let mut version = value("MAJOR").filter(|major| !major.is_empty())?;
    for part in ["MINOR", "SUBLEVEL", "EXTRA"] {
        match value(part) {
            Some(number) if !number.is_empty() => version = format!("{version}.{number}"),
            _ => {}
        }
    }
    Some(version)
}

/// Copies the suite from `source` to `copy`, or what of it has changed since, and builds it with `jobs` at a time. What
/// the build says goes to `log`.
///
/// # Errors
/// If it can't be copied, or nothing can be built.
pub fn prepare(
    source: &Path,
    version: &str,
    copy: &Path,
    as_root: Option<&AsRoot>,
    jobs: usize,
    log: &Path,
) -> Result<Tree> {
    // A copy of another tree would keep tests that this one does not have.
    let origin = format!("{} {version}\n", source.display());
    let stamp = copy.join("copied-from");
    if fs::read_to_string(&stamp).is_ok_and(|of| of != origin) {
        fs::remove_dir_all(copy).with_context(|| format!("removing {}", copy.display()))?;
    }
    fs::create_dir_all(copy).with_context(|| format!("making {}", copy.display()))?;
    fs::write(&stamp, origin).with_context(|| stamp.display().to_string())?;
    for part in NEEDED {
        copy_changed(&source.join(part), &copy.join(part))?;
    }
    let test = copy.join("test");
    let script = test.join("zdtm.py");
    if as_root.is_some() {
        let text = fs::read_to_string(&script).with_context(|| script.display().to_string())?;
        let text = run_as_root(&text).with_context(|| script.display().to_string())?;
        fs::write(&script, text).with_context(|| script.display().to_string())?;
    }
    // It leads to a pycriu that is there in a built tree only, and must be of the criu that is run.
    match fs::remove_file(test.join("pycriu")) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).context("removing test/pycriu"),
        _ => {}
    }
    let unbuilt = build(&test, jobs, log)?;
    Ok(Tree { test, unbuilt })
}

/// Makes zdtm.py start its tests as root: where it gives them a user, a group and groups (`zdtm_test.start`).
fn run_as_root(script: &str) -> Result<String> {
    let mut text = script.to_owned();
    for (variable, value, root) in [
        ("ZDTM_UID", "18943", "0"),
        ("ZDTM_GID", "58467", "0"),
        ("ZDTM_GROUPS", "27495 48244", ""),
    ] {
        let line = format!("env['{variable}'] = \"{value}\"");
        ensure!(
            text.matches(&line).count() == 1,
            "{line} is not there once: this zdtm.py is not one that is known here"
        );
        text = text.replace(&line, &format!("env['{variable}'] = \"{root}\""));
    }
    Ok(text)
}

/// Copies a folder: files whose size or time is another, links as links, and nothing else. What is in `to` besides
/// stays, such as what was built there.
fn copy_changed(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry.with_context(|| from.display().to_string())?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().context("file type")?;
        let there = target.symlink_metadata().ok();
        if kind.is_dir() {
            // Images of an earlier run of the suite in the user's tree.
            if entry.file_name() != "dump" {
                copy_changed(&source, &target)?;
            }
        } else if kind.is_symlink() {
            let leads = fs::read_link(&source).with_context(|| source.display().to_string())?;
            if there.is_some() {
                fs::remove_file(&target).with_context(|| target.display().to_string())?;
            }
            symlink(leads, &target).with_context(|| target.display().to_string())?;
        } else if kind.is_file() {
            let is = entry.metadata().context("metadata")?;
            let same = there.is_some_and(|was| {
                (was.len(), was.mtime(), was.mtime_nsec())
                    == (is.len(), is.mtime(), is.mtime_nsec())
            });
            if !same {
                copy_file(&source, &is, &target)?;
            }
        }
    }
    Ok(())
}

/// With mode and times, by which make tells what is to be built.
fn copy_file(source: &Path, is: &fs::Metadata, target: &Path) -> Result<()> {
    let failed = || format!("copying {} to {}", source.display(), target.display());
    fs::copy(source, target).with_context(failed)?;
    let modified = is.modified().with_context(failed)?;
    let mode = fs::Permissions::from_mode(is.mode() | 0o200);
    fs::set_permissions(target, mode).with_context(failed)?;
    File::options()
        .write(true)
        .open(target)
        .and_then(|file| file.set_times(FileTimes::new().set_modified(modified)))
        .with_context(failed)
}

/// Builds the helpers and the tests. A test that does not build is left out, since one compiler's warning (the suite
/// has -Werror) need not hold up the others.
fn build(test: &Path, jobs: usize, log: &Path) -> Result<BTreeSet<String>> {
    fs::write(log, "").with_context(|| log.display().to_string())?;
    let jobs = format!("-j{jobs}");
    let helpers = make(test, &["umount2", "zdtm_ct"], log)?;
    let tests = make(test, &["-C", "zdtm", "-k", &jobs], log)?;
    let said = fs::read(log).with_context(|| log.display().to_string())?;
    let unbuilt = failed_targets(&String::from_utf8_lossy(&said));
    let library = test.join("zdtm/lib/libzdtmtst.a").is_file();
    ensure!(
        helpers && library && (tests || !unbuilt.is_empty()),
        "the suite does not build: see {}",
        log.display()
    );
    Ok(unbuilt)
}

fn make(test: &Path, args: &[&str], log: &Path) -> Result<bool> {
    let file = || File::options().append(true).open(log);
    let mut command = Command::new("make");
    command.args(args).current_dir(test).stdin(Stdio::null());
    command.stdout(file().context("build log")?);
    command.stderr(file().context("build log")?);
    not_of_this_make(&mut command);
    Ok(command.status().context("starting make")?.success())
}

/// What `make zdtm TESTS=... CRIU=...` hands down would set variables of the same names in CRIU's makefiles.
pub(super) fn not_of_this_make(command: &mut Command) {
    for name in ["MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "TESTS"] {
        command.env_remove(name);
    }
}

/// `make[1]: *** [Makefile:740: criu-rtc.so] Error 1`: the targets, not the folders that failed for them.
fn failed_targets(log: &str) -> BTreeSet<String> {
    let target = |line: &str| {
        let (_, rest) = line.split_once("*** [")?;
        let (rule, _) = rest.split_once(']')?;
        let target = rule.rsplit(": ").next()?;
        let folder = ["lib", "static", "transition"].contains(&target);
        (!folder).then(|| target.to_owned())
    };
    log.lines().filter_map(target).collect()
}

/// The first folder on the way to `path` that others than its owner can't enter.
pub fn closed_folder(path: &Path) -> Option<PathBuf> {
    let closed = |dir: &&Path| fs::metadata(dir).is_ok_and(|m| m.mode() & 0o001 == 0);
    path.ancestors().find(closed).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_joined_as_the_makefile_does() {
        let makefile = |parts: [&str; 4]| {
            let names = ["MAJOR", "MINOR", "SUBLEVEL", "EXTRA"];
            let lines: Vec<String> = names
                .iter()
                .zip(parts)
                .map(|(name, value)| format!("CRIU_VERSION_{name}\t:= {value}\n"))
                .collect();
            lines.concat() + "CRIU_VERSION_NAME\t:= X\n"
        };
        let version = |parts| version_in(&makefile(parts));
        assert_eq!(version(["4", "1", "1", ""]).as_deref(), Some("4.1.1"));
        assert_eq!(version(["4", "2", "", ""]).as_deref(), Some("4.2"));
        assert_eq!(version(["", "2", "", ""]), None);
        assert_eq!(version_in("nothing"), None);
    }

    #[test]
    fn only_a_script_that_is_known_is_changed() {
        let script = "  env['ZDTM_UID'] = \"18943\"\n  env['ZDTM_GID'] = \"58467\"\n  \
                      env['ZDTM_GROUPS'] = \"27495 48244\"\n";
        let changed = run_as_root(script).unwrap();
        assert!(changed.contains("env['ZDTM_UID'] = \"0\""));
        assert!(changed.contains("env['ZDTM_GROUPS'] = \"\""));
        assert!(run_as_root(&script.replace("18943", "18944")).is_err());
        assert!(run_as_root(&script.repeat(2)).is_err());
    }

    #[test]
    fn targets_that_failed() {
        let log = "criu-rtc.c:12:10: fatal error: criu-plugin.h: No such file\n\
                   make[1]: *** [Makefile:740: criu-rtc.so] Error 1\n\
                   make[1]: *** [../Makefile.inc:68: netns_sub_veth.o] Error 1\n\
                   make[1]: Target 'all' not remade because of errors.\n\
                   make: *** [Makefile:7: static] Error 2\n";
        let expected = ["criu-rtc.so", "netns_sub_veth.o"].map(str::to_owned);
        assert_eq!(failed_targets(log), BTreeSet::from(expected));
    }

    /// A folder below the target folder, gone at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("zdtm-unit-{name}-{}", std::process::id());
            let dir = crate::config::target_dir().join(name);
            fs::create_dir_all(&dir).unwrap();
            Scratch(dir)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_has_changed_is_copied_and_the_rest_stays() {
        let scratch = Scratch::new("copy");
        let (from, to) = (scratch.0.join("from"), scratch.0.join("to"));
        fs::create_dir_all(from.join("sub/dump")).unwrap();
        fs::write(from.join("sub/a"), "1").unwrap();
        fs::write(from.join("sub/dump/x"), "1").unwrap();
        symlink("nowhere", from.join("link")).unwrap();
        copy_changed(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("sub/a")).unwrap(), "1");
        assert_eq!(
            fs::read_link(to.join("link")).unwrap(),
            PathBuf::from("nowhere")
        );
        assert!(!to.join("sub/dump").exists());

        // Built in the copy: it stays. Changed in the copy or in the source: it is copied again.
        fs::write(to.join("sub/a.o"), "built").unwrap();
        fs::write(to.join("sub/a"), "patched").unwrap();
        copy_changed(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("sub/a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(to.join("sub/a.o")).unwrap(), "built");
        let (was, is) = (
            fs::metadata(from.join("sub/a")),
            fs::metadata(to.join("sub/a")),
        );
        assert_eq!(
            was.unwrap().modified().unwrap(),
            is.unwrap().modified().unwrap()
        );
    }

    #[test]
    fn what_is_no_tree_is_said() {
        let scratch = Scratch::new("version");
        let said = |dir: &Path| format!("{:#}", version(dir).unwrap_err());
        assert!(said(&scratch.0).contains("CRIU_SRC"));
        fs::create_dir(scratch.0.join("objects")).unwrap();
        fs::write(scratch.0.join("HEAD"), "").unwrap();
        assert!(said(&scratch.0).contains("bare"));
    }

    #[test]
    fn closed_folders_are_found() {
        let scratch = Scratch::new("closed");
        let inner = scratch.0.join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let mode = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(scratch.0.join("a"), mode(0o755)).unwrap();
        assert_ne!(closed_folder(&inner), Some(scratch.0.join("a")));
        fs::set_permissions(scratch.0.join("a"), mode(0o700)).unwrap();
        assert_eq!(closed_folder(&inner), Some(scratch.0.join("a")));
    }
}
