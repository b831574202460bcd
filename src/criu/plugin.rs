//! The trait that a plugin implements: one safe method per hook.

use std::ffi::{CStr, c_int};
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use nix::unistd::Pid;

use super::bindings;
use super::hook::{AfterFailure, HookError, HookResult, Reply, VmaMap};
use super::host::Host;

/// What CRIU is about to do when it loads its plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// `criu dump`.
    Dump,
    /// `criu pre-dump`: memory only. CRIU, up to 4.3 at least, calls neither `CHECKPOINT_DEVICES` nor `exit`.
    PreDump,
    /// `criu restore`.
    Restore,
}

impl Stage {
    /// The stage by CRIU's number, `None` for one that it did not have in 4.3.
    pub(super) fn from_c(stage: c_int) -> Option<Stage> {
        match u32::try_from(stage).ok()? {
            bindings::CR_PLUGIN_STAGE__DUMP => Some(Stage::Dump),
            bindings::CR_PLUGIN_STAGE__PRE_DUMP => Some(Stage::PreDump),
            bindings::CR_PLUGIN_STAGE__RESTORE => Some(Stage::Restore),
            _ => None,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Stage::Dump => "dump",
            Stage::PreDump => "pre-dump",
            Stage::Restore => "restore",
        })
    }
}

/// A CRIU plugin. [`export_plugin!`](crate::export_plugin) turns the type into a loadable one.
///
/// The value lives from `init` to `exit` in the process that runs criu. CRIU calls every method from its one thread.
/// Where the text says that a hook runs in a process that CRIU forked, the method works on a copy: what it changes in
/// `self` is not seen by `exit`.
///
/// A method that is overridden but not named to `export_plugin!` is never called; one that is named but not
/// overridden passes on to the next plugin.
///
/// A panic counts as a failure with code -1. It is contained in the method: `self` is kept, later hooks are called,
/// and so is `exit`.
///
/// What the hooks' documentation says of CRIU holds for 4.0 to 4.2; the versions after that add hooks of their own.
pub trait Plugin: Sized + Send + 'static {
    /// The name in CRIU's log and in its list of the plugins that a restore needs.
    const NAME: &'static CStr;

    /// What every line of this plugin in CRIU's log starts with, `"signals: "` for example.
    const LOG_PREFIX: &'static str;

    /// Called when CRIU has loaded the library, before it looks at any task.
    ///
    /// # Errors
    /// CRIU gives up the whole run, and does not call `exit`.
    fn init(stage: Stage, host: Host) -> Result<Self, HookError>;

    /// Called at the end of the run, before the library is unloaded, whether the run succeeded (`ret` is 0) or not.
    ///
    /// On dump, the image folder is still open, every image is written, and the tasks are still seized; they are
    /// killed or let go next. On restore they run already. Nothing that happens here changes CRIU's exit code.
    ///
    /// CRIU leaves the call out after a pre-dump, when the `init` of this plugin failed, and when its last step on the
    /// tasks' registers fails at the end of a dump.
    fn exit(self, _stage: Stage, _ret: i32) {}

    /// Hook 0, dump: CRIU has a Unix socket at hand, whose peer is not among what it dumps. `inode` is the socket's.
    ///
    /// Handled: the socket is marked for [`restore_unix_sk`](Self::restore_unix_sk). Passed on by all: CRIU's own
    /// options decide.
    ///
    /// # Errors
    /// Fails the dump.
    fn dump_unix_sk(&mut self, _fd: BorrowedFd<'_>, _inode: u32) -> HookResult {
        Ok(Reply::PassOn)
    }

    /// Hook 1, restore, in the restored process: makes the socket that was dumped under this inode. CRIU takes over
    /// the descriptor.
    ///
    /// # Errors
    /// CRIU goes on as if no plugin was there, and makes the socket by itself.
    fn restore_unix_sk(&mut self, _inode: u32) -> HookResult<OwnedFd> {
        Ok(Reply::PassOn)
    }

    /// Hook 2, dump: a file descriptor of a kind that CRIU can't dump. `id` is the file's number in the images.
    ///
    /// # Errors
    /// Fails the dump. So does a file that all plugins pass on.
    fn dump_ext_file(&mut self, _fd: BorrowedFd<'_>, _id: u32) -> HookResult {
        Ok(Reply::PassOn)
    }

    /// Hook 3, restore, in the restored process: opens the file that was dumped under this number. CRIU takes over the
    /// descriptor.
    ///
    /// From 4.3 on, a plugin can also ask to be called again later; this interface always answers that it need not be.
    ///
    /// # Errors
    /// Fails the restore. So does a file that all plugins pass on.
    fn restore_ext_file(&mut self, _id: u32) -> HookResult<OwnedFd> {
        Ok(Reply::PassOn)
    }

    /// Hook 4, dump: a mount whose root CRIU can't find. `mount_id` is that of `/proc/PID/mountinfo`.
    ///
    /// # Errors
    /// Fails the dump. So does a mount that all plugins pass on.
    fn dump_ext_mount(&mut self, _mountpoint: &Path, _mount_id: i32) -> HookResult {
        Ok(Reply::PassOn)
    }

    /// Hook 5, restore: mounts what was dumped under this number. `is_file` is `None` in every CRIU from 4.0 on.
    ///
    /// # Errors
    /// Fails the restore. So does a mount that all plugins pass on.
    fn restore_ext_mount(
        &mut self,
        _mount_id: i32,
        _mountpoint: &Path,
        _old_root: &Path,
        _is_file: Option<&mut c_int>,
    ) -> HookResult {
        Ok(Reply::PassOn)
    }

    /// Hook 6, dump: a network link of a kind that CRIU can't dump. `index` and `link_type` are those of rtnetlink's
    /// `ifinfomsg`, `kind` is `IFLA_INFO_KIND`.
    ///
    /// # Errors
    /// Fails the dump. So does a link that all plugins pass on.
    fn dump_ext_link(&mut self, _index: i32, _link_type: i32, _kind: &CStr) -> HookResult {
        Ok(Reply::PassOn)
    }

    /// Hook 7, dump, once for every mapping of a device file: can this plugin restore it?
    ///
    /// Handled: CRIU marks the mapping for [`update_vma_map`](Self::update_vma_map).
    ///
    /// # Errors
    /// Fails the dump. So does a mapping that all plugins pass on.
    fn handle_device_vma(&mut self, _fd: BorrowedFd<'_>, _stat: &libc::stat) -> HookResult {
        Ok(Reply::PassOn)
    }

    /// Hook 8, restore, in the restored process, once for every mapping that [`handle_device_vma`] claimed: which
    /// offset, and which file if not `path`, is mapped at `address`?
    ///
    /// [`handle_device_vma`]: Self::handle_device_vma
    ///
    /// # Errors
    /// CRIU ignores them, and maps what was mapped at the dump.
    fn update_vma_map(
        &mut self,
        _path: &Path,
        _address: u64,
        _old_pgoff: u64,
    ) -> HookResult<VmaMap> {
        Ok(Reply::PassOn)
    }

    /// Hook 9, restore, once per live task, when every task is whole and every thread of every task is stopped on its
    /// way out of `rt_sigreturn`, with CRIU as the tracer. CRIU detaches from all of them next.
    ///
    /// `pid` is the one that criu sees, not the one in the task's own namespace.
    ///
    /// # Errors
    /// **Up to 4.2 CRIU ignores the return code**: a failure reaches its log and nothing else, unless
    /// [`resume_failed`](Self::resume_failed) does something about it. 4.3 kills what it has restored, unless
    /// [`resume_failed`](Self::resume_failed) says [`AfterFailure::GoOn`].
    fn resume_devices_late(&mut self, _pid: Pid) -> HookResult {
        Ok(Reply::PassOn)
    }

    /// Called when [`resume_devices_late`](Self::resume_devices_late) returned an error or panicked, after that was
    /// logged: versions of CRIU treat that differently, see there.
    ///
    /// The way to fail the restore on every version is to kill the task and to return [`AfterFailure::FailRestore`]:
    /// CRIU up to 4.2 then fails to detach from the task and kills the rest. By default no task is killed and CRIU gets
    /// the error. A panic in this method counts as [`AfterFailure::FailRestore`].
    fn resume_failed(&mut self, _pid: Pid) -> AfterFailure {
        AfterFailure::FailRestore
    }

    /// Hook 10, dump and pre-dump, before a task is seized, while it runs: once per task that CRIU comes across. With
    /// `--freeze-cgroup` the tasks other than the root may be frozen already. The time it takes counts towards `--timeout`.
    ///
    /// # Errors
    /// Fails the run, and the tasks go on.
    fn pause_devices(&mut self, _pid: Pid) -> HookResult {
        Ok(Reply::PassOn)
    }

    /// Hook 11, dump, once per live task, when all tasks are seized and stopped and none is dumped yet.
    ///
    /// `pid` is the one that criu sees. Threads are not listed: `/proc/PID/task` does. What is changed in the tasks'
    /// registers and memory is what CRIU dumps next.
    ///
    /// # Errors
    /// Fails the dump, and the tasks go on.
    fn checkpoint_devices(&mut self, _pid: Pid) -> HookResult {
        Ok(Reply::PassOn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_those_of_the_header() {
        assert_eq!(Stage::from_c(0), Some(Stage::Dump));
        assert_eq!(Stage::from_c(1), Some(Stage::PreDump));
        assert_eq!(Stage::from_c(2), Some(Stage::Restore));
        assert_eq!(Stage::from_c(3), None);
        assert_eq!(Stage::from_c(-1), None);
    }
}
