//! `altstack`: lowest address, size, flags.

use super::dialect::{Dialect, TextError};
use super::line::Line;
use crate::altstack::AltStack;

/// The patches print address and size, and do not end the line.
pub(super) fn render(stack: &AltStack) -> String {
    format!("{} {} {}\n", stack.sp, stack.size, stack.flags)
}

/// Two numbers are the patches': to the kernel of 2007 a stack of size 0 was none, and there were no flags.
pub(super) fn parse(line: &mut Line<'_>, dialect: Option<Dialect>) -> Result<AltStack, TextError> {
    let patches = dialect.map_or(line.words() == 2, |d| d == Dialect::Patches);
    let sp = line.u64("the stack's address")?;
    let size = line.u64("the stack's size")?;
    let stack = if !patches {
        let flags = line.u32("the stack's flags")?;
        AltStack { sp, flags, size }
    } else if size == 0 {
        AltStack::DISABLED
    } else {
        AltStack { sp, flags: 0, size }
    };
    line.end()?;
    Ok(stack)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{SigFile, Written, parse};
    use super::*;

    fn read(text: &str) -> Result<AltStack, TextError> {
        match parse(SigFile::AltStack, text.as_bytes(), None)? {
            Written::AltStack(stack) => Ok(stack),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn of_the_patches() {
        assert_eq!(read("0 0"), Ok(AltStack::DISABLED));
        assert_eq!(
            read("139637976727552 8192"),
            Ok(AltStack {
                sp: 139_637_976_727_552,
                flags: 0,
                size: 8192
            })
        );
    }

    #[test]
    fn what_is_none() {
        for (text, column) in [("4096", 5), ("4096 x 0", 6), ("1 2 3 4", 7), ("-1 0 0", 1)] {
            let error = read(text).expect_err(text);
            assert_eq!(error.column, column, "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(stack in crate::testing::altstack()) {
            prop_assert_eq!(read(&render(&stack)), Ok(stack));
        }
    }
}
