//! Converts the signal state in a `core-*.img` of CRIU to a JSON document with decoded siginfos, and back into the
//! image.
//!
//! The message is `CoreDocument` of `signals.proto`.

use protobuf::MessageField;
use serde_json::Value;

use crate::altstack::AltStack;
use crate::codec::{Codec, proto::signals as pb};
use crate::criu_core::CoreImage;
use crate::disposition::Dispositions;
use crate::error::{FieldError, ImageError};
use crate::json::{message, parsed, pretty, queue_from_proto, queue_to_proto};
use crate::process::{Rlimit, RunState};
use crate::signo::SigNo;
use crate::sigset::SigSet;

/// The name under which such a document has everything: it tells them from those of this project's own images.
const KEY: &str = "criu_core";

/// What the image says, as one document.
///
/// # Errors
/// [`ImageError::Invalid`] if the image says what cannot be.
pub fn to_json(core: &CoreImage) -> Result<String, ImageError> {
    pretty(&to_document(core)?)
}

/// Is this text, which may be anything, such a document?
pub fn is_core(text: &str) -> bool {
    serde_json::from_str(text).is_ok_and(|value: Value| value.get(KEY).is_some())
}

/// Makes the image say what the document says. All else that is in it stays as it is, and an image that says so already
/// stays the same, byte by byte.
///
/// # Errors
/// [`ImageError::Json`] if the text is no such document. [`ImageError::Invalid`] if the document says something that cannot
/// be changed, or that this image has no place for. The image must not be used after an error.
pub fn apply(core: &mut CoreImage, text: &str) -> Result<(), ImageError> {
    let wanted: pb::CoreDocument = message(&parsed(text)?)?;
    let found = to_document(core)?;
    if wanted == found {
        return Ok(());
    }
    let (wanted, found) = (required(&wanted)?, required(&found)?);
    if wanted.private_queue != found.private_queue {
        let queue = queue_from_proto("criu_core.private_queue", &wanted.private_queue)?;
        core.set_private_queue(&queue)?;
    }
    if wanted.altstack != found.altstack {
        let altstack = wanted.altstack.as_ref().map(AltStack::from_proto);
        core.set_altstack(altstack.transpose()?)?;
    }
    if wanted.parent_death_signal != found.parent_death_signal {
        let signo = wanted.parent_death_signal.unwrap_or(0);
        core.set_parent_death_signal(signal("criu_core.parent_death_signal", signo)?)?;
    }
    if let Some(bits) = wanted.blocked
        && found.blocked != Some(bits)
    {
        core.set_mask(SigSet::from_bits(bits))?;
    }
    if let Some(process) = wanted.process.as_ref()
        && wanted.process != found.process
    {
        apply_process(core, process, &found.process)?;
    }
    unless_equal(&to_document(core)?, wanted)
}

fn apply_process(
    core: &mut CoreImage,
    wanted: &pb::CriuCoreProcess,
    found: &MessageField<pb::CriuCoreProcess>,
) -> Result<(), ImageError> {
    if wanted.shared_queue != found.shared_queue {
        let queue = queue_from_proto("criu_core.process.shared_queue", &wanted.shared_queue)?;
        core.set_shared_queue(&queue)?;
    }
    if wanted.dispositions != found.dispositions {
        core.set_dispositions(&Dispositions::from_proto(&wanted.dispositions)?)?;
    }
    if wanted.stop_signal != found.stop_signal {
        core.set_stop_signo(match RunState::from_proto(&wanted.stop_signal)? {
            RunState::Running => None,
            RunState::Stopped(signo) => Some(signo),
        })?;
    }
    if let Some(limit) = wanted.rlimit_sigpending.as_ref()
        && wanted.rlimit_sigpending != found.rlimit_sigpending
    {
        core.set_rlimit_sigpending(Rlimit::from_proto(limit)?)?;
    }
    Ok(())
}

/// What the document says and the image could not be made to say.
fn unless_equal(made: &pb::CoreDocument, wanted: &pb::CriuCore) -> Result<(), ImageError> {
    let made = required(made)?;
    let parts = [
        ("process.comm", made.process.comm == wanted.process.comm),
        (
            "process.timers",
            made.process.timers == wanted.process.timers,
        ),
        ("process", made.process == wanted.process),
    ];
    match parts.iter().find(|(_, same)| !same) {
        Some((field, _)) => {
            let reason = "is not what the image says, and cannot be changed";
            Err(FieldError::new(format!("{KEY}.{field}"), reason).into())
        }
        None if made == wanted => Ok(()),
        None => Err(FieldError::new(KEY, "has a field that the image has no place for").into()),
    }
}

fn required(document: &pb::CoreDocument) -> Result<&pb::CriuCore, ImageError> {
    let core = document.criu_core.as_ref();
    core.ok_or_else(|| FieldError::missing(KEY).into())
}

fn signal(field: &str, signo: u32) -> Result<Option<SigNo>, ImageError> {
    match signo {
        0 => Ok(None),
        number => match i32::try_from(number).ok().and_then(SigNo::new) {
            Some(signo) => Ok(Some(signo)),
            None => Err(FieldError::new(field, format!("{number} is no signal (1 to 64)")).into()),
        },
    }
}

fn to_document(core: &CoreImage) -> Result<pb::CoreDocument, ImageError> {
    let mut document = pb::CriuCore {
        blocked: core.mask().map(SigSet::bits),
        altstack: core.altstack().map(|altstack| altstack.to_proto()).into(),
        parent_death_signal: core
            .parent_death_signal()
            .map(|signo| signo.get().cast_unsigned()),
        private_queue: queue_to_proto(&core.private_queue()),
        ..pb::CriuCore::default()
    };
    if let Some(comm) = core.comm() {
        let process = pb::CriuCoreProcess {
            comm,
            stop_signal: core
                .stop_signo()
                .map_or(0, |signo| signo.get().cast_unsigned()),
            rlimit_sigpending: core
                .rlimit_sigpending()
                .map(|limit| limit.to_proto())
                .into(),
            dispositions: core
                .dispositions()
                .map_or_else(Vec::new, |dispositions| dispositions.to_proto()),
            timers: core.timers()?.iter().map(Codec::to_proto).collect(),
            shared_queue: queue_to_proto(&core.shared_queue()),
            ..pb::CriuCoreProcess::default()
        };
        document.process = Some(process).into();
    }
    Ok(pb::CoreDocument {
        criu_core: Some(document).into(),
        ..pb::CoreDocument::default()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::criu_core::tests::{leader, read, thread};

    /// What becomes of a leader's image whose document is changed.
    fn edited(from: &str, to: &str) -> Result<CoreImage, ImageError> {
        let mut core = read(&leader());
        let text = to_json(&core)?;
        assert!(text.contains(from), "{from:?} is not in {text}");
        apply(&mut core, &text.replacen(from, to, 1))?;
        Ok(core)
    }

    #[test]
    fn what_it_says_is_there_already() {
        for entry in [leader(), thread()] {
            let mut core = read(&entry);
            let text = to_json(&core).expect("valid");
            assert!(is_core(&text));
            let bytes = core.to_bytes().expect("valid");
            apply(&mut core, &text).expect("valid");
            assert_eq!(core.to_bytes().expect("valid"), bytes);
        }
    }

    #[test]
    fn a_person_can_change_it() {
        let core = edited("\"value\": \"1\"", "\"value\": \"77\"").expect("valid");
        assert_eq!(core.private_queue(), [crate::testing::queued(34, 77)]);
        let core = edited("\"stop_signal\": 20", "\"stop_signal\": 0").expect("valid");
        assert_eq!(core.stop_signo(), None);
        let core = edited("\"soft\": \"11\"", "\"soft\": \"3\"").expect("valid");
        assert_eq!(core.rlimit_sigpending().map(|limit| limit.soft), Some(3));
        let core = edited("\"blocked\": \"255\"", "\"blocked\": \"1\"").expect("valid");
        assert_eq!(core.mask(), Some(SigSet::from(SigNo::HUP)));
        let core = edited("\"size\": \"8192\"", "\"size\": \"1\"").expect("valid");
        assert_eq!(core.altstack().map(|stack| stack.size), Some(1));
    }

    #[test]
    fn what_cannot_be_changed_is_refused() {
        for (from, to) in [
            ("\"comm\": \"x", "\"comm\": \"y"),
            ("\"stop_signal\": 20", "\"stop_signal\": 1"),
            ("\"signo\": 34", "\"signo\": 34, \"colour\": 1"),
            ("\"blocked\": \"255\",", ""),
            ("criu_core", "core"),
        ] {
            edited(from, to).expect_err(to);
        }
        // A thread's image has no place for what belongs to the process.
        let text = to_json(&read(&leader())).expect("valid");
        apply(&mut read(&thread()), &text).expect_err("no process");
    }

    proptest! {
        #[test]
        fn a_damaged_document_is_survived(at: prop::sample::Index, with: char) {
            let mut core = read(&leader());
            let text = to_json(&core).unwrap_or_default();
            let mut chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len());
            chars[at] = with;
            let _ = apply(&mut core, &chars.into_iter().collect::<String>());
        }
    }
}
