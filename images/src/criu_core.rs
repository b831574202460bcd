//! Reads and changes the signal state in CRIU's `core-*.img`; other contents are preserved.

use protobuf::{Message, MessageField};

use crate::altstack::AltStack;
use crate::codec::proto::criu_core as pb;
use crate::disposition::{Disposition, Dispositions};
use crate::error::{FieldError, ImageError};
use crate::framing::{FrameReader, FrameWriter, truncated};
use crate::header::Arch;
use crate::process::Rlimit;
use crate::siginfo::{SIGINFO_SIZE, Siginfo};
use crate::signo::SigNo;
use crate::sigset::SigSet;
use crate::timer::{Notify, PosixTimer, TimerEntry};

/// CRIU's `CORE_MAGIC`.
pub const MAGIC: u32 = 0x5505_3847;

/// CRIU sets no limit, and a deep queue makes one large entry; an `int` holds the size.
const LIMIT: u64 = (1 << 31) - 1;

/// Of the rlimits, by number: the same on x86_64 and aarch64 (asm-generic/resource.h).
const RLIMIT_SIGPENDING: usize = 11;

/// `task_state` of a process that runs, or is stopped; others are dead.
const TASK_ALIVE: u32 = 1;
const TASK_DEAD: u32 = 2;
const TASK_STOPPED: u32 = 3;
/// `mode` of the registers of a 32-bit task.
const MODE_COMPAT: u32 = 2;
const NANOSECONDS: u64 = 1_000_000_000;

/// One `core-*.img`: that of a process's leader, which has the process's state too, or of another thread.
///
/// Fields that are not known here are kept, each with its value; only their order may change, and only
/// if something was set.
#[derive(Debug, Clone)]
pub struct CoreImage {
    entry: pb::Core_entry,
    /// The file as it was read; `None` once something has been set.
    unchanged: Option<Vec<u8>>,
}

/// CRIU writes no entries for the two whose disposition cannot be changed.
fn recorded() -> impl Iterator<Item = SigNo> {
    SigNo::all().filter(|&signo| signo != SigNo::KILL && signo != SigNo::STOP)
}

impl CoreImage {
    /// Reads a whole file.
    ///
    /// # Errors
    /// If the bytes are not those of a core image: [`ImageError::NotAnImage`], [`ImageError::Truncated`],
    /// [`ImageError::Oversized`], [`ImageError::Corrupt`].
    pub fn read(bytes: &[u8]) -> Result<CoreImage, ImageError> {
        let mut frames = FrameReader::new(bytes, "the core image", MAGIC, LIMIT)?;
        let frame = frames
            .next()?
            .ok_or_else(|| truncated("before its only entry"))?;
        let entry = pb::Core_entry::parse_from_bytes(&frame.bytes)
            .map_err(|error| FieldError::new("core_entry", error.to_string()).in_entry(0))?;
        check(&entry).map_err(|error| error.in_entry(0))?;
        match frames.next() {
            Ok(None) => Ok(CoreImage {
                entry,
                unchanged: Some(bytes.to_vec()),
            }),
            _ => Err(FieldError::new("core_entry", "something follows it").in_entry(0)),
        }
    }

    /// The whole file: the very bytes that were read, if nothing was set.
    ///
    /// # Errors
    /// If what was set makes the image larger than a core image may be.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ImageError> {
        if let Some(bytes) = &self.unchanged {
            return Ok(bytes.clone());
        }
        let entry = self
            .entry
            .write_to_bytes()
            .map_err(|error| ImageError::io("encode", "the core image", error))?;
        let mut bytes = Vec::new();
        let mut frames = FrameWriter::new(&mut bytes, "the core image", MAGIC, LIMIT)?;
        frames.write(&entry)?;
        frames.finish()?;
        Ok(bytes)
    }

    /// Is it the leader's, with the process's state?
    pub fn has_process(&self) -> bool {
        self.entry.tc.is_some()
    }

    /// Where the process ran.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if that is an architecture on which a siginfo is laid out otherwise than here.
    pub fn arch(&self) -> Result<Arch, ImageError> {
        // enum march of CRIU's core.proto.
        match self.entry.mtype() {
            1 => Ok(Arch::X86_64),
            3 => Ok(Arch::Aarch64),
            other => {
                let reason = format!("{other} is neither x86_64 (1) nor aarch64 (3)");
                Err(FieldError::new("mtype", reason).into())
            }
        }
    }

    /// Was the process alive, running or stopped? False in the image of another thread than the leader.
    pub fn is_alive(&self) -> bool {
        let state = self.entry.tc.as_ref().map(|process| process.task_state());
        matches!(state, Some(TASK_ALIVE | TASK_STOPPED))
    }

    /// How the process ended, as wait(2) tells it; `None` of one that was alive, and of a thread.
    pub fn exit_status(&self) -> Option<u32> {
        let process = self.entry.tc.as_ref()?;
        (process.task_state() == TASK_DEAD).then(|| process.exit_code())
    }

    /// Is it a 32-bit task?
    pub fn is_compat(&self) -> bool {
        self.entry.thread_info.gpregs.mode() == MODE_COMPAT
    }

    /// `/proc/PID/comm`; `None` in the image of another thread than the leader.
    pub fn comm(&self) -> Option<String> {
        let process = self.entry.tc.as_ref()?;
        Some(String::from_utf8_lossy(process.comm()).into_owned())
    }

    /// The process's queue, in list order. Empty in the image of another thread than the leader.
    pub fn shared_queue(&self) -> Vec<Siginfo> {
        self.entry
            .tc
            .as_ref()
            .map_or_else(Vec::new, |process| queue(&process.signals_s))
    }

    /// Replaces the process's queue.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if the image has no process.
    pub fn set_shared_queue(&mut self, queue: &[Siginfo]) -> Result<(), ImageError> {
        set_queue(&mut self.process_mut()?.signals_s, queue);
        Ok(())
    }

    /// The thread's own queue, in list order.
    pub fn private_queue(&self) -> Vec<Siginfo> {
        self.entry
            .thread_core
            .as_ref()
            .map_or_else(Vec::new, |thread| queue(&thread.signals_p))
    }

    /// Replaces the thread's own queue.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if the image has no thread.
    pub fn set_private_queue(&mut self, queue: &[Siginfo]) -> Result<(), ImageError> {
        set_queue(&mut self.thread_mut()?.signals_p, queue);
        Ok(())
    }

    /// The alternate stack; `None` where CRIU recorded none.
    pub fn altstack(&self) -> Option<AltStack> {
        let sas = self.entry.thread_core.as_ref()?.sas.as_ref()?;
        Some(AltStack {
            sp: sas.ss_sp(),
            flags: sas.ss_flags(),
            size: sas.ss_size(),
        })
    }

    /// Replaces the alternate stack, or takes it out.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if the image has no thread.
    pub fn set_altstack(&mut self, altstack: Option<AltStack>) -> Result<(), ImageError> {
        let sas = &mut self.thread_mut()?.sas;
        match altstack {
            None => *sas = MessageField::none(),
            Some(altstack) => {
                let sas = sas.mut_or_insert_default();
                sas.set_ss_sp(altstack.sp);
                sas.set_ss_flags(altstack.flags);
                sas.set_ss_size(altstack.size);
            }
        }
        Ok(())
    }

    /// The mask that CRIU will give the thread: for the leader it takes the process's, for others the
    /// thread's (`sigreturn_restore` in cr-restore.c). `None` where CRIU recorded none.
    pub fn mask(&self) -> Option<SigSet> {
        let bits = match self.entry.tc.as_ref() {
            Some(process) => process.blk_sigset,
            None => self.entry.thread_core.as_ref()?.blk_sigset,
        };
        bits.map(SigSet::from_bits)
    }

    /// Replaces the mask that [`mask`](CoreImage::mask) gives.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if the image has neither process nor thread.
    pub fn set_mask(&mut self, mask: SigSet) -> Result<(), ImageError> {
        match self.process_mut() {
            Ok(process) => process.set_blk_sigset(mask.bits()),
            Err(_) => self.thread_mut()?.set_blk_sigset(mask.bits()),
        }
        Ok(())
    }

    /// What the process does on each signal, SIGKILL and SIGSTOP being default; `None` in the image of
    /// another thread than the leader, and where CRIU wrote them elsewhere (`sigacts-*.img`, before CRIU
    /// 3.1).
    pub fn dispositions(&self) -> Option<Dispositions> {
        let actions = &self.entry.tc.as_ref()?.sigactions;
        if actions.is_empty() {
            return None;
        }
        let mut dispositions = Dispositions::default();
        for (signo, action) in recorded().zip(actions) {
            dispositions[signo] = Disposition {
                handler: action.sigaction(),
                flags: action.flags(),
                restorer: action.restorer(),
                mask: SigSet::from_bits(action.mask()),
            };
        }
        Some(dispositions)
    }

    /// Replaces what the process does on each signal. What else CRIU knows of an action (that a 32-bit task
    /// set it) stays.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if the image has no process, or if SIGKILL or SIGSTOP is not default.
    pub fn set_dispositions(&mut self, dispositions: &Dispositions) -> Result<(), ImageError> {
        for signo in [SigNo::KILL, SigNo::STOP] {
            if dispositions[signo] != Disposition::DEFAULT {
                let reason = format!("{signo} cannot be handled");
                return Err(FieldError::new("tc.sigactions", reason).into());
            }
        }
        let actions = &mut self.process_mut()?.sigactions;
        actions.resize_with(recorded().count(), pb::Sa_entry::default);
        for (signo, action) in recorded().zip(actions) {
            let disposition = &dispositions[signo];
            action.set_sigaction(disposition.handler);
            action.set_flags(disposition.flags);
            action.set_restorer(disposition.restorer);
            action.set_mask(disposition.mask.bits());
        }
        Ok(())
    }

    /// The signal that stopped the process; `None` where CRIU recorded none.
    pub fn stop_signo(&self) -> Option<SigNo> {
        let signo = self.entry.tc.as_ref()?.stop_signo?;
        SigNo::new(i32::try_from(signo).ok()?)
    }

    /// Replaces the signal that stopped the process.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if the image has no process.
    pub fn set_stop_signo(&mut self, signo: Option<SigNo>) -> Result<(), ImageError> {
        self.process_mut()?.stop_signo = signo.map(|signo| signo.get().cast_unsigned());
        Ok(())
    }

    /// What is sent when the thread's parent ends; `None` where that is nothing, or CRIU recorded nothing.
    pub fn parent_death_signal(&self) -> Option<SigNo> {
        let signo = self.entry.thread_core.as_ref()?.pdeath_sig?;
        SigNo::new(i32::try_from(signo).ok()?)
    }

    /// Replaces what is sent when the thread's parent ends.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if the image has no thread.
    pub fn set_parent_death_signal(&mut self, signo: Option<SigNo>) -> Result<(), ImageError> {
        self.thread_mut()?.pdeath_sig = signo.map(|signo| signo.get().cast_unsigned());
        Ok(())
    }

    /// The POSIX timers, without where their queue entries are: CRIU does not record that.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if a timer has a kind of notification that is not known.
    pub fn timers(&self) -> Result<Vec<PosixTimer>, ImageError> {
        let Some(process) = self.entry.tc.as_ref() else {
            return Ok(Vec::new());
        };
        let timers = process.timers.posix.iter().enumerate();
        timers
            .map(|(index, timer)| {
                timer_from_criu(timer)
                    .map_err(|error| error.within_item("tc.timers.posix", index).into())
            })
            .collect()
    }

    /// Gives the timers that have the ids of `timers` their clocks, and lets them tell whom those tell: one that tells a
    /// thread which is gone tells nobody. Where the clock is another one, the times come with it. Returns the ids of
    /// those that were otherwise.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if the image has no process.
    pub fn correct_timers(&mut self, timers: &[PosixTimer]) -> Result<Vec<i32>, ImageError> {
        let unchanged = self.unchanged.take();
        let mut corrected = Vec::new();
        for criu in &mut self.process_mut()?.timers.mut_or_insert_default().posix {
            let id = criu.it_id().cast_signed();
            let Some(timer) = timers.iter().find(|timer| timer.id == id) else {
                continue;
            };
            let before = criu.clone();
            correct_timer(criu, timer);
            if *criu != before {
                corrected.push(id);
            }
        }
        if corrected.is_empty() {
            self.unchanged = unchanged;
        }
        Ok(corrected)
    }

    /// RLIMIT_SIGPENDING; `None` where CRIU recorded none.
    pub fn rlimit_sigpending(&self) -> Option<Rlimit> {
        let limits = &self.entry.tc.as_ref()?.rlimits.as_ref()?.rlimits;
        let limit = limits.get(RLIMIT_SIGPENDING)?;
        Some(Rlimit {
            soft: limit.cur(),
            hard: limit.max(),
        })
    }

    /// Replaces RLIMIT_SIGPENDING.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if CRIU recorded none.
    pub fn set_rlimit_sigpending(&mut self, limit: Rlimit) -> Result<(), ImageError> {
        let limits = self.process_mut()?.rlimits.as_mut();
        let recorded = limits.and_then(|limits| limits.rlimits.get_mut(RLIMIT_SIGPENDING));
        let recorded = recorded.ok_or_else(|| FieldError::missing("tc.rlimits"))?;
        recorded.set_cur(limit.soft);
        recorded.set_max(limit.hard);
        Ok(())
    }

    fn process_mut(&mut self) -> Result<&mut pb::Task_core_entry, ImageError> {
        let process = self
            .entry
            .tc
            .as_mut()
            .ok_or_else(|| FieldError::missing("tc"))?;
        self.unchanged = None;
        Ok(process)
    }

    fn thread_mut(&mut self) -> Result<&mut pb::Thread_core_entry, ImageError> {
        let thread = self.entry.thread_core.as_mut();
        let thread = thread.ok_or_else(|| FieldError::missing("thread_core"))?;
        self.unchanged = None;
        Ok(thread)
    }
}

/// Of asm-generic/siginfo.h.
const SIGEV_NONE: u32 = 1;

fn correct_timer(criu: &mut pb::Posix_timer_entry, timer: &PosixTimer) {
    match timer.notify {
        // To the kernel a timer whose thread is gone is like one that tells nobody: it runs, and nothing comes of it
        // (posixtimer_send_sigqueue). But such a timer cannot be created.
        Notify::Thread(0) => {
            criu.set_it_sigev_notify(SIGEV_NONE);
            criu.notify_thread_id = None;
        }
        Notify::Thread(tid) => criu.set_notify_thread_id(tid),
        Notify::Process | Notify::Nobody | Notify::Library => {}
    }
    if criu.clock_id() != timer.clock.cast_unsigned() {
        criu.set_clock_id(timer.clock.cast_unsigned());
        criu.set_isec(timer.interval / NANOSECONDS);
        criu.set_insec(timer.interval % NANOSECONDS);
        criu.set_vsec(timer.remaining / NANOSECONDS);
        criu.set_vnsec(timer.remaining % NANOSECONDS);
    }
}

fn timer_from_criu(timer: &pb::Posix_timer_entry) -> Result<PosixTimer, FieldError> {
    let time = |seconds: u64, nanoseconds: u64| {
        seconds
            .saturating_mul(NANOSECONDS)
            .saturating_add(nanoseconds)
    };
    // SIGEV_* of asm-generic/siginfo.h.
    let notify = match timer.it_sigev_notify() {
        0 => Notify::Process,
        1 => Notify::Nobody,
        2 => Notify::Library,
        4 => Notify::Thread(timer.notify_thread_id()),
        other => {
            let reason = format!("{other} is not one of SIGEV_*");
            return Err(FieldError::new("it_sigev_notify", reason));
        }
    };
    Ok(PosixTimer {
        id: timer.it_id().cast_signed(),
        clock: timer.clock_id().cast_signed(),
        signo: timer.si_signo().cast_signed(),
        value: timer.sival_ptr(),
        notify,
        interval: time(timer.isec(), timer.insec()),
        remaining: time(timer.vsec(), timer.vnsec()),
        overrun: timer.overrun(),
        entry: TimerEntry::Idle,
        entry_overrun: None,
        place_aside: None,
    })
}

/// What the accessors rely on.
fn check(entry: &pb::Core_entry) -> Result<(), FieldError> {
    if let Some(process) = entry.tc.as_ref() {
        check_queue("tc.signals_s", &process.signals_s)?;
        let count = process.sigactions.len();
        if count != 0 && count != recorded().count() {
            let reason = format!("there are {count}, and CRIU writes {}", recorded().count());
            return Err(FieldError::new("tc.sigactions", reason));
        }
    }
    match entry.thread_core.as_ref() {
        Some(thread) => check_queue("thread_core.signals_p", &thread.signals_p),
        None => Ok(()),
    }
}

fn check_queue(
    field: &str,
    queue: &MessageField<pb::Signal_queue_entry>,
) -> Result<(), FieldError> {
    for (index, signal) in queue.signals.iter().enumerate() {
        let size = signal.siginfo().len();
        if size != SIGINFO_SIZE {
            let reason = format!("has {size} bytes, a siginfo has {SIGINFO_SIZE}");
            return Err(
                FieldError::new("siginfo", reason).within_item(&format!("{field}.signals"), index)
            );
        }
    }
    Ok(())
}

fn queue(queue: &MessageField<pb::Signal_queue_entry>) -> Vec<Siginfo> {
    let signals = queue.signals.iter();
    // `check` has seen to it that none is left out.
    signals
        .filter_map(|signal| signal.siginfo().try_into().ok().map(Siginfo))
        .collect()
}

/// CRIU writes the message even if nothing is queued; where it is absent, that is left so.
fn set_queue(field: &mut MessageField<pb::Signal_queue_entry>, queue: &[Siginfo]) {
    if queue.is_empty() && field.is_none() {
        return;
    }
    field.mut_or_insert_default().signals = queue
        .iter()
        .map(|siginfo| {
            let mut entry = pb::Siginfo_entry::new();
            entry.set_siginfo(siginfo.0.to_vec());
            entry
        })
        .collect();
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use protobuf::UnknownFields;

    use super::*;
    use crate::testing;

    /// Fields of CRIU's that are not in our message, with one value of each wire type.
    fn foreign() -> UnknownFields {
        let mut fields = UnknownFields::new();
        for number in [30, 200, 3000] {
            fields.add_varint(number, u64::MAX);
            fields.add_varint(number, 1);
            fields.add_fixed32(number + 1, 7);
            fields.add_fixed64(number + 2, 9);
            fields.add_length_delimited(number + 3, vec![0xff; 300]);
            fields.add_length_delimited(number + 3, Vec::new());
        }
        fields
    }

    fn sigaction(index: u64) -> pb::Sa_entry {
        let mut action = pb::Sa_entry::new();
        action.set_sigaction(index);
        action.set_flags(index << 8);
        action.set_restorer(index << 16);
        action.set_mask(index << 24);
        action.set_compat_sigaction(true);
        *action.special_fields.mut_unknown_fields() = foreign();
        action
    }

    /// The image of a leader, as CRIU writes one.
    pub(crate) fn leader() -> pb::Core_entry {
        let mut entry = pb::Core_entry::new();
        entry.set_mtype(1);
        *entry.special_fields.mut_unknown_fields() = foreign();

        let process = entry.tc.mut_or_insert_default();
        process.set_task_state(1);
        process.set_blk_sigset(0xff);
        // comm may be any bytes: prctl(PR_SET_NAME).
        process.set_comm(vec![b'x', 0xff]);
        process.set_stop_signo(20);
        process.sigactions = (1..=62).map(sigaction).collect();
        for number in 0..16 {
            let mut limit = pb::Rlimit_entry::new();
            limit.set_cur(number);
            limit.set_max(u64::MAX);
            process.rlimits.mut_or_insert_default().rlimits.push(limit);
        }
        process.signals_s.mut_or_insert_default();
        *process.special_fields.mut_unknown_fields() = foreign();

        let thread = entry.thread_core.mut_or_insert_default();
        let sas = thread.sas.mut_or_insert_default();
        sas.set_ss_sp(0x7f00);
        sas.set_ss_size(8192);
        sas.set_ss_flags(0);
        *sas.special_fields.mut_unknown_fields() = foreign();
        set_queue(&mut thread.signals_p, &[testing::queued(34, 1)]);
        *thread.special_fields.mut_unknown_fields() = foreign();
        entry
    }

    /// The image of another thread: no process, and nothing that may be left out.
    pub(crate) fn thread() -> pb::Core_entry {
        let mut entry = pb::Core_entry::new();
        entry.set_mtype(1);
        entry.thread_core.mut_or_insert_default();
        entry
    }

    fn file(entry: &pb::Core_entry) -> Vec<u8> {
        let image = CoreImage {
            entry: entry.clone(),
            unchanged: None,
        };
        image.to_bytes().expect("valid")
    }

    pub(crate) fn read(entry: &pb::Core_entry) -> CoreImage {
        CoreImage::read(&file(entry)).expect("valid")
    }

    #[test]
    fn what_a_leader_s_image_says() {
        let image = read(&leader());
        assert!(image.has_process());
        assert_eq!(image.comm().as_deref(), Some("x\u{fffd}"));
        assert_eq!(image.shared_queue(), []);
        assert_eq!(image.private_queue(), [testing::queued(34, 1)]);
        assert_eq!(image.mask(), Some(SigSet::from_bits(0xff)));
        assert_eq!(image.stop_signo(), Some(SigNo::TSTP));
        let limit = Rlimit {
            soft: 11,
            hard: u64::MAX,
        };
        assert_eq!(image.rlimit_sigpending(), Some(limit));
        let stack = AltStack {
            sp: 0x7f00,
            flags: 0,
            size: 8192,
        };
        assert_eq!(image.altstack(), Some(stack));
    }

    #[test]
    fn kill_and_stop_are_left_out() {
        let dispositions = read(&leader()).dispositions().expect("there are some");
        assert_eq!(dispositions[SigNo::FPE].handler, 8);
        assert_eq!(dispositions[SigNo::KILL], Disposition::DEFAULT);
        assert_eq!(dispositions[SigNo::USR1].handler, 9);
        assert_eq!(dispositions[SigNo::CONT].handler, 17);
        assert_eq!(dispositions[SigNo::STOP], Disposition::DEFAULT);
        assert_eq!(dispositions[SigNo::TSTP].handler, 18);
        assert_eq!(dispositions[SigNo::MAX].handler, 62);
    }

    #[test]
    fn what_is_not_recorded() {
        let mut image = read(&thread());
        assert!(!image.has_process());
        assert_eq!(image.comm(), None);
        assert_eq!(
            (image.shared_queue(), image.private_queue()),
            (vec![], vec![])
        );
        assert_eq!(image.altstack(), None);
        assert_eq!(image.mask(), None);
        assert_eq!(image.dispositions(), None);
        assert_eq!(image.stop_signo(), None);
        assert_eq!(image.rlimit_sigpending(), None);

        let nothing = Rlimit { soft: 0, hard: 0 };
        image.set_shared_queue(&[]).expect_err("no process");
        image
            .set_dispositions(&Dispositions::default())
            .expect_err("no process");
        image
            .set_rlimit_sigpending(nothing)
            .expect_err("no process");
        image.set_private_queue(&[]).expect("a thread");
        image.set_mask(SigSet::FULL).expect("a thread");
        assert_eq!(image.mask(), Some(SigSet::FULL));
        assert_eq!(image.private_queue(), []);

        let mut empty = pb::Core_entry::new();
        empty.set_mtype(1);
        let mut image = read(&empty);
        image.set_mask(SigSet::FULL).expect_err("neither");
        image.set_altstack(None).expect_err("no thread");
    }

    #[test]
    fn unread_fields_survive_every_change() {
        let mut image = read(&leader());
        let dispositions = image.dispositions().expect("there are some");
        image.set_dispositions(&dispositions).expect("a process");
        image
            .set_shared_queue(&[testing::queued(35, 2), testing::queued(35, 3)])
            .expect("a process");
        image.set_private_queue(&[]).expect("a thread");
        image.set_mask(SigSet::EMPTY).expect("a process");
        image
            .set_rlimit_sigpending(Rlimit { soft: 1, hard: 2 })
            .expect("recorded");
        let stack = AltStack {
            sp: 1,
            flags: 2,
            size: 3,
        };
        image.set_altstack(Some(stack)).expect("a thread");

        let changed = CoreImage::read(&image.to_bytes().expect("valid")).expect("valid");
        assert_eq!(
            changed.shared_queue(),
            [testing::queued(35, 2), testing::queued(35, 3)]
        );
        assert_eq!(changed.private_queue(), []);
        assert_eq!(changed.mask(), Some(SigSet::EMPTY));
        assert_eq!(
            changed.rlimit_sigpending(),
            Some(Rlimit { soft: 1, hard: 2 })
        );
        assert_eq!(changed.altstack(), Some(stack));
        assert_eq!(changed.dispositions(), Some(dispositions));

        // Whatever was set back is as it was, and the rest was never anything else.
        let mut entry = changed.entry;
        let original = leader();
        let process = entry.tc.mut_or_insert_default();
        process.set_blk_sigset(0xff);
        process.signals_s.mut_or_insert_default().signals.clear();
        process.rlimits.clone_from(&original.tc.rlimits);
        let thread = entry.thread_core.mut_or_insert_default();
        thread.signals_p.clone_from(&original.thread_core.signals_p);
        let sas = thread.sas.mut_or_insert_default();
        sas.set_ss_sp(0x7f00);
        sas.set_ss_size(8192);
        sas.set_ss_flags(0);
        assert_eq!(entry, original);
    }

    fn criu_timer(id: u32, clock: i32, notify: u32, tid: Option<i32>) -> pb::Posix_timer_entry {
        let mut timer = pb::Posix_timer_entry::new();
        timer.set_it_id(id);
        timer.set_clock_id(clock.cast_unsigned());
        timer.set_si_signo(34);
        timer.set_it_sigev_notify(notify);
        timer.set_sival_ptr(7);
        timer.set_overrun(0);
        timer.set_isec(1);
        timer.set_insec(2);
        timer.set_vsec(3);
        timer.set_vnsec(4);
        timer.notify_thread_id = tid;
        timer
    }

    #[test]
    fn timers_are_corrected() {
        let mut entry = leader();
        let timers = entry
            .tc
            .mut_or_insert_default()
            .timers
            .mut_or_insert_default();
        timers.posix = vec![
            criu_timer(0, 1, 0, None),
            criu_timer(1, 1, 4, Some(900)),
            criu_timer(2, 1, 4, Some(901)),
            criu_timer(3, -2, 4, Some(42)),
        ];
        let before = file(&entry);
        let mut image = CoreImage::read(&before).expect("valid");
        let right = image.timers().expect("known");
        assert_eq!(image.correct_timers(&right).expect("a process"), [0; 0]);
        assert_eq!(image.to_bytes().expect("valid"), before, "as it was");

        let wanted: Vec<PosixTimer> = right
            .iter()
            .map(|timer| PosixTimer {
                notify: match timer.notify {
                    Notify::Thread(900) => Notify::Thread(41),
                    Notify::Thread(901) => Notify::Thread(0),
                    other => other,
                },
                clock: if timer.id == 3 { -342 } else { timer.clock },
                ..*timer
            })
            .collect();
        assert_eq!(image.correct_timers(&wanted).expect("a process"), [1, 2, 3]);
        let image = CoreImage::read(&image.to_bytes().expect("valid")).expect("valid");
        let found = image.timers().expect("known");
        let notify: Vec<Notify> = found.iter().map(|timer| timer.notify).collect();
        assert_eq!(
            notify,
            [
                Notify::Process,
                Notify::Thread(41),
                Notify::Nobody,
                Notify::Thread(42)
            ]
        );
        let clocks: Vec<i32> = found.iter().map(|timer| timer.clock).collect();
        assert_eq!(clocks, [1, 1, 1, -342]);
        assert!(found.iter().all(|timer| timer.interval == 1_000_000_002));
        read(&thread())
            .correct_timers(&wanted)
            .expect_err("no process");
    }

    #[test]
    fn an_unchanged_file_is_the_same_file() {
        // Not as this crate would write it: the unknown field comes first.
        let mut entry = vec![0xf8, 0x01, 0x05];
        entry.extend(leader().write_to_bytes().expect("valid"));
        let mut bytes = Vec::new();
        FrameWriter::new(&mut bytes, "", MAGIC, LIMIT)
            .and_then(|mut frames| frames.write(&entry))
            .expect("small");
        let image = CoreImage::read(&bytes).expect("valid");
        assert_eq!(image.to_bytes().expect("valid"), bytes);
    }

    #[test]
    fn what_criu_does_not_write_is_refused() {
        let refused = |change: fn(&mut pb::Core_entry)| {
            let mut entry = leader();
            change(&mut entry);
            CoreImage::read(&file(&entry)).expect_err("CRIU would refuse it")
        };
        refused(|entry| entry.tc.mut_or_insert_default().sigactions.truncate(61));
        refused(|entry| {
            let thread = entry.thread_core.mut_or_insert_default();
            thread.signals_p.mut_or_insert_default().signals[0].set_siginfo(vec![0; 127]);
        });

        let whole = file(&leader());
        for length in 0..whole.len() {
            CoreImage::read(&whole[..length]).expect_err("a part of it");
        }
        CoreImage::read(&[whole.as_slice(), &[0]].concat()).expect_err("something follows");
        let mut foreign = whole;
        foreign[4] ^= 1;
        match CoreImage::read(&foreign) {
            Err(ImageError::NotAnImage { .. }) => {}
            other => panic!("{other:?}"),
        }
        let mut dispositions = Dispositions::default();
        dispositions[SigNo::KILL].handler = 1;
        read(&leader())
            .set_dispositions(&dispositions)
            .expect_err("SIGKILL");
    }

    proptest! {
        #[test]
        fn queues_round_trip(
            shared in prop::collection::vec(testing::siginfo(), 0..4),
            private in prop::collection::vec(testing::siginfo(), 0..4),
        ) {
            let mut image = read(&leader());
            image.set_shared_queue(&shared).expect("a process");
            image.set_private_queue(&private).expect("a thread");
            let image = CoreImage::read(&image.to_bytes().expect("valid")).expect("valid");
            prop_assert_eq!(image.shared_queue(), shared);
            prop_assert_eq!(image.private_queue(), private);
        }

        #[test]
        fn dispositions_round_trip(mut dispositions in testing::dispositions()) {
            dispositions[SigNo::KILL] = Disposition::DEFAULT;
            dispositions[SigNo::STOP] = Disposition::DEFAULT;
            let mut image = read(&leader());
            image.set_dispositions(&dispositions).expect("a process");
            let image = CoreImage::read(&image.to_bytes().expect("valid")).expect("valid");
            prop_assert_eq!(image.dispositions(), Some(dispositions));
        }

        #[test]
        fn any_bytes_are_survived(tail: Vec<u8>, at: prop::sample::Index, value: u8) {
            let _ = CoreImage::read(&tail);
            let mut bytes = file(&leader());
            let at = at.index(bytes.len());
            bytes[at] = value;
            if let Ok(image) = CoreImage::read(&bytes) {
                let _ = (image.dispositions(), image.shared_queue(), image.stop_signo(), image.mask());
            }
        }
    }
}
