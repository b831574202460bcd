//! Tests settings from a file and from the environment with a real criu, and the report.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::images::{CoreImage, SigNo, image};
use criu_signals::run_report::{Action, Document, Level, Outcome, Process, Stage, VERSION};
use criu_tests::cases::{
    self, CHECK, Test, dumped, expect_error, expect_line, expect_verdict, refused, restored, start,
    test, with_plugin,
};
use criu_tests::config;
use criu_tests::criu::{Criu, Step};
use criu_tests::plugin::{self, Verdict};
use criu_tests::procfs::Pid;
use criu_tests::rundir::RunDir;
use criu_tests::skip::Need;
use criu_tests::victim::{Victim, reap_all};
use nix::mount::{MsFlags, mount};

fn main() -> ExitCode {
    cases::main("settings", tests)
}

fn tests() -> Vec<Test> {
    let mut tests = good();
    for bad in BAD {
        tests.push(test(format!("file.{}.dump", bad.name), |dir| {
            bad.is_refused_at_dump(dir)
        }));
        tests.push(test(format!("file.{}.restore", bad.name), |dir| {
            bad.is_refused_at_restore(dir)
        }));
    }
    tests.extend(reports());
    for case in TIMEOUTS {
        let one = test(format!("timeout.{}", case.name), |dir| case.run(dir));
        tests.push(if case.ia32 {
            one.needs(&[Need::Ia32])
        } else {
            one
        });
    }
    tests
}

fn good() -> Vec<Test> {
    vec![
        test("file.named", |dir| {
            let file = settings_file(dir, "# a comment\n\npolicy = report\n")?;
            let says = format!("settings: policy=report ({}:3); others are", file.display());
            differs(&with_file(&file)?, dir, &says)
        }),
        test("file.default", |dir| {
            // Nothing of the machine's own is changed: this namespace's mounts are its own.
            let none: Option<&str> = None;
            mount(Some("tmpfs"), "/etc", Some("tmpfs"), MsFlags::empty(), none)
                .context("mounting /etc")?;
            fs::create_dir("/etc/criu")?;
            fs::write("/etc/criu/signals.conf", "policy = report\n")?;
            let says = "settings: policy=report (/etc/criu/signals.conf:1); others are";
            differs(&with_plugin()?.env_remove(CONFIG), dir, says)
        }),
        test("file.absent", |dir| {
            let none: Option<&str> = None;
            mount(Some("tmpfs"), "/etc", Some("tmpfs"), MsFlags::empty(), none)
                .context("mounting /etc")?;
            dumped("demo", dir)?;
            let (restore, found) = restored(&with_plugin()?.env_remove(CONFIG), dir)?;
            expect_line(&restore, &["settings: all default"])?;
            found
        }),
        test("file.environment-wins", |dir| {
            let file = settings_file(dir, "policy = strict\ndeep_queue = 17\n")?;
            let criu = with_file(&file)?.env("CRIU_SIGNALS_POLICY", "report");
            let says = format!(
                "settings: policy=report (CRIU_SIGNALS_POLICY), deep_queue=17 ({}:2); others are",
                file.display()
            );
            differs(&criu, dir, &says)
        }),
        test("file.as-installed", |dir| {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin/signals.conf");
            dumped("demo", dir)?;
            let (restore, found) = restored(&with_file(&file)?, dir)?;
            expect_line(&restore, &["settings: all default"])?;
            expect_verdict(&restore, Verdict::Verified)?;
            found
        }),
        test("option.wins", option_wins),
        test("option.bad", option_is_bad),
        test("environment.unknown-name", |dir| {
            let victim = start("demo", None, dir)?;
            let criu = with_plugin()?.env("CRIU_SIGNALS_POLCY", "strict");
            let dump = criu.dump(victim.pid(), &dir.images(), true)?;
            ensure!(dump.ok, "criu dump failed");
            expect_line(
                &dump,
                &[
                    "Warn",
                    "CRIU_SIGNALS_POLCY is in the environment, but is not a setting",
                ],
            )?;
            victim.finish(CHECK)
        }),
    ]
}

const CONFIG: &str = "CRIU_SIGNALS_CONFIG";
const OPTION: &str = "--plugin-option";

/// criu 4.3 has it.
fn has_plugin_options() -> Result<bool> {
    let help = Command::new(config::criu()?).arg("--help").output()?;
    Ok([help.stdout, help.stderr]
        .iter()
        .any(|text| String::from_utf8_lossy(text).contains(OPTION)))
}

fn with_option(option: &str) -> Result<Criu> {
    let criu = with_plugin()?.env("CRIU_SIGNALS_POLICY", "strict");
    Ok(criu.arg(OPTION).arg(option))
}

/// An older criu refuses the option, so that nobody takes it for one that has been heard.
fn option_wins(dir: &RunDir) -> Result<()> {
    let criu = with_option("signals_plugin.policy=report")?
        .arg(OPTION)
        .arg("others.policy=x");
    if has_plugin_options()? {
        return differs(
            &criu,
            dir,
            "settings: policy=report (--plugin-option); others are",
        );
    }
    let victim = start("demo", None, dir)?;
    let dump = criu.dump(victim.pid(), &dir.images(), true)?;
    ensure!(!dump.ok, "criu has passed over an option");
    victim.finish(CHECK)
}

fn option_is_bad(dir: &RunDir) -> Result<()> {
    let bad = [
        (
            "policy=strikt",
            "policy=\"strikt\": must be repair or strict or report",
        ),
        ("polcy=strict", "polcy=strict: unknown setting \"polcy\""),
        ("policy", "policy: an option must be NAME=VALUE"),
    ];
    let victim = start("demo", None, dir)?;
    for (option, says) in bad {
        let criu = with_option(&format!("signals_plugin.{option}"))?;
        let dump = criu.dump(victim.pid(), &dir.images(), true)?;
        ensure!(!dump.ok, "criu has dumped with {option}");
        if has_plugin_options()? {
            expect_error(&dump, &[&format!("{OPTION} signals_plugin.{says}")])?;
        }
    }
    victim.finish(CHECK)
}

fn with_file(file: &Path) -> Result<Criu> {
    Ok(with_plugin()?.env(CONFIG, file))
}

fn settings_file(dir: &RunDir, text: &str) -> Result<PathBuf> {
    let file = dir.file("signals.conf");
    fs::write(&file, text)?;
    Ok(file)
}

/// Takes a pending SIGHUP out of CRIU's image of the process, as if CRIU had lost it.
fn lose_a_signal(dir: &RunDir, pid: Pid) -> Result<()> {
    let path = dir.images().join(format!("core-{pid}.img"));
    let mut core = CoreImage::read(&fs::read(&path)?)?;
    let mut queue = core.shared_queue();
    let before = queue.len();
    queue.retain(|info| info.signo() != SigNo::HUP.get());
    ensure!(queue.len() == before - 1, "there is no SIGHUP to lose");
    core.set_shared_queue(&queue)?;
    Ok(fs::write(&path, core.to_bytes()?)?)
}

/// A restore whose policy is `report` changes nothing: the victim itself is a witness.
fn differs(criu: &Criu, dir: &RunDir, says: &str) -> Result<()> {
    let pid = dumped("demo", dir)?;
    lose_a_signal(dir, pid)?;
    let (restore, found) = restored(criu, dir)?;
    expect_line(&restore, &[says])?;
    expect_verdict(&restore, Verdict::Differs)?;
    match found {
        Ok(()) => bail!("the victim passes, though its signal was not put back"),
        Err(why) => ensure!(why.to_string().contains("shared queue, length"), "{why}"),
    }
    Ok(())
}

/// A file that can't be understood.
struct Bad {
    name: &'static str,
    /// `None`: it is not there.
    text: Option<&'static str>,
    /// Behind the file's name.
    says: &'static str,
}

const BAD: &[Bad] = &[
    Bad {
        name: "unknown-value",
        text: Some("\npolicy = strikt\n"),
        says: ":2: policy = \"strikt\": must be repair or strict or report",
    },
    Bad {
        name: "unknown-name",
        text: Some("polcy = strict\n"),
        says: ":1: unknown setting \"polcy\"; known settings are policy, ",
    },
    Bad {
        name: "no-setting",
        text: Some("policy strict\n"),
        says: ":1: \"policy strict\": a line must be NAME = VALUE",
    },
    Bad {
        name: "named-and-gone",
        text: None,
        says: ": No such file",
    },
];

impl Bad {
    fn criu(&self, dir: &RunDir) -> Result<(Criu, String)> {
        let path = dir.file("signals.conf");
        if let Some(text) = self.text {
            fs::write(&path, text)?;
        }
        Ok((
            with_file(&path)?,
            format!("{}{}", path.display(), self.says),
        ))
    }

    /// The task is as it was.
    fn is_refused_at_dump(&self, dir: &RunDir) -> Result<()> {
        let (criu, says) = self.criu(dir)?;
        let victim = start("demo", None, dir)?;
        let dump = criu.dump(victim.pid(), &dir.images(), false)?;
        ensure!(!dump.ok, "criu dump has succeeded");
        expect_error(&dump, &[&says])?;
        victim.finish(CHECK)
    }

    /// No task is made.
    fn is_refused_at_restore(&self, dir: &RunDir) -> Result<()> {
        let (criu, says) = self.criu(dir)?;
        dumped("demo", dir)?;
        expect_error(&refused(&criu, dir)?, &[&says])
    }
}

// ---- timeouts that begin anew ----------------------------------------------------------------------------------------

/// What becomes of one, by how long it is and what `long_timeout` allows.
struct AnewCase {
    name: &'static str,
    /// The call of victims/timeouts.c, with its milliseconds.
    call: &'static str,
    ia32: bool,
    /// `CRIU_SIGNALS_LONG_TIMEOUT`; empty: the default.
    short_to: &'static str,
    /// As the log has it, and in nanoseconds; `None`: nobody can tell.
    known: Option<(&'static str, u64)>,
    level: Level,
}

const TIMEOUTS: &[AnewCase] = &[
    AnewCase {
        name: "short",
        call: "epoll:300",
        ia32: false,
        short_to: "",
        known: Some(("(300ms)", 300_000_000)),
        level: Level::Info,
    },
    AnewCase {
        name: "short-by-pointer",
        call: "sigtimedwait:300",
        ia32: false,
        short_to: "",
        known: Some(("(300ms)", 300_000_000)),
        level: Level::Info,
    },
    AnewCase {
        name: "some-seconds",
        call: "epoll:1500",
        ia32: false,
        short_to: "",
        known: Some(("(1.5s)", 1_500_000_000)),
        level: Level::Info,
    },
    // So tini and node wait, for just as long as somebody may have set.
    AnewCase {
        name: "just-as-long",
        call: "epoll:1000",
        ia32: false,
        short_to: "1000",
        known: Some(("(1s)", 1_000_000_000)),
        level: Level::Info,
    },
    AnewCase {
        name: "longer",
        call: "epoll:1001",
        ia32: false,
        short_to: "1000",
        known: Some(("(1.001s)", 1_001_000_000)),
        level: Level::Warning,
    },
    AnewCase {
        name: "long-by-setting",
        call: "sigtimedwait:300",
        ia32: false,
        short_to: "299",
        known: Some(("(300ms)", 300_000_000)),
        level: Level::Warning,
    },
    AnewCase {
        name: "short.ia32",
        call: "sigtimedwait:300",
        ia32: true,
        short_to: "",
        known: Some(("(300ms)", 300_000_000)),
        level: Level::Info,
    },
    // The kernel keeps a socket's in the socket.
    AnewCase {
        name: "not-known",
        call: "recv:300",
        ia32: false,
        short_to: "",
        known: None,
        level: Level::Warning,
    },
];

impl AnewCase {
    fn run(&self, dir: &RunDir) -> Result<()> {
        let program = config::victim("timeouts", self.ia32);
        let victim = Victim::start(&program, Some(self.call), dir, false)?;
        let pid = victim.pid();
        let criu = with_plugin()?
            .env("CRIU_SIGNALS_LONG_TIMEOUT", self.short_to)
            .env(REPORT, "report-%s.json");
        // What is only noted is not refused.
        let refusing = criu.clone().env("CRIU_SIGNALS_REFUSE", "timeout");
        let criu = if self.level == Level::Warning {
            let dump = refusing.dump(pid, &dir.images(), false)?;
            ensure!(!dump.ok, "criu dump has succeeded");
            expect_error(&dump, &["begins anew", "refused, because", "lists timeout"])?;
            criu
        } else {
            refusing
        };
        let dump = criu.dump(pid, &dir.images(), false)?;
        ensure!(dump.ok, "criu dump failed");
        reap_all()?;
        self.said(&dump, "begins anew", "dump", dir)?;
        let image = image::open(&dir.images().join(image::file_name(pid)))?;
        let calls = image.process.threads.iter().filter_map(|t| t.interrupted);
        let longest = calls.filter(|call| call.whole_timeout).map(|c| c.timeout);
        let longest = longest.collect::<Vec<_>>();
        ensure!(
            longest.contains(&self.known.map(|(_, ns)| ns)),
            "the image has {longest:?}"
        );

        let (restore, found) = restored(&criu, dir)?;
        self.said(&restore, "has begun anew", "restore", dir)?;
        found
    }

    /// At its level in the log, with its number in the line at the end, and in the report in any case.
    fn said(&self, step: &Step, what: &str, stage: &str, dir: &RunDir) -> Result<()> {
        let size = self.known.map_or("", |(text, _)| text);
        let most = if self.short_to.is_empty() {
            "10000"
        } else {
            self.short_to
        };
        let quiet = format!("CRIU_SIGNALS_LONG_TIMEOUT is {most} ms");
        let line = plugin::lines(&step.log).find(|line| line.contains(what) && line.contains(size));
        let line = line.with_context(|| format!("{what:?} is not said:\n{}", step.log))?;
        let count = match self.level {
            Level::Info => "not kept: nothing; noted: timeout=1",
            Level::Warning => "not kept: timeout=1",
        };
        expect_line(step, &[count])?;
        let is_loud = self.level == Level::Warning;
        ensure!(line.contains("Warn  (") == is_loud, "{line}");
        ensure!(line.contains(&quiet) != is_loud, "{line}");

        let report = read(&dir.images().join(format!("report-{stage}.json")))?;
        let notices = report.processes.iter().flat_map(|process| &process.notices);
        let levels: Vec<_> = notices
            .filter(|notice| notice.kind == "timeout" && notice.text.contains(what))
            .map(|notice| notice.level)
            .collect();
        ensure!(levels == [self.level], "{report:?}");
        Ok(())
    }
}

// ---- the report --------------------------------------------------------------------------------------------------

const REPORT: &str = "CRIU_SIGNALS_REPORT";

fn reports() -> Vec<Test> {
    vec![
        test("report.verified", report_verified),
        test("report.repaired", report_repaired),
        test("report.differs", report_differs),
        test("report.failed", report_failed),
        test("report.refused", report_refused),
        test("report.dump-refused", report_dump_refused),
        test("report.dump-fails-in-criu", report_dump_fails_in_criu),
        test("report.disk-full", report_disk_full),
        test("report.cannot-be-made.repair", report_cannot_be_made_repair),
        test("report.cannot-be-made.strict", report_cannot_be_made_strict),
    ]
}

/// A dump of which a report is wanted.
fn dump_reporting(victim: &Victim, path: &Path, dir: &RunDir, leave_running: bool) -> Result<Step> {
    let criu = with_plugin()?.env(REPORT, path);
    criu.dump(victim.pid(), &dir.images(), leave_running)
}

/// The process of a report of one.
fn only_process(report: &Document) -> Result<&Process> {
    let [process] = report.processes.as_slice() else {
        bail!("not one process: {report:?}")
    };
    Ok(process)
}

fn report_verified(dir: &RunDir) -> Result<()> {
    let criu = with_plugin()?.env(REPORT, "report-%s.json");
    let victim = start("demo", None, dir)?;
    let pid = victim.pid();
    let dump = criu.dump(pid, &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    reap_all()?;
    let captured = read(&dir.images().join("report-dump.json"))?;
    ensure!(captured.stage == Stage::Dump && captured.outcome == Outcome::Captured);
    let (_, found) = restored(&criu, dir)?;
    found?;
    let verified = read(&dir.images().join("report-restore.json"))?;
    ensure!(verified.stage == Stage::Restore && verified.outcome == Outcome::Verified);
    for report in [&captured, &verified] {
        ensure!(report.report_version == VERSION && report.criu.result == Some(0));
        ensure!(report.images == Some(dir.images().display().to_string()));
        ensure!(report.policy == "repair" && report.errors.is_empty());
        let process = only_process(report)?;
        // The run is pid 1's own namespace: both sides see the same pid.
        ensure!((process.pid, process.pid_in_namespace) == (Some(pid), Some(pid)));
        ensure!(process.comm.as_deref() == Some("demo"), "{process:?}");
        // victims/demo.c: two threads, four signals for each of its three queues.
        ensure!(
            (process.threads, process.siginfos) == (2, DEMO_SIGINFOS),
            "{process:?}"
        );
        ensure!(process.duration_us > 0 && process.duration_us < report.duration_us);
        ensure!(process.differences.is_empty() && process.errors.is_empty());
    }
    Ok(())
}

fn report_repaired(dir: &RunDir) -> Result<()> {
    let pid = dumped("demo", dir)?;
    lose_a_signal(dir, pid)?;
    // Not of this run: to be gone.
    let path = dir.file("report.json");
    fs::write(&path, "old")?;
    let (_, found) = restored(&with_plugin()?.env(REPORT, &path), dir)?;
    found?;
    let report = read(&path)?;
    ensure!(report.outcome == Outcome::Repaired, "{report:?}");
    let differences = &report.processes[0].differences;
    let queue = differences.iter().find(|d| d.field == "shared queue");
    let queue = queue.with_context(|| format!("{report:?}"))?;
    ensure!(queue.done == Action::PutBack && queue.place == "process");
    ensure!(
        queue.dumped.contains("SIGHUP") && !queue.found.contains("SIGHUP"),
        "{queue:?}"
    );
    as_documented(report, pid)
}

fn report_differs(dir: &RunDir) -> Result<()> {
    let pid = dumped("demo", dir)?;
    lose_a_signal(dir, pid)?;
    let path = dir.file("report.json");
    let criu = with_plugin()?.env("CRIU_SIGNALS_POLICY", "report");
    let (_, found) = restored(&criu.env(REPORT, &path), dir)?;
    ensure!(
        found.is_err(),
        "the victim passes, though its signal was not put back"
    );
    let report = read(&path)?;
    ensure!(
        report.outcome == Outcome::Differs && report.policy == "report",
        "{report:?}"
    );
    let left = |d: &criu_signals::run_report::Difference| d.done == Action::LeftAlone;
    ensure!(report.processes[0].differences.iter().all(left));
    Ok(())
}

fn report_failed(dir: &RunDir) -> Result<()> {
    let (report, restore_ok) = one_image_gone("repair", dir)?;
    ensure!(
        restore_ok && report.outcome == Outcome::Failed,
        "{report:?}"
    );
    let count = |outcome| {
        report
            .processes
            .iter()
            .filter(|p| p.outcome == outcome)
            .count()
    };
    ensure!(
        count(Outcome::Failed) == 1 && count(Outcome::Verified) > 0,
        "{report:?}"
    );
    let failed = report
        .processes
        .iter()
        .find(|p| p.outcome == Outcome::Failed);
    let errors = &failed.context("counted before")?.errors;
    ensure!(
        errors.iter().any(|e| e.contains("the image is missing")),
        "{errors:?}"
    );
    Ok(())
}

fn report_refused(dir: &RunDir) -> Result<()> {
    let (report, restore_ok) = one_image_gone("strict", dir)?;
    ensure!(
        !restore_ok && report.outcome == Outcome::Refused,
        "{report:?}"
    );
    // Before there was a process, or an end of the run.
    ensure!(
        report.criu.result.is_none() && report.processes.is_empty(),
        "{report:?}"
    );
    ensure!(
        report
            .errors
            .iter()
            .any(|e| e.contains("Nothing is restored")),
        "{report:?}"
    );
    Ok(())
}

fn report_dump_refused(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let path = dir.file("report.json");
    fs::write(
        dir.images().join(image::file_name(victim.pid())),
        "precious",
    )?;
    let dump = dump_reporting(&victim, &path, dir, false)?;
    ensure!(!dump.ok, "criu dump has succeeded");
    let report = read(&path)?;
    ensure!(report.outcome == Outcome::Refused, "{report:?}");
    let process = only_process(&report)?;
    ensure!(process.outcome == Outcome::Refused);
    ensure!(
        process.errors.iter().any(|e| e.contains("exists already")),
        "{process:?}"
    );
    victim.finish(CHECK)
}

fn report_dump_fails_in_criu(dir: &RunDir) -> Result<()> {
    let victim = start("locked", None, dir)?;
    let path = dir.file("report.json");
    let dump = dump_reporting(&victim, &path, dir, false)?;
    ensure!(!dump.ok, "criu dump has succeeded");
    let report = read(&path)?;
    ensure!(report.outcome == Outcome::Failed, "{report:?}");
    ensure!(
        report.criu.result.is_some_and(|result| result != 0),
        "{report:?}"
    );
    ensure!(
        report
            .processes
            .iter()
            .all(|p| p.outcome == Outcome::Captured)
    );
    victim.finish(CHECK)
}

/// There is room for the file, and none for what is to be written to it.
fn report_disk_full(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let folder = small_disk(dir, "size=4k")?;
    let path = folder.join("report.json");
    fs::write(&path, vec![b'x'; 4096])?;
    let full = fs::hard_link(&path, folder.join("filler"));
    full.context("so that removing the old report frees nothing")?;
    let dump = dump_reporting(&victim, &path, dir, true)?;
    ensure!(dump.ok, "criu dump failed");
    expect_error(
        &dump,
        &[
            "report.json",
            "No space left on device",
            "no report was written",
        ],
    )?;
    only_filler(&folder)?;
    victim.finish(CHECK)
}

fn report_cannot_be_made_repair(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let path = dir.file("nowhere/report.json");
    let dump = dump_reporting(&victim, &path, dir, true)?;
    ensure!(dump.ok, "criu dump failed");
    expect_error(
        &dump,
        &["nowhere/report.json", "ENOENT", "no report will be written"],
    )?;
    victim.finish(CHECK)
}

fn report_cannot_be_made_strict(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let path = dir.file("nowhere/report.json");
    let criu = with_plugin()?
        .env("CRIU_SIGNALS_POLICY", "strict")
        .env(REPORT, &path);
    let dump = criu.dump(victim.pid(), &dir.images(), false)?;
    ensure!(!dump.ok, "criu dump has succeeded");
    expect_error(&dump, &["nowhere/report.json", "ENOENT", "policy=strict"])?;
    victim.finish(CHECK)
}

/// What victims/demo.c has in its queues.
const DEMO_SIGINFOS: usize = 12;

/// Reads a report, which is whole, for its owner alone, and holds what is documented and nothing else.
fn read(path: &Path) -> Result<Document> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let report: Document = serde_json::from_str(&text)?;
    ensure!(text == format!("{}\n", serde_json::to_string_pretty(&report)?));
    ensure!(fs::metadata(path)?.permissions().mode() & 0o777 == 0o600);
    let folder = path.parent().context("it has a folder")?;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        ensure!(
            !name.to_string_lossy().ends_with(".new"),
            "{name:?} is left behind"
        );
    }
    Ok(report)
}

/// Restores a tree of which one process's image is missing.
fn one_image_gone(policy: &str, dir: &RunDir) -> Result<(Document, bool)> {
    let root = dumped("process_tree", dir)?;
    let of_a_child = |name: &str| name.starts_with("signals-") && name != image::file_name(root);
    let mut names =
        fs::read_dir(dir.images())?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let name = names
        .find(|name| of_a_child(name))
        .context("no child's image")?;
    fs::remove_file(dir.images().join(name))?;
    let path = dir.file("report.json");
    let criu = with_plugin()?
        .env("CRIU_SIGNALS_POLICY", policy)
        .env(REPORT, &path);
    let (step, _) = criu.restore(&dir.images())?;
    Ok((read(&path)?, step.ok))
}

/// But for what differs from run to run, docs/report.md shows this very report.
fn as_documented(report: Document, pid: Pid) -> Result<()> {
    let text = include_str!("../../docs/report.md");
    let (_, example) = text
        .split_once("```json\n")
        .context("there is no example")?;
    let (example, _) = example
        .split_once("```")
        .context("the example has no end")?;
    let example = example.replace(" pid 2 ", &format!(" pid {pid} "));
    let documented: Document = serde_json::from_str(&example)?;
    ensure!(
        example == format!("{}\n", serde_json::to_string_pretty(&documented)?),
        "the example has fields that a report does not have"
    );
    let documented = Document {
        plugin_version: report.plugin_version.clone(),
        criu: report.criu.clone(),
        images: report.images.clone(),
        duration_us: report.duration_us,
        processes: documented
            .processes
            .into_iter()
            .zip(&report.processes)
            .map(|(process, real)| Process {
                pid: real.pid,
                pid_in_namespace: real.pid_in_namespace,
                // Whether a thread sleeps when it is dumped is chance.
                notices: real.notices.clone(),
                duration_us: real.duration_us,
                ..process
            })
            .collect(),
        ..documented
    };
    ensure!(
        report == documented,
        "reported: {report:#?}\ndocumented: {documented:#?}"
    );
    Ok(())
}

fn small_disk(dir: &RunDir, options: &str) -> Result<PathBuf> {
    let folder = dir.file("disk");
    fs::create_dir(&folder)?;
    let none = MsFlags::empty();
    mount(Some("tmpfs"), &folder, Some("tmpfs"), none, Some(options)).context("mounting")?;
    Ok(folder)
}

fn only_filler(folder: &Path) -> Result<()> {
    let left = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
    let left: Vec<_> = left.collect::<Result<_>>()?;
    ensure!(left == ["filler"], "left: {left:?}");
    Ok(())
}
