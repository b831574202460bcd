//! Makes Rust bindings of CRIU's own plugin header, `criu-plugin.h`, for `src/criu/bindings.rs`.
//!
//! The header is looked for in `CRIU_INCLUDE_DIR` (the folder that holds it, or the one whose `criu/` does), then
//! where pkg-config says that CRIU's headers are, then in `target/criu/include` below the workspace root, where
//! `make criu` unpacks a private CRIU.
//!
//! docs.rs builds with no network and has no header of CRIU. There, as the variable `DOCS_RS` tells, the header of CRIU 4.1.1
//! in `src/criu/docs-rs` serves if none is found. A plugin is never built with that copy.

// Paths in messages of a build are the builder's own.
#![allow(clippy::disallowed_methods)]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HEADER: &str = "criu-plugin.h";

/// The youngest hook that the plugin descriptor has a place for. It came with CRIU 4.0.
const NEWEST_HOOK: &str = "CR_PLUGIN_HOOK__CHECKPOINT_DEVICES";

const REMEDY: &str = "install CRIU 4.0 or newer with its headers (Debian: libcriu-dev, Fedora: criu-devel), run \
                      `make criu`, or set CRIU_INCLUDE_DIR";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    match find_header().and_then(|header| generate(&header)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn find_header() -> Result<PathBuf, String> {
    println!("cargo::rerun-if-env-changed=CRIU_INCLUDE_DIR");
    if let Some(dir) = env::var_os("CRIU_INCLUDE_DIR") {
        let dir = PathBuf::from(dir);
        let header = header_in(&dir).ok_or_else(|| {
            format!(
                "CRIU_INCLUDE_DIR={} holds no {HEADER}; {REMEDY}",
                dir.display()
            )
        })?;
        return if is_new_enough(&header)? {
            Ok(header)
        } else {
            Err(too_old(&header))
        };
    }

    let root =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let mut found_old = None;
    for dir in pkg_config_dirs()
        .into_iter()
        .chain([root.join("target/criu/include")])
    {
        let Some(header) = header_in(&dir) else {
            continue;
        };
        if is_new_enough(&header)? {
            return Ok(header);
        }
        found_old.get_or_insert(header);
    }
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    if env::var_os("DOCS_RS").is_some() {
        return Ok(root.join("src/criu/docs-rs").join(HEADER));
    }
    Err(match found_old {
        Some(header) => too_old(&header),
        None => format!("{HEADER} was not found; {REMEDY}"),
    })
}

/// Where CRIU's pkg-config file says that the headers are. Nothing is linked: the plugin finds what it calls in
/// the criu that loads it.
fn pkg_config_dirs() -> Vec<PathBuf> {
    let Ok(library) = pkg_config::Config::new()
        .cargo_metadata(false)
        .probe("criu")
    else {
        return Vec::new();
    };
    let mut dirs = library.include_paths;
    // The crate leaves out the paths that a compiler searches anyway.
    dirs.extend(
        pkg_config::get_variable("criu", "includedir")
            .ok()
            .map(PathBuf::from),
    );
    dirs
}

fn header_in(dir: &Path) -> Option<PathBuf> {
    [dir.join(HEADER), dir.join("criu").join(HEADER)]
        .into_iter()
        .find(|path| path.is_file())
}

fn is_new_enough(header: &Path) -> Result<bool, String> {
    let text =
        fs::read_to_string(header).map_err(|error| format!("{}: {error}", header.display()))?;
    Ok(text.contains(NEWEST_HOOK))
}

fn too_old(header: &Path) -> String {
    format!(
        "{} is older than CRIU 4.0 (it lacks {NEWEST_HOOK}); {REMEDY}",
        header.display()
    )
}

fn generate(header: &Path) -> Result<(), String> {
    println!("cargo::rerun-if-changed={}", header.display());
    let out =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("criu_plugin.rs");
    bindgen::Builder::default()
        .header(header.display().to_string())
        .allowlist_type("cr_plugin_desc_t|CR_PLUGIN_HOOK__.*_t")
        .allowlist_var("CR_PLUGIN_HOOK__.*|CR_PLUGIN_STAGE__.*|CRIU_PLUGIN_VERSION_.*")
        // libc's is the same C type, and the one that callers know.
        .blocklist_type("stat")
        .raw_line("use libc::stat;")
        .layout_tests(true)
        .generate()
        .map_err(|error| format!("{}: {error}", header.display()))?
        .write_to_file(&out)
        .map_err(|error| format!("{}: {error}", out.display()))
}
