//! One run of `zdtm.py`, in a pid and mount namespace of its own (see [`crate::ns`]): what a broken run leaves behind,
//! processes and mounts, goes with it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fmt, thread};

use anyhow::{Context as _, Result, bail, ensure};

use super::output::{Event, Outcome, Parser, Results};
use super::tree;
use crate::config;
use crate::ns::{self, Ended};

/// Without the plugin or with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// criu alone.
    Without,
    /// With the plugin's folder in `CRIU_LIBS_DIR`.
    With,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::Without => "without",
            Way::With => "with",
        })
    }
}

/// Which tests.
#[derive(Debug, Clone)]
pub enum Selection {
    /// Every one.
    All,
    /// Those whose names match zdtm.py's regular expression, from their start.
    Matching(String),
}

impl Selection {
    /// By patterns as of file names: `sigpending*` for the name behind the last slash, `zdtm/transition/*` for the whole.
    pub fn from_patterns(patterns: &[String]) -> Self {
        if patterns.is_empty() {
            return Selection::All;
        }
        let whole = |pattern: &String| match pattern.contains('/') {
            true => regex(pattern),
            false => format!("zdtm/[^/]*/{}", regex(pattern)),
        };
        let any: Vec<String> = patterns.iter().map(whole).collect();
        Selection::Matching(format!("(?:{})$", any.join("|")))
    }
}

/// A pattern as of file names as a regular expression of Python's.
fn regex(pattern: &str) -> String {
    let of = |c: char| match c {
        '*' => "[^/]*".to_owned(),
        '?' => "[^/]".to_owned(),
        c if c.is_ascii_alphanumeric() || "_/".contains(c) => c.to_string(),
        c => format!("\\{c}"),
    };
    pattern.chars().map(of).collect()
}

/// What every run of the suite shares.
#[derive(Debug)]
pub struct Suite {
    /// The folder with `zdtm.py`.
    pub test: PathBuf,
    /// The criu that is tested.
    pub criu: PathBuf,
    /// The folder with the plugin.
    pub plugins: PathBuf,
    /// Where pycriu is, for Python.
    pub pycriu: PathBuf,
    /// The Python that has what zdtm.py needs.
    pub python: PathBuf,
    /// How many tests run at a time.
    pub jobs: usize,
}

/// After this a run is ended: no test may hang for ever, but zdtm.py has no limit of its own for the whole.
const PATIENCE: Duration = Duration::from_secs(3 * 3600);

/// The arguments of pid 1 of the namespace, before those for zdtm.py.
const INNER_ARGS: usize = 3;

impl Suite {
    /// Runs it one way, in one flavour. Everything it leaves goes to `to`, which is made anew: `zdtm.log`, what was
    /// printed; `dump/`, the folder of each dump, with criu's logs and of the images only the plugin's unless the test
    /// failed; `failed/`, what was printed about each failed test. `tell` is called as things happen.
    ///
    /// # Errors
    /// If the suite could not be run to its end.
    pub fn run(
        &self,
        way: Way,
        flavour: &str,
        selection: &Selection,
        to: &Path,
        tell: &mut dyn FnMut(Event),
    ) -> Result<Results> {
        remove(to)?;
        fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
        let dump = self.test.join("dump");
        remove(&dump)?;

        let wrapper = self.wrapper(way, to)?;
        let jobs = self.jobs.to_string();
        let text = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .context("a path not in UTF-8")
        };
        let (wrapper, test) = (text(&wrapper)?, text(&self.test)?);
        let (pycriu, python) = (text(&self.pycriu)?, text(&self.python)?);
        let mut args: Vec<&str> = vec![&test, &python, &pycriu];
        debug_assert_eq!(args.len(), INNER_ARGS);
        args.extend(["run", "--criu-bin", &wrapper, "-f", flavour, "-p", &jobs]);
        args.extend(["--keep-going", "--ignore-taint", "--keep-img", "always"]);
        match selection {
            Selection::All => args.push("--all"),
            Selection::Matching(regex) => args.extend(["--tests", regex]),
        }

        let log = to.join("zdtm.log");
        File::create(&log).with_context(|| log.display().to_string())?;
        let over = AtomicBool::new(false);
        let (ended, results) = thread::scope(|scope| {
            let run = scope.spawn(|| {
                let ended = ns::run(&args, &log, PATIENCE);
                over.store(true, Ordering::Release);
                ended
            });
            let results = follow(&log, Parser::for_flavour(flavour), &over, tell);
            (run.join(), results)
        });
        let ended = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let see = || format!("see {}", log.display());
        if let Ended::TimedOut = ended {
            bail!("zdtm.py was ended after {PATIENCE:?}; {}", see());
        }
        // Its exit status says only whether any test failed.
        let results = results.with_context(see)?;
        ensure!(!results.tests.is_empty(), "no test of that name; {}", see());

        for (test, text) in &results.texts {
            let name = format!("failed/{}.log", test.name);
            let path = to.join(name);
            fs::create_dir_all(path.parent().unwrap_or(to)).context("making failed/")?;
            fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
        match fs::rename(&dump, to.join("dump")) {
            // Nothing was dumped.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            moved => moved.with_context(|| format!("moving {}", dump.display()))?,
        }
        let failed: Vec<PathBuf> = results
            .tests
            .iter()
            .filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
            .map(|(test, _)| to.join("dump").join(&test.name))
            .collect();
        prune(&to.join("dump"), &failed)?;
        Ok(results)
    }

    /// zdtm.py sets `CRIU_LIBS_DIR` itself, so the criu that it is given is a script that sets it anew.
    fn wrapper(&self, way: Way, to: &Path) -> Result<PathBuf> {
        let libs = match way {
            Way::With => self.plugins.clone(),
            Way::Without => {
                let empty = to.join("no-plugins");
                fs::create_dir_all(&empty).context("making no-plugins")?;
                empty
            }
        };
        let path = to.join("criu");
        let script = format!(
            "#!/bin/sh\nCRIU_LIBS_DIR={} exec {} \"$@\"\n",
            quoted(&libs)?,
            quoted(&self.criu)?
        );
        fs::write(&path, script).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

/// For a shell.
fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().context("a path not in UTF-8")?;
    Ok(format!("'{}'", text.replace('\'', "'\\''")))
}

/// What pid 1 of the namespace does: see [`Suite::run`] for its arguments.
///
/// # Errors
/// If zdtm.py can't be started.
pub fn inside(args: &[String]) -> Result<()> {
    let Some(([test, python, pycriu], args)) = args.split_first_chunk::<INNER_ARGS>() else {
        bail!("pid 1 needs the suite's folder, a Python, and the folder of pycriu");
    };
    // zdtm.py calls itself once more for each test, by the python3 in PATH.
    let bin = Path::new(python).parent().unwrap_or(Path::new("/"));
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([bin.to_owned()].into_iter().chain(env::split_paths(&path)))
        .context("PATH")?;
    let mut command = Command::new(python);
    command.arg("./zdtm.py").args(args).current_dir(test);
    command.env("PATH", path).env("PYTHONPATH", pycriu);
    // What is printed is read while it runs.
    command.env("PYTHONUNBUFFERED", "1");
    tree::not_of_this_make(&mut command);
    // What make sets for the tests would be settings that the plugin does not know, of which it warns.
    for name in ["CRIU_SIGNALS_PLUGIN_DIR", "CRIU_SIGNALS_FAULTS_DIR"] {
        command.env_remove(name);
    }
    // Failed tests are in the output.
    command.status().context("starting zdtm.py")?;
    Ok(())
}

/// Reads the log as it grows, until `over`.
fn follow(
    log: &Path,
    mut parser: Parser,
    over: &AtomicBool,
    tell: &mut dyn FnMut(Event),
) -> Result<Results> {
    let file = File::open(log).with_context(|| log.display().to_string())?;
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        // Asked before reading: what was written until then is read below.
        let last = over.load(Ordering::Acquire);
        while reader.read_until(b'\n', &mut line).context("reading")? != 0 {
            if line.last() != Some(&b'\n') && !last {
                break;
            }
            let text = String::from_utf8_lossy(&line);
            if let Some(event) = parser.line(text.trim_end_matches(['\n', '\r'])) {
                tell(event);
            }
            line.clear();
        }
        if last {
            return parser.end();
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Removes CRIU's images, which are large; those of `keep` stay, and so do logs and the plugin's own images.
fn prune(dir: &Path, keep: &[PathBuf]) -> Result<()> {
    if keep.iter().any(|kept| kept == dir) || !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry.with_context(|| dir.display().to_string())?;
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type().context("file type")?.is_dir() {
            prune(&path, keep)?;
        } else if name.ends_with(".img") && !name.starts_with("signals-") {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// How long something took, as minutes and seconds.
pub fn duration(start: Instant) -> String {
    let seconds = start.elapsed().as_secs();
    format!("{} min {:02} s", seconds / 60, seconds % 60)
}

/// A Python that has what zdtm.py imports: that of PATH, or the system's, for which the packages are.
///
/// # Errors
/// If neither has.
pub fn python(pycriu: &Path) -> Result<PathBuf> {
    let mut tried = String::new();
    let system = PathBuf::from("/usr/bin/python3");
    for python in config::in_path("python3").into_iter().chain([system]) {
        let out = Command::new(&python)
            .args(["-c", "import yaml, pycriu"])
            .env("PYTHONPATH", pycriu)
            .output();
        match out {
            Ok(out) if out.status.success() => return Ok(python),
            Ok(out) => {
                let said = String::from_utf8_lossy(&out.stderr);
                let why = said.lines().last().unwrap_or("it failed");
                tried += &format!("\n{}: {why}", python.display());
            }
            Err(e) => tried += &format!("\n{}: {e}", python.display()),
        }
    }
    bail!(
        "zdtm.py needs a Python with yaml and pycriu (for PYTHONPATH: target/criu/pycriu):{tried}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_of_whole_names() {
        let of = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            match Selection::from_patterns(&patterns) {
                Selection::All => "all".to_owned(),
                Selection::Matching(regex) => regex,
            }
        };
        assert_eq!(of(&[]), "all");
        assert_eq!(of(&["sigpending"]), "(?:zdtm/[^/]*/sigpending)$");
        assert_eq!(
            of(&["stopped0?", "sk-unix*"]),
            r"(?:zdtm/[^/]*/stopped0[^/]|zdtm/[^/]*/sk\-unix[^/]*)$"
        );
        assert_eq!(of(&["zdtm/transition/*"]), "(?:zdtm/transition/[^/]*)$");
        assert_eq!(
            of(&["unlink_fstat01+"]),
            r"(?:zdtm/[^/]*/unlink_fstat01\+)$"
        );
    }

    #[test]
    fn paths_are_one_word_for_a_shell() {
        assert_eq!(quoted(Path::new("/a b/it's")).unwrap(), r"'/a b/it'\''s'");
    }
}
