//! `make bench`: measures how long `criu-signals` stops live processes and how long the command takes, compared with
//! gdb and CRIU on the same processes.
//!
//! All tools take turns, so that other load on the machine affects each of them. Medians are shown.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use comfy_table::{Table, presets};
use criu_tests::criu::Criu;
use criu_tests::ns;
use criu_tests::procfs;
use criu_tests::rundir::RunDir;
use criu_tests::sample::{median, millis};
use criu_tests::skip;
use criu_tests::victim::Victim;
use criu_tests::{bench, config};

const THREADS: [usize; 3] = [1, 64, 1024];
const PROCESSES: usize = 500;

fn main() -> ExitCode {
    ns::main("bench-live", outside, inside)
}

fn outside() -> Result<()> {
    bench::outside("bench-live", |dir| {
        // All processes in them have ended with the namespace.
        for v2 in [true, false] {
            if let Some(group) = group(v2, dir)?
                && group.exists()
            {
                fs::remove_dir(&group).with_context(|| group.display().to_string())?;
            }
        }
        Ok(())
    })
}

fn inside() -> Result<()> {
    let (dir, rounds) = bench::inside()?;
    let ours = config::command()?;
    let criu = Criu::new(&config::criu()?, &dir.no_plugins()).arg("--display-stats");
    let gdb = gdb_version();

    println!("Live processes: medians of {rounds} runs each, in turns; no process ends by it");
    println!(
        "criu {}: dump --leave-running, without a plugin",
        criu.version()?
    );
    match &gdb {
        Some(version) => println!("{version}: info signals; thread apply all p $_siginfo"),
        None => println!("gdb is not installed (apt-get install gdb): its column is empty"),
    }
    let mut threads = Table::new();
    threads
        .load_preset(presets::UTF8_FULL_CONDENSED)
        .set_header([
            "threads",
            "show --json",
            "dump",
            "stopped",
            "per thread",
            "gdb",
            "CRIU",
            "frozen by CRIU",
        ]);
    for count in THREADS {
        let run = RunDir::create(&dir.file("threads"))?;
        let victim = crowd(1, count, &run)?;
        let pid = victim.pid().to_string();
        let (mut show, mut by_gdb) = (Vec::new(), Vec::new());
        let (mut dump, mut crius) = (Held::default(), Held::default());
        for _ in 0..rounds {
            show.push(timed(&ours, &["show", "--stop", "--json", &pid])?.0);
            dump.add(our_dump(&ours, &["-t", &pid], &run)?);
            if gdb.is_some() {
                by_gdb.push(timed(Path::new("gdb"), &gdb_args(&pid))?.0);
            }
            crius.add(criu_dump(&criu, victim.pid(), &run)?);
        }
        let stopped = median(&mut dump.held);
        threads.add_row([
            count.to_string(),
            ms(median(&mut show)),
            ms(median(&mut dump.took)),
            ms(stopped),
            each(stopped, count),
            if gdb.is_some() {
                ms(median(&mut by_gdb))
            } else {
                String::new()
            },
            ms(median(&mut crius.took)),
            ms(median(&mut crius.held)),
        ]);
        victim.end();
    }
    println!("{threads}");

    let mut processes = Table::new();
    processes
        .load_preset(presets::UTF8_FULL_CONDENSED)
        .set_header([
            "processes",
            "freezer",
            "dump --cgroup",
            "stopped",
            "per process",
            "CRIU",
            "frozen by CRIU",
        ]);
    for v2 in [true, false] {
        let freezer = if v2 { "cgroup v2" } else { "cgroup v1" };
        let Some(group) = group(v2, &dir)? else {
            println!("{freezer}: left out, no freezer of it is mounted");
            continue;
        };
        let run = RunDir::create(&dir.file("processes"))?;
        let victim = crowd(PROCESSES, 1, &run)?;
        fs::create_dir(&group).with_context(|| group.display().to_string())?;
        for pid in procfs::tree(victim.pid())? {
            fs::write(group.join("cgroup.procs"), pid.to_string()).context("cgroup.procs")?;
        }
        let folder = group.to_str().context("a name that is not UTF-8")?;
        let (mut dump, mut crius) = (Held::default(), Held::default());
        for _ in 0..rounds {
            dump.add(our_dump(&ours, &["--cgroup", folder], &run)?);
            crius.add(criu_dump(&criu, victim.pid(), &run)?);
        }
        let stopped = median(&mut dump.held);
        processes.add_row([
            PROCESSES.to_string(),
            freezer.to_owned(),
            ms(median(&mut dump.took)),
            ms(stopped),
            each(stopped, PROCESSES),
            ms(median(&mut crius.took)),
            ms(median(&mut crius.held)),
        ]);
        victim.end();
    }
    println!("{processes}");
    println!("{}", readers(&dir, rounds, &ours, gdb.is_some())?);
    Ok(())
}

/// Ways to read one process, and how often the process left its processors for each: threads and entries in each queue.
fn readers(dir: &RunDir, rounds: usize, ours: &Path, gdb: bool) -> Result<Table> {
    const CASES: [(usize, usize); 3] = [(1, 1), (64, 1), (1, 40_000)];
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
        "threads",
        "entries each",
        "reader",
        "time",
        "context switches",
    ]);
    for (threads, depth) in CASES {
        let run = RunDir::create(&dir.file("readers"))?;
        let arg = format!("1,{threads},{depth}");
        let victim = Victim::start(&config::victim("crowd", false), Some(&arg), &run, false)?;
        let pid = victim.pid().to_string();
        let status = format!("/proc/{pid}/status");
        let by_gdb = gdb_args(&pid);
        let stopping = ["show", "--stop", "--json", &pid];
        let by_bpf = ["show", "--no-stop", "--json", &pid];
        let by_cat = [status.as_str()];
        let mut ways: Vec<(&str, &Path, &[&str])> = vec![
            ("show --stop --json", ours, &stopping),
            ("show --no-stop --json", ours, &by_bpf),
            ("cat /proc/PID/status", Path::new("cat"), &by_cat),
        ];
        if gdb {
            ways.push(("gdb", Path::new("gdb"), &by_gdb));
        }
        let mut figures = vec![(Vec::new(), Vec::new()); ways.len()];
        for _ in 0..rounds {
            for ((_, program, args), (took, switched)) in ways.iter().zip(&mut figures) {
                let before = switches(victim.pid())?;
                took.push(timed(program, args)?.0);
                switched.push(switches(victim.pid())? - before);
            }
        }
        for ((name, ..), (mut took, mut switched)) in ways.iter().zip(figures) {
            switched.sort_unstable();
            table.add_row([
                threads.to_string(),
                depth.to_string(),
                (*name).to_owned(),
                ms(median(&mut took)),
                switched[switched.len() / 2].to_string(),
            ]);
        }
        victim.end();
    }
    Ok(table)
}

/// How often the threads of a process have left a processor.
fn switches(pid: procfs::Pid) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(entry?.path().join("status"))?;
        let counts = status
            .lines()
            .filter_map(|line| line.split_once("ctxt_switches:"))
            .map(|(_, count)| count.trim().parse::<u64>());
        for count in counts {
            sum += count.context("ctxt_switches")?;
        }
    }
    Ok(sum)
}

/// How long a dump took, and how long the processes were held.
#[derive(Default)]
struct Held {
    took: Vec<Duration>,
    held: Vec<Duration>,
}

impl Held {
    fn add(&mut self, (took, held): (Duration, Duration)) {
        self.took.push(took);
        self.held.push(held);
    }
}

/// So many processes with so many threads each, parent and children.
fn crowd(processes: usize, threads: usize, run: &RunDir) -> Result<Victim> {
    let arg = format!("{processes},{threads}");
    Victim::start(&config::victim("crowd", false), Some(&arg), run, false)
}

/// The cgroup that is made for the bench whose folder is `dir`. `None` where there is no such freezer.
fn group(v2: bool, dir: &RunDir) -> Result<Option<PathBuf>> {
    use std::os::unix::fs::MetadataExt as _;
    let unique = fs::metadata(dir.path())?.ino();
    let name = format!("criu-signals-bench-{unique}");
    Ok(skip::freezer(v2).map(|mounted| mounted.join(name)))
}

/// Runs a command that must succeed: how long it took, and what it printed.
fn timed(program: &Path, args: &[&str]) -> Result<(Duration, String)> {
    let mut command = Command::new(program);
    // gdb asks servers for symbols.
    command
        .args(args)
        .env_remove("DEBUGINFOD_URLS")
        .stdin(Stdio::null());
    let begun = Instant::now();
    let out = command.output().with_context(|| format!("{command:?}"))?;
    let took = begun.elapsed();
    let errors = String::from_utf8_lossy(&out.stderr);
    ensure!(
        out.status.success(),
        "{command:?}: {}: {errors}",
        out.status
    );
    Ok((took, String::from_utf8_lossy(&out.stdout).into_owned()))
}

/// `criu-signals dump`, which says itself how long it held the processes.
fn our_dump(command: &Path, what: &[&str], run: &RunDir) -> Result<(Duration, Duration)> {
    let images = run.file("ours");
    let folder = images.to_str().context("a name that is not UTF-8")?;
    let args = [&["dump"], what, &["-D", folder]].concat();
    let (took, said) = timed(command, &args)?;
    let held = said
        .split_once("stood still for ")
        .and_then(|(_, rest)| rest.split_once(" ms"))
        .and_then(|(ms, _)| ms.parse::<f64>().ok())
        .with_context(|| format!("it does not say how long: {said}"))?;
    fs::remove_dir_all(&images)?;
    Ok((took, Duration::from_secs_f64(held / 1e3)))
}

/// `criu dump --leave-running`, which dumps all else as well.
fn criu_dump(criu: &Criu, pid: i32, run: &RunDir) -> Result<(Duration, Duration)> {
    let images = run.file("criu");
    fs::create_dir(&images)?;
    let dump = criu.dump(pid, &images, true)?;
    ensure!(dump.ok, "the dump failed:\n{}", dump.tail(20));
    let held = dump.frozen().context("criu does not say how long")?;
    fs::remove_dir_all(&images)?;
    Ok((dump.took, held))
}

fn gdb_version() -> Option<String> {
    let out = Command::new("gdb").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines().next().map(str::to_owned)
}

fn gdb_args(pid: &str) -> [&str; 8] {
    let siginfo = "thread apply all p $_siginfo";
    [
        "-nx",
        "-batch",
        "-p",
        pid,
        "-ex",
        "info signals",
        "-ex",
        siginfo,
    ]
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", millis(time))
}

fn each(time: Duration, count: usize) -> String {
    format!("{:.0} us", time.as_secs_f64() * 1e6 / count as f64)
}
