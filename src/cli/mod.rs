//! The command line: what it accepts, and which part of the library does it. One module for each command.

mod decode;
mod encode;
mod plugin_dir;
mod show;
mod source;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// What a command that failed says.
type Failure = Box<dyn std::error::Error>;

/// The exit code of a command that could not do what it was asked for; 1 is for one whose answer is no.
const FAILED: u8 = 2;

/// Shows the signal state of Linux processes: live ones, and those in CRIU's image folders.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  criu-signals show 4711\n  criu-signals show images/\n  \
    criu-signals decode images/signals-4711.img | jq .process.comm"
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
}

#[derive(Subcommand)]
enum Command {
    Show(show::Show),
    Decode(decode::Decode),
    Encode(encode::Encode),
    #[command(hide = true)]
    PluginDir(plugin_dir::PluginDir),
}

/// Runs the command.
pub fn run() -> ExitCode {
    let Arguments { context, command } = Arguments::parse();
    let done = match command {
        Command::Show(show) => show.run(&context),
        Command::Decode(decode) => decode.run(),
        Command::Encode(encode) => encode.run(),
        Command::PluginDir(plugin_dir) => plugin_dir.run(),
    };
    done.unwrap_or_else(|e| {
        // A reader that has seen enough is no failure.
        if e.downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
        {
            return ExitCode::SUCCESS;
        }
        eprintln!("criu-signals: {e}");
        ExitCode::from(FAILED)
    })
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
