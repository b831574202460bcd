//! The text of the six files that the 2007 patches gave every task in `/proc/PID/sig/`, to be read and to be written.
//!
//! docs/proc-sig.md describes the format, the differences from the patches, and how a reader distinguishes the two formats.
//! Nothing here touches a process.

mod action;
mod altstack;
mod dialect;
mod line;
mod mask;
mod queue;
mod waiters;

use std::fmt;
use std::str::FromStr;

use crate::altstack::AltStack;
use crate::disposition::Dispositions;
use crate::sigset::SigSet;

pub use action::{Action, Actions};
pub use dialect::{Dialect, TextError};
pub use queue::{Preallocated, WrittenQueue};
pub use waiters::{WaitCall, WaitFor, Waiter};

use line::Line;

/// One of the six files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SigFile {
    /// What the process does on each signal.
    Action,
    /// The thread's alternate stack.
    AltStack,
    /// The thread's mask.
    Blocked,
    /// The thread's private queue.
    Pending,
    /// The queue of the whole process.
    SharedPending,
    /// Who waits for the task.
    Waiters,
}

impl SigFile {
    /// All of them, by name.
    pub const ALL: [SigFile; 6] = [
        SigFile::Action,
        SigFile::AltStack,
        SigFile::Blocked,
        SigFile::Pending,
        SigFile::SharedPending,
        SigFile::Waiters,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            SigFile::Action => "action",
            SigFile::AltStack => "altstack",
            SigFile::Blocked => "blocked",
            SigFile::Pending => "pending",
            SigFile::SharedPending => "shared_pending",
            SigFile::Waiters => "waiters",
        }
    }

    /// May it be written? A wait is restored by the waiter itself, which waits again.
    pub const fn is_writable(self) -> bool {
        !matches!(self, SigFile::Waiters)
    }

    /// Is it one of the two queues?
    pub const fn is_queue(self) -> bool {
        matches!(self, SigFile::Pending | SigFile::SharedPending)
    }
}

impl fmt::Display for SigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is none of the six.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown file {0:?}: the files are action, altstack, blocked, pending, shared_pending and waiters"
)]
pub struct ParseSigFileError(String);

impl FromStr for SigFile {
    type Err = ParseSigFileError;

    fn from_str(name: &str) -> Result<SigFile, ParseSigFileError> {
        SigFile::ALL
            .into_iter()
            .find(|file| file.name() == name)
            .ok_or_else(|| ParseSigFileError(name.to_owned()))
    }
}

/// What a text says that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Of `action`.
    Actions(Actions),
    /// Of `altstack`.
    AltStack(AltStack),
    /// Of `blocked`.
    Blocked(SigSet),
    /// Of `pending` and `shared_pending`.
    Queue(WrittenQueue),
}

/// Reads the whole text of a file. Whose it is follows from the text, unless `dialect` says it.
///
/// # Errors
/// [`TextError`], at the first place where the text cannot go on like this.
pub fn parse(file: SigFile, text: &[u8], dialect: Option<Dialect>) -> Result<Written, TextError> {
    let mut parser = Parser::new(file, dialect);
    let mut last = 0;
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        last = index + 1;
        parser.feed(line, last)?;
    }
    parser.finish()?.ok_or_else(|| TextError {
        line: last,
        column: 1,
        reason: format!("no text for {file}"),
    })
}

/// The text of `action`: all 64 dispositions.
pub fn render_actions(dispositions: &Dispositions) -> String {
    action::render(dispositions)
}

/// The text of `altstack`.
pub fn render_altstack(stack: &AltStack) -> String {
    altstack::render(stack)
}

/// The text of `blocked`.
pub fn render_blocked(blocked: SigSet) -> String {
    mask::render(blocked) + "\n"
}

pub use queue::render as render_queue;
pub use waiters::render as render_waiters;

/// Line by line.
#[derive(Debug, Clone)]
struct Parser {
    dialect: Option<Dialect>,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    Action(Actions),
    AltStack(Option<AltStack>),
    Blocked(Option<SigSet>),
    Queue(queue::Parser),
    ReadOnly,
}

impl Parser {
    fn new(file: SigFile, dialect: Option<Dialect>) -> Parser {
        let state = match file {
            SigFile::Action => State::Action(Actions::default()),
            SigFile::AltStack => State::AltStack(None),
            SigFile::Blocked => State::Blocked(None),
            SigFile::Pending | SigFile::SharedPending => State::Queue(queue::Parser::default()),
            SigFile::Waiters => State::ReadOnly,
        };
        Parser { dialect, state }
    }

    /// Takes the next line, without its end. Lines of blanks mean nothing.
    fn feed(&mut self, bytes: &[u8], number: usize) -> Result<(), TextError> {
        let mut line = Line::new(bytes, number)?;
        if line.is_blank() {
            return Ok(());
        }
        let dialect = self.dialect;
        match &mut self.state {
            State::Action(actions) => actions.push(action::parse(&mut line, dialect)?),
            State::AltStack(stack @ None) => *stack = Some(altstack::parse(&mut line, dialect)?),
            State::Blocked(blocked @ None) => {
                let columns = mask::parse(&mut line)?;
                line.end()?;
                // A mask alone does not say whose it is.
                *blocked = Some(columns.read_as(dialect.unwrap_or(Dialect::Ours)));
            }
            State::AltStack(Some(_)) | State::Blocked(Some(_)) => {
                return Err(line.wrong("this file has one line"));
            }
            State::Queue(parser) => parser.feed(line)?,
            State::ReadOnly => {
                return Err(line.wrong("this file is read-only: only the waiter can begin a wait"));
            }
        }
        Ok(())
    }

    /// What all lines together say; nothing if there was none.
    fn finish(&self) -> Result<Option<Written>, TextError> {
        Ok(match &self.state {
            State::Action(actions) if actions.is_empty() => None,
            State::Action(actions) => Some(Written::Actions(actions.clone())),
            State::AltStack(stack) => stack.map(Written::AltStack),
            State::Blocked(blocked) => blocked.map(Written::Blocked),
            State::Queue(parser) => parser.finish(self.dialect)?.map(Written::Queue),
            State::ReadOnly => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    fn any_file() -> impl Strategy<Value = SigFile> {
        prop::sample::select(&SigFile::ALL[..])
    }

    fn any_dialect() -> impl Strategy<Value = Option<Dialect>> {
        prop::sample::select(vec![None, Some(Dialect::Ours), Some(Dialect::Patches)])
    }

    /// Something like a line of these files.
    fn any_line() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            "(sig|uid|pid|flags|errno|code|addr|band|fd|timer|raw|value|status|utime|stime|lsb|perf)",
            "-?[0-9]{1,22}:?",
            "0x[0-9a-f]{0,17}",
            "[01]{63,65}",
            ".{0,8}",
        ];
        vec(word, 0..12).prop_map(|words| words.join(" "))
    }

    #[test]
    fn names() {
        for file in SigFile::ALL {
            assert_eq!(file.name().parse(), Ok(file));
        }
        "status".parse::<SigFile>().expect_err("not one of the six");
    }

    #[test]
    fn nothing_is_not_written() {
        for file in SigFile::ALL {
            for text in ["", "\n", " \n\t\n"] {
                parse(file, text.as_bytes(), None).expect_err("nothing");
            }
        }
    }

    #[test]
    fn waiters_are_not_written() {
        let error = parse(SigFile::Waiters, b"0 1 wait4 any\n", None).expect_err("read only");
        assert_eq!((error.line, error.column), (1, 1));
    }

    #[test]
    fn one_line_means_one() {
        let mask = "0".repeat(64);
        let twice = format!("{mask}\n{mask}\n");
        let error = parse(SigFile::Blocked, twice.as_bytes(), None).expect_err("two masks");
        assert_eq!((error.line, error.column), (2, 1));
        parse(SigFile::AltStack, b"0 0 2\n0 0 2\n", None).expect_err("two stacks");
    }

    proptest! {
        #[test]
        fn blocked_round_trip(mask in testing::sigset()) {
            let text = render_blocked(mask);
            prop_assert_eq!(parse(SigFile::Blocked, text.as_bytes(), None), Ok(Written::Blocked(mask)));
        }

        #[test]
        fn any_bytes_are_survived(file in any_file(), bytes in vec(any::<u8>(), 0..400), dialect in any_dialect()) {
            let _ = parse(file, &bytes, dialect);
        }

        /// And the place that is named is one in the text, or right behind it.
        #[test]
        fn any_lines_are_survived(file in any_file(), lines in vec(any_line(), 0..6), dialect in any_dialect()) {
            let text = lines.join("\n");
            if let Err(error) = parse(file, text.as_bytes(), dialect) {
                let line = text.split('\n').nth(error.line - 1).expect("a line of the text");
                prop_assert!(error.column >= 1 && error.column <= line.chars().count() + 1, "{}", error);
            }
        }
    }
}
