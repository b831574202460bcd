//! `criu dump`: every task's signal state, captured when all are stopped and none has been dumped.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::checkpoint::custody::{self, Custody};
use crate::checkpoint::guardian::Guardian;
use crate::checkpoint::stray_stop::{self, LetGo};
use crate::criu::{HookError, Host, Inventory, contain};
use crate::engine::capture;
use crate::engine::repair;
use crate::engine::repair::Done;
use crate::engine::stops::{Before, WaitStatuses, count_arrived_stop};
use crate::error::{Cause, Error, Phase, Result};
use crate::fault::{self, Point};
use crate::image_folder;
use crate::image_folder::corrections;
use crate::image_folder::corrections::Corrected;
use crate::log_lines;
use crate::proc;
use crate::run_report::{Document, Outcome, Process};
use crate::state::asleep::{self, Asleep};
use crate::state::dropped::{self, Dropped, Found};
use crate::state::interrupted::{self, HandedOver};
use crate::state::{cpu_clocks, overruns, owners};
use crate::tracee::{Budget, ByHost, ByUs, StoppedProcess};
use criu_signals_images::criu_files::Owner;
use criu_signals_images::{
    Image, Pid, PosixTimer, ProcessState, Rlimit, RunState, SigNo, TakenOut, Tid, image,
};
use nix::fcntl::AtFlags;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, getpgid, unlinkat};

use crate::checkpoint::INVENTORY_NAME;
use crate::checkpoint::options::{Options, Overruns, TakeOut};
use crate::checkpoint::recorder::Recorder;
use crate::checkpoint::run_on;
use crate::losses::notices::{Notice, Notices, Saying};
use crate::losses::parents::{self, Ties};
use crate::losses::timeouts::Anew;
use crate::losses::{cpu_limit, files, timers, zombies};
use crate::setting_names::{REFUSE, TAKE_OUT};

/// How long a thread may take to stop where CRIU has not stopped it.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What a dump has done so far.
pub struct Dump {
    host: Host,
    options: Options,
    /// Will a restore be refused without this plugin?
    recorded: bool,
    /// File names in the image folder.
    written: Vec<String>,
    /// The processes, by their pids in their own namespaces.
    captured: Vec<i32>,
    /// Signals that are with us for the time of the dump.
    custody: HashMap<Pid, Vec<Custody>>,
    /// Processes that were stopped before CRIU seized them.
    before: HashMap<Pid, Before>,
    /// Processes that have been stopped since they were looked at.
    stopped: Vec<Pid>,
    wait_statuses: WaitStatuses,
    root_seen: bool,
    /// Processes whose queues CRIU can restore only under a larger RLIMIT_SIGPENDING, by their pids in their own
    /// namespaces.
    lent_room: Vec<(i32, Rlimit)>,
    /// Timers that CRIU's images may give another clock or another thread, by the process's pid in its own namespace.
    timers: Vec<(i32, Vec<PosixTimer>)>,
    /// Owners of files, as F_SETOWN_EX has them, that CRIU can't set.
    unwanted: Vec<(u32, i32)>,
    /// Has any of the processes a timerfd?
    timerfds: bool,
    /// Processes that ignore SIGTRAP. The trap that ends CRIU's own code in them makes that SIG_DFL (force_sig), and
    /// CRIU looks at dispositions only after the first of them.
    trap_ignored: Vec<TrapIgnored>,
    /// System calls that CRIU has to find in another state than the one that they were captured in.
    handed_over: Vec<HandedOver>,
    /// Entries of timers that are gone, and the threads whose queues they were in.
    dropped: Vec<(Pid, Dropped, Option<Tid>)>,
    /// Threads that waited when they had not been stopped yet.
    asleep: HashMap<Pid, Vec<Asleep>>,
    /// Processes that criu was about to seize.
    looked_at: Vec<Pid>,
    /// The processes, as criu sees them.
    handed: Vec<Pid>,
    notices: Notices,
    recorder: Recorder,
}

/// Where criu meets criu-image-streamer, in the image folder: criu/img-streamer.c.
const STREAMER: &str = "streamer-capture.sock";

/// With `--stream` CRIU's images go to that socket, and the folder is no more than its place. CRIU gives plugins the folder
/// only: images that lie there are not in the stream, and a restore would miss them.
fn refuse_stream(host: &Host) -> std::result::Result<(), HookError> {
    let dir = host.image_dir()?;
    let found = fstatat(dir, STREAMER, AtFlags::AT_SYMLINK_NOFOLLOW);
    if found.is_ok_and(|file| {
        SFlag::from_bits_truncate(file.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFSOCK
    }) {
        return Err(Error::new(
            "criu-image-streamer takes the images of this dump (--stream)",
            Cause::Unsupported(
                format!(
                    "criu has no way to send it a plugin's, and without these signals would be lost at the restore. \
                     Dump into a folder and send that, or remove {STREAMER} if nothing is streamed"
                )
                .into(),
            ),
        )
        .into());
    }
    Ok(())
}

impl Dump {
    /// Begins a dump.
    ///
    /// # Errors
    /// If images are streamed, or CRIU can't note that the restore needs this plugin.
    pub fn begin(
        host: Host,
        options: Options,
        recorder: Recorder,
    ) -> std::result::Result<Dump, HookError> {
        refuse_stream(&host)?;
        fault::point(Point::DumpBegin)?;
        let recorded = host.add_inventory_plugin(INVENTORY_NAME)? == Inventory::Recorded;
        if !recorded {
            log::info!(
                "this criu keeps no list of plugins: restore with --libdir, or nothing is checked"
            );
        }
        Ok(Dump {
            host,
            options,
            recorded,
            written: Vec::new(),
            captured: Vec::new(),
            custody: HashMap::new(),
            before: HashMap::new(),
            stopped: Vec::new(),
            wait_statuses: WaitStatuses::default(),
            root_seen: false,
            lent_room: Vec::new(),
            timers: Vec::new(),
            unwanted: Vec::new(),
            timerfds: false,
            trap_ignored: Vec::new(),
            handed_over: Vec::new(),
            dropped: Vec::new(),
            asleep: HashMap::new(),
            looked_at: Vec::new(),
            handed: Vec::new(),
            notices: Notices::default(),
            recorder,
        })
    }

    /// Looks at a process that CRIU seizes next. The first is the root: with `--freeze-cgroup`, CRIU freezes all
    /// others before their turn, and what a freezer of cgroup v1 holds can't be looked at. So all have their turn now.
    pub fn before_seize(&mut self, pid: Pid) {
        if self.root_seen {
            self.look(pid);
            return;
        }
        self.root_seen = true;
        for pid in proc::tree(pid) {
            self.look(pid);
        }
    }

    fn look(&mut self, pid: Pid) {
        let _budget = Budget::of_process();
        if !self.looked_at.contains(&pid) {
            self.looked_at.push(pid);
        }
        // Of the dump before, if that was a moment ago. What is gone is noticed by what comes next.
        let _ = stray_stop::wait_until_put_right(pid);
        self.forget_former(pid);
        if let Err(e) = fault::point(Point::DumpLook) {
            return log::warn!("{e}");
        }
        self.look_at_stop(pid);
        self.take_trap(pid);
        // Last: how long it has been waiting can't be seen any more when it has been stopped once more.
        let waiting = asleep::look(pid);
        if !waiting.is_empty() {
            self.asleep.insert(pid, waiting);
        }
        if let Err(e) = fault::point(Point::DumpLooked) {
            log::warn!("{e}");
        }
    }

    /// What is known of a process that had this number before, and has ended.
    fn forget_former(&mut self, pid: Pid) {
        if self
            .before
            .get(&pid)
            .is_some_and(|one| one.check().is_err())
        {
            self.before.remove(&pid);
        }
        if let Some(held) = self.custody.get_mut(&pid) {
            held.retain(|custody| custody.held().check().is_ok());
            if held.is_empty() {
                self.custody.remove(&pid);
            }
        }
    }

    fn look_at_stop(&mut self, pid: Pid) {
        if self.before.contains_key(&pid) && proc::is_frozen(pid).unwrap_or(false) {
            return;
        }
        match Before::look(pid) {
            Ok(None) => {
                self.before.remove(&pid);
            }
            Ok(Some(found)) => {
                if let Some(signal) = found.changed_over() {
                    log::info!(
                        "pid {pid}: stopped by {signal}: put into a plain stop by SIGSTOP for the time of the dump, \
                         because criu dumps no other, or takes pending signals away where stop signals are among them"
                    );
                }
                match self.before.entry(pid) {
                    Entry::Occupied(mut known) => known.get_mut().looked_again(found),
                    Entry::Vacant(place) => {
                        place.insert(found);
                    }
                }
            }
            Err(e) if e.is_died() => {}
            // CRIU says what it can't dump. What it can is dumped as it shows after the seize.
            Err(e) => log::warn!("{e}"),
        }
    }

    /// Captures one process and writes its image.
    ///
    /// # Errors
    /// Those of the capture. An error aborts the dump, and the tasks run on.
    pub fn capture(&mut self, pid: Pid) -> std::result::Result<(), HookError> {
        let started = Instant::now();
        let _budget = Budget::of_process();
        let captured = self
            .try_capture(pid)
            .map_err(|e| e.during(Phase::Capture, pid));
        let mut process = match &captured {
            Ok(state) => captured_process(state),
            Err(e) => {
                // Said in the log by whoever gets the error.
                self.recorder.refuse();
                Process {
                    pid_in_namespace: image_folder::innermost(pid).ok(),
                    errors: vec![e.to_string()],
                    ..Process::new(Outcome::Refused)
                }
            }
        };
        process.pid = Some(pid.get());
        process.notices = self.notices.take_said();
        self.recorder.process(process, started);
        captured.map(|_| ()).map_err(HookError::from)
    }

    /// Says what can't be kept, or refuses it, as the settings will have it.
    fn say(&mut self, pid: Pid, process: &ProcessState) -> Result<()> {
        // CRIU hands over parents before their children.
        let parent = proc::parentage(pid)?.parent;
        let parent_is_dumped = parent.is_some_and(|parent| self.handed.contains(&parent));
        self.handed.push(pid);
        self.say_or_refuse(parents::at_dump(pid, &Ties::of(process), parent_is_dumped))?;
        self.say_or_refuse(zombies::at_dump(pid, &zombies::of(pid)?))
    }

    fn say_or_refuse(&mut self, sayings: impl IntoIterator<Item = Saying>) -> Result<()> {
        for saying in sayings {
            let Saying {
                notice,
                what,
                advice,
            } = saying;
            if self.options.refuse.includes(notice) {
                let refused = format!("refused, as {REFUSE} lists {notice}. Else: {advice}");
                return Err(Error::new(what, Cause::Unsupported(refused.into())));
            }
            let what = format!(
                "{what}. What to do: {advice}; or {REFUSE}={notice}, and such a dump fails"
            );
            self.notices.say(notice, &what);
        }
        Ok(())
    }

    fn try_capture(&mut self, pid: Pid) -> Result<ProcessState> {
        let stopped = StoppedProcess::<ByHost>::of_host(pid)?;
        self.forget_former(pid);
        refuse_dispatch(&stopped)?;
        // Before anything runs in it, after which nobody could tell how it was stopped.
        let anew = interrupted::shield(&stopped)?;
        let seen = self.asleep.remove(&pid).unwrap_or_default();
        let waited = asleep::confirm(&stopped, &seen);
        let limits = self.options.limits;
        let (mut state, deep) = match self.options.take_out {
            TakeOut::Never => (capture::process(&stopped)?, false),
            TakeOut::Auto | TakeOut::Always => capture::unless_deeper(&stopped, limits.deep)?,
        };
        // Before anything is taken out.
        self.say(pid, &state)?;
        self.look_at_files(pid, &mut state)?;
        self.captured.push(state.ids.innermost());
        if let Some(before) = self.before.get(&pid)
            && before.still(&stopped)?
        {
            before.complete(&mut state);
        }
        self.look_at_timers(&stopped, &mut state, deep)?;
        state.wait_status = self.wait_statuses.of(pid)?;
        if count_arrived_stop(&mut state) {
            log::info!("pid {pid}: a SIGSTOP has arrived since criu stopped it, and is in effect");
        }
        if matches!(state.run_state, RunState::Stopped(_)) && !self.before.contains_key(&pid) {
            self.stopped.push(pid);
        }
        interrupted::complete(&stopped, &mut state, &waited, &anew)?;
        match Anew::of(&state, self.options.long_timeout) {
            Some(anew) if anew.is_long() => self.say_or_refuse([anew.at_dump(pid)])?,
            Some(anew) => self
                .notices
                .note(Notice::WholeTimeout, &anew.at_dump(pid).what),
            None => {}
        }
        fault::point(Point::DumpCaptured)?;
        if self.options.take_out != TakeOut::Never {
            let plan = custody::plan(&state, deep, &limits, proc::may_raise_limits()?)?;
            if plan.lend_room {
                self.may_take_out("RLIMIT_SIGPENDING leaves too little room")?;
                let limit = lendable(&state)?;
                self.lent_room.push((state.ids.innermost(), limit));
                state.lent_limit = Some(limit);
            }
            state.taken_out = plan.take_out;
        }
        let more = !state.taken_out.is_empty();
        if let Some(before) = self.custody.get(&pid) {
            state.taken_out.push(TakenOut::Trap);
            if !deep {
                before.iter().for_each(|custody| custody.add_to(&mut state));
            }
        }
        let state = if more {
            self.take_out(&stopped, state, deep)?
        } else {
            self.write(pid, state.clone())?;
            state
        };
        if state.dispositions[SigNo::TRAP].is_ignored() {
            self.trap_ignored.push(TrapIgnored::watched(pid, &state));
        }
        // From here on CRIU goes by what it finds.
        fault::point(Point::HandingOver)?;
        self.handed_over.push(interrupted::hand_over(
            &stopped,
            interrupted::calls(&state),
        )?);
        fault::point(Point::HandedOver)?;
        Ok(state)
    }

    /// Whom the SIGIO of its files goes to, and what else goes by time.
    fn look_at_files(&mut self, pid: Pid, state: &mut ProcessState) -> Result<()> {
        if let Some(seconds) = proc::cpu_limit(pid)? {
            self.say_or_refuse([cpu_limit::at_dump(pid, state, seconds)])?;
        }
        let looked = match owners::look(pid) {
            Ok(looked) => looked,
            Err(e) if e.is_died() => return Err(e),
            Err(e) => return self.say_or_refuse([files::unseen_files(pid, state, &e.to_string())]),
        };
        self.timerfds |= !looked.timerfds.is_empty();
        if looked.owners.is_empty() {
            return Ok(());
        }
        let dumped = files::Dumped {
            processes: self.dumped_in(state)?,
            groups: self.groups_in(state)?,
        };
        self.say_or_refuse(files::files(pid, state, &looked, &dumped))?;
        let unwanted = looked.owners.iter().filter(|owner| !dumped.is_there(owner));
        self.unwanted
            .extend(unwanted.map(|owner| (owner.kind, owner.id)));
        state.file_owners = looked.owners;
        Ok(())
    }

    /// As [`dumped_in`](Self::dumped_in), the process groups.
    fn groups_in(&self, process: &ProcessState) -> Result<Vec<i32>> {
        let Some(&root) = self.handed.first() else {
            return Ok(Vec::new());
        };
        let mut groups = Vec::new();
        for pid in proc::tree(root) {
            if !proc::pid_namespace(pid).is_ok_and(|ns| ns == process.pid_ns) {
                continue;
            }
            let group = getpgid(Some(nix::unistd::Pid::from_raw(pid.get())))
                .map_err(|errno| Error::os("getpgid", errno))?
                .as_raw();
            // A group may have lost its leader.
            let innermost = Pid::new(group).and_then(|leader| image_folder::innermost(leader).ok());
            groups.push(innermost.unwrap_or(group));
        }
        Ok(groups)
    }

    /// Completes the timers, and says what of them can't be kept.
    fn look_at_timers(
        &mut self,
        stopped: &StoppedProcess<ByHost>,
        state: &mut ProcessState,
        deep: bool,
    ) -> Result<()> {
        if !deep && self.options.take_out != TakeOut::Never {
            self.look_for_dropped(stopped, state)?;
        }
        if state.timers.is_empty() {
            return Ok(());
        }
        let pid = stopped.pid();
        let dumped = self.dumped_in(state)?;
        let unclear = cpu_clocks::resolve(stopped, state, |other| dumped.contains(&other))?;
        self.say_or_refuse(timers::clocks(pid, state, &unclear))?;
        for what in timers::tell_nobody(pid, state) {
            self.notices.note(Notice::Timer, &what);
        }
        self.say_or_refuse(timers::unseen(pid, state)?)?;
        // A deep queue's entries are not known here, and timers' are told by them.
        let sayings = if deep {
            timers::not_counted(pid, state, "the queue is too deep to be read")
        } else if self.options.overruns == Overruns::Leave {
            timers::not_counted(pid, state, &timers::nobody_asked())
        } else {
            let left = overruns::count(stopped, state, run_on::may_run_on())?;
            timers::uncounted(pid, state, &left)
        };
        self.say_or_refuse(sayings)?;
        self.say_or_refuse(timers::of_new_clocks(pid, state))?;
        let of_threads = |timer: &PosixTimer| timer.clock < 0 || timer.thread().is_some();
        if state.timers.iter().any(of_threads) {
            self.timers
                .push((state.ids.innermost(), state.timers.clone()));
        }
        Ok(())
    }

    /// Entries of timers that are gone. What the kernel drops is not to be in CRIU's images.
    fn look_for_dropped(
        &mut self,
        stopped: &StoppedProcess<ByHost>,
        state: &mut ProcessState,
    ) -> Result<()> {
        let pid = stopped.pid();
        let Found { dropped, unclear } = dropped::find(stopped, state)?;
        for one in dropped {
            self.notices
                .note(Notice::Timer, &timers::dropped(pid, state, &one));
            let thread = one.thread.and_then(|id| {
                let mut threads = state.threads.iter();
                threads.find(|thread| thread.ids.innermost() == id)
            });
            self.dropped.push((pid, one, thread.map(|t| t.tid())));
        }
        let unclear = unclear.iter().map(|one| timers::perhaps(pid, state, one));
        self.say_or_refuse(unclear.collect::<Vec<_>>())
    }

    /// The ids of the dumped processes that are in the same pid namespace as `process`, in that namespace.
    fn dumped_in(&self, process: &ProcessState) -> Result<Vec<i32>> {
        let Some(&root) = self.handed.first() else {
            return Ok(Vec::new());
        };
        let mut ids = Vec::new();
        for pid in proc::tree(root) {
            if proc::pid_namespace(pid).is_ok_and(|ns| ns == process.pid_ns) {
                ids.push(image_folder::innermost(pid)?);
            }
        }
        Ok(ids)
    }

    /// Takes pending signals out and writes the image, in the order that loses nothing. Returns the whole state.
    fn take_out(
        &mut self,
        stopped: &StoppedProcess<ByHost>,
        state: ProcessState,
        deep: bool,
    ) -> Result<ProcessState> {
        let pid = stopped.pid();
        let why: Vec<String> = state.taken_out.iter().map(ToString::to_string).collect();
        let why = why.join(", ");
        self.may_take_out(&why)?;
        // What is taken out is on disk before, or in the guardian's hands where nobody knows it yet.
        if !deep {
            self.write(pid, state.clone())?;
        }
        let earlier = self.custody.get(&pid).map_or(&[][..], Vec::as_slice);
        let custody = Custody::take(stopped, state, deep, earlier)?;
        let mut all = custody.state().clone();
        let held = self.custody.entry(pid).or_default();
        if deep {
            held.iter().for_each(|before| before.add_to(&mut all));
        }
        held.push(custody);
        if deep {
            self.write(pid, all.clone())?;
        }
        log::info!("pid {pid}: pending signals taken out until the end of the dump: {why}");
        Ok(all)
    }

    /// Takes out what CRIU does not even seize a process with. It still runs. Where this fails, CRIU refuses the
    /// process in its own words.
    fn take_trap(&mut self, pid: Pid) {
        if self.options.take_out == TakeOut::Never || self.custody.contains_key(&pid) {
            return;
        }
        let why = TakenOut::Trap.to_string();
        let take = || {
            if !custody::trap_is_pending(pid)? {
                return Ok(None);
            }
            self.may_take_out(&why)?;
            Custody::take_trap(pid).map(Some)
        };
        match take() {
            Ok(None) => {}
            Ok(Some(custody)) => {
                log::info!("pid {pid}: SIGTRAP taken out until the end of the dump: {why}");
                for change in custody.changes() {
                    self.recorder.error(format!("pid {pid}: {change}"));
                }
                self.custody.insert(pid, vec![custody]);
                // CRIU stops them next, and what they wait in can be told only of a thread that has been seen waiting.
                asleep::await_return(pid);
            }
            Err(e) if e.is_died() => {}
            Err(e) => log::warn!("{}", e.during(Phase::Capture, pid)),
        }
    }

    /// May signals be taken out, given that a restore without this plugin would lose them?
    fn may_take_out(&self, why: &str) -> Result<()> {
        may_take_out(self.recorded, self.options.take_out, why)
    }

    fn write(&mut self, pid: Pid, state: ProcessState) -> Result<()> {
        let image: Image = capture::with_header(state)?;
        let inner = || {
            let dir = self.host.image_dir().map_err(|e| {
                Error::new(
                    "find the image folder",
                    Cause::Unsupported(e.to_string().into()),
                )
            })?;
            let passing = |step: image::Step| fault::point(at(step)).map_err(io::Error::other);
            image::create_in_passing(dir, &image, passing)
                .map_err(|e| Error::new("write", Cause::Image(e)))
        };
        let name = inner().map_err(|e| e.during(Phase::Image, pid))?;
        log::info!("{}", log_lines::summary(pid, &image, &name));
        self.written.push(name);
        Ok(())
    }

    /// The tasks are still seized, and are killed or let go next. Returns the report.
    #[must_use]
    pub fn end(mut self, ret: i32) -> Document {
        let touched = self.touched();
        self.step("give back dispositions", Dump::give_back_dispositions);
        self.step("give back signals", |dump| {
            dump.give_back();
            dump.passing(Point::CustodyBack);
        });
        self.step("compare what was touched", |dump| {
            dump.expect_untouched(&touched)
        });
        self.step("give back entries of timers", Dump::make_dropped_again);
        self.step("give back system calls", Dump::give_back_calls);
        self.step("give back stops", Dump::give_back_stops);
        if ret != 0 {
            self.step("say what was interrupted", |dump| dump.say_interrupted());
        }
        self.step("look after stopped processes", |dump| {
            dump.look_after_stopped()
        });
        self.step("close the images", |dump| {
            let host = dump.host;
            match host.image_dir() {
                Ok(dir) => dump.close(dir, ret),
                Err(e) => dump.recorder.error(e.to_string()),
            }
        });
        self.recorder.finish(Some(ret), None)
    }

    /// A panic in one of the steps keeps nobody from the others: each gives something back.
    fn step(&mut self, what: &'static str, step: impl FnOnce(&mut Dump)) {
        if contain(&what, || step(self)).is_none() {
            let what = format!("{what}: ended by an error in this plugin; the log has the place");
            self.recorder.error(what);
        }
    }

    fn give_back_dispositions(&mut self) {
        self.passing(Point::DumpEnd);
        // Before queues: a signal that becomes ignored is taken out of all of them (do_sigaction).
        for one in self.trap_ignored.drain(..) {
            let _budget = Budget::of_process();
            for error in one.give_back().iter().filter(|e| !e.is_died()) {
                self.recorder.error(error.to_string());
            }
        }
        self.passing(Point::DispositionsBack);
    }

    fn give_back_calls(&mut self) {
        let take_back = |calls: &HandedOver| {
            let _budget = Budget::of_process();
            calls.take_back()
        };
        for error in self.handed_over.iter().flat_map(take_back) {
            self.recorder.error(error.to_string());
        }
        self.passing(Point::CallsBack);
    }

    /// Of a process that criu refuses to seize nothing is known here, and criu has let it go by now.
    fn say_interrupted(&self) {
        let never_handed = self
            .looked_at
            .iter()
            .filter(|pid| !self.handed.contains(pid) && !proc::is_gone(**pid));
        for pid in never_handed {
            log::warn!(
                "pid {pid}: criu has failed before it handed the process over: a system call that waits in it may have ended with \
                 EINTR, as without this plugin (docs/eintr.md)"
            );
        }
    }

    fn give_back_stops(&mut self) {
        // Whatever becomes of the processes: whether they run on is not known here.
        for before in self.before.values() {
            let _budget = Budget::of_process();
            if let Err(e) = before.turn_back()
                && !e.is_died()
            {
                log::warn!("{e}");
            }
        }
        self.passing(Point::StopsBack);
    }

    /// The last look at the images.
    fn close(&mut self, dir: BorrowedFd<'_>, ret: i32) {
        if ret != 0 {
            // They would be in the way of the next dump.
            for name in &self.written {
                if let Err(e) = unlinkat(dir, name.as_str(), UnlinkatFlags::NoRemoveDir) {
                    log::warn!("the dump failed; removing {name}: {e}");
                }
            }
            return;
        }
        self.lend_room(dir);
        self.correct_timers(dir);
        self.correct_files(dir);
        let summary = format!(
            "dump: {} processes captured; not kept: {}",
            self.written.len(),
            self.notices
        );
        log::log!(
            self.notices.level().unwrap_or(log::Level::Info),
            "{summary}"
        );
        match image_folder::dumped_processes(dir) {
            Ok(dumped) => {
                for pid in dumped.iter().filter(|pid| !self.captured.contains(pid)) {
                    self.recorder.error(format!(
                        "pid {pid} (in its own namespace): dumped by criu, but never handed to this plugin: \
                         its signal state is NOT in the images. Another plugin's CHECKPOINT_DEVICES hook has \
                         ended the round before this one's turn"
                    ));
                }
            }
            Err(e) => self
                .recorder
                .error(format!("cannot tell whether every task was captured: {e}")),
        }
    }

    /// CRIU sends them a stop signal as it lets them go.
    fn look_after_stopped(&self) {
        let mut all = Vec::new();
        for &pid in self.before.keys().chain(&self.stopped) {
            match LetGo::of(pid) {
                Ok(one) => all.extend(one),
                Err(e) if e.is_died() => {}
                Err(e) => log::warn!("{}", e.during(Phase::Release, pid)),
            }
        }
        if let Err(e) = stray_stop::put_right_afterwards(&all) {
            log::warn!(
                "{e}: where stopped processes are left running, the stop signal that criu sends them stays pending \
                 until SIGCONT"
            );
        }
    }

    /// At the end, where a failure must not keep the rest from being done.
    fn passing(&mut self, point: Point) {
        if let Err(e) = fault::point(point) {
            self.recorder.error(e.to_string());
        }
    }

    /// CRIU's images are written by now.
    fn lend_room(&mut self, dir: BorrowedFd<'_>) {
        for &(pid, limit) in &self.lent_room {
            match corrections::lend_room(dir, pid, limit) {
                Ok(()) => log::info!(
                    "pid {pid} (in its own namespace): criu's image has RLIMIT_SIGPENDING {limit}, under which queue and \
                     timers can be restored; the right one is set at the restore"
                ),
                Err(e) => self.recorder.error(format!(
                    "pid {pid} (in its own namespace): criu will fail to restore queue or timers, as RLIMIT_SIGPENDING leaves \
                     too little room: {e}"
                )),
            }
        }
    }

    /// CRIU makes all timers in the leader, for threads by the ids that it has written down.
    fn correct_timers(&mut self, dir: BorrowedFd<'_>) {
        for (pid, timers) in &self.timers {
            match corrections::correct_timers(dir, *pid, timers) {
                Ok(false) => {}
                Ok(true) => log::info!(
                    "pid {pid} (in its own namespace): criu's image names the threads that timers count or tell"
                ),
                Err(e) => self.recorder.error(format!(
                    "pid {pid} (in its own namespace): criu will fail to restore timers that count or tell threads, or \
                     make them for others: {e}"
                )),
            }
        }
    }

    /// CRIU sets owners before there are threads, and does not arm a timerfd that has stopped because nobody reads it.
    fn correct_files(&mut self, dir: BorrowedFd<'_>) {
        if self.unwanted.is_empty() && !self.timerfds {
            return;
        }
        let unwanted = |owner: Owner| self.unwanted.contains(&(owner.kind, owner.id));
        match corrections::correct_files(dir, unwanted) {
            Ok(corrected) if corrected == Corrected::default() => {}
            Ok(Corrected { owners, timerfds }) => log::info!(
                "criu's image of files: {owners} owners are left to the restore, and {timerfds} timerfds that have expired and \
                 were not read go on"
            ),
            Err(e) => self.recorder.error(format!(
                "criu will fail to restore files whose SIGIO goes to a thread, or timerfds will not go on: {e}"
            )),
        }
    }

    /// Processes that have been stopped ever since they were captured, and in which signals are in custody or dispositions
    /// have been put back.
    fn touched(&self) -> HashMap<Pid, ProcessState> {
        let ignored = self.trap_ignored.iter();
        let mut touched: HashMap<Pid, ProcessState> =
            ignored.map(|one| (one.pid, one.state.clone())).collect();
        for (&pid, custody) in &self.custody {
            let states = custody.iter().filter_map(Custody::state_while_stopped);
            touched.extend(states.map(|state| (pid, state.clone())));
        }
        touched
    }

    /// What has been done in them is undone: compared once more, and what is not is put back or said.
    fn expect_untouched(&mut self, processes: &HashMap<Pid, ProcessState>) {
        for (&pid, state) in processes {
            // CRIU may have let it go: then it lives its own life.
            let Ok(stopped) = StoppedProcess::<ByHost>::of_host(pid) else {
                continue;
            };
            match repair::untouched(&stopped, state, false) {
                Ok(differences) => {
                    for (difference, done) in differences {
                        let what = format!(
                            "pid {pid}: not as it was before the dump: {difference}: {done}"
                        );
                        match done {
                            Done::PutBack => log::warn!("{what}"),
                            _ => self.recorder.error(what),
                        }
                    }
                }
                Err(e) if e.is_died() && proc::is_gone(pid) => {}
                Err(e) => self.recorder.error(format!(
                    "{}: whether it is as it was before the dump is not known",
                    e.during(Phase::Verify, pid)
                )),
            }
        }
    }

    /// A process that runs on finds pending what it would have found.
    fn make_dropped_again(&mut self) {
        for (pid, one, thread) in self.dropped.drain(..) {
            let _budget = Budget::of_process();
            let made = StoppedProcess::<ByHost>::of_host(pid)
                .and_then(|stopped| dropped::make_again(&stopped, &one, thread));
            if let Err(e) = made
                && !e.is_died()
            {
                log::warn!("{e}: {} is not shown as pending any more", one.signo);
            }
        }
    }

    /// Whatever became of the dump: even after a good one a script of the user's may decide that the tasks run on.
    fn give_back(&mut self) {
        for (pid, custody) in self
            .custody
            .drain()
            .flat_map(|(pid, all)| all.into_iter().map(move |one| (pid, one)))
        {
            // Its number may be another's.
            if let Err(e) = custody.held().check() {
                log::warn!("{}", e.during(Phase::Replay, pid));
                continue;
            }
            match give_back(pid, custody) {
                Ok(count) => log::info!("pid {pid}: {count} pending signals put back"),
                Err(e) if e.is_died() && proc::is_gone(pid) => {
                    log::warn!("{}", e.during(Phase::Replay, pid));
                }
                Err(e) => self.recorder.error(format!(
                    "{}; the guardian tries again when criu has ended",
                    e.during(Phase::Replay, pid)
                )),
            }
        }
    }
}

/// A process that ignores SIGTRAP.
struct TrapIgnored {
    pid: Pid,
    state: ProcessState,
    /// Who sees to it if criu ends before.
    guardian: Option<Guardian>,
}

impl TrapIgnored {
    /// CRIU's own code runs in the process next.
    fn watched(pid: Pid, state: &ProcessState) -> TrapIgnored {
        let guardian = Guardian::of_trap(pid, state).map_err(|e| {
            let e = e.during(Phase::Capture, pid);
            log::warn!(
                "{e}: if criu is killed, SIGTRAP, which the process ignores, may be SIG_DFL in it"
            );
        });
        TrapIgnored {
            pid,
            state: state.clone(),
            guardian: guardian.ok(),
        }
    }

    /// Returns what failed; then the guardian tries again when criu has ended.
    fn give_back(self) -> Vec<Error> {
        let errors = match StoppedProcess::<ByHost>::of_host(self.pid) {
            Ok(stopped) => repair::dispositions(&stopped, &self.state),
            Err(e) => vec![e.during(Phase::Replay, self.pid)],
        };
        match self.guardian {
            Some(guardian) if errors.is_empty() => {
                if let Err(e) = guardian.dismiss() {
                    log::warn!(
                        "pid {}: dispositions are back, but the guardian was gone: {e}",
                        self.pid
                    );
                }
            }
            // Until this process ends.
            guardian => std::mem::forget(guardian),
        }
        errors
    }
}

/// What the report says of a process that was captured.
fn captured_process(state: &ProcessState) -> Process {
    let innermost = state.ids.innermost();
    Process {
        pid_in_namespace: Some(innermost),
        comm: Some(state.comm.clone().into()),
        threads: state.threads.len(),
        siginfos: state.queues().map(|pending| pending.queue.len()).sum(),
        taken_out: state.taken_out.iter().map(ToString::to_string).collect(),
        ..Process::new(Outcome::Captured)
    }
}

/// CRIU runs code of its own in each task, next, and does not know of Syscall User Dispatch: its calls become SIGSYS, which
/// ends the task.
fn refuse_dispatch(stopped: &StoppedProcess<ByHost>) -> Result<()> {
    let Some(tid) = stopped.dispatched()? else {
        return Ok(());
    };
    let why = "the thread is under Syscall User Dispatch, and the system calls that criu makes in it would end it: refused";
    Err(Error::new("dump", Cause::Unsupported(why.into())).in_thread(tid))
}

/// `recorded`: the images say that they are not to be restored without this plugin. CRIU before 4.1 cannot.
fn may_take_out(recorded: bool, setting: TakeOut, why: &str) -> Result<()> {
    if recorded || setting == TakeOut::Always {
        return Ok(());
    }
    Err(Error::new(
        "take out pending signals",
        Cause::Unsupported(
            format!(
                "{why}; criu cannot cope with that, and this criu (before 4.1) would let a restore \
                 without this plugin lose what is taken out. {TAKE_OUT}=always does it all \
                 the same, =never leaves it to criu"
            )
            .into(),
        ),
    ))
}

fn at(step: image::Step) -> Point {
    match step {
        image::Step::Created => Point::ImageCreated,
        image::Step::Written => Point::ImageWritten,
        image::Step::Synced => Point::ImageSynced,
    }
}

/// A dump that failed early may not have seized the process.
fn give_back(pid: Pid, custody: Custody) -> Result<usize> {
    let _budget = Budget::of_process();
    match StoppedProcess::<ByHost>::of_host(pid) {
        Ok(stopped) => custody.give_back(&stopped),
        Err(_) => {
            let stopped = StoppedProcess::<ByUs>::seize_held(custody.held(), STOP_TIMEOUT)?;
            let count = custody.give_back(&stopped);
            stopped.release()?;
            count
        }
    }
}

/// The largest limit that a criu of the same rights can give: its own hard one, or what the process has.
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
        "{timers} POSIX timers are charged to RLIMIT_SIGPENDING, of which criu can give at most {hard} at the restore, and \
         the restore would fail: raise criu's hard limit, or run criu with CAP_SYS_RESOURCE"
    );
    Err(Error::new(
        "lend room for timers",
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

    /// There is no such criu to run: without its add_inventory_plugin, which is found by name, nothing is recorded.
    #[test]
    fn an_old_criu_is_not_trusted_with_what_is_taken_out() {
        for setting in [TakeOut::Auto, TakeOut::Always] {
            may_take_out(true, setting, "a SIGTRAP is pending").unwrap();
        }
        may_take_out(false, TakeOut::Always, "a SIGTRAP is pending").unwrap();
        let refused = may_take_out(false, TakeOut::Auto, "a SIGTRAP is pending")
            .unwrap_err()
            .to_string();
        assert!(
            refused.starts_with("take out pending signals: a SIGTRAP is pending; criu cannot cope")
        );
        for says in ["before 4.1", "CRIU_SIGNALS_TAKE_OUT=always", "=never"] {
            assert!(refused.contains(says), "{refused}");
        }
    }
}
