//! `criu-signals verify`: live processes, compared with images.

use std::io::Write;
use std::process::ExitCode;

use criu_signals::record;
use criu_signals::restore::Verdict;
use criu_signals::snapshot;

use super::pairs::Pairs;
use super::progress::Console;
use super::{Context, DIFFERS, Failure};

/// Compares live processes with their images, and changes nothing.
///
/// Compared are all that `restore` puts back, and whether threads that waited in a system call wait in it again. What
/// has arrived since the dump is a difference.
///
/// Exits with 0 if all is as it was dumped, with 1 if something differs, with 2 if that could not be told.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  criu-signals verify -D images\n  \
    criu-signals verify -D images --map 1:4711")]
pub struct Verify {
    #[command(flatten)]
    pairs: Pairs,
}

impl Verify {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let pairs = self.pairs.find()?;
        let mut console = Console::begin()?;
        let reports = snapshot::verify(&pairs, context.timeout, &mut console);
        console.end()?;
        let mut out = context.stdout();
        let mut same = true;
        for (pair, report) in pairs.iter().zip(reports?) {
            same &= report.verdict() == Verdict::Verified;
            writeln!(out, "{pair}")?;
            for line in record::lines(&report) {
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
