//! Errors of reading a core.

use std::io;

/// Why a core cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system said no, or the compressed data is damaged.
    #[error("cannot read the core file: {0}; if it was copied, compare it with the original")]
    Io(#[from] io::Error),
    /// The end is missing, or another part.
    #[error(
        "the core file is not complete: it has {has} bytes, and its {what} end at byte {end}. If the core was limited \
         (ulimit -c, ProcessSizeMax= in coredump.conf), write it again without the limit"
    )]
    Truncated {
        /// "program headers", "notes".
        what: &'static str,
        /// Bytes that there are.
        has: u64,
        /// Bytes that there should be.
        end: u64,
    },
    /// More than a core has.
    #[error(
        "the core file has more than {limit} {what}, which no process of this size has: none of it is shown"
    )]
    TooMuch {
        /// "bytes of notes", ...
        what: &'static str,
        /// How much is read.
        limit: u64,
    },
    /// A file of another kind.
    #[error("{0}")]
    Unsupported(String),
    /// Not what the kernel writes.
    #[error("the core file is damaged: {0}")]
    Damaged(String),
}
