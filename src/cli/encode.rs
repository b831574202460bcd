//! `criu-signals encode`: makes an image from JSON.

use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use criu_signals::images::{Image, Shown as _, core_json, criu_images, image, json};

use super::context::{Failure, NoTimeout};
use super::source::named;

/// Makes an image from JSON as `decode` prints it.
///
/// A core-TID.img of CRIU holds more than signal state. So --core names an existing core image: everything that the
/// JSON does not describe is copied from that image byte for byte.
#[derive(clap::Args)]
#[command(after_help = r#"Examples:
  criu-signals decode images/signals-41.img > state.json
  criu-signals encode state.json -o signals-41.img
  criu-signals decode images/core-41.img | jq '.criu_core.blocked = "0"' |
      criu-signals encode - --core images/core-41.img -o core-41.img

Exit codes:
  0  the image was written
  2  the JSON does not describe an image, or the image could not be written; no file was created"#)]
pub struct Encode {
    /// File with the JSON. Standard input if `-`.
    json: PathBuf,
    /// The image to write. The file must not exist.
    #[arg(short, long)]
    output: PathBuf,
    /// For JSON of a core image: the core-TID.img of CRIU whose signal state the JSON replaces in the output. The file
    /// itself is not changed.
    #[arg(long, value_name = "IMAGE")]
    core: Option<PathBuf>,
    #[command(flatten)]
    _timeout: NoTimeout,
}

impl Encode {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let Encode {
            json: path,
            output,
            core,
            ..
        } = self;
        let mut text = String::new();
        if path.as_os_str() == "-" {
            io::stdin().read_to_string(&mut text)?;
        } else {
            text = fs::read_to_string(&path).map_err(|e| format!("read {}: {e}", path.shown()))?;
        }
        let encoded = match (core, core_json::is_core(&text)) {
            (None, false) => ours(&json::from_json(&text).map_err(|e| named(&path, e))?)?,
            (None, true) => {
                return Err(
                    "this is the JSON of a CRIU core image: name the image whose signal state it replaces with --core"
                        .into(),
                );
            }
            (Some(core), _) => {
                let mut image = criu_images::open_core(&core).map_err(|e| named(&core, e))?;
                core_json::apply(&mut image, &text).map_err(|e| named(&path, e))?;
                image.to_bytes()?
            }
        };
        let failed = |e: &io::Error| format!("write {}: {e}", output.shown());
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
