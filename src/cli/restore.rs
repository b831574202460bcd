//! `criu-signals restore`: restores images into live processes.

use std::io::Write;
use std::process::ExitCode;

use criu_signals::engine::repair::{Arrived, Verdict};
use criu_signals::live::{self, Options};
use criu_signals::log_lines;
use criu_signals::machine::{self, Machine};

use super::context::{Context, DIFFERS, Failure};
use super::pairs::Pairs;
use super::progress::Console;

const EXAMPLES: &str = "\
Examples:
  criu-signals restore -D images
  criu-signals restore -D images --map 4711:5003 --map 4712:5004
  criu-signals restore -D images -t 5003";

const EXIT_CODES: &str = "\
Exit codes:
  0  the processes match their images
  1  some state could not be restored
  2  the restore was not attempted, or a process could not be read";

/// Restores dumped signal state into live processes.
///
/// Restores dispositions, masks, alternate stacks, pending signals with their siginfos, queue entries of POSIX timers,
/// interval timers, SIGIO owners of files if the image records them, RLIMIT_SIGPENDING, parent-death signals and the group
/// stop. Does not create or delete threads or POSIX timers, cannot set the exit signal, and does not touch the system calls
/// in which threads wait. Signals that arrived since the dump stay pending, queued after the signals of the dump. Prints a
/// line with the verdict for each process, a line for each difference, and a line "not compared:" with state that the
/// verdict does not cover.
#[derive(clap::Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Restore {
    #[command(flatten)]
    pairs: Pairs,
    /// Remove pending signals that were not pending at the dump.
    #[arg(long)]
    exact: bool,
    /// Restore even if the process runs another program than the image, in which handlers and stacks have other
    /// addresses.
    #[arg(long)]
    force: bool,
}

impl Restore {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let pairs = self.pairs.find()?;
        context.work_in_child()?;
        let others = machine::others(pairs.iter().map(|pair| Machine::recorded_in(&pair.image)))?;
        let mut out = context.stdout();
        // Before anything is done to them, and whatever becomes of it.
        for pair in &pairs {
            writeln!(out, "{pair}")?;
        }
        out.flush()?;
        let options = Options {
            arrived: if self.exact {
                Arrived::TakenOut
            } else {
                Arrived::Kept
            },
            force: self.force,
        };
        let mut console = Console::begin()?;
        let reports = live::restore(&pairs, options, context.timeout, &mut console);
        console.end()?;
        for what in others {
            writeln!(out, "{what}")?;
        }
        let (mut failed, mut differs) = (false, false);
        for (pair, report) in pairs.iter().zip(reports?) {
            match report {
                Ok(report) => {
                    differs |= !matches!(report.verdict(), Verdict::Verified | Verdict::Repaired);
                    for line in log_lines::lines(&report) {
                        writeln!(out, "{line}")?;
                    }
                    for (_, lost) in &report.lost {
                        writeln!(out, "pid {}: {lost}", pair.pid)?;
                    }
                }
                Err(e) => {
                    failed = true;
                    writeln!(out, "pid {}: verdict={}", pair.pid, Verdict::Failed)?;
                    writeln!(out, "{e}")?;
                }
            }
        }
        Ok(match (failed, differs) {
            (true, _) => super::context::FAILED.into(),
            (_, true) => DIFFERS.into(),
            _ => ExitCode::SUCCESS,
        })
    }
}
