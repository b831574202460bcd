//! Tests that do not fit a row of [`crate::table`]: each is a function that runs as pid 1 of its own namespace, like a
//! scenario. Also the steps that these functions share.

use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::config;
use crate::criu::{Criu, Step};
use crate::harness::{PATIENCE, isolated_for};
use crate::ns;
use crate::plugin::{self, Verdict};
use crate::procfs::{self, Pid};
use crate::rundir::RunDir;
use crate::skip::{self, Decision, Need};
use crate::victim::{Victim, reap_all};
use crate::wait;

/// How long a released victim may take to check itself.
pub const CHECK: Duration = wait::PATIENCE;

type Run = dyn Fn(&RunDir) -> Result<()>;

/// A test with its name.
pub struct Test {
    name: String,
    needs: &'static [Need],
    run: Box<Run>,
    afterwards: Option<fn(&str) -> Result<()>>,
    patience: Duration,
}

impl Test {
    /// What the machine must have.
    #[must_use]
    pub fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }

    /// What is to be done outside of the namespace when it has ended, however it ended. It is given the test's name.
    #[must_use]
    pub fn afterwards(mut self, clean: fn(&str) -> Result<()>) -> Self {
        self.afterwards = Some(clean);
        self
    }

    /// How long it may take: for one that does something very often.
    #[must_use]
    pub fn may_take(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn trial(self, binary: &'static str, say: bool) -> Trial {
        let Self {
            name,
            needs,
            afterwards,
            patience,
            ..
        } = self;
        let decision = skip::decide(&name, needs);
        let run = {
            let name = name.clone();
            move || {
                let ran = isolated_for(patience, binary, &name, &[&name]);
                let cleaned = afterwards.map_or(Ok(()), |clean| clean(&name));
                ran.map_err(Failed::from)?;
                cleaned.map_err(|why| Failed::from(format!("afterwards: {why:#}")))
            }
        };
        match decision {
            Decision::Run => Trial::test(name, run),
            Decision::Skip(reason) => {
                if say {
                    println!("SKIP {name}: {reason}");
                }
                // Asked for all the same (--include-ignored), it is run.
                Trial::test(name, run).with_ignored_flag(true)
            }
            Decision::Refuse(reason) => Trial::test(name, move || Err(reason.into())),
        }
    }
}

/// A test, which is given the folder of its run.
pub fn test(name: impl Into<String>, run: impl Fn(&RunDir) -> Result<()> + 'static) -> Test {
    Test {
        name: name.into(),
        needs: &[],
        run: Box::new(run),
        afterwards: None,
        patience: PATIENCE,
    }
}

/// All of them that have no needs of their own need `needs`.
pub fn all_need(tests: Vec<Test>, needs: &'static [Need]) -> Vec<Test> {
    let with_needs = |test: Test| {
        if test.needs.is_empty() {
            test.needs(needs)
        } else {
            test
        }
    };
    tests.into_iter().map(with_needs).collect()
}

/// `main` of a test program: runs `tests`, each in a namespace. `binary` is the program's name.
pub fn main(binary: &'static str, tests: fn() -> Vec<Test>) -> ExitCode {
    ns::test_main(|| outside(binary, tests), || inside(tests))
}

fn outside(binary: &'static str, tests: fn() -> Vec<Test>) -> ExitCode {
    let args = Arguments::from_args();
    let trials = tests()
        .into_iter()
        .map(|test| test.trial(binary, !args.list))
        .collect();
    libtest_mimic::run(&args, trials).exit_code()
}

/// Pid 1 of the namespace.
fn inside(tests: fn() -> Vec<Test>) -> ExitCode {
    let run = || {
        let args: Vec<String> = env::args().skip(1).collect();
        let [name, dir] = args.as_slice() else {
            bail!("two arguments are needed: {args:?}")
        };
        let test = tests().into_iter().find(|test| test.name == *name);
        (test.with_context(|| format!("no test {name}"))?.run)(&RunDir::open(Path::new(dir)))
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why:#}");
            ExitCode::FAILURE
        }
    }
}

/// criu with the plugin and nothing else.
pub fn with_plugin() -> Result<Criu> {
    Ok(Criu::new(&config::criu()?, &config::plugin_dir()?))
}

/// Starts a victim, which is ready when this returns.
pub fn start(program: &str, arg: Option<&str>, dir: &RunDir) -> Result<Victim> {
    Victim::start(&config::victim(program, false), arg, dir, false)
}

/// Starts the victim and dumps it with the plugin. It is gone when this returns.
pub fn dumped(program: &str, dir: &RunDir) -> Result<Pid> {
    let victim = start(program, None, dir)?;
    let pid = victim.pid();
    let dump = with_plugin()?.dump(pid, &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    reap_all()?;
    Ok(pid)
}

/// Restores it, which must succeed, and lets the victim check itself.
pub fn restored(criu: &Criu, dir: &RunDir) -> Result<(Step, Result<()>)> {
    let (step, pid) = criu.restore(&dir.images())?;
    let pid = pid.context("criu restore failed")?;
    Ok((step, Victim::restored(pid, dir).finish(CHECK)))
}

/// Restores it, which must fail, and leave no process behind.
pub fn refused(criu: &Criu, dir: &RunDir) -> Result<Step> {
    let (step, pid) = criu.restore(&dir.images())?;
    ensure!(pid.is_none(), "criu restore has succeeded");
    reap_all()?;
    let mut left = procfs::all()?;
    left.retain(|&pid| pid != 1);
    ensure!(left.is_empty(), "criu restore failed, and left {left:?}");
    Ok(step)
}

/// One line of the plugin's must have all of this.
pub fn expect_line(step: &Step, parts: &[&str]) -> Result<()> {
    let found = plugin::lines(&step.log).any(|line| parts.iter().all(|part| line.contains(part)));
    ensure!(
        found,
        "no line of the plugin's has {parts:?}:\n{}",
        plugin::lines(&step.log).collect::<Vec<_>>().join("\n")
    );
    Ok(())
}

/// As [`expect_line`], and CRIU has marked it as an error.
pub fn expect_error(step: &Step, parts: &[&str]) -> Result<()> {
    expect_line(step, &[&["Error ("], parts].concat())
}

/// The plugin's verdict on the one process there is.
pub fn expect_verdict(step: &Step, verdict: Verdict) -> Result<()> {
    let found = plugin::verdicts(&step.log);
    ensure!(
        found == [Ok(verdict)],
        "the verdict is {found:?}, expected {verdict}:\n{}",
        plugin::lines(&step.log).collect::<Vec<_>>().join("\n")
    );
    Ok(())
}

/// The plugin's verdicts in a restore log, one for each process, in whichever order.
pub fn expect_verdicts(log: &str, wanted: &[Verdict]) -> Result<()> {
    let mut found = plugin::verdicts(log);
    found.sort_by_key(|verdict| format!("{verdict:?}"));
    let mut wanted: Vec<_> = wanted.iter().copied().map(Ok).collect();
    wanted.sort_by_key(|verdict| format!("{verdict:?}"));
    ensure!(
        found == wanted,
        "the verdicts are {found:?}, expected {wanted:?}:\n{}",
        plugin::lines(log).collect::<Vec<_>>().join("\n")
    );
    Ok(())
}
