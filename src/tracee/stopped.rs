//! Stopped processes, as types: what needs a stopped thread takes one of these, and only what this crate has
//! stopped itself can be let go by it.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use criu_signals_images::{Pid, Tid};
use nix::errno::Errno;

use super::cave;
use super::memory::Memory;
use super::ptrace::{self, Resume, Stop};
use crate::error::{Cause, Error, Phase, Result};
use crate::fault::{self, Point};
use crate::proc;
use crate::state::interrupted;

/// Stopped and seized by the program that this library runs in: CRIU, around a plugin's hook. It must be found
/// again as it was left, and cannot be detached.
#[derive(Debug)]
pub enum ByHost {}

/// Stopped and seized by this library. Let go when dropped.
#[derive(Debug)]
pub enum ByUs {}

/// A process all of whose threads are ptrace-stopped by the calling thread.
#[derive(Debug)]
pub struct StoppedProcess<Owner> {
    pid: Pid,
    /// The leader first.
    threads: Vec<Tid>,
    owned: bool,
    owner: PhantomData<Owner>,
}

impl<Owner> StoppedProcess<Owner> {
    /// Its thread-group id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its threads, the leader first.
    pub fn threads(&self) -> &[Tid] {
        &self.threads
    }

    /// Does it run 32-bit code?
    ///
    /// # Errors
    /// If the leader is gone.
    pub fn is_compat(&self) -> Result<bool> {
        Ok(ptrace::registers(self.leader())?.is_compat())
    }

    /// The leader.
    pub fn leader(&self) -> Tid {
        Tid::from(self.pid)
    }
}

impl StoppedProcess<ByHost> {
    /// Takes over the process `pid`, whose threads the caller's program has seized and stopped.
    ///
    /// # Errors
    /// If a thread is not stopped by the calling thread, or is gone.
    pub fn of_host(pid: Pid) -> Result<Self> {
        let threads = proc::threads(pid)?;
        for &tid in &threads {
            // ESRCH is also what the kernel answers for a thread that is not stopped by us.
            ptrace::registers(tid).map_err(|_| {
                Error::new("thread is not stopped by this tracer", Cause::Died).in_thread(tid)
            })?;
        }
        Ok(StoppedProcess {
            pid,
            threads,
            owned: false,
            owner: PhantomData,
        })
    }
}

impl StoppedProcess<ByHost> {
    /// The process does not outlive this tracer from here on, until it is let go. CRIU has set PTRACE_O_TRACESYSGOOD,
    /// and PTRACE_O_SUSPEND_SECCOMP where there is a filter (attach_to_tasks, criu/cr-restore.c); nobody can ask.
    ///
    /// # Errors
    /// If a thread is gone.
    pub fn end_with_tracer(&self) -> Result<()> {
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        self.threads.iter().try_for_each(|&tid| {
            // Needs CAP_SYS_ADMIN, and CRIU's own did where there is a filter.
            ptrace::set_options(tid, options | libc::PTRACE_O_SUSPEND_SECCOMP)
                .or_else(|_| ptrace::set_options(tid, options))
        })
    }
}

impl StoppedProcess<ByUs> {
    /// Seizes every thread of `pid` and stops it. No signal is sent, nobody's wait(2) sees anything, a stopped
    /// process stays stopped, and no system call ends with EINTR because of it.
    ///
    /// # Errors
    /// EPERM where ptrace(2) is not allowed or somebody traces the process already, ETIMEDOUT if a thread does
    /// not stop within `timeout` (uninterruptible sleep). The threads stopped until then go on.
    pub fn seize(pid: Pid, timeout: Duration) -> Result<Self> {
        let deadline = Instant::now() + timeout;
        let inner = || {
            loop {
                let mut stopped = StoppedProcess {
                    pid,
                    threads: Vec::new(),
                    owned: true,
                    owner: PhantomData,
                };
                stopped.seize_threads(deadline)?;
                if !stopped.is_being_put_back()? {
                    interrupted::shield(&stopped)?;
                    fault::point(Point::Seized)?;
                    return Ok(stopped);
                }
                // Its last tracer has died a moment ago, and a thread still undoes what was done in it.
                stopped.release()?;
                if Instant::now() >= deadline {
                    return Err(Error::os(
                        "wait until a dead tracer's work is undone",
                        Errno::ETIMEDOUT,
                    ));
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        };
        inner().map_err(|e: Error| e.during(Phase::Seize, pid))
    }

    fn is_being_put_back(&self) -> Result<bool> {
        let memory = Memory::open(self.pid)?;
        for &tid in &self.threads {
            if cave::is_in_stub(&memory, ptrace::registers(tid)?.ip())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Threads that run may clone others, so until a whole pass finds nobody new.
    fn seize_threads(&mut self, deadline: Instant) -> Result<()> {
        let mut known = BTreeSet::new();
        loop {
            let fresh: Vec<Tid> = proc::threads(self.pid)?
                .into_iter()
                .filter(|tid| !known.contains(&tid.0))
                .collect();
            if fresh.is_empty() {
                return if self.threads.is_empty() {
                    Err(Error::new("seize", Cause::Died))
                } else {
                    Ok(())
                };
            }
            for tid in fresh {
                known.insert(tid.0);
                match seize_thread(tid, deadline) {
                    Ok(()) => self.threads.push(tid),
                    // A thread may end between being listed and being seized; the leader may not.
                    Err(e) if e.is_died() && tid.0 != self.pid.0 => ptrace::reap(tid),
                    Err(e) => {
                        // Seized, perhaps, and not stopped: it is let go, or its death noted, with the others.
                        self.threads.push(tid);
                        return Err(e);
                    }
                }
            }
        }
    }

    /// Lets all threads go on as they were found.
    ///
    /// # Errors
    /// The first thread that could not be detached; the others are detached all the same.
    pub fn release(mut self) -> Result<()> {
        self.detach_all()
    }

    fn detach_all(&mut self) -> Result<()> {
        let mut first = fault::point(Point::Releasing);
        let mut dead = Vec::new();
        for tid in std::mem::take(&mut self.threads) {
            match ptrace::detach(tid) {
                Ok(()) => {}
                Err(e) if e.is_died() => dead.push(tid),
                Err(e) if first.is_ok() => first = Err(e.during(Phase::Release, self.pid)),
                Err(_) => {}
            }
        }
        // The leader last: it is reported when the others are.
        dead.iter().rev().for_each(|&tid| ptrace::reap(tid));
        first
    }
}

/// The kernel says EPERM for a task that is ending, too: it has no memory any more by which permission is judged
/// (`__ptrace_may_access`).
fn why_not(tid: Tid, e: Error) -> Error {
    let pid = Pid(tid.0);
    match proc::SignalStatus::read(pid, tid) {
        Err(gone) if gone.is_died() => gone,
        Ok(status) if status.dead || !status.has_memory && !status.kernel => {
            Error::new("PTRACE_SEIZE", Cause::Died).in_thread(tid)
        }
        Ok(status) if status.kernel => Error::new(
            "PTRACE_SEIZE",
            Cause::Unsupported("a kernel thread has no signal state of its own".into()),
        )
        .in_thread(tid),
        _ => e,
    }
}

fn seize_thread(tid: Tid, deadline: Instant) -> Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD;
    // Injected system calls are not the program's: its seccomp filter must not judge them. Needs CAP_SYS_ADMIN.
    match ptrace::seize(tid, options | libc::PTRACE_O_SUSPEND_SECCOMP) {
        Err(e) if matches!(e.cause(), Cause::Os(Errno::EPERM | Errno::EINVAL)) => {
            ptrace::seize(tid, options).map_err(|e| why_not(tid, e))?
        }
        other => other?,
    }
    fault::point(Point::ThreadSeized)?;
    ptrace::interrupt(tid)?;
    loop {
        match ptrace::wait_stop(tid, Some(deadline))? {
            Stop::Event(_) => return Ok(()),
            // A signal came first: it is delivered as it would have been, and the interrupt is still pending.
            Stop::Signal(signal) => ptrace::resume(tid, Resume::Run, signal)?,
            Stop::Syscall | Stop::OtherEvent(_) => ptrace::resume(tid, Resume::Run, 0)?,
        }
    }
}

impl<Owner> Drop for StoppedProcess<Owner> {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        for &tid in self.threads.iter().rev() {
            match ptrace::detach(tid) {
                Ok(()) => {}
                Err(e) if e.is_died() => ptrace::reap(tid),
                Err(e) => log::error!("{}", e.during(Phase::Release, self.pid)),
            }
        }
    }
}
