//! The bytes of a core: from a file, or decompressed from a file.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt as _;

use super::error::Error;

/// Of a stream so much is kept, because the notes may be anywhere before it: the notes of 16,000 threads are 200 MB.
const MOST_KEPT: u64 = 256 << 20;

/// Some bytes of a core.
pub(super) trait Bytes {
    /// The bytes at a place. `what` is what they are, for errors.
    ///
    /// # Errors
    /// [`Error::Truncated`] if they are not all there; no more than is there is ever allocated.
    fn at(&mut self, offset: u64, size: u64, what: &'static str) -> Result<Vec<u8>, Error>;
}

impl Bytes for File {
    fn at(&mut self, offset: u64, size: u64, what: &'static str) -> Result<Vec<u8>, Error> {
        let has = self.metadata()?.len();
        let end = offset.saturating_add(size);
        let truncated = Error::Truncated { what, has, end };
        if end > has {
            return Err(truncated);
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        match self.read_exact_at(&mut bytes, offset) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err(truncated),
            done => Ok(done.map(|()| bytes)?),
        }
    }
}

/// Bytes that come one after the other.
pub(super) struct Stream<R> {
    source: R,
    read: Vec<u8>,
}

impl<R: Read> Stream<R> {
    pub(super) fn new(source: R) -> Stream<R> {
        Stream {
            source,
            read: Vec::new(),
        }
    }
}

impl<R: Read> Bytes for Stream<R> {
    fn at(&mut self, offset: u64, size: u64, what: &'static str) -> Result<Vec<u8>, Error> {
        let end = offset.saturating_add(size);
        if end > MOST_KEPT {
            let what = "bytes before the end of its notes";
            return Err(Error::TooMuch {
                what,
                limit: MOST_KEPT,
            });
        }
        let missing = end.saturating_sub(self.read.len() as u64);
        self.source
            .by_ref()
            .take(missing)
            .read_to_end(&mut self.read)?;
        let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
        let bytes = range.and_then(|(offset, end)| self.read.get(offset..end));
        bytes.map(<[u8]>::to_vec).ok_or(Error::Truncated {
            what,
            has: self.read.len() as u64,
            end,
        })
    }
}
