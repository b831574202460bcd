//! What threads would otherwise be asked by injected calls, read by BPF in one pass for all processes of a dump or a restore.
//!
//! To load the program takes as long as to ask some dozen processes or a hundred threads. So it is loaded where there are as
//! many: in a dump before CRIU stops the first of them, in a restore when all of them are stopped. Where it can't be loaded, and
//! where a thread is not found, threads are asked.

use std::collections::BTreeMap;

use criu_signals_images::Pid;

#[cfg(feature = "bpf")]
use crate::bpf::stopped::StoppedReader;
use crate::engine::told::Told;

/// To ask a process takes as long as to ask so many of its threads beside the first.
const PROCESS: usize = 4;
/// As long as to ask so many threads it takes to load the program.
const LOADING: usize = 96;

/// Reads all stopped processes when the first of them is asked for.
#[derive(Default)]
pub(super) struct ByBpf {
    #[cfg(feature = "bpf")]
    reader: Option<StoppedReader>,
    told: BTreeMap<Pid, Told>,
}

impl ByBpf {
    /// For `processes` that have so many `threads` together.
    pub fn prepare(processes: usize, threads: usize) -> ByBpf {
        let others = threads.saturating_sub(processes);
        if pays(processes.saturating_mul(PROCESS).saturating_add(others)) {
            ByBpf::load()
        } else {
            ByBpf::default()
        }
    }

    #[cfg(feature = "bpf")]
    fn load() -> ByBpf {
        let reader = StoppedReader::new().map_err(|e| {
            log::debug!("{e}: threads are asked by injected calls");
        });
        ByBpf {
            reader: reader.ok(),
            told: BTreeMap::new(),
        }
    }

    #[cfg(not(feature = "bpf"))]
    fn load() -> ByBpf {
        ByBpf::default()
    }

    /// What is known of the process, if anything is. All processes of the dump or the restore are stopped, and stay so.
    pub fn of(&mut self, pid: Pid) -> Option<&Told> {
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

/// In builds for tests `CRIU_SIGNALS_BPF` decides: `always` or `never`.
fn pays(work: usize) -> bool {
    #[cfg(feature = "faults")]
    match std::env::var("CRIU_SIGNALS_BPF").as_deref() {
        Ok("always") => return true,
        Ok("never") => return false,
        _ => {}
    }
    work >= LOADING
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_threads_load_nothing() {
        let work = |processes, threads: usize| processes * PROCESS + threads - processes;
        assert!(!pays(work(1, 64)) && pays(work(1, 128)));
        assert!(!pays(work(16, 16)) && pays(work(60, 60)));
        assert!(ByBpf::prepare(1, 1).of(Pid::own()).is_none());
    }
}
