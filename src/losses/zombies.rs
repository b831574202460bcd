//! Zombies: preserves the wait status of processes that have ended and were not waited for.
//!
//! CRIU recreates a zombie by a process that calls exit(3) with seven of the eight bits of the exit status
//! (criu/cr-restore.c, `restore_one_zombie`): 163 comes back as 35. That process is forked from criu with this library
//! loaded, so an atexit(3) handler runs in it, which exits with all eight bits.
//!
//! Two statuses cannot be preserved: that a signal left a core file (CRIU recreates the process without), and death by
//! SIGRTMAX (CRIU takes SIGRTMAX for a signal that kills nothing, and uses SIGABRT).
#![allow(unsafe_code)]

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use criu_signals_images::criu_images::{self, Ended};
use criu_signals_images::{Pid, SigNo};

use crate::error::{Cause, Error, Result};
use crate::image_folder;
use crate::losses::notices::{Notice, Saying};
use crate::proc;
use crate::tracee::ptrace;

/// Of a status of wait(2): the signal, that there is a core file, and how far up the exit status is.
const SIGNAL: u32 = 0x7f;
const CORE_FILE: u32 = 0x80;
const EXIT_SHIFT: u32 = 8;
/// What CRIU keeps of an exit status.
const KEPT: u32 = 0x7f;
/// CRIU's SIGMAX, which is none of those that its `sig_fatal` has.
const SIGRTMAX: u32 = 64;
const SIGABRT: u32 = 6;
/// TASK_COMM_LEN, with the zero byte at the end.
const COMM_SIZE: usize = 16;

/// How a process ended, as wait(2) tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    /// What is left of it after a restore with this library.
    pub fn restored(self) -> Status {
        Status(match self.0 & SIGNAL {
            SIGRTMAX => SIGABRT,
            signal => (self.0 & !CORE_FILE & !SIGNAL) | signal,
        })
    }

    /// What is left of it where this library cannot read CRIU's images at the restore: what CRIU makes of it.
    pub fn restored_by_criu(self) -> Status {
        match self.loses_a_bit() {
            Some(code) => Status((code.cast_unsigned() & KEPT) << EXIT_SHIFT),
            None => self.restored(),
        }
    }

    /// Ended by exit(2), with a status of which CRIU keeps a part?
    fn loses_a_bit(self) -> Option<i32> {
        let code = (self.0 >> EXIT_SHIFT) & 0xff;
        (self.0 & SIGNAL == 0 && code & !KEPT != 0).then_some(code.cast_signed())
    }
}

impl fmt::Display for Status {
    /// `exit status 163`, `SIGSEGV with a core file`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 & SIGNAL {
            0 => write!(f, "exit status {}", (self.0 >> EXIT_SHIFT) & 0xff),
            signal => {
                match SigNo::new(signal.cast_signed()) {
                    Some(signo) => signo.fmt(f)?,
                    None => write!(f, "signal {signal}")?,
                }
                let core = self.0 & CORE_FILE != 0;
                f.write_str(if core { " with a core file" } else { "" })
            }
        }
    }
}

/// The processes that had ended when CRIU dumped them into this folder.
///
/// # Errors
/// If CRIU's images can't be read.
pub fn dumped(dir: BorrowedFd<'_>) -> Result<Vec<Ended>> {
    let alive = image_folder::dumped_processes(dir)?;
    criu_images::ended_in(dir, &alive)
        .map_err(|e| Error::new("read the exit statuses of zombies", Cause::Image(e)))
}

/// One that is to end with a status of which CRIU keeps a part.
struct Whole {
    pid: i32,
    comm: [u8; COMM_SIZE],
    code: i32,
}

struct Handler {
    /// The process that makes the others, and is none of them.
    criu: i32,
    ended: Vec<Whole>,
}

static HANDLER: OnceLock<Handler> = OnceLock::new();

/// From here on, the processes that criu forks and that are among `ended` end with the whole of their exit status. To be
/// called once, before there are any, in criu.
///
/// # Errors
/// If there is no room for one more handler of atexit(3).
pub fn end_with_whole_status(ended: &[Ended]) -> Result<()> {
    let whole = |ended: &Ended| {
        let mut comm = [0; COMM_SIZE];
        for (to, from) in comm.iter_mut().take(COMM_SIZE - 1).zip(ended.comm.bytes()) {
            *to = from;
        }
        let code = Status(ended.status).loses_a_bit()?;
        Some(Whole {
            pid: ended.pid,
            comm,
            code,
        })
    };
    let ended: Vec<Whole> = ended.iter().filter_map(whole).collect();
    if ended.is_empty() {
        return Ok(());
    }
    let criu = std::process::id().cast_signed();
    if HANDLER.set(Handler { criu, ended }).is_err() {
        return Ok(());
    }
    // SAFETY: the handler is a function of this library. That of the C library's atexit(3) which is linked into a shared
    // object runs when the object is unloaded, and not afterwards.
    if unsafe { libc::atexit(at_exit) } == 0 {
        Ok(())
    } else {
        Err(Error::new(
            "atexit",
            Cause::Unexpected("no signal is free for a handler".into()),
        ))
    }
}

/// In criu, and in each process that it forks and that ends by exit(3). Allocates nothing, and locks nothing.
extern "C" fn at_exit() {
    let Some(handler) = HANDLER.get() else { return };
    // SAFETY: getpid(2) takes nothing and cannot fail. It is asked anew: this may be a child.
    let pid = unsafe { libc::getpid() };
    if pid == handler.criu {
        return;
    }
    let mut comm = [0u8; COMM_SIZE];
    // SAFETY: PR_GET_NAME writes TASK_COMM_LEN bytes, which is what there is.
    if unsafe { libc::prctl(libc::PR_GET_NAME, comm.as_mut_ptr()) } != 0 {
        return;
    }
    // CRIU has given it its name by then, which no helper of CRIU's has.
    let this = |whole: &&Whole| whole.pid == pid && whole.comm == comm;
    if let Some(whole) = handler.ended.iter().find(this) {
        // SAFETY: ends the process, and runs nothing more in it.
        unsafe { libc::_exit(whole.code) }
    }
}

/// How the children of `pid` have ended that nobody has waited for. Their ids are those that criu sees.
///
/// # Errors
/// If its children can't be listed.
pub fn ended_children(pid: Pid) -> Result<Vec<(Pid, Status)>> {
    let children = proc::children(pid)?.into_iter();
    // A process that this thread has stopped has not ended, and need not be looked at.
    let children = children.filter(|&child| !ptrace::is_stopped(child.into()));
    let ended = |child| proc::exit_status(child).map(|status| (child, Status(status)));
    Ok(children.filter_map(ended).collect())
}

/// What there is to say of them at the dump. `restored`: what is left of a status.
pub fn at_dump(
    pid: Pid,
    ended: &[(Pid, Status)],
    restored: impl Fn(Status) -> Status,
) -> Vec<Saying> {
    let changed = ended
        .iter()
        .filter(|(_, status)| restored(*status) != *status);
    let say = |(child, status): &(Pid, Status)| Saying {
        notice: Notice::ExitStatus,
        what: format!(
            "pid {child} is a zombie (not waited for): its parent, pid {pid}, would find {status}, and finds {} after \
             a restore, because criu cannot recreate that status",
            restored(*status)
        ),
        advice: "checkpoint the parent after its wait(2), or if the parent can live with that",
    };
    changed.map(say).collect()
}

/// What there is to say after a restore, where they ended as `dumped` has it.
pub fn at_restore(pid: Pid, ended: &[(Pid, Status)], dumped: &[Ended]) -> Vec<String> {
    let other = |(child, is): &(Pid, Status)| {
        let innermost = image_folder::innermost(*child).ok()?;
        let was = Status(dumped.iter().find(|ended| ended.pid == innermost)?.status);
        (was != *is).then(|| {
            format!(
                "pid {child} is a zombie (not waited for): its parent, pid {pid}, finds {is} now, not {was} as before \
                 the dump"
            )
        })
    };
    ended.iter().filter_map(other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_status() {
        let left = |status| Status(status).restored().0;
        assert_eq!(left(163 << 8), 163 << 8);
        assert_eq!(left(9), 9);
        assert_eq!(left(11 | 0x80), 11);
        assert_eq!(left(64), 6);
        assert_eq!(left(63), 63);
    }

    #[test]
    fn of_which_criu_keeps_a_part() {
        assert_eq!(Status(163 << 8).loses_a_bit(), Some(163));
        assert_eq!(Status(127 << 8).loses_a_bit(), None);
        assert_eq!(Status(11 | 0x80).loses_a_bit(), None);
    }

    #[test]
    fn text() {
        assert_eq!(Status(163 << 8).to_string(), "exit status 163");
        assert_eq!(Status(9).to_string(), "SIGKILL");
        assert_eq!(Status(11 | 0x80).to_string(), "SIGSEGV with a core file");
    }

    #[test]
    fn what_is_lost_is_said() {
        let pid = |n| Pid::new(n).unwrap();
        let ended = [
            (pid(8), Status(163 << 8)),
            (pid(9), Status(11 | 0x80)),
            (pid(10), Status(64)),
            (pid(11), Status(9)),
        ];
        let said = at_dump(pid(7), &ended, Status::restored);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].what.starts_with("pid 9 is a zombie"), "{said:?}");
        assert!(
            said[1].what.contains("SIGRTMIN+30, and finds SIGABRT"),
            "{said:?}"
        );
        let said = at_dump(pid(7), &ended, Status::restored_by_criu);
        assert_eq!(said.len(), 3, "{said:?}");
        let what = &said[0].what;
        assert!(
            what.contains("exit status 163, and finds exit status 35"),
            "{what}"
        );
    }
}
