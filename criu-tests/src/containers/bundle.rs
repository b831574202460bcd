//! A bundle for an engine: a configuration (OCI runtime specification, config.md) and a root file system.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::engine::Engine;
use super::host;
use crate::config;

/// Where the victim finds its run folder, and is found itself, in the container.
pub const STATE: &str = "/state";
/// The victim.
pub const VICTIM: &str = "/victim";

/// A folder with `config.json`, `rootfs/` and `state/`, which is the victim's run folder, and mounted into the container.
#[derive(Debug)]
pub struct Bundle(PathBuf);

impl Bundle {
    /// Makes one: busybox, and a victim that becomes pid 1 of the container. The rest is as the engine proposes it.
    pub fn create(at: &Path, engine: Engine, program: &str) -> Result<Self> {
        rootfs(&at.join("rootfs"), program)?;
        fs::create_dir(at.join("state")).context("making state")?;
        host::printed(host::command(engine.name()).arg("spec").current_dir(at))?;
        let bundle = Self(at.to_owned());
        bundle.edit(|config| {
            config["process"]["terminal"] = json!(false);
            // On a root that is read-only criu 4.2.1 can't move a container's mounts: it makes a folder in its /tmp.
            config["root"]["readonly"] = json!(false);
            config["process"]["args"] = json!(["/bin/sh", "-c", format!("exec {VICTIM} {STATE}")]);
            if let Some(mounts) = config["mounts"].as_array_mut() {
                mounts.push(mount_of(at));
            }
        })?;
        Ok(bundle)
    }

    /// One that was made elsewhere. Whoever configures a container knows where its volumes are on this host.
    pub fn moved(at: &Path) -> Result<Self> {
        let bundle = Self(at.to_owned());
        bundle.edit(|config| {
            for mount in config["mounts"].as_array_mut().into_iter().flatten() {
                if mount["destination"] == STATE {
                    *mount = mount_of(at);
                }
            }
        })?;
        Ok(bundle)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The victim's run folder.
    pub fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// Sets an annotation: that is how an engine is told things that are not in the specification.
    pub fn annotate(&self, name: &str, value: &str) -> Result<()> {
        self.edit(|config| config["annotations"][name] = json!(value))
    }

    /// The victim is given an argument.
    pub fn argument(&self, argument: &str) -> Result<()> {
        let run = format!("exec {VICTIM} {STATE} {argument}");
        self.edit(|config| config["process"]["args"][2] = json!(run))
    }

    fn edit(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let file = self.0.join("config.json");
        let text = fs::read(&file).context("config.json")?;
        let mut config = serde_json::from_slice(&text).context("config.json")?;
        change(&mut config);
        fs::write(&file, config.to_string()).context("config.json")
    }
}

fn mount_of(bundle: &Path) -> Value {
    json!({
        "destination": STATE,
        "type": "bind",
        "source": bundle.join("state"),
        "options": ["rbind", "rw"],
    })
}

/// busybox, and the victim.
pub fn rootfs(at: &Path, program: &str) -> Result<()> {
    for dir in ["bin", "proc", "sys", "dev", "state"] {
        fs::create_dir_all(at.join(dir)).with_context(|| format!("making {dir}"))?;
    }
    fs::copy("/usr/bin/busybox", at.join("bin/busybox")).context("copying busybox")?;
    symlink("busybox", at.join("bin/sh")).context("linking sh")?;
    let victim = config::victim(program, false);
    fs::copy(&victim, at.join(VICTIM.trim_start_matches('/')))
        .with_context(|| format!("copying {}", victim.display()))?;
    Ok(())
}
