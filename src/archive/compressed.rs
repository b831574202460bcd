//! The compression of an archive, and the decompressed bytes.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, Read, Seek as _, SeekFrom};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use lz4_flex::frame::FrameDecoder as Lz4;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::bounds::{Error, Limits};

/// What a file is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Plain,
    Gzip,
    Zstd,
    Lz4,
}

/// Where a tar header of POSIX or GNU has its magic.
const USTAR: usize = 257;

impl Format {
    /// `None` for what is no archive.
    pub(super) fn detect(file: &mut File) -> Result<Option<Format>, Error> {
        file.seek(SeekFrom::Start(0))?;
        let mut head = Vec::new();
        file.take(512).read_to_end(&mut head)?;
        Format::of_bytes(&head)
    }

    pub(super) fn of_bytes(head: &[u8]) -> Result<Option<Format>, Error> {
        let format = match head {
            [0x1f, 0x8b, ..] => Format::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Format::Zstd,
            // A skippable frame, with which some tools begin: 0x184D2A5?.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Format::Zstd,
            [0x04, 0x22, 0x4d, 0x18, ..] => Format::Lz4,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return Err(Error::Compression("xz")),
            [b'B', b'Z', b'h', ..] => return Err(Error::Compression("bzip2")),
            _ if head.get(USTAR..USTAR + 5) == Some(b"ustar") => Format::Plain,
            _ => return Ok(None),
        };
        Ok(Some(format))
    }

    /// What comes out of it, and no more than the limits allow.
    pub(super) fn unpack<'r>(
        self,
        packed: impl BufRead + 'r,
        limits: &Limits,
    ) -> Result<Box<dyn Read + 'r>, Error> {
        let taken = Rc::new(Cell::new(0));
        let packed = Counted {
            inner: packed,
            taken: Rc::clone(&taken),
        };
        let inner: Box<dyn Read + 'r> = match self {
            Format::Plain => return Ok(Box::new(packed)),
            Format::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Format::Zstd => Box::new(Zstd {
                packed,
                decoder: FrameDecoder::new(),
                in_frame: false,
            }),
            Format::Lz4 => Box::new(Lz4Frames(Lz4::new(packed))),
        };
        Ok(Box::new(Unpacked {
            inner,
            taken,
            given: 0,
            limits: *limits,
        }))
    }
}

/// Counts what is taken from a reader.
struct Counted<R> {
    inner: R,
    taken: Rc<Cell<u64>>,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.taken.set(self.taken.get() + count as u64);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.taken.set(self.taken.get() + count as u64);
        self.inner.consume(count);
    }
}

/// Ends with an error where too much comes out.
struct Unpacked<'r> {
    inner: Box<dyn Read + 'r>,
    taken: Rc<Cell<u64>>,
    given: u64,
    limits: Limits,
}

impl Read for Unpacked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.given += count as u64;
        let Limits {
            ratio, unpacked, ..
        } = self.limits;
        if self.given > unpacked && self.given / ratio > self.taken.get() {
            let limit = unpacked;
            return Err(io::Error::other(Error::Ratio { limit, ratio }));
        }
        Ok(count)
    }
}

/// Frames of zstd(1), one after the other: `ruzstd` decodes one.
struct Zstd<R> {
    packed: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    /// Is there another frame? What tools put between frames is skipped.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.packed.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.packed) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let mut rest = (&mut self.packed).take(length);
                    if io::copy(&mut rest, &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(e) => return Err(of_decoder(e)),
            }
        }
        Ok(false)
    }

    fn check(&self) -> io::Result<()> {
        match self.decoder.get_checksum_from_data() {
            Some(stored) if self.decoder.get_calculated_checksum() != Some(stored) => {
                Err(io::Error::other("the checksum of the zstd frame is wrong"))
            }
            _ => Ok(()),
        }
    }
}

/// What went wrong in the decoder: if it wanted more bytes than there are, the end of the file is missing.
fn of_decoder(error: FrameDecoderError) -> io::Error {
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    while let Some(one) = source {
        let is_end = |e: &io::Error| e.kind() == io::ErrorKind::UnexpectedEof;
        if one.downcast_ref().is_some_and(is_end) {
            return io::ErrorKind::UnexpectedEof.into();
        }
        source = one.source();
    }
    io::Error::other(error)
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame {
                if !self.next_frame()? {
                    return Ok(0);
                }
                self.in_frame = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.packed, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(of_decoder)?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.check()?;
            self.in_frame = false;
        }
    }
}

/// Frames of lz4(1): the decoder ends at the end of each.
struct Lz4Frames<R: Read>(Lz4<R>);

impl<R: BufRead> Read for Lz4Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.0.read(buffer)?;
            if count > 0 || buffer.is_empty() || self.0.get_mut().fill_buf()?.is_empty() {
                return Ok(count);
            }
        }
    }
}
