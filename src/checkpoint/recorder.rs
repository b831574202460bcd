//! Collects the report of a run during the run.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use criu_signals_images::Pid;

use crate::checkpoint::options::Policy;
use crate::criu::Host;
use crate::run_report::{Criu, Document, Notice, Outcome, Process, Stage, VERSION};

/// What is known of a run so far.
#[derive(Debug)]
pub struct Recorder {
    document: Document,
    started: Instant,
    /// The plugin itself has made the run fail.
    refused: bool,
}

impl Recorder {
    /// Begins the report of a run.
    pub fn begin(stage: Stage, host: Host, policy: Policy) -> Recorder {
        let images = host.image_dir().ok().and_then(|dir| {
            let link = std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()));
            Some(link.ok()?.to_string_lossy().into_owned())
        });
        Recorder {
            document: Document {
                report_version: VERSION,
                plugin_version: env!("CARGO_PKG_VERSION").to_owned(),
                stage,
                outcome: Outcome::Failed,
                criu: Criu {
                    pid: std::process::id(),
                    versions: host.versions().map(str::to_owned),
                    result: None,
                },
                images,
                policy: policy.to_string(),
                duration_us: 0,
                processes: Vec::new(),
                notices: Vec::new(),
                errors: Vec::new(),
            },
            started: Instant::now(),
            refused: false,
        }
    }

    /// Logs an error, and keeps it for the report.
    pub fn error(&mut self, what: impl Into<String>) {
        let what = what.into();
        log::error!("{what}");
        self.document.errors.push(what);
    }

    /// Messages that belong to no process of the report.
    pub fn notices(&mut self, notices: Vec<Notice>) {
        self.document.notices.extend(notices);
    }

    /// The work on one process, begun at `started`, is complete.
    pub fn process(&mut self, process: Process, started: Instant) {
        self.document.processes.push(Process {
            duration_us: micros(started.elapsed()),
            ..process
        });
    }

    /// Is this process in the report?
    pub fn has(&self, pid: Pid) -> bool {
        let mut known = self.document.processes.iter();
        known.any(|process| process.pid == Some(pid.get()))
    }

    /// Notes that the plugin makes the run fail.
    pub fn refuse(&mut self) {
        self.refused = true;
    }

    /// The whole report. `result` is criu's; `None` if the plugin has refused the run because of `why`.
    #[must_use]
    pub fn finish(mut self, result: Option<i32>, why: Option<String>) -> Document {
        self.document.errors.extend(why);
        self.document.criu.result = result;
        self.document.duration_us = micros(self.started.elapsed());
        self.document.outcome = self.document.overall(self.refused || result.is_none());
        self.document
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
