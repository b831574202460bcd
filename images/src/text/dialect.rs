//! The dialect of a text (this project's or the patches of 2007), and errors in a text.

/// Whose text it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// This crate's: signal k stands in column k, counted from 1, and in `action` behind the number k.
    Ours,
    /// That of the 2007 patches: signal k stands in column k counted from 0, where column 0 means nothing and signal 64
    /// has none, and in `action` behind the number k-1.
    Patches,
}

/// What is wrong with a text, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct TextError {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What was expected, and what was found.
    pub reason: String,
}
