//! Reads the state that otherwise only injected calls can read, by BPF in one pass for all processes of a dump or a
//! restore.
//!
//! To load the BPF program takes as long as injected calls in some dozen processes or a hundred threads. So the program is
//! loaded only for that many: in a dump before CRIU stops the first process, in a restore when all processes are stopped.
//! If the program can't be loaded, or does not find a thread, calls are injected.

use std::collections::BTreeMap;

use criu_signals_images::{Pid, ProcessState};

#[cfg(feature = "bpf")]
use crate::bpf::process::ProcessReader;
#[cfg(feature = "bpf")]
use crate::bpf::stopped::StoppedReader;
use crate::engine::told::Told;
#[cfg(feature = "bpf")]
use crate::reading::{Read as _, Reading};

/// The injected calls for a process take as long as those in this many further threads.
const PROCESS: usize = 4;
/// To load the program takes as long as the injected calls in this many threads.
const LOADING: usize = 48;

/// Reads all stopped processes when the first is asked for.
#[derive(Default)]
pub(super) struct ByBpf {
    #[cfg(feature = "bpf")]
    reader: Option<StoppedReader>,
    /// See [`ByBpf::prepare`], which loads the program once.
    prepared: bool,
    /// See [`ByBpf::need`], which is to be done once.
    needed: bool,
    told: BTreeMap<Pid, Told>,
}

impl ByBpf {
    /// Loads the program if that pays for `processes` that have `threads` together, unless that was done before.
    pub fn prepare(&mut self, processes: usize, threads: usize) {
        let others = threads.saturating_sub(processes);
        if !self.prepared && pays(processes.saturating_mul(PROCESS).saturating_add(others)) {
            *self = ByBpf {
                prepared: true,
                ..ByBpf::load()
            };
        }
    }

    /// State is needed that only BPF can read: loads the program even if that takes longer than injected calls.
    pub fn need(&mut self) {
        if !std::mem::replace(&mut self.needed, true) && self.is_empty() && !is_forbidden() {
            *self = ByBpf {
                prepared: true,
                needed: true,
                ..ByBpf::load()
            };
        }
    }

    fn is_empty(&self) -> bool {
        #[cfg(feature = "bpf")]
        if self.reader.is_some() {
            return false;
        }
        self.told.is_empty()
    }

    #[cfg(feature = "bpf")]
    fn load() -> ByBpf {
        let reader = StoppedReader::new().map_err(|e| {
            log::debug!("{e}: threads are asked by injected calls");
        });
        ByBpf {
            reader: reader.ok(),
            ..ByBpf::default()
        }
    }

    #[cfg(not(feature = "bpf"))]
    fn load() -> ByBpf {
        ByBpf::default()
    }

    /// What is known of the process, if it was read. All processes of the dump or the restore are stopped, and stay
    /// stopped.
    pub fn for_process(&mut self, pid: Pid) -> Option<&Told> {
        #[cfg(feature = "bpf")]
        if let Some(reader) = self.reader.take() {
            match reader.read() {
                Ok(told) => {
                    log::debug!("{} stopped processes read by BPF", told.len());
                    self.told = told;
                }
                Err(e) => log::debug!("{e}: threads are asked by injected calls"),
            }
        }
        self.told.get(&pid)
    }
}

/// Reads the POSIX timers of stopped processes, with what the kernel alone knows of their pending entries. The program is loaded
/// before CRIU stops the first process, because that takes longer than to count the overruns of some timers.
#[derive(Default)]
pub(super) struct TimersByBpf {
    #[cfg(feature = "bpf")]
    reader: Option<ProcessReader>,
    is_prepared: bool,
}

impl TimersByBpf {
    /// To be called if a timer's entry may be pending in a process: loads the program.
    pub fn prepare(&mut self) {
        if !std::mem::replace(&mut self.is_prepared, true) && !is_forbidden() {
            self.load();
        }
    }

    #[cfg(feature = "bpf")]
    fn load(&mut self) {
        let made = ProcessReader::new().map_err(|e| e.to_string());
        let with_timers = made.and_then(|reader| match reader.without_timers() {
            Some(why) => Err(why.to_owned()),
            None => Ok(reader),
        });
        self.reader = with_timers
            .map_err(|why| log::debug!("{why}: timers are not read by BPF"))
            .ok();
    }

    #[cfg(not(feature = "bpf"))]
    fn load(&mut self) {}

    /// The state of a stopped process, with its timers: their clocks name the threads whose CPU time they count. `None`: BPF cannot
    /// be used.
    #[cfg(feature = "bpf")]
    pub fn read(&mut self, pid: Pid) -> Option<ProcessState> {
        match self.reader.as_mut()?.read(pid) {
            Ok(Reading {
                mut process,
                clocks,
                ..
            }) => {
                for timer in &mut process.timers {
                    timer.clock = clocks.get(&timer.id).copied().unwrap_or(timer.clock);
                }
                Some(process)
            }
            Err(e) => {
                log::debug!("{e}: timers are not read by BPF");
                None
            }
        }
    }

    #[cfg(not(feature = "bpf"))]
    pub fn read(&mut self, _: Pid) -> Option<ProcessState> {
        None
    }
}

fn pays(work: usize) -> bool {
    match decided().as_deref() {
        Some("always") => true,
        Some("never") => false,
        _ => work >= LOADING,
    }
}

fn is_forbidden() -> bool {
    decided().as_deref() == Some("never")
}

/// In builds for tests `CRIU_SIGNALS_BPF` decides: `always` or `never`.
fn decided() -> Option<String> {
    #[cfg(feature = "faults")]
    return std::env::var("CRIU_SIGNALS_BPF").ok();
    #[cfg(not(feature = "faults"))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_threads_load_nothing() {
        let work = |processes, threads: usize| processes * PROCESS + threads - processes;
        assert!(!pays(work(1, 32)) && pays(work(1, 64)));
        assert!(!pays(work(8, 8)) && pays(work(16, 16)));
        let mut few = ByBpf::default();
        few.prepare(1, 1);
        assert!(!few.prepared && few.for_process(Pid::own()).is_none());
    }

    #[test]
    fn the_program_is_loaded_once() {
        let mut many = ByBpf::default();
        many.prepare(1, 64);
        // This process is not stopped by itself.
        assert!(many.prepared && many.for_process(Pid::own()).is_none());
        many.prepare(1, 64);
        assert!(many.is_empty());
    }
}
