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

/// What the process that waits is called.
const NAME: &std::ffi::CStr = c"signals-let-go";
/// How often it looks. It is a matter of milliseconds: CRIU lets go when it has called its plugins for the last time.
const INTERVAL: Duration = Duration::from_micros(200);
/// Unless it is held up by something that may take for ever.
const LONG_INTERVAL: Duration = Duration::from_millis(20);
/// How long it looks often.
const SHORTLY: Duration = Duration::from_secs(2);

/// A stopped process that CRIU is about to let go.
#[derive(Debug)]
pub struct LetGo {
    pid: Pid,
    /// Whose number it is may change before CRIU has let go.
    held: PidFd,
    /// The stop signals that are pending for it now.
    own: SigSet,
}

impl LetGo {
    /// `None` if the process, which is seized by CRIU, is not stopped.
    ///
    /// # Errors
    /// If it is not seized, or gone.
    pub fn look(pid: Pid) -> Result<Option<LetGo>> {
        // It is seized, so that its number is its own.
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

    /// Waits until `host` does not trace any thread of the process and all of them are stopped. False if there is
    /// nothing to be done then.
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
            // CRIU has sent its signal before it lets go of the leader, the first thread. On its way into the stop a
            // thread shows as running for a moment.
            if !held {
                let since = *released.get_or_insert_with(Instant::now);
                if stopped {
                    return Ok(true);
                }
                // It has been continued.
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

    /// The stop signals that are pending and have not been there before.
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

/// Starts the process that waits until the calling one, which must have one thread, lets go of `all`. If they are
/// killed instead, it has nothing to do.
///
/// # Errors
/// If there can be no further process.
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

/// Waits, but not for ever, until such a process has done with `pid`: two tracers get in each other's way.
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
