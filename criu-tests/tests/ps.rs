//! Tests `criu-signals ps`: what BPF reads is compared with what /proc and ptrace(2) tell of the same processes. Each test is
//! pid 1 of its own namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output};

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::bpf::tasks::MOST_COUNTED;
use criu_signals::images::{ProcessState, SigNo, Siginfo, json};
use criu_tests::cases::{self, CHECK, Test, all_need, start, test};
use criu_tests::config;
use criu_tests::procfs::{self, Pid};
use criu_tests::rundir::RunDir;
use criu_tests::scenario::Scenario;
use criu_tests::skip::{self, Need};
use criu_tests::table::SCENARIOS;
use criu_tests::victim::Victim;
use criu_tests::wait;
use serde_json::Value;

/// Of nobody, in every Debian.
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    cases::main("ps", tests)
}

fn tests() -> Vec<Test> {
    let mut tests = vec![
        test("queued.first", queued_first),
        test("queued.many", queued_many),
        test("stopped", stopped),
        test("filters", filters),
        test("untouched", untouched),
        test("traced", traced),
        test("namespace", namespace),
        test("table", table),
    ];
    tests.extend(programs().map(|scenario| {
        test(format!("same.{}", scenario.name), move |dir: &RunDir| {
            same(scenario, dir)
        })
    }));
    let mut tests = all_need(tests, &[Need::Btf]);
    tests.extend([
        test("cgroup.v1", |dir: &RunDir| cgroup(false, dir)).needs(&[Need::FreezerV1]),
        test("cgroup.v2", |dir: &RunDir| cgroup(true, dir)).needs(&[Need::FreezerV2]),
        test("pid-namespace", pid_namespace),
        test("without-capability", without_capability),
        test("wrong.pid", wrong_pid),
        test("wrong.place", wrong_place),
        test("unknown-place", unknown_place),
    ]);
    tests
}

/// Each program with each of its arguments, 64-bit.
fn programs() -> impl Iterator<Item = &'static Scenario> {
    SCENARIOS
        .iter()
        .filter(|scenario| !scenario.ia32 && !scenario.leaves_pid && scenario.needs.is_empty())
}

fn ps(args: &[&str]) -> Result<Output> {
    let mut command = Command::new(config::command()?);
    command.arg("ps").args(args);
    command.output().context("criu-signals ps")
}

/// One document for each line, by pid and, with --threads, tid.
fn documents(args: &[&str]) -> Result<BTreeMap<(i64, i64), Value>> {
    let output = ps(&[args, &["--json"]].concat())?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && errors.is_empty(), "{output:?}");
    let mut found = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let document: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let id = |name| document[name].as_i64().unwrap_or(0);
        found.insert((id("pid"), id("tid")), document);
    }
    Ok(found)
}

fn one(pid: Pid, args: &[&str]) -> Result<Value> {
    let pid = pid.to_string();
    let mut found = documents(&[&[pid.as_str()], args].concat())?.into_values();
    found.next().context("no line")
}

fn name(info: &Siginfo) -> String {
    SigNo::new(info.signo()).map_or_else(String::new, |signo| signo.to_string())
}

/// What `show` reads by ptrace(2).
fn shown(pid: Pid) -> Result<ProcessState> {
    let mut command = Command::new(config::command()?);
    let output = command
        .args(["show", "--json", &pid.to_string()])
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let mut document: Value = serde_json::from_slice(&output.stdout)?;
    // It says what a live process does not tell, which an image would have to.
    let fields = document.as_object_mut().context("an object")?;
    fields.remove("not_recorded");
    Ok(json::from_json(&document.to_string())?.process)
}

// ---- every program, read in three ways -------------------------------------------------------------------------------

/// The fields that /proc has as well.
const OF_PROC: [&str; 11] = [
    "pid", "tid", "parent", "tracer", "comm", "uid", "threads", "pending", "blocked", "ignored",
    "caught",
];

fn same(scenario: &Scenario, dir: &RunDir) -> Result<()> {
    let program = config::victim(scenario.program, false);
    let victim = Victim::start(&program, scenario.arg, dir, false)?;
    if scenario.stops {
        victim.wait_stopped()?;
    }
    let compared = compare(&victim);
    victim.end();
    compared
}

fn compare(victim: &Victim) -> Result<()> {
    let tree = procfs::tree(victim.pid())?;
    let is_ours = |id: &(i64, i64)| tree.iter().any(|&pid| i64::from(pid) == id.0);
    let read = |args: &[&str]| -> Result<BTreeMap<(i64, i64), Value>> {
        let mut found = documents(&[&["--threads"], args].concat())?;
        found.retain(|id, _| is_ours(id));
        Ok(found)
    };
    // Programs run on: what is the same before and after has to be the same in between.
    for _ in 0..50 {
        let before = read(&["--proc"])?;
        let found = read(&[])?;
        let after = read(&["--proc"])?;
        if before != after {
            continue;
        }
        ensure!(
            !found.is_empty() && found.keys().eq(before.keys()),
            "{before:?}\n{found:?}"
        );
        for (id, wanted) in &before {
            for field in OF_PROC {
                let (wanted, found) = (&wanted[field], &found[id][field]);
                ensure!(
                    wanted == found,
                    "{id:?} {field}: {found}, in /proc {wanted}"
                );
            }
        }
        return compare_queues(victim.pid(), &found);
    }
    bail!("the program never stands still")
}

/// The depth of each queue of the process, and what is first in the process's.
fn compare_queues(pid: Pid, found: &BTreeMap<(i64, i64), Value>) -> Result<()> {
    let shown = shown(pid)?;
    let counted = usize::try_from(MOST_COUNTED)?;
    let row = |tid: i32| &found[&(i64::from(pid), i64::from(tid))];
    for thread in &shown.threads {
        let tid = thread.ids.outermost();
        let shared = if tid == pid {
            shown.shared.queue.len()
        } else {
            0
        };
        let (wanted, row) = (thread.pending.queue.len() + shared, row(tid));
        ensure!(
            row["queued"] == wanted || wanted > counted && row["queued_is_more"] == true,
            "thread {tid}: {} queued, show says {wanted}",
            row["queued"]
        );
    }
    if let Some(first) = shown.shared.queue.first() {
        let (first, oldest) = (name(first), &row(pid)["oldest"]);
        ensure!(oldest == &first, "oldest {oldest}, show says {first}");
    }
    Ok(())
}

// ---- single things ---------------------------------------------------------------------------------------------------

fn queued_first(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let row = one(victim.pid(), &[])?;
    let shown = shown(victim.pid())?;
    let entries: usize = shown.queues().map(|pending| pending.queue.len()).sum();
    ensure!(entries > 3 && row["queued"] == entries, "{row}");
    let first = shown.shared.queue.first().context("an entry")?;
    ensure!(row["oldest"] == name(first), "{row}");
    victim.finish(CHECK)
}

fn queued_many(dir: &RunDir) -> Result<()> {
    let victim = start("deep_queue", Some("3000"), dir)?;
    let row = one(victim.pid(), &["--queued-over", "499"])?;
    ensure!(
        row["queued"] == MOST_COUNTED && row["queued_is_more"] == true,
        "{row}"
    );
    let output = ps(&[&victim.pid().to_string()])?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(text.contains(&format!(" {MOST_COUNTED}+ ")), "{text}");
    victim.finish(CHECK)
}

fn stopped(dir: &RunDir) -> Result<()> {
    let victim = start("stopped_pending", None, dir)?;
    let tree = procfs::tree(victim.pid())?;
    let [root, child] = tree.as_slice() else {
        bail!("a process and its child: {tree:?}")
    };
    let row = one(*child, &["--stopped"])?;
    ensure!(
        row["stopped_by"] == "SIGSTOP" && row["stopped"] == true,
        "{row}"
    );
    // Its parent has waited for the stop.
    ensure!(row["stop_is_waitable"] == false, "{row}");
    ensure!(row["pending"] == serde_json::json!(["SIGTERM"]), "{row}");
    ensure!(row["parent"] == *root, "{row}");
    let row = one(*root, &[])?;
    ensure!(
        row["stopped_by"].is_null() && row["stopped"] == false,
        "{row}"
    );
    victim.finish(CHECK)?;

    let again = RunDir::create(&dir.file("again"))?;
    let victim = start("stopped", None, &again)?;
    victim.wait_stopped()?;
    let row = one(victim.pid(), &[])?;
    ensure!(
        row["stopped_by"] == "SIGSTOP" && row["stop_is_waitable"] == true,
        "{row}"
    );
    victim.resume()?;
    victim.finish(CHECK)
}

fn filters(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let pid = i64::from(victim.pid());
    let has = |args: &[&str]| -> Result<bool> { Ok(documents(args)?.contains_key(&(pid, 0))) };
    for yes in [
        &["--pending"][..],
        &["--pending=HUP"],
        &["--pending=TERM", "--pending=HUP"],
        &["--blocked", "HUP"],
        &["--ignores", "PIPE"],
        &["--user", "root"],
        &["--user", "0", "--pending"],
        &["--queued-over", "3"],
    ] {
        ensure!(has(yes)?, "left out by {yes:?}");
    }
    for no in [
        &["--pending=TERM"][..],
        &["--ignores", "HUP"],
        &["--catches", "KILL"],
        &["--user", "nobody"],
        &["--stopped"],
        &["--queued-over", "400"],
        &["--pending", "--ignores", "HUP"],
    ] {
        ensure!(!has(no)?, "listed with {no:?}");
    }
    victim.finish(CHECK)
}

/// The process has not run while it was looked at.
fn untouched(dir: &RunDir) -> Result<()> {
    let victim = start("stopped", None, dir)?;
    victim.wait_stopped()?;
    let switches = || -> Result<Vec<String>> {
        let status = fs::read_to_string(format!("/proc/{}/status", victim.pid()))?;
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        Ok(lines.map(str::to_owned).collect())
    };
    let before = switches()?;
    ensure!(before.len() == 2, "{before:?}");
    for _ in 0..20 {
        one(victim.pid(), &[])?;
    }
    ensure!(switches()? == before, "{before:?}, then {:?}", switches()?);
    victim.resume()?;
    victim.finish(CHECK)
}

/// A process that somebody traces can be read all the same.
fn traced(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let pid = nix::unistd::Pid::from_raw(victim.pid());
    nix::sys::ptrace::seize(pid, nix::sys::ptrace::Options::empty()).context("seize")?;
    let row = one(victim.pid(), &[])?;
    ensure!(row["tracer"] == nix::unistd::gettid().as_raw(), "{row}");
    ensure!(row["queued"].as_i64() > Some(0), "{row}");
    nix::sys::ptrace::interrupt(pid).context("interrupt")?;
    nix::sys::wait::waitpid(pid, None).context("waitpid")?;
    nix::sys::ptrace::detach(pid, None).context("detach")?;
    victim.finish(CHECK)
}

/// Numbers are those of the caller's pid namespace.
fn namespace(dir: &RunDir) -> Result<()> {
    let victim = Victim::start(&config::victim("pidns", false), None, dir, true)?;
    let row = one(victim.pid(), &[])?;
    ensure!(row["parent"].is_i64(), "{row}");
    let here = documents(&["--kernel"])?;
    // This test is pid 1 of its namespace, and nothing outside of that has a number here.
    let listed: Vec<i64> = here.keys().map(|id| id.0).collect();
    let known: Vec<i64> = procfs::all()?.into_iter().map(i64::from).collect();
    ensure!(here.contains_key(&(1, 0)), "{listed:?}");
    // The command itself has ended.
    let foreign = listed.iter().filter(|pid| !known.contains(pid)).count();
    ensure!(foreign <= 1, "{listed:?}, and /proc has {known:?}");
    victim.finish(CHECK)
}

/// A cgroup with another one in it. Both are removed when it is dropped, after its processes.
struct Cgroup(PathBuf);

impl Cgroup {
    fn create(v2: bool, run: &RunDir) -> Result<Cgroup> {
        let mount = skip::freezer(v2).context("no freezer")?;
        // Other runs of this test are on this machine.
        let unique = fs::metadata(run.path())?.ino();
        let dir = mount.join(format!("criu-tests-ps-{unique}"));
        fs::create_dir_all(dir.join("inner"))?;
        Ok(Cgroup(dir))
    }

    fn add(&self, within: &str, pid: Pid) -> Result<()> {
        fs::write(self.0.join(within).join("cgroup.procs"), pid.to_string())
            .context(within.to_owned())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for dir in [self.0.join("inner"), self.0.clone()] {
            let removed = || Ok(fs::remove_dir(&dir).ok());
            wait::until("the cgroup to be removed", CHECK, removed).ok();
        }
    }
}

/// Who is in the cgroup and below, by its folder and by its name; with other filters, and of each thread.
fn cgroup(v2: bool, dir: &RunDir) -> Result<()> {
    let group = Cgroup::create(v2, dir)?;
    let folder = group.0.to_str().context("a path")?;
    let name = format!("/{}", group.0.file_name().context("a name")?.display());
    let inner = format!("{folder}/inner");
    let start_in = |program: &str, within: &str| -> Result<Victim> {
        let own = RunDir::create(&dir.file(program))?;
        let victim = start(program, None, &own)?;
        group.add(within, victim.pid())?;
        Ok(victim)
    };
    let [outer, below] = [start_in("demo", "")?, start_in("masks", "inner")?];
    let [outer_pid, below_pid] = [&outer, &below].map(|victim| i64::from(victim.pid()));
    let listed = |args: &[&str]| -> Result<BTreeSet<i64>> {
        Ok(documents(args)?.into_keys().map(|id| id.0).collect())
    };
    let both = BTreeSet::from([outer_pid, below_pid]);
    for args in [
        &["--cgroup", folder][..],
        &["--cgroup", &name],
        &["--cgroup", folder, "--proc"],
        &["--cgroup", folder, "--cgroup", &inner],
        &["--cgroup", folder, "--threads"],
    ] {
        let found = listed(args)?;
        ensure!(found == both, "{args:?}: {found:?}, not {both:?}");
    }
    let found = listed(&["--cgroup", &inner])?;
    ensure!(found == BTreeSet::from([below_pid]), "{found:?}");
    let found = listed(&[
        "--cgroup",
        folder,
        "--ignores",
        "PIPE",
        &outer_pid.to_string(),
    ])?;
    ensure!(found == BTreeSet::from([outer_pid]), "{found:?}");
    let nobody = listed(&["--cgroup", &inner, "--user", "nobody"])?;
    ensure!(nobody.is_empty(), "{nobody:?}");
    below.finish(CHECK)?;
    outer.finish(CHECK)
}

/// Who is in a pid namespace, by a process of it and by its number.
fn pid_namespace(dir: &RunDir) -> Result<()> {
    let victim = Victim::start(&config::victim("pidns", false), None, dir, true)?;
    let pid = victim.pid();
    let inode = fs::metadata(format!("/proc/{pid}/ns/pid"))?.ino();
    let within: BTreeSet<i64> = procfs::tree(pid)?.into_iter().map(i64::from).collect();
    ensure!(within.len() == 2, "{within:?}");
    let listed = |filter: &str| -> Result<BTreeSet<i64>> {
        let found = documents(&["--pid-namespace", filter])?;
        Ok(found.into_keys().map(|id| id.0).collect())
    };
    for filter in [pid.to_string(), inode.to_string(), format!("pid:[{inode}]")] {
        let found = listed(&filter)?;
        ensure!(found == within, "{filter}: {found:?}, not {within:?}");
    }
    let found = listed("1")?;
    ensure!(
        found.contains(&1) && found.is_disjoint(&within),
        "{found:?}"
    );
    victim.finish(CHECK)
}

fn wrong_place(_: &RunDir) -> Result<()> {
    for (args, wanted) in [
        (["--cgroup", "/no/such"], "no such cgroup"),
        (["--cgroup", "/proc"], "no such cgroup"),
        (
            ["--pid-namespace", "4194303"],
            "there is no process 4194303",
        ),
        (["--pid-namespace", "4294967295"], "no such pid namespace"),
        (["--pid-namespace", "pid:[1]"], "no such pid namespace"),
        (["--pid-namespace", ""], "not a pid"),
    ] {
        let output = ps(&args)?;
        let error = String::from_utf8(output.stderr)?;
        ensure!(
            output.status.code() == Some(2) && error.contains(wanted),
            "{args:?}: {error}"
        );
    }
    Ok(())
}

fn table(dir: &RunDir) -> Result<()> {
    let victim = start("demo", None, dir)?;
    let pid = victim.pid().to_string();
    let output = ps(&["--threads", &pid])?;
    let text = String::from_utf8(output.stdout)?;
    let mut lines = text.lines();
    let heading = lines.next().context("a heading")?;
    ensure!(heading.starts_with("PID/TID"), "{text}");
    let first = lines.next().context("a line")?;
    ensure!(
        first.starts_with(&format!("{pid}/{pid} "))
            && first.contains(" root ")
            && first.contains(" demo "),
        "{text}"
    );
    ensure!(lines.count() == 1, "two threads: {text}");
    ensure!(!text.contains('\x1b'), "a pipe gets colours: {text}");
    victim.finish(CHECK)
}

/// Runs `criu-signals ps` as a user without any right.
fn as_nobody(args: &[&str], dir: &RunDir) -> Result<Output> {
    // The build's folder may be closed to others.
    let copy = dir.file("criu-signals");
    fs::copy(config::command()?, &copy)?;
    let mut command = Command::new(copy);
    command.arg("ps").args(args).uid(NOBODY).gid(NOBODY);
    Ok(command.output()?)
}

/// A process of which nobody tells the namespace is left out, and a line says so.
fn unknown_place(dir: &RunDir) -> Result<()> {
    let inode = fs::metadata("/proc/self/ns/pid")?.ino().to_string();
    let output = as_nobody(&["--proc", "--pid-namespace", &inode], dir)?;
    let [text, error] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    ensure!(output.status.success(), "{error}");
    ensure!(
        error.contains("left out, because the place is not known: process 1: ")
            && error.contains("Permission denied"),
        "{error}"
    );
    let is_shown = |pid: &str| {
        text.lines()
            .any(|line| line.starts_with(&format!("{pid} ")))
    };
    ensure!(!is_shown("1") && text.contains("criu-signals"), "{text}");
    Ok(())
}

/// A user without capabilities gets what /proc shows, and is told why.
fn without_capability(dir: &RunDir) -> Result<()> {
    let output = as_nobody(&["1"], dir)?;
    let [text, error] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    ensure!(output.status.success(), "{error}");
    ensure!(
        error.starts_with("criu-signals: ") && error.contains("/proc is read instead"),
        "{error}"
    );
    if Need::Btf.missing().is_none() {
        ensure!(error.contains("CAP_BPF"), "{error}");
    }
    let lines: Vec<&str> = text.lines().collect();
    ensure!(lines.len() == 2 && lines[1].starts_with("1 "), "{text}");
    Ok(())
}

fn wrong_pid(_: &RunDir) -> Result<()> {
    let output = ps(&["4194303"])?;
    let error = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(2), "{error}");
    ensure!(error.contains("no process 4194303"), "{error}");
    Ok(())
}
