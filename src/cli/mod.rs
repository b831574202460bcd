//! The command line, with one module for each command.

mod cat;
mod check;
mod clear;
mod context;
mod decode;
mod diff;
mod dump;
mod encode;
mod generate;
mod mount;
mod pairs;
mod place;
mod plugin_dir;
mod progress;
mod ps;
mod restore;
mod send;
mod set;
mod show;
mod source;
mod style;
mod top;
mod trace;
mod verify;
mod watch;
mod write;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use context::{Context, FAILED, say};
use criu_signals::in_time;

/// Shows, compares, saves and restores the signal state of Linux processes: live processes, and processes in CRIU's
/// image folders.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  criu-signals show 4711
  criu-signals show images/
  criu-signals decode images/signals-4711.img | jq .process.comm

Exit codes:
  0  success; for commands that compare: no difference
  1  for commands that compare or check: something differs or is missing
  2  failure; standard error gives the reason
docs/exit-codes.md lists the codes of each command, and those of criu with the plugin.

The command accesses a process only where ptrace(2) permits that. A process with your own uid needs no capability,
unless the process is under a seccomp filter: suspending the filter needs CAP_SYS_ADMIN."
)]
struct Arguments {
    #[command(flatten)]
    context: Context,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Show(show::Show),
    Ps(ps::Ps),
    Top(top::Top),
    Watch(watch::Watch),
    Trace(trace::Trace),
    Diff(diff::Diff),
    Send(send::Send),
    Set(set::Set),
    Clear(clear::Clear),
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
    /// Started by `check` as a test process.
    #[command(hide = true)]
    Idle,
    #[command(hide = true)]
    PluginDir(plugin_dir::PluginDir),
}

/// Runs the command.
pub fn run() -> ExitCode {
    let Arguments { context, command } = Arguments::parse();
    in_time::set_patience(context.timeout);
    let done = match command {
        Command::Show(show) => show.run(&context),
        Command::Ps(ps) => ps.run(&context),
        Command::Top(top) => top.run(&context),
        Command::Watch(watch) => watch.run(&context),
        Command::Trace(trace) => trace.run(&context),
        Command::Diff(diff) => diff.run(&context),
        Command::Send(send) => send.run(&context),
        Command::Set(set) => set.run(&context),
        Command::Clear(clear) => clear.run(&context),
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
        Command::Generate(generate) => generate.run(&context, Arguments::command()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_and_exit_codes() {
        let command = Arguments::command();
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let notes = sub
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            for heading in ["Examples:\n", "Exit codes:\n"] {
                assert!(notes.contains(heading), "{}: {heading:?}", sub.get_name());
            }
        }
    }

    /// The table of docs/exit-codes.md has each command's exit codes in the words of its help, and no others.
    #[test]
    fn exit_codes_are_documented() {
        let command = Arguments::command();
        let rows = command.get_subcommands().filter(|sub| !sub.is_hide_set());
        let rows: Vec<String> = rows.flat_map(rows_of).collect();
        let document = include_str!("../../docs/exit-codes.md");
        let table = document.lines().filter(|line| line.starts_with("| `"));
        assert_eq!(table.collect::<Vec<_>>(), rows);
    }

    fn rows_of(command: &clap::Command) -> Vec<String> {
        let notes = command.get_after_help().map(ToString::to_string);
        let notes = notes.unwrap_or_default();
        let (_, codes) = notes.split_once("Exit codes:\n").unwrap_or_default();
        let codes = codes.lines().map_while(|line| line.strip_prefix("  "));
        codes
            .filter_map(|line| line.split_once("  "))
            .map(|(code, is)| format!("| `{}` | {code} | {is} |", command.get_name()))
            .collect()
    }
}
