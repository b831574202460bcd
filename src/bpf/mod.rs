//! Reads signal state out of the kernel without touching a process: no stop, no ptrace, no injected call.
//!
//! A `bpf_iter/task` program (Linux 5.8) is run by the kernel for each task that this process can see in its pid namespace.
//! It copies members of `struct task_struct` and of what the task points to. Their offsets come from the kernel's own type
//! information, `/sys/kernel/btf/vmlinux`, when the program is made, so no compiler and no kernel headers are needed.
//!
//! [`tasks`] reads a little of all tasks, [`process`] all of one process, [`stopped`] what an
//! injected call would ask the threads of stopped processes. [`trace`] follows signals as they are sent and delivered.
//!
//! Needed: CAP_BPF and CAP_PERFMON and CONFIG_DEBUG_INFO_BTF; for one process Linux 5.17.

mod assemble;
mod kernel;
mod layout;
mod pids;
pub mod process;
mod ring;
pub mod stopped;
pub mod tasks;
pub mod trace;

pub use layout::BTF;
