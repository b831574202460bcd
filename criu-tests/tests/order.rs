//! The order of replay (`ORDER` in `src/engine/replay.rs` of the library): for each row, a program that fails if the
//! row is moved, or, if there is no such program, a test that no place of the row makes it fail.
//!
//! A program is dumped, and state that the row puts back is removed from CRIU's image. It is restored in the right
//! order, and passes; and from the same images once more, with the row moved. As in the scenarios, each test is this
//! program once more as pid 1 of a namespace of its own.

use std::env;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::engine::replay::{ORDER, Step};
use criu_signals::images::{CoreImage, Disposition, Rlimit, SigNo};
use criu_tests::config;
use criu_tests::criu::Criu;
use criu_tests::harness::isolated;
use criu_tests::ns;
use criu_tests::plugin::{self, Verdict};
use criu_tests::procfs::Pid;
use criu_tests::rundir::RunDir;
use criu_tests::victim::{Victim, reap_all};
use libtest_mimic::{Arguments, Failed, Trial};

/// How long a released victim may take to check itself.
const CHECK: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    ns::test_main(tests, inside)
}

fn tests() -> ExitCode {
    let args = Arguments::from_args();
    let mut trials: Vec<Trial> = ROWS
        .iter()
        .map(|row| {
            let name = row.name();
            Trial::test(name.clone(), move || {
                isolated("order", &name, &[&name]).map_err(Failed::from)
            })
        })
        .collect();
    trials.push(Trial::test("every-row-is-moved", every_row));
    libtest_mimic::run(&args, trials).exit_code()
}

/// Pid 1 of the namespace.
fn inside() -> ExitCode {
    let run = || {
        let args: Vec<String> = env::args().skip(1).collect();
        let [name, dir] = args.as_slice() else {
            bail!("two arguments are needed: {args:?}")
        };
        let row = ROWS.iter().find(|row| row.name() == *name);
        row.with_context(|| format!("no test {name}"))?
            .run(&RunDir::open(Path::new(dir)))
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why:#}");
            ExitCode::FAILURE
        }
    }
}

/// Where a step is moved to.
#[derive(Clone, Copy, Debug)]
enum To {
    Before(Step),
    Behind(Step),
}

#[derive(Clone, Copy, Debug)]
enum Then {
    /// The verdict is `failed`, and this is what the program finds.
    Breaks(&'static str),
    /// The verdict is `failed`, and the program misses nothing: what could not have been put back was left where it was.
    Refuses,
    /// All is as in the right order.
    Passes,
}

struct Row {
    step: Step,
    to: To,
    victim: &'static str,
    arg: Option<&'static str>,
    /// What CRIU's image of the leader loses, so that there is something to put back.
    lose: fn(&mut CoreImage) -> Result<()>,
    then: Then,
}

const ROWS: &[Row] = &[
    // In front of the masks it is the second lock on one door: what is injected blocks everything as well, visit by
    // visit, and a traced thread traps before it is given a signal.
    Row {
        step: Step::BlockAll,
        to: To::Behind(Step::Masks),
        victim: "masks",
        arg: None,
        lose: mask,
        then: Then::Breaks("SigBlk, expected"),
    },
    Row {
        step: Step::Dispositions,
        to: To::Behind(Step::SharedQueue),
        victim: "ignored_blocked",
        arg: None,
        lose: ignored,
        then: Then::Breaks("SigPnd, expected"),
    },
    Row {
        step: Step::RaiseLimit,
        to: To::Behind(Step::SharedQueue),
        victim: "sigpending_limit",
        arg: None,
        lose: shared_and_lent_limit,
        then: Then::Breaks("shared queue, length"),
    },
    Row {
        step: Step::PrivateQueues,
        to: To::Behind(Step::Limit),
        victim: "sigpending_limit",
        arg: Some("private"),
        lose: last_private,
        then: Then::Breaks("private queue, length"),
    },
    Row {
        step: Step::SharedQueue,
        to: To::Behind(Step::Limit),
        victim: "sigpending_limit",
        arg: None,
        lose: last_shared,
        then: Then::Breaks("shared queue, length"),
    },
    // CRIU's entry is not the timer's own, and the queue is built around that one.
    Row {
        step: Step::Timers,
        to: To::Behind(Step::Limit),
        victim: "sigpending_limit",
        arg: Some("timer"),
        lose: nothing,
        then: Then::Refuses,
    },
    Row {
        step: Step::Limit,
        to: To::Before(Step::PrivateQueues),
        victim: "sigpending_limit",
        arg: Some("private"),
        lose: last_private,
        then: Then::Breaks("private queue, length"),
    },
    Row {
        step: Step::Masks,
        to: To::Before(Step::BlockAll),
        victim: "masks",
        arg: None,
        lose: mask,
        then: Then::Breaks("SigBlk, expected"),
    },
    // These depend on no other, and no other on them: no signal is delivered, and no instruction of the program's is
    // executed, between the first row and the last.
    harmless(Step::AlternateStacks, FIRST, "demo", altstack),
    harmless(Step::AlternateStacks, LAST, "demo", altstack),
    harmless(
        Step::ParentDeathSignals,
        FIRST,
        "parent_death",
        parent_death,
    ),
    harmless(Step::ParentDeathSignals, LAST, "parent_death", parent_death),
    harmless(Step::InterruptedCalls, FIRST, "everything", nothing),
    harmless(
        Step::InterruptedCalls,
        To::Behind(Step::GroupStop),
        "everything",
        nothing,
    ),
    harmless(Step::GroupStop, FIRST, "everything", nothing),
    harmless(Step::GroupStop, FIRST, "stopped_pending", mask),
];

const FIRST: To = To::Before(Step::BlockAll);
const LAST: To = To::Behind(Step::GroupStop);

const fn harmless(
    step: Step,
    to: To,
    victim: &'static str,
    lose: fn(&mut CoreImage) -> Result<()>,
) -> Row {
    Row {
        step,
        to,
        victim,
        arg: None,
        lose,
        then: Then::Passes,
    }
}

/// A row that is added to the order is added here, too.
fn every_row() -> Result<(), Failed> {
    match ORDER
        .iter()
        .find(|row| ROWS.iter().all(|moved| moved.step != row.step))
    {
        None => Ok(()),
        Some(row) => Err(format!("{:?} is never moved", row.step).into()),
    }
}

impl Row {
    fn name(&self) -> String {
        format!("{}.{}", self.moved().replace(' ', "-"), self.victim).to_ascii_lowercase()
    }

    fn moved(&self) -> String {
        match self.to {
            To::Before(other) => format!("{:?} before {other:?}", self.step),
            To::Behind(other) => format!("{:?} behind {other:?}", self.step),
        }
    }

    fn run(&self, dir: &RunDir) -> Result<()> {
        let criu = Criu::new(&config::criu()?, &config::faults_dir()?.join("plugins"));
        let victim = Victim::start(&config::victim(self.victim, false), self.arg, dir, false)?;
        let pid = victim.pid();
        let dump = criu.dump(pid, &dir.images(), false)?;
        ensure!(dump.ok, "criu dump failed");
        reap_all()?;
        let path = dir.images().join(format!("core-{pid}.img"));
        let mut core = CoreImage::read(&fs::read(&path)?)?;
        (self.lose)(&mut core)?;
        fs::write(&path, core.to_bytes()?)?;

        let (verdicts, found) = restored(&criu, dir)?;
        ensure!(
            !verdicts.contains(&Ok(Verdict::Failed)),
            "in the right order the verdicts are {verdicts:?}"
        );
        found.context("in the right order")?;

        for name in ["go", "out"] {
            fs::remove_file(dir.file(name)).with_context(|| format!("removing {name}"))?;
        }
        let criu = criu.env("CRIU_SIGNALS_ORDER", self.moved());
        let (verdicts, found) = restored(&criu, dir)?;
        let log = dir.read("images/restore.log");
        ensure!(log.contains("order of replay: ["), "nothing was replayed");
        let failed = verdicts.contains(&Ok(Verdict::Failed));
        match (self.then, found) {
            (Then::Passes, found) => {
                ensure!(!failed, "the verdicts are {verdicts:?}");
                found
            }
            (Then::Refuses, found) => {
                ensure!(failed, "the verdicts are {verdicts:?}");
                found
            }
            (Then::Breaks(says), Err(why)) if why.to_string().contains(says) => {
                ensure!(
                    failed,
                    "the verdicts are {verdicts:?}, and the program finds: {why}"
                );
                Ok(())
            }
            (Then::Breaks(says), Err(why)) => bail!("it was to find {says:?}, but: {why}"),
            (Then::Breaks(_), Ok(())) => bail!("it passes all the same"),
        }
    }
}

/// A verdict, or what stood in its place.
type Word = std::result::Result<Verdict, String>;

/// Restores it, and lets the program check itself.
fn restored(criu: &Criu, dir: &RunDir) -> Result<(Vec<Word>, Result<()>)> {
    let (step, pid) = criu.restore(&dir.images())?;
    let pid: Pid = pid.context("criu restore failed")?;
    let found = Victim::restored(pid, dir).finish(CHECK);
    reap_all()?;
    Ok((plugin::verdicts(&step.log), found))
}

// ---- what is lost ------------------------------------------------------------------------------------------------

fn nothing(_: &mut CoreImage) -> Result<()> {
    Ok(())
}

fn mask(core: &mut CoreImage) -> Result<()> {
    let mut mask = core.mask().context("no mask")?;
    let signo = SigNo::WINCH;
    if mask.contains(signo) {
        mask.remove(signo);
    } else {
        mask.insert(signo);
    }
    Ok(core.set_mask(mask)?)
}

fn ignored(core: &mut CoreImage) -> Result<()> {
    let mut dispositions = core.dispositions().context("no dispositions")?;
    ensure!(
        dispositions[SigNo::USR1].is_ignored(),
        "SIGUSR1 is not ignored"
    );
    dispositions[SigNo::USR1] = Disposition::DEFAULT;
    Ok(core.set_dispositions(&dispositions)?)
}

/// Where criu may raise limits, all is taken out of such a queue for the dump, and CRIU's image has none.
fn last_shared(core: &mut CoreImage) -> Result<()> {
    let mut queue = core.shared_queue();
    queue.pop();
    Ok(core.set_shared_queue(&queue)?)
}

/// As if the dump had not lent a larger limit, under which CRIU can queue.
fn shared_and_lent_limit(core: &mut CoreImage) -> Result<()> {
    core.set_shared_queue(&[])?;
    let limit = core.rlimit_sigpending().context("no limit")?;
    Ok(core.set_rlimit_sigpending(Rlimit { soft: 5, ..limit })?)
}

fn last_private(core: &mut CoreImage) -> Result<()> {
    let mut queue = core.private_queue();
    queue.pop();
    Ok(core.set_private_queue(&queue)?)
}

fn altstack(core: &mut CoreImage) -> Result<()> {
    ensure!(core.altstack().is_some(), "no alternate stack");
    Ok(core.set_altstack(None)?)
}

fn parent_death(core: &mut CoreImage) -> Result<()> {
    ensure!(core.parent_death_signal().is_some(), "no such signal");
    Ok(core.set_parent_death_signal(None)?)
}
