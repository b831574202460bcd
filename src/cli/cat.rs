//! `criu-signals cat`: prints the six files of a live process.

use std::io::{self, Write};
use std::process::ExitCode;

use criu_signals::error::{Cause, Error};
use criu_signals::images::Pid;
use criu_signals::images::text::{SigFile, render_waiters};
use criu_signals::proc_sig::{self, Subject, waiters};
use nix::errno::Errno;

use super::context::{self, Context, FAILED, Failure};

/// Prints signal state of live processes in the text format of the /proc/PID/sig/ kernel patches of 2007.
///
/// docs/proc-sig.md describes the format. Without a TID, `blocked`, `pending` and `altstack` are those of the thread
/// group leader.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  criu-signals cat 4711/blocked
  criu-signals cat 4711/4713/pending
  criu-signals cat 4711/action > action

Exit codes:
  0  all files were printed
  2  a file, or a possible waiter, could not be read; the others were printed")]
pub struct Cat {
    /// FILE is action, altstack, blocked, pending, shared_pending or waiters.
    #[arg(required = true, value_name = "PID[/TID]/FILE", value_parser = place)]
    files: Vec<Place>,
}

impl Cat {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        context.work_in_child()?;
        let mut out = io::stdout().lock();
        let mut unread = Vec::new();
        let mut closed: Vec<(Pid, usize)> = Vec::new();
        for Place { subject, file } in self.files {
            let text = if file == SigFile::Waiters {
                waiters::readable(subject).map(|mut found| {
                    unread.append(&mut found.unread);
                    render_waiters(&found.waiters)
                })
            } else if let Some((_, files)) = closed.iter_mut().find(|(pid, _)| *pid == subject.pid)
            {
                *files += 1;
                continue;
            } else {
                let read = proc_sig::read(subject, file, context.timeout);
                if read.as_ref().is_err_and(is_of_process) {
                    closed.push((subject.pid, 0));
                }
                read
            };
            match text {
                Ok(text) => out.write_all(text.as_bytes())?,
                Err(e) => unread.push(e),
            }
        }
        out.flush()?;
        for e in &unread {
            context::say(e);
        }
        for (pid, files) in closed.iter().filter(|(_, files)| *files > 0) {
            context::say(&format_args!(
                "process {pid}: {files} more files were not read for the same reason"
            ));
        }
        Ok(if unread.is_empty() {
            ExitCode::SUCCESS
        } else {
            FAILED.into()
        })
    }
}

/// Whether no file of the process can be read, so that waiting for further files is useless.
fn is_of_process(e: &Error) -> bool {
    matches!(
        e.cause(),
        Cause::Os(Errno::EPERM | Errno::ETIMEDOUT) | Cause::Unsupported(_)
    )
}

/// A file of a process or thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub subject: Subject,
    pub file: SigFile,
}

/// `PID/FILE` or `PID/TID/FILE`, and what [`context::subject`] takes for a process or thread.
pub fn place(text: &str) -> Result<Place, String> {
    let (subject, file) = text
        .rsplit_once('/')
        .ok_or("expected PID/FILE or PID/TID/FILE")?;
    Ok(Place {
        subject: context::subject(subject)?,
        file: file
            .parse()
            .map_err(|e: criu_signals::images::text::ParseSigFileError| e.to_string())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let own = std::process::id();
        let parsed = place(&format!("{own}/43/pending")).expect("a place");
        assert_eq!(parsed.subject.to_string(), format!("{own}/43"));
        assert_eq!(parsed.file, SigFile::Pending);
        for wrong in ["41", "pending", "41/", "41/what", "/pending", "x/pending"] {
            place(wrong).expect_err(wrong);
        }
    }
}
