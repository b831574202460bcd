//! `action`: a line for each signal.

use std::fmt::Write as _;

use super::dialect::{Dialect, TextError};
use super::line::Line;
use super::mask;
use crate::disposition::{Disposition, Dispositions};
use crate::signo::SigNo;
use crate::sigset::SigSet;

/// What one line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    /// For which signal.
    pub signo: SigNo,
    /// 0 is SIG_DFL, 1 is SIG_IGN, anything else an address in the process.
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Blocked while the handler runs.
    pub mask: SigSet,
    /// Where the handler returns to. The patches do not say, and leave what is there.
    pub restorer: Option<u64>,
}

impl Action {
    /// The disposition that it makes of the present one.
    pub fn over(&self, present: &Disposition) -> Disposition {
        Disposition {
            handler: self.handler,
            flags: self.flags,
            restorer: self.restorer.unwrap_or(present.restorer),
            mask: self.mask,
        }
    }
}

/// What lines of `action` say. Signals that they do not name keep what they have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actions(Vec<Action>);

impl Actions {
    /// Each line, in their order: of two for one signal the later one counts.
    pub fn iter(&self) -> impl Iterator<Item = &Action> {
        self.0.iter()
    }

    /// The dispositions that they make of the present ones.
    #[must_use]
    pub fn over(&self, present: &Dispositions) -> Dispositions {
        let mut dispositions = present.clone();
        for action in &self.0 {
            dispositions[action.signo] = action.over(&dispositions[action.signo]);
        }
        dispositions
    }

    pub(super) fn push(&mut self, action: Action) {
        self.0.push(action);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `"%10d %20lu MASK %20lu"` of the patches, and the restorer, without which no handler returns.
pub(super) fn render(dispositions: &Dispositions) -> String {
    let mut text = String::new();
    for (signo, disposition) in dispositions.iter() {
        let Disposition {
            handler,
            flags,
            restorer,
            mask,
        } = disposition;
        let mask = mask::render(*mask);
        let _ = writeln!(
            text,
            "{:10} {flags:20} {mask} {handler:20} {restorer:20}",
            signo.get()
        );
    }
    text
}

/// Four words are the patches', whose number is an index: 0 for signal 1.
pub(super) fn parse(line: &mut Line<'_>, dialect: Option<Dialect>) -> Result<Action, TextError> {
    let dialect = dialect.unwrap_or(if line.words() == 4 {
        Dialect::Patches
    } else {
        Dialect::Ours
    });
    let (first, last) = match dialect {
        Dialect::Ours => (1, 64),
        Dialect::Patches => (0, 63),
    };
    let number: i32 = line.between("the signal", "", first.into(), last.into())?;
    let signo = SigNo::new(number - first + 1).ok_or_else(|| line.wrong("no signal"))?;
    let flags = line.u64("the flags")?;
    let mask = mask::parse(line)?.read_as(dialect);
    let handler = line.u64("the handler")?;
    let restorer = match dialect {
        Dialect::Ours => Some(line.u64("the restorer")?),
        Dialect::Patches => None,
    };
    line.end()?;
    Ok(Action {
        signo,
        handler,
        flags,
        mask,
        restorer,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{SigFile, Written, parse};
    use super::*;

    fn read(text: &str) -> Result<Actions, TextError> {
        match parse(SigFile::Action, text.as_bytes(), None)? {
            Written::Actions(actions) => Ok(actions),
            other => panic!("{other:?}"),
        }
    }

    /// As `print_sigaction_list` of the patches prints it.
    fn of_the_patches(dispositions: &Dispositions) -> String {
        let mut text = String::new();
        for (index, (_, action)) in dispositions.iter().enumerate() {
            let _ = write!(text, "{index:10} {:20} ", action.flags);
            for i in 0..64 {
                let set = SigNo::new(i).is_some_and(|signo| action.mask.contains(signo));
                text.push(if set { '1' } else { '0' });
            }
            let _ = writeln!(text, " {:20}", action.handler);
        }
        text
    }

    #[test]
    fn one_line_alone() {
        let mask = "0".repeat(64);
        let line = format!("        10            335544320 {mask} 94558 140\n");
        let actions = read(&line).expect("a line");
        let mut present = Dispositions::default();
        present[SigNo::TERM].handler = 7;
        let after = actions.over(&present);
        assert_eq!(after[SigNo::USR1].handler, 94558);
        assert_eq!(after[SigNo::USR1].restorer, 140);
        assert_eq!(after[SigNo::TERM].handler, 7, "not named, not changed");
    }

    #[test]
    fn the_later_line_counts() {
        let mask = "0".repeat(64);
        let actions = read(&format!("10 0 {mask} 5 6\n10 0 {mask} 7 8\n")).expect("two lines");
        let after = actions.over(&Dispositions::default());
        assert_eq!(after[SigNo::USR1].handler, 7);
        assert_eq!(actions.iter().count(), 2);
    }

    #[test]
    fn what_is_no_line() {
        let mask = "0".repeat(64);
        for (text, column) in [
            (format!("0 0 {mask} 0 0"), 1),
            (format!("65 0 {mask} 0 0"), 1),
            (format!("64 0 {mask} 0"), 1),
            (format!("10 x {mask} 0 0"), 4),
            (format!("10 0 {mask}1 0 0"), 6),
            (format!("10 0 {mask} 0 -1"), 73),
            (format!("10 0 {mask} 0 0 0"), 75),
        ] {
            let error = read(&text).expect_err(&text);
            assert_eq!((error.line, error.column), (1, column), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(dispositions in crate::testing::dispositions()) {
            let actions = read(&render(&dispositions)).expect("own text");
            prop_assert_eq!(actions.over(&Dispositions::default()), dispositions);
        }

        /// All but the restorer and signal 64 in masks, which are not in it.
        #[test]
        fn the_patches_own_text(dispositions in crate::testing::dispositions(), present in crate::testing::dispositions()) {
            let after = read(&of_the_patches(&dispositions)).expect("their text").over(&present);
            for (signo, wanted) in dispositions.iter() {
                let wanted = Disposition {
                    restorer: present[signo].restorer,
                    mask: wanted.mask.without(SigNo::MAX),
                    ..*wanted
                };
                prop_assert_eq!(after[signo], wanted);
            }
        }
    }
}
