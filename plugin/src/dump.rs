//! `criu dump`: every task's signal state, captured when all are stopped and none has been dumped.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use criu_signals::criu::{HookError, Host, Inventory};
use criu_signals::error::{Cause, Error, Phase, Result};
use criu_signals::images::{Pid, image};
use criu_signals::stops::{Before, WaitStatuses, count_arrived_stop};
use criu_signals::tracee::{ByHost, StoppedProcess};
use criu_signals::{proc, record};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::NAME;

/// What a dump has written so far.
pub struct Dump {
    host: Host,
    /// File names in the image folder.
    written: Vec<String>,
    innermost: Vec<i32>,
    /// Processes that were stopped before CRIU seized them.
    before: HashMap<Pid, Before>,
    wait_statuses: WaitStatuses,
    root_seen: bool,
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
            before: HashMap::new(),
            wait_statuses: WaitStatuses::default(),
            root_seen: false,
        })
    }

    /// Looks at a process that CRIU seizes next. The first is the root: with `--freeze-cgroup`, CRIU freezes all
    /// others before their turn, and what a freezer of cgroup v1 holds can't be looked at. So all have their turn now.
    pub fn before_seize(&mut self, pid: Pid) {
        if self.root_seen {
            self.look(pid);
            return;
        }
        self.root_seen = true;
        for pid in proc::tree(pid) {
            self.look(pid);
        }
    }

    fn look(&mut self, pid: Pid) {
        if self.before.contains_key(&pid) && proc::is_frozen(pid).unwrap_or(false) {
            return;
        }
        match Before::look(pid) {
            Ok(None) => {
                self.before.remove(&pid);
            }
            Ok(Some(found)) => {
                if let Some(signal) = found.changed_over() {
                    log::info!(
                        "pid {pid}: stopped by {signal}: put into a plain stop by SIGSTOP for the time of the dump, \
                         because criu dumps no other, or takes pending signals away where stop signals are among them"
                    );
                }
                match self.before.entry(pid) {
                    Entry::Occupied(mut known) => known.get_mut().looked_again(found),
                    Entry::Vacant(place) => {
                        place.insert(found);
                    }
                }
            }
            Err(e) if e.is_died() => {}
            // CRIU says what it can't dump. What it can is dumped as it shows after the seize.
            Err(e) => log::warn!("{e}"),
        }
    }

    /// Captures one process and writes its image. An error aborts the dump, and the tasks run on.
    pub fn capture(&mut self, pid: Pid) -> std::result::Result<(), HookError> {
        self.write(pid).map_err(HookError::from)
    }

    fn write(&mut self, pid: Pid) -> Result<()> {
        let during = |e: Error| e.during(Phase::Capture, pid);
        let stopped = StoppedProcess::<ByHost>::of_host(pid).map_err(during)?;
        let before = match self.before.get(&pid) {
            Some(before) if before.still(&stopped).map_err(during)? => Some(before),
            _ => None,
        };
        let mut image = record::of(&stopped)?;
        if let Some(before) = before {
            before.complete(&mut image.process);
        }
        image.process.wait_status = self.wait_statuses.of(pid).map_err(during)?;
        if count_arrived_stop(&mut image.process) {
            log::info!("pid {pid}: a SIGSTOP has arrived since criu stopped it, and is in effect");
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

    /// After a failed dump its images would only be in the way of the next.
    pub fn end(self, ret: i32) {
        // Whatever becomes of the processes: whether they run on is not known here.
        for before in self.before.values() {
            if let Err(e) = before.turn_back()
                && !e.is_died()
            {
                log::warn!("{e}");
            }
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
