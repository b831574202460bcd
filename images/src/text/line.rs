//! Parses one line of text word by word, and reports the position of errors.

use super::dialect::TextError;

/// No line is longer: the bytes of a siginfo in hexadecimal digits are 256.
pub(super) const LONGEST: usize = 1024;

/// What is left of a line.
#[derive(Debug)]
pub(super) struct Line<'t> {
    number: usize,
    text: &'t str,
    /// Where what is left begins.
    at: usize,
    /// Where the word taken last begins.
    word: usize,
}

impl<'t> Line<'t> {
    /// The line with this number, without its end.
    pub(super) fn new(bytes: &'t [u8], number: usize) -> Result<Line<'t>, TextError> {
        let wrong = |column: usize, reason: String| TextError {
            line: number,
            column: column + 1,
            reason,
        };
        if let Some(at) = bytes
            .iter()
            .position(|&byte| !(byte == b'\t' || (b' '..=b'~').contains(&byte)))
        {
            let reason = format!("byte {:#04x} is not allowed in these files", bytes[at]);
            return Err(wrong(at, reason));
        }
        if bytes.len() > LONGEST {
            let reason = format!("the line is longer than {LONGEST} characters");
            return Err(wrong(LONGEST, reason));
        }
        let text = std::str::from_utf8(bytes).map_err(|e| wrong(e.valid_up_to(), e.to_string()))?;
        Ok(Line {
            number,
            text,
            at: 0,
            word: 0,
        })
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    pub(super) fn is_blank(&self) -> bool {
        self.rest().trim_start().is_empty()
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// How many words are left.
    pub(super) fn words(&self) -> usize {
        self.rest().split_ascii_whitespace().count()
    }

    /// The next word, which stays.
    pub(super) fn peek(&self) -> &'t str {
        self.rest()
            .split_ascii_whitespace()
            .next()
            .unwrap_or_default()
    }

    /// The next word; an empty one at the end.
    pub(super) fn word(&mut self) -> &'t str {
        let rest = self.rest();
        self.word = self.text.len() - rest.trim_start().len();
        let word = self.peek();
        self.at = self.word + word.len();
        word
    }

    /// An error at the word that was taken last; at the first one if none was.
    pub(super) fn wrong(&self, reason: impl Into<String>) -> TextError {
        let first = self.text.len() - self.text.trim_start().len();
        TextError {
            line: self.number,
            column: self.word.max(first) + 1,
            reason: reason.into(),
        }
    }

    fn expected(&self, what: &str, found: &str) -> TextError {
        if found.is_empty() {
            self.wrong(format!("expected {what}, but the line ends"))
        } else {
            self.wrong(format!("expected {what}, found {found:?}"))
        }
    }

    /// The next word must be this one.
    pub(super) fn keyword(&mut self, keyword: &str) -> Result<(), TextError> {
        let word = self.word();
        if word == keyword {
            Ok(())
        } else {
            Err(self.expected(&format!("{keyword:?}"), word))
        }
    }

    /// Nothing may follow.
    pub(super) fn end(&mut self) -> Result<(), TextError> {
        if self.is_blank() {
            return Ok(());
        }
        let word = self.word();
        Err(self.expected("the end of the line", word))
    }

    /// A whole number between these, in decimal or (0x) hexadecimal digits. `end` stands right behind it.
    pub(super) fn between<T: TryFrom<i128>>(
        &mut self,
        what: &str,
        end: &str,
        low: i128,
        high: i128,
    ) -> Result<T, TextError> {
        let word = self.word();
        let Some(number) = word.strip_suffix(end).and_then(whole) else {
            return Err(self.expected(&format!("{what}, a number{}", behind(end)), word));
        };
        let in_range = Some(number).filter(|number| (low..=high).contains(number));
        in_range
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| {
                self.wrong(format!(
                    "{what} is a number from {low} to {high}, not {number}"
                ))
            })
    }

    pub(super) fn i32(&mut self, what: &str) -> Result<i32, TextError> {
        self.between(what, "", i32::MIN.into(), i32::MAX.into())
    }

    /// The patches print these by %d.
    pub(super) fn u32(&mut self, what: &str) -> Result<u32, TextError> {
        let number: i64 = self.between(what, "", i32::MIN.into(), u32::MAX.into())?;
        let [a, b, c, d, ..] = number.to_le_bytes();
        Ok(u32::from_le_bytes([a, b, c, d]))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, TextError> {
        self.between(what, "", 0, u64::MAX.into())
    }

    /// The patches print some of these by %lu.
    pub(super) fn i64(&mut self, what: &str) -> Result<i64, TextError> {
        let number: i128 = self.between(what, "", i64::MIN.into(), u64::MAX.into())?;
        let [a, b, c, d, e, f, g, h, ..] = number.to_le_bytes();
        Ok(i64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }

    /// A keyword and the number that follows it.
    pub(super) fn named<T>(
        &mut self,
        keyword: &str,
        number: impl FnOnce(&mut Self, &str) -> Result<T, TextError>,
    ) -> Result<T, TextError> {
        self.keyword(keyword)?;
        number(self, keyword)
    }
}

fn behind(end: &str) -> String {
    if end.is_empty() {
        String::new()
    } else {
        format!(" with {end:?} behind it")
    }
}

/// `from_str_radix` would take a plus sign, too.
fn whole(word: &str) -> Option<i128> {
    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word),
    };
    let (digits, radix) = match digits.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (digits, 10),
    };
    let all_digits = digits.chars().all(|c| c.is_digit(radix));
    let number = i128::from_str_radix(digits, radix)
        .ok()
        .filter(|_| all_digits)?;
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line<'_> {
        Line::new(text.as_bytes(), 7).expect("text")
    }

    #[test]
    fn numbers() {
        for (text, value) in [("0", 0), ("-5", -5), ("0x1F", 31), ("-0x2", -2), ("007", 7)] {
            assert_eq!(whole(text), Some(value), "{text}");
        }
        for text in ["", "-", "0x", "+1", "0x+1", "1.5", "1_000", "x", "--1"] {
            assert_eq!(whole(text), None, "{text}");
        }
        assert_eq!(line("-2").u32("uid"), Ok(u32::MAX - 1));
        assert_eq!(line("18446744073709551615").i64("utime"), Ok(-1));
        line("18446744073709551616")
            .u64("x")
            .expect_err("too large");
        line("-1").u64("x").expect_err("too small");
    }

    #[test]
    fn places() {
        let mut line = line("  sig 10 what");
        line.keyword("sig").expect("that is there");
        let error = line
            .between::<i32>("the signal", ":", 1, 64)
            .expect_err("no colon");
        assert_eq!(
            error.to_string(),
            "line 7, column 7: expected the signal, a number with \":\" behind it, found \"10\""
        );
        let error = line.end().expect_err("a word is left");
        assert_eq!((error.line, error.column), (7, 10));
        line.end().expect("that was all");
        let error = line.u64("the size").expect_err("no more");
        assert_eq!(error.column, 14);
        assert!(error.reason.ends_with("but the line ends"), "{error}");
    }

    #[test]
    fn only_what_can_be_printed() {
        let error = Line::new(b"12\x003", 1).expect_err("a NUL");
        assert_eq!(error.column, 3);
        Line::new("é".as_bytes(), 1).expect_err("not ASCII");
        let long = vec![b' '; LONGEST + 1];
        Line::new(&long, 1).expect_err("too long");
    }
}
