//! `criu-signals check`: checks what works on this machine and what is missing.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use criu_signals::bpf::process::ProcessReader;
use criu_signals::bpf::tasks::TaskReader;
use criu_signals::criu::installed;
use criu_signals::engine::capture;
use criu_signals::images::{Pid, Shown as _};
use criu_signals::plugin_file;
use criu_signals::proc;
use criu_signals::tracee::{ByUs, Memory, StoppedProcess};
use serde_json::{Value, json};

use super::context::{Context, DIFFERS, Failure};
use super::style::{BAD, BOLD, DIM, GOOD, WARN};

/// Checks what works on this machine, and lists what is missing.
///
/// The check does not infer support from version numbers: it starts a test process, stops the process and reads its
/// state.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  criu-signals check
  criu-signals check --criu /opt/containerd/bin/criu
  criu-signals check --json | jq -r '.checks[] | select(.state != \"ok\") | .name'

Exit codes:
  0  everything works
  1  something does not work, or only in part; the list names it and what is missing
  2  a check could not be made")]
pub struct Check {
    /// The criu executable to look at, instead of the first criu in PATH: the one that a container engine starts.
    #[arg(long, value_name = "FILE")]
    criu: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// The result of one check.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    /// Works in part.
    Limited,
    Missing,
    /// The check could not be made.
    Unknown,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Limited => "limited",
            State::Missing => "missing",
            State::Unknown => "unknown",
        }
    }
}

/// One check and its result.
struct Finding {
    group: &'static str,
    /// The name of the check, for programs.
    name: &'static str,
    state: State,
    /// What was found.
    found: String,
    /// What does not work if the result is not `Ok`.
    lost: &'static str,
}

/// Capabilities by their number in linux/capability.h, and what is lost without each.
const CAPABILITIES: [(&str, u32, &str); 4] = [
    (
        "CAP_SYS_PTRACE",
        19,
        "processes of other users and undumpable processes (PR_SET_DUMPABLE) can't be accessed; other processes of the \
         same uid can",
    ),
    (
        "CAP_SYS_ADMIN",
        21,
        "processes under a seccomp filter can't be accessed: their filter can't be suspended, and the filter could \
         kill them for the system calls that this program makes in them. criu itself needs CAP_SYS_ADMIN or \
         CAP_CHECKPOINT_RESTORE",
    ),
    (
        "CAP_SYS_RESOURCE",
        24,
        "RLIMIT_SIGPENDING can't be raised above the hard limit: signals that exceed the limit are reported as not put \
         back",
    ),
    (
        "CAP_CHECKPOINT_RESTORE",
        40,
        "criu without CAP_SYS_ADMIN can't restore pids",
    ),
];

impl Check {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let mut findings = engine(context);
        findings.extend(kernel());
        findings.extend(permissions()?);
        findings.extend(criu(self.criu));

        let mut out = context.stdout();
        if self.json {
            let checks: Vec<Value> = findings.iter().map(document).collect();
            let text = serde_json::to_string_pretty(&json!({
                "version": env!("CARGO_PKG_VERSION"),
                "checks": checks,
            }))?;
            writeln!(out, "{text}")?;
        } else {
            print(&mut out, &findings)?;
        }
        let any = |state| findings.iter().any(|finding| finding.state == state);
        Ok(if any(State::Unknown) {
            ExitCode::from(super::context::FAILED)
        } else if any(State::Missing) || any(State::Limited) {
            ExitCode::from(DIFFERS)
        } else {
            ExitCode::SUCCESS
        })
    }
}

fn document(finding: &Finding) -> Value {
    json!({
        "group": finding.group,
        "name": finding.name,
        "state": finding.state.name(),
        "found": finding.found,
        "lost": if finding.state == State::Ok { Value::Null } else { json!(finding.lost) },
    })
}

fn print(out: &mut impl Write, findings: &[Finding]) -> io::Result<()> {
    let mut group = "";
    for finding in findings {
        if finding.group != group {
            group = finding.group;
            writeln!(out, "{BOLD}{group}{BOLD:#}")?;
        }
        let style = match finding.state {
            State::Ok => GOOD,
            State::Limited => WARN,
            State::Missing | State::Unknown => BAD,
        };
        let state = finding.state.name();
        writeln!(
            out,
            "  {style}{state:<8}{style:#} {:<22} {}",
            finding.name,
            finding.found.shown()
        )?;
        if finding.state != State::Ok && !finding.lost.is_empty() {
            writeln!(out, "  {:31} {DIM}{}{DIM:#}", "", finding.lost)?;
        }
    }
    Ok(())
}

/// A test process, which waits and ends with this process.
struct Idle(Child, Pid);

impl Idle {
    fn start() -> io::Result<Idle> {
        let mut child = Command::new("/proc/self/exe")
            .arg("idle")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        // It has said so when it is past exec and its libraries.
        let mut ready = [0];
        child
            .stdout
            .as_mut()
            .map_or(Ok(()), |out| out.read_exact(&mut ready))?;
        let pid = Pid::new(child.id().cast_signed());
        let pid = pid.ok_or_else(|| io::Error::other("the process has no pid"))?;
        Ok(Idle(child, pid))
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        // It reads its end of the pipe until this one is closed.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// `criu-signals idle`: the test process.
pub fn idle() -> Result<ExitCode, Failure> {
    let mut out = io::stdout();
    out.write_all(b".")?;
    out.flush()?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(ExitCode::SUCCESS)
}

/// Everything at once: PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_PEEKSIGINFO, PTRACE_GETSIGMASK, system calls inside the
/// process, and what /proc says of it. And how memory is written for these calls.
fn engine(context: &Context) -> Vec<Finding> {
    let finding = |name, state, found, lost| Finding {
        group: "reading a process",
        name,
        state,
        found,
        lost,
    };
    let idle = match Idle::start() {
        Ok(idle) => idle,
        Err(e) => {
            let found = format!("cannot start a test process: {e}");
            return vec![finding("capture", State::Unknown, found, "")];
        }
    };
    let pid = idle.1;
    let tried = StoppedProcess::<ByUs>::seize(pid, context.timeout).and_then(|stopped| {
        let state = capture::process(&stopped);
        let writes = stopped.memory().and_then(Memory::file_writes_code);
        stopped.release()?;
        state.map(|_| writes)
    });
    let read = "a test process was stopped, read and released".to_owned();
    let writes = match tried {
        Ok(writes) => writes,
        Err(e) => {
            let lost = "no live process can be read or changed; images can";
            return vec![finding("capture", State::Missing, e.to_string(), lost)];
        }
    };
    let mut findings = vec![finding("capture", State::Ok, read, "")];
    findings.extend(match writes {
        Ok(Some(writes)) => Some(finding(
            "memory",
            State::Ok,
            how_code_is_written(writes),
            "",
        )),
        // Without a vDSO the code goes elsewhere.
        Ok(None) => None,
        Err(e) => Some(finding("memory", State::Unknown, e.to_string(), "")),
    });
    findings
}

/// Documentation/admin-guide/kernel-parameters.txt, proc_mem.force_override.
fn how_code_is_written(by_the_file: bool) -> String {
    if by_the_file {
        "code for system calls is written by /proc/PID/mem".to_owned()
    } else {
        "code for system calls is written by PTRACE_POKEDATA: /proc/PID/mem does not write where the process itself may not \
         (proc_mem.force_override)"
            .to_owned()
    }
}

fn kernel() -> Vec<Finding> {
    let finding = |name, state, found: String, lost| Finding {
        group: "kernel",
        name,
        state,
        found,
        lost,
    };
    let release = nix::sys::utsname::uname().map_or_else(
        |e| format!("uname: {e}"),
        |name| {
            format!(
                "{} {} on {}",
                name.sysname().to_string_lossy(),
                name.release().to_string_lossy(),
                name.machine().to_string_lossy()
            )
        },
    );
    let has = |name, file: &str, lost| {
        if Path::new(file).exists() {
            finding(name, State::Ok, format!("{file} is there"), "")
        } else {
            finding(name, State::Missing, format!("{file} is not there"), lost)
        }
    };
    let mut findings = vec![finding("release", State::Ok, release, "")];
    findings.push(has(
        "checkpoint-restore",
        "/proc/self/timers",
        "CONFIG_CHECKPOINT_RESTORE: POSIX timers can't be read, seccomp can't be suspended, and criu does not work",
    ));
    findings.push(has(
        "children",
        "/proc/thread-self/children",
        "CONFIG_PROC_CHILDREN: process trees can't be listed",
    ));
    findings.push(has(
        "syscall",
        "/proc/self/syscall",
        "CONFIG_HAVE_ARCH_TRACEHOOK: the waiters of a process can't be listed",
    ));
    findings.push(has("fuse", "/dev/fuse", "`mount` does not work"));
    findings.push(bpf());
    findings.push(no_stop());
    findings.push(yama());
    findings.push(freezer());
    findings
}

/// Loads the program that `ps` reads tasks by.
fn bpf() -> Finding {
    let (state, found, lost) = match TaskReader::new() {
        Ok(_) => (
            State::Ok,
            "a program that reads the state of all tasks can be loaded".to_owned(),
            "",
        ),
        Err(e) => (
            State::Limited,
            e.to_string(),
            "`ps` reads /proc, which shows neither queues nor stop signals",
        ),
    };
    Finding {
        group: "kernel",
        name: "bpf",
        state,
        found,
        lost,
    }
}

/// Loads the program that `show --no-stop` reads a process by.
fn no_stop() -> Finding {
    let can = "a program that reads one process can be loaded";
    let reader = ProcessReader::new();
    let without_timers = reader.as_ref().map(ProcessReader::without_timers);
    let (state, found, lost) = match without_timers {
        Ok(None) => (State::Ok, can.to_owned(), ""),
        Ok(Some(why)) => (
            State::Limited,
            format!("{can}, without POSIX timers: {why}"),
            "`show` and `diff` stop a live process that has POSIX timers to read it",
        ),
        Err(e) => (
            State::Limited,
            e.to_string(),
            "`show` and `diff` stop a live process to read it",
        ),
    };
    Finding {
        group: "kernel",
        name: "no-stop",
        state,
        found,
        lost,
    }
}

/// Documentation/admin-guide/LSM/Yama.rst.
fn yama() -> Finding {
    const FILE: &str = "/proc/sys/kernel/yama/ptrace_scope";
    let (state, found, lost) = match fs::read_to_string(FILE) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            (State::Ok, "this kernel has no Yama".to_owned(), "")
        }
        Err(e) => (State::Unknown, format!("{FILE}: {e}"), ""),
        Ok(text) => {
            let scope = text.trim().to_owned();
            let lost = match scope.as_str() {
                "0" => "",
                "1" => "without CAP_SYS_PTRACE only descendants can be accessed",
                "2" => "without CAP_SYS_PTRACE no process can be accessed",
                _ => "no process can be accessed",
            };
            let may = proc::has_capability(19).unwrap_or(false);
            let state = match scope.as_str() {
                "0" => State::Ok,
                "1" | "2" if may => State::Ok,
                "1" => State::Limited,
                _ => State::Missing,
            };
            (state, format!("ptrace_scope is {scope}"), lost)
        }
    };
    Finding {
        group: "kernel",
        name: "yama",
        state,
        found,
        lost,
    }
}

/// cgroups(7), "The freezer controller" and "cgroup.freeze".
fn freezer() -> Finding {
    let v2 = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .find(|root| Path::new(root).join("cgroup.controllers").exists());
    let v1 = Path::new("/sys/fs/cgroup/freezer");
    let (state, found) = match v2 {
        Some(root) => (State::Ok, format!("cgroup v2 at {root}")),
        None if v1.join("cgroup.procs").exists() => {
            (State::Ok, format!("cgroup v1 at {}", v1.shown()))
        }
        None => (
            State::Missing,
            "no cgroup file system is mounted".to_owned(),
        ),
    };
    Finding {
        group: "kernel",
        name: "freezer",
        state,
        found,
        lost: "a cgroup can't be frozen for a dump: its processes are stopped one after another",
    }
}

fn permissions() -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    for (name, number, lost) in CAPABILITIES {
        let has = proc::has_capability(number)?;
        findings.push(Finding {
            group: "permissions",
            name,
            state: if has { State::Ok } else { State::Limited },
            found: if has { "held" } else { "not held" }.to_owned(),
            lost,
        });
    }
    // PTRACE_O_SUSPEND_SECCOMP is refused to a tracer that is filtered itself (ptrace_setoptions).
    let filtered = proc::is_filtered()?;
    findings.push(Finding {
        group: "permissions",
        name: "seccomp",
        state: if filtered { State::Limited } else { State::Ok },
        found: if filtered {
            "this program is itself under a seccomp filter"
        } else {
            "this program is under no seccomp filter"
        }
        .to_owned(),
        lost: "processes under a seccomp filter can't be accessed: a process under a filter can't suspend the filters \
               of others",
    });
    Ok(findings)
}

fn criu(named: Option<PathBuf>) -> Vec<Finding> {
    let Some(criu) = named.or_else(installed::find) else {
        return vec![criu_finding(
            "criu",
            State::Missing,
            "no criu in PATH, /usr/sbin or /usr/local/sbin".to_owned(),
            "no checkpoints; criu-signals works without criu",
        )];
    };
    let mut findings = vec![criu_version(&criu)];
    match plugin_folder(&criu) {
        Ok((folder, source)) => {
            let found = format!("{} ({source})", folder.shown());
            findings.push(criu_finding("plugin-folder", State::Ok, found, ""));
            findings.push(plugin(&folder));
        }
        Err(e) => findings.push(criu_finding(
            "plugin-folder",
            State::Unknown,
            e.to_string(),
            "",
        )),
    }
    findings
}

fn criu_finding(name: &'static str, state: State, found: String, lost: &'static str) -> Finding {
    Finding {
        group: "criu",
        name,
        state,
        found,
        lost,
    }
}

fn criu_version(criu: &Path) -> Finding {
    match installed::version(criu) {
        Ok(version) if version < installed::Version::OLDEST => criu_finding(
            "criu",
            State::Missing,
            format!("{version} at {}", criu.shown()),
            "the plugin needs criu 4.0 or newer",
        ),
        Ok(version) => {
            let found = format!("{version} at {}", criu.shown());
            criu_finding("criu", State::Ok, found, "")
        }
        Err(e) => criu_finding("criu", State::Unknown, e.to_string(), ""),
    }
}

/// The plugin folder, and where it is configured. The environment overrides the built-in default, and a configuration
/// file overrides the environment.
fn plugin_folder(criu: &Path) -> Result<(PathBuf, String), installed::InstalledError> {
    let dir = installed::plugin_dir(criu)?;
    let environment = std::env::var_os("CRIU_LIBS_DIR").filter(|folder| !folder.is_empty());
    Ok(match environment {
        Some(folder) if dir.source == installed::Source::BuiltIn => {
            (folder.into(), "CRIU_LIBS_DIR".to_owned())
        }
        _ => (dir.path, dir.source.to_string()),
    })
}

fn plugin(folder: &Path) -> Finding {
    let file = folder.join(plugin_file::NAME);
    let ours = env!("CARGO_PKG_VERSION");
    let (state, found) = match plugin_file::version(&file) {
        Ok(Some(version)) if version == ours => {
            (State::Ok, format!("{version} at {}", file.shown()))
        }
        Ok(Some(version)) => (
            State::Limited,
            format!("{version} at {}, and this is {ours}", file.shown()),
        ),
        Ok(None) => (
            State::Limited,
            format!("{} does not say its version", file.shown()),
        ),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            (State::Missing, format!("{} is not there", file.shown()))
        }
        Err(e) => (State::Unknown, format!("{}: {e}", file.shown())),
    };
    let lost = match state {
        State::Missing => {
            "criu runs without the plugin, unless --libdir or CRIU_LIBS_DIR names another folder"
        }
        State::Limited => "the plugin and the command should have the same version",
        State::Ok | State::Unknown => "",
    };
    criu_finding("plugin", state, found, lost)
}
