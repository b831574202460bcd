//! Finds the live process for an image, and translates the ids in the image to the ids of that process.
//!
//! A pid means nothing without its namespace. An image has its process's ids in every namespace from the dump's own down
//! to the process's own, and tells the latter by its inode number. So an image finds its process by that namespace and
//! the id in it, whatever ids it has elsewhere. Where the namespace is gone (a container was restored, or started anew)
//! the caller names one process of the new one, and the others of that namespace are found in it.
//!
//! If a process has another id now, these ids are translated:
//!
//! - the ids of the process and its threads;
//! - the sender in a siginfo (`si_pid`), if it names a process of the dump in the receiver's namespace;
//! - the thread that a POSIX timer signals (SIGEV_THREAD_ID);
//! - the owner of a file (F_SETOWN), if it is one of these threads or a process of the dump.
//!
//! Threads are matched by their ids where the process has kept its own, as a restore by CRIU leaves it. In another
//! process they are matched in the order of their ids, the leader first: that is the order in which they were made.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use criu_signals_images::{
    Difference, Field, Fields, Image, Name, Notify, NsIds, Pending, Pid, Place, ProcessState,
    Shown as _, Siginfo, ThreadState, image,
};
use nix::errno::Errno;

use super::cgroup::Cgroup;
use crate::error::{Cause, Error, Phase, Result};
use crate::machine::Machine;
use crate::proc::{self, SignalStatus};
use crate::process::pidfd::pid_namespace;
use crate::process::same_program::SameProgram;

/// Where `si_pid` is in a siginfo, in all layouts that have one (union `_sifields` of siginfo.h, 64-bit).
const SI_PID: std::ops::Range<usize> = 16..20;

/// An image, by the pid in its name, and the live process that it is meant for, as the caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The pid that the image is named by.
    pub old: i32,
    /// The process.
    pub new: Pid,
}

impl FromStr for Mapping {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Mapping, String> {
        let number = |text: &str| text.parse().ok().and_then(Pid::new);
        let parts = text.split_once(':');
        match parts.map(|(old, new)| (number(old), number(new))) {
            Some((Some(old), Some(new))) => Ok(Mapping {
                old: old.get(),
                new,
            }),
            _ => Err("not OLD:NEW, two pids".to_owned()),
        }
    }
}

/// An image and its process.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The image.
    pub image: Image,
    /// The process, as the caller sees it.
    pub pid: Pid,
    ids: NsIds,
    pid_ns: u64,
    /// The file that the process executes, or its name.
    program: Name,
    age: Option<Duration>,
    /// `None` in tests.
    held: Option<Arc<SameProgram>>,
}

impl fmt::Display for Pair {
    /// `signals-1.img: pid 4711 (1 in pid namespace 4026532201), /usr/bin/web, started 35 s ago`. A number alone would be
    /// whoever's the maker of the image has chosen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = image::file_name(self.image.process.ids.innermost());
        write!(f, "{name}: pid {}", self.pid)?;
        if self.ids.as_slice().len() > 1 {
            write!(
                f,
                " ({} in pid namespace {})",
                self.ids.innermost(),
                self.pid_ns
            )?;
        }
        write!(f, ", {}", self.program)?;
        match self.age {
            Some(age) => write!(f, ", started {} s ago", age.as_secs()),
            None => Ok(()),
        }
    }
}

impl Pair {
    fn new(image: Image, pid: Pid) -> Result<Pair> {
        // First, so that whatever is found out is found out about this program.
        let held = Some(Arc::new(SameProgram::look(pid)?));
        let status = SignalStatus::read(pid, pid.into())?;
        if status.dead {
            return Err(Error::new("look at the process", Cause::Died));
        }
        Ok(Pair {
            image,
            pid,
            pid_ns: pid_namespace(pid)?,
            program: proc::executable(pid)?.unwrap_or(status.comm),
            age: proc::age(pid),
            ids: status.ids,
            held,
        })
    }

    /// # Errors
    /// [`Cause::Died`] if the process that was found has ended: its number may be another's by now.
    /// [`Cause::Unsupported`] if the process executes another program than it did then.
    pub(super) fn check(&self) -> Result<()> {
        match &self.held {
            Some(held) => held
                .check("nothing is restored")
                .map_err(|e| e.during(Phase::Seize, self.pid)),
            None => Ok(()),
        }
    }

    /// Has the process the ids that it had, in every namespace that both looks at it show? They may have been made from
    /// different namespaces.
    fn kept_its_ids(&self) -> bool {
        let (old, new) = (self.image.process.ids.as_slice(), self.ids.as_slice());
        old.ends_with(new) || new.ends_with(old)
    }
}

/// What becomes of images that are not mapped, where some are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmapped {
    /// They are left out: who names a process means no other.
    LeftOut,
    /// They are for the other processes of the namespaces that the mapped ones are in.
    Found,
}

/// Finds the process of each image. With `only`, those images alone whose process is among these.
///
/// # Errors
/// If one is not to be found, or a mapping or one of `only` has no image.
pub fn pair(
    mut images: Vec<Image>,
    mappings: &[Mapping],
    unmapped: Unmapped,
    only: &[Pid],
) -> Result<Vec<Pair>> {
    let mut known = mapped(&images, mappings)?;
    if !mappings.is_empty() && unmapped == Unmapped::LeftOut {
        images.retain(|image| known.contains_key(&image.process.ids.innermost()));
    }
    if let ([one], [pid], true) = (images.as_slice(), only, known.is_empty()) {
        known.insert(one.process.ids.innermost(), *pid);
    }
    let found = find(&images, &known)?;
    let mut pairs = Vec::new();
    for (image, pid) in images.into_iter().zip(found) {
        match pid {
            Some(pid) if only.is_empty() || only.contains(&pid) => {
                Machine::recorded_in(&image)
                    .refuse_other_arch()
                    .map_err(|e| e.during(Phase::Image, pid))?;
                pairs.push(Pair::new(image, pid).map_err(|e| e.during(Phase::Seize, pid))?);
            }
            None if only.is_empty() => return Err(no_process(&image.process)),
            _ => {}
        }
    }
    let has_image = |pid: Pid| pairs.iter().any(|pair| pair.pid == pid);
    match only.iter().find(|&&pid| !has_image(pid)) {
        Some(pid) => Err(Error::new(
            format!("find the image of pid {pid}"),
            Cause::Unsupported(
                "no image belongs to this process: name an image with --map OLD:NEW".into(),
            ),
        )),
        None => Ok(pairs),
    }
}

/// The processes that `mappings` name, by the pids in the names of their images. Each mapping has to have an image and a process
/// of its own.
fn mapped(images: &[Image], mappings: &[Mapping]) -> Result<HashMap<i32, Pid>> {
    let mut targets = HashSet::new();
    for mapping in mappings {
        let mut images = images.iter();
        if !images.any(|image| image.process.ids.innermost() == mapping.old) {
            let why = format!("{} does not exist", image::file_name(mapping.old));
            return Err(failed(mapping, why));
        }
        if !targets.insert(mapping.new) {
            let why = format!("pid {} is named twice", mapping.new);
            return Err(failed(mapping, why));
        }
    }
    let known: HashMap<i32, Pid> = mappings.iter().map(|m| (m.old, m.new)).collect();
    if known.len() != mappings.len() {
        return Err(Error::new(
            "find the processes",
            Cause::Unsupported("an image is mapped twice".into()),
        ));
    }
    Ok(known)
}

/// The process of each image, in the order of the images: the `known` process, or else the process that has the image's pid in
/// the image's pid namespace. A known process tells which namespace that is now. `None`: there is no such process.
fn find(images: &[Image], known: &HashMap<i32, Pid>) -> Result<Vec<Option<Pid>>> {
    let namespaces = renamed_namespaces(images, known)?;
    let innermost = |image: &Image| image.process.ids.innermost();
    let sought: HashSet<i32> = images.iter().map(innermost).collect();
    let is_known = |pid: &i32| known.contains_key(pid);
    // All processes of the machine are looked at only if the process of an image is not known.
    let live = if sought.iter().all(is_known) {
        HashMap::new()
    } else {
        processes(&sought)?
    };
    let process = |image: &Image| {
        let (old, pid_ns) = (innermost(image), image.process.pid_ns);
        let pid_ns = namespaces.get(&pid_ns).copied().unwrap_or(pid_ns);
        let found = known.get(&old).or_else(|| live.get(&(pid_ns, old)));
        found.copied()
    };
    Ok(images.iter().map(process).collect())
}

/// The images whose processes are in a cgroup.
#[derive(Debug)]
pub struct Members {
    /// With their processes.
    pub pairs: Vec<Pair>,
    /// The pids in the names of the images that no process of the cgroup has in its own pid namespace.
    pub absent: Vec<i32>,
}

/// Finds the process of each image among the processes of `cgroup`: by the pid in the process's own pid namespace, which may be
/// another namespace than it was at the dump. `mappings` name those for which that is not so.
///
/// # Errors
/// If several processes of the cgroup have the pid of one image, and none or more than one of them is in the pid namespace of
/// the image; if no process of the cgroup belongs to an image; else those of [`pair`].
pub fn pair_members(images: Vec<Image>, mappings: &[Mapping], cgroup: &Cgroup) -> Result<Members> {
    let mut members: HashMap<i32, Vec<(Pid, u64)>> = HashMap::new();
    for pid in cgroup.processes()? {
        let during = |e: Error| e.during(Phase::Seize, pid);
        let status = match SignalStatus::read(pid, pid.into()) {
            Ok(status) => status,
            Err(e) if e.is_died() => continue,
            Err(e) => return Err(during(e)),
        };
        if !status.dead && !mappings.iter().any(|mapping| mapping.new == pid) {
            let pid_ns = pid_namespace(pid).map_err(during)?;
            let same = members.entry(status.ids.innermost()).or_default();
            same.push((pid, pid_ns));
        }
    }
    let mut all = mappings.to_vec();
    let mut absent = Vec::new();
    for image in &images {
        let old = image.process.ids.innermost();
        if mappings.iter().any(|mapping| mapping.old == old) {
            continue;
        }
        let found = members.get(&old).map(Vec::as_slice).unwrap_or_default();
        let same: Vec<Pid> = found
            .iter()
            .filter(|(_, pid_ns)| found.len() == 1 || *pid_ns == image.process.pid_ns)
            .map(|(pid, _)| *pid)
            .collect();
        match same.as_slice() {
            [new] => all.push(Mapping { old, new: *new }),
            _ if found.is_empty() => absent.push(old),
            _ => return Err(ambiguous(old, found)),
        }
    }
    if all.is_empty() {
        let why = "no process of the cgroup has the pid of an image: name the processes with --map OLD:NEW";
        return Err(Error::new(
            format!("find the processes in cgroup {}", cgroup.dir().shown()),
            Cause::Unsupported(why.into()),
        ));
    }
    let pairs = pair(images, &all, Unmapped::LeftOut, &[])?;
    Ok(Members { pairs, absent })
}

fn ambiguous(old: i32, found: &[(Pid, u64)]) -> Error {
    let pids: Vec<String> = found.iter().map(|(pid, _)| pid.to_string()).collect();
    let why = format!(
        "the processes {} of the cgroup are all {old} in their own pid namespaces: name the process with --map {old}:PID",
        pids.join(", ")
    );
    Error::new(
        format!("find the process of {}", image::file_name(old)),
        Cause::Unsupported(why.into()),
    )
}

fn failed(mapping: &Mapping, why: String) -> Error {
    Error::new(
        format!("map {}:{}", mapping.old, mapping.new),
        Cause::Unsupported(why.into()),
    )
}

fn no_process(process: &ProcessState) -> Error {
    let (old, pid_ns) = (process.ids.innermost(), process.pid_ns);
    let why = format!(
        "no accessible process has pid {old} in pid namespace {pid_ns}: name the process with --map {old}:PID; with \
         --others the other processes of that namespace are then found"
    );
    Error::new(
        format!("find the process of {}", image::file_name(old)),
        Cause::Unsupported(why.into()),
    )
}

/// The namespaces that the mappings tell of, by their old numbers.
fn renamed_namespaces(images: &[Image], known: &HashMap<i32, Pid>) -> Result<HashMap<u64, u64>> {
    let mut namespaces = HashMap::new();
    for image in images {
        let process = &image.process;
        if let Some(&pid) = known.get(&process.ids.innermost()) {
            let now = pid_namespace(pid).map_err(|e| e.during(Phase::Seize, pid))?;
            if let Some(other) = namespaces.insert(process.pid_ns, now)
                && other != now
            {
                // Processes of one namespace put into several: the rest is where it was.
                namespaces.insert(process.pid_ns, process.pid_ns);
            }
        }
    }
    Ok(namespaces)
}

/// All processes that can be looked at and have one of the `sought` ids in their own namespaces, by these namespaces and their
/// ids there.
fn processes(sought: &HashSet<i32>) -> Result<HashMap<(u64, i32), Pid>> {
    let mut all = HashMap::new();
    for pid in proc::all() {
        let Ok(status) = SignalStatus::read(pid, pid.into()) else {
            continue;
        };
        let innermost = status.ids.innermost();
        if !sought.contains(&innermost) {
            continue;
        }
        match pid_namespace(pid) {
            Ok(pid_ns) => drop(all.insert((pid_ns, innermost), pid)),
            // It may be the one: what is not known is not left out.
            Err(e) if matches!(e.cause(), Cause::Os(Errno::ETIMEDOUT)) => {
                return Err(e.during(Phase::Seize, pid));
            }
            Err(_) => {}
        }
    }
    Ok(all)
}

/// What is different because a dump has threads that the process has not.
pub(super) fn missing_threads(old: &ProcessState, new: &ProcessState) -> Vec<Difference> {
    let matched: HashSet<usize> = matches(old, new).into_iter().map(|(at, _)| at).collect();
    let missing = old
        .threads
        .iter()
        .enumerate()
        .filter(|(at, _)| !matched.contains(at));
    missing
        .map(|(_, thread)| Difference {
            dispositions: None,
            place: Place::Thread(thread.ids.innermost()),
            field: Field::ThreadMissing,
            dumped: "a thread".to_owned(),
            found: "none".to_owned(),
        })
        .collect()
}

/// The threads of the dump, by their places, that the process has, and the ids that they have there.
fn matches(old: &ProcessState, new: &ProcessState) -> Vec<(usize, NsIds)> {
    let by_id = old.ids.innermost() == new.ids.innermost();
    let found = |at: usize, thread: &ThreadState| {
        let same = if by_id {
            new.threads
                .iter()
                .find(|now| now.ids.innermost() == thread.ids.innermost())
        } else {
            new.threads.get(at)
        };
        Some((at, same?.ids.clone()))
    };
    let threads = old.threads.iter().enumerate();
    threads
        .filter_map(|(at, thread)| found(at, thread))
        .collect()
}

/// The threads of the dump that the process has, each with its present id in its own namespace.
pub(super) fn matched_threads<'o>(
    old: &'o ProcessState,
    new: &ProcessState,
) -> Vec<(&'o ThreadState, i32)> {
    let matched = matches(old, new).into_iter();
    matched
        .map(|(at, ids)| (&old.threads[at], ids.innermost()))
        .collect()
}

/// The state of `pair`'s image as it is to be in its process, of which `now` was read: the threads that there are, under
/// the ids that they have now. Senders are named as they are in the process's namespace, where they are among `pairs`.
pub(super) fn translated(pair: &Pair, now: &ProcessState, pairs: &[Pair]) -> ProcessState {
    let old = &pair.image.process;
    let mut state = old.clone();
    let matched = matches(old, now);
    let renamed: HashMap<i32, i32> = matched
        .iter()
        .map(|(at, ids)| (old.threads[*at].ids.innermost(), ids.innermost()))
        .collect();
    state.threads = matched
        .into_iter()
        .map(|(at, ids)| ThreadState {
            ids,
            // What it waits in is its own matter.
            interrupted: None,
            ..old.threads[at].clone()
        })
        .collect();
    state.ids = now.ids.clone();
    state.pid_ns = now.pid_ns;
    for timer in &mut state.timers {
        if let Notify::Thread(tid) = &mut timer.notify
            && let Some(new) = renamed.get(tid)
        {
            *tid = *new;
        }
    }
    if pairs.iter().any(|pair| !pair.kept_its_ids()) {
        let sender = |pid| name_of(pid, pair, pairs);
        for owner in &mut state.file_owners {
            *owner = owner.renamed(|tid| renamed.get(&tid).copied(), sender);
        }
        state
            .queues_mut()
            .for_each(|pending| rename_senders(pending, sender));
    }
    state
}

fn rename_senders(pending: &mut Pending, name: impl Fn(i32) -> Option<i32>) {
    for info in &mut pending.queue {
        let sender = match info.fields() {
            Fields::Kill { pid, .. } | Fields::Child { pid, .. } | Fields::Value { pid, .. } => pid,
            _ => continue,
        };
        if let Some(new) = name(sender) {
            let mut bytes = *info.as_bytes();
            bytes[SI_PID].copy_from_slice(&new.to_le_bytes());
            *info = Siginfo::from_bytes(bytes);
        }
    }
}

/// What the process that was `pid` for the receiver is called there now. `None`: it is not of the dump. 0, as the kernel
/// has it, where the receiver can't see it.
fn name_of(pid: i32, receiver: &Pair, pairs: &[Pair]) -> Option<i32> {
    let old = &receiver.image.process;
    let sender = pairs.iter().find(|sender| {
        let process = &sender.image.process;
        id_in(&process.ids, process.pid_ns, &old.ids, old.pid_ns) == Some(pid)
    })?;
    Some(id_in(&sender.ids, sender.pid_ns, &receiver.ids, receiver.pid_ns).unwrap_or(0))
}

/// A process's id in the namespace of another one, if that can be told: it is the process's own, or the one from which
/// both were looked at.
fn id_in(ids: &NsIds, pid_ns: u64, other: &NsIds, other_ns: u64) -> Option<i32> {
    if pid_ns == other_ns {
        Some(ids.innermost())
    } else if other.as_slice().len() == 1 {
        Some(ids.outermost())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use criu_signals_images::{
        Arch, FORMAT_VERSION, Header, InterruptedCall, PosixTimer, RestartCode,
    };

    use super::*;

    fn ids(ids: &[i32]) -> NsIds {
        NsIds::new(ids.to_vec()).expect("ids")
    }

    fn image(old: &[i32], pid_ns: u64, senders: &[i32]) -> Image {
        let mut process = ProcessState::bare(ids(old));
        process.pid_ns = pid_ns;
        process.shared.queue = senders
            .iter()
            .map(|&pid| Siginfo::from_fields(10, 0, 0, &Fields::Kill { pid, uid: 5 }))
            .collect();
        Image {
            header: Header {
                format_version: FORMAT_VERSION,
                arch: Arch::X86_64,
                kernel_release: String::new(),
                tool_version: String::new(),
                criu_version: None,
            },
            process,
        }
    }

    fn paired(old: &[i32], old_ns: u64, senders: &[i32], new: &[i32], new_ns: u64) -> Pair {
        Pair {
            image: image(old, old_ns, senders),
            pid: Pid::new(new[0]).unwrap(),
            ids: ids(new),
            pid_ns: new_ns,
            program: Name::default(),
            age: None,
            held: None,
        }
    }

    fn senders(at: usize, pairs: &[Pair]) -> Vec<i32> {
        let mut now = ProcessState::bare(pairs[at].ids.clone());
        now.pid_ns = pairs[at].pid_ns;
        let state = translated(&pairs[at], &now, pairs);
        let pid = |info: &Siginfo| match info.fields() {
            Fields::Kill { pid, uid: 5 } => pid,
            other => panic!("{other:?}"),
        };
        state.shared.queue.iter().map(pid).collect()
    }

    #[test]
    fn a_mapping_is_two_pids() {
        assert_eq!(
            "7:8".parse(),
            Ok(Mapping {
                old: 7,
                new: Pid::new(8).unwrap()
            })
        );
        for wrong in ["", "7", "7:", ":8", "7:8:9", "0:1", "-1:4", "a:b"] {
            wrong.parse::<Mapping>().unwrap_err();
        }
    }

    #[test]
    fn every_mapping_has_an_image_and_a_process_of_its_own() {
        let images = [image(&[100, 7], 1, &[]), image(&[8], 1, &[])];
        let known = |mappings: &[&str]| {
            let mappings: Vec<Mapping> = mappings.iter().map(|m| m.parse().unwrap()).collect();
            mapped(&images, &mappings)
        };
        let pid = |pid| Pid::new(pid).unwrap();
        assert_eq!(known(&[]).unwrap(), HashMap::new());
        let both = HashMap::from([(7, pid(20)), (8, pid(21))]);
        assert_eq!(known(&["7:20", "8:21"]).unwrap(), both);
        // An image is named by the innermost pid.
        for wrong in [&["100:20"][..], &["7:20", "8:20"], &["7:20", "7:21"]] {
            known(wrong).unwrap_err();
        }
    }

    #[test]
    fn senders_that_are_mapped_are_translated_and_others_are_not() {
        let pairs = [
            paired(&[10], 1, &[11, 10, 99, 0], &[20], 1),
            paired(&[11], 1, &[10], &[21], 1),
        ];
        assert_eq!(senders(0, &pairs), [21, 20, 99, 0]);
        assert_eq!(senders(1, &pairs), [20]);
    }

    #[test]
    fn pids_of_different_namespaces_are_not_mixed_up() {
        // Two containers, each with a process 1 and a process 7, and one of them sent by 7; and a process outside.
        let pairs = [
            paired(&[100, 1], 2, &[7, 101], &[200, 1], 4),
            paired(&[101, 7], 2, &[1], &[201, 8], 4),
            paired(&[102, 7], 3, &[7, 1], &[202, 9], 5),
            paired(&[7], 1, &[101, 7, 102], &[300], 1),
        ];
        assert_eq!(senders(0, &pairs), [8, 101]);
        assert_eq!(senders(1, &pairs), [1]);
        assert_eq!(senders(2, &pairs), [9, 1], "1 is in the other container");
        assert_eq!(senders(3, &pairs), [201, 300, 202]);
    }

    #[test]
    fn senders_stay_if_all_processes_have_kept_their_ids() {
        // Seen from one namespace further out than at the dump.
        let pairs = [
            paired(&[7], 1, &[100], &[500, 7], 1),
            paired(&[100, 1], 2, &[1], &[600, 100, 1], 2),
        ];
        assert_eq!(senders(0, &pairs), [100]);
        assert_eq!(senders(1, &pairs), [1]);
    }

    #[test]
    fn a_container_that_was_started_anew_is_seen_with_other_ids_from_outside() {
        // Its process is 1 in its own namespace, as before.
        let pairs = [
            paired(&[7], 1, &[101, 7], &[7], 1),
            paired(&[101, 1], 2, &[1, 0], &[201, 1], 4),
        ];
        assert_eq!(senders(0, &pairs), [201, 7]);
        assert_eq!(senders(1, &pairs), [1, 0]);
    }

    #[test]
    fn threads_get_the_ids_that_they_have_now_and_keep_their_calls() {
        let mut pair = paired(&[10], 1, &[], &[20], 1);
        let mut thread = ThreadState::bare(ids(&[12]));
        thread.interrupted = Some(InterruptedCall {
            number: 34,
            code: RestartCode::UnlessHandled,
            ip: 0,
            remaining: None,
            whole_timeout: false,
            timeout: None,
        });
        pair.image.process.threads.push(thread);
        pair.image.process.timers = [12, 99].map(of_thread).to_vec();
        let mut now = ProcessState::bare(ids(&[20]));
        now.threads.push(ThreadState::bare(ids(&[25])));
        let state = translated(&pair, &now, &[]);
        let threads = [20, 25].map(|id| ThreadState::bare(ids(&[id])));
        assert_eq!((state.ids, state.threads), (ids(&[20]), threads.to_vec()));
        // A timer of a thread that is not of the dump stays as it is.
        assert_eq!(state.timers, [25, 99].map(of_thread));
    }

    fn of_thread(tid: i32) -> PosixTimer {
        PosixTimer {
            notify: Notify::Thread(tid),
            ..PosixTimer::bare(1, 34)
        }
    }

    #[test]
    fn threads_by_id_or_in_their_order() {
        let mut old = ProcessState::bare(ids(&[10]));
        old.threads.push(ThreadState::bare(ids(&[12])));
        old.threads.push(ThreadState::bare(ids(&[15])));
        let mut same = ProcessState::bare(ids(&[10]));
        same.threads.push(ThreadState::bare(ids(&[15])));
        assert_eq!(matches(&old, &same), [(0, ids(&[10])), (2, ids(&[15]))]);
        assert_eq!(missing_threads(&old, &same)[0].place, Place::Thread(12));
        let mut other = ProcessState::bare(ids(&[20]));
        other.threads.push(ThreadState::bare(ids(&[15])));
        assert_eq!(matches(&old, &other), [(0, ids(&[20])), (1, ids(&[15]))]);
        assert_eq!(missing_threads(&old, &other)[0].place, Place::Thread(15));
    }
}
