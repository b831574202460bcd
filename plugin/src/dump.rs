//! `criu dump`: every task's signal state, captured when all are stopped and none has been dumped.

use criu_signals::criu::{HookError, Host, Inventory};
use criu_signals::error::{Cause, Error, Phase, Result};
use criu_signals::images::{Pid, ProcessState, image};
use criu_signals::tracee::{ByHost, StoppedProcess};
use criu_signals::{proc, record};
use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::NAME;
use crate::notices::Notices;
use crate::parents::{self, Saying};
use crate::settings::{REFUSE, Settings};

/// What a dump has written so far.
pub struct Dump {
    host: Host,
    /// File names in the image folder.
    written: Vec<String>,
    innermost: Vec<i32>,
    settings: Settings,
    /// As criu sees them.
    captured: Vec<Pid>,
    notices: Notices,
}

impl Dump {
    pub fn begin(host: Host, settings: Settings) -> std::result::Result<Dump, HookError> {
        if host.add_inventory_plugin(NAME)? == Inventory::Unsupported {
            log::info!(
                "this criu keeps no list of plugins: restore with --libdir, or nothing is checked"
            );
        }
        Ok(Dump {
            host,
            written: Vec::new(),
            innermost: Vec::new(),
            settings,
            captured: Vec::new(),
            notices: Notices::default(),
        })
    }

    /// Captures one process and writes its image. An error aborts the dump, and the tasks run on.
    pub fn capture(&mut self, pid: Pid) -> std::result::Result<(), HookError> {
        let process = self.write(pid)?;
        self.say(pid, &process)
    }

    /// Says what can't be kept, or refuses it, as the settings will have it.
    fn say(&mut self, pid: Pid, process: &ProcessState) -> std::result::Result<(), HookError> {
        // CRIU hands over parents before their children.
        let parent = proc::parentage(pid)?.parent;
        let parent_is_dumped = self.captured.contains(&parent);
        self.captured.push(pid);
        for saying in parents::at_dump(pid, process, parent_is_dumped) {
            let Saying {
                notice,
                what,
                advice,
            } = saying;
            if self.settings.refuse.includes(notice) {
                let what = format!("{what}. Refused: {REFUSE} lists {notice}. Else: {advice}");
                return Err(HookError::new(Errno::EPERM, what));
            }
            let what = format!(
                "{what}. What to do: {advice}; or {REFUSE}={notice}, and such a dump fails"
            );
            self.notices.say(notice, &what);
        }
        Ok(())
    }

    fn write(&mut self, pid: Pid) -> Result<ProcessState> {
        let during = |e: Error| e.during(Phase::Capture, pid);
        let stopped = StoppedProcess::<ByHost>::of_host(pid).map_err(during)?;
        let image = record::of(&stopped)?;
        let dir = self
            .host
            .image_dir()
            .map_err(|e| {
                Error::new(
                    "find the image folder",
                    Cause::Unsupported(e.to_string().into()),
                )
            })
            .map_err(|e| e.during(Phase::Image, pid))?;
        let name = image::create_in(dir, &image)
            .map_err(|e| Error::new("write", Cause::Image(e)).during(Phase::Image, pid))?;
        log::info!("{}", record::summary(pid, &image, &name));
        self.written.push(name);
        self.innermost.push(image.process.ids.innermost());
        Ok(image.process)
    }

    /// After a failed dump its images would only be in the way of the next.
    pub fn end(self, ret: i32) {
        let dir = match self.host.image_dir() {
            Ok(dir) => dir,
            Err(e) => return log::error!("{e}"),
        };
        if ret != 0 {
            for name in &self.written {
                if let Err(e) = unlinkat(dir, name.as_str(), UnlinkatFlags::NoRemoveDir) {
                    log::warn!("the dump failed; removing {name}: {e}");
                }
            }
            return;
        }
        let summary = format!(
            "dump: {} processes captured; not kept: {}",
            self.written.len(),
            self.notices
        );
        if self.notices.count() == 0 {
            log::info!("{summary}");
        } else {
            log::warn!("{summary}");
        }
        match record::dumped_processes(dir) {
            Ok(dumped) => {
                for pid in dumped.iter().filter(|pid| !self.innermost.contains(pid)) {
                    log::error!(
                        "pid {pid} (in its own namespace): dumped by criu, but never handed to this plugin: \
                         its signal state is NOT in the images. Another plugin's CHECKPOINT_DEVICES hook has \
                         ended the round before this one's turn"
                    );
                }
            }
            Err(e) => log::error!("cannot tell whether every task was captured: {e}"),
        }
    }
}
