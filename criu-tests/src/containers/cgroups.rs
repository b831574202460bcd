//! A part of each cgroup hierarchy for one test.
//!
//! Engines make groups below the root that they see, and so does criu at a restore: in every hierarchy that the kernel
//! has, be it mounted anywhere or not. In a cgroup namespace (cgroup_namespaces(7)) that root is a group of the test's
//! own, which is removed with all below it when the test has ended.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::wait;

const NONE: Option<&str> = None;

/// Where the hierarchies are mounted for a moment, in a mount namespace of its own.
const MOUNTS: &str = "/run";

/// How long the kernel may take to let go of a group whose processes have been ended.
const EMPTYING: Duration = Duration::from_secs(5);

/// Moves this process into a new group of that name in every hierarchy, and makes these groups the roots of all that it
/// will see. Its mount namespace must be its own.
pub fn enclose(name: &str) -> Result<()> {
    let hierarchies = mount_all()?;
    for at in &hierarchies {
        let group = at.join(name);
        fs::create_dir(&group).with_context(|| format!("making {}", group.display()))?;
        // cpuset(7): in version 1 a group takes no process before it has processors and memory nodes. Those that criu
        // makes between this one and a container's get them from above.
        if at.join("cpuset.sched_load_balance").exists() {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let value = fs::read(at.join(file)).context(file)?;
                fs::write(group.join(file), value).context(file)?;
            }
            fs::write(group.join("cgroup.clone_children"), "1").context("cgroup.clone_children")?;
        }
        join(&group)?;
    }
    unshare(CloneFlags::CLONE_NEWCGROUP).context("unshare(CLONE_NEWCGROUP)")?;
    // A group whose children get controllers has no processes of its own: cgroups(7), "no internal processes".
    for at in hierarchies {
        if at.join("cgroup.controllers").exists() {
            let group = at.join(name).join("init");
            fs::create_dir(&group).with_context(|| format!("making {}", group.display()))?;
            join(&group)?;
        }
    }
    Ok(())
}

/// Removes the groups of that name and all below them. Their processes must have been ended.
pub fn remove(name: &str) -> Result<()> {
    let name = name.to_owned();
    // A thread may have a mount namespace of its own, and takes it along when it ends.
    let done = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).context("unshare(CLONE_NEWNS)")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(NONE, "/", NONE, private, NONE).context("making mounts private")?;
        mount(Some("tmpfs"), MOUNTS, Some("tmpfs"), MsFlags::empty(), NONE)
            .context("mounting a tmpfs")?;
        for at in mount_all()? {
            let group = at.join(&name);
            if group.exists() {
                wait::until("a group to be empty", EMPTYING, || {
                    Ok(remove_tree(&group).ok())
                })
                .with_context(|| format!("removing {}", group.display()))?;
            }
        }
        Ok(())
    });
    done.join()
        .map_err(|_| anyhow!("the thread that removes groups has panicked"))?
}

fn remove_tree(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(group) {
        Err(why) if why.kind() != ErrorKind::NotFound => Err(why),
        _ => Ok(()),
    }
}

/// 0 is the process that writes.
fn join(group: &Path) -> Result<()> {
    let file = group.join("cgroup.procs");
    fs::write(&file, "0").with_context(|| format!("joining {}", group.display()))
}

/// Mounts every hierarchy that this process is in.
fn mount_all() -> Result<Vec<PathBuf>> {
    let groups = fs::read_to_string("/proc/self/cgroup").context("/proc/self/cgroup")?;
    let mut mounted = Vec::new();
    for line in groups.lines() {
        let (id, kind, options) = hierarchy(line).with_context(|| line.to_owned())?;
        let at = Path::new(MOUNTS).join(format!("hierarchy-{id}"));
        fs::create_dir(&at).with_context(|| format!("making {}", at.display()))?;
        mount(
            Some(kind),
            &at,
            Some(kind),
            MsFlags::empty(),
            options.as_deref(),
        )
        .with_context(|| format!("mounting the cgroup hierarchy {line}"))?;
        mounted.push(at);
    }
    Ok(mounted)
}

/// The number of a hierarchy, and how it is mounted, by a line of /proc/self/cgroup: see cgroups(7).
fn hierarchy(line: &str) -> Option<(&str, &'static str, Option<String>)> {
    let mut fields = line.splitn(3, ':');
    let (id, controllers) = (fields.next()?, fields.next()?);
    Some(match controllers {
        "" => (id, "cgroup2", None),
        named if named.starts_with("name=") => (id, "cgroup", Some(format!("none,{named}"))),
        controllers => (id, "cgroup", Some(controllers.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_hierarchy_is_mounted_as_it_is() {
        let mounts = |line| {
            let (id, kind, options) = hierarchy(line).unwrap();
            format!("{id} {kind} {}", options.unwrap_or_default())
        };
        assert_eq!(mounts("0::/init.scope"), "0 cgroup2 ");
        assert_eq!(mounts("4:cpu,cpuacct:/a:b"), "4 cgroup cpu,cpuacct");
        assert_eq!(mounts("9:name=systemd:/"), "9 cgroup none,name=systemd");
        assert_eq!(hierarchy("9"), None);
    }
}
