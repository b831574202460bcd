//! The command line: what it accepts, and which part of the library does it. One module for each command.

mod cat;
mod check;
mod decode;
mod diff;
mod dump;
mod encode;
mod generate;
mod mount;
mod pairs;
mod plugin_dir;
mod progress;
mod restore;
mod send;
mod show;
mod source;
mod style;
mod verify;
mod write;

use std::fmt;
use std::io::{self, StdoutLock};
use std::process::ExitCode;
use std::time::Duration;

use anstream::AutoStream;
use clap::{Args, ColorChoice, Parser, Subcommand};
use criu_signals::images::{Pid, Shown as _};
use criu_signals::process::worker::{self, DEFERRED, Role};
use nix::sys::signal::raise;
use nix::sys::wait::WaitStatus;

/// What a command that failed says.
type Failure = Box<dyn std::error::Error>;

/// The exit code of a command that could not do what it was asked for.
const FAILED: u8 = 2;
/// That of one which could, and whose answer is no: there is a difference, or something is missing.
const DIFFERS: u8 = 1;

/// Shows the signal state of Linux processes: live ones, and those in CRIU's image folders.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  criu-signals show 4711
  criu-signals show images/
  criu-signals decode images/signals-4711.img | jq .process.comm

Exit codes:
  0  done; of commands that compare: all is the same
  1  of commands that compare or check: something differs, or is missing
  2  it could not be done, and standard error says why

A process is touched only where ptrace(2) allows that. For one of one's own uid no capability is needed, unless it is
under a seccomp filter: to suspend that takes CAP_SYS_ADMIN."
)]
struct Arguments {
    #[command(flatten)]
    context: Context,
    #[command(subcommand)]
    command: Command,
}

/// What all commands accept.
#[derive(Args)]
struct Context {
    /// How long to wait for a process to stop, in seconds. Only one in uninterruptible sleep takes any time at all.
    #[arg(long, global = true, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout: Duration,
    /// Whether to print in colours. `auto`: on a terminal, unless NO_COLOR is set.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
}

impl Context {
    /// To be called before a live process is touched: from here on the work is another process's, and does not end in the
    /// middle because this one is killed. This one never returns; it ends as that one does.
    fn hand_over(&self) -> Result<(), Failure> {
        let code = match worker::run_in_child(c"signals-work")? {
            Role::Worker => return Ok(()),
            Role::Waited(WaitStatus::Exited(_, code)) => code,
            Role::Waited(WaitStatus::Signaled(_, signal, _)) => {
                if DEFERRED.contains(&signal) {
                    raise(signal)?;
                }
                eprintln!("criu-signals: the process that did the work was ended by {signal}");
                FAILED.into()
            }
            Role::Waited(_) => FAILED.into(),
        };
        std::process::exit(code)
    }

    /// Standard output, without colours where they are not wanted.
    fn stdout(&self) -> AutoStream<StdoutLock<'static>> {
        let choice = match self.color {
            ColorChoice::Auto => AutoStream::choice(&io::stdout()),
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        };
        AutoStream::new(io::stdout().lock(), choice)
    }
}

#[derive(Subcommand)]
enum Command {
    Show(show::Show),
    Diff(diff::Diff),
    Send(send::Send),
    Cat(cat::Cat),
    Write(write::Write),
    Mount(mount::Mount),
    Unmount(mount::Unmount),
    Dump(dump::Dump),
    Restore(restore::Restore),
    Verify(verify::Verify),
    Decode(decode::Decode),
    Encode(encode::Encode),
    Check(check::Check),
    #[command(hide = true)]
    Generate(generate::Generate),
    /// What `check` tries its hand on.
    #[command(hide = true)]
    Idle,
    #[command(hide = true)]
    PluginDir(plugin_dir::PluginDir),
}

/// Runs the command.
pub fn run() -> ExitCode {
    let Arguments { context, command } = Arguments::parse();
    let done = match command {
        Command::Show(show) => show.run(&context),
        Command::Diff(diff) => diff.run(&context),
        Command::Send(send) => send.run(&context),
        Command::Cat(cat) => cat.run(&context),
        Command::Write(write) => write.run(&context),
        Command::Mount(mount) => mount.run(&context),
        Command::Unmount(unmount) => unmount.run(),
        Command::Dump(dump) => dump.run(&context),
        Command::Restore(restore) => restore.run(&context),
        Command::Verify(verify) => verify.run(&context),
        Command::Decode(decode) => decode.run(&context),
        Command::Encode(encode) => encode.run(),
        Command::Check(check) => check.run(&context),
        Command::Generate(generate) => generate.run(&context),
        Command::Idle => check::idle(),
        Command::PluginDir(plugin_dir) => plugin_dir.run(),
    };
    done.unwrap_or_else(|e| {
        // A reader that has seen enough is no failure.
        if e.downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
        {
            return ExitCode::SUCCESS;
        }
        say(&*e);
        ExitCode::from(FAILED)
    })
}

/// Says what has failed, on standard error: whatever it quotes, it does nothing there but to be read.
fn say(what: &dyn fmt::Display) {
    let what = what.to_string();
    for line in what.lines() {
        eprintln!("criu-signals: {}", line.shown());
    }
}

fn pid(text: &str) -> Result<Pid, String> {
    let pid = text.parse().ok().and_then(Pid::new);
    pid.ok_or_else(|| "not a pid".to_owned())
}

/// `1 process`, `2 processes`.
fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_timeout_is_a_time() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["", "x", "-1", "NaN", "inf"] {
            seconds(wrong).unwrap_err();
        }
    }
}
