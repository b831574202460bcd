//! Reads of `/proc` that may wait for ever, with a bound.
//!
//! execve(2) holds the process's exec_update_lock while it closes files (begin_new_exec and do_close_on_exec, fs/exec.c), and
//! a file of a FUSE server is closed when its server has answered. Whoever wants one of these files of the process waits for
//! the lock in down_read_killable:
//!
//! | Files | Function | Since |
//! |---|---|---|
//! | `mem`, `maps`, `auxv`, `environ`, `pagemap`, `attr/*` | mm_access | always |
//! | `syscall`, `stack`, `personality`; `io` | lock_trace; do_io_accounting | always |
//! | `stat` | do_task_stat | 2026, also in updates (6.18.44 has it) |
//! | `wchan` | proc_pid_wchan | the same |
//! | `exe`, `cwd`, `root`, `fd/N` | call_proc_get_link | the same |
//! | `ns/*` | proc_ns_get_link, proc_ns_readlink | the same |
//!
//! Nobody waits for `status`, `comm`, `limits`, `cgroup`, `mountinfo`, `timers`, `sched`, `children`, or the lists `task` and
//! `fd`. Nor for anything of a process whose first thread a tracer has stopped: it is not in execve(2), and another thread
//! gets no further than to wait for its end (de_thread).
//!
//! Only SIGKILL ends the wait. So another thread waits, which holds nothing meanwhile, and ends with this program.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, kill};
use nix::unistd::Pid;

use crate::error::{Cause, Error, Result};

/// In milliseconds.
static PATIENCE: AtomicU64 = AtomicU64::new(5000);
/// On a busy machine a file that need not be waited for takes its time as well.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
/// For what reads a file and takes some words out of it.
const STACK_SIZE: usize = 1 << 18;

/// Sets how long [`look`] waits, at least a second. It is 5 s before that is called.
pub fn set_patience(patience: Duration) {
    let patience = patience.max(LEAST_PATIENCE).as_millis();
    PATIENCE.store(
        u64::try_from(patience).unwrap_or(u64::MAX),
        Ordering::Relaxed,
    );
}

/// Does `work`, which reads `file` of a process that may be in execve(2), and does not wait for it for ever.
///
/// Where there can be no other thread, this one waits, as long as it takes: there the limit is the user's own.
///
/// # Errors
/// ETIMEDOUT.
pub fn look<T: Send + 'static>(file: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    look_beside(file, work, || ())
}

/// As [`look`]. The calling thread does `own` while the other thread does `work`.
///
/// # Errors
/// Those of [`look`].
pub fn look_beside<T: Send + 'static>(
    file: &str,
    work: impl FnOnce() -> T + Send + 'static,
    own: impl FnOnce(),
) -> Result<T> {
    let (tell, told) = mpsc::sync_channel(1);
    let work = Arc::new(Mutex::new(Some(work)));
    let take = |work: &Mutex<Option<_>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
    let theirs = Arc::clone(&work);
    let job = Box::new(move || {
        if let Some(work) = take(&theirs) {
            // Nobody listens any more if it took too long.
            let _ = tell.send(work());
        }
    });
    let failed = |why: &str| Error::new(format!("read {file}"), Cause::Unexpected(why.to_owned()));
    let helper = kept_helper(Option::take).or_else(Helper::start);
    let helper = helper.filter(|helper| helper.jobs.send(job).is_ok());
    own();
    let Some(helper) = helper else {
        let work = take(&work).ok_or_else(|| failed("it was read already"))?;
        return Ok(work());
    };
    let patience = Duration::from_millis(PATIENCE.load(Ordering::Relaxed));
    match told.recv_timeout(patience) {
        Ok(found) => {
            helper.keep_or_end();
            Ok(found)
        }
        // The thread is left behind.
        Err(RecvTimeoutError::Timeout) => Err(Error::os(
            format!(
                "read {file} (the process is in execve(2), which waits for a file system that does not answer: end the \
                 server of that file system, or give the command a longer --timeout)"
            ),
            Errno::ETIMEDOUT,
        )),
        Err(RecvTimeoutError::Disconnected) => {
            helper.end();
            Err(failed("a bug: the thread that reads it ended"))
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does what [`look`] is given. One that is dropped ends when it has done that.
struct Helper {
    jobs: SyncSender<Job>,
    thread: JoinHandle<()>,
    /// Its number, known when it has done something.
    tid: Arc<AtomicI32>,
}

impl Helper {
    fn start() -> Option<Helper> {
        let (jobs, todo) = mpsc::sync_channel::<Job>(1);
        let tid = Arc::new(AtomicI32::new(0));
        let own = Arc::clone(&tid);
        let started = without_signals(|| {
            thread::Builder::new()
                .name("signals-look".to_owned())
                .stack_size(STACK_SIZE)
                .spawn(move || {
                    own.store(nix::unistd::gettid().as_raw(), Ordering::Release);
                    todo.into_iter().for_each(|job| job());
                })
        });
        started.ok().map(|thread| Helper { jobs, thread, tid })
    }

    fn keep_or_end(self) {
        let mut helper = Some(self);
        KEPT.with(|kept| {
            if let Some(kept) = &mut *kept.borrow_mut() {
                *kept = helper.take();
            }
        });
        if let Some(helper) = helper {
            helper.end();
        }
    }

    /// It has nothing to do.
    fn end(self) {
        drop(self.jobs);
        let _ = self.thread.join();
        await_end(Pid::from_raw(self.tid.load(Ordering::Acquire)));
    }
}

thread_local! {
    /// `None`: no [`OneHelper`] is held. Without a destructor, which would keep a plugin from being unloaded; [`OneHelper`] ends
    /// the thread.
    static KEPT: ManuallyDrop<RefCell<Option<Option<Helper>>>> =
        const { ManuallyDrop::new(RefCell::new(None)) };
}

fn kept_helper<T>(of: impl FnOnce(&mut Option<Helper>) -> Option<T>) -> Option<T> {
    KEPT.with(|kept| of(kept.borrow_mut().as_mut()?))
}

/// While this is held, all that the calling thread looks at is looked at by one other thread: to start and to end a thread takes
/// longer than most looks. If a look takes too long, another thread does those behind it.
#[derive(Debug)]
pub struct OneHelper(());

impl OneHelper {
    /// Begins.
    #[must_use]
    pub fn begin() -> OneHelper {
        KEPT.with(|kept| {
            kept.borrow_mut().get_or_insert(None);
        });
        OneHelper(())
    }
}

impl Drop for OneHelper {
    fn drop(&mut self) {
        end_helper();
        KEPT.with(|kept| kept.borrow_mut().take());
    }
}

/// Ends the thread that a [`OneHelper`] has kept, so that this program may fork(2).
pub fn end_helper() {
    if let Some(helper) = kept_helper(Option::take) {
        helper.end();
    }
}

/// When this returns, this program has as many threads as before: it may fork(2), and setns(2) does not find that somebody
/// shares its folders (`mntns_install`) or its user namespace (`userns_install`). A thread that has been joined has let go
/// of its memory, and not yet of these.
fn await_end(tid: Pid) {
    let begun = Instant::now();
    while kill(tid, None).is_ok() && begun.elapsed() < LEAST_PATIENCE {
        thread::sleep(Duration::from_micros(10));
    }
}

/// The thread that is started inherits that all signals are blocked: they are for those who have handlers for them.
fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let started = start();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    started
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_and_what_does_not() {
        assert_eq!(look("a file", || 7).unwrap(), 7);
        let (keep, wait) = mpsc::channel::<()>();
        set_patience(Duration::ZERO);
        let late = look("stat", move || wait.recv()).unwrap_err();
        set_patience(Duration::from_secs(5));
        assert!(
            matches!(late.cause(), Cause::Os(Errno::ETIMEDOUT)),
            "{late}"
        );
        assert!(late.to_string().contains("read stat"), "{late}");
        drop(keep);
    }

    #[test]
    fn the_caller_works_beside_the_other_thread() {
        let (tell, told) = mpsc::channel();
        let found = look_beside("a file", move || told.recv(), || tell.send(7).unwrap());
        assert_eq!(found.unwrap(), Ok(7));
    }

    /// How many threads a program has, others in these tests' change too: so it is asked which one does the work.
    #[test]
    fn one_thread_does_it_all_while_it_is_kept() {
        let who = || look("a file", || nix::unistd::gettid().as_raw()).unwrap();
        let one = {
            let _kept = OneHelper::begin();
            let one = who();
            assert_ne!(one, nix::unistd::gettid().as_raw());
            assert_eq!(who(), one);
            end_helper();
            let thread = format!("/proc/self/task/{one}");
            assert!(std::fs::metadata(thread).is_err(), "it has ended");
            look("a file", || panic!("a bug")).map(|()| 0).unwrap_err();
            let other = who();
            assert_eq!(who(), other);
            other
        };
        assert!(std::fs::metadata(format!("/proc/self/task/{one}")).is_err());
    }
}
