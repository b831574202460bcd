//! criu by RPC, as engines and libraries drive it: `criu swrk` by a client that others have written, and `criu service`.
//!
//! A request has no field for the plugin folder. criu takes it from CRIU_LIBS_DIR in its environment, or from `libdir` in
//! a configuration file, which a request can name.

use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::images::image;
use criu_signals::proc;
use criu_signals::run_report::{Document, Outcome};
use criu_tests::cases::{self, CHECK, Test, expect_verdicts, start, test, with_plugin};
use criu_tests::config;
use criu_tests::plugin::{self, Verdict};
use criu_tests::procfs::{self, Pid};
use criu_tests::rundir::RunDir;
use criu_tests::victim::{Victim, reap_all};
use criu_tests::wait::{self, PATIENCE};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket,
};
use nix::sys::wait::waitpid;
use nix::unistd;
use protobuf::Message as _;
use rust_criu::rust_criu_protobuf::rpc::{Criu_opts, Criu_req, Criu_req_type, Criu_resp};

/// A tree whose state CRIU alone does not keep whole.
const PROGRAM: &str = "container";
const VERDICTS: [Verdict; 3] = [Verdict::Repaired, Verdict::Repaired, Verdict::Verified];

fn main() -> ExitCode {
    cases::main("rpc", tests)
}

fn tests() -> Vec<Test> {
    vec![
        test("swrk.dump-and-restore", swrk),
        test("swrk.leave-running", swrk_leave_running),
        test("swrk.refused", swrk_refused),
        test("service.environment", |dir| {
            service(Found::ByEnvironment, dir)
        }),
        test("service.config-file", |dir| {
            service(Found::ByConfigFile, dir)
        }),
    ]
}

// ---- criu swrk -------------------------------------------------------------------------------------------------------

/// The library starts criu without arguments or environment of the caller's: this is what it starts.
fn with_environment(policy: &str, dir: &RunDir) -> Result<String> {
    let path = dir.file("criu-with-plugin");
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let script = format!(
        "#!/bin/sh\nexport CRIU_LIBS_DIR={} CRIU_SIGNALS_CONFIG= CRIU_SIGNALS_POLICY={policy} \
         CRIU_SIGNALS_REPORT=report-%s.json\nexec {} \"$@\"\n",
        quoted(&config::plugin_dir()?),
        quoted(&config::criu()?),
    );
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path.to_str().context("a path")?.to_owned())
}

/// A client, with what it holds open for as long as a request lasts.
struct Client {
    criu: rust_criu::Criu,
    images: File,
}

impl Client {
    fn new(policy: &str, dir: &RunDir) -> Result<Client> {
        Ok(Client {
            criu: rust_criu::Criu::new_with_criu_path(with_environment(policy, dir)?)?,
            images: File::open(dir.images())?,
        })
    }

    /// What holds for every request: the library forgets it after each.
    fn prepare(&mut self, log: &str) -> &mut rust_criu::Criu {
        self.criu.set_images_dir_fd(self.images.as_raw_fd());
        self.criu.set_log_level(4);
        self.criu.set_log_file(log.to_owned());
        &mut self.criu
    }

    fn dump(&mut self, pid: Pid, leave_running: bool) -> Result<()> {
        let criu = self.prepare("dump.log");
        criu.set_pid(pid);
        criu.set_leave_running(leave_running);
        criu.dump().context("dump")
    }
}

fn log(name: &str, dir: &RunDir) -> Result<String> {
    let path = dir.images().join(name);
    let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn report(stage: &str, dir: &RunDir) -> Result<Document> {
    let path = dir.images().join(format!("report-{stage}.json"));
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_str(&text)?)
}

fn swrk(dir: &RunDir) -> Result<()> {
    let victim = start(PROGRAM, None, dir)?;
    let pid = victim.pid();
    let mut client = Client::new("strict", dir)?;
    client.dump(pid, false)?;
    ensure!(report("dump", dir)?.outcome == Outcome::Captured);
    reap_all()?;

    client.prepare("restore.log").restore().context("restore")?;
    expect_verdicts(&log("restore.log", dir)?, &VERDICTS)?;
    let report = report("restore", dir)?;
    ensure!(report.outcome == Outcome::Repaired, "{report:?}");
    ensure!(report.processes.len() == VERDICTS.len(), "{report:?}");
    Victim::restored(pid, dir).finish(CHECK)
}

/// The same client, twice: a snapshot of what runs on, and then the dump that ends it.
fn swrk_leave_running(dir: &RunDir) -> Result<()> {
    let victim = start(PROGRAM, None, dir)?;
    let processes = procfs::tree(victim.pid())?;
    let before = procfs::signal_lines(&processes)?;
    Client::new("repair", dir)?.dump(victim.pid(), true)?;
    let report = report("dump", dir)?;
    ensure!(report.outcome == Outcome::Captured, "{report:?}");
    for &pid in &processes {
        let name = image::file_name(pid);
        ensure!(dir.images().join(&name).exists(), "no {name}");
    }
    let difference = procfs::describe_difference(&before, &procfs::signal_lines(&processes)?);
    ensure!(difference.is_empty(), "/proc shows a change: {difference}");
    victim.finish(CHECK)
}

/// What the plugin refuses is a failed request to the client.
fn swrk_refused(dir: &RunDir) -> Result<()> {
    let victim = start(PROGRAM, None, dir)?;
    let pid = victim.pid();
    let mut client = Client::new("strict", dir)?;
    client.dump(pid, false)?;
    reap_all()?;
    fs::remove_file(dir.images().join(image::file_name(pid)))?;

    match client.prepare("restore.log").restore() {
        Err(rust_criu::CriuError::RpcFailed { .. }) => {}
        other => bail!("the request has not failed: {other:?}"),
    }
    let log = log("restore.log", dir)?;
    let said = plugin::lines(&log)
        .any(|line| line.contains("Error (") && line.contains("Nothing is restored"));
    ensure!(said, "the log does not say why:\n{log}");
    ensure!(report("restore", dir)?.outcome == Outcome::Refused);
    reap_all()?;
    ensure!(procfs::state(pid).is_none(), "there is a process {pid}");
    Ok(())
}

// ---- criu service ----------------------------------------------------------------------------------------------------

/// By what the service knows the plugin folder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    ByEnvironment,
    ByConfigFile,
}

/// One that runs on, for several requests. Each has a process of its own.
struct Service {
    criu: Child,
    socket: PathBuf,
    config_file: Option<PathBuf>,
}

impl Service {
    fn start(found: Found, dir: &RunDir) -> Result<Service> {
        let socket = dir.file("service");
        let mut criu = with_plugin()?.default_libdir();
        let mut config_file = None;
        match found {
            Found::ByEnvironment => criu = criu.env("CRIU_LIBS_DIR", config::plugin_dir()?),
            Found::ByConfigFile => {
                let path = dir.file("rpc.conf");
                fs::write(
                    &path,
                    format!("libdir {}\n", config::plugin_dir()?.display()),
                )?;
                config_file = Some(path);
            }
        }
        let path = socket.to_str().context("a path")?;
        let criu = criu.start("service", &dir.images(), &["--address", path])?;
        let mut service = Service {
            criu,
            socket,
            config_file,
        };
        wait::until("criu to listen", PATIENCE, || {
            ensure!(service.criu.try_wait()?.is_none(), "criu has ended");
            Ok(service.connect().ok())
        })?;
        Ok(service)
    }

    fn connect(&self) -> Result<OwnedFd> {
        let stream = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        connect(stream.as_raw_fd(), &UnixAddr::new(&self.socket)?)?;
        Ok(stream)
    }

    fn request(&self, kind: Criu_req_type, mut opts: Criu_opts, dir: &RunDir) -> Result<Criu_resp> {
        let images = File::open(dir.images())?;
        opts.set_images_dir_fd(images.as_raw_fd());
        opts.set_log_level(4);
        opts.config_file = self.config_file.as_ref().map(|p| p.display().to_string());
        let mut request = Criu_req::new();
        request.set_type(kind);
        request.opts = Some(opts).into();
        let stream = self.connect()?;
        send(
            stream.as_raw_fd(),
            &request.write_to_bytes()?,
            MsgFlags::empty(),
        )?;
        let mut answer = vec![0; 64 * 1024];
        let length = recv(stream.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let answer = Criu_resp::parse_from_bytes(&answer[..length])?;
        ensure!(answer.success(), "{kind:?}: {answer:?}");
        Ok(answer)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.criu.kill();
        let _ = self.criu.wait();
    }
}

fn service(found: Found, dir: &RunDir) -> Result<()> {
    let victim = start(PROGRAM, None, dir)?;
    let pid = victim.pid();
    let processes = procfs::tree(pid)?;
    let service = Service::start(found, dir)?;

    let mut opts = Criu_opts::new();
    opts.set_pid(pid);
    opts.set_log_file("dump.log".to_owned());
    service.request(Criu_req_type::DUMP, opts, dir)?;
    // Not by reap_all: the service is a child as well.
    for process in processes {
        waitpid(unistd::Pid::from_raw(process), None).with_context(|| format!("pid {process}"))?;
    }

    let mut opts = Criu_opts::new();
    opts.set_log_file("restore.log".to_owned());
    let answer = service.request(Criu_req_type::RESTORE, opts, dir)?;
    ensure!(answer.restore.pid() == pid, "{answer:?}");
    // criu answers before it has ended, and until then it is the parent.
    wait::until("the victim to be adopted", PATIENCE, || {
        let pid = criu_signals::images::Pid::new(pid).context("no pid")?;
        let parent = proc::parentage(pid)?.parent;
        Ok((parent == Some(criu_signals::images::Pid::own())).then_some(()))
    })?;
    expect_verdicts(&log("restore.log", dir)?, &VERDICTS)?;
    Victim::restored(pid, dir).finish(CHECK)
}
