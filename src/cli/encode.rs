//! `criu-signals encode`: JSON as an image.

use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use criu_signals::images::{Image, Shown as _, core_json, criu_images, image, json};

use super::context::Failure;
use super::source::named;

/// Writes JSON, as `decode` gives it, as an image.
///
/// CRIU's own images hold more than signals, so that one of them is made from another: --core names it, and all that
/// the JSON does not tell is taken from there, byte by byte.
#[derive(clap::Args)]
#[command(after_help = r#"Examples:
  criu-signals decode images/signals-41.img > state.json
  criu-signals encode state.json -o signals-41.img
  criu-signals decode images/core-41.img | jq '.criu_core.blocked = "0"' |
      criu-signals encode - --core images/core-41.img -o core-41.img

Exit codes:
  0  done
  2  the JSON is no image, or the image could not be written; nothing was"#)]
pub struct Encode {
    /// The JSON; standard input if it is `-`.
    json: PathBuf,
    /// The image to write. It must not exist.
    #[arg(short, long)]
    output: PathBuf,
    /// The core-TID.img of CRIU's in which the JSON of such a one takes the place of what concerns signals. It is not
    /// changed.
    #[arg(long, value_name = "IMAGE")]
    core: Option<PathBuf>,
}

impl Encode {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let Encode {
            json: path,
            output,
            core,
        } = self;
        let mut text = String::new();
        if path.as_os_str() == "-" {
            io::stdin().read_to_string(&mut text)?;
        } else {
            text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.shown()))?;
        }
        let encoded = match (core, core_json::is_core(&text)) {
            (None, false) => ours(&json::from_json(&text).map_err(|e| named(&path, e))?)?,
            (None, true) => {
                return Err(
                    "this is the JSON of one of CRIU's own images: name the image that it is to \
                     become part of by --core"
                        .into(),
                );
            }
            (Some(core), _) => {
                let mut image = criu_images::open_core(&core).map_err(|e| named(&core, e))?;
                core_json::apply(&mut image, &text).map_err(|e| named(&path, e))?;
                image.to_bytes()?
            }
        };
        let failed = |e: &io::Error| format!("{}: {e}", output.shown());
        let mut file = fs::File::create_new(&output).map_err(|e| failed(&e))?;
        if let Err(e) = file.write_all(&encoded) {
            // A part of an image is of no use.
            let _ = fs::remove_file(&output);
            return Err(failed(&e).into());
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn ours(decoded: &Image) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    image::write(&mut bytes, decoded)?;
    Ok(bytes)
}
