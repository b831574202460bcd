//! Whatever the document, and whatever core image it is put into: what is taken over is what the image then says.
#![no_main]

use criu_signals_images::{CoreImage, core_json, json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // An image, its length before it in two bytes, and a document.
    let Some((length, rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (bytes, text) = rest.split_at(length);
    let Ok(text) = str::from_utf8(text) else {
        return;
    };
    let _ = core_json::is_core(text);
    if let Ok(image) = json::from_json(text) {
        let again = json::to_json(&image).expect("what was read can be told");
        assert_eq!(json::from_json(&again).ok(), Some(image));
    }
    let Ok(mut core) = CoreImage::read(bytes) else {
        return;
    };
    if core_json::apply(&mut core, text).is_ok() {
        let written = core.to_bytes().expect("what was set can be written");
        let mut again = CoreImage::read(&written).expect("and read");
        core_json::apply(&mut again, text).expect("it says so already");
        assert_eq!(again.to_bytes().ok(), Some(written));
    }
});
