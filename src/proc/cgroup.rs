//! The cgroups of a process, and whether the freezer of a cgroup holds the process.

use std::path::{Path, PathBuf};

use criu_signals_images::{Pid, Shown as _, Tid};
use procfs::process::MountInfo;

use super::status::status;
use super::{is_stopped, of_task, read, read_text, task_file, text_of, threads};
use crate::error::{Cause, Error, Result};
use crate::in_time;

/// Is a thread of `pid` stopped by job control, although a freezer of cgroup v1 may hold it, which then shows as
/// uninterruptible sleep?
pub fn is_stopped_or_held(pid: Pid) -> bool {
    let threads = threads(pid).unwrap_or_default();
    let stops = move |tid| {
        read_text(task_file(pid, tid, "wchan"))
            .is_ok_and(|function| matches!(&*function, "do_signal_stop" | "get_signal"))
    };
    let mut each = threads.iter();
    each.any(|&tid| is_stopped(pid, tid).unwrap_or(false))
        || in_time::look("wchan", move || threads.into_iter().any(stops)).unwrap_or(false)
}

/// Does a freezer of cgroup v1 hold the process? Then no tracer can stop it before it is thawed. That of v2 does not
/// stand in the way.
///
/// # Errors
/// [`Cause::Died`] if the process is gone; otherwise the errno of the read of `cgroup`.
pub fn is_frozen(pid: Pid) -> Result<bool> {
    let text = text_of(pid, "cgroup", "read cgroup")?;
    Ok(cgroups(&text)
        .filter(|(_, controllers, _)| controllers.split(',').any(|name| name == "freezer"))
        .any(|(_, _, path)| {
            let state = format!("/sys/fs/cgroup/freezer{path}/freezer.state");
            read_text(state).is_ok_and(|state| state.trim() != "THAWED")
        }))
}

/// A cgroup as `/proc/PID/cgroup` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupName {
    /// As the line has them; nothing for v2.
    controllers: String,
    path: String,
}

impl CgroupName {
    /// That of the cgroup whose folder is `dir`, a path without links.
    ///
    /// # Errors
    /// If it is in no hierarchy that is mounted here.
    pub fn of_folder(dir: &Path) -> Result<CgroupName> {
        const OPERATION: &str = "find the cgroup's hierarchy";
        let this = super::process(Pid::own())?;
        let mounts = this.mountinfo().map_err(|e| Error::proc(OPERATION, &e))?;
        let holds = |mount: &&MountInfo| {
            mount.fs_type.starts_with("cgroup") && dir.starts_with(&mount.mount_point)
        };
        let innermost = mounts
            .iter()
            .filter(holds)
            .max_by_key(|mount| mount.mount_point.components().count());
        let text = text_of(Pid::own(), "cgroup", "read cgroup")?;
        let name = innermost.and_then(|mount| {
            let mut lines = cgroups(&text);
            let (_, controllers, _) = lines.find(|(_, names, _)| is_hierarchy(mount, names))?;
            let below = dir.strip_prefix(&mount.mount_point).ok()?;
            // A mount may show a part of the hierarchy.
            let path = Path::new(&mount.root).join(below);
            Some(CgroupName {
                controllers: controllers.to_owned(),
                path: path.to_str()?.trim_end_matches('/').to_owned(),
            })
        });
        let why = || format!("{} is in no mounted hierarchy of cgroups", dir.shown());
        name.ok_or_else(|| Error::new(OPERATION, Cause::Proc(why())))
    }

    /// Is the cgroup of this line the same, or below?
    fn contains(&self, controllers: &str, path: &str) -> bool {
        // What begins with "/.." is outside of the reader's cgroup namespace (cgroup_namespaces(7)).
        let below = path.strip_prefix(&self.path);
        controllers == self.controllers
            && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            && !below.is_some_and(|rest| rest.starts_with("/.."))
    }
}

/// Does a line of `/proc/PID/cgroup` with these controllers belong to the mounted hierarchy?
fn is_hierarchy(mount: &MountInfo, controllers: &str) -> bool {
    if mount.fs_type == "cgroup2" {
        return controllers.is_empty();
    }
    let has = |name: &str| match name.strip_prefix("name=") {
        Some(name) => mount.super_options.get("name") == Some(&Some(name.to_owned())),
        None => mount.super_options.contains_key(name),
    };
    !controllers.is_empty() && controllers.split(',').all(has)
}

/// Is the thread in one of these cgroups, or in one below?
///
/// # Errors
/// [`Cause::Died`] if the thread is gone.
pub fn is_in_cgroup(pid: Pid, tid: Tid, wanted: &[CgroupName]) -> Result<bool> {
    let bytes = read(task_file(pid, tid, "cgroup")).map_err(|e| of_task("read cgroup", &e))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = cgroups(&text);
    Ok(lines.any(|(_, controllers, path)| {
        let mut wanted = wanted.iter();
        wanted.any(|cgroup| cgroup.contains(controllers, path))
    }))
}

/// The lines of `/proc/PID/cgroup` (cgroups(7)): hierarchy, which is 0 for v2, controllers, path.
pub(crate) fn cgroups(text: &str) -> impl Iterator<Item = (u32, &str, &str)> {
    text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let hierarchy = parts.next()?.parse().ok()?;
        Some((hierarchy, parts.next()?, parts.next()?))
    })
}

/// Does a freezer hold the process, of whichever version? Then nothing can be executed in it, although with v2 a tracer can
/// stop it.
pub fn is_held(pid: Pid) -> bool {
    /// Where cgroup v2 is mounted, alone or beside v1.
    const V2: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let text = text_of(pid, "cgroup", "read cgroup");
    let frozen = |dir: &std::path::Path| {
        read_text(dir.join("cgroup.freeze")).is_ok_and(|told| told.trim() == "1")
    };
    let by_v2 = text.is_ok_and(|text| {
        cgroups(&text)
            .filter(|(hierarchy, _, _)| *hierarchy == 0)
            .any(|(_, _, path)| {
                V2.map(|mount| PathBuf::from(format!("{mount}{path}")))
                    .iter()
                    .any(|dir| dir.ancestors().any(frozen))
            })
    });
    by_v2 || is_frozen(pid).unwrap_or(false)
}

/// Is the process stopped by job control, and held by a freezer of cgroup v1, which shows as uninterruptible sleep?
pub fn is_stopped_and_held(pid: Pid) -> bool {
    let Ok(leader) = status(pid, Tid::from(pid)) else {
        return false;
    };
    match leader.state.as_bytes().first() {
        Some(b'D') => is_stopped_or_held(pid),
        // Other threads are left.
        Some(b'Z') => is_frozen(pid).unwrap_or(false) && is_stopped_or_held(pid),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_cgroup() {
        let cgroup = |controllers: &str, path: &str| CgroupName {
            controllers: controllers.to_owned(),
            path: path.to_owned(),
        };
        let web = cgroup("", "/web");
        for (controllers, path, wanted) in [
            ("", "/web", true),
            ("", "/web/a/b", true),
            ("", "/web2", false),
            ("", "/", false),
            ("cpu", "/web", false),
        ] {
            assert_eq!(web.contains(controllers, path), wanted, "{path}");
        }
        let root = cgroup("cpu,cpuacct", "");
        assert!(root.contains("cpu,cpuacct", "/") && root.contains("cpu,cpuacct", "/web"));
        assert!(!root.contains("cpu,cpuacct", "/../other"));
        let gone = Pid::new(i32::MAX).unwrap();
        assert!(
            is_in_cgroup(gone, gone.into(), &[web])
                .unwrap_err()
                .is_died()
        );
    }
}
