//! `make bench`: measures what the plugin adds to a dump and a restore of programs that people run, of those that are installed.
//!
//! Runs with and without the plugin alternate, so that other load on the machine affects both. After each restore the program has to
//! answer.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use comfy_table::{Table, presets};
use criu_tests::criu::Criu;
use criu_tests::procfs::{self, Pid};
use criu_tests::rundir::RunDir;
use criu_tests::sample::HEADING;
use criu_tests::victim::reap_all;
use criu_tests::wait::{self, PATIENCE};
use criu_tests::{bench, config, ns};
use nix::errno::Errno;
use nix::libc;
use nix::unistd::setsid;

/// Of the servers. They listen on the loopback device of this machine.
const PORT: u16 = 20_917;
/// Connections that are open during the dump, of programs that answer several requests on one.
const CLIENTS: usize = 10;
const ANSWERS_IN: Duration = Duration::from_secs(20);

#[derive(Clone, Copy)]
enum Program {
    Jvm,
    Node,
    Go,
    Redis,
    Nginx,
    Tmux,
}

const PROGRAMS: [Program; 6] = [
    Program::Jvm,
    Program::Node,
    Program::Go,
    Program::Redis,
    Program::Nginx,
    Program::Tmux,
];

impl Program {
    /// The file that is started, and what the table says.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Program::Jvm => ("java", "JVM, HTTP server with 16 workers"),
            Program::Node => ("node", "node, HTTP server"),
            Program::Go => ("prometheus-node-exporter", "Go, prometheus-node-exporter"),
            Program::Redis => ("redis-server", "redis with 10 clients"),
            Program::Nginx => ("nginx", "nginx with 4 workers"),
            Program::Tmux => ("tmux", "tmux, bash with 8 jobs"),
        }
    }

    /// How a server is started.
    fn command(self, file: &Path, run: &RunDir) -> Result<Command> {
        let mut command = Command::new(file);
        let port = PORT.to_string();
        match self {
            Program::Jvm => {
                let classes = run.path().with_file_name(CLASSES);
                // The file of performance data is one that the next JVM removes.
                command.arg("-XX:-UsePerfData").arg("-cp").arg(classes);
                command.args(["Server", &port])
            }
            Program::Node => {
                let script = format!(
                    "require('http').createServer((_, to) => to.end('HTTP\\n')).listen({port}, '127.0.0.1')"
                );
                command.env("UV_USE_IO_URING", "0").args(["-e", &script])
            }
            Program::Go => command.arg(format!("--web.listen-address=127.0.0.1:{port}")),
            Program::Redis => command
                .args([
                    "--port",
                    &port,
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                    "--dir",
                ])
                .arg(run.path()),
            Program::Nginx => {
                let conf = run.file("nginx.conf");
                let folder = run.path().display();
                let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .iter()
                    .map(|what| format!("{what}_temp_path {folder}/{what};\n"))
                    .collect();
                fs::write(
                    &conf,
                    format!(
                        "daemon off; worker_processes 4; user root; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n\
                         events {{}}\nhttp {{ access_log off;\n{temporary}server {{ listen 127.0.0.1:{port}; return 200 HTTP; }} }}\n"
                    ),
                )?;
                command
                    .arg("-p")
                    .arg(run.path())
                    .arg("-e")
                    .arg(run.file("nginx.log"))
                    .arg("-c")
                    .arg(conf)
            }
            Program::Tmux => {
                let jobs = "for job in 1 2 3 4 5 6 7 8; do sleep 100000 & done; exec bash --norc --noprofile -i";
                command
                    .env_remove("TMUX")
                    .env("TERM", "xterm")
                    .args(["-f", "/dev/null", "-S"])
                    .arg(run.file("tmux"))
                    .args(["new-session", "-d", "bash", "--norc", "-c", jobs])
            }
        };
        command
            .current_dir(run.path())
            .stdin(Stdio::null())
            .stdout(File::create(run.file("printed"))?)
            .stderr(File::create(run.file("printed-too"))?);
        Ok(command)
    }

    /// Starts it, in a session of its own, and waits until it answers.
    fn start(self, run: &RunDir) -> Result<Pid> {
        let (name, _) = self.names();
        let file = config::in_path(name).context("it is not installed any more")?;
        let mut command = self.command(&file, run)?;
        // SAFETY: two system calls in the child, which take numbers.
        unsafe { command.pre_exec(alone) };
        if matches!(self, Program::Tmux) {
            return start_tmux(command, run);
        }
        let child = command
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        self.await_answer(run).with_context(|| {
            format!(
                "{name}: {}{}",
                run.tail("printed", 10),
                run.tail("printed-too", 10)
            )
        })?;
        Ok(Pid::try_from(child.id())?)
    }

    fn await_answer(self, run: &RunDir) -> Result<()> {
        wait::until("an answer", ANSWERS_IN, || Ok(self.answers(run).ok()))
    }

    fn answers(self, run: &RunDir) -> Result<()> {
        let ask = match self {
            Program::Tmux => {
                let jobs = tmux(run, &["list-panes", "-a"])?;
                ensure!(!jobs.is_empty(), "no panes");
                return Ok(());
            }
            Program::Redis => "PING\r\n",
            _ => "GET / HTTP/1.0\r\n\r\n",
        };
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
        stream.set_read_timeout(Some(ANSWERS_IN))?;
        stream.write_all(ask.as_bytes())?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        Ok(())
    }
}

/// Below the folder of the whole run.
const CLASSES: &str = "classes";

fn main() -> ExitCode {
    ns::main(
        "bench-programs",
        || bench::outside("bench-programs", |_| Ok(())),
        inside,
    )
}

fn inside() -> Result<()> {
    let (dir, rounds) = bench::inside()?;
    let criu = Criu::new(&config::criu()?, &dir.no_plugins()).version()?;
    let mut times = Table::new();
    times
        .load_preset(presets::UTF8_FULL_CONDENSED)
        .set_header(HEADING);
    let mut absent = Vec::new();
    for program in PROGRAMS {
        let (file, name) = program.names();
        if config::in_path(file).is_none()
            || matches!(program, Program::Jvm) && config::in_path("javac").is_none()
        {
            absent.push(file);
            continue;
        }
        if matches!(program, Program::Jvm) {
            compile(&dir.file(CLASSES))?;
        }
        let mut samples = bench::samples();
        bench::in_turns(rounds, &dir, &mut samples, |libdir, run| {
            once(program, libdir, run).context(name)
        })?;
        for (what, sample) in samples {
            times.add_row(sample.row(name, what));
        }
    }
    println!(
        "criu {criu}; real programs; medians of {rounds} runs each and where half of them are, with and without in turns"
    );
    println!("{times}");
    if !absent.is_empty() {
        println!(
            "bench-programs: left out, because they are not installed: {}",
            absent.join(", ")
        );
    }
    Ok(())
}

/// Started, dumped, restored, asked and ended.
fn once(program: Program, libdir: &Path, run: &RunDir) -> Result<[Duration; 3]> {
    let criu = Criu::new(&config::criu()?, libdir)
        .arg("--tcp-established")
        // No packet comes while the program is away: its clients are quiet.
        .arg("--network-lock")
        .arg("skip");
    let pid = program.start(run)?;
    let mut clients = Vec::new();
    if matches!(program, Program::Redis) {
        for _ in 0..CLIENTS {
            clients.push(TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?);
        }
        ask_all(&mut clients)?;
    }
    // What was started a moment ago still allocates, and makes threads.
    std::thread::sleep(SETTLES_IN);
    let (took, restored) = bench::dump_and_restore(criu, pid, run)?;
    ask_all(&mut clients)?;
    program.await_answer(run)?;
    restored.end();
    Ok(took)
}

const SETTLES_IN: Duration = Duration::from_millis(300);

fn ask_all(clients: &mut [TcpStream]) -> Result<()> {
    for client in clients {
        client.set_read_timeout(Some(ANSWERS_IN))?;
        client.write_all(b"PING\r\n")?;
        let mut answer = [0; 7];
        client.read_exact(&mut answer).context("a client")?;
        ensure!(&answer == b"+PONG\r\n", "a client got {answer:?}");
    }
    Ok(())
}

fn compile(to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/Server.java");
    let status = Command::new("javac")
        .arg("-d")
        .arg(to)
        .arg(source)
        .status()
        .context("javac")?;
    ensure!(status.success(), "javac: {status}");
    reap_all()
}

/// In a session of its own, without what this program has inherited: CRIU dumps no file of another mount namespace.
fn alone() -> std::io::Result<()> {
    // SAFETY: three numbers; no memory is involved.
    let closed = unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    Errno::result(closed)?;
    setsid()?;
    Ok(())
}

/// A session without a client. Its server has a session of its own.
fn start_tmux(mut command: Command, run: &RunDir) -> Result<Pid> {
    let started = command.status().context("tmux")?;
    ensure!(
        started.success(),
        "tmux: {started}: {}",
        run.read("printed-too")
    );
    let pid: Pid = tmux(run, &["display-message", "-p", "#{pid}"])?
        .trim()
        .parse()?;
    wait::until("the jobs", PATIENCE, || {
        Ok((procfs::tree(pid)?.len() >= 10).then_some(()))
    })?;
    Ok(pid)
}

fn tmux(run: &RunDir, args: &[&str]) -> Result<String> {
    let out = Command::new("tmux")
        .arg("-S")
        .arg(run.file("tmux"))
        .args(args)
        .env_remove("TMUX")
        .stdin(Stdio::null())
        .output()
        .context("tmux")?;
    if !out.status.success() {
        bail!("tmux: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8(out.stdout)?)
}
