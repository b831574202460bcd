//! Failures during a dump and a restore while signals are in custody or half put back: the guardian dies, the process
//! dies, the image folder is full or disappears.
//!
//! criu stops itself at a fault point (`src/fault.rs` of the library), the test acts, and criu continues. As in the
//! scenarios, each test is this program once more as pid 1 of a namespace of its own.

use std::env;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::engine::capture;
use criu_signals::fault::Point;
use criu_signals::images::{Fields, Pending, ProcessState, RunState, SigNo, Siginfo, image};
use criu_signals::tracee::{ByUs, StoppedProcess};
use criu_tests::cases::{self, expect_line};
use criu_tests::config;
use criu_tests::criu::{Criu, Step};
use criu_tests::harness::isolated;
use criu_tests::limited::{Limited, MEMORY};
use criu_tests::ns;
use criu_tests::plugin::{self, Verdict};
use criu_tests::procfs::{self, Pid};
use criu_tests::rundir::RunDir;
use criu_tests::skip::Need;
use criu_tests::victim::{Victim, reap_all};
use criu_tests::wait::{self, PATIENCE};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;

type Test = (&'static str, fn(&RunDir) -> Result<()>);

const TESTS: &[Test] = &[
    ("guardian-killed", guardian_killed),
    ("guardian-killed-before", guardian_killed_before),
    ("folder-full", folder_full),
    ("folder-full-deep", folder_full_deep),
    ("folder-gone", folder_gone),
    ("task-killed-in-custody", task_killed_in_custody),
    ("number-reused", number_reused),
    ("thread-number-reused", thread_number_reused),
    ("no-more-memory", no_more_memory),
    ("strangers", strangers),
    ("strangers-deep", strangers_deep),
    ("strangers-for-a-bit", strangers_for_a_bit),
    ("sent-to-all-the-time", sent_to_all_the_time),
    ("sent-to-all-the-time-deep", sent_to_all_the_time_deep),
    ("equal-to-what-is-out", equal_to_what_is_out),
    ("equal-to-what-is-out-deep", equal_to_what_is_out_deep),
    ("equal-before-it-is-taken", equal_before_taken),
    (
        "equal-before-it-is-taken-restored",
        equal_before_taken_restored,
    ),
    ("equal-left-in-after-a-failure", equal_left_in),
    ("equal-left-in-after-a-kill", equal_left_in_rescued),
    ("limit-changed-meanwhile", limit_changed),
    ("bit-of-another-user", bit_of_another_user),
    ("bit-of-another-user-rescued", bit_rescued),
    ("image-gone-at-restore", image_gone),
    ("arrives-in-sigsuspend", arrives_in_sigsuspend),
    ("restarted-poll", restarted_poll),
    ("own-entry-before-timers", own_entry_before_timers),
    ("under-lent-limit", under_lent_limit),
    ("restarted-poll-left-running", restarted_poll_left),
    ("restarted-poll-untold", restarted_poll_untold),
    ("task-killed-in-replay", task_killed_in_replay),
    ("bound-met", bound_met),
    ("bound-met-unmarked", bound_met_unmarked),
    ("killed-over-a-stopped-one", killed_over_a_stopped_one),
    ("marker-from-elsewhere", marker_from_elsewhere),
];

fn main() -> ExitCode {
    ns::test_main(tests, inside)
}

fn tests() -> ExitCode {
    let args = Arguments::from_args();
    let trials = TESTS
        .iter()
        .map(|(name, _)| {
            Trial::test(*name, move || {
                isolated("never_lost", name, &[name]).map_err(Failed::from)
            })
        })
        .collect();
    libtest_mimic::run(&args, trials).exit_code()
}

/// Pid 1 of the namespace.
fn inside() -> ExitCode {
    let run = || {
        let args: Vec<String> = env::args().skip(1).collect();
        let [name, dir] = args.as_slice() else {
            bail!("two arguments are needed: {args:?}")
        };
        let (_, run) = TESTS
            .iter()
            .find(|(known, _)| known == name)
            .with_context(|| format!("no test {name}"))?;
        run(&RunDir::open(Path::new(dir)))
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why:#}");
            ExitCode::FAILURE
        }
    }
}

fn criu() -> Result<Criu> {
    Ok(Criu::new(
        &config::criu()?,
        &config::faults_dir()?.join("plugins"),
    ))
}

fn stopping_at(point: Point) -> Result<Criu> {
    Ok(criu()?.env("CRIU_SIGNALS_FAULT", format!("{}:stop", point.number())))
}

fn start(program: &str, arg: Option<&str>, dir: &RunDir) -> Result<Victim> {
    Victim::start(&config::victim(program, false), arg, dir, false)
}

/// The thread stops more often than it may, at different places: the dump fails and says so, and the program holds what it
/// held.
fn bound_met(dir: &RunDir) -> Result<()> {
    dump_within("p:11:1 20*s:35:-1", &[0], dir)
}

/// No signal is ignored, so that each system call is two stops.
fn bound_met_unmarked(dir: &RunDir) -> Result<()> {
    dump_within("hnd:23 hnd:28 p:11:1 20*s:35:-1", &[0, 1, 2, 9, 40], dir)
}

fn dump_within(words: &str, stops: &[u32], dir: &RunDir) -> Result<()> {
    let victim = start("queued", Some(words), dir)?;
    for stops in stops {
        let criu = criu()?.env("CRIU_SIGNALS_STOPS", stops.to_string());
        let dump = criu.dump(victim.pid(), &dir.images(), false)?;
        ensure!(!dump.ok, "{stops} stops are enough");
        expect_line(&dump, &["given up and undone"])?;
    }
    victim.finish(PATIENCE)
}

/// A thread that stays where a killed criu has left it, in the injected code, as its process is stopped: the next dump
/// brings it back into the program, wherever it stands.
fn killed_over_a_stopped_one(dir: &RunDir) -> Result<()> {
    let points = [
        Point::RegistersSet,
        Point::ScratchMapped,
        Point::BatchReady,
        Point::BatchDone,
        Point::MaskBack,
    ];
    let programs = [("masks", false), ("altstacks", false), ("masks", true)];
    for (program, ia32) in programs {
        // Built where programs of 32 bits run.
        let file = config::victim(program, ia32);
        if ia32 && !config::has_ia32() {
            continue;
        }
        let images = dir.file(&format!("{program}-{ia32}"));
        fs::create_dir(&images)?;
        let dir = RunDir::open(&images);
        let victim = Victim::start(&file, None, &dir, false)?;
        for point in points {
            killed_and_dumped(victim.pid(), point, &dir)
                .with_context(|| format!("{program}, {point:?}"))?;
        }
        victim.finish(PATIENCE)?;
    }
    Ok(())
}

fn killed_and_dumped(pid: Pid, point: Point, dir: &RunDir) -> Result<()> {
    let stopped = || {
        wait::until("the stop", PATIENCE, || {
            Ok((procfs::state(pid) == Some('T')).then_some(()))
        })
    };
    send(pid, Signal::SIGSTOP)?;
    stopped()?;
    let images = dir.file(&format!("images-{point:?}"));
    fs::create_dir(&images)?;
    // In the capture: BPF would tell all of it, and code would run only at the end of the dump.
    let killed = criu()?
        .env("CRIU_SIGNALS_FAULT", format!("{}:kill", point.number()))
        .env("CRIU_SIGNALS_BPF", "never");
    let dump = killed.dump(pid, &images, true)?;
    ensure!(!dump.ok, "criu was not killed");
    untraced()?;
    // One that criu seizes on its way into the stop traps once, and criu waits for the second time.
    stopped()?;
    let dump = criu()?.dump(pid, &images, true)?;
    let said: Vec<&str> = dump.log.lines().rev().take(25).collect();
    ensure!(dump.ok, "the next criu dump fails: {}", said.join("\n"));
    // The program traces itself at its end.
    untraced()?;
    send(pid, Signal::SIGCONT)
}

/// Waits for the helpers that look after a process that was let go: they trace it.
fn untraced() -> Result<()> {
    wait::until("the end of the helpers", PATIENCE, || {
        let helpers = processes()?
            .into_iter()
            .any(|(_, name)| name.starts_with("signals-"));
        Ok((!helpers).then_some(()))
    })
}

/// The signal that injected code ends with is one that the program ignores and blocks. Sent by somebody else while that
/// code runs, it stays pending, as it would without.
fn marker_from_elsewhere(dir: &RunDir) -> Result<()> {
    let victim = start("queued", Some("20*s:35:-1"), dir)?;
    let pid = victim.pid();
    for point in [Point::ScratchMapped, Point::BatchReady, Point::BatchDone] {
        let images = dir.file(&format!("images-{point:?}"));
        fs::create_dir(&images)?;
        let mut pending = [Signal::SIGWINCH, Signal::SIGURG].into_iter();
        let criu = stopping_at(point)?;
        let dump = interrupted(
            || criu.dump(pid, &images, true),
            || pending.try_for_each(|signal| send(pid, signal)),
        )?;
        ensure!(dump.ok, "criu dump failed, {point:?}");
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let shared = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
        let shared = u64::from_str_radix(shared.context("no ShdPnd")?.trim(), 16)?;
        for signal in [Signal::SIGWINCH, Signal::SIGURG] {
            let bit = 1u64 << (signal as i32 - 1);
            ensure!(
                shared & bit != 0,
                "{signal} is gone, {point:?}: {shared:016x}"
            );
        }
    }
    victim.end();
    Ok(())
}

/// Everything but pid 1, by its name.
fn processes() -> Result<Vec<(Pid, String)>> {
    let pids = procfs::others(&[])?.into_iter();
    Ok(pids
        .filter_map(|pid| Some((pid, procfs::name(pid)?)))
        .collect())
}

fn parent(pid: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

fn named(name: &str) -> Result<Vec<Pid>> {
    let all = processes()?.into_iter();
    Ok(all.filter(|(_, n)| n == name).map(|(pid, _)| pid).collect())
}

fn send(pid: Pid, signal: Signal) -> Result<()> {
    kill(nix::unistd::Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {pid}"))
}

/// Runs `criu`, and does `meanwhile` when it has stopped itself.
fn interrupted<T: Send>(
    criu: impl FnOnce() -> Result<T> + Send,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<T> {
    let is_stopped = |pid| procfs::state(pid) == Some('T') && parent(pid) == Some(1);
    let victims: Vec<Pid> = processes()?
        .into_iter()
        .map(|(pid, _)| pid)
        .filter(|&pid| is_stopped(pid))
        .collect();
    thread::scope(|scope| {
        let running = scope.spawn(criu);
        let stopped = wait::until("criu to stop itself", PATIENCE, || {
            if running.is_finished() {
                bail!("criu has ended instead of stopping");
            }
            // Of this process's children, no other has been stopped since. Its name is that of whatever loads it.
            let stopped = processes()?
                .into_iter()
                .map(|(pid, _)| pid)
                .find(|&pid| is_stopped(pid) && !victims.contains(&pid));
            Ok(stopped)
        });
        let done = match &stopped {
            Ok(pid) => meanwhile().and(send(*pid, Signal::SIGCONT)),
            Err(_) => Ok(()),
        };
        let result = running.join().ok().context("the thread panicked")?;
        stopped?;
        done?;
        result
    })
}

/// There is nobody left but `tree`.
fn companions_gone(tree: &[Pid]) -> Result<()> {
    wait::until("the guardians to end", PATIENCE, || {
        let others = processes()?;
        let gone = others.iter().all(|(pid, _)| tree.contains(pid));
        Ok(gone.then_some(()))
    })
}

// ---- at the dump -------------------------------------------------------------------------------------------------

fn kill_guardians() -> Result<()> {
    // Just forked, it does not have its name yet.
    let guardians = wait::until("a guardian", PATIENCE, || {
        let guardians = named("signals-guard")?;
        Ok((!guardians.is_empty()).then_some(guardians))
    })?;
    guardians
        .iter()
        .try_for_each(|&pid| send(pid, Signal::SIGKILL))?;
    wait::until("the guardians to be gone", PATIENCE, || {
        Ok(named("signals-guard")?.is_empty().then_some(()))
    })
}

/// All is out, and nobody watches any more: criu puts it back itself, and says that it was alone.
fn guardian_killed(dir: &RunDir) -> Result<()> {
    let victim = start("everything", None, dir)?;
    let criu = stopping_at(Point::HandedOver)?;
    let images = dir.images();
    let pid = victim.pid();
    let dump = interrupted(|| criu.dump(pid, &images, true), kill_guardians)?;
    ensure!(dump.ok, "criu dump failed");
    expect_line(
        &dump,
        &[
            "Warn",
            "all signals are put back, but the guardian had died",
        ],
    )?;
    companions_gone(&procfs::tree(pid)?)?;
    victim.finish(PATIENCE)
}

/// Nothing is taken out that nobody watches.
fn guardian_killed_before(dir: &RunDir) -> Result<()> {
    let victim = start("private_fault", None, dir)?;
    let criu = stopping_at(Point::GuardianStarted)?;
    let images = dir.images();
    let pid = victim.pid();
    let dump = interrupted(|| criu.dump(pid, &images, true), kill_guardians)?;
    ensure!(!dump.ok, "criu dump has succeeded");
    expect_line(&dump, &["Error (", "tell the guardian: EPIPE"])?;
    ensure!(
        !images.join(image::file_name(pid)).exists(),
        "our image is left behind"
    );
    companions_gone(&[pid])?;
    victim.finish(PATIENCE)
}

fn fill(images: &Path, dir: &RunDir) -> Result<()> {
    let flags = MsFlags::empty();
    mount(
        Some("tmpfs"),
        images,
        Some("tmpfs"),
        flags,
        Some("size=64k"),
    )
    .context("mounting")?;
    for name in ["dump.log", "dump.out"] {
        symlink(dir.file(name), images.join(name))?;
    }
    let filled = fs::write(images.join("filler"), vec![1; 1 << 20]);
    ensure!(filled.is_err(), "it is not full");
    Ok(())
}

/// The image comes first: where it cannot be written, nothing is taken out.
fn folder_full(dir: &RunDir) -> Result<()> {
    let dump = dump_into_full(dir, "private_fault", None)?;
    ensure!(
        !plugin::lines(&dump.log).any(|line| line.contains("taken out until")),
        "something was taken out before the image was written"
    );
    ensure!(
        !plugin::lines(&dump.log).any(|line| line.contains("pending signals put back")),
        "something was put back"
    );
    Ok(())
}

/// What is taken out of a deep queue is with the guardian before, and goes back.
fn folder_full_deep(dir: &RunDir) -> Result<()> {
    let dump = dump_into_full(dir, "deep_queue", Some("3000"))?;
    expect_line(&dump, &["3000 pending signals put back"])
}

fn dump_into_full(dir: &RunDir, program: &str, arg: Option<&str>) -> Result<Step> {
    let images = dir.images();
    fill(&images, dir)?;
    let victim = start(program, arg, dir)?;
    let pid = victim.pid();
    let dump = criu()?.dump(pid, &images, true)?;
    ensure!(!dump.ok, "criu dump has succeeded");
    let name = image::file_name(pid);
    expect_line(&dump, &["Error (", &name, "No space left on device"])?;
    ensure!(!images.join(&name).exists(), "{name} is left behind");
    companions_gone(&[pid])?;
    victim.finish(PATIENCE)?;
    Ok(dump)
}

/// criu cannot write its own images any more; what is out goes back all the same.
fn folder_gone(dir: &RunDir) -> Result<()> {
    let victim = start("everything", None, dir)?;
    let criu = stopping_at(Point::HandedOver)?;
    let images = dir.images();
    let pid = victim.pid();
    // The log is elsewhere, or it would go as well.
    for name in ["dump.log", "dump.out"] {
        symlink(dir.file(name), images.join(name))?;
    }
    let gone = || {
        fs::remove_dir_all(&images)?;
        fs::create_dir(&images)?;
        symlink(dir.file("dump.log"), images.join("dump.log"))?;
        Ok(symlink(dir.file("dump.out"), images.join("dump.out"))?)
    };
    let dump = interrupted(|| criu.dump(pid, &images, true), gone)?;
    ensure!(!dump.ok, "criu dump has succeeded");
    expect_line(&dump, &["pending signals put back"])?;
    let tree = procfs::tree(pid)?;
    companions_gone(&tree)?;
    victim.finish(PATIENCE)
}

/// Nobody is left to give the signals to: that is said, nobody waits for ever, and no guardian stays.
fn task_killed_in_custody(dir: &RunDir) -> Result<()> {
    let victim = start("everything", None, dir)?;
    let criu = stopping_at(Point::HandedOver)?;
    let images = dir.images();
    let pid = victim.pid();
    let killed = || send(pid, Signal::SIGKILL);
    let dump = interrupted(|| criu.dump(pid, &images, true), killed)?;
    ensure!(!dump.ok, "criu dump has succeeded");
    expect_line(
        &dump,
        &[
            "Warn",
            "cannot stop",
            &format!("pid {pid}"),
            "the task is gone",
        ],
    )?;
    victim.end();
    companions_gone(&[])
}

/// criu and the guardian are in a memory cgroup in which there is no more to be had: that ends criu, and the guardian has what
/// it needs.
fn no_more_memory(dir: &RunDir) -> Result<()> {
    if let Some(reason) = Need::MemoryCgroup.missing() {
        println!("SKIP no-more-memory: {reason}");
        return Ok(());
    }
    let cgroup = Limited::new(&MEMORY, dir)?;
    let passage = |point: Point, n: u32| format!("{}:stop:{n}", point.number());
    let mut ended = 0;
    // When a piece is out, when several are, when all are.
    for at in [
        passage(Point::TakenOut, 1),
        passage(Point::TakenOut, 4),
        passage(Point::CustodyWhole, 1),
    ] {
        let run = RunDir::create(&dir.file("round"))?;
        let victim = start("deep_queue", Some("3000"), &run)?;
        let criu = cgroup
            .criu(&config::faults_dir()?.join("plugins"))
            .env("CRIU_SIGNALS_FAULT", at.clone());
        cgroup.set(1 << 30)?;
        let pid = victim.pid();
        let dump = interrupted(|| cgroup.dump(&criu, pid, &run), || cgroup.no_more())?;
        victim.finish(PATIENCE).with_context(|| at.clone())?;
        // It may get by with what it has given back by then.
        if dump.signal.is_some() {
            ended += 1;
            // The guardian may have said so when criu's end was known already.
            let said = run.read("images/dump.log").contains("criu is gone; ");
            ensure!(said, "{at}: no word of the guardian's");
        }
    }
    ensure!(ended > 0, "criu was never ended");
    Ok(())
}

/// A session with a child in a process group of its own, which blocks SIGTRAP. When the child has ended there is another one
/// of its number.
const PARENT: &str = r#"
    use POSIX;
    setsid();
    POSIX::close($_) for 0 .. 255;
    for (my $child;;) {
        if ($child) {
            open my $last, '>', '/proc/sys/kernel/ns_last_pid' or die $!;
            syswrite $last, $child - 1;
        }
        if (!($child = fork)) {
            setpgid(0, 0);
            sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGTRAP));
            sleep 1000 while 1;
        }
        waitpid $child, 0;
    }
"#;

/// A process has been put into another stop, and a SIGTRAP has been taken out of it; then it ends, and its number is another
/// one's when CRIU seizes it.
fn number_reused(dir: &RunDir) -> Result<()> {
    let mut parent = Command::new("perl")
        .args(["-e", PARENT])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let root = Pid::try_from(parent.id())?;
    let blocks_trap = || -> Result<Option<Pid>> {
        let child = procfs::tree(root)?.get(1).copied();
        let status = child.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
        let ready = status.is_some_and(|status| status.contains("SigBlk:\t0000000000000010\n"));
        Ok(child.filter(|_| ready))
    };
    let child = wait::until("a child", PATIENCE, blocks_trap)?;
    send(child, Signal::SIGTRAP)?;
    send(child, Signal::SIGTTIN)?;
    procfs::comes_to(child, 'T')?;
    let number = criu_signals::images::Pid::new(child).context("a pid")?;
    let started = || criu_signals::proc::start_time(number).ok();
    let former = started();
    // The root's turn is the first.
    let stop = format!("{}:stop:2", Point::DumpLooked.number());
    let criu = criu()?.env("CRIU_SIGNALS_FAULT", stop);
    let images = dir.images();
    let replaced = || {
        send(child, Signal::SIGKILL)?;
        wait::until("another child", PATIENCE, || {
            // The former one, just gone, has none.
            let is_new = || started().is_some_and(|now| Some(now) != former);
            Ok(blocks_trap()?.filter(|_| is_new()))
        })?;
        send(child, Signal::SIGSTOP)?;
        procfs::comes_to(child, 'T')
    };
    let dump = interrupted(|| criu.dump(root, &images, true), replaced)?;
    // What there was to change: else nothing is shown.
    expect_line(
        &dump,
        &["stopped by SIGTTIN: changed into a stop by SIGSTOP"],
    )?;
    expect_line(&dump, &["SIGTRAP taken out"])?;
    ensure!(dump.ok, "criu dump failed");
    companions_gone(&[root, child])?;
    let image = image::open(&images.join(image::file_name(child)))?.process;
    for state in [image, queues(child)?] {
        ensure!(
            state.run_state == RunState::Stopped(SigNo::STOP),
            "{:?}",
            state.run_state
        );
        ensure!(
            state.queues().all(|pending| *pending == Pending::default()),
            "the former one's: {:?}",
            state.shared
        );
    }
    parent.kill()?;
    send(child, Signal::SIGKILL)?;
    parent.wait()?;
    Ok(())
}

/// A program that checks itself all the time, with this number, which nobody has.
fn with_number(number: Pid, dir: &RunDir) -> Result<Victim> {
    // Whoever starts a program may need numbers for more processes than that.
    for before in [1, 2].into_iter().cycle().take(20) {
        fs::write(
            "/proc/sys/kernel/ns_last_pid",
            (number - before).to_string(),
        )?;
        let started = Victim::start(&config::victim("busy", false), None, dir, false)?;
        if started.pid() == number {
            return Ok(started);
        }
        // It alone: the command is a child as well.
        let other = nix::unistd::Pid::from_raw(started.pid());
        kill(other, Signal::SIGKILL)?;
        waitpid(other, None)?;
        fs::remove_file(dir.file("ready"))?;
    }
    bail!("{number} is given to nobody")
}

/// A thread ends between being listed and being seized, and its number is a stranger's by then: that one is let go, and
/// nothing is done in it.
fn thread_number_reused(dir: &RunDir) -> Result<()> {
    let victim = Victim::start(&config::victim("passing", false), None, dir, false)?;
    let number: Pid = dir.read("thread").parse()?;
    let stop = format!("{}:stop", Point::ThreadSeized.number());
    let show = Command::new(config::faults_dir()?.join("criu-signals"))
        .args([
            "--timeout",
            "60",
            "show",
            "--stop",
            "--json",
            &victim.pid().to_string(),
        ])
        .env("CRIU_SIGNALS_FAULT", stop)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let worker = wait::until("the leader to be seized", PATIENCE, || {
        let worker = named("signals-work")?.pop();
        Ok(worker.filter(|&pid| procfs::state(pid) == Some('T')))
    })?;
    fs::write(dir.file("end"), "")?;
    wait::until("the thread to end", PATIENCE, || {
        Ok(procfs::state(number).is_none().then_some(()))
    })?;
    let stranger = with_number(number, &RunDir::create(&dir.file("stranger"))?)?;
    let before = fs::read_to_string(format!("/proc/{number}/maps"))?;
    send(worker, Signal::SIGCONT)?;
    let output = show.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    let shown = String::from_utf8_lossy(&output.stdout);
    ensure!(shown.matches("\"thread\":").count() == 1, "{shown}");
    ensure!(
        fs::read_to_string(format!("/proc/{number}/maps"))? == before,
        "the stranger's memory is another"
    );
    stranger.finish(PATIENCE).context("the stranger")?;
    victim.finish(PATIENCE)
}

/// Somebody sends the leader itself what is just being taken out of its process's queue: that comes out first.
fn strangers(dir: &RunDir) -> Result<()> {
    sent_meanwhile(true, "20*s:35:-1 3*s:36:-1 p:11:1", 35, 2, dir)
}

/// The second piece is on its way.
fn strangers_deep(dir: &RunDir) -> Result<()> {
    sent_meanwhile(true, "3000*s:35:-1", 35, 3, dir)
}

/// The trap's custody, before the seize. What has arrived since is left to CRIU, which refuses the dump.
fn strangers_for_a_bit(dir: &RunDir) -> Result<()> {
    sent_meanwhile(false, "limit:0 s:5:-1 limit:90000 2*s:35:-1", 5, 2, dir)
}

/// A sender that never rests: nothing of what it sends is lost, and no dump takes it for a fault of its own. It stands behind
/// what was pending before, unless more arrives in the time for putting the queue back: that is said.
fn sent_to_all_the_time(dir: &RunDir) -> Result<()> {
    sent_during_dumps("p:11:1 20*s:34:-1 s:10:-1", 20, dir)
}

fn sent_to_all_the_time_deep(dir: &RunDir) -> Result<()> {
    sent_during_dumps("3000*s:34:-1 s:10:-1", 3_000, dir)
}

/// `depth` entries of signal 34, which are in the shared queue by then.
fn sent_during_dumps(words: &str, depth: usize, dir: &RunDir) -> Result<()> {
    const FIRST: u64 = 1_000_000;
    // A queue that is far longer is not read to tell what has arrived.
    const MOST: u64 = 3_000;
    let victim = start("queued", Some(words), dir)?;
    let pid = victim.pid();
    let values = || -> Result<Vec<u64>> {
        let queue = queues(pid)?.shared.queue;
        let of_34 = queue.iter().filter(|info| info.signo() == 34);
        let value = |info: &Siginfo| match info.fields() {
            Fields::Value { value, .. } => Ok(value),
            other => bail!("{other:?}"),
        };
        of_34.map(value).collect()
    };
    let before = values()?;
    ensure!(before.len() == depth, "{} entries", before.len());
    let mut sender = Command::new(config::victim("sending", false))
        .args([pid.to_string(), MOST.to_string(), FIRST.to_string()])
        .spawn()
        .context("sending")?;
    let criu = criu()?;
    let sends = Pid::try_from(sender.id())?;
    let dump = |nth| {
        let images = dir.file(&format!("images-{nth}"));
        fs::create_dir(&images)?;
        let dump = criu.dump(pid, &images, true)?;
        companions_gone(&[pid, sends])?;
        Ok(dump)
    };
    let dumps: Result<Vec<Step>> = (0..4).map(dump).collect();
    sender.kill()?;
    sender.wait()?;
    let after = values()?;
    let mut said = false;
    for dump in dumps? {
        ensure!(dump.ok, "criu dump failed");
        let faults = ["another value", "differs", "Error"];
        let is_fault = |line: &&str| faults.iter().any(|fault| line.contains(fault));
        let faults: Vec<&str> = plugin::lines(&dump.log).filter(is_fault).collect();
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        said |= plugin::lines(&dump.log).any(|line| line.contains("stand before older ones"));
    }
    victim.end();
    ensure!(after.len() > depth + 20, "only {} are there", after.len());
    let (old, mut sent): (Vec<u64>, Vec<u64>) = after.iter().partition(|&&value| value < FIRST);
    ensure!(old == before, "what was pending before is not as it was");
    let are_behind = after.starts_with(&old) && sent.is_sorted();
    ensure!(
        said || are_behind,
        "what was sent is not behind, and nothing says so"
    );
    sent.sort_unstable();
    let last = sent.last().map_or(FIRST, |last| *last);
    let is_gone = |value: &u64| sent.binary_search(value).is_err();
    let gone: Vec<u64> = (FIRST..last).filter(is_gone).collect();
    ensure!(gone.is_empty(), "sent, and not there: {gone:?}");
    Ok(())
}

/// The same sender sends the same once more while signals are in custody: none is taken for one of those.
fn equal_to_what_is_out(dir: &RunDir) -> Result<()> {
    sent_again("p:11:1", 3, 2, dir)
}

fn equal_to_what_is_out_deep(dir: &RunDir) -> Result<()> {
    sent_again("s:36:-1", 2000, 3, dir)
}

/// One process that sends signal 35, so that all entries are equal.
struct Sender {
    shell: Child,
    to: Pid,
}

impl Sender {
    fn start(to: Pid) -> Result<Sender> {
        let shell = Command::new("sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("sh")?;
        Ok(Sender { shell, to })
    }

    /// Sends it so often, and waits until that is done.
    fn send(&mut self, times: usize) -> Result<()> {
        let to = self.to;
        let stdin = self.shell.stdin.as_mut().context("no stdin")?;
        writeln!(
            stdin,
            "for i in $(seq {times}); do kill -35 {to} || exit; done; echo done"
        )?;
        let mut said = [0; 5];
        let stdout = self.shell.stdout.as_mut().context("no stdout")?;
        stdout.read_exact(&mut said).context("sh: kill failed")
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

fn sent_again(words: &str, depth: usize, passage: u32, dir: &RunDir) -> Result<()> {
    let victim = start("queued", Some(words), dir)?;
    let pid = victim.pid();
    let mut sender = Sender::start(pid)?;
    sender.send(depth)?;
    let before = queues(pid)?.shared.queue.len();
    let stop = format!("{}:stop:{passage}", Point::TakingOut.number());
    let criu = criu()?.env("CRIU_SIGNALS_FAULT", stop);
    let images = dir.images();
    let dump = interrupted(|| criu.dump(pid, &images, true), || sender.send(2))?;
    ensure!(dump.ok, "criu dump failed");
    expect_line(&dump, &["put back"])?;
    companions_gone(&[pid, Pid::try_from(sender.shell.id())?])?;
    let found = queues(pid)?.shared.queue.len();
    ensure!(found == before + 2, "{found} of {} are there", before + 2);
    // Until no child is left.
    drop(sender);
    victim.end();
    Ok(())
}

/// The same is sent once more when the image is written, and before anything is taken out.
fn equal_before_taken(dir: &RunDir) -> Result<()> {
    let (victim, before) = sent_before_taken(true, dir)?;
    let found = queues(victim.pid())?.shared.queue.len();
    victim.end();
    ensure!(found == before + 2, "{found} of {} are there", before + 2);
    Ok(())
}

/// What has arrived is in CRIU's image alone, and what was there before in this project's alone.
fn equal_before_taken_restored(dir: &RunDir) -> Result<()> {
    let (_, before) = sent_before_taken(false, dir)?;
    reap_all()?;
    let (_, restored) = criu()?.restore(&dir.images())?;
    let victim = Victim::restored(restored.context("criu restore failed")?, dir);
    let found = queues(victim.pid())?.shared.queue.len();
    victim.end();
    ensure!(found == before + 2, "{found} of {} are there", before + 2);
    Ok(())
}

/// Returns how many entries there were before.
fn sent_before_taken(leave_running: bool, dir: &RunDir) -> Result<(Victim, usize)> {
    let victim = start("queued", Some("p:11:1"), dir)?;
    let pid = victim.pid();
    let mut sender = Sender::start(pid)?;
    sender.send(3)?;
    let before = queues(pid)?.shared.queue.len();
    let criu = stopping_at(Point::GuardianStarted)?;
    let images = dir.images();
    let dump = interrupted(|| criu.dump(pid, &images, leave_running), || sender.send(2))?;
    ensure!(dump.ok, "criu dump failed");
    companions_gone(&[pid, Pid::try_from(sender.shell.id())?])?;
    Ok((victim, before))
}

/// Some pieces of a deep queue are out when something fails, and what is in it still is equal to them.
fn equal_left_in(dir: &RunDir) -> Result<()> {
    for point in [Point::TakingOut, Point::TakenOut, Point::GuardianTold] {
        left_in(point, "fail", 2, dir)?;
        left_in(point, "fail", 4, dir)?;
    }
    Ok(())
}

/// As `equal-left-in-after-a-failure`; the guardian puts them back.
fn equal_left_in_rescued(dir: &RunDir) -> Result<()> {
    for point in [Point::TakingOut, Point::TakenOut, Point::GuardianTold] {
        left_in(point, "kill", 2, dir)?;
    }
    left_in(Point::TakenOut, "kill", 4, dir)
}

fn left_in(point: Point, action: &str, passage: u32, dir: &RunDir) -> Result<()> {
    let victim = start("queued", Some("s:36:-1"), dir)?;
    let pid = victim.pid();
    let mut sender = Sender::start(pid)?;
    sender.send(2_000)?;
    let before = queues(pid)?.shared.queue;
    let fault = format!("{}:{action}:{passage}", point.number());
    let criu = criu()?.env("CRIU_SIGNALS_FAULT", &fault);
    let dump = criu.dump(pid, &dir.images(), true)?;
    ensure!(!dump.ok, "criu dump has not failed at {fault}");
    companions_gone(&[pid, Pid::try_from(sender.shell.id())?])?;
    let found = queues(pid)?.shared.queue;
    ensure!(
        found == before,
        "{fault}: {} of {} are there",
        found.len(),
        before.len()
    );
    drop(sender);
    victim.end();
    fs::remove_dir_all(dir.images()).context("removing the images")?;
    fs::create_dir(dir.images()).context("making the folder anew")?;
    let _ = fs::remove_file(dir.file("ready"));
    Ok(())
}

/// criu stops itself at the passage of that point before the queue is emptied.
fn sent_meanwhile(ok: bool, words: &str, number: i32, passage: u32, dir: &RunDir) -> Result<()> {
    let victim = start("queued", Some(words), dir)?;
    let pid = victim.pid();
    let before = queues(pid)?;
    let stop = format!("{}:stop:{passage}", Point::TakingOut.number());
    let criu = criu()?.env("CRIU_SIGNALS_FAULT", stop);
    let images = dir.images();
    let signo = SigNo::new(number).context("a number")?;
    let send = || (0..2).try_for_each(|_| tgkill(pid, number));
    let dump = interrupted(|| criu.dump(pid, &images, true), send)?;
    ensure!(dump.ok == ok, "criu dump: {}", dump.ok);
    expect_line(&dump, &["are put back"])?;
    companions_gone(&[pid])?;
    let after = queues(pid)?;
    ensure!(
        after.shared == before.shared,
        "shared: {:?}, was {:?}",
        after.shared,
        before.shared
    );
    let private = |state: &ProcessState| state.threads[0].pending.queue.clone();
    let (old, new) = (private(&before), private(&after));
    let sent: Vec<_> = new.iter().filter(|info| !old.contains(info)).collect();
    let wanted = if signo.is_realtime() { 2 } else { 1 };
    ensure!(
        sent.len() == wanted && sent.iter().all(|info| info.signo() == number),
        "private: {new:?}, was {old:?}"
    );
    victim.end();
    Ok(())
}

fn tgkill(pid: Pid, signal: i32) -> Result<()> {
    // SYS_tgkill
    let script = "syscall(234, $ARGV[0] + 0, $ARGV[0] + 0, $ARGV[1] + 0) == 0 or die $!";
    let done = Command::new("perl")
        .args(["-e", script, &pid.to_string(), &signal.to_string()])
        .status()?;
    ensure!(done.success(), "tgkill: {done}");
    Ok(())
}

fn queues(pid: Pid) -> Result<ProcessState> {
    let stopped = StoppedProcess::<ByUs>::seize(
        criu_signals::images::Pid::new(pid).context("a pid")?,
        PATIENCE,
    )?;
    let state = capture::process(&stopped);
    stopped.release()?;
    Ok(state?)
}

/// What a process was like at the capture is compared at the end of the dump where its dispositions were touched.
fn limit_changed(dir: &RunDir) -> Result<()> {
    let victim = start("queued", Some("ign:5 s:35:-1"), dir)?;
    let pid = victim.pid();
    let criu = stopping_at(Point::HandedOver)?;
    let images = dir.images();
    let change = || {
        let lower = ["--sigpending=777:", "--pid", &pid.to_string()].map(str::to_owned);
        let lowered = Command::new("prlimit").args(lower).status()?;
        ensure!(lowered.success(), "prlimit");
        Ok(())
    };
    let dump = interrupted(|| criu.dump(pid, &images, true), change)?;
    ensure!(dump.ok, "criu dump failed");
    expect_line(
        &dump,
        &[
            "Warn",
            "differs from before the dump: process: RLIMIT_SIGPENDING",
            "777",
            "put back",
        ],
    )?;
    victim.finish(PATIENCE)
}

/// A criu without CAP_SYS_RESOURCE fails at a process of another user. What has been taken out before is back, also a bit
/// without siginfo, which takes another RLIMIT_SIGPENDING for a moment.
fn bit_of_another_user(dir: &RunDir) -> Result<()> {
    let victim = start("bare_trap", None, dir)?;
    let criu = criu()?.without_capability("sys_resource");
    let dump = criu.dump(victim.pid(), &dir.images(), true)?;
    ensure!(!dump.ok, "criu dump has succeeded");
    expect_line(&dump, &["SIGTRAP taken out"])?;
    expect_line(&dump, &["1 pending signals put back"])?;
    companions_gone(&[victim.pid()])?;
    victim.finish(PATIENCE)
}

/// Nor has the guardian the capability.
fn bit_rescued(dir: &RunDir) -> Result<()> {
    let victim = start("bare_trap", None, dir)?;
    let killed = format!("{}:kill", Point::HandedOver.number());
    let criu = criu()?.without_capability("sys_resource");
    let criu = criu.env("CRIU_SIGNALS_FAULT", killed);
    let dump = criu.dump(victim.pid(), &dir.images(), true)?;
    ensure!(!dump.ok, "criu dump has succeeded");
    expect_line(&dump, &["SIGTRAP taken out"])?;
    companions_gone(&[victim.pid()])?;
    victim.finish(PATIENCE)
}

// ---- at the restore ----------------------------------------------------------------------------------------------

fn dumped(dir: &RunDir) -> Result<Pid> {
    let victim = start("everything", None, dir)?;
    let pid = victim.pid();
    let dump = criu()?.dump(pid, &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    reap_all()?;
    Ok(pid)
}

/// The leader's poll(2) has been interrupted twice when criu comes: it is in restart_syscall(2), of which only the kernel knows
/// which call that was, and nobody has seen it wait since.
fn stopped_in_restart(dir: &RunDir) -> Result<Victim> {
    let victim = Victim::start(&config::victim("restarted", false), None, dir, false)?;
    let pid = victim.pid();
    let raw = nix::unistd::Pid::from_raw(pid);
    let waits_in = |name: &str, number: i64| {
        wait::until(name, PATIENCE, || {
            let call = fs::read_to_string(format!("/proc/{pid}/syscall"))?;
            let begins = call.split(' ').next() == Some(&number.to_string());
            Ok(begins.then_some(()))
        })
    };
    waits_in("poll", nix::libc::SYS_poll)?;
    kill(raw, Signal::SIGSTOP)?;
    procfs::comes_to(pid, 'T')?;
    kill(raw, Signal::SIGCONT)?;
    waits_in("restart_syscall", nix::libc::SYS_restart_syscall)?;
    kill(raw, Signal::SIGSTOP)?;
    procfs::comes_to(pid, 'T')?;
    Ok(victim)
}

/// CRIU leaves the thread its own mask, which lets a signal through that the mask of its sigsuspend blocks. Its handler does not
/// end the call.
fn arrives_in_sigsuspend(dir: &RunDir) -> Result<()> {
    let start = |name: &str| -> Result<(Victim, RunDir)> {
        let folder = dir.file(name);
        fs::create_dir_all(folder.join("images"))?;
        let dir = RunDir::open(&folder);
        let program = config::victim("sigsuspend", false);
        Ok((Victim::start(&program, Some("arrives"), &dir, false)?, dir))
    };
    let (victim, folder) = start("dump")?;
    let pid = victim.pid();
    let criu = stopping_at(Point::DumpEnd)?;
    let arrives = || send(pid, Signal::SIGUSR2);
    let dump = interrupted(|| criu.dump(pid, &folder.images(), true), arrives)?;
    ensure!(dump.ok, "criu dump failed");
    companions_gone(&[pid])?;
    victim.finish(PATIENCE).context("left running")?;

    let (victim, folder) = start("restore")?;
    let pid = victim.pid();
    let dump = self::criu()?.dump(pid, &folder.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    reap_all()?;
    let criu = stopping_at(Point::Compared)?;
    let arrives = || send(pid, Signal::SIGUSR2);
    let (_, restored) = interrupted(|| criu.restore(&folder.images()), arrives)?;
    let pid = restored.context("criu restore failed")?;
    Victim::restored(pid, &folder)
        .finish(PATIENCE)
        .context("restored")
}

fn restarted_poll(dir: &RunDir) -> Result<()> {
    let victim = stopped_in_restart(dir)?;
    let dump = criu()?.dump(victim.pid(), &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    expect_line(&dump, &["not kept: nothing"])?;
    reap_all()?;
    let (step, pid) = criu()?.restore(&dir.images())?;
    let pid = pid.context("criu restore failed")?;
    expect_line(&step, &["verdict=verified"])?;
    kill(nix::unistd::Pid::from_raw(pid), Signal::SIGCONT)?;
    Victim::restored(pid, dir).finish(PATIENCE)
}

/// Where the kernel's notes can't be read, the call ends with EINTR: that is said, or the dump is refused and the call goes on.
fn restarted_poll_untold(dir: &RunDir) -> Result<()> {
    let victim = stopped_in_restart(dir)?;
    let untold = || Ok::<_, anyhow::Error>(criu()?.env("CRIU_SIGNALS_BPF", "never"));
    let images = dir.file("refused");
    fs::create_dir(&images)?;
    let refusing = untold()?.env("CRIU_SIGNALS_REFUSE", "call-eintr");
    let dump = refusing.dump(victim.pid(), &images, false)?;
    ensure!(!dump.ok, "criu dump has succeeded");
    expect_line(&dump, &["restart_syscall", "ends with EINTR"])?;
    let dump = untold()?.dump(victim.pid(), &dir.images(), true)?;
    ensure!(dump.ok, "criu dump failed");
    // Two if the other thread's short sleep had been interrupted as well.
    expect_line(&dump, &["not kept: call-eintr="])?;
    // What it has lost then is said. It ends.
    kill(nix::unistd::Pid::from_raw(victim.pid()), Signal::SIGKILL)?;
    reap_all()
}

/// The leader takes from its own queue first: to put back what timer_getoverrun(2) gives, the entry of a timer in the shared queue
/// would have to be taken, and that of the leader's own queue would be.
fn own_entry_before_timers(dir: &RunDir) -> Result<()> {
    let victim = cases::start("timer_overruns", Some("own"), dir)?;
    let pid = victim.pid();
    let dump = criu()?.dump(pid, &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    expect_line(&dump, &["timer 0", "timer_getoverrun(2)"])?;
    reap_all()?;
    // As if it had been dumped as soon as the timer had expired: otherwise both counts are not to be had anyway.
    let path = dir.images().join(image::file_name(pid));
    let mut found = image::open(&path)?;
    let timer = found.process.timers.first_mut().context("no timer")?;
    (timer.entry_overrun, timer.remaining) = (Some(0), 1);
    image::write(fs::File::create(&path)?, &found)?;
    let (step, pid) = criu()?.restore(&dir.images())?;
    let pid = pid.context("criu restore failed")?;
    expect_line(
        &step,
        &[
            "timer 0",
            "timer_getoverrun(2) of the previous delivery",
            "given up",
        ],
    )?;
    Victim::restored(pid, dir).finish(PATIENCE)
}

/// What CRIU has queued again under a larger limit comes out of its queue for a moment, because a timer's entry is among it. Another
/// process of the user has so many signals queued that nothing could go back under the process's own limit.
fn under_lent_limit(dir: &RunDir) -> Result<()> {
    let other = RunDir::create(&dir.file("other"))?;
    let other = cases::start("deep_queue", Some("100"), &other)?;
    let victim = cases::start("sigpending_limit", Some("hard"), dir)?;
    let dump = criu()?.dump(victim.pid(), &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    waitpid(nix::unistd::Pid::from_raw(victim.pid()), None)?;
    let (step, pid) = criu()?.restore(&dir.images())?;
    let pid = pid.context("criu restore failed")?;
    let verdicts = plugin::verdicts(&step.log);
    ensure!(verdicts == [Ok(Verdict::Repaired)], "{verdicts:?}");
    Victim::restored(pid, dir).finish(PATIENCE)?;
    other.end();
    Ok(())
}

fn restarted_poll_left(dir: &RunDir) -> Result<()> {
    let victim = stopped_in_restart(dir)?;
    let dump = criu()?.dump(victim.pid(), &dir.images(), true)?;
    ensure!(dump.ok, "criu dump failed");
    expect_line(&dump, &["not kept: nothing"])?;
    kill(nix::unistd::Pid::from_raw(victim.pid()), Signal::SIGCONT)?;
    victim.finish(PATIENCE)
}

/// It has been read before anything was restored.
fn image_gone(dir: &RunDir) -> Result<()> {
    let pid = dumped(dir)?;
    let criu = stopping_at(Point::RestoreHanded)?;
    let images = dir.images();
    let ours = images.join(image::file_name(pid));
    let gone = || fs::remove_file(&ours).context("removing it");
    let (restore, restored) = interrupted(|| criu.restore(&images), gone)?;
    let restored = restored.context("criu restore failed")?;
    let verdicts = plugin::verdicts(&restore.log);
    ensure!(
        verdicts.len() == 2 && !verdicts.contains(&Ok(Verdict::Failed)),
        "the verdicts are {verdicts:?}"
    );
    Victim::restored(restored, dir).finish(PATIENCE)
}

/// The restored task dies under the plugin's hands: criu fails, nobody hangs, no process stays, and the same images are
/// good for another time.
fn task_killed_in_replay(dir: &RunDir) -> Result<()> {
    let pid = dumped(dir)?;
    let criu = stopping_at(Point::Timers)?;
    let images = dir.images();
    let killed = || send(pid, Signal::SIGKILL);
    let (restore, restored) = interrupted(|| criu.restore(&images), killed)?;
    ensure!(restored.is_none(), "criu restore has succeeded");
    expect_line(
        &restore,
        &["Error (", &format!("pid {pid}"), "the task is gone"],
    )?;
    companions_gone(&[])?;
    reap_all()?;
    let (_, restored) = self::criu()?.restore(&images)?;
    let restored = restored.context("the second criu restore failed")?;
    Victim::restored(restored, dir).finish(PATIENCE)
}
