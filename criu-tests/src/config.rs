//! Paths: criu and the plugin from the environment, the test programs from the build script.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};
use criu_signals::criu::installed::{self, Version};

/// The criu binary: `CRIU`, else `criu/criu` in the target folder.
pub fn criu() -> Result<PathBuf> {
    let path = from_env("CRIU", "criu/criu");
    ensure!(
        path.is_file(),
        "there is no criu at {}: run `make test`, which gets one, or set CRIU to the path of a criu >= 4.0",
        path.display()
    );
    Ok(path)
}

/// Every criu there is, one of each version, the oldest first: [`criu`], and those of `criu-*/criu` in the target folder,
/// where `make criu` and `make versions` put them.
pub fn crius() -> Result<Vec<(Version, PathBuf)>> {
    let first = criu()?;
    let target = target_dir();
    let mut found = BTreeMap::from([(installed::version(&first)?, first)]);
    for entry in fs::read_dir(&target).with_context(|| target.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        let path = std::path::absolute(entry.path())?.join("criu");
        if name.to_string_lossy().starts_with("criu-") && path.is_file() {
            found.entry(installed::version(&path)?).or_insert(path);
        }
    }
    Ok(found.into_iter().collect())
}

/// A criu with the patches of docs/upstream, if there is one: `CRIU_TESTS_PATCHED_CRIU`, else `patched-criu/criu` in the
/// target folder.
pub fn patched_criu() -> Option<PathBuf> {
    Some(from_env("CRIU_TESTS_PATCHED_CRIU", "patched-criu/criu")).filter(|path| path.is_file())
}

/// The folder that holds `signals_plugin.so` and nothing else (criu loads every .so in it): `CRIU_SIGNALS_PLUGIN_DIR`,
/// else `plugins` in the target folder.
pub fn plugin_dir() -> Result<PathBuf> {
    let dir = from_env("CRIU_SIGNALS_PLUGIN_DIR", "plugins");
    ensure!(
        dir.join(PLUGIN_FILE).is_file(),
        "there is no {PLUGIN_FILE} in {}: run `make test`, which builds it, or set CRIU_SIGNALS_PLUGIN_DIR to its folder",
        dir.display()
    );
    Ok(dir)
}

/// Builds with the feature `faults`: the command `criu-signals`, and the folder `plugins` with the plugin in it.
/// `CRIU_SIGNALS_FAULTS_DIR`, else `faults` in the target folder.
pub fn faults_dir() -> Result<PathBuf> {
    let dir = from_env("CRIU_SIGNALS_FAULTS_DIR", "faults");
    ensure!(
        dir.join("plugins").join(PLUGIN_FILE).is_file() && dir.join("criu-signals").is_file(),
        "there is no build with fault points in {}: run `make test`, which makes it, or set CRIU_SIGNALS_FAULTS_DIR",
        dir.display()
    );
    Ok(dir)
}

/// The root of a machine with container engines: `CRIU_TESTS_HOST`, else `host` in the target folder; see
/// `scripts/get-host`.
pub fn host() -> Result<PathBuf> {
    let root = from_env("CRIU_TESTS_HOST", "host").join("root");
    ensure!(
        root.is_dir(),
        "there are no container engines at {}: run `make host`, which gets them",
        root.display()
    );
    Ok(root)
}

/// A program of the 2007 patches, or their script (`procsig2007/`).
pub fn of_2007(name: &str) -> PathBuf {
    if name.ends_with(".sh") {
        return Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("procsig2007")
            .join(name);
    }
    built("procsig2007").join(name)
}

/// The name of the plugin under test.
pub const PLUGIN_FILE: &str = criu_signals::plugin_file::NAME;

/// The command `criu-signals`, of the same profile as the program that asks.
pub fn command() -> Result<PathBuf> {
    // target/debug/deps/install-0123456789abcdef, or target/debug/demo
    let exe = env::current_exe()?;
    let found = exe
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("criu-signals"))
        .find(|file| file.is_file());
    found.with_context(|| format!("criu-signals is not beside {}: make build", exe.display()))
}

/// The program of a victim, 64-bit or (`ia32`) 32-bit.
pub fn victim(program: &str, ia32: bool) -> PathBuf {
    built(if ia32 { "victims-ia32" } else { "victims" }).join(program)
}

/// The program of random states (`chance/`), 64-bit or (`ia32`) 32-bit.
pub fn chance(ia32: bool) -> PathBuf {
    built(if ia32 { "chance-ia32" } else { "chance" }).join("chance")
}

/// Whether the 32-bit victims could be built (they need gcc-multilib).
pub fn has_ia32() -> bool {
    built("victims-ia32").is_dir()
}

/// The plugin that only says that it was called; see `plugins/other_plugin.c`.
pub fn other_plugin() -> PathBuf {
    built("other_plugin.so")
}

/// A program that loads a plugin as a criu before 4.0 would; see `plugins/old_criu.c`.
pub fn old_criu() -> PathBuf {
    built("old_criu")
}

/// Cargo's target folder of the workspace.
pub fn target_dir() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate is in a workspace");
    // A relative CARGO_TARGET_DIR is meant from where cargo was called, which for this workspace is its root.
    workspace.join(
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from),
    )
}

/// A program, by `PATH`.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn from_env(name: &str, default: &str) -> PathBuf {
    let path = match env::var_os(name) {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        _ => target_dir().join(default),
    };
    // Runs have other working folders; cargo runs tests in the crate's.
    std::path::absolute(&path).unwrap_or(path)
}

fn built(name: &str) -> PathBuf {
    Path::new(env!("CRIU_TESTS_BUILT")).join(name)
}
