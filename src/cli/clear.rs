//! `criu-signals clear`: removes pending signals of a live process.

use std::io::Write as _;
use std::process::ExitCode;

use clap::ValueEnum;
use criu_signals::images::{SigNo, SigSet};
use criu_signals::proc_sig::{self, Subject};

use super::context::{self, Context, Failure};
use super::set;

/// Removes pending signals of a live process without delivering them, and prints each removed signal.
///
/// With PID the signals are removed from the shared queue and from the private queues of all threads; with PID/TID from the
/// private queue of the thread. If a step fails, all queues are as before. Signals that arrive meanwhile stay pending.
#[derive(clap::Args)]
#[command(after_help = "\
A signal that a POSIX timer has queued itself can't be removed, because only its delivery arms the timer again; the command
then changes nothing. SIGKILL and SIGSTOP are never pending. SIGNAL is a name or number, a range (RTMIN..RTMIN+3), or
several of them separated by commas.

Examples:
  criu-signals clear 4711 pending
  criu-signals clear 4711 pending USR1 RTMIN..RTMAX
  criu-signals clear 4711/4713 pending SEGV

Exit codes:
  0  none of these signals is pending any more, except signals that have arrived meanwhile
  2  nothing was removed, unless standard error says so; standard error gives the reason")]
pub struct Clear {
    /// The process, or one of its threads.
    #[arg(value_name = "PID[/TID]", value_parser = context::subject)]
    subject: Subject,
    /// What to clear.
    what: What,
    /// The signals. If omitted, all except 32 and 33, which glibc needs for itself.
    #[arg(value_name = "SIGNAL", value_parser = set::signals)]
    signals: Vec<SigSet>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// Pending signals.
    Pending,
}

impl Clear {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let named = self.signals.iter().copied().reduce(SigSet::union);
        for signo in [SigNo::KILL, SigNo::STOP] {
            if named.is_some_and(|named| named.contains(signo)) {
                let why = "is never pending: the signal takes effect as soon as it is sent";
                return Err(format!("{signo} {why}").into());
            }
        }
        context.work_in_child()?;
        let signals = named.unwrap_or(set::all());
        let all = proc_sig::clear(self.subject, signals, context.timeout)?;
        let mut out = context.stdout();
        if all.is_empty() {
            writeln!(out, "nothing to remove")?;
        }
        for removed in &all {
            for line in removed.lines() {
                writeln!(out, "removed from the {line}")?;
            }
            if !removed.again.is_empty() {
                let again = removed.again;
                writeln!(out, "pending again, because it arrived meanwhile: {again}")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
