//! System calls made inside a stopped thread, and nothing left of it.
//!
//! One thread at a time. The order below is what makes the death of the tracer harmless at every instant:
//!
//! 1. The stub is written into unused bytes ([`super::cave`]); the program does not notice.
//! 2. PTRACE_SETREGS puts the thread onto the stub. From here on, without a tracer, it runs the system call
//!    that is in its registers, puts back its mask and registers, and goes on in the program.
//! 3. PTRACE_SETSIGMASK blocks everything, so that nothing is delivered while the thread is not itself.
//! 4. The work.
//! 5. PTRACE_SETSIGMASK puts back the mask, then PTRACE_SETREGS the registers.
//! 6. PTRACE_INTERRUPT and PTRACE_CONT: the thread traps again before it executes anything, and stands as it
//!    stood before, in a PTRACE_EVENT_STOP in which the kernel will still restart what was interrupted.
//!
//! What is not as before: a mask that sigsuspend(2), ppoll(2) and their like had saved is the mask in force now
//! (PTRACE_SETSIGMASK drops the distinction), which nobody can tell, because the call is restarted and sets its
//! own mask again. CRIU does the same to every thread that it dumps.

use criu_signals_images::{SigNo, SigSet, Tid};
use nix::errno::Errno;

use super::batch::{Call, Layout, Outcome};
use super::cave::Cave;
use super::memory::{Memory, RemoteAddr};
use super::ptrace::{self, Resume, Stop};
use super::stopped::StoppedProcess;
use crate::arch::{Registers, Stub};
use crate::error::{Cause, Error, Result};
use crate::proc::SignalStatus;

/// How much scratch memory is mapped, in bytes. A longer batch runs in several rounds.
const SCRATCH: usize = 256 * 1024;
/// How much of a thread's stack serves instead where nothing can be mapped.
const BORROWED: usize = 1024;
/// What the ABI lets a function use below the stack pointer without moving it.
const RED_ZONE: u64 = 128;

/// Memory of the tracee that calls may read and write.
#[derive(Debug)]
enum Scratch {
    /// A mapping of our own, kept for the whole process until [`Injector::finish`].
    Mapped(RemoteAddr),
    /// mmap was refused: a part of the thread's stack below the red zone, put back after each round.
    Refused,
}

/// Makes system calls inside the threads of one stopped process.
#[derive(Debug)]
pub struct Injector<'p, Owner> {
    process: &'p StoppedProcess<Owner>,
    memory: Memory,
    cave: Cave,
    scratch: Option<Scratch>,
    finished: bool,
}

impl<'p, Owner> Injector<'p, Owner> {
    /// Prepares; changes nothing in the process.
    ///
    /// # Errors
    /// If the process's memory can't be opened or has no room for the stub.
    pub fn new(process: &'p StoppedProcess<Owner>) -> Result<Self> {
        let memory = Memory::open(process.pid())?;
        let cave = Cave::find(process.pid(), &memory)?;
        Ok(Injector {
            process,
            memory,
            cave,
            scratch: None,
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

    fn run_inner(&mut self, tid: Tid, calls: &[Call]) -> Result<Vec<Outcome>> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let marker = SignalStatus::read(self.process.pid(), tid)?.harmless_signal();
        let mut visit = Visit::begin(tid, &self.memory, &mut self.cave)?;
        let done = Self::work(&mut visit, &mut self.scratch, calls, marker);
        let left = visit.end();
        // What went wrong first is what the reader needs.
        let outcomes = done?;
        left?;
        Ok(outcomes)
    }

    fn work(
        visit: &mut Visit<'_>,
        scratch: &mut Option<Scratch>,
        calls: &[Call],
        marker: Option<SigNo>,
    ) -> Result<Vec<Outcome>> {
        let scratch = match scratch {
            Some(scratch) => scratch,
            None => scratch.insert(visit.map_scratch()?),
        };
        let mut outcomes = Vec::with_capacity(calls.len());
        let mut rest = calls;
        while !rest.is_empty() {
            let (layout, later) = match scratch {
                Scratch::Mapped(at) => Layout::new(rest, *at, SCRATCH)?,
                Scratch::Refused => Layout::new(rest, visit.stack_room(), BORROWED)?,
            };
            match (&*scratch, marker) {
                (Scratch::Mapped(at), Some(marker)) => {
                    visit.use_scratch(*at)?;
                    outcomes.extend(visit.run_loop(&layout, *at, marker)?);
                }
                (Scratch::Mapped(at), None) => {
                    visit.use_scratch(*at)?;
                    outcomes.extend(visit.run_singly(&layout, *at)?);
                }
                (Scratch::Refused, _) => {
                    let at = visit.stack_room();
                    let mut saved = vec![0; BORROWED];
                    visit.memory.read(at, &mut saved)?;
                    let done = visit.run_singly(&layout, at);
                    visit.memory.write(at, &saved)?;
                    outcomes.extend(done?);
                }
            }
            rest = later;
        }
        Ok(outcomes)
    }

    /// Makes `call` inside thread `tid`, and interrupts it as soon as it waits. Leaves the thread with the registers
    /// that `then` makes of its own ones and the call's result; where that is -ERESTART_RESTARTBLOCK, the kernel has
    /// noted down in the thread what restart_syscall(2) needs, as if the program had made the call.
    ///
    /// # Errors
    /// If the call could not be made; the thread is then as it was before, unless it is gone.
    pub fn interrupt_call(
        &mut self,
        tid: Tid,
        call: &Call,
        then: impl FnOnce(Registers, i64) -> Registers,
    ) -> Result<i64> {
        let mut visit =
            Visit::begin(tid, &self.memory, &mut self.cave).map_err(|e| e.in_thread(tid))?;
        let done = Self::make_and_interrupt(&mut visit, &mut self.scratch, call);
        if let Ok(result) = done {
            visit.saved = then(visit.saved, result);
        }
        let left = visit.end();
        let result = done.map_err(|e| e.in_thread(tid))?;
        left.map_err(|e| e.in_thread(tid))?;
        Ok(result)
    }

    fn make_and_interrupt(
        visit: &mut Visit<'_>,
        scratch: &mut Option<Scratch>,
        call: &Call,
    ) -> Result<i64> {
        let scratch = match scratch {
            Some(scratch) => scratch,
            None => scratch.insert(visit.map_scratch()?),
        };
        let (at, room) = match scratch {
            Scratch::Mapped(at) => (*at, SCRATCH),
            Scratch::Refused => (visit.stack_room(), BORROWED),
        };
        if let Scratch::Mapped(at) = scratch {
            visit.use_scratch(*at)?;
        }
        let (layout, _) = Layout::new(std::slice::from_ref(call), at, room)?;
        let mut saved = vec![0; layout.bytes().len()];
        visit.memory.read(at, &mut saved)?;
        visit.memory.write(at, layout.bytes())?;
        let result = visit.interrupted_syscall(call.nr(), layout.args(0));
        visit.memory.write(at, &saved)?;
        result
    }

    /// Puts the process into a group stop by `signal`, entered by thread `tid`, in which no handler runs first:
    /// nothing else is unblocked. The stop that somebody has already queued serves; if there is none, the
    /// thread is given the signal as if there were. The other threads enter it when they are let go.
    ///
    /// # Errors
    /// If the thread could not be stopped; it is then as it was before, unless it is gone.
    pub fn enter_group_stop(&mut self, tid: Tid, signal: SigNo) -> Result<()> {
        let marker = SignalStatus::read(self.process.pid(), tid)?.harmless_signal();
        let marker = marker.ok_or_else(|| {
            Error::new(
                "enter the group stop",
                Cause::Unsupported("the process ignores no signal".into()),
            )
            .in_thread(tid)
        })?;
        let mut visit = Visit::begin(tid, &self.memory, &mut self.cave)?;
        let done = visit.group_stop(marker, signal);
        let left = visit.end();
        done.and(left).map_err(|e| e.in_thread(tid))
    }

    /// The process that it works on.
    pub fn process(&self) -> &'p StoppedProcess<Owner> {
        self.process
    }

    /// Takes away the scratch memory and the stub.
    ///
    /// # Errors
    /// If one of them could not be taken away.
    pub fn finish(mut self) -> Result<()> {
        self.finished = true;
        self.clean_up()
    }

    fn clean_up(&mut self) -> Result<()> {
        if let Some(Scratch::Mapped(at)) = self.scratch.take() {
            let tid = self.process.leader();
            // The visit's stub names no scratch memory, so that nothing is taken away twice.
            let mut visit = Visit::begin(tid, &self.memory, &mut self.cave)?;
            let unmapped = visit.syscall(libc::SYS_munmap, [at.0, SCRATCH as u64, 0, 0, 0, 0]);
            let left = visit.end();
            if unmapped? != 0 {
                return Err(Error::new(
                    "munmap of the scratch memory",
                    Cause::Unexpected("refused".into()),
                ));
            }
            left?;
        }
        self.cave.clear(&self.memory)
    }
}

impl<Owner> Drop for Injector<'_, Owner> {
    fn drop(&mut self) {
        if !self.finished
            && let Err(e) = self.clean_up()
            && !e.is_died()
        {
            log::error!(
                "pid {}: taking back what was injected: {e}",
                self.process.pid()
            );
        }
    }
}

/// One thread, off its own path: [`Visit::begin`] saves what it has, [`Visit::end`] puts it back, and `Drop`
/// does where an error came between.
struct Visit<'i> {
    tid: Tid,
    memory: &'i Memory,
    cave: &'i mut Cave,
    saved: Registers,
    mask: SigSet,
    rseq: Option<Rseq>,
    stub: Stub,
    ended: bool,
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
    fn begin(tid: Tid, memory: &'i Memory, cave: &'i mut Cave) -> Result<Self> {
        let saved = ptrace::registers(tid)?;
        let mask = ptrace::signal_mask(tid)?;
        let rseq = read_rseq(tid, memory)?;
        // Without a tracer nobody would put rseq_cs back, so the sequence is aborted, as after any preemption.
        let resume_ip = match &rseq {
            Some(rseq) => abort_address(memory, rseq.cs, saved.ip())?,
            None => None,
        };
        let stub = Stub::new(cave.address(), &saved, resume_ip, mask);
        let mut visit = Visit {
            tid,
            memory,
            cave,
            saved,
            mask,
            rseq,
            stub,
            ended: true,
        };
        visit.cave.write(visit.memory, &visit.stub)?;
        // A call that does nothing: should the tracer die before there is work, this is what the thread does.
        let idle = visit
            .saved
            .for_syscall(visit.stub.single_entry(), libc::SYS_getpid, [0; 6]);
        visit.ended = false;
        ptrace::set_registers(tid, &idle)?;
        ptrace::set_signal_mask(tid, SigSet::FULL)?;
        Ok(visit)
    }

    /// Steps 5 and 6 of the module's text.
    fn end(mut self) -> Result<()> {
        self.put_back()
    }

    fn put_back(&mut self) -> Result<()> {
        self.ended = true;
        if let Some(rseq) = &self.rseq {
            self.memory.write(rseq.field, &rseq.cs.to_le_bytes())?;
        }
        ptrace::set_signal_mask(self.tid, self.mask)?;
        ptrace::set_registers(self.tid, &self.saved)?;
        ptrace::interrupt(self.tid)?;
        ptrace::resume(self.tid, Resume::Run, 0)?;
        loop {
            match ptrace::wait_stop(self.tid, None)? {
                Stop::Event(_) => return Ok(()),
                // Only SIGSTOP gets here: the trap comes before anything else is dequeued.
                Stop::Signal(signal) => ptrace::resume(self.tid, Resume::Run, signal)?,
                Stop::Syscall | Stop::OtherEvent(_) => {
                    return Err(Error::new(
                        "leave the stub",
                        Cause::Unexpected("the thread ran on".into()),
                    ));
                }
            }
        }
    }

    fn map_scratch(&mut self) -> Result<Scratch> {
        self.stub.set_scratch(0, SCRATCH as u64);
        self.cave.write(self.memory, &self.stub)?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // A 32-bit program could not use, but must also not lose, anything above 4 GiB: nothing to care about,
        // except that its addresses are 32 bits wide where it looks at its own maps.
        let flags = if self.saved.is_compat() {
            flags | libc::MAP_32BIT
        } else {
            flags
        };
        let args = [0, SCRATCH as u64, number(prot), number(flags), u64::MAX, 0];
        let result = self.syscall_at(self.stub.map_entry(), libc::SYS_mmap, args)?;
        if (-4095..0).contains(&result) {
            log::debug!(
                "tid {}: mmap of scratch memory: {}; using the stack",
                self.tid,
                Errno::from_raw(i32::try_from(-result).unwrap_or(0))
            );
            return Ok(Scratch::Refused);
        }
        Ok(Scratch::Mapped(RemoteAddr(result.cast_unsigned())))
    }

    /// Lets the stub know what it has to unmap if nobody else does.
    fn use_scratch(&mut self, at: RemoteAddr) -> Result<()> {
        self.stub.set_scratch(at.0, SCRATCH as u64);
        self.cave.write(self.memory, &self.stub)
    }

    fn stack_room(&self) -> RemoteAddr {
        RemoteAddr((self.saved.sp() - RED_ZONE - BORROWED as u64) & !15)
    }

    /// The whole table in one go.
    fn run_loop(
        &mut self,
        layout: &Layout<'_>,
        at: RemoteAddr,
        marker: SigNo,
    ) -> Result<Vec<Outcome>> {
        self.memory.write(at, layout.bytes())?;
        self.stub.set_marker(marker);
        self.cave.write(self.memory, &self.stub)?;
        let (start, end) = layout.table();
        ptrace::set_registers(
            self.tid,
            &self.saved.for_batch(self.stub.batch_entry(), start, end),
        )?;
        // Only now, when the thread is sure to run the batch first: what was not done must not be undone.
        let (undo, undo_end) = layout.undo();
        self.stub.set_undo(undo, undo_end);
        self.cave.write(self.memory, &self.stub)?;
        ptrace::set_signal_mask(self.tid, SigSet::FULL.without(marker))?;
        let mut deliver = 0;
        loop {
            ptrace::resume(self.tid, Resume::Run, deliver)?;
            deliver = match ptrace::wait_stop(self.tid, None)? {
                Stop::Signal(signal) if signal == marker.get() => {
                    let now = ptrace::registers(self.tid)?;
                    if now.ip() == self.stub.batch_end() && now.batch_is_through() {
                        break;
                    }
                    // Somebody else's: it would have been ignored.
                    0
                }
                // SIGSTOP cannot be blocked. It takes effect now; the thread works on within the group stop.
                Stop::Signal(signal) => signal,
                Stop::Event(_) | Stop::Syscall | Stop::OtherEvent(_) => 0,
            };
        }
        ptrace::set_signal_mask(self.tid, SigSet::FULL)?;
        let mut after = vec![0; layout.bytes().len()];
        self.memory.read(at, &mut after)?;
        Ok(layout.outcomes(&after))
    }

    fn group_stop(&mut self, marker: SigNo, signal: SigNo) -> Result<()> {
        self.stub.set_marker(marker);
        self.cave.write(self.memory, &self.stub)?;
        let empty = self.saved.for_batch(self.stub.batch_entry(), 0, 0);
        ptrace::set_registers(self.tid, &empty)?;
        ptrace::set_signal_mask(self.tid, SigSet::FULL.without(marker).without(signal))?;
        let mut stopped = false;
        let mut given = [signal, SigNo::STOP].into_iter();
        let mut deliver = 0;
        loop {
            ptrace::resume(self.tid, Resume::Run, deliver)?;
            deliver = match ptrace::wait_stop(self.tid, None)? {
                Stop::Event(by) if SigNo::new(by).is_some_and(SigNo::is_stop) => {
                    stopped = true;
                    0
                }
                Stop::Signal(by) if by != marker.get() => by,
                Stop::Signal(_) if stopped => break,
                // Nothing was queued. The kernel drops all but SIGSTOP in an orphaned process group
                // (get_signal), so that is what is given when the first had no effect.
                Stop::Signal(_) => {
                    ptrace::set_registers(self.tid, &empty)?;
                    match given.next() {
                        Some(signal) => signal.get(),
                        None => {
                            return Err(Error::new(
                                "enter the group stop",
                                Cause::Unexpected("the thread does not stop".into()),
                            ));
                        }
                    }
                }
                Stop::Event(_) | Stop::Syscall | Stop::OtherEvent(_) => 0,
            };
        }
        ptrace::set_signal_mask(self.tid, SigSet::FULL)
    }

    /// One call after the other, two stops each.
    fn run_singly(&mut self, layout: &Layout<'_>, at: RemoteAddr) -> Result<Vec<Outcome>> {
        self.memory.write(at, layout.bytes())?;
        let mut results = Vec::with_capacity(layout.calls().len());
        for (row, call) in layout.calls().iter().enumerate() {
            results.push(self.syscall(call.nr(), layout.args(row))?);
        }
        let mut after = vec![0; layout.bytes().len()];
        self.memory.read(at, &mut after)?;
        Ok(results
            .iter()
            .enumerate()
            .map(|(row, &result)| layout.outcome(row, result, &after))
            .collect())
    }

    fn syscall(&mut self, nr: i64, args: [u64; 6]) -> Result<i64> {
        self.syscall_at(self.stub.single_entry(), nr, args)
    }

    fn syscall_at(&mut self, entry: u64, nr: i64, args: [u64; 6]) -> Result<i64> {
        ptrace::set_registers(self.tid, &self.saved.for_syscall(entry, nr, args))?;
        self.run_to_syscall_stop()?;
        self.run_to_syscall_stop()?;
        Ok(ptrace::registers(self.tid)?.result())
    }

    /// The interrupt is asked for while the thread stands at the entry, so it is there already when the call would
    /// wait.
    fn interrupted_syscall(&mut self, nr: i64, args: [u64; 6]) -> Result<i64> {
        let entry = self.stub.single_entry();
        ptrace::set_registers(self.tid, &self.saved.for_syscall(entry, nr, args))?;
        self.run_to_syscall_stop()?;
        ptrace::interrupt(self.tid)?;
        self.run_to_syscall_stop()?;
        Ok(ptrace::registers(self.tid)?.result())
    }

    fn run_to_syscall_stop(&mut self) -> Result<()> {
        let mut deliver = 0;
        loop {
            ptrace::resume(self.tid, Resume::ToSyscall, deliver)?;
            deliver = match ptrace::wait_stop(self.tid, None)? {
                Stop::Syscall => return Ok(()),
                Stop::Signal(signal) => signal,
                Stop::Event(_) | Stop::OtherEvent(_) => 0,
            };
        }
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

fn number(flags: i32) -> u64 {
    u64::from(flags.cast_unsigned())
}
