//! Live migration: pre-dump, lazy pages, page server, and a stream, which would lack the plugin's images.
//!
//! That of containers is in `containers.rs`.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::{Child, ExitCode};
use std::thread;

use anyhow::{Result, anyhow, ensure};
use criu_tests::cases::{
    self, CHECK, Test, expect_error, expect_verdicts, restored, start, test, with_plugin,
};
use criu_tests::criu::Step;
use criu_tests::plugin::Verdict;
use criu_tests::procfs;
use criu_tests::rundir::RunDir;
use criu_tests::skip::Need;
use criu_tests::victim::reap_all;
use criu_tests::wait::{self, PATIENCE};

/// A tree whose state CRIU alone does not keep whole.
const PROGRAM: &str = "container";
const VERDICTS: [Verdict; 3] = [Verdict::Repaired, Verdict::Repaired, Verdict::Verified];

const HERE: &str = "127.0.0.1";

fn main() -> ExitCode {
    cases::main("migration", tests)
}

fn tests() -> Vec<Test> {
    vec![
        test("pre-dump", pre_dump).needs(&[Need::SoftDirty]),
        test("lazy-pages", lazy_pages),
        test("page-server", page_server),
        test("stream", stream),
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

/// criu sends its images to a streamer; a plugin is given no way to do so. The dump is refused, and nothing happens to the
/// task.
fn stream(dir: &RunDir) -> Result<()> {
    let victim = start(PROGRAM, None, dir)?;
    let streamer = UnixListener::bind(dir.images().join("streamer-capture.sock"))?;
    let drain = thread::spawn(move || -> std::io::Result<()> {
        let (mut criu, _) = streamer.accept()?;
        criu.read_to_end(&mut Vec::new()).map(drop)
    });
    let dump = with_plugin()?
        .arg("--stream")
        .dump(victim.pid(), &dir.images(), false)?;
    ensure!(!dump.ok, "the dump has succeeded");
    expect_error(&dump, &["--stream", "criu-image-streamer"])?;
    drain
        .join()
        .map_err(|_| anyhow!("the streamer has panicked"))??;
    victim.finish(CHECK)
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
