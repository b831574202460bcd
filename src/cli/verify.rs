//! `criu-signals verify`: compares live processes with images.

use std::io::Write;
use std::process::ExitCode;

use criu_signals::engine::repair::{Report, Verdict};
use criu_signals::images::{CodePlace, image};
use criu_signals::live::{self, Cgroup, Pair};
use criu_signals::log_lines;
use criu_signals::machine::{self, Machine};
use criu_signals::proc::SignalStatus;
use criu_signals::symbols;

use super::context::{Context, DIFFERS, Failure};
use super::pairs::Pairs;
use super::progress::Console;

const EXAMPLES: &str = "\
Examples:
  criu-signals verify -D images
  criu-signals verify -D images --map 1:4711
  criu-signals verify -D images --cgroup /sys/fs/cgroup/machine.slice/web
  criu-signals verify -D checkpoint.tar.zst --map 1:4711";

const EXIT_CODES: &str = "\
Exit codes:
  0  the processes match their images
  1  at least one difference, or with --cgroup a process without an image or an image without a process
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
    /// Compare every process of this cgroup and of the cgroups below with the image that has the process's pid in its own
    /// pid namespace, also where that namespace is another one than at the dump, as in a restored container. A process
    /// without an image and an image without a process are differences.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["only", "others"])]
    cgroup: Option<String>,
}

impl Verify {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let folder = self.pairs;
        let cgroup = self.cgroup.as_deref().map(Cgroup::open).transpose()?;
        let (pairs, absent) = match &cgroup {
            Some(cgroup) => {
                let members = folder.find_in(cgroup)?;
                (members.pairs, members.absent)
            }
            None => (folder.find()?, Vec::new()),
        };
        context.work_in_child()?;
        let others = machine::others(pairs.iter().map(|pair| Machine::recorded_in(&pair.image)))?;
        let mut console = Console::begin()?;
        let reports = match &cgroup {
            Some(cgroup) => live::verify_members(&pairs, cgroup, context.timeout, &mut console),
            None => live::verify(&pairs, context.timeout, &mut console)
                .map(|reports| (reports, Vec::new())),
        };
        console.end()?;
        let (reports, unknown) = reports?;
        let mut out = context.stdout();
        for what in others {
            writeln!(out, "{what}")?;
        }
        let mut same = absent.is_empty() && unknown.is_empty();
        for (pair, report) in pairs.iter().zip(reports) {
            same &= report.verdict() == Verdict::Verified;
            writeln!(out, "{pair}")?;
            let (dumped, found) = names(&folder, pair, &report);
            for line in log_lines::lines_with_names(&report, [&dumped, &found]) {
                writeln!(out, "{line}")?;
            }
        }
        for old in absent {
            let name = image::file_name(old);
            writeln!(
                out,
                "{name}: no process of the cgroup has this pid in its own pid namespace"
            )?;
        }
        for pid in unknown {
            let comm = SignalStatus::read(pid, pid.into()).map(|status| status.comm.to_string());
            let comm = comm.map(|comm| format!(" ({comm})")).unwrap_or_default();
            writeln!(
                out,
                "pid {pid}{comm}: no image belongs to this process of the cgroup"
            )?;
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
