//! `criu-signals send`: queues one signal with any siginfo.

use std::process::ExitCode;

use criu_signals::engine::send::{Sent, send};
use criu_signals::images::siginfo::code_by_name;
use criu_signals::images::{FaultDetail, Fields, Layout, Pid, SigNo, Siginfo, Tid};
use criu_signals::losses::by_stop::refuse_stop;
use criu_signals::proc::SignalStatus;
use criu_signals::proc_sig::Subject;
use criu_signals::process::pidfd::pid_namespace;
use criu_signals::state::Queue;
use criu_signals::tracee::{ByUs, StoppedProcess};

use super::context::{self, Context, DIFFERS, Failure};

/// Queues a signal with any siginfo, as if the kernel or another process had sent the signal.
///
/// The command stops the process and makes the process queue the signal to itself, because the kernel accepts every
/// si_code only from the receiver. The process then resumes, and the signal takes effect like any other.
///
/// With PID the signal goes into the shared queue of the process, with PID/TID into the private queue of the thread.
#[derive(clap::Args)]
#[command(after_help = "\
Fields:
  SI_USER, SI_TKILL, SI_KERNEL   pid uid; SI_TKILL also value
  SI_QUEUE, SI_MESGQ, ...        pid uid value
  SI_TIMER                       timer overrun value
  CLD_*                          pid uid status utime stime
  POLL_*, SI_SIGIO               band fd
  ILL_* FPE_* SEGV_* BUS_* TRAP_*  addr; BUS_MCEERR_* lsb, SEGV_BNDERR lower upper, SEGV_PKUERR pkey,
                                 TRAP_PERF data type flags
  SYS_*                          call_addr syscall arch

The signal and its code determine which fields --as accepts; `show` prints fields under the same names.
Pids are those in the receiver's pid namespace. Defaults: pid and uid of this command (pid 0 if the receiver is in
another pid namespace), and 0 for the other fields.

Examples:
  criu-signals send 4711 USR1
  criu-signals send 4711 RTMIN+2 --value 42
  criu-signals send 4711/4713 SEGV --code SEGV_MAPERR --addr 0x10
  criu-signals send 4711 CHLD --code CLD_EXITED --as pid=4712,uid=1000,status=3

Exit codes:
  0  the signal is queued with its siginfo
  1  the kernel dropped the signal or its siginfo: the number is pending already, or RLIMIT_SIGPENDING is reached
  2  the signal could not be queued")]
pub struct Send {
    /// The process, or one of its threads.
    #[arg(value_name = "PID[/TID]", value_parser = context::subject)]
    target: Subject,
    /// Name or number of the signal.
    #[arg(value_name = "SIGNAL")]
    signal: SigNo,
    /// The si_value. Without --code, also sets si_code to SI_QUEUE.
    #[arg(long, value_name = "N", value_parser = number, allow_hyphen_values = true)]
    value: Option<u64>,
    /// The si_code, as name or number [default: SI_USER, or SI_TKILL for a thread]
    #[arg(long, value_name = "CODE", allow_hyphen_values = true)]
    code: Option<String>,
    /// The si_errno.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_hyphen_values = true
    )]
    errno: i32,
    /// Fault address. Same as --as addr=ADDRESS.
    #[arg(long, value_name = "ADDRESS", value_parser = number)]
    addr: Option<u64>,
    /// Fields of the siginfo, such as the sender: pid=12,uid=1000
    #[arg(long = "as", value_name = "FIELD=VALUE", value_delimiter = ',', value_parser = field)]
    fields: Vec<(String, u64)>,
}

/// `si_code`s that are left out.
const SI_USER: i32 = 0;
const SI_QUEUE: i32 = -1;
const SI_TKILL: i32 = -6;

impl Send {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let Subject { pid, thread: tid } = self.target;
        let queue = match tid {
            Some(_) => Queue::Private,
            None => Queue::Shared,
        };
        let tid = tid.unwrap_or(Tid::from(pid));
        // Before the process is stopped: a slip of the pen is no reason to.
        let info = self.siginfo(sender(pid))?;
        context.work_in_child()?;
        context::existing(pid)?;
        refuse_stop(pid)?;
        let stopped = StoppedProcess::<ByUs>::seize(pid, context.timeout)?;
        if !stopped.threads().contains(&tid) {
            return Err(format!("process {pid} has no thread {tid}").into());
        }
        let sent = send(&stopped, queue, tid, &info);
        stopped.release()?;
        match sent? {
            Sent::Queued => return Ok(ExitCode::SUCCESS),
            Sent::AlreadyPending => eprintln!(
                "criu-signals: {} is pending already, and the kernel keeps only the first signal of that number: \
                 nothing was queued",
                self.signal
            ),
            Sent::WithoutInfo => eprintln!(
                "criu-signals: {}: RLIMIT_SIGPENDING left no room for the siginfo: the signal is pending without \
                 siginfo and will be delivered as SI_USER from pid 0",
                self.signal
            ),
        }
        Ok(ExitCode::from(DIFFERS))
    }

    fn siginfo(&self, (pid, uid): (i32, u32)) -> Result<Siginfo, Failure> {
        let code = match &self.code {
            Some(text) => code(self.signal, text)?,
            None if self.value.is_some() => SI_QUEUE,
            None if self.target.thread.is_some() => SI_TKILL,
            None => SI_USER,
        };
        let bare = Siginfo::from_fields(
            self.signal.get(),
            self.errno,
            code,
            &Fields::Kill { pid: 0, uid: 0 },
        );
        let mut given: Vec<(&str, u64)> = self
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        given.extend(self.value.map(|value| ("value", value)));
        given.extend(self.addr.map(|addr| ("addr", addr)));
        let mut fields = Given {
            given,
            used: Vec::new(),
        };
        let made = fields.make(bare.layout(), pid, uid)?;
        fields.check(&bare)?;
        Ok(Siginfo::from_fields(
            self.signal.get(),
            self.errno,
            code,
            &made,
        ))
    }
}

/// The fields that were given, and those that the layout has.
struct Given<'g> {
    given: Vec<(&'g str, u64)>,
    used: Vec<&'static str>,
}

impl Given<'_> {
    fn get(&mut self, name: &'static str) -> Option<u64> {
        self.used.push(name);
        let found = self.given.iter().find(|(given, _)| *given == name);
        found.map(|(_, value)| *value)
    }

    fn u64(&mut self, name: &'static str) -> u64 {
        self.get(name).unwrap_or(0)
    }

    /// A field of 32 bits, with a sign or without: the bits are the same.
    fn u32(&mut self, name: &'static str, otherwise: u32) -> Result<u32, Failure> {
        match self.get(name) {
            None => Ok(otherwise),
            Some(value) => low(value).ok_or_else(|| too_large(name, 32)),
        }
    }

    fn i32(&mut self, name: &'static str, otherwise: i32) -> Result<i32, Failure> {
        let value = self.u32(name, otherwise.cast_unsigned())?;
        Ok(value.cast_signed())
    }

    fn make(&mut self, layout: Layout, pid: i32, uid: u32) -> Result<Fields, Failure> {
        let mut fault = |detail: &mut dyn FnMut(&mut Self) -> Result<FaultDetail, Failure>| {
            let addr = self.u64("addr");
            let detail = detail(self)?;
            Ok(Fields::Fault { addr, detail })
        };
        match layout {
            Layout::Fault => fault(&mut |_| Ok(FaultDetail::None)),
            Layout::FaultTrapno => fault(&mut |f| Ok(FaultDetail::Trapno(f.i32("trapno", 0)?))),
            Layout::FaultMceerr => fault(&mut |f| {
                let lsb = i16::try_from(f.u64("lsb")).map_err(|_| too_large("lsb", 15))?;
                Ok(FaultDetail::Lsb(lsb))
            }),
            Layout::FaultBnderr => fault(&mut |f| {
                Ok(FaultDetail::Bounds {
                    lower: f.u64("lower"),
                    upper: f.u64("upper"),
                })
            }),
            Layout::FaultPkuerr => fault(&mut |f| Ok(FaultDetail::Pkey(f.u32("pkey", 0)?))),
            Layout::FaultPerfEvent => fault(&mut |f| {
                Ok(FaultDetail::Perf {
                    data: f.u64("data"),
                    kind: f.u32("type", 0)?,
                    flags: f.u32("flags", 0)?,
                })
            }),
            Layout::Kill => Ok(Fields::Kill {
                pid: self.i32("pid", pid)?,
                uid: self.u32("uid", uid)?,
            }),
            Layout::Timer => Ok(Fields::Timer {
                id: self.i32("timer", 0)?,
                overrun: self.i32("overrun", 0)?,
                value: self.u64("value"),
                sys_private: 0,
            }),
            Layout::Poll => Ok(Fields::Poll {
                band: self.u64("band").cast_signed(),
                fd: self.i32("fd", 0)?,
            }),
            Layout::Chld => Ok(Fields::Child {
                pid: self.i32("pid", pid)?,
                uid: self.u32("uid", uid)?,
                status: self.i32("status", 0)?,
                utime: self.u64("utime").cast_signed(),
                stime: self.u64("stime").cast_signed(),
            }),
            Layout::Rt => Ok(Fields::Value {
                pid: self.i32("pid", pid)?,
                uid: self.u32("uid", uid)?,
                value: self.u64("value"),
            }),
            Layout::Sys => Ok(Fields::Sys {
                call_addr: self.u64("call_addr"),
                syscall: self.i32("syscall", 0)?,
                arch: self.u32("arch", 0)?,
            }),
        }
    }

    /// Has every field that was given its place, and once only?
    fn check(&self, bare: &Siginfo) -> Result<(), Failure> {
        for (n, (name, _)) in self.given.iter().enumerate() {
            if !self.used.contains(name) {
                let line = bare.to_string();
                let kind: Vec<&str> = line.split(' ').take(2).collect();
                return Err(format!(
                    "a siginfo of {} has no field {name}; it has {}",
                    kind.join(" "),
                    self.used.join(", ")
                )
                .into());
            }
            if self
                .given
                .iter()
                .skip(n + 1)
                .any(|(other, _)| other == name)
            {
                return Err(format!("{name} is given twice").into());
            }
        }
        Ok(())
    }
}

fn too_large(name: &str, bits: u32) -> Failure {
    format!("{name} holds only {bits} bits").into()
}

/// A number that 32 bits can hold, with a sign or without.
fn low(value: u64) -> Option<u32> {
    u32::try_from(value).ok().or_else(|| {
        let negative = i32::try_from(value.cast_signed()).ok()?;
        Some(negative.cast_unsigned())
    })
}

/// This program's pid and uid as the receiver would see them if it were to send the signal: a process in another pid
/// namespace has no pid there (`__send_signal_locked`).
fn sender(receiver: Pid) -> (i32, u32) {
    let own = Pid::own();
    let uid = nix::unistd::getuid().as_raw();
    let inode = |pid| pid_namespace(pid).ok();
    let pid = match (inode(own), inode(receiver)) {
        (Some(a), Some(b)) if a == b => {
            SignalStatus::read(own, Tid::from(own)).map_or(0, |status| status.ids.innermost())
        }
        _ => 0,
    };
    (pid, uid)
}

/// A name, or any number.
fn code(signo: SigNo, text: &str) -> Result<i32, Failure> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    code_by_name(signo, text).ok_or_else(|| {
        format!("{text} is not an si_code of {signo}: expected a number, or a name like SI_QUEUE")
            .into()
    })
}

fn field(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not FIELD=VALUE"))?;
    Ok((name.trim().to_owned(), number(value.trim())?))
}

/// 64 bits: decimal, with a sign or without, or hexadecimal behind 0x.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None if text.starts_with('-') => text.parse::<i64>().ok().map(i64::cast_unsigned),
        None => text.parse().ok(),
    };
    parsed.ok_or_else(|| format!("{text:?} is not a number of at most 64 bits"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        send: Send,
    }

    fn made(args: &str) -> Result<String, String> {
        // 41 stands for a process that there is.
        let own = std::process::id().to_string();
        let words = args
            .split_whitespace()
            .map(|word| match word.strip_prefix("41") {
                Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{own}{rest}"),
                _ => word.to_owned(),
            });
        let args = std::iter::once("send".to_owned()).chain(words);
        let arguments = Arguments::try_parse_from(args).map_err(|e| e.to_string())?;
        let info = arguments
            .send
            .siginfo((7, 1000))
            .map_err(|e| e.to_string())?;
        Ok(info.to_string())
    }

    #[test]
    fn what_is_left_out() {
        for (args, line) in [
            ("41 USR1", "SIGUSR1 SI_USER pid 7 uid 1000"),
            ("41/42 USR1", "SIGUSR1 SI_TKILL pid 7 uid 1000 value 0x0"),
            (
                "41 RTMIN+2 --value 42",
                "SIGRTMIN+2 SI_QUEUE pid 7 uid 1000 value 0x2a",
            ),
            (
                "41 10 --code SI_KERNEL --as pid=0,uid=0",
                "SIGUSR1 SI_KERNEL pid 0 uid 0",
            ),
            (
                "41 POLL --code POLL_IN --as fd=3,band=0x41",
                "SIGPOLL POLL_IN band 0x41 fd 3",
            ),
            (
                "41 SEGV --code SEGV_PKUERR --addr 0x10 --as pkey=2",
                "SIGSEGV SEGV_PKUERR addr 0x10 pkey 2",
            ),
            (
                "41 USR1 --code -60 --errno -1 --as pid=-3",
                "SIGUSR1 SI_ASYNCNL errno -1 pid -3 uid 1000 value 0x0",
            ),
            (
                "41 CHLD --code CLD_EXITED --as status=3",
                "SIGCHLD CLD_EXITED pid 7 uid 1000 status 3 utime 0 stime 0",
            ),
        ] {
            assert_eq!(made(args).as_deref(), Ok(line), "{args}");
        }
    }

    /// Whatever is given, there is a siginfo or a reason.
    #[test]
    fn any_words() {
        const WORDS: [&str; 28] = [
            "41",
            "41/42",
            "/",
            "0",
            "-1",
            "USR1",
            "RTMIN+2",
            "CHLD",
            "SEGV",
            "POLL",
            "SYS",
            "64",
            "--code",
            "SI_QUEUE",
            "SEGV_BNDERR",
            "BUS_MCEERR_AO",
            "--as",
            "lsb=40000",
            "pid=-3,uid=0xffffffff",
            "band=",
            "=",
            ",",
            "--value",
            "0xffffffffffffffff",
            "18446744073709551616",
            "--errno",
            "--addr",
            "\u{1b}[2J",
        ];
        let mut seed = 1_u64;
        let mut next = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % below as u64).unwrap()
        };
        let mut good = 0;
        for _ in 0..4000 {
            // Most begin as they should.
            let mut args = String::from(if next(4) > 0 { "41 " } else { "" });
            for _ in 0..next(7) {
                args += WORDS[next(WORDS.len())];
                args += if next(8) > 0 { " " } else { "" };
            }
            good += usize::from(made(&args).is_ok());
        }
        assert!(good > 50, "{good}");
    }

    #[test]
    fn what_cannot_be() {
        for (args, why) in [
            (
                "41 USR1 --value 1 --code SI_USER",
                "a siginfo of SIGUSR1 SI_USER has no field value; it has pid, uid",
            ),
            (
                "41 USR1 --code CLD_EXITED",
                "CLD_EXITED is not an si_code of SIGUSR1",
            ),
            ("41 USR1 --as pid=1,pid=2", "pid is given twice"),
            ("41 USR1 --as pid=4294967296", "pid holds only 32 bits"),
            ("41 USR1 --as pid", "not FIELD=VALUE"),
            ("0 USR1", "not a pid"),
            ("41/x USR1", "is neither PID nor PID/TID"),
            ("41 USR9", "no signal is named"),
            ("41 USR1 --value 0x1ffffffffffffffff", "is not a number"),
        ] {
            let found = made(args).expect_err(args);
            assert!(found.contains(why), "{args}: {found}");
        }
    }
}
