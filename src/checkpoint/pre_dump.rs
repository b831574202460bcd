//! `criu pre-dump`: CRIU stops the processes, reads their memory and lets them go on. No signal is dumped and no image is
//! written. The stop must end no system call (docs/eintr.md).
//!
//! CRIU calls [`before_seize`](PreDump::before_seize) while the process runs. A criu with the patch of
//! docs/upstream/pre-dump.md also calls [`capture`](PreDump::capture), when all processes are stopped and before CRIU runs
//! code in them, and [`end`](PreDump::end), before the processes run on. A criu without the patch calls neither: nothing is
//! done in the processes, and calls end with EINTR as without the plugin.

use std::collections::BTreeMap;

use criu_signals_images::Pid;

use crate::checkpoint::told::ByBpf;
use crate::error::{Phase, Result};
use crate::in_time::{self, OneHelper};
use crate::losses::call_eintr;
use crate::proc::{self, Glimpse};
use crate::state::asleep::ProcessorClocks;
use crate::state::interrupted::{self, HandedOver};
use crate::tracee::{Budget, ByHost, StoppedProcess};

use super::dump::{PATIENCE, seized_next};

/// What a pre-dump has done so far.
#[derive(Default)]
pub struct PreDump {
    /// The processes, by their pids as criu sees them.
    processes: BTreeMap<Pid, PreDumped>,
    root_seen: bool,
    clocks: ProcessorClocks,
    by_bpf: ByBpf,
}

/// One process during a pre-dump.
#[derive(Default)]
struct PreDumped {
    /// The calls in which its threads were seen waiting, until CRIU hands the process over.
    waiting: interrupted::Seen,
    /// CRIU has handed it over.
    handed: bool,
    /// System calls that were changed for CRIU, and are given back at the end.
    calls: Option<HandedOver>,
}

impl PreDump {
    /// Begins a pre-dump.
    #[must_use]
    pub fn begin() -> PreDump {
        in_time::set_patience(PATIENCE);
        PreDump::default()
    }

    /// Looks at the process that CRIU seizes next, and changes nothing in the process: this criu may not call the plugin
    /// again. The first call looks at all processes (`seized_next`).
    pub fn before_seize(&mut self, pid: Pid) {
        let seen = seized_next(&mut self.root_seen, pid);
        let _one_helper = OneHelper::begin();
        for pid in seen {
            let _budget = Budget::of_process();
            match self.look(pid) {
                Err(e) if e.is_died() => {}
                Err(e) => log::warn!("{}", e.during(Phase::Seize, pid)),
                Ok(()) => {}
            }
        }
    }

    fn look(&mut self, pid: Pid) -> Result<()> {
        let threads = Glimpse::of_threads(pid)?;
        let is_first = !self.processes.contains_key(&pid);
        let process = self.processes.entry(pid).or_default();
        let waiting = &mut process.waiting;
        waiting.look(pid, &threads, &mut self.clocks, || ());
        if is_first && let Some(warning) = call_eintr::before_pre_dump(pid, &threads)? {
            log::warn!("{warning}");
        }
        Ok(())
    }

    /// Keeps the stop from ending a system call in a process that CRIU has stopped. A failure does not abort the pre-dump: the
    /// processes run on either way.
    pub fn capture(&mut self, pid: Pid) {
        let _budget = Budget::of_process();
        let process = self.processes.entry(pid).or_default();
        process.handed = true;
        match self.try_capture(pid) {
            Err(e) if e.is_died() => {}
            Err(e) => log::warn!(
                "{}: system calls of the process may fail with EINTR, as without the plugin",
                e.during(Phase::Capture, pid)
            ),
            Ok(()) => {}
        }
    }

    fn try_capture(&mut self, pid: Pid) -> Result<()> {
        let stopped = StoppedProcess::<ByHost>::of_host(pid)?;
        let process = self.processes.entry(pid).or_default();
        let confirmed = std::mem::take(&mut process.waiting).confirm(&stopped)?;
        for lost in confirmed.lost_masks() {
            log::warn!("pid {pid} tid {}: {lost}", lost.tid);
        }
        call_eintr::log(pid, confirmed.ended_calls());
        if confirmed.needs_blocks(&stopped)? {
            self.by_bpf.need();
        }
        let blocks = self.by_bpf.for_process(pid).map(|told| told.blocks());
        let completed = confirmed
            .with_blocks(blocks.unwrap_or_default())
            .complete_alone(&stopped)?;
        let threads = completed.threads();
        process.calls = Some(completed.hand_over(&stopped)?);
        log::info!(
            "pid {pid}: criu has handed over the process: the pre-dump ends no system call; {threads} of {} threads go on in one",
            stopped.threads().len()
        );
        Ok(())
    }

    /// The processes are still seized, and are released next.
    pub fn end(self, ret: i32) {
        for (pid, process) in self.processes {
            let _budget = Budget::of_process();
            if let Some(calls) = process.calls {
                for error in calls.take_back() {
                    log::error!("{error}");
                }
            } else if ret != 0 && !process.handed && !proc::is_gone(pid) {
                // CRIU has failed before all processes were stopped.
                match process.waiting.shield_traced(pid) {
                    Err(e) if e.is_died() => {}
                    Err(e) => log::warn!("{}", e.during(Phase::Release, pid)),
                    Ok((_, ended)) => call_eintr::log(pid, &ended),
                }
            }
        }
    }
}
