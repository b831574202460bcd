//! The image: the sequence of entries in a stream or a file.

mod allowance;
mod file;

use std::io::{BufReader, Read, Write};
use std::ops::RangeInclusive;

use protobuf::rt::WireType;
use protobuf::{CodedInputStream, Message};

use crate::codec::{Codec, proto::signals as pb};
use crate::error::{FieldError, ImageError};
use crate::framing::{Frame, FrameReader, FrameWriter, truncated};
use crate::header::{Header, check_version};
use crate::kernel_names::CallTable;
use crate::pending::Pending;
use crate::process::{ProcessState, ThreadIds, ThreadState, no_threads};
use crate::siginfo::Siginfo;

pub use allowance::Allowance;
pub use file::{
    Durability, Step, create_in, create_in_passing, file_name, open, open_in, open_in_within,
    open_within, read_of_within,
};
pub(crate) use file::{open_path, open_regular_in};
use pb::entry::Kind;

/// Tells this project's images from CRIU's.
pub const MAGIC: u32 = 0x5951_1738;
/// Size of the largest entry, in bytes.
pub const MAX_ENTRY: u64 = 1 << 20;
/// Size of the largest file that is opened, in bytes.
pub const MAX_FILE: u64 = 1 << 30;
/// Siginfos in one queue chunk.
pub const MAX_CHUNK: usize = 256;

/// Field numbers of `Entry.kind`.
const KINDS: RangeInclusive<u32> = 1..=5;

const STREAM: &str = "the image";

/// What an image file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What the file says of itself.
    pub header: Header,
    /// The state.
    pub process: ProcessState,
}

impl Image {
    /// By which the system calls of the process are numbered: it may be of another architecture than this program.
    pub const fn calls(&self) -> CallTable {
        CallTable {
            arch: Some(self.header.arch),
            compat: self.process.compat,
        }
    }

    /// What a reader would refuse.
    pub(crate) fn check(&self) -> Result<(), ImageError> {
        check_version(self.header.format_version)?;
        if self.header.format_version < self.process.format_version() {
            let reason = format!(
                "is {}, and what timers that are gone have left is in images from {} on",
                self.header.format_version,
                self.process.format_version()
            );
            return Err(FieldError::new("header.format_version", reason).into());
        }
        self.header
            .check()
            .map_err(|error| error.within("header"))?;
        Ok(self.process.check()?)
    }
}

/// Writes an image to a stream.
///
/// # Errors
/// [`ImageError::Invalid`] if no process can have this state; nothing has been written then. [`ImageError::Io`] if writing
/// fails; a part of the image has been written then.
pub fn write(writer: impl Write, image: &Image) -> Result<(), ImageError> {
    write_named(writer, STREAM, image)
}

fn write_named(writer: impl Write, name: &str, image: &Image) -> Result<(), ImageError> {
    image.check()?;
    let mut entries = EntryWriter {
        frames: FrameWriter::new(writer, name, MAGIC, MAX_ENTRY)?,
        siginfos: 0,
    };
    let process = &image.process;
    entries.write(Kind::Header(image.header.to_proto()))?;
    entries.write(Kind::Process(process.to_proto()))?;
    entries.write_queue(&process.shared)?;
    for thread in &process.threads {
        entries.write(Kind::Thread(thread.to_proto()))?;
        entries.write_queue(&thread.pending)?;
    }
    entries.finish()
}

fn encode(kind: Kind) -> protobuf::Result<Vec<u8>> {
    let entry = pb::Entry {
        kind: Some(kind),
        ..pb::Entry::default()
    };
    entry.write_to_bytes()
}

struct EntryWriter<W> {
    frames: FrameWriter<W>,
    siginfos: u64,
}

impl<W: Write> EntryWriter<W> {
    fn write(&mut self, kind: Kind) -> Result<(), ImageError> {
        let bytes = encode(kind).map_err(|error| {
            let name = format!("entry {}", self.frames.count());
            ImageError::io("encode", &name, error)
        })?;
        self.frames.write(&bytes)
    }

    fn write_queue(&mut self, pending: &Pending) -> Result<(), ImageError> {
        for chunk in pending.queue.chunks(MAX_CHUNK) {
            self.siginfos += chunk.len() as u64;
            self.write(Kind::Queue(pb::QueueChunk {
                signals: chunk.iter().map(Siginfo::to_proto).collect(),
                ..pb::QueueChunk::default()
            }))?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), ImageError> {
        self.write(Kind::Trailer(pb::Trailer {
            entries: self.frames.count(),
            siginfos: self.siginfos,
            crc32: self.frames.crc(),
            ..pb::Trailer::default()
        }))?;
        self.frames.finish()
    }
}

/// Reads an image from a stream, and the stream to its end.
///
/// # Errors
/// If any byte is not as it was written, or the stream cannot be read. A header of a later version is an error before
/// anything else is looked at ([`ImageError::NewerVersion`]).
pub fn read(reader: impl Read) -> Result<Image, ImageError> {
    read_within(reader, &mut Allowance::unlimited())
}

/// As [`read`], and no more than this; what has been read is taken off it.
///
/// # Errors
/// Those of [`read`]; [`ImageError::TooMany`] as soon as there is more, [`ImageError::NoMemory`] if memory ends before that.
pub fn read_within(reader: impl Read, allowance: &mut Allowance) -> Result<Image, ImageError> {
    read_named(reader, STREAM, allowance)
}

fn read_named(
    reader: impl Read,
    name: &str,
    allowance: &mut Allowance,
) -> Result<Image, ImageError> {
    let mut frames = FrameReader::new(BufReader::new(reader), name, MAGIC, MAX_ENTRY)?;
    let header = read_header(&next(&mut frames)?)?;
    let mut parts = Parts::new(&next(&mut frames)?, allowance)?;
    let trailer = loop {
        let frame = next(&mut frames)?;
        match kind(&frame)? {
            Kind::Thread(thread) => parts.add_thread(&thread, frame.index)?,
            Kind::Queue(chunk) => parts.add_chunk(&chunk, frame.index)?,
            Kind::Trailer(trailer) => {
                parts.check_trailer(&trailer, &frame)?;
                break frame.index;
            }
            Kind::Header(_) => return Err(twice("header", &frame)),
            Kind::Process(_) => return Err(twice("process", &frame)),
        }
    };
    match frames.next() {
        Ok(None) => Ok(Image {
            header,
            process: parts.process,
        }),
        Err(error @ ImageError::Io { .. }) => Err(error),
        _ => Err(FieldError::new("trailer", "something follows it").in_entry(trailer)),
    }
}

fn twice(field: &str, frame: &Frame) -> ImageError {
    FieldError::new(field, "occurs a second time").in_entry(frame.index)
}

fn next<R: Read>(frames: &mut FrameReader<R>) -> Result<Frame, ImageError> {
    frames
        .next()?
        .ok_or_else(|| truncated("before the trailer"))
}

fn kind(frame: &Frame) -> Result<Kind, ImageError> {
    let undecodable = |error: protobuf::Error| {
        FieldError::new("message", error.to_string()).in_entry(frame.index)
    };
    let entry = pb::Entry::parse_from_bytes(&frame.bytes).map_err(undecodable)?;
    match (entry.kind, count_kinds(&frame.bytes).map_err(undecodable)?) {
        (Some(kind), 1) => Ok(kind),
        // To skip an entry of an unknown kind would be to lose state silently.
        (None, _) => Err("is not one that this program knows"),
        // The protobuf crate takes the last and drops the others.
        (Some(_), _) => Err("is there more than once"),
    }
    .map_err(|reason| FieldError::new("kind", reason).in_entry(frame.index))
}

fn count_kinds(entry: &[u8]) -> protobuf::Result<usize> {
    let mut fields = CodedInputStream::from_bytes(entry);
    let mut kinds = 0;
    while let Some(tag) = fields.read_raw_tag_or_eof()? {
        let (number, wire_type) = (tag >> 3, tag & 7);
        if KINDS.contains(&number) {
            kinds += 1;
        }
        match WireType::new(wire_type) {
            Some(wire_type) => fields.skip_field(wire_type)?,
            None => break,
        }
    }
    Ok(kinds)
}

fn read_header(frame: &Frame) -> Result<Header, ImageError> {
    let Kind::Header(header) = kind(frame)? else {
        return Err(FieldError::new("header", "should be the first entry").in_entry(frame.index));
    };
    check_version(header.format_version).map_err(|error| match error {
        ImageError::Invalid { field, reason } => {
            FieldError::new(field, reason).in_entry(frame.index)
        }
        other => other,
    })?;
    Header::from_proto(&header).map_err(|error| error.within("header").in_entry(frame.index))
}

/// The process as far as it has been read.
struct Parts<'a> {
    process: ProcessState,
    ids: ThreadIds,
    siginfos: u64,
    allowance: &'a mut Allowance,
}

impl<'a> Parts<'a> {
    fn new(frame: &Frame, allowance: &'a mut Allowance) -> Result<Parts<'a>, ImageError> {
        let Kind::Process(process) = kind(frame)? else {
            return Err(
                FieldError::new("process", "should be the second entry").in_entry(frame.index)
            );
        };
        let process = ProcessState::from_proto(&process)
            .map_err(|error| error.within("process").in_entry(frame.index))?;
        allowance.take_siginfos(process.timers.len() + process.deleted_timers.len())?;
        Ok(Parts {
            process,
            ids: ThreadIds::default(),
            siginfos: 0,
            allowance,
        })
    }

    fn add_thread(&mut self, thread: &pb::Thread, entry: u64) -> Result<(), ImageError> {
        self.allowance.take_task()?;
        let within = |error: FieldError| error.within("thread").in_entry(entry);
        let thread = ThreadState::from_proto(thread).map_err(within)?;
        self.ids
            .admit(&self.process.ids, &thread.ids)
            .map_err(within)?;
        reserve(&mut self.process.threads, 1, self.siginfos)?;
        self.process.threads.push(thread);
        Ok(())
    }

    /// A chunk belongs to the thread before it, or to the process if there was none yet.
    fn add_chunk(&mut self, chunk: &pb::QueueChunk, entry: u64) -> Result<(), ImageError> {
        let count = chunk.signals.len();
        if count == 0 || count > MAX_CHUNK {
            let reason = format!("there are {count}, and 1 to {MAX_CHUNK} is the limit");
            return Err(FieldError::new("queue.signals", reason).in_entry(entry));
        }
        self.siginfos += count as u64;
        self.process
            .check_siginfos(self.siginfos)
            .map_err(|error| error.in_entry(entry))?;
        self.allowance.take_siginfos(count)?;
        let pending = match self.process.threads.last_mut() {
            Some(thread) => &mut thread.pending,
            None => &mut self.process.shared,
        };
        reserve(&mut pending.queue, count, self.siginfos)?;
        for (index, signal) in chunk.signals.iter().enumerate() {
            Siginfo::from_proto(signal)
                .and_then(|siginfo| pending.push(siginfo))
                .map_err(|error| error.within_item("queue.signals", index).in_entry(entry))?;
        }
        Ok(())
    }

    fn check_trailer(&self, trailer: &pb::Trailer, frame: &Frame) -> Result<(), ImageError> {
        if trailer.crc32 != frame.crc_before {
            return Err(ImageError::Checksum {
                stored: trailer.crc32,
                computed: frame.crc_before,
            });
        }
        for (field, stated, found) in [
            ("trailer.entries", trailer.entries, frame.index),
            ("trailer.siginfos", trailer.siginfos, self.siginfos),
        ] {
            if stated != found {
                let reason = format!("is {stated}, but {found} came before it");
                return Err(FieldError::new(field, reason).in_entry(frame.index));
            }
        }
        // No checksum guards this entry, and the protobuf crate lets pass lengths that go beyond its end.
        let as_written = encode(Kind::Trailer(trailer.clone()));
        if !as_written.is_ok_and(|bytes| bytes == frame.bytes) {
            let reason = "is not encoded as it should be";
            return Err(FieldError::new("trailer", reason).in_entry(frame.index));
        }
        if self.process.threads.is_empty() {
            return Err(no_threads().in_entry(frame.index));
        }
        Ok(())
    }
}

/// How much memory is needed the image says: that there is none is an error, and not the end of the program.
fn reserve<T>(items: &mut Vec<T>, more: usize, siginfos: u64) -> Result<(), ImageError> {
    items
        .try_reserve(more)
        .map_err(|_| ImageError::NoMemory { siginfos })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protobuf::MessageField;

    use super::*;
    use crate::FORMAT_VERSION;
    use crate::sigset::SigSet;
    use crate::testing::{self, sample_image};

    fn bytes(image: &Image) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, image).expect("a Vec takes everything");
        bytes
    }

    /// The entries of the sample, to be changed and written as a file with a trailer that is right.
    fn sample_entries() -> Vec<Kind> {
        let bytes = bytes(&sample_image());
        let mut frames = FrameReader::new(&*bytes, STREAM, MAGIC, MAX_ENTRY).expect("magic");
        let mut kinds = Vec::new();
        while let Some(frame) = frames.next().expect("whole") {
            kinds.push(kind(&frame).expect("known"));
        }
        kinds.pop();
        kinds
    }

    fn file(entries: Vec<Kind>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = EntryWriter {
            frames: FrameWriter::new(&mut bytes, STREAM, MAGIC, MAX_ENTRY).expect("magic"),
            siginfos: 0,
        };
        for kind in entries {
            if let Kind::Queue(chunk) = &kind {
                writer.siginfos += chunk.signals.len() as u64;
            }
            writer.write(kind).expect("small");
        }
        writer.finish().expect("a Vec takes everything");
        bytes
    }

    /// What is wrong with the sample after this change: entry and field.
    fn refused(change: impl FnOnce(&mut Vec<Kind>)) -> (u64, String) {
        let mut entries = sample_entries();
        change(&mut entries);
        match read(&*file(entries)) {
            Err(ImageError::Corrupt { entry, field, .. }) => (entry, field),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn entries_follow_one_another() {
        let names: Vec<&str> = sample_entries()
            .iter()
            .map(|kind| match kind {
                Kind::Header(_) => "header",
                Kind::Process(_) => "process",
                Kind::Thread(_) => "thread",
                Kind::Queue(_) => "queue",
                Kind::Trailer(_) => "trailer",
            })
            .collect();
        assert_eq!(
            names,
            ["header", "process", "queue", "thread", "thread", "queue"]
        );
        assert_eq!(read(&*file(sample_entries())).ok(), Some(sample_image()));
    }

    #[test]
    fn entries_in_another_order() {
        let refuse = |change: fn(&mut Vec<Kind>), entry, field: &str| {
            assert_eq!(refused(change), (entry, field.to_owned()));
        };
        refuse(|entries| entries.swap(0, 1), 0, "header");
        refuse(|entries| entries.swap(1, 2), 1, "process");
        refuse(|entries| entries.push(entries[0].clone()), 6, "header");
        refuse(|entries| entries.push(entries[1].clone()), 6, "process");
        // The thread's chunk comes where the process's should be.
        refuse(|entries| entries.swap(2, 5), 2, "queue.signals[0].signo");
        refuse(|entries| entries.swap(3, 4), 3, "thread.ids");
        refuse(|entries| entries.push(entries[4].clone()), 6, "thread.ids");
        refuse(|entries| entries.truncate(3), 3, "threads");
    }

    #[test]
    fn queue_chunks_have_a_size() {
        let resize = |size| {
            refused(|entries| {
                let Kind::Queue(chunk) = &mut entries[2] else {
                    panic!("not the queue")
                };
                chunk.signals = vec![testing::queued(64, 1).to_proto(); size];
            })
        };
        for size in [0, MAX_CHUNK + 1] {
            assert_eq!(resize(size), (2, "queue.signals".to_owned()));
        }
    }

    #[test]
    fn a_deep_queue_takes_several_chunks() {
        let mut image = sample_image();
        let count = 2 * MAX_CHUNK as u64 + 1;
        image.process.shared.queue = (0..count).map(|value| testing::queued(64, value)).collect();
        let bytes = bytes(&image);
        assert_eq!(read(&*bytes).ok(), Some(image));

        let mut frames = FrameReader::new(&*bytes, STREAM, MAGIC, MAX_ENTRY).expect("magic");
        let mut chunks = Vec::new();
        while let Some(frame) = frames.next().expect("whole") {
            if let Kind::Queue(chunk) = kind(&frame).expect("known") {
                chunks.push(chunk.signals.len());
            }
        }
        assert_eq!(chunks, [MAX_CHUNK, MAX_CHUNK, 1, 3]);
    }

    #[test]
    fn a_newer_version_is_told_whatever_follows() {
        let header = pb::Header {
            format_version: FORMAT_VERSION + 1,
            arch: protobuf::EnumOrUnknown::from_i32(99),
            ..pb::Header::default()
        };
        let mut bytes = file(vec![Kind::Header(header)]);
        bytes.extend_from_slice(&[0xff; 100]);
        match read(&*bytes) {
            Err(ImageError::NewerVersion {
                found: 3,
                supported: 2,
            }) => {}
            other => panic!("{other:?}"),
        }
        let field = refused(|entries| {
            let Kind::Header(header) = &mut entries[0] else {
                panic!("not the header")
            };
            header.format_version = 0;
        });
        assert_eq!(field, (0, "header.format_version".to_owned()));
    }

    #[test]
    fn another_kind_of_file() {
        for foreign in ["#!/bin/sh\n", "\x19\x43\x56\x54\x47\x38\x05\x55"] {
            match read(foreign.as_bytes()) {
                Err(ImageError::NotAnImage { expected, .. }) => {
                    assert_eq!(expected, [0x5456_4319, MAGIC])
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_size_is_not_believed() {
        for size in [MAX_ENTRY + 1, u64::from(u32::MAX)] {
            let mut bytes = bytes(&sample_image())[..8].to_vec();
            bytes.extend_from_slice(&size.to_le_bytes()[..4]);
            match read(&*bytes) {
                Err(ImageError::Oversized {
                    entry: 0,
                    size: found,
                    ..
                }) => assert_eq!(found, size),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn every_byte_is_needed() {
        let bytes = bytes(&sample_image());
        for length in 0..bytes.len() {
            match read(&bytes[..length]) {
                Err(ImageError::Truncated { .. }) => {}
                other => panic!("{length} of {}: {other:?}", bytes.len()),
            }
        }
        for more in [&[0][..], &bytes] {
            match read(&*[&bytes, more].concat()) {
                Err(ImageError::Corrupt { field, .. }) => assert_eq!(field, "trailer"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn every_bit_is_guarded() {
        let image = sample_image();
        let mut bytes = bytes(&image);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                let found = read(&*bytes);
                assert!(found.is_err(), "bit {bit} of byte {at}: {found:?}");
                bytes[at] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn the_trailer_counts() {
        let mut bytes = Vec::new();
        let mut frames = FrameWriter::new(&mut bytes, STREAM, MAGIC, MAX_ENTRY).expect("magic");
        for kind in sample_entries() {
            frames.write(&encode(kind).expect("valid")).expect("small");
        }
        let trailer = pb::Trailer {
            entries: 6,
            siginfos: 3,
            crc32: frames.crc(),
            ..pb::Trailer::default()
        };
        frames
            .write(&encode(Kind::Trailer(trailer)).expect("valid"))
            .expect("small");
        frames.finish().expect("a Vec takes everything");
        match read(&*bytes) {
            Err(ImageError::Corrupt { field, .. }) => assert_eq!(field, "trailer.siginfos"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fields_that_are_added_later_do_not_matter() {
        let mut entries = sample_entries();
        let Kind::Header(header) = &mut entries[0] else {
            panic!("not the header")
        };
        header.special_fields.mut_unknown_fields().add_varint(99, 1);
        let Kind::Process(process) = &mut entries[1] else {
            panic!("not the process")
        };
        let limit: &mut MessageField<pb::Rlimit> = &mut process.rlimit_sigpending;
        limit
            .mut_or_insert_default()
            .special_fields
            .mut_unknown_fields()
            .add_fixed32(99, 1);
        assert_eq!(read(&*file(entries)).ok(), Some(sample_image()));
    }

    #[test]
    fn an_entry_is_of_one_kind() {
        let kinds = sample_entries().into_iter();
        let entries: Vec<Vec<u8>> = kinds.map(|kind| encode(kind).expect("valid")).collect();
        let refused = |entry: &[u8]| {
            let mut bytes = Vec::new();
            let mut frames = FrameWriter::new(&mut bytes, STREAM, MAGIC, MAX_ENTRY).expect("magic");
            frames.write(&entries[0]).expect("small");
            frames.write(entry).expect("small");
            match read(&*bytes) {
                Err(ImageError::Corrupt {
                    entry: 1, field, ..
                }) => field == "kind",
                other => panic!("{other:?}"),
            }
        };
        assert!(refused(&entries[..2].concat()));
        assert!(refused(&[entries[1].as_slice(), &entries[1]].concat()));
        // Field 6, a number.
        assert!(refused(&[0x30, 0x01]));
        assert!(refused(&[]));
    }

    #[test]
    fn what_no_reader_takes_is_not_written() {
        let mut image = sample_image();
        image.process.shared.bits = SigSet::EMPTY;
        let mut bytes = Vec::new();
        match write(&mut bytes, &image) {
            Err(ImageError::Invalid { field, .. }) => assert_eq!(field, "shared_queue[0].signo"),
            other => panic!("{other:?}"),
        }
        assert!(bytes.is_empty());

        image = sample_image();
        image.header.format_version = FORMAT_VERSION + 1;
        write(&mut bytes, &image).expect_err("this crate does not write it");
        image.header.format_version = 1;
        image.process.deleted_timers = vec![testing::deleted_timer()];
        write(&mut bytes, &image)
            .expect_err("a reader of version 1 would queue a signal that nobody gets");
        image.process.deleted_timers.clear();
        image.header.tool_version = "x".repeat(1000);
        write(&mut bytes, &image).expect_err("too long");
    }

    /// README.md shows how an image begins and ends; this is where the bytes there come from.
    #[test]
    fn the_example_in_the_readme() {
        let readme = include_str!("../README.md");
        let bytes = bytes(&sample_image());
        let hex = |bytes: &[u8]| {
            let words: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            words.join(" ")
        };
        let (head, tail) = (&bytes[..48], &bytes[bytes.len() - 15..]);
        for line in head.chunks(16).chain([tail]) {
            assert!(readme.contains(&hex(line)), "README.md lacks {}", hex(line));
        }
    }

    proptest! {
        #[test]
        fn round_trip(image in testing::image()) {
            prop_assert_eq!(read(&*bytes(&image)).ok(), Some(image));
        }

        #[test]
        fn any_bytes_are_survived(tail: Vec<u8>) {
            prop_assert!(read(&*tail).is_err());
            let mut bytes = bytes(&sample_image())[..8].to_vec();
            bytes.extend(tail);
            prop_assert!(read(&*bytes).is_err());
        }

        /// The framing is right and so is the checksum, so that every entry's decoder gets its share.
        #[test]
        fn any_entries_are_survived(entries: Vec<Vec<u8>>, known in 0..6_usize) {
            let mut bytes = Vec::new();
            let mut frames = FrameWriter::new(&mut bytes, STREAM, MAGIC, MAX_ENTRY).expect("magic");
            let sample = sample_entries().into_iter().take(known).map(|kind| encode(kind).expect("valid"));
            for entry in sample.chain(entries) {
                frames.write(&entry).expect("small");
            }
            frames.finish().expect("a Vec takes everything");
            prop_assert!(read(&*bytes).is_err());
        }

        /// What is accepted is what was written.
        #[test]
        fn damage_is_noticed(
            image in testing::image(),
            damage in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4),
            length in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut bytes = bytes(&image);
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(length) = length {
                bytes.truncate(length.index(bytes.len()));
            }
            if let Ok(found) = read(&*bytes) {
                prop_assert_eq!(found, image);
            }
        }
    }
}
