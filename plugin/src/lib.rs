//! The CRIU plugin: WHEN signal state is captured, checked and put back. How is the library's business.
//!
//! Hooks here only check, call and map the result. They always pass on, so that the plugins behind this one
//! (cuda's, amdgpu's) are called as well.
#![deny(unsafe_code)]

mod beneath;
mod dump;
mod notices;
mod parents;
mod report;
mod rest;
mod restore;
mod run_on;
mod settings;
mod timeouts;
mod timers;
mod zombies;

use std::ffi::CStr;

use criu_signals::criu::{
    self, AfterFailure, HookError, HookResult, Host, Plugin, Reply, Stage, export_plugin,
};
use criu_signals::images::Pid;
use criu_signals::plugin_file;
use nix::errno::Errno;

use dump::Dump;
use restore::Restore;
use settings::Settings;

/// The name in the inventory of an image folder. What is written there once has to stay.
const NAME: &CStr = c"signals_plugin";

/// One run of criu.
enum Signals {
    Dump(Box<Dump>),
    /// Only memory is dumped: nothing to do.
    PreDump,
    Restore(Box<Restore>),
}

/// Reads the settings, and says which.
fn settings() -> Result<Settings, HookError> {
    log::info!("{}", plugin_file::MARK);
    let settings = Settings::read()?;
    log::info!("{}", settings.in_force());
    for name in settings::unknown_variables() {
        log::warn!("{name} is in the environment, and is no setting");
    }
    Ok(settings)
}

/// The task of a hook. The SDK calls no hook with another number.
fn task(pid: criu::Pid) -> Result<Pid, HookError> {
    Pid::new(pid.as_raw()).ok_or_else(|| HookError::new(Errno::ESRCH, "that is no process"))
}

impl Plugin for Signals {
    const NAME: &'static CStr = NAME;
    const LOG_PREFIX: &'static str = "signals: ";

    fn init(stage: Stage, host: Host) -> Result<Self, HookError> {
        match stage {
            Stage::Dump => Ok(Signals::Dump(Box::new(Dump::begin(host, settings()?)?))),
            Stage::PreDump => Ok(Signals::PreDump),
            Stage::Restore => Ok(Signals::Restore(Box::new(Restore::begin(
                host,
                settings()?,
            )?))),
            other => Err(HookError::new(
                Errno::EINVAL,
                format!("this plugin does not know what to do at the stage {other}"),
            )),
        }
    }

    /// A pre-dump has no `exit` to take anything back in, and needs nothing.
    fn pause_devices(&mut self, pid: criu::Pid) -> HookResult {
        if let Signals::Dump(dump) = self {
            dump.before_seize(task(pid)?);
        }
        Ok(Reply::PassOn)
    }

    fn checkpoint_devices(&mut self, pid: criu::Pid) -> HookResult {
        if let Signals::Dump(dump) = self {
            dump.capture(task(pid)?)?;
        }
        Ok(Reply::PassOn)
    }

    fn resume_devices_late(&mut self, pid: criu::Pid) -> HookResult {
        if let Signals::Restore(restore) = self {
            restore.check(task(pid)?)?;
        }
        Ok(Reply::PassOn)
    }

    fn resume_failed(&mut self, pid: criu::Pid) -> AfterFailure {
        match (self, Pid::new(pid.as_raw())) {
            (Signals::Restore(restore), Some(pid)) => restore.after_failure(pid),
            _ => AfterFailure::FailRestore,
        }
    }

    fn exit(self, _stage: Stage, ret: i32) {
        match self {
            Signals::Dump(dump) => dump.end(ret),
            Signals::PreDump => {}
            Signals::Restore(restore) => restore.end(ret),
        }
    }
}

export_plugin!(
    Signals,
    [pause_devices, checkpoint_devices, resume_devices_late]
);
