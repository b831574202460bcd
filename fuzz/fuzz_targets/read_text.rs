//! Whatever the bytes, the text of the six files is read without a panic; and what was read
//! is what its own text says.
#![no_main]

use criu_signals_images::text::{self, SigFile, Written};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let file = SigFile::ALL[usize::from(choice) % SigFile::ALL.len()];
    let Ok(written) = text::parse(file, data, None) else {
        return;
    };
    let again = match &written {
        Written::AltStack(stack) => text::render_altstack(stack),
        Written::Blocked(blocked) => text::render_blocked(*blocked),
        Written::Queue(queue) => text::render_queue(&queue.pending, |_| false),
        // Not all 64 lines, perhaps, and those of the patches say no restorer.
        Written::Actions(_) => return,
    };
    let read = text::parse(file, again.as_bytes(), None);
    match (read, &written) {
        (Ok(Written::Queue(read)), Written::Queue(queue)) => {
            assert_eq!(read.pending, queue.pending)
        }
        (read, _) => assert_eq!(read.as_ref(), Ok(&written)),
    }
});
