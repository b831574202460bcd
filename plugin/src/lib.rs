//! The CRIU plugin: CRIU's hooks, the settings, and the files of the report and of the metrics. The work is done by the library, in
//! [`criu_signals::checkpoint`].
//!
//! A hook only checks its arguments, calls the library and maps the result. Every hook answers "pass on", so that CRIU
//! also calls the other plugins (cuda, amdgpu).
#![deny(unsafe_code)]

mod beneath;
mod metrics;
mod new_file;
mod report;
mod settings;

use std::ffi::CStr;

use criu_signals::checkpoint::INVENTORY_NAME;
use criu_signals::checkpoint::dump::Dump;
use criu_signals::checkpoint::options::Options;
use criu_signals::checkpoint::pre_dump::PreDump;
use criu_signals::checkpoint::recorder::Recorder;
use criu_signals::checkpoint::restore::Restore;
use criu_signals::criu::{
    self, AfterFailure, HookError, HookResult, Host, Plugin, Reply, Stage, export_plugin,
};
use criu_signals::images::Pid;
use criu_signals::plugin_file;
use criu_signals::run_report;
use nix::errno::Errno;

use metrics::MetricsFile;
use report::Report;
use settings::Settings;

/// One run of criu.
enum Signals {
    Dump(Box<Dump>, Outputs),
    /// Only memory is dumped: there are no settings, no report and no metrics.
    PreDump(Box<PreDump>),
    Restore(Box<Restore>, Outputs),
}

/// What is written when the run is over.
struct Outputs {
    report: Report,
    metrics: MetricsFile,
}

impl Outputs {
    fn write(self, run: &run_report::Document) {
        self.report.write(run);
        self.metrics.count(run);
    }
}

fn begin_dump(host: Host) -> Result<Signals, HookError> {
    let stage = run_report::Stage::Dump;
    let (options, outputs) = prepare(stage, host)?;
    let recorder = Recorder::begin(stage, host, options.policy);
    let dump = Dump::begin(host, options, recorder)?;
    Ok(Signals::Dump(Box::new(dump), outputs))
}

fn begin_restore(host: Host) -> Result<Signals, HookError> {
    let stage = run_report::Stage::Restore;
    let (options, outputs) = prepare(stage, host)?;
    let recorder = Recorder::begin(stage, host, options.policy);
    let mut restore = Restore::begin(host, options, recorder)?;
    match restore.examine() {
        Ok(()) => Ok(Signals::Restore(Box::new(restore), outputs)),
        Err(e) => {
            // CRIU calls no other hook of this run.
            outputs.write(&restore.refused(e.to_string()));
            Err(e)
        }
    }
}

/// What the library is told, and where the results of the run go.
fn prepare(stage: run_report::Stage, host: Host) -> Result<(Options, Outputs), HookError> {
    let Settings {
        options,
        report,
        metrics,
        ..
    } = settings(host)?;
    let report = Report::create(stage, host, options.policy, report.as_ref())?;
    let metrics = MetricsFile::open(metrics);
    Ok((options, Outputs { report, metrics }))
}

/// Reads the settings, and says which.
fn settings(host: Host) -> Result<Settings, HookError> {
    log::info!("{}", plugin_file::MARK);
    let options = host
        .plugin_options(settings::PLUGIN)
        .map_err(|e| HookError::new(Errno::EINVAL, e.to_string()))?;
    let settings = Settings::read(&options)?;
    log::info!("{}", settings.in_force());
    for name in settings::unknown_variables() {
        log::warn!("{name} is in the environment, but is not a setting");
    }
    Ok(settings)
}

/// The task of a hook. The SDK calls no hook with another number.
fn task(pid: criu::Pid) -> Result<Pid, HookError> {
    Pid::new(pid.as_raw()).ok_or_else(|| HookError::new(Errno::ESRCH, "not a process"))
}

impl Plugin for Signals {
    const NAME: &'static CStr = INVENTORY_NAME;
    const LOG_PREFIX: &'static str = "signals: ";

    fn init(stage: Stage, host: Host) -> Result<Self, HookError> {
        match stage {
            Stage::Dump => begin_dump(host),
            Stage::PreDump => Ok(Signals::PreDump(Box::new(PreDump::begin()))),
            Stage::Restore => begin_restore(host),
            other => Err(HookError::new(
                Errno::EINVAL,
                format!("this plugin does not support the stage {other}"),
            )),
        }
    }

    fn pause_devices(&mut self, pid: criu::Pid) -> HookResult {
        match self {
            Signals::Dump(dump, _) => dump.before_seize(task(pid)?),
            Signals::PreDump(pre_dump) => pre_dump.before_seize(task(pid)?),
            Signals::Restore(..) => {}
        }
        Ok(Reply::PassOn)
    }

    /// In a pre-dump only with the patch of docs/upstream/pre-dump.md, as well as `exit`.
    fn checkpoint_devices(&mut self, pid: criu::Pid) -> HookResult {
        match self {
            Signals::Dump(dump, _) => dump.capture(task(pid)?)?,
            Signals::PreDump(pre_dump) => pre_dump.capture(task(pid)?),
            Signals::Restore(..) => {}
        }
        Ok(Reply::PassOn)
    }

    fn resume_devices_late(&mut self, pid: criu::Pid) -> HookResult {
        if let Signals::Restore(restore, _) = self {
            restore.check(task(pid)?)?;
        }
        Ok(Reply::PassOn)
    }

    fn resume_failed(&mut self, pid: criu::Pid) -> AfterFailure {
        match (self, Pid::new(pid.as_raw())) {
            (Signals::Restore(restore, _), Some(pid)) => restore.after_failure(pid),
            _ => AfterFailure::FailRestore,
        }
    }

    fn exit(self, _stage: Stage, ret: i32) {
        match self {
            Signals::Dump(dump, outputs) => outputs.write(&dump.end(ret)),
            Signals::PreDump(pre_dump) => pre_dump.end(ret),
            Signals::Restore(restore, outputs) => outputs.write(&restore.end(ret)),
        }
    }
}

export_plugin!(
    Signals,
    [pause_devices, checkpoint_devices, resume_devices_late]
);
