//! Makes system calls in a stopped thread, and restores the thread completely.
//!
//! One thread at a time. The order below is what makes the death of the tracer harmless at every instant:
//!
//! 1. The stub is written into unused bytes ([`super::cave`]); the program does not notice.
//! 2. PTRACE_SETREGS puts the thread onto the stub. From here on, without a tracer, it runs the system call
//!    that is in its registers, puts back its mask and registers, and goes on in the program.
//! 3. PTRACE_SETSIGMASK blocks everything, so that nothing is delivered while the thread is not itself.
//! 4. The work. Memory for it is mapped at the beginning and unmapped at the end of each visit: between two visits
//!    no code of ours would be left to take it away.
//! 5. PTRACE_SETSIGMASK puts back the mask, then PTRACE_SETREGS the registers.
//! 6. PTRACE_INTERRUPT and PTRACE_CONT: the thread traps again before it executes anything, and stands as it
//!    stood before, in a PTRACE_EVENT_STOP in which the kernel will still restart what was interrupted.
//!
//! A mask that sigsuspend(2), ppoll(2) and their like have set for their time is lost with PTRACE_SETSIGMASK, and
//! with it which of two masks the handler of a pending signal finds. In step 5 a call of this kind is made anew for that.
//! CRIU drops such masks of every thread that it dumps.

use std::cell::LazyCell;
use std::time::{Duration, Instant};

use criu_signals_images::{InterruptedCall, Pid, RestartCode, SigNo, SigSet, Tid};
use nix::errno::Errno;

use super::batch::{Call, Glance, Layout, Outcome, errno_in, room_for};
use super::bound::{Bound, Budget, within_budget};
use super::cave::{self, Cave};
use super::left_behind;
use super::memory::{Memory, RemoteAddr};
use super::obstacles;
use super::ptrace::{self, Resume, Stop};
use super::reentry;
use super::shield;
use super::stopped::StoppedProcess;
use crate::arch::{
    INPUT_ROOM, Registers, SCRATCH_LEN, SYSCALL_DISPATCH_FILTER_ALLOW,
    SYSCALL_DISPATCH_FILTER_BLOCK, Stub,
};
use crate::error::{Cause, Error, Result};
use crate::fault::{self, Point};
use crate::proc::{self, SignalStatus, TimerLine};

/// How much of a thread's stack serves instead where nothing can be mapped.
const BORROWED: usize = 1024;
const PAGE: usize = 4096;
/// After this time without a stop, the library checks whether a freezer holds the thread.
const FREEZER: Duration = Duration::from_millis(100);
/// How many stops by the marker's signal, sent by another process, are tolerated.
const FOREIGN: usize = 100;
/// System calls of a glance: two, and those that map and take away the memory for them.
const GLANCED: usize = 4;
/// What the ABI lets a function use below the stack pointer without moving it.
const RED_ZONE: u64 = 128;

/// Makes system calls inside the threads of one stopped process.
#[derive(Debug)]
pub struct Injector<'p, Owner> {
    process: &'p StoppedProcess<Owner>,
    memory: &'p Memory,
    cave: Cave,
    timers: Vec<TimerLine>,
    /// Signals that the process's timers send, and that therefore cannot be the marker.
    reserved: SigSet,
    /// Threads that are to trap once more. They have no more to do with the stub.
    on_their_way: Vec<Tid>,
    finished: bool,
}

impl<'p, Owner> Injector<'p, Owner> {
    /// Prepares; changes nothing in the process. A thread that a tracer has left in its injected code, as it died or gave
    /// up a moment ago, is brought back into the program first.
    ///
    /// # Errors
    /// If the process's memory can't be opened or has no room for the stub; [`Cause::Unsupported`] if calls can't be made in a
    /// thread of it, or would leave the thread another mask; EAGAIN if a thread does not get out of a dead
    /// tracer's code.
    pub fn new(process: &'p StoppedProcess<Owner>) -> Result<Self> {
        // A timer may go off at any time. While its signal is the marker it would not be blocked, so that its
        // entry would leave the queue.
        let timers = proc::timers(process.pid())?;
        let reserved = timers
            .iter()
            .filter_map(|timer| SigNo::new(timer.signo))
            .collect();
        let memory = process.memory()?;
        // The same for all threads.
        let is_32_bit = LazyCell::new(|| proc::is_32_bit(process.pid()));
        let ip = |tid: Tid| {
            let registers = ptrace::registers(tid)?;
            obstacles::refuse_program(&registers, || *is_32_bit).map_err(|e| e.in_thread(tid))?;
            if !process.assumes_calls() {
                obstacles::refuse_mask_of_call(process.pid(), tid, &registers)
                    .map_err(|e| e.in_thread(tid))?;
            }
            Ok((tid, registers.ip()))
        };
        let at = process
            .threads()
            .iter()
            .map(|&tid| ip(tid))
            .collect::<Result<Vec<_>>>()?;
        let cave = match Cave::find(memory, &at) {
            Err(e) if matches!(e.cause(), Cause::Os(Errno::EAGAIN)) => {
                left_behind::bring_back(memory, &cave::in_stubs(memory, &at)?)?;
                let at = process.threads().iter().map(|&tid| ip(tid));
                Cave::find(memory, &at.collect::<Result<Vec<_>>>()?)?
            }
            found => found?,
        };
        Ok(Injector {
            process,
            memory,
            cave,
            timers,
            reserved,
            on_their_way: Vec::new(),
            finished: false,
        })
    }

    /// Makes `calls` inside thread `tid`, in order, all of them whatever each returns. Two stops where the
    /// loop can be used, whatever their number.
    ///
    /// # Errors
    /// Only if the calls could not be made; the thread is then as it was before, unless it is gone. What a call
    /// returned is in its [`Outcome`].
    pub fn run(&mut self, tid: Tid, calls: &[Call]) -> Result<Vec<Outcome>> {
        self.run_inner(tid, calls).map_err(|e| e.in_thread(tid))
    }

    /// As [`run`](Self::run), in one batch whatever their number: a thread that has begun with it ends it, so that either
    /// all of the calls are made or none, also if the tracer dies.
    ///
    /// # Errors
    /// Those of [`run`](Self::run). [`Cause::Refused`] if the process can't be given memory for all of them: none is made.
    pub fn run_whole(&mut self, tid: Tid, calls: &[Call]) -> Result<Vec<Outcome>> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        self.visit(tid, touched(calls), |visit| visit.run_whole(calls))
            .map_err(|e| e.in_thread(tid))
    }

    fn run_inner(&mut self, tid: Tid, calls: &[Call]) -> Result<Vec<Outcome>> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        self.visit(tid, touched(calls), |visit| visit.run(calls))
    }

    /// Makes the calls that `next` asks for, given the outcomes of those before, until it asks for none: as
    /// [`run`](Self::run) for each piece, but in one visit to the thread. In a thread with a deep private queue that
    /// counts: each of the visit's own stops is by a signal at that queue's end, which the kernel looks for from its
    /// head (collect_signal).
    ///
    /// Each piece is undone by itself if the tracer dies in it; those before it are not.
    ///
    /// # Errors
    /// Those of [`run`](Self::run), and what `next` says. None of the calls may be one that sends a signal or changes what one does.
    pub fn run_in_pieces(
        &mut self,
        tid: Tid,
        mut next: impl FnMut(Vec<Outcome>) -> Result<Vec<Call>>,
    ) -> Result<()> {
        let mut calls = next(Vec::new())?;
        if calls.is_empty() {
            return Ok(());
        }
        self.visit(tid, SigSet::EMPTY, |visit| {
            while !calls.is_empty() {
                refuse_signals(&calls)?;
                calls = next(visit.run(&calls)?)?;
            }
            Ok(())
        })
        .map_err(|e| e.in_thread(tid))
    }

    /// Makes the same `calls` inside each of `threads`, as [`run`](Self::run) does inside one. While a thread returns
    /// to its stop, the next thread makes the calls; when the function returns, all threads are stopped as before.
    /// `threads` has the status of each thread, read after the process was stopped.
    ///
    /// # Errors
    /// Those of [`run`](Self::run), of the first thread. None of the calls may be one that sends a signal or changes what
    /// one does.
    pub fn run_in_each<'s>(
        &mut self,
        threads: impl IntoIterator<Item = (Tid, &'s SignalStatus)>,
        calls: &[Call],
    ) -> Result<Vec<Vec<Outcome>>> {
        refuse_signals(calls)?;
        let mut on_their_way = Vec::new();
        let mut first = Ok(());
        let mut outcomes = Vec::new();
        for (tid, status) in threads {
            match self.run_and_leave(tid, status, calls, &mut on_their_way) {
                Ok(done) => outcomes.push(done),
                Err(e) => {
                    first = Err(e.in_thread(tid));
                    break;
                }
            }
        }
        for tid in on_their_way {
            first = first.and(self.await_trap(tid));
        }
        first.map(|()| outcomes)
    }

    fn run_and_leave(
        &mut self,
        tid: Tid,
        status: &SignalStatus,
        calls: &[Call],
        on_their_way: &mut Vec<Tid>,
    ) -> Result<Vec<Outcome>> {
        let marker = match status.harmless_signal(self.reserved) {
            // One that comes from elsewhere by now makes no difference either: it is neither blocked nor acted upon.
            Some(marker) if !status.blocked.contains(marker) => Some(marker),
            _ => SignalStatus::read(self.process.pid(), tid)?.harmless_signal(self.reserved),
        };
        let mut visit = self.begin(tid, marker, Some(status))?;
        let done = visit.run(calls);
        let left = visit.leave();
        if left.on_its_way {
            on_their_way.push(tid);
        }
        let done = done?;
        left.done?;
        fault::point(Point::NextThread)?;
        Ok(done)
    }

    /// Waits until all threads that a call was interrupted in ([`interrupt_call`](Self::interrupt_call)) stand as they stood
    /// before.
    ///
    /// # Errors
    /// That of the first one that does not come.
    pub fn settle(&mut self) -> Result<()> {
        let mut first = Ok(());
        for tid in std::mem::take(&mut self.on_their_way) {
            first = first.and(self.await_trap(tid));
        }
        first
    }

    fn await_trap(&self, tid: Tid) -> Result<()> {
        ptrace::await_trap(tid, self.process.patience()).map_err(|e| e.in_thread(tid))
    }

    /// Goes to thread `tid`, which ends what runs there with `marker`. `status`: what was seen of the thread since the process
    /// has been stopped, if anybody has looked.
    fn begin(
        &mut self,
        tid: Tid,
        marker: Option<SigNo>,
        status: Option<&SignalStatus>,
    ) -> Result<Visit<'_>> {
        if let Some(at) = self.on_their_way.iter().position(|one| *one == tid) {
            self.on_their_way.swap_remove(at);
            self.await_trap(tid)?;
        }
        let is_alone = self.process.threads().len() == 1;
        let seen = status.map(|status| Seen { status, is_alone });
        Visit::begin(
            (self.process.pid(), tid),
            self.memory,
            &mut self.cave,
            (marker, seen),
            self.process.patience(),
            self.process.assumes_calls(),
        )
    }

    /// Goes to thread `tid`, does `work` there and comes back. `touched` are the signals that are sent meanwhile, or
    /// given another disposition.
    fn visit<T>(
        &mut self,
        tid: Tid,
        touched: SigSet,
        work: impl FnOnce(&mut Visit<'_>) -> Result<T>,
    ) -> Result<T> {
        let status = SignalStatus::read(self.process.pid(), tid)?;
        let marker = status.harmless_signal(self.reserved.union(touched));
        let mut visit = self.begin(tid, marker, Some(&status))?;
        let done = work(&mut visit);
        let left = visit.end();
        // What went wrong first is what the reader needs.
        let done = done?;
        left?;
        Ok(done)
    }

    /// Makes `call` inside thread `tid`, and interrupts it as soon as it waits. Leaves the thread with the registers
    /// that `then` makes of its own ones and the call's result; where that is -ERESTART_RESTARTBLOCK, the kernel has
    /// noted down in the thread what restart_syscall(2) needs, as if the program had made the call. That includes the
    /// table in which restart_syscall(2) is looked up, which is the call's own (arch/x86/kernel/signal.c,
    /// get_nr_restart_syscall).
    ///
    /// While the thread goes back into its stop, it can be the next one's turn: [`settle`](Self::settle) waits for all of
    /// them.
    ///
    /// # Errors
    /// If the call could not be made; the thread is then as it was before, unless it is gone.
    pub fn interrupt_call(
        &mut self,
        tid: Tid,
        call: &Call,
        then: impl FnOnce(Registers, i64) -> Registers,
    ) -> Result<i64> {
        self.interrupt_and_leave(tid, call, then)
            .map_err(|e| e.in_thread(tid))
    }

    fn interrupt_and_leave(
        &mut self,
        tid: Tid,
        call: &Call,
        then: impl FnOnce(Registers, i64) -> Registers,
    ) -> Result<i64> {
        // A call that needs no memory runs between two stops of its own: nothing has to say that it is through.
        let marker = if read_in_stub(call, self.cave.address()).is_some() {
            None
        } else {
            SignalStatus::read(self.process.pid(), tid)?.harmless_signal(self.reserved)
        };
        let mut visit = self.begin(tid, marker, None)?;
        let done = visit.make_and_interrupt(call, then);
        let left = visit.leave();
        drop(visit);
        if left.on_its_way {
            self.on_their_way.push(tid);
        }
        let result = done?;
        left.done?;
        Ok(result)
    }

    /// Puts the mask `of_call` into force in thread `tid`, above the thread's own mask, as a system call of the thread had set it
    /// for its time. The thread's registers stay: whatever becomes of the call, the thread gets its own mask back with that.
    ///
    /// # Errors
    /// If calls could not be made; the thread then has its own mask in force, unless it is gone.
    pub(crate) fn put_back_mask_of_call(&mut self, tid: Tid, of_call: SigSet) -> Result<()> {
        let mut visit = self.begin(tid, None, None)?;
        visit.mask_of_call = Some(of_call);
        visit.end().map_err(|e| e.in_thread(tid))
    }

    /// Leaves the thread in `call`, as if that had been interrupted with `code`. Where registers alone say nothing of that, the
    /// thread is taken to the exit of a call.
    ///
    /// # Errors
    /// If the thread could not be changed.
    pub fn leave_in_call(
        &mut self,
        tid: Tid,
        call: &InterruptedCall,
        code: RestartCode,
    ) -> Result<()> {
        if !Registers::STOP_HIDES_CALL {
            let registers = ptrace::registers(tid)?;
            return shield::set(tid, &registers, call, code);
        }
        let leave = |this: &mut Self| {
            let mut visit = this.begin(tid, None, None)?;
            let changed = visit.change_call(visit.saved.interrupted_in(call, code));
            changed.and(visit.end())
        };
        leave(self).map_err(|e| e.in_thread(tid))
    }

    /// Makes each thread trap once, so that no trap of a SIGCONT is due any more. A SIGCONT that arrives while the
    /// process is traced (from a timer of the process, for example) makes each thread trap as soon as the thread is
    /// resumed, whether SIGCONT is blocked or not (kernel/signal.c, `prepare_signal`; kernel/ptrace.c,
    /// `ptrace_trap_notify`). CRIU would take that trap for an interruption of the code that it runs in the thread.
    ///
    /// # Errors
    /// If a thread can't be visited.
    pub(crate) fn trap_after_sigcont(&mut self) -> Result<()> {
        for &tid in self.process.threads() {
            let nothing = Call::new(libc::SYS_getpid, "getpid");
            for outcome in self.run(tid, &[nothing])? {
                outcome.check()?;
            }
        }
        Ok(())
    }

    /// The process's memory.
    pub(crate) fn memory(&self) -> &'p Memory {
        self.memory
    }

    /// The POSIX timers that the process had when this was made.
    pub(crate) fn first_timers(&self) -> &[TimerLine] {
        &self.timers
    }

    /// The process that it works on.
    pub fn process(&self) -> &'p StoppedProcess<Owner> {
        self.process
    }

    /// Takes away the stub.
    ///
    /// # Errors
    /// If it could not be taken away.
    pub fn finish(mut self) -> Result<()> {
        self.finished = true;
        let settled = self.settle();
        self.cave.clear(self.memory)?;
        settled?;
        fault::point(Point::StubCleared)
    }
}

/// What `call` reads, if the stub at `at` has room for that, and the call needs no other memory.
fn read_in_stub(call: &Call, at: u64) -> Option<[u8; INPUT_ROOM]> {
    // A call of the 32-bit table has addresses of 32 bits.
    if call.is_compat() && u32::try_from(at + Stub::len() as u64).is_err() {
        return None;
    }
    let bytes = call.only_input(INPUT_ROOM)?;
    let mut input = [0; INPUT_ROOM];
    input[..bytes.len()].copy_from_slice(bytes);
    Some(input)
}

/// The marker is chosen before it is known which signals such calls touch.
fn refuse_signals(calls: &[Call]) -> Result<()> {
    if calls.iter().any(|call| call.touches().is_some()) {
        return Err(Error::new(
            "make system calls",
            Cause::Unexpected("a call would send a signal or change a disposition".into()),
        ));
    }
    Ok(())
}

impl<Owner> Drop for Injector<'_, Owner> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let settled = self.settle();
        for (what, done) in [
            ("threads that return from injected code", settled),
            ("removing the injected code", self.cave.clear(self.memory)),
        ] {
            if let Err(e) = done
                && !e.is_died()
            {
                log::error!("pid {}: {what}: {e}", self.process.pid());
            }
        }
    }
}

/// The signals that the marker must not be. The marker is not blocked, so a marker that a call queues would be
/// delivered at once. A call must not change the disposition of the marker either: if the tracer dies, the marker is
/// delivered.
fn touched(calls: &[Call]) -> SigSet {
    calls.iter().filter_map(Call::touches).collect()
}

/// A thread that makes injected calls: [`Visit::begin`] saves the state of the thread, [`Visit::end`] restores it, and
/// `Drop` restores it after an error.
struct Visit<'i> {
    pid: Pid,
    tid: Tid,
    memory: &'i Memory,
    cave: &'i mut Cave,
    saved: Registers,
    mask: SigSet,
    /// The mask that the interrupted system call (ppoll(2), for example) has set for its duration.
    mask_of_call: Option<SigSet>,
    /// The mask has been replaced by PTRACE_SETSIGMASK.
    is_masked: bool,
    rseq: Option<Rseq>,
    /// The byte of the program's that would have Syscall User Dispatch block the calls.
    selector: Option<RemoteAddr>,
    stub: Stub,
    marker: Option<SigNo>,
    /// How long a stop of the thread is waited for.
    patience: Duration,
    /// Memory that calls may read and write. It does not outlive the visit: between two of them the tracer could
    /// die, and no code of ours would be left to take it away.
    scratch: Option<RemoteAddr>,
    /// How much of it there is.
    scratch_len: usize,
    /// The signal that the thread has stopped for, 0 for none. The signal is lost unless the thread is resumed with it.
    owed: i32,
    /// The thread did not stop in time, and is somewhere in the stub.
    adrift: bool,
    /// It stands in the trap of a PTRACE_INTERRUPT, as it does when it is left.
    in_trap: bool,
    ended: bool,
}

/// What was seen of a thread since its process has been stopped.
#[derive(Clone, Copy)]
struct Seen<'s> {
    status: &'s SignalStatus,
    /// The process has no other thread.
    is_alone: bool,
}

/// How a thread was left.
struct Left {
    done: Result<()>,
    /// It is to trap once more, and [`ptrace::await_trap`] waits for that.
    on_its_way: bool,
}

/// A restartable sequence that the thread is in: `struct rseq`'s `rseq_cs`, which the kernel clears as soon as
/// the thread is seen outside of it.
struct Rseq {
    field: RemoteAddr,
    cs: u64,
}

/// Offset of `rseq_cs` in `struct rseq`, and of start, length and abort address in `struct rseq_cs`
/// (linux/rseq.h).
const RSEQ_CS: usize = 8;
const RSEQ_CS_START: usize = 8;
const RSEQ_CS_LEN: usize = 16;
const RSEQ_CS_ABORT: usize = 24;

impl<'i> Visit<'i> {
    fn begin(
        (pid, tid): (Pid, Tid),
        memory: &'i Memory,
        cave: &'i mut Cave,
        (marker, seen): (Option<SigNo>, Option<Seen<'_>>),
        patience: Duration,
        assumes_calls: bool,
    ) -> Result<Self> {
        let saved = registers_in_stop(tid)?;
        let mask = ptrace::signal_mask(tid)?;
        let mask_of_call = shield::mask_of_call(
            (pid, tid),
            &saved,
            mask,
            seen.map(|seen| seen.status.blocked),
        )?;
        obstacles::refuse_denied_key(tid)?;
        let selector = obstacles::selector(tid, memory, assumes_calls)?;
        let rseq = read_rseq(tid, memory)?;
        // Without a tracer nobody would put rseq_cs back, so the sequence is aborted, as after any preemption.
        let resume_ip = match &rseq {
            Some(rseq) => abort_address(memory, rseq.cs, saved.ip())?,
            None => None,
        };
        let mut stub = Stub::new(cave.address(), &saved, resume_ip, mask, marker);
        stub.set_selector(selector.map_or(0, |at| at.0));
        // Should the tracer die, the handler runs in the stub, and the kernel does not see which call it ends.
        let ended = seen
            .and_then(|seen| shield::ended_by_handler(&saved, seen.status, mask, seen.is_alone));
        if let Some(call) = ended {
            stub.set_call(&saved.returned_from(&call, -i64::from(libc::EINTR)));
        }
        let mut visit = Visit {
            tid,
            memory,
            cave,
            pid,
            saved,
            mask,
            mask_of_call,
            is_masked: false,
            rseq,
            selector,
            stub,
            marker,
            patience,
            scratch: None,
            scratch_len: SCRATCH_LEN as usize,
            owed: 0,
            adrift: false,
            in_trap: false,
            ended: true,
        };
        visit.cave.write(visit.memory, &visit.stub)?;
        fault::point(Point::StubWritten)?;
        // Should the tracer die before there is work, this is what the thread does.
        let idle = visit.idle();
        visit.ended = false;
        visit.select(SYSCALL_DISPATCH_FILTER_ALLOW)?;
        ptrace::set_registers(tid, &idle)?;
        fault::point(Point::RegistersSet)?;
        let blocked = match marker {
            Some(marker) => SigSet::FULL.without(marker),
            None => SigSet::FULL,
        };
        visit.is_masked = true;
        ptrace::set_signal_mask(tid, blocked)?;
        fault::point(Point::MaskSet)?;
        Ok(visit)
    }

    /// The thread on its way back into the program, without a call for the tracer.
    fn idle(&self) -> Registers {
        match self.scratch {
            None => self.saved.for_batch(self.stub.back_entry(), 0, 0),
            // By way of that memory, which is taken away.
            Some(at) => self
                .saved
                .for_single(&self.stub, false, libc::SYS_getpid, [0; 6])
                .holding(Some(at.0)),
        }
    }

    /// Lets Syscall User Dispatch allow or block calls, where it has to be told. The thread stands meanwhile where it makes
    /// no call and puts that right by itself.
    fn select(&self, what: u8) -> Result<()> {
        let Some(at) = self.selector else {
            return Ok(());
        };
        let leaving = self.saved.for_batch(self.stub.leave_entry(), 0, 0);
        ptrace::set_registers(self.tid, &leaving)?;
        self.memory.write_program(at, &[what])
    }

    /// Steps 5 and 6 of the module's text.
    fn end(mut self) -> Result<()> {
        self.put_back()
    }

    fn put_back(&mut self) -> Result<()> {
        let left = self.leave();
        let trapped = if left.on_its_way {
            ptrace::await_trap(self.tid, self.patience)
        } else {
            Ok(())
        };
        left.done.and(trapped)
    }

    /// Steps 5 and 6, but the trap is still to be waited for. The thread has no more to do with the stub.
    ///
    /// Where a panic ends it before the thread is on its way, `Drop` does all of it again: each step can be repeated.
    fn leave(&mut self) -> Left {
        // Whatever there was to be waited for before, this is.
        let _undo = Budget::of_undo();
        if self.adrift || !self.is_stopped() {
            self.ended = true;
            return self.abandon();
        }
        let unmapped = self.unmap_scratch();
        let mut left = if unmapped.is_err() && (self.adrift || !self.is_stopped()) {
            self.abandon()
        } else {
            self.go_back()
        };
        left.done = left.done.and(unmapped);
        self.ended = true;
        left
    }

    /// False if the thread is not in a stop, because a freezer holds it, for example. A dead thread counts as stopped.
    fn is_stopped(&self) -> bool {
        match ptrace::registers_now(self.tid) {
            Err(e) if e.is_died() => ptrace::is_dead(self.tid),
            _ => true,
        }
    }

    /// Detaches a thread that is somewhere in the stub and cannot go on: a freezer or another program holds it. Such a
    /// thread can be stopped and detached (except under a freezer of cgroup v1), but it cannot execute anything. So the
    /// thread is left as after the death of its tracer: when it runs again, it completes or undoes the batch that was
    /// begun, and returns to the program.
    fn abandon(&mut self) -> Left {
        self.cave.leave();
        // One that is not stopped is detached when this tracer ends.
        let done = ptrace::interrupt(self.tid).and_then(|()| self.stop_adrift());
        Left {
            done,
            on_its_way: false,
        }
    }

    /// Waits until the thread has trapped after PTRACE_INTERRUPT, so that the tracer holds no signal of the thread.
    fn stop_adrift(&mut self) -> Result<()> {
        let deadline = Instant::now() + FREEZER;
        if std::mem::take(&mut self.adrift) {
            self.resume(Resume::Run)?;
        }
        for _ in 0..FOREIGN {
            // The trap comes before anything else is dequeued.
            match ptrace::wait_stop(self.tid, deadline)? {
                Stop::Event(_) => return Ok(()),
                Stop::Signal(signal) => self.owed = signal,
                Stop::Syscall | Stop::OtherEvent(_) => {}
            }
            self.resume(Resume::Run)?;
        }
        Err(Error::os("stop in the stub", Errno::ETIMEDOUT))
    }

    /// Lets the thread go on, with the signal that it has stopped for.
    fn resume(&mut self, how: Resume) -> Result<()> {
        self.in_trap = false;
        ptrace::resume(self.tid, how, std::mem::take(&mut self.owed))
    }

    /// Lets the thread go on to its next stop. Where the bound does not allow that, it is adrift.
    fn step(&mut self, how: Resume, bound: &mut Bound) -> Result<Stop> {
        if let Err(e) = bound.one_more() {
            self.adrift = true;
            return Err(e);
        }
        self.resume(how)?;
        let stop = wait_stop(self.tid, bound.deadline())?;
        self.in_trap = matches!(stop, Stop::Event(_));
        if let Stop::Signal(signal) = stop {
            self.owed = signal;
        }
        Ok(stop)
    }

    fn go_back(&mut self) -> Left {
        // What fails does not keep the rest from being put back.
        let mut first = Ok(());
        let mut note = |done: Result<()>| {
            if first.is_ok() {
                first = done;
            }
        };
        if let Some(rseq) = &self.rseq {
            note(self.memory.write(rseq.field, &rseq.cs.to_le_bytes()));
        }
        // With its own mask the thread runs handlers first, should the tracer die. Those of a 32-bit program do not keep the
        // registers by which the stub goes on.
        if self.saved.is_compat() && self.scratch.is_none() {
            note(ptrace::set_registers(self.tid, &self.idle()));
        }
        let mut is_in_call = self.saved.is_interrupted();
        if is_in_call {
            let there = self.go_to_exit();
            if there.is_err() {
                is_in_call = false;
                self.saved = self.saved.made_once_more();
            }
            note(there);
        }
        let both = match self.mask_of_call {
            Some(mask)
                if shield::KEEPS_MASKS_OF_CALLS && self.is_masked && self.scratch.is_none() =>
            {
                Some(self.put_back_mask_of_call(mask))
            }
            _ => None,
        };
        if self.adrift {
            self.ended = true;
            return self.abandon();
        }
        if self.is_masked && !matches!(both, Some(Ok(()))) {
            note(ptrace::put_back_signal_mask(self.tid, self.mask));
        }
        note(both.unwrap_or(Ok(())));
        note(fault::point(Point::MaskBack));
        note(self.select(SYSCALL_DISPATCH_FILTER_BLOCK));
        note(ptrace::put_back_registers(
            self.tid,
            &self.saved.to_give_back(),
        ));
        note(fault::point(Point::RegistersBack));
        // From here on it is not in the stub any more.
        self.ended = true;
        if self.in_trap || is_in_call {
            return Left {
                done: first,
                on_its_way: false,
            };
        }
        let resumed = ptrace::interrupt(self.tid).and_then(|()| self.resume(Resume::Run));
        let on_its_way = resumed.is_ok();
        note(resumed);
        if on_its_way {
            note(fault::point(Point::LetGo));
        }
        Left {
            done: first,
            on_its_way,
        }
    }

    /// Puts back the mask `of_call`, and beneath it the thread's own. Only a call can set both masks; ppoll(2) does so and, as the
    /// program's call did when the thread was stopped, leaves them to the handler of a signal that is due (`set_user_sigmask`,
    /// `restore_saved_sigmask_unless`). With an interrupt pending and nothing to wait for the call ends there; without an interrupt,
    /// as after the death of the tracer, the call gives the thread its own mask.
    fn put_back_mask_of_call(&mut self, of_call: SigSet) -> Result<()> {
        let reads = self.stub.set_mask_of_call(of_call);
        self.cave.write(self.memory, &self.stub)?;
        self.enter_syscall(&self.saved.for_ppoll(&self.stub, reads))?;
        // Not before: a handler that is due would run on the way to the call.
        let own = ptrace::put_back_signal_mask(self.tid, self.mask);
        let passed = fault::point(Point::MaskOfCallAsked);
        // A call that was begun is ended.
        let trapped = ptrace::interrupt(self.tid).and_then(|()| self.run_to_trap());
        own.and(passed)?;
        trapped?;
        let in_force = SignalStatus::read(self.pid, self.tid)?.blocked;
        if in_force == of_call && ptrace::signal_mask(self.tid)? == self.mask {
            return Ok(());
        }
        let why = Cause::NotKept("the kernel has not kept the mask of the call in force".into());
        Err(Error::new("put back the mask of a system call", why))
    }

    /// To the exit of a call that does nothing and has the first argument of the program's, so that the kernel takes the one for the
    /// other. The interrupt has it look for signals when the thread goes on.
    fn go_to_exit(&mut self) -> Result<()> {
        let args = self.saved.call_args();
        let registers = self
            .saved
            .for_single(&self.stub, false, libc::SYS_getpid, args);
        let registers = registers.holding(self.scratch.map(|at| at.0));
        self.enter_syscall(&registers)?;
        self.leave_syscall()?;
        ptrace::interrupt(self.tid)
    }

    /// Makes `calls`, in as many rounds as the room for them asks for.
    fn run(&mut self, calls: &[Call]) -> Result<Vec<Outcome>> {
        if let Some(outcomes) = self.glance(calls)? {
            return Ok(outcomes);
        }
        self.map_scratch()?;
        let mut outcomes = Vec::with_capacity(calls.len());
        let mut rest = calls;
        while !rest.is_empty() {
            let (at, room) = match self.scratch {
                Some(at) => (at, self.scratch_len),
                None => (self.stack_room(), BORROWED),
            };
            let (layout, later) = Layout::new(rest, at, room)?;
            if self.scratch.is_some() {
                outcomes.extend(self.run_loop(&layout, at)?);
            } else {
                let mut saved = vec![0; BORROWED];
                self.memory.read(at, &mut saved)?;
                let done = self.run_singly(&layout, at);
                self.memory.write(at, &saved)?;
                outcomes.extend(done?);
            }
            rest = later;
        }
        Ok(outcomes)
    }

    /// Makes `calls` in one round: nothing has been mapped in this visit.
    fn run_whole(&mut self, calls: &[Call]) -> Result<Vec<Outcome>> {
        let len = room_for(calls)
            .next_multiple_of(PAGE)
            .max(SCRATCH_LEN as usize);
        let Ok(mapped) = u32::try_from(len) else {
            return Err(no_room(calls, len, Errno::E2BIG));
        };
        self.scratch_len = len;
        if self.stub.set_scratch_len(mapped) {
            self.cave.write(self.memory, &self.stub)?;
        }
        if let Some(errno) = self.map_scratch()? {
            return Err(no_room(calls, len, errno));
        }
        self.run(calls)
    }

    /// Where mmap is refused, which it says by the errno, there is no scratch memory afterwards, and a part of the thread's
    /// stack below the red zone has to do.
    fn map_scratch(&mut self) -> Result<Option<Errno>> {
        if self.scratch.is_some() {
            return Ok(None);
        }
        let args = self.scratch_args();
        let registers = self.saved.for_map(&self.stub, args);
        ptrace::set_registers(self.tid, &registers)?;
        let ended = self.run_to_end(1);
        // Whatever failed, what has been mapped is known, so that it is taken away.
        let result = match ptrace::registers(self.tid) {
            Ok(now) => now.mapped(),
            // It has not stopped: why not is what the reader needs.
            Err(e) => return Err(ended.err().unwrap_or(e)),
        };
        if let Some(errno) = errno_in(result) {
            ended?;
            log::debug!("tid {}: mmap of scratch memory: {errno}", self.tid);
            return Ok(Some(errno));
        }
        self.scratch = Some(RemoteAddr(result.cast_unsigned()));
        ended?;
        fault::point(Point::ScratchMapped)?;
        Ok(None)
    }

    /// The arguments of mmap(2) for it.
    fn scratch_args(&self) -> [u64; 6] {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        [
            0,
            self.scratch_len as u64,
            number(prot),
            number(flags),
            u64::MAX,
            0,
        ]
    }

    /// Two small calls, in one stop: the rest of a visit has more of them than one thread of many is worth. `None` where
    /// that can't be, or has not worked.
    fn glance(&mut self, calls: &[Call]) -> Result<Option<Vec<Outcome>>> {
        let Some(glance) = Glance::from_calls(calls) else {
            return Ok(None);
        };
        if self.scratch.is_some() || self.saved.is_compat() {
            return Ok(None);
        }
        let (entry, args) = (self.stub.glance_entry(), self.scratch_args());
        let registers = self.saved.for_glance(entry, args, glance.calls());
        ptrace::set_registers(self.tid, &registers)?;
        fault::point(Point::GlanceReady)?;
        let found = self.run_to_end(GLANCED)?.glanced();
        fault::point(Point::GlanceDone)?;
        Ok(glance.outcomes(found))
    }

    fn unmap_scratch(&mut self) -> Result<()> {
        let Some(at) = self.scratch else {
            return Ok(());
        };
        // It is in that memory.
        self.name_undo((0, 0))?;
        let registers = self
            .saved
            .for_batch(self.stub.unmap_entry(), 0, 0)
            .holding(Some(at.0));
        ptrace::set_registers(self.tid, &registers)?;
        self.run_to_end(1)?;
        self.scratch = None;
        // Nobody else maps anything: all threads stand still.
        if self.memory.read(at, &mut [0]).is_ok() {
            let why = Cause::NotKept("the memory is still mapped".into());
            return Err(Error::new("unmap scratch memory", why));
        }
        fault::point(Point::ScratchUnmapped)
    }

    fn stack_room(&self) -> RemoteAddr {
        RemoteAddr((self.saved.sp() - RED_ZONE - BORROWED as u64) & !15)
    }

    /// The whole table in one go.
    fn run_loop(&mut self, layout: &Layout<'_>, at: RemoteAddr) -> Result<Vec<Outcome>> {
        // The outcome of the last round is known here, and its table gives way to this one's.
        self.name_undo((0, 0))?;
        self.memory.write(at, layout.bytes())?;
        fault::point(Point::TableWritten)?;
        let (start, end) = layout.table();
        let registers = self
            .saved
            .for_batch(self.stub.batch_entry(), start, end)
            .holding(Some(at.0));
        ptrace::set_registers(self.tid, &registers)?;
        // Only now, when the thread is sure to run the batch first: what was not done must not be undone.
        self.name_undo(layout.undo())?;
        fault::point(Point::BatchReady)?;
        if !self.run_to_end(layout.calls().len())?.batch_is_through() {
            return Err(Error::new(
                "run the batch",
                Cause::Unexpected("the thread left the batch early".into()),
            ));
        }
        fault::point(Point::BatchDone)?;
        let mut after = vec![0; layout.read_back()];
        self.memory.read(at, &mut after)?;
        fault::point(Point::OutcomesRead)?;
        Ok(layout.outcomes(&after))
    }

    /// Tells the stub which table undoes what the batch does.
    fn name_undo(&mut self, (start, end): (u64, u64)) -> Result<()> {
        if self.stub.set_undo(start, end) {
            self.cave.write(self.memory, &self.stub)?;
        }
        Ok(())
    }

    /// Runs the stub until it says that it is through, which takes so many system calls. Returns the registers then.
    fn run_to_end(&mut self, calls: usize) -> Result<Registers> {
        // Its own calls are fewer than a dozen.
        let mut bound = Bound::new(self.tid, "run the injected code", self.patience, calls + 12);
        match self.marker {
            Some(marker) => self.run_to_marker(marker, &mut bound),
            None => self.run_to_through(&mut bound),
        }
    }

    /// Without a marker: from one system call to the next. The thread goes its own way all the same, so that it ends what
    /// it has begun if the tracer dies; and for the tracer, too, what was begun is ended before it hears of a fault.
    fn run_to_through(&mut self, bound: &mut Bound) -> Result<Registers> {
        let mut passed = Ok(());
        loop {
            self.run_to_syscall_stop(bound)?;
            let is_last = ptrace::registers(self.tid)?.ip() == self.stub.through();
            if !is_last {
                passed = passed.and_then(|()| fault::point(Point::CallEntered));
            }
            self.run_to_syscall_stop(bound)?;
            if is_last {
                passed?;
                return ptrace::registers(self.tid);
            }
            passed = passed.and_then(|()| fault::point(Point::CallLeft));
        }
    }

    fn run_to_marker(&mut self, marker: SigNo, bound: &mut Bound) -> Result<Registers> {
        let mut foreign = 0;
        loop {
            let stop = self.step(Resume::Run, bound)?;
            // SIGSTOP cannot be blocked. It takes effect now; the thread works on within the group stop.
            if stop != Stop::Signal(marker.get()) {
                continue;
            }
            let now = ptrace::registers(self.tid)?;
            // Without room for its siginfo it comes as if from nobody (collect_signal).
            let is_own = ptrace::stop_reason(self.tid)?.is_some_and(|reason| {
                reason.code == libc::SI_TKILL || reason.code == libc::SI_USER && reason.sender == 0
            });
            let is_through = now.ip() == self.stub.batch_end();
            foreign += 1;
            if is_through && (is_own || !self.mask.contains(marker)) {
                self.owed = 0;
                return Ok(now);
            }
            // Somebody else's. Where the program does not block it, it would have been ignored.
            if !self.mask.contains(marker) && foreign < FOREIGN {
                self.owed = 0;
                continue;
            }
            self.do_without_marker(now)?;
            if is_through {
                return Ok(now);
            }
            return self.run_to_through(bound);
        }
    }

    /// Somebody else sends the signal that is the marker. From here on all signals are blocked, this one goes back into its
    /// queue, and the stub says in the other way that it is through.
    fn do_without_marker(&mut self, now: Registers) -> Result<()> {
        self.marker = None;
        self.stub.set_marker(None);
        self.cave.write(self.memory, &self.stub)?;
        ptrace::set_signal_mask(self.tid, SigSet::FULL)?;
        // Behind the call at which the tracer would see that it is through: that is made once more.
        let behind = self.stub.through()..self.stub.batch_end();
        if behind.contains(&now.ip()) {
            ptrace::set_registers(self.tid, &now.going_on_at(self.stub.finish()))?;
        }
        Ok(())
    }

    /// One call after the other, two stops each.
    fn run_singly(&mut self, layout: &Layout<'_>, at: RemoteAddr) -> Result<Vec<Outcome>> {
        self.memory.write(at, layout.bytes())?;
        let mut results = Vec::with_capacity(layout.calls().len());
        for (row, call) in layout.calls().iter().enumerate() {
            self.enter_syscall(&self.registers_for(call, layout.args(row)))?;
            // A call that was begun is ended, or the next one would take its exit for its own entry.
            let passed = fault::point(Point::CallEntered);
            results.push(self.leave_syscall()?);
            passed?;
            fault::point(Point::CallLeft)?;
        }
        let mut after = vec![0; layout.bytes().len()];
        self.memory.read(at, &mut after)?;
        Ok(results
            .iter()
            .enumerate()
            .map(|(row, &result)| layout.outcome(row, result, &after))
            .collect())
    }

    /// The thread before it makes this one call.
    fn registers_for(&self, call: &Call, args: [u64; 6]) -> Registers {
        let registers = self
            .saved
            .for_single(&self.stub, call.is_compat(), call.nr(), args);
        registers.holding(self.scratch.map(|at| at.0))
    }

    fn enter_syscall(&mut self, registers: &Registers) -> Result<()> {
        ptrace::set_registers(self.tid, registers)?;
        let mut bound = Bound::new(self.tid, "enter an injected system call", self.patience, 1);
        self.run_to_syscall_stop(&mut bound)
    }

    fn leave_syscall(&mut self) -> Result<i64> {
        let mut bound = Bound::new(self.tid, "leave an injected system call", self.patience, 1);
        self.run_to_syscall_stop(&mut bound)?;
        Ok(ptrace::registers(self.tid)?.result())
    }

    fn make_and_interrupt(
        &mut self,
        call: &Call,
        then: impl FnOnce(Registers, i64) -> Registers,
    ) -> Result<i64> {
        let result = match read_in_stub(call, self.cave.address()) {
            Some(input) => {
                let args = call.args_reading(self.stub.set_input(input));
                self.cave.write(self.memory, &self.stub)?;
                self.interrupted_syscall(&self.registers_for(call, args), then)
            }
            None => self.make_in_scratch_and_interrupt(call, then),
        };
        fault::point(Point::CallInterrupted)?;
        result
    }

    fn make_in_scratch_and_interrupt(
        &mut self,
        call: &Call,
        then: impl FnOnce(Registers, i64) -> Registers,
    ) -> Result<i64> {
        self.map_scratch()?;
        let (at, room) = match self.scratch {
            Some(at) => (at, self.scratch_len),
            None => (self.stack_room(), BORROWED),
        };
        let (layout, _) = Layout::new(std::slice::from_ref(call), at, room)?;
        let mut saved = vec![0; layout.bytes().len()];
        self.memory.read(at, &mut saved)?;
        self.memory.write(at, layout.bytes())?;
        let result = self.interrupted_syscall(&self.registers_for(call, layout.args(0)), then);
        self.memory.write(at, &saved)?;
        result
    }

    /// The interrupt is asked for while the thread stands at the entry, so it is there already when the call would
    /// wait. Then the thread must not stay in the call: without a tracer the kernel would go on with it here, for as long
    /// as it takes, and with all signals blocked.
    fn interrupted_syscall(
        &mut self,
        registers: &Registers,
        then: impl FnOnce(Registers, i64) -> Registers,
    ) -> Result<i64> {
        self.enter_syscall(registers)?;
        ptrace::interrupt(self.tid)?;
        let result = if Registers::TRAP_KEEPS_RESULT {
            self.run_to_trap()?
        } else {
            self.leave_syscall()?
        };
        ptrace::set_registers(self.tid, &self.idle())?;
        // From here on the thread goes on with the rest of the time, also if the tracer dies, unless its way back clears that.
        self.change_call(then(self.saved, result))?;
        Ok(result)
    }

    /// The thread goes on with these registers, which differ from its own in what becomes of the system call that it was in.
    fn change_call(&mut self, registers: Registers) -> Result<()> {
        self.saved = registers;
        self.stub.set_call(&registers);
        self.cave.write(self.memory, &self.stub)
    }

    /// Ends the call, and stands in the trap that was asked for.
    fn run_to_trap(&mut self) -> Result<i64> {
        let mut bound = Bound::new(self.tid, "leave an injected system call", self.patience, 1);
        while !matches!(self.step(Resume::Run, &mut bound)?, Stop::Event(_)) {}
        Ok(ptrace::registers(self.tid)?.result())
    }

    fn run_to_syscall_stop(&mut self, bound: &mut Bound) -> Result<()> {
        while self.step(Resume::ToSyscall, bound)? != Stop::Syscall {}
        Ok(())
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if !self.ended
            && let Err(e) = self.put_back()
            && !e.is_died()
        {
            log::error!("tid {}: putting back registers and mask: {e}", self.tid);
        }
    }
}

/// Waits for a stop of the thread, which comes in no time unless a freezer holds it.
fn wait_stop(tid: Tid, deadline: Instant) -> Result<Stop> {
    loop {
        let slice = deadline.min(Instant::now() + FREEZER);
        match ptrace::wait_stop(tid, slice) {
            Err(e) if matches!(e.cause(), Cause::Os(Errno::ETIMEDOUT)) => {
                if proc::is_held(Pid::from(tid)) {
                    let what = "wait for the stop (the cgroup was frozen meanwhile: the work begun in the thread ends \
                                or is undone when the cgroup is thawed)";
                    return Err(Error::os(what, Errno::ETIMEDOUT));
                }
                if Instant::now() >= within_budget(deadline) {
                    return Err(e);
                }
            }
            other => return other,
        }
    }
}

/// The registers of a stopped thread. At the entry and the exit of a system call some may be hidden: then those of the trap that comes
/// next, but in the call that the thread is in.
fn registers_in_stop(tid: Tid) -> Result<Registers> {
    let found = ptrace::registers(tid)?;
    if !Registers::STOP_HIDES_CALL || !ptrace::is_at_syscall(tid)? {
        return Ok(found);
    }
    reentry::trap(tid)?;
    let now = ptrace::registers(tid)?;
    Ok(match shield::in_call(&found) {
        Some((call, result)) if found.is_interrupted() => {
            let code = RestartCode::from_result(result).unwrap_or(call.code);
            now.interrupted_in(&call, code)
        }
        _ => now,
    })
}

/// `rseq_cs`, if the thread has registered an area and stands in a sequence.
fn read_rseq(tid: Tid, memory: &Memory) -> Result<Option<Rseq>> {
    let Some(area) = ptrace::rseq_area(tid)? else {
        return Ok(None);
    };
    let field = RemoteAddr(area).offset(RSEQ_CS);
    let cs = memory.read_u64(field)?;
    Ok((cs != 0).then_some(Rseq { field, cs }))
}

/// Where the sequence `cs` is aborted to, if `ip` is inside it.
fn abort_address(memory: &Memory, cs: u64, ip: u64) -> Result<Option<u64>> {
    let field = |offset| memory.read_u64(RemoteAddr(cs).offset(offset));
    let start = field(RSEQ_CS_START)?;
    let inside = ip.wrapping_sub(start) < field(RSEQ_CS_LEN)?;
    Ok(if inside {
        Some(field(RSEQ_CS_ABORT)?)
    } else {
        None
    })
}

fn no_room(calls: &[Call], len: usize, errno: Errno) -> Error {
    let why = format!(
        "a batch of {} system calls needs {len} bytes of memory in the process, and mmap failed with {errno}",
        calls.len()
    );
    Error::new("map memory", Cause::Refused(why.into()))
}

fn number(flags: i32) -> u64 {
    u64::from(flags.cast_unsigned())
}
