//! The program that copies one process: its threads, what they share, and the entries of all its lists.
//!
//! A queue can have any length, and what an iterator's program may write into its file for one task ends at 32 KiB
//! (kernel/bpf/bpf_iter.c, `bpf_seq_read`). So the program writes records into a map, behind each other, and lists are followed
//! by bpf_loop (Linux 5.17): the verifier looks at one step, whatever the length, and one pass follows 8,388,608 steps. The
//! `bpf_for` iterator needs Linux 6.4, and a loop without help has to be verified step by step, which ends at some hundred.

use super::super::assemble::{
    Change, Helper, If, Instruction, Label, Program, Reg, goes_nowhere, short,
};
use super::format::{
    Kind, MOST_LEVELS, PROCESS, Request, SIGNALS, Status, THREAD, entry, process, thread, timer,
};
use super::members::Members;
use crate::error::Result;

/// The program, and where its functions begin.
pub(super) struct Made {
    pub(super) instructions: Vec<Instruction>,
    pub(super) functions: Vec<usize>,
}

/// The two maps, by their descriptors, and how much room for records there is.
#[derive(Clone, Copy)]
pub(super) struct Maps {
    pub(super) request: i32,
    pub(super) records: i32,
    pub(super) room: usize,
}

/// So often bpf_loop calls a function at most (BPF_MAX_LOOPS, include/linux/bpf.h).
const MOST_STEPS: i32 = 1 << 23;
/// `sizeof(struct rlimit)`, and where RLIMIT_SIGPENDING is among them (asm-generic/resource.h).
const RLIMIT_SIZE: i32 = 16;
const RLIMIT_SIGPENDING: i32 = 11;

// Registers that calls leave alone.
const TASK: Reg = Reg::R6;
const RECORD: Reg = Reg::R7;
const SIGNAL: Reg = Reg::R8;
const POINTER: Reg = Reg::R9;

// On the stack: a number that has just been read; pointers whose types the verifier knows, and the same as numbers; what a
// function of bpf_loop is given.
const SCRATCH: i16 = -8;
const TYPED: i16 = -24;
const PLAIN: i16 = -40;
const CONTEXT: i16 = -64;

/// What a function is given: the next entry, the list's head, the kind of its records.
const NEXT: i16 = 0;
const HEAD: i16 = 8;
const KIND: i16 = 16;

/// Makes the program.
pub(super) fn program(members: &Members, maps: Maps) -> Result<Made> {
    let mut program = Program::default();
    let (entry, timer) = (program.label(), program.label());
    let mut maker = Maker {
        program,
        members,
        maps,
        entry,
        timer,
    };
    maker.all();
    let mut functions = vec![maker.program.position(entry)];
    if members.timers.is_ok() {
        functions.push(maker.program.position(timer));
    }
    let functions = functions.into_iter().collect::<Option<Vec<_>>>();
    Ok(Made {
        functions: functions.ok_or_else(goes_nowhere)?,
        instructions: maker.program.finished()?,
    })
}

struct Maker<'m> {
    program: Program,
    members: &'m Members,
    maps: Maps,
    /// The functions that copy an entry of a queue, and a timer.
    entry: Label,
    timer: Label,
}

impl Maker<'_> {
    fn all(&mut self) {
        let end = self.program.label();
        self.begin(end);
        self.thread(end);
        self.private_queue();
        self.process(end);
        self.program.place(end);
        self.program.set(Reg::R0, 0);
        self.program.exit();
        self.entry_function();
        if self.members.timers.is_ok() {
            self.timer_function();
        }
    }

    fn follow(&mut self, into: Reg, base: Reg, offset: i32) {
        self.program.follow(into, base, offset, SCRATCH);
    }

    /// A number of less than eight bytes in a word of the record.
    fn word(&mut self, at: i16, size: i32, base: Reg, offset: i32) {
        self.program.clear(RECORD, at);
        self.program.read_kernel(RECORD, at, size, base, offset);
    }

    /// Makes `RECORD` the place for a record of this size, or goes to `full`. The place is kept in memory, so that the verifier
    /// knows nothing of it, and need not follow how it grows.
    fn reserve(&mut self, kind: Option<Kind>, size: i32, full: Label) {
        let room = i32::try_from(self.maps.room).unwrap_or(i32::MAX);
        let program = &mut self.program;
        program.map_value(Reg::R1, self.maps.request);
        program.load(RECORD, Reg::R1, Request::CURSOR);
        program.jump_if(RECORD, If::Above, room - size, full);
        program.copy(Reg::R2, RECORD);
        program.change(Change::Add, Reg::R2, size);
        program.store(Reg::R1, Request::CURSOR, Reg::R2);
        program.map_value(Reg::R2, self.maps.records);
        program.add_register(Reg::R2, RECORD);
        program.copy(RECORD, Reg::R2);
        if let Some(kind) = kind {
            program.store_value(RECORD, 0, kind as i32);
        }
        program.store_value(RECORD, 8, size);
    }

    fn status(&mut self, status: Status) {
        self.program.map_value(Reg::R1, self.maps.request);
        self.program
            .store_value(Reg::R1, Request::STATUS, status as i32);
    }

    /// The context has pointers that the verifier knows. They become plain numbers, which may be compared, written and counted
    /// with; the task is null at the end of the pass.
    fn begin(&mut self, end: Label) {
        let members = self.members;
        let program = &mut self.program;
        program.load(TASK, Reg::R1, short(members.context));
        program.jump_if(TASK, If::Equal, 0, end);
        program.copy(Reg::R1, TASK);
        program.call(Helper::Registers);
        program.store(Reg::R10, TYPED, TASK);
        program.store(Reg::R10, TYPED + 8, Reg::R0);
        self.program
            .read_kernel(Reg::R10, PLAIN, 16, Reg::R10, TYPED.into());
        let program = &mut self.program;
        program.load(TASK, Reg::R10, PLAIN);
        program.call(Helper::CurrentTask);
        program.copy(POINTER, Reg::R0);
        self.follow(POINTER, POINTER, members.task.thread_pid);
        self.program.clear(Reg::R10, SCRATCH);
        self.program
            .read_kernel(Reg::R10, SCRATCH, 4, POINTER, members.pid.level);
        let program = &mut self.program;
        program.load(Reg::R2, Reg::R10, SCRATCH);
        program.map_value(Reg::R1, self.maps.request);
        program.store(Reg::R1, Request::LEVEL, Reg::R2);
        // Is it a thread of the process that was asked for? Kernels before 6.1 go over all tasks.
        self.follow(POINTER, TASK, members.task.leader);
        self.follow(POINTER, POINTER, members.task.thread_pid);
        self.number(POINTER, Reg::R10, CONTEXT);
        let program = &mut self.program;
        program.map_value(Reg::R1, self.maps.request);
        program.load(Reg::R1, Reg::R1, Request::WANTED);
        program.load(Reg::R2, Reg::R10, CONTEXT);
        program.jump_if_register(Reg::R1, If::NotEqual, Reg::R2, end);
        self.follow(SIGNAL, TASK, members.task.signal);
        self.program.jump_if(SIGNAL, If::Equal, 0, end);
    }

    /// The number of a `struct pid` in the caller's pid namespace, zero if it has none there.
    fn number(&mut self, pid: Reg, to: Reg, at: i16) {
        let (members, request) = (&self.members.pid, self.maps.request);
        let level = |program: &mut Program| {
            program.map_value(Reg::R1, request);
            program.load(Reg::R1, Reg::R1, Request::LEVEL);
        };
        members.number(&mut self.program, pid, level, (to, at), SCRATCH);
    }

    /// The number of a `struct pid` in its own pid namespace.
    fn own_number(&mut self, pid: Reg, to: Reg, at: i16) {
        let members = &self.members.pid;
        members.own_number(&mut self.program, pid, (to, at), SCRATCH);
    }

    fn thread(&mut self, end: Label) {
        let full = self.program.label();
        let begun = self.program.label();
        self.reserve(Some(Kind::Thread), THREAD, full);
        self.program.jump(begun);
        self.program.place(full);
        self.status(Status::Full);
        self.program.jump(end);
        self.program.place(begun);
        self.program.store(RECORD, thread::TASK, TASK);
        let task = &self.members.task;
        // The first and the last that are read of how it runs: if they are equal, the thread stood still between.
        let course = [
            (thread::ON_CPU, 4, task.on_cpu),
            (thread::SWITCHES, 8, task.switches),
            (thread::SWITCHED, 8, task.switched),
        ];
        let words = [
            (thread::FLAGS, 4, task.flags),
            (thread::EXIT_STATE, 4, task.exit_state),
            (thread::STATE, 4, task.state),
            (thread::BLOCKED, 8, task.blocked),
            (thread::REAL_BLOCKED, 8, task.real_blocked),
            (thread::SAVED, 8, task.saved),
            (thread::RESTORE, 1, task.restore.byte),
            (thread::PENDING, 8, task.pending),
            (thread::STACK, 8, task.stack),
            (thread::STACK_SIZE, 8, task.stack_size),
            (thread::STACK_FLAGS, 4, task.stack_flags),
            (thread::JOBCTL, 8, task.jobctl),
            (thread::PARENT_DEATH, 4, task.parent_death),
            (thread::EXIT_SIGNAL, 4, task.exit_signal),
            (thread::PTRACE, 4, task.ptrace),
            (thread::STARTED, 8, task.started),
            (thread::SECCOMP, 4, task.seccomp),
            (thread::MEMORY, 8, task.memory),
            (thread::DISPATCHES, 1, task.dispatches),
            (thread::DISPATCH, 24, task.dispatch),
            (thread::BLOCK, task.block_size, task.block),
            (thread::COMM, 16, task.comm),
            (thread::RAN, 8, task.ran),
        ];
        for (at, size, offset) in course.into_iter().chain(words) {
            self.word(at, size, TASK, offset);
        }
        self.program.load(POINTER, Reg::R10, PLAIN + 8);
        self.program.read_kernel(
            RECORD,
            thread::REGISTERS,
            self.members.registers_read(),
            POINTER,
            0,
        );
        for (at, size, offset) in course {
            self.word(at + thread::AFTER, size, TASK, offset);
        }
        self.program.clear(RECORD, thread::TRACER);
        let untraced = self.program.label();
        self.program.load(Reg::R1, RECORD, thread::PTRACE);
        self.program.jump_if(Reg::R1, If::Equal, 0, untraced);
        self.follow(POINTER, TASK, task.tracer);
        self.follow(POINTER, POINTER, task.thread_pid);
        self.number(POINTER, RECORD, thread::TRACER);
        self.program.place(untraced);
        self.ids();
    }

    /// Its numbers in all pid namespaces that it is in, and which is the innermost.
    fn ids(&mut self) {
        let members = self.members;
        let pid = &members.pid;
        let done = self.program.label();
        self.follow(POINTER, TASK, members.task.thread_pid);
        self.word(thread::LEVEL, 4, POINTER, pid.level);
        let program = &mut self.program;
        program.load(Reg::R2, RECORD, thread::LEVEL);
        program.jump_if(Reg::R2, If::Above, MOST_LEVELS, done);
        program.change(Change::Add, Reg::R2, 1);
        program.change(Change::Multiply, Reg::R2, pid.upid);
        program.copy(Reg::R1, RECORD);
        program.change(Change::Add, Reg::R1, thread::NUMBERS.into());
        program.copy(Reg::R3, POINTER);
        program.change(Change::Add, Reg::R3, pid.numbers);
        program.call(Helper::ReadKernel);
        let program = &mut self.program;
        program.load(Reg::R1, RECORD, thread::LEVEL);
        program.change(Change::Multiply, Reg::R1, pid.upid);
        program.add_register(POINTER, Reg::R1);
        self.follow(POINTER, POINTER, pid.numbers + pid.namespace);
        self.word(thread::NAMESPACE, 4, POINTER, pid.inode);
        self.program.place(done);
    }

    fn private_queue(&mut self) {
        self.queue(TASK, self.members.task.queue, Kind::Private);
    }

    /// Copies the entries of the list whose head is at `base + offset`.
    fn queue(&mut self, base: Reg, offset: i32, kind: Kind) {
        self.follow(Reg::R1, base, offset);
        let program = &mut self.program;
        program.store(Reg::R10, CONTEXT + NEXT, Reg::R1);
        program.copy(Reg::R1, base);
        program.change(Change::Add, Reg::R1, offset);
        program.store(Reg::R10, CONTEXT + HEAD, Reg::R1);
        program.store_value(Reg::R10, CONTEXT + KIND, kind as i32);
        self.run(self.entry);
    }

    /// Lets bpf_loop call `function` until the list is at its end. What is left then is a list that has no end.
    fn run(&mut self, function: Label) {
        let ended = self.program.label();
        let program = &mut self.program;
        program.set(Reg::R1, MOST_STEPS);
        program.function(Reg::R2, function);
        program.copy(Reg::R3, Reg::R10);
        program.change(Change::Add, Reg::R3, CONTEXT.into());
        program.set(Reg::R4, 0);
        program.call(Helper::Loop);
        program.load(Reg::R1, Reg::R10, CONTEXT + NEXT);
        program.load(Reg::R2, Reg::R10, CONTEXT + HEAD);
        program.jump_if_register(Reg::R1, If::Equal, Reg::R2, ended);
        program.jump_if(Reg::R1, If::Equal, 0, ended);
        program.map_value(Reg::R1, self.maps.request);
        program.load(Reg::R2, Reg::R1, Request::STATUS);
        program.jump_if(Reg::R2, If::NotEqual, 0, ended);
        program.store_value(Reg::R1, Request::STATUS, Status::Torn as i32);
        program.place(ended);
    }

    /// What all threads share is written with the leader.
    fn process(&mut self, end: Label) {
        let members = self.members;
        let (full, begun) = (self.program.label(), self.program.label());
        self.follow(POINTER, TASK, members.task.leader);
        self.program
            .jump_if_register(POINTER, If::NotEqual, TASK, end);
        self.reserve(Some(Kind::Process), PROCESS, full);
        self.program.jump(begun);
        self.program.place(full);
        self.status(Status::Full);
        self.program.jump(end);
        self.program.place(begun);
        let signal = &members.signal;
        let limit = signal.limits + RLIMIT_SIZE * RLIMIT_SIGPENDING;
        let words = [
            (process::PENDING, 8, signal.pending),
            (process::FLAGS, 4, signal.flags),
            (process::EXIT_CODE, 4, signal.exit_code),
            (process::STOP_COUNT, 4, signal.stop_count),
            (process::THREADS, 4, signal.threads),
            (process::LIMIT, RLIMIT_SIZE, limit),
            (process::INTERVAL, 8, signal.interval),
            (process::EXPIRES, 8, signal.timer + members.hrtimer.expires),
            (process::ACTIVE, 1, signal.timer + members.hrtimer.state),
            (process::CPU_TIMERS, 32, signal.cpu_timers),
            (process::TIMERS, 8, signal.timers),
        ];
        for (at, size, offset) in words {
            self.word(at, size, SIGNAL, offset);
        }
        self.program.copy(Reg::R1, SIGNAL);
        self.program.change(Change::Add, Reg::R1, signal.timers);
        self.program.store(RECORD, process::TIMERS_HEAD, Reg::R1);
        self.follow(POINTER, TASK, members.task.cred);
        self.follow(POINTER, POINTER, members.charged.0);
        self.word(
            process::CHARGED,
            members.charged.2,
            POINTER,
            members.charged.1,
        );
        self.follow(POINTER, TASK, members.task.sighand);
        self.program.store(RECORD, process::SIGHAND, POINTER);
        self.program.read_kernel(
            RECORD,
            process::ACTIONS,
            members.action * SIGNALS,
            POINTER,
            members.actions,
        );
        self.program.call(Helper::Monotonic);
        self.program.store(RECORD, process::MONOTONIC, Reg::R0);
        self.program.call(Helper::Boottime);
        self.program.store(RECORD, process::BOOTTIME, Reg::R0);
        self.queue(SIGNAL, signal.queue, Kind::Shared);
        if members.timers.is_ok() {
            self.follow(Reg::R1, SIGNAL, signal.timers);
            self.program.store(Reg::R10, CONTEXT + NEXT, Reg::R1);
            self.program.copy(Reg::R1, SIGNAL);
            self.program.change(Change::Add, Reg::R1, signal.timers);
            self.program.store(Reg::R10, CONTEXT + HEAD, Reg::R1);
            self.run(self.timer);
        }
    }

    /// The beginning of a function of bpf_loop: the next entry is in SIGNAL, and a record is reserved for it. Returns where it
    /// ends for the last time, and where when an entry can't be read.
    fn function_begin(&mut self, kind: Option<Kind>, size: i32) -> (Label, Label) {
        let [done, torn, full, going_on] = [(); 4].map(|()| self.program.label());
        let program = &mut self.program;
        // The context.
        program.copy(TASK, Reg::R2);
        program.load(SIGNAL, TASK, NEXT);
        program.load(Reg::R1, TASK, HEAD);
        program.jump_if_register(SIGNAL, If::Equal, Reg::R1, done);
        program.jump_if(SIGNAL, If::Equal, 0, done);
        self.reserve(kind, size, full);
        self.program.jump(going_on);
        self.program.place(full);
        self.status(Status::Full);
        self.program.jump(done);
        self.program.place(torn);
        self.status(Status::Torn);
        self.program.place(done);
        self.program.set(Reg::R0, 1);
        self.program.exit();
        self.program.place(going_on);
        (done, torn)
    }

    fn entry_function(&mut self) {
        let (list, size) = (self.members.entry.list, self.members.entry.size);
        self.program.place(self.entry);
        let (_, torn) = self.function_begin(None, entry::HEADER + size);
        let program = &mut self.program;
        program.load(Reg::R1, TASK, KIND);
        program.store(RECORD, 0, Reg::R1);
        program.change(Change::Add, SIGNAL, -list);
        program.store(RECORD, entry::ADDRESS, SIGNAL);
        self.program
            .read_kernel(RECORD, short(entry::HEADER), size, SIGNAL, 0);
        let program = &mut self.program;
        program.jump_if(Reg::R0, If::NotEqual, 0, torn);
        program.load(Reg::R1, RECORD, short(entry::HEADER + list));
        program.store(TASK, NEXT, Reg::R1);
        program.set(Reg::R0, 0);
        program.exit();
    }

    fn timer_function(&mut self) {
        let Ok(members) = &self.members.timers else {
            return;
        };
        let at = |offset: i32| short(timer::HEADER + offset);
        self.program.place(self.timer);
        let (_, torn) = self.function_begin(Some(Kind::Timer), timer::HEADER + members.size);
        self.program.change(Change::Add, SIGNAL, -members.list);
        self.program.store(RECORD, timer::ADDRESS, SIGNAL);
        self.program
            .read_kernel(RECORD, short(timer::HEADER), members.size, SIGNAL, 0);
        self.program.jump_if(Reg::R0, If::NotEqual, 0, torn);
        self.program.load(POINTER, RECORD, at(members.pid));
        self.own_number(POINTER, RECORD, timer::TOLD);
        self.program.load(POINTER, RECORD, at(members.cpu_pid));
        self.number(POINTER, RECORD, timer::MEASURED);
        // Of a timer of processor time this is no address, and nothing is read.
        self.program.load(POINTER, RECORD, at(members.base));
        self.word(timer::BASE, 4, POINTER, members.base_clock);
        let program = &mut self.program;
        program.load(Reg::R1, RECORD, at(members.list));
        program.store(TASK, NEXT, Reg::R1);
        program.set(Reg::R0, 0);
        program.exit();
    }
}
