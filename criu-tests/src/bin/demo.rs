//! `make demo`: dumps and restores a program by a real criu with the plugin, and shows its signal state before, in the
//! image, and after.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use comfy_table::{ContentArrangement, Table, presets};
use criu_signals::engine::capture;
use criu_signals::images::{Pid, ProcessState, SigNo, image};
use criu_signals::tracee::{ByUs, StoppedProcess};
use criu_tests::criu::Criu;
use criu_tests::ns;
use criu_tests::rundir::RunDir;
use criu_tests::victim::{Victim, reap_all};
use criu_tests::{config, plugin};

const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    ns::main("demo", outside, inside)
}

/// The demo's own pids must be free at the restore, so it runs in a pid namespace, as the scenarios do.
fn outside() -> Result<()> {
    let dir = RunDir::create(&config::target_dir().join("demo"))?;
    ns::run_and_print(&[&dir.path().to_string_lossy()], &dir, PATIENCE)
}

fn inside() -> Result<()> {
    let path = std::env::args_os().nth(1).context("no folder")?;
    let dir = RunDir::open(path.as_ref());
    let criu = Criu::new(&config::criu()?, &config::plugin_dir()?);
    println!(
        "criu {}, with {}",
        criu.version()?,
        config::plugin_dir()?.join(config::PLUGIN_FILE).display()
    );

    let victim = Victim::start(&config::victim("demo", false), None, &dir, false)?;
    let pid = victim.pid();
    let before = look_at(pid)?;

    let dump = criu.dump(pid, &dir.images(), false)?;
    ensure!(dump.ok, "the dump failed:\n{}", dump.tail(20));
    println!("dumped and gone: {}", said(&dump.log));
    reap_all()?;
    let file = dir.images().join(image::file_name(pid));
    let in_image = image::open(&file)?.process;

    let (restore, restored) = criu.restore(&dir.images())?;
    ensure!(restore.ok, "the restore failed:\n{}", restore.tail(20));
    println!("restored: {}\n", said(&restore.log));
    let restored = restored.context("no pid")?;
    let after = look_at(restored)?;

    println!("{}", table(&before, &in_image, &after));
    let verdict = plugin::verdicts(&restore.log);
    ensure!(
        matches!(verdict.as_slice(), [Ok(plugin::Verdict::Verified)]),
        "the verdict is not \"verified\": {verdict:?}"
    );
    println!("The plugin's verdict: verified.");
    Victim::restored(restored, &dir)
        .finish(PATIENCE)
        .map_err(|why| why.context("what the program itself says"))?;
    println!("The program looked at itself, entry by entry, and says: PASS.\n");
    println!(
        "The images are in {}. To look at them:",
        dir.images().display()
    );
    let command = config::target_dir().join("debug/criu-signals");
    println!("  {} show {}", command.display(), file.display());
    println!("  {} decode {}", command.display(), file.display());
    Ok(())
}

/// The state of a live process: it is stopped for that, for less than a millisecond.
fn look_at(pid: i32) -> Result<ProcessState> {
    let stopped = StoppedProcess::<ByUs>::seize(Pid::new(pid).context("no pid")?, PATIENCE)?;
    let image = capture::image(&stopped);
    stopped.release()?;
    Ok(image?.process)
}

/// What the plugin wrote last to criu's log, without the time.
fn said(log: &str) -> String {
    let last = plugin::lines(log)
        .last()
        .unwrap_or("the plugin said nothing");
    last.split_once(plugin::PREFIX)
        .map_or(last, |(_, text)| text)
        .to_owned()
}

/// One row for each item; "same" where it is as in the column before.
fn table(before: &ProcessState, image: &ProcessState, after: &ProcessState) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["item", "before", "image", "after"]);
    let columns = [before, image, after].map(items);
    for (i, (name, value)) in columns[0].iter().enumerate() {
        let other = |column: usize| match columns[column].get(i) {
            Some((other, other_value)) if other == name && other_value == value => {
                "same".to_owned()
            }
            Some((_, other_value)) => other_value.clone(),
            None => "missing".to_owned(),
        };
        table.add_row([name.clone(), value.clone(), other(1), other(2)]);
    }
    table
}

fn items(process: &ProcessState) -> Vec<(String, String)> {
    let mut items = vec![("state".to_owned(), process.run_state.to_string())];
    for signo in SigNo::all() {
        let disposition = &process.dispositions[signo];
        if !disposition.is_default_handler() {
            items.push((signo.to_string(), disposition.to_string()));
        }
    }
    let limit = process.rlimit_sigpending;
    items.push(("RLIMIT_SIGPENDING".to_owned(), limit.to_string()));
    for (n, info) in process.shared.queue.iter().enumerate() {
        items.push((format!("shared queue {}", n + 1), info.to_string()));
    }
    for thread in &process.threads {
        let name = |what: &str| format!("thread {} {what}", thread.ids.innermost());
        items.push((name("mask"), thread.lasting_mask().to_string()));
        items.push((name("altstack"), thread.altstack.to_string()));
        for (n, info) in thread.pending.queue.iter().enumerate() {
            items.push((name(&format!("queue {}", n + 1)), info.to_string()));
        }
    }
    items
}
