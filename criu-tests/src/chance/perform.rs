//! One run of a plan in a way, and what it shows.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use criu_signals::fault::Point;
use criu_signals::run_report::Document;
use nix::sys::signal::{Signal, kill};
use nix::unistd;

use crate::chance::oracle::{About, Difference, Report};
use crate::chance::plan::{Call, Line, Plan};
use crate::chance::stage::{self, Called, End, NotReady, Running, Stage};
use crate::chance::verdict::{Reached, Shown};
use crate::chance::ways::{AtPoint, Kind, Way};
use crate::config;
use crate::criu::Criu;
use crate::numbers;
use crate::plugin;
use crate::procfs::{self, Pid};

const SIGCONT: u8 = 18;

/// What there is to run.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The criu binary.
    pub criu: PathBuf,
    /// The folder of the plugin.
    pub plugin: PathBuf,
    /// Builds with fault points.
    pub faults: PathBuf,
    /// `criu-signals`.
    pub command: PathBuf,
}

impl Tools {
    /// As the environment says.
    pub fn find() -> Result<Self> {
        Ok(Self {
            criu: config::criu()?,
            plugin: config::plugin_dir()?,
            faults: config::faults_dir()?,
            command: config::command()?,
        })
    }
}

/// Whose plugin criu loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum With {
    /// None.
    Alone,
    /// Ours.
    Plugin,
}

/// What the way leaves behind: the program that is to be told GO, or the reason why there is none.
enum Left {
    Program(Running),
    /// Not restored.
    Nothing(String),
}

/// The plan as it is run in a way: with what criu is to refuse.
pub fn plan_for(plan: &Plan, way: Way) -> Plan {
    let mut plan = plan.clone();
    if let Way::Refused(what) = way {
        // One from a kept folder has it already.
        plan.lines.retain(|line| !matches!(line, Line::Refuse(_)));
        plan.lines.insert(0, Line::Refuse(what));
    }
    if way.kind().restores() {
        // criu restores a full socket pair with room in it.
        let full = |line: &Line| matches!(line, Line::Wait(wait) if wait.call == Call::Send);
        plan.lines.retain(|line| !full(line));
        // Nor a process in a user namespace; and without one, others count against its limit.
        if plan.lines.contains(&Line::Userns) {
            let out = |line: &Line| matches!(line, Line::Userns | Line::Limit(..));
            plan.lines.retain(|line| !out(line));
        }
    }
    // Whoever has stopped a process and is killed puts nothing right.
    if matches!(way.kind(), Kind::LeaveStopped | Kind::KillCommand) {
        plan.lines.retain(|line| !shows_stops(line));
    }
    if way.kind() == Kind::LeaveStopped {
        // No signal but SIGKILL reaches it before its child, which is stopped too (kernel/fork.c, wait_for_vfork_done).
        plan.lines.retain(|line| !matches!(line, Line::Vfork(_)));
    }
    plan
}

/// Whether it matters by whom and when a process is stopped and continued: calls that end then, handlers of SIGCONT.
fn shows_stops(line: &Line) -> bool {
    match line {
        Line::Wait(wait) => matches!(
            wait.call,
            Call::EpollWait
                | Call::EpollPwait
                | Call::EpollPwait2
                | Call::RtSigtimedwait
                | Call::Semop
                | Call::Semtimedop
                | Call::Recv
                | Call::Accept
                | Call::Send
                | Call::IoGetevents
                | Call::IoUringEnter
        ),
        Line::Act(signal, _) | Line::Later(signal, _) => *signal == SIGCONT,
        _ => false,
    }
}

/// The plan without a checkpoint: its report. `after` is when GO comes.
pub fn control(
    stage: &mut Stage,
    plan: &Plan,
    way: Way,
    after: Duration,
) -> Result<Result<String, String>> {
    let running = match stage.start(&plan_for(plan, way))? {
        Ok(running) => running,
        Err(NotReady::BadPlan(why)) => return Ok(Err(why)),
        Err(NotReady::Stuck) => return Ok(Err("not ready in time".to_owned())),
    };
    if way.kind() == Kind::LeaveStopped {
        stop_and_continue(&running)?;
    }
    sleep(after);
    Ok(match running.finish()? {
        End::Reported(report) => Ok(report),
        End::Died(how) => Err(format!("the control: {how}")),
        End::Silent => Err("the control says nothing more".to_owned()),
    })
}

/// As `criu dump --leave-stopped` and whoever continues the program do it.
fn stop_and_continue(running: &Running) -> Result<()> {
    let mut tree = running.tree()?;
    tree.retain(|&pid| procfs::state(pid) != Some('T'));
    stage::send(&tree, Signal::SIGSTOP)?;
    stage::stopped(&tree)?;
    stage::send(&tree, Signal::SIGCONT)
}

/// Makes a run, and compares it with the control. `Err` within: it did not become ready.
pub fn run(
    stage: &mut Stage,
    tools: &Tools,
    plan: &Plan,
    way: Way,
    with: With,
    control: &Report,
) -> Result<Result<Shown, String>> {
    run_until(stage, tools, plan, way, (with, None), control)
}

/// The same of criu alone, which is killed in its dump so long after it has come as far as that.
pub fn run_alone_until(
    stage: &mut Stage,
    tools: &Tools,
    plan: &Plan,
    way: Way,
    until: (&Reached, Duration),
    control: &Report,
) -> Result<Result<Shown, String>> {
    run_until(stage, tools, plan, way, (With::Alone, Some(until)), control)
}

fn run_until(
    stage: &mut Stage,
    tools: &Tools,
    plan: &Plan,
    way: Way,
    (with, until): (With, Option<(&Reached, Duration)>),
    control: &Report,
) -> Result<Result<Shown, String>> {
    let running = match stage.start(&plan_for(plan, way))? {
        Ok(running) => running,
        Err(NotReady::BadPlan(why)) => return Ok(Err(why)),
        Err(NotReady::Stuck) => return Ok(Err("not ready in time".to_owned())),
    };
    let mut run = Performance {
        tools,
        with,
        shown: Shown::default(),
        number: 0,
        killed: false,
        until,
    };
    let left = run.perform(running, way)?;
    let mut shown = run.shown;
    if shown.hang.is_some() {
        return Ok(Ok(shown));
    }
    let life = |found: String| Difference {
        about: About::Life,
        control: "a report".to_owned(),
        found,
    };
    let failed = match &left {
        Left::Nothing(why) => Some(why),
        Left::Program(_) => shown.refused.as_ref(),
    };
    if with == With::Plugin
        && let Some(why) = failed
        && is_by_continuing(why)
        && is_continued_by_timer(plan)
    {
        return Ok(Err(format!(
            "a timer's SIGCONT between two of criu's ptrace(2) calls: {why}"
        )));
    }
    match left {
        Left::Nothing(why) => shown.differences.push(life(why)),
        Left::Program(running) => match running.finish()? {
            End::Reported(report) => {
                let report = Report::read(&report);
                shown.differences.extend(report.differences(control));
                if !shown.differences.is_empty() {
                    shown.waited = Some(report.waited());
                }
            }
            End::Died(how) => shown.differences.push(life(how)),
            End::Silent => shown
                .differences
                .push(life("it says nothing more".to_owned())),
        },
    }
    Ok(Ok(shown))
}

/// What criu says where a task traps for a SIGCONT (PTRACE_EVENT_STOP with SIGTRAP) before the system call that criu waits for at a
/// restore, or stops for one while it makes a system call for criu in a dump. criu fails with or without the plugin.
fn is_by_continuing(why: &str) -> bool {
    why.contains("is in unexpected state: 80057f") || why.contains("task interruption, aborting")
}

fn is_continued_by_timer(plan: &Plan) -> bool {
    let is_one = |line: &Line| matches!(line, Line::Timer(timer) if timer.signal == SIGCONT);
    plan.lines.iter().any(is_one)
}

/// In which criu says as which process the program is restored.
const PIDFILE: &str = "restored.pid";

/// How the program's observer is named in what the plugin says.
const OBSERVER: &str = " of thread 301 ";

struct Performance<'t> {
    tools: &'t Tools,
    with: With,
    shown: Shown,
    /// Of image folders.
    number: u32,
    /// Was criu killed at a random instant?
    killed: bool,
    /// Where criu is to be killed in its dump, instead of at an instant.
    until: Option<(&'t Reached, Duration)>,
}

/// Between two looks at how far criu has come.
const SOON: Duration = Duration::from_micros(20);

/// The six files.
const FILES: [&str; 6] = [
    "action",
    "altstack",
    "blocked",
    "pending",
    "shared_pending",
    "waiters",
];

impl Performance<'_> {
    fn perform(&mut self, running: Running, way: Way) -> Result<Left> {
        match way {
            Way::Plain(kind) => self.plain(running, kind),
            // What was left running is the program.
            Way::Refused(_) => {
                self.dump(&running, &["--leave-running"], None)?;
                self.shown.refused = None;
                Ok(Left::Program(running))
            }
            Way::Fault(point, action, passage) => self.fault(running, point, action, passage),
            Way::Kill(Kind::KillCriu, after) => {
                self.kill_criu(&running, after)?;
                Ok(Left::Program(running))
            }
            Way::Kill(Kind::KillRestore, after) => self.kill_restore(running, after),
            Way::Kill(Kind::KillGuardian, after) => {
                self.kill_guardian(&running, after)?;
                Ok(Left::Program(running))
            }
            Way::Kill(_, after) => {
                self.kill_command(&running, after)?;
                Ok(Left::Program(running))
            }
        }
    }

    fn plain(&mut self, running: Running, kind: Kind) -> Result<Left> {
        match kind {
            Kind::Restore => return self.cycles(running, 1),
            Kind::Twice => return self.cycles(running, 2),
            Kind::Thrice => return self.cycles(running, 3),
            Kind::Again => {
                self.dump(&running, &["--leave-running"], None)?;
                return match self.shown.is_same() {
                    true => self.cycles(running, 1),
                    false => Ok(Left::Program(running)),
                };
            }
            Kind::LeaveStopped => self.leave_stopped(&running)?,
            Kind::Show => self.show(&running)?,
            Kind::Cat => self.cat(&running)?,
            Kind::CommandDump => self.command_dump(&running).map(|_| ())?,
            Kind::Verify => self.dump_and(&running, "verify")?,
            Kind::CommandRestore => self.dump_and(&running, "restore")?,
            Kind::WriteBack => self.write_back(&running)?,
            _ => self
                .dump(&running, &["--leave-running"], None)
                .map(|_| ())?,
        }
        Ok(Left::Program(running))
    }

    fn criu(&self, fault: Option<String>) -> Criu {
        let libdir = match (&fault, self.with) {
            (_, With::Alone) => no_plugins(),
            (Some(_), With::Plugin) => self.tools.faults.join("plugins"),
            (None, With::Plugin) => self.tools.plugin.clone(),
        };
        let criu = Criu::new(&self.tools.criu, &libdir).env("CRIU_SIGNALS_REPORT", "said-%s.json");
        match fault {
            Some(fault) => criu.env("CRIU_SIGNALS_FAULT", fault),
            None => criu,
        }
    }

    /// A folder for images.
    fn images(&mut self, running: &Running) -> Result<PathBuf> {
        self.number += 1;
        let images = running.dir.file(&format!("images-{}", self.number));
        fs::create_dir(&images).context("a folder for images")?;
        Ok(images)
    }

    fn hang(&mut self, who: &str) {
        self.shown.hang.get_or_insert_with(|| who.to_owned());
    }

    /// Whoever criu or the command has started ends by itself.
    fn end_of_companions(&mut self, running: &Running, tree: &[Pid], who: &str) -> Result<()> {
        if let Some(left) = running.stragglers(tree, self.killed)? {
            self.hang(&format!("{who}: {left}"));
        }
        Ok(())
    }

    /// `criu dump`, and the folder of its images. What it says is noted; a failure is a refusal.
    fn dump(
        &mut self,
        running: &Running,
        args: &[&str],
        fault: Option<String>,
    ) -> Result<(bool, PathBuf)> {
        let images = self.images(running)?;
        let tree = running.tree()?;
        let mut command = self.criu(fault).command("dump", &images);
        command
            .current_dir(running.dir.path())
            .arg("--tree")
            .arg(running.root.to_string())
            .args(args);
        let called = running.call(&mut command)?;
        if called.status.is_none() {
            self.hang("criu dump");
        }
        self.listen(&images, "dump");
        if !called.ok() {
            self.shown.refused = Some(criu_error(&images, "dump", &called));
        }
        // Whoever puts things right after criu.
        let leaves = !called.ok() || args.iter().any(|arg| arg.starts_with("--leave"));
        if leaves {
            self.end_of_companions(running, &tree, "a companion of criu dump")?;
        }
        // After them all: they write to the log too.
        self.listen(&images, "dump");
        Ok((called.ok(), images))
    }

    /// `criu restore`, whether it succeeded.
    fn restore(
        &mut self,
        running: &mut Running,
        images: &Path,
        fault: Option<String>,
    ) -> Result<Result<(), String>> {
        let mut command = self.restore_command(running, images, fault);
        numbers::await_free(images)?;
        let called = running.call(&mut command)?;
        if called.status.is_none() {
            self.hang("criu restore");
        }
        self.listen(images, "restore");
        Ok(match called.ok() {
            true => {
                let pid = fs::read_to_string(images.join(PIDFILE)).context(PIDFILE)?;
                running.restored(pid.trim().parse().context(PIDFILE)?);
                Ok(())
            }
            false => Err(criu_error(images, "restore", &called)),
        })
    }

    fn restore_command(&self, running: &Running, images: &Path, fault: Option<String>) -> Command {
        let mut command = self.criu(fault).command("restore", images);
        command
            .current_dir(running.dir.path())
            .arg("--restore-detached")
            .arg("--pidfile")
            .arg(images.join(PIDFILE));
        command
    }

    fn cycles(&mut self, mut running: Running, times: u32) -> Result<Left> {
        for _ in 0..times {
            let (ok, images) = self.dump(&running, &[], None)?;
            if !ok || self.shown.hang.is_some() {
                return Ok(Left::Program(running));
            }
            if !running.gone()? {
                self.hang("the dumped processes, or a companion");
                return Ok(Left::Program(running));
            }
            if let Err(why) = self.restore(&mut running, &images, None)? {
                return Ok(Left::Nothing(why));
            }
        }
        Ok(Left::Program(running))
    }

    fn leave_stopped(&mut self, running: &Running) -> Result<()> {
        let mut tree = running.tree()?;
        tree.retain(|&pid| procfs::state(pid) != Some('T'));
        let (ok, _) = self.dump(running, &["--leave-stopped"], None)?;
        if self.shown.hang.is_some() {
            return Ok(());
        }
        if !ok {
            // As the control.
            if let Err(why) = stop_and_continue(running) {
                self.differs(About::Life, "stopped", format!("{why:#}"));
            }
            return Ok(());
        }
        if let Err(why) = stage::stopped(&tree) {
            self.differs(About::Life, "stopped", format!("{why:#}"));
        }
        stage::send(&tree, Signal::SIGCONT)
    }

    fn fault(
        &mut self,
        mut running: Running,
        point: Point,
        action: AtPoint,
        passage: u32,
    ) -> Result<Left> {
        let action = match action {
            AtPoint::Fail => "fail",
            AtPoint::Kill => "kill",
        };
        let armed = Some(format!("{}:{action}:{passage}", point.number()));
        // Those of a restore come after the others.
        if point.number() < Point::RestoreBegin.number() {
            let (dumped, _) = self.dump(&running, &["--leave-running"], armed)?;
            // It was made to fail, or to be killed. Of criu alone nothing was: what it refuses it refuses by itself.
            if self.with == With::Plugin {
                self.shown.refused = None;
                self.shown.made_to_fail = !dumped;
            }
            return Ok(Left::Program(running));
        }
        let (ok, images) = self.dump(&running, &[], None)?;
        if !ok || self.shown.hang.is_some() {
            return Ok(Left::Program(running));
        }
        if !running.gone()? {
            self.hang("the dumped processes, or a companion");
            return Ok(Left::Program(running));
        }
        let said = self.shown.said.clone();
        if self.restore(&mut running, &images, armed)?.is_ok() {
            return Ok(Left::Program(running));
        }
        // That restore's words are about a program that is gone.
        self.shown.said = said;
        self.once_more(running, &images)
    }

    /// After a restore that came to nothing: the images are as good as before.
    fn once_more(&mut self, mut running: Running, images: &Path) -> Result<Left> {
        stage::end_all()?;
        for file in ["restore.log", "said-restore.json", PIDFILE] {
            let _ = fs::remove_file(images.join(file));
        }
        Ok(match self.restore(&mut running, images, None)? {
            Ok(()) => Left::Program(running),
            Err(why) => Left::Nothing(format!("once more: {why}")),
        })
    }

    /// `criu dump --leave-running`, to be started.
    fn leaving_running(&self, running: &Running, images: &Path) -> Command {
        let mut command = self.criu(None).command("dump", images);
        command
            .current_dir(running.dir.path())
            .args(["--leave-running", "--tree"])
            .arg(running.root.to_string());
        command
    }

    fn kill_criu(&mut self, running: &Running, after: Duration) -> Result<()> {
        let images = self.images(running)?;
        let tree = running.tree()?;
        let log = images.join("dump.log");
        let mut child = running.begin(&mut self.leaving_running(running, &images))?;
        match self.until {
            None => sleep(after),
            Some((until, then)) => {
                let start = Instant::now();
                while child.try_wait().context("wait")?.is_none() && !until.is_in(&log) {
                    sleep(SOON);
                }
                self.shown.line_after = Some(start.elapsed());
                sleep(then);
            }
        }
        child.kill().context("killing criu")?;
        self.killed = true;
        running.await_end(child)?;
        self.shown.reached = Reached::read(&log);
        self.listen(&images, "dump");
        self.end_of_companions(running, &tree, "a companion of criu dump")
    }

    fn kill_restore(&mut self, mut running: Running, after: Duration) -> Result<Left> {
        let (ok, images) = self.dump(&running, &[], None)?;
        if !ok || self.shown.hang.is_some() {
            return Ok(Left::Program(running));
        }
        if !running.gone()? {
            self.hang("the dumped processes, or a companion");
            return Ok(Left::Program(running));
        }
        let mut command = self.restore_command(&running, &images, None);
        numbers::await_free(&images)?;
        let mut child = running.begin(&mut command)?;
        sleep(after);
        child.kill().context("killing criu")?;
        running.await_end(child)?;
        self.once_more(running, &images)
    }

    fn kill_guardian(&mut self, running: &Running, after: Duration) -> Result<()> {
        let images = self.images(running)?;
        let tree = running.tree()?;
        let mut child = running.begin(&mut self.leaving_running(running, &images))?;
        let criu = Pid::try_from(child.id())?;
        let known = [&[criu], tree.as_slice()].concat();
        let start = Instant::now();
        while child.try_wait().context("wait")?.is_none() && start.elapsed() < running.patience {
            let companion = procfs::others(&known)?
                .into_iter()
                .find(|&pid| procfs::name(pid).is_some_and(|name| name.starts_with("signals")));
            if let Some(companion) = companion {
                sleep(after);
                let _ = kill(unistd::Pid::from_raw(companion), Signal::SIGKILL);
                break;
            }
            sleep(Duration::from_micros(300));
        }
        let called = running.await_end(child)?;
        if called.status.is_none() {
            self.hang("criu dump");
        }
        // criu alone has no guardian, so that nothing was done to it.
        if self.with == With::Alone && !called.ok() {
            self.shown.refused = Some(criu_error(&images, "dump", &called));
        }
        self.listen(&images, "dump");
        self.end_of_companions(running, &tree, "a companion of criu dump")
    }

    /// Which command, the instant decides.
    fn kill_command(&mut self, running: &Running, after: Duration) -> Result<()> {
        let tree = running.tree()?;
        let images = self.images(running)?;
        let mut command = match after.as_micros() % 3 {
            0 => self.showing(&tree),
            1 => self.dumping(running, &images),
            _ => {
                if self.dump_command(running, &images)? {
                    self.on_images("restore", &images)
                } else {
                    self.showing(&tree)
                }
            }
        };
        let mut child = running.begin(&mut command)?;
        sleep(after);
        // With the process that does the work, or alone.
        if after.as_micros().is_multiple_of(2) {
            stage::send(&procfs::others(&tree)?, Signal::SIGKILL)?;
        } else {
            let _ = child.kill();
        }
        running.await_end(child)?;
        self.end_of_companions(running, &tree, "what the command has left")?;
        self.shown.differences.retain(|d| d.about != About::Command);
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.tools.command);
        command.env("CRIU_SIGNALS_CONFIG", "");
        command
    }

    fn showing(&self, tree: &[Pid]) -> Command {
        let mut command = self.command();
        command
            .args(["show", "--stop", "--all"])
            .args(tree.iter().map(ToString::to_string));
        command
    }

    fn dumping(&self, running: &Running, images: &Path) -> Command {
        let mut command = self.command();
        command
            .args(["dump", "--tree", "-t"])
            .arg(running.root.to_string())
            .arg("-D")
            .arg(images);
        command
    }

    fn on_images(&self, action: &str, images: &Path) -> Command {
        let mut command = self.command();
        command.arg(action).arg("-D").arg(images);
        command
    }

    /// A call of the command that is to succeed. What it says is noted.
    fn expect(&mut self, running: &Running, command: &mut Command) -> Result<Called> {
        let tree = running.tree()?;
        let called = running.call(command)?;
        let words: Vec<_> = command.get_args().map(OsString::from).collect();
        let what = words
            .first()
            .map(|word| word.to_string_lossy().into_owned())
            .unwrap_or_default();
        match called.status {
            None => self.hang(&format!("criu-signals {what}")),
            Some(status) if !status.success() => {
                // What could be read comes before it.
                let errors = |line: &&str| line.starts_with("criu-signals: ");
                let mut said: Vec<&str> = called.output.lines().filter(errors).take(6).collect();
                if said.is_empty() {
                    said = called.output.lines().take(6).collect();
                }
                let found = format!("{what}: {status}: {}", said.join("; "));
                self.shown.said.push(found.clone());
                self.differs(About::Command, "exit status 0", found);
            }
            Some(_) => {}
        }
        self.end_of_companions(
            running,
            &tree,
            &format!("what criu-signals {what} has left"),
        )?;
        Ok(called)
    }

    fn differs(&mut self, about: About, control: &str, found: String) {
        self.shown.differences.push(Difference {
            about,
            control: control.to_owned(),
            found,
        });
    }

    fn show(&mut self, running: &Running) -> Result<()> {
        let mut command = self.showing(&running.tree()?);
        self.expect(running, &mut command).map(|_| ())
    }

    /// PID/TID/FILE of each thread.
    fn files(running: &Running) -> Result<Vec<String>> {
        let mut files = Vec::new();
        for pid in running.tree()? {
            for tid in procfs::tasks(pid)? {
                files.extend(FILES.iter().map(|file| format!("{pid}/{tid}/{file}")));
            }
        }
        Ok(files)
    }

    fn cat(&mut self, running: &Running) -> Result<()> {
        let mut command = self.command();
        command.arg("cat").args(Self::files(running)?);
        self.expect(running, &mut command).map(|_| ())
    }

    fn dump_command(&mut self, running: &Running, images: &Path) -> Result<bool> {
        let mut command = self.dumping(running, images);
        Ok(self.expect(running, &mut command)?.ok())
    }

    fn command_dump(&mut self, running: &Running) -> Result<PathBuf> {
        let images = self.images(running)?;
        self.dump_command(running, &images)?;
        Ok(images)
    }

    fn dump_and(&mut self, running: &Running, action: &str) -> Result<()> {
        let images = self.images(running)?;
        if self.dump_command(running, &images)? {
            let mut command = self.on_images(action, &images);
            self.expect(running, &mut command)?;
        }
        Ok(())
    }

    fn write_back(&mut self, running: &Running) -> Result<()> {
        let mut unstoppable = BTreeSet::new();
        for file in Self::files(running)? {
            let pid = file.split('/').next().map(str::to_owned);
            if file.ends_with("waiters") || unstoppable.contains(&pid) {
                continue;
            }
            let mut command = self.command();
            command.arg("cat").arg(&file);
            let read = self.expect(running, &mut command)?;
            if !read.ok() {
                // Each file would be waited for, longer than the program itself waits, and none could be written.
                if read.output.contains(IN_VFORK) {
                    unstoppable.insert(pid);
                }
                continue;
            }
            let text = running.dir.file("text");
            fs::write(&text, &read.output)?;
            let mut command = Command::new("/bin/sh");
            command
                .args(["-c", "exec \"$0\" write \"$1\" < \"$2\""])
                .arg(&self.tools.command)
                .arg(&file)
                .arg(&text)
                .env("CRIU_SIGNALS_CONFIG", "");
            self.expect(running, &mut command)?;
        }
        Ok(())
    }

    /// What the log and the report say, of a dump or a restore.
    fn listen(&mut self, images: &Path, action: &str) {
        let log = fs::read(images.join(format!("{action}.log"))).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let warnings = plugin::lines(&log)
            .filter(|line| line.contains("Warn  (") || line.contains("Error ("))
            .map(|line| {
                line.split_once(plugin::PREFIX)
                    .map_or(line, |(_, said)| said)
                    .to_owned()
            });
        self.shown.said.extend(warnings);
        let report = fs::read(images.join(format!("said-{action}.json"))).unwrap_or_default();
        if let Ok(report) = serde_json::from_slice::<Document>(&report) {
            let noted = report
                .processes
                .iter()
                .flat_map(|process| &process.notices)
                .chain(&report.notices)
                .map(|notice| notice.text.clone());
            self.shown.said.extend(noted);
        }
        // The program's observer sleeps for 5 ms at a time: that is said of each run, and of no difference.
        self.shown
            .said
            .retain(|said| !(said.contains(OBSERVER) && said.contains("(5ms)")));
        self.shown.said.sort_unstable();
        self.shown.said.dedup();
    }
}

/// What a command says of a process with a thread in vfork(2), which can't be stopped.
const IN_VFORK: &str = "(vfork: until its child";

/// What criu says before it makes its first call in a process (compel/src/lib/infect.c).
const INFECTS: &str = "Parasite syscall_ip at";

impl Reached {
    /// criu's own lines of a log, without their numbers.
    fn lines(log: &Path) -> Vec<String> {
        let log = fs::read(log).unwrap_or_default();
        let digits = |c: char| c.is_ascii_hexdigit() || c == 'x' || c == '.';
        String::from_utf8_lossy(&log)
            .lines()
            .filter(|line| !line.contains(plugin::PREFIX) && !line.contains("lugin"))
            .map(|line| {
                let words = line.split([' ', '>']);
                let words = words
                    .filter(|word| !word.trim_matches(['(', ')', '-', ':']).chars().all(digits));
                words.collect::<Vec<_>>().join(" ")
            })
            .collect()
    }

    /// How far a log has come.
    fn read(log: &Path) -> Option<Reached> {
        let mut lines = Self::lines(log);
        let line = lines.pop()?;
        let nth = 1 + lines.iter().filter(|is| **is == line).count();
        // The first system call that criu makes in the first task.
        let infected = line.contains(INFECTS) || lines.iter().any(|line| line.contains(INFECTS));
        Some(Reached {
            line,
            nth,
            infected,
        })
    }

    /// Whether a log has come as far.
    fn is_in(&self, log: &Path) -> bool {
        let lines = Self::lines(log);
        lines.iter().filter(|is| **is == self.line).count() >= self.nth
    }
}

/// criu's first error.
fn criu_error(images: &Path, action: &str, called: &Called) -> String {
    if called.killed() {
        return format!("criu {action} was killed");
    }
    let log = fs::read(images.join(format!("{action}.log"))).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    // Without CAP_SYS_RESOURCE it cannot raise its own limits, calls that an error, and goes on.
    let error = log
        .lines()
        .find(|line| line.contains("Error (") && !line.contains("): rlimit: "))
        .or(called.output.lines().next())
        .unwrap_or("no error in its log");
    format!("criu {action} fails: {error}")
}

/// A folder without plugins, for criu alone. criu ends at once where the folder is missing, and says which.
fn no_plugins() -> PathBuf {
    let folder = config::target_dir().join("chance").join("no-plugins");
    let _ = fs::create_dir_all(&folder);
    folder
}
