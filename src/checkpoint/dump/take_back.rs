//! The end of a dump: undoes everything that was done to the processes, whether the dump succeeded or failed. Even
//! after a successful dump, a post-dump script may decide that the processes keep running.

use std::time::Duration;

use criu_signals_images::Pid;

use super::Dump;
use super::process::DumpedProcess;
use crate::checkpoint::custody::Custody;
use crate::checkpoint::stray_stop::{self, LetGo};
use crate::criu::contain;
use crate::engine::capture::Entries;
use crate::engine::repair::{self, Done};
use crate::error::{Phase, Result};
use crate::fault::{self, Point};
use crate::losses::call_eintr;
use crate::proc;
use crate::tracee::{Budget, ByHost, ByUs, StoppedProcess};

/// How long a thread may take to stop where CRIU has not stopped it.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

struct Step {
    what: &'static str,
    run: fn(&mut Dump, i32),
}

/// In this order, each for all processes.
const TAKE_BACK: [Step; 8] = [
    // Before queues: a signal that becomes ignored is removed from all of them (do_sigaction).
    Step {
        what: "give back dispositions",
        run: |dump, _| dump.give_back_dispositions(),
    },
    Step {
        what: "give back signals",
        run: |dump, _| dump.give_back_signals(),
    },
    // When all compared state is back.
    Step {
        what: "compare what was touched",
        run: |dump, _| dump.expect_untouched(),
    },
    // After the last step that runs code in threads that are not stopped by a signal: any call in a thread clears the
    // kernel's restart_block of the interrupted call.
    Step {
        what: "give back system calls",
        run: |dump, _| dump.give_back_calls(),
    },
    Step {
        what: "give back stops",
        run: |dump, _| dump.give_back_stops(),
    },
    Step {
        what: "keep system calls that criu's stop has interrupted",
        run: |dump, ret| dump.shield_not_handed(ret),
    },
    // Depends on the final stops.
    Step {
        what: "start the process that removes stray stop signals",
        run: |dump, _| dump.look_after_stopped(),
    },
    // Processes come first.
    Step {
        what: "close the images",
        run: |dump, ret| dump.close_images(ret),
    },
];

impl Dump {
    /// A panic in one step does not prevent the other steps: each undoes a different change.
    pub(super) fn take_back(&mut self, ret: i32) {
        for process in self.processes.values_mut() {
            process.touched = how_it_was(process);
        }
        for Step { what, run } in TAKE_BACK {
            if contain(&what, || run(self, ret)).is_none() {
                let what = format!(
                    "{what}: a bug in this plugin ended the step; the log has the location"
                );
                self.recorder.error(what);
            }
        }
    }

    /// At the end of a dump, where a failure must not prevent the other work.
    fn passing(&mut self, point: Point) {
        if let Err(e) = fault::point(point) {
            self.recorder.error(e.to_string());
        }
    }

    fn give_back_dispositions(&mut self) {
        self.passing(Point::DumpEnd);
        let Dump {
            processes,
            recorder,
            ..
        } = self;
        for one in processes.values_mut().filter_map(|p| p.trap_ignored.take()) {
            let _budget = Budget::of_process();
            for error in one.give_back().iter().filter(|e| !e.is_died()) {
                recorder.error(error.to_string());
            }
        }
        self.passing(Point::DispositionsBack);
    }

    fn give_back_signals(&mut self) {
        let Dump {
            processes,
            recorder,
            ..
        } = self;
        for (&pid, process) in processes {
            for custody in process.custody.drain(..) {
                // The pid may belong to another process.
                if let Err(e) = custody.held().check() {
                    log::warn!("{}", e.during(Phase::Replay, pid));
                    continue;
                }
                match give_back(pid, custody) {
                    Ok(count) => log::info!("pid {pid}: {count} pending signals put back"),
                    Err(e) if e.is_died() && proc::is_gone(pid) => {
                        log::warn!("{}", e.during(Phase::Replay, pid));
                    }
                    Err(e) => recorder.error(format!(
                        "{}; the guardian retries when criu has exited",
                        e.during(Phase::Replay, pid)
                    )),
                }
            }
        }
        self.passing(Point::CustodyBack);
    }

    /// The changes in the processes are undone: compares the processes once more, and puts back or logs each difference.
    fn expect_untouched(&mut self) {
        let Dump {
            processes,
            recorder,
            ..
        } = self;
        for (&pid, process) in processes {
            let Some(state) = process.touched.take() else {
                continue;
            };
            // CRIU may have released the process: then the process has run on.
            let compared = StoppedProcess::<ByHost>::if_of_host(pid).and_then(|stopped| {
                let compare = |s| repair::untouched(&s, &state, Entries::Known);
                stopped.map_or_else(|| Ok(Vec::new()), compare)
            });
            match compared {
                Ok(differences) => {
                    for (difference, done) in differences {
                        let what = format!(
                            "pid {pid}: differs from before the dump: {difference}: {done}"
                        );
                        match done {
                            Done::PutBack => log::warn!("{what}"),
                            _ => recorder.error(what),
                        }
                    }
                }
                Err(e) if e.is_died() && proc::is_gone(pid) => {}
                Err(e) => recorder.error(format!(
                    "{}: cannot tell whether the process is unchanged since before the dump",
                    e.during(Phase::Verify, pid)
                )),
            }
        }
    }

    fn give_back_calls(&mut self) {
        let Dump {
            processes,
            recorder,
            ..
        } = self;
        for calls in processes.values_mut().filter_map(|p| p.calls.take()) {
            let _budget = Budget::of_process();
            for error in calls.take_back() {
                recorder.error(error.to_string());
            }
        }
        self.passing(Point::CallsBack);
    }

    fn give_back_stops(&mut self) {
        // Whether the processes run on is not known here.
        for before in self.processes.values().filter_map(|p| p.before.as_ref()) {
            let _budget = Budget::of_process();
            if let Err(e) = before.turn_back()
                && !e.is_died()
            {
                log::warn!("{e}");
            }
        }
        self.passing(Point::StopsBack);
    }

    /// Processes that criu, before it failed, had stopped wholly or in part, and had not handed over. A thread that criu
    /// has released already may have run on with the result of a call that only the stop has ended.
    fn shield_not_handed(&mut self, ret: i32) {
        if ret == 0 {
            return;
        }
        let never_handed = self
            .processes
            .iter()
            .filter(|(pid, process)| process.looked_at && !process.handed && !proc::is_gone(**pid));
        for (&pid, process) in never_handed {
            let _budget = Budget::of_process();
            match process.waiting.shield_traced(pid) {
                Ok((all, ended)) => {
                    call_eintr::log(pid, &ended);
                    if !all {
                        log::warn!(
                            "pid {pid}: criu failed before it handed the process to this plugin: a system call in which \
                             the process waited may have failed with EINTR, as without the plugin (docs/eintr.md)"
                        );
                    }
                }
                Err(e) if e.is_died() => {}
                Err(e) => self
                    .recorder
                    .error(e.during(Phase::Release, pid).to_string()),
            }
        }
    }

    /// CRIU sends these processes a stop signal when it detaches.
    fn look_after_stopped(&mut self) {
        let stopped = self.processes.iter();
        let stopped = stopped.filter(|(_, p)| p.before.is_some() || p.stopped_since);
        let mut all = Vec::new();
        for (&pid, _) in stopped {
            match LetGo::look(pid) {
                Ok(one) => all.extend(one),
                Err(e) if e.is_died() => {}
                Err(e) => log::warn!("{}", e.during(Phase::Release, pid)),
            }
        }
        if let Err(e) = stray_stop::put_right_afterwards(&all) {
            log::warn!(
                "{e}: if stopped processes are left running, the additional stop signal that criu sends stays pending \
                 until SIGCONT"
            );
        }
    }

    fn close_images(&mut self, ret: i32) {
        let host = self.host;
        match host.image_dir() {
            Ok(dir) => self.close(dir, ret),
            Err(e) => self.recorder.error(e.to_string()),
        }
    }
}

/// The state of a process that has been stopped ever since it was captured, and in which signals are in custody or
/// dispositions have been put back.
fn how_it_was(process: &DumpedProcess) -> Option<criu_signals_images::ProcessState> {
    let custody = process.custody.iter();
    let custody = custody.filter_map(Custody::state_while_stopped).next_back();
    let trap = process.trap_ignored.as_ref().map(|one| one.state());
    custody.or(trap).cloned()
}

/// A dump that failed early may not have seized the process.
fn give_back(pid: Pid, custody: Custody) -> Result<usize> {
    let _budget = Budget::of_process();
    match StoppedProcess::<ByHost>::if_of_host(pid)? {
        Some(stopped) => custody.give_back(&stopped),
        None => {
            let stopped =
                StoppedProcess::<ByUs>::seize_held(custody.held(), STOP_TIMEOUT)?.assume_calls();
            let count = custody.give_back(&stopped);
            stopped.release()?;
            count
        }
    }
}
