//! Ids of tasks, read from `struct pid`: one id for each pid namespace that the task is in.

use super::assemble::{Change, Helper, If, Program, Reg};
use super::layout::{Layout, Structure};
use crate::error::Result;

/// Where the members of `struct pid` are that tell numbers, and those of its elements.
pub(super) struct PidMembers {
    /// In how many pid namespaces the task is, besides the first.
    pub(super) level: i32,
    pub(super) numbers: i32,
    /// The size of an element of `numbers`.
    pub(super) upid: i32,
    /// In an element, the number, and the namespace that the number is of.
    pub(super) nr: i32,
    pub(super) namespace: i32,
    /// The inode of a namespace.
    pub(super) inode: i32,
}

impl PidMembers {
    pub(super) fn from_layout(layout: &Layout, task: &Structure) -> Result<PidMembers> {
        let pid = layout.behind(task, "thread_pid")?;
        let upid = layout.behind(&pid, "numbers")?;
        let namespace = layout.behind(&upid, "ns")?;
        Ok(PidMembers {
            level: layout.offset(&pid, "level")?,
            numbers: layout.offset(&pid, "numbers")?,
            upid: upid.size()?,
            nr: layout.offset(&upid, "nr")?,
            namespace: layout.offset(&upid, "ns")?,
            inode: layout.offset(&namespace, "ns.inum")?,
        })
    }

    /// Adds to `program`: the number of the `struct pid` in `pid`, in the pid namespace of the level that `level` loads into
    /// [`Reg::R1`], goes to `to + at`, eight bytes. The number is zero if the task has none there. `scratch` is a place on the
    /// stack.
    pub(super) fn number(
        &self,
        program: &mut Program,
        pid: Reg,
        level: impl FnOnce(&mut Program),
        (to, at): (Reg, i16),
        scratch: i16,
    ) {
        let done = program.label();
        self.levels(program, pid, (to, at), scratch);
        level(program);
        program.load(Reg::R2, Reg::R10, scratch);
        program.jump_if_register(Reg::R1, If::Above, Reg::R2, done);
        self.number_at(program, pid, Reg::R1, (to, at));
        program.place(done);
    }

    /// As [`number`](Self::number), in the pid namespace that the task is in itself.
    pub(super) fn own_number(
        &self,
        program: &mut Program,
        pid: Reg,
        (to, at): (Reg, i16),
        scratch: i16,
    ) {
        self.levels(program, pid, (to, at), scratch);
        program.load(Reg::R1, Reg::R10, scratch);
        self.number_at(program, pid, Reg::R1, (to, at));
    }

    /// As [`number`](Self::number), for tasks that may be in any pid namespace. `home` loads the level and the address of the
    /// caller's into [`Reg::R1`] and [`Reg::R2`]. `scratch` is a place of two words.
    pub(super) fn number_at_home(
        &self,
        program: &mut Program,
        pid: Reg,
        home: impl Fn(&mut Program),
        (to, at): (Reg, i16),
        scratch: i16,
    ) {
        let done = program.label();
        self.levels(program, pid, (to, at), scratch);
        home(program);
        program.load(Reg::R2, Reg::R10, scratch);
        program.jump_if_register(Reg::R1, If::Above, Reg::R2, done);
        program.change(Change::Multiply, Reg::R1, self.upid);
        program.add_register(Reg::R1, pid);
        program.store(Reg::R10, scratch + 8, Reg::R1);
        program.copy(Reg::R0, Reg::R1);
        program.read_kernel(Reg::R10, scratch, 8, Reg::R0, self.numbers + self.namespace);
        home(program);
        program.load(Reg::R1, Reg::R10, scratch);
        program.jump_if_register(Reg::R1, If::NotEqual, Reg::R2, done);
        program.load(Reg::R0, Reg::R10, scratch + 8);
        program.read_kernel(to, at, 4, Reg::R0, self.numbers + self.nr);
        program.place(done);
    }

    /// No number yet at `to + at`, and how many namespaces there are besides the first in `scratch`.
    fn levels(&self, program: &mut Program, pid: Reg, (to, at): (Reg, i16), scratch: i16) {
        program.clear(to, at);
        program.clear(Reg::R10, scratch);
        program.read_kernel(Reg::R10, scratch, 4, pid, self.level);
    }

    fn number_at(&self, program: &mut Program, pid: Reg, level: Reg, (to, at): (Reg, i16)) {
        program.copy(Reg::R3, level);
        program.change(Change::Multiply, Reg::R3, self.upid);
        program.add_register(Reg::R3, pid);
        program.change(Change::Add, Reg::R3, self.numbers + self.nr);
        program.copy(Reg::R1, to);
        program.change(Change::Add, Reg::R1, at.into());
        program.set(Reg::R2, 4);
        program.call(Helper::ReadKernel);
    }
}
