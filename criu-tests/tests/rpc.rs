//! criu by RPC, as engines and libraries use it: `criu swrk` with an existing client library, and `criu service`.
//!
//! A request has no field for the plugin folder. criu takes it from CRIU_LIBS_DIR in its environment, or from `libdir` in
//! a configuration file, which a request can name.

use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::images::image;
use criu_signals::proc;
use criu_signals::run_report::{Document, Outcome};
use criu_tests::cases::{self, CHECK, Test, expect_verdicts, start, test, with_plugin};
use criu_tests::config;
use criu_tests::criu::Criu;
use criu_tests::mounted::USER;
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

/// Makes this program a client of a service, which asks for what is in a file: `SOCKET REQUEST FOLDER`.
const CLIENT: &str = "CRIU_TESTS_RPC_CLIENT";

fn main() -> ExitCode {
    match std::env::var(CLIENT) {
        Ok(what) => match client(&what) {
            Ok(success) => ExitCode::from(u8::from(!success)),
            Err(why) => {
                println!("{why:#}");
                ExitCode::from(2)
            }
        },
        Err(_) => cases::main("rpc", tests),
    }
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
        test("service.ordinary-user", ordinary_user),
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
        let criu = with_plugin()?.default_libdir();
        Service::start_with(criu, found, &dir.file("service"), dir)
    }

    fn start_with(mut criu: Criu, found: Found, socket: &Path, dir: &RunDir) -> Result<Service> {
        let socket = socket.to_owned();
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
            Ok(connected(&service.socket).ok())
        })?;
        Ok(service)
    }

    fn request(&self, kind: Criu_req_type, mut opts: Criu_opts, dir: &RunDir) -> Result<Criu_resp> {
        let images = File::open(dir.images())?;
        opts.set_images_dir_fd(images.as_raw_fd());
        opts.set_log_level(4);
        opts.config_file = self.config_file.as_ref().map(|p| p.display().to_string());
        let mut request = Criu_req::new();
        request.set_type(kind);
        request.opts = Some(opts).into();
        let answer = ask(&self.socket, &request)?;
        ensure!(answer.success(), "{kind:?}: {answer:?}");
        Ok(answer)
    }
}

fn connected(at: &Path) -> Result<OwnedFd> {
    let stream = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    connect(stream.as_raw_fd(), &UnixAddr::new(at)?).context("connect")?;
    Ok(stream)
}

fn ask(at: &Path, request: &Criu_req) -> Result<Criu_resp> {
    let stream = connected(at)?;
    send(
        stream.as_raw_fd(),
        &request.write_to_bytes()?,
        MsgFlags::empty(),
    )?;
    let mut answer = vec![0; 64 * 1024];
    let length = recv(stream.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    Ok(Criu_resp::parse_from_bytes(&answer[..length])?)
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
        let parent = proc::parent(pid)?;
        Ok((parent == Some(criu_signals::images::Pid::own())).then_some(()))
    })?;
    expect_verdicts(&log("restore.log", dir)?, &VERDICTS)?;
    Victim::restored(pid, dir).finish(CHECK)
}

// ---- criu service, and an ordinary user ------------------------------------------------------------------------------

/// Where the user has what is his, and where the service listens.
const OF_USER: &str = "/run/user";
const SOCKET: &str = "/run/service";

fn client(what: &str) -> Result<bool> {
    let words: Vec<&str> = what.split(' ').collect();
    let [socket, request, folder] = words.as_slice() else {
        bail!("{what:?}")
    };
    let folder = File::open(folder).context("its folder")?;
    let mut request = Criu_req::parse_from_bytes(&fs::read(request)?)?;
    let opts = request.opts.mut_or_insert_default();
    opts.set_images_dir_fd(folder.as_raw_fd());
    Ok(ask(Path::new(socket), &request)?.success())
}

/// A user whose requests a service of root's takes.
struct User;

impl User {
    fn new() -> Result<User> {
        fs::set_permissions("/run", fs::Permissions::from_mode(0o755))?;
        fs::create_dir(OF_USER)?;
        chown(OF_USER, Some(USER), Some(USER))?;
        let program = format!("{OF_USER}/client");
        fs::copy(std::env::current_exe()?, &program)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(User)
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = Path::new(OF_USER).join(name);
        fs::create_dir(&folder)?;
        chown(&folder, Some(USER), Some(USER))?;
        Ok(folder)
    }

    /// Asks for a dump into the folder. All that the user can put into his environment is there.
    fn dumps(&self, mut opts: Criu_opts, folder: &Path, outside: &Path) -> Result<bool> {
        opts.set_log_file("dump.log".to_owned());
        opts.set_log_level(4);
        opts.set_leave_running(true);
        // The client puts its own there.
        opts.set_images_dir_fd(-1);
        let mut request = Criu_req::new();
        request.set_type(Criu_req_type::DUMP);
        request.opts = Some(opts).into();
        let place = Path::new(OF_USER).join("request");
        fs::write(&place, request.write_to_bytes()?)?;
        let settings = Path::new(OF_USER).join("settings");
        fs::write(&settings, "policy = report\n")?;
        chown(&settings, Some(USER), Some(USER))?;
        let asked = Command::new(format!("{OF_USER}/client"))
            .env_clear()
            .env(
                CLIENT,
                format!("{SOCKET} {} {}", place.display(), folder.display()),
            )
            .env("CRIU_SIGNALS_REPORT", outside.join("report"))
            .env("CRIU_SIGNALS_CONFIG", settings)
            .env("CRIU_SIGNALS_POLICY", "strict")
            .env("CRIU_LIBS_DIR", Path::new(OF_USER).join("plugins"))
            .current_dir("/")
            .uid(USER)
            .gid(USER)
            .output()?;
        match asked.status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => bail!("{}", String::from_utf8_lossy(&asked.stdout)),
        }
    }
}

/// criu asks no client who it is, and dumps whatever process is named. What the plugin adds to that: its settings are the
/// service's, no file outside the user's folder is made, read or written, and what is in the folder is root's alone.
fn ordinary_user(dir: &RunDir) -> Result<()> {
    let user = User::new()?;
    let foreign = user.folder("plugins")?;
    fs::copy(config::other_plugin(), foreign.join("other_plugin.so"))?;
    let outside = dir.file("outside");
    fs::create_dir(&outside)?;
    let precious = outside.join("dump.json");
    fs::write(&precious, "precious")?;
    let criu = with_plugin()?
        .default_libdir()
        .env("CRIU_SIGNALS_REPORT", "reports/%s.json");
    let _service = Service::start_with(criu, Found::ByEnvironment, Path::new(SOCKET), dir)?;
    let victim = start("demo", None, dir)?;
    let pid = victim.pid();
    let of = || {
        let mut opts = Criu_opts::new();
        opts.set_pid(pid);
        opts
    };
    let untouched = || -> Result<()> {
        ensure!(fs::read(&precious)? == b"precious", "it was written");
        let files = fs::read_dir(&outside)?.count();
        ensure!(files == 1, "{files} files outside");
        Ok(())
    };
    let logged = |folder: &Path| fs::read_to_string(folder.join("dump.log"));

    let folder = user.folder("links")?;
    // Since 4.2.1 root has to open the socket for others.
    if fs::metadata(SOCKET)?.mode() & 0o002 == 0 {
        let refused = user.dumps(of(), &folder, &outside);
        let why = format!("{:#}", refused.err().context("it was answered")?);
        ensure!(why.contains("connect: EACCES"), "{why}");
        fs::set_permissions(SOCKET, fs::Permissions::from_mode(0o666))?;
    }

    // A link where the service's settings want the report.
    symlink(&outside, folder.join("reports"))?;
    ensure!(user.dumps(of(), &folder, &outside)?, "the dump has failed");
    untouched()?;
    let log = logged(&folder)?;
    ensure!(log.contains("ELOOP"), "{log}");
    ensure!(
        !log.contains("other_plugin.so"),
        "the user's plugin was loaded"
    );
    ensure!(!log.contains("policy=strict"), "the user's settings hold");
    let image = fs::symlink_metadata(folder.join(image::file_name(pid)))?;
    ensure!(
        (image.uid(), image.mode() & 0o7777) == (0, 0o600),
        "the image is for {} and of mode {:o}",
        image.uid(),
        image.mode()
    );

    // Links in the place of what the plugin writes, and of the folder of the report.
    let folder = user.folder("taken")?;
    symlink(&precious, folder.join(image::file_name(pid)))?;
    fs::create_dir(folder.join("reports"))?;
    symlink(&precious, folder.join("reports/dump.json"))?;
    let done = user.dumps(of(), &folder, &outside)?;
    untouched()?;
    ensure!(!done, "an image that is there was replaced");

    // What criu itself lets every client do, and no plugin can prevent.
    let settings = Path::new(OF_USER).join("rpc.conf");
    fs::write(&settings, format!("libdir {}\n", foreign.display()))?;
    let mut opts = of();
    opts.config_file = Some(settings.display().to_string());
    let folder = user.folder("config")?;
    user.dumps(opts, &folder, &outside)?;
    let log = logged(&folder)?;
    ensure!(
        log.contains("other_plugin.so"),
        "this criu takes no plugins from a client: SECURITY.md says that it does"
    );
    victim.finish(CHECK)
}
