//! What the user sets, by a file and by the environment, and whether a real criu goes by it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::images::{CoreImage, SigNo};
use criu_tests::cases::{
    self, CHECK, Test, dumped, expect_error, expect_line, expect_verdict, refused, restored, start,
    test, with_plugin,
};
use criu_tests::criu::Criu;
use criu_tests::plugin::Verdict;
use criu_tests::procfs::Pid;
use criu_tests::rundir::RunDir;
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
            expect_line(&restore, &["settings: all are the default"])?;
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
            expect_line(&restore, &["settings: all are the default"])?;
            expect_verdict(&restore, Verdict::Verified)?;
            found
        }),
        test("environment.unknown-name", |dir| {
            let victim = start("demo", None, dir)?;
            let criu = with_plugin()?.env("CRIU_SIGNALS_POLCY", "strict");
            let dump = criu.dump(victim.pid(), &dir.images(), true)?;
            ensure!(dump.ok, "criu dump failed");
            expect_line(
                &dump,
                &[
                    "Warn",
                    "CRIU_SIGNALS_POLCY is in the environment, and is no setting",
                ],
            )?;
            victim.finish(CHECK)
        }),
    ]
}

const CONFIG: &str = "CRIU_SIGNALS_CONFIG";

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
        says: ":1: there is no setting \"polcy\"; there are policy, ",
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
