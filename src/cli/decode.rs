//! `criu-signals decode`: prints an image as JSON.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use criu_signals::images::{ImageError, core_json, criu_core, criu_images, image, json};

use super::context::{Context, Failure};
use super::source::named;

/// Prints an image as JSON: a signals-PID.img, or the signal state in a core-TID.img of CRIU.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  criu-signals decode images/signals-4711.img | jq .process.comm
  criu-signals decode images/core-4711.img | jq .criu_core.private_queue

images/README.md describes the documents. `encode` converts a document back into an image without loss.

Exit codes:
  0  the image was printed
  2  the image could not be read")]
pub struct Decode {
    /// A signals-PID.img, or a core-TID.img of CRIU.
    image: PathBuf,
}

impl Decode {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let path = &self.image;
        let text = match image::open(path) {
            Err(ImageError::NotAnImage { found, .. }) if found[1] == criu_core::MAGIC => {
                criu_images::open_core(path).and_then(|core| core_json::to_json(&core))
            }
            other => other.and_then(|image| json::to_json(&image)),
        };
        writeln!(context.stdout(), "{}", text.map_err(|e| named(path, e))?)?;
        Ok(ExitCode::SUCCESS)
    }
}
