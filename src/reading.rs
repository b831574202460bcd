//! The signal state of one live process, and the interface of the two readers.
//!
//! There are two readers. [`Stopping`] stops the process by ptrace(2) and lets its threads answer: it works wherever ptrace(2)
//! does. `bpf::process::ProcessReader` lets the kernel copy its own structures, and touches nothing. Both give a [`Reading`].

use std::collections::BTreeMap;
use std::time::Duration;

use criu_signals_images::{Aspect, Pid, ProcessState, Recorded, Tid};

use crate::arch::{Waiting, waiting};
use crate::engine::capture;
use crate::error::Result;
use crate::tracee::{ByUs, StoppedProcess};

/// A way to read processes.
pub trait Read {
    /// Is the process stopped for it?
    fn stops(&self) -> bool;

    /// Reads the process, which is afterwards as it was before.
    ///
    /// # Errors
    /// Whatever could not be read. There is no partial result but what [`Reading::missing`] names.
    fn read(&mut self, pid: Pid) -> Result<Reading>;
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The state.
    pub process: ProcessState,
    /// How many entries each queue has, in the order of `ProcessState::queues`, where not all were read.
    pub depths: Option<Vec<usize>>,
    /// Calls that threads are waiting in, and that nothing has interrupted: what would become of a call is decided when it is
    /// interrupted, so that the thread has no `InterruptedCall`.
    pub waiting: Vec<WaitingCall>,
    /// What besides signal state decides what becomes of signals and of calls, for each thread; empty where nobody looked.
    pub surroundings: Vec<Surroundings>,
    /// Of timers that count the CPU time of a thread and do not say of which: the clock that names the thread, by the timers'
    /// ids. Empty where nobody could look.
    pub clocks: BTreeMap<i32, i32>,
}

/// A call that a thread is waiting in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitingCall {
    /// The thread.
    pub tid: Tid,
    /// The call's number, in the table of the thread's mode.
    pub number: u32,
    /// Address of the instruction behind it.
    pub ip: u64,
}

/// Who else has a hand in a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// The thread.
    pub tid: Tid,
    /// The thread that traces it, if the caller can see it.
    pub tracer: Option<Tid>,
    /// `SECCOMP_MODE_*`: 0 for none.
    pub seccomp: u32,
    /// Syscall User Dispatch: selector, and begin and length of the code that is left out.
    pub user_dispatch: Option<[u64; 3]>,
}

impl Reading {
    /// The parts of the state that this reader could not tell.
    pub fn missing(&self) -> Vec<Aspect> {
        if self.waiting.is_empty() {
            Vec::new()
        } else {
            vec![Aspect::InterruptedCalls]
        }
    }

    /// Does a thread wait in a call of which an interrupted thread would show how much time is left?
    pub fn hides_time(&self) -> bool {
        let compat = self.process.compat;
        let is_timed = |call: &WaitingCall| {
            let kind = waiting(call.number, [0; 6], compat);
            matches!(kind, Some(Waiting::Nanosleep | Waiting::ClockNanosleep))
        };
        self.waiting.iter().any(is_timed)
    }

    /// The state as a record, which says what is missing.
    ///
    /// # Errors
    /// If uname(2) fails, which it does not.
    pub fn recorded(self) -> Result<Recorded> {
        let missing = self.missing();
        let mut recorded = Recorded::from(capture::with_header(self.process)?);
        recorded.missing.extend(missing);
        recorded.missing.sort_unstable();
        Ok(recorded)
    }
}

/// Reads a process that it stops by ptrace(2).
#[derive(Clone, Copy, Debug)]
pub struct Stopping {
    /// How long to wait for the stop.
    pub timeout: Duration,
    /// How many entries of each queue are read; all if `None`.
    pub most: Option<usize>,
}

impl Read for Stopping {
    fn stops(&self) -> bool {
        true
    }

    fn read(&mut self, pid: Pid) -> Result<Reading> {
        let stopped = StoppedProcess::<ByUs>::seize(pid, self.timeout)?;
        let found = match self.most {
            Some(most) => {
                capture::at_most(&stopped, most).map(|(process, depths)| (process, Some(depths)))
            }
            None => capture::process(&stopped).map(|process| (process, None)),
        };
        stopped.release()?;
        let (process, depths) = found?;
        Ok(Reading {
            process,
            depths,
            waiting: Vec::new(),
            surroundings: Vec::new(),
            clocks: BTreeMap::new(),
        })
    }
}
