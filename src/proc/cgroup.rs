//! Whether a freezer of a cgroup holds a process.

use std::path::PathBuf;

use criu_signals_images::{Pid, Tid};

use super::status::status;
use super::{is_stopped, read_text, task_file, text_of, threads};
use crate::error::Result;
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
pub fn is_frozen(pid: Pid) -> Result<bool> {
    let text = text_of(pid, "cgroup", "read cgroup")?;
    Ok(cgroups(&text)
        .filter(|(_, controllers, _)| controllers.split(',').any(|name| name == "freezer"))
        .any(|(_, _, path)| {
            let state = format!("/sys/fs/cgroup/freezer{path}/freezer.state");
            read_text(state).is_ok_and(|state| state.trim() != "THAWED")
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
