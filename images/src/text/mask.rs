//! A mask: 64 columns of 0 and 1.

use super::dialect::{Dialect, TextError};
use super::line::Line;
use crate::signo::SigNo;
use crate::sigset::SigSet;

pub(super) const COLUMNS: usize = 64;

/// Signal k in column k, counted from 1.
pub(super) fn render(set: SigSet) -> String {
    SigNo::all()
        .map(|signo| if set.contains(signo) { '1' } else { '0' })
        .collect()
}

/// What is in the columns: bit n is column n, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Columns(u64);

impl Columns {
    /// The signals that the columns stand for.
    pub(super) fn read_as(self, dialect: Dialect) -> SigSet {
        SigSet::from_bits(match dialect {
            Dialect::Ours => self.0,
            // print_sigset asks for signal i in column i, from 0 to 63: bit i-1. There is no signal 0, and what the
            // kernel answered for it is a bit that is not in the set.
            Dialect::Patches => self.0 >> 1,
        })
    }
}

pub(super) fn parse(line: &mut Line<'_>) -> Result<Columns, TextError> {
    let word = line.word();
    let is_mask = word.bytes().all(|byte| matches!(byte, b'0' | b'1'));
    if !is_mask || word.len() != COLUMNS {
        return Err(line.wrong(format!(
            "expected a mask, {COLUMNS} columns of 0 and 1, found {} characters{}",
            word.len(),
            if is_mask {
                ""
            } else {
                ", not all of them 0 or 1"
            }
        )));
    }
    let columns = word
        .bytes()
        .rev()
        .fold(0, |bits, byte| bits << 1 | u64::from(byte == b'1'));
    Ok(Columns(columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(text: &str) -> Result<Columns, TextError> {
        parse(&mut Line::new(text.as_bytes(), 1)?)
    }

    #[test]
    fn signal_k_is_in_column_k() {
        for signo in SigNo::all() {
            let text = render(SigSet::from(signo));
            let column = text.find('1').expect("one") + 1;
            assert_eq!(i32::try_from(column), Ok(signo.get()));
            assert_eq!(text.len(), COLUMNS);
        }
    }

    #[test]
    fn the_patches_count_from_0() {
        let text = format!("1{}1{}", "0".repeat(9), "0".repeat(53));
        let columns = columns(&text).expect("a mask");
        assert_eq!(columns.read_as(Dialect::Patches), SigSet::from(SigNo::USR1));
        let ours = [SigNo::HUP, SigNo::SEGV].into_iter().collect();
        assert_eq!(columns.read_as(Dialect::Ours), ours);
    }

    #[test]
    fn nothing_else_is_a_mask() {
        for text in ["", "0", &"0".repeat(63), &"1".repeat(65), &"2".repeat(64)] {
            columns(text).expect_err(text);
        }
    }
}
