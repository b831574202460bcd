//! `criu-signals decode`: prints an image as JSON.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use criu_signals::archive::Checkpoint;
use criu_signals::images::criu_images::Folder as _;
use criu_signals::images::{
    CoreImage, ImageError, Shown as _, core_json, criu_core, criu_images, image, json,
};

use super::context::{Context, Failure, NoTimeout};
use super::source::{checkpoint, named};

/// Prints an image as JSON: a signals-PID.img, or the signal state in a core-TID.img of CRIU.
///
/// Of the archive of a checkpoint, every signals-PID.img is printed, one document after the other, or the image that is named.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  criu-signals decode images/signals-4711.img | jq .process.comm
  criu-signals decode images/core-4711.img | jq .criu_core.private_queue
  criu-signals decode checkpoint.tar.zst core-1.img

images/README.md describes the documents. `encode` converts a document back into an image without loss.

Exit codes:
  0  the image was printed
  2  the image could not be read")]
pub struct Decode {
    /// A signals-PID.img, a core-TID.img of CRIU, or the archive of a checkpoint.
    image: PathBuf,
    /// Of an archive: only the image of this name.
    name: Option<String>,
    #[command(flatten)]
    _timeout: NoTimeout,
}

impl Decode {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let path = &self.image;
        if let Some(archive) = checkpoint(path)? {
            return self.archived(context, &archive);
        }
        if self.name.is_some() {
            return Err(format!(
                "{}: is no archive, so it has no images with names",
                path.shown()
            )
            .into());
        }
        let text = match image::open(path) {
            Err(ImageError::NotAnImage { found, .. }) if found[1] == criu_core::MAGIC => {
                criu_images::open_core(path).and_then(|core| core_json::to_json(&core))
            }
            other => other.and_then(|image| json::to_json(&image)),
        };
        writeln!(context.stdout(), "{}", text.map_err(|e| named(path, e))?)?;
        Ok(ExitCode::SUCCESS)
    }

    fn archived(&self, context: &Context, archive: &Checkpoint) -> Result<ExitCode, Failure> {
        let names: Vec<String> = match &self.name {
            Some(name) => vec![name.clone()],
            None => {
                let pids = archive.captured_processes();
                pids.into_iter().map(image::file_name).collect()
            }
        };
        if names.is_empty() {
            let path = self.image.shown();
            let advice = "contains no signals-PID.img; name one of CRIU's images, say core-1.img";
            return Err(format!("{path}: {advice}").into());
        }
        let mut out = context.stdout();
        for name in names {
            let bytes = archive.image(&name)?;
            let text = match image::read(&*bytes) {
                Err(ImageError::NotAnImage { found, .. }) if found[1] == criu_core::MAGIC => {
                    CoreImage::read(&bytes).and_then(|core| core_json::to_json(&core))
                }
                other => other.and_then(|image| json::to_json(&image)),
            };
            let place = self.image.join(archive.place()).join(&name);
            writeln!(out, "{}", text.map_err(|e| named(&place, e))?)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
