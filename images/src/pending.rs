//! One queue of pending signals: a process's shared one, or a thread's private one.

use crate::error::FieldError;
use crate::siginfo::Siginfo;
use crate::signo::SigNo;
use crate::sigset::SigSet;

/// The kernel's `struct sigpending`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pending {
    /// Which signals are pending: `SigPnd` or `ShdPnd` in `/proc/PID/status`.
    pub bits: SigSet,
    /// The siginfos in list order, as `PTRACE_PEEKSIGINFO` gives them.
    pub queue: Vec<Siginfo>,
}

impl Pending {
    /// Signals that are pending without a siginfo, because RLIMIT_SIGPENDING left no room for one
    /// (`__send_signal_locked` in `kernel/signal.c`). They are delivered as SI_USER from pid 0.
    pub fn bits_without_info(&self) -> SigSet {
        self.bits.difference(self.queued())
    }

    /// Signals that have at least one siginfo in the queue.
    pub fn queued(&self) -> SigSet {
        self.queue
            .iter()
            .filter_map(|siginfo| SigNo::new(siginfo.signo()))
            .collect()
    }

    /// Removes all siginfos but those for which `keep` is true, and the bits of those signals that lose their last one. Signals that
    /// are pending without a siginfo stay.
    pub fn retain(&mut self, keep: impl FnMut(&Siginfo) -> bool) {
        let before = self.queued();
        self.queue.retain(keep);
        self.bits = self.bits.difference(before.difference(self.queued()));
    }
}

impl Pending {
    /// Appends a siginfo, if it can be in a queue with these bits.
    pub(crate) fn push(&mut self, siginfo: Siginfo) -> Result<(), FieldError> {
        check(self.bits, &siginfo)?;
        self.queue.push(siginfo);
        Ok(())
    }

    /// All of them can be in a queue with these bits; `name` is the queue's.
    pub(crate) fn check(&self, name: &str) -> Result<(), FieldError> {
        self.queue
            .iter()
            .enumerate()
            .try_for_each(|(index, siginfo)| {
                check(self.bits, siginfo).map_err(|error| error.within_item(name, index))
            })
    }
}

/// The kernel sets the bit with the entry, and clears it with the last one of that number.
fn check(bits: SigSet, siginfo: &Siginfo) -> Result<(), FieldError> {
    let reason = match SigNo::new(siginfo.signo()) {
        Some(signo) if bits.contains(signo) => return Ok(()),
        Some(signo) => format!("{signo} is queued, but is not among the pending signals ({bits})"),
        None => format!("{} is not a signal (1 to 64)", siginfo.signo()),
    };
    Err(FieldError::new("signo", reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::siginfo::Fields;

    fn siginfo(signo: i32) -> Siginfo {
        Siginfo::from_fields(signo, 0, 0, &Fields::Kill { pid: 1, uid: 0 })
    }

    #[test]
    fn bits_without_info() {
        let pending = Pending {
            bits: [SigNo::HUP, SigNo::INT, SigNo::MAX].into_iter().collect(),
            queue: vec![siginfo(64), siginfo(1), siginfo(64)],
        };
        assert_eq!(pending.bits_without_info(), SigSet::from(SigNo::INT));
        assert_eq!(pending.check("queue"), Ok(()));
    }

    #[test]
    fn a_bit_goes_with_the_last_siginfo() {
        let mut pending = Pending {
            bits: [SigNo::HUP, SigNo::INT, SigNo::MAX].into_iter().collect(),
            queue: vec![siginfo(64), siginfo(1), siginfo(64)],
        };
        let mut seen = 0;
        pending.retain(|info| {
            seen += 1;
            info.signo() != 1 && seen > 1
        });
        assert_eq!(pending.queue, [siginfo(64)]);
        assert_eq!(
            pending.bits,
            [SigNo::INT, SigNo::MAX].into_iter().collect::<SigSet>()
        );
    }

    #[test]
    fn a_siginfo_needs_its_bit() {
        let mut pending = Pending {
            bits: SigSet::from(SigNo::INT),
            queue: Vec::new(),
        };
        pending.push(siginfo(1)).expect_err("SIGHUP is not pending");
        pending.push(siginfo(0)).expect_err("no signal");
        pending.push(siginfo(65)).expect_err("no signal");
        pending.push(siginfo(2)).expect("SIGINT is pending");
        assert_eq!(pending.queue, [siginfo(2)]);

        pending.bits = SigSet::EMPTY;
        pending.check("queue").expect_err("nothing is pending");
    }
}
