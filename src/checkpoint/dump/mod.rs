//! `criu dump`: captures the signal state of every process when all processes are stopped and CRIU has dumped none of
//! them.
//!
//! CRIU calls the plugin three times for a process, and [`Dump`] has a method for each:
//! [`before_seize`](Dump::before_seize) while the process still runs, [`capture`](Dump::capture) when all are stopped,
//! and [`end`](Dump::end), when CRIU has written its images. `process.rs` has the steps for one process, as an order of
//! types; `take_back.rs` has the table of what is undone at the end.

mod capture;
mod images;
mod losses;
mod process;
mod run_on;
mod take_back;
mod unset_memory;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criu_signals_images::{Pid, ProcessState, SigNo, SigSet, TakenOut};

use crate::checkpoint::INVENTORY_NAME;
use crate::checkpoint::custody::{self, Custody};
use crate::checkpoint::options::{Options, Overruns, TakeOut};
use crate::checkpoint::recorder::Recorder;
use crate::checkpoint::stray_stop;
use crate::checkpoint::stream::Outgoing;
use crate::checkpoint::told::{ByBpf, TimersByBpf};
use crate::criu::{HookError, Host, Inventory};
use crate::engine::stops::{Before, WaitStatuses};
use crate::error::{Cause, Error, Phase, Result};
use crate::fault::{self, Point};
use crate::image_folder::{self, Written};
use crate::in_time::{self, OneHelper};
use crate::losses::files::Dumped;
use crate::losses::notices::Notices;
use crate::proc::{self, Glimpse, TimerLine};
use crate::run_report::{Document, Outcome, Process};
use crate::setting_names::TAKE_OUT;
use crate::state::asleep::{self, ProcessorClocks};
use crate::tracee::{Budget, Remembered};

use process::DumpedProcess;

/// What a dump has done so far.
pub struct Dump {
    host: Host,
    options: Options,
    /// Will a restore be refused without this plugin?
    recorded: bool,
    written: Written,
    /// The stream to which the images go as well, if CRIU streams its own.
    outgoing: Option<Outgoing>,
    /// The processes, by their pids as criu sees them.
    processes: BTreeMap<Pid, DumpedProcess>,
    /// The process that CRIU has handed over first.
    root: Option<Pid>,
    root_seen: bool,
    wait_statuses: WaitStatuses,
    clocks: ProcessorClocks,
    /// The dumped processes of those pid namespaces that were looked up, by the inodes of the namespaces.
    dumped: HashMap<u64, Arc<Dumped>>,
    notices: Notices,
    by_bpf: ByBpf,
    timers_by_bpf: TimersByBpf,
    recorder: Recorder,
}

/// How long to wait for a file in /proc of a process that CRIU has not seized yet, and that is in execve(2): less than
/// CRIU's own timeout, since CRIU has seized other processes by then.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

impl Dump {
    /// Begins a dump.
    ///
    /// # Errors
    /// If CRIU streams its images and accepts none of a plugin, or can't note that the restore needs this plugin.
    pub fn begin(
        host: Host,
        options: Options,
        recorder: Recorder,
    ) -> std::result::Result<Dump, HookError> {
        let outgoing = host.image_stream()?.map(Outgoing::new);
        fault::point(Point::DumpBegin)?;
        in_time::set_patience(PATIENCE);
        let recorded = host.add_inventory_plugin(INVENTORY_NAME)? == Inventory::Recorded;
        if !recorded {
            log::info!(
                "this criu does not record in the images that the restore needs the plugin: restore with --libdir, or \
                 nothing is checked"
            );
        }
        Ok(Dump {
            host,
            options,
            recorded,
            written: Written::default(),
            outgoing,
            processes: BTreeMap::new(),
            root: None,
            root_seen: false,
            wait_statuses: WaitStatuses::default(),
            clocks: ProcessorClocks::default(),
            dumped: HashMap::new(),
            notices: Notices::default(),
            by_bpf: ByBpf::default(),
            timers_by_bpf: TimersByBpf::default(),
            recorder,
        })
    }

    /// Looks at the process that CRIU seizes next. The first call looks at all processes (`seized_next`).
    pub fn before_seize(&mut self, pid: Pid) {
        let is_first = !self.root_seen;
        let seen = seized_next(&mut self.root_seen, pid);
        let tree = is_first.then_some(seen.len());
        let one_helper = OneHelper::begin();
        for &pid in &seen {
            self.look(pid, tree);
        }
        drop(one_helper);
        if let Some(processes) = tree {
            let threads = seen.iter().map(|&pid| self.process(pid).threads).sum();
            self.by_bpf.prepare(processes, threads);
        }
        // At the end, because the steps before use memory.
        for pid in seen {
            if self.process(pid).beside_criu {
                continue;
            }
            match unset_memory::fill_for(pid) {
                Err(e) if !e.is_died() => log::warn!("{}", e.during(Phase::Seize, pid)),
                _ => {}
            }
        }
    }

    /// `tree`: how many processes are looked at before CRIU stops the first one.
    fn look(&mut self, pid: Pid, tree: Option<usize>) {
        let _budget = Budget::of_process();
        let process = self.process(pid);
        process.looked_at = true;
        process.beside_criu = false;
        process.forget_former();
        if let Err(e) = fault::point(Point::DumpLook) {
            return log::warn!("{e}");
        }
        match self.look_at_threads(pid, tree) {
            Err(e) if e.is_died() => return,
            // CRIU says what it can't dump. What it can is dumped as it shows after the seize.
            Err(e) => log::warn!("{}", e.during(Phase::Seize, pid)),
            Ok(()) => {}
        }
        if let Err(e) = fault::point(Point::DumpLooked) {
            log::warn!("{e}");
        }
    }

    /// Most processes are neither traced nor stopped, and have no pending SIGTRAP: one look at each of their threads is
    /// enough.
    fn look_at_threads(&mut self, pid: Pid, tree: Option<usize>) -> Result<()> {
        let mut threads = Glimpse::of_threads(pid)?;
        if threads.iter().any(|thread| thread.traced) {
            // The tracer can be the helper process for stopped processes of a dump a moment ago.
            stray_stop::wait_until_put_right(pid)?;
            threads = Glimpse::of_threads(pid)?;
        }
        if threads.iter().any(|thread| thread.stopped) || self.process(pid).before.is_some() {
            self.look_at_stop(pid);
            threads = Glimpse::of_threads(pid)?;
        }
        if threads.iter().any(|one| one.pending.contains(SigNo::TRAP)) {
            self.take_trap(pid);
            threads = Glimpse::of_threads(pid)?;
        }
        self.prepare_for_timers(pid, &threads);
        let process = self.processes.entry(pid).or_default();
        process.threads = threads.len();
        process.beside_criu = threads.first().is_some_and(|leader| !leader.nested);
        // To load the BPF program takes as long as to look at some dozen threads. Each other process has a thread at least.
        let by_bpf = &mut self.by_bpf;
        let load = || {
            if let Some(processes) = tree {
                by_bpf.prepare(processes, processes - 1 + threads.len());
            }
        };
        let waiting = &mut process.waiting;
        waiting.look(pid, &threads, &mut self.clocks, load);
        Ok(())
    }

    /// The overruns behind a timer's entry, and whether the kernel has put an entry aside, are known only to the kernel.
    fn prepare_for_timers(&mut self, pid: Pid, threads: &[Glimpse]) {
        let sets = threads
            .iter()
            .map(|thread| thread.pending.union(thread.ignored));
        let numbers = sets.fold(SigSet::EMPTY, SigSet::union);
        if numbers.is_empty() || self.options.overruns == Overruns::Leave {
            return;
        }
        let may_have_entry = |timer: &TimerLine| {
            SigNo::new(timer.signo).is_some_and(|signo| numbers.contains(signo))
        };
        // A kernel that does not list the timers cannot run the BPF program either.
        if proc::timers(pid).is_ok_and(|timers| timers.iter().any(may_have_entry)) {
            self.timers_by_bpf.prepare();
        }
    }

    fn process(&mut self, pid: Pid) -> &mut DumpedProcess {
        self.processes.entry(pid).or_default()
    }

    fn look_at_stop(&mut self, pid: Pid) {
        let process = self.process(pid);
        if process.before.is_some() && proc::is_frozen(pid).unwrap_or(false) {
            return;
        }
        match Before::look(pid) {
            Ok(None) => process.before = None,
            Ok(Some(found)) => {
                if let Some(signal) = found.changed_over() {
                    log::info!(
                        "pid {pid}: stopped by {signal}: changed into a stop by SIGSTOP for the duration of the dump, \
                         because criu dumps no other stop, or would discard pending stop signals"
                    );
                }
                match &mut process.before {
                    Some(known) => known.looked_again(found),
                    none => *none = Some(found),
                }
            }
            Err(e) if e.is_died() => {}
            // CRIU says what it can't dump. What it can is dumped as it shows after the seize.
            Err(e) => log::warn!("{e}"),
        }
    }

    /// Takes out the signals with which CRIU does not even seize a process. The process still runs. If this fails, CRIU
    /// refuses the process with its own message.
    fn take_trap(&mut self, pid: Pid) {
        if self.options.take_out == TakeOut::Never || !self.process(pid).custody.is_empty() {
            return;
        }
        let why = TakenOut::Trap.to_string();
        let mut lost = custody::Lost::default();
        let mut take = || {
            if !custody::trap_is_pending(pid)? {
                return Ok(None);
            }
            self.may_take_out(&why)?;
            Custody::take_trap(pid, &mut lost).map(Some)
        };
        let taken = take();
        // The capture reports this loss. A process that CRIU refuses is not captured.
        if taken.is_err() {
            let masks = lost.masks.iter();
            masks.for_each(|lost| log::warn!("pid {pid} tid {}: {lost}", lost.tid));
        }
        let process = self.process(pid);
        process.lost_masks.extend(lost.masks);
        process.ended_calls.extend(lost.calls);
        match taken {
            Ok(None) => {}
            Ok(Some(custody)) => {
                log::info!("pid {pid}: SIGTRAP taken out until the end of the dump: {why}");
                for change in custody.changes() {
                    self.recorder.error(format!("pid {pid}: {change}"));
                }
                self.process(pid).custody.push(custody);
                // CRIU stops the threads next, and the call of a thread is known only if the thread was seen waiting.
                asleep::await_return(pid);
            }
            Err(e) if e.is_died() => {}
            Err(e) => log::warn!("{}", e.during(Phase::Capture, pid)),
        }
    }

    /// Captures one process and writes its image.
    ///
    /// # Errors
    /// Those of the capture. An error aborts the dump, and the processes run on.
    pub fn capture(&mut self, pid: Pid) -> std::result::Result<(), HookError> {
        let started = Instant::now();
        let _budget = Budget::of_process();
        let _registers = Remembered::begin();
        let captured = self
            .try_capture(pid)
            .map_err(|e| e.during(Phase::Capture, pid));
        let mut process = match &captured {
            Ok(state) => captured_process(state),
            Err(e) => {
                // The caller logs the error.
                self.recorder.refuse();
                Process {
                    pid_in_namespace: image_folder::innermost(pid).ok(),
                    errors: vec![e.to_string()],
                    ..Process::new(Outcome::Refused)
                }
            }
        };
        process.pid = Some(pid.get());
        process.notices = self.notices.take_said();
        self.recorder.process(process, started);
        captured.map(|_| ()).map_err(HookError::from)
    }

    /// May signals be taken out, given that a restore without this plugin would lose them?
    fn may_take_out(&self, why: &str) -> Result<()> {
        may_take_out(self.recorded, self.options.take_out, why)
    }

    /// The processes are still seized, and are killed or released next. Returns the report.
    #[must_use]
    pub fn end(mut self, ret: i32) -> Document {
        self.take_back(ret);
        self.recorder.finish(Some(ret), None)
    }
}

/// The processes to look at before CRIU seizes `pid`: with the first, the root, all. With `--freeze-cgroup` CRIU freezes the
/// others before their turn, and a process in a frozen cgroup v1 can't be looked at.
pub(super) fn seized_next(root_seen: &mut bool, pid: Pid) -> Vec<Pid> {
    if std::mem::replace(root_seen, true) {
        vec![pid]
    } else {
        proc::tree(pid)
    }
}

/// What the report says of a process that was captured.
fn captured_process(state: &ProcessState) -> Process {
    let innermost = state.ids.innermost();
    Process {
        pid_in_namespace: Some(innermost),
        comm: Some(state.comm.clone().into()),
        threads: state.threads.len(),
        siginfos: state.queues().map(|pending| pending.queue.len()).sum(),
        taken_out: state.taken_out.iter().map(ToString::to_string).collect(),
        ..Process::new(Outcome::Captured)
    }
}

/// `recorded`: the images say that they are not to be restored without this plugin. CRIU before 4.1 cannot.
fn may_take_out(recorded: bool, setting: TakeOut, why: &str) -> Result<()> {
    if recorded || setting == TakeOut::Always {
        return Ok(());
    }
    Err(Error::new(
        "take out pending signals",
        Cause::Unsupported(
            format!(
                "{why}; criu cannot cope with this state, and with this criu (before 4.1) a restore without the plugin \
                 would lose the signals that are taken out. {TAKE_OUT}=always takes them out all the same, =never \
                 leaves them to criu"
            )
            .into(),
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There is no such criu to run: without its add_inventory_plugin, which is found by name, nothing is recorded.
    #[test]
    fn an_old_criu_is_not_trusted_with_what_is_taken_out() {
        for setting in [TakeOut::Auto, TakeOut::Always] {
            may_take_out(true, setting, "a SIGTRAP is pending").unwrap();
        }
        may_take_out(false, TakeOut::Always, "a SIGTRAP is pending").unwrap();
        let refused = may_take_out(false, TakeOut::Auto, "a SIGTRAP is pending")
            .unwrap_err()
            .to_string();
        assert!(
            refused.starts_with("take out pending signals: a SIGTRAP is pending; criu cannot cope")
        );
        for says in ["before 4.1", "CRIU_SIGNALS_TAKE_OUT=always", "=never"] {
            assert!(refused.contains(says), "{refused}");
        }
    }
}
