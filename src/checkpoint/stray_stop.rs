//! Removes the extra stop signal that CRIU sends to a stopped process when it detaches.
//!
//! CRIU sends a stop signal to every process that was stopped when CRIU seized it, at the moment of detaching
//! (compel_resume_task_sig, compel/src/lib/infect.c). In a process that is in a group stop already, that signal stays
//! pending until a SIGCONT removes it. The signal does not exist while CRIU holds the process, and CRIU calls no plugin
//! afterwards. So a helper process waits until CRIU has detached, and removes the signal.

use std::time::{Duration, Instant};

use criu_signals_images::{Pid, SigNo, SigSet};

use crate::engine::stops;
use crate::error::{Cause, Error, Result};
use crate::fault::{self, Point};
use crate::proc::{self, SignalStatus};
use crate::process::detached;
use crate::process::pidfd::PidFd;
use crate::tracee::{ByHost, StoppedProcess};

/// The name of the helper process.
const NAME: &std::ffi::CStr = c"signals-let-go";
/// The interval between two looks. CRIU detaches milliseconds after it has called its plugins for the last time.
const INTERVAL: Duration = Duration::from_micros(200);
/// The interval if CRIU is held up, possibly for ever.
const LONG_INTERVAL: Duration = Duration::from_millis(20);
/// How long the short interval is used.
const SHORTLY: Duration = Duration::from_secs(2);

/// A stopped process from which CRIU is about to detach.
#[derive(Debug)]
pub struct LetGo {
    pid: Pid,
    /// The pid may belong to another process when CRIU has detached.
    held: PidFd,
    /// The stop signals that are pending for the process now.
    own: SigSet,
}

impl LetGo {
    /// `None` if the process, which is seized by CRIU, is not stopped.
    ///
    /// # Errors
    /// If the process is not seized, or gone.
    pub fn look(pid: Pid) -> Result<Option<LetGo>> {
        // The process is seized, so its pid stays its own.
        let stopped = StoppedProcess::<ByHost>::of_host(pid)?;
        if stopped.trap_again(stopped.leader())?.is_none() {
            return Ok(None);
        }
        let pending = SignalStatus::read(pid, stopped.leader())?.shared_pending;
        Ok(Some(LetGo {
            pid,
            held: PidFd::open(pid)?,
            own: stops::stop_signals(pending),
        }))
    }

    fn is_gone(&self) -> Result<bool> {
        let status = SignalStatus::read(self.pid, self.pid.into())?;
        self.held.check()?;
        Ok(status.dead)
    }

    /// Waits until `host` traces no thread of the process and all threads are stopped. False if nothing has to be done
    /// then.
    fn wait(&self, host: i32) -> Result<bool> {
        let begun = Instant::now();
        let mut released = None;
        loop {
            if self.is_gone()? {
                return Ok(false);
            }
            let (mut held, mut stopped) = (false, true);
            for tid in proc::threads(self.pid)? {
                match proc::tracer(self.pid, tid)? {
                    None => stopped &= proc::is_stopped(self.pid, tid)?,
                    Some((by, _)) if by.get() == host => held = true,
                    Some((by, name)) => {
                        let why = format!("thread {by} ({name}) traces it");
                        let e = Error::new("stop", Cause::Unsupported(why.into()));
                        return Err(e.in_thread(tid));
                    }
                }
            }
            // CRIU sends its signal before it detaches from the leader, the first thread. On its way into the stop a thread
            // shows as running for a moment.
            if !held {
                let since = *released.get_or_insert_with(Instant::now);
                if stopped {
                    return Ok(true);
                }
                // The process has been continued.
                if self.sent()?.is_empty() || since.elapsed() > SHORTLY {
                    return Ok(false);
                }
            }
            std::thread::sleep(if begun.elapsed() < SHORTLY {
                INTERVAL
            } else {
                LONG_INTERVAL
            });
        }
    }

    /// The stop signals that are pending and were not pending before.
    fn sent(&self) -> Result<SigSet> {
        let pending = SignalStatus::read(self.pid, self.pid.into())?.shared_pending;
        Ok(stops::stop_signals(pending).difference(self.own))
    }

    fn put_right(&self, host: i32) -> Result<SigSet> {
        fault::point(Point::LetGoAwaited)?;
        if !self.wait(host)? {
            return Ok(SigSet::EMPTY);
        }
        fault::point(Point::LetGoSeen)?;
        if proc::is_frozen(self.pid)? {
            let why = "a cgroup v1 freezer holds it";
            return Err(Error::new("stop", Cause::Unsupported(why.into())));
        }
        stops::take_out_of_released(&self.held, self.own)
    }
}

/// Starts the helper process, which waits until the calling process detaches from `all`. The calling process must have one
/// thread. If `all` are killed instead, the helper process does nothing.
///
/// # Errors
/// If fork(2) fails.
pub fn put_right_afterwards(all: &[LetGo]) -> Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    let host = std::process::id().cast_signed();
    let what = "start the process that removes stray stop signals";
    detached::start(NAME, what, &[], || {
        let mut code = 0;
        for one in all {
            match one.put_right(host) {
                Ok(sent) if sent.is_empty() => {}
                Ok(sent) => log::info!(
                    "pid {}: removed the stop signal that criu sent: {}",
                    one.pid,
                    names(sent)
                ),
                Err(e) if e.is_died() => {}
                Err(e) => {
                    code = 1;
                    log::warn!(
                        "pid {}: stopped, and left running: the stop signal that criu sent stays pending until \
                         SIGCONT: {e}",
                        one.pid
                    );
                }
            }
        }
        code
    })
}

/// Waits, with a bound, until such a helper process has finished with `pid`: a process can have only one tracer.
///
/// # Errors
/// If `pid` is gone.
pub fn wait_until_put_right(pid: Pid) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < SHORTLY
        && let Some((_, name)) = proc::tracer(pid, pid.into())?
        && name.as_str().as_bytes() == NAME.to_bytes()
    {
        std::thread::sleep(INTERVAL);
    }
    Ok(())
}

fn names(signals: SigSet) -> String {
    let names: Vec<String> = signals.iter().map(|s: SigNo| s.to_string()).collect();
    names.join(", ")
}
