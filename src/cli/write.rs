//! `criu-signals write`: one of the files of a live process, to be changed.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use criu_signals::images::Shown as _;
use criu_signals::images::text::Dialect;
use criu_signals::proc_sig::{self, Addresses};

use super::cat::{Place, place};
use super::context::{Context, Failure};

/// Writes one file of a live process, in the text that `cat` prints: all of it, or nothing.
///
/// `action` takes single lines as well. `pending` and `shared_pending` become exactly what is written. What is not
/// blocked is delivered as soon as the process goes on.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  criu-signals write 4711/action action
  criu-signals cat 4711/blocked | criu-signals write 4712/blocked
  criu-signals cat 4711/action | grep '^ *10 ' | criu-signals write 4712/action

Exit codes:
  0  it is written, and reads back
  2  nothing is written, and standard error says why: where the text is wrong, its line and column")]
pub struct Write {
    /// One of action, altstack, blocked, pending and shared_pending.
    #[arg(value_name = "PID[/TID]/FILE", value_parser = place)]
    place: Place,
    /// The text; standard input if there is none, or if it is `-`.
    text: Option<PathBuf>,
    /// The text is that of the patches of 2007, whose masks begin with column 0. Needed where a mask stands alone: the
    /// rest tells whose text it is.
    #[arg(long = "2007")]
    of_2007: bool,
    /// Write addresses of handlers, and of what they return to, even where the process has no code.
    #[arg(long)]
    force: bool,
}

impl Write {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let mut text = Vec::new();
        let name = match &self.text {
            Some(path) if path.as_os_str() != "-" => {
                text = fs::read(path).map_err(|e| format!("{}: {e}", path.shown()))?;
                path.shown().to_string()
            }
            _ => {
                io::stdin().read_to_end(&mut text)?;
                "standard input".to_owned()
            }
        };
        context.work_in_child()?;
        let Place { subject, file } = self.place;
        let dialect = self.of_2007.then_some(Dialect::Patches);
        let addresses = if self.force {
            Addresses::AsWritten
        } else {
            Addresses::Checked
        };
        let said = proc_sig::write(subject, file, &text, dialect, addresses, context.timeout);
        let said = said.map_err(|e| match e {
            proc_sig::WriteError::Text(e) => Failure::from(format!("{name}: {e}")),
            proc_sig::WriteError::Process(e) => e.into(),
        })?;
        for what in said {
            super::context::say(&what);
        }
        Ok(ExitCode::SUCCESS)
    }
}
