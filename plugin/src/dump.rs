//! `criu dump`: every task's signal state, captured when all are stopped and none has been dumped.

use std::collections::HashMap;

use criu_signals::criu::{HookError, Host, Inventory};
use criu_signals::error::{Cause, Error, Phase, Result};
use criu_signals::images::{Pid, image};
use criu_signals::record;
use criu_signals::state::asleep::{self, Asleep};
use criu_signals::state::interrupted::{self, HandedOver};
use criu_signals::tracee::{ByHost, StoppedProcess};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::NAME;

/// What a dump has written so far.
pub struct Dump {
    host: Host,
    /// File names in the image folder.
    written: Vec<String>,
    innermost: Vec<i32>,
    /// System calls that CRIU has to find in another state than the one that they were captured in.
    handed_over: Vec<HandedOver>,
    /// Threads that waited when they had not been stopped yet.
    asleep: HashMap<i32, Vec<Asleep>>,
}

impl Dump {
    pub fn begin(host: Host) -> std::result::Result<Dump, HookError> {
        if host.add_inventory_plugin(NAME)? == Inventory::Unsupported {
            log::info!(
                "this criu keeps no list of plugins: restore with --libdir, or nothing is checked"
            );
        }
        Ok(Dump {
            host,
            written: Vec::new(),
            innermost: Vec::new(),
            handed_over: Vec::new(),
            asleep: HashMap::new(),
        })
    }

    /// Looks at one process while it runs: how long it has been waiting can't be seen later.
    pub fn look(&mut self, pid: Pid) {
        self.asleep.insert(pid.0, asleep::look(pid));
    }

    /// Captures one process and writes its image. An error aborts the dump, and the tasks run on.
    pub fn capture(&mut self, pid: Pid) -> std::result::Result<(), HookError> {
        self.write(pid).map_err(HookError::from)
    }

    fn write(&mut self, pid: Pid) -> Result<()> {
        let during = |e: Error| e.during(Phase::Capture, pid);
        let stopped = StoppedProcess::<ByHost>::of_host(pid).map_err(during)?;
        interrupted::shield(&stopped).map_err(during)?;
        let seen = self.asleep.remove(&pid.0).unwrap_or_default();
        let waited = asleep::confirm(&stopped, &seen);
        let mut image = record::of(&stopped)?;
        interrupted::complete(&stopped, &mut image.process, &waited)?;
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
        // From here on CRIU goes by what it finds.
        let handed_over = interrupted::hand_over(&stopped, &image.process).map_err(during)?;
        self.handed_over.push(handed_over);
        Ok(())
    }

    /// After a failed dump its images would only be in the way of the next.
    pub fn end(self, ret: i32) {
        // Whatever became of the dump, the tasks may be about to run on.
        for error in self.handed_over.iter().flat_map(HandedOver::take_back) {
            log::error!("{error}");
        }
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
