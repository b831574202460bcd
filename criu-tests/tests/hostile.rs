//! Attacks by image folders, settings and clients on a machine on which root runs criu.
//!
//! Each test is an attack of SECURITY.md. As in the scenarios, each is this program once more as pid 1 of a namespace of
//! its own.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use criu_signals::image_folder::corrections;
use criu_signals::images::{Fields, Image, ImageError, Rlimit, SigNo, Siginfo, image};
use criu_tests::cases::{
    self, CHECK, Test, dumped, expect_error, expect_verdict, refused, restored, start, test,
    with_plugin,
};
use criu_tests::config;
use criu_tests::criu::{Criu, Step};
use criu_tests::limited::{Limited, MEMORY, PIDS};
use criu_tests::plugin::{self, Verdict};
use criu_tests::procfs::{self, Pid};
use criu_tests::rundir::RunDir;
use criu_tests::six::Sleeper;
use criu_tests::skip::Need;
use criu_tests::victim::{Victim, reap_all};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

const POLICIES: [&str; 3] = ["repair", "strict", "report"];
const POLICY: &str = "CRIU_SIGNALS_POLICY";
const REPORT: &str = "CRIU_SIGNALS_REPORT";
const CONFIG: &str = "CRIU_SIGNALS_CONFIG";
const MAX_SIGINFOS: &str = "CRIU_SIGNALS_MAX_SIGINFOS";
const NOBODY: u32 = 65534;
/// For dumps under one limit after the other.
const LONG: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    cases::main("hostile", tests)
}

fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for policy in POLICIES {
        tests.push(test(format!("images.millions.{policy}"), move |dir| {
            millions(policy, dir)
        }));
    }
    tests.extend([
        test("images.sum-of-folder", sum_of_folder),
        test("images.beyond-their-own-limit", beyond_their_limit),
        test("images.more-than-memory", more_than_memory),
        test("images.more-than-memory.decode", decode_without_memory),
        test("images.more-than-memory.dump", dump_without_memory),
        test("core.link-or-pipe", core_is_link_or_pipe),
        test("report.link-in-folder.dump", |dir| link_in_folder("", dir)),
        test("report.link-in-folder.strict", |dir| {
            link_in_folder("strict", dir)
        }),
        test("report.link-as-name", link_as_name),
        test("settings.of-others", settings_of_others),
        test("processes.no-more", no_more_processes),
        test("processes.no-more.dump", dump_without_processes).needs(&[Need::PidsCgroup]),
        test("images.more-than-memory.cgroup", dump_in_memory_cgroup)
            .needs(&[Need::MemoryCgroup])
            .may_take(LONG),
        test("names.on-a-terminal", names_on_a_terminal),
        test("names.in-the-log", names_in_the_log),
    ]);
    tests
}

// ---- images that hold too much ---------------------------------------------------------------------------------------

/// More than the processes of any user can have here.
const MILLIONS: usize = 1_000_000;

/// An image that says so many siginfos of each process, and that it may have them.
fn fill(pid: Pid, siginfos: usize, dir: &RunDir) -> Result<()> {
    let path = dir.images().join(image::file_name(pid));
    let mut image = image::open(&path)?;
    fill_image(&mut image, siginfos, u64::MAX);
    let mut bytes = Vec::new();
    image::write(&mut bytes, &image)?;
    Ok(fs::write(path, bytes)?)
}

fn fill_image(image: &mut Image, siginfos: usize, limit: u64) {
    let fields = Fields::Value {
        pid: 1,
        uid: 0,
        value: 1,
    };
    let info = Siginfo::from_fields(SigNo::MAX.get(), 0, -1, &fields);
    let process = &mut image.process;
    process.rlimit_sigpending = Rlimit {
        soft: limit,
        hard: limit,
    };
    process.shared.bits.insert(SigNo::MAX);
    process.shared.queue = vec![info; siginfos];
}

/// What CRIU says when it makes the first process.
const FORKING: &str = "Forking task with";

fn nothing_restored(step: &Step) -> Result<()> {
    ensure!(!step.log.contains(FORKING), "criu has begun to restore");
    ensure!(step.signal.is_none(), "criu was ended by {:?}", step.signal);
    Ok(())
}

/// Whatever the policy, and as long as nothing has been made that would have to wait for it.
fn millions(policy: &'static str, dir: &RunDir) -> Result<()> {
    let pid = dumped("demo", dir)?;
    fill(pid, MILLIONS, dir)?;
    let restore = refused(&with_plugin()?.env(POLICY, policy), dir)?;
    let name = image::file_name(pid);
    expect_error(&restore, &[&name, "more siginfos and timers", MAX_SIGINFOS])?;
    expect_error(&restore, &["Nothing is restored"])?;
    nothing_restored(&restore)
}

/// No image has too many, all together have.
fn sum_of_folder(dir: &RunDir) -> Result<()> {
    let victim = start("process_tree", None, dir)?;
    let processes = procfs::tree(victim.pid())?;
    ensure!(processes.len() > 1, "only one process");
    let dump = with_plugin()?.dump(victim.pid(), &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    reap_all()?;
    let held = |pid: &Pid| -> Result<usize> {
        let process = image::open(&dir.images().join(image::file_name(*pid)))?.process;
        Ok(process.queues().map(|pending| pending.queue.len()).sum())
    };
    let counts = processes.iter().map(held).collect::<Result<Vec<_>>>()?;
    let (all, most) = (
        counts.iter().sum::<usize>(),
        counts.iter().max().copied().unwrap_or(0),
    );
    ensure!(most + 1 < all, "{counts:?}");

    let with =
        |limit: usize| Ok::<_, anyhow::Error>(with_plugin()?.env(MAX_SIGINFOS, limit.to_string()));
    let restore = refused(&with(all - 1)?, dir)?;
    expect_error(
        &restore,
        &["more siginfos and timers", &(all - 1).to_string()],
    )?;
    nothing_restored(&restore)?;
    let (_, found) = restored(&with(all)?, dir)?;
    found
}

/// A process of which the image itself says that it can't have had them.
fn beyond_their_limit(dir: &RunDir) -> Result<()> {
    const MORE: usize = 70_000;
    const LIMIT: u64 = 70_100;
    let pid = dumped("demo", dir)?;
    let path = dir.images().join(image::file_name(pid));
    let mut image = image::open(&path)?;
    fill_image(&mut image, MORE, 100);
    image::write(Vec::new(), &image)
        .err()
        .context("such an image can be written")?;
    // So a limit of the same length is written, and changed in the file; the checksum is in its last 4 bytes.
    fill_image(&mut image, MORE, LIMIT);
    let mut bytes = Vec::new();
    image::write(&mut bytes, &image)?;
    let low = |n: u64| n.to_le_bytes()[0];
    let varint = |n: u64| [low(n) | 0x80, low(n >> 7) | 0x80, low(n >> 14)];
    let (from, to) = (varint(LIMIT), varint(65_000));
    let mut changed = 0;
    for at in 0..bytes.len().min(4096) - from.len() {
        if bytes[at..].starts_with(&from) {
            bytes[at..at + to.len()].copy_from_slice(&to);
            changed += 1;
        }
    }
    ensure!(changed == 2, "the limit was found {changed} times");
    fs::write(&path, &bytes)?;
    match image::open(&path) {
        Err(ImageError::Corrupt { field, reason, .. }) => ensure!(
            field == "queue" && reason.contains("can have had at most 65536"),
            "{field}: {reason}"
        ),
        other => anyhow::bail!("{:?}", other.map(|image| image.process.siginfos())),
    }
    let (restore, found) = restored(&with_plugin()?, dir)?;
    expect_verdict(&restore, Verdict::Failed)?;
    expect_error(&restore, &["can have had"])?;
    found
}

/// A program that may have no more memory than this, in KiB.
fn with_memory(program: &Path, kib: usize, dir: &RunDir) -> Result<PathBuf> {
    let path = dir.file("with-memory");
    let script = format!(
        "#!/bin/sh\nulimit -v {kib}\nexec '{}' \"$@\"\n",
        program.display()
    );
    fs::write(&path, script)?;
    fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Without memory Rust's own answer is to abort: in criu, with the tasks stopped.
fn more_than_memory(dir: &RunDir) -> Result<()> {
    const KIB: usize = 250_000;
    let pid = dumped("demo", dir)?;
    let limited = with_memory(&config::criu()?, KIB, dir)?;
    let criu = Criu::new(&limited, &config::plugin_dir()?);
    // As many as can be read, and not worked on; and more than can be read.
    for siginfos in [400_000, 2_000_000] {
        fill(pid, siginfos, dir)?;
        let restore = refused(&criu.clone().env(MAX_SIGINFOS, "7000000"), dir)?;
        expect_error(&restore, &["memory", "siginfos"])?;
        nothing_restored(&restore)?;
    }
    Ok(())
}

fn decode_without_memory(dir: &RunDir) -> Result<()> {
    let pid = dumped("demo", dir)?;
    fill(pid, 2_000_000, dir)?;
    let limited = with_memory(&config::command()?, 200_000, dir)?;
    for (command, mut args) in [
        ("decode", vec![]),
        ("show", vec![]),
        ("verify", vec!["-D", "--max-siginfos=7000000"]),
    ] {
        let path = dir.images().join(image::file_name(pid));
        let images = dir.images();
        let source = if command == "verify" { &images } else { &path };
        let at = args.len().min(1);
        args.insert(at, source.to_str().context("a path")?);
        let out = Command::new(&limited).arg(command).args(&args).output()?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(
            out.status.signal().is_none() && out.status.code() == Some(2),
            "{command}: {}: {said}",
            out.status
        );
        ensure!(said.contains("out of memory for the image"), "{said}");
    }
    Ok(())
}

/// The tracee has the say how much is captured of it.
fn dump_without_memory(dir: &RunDir) -> Result<()> {
    const KIB: usize = 50_000;
    let victim = start("deep_queue", Some("20000"), dir)?;
    let before = procfs::signal_lines(&[victim.pid()])?;
    let limited = with_memory(&config::command()?, KIB, dir)?;
    let out = Command::new(&limited)
        .args(["dump", "-D"])
        .arg(dir.images())
        .args(["-t", &victim.pid().to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.code() == Some(2), "{}: {said}", out.status);
    ensure!(
        said.contains("may need") && said.contains("RLIMIT_AS"),
        "{said}"
    );
    let after = procfs::signal_lines(&[victim.pid()])?;
    let difference = procfs::describe_difference(&before, &after);
    ensure!(difference.is_empty(), "{difference}");
    victim.finish(CHECK)
}

/// A memory cgroup has no error: it ends criu, wherever it asks for more. The guardian is in the same cgroup.
fn dump_in_memory_cgroup(dir: &RunDir) -> Result<()> {
    const STEP: usize = 512 << 10;
    let cgroup = Limited::new(&MEMORY, dir)?;
    let mut killed = 0;
    for limit in 4.. {
        ensure!(limit < 400, "no dump has memory enough");
        let run = RunDir::create(&dir.file("round"))?;
        let victim = start("deep_queue", Some("3000"), &run)?;
        cgroup.set(limit * STEP)?;
        let dump = cgroup.dump(&cgroup.criu(&config::plugin_dir()?), victim.pid(), &run)?;
        killed += u32::from(dump.signal.is_some());
        // Killed in its own code inside the task criu leaves a trap there.
        let lost_to_criu = dump.signal.is_some() && dump.log.contains("Parasite syscall_ip");
        let found = victim.finish(CHECK);
        if !lost_to_criu {
            found.with_context(|| format!("under {} KB", limit * STEP / 1024))?;
        }
        if dump.ok {
            break;
        }
    }
    ensure!(killed > 0, "it was never killed");
    Ok(())
}

// ---- folders that lead elsewhere -------------------------------------------------------------------------------------

/// CRIU's own image, which is edited at the end of a dump, in a folder that others may write.
fn core_is_link_or_pipe(dir: &RunDir) -> Result<()> {
    let pid = dumped("demo", dir)?;
    let core = dir.images().join(format!("core-{pid}.img"));
    let elsewhere = dir.file("elsewhere");
    fs::rename(&core, &elsewhere)?;
    let before = fs::read(&elsewhere)?;
    let limit = Rlimit { soft: 7, hard: 77 };
    let folder = File::open(dir.images())?;
    let lend = || corrections::lend_room(std::os::fd::AsFd::as_fd(&folder), pid, limit);
    let refused = || -> Result<()> {
        let said = lend().err().context("it was replaced")?.to_string();
        ensure!(said.contains("is not a regular file"), "{said}");
        Ok(())
    };
    symlink(&elsewhere, &core)?;
    refused()?;
    fs::remove_file(&core)?;
    mkfifo(&core, Mode::S_IRWXU)?;
    refused()?;
    fs::remove_file(&core)?;
    fs::copy(&elsewhere, &core)?;
    // The name of the new file is taken: by a link to what root must not write.
    let beside = dir.images().join(format!("core-{pid}.img.signals"));
    symlink(&elsewhere, &beside)?;
    lend().err().context("a file that is there was replaced")?;
    ensure!(
        fs::read(&elsewhere)? == before,
        "the file outside was written"
    );
    fs::remove_file(&beside).context("the link is another's, and gone")?;
    lend()?;
    ensure!(fs::read(&core)? != before, "nothing was changed");
    Ok(())
}

/// `report = reports/%s.json` in the settings, and an image folder whose maker has put a link there.
fn link_in_folder(policy: &'static str, dir: &RunDir) -> Result<()> {
    let outside = dir.file("outside");
    fs::create_dir(&outside)?;
    let precious = outside.join("dump.json");
    fs::write(&precious, "precious")?;
    symlink(&outside, dir.images().join("reports"))?;
    let criu = with_plugin()?
        .env(POLICY, policy)
        .env(REPORT, "reports/%s.json");
    let victim = start("demo", None, dir)?;
    let dump = criu.dump(victim.pid(), &dir.images(), true)?;
    ensure!(dump.ok != (policy == "strict"), "criu dump: {}", dump.ok);
    expect_error(&dump, &["make report reports/dump.json", "ELOOP"])?;
    ensure!(
        fs::read(&precious)? == b"precious",
        "the file outside is another"
    );
    ensure!(
        fs::read_dir(&outside)?.count() == 1,
        "a file was made outside"
    );
    victim.finish(CHECK)
}

/// The report's own name is a link: the link is replaced, and not what it leads to.
fn link_as_name(dir: &RunDir) -> Result<()> {
    let precious = dir.file("precious");
    fs::write(&precious, "precious")?;
    let folder = dir.images().join("reports");
    fs::create_dir(&folder)?;
    symlink(&precious, folder.join("dump.json"))?;
    let victim = start("demo", None, dir)?;
    let criu = with_plugin()?.env(REPORT, "reports/%s.json");
    let dump = criu.dump(victim.pid(), &dir.images(), true)?;
    ensure!(dump.ok, "criu dump failed");
    ensure!(
        fs::read(&precious)? == b"precious",
        "the file outside is another"
    );
    let report = fs::symlink_metadata(folder.join("dump.json"))?;
    ensure!(report.is_file() && report.mode() & 0o7777 == 0o600);
    victim.finish(CHECK)
}

/// Whoever may write the settings tells root where to write: they are refused, and nothing is done.
fn settings_of_others(dir: &RunDir) -> Result<()> {
    let file = dir.file("settings");
    fs::write(&file, "policy = report\n")?;
    let with = || Ok::<_, anyhow::Error>(with_plugin()?.env(CONFIG, &file));
    let victim = start("demo", None, dir)?;
    let refused = |says: &str| -> Result<()> {
        let dump = with()?.dump(victim.pid(), &dir.images(), true)?;
        ensure!(!dump.ok, "criu dump has succeeded");
        expect_error(&dump, &["settings file", says])
    };
    for mode in [0o602, 0o620, 0o666] {
        fs::set_permissions(&file, Permissions::from_mode(mode))?;
        refused("chmod go-w")?;
    }
    fs::set_permissions(&file, Permissions::from_mode(0o644))?;
    std::os::unix::fs::chown(&file, Some(NOBODY), None)?;
    refused("it belongs to user 65534")?;
    fs::remove_file(&file)?;
    mkfifo(&file, Mode::S_IRUSR | Mode::S_IWUSR)?;
    refused("it is not a regular file")?;
    fs::remove_file(&file)?;
    fs::write(&file, "policy = report\n")?;
    let dump = with()?.dump(victim.pid(), &dir.images(), true)?;
    ensure!(dump.ok, "criu dump failed");
    victim.finish(CHECK)
}

// ---- a user who may have no more processes ---------------------------------------------------------------------------

/// RLIMIT_NPROC: the command works in another process, or not at all.
fn no_more_processes(_: &RunDir) -> Result<()> {
    /// Nobody else's.
    const USER: u32 = 54_321;
    fs::set_permissions("/run", Permissions::from_mode(0o755))?;
    fs::copy(config::command()?, "/run/criu-signals")?;
    let (_sleeper, pid) = Sleeper::start_as(USER)?;
    let before = procfs::signal_lines(&[pid])?;
    let show = |processes: u64| -> Result<(Option<i32>, String)> {
        // As the user it counts, and counts both.
        setrlimit(Resource::RLIMIT_NPROC, processes, 1000)?;
        let out = Command::new("/run/criu-signals")
            .args(["show", "--stop", &pid.to_string()])
            .uid(USER)
            .gid(USER)
            .current_dir("/")
            .output()?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        Ok((out.status.code(), said))
    };
    let (code, said) = show(2)?;
    ensure!(
        code == Some(2) && said.contains("start the worker process: EAGAIN"),
        "{code:?}: {said}"
    );
    let after = procfs::signal_lines(&[pid])?;
    let difference = procfs::describe_difference(&before, &after);
    ensure!(difference.is_empty(), "{difference}");
    ensure!(procfs::state(pid) == Some('S'));
    let (code, said) = show(3)?;
    ensure!(code == Some(0), "{code:?}: {said}");
    Ok(())
}

/// A pids cgroup, which root is bound by, leaves room for ever more of the processes that a dump takes.
fn dump_without_processes(dir: &RunDir) -> Result<()> {
    let cgroup = Limited::new(&PIDS, dir)?;
    let victim = start("private_fault", None, dir)?;
    let processes = procfs::tree(victim.pid())?;
    let before = procfs::signal_lines(&processes)?;
    let mut refused = 0;
    for limit in 1.. {
        ensure!(limit < 40, "no dump has processes enough");
        let run = RunDir::create(&dir.file("round"))?;
        cgroup.set(limit)?;
        let dump = cgroup.dump(&cgroup.criu(&config::plugin_dir()?), victim.pid(), &run)?;
        let after = procfs::signal_lines(&processes)?;
        let difference = procfs::describe_difference(&before, &after);
        ensure!(difference.is_empty(), "{limit} processes: {difference}");
        if dump.ok {
            break;
        }
        let says = |line: &str| line.contains("start the guardian") && line.contains("EAGAIN");
        refused += u32::from(plugin::lines(&dump.log).any(says));
    }
    ensure!(
        refused > 0,
        "the guardian was never the one that there was no room for"
    );
    victim.finish(CHECK)
}

// ---- names that a terminal acts upon ---------------------------------------------------------------------------------

/// Clears the screen, and begins a line. It is the whole of a `comm`.
const NAME: &str = "x\x1b[2J\nforged";
const HARMLESS: &str = r"x\u{1b}[2J\nforged";

/// The victim as a program of that name.
fn started_as(name: &str, dir: &RunDir) -> Result<Victim> {
    let program = dir.file(name);
    fs::copy(config::victim("demo", false), &program)?;
    Victim::start(&program, None, dir, false)
}

/// Nothing in it acts upon a terminal, or begins a line that somebody else has written.
fn expect_harmless(what: &str, said: &str) -> Result<()> {
    let acts = |c: char| c.is_control() && c != '\n';
    ensure!(
        !said.contains(acts) && !said.lines().any(|line| line.starts_with("forged")),
        "{what}: {said:?}"
    );
    Ok(())
}

/// What the command says of such a process, of its images, and of files of such a name.
fn names_on_a_terminal(dir: &RunDir) -> Result<()> {
    let victim = started_as(NAME, dir)?;
    let pid = victim.pid().to_string();
    let path = |name: &str| dir.file(name).display().to_string();
    // Folders and files of that name, images and others.
    let folder = path("folder\x1b[2J\nforged");
    let (bad, none) = (path("bad\x1b[2J\nforged.img"), path("none\x1b[2J\nforged"));
    fs::write(&bad, "no image")?;
    let place = format!("{pid}/blocked");
    let map = format!("{pid}:{pid}");
    let (_other, other) = Sleeper::start(&[])?;
    let to_other = format!("{pid}:{other}");
    let image = format!("{folder}/signals-{pid}.img");
    let mut quoted = 0;
    for args in [
        &["show", "--stop", &pid][..],
        &["dump", "-v", "-t", &pid, "-D", &folder],
        &["dump", "-v", "-t", &pid, "-D", &folder],
        &["show", &image],
        &["show", &folder, &none, &bad],
        &["verify", "-D", &folder],
        &["restore", "-D", &folder],
        &["restore", "-D", &folder, "--map", &map],
        // Another program: refused.
        &["restore", "-D", &folder, "--map", &to_other],
        &["restore", "-D", &none],
        &["diff", &pid, &folder],
        &["diff", &pid, &other.to_string()],
        &["decode", &bad],
        &["decode", &none],
        &["encode", &bad, "-o", &none],
        &["write", &place, &none],
        &["write", &place, &bad],
        &["dump", "--cgroup", &none, "-D", &folder],
        &["mount", &none],
        &["mount", &bad],
        &["plugin-dir", "--criu", &none],
    ] {
        let out = Command::new(config::command()?).args(args).output()?;
        for said in [&out.stdout, &out.stderr] {
            // What a script reads is the path as it is, and decode's JSON has its own way to escape.
            let said = std::str::from_utf8(said)?;
            expect_harmless(&format!("{args:?}"), said)?;
            quoted += said.matches(r"[2J\nforged").count();
        }
    }
    // It was there to be harmless.
    ensure!(quoted > 15, "quoted only {quoted} times");
    victim.finish(CHECK)
}

/// The plugin's lines in criu's log. criu's own have the name as it is.
fn names_in_the_log(dir: &RunDir) -> Result<()> {
    let victim = started_as(NAME, dir)?;
    let pid = victim.pid();
    let dump = with_plugin()?.dump(pid, &dir.images(), false)?;
    ensure!(dump.ok, "criu dump failed");
    reap_all()?;
    let (restore, found) = restored(&with_plugin()?, dir)?;
    found?;
    for (log, said) in [
        (&dump.log, format!("pid {pid} ({HARMLESS}): captured")),
        (&restore.log, format!("pid {pid}: verdict=verified")),
    ] {
        for line in plugin::lines(log) {
            expect_harmless("the log", line)?;
        }
        ensure!(
            plugin::lines(log).any(|line| line.contains(&said)),
            "no line says {said:?}"
        );
    }
    // And where the plugin quotes a path from its settings.
    let refused = with_plugin()?
        .env(CONFIG, dir.file("none\x1b[2J\nforged"))
        .dump(1, &dir.images(), true)?;
    for line in plugin::lines(&refused.log) {
        expect_harmless("the log", line)?;
    }
    expect_error(&refused, &["settings file", r"none\u{1b}[2J\nforged"])
}
