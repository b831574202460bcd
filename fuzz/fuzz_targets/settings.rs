//! A settings file of the plugin's, whatever is in it: understood as a whole, or refused with its line.
#![no_main]
#![allow(dead_code)]

#[path = "../../plugin/src/settings.rs"]
mod settings;

use std::path::Path;

use criu_signals::run_report::Stage;
use libfuzzer_sys::fuzz_target;
use settings::Settings;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let read = |text: &str| Settings::of_text(text, Path::new("/f"));
    match read(text) {
        Ok(settings) => {
            // A comment changes nothing.
            assert_eq!(
                read(&format!("{text}\n# more\n")).ok().as_ref(),
                Some(&settings)
            );
            assert!(!settings.in_force().is_empty());
            if let Some(report) = settings.report {
                let path = report.path(Stage::Restore, 41);
                let leaves = path.components().any(|part| part.as_os_str() == "..");
                assert!(path.is_absolute() || !leaves, "{}", path.display());
            }
        }
        Err(bad) => assert!(bad.to_string().starts_with("/f:"), "{bad}"),
    }
});
