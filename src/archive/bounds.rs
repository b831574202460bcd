//! Limits on the reading of an archive, and the errors of reading.

use std::io::{self, Read};

use criu_signals_images::Shown as _;

/// How much of an archive is read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries of one archive.
    pub entries: u64,
    /// Bytes of one image.
    pub image: u64,
    /// Bytes of all images together.
    pub images: u64,
    /// Bytes of the headers of one entry, with long names and pax records.
    pub headers: u64,
    /// How many bytes may come out of one compressed byte, beyond [`unpacked`](Self::unpacked).
    pub ratio: u64,
    /// Bytes that may come out of an archive however few went in.
    pub unpacked: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            entries: 1_000_000,
            image: 64 << 20,
            images: 256 << 20,
            headers: 1 << 20,
            // The most that deflate can do is 1,032. A memory of zeros is not in an archive, because CRIU leaves out such pages.
            ratio: 1_100,
            unpacked: 1 << 30,
        }
    }
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system said no, or the compressed data is damaged.
    #[error("cannot read the archive: {0}; if it was copied, compare it with the original")]
    Io(#[from] io::Error),
    /// The end is missing.
    #[error("the archive is not complete: it ends before the end marker of tar; copy it again")]
    Truncated,
    /// The header of an entry is not one that tar writes.
    #[error(
        "the archive is damaged: the header of an entry is not one of tar, or has an impossible size; if the archive was copied, \
         compare it with the original"
    )]
    Damaged,
    /// More than an archive of a checkpoint has.
    #[error(
        "the archive has more than {} {what}: if that is right, unpack it and name the folder of the images",
        amount(*limit, what)
    )]
    TooMuch {
        /// "entries", "bytes in one image", ...
        what: &'static str,
        /// How much is read.
        limit: u64,
    },
    /// A bomb, or something like it.
    #[error(
        "{} bytes came out of the archive, and more than {ratio} for each compressed byte: if that is right, unpack it and \
         name the folder of the images",
        amount(*limit, "bytes")
    )]
    Ratio {
        /// How much was allowed at least.
        limit: u64,
        /// How much was allowed for each byte.
        ratio: u64,
    },
    /// An image by a way in which no engine writes it.
    #[error("the archive's {} {what}: no container engine makes such an archive, and none of it is shown", name.shown())]
    Hostile {
        /// Of the entry.
        name: String,
        /// "is a symbolic link", "is there twice", ...
        what: &'static str,
    },
    /// Nothing here for us.
    #[error("{0}")]
    NoImages(String),
    /// Which is meant?
    #[error("there are several image folders: {}; unpack the archive and name one of them", .0.join(", "))]
    Several(Vec<String>),
    /// The OCI layout.
    #[error("the OCI image layout cannot be used: {0}")]
    Layout(String),
    /// Compressed in a way that is not read.
    #[error("the file is compressed by {0}: decompress it first")]
    Compression(&'static str),
}

/// `64 Mi` of bytes, `1000000` of entries.
fn amount(limit: u64, what: &str) -> String {
    if what.starts_with("bytes") && limit >= 1 << 20 {
        format!("{} Mi", limit >> 20)
    } else {
        limit.to_string()
    }
}

/// Reads up to the limit, and knows whether there is more.
pub(super) fn read_at_most(
    reader: &mut dyn Read,
    limit: u64,
    what: &'static str,
) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooMuch { what, limit });
    }
    Ok(bytes)
}
