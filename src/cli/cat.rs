//! `criu-signals cat`: prints the six files of a live process.

use std::io::{self, Write};
use std::process::ExitCode;

use criu_signals::images::text::SigFile;
use criu_signals::proc_sig::{self, Subject};

use super::context::{self, Context, Failure};

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
  2  a file could not be read")]
pub struct Cat {
    /// FILE is action, altstack, blocked, pending, shared_pending or waiters.
    #[arg(required = true, value_name = "PID[/TID]/FILE", value_parser = place)]
    files: Vec<Place>,
}

impl Cat {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        context.work_in_child()?;
        let mut out = io::stdout().lock();
        for Place { subject, file } in self.files {
            let text = proc_sig::read(subject, file, context.timeout)?;
            out.write_all(text.as_bytes())?;
        }
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A file of a process or thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub subject: Subject,
    pub file: SigFile,
}

/// `PID/FILE` or `PID/TID/FILE`.
pub fn place(text: &str) -> Result<Place, String> {
    let (subject, file) = text
        .rsplit_once('/')
        .ok_or("expected PID/FILE or PID/TID/FILE")?;
    let subject: Subject = subject
        .parse()
        .map_err(|e: proc_sig::ParseSubjectError| e.to_string())?;
    context::existing(subject.pid)?;
    Ok(Place {
        subject,
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
