//! Process and thread ids. A number means nothing without the pid namespace it is read in.

use std::fmt;

use crate::error::FieldError;

/// The kernel's `MAX_PID_NS_LEVEL` is 32, so a task has a number in at most 33 namespaces.
pub const MAX_NS_DEPTH: usize = 33;

/// A process (thread-group) id as the caller sees it: above 0, because to kill(2), waitpid(2) and their like any other
/// number means a process group or everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(i32);

/// A thread id as the caller sees it: above 0, as a [`Pid`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid(i32);

impl Pid {
    /// `None` for 0 and below.
    pub const fn new(id: i32) -> Option<Pid> {
        if id > 0 { Some(Pid(id)) } else { None }
    }

    /// The number: above 0.
    pub const fn get(self) -> i32 {
        self.0
    }

    /// The calling process.
    pub fn own() -> Pid {
        Pid(std::process::id().cast_signed())
    }
}

impl Tid {
    /// A number that no thread has (`PID_MAX_LIMIT`, linux/threads.h).
    pub const NONE: Tid = Tid(i32::MAX);

    /// `None` for 0 and below.
    pub const fn new(id: i32) -> Option<Tid> {
        if id > 0 { Some(Tid(id)) } else { None }
    }

    /// The number: above 0.
    pub const fn get(self) -> i32 {
        self.0
    }
}

impl From<Tid> for Pid {
    /// The thread as an entry of `/proc`, where each has one, and as waitpid(2) takes it.
    fn from(tid: Tid) -> Pid {
        Pid(tid.0)
    }
}

impl From<Pid> for Tid {
    /// The process's first thread, the leader.
    fn from(pid: Pid) -> Tid {
        Tid(pid.0)
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A task's id in every pid namespace from the reader's down to its own: the `NSpid` line of
/// `/proc/PID/status`. Never empty.
///
/// An id may be 0: the task is not visible in that namespace. The innermost one never is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NsIds(Vec<i32>);

impl NsIds {
    /// `None` where no task can have these ids: none or more than [`MAX_NS_DEPTH`] of them, a
    /// negative one, or an innermost one of 0.
    pub fn new(ids: Vec<i32>) -> Option<NsIds> {
        let own = *ids.last()?;
        let valid = own > 0 && ids.len() <= MAX_NS_DEPTH && ids.iter().all(|&id| id >= 0);
        valid.then_some(NsIds(ids))
    }

    /// The id in the reader's namespace: the one for system calls.
    pub fn outermost(&self) -> i32 {
        self.0.first().copied().unwrap_or_default()
    }

    /// The id in the task's own namespace: the one that CRIU names its images by.
    pub fn innermost(&self) -> i32 {
        self.0.last().copied().unwrap_or_default()
    }

    /// All of them, the outermost first.
    pub fn as_slice(&self) -> &[i32] {
        &self.0
    }
}

impl fmt::Display for NsIds {
    /// `41/7/1`: outermost first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, id) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("/")?;
            }
            id.fmt(f)?;
        }
        Ok(())
    }
}

// A repeated field and not a message, so this is no `Codec`.
impl NsIds {
    pub(crate) fn to_proto(&self) -> Vec<i32> {
        self.0.clone()
    }

    pub(crate) fn from_proto(ids: &[i32]) -> Result<NsIds, FieldError> {
        NsIds::new(ids.to_vec()).ok_or_else(|| {
            let reason = format!(
                "{ids:?} is not a task's id in 1 to {MAX_NS_DEPTH} pid namespaces, the last one above 0"
            );
            FieldError::new("ids", reason)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_that_a_task_can_have() {
        for valid in [
            vec![1],
            vec![41, 7, 1],
            vec![0, 0, 3],
            vec![1; MAX_NS_DEPTH],
        ] {
            assert_eq!(
                NsIds::from_proto(&valid).map(|ids| ids.to_proto()),
                Ok(valid)
            );
        }
        for invalid in [
            vec![],
            vec![0],
            vec![5, 0],
            vec![-1, 5],
            vec![5, -1],
            vec![1; MAX_NS_DEPTH + 1],
        ] {
            assert!(NsIds::from_proto(&invalid).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn no_number_that_means_many() {
        for many in [0, -1, i32::MIN] {
            assert_eq!((Pid::new(many), Tid::new(many)), (None, None));
        }
        assert_eq!(Pid::new(1).map(Pid::get), Some(1));
        assert_eq!(Tid::new(i32::MAX).map(Tid::get), Some(i32::MAX));
        assert!(Pid::own().get() > 0);
    }

    #[test]
    fn ends() {
        let ids = NsIds::new(vec![41, 7, 1]).expect("these are valid");
        assert_eq!((ids.outermost(), ids.innermost()), (41, 1));
        assert_eq!(ids.to_string(), "41/7/1");
        assert_eq!(Tid::from(Pid(41)), Tid(41));
        assert_eq!(Pid::from(Tid(41)), Pid(41));
    }
}
