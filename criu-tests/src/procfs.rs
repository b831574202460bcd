//! Reads a process and its tree from /proc.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::wait;

/// A process id in the namespace of the run.
pub type Pid = i32;

/// The state letter of `/proc/PID/status` (R, S, T, Z, ...); `None` if there is no such process. `/proc/PID/stat` has it as
/// well, but waits for a process in execve(2).
pub fn state(pid: Pid) -> Option<char> {
    // The name may hold anything: it need not be UTF-8, but has no newline.
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let mut lines = status.split(|&byte| byte == b'\n');
    let state = lines.find_map(|line| line.strip_prefix(b"State:\t"))?;
    state.first().copied().map(char::from)
}

/// Waits until it shows this state letter. A task that a tracer has just let go shows as running for a moment, also one
/// on its way back into its stop: to look once would tell nothing.
pub fn comes_to(pid: Pid, letter: char) -> Result<()> {
    wait::until(
        &format!("pid {pid} to show state {letter}"),
        wait::PATIENCE,
        || match state(pid) {
            Some(found) if found == letter => Ok(Some(())),
            None | Some('X') => bail!("pid {pid} is gone instead of in state {letter}"),
            Some('Z') => bail!("pid {pid} has ended instead of being in state {letter}"),
            Some(_) => Ok(None),
        },
    )
}

/// The name of its program, as `/proc/PID/comm` has it.
pub fn name(pid: Pid) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// The thread that traces it; 0: nobody does.
pub fn tracer(pid: Pid) -> Result<Pid> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"));
    Ok(line.context("TracerPid")?.trim().parse()?)
}

/// All processes, dead ones among them.
pub fn all() -> Result<Vec<Pid>> {
    let entries = fs::read_dir("/proc").context("/proc")?;
    let number =
        |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    Ok(entries.filter_map(number).collect())
}

/// Those whose program has this name, zombies left out.
pub fn named(program: &str) -> Result<Vec<Pid>> {
    let mut pids = all()?;
    pids.retain(|&pid| name(pid).as_deref() == Some(program) && state(pid) != Some('Z'));
    Ok(pids)
}

/// All but `known` and pid 1, dead ones left out.
pub fn others(known: &[Pid]) -> Result<Vec<Pid>> {
    let mut pids = all()?;
    pids.retain(|pid| *pid != 1 && !known.contains(pid));
    pids.retain(|&pid| !matches!(state(pid), None | Some('Z' | 'X')));
    Ok(pids)
}

/// The process and all its descendants, dead ones left out, each before its children.
pub fn tree(root: Pid) -> Result<Vec<Pid>> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        for tid in tasks(pid)? {
            // Gone in the meantime: then it has no children.
            let children =
                fs::read_to_string(format!("/proc/{pid}/task/{tid}/children")).unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|word| word.parse().ok())
                    .filter(|&child| !matches!(state(child), None | Some('Z' | 'X'))),
            );
        }
    }
    Ok(found)
}

/// The threads of a process.
pub fn tasks(pid: Pid) -> Result<Vec<Pid>> {
    let dir = format!("/proc/{pid}/task");
    let mut tids = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| dir.clone())? {
        if let Ok(tid) = entry?.file_name().to_string_lossy().parse() {
            tids.push(tid);
        }
    }
    Ok(tids)
}

/// Whether any process whose program has this name has this file open.
pub fn is_open_in(program: &str, file: &Path) -> Result<bool> {
    Ok(!having_open(program, file)?.is_empty())
}

/// The processes whose program has this name that have this file open.
pub fn having_open(program: &str, file: &Path) -> Result<Vec<Pid>> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    // Whoever is gone in the meantime has nothing open.
    let has_it = |pid: &Path| {
        fs::read_to_string(pid.join("comm")).is_ok_and(|comm| comm.trim_end() == program)
            && entries(&pid.join("fd"))
                .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == file))
    };
    fs::read_dir("/proc").context("/proc")?;
    let pids = entries(Path::new("/proc")).filter(|pid| has_it(&pid.path()));
    Ok(pids
        .filter_map(|pid| pid.file_name().to_str()?.parse().ok())
        .collect())
}

/// The lines of `/proc/PID/task/TID/status` that are signal state, by (pid, tid), for each of these processes.
pub type SignalLines = BTreeMap<(Pid, Pid), String>;

/// Reads the signal lines of all threads of these processes.
pub fn signal_lines(pids: &[Pid]) -> Result<SignalLines> {
    let mut all = SignalLines::new();
    for &pid in pids {
        for tid in tasks(pid)? {
            let path = format!("/proc/{pid}/task/{tid}/status");
            let status = fs::read_to_string(&path).with_context(|| path.clone())?;
            all.insert((pid, tid), pick_signal_lines(&status));
        }
    }
    Ok(all)
}

/// SigQ is left out: it counts the entries of all processes of the user, also those of other runs.
fn pick_signal_lines(status: &str) -> String {
    const NAMES: [&str; 5] = ["SigPnd:", "ShdPnd:", "SigBlk:", "SigIgn:", "SigCgt:"];
    let lines: Vec<&str> = status
        .lines()
        .filter(|line| NAMES.iter().any(|name| line.starts_with(name)))
        .collect();
    lines.join(" ").replace('\t', " ")
}

/// Says in one line per thread what differs.
pub fn describe_difference(before: &SignalLines, after: &SignalLines) -> String {
    let mut lines = Vec::new();
    for ((pid, tid), was) in before {
        match after.get(&(*pid, *tid)) {
            None => lines.push(format!("pid {pid} tid {tid}: gone")),
            Some(is) if is != was => lines.push(format!("pid {pid} tid {tid}: was {was}; is {is}")),
            Some(_) => {}
        }
    }
    for (pid, tid) in after.keys().filter(|key| !before.contains_key(key)) {
        lines.push(format!("pid {pid} tid {tid}: new"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_state_is_found() {
        let pid = std::process::id().try_into().unwrap();
        assert!(matches!(state(pid), Some('R' | 'S')));
        assert!(tree(pid).unwrap().contains(&pid));
        // The threads of other tests end between being listed and being read.
        let lines = (0..1000).find_map(|_| signal_lines(&[pid]).ok()).unwrap();
        assert!(lines[&(pid, pid)].contains("SigBlk: "));
        assert!(!lines[&(pid, pid)].contains("SigQ"));
    }

    #[test]
    fn differences_are_named() {
        let before =
            SignalLines::from([((2, 2), "SigBlk: 0".into()), ((2, 3), "SigBlk: 1".into())]);
        let after = SignalLines::from([((2, 2), "SigBlk: 4".into()), ((2, 5), "SigBlk: 1".into())]);
        assert_eq!(
            describe_difference(&before, &after),
            "pid 2 tid 2: was SigBlk: 0; is SigBlk: 4\npid 2 tid 3: gone\npid 2 tid 5: new"
        );
    }
}
