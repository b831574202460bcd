//! Tests how the plugin handles damaged images.
//!
//! First CRIU's images: state is removed from a core image or changed in it, as if CRIU had lost the state, and the
//! plugin must notice and follow the policy. Then the plugin's images: an image that cannot be restored or read. Then
//! dumps that fail.
//!
//! As in the scenarios, each test is this program once more as pid 1 of a namespace of its own.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::images::criu_files::{self, TimerFd};
use criu_signals::images::{
    AltStack, Arch, CoreImage, Disposition, FilesImage, Image, NsIds, SigNo, Siginfo, StackNeeds,
    ThreadState, image,
};
use criu_signals::run_report::{Document, Level, Outcome};
use criu_tests::cases::{
    self, CHECK, Test, all_need, dumped, expect_error, expect_line, expect_verdict, refused,
    restored, start, test, with_plugin,
};
use criu_tests::config;
use criu_tests::criu::{Criu, Step};
use criu_tests::plugin::{self, Verdict};
use criu_tests::procfs::{self, Pid};
use criu_tests::rundir::RunDir;
use criu_tests::skip::Need;
use criu_tests::victim::{Victim, reap_all};
use nix::mount::{MsFlags, mount};

fn main() -> ExitCode {
    cases::main("damage", tests)
}

fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for lost in LOST {
        for policy in [Policy::Repair, Policy::Strict, Policy::Report] {
            let name = format!("lost.{}.{}", lost.name, policy.name());
            tests.push(test(name, move |dir| {
                lose(lost, policy, &with_policy(policy)?, dir)
            }));
        }
    }
    let told = LOST.iter().map(|lost| {
        let name = format!("lost.told.{}", lost.name);
        test(name, move |dir| lose_told(lost, dir))
    });
    tests.extend(all_need(told.collect(), &[Need::Btf]));
    for lost in TIMERFDS {
        for policy in [Policy::Repair, Policy::Strict, Policy::Report] {
            let name = format!("lost.timerfd-{}.{}", lost.name, policy.name());
            tests.push(test(name, move |dir| lose_timerfd(lost, policy, dir)));
        }
    }
    for policy in [Policy::Repair, Policy::Strict, Policy::Report] {
        let name = format!("lost.cpu-limit.{}", policy.name());
        tests.push(test(name, move |dir| lose_cpu_limit(policy, dir)));
    }
    tests.push(test("not-recorded.clocks", clocks_not_recorded));
    for bad in IMPOSSIBLE {
        for policy in [Policy::Repair, Policy::Strict] {
            let name = format!("impossible.{}.{}", bad.name, policy.name());
            tests.push(test(name, move |dir| cannot_be_put_back(bad, policy, dir)));
        }
    }
    for bad in UNREADABLE {
        for policy in [Policy::Repair, Policy::Strict] {
            let name = format!("unreadable.{}.{}", bad.name, policy.name());
            tests.push(test(name, move |dir| cannot_be_read(bad, policy, dir)));
        }
    }
    for policy in [Policy::Repair, Policy::Strict] {
        let name = |what: &str| format!("{what}.{}", policy.name());
        tests.push(test(name("missing"), move |dir| missing(policy, dir)));
        tests.push(test(name("restore.folder-read-only"), move |dir| {
            folder_read_only(policy, dir)
        }));
        tests.push(test(name("other-machine"), move |dir| {
            other_machine(policy, dir)
        }));
        tests.push(test(name("one-missing"), move |dir| {
            one_missing(policy, dir)
        }));
        tests.push(test(name("dumped-without"), move |dir| {
            dumped_without(policy, dir)
        }));
    }
    for policy in [Policy::Repair, Policy::Strict, Policy::Report] {
        let name = format!("other-architecture.{}", policy.name());
        tests.push(test(name, move |dir| other_architecture(policy, dir)));
    }
    // Several processes, a pid namespace, a zombie: what is not damaged is not refused.
    for (victim, arg) in [
        ("process_tree", None),
        ("pidns", None),
        ("sigchld", Some("exited")),
    ] {
        tests.push(test(format!("intact.{victim}.strict"), move |dir| {
            intact(victim, arg, dir)
        }));
    }
    tests.push(test("restored-without", restored_without));
    tests.push(test("unknown-policy.dump", unknown_policy));
    tests.push(test("unknown-policy.restore", unknown_policy_at_restore));
    for (victim, arg) in [
        ("demo", None),
        ("trap_pending", None),
        ("deep_queue", Some("3000")),
    ] {
        tests.push(test(format!("dump.image-exists.{victim}"), move |dir| {
            image_exists(victim, arg, dir)
        }));
    }
    // With every signal taken out, also those that the plugin would use for its own work.
    for victim in ["shared_queue", "private_queues", "ignored_blocked"] {
        tests.push(test(format!("dump.taken-out.{victim}"), move |dir| {
            taken_out(victim, dir)
        }));
    }
    tests.push(test("dump.folder-full", |dir| {
        no_place(dir, &fill, "No space left on device")
    }));
    tests.push(test("dump.folder-read-only", |dir| {
        no_place(dir, &make_read_only, "Read-only file system")
    }));
    tests.push(test("dump.fails-late", fails_late));
    tests
}

/// `CRIU_SIGNALS_POLICY`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Repair,
    Strict,
    Report,
}

impl Policy {
    fn name(self) -> &'static str {
        match self {
            Policy::Repair => "repair",
            Policy::Strict => "strict",
            Policy::Report => "report",
        }
    }
}

fn with_policy(policy: Policy) -> Result<Criu> {
    Ok(with_plugin()?.env("CRIU_SIGNALS_POLICY", policy.name()))
}

// ---- what CRIU loses ---------------------------------------------------------------------------------------------

/// A change to one of CRIU's core images, which then differs from ours.
struct Lost {
    name: &'static str,
    victim: &'static str,
    /// The image changed is that of the leader, or of the other thread.
    of: Whose,
    change: fn(&mut CoreImage) -> Result<()>,
    /// What the plugin calls it. Other fields may differ as well: without its entry, a signal isn't pending either.
    field: &'static str,
    /// What it is said to be of: the process, or the thread.
    place: Whose,
    /// What the victim finds where it is not put back.
    says: &'static str,
    /// What it finds where it is put back, if that is not all.
    doubled: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Process,
    Leader,
    OtherThread,
}

const LOST: &[Lost] = &[
    Lost {
        name: "shared-signal",
        victim: "demo",
        of: Whose::Leader,
        change: |core| {
            let mut queue = core.shared_queue();
            queue.retain(|info| info.signo() != SigNo::HUP.get());
            changed(queue.len() == core.shared_queue().len() - 1)?;
            Ok(core.set_shared_queue(&queue)?)
        },
        field: "shared queue",
        place: Whose::Process,
        says: "shared queue, length, expected 4, got 3",
        doubled: None,
    },
    Lost {
        name: "private-signal",
        victim: "demo",
        of: Whose::OtherThread,
        change: |core| {
            let mut queue = core.private_queue();
            queue.retain(|info| info.signo() != SigNo::USR1.get());
            changed(queue.len() == core.private_queue().len() - 1)?;
            Ok(core.set_private_queue(&queue)?)
        },
        field: "private queue",
        place: Whose::OtherThread,
        says: "private queue, length, expected 4, got 3",
        doubled: None,
    },
    Lost {
        name: "order",
        victim: "demo",
        of: Whose::Leader,
        change: |core| {
            let mut queue = core.shared_queue();
            let at = realtime(&queue)?;
            queue.swap(at, at + 1);
            Ok(core.set_shared_queue(&queue)?)
        },
        field: "shared queue",
        place: Whose::Process,
        says: "shared queue, entry 1",
        doubled: None,
    },
    Lost {
        name: "value",
        victim: "demo",
        of: Whose::Leader,
        change: |core| {
            let mut queue = core.shared_queue();
            let at = queue
                .iter()
                .position(|info| info.signo() == SigNo::HUP.get());
            queue[at.context("no SIGHUP")?].0[SI_VALUE] ^= 1;
            Ok(core.set_shared_queue(&queue)?)
        },
        field: "shared queue",
        place: Whose::Process,
        says: "shared queue, entry 0",
        doubled: None,
    },
    // It could be one that somebody has sent since. No signal is thrown away, so it stays, behind those of the dump.
    Lost {
        name: "value-of-realtime",
        victim: "demo",
        of: Whose::OtherThread,
        change: |core| {
            let mut queue = core.private_queue();
            let at = realtime(&queue)?;
            queue[at].0[SI_VALUE] ^= 1;
            Ok(core.set_private_queue(&queue)?)
        },
        field: "private queue",
        place: Whose::OtherThread,
        says: "private queue, entry 1",
        doubled: Some("private queue, length, expected 4, got 5"),
    },
    // Ignored by default, as it is: the plugin itself uses such signals for its work.
    Lost {
        name: "shared-sigwinch",
        victim: "shared_queue",
        of: Whose::Leader,
        change: |core| {
            let mut queue = core.shared_queue();
            queue.retain(|info| info.signo() != SigNo::WINCH.get());
            changed(queue.len() == core.shared_queue().len() - 1)?;
            Ok(core.set_shared_queue(&queue)?)
        },
        field: "shared queue",
        place: Whose::Process,
        says: "shared queue, length, expected ",
        doubled: None,
    },
    Lost {
        name: "altstack",
        victim: "demo",
        of: Whose::OtherThread,
        change: |core| {
            changed(core.altstack().is_some_and(|stack| !stack.is_disabled()))?;
            Ok(core.set_altstack(None)?)
        },
        field: "alternate stack",
        place: Whose::OtherThread,
        says: "altstack size, expected",
        doubled: None,
    },
    Lost {
        name: "mask-of-leader",
        victim: "demo",
        of: Whose::Leader,
        change: |core| {
            let mut mask = core.mask().context("no mask")?;
            changed(!mask.contains(SigNo::WINCH))?;
            mask.insert(SigNo::WINCH);
            Ok(core.set_mask(mask)?)
        },
        field: "mask",
        place: Whose::Leader,
        says: "SigBlk, expected",
        doubled: None,
    },
    Lost {
        name: "mask-of-thread",
        victim: "demo",
        of: Whose::OtherThread,
        change: |core| {
            let mut mask = core.mask().context("no mask")?;
            changed(mask.contains(SigNo::TERM))?;
            mask.remove(SigNo::TERM);
            Ok(core.set_mask(mask)?)
        },
        field: "mask",
        place: Whose::OtherThread,
        says: "SigBlk, expected",
        doubled: None,
    },
    Lost {
        name: "handler",
        victim: "demo",
        of: Whose::Leader,
        change: |core| set_disposition(core, SigNo::TERM, Disposition::DEFAULT),
        field: "disposition of SIGTERM",
        place: Whose::Process,
        says: "signal 15 handler, expected",
        doubled: None,
    },
    // As CRIU queues the signals after it has set this, they are all pending for the plugin to find.
    Lost {
        name: "ignored-while-pending",
        victim: "demo",
        of: Whose::Leader,
        change: |core| set_disposition(core, SigNo::USR1, IGNORE),
        field: "disposition of SIGUSR1",
        place: Whose::Process,
        says: "signal 10 handler, expected",
        doubled: None,
    },
    // To put this back is to ignore a signal that is pending, which empties the queues of it.
    Lost {
        name: "no-longer-ignored-while-pending",
        victim: "ignored_blocked",
        of: Whose::Leader,
        change: |core| set_disposition(core, SigNo::USR1, Disposition::DEFAULT),
        field: "disposition of SIGUSR1",
        place: Whose::Process,
        says: "signal 10 handler, expected",
        doubled: None,
    },
    Lost {
        name: "rlimit",
        victim: "rlimit",
        of: Whose::Leader,
        change: lower_limit,
        field: "RLIMIT_SIGPENDING",
        place: Whose::Process,
        says: "soft RLIMIT_SIGPENDING, expected ",
        doubled: None,
    },
    // So low that criu could not restore the queue: the plugin takes the signals out at the dump, or where it could not
    // put them back under the hard limit, lends criu another limit, of which this then lacks one.
    Lost {
        name: "rlimit-low",
        victim: "sigpending_limit",
        of: Whose::Leader,
        change: lower_limit,
        field: "RLIMIT_SIGPENDING",
        place: Whose::Process,
        says: "soft RLIMIT_SIGPENDING, expected 5, got",
        doubled: None,
    },
];

/// Where si_value begins in a siginfo, behind si_pid and si_uid.
const SI_VALUE: usize = 24;

/// Only the soft one: to raise the hard one again takes CAP_SYS_RESOURCE, which not every root has.
fn lower_limit(core: &mut CoreImage) -> Result<()> {
    let mut limit = core.rlimit_sigpending().context("no limit")?;
    limit.soft -= 1;
    Ok(core.set_rlimit_sigpending(limit)?)
}

const IGNORE: Disposition = Disposition {
    handler: 1,
    ..Disposition::DEFAULT
};

/// A change that changes nothing proves nothing.
fn changed(is: bool) -> Result<()> {
    ensure!(is, "the image does not hold what was to be changed");
    Ok(())
}

fn set_disposition(core: &mut CoreImage, signo: SigNo, to: Disposition) -> Result<()> {
    let mut dispositions = core.dispositions().context("no dispositions")?;
    changed(dispositions[signo] != to)?;
    dispositions[signo] = to;
    Ok(core.set_dispositions(&dispositions)?)
}

/// The place of the first of two real-time entries of one number that differ.
fn realtime(queue: &[Siginfo]) -> Result<usize> {
    let at = queue.windows(2).position(|two| {
        two[0].signo() >= 40 && two[0].signo() == two[1].signo() && two[0] != two[1]
    });
    at.context("no two entries of one number")
}

fn lose(lost: &Lost, policy: Policy, criu: &Criu, dir: &RunDir) -> Result<()> {
    let pid = dumped(lost.victim, dir)?;
    let tid = other_thread(pid, dir)?;
    let path = dir.images().join(format!(
        "core-{}.img",
        if lost.of == Whose::OtherThread {
            tid.context("there is no other thread")?
        } else {
            pid
        }
    ));
    let before = fs::read(&path).with_context(|| path.display().to_string())?;
    let mut core = CoreImage::read(&before)?;
    (lost.change)(&mut core)?;
    let after = core.to_bytes()?;
    changed(before != after)?;
    fs::write(&path, after)?;

    let (restore, found) = restored(criu, dir)?;
    let place = match lost.place {
        Whose::Process => "process".to_owned(),
        Whose::Leader => format!("thread {pid}"),
        Whose::OtherThread => format!("thread {}", tid.context("there is no other thread")?),
    };
    let what = format!("{place} {}: dumped: ", lost.field);
    let (verdict, done) = if policy == Policy::Report {
        (Verdict::Differs, "left alone")
    } else {
        (Verdict::Repaired, "put back")
    };
    expect_verdict(&restore, verdict)?;
    expect_line(&restore, &[&what, &format!("; {done}")])?;
    let expected = if policy == Policy::Report {
        Some(lost.says)
    } else {
        lost.doubled
    };
    match (expected, found) {
        (None, found) => found,
        (Some(says), Err(why)) if why.to_string().contains(says) => Ok(()),
        (Some(says), Err(why)) => bail!("the victim was to find {says:?}, but: {why}"),
        (Some(says), Ok(())) => bail!("the victim passes, and was to find {says:?}"),
    }
}

/// What is lost is found, and is put back, also where BPF tells of the threads and they are not asked.
fn lose_told(lost: &Lost, dir: &RunDir) -> Result<()> {
    let criu = Criu::new(&config::criu()?, &config::faults_dir()?.join("plugins"));
    let criu = criu.env("CRIU_SIGNALS_BPF", "always");
    lose(lost, Policy::Repair, &criu, dir)?;
    let log = fs::read_to_string(dir.images().join("restore.log"))?;
    ensure!(
        log.contains("stopped processes read by BPF"),
        "the restore asked all threads"
    );
    Ok(())
}

/// A change to the timerfds in CRIU's image of all files: of a program that has a fast one, a slow one, one that is not
/// armed, and one that has expired for good.
struct LostTimerfd {
    name: &'static str,
    change: fn(&mut TimerFd),
    /// What the plugin says of one of them.
    found: &'static str,
    /// How many it says differ.
    differ: usize,
    /// What the victim finds where it is not put back.
    says: &'static str,
}

const TIMERFDS: &[LostTimerfd] = &[
    // With its ticks CRIU 4.3 arms it by itself.
    LostTimerfd {
        name: "stands-still",
        change: |timer| {
            if !timer.interval.is_zero() && timer.ticks != 0 {
                timer.remaining = Duration::ZERO;
                timer.ticks = 0;
            }
        },
        found: "CLOCK_MONOTONIC, not armed, every 0.300 s, stands still",
        differ: 2,
        says: "a fast timerfd, expected a tick",
    },
    LostTimerfd {
        name: "expiration",
        change: |timer| {
            if timer.interval.is_zero() {
                timer.ticks = 0;
            }
        },
        found: "CLOCK_MONOTONIC, not armed",
        differ: 1,
        says: "ticks of one that expires once, expected 0000000000000001",
    },
    LostTimerfd {
        name: "armed",
        change: |timer| {
            if timer.ticks == 0 {
                timer.remaining = timer.interval;
            }
        },
        // Or expired, on a busy machine.
        found: "every 0.300 s",
        differ: 1,
        says: "one that is not armed, expected no tick",
    },
    LostTimerfd {
        name: "interval",
        change: |timer| {
            if timer.interval < Duration::from_millis(1) {
                timer.interval = Duration::ZERO;
                timer.remaining = Duration::ZERO;
            }
        },
        found: "CLOCK_MONOTONIC, expired and not read",
        differ: 1,
        says: "a fast timerfd, expected a tick",
    },
];

fn lose_timerfd(lost: &LostTimerfd, policy: Policy, dir: &RunDir) -> Result<()> {
    dumped("timerfds", dir)?;
    let path = dir.images().join(criu_files::FILES);
    let before = fs::read(&path)?;
    let mut files = FilesImage::read(&before)?;
    files.change_timerfds(lost.change);
    let after = files.to_bytes()?;
    changed(before != after)?;
    fs::write(&path, after)?;

    let (restore, found) = restored(&with_policy(policy)?, dir)?;
    let done = expect_done(&restore, policy)?;
    expect_line(&restore, &["process timerfd ", lost.found, done])?;
    let lines = plugin::lines(&restore.log).filter(|line| line.contains("process timerfd "));
    let count = lines.count();
    ensure!(count == lost.differ, "{count} timerfds differ");
    expect_found(policy, lost.says, found)
}

/// The verdict, and what was done about each difference.
fn expect_done(restore: &Step, policy: Policy) -> Result<&'static str> {
    let (verdict, done) = if policy == Policy::Report {
        (Verdict::Differs, "; left alone")
    } else {
        (Verdict::Repaired, "; put back")
    };
    expect_verdict(restore, verdict)?;
    Ok(done)
}

/// What was left alone is missed by the program.
fn expect_found(policy: Policy, says: &str, found: Result<()>) -> Result<()> {
    match (policy, found) {
        (Policy::Report, Err(why)) if why.to_string().contains(says) => Ok(()),
        (Policy::Report, found) => bail!("the victim was to find {says:?}, but: {found:?}"),
        (_, found) => found,
    }
}

/// CRIU restores the limit of its image; the image of the plugin has another.
fn lose_cpu_limit(policy: Policy, dir: &RunDir) -> Result<()> {
    let pid = dumped("rlimit", dir)?;
    rewrite(&our_image(pid, dir), |image| {
        let clocks = image.process.clocks.as_mut().expect("the dump has looked");
        clocks.cpu.limit.soft = 4711;
    })?;
    let (restore, found) = restored(&with_policy(policy)?, dir)?;
    let done = expect_done(&restore, policy)?;
    let what = "process RLIMIT_CPU: dumped: soft 4711 ";
    expect_line(&restore, &[what, done])?;
    found
}

/// An image that an older version has written tells nothing of timerfds: they are not compared, and that is said.
fn clocks_not_recorded(dir: &RunDir) -> Result<()> {
    let pid = dumped("timerfds", dir)?;
    rewrite(&our_image(pid, dir), |image| image.process.clocks = None)?;
    let report = dir.file("report");
    let criu = with_plugin()?.env("CRIU_SIGNALS_REPORT", &report);
    let (restore, found) = restored(&criu, dir)?;
    expect_verdict(&restore, Verdict::Verified)?;
    let says = "timerfds and RLIMIT_CPU, of which the image records nothing";
    expect_line(&restore, &["not compared: ", says])?;
    let report: Document = serde_json::from_str(&fs::read_to_string(report)?)?;
    let parts = &report.processes[0].not_compared;
    ensure!(parts.iter().any(|part| part == says), "{report:?}");
    found
}

/// The thread that is not the leader, by its core image.
fn other_thread(pid: Pid, dir: &RunDir) -> Result<Option<Pid>> {
    let mut found = None;
    for entry in fs::read_dir(dir.images())? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| {
            name.strip_prefix("core-")?
                .strip_suffix(".img")?
                .parse()
                .ok()
        });
        found = found.or(number.filter(|&number: &Pid| number != pid));
    }
    Ok(found)
}

// ---- what cannot be put back -------------------------------------------------------------------------------------

/// A change to our image, into one that is in order and asks for what cannot be.
struct Impossible {
    name: &'static str,
    change: fn(&mut image::Image),
    /// Parts of one error of the plugin's, under `repair`.
    says: &'static [&'static str],
    /// Parts of one error of the plugin's, under `strict`.
    refused: &'static str,
    /// Under `strict` it is seen before anything is restored.
    early: bool,
}

const IMPOSSIBLE: &[Impossible] = &[
    Impossible {
        name: "no-such-thread",
        change: |image| {
            let ids = image.process.ids.as_slice();
            let ids = ids.iter().map(|id| id + 5000).collect();
            let ids = NsIds::new(ids).expect("as many as before");
            image.process.threads.push(ThreadState::bare(ids));
        },
        says: &["existence: dumped: a thread; found: none; NOT put back"],
        refused: "signal state differs from the captured state, and policy=strict",
        early: false,
    },
    Impossible {
        name: "small-altstack",
        change: |image| {
            let stack = image.process.threads[1].altstack;
            image.process.threads[1].altstack = AltStack {
                size: 1024,
                ..stack
            };
        },
        says: &["sigaltstack", "ENOMEM"],
        refused: "alternate stacks are too small for this machine",
        early: true,
    },
];

fn cannot_be_put_back(bad: &Impossible, policy: Policy, dir: &RunDir) -> Result<()> {
    let pid = dumped("demo", dir)?;
    rewrite(&our_image(pid, dir), bad.change)?;

    let criu = with_policy(policy)?;
    if policy == Policy::Strict {
        let restore = refused(&criu, dir)?;
        expect_error(&restore, &[bad.refused])?;
        return expect_nothing_restored(&restore, bad.early);
    }
    let (restore, found) = restored(&criu, dir)?;
    expect_verdict(&restore, Verdict::Failed)?;
    expect_error(&restore, &["verdict=failed"])?;
    expect_error(&restore, bad.says)?;
    found
}

fn rewrite(path: &Path, change: fn(&mut Image)) -> Result<()> {
    let mut image = image::open(path)?;
    change(&mut image);
    let mut bytes = Vec::new();
    image::write(&mut bytes, &image)?;
    Ok(fs::write(path, bytes)?)
}

fn our_image(pid: Pid, dir: &RunDir) -> PathBuf {
    dir.images().join(image::file_name(pid))
}

/// What CRIU says when it makes the first process.
const FORKING: &str = "Forking task with";

fn expect_nothing_restored(restore: &Step, nothing: bool) -> Result<()> {
    ensure!(
        restore.log.contains(FORKING) != nothing,
        "expected criu {}to have begun to restore",
        if nothing { "not " } else { "" }
    );
    Ok(())
}

// ---- what was made elsewhere -------------------------------------------------------------------------------------

/// Another kernel and another processor: said, by the restore and by its report, and nothing else.
fn other_machine(policy: Policy, dir: &RunDir) -> Result<()> {
    let pid = dumped("demo", dir)?;
    rewrite(&our_image(pid, dir), |image| {
        image.header.kernel_release = "5.10.0-28-amd64".to_owned();
        image.process.stack_needs = Some(StackNeeds {
            minimum: 2000,
            frame: 1100,
        });
    })?;
    let path = dir.file("report.json");
    let criu = with_policy(policy)?.env("CRIU_SIGNALS_REPORT", &path);
    let (restore, found) = restored(&criu, dir)?;
    expect_verdict(&restore, Verdict::Verified)?;
    let says = [
        "1 process was dumped on another machine: under Linux 5.10.0-28-amd64, and this is ",
        "; where AT_MINSIGSTKSZ is 2000 and a signal frame has up to 1100 bytes, here ",
    ];
    expect_line(&restore, &says)?;
    let loud = plugin::lines(&restore.log).find(|line| {
        line.contains("Warn  (")
            && ["another machine", "machine="]
                .iter()
                .any(|w| line.contains(w))
    });
    ensure!(loud.is_none(), "nothing is lost: {loud:?}");
    let report: Document = serde_json::from_str(&fs::read_to_string(&path)?)?;
    let [notice] = report.notices.as_slice() else {
        bail!("not one notice: {report:?}")
    };
    ensure!(
        (notice.kind.as_str(), notice.level) == ("machine", Level::Info)
            && says.iter().all(|part| notice.text.contains(part)),
        "{notice:?}"
    );
    ensure!(report.outcome == Outcome::Verified, "{report:?}");
    found
}

/// Refused whatever the policy, before there is a process. The image alone is to blame: as it was, it is restored.
fn other_architecture(policy: Policy, dir: &RunDir) -> Result<()> {
    let pid = dumped("demo", dir)?;
    let image = our_image(pid, dir);
    let kept = fs::read(&image)?;
    rewrite(&image, |image| image.header.arch = Arch::Aarch64)?;

    let path = dir.file("report.json");
    let criu = with_policy(policy)?.env("CRIU_SIGNALS_REPORT", &path);
    let restore = refused(&criu, dir)?;
    let name = image::file_name(pid);
    expect_error(
        &restore,
        &[
            &name,
            "the image was dumped on aarch64, and this machine is x86_64",
        ],
    )?;
    expect_error(&restore, &["on another architecture. Nothing is restored"])?;
    expect_nothing_restored(&restore, true)?;
    let report: Document = serde_json::from_str(&fs::read_to_string(&path)?)?;
    ensure!(
        report.outcome == Outcome::Refused && report.criu.result.is_none(),
        "{report:?}"
    );

    fs::write(&image, kept)?;
    let (restore, found) = restored(&criu, dir)?;
    expect_verdict(&restore, Verdict::Verified)?;
    found
}

// ---- what cannot be read -----------------------------------------------------------------------------------------

/// Something else in the place of our image.
struct Unreadable {
    name: &'static str,
    damage: fn(&Path) -> Result<()>,
    says: &'static str,
}

const UNREADABLE: &[Unreadable] = &[
    Unreadable {
        name: "empty",
        damage: |path| cut(path, |_| 0),
        says: "the image is not complete: it ends in the magic numbers",
    },
    Unreadable {
        name: "magic-only",
        damage: |path| cut(path, |_| 8),
        says: "the image is not complete: it ends before the trailer",
    },
    Unreadable {
        name: "cut-in-entry",
        damage: |path| cut(path, |_| 20),
        says: "the image is not complete: it ends in entry 0",
    },
    Unreadable {
        name: "cut-at-half",
        damage: |path| cut(path, |length| length / 2),
        says: "the image is not complete: it ends ",
    },
    Unreadable {
        name: "last-byte-missing",
        damage: |path| cut(path, |length| length - 1),
        says: "the image is not complete: it ends in entry ",
    },
    Unreadable {
        name: "bit-flipped",
        damage: |path| {
            edit(path, |bytes| {
                // Still a name: nothing but the checksum can tell.
                let comm = find(bytes, b"demo")?;
                bytes[comm] ^= 1;
                Ok(())
            })
        },
        says: "the image is damaged: its checksum is ",
    },
    Unreadable {
        name: "oversized",
        damage: |path| {
            edit(path, |bytes| {
                bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
                Ok(())
            })
        },
        says: "the image is damaged: entry 0 has a size of 4294967295 bytes, and 1048576 is the limit",
    },
    Unreadable {
        name: "foreign",
        damage: |path| {
            let other = path.with_file_name("pstree.img");
            fs::copy(other, path).context("copying")?;
            Ok(())
        },
        says: "not an image of this kind: the file begins with 0x54564319 0x50273030, not with 0x54564319 0x59511738",
    },
    Unreadable {
        name: "newer",
        damage: |path| {
            edit(path, |bytes| {
                // Two magic numbers and a size; Entry.header and its length; Header.format_version.
                changed(bytes[12] == 0x0a && bytes[14..16] == [0x08, 1])?;
                bytes[15] = 3;
                Ok(())
            })
        },
        says: "the image has format version 3, and this program reads versions up to 2",
    },
    Unreadable {
        name: "symlink",
        damage: |path| {
            let moved = path.with_extension("moved");
            fs::rename(path, &moved)?;
            Ok(symlink(moved, path)?)
        },
        says: "is not a regular file",
    },
    Unreadable {
        name: "io-error",
        damage: |path| {
            // A regular file that root can open, and nobody can read the beginning of.
            let none: Option<&str> = None;
            mount(Some("/proc/self/mem"), path, none, MsFlags::MS_BIND, none).context("mounting it")
        },
        says: "Input/output error",
    },
];

fn cut(path: &Path, length: fn(u64) -> u64) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let whole = file.metadata()?.len();
    changed(length(whole) < whole)?;
    Ok(file.set_len(length(whole))?)
}

fn edit(path: &Path, change: fn(&mut [u8]) -> Result<()>) -> Result<()> {
    let mut bytes = fs::read(path)?;
    change(&mut bytes)?;
    Ok(fs::write(path, bytes)?)
}

fn find(bytes: &[u8], what: &[u8]) -> Result<usize> {
    let at = bytes.windows(what.len()).position(|part| part == what);
    at.with_context(|| format!("no {what:?}"))
}

fn cannot_be_read(bad: &Unreadable, policy: Policy, dir: &RunDir) -> Result<()> {
    let pid = dumped("demo", dir)?;
    (bad.damage)(&our_image(pid, dir))?;
    let name = image::file_name(pid);

    let criu = with_policy(policy)?;
    if policy == Policy::Strict {
        let restore = refused(&criu, dir)?;
        expect_error(&restore, &[&name, bad.says])?;
        expect_error(&restore, &["Nothing is restored (policy=strict)"])?;
        return expect_nothing_restored(&restore, true);
    }
    let (restore, found) = restored(&criu, dir)?;
    expect_verdict(&restore, Verdict::Failed)?;
    expect_error(&restore, &["verdict=failed"])?;
    expect_error(&restore, &[&name, bad.says])?;
    found
}

const NO_STATE: &str = "these images hold no signal state: the dump ran without this plugin, or the plugin's files were removed";

fn missing(policy: Policy, dir: &RunDir) -> Result<()> {
    let pid = dumped("demo", dir)?;
    fs::remove_file(our_image(pid, dir))?;
    let criu = with_policy(policy)?;
    if policy == Policy::Strict {
        let restore = refused(&criu, dir)?;
        expect_error(&restore, &[NO_STATE])?;
        return expect_nothing_restored(&restore, true);
    }
    let (restore, found) = restored(&criu, dir)?;
    expect_error(&restore, &[NO_STATE])?;
    expect_verdict(&restore, Verdict::Failed)?;
    let reason = "the image is missing: nothing checked";
    expect_error(&restore, &[&image::file_name(pid), reason])?;
    found
}

/// The others of the tree are checked all the same.
fn one_missing(policy: Policy, dir: &RunDir) -> Result<()> {
    let victim = start("process_tree", None, dir)?;
    let processes = procfs::tree(victim.pid())?;
    let dump = with_plugin()?.dump(victim.pid(), &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    reap_all()?;
    let lost = *processes.last().context("no process")?;
    ensure!(processes.len() > 1, "only one process");
    fs::remove_file(our_image(lost, dir))?;
    let name = image::file_name(lost);
    let reason = "the image is missing";

    let criu = with_policy(policy)?;
    if policy == Policy::Strict {
        let restore = refused(&criu, dir)?;
        expect_error(&restore, &[&name, reason])?;
        expect_error(&restore, &["Nothing is restored (policy=strict)"])?;
        return expect_nothing_restored(&restore, true);
    }
    let (restore, found) = restored(&criu, dir)?;
    expect_error(&restore, &[&name, reason])?;
    let verdicts = plugin::verdicts(&restore.log);
    let count = |verdict| verdicts.iter().filter(|v| **v == Ok(verdict)).count();
    ensure!(
        count(Verdict::Failed) == 1 && count(Verdict::Verified) == processes.len() - 1,
        "{} processes, and the verdicts are {verdicts:?}",
        processes.len()
    );
    found
}

fn intact(program: &str, arg: Option<&str>, dir: &RunDir) -> Result<()> {
    let victim = Victim::start(
        &config::victim(program, false),
        arg,
        dir,
        program == "pidns",
    )?;
    let count = procfs::tree(victim.pid())?.len();
    let dump = with_plugin()?.dump(victim.pid(), &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    reap_all()?;
    let (restore, found) = restored(&with_policy(Policy::Strict)?, dir)?;
    let verdicts = plugin::verdicts(&restore.log);
    ensure!(
        verdicts == vec![Ok(Verdict::Verified); count],
        "{count} processes, and the verdicts are {verdicts:?}"
    );
    found
}

fn dumped_without(policy: Policy, dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let alone = Criu::new(&config::criu()?, &dir.no_plugins());
    let dump = alone.dump(victim.pid(), &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    reap_all()?;
    let criu = with_policy(policy)?;
    if policy == Policy::Strict {
        let restore = refused(&criu, dir)?;
        expect_error(&restore, &[NO_STATE])?;
        return expect_nothing_restored(&restore, true);
    }
    let (restore, found) = restored(&criu, dir)?;
    expect_line(&restore, &["Warn", NO_STATE])?;
    found
}

fn restored_without(dir: &RunDir) -> Result<()> {
    dumped("demo", dir)?;
    let alone = Criu::new(&config::criu()?, &dir.no_plugins());
    let restore = refused(&alone, dir)?;
    ensure!(
        restore
            .log
            .contains("Missing required plugin: signals_plugin"),
        "criu does not say what is missing"
    );
    expect_nothing_restored(&restore, true)
}

// ---- what can't be written to ------------------------------------------------------------------------------------

/// The images lie where nothing can be written. criu wants another place for its log, and says so before it does
/// anything; the plugin writes nothing but its report.
fn folder_read_only(policy: Policy, dir: &RunDir) -> Result<()> {
    dumped("demo", dir)?;
    let images = dir.images();
    // What criu prints where it has no log.
    symlink(dir.file("restore.out"), images.join("restore.out"))?;
    let none: Option<&str> = None;
    mount(Some(&images), &images, none, MsFlags::MS_BIND, none).context("mounting")?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(none, &images, none, flags, none).context("mounting it anew")?;
    let before = names(&images)?;

    let criu = with_policy(policy)?;
    let restore = refused(&criu, dir)?;
    let says = ["restore.log", "Read-only file system"];
    ensure!(
        says.iter().all(|part| restore.log.contains(part)),
        "criu does not say that it has no place for its log: {}",
        restore.log
    );
    expect_nothing_restored(&restore, true)?;

    let work = dir.file("work");
    fs::create_dir(&work)?;
    let criu = criu.work_dir(&work);
    // A report with the images, as docs/report.md proposes.
    let beside = criu.clone().env("CRIU_SIGNALS_REPORT", "report.json");
    let says = ["make report report.json", "EROFS"];
    let step = if policy == Policy::Strict {
        let restore = refused(&beside, dir)?;
        expect_error(&restore, &says)?;
        expect_error(&restore, &["Nothing is done (policy=strict)"])?;
        expect_nothing_restored(&restore, true)?;
        let elsewhere = criu.env("CRIU_SIGNALS_REPORT", work.join("report.json"));
        let (restore, found) = restored(&elsewhere, dir)?;
        found?;
        ensure!(work.join("report.json").exists(), "there is no report");
        restore
    } else {
        let (restore, found) = restored(&beside, dir)?;
        found?;
        expect_error(&restore, &says)?;
        expect_error(&restore, &["no report will be written"])?;
        restore
    };
    expect_verdict(&step, Verdict::Verified)?;
    ensure!(names(&images)? == before, "the image folder has changed");
    Ok(())
}

fn names(folder: &Path) -> Result<BTreeSet<OsString>> {
    fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name()))
        .collect()
}

// ---- dumps that fail ---------------------------------------------------------------------------------------------

const UNKNOWN: (&str, &str) = (
    "strikt",
    "CRIU_SIGNALS_POLICY=\"strikt\": must be repair or strict or report",
);

fn unknown_policy(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let criu = with_plugin()?.env("CRIU_SIGNALS_POLICY", UNKNOWN.0);
    let dump = criu.dump(victim.pid(), &dir.images(), false)?;
    ensure!(!dump.ok, "criu dump has succeeded");
    expect_error(&dump, &[UNKNOWN.1])?;
    victim.finish(CHECK)
}

fn unknown_policy_at_restore(dir: &RunDir) -> Result<()> {
    dumped("demo", dir)?;
    let criu = with_plugin()?.env("CRIU_SIGNALS_POLICY", UNKNOWN.0);
    let restore = refused(&criu, dir)?;
    expect_error(&restore, &[UNKNOWN.1])?;
    expect_nothing_restored(&restore, true)?;
    // The images are as good as before.
    let (restore, found) = restored(&with_plugin()?, dir)?;
    expect_verdict(&restore, Verdict::Verified)?;
    found
}

/// Something of that name is there already: it is not touched, and the task runs on with all its signals.
fn image_exists(program: &str, arg: Option<&str>, dir: &RunDir) -> Result<()> {
    let victim = start(program, arg, dir)?;
    let path = our_image(victim.pid(), dir);
    fs::write(&path, "precious")?;
    let dump = with_plugin()?.dump(victim.pid(), &dir.images(), false)?;
    ensure!(!dump.ok, "criu dump has succeeded");
    let name = image::file_name(victim.pid());
    expect_error(
        &dump,
        &[&format!(
            "{name} exists already, and images are never overwritten: remove the file or choose another folder"
        )],
    )?;
    ensure!(fs::read(&path)? == b"precious", "{name} was changed");
    victim.finish(CHECK)
}

/// First a dump that fails, after which all signals are back; then one that does not, and its restore.
fn taken_out(program: &str, dir: &RunDir) -> Result<()> {
    let criu = with_plugin()?.env("CRIU_SIGNALS_DEEP_QUEUE", "1");
    let victim = start(program, None, dir)?;
    let pid = victim.pid();
    let before = procfs::signal_lines(&[pid])?;
    let path = our_image(pid, dir);
    fs::write(&path, "precious")?;
    let dump = criu.dump(pid, &dir.images(), false)?;
    ensure!(!dump.ok, "criu dump has succeeded");
    expect_error(&dump, &["exists already"])?;
    expect_line(&dump, &["pending signals put back"])?;
    let after = procfs::signal_lines(&[pid])?;
    ensure!(
        before == after,
        "after the failed dump: {}",
        procfs::describe_difference(&before, &after)
    );
    fs::remove_file(&path)?;

    let dump = criu.dump(pid, &dir.images(), false)?;
    ensure!(dump.ok, "the second criu dump failed");
    reap_all()?;
    let (restore, found) = restored(&criu, dir)?;
    expect_verdict(&restore, Verdict::Verified)?;
    found
}

/// Nothing can be written to the image folder. criu's log is elsewhere, or nobody could read what is said.
fn no_place(dir: &RunDir, spoil: &dyn Fn(&Path) -> Result<()>, says: &str) -> Result<()> {
    let images = dir.images();
    let flags = MsFlags::empty();
    mount(
        Some("tmpfs"),
        &images,
        Some("tmpfs"),
        flags,
        Some("size=64k"),
    )
    .context("mounting")?;
    for name in ["dump.log", "dump.out"] {
        symlink(dir.file(name), images.join(name))?;
    }
    spoil(&images)?;

    let victim = start("demo", None, dir)?;
    let dump = with_plugin()?.dump(victim.pid(), &images, false)?;
    ensure!(!dump.ok, "criu dump has succeeded");
    let name = image::file_name(victim.pid());
    expect_error(&dump, &[&name, says])?;
    ensure!(!images.join(&name).exists(), "{name} is left behind");
    victim.finish(CHECK)
}

fn fill(images: &Path) -> Result<()> {
    let filled = fs::write(images.join("filler"), vec![1; 1 << 20]);
    ensure!(filled.is_err(), "it is not full");
    Ok(())
}

fn make_read_only(images: &Path) -> Result<()> {
    let none: Option<&str> = None;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, images, none, flags, none).context("mounting it anew")
}

/// CRIU gives up when all is captured: our images go, and the next dump finds no obstacle.
fn fails_late(dir: &RunDir) -> Result<()> {
    let victim = start("locked", None, dir)?;
    let criu = with_plugin()?;
    let path = our_image(victim.pid(), dir);
    let dump = criu.dump(victim.pid(), &dir.images(), false)?;
    ensure!(!dump.ok, "criu dump has succeeded");
    expect_line(&dump, &["captured into signals-"])?;
    ensure!(!path.exists(), "{} is left behind", path.display());

    let criu = criu.arg("--file-locks");
    let dump = criu.dump(victim.pid(), &dir.images(), false)?;
    ensure!(dump.ok, "the second criu dump failed");
    ensure!(path.exists(), "{} is not there", path.display());
    reap_all()?;
    let (restore, found) = restored(&criu, dir)?;
    expect_verdict(&restore, Verdict::Verified)?;
    found
}
