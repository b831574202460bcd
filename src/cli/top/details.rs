//! The details of the process under the cursor.

use anstream::StripStream;
use criu_signals::bpf::process::ProcessReader;
use criu_signals::images::{CodePlace, Dispositions, Pid, SignalFiles};
use criu_signals::proc;
use criu_signals::reading::Read as _;

use crate::cli::context::Failure;
use crate::cli::show;
use crate::cli::source::{self, Found, Observed, Origin};

/// Reads processes by BPF and in no other way: a list is no reason to stop a process.
pub struct Details {
    reader: Result<ProcessReader, String>,
    /// Of the process that was read last: its files are not read again as long as its handlers are the same.
    names: Option<(Pid, Dispositions, Result<Vec<CodePlace>, String>)>,
}

impl Details {
    pub fn new() -> Details {
        Details {
            reader: ProcessReader::new().map_err(|e| e.to_string()),
            names: None,
        }
    }

    /// The state of the process, as lines of text.
    pub fn lines(&mut self, pid: Pid) -> Vec<String> {
        let text = self.read(pid).unwrap_or_else(|why| why.to_string());
        text.lines().map(str::to_owned).collect()
    }

    fn read(&mut self, pid: Pid) -> Result<String, Failure> {
        let reader = self.reader.as_mut().map_err(|why| why.clone())?;
        let program = proc::auxiliary_vector(pid);
        let reading = reader.read(pid)?;
        let dispositions = &reading.process.dispositions;
        let names = match self.names.take() {
            Some((known, of, names)) if known == pid && of == *dispositions => names,
            _ => source::names_of_live(pid, &reading, program),
        };
        self.names = Some((pid, dispositions.clone(), names.clone()));
        let observed = Observed {
            waiting: reading.waiting.clone(),
            surroundings: reading.surroundings.clone(),
            clocks: None,
            files: SignalFiles::default(),
        };
        let found = Found {
            name: format!("process {pid}"),
            origin: Origin::Live,
            recorded: reading.recorded()?,
            depths: None,
            observed,
            names,
        };
        let mut text = StripStream::new(Vec::new());
        show::table(&found, &mut text)?;
        Ok(String::from_utf8_lossy(&text.into_inner()).into_owned())
    }
}
