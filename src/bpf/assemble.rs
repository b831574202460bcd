//! An assembler for the few BPF instructions that are needed (Documentation/bpf/standardization/instruction-set.rst).

use crate::error::{Cause, Error, Result};

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    code: u8,
    /// The destination in the lower half, the source in the upper one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register. `R10` is the frame pointer; calls destroy `R1` to `R5`.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// A helper function of the kernel, by its number in `enum bpf_func_id`.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Helper {
    /// `bpf_ktime_get_ns()`: CLOCK_MONOTONIC of the machine, whatever the time namespace.
    Monotonic = 5,
    /// `bpf_get_current_task()`.
    CurrentTask = 35,
    /// `bpf_probe_read_kernel(to, size, from)`: fills `to` with zeros if `from` is not mapped.
    ReadKernel = 113,
    /// `bpf_ktime_get_boot_ns()`: CLOCK_BOOTTIME of the machine.
    Boottime = 125,
    /// `bpf_seq_write(seq, data, size)`.
    SeqWrite = 127,
    /// `bpf_ringbuf_output(map, data, size, flags)`: fails if there is no room (Linux 5.8).
    RingOutput = 130,
    /// `bpf_task_pt_regs(task)`: what a thread has left on its kernel stack when it entered the kernel (Linux 5.15).
    Registers = 175,
    /// `bpf_loop(times, function, context, 0)`: calls the function until it returns 1 (Linux 5.17).
    Loop = 181,
}

/// When a jump is taken: unsigned comparisons of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum If {
    Equal,
    NotEqual,
    Above,
}

impl If {
    fn code(self) -> u8 {
        match self {
            If::Equal => 0x10,
            If::Above => 0x20,
            If::NotEqual => 0x50,
        }
    }
}

/// An operation on all 64 bits of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Add,
    Multiply,
    ShiftLeft,
    ShiftRight,
    Xor,
}

impl Change {
    fn code(self) -> u8 {
        match self {
            Change::Add => 0x00,
            Change::Multiply => 0x20,
            Change::ShiftLeft => 0x60,
            Change::ShiftRight => 0x70,
            Change::Xor => 0xa0,
        }
    }
}

/// An offset of a member as instructions have it. No struct of the kernel's that is read has one that does not fit, and the
/// verifier refuses a program that reads elsewhere.
pub(super) fn short(offset: i32) -> i16 {
    i16::try_from(offset).unwrap_or(i16::MAX)
}

/// Where a jump goes. Made by [`Program::label`], placed by [`Program::place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// Instructions, as they are added.
#[derive(Debug, Default)]
pub(super) struct Program {
    instructions: Vec<Instruction>,
    /// Where each label is.
    labels: Vec<Option<usize>>,
    /// Jumps whose offsets are to be filled in.
    jumps: Vec<(usize, Label)>,
    /// Addresses of functions that are to be filled in.
    functions: Vec<(usize, Label)>,
}

impl Program {
    fn add(&mut self, code: u8, to: Reg, from: Reg, offset: i16, immediate: i32) {
        self.instructions.push(Instruction {
            code,
            registers: to as u8 | (from as u8) << 4,
            offset,
            immediate,
        });
    }

    /// `to = value`.
    pub(super) fn set(&mut self, to: Reg, value: i32) {
        self.add(0xb7, to, Reg::R0, 0, value);
    }

    /// `to = from`.
    pub(super) fn copy(&mut self, to: Reg, from: Reg) {
        self.add(0xbf, to, from, 0, 0);
    }

    /// `to += from`.
    pub(super) fn add_register(&mut self, to: Reg, from: Reg) {
        self.add(0x0f, to, from, 0, 0);
    }

    /// `to`, changed by `value`.
    pub(super) fn change(&mut self, how: Change, to: Reg, value: i32) {
        self.add(0x07 | how.code(), to, Reg::R0, 0, value);
    }

    /// `to = -to`.
    pub(super) fn negate(&mut self, to: Reg) {
        self.add(0x87, to, Reg::R0, 0, 0);
    }

    /// `to &= from`.
    pub(super) fn and(&mut self, to: Reg, from: Reg) {
        self.add(0x5f, to, from, 0, 0);
    }

    /// `to |= from`.
    pub(super) fn or(&mut self, to: Reg, from: Reg) {
        self.add(0x4f, to, from, 0, 0);
    }

    /// `to = *(from + offset)`, eight bytes.
    pub(super) fn load(&mut self, to: Reg, from: Reg, offset: i16) {
        self.add(0x79, to, from, offset, 0);
    }

    /// `*(to + offset) = from`, eight bytes.
    pub(super) fn store(&mut self, to: Reg, offset: i16, from: Reg) {
        self.add(0x7b, to, from, offset, 0);
    }

    /// `*(to + offset) = 0`, eight bytes.
    pub(super) fn clear(&mut self, to: Reg, offset: i16) {
        self.add(0x7a, to, Reg::R0, offset, 0);
    }

    /// `*(to + offset) = value`, eight bytes.
    pub(super) fn store_value(&mut self, to: Reg, offset: i16, value: i32) {
        self.add(0x7a, to, Reg::R0, offset, value);
    }

    /// The address of the value of an array with one element, whose descriptor is `map`.
    pub(super) fn map_value(&mut self, to: Reg, map: i32) {
        const BPF_PSEUDO_MAP_VALUE: u8 = 2;
        self.wide(to, BPF_PSEUDO_MAP_VALUE, map);
    }

    /// The map whose descriptor is `map`, for helpers.
    pub(super) fn map(&mut self, to: Reg, map: i32) {
        const BPF_PSEUDO_MAP_FD: u8 = 1;
        self.wide(to, BPF_PSEUDO_MAP_FD, map);
    }

    /// `*(to + offset) += from`, eight bytes, atomically.
    pub(super) fn add_in_memory(&mut self, to: Reg, offset: i16, from: Reg) {
        self.add(0xdb, to, from, offset, 0);
    }

    /// The address of a function of this program, for [`Helper::Loop`].
    pub(super) fn function(&mut self, to: Reg, function: Label) {
        const BPF_PSEUDO_FUNC: u8 = 4;
        self.functions.push((self.instructions.len(), function));
        self.wide(to, BPF_PSEUDO_FUNC, 0);
    }

    /// An instruction of two, for a number of 64 bits that the kernel puts there.
    fn wide(&mut self, to: Reg, what: u8, immediate: i32) {
        self.instructions.push(Instruction {
            code: 0x18,
            registers: to as u8 | what << 4,
            offset: 0,
            immediate,
        });
        self.add(0, Reg::R0, Reg::R0, 0, 0);
    }

    /// Where a placed label is.
    pub(super) fn position(&self, label: Label) -> Option<usize> {
        *self.labels.get(label.0)?
    }

    /// Calls a helper: arguments in R1 and on, the result in R0.
    pub(super) fn call(&mut self, helper: Helper) {
        self.add(0x85, Reg::R0, Reg::R0, 0, helper as i32);
    }

    /// Copies `size` bytes of the kernel's memory from `base + offset` to `to + at`; zeros where nothing is mapped.
    pub(super) fn read_kernel(&mut self, to: Reg, at: i16, size: i32, base: Reg, offset: i32) {
        self.copy(Reg::R1, to);
        self.change(Change::Add, Reg::R1, at.into());
        self.set(Reg::R2, size);
        self.copy(Reg::R3, base);
        self.change(Change::Add, Reg::R3, offset);
        self.call(Helper::ReadKernel);
    }

    /// `into = *(base + offset)`, by way of eight bytes of the stack at `scratch`. What is nowhere is null, and everything
    /// behind null reads as zero.
    pub(super) fn follow(&mut self, into: Reg, base: Reg, offset: i32, scratch: i16) {
        self.read_kernel(Reg::R10, scratch, 8, base, offset);
        self.load(into, Reg::R10, scratch);
    }

    /// Ends the program. The result is in R0.
    pub(super) fn exit(&mut self) {
        self.add(0x95, Reg::R0, Reg::R0, 0, 0);
    }

    /// A label that has no place yet.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label is here.
    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.instructions.len());
    }

    /// Goes to `label`.
    pub(super) fn jump(&mut self, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.add(0x05, Reg::R0, Reg::R0, 0, 0);
    }

    /// Goes to `label` if `when` holds between the register and the number.
    pub(super) fn jump_if(&mut self, register: Reg, when: If, value: i32, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.add(0x05 | when.code(), register, Reg::R0, 0, value);
    }

    /// Goes to `label` if `when` holds between the two registers.
    pub(super) fn jump_if_register(&mut self, register: Reg, when: If, other: Reg, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.add(0x0d | when.code(), register, other, 0, 0);
    }

    /// Appends `size` bytes of the stack, from `from` on, to the file `seq` of an iterator.
    pub(super) fn write_stack(&mut self, seq: Reg, from: i16, size: i16) {
        self.copy(Reg::R1, seq);
        self.copy(Reg::R2, Reg::R10);
        self.change(Change::Add, Reg::R2, from.into());
        self.set(Reg::R3, size.into());
        self.call(Helper::SeqWrite);
    }

    /// The instructions.
    ///
    /// # Errors
    /// If a jump goes nowhere or too far.
    pub(super) fn finished(self) -> Result<Vec<Instruction>> {
        self.finish().ok_or_else(goes_nowhere)
    }

    /// As [`finished`](Self::finished). `None` if a jump goes nowhere or too far.
    fn finish(mut self) -> Option<Vec<Instruction>> {
        let distance = |at: usize, label: Label| {
            let target = i64::try_from(self.labels[label.0]?).ok()?;
            Some(target - i64::try_from(at).ok()? - 1)
        };
        for &(at, label) in &self.jumps {
            self.instructions[at].offset = i16::try_from(distance(at, label)?).ok()?;
        }
        for &(at, label) in &self.functions {
            self.instructions[at].immediate = i32::try_from(distance(at, label)?).ok()?;
        }
        Some(self.instructions)
    }
}

/// A program has a label that was not placed.
pub(super) fn goes_nowhere() -> Error {
    let why = "a jump goes nowhere";
    Error::new("make the BPF program", Cause::Unexpected(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_count_from_the_next_instruction() {
        let mut program = Program::default();
        let end = program.label();
        program.jump_if(Reg::R1, If::Equal, 0, end);
        program.negate(Reg::R2);
        program.change(Change::Xor, Reg::R2, 5);
        program.place(end);
        program.exit();
        let made = program.finish().unwrap();
        assert_eq!(made.len(), 4);
        assert_eq!((made[0].code, made[0].offset), (0x15, 2));
        assert_eq!((made[2].code, made[2].immediate), (0xa7, 5));
    }

    #[test]
    fn a_label_that_is_nowhere_is_no_program() {
        let mut program = Program::default();
        let end = program.label();
        program.jump_if(Reg::R1, If::Equal, 0, end);
        assert_eq!(program.finish(), None);
    }
}
