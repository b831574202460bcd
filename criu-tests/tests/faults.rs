//! Drives every fault point (`src/fault.rs` of the library): the operation fails there, or the process that executes it
//! is killed there, and the program's state must be exactly unchanged.
//!
//! The program is `everything`, which has every kind of state and checks itself, or a program for the particular fault.
//! As in the scenarios, each test is this program once more as pid 1 of a namespace of its own.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::fault::Point;
use criu_signals::images::{SigNo, image};
use criu_signals::proc::SignalStatus;
use criu_tests::cases::expect_error;
use criu_tests::config;
use criu_tests::criu::{Criu, Step};
use criu_tests::harness::isolated;
use criu_tests::ns;
use criu_tests::plugin::{self, Verdict};
use criu_tests::procfs::{self, Pid};
use criu_tests::rundir::RunDir;
use criu_tests::skip::{self, Decision, Need};
use criu_tests::victim::{Victim, reap_all};
use criu_tests::wait::{self, PATIENCE};
use libtest_mimic::{Arguments, Failed, Trial};

/// For what takes microseconds, on a busy machine.
const SOON: Duration = Duration::from_secs(10);
const FAULT: &str = "CRIU_SIGNALS_FAULT";
const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;

fn main() -> ExitCode {
    ns::test_main(tests, inside)
}

fn tests() -> ExitCode {
    let mut args = Arguments::from_args();
    // A run waits more than it works.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    args.test_threads.get_or_insert(2 * cores);
    let mut trials: Vec<Trial> = rows()
        .into_iter()
        .map(|row| trial(row, !args.list))
        .collect();
    trials.push(Trial::test("every-point-is-driven", every_point));
    libtest_mimic::run(&args, trials).exit_code()
}

fn trial(row: Row, say: bool) -> Trial {
    let name = row.name();
    let run = {
        let name = name.clone();
        move || isolated("faults", &name, &[&name]).map_err(Failed::from)
    };
    match skip::decide(&name, row.needs()) {
        Decision::Run => Trial::test(name, run),
        Decision::Skip(reason) => {
            if say {
                println!("SKIP {name}: {reason}");
            }
            Trial::test(name, run).with_ignored_flag(true)
        }
        Decision::Refuse(reason) => Trial::test(name, move || Err(reason.into())),
    }
}

/// Pid 1 of the namespace.
fn inside() -> ExitCode {
    let run = || {
        let args: Vec<String> = env::args().skip(1).collect();
        let [name, dir] = args.as_slice() else {
            bail!("two arguments are needed: {args:?}")
        };
        let row = rows().into_iter().find(|row| row.name() == *name);
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

/// What is under way when the point is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum During {
    /// `criu dump --leave-running`.
    Dump,
    /// The same, and queues are taken for deep ones, so that nobody knows them before they are taken out.
    DeepDump,
    /// The same, of a program without a signal that can be the marker.
    UnmarkedDump,
    /// The same, of a program that sleeps.
    SleepingDump,
    /// The same, of a 32-bit one.
    Sleeping32Dump,
    /// The same, of a program with threads in calls that have masks of their own.
    MaskedDump,
    /// A dump that is killed while signals are in custody: the guardian's work.
    Rescue,
    /// A dump of a program whose queue has no room, by a criu that may not give it more.
    LendingDump,
    /// `criu restore`. What fails makes it fail.
    StrictRestore,
    /// `criu restore`. What fails is said.
    Restore,
    /// `criu-signals show PID`.
    Show,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Fail,
    Kill,
    Panic,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    point: Point,
    during: During,
    action: Action,
    /// Which passage of the point.
    passage: u32,
}

/// A later passage, where there are many: of all that is injected, half is behind by then.
const LATER: u32 = 20;

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for &point in Point::ALL {
        for &(during, passage) in drive(point) {
            let actions: &[Action] = match during {
                // Without criu nobody can say that the check has failed.
                During::Restore => &[Action::Fail, Action::Panic],
                During::Dump | During::StrictRestore | During::LendingDump => {
                    &[Action::Fail, Action::Kill, Action::Panic]
                }
                _ => &[Action::Fail, Action::Kill],
            };
            for &action in actions {
                rows.push(Row {
                    point,
                    during,
                    action,
                    passage,
                });
            }
        }
    }
    rows
}

/// When a point is passed, and which passage is tried.
fn drive(point: Point) -> &'static [(During, u32)] {
    use During::{
        DeepDump, Dump, LendingDump, MaskedDump, Rescue, Restore, Show, Sleeping32Dump,
        SleepingDump, StrictRestore, UnmarkedDump,
    };
    match point {
        Point::ThreadSeized | Point::Seized | Point::Releasing => &[(Dump, 1), (Show, 1)],

        Point::StubWritten
        | Point::RegistersSet
        | Point::MaskSet
        | Point::ScratchMapped
        | Point::TableWritten
        | Point::BatchReady
        | Point::BatchDone
        | Point::OutcomesRead
        | Point::ScratchUnmapped
        | Point::MaskBack
        | Point::RegistersBack
        | Point::LetGo => &[(Dump, 1), (Dump, LATER), (StrictRestore, LATER), (Show, 1)],
        Point::GlanceReady | Point::GlanceDone | Point::NextThread => {
            &[(Dump, 1), (Dump, LATER), (StrictRestore, 1), (Show, 1)]
        }
        Point::StubCleared => &[(Dump, 1), (StrictRestore, 1), (Show, 1)],
        Point::CallEntered | Point::CallLeft => &[(UnmarkedDump, 1), (UnmarkedDump, LATER)],
        Point::MaskOfCallAsked => &[(MaskedDump, 1), (MaskedDump, 2)],
        Point::CallInterrupted => &[(StrictRestore, 1), (SleepingDump, 1), (Sleeping32Dump, 1)],

        Point::CapturedOutside
        | Point::CapturedDispositions
        | Point::CapturedThreads
        | Point::Captured => &[(Dump, 1), (Dump, 2), (Show, 1)],
        Point::OverrunCounted
        | Point::StopRead
        | Point::StopChanged
        | Point::StopTurning
        | Point::WaitStatusRead => &[(Dump, 1)],

        // The first guardian is that of the SIGTRAP, the second that of the fault signal.
        Point::GuardianForking | Point::GuardianStarted => &[(Dump, 1), (Dump, 2)],
        Point::GuardianWatching => &[(Dump, 1)],
        Point::GuardianTelling | Point::GuardianTold | Point::GuardianHeard => {
            &[(Dump, 1), (DeepDump, 1)]
        }
        Point::TakingOut | Point::TakenOut => &[(Dump, 1), (Dump, 4), (DeepDump, 4)],
        Point::CustodyWhole | Point::GivingBack | Point::GivenBack | Point::GuardianDismissed => {
            &[(Dump, 1), (Dump, 2), (DeepDump, 2)]
        }
        Point::CriuGone | Point::RescueSeized | Point::RescueDone => &[(Rescue, 1)],

        // Signals of one process only are in custody.
        Point::DumpBegin | Point::ImageSynced => &[(Dump, 1)],
        Point::DumpLook
        | Point::DumpLooked
        | Point::DumpCaptured
        | Point::ImageCreated
        | Point::ImageWritten
        | Point::HandingOver
        | Point::HandedOver => &[(Dump, 1), (Dump, 2)],
        Point::DumpEnd
        | Point::CustodyBack
        | Point::DispositionsBack
        | Point::CallsBack
        | Point::StopsBack
        | Point::LetGoAwaited
        | Point::LetGoSeen => &[(Dump, 1)],
        Point::RoomWritten => &[(LendingDump, 1)],

        Point::RestoreBegin
        | Point::RestoreHanded
        | Point::ImageRead
        | Point::StopEntering
        | Point::StopEntered
        | Point::OutGoingBack
        | Point::LimitBack
        | Point::Compared
        | Point::BlockAll
        | Point::Dispositions
        | Point::RaiseLimit
        | Point::PrivateQueues
        | Point::SharedQueue
        | Point::Timers
        | Point::AlternateStacks
        | Point::ParentDeathSignals
        | Point::Limit
        | Point::Masks
        | Point::InterruptedCalls
        | Point::GroupStop
        | Point::Replayed
        | Point::ReadBack => &[(StrictRestore, 1), (Restore, 1)],
    }
}

/// A new point that is not in [`drive`] does not compile; one that nothing is done with fails here.
fn every_point() -> Result<(), Failed> {
    let rows = rows();
    for point in Point::ALL {
        for action in [Action::Fail, Action::Kill] {
            if !rows
                .iter()
                .any(|row| row.point == *point && row.action == action)
            {
                return Err(format!("{point} is not driven by {action:?}").into());
            }
        }
    }
    Ok(())
}

impl Row {
    fn name(&self) -> String {
        let Row {
            point,
            during,
            action,
            passage,
        } = self;
        format!(
            "{during:?}.{:03}-{point:?}.{action:?}.{passage}",
            point.number()
        )
        .to_ascii_lowercase()
    }

    fn needs(&self) -> &'static [Need] {
        match self.during {
            During::LendingDump => &[Need::NoCapSysResource],
            During::Sleeping32Dump => &[Need::Ia32],
            _ => &[],
        }
    }

    fn run(&self, dir: &RunDir) -> Result<()> {
        match self.during {
            During::Dump
            | During::DeepDump
            | During::UnmarkedDump
            | During::SleepingDump
            | During::Sleeping32Dump
            | During::MaskedDump => self.dump(dir),
            During::Rescue => self.rescue(dir),
            During::LendingDump => self.lend(dir),
            During::StrictRestore => self.strict_restore(dir),
            During::Restore => self.restore(dir),
            During::Show => self.show(dir),
        }
    }

    fn armed(&self) -> String {
        let action = match self.action {
            Action::Fail => "fail",
            Action::Kill => "kill",
            Action::Panic => "panic",
        };
        let whose = if in_companion(self.point) {
            "companion/"
        } else {
            ""
        };
        format!("{whose}{}:{action}:{}", self.point.number(), self.passage)
    }

    /// The point's line in the log, when it has done what it is armed for.
    fn reached(&self) -> String {
        let done = match self.action {
            Action::Fail => "fails",
            Action::Kill => "killed",
            Action::Panic => "panics",
        };
        format!("{}: {done}", self.point)
    }

    fn expect_reached(&self, log: &str) -> Result<()> {
        let reached = self.reached();
        ensure!(
            log.contains(&reached),
            "it was never passed: {} is not in the log",
            reached
        );
        Ok(())
    }

    /// What has failed is said, as what it is: by criu's process and by the guardian, which share a log.
    fn expect_said(&self, log: &str) -> Result<()> {
        let what = match self.action {
            Action::Panic => "made to panic",
            Action::Fail | Action::Kill => "made to fail",
        };
        let why = format!("{}: {what} by {FAULT}", self.point);
        let said = plugin::lines(log).any(|line| {
            line.contains(&why) && (line.contains("Error (") || line.contains("Warn  ("))
        });
        ensure!(said, "no error or warning says {why:?}");
        Ok(())
    }

    fn dump(&self, dir: &RunDir) -> Result<()> {
        let victim = match self.during {
            During::UnmarkedDump => start("everything", Some("no-marker"), dir)?,
            During::SleepingDump => start("sleeping", None, dir)?,
            During::MaskedDump => start("ppoll", None, dir)?,
            During::Sleeping32Dump => {
                Victim::start(&config::victim("sleeping", true), None, dir, false)?
            }
            _ => start("everything", None, dir)?,
        };
        let pid = victim.pid();
        let before = visible(pid)?;
        let mut criu = with_faults()?.env(FAULT, self.armed());
        if self.during == During::DeepDump {
            criu = criu.env("CRIU_SIGNALS_DEEP_QUEUE", "1");
        }
        // BPF would tell the overruns, and nothing be counted.
        if self.point == Point::OverrunCounted {
            criu = criu.env("CRIU_SIGNALS_BPF", "never");
        }
        let dump = criu.dump(pid, &dir.images(), true)?;
        guardians_gone(&victim)?;
        let log = whole_log(dir, &dump);
        self.expect_reached(&log)?;
        match self.action {
            // That of a companion ends the companion, and is nobody's error.
            Action::Panic if in_companion(self.point) => {}
            Action::Fail | Action::Panic => {
                self.expect_said(&log)?;
                let ours = dir.images().join(image::file_name(pid));
                ensure!(
                    dump.ok == ours.exists(),
                    "criu dump {}, and {} is {}there",
                    if dump.ok { "succeeded" } else { "failed" },
                    ours.display(),
                    if ours.exists() { "" } else { "not " }
                );
            }
            // The guardian's death is not criu's.
            Action::Kill if !in_companion(self.point) => {
                ensure!(dump.signal == Some(SIGKILL), "criu was not killed");
            }
            Action::Kill => {}
        }
        visibly_same(victim, &before)
    }

    /// criu dies with signals in custody, and something happens to the guardian. Where the guardian dies as well before
    /// it has put anything back, the signals are lost with both, and nothing else is.
    fn rescue(&self, dir: &RunDir) -> Result<()> {
        let victim = start("everything", None, dir)?;
        let held = Point::HandedOver.number();
        let armed = format!("{held}:kill,{}", self.armed());
        let criu = with_faults()?.env(FAULT, armed);
        let dump = criu.dump(victim.pid(), &dir.images(), true)?;
        guardians_gone(&victim)?;
        let log = whole_log(dir, &dump);
        self.expect_reached(&log)?;
        let found = victim.finish(PATIENCE);
        match (self.action, self.point) {
            (Action::Fail | Action::Panic, _) => {
                self.expect_said(&log)?;
                found
            }
            (Action::Kill, Point::RescueDone) => found,
            (Action::Kill, _) => only_pending_signals_are_lost(found),
        }
    }

    fn lend(&self, dir: &RunDir) -> Result<()> {
        let victim = start("sigpending_limit", None, dir)?;
        let criu = with_faults()?.env(FAULT, self.armed());
        let dump = criu.dump(victim.pid(), &dir.images(), true)?;
        self.expect_reached(&dump.log)?;
        if self.action != Action::Kill {
            self.expect_said(&dump.log)?;
        }
        let left: Vec<_> = fs::read_dir(dir.images())?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(".signals"))
            .collect();
        ensure!(
            left.is_empty() || self.action == Action::Kill,
            "{left:?} is left behind"
        );
        victim.finish(PATIENCE)
    }

    /// `everything` sleeps only between two looks at its file, so that it is not always in a call that has to be begun anew.
    fn restored_program(&self) -> &'static str {
        match self.point {
            Point::CallInterrupted => "sleeping",
            _ => "everything",
        }
    }

    /// Nothing that is half put back may run, and the images are as good as before.
    fn strict_restore(&self, dir: &RunDir) -> Result<()> {
        dumped(self.restored_program(), dir)?;
        let criu = with_faults()?.env("CRIU_SIGNALS_POLICY", "strict");
        let (restore, pid) = criu
            .clone()
            .env(FAULT, self.armed())
            .restore(&dir.images())?;
        self.expect_reached(&restore.log)?;
        ensure!(pid.is_none(), "criu restore has succeeded");
        match self.action {
            Action::Fail | Action::Panic => self.expect_said(&restore.log)?,
            Action::Kill => ensure!(restore.signal == Some(SIGKILL), "criu was not killed"),
        }
        self.restore_again(dir)
    }

    /// After a restore that came to nothing.
    fn restore_again(&self, dir: &RunDir) -> Result<()> {
        nothing_left()?;
        fs::rename(
            dir.images().join("restore.log"),
            dir.images().join("first-restore.log"),
        )?;
        let criu = with_faults()?.env("CRIU_SIGNALS_POLICY", "strict");
        let (_, pid) = criu.restore(&dir.images())?;
        let pid = pid.context("the second criu restore failed")?;
        Victim::restored(pid, dir).finish(PATIENCE)
    }

    /// The verdict says that something is wrong. The restore goes on, unless signals that the dump has taken out are not back:
    /// then it fails, and the images are as good as before.
    fn restore(&self, dir: &RunDir) -> Result<()> {
        dumped(self.restored_program(), dir)?;
        let criu = with_faults()?.env(FAULT, self.armed());
        let (restore, pid) = criu.restore(&dir.images())?;
        self.expect_reached(&restore.log)?;
        self.expect_said(&restore.log)?;
        if self.point == Point::RestoreBegin {
            // A plugin that cannot begin ends the run, whatever the policy.
            ensure!(pid.is_none(), "criu restore has succeeded");
            return nothing_left();
        }
        let verdicts = plugin::verdicts(&restore.log);
        ensure!(
            verdicts.contains(&Ok(Verdict::Failed)),
            "the verdicts are {verdicts:?}"
        );
        let Some(pid) = pid else {
            expect_error(
                &restore,
                &["signals that the dump has taken out", "not back"],
            )?;
            return self.restore_again(dir);
        };
        let restored = criu_signals::images::Pid::new(pid).context("a pid")?;
        let status = SignalStatus::read(restored, restored.into())?;
        ensure!(
            status
                .pending
                .union(status.shared_pending)
                .contains(SigNo::TRAP),
            "the program runs without its SIGTRAP"
        );
        ensure!(procfs::state(pid).is_some(), "the program is gone");
        Victim::restored(pid, dir).end();
        Ok(())
    }

    fn show(&self, dir: &RunDir) -> Result<()> {
        let victim = start("everything", None, dir)?;
        let pid = victim.pid();
        let before = visible(pid)?;
        let done = Command::new(config::faults_dir()?.join("criu-signals"))
            .args(["show", "--stop", &pid.to_string()])
            .env(FAULT, self.armed())
            .stdin(Stdio::null())
            .output()
            .context("starting criu-signals")?;
        let said = String::from_utf8_lossy(&done.stderr);
        match self.action {
            Action::Fail | Action::Panic => {
                let why = format!("{}: made to fail by {FAULT}", self.point);
                ensure!(
                    done.status.code() == Some(2) && said.contains(&why),
                    "{}, and it says: {said}",
                    done.status
                );
            }
            // The command itself is left, and says so.
            Action::Kill => ensure!(
                done.status.code() == Some(2) && said.contains("was killed by SIGKILL"),
                "it was never passed: {}; {said}",
                done.status
            ),
        }
        visibly_same(victim, &before)
    }
}

/// The victim's memory is mapped as before, with the masks that it had, and it passes. What a dead tracer has left, the thread takes away itself,
/// for which it needs a moment.
fn visibly_same(victim: Victim, before: &str) -> Result<()> {
    let pid = victim.pid();
    let same = wait::until("mappings and masks to be as before", SOON, || {
        Ok((visible(pid)? == before).then_some(()))
    });
    let after = visible(pid)?;
    victim.finish(PATIENCE)?;
    same.with_context(|| format!("before {before}\nafter {after}"))
}

/// Is it not criu that passes it, but what criu has started to outlive it?
fn in_companion(point: Point) -> bool {
    matches!(
        point,
        Point::GuardianWatching
            | Point::GuardianHeard
            | Point::CriuGone
            | Point::RescueSeized
            | Point::RescueDone
            | Point::LetGoAwaited
            | Point::LetGoSeen
    )
}

fn with_faults() -> Result<Criu> {
    Ok(Criu::new(
        &config::criu()?,
        &config::faults_dir()?.join("plugins"),
    ))
}

fn start(program: &str, arg: Option<&str>, dir: &RunDir) -> Result<Victim> {
    Victim::start(&config::victim(program, false), arg, dir, false)
}

/// A good dump. The program is gone when this returns.
fn dumped(program: &str, dir: &RunDir) -> Result<()> {
    let victim = start(program, None, dir)?;
    let dump = with_faults()?.dump(victim.pid(), &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    reap_all()
}

/// The log once all who write to it are gone.
fn whole_log(dir: &RunDir, dump: &Step) -> String {
    let log = dir.read("images/dump.log");
    if log.is_empty() {
        dump.log.clone()
    } else {
        log
    }
}

/// What shows in /proc whether a thread is still on its way out of the code of a dead tracer: mappings, and masks in force.
fn visible(pid: Pid) -> Result<String> {
    let path = format!("/proc/{pid}/maps");
    let mut all = fs::read_to_string(&path).context(path)?;
    for tid in procfs::tasks(pid)? {
        let path = format!("/proc/{pid}/task/{tid}/status");
        let status = fs::read_to_string(&path).context(path)?;
        let masks = status.lines().filter(|line| line.starts_with("SigBlk:"));
        masks.for_each(|line| all += &format!("thread {tid} {line}\n"));
    }
    Ok(all)
}

/// All guardians have done their work and ended: there is nobody but the victim.
fn guardians_gone(victim: &Victim) -> Result<()> {
    let tree = procfs::tree(victim.pid())?;
    wait::until("the guardians to end", PATIENCE, || {
        Ok(procfs::others(&[])?
            .iter()
            .all(|pid| tree.contains(pid))
            .then_some(()))
    })
}

/// Not one process of a restore that has failed.
fn nothing_left() -> Result<()> {
    wait::until("the restored processes to be gone", PATIENCE, || {
        Ok(procfs::others(&[])?.is_empty().then_some(()))
    })?;
    reap_all()
}

/// The victim's only complaints are about pending signals.
fn only_pending_signals_are_lost(found: Result<()>) -> Result<()> {
    let Err(said) = found else {
        bail!("the victim passes, and both were dead who could put its signals back")
    };
    let said = said.to_string();
    let about = ["queue", "Pnd", "signal taken", "bit without siginfo"];
    for line in said.lines().filter(|line| line.starts_with("FAIL: ")) {
        ensure!(
            about.iter().any(|about| line.contains(about)),
            "more is lost than pending signals: {said}"
        );
    }
    ensure!(said.contains("exit status 1"), "{said}");
    Ok(())
}
