//! `criu-signals decode`: an image as JSON.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use criu_signals::images::{image, json};

use super::Failure;

/// Writes an image as JSON.
#[derive(clap::Args)]
pub struct Decode {
    /// A signals-PID.img.
    image: PathBuf,
}

impl Decode {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let text = json::to_json(&image::open(&self.image)?)?;
        writeln!(io::stdout(), "{text}")?;
        Ok(ExitCode::SUCCESS)
    }
}
