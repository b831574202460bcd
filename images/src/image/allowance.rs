//! Limits on the contents of untrusted images.

use crate::error::ImageError;

/// What a reader still takes in of the images that it reads one after the other, say all of a folder.
///
/// An image of 40 MB can hold 7 million siginfos, which are 128 bytes each in memory, and which a process would be stopped
/// for minutes to be given. What a machine's processes can have is much less: RLIMIT_SIGPENDING bounds siginfos and POSIX
/// timers together, and kernel.threads-max the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    siginfos: Left,
    tasks: Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Left {
    limit: u64,
    left: u64,
}

impl Left {
    fn take(&mut self, count: u64, what: &'static str) -> Result<(), ImageError> {
        let Left { limit, left } = *self;
        let too_many = ImageError::TooMany { what, limit, left };
        self.left = left.checked_sub(count).ok_or(too_many)?;
        Ok(())
    }
}

impl Allowance {
    /// So many siginfos and POSIX timers, and so many processes and threads.
    pub fn new(siginfos: u64, tasks: u64) -> Allowance {
        let all = |limit| Left { limit, left: limit };
        Allowance {
            siginfos: all(siginfos),
            tasks: all(tasks),
        }
    }

    /// Whatever there is.
    pub fn unlimited() -> Allowance {
        Allowance::new(u64::MAX, u64::MAX)
    }

    /// How many siginfos and timers have been taken in.
    pub fn taken(&self) -> u64 {
        self.siginfos.limit - self.siginfos.left
    }

    pub(super) fn take_siginfos(&mut self, count: usize) -> Result<(), ImageError> {
        self.siginfos.take(count as u64, "siginfos and timers")
    }

    pub(super) fn take_task(&mut self) -> Result<(), ImageError> {
        self.tasks.take(1, "processes and threads")
    }
}
