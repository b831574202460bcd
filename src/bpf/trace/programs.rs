//! The BPF programs that record the generation and the delivery of signals.

use super::super::assemble::{Change, Helper, If, Instruction, Label, Program, Reg};
use super::super::layout::{Layout, Structure};
use super::super::pids::PidMembers;
use crate::error::{Cause, Error, Result};

/// What the programs are told, in a map, and what they count there.
pub(super) struct Settings;

impl Settings {
    /// Level and address of the tracer's pid namespace, which [`home`] finds.
    pub(super) const LEVEL: i16 = 0;
    pub(super) const NAMESPACE: i16 = 8;
    /// The process whose signals are written down; all if 0.
    pub(super) const PID: i16 = 16;
    /// The cgroup of v2 in which the processes are; any if 0.
    pub(super) const CGROUP: i16 = 24;
    /// Records for which there was no room.
    pub(super) const LOST: i16 = 32;
    pub(super) const SIZE: usize = 40;
}

/// What a record is of.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(super) enum Kind {
    Generated = 1,
    Delivered = 2,
    Taken = 3,
    Ended = 4,
}

/// A record: words of eight bytes, by their number.
#[derive(Clone, Copy)]
#[repr(i16)]
pub(super) enum Word {
    Kind,
    Time,
    Signo,
    /// Of what was generated: TRACE_SIGNAL_*. Of what has ended: the exit code.
    Result,
    /// Of what was generated: for the process. Of what has ended: how many threads are left.
    Group,
    Pid,
    Tid,
    /// Two words.
    Comm,
    /// The process that traces the target.
    Tracer = 9,
    SenderPid,
    SenderTid,
    /// Two words.
    SenderComm,
    SenderPtrace = 14,
    /// The address of the siginfo. 0 and 1 are none (SEND_SIG_NOINFO, SEND_SIG_PRIV).
    InfoAt,
    /// Six words: `struct kernel_siginfo`.
    Info,
    Handler = 22,
    Flags,
    Count,
}

pub(super) const RECORD: usize = Word::Count as usize * 8;
pub(super) const INFO: i32 = 48;

/// On the stack: the record, and below that words for calculations.
const BASE: i16 = -(Word::Count as i16 * 8);
const SCRATCH: i16 = BASE - 16;
const TYPED: i16 = BASE - 32;
const PLAIN: i16 = BASE - 48;

/// So deep cgroups are looked up.
const MOST_CGROUPS: usize = 32;

// Registers that calls leave alone.
const CONTEXT: Reg = Reg::R6;
const TASK: Reg = Reg::R7;
const INFO_AT: Reg = Reg::R8;
const POINTER: Reg = Reg::R9;

pub(super) struct Members {
    task: Task,
    pid: PidMembers,
    action_handler: i32,
    action_flags: i32,
    live: i32,
    /// `Err`: why no cgroup can be looked at.
    cgroup: std::result::Result<Cgroup, String>,
    /// `Err`: why it can't be seen that a signal is taken.
    pub(super) taken: std::result::Result<Dequeue, String>,
}

struct Task {
    leader: i32,
    thread_pid: i32,
    comm: i32,
    ptrace: i32,
    parent: i32,
    exit_code: i32,
    signal: i32,
    blocked: i32,
}

/// From a task to its cgroup, in that to what has its number, and to the one above.
struct Cgroup {
    of_task: i32,
    default: i32,
    node: i32,
    id: i32,
    own: i32,
    parent: i32,
}

/// The kernel's `dequeue_signal()`: which of its parameters are what.
pub(super) struct Dequeue {
    pub(super) function: u32,
    mask: i16,
    info: i16,
    result: i16,
}

impl Members {
    pub(super) fn of_this_kernel(layout: &Layout) -> Result<Members> {
        let task = layout.structure("task_struct")?;
        let sighand = layout.behind(&task, "sighand")?;
        let action = layout.behind(&sighand, "action")?;
        let signal = layout.behind(&task, "signal")?;
        let at = |of: &Structure, path: &str| layout.offset(of, path);
        Ok(Members {
            pid: PidMembers::from_layout(layout, &task)?,
            action_handler: at(&action, "sa.sa_handler")?,
            action_flags: at(&action, "sa.sa_flags")?,
            live: at(&signal, "live.counter")?,
            cgroup: Cgroup::from_layout(layout, &task).map_err(|e| e.to_string()),
            taken: Dequeue::from_layout(layout).map_err(|e| e.to_string()),
            task: Task {
                leader: at(&task, "group_leader")?,
                thread_pid: at(&task, "thread_pid")?,
                comm: at(&task, "comm")?,
                ptrace: at(&task, "ptrace")?,
                parent: at(&task, "parent")?,
                exit_code: at(&task, "exit_code")?,
                signal: at(&task, "signal")?,
                blocked: at(&task, "blocked")?,
            },
        })
    }

    /// Why processes can't be selected by their cgroup, if they can't.
    pub(super) fn no_cgroups(&self) -> Option<&str> {
        self.cgroup.as_ref().err().map(String::as_str)
    }
}

impl Cgroup {
    fn from_layout(layout: &Layout, task: &Structure) -> Result<Cgroup> {
        let set = layout.behind(task, "cgroups")?;
        let cgroup = layout.behind(&set, "dfl_cgrp")?;
        let node = layout.behind(&cgroup, "kn")?;
        Ok(Cgroup {
            of_task: layout.offset(task, "cgroups")?,
            default: layout.offset(&set, "dfl_cgrp")?,
            node: layout.offset(&cgroup, "kn")?,
            id: layout.offset(&node, "id")?,
            own: layout.offset(&cgroup, "self")?,
            parent: layout.offset(&cgroup, "self.parent")?,
        })
    }
}

impl Dequeue {
    /// Its parameters differ between kernels: until Linux 6.11 the task is the first.
    fn from_layout(layout: &Layout) -> Result<Dequeue> {
        let function = layout.function("dequeue_signal")?;
        let parameters = layout.parameters(function)?;
        let place = |wanted: &str| {
            let found = parameters.iter().position(|name| name == wanted);
            let found = found.and_then(|at| i16::try_from(at * 8).ok());
            found.ok_or_else(|| {
                let why = format!("dequeue_signal() has no parameter {wanted}");
                Error::new("read the kernel's types", Cause::Unsupported(why.into()))
            })
        };
        Ok(Dequeue {
            function,
            mask: place("mask")?,
            info: place("info")?,
            result: i16::try_from(parameters.len() * 8).unwrap_or(i16::MAX),
        })
    }
}

/// The maps, by their descriptors.
#[derive(Clone, Copy)]
pub(super) struct Maps {
    pub(super) settings: i32,
    pub(super) ring: i32,
}

/// Run by the tracer itself: which pid namespace it is in.
pub(super) fn home(members: &Members, maps: Maps) -> Result<Vec<Instruction>> {
    let mut maker = Maker::new(members, maps, false);
    let program = &mut maker.program;
    program.call(Helper::CurrentTask);
    program.follow(POINTER, Reg::R0, members.task.thread_pid, SCRATCH);
    program.clear(Reg::R10, SCRATCH);
    program.read_kernel(Reg::R10, SCRATCH, 4, POINTER, members.pid.level);
    program.load(Reg::R2, Reg::R10, SCRATCH);
    program.map_value(Reg::R1, maps.settings);
    program.store(Reg::R1, Settings::LEVEL, Reg::R2);
    let own = members.pid.numbers + members.pid.namespace;
    program.copy(Reg::R0, Reg::R2);
    program.change(Change::Multiply, Reg::R0, members.pid.upid);
    program.add_register(POINTER, Reg::R0);
    program.follow(Reg::R2, POINTER, own, SCRATCH);
    program.map_value(Reg::R1, maps.settings);
    program.store(Reg::R1, Settings::NAMESPACE, Reg::R2);
    let end = maker.program.label();
    maker.end(end)
}

/// `signal_generate(sig, info, task, group, result)`.
pub(super) fn generated(
    members: &Members,
    maps: Maps,
    by_cgroup: bool,
) -> Result<Vec<Instruction>> {
    let mut maker = Maker::new(members, maps, by_cgroup);
    let end = maker.program.label();
    let program = &mut maker.program;
    program.copy(CONTEXT, Reg::R1);
    program.load(TASK, CONTEXT, 16);
    program.load(INFO_AT, CONTEXT, 8);
    maker.begin(Kind::Generated, end);
    for (word, argument) in [(Word::Signo, 0), (Word::Group, 24), (Word::Result, 32)] {
        maker.program.load(Reg::R1, CONTEXT, argument);
        maker.program.store(Reg::R10, slot(word), Reg::R1);
    }
    maker.sender();
    maker.info();
    maker.write();
    maker.end(end)
}

/// `signal_deliver(sig, info, action)`, in the thread that the signal is delivered to.
pub(super) fn delivered(
    members: &Members,
    maps: Maps,
    by_cgroup: bool,
) -> Result<Vec<Instruction>> {
    let mut maker = Maker::new(members, maps, by_cgroup);
    let end = maker.program.label();
    let program = &mut maker.program;
    program.copy(CONTEXT, Reg::R1);
    program.load(INFO_AT, CONTEXT, 8);
    program.call(Helper::CurrentTask);
    program.copy(TASK, Reg::R0);
    maker.begin(Kind::Delivered, end);
    let program = &mut maker.program;
    program.load(Reg::R1, CONTEXT, 0);
    program.store(Reg::R10, slot(Word::Signo), Reg::R1);
    program.load(POINTER, CONTEXT, 16);
    maker.word(Word::Handler, 8, POINTER, members.action_handler);
    maker.word(Word::Flags, 8, POINTER, members.action_flags);
    maker.info();
    maker.write();
    maker.end(end)
}

/// `sched_process_exit(task)`, in the thread that ends.
pub(super) fn ended(members: &Members, maps: Maps, by_cgroup: bool) -> Result<Vec<Instruction>> {
    let mut maker = Maker::new(members, maps, by_cgroup);
    let end = maker.program.label();
    maker.program.load(TASK, Reg::R1, 0);
    maker.begin(Kind::Ended, end);
    maker.word(Word::Result, 4, TASK, members.task.exit_code);
    maker
        .program
        .follow(POINTER, TASK, members.task.signal, SCRATCH);
    maker.word(Word::Group, 4, POINTER, members.live);
    maker.write();
    maker.end(end)
}

/// The end of `dequeue_signal()`, but for that of get_signal(), which delivers what it takes: rt_sigtimedwait(2) and
/// signalfd(2). get_signal() alone asks for what its thread's own mask lets through.
pub(super) fn taken(
    members: &Members,
    maps: Maps,
    by_cgroup: bool,
    dequeue: &Dequeue,
) -> Result<Vec<Instruction>> {
    let mut maker = Maker::new(members, maps, by_cgroup);
    let end = maker.program.label();
    let program = &mut maker.program;
    program.copy(CONTEXT, Reg::R1);
    program.load(Reg::R1, CONTEXT, dequeue.result);
    program.change(Change::ShiftLeft, Reg::R1, 32);
    program.jump_if(Reg::R1, If::Equal, 0, end);
    program.call(Helper::CurrentTask);
    program.copy(TASK, Reg::R0);
    // Pointers whose types the verifier knows become plain numbers, which may be compared and counted with.
    for (argument, at) in [(dequeue.mask, TYPED), (dequeue.info, TYPED + 8)] {
        program.load(Reg::R1, CONTEXT, argument);
        program.store(Reg::R10, at, Reg::R1);
    }
    program.read_kernel(Reg::R10, PLAIN, 16, Reg::R10, TYPED.into());
    program.load(Reg::R1, Reg::R10, PLAIN);
    program.load(INFO_AT, Reg::R10, PLAIN + 8);
    program.copy(Reg::R2, TASK);
    program.change(Change::Add, Reg::R2, members.task.blocked);
    program.jump_if_register(Reg::R1, If::Equal, Reg::R2, end);
    maker.begin(Kind::Taken, end);
    maker.program.load(Reg::R1, CONTEXT, dequeue.result);
    maker.program.store(Reg::R10, slot(Word::Signo), Reg::R1);
    maker.info();
    maker.write();
    maker.end(end)
}

struct Maker<'m> {
    program: Program,
    members: &'m Members,
    maps: Maps,
    by_cgroup: bool,
}

fn slot(word: Word) -> i16 {
    BASE + word as i16 * 8
}

impl<'m> Maker<'m> {
    fn new(members: &'m Members, maps: Maps, by_cgroup: bool) -> Maker<'m> {
        Maker {
            program: Program::default(),
            members,
            maps,
            by_cgroup,
        }
    }

    /// A number of at most eight bytes. The record is cleared before.
    fn word(&mut self, to: Word, size: i32, base: Reg, offset: i32) {
        self.program
            .read_kernel(Reg::R10, slot(to), size, base, offset);
    }

    /// Is the task in TASK one whose signals are written down? If it is not, goes to `end`. Else the record is begun.
    fn begin(&mut self, kind: Kind, end: Label) {
        let task = &self.members.task;
        self.program.follow(POINTER, TASK, task.leader, SCRATCH);
        self.number(Word::Pid);
        let program = &mut self.program;
        program.load(Reg::R2, Reg::R10, slot(Word::Pid));
        program.jump_if(Reg::R2, If::Equal, 0, end);
        let any = program.label();
        program.map_value(Reg::R1, self.maps.settings);
        program.load(Reg::R1, Reg::R1, Settings::PID);
        program.jump_if(Reg::R1, If::Equal, 0, any);
        program.jump_if_register(Reg::R1, If::NotEqual, Reg::R2, end);
        program.place(any);
        if self.by_cgroup {
            self.cgroup(end);
        }
        let program = &mut self.program;
        for word in Word::Tid as i16..Word::Count as i16 {
            program.clear(Reg::R10, BASE + word * 8);
        }
        for word in [Word::Signo, Word::Result, Word::Group] {
            program.clear(Reg::R10, slot(word));
        }
        program.store_value(Reg::R10, slot(Word::Kind), kind as i32);
        program.call(Helper::Monotonic);
        program.store(Reg::R10, slot(Word::Time), Reg::R0);
        program.copy(POINTER, TASK);
        self.number(Word::Tid);
        self.word(Word::Comm, 16, TASK, task.comm);
        self.tracer();
    }

    /// The number of the task in POINTER in the tracer's pid namespace, zero if it has none there.
    fn number(&mut self, to: Word) {
        let (members, settings) = (self.members, self.maps.settings);
        let program = &mut self.program;
        program.follow(POINTER, POINTER, members.task.thread_pid, SCRATCH);
        let home = |program: &mut Program| {
            program.map_value(Reg::R2, settings);
            program.load(Reg::R1, Reg::R2, Settings::LEVEL);
            program.load(Reg::R2, Reg::R2, Settings::NAMESPACE);
        };
        let place = (Reg::R10, slot(to));
        members
            .pid
            .number_at_home(program, POINTER, home, place, SCRATCH);
    }

    /// Of a thread that is traced, `parent` is the tracer.
    fn tracer(&mut self) {
        let task = &self.members.task;
        let program = &mut self.program;
        let untraced = program.label();
        program.clear(Reg::R10, SCRATCH);
        program.read_kernel(Reg::R10, SCRATCH, 4, TASK, task.ptrace);
        program.load(Reg::R1, Reg::R10, SCRATCH);
        program.jump_if(Reg::R1, If::Equal, 0, untraced);
        program.follow(POINTER, TASK, task.parent, SCRATCH);
        program.follow(POINTER, POINTER, task.leader, SCRATCH);
        self.number(Word::Tracer);
        self.program.place(untraced);
    }

    fn cgroup(&mut self, end: Label) {
        let Ok(members) = &self.members.cgroup else {
            return;
        };
        let program = &mut self.program;
        let found = program.label();
        program.follow(POINTER, TASK, members.of_task, SCRATCH);
        program.follow(POINTER, POINTER, members.default, SCRATCH);
        for _ in 0..MOST_CGROUPS {
            program.follow(Reg::R0, POINTER, members.node, SCRATCH);
            program.follow(Reg::R2, Reg::R0, members.id, SCRATCH);
            program.map_value(Reg::R1, self.maps.settings);
            program.load(Reg::R1, Reg::R1, Settings::CGROUP);
            program.jump_if_register(Reg::R1, If::Equal, Reg::R2, found);
            program.follow(POINTER, POINTER, members.parent, SCRATCH);
            program.jump_if(POINTER, If::Equal, 0, end);
            program.change(Change::Add, POINTER, -members.own);
        }
        program.jump(end);
        program.place(found);
    }

    /// The task that runs just now.
    fn sender(&mut self) {
        let task = &self.members.task;
        self.program.call(Helper::CurrentTask);
        self.program.copy(TASK, Reg::R0);
        self.program.copy(POINTER, TASK);
        self.number(Word::SenderTid);
        self.program.follow(POINTER, TASK, task.leader, SCRATCH);
        self.number(Word::SenderPid);
        self.word(Word::SenderComm, 16, TASK, task.comm);
        self.word(Word::SenderPtrace, 4, TASK, task.ptrace);
    }

    fn info(&mut self) {
        self.program.store(Reg::R10, slot(Word::InfoAt), INFO_AT);
        self.word(Word::Info, INFO, INFO_AT, 0);
    }

    fn write(&mut self) {
        let program = &mut self.program;
        let written = program.label();
        program.map(Reg::R1, self.maps.ring);
        program.copy(Reg::R2, Reg::R10);
        program.change(Change::Add, Reg::R2, BASE.into());
        program.set(Reg::R3, i32::from(-BASE));
        program.set(Reg::R4, 0);
        program.call(Helper::RingOutput);
        program.jump_if(Reg::R0, If::Equal, 0, written);
        program.map_value(Reg::R1, self.maps.settings);
        program.set(Reg::R2, 1);
        program.add_in_memory(Reg::R1, Settings::LOST, Reg::R2);
        program.place(written);
    }

    fn end(mut self, end: Label) -> Result<Vec<Instruction>> {
        self.program.place(end);
        self.program.set(Reg::R0, 0);
        self.program.exit();
        self.program.finished()
    }
}
