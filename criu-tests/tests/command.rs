//! Tests the command `criu-signals` on live programs, on images of real dumps, and with invalid arguments. Each test is
//! pid 1 of its own namespace.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::images::{CoreImage, Fields, SigNo, Siginfo, image};
use criu_signals::tracee::{ByUs, StoppedProcess};
use criu_tests::cases::{self, CHECK, Test, start, test, with_plugin};
use criu_tests::config;
use criu_tests::criu::Criu;
use criu_tests::procfs::{self, Pid};
use criu_tests::rundir::RunDir;
use criu_tests::six::{Sleeper, mask};
use criu_tests::skip::Need;
use criu_tests::victim::Victim;
use criu_tests::wait::{self, PATIENCE};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use serde_json::Value;

/// The exit codes, which every command's help lists.
const OK: i32 = 0;
const NO: i32 = 1;
const FAILED: i32 = 2;

/// Of nobody, in every Debian.
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    cases::main("command", tests)
}

fn tests() -> Vec<Test> {
    vec![
        test("show.live", show_live),
        test("show.many-threads", show_many_threads),
        test("show.deep-queue", show_deep_queue),
        test("show.colours", show_colours),
        test("show.signal-files", show_signal_files).needs(&[Need::MessageQueues]),
        test("show.signal-files.many", show_many_files).needs(&[Need::MessageQueues]),
        test("show.json", show_json),
        test("show.clocks", show_clocks),
        test("show.namespaces", show_namespaces),
        test("show.stopped", show_stopped),
        test("show.frozen", show_frozen),
        test("show.numbers-have-names", show_numbers_have_names),
        test("names.live", names_live),
        test("names.deleted", names_deleted),
        test("names.mount-namespace", names_in_mount_namespace),
        test("names.no-elf-file", names_without_elf),
        test("names.images", names_in_images),
        test("names.diff-and-verify", names_of_differences),
        test("images.ours-and-criu's", ours_and_criu_s),
        test("images.taken-out", images_of_what_was_taken_out),
        test("images.one-damaged", one_image_damaged),
        test("images.core-alone", core_alone),
        test("archive.packed", archive_packed),
        test("archive.oci", archive_oci),
        test("archive.wrong", archive_wrong),
        test("archive.checkpointctl", archive_checkpointctl),
        test("decode.ours", decode_ours),
        test("decode.core", decode_core),
        test("diff.live", diff_live),
        test("diff.two-processes", diff_two_processes),
        test("diff.one-missing", diff_one_missing),
        test("diff.namespaces", diff_namespaces),
        test("send.handler", send_to_handler),
        test("send.blocked", send_blocked),
        test("send.stopped", send_to_stopped),
        test("send.limit", send_beyond_limit),
        test("send.refused", send_refused),
        test("send.namespaces", send_into_namespace),
        test("wrong.pid", wrong_pid),
        test("wrong.zombie", zombie),
        test("wrong.traced", traced),
        test("wrong.image", wrong_image),
        test("permission.own", permission_own),
        test("permission.others", permission_others),
        test("permission.undumpable", permission_undumpable),
        test("permission.waiters", permission_waiters),
        test("another-reader", another_reader),
        test("name", by_name),
        test("permission.seccomp", permission_seccomp),
        test("check.here", check_here),
        test("check.found", check_found),
        test("generate.man", generate_man),
        test("generate.completions", generate_completions),
        test("help", help),
    ]
}

/// What a call of the command came to.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    /// It ended with this code, and as far as that is a failure it said why, and nothing else.
    fn expect(self, code: i32) -> Result<Said> {
        ensure!(self.code == code, "expected exit code {code}: {self:?}");
        ensure!(
            (code == FAILED) != self.err.is_empty() || code == NO,
            "what it says does not go with its exit code: {self:?}"
        );
        Ok(self)
    }

    /// One line of standard output has all of this, in this order.
    fn line(&self, parts: &[&str]) -> Result<()> {
        ensure!(
            self.out.lines().any(|line| has_in_order(line, parts)),
            "no line has {parts:?}:\n{}",
            self.out
        );
        Ok(())
    }

    fn error(&self, parts: &[&str]) -> Result<()> {
        ensure!(
            self.err.starts_with("criu-signals: ") && has_in_order(&self.err, parts),
            "standard error has not {parts:?}: {}",
            self.err
        );
        Ok(())
    }

    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("no JSON: {}", self.out))
    }
}

fn has_in_order(text: &str, parts: &[&str]) -> bool {
    let mut rest = text;
    parts.iter().all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

fn command(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(config::command()?);
    command.args(args).env_remove("NO_COLOR");
    Ok(command)
}

fn run(args: &[&str]) -> Result<Said> {
    said(&mut command(args)?)
}

fn said(command: &mut Command) -> Result<Said> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    Ok(Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
    })
}

fn dump(criu: &Criu, victim: &Victim, dir: &RunDir) -> Result<()> {
    let dump = criu.dump(victim.pid(), &dir.images(), true)?;
    ensure!(dump.ok, "criu dump failed");
    Ok(())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn show_live(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let pid = victim.pid();
    let said = run(&["show", &pid.to_string()])?.expect(OK)?;
    said.line(&[&format!("process {pid} (demo), running")])?;
    said.line(&["SIGUSR1,SIGTERM"])?;
    said.line(&["handler 0x", "SA_ONSTACK|SA_RESTART", "mask SIGUSR2"])?;
    said.line(&["SIGPIPE", "ignore"])?;
    said.line(&["shared", "4 entries", "SIGHUP,SIGRTMIN+7"])?;
    said.line(&["1 ", "SIGHUP SI_QUEUE", "value 0x1267"])?;
    said.line(&["2 threads"])?;
    said.line(&["blocked", "SIGHUP,SIGUSR1,SIGTERM,SIGRTMIN+6,SIGRTMIN+7"])?;
    said.line(&["altstack", "size 65536 SS_AUTODISARM"])?;
    said.line(&["SIGRTMIN+6 SI_QUEUE", "value 0x66"])?;
    ensure!(
        !said.out.contains('\x1b'),
        "a pipe gets colours: {}",
        said.out
    );
    victim.finish(CHECK)
}

fn show_numbers_have_names(dir: &RunDir) -> Result<()> {
    let victim = start("posix_timer", None, dir)?;
    for means in means() {
        let said = run(&["show", means, &victim.pid().to_string()])?.expect(OK)?;
        said.line(&["SIGRTMIN+1 value", "to process, CLOCK_MONOTONIC,"])?;
        said.line(&["SIGRTMIN+2 value", "to thread", "CLOCK_MONOTONIC,"])?;
    }
    victim.finish(CHECK)
}

/// The address of `handler` in a victim's file, as nm(1) tells it.
fn address_in(program: &Path, symbol: &str) -> Result<u64> {
    let output = Command::new("nm").arg(program).output().context("nm")?;
    let text = String::from_utf8(output.stdout)?;
    let line = text
        .lines()
        .find(|line| line.split(' ').next_back() == Some(symbol))
        .with_context(|| format!("{}: no {symbol}", program.display()))?;
    Ok(u64::from_str_radix(
        line.split(' ').next().unwrap_or(""),
        16,
    )?)
}

fn names_live(dir: &RunDir) -> Result<()> {
    let program = config::victim("demo", false);
    let address = address_in(&program, "handler")?;
    let victim = start("demo", None, dir)?;
    let pid = victim.pid().to_string();
    for means in means() {
        let said = run(&["show", means, &pid])?.expect(OK)?;
        said.line(&[&format!(
            "handler {address:#x} [handler, demo+{address:#x}] flags"
        )])?;
        let json = run(&["show", means, "--json", &pid])?.expect(OK)?.json()?;
        let named = json["names"].as_array().context("names")?;
        let name = named.iter().find(|name| name["symbol"] == "handler");
        let name = name.with_context(|| format!("{named:?}"))?;
        let decimal = address.to_string();
        ensure!(name["address"] == *decimal, "{name}");
        ensure!(name["offset"] == *decimal, "{name}");
        ensure!(name["module"] == text(&program), "{name}");
        ensure!(
            name["build_id"].as_str().is_some_and(|id| id.len() == 40),
            "{name}"
        );
    }
    victim.finish(CHECK)
}

/// Both readers, where there are both.
fn means() -> impl Iterator<Item = &'static str> {
    let without = Need::Btf.missing().is_none().then_some("--no-stop");
    std::iter::once("--stop").chain(without)
}

/// A program whose file has been removed, and another one put in its place.
fn names_deleted(dir: &RunDir) -> Result<()> {
    let program = dir.file("gone");
    fs::copy(config::victim("demo", false), &program)?;
    let victim = Victim::start(&program, None, dir, false)?;
    fs::remove_file(&program)?;
    fs::copy(config::victim("masks", false), &program)?;
    for means in means() {
        let said = run(&["show", means, &victim.pid().to_string()])?.expect(OK)?;
        said.line(&["[handler, gone+0x", ", deleted]"])?;
    }
    victim.finish(CHECK)
}

/// The path leads to another file here than in the process's mount namespace.
fn names_in_mount_namespace(dir: &RunDir) -> Result<()> {
    let (folder, copy) = (dir.file("place"), dir.file("copy"));
    fs::create_dir(&folder)?;
    fs::copy(config::victim("masks", false), folder.join("program"))?;
    fs::copy(config::victim("demo", false), &copy)?;
    let script = dir.file("start");
    let (place, copy) = (text(&folder), text(&copy));
    fs::write(
        &script,
        format!(
            "#!/bin/sh\nexec /usr/bin/unshare -m /bin/sh -c 'PATH=/usr/bin:/bin; mount -t tmpfs names {place} && \
             cp {copy} {place}/program && exec {place}/program \"$0\"' \"$1\"\n"
        ),
    )?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let victim = Victim::start(&script, None, dir, false)?;
    for means in means() {
        let said = run(&["show", means, &victim.pid().to_string()])?.expect(OK)?;
        said.line(&["[handler, program+0x"])?;
    }
    victim.finish(CHECK)
}

/// Handlers in a mapped file that is no ELF file, in memory without a file, and where nothing is.
fn names_without_elf(dir: &RunDir) -> Result<()> {
    let file = dir.file("code\u{1b}[2J");
    fs::write(&file, [0x7f, b'E', b'L', b'F'].repeat(2048))?;
    let victim = start("foreign_code", Some(&text(&file)), dir)?;
    let pid = victim.pid();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let begin = |what: &str| {
        let line = maps.lines().find(|line| line.contains(what))?;
        u64::from_str_radix(line.split('-').next()?, 16).ok()
    };
    let code = begin("/code").context("the file")? + 0x10;
    let stack = begin("[stack]").context("the stack")?;
    let none = "0".repeat(64);
    let line = dir.file("line");
    let action = run(&["cat", &format!("{pid}/action")])?.expect(OK)?.out;
    for (signal, handler) in [(10, code), (12, stack), (14, 4096)] {
        fs::write(&line, format!("{signal} 0 {none} {handler} 0\n"))?;
        run(&["write", "--force", &format!("{pid}/action"), &text(&line)])?.expect(OK)?;
    }
    for means in means() {
        let said = run(&["show", means, &pid.to_string()])?.expect(OK)?;
        said.line(&["SIGUSR1", r"[code\u{1b}[2J, at 0x10 of the file]"])?;
        said.line(&["SIGUSR2", "[stack]"])?;
        said.line(&["SIGALRM", "handler 0x1000 [nothing is mapped there]"])?;
        run(&["show", means, "--json", &pid.to_string()])?
            .expect(OK)?
            .json()?;
    }
    fs::write(&line, action)?;
    run(&["write", "--force", &format!("{pid}/action"), &text(&line)])?.expect(OK)?;
    victim.finish(CHECK)
}

/// What CRIU's images tell: the file, and its symbols where the file here is the same.
fn names_in_images(dir: &RunDir) -> Result<()> {
    let program = dir.file("program");
    fs::copy(config::victim("demo", false), &program)?;
    let victim = Victim::start(&program, None, dir, false)?;
    dump(&with_plugin()?, &victim, dir)?;
    let images = text(&dir.images());
    let both = [images.clone(), format!("criu:{images}")];
    for source in &both {
        let said = run(&["show", source])?.expect(OK)?;
        said.line(&["[handler, program+0x"])?;
    }
    // Another file has the name now: its symbols would be wrong.
    fs::remove_file(&program)?;
    fs::copy(config::victim("masks", false), &program)?;
    for source in &both {
        let said = run(&["show", source])?.expect(OK)?;
        said.line(&["[program, at 0x", " of the file]"])?;
    }
    Ok(())
}

fn names_of_differences(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let pid = victim.pid();
    dump_live(pid, dir)?;
    let folder = dir.file("saved");
    let path = folder.join(image::file_name(pid));
    let mut changed = image::open(&path)?;
    changed.process.dispositions[SigNo::USR1].handler = 0;
    fs::remove_file(&path)?;
    image::write(fs::File::create(&path)?, &changed)?;
    let (path, folder) = (text(&path), text(&folder));
    let said = run(&["diff", &path, &pid.to_string()])?.expect(NO)?;
    said.line(&["B", "handler 0x", "[handler, demo+0x"])?;
    let json = run(&["diff", "--json", &path, &pid.to_string()])?
        .expect(NO)?
        .json()?;
    let difference = &json["processes"][0]["differences"][0];
    let (plain, named) = (&difference["b"], &difference["b_named"]);
    ensure!(
        named
            .as_str()
            .is_some_and(|text| text.contains("[handler, demo+0x"))
    );
    ensure!(
        plain.as_str().is_some_and(|text| !text.contains('[')),
        "{plain}"
    );
    let said = run(&["verify", "-D", &folder])?.expect(NO)?;
    said.line(&[
        "disposition of SIGUSR1: dumped: default",
        "found: handler 0x",
        "[handler, demo+0x",
    ])?;
    victim.finish(CHECK)
}

fn dump_live(pid: Pid, dir: &RunDir) -> Result<()> {
    let folder = text(&dir.file("saved"));
    run(&["dump", "-t", &pid.to_string(), "-D", &folder])?.expect(OK)?;
    Ok(())
}

fn show_many_threads(dir: &RunDir) -> Result<()> {
    let victim = start("receiver", None, dir)?;
    let pid = victim.pid();
    // Both threads block everything and sleep, unless they are just having a look around.
    let both = format!("threads {pid}, {} (2)", pid + 1);
    let said = wait::until("both threads to sleep", PATIENCE, || {
        let said = run(&["show", &pid.to_string()])?.expect(OK)?;
        Ok(said.out.contains(&both).then_some(said))
    })?;
    said.line(&["2 threads in 1 state"])?;
    run(&["send", &format!("{pid}/{}", pid + 1), "USR1"])?.expect(OK)?;
    let said = run(&["show", &pid.to_string()])?.expect(OK)?;
    said.line(&[&format!("thread {}", pid + 1)])?;
    ensure!(
        !said.out.contains(&both),
        "they are not alike: {}",
        said.out
    );
    victim.finish(CHECK)
}

/// What takes signals of the process or causes some, whichever way the process is read; the process finds all as it was.
fn show_signal_files(dir: &RunDir) -> Result<()> {
    let victim = start("signal_files", None, dir)?;
    let pid = victim.pid().to_string();
    for means in means() {
        let said = run(&["show", means, &pid])?.expect(OK)?;
        said.line(&["signal files", "3"])?;
        said.line(&["fd ", "signalfd, takes SIGUSR1,SIGRTMIN+1"])?;
        said.line(&["fd ", "pipe:[", "] sends SIGRTMIN+2 to process", &pid])?;
        said.line(&[
            "message queue /criu-tests-signal-files",
            " sends SIGUSR2 when",
        ])?;
        let json = run(&["show", means, "--json", &pid])?.expect(OK)?.json()?;
        ensure!(json["signal_files_unknown"].is_null(), "{json}");
        let files = json["signal_files"].as_array().context("a list")?;
        let roles: Vec<&Value> = files.iter().map(|file| &file["role"]).collect();
        ensure!(roles == ["signalfd", "owner", "mq_notify"], "{files:?}");
        ensure!(files[1]["owner"]["id"] == victim.pid(), "{files:?}");
        let bits: u64 = files[2]["signals"].as_str().context("a number")?.parse()?;
        ensure!(bits == 1 << (Signal::SIGUSR2 as u32 - 1), "{files:?}");
    }
    victim.finish(CHECK)
}

/// A hundred thousand descriptors, or as many as the machine permits, hide nothing.
fn show_many_files(dir: &RunDir) -> Result<()> {
    let victim = start("signal_files", Some("many"), dir)?;
    let said = run(&["show", &victim.pid().to_string()])?.expect(OK)?;
    said.line(&["signal files", "3"])?;
    ensure!(!said.out.contains("not all are known"), "{}", said.out);
    victim.finish(CHECK)
}

fn show_deep_queue(dir: &RunDir) -> Result<()> {
    let victim = start("deep_queue", Some("3000"), dir)?;
    let pid = victim.pid().to_string();
    let said = run(&["show", &pid])?.expect(OK)?;
    said.line(&["3000 entries"])?;
    said.line(&["... ", "and 2990 more (--all)"])?;
    ensure!(
        !said.out.contains("without siginfo"),
        "what was not read is not missing: {}",
        said.out
    );
    let all = run(&["show", "--all", &pid])?.expect(OK)?;
    all.line(&["3000 "])?;
    ensure!(all.out.lines().count() > 3000, "not all are there");
    victim.finish(CHECK)
}

fn show_colours(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    dump(&with_plugin()?, &victim, dir)?;
    victim.finish(CHECK)?;
    // What does not change from one look to the next.
    let images = text(&dir.images());
    let coloured = run(&["show", "--color", "always", &images])?.expect(OK)?;
    ensure!(
        coloured.out.contains("\x1b["),
        "no colours: {}",
        coloured.out
    );
    let plain = run(&["show", "--color", "never", &images])?.expect(OK)?;
    let mut stripped = String::new();
    let mut rest = coloured.out.as_str();
    while let Some((before, escape)) = rest.split_once("\x1b[") {
        stripped += before;
        rest = escape.split_once('m').map_or("", |(_, after)| after);
    }
    stripped += rest;
    ensure!(stripped == plain.out, "colours change the text");

    // On a terminal, and with NO_COLOR on one: script(1) makes one.
    let on_terminal = |no_color: bool| -> Result<String> {
        let line = format!("{} show {images}", config::command()?.display());
        let mut command = Command::new("script");
        command
            .args(["-qec", &line, "/dev/null"])
            .env("TERM", "xterm");
        if no_color {
            command.env("NO_COLOR", "1");
        } else {
            command.env_remove("NO_COLOR");
        }
        Ok(said(&mut command)?.out)
    };
    ensure!(
        on_terminal(false)?.contains("\x1b["),
        "a terminal gets no colours"
    );
    ensure!(
        !on_terminal(true)?.contains("\x1b["),
        "NO_COLOR is not heeded"
    );
    Ok(())
}

fn show_json(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let pid = victim.pid();
    // Without --stop, a victim that is just not asleep is read by BPF, which reads the wait status too.
    let pids = [pid.to_string(), pid.to_string()];
    let said = run(&["show", "--stop", "--json", &pids[0], &pids[1]])?.expect(OK)?;
    let documents: Vec<Value> = said
        .out
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context("one document a line")?;
    let [first, second] = documents.as_slice() else {
        bail!("two documents: {documents:?}")
    };
    for document in [first, second] {
        ensure!(document["process"]["comm"] == "demo" && document["process"]["ids"][0] == pid);
        ensure!(
            document["threads"]
                .as_array()
                .is_some_and(|threads| threads.len() == 2)
        );
        ensure!(document["not_recorded"] == serde_json::json!(["wait_status"]));
    }
    // What does not know everything is no image.
    let file = dir.file("state.json");
    fs::write(&file, first.to_string())?;
    let output = text(&dir.file("out.img"));
    run(&["encode", &text(&file), "-o", &output])?
        .expect(FAILED)?
        .error(&["not_recorded", "wait_status"])?;
    ensure!(!Path::new(&output).exists(), "an image was written");
    victim.finish(CHECK)
}

/// timerfds and RLIMIT_CPU, by both readers, of a process with as many descriptors as it may have.
fn show_clocks(dir: &RunDir) -> Result<()> {
    let victim = start("timerfds", None, dir)?;
    let pid = victim.pid().to_string();
    for means in means() {
        let said = run(&["show", means, &pid])?.expect(OK)?;
        said.line(&["timerfds ", "4"])?;
        said.line(&[
            "fd ",
            "CLOCK_MONOTONIC, expired and not read, every 0.000200 s",
        ])?;
        said.line(&["fd ", "CLOCK_MONOTONIC, not armed, every 0.300 s"])?;
        ensure!(!said.out.contains("CPU limit"), "{said:?}");
        let json = run(&["show", means, "--json", &pid])?.expect(OK)?.json()?;
        let timers = json["clocks"]["timerfds"]
            .as_array()
            .context("no timerfds")?;
        ensure!(timers.len() == 4, "{timers:?}");
        ensure!(
            timers[0]["clock"] == 1 && timers[0]["interval_ns"] == "200000",
            "{timers:?}"
        );
        ensure!(json["clocks"].get("cpu_limit").is_none(), "{json}");
    }
    victim.finish(CHECK)?;

    // This program itself: a child with a limit, and with descriptors up to RLIMIT_NOFILE, one of them a timerfd.
    let (_, most) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::empty())?;
    let mut copies: Vec<_> = std::iter::from_fn(|| timer.as_fd().try_clone_to_owned().ok())
        .take(MANY)
        .collect();
    // The start of a program and the readings need some.
    copies.truncate(copies.len() - 50);
    let inherited = copies.len() + 1;
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -St 7000; exec sleep 1000"]);
    for fd in &copies {
        nix::fcntl::fcntl(
            fd,
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
        )?;
    }
    let (_sleeper, pid) = Sleeper::started(&mut command)?;
    wait::until("the limit to be set", PATIENCE, || {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let name = procfs::name(pid);
        Ok((limits.contains(" 7000 ") && name.as_deref() == Some("sleep")).then_some(()))
    })?;
    drop(copies);
    for means in means() {
        let said = run(&["show", means, &pid.to_string()])?.expect(OK)?;
        said.line(&["CPU limit ", "7000 s, hard limit unlimited; 0.", " s used"])?;
        said.line(&["timerfds ", &inherited.to_string()])?;
        said.line(&["fd ", "CLOCK_BOOTTIME, not armed"])?;
        said.line(&["... ", &format!("and {} more (--all)", inherited - 10)])?;
        let json = run(&["show", means, "--json", &pid.to_string()])?
            .expect(OK)?
            .json()?;
        ensure!(json["clocks"]["cpu_limit"] == "7000");
        let timers = json["clocks"]["timerfds"].as_array().context("none")?;
        ensure!(timers.len() == inherited);
    }
    Ok(())
}

/// More than the machine of a test may permit.
const MANY: usize = 100_000;

/// Pid 1 of a namespace, as this test's namespace sees it.
fn in_namespace(dir: &RunDir) -> Result<Victim> {
    Victim::start(&config::victim("pidns", false), None, dir, true)
}

fn inode_of(pid: Pid) -> Result<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/pid"))?;
    Ok(link.to_string_lossy().into_owned())
}

fn show_namespaces(dir: &RunDir) -> Result<()> {
    let victim = in_namespace(dir)?;
    let pid = victim.pid();
    let said = run(&["show", &pid.to_string()])?.expect(OK)?;
    let inode = inode_of(pid)?;
    said.line(&["pid ", &format!("{pid} here, 1 in its own {inode}")])?;
    said.line(&["thread 1, outside ", &pid.to_string()])?;
    // The sender's pid is the one in the namespace.
    said.line(&["SIGHUP SI_USER pid 1 "])?;
    let json = run(&["show", "--json", &pid.to_string()])?
        .expect(OK)?
        .json()?;
    ensure!(json["process"]["ids"] == serde_json::json!([pid, 1]));
    ensure!(inode.contains(json["process"]["pid_ns"].as_str().unwrap_or("?")));
    victim.finish(CHECK)
}

/// A process that a freezer holds can't answer: it is read by BPF, and the command says so.
fn show_frozen(dir: &RunDir) -> Result<()> {
    let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .into_iter()
        .map(Path::new)
        .find(|root| root.join("cgroup.procs").exists())
        .context("no cgroup v2")?;
    let run_name = dir.path().file_name().context("a name")?;
    let cgroup = root.join(format!("criu-tests-{}", run_name.to_string_lossy()));
    fs::create_dir(&cgroup)?;
    let frozen = || -> Result<()> {
        let (_sleeper, pid) = Sleeper::start(&[10])?;
        fs::write(cgroup.join("cgroup.procs"), pid.to_string())?;
        fs::write(cgroup.join("cgroup.freeze"), "1")?;
        wait::until("it to be frozen", PATIENCE, || {
            let events = fs::read_to_string(cgroup.join("cgroup.events"))?;
            Ok(events.contains("frozen 1").then_some(()))
        })?;
        let said = run(&["show", &pid.to_string()]);
        fs::write(cgroup.join("cgroup.freeze"), "0")?;
        let said = said?;
        ensure!(said.code == OK, "{said:?}");
        said.error(&[&format!("process {pid} is frozen by a cgroup freezer; ")])?;
        said.line(&[&format!("process {pid} (sleep)")])?;
        said.line(&["blocked", "SIGUSR1"])
    };
    let done = frozen();
    wait::until("the cgroup to be removed", PATIENCE, || {
        Ok(fs::remove_dir(&cgroup).ok())
    })?;
    done
}

fn show_stopped(dir: &RunDir) -> Result<()> {
    let victim = start("stopped", None, dir)?;
    victim.wait_stopped()?;
    let said = run(&["show", &victim.pid().to_string()])?.expect(OK)?;
    said.line(&["(stopped), stopped by SIGSTOP"])?;
    // On its way back into the stop it shows as running for a moment; it stays there if it was let go.
    victim.wait_stopped()?;
    victim.resume()?;
    victim.finish(CHECK)
}

/// Without the plugin's help, and with what it changes nothing of.
fn ours_and_criu_s(dir: &RunDir) -> Result<()> {
    let victim = start("process_tree", None, dir)?;
    let processes = procfs::tree(victim.pid())?;
    dump(&with_plugin()?, &victim, dir)?;
    let images = text(&dir.images());
    let criu = format!("criu:{images}");
    for source in [&images, &criu] {
        let said = run(&["show", source])?.expect(OK)?;
        let shown = said
            .out
            .lines()
            .filter(|line| line.contains("img ("))
            .count();
        ensure!(shown == processes.len(), "{source}: {}", said.out);
    }
    let said = run(&["show", &criu])?.expect(OK)?;
    said.line(&["exit signal", "not recorded"])?;
    said.line(&["waits in", "not recorded"])?;

    let said = run(&["diff", &images, &criu])?.expect(OK)?;
    said.line(&["only A records", "signals pending without siginfo"])?;
    // One that differs is found, and nothing else.
    let pid = victim.pid();
    let path = dir.images().join(format!("core-{pid}.img"));
    let mut core = CoreImage::read(&fs::read(&path)?)?;
    let mut dispositions = core.dispositions().context("dispositions")?;
    dispositions[SigNo::WINCH].handler ^= 1;
    core.set_dispositions(&dispositions)?;
    fs::write(&path, core.to_bytes()?)?;
    let said = run(&["diff", &images, &criu])?.expect(NO)?;
    said.line(&["process disposition of SIGWINCH"])?;
    let json = run(&["diff", "--json", &images, &criu])?
        .expect(NO)?
        .json()?;
    ensure!(json["same"] == false);
    let differing: Vec<&Value> = json["processes"]
        .as_array()
        .context("processes")?
        .iter()
        .flat_map(|process| process["differences"].as_array().into_iter().flatten())
        .collect();
    let [only] = differing.as_slice() else {
        bail!("one difference: {differing:?}")
    };
    ensure!(
        only["field"] == "disposition" && only["signal"] == "SIGWINCH" && only["thread"].is_null()
    );
    // Without ours, CRIU's are what a folder holds.
    for process in &processes {
        fs::remove_file(dir.images().join(image::file_name(*process)))?;
    }
    run(&["show", &images])?
        .expect(OK)?
        .line(&[&format!("core-{pid}.img (")])?;
    // A thread's image is missing: never half a process.
    fs::remove_file(path)?;
    run(&["show", &images])?
        .expect(FAILED)?
        .error(&[&format!("core-{pid}.img")])?;
    victim.finish(CHECK)
}

/// CRIU's images lack what the plugin has taken out, and whoever compares is told why.
fn images_of_what_was_taken_out(dir: &RunDir) -> Result<()> {
    let victim = start("deep_queue", Some("3000"), dir)?;
    dump(&with_plugin()?, &victim, dir)?;
    let images = text(&dir.images());
    run(&["show", &images])?
        .expect(OK)?
        .line(&["taken out", "the queue is deep"])?;
    let said = run(&["diff", &images, &format!("criu:{images}")])?.expect(NO)?;
    said.line(&["note", "taken out for the dump"])?;
    said.line(&["process shared queue"])?;
    victim.finish(CHECK)
}

/// One damaged image of a folder hides no other, and is not taken for a process that is not there.
fn one_image_damaged(dir: &RunDir) -> Result<()> {
    let victim = start("process_tree", None, dir)?;
    dump(&with_plugin()?, &victim, dir)?;
    let pids = procfs::tree(victim.pid())?;
    let damaged = *pids.last().context("children")?;
    let images = text(&dir.images());
    let whole = text(&dir.file("whole"));
    fs::create_dir(&whole)?;
    for file in fs::read_dir(dir.images())? {
        let file = file?;
        fs::copy(file.path(), Path::new(&whole).join(file.file_name()))?;
    }
    let names = [image::file_name(damaged), format!("core-{damaged}.img")];
    for (prefix, name) in ["", "criu:"].into_iter().zip(names) {
        let path = dir.images().join(&name);
        let bytes = fs::read(&path)?;
        fs::write(&path, &bytes[..bytes.len() / 2])?;
        let [images, whole] = [&images, &whole].map(|folder| format!("{prefix}{folder}"));
        let said = run(&["show", &images])?.expect(FAILED)?;
        said.error(&[&name])?;
        let shown = said.out.lines().filter(|line| line.contains("img ("));
        ensure!(shown.count() == pids.len() - 1, "{}", said.out);
        for (a, b) in [(&images, &whole), (&whole, &images)] {
            let said = run(&["diff", a, b])?.expect(FAILED)?;
            said.error(&[&name])?;
            ensure!(!said.out.contains("no such process"), "{}", said.out);
            let json = run(&["diff", "--json", a, b])?.expect(FAILED)?.json()?;
            ensure!(json["same"].is_null(), "{json}");
            let not_read = json["not_read"].to_string();
            ensure!(not_read.contains(&name), "{json}");
            let compared = json["processes"].as_array().context("processes")?;
            ensure!(compared.len() == pids.len() - 1, "{json}");
        }
    }
    victim.finish(CHECK)
}

fn core_alone(dir: &RunDir) -> Result<()> {
    let victim = start("private_queues", None, dir)?;
    let (pid, tid) = (victim.pid(), victim.pid() + 1);
    dump(&with_plugin()?, &victim, dir)?;
    let core = dir.images().join(format!("core-{pid}.img"));
    // With pstree.img beside it, its threads are found; alone, it is said that they are not.
    let said = run(&["show", &text(&core)])?.expect(OK)?;
    said.line(&[&format!("thread {tid}")])?;
    let alone = dir.file(&format!("core-{pid}.img"));
    fs::copy(&core, &alone)?;
    let said = run(&["show", &text(&alone)])?.expect(OK)?;
    said.line(&["other threads are not recorded"])?;
    let other = dir.images().join(format!("core-{tid}.img"));
    run(&["show", &text(&other)])?
        .expect(FAILED)?
        .error(&["that of a thread, not of a process"])?;
    let nameless = dir.file("nameless.img");
    fs::copy(&core, &nameless)?;
    run(&["show", &text(&nameless)])?
        .expect(FAILED)?
        .error(&["must be named core-PID.img"])?;
    victim.finish(CHECK)
}

fn shell(line: &str, at: &Path) -> Result<()> {
    let said = said(Command::new("sh").args(["-ec", line]).current_dir(at))?;
    ensure!(said.code == 0, "{line}: {said:?}");
    Ok(())
}

/// A dump, as podman puts it into an archive: `checkpoint.tar` in the folder of the test.
fn archived(dir: &RunDir) -> Result<PathBuf> {
    let victim = start("demo", None, dir)?;
    dump(&with_plugin()?, &victim, dir)?;
    victim.finish(CHECK)?;
    let line = "mkdir tree && cp -r images tree/checkpoint && echo {} > tree/config.dump && echo {} > tree/spec.dump &&
        tar -C tree -cf checkpoint.tar config.dump spec.dump checkpoint";
    let tar = dir.file("checkpoint.tar");
    let folder = tar.parent().context("it has a folder")?;
    shell(line, folder)?;
    Ok(tar)
}

/// Every source shows the same.
fn archive_packed(dir: &RunDir) -> Result<()> {
    let tar = archived(dir)?;
    let folder = tar.parent().context("it has a folder")?;
    shell(
        "gzip -k checkpoint.tar && zstd -q checkpoint.tar && lz4 -q checkpoint.tar checkpoint.tar.lz4 &&
         split -n 2 checkpoint.tar half. && for half in half.aa half.ab; do zstd -qc $half; done > again.zst && rm half.*",
        folder,
    )?;
    let images = text(&dir.images());
    let expected = run(&["show", "--json", &images])?.expect(OK)?.out;
    let of_criu = run(&["show", "--json", &format!("criu:{images}")])?
        .expect(OK)?
        .out;
    let before = fs::read_dir(folder)?.count();
    for name in [
        "checkpoint.tar",
        "checkpoint.tar.gz",
        "checkpoint.tar.zst",
        "checkpoint.tar.lz4",
        "again.zst",
    ] {
        let archive = text(&dir.file(name));
        let shown = run(&["show", "--json", &archive])?.expect(OK)?.out;
        ensure!(shown == expected, "{name}: {shown}");
        let shown = run(&["show", "--json", &format!("criu:{archive}")])?
            .expect(OK)?
            .out;
        ensure!(shown == of_criu, "{name}: CRIU's: {shown}");
        run(&["diff", &archive, &images])?
            .expect(OK)?
            .line(&["no differences"])?;
        let decoded = run(&["decode", &archive])?.expect(OK)?;
        ensure!(
            decoded.json()?["process"]["comm"] == "demo",
            "{}",
            decoded.out
        );
        run(&["verify", "-D", &archive])?
            .expect(FAILED)?
            .error(&["pid"])?;
    }
    ensure!(
        fs::read_dir(folder)?.count() == before,
        "something was written"
    );
    let one = run(&["decode", &text(&tar), "pstree.img"])?.expect(FAILED)?;
    one.error(&["pstree.img", "not an image of this kind"])?;
    run(&["decode", &text(&tar), "core-1000000.img"])?
        .expect(FAILED)?
        .error(&["core-1000000.img"])
}

/// containerd's index, as a folder and as an archive of it.
fn archive_oci(dir: &RunDir) -> Result<()> {
    let tar = archived(dir)?;
    let folder = tar.parent().context("it has a folder")?;
    shell(
        r#"mkdir -p oci/blobs/sha256 && cd oci && echo '{"imageLayoutVersion":"1.0.0"}' > oci-layout
        blob() { digest=$(sha256sum < "$1" | cut -d ' ' -f 1); mv "$1" "blobs/sha256/$digest"; }
        tar -C ../images -cf layer . && blob layer
        echo "{\"manifests\":[{\"mediaType\":\"application/vnd.containerd.container.criu.checkpoint.criu.tar\",\"digest\":\"sha256:$digest\",\"size\":1}]}" > index && blob index
        echo "{\"manifests\":[{\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"digest\":\"sha256:$digest\",\"size\":1}]}" > index.json
        tar -cf ../oci.tar blobs index.json oci-layout"#,
        folder,
    )?;
    let expected = run(&["show", "--json", &text(&dir.images())])?
        .expect(OK)?
        .out;
    for name in ["oci", "oci.tar"] {
        let shown = run(&["show", "--json", &text(&dir.file(name))])?
            .expect(OK)?
            .out;
        ensure!(shown == expected, "{name}: {shown}");
    }
    shell("rm oci/blobs/sha256/*", folder)?;
    run(&["show", &text(&dir.file("oci"))])?
        .expect(FAILED)?
        .error(&["OCI image layout", "is missing"])
}

/// Archives that are cut, foreign, hostile: each has its own sentence, and nothing is written.
fn archive_wrong(dir: &RunDir) -> Result<()> {
    let tar = archived(dir)?;
    let folder = tar.parent().context("it has a folder")?;
    shell(
        "head -c 20000 checkpoint.tar > cut.tar && gzip -c checkpoint.tar | head -c 5000 > cut.tar.gz
         xz -k checkpoint.tar && tar -cf none.tar tree/config.dump
         mkdir hostile && cp -r tree/checkpoint hostile && cd hostile/checkpoint && for f in signals-*.img; do
           mv $f .. && ln -s ../$f $f; done && cd .. && tar -cf ../link.tar checkpoint && cd ..
         tar -P --transform 's|^|../../|' -cf out.tar -C tree checkpoint",
        folder,
    )?;
    for (name, says) in [
        ("cut.tar", "not complete"),
        ("cut.tar.gz", "not complete"),
        ("checkpoint.tar.xz", "compressed by xz"),
        ("none.tar", "no archive of a checkpoint"),
        ("link.tar", "is a symbolic link"),
        ("out.tar", "leads out of the archive"),
    ] {
        let archive = text(&dir.file(name));
        for args in [["show", &archive], ["decode", &archive]] {
            run(&args)?.expect(FAILED)?.error(&[name, says])?;
        }
    }
    Ok(())
}

/// As checkpointctl's `cmd/plugin.go` does: a file `checkpointctl-*` of a folder of the PATH is asked for its description, for
/// half a second, and is executed with what follows its name.
fn archive_checkpointctl(dir: &RunDir) -> Result<()> {
    let tar = archived(dir)?;
    let bin = dir.file("bin");
    fs::create_dir(&bin)?;
    std::os::unix::fs::symlink(config::command()?, bin.join("criu-signals"))?;
    let plugin = bin.join("checkpointctl-signals");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/checkpointctl-signals");
    fs::copy(source, &plugin)?;
    let described = said(Command::new(&plugin).arg("--plugin-description"))?;
    ensure!(
        described.code == 42 && described.out.lines().count() == 1 && described.err.is_empty(),
        "{described:?}"
    );
    let shown = said(Command::new(&plugin).arg(&tar))?.expect(OK)?;
    ensure!(shown.out == run(&["show", &text(&tar)])?.out, "{shown:?}");
    Ok(())
}

fn decode_ours(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    dump(&with_plugin()?, &victim, dir)?;
    let image = dir.images().join(image::file_name(victim.pid()));
    let said = run(&["decode", &text(&image)])?.expect(OK)?;
    let json = dir.file("state.json");
    fs::write(&json, &said.out)?;
    let again = text(&dir.file("again.img"));
    run(&["encode", &text(&json), "-o", &again])?.expect(OK)?;
    ensure!(
        fs::read(&image)? == fs::read(&again)?,
        "something was lost on the way"
    );
    // Nothing is overwritten.
    run(&["encode", &text(&json), "-o", &again])?
        .expect(FAILED)?
        .error(&["again.img", "exists"])?;
    victim.finish(CHECK)
}

/// Out of CRIU's own image, changed, and restored by CRIU.
fn decode_core(dir: &RunDir) -> Result<()> {
    let victim = start("fifo", None, dir)?;
    let pid = victim.pid();
    let dump = Criu::new(&config::criu()?, &dir.no_plugins()).dump(pid, &dir.images(), true)?;
    ensure!(dump.ok, "criu dump failed");
    let core = dir.images().join(format!("core-{pid}.img"));
    let said = run(&["decode", &text(&core)])?.expect(OK)?;
    let mut json = said.json()?;
    let first = &json["criu_core"]["process"]["shared_queue"][0];
    ensure!(
        first["code"] == -1 && first["value"]["pid"] == pid,
        "siginfos are spelled out: {first}"
    );
    let (file, again) = (dir.file("core.json"), text(&dir.file("again.img")));
    fs::write(&file, &said.out)?;
    run(&["encode", &text(&file), "-o", &again])?
        .expect(FAILED)?
        .error(&["--core"])?;
    run(&["encode", &text(&file), "--core", &text(&core), "-o", &again])?.expect(OK)?;
    ensure!(
        fs::read(&core)? == fs::read(&again)?,
        "something was lost on the way"
    );
    fs::remove_file(&again)?;

    json["criu_core"]["process"]["shared_queue"][0]["value"]["value"] = "77".into();
    fs::write(&file, json.to_string())?;
    run(&["encode", &text(&file), "--core", &text(&core), "-o", &again])?.expect(OK)?;
    let changed = CoreImage::read(&fs::read(&again)?)?;
    let queue = changed.shared_queue();
    ensure!(
        matches!(queue[0].fields(), Fields::Value { value: 77, .. }),
        "{:?}",
        queue[0]
    );
    ensure!(changed.dispositions() == CoreImage::read(&fs::read(&core)?)?.dispositions());
    victim.finish(CHECK)
}

fn diff_live(dir: &RunDir) -> Result<()> {
    let victim = start("receiver", Some("handler"), dir)?;
    let pid = victim.pid().to_string();
    // Its second thread wakes up now and then: what it waits in is no matter here.
    let differences = |a: &str, b: &str| -> Result<Vec<Value>> {
        let json = run(&["diff", "--json", a, b])?.json()?;
        let all = json["processes"][0]["differences"]
            .as_array()
            .context("differences")?;
        let kept = all
            .iter()
            .filter(|difference| difference["field"] != "interrupted");
        Ok(kept.cloned().collect())
    };
    ensure!(differences(&pid, &pid)?.is_empty());
    dump(&with_plugin()?, &victim, dir)?;
    let image = text(&dir.images().join(image::file_name(victim.pid())));
    ensure!(
        differences(&image, &pid)?.is_empty(),
        "{:?}",
        differences(&image, &pid)?
    );
    run(&[
        "send",
        &format!("{pid}/{}", victim.pid() + 1),
        "RTMIN+5",
        "--value",
        "9",
    ])?
    .expect(OK)?;
    let found = differences(&image, &pid)?;
    let fields: Vec<&str> = found.iter().filter_map(|d| d["field"].as_str()).collect();
    ensure!(fields == ["private_bits", "private_queue"], "{found:?}");
    ensure!(found[1]["thread"] == victim.pid() + 1 && found[1]["a"] == "no entries");
    ensure!(
        found[1]["b"]
            .as_str()
            .is_some_and(|b| b.contains("SIGRTMIN+5 SI_QUEUE"))
    );
    run(&["diff", &image, "/proc/none"])?
        .expect(FAILED)?
        .error(&["/proc/none"])?;
    victim.finish(CHECK)
}

fn diff_two_processes(dir: &RunDir) -> Result<()> {
    let second = RunDir::create(&dir.file("second"))?;
    let (a, b) = (start("locked", None, dir)?, start("locked", None, &second)?);
    let (pa, pb) = (a.pid().to_string(), b.pid().to_string());
    let said = run(&["diff", &pa, &pb])?;
    said.line(&["note", "different processes", "matched by their order"])?;
    ensure!(
        !said.out.contains("existence"),
        "threads are paired: {}",
        said.out
    );
    a.finish(CHECK)?;
    b.finish(CHECK)
}

fn diff_one_missing(dir: &RunDir) -> Result<()> {
    let victim = start("process_tree", None, dir)?;
    dump(&with_plugin()?, &victim, dir)?;
    let images = text(&dir.images());
    let other = dir.file("other");
    fs::create_dir(&other)?;
    let mut pids = procfs::tree(victim.pid())?;
    let gone = pids.pop().context("children")?;
    for pid in pids {
        let name = image::file_name(pid);
        fs::copy(dir.images().join(&name), other.join(&name))?;
    }
    let said = run(&["diff", &images, &text(&other)])?.expect(NO)?;
    said.line(&["A ", &format!("signals-{gone}.img")])?;
    said.line(&["B has no such process"])?;
    let json = run(&["diff", "--json", &text(&other), &images])?
        .expect(NO)?
        .json()?;
    let only = json["processes"]
        .as_array()
        .and_then(|p| p.iter().find(|p| p["a"].is_null()));
    ensure!(only.is_some_and(|p| p["b"]["ids"][0] == gone), "{json}");
    victim.finish(CHECK)
}

fn diff_namespaces(dir: &RunDir) -> Result<()> {
    let victim = in_namespace(dir)?;
    let pid = victim.pid().to_string();
    let said = run(&["diff", &pid, "self"])?;
    said.expect(FAILED)?;
    let second = RunDir::create(&dir.file("second"))?;
    let other = in_namespace(&second)?;
    let said = run(&["diff", &pid, &other.pid().to_string()])?;
    // Both are pid 1, each in its own.
    said.line(&[
        "A ",
        &format!("{pid} here, 1 in its own"),
        &inode_of(victim.pid())?,
    ])?;
    said.line(&[
        "B ",
        &format!("{} here, 1 in its own", other.pid()),
        &inode_of(other.pid())?,
    ])?;
    said.line(&[
        "note",
        "different pid namespaces",
        "need not mean the same process",
    ])?;
    victim.finish(CHECK)?;
    other.finish(CHECK)
}

/// What a receiver has written down: the thread, and the siginfo.
fn got(dir: &RunDir) -> Vec<(i32, Vec<u8>)> {
    let text = dir.read("got");
    let line = |line: &str| -> Option<(i32, Vec<u8>)> {
        let (thread, hex) = line.split_once(' ')?;
        let bytes = hex
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        Some((thread.parse().ok()?, bytes.collect::<Option<_>>()?))
    };
    text.lines().filter_map(line).collect()
}

fn siginfo(signo: i32, errno: i32, code: i32, fields: Fields) -> Vec<u8> {
    Siginfo::from_fields(signo, errno, code, &fields).as_bytes()[..48].to_vec()
}

/// A signal to a handler: it runs once with the siginfo, and ends pause(2).
fn send_to_handler(dir: &RunDir) -> Result<()> {
    let victim = start("receiver", Some("handler"), dir)?;
    let pid = victim.pid().to_string();
    let mut wanted = Vec::new();
    for (args, info) in cases_of_send() {
        let args = [&["send", pid.as_str()], args].concat();
        run(&args)?.expect(OK)?;
        wanted.push((0, info));
        wait::until(&format!("{args:?}"), PATIENCE, || {
            Ok((got(dir).len() == wanted.len()).then_some(()))
        })?;
    }
    ensure!(got(dir) == wanted, "{:02x?}\n{wanted:02x?}", got(dir));
    victim.finish(CHECK)?;
    // And the one by which the victim has ended itself.
    let calls = wanted.len() + 1;
    ensure!(
        dir.read("ended") == format!("{calls} of {calls}"),
        "calls of pause that ended, of handlers that ran: {}",
        dir.read("ended")
    );
    Ok(())
}

/// Arguments, and the siginfo that they make: one of each layout.
fn cases_of_send() -> Vec<(&'static [&'static str], Vec<u8>)> {
    vec![
        (
            &["USR1", "--as", "pid=12,uid=1000"],
            siginfo(10, 0, 0, Fields::Kill { pid: 12, uid: 1000 }),
        ),
        (
            &[
                "RTMIN+2",
                "--value",
                "-2",
                "--as",
                "pid=7,uid=8",
                "--errno",
                "5",
            ],
            siginfo(
                36,
                5,
                -1,
                Fields::Value {
                    pid: 7,
                    uid: 8,
                    value: u64::MAX - 1,
                },
            ),
        ),
        (
            &[
                "CHLD",
                "--code",
                "CLD_EXITED",
                "--as",
                "pid=9,uid=8,status=3,utime=4,stime=5",
            ],
            siginfo(
                17,
                0,
                1,
                Fields::Child {
                    pid: 9,
                    uid: 8,
                    status: 3,
                    utime: 4,
                    stime: 5,
                },
            ),
        ),
        (
            &[
                "SEGV",
                "--code",
                "SEGV_BNDERR",
                "--addr",
                "0x10",
                "--as",
                "lower=1,upper=2",
            ],
            siginfo(
                11,
                0,
                3,
                Fields::Fault {
                    addr: 16,
                    detail: criu_signals::images::FaultDetail::Bounds { lower: 1, upper: 2 },
                },
            ),
        ),
        (
            &["POLL", "--code", "POLL_IN", "--as", "band=0x41,fd=3"],
            siginfo(29, 0, 1, Fields::Poll { band: 0x41, fd: 3 }),
        ),
        (
            &[
                "SYS",
                "--code",
                "1",
                "--as",
                "call_addr=4096,syscall=39,arch=0xc000003e",
            ],
            siginfo(
                31,
                0,
                1,
                Fields::Sys {
                    call_addr: 4096,
                    syscall: 39,
                    arch: 0xc000_003e,
                },
            ),
        ),
        (
            &[
                "40",
                "--code",
                "SI_TIMER",
                "--as",
                "timer=3,overrun=4,value=5",
            ],
            siginfo(
                40,
                0,
                -2,
                Fields::Timer {
                    id: 3,
                    overrun: 4,
                    value: 5,
                    sys_private: 0,
                },
            ),
        ),
        (
            &["HUP", "--code", "SI_KERNEL", "--as", "pid=0,uid=0"],
            siginfo(1, 0, 0x80, Fields::Kill { pid: 0, uid: 0 }),
        ),
    ]
}

/// Shared and private, in order, behind what is there; a second legacy one is not queued.
fn send_blocked(dir: &RunDir) -> Result<()> {
    let victim = start("receiver", None, dir)?;
    let (leader, second) = (
        victim.pid().to_string(),
        format!("{0}/{1}", victim.pid(), victim.pid() + 1),
    );
    for (target, value) in [
        (&leader, "1"),
        (&second, "2"),
        (&leader, "3"),
        (&second, "4"),
    ] {
        run(&[
            "send",
            target,
            "RTMIN",
            "--value",
            value,
            "--as",
            "pid=1,uid=0",
        ])?
        .expect(OK)?;
    }
    run(&[
        "send",
        &second,
        "SEGV",
        "--code",
        "SEGV_MAPERR",
        "--addr",
        "7",
    ])?
    .expect(OK)?;
    // Each queue has its own.
    run(&["send", &leader, "USR1", "--as", "pid=5"])?.expect(OK)?;
    run(&["send", &second, "USR1", "--as", "pid=6"])?.expect(OK)?;
    let said = run(&["send", &leader, "USR1", "--as", "pid=7"])?.expect(NO)?;
    said.error(&["SIGUSR1 is pending already", "nothing was queued"])?;
    // What sends nothing for nobody: the pid of this program as the other sees it.
    run(&["send", &leader, "USR2"])?.expect(OK)?;
    victim.finish(CHECK)?;

    let value = |value| {
        siginfo(
            34,
            0,
            -1,
            Fields::Value {
                pid: 1,
                uid: 0,
                value,
            },
        )
    };
    let by = |pid, code| match code {
        0 => siginfo(10, 0, 0, Fields::Kill { pid, uid: 0 }),
        _ => siginfo(
            10,
            0,
            code,
            Fields::Value {
                pid,
                uid: 0,
                value: 0,
            },
        ),
    };
    let fault = siginfo(
        11,
        0,
        1,
        Fields::Fault {
            addr: 7,
            detail: criu_signals::images::FaultDetail::None,
        },
    );
    let found = got(dir);
    let of = |thread: i32| -> Vec<Vec<u8>> {
        let of = found.iter().filter(|(at, _)| *at == thread);
        of.map(|(_, info)| info.clone()).collect()
    };
    // Faults first, then by number (next_signal).
    ensure!(
        of(1) == [fault, by(6, -6), value(2), value(4)],
        "{:02x?}",
        of(1)
    );
    let shared = of(0);
    ensure!(shared.len() == 4, "{shared:02x?}");
    ensure!(
        shared[0] == by(5, 0) && shared[2..] == [value(1), value(3)],
        "{shared:02x?}"
    );
    let sender = i32::from_le_bytes(shared[1][16..20].try_into()?);
    ensure!(
        shared[1][0] == 12 && sender > victim_pid(&leader)?,
        "by whom: {sender}"
    );
    Ok(())
}

fn victim_pid(text: &str) -> Result<Pid> {
    Ok(text.parse()?)
}

/// A stopped process stays stopped, whatever it is sent but SIGCONT.
fn send_to_stopped(dir: &RunDir) -> Result<()> {
    let victim = start("receiver", Some("handler"), dir)?;
    let pid = victim.pid();
    let raw = nix::unistd::Pid::from_raw(pid);
    kill(raw, Signal::SIGSTOP)?;
    victim.wait_stopped()?;
    for signal in ["USR1", "RTMIN+1", "TSTP"] {
        run(&["send", &pid.to_string(), signal, "--as", "pid=1"])?.expect(OK)?;
        std::thread::sleep(Duration::from_millis(20));
        victim
            .wait_stopped()
            .with_context(|| format!("{signal} has let it go"))?;
    }
    ensure!(got(dir).is_empty(), "it is stopped: {:?}", got(dir));
    run(&["send", &pid.to_string(), "CONT", "--as", "pid=1"])?.expect(OK)?;
    // SIGCONT takes the SIGTSTP away (prepare_signal).
    let numbers = || -> Vec<u8> { got(dir).iter().map(|(_, info)| info[0]).collect() };
    wait::until("three handlers", PATIENCE, || {
        Ok((numbers().len() == 3).then_some(()))
    })?;
    ensure!(numbers() == [10, 18, 35], "{:?}", numbers());
    victim.finish(CHECK)
}

/// No room for a siginfo: what the kernel does then depends on signal and code, and is said.
fn send_beyond_limit(dir: &RunDir) -> Result<()> {
    let victim = start("receiver", None, dir)?;
    let pid = victim.pid().to_string();
    let limit = Command::new("prlimit")
        .args(["--pid", &pid, "--sigpending=0"])
        .status()?;
    ensure!(limit.success(), "prlimit");
    run(&["send", &pid, "RTMIN", "--value", "1"])?
        .expect(FAILED)?
        .error(&["cannot send to pid", "rt_sigqueueinfo(SIGRTMIN)", "EAGAIN"])?;
    run(&["send", &pid, "USR1", "--value", "1"])?
        .expect(NO)?
        .error(&["SIGUSR1", "RLIMIT_SIGPENDING left no room"])?;
    // From the kernel, or from kill(2), a legacy signal overrides the limit.
    run(&["send", &pid, "USR2", "--as", "pid=3,uid=4"])?.expect(OK)?;
    let said = run(&["show", &pid])?.expect(OK)?;
    said.line(&["SIGUSR1: pending without siginfo"])?;
    victim.finish(CHECK)
}

fn send_refused(dir: &RunDir) -> Result<()> {
    let victim = start("receiver", None, dir)?;
    let pid = victim.pid().to_string();
    for signal in ["KILL", "STOP"] {
        run(&["send", &pid, signal])?
            .expect(FAILED)?
            .error(&[&format!("SIG{signal} cannot be blocked"), "kill(1)"])?;
    }
    let other = std::process::id().to_string();
    run(&["send", &format!("{pid}/{other}"), "USR1"])?
        .expect(FAILED)?
        .error(&[&format!("process {pid} has no thread {other}")])?;
    for (args, why) in [
        (["send", &pid, "NONE"], "no signal is named"),
        (["send", "x", "USR1"], "is not a pid"),
    ] {
        let said = run(&args)?;
        ensure!(said.code == FAILED && said.err.contains(why), "{said:?}");
    }
    run(&["send", &pid, "USR1", "--as", "fd=3"])?
        .expect(FAILED)?
        .error(&["has no field fd"])?;
    ensure!(procfs::state(victim.pid()).is_some(), "it lives");
    victim.finish(CHECK)?;
    ensure!(got(dir).is_empty(), "{:?}", got(dir));
    Ok(())
}

/// A sender in another namespace has no pid there.
fn send_into_namespace(dir: &RunDir) -> Result<()> {
    let victim = in_namespace(dir)?;
    let pid = victim.pid();
    run(&["send", &pid.to_string(), "USR2"])?.expect(OK)?;
    let said = run(&["show", &pid.to_string()])?.expect(OK)?;
    said.line(&["SIGUSR2 SI_USER pid 0 uid 0"])?;
    victim.end();
    Ok(())
}

fn wrong_pid(dir: &RunDir) -> Result<()> {
    run(&["show", "999999"])?
        .expect(FAILED)?
        .error(&["999999: no such process: there is no process 999999 in /proc"])?;
    // One that can be shown is shown all the same.
    let victim = start("locked", None, dir)?;
    let said = run(&["show", "999999", &victim.pid().to_string()])?.expect(FAILED)?;
    said.line(&["(locked), running"])?;
    victim.finish(CHECK)
}

fn zombie(_: &RunDir) -> Result<()> {
    let mut child = Command::new("true").spawn()?;
    let pid = child.id();
    procfs::comes_to(pid.try_into()?, 'Z')?;
    let said = run(&["show", &pid.to_string()])?.expect(FAILED)?;
    said.error(&[&format!("pid {pid}"), "the task is gone"])
        .or_else(|_| said.error(&[&format!("pid {pid}"), "zombie"]))?;
    child.wait()?;
    Ok(())
}

/// Somebody traces it: he keeps it.
fn traced(dir: &RunDir) -> Result<()> {
    let victim = start("locked", None, dir)?;
    let pid = victim.pid();
    let mut tracer = Command::new("strace")
        .args(["-p", &pid.to_string(), "-o", "/dev/null"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .context("strace")?;
    wait::until("strace to attach", PATIENCE, || {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        Ok(status
            .lines()
            .any(|line| line == format!("TracerPid:\t{}", tracer.id()))
            .then_some(()))
    })?;
    let said = run(&["show", "--stop", &pid.to_string()])?.expect(FAILED)?;
    said.error(&[
        &format!("pid {pid}"),
        &format!("already traced by {} (strace)", tracer.id()),
        "EPERM",
    ])?;
    tracer.kill()?;
    tracer.wait()?;
    victim.finish(CHECK)
}

fn wrong_image(dir: &RunDir) -> Result<()> {
    let garbage = dir.file("garbage.img");
    fs::write(&garbage, b"this is no image at all")?;
    let garbage = text(&garbage);
    let empty = dir.file("empty");
    fs::create_dir(&empty)?;
    let empty = text(&empty);
    const NEITHER: &str = "garbage.img: is neither an image, nor an archive";
    for (args, says) in [
        (["show", &garbage].as_slice(), NEITHER),
        (
            &["decode", &garbage],
            "garbage.img: not an image of this kind",
        ),
        (&["diff", &garbage, &garbage], NEITHER),
    ] {
        run(args)?.expect(FAILED)?.error(&[says])?;
    }
    let nothing = dir.file("nothing.img");
    fs::write(&nothing, "")?;
    run(&["show", &text(&nothing)])?
        .expect(FAILED)?
        .error(&["nothing.img: the file is empty"])?;
    let unpacked = dir.file("unpacked");
    fs::create_dir_all(unpacked.join("checkpoint"))?;
    run(&["show", &text(&unpacked)])?
        .expect(FAILED)?
        .error(&["name its folder", "unpacked/checkpoint"])?;
    run(&["show", &empty])?
        .expect(FAILED)?
        .error(&["contains neither a signals-PID.img nor"])?;
    run(&["show", &format!("criu:{empty}")])?
        .expect(FAILED)?
        .error(&["pstree.img"])?;
    run(&["show", "/nowhere"])?
        .expect(FAILED)?
        .error(&["/nowhere"])?;
    run(&["decode", "/dev/null"])?
        .expect(FAILED)?
        .error(&["/dev/null is not a regular file"])?;
    let json = dir.file("bad.json");
    fs::write(&json, "{\"header\": {\"format_version\": 99}}")?;
    run(&["encode", &text(&json), "-o", "/nowhere/x"])?
        .expect(FAILED)?
        .error(&["version 99"])?;

    // A pipe that nobody reads any more is the end of the work, and no failure.
    let victim = start("deep_queue", Some("3000"), dir)?;
    let line = format!(
        "{} show --all {} | head -1",
        config::command()?.display(),
        victim.pid()
    );
    let said = said(Command::new("bash").args(["-o", "pipefail", "-c", &line]))?;
    ensure!(said.code == 0 && said.err.is_empty(), "{said:?}");
    victim.finish(CHECK)
}

/// Somebody without any right: the command copied to where he can run it.
fn nobody(dir: &RunDir, args: &[&str]) -> Result<Said> {
    let program = nobody_s(&config::command()?, "command")?;
    let mut command = Command::new(&program);
    command
        .args(args)
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .env_remove("NO_COLOR");
    let said = said(&mut command);
    fs::remove_file(program)?;
    let _ = dir;
    said
}

/// A copy that nobody can run, in the namespace's own /run.
fn nobody_s(program: &Path, name: &str) -> Result<PathBuf> {
    let copy = Path::new("/run").join(name);
    fs::copy(program, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions("/run", fs::Permissions::from_mode(0o755))?;
    Ok(copy)
}

/// A victim of nobody's, in a folder of his.
fn nobody_s_victim(arg: &str) -> Result<(Pid, RunDir, std::process::Child)> {
    let program = nobody_s(&config::victim("receiver", false), "receiver")?;
    let dir = RunDir::create(Path::new("/run/nobody"))?;
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY))?;
    let child = Command::new(&program)
        .arg(dir.path())
        .arg(arg)
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .spawn()?;
    wait::until("the victim", PATIENCE, || {
        Ok(dir.file("ready").exists().then_some(()))
    })?;
    Ok((child.id().try_into()?, dir, child))
}

fn ended_well(dir: &RunDir, mut child: std::process::Child) -> Result<()> {
    fs::write(dir.file("go"), "")?;
    let ended = wait::until("the victim to end", CHECK, || Ok(child.try_wait()?))?;
    ensure!(
        ended.success() && dir.read("out") == "PASS\n",
        "{ended}: {}",
        dir.read("out")
    );
    Ok(())
}

/// Without a single capability, a process of one's own uid.
fn permission_own(dir: &RunDir) -> Result<()> {
    let (pid, run_dir, child) = nobody_s_victim("handler")?;
    let pid = pid.to_string();
    let said = nobody(dir, &["show", &pid])?.expect(OK)?;
    said.line(&[&format!("process {pid} (receiver), running")])?;
    said.line(&["waits in", "pause"])?;
    nobody(dir, &["send", &pid, "RTMIN", "--value", "3"])?.expect(OK)?;
    wait::until("the handler", PATIENCE, || {
        Ok((!got(&run_dir).is_empty()).then_some(()))
    })?;
    let uid = u32::from_le_bytes(got(&run_dir)[0].1[20..24].try_into()?);
    ensure!(uid == NOBODY, "sent by uid {uid}");
    let said = nobody(dir, &["check"])?.expect(NO)?;
    said.line(&["ok", "capture"])?;
    said.line(&["limited", "CAP_SYS_PTRACE", "not held"])?;
    said.line(&["seccomp filter"])?;
    ended_well(&run_dir, child)
}

fn permission_others(dir: &RunDir) -> Result<()> {
    let victim = start("locked", None, dir)?;
    let pid = victim.pid();
    nobody(dir, &["show", &pid.to_string()])?
        .expect(FAILED)?
        .error(&[
            &format!("cannot stop pid {pid} tid {pid}"),
            "belongs to uid 0, the command to uid 65534",
            "CAP_SYS_PTRACE",
            "EPERM",
        ])?;
    nobody(dir, &["send", &pid.to_string(), "USR1"])?
        .expect(FAILED)?
        .error(&["EPERM"])?;
    victim.finish(CHECK)
}

fn permission_undumpable(dir: &RunDir) -> Result<()> {
    // A program that its user may execute and not read is not dumpable (would_dump, fs/exec.c).
    let program = Path::new("/run/unreadable");
    fs::copy("/bin/sleep", program)?;
    fs::set_permissions(program, fs::Permissions::from_mode(0o711))?;
    fs::set_permissions("/run", fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new(program);
    let (_sleeper, pid) = Sleeper::started(command.arg("1000").uid(NOBODY).gid(NOBODY))?;
    nobody(dir, &["show", &pid.to_string()])?
        .expect(FAILED)?
        .error(&["not dumpable", "CAP_SYS_PTRACE", "EPERM"])?;
    // The reason is given once for a process, however many of its files are asked for.
    let files = ["blocked", "action", "pending"].map(|file| format!("{pid}/{file}"));
    let said = nobody(dir, &["cat", &files[0], &files[1], &files[2]])?.expect(FAILED)?;
    ensure!(said.err.matches("EPERM").count() == 1, "{said:?}");
    said.error(&[&format!("process {pid}"), "2 more files were not read"])
}

/// One possible waiter can't be looked at: it is named, and the other files are printed.
fn permission_waiters(dir: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start_as(NOBODY)?;
    let own = std::process::id();
    let said = nobody(
        dir,
        &["cat", &format!("{pid}/waiters"), &format!("{pid}/blocked")],
    )?;
    ensure!(said.code == FAILED, "{said:?}");
    said.error(&[&format!("pid {own}"), "a possible waiter"])?;
    ensure!(said.out == mask(&[]), "{said:?}");
    Ok(())
}

/// A reader waits for another one of this project's, and not for a stranger.
fn another_reader(_: &RunDir) -> Result<()> {
    let (_sleeper, pid) = Sleeper::start(&[])?;
    let (lib_pid, name) = (criu_signals::images::Pid::new(pid), pid.to_string());
    let lib_pid = lib_pid.context("a pid")?;
    let args = ["show", "--stop", "--timeout", "600", &name];
    nix::sys::prctl::set_name(c"signals-work")?;
    let held = StoppedProcess::<ByUs>::seize(lib_pid, PATIENCE)?;
    let mut reader = command(&args)?
        .stdout(std::process::Stdio::null())
        .spawn()?;
    // It waits for this one by now; without that it has failed.
    std::thread::sleep(Duration::from_millis(300));
    ensure!(reader.try_wait()?.is_none(), "it does not wait");
    held.release()?;
    ensure!(reader.wait()?.success());
    nix::sys::prctl::set_name(c"stranger")?;
    let held = StoppedProcess::<ByUs>::seize(lib_pid, PATIENCE)?;
    let said = run(&args)?.expect(FAILED)?;
    said.error(&["already traced by ", "(stranger)", "EPERM"])?;
    held.release()?;
    // Many at once, some of which end while others look who has the process.
    for _ in 0..8 {
        let readers = (0..8).map(|_| {
            Ok(command(&args)?
                .stdout(std::process::Stdio::null())
                .spawn()?)
        });
        for reader in readers.collect::<Result<Vec<_>>>()? {
            let output = reader.wait_with_output()?;
            ensure!(output.status.success(), "{output:?}");
        }
    }
    Ok(())
}

/// A process by its name, where no other has that.
fn by_name(dir: &RunDir) -> Result<()> {
    let program = dir.file("unique-name-of-15-and-more");
    fs::copy("/bin/sleep", &program)?;
    let begin = || Sleeper::started(Command::new(&program).arg("1000"));
    let (_first, pid) = begin()?;
    let name = "unique-name-of-15-and-more";
    let shown = run(&["show", name])?.expect(OK)?;
    shown.line(&[&format!("process {pid} ")])?;
    run(&[
        "cat",
        &format!("{name}/blocked"),
        &format!("{name}/{pid}/blocked"),
    ])?
    .expect(OK)?;
    run(&["set", name, "blocked", "+USR1"])?.expect(OK)?;
    run(&["send", name, "USR1"])?.expect(OK)?;
    let cleared = run(&["clear", &format!("{name}/{pid}"), "pending"])?.expect(OK)?;
    ensure!(cleared.out == "nothing to remove\n", "{cleared:?}");
    let cleared = run(&["clear", &format!("/proc/{pid}"), "pending"])?.expect(OK)?;
    cleared.line(&["shared queue: SIGUSR1"])?;
    let images = text(&dir.file("live"));
    run(&["dump", "-t", name, "-D", &images])?.expect(OK)?;
    for new in [name.to_owned(), format!("/proc/{pid}")] {
        let map = format!("{pid}:{new}");
        run(&["verify", "-D", &images, "--map", &map])?
            .expect(OK)?
            .line(&[&format!("pid {pid}"), "verdict=verified"])?;
    }
    for (wrong, why) in [
        (format!("{pid}"), "not OLD:NEW"),
        (format!("x:{pid}"), "is not the pid in the name of an image"),
        (format!("{pid}:no-such-name"), "no such process"),
    ] {
        let said = run(&["verify", "-D", &images, "--map", &wrong])?.expect(FAILED)?;
        ensure!(said.err.contains(why), "{said:?}");
    }
    let (_second, other) = begin()?;
    for args in [
        &["show", name][..],
        &["cat", &format!("{name}/blocked")],
        &["set", name, "blocked", "none"],
        &["clear", name, "pending"],
        &["send", name, "USR1"],
        &["dump", "-t", name, "-D", &images],
    ] {
        let said = run(args)?.expect(FAILED)?;
        let pids = [pid.min(other).to_string(), pid.max(other).to_string()];
        ensure!(
            has_in_order(
                &said.err,
                &["2 processes have the name", &pids[0], &pids[1]]
            ),
            "{said:?}"
        );
    }
    let said = run(&["set", "no-such-name", "blocked", "none"])?.expect(FAILED)?;
    ensure!(said.err.contains("no such process"), "{said:?}");
    let said = run(&["show", "no-such-name"])?.expect(FAILED)?;
    said.error(&[
        "no such process, and no such file: no process has the name no-such-name",
        "criu-signals ps",
    ])?;
    run(&["show", "./no-such-name"])?
        .expect(FAILED)?
        .error(&["./no-such-name", "No such file"])
}

/// Its filter kills it for what is done inside it: without CAP_SYS_ADMIN it is not touched, with it the filter sleeps.
fn permission_seccomp(dir: &RunDir) -> Result<()> {
    let (pid, run_dir, child) = nobody_s_victim("seccomp")?;
    let said = nobody(dir, &["show", &pid.to_string()])?.expect(FAILED)?;
    said.error(&["seccomp", "CAP_SYS_ADMIN"])?;
    run(&["show", &pid.to_string()])?
        .expect(OK)?
        .line(&["(receiver), running"])?;
    ended_well(&run_dir, child)
}

fn check_here(dir: &RunDir) -> Result<()> {
    let said = run(&["check"])?;
    said.line(&["ok", "capture"])?;
    // Parameters of the kernel are read by the kernel alone; the setting has no other file.
    let forbidden = fs::read_to_string("/proc/cmdline")?.contains("proc_mem.force_override=never");
    let writer = if forbidden {
        "PTRACE_POKEDATA"
    } else {
        "by /proc/PID/mem"
    };
    said.line(&["ok", "memory", writer])?;
    reading_without_a_stop(&said, dir)?;
    said.line(&["ok", "CAP_SYS_PTRACE"])?;
    let json = run(&["check", "--json"])?.json()?;
    let checks = json["checks"].as_array().context("checks")?;
    let bad = checks.iter().filter(|check| check["state"] != "ok").count();
    ensure!((said.code == OK) == (bad == 0), "{said:?}");
    ensure!(
        checks
            .iter()
            .all(|check| check["state"] == "ok" || check["lost"].is_string())
    );
    Ok(())
}

/// What is said of the reader by BPF is so: a process that has a POSIX timer is read by it, or the line says that it is not.
fn reading_without_a_stop(said: &Said, dir: &RunDir) -> Result<()> {
    let line = said.out.lines().find(|line| line.contains(" no-stop "));
    let line = line.with_context(|| format!("{said:?}"))?.trim_start();
    let victim = start("posix_timer", None, dir)?;
    let read = run(&["show", "--no-stop", &victim.pid().to_string()])?;
    ensure!(
        line.starts_with("ok ") == (read.code == OK),
        "{line:?}, but {read:?}"
    );
    victim.finish(CHECK)
}

/// A criu that is found, and the plugin where that one looks for it: this version's, another one's, none.
fn check_found(dir: &RunDir) -> Result<()> {
    let bin = dir.file("bin");
    fs::create_dir(&bin)?;
    let plugins = dir.file("plugins");
    fs::create_dir(&plugins)?;
    // A criu is what says so: the folder that is built into the real one belongs to the machine.
    let criu = format!(
        "#!/bin/sh\ncase $1 in --version) echo 'Version: 4.1.1';; *) echo '  -L|--libdir  path to a plugin directory \
         (by default {}/)';; esac\n",
        plugins.display()
    );
    fs::write(bin.join("criu"), criu)?;
    fs::set_permissions(bin.join("criu"), fs::Permissions::from_mode(0o755))?;
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let check = || {
        said(
            command(&["check"])?
                .env("PATH", &path)
                .env_remove("CRIU_LIBS_DIR"),
        )
    };
    check()?.line(&["ok", "criu", "4.1.1 at", "bin/criu"])?;
    check()?.line(&["ok", "plugin-folder", &text(&plugins), "built-in default"])?;
    check()?.line(&["missing", "plugin", "signals_plugin.so is not there"])?;
    // The one that an engine starts, which no PATH has.
    let named = run(&["check", "--criu", &text(&bin.join("criu"))])?;
    named.line(&["ok", "criu", "4.1.1 at", "bin/criu"])?;
    named.line(&["ok", "plugin-folder", &text(&plugins)])?;
    let named = run(&["check", "--criu", &text(&bin.join("none"))])?;
    named.line(&["unknown", "criu", "bin/none"])?;
    let plugin = plugins.join(config::PLUGIN_FILE);
    fs::write(&plugin, "x")?;
    check()?.line(&["limited", "plugin", "does not say its version"])?;
    fs::copy(config::plugin_dir()?.join(config::PLUGIN_FILE), &plugin)?;
    check()?.line(&["ok", "plugin", env!("CARGO_PKG_VERSION"), &text(&plugin)])?;
    let elsewhere = dir.no_plugins();
    let said = self::said(
        command(&["check"])?
            .env("PATH", &path)
            .env("CRIU_LIBS_DIR", &elsewhere),
    )?;
    said.line(&["ok", "plugin-folder", &text(&elsewhere), "CRIU_LIBS_DIR"])?;
    said.line(&["missing", "plugin"])?;
    let bytes = fs::read(&plugin)?;
    let (mark, other) = (
        b"this is the plugin of criu-signals 0.",
        b"this is the plugin of criu-signals 9.",
    );
    let at = bytes
        .windows(mark.len())
        .position(|window| window == mark)
        .context("the mark")?;
    let mut changed = bytes;
    changed[at..at + other.len()].copy_from_slice(other);
    fs::write(&plugin, changed)?;
    check()?.line(&["limited", "plugin", "9.", "and this is"])?;
    Ok(())
}

fn generate_man(dir: &RunDir) -> Result<()> {
    let man = dir.file("man");
    let said = run(&["generate", "man", &text(&man)])?.expect(OK)?;
    let help = run(&["--help"])?.expect(OK)?;
    let commands = listed(&help.out);
    ensure!(commands.len() >= 6, "{commands:?}");
    ensure!(
        said.out.lines().count() == commands.len() + 1,
        "a page for each: {}",
        said.out
    );
    for name in std::iter::once("criu-signals".to_owned()).chain(
        commands
            .iter()
            .map(|command| format!("criu-signals-{command}")),
    ) {
        let page = man.join(format!("{name}.1"));
        // groff warns of whatever is wrong in its input; mandoc(1) is not everywhere.
        let groff = self::said(
            Command::new("groff")
                .args(["-man", "-Tutf8", "-ww", "-z"])
                .arg(&page),
        )?;
        ensure!(groff.code == 0 && groff.err.is_empty(), "{name}: {groff:?}");
        let source = fs::read_to_string(&page)?;
        for section in [
            ".SH NAME",
            ".SH SYNOPSIS",
            ".SH EXAMPLES",
            ".SH \"EXIT STATUS\"",
            ".SH \"SEE ALSO\"",
        ] {
            ensure!(source.contains(section), "{name} has no {section}");
        }
    }
    Ok(())
}

/// The commands in the help's list, without `help` itself.
fn listed(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

fn generate_completions(dir: &RunDir) -> Result<()> {
    let folder = dir.file("completions");
    run(&["generate", "completions", &text(&folder)])?.expect(OK)?;
    let bash = folder.join("criu-signals.bash");
    for name in ["_criu-signals", "criu-signals.fish"] {
        ensure!(
            fs::read_to_string(folder.join(name))?.contains("show"),
            "{name}"
        );
    }
    // bash itself is asked what it would complete.
    let script = format!(
        "source {}; f=$(complete -p criu-signals); f=${{f#*-F }}; COMP_WORDS=(criu-signals sho); COMP_CWORD=1; \
         ${{f%% *}} criu-signals sho criu-signals; echo \"${{COMPREPLY[@]}}\"",
        bash.display()
    );
    let said = said(Command::new("bash").args(["-c", &script]))?;
    ensure!(said.out.trim() == "show", "{said:?}");
    Ok(())
}

fn help(_: &RunDir) -> Result<()> {
    let help = run(&["--help"])?.expect(OK)?;
    for name in listed(&help.out) {
        let said = run(&[&name, "--help"])?.expect(OK)?;
        ensure!(
            said.out.contains("\nExamples:\n") && said.out.contains("\nExit codes:\n"),
            "{name}: {}",
            said.out
        );
    }
    // --timeout is offered where a process is waited for, and nowhere else.
    for (name, has_it) in [
        ("show", true),
        ("decode", false),
        ("encode", false),
        ("generate", false),
    ] {
        let said = run(&[name, "--help"])?.expect(OK)?;
        ensure!(
            said.out.contains("--timeout") == has_it,
            "{name}: {}",
            said.out
        );
    }
    let said = run(&["decode", "--timeout", "1", "x.img"])?.expect(FAILED)?;
    ensure!(said.err.contains("leave --timeout out"), "{said:?}");
    let said = run(&["dump", "-D", "x"])?.expect(FAILED)?;
    let usage = "--images-dir <FOLDER> <--pid <PID>|--cgroup <PATH>>";
    ensure!(said.err.contains(usage), "{said:?}");
    let wrong = run(&["shwo"])?;
    ensure!(
        wrong.code == FAILED && wrong.err.contains("shwo"),
        "{wrong:?}"
    );
    Ok(())
}
