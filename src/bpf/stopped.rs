//! Reads in one pass the state of stopped threads that otherwise only injected calls can read.
//!
//! Only threads that the calling thread traces are written. All of them have to be stopped, so that nothing of what is read
//! changes: no second pass is needed.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::OwnedFd;

use criu_signals_images::{Pid, SigNo, Tid};

use super::assemble::{Helper, If, Instruction, Label, Program, Reg};
use super::kernel;
use super::layout::Layout;
use super::pids::PidMembers;
use super::process::members::{Action, Block};
use super::process::state::dispositions;
use crate::engine::told::{Told, ToldThread};
use crate::error::{Cause, Error, Result};
use crate::state::restart_block::RestartBlock;

/// Reads what the calling thread has stopped, as often as it is asked to.
#[derive(Debug)]
pub struct StoppedReader {
    /// A pass over all tasks is made whenever a file is made of it.
    link: OwnedFd,
    action: Action,
    /// From the address of a task to the heads of its lists of children and of threads that it traces.
    lists: [i32; 2],
}

impl StoppedReader {
    /// Makes the program for this kernel and loads it.
    ///
    /// # Errors
    /// If the kernel has no type information, or other types than this version knows (the error names the member), if a
    /// capability is missing, or if the kernel's verifier refuses the program.
    pub fn new() -> Result<StoppedReader> {
        let layout = Layout::read()?;
        // Names are looked up slowly. All other types are found from this one.
        let target = layout.function("bpf_iter_task")?;
        let members = Members::of_this_kernel(&layout, target)?;
        let what = "load the BPF program that reads stopped processes";
        let program =
            kernel::load(&program(&members)?, target).map_err(|refused| refused.error(what))?;
        let link = kernel::link(&program).map_err(|errno| {
            Error::os("attach the BPF program that reads stopped processes", errno)
        })?;
        Ok(StoppedReader {
            link,
            lists: [members.task.children, members.task.traced],
            action: members.action_members,
        })
    }

    /// All processes that the calling thread has stopped, by their numbers in its pid namespace.
    ///
    /// # Errors
    /// If reading fails.
    pub fn read(&self) -> Result<BTreeMap<Pid, Told>> {
        let what = "read stopped processes by BPF";
        let mut file = kernel::open(&self.link).map_err(|errno| Error::os(what, errno))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|e| Error::io(what, &e))?;
        self.parse(&bytes).ok_or_else(|| {
            let why = format!("{} bytes of records are not understood", bytes.len());
            Error::new(what, Cause::Unexpected(why))
        })
    }

    fn parse(&self, mut bytes: &[u8]) -> Option<BTreeMap<Pid, Told>> {
        let mut all: BTreeMap<Pid, Told> = BTreeMap::new();
        while !bytes.is_empty() {
            let (record, rest) = bytes.split_at_checked(RECORD)?;
            bytes = rest;
            let word = |at: usize| {
                let bytes = record.get(at * 8..at * 8 + 8)?.try_into().ok()?;
                Some(u64::from_ne_bytes(bytes))
            };
            let at = |at: Word| word(at as usize);
            let number = |word: Word| at(word).and_then(|value| i32::try_from(value).ok());
            let pid = number(Word::Pid).and_then(Pid::new)?;
            let tid = number(Word::Tid).and_then(Tid::new)?;
            let told = all.entry(pid).or_default();
            let parent_death = number(Word::ParentDeath)?;
            told.threads.insert(
                tid,
                ToldThread {
                    stack: [at(Word::Stack)?, at(Word::StackSize)?],
                    stack_flags: u32::try_from(at(Word::StackFlags)?).ok()?,
                    parent_death: if parent_death == 0 {
                        None
                    } else {
                        Some(SigNo::new(parent_death)?)
                    },
                    block: RestartBlock {
                        function: at(Word::Restart)?,
                        read_at: at(Word::Now)?,
                        nanosleep: (
                            at(Word::SleepEnd)?,
                            u32::try_from(at(Word::SleepClock)?).ok()?.cast_signed(),
                        ),
                        poll: (at(Word::PollHas)? != 0).then_some(
                            at(Word::PollSeconds)?
                                .saturating_mul(NANOSECONDS)
                                .saturating_add(at(Word::PollNanoseconds)?),
                        ),
                        futex: at(Word::FutexEnd)?,
                    },
                },
            );
            let task = at(Word::Task)?;
            for (first, list) in [Word::Children, Word::Traced].into_iter().zip(self.lists) {
                let head = task.wrapping_add_signed(list.into());
                told.has_children |= at(first)? != head;
            }
            if at(Word::IsLeader)? == 0 {
                continue;
            }
            let timers = [Word::TimerActive, Word::TimerInterval, Word::CpuTimers];
            let first = timers.map(|word| word as usize);
            let words = first.into_iter().chain(first[2] + 1..first[2] + CPU_TIMERS);
            for one in words {
                told.has_interval_timers |= word(one)? != 0;
            }
            let (actions, rest) = bytes.split_at_checked(ACTIONS)?;
            bytes = rest;
            // Without a sighand there are no dispositions, and zeros are no default ones.
            if at(Word::Sighand)? != 0 {
                told.dispositions = Some(dispositions(actions, &self.action));
            }
        }
        Some(all)
    }
}

// ---- the record ----------------------------------------------------------------------------------------------------

/// What the program writes for a thread: words of eight bytes, by their number. Behind a leader's are the dispositions.
#[derive(Clone, Copy)]
#[repr(i16)]
enum Word {
    Pid,
    Tid,
    IsLeader,
    /// The address of its `struct task_struct`.
    Task,
    Stack,
    StackSize,
    StackFlags,
    ParentDeath,
    /// Where the first element of each list is: at the list's head if the list is empty.
    Children,
    Traced,
    Sighand,
    /// Of ITIMER_REAL: is it armed, and its interval.
    TimerActive,
    TimerInterval,
    /// Expiry and interval of ITIMER_PROF and ITIMER_VIRTUAL: four words.
    CpuTimers,
    /// The machine's CLOCK_MONOTONIC, and what follows of its `restart_block`.
    Now = 17,
    Restart,
    SleepEnd,
    SleepClock,
    PollHas,
    PollSeconds,
    PollNanoseconds,
    FutexEnd,
    Count,
}

const NANOSECONDS: u64 = 1_000_000_000;
const RECORD: usize = Word::Count as usize * 8;
const CPU_TIMERS: usize = 4;
/// The kernel has 64 signals (_NSIG, asm/signal.h), and its `struct k_sigaction` 32 bytes.
const ACTION: i32 = 32;
const ACTIONS: usize = 64 * ACTION as usize;

// ---- the program ---------------------------------------------------------------------------------------------------

/// Offsets of all members that are read.
struct Members {
    task: Task,
    signal: Signal,
    /// `sighand->action`.
    actions: i32,
    action_members: Action,
    pid: PidMembers,
}

struct Task {
    signal: i32,
    sighand: i32,
    leader: i32,
    tracer: i32,
    ptrace: i32,
    thread_pid: i32,
    stack: i32,
    stack_size: i32,
    stack_flags: i32,
    parent_death: i32,
    children: i32,
    traced: i32,
    /// Where `restart_block` is, and in it its members.
    block: i32,
    block_members: Block,
}

struct Signal {
    /// `real_timer.state`.
    timer: i32,
    interval: i32,
    cpu_timers: i32,
}

impl Members {
    /// `target`: the function that the iterator's programs are for, `bpf_iter_task(meta, task)`.
    fn of_this_kernel(layout: &Layout, target: u32) -> Result<Members> {
        let task = layout.parameter(target, 1)?;
        let signal = layout.behind(&task, "signal")?;
        let sighand = layout.behind(&task, "sighand")?;
        let action = layout.behind(&sighand, "action")?;
        let cpu_timer = layout.behind(&signal, "it")?;
        let block = layout.behind(&task, "restart_block")?;
        let of_task = |path: &str| layout.offset(&task, path);
        let of_signal = |path: &str| layout.offset(&signal, path);
        let of_action = |path: &str| layout.offset(&action, path);
        let sizes = [
            ("k_sigaction", action.size()?, ACTION),
            ("cpu_itimer", cpu_timer.size()?, 16),
        ];
        if let Some((name, found, known)) = sizes.iter().find(|(_, found, known)| found != known) {
            let why = format!("struct {name} has {found} bytes here, this version knows {known}");
            let what = "read the kernel's types";
            return Err(Error::new(what, Cause::Unsupported(why.into())));
        }
        Ok(Members {
            task: Task {
                signal: of_task("signal")?,
                sighand: of_task("sighand")?,
                leader: of_task("group_leader")?,
                tracer: of_task("parent")?,
                ptrace: of_task("ptrace")?,
                thread_pid: of_task("thread_pid")?,
                stack: of_task("sas_ss_sp")?,
                stack_size: of_task("sas_ss_size")?,
                stack_flags: of_task("sas_ss_flags")?,
                parent_death: of_task("pdeath_signal")?,
                children: of_task("children")?,
                traced: of_task("ptraced")?,
                block: of_task("restart_block")?,
                block_members: Block::from_layout(layout, &block)?,
            },
            signal: Signal {
                timer: of_signal("real_timer.state")?,
                interval: of_signal("it_real_incr")?,
                cpu_timers: of_signal("it")?,
            },
            actions: layout.offset(&sighand, "action")?,
            action_members: Action {
                handler: of_action("sa.sa_handler")?,
                flags: of_action("sa.sa_flags")?,
                restorer: of_action("sa.sa_restorer")?,
                mask: of_action("sa.sa_mask")?,
            },
            pid: PidMembers::from_layout(layout, &task)?,
        })
    }
}

/// The record on the program's stack of 512 bytes, and what is below that.
const BASE: i16 = -(Word::Count as i16 * 8);
/// A pointer or a number that has just been read.
const SCRATCH: i16 = BASE - 8;
/// In how many pid namespaces the caller is, besides the first.
const LEVEL: i16 = BASE - 16;
/// A pointer whose type the verifier knows.
const TYPED: i16 = BASE - 24;
/// Dispositions, some at a time.
const PIECE: i16 = TYPED - PIECE_SIZE;
const PIECE_SIZE: i16 = 256;

/// In the iterator's context, a `struct bpf_iter__task`: pointers to `struct bpf_iter_meta`, which begins with the file, and
/// to the task (include/linux/bpf.h, BPF_ITER_FUNC_ARGS; kernel/bpf/task_iter.c).
const META: i16 = 0;
const META_SEQ: i16 = 0;
const CONTEXT_TASK: i16 = 8;

/// Registers that calls leave alone.
const SEQ: Reg = Reg::R6;
const TASK: Reg = Reg::R7;
const SIGNAL: Reg = Reg::R8;
const POINTER: Reg = Reg::R9;

struct Maker<'m> {
    program: Program,
    members: &'m Members,
}

fn program(members: &Members) -> Result<Vec<Instruction>> {
    let mut maker = Maker {
        program: Program::default(),
        members,
    };
    maker.all();
    maker.program.finished()
}

impl Maker<'_> {
    fn all(&mut self) {
        let end = self.program.label();
        self.begin(end);
        self.ids();
        self.of_task();
        self.of_process();
        self.program.write_stack(SEQ, BASE, -BASE);
        self.dispositions(end);
        self.program.place(end);
        self.program.set(Reg::R0, 0);
        self.program.exit();
    }

    fn slot(word: Word) -> i16 {
        BASE + word as i16 * 8
    }

    /// Copies `size` bytes from `base + offset` to the record, which has been cleared.
    fn copy(&mut self, to: Word, size: i32, base: Reg, offset: i32) {
        self.program
            .read_kernel(Reg::R10, Maker::slot(to), size, base, offset);
    }

    fn follow(&mut self, into: Reg, base: Reg, offset: i32) {
        self.program.follow(into, base, offset, SCRATCH);
    }

    /// The task, as a plain number, which may be compared and written. It is null at the end of the pass. A task that the caller
    /// does not trace is left out.
    fn begin(&mut self, end: Label) {
        let members = self.members;
        let program = &mut self.program;
        program.load(TASK, Reg::R1, CONTEXT_TASK);
        program.load(Reg::R2, Reg::R1, META);
        program.load(SEQ, Reg::R2, META_SEQ);
        program.jump_if(TASK, If::Equal, 0, end);
        program.store(Reg::R10, TYPED, TASK);
        for word in 0..Word::Count as i16 {
            program.clear(Reg::R10, BASE + word * 8);
        }
        program.clear(Reg::R10, LEVEL);
        let task = Maker::slot(Word::Task);
        program.read_kernel(Reg::R10, task, 8, Reg::R10, TYPED.into());
        program.load(TASK, Reg::R10, task);
        program.clear(Reg::R10, SCRATCH);
        program.read_kernel(Reg::R10, SCRATCH, 4, TASK, members.task.ptrace);
        program.load(Reg::R1, Reg::R10, SCRATCH);
        program.jump_if(Reg::R1, If::Equal, 0, end);
        program.call(Helper::CurrentTask);
        program.copy(SIGNAL, Reg::R0);
        self.follow(POINTER, TASK, members.task.tracer);
        self.program
            .jump_if_register(POINTER, If::NotEqual, SIGNAL, end);
        self.follow(POINTER, SIGNAL, members.task.thread_pid);
        self.program
            .read_kernel(Reg::R10, LEVEL, 4, POINTER, members.pid.level);
        self.follow(SIGNAL, TASK, members.task.signal);
        self.program.jump_if(SIGNAL, If::Equal, 0, end);
    }

    /// The number of the task in POINTER in the caller's pid namespace.
    fn number(&mut self, to: Word) {
        let members = self.members;
        self.follow(POINTER, POINTER, members.task.thread_pid);
        let level = |program: &mut Program| program.load(Reg::R1, Reg::R10, LEVEL);
        let place = (Reg::R10, Maker::slot(to));
        members
            .pid
            .number(&mut self.program, POINTER, level, place, SCRATCH);
    }

    fn ids(&mut self) {
        self.program.copy(POINTER, TASK);
        self.number(Word::Tid);
        self.follow(POINTER, TASK, self.members.task.leader);
        let other = self.program.label();
        let program = &mut self.program;
        program.jump_if_register(POINTER, If::NotEqual, TASK, other);
        program.store_value(Reg::R10, Maker::slot(Word::IsLeader), 1);
        program.place(other);
        self.number(Word::Pid);
    }

    fn of_task(&mut self) {
        let task = &self.members.task;
        let block = &task.block_members;
        for (word, size, offset) in [
            (Word::Stack, 8, task.stack),
            (Word::StackSize, 8, task.stack_size),
            (Word::StackFlags, 4, task.stack_flags),
            (Word::ParentDeath, 4, task.parent_death),
            (Word::Children, 8, task.children),
            (Word::Traced, 8, task.traced),
            (Word::Sighand, 8, task.sighand),
            (Word::Restart, 8, task.block + block.function),
            (Word::SleepEnd, 8, task.block + block.nanosleep),
            (Word::SleepClock, 4, task.block + block.clock),
            (Word::PollHas, 4, task.block + block.poll_has),
            (Word::PollSeconds, 8, task.block + block.poll_seconds),
            (
                Word::PollNanoseconds,
                8,
                task.block + block.poll_nanoseconds,
            ),
            (Word::FutexEnd, 8, task.block + block.futex),
        ] {
            self.copy(word, size, TASK, offset);
        }
        self.program.call(Helper::Monotonic);
        self.program
            .store(Reg::R10, Maker::slot(Word::Now), Reg::R0);
    }

    fn of_process(&mut self) {
        let signal = &self.members.signal;
        self.copy(Word::TimerActive, 1, SIGNAL, signal.timer);
        self.copy(Word::TimerInterval, 8, SIGNAL, signal.interval);
        self.copy(Word::CpuTimers, 32, SIGNAL, signal.cpu_timers);
    }

    /// Those of a leader.
    fn dispositions(&mut self, end: Label) {
        let program = &mut self.program;
        program.load(Reg::R1, Reg::R10, Maker::slot(Word::IsLeader));
        program.jump_if(Reg::R1, If::Equal, 0, end);
        program.load(POINTER, Reg::R10, Maker::slot(Word::Sighand));
        let size = i32::try_from(ACTIONS).unwrap_or(0);
        for from in (0..size).step_by(usize::from(PIECE_SIZE.unsigned_abs())) {
            let piece = i32::from(PIECE_SIZE);
            let at = self.members.actions + from;
            self.program
                .read_kernel(Reg::R10, PIECE, piece, POINTER, at);
            self.program.write_stack(SEQ, PIECE, PIECE_SIZE);
        }
    }
}
