//! CRIU's image framing, version 1.1: two magic numbers, then entries of a size and that many bytes. All
//! numbers are little-endian u32.

use std::io::{ErrorKind, Read, Write};

use crc32fast::Hasher;

use crate::error::ImageError;

/// `IMG_COMMON_MAGIC`: the first number of every CRIU image, followed by one for its kind.
const COMMON_MAGIC: u32 = 0x5456_4319;

const WORD: usize = 4;

/// One entry.
pub(crate) struct Frame {
    /// Counted from 0.
    pub(crate) index: u64,
    pub(crate) bytes: Vec<u8>,
    /// CRC-32 of everything before this entry.
    pub(crate) crc_before: u32,
}

pub(crate) struct FrameReader<R> {
    reader: R,
    name: String,
    limit: u64,
    crc: Hasher,
    index: u64,
}

impl<R: Read> FrameReader<R> {
    /// Reads the magic numbers. `limit` is the size of the largest entry.
    pub(crate) fn new(
        reader: R,
        name: &str,
        magic: u32,
        limit: u64,
    ) -> Result<FrameReader<R>, ImageError> {
        let mut frames = FrameReader {
            reader,
            name: name.to_owned(),
            limit,
            crc: Hasher::new(),
            index: 0,
        };
        let mut found = [0; 2];
        for word in &mut found {
            *word = frames
                .word()?
                .ok_or_else(|| truncated("in the magic numbers"))?;
        }
        let expected = [COMMON_MAGIC, magic];
        if found == expected {
            Ok(frames)
        } else {
            Err(ImageError::NotAnImage { found, expected })
        }
    }

    /// The next entry; `None` where the file ends.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, ImageError> {
        let crc_before = self.crc.clone().finalize();
        let index = self.index;
        let Some(size) = self.word()? else {
            return Ok(None);
        };
        let size = u64::from(size);
        if size > self.limit {
            return Err(ImageError::Oversized {
                entry: index,
                size,
                limit: self.limit,
            });
        }
        let bytes = self.up_to(size)?;
        if (bytes.len() as u64) < size {
            return Err(truncated(format!("in entry {index}")));
        }
        self.index += 1;
        Ok(Some(Frame {
            index,
            bytes,
            crc_before,
        }))
    }

    fn word(&mut self) -> Result<Option<u32>, ImageError> {
        let bytes = self.up_to(WORD as u64)?;
        match bytes.first_chunk() {
            Some(word) => Ok(Some(u32::from_le_bytes(*word))),
            None if bytes.is_empty() => Ok(None),
            None => Err(truncated(format!("in the size of entry {}", self.index))),
        }
    }

    /// Grows with what is there, never by what a size says.
    fn up_to(&mut self, size: u64) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        (&mut self.reader)
            .take(size)
            .read_to_end(&mut bytes)
            .map_err(|source| ImageError::io("read", &self.name, source))?;
        self.crc.update(&bytes);
        Ok(bytes)
    }
}

pub(crate) fn truncated(place: impl Into<String>) -> ImageError {
    ImageError::Truncated {
        place: place.into(),
    }
}

pub(crate) struct FrameWriter<W> {
    writer: W,
    name: String,
    limit: u64,
    crc: Hasher,
    index: u64,
}

impl<W: Write> FrameWriter<W> {
    /// Writes the magic numbers.
    pub(crate) fn new(
        writer: W,
        name: &str,
        magic: u32,
        limit: u64,
    ) -> Result<FrameWriter<W>, ImageError> {
        let mut frames = FrameWriter {
            writer,
            name: name.to_owned(),
            limit,
            crc: Hasher::new(),
            index: 0,
        };
        frames.put(&COMMON_MAGIC.to_le_bytes())?;
        frames.put(&magic.to_le_bytes())?;
        Ok(frames)
    }

    pub(crate) fn write(&mut self, entry: &[u8]) -> Result<(), ImageError> {
        let oversized = ImageError::Oversized {
            entry: self.index,
            size: entry.len() as u64,
            limit: self.limit,
        };
        let size = match u32::try_from(entry.len()) {
            Ok(size) if u64::from(size) <= self.limit => size,
            _ => return Err(oversized),
        };
        self.put(&size.to_le_bytes())?;
        self.put(entry)?;
        self.index += 1;
        Ok(())
    }

    /// How many entries have been written.
    pub(crate) fn count(&self) -> u64 {
        self.index
    }

    /// CRC-32 of what has been written.
    pub(crate) fn crc(&self) -> u32 {
        self.crc.clone().finalize()
    }

    pub(crate) fn finish(mut self) -> Result<(), ImageError> {
        let flushed = self.writer.flush();
        flushed.map_err(|source| ImageError::io("write", &self.name, source))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.crc.update(bytes);
        let written = self.writer.write_all(bytes);
        written.map_err(|source| match source.kind() {
            // The bare words of `write_all`, "failed to write whole buffer", tell nobody what to do.
            ErrorKind::WriteZero => ImageError::io("write", &self.name, ErrorKind::StorageFull),
            _ => ImageError::io("write", &self.name, source),
        })
    }
}
