//! Links the part of libgcc that unwinds stacks into the plugin, instead of the shared library.
//!
//! criu is a C program and has no libgcc_s.so.1 loaded, so each criu that loads the plugin would load that library as well: a
//! third of what loading the plugin costs (docs/budget.md). The standard library asks the linker for `gcc_s` by name, and
//! the linker finds this script first. Only the plugin's own panics are unwound, and none leaves the plugin.

// Paths in messages of a build are the builder's own.
#![allow(clippy::disallowed_methods)]

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CC");
    // Another compiler may come without the archive: then it is the shared library.
    if let Some(archive) = archive() {
        let dir = PathBuf::from(env::var("OUT_DIR")?);
        let script = format!("INPUT ( \"{}\" )\n", archive.display());
        fs::write(dir.join("libgcc_s.so"), script)?;
        println!("cargo::rustc-link-search=native={}", dir.display());
    }
    Ok(())
}

/// Where the compiler has `libgcc_eh.a`. gcc prints a name without a folder if there is none.
fn archive() -> Option<PathBuf> {
    if env::var("HOST") != env::var("TARGET") {
        return None;
    }
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let asked = Command::new(compiler)
        .arg("-print-file-name=libgcc_eh.a")
        .output()
        .ok()?;
    let path = String::from_utf8(asked.stdout).ok()?;
    let path = Path::new(path.trim());
    path.is_absolute().then(|| path.to_owned())
}
