//! Errors of reading and writing images.

use std::io;

use crate::printable::Shown;

/// What is wrong with an image, or with the state that should go into one.
///
/// Functions that take a name or a path do not repeat it here, except where the file system is at fault:
/// the caller knows it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file system, or the stream, said no.
    #[error("cannot {operation} {}: {source}", name.shown())]
    Io {
        /// What was tried: "open", "read", "write", ...
        operation: &'static str,
        /// Of the file; "the image" for a stream.
        name: String,
        /// What came back.
        source: io::Error,
    },
    /// A file of that name is there already.
    #[error(
        "{} exists already, and images are never overwritten: remove the file or choose another folder", name.shown()
    )]
    Exists {
        /// Of the file.
        name: String,
    },
    /// A folder, a device, a pipe or (in an image folder) a symbolic link.
    #[error("{} is not a regular file", name.shown())]
    NotRegular {
        /// Of the file.
        name: String,
    },
    /// The file is larger than any image.
    #[error("{} is {size} bytes long, and an image has at most {limit} bytes", name.shown())]
    TooLarge {
        /// Of the file.
        name: String,
        /// In bytes.
        size: u64,
        /// In bytes.
        limit: u64,
    },
    /// The first 8 bytes are something else's.
    #[error(
        "not an image of this kind: the file begins with {:#010x} {:#010x}, not with {:#010x} {:#010x}",
        found[0], found[1], expected[0], expected[1]
    )]
    NotAnImage {
        /// The two magic numbers in the file.
        found: [u32; 2],
        /// The ones that should be there.
        expected: [u32; 2],
    },
    /// Written by a later version of this program.
    #[error(
        "the image has format version {found}, and this program reads versions up to {supported}: \
         use the version that wrote it, or a later one"
    )]
    NewerVersion {
        /// Version of the image.
        found: u32,
        /// The newest that this crate reads.
        supported: u32,
    },
    /// An entry claims to be larger than any entry is.
    #[error(
        "the image is damaged: entry {entry} has a size of {size} bytes, and {limit} is the limit"
    )]
    Oversized {
        /// Counted from 0.
        entry: u64,
        /// In bytes.
        size: u64,
        /// In bytes.
        limit: u64,
    },
    /// The file ends too early.
    #[error("the image is not complete: it ends {place}")]
    Truncated {
        /// "in the magic numbers", "in entry 3", "before the trailer".
        place: String,
    },
    /// An entry says what cannot be.
    #[error("the image is damaged: entry {entry}, {}: {}", field.shown(), reason.shown())]
    Corrupt {
        /// Counted from 0.
        entry: u64,
        /// Path of the field as in `signals.proto`: `process.dispositions[3].signo`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The bytes are not those that were written.
    #[error("the image is damaged: its checksum is {computed:#010x}, but {stored:#010x} is stored")]
    Checksum {
        /// The checksum in the trailer.
        stored: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// More of something than the reader takes in; see [`Allowance`](crate::image::Allowance).
    #[error(
        "the image holds more {what} than allowed: {limit} in all images together, of which {left} were left"
    )]
    TooMany {
        /// "siginfos and timers", "processes and threads".
        what: &'static str,
        /// Of all images that are read together.
        limit: u64,
        /// What was left of that at this place.
        left: u64,
    },
    /// No memory for all that the image holds.
    #[error("out of memory for the image, which has {siginfos} siginfos or more")]
    NoMemory {
        /// As far as it was read.
        siginfos: u64,
    },
    /// State that no process can have, in a JSON document or on its way into an image.
    #[error("not a valid image: {}: {}", field.shown(), reason.shown())]
    Invalid {
        /// Path of the field as in `signals.proto`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The text is no JSON, or no JSON of an image.
    #[error("the JSON document cannot be used: {}", reason.shown())]
    Json {
        /// What the parser says.
        reason: String,
    },
}

impl ImageError {
    pub(crate) fn io(
        operation: &'static str,
        name: &str,
        source: impl Into<io::Error>,
    ) -> ImageError {
        ImageError::Io {
            operation,
            name: name.to_owned(),
            source: source.into(),
        }
    }
}

/// A field that breaks a rule; where it lies is added on the way up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldError {
    field: String,
    reason: String,
}

impl FieldError {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> FieldError {
        FieldError {
            field: field.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn missing(field: &str) -> FieldError {
        FieldError::new(field, "is missing")
    }

    /// The field lies in this one.
    pub(crate) fn within(mut self, outer: &str) -> FieldError {
        self.field = format!("{outer}.{}", self.field);
        self
    }

    /// The field lies in this item of a repeated one.
    pub(crate) fn within_item(self, outer: &str, index: usize) -> FieldError {
        self.within(&format!("{outer}[{index}]"))
    }

    pub(crate) fn in_entry(self, entry: u64) -> ImageError {
        ImageError::Corrupt {
            entry,
            field: self.field,
            reason: self.reason,
        }
    }
}

impl From<FieldError> for ImageError {
    fn from(error: FieldError) -> ImageError {
        ImageError::Invalid {
            field: error.field,
            reason: error.reason,
        }
    }
}
