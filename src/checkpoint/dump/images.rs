//! The image folder of a dump: writes the images of this project, and corrects CRIU's own images.

use std::os::fd::BorrowedFd;

use criu_signals_images::criu_files::Owner;
use criu_signals_images::{Image, Pid, PosixTimer, ProcessState, Rlimit};

use super::Dump;
use crate::checkpoint::parent_death;
use crate::checkpoint::stream::{self, Outgoing};
use crate::engine::capture;
use crate::error::{Cause, Error, Phase, Result};
use crate::image_folder::corrections::{self, Corrected};
use crate::image_folder::{self, InFolder, OnDisk, Written};
use crate::log_lines;

impl Dump {
    /// The image of a process from which nothing is or will be taken out.
    pub(super) fn write(&mut self, pid: Pid, state: ProcessState) -> Result<InFolder> {
        self.write_by(pid, state, Written::write, |in_folder| in_folder)
    }

    /// The image of a process whose signals are in custody, or will be.
    pub(super) fn write_to_disk(&mut self, pid: Pid, state: ProcessState) -> Result<OnDisk> {
        self.write_by(pid, state, Written::write_to_disk, OnDisk::in_folder)
    }

    fn write_by<Proof>(
        &mut self,
        pid: Pid,
        mut state: ProcessState,
        write: impl FnOnce(&mut Written, BorrowedFd<'_>, &Image) -> Result<Proof>,
        in_folder: impl FnOnce(&Proof) -> &InFolder,
    ) -> Result<Proof> {
        // For the image alone: the process itself does not have these signals yet; the helper process sets them.
        match parent_death::add_postponed(pid, &mut state) {
            Ok(false) => {}
            Ok(true) => log::info!(
                "pid {pid}: an earlier restore has postponed parent-death signals, which are in the image"
            ),
            Err(e) => log::warn!(
                "{}: if an earlier restore has postponed parent-death signals, the image does not have them",
                e.during(Phase::Image, pid)
            ),
        }
        let image = capture::with_header(state)?;
        let dir = self.host.image_dir().map_err(|e| {
            let why = Cause::Unsupported(e.to_string().into());
            Error::new("find the image folder", why).during(Phase::Image, pid)
        })?;
        let written =
            write(&mut self.written, dir, &image).map_err(|e| e.during(Phase::Image, pid))?;
        let name = in_folder(&written).name();
        log::info!("{}", log_lines::summary(pid, &image, name));
        if let Some(outgoing) = &mut self.outgoing {
            outgoing
                .send(&image)
                .map_err(|e| e.during(Phase::Image, pid))?;
        }
        Ok(written)
    }

    /// Completes the images at the end of a dump, or removes them after a failure.
    pub(super) fn close(&mut self, dir: BorrowedFd<'_>, ret: i32) {
        if ret != 0 {
            self.written.remove(dir);
            return;
        }
        // CRIU's images are written by now.
        match self.outgoing.take() {
            None => {
                self.correct_processes(dir);
                self.correct_files(dir);
                self.say_summary();
                self.look_for_unseen(dir);
            }
            Some(outgoing) => {
                self.leave_to_stream(outgoing, dir);
                self.say_summary();
            }
        }
    }

    fn say_summary(&self) {
        log::log!(
            self.notices.level().unwrap_or(log::Level::Info),
            "dump: {} processes captured; not kept: {}",
            self.written.len(),
            self.notices
        );
    }

    /// All images in the folder have been sent, and none has to outlive this dump any more.
    fn leave_to_stream(&mut self, outgoing: Outgoing, dir: BorrowedFd<'_>) {
        if let Err(e) = outgoing.finish() {
            self.recorder.error(format!(
                "{e}: a restore will say that the list of images is not complete"
            ));
        }
        self.written.remove(dir);
    }

    /// CRIU's images cannot be corrected in a stream, so a process that needs a correction is not dumped into a stream.
    pub(super) fn refuse_corrections(&mut self, pid: Pid) -> Result<()> {
        if self.outgoing.is_none() {
            return Ok(());
        }
        let corrections = &self.process(pid).corrections;
        let what = if corrections.lent_room.is_some() {
            "RLIMIT_SIGPENDING is too low for criu to restore the queues and the timers"
        } else if !corrections.timers.is_empty() {
            "POSIX timers count the CPU time of a thread or signal a thread"
        } else if !corrections.unwanted.is_empty() {
            "the SIGIO of files goes to a thread, or to a process that is not dumped (F_SETOWN)"
        } else {
            return Ok(());
        };
        Err(stream::refuse(pid, what))
    }

    /// Has CRIU dumped a process that it has not handed over?
    fn look_for_unseen(&mut self, dir: BorrowedFd<'_>) {
        let dumped = match image_folder::dumped_processes(dir) {
            Ok(dumped) => dumped,
            Err(e) => {
                return self.recorder.error(format!(
                    "cannot tell whether every process was captured: {e}"
                ));
            }
        };
        let captured: Vec<i32> = self.processes.values().filter_map(|p| p.captured).collect();
        for pid in dumped.iter().filter(|pid| !captured.contains(pid)) {
            self.recorder.error(format!(
                "pid {pid} (in its own namespace): dumped by criu, but never handed to this plugin: its signal state \
                 is NOT in the images. The CHECKPOINT_DEVICES hook of another plugin kept criu from calling this \
                 plugin"
            ));
        }
    }

    fn correct_processes(&mut self, dir: BorrowedFd<'_>) {
        let Dump {
            processes,
            recorder,
            ..
        } = self;
        for process in processes.values() {
            let Some(pid) = process.captured else {
                continue;
            };
            if let Some(limit) = process.corrections.lent_room
                && let Err(failed) = lend_room(dir, pid, limit)
            {
                recorder.error(failed);
            }
            if !process.corrections.timers.is_empty()
                && let Err(failed) = correct_timers(dir, pid, &process.corrections.timers)
            {
                recorder.error(failed);
            }
        }
    }

    /// CRIU sets owners before it creates threads, and does not arm a timerfd that has stopped because it was not read.
    fn correct_files(&mut self, dir: BorrowedFd<'_>) {
        let all = || self.processes.values().map(|process| &process.corrections);
        let unwanted: Vec<(u32, i32)> = all().flat_map(|one| one.unwanted.clone()).collect();
        if unwanted.is_empty() && !all().any(|one| one.timerfds) {
            return;
        }
        let is_unwanted = |owner: Owner| unwanted.contains(&(owner.kind, owner.id));
        match corrections::correct_files(dir, is_unwanted) {
            Ok(corrected) if corrected == Corrected::default() => {}
            Ok(Corrected { owners, timerfds }) => log::info!(
                "criu's files.img: removed {owners} owners (F_SETOWN), which the plugin sets at the restore, and armed \
                 {timerfds} timerfds that had expired and were not read"
            ),
            Err(e) => self.recorder.error(format!(
                "cannot correct criu's files.img: the restore will fail for files whose SIGIO goes to a thread, or \
                 expired timerfds will stay disarmed: {e}"
            )),
        }
    }
}

/// CRIU queues signals and creates timers under the limit in its image.
fn lend_room(dir: BorrowedFd<'_>, pid: i32, limit: Rlimit) -> std::result::Result<(), String> {
    corrections::lend_room(dir, pid, limit).map_err(|e| {
        format!(
            "pid {pid} (in its own namespace): cannot raise RLIMIT_SIGPENDING in criu's image: criu will fail to \
             restore the queue or the timers: {e}"
        )
    })?;
    log::info!(
        "pid {pid} (in its own namespace): raised RLIMIT_SIGPENDING to {limit} in criu's image, so that criu can \
         restore the queue and the timers; the plugin sets the captured limit at the restore"
    );
    Ok(())
}

/// CRIU creates all timers in the leader, for threads by the ids in its image.
fn correct_timers(
    dir: BorrowedFd<'_>,
    pid: i32,
    timers: &[PosixTimer],
) -> std::result::Result<(), String> {
    let corrected = corrections::correct_timers(dir, pid, timers).map_err(|e| {
        format!(
            "pid {pid} (in its own namespace): cannot correct the timers in criu's image: criu will fail to restore \
             timers that count the CPU time of a thread or signal a thread, or will assign them to the wrong thread: \
             {e}"
        )
    })?;
    if corrected {
        log::info!(
            "pid {pid} (in its own namespace): corrected the threads of timers in criu's image"
        );
    }
    Ok(())
}
