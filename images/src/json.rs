//! An image as a JSON document, by protobuf's rules for JSON: for people and for other tools.
//!
//! The message is `ImageDocument` of `signals.proto`. Names are those of the proto file; 64-bit numbers are
//! strings, bytes are base64, and what is 0 or empty is left out.

use protobuf::{MessageDyn, MessageFull};
use protobuf_json_mapping::{PrintOptions, parse_from_str, print_to_string_with_options};
use serde_json::Value;

use crate::clocks::Clocks;
use crate::code_place::CodePlace;
use crate::codec::{Codec, proto::signals as pb, required};
use crate::error::{FieldError, ImageError};
use crate::header::check_version;
use crate::image::Image;
use crate::process::{ProcessState, ThreadState};
use crate::recorded::Recorded;
use crate::siginfo::Siginfo;
use crate::signal_file::{SignalFile, SignalFiles};

/// The whole image as one document. [`from_json`] gives it back without loss.
///
/// # Errors
/// [`ImageError::Invalid`] if no process can have this state.
pub fn to_json(image: &Image) -> Result<String, ImageError> {
    image.check()?;
    pretty(&to_document(image))
}

/// What a document in one line says of a process beside its state. None of it is read back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Besides<'b> {
    /// Where handlers and restorers are.
    pub names: &'b [CodePlace],
    /// Its timerfds and RLIMIT_CPU, if they are known.
    pub clocks: Option<&'b Clocks>,
    /// Its open files that take signals or cause some, if somebody has looked.
    pub files: Option<&'b SignalFiles>,
}

/// The same document in one line, for one document after another, with what the source does not tell
/// (`not_recorded`), and what is known besides. [`from_json`] refuses a document that has such gaps: it is no image.
///
/// # Errors
/// [`ImageError::Invalid`] if no process can have this state.
pub fn to_json_line(recorded: &Recorded, besides: &Besides<'_>) -> Result<String, ImageError> {
    recorded.image.check()?;
    let mut document = to_document(&recorded.image);
    if let Some(files) = besides.files {
        document.signal_files = files.files.iter().map(SignalFile::to_proto).collect();
        document.signal_files_unknown = files.unknown.clone().unwrap_or_default();
    }
    document.not_recorded = recorded
        .missing
        .iter()
        .map(|aspect| aspect.name().to_owned())
        .collect();
    document.names = besides.names.iter().map(CodePlace::to_proto).collect();
    document.clocks = besides.clocks.map(Clocks::to_proto).into();
    if let Some(ended_by) = &recorded.ended_by {
        document.ended_by = ended_by.signo.to_proto();
        document.ended_by_siginfo = ended_by.siginfo.as_ref().map(Siginfo::to_proto).into();
    }
    line(&document)
}

pub(crate) fn pretty(message: &dyn MessageDyn) -> Result<String, ImageError> {
    let value: Value = serde_json::from_str(&line(message)?).map_err(unusable)?;
    serde_json::to_string_pretty(&value).map_err(unusable)
}

fn line(message: &dyn MessageDyn) -> Result<String, ImageError> {
    let options = PrintOptions {
        proto_field_name: true,
        ..PrintOptions::default()
    };
    print_to_string_with_options(message, &options).map_err(unusable)
}

/// A text as a value that protobuf-json-mapping understands: it takes for JSON what is not (trailing bytes, octal
/// escapes) and refuses some of what is (surrogate pairs). What serde_json has read and written again suits both.
pub(crate) fn parsed(text: &str) -> Result<Value, ImageError> {
    serde_json::from_str(text).map_err(unusable)
}

pub(crate) fn message<M: MessageFull>(value: &Value) -> Result<M, ImageError> {
    parse_from_str(&value.to_string()).map_err(unusable)
}

/// Reads such a document, with the same checks as an image file.
///
/// # Errors
/// [`ImageError::Json`] if the text is no such document, or has a field that is not known: a slip of the pen.
/// [`ImageError::Invalid`] if no process can have this state, [`ImageError::NewerVersion`] for a document of a later version.
pub fn from_json(text: &str) -> Result<Image, ImageError> {
    let value = parsed(text)?;
    if let Some(version) = stated_version(&value) {
        check_version(version)?;
    }
    from_document(&message(&value)?)
}

fn unusable(error: impl ToString) -> ImageError {
    ImageError::Json {
        reason: error.to_string(),
    }
}

/// Looked up before the rest is understood, as in an image file. `None`: it will be found to be wrong.
fn stated_version(document: &Value) -> Option<u32> {
    let header = document.get("header")?;
    let version = header
        .get("format_version")
        .or_else(|| header.get("formatVersion"))?;
    let version = match version {
        Value::String(digits) => digits.parse().ok()?,
        number => number.as_u64()?,
    };
    Some(u32::try_from(version).unwrap_or(u32::MAX))
}

fn to_document(image: &Image) -> pb::ImageDocument {
    let process = &image.process;
    pb::ImageDocument {
        header: Some(image.header.to_proto()).into(),
        process: Some(process.to_proto()).into(),
        shared_queue: queue_to_proto(&process.shared.queue),
        threads: process
            .threads
            .iter()
            .map(|thread| pb::ThreadDocument {
                thread: Some(thread.to_proto()).into(),
                queue: queue_to_proto(&thread.pending.queue),
                ..pb::ThreadDocument::default()
            })
            .collect(),
        ..pb::ImageDocument::default()
    }
}

fn from_document(document: &pb::ImageDocument) -> Result<Image, ImageError> {
    let version = document.header.as_ref().map(|header| header.format_version);
    check_version(version.ok_or_else(|| FieldError::missing("header"))?)?;
    if let Some(first) = document.not_recorded.first() {
        let reason = format!("says that {first:?} is not known, and an image holds everything");
        return Err(FieldError::new("not_recorded", reason).into());
    }
    let mut process: ProcessState = required("process", &document.process)?;
    process.shared.queue = queue_from_proto("shared_queue", &document.shared_queue)?;
    for (index, message) in document.threads.iter().enumerate() {
        let thread =
            thread_from_proto(message).map_err(|error| error.within_item("threads", index))?;
        process.threads.push(thread);
    }
    let image = Image {
        header: required("header", &document.header)?,
        process,
    };
    image.check()?;
    Ok(image)
}

fn thread_from_proto(message: &pb::ThreadDocument) -> Result<ThreadState, FieldError> {
    let mut thread: ThreadState = required("thread", &message.thread)?;
    thread.pending.queue = queue_from_proto("queue", &message.queue)?;
    Ok(thread)
}

pub(crate) fn queue_to_proto(queue: &[Siginfo]) -> Vec<pb::Siginfo> {
    queue.iter().map(Siginfo::to_proto).collect()
}

pub(crate) fn queue_from_proto(
    field: &str,
    queue: &[pb::Siginfo],
) -> Result<Vec<Siginfo>, FieldError> {
    queue
        .iter()
        .enumerate()
        .map(|(index, signal)| {
            Siginfo::from_proto(signal).map_err(|error| error.within_item(field, index))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;
    use crate::timer::{PosixTimer, TimerEntry};

    fn edited(from: &str, to: &str) -> Result<Image, ImageError> {
        let text = to_json(&testing::sample_image())?;
        assert!(text.contains(from), "{from:?} is not in {text}");
        from_json(&text.replacen(from, to, 1))
    }

    /// An overrun that nobody has counted is not 0.
    #[test]
    fn an_unknown_overrun_is_absent() {
        let document = |entry_overrun| -> Value {
            let mut image = testing::sample_image();
            image.process.timers = vec![PosixTimer {
                entry: TimerEntry::Pending,
                entry_overrun,
                ..PosixTimer::bare(0, 34)
            }];
            let line = to_json_line(&image.into(), &Besides::default()).expect("valid");
            let document: Value = serde_json::from_str(&line).expect("JSON");
            document["process"]["timers"][0].clone()
        };
        assert_eq!(document(None).get("entry_overrun"), None);
        assert_eq!(document(Some(0))["entry_overrun"], 0);
    }

    #[test]
    fn a_person_can_read_and_change_it() {
        let changed =
            edited("\"comm\": \"sample\"", "\"comm\": \"\\ud83d\\ude00\"").expect("valid");
        assert_eq!(changed.process.comm.as_str(), "\u{1f600}");
    }

    #[test]
    fn a_newer_version_is_told_first() {
        for (from, to) in [
            (
                "\"format_version\": 1",
                "\"format_version\": 7, \"hitherto_unknown\": [[]]",
            ),
            (
                "\"format_version\": 1",
                "\"formatVersion\": \"99999999999\"",
            ),
        ] {
            match edited(from, to) {
                Err(ImageError::NewerVersion {
                    found,
                    supported: 2,
                }) => assert!(found >= 7),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for (from, to) in [
            ("\"format_version\": 1", "\"format_version\": 0"),
            ("\"format_version\": 1", "\"format_version\": -1"),
            ("\"format_version\": 1", "\"format_versoin\": 1"),
            ("\"comm\": \"sample\"", "\"comm\": \"\\379\""),
            ("\"stop_signal\": 20", "\"stop_signal\": 1"),
            ("\"signo\": 64", "\"signo\": 63"),
            ("\"ids\"", "\"nids\""),
        ] {
            edited(from, to).expect_err(to);
        }
        for text in [
            "",
            "{}",
            "null",
            "[]",
            "{\"header\": {}}",
            "{\"header\": null}",
            "\"\\379\"",
        ] {
            from_json(text).expect_err(text);
        }
        let whole = to_json(&testing::sample_image()).expect("valid");
        from_json(&format!("{whole} x")).expect_err("something follows");
        from_json(&"[".repeat(1_000_000)).expect_err("nested too deep");
    }

    proptest! {
        #[test]
        fn round_trip(image in testing::image()) {
            let text = to_json(&image);
            prop_assert!(text.is_ok(), "{:?}", text);
            prop_assert_eq!(from_json(&text.unwrap_or_default()).ok(), Some(image));
        }

        #[test]
        fn any_text_is_survived(text in "\\PC*") {
            let _ = from_json(&text);
        }

        #[test]
        fn a_damaged_document_is_survived(image in testing::image(), at: prop::sample::Index, with: char) {
            let text = to_json(&image).unwrap_or_default();
            let mut chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len());
            chars[at] = with;
            let _ = from_json(&chars.into_iter().collect::<String>());
        }
    }
}
