//! The six files of the 2007 patches for live processes: read and written through the library, and by the patches' own
//! tests.
//!
//! As in the scenarios, each test is this program once more as pid 1 of a namespace of its own.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::images::text::SigFile;
use criu_signals::images::{Fields, Pid as LibPid, SigNo, Siginfo};
use criu_signals::proc_sig::{self, Subject};
use criu_tests::cases::{self, CHECK, Test, start, test};
use criu_tests::config;
use criu_tests::procfs::{self, Pid};
use criu_tests::rundir::RunDir;
use criu_tests::six::{EMPTY, FULL, Sleeper, Way, entry, mask, rewrite, run, subject};
use criu_tests::skip::{self, Decision, Need};
use criu_tests::victim::Victim;
use criu_tests::wait::{self, PATIENCE};
use criu_tests::work::kill_all;
use nix::sys::signal::{Signal, kill};

fn main() -> ExitCode {
    cases::main("proc_sig", tests)
}

/// Victims whose whole state is written anew: name, argument, 32-bit.
const REWRITTEN: &[(&str, Option<&str>, bool)] = &[
    ("dispositions", Some("0"), false),
    ("dispositions", Some("ignored"), false),
    ("masks", None, false),
    ("altstacks", None, false),
    ("private_queues", None, false),
    ("shared_queue", None, false),
    ("fifo", None, false),
    ("siginfo_user", None, false),
    ("siginfo_faults", None, false),
    ("sigchld", Some("exited"), false),
    ("sigio", None, false),
    ("process_tree", None, false),
    ("sigsuspend", None, false),
    ("ppoll", None, false),
    ("signalfd", None, false),
    ("many_threads", None, false),
    ("deep_queue", Some("800"), false),
    ("ignored_blocked", None, false),
    ("bits_without_info", None, false),
    ("private_sigchld", None, false),
    ("private_fault", None, false),
    ("trap_pending", None, false),
    ("posix_timer", None, false),
    ("dispositions", Some("0"), true),
    ("masks", None, true),
    ("altstacks", None, true),
    ("private_queues", None, true),
    ("shared_queue", None, true),
    ("siginfo_faults", None, true),
    ("sigsuspend", None, true),
];

fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for &(program, arg, ia32) in REWRITTEN {
        let name = format!(
            "rewritten.{program}{}{}",
            arg.map(|arg| format!("-{arg}")).unwrap_or_default(),
            if ia32 { ".ia32" } else { "" }
        );
        let needs: &[Need] = if ia32 { &[Need::Ia32] } else { &[] };
        match skip::decide(&name, needs) {
            Decision::Run => {
                tests.push(test(name, move |dir| rewritten(program, arg, ia32, dir)));
            }
            Decision::Refuse(why) => tests.push(test(name, move |_| bail!("{why}"))),
            Decision::Skip(why) => println!("SKIP {name}: {why}"),
        }
    }
    tests.push(test("in-pieces-of-lines", one_line_alone));
    tests.push(test("of-2007", text_of_2007));
    tests.push(test("delivered", delivered));
    tests.push(test("stops", stops));
    tests.push(test("refused", refused));
    tests.push(test("no-room", no_room));
    tests.push(test("timer", timer));
    tests.push(test("on-the-alternate-stack", on_the_stack));
    tests.push(test("gone", gone));
    tests.push(test("waiters", waiters));
    tests.push(test("command", command));
    tests.push(test("writer-killed", writer_killed));
    tests.push(test("write.changed-meanwhile", changed_meanwhile));
    tests
}

fn read(pid: Pid, tid: Pid, file: SigFile) -> Result<String> {
    Way::Library.read(pid, tid, file)
}

fn write(pid: Pid, tid: Pid, file: SigFile, text: &str) -> Result<()> {
    Way::Library.write(pid, tid, file, text)
}

/// Everything is written as it was read; then it is made something else, and written back. The victim compares its
/// whole state with what it was.
fn rewritten(program: &str, arg: Option<&str>, ia32: bool, dir: &RunDir) -> Result<()> {
    let victim = Victim::start(&config::victim(program, ia32), arg, dir, false)?;
    for pid in procfs::tree(victim.pid())? {
        for tid in procfs::tasks(pid)? {
            rewrite(&Way::Library, pid, tid).with_context(|| format!("pid {pid} tid {tid}"))?;
        }
    }
    victim.finish(CHECK)
}

fn one_line_alone(_: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start(&[])?;
    let before = read(pid, pid, SigFile::Action)?;
    let line = format!(
        "{:10} {:20} {} {:20} {:20}\n",
        10,
        0x1400_0000,
        mask(&[2]).trim(),
        4096,
        8192
    );
    write(pid, pid, SigFile::Action, &line)?;
    let after = read(pid, pid, SigFile::Action)?;
    for (n, (before, after)) in before.lines().zip(after.lines()).enumerate() {
        if n == 9 {
            ensure!(after == line.trim_end(), "line 10 is {after:?}");
        } else {
            ensure!(before == after, "line {} is {after:?}", n + 1);
        }
    }
    Ok(())
}

/// What the patches print for `forker`, byte by byte, is taken by another process.
fn text_of_2007(_: &RunDir) -> Result<()> {
    let blocked = [10, 11, 12, 17, 29];
    let (_sleeper, pid) = Sleeper::start(&blocked)?;
    // Signal k in column k, counted from 0: one further than here.
    let column = |set: &[i32]| {
        (0..64)
            .map(|i| if set.contains(&i) { '1' } else { '0' })
            .collect::<String>()
    };
    let queue = format!(
        "{}\nsig 17: uid 0 pid 4712 flags 0 errno 0 code 1\n pid 4712 uid 0 status 0 utime 0 stime 1\n\
         sig 10: uid 0 pid 4800 flags 0 errno 0 code 0\n Unsupported siginfo for signal 10\n\
         sig 29: uid 0 pid 4801 flags 0 errno 0 code 0\n band 4801 fd 0\n\
         sig 11: uid 0 pid 4802 flags 0 errno 0 code 0\n addr 4802\n",
        column(&[10, 11, 17, 29])
    );
    write(pid, pid, SigFile::SharedPending, &queue)?;
    let found = read(pid, pid, SigFile::SharedPending)?;
    let expected = format!(
        "{}sig 17: uid 0 pid 4712 flags 0 errno 0 code 1\n    pid 4712 uid 0 status 0 utime 0 stime 1\n\
         sig 10: uid 0 pid 4800 flags 0 errno 0 code 0\n    pid 4800 uid 0\n\
         sig 29: uid 0 pid 4801 flags 0 errno 0 code 0\n    pid 4801 uid 0\n\
         sig 11: uid 0 pid 4802 flags 0 errno 0 code 0\n    pid 4802 uid 0\n",
        mask(&[10, 11, 17, 29])
    );
    ensure!(found == expected, "it reads {found}");

    // `action` counts from 0, and does not say the restorer.
    let line = format!("{:10} {:20} {} {:20}\n", 9, 0x1000_0000, column(&[2]), 4096);
    write(pid, pid, SigFile::Action, &line)?;
    let found = read(pid, pid, SigFile::Action)?;
    let expected = format!(
        "{:10} {:20} {} {:20} {:20}",
        10,
        0x1000_0000,
        mask(&[2]).trim(),
        4096,
        0
    );
    ensure!(found.lines().nth(9) == Some(&expected), "it reads {found}");

    write(pid, pid, SigFile::AltStack, "4096 16384")?;
    ensure!(read(pid, pid, SigFile::AltStack)? == "4096 16384 0\n");
    Ok(())
}

/// What is written and not blocked is delivered when the process goes on; what becomes unblocked as well.
fn delivered(_: &RunDir) -> Result<()> {
    let status =
        |mut sleeper: Sleeper| wait::until("the end", PATIENCE, || Ok(sleeper.0.try_wait()?));
    let (sleeper, pid) = Sleeper::start(&[])?;
    write(pid, pid, SigFile::Pending, &(mask(&[15]) + &entry(15)))?;
    let ended = status(sleeper)?;
    ensure!(ended.to_string().contains("15"), "{ended}");

    let (sleeper, pid) = Sleeper::start(&[34])?;
    write(pid, pid, SigFile::SharedPending, &mask(&[34]))?;
    std::thread::sleep(Duration::from_millis(50));
    procfs::comes_to(pid, 'S').context("it is to sleep on: it is blocked")?;
    write(pid, pid, SigFile::Blocked, EMPTY)?;
    let ended = status(sleeper)?;
    ensure!(ended.to_string().contains("34"), "{ended}");
    Ok(())
}

fn stops(_: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start(&[18])?;
    let nix_pid = nix::unistd::Pid::from_raw(pid);
    // The one removes the other, so that text with both can't be made true.
    for signals in [&[18, 20], &[18, 21]] {
        let error = write(pid, pid, SigFile::Pending, &mask(signals)).expect_err("both");
        ensure!(
            error.to_string().contains("pending in the same process"),
            "{error}"
        );
    }
    write(pid, pid, SigFile::SharedPending, &mask(&[18]))?;
    let error = write(pid, pid, SigFile::Pending, &mask(&[20])).expect_err("the other queue");
    ensure!(
        error.to_string().contains("pending in the same process"),
        "{error}"
    );
    ensure!(read(pid, pid, SigFile::SharedPending)? == mask(&[18]));
    write(pid, pid, SigFile::SharedPending, EMPTY)?;

    // Delivered when it goes on.
    write(pid, pid, SigFile::Pending, &(mask(&[20]) + &entry(20)))?;
    procfs::comes_to(pid, 'T')?;
    let error =
        write(pid, pid, SigFile::Pending, &(mask(&[18]) + &entry(18))).expect_err("stopped");
    ensure!(error.to_string().contains("would continue it"), "{error}");
    // All else may be written, and it stays stopped.
    write(pid, pid, SigFile::Blocked, &mask(&[10, 18]))?;
    write(pid, pid, SigFile::Pending, &(mask(&[10]) + &entry(10)))?;
    ensure!(read(pid, pid, SigFile::Pending)? == mask(&[10]) + &entry(10));
    procfs::comes_to(pid, 'T').context("it stays stopped")?;
    kill(nix_pid, Signal::SIGCONT)?;
    procfs::comes_to(pid, 'S')
}

fn refused(_: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start(&[10, 34])?;
    write(
        pid,
        pid,
        SigFile::Pending,
        &(mask(&[10, 34]) + &entry(10) + &entry(34) + &entry(34)),
    )?;
    let all = || {
        SigFile::ALL
            .into_iter()
            .map(|file| read(pid, pid, file))
            .collect::<Result<Vec<String>>>()
    };
    let before = all()?;
    let action = |line: &str| {
        before[0]
            .lines()
            .next()
            .map(|first| format!("{first}\n{line}\n"))
            .unwrap_or_default()
    };
    let zeros = EMPTY.trim();
    for (file, text, says) in [
        (
            SigFile::Action,
            action(&format!("10 0 {zeros} x 0")),
            "line 2, column 71: expected the handler",
        ),
        (
            SigFile::Action,
            action(&format!("9 0 {zeros} 4096 0")),
            "SIGKILL keeps its default action",
        ),
        (
            SigFile::Action,
            action(&format!("19 0 {zeros} 1 0")),
            "SIGSTOP keeps its default action",
        ),
        // SA_UNSUPPORTED: no kernel keeps it.
        (
            SigFile::Action,
            action(&format!("12 1024 {zeros} 4096 0")),
            "returns another value",
        ),
        (
            SigFile::AltStack,
            "4096 8192".to_owned() + " 0 0",
            "line 1, column 13",
        ),
        (SigFile::AltStack, "4096 100 0".to_owned(), "ENOMEM"),
        (SigFile::AltStack, "4096 16384 1".to_owned(), "SS_ONSTACK"),
        (SigFile::AltStack, "4096 16384 64".to_owned(), "EINVAL"),
        (
            SigFile::Blocked,
            FULL.replacen('1', "2", 1),
            "line 1, column 1: expected a mask",
        ),
        (
            SigFile::Pending,
            mask(&[9]),
            "SIGKILL can't be made pending",
        ),
        (
            SigFile::SharedPending,
            mask(&[19]) + &entry(19),
            "SIGSTOP can't be made pending",
        ),
        (
            SigFile::Pending,
            mask(&[10]) + &entry(12),
            "line 2, column 1: SIGUSR2 has an entry here",
        ),
        // Two of one legacy signal: the kernel keeps the first.
        (
            SigFile::Pending,
            mask(&[10]) + &entry(10) + &entry(10),
            "reads back differently",
        ),
        (
            SigFile::Pending,
            mask(&[10]) + &entry(10).replace("flags 0", "flags 1"),
            "flags 1 marks the own entry",
        ),
        (SigFile::Waiters, "0 1 wait4 any\n".to_owned(), "read-only"),
    ] {
        match write(pid, pid, file, &text) {
            Ok(()) => bail!("{file} took {text:?}"),
            Err(e) => ensure!(e.to_string().contains(says), "{file}: {e}"),
        }
        let after = all()?;
        ensure!(
            after == before,
            "{file}, refused, changed something: {after:?}"
        );
    }
    Ok(())
}

/// RLIMIT_SIGPENDING is raised up to the hard limit for a write, and no further.
fn no_room(_: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start(&[34])?;
    let limits = |limit: &str| -> Result<()> {
        let status = Command::new("prlimit")
            .arg(format!("--pid={pid}"))
            .arg(format!("--sigpending={limit}"))
            .status()?;
        ensure!(status.success(), "prlimit");
        Ok(())
    };
    let limit = || -> Result<String> {
        let text = fs::read_to_string(format!("/proc/{pid}/limits"))?;
        Ok(text
            .lines()
            .find(|l| l.starts_with("Max pending"))
            .unwrap_or_default()
            .to_owned())
    };
    limits("0:")?;
    let before = limit()?;
    let ten = mask(&[34])
        + &entry(34)
            .replace("code 0", "code -1")
            .repeat(10)
            .replace("uid 0\n", "uid 0 value 3\n")
            .replace("code -1 value 3", "code -1");
    write(pid, pid, SigFile::SharedPending, &ten)?;
    ensure!(
        read(pid, pid, SigFile::SharedPending)? == ten,
        "{}",
        read(pid, pid, SigFile::SharedPending)?
    );
    ensure!(limit()? == before, "the limit is {}", limit()?);
    // Bits without siginfo are made under a limit of 0, which must not stay.
    limits("5:")?;
    let before = limit()?;
    write(pid, pid, SigFile::Pending, &mask(&[34]))?;
    ensure!(read(pid, pid, SigFile::Pending)? == mask(&[34]));
    ensure!(limit()? == before, "the limit is {}", limit()?);
    limits("0:0")?;
    let error = write(
        pid,
        pid,
        SigFile::SharedPending,
        &(ten.clone() + &entry(34)),
    )
    .expect_err("no room");
    ensure!(error.to_string().contains("no room"), "{error}");
    ensure!(read(pid, pid, SigFile::SharedPending)? == ten);
    Ok(())
}

/// A timer's own entry stays the timer's own: the victim takes it out and looks at the timer.
fn timer(dir: &RunDir) -> Result<()> {
    let victim = start("posix_timer", None, dir)?;
    let pid = victim.pid();
    let text = read(pid, pid, SigFile::SharedPending)?;
    let (bits, entries) = text.split_once('\n').context("two lines")?;
    ensure!(
        entries.starts_with("sig 35: uid 0 pid 0 flags 1 errno 0 code -2\n    timer "),
        "{text}"
    );
    // Something of another number comes and goes.
    let threads = procfs::tasks(pid)?;
    let blocked = threads
        .iter()
        .map(|&tid| read(pid, tid, SigFile::Blocked))
        .collect::<Result<Vec<_>>>()?;
    for &tid in &threads {
        write(pid, tid, SigFile::Blocked, FULL)?;
    }
    let more = mask(&[10, 35]) + entries + &entry(10);
    write(pid, pid, SigFile::SharedPending, &more)?;
    ensure!(read(pid, pid, SigFile::SharedPending)? == more);
    // The entry can't lose its place, nor go.
    for wrong in [
        format!("{bits}\n{}{entries}", entry(35)),
        EMPTY.to_owned(),
        mask(&[35]) + &entry(35),
    ] {
        let error = write(pid, pid, SigFile::SharedPending, &wrong).expect_err("the timer's");
        ensure!(
            error.to_string().contains("own entry of a POSIX timer"),
            "{error}"
        );
        ensure!(read(pid, pid, SigFile::SharedPending)? == more);
    }
    write(pid, pid, SigFile::SharedPending, &text)?;
    for (&tid, blocked) in threads.iter().zip(&blocked) {
        write(pid, tid, SigFile::Blocked, blocked)?;
    }
    victim.finish(CHECK)
}

fn on_the_stack(dir: &RunDir) -> Result<()> {
    let source = dir.file("onstack.c");
    fs::write(
        &source,
        "#define _GNU_SOURCE\n#include <signal.h>\n#include <unistd.h>\nstatic char s[65536];\n\
         static void h(int n) { for (;;) pause(); }\n\
         int main(void) { stack_t t = { s, 0, sizeof s }; struct sigaction a = { .sa_handler = h, .sa_flags = SA_ONSTACK };\n\
         sigaltstack(&t, 0); sigaction(SIGUSR1, &a, 0); raise(SIGUSR1); }\n",
    )?;
    let program = dir.file("onstack");
    let built = Command::new("cc")
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .status()?;
    ensure!(built.success(), "cc");
    let sleeper = Sleeper(Command::new(&program).spawn()?);
    let pid = Pid::try_from(sleeper.0.id())?;
    let text = wait::until("the handler", PATIENCE, || {
        let text = read(pid, pid, SigFile::AltStack)?;
        Ok(text.ends_with(" 65536 1\n").then_some(text))
    })?;
    write(pid, pid, SigFile::AltStack, &text).context("as it is")?;
    let error = write(pid, pid, SigFile::AltStack, "0 0 2\n").expect_err("in use");
    ensure!(error.to_string().contains("EPERM"), "{error}");
    ensure!(read(pid, pid, SigFile::AltStack)? == text);
    Ok(())
}

fn gone(_: &RunDir) -> Result<()> {
    let (mut sleeper, pid) = Sleeper::start(&[])?;
    let no_thread = proc_sig::read(subject(pid, pid + 1), SigFile::Blocked, PATIENCE)
        .expect_err("no such thread");
    ensure!(no_thread.is_died(), "{no_thread}");
    sleeper.0.kill()?;
    procfs::comes_to(pid, 'Z')?;
    // By somebody who is not its parent, and does not reap it.
    for file in ["blocked", "action", "shared_pending"] {
        let said = run(&["cat", &format!("{pid}/{file}")], b"")?;
        let error = String::from_utf8(said.stderr)?;
        ensure!(said.status.code() == Some(2), "{}", said.status);
        ensure!(error.trim_end().ends_with("the task is gone"), "{error}");
    }
    sleeper.0.wait()?;
    for file in SigFile::ALL {
        let error = proc_sig::read(subject(pid, pid), file, PATIENCE).expect_err("gone");
        ensure!(error.is_died(), "{file}: {error}");
    }
    Ok(())
}

/// Every way to wait, and whether it is for the child.
fn waiters(dir: &RunDir) -> Result<()> {
    let source = dir.file("waiter.c");
    fs::write(&source, WAITER)?;
    let program = dir.file("waiter");
    let built = Command::new("cc")
        .args(["-pthread", "-o"])
        .arg(&program)
        .arg(&source)
        .status()?;
    ensure!(built.success(), "cc");
    for (how, wanted) in [
        ("none", ""),
        ("any", "0 {tid} wait4 any\n"),
        ("pid", "2 {tid} wait4 pid {child}\n"),
        ("other", ""),
        ("group", "0 {tid} wait4 pgid 0\n"),
        ("waitid", "4 {tid} waitid pid {child}\n"),
        ("pidfd", "6 {tid} waitid pidfd 3\n"),
        ("clone", ""),
        ("all", "1073741824 {tid} wait4 any\n"),
        ("thread", "0 {other} wait4 any\n"),
        ("nothread", ""),
        ("nothread-own", "536870912 {tid} wait4 any\n"),
        ("stopped", "0 {tid} wait4 any\n"),
        ("namespace", "0 {tid} wait4 pid 2\n"),
        ("traced", "1073741824 {tracer} wait4 pid {child}\n"),
    ] {
        let mut parent = Command::new(&program)
            .arg(how)
            .stdout(Stdio::piped())
            .spawn()?;
        let found = one_waiter(&mut parent, how, wanted);
        let pid = Pid::try_from(parent.id())?;
        for pid in procfs::tree(pid).unwrap_or_default() {
            let _ = kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
        }
        parent.wait()?;
        found.with_context(|| how.to_owned())?;
    }
    Ok(())
}

fn one_waiter(parent: &mut Child, how: &str, wanted: &str) -> Result<()> {
    use std::io::BufRead as _;
    let pid = Pid::try_from(parent.id())?;
    let out = parent.stdout.take().context("a pipe")?;
    let mut line = String::new();
    std::io::BufReader::new(out).read_line(&mut line)?;
    ensure!(line == "ready\n", "it says {line:?}");
    // The one that was born last, and its parent.
    let tree = procfs::tree(pid)?;
    let child = tree.last().context("nobody")?;
    let waiter = &parent_of(*child)?;
    if how == "stopped" {
        std::thread::sleep(Duration::from_millis(100));
        kill(nix::unistd::Pid::from_raw(*waiter), Signal::SIGSTOP)?;
        procfs::comes_to(*waiter, 'T')?;
    }
    let wanted = wanted
        .replace("{tid}", &waiter.to_string())
        .replace("{tracer}", &tree.get(1).unwrap_or(&0).to_string())
        .replace("{child}", &child.to_string());
    let mut found = String::new();
    let probe = || {
        found = proc_sig::read(
            Subject {
                pid: LibPid::new(*child).context("no pid")?,
                thread: None,
            },
            SigFile::Waiters,
            PATIENCE,
        )?;
        // The thread that waits may have to be born.
        let mut tasks = procfs::tasks(*waiter)?.into_iter();
        let other = tasks.find(|tid| tid != waiter).unwrap_or(0);
        let wanted = wanted.replace("{other}", &other.to_string());
        Ok((found == wanted).then_some(()))
    };
    if wanted.is_empty() {
        std::thread::sleep(Duration::from_millis(100));
    }
    let done = wait::until("the waiter", PATIENCE, probe);
    ensure!(
        done.is_ok(),
        "waiters of {child} are {found:?}, expected {wanted:?}"
    );
    Ok(())
}

fn parent_of(pid: Pid) -> Result<Pid> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    Ok(line.context("no PPid")?.trim().parse()?)
}

const WAITER: &str = r#"
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void *wait_any(void *arg)
{
	waitpid(-1, NULL, arg ? __WNOTHREAD : 0);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	const char *how = argv[1];
	pthread_t thread;
	siginfo_t info;
	pid_t child;
	int pipes[2];

	if (!strcmp(how, "namespace")) {
		/* The waiter is pid 1 of its own namespace, and its child pid 2. */
		unshare(CLONE_NEWPID);
		if (fork()) {
			pause();
			return 0;
		}
	}
	if (!strcmp(how, "traced")) {
		/* Its tracer is not its parent, who waits for nobody. */
		pipe(pipes);
		if (!fork()) {
			if (read(pipes[0], &child, sizeof(child)) != sizeof(child) ||
			    ptrace(PTRACE_SEIZE, child, NULL, NULL))
				_exit(1);
			for (;;)
				waitpid(child, NULL, __WALL);
		}
	}
	child = fork();
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	/* The one that the test looks at; nobody waits for it. */
	if (!strcmp(how, "other") && !fork())
		for (;;)
			pause();
	if (!strcmp(how, "traced"))
		write(pipes[1], &child, sizeof(child));
	puts("ready");
	fflush(stdout);
	if (!strcmp(how, "any") || !strcmp(how, "stopped"))
		for (;;)
			waitpid(-1, NULL, 0);
	if (!strcmp(how, "pid"))
		waitpid(child, NULL, WUNTRACED);
	if (!strcmp(how, "namespace"))
		waitpid(child, NULL, 0);
	if (!strcmp(how, "other"))
		waitpid(child, NULL, 0);
	if (!strcmp(how, "group"))
		waitpid(0, NULL, 0);
	if (!strcmp(how, "waitid"))
		waitid(P_PID, child, &info, WEXITED);
	if (!strcmp(how, "pidfd")) {
		dup2(syscall(SYS_pidfd_open, child, 0), 3);
		waitid(3 /* P_PIDFD */, 3, &info, WEXITED | WSTOPPED);
	}
	if (!strcmp(how, "clone"))
		waitpid(-1, NULL, __WCLONE);
	if (!strcmp(how, "all"))
		waitpid(-1, NULL, __WALL);
	if (!strcmp(how, "nothread-own"))
		waitpid(-1, NULL, __WNOTHREAD);
	if (!strcmp(how, "thread"))
		pthread_create(&thread, NULL, wait_any, NULL);
	if (!strcmp(how, "nothread"))
		pthread_create(&thread, NULL, wait_any, "");
	for (;;)
		pause();
}
"#;

/// The command says where a text is wrong, and ends with 2.
fn command(dir: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start(&[10])?;
    let place = |file: &str| format!("{pid}/{file}");
    let blocked = run(
        &["cat", &place("blocked"), &format!("{pid}/{pid}/blocked")],
        b"",
    )?;
    ensure!(
        blocked.status.success() && String::from_utf8(blocked.stdout)? == mask(&[10]).repeat(2)
    );
    let text = mask(&[10]) + &entry(10);
    let written = run(&["write", &place("pending")], text.as_bytes())?;
    ensure!(written.status.success(), "{written:?}");
    ensure!(read(pid, pid, SigFile::Pending)? == text);
    fs::write(dir.file("text"), mask(&[10]) + "sig 10: uid 0 pud 3\n")?;
    let path = dir.file("text").display().to_string();
    let wrong = run(&["write", &place("pending"), &path], b"")?;
    let said = String::from_utf8(wrong.stderr)?;
    ensure!(wrong.status.code() == Some(2), "{}", wrong.status);
    ensure!(
        said == format!(
            "criu-signals: {path}: line 2, column 15: expected \"pid\", found \"pud\"\n"
        ),
        "{said}"
    );
    ensure!(read(pid, pid, SigFile::Pending)? == text);
    write(pid, pid, SigFile::Pending, EMPTY)?;
    // A mask alone does not say that it is of 2007.
    let of_2007 = format!("0{}", &mask(&[10])[..63]);
    for (args, signal) in [(vec!["write", "--2007"], 10), (vec!["write"], 11)] {
        let place = place("blocked");
        let args = [args.as_slice(), &[&place]].concat();
        ensure!(run(&args, of_2007.as_bytes())?.status.success());
        ensure!(read(pid, pid, SigFile::Blocked)? == mask(&[signal]));
    }
    for wrong in ["0/blocked", "blocked", "1/what"] {
        let said = run(&["cat", wrong], b"")?;
        ensure!(said.status.code() == Some(2), "{wrong}: {}", said.status);
    }
    Ok(())
}

const KILLS: u32 = 300;

/// Whoever writes a queue is killed at a random instant: it is what it was, or what was written.
fn writer_killed(dir: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start(&[10, 34, 35])?;
    let value = |signo: i32, value: u64| {
        let fields = Fields::Value {
            pid: 1,
            uid: 0,
            value,
        };
        Siginfo::from_fields(signo, 0, -1, &fields)
    };
    let text = |values: std::ops::Range<u64>| {
        let mut queue: Vec<Siginfo> = values.map(|n| value(34, n)).collect();
        queue.push(value(10, 5));
        let bits = [34, 10, 35].into_iter().filter_map(SigNo::new).collect();
        criu_signals::images::text::render_queue(
            &criu_signals::images::Pending { bits, queue },
            |_| false,
        )
    };
    let texts = [text(0..40), text(100..160)];
    write(pid, pid, SigFile::SharedPending, &texts[0])?;
    let limits = || fs::read_to_string(format!("/proc/{pid}/limits"));
    let before = limits()?;
    let mut found = [0, 0];
    let mut span = 6000;
    for round in 0..KILLS {
        // Of the next round's delays some shall be too short and some long enough, however busy the machine is.
        if round % 50 == 49 && found[1] == 0 {
            span *= 4;
        }
        let name = format!("text-{}", round % 2);
        fs::write(dir.file(&name), &texts[(round % 2) as usize])?;
        let mut writer = Command::new(config::command()?)
            .args(["write", &format!("{pid}/shared_pending")])
            .stdin(File::open(dir.file(&name))?)
            .stderr(Stdio::null())
            .spawn()?;
        std::thread::sleep(Duration::from_micros(u64::from(round * 97 % span)));
        kill_all(&mut writer)?;
        let now = read(pid, pid, SigFile::SharedPending)?;
        let which = texts.iter().position(|text| *text == now);
        match which {
            Some(which) => found[which] += 1,
            None => bail!("round {round}: the queue is {now}"),
        }
        ensure!(
            limits()? == before,
            "round {round}: the limits are {}",
            limits()?
        );
    }
    ensure!(
        found.iter().all(|&n| n > 0),
        "only one of them was ever there: {found:?}"
    );
    Ok(())
}

/// A process that executes another program while the command waits for its text gets none of it: the number may be a
/// set-user-id program's by then.
fn changed_meanwhile(_: &RunDir) -> Result<()> {
    for changes in [false, true] {
        let mut victim = Command::new("sh")
            .args(["-c", "read line && exec sleep 60; sleep 60"])
            .stdin(Stdio::piped())
            .spawn()?;
        let pid = Pid::try_from(victim.id())?;
        let mut writer = Command::new(config::command()?)
            .args(["write", &format!("{pid}/blocked")])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        wait::until("the command to wait for its text", PATIENCE, || {
            // read(2) of descriptor 0.
            let call = fs::read_to_string(format!("/proc/{}/syscall", writer.id()))?;
            Ok(call.starts_with("0 0x0 ").then_some(()))
        })?;
        if changes {
            victim.stdin.take().context("a pipe")?.write_all(b"go\n")?;
            wait::until("another program", PATIENCE, || {
                Ok((procfs::name(pid).as_deref() == Some("sleep")).then_some(()))
            })?;
        }
        writer
            .stdin
            .take()
            .context("a pipe")?
            .write_all(mask(&[10]).as_bytes())?;
        let output = writer.wait_with_output()?;
        let error = String::from_utf8(output.stderr)?;
        let blocked = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let is_blocked = blocked.contains("SigBlk:\t0000000000000200");
        victim.kill()?;
        victim.wait()?;
        if changes {
            ensure!(
                output.status.code() == Some(2) && !is_blocked,
                "{error}{blocked}"
            );
            ensure!(
                error.contains("executes another program since it was found"),
                "{error}"
            );
        } else {
            ensure!(output.status.success() && is_blocked, "{error}{blocked}");
        }
    }
    Ok(())
}
