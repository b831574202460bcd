//! `criu-signals restore`: images, put into live processes.

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
  0  all is as in the images
  1  something could not be put back
  2  it was not tried, or a process could not be looked at";

/// Puts dumped signal state into live processes.
///
/// Dispositions, masks, alternate stacks, pending signals with their siginfos, POSIX timers' entries, RLIMIT_SIGPENDING,
/// parent-death signals and the stop are put back; system calls that threads wait in are left alone. Signals that have
/// arrived since the dump stay pending, behind those of the dump. A line for each process says what became of it, and
/// one for each difference.
///
/// Exits with 0 if all is as it was dumped, with 1 if something could not be put back, with 2 if nothing was tried, or a
/// process could not be looked at.
#[derive(clap::Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Restore {
    #[command(flatten)]
    pairs: Pairs,
    /// Take out signals that are pending now and were not at the dump.
    #[arg(long)]
    exact: bool,
    /// Restore into another program than the image's, too: its handlers and stacks are elsewhere.
    #[arg(long)]
    force: bool,
}

impl Restore {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let pairs = self.pairs.find()?;
        context.work_in_child()?;
        let others = machine::others(pairs.iter().map(|pair| Machine::of(&pair.image)))?;
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
