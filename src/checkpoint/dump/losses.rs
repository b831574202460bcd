//! Warns about state that cannot be preserved, or fails the dump if so configured.

use std::sync::Arc;

use criu_signals_images::clocks::{Clocks, CpuLimit, TIMERFDS_LIMIT};
use criu_signals_images::{Pid, PosixTimer, ProcessState};
use nix::unistd::getpgid;

use super::process::Captured;
use super::{Dump, run_on};
use crate::checkpoint::options::{Overruns, TakeOut};
use crate::engine::capture::{self, Entries};
use crate::error::{Error, Result};
use crate::image_folder;
use crate::losses::notices::{Notice, Saying};
use crate::losses::parents::{self, Ties};
use crate::losses::timeouts::Anew;
use crate::losses::zombies::Status;
use crate::losses::{cpu_limit, files, timers, zombies};
use crate::proc;
use crate::state::dropped::{self, Found};
use crate::state::{
    cpu_clocks, cpu_limit as cpu_limit_of,
    overruns::{self, Uncounted},
    owners, timerfds as timerfds_of, timers as timers_of,
};
use crate::tracee::{ByHost, StoppedProcess};

impl Dump {
    pub(super) fn say_or_refuse(
        &mut self,
        sayings: impl IntoIterator<Item = Saying>,
    ) -> Result<()> {
        self.notices.say_or_refuse(&self.options.refuse, sayings)
    }

    /// Losses that concern the parent, and children that have ended.
    pub(super) fn say_what_parents_lose(&mut self, captured: &Captured<'_>) -> Result<()> {
        let (pid, state) = (captured.stopped.pid(), &captured.state);
        let ties = Ties::from_state(state);
        // The parent has to be read, and matters for few processes.
        let parent_is_dumped = ties.death_signal().is_some() && self.is_parent_handed(pid)?;
        self.process(pid).handed = true;
        self.root.get_or_insert(pid);
        for saying in parents::at_dump(pid, &ties, parent_is_dumped) {
            match saying.notice {
                Notice::ParentDeathSignal => {
                    self.notices.note_or_refuse(&self.options.refuse, &saying)?;
                }
                _ => self.say_or_refuse([saying])?,
            }
        }
        if !captured.has_zombies {
            return Ok(());
        }
        let restored = match self.outgoing {
            None => Status::restored,
            Some(_) => Status::restored_by_criu,
        };
        self.say_or_refuse(zombies::at_dump(
            pid,
            &zombies::ended_children(pid)?,
            restored,
        ))
    }

    /// CRIU hands over parents before their children.
    fn is_parent_handed(&self, pid: Pid) -> Result<bool> {
        let parent = proc::parent(pid)?;
        Ok(parent.is_some_and(|parent| self.processes.get(&parent).is_some_and(|one| one.handed)))
    }

    /// Losses of system calls that begin anew with their whole timeout.
    pub(super) fn say_what_begins_anew(&mut self, pid: Pid, state: &ProcessState) -> Result<()> {
        match Anew::find(state, self.options.long_timeout) {
            Some(anew) if anew.is_long() => self.say_or_refuse([anew.at_dump(pid)])?,
            Some(anew) => self
                .notices
                .note(Notice::WholeTimeout, &anew.at_dump(pid).what),
            None => {}
        }
        Ok(())
    }

    /// Losses of SIGIO owners of files, and of clocks.
    pub(super) fn look_at_files(&mut self, pid: Pid, state: &mut ProcessState) -> Result<()> {
        let cpu = cpu_limit_of::capture(pid)?;
        self.say_or_refuse(cpu_limit::at_dump(pid, state, &cpu))?;
        let looked = match owners::look(pid) {
            Ok(looked) => looked,
            Err(e) if e.is_died() => return Err(e),
            Err(e) => return self.say_or_refuse([files::unseen_files(pid, state, &e.to_string())]),
        };
        self.process(pid).corrections.timerfds = !looked.timerfds.is_empty();
        state.clocks = clocks_of(pid, cpu, &looked.timerfds)?;
        if looked.owners.is_empty() {
            return Ok(());
        }
        let dumped = self.dumped_beside(state)?;
        self.say_or_refuse(files::files(pid, state, &looked, &dumped))?;
        let unwanted = looked.owners.iter().filter(|owner| !dumped.is_there(owner));
        self.process(pid).corrections.unwanted =
            unwanted.map(|owner| (owner.kind, owner.id)).collect();
        state.file_owners = looked.owners;
        Ok(())
    }

    /// The dumped processes in the same pid namespace as `process`. All are stopped, so one look is enough.
    fn dumped_beside(&mut self, process: &ProcessState) -> Result<Arc<files::Dumped>> {
        if let Some(known) = self.dumped.get(&process.pid_ns) {
            return Ok(known.clone());
        }
        let mut all = self.root.map(proc::tree).unwrap_or_default();
        all.retain(|&pid| proc::pid_namespace_of_stopped(pid).is_ok_and(|ns| ns == process.pid_ns));
        let found = Arc::new(files::Dumped {
            processes: innermost(&all)?,
            groups: groups(&all)?,
        });
        self.dumped.insert(process.pid_ns, found.clone());
        Ok(found)
    }

    /// Completes the state of the timers, and logs what cannot be preserved.
    pub(super) fn look_at_timers(&mut self, captured: &mut Captured<'_>) -> Result<()> {
        if self.options.take_out != TakeOut::Never {
            self.look_for_dropped(captured)?;
        }
        if captured.state.timers.is_empty() {
            return Ok(());
        }
        let perhaps = self.perhaps_pending(captured)?;
        let Captured {
            stopped,
            state,
            timers: told,
            ..
        } = captured;
        let pid = stopped.pid();
        let dumped = self.dumped_beside(state)?;
        let is_dumped = |other| dumped.processes.contains(&other);
        let known = cpu_clocks::take(state, told.as_deref().unwrap_or_default());
        let counts = self.options.overruns == Overruns::Count;
        let is_counted = |state: &ProcessState, timer: &PosixTimer| {
            counts && overruns::is_counted(state, timer, run_on::may_run_on())
        };
        let unclear = cpu_clocks::resolve(stopped, state, &perhaps, &known, is_counted, is_dumped)?;
        self.say_or_refuse(timers::clocks(pid, state, &unclear))?;
        for what in timers::tell_nobody(pid, state) {
            self.notices.note(Notice::Timer, &what);
        }
        self.say_or_refuse(timers::unseen(pid, state, told.is_some())?)?;
        self.count_overruns(captured)?;
        let state = &mut captured.state;
        self.say_or_refuse(timers::of_new_clocks(pid, state))?;
        let of_threads = |timer: &PosixTimer| timer.clock < 0 || timer.thread().is_some();
        if state.timers.iter().any(of_threads) {
            self.process(pid)
                .corrections
                .timers
                .clone_from(&state.timers);
        }
        Ok(())
    }

    fn count_overruns(&mut self, captured: &mut Captured<'_>) -> Result<()> {
        let Captured {
            stopped,
            state,
            entries,
            timers: told,
            ..
        } = captured;
        let pid = stopped.pid();
        let sayings = match (entries, self.options.overruns) {
            // Losses of timers depend on their entries; see `look_at_timers_again`.
            (Entries::Unread, _) => return Ok(()),
            (_, Overruns::Leave) => timers::not_counted(pid, state, &timers::nobody_asked()),
            (Entries::Known, Overruns::Count) => {
                let left = known_overruns(stopped, state, told.as_deref())?;
                timers::uncounted(pid, state, &left)
            }
        };
        self.say_or_refuse(sayings)
    }

    /// Timers of a process with a queue that was too deep to be read and is taken out now: `all` is the state with that
    /// queue. The entries that stay in the process, those of timers among them, are few now, and are handled as in other
    /// processes.
    pub(super) fn look_at_timers_again(
        &mut self,
        stopped: &StoppedProcess<ByHost>,
        all: &mut ProcessState,
    ) -> Result<()> {
        timers_of::find_in_queues(all);
        if self.options.overruns == Overruns::Leave
            || !all.timers.iter().any(timers_of::is_countable)
        {
            return self.say_what_is_unread(all);
        }
        let (mut rest, entries) = capture::unless_deeper(stopped, self.options.limits.deep)?;
        if entries == Entries::Unread {
            return self.say_what_is_unread(all);
        }
        // State that was seen before the stop.
        rest.timers.clone_from(&all.timers);
        let read = self.timers_by_bpf.read(stopped.pid());
        let told = read.as_ref().map(|read| read.timers.as_slice());
        let left = known_overruns(stopped, &mut rest, told)?;
        all.timers = rest.timers;
        self.say_or_refuse(timers::uncounted(all.pid(), all, &left))
    }

    /// Losses of timers in a process with a queue that was too deep to be read, and that is left to CRIU wholly or in part.
    pub(super) fn say_what_is_unread(&mut self, state: &ProcessState) -> Result<()> {
        let pid = state.pid();
        let why = match self.options.overruns {
            Overruns::Leave => timers::nobody_asked(),
            Overruns::Count => "the queue is too deep to be read".to_owned(),
        };
        let mut sayings = timers::not_counted(pid, state, &why);
        sayings.extend(timers::unread(pid, state));
        self.say_or_refuse(sayings)
    }

    fn with_shallow_queues(
        &self,
        stopped: &StoppedProcess<ByHost>,
        state: &ProcessState,
    ) -> Result<ProcessState> {
        let mut others = state.clone();
        capture::shallow_queues(stopped, &mut others, self.options.limits.deep)?;
        Ok(others)
    }

    /// Timers whose entries may be pending in a deep queue, which was not read.
    fn perhaps_pending(&self, captured: &Captured<'_>) -> Result<Vec<i32>> {
        if captured.entries == Entries::Known {
            return Ok(Vec::new());
        }
        let state = self.with_shallow_queues(captured.stopped, &captured.state)?;
        let timers = state.timers.iter();
        let perhaps = timers.filter(|timer| timers_of::may_be_pending(&state, timer));
        Ok(perhaps.map(|timer| timer.id).collect())
    }

    /// Entries of deleted timers. CRIU's images have them as entries of a sender, until the restore corrects that.
    fn look_for_dropped(&mut self, captured: &mut Captured<'_>) -> Result<()> {
        let Captured {
            stopped,
            state,
            entries,
            ..
        } = captured;
        let pid = stopped.pid();
        let Found { unclear, renamed } = match entries {
            Entries::Known => dropped::find(stopped, state)?,
            // Those that are deep are looked through when they are taken out.
            Entries::Unread => {
                let mut others = self.with_shallow_queues(stopped, state)?;
                let found = dropped::find(stopped, &mut others)?;
                state.deleted_timers = others.deleted_timers;
                found
            }
        };
        for one in &renamed {
            self.notices
                .note(Notice::Timer, &timers::renamed(pid, state, one));
        }
        let unclear = unclear.iter().map(|one| timers::perhaps(pid, state, one));
        self.say_or_refuse(unclear.collect::<Vec<_>>())
    }
}

/// Finds the overruns of pending timers in `state`, without injected calls if BPF can read them. Returns the losses.
fn known_overruns(
    stopped: &StoppedProcess<ByHost>,
    state: &mut ProcessState,
    told: Option<&[PosixTimer]>,
) -> Result<Vec<(i32, Uncounted)>> {
    if !state.timers.iter().any(timers_of::is_countable) {
        return Ok(Vec::new());
    }
    let mut left = overruns::take(state, told.unwrap_or_default());
    left.extend(overruns::count(stopped, state, run_on::may_run_on())?);
    Ok(left)
}

/// `None` if not all timerfds can be read, or not all be recorded. CRIU dumps them all the same.
fn clocks_of(pid: Pid, cpu: CpuLimit, timerfds: &[i32]) -> Result<Option<Clocks>> {
    let timerfds = if timerfds.len() > TIMERFDS_LIMIT {
        Ok(None)
    } else {
        timerfds_of::capture(pid, timerfds)
    };
    let why = match timerfds {
        Ok(Some(timerfds)) => {
            return Ok(Some(Clocks {
                cpu,
                timerfds,
                not_looked_at: 0,
            }));
        }
        Ok(None) => {
            format!("there are more than {TIMERFDS_LIMIT}, or the kernel does not tell their times")
        }
        Err(e) if e.is_died() => return Err(e),
        Err(e) => e.to_string(),
    };
    log::warn!(
        "pid {pid}: the image does not record the timerfds and RLIMIT_CPU ({why}): criu restores them, and the restore \
         does not compare them"
    );
    Ok(None)
}

/// The ids of processes in their own namespace.
fn innermost(pids: &[Pid]) -> Result<Vec<i32>> {
    pids.iter()
        .map(|&pid| image_folder::innermost(pid))
        .collect()
}

/// Their process groups.
fn groups(pids: &[Pid]) -> Result<Vec<i32>> {
    let group = |pid: &Pid| {
        let group = getpgid(Some(nix::unistd::Pid::from_raw(pid.get())))
            .map_err(|errno| Error::os("getpgid", errno))?
            .as_raw();
        // A group may have lost its leader.
        let innermost = Pid::new(group).and_then(|leader| image_folder::innermost(leader).ok());
        Ok(innermost.unwrap_or(group))
    };
    pids.iter().map(group).collect()
}
