//! Runs a test in its own namespace: one function call, with a complete message if the test fails.

use std::env;
use std::fmt::Write as _;
use std::time::Duration;

use crate::config;
use crate::ns::{self, Ended};
use crate::rundir::RunDir;

/// A run takes well under a second, on a busy machine some. What hangs is ended, and its logs are shown.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Runs this program again as pid 1 of a namespace, with these arguments and the path of the run's folder behind them.
/// What it says goes to the file `run` there; if it fails, that and the ends of the logs are the message, and the
/// folder stays. `binary` is the name of the test program, for the command that runs it once more.
pub fn isolated(binary: &str, name: &str, args: &[&str]) -> Result<(), String> {
    isolated_for(PATIENCE, binary, name, args)
}

/// As [`isolated`], for a run that may take longer or must be quicker.
pub fn isolated_for(
    patience: Duration,
    binary: &str,
    name: &str,
    args: &[&str],
) -> Result<(), String> {
    let path = config::target_dir().join("criu-tests").join(name);
    let dir = RunDir::create(&path).map_err(|why| format!("{why:#}"))?;
    let folder = path.to_string_lossy();
    let args = [args, &[folder.as_ref()]].concat();
    let why = match ns::run(&args, &dir.file("run"), patience) {
        Ok(Ended::With(status)) if status.success() => {
            return dir.remove().map_err(|why| format!("{why:#}"));
        }
        Ok(Ended::With(status)) => match dir.read("run") {
            said if said.trim().is_empty() => format!("the run ended: {status}"),
            said => said.trim_end().to_owned(),
        },
        Ok(Ended::TimedOut) => format!("ended after {} s\n{}", patience.as_secs(), dir.read("run")),
        Err(why) => format!("{why:#}"),
    };
    Err(message(binary, name, &dir, &why))
}

/// A test that needs no namespace. A failed run keeps its folder.
pub fn in_folder(
    name: &str,
    run: impl FnOnce(&RunDir) -> anyhow::Result<()>,
) -> Result<(), String> {
    let path = config::target_dir().join("criu-tests").join(name);
    let dir = RunDir::create(&path).map_err(|why| format!("{why:#}"))?;
    run(&dir).map_err(|why| format!("{why:#}\nthe folder is {}", path.display()))?;
    dir.remove().map_err(|why| format!("{why:#}"))
}

fn message(binary: &str, name: &str, dir: &RunDir, why: &str) -> String {
    let mut text = format!("{why}\n");
    for log in ["images/dump.log", "images/restore.log"] {
        // The cause often stands far above the end.
        for line in dir
            .read(log)
            .lines()
            .filter(|line| line.contains("Error ("))
            .take(8)
        {
            let _ = writeln!(text, "{log}: {line}");
        }
    }
    for (file, lines) in [
        ("out", 20),
        ("printed", 5),
        ("images/dump.log", 10),
        ("images/restore.log", 10),
    ] {
        let tail = dir.tail(file, lines);
        if !tail.is_empty() {
            let _ = writeln!(text, "--- end of {}\n{tail}", dir.file(file).display());
        }
    }
    let set: String = ["CARGO_TARGET_DIR", "CRIU", "CRIU_SIGNALS_PLUGIN_DIR"]
        .iter()
        .filter_map(|key| Some(format!("{key}={} ", env::var(key).ok()?)))
        .collect();
    let _ = writeln!(
        text,
        "--- once more: {set}cargo test -p criu-tests --test {binary} -- --exact {name}"
    );
    text
}
