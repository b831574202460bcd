//! The part of a document that a command writes.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Behind that part. In front of it stands a line by which the command knows its own.
pub const END: &str = "<!-- end of table -->";

/// A document with this table in its place. `None` if it has no such place.
pub fn with_table(document: &str, begin: &str, table: &str) -> Option<String> {
    let (before, rest) = document.split_once(begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{begin}\n\n{table}\n{END}{after}"))
}

/// Writes the table into the document.
///
/// # Errors
/// If the file can't be read or written, or has no place for the table.
pub fn write_table(file: &Path, begin: &str, table: &str) -> Result<()> {
    let name = file.display().to_string();
    let text = fs::read_to_string(file).context(name.clone())?;
    let text = with_table(&text, begin, table)
        .with_context(|| format!("{name}: no table between {begin} and {END}"))?;
    fs::write(file, text).context(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_another() {
        let begin = "<!-- here -->";
        let document = format!("a\n{begin}\nold\n{END}\nb\n");
        let new = with_table(&document, begin, "new").unwrap();
        assert_eq!(new, format!("a\n{begin}\n\nnew\n{END}\nb\n"));
        assert_eq!(with_table("a", begin, "new"), None);
    }
}
