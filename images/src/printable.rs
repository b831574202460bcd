//! Escapes untrusted text for printing on a terminal.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::path::Path;

/// A text that somebody else has chosen: the name of a process, of a program, of a file. Anybody can put anything into
/// those. Displayed like this they do not move the cursor, end a line, or turn round what follows.
///
/// ```
/// # use criu_signals_images::Printable;
/// let name = "x\u{1b}[2J\n";
/// assert_eq!(Printable::from(name).to_string(), r"x\u{1b}[2J\n");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printable<'t>(Cow<'t, str>);

impl<'t> From<&'t str> for Printable<'t> {
    fn from(text: &'t str) -> Printable<'t> {
        Printable(text.into())
    }
}

impl<'t> From<&'t String> for Printable<'t> {
    fn from(text: &'t String) -> Printable<'t> {
        Printable(text.into())
    }
}

impl<'t> From<&'t OsStr> for Printable<'t> {
    fn from(text: &'t OsStr) -> Printable<'t> {
        Printable(text.to_string_lossy())
    }
}

impl<'t> From<&'t Path> for Printable<'t> {
    fn from(path: &'t Path) -> Printable<'t> {
        path.as_os_str().into()
    }
}

/// Texts and paths that [`Printable`] can display: what `display()` of a path does not do is escape.
pub trait Shown {
    /// As it may reach a terminal or a log.
    fn shown(&self) -> Printable<'_>;
}

impl Shown for str {
    fn shown(&self) -> Printable<'_> {
        self.into()
    }
}

impl Shown for OsStr {
    fn shown(&self) -> Printable<'_> {
        self.into()
    }
}

impl Shown for Path {
    fn shown(&self) -> Printable<'_> {
        self.into()
    }
}

/// What a process calls itself, or its program: its own choice. Displayed it is [`Printable`]; as it is only where that is
/// asked for.
///
/// ```
/// # use criu_signals_images::Name;
/// let name = Name::from("x\n");
/// assert_eq!(name.to_string(), r"x\n");
/// assert_eq!(name.as_str(), "x\n");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Name(String);

impl Name {
    /// The original bytes, for comparing and for storing.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Name {
    fn from(text: String) -> Name {
        Name(text)
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Name {
        Name(text.to_owned())
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.shown().fmt(f)
    }
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if acts(c) {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// Whether a terminal or a text layout treats this character as a control character instead of showing it.
fn acts(c: char) -> bool {
    // Line and paragraph separators; marks, embeddings, overrides and isolates of direction (Unicode, UAX #9).
    c.is_control()
        || matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{61c}'
        )
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_it_acts() {
        let all: String = ('\0'..='\u{ffff}').collect();
        let shown = Printable::from(&all).to_string();
        assert!(!shown.chars().any(acts));
        assert_eq!(
            Printable::from("a\x1b[2Jb\u{9b}\t").to_string(),
            r"a\u{1b}[2Jb\u{9b}\t"
        );
        assert_eq!(
            Printable::from("/usr/bin/größe").to_string(),
            "/usr/bin/größe"
        );
        assert_eq!(
            Printable::from(Path::new("a\u{202e}b")).to_string(),
            r"a\u{202e}b"
        );
    }
}
