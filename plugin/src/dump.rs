//! `criu dump`: every task's signal state, captured when all are stopped and none has been dumped.

use criu_signals::criu::{HookError, Host, Inventory};
use criu_signals::error::{Cause, Error, Phase, Result};
use criu_signals::images::{Image, Pid, TimerEntry, image};
use criu_signals::record;
use criu_signals::state::overruns;
use criu_signals::tracee::{ByHost, StoppedProcess};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::NAME;
use crate::settings::{OVERRUNS, Settings};

/// What a dump has written so far.
pub struct Dump {
    host: Host,
    count_overruns: bool,
    /// File names in the image folder.
    written: Vec<String>,
    innermost: Vec<i32>,
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
            count_overruns: settings.count_overruns,
            written: Vec::new(),
            innermost: Vec::new(),
        })
    }

    /// Captures one process and writes its image. An error aborts the dump, and the tasks run on.
    pub fn capture(&mut self, pid: Pid) -> std::result::Result<(), HookError> {
        self.write(pid).map_err(HookError::from)
    }

    fn write(&mut self, pid: Pid) -> Result<()> {
        let during = |e: Error| e.during(Phase::Capture, pid);
        let stopped = StoppedProcess::<ByHost>::of_host(pid).map_err(during)?;
        let mut image = record::of(&stopped)?;
        if self.count_overruns {
            self.count(&stopped, &mut image)?;
        } else {
            not_counted(pid, &image);
        }
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
        Ok(())
    }

    fn count(&self, stopped: &StoppedProcess<ByHost>, image: &mut Image) -> Result<()> {
        for (id, why) in overruns::count(stopped, &mut image.process)? {
            log::warn!(
                "pid {}: overruns of timer {id} not counted: {why}",
                stopped.pid()
            );
        }
        Ok(())
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

/// What the image does not say because nobody asked for it.
fn not_counted(pid: Pid, image: &Image) {
    let timers = image.process.timers.iter().filter(|timer| {
        timer.interval != 0 && matches!(timer.entry, TimerEntry::Pending | TimerEntry::Ignored)
    });
    for timer in timers {
        log::info!(
            "pid {pid}: timer {}: how often it has expired while its signal is pending is not counted, and begins \
             at 0 after a restore ({OVERRUNS}=count counts it)",
            timer.id
        );
    }
}
