//! Offsets of the members that are read for one process.

use super::super::layout::{BitField, Layout, Structure};
use super::super::pids::PidMembers;
use super::format::{ACTION, BLOCK_ROOM, INFO, REGISTERS_SIZE};
use crate::arch::PT_REGS_ARE_ALL;
use crate::error::{Cause, Error, Result};

pub(super) struct Members {
    pub(super) task: Task,
    pub(super) signal: Signal,
    pub(super) pid: PidMembers,
    pub(super) entry: EntryMembers,
    pub(super) hrtimer: Hrtimer,
    /// Where `sighand->action` is, and the size of an element.
    pub(super) actions: i32,
    pub(super) action: i32,
    pub(super) action_members: Action,
    /// From the credentials to what counts a user's siginfos, in that the number, and its size.
    pub(super) charged: (i32, i32, i32),
    /// The size of `struct pt_regs`.
    pub(super) registers: i32,
    pub(super) block: Block,
    /// In the iterator's context the task.
    pub(super) context: i32,
    /// `Err`: timers of this kernel are unknown, and why. Only a process that has some can't be read.
    pub(super) timers: std::result::Result<TimerMembers, String>,
}

pub(super) struct Task {
    pub(super) signal: i32,
    pub(super) sighand: i32,
    pub(super) leader: i32,
    pub(super) tracer: i32,
    pub(super) ptrace: i32,
    pub(super) thread_pid: i32,
    pub(super) cred: i32,
    pub(super) comm: i32,
    pub(super) flags: i32,
    pub(super) state: i32,
    pub(super) on_cpu: i32,
    pub(super) exit_state: i32,
    pub(super) blocked: i32,
    pub(super) real_blocked: i32,
    pub(super) saved: i32,
    pub(super) restore: BitField,
    pub(super) pending: i32,
    pub(super) queue: i32,
    pub(super) stack: i32,
    pub(super) stack_size: i32,
    pub(super) stack_flags: i32,
    pub(super) jobctl: i32,
    pub(super) parent_death: i32,
    pub(super) exit_signal: i32,
    pub(super) switches: i32,
    pub(super) switched: i32,
    pub(super) started: i32,
    pub(super) seccomp: i32,
    pub(super) memory: i32,
    pub(super) dispatch: i32,
    pub(super) dispatches: i32,
    pub(super) block: i32,
    pub(super) block_size: i32,
    pub(super) ran: i32,
}

pub(super) struct Signal {
    pub(super) pending: i32,
    pub(super) queue: i32,
    pub(super) flags: i32,
    pub(super) exit_code: i32,
    pub(super) stop_count: i32,
    pub(super) threads: i32,
    pub(super) limits: i32,
    pub(super) interval: i32,
    pub(super) timer: i32,
    pub(super) cpu_timers: i32,
    pub(super) timers: i32,
}

pub(super) struct EntryMembers {
    pub(super) list: i32,
    pub(super) info: i32,
    pub(super) size: i32,
}

pub(super) struct Hrtimer {
    pub(super) expires: i32,
    pub(super) state: i32,
}

/// Of `struct sigaction` in `struct k_sigaction`.
#[derive(Debug)]
pub(in super::super) struct Action {
    pub(in super::super) handler: i32,
    pub(in super::super) flags: i32,
    pub(in super::super) restorer: i32,
    pub(in super::super) mask: i32,
}

/// Of `struct restart_block`.
pub(in super::super) struct Block {
    pub(in super::super) function: i32,
    pub(in super::super) nanosleep: i32,
    pub(in super::super) clock: i32,
    pub(in super::super) poll_has: i32,
    pub(in super::super) poll_seconds: i32,
    pub(in super::super) poll_nanoseconds: i32,
    pub(in super::super) futex: i32,
}

impl Block {
    pub(in super::super) fn from_layout(layout: &Layout, block: &Structure) -> Result<Block> {
        let at = |path: &str| layout.offset(block, path);
        Ok(Block {
            function: at("fn")?,
            nanosleep: at("nanosleep.expires")?,
            clock: at("nanosleep.clockid")?,
            poll_has: at("poll.has_timeout")?,
            poll_seconds: at("poll.tv_sec").or_else(|_| at("poll.end_time.tv_sec"))?,
            poll_nanoseconds: at("poll.tv_nsec").or_else(|_| at("poll.end_time.tv_nsec"))?,
            futex: at("futex.time")?,
        })
    }
}

/// Of `struct k_itimer`, as it is since Linux 6.13.
pub(super) struct TimerMembers {
    pub(super) size: i32,
    pub(super) list: i32,
    pub(super) id: i32,
    pub(super) clock: i32,
    pub(super) notify: i32,
    pub(super) status: i32,
    pub(super) overrun: i32,
    pub(super) overrun_last: i32,
    pub(super) signal_seq: i32,
    pub(super) queue_seq: i32,
    pub(super) interval: i32,
    pub(super) ignored_list: i32,
    /// `ignored_list.pprev`.
    pub(super) ignored: i32,
    pub(super) pid: i32,
    pub(super) entry: i32,
    pub(super) info: i32,
    pub(super) real_expires: i32,
    /// `it.real.timer.base`, and the clock of that.
    pub(super) base: i32,
    pub(super) base_clock: i32,
    pub(super) cpu_expires: i32,
    pub(super) alarm_expires: i32,
    pub(super) cpu_pid: i32,
}

impl Members {
    pub(super) fn of_this_kernel(layout: &Layout) -> Result<Members> {
        let task = layout.structure("task_struct")?;
        let context = layout.structure("bpf_iter__task")?;
        let entry = layout.structure("sigqueue")?;
        let signal = layout.behind(&task, "signal")?;
        let sighand = layout.behind(&task, "sighand")?;
        let action = layout.behind(&sighand, "action")?;
        let hrtimer = layout.behind(&signal, "real_timer")?;
        let block = layout.behind(&task, "restart_block")?;
        let at = |of: &Structure, path: &str| layout.offset(of, path);
        let members = Members {
            task: Task::from_layout(layout, &task, &block)?,
            signal: Signal::from_layout(layout, &signal)?,
            pid: PidMembers::from_layout(layout, &task)?,
            entry: EntryMembers {
                list: at(&entry, "list")?,
                info: at(&entry, "info")?,
                size: entry.size()?,
            },
            hrtimer: Hrtimer {
                expires: at(&hrtimer, "node.expires")?,
                state: at(&hrtimer, "state")?,
            },
            actions: at(&sighand, "action")?,
            action: action.size()?,
            action_members: Action {
                handler: at(&action, "sa.sa_handler")?,
                flags: at(&action, "sa.sa_flags")?,
                restorer: at(&action, "sa.sa_restorer")?,
                mask: at(&action, "sa.sa_mask")?,
            },
            charged: charged(layout, &task)?,
            registers: layout.structure("pt_regs")?.size()?,
            block: Block::from_layout(layout, &block)?,
            context: at(&context, "task")?,
            timers: TimerMembers::from_layout(layout).map_err(|e| e.to_string()),
        };
        members.check()?;
        Ok(members)
    }

    /// How much of the registers is read.
    pub(super) fn registers_read(&self) -> i32 {
        if PT_REGS_ARE_ALL {
            self.registers
        } else {
            self.registers.min(REGISTERS_SIZE)
        }
    }

    /// The records have room for what is known.
    fn check(&self) -> Result<()> {
        let sizes = [
            ("k_sigaction", self.action, ACTION),
            ("pt_regs", self.registers_read(), REGISTERS_SIZE),
            ("upid", self.pid.upid, 16),
        ];
        let other = sizes.iter().find(|(_, found, known)| found != known);
        if let Some((name, found, known)) = other {
            let why = format!("struct {name} has {found} bytes here, this version knows {known}");
            return Err(Error::new(
                "read the kernel's types",
                Cause::Unsupported(why.into()),
            ));
        }
        if self.task.block_size > BLOCK_ROOM || self.entry.size - self.entry.info < INFO {
            let why = "struct restart_block or struct sigqueue is larger or smaller than this version knows";
            return Err(Error::new(
                "read the kernel's types",
                Cause::Unsupported(why.into()),
            ));
        }
        Ok(())
    }
}

impl Task {
    fn from_layout(layout: &Layout, task: &Structure, block: &Structure) -> Result<Task> {
        let at = |path: &str| layout.offset(task, path);
        let seccomp = layout.behind(task, "seccomp")?;
        let dispatch = layout.behind(task, "syscall_dispatch")?;
        Ok(Task {
            signal: at("signal")?,
            sighand: at("sighand")?,
            leader: at("group_leader")?,
            tracer: at("parent")?,
            ptrace: at("ptrace")?,
            thread_pid: at("thread_pid")?,
            cred: at("real_cred")?,
            comm: at("comm")?,
            flags: at("flags")?,
            state: at("__state").or_else(|_| at("state"))?,
            on_cpu: at("on_cpu")?,
            exit_state: at("exit_state")?,
            blocked: at("blocked")?,
            real_blocked: at("real_blocked")?,
            saved: at("saved_sigmask")?,
            restore: layout.bit(task, "restore_sigmask")?,
            pending: at("pending.signal")?,
            queue: at("pending.list")?,
            stack: at("sas_ss_sp")?,
            stack_size: at("sas_ss_size")?,
            stack_flags: at("sas_ss_flags")?,
            jobctl: at("jobctl")?,
            parent_death: at("pdeath_signal")?,
            exit_signal: at("exit_signal")?,
            switches: at("nvcsw")?,
            switched: at("nivcsw")?,
            started: at("start_boottime")?,
            seccomp: at("seccomp")? + layout.offset(&seccomp, "mode")?,
            memory: at("mm")?,
            dispatch: at("syscall_dispatch")? + layout.offset(&dispatch, "selector")?,
            dispatches: at("syscall_dispatch")? + layout.offset(&dispatch, "on_dispatch")?,
            ran: at("se.sum_exec_runtime")?,
            block: at("restart_block")?,
            block_size: block.size()?,
        })
    }
}

impl Signal {
    fn from_layout(layout: &Layout, signal: &Structure) -> Result<Signal> {
        let at = |path: &str| layout.offset(signal, path);
        Ok(Signal {
            pending: at("shared_pending.signal")?,
            queue: at("shared_pending.list")?,
            flags: at("flags")?,
            exit_code: at("group_exit_code")?,
            stop_count: at("group_stop_count")?,
            threads: at("nr_threads")?,
            limits: at("rlim")?,
            interval: at("it_real_incr")?,
            timer: at("real_timer")?,
            cpu_timers: at("it")?,
            timers: at("posix_timers")?,
        })
    }
}

impl TimerMembers {
    fn from_layout(layout: &Layout) -> Result<TimerMembers> {
        let timer = layout.structure("k_itimer")?;
        let entry = layout.structure("sigqueue")?;
        let at = |path: &str| layout.offset(&timer, path);
        // Before 6.13 the entry was allocated apart.
        let queued = at("sigq.list")? - layout.offset(&entry, "list")?;
        Ok(TimerMembers {
            size: timer.size()?,
            list: at("list")?,
            id: at("it_id")?,
            clock: at("it_clock")?,
            notify: at("it_sigev_notify")?,
            status: at("it_status")?,
            overrun: at("it_overrun")?,
            overrun_last: at("it_overrun_last")?,
            signal_seq: at("it_signal_seq")?,
            queue_seq: at("it_sigqueue_seq")?,
            interval: at("it_interval")?,
            ignored_list: at("ignored_list")?,
            ignored: at("ignored_list.pprev")?,
            pid: at("it_pid")?,
            entry: queued,
            info: at("sigq.info")?,
            real_expires: at("it.real.timer.node.expires")?,
            base: at("it.real.timer.base")?,
            base_clock: layout.offset(&layout.structure("hrtimer_clock_base")?, "clockid")?,
            cpu_expires: at("it.cpu.node.expires")?,
            alarm_expires: at("it.alarm.alarmtimer.node.expires")?,
            cpu_pid: at("it.cpu.pid")?,
        })
    }
}

/// UCOUNT_RLIMIT_SIGPENDING, include/linux/user_namespace.h.
const CHARGED: i32 = 2;

/// A user's siginfos are counted in `cred->ucounts` since Linux 5.14.
fn charged(layout: &Layout, task: &Structure) -> Result<(i32, i32, i32)> {
    let cred = layout.behind(task, "real_cred")?;
    let counts = layout.behind(&cred, "ucounts")?;
    let all = layout.offset(&counts, "rlimit")?;
    Ok((layout.offset(&cred, "ucounts")?, all + CHARGED * 8, 8))
}
