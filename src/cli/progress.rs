//! The progress bar of long work, and its interruption by signals.

use std::ops::ControlFlow;

use criu_signals::live::{Progress, Stage};
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::context::Failure;

/// No bar for fewer processes: the work would end before anybody could read the bar.
const FEW: usize = 16;

/// A progress bar on standard error, if standard error is a terminal. Also defers ^C, SIGTERM and SIGHUP: they end the
/// work between two processes, so that each change is undone first.
pub struct Console {
    bar: ProgressBar,
    stage: Option<Stage>,
    signals: SignalFd,
    blocked: SigSet,
    ended_by: Option<Signal>,
}

impl Console {
    /// From here on those signals are noticed by [`Progress::at`] only, and by [`Console::end`].
    pub fn begin() -> Result<Console, Failure> {
        let blocked: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .collect();
        blocked.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&blocked, flags)?;
        Ok(Console {
            // It draws nothing where standard error is no terminal.
            bar: ProgressBar::no_length(),
            stage: None,
            signals,
            blocked,
            ended_by: None,
        })
    }

    /// Restores the usual effect of the signals, also of a signal that has ended the work.
    pub fn end(self) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        if let Some(signal) = self.ended_by {
            raise(signal)?;
        }
        self.blocked.thread_unblock()?;
        Ok(())
    }
}

impl Progress for Console {
    fn at(&mut self, stage: Stage, done: usize, all: usize) -> ControlFlow<()> {
        if self.stage != Some(stage) {
            self.stage = Some(stage);
            // Stages begin again.
            self.bar.reset();
            let (what, counted) = match stage {
                Stage::Stop => ("stopping", false),
                Stage::Read => ("reading", true),
                Stage::Write => ("writing", true),
                Stage::PutBack => ("putting back", true),
            };
            let template = if counted {
                "{msg} [{wide_bar}] {pos}/{len}"
            } else {
                "{msg} {pos}"
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar.set_style(style);
            }
            self.bar.set_message(what);
        }
        if all > FEW {
            self.bar.set_length(all as u64);
            self.bar.set_position(done as u64);
        }
        match self.signals.read_signal() {
            Ok(Some(info)) => {
                let number = info.ssi_signo.cast_signed();
                self.ended_by = Signal::try_from(number).ok();
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}
