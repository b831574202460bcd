//! Whatever the bytes, the decoders neither panic nor take in what cannot be written again.
//!
//! A checksum that has to be guessed would end every run at the trailer, so the last 4 bytes of an input
//! that reads as an image but for its checksum are set right.
#![no_main]

use criu_signals_images::image::Allowance;
use criu_signals_images::{CoreImage, ImageError, core_json, image, json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    let mut found = image::read(&*bytes);
    if let Err(ImageError::Checksum { computed, .. }) = found
        && let Some(checksum) = bytes.last_chunk_mut()
    {
        *checksum = computed.to_le_bytes();
        found = image::read(&*bytes);
    }
    if let Ok(found) = found {
        let siginfos = found.process.siginfos() + found.process.timers.len() as u64;
        let tasks = found.process.threads.len() as u64;
        let within =
            |siginfos, tasks| image::read_within(&*bytes, &mut Allowance::new(siginfos, tasks));
        assert_eq!(within(siginfos, tasks).ok().as_ref(), Some(&found));
        assert!(siginfos == 0 || within(siginfos - 1, tasks).is_err());
        assert!(within(siginfos, tasks - 1).is_err());
        let mut again = Vec::new();
        image::write(&mut again, &found).expect("what was read can be written");
        assert_eq!(image::read(&*again).ok().as_ref(), Some(&found));
        let text = json::to_json(&found).expect("what was read can be told");
        assert_eq!(json::from_json(&text).ok(), Some(found));
    }
    if let Ok(core) = CoreImage::read(data) {
        let _ = (
            core.dispositions(),
            core.shared_queue(),
            core.private_queue(),
            core.mask(),
        );
        assert_eq!(core.to_bytes().ok().as_deref(), Some(data));
        if let Ok(text) = core_json::to_json(&core) {
            let mut again = core.clone();
            core_json::apply(&mut again, &text).expect("it says so already");
            assert_eq!(again.to_bytes().ok().as_deref(), Some(data));
        }
    }
    if let Ok(text) = str::from_utf8(data) {
        let _ = json::from_json(text);
    }
});
