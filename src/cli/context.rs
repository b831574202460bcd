//! Options, exit codes and output that all commands share.

use std::fmt;
use std::fs;
use std::io::{self, StdoutLock};
use std::time::Duration;

use anstream::AutoStream;
use clap::{Args, ColorChoice};
use criu_signals::images::{Pid, Shown as _, Tid};
use criu_signals::proc;
use criu_signals::proc_sig::Subject;
use criu_signals::process::worker::{self, DEFERRED, Role};
use nix::sys::signal::raise;
use nix::sys::wait::WaitStatus;

/// What a command that failed says.
pub type Failure = Box<dyn std::error::Error>;

/// The exit code of a command that failed.
pub const FAILED: u8 = 2;
/// The exit code of a command that succeeded and found a difference or something missing.
pub const DIFFERS: u8 = 1;

/// What all commands accept.
#[derive(Args)]
pub struct Context {
    /// How many seconds to wait for a process to stop. Only a process in uninterruptible sleep takes noticeable time.
    /// A thread in vfork(2) is waited for a fifth of the time: its child may run for long.
    #[arg(long, global = true, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub timeout: Duration,
    /// When to use colours. `auto`: if the output is a terminal and NO_COLOR is not set.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
}

/// Of commands that wait for no process: `--timeout` is not offered and not accepted there.
#[derive(Args)]
pub struct NoTimeout {
    #[arg(long = "timeout", id = "timeout", hide = true, value_name = "SECONDS", value_parser = no_timeout)]
    _timeout: Option<Duration>,
}

fn no_timeout(_: &str) -> Result<Duration, String> {
    Err("this command waits for no process: leave --timeout out".to_owned())
}

impl Context {
    /// Continues in a worker process, so that killing this process cannot interrupt the work half-way. To be called
    /// before a live process is touched. In this process the function does not return: the process waits for the worker
    /// and exits with the worker's exit code.
    pub fn work_in_child(&self) -> Result<(), Failure> {
        let code = match worker::run_in_child(c"signals-work", self.timeout)? {
            Role::Worker => return Ok(()),
            Role::Waited(WaitStatus::Exited(_, code)) => code,
            Role::Waited(WaitStatus::Signaled(_, signal, _)) => {
                if DEFERRED.contains(&signal) {
                    raise(signal)?;
                }
                eprintln!("criu-signals: the worker process was killed by {signal}");
                FAILED.into()
            }
            Role::Waited(_) => FAILED.into(),
            Role::Killed(what) => {
                say(&format_args!(
                    "{what}: ETIMEDOUT (the memory of the process is locked: another process that shares it waits for a file \
                     system that does not answer): end the server of that file system, or give the command a longer \
                     --timeout. The worker process was killed, and all processes run on; a restore is incomplete"
                ));
                FAILED.into()
            }
        };
        std::process::exit(code)
    }

    /// Standard output, without colours where they are not wanted.
    pub fn stdout(&self) -> AutoStream<StdoutLock<'static>> {
        let choice = match self.color {
            ColorChoice::Auto => AutoStream::choice(&io::stdout()),
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        };
        AutoStream::new(io::stdout().lock(), choice)
    }
}

/// Prints an error on standard error. Control characters in quoted text are escaped, so that they cannot act on the
/// terminal.
pub fn say(what: &dyn fmt::Display) {
    let what = what.to_string();
    for line in what.lines() {
        eprintln!("criu-signals: {}", line.shown());
    }
}

/// `PID`, `/proc/PID` as a shell completes it, or the name of the only process with that name. There must be such a process.
pub fn pid(text: &str) -> Result<Pid, String> {
    match number(text) {
        Some(pid) => existing(pid),
        None => named(text),
    }
}

/// How long a name can be in `/proc/PID/comm` (TASK_COMM_LEN).
const COMM_LEN: usize = 15;
/// How many processes of one name are listed.
const LISTED: usize = 20;

/// The only process of this name.
pub fn named(name: &str) -> Result<Pid, String> {
    if name.is_empty() || name.contains('/') || name.parse::<i64>().is_ok() {
        return Err("not a pid, and not the name of a process".to_owned());
    }
    let found = processes_named(name);
    match found.as_slice() {
        [] => Err(format!(
            "no such process: {} is not a pid, and no process has this name",
            name.shown()
        )),
        [pid] => Ok(*pid),
        many => {
            let pids: Vec<String> = many.iter().take(LISTED).map(ToString::to_string).collect();
            let more = match many.len().saturating_sub(LISTED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            Err(format!(
                "{} processes have the name {}: name one of the pids {}{more}",
                many.len(),
                name.shown(),
                pids.join(", ")
            ))
        }
    }
}

/// The processes with this name, which the kernel may have cut off, without this process.
pub fn processes_named(name: &str) -> Vec<Pid> {
    let cut = &name.as_bytes()[..name.len().min(COMM_LEN)];
    let has_it = |pid: &Pid| {
        let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        *pid != Pid::own() && comm.strip_suffix(b"\n") == Some(cut)
    };
    proc::all().into_iter().filter(has_it).collect()
}

/// `PID` or `PID/TID`, or the folder `/proc/PID` or `/proc/PID/task/TID`. The name of a process may stand for PID, if
/// only one process has that name. The process must exist.
pub fn subject(text: &str) -> Result<Subject, String> {
    let wrong = || format!("{text:?} is neither PID nor PID/TID");
    let (process, thread) = match text.strip_prefix("/proc/") {
        Some(place) => match place.split_once("/task/") {
            Some((process, thread)) => (process, Some(thread)),
            None => (place, None),
        },
        None => match text.split_once('/') {
            Some((process, thread)) => (process, Some(thread)),
            None => (text, None),
        },
    };
    let id = |text: &str| {
        let text = text.strip_suffix('/').unwrap_or(text);
        text.parse().ok().and_then(Pid::new).ok_or_else(wrong)
    };
    let is_name = !text.starts_with('/') && id(process).is_err() && !process.is_empty();
    Ok(Subject {
        thread: thread.map(|tid| id(tid).map(Tid::from)).transpose()?,
        pid: if is_name {
            named(process)?
        } else {
            id(process).and_then(existing)?
        },
    })
}

/// The number in `PID` or `/proc/PID`.
pub fn number(text: &str) -> Option<Pid> {
    let text = match text.strip_prefix("/proc/") {
        Some(number) => number.strip_suffix('/').unwrap_or(number),
        None => text,
    };
    text.parse().ok().and_then(Pid::new)
}

/// Refuses the number of no process before anything is done, and not as one that has ended meanwhile.
pub fn existing(pid: Pid) -> Result<Pid, String> {
    match fs::symlink_metadata(format!("/proc/{pid}")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(format!(
            "no such process: there is no process {pid} in /proc"
        )),
        _ => Ok(pid),
    }
}

/// `1 process`, `2 processes`.
pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A time in seconds, with fractions.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids() {
        let own = Pid::new(std::process::id().cast_signed()).unwrap();
        for text in [
            format!("{own}"),
            format!("/proc/{own}"),
            format!("/proc/{own}/"),
        ] {
            assert_eq!(pid(&text), Ok(own), "{text}");
        }
        for wrong in [
            "",
            "x",
            "0",
            "-1",
            "/proc/",
            "/proc/self",
            "/proc/1/2",
            "1/",
        ] {
            pid(wrong).unwrap_err();
        }
        let said = pid("2147483647").unwrap_err();
        assert_eq!(
            said,
            "no such process: there is no process 2147483647 in /proc"
        );
    }

    #[test]
    fn subjects() {
        let pid = Pid::new(std::process::id().cast_signed()).unwrap();
        let whole = Subject { pid, thread: None };
        let thread = Subject {
            pid,
            thread: Tid::new(7),
        };
        for (text, wanted) in [
            (format!("{pid}"), whole),
            (format!("/proc/{pid}"), whole),
            (format!("/proc/{pid}/"), whole),
            (format!("{pid}/7"), thread),
            (format!("/proc/{pid}/task/7"), thread),
            (format!("/proc/{pid}/task/7/"), thread),
        ] {
            assert_eq!(subject(&text), Ok(wanted), "{text}");
        }
        for wrong in [
            "",
            "x",
            "0",
            "1/",
            "1/x",
            "1/2/3",
            "/proc/1/2",
            "/proc/",
            "1/task/1",
        ] {
            subject(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn a_timeout_is_a_time() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["", "x", "-1", "NaN", "inf"] {
            seconds(wrong).unwrap_err();
        }
    }
}
