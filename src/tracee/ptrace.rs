//! ptrace(2) and waitpid(2), request by request. The only place in this crate that calls them.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use criu_signals_images::{Fields, Pid, SIGINFO_SIZE, SigNo, SigSet, Siginfo, Tid};
use nix::errno::Errno;

use super::bound;
use super::remembered;
use crate::arch::{ProtectionKeys, PtraceRequest, Registers};
use crate::error::{Cause, Error, Result};
use crate::proc::{self, SignalStatus};

/// `PTRACE_PEEKSIGINFO_SHARED` of linux/ptrace.h.
const PEEKSIGINFO_SHARED: u32 = 1;
/// Entries that one PTRACE_PEEKSIGINFO asks for; and the first one, because most queues are empty, and room for many costs
/// more than the request.
const PEEKSIGINFO_CHUNK: usize = 512;
const PEEKSIGINFO_FIRST: usize = 8;
/// A queue with more entries than this is searched for its end.
const LONG: usize = 4_096;

/// `struct ptrace_peeksiginfo_args` of linux/ptrace.h.
#[repr(C)]
struct PeeksiginfoArgs {
    off: u64,
    flags: u32,
    nr: i32,
}

/// `struct ptrace_rseq_configuration` of linux/ptrace.h.
#[repr(C)]
#[derive(Default)]
struct RseqConfiguration {
    rseq_abi_pointer: u64,
    rseq_abi_size: u32,
    signature: u32,
    flags: u32,
    pad: u32,
}

/// `PTRACE_GET_RSEQ_CONFIGURATION` of linux/ptrace.h, which libc does not name on each architecture.
const GET_RSEQ_CONFIGURATION: PtraceRequest = 0x420f;
/// `PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG` of linux/ptrace.h.
const GET_SYSCALL_USER_DISPATCH_CONFIG: PtraceRequest = 0x4211;

/// `PTRACE_GET_SYSCALL_INFO` of linux/ptrace.h, which libc does not name on each architecture.
const GET_SYSCALL_INFO: PtraceRequest = 0x420e;
/// `PTRACE_SYSCALL_INFO_SECCOMP` of linux/ptrace.h.
const SYSCALL_INFO_SECCOMP: u8 = 3;
/// A ptrace event is in the second byte of `si_code` (do_jobctl_trap).
pub(super) const EVENT_SHIFT: u32 = 8;

/// `struct ptrace_syscall_info` of linux/ptrace.h, as it is at the entry of a system call.
#[repr(C)]
#[derive(Default)]
struct SyscallInfo {
    op: u8,
    pad: [u8; 3],
    arch: u32,
    instruction_pointer: u64,
    stack_pointer: u64,
    number: u64,
    args: [u64; 6],
    ret_data: u64,
}

// For musl the crate libc gives these two another type than the other requests.
const GETSIGMASK: PtraceRequest = libc::PTRACE_GETSIGMASK as PtraceRequest;
const SETSIGMASK: PtraceRequest = libc::PTRACE_SETSIGMASK as PtraceRequest;

/// `struct ptrace_sud_config` of linux/ptrace.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct DispatchConfig {
    mode: u64,
    selector: u64,
    offset: u64,
    len: u64,
}

/// Whether Syscall User Dispatch judges a thread's system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dispatch {
    /// It does not.
    Off,
    /// Those from elsewhere than a part of memory are made only if the byte at this address allows them; none of them
    /// where the address is 0.
    By(u64),
    /// The kernel (before 6.4) can't say.
    Unknown,
}

/// What waitpid(2) said about a tracee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Entry into or exit from a system call (with PTRACE_O_TRACESYSGOOD).
    Syscall,
    /// PTRACE_EVENT_STOP: interrupted, or in a group stop, by the signal given.
    Event(i32),
    /// Some other PTRACE_EVENT.
    OtherEvent(i32),
    /// A signal is about to be delivered.
    Signal(i32),
}

/// What the kernel says a stopped thread is stopped for (`PTRACE_GETSIGINFO`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopReason {
    /// `si_signo`.
    pub signo: i32,
    /// `si_code`; for a ptrace event `signo | event << 8`.
    pub code: i32,
    /// `si_pid`, of a signal that somebody has sent.
    pub sender: i32,
}

fn request(
    op: PtraceRequest,
    name: &'static str,
    tid: Tid,
    addr: usize,
    data: usize,
) -> Result<i64> {
    Errno::clear();
    // SAFETY: ptrace reads or writes our memory only through `addr` and `data`; each caller in this file passes
    // either plain numbers or a pointer to a live object of the size that the request is documented to use.
    let result = unsafe { libc::ptrace(op, tid.get(), addr, data) };
    if result == -1 && Errno::last_raw() != 0 {
        return Err(Error::os(name, Errno::last()).in_thread(tid));
    }
    Ok(result)
}

/// An int as ptrace(2) takes it for a pointer: as C converts it.
const fn word(number: i32) -> usize {
    #[allow(clippy::cast_sign_loss)]
    let word = number as usize;
    word
}

/// `PTRACE_SEIZE`: attaches without stopping. `options` are PTRACE_O_*. While a thread of the process is in execve(2) it
/// waits, unless an [`Alarm`](super::alarm::Alarm) ends it with EINTR.
pub fn seize(tid: Tid, options: i32) -> Result<()> {
    remembered::forget(tid);
    request(libc::PTRACE_SEIZE, "PTRACE_SEIZE", tid, 0, word(options)).map(drop)
}

/// `PTRACE_SETOPTIONS`: these PTRACE_O_*, and no others.
pub fn set_options(tid: Tid, options: i32) -> Result<()> {
    request(
        libc::PTRACE_SETOPTIONS,
        "PTRACE_SETOPTIONS",
        tid,
        0,
        word(options),
    )
    .map(drop)
}

/// `PTRACE_INTERRUPT`: asks for a PTRACE_EVENT_STOP.
pub fn interrupt(tid: Tid) -> Result<()> {
    request(libc::PTRACE_INTERRUPT, "PTRACE_INTERRUPT", tid, 0, 0).map(drop)
}

/// `PTRACE_DETACH`, without a signal.
pub fn detach(tid: Tid) -> Result<()> {
    remembered::forget(tid);
    request(libc::PTRACE_DETACH, "PTRACE_DETACH", tid, 0, 0).map(drop)
}

/// tgkill(2).
pub fn tgkill(pid: Pid, tid: Tid, signal: SigNo) -> Result<()> {
    // SAFETY: three numbers; no memory is involved.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, pid.get(), tid.get(), signal.get()) };
    if result == -1 {
        return Err(Error::os(format!("tgkill({signal})"), Errno::last()).in_thread(tid));
    }
    Ok(())
}

/// How a stopped thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// `PTRACE_CONT`.
    Run,
    /// `PTRACE_SYSCALL`: up to the next entry into or exit from a system call.
    ToSyscall,
}

/// Lets a stopped thread go on, with `signal` delivered if that is not 0.
pub fn resume(tid: Tid, how: Resume, signal: i32) -> Result<()> {
    let (op, name) = match how {
        Resume::Run => (libc::PTRACE_CONT, "PTRACE_CONT"),
        Resume::ToSyscall => (libc::PTRACE_SYSCALL, "PTRACE_SYSCALL"),
    };
    remembered::forget(tid);
    request(op, name, tid, 0, word(signal)).map(drop)
}

/// The general registers, as they were last read if a [`Remembered`](super::Remembered) is held.
pub fn registers(tid: Tid) -> Result<Registers> {
    match remembered::known(tid) {
        Some(registers) => Ok(registers),
        None => registers_now(tid),
    }
}

/// The general registers, read from the kernel in any case. Fails if the thread is not stopped.
pub fn registers_now(tid: Tid) -> Result<Registers> {
    let mut registers = Registers::read(|op, name, addr, data| request(op, name, tid, addr, data))?;
    if registers.lacks_argument() {
        registers = registers.with_argument(proc::first_argument(tid)?);
    }
    remembered::keep(tid, &registers);
    Ok(registers)
}

/// Sets the general registers.
pub fn set_registers(tid: Tid, registers: &Registers) -> Result<()> {
    remembered::forget(tid);
    registers.write(|op, name, addr, data| request(op, name, tid, addr, data))
}

/// `PTRACE_GETSIGMASK`: the saved mask where one is saved, else the one in force.
pub fn signal_mask(tid: Tid) -> Result<SigSet> {
    let mut mask = 0u64;
    request(
        GETSIGMASK,
        "PTRACE_GETSIGMASK",
        tid,
        size_of::<u64>(),
        (&raw mut mask).addr(),
    )?;
    Ok(SigSet::from_bits(mask))
}

/// `PTRACE_SETSIGMASK`. Drops a saved mask; SIGKILL and SIGSTOP are taken out by the kernel.
pub fn set_signal_mask(tid: Tid, mask: SigSet) -> Result<()> {
    let mask = mask.bits();
    request(
        SETSIGMASK,
        "PTRACE_SETSIGMASK",
        tid,
        size_of::<u64>(),
        (&raw const mask).addr(),
    )
    .map(drop)
}

/// [`set_signal_mask`], and reads back.
///
/// # Errors
/// [`Cause::NotKept`] if another mask reads back.
pub fn put_back_signal_mask(tid: Tid, mask: SigSet) -> Result<()> {
    set_signal_mask(tid, mask)?;
    let found = signal_mask(tid)?;
    let wanted = mask.without(SigNo::KILL).without(SigNo::STOP);
    if found == wanted {
        return Ok(());
    }
    let why = Cause::NotKept(format!("the mask is {found}, and was {wanted}"));
    Err(Error::new("put back the signal mask", why).in_thread(tid))
}

/// [`set_registers`], and reads back.
///
/// # Errors
/// [`Cause::NotKept`] if others read back.
pub fn put_back_registers(tid: Tid, wanted: &Registers) -> Result<()> {
    set_registers(tid, wanted)?;
    let found = registers_now(tid)?;
    if found == *wanted || wanted.is_interrupted() && found == wanted.as_seen_at_exit() {
        return Ok(());
    }
    let why = Cause::NotKept("the kernel accepted the registers but returns others".into());
    Err(Error::new("put back the registers", why).in_thread(tid))
}

/// `PTRACE_GETSIGINFO`: why the thread is stopped. `None` for a stop without siginfo (EINVAL), which is a group
/// stop of a thread that was attached and not seized.
pub fn stop_reason(tid: Tid) -> Result<Option<StopReason>> {
    let mut info = Siginfo::from_bytes([0; SIGINFO_SIZE]);
    let at = (&raw mut info).addr();
    match request(libc::PTRACE_GETSIGINFO, "PTRACE_GETSIGINFO", tid, 0, at) {
        Ok(_) => Ok(Some(StopReason {
            signo: info.signo(),
            code: info.code(),
            sender: match info.fields() {
                Fields::Kill { pid, .. } => pid,
                _ => 0,
            },
        })),
        Err(e) if matches!(e.cause(), Cause::Os(Errno::EINVAL)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// What the kernel has kept as the first argument of the system call that a thread has made last, where registers do not show it any more.
/// `None` unless the thread is in the trap of a PTRACE_INTERRUPT, and where the kernel (before 5.3) can't say.
///
/// The kernel shows a call's arguments at its entry, its exit and where seccomp(2) stops it, which it tells by the siginfo of the stop.
/// That of a trap is nobody's but the tracer's (kernel/signal.c, ptrace_do_notify): for the time of the request it is one of seccomp's.
pub fn argument_kept(tid: Tid) -> Result<Option<u64>> {
    const TRAP: i32 = libc::SIGTRAP | libc::PTRACE_EVENT_STOP << EVENT_SHIFT;
    const BY_SECCOMP: i32 = libc::SIGTRAP | libc::PTRACE_EVENT_SECCOMP << EVENT_SHIFT;
    // SAFETY: a siginfo_t is numbers, and ptrace writes the whole of it.
    let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let at = (&raw mut found).addr();
    request(libc::PTRACE_GETSIGINFO, "PTRACE_GETSIGINFO", tid, 0, at)?;
    if found.si_code != TRAP {
        return Ok(None);
    }
    let set = |info: libc::siginfo_t| {
        let at = (&raw const info).addr();
        request(libc::PTRACE_SETSIGINFO, "PTRACE_SETSIGINFO", tid, 0, at)
    };
    let mut disguise = found;
    disguise.si_code = BY_SECCOMP;
    set(disguise)?;
    let mut info = SyscallInfo::default();
    let got = get(GET_SYSCALL_INFO, "PTRACE_GET_SYSCALL_INFO", tid, &mut info);
    set(found)?;
    Ok((got? && info.op == SYSCALL_INFO_SECCOMP).then_some(info.args[0]))
}

/// Does the thread stand at the entry or the exit of a system call (with PTRACE_O_TRACESYSGOOD)?
pub fn is_at_syscall(tid: Tid) -> Result<bool> {
    Ok(stop_reason(tid)?.is_some_and(|reason| reason.code == libc::SIGTRAP | 0x80))
}

/// Is the thread in a stop of which the calling thread is the tracer? By `PTRACE_GETEVENTMSG`, which costs least, and fails with
/// ESRCH for any other thread.
pub fn is_stopped(tid: Tid) -> bool {
    let mut message: libc::c_ulong = 0;
    let at = (&raw mut message).addr();
    request(libc::PTRACE_GETEVENTMSG, "PTRACE_GETEVENTMSG", tid, 0, at).is_ok()
}

/// `PTRACE_PEEKSIGINFO` until it returns 0 or there are `most` entries: what is in one queue, in list order, from
/// index `from` on. `shared` asks for the process's queue instead of the thread's own. Bits without siginfo do not
/// show here.
///
/// The kernel walks the list from its head for every entry (ptrace_peek_siginfo), so that the time grows with the
/// square of the length. Of a long queue that grows as fast as it is read, which it can without an RLIMIT_SIGPENDING, only
/// what is in it after the first [`LONG`] entries is read.
pub fn peek(tid: Tid, shared: bool, from: usize, most: usize) -> Result<Vec<Siginfo>> {
    let name = if shared {
        "PTRACE_PEEKSIGINFO(shared)"
    } else {
        "PTRACE_PEEKSIGINFO"
    };
    let mut queue: Vec<Siginfo> = Vec::new();
    let mut chunk = vec![[0u8; SIGINFO_SIZE]; PEEKSIGINFO_FIRST.min(most)];
    let mut most = most;
    let mut end_is_known = most <= LONG;
    while queue.len() < most {
        if !end_is_known && queue.len() >= LONG {
            end_is_known = true;
            most = most.min(depth(tid, shared)?.saturating_sub(from));
            continue;
        }
        if !queue.is_empty() {
            chunk.resize(PEEKSIGINFO_CHUNK.min(most), [0; SIGINFO_SIZE]);
        }
        let nr = chunk.len().min(most - queue.len());
        let args = PeeksiginfoArgs {
            off: (from + queue.len()) as u64,
            flags: if shared { PEEKSIGINFO_SHARED } else { 0 },
            nr: i32::try_from(nr).unwrap_or(i32::MAX),
        };
        let at = chunk.as_mut_ptr().addr();
        let n = request(
            libc::PTRACE_PEEKSIGINFO,
            name,
            tid,
            (&raw const args).addr(),
            at,
        )?;
        let n = usize::try_from(n)
            .map_err(|_| Error::new(name, Cause::Unexpected(format!("{n} entries"))))?
            .min(nr);
        if n == 0 {
            break;
        }
        queue.extend(chunk[..n].iter().copied().map(Siginfo::from_bytes));
    }
    Ok(queue)
}

/// How many entries a queue has. Found by looking whether there is one here and there, because to read them all takes time
/// with the square of their number.
pub fn depth(tid: Tid, shared: bool) -> Result<usize> {
    let reaches = |index: usize| Ok(!peek(tid, shared, index, 1)?.is_empty());
    let mut beyond = 1;
    while reaches(beyond - 1)? {
        beyond *= 2;
    }
    // The depth is at least half of `beyond`, and below it.
    let mut least = beyond / 2;
    while beyond - least > 1 {
        let middle = least + (beyond - least) / 2;
        if reaches(middle - 1)? {
            least = middle;
        } else {
            beyond = middle;
        }
    }
    Ok(least)
}

/// `PTRACE_GET_RSEQ_CONFIGURATION`: where the thread's `struct rseq` is. `None` if it has registered none, or
/// the kernel (before 5.13) cannot say.
pub fn rseq_area(tid: Tid) -> Result<Option<u64>> {
    let mut conf = RseqConfiguration::default();
    let what = "PTRACE_GET_RSEQ_CONFIGURATION";
    let is_known = get(GET_RSEQ_CONFIGURATION, what, tid, &mut conf)?;
    Ok((is_known && conf.rseq_abi_pointer != 0).then_some(conf.rseq_abi_pointer))
}

/// `PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG`.
pub fn dispatch(tid: Tid) -> Result<Dispatch> {
    let mut config = DispatchConfig::default();
    let what = "PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG";
    Ok(
        match get(GET_SYSCALL_USER_DISPATCH_CONFIG, what, tid, &mut config)? {
            false => Dispatch::Unknown,
            true if config.mode == 0 => Dispatch::Off,
            true => Dispatch::By(config.selector),
        },
    )
}

/// A request that fills a structure of integers, whose size is the address that the request takes. False: the kernel does not know the
/// request.
fn get<T>(what: PtraceRequest, name: &'static str, tid: Tid, structure: &mut T) -> Result<bool> {
    let at = std::ptr::from_mut(structure).addr();
    match request(what, name, tid, size_of::<T>(), at) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.cause(), Cause::Os(Errno::EIO | Errno::EINVAL)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Does the kernel that runs have Syscall User Dispatch (5.11)? To turn off here what is off already changes nothing.
pub fn has_dispatch() -> bool {
    const PR_SET_SYSCALL_USER_DISPATCH: i32 = 59;
    // SAFETY: numbers only.
    unsafe { libc::prctl(PR_SET_SYSCALL_USER_DISPATCH, 0, 0, 0, 0) == 0 }
}

/// `PTRACE_GETREGSET`: as much of the registers that protection keys are in as is needed.
pub fn protection_registers(tid: Tid, keys: ProtectionKeys) -> Result<Vec<u8>> {
    let mut state = vec![0u8; keys.room()];
    let mut part = libc::iovec {
        iov_base: state.as_mut_ptr().cast(),
        iov_len: state.len(),
    };
    let (set, name) = ProtectionKeys::REGISTERS;
    let at = (&raw mut part).addr();
    request(libc::PTRACE_GETREGSET, name, tid, set, at)?;
    state.truncate(part.iov_len);
    Ok(state)
}

/// `PTRACE_POKEDATA`: writes one word wherever the tracee has memory, also what it may not write itself.
pub fn poke(tid: Tid, at: u64, word: [u8; 8]) -> Result<()> {
    let address = usize::try_from(at).unwrap_or(usize::MAX);
    let word = usize::from_ne_bytes(word);
    request(libc::PTRACE_POKEDATA, "PTRACE_POKEDATA", tid, address, word).map(drop)
}

/// Waits for the trap that a thread was let go for.
pub fn await_trap(tid: Tid, patience: Duration) -> Result<()> {
    let mut bound = bound::Bound::new(tid, "leave the stub", patience, 0);
    loop {
        bound.one_more()?;
        match wait_stop(tid, bound.deadline())? {
            Stop::Event(_) => return Ok(()),
            // Only SIGSTOP gets here: the trap comes before anything else is dequeued.
            Stop::Signal(signal) => resume(tid, Resume::Run, signal)?,
            Stop::Syscall | Stop::OtherEvent(_) => {
                return Err(Error::new(
                    "leave the stub",
                    Cause::Unexpected("the thread kept running".into()),
                ));
            }
        }
    }
}

/// How long a stop usually takes at most: until then the wait is a busy one.
const SOON: Duration = Duration::from_micros(200);
/// From then on it is asked whether the thread is dead.
const LATER: Duration = Duration::from_millis(1);
/// How long a whole batch of calls may take: until then a pause as long as [`LATER`] would cost more than the batch.
const BATCH: Duration = Duration::from_millis(20);

/// Waits until the thread stops. Its death is [`Cause::Died`]; `deadline` passing is ETIMEDOUT.
///
/// It does not block in waitpid(2): the kernel reports a leader's death only when all other threads are reaped, which
/// those that we trace as well are by nobody but us (delay_group_leader).
pub fn wait_stop(tid: Tid, deadline: Instant) -> Result<Stop> {
    let start = Instant::now();
    let stop = wait_stop_since(start, tid, bound::within_budget(deadline));
    bound::charge(start.elapsed());
    stop
}

fn wait_stop_since(start: Instant, tid: Tid, deadline: Instant) -> Result<Stop> {
    loop {
        if let Some(stop) = try_wait(tid)? {
            return Ok(stop);
        }
        if start.elapsed() < SOON {
            std::thread::yield_now();
            continue;
        }
        if Instant::now() >= deadline {
            return Err(Error::os("wait for the stop", Errno::ETIMEDOUT).in_thread(tid));
        }
        std::thread::sleep(if start.elapsed() < BATCH {
            SOON / 4
        } else {
            LATER
        });
        if start.elapsed() >= LATER && is_dead(tid) {
            return Err(Error::new("wait for the stop", Cause::Died).in_thread(tid));
        }
    }
}

/// What has happened to the thread, if anything has.
fn try_wait(tid: Tid) -> Result<Option<Stop>> {
    let mut status = 0;
    // SAFETY: waitpid writes one int.
    let result = unsafe { libc::waitpid(tid.get(), &raw mut status, libc::__WALL | libc::WNOHANG) };
    match result {
        -1 => match Errno::last() {
            Errno::EINTR => Ok(None),
            // Reaped already: by a SIGCHLD handler of the process that we live in.
            Errno::ECHILD => Err(Error::new("waitpid", Cause::Died).in_thread(tid)),
            errno => Err(Error::os("waitpid", errno).in_thread(tid)),
        },
        0 => Ok(None),
        _ => {
            remembered::forget(tid);
            decode(tid, status).map(Some)
        }
    }
}

/// Has it ended, whoever has heard of it?
pub fn is_dead(tid: Tid) -> bool {
    SignalStatus::read(Pid::from(tid), tid).map_or(true, |status| status.dead)
}

/// Takes note of the death of threads that we trace, so that their process's parent hears of it.
pub fn reap(tid: Tid) {
    let _ = try_wait(tid);
}

/// What is to be done when a thread can't be detached: it has died, or it has not stopped when it was told to. One that
/// has stopped in this very moment is let go.
pub fn note_end(tid: Tid) {
    let signal = match try_wait(tid) {
        Ok(Some(Stop::Signal(signal))) => word(signal),
        Ok(Some(_)) => 0,
        Ok(None) | Err(_) => return,
    };
    let _ = request(libc::PTRACE_DETACH, "PTRACE_DETACH", tid, 0, signal);
}

fn decode(tid: Tid, status: i32) -> Result<Stop> {
    if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
        return Err(Error::new("wait for the stop", Cause::Died).in_thread(tid));
    }
    if !libc::WIFSTOPPED(status) {
        return Err(
            Error::new("waitpid", Cause::Unexpected(format!("status {status:#x}"))).in_thread(tid),
        );
    }
    let signal = libc::WSTOPSIG(status);
    Ok(match status >> 16 {
        0 if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
        0 => Stop::Signal(signal),
        libc::PTRACE_EVENT_STOP => Stop::Event(signal),
        event => Stop::OtherEvent(event),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_are_told_apart() {
        let tid = Tid::new(1).unwrap();
        assert_eq!(decode(tid, 0x0000_857f).unwrap(), Stop::Syscall);
        assert_eq!(
            decode(tid, 0x0080_137f).unwrap(),
            Stop::Event(libc::SIGSTOP)
        );
        assert_eq!(
            decode(tid, 0x0080_057f).unwrap(),
            Stop::Event(libc::SIGTRAP)
        );
        assert_eq!(
            decode(tid, 0x0000_0a7f).unwrap(),
            Stop::Signal(libc::SIGUSR1)
        );
        assert!(decode(tid, 0x0000_0009).unwrap_err().is_died());
        assert!(decode(tid, 0x0000_0100).unwrap_err().is_died());
    }

    /// Of a program that waits in a read(2) of descriptor 3. The stop's reason is what it was.
    #[test]
    fn the_first_argument_is_kept() {
        use crate::arch::syscall_number;
        use std::process::{Command, Stdio};

        const READ: u32 = syscall_number(libc::SYS_read);
        let mut cat = Command::new("cat");
        let mut child = cat.arg("/dev/stdin").stdin(Stdio::piped()).spawn().unwrap();
        let tid = Tid::new(child.id().cast_signed()).unwrap();
        let call = || proc::parse_call(&proc::read_text(format!("/proc/{tid}/syscall")).ok()?);
        while call().is_none_or(|(number, [first, ..])| (number, first) != (READ, 3)) {
            std::thread::sleep(Duration::from_millis(1));
        }
        seize(tid, 0).unwrap();
        interrupt(tid).unwrap();
        await_trap(tid, Duration::from_secs(60)).unwrap();
        let reason = stop_reason(tid).unwrap();
        assert_eq!(argument_kept(tid).unwrap(), Some(3));
        assert_eq!(stop_reason(tid).unwrap(), reason);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The registers of a thread that nobody traces cannot be read.
    #[cfg(feature = "bpf")]
    #[test]
    fn what_is_remembered_is_not_read_again() {
        use crate::arch::PT_REGS_WORDS;
        use remembered::{Remembered, keep, known};

        let tid = Tid::new(nix::unistd::gettid().as_raw()).unwrap();
        let read = Registers::on_kernel_stack(&[7; PT_REGS_WORDS]);
        keep(tid, &read);
        assert!(known(tid).is_none(), "no Remembered is held");
        {
            let _outermost = Remembered::begin();
            keep(tid, &read);
            drop(Remembered::begin());
            assert_eq!(registers(tid).unwrap(), read);
            registers_now(tid).unwrap_err();
            set_registers(tid, &read).unwrap_err();
            registers(tid).unwrap_err();
            keep(tid, &read);
            resume(tid, Resume::Run, 0).unwrap_err();
            registers(tid).unwrap_err();
            keep(tid, &read);
        }
        assert!(known(tid).is_none());
    }
}
