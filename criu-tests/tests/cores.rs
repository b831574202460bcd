//! `criu-signals show` and `diff` of core files that the kernel has written, and of files that are no whole core.
//!
//! As in the scenarios, each test is this program once more as pid 1 of a namespace of its own.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use anyhow::{Context as _, Result, ensure};
use criu_signals::images::{Pending, SigNo, image};
use criu_tests::cases::{self, Test, start, test, with_plugin};
use criu_tests::config;
use criu_tests::procfs::{self, Pid};
use criu_tests::rundir::RunDir;
use criu_tests::skip::Need;
use criu_tests::victim::Victim;
use criu_tests::wait::{self, PATIENCE};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

fn main() -> ExitCode {
    cases::main("cores", tests)
}

fn tests() -> Vec<Test> {
    let core = |name: &str, run: fn(&RunDir) -> Result<()>| test(name, run).needs(&[Need::Cores]);
    vec![
        core("fault", |dir| {
            written(dir, "segv", "SIGSEGV", "SEGV_MAPERR")
        }),
        core("abort", |dir| written(dir, "abort", "SIGABRT", "SI_TKILL")),
        core("sent", |dir| written(dir, "quit", "SIGQUIT", "SI_USER")),
        core("and-criu's-images", beside_criu),
        core("compressed", compressed),
        core("damaged", damaged),
        test("ia32-fault", |dir| {
            written_by_ia32(dir, "segv", "SIGSEGV", "SEGV_MAPERR addr 0x1230")
        })
        .needs(&[Need::Cores, Need::Ia32]),
        test("ia32-abort", |dir| {
            written_by_ia32(dir, "abort", "SIGABRT", "SI_TKILL")
        })
        .needs(&[Need::Cores, Need::Ia32]),
        test("ia32-sent", |dir| {
            written_by_ia32(dir, "quit", "SIGQUIT", "SI_USER")
        })
        .needs(&[Need::Cores, Need::Ia32]),
        test("ia32-damaged", damaged_ia32).needs(&[Need::Cores, Need::Ia32]),
        test("no-core", no_core),
    ]
}

fn run(args: &[&str]) -> Result<Output> {
    Ok(Command::new(config::command()?).args(args).output()?)
}

/// What it prints on standard output, if it ends with this code.
fn out(args: &[&str], code: i32) -> Result<String> {
    let output = run(args)?;
    ensure!(output.status.code() == Some(code), "{args:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// It fails, and says this.
fn refused(what: &Path, why: &str) -> Result<()> {
    let output = run(&["show", text(what)?])?;
    let error = String::from_utf8(output.stderr)?;
    let named = error.starts_with(&format!("criu-signals: {}: ", what.display()));
    ensure!(
        output.status.code() == Some(2) && output.stdout.is_empty() && named && error.contains(why),
        "{what:?}: {error:?} is not {why:?}"
    );
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path")
}

/// A program in a known state, an image of it, and its core.
struct Crash {
    pid: Pid,
    images: PathBuf,
    core: PathBuf,
}

fn crash(dir: &RunDir, way: &str) -> Result<Crash> {
    crash_of(dir, way, false)
}

/// `ia32`: of its 32-bit build.
fn crash_of(dir: &RunDir, way: &str, ia32: bool) -> Result<Crash> {
    fs::create_dir(dir.file("cores"))?;
    let program = config::victim("crashing", ia32);
    let victim = Victim::start(&program, Some(way), dir, false)?;
    let pid = victim.pid();
    let images = dir.file("live");
    out(&["dump", "-t", &pid.to_string(), "-D", text(&images)?], 0)?;
    if way == "quit" {
        kill(nix::unistd::Pid::from_raw(pid), Signal::SIGQUIT)?;
    } else {
        File::create(dir.file("go"))?;
    }
    let core = written_core(pid, dir)?;
    victim.end();
    Ok(Crash { pid, images, core })
}

/// The core, when the program has ended, until when it is being written.
fn written_core(pid: Pid, dir: &RunDir) -> Result<PathBuf> {
    wait::until("the program to end", PATIENCE, || {
        Ok((procfs::state(pid) == Some('Z')).then_some(()))
    })?;
    let mut written = fs::read_dir(dir.file("cores"))?;
    Ok(written.next().context("no core was written")??.path())
}

/// The core and the image of the process from before tell the same, as far as both tell.
fn written(dir: &RunDir, way: &str, signal: &str, code: &str) -> Result<()> {
    let Crash { pid, images, core } = crash(dir, way)?;
    let core = text(&core)?;
    let shown = out(&["show", core], 0)?;
    for part in [
        &format!("(crashing), core of {signal}\n"),
        &format!("{pid} in its own pid namespace"),
        code,
        "POSIX timers   not recorded",
        "shared         not recorded",
        "dispositions   not recorded",
        "altstack     not recorded",
        "in a handler not recorded",
        "private      SIGHUP,SIGRTMIN+1 (how many entries, and their siginfos, is not recorded)",
    ] {
        ensure!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    for empty in ["nothing pending", "all default", "none\n", "running"] {
        ensure!(!shown.contains(empty), "{empty:?} in\n{shown}");
    }
    let same = ["was written for", "dispositions", "shared queue"];
    compared(dir, pid, &images, core, &same)?;
    json(pid, core, signal)
}

/// The core of a 32-bit program has the signals 1 to 32 of masks and of pending signals, and the siginfo in another layout.
fn written_by_ia32(dir: &RunDir, way: &str, signal: &str, siginfo: &str) -> Result<()> {
    let Crash { pid, images, core } = crash_of(dir, way, true)?;
    let core = text(&core)?;
    let shown = out(&["show", core], 0)?;
    for part in [
        &format!("(crashing, 32-bit), core of {signal}\n"),
        siginfo,
        "33 to 64     not recorded",
        "private      SIGHUP (how many entries, and their siginfos, is not recorded)",
    ] {
        ensure!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    compared(dir, pid, &images, core, &["signals above 32"])?;
    json(pid, core, signal)?;
    let packed = format!("{core}.zst");
    let done = Command::new("zstd")
        .args(["-q", core, "-o", &packed])
        .status()?;
    ensure!(done.success(), "zstd");
    let plain = out(&["show", "--json", core], 0)?;
    ensure!(out(&["show", "--json", &packed], 0)? == plain);
    let json: Value = serde_json::from_str(&plain)?;
    let missing = json["not_recorded"].as_array().context("gaps")?;
    let high = missing.iter().any(|name| name == "signals_above_32");
    ensure!(high && json["process"]["compat"] == true, "{json}");
    Ok(())
}

/// The core and the image of the same process do not differ, and `diff` has these words for what is not compared.
fn compared(dir: &RunDir, pid: Pid, images: &Path, core: &str, words: &[&str]) -> Result<()> {
    let image = images.join(image::file_name(pid));
    let image = text(&image)?;
    for pair in [[image, core], [core, image], [core, core]] {
        let same = out(&["diff", pair[0], pair[1]], 0)?;
        for part in ["no differences"].iter().chain(words) {
            ensure!(same.contains(part), "no {part:?} in\n{same}");
        }
    }
    // What both tell is compared: with the mask of each thread changed, each differs, and with a pending bit.
    let other = dir.file("other");
    fs::create_dir(&other)?;
    let mut changed = image::open(Path::new(image))?;
    for thread in &mut changed.process.threads {
        thread.blocked = thread.blocked.with(SigNo::TERM);
    }
    changed.process.threads[1].pending = Pending::default();
    let other = other.join(image::file_name(pid));
    image::write(File::create(&other)?, &changed)?;
    let differs = out(&["diff", text(&other)?, core], 1)?;
    ensure!(differs.contains("5 differences"), "{differs}");
    Ok(())
}

fn json(pid: Pid, core: &str, signal: &str) -> Result<()> {
    let json: Value = serde_json::from_str(&out(&["show", "--json", core], 0)?)?;
    let missing = json["not_recorded"].as_array().context("gaps")?;
    for gap in [
        "dispositions",
        "shared_queue",
        "entries",
        "timers",
        "run_state",
        "in_handler",
    ] {
        ensure!(missing.iter().any(|name| name == gap), "{gap}: {json}");
    }
    let number = signal.parse::<Signal>()? as i32;
    ensure!(
        json["ended_by"] == number && json["ended_by_siginfo"]["signo"] == number,
        "{json}"
    );
    ensure!(json["process"]["ids"] == serde_json::json!([pid]), "{json}");
    ensure!(
        json["threads"]
            .as_array()
            .is_some_and(|threads| threads.len() == 4),
        "{json}"
    );
    Ok(())
}

/// CRIU's images have the entries and not all bits, the core has the bits alone.
fn beside_criu(dir: &RunDir) -> Result<()> {
    fs::create_dir(dir.file("cores"))?;
    let victim = start("crashing", Some("quit"), dir)?;
    let dump = with_plugin()?.dump(victim.pid(), &dir.images(), true)?;
    ensure!(dump.ok, "criu dump failed");
    kill(nix::unistd::Pid::from_raw(victim.pid()), Signal::SIGQUIT)?;
    let core = written_core(victim.pid(), dir)?;
    victim.end();
    let images = format!("criu:{}", text(&dir.images())?);
    let same = out(&["diff", &images, text(&core)?], 0)?;
    ensure!(same.contains("signals pending without siginfo"), "{same}");
    Ok(())
}

/// As systemd-coredump keeps cores.
fn compressed(dir: &RunDir) -> Result<()> {
    let Crash { core, .. } = crash(dir, "segv")?;
    let plain = out(&["show", "--json", text(&core)?], 0)?;
    for (tool, ending) in [("zstd -q", "zst"), ("lz4 -q", "lz4"), ("gzip -k", "gz")] {
        let packed = PathBuf::from(format!("{}.{ending}", text(&core)?));
        let done = Command::new("sh")
            .args([
                "-c",
                &format!("{tool} -c '{}' > '{}'", core.display(), packed.display()),
            ])
            .status()?;
        ensure!(done.success(), "{tool}");
        ensure!(
            out(&["show", "--json", text(&packed)?], 0)? == plain,
            "{tool}"
        );
        // Half of it, and nothing of it.
        let half = packed.with_extension("half");
        fs::write(&half, &fs::read(&packed)?[..64])?;
        let output = run(&["show", text(&half)?])?;
        ensure!(
            output.status.code() == Some(2) && output.stdout.is_empty(),
            "{output:?}"
        );
    }
    Ok(())
}

/// Where the notes of a core are: the place of their program header, their offset and their size.
fn notes(core: &[u8]) -> Result<(usize, usize, usize)> {
    let number = |at: usize| -> Result<usize> {
        let bytes = core.get(at..at + 8).context("a header")?;
        Ok(u64::from_le_bytes(bytes.try_into()?).try_into()?)
    };
    let first = number(32)?;
    for at in (first..core.len()).step_by(56) {
        if core[at..at + 4] == [4, 0, 0, 0] {
            return Ok((at, number(at + 8)?, number(at + 32)?));
        }
    }
    anyhow::bail!("no PT_NOTE")
}

/// Each of these is an error that says what is wrong, and takes no more memory than the file is long.
fn damaged(dir: &RunDir) -> Result<()> {
    let Crash { core, .. } = crash(dir, "segv")?;
    let whole = fs::read(&core)?;
    let (header, offset, size) = notes(&whole)?;
    let place = dir.file("damaged");
    for length in [
        10,
        63,
        64,
        header + 10,
        offset,
        offset + 13,
        offset + size - 1,
    ] {
        fs::write(&place, &whole[..length])?;
        refused(&place, "the core file is not complete")?;
    }
    let prstatus = offset + 20;
    let huge = u64::MAX.to_le_bytes();
    for (at, bytes, why) in [
        (offset + 4, &huge[..4], "its notes: "),
        (offset, &huge[..4], "its notes: "),
        (
            offset + 4,
            &[0x40, 0, 0, 0],
            "NT_PRSTATUS has 64 bytes, and 336 are right",
        ),
        (header + 32, &huge, "bytes of notes"),
        (
            header + 32,
            &[0, 0, 0, 15, 0, 0, 0, 0],
            "its notes end at byte",
        ),
        (header + 32, &[0; 8], "it has no NT_PRPSINFO"),
        (header + 8, &huge, "the core file is not complete"),
        (prstatus + 32, &huge[..4], "a thread has the id -1"),
        (54, &[1, 0], "the size of its program headers"),
        (56, &[0, 0], "it has no NT_PRPSINFO"),
        (18, &[3, 0], "of the architecture 3"),
        (4, &[3], "not of a little-endian program"),
        (4, &[1], "of an x32 program"),
    ] {
        fs::write(&place, &whole)?;
        File::options()
            .write(true)
            .open(&place)?
            .write_all_at(bytes, at as u64)?;
        refused(&place, why)?;
    }
    // What is behind the notes is not read.
    fs::write(&place, &whole[..offset + size])?;
    let plain = out(&["show", "--json", text(&core)?], 0)?;
    ensure!(out(&["show", "--json", text(&place)?], 0)? == plain);
    Ok(())
}

/// As [`damaged`], of a 32-bit program.
fn damaged_ia32(dir: &RunDir) -> Result<()> {
    let Crash { core, .. } = crash_of(dir, "segv", true)?;
    let whole = fs::read(&core)?;
    let number = |at: usize| -> Result<usize> {
        let bytes = whole.get(at..at + 4).context("a header")?;
        Ok(u32::from_le_bytes(bytes.try_into()?).try_into()?)
    };
    let headers = number(28)?..whole.len();
    let mut notes = headers
        .step_by(32)
        .filter(|&at| whole[at..at + 4] == [4, 0, 0, 0]);
    let header = notes.next().context("no PT_NOTE")?;
    let (offset, size) = (number(header + 4)?, number(header + 16)?);
    let place = dir.file("damaged");
    for length in [
        10,
        51,
        52,
        header + 10,
        offset,
        offset + 13,
        offset + size - 1,
    ] {
        fs::write(&place, &whole[..length])?;
        refused(&place, "the core file is not complete")?;
    }
    let prstatus = offset + 20;
    for (at, bytes, why) in [
        (offset + 4, &[0xff; 4][..], "its notes: "),
        (
            offset + 4,
            &[0x40, 0, 0, 0],
            "NT_PRSTATUS has 64 bytes, and 144 are right",
        ),
        (header + 16, &[0xff; 4], "bytes of notes"),
        (header + 4, &[0xff; 4], "the core file is not complete"),
        (prstatus + 24, &[0xff; 4], "a thread has the id -1"),
        (42, &[1, 0], "the size of its program headers"),
        (18, &[62, 0], "of an x32 program"),
        (18, &[40, 0], "of the architecture 40"),
        (5, &[2], "not of a little-endian program"),
    ] {
        fs::write(&place, &whole)?;
        File::options()
            .write(true)
            .open(&place)?
            .write_all_at(bytes, at as u64)?;
        refused(&place, why)?;
    }
    fs::write(&place, &whole[..offset + size])?;
    let plain = out(&["show", "--json", text(&core)?], 0)?;
    ensure!(out(&["show", "--json", text(&place)?], 0)? == plain);
    Ok(())
}

fn no_core(dir: &RunDir) -> Result<()> {
    refused(
        &config::command()?,
        "the file is a program or a library, not a core file",
    )?;
    let short = dir.file("short");
    fs::write(&short, b"\x7fELF")?;
    refused(&short, "the core file is not complete: it has 4 bytes")
}
