//! A timeout for PTRACE_SEIZE, the only ptrace(2) request that can block indefinitely.
//!
//! PTRACE_SEIZE takes the tracee's cred_guard_mutex (ptrace_attach, kernel/ptrace.c). A thread in execve(2) holds that
//! mutex from before it reads the program until all other threads of its process are gone (bprm_execve and de_thread,
//! fs/exec.c), and a traced thread is gone only when its tracer has reaped it. So a tracer that seizes threads one by
//! one and a thread in execve(2) wait for each other; and reading a program from a disk that does not respond has no
//! bound. A signal ends the wait in the kernel, but the kernel then restarts the call whatever sigaction(2) says
//! (ERESTARTNOINTR). So the signal handler steps over the system call.
#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;

use crate::arch;
use crate::error::{Error, Result};

/// The interval between two signals.
const PERIOD: Duration = Duration::from_millis(20);
/// As a register holds the number; C libraries give it different types.
const SEIZE: u64 = libc::PTRACE_SEIZE as u64;

/// Sends a signal to the calling thread at an interval, which ends PTRACE_SEIZE with EINTR. All other code is
/// undisturbed: outside PTRACE_SEIZE the handler does nothing, and other system calls that the signal interrupts are
/// restarted.
#[derive(Debug)]
pub struct Alarm {
    timer: libc::timer_t,
    /// The signal mask to restore.
    blocked: libc::sigset_t,
}

impl Alarm {
    /// Begins.
    ///
    /// # Errors
    /// EAGAIN if the user's RLIMIT_SIGPENDING leaves no room for a timer.
    pub fn begin() -> Result<Alarm> {
        let signal = signal()?;
        let mut timer: libc::timer_t = std::ptr::null_mut();
        // SAFETY: plain integers and a union of those, for which all zeros is a value.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        event.sigev_notify_thread_id = nix::unistd::gettid().as_raw();
        // SAFETY: reads one sigevent, writes one timer_t.
        if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) }
            == -1
        {
            return Err(Error::os("timer_create", Errno::last()));
        }
        let period = libc::timespec {
            tv_sec: 0,
            tv_nsec: i64::from(PERIOD.subsec_nanos()),
        };
        let times = libc::itimerspec {
            it_interval: period,
            it_value: period,
        };
        // SAFETY: sets are filled in by sigemptyset before they are used; pthread_sigmask reads one and writes the other;
        // the timer is ours, and timer_settime reads one itimerspec.
        let blocked = unsafe {
            let mut unblocked: libc::sigset_t = std::mem::zeroed();
            let mut blocked = unblocked;
            libc::sigemptyset(&raw mut unblocked);
            libc::sigaddset(&raw mut unblocked, signal);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const unblocked, &raw mut blocked);
            libc::timer_settime(timer, 0, &raw const times, std::ptr::null_mut());
            blocked
        };
        Ok(Alarm { timer, blocked })
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: the timer is ours, and is not used again; pthread_sigmask reads one set. A timer that is deleted takes a
        // signal of its that is pending along (posix_timer_unhash_and_free, kernel/time/posix-timers.c).
        unsafe {
            libc::timer_delete(self.timer);
            libc::pthread_sigmask(
                libc::SIG_SETMASK,
                &raw const self.blocked,
                std::ptr::null_mut(),
            );
        }
    }
}

/// The signal: the highest signal number that this program does not use. The handler stays installed.
fn signal() -> Result<i32> {
    static SIGNAL: OnceLock<Option<i32>> = OnceLock::new();
    let found = SIGNAL.get_or_init(|| {
        let unused = |&signal: &i32| {
            // SAFETY: plain integers and pointers, for which all zeros is a value; sigaction writes one of them.
            unsafe {
                let mut now: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, std::ptr::null(), &raw mut now) == 0
                    && now.sa_sigaction == libc::SIG_DFL
            }
        };
        let signal = (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev().find(unused)?;
        // SAFETY: as above; the handler does nothing that is not allowed in one (signal-safety(7)).
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            action.sa_sigaction = step_over as *const () as usize;
            (libc::sigaction(signal, &raw const action, std::ptr::null_mut()) == 0)
                .then_some(signal)
        }
    });
    found.ok_or_else(|| Error::os("find a signal for a timer", Errno::EBUSY))
}

extern "C" fn step_over(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO the context that is put back when it returns, and nobody else
    // refers to it.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    arch::step_over_call(context, libc::SYS_ptrace, SEIZE);
}
