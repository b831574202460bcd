//! `criu-signals encode`: JSON as an image.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use criu_signals::images::{image, json};

use super::Failure;

/// Writes JSON, as `decode` gives it, as an image.
#[derive(clap::Args)]
pub struct Encode {
    /// The JSON; standard input if it is `-`.
    json: PathBuf,
    /// The image to write. It must not exist.
    #[arg(short, long)]
    output: PathBuf,
}

impl Encode {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let Encode { json: path, output } = self;
        let mut text = String::new();
        if path.as_os_str() == "-" {
            io::stdin().read_to_string(&mut text)?;
        } else {
            text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        let decoded = json::from_json(&text)?;
        let file =
            fs::File::create_new(&output).map_err(|e| format!("{}: {e}", output.display()))?;
        image::write(io::BufWriter::new(file), &decoded)?;
        Ok(ExitCode::SUCCESS)
    }
}
