//! The folder of one run: the output of the victim, criu's images and logs, and the output of the run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// `<target>/criu-tests/<scenario>.<flavour>/`, made anew for each run.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Makes the folder, removing what an earlier run left.
    pub fn create(path: &Path) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(path).with_context(|| format!("removing {}", path.display()))?;
        }
        fs::create_dir_all(path.join("images"))
            .with_context(|| format!("making {}", path.display()))?;
        // An empty one: criu is to load no plugin of the machine it runs on.
        fs::create_dir(path.join("no-plugins")).context("making no-plugins")?;
        Ok(Self(path.to_owned()))
    }

    /// A folder that [`create`](Self::create) has made.
    pub fn open(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// criu's images and logs.
    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    /// A folder without plugins, for `--libdir`.
    pub fn no_plugins(&self) -> PathBuf {
        self.0.join("no-plugins")
    }

    /// The text of a file; empty if there is none.
    pub fn read(&self, name: &str) -> String {
        fs::read(self.file(name))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last `lines` lines of a file; empty if there is none.
    pub fn tail(&self, name: &str, lines: usize) -> String {
        let text = self.read(name);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Removes the folder.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.0).with_context(|| format!("removing {}", self.0.display()))
    }
}
