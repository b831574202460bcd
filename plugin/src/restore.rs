//! `criu restore`: every task, whole again and still stopped, compared with what was captured of it.

use criu_signals::criu::{HookError, Host};
use criu_signals::error::{Cause, Error, Phase, Result};
use criu_signals::images::{Image, Pid, image};
use criu_signals::restore::{Mode, Verdict, check};
use criu_signals::tracee::{ByHost, StoppedProcess};
use criu_signals::{record, restore::Report};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};

use crate::NAME;
use crate::settings::{Policy, Settings};

/// What a restore has looked at so far.
pub struct Restore {
    host: Host,
    policy: Policy,
    /// Images that there are, by the pid in their names, and have not been asked for.
    left: Vec<i32>,
}

impl Restore {
    pub fn begin(host: Host, settings: Settings) -> std::result::Result<Restore, HookError> {
        let recorded = host.check_and_remove_inventory_plugin(NAME);
        let left = record::captured_processes(host.image_dir()?)?;
        let policy = settings.policy;
        if left.is_empty() {
            // Not a word about these images in the inventory either: they were made without this plugin.
            let what = "these images hold no signal state: they were made without this plugin, or its files are gone";
            if policy == Policy::Strict {
                return Err(HookError::new(Errno::ENOENT, what));
            }
            if recorded == Some(true) {
                log::error!("{what}");
            } else {
                log::warn!("{what}");
            }
        }
        log::info!("policy={policy}, {} processes to check", left.len());
        Ok(Restore { host, policy, left })
    }

    /// Checks one process. An error makes the restore fail: by [`Restore::refuse`] up to CRIU 4.2, which ignores
    /// what the hook returns, and by itself from 4.3 on.
    pub fn check(&mut self, pid: Pid) -> std::result::Result<(), HookError> {
        let verdict = match self.compare(pid) {
            Ok(report) => {
                for line in record::lines(&report) {
                    match report.verdict() {
                        Verdict::Verified => log::info!("{line}"),
                        Verdict::Repaired | Verdict::Differs => log::warn!("{line}"),
                        Verdict::Failed => log::error!("{line}"),
                    }
                }
                report.verdict()
            }
            Err(e) => {
                log::error!("pid {pid}: verdict={}", Verdict::Failed);
                log::error!("{e}");
                Verdict::Failed
            }
        };
        if self.policy == Policy::Strict && verdict == Verdict::Failed {
            return Err(HookError::new(
                Errno::EIO,
                "signal state is not as it was captured, and policy=strict",
            ));
        }
        Ok(())
    }

    fn compare(&mut self, pid: Pid) -> Result<Report> {
        let during = |e: Error| e.during(Phase::Verify, pid);
        let stopped = StoppedProcess::<ByHost>::of_host(pid).map_err(during)?;
        let image = self
            .image_of(pid)
            .map_err(|e| e.during(Phase::Image, pid))?;
        let mode = if self.policy == Policy::Report {
            Mode::Report
        } else {
            Mode::Repair
        };
        check(&stopped, &image.process, mode)
    }

    fn image_of(&mut self, pid: Pid) -> Result<Image> {
        let innermost = record::innermost(pid)?;
        self.left.retain(|&left| left != innermost);
        let dir = self.host.image_dir().map_err(|e| {
            Error::new(
                "find the image folder",
                Cause::Unsupported(e.to_string().into()),
            )
        })?;
        let name = image::file_name(innermost);
        image::open_in(dir, innermost)
            .map_err(|e| Error::new(format!("read {name}"), Cause::Image(e)))?
            .ok_or_else(|| {
                Error::new(
                    format!("read {name}"),
                    Cause::Unsupported("there is no such image: nothing checked".into()),
                )
            })
    }

    /// Without this task CRIU cannot finish, and kills the others.
    pub fn refuse(&self, pid: Pid) {
        if self.policy != Policy::Strict {
            return;
        }
        log::error!("pid {pid}: killed, so that the restore fails (policy=strict)");
        if let Err(e) = kill(nix::unistd::Pid::from_raw(pid.0), Signal::SIGKILL) {
            log::error!("kill: pid {pid}: {e}");
        }
    }

    pub fn end(self, ret: i32) {
        if ret != 0 {
            return;
        }
        for pid in &self.left {
            log::error!(
                "pid {pid} (in its own namespace): its signal state is in the images, but the task was never handed \
                 to this plugin: NOT checked. Another plugin's RESUME_DEVICES_LATE hook has ended the round before \
                 this one's turn"
            );
        }
    }
}
