//! `criu-signals show`: the signal state of processes, for people.

use std::io::{self, Write};
use std::process::ExitCode;

use criu_signals::images::{NsIds, Pending, ProcessState, SigNo};

use super::{Context, Failure, source};

/// How many entries of a queue are printed unless all are asked for.
const SUMMARY: usize = 10;

/// Shows the signal state of live processes, of images, or of all images in a folder.
#[derive(clap::Args)]
pub struct Show {
    /// A pid, a signals-PID.img, or a folder that holds some.
    #[arg(required = true, value_name = "PID|IMAGE|FOLDER")]
    what: Vec<String>,
    /// Print every entry of long queues.
    #[arg(long)]
    all: bool,
}

impl Show {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let mut out = io::stdout().lock();
        let mut first = true;
        for what in &self.what {
            for image in source::load(what, context)? {
                if !std::mem::take(&mut first) {
                    writeln!(out)?;
                }
                process(&mut out, &image.process, self.all)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn process(out: &mut impl Write, process: &ProcessState, all: bool) -> io::Result<()> {
    let kind = if process.compat { ", 32-bit" } else { "" };
    writeln!(
        out,
        "process {} ({}{kind}), {}",
        ids(&process.ids),
        process.comm,
        process.run_state
    )?;
    writeln!(
        out,
        "  RLIMIT_SIGPENDING: {}; charged to its uid: {}",
        process.rlimit_sigpending, process.queued
    )?;

    let set: Vec<_> = SigNo::all()
        .filter(|&s| !process.dispositions[s].is_default_handler())
        .collect();
    writeln!(out, "  dispositions: {} of 64 not default", set.len())?;
    for signo in set {
        writeln!(out, "    {signo:<12} {}", process.dispositions[signo])?;
    }
    pending(out, "  ", "shared", &process.shared, all)?;
    for thread in &process.threads {
        writeln!(out, "  thread {}", ids(&thread.ids))?;
        writeln!(out, "    blocked: {}", thread.blocked)?;
        if let Some(saved) = thread.saved_mask {
            writeln!(out, "    blocked when the present call has ended: {saved}")?;
        }
        writeln!(out, "    alternate stack: {}", thread.altstack)?;
        if let Some(call) = thread.interrupted {
            writeln!(out, "    waiting in {call}")?;
        }
        pending(out, "    ", "private", &thread.pending, all)?;
    }
    Ok(())
}

fn pending(
    out: &mut impl Write,
    indent: &str,
    name: &str,
    pending: &Pending,
    all: bool,
) -> io::Result<()> {
    if pending.bits.is_empty() {
        return writeln!(out, "{indent}{name} queue: empty");
    }
    writeln!(
        out,
        "{indent}{name} queue: {} entries ({})",
        pending.queue.len(),
        pending.bits
    )?;
    let shown = if all { pending.queue.len() } else { SUMMARY };
    for info in pending.queue.iter().take(shown) {
        writeln!(out, "{indent}  {info}")?;
    }
    if let Some(more) = pending.queue.len().checked_sub(shown).filter(|&n| n > 0) {
        writeln!(out, "{indent}  and {more} more (--all)")?;
    }
    let bare = pending.bits_without_info();
    if !bare.is_empty() {
        writeln!(out, "{indent}  without siginfo: {bare}")?;
    }
    Ok(())
}

/// The id that the reader sees, and where it differs the one that the process sees.
fn ids(ids: &NsIds) -> String {
    if ids.as_slice().len() == 1 {
        ids.outermost().to_string()
    } else {
        format!(
            "{} ({} in its own pid namespace)",
            ids.outermost(),
            ids.innermost()
        )
    }
}
