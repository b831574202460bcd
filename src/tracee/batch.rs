//! Batches of system calls for a tracee, and their layout in scratch memory: the table that the stub's loop walks,
//! followed by the buffers of the calls.

use std::sync::Arc;

use criu_signals_images::SigNo;
use nix::errno::Errno;

use super::memory::RemoteAddr;
use crate::arch::{BATCH_COMPAT_BIT, BATCH_RESULT, BATCH_ROW, GLANCE_OUTPUTS};
use crate::error::{Cause, Error, Result};

/// Buffers are aligned for any kernel structure.
const ALIGN: usize = 16;
/// MAX_ERRNO of linux/err.h.
const MAX_ERRNO: i32 = 4095;

/// An argument of a system call.
#[derive(Clone, Debug)]
enum Arg {
    Value(u64),
    /// The address of a copy of these bytes.
    Input(Vec<u8>),
    /// The address of this many bytes, which are read back.
    Output(usize),
    /// The address of a buffer that holds these bytes before the call and is read back after the call.
    Filled(Vec<u8>),
    /// An address in the output of an earlier call: how many calls before this call, and the offset in that output.
    OutputOf(usize, usize),
}

/// One system call to be made by a tracee.
#[derive(Clone, Debug)]
pub struct Call {
    nr: i64,
    compat: bool,
    name: Arc<str>,
    args: Vec<Arg>,
    undo: Option<Undo>,
    touches: Option<SigNo>,
}

/// The call by which the thread undoes a call if the tracer dies before it has read the outcome.
#[derive(Clone, Debug)]
struct Undo {
    nr: i64,
    args: Vec<u64>,
}

/// How many arguments the stub gives a call that undoes another.
const UNDO_ARGS: usize = 4;

impl Call {
    /// System call number `nr`. `name` is for error messages; it can be shared by many calls.
    pub fn new(nr: i64, name: impl Into<Arc<str>>) -> Call {
        Call {
            nr,
            compat: false,
            name: name.into(),
            args: Vec::with_capacity(6),
            undo: None,
            touches: None,
        }
    }

    /// System call number `nr` of the 32-bit table, made as a 32-bit program makes it. For 32-bit tasks: structures
    /// have their 32-bit layout, and the kernel takes the low halves of the arguments only.
    pub fn compat(nr: i64, name: impl Into<Arc<str>>) -> Call {
        Call {
            compat: true,
            ..Call::new(nr, name)
        }
    }

    /// Adds a number as the next argument.
    #[must_use]
    pub fn value(mut self, value: u64) -> Call {
        self.args.push(Arg::Value(value));
        self
    }

    /// Adds a pointer to `bytes` as the next argument.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Call {
        self.args.push(Arg::Input(bytes.into()));
        self
    }

    /// Adds a pointer to `len` bytes that the call fills in as the next argument. One call has one such buffer.
    #[must_use]
    pub fn output(mut self, len: usize) -> Call {
        self.args.push(Arg::Output(len));
        self
    }

    /// As [`output`](Self::output), of a buffer that holds `bytes` where the call writes nothing.
    #[must_use]
    pub fn filled(mut self, bytes: impl Into<Vec<u8>>) -> Call {
        self.args.push(Arg::Filled(bytes.into()));
        self
    }

    /// Adds a pointer to what the call `before` places before this one has written, from byte `from` on, as the next argument.
    /// Both must be of one batch ([`Injector::run_whole`](super::Injector::run_whole)).
    #[must_use]
    pub fn output_of(mut self, before: usize, from: usize) -> Call {
        self.args.push(Arg::OutputOf(before, from));
        self
    }

    /// If the tracer dies before it has read the outcome, the thread itself calls `nr`. The arguments are `args`, at
    /// most three, followed by the address of this call's output.
    #[must_use]
    pub fn undone_by(mut self, nr: i64, args: &[u64]) -> Call {
        debug_assert!(args.len() < UNDO_ARGS);
        self.undo = Some(Undo {
            nr,
            args: args.to_vec(),
        });
        self
    }

    /// The call queues this signal to the calling thread or to its process, and the signal has to stay queued.
    #[must_use]
    pub fn sending(mut self, signo: Option<SigNo>) -> Call {
        self.touches = signo;
        self
    }

    /// The call changes what the process does on this signal.
    #[must_use]
    pub fn changing(mut self, signo: SigNo) -> Call {
        self.touches = Some(signo);
        self
    }

    /// What [`sending`](Call::sending) or [`changing`](Call::changing) said.
    pub(super) fn touches(&self) -> Option<SigNo> {
        self.touches
    }

    /// The system call's number.
    pub(super) fn nr(&self) -> i64 {
        self.nr
    }

    /// Is it one of the 32-bit table?
    pub(super) fn is_compat(&self) -> bool {
        self.compat
    }

    /// The number as the loop takes it.
    fn row_nr(&self) -> u64 {
        self.nr.cast_unsigned() | u64::from(self.compat) << BATCH_COMPAT_BIT
    }

    /// Number and first argument, if it has one more that is filled in, with no more than `room` bytes.
    fn glanced(&self, room: usize) -> Option<(u32, u32)> {
        match *self.args.as_slice() {
            [Arg::Value(value), Arg::Output(len)] if len <= room => {
                Some((u32::try_from(self.nr).ok()?, u32::try_from(value).ok()?))
            }
            _ => None,
        }
    }

    /// What the call reads, if it writes nothing and reads no more than `room` bytes in one piece.
    pub(super) fn only_input(&self, room: usize) -> Option<&[u8]> {
        let mut input: Option<&[u8]> = None;
        for arg in &self.args {
            match arg {
                Arg::Value(_) => {}
                Arg::Input(bytes) if input.is_none() && bytes.len() <= room => input = Some(bytes),
                _ => return None,
            }
        }
        self.undo.is_none().then(|| input.unwrap_or_default())
    }

    /// The arguments, where what the call reads is at `input`.
    pub(super) fn args_reading(&self, input: u64) -> [u64; 6] {
        let mut values = [0; 6];
        for (value, arg) in values.iter_mut().zip(&self.args) {
            *value = match arg {
                Arg::Value(number) => *number,
                _ => input,
            };
        }
        values
    }

    fn output_len(&self) -> usize {
        let len = |arg: &Arg| match arg {
            Arg::Output(len) => *len,
            Arg::Filled(bytes) => bytes.len(),
            _ => 0,
        };
        self.args.iter().map(len).sum()
    }

    fn size(&self) -> usize {
        self.args
            .iter()
            .map(|arg| match arg {
                Arg::Value(_) | Arg::OutputOf(..) => 0,
                Arg::Input(bytes) | Arg::Filled(bytes) => bytes.len().next_multiple_of(ALIGN),
                Arg::Output(len) => len.next_multiple_of(ALIGN),
            })
            .sum::<usize>()
            + BATCH_ROW * if self.undo.is_some() { 2 } else { 1 }
    }
}

/// What became of a [`Call`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    name: Arc<str>,
    /// What the call returned: a number >= 0, or a negated errno.
    pub result: i64,
    /// What the call wrote.
    pub output: Vec<u8>,
}

/// The errno in a system call's result, which is that negated or a number: IS_ERR_VALUE, linux/err.h.
pub(super) fn errno_in(result: i64) -> Option<Errno> {
    let errno = i32::try_from(result.checked_neg()?).ok()?;
    (1..=MAX_ERRNO)
        .contains(&errno)
        .then(|| Errno::from_raw(errno))
}

impl Outcome {
    /// The errno of a call that failed.
    pub fn errno(&self) -> Option<Errno> {
        errno_in(self.result)
    }

    /// The result of a call that went through.
    ///
    /// # Errors
    /// The call's errno, under its name.
    pub fn check(&self) -> Result<u64> {
        match self.errno() {
            None => Ok(self.result.cast_unsigned()),
            Some(errno) => Err(Error::os(self.name.to_string(), errno)),
        }
    }
}

/// How much room these calls take together, in bytes.
pub(super) fn room_for(calls: &[Call]) -> usize {
    calls.iter().map(Call::size).sum()
}

/// Two calls that are made without a table: each takes a small number and a pointer to a few bytes, which come back in
/// registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glance<'a>(&'a [Call; 2]);

impl<'a> Glance<'a> {
    /// `None` if `calls` are not two calls of this form.
    pub(super) fn from_calls(calls: &'a [Call]) -> Option<Glance<'a>> {
        let pair: &[Call; 2] = calls.try_into().ok()?;
        let fits = pair.iter().zip(GLANCE_OUTPUTS).all(|(call, room)| {
            let plain = !call.compat && call.undo.is_none() && call.touches.is_none();
            plain && call.glanced(room).is_some()
        });
        fits.then_some(Glance(pair))
    }

    /// Of each call the number, and the first argument.
    pub(super) fn calls(self) -> [(u32, u32); 2] {
        let of = |call: &Call, room| call.glanced(room).unwrap_or_default();
        [0, 1].map(|at| of(&self.0[at], GLANCE_OUTPUTS[at]))
    }

    /// The outcomes, from what the calls have returned and written. `None` where one has failed: it may be that there was
    /// no memory for them.
    pub(super) fn outcomes(self, found: [(i64, Vec<u8>); 2]) -> Option<Vec<Outcome>> {
        let outcome = |(call, (result, mut output)): (&Call, (i64, Vec<u8>))| {
            output.truncate(call.output_len());
            (result >= 0).then(|| Outcome {
                name: call.name.clone(),
                result,
                output,
            })
        };
        self.0.iter().zip(found).map(outcome).collect()
    }
}

/// Splits off the calls at the front that fit into `room` bytes: at least one, unless there are none.
fn split_by_room(calls: &[Call], room: usize) -> Result<(&[Call], &[Call])> {
    let mut sum = 0;
    let fit = calls.iter().take_while(|call| {
        sum += call.size();
        sum <= room
    });
    let n = fit.count();
    if n == 0 && !calls.is_empty() {
        return Err(Error::os(
            format!("{}: the arguments exceed {room} bytes", calls[0].name),
            Errno::E2BIG,
        ));
    }
    Ok(calls.split_at(n))
}

fn no_such_output(call: &Call, before: usize) -> Error {
    let why = format!("the call {before} before it writes nothing, or is of another batch");
    Error::new(call.name.to_string(), Cause::Unexpected(why))
}

/// Writes words of 8 bytes to the front of `row`.
fn write_words(row: &mut [u8], words: impl Iterator<Item = u64>) {
    for (slot, word) in row.chunks_exact_mut(8).zip(words) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
}

/// A run of calls laid out for scratch memory at one address.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    calls: &'a [Call],
    base: RemoteAddr,
    bytes: Vec<u8>,
    args: Vec<[u64; 6]>,
    outputs: Vec<Option<(usize, usize)>>,
    undo: (usize, usize),
}

impl<'a> Layout<'a> {
    /// Lays out as many of `calls` as fit into `room` bytes at `base`, and gives back the others.
    pub(super) fn new(
        calls: &'a [Call],
        base: RemoteAddr,
        room: usize,
    ) -> Result<(Layout<'a>, &'a [Call])> {
        let (now, later) = split_by_room(calls, room)?;
        let n = now.len();
        let mut layout = Layout {
            calls: now,
            base,
            bytes: vec![0u8; n * BATCH_ROW],
            args: Vec::with_capacity(n),
            outputs: Vec::with_capacity(n),
            undo: (0, 0),
        };
        for (row, call) in now.iter().enumerate() {
            layout.add_call(row, call)?;
        }
        layout.add_undo_table();
        Ok((layout, later))
    }

    /// Appends what `call` reads and writes, and fills its row of the table.
    fn add_call(&mut self, row: usize, call: &Call) -> Result<()> {
        let bytes = &mut self.bytes;
        let mut values = [0u64; 6];
        let mut output = None;
        for (value, arg) in values.iter_mut().zip(&call.args) {
            let at = bytes.len();
            match arg {
                Arg::Value(v) => {
                    *value = *v;
                    continue;
                }
                Arg::Input(input) => bytes.extend_from_slice(input),
                Arg::Output(len) => {
                    bytes.resize(at + len, 0);
                    output = Some((at, *len));
                }
                Arg::Filled(filled) => {
                    bytes.extend_from_slice(filled);
                    output = Some((at, filled.len()));
                }
                Arg::OutputOf(before, from) => {
                    let of = row
                        .checked_sub(*before)
                        .and_then(|row| self.outputs.get(row));
                    let Some(Some((at, _))) = of else {
                        return Err(no_such_output(call, *before));
                    };
                    *value = self.base.offset(at + from).0;
                    continue;
                }
            }
            *value = self.base.offset(at).0;
            if call.compat && u32::try_from(*value).is_err() {
                return Err(Error::new(
                    call.name.to_string(),
                    Cause::Unexpected(format!("scratch memory at {value:#x}, out of reach")),
                ));
            }
            bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        }
        let words = std::iter::once(call.row_nr()).chain(values);
        write_words(&mut bytes[row * BATCH_ROW..], words);
        self.args.push(values);
        self.outputs.push(output);
        Ok(())
    }

    /// Appends the table by which a thread undoes the batch if the tracer dies.
    fn add_undo_table(&mut self) {
        let start = self.bytes.len();
        for (call, output) in self.calls.iter().zip(&self.outputs) {
            let Some(undo) = &call.undo else { continue };
            let mut row = [0u8; BATCH_ROW];
            let address = output.map(|(at, _)| self.base.offset(at).0);
            let words = std::iter::once(undo.nr.cast_unsigned())
                .chain(undo.args.iter().copied())
                .chain(address);
            write_words(&mut row, words);
            self.bytes.extend_from_slice(&row);
        }
        self.undo = (start, self.bytes.len());
    }

    /// What is written to scratch memory before the calls are made.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How much of it the outcomes are read from: results are in the table, what calls write behind it.
    pub(super) fn read_back(&self) -> usize {
        if self.outputs.iter().any(Option::is_some) {
            self.bytes.len()
        } else {
            self.calls.len() * BATCH_ROW
        }
    }

    pub(super) fn calls(&self) -> &'a [Call] {
        self.calls
    }

    /// The arguments of the call in row `row`, its pointers included.
    pub(super) fn args(&self, row: usize) -> [u64; 6] {
        self.args[row]
    }

    /// First address and first address behind the table.
    pub(super) fn table(&self) -> (u64, u64) {
        (
            self.base.0,
            self.base.offset(self.calls.len() * BATCH_ROW).0,
        )
    }

    /// First address and first address behind the table that undoes the calls.
    pub(super) fn undo(&self) -> (u64, u64) {
        (
            self.base.offset(self.undo.0).0,
            self.base.offset(self.undo.1).0,
        )
    }

    /// The outcomes, from scratch memory after the loop has run.
    pub(super) fn outcomes(&self, after: &[u8]) -> Vec<Outcome> {
        let result = |row: usize| {
            let at = row * BATCH_ROW + BATCH_RESULT;
            let mut word = [0; 8];
            word.copy_from_slice(&after[at..at + 8]);
            i64::from_le_bytes(word)
        };
        (0..self.calls.len())
            .map(|row| self.outcome(row, result(row), after))
            .collect()
    }

    /// The outcome of row `row` whose call returned `result`, with its output from scratch memory.
    pub(super) fn outcome(&self, row: usize, result: i64, after: &[u8]) -> Outcome {
        let output =
            self.outputs[row].map_or_else(Vec::new, |(at, len)| after[at..at + len].to_vec());
        Outcome {
            name: self.calls[row].name.clone(),
            result,
            output,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: RemoteAddr = RemoteAddr(0x10_0000);

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn pointers_point_behind_the_table() {
        let calls = [
            Call::new(13, "rt_sigaction")
                .value(5)
                .input([1, 2, 3])
                .output(32)
                .value(8),
            Call::new(39, "getpid"),
        ];
        let (layout, rest) = Layout::new(&calls, BASE, 4096).unwrap();
        assert!(rest.is_empty());
        let b = layout.bytes();
        assert_eq!((word(b, 0), word(b, 8), word(b, 32)), (13, 5, 8));
        assert_eq!(word(b, 16), BASE.0 + 128, "input right behind the two rows");
        assert_eq!(&b[128..131], &[1, 2, 3]);
        assert_eq!(word(b, 24), BASE.0 + 144, "output aligned behind it");
        assert_eq!(word(b, 64), 39);
        assert_eq!(layout.table(), (BASE.0, BASE.0 + 128));

        let mut after = b.to_vec();
        after[56..64].copy_from_slice(&(-22i64).to_le_bytes());
        after[120..128].copy_from_slice(&77i64.to_le_bytes());
        after[144..176].fill(9);
        let outcomes = layout.outcomes(&after);
        assert_eq!(outcomes[0].errno(), Some(Errno::EINVAL));
        assert_eq!(outcomes[0].output, vec![9; 32]);
        assert_eq!(outcomes[1].check().unwrap(), 77);
        assert!(
            outcomes[0]
                .check()
                .unwrap_err()
                .to_string()
                .starts_with("rt_sigaction: EINVAL")
        );
    }

    #[test]
    fn calls_of_the_32_bit_table() {
        let calls = [Call::compat(174, "rt_sigaction").value(1).output(20)];
        let (layout, _) = Layout::new(&calls, BASE, 4096).unwrap();
        assert_eq!(word(layout.bytes(), 0), 1 << 63 | 174);
        assert_eq!(word(layout.bytes(), 16), BASE.0 + 64);
        let e = Layout::new(&calls, RemoteAddr(1 << 32), 4096).unwrap_err();
        assert!(e.to_string().starts_with("rt_sigaction: "), "{e}");
    }

    #[test]
    fn two_small_reads_fit_into_registers() {
        let read = |len| Call::new(131, "first").value(0).output(len);
        let small = Call::new(157, "second").value(2).output(4);
        let calls = [read(24), small.clone()];
        let glance = Glance::from_calls(&calls).unwrap();
        assert_eq!(glance.calls(), [(131, 0), (157, 2)]);
        let found = |second| [(0, vec![7; 24]), (second, vec![1, 0, 0, 0, 9, 9, 9, 9])];
        let outcomes = glance.outcomes(found(0)).unwrap();
        assert_eq!(outcomes[0].output, vec![7; 24]);
        assert_eq!(
            outcomes[1].output,
            vec![1, 0, 0, 0],
            "as much as was asked for"
        );
        assert_eq!(glance.outcomes(found(-14)), None);
        let unfit = [
            vec![read(24)],
            vec![read(32), small.clone()],
            vec![small.clone(), read(24)],
            vec![read(24).value(1), small.clone()],
            vec![read(24), small.clone().undone_by(1, &[])],
            vec![read(24), small.clone().changing(SigNo::TERM)],
            vec![read(24), Call::compat(157, "second").value(2).output(4)],
            vec![Call::new(131, "first").value(1 << 32).output(24), small],
        ];
        for calls in unfit {
            assert!(Glance::from_calls(&calls).is_none(), "{calls:?}");
        }
    }

    #[test]
    fn one_small_input_fits_into_the_stub() {
        let sleep = Call::new(35, "sleep").input([7; 16]).value(3);
        assert_eq!(sleep.only_input(16), Some(&[7; 16][..]));
        assert_eq!(sleep.args_reading(0x1000), [0x1000, 3, 0, 0, 0, 0]);
        let without = Call::new(7, "poll").value(1).value(2);
        assert_eq!(without.only_input(16), Some(&[][..]));
        let unfit = [
            sleep.clone().input([1]),
            sleep.clone().output(4),
            sleep.clone().filled([1]),
            sleep.clone().output_of(1, 0),
            sleep.clone().undone_by(1, &[]),
            Call::new(35, "sleep").input([7; 17]),
        ];
        for call in unfit {
            assert_eq!(call.only_input(16), None, "{call:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_given_back() {
        let calls: Vec<Call> = (0..10).map(|_| Call::new(1, "x").output(100)).collect();
        let (layout, rest) = Layout::new(&calls, BASE, 600).unwrap();
        assert_eq!((layout.calls().len(), rest.len()), (3, 7));
        assert!(layout.bytes().len() <= 600);
        assert!(Layout::new(&calls, BASE, 100).is_err());
    }
}
