//! Text that comes in pieces, split at any byte.

use super::line::LONGEST;
use super::{Dialect, Parser, SigFile, TextError, Written, mask};

/// More than a million entries: nobody's queue.
const LARGEST: usize = 128 << 20;

/// Puts the pieces of a text together, and says when there is something to be done.
///
/// `action`, `altstack` and `blocked` are done line by line: as soon as lines are complete, they are given back, and
/// what follows is a new text. A queue is one text from the first piece to the last, because the mask alone, which
/// comes first, would be a queue of its own: it is given back by [`finish`](Pieces::finish) only, as a whole. Its lines
/// are looked at as they come, all the same.
///
/// After an error nothing of what came before is kept.
#[derive(Debug, Clone)]
pub struct Pieces {
    file: SigFile,
    dialect: Option<Dialect>,
    parser: Parser,
    /// The line that has not ended.
    rest: Vec<u8>,
    /// How many have.
    lines: usize,
    size: usize,
    /// Is there something that [`finish`](Pieces::finish) has not given back?
    fresh: bool,
}

impl Pieces {
    /// No piece yet.
    pub fn new(file: SigFile, dialect: Option<Dialect>) -> Pieces {
        Pieces {
            file,
            dialect,
            parser: Parser::new(file, dialect),
            rest: Vec::new(),
            lines: 0,
            size: 0,
            fresh: false,
        }
    }

    /// Takes the next piece. What it completes is to be written now.
    ///
    /// # Errors
    /// [`TextError`]; nothing of the piece is to be written. Lines are counted from the first piece on.
    pub fn push(&mut self, piece: &[u8]) -> Result<Option<Written>, TextError> {
        let done = self.take(piece);
        if done.is_err() {
            *self = Pieces::new(self.file, self.dialect);
        }
        done
    }

    /// There is no further piece for now: a line that has not ended ends here. What has come since the last time, and
    /// of a queue what had come before as well, is to be written now.
    ///
    /// # Errors
    /// As [`push`](Pieces::push).
    pub fn finish(&mut self) -> Result<Option<Written>, TextError> {
        let done = self.end();
        if done.is_err() {
            *self = Pieces::new(self.file, self.dialect);
        }
        done
    }

    fn take(&mut self, piece: &[u8]) -> Result<Option<Written>, TextError> {
        self.size += piece.len();
        if self.size > LARGEST {
            return Err(self.too_much(format!("no text is longer than {LARGEST} bytes")));
        }
        self.fresh |= !piece.is_empty();
        let mut lines = piece.split(|&byte| byte == b'\n');
        // The last one has not ended.
        let rest = lines.next_back().unwrap_or_default();
        for line in lines {
            self.rest.extend_from_slice(line);
            self.end_line()?;
        }
        self.rest.extend_from_slice(rest);
        if self.rest.len() > LONGEST {
            return Err(self.too_much(format!("no line is longer than {LONGEST} characters")));
        }
        if self.file.is_queue() {
            return Ok(None);
        }
        // Nothing can follow a mask but the end of its line.
        if self.file == SigFile::Blocked && self.rest.len() == mask::COLUMNS {
            self.end_line()?;
            self.lines -= 1;
        }
        self.complete()
    }

    fn end(&mut self) -> Result<Option<Written>, TextError> {
        if !std::mem::take(&mut self.fresh) {
            return Ok(None);
        }
        if !self.rest.is_empty() {
            self.end_line()?;
        }
        self.complete()
    }

    fn end_line(&mut self) -> Result<(), TextError> {
        self.lines += 1;
        let line = std::mem::take(&mut self.rest);
        self.parser.feed(&line, self.lines)
    }

    fn complete(&mut self) -> Result<Option<Written>, TextError> {
        let written = self.parser.finish()?;
        if !self.file.is_queue() {
            self.parser = Parser::new(self.file, self.dialect);
            self.size = self.rest.len();
        }
        Ok(written)
    }

    fn too_much(&self, reason: String) -> TextError {
        TextError {
            line: self.lines + 1,
            column: 1,
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::{parse, render_actions, render_altstack, render_blocked, render_queue};
    use super::*;
    use crate::disposition::Dispositions;
    use crate::signo::SigNo;
    use crate::sigset::SigSet;
    use crate::testing;

    fn pieces(file: SigFile) -> Pieces {
        Pieces::new(file, None)
    }

    #[test]
    fn a_mask_is_complete_without_its_end() {
        let mut pieces = pieces(SigFile::Blocked);
        let mask = SigSet::from(SigNo::INT);
        let text = render_blocked(mask);
        assert_eq!(
            pieces.push(&text.as_bytes()[..64]),
            Ok(Some(Written::Blocked(mask)))
        );
        assert_eq!(pieces.push(b"\n"), Ok(None));
        assert_eq!(pieces.finish(), Ok(None));
        assert_eq!(
            pieces.push(text.as_bytes()),
            Ok(Some(Written::Blocked(mask))),
            "and once more"
        );
    }

    #[test]
    fn a_stack_is_complete_at_the_end_of_the_line() {
        let mut pieces = pieces(SigFile::AltStack);
        assert_eq!(pieces.push(b"4096 81"), Ok(None));
        assert_eq!(pieces.push(b"92 0"), Ok(None));
        let Ok(Some(Written::AltStack(stack))) = pieces.finish() else {
            panic!("no stack");
        };
        assert_eq!((stack.sp, stack.size), (4096, 8192));
        assert_eq!(pieces.finish(), Ok(None), "once");
    }

    #[test]
    fn a_queue_is_whole() {
        let mut pieces = pieces(SigFile::Pending);
        let mask = render_blocked(SigSet::from(SigNo::USR1));
        assert_eq!(pieces.push(mask.as_bytes()), Ok(None));
        let Ok(Some(Written::Queue(bare))) = pieces.finish() else {
            panic!("no queue");
        };
        assert_eq!(bare.pending.bits_without_info().len(), 1);
        assert_eq!(pieces.finish(), Ok(None), "nothing has come since");
        assert_eq!(
            pieces.push(b"sig 10: uid 0 pid 0 flags 0 errno 0 code 0\n"),
            Ok(None)
        );
        let Ok(Some(Written::Queue(queue))) = pieces.finish() else {
            panic!("no queue");
        };
        assert!(queue.pending.bits_without_info().is_empty());
    }

    #[test]
    fn after_an_error_it_begins_anew() {
        let mut pieces = pieces(SigFile::Pending);
        pieces
            .push(render_blocked(SigSet::FULL).as_bytes())
            .expect("a mask");
        let error = pieces.push(b"nonsense\n").expect_err("no entry");
        assert_eq!((error.line, error.column), (2, 1));
        assert_eq!(pieces.finish(), Ok(None), "nothing is left to be written");
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut pieces = pieces(SigFile::AltStack);
        pieces.push(&[b' '; LONGEST]).expect("not yet");
        pieces.push(b" ").expect_err("too long");
    }

    fn cut(text: &str, sizes: &[usize]) -> Vec<Vec<u8>> {
        let mut rest = text.as_bytes();
        let mut pieces = Vec::new();
        for &size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, later) = rest.split_at(size.min(rest.len()));
            pieces.push(piece.to_vec());
            rest = later;
        }
        pieces
    }

    proptest! {
        #[test]
        fn actions_in_pieces(dispositions in testing::dispositions(), sizes in vec(1..900_usize, 1..5)) {
            let mut taken = Dispositions::default();
            let mut pieces = pieces(SigFile::Action);
            for piece in cut(&render_actions(&dispositions), &sizes) {
                if let Some(Written::Actions(actions)) = pieces.push(&piece).expect("own text") {
                    taken = actions.over(&taken);
                }
            }
            prop_assert_eq!(pieces.finish(), Ok(None));
            prop_assert_eq!(taken, dispositions);
        }

        #[test]
        fn other_files_in_pieces(
            pending in testing::any_pending(),
            blocked in testing::sigset(),
            stack in testing::altstack(),
            sizes in vec(1..90_usize, 1..5),
        ) {
            let queue = render_queue(&pending, |_| false);
            for (file, text) in [
                (SigFile::SharedPending, queue),
                (SigFile::Blocked, render_blocked(blocked)),
                (SigFile::AltStack, render_altstack(&stack)),
            ] {
                let whole = parse(file, text.as_bytes(), None).expect("own text");
                // With and without the end of its last line.
                for text in [text.as_str(), text.trim_end()] {
                    let mut pieces = pieces(file);
                    let mut written = Vec::new();
                    for piece in cut(text, &sizes) {
                        written.extend(pieces.push(&piece).expect("own text"));
                    }
                    written.extend(pieces.finish().expect("own text"));
                    prop_assert_eq!(written.as_slice(), std::slice::from_ref(&whole));
                }
            }
        }

        #[test]
        fn any_pieces_are_survived(pieces_of in vec(vec(any::<u8>(), 0..80), 0..8), file in prop::sample::select(&SigFile::ALL[..])) {
            let mut pieces = pieces(file);
            for piece in pieces_of {
                let _ = pieces.push(&piece);
            }
            let _ = pieces.finish();
        }
    }
}
