//! `criu-signals verify`: compares live processes with images.

use std::io::Write;
use std::process::ExitCode;

use criu_signals::engine::repair::{Report, Verdict};
use criu_signals::images::CodePlace;
use criu_signals::live::{self, Pair};
use criu_signals::log_lines;
use criu_signals::machine::{self, Machine};
use criu_signals::symbols;

use super::context::{Context, DIFFERS, Failure};
use super::pairs::Pairs;
use super::progress::Console;

const EXAMPLES: &str = "\
Examples:
  criu-signals verify -D images
  criu-signals verify -D images --map 1:4711
  criu-signals verify -D checkpoint.tar.zst --map 1:4711";

const EXIT_CODES: &str = "\
Exit codes:
  0  the processes match their images
  1  at least one difference
  2  a process or an image could not be read";

/// Compares live processes with their images, without changing anything.
///
/// Compares everything that `restore` restores, the exit signal, which POSIX timers there are, and whether threads that
/// waited in a system call wait in the same call again. A signal that arrived since the dump is a difference. A line "not
/// compared:" names state that the verdict does not cover.
#[derive(clap::Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Verify {
    #[command(flatten)]
    pairs: Pairs,
}

impl Verify {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let folder = self.pairs;
        let pairs = folder.find()?;
        context.work_in_child()?;
        let others = machine::others(pairs.iter().map(|pair| Machine::recorded_in(&pair.image)))?;
        let mut console = Console::begin()?;
        let reports = live::verify(&pairs, context.timeout, &mut console);
        console.end()?;
        let mut out = context.stdout();
        for what in others {
            writeln!(out, "{what}")?;
        }
        let mut same = true;
        for (pair, report) in pairs.iter().zip(reports?) {
            same &= report.verdict() == Verdict::Verified;
            writeln!(out, "{pair}")?;
            let (dumped, found) = names(&folder, pair, &report);
            for line in log_lines::lines_with_names(&report, [&dumped, &found]) {
                writeln!(out, "{line}")?;
            }
        }
        Ok(if same {
            ExitCode::SUCCESS
        } else {
            DIFFERS.into()
        })
    }
}

/// Names of the addresses in those dispositions that differ: in the image, and in the process as it is now. An address whose name
/// is not found out is shown alone.
fn names(folder: &Pairs, pair: &Pair, report: &Report) -> (Vec<CodePlace>, Vec<CodePlace>) {
    let both = report
        .findings
        .iter()
        .filter_map(|(d, _)| d.dispositions.as_ref());
    let found: Vec<u64> = both.flat_map(|both| both[1].addresses()).collect();
    if !report
        .findings
        .iter()
        .any(|(d, _)| d.dispositions.is_some())
    {
        return (Vec::new(), Vec::new());
    }
    let now = symbols::of_process(pair.pid, &found).unwrap_or_default();
    (folder.names(&pair.image), now)
}
