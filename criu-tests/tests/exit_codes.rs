//! Compares docs/exit-codes.md with what the command and criu really end with.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use criu_signals::images::{SigNo, image};
use criu_tests::cases::{self, CHECK, Test, dumped, start, test, with_plugin};
use criu_tests::config;
use criu_tests::criu::Criu;
use criu_tests::procfs::Pid;
use criu_tests::rundir::RunDir;
use criu_tests::six::Sleeper;
use criu_tests::victim::{Victim, reap_all};

fn main() -> ExitCode {
    cases::main("exit_codes", tests)
}

fn tests() -> Vec<Test> {
    vec![
        test("command", command_as_documented),
        test("command.any", any_command),
        test("criu.dump", criu_dump),
        test("criu.restore", criu_restore),
    ]
}

const DOCUMENT: &str = include_str!("../../docs/exit-codes.md");

/// Codes for which a terminal, a file system, a machine or a signal at an instant is needed, and the program that tests them.
const ELSEWHERE: [(&str, i32, &str); 9] = [
    ("top", 0, "top"),
    ("watch", 0, "watch"),
    ("trace", 0, "trace"),
    ("trace", 1, "trace"),
    ("mount", 0, "mount"),
    ("unmount", 0, "mount"),
    ("check", 0, "command"),
    ("check", 1, "command"),
    ("check", 2, "command"),
];

/// The rows of the table of commands: command and code.
fn documented() -> BTreeSet<(String, i32)> {
    let row = |line: &str| {
        let (command, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let (code, _) = rest.split_once(" | ")?;
        Some((command.to_owned(), code.parse().ok()?))
    };
    DOCUMENT.lines().filter_map(row).collect()
}

/// What the commands are tried on.
struct World {
    /// Blocks SIGUSR1.
    process: Pid,
    other: Pid,
    images: String,
    image: String,
    /// An image whose state the process cannot get.
    beyond: String,
    json: String,
    folder: String,
    /// A text for `blocked`.
    mask: String,
    garbage: String,
}

const NONE: &str = "999999";

/// In this order: what a command changes, later ones find.
type Case = (&'static str, i32, fn(&World) -> Vec<String>);

const CASES: [Case; 32] = [
    ("show", 0, |w| words(&[&w.pid()])),
    ("show", 2, |_| words(&[NONE])),
    ("ps", 0, |_| words(&[])),
    ("ps", 2, |_| words(&[NONE])),
    ("top", 2, |_| words(&[])),
    ("watch", 2, |_| words(&[NONE])),
    ("trace", 2, |_| words(&[NONE])),
    ("dump", 0, |w| words(&["-t", &w.pid(), "-D", &w.images])),
    ("dump", 2, |w| words(&["-t", NONE, "-D", &w.images])),
    ("verify", 0, |w| words(&["-D", &w.images])),
    ("diff", 0, |w| words(&[&w.image, &w.image])),
    ("diff", 1, |w| words(&[&w.pid(), &w.other.to_string()])),
    ("diff", 2, |w| words(&[&w.pid(), NONE])),
    ("decode", 0, |w| words(&[&w.image])),
    ("decode", 2, |w| words(&[&w.garbage])),
    ("send", 0, |w| words(&[&w.pid(), "USR1"])),
    ("send", 1, |w| words(&[&w.pid(), "USR1"])),
    ("send", 2, |_| words(&[NONE, "USR1"])),
    ("verify", 1, |w| words(&["-D", &w.images])),
    ("verify", 2, |w| words(&["-D", &w.folder])),
    ("cat", 0, |w| words(&[&format!("{}/blocked", w.pid())])),
    ("cat", 2, |_| words(&["999999/blocked"])),
    ("clear", 0, |w| words(&[&w.pid(), "pending", "USR1"])),
    ("clear", 2, |_| words(&[NONE, "pending", "USR1"])),
    ("set", 0, |w| words(&[&w.pid(), "blocked", "+USR2"])),
    ("set", 2, |_| words(&[NONE, "blocked", "+USR2"])),
    ("write", 0, |w| {
        words(&[&format!("{}/blocked", w.pid()), &w.mask])
    }),
    ("write", 2, |w| {
        words(&[&format!("{}/blocked", w.pid()), &w.garbage])
    }),
    ("restore", 0, |w| words(&["-D", &w.images])),
    ("restore", 2, |w| words(&["-D", &w.folder])),
    ("mount", 2, |_| words(&["/nowhere"])),
    ("unmount", 2, |w| words(&[&w.folder])),
];

impl World {
    fn pid(&self) -> String {
        self.process.to_string()
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Without a terminal.
fn code(command: &mut Command) -> Result<(i32, String)> {
    let output = command.stdin(Stdio::null()).output()?;
    let code = output.status.code().unwrap_or(-1);
    Ok((code, String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn call(command: &str, args: &[String]) -> Result<(i32, String)> {
    code(Command::new(config::command()?).arg(command).args(args))
}

/// Every documented code comes out of a case here, or of another program.
fn command_as_documented(dir: &RunDir) -> Result<()> {
    let (_sleeper, process) = Sleeper::start(&[SigNo::USR1.get()])?;
    let (_other, other) = Sleeper::start(&[])?;
    let path = |name: &str| dir.file(name).display().to_string();
    let world = World {
        process,
        other,
        images: path("saved"),
        image: path(&format!("saved/{}", image::file_name(process))),
        beyond: path("beyond"),
        json: path("image.json"),
        folder: path("empty"),
        mask: path("mask"),
        garbage: path("garbage"),
    };
    fs::create_dir(&world.folder)?;
    fs::write(&world.garbage, "no state at all\n")?;
    fs::write(&world.mask, criu_tests::six::mask(&[SigNo::USR1.get()]))?;
    let mut tried = BTreeSet::new();
    for (command, wanted, args) in CASES {
        let (found, says) = call(command, &args(&world))?;
        ensure!(
            found == wanted,
            "{command} ends with {found}, not {wanted}: {says}"
        );
        ensure!((wanted != 2) || !says.is_empty(), "{command} says nothing");
        tried.insert((command.to_owned(), wanted));
    }
    tried.extend(images(&world)?);
    tried.extend(ELSEWHERE.map(|(command, code, _)| (command.to_owned(), code)));
    let documented = documented();
    ensure!(
        tried == documented,
        "not documented: {:?}; not tried: {:?}",
        tried.difference(&documented).collect::<Vec<_>>(),
        documented.difference(&tried).collect::<Vec<_>>()
    );
    let (check, _) = call("check", &[])?;
    ensure!(documented.contains(&("check".to_owned(), check)));
    Ok(())
}

/// An image is made into one whose exit signal the process cannot get, which `restore` says by its code.
fn images(world: &World) -> Result<[(String, i32); 3]> {
    let decoded = Command::new(config::command()?)
        .args(["decode", &world.image])
        .output()?;
    let mut image: serde_json::Value = serde_json::from_slice(&decoded.stdout)?;
    image["process"]["exit_signal"] = 10.into();
    fs::write(&world.json, image.to_string())?;
    fs::create_dir(&world.beyond)?;
    let file = format!("{}/{}", world.beyond, image::file_name(world.process));
    let args = words(&[&world.json, "-o", &file]);
    let codes = [
        ("encode", 0, call("encode", &args)?),
        ("encode", 2, call("encode", &args)?),
        (
            "restore",
            1,
            call("restore", &words(&["-D", &world.beyond]))?,
        ),
    ];
    for (command, wanted, (found, says)) in &codes {
        ensure!(
            found == wanted,
            "{command} ends with {found}, not {wanted}: {says}"
        );
    }
    Ok(codes.map(|(command, code, _)| (command.to_owned(), code)))
}

/// What all commands have in common.
fn any_command(_: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start(&[])?;
    let pid = pid.to_string();
    for (args, wanted) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["show", "--help"], 0),
        (&[], 2),
        (&["no-such-command"], 2),
        (&["show"], 2),
        (&["show", "--no-such-option", &pid], 2),
        (&["send", &pid, "SIGNONE"], 2),
    ] {
        let (found, says) = code(Command::new(config::command()?).args(args))?;
        ensure!(
            found == wanted,
            "{args:?} ends with {found}, not {wanted}: {says}"
        );
    }
    // EPERM: another user's process.
    let program = Path::new("/run/criu-signals-of-nobody");
    fs::copy(config::command()?, program)?;
    for path in [Path::new("/run"), program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    for args in [&["show", &pid][..], &["set", &pid, "blocked", "+USR1"]] {
        let mut command = Command::new(program);
        command.args(args).uid(65534).gid(65534).current_dir("/");
        let (found, says) = code(&mut command)?;
        let denied = says.contains("EPERM") || says.contains("EACCES");
        ensure!(found == 2 && denied, "{args:?}: {found}: {says}");
    }
    Ok(fs::remove_file(program)?)
}

/// The rows of the table of criu's codes, one with each of these beginnings.
fn criu_s(row: &str, found: Option<i32>) -> Result<()> {
    let line = DOCUMENT
        .lines()
        .find(|line| line.starts_with(&format!("| {row}")));
    let line = line.with_context(|| format!("there is no row {row:?}"))?;
    let code = line.split(" | ").nth(1).context("no code")?;
    ensure!(found == Some(code.parse()?), "{row}: {found:?}, not {code}");
    Ok(())
}

fn dump_code(criu: &Criu, victim: &Victim, images: &Path) -> Result<Option<i32>> {
    fs::create_dir_all(images)?;
    let mut dump = criu.start_dump(victim.pid(), images, true)?;
    Ok(dump.wait()?.code())
}

fn criu_dump(dir: &RunDir) -> Result<()> {
    let victim = start("parent_death", None, dir)?;
    let criu = with_plugin()?;
    let nowhere = dir.file("nowhere/file");
    let report = criu.clone().env("CRIU_SIGNALS_REPORT", &nowhere);
    let strict = report.clone().env("CRIU_SIGNALS_POLICY", "strict");
    let precious = dir.file("precious");
    fs::create_dir(&precious)?;
    fs::write(precious.join(image::file_name(victim.pid())), "precious")?;
    let new = |name: &str| dir.file(name);
    for (row, criu, images) in [
        ("dump, the state is captured", criu.clone(), new("1")),
        (
            "dump, state that cannot be preserved (a notice), the setting",
            criu.clone(),
            new("2"),
        ),
        (
            "dump, state that cannot be preserved, the setting `refuse` lists",
            criu.clone().env("CRIU_SIGNALS_REFUSE", "pdeathsig"),
            new("3"),
        ),
        (
            "dump, the signal state cannot be captured",
            criu.clone(),
            precious,
        ),
        (
            "dump or restore, a setting is unknown",
            criu.clone().env("CRIU_SIGNALS_POLICY", "strikt"),
            new("4"),
        ),
        (
            "dump or restore, `report` cannot be written, `policy",
            strict,
            new("5"),
        ),
        (
            "dump or restore, `report` cannot be written, another",
            report,
            new("6"),
        ),
        (
            "dump or restore, `metrics` cannot be written",
            criu.clone().env("CRIU_SIGNALS_METRICS", &nowhere),
            new("7"),
        ),
    ] {
        criu_s(row, dump_code(&criu, &victim, &images)?)?;
    }
    victim.finish(CHECK)
}

fn criu_restore(dir: &RunDir) -> Result<()> {
    for (number, row, policy, damage) in [
        (0, "restore, verdict `verified`", "repair", None),
        (1, "restore, `policy = repair`", "repair", Some("")),
        (2, "restore, `policy = strict`, an", "strict", Some("")),
        (
            3,
            "restore, `policy = strict`, an",
            "strict",
            Some("no image"),
        ),
        (4, "restore, `policy = repair`", "repair", Some("no image")),
        (5, "restore, the images are of another", "few", None),
    ] {
        let dir = RunDir::create(&dir.file(&number.to_string()))?;
        let pid = dumped("demo", &dir)?;
        let image = dir.images().join(image::file_name(pid));
        match damage {
            None => {}
            Some("") => fs::remove_file(image)?,
            Some(text) => fs::write(image, text)?,
        }
        let criu = match policy {
            "few" => with_plugin()?.env("CRIU_SIGNALS_MAX_SIGINFOS", "0"),
            policy => with_plugin()?.env("CRIU_SIGNALS_POLICY", policy),
        };
        let mut restore = criu.start("restore", &dir.images(), &["--restore-detached"])?;
        let found = restore.wait()?.code();
        criu_s(row, found)?;
        if found == Some(0) {
            Victim::restored(pid, &dir).finish(CHECK)?;
        }
        reap_all()?;
    }
    Ok(())
}
