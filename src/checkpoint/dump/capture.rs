//! The steps of a dump between the moment when CRIU hands a process to the plugin and the moment when CRIU dumps the
//! process.

use criu_signals_images::{Pid, ProcessState, Rlimit, RunState, TakenOut};
use nix::sys::resource::{Resource, getrlimit};

use super::Dump;
use super::process::{Captured, Completed, Confirmed, Secured};
use crate::checkpoint::custody::{self, Custody, Safe};
use crate::checkpoint::options::TakeOut;
use crate::engine::capture::{self, Entries, Known};
use crate::error::{Cause, Error, Result};
use crate::fault::{self, Point};
use crate::image_folder::InFolder;
use crate::losses::{call_eintr, call_masks};
use crate::proc;
use crate::tracee::{ByHost, StoppedProcess};

impl Dump {
    pub(super) fn try_capture(&mut self, pid: Pid) -> Result<ProcessState> {
        let stopped = StoppedProcess::<ByHost>::of_host(pid)?;
        let process = self.process(pid);
        process.forget_former();
        let waiting = std::mem::take(&mut process.waiting);
        let confirmed = Confirmed::new(&stopped, waiting)?;
        if confirmed.needs_blocks()? {
            self.by_bpf.need();
        }
        let read = self.timers_by_bpf.read(pid);
        let known = Known {
            told: self.by_bpf.for_process(pid),
            read: read.as_ref(),
        };
        let captured = confirmed.capture(&self.options, known)?;
        let completed = self.complete(captured)?;
        fault::point(Point::DumpCaptured)?;
        let secured = self.secure(completed)?;
        secured.finish(self.process(pid))
    }

    /// Adds to the state what the process itself does not tell, and logs what cannot be preserved.
    fn complete<'p>(&mut self, mut captured: Captured<'p>) -> Result<Completed<'p>> {
        let pid = captured.stopped.pid();
        // Before signals are taken out.
        self.say_what_parents_lose(&captured)?;
        self.look_at_files(pid, &mut captured.state)?;
        let process = self.process(pid);
        process.captured = Some(captured.state.ids.innermost());
        if let Some(before) = &process.before
            && before.still(captured.stopped)?
        {
            before.complete(&mut captured.state);
        }
        self.look_at_timers(&mut captured)?;
        self.wait_statuses
            .complete(&mut captured.state, "criu stopped it")?;
        let process = self.process(pid);
        process.stopped_since =
            matches!(captured.state.run_state, RunState::Stopped(_)) && process.before.is_none();
        let mut lost = std::mem::take(&mut process.lost_masks);
        lost.extend_from_slice(captured.lost_masks());
        self.say_or_refuse(call_masks::at_dump(pid, &captured.state, &lost))?;
        let mut ended = std::mem::take(&mut self.process(pid).ended_calls);
        ended.extend_from_slice(captured.ended_calls());
        let completed = captured.complete()?;
        self.say_or_refuse(call_eintr::at_dump(pid, &completed.state, &ended))?;
        self.say_what_begins_anew(pid, &completed.state)?;
        Ok(completed)
    }

    /// Writes the image, and takes out the signals that CRIU can't handle, in the order that loses nothing.
    fn secure<'p>(&mut self, completed: Completed<'p>) -> Result<Secured<'p>> {
        let Completed {
            stopped,
            calls,
            mut state,
            entries,
        } = completed;
        let pid = stopped.pid();
        self.plan(stopped, &mut state, entries)?;
        self.refuse_corrections(pid)?;
        let takes_out = !state.taken_out.is_empty();
        let earlier = &self.process(pid).custody;
        if !earlier.is_empty() {
            state.taken_out.push(TakenOut::Trap);
            if entries == Entries::Known {
                earlier.iter().for_each(|one| one.add_to(&mut state));
            }
        }
        let (state, image) = if takes_out {
            self.take_out(stopped, state, entries)?
        } else {
            if entries == Entries::Unread {
                self.say_what_is_unread(&state)?;
            }
            let image = if state.taken_out.is_empty() {
                self.write(pid, state.clone())?
            } else {
                self.write_to_disk(pid, state.clone())?.into_in_folder()
            };
            (state, image)
        };
        Ok(Secured::new(stopped, calls, state, &image))
    }

    /// What has to be done about the pending signals for the duration of the dump.
    fn plan(
        &mut self,
        stopped: &StoppedProcess<ByHost>,
        state: &mut ProcessState,
        entries: Entries,
    ) -> Result<()> {
        if self.options.take_out == TakeOut::Never {
            return Ok(());
        }
        let limits = &self.options.limits;
        let plan = custody::plan(state, entries, limits, proc::may_raise_limits, || {
            capture::has_fault(stopped, state)
        })?;
        if plan.lend_room {
            self.may_take_out("RLIMIT_SIGPENDING leaves too little room")?;
            let limit = lendable(state)?;
            self.process(state.pid()).corrections.lent_room = Some(limit);
            state.lent_limit = Some(limit);
        }
        state.taken_out = plan.take_out;
        Ok(())
    }

    /// Takes pending signals out and writes the image. Returns the whole state.
    fn take_out(
        &mut self,
        stopped: &StoppedProcess<ByHost>,
        state: ProcessState,
        entries: Entries,
    ) -> Result<(ProcessState, InFolder)> {
        let pid = stopped.pid();
        let why: Vec<String> = state.taken_out.iter().map(ToString::to_string).collect();
        let why = why.join(", ");
        self.may_take_out(&why)?;
        let (all, image) = match entries {
            Entries::Known => {
                let image = self.write_to_disk(pid, state.clone())?;
                let held = &mut self.process(pid).custody;
                let custody = Custody::take(stopped, state, Safe::OnDisk(&image), held)?;
                let all = custody.state().clone();
                held.push(custody);
                (all, image)
            }
            Entries::Unread => {
                let held = &mut self.process(pid).custody;
                let custody = Custody::take(stopped, state, Safe::WithGuardian, held)?;
                let mut all = custody.state().clone();
                held.iter().for_each(|before| before.add_to(&mut all));
                held.push(custody);
                self.look_at_timers_again(stopped, &mut all)?;
                let image = self.write_to_disk(pid, all.clone())?;
                (all, image)
            }
        };
        log::info!("pid {pid}: pending signals taken out until the end of the dump: {why}");
        Ok((all, image.into_in_folder()))
    }
}

/// The highest limit that a criu with the same rights can set: its own hard limit, or the limit of the process.
fn lendable(state: &ProcessState) -> Result<Rlimit> {
    let (_, hard) = getrlimit(Resource::RLIMIT_SIGPENDING)
        .map_err(|errno| Error::os("getrlimit(RLIMIT_SIGPENDING)", errno))?;
    let hard = hard.max(state.rlimit_sigpending.hard);
    let timers = state.timers.len() as u64;
    let hard = enough_for_timers(hard, timers, proc::may_raise_limits()?)?;
    Ok(Rlimit { soft: hard, hard })
}

/// Without a siginfo a signal is still pending; without its entry there is no timer, and no restore.
fn enough_for_timers(hard: u64, timers: u64, may_raise: bool) -> Result<u64> {
    if timers <= hard {
        return Ok(hard);
    }
    if may_raise {
        return Ok(Rlimit::INFINITY);
    }
    let why = format!(
        "{timers} POSIX timers are charged to RLIMIT_SIGPENDING, but criu can set at most {hard} at the restore, and \
         the restore would fail: raise criu's hard limit, or run criu with CAP_SYS_RESOURCE"
    );
    Err(Error::new(
        "raise RLIMIT_SIGPENDING for timers",
        Cause::Unsupported(why.into()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_that_no_restore_could_make_are_not_dumped() {
        assert_eq!(enough_for_timers(20, 20, false).unwrap(), 20);
        assert_eq!(enough_for_timers(5, 20, true).unwrap(), Rlimit::INFINITY);
        let refused = enough_for_timers(5, 20, false).unwrap_err().to_string();
        assert!(refused.contains("raise criu's hard limit"), "{refused}");
    }
}
