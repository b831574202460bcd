//! The file of this project's plugin: the name of the file, and the version of the plugin in the file.

use std::fs;
use std::io;
use std::path::Path;

/// The file name under which criu loads this project's plugin.
pub const NAME: &str = "signals_plugin.so";

/// What the plugin says in the log as it is loaded, so that it is in the file as well: [`version`] looks for it.
pub const MARK: &str = concat!(
    "this is the plugin of criu-signals ",
    env!("CARGO_PKG_VERSION"),
    " (GPL-2.0-or-later)"
);
/// What of it stands before the version, behind which comes a space.
const BEFORE_VERSION: &[u8] = b"this is the plugin of criu-signals ";

/// The version of the plugin in a file, as it was built; `None` if the file is something else, or older than this
/// way to tell. Nothing of it is executed.
///
/// # Errors
/// If the file can't be read.
pub fn version(file: &Path) -> io::Result<Option<String>> {
    let bytes = fs::read(file)?;
    Ok(bytes
        .windows(BEFORE_VERSION.len())
        .position(|window| window == BEFORE_VERSION)
        .and_then(|at| bytes.get(at + BEFORE_VERSION.len()..))
        .and_then(|rest| rest.split(|byte| *byte == b' ').next())
        .and_then(|version| std::str::from_utf8(version).ok())
        .filter(|version| version.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_s_version_is_found_without_loading_it() {
        let file = std::env::temp_dir().join(format!("plugin-version-{}", std::process::id()));
        let found = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            version(&file).unwrap()
        };
        let mark = [b"\x7fELF\0", MARK.as_bytes(), b"and so on"].concat();
        assert_eq!(found(&mark).as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(found(b"another plugin"), None);
        assert_eq!(found(BEFORE_VERSION), None);
        fs::remove_file(&file).unwrap();
        version(&file).unwrap_err();
    }
}
