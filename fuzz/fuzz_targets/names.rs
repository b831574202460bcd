//! What things are called by: signals, sets of them, processes, threads, files, images and their processes, and the list of images
//! in a stream.
#![no_main]

use criu_signals::fuzzing;
use criu_signals_images::{SigNo, SigSet, text::SigFile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    if let Ok(signo) = text.parse::<SigNo>() {
        assert_eq!(signo.to_string().parse(), Ok(signo));
    }
    if let Ok(set) = text.parse::<SigSet>() {
        assert_eq!(set.to_string().parse(), Ok(set));
    }
    if let Ok(file) = text.parse::<SigFile>() {
        assert_eq!(file.to_string().parse::<SigFile>().ok(), Some(file));
    }
    fuzzing::names(text);
    fuzzing::stream_list(text);
});
