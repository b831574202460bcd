//! A CRIU plugin of a page: says in CRIU's log which tasks are dumped and restored, and how many of them there were.
//!
//!     cargo build --no-default-features --example witness
//!     criu dump --libdir FOLDER ...        FOLDER holds target/debug/examples/libwitness.so, by an absolute path
//!
//! docs/library.md goes through it.

use std::ffi::CStr;
use std::fs;

use criu_signals::criu::{HookError, HookResult, Host, Pid, Plugin, Reply, Stage, export_plugin};

/// What the plugin knows between CRIU's calls, from `init` to `exit`.
struct Witness {
    tasks: usize,
}

impl Plugin for Witness {
    const NAME: &'static CStr = c"witness";
    const LOG_PREFIX: &'static str = "witness: ";

    /// An error here makes CRIU give up, before it has touched anything.
    fn init(stage: Stage, host: Host) -> Result<Self, HookError> {
        // `None` where criu's symbols are stripped.
        let versions = host.versions().unwrap_or("unknown");
        log::info!("{stage}; version of this criu: {versions}");
        Ok(Witness { tasks: 0 })
    }

    /// A file of /proc that can't be read fails the dump, with its errno: `?` makes a `HookError` of any error.
    fn checkpoint_devices(&mut self, pid: Pid) -> HookResult {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"))?;
        log::info!("pid {pid} ({}) is about to be dumped", comm.trim_end());
        self.tasks += 1;
        // CRIU asks the plugins behind this one as well.
        Ok(Reply::PassOn)
    }

    fn resume_devices_late(&mut self, pid: Pid) -> HookResult {
        log::info!("pid {pid} is about to run again");
        self.tasks += 1;
        Ok(Reply::PassOn)
    }

    fn exit(self, stage: Stage, ret: i32) {
        log::info!("{stage} ended with {ret}: {} tasks", self.tasks);
    }
}

export_plugin!(Witness, [checkpoint_devices, resume_devices_late]);
