//! Reads and changes signal owners and timerfds in CRIU's `files.img`; other contents are preserved.

use std::time::Duration;

use protobuf::Message;

use crate::codec::proto::criu_core as pb;
use crate::error::{FieldError, ImageError};
use crate::framing::{FrameReader, FrameWriter};

/// CRIU's `FILES_MAGIC`.
pub const FILES_MAGIC: u32 = 0x5630_3138;
/// The file with all open files of all processes.
pub const FILES: &str = "files.img";
/// CRIU sets no limit; an `int` holds the size.
const LIMIT: u64 = (1 << 31) - 1;

/// Whom a file's SIGIO goes to, as F_SETOWN_EX of fcntl(2) has it: F_OWNER_*, and an id in the pid namespace of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// F_OWNER_TID 0, F_OWNER_PID 1, F_OWNER_PGRP 2.
    pub kind: u32,
    /// The id.
    pub id: i32,
}

/// The times of a timerfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerFd {
    /// What read(2) will give.
    pub ticks: u64,
    /// Up to the next expiration; 0: it is not armed.
    pub remaining: Duration,
    /// Between expirations; 0: there is one.
    pub interval: Duration,
}

/// All of `files.img`.
#[derive(Debug)]
pub struct FilesImage {
    entries: Vec<pb::File_entry>,
}

impl FilesImage {
    /// Reads a whole file.
    ///
    /// # Errors
    /// If it is no such image, or is not whole.
    pub fn read(bytes: &[u8]) -> Result<FilesImage, ImageError> {
        let mut frames = FrameReader::new(bytes, FILES, FILES_MAGIC, LIMIT)?;
        let mut entries = Vec::new();
        while let Some(frame) = frames.next()? {
            let entry = pb::File_entry::parse_from_bytes(&frame.bytes).map_err(|error| {
                FieldError::new("file_entry", error.to_string()).in_entry(frame.index)
            })?;
            entries.push(entry);
        }
        Ok(FilesImage { entries })
    }

    /// The whole file.
    ///
    /// # Errors
    /// If it can't be encoded.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let mut frames = FrameWriter::new(&mut bytes, FILES, FILES_MAGIC, LIMIT)?;
        for entry in &self.entries {
            let entry = entry
                .write_to_bytes()
                .map_err(|error| ImageError::io("encode", FILES, error))?;
            frames.write(&entry)?;
        }
        frames.finish()?;
        Ok(bytes)
    }

    /// Takes the owner away from each file whose owner is `unwanted`. Returns how many there were.
    pub fn take_owners(&mut self, unwanted: impl Fn(Owner) -> bool) -> usize {
        let owners = self.entries.iter_mut().filter_map(owner_mut);
        let mut taken = 0;
        for fown in owners {
            let owner = Owner {
                kind: fown.pid_type(),
                id: fown.pid().cast_signed(),
            };
            if owner.id != 0 && unwanted(owner) {
                fown.set_pid(0);
                taken += 1;
            }
        }
        taken
    }

    /// Lets timerfds go on that have expired and not been read since. The kernel stops such a one until it is read, and CRIU
    /// writes down that nothing remains of its period, upon which it is not armed when it is restored. Afterwards a
    /// whole period remains. Returns how many there were.
    pub fn arm_timerfds(&mut self) -> usize {
        let mut armed = 0;
        self.change_timerfds(|timer| {
            // Without ticks it was not armed: setting a timerfd takes them away.
            let has_stopped = timer.remaining.is_zero() && timer.ticks != 0;
            if has_stopped && !timer.interval.is_zero() {
                timer.remaining = timer.interval;
                armed += 1;
            }
        });
        armed
    }

    /// Changes timerfds, one after the other.
    pub fn change_timerfds(&mut self, mut change: impl FnMut(&mut TimerFd)) {
        for timer in self
            .entries
            .iter_mut()
            .filter_map(|entry| entry.tfd.as_mut())
        {
            let time = |seconds, nanoseconds| {
                Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanoseconds))
            };
            let mut times = TimerFd {
                ticks: timer.ticks(),
                remaining: time(timer.vsec(), timer.vnsec()),
                interval: time(timer.isec(), timer.insec()),
            };
            let before = times;
            change(&mut times);
            // What is no time is left as it is.
            if times != before {
                timer.set_ticks(times.ticks);
                timer.set_vsec(times.remaining.as_secs());
                timer.set_vnsec(times.remaining.subsec_nanos().into());
                timer.set_isec(times.interval.as_secs());
                timer.set_insec(times.interval.subsec_nanos().into());
            }
        }
    }
}

fn owner_mut(entry: &mut pb::File_entry) -> Option<&mut pb::Fown_entry> {
    macro_rules! first {
        ($($kind:ident),+ $(,)?) => {
            $(if let Some(file) = entry.$kind.as_mut() {
                return file.fown.as_mut();
            })+
        };
    }
    first!(
        reg, isk, psk, nlsk, efd, epfd, sgfd, ify, ffy, ext, usk, pipe, tty, memfd, bpf, pidfd, tfd
    );
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(kind: u32, pid: u32) -> pb::Fown_entry {
        let mut fown = pb::Fown_entry::new();
        fown.set_uid(1);
        fown.set_euid(2);
        fown.set_signum(35);
        fown.set_pid_type(kind);
        fown.set_pid(pid);
        fown
    }

    fn pipe(kind: u32, pid: u32) -> pb::File_entry {
        let mut entry = pb::File_entry::new();
        entry.pipe.mut_or_insert_default().fown = Some(owner(kind, pid)).into();
        // Type and id, of which nothing is known here.
        let unknown = entry.special_fields.mut_unknown_fields();
        unknown.add_varint(1, 1);
        unknown.add_varint(2, 7);
        entry
    }

    fn timerfd(ticks: u64, value: u64, interval: u64) -> pb::File_entry {
        let mut entry = pb::File_entry::new();
        let timer = entry.tfd.mut_or_insert_default();
        timer.fown = Some(owner(0, 42)).into();
        timer.set_ticks(ticks);
        timer.set_vsec(0);
        timer.set_vnsec(value);
        timer.set_isec(0);
        timer.set_insec(interval);
        entry
    }

    fn image(entries: Vec<pb::File_entry>) -> FilesImage {
        let bytes = FilesImage { entries }.to_bytes().expect("valid");
        FilesImage::read(&bytes).expect("valid")
    }

    #[test]
    fn owners_are_taken() {
        let before = vec![pipe(0, 42), pipe(1, 42), pipe(0, 0), timerfd(0, 1, 1)];
        let mut files = image(before.clone());
        let threads = |owner: Owner| owner.kind == 0 && owner.id == 42;
        assert_eq!(files.take_owners(threads), 2);
        assert_eq!(files.take_owners(threads), 0);
        let mut after = before;
        after[0]
            .pipe
            .mut_or_insert_default()
            .fown
            .mut_or_insert_default()
            .set_pid(0);
        after[3]
            .tfd
            .mut_or_insert_default()
            .fown
            .mut_or_insert_default()
            .set_pid(0);
        assert_eq!(files.entries, after, "and nothing else");
    }

    #[test]
    fn timerfds_go_on() {
        let mut files = image(vec![
            timerfd(3, 0, 9),
            timerfd(0, 0, 9),
            timerfd(1, 0, 0),
            timerfd(3, 5, 9),
        ]);
        assert_eq!(files.arm_timerfds(), 1);
        let left: Vec<u64> = files
            .entries
            .iter()
            .map(|entry| entry.tfd.vnsec())
            .collect();
        assert_eq!(left, [9, 0, 0, 5]);
    }

    #[test]
    fn each_kind_of_file() {
        macro_rules! check {
            ($($kind:ident),+ $(,)?) => {
                $(
                    let mut entry = pb::File_entry::new();
                    entry.$kind.mut_or_insert_default().fown = Some(owner(0, 42)).into();
                    assert!(owner_mut(&mut entry).is_some(), stringify!($kind));
                )+
            };
        }
        check!(
            reg, isk, psk, nlsk, efd, epfd, sgfd, ify, ffy, ext, usk, pipe, tty, memfd, bpf, pidfd,
            tfd
        );
        assert!(owner_mut(&mut pb::File_entry::new()).is_none());
    }
}
