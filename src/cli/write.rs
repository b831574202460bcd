//! `criu-signals write`: writes one of the six files of a live process.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use criu_signals::error::Phase;
use criu_signals::images::Shown as _;
use criu_signals::images::text::Dialect;
use criu_signals::proc_sig::{self, Addresses, WriteError};
use criu_signals::process::same_program::SameProgram;

use super::cat::{Place, place};
use super::context::{Context, Failure};

/// Changes signal state of a live process, from text in the format that `cat` prints.
///
/// Either the whole text takes effect or none of it. `action` also accepts a subset of the lines; the other signals
/// keep their dispositions. `pending` and `shared_pending` replace the whole queue. Signals that are not blocked are
/// delivered as soon as the process resumes.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  criu-signals write 4711/action action
  criu-signals cat 4711/blocked | criu-signals write 4712/blocked
  criu-signals cat 4711/action | grep '^ *10 ' | criu-signals write 4712/action

Exit codes:
  0  the state was written and read back
  2  nothing was changed, unless standard error says so; standard error gives the reason, and for an error in the text its line and column")]
pub struct Write {
    /// FILE is action, altstack, blocked, pending or shared_pending.
    #[arg(value_name = "PID[/TID]/FILE", value_parser = place)]
    place: Place,
    /// Name of a file that contains the text; not the text itself. Standard input if omitted or `-`.
    #[arg(value_name = "TEXTFILE")]
    text: Option<PathBuf>,
    /// The text was printed by the kernel patches of 2007, whose masks begin with column 0. Needed only for a mask by
    /// itself; every other text identifies its format.
    #[arg(long = "2007")]
    of_2007: bool,
    /// Accept handler and restorer addresses at which the process has no executable memory.
    #[arg(long)]
    force: bool,
}

/// What the argument may have been taken for.
fn hint(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::NotFound => {
            " (the argument is a file with the text; to change single signals use `criu-signals set` and `clear`)"
        }
        _ => "",
    }
}

impl Write {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let Place { subject, file } = self.place;
        if !file.is_writable() {
            return Err(format!("{file} is read-only: only the waiter can begin a wait").into());
        }
        // The text may be long in coming.
        let seen =
            SameProgram::look(subject.pid).map_err(|e| e.during(Phase::Seize, subject.pid))?;
        let mut bytes = Vec::new();
        let name = match &self.text {
            Some(path) if path.as_os_str() != "-" => {
                bytes = fs::read(path)
                    .map_err(|e| format!("read {}: {e}{}", path.shown(), hint(&e)))?;
                path.shown().to_string()
            }
            _ => {
                io::stdin().read_to_end(&mut bytes)?;
                "standard input".to_owned()
            }
        };
        context.work_in_child()?;
        let dialect = self.of_2007.then_some(Dialect::Patches);
        let addresses = if self.force {
            Addresses::AsWritten
        } else {
            Addresses::Checked
        };
        let (seen, timeout) = (Some(&seen), context.timeout);
        let said = proc_sig::write(subject, file, &bytes, dialect, addresses, seen, timeout);
        let said = said.map_err(|e| match e {
            WriteError::Text(e) => Failure::from(format!("{name}: {e}")),
            WriteError::Process(e) => e.into(),
        })?;
        for what in said {
            super::context::say(&what);
        }
        Ok(ExitCode::SUCCESS)
    }
}
