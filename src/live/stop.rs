//! Stops several processes so that all of them are stopped at one instant.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use criu_signals_images::{Pid, Shown as _};
use nix::errno::Errno;

use super::cgroup::{Cgroup, Hold};
use super::{Progress, Stage, step};
use crate::error::{Cause, Error, Phase, Result};
use crate::losses::by_stop::refuse_stop;
use crate::proc;
use crate::process::worker;
use crate::tracee::{ByUs, StoppedProcess, StoppingProcess};

/// How long what has been seized in a frozen cgroup usually takes to stop. Only a parent in vfork(2) takes longer: it
/// waits for a child, which the freezer or a tracer holds as well. Then all are let go, so that the child can go on, and
/// it is tried once more.
const SOON: Duration = Duration::from_millis(20);
/// How long it may take where it can't be told what it waits for: the machine is busy.
const STANDSTILL: Duration = Duration::from_secs(1);

/// Which processes.
#[derive(Clone, Debug)]
pub enum Target {
    /// One.
    Process(Pid),
    /// One and its descendants. A process whose parent ends before that one is stopped is no descendant any more; it is
    /// among them if it was seen before.
    Tree(Pid),
    /// Those of a cgroup and of the cgroups in it.
    Cgroup(Cgroup),
}

/// Processes that all stand still. Let go when dropped.
#[derive(Debug)]
pub struct Stopped {
    // In this order: what the freezer held before is held again before the processes are let go.
    hold: Option<Hold>,
    processes: Vec<StoppedProcess<ByUs>>,
    since: Instant,
    deadline: Instant,
}

impl Stopped {
    /// Stops them. Each is waited for up to `timeout`.
    ///
    /// # Errors
    /// The first that could not be stopped; all others run on. One that ends meanwhile is left out, unless it is the
    /// one that was asked for.
    pub fn stop(target: &Target, timeout: Duration, progress: &mut dyn Progress) -> Result<Self> {
        let deadline = Instant::now() + timeout;
        let mut stopped = Stopped {
            hold: None,
            processes: Vec::new(),
            since: Instant::now(),
            deadline,
        };
        match target {
            Target::Process(pid) => stopped.add(&[*pid], timeout, progress)?,
            Target::Tree(root) => {
                let mut known = BTreeSet::new();
                let mut listed = proc::ticks();
                let mut next = proc::tree(*root);
                while stopped.add_new(next, Some(*root), &mut known, timeout, progress)? {
                    stopped.keep_descendants(*root, &known, listed);
                    listed = proc::ticks();
                    next = stopped.children()?;
                }
            }
            Target::Cgroup(cgroup) => {
                stopped.stop_cgroup(cgroup, timeout, progress)?;
                stopped.keep_members(cgroup)?;
            }
        }
        if stopped.processes.is_empty() {
            return Err(Error::new(
                "stop",
                Cause::Unsupported("no process to stop".into()),
            ));
        }
        Ok(stopped)
    }

    /// Stops these, parents before their children: one in vfork(2) stops only when its child goes on.
    ///
    /// # Errors
    /// The first that could not be stopped; all others run on.
    pub fn stop_these(
        pids: &[Pid],
        timeout: Duration,
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        let mut stopped = Stopped {
            hold: None,
            processes: Vec::new(),
            since: Instant::now(),
            deadline: Instant::now() + timeout,
        };
        stopped.add(&parents_first(pids), timeout, progress)?;
        Ok(stopped)
    }

    /// The processes.
    pub fn processes(&self) -> &[StoppedProcess<ByUs>] {
        &self.processes
    }

    /// Lets all go on, and says how long the first of them has stood still.
    ///
    /// # Errors
    /// The first that could not be let go; the others are all the same.
    pub fn release(mut self) -> Result<Duration> {
        let mut done = Ok(());
        let mut note = |result: Result<()>| {
            if done.is_ok() {
                done = result;
            }
        };
        if let Some(hold) = &self.hold {
            note(hold.put_back());
        }
        for process in std::mem::take(&mut self.processes) {
            note(process.release());
        }
        let took = self.since.elapsed();
        if let Some(hold) = self.hold.take() {
            let patience = STANDSTILL.max(self.deadline.saturating_duration_since(Instant::now()));
            note(hold.end(Instant::now() + patience));
        }
        done.map(|()| took)
    }

    fn add(&mut self, pids: &[Pid], timeout: Duration, progress: &mut dyn Progress) -> Result<()> {
        for &pid in pids {
            self.processes.push(seize(pid, timeout)?);
            self.count(progress)?;
        }
        Ok(())
    }

    /// Adds those that are not `known`. Were there any? All but `wanted` may end meanwhile.
    fn add_new(
        &mut self,
        pids: Vec<Pid>,
        wanted: Option<Pid>,
        known: &mut BTreeSet<Pid>,
        timeout: Duration,
        progress: &mut dyn Progress,
    ) -> Result<bool> {
        let mut any = false;
        // All that are there at first have their turn; whoever forks faster than processes are stopped is not followed for
        // ever.
        let is_first = known.is_empty();
        for pid in pids {
            if !known.insert(pid) {
                continue;
            }
            if !is_first && Instant::now() >= self.deadline {
                let what = "stop (processes are created faster than they are stopped)";
                return Err(Error::os(what, Errno::ETIMEDOUT).during(Phase::Seize, pid));
            }
            if pid == Pid::own() || Some(pid) == worker::waiter() {
                log::warn!("pid {pid}: skipped, because it is this program");
                continue;
            }
            match seize(pid, timeout) {
                Ok(process) => self.processes.push(process),
                Err(e) if Some(pid) != wanted && (e.is_died() || !proc::is_alive(pid)) => continue,
                Err(e) => return Err(e),
            }
            any = true;
            self.count(progress)?;
        }
        Ok(any)
    }

    fn count(&self, progress: &mut dyn Progress) -> Result<()> {
        step(
            progress,
            Stage::Stop,
            self.processes.len(),
            self.processes.len(),
        )
    }

    /// Lets those go that were seized by a number that was another's when it was listed. What is seized keeps its number.
    fn keep_members(&mut self, cgroup: &Cgroup) -> Result<()> {
        let members = cgroup.processes()?;
        self.processes
            .retain(|process| members.binary_search(&process.pid()).is_ok());
        Ok(())
    }

    /// The same in a tree: the parent of each is one of those that are `known`, or was when it was `listed`, before which
    /// the process has been started then.
    fn keep_descendants(&mut self, root: Pid, known: &BTreeSet<Pid>, listed: u64) {
        self.processes.retain(|process| {
            let pid = process.pid();
            let parent = proc::parent(pid).ok().flatten();
            pid == root
                || parent.is_some_and(|parent| known.contains(&parent))
                || proc::start_time_of_stopped(pid).is_ok_and(|started| started < listed)
        });
    }

    /// Complete, as their parents stand still.
    fn children(&self) -> Result<Vec<Pid>> {
        let mut children = Vec::new();
        for process in &self.processes {
            match proc::children(process.pid()) {
                Ok(pids) => children.extend(pids),
                // Killed meanwhile: its reading will fail.
                Err(e) if e.is_died() => {}
                Err(e) => return Err(e.during(Phase::Seize, process.pid())),
            }
        }
        Ok(children)
    }

    fn stop_cgroup(
        &mut self,
        cgroup: &Cgroup,
        timeout: Duration,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        if cgroup.processes()?.contains(&Pid::own()) {
            return Err(Error::new(
                format!("cgroup {}", cgroup.dir().shown()),
                Cause::Unsupported(
                    "this program is in the cgroup: start it from another cgroup".into(),
                ),
            ));
        }
        self.since = Instant::now();
        let Some(hold) = cgroup.hold(self.deadline)? else {
            // A hierarchy of v1 without a freezer: as a tree, until a whole pass finds nobody new.
            let mut known = BTreeSet::new();
            let mut next = parents_first(&cgroup.processes()?);
            while self.add_new(next, None, &mut known, timeout, progress)? {
                next = parents_first(&cgroup.processes()?);
            }
            return Ok(());
        };
        loop {
            let mut stopping = Vec::new();
            let (early, late): (Vec<Pid>, Vec<Pid>) = cgroup
                .processes()?
                .into_iter()
                .partition(|&pid| hold.can_be_seized(pid));
            let mut begun = begin_all(&early, self.deadline, &mut stopping, progress);
            // As soon as may be: until then, should this program be killed, calls could end with EINTR. What goes wrong
            // is seen below.
            if !hold.stops_when_thawed() {
                meet_all(&mut stopping);
            }
            // Whatever became of it: only who has stopped can be let go.
            hold.thaw()?;
            if begun.is_ok() {
                begun = begin_all(&late, self.deadline, &mut stopping, progress);
            }
            if hold.stops_when_thawed() {
                meet_all(&mut stopping);
            }
            let unfinished = self.wait_all(stopping)?;
            begun?;
            let Some((unfinished, why)) = unfinished else {
                self.hold = Some(hold);
                return Ok(());
            };
            // What its freezer held before is not let go.
            if hold.was_frozen() || Instant::now() >= self.deadline {
                hold.put_back()?;
                return Err(why);
            }
            self.processes.clear();
            for process in unfinished {
                process.wait(self.deadline).map_err(|late| late.why)?;
            }
            self.since = Instant::now();
            hold.freeze(self.deadline)?;
        }
    }

    /// Those that do not stop, and why.
    fn wait_all(
        &mut self,
        stopping: Vec<StoppingProcess>,
    ) -> Result<Option<(Vec<StoppingProcess>, Error)>> {
        let begun = Instant::now();
        let mut unfinished = self.wait_until(begun + SOON, stopping)?;
        if let Some((late, _)) = &unfinished
            && !late.iter().any(|process| waits_for_child(process.pid()))
        {
            let late = unfinished.take().map(|(late, _)| late);
            unfinished = self.wait_until(begun + STANDSTILL, late.unwrap_or_default())?;
        }
        Ok(unfinished)
    }

    fn wait_until(
        &mut self,
        deadline: Instant,
        stopping: Vec<StoppingProcess>,
    ) -> Result<Option<(Vec<StoppingProcess>, Error)>> {
        let mut unfinished = Vec::new();
        let mut first = None;
        for process in stopping {
            let pid = process.pid();
            let late = match process.wait(deadline) {
                Ok(process) => {
                    self.processes.push(process);
                    continue;
                }
                Err(late) => *late,
            };
            if matches!(late.why.cause(), Cause::Os(Errno::ETIMEDOUT)) {
                unfinished.push(late.stopping);
                first.get_or_insert(late.why);
            } else if !late.why.is_died() && proc::is_alive(pid) {
                return Err(late.why);
            }
        }
        Ok(first.map(|why| (unfinished, why)))
    }
}

fn begin_all(
    pids: &[Pid],
    deadline: Instant,
    stopping: &mut Vec<StoppingProcess>,
    progress: &mut dyn Progress,
) -> Result<()> {
    for &pid in pids {
        match StoppingProcess::begin(pid, deadline) {
            Ok(process) => stopping.push(process),
            Err(e) if e.is_died() || !proc::is_alive(pid) => {}
            Err(e) => return Err(e),
        }
        step(progress, Stage::Stop, stopping.len(), pids.len())?;
    }
    Ok(())
}

fn meet_all(stopping: &mut [StoppingProcess]) {
    let deadline = Instant::now() + SOON;
    for process in stopping {
        let _ = process.meet(deadline);
    }
}

/// Not a process of which a stop would lose a signal.
fn seize(pid: Pid, timeout: Duration) -> Result<StoppedProcess<ByUs>> {
    refuse_stop(pid)?;
    StoppedProcess::seize(pid, timeout)
}

/// Has one of its threads called vfork(2)?
fn waits_for_child(pid: Pid) -> bool {
    proc::threads(pid)
        .unwrap_or_default()
        .into_iter()
        .any(|tid| proc::is_in_vfork(pid, tid))
}

/// Parents before their children.
pub(super) fn parents_first(pids: &[Pid]) -> Vec<Pid> {
    /// Deeper trees are possible, and then what is further down is in any order.
    const DEPTH: usize = 1000;
    let depth = |pid: Pid| {
        std::iter::successors(Some(pid), |&pid| proc::parent(pid).ok().flatten())
            .take(DEPTH)
            .count()
    };
    let mut sorted: Vec<(usize, Pid)> = pids.iter().map(|&pid| (depth(pid), pid)).collect();
    sorted.sort_unstable();
    sorted.into_iter().map(|(_, pid)| pid).collect()
}
