//! `criu-signals plugin-dir`: prints criu's plugin folder, for the installation script.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use criu_signals::criu::installed;
use criu_signals::images::Shown as _;

use super::context::Failure;

/// Prints the folder in which criu looks for plugins, and on standard error where that folder is configured.
#[derive(clap::Args)]
pub struct PluginDir {
    /// The criu executable to ask, instead of the first criu in PATH.
    #[arg(long, value_name = "FILE")]
    criu: Option<PathBuf>,
}

impl PluginDir {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let criu = self
            .criu
            .or_else(installed::find)
            .ok_or("no criu in PATH, /usr/sbin or /usr/local/sbin")?;
        let version = installed::version(&criu)?;
        let dir = installed::plugin_dir(&criu)?;
        eprintln!(
            "criu {version} ({}) looks for plugins in {} ({})",
            criu.shown(),
            dir.path.shown(),
            dir.source
        );
        if version < installed::Version::OLDEST {
            eprintln!(
                "criu {version} is too old for the plugin and will refuse to start with the plugin in that folder: {} \
                 is needed",
                installed::Version::OLDEST
            );
        }
        // For scripts: as it is.
        let mut out = io::stdout();
        out.write_all(dir.path.as_os_str().as_bytes())?;
        out.write_all(b"\n")?;
        Ok(ExitCode::SUCCESS)
    }
}
