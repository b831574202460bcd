//! System calls that a stop has interrupted. The program must see EINTR exactly where it would see EINTR without the
//! stop. docs/eintr.md has the table, call by call.
//!
//! A stop interrupts every wait. Most calls then leave a restart code where their result goes, and the kernel
//! decides only when the thread goes on whether a handler runs and what follows from that. So the decision is left to
//! the kernel: the thread gets back the number, the restart code and the address of the call. Signals that were
//! pending, have arrived since or arrive later then act as if there had been no checkpoint.
//!
//! Two kinds of call need more:
//!
//! - Some give EINTR at once whatever it was that interrupted them (signal(7), "Interruption of system calls and
//!   library functions by stop signals"). For these calls `tracee/shield.rs` replaces the result by ERESTARTNOHAND: the
//!   kernel then returns EINTR if a handler runs, and restarts the call if none does, as if there had been no stop.
//! - Those with a relative timeout leave ERESTART_RESTARTBLOCK; the end of their time is in the thread's
//!   `restart_block`, which nobody can read, which a restored thread does not have, and which rt_sigreturn(2)
//!   clears (arch/x86/kernel/signal.c, restore_sigcontext), so that CRIU's parasite clears that of every leader.
//!   If the remaining time is known, the thread makes the call again with the remaining time, and the call is
//!   interrupted once more: `restart_block` is then as it was. If the remaining time is not known, the call is
//!   restarted with its arguments.

use std::collections::BTreeMap;

use criu_signals_images::{
    CallTable, InterruptedCall, Pid, ProcessState, RestartCode, ThreadState, Tid,
};

use super::asleep::{self, Looked, ProcessorClocks, Waited};
use super::mask::Masks;
use super::restart_block::RestartBlock;
use super::{Kind, Site};
use crate::arch::{Registers, Timeout, Timespec, Waiting, timeout, timespec, waiting};
use crate::error::{Cause, Error, Phase, Result};
use crate::proc::{self, Glimpse};
use crate::tracee::reentry::{self, EndedCall};
use crate::tracee::shield::{self, LostMask, in_call, is_due_afterwards, set};
use crate::tracee::{ByHost, Call, Injector, Memory, RemoteAddr, StoppedProcess, ptrace};

const NANOSECONDS_PER_MILLI: u64 = 1_000_000;
/// `FUTEX_CMD_MASK` and the one operation whose timeout is relative.
const FUTEX_CMD_MASK: u64 = 0x7f;
const FUTEX_WAIT: u64 = 0;
const TIMER_ABSTIME: u64 = libc::TIMER_ABSTIME as u64;

/// The call that a thread was waiting in, if it has not ended.
#[derive(Debug)]
pub enum InterruptedSystemCall {}

impl Kind for InterruptedSystemCall {
    const NAME: &'static str = "interrupted system call";
    type State = Option<InterruptedCall>;

    fn capture<Owner>(site: &mut Site<'_, '_, Owner>) -> Result<Option<InterruptedCall>> {
        let registers = ptrace::registers(site.tid)?;
        Ok(interrupted(site.injector.memory(), &registers))
    }

    /// For a thread as CRIU restores it: stepped back, to make the call once more whatever happens.
    fn replay<Owner>(
        site: &mut Site<'_, '_, Owner>,
        wanted: &Option<InterruptedCall>,
    ) -> Result<()> {
        let Some(call) = wanted else {
            return Ok(());
        };
        let registers = ptrace::registers(site.tid)?;
        if is_restart(call, registers.is_compat()) {
            says_eintr(site.tid, call, &registers);
            return Ok(());
        }
        if !registers.stands_before(call) {
            return Err(stands_elsewhere(call, &registers));
        }
        match again(call, &registers) {
            Some(again) => begin_anew(site, call, &again),
            None => {
                says_whole_time(site.injector.memory(), site.tid, call, &registers);
                let code = without_block(call.code);
                site.injector.leave_in_call(site.tid, call, code)
            }
        }
    }
}

/// The call that a stop has interrupted, unless the call has ended. Without the remaining time.
fn interrupted_with_code(registers: &Registers) -> Option<InterruptedCall> {
    let (call, result) = in_call(registers)?;
    let code = RestartCode::from_result(result)?;
    Some(InterruptedCall { code, ..call })
}

/// As [`interrupted_with_code`], with the remaining time where the kernel has written that into the program's memory.
fn interrupted(memory: &Memory, registers: &Registers) -> Option<InterruptedCall> {
    let mut call = interrupted_with_code(registers)?;
    if call.code == RestartCode::ByBlock {
        call.remaining = written_back(memory, registers, &call);
    }
    Some(call)
}

/// The timeout, in nanoseconds, of a call that `shield` has named. `None` if the timeout is that of a socket, or if the
/// memory of the argument no longer has the timeout.
fn whole(memory: &Memory, registers: &Registers, call: &InterruptedCall) -> Option<u64> {
    let compat = registers.is_compat();
    let time_at = |at| read_timespec(memory, at, timespec(call.number, compat));
    match timeout(call.number, registers.call_args(), compat) {
        Timeout::Millis(ms) => Some(ms * NANOSECONDS_PER_MILLI),
        Timeout::At(at) => time_at(at),
        Timeout::IfAt(at) => time_at(memory.read_u64(RemoteAddr(at)).ok()?),
        Timeout::Without | Timeout::Given => None,
    }
}

/// What threads were seen waiting in before the host seized their process. Calls go through a dump as an order of types,
/// each made of the one before: `Seen`, [`Confirmed`], [`Completed`], [`HandedOver`].
#[derive(Debug, Default)]
pub struct Seen(Looked);

impl Seen {
    /// Looks at these threads of `pid`, which run, and keeps what is seen. To be done last before the process is seized: how long
    /// a thread has been waiting can't be seen any more when it has been stopped once more. Another thread looks, and this one
    /// does `meanwhile`.
    pub fn look(
        &mut self,
        pid: Pid,
        threads: &[Glimpse],
        clocks: &mut ProcessorClocks,
        meanwhile: impl FnOnce(),
    ) {
        let now = Looked::look(pid, threads, &self.0, clocks, meanwhile);
        // A freezer of cgroup v1 hides what could be seen before. It is noted as well that no thread was seen waiting: as
        // long as the threads do not run, they are not looked at again.
        if !now.is_empty() || self.0.is_empty() {
            self.0 = now;
        }
    }

    /// Keeps the stop from ending a call in the threads of `pid` that this process traces and has stopped; the process was never
    /// handed over as a whole. Whether these are all of its threads: nothing is known of the others. Also which calls the stop has
    /// ended all the same.
    ///
    /// # Errors
    /// If a thread could not be changed. Those after it were not looked at.
    pub fn shield_traced(&self, pid: Pid) -> Result<(bool, Vec<EndedCall>)> {
        let (mut all, mut ended) = (true, Vec::new());
        for tid in proc::threads(pid)? {
            match self.shield_traced_thread(pid, tid) {
                Ok(call) => ended.extend(call),
                // ESRCH: ended, running, or somebody else's.
                Err(e) if e.is_died() => all = false,
                Err(e) => return Err(e.in_thread(tid)),
            }
        }
        Ok((all, ended))
    }

    fn shield_traced_thread(&self, pid: Pid, tid: Tid) -> Result<Option<EndedCall>> {
        if Registers::STOP_HIDES_CALL {
            // CRIU sets the option some time after the seize (compel_wait_task), and without it a stop at a system call is a SIGTRAP.
            ptrace::set_options(tid, libc::PTRACE_O_TRACESYSGOOD)?;
        }
        reentry::keep_call(pid, tid, self.0.call_of(pid, tid).as_ref())
    }

    /// Compares what was seen with the process, which is seized now. Nothing may have run in the process since:
    /// afterwards nobody could tell how the process was stopped. From here on the stop itself ends no call.
    ///
    /// # Errors
    /// If a thread could not be looked at or changed.
    pub fn confirm<Owner>(self, stopped: &StoppedProcess<Owner>) -> Result<Confirmed> {
        let (mut anew, mut lost) = (Vec::new(), Vec::new());
        let (waited, ended) = asleep::confirm(stopped, &self.0)?;
        for (tid, shielded) in shield::shield(stopped.pid(), stopped.threads())? {
            if shielded.anew {
                anew.push(tid);
            }
            lost.extend(shielded.lost);
            reentry::leave_ended(tid).map_err(|e| e.in_thread(tid))?;
        }
        Ok(Confirmed {
            waited,
            anew,
            lost,
            ended,
            blocks: BTreeMap::new(),
        })
    }
}

/// What is known of the calls from before the stop.
#[derive(Debug)]
pub struct Confirmed {
    waited: Vec<Waited>,
    /// Threads whose calls begin anew with their whole timeout.
    anew: Vec<Tid>,
    lost: Vec<LostMask>,
    ended: Vec<EndedCall>,
    /// What the kernel has noted down, if somebody could read that.
    blocks: BTreeMap<Tid, RestartBlock>,
}

impl Confirmed {
    /// Is there a call that only the kernel's notes tell: it had been interrupted before, and was not seen waiting since?
    ///
    /// # Errors
    /// If the registers of a thread can't be read.
    pub fn needs_blocks<Owner>(&self, stopped: &StoppedProcess<Owner>) -> Result<bool> {
        for &tid in stopped.threads() {
            let registers = ptrace::registers(tid).map_err(|e| e.in_thread(tid))?;
            let call = interrupted_with_code(&registers);
            let was_seen = |one: &Waited| one.tid == tid && one.restarted.is_some();
            if call.is_some_and(|call| is_restart(&call, registers.is_compat()))
                && !self.waited.iter().any(was_seen)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes note of what was read of threads since they were stopped, and before anything has run in them.
    #[must_use]
    pub fn with_blocks(mut self, blocks: BTreeMap<Tid, RestartBlock>) -> Confirmed {
        self.blocks = blocks;
        self
    }

    /// Calls that the stop has ended with EINTR.
    pub fn ended_calls(&self) -> &[EndedCall] {
        &self.ended
    }

    /// The masks of calls that are lost by this dump, and that matter.
    pub fn lost_masks(&self) -> &[LostMask] {
        &self.lost
    }

    /// Completes the captured `state`: the remaining time of each call, where the kernel has written that time nowhere,
    /// and the call that restart_syscall(2) continued.
    ///
    /// # Errors
    /// If a thread is gone.
    pub fn complete<Owner>(
        self,
        stopped: &StoppedProcess<Owner>,
        state: &mut ProcessState,
    ) -> Result<Completed> {
        for thread in &mut state.threads {
            let tid = thread.tid();
            if let Some(call) = &mut thread.interrupted {
                self.complete_call(stopped, tid, call)?;
            }
        }
        let of = |thread: &ThreadState| {
            let call = thread.interrupted?;
            Some((thread.tid(), call, Masks::from_thread(thread)))
        };
        let masks = |thread: &ThreadState| Some((thread.tid(), Masks::from_thread(thread)?));
        Ok(Completed {
            calls: state.threads.iter().filter_map(of).collect(),
            masks: state.threads.iter().filter_map(masks).collect(),
        })
    }

    /// As [`complete`](Self::complete), for a process of which nothing else is captured.
    ///
    /// # Errors
    /// If a thread is gone.
    pub fn complete_alone<Owner>(self, stopped: &StoppedProcess<Owner>) -> Result<Completed> {
        let (mut calls, mut masks) = (Vec::new(), Vec::new());
        for &tid in stopped.threads() {
            let registers = registers_of(stopped, tid)?;
            let own = ptrace::signal_mask(tid).map_err(|e| e.in_thread(tid))?;
            let of_call = shield::mask_of_call((stopped.pid(), tid), &registers, own, None)?;
            masks.extend(of_call.map(|of_call| (tid, Masks { of_call, own })));
            if let Some(mut call) = interrupted(stopped.memory()?, &registers) {
                self.complete_call(stopped, tid, &mut call)?;
                calls.push((tid, call, None));
            }
        }
        Ok(Completed { calls, masks })
    }

    fn complete_call<Owner>(
        &self,
        stopped: &StoppedProcess<Owner>,
        tid: Tid,
        call: &mut InterruptedCall,
    ) -> Result<()> {
        if call.code != RestartCode::ByBlock {
            call.whole_timeout = self.anew.contains(&tid);
            if call.whole_timeout {
                call.timeout = whole(stopped.memory()?, &registers_of(stopped, tid)?, call);
            }
            return Ok(());
        }
        let registers = registers_of(stopped, tid)?;
        let waited = self.waited.iter().find(|waited| waited.tid == tid);
        let block = self.blocks.get(&tid);
        let restarted = waited.and_then(|waited| waited.restarted).or_else(|| {
            let kind = block
                .filter(|_| is_restart(call, registers.is_compat()))?
                .restarted()?;
            let (args, compat) = (registers.call_args(), registers.is_compat());
            Some(kind.number_of(compat, args, stopped.memory().ok()))
        });
        if let Some(number) = restarted {
            call.number = number;
            call.remaining = written_back(stopped.memory()?, &registers, call);
        }
        if call.remaining.is_none() && is_relative(&registers, call) {
            call.remaining = block
                .and_then(|block| block.left(waiting_in(&registers, call)?))
                .or_else(|| {
                    let whole = asked_for(stopped.memory().ok()?, &registers, call)?;
                    Some(whole.saturating_sub(waited?.time?))
                });
        }
        call.whole_timeout = call.remaining.is_none() && is_relative(&registers, call);
        if call.whole_timeout {
            call.timeout = asked_for(stopped.memory()?, &registers, call);
        }
        Ok(())
    }
}

fn registers_of<Owner>(stopped: &StoppedProcess<Owner>, tid: Tid) -> Result<Registers> {
    ptrace::registers(tid).map_err(|e| e.in_thread(tid).during(Phase::Capture, stopped.pid()))
}

/// The calls that the threads of a captured process are in, with all that is known of them.
#[derive(Debug)]
pub struct Completed {
    calls: Vec<(Tid, InterruptedCall, Option<Masks>)>,
    masks: Vec<(Tid, Masks)>,
}

impl Completed {
    /// How many threads are in such calls.
    pub fn threads(&self) -> usize {
        self.calls.len()
    }

    /// Prepares the threads for CRIU, which turns ERESTART_RESTARTBLOCK into EINTR: the calls are to be restarted. If
    /// criu is killed before [`HandedOver::take_back`], the calls start again with their whole timeout, and none ends
    /// with EINTR.
    ///
    /// # Errors
    /// If a thread could not be changed. Those before it are as they were found.
    pub fn hand_over(self, stopped: &StoppedProcess<ByHost>) -> Result<HandedOver> {
        let handed = HandedOver {
            pid: stopped.pid(),
            calls: self.calls,
            masks: self.masks,
        };
        match handed.prepare() {
            Ok(()) => Ok(handed),
            Err(e) => {
                for error in handed.take_back() {
                    log::warn!("{error}");
                }
                Err(e)
            }
        }
    }
}

/// System calls that CRIU has to find in another state than the one that they were captured in.
#[derive(Debug)]
pub struct HandedOver {
    pid: Pid,
    calls: Vec<(Tid, InterruptedCall, Option<Masks>)>,
    masks: Vec<(Tid, Masks)>,
}

impl HandedOver {
    fn prepare(&self) -> Result<()> {
        for (tid, call, _) in &self.calls {
            let registers = ptrace::registers(*tid).map_err(|e| e.in_thread(*tid))?;
            // There CRIU does not look for a call, and takes registers as they are.
            if Registers::STOP_HIDES_CALL {
                reentry::to_trap(*tid, &registers.before(call)).map_err(|e| e.in_thread(*tid))?;
                continue;
            }
            if call.code != RestartCode::ByBlock {
                continue;
            }
            // Nobody knows it: the dump has said so.
            if !is_restart(call, registers.is_compat()) {
                set(*tid, &registers, call, RestartCode::UnlessHandled)
                    .map_err(|e| e.in_thread(*tid))?;
            }
        }
        Ok(())
    }

    /// Puts back what was found, in a process that is about to run on: CRIU leaves it stepped back, to make the call
    /// once more even where a handler without SA_RESTART runs first.
    ///
    /// Returns the errors. A thread that is gone or no longer stopped is not an error.
    pub fn take_back(self) -> Vec<Error> {
        let mut injected = Vec::new();
        let mut errors = Vec::new();
        for (tid, call, masks) in &self.calls {
            let taken_back = with_own_mask(self.pid, *tid, call, *masks)
                .and_then(|call| self.take_back_thread(*tid, &call));
            match taken_back {
                Ok(None) => {}
                Ok(Some(how)) => injected.push((*tid, call, how)),
                Err(e) if e.is_died() => {}
                Err(e) => errors.push(e.in_thread(*tid)),
            }
        }
        if !injected.is_empty() || shield::KEEPS_MASKS_OF_CALLS && !self.masks.is_empty() {
            // Calls that are not begun anew are restarted with their whole time instead.
            let failed = self.inject(&injected).err();
            errors.extend(failed.filter(|e| !e.is_died()));
        }
        errors
            .into_iter()
            .map(|e| e.during(Phase::Release, self.pid))
            .collect()
    }

    /// Leaves the call that has to be put back from within the thread, restarted as long as that has not been done.
    fn take_back_thread(&self, tid: Tid, call: &InterruptedCall) -> Result<Option<FromWithin>> {
        let registers = ptrace::registers(tid)?;
        let now = match in_call(&registers) {
            Some((now, _)) => Some(now),
            None if Registers::STOP_HIDES_CALL => None,
            None => Some(*call),
        };
        if now.is_some_and(|now| now.number == call.number && now.ip == call.ip) {
            // CRIU did not get as far as this thread, or there is nothing that it changes.
            if !is_restart(call, registers.is_compat()) {
                set(tid, &registers, call, call.code)?;
            }
            return Ok(None);
        }
        if !registers.stands_before(call) {
            return Err(stands_elsewhere(call, &registers));
        }
        let leave = |code: RestartCode| {
            if Registers::STOP_HIDES_CALL {
                return Ok(Some(FromWithin::Code(code)));
            }
            set(tid, &registers, call, code).map(|()| None)
        };
        // Leaders only go through rt_sigreturn (compel: the parasite's daemon), which clears the block.
        if tid != Tid::from(self.pid) {
            return leave(call.code);
        }
        let again = again(call, &registers);
        if again.is_none()
            && let Ok(memory) = Memory::open(self.pid)
        {
            says_whole_time(&memory, tid, call, &registers);
        }
        let left = leave(without_block(call.code))?;
        Ok(again.map(FromWithin::Anew).or(left))
    }

    /// Puts `calls` back, and the masks of calls: those last, with the registers with which the threads go on.
    fn inject(&self, calls: &[(Tid, &InterruptedCall, FromWithin)]) -> Result<()> {
        let stopped = StoppedProcess::<ByHost>::of_host(self.pid)?;
        let mut injector = Injector::new(&stopped)?;
        for (tid, call, how) in calls {
            match how {
                FromWithin::Anew(again) => {
                    let mut site = Site {
                        injector: &mut injector,
                        tid: *tid,
                    };
                    begin_anew(&mut site, call, again)?;
                }
                FromWithin::Code(code) => injector.leave_in_call(*tid, call, *code)?,
            }
        }
        injector.settle()?;
        for (tid, masks) in &self.masks {
            masks.put_back(&mut Site {
                injector: &mut injector,
                tid: *tid,
            })?;
        }
        injector.finish()
    }
}

/// What has to be done within a thread so that it is in its call again.
#[derive(Debug)]
enum FromWithin {
    /// This call is made, and interrupted.
    Anew(Call),
    /// The thread is at the exit of a call, with this code.
    Code(RestartCode),
}

/// Where the mask of a call can't be put back: as CRIU leaves the thread, its own mask is in force, and the call sets its mask again
/// when it is restarted. A signal that has
/// come since, and that only the call's mask blocks, has its handler run before that: it must not end the call, which it would not
/// have interrupted. One that the call lets through ends it.
fn with_own_mask(
    pid: Pid,
    tid: Tid,
    call: &InterruptedCall,
    masks: Option<Masks>,
) -> Result<InterruptedCall> {
    let mut call = *call;
    let matters = !shield::KEEPS_MASKS_OF_CALLS && call.code == RestartCode::UnlessHandled;
    let Some(Masks { of_call, own }) = masks.filter(|_| matters) else {
        return Ok(call);
    };
    if is_due_afterwards(pid, tid, of_call, own)? {
        call.code = RestartCode::Always;
    }
    Ok(call)
}

/// Puts back the call of a thread as CRIU restores it.
///
/// # Errors
/// If the thread could not be looked at or changed.
pub(crate) fn put_back_call<Owner>(
    site: &mut Site<'_, '_, Owner>,
    wanted: &ThreadState,
) -> Result<()> {
    let Some(call) = &wanted.interrupted else {
        return Ok(());
    };
    let call = with_own_mask(site.pid(), site.tid, call, Masks::from_thread(wanted))?;
    InterruptedSystemCall::replay(site, &Some(call))
}

/// A thread without the kernel's notes: the call is restarted as it was made.
fn without_block(code: RestartCode) -> RestartCode {
    match code {
        RestartCode::ByBlock => RestartCode::UnlessHandled,
        other => other,
    }
}

fn waiting_in(registers: &Registers, call: &InterruptedCall) -> Option<Waiting> {
    waiting(call.number, registers.call_args(), registers.is_compat())
}

/// Is it restart_syscall(2), which was interrupted once more? Then only the kernel's `restart_block` tells of which call.
/// `compat`: the number is of the 32-bit table.
pub(crate) fn is_restart(call: &InterruptedCall, compat: bool) -> bool {
    // The arguments do not matter for that.
    call.code == RestartCode::ByBlock
        && waiting(call.number, [0; 6], compat) == Some(Waiting::Restart)
}

fn says_eintr(tid: Tid, call: &InterruptedCall, registers: &Registers) {
    let call = call.named(CallTable::here(registers.is_compat()));
    log::warn!(
        "tid {tid}: {call} continues an interrupted call, and only the kernel knows which call: the call ends with EINTR"
    );
}

fn says_whole_time(memory: &Memory, tid: Tid, call: &InterruptedCall, registers: &Registers) {
    if call.code == RestartCode::ByBlock
        && let Some(whole) = asked_for(memory, registers, call)
    {
        log::info!(
            "pid {} tid {tid}: {}: begins anew with its whole timeout, {:?}, because the remaining time is not \
             known",
            memory.pid(),
            call.named(CallTable::here(registers.is_compat())),
            std::time::Duration::from_nanos(whole)
        );
    }
}

fn stands_elsewhere(call: &InterruptedCall, registers: &Registers) -> Error {
    Error::new(
        "put back the interrupted system call",
        Cause::Unexpected(format!(
            "{} was at {:#x}, but the thread is at {:#x}: not changed",
            call.named(CallTable::here(registers.is_compat())),
            call.ip,
            registers.ip()
        )),
    )
}

/// What the kernel has written into the program's memory as the time that is left (kernel/time/hrtimer.c,
/// nanosleep_copyout). `None` where the call is restarted with it anyway, or nothing was asked for.
pub(crate) fn written_back(
    memory: &Memory,
    registers: &Registers,
    call: &InterruptedCall,
) -> Option<u64> {
    let args = registers.call_args();
    let (request, remaining) = match waiting(call.number, args, registers.is_compat())? {
        Waiting::Nanosleep => (args[0], args[1]),
        Waiting::ClockNanosleep => (args[2], args[3]),
        _ => return None,
    };
    if remaining == 0 || remaining == request {
        return None;
    }
    read_timespec(
        memory,
        remaining,
        timespec(call.number, registers.is_compat()),
    )
}

/// Has the call, which the kernel goes on with by its `restart_block`, a relative timeout? Not where the kernel has
/// written the rest of it in its place.
fn is_relative(registers: &Registers, call: &InterruptedCall) -> bool {
    let args = registers.call_args();
    match waiting(call.number, args, registers.is_compat()) {
        Some(Waiting::Nanosleep) => args[0] != args[1],
        Some(Waiting::ClockNanosleep) => args[1] & TIMER_ABSTIME == 0 && args[2] != args[3],
        Some(Waiting::Futex) => args[1] & FUTEX_CMD_MASK == FUTEX_WAIT && args[3] != 0,
        // An int in the low half; below 0 it is for ever.
        Some(Waiting::Poll) => args[2] & 0x8000_0000 == 0,
        _ => false,
    }
}

/// The relative timeout of a call, in nanoseconds. `None` where it has none, or where the arguments tell by themselves
/// what is left: as an instant, or because the kernel has written it there.
fn asked_for(memory: &Memory, registers: &Registers, call: &InterruptedCall) -> Option<u64> {
    let (args, compat) = (registers.call_args(), registers.is_compat());
    let time_at = |at| read_timespec(memory, at, timespec(call.number, compat));
    match waiting(call.number, args, compat)? {
        Waiting::Nanosleep if args[0] != args[1] => time_at(args[0]),
        Waiting::ClockNanosleep if args[1] & TIMER_ABSTIME == 0 && args[2] != args[3] => {
            time_at(args[2])
        }
        Waiting::Futex if args[1] & FUTEX_CMD_MASK == FUTEX_WAIT && args[3] != 0 => {
            time_at(args[3])
        }
        // An int in the low half; below 0 it is for ever.
        Waiting::Poll => i32::try_from(args[2] & 0xffff_ffff)
            .ok()
            .map(|ms| u64::from(ms.unsigned_abs()) * NANOSECONDS_PER_MILLI),
        _ => None,
    }
}

/// `None` also if the memory is gone: another thread may have unmapped the memory after the kernel read the timeout.
fn read_timespec(memory: &Memory, at: u64, layout: Timespec) -> Option<u64> {
    let mut bytes = [0; Timespec::MAX_SIZE];
    let bytes = &mut bytes[..layout.size()];
    memory.read_program(RemoteAddr(at), bytes).ok()?;
    layout.read(bytes)
}

/// The call of a thread that stands in it or before it, with the time that it has left. `None` where that is not known,
/// or where the call's own arguments say all.
///
/// By the table of the thread's own calls: the kernel notes down by which one restart_syscall(2) has to be looked up
/// (arch/x86/kernel/signal.c, get_nr_restart_syscall), and how the rest of the time is to be written into the program's
/// memory when the call is interrupted again.
fn again(call: &InterruptedCall, registers: &Registers) -> Option<Call> {
    if call.code != RestartCode::ByBlock {
        return None;
    }
    let left = call.remaining?;
    let (args, compat) = (registers.call_args(), registers.is_compat());
    let number = i64::from(call.number);
    let make = |name| {
        if compat {
            Call::compat(number, name)
        } else {
            Call::new(number, name)
        }
    };
    let time = timespec(call.number, compat).write(left);
    Some(match waiting(call.number, args, compat)? {
        Waiting::Nanosleep => make("nanosleep").input(time).value(args[1]),
        Waiting::ClockNanosleep => make("clock_nanosleep")
            .value(args[0])
            .value(args[1])
            .input(time)
            .value(args[3]),
        Waiting::Poll => make("poll")
            .value(args[0])
            .value(args[1])
            .value(left.div_ceil(NANOSECONDS_PER_MILLI)),
        Waiting::Futex if args[1] & FUTEX_CMD_MASK == FUTEX_WAIT => make("futex(FUTEX_WAIT)")
            .value(args[0])
            .value(args[1])
            .value(args[2])
            .input(time)
            .value(args[4])
            .value(args[5]),
        _ => return None,
    })
}

/// Makes the call inside the thread and interrupts it. If it ends, because what it waits for is there, then it has
/// ended: that is its result.
fn begin_anew<Owner>(
    site: &mut Site<'_, '_, Owner>,
    call: &InterruptedCall,
    again: &Call,
) -> Result<()> {
    site.injector
        .interrupt_call(
            site.tid,
            again,
            |registers, result| match RestartCode::from_result(result) {
                Some(RestartCode::ByBlock) => registers.interrupted_in(call, RestartCode::ByBlock),
                None if result != -i64::from(libc::EINTR) => registers.returned_from(call, result),
                _ => registers.interrupted_in(call, RestartCode::UnlessHandled),
            },
        )
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_block_is_lost() {
        for code in RestartCode::ALL {
            let kept = without_block(code);
            if code == RestartCode::ByBlock {
                assert_eq!(kept, RestartCode::UnlessHandled, "a handler ends both");
            } else {
                assert_eq!(kept, code);
            }
        }
    }
}
