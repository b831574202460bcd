//! A report of the plugin's, as programs read it: whatever is understood is written and understood again.
#![no_main]

use criu_signals::run_report::Document;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(document) = serde_json::from_slice::<Document>(data) else {
        return;
    };
    let _ = document.overall(false);
    let text = serde_json::to_vec(&document).expect("what was read can be written");
    let again = serde_json::from_slice::<Document>(&text);
    assert_eq!(again.ok().as_ref(), Some(&document));
});
