//! Stores the figures of a benchmark in a folder, and compares them with a later run (`make bench BASELINE=FOLDER`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;
use std::{env, fs, io};

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};

use crate::sample::millis;

/// Names the folder. Nothing is kept or compared without it.
const VARIABLE: &str = "CRIU_TESTS_BASELINE";

/// Medians of one bench, in milliseconds, by what was measured.
#[derive(Debug, Default)]
pub struct Figures(BTreeMap<String, f64>);

impl Figures {
    /// One more figure.
    pub fn add(&mut self, what: String, median: Duration) {
        self.0.insert(what, millis(median));
    }

    /// Prints how these figures differ from those of the baseline, whose file is named after the bench. Where there is no
    /// such file yet, these become the baseline.
    pub fn compare(&self, bench: &str) -> Result<()> {
        let Some(folder) = env::var_os(VARIABLE).filter(|folder: &OsString| !folder.is_empty())
        else {
            return Ok(());
        };
        let file = Path::new(&folder).join(format!("{bench}.json"));
        let name = file.display().to_string();
        match fs::read(&file) {
            Ok(text) => {
                let before = serde_json::from_slice(&text).context(name.clone())?;
                println!(
                    "Beside the figures in {name}; without the plugin, they show how the machine was"
                );
                println!("{}", self.table(&before));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&folder).context(name.clone())?;
                fs::write(&file, serde_json::to_vec_pretty(&self.0)?).context(name.clone())?;
                println!("{name} has these figures now; the next run is compared with them");
            }
            Err(error) => return Err(error).context(name),
        }
        Ok(())
    }

    fn table(&self, before: &BTreeMap<String, f64>) -> Table {
        let mut table = Table::new();
        table
            .load_preset(presets::UTF8_FULL_CONDENSED)
            .set_header(["", "baseline", "now", "ratio"]);
        for (what, now) in &self.0 {
            let (then, ratio) = match before.get(what) {
                Some(then) => (format!("{then:.2} ms"), format!("{:.2}", now / then)),
                None => ("none".to_owned(), String::new()),
            };
            table.add_row([what.clone(), then, format!("{now:.2} ms"), ratio]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_stands_beside_the_one_of_the_same_name() {
        let mut now = Figures::default();
        now.add("dump".to_owned(), Duration::from_millis(30));
        now.add("new".to_owned(), Duration::from_millis(1));
        let before = BTreeMap::from([("dump".to_owned(), 20.0), ("gone".to_owned(), 1.0)]);
        let table = now.table(&before);
        let rows: Vec<Vec<String>> = table
            .row_iter()
            .map(|row| row.cell_iter().map(comfy_table::Cell::content).collect())
            .collect();
        assert_eq!(
            rows,
            [
                ["dump", "20.00 ms", "30.00 ms", "1.50"],
                ["new", "none", "1.00 ms", ""]
            ]
        );
    }
}
