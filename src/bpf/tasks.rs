//! The signal state of all tasks in one pass.

use std::io::Read as _;
use std::os::fd::OwnedFd;

use criu_signals_images::{Name, Pid, SigNo, SigSet, Tid};

use super::assemble::{Change, Helper, If, Instruction, Label, Program, Reg, short};
use super::kernel;
use super::layout::{Layout, Structure};
use super::pids::PidMembers;
use crate::error::{Cause, Error, Result};

/// The signal state of one thread, and of its process, as the kernel keeps it.
///
/// It is read without a lock while the task runs: each member is right, but between two of them the task may have gone
/// on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSignals {
    /// The process, by its number in the caller's pid namespace, as all numbers here.
    pub pid: Pid,
    /// The thread.
    pub tid: Tid,
    /// Its parent. `None` if that is outside the pid namespace.
    pub parent: Option<Pid>,
    /// The thread that traces it.
    pub tracer: Option<Tid>,
    /// What the thread calls itself.
    pub comm: Name,
    /// The real uid, in the first user namespace.
    pub uid: u32,
    /// A thread of the kernel's own.
    pub is_kernel: bool,
    /// It has ended, and its parent has not waited for it.
    pub is_zombie: bool,
    /// The mask in force.
    pub blocked: SigSet,
    /// Pending for the thread alone.
    pub pending: SigSet,
    /// Pending for the process.
    pub shared_pending: SigSet,
    /// Ignored by the process.
    pub ignored: SigSet,
    /// Handled by the process.
    pub caught: SigSet,
    /// The thread's own queue.
    pub queue: QueueHead,
    /// The process's queue.
    pub shared_queue: QueueHead,
    /// The stop signal that has stopped the process, if it is stopped.
    pub stopped_by: Option<SigNo>,
    /// That stop has not been waited for by the parent.
    pub stop_is_waitable: bool,
    /// How many threads the process has.
    pub threads: u32,
    /// When it began, in nanoseconds since the machine was started, by CLOCK_BOOTTIME.
    pub started: u64,
}

/// How much is in a queue, and what has been there for longest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueHead {
    /// How many entries, but [`MOST_COUNTED`] at most.
    pub entries: u32,
    /// The number of the first entry.
    pub oldest: Option<SigNo>,
}

/// So many entries of a queue are counted. The verifier follows the loop that counts step by step: 500 steps for each of two
/// queues take it some 10 ms, 1,000 four times as long.
pub const MOST_COUNTED: u32 = 500;

/// Reads all tasks, as often as it is asked to.
pub struct TaskReader {
    /// A pass over all tasks is made whenever a file is made of it.
    link: OwnedFd,
}

impl TaskReader {
    /// Makes the program for this kernel and loads it.
    ///
    /// # Errors
    /// If the kernel has no type information, or other types than this version knows (the error names the member), if a
    /// capability is missing, or if the kernel's verifier refuses the program.
    pub fn new() -> Result<TaskReader> {
        let layout = Layout::read()?;
        let target = layout.function("bpf_iter_task")?;
        let program = program(&Members::of_this_kernel(&layout)?)?;
        let what = "load the BPF program that reads tasks";
        let program = kernel::load(&program, target).map_err(|e| e.error(what))?;
        let link = kernel::link(&program)
            .map_err(|errno| Error::os("attach the BPF program that reads tasks", errno))?;
        Ok(TaskReader { link })
    }

    /// All threads of all processes in the caller's pid namespace, the kernel's own among them. Dead threads that are no
    /// leaders are left out.
    ///
    /// # Errors
    /// If reading fails.
    pub fn read(&self) -> Result<Vec<TaskSignals>> {
        let what = "read all tasks by BPF";
        let mut file = kernel::open(&self.link).map_err(|errno| Error::os(what, errno))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|e| Error::io(what, &e))?;
        let records = bytes.chunks_exact(RECORD);
        if !records.remainder().is_empty() {
            let why = format!("{} bytes are no whole number of records", bytes.len());
            return Err(Error::new(what, Cause::Unexpected(why)));
        }
        let tasks = records.filter_map(parse).collect::<Vec<_>>();
        Ok(with_process_state(tasks))
    }
}

/// The dispositions are read of leaders only: the other threads have the same.
fn with_process_state(mut tasks: Vec<TaskSignals>) -> Vec<TaskSignals> {
    tasks.sort_by_key(|task| (task.pid, Tid::from(task.pid) != task.tid, task.tid));
    for process in tasks.chunk_by_mut(|one, next| one.pid == next.pid) {
        let Some((leader, others)) = process.split_first_mut() else {
            continue;
        };
        for other in others {
            other.ignored = leader.ignored;
            other.caught = leader.caught;
        }
    }
    tasks
}

// ---- the record ----------------------------------------------------------------------------------------------------

/// What the program writes for a task: words of eight bytes, by their number.
#[derive(Clone, Copy)]
#[repr(i16)]
enum Word {
    Pid,
    Tid,
    Parent,
    Tracer,
    /// Two words.
    Comm,
    Uid = 6,
    /// `task->flags`.
    Flags,
    ExitState,
    Blocked,
    Pending,
    Shared,
    Ignored,
    Caught,
    Jobctl,
    /// `signal->flags`.
    SignalFlags,
    GroupExitCode,
    Threads,
    Started,
    Queued,
    Oldest,
    SharedQueued,
    SharedOldest,
    Count,
}

const RECORD: usize = Word::Count as usize * 8;

// include/linux/sched.h
const PF_KTHREAD: u64 = 0x0020_0000;
// include/linux/sched/jobctl.h: in these bits the number of the last group stop's signal.
const JOBCTL_STOP_SIGMASK: u64 = 0xffff;
// include/linux/sched/signal.h: a group stop is complete.
const SIGNAL_STOP_STOPPED: u64 = 0x1;

/// `None` of what has no number in this pid namespace: it has ended.
fn parse(record: &[u8]) -> Option<TaskSignals> {
    let bytes = |word: Word, size: usize| {
        let at = word as usize * 8;
        record.get(at..at + size)
    };
    let word = |word: Word| Some(u64::from_ne_bytes(bytes(word, 8)?.try_into().ok()?));
    let number = |at: Word| word(at).and_then(|value| i32::try_from(value).ok());
    let half = |at: Word| word(at).map(|value| u32::try_from(value).unwrap_or(u32::MAX));
    let set = |at: Word| word(at).map(SigSet::from_bits);
    let head = |entries: Word, oldest: Word| {
        Some(QueueHead {
            entries: half(entries)?,
            oldest: number(oldest).and_then(SigNo::new),
        })
    };
    let comm = bytes(Word::Comm, 16)?.split(|&b| b == 0).next()?;
    let stopped = word(Word::SignalFlags)? & SIGNAL_STOP_STOPPED != 0;
    let by = i32::try_from(word(Word::Jobctl)? & JOBCTL_STOP_SIGMASK).ok()?;
    Some(TaskSignals {
        pid: number(Word::Pid).and_then(Pid::new)?,
        tid: number(Word::Tid).and_then(Tid::new)?,
        parent: number(Word::Parent).and_then(Pid::new),
        tracer: number(Word::Tracer).and_then(Tid::new),
        comm: String::from_utf8_lossy(comm).into_owned().into(),
        uid: half(Word::Uid)?,
        is_kernel: word(Word::Flags)? & PF_KTHREAD != 0,
        is_zombie: word(Word::ExitState)? != 0,
        blocked: set(Word::Blocked)?,
        pending: set(Word::Pending)?,
        shared_pending: set(Word::Shared)?,
        ignored: set(Word::Ignored)?,
        caught: set(Word::Caught)?,
        queue: head(Word::Queued, Word::Oldest)?,
        shared_queue: head(Word::SharedQueued, Word::SharedOldest)?,
        stopped_by: if stopped { SigNo::new(by) } else { None },
        // The parent's wait(2) takes the code (wait_task_stopped, kernel/exit.c).
        stop_is_waitable: stopped && word(Word::GroupExitCode)? != 0,
        threads: half(Word::Threads)?,
        started: word(Word::Started)?,
    })
}

// ---- the program ---------------------------------------------------------------------------------------------------

/// Offsets of all members that are read.
struct Members {
    task: Task,
    signal: Signal,
    /// `sighand->action`, the size of an element, and in that the handler.
    actions: i32,
    action: i32,
    handler: i32,
    /// `cred->uid.val`.
    uid: i32,
    pid: PidMembers,
    /// From a `sigqueue`'s place in its list to the number of the signal.
    signo: i32,
    /// In the iterator's context: `meta->seq`.
    meta: i32,
    seq: i32,
    current: i32,
}

struct Task {
    signal: i32,
    sighand: i32,
    leader: i32,
    parent: i32,
    tracer: i32,
    ptrace: i32,
    thread_pid: i32,
    cred: i32,
    comm: i32,
    flags: i32,
    exit_state: i32,
    blocked: i32,
    pending: i32,
    queue: i32,
    jobctl: i32,
    started: i32,
}

struct Signal {
    pending: i32,
    queue: i32,
    flags: i32,
    exit_code: i32,
    threads: i32,
}

impl Members {
    fn of_this_kernel(layout: &Layout) -> Result<Members> {
        let task = layout.structure("task_struct")?;
        let context = layout.structure("bpf_iter__task")?;
        let entry = layout.structure("sigqueue")?;
        let signal = layout.behind(&task, "signal")?;
        let sighand = layout.behind(&task, "sighand")?;
        let action = layout.behind(&sighand, "action")?;
        let cred = layout.behind(&task, "real_cred")?;
        let meta = layout.behind(&context, "meta")?;
        let at = |of: &Structure, path: &str| layout.offset(of, path);
        Ok(Members {
            task: Task {
                signal: at(&task, "signal")?,
                sighand: at(&task, "sighand")?,
                leader: at(&task, "group_leader")?,
                parent: at(&task, "real_parent")?,
                tracer: at(&task, "parent")?,
                ptrace: at(&task, "ptrace")?,
                thread_pid: at(&task, "thread_pid")?,
                cred: at(&task, "real_cred")?,
                comm: at(&task, "comm")?,
                flags: at(&task, "flags")?,
                exit_state: at(&task, "exit_state")?,
                blocked: at(&task, "blocked")?,
                pending: at(&task, "pending.signal")?,
                queue: at(&task, "pending.list")?,
                jobctl: at(&task, "jobctl")?,
                started: at(&task, "start_boottime")?,
            },
            signal: Signal {
                pending: at(&signal, "shared_pending.signal")?,
                queue: at(&signal, "shared_pending.list")?,
                flags: at(&signal, "flags")?,
                exit_code: at(&signal, "group_exit_code")?,
                threads: at(&signal, "nr_threads")?,
            },
            actions: at(&sighand, "action")?,
            action: action.size()?,
            handler: at(&action, "sa.sa_handler")?,
            uid: at(&cred, "uid.val")?,
            pid: PidMembers::from_layout(layout, &task)?,
            signo: at(&entry, "info.si_signo")? - at(&entry, "list")?,
            meta: at(&context, "meta")?,
            seq: at(&meta, "seq")?,
            current: at(&context, "task")?,
        })
    }
}

/// The record on the program's stack of 512 bytes, and what is below that.
const BASE: i16 = -(Word::Count as i16 * 8);
/// A pointer or a number that has just been read.
const SCRATCH: i16 = BASE - 8;
/// In how many pid namespaces the caller is, besides the first.
const LEVEL: i16 = BASE - 16;
/// Dispositions, some at a time.
const ACTIONS: i16 = LEVEL - ACTIONS_SIZE;
const ACTIONS_SIZE: i16 = 256;

/// The kernel has 64 signals (_NSIG, asm/signal.h).
const SIGNALS: i32 = 64;

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
        self.queues();
        self.dispositions();
        self.end(end);
    }

    fn slot(word: Word) -> i16 {
        BASE + word as i16 * 8
    }

    /// Copies `size` bytes from `base + offset` to the stack.
    fn copy(&mut self, to: i16, size: i32, base: Reg, offset: i32) {
        self.program.read_kernel(Reg::R10, to, size, base, offset);
    }

    fn word(&mut self, to: Word, base: Reg, offset: i32) {
        self.copy(Maker::slot(to), 8, base, offset);
    }

    /// A member of four bytes. The record is cleared before.
    fn half(&mut self, to: Word, base: Reg, offset: i32) {
        self.copy(Maker::slot(to), 4, base, offset);
    }

    fn follow(&mut self, into: Reg, base: Reg, offset: i32) {
        self.program.follow(into, base, offset, SCRATCH);
    }

    /// The context has pointers that the verifier knows; the task is null at the end of the pass.
    fn begin(&mut self, end: Label) {
        let members = self.members;
        let program = &mut self.program;
        program.load(TASK, Reg::R1, short(members.current));
        program.load(Reg::R2, Reg::R1, short(members.meta));
        program.load(SEQ, Reg::R2, short(members.seq));
        program.jump_if(TASK, If::Equal, 0, end);
        for word in 0..Word::Count as i16 {
            program.clear(Reg::R10, BASE + word * 8);
        }
        program.clear(Reg::R10, LEVEL);
        program.call(Helper::CurrentTask);
        program.copy(POINTER, Reg::R0);
        self.follow(POINTER, POINTER, members.task.thread_pid);
        self.copy(LEVEL, 4, POINTER, members.pid.level);
        let program = &mut self.program;
        program.load(SIGNAL, TASK, short(members.task.signal));
        program.jump_if(SIGNAL, If::Equal, 0, end);
    }

    /// The number of the task in POINTER in the caller's pid namespace, zero if it has none there.
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
        let task = &self.members.task;
        self.program.copy(POINTER, TASK);
        self.number(Word::Tid);
        self.follow(POINTER, TASK, task.leader);
        self.number(Word::Pid);
        self.follow(POINTER, TASK, task.parent);
        self.follow(POINTER, POINTER, task.leader);
        self.number(Word::Parent);
        let untraced = self.program.label();
        self.program.clear(Reg::R10, SCRATCH);
        self.copy(SCRATCH, 4, TASK, task.ptrace);
        self.program.load(Reg::R1, Reg::R10, SCRATCH);
        self.program.jump_if(Reg::R1, If::Equal, 0, untraced);
        self.follow(POINTER, TASK, task.tracer);
        self.number(Word::Tracer);
        self.program.place(untraced);
    }

    fn of_task(&mut self) {
        let task = &self.members.task;
        self.copy(Maker::slot(Word::Comm), 16, TASK, task.comm);
        self.half(Word::Flags, TASK, task.flags);
        self.half(Word::ExitState, TASK, task.exit_state);
        self.word(Word::Blocked, TASK, task.blocked);
        self.word(Word::Pending, TASK, task.pending);
        self.word(Word::Jobctl, TASK, task.jobctl);
        self.word(Word::Started, TASK, task.started);
        self.follow(POINTER, TASK, task.cred);
        self.half(Word::Uid, POINTER, self.members.uid);
    }

    fn of_process(&mut self) {
        let signal = &self.members.signal;
        self.word(Word::Shared, SIGNAL, signal.pending);
        self.half(Word::SignalFlags, SIGNAL, signal.flags);
        self.half(Word::GroupExitCode, SIGNAL, signal.exit_code);
        self.half(Word::Threads, SIGNAL, signal.threads);
    }

    fn queues(&mut self) {
        let (own, shared) = (self.members.task.queue, self.members.signal.queue);
        self.queue(TASK, own, Word::Queued, Word::Oldest);
        self.queue(SIGNAL, shared, Word::SharedQueued, Word::SharedOldest);
    }

    /// Counts the entries of the list whose head is at `base + offset`. `base` is a pointer whose type the verifier knows, and
    /// so are those that are loaded from it: such loads need no helper, which makes the loop cheap to verify and to run.
    fn queue(&mut self, base: Reg, offset: i32, count: Word, oldest: Word) {
        let empty = self.program.label();
        self.follow(POINTER, base, offset);
        let program = &mut self.program;
        program.copy(Reg::R1, base);
        program.change(Change::Add, Reg::R1, offset);
        program.jump_if_register(POINTER, If::Equal, Reg::R1, empty);
        self.half(oldest, POINTER, self.members.signo);

        let [next, done] = [(); 2].map(|()| self.program.label());
        let (head, entry, counted) = (Reg::R1, Reg::R2, Reg::R3);
        let program = &mut self.program;
        program.copy(head, base);
        program.change(Change::Add, head, offset);
        program.load(entry, base, short(offset));
        program.set(counted, 0);
        program.place(next);
        program.jump_if_register(entry, If::Equal, head, done);
        program.jump_if(entry, If::Equal, 0, done);
        program.jump_if(counted, If::Above, MOST_COUNTED.cast_signed() - 1, done);
        program.change(Change::Add, counted, 1);
        program.load(entry, entry, 0);
        program.jump(next);
        program.place(done);
        program.store(Reg::R10, Maker::slot(count), counted);
        program.place(empty);
    }

    /// The sets of ignored and of caught signals, for a leader (collect_sigign_sigcatch, fs/proc/array.c).
    fn dispositions(&mut self) {
        let members = self.members;
        let done = self.program.label();
        self.follow(POINTER, TASK, members.task.leader);
        self.program
            .jump_if_register(POINTER, If::NotEqual, TASK, done);
        self.follow(POINTER, TASK, members.task.sighand);
        self.program.jump_if(POINTER, If::Equal, 0, done);
        let at_a_time = i32::from(ACTIONS_SIZE) / members.action;
        let sets = [(Word::Caught, Reg::R4), (Word::Ignored, Reg::R5)];
        for first in (0..SIGNALS).step_by(usize::try_from(at_a_time).unwrap_or(1)) {
            let several = at_a_time.min(SIGNALS - first);
            let from = members.actions + first * members.action;
            self.copy(ACTIONS, several * members.action, POINTER, from);
            for (word, set) in sets {
                self.program.load(set, Reg::R10, Maker::slot(word));
            }
            for n in 0..several {
                let at = i32::from(ACTIONS) + n * members.action + members.handler;
                self.disposition(
                    i16::try_from(at).unwrap_or(ACTIONS),
                    sets.map(|(_, set)| set),
                );
            }
            for (word, set) in sets {
                self.program.store(Reg::R10, Maker::slot(word), set);
            }
        }
        self.program.place(done);
    }

    /// Moves the next signal, whose handler is on the stack, into the two sets from above: after 64 each is in its place.
    /// There are no branches, which the verifier would have to follow each: `(x | -x) >> 63` is 1 unless x is zero.
    fn disposition(&mut self, handler: i16, [caught, ignored]: [Reg; 2]) {
        let program = &mut self.program;
        let (one, other, scratch) = (Reg::R1, Reg::R2, Reg::R3);
        program.load(one, Reg::R10, handler);
        program.copy(other, one);
        program.change(Change::Xor, other, 1);
        for value in [one, other] {
            program.copy(scratch, value);
            program.negate(scratch);
            program.or(value, scratch);
            program.change(Change::ShiftRight, value, 63);
        }
        // `one`: not SIG_DFL, which is 0. `other`: not SIG_IGN, which is 1.
        program.and(one, other);
        program.change(Change::Xor, other, 1);
        for (set, bit) in [(caught, one), (ignored, other)] {
            program.change(Change::ShiftRight, set, 1);
            program.change(Change::ShiftLeft, bit, 63);
            program.or(set, bit);
        }
    }

    fn end(&mut self, end: Label) {
        let program = &mut self.program;
        program.write_stack(SEQ, BASE, -BASE);
        program.place(end);
        program.set(Reg::R0, 0);
        program.exit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As root on a kernel with BTF; elsewhere there is nothing to test.
    #[test]
    fn what_it_reads_is_what_proc_says() {
        let reader = match TaskReader::new() {
            Ok(reader) => reader,
            Err(e) => {
                eprintln!("skipped: {e}");
                return;
            }
        };
        let own = nix::unistd::gettid().as_raw();
        let tasks = reader.read().unwrap();
        let task = tasks.iter().find(|task| task.tid.get() == own).unwrap();
        assert_eq!(task.pid, Pid::own());
        eprintln!("{task:?}");
    }
}
