//! A machine for container engines: the root of a small Debian, with criu, engines and the plugin where they belong.
//!
//! `scripts/get-host` unpacks it once. Each test gets a copy-on-write view of it (overlayfs over a tmpfs), which
//! becomes the root of its mount namespace: nothing is written to the machine's own /etc, /run or /var, and what one
//! test leaves there another does not find.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use crate::config;

const NONE: Option<&str> = None;

/// CRIU's default plugin folder on Debian: what `criu --help` says of `--libdir`.
pub const PLUGINS: &str = "/usr/lib/criu";

/// A root that is mounted, and not yet entered.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// Mounts one below `at`, which is made. No plugin is installed.
    ///
    /// What this program uses is to be found on it too, under the same name: Cargo's target folder, with the runs.
    pub fn mount(at: &Path) -> Result<Self> {
        let lower = config::host()?;
        let options = |upper: &Path, work: &Path| {
            format!(
                "lowerdir={},upperdir={},workdir={}",
                lower.display(),
                upper.display(),
                work.display()
            )
        };
        fs::create_dir_all(at).with_context(|| format!("making {}", at.display()))?;
        mount_kind("tmpfs", at, None)?;
        let [upper, work, root] = ["upper", "work", "root"].map(|name| at.join(name));
        for dir in [&upper, &work, &root] {
            fs::create_dir(dir).with_context(|| format!("making {}", dir.display()))?;
        }
        mount_kind("overlay", &root, Some(&options(&upper, &work)))?;

        let host = Self { root };
        for name in ["proc", "sys", "dev", "run", "tmp", "root", "var/tmp", "etc"] {
            host.make(Path::new("/").join(name).as_path())?;
        }
        mount_kind("proc", &host.path("/proc"), None)?;
        mount_kind("sysfs", &host.path("/sys"), None)?;
        // As on present systems; where the machine has controllers in version 1, they are not for engines to see.
        mount_kind("cgroup2", &host.path("/sys/fs/cgroup"), None)?;
        mount_kind("tmpfs", &host.path("/run"), None)?;
        host.bind(Path::new("/dev"))?;
        host.bind(&config::target_dir())?;
        Ok(host)
    }

    /// A path on it, as it is called from outside.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Puts the plugin into a folder on it.
    pub fn install_plugin(&self, folder: &str) -> Result<()> {
        self.make(Path::new(folder))?;
        let plugin = config::plugin_dir()?.join(config::PLUGIN_FILE);
        let to = self.path(folder).join(config::PLUGIN_FILE);
        fs::copy(&plugin, &to).with_context(|| format!("copying the plugin to {folder}"))?;
        Ok(())
    }

    /// Writes a file on it.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        if let Some(folder) = Path::new(file).parent() {
            self.make(folder)?;
        }
        fs::write(self.path(file), text).with_context(|| format!("writing {file}"))
    }

    /// Makes it the root of this process's mount namespace. The root before it is gone after that.
    pub fn enter(self) -> Result<()> {
        chdir(&self.root).context("chdir")?;
        // pivot_root(2), "pivot_root(".", ".")": the old root is stacked on the new one, and taken off it.
        pivot_root(".", ".").context("pivot_root")?;
        umount2(".", MntFlags::MNT_DETACH).context("umount of the old root")?;
        chdir("/").context("chdir")
    }

    fn make(&self, folder: &Path) -> Result<()> {
        let path = self.path(folder);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))
    }

    fn bind(&self, path: &Path) -> Result<()> {
        self.show(path, path)
    }

    /// A folder of the machine, with all that is mounted there, is to be found on the host at `at`.
    pub fn show(&self, folder: &Path, at: &Path) -> Result<()> {
        self.make(at)?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(folder), &self.path(at), NONE, flags, NONE)
            .with_context(|| format!("mounting {}", folder.display()))
    }
}

fn mount_kind(kind: &str, at: &Path, options: Option<&str>) -> Result<()> {
    mount(Some(kind), at, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("mounting {kind} on {}", at.display()))
}

/// A command of the host that this process has entered, with what a service manager would give it.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

/// Runs a command that must succeed, and gives what it printed.
pub fn printed(command: &mut Command) -> Result<String> {
    let out = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{command:?}: {}: {said}", out.status);
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
