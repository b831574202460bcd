//! Kills the process that works on a program: the program must be unchanged.
//!
//! Also tests the messages when the program itself dies meanwhile, or may not be accessed.
//!
//! The tracer is killed at random instants, many times over one program that checks itself without a pause; and criu
//! is killed while the plugin holds signals in custody. `KILLS` sets how often each is killed.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::engine::capture;
use criu_signals::engine::repair;
use criu_signals::images::text::SigFile;
use criu_signals::images::{Disposition, Pid, ProcessState, SigNo, Tid};
use criu_signals::proc_sig::{self, Addresses, Subject};
use criu_signals::process::pidfd::PidFd;
use criu_signals::tracee::{ByUs, StoppedProcess};
use criu_tests::criu::Criu;
use criu_tests::harness::in_folder;
use criu_tests::random::Random;
use criu_tests::rundir::RunDir;
use criu_tests::victim::Victim;
use criu_tests::wait::{self, PATIENCE};
use criu_tests::work::finish_killed;
use criu_tests::{config, procfs};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;

/// Makes this program a tracer that captures the process named in it, again and again.
const TRACER: &str = "CRIU_TESTS_TRACER";
/// What it does: captures, or changes of dispositions, or the writing of texts, whose files are named by this and a number.
const WORK: &str = "CRIU_TESTS_TRACER_WORK";
const DISPOSE: &str = "dispose";
const WRITE: &str = "/queue-";
/// Entries of two queues that take several megabytes to exchange.
const WRITTEN: [usize; 2] = [4500, 4200];
const WRITER_KILLS: u32 = 16;
/// In so many times what one exchange takes the writer is killed, every other time; else in the middle of one.
const WRITER_SPAN: u32 = 3;
const DISPOSER_KILLS: u32 = 250;
/// By then it has begun with them.
const DISPOSER_START: Duration = Duration::from_millis(12);
const DEFAULT_KILLS: u32 = 1000;
/// A tracer's captures take about 2 ms, starting one about as long.
const TRACER_SPAN: Duration = Duration::from_micros(6000);
/// So many kills of others take as long as one that a dump is made for.
const DUMPS: u32 = 5;
const CRIU_KILLS: u32 = 40;
const GUARDIAN_KILLS: u32 = 60;
const TASK_KILLS: u32 = 50;
/// By then the tracer is at work.
const TASK_START: Duration = Duration::from_millis(5);
const TASK_SPAN: Duration = Duration::from_millis(8);
/// From when a guardian is there until it has been sent home, at most.
const GUARDIAN_SPAN: Duration = Duration::from_millis(60);
const DEPTH: &str = "3000";
/// Held by a test that has thousands of signals queued.
static DEEP: Mutex<()> = Mutex::new(());

/// How often, unless `KILLS` says otherwise.
fn kills(otherwise: u32) -> Result<u32> {
    match std::env::var("KILLS") {
        Ok(text) => text.parse().context("KILLS"),
        Err(_) => Ok(otherwise),
    }
}

/// The same where each takes a dump.
fn dumps_killed(otherwise: u32) -> Result<u32> {
    Ok(kills(otherwise * DUMPS)? / DUMPS)
}

fn main() -> ExitCode {
    if let Ok(pid) = std::env::var(TRACER) {
        return match trace(&pid) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                println!("{why}");
                ExitCode::FAILURE
            }
        };
    }
    let args = Arguments::from_args();
    let trial = |name: &str, run: fn(&RunDir) -> Result<()>| {
        let folder = name.to_owned();
        Trial::test(name, move || in_folder(&folder, run).map_err(Failed::from))
    };
    let trials = vec![
        trial("tracer-killed", tracer_killed),
        trial("tracer-killed-changing-dispositions", disposer_killed),
        trial("criu-killed-with-signals-in-custody", criu_killed),
        trial("guardian-killed", guardian_killed),
        trial("writer-killed", |dir| writer_killed(dir, true)),
        trial("writer-killed-unmarked", |dir| writer_killed(dir, false)),
        trial("task-killed", task_killed),
        trial("not-permitted", not_permitted),
        trial("kernel-thread", kernel_thread),
    ];
    libtest_mimic::run(&args, trials).exit_code()
}

fn trace(pid: &str) -> Result<()> {
    let pid = Pid::new(pid.parse().context("pid")?).context("pid")?;
    match std::env::var(WORK).as_deref() {
        Ok(DISPOSE) => return dispose(pid),
        Ok(texts) if texts.ends_with(WRITE) => return write(pid, texts),
        _ => {}
    }
    loop {
        let stopped = StoppedProcess::<ByUs>::seize(pid, PATIENCE)?;
        capture::process(&stopped)?;
        stopped.release()?;
    }
}

/// The highest signal that is ignored would be the one that ends a batch: here it is the one that the batch makes
/// deadly, or ignored again.
fn dispose(pid: Pid) -> Result<()> {
    let stopped = StoppedProcess::<ByUs>::seize(pid, PATIENCE)?;
    let mut state = capture::process(&stopped)?;
    let deadly = Disposition::DEFAULT;
    let ignored = Disposition {
        handler: 1,
        ..deadly
    };
    loop {
        for disposition in [ignored, deadly] {
            state.dispositions[SigNo::SYS] = disposition;
            if let Some(e) = repair::dispositions(&stopped, &state).pop() {
                return Err(e.into());
            }
        }
    }
}

/// This program as a tracer of `pid`. What it says goes to the file `tracer`.
fn start_tracer(pid: procfs::Pid, work: Option<&str>, dir: &RunDir) -> Result<Child> {
    let mut tracer = Command::new(std::env::current_exe()?);
    tracer.env(TRACER, pid.to_string());
    if let Some(work) = work {
        tracer.env(WORK, work);
    }
    tracer
        .stdout(File::create(dir.file("tracer"))?)
        .stderr(Stdio::null())
        .spawn()
        .context("starting the tracer")
}

/// Kills a tracer, which may not have failed before.
fn kill_at_work(mut tracer: Child, round: u32, dir: &RunDir) -> Result<()> {
    if let Some(status) = tracer.try_wait()? {
        bail!(
            "round {round}: the tracer ended: {status}; {}",
            dir.read("tracer")
        );
    }
    tracer.kill()?;
    tracer.wait()?;
    Ok(())
}

fn subject(pid: Pid) -> Subject {
    Subject { pid, thread: None }
}

fn write(pid: Pid, texts: &str) -> Result<()> {
    let texts = [1, 0].map(|n| std::fs::read(format!("{texts}{n}")));
    for text in texts.iter().cycle() {
        let text = text.as_ref().map_err(|e| anyhow::anyhow!("{e}"))?;
        proc_sig::write(
            subject(pid),
            SigFile::SharedPending,
            text,
            None,
            Addresses::Checked,
            None,
            PATIENCE,
        )?;
    }
    Ok(())
}

/// Whoever writes a queue is killed, at any instant, and it is one that does not fit into the memory that is mapped as a
/// rule: it is what it was, or what was written. `marked`: there is a signal to end a batch with.
fn writer_killed(dir: &RunDir, marked: bool) -> Result<()> {
    let _alone = DEEP.lock().unwrap_or_else(PoisonError::into_inner);
    let depth = WRITTEN[0].to_string();
    let victim = Victim::start(
        &config::victim("deep_queue", false),
        Some(&depth),
        dir,
        false,
    )?;
    let pid = Pid::new(victim.pid()).context("no pid")?;
    let dispositions = if marked { None } else { Some(handle_all(pid)?) };
    let read = || proc_sig::read(subject(pid), SigFile::SharedPending, PATIENCE);
    let about = |file| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    let before = (about("limits")?, about("maps")?);
    let first = read()?;
    // The header, and two lines for each.
    let second: String = first
        .lines()
        .take(1 + 2 * WRITTEN[1])
        .collect::<Vec<_>>()
        .join("\n");
    let second = format!("{second}\n").replace("sival 0x1", "sival 0x2");
    ensure!(second.len() < first.len(), "the text is laid out otherwise");
    let texts = [first, second];
    let named = format!("{}{WRITE}", dir.path().display());
    for (n, text) in texts.iter().enumerate() {
        std::fs::write(format!("{named}{n}"), text)?;
    }
    let begun = Instant::now();
    for text in texts.iter().rev() {
        proc_sig::write(
            subject(pid),
            SigFile::SharedPending,
            text.as_bytes(),
            None,
            Addresses::Checked,
            None,
            PATIENCE,
        )?;
    }
    let span = begun.elapsed() / 2 * WRITER_SPAN;
    let mut random = Random(u64::from(std::process::id()));
    let mut found = [0, 0];
    let (mut round, begun) = (0, Instant::now());
    // A writer that is killed late has begun with the next text by then, so that the one is found more often than the other.
    while round < WRITER_KILLS || found.contains(&0) && begun.elapsed() < PATIENCE {
        let writer = start_tracer(pid.get(), Some(&named), dir)?;
        if round % 2 == 0 {
            std::thread::sleep(random.below(span));
        } else {
            wait_for_taking_out(pid)?;
        }
        kill_at_work(writer, round, dir)?;
        let now = read()?;
        let which = texts.iter().position(|text| *text == now);
        let Some(which) = which else {
            bail!(
                "round {round}: the queue has {} entries, and is neither of both",
                now.lines().count() / 2
            );
        };
        found[which] += 1;
        round += 1;
        ensure!(
            about("limits")? == before.0,
            "round {round}: the limits are {}",
            about("limits")?
        );
    }
    println!("found as it was and as was written: {found:?}");
    ensure!(
        found.iter().all(|&n| n > 0),
        "only one of them was ever there: {found:?}"
    );
    let first = texts[0].as_bytes();
    proc_sig::write(
        subject(pid),
        SigFile::SharedPending,
        first,
        None,
        Addresses::Checked,
        None,
        PATIENCE,
    )?;
    ensure!(about("maps")? == before.1, "the mappings are not as before");
    if let Some(state) = dispositions {
        dispose_as(pid, &state)?;
    }
    victim.finish(PATIENCE)
}

/// Waits until a part of the queue is out.
fn wait_for_taking_out(pid: Pid) -> Result<()> {
    // Of all processes of the user: what others queue and take out meanwhile makes this one a random instant. DEEP keeps away
    // those of here that have as much.
    let queued = || -> Result<usize> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("SigQ:"));
        let count = line.and_then(|line| line.trim().split('/').next());
        count.context("SigQ")?.parse().context("SigQ")
    };
    // It may have begun.
    let mut most = 0;
    let begun = Instant::now();
    loop {
        let now = queued()?;
        most = most.max(now);
        if now + WRITTEN[1] / 4 <= most {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "nothing is ever taken out");
    }
}

/// No signal is ignored any more: of what the process does by default, too. Its state before.
fn handle_all(pid: Pid) -> Result<ProcessState> {
    let stopped = StoppedProcess::<ByUs>::seize(pid, PATIENCE)?;
    let before = capture::process(&stopped)?;
    stopped.release()?;
    let mut state = before.clone();
    for signo in SigNo::all().filter(|&signo| signo != SigNo::KILL && signo != SigNo::STOP) {
        // All are blocked: nobody goes there.
        state.dispositions[signo].handler = 0x1000;
    }
    dispose_as(pid, &state)?;
    Ok(before)
}

fn dispose_as(pid: Pid, state: &ProcessState) -> Result<()> {
    let stopped = StoppedProcess::<ByUs>::seize(pid, PATIENCE)?;
    if let Some(e) = repair::dispositions(&stopped, state).pop() {
        return Err(e.into());
    }
    Ok(stopped.release()?)
}

fn disposer_killed(dir: &RunDir) -> Result<()> {
    let victim = Victim::start(&config::victim("busy", false), None, dir, false)?;
    let pid = victim.pid();
    let mut random = Random(u64::from(std::process::id()));
    for round in 0..kills(DISPOSER_KILLS)? {
        let tracer = start_tracer(pid, Some(DISPOSE), dir)?;
        std::thread::sleep(DISPOSER_START + random.below(TRACER_SPAN));
        kill_at_work(tracer, round, dir)?;
        ensure!(
            !matches!(procfs::state(pid), None | Some('Z')),
            "round {round}: the program is gone"
        );
    }
    // It compares its dispositions with those that it began with.
    let stopped = StoppedProcess::<ByUs>::seize(Pid::new(pid).context("no pid")?, PATIENCE)?;
    let mut state = capture::process(&stopped)?;
    state.dispositions[SigNo::SYS] = Disposition::DEFAULT;
    if let Some(e) = repair::dispositions(&stopped, &state).pop() {
        return Err(e.into());
    }
    stopped.release()?;
    let whom = "who changes its dispositions";
    finish_killed(victim, whom, kills(DISPOSER_KILLS)?, dir)
}

fn tracer_killed(dir: &RunDir) -> Result<()> {
    let kills = kills(DEFAULT_KILLS)?;
    let victim = Victim::start(&config::victim("busy", false), None, dir, false)?;
    let pid = victim.pid();
    let maps = || std::fs::read_to_string(format!("/proc/{pid}/maps"));
    let before = maps()?;
    let mut random = Random(u64::from(std::process::id()));
    for round in 0..kills {
        let tracer = start_tracer(pid, None, dir)?;
        std::thread::sleep(random.below(TRACER_SPAN));
        kill_at_work(tracer, round, dir)?;
        ensure!(
            procfs::state(pid).is_some(),
            "round {round}: the program is gone"
        );
    }
    let same = wait::until("the mappings to be as before", PATIENCE, || {
        Ok((maps()? == before).then_some(()))
    });
    finish_killed(victim, "its tracer", kills, dir)?;
    same
}

/// The task dies at a random instant of a capture, also between two stops of one batch.
fn task_killed(dir: &RunDir) -> Result<()> {
    let mut random = Random(u64::from(std::process::id()));
    for round in 0..kills(TASK_KILLS)? {
        let run = RunDir::create(&dir.file("round"))?;
        let victim = Victim::start(&config::victim("busy", false), None, &run, false)?;
        let pid = victim.pid();
        let mut tracer = Command::new(std::env::current_exe()?)
            .env(TRACER, pid.to_string())
            .stdout(File::create(run.file("tracer"))?)
            .stderr(Stdio::null())
            .spawn()
            .context("starting the tracer")?;
        std::thread::sleep(TASK_START + random.below(TASK_SPAN));
        kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL)?;
        let ended = wait::until("the tracer to notice", PATIENCE, || Ok(tracer.try_wait()?));
        tracer.kill().ok();
        tracer.wait()?;
        // This one alone: other tests have children of this process, too.
        waitpid(nix::unistd::Pid::from_raw(pid), None)?;
        let said = run.read("tracer");
        ensure!(!ended?.success(), "round {round}: the tracer saw no error");
        ensure!(
            said.contains(&format!("pid {pid}")) && said.trim().ends_with("the task is gone"),
            "round {round}: the error does not say whom and what: {said}"
        );
    }
    Ok(())
}

/// As somebody who may not trace it.
fn not_permitted(dir: &RunDir) -> Result<()> {
    const NOBODY: u32 = 65534;
    let victim = Victim::start(&config::victim("busy", false), None, dir, false)?;
    // Nobody can reach the folder that this program is in.
    let program = std::env::temp_dir().join(format!("criu-tests-tracer-{}", std::process::id()));
    std::fs::copy(std::env::current_exe()?, &program)?;
    let tracer = Command::new(&program)
        .env(TRACER, victim.pid().to_string())
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output();
    std::fs::remove_file(&program)?;
    let tracer = tracer.context("starting the tracer")?;
    let said = String::from_utf8_lossy(&tracer.stdout);
    let pid = victim.pid();
    // Before anything can fail: it is in no namespace that would end it.
    victim.finish(PATIENCE)?;
    let expected = [
        format!("cannot stop pid {pid} tid {pid}: PTRACE_SEIZE ("),
        "belongs to uid 0, the command to uid 65534".to_owned(),
        "EPERM (Operation not permitted)".to_owned(),
    ];
    ensure!(
        !tracer.status.success() && expected.iter().all(|part| said.contains(part)),
        "it says: {said}"
    );
    Ok(())
}

/// It is told by itself, and not by its number: in another pid namespace than the first, 2 is anybody.
fn kernel_thread(_: &RunDir) -> Result<()> {
    let kthreadd = procfs::name(2).is_some_and(|name| name == "kthreadd");
    let own = Pid::own();
    ensure!(!criu_signals::proc::is_kernel_thread(own, Tid::from(own)));
    if !kthreadd {
        println!("SKIP kernel-thread: this pid namespace shows none of the kernel's threads");
        return Ok(());
    }
    for pid in [2, 3] {
        let Err(e) = StoppedProcess::<ByUs>::seize(Pid::new(pid).context("no pid")?, PATIENCE)
        else {
            bail!("pid {pid} was stopped");
        };
        let said = e.to_string();
        ensure!(
            said.contains("a kernel thread has no signal state"),
            "{said}"
        );
    }
    Ok(())
}

fn criu_killed(dir: &RunDir) -> Result<()> {
    let _alone = DEEP.lock().unwrap_or_else(PoisonError::into_inner);
    let mut random = Random(u64::from(std::process::id()));
    let (mut killed, mut held, mut lost_to_criu) = (0, 0, 0);
    let program = config::victim("deep_queue", false);
    let criu = Criu::new(&config::criu()?, &config::plugin_dir()?);
    // On a busy machine all of it takes longer.
    let span = {
        let run = RunDir::create(&dir.file("round"))?;
        let victim = Victim::start(&program, Some(DEPTH), &run, false)?;
        let dump = criu.dump(victim.pid(), &run.images(), true)?;
        ensure!(dump.ok, "criu dump failed");
        victim.finish(PATIENCE)?;
        dump.took
    };
    for round in 0..dumps_killed(CRIU_KILLS)? {
        let run = RunDir::create(&dir.file("round"))?;
        let victim = Victim::start(&program, Some(DEPTH), &run, false)?;
        let mut dump = criu.start_dump(victim.pid(), &run.images(), true)?;
        std::thread::sleep(random.below(span));
        if dump.try_wait()?.is_none() {
            dump.kill()?;
            killed += 1;
        }
        dump.wait()?;
        // The guardian, if there is one, writes into criu's log, and has it open until it is through. Before anything is
        // taken out it has its name; a process that criu's look at the kernel has left behind has none of its own.
        let path = run.images().join("dump.log");
        wait::until("the guardian to end", PATIENCE, || {
            Ok((!procfs::is_open_in("signals-guard", &path)?).then_some(()))
        })?;
        let log =
            || String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
        if log().contains("criu is gone") {
            held += 1;
        }
        if died_of_criu(&log()) && procfs::state(victim.pid()).is_none_or(|state| state == 'Z') {
            lost_to_criu += 1;
            waitpid(nix::unistd::Pid::from_raw(victim.pid()), None)?;
            continue;
        }
        victim.finish(PATIENCE).with_context(|| {
            format!(
                "round {round}; the end of criu's log:\n{}",
                tail(&log(), 12)
            )
        })?;
    }
    println!(
        "criu was killed {killed} times, {held} times with signals in custody; {lost_to_criu} programs died of criu's own \
         injected code"
    );
    ensure!(
        held > 0,
        "criu was never killed with signals in custody: nothing was shown"
    );
    Ok(())
}

/// The guardian of one dump after the other is killed, at any instant: criu puts all back itself, or has taken nothing out
/// and fails.
fn guardian_killed(dir: &RunDir) -> Result<()> {
    let wanted = dumps_killed(GUARDIAN_KILLS)?;
    let victim = Victim::start(&config::victim("busy", false), None, dir, false)?;
    let pid = victim.pid();
    let before = procfs::signal_lines(&[pid])?;
    // All that is queued is taken out.
    let criu =
        Criu::new(&config::criu()?, &config::plugin_dir()?).env("CRIU_SIGNALS_DEEP_QUEUE", "1");
    let mut random = Random(u64::from(std::process::id()));
    let (mut killed, mut refused, mut late) = (0, 0, 0);
    let mut span = GUARDIAN_SPAN;
    while killed < wanted {
        let run = RunDir::create(&dir.file("round"))?;
        let log = run.images().join("dump.log");
        let mut dump = criu.start_dump(pid, &run.images(), true)?;
        let guardian = wait::until("a guardian", PATIENCE, || {
            let found = procfs::having_open("signals-guard", &log)?.pop();
            Ok(found.map(Some).or(dump.try_wait()?.map(|_| None)))
        })?;
        let held = guardian.and_then(Pid::new).map(PidFd::open);
        std::thread::sleep(random.below(span));
        // Until its parent, which is whoever adopts orphans, has waited for it, one that has just ended counts as well.
        match held {
            Some(Ok(held)) if held.send(Signal::SIGKILL).is_ok() => killed += 1,
            // Sent home by then: how long it stays depends on the machine.
            _ => {
                late += 1;
                span = (span * 4 / 5).max(Duration::from_millis(1));
            }
        }
        ensure!(
            late <= wanted * 10 + 100,
            "there is no guardian to be killed"
        );
        let ended = dump.wait()?;
        let log = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
        if !ended.success() {
            ensure!(
                log.contains("tell the guardian: EPIPE"),
                "{}",
                tail(&log, 12)
            );
            refused += 1;
        }
        let after = procfs::signal_lines(&[pid])?;
        let difference = procfs::describe_difference(&before, &after);
        ensure!(difference.is_empty(), "after {killed} kills: {difference}");
    }
    println!("{refused} dumps were refused because of it");
    finish_killed(victim, "its guardian, criu dumping it", wanted, dir)
}

/// CRIU stops its own code inside the task by a trap instruction: killed there, the trap kills the task
/// (design: not ours to mend).
fn died_of_criu(log: &str) -> bool {
    log.contains("Parasite syscall_ip")
}

fn tail(log: &str, lines: usize) -> String {
    let all: Vec<&str> = log.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
