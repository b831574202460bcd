//! Return values of hooks, as a type in place of C return codes.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};

use nix::errno::Errno;

use super::bindings;

/// The hooks of a descriptor, by CRIU's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum Hook {
    /// [`Plugin::dump_unix_sk`](super::Plugin::dump_unix_sk)
    DumpUnixSk = bindings::CR_PLUGIN_HOOK__DUMP_UNIX_SK,
    /// [`Plugin::restore_unix_sk`](super::Plugin::restore_unix_sk)
    RestoreUnixSk = bindings::CR_PLUGIN_HOOK__RESTORE_UNIX_SK,
    /// [`Plugin::dump_ext_file`](super::Plugin::dump_ext_file)
    DumpExtFile = bindings::CR_PLUGIN_HOOK__DUMP_EXT_FILE,
    /// [`Plugin::restore_ext_file`](super::Plugin::restore_ext_file)
    RestoreExtFile = bindings::CR_PLUGIN_HOOK__RESTORE_EXT_FILE,
    /// [`Plugin::dump_ext_mount`](super::Plugin::dump_ext_mount)
    DumpExtMount = bindings::CR_PLUGIN_HOOK__DUMP_EXT_MOUNT,
    /// [`Plugin::restore_ext_mount`](super::Plugin::restore_ext_mount)
    RestoreExtMount = bindings::CR_PLUGIN_HOOK__RESTORE_EXT_MOUNT,
    /// [`Plugin::dump_ext_link`](super::Plugin::dump_ext_link)
    DumpExtLink = bindings::CR_PLUGIN_HOOK__DUMP_EXT_LINK,
    /// [`Plugin::handle_device_vma`](super::Plugin::handle_device_vma)
    HandleDeviceVma = bindings::CR_PLUGIN_HOOK__HANDLE_DEVICE_VMA,
    /// [`Plugin::update_vma_map`](super::Plugin::update_vma_map)
    UpdateVmaMap = bindings::CR_PLUGIN_HOOK__UPDATE_VMA_MAP,
    /// [`Plugin::resume_devices_late`](super::Plugin::resume_devices_late)
    ResumeDevicesLate = bindings::CR_PLUGIN_HOOK__RESUME_DEVICES_LATE,
    /// [`Plugin::pause_devices`](super::Plugin::pause_devices)
    PauseDevices = bindings::CR_PLUGIN_HOOK__PAUSE_DEVICES,
    /// [`Plugin::checkpoint_devices`](super::Plugin::checkpoint_devices)
    CheckpointDevices = bindings::CR_PLUGIN_HOOK__CHECKPOINT_DEVICES,
}

impl fmt::Display for Hook {
    /// CRIU's name for the hook, as it stands in its header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Hook::DumpUnixSk => "DUMP_UNIX_SK",
            Hook::RestoreUnixSk => "RESTORE_UNIX_SK",
            Hook::DumpExtFile => "DUMP_EXT_FILE",
            Hook::RestoreExtFile => "RESTORE_EXT_FILE",
            Hook::DumpExtMount => "DUMP_EXT_MOUNT",
            Hook::RestoreExtMount => "RESTORE_EXT_MOUNT",
            Hook::DumpExtLink => "DUMP_EXT_LINK",
            Hook::HandleDeviceVma => "HANDLE_DEVICE_VMA",
            Hook::UpdateVmaMap => "UPDATE_VMA_MAP",
            Hook::ResumeDevicesLate => "RESUME_DEVICES_LATE",
            Hook::PauseDevices => "PAUSE_DEVICES",
            Hook::CheckpointDevices => "CHECKPOINT_DEVICES",
        })
    }
}

/// What a hook that did not fail tells CRIU.
///
/// CRIU calls the plugins of a hook one after the other until one returns something other than `-ENOTSUP`. A plugin
/// that claims a hook therefore hides the plugins behind it, which is right for a file that only one can restore and
/// wrong for "a task is about to be dumped", where everybody has work to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Reply<T = ()> {
    /// "Ask the next plugin": this one has nothing to do here, or has done its part and claims nothing. `-ENOTSUP`.
    PassOn,
    /// "This is mine": no other plugin is asked.
    Handled(T),
}

/// What a hook returns. An error is logged, with the hook's name and arguments, and becomes a negative errno; what
/// CRIU makes of that differs from hook to hook.
pub type HookResult<T = ()> = Result<Reply<T>, HookError>;

/// What [`Plugin::resume_failed`](super::Plugin::resume_failed) makes of a `resume_devices_late` that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// CRIU gets the error: up to 4.2 CRIU ignores the error, from 4.3 on CRIU kills what it has restored.
    FailRestore,
    /// CRIU gets no error on any version, and the restored tasks run.
    GoOn,
}

/// Why `init` or a hook failed: the errno that CRIU gets, and the text for its log.
///
/// Every error type becomes one by `?`. The errno is then the first one found down the chain of sources, in an
/// [`io::Error`] or an [`Errno`], and EIO if there is none. Like the catch-all types of other crates, this one is not
/// an [`Error`] itself: the conversion would overlap with the language's own.
#[derive(Clone, PartialEq, Eq)]
pub struct HookError {
    errno: Errno,
    message: String,
}

impl HookError {
    /// An error that CRIU gets as `-errno`.
    ///
    /// ENOTSUP is turned into EIO: it would tell CRIU that nothing went wrong.
    pub fn new(errno: Errno, message: impl Into<String>) -> Self {
        let errno = match errno {
            Errno::EOPNOTSUPP | Errno::UnknownErrno => Errno::EIO,
            errno => errno,
        };
        HookError {
            errno,
            message: message.into(),
        }
    }

    /// The errno, never ENOTSUP.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// What CRIU gets: always negative, never `-ENOTSUP`.
    pub(super) fn code(&self) -> i32 {
        -(self.errno as i32)
    }
}

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.message)
    }
}

impl fmt::Debug for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.message, self.errno)
    }
}

impl<E: Error + 'static> From<E> for HookError {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut errno = None;
        let mut next: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(error) = next {
            errno = errno.or_else(|| errno_of(error));
            // Many error types print their source themselves.
            let text = error.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            next = error.source();
        }
        HookError::new(errno.unwrap_or(Errno::EIO), message)
    }
}

fn errno_of(error: &(dyn Error + 'static)) -> Option<Errno> {
    if let Some(errno) = error.downcast_ref::<Errno>() {
        return Some(*errno);
    }
    error
        .downcast_ref::<io::Error>()?
        .raw_os_error()
        .map(Errno::from_raw)
}

/// Where a mapping of a device file is to be made on restore.
#[derive(Debug)]
pub struct VmaMap {
    /// The offset into the file, in bytes.
    pub pgoff: u64,
    /// The file to map, where it is not the one that CRIU would open by its path. CRIU closes it.
    pub fd: Option<OwnedFd>,
}

/// The number that CRIU takes as "handled".
pub(super) trait IntoCode {
    fn into_code(self) -> i32;
}

impl IntoCode for () {
    fn into_code(self) -> i32 {
        0
    }
}

/// The descriptor is CRIU's from here on.
impl IntoCode for OwnedFd {
    fn into_code(self) -> i32 {
        self.into_raw_fd()
    }
}

/// The only place where a hook's result becomes C's `int`.
pub(super) fn code<T: IntoCode>(result: HookResult<T>) -> i32 {
    match result {
        Ok(Reply::PassOn) => -(Errno::EOPNOTSUPP as i32),
        Ok(Reply::Handled(value)) => value.into_code(),
        Err(error) => error.code(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[derive(Debug)]
    struct Outer(io::Error);
    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("capture masks: pid 41")
        }
    }
    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn codes_are_those_of_criu() {
        assert_eq!(code::<()>(Ok(Reply::PassOn)), -libc::ENOTSUP);
        assert_eq!(code(Ok(Reply::Handled(()))), 0);
        assert_eq!(
            code::<()>(Err(HookError::new(Errno::EAGAIN, ""))),
            -libc::EAGAIN
        );
        let fd = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let number = fd.as_raw_fd();
        assert_eq!(code(Ok(Reply::Handled(fd))), number);
        // into_code() has given the descriptor away; still open, so it can be taken back.
        nix::unistd::close(number).unwrap();
    }

    #[test]
    fn an_error_never_passes_for_not_supported() {
        for errno in [Errno::ENOTSUP, Errno::EOPNOTSUPP, Errno::UnknownErrno] {
            assert_eq!(code::<()>(Err(HookError::new(errno, ""))), -libc::EIO);
        }
        let from_os = io::Error::from_raw_os_error(libc::ENOTSUP);
        assert_eq!(code::<()>(Err(HookError::from(from_os))), -libc::EIO);
    }

    #[test]
    fn the_errno_and_the_text_come_from_the_whole_chain() {
        let error = HookError::from(Outer(io::Error::from_raw_os_error(libc::ESRCH)));
        assert_eq!(error.errno(), Errno::ESRCH);
        assert_eq!(
            error.to_string(),
            "capture masks: pid 41: No such process (os error 3)"
        );
        assert_eq!(HookError::from(Errno::EPERM).errno(), Errno::EPERM);
        assert_eq!(HookError::from(fmt::Error).errno(), Errno::EIO);
    }

    #[test]
    fn hook_numbers_run_from_zero_to_eleven() {
        assert_eq!(Hook::DumpUnixSk as u32, 0);
        assert_eq!(Hook::CheckpointDevices as usize, super::super::HOOKS - 1);
        assert_eq!(Hook::ResumeDevicesLate.to_string(), "RESUME_DEVICES_LATE");
    }
}
