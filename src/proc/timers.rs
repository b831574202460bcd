//! `/proc/PID/timers`: POSIX timers.

use std::io;

use criu_signals_images::{Notify, Pid, Siginfo};

use super::read_text;
use crate::error::{Cause, Error, Result};

/// One timer of `/proc/PID/timers` (proc_pid_timers(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerLine {
    /// The kernel's number of it.
    pub id: i32,
    /// The number of its signal.
    pub signo: i32,
    /// The value that comes with the signal.
    pub value: u64,
    /// Whom it tells. Of a thread, the id as the reader sees it.
    pub notify: Notify,
    /// Its clock.
    pub clock: i32,
}

impl TimerLine {
    /// Does this siginfo look as the timer's own entry does?
    pub fn made(&self, info: &Siginfo) -> bool {
        self.notify != Notify::Nobody && info.is_of_timer(self.signo, self.id, self.value)
    }
}

/// The POSIX timers of `pid`, by id. Read without its help.
///
/// # Errors
/// [`Cause::Died`] if the process is gone; [`Cause::Unsupported`] if the kernel has no `/proc/PID/timers`;
/// [`Cause::Proc`] if the file has another format.
pub fn timers(pid: Pid) -> Result<Vec<TimerLine>> {
    const OPERATION: &str = "read timers";
    let text = match read_text(format!("/proc/{pid}/timers")) {
        Ok(text) => text,
        Err(e)
            if e.kind() == io::ErrorKind::NotFound
                && std::fs::exists(format!("/proc/{pid}")).unwrap_or(false) =>
        {
            // CONFIG_CHECKPOINT_RESTORE, without which there is no CRIU either.
            return Err(Error::new(
                OPERATION,
                Cause::Unsupported("the kernel has no /proc/PID/timers".into()),
            ));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::new(OPERATION, Cause::Died));
        }
        Err(e) => return Err(Error::io(OPERATION, &e)),
    };
    let mut timers = parse_timers(&text)
        .ok_or_else(|| Error::new(OPERATION, Cause::Proc(format!("not understood: {text:?}"))))?;
    timers.sort_by_key(|timer| timer.id);
    Ok(timers)
}

/// Four lines a timer: `ID: 1`, `signal: 60/00007fff86e452a8`, `notify: signal/pid.2634`, `ClockID: 0`
/// (fs/proc/base.c, show_timer). Lines with other names are left for kernels to come.
pub(crate) fn parse_timers(text: &str) -> Option<Vec<TimerLine>> {
    let mut timers: Vec<TimerLine> = Vec::new();
    for line in text.lines() {
        let (name, value) = line.split_once(':')?;
        let value = value.trim();
        if name == "ID" {
            timers.push(TimerLine {
                id: value.parse().ok()?,
                signo: 0,
                value: 0,
                notify: Notify::Nobody,
                clock: 0,
            });
            continue;
        }
        let timer = timers.last_mut()?;
        match name {
            "signal" => {
                let (signo, pointer) = value.split_once('/')?;
                timer.signo = signo.parse().ok()?;
                // "(null)" is how %p shows a null pointer.
                timer.value = match pointer.trim() {
                    "(null)" => 0,
                    hex => u64::from_str_radix(hex.trim_start_matches("0x"), 16).ok()?,
                };
            }
            "notify" => {
                let (kind, whom) = value.split_once('/')?;
                timer.notify = match (kind, whom.split_once('.')?) {
                    ("signal", ("tid", tid)) => Notify::Thread(tid.parse().ok()?),
                    ("signal", _) => Notify::Process,
                    ("none", _) => Notify::Nobody,
                    ("thread", _) => Notify::Library,
                    _ => return None,
                };
            }
            "ClockID" => timer.clock = value.parse().ok()?,
            _ => {}
        }
    }
    Some(timers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_read() {
        let text = "ID: 1\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n\
                    ID: 0\nsignal: 34/(null)\nnotify: signal/tid.2635\nClockID: -6\n\
                    ID: 7\nsignal: 0/0000000000000007\nnotify: none/pid.2634\nClockID: 7\nNew: 1\n";
        let timer = |id, signo, value, notify, clock| TimerLine {
            id,
            signo,
            value,
            notify,
            clock,
        };
        assert_eq!(
            parse_timers(text),
            Some(vec![
                timer(1, 60, 0x7fff_86e4_52a8, Notify::Process, 0),
                timer(0, 34, 0, Notify::Thread(2635), -6),
                timer(7, 0, 7, Notify::Nobody, 7),
            ])
        );
        assert_eq!(parse_timers(""), Some(vec![]));
        assert_eq!(parse_timers("signal: 1/0\n"), None);
        assert_eq!(parse_timers("ID: x\n"), None);
    }
}
