//! Live migration: pre-dump, lazy pages, page server, and streams.
//!
//! That of containers is in `containers.rs`.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::{Child, ExitCode};

use anyhow::{Context as _, Result, ensure};
use criu_tests::cases::{
    self, CHECK, Test, expect_error, expect_verdict, expect_verdicts, refused, restored, start,
    test, with_plugin,
};
use criu_tests::config;
use criu_tests::criu::{Criu, Step};
use criu_tests::plugin::{self, Verdict};
use criu_tests::procfs::{self, Pid};
use criu_tests::rundir::RunDir;
use criu_tests::skip::Need;
use criu_tests::streamer::{self, Files};
use criu_tests::victim::{Victim, reap_all};
use criu_tests::wait::{self, PATIENCE};

/// A tree whose state CRIU alone does not keep whole.
const PROGRAM: &str = "container";
const VERDICTS: [Verdict; 3] = [Verdict::Repaired, Verdict::Repaired, Verdict::Verified];

/// The list of the plugin's images in a stream.
const LIST: &str = "signals-list.img";

const HERE: &str = "127.0.0.1";

fn main() -> ExitCode {
    cases::main("migration", tests)
}

fn tests() -> Vec<Test> {
    vec![
        test("pre-dump", pre_dump).needs(&[Need::SoftDirty]),
        test("pre-dump.calls-named", calls_named).needs(&[Need::SoftDirty]),
        test("pre-dump.calls-kept", calls_kept).needs(&[Need::SoftDirty, Need::PatchedCriu]),
        test("pre-dump.sleep-kept", sleep_kept).needs(&[Need::SoftDirty, Need::PatchedCriu]),
        test("lazy-pages", lazy_pages),
        test("page-server", page_server),
        test("stream", stream),
        test("stream.taken-out", stream_with_custody),
        test("stream.refused", stream_that_needs_corrections),
        test("stream.broken", streamer_that_fails),
        test("stream.incomplete", stream_without_end),
        test("stream.corrupt", stream_with_a_wrong_image),
        test("stream.stale-socket", stale_socket),
    ]
}

/// Memory goes ahead while the task runs on; the last dump takes what has changed since, and the signals.
fn pre_dump(dir: &RunDir) -> Result<()> {
    let victim = start(PROGRAM, None, dir)?;
    let processes = procfs::tree(victim.pid())?;
    let before = procfs::signal_lines(&processes)?;
    let criu = with_plugin()?.arg("--track-mem");
    let ahead = dir.file("ahead");
    fs::create_dir(&ahead)?;
    succeeded(&criu.pre_dump(victim.pid(), &ahead)?)?;
    let difference = procfs::describe_difference(&before, &procfs::signal_lines(&processes)?);
    ensure!(difference.is_empty(), "/proc shows a change: {difference}");
    let images: Vec<_> = fs::read_dir(&ahead)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("signals-"))
        .collect();
    ensure!(images.is_empty(), "a pre-dump has written {images:?}");

    let criu = criu.arg("--prev-images-dir").arg("../ahead");
    succeeded(&criu.dump(victim.pid(), &dir.images(), false)?)?;
    reap_all()?;
    let (restore, found) = restored(&with_plugin()?, dir)?;
    found?;
    expect_verdicts(&restore.log, &VERDICTS)
}

/// The calls of victims/waiting.c that its leader waits in, one after the other.
const CALLS: [&str; 8] = [
    "poll",
    "nanosleep",
    "clock_nanosleep",
    "futex",
    "epoll_wait",
    "rt_sigtimedwait",
    "semtimedop",
    "recvfrom",
];
/// Whether a socket has a timeout is not known before the stop.
const NOT_NAMED: &str = "recvfrom";

/// A thread of victims/waiting.c, and whether its call went on.
#[derive(Debug)]
struct Called {
    tid: String,
    call: String,
    kept: bool,
}

/// Pre-dumps victims/waiting.c.
fn waiting(criu: &Criu, call: &str, dir: &RunDir) -> Result<(Step, Vec<Called>)> {
    let dir = RunDir::create(&dir.file(call))?;
    let victim = Victim::start(&config::victim("waiting", false), Some(call), &dir, false)?;
    let ahead = dir.file("ahead");
    fs::create_dir(&ahead)?;
    let step = criu.pre_dump(victim.pid(), &ahead)?;
    succeeded(&step)?;
    victim.finish(PATIENCE)?;
    let calls = dir.read("calls");
    let calls: Vec<_> = calls
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            Some(Called {
                tid: words.next()?,
                call: words.next()?,
                kept: words.next()? == "kept",
            })
        })
        .collect();
    ensure!(calls.len() == CALLS.len(), "the victim says {calls:?}");
    Ok((step, calls))
}

/// A criu that hands no stopped process to plugins in a pre-dump: the log names each call that ends with EINTR, and no other.
fn calls_named(dir: &RunDir) -> Result<()> {
    for leads in CALLS {
        let (step, calls) = waiting(&with_plugin()?, leads, dir)?;
        ensure!(
            !step.log.contains("handed over the process"),
            "this criu has handed over the process"
        );
        let warning = step
            .log
            .lines()
            .find(|line| line.contains("a pre-dump ends"));
        let warning = warning.context("no warning names the calls")?;
        for Called { tid, call, kept } in calls {
            let is_named = warning.contains(&format!("tid {tid}: {call}"));
            ensure!(
                is_named != kept || call == NOT_NAMED,
                "leader in {leads}: {call} of {tid}, kept: {kept}: {warning}"
            );
        }
    }
    Ok(())
}

/// A criu with the patch of docs/upstream: no call ends.
fn calls_kept(dir: &RunDir) -> Result<()> {
    for leads in CALLS {
        let (step, calls) = waiting(&patched()?, leads, dir)?;
        let handed = "criu has handed over the process: the pre-dump ends no system call";
        ensure!(
            step.log.contains(handed),
            "no {handed:?} in:\n{}",
            step.tail(60)
        );
        let ended: Vec<_> = calls.iter().filter(|one| !one.kept).collect();
        ensure!(ended.is_empty(), "leader in {leads}: ended: {ended:?}");
    }
    Ok(())
}

/// The leader's sleep goes on with the time that is left.
fn sleep_kept(dir: &RunDir) -> Result<()> {
    let victim = start("sleeping", None, dir)?;
    let ahead = dir.file("ahead");
    fs::create_dir(&ahead)?;
    succeeded(&patched()?.pre_dump(victim.pid(), &ahead)?)?;
    victim.finish(CHECK)
}

fn patched() -> Result<Criu> {
    let criu = config::patched_criu().context("there is no patched criu")?;
    Ok(Criu::new(&criu, &config::plugin_dir()?))
}

/// The task runs before its memory is there: when it touches a page, it gets it from the images.
fn lazy_pages(dir: &RunDir) -> Result<()> {
    let victim = start(PROGRAM, None, dir)?;
    succeeded(&with_plugin()?.dump(victim.pid(), &dir.images(), false)?)?;
    reap_all()?;
    let mut pager = with_plugin()?.start("lazy-pages", &dir.images(), &[])?;
    wait::until("criu lazy-pages to listen", PATIENCE, || {
        ensure!(pager.try_wait()?.is_none(), "criu lazy-pages has ended");
        let socket = dir.images().join("lazy-pages.socket");
        Ok(socket.exists().then_some(()))
    })?;
    let (restore, found) = restored(&with_plugin()?.arg("--lazy-pages"), dir)?;
    found?;
    expect_verdicts(&restore.log, &VERDICTS)?;
    let ended = wait::until("criu lazy-pages to end", PATIENCE, || Ok(pager.try_wait()?))?;
    let log = fs::read_to_string(dir.images().join("lazy-pages.log"))?;
    ensure!(ended.success(), "criu lazy-pages: {ended}");
    ensure!(log.contains("#PF at"), "no page was asked for:\n{log}");
    Ok(())
}

/// Memory goes to a page server, in a folder of its own; all else to the images, the plugin's among them.
fn page_server(dir: &RunDir) -> Result<()> {
    let victim = start(PROGRAM, None, dir)?;
    let (there, port) = (dir.file("there"), free_port()?);
    fs::create_dir(&there)?;
    let serve = ["--address", HERE, "--port", &port];
    let mut server = with_plugin()?.start("page-server", &there, &serve)?;
    wait_for_listener(&port, &mut server)?;
    let criu = with_plugin()?.arg("--page-server");
    let criu = criu.arg("--address").arg(HERE).arg("--port").arg(&port);
    succeeded(&criu.dump(victim.pid(), &dir.images(), false)?)?;
    let ended = wait::until(
        "the page server to end",
        PATIENCE,
        || Ok(server.try_wait()?),
    )?;
    ensure!(ended.success(), "criu page-server: {ended}");
    reap_all()?;
    for entry in fs::read_dir(&there)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|kind| kind == "img") {
            fs::rename(entry.path(), dir.images().join(entry.file_name()))?;
        }
    }
    let (restore, found) = restored(&with_plugin()?, dir)?;
    found?;
    expect_verdicts(&restore.log, &VERDICTS)
}

/// All images go to the streamer, and nothing of them stays in the folder; the restore takes all from there.
fn stream(dir: &RunDir) -> Result<()> {
    let files = streamed(PROGRAM, dir)?;
    ensure!(files.contains_key(LIST), "{:?}", files.keys());
    let (restore, left) = restored_from(files, "repair", dir)?;
    expect_verdicts(&restore.log, &VERDICTS)?;
    let left: Vec<_> = left.keys().filter(|name| is_ours(name)).collect();
    ensure!(left.is_empty(), "not asked for: {left:?}");
    Ok(())
}

/// What is in custody while criu sends its images is in the stream too.
fn stream_with_custody(dir: &RunDir) -> Result<()> {
    let files = streamed("trap_pending", dir)?;
    let (restore, _) = restored_from(files, "strict", dir)?;
    expect_verdict(&restore, Verdict::Verified)
}

/// Nobody can correct what criu has sent.
fn stream_that_needs_corrections(dir: &RunDir) -> Result<()> {
    let victim = start("timer_threads", None, dir)?;
    let streamer = streamer::capture(&dir.images(), None)?;
    let dump = to_stream()?.dump(victim.pid(), &dir.images(), false)?;
    ensure!(!dump.ok, "the dump has succeeded");
    expect_error(&dump, &["--stream", "POSIX timers", "Dump into a folder"])?;
    streamer.finish()?;
    expect_no_images(dir)?;
    victim.finish(CHECK)
}

/// A streamer that ends when it is to take the plugin's image: the dump fails, and what was in custody is back.
fn streamer_that_fails(dir: &RunDir) -> Result<()> {
    let victim = start("trap_pending", None, dir)?;
    let streamer = streamer::capture(&dir.images(), Some(image_of(victim.pid())))?;
    let dump = to_stream()?.dump(victim.pid(), &dir.images(), false)?;
    ensure!(!dump.ok, "the dump has succeeded");
    streamer.finish()?;
    expect_no_images(dir)?;
    victim.finish(CHECK)
}

/// A dump that fails after the plugin's images were sent leaves a list without an end.
fn stream_without_end(dir: &RunDir) -> Result<()> {
    let mut files = streamed(PROGRAM, dir)?;
    let list = files.get_mut(LIST).context("no list")?;
    ensure!(list.ends_with(b"\nend\n"), "{list:?}");
    list.truncate(list.len() - "end\n".len());
    let serving = streamer::serve(&dir.images(), files.clone())?;
    let refusing = refused(&from_stream("strict")?, dir)?;
    expect_error(&refusing, &["no end", "Nothing is restored"])?;
    serving.finish()?;
    let (restore, _) = restored_from(files, "repair", dir)?;
    expect_error(&restore, &["list of images in the stream has no end"])?;
    expect_verdicts(&restore.log, &VERDICTS)
}

/// An image that is not as it was written is an error of that process; the rest of the stream is read.
fn stream_with_a_wrong_image(dir: &RunDir) -> Result<()> {
    let mut files = streamed(PROGRAM, dir)?;
    let (name, image) = files
        .iter_mut()
        .rfind(|(name, _)| is_ours(name) && *name != LIST)
        .context("no image")?;
    let middle = image.len() / 2;
    image[middle] ^= 0x10;
    let name = name.clone();
    let serving = streamer::serve(&dir.images(), files.clone())?;
    let refusing = refused(&from_stream("strict")?, dir)?;
    expect_error(&refusing, &[&name])?;
    serving.finish()?;
    let serving = streamer::serve(&dir.images(), files)?;
    let (step, pid) = from_stream("repair")?.restore(&dir.images())?;
    ensure!(pid.is_some(), "criu restore failed:\n{}", step.tail(30));
    serving.finish()?;
    expect_error(&step, &[&name])?;
    let verdicts = plugin::verdicts(&step.log);
    let failed = verdicts.iter().filter(|one| **one == Ok(Verdict::Failed));
    ensure!(failed.count() == 1, "{verdicts:?}");
    Ok(())
}

/// The socket of an earlier run says nothing: criu does not stream.
fn stale_socket(dir: &RunDir) -> Result<()> {
    drop(UnixListener::bind(
        dir.images().join("streamer-capture.sock"),
    )?);
    let victim = start(PROGRAM, None, dir)?;
    succeeded(&with_plugin()?.dump(victim.pid(), &dir.images(), false)?)?;
    reap_all()?;
    let (restore, found) = restored(&with_plugin()?, dir)?;
    found?;
    expect_verdicts(&restore.log, &VERDICTS)
}

fn to_stream() -> Result<Criu> {
    Ok(with_plugin()?.arg("--stream"))
}

fn from_stream(policy: &str) -> Result<Criu> {
    Ok(to_stream()?.env("CRIU_SIGNALS_POLICY", policy))
}

/// The files of a stream into which this victim was dumped.
fn streamed(program: &str, dir: &RunDir) -> Result<Files> {
    let victim = start(program, None, dir)?;
    let streamer = streamer::capture(&dir.images(), None)?;
    succeeded(&to_stream()?.dump(victim.pid(), &dir.images(), false)?)?;
    reap_all()?;
    let files = streamer.finish()?;
    ensure!(
        files.contains_key(&image_of(victim.pid())),
        "{:?}",
        files.keys()
    );
    expect_no_images(dir)?;
    Ok(files)
}

/// Restores from a stream, and lets the victim check itself. Also what nobody has asked the streamer for.
fn restored_from(files: Files, policy: &str, dir: &RunDir) -> Result<(Step, Files)> {
    let serving = streamer::serve(&dir.images(), files)?;
    let (restore, found) = restored(&from_stream(policy)?, dir)?;
    let left = serving.finish()?;
    found?;
    Ok((restore, left))
}

fn image_of(pid: Pid) -> String {
    format!("signals-{pid}.img")
}

fn is_ours(name: &str) -> bool {
    name.starts_with("signals-")
}

fn expect_no_images(dir: &RunDir) -> Result<()> {
    let images: Vec<_> = fs::read_dir(dir.images())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".img"))
        .collect();
    ensure!(images.is_empty(), "in the folder: {images:?}");
    Ok(())
}

fn succeeded(step: &Step) -> Result<()> {
    ensure!(step.ok, "criu has failed:\n{}", step.tail(30));
    Ok(())
}

fn free_port() -> Result<String> {
    Ok(TcpListener::bind((HERE, 0))?
        .local_addr()?
        .port()
        .to_string())
}

/// By /proc/net/tcp (proc_pid_net(5)): a connection would be taken for the one that is to come.
fn wait_for_listener(port: &str, criu: &mut Child) -> Result<()> {
    let port: u16 = port.parse()?;
    wait::until("criu to listen", PATIENCE, || {
        ensure!(criu.try_wait()?.is_none(), "criu has ended");
        let sockets = fs::read_to_string("/proc/net/tcp")?;
        let listens = sockets.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next().unwrap_or_default();
            local.ends_with(&format!(":{port:04X}")) && fields.nth(1) == Some("0A")
        });
        Ok(listens.then_some(()))
    })
}
