//! The six files in the FUSE file system: reading and writing with and without permission, and the tests of the 2007
//! patches, which need only another path.
//!
//! As in the scenarios, each test is this program once more as pid 1 of a namespace of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use criu_signals::images::text::SigFile;
use criu_tests::cases::{self, CHECK, Test, start, test};
use criu_tests::config;
use criu_tests::mounted::{Mounted, errno};
use criu_tests::procfs::{self, Pid};
use criu_tests::rundir::RunDir;
use criu_tests::six::{EMPTY, Sleeper, Way, code, entry, mask, rewrite, run};
use criu_tests::skip::{self, Decision, Need};
use criu_tests::wait::{self, PATIENCE};
use nix::sys::signal::{Signal, kill};

const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    cases::main("mount", tests)
}

fn tests() -> Vec<Test> {
    let mut tests = vec![
        test("2007.forker.command", |dir| forker(&Path2007::Command, dir)),
        test("2007.handlers.command", |dir| {
            handlers(&Path2007::Command, dir)
        }),
    ];
    let mut mounted =
        |name: &str, run: fn(&RunDir) -> Result<()>| match skip::decide(name, &[Need::Fuse]) {
            Decision::Run => tests.push(test(name, run)),
            Decision::Refuse(why) => tests.push(test(name, move |_| bail!("{why}"))),
            Decision::Skip(why) => println!("SKIP {name}: {why}"),
        };
    mounted("2007.forker.mount", |dir| {
        let mount = Mounted::new()?;
        forker(&Path2007::Mount(mount.at.clone()), dir)
    });
    mounted("2007.handlers.mount", |dir| {
        let mount = Mounted::new()?;
        handlers(&Path2007::Mount(mount.at.clone()), dir)
    });
    mounted("tree", tree);
    mounted("rewritten.private_queues", |dir| {
        rewritten("private_queues", dir)
    });
    mounted("rewritten.siginfo_faults", |dir| {
        rewritten("siginfo_faults", dir)
    });
    mounted("rewritten.altstacks", |dir| rewritten("altstacks", dir));
    mounted("rewritten.posix_timer", |dir| rewritten("posix_timer", dir));
    mounted("one-write", one_write);
    mounted("errors", errors);
    mounted("addresses", addresses);
    mounted("snapshots", snapshots);
    mounted("at-the-same-time", at_the_same_time);
    mounted("other-uid", other_uid);
    mounted("number-reused", number_reused);
    mounted("server-killed", server_killed);
    mounted("mounting", mounting);
    match skip::decide("by-a-user", &[Need::Fuse, Need::Fusermount]) {
        Decision::Run => tests.push(test("by-a-user", by_a_user)),
        Decision::Refuse(why) => tests.push(test("by-a-user", move |_| bail!("{why}"))),
        Decision::Skip(why) => println!("SKIP by-a-user: {why}"),
    }
    tests
}

/// What takes the place of `/proc/$p/sig/FILE` in the commands of 2007.
enum Path2007 {
    /// `criu-signals cat` and `write`.
    Command,
    Mount(PathBuf),
}

impl Path2007 {
    /// The commands with that path; nothing else is changed.
    fn changed(&self, script: &str) -> Result<String> {
        Ok(match self {
            Path2007::Mount(at) => script.replace("/proc/", &format!("{}/", at.display())),
            Path2007::Command => {
                let command = config::command()?.display().to_string();
                script
                    .lines()
                    .map(|line| {
                        let line = line.replace("/sig/", "/");
                        if let Some((text, place)) = line.split_once(" > /proc/") {
                            format!("{} | {command} write {place}\n", text)
                        } else {
                            line.replace("cat /proc/", &format!("{command} cat ")) + "\n"
                        }
                    })
                    .collect()
            }
        })
    }

    /// Runs them as a script that is called neither "forked" nor "handlertest", for which they look.
    fn run(&self, script: &str, dir: &RunDir) -> Result<Output> {
        fs::write(dir.file("steps.sh"), self.changed(script)?)?;
        let done = Command::new("sh")
            .arg("steps.sh")
            .current_dir(dir.path())
            .output()?;
        ensure!(
            done.status.success() && done.stderr.is_empty(),
            "{}: {}",
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(done)
    }
}

/// checkforker.sh over forker. What it prints is what /proc says, and what was sent.
fn forker(path: &Path2007, dir: &RunDir) -> Result<()> {
    let out = File::create(dir.file("printed"))?;
    let sleeper = Sleeper(
        Command::new(config::of_2007("forked"))
            .stdout(out)
            .spawn()?,
    );
    let pid = Pid::try_from(sleeper.0.id())?;
    let child = wait::until("the child's end", PATIENCE, || {
        let pending = status_mask(pid, "ShdPnd")? >> 16 & 1 == 1;
        Ok(
            fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?
                .trim()
                .parse::<Pid>()
                .ok()
                .filter(|_| pending),
        )
    })?;
    let script = fs::read_to_string(config::of_2007("checkforker.sh"))?;
    let done = path.run(&script, dir)?;
    let said = String::from_utf8(done.stdout)?;
    // The shell sent three.
    let shell: Pid = said
        .lines()
        .find_map(|line| {
            line.strip_prefix("sig 10: uid 0 pid ")?
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .context("no SIGUSR1")?;
    let kill = |signo: i32| {
        format!("sig {signo}: uid 0 pid {shell} flags 0 errno 0 code 0\n    pid {shell} uid 0\n")
    };
    let expected = format!(
        "pending\n{EMPTY}blocked\n{}shared pending\n{}\
         sig 17: uid 0 pid {child} flags 0 errno 0 code 1\n    pid {child} uid 0 status 0 utime 0 stime 0\n{}{}{}",
        mask(&[10, 11, 12, 17, 29]),
        mask(&[10, 11, 17, 29]),
        kill(10),
        kill(29),
        kill(11),
    );
    // How long the child ran is not for us to say.
    let time = |text: &str| {
        text.lines()
            .map(|line| line.split(" utime ").next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    ensure!(
        time(&said) == time(&expected),
        "it prints\n{said}expected\n{expected}"
    );
    Ok(())
}

fn status_mask(pid: Pid, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(u64::from_str_radix(
        line.context("no such line")?.trim(),
        16,
    )?)
}

/// handlertest: the actions of one are written into another.
fn handlers(path: &Path2007, dir: &RunDir) -> Result<()> {
    let pid = "pid=`ps -ef | grep handlertest | grep -v grep | awk '{ print $2 }'`\n";
    for (handler, script, said) in [
        (
            "2",
            "cat /proc/$pid/sig/action > action\nkill -USR1 $pid\n",
            "using handler 2\nhandler 2 called\n",
        ),
        (
            "1",
            "cat /proc/$pid/sig/action > action\nkill -USR1 $pid\n",
            "using handler 1\nhandler 1 called\n",
        ),
        (
            "2",
            "cat action > /proc/$pid/sig/action\nkill -USR1 $pid\n",
            "using handler 2\nhandler 1 called\n",
        ),
    ] {
        let out = File::create(dir.file("printed"))?;
        let program = config::of_2007("handlertest");
        let mut sleeper = Sleeper(Command::new(program).arg(handler).stdout(out).spawn()?);
        let own = Pid::try_from(sleeper.0.id())?;
        wait::until("the handler", PATIENCE, || {
            let caught = status_mask(own, "SigCgt")? >> 9 & 1 == 1;
            Ok((caught && procfs::state(own) == Some('S')).then_some(()))
        })?;
        path.run(&format!("{pid}{script}"), dir)?;
        let ended = wait::until("its end", PATIENCE, || Ok(sleeper.0.try_wait()?))?;
        ensure!(
            dir.read("printed") == said,
            "{ended}; it prints {:?}, expected {said:?}",
            dir.read("printed")
        );
    }
    Ok(())
}

fn rewritten(program: &str, dir: &RunDir) -> Result<()> {
    let mount = Mounted::new()?;
    let victim = start(program, None, dir)?;
    for tid in procfs::tasks(victim.pid())? {
        rewrite(&mount.way(), victim.pid(), tid).with_context(|| format!("tid {tid}"))?;
    }
    victim.finish(CHECK)
}

/// What there is: all processes, their threads, six files each, of size 0.
fn tree(dir: &RunDir) -> Result<()> {
    let mount = Mounted::new()?;
    let victim = start("many_threads", None, dir)?;
    let pid = victim.pid();
    let names = |path: &Path| -> Result<Vec<String>> {
        let mut names = fs::read_dir(path)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    };
    let numbers = |path: &Path| -> Result<Vec<Pid>> {
        let mut numbers: Vec<Pid> = names(path)?
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    };
    ensure!(numbers(&mount.at)? == numbers(Path::new("/proc"))?);
    let process = mount.at.join(pid.to_string());
    ensure!(names(&process)? == ["sig", "task"]);
    let mut tasks = procfs::tasks(pid)?;
    tasks.sort_unstable();
    ensure!(tasks.len() > 1 && numbers(&process.join("task"))? == tasks);
    let files = [
        "action",
        "altstack",
        "blocked",
        "pending",
        "shared_pending",
        "waiters",
    ];
    ensure!(names(&process.join("sig"))? == files);
    for tid in tasks {
        let thread = process.join(format!("task/{tid}"));
        ensure!(names(&thread)? == ["sig"]);
        ensure!(names(&thread.join("sig"))? == files);
        // A thread has no folder at the top.
        ensure!(mount.at.join(tid.to_string()).exists() == (tid == pid));
        for file in SigFile::ALL {
            let path = thread.join("sig").join(file.name());
            ensure!(fs::metadata(&path)?.len() == 0);
            let text = fs::read_to_string(&path)?;
            ensure!(
                text == Way::Library.read(pid, tid, file)?,
                "{}",
                path.display()
            );
        }
    }
    ensure!(!mount.at.join("self").exists() && !process.join("sig/status").exists());
    victim.finish(CHECK)
}

fn writer(mount: &Mounted, pid: Pid, file: SigFile) -> Result<File> {
    Ok(OpenOptions::new().write(true).open(mount.path(pid, file))?)
}

/// One write(2) is one text: it is true when the call returns, or nothing is changed. What is kept for later could be
/// finished by somebody else.
fn one_write(_: &RunDir) -> Result<()> {
    use nix::libc;
    let mount = Mounted::new()?;
    let (_sleeper, pid) = Sleeper::start(&[10, 34])?;
    let read = |file| Way::Library.read(pid, pid, file);
    let queue = mask(&[10, 34]) + &entry(10) + &entry(34) + &entry(34);
    let mut file = writer(&mount, pid, SigFile::Pending)?;
    file.write_all(queue.as_bytes())?;
    ensure!(read(SigFile::Pending)? == queue);
    // And again through the same descriptor, wherever it stands. Without the last newline it is the same text.
    file.write_all(EMPTY.as_bytes())?;
    ensure!(read(SigFile::Pending)? == EMPTY);
    file.write_all(queue.trim_end().as_bytes())?;
    ensure!(read(SigFile::Pending)? == queue);
    // A piece is no text, and is not kept.
    let (first, rest) = queue.split_at(70);
    ensure!(errno(file.write_all(first.as_bytes())) == libc::EINVAL);
    ensure!(errno(file.write_all(rest.as_bytes())) == libc::EINVAL);
    file.sync_all()?;
    drop(file);
    ensure!(read(SigFile::Pending)? == queue);
    // Some lines of the 64, as one text.
    let mut file = writer(&mount, pid, SigFile::Action)?;
    let line = |signo| format!("{signo} 0 {} 1 0\n", EMPTY.trim());
    let ignored = || status_mask(pid, "SigIgn").map(|set| (set >> 11 & 1, set >> 15 & 1));
    file.write_all(line(12).as_bytes())?;
    ensure!(ignored()? == (1, 0));
    file.write_all((line(12) + &line(16)).as_bytes())?;
    ensure!(ignored()? == (1, 1));
    let mut file = writer(&mount, pid, SigFile::AltStack)?;
    file.write_all(b"4096 16384 0")?;
    ensure!(read(SigFile::AltStack)? == "4096 16384 0\n");
    let mut file = writer(&mount, pid, SigFile::Blocked)?;
    file.write_all(&mask(&[10, 34, 40]).as_bytes()[..64])?;
    ensure!(read(SigFile::Blocked)? == mask(&[10, 34, 40]));
    // The longest text there may be, and what might be a piece of a longer one; `cat` writes pieces of that length.
    let mut file = writer(&mount, pid, SigFile::Pending)?;
    ensure!(file.metadata()?.blksize() == 1 << 19);
    let long = |length: usize| {
        let entries = entry(34).repeat((length - EMPTY.len()) / entry(34).len());
        let text = mask(&[34]) + &entries;
        let blanks = " ".repeat(length - text.len());
        text.replacen("\nsig 34:", &format!("\nsig 34:{blanks}"), 1)
    };
    file.write_all(long((1 << 19) - 1).as_bytes())?;
    let written = read(SigFile::Pending)?;
    ensure!(written.len() > 500_000, "{}", written.len());
    for length in [1 << 19, (1 << 19) + 1, 1 << 20, (1 << 21) + 1] {
        let e = errno(file.write_all(long(length).as_bytes()));
        ensure!(e == libc::EFBIG, "{length}: {e}");
    }
    ensure!(read(SigFile::Pending)? == written);
    Ok(())
}

/// Each where the writer sees it; and nothing is changed.
fn errors(_: &RunDir) -> Result<()> {
    use nix::libc;
    let mount = Mounted::new()?;
    let (mut sleeper, pid) = Sleeper::start(&[10, 34])?;
    Way::Library.write(pid, pid, SigFile::Pending, &(mask(&[10]) + &entry(10)))?;
    let all = || {
        SigFile::ALL
            .into_iter()
            .map(|file| Way::Library.read(pid, pid, file))
            .collect::<Result<Vec<_>>>()
    };
    let before = all()?;
    for (file, text, expected) in [
        (SigFile::Blocked, "nonsense\n".to_owned(), libc::EINVAL),
        (SigFile::Blocked, "nonsense".to_owned(), libc::EINVAL),
        (
            SigFile::Action,
            format!("12 0 {} 1 0\n12 0\n", EMPTY.trim()),
            libc::EINVAL,
        ),
        (
            SigFile::Action,
            format!("9 0 {} 1 0\n", EMPTY.trim()),
            libc::EINVAL,
        ),
        (SigFile::AltStack, "4096 1 0\n".to_owned(), libc::ENOMEM),
        (SigFile::Pending, mask(&[34]) + "sig 34\n", libc::EINVAL),
        (SigFile::Pending, mask(&[9]), libc::EINVAL),
        (SigFile::Pending, mask(&[34]) + &entry(10), libc::EINVAL),
        (
            SigFile::SharedPending,
            mask(&[10]) + &entry(10) + &entry(10),
            libc::EINVAL,
        ),
    ] {
        let mut open = writer(&mount, pid, file)?;
        let wrote = errno(open.write_all(text.as_bytes()));
        ensure!(wrote == expected, "{file} {text:?}: write: {wrote}");
        drop(open);
        ensure!(all()? == before, "{file} {text:?} changed something");
    }
    ensure!(
        errno(
            OpenOptions::new()
                .write(true)
                .open(mount.path(pid, SigFile::Waiters))
        ) == libc::EACCES
    );
    ensure!(errno(File::open(mount.path(4_000_000, SigFile::Blocked))) == libc::ENOENT);
    ensure!(errno(File::create(mount.at.join("new"))) != 0);
    ensure!(errno(fs::remove_file(mount.path(pid, SigFile::Blocked))) != 0);
    let mode = PermissionsExt::from_mode(0o666);
    ensure!(errno(fs::set_permissions(mount.path(pid, SigFile::Blocked), mode)) == libc::EPERM);
    // Its own: it could not be stopped while it waits.
    ensure!(errno(fs::read(mount.path(1, SigFile::Blocked))) == libc::EDEADLK);
    // Somebody else traces it.
    let open = File::open(mount.path(pid, SigFile::Blocked))?;
    nix::sys::ptrace::seize(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::ptrace::Options::empty(),
    )?;
    ensure!(errno((&open).read(&mut [0; 100])) == libc::EPERM);
    nix::sys::ptrace::interrupt(nix::unistd::Pid::from_raw(pid))?;
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None)?;
    nix::sys::ptrace::detach(nix::unistd::Pid::from_raw(pid), None)?;
    ensure!((&open).read(&mut [0; 100])? == 65);
    // It is gone.
    let writes = writer(&mount, pid, SigFile::Blocked)?;
    sleeper.0.kill()?;
    sleeper.0.wait()?;
    ensure!(
        errno(open.read_at(&mut [0; 100], 0)) != 0,
        "it reads a process that is gone"
    );
    ensure!(errno((&writes).write(EMPTY.as_bytes())) != 0);
    ensure!(errno(File::open(mount.path(pid, SigFile::Blocked))) == libc::ENOENT);
    Ok(())
}

/// A handler where the process has no code would end it.
fn addresses(_: &RunDir) -> Result<()> {
    use nix::libc;
    let mount = Mounted::new()?;
    let (_sleeper, pid) = Sleeper::start(&[])?;
    let read = || Way::Library.read(pid, pid, SigFile::Action);
    let before = read()?;
    let zeros = EMPTY.trim();
    let write = |line: String| {
        let mut file = writer(&mount, pid, SigFile::Action)?;
        Ok::<_, anyhow::Error>(errno(file.write_all(line.as_bytes())))
    };
    // SA_RESTORER: it would return to where there is nothing.
    let code = code(pid)?;
    for line in [
        format!("10 0 {zeros} 4096 0\n"),
        format!("10 67108864 {zeros} {code} 4096\n"),
    ] {
        ensure!(write(line.clone())? == libc::EINVAL, "{line}");
        ensure!(read()? == before, "{line}");
    }
    ensure!(write(format!("10 67108864 {zeros} {code} {code}\n"))? == 0);
    let line = read()?.lines().nth(9).map(str::to_owned);
    ensure!(line.is_some_and(|line| line.contains(&format!(" {code} "))));
    Ok(())
}

/// A reader has the text of one instant, whatever becomes of the process meanwhile.
fn snapshots(_: &RunDir) -> Result<()> {
    let mount = Mounted::new()?;
    let (_sleeper, pid) = Sleeper::start(&[34])?;
    let write = |text: &str| Way::Library.write(pid, pid, SigFile::Pending, text);
    let (long, short) = (mask(&[34]) + &entry(34).repeat(20), EMPTY.to_owned());
    write(&long)?;
    let mut first = File::open(mount.path(pid, SigFile::Pending))?;
    let mut begun = [0; 100];
    first.read_exact(&mut begun)?;
    write(&short)?;
    let mut second = String::new();
    File::open(mount.path(pid, SigFile::Pending))?.read_to_string(&mut second)?;
    ensure!(second == short);
    let mut rest = String::new();
    first.read_to_string(&mut rest)?;
    ensure!(std::str::from_utf8(&begun)?.to_owned() + &rest == long);
    // From the beginning it is looked at again, as in /proc; behind the end there is nothing.
    ensure!(first.read_at(&mut begun, 0)? == 65);
    ensure!(first.read_at(&mut begun, 65)? == 0);
    ensure!(first.read_at(&mut begun, 1 << 40)? == 0);
    ensure!(first.read_at(&mut begun, 60)? == 5);
    Ok(())
}

fn at_the_same_time(dir: &RunDir) -> Result<()> {
    let mount = Mounted::new()?;
    let victim = start("private_queues", None, dir)?;
    let pid = victim.pid();
    let path = |file| mount.path(pid, file);
    let texts = SigFile::ALL
        .into_iter()
        .map(|file| Ok((path(file), fs::read(path(file))?)))
        .collect::<Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..12)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    for _ in 0..20 {
                        for (path, text) in &texts {
                            ensure!(fs::read(path)? == *text, "{}", path.display());
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        readers
            .into_iter()
            .try_for_each(|reader| reader.join().unwrap_or_else(|_| bail!("a reader panicked")))
    })?;
    victim.finish(CHECK)
}

/// As `uid`.
fn as_user(uid: u32, command: &str) -> Result<Output> {
    Ok(Command::new("sh")
        .args(["-c", command])
        .uid(uid)
        .gid(uid)
        .current_dir("/")
        .output()?)
}

fn other_uid(_: &RunDir) -> Result<()> {
    let mount = Mounted::for_all()?;
    let (_root, of_root) = Sleeper::start(&[])?;
    let (_own, own) = Sleeper::start_as(NOBODY)?;
    let (_other, other) = Sleeper::start_as(NOBODY - 1)?;
    let may = |pid: Pid, file: &str, access: &str| -> Result<bool> {
        let path = mount.at.join(format!("{pid}/sig/{file}"));
        let path = path.display();
        let done = as_user(
            NOBODY,
            &match access {
                "read" => format!("cat {path}"),
                "write" => format!("cat {path} > /dev/null; echo {} > {path}", EMPTY.trim()),
                "open" => format!(": >> {path}"),
                _ => format!("test -r {path}"),
            },
        )?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(
            done.status.success() || access == "test" || said.contains("Permission denied"),
            "{pid}/{file} {access}: {said}"
        );
        Ok(done.status.success())
    };
    for access in ["read", "write", "open", "test"] {
        ensure!(may(own, "blocked", access)?, "one's own: {access}");
        ensure!(!may(of_root, "blocked", access)?, "root's: {access}");
        ensure!(!may(other, "blocked", access)?, "another user's: {access}");
    }
    // Who waits for it is the parent's business, which is root's.
    ensure!(!may(own, "waiters", "read")?);
    // What may not be read may not be dumped, nor traced.
    fs::copy("/bin/sleep", "/run/sleep")?;
    fs::set_permissions("/run/sleep", PermissionsExt::from_mode(0o711))?;
    let (_hidden, hidden) = Sleeper::started(
        Command::new("/run/sleep")
            .arg("1000")
            .uid(NOBODY)
            .gid(NOBODY),
    )?;
    ensure!(!may(hidden, "blocked", "read")?, "not dumpable");
    // Root may, whoever's.
    for pid in [of_root, own, other, hidden] {
        ensure!(fs::read_to_string(mount.path(pid, SigFile::Blocked))? == EMPTY);
    }
    Ok(())
}

/// Mounted by somebody without any right: he has his own processes' files, and nobody else has any, whatever fuse.conf says.
fn by_a_user(_: &RunDir) -> Result<()> {
    use nix::libc;
    use nix::mount::{MsFlags, mount};
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let bind = |from: &str, to: &str| {
        mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("binding {to}"))
    };
    fs::set_permissions("/run", PermissionsExt::from_mode(0o755))?;
    // As udev makes it (50-udev-default.rules); a container's may be root's alone.
    let mode = Mode::from_bits_truncate(0o666);
    mknod("/run/fuse", SFlag::S_IFCHR, mode, makedev(10, 229)).context("mknod")?;
    fs::set_permissions("/run/fuse", PermissionsExt::from_mode(0o666))?;
    bind("/run/fuse", "/dev/fuse")?;
    fs::write("/run/fuse.conf", "")?;
    bind("/run/fuse.conf", "/etc/fuse.conf")?;
    fs::copy(config::command()?, "/run/criu-signals")?;
    fs::create_dir("/run/own")?;
    std::os::unix::fs::chown("/run/own", Some(NOBODY), Some(NOBODY))?;
    let (_root, of_root) = Sleeper::start(&[])?;
    let (_own, own) = Sleeper::start_as(NOBODY)?;
    let (_other, other) = Sleeper::start_as(NOBODY - 1)?;
    for others_too in [false, true] {
        fs::write(
            "/run/fuse.conf",
            if others_too { "user_allow_other\n" } else { "" },
        )?;
        let done = |what: &str| -> Result<Output> {
            let done = as_user(NOBODY, what)?;
            ensure!(done.status.success(), "{what}: {done:?}");
            Ok(done)
        };
        done("/run/criu-signals mount /run/own")?;
        let blocked = format!("/run/own/{own}/sig/blocked");
        let read = || Ok::<_, anyhow::Error>(done(&format!("cat {blocked}"))?.stdout);
        ensure!(read()? == EMPTY.as_bytes());
        let usr1 = mask(&[10]);
        done(&format!("echo {} > {blocked}", usr1.trim()))?;
        ensure!(read()? == usr1.as_bytes());
        done(&format!("echo {} > {blocked}", EMPTY.trim()))?;
        for pid in [of_root, other] {
            let done = as_user(NOBODY, &format!("cat /run/own/{pid}/sig/blocked"))?;
            let said = String::from_utf8_lossy(&done.stderr);
            ensure!(said.contains("Permission denied"), "{pid}: {done:?}");
        }
        ensure!(errno(fs::read_dir("/run/own")) == libc::EACCES);
        for pid in [of_root, own] {
            let read = fs::read(format!("/run/own/{pid}/sig/blocked"));
            ensure!(errno(read) == libc::EACCES, "{pid}");
        }
        done("/run/criu-signals unmount /run/own")?;
        let refused = as_user(NOBODY, "/run/criu-signals mount --allow-other /run/own")?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(
            refused.status.code() == Some(2) && said.contains("needs root"),
            "{said}"
        );
        ensure!(fs::read_dir("/run/own")?.next().is_none());
    }
    Ok(())
}

/// An open file is of the process that it was opened for, not of another with its number.
fn number_reused(_: &RunDir) -> Result<()> {
    use nix::libc;
    let mount = Mounted::new()?;
    let (sleeper, pid) = Sleeper::start(&[])?;
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .open(mount.path(pid, SigFile::Blocked))?;
    // In clock ticks: the two must differ.
    std::thread::sleep(std::time::Duration::from_millis(30));
    drop(sleeper);
    fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())?;
    let (_again, again) = Sleeper::start(&[])?;
    ensure!(again == pid, "it is {again}, not {pid}");
    ensure!(errno(open.read_at(&mut [0; 100], 0)) == libc::ESRCH);
    ensure!(errno((&open).write(mask(&[10]).as_bytes())) == libc::ESRCH);
    ensure!(fs::read_to_string(mount.path(pid, SigFile::Blocked))? == EMPTY);
    Ok(())
}

fn server_killed(_: &RunDir) -> Result<()> {
    use nix::libc;
    let mount = Mounted::new()?;
    let (_sleeper, pid) = Sleeper::start(&[10])?;
    let open = File::open(mount.path(pid, SigFile::Blocked))?;
    let server = procfs::all()?
        .into_iter()
        .find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|&byte| byte == 0).any(|word| word == b"--serve")
        })
        .context("no server")?;
    kill(nix::unistd::Pid::from_raw(server), Signal::SIGKILL)?;
    wait::until("ENOTCONN", PATIENCE, || {
        let e = errno(open.read_at(&mut [0; 100], 0));
        Ok((e == libc::ENOTCONN).then_some(()))
    })?;
    ensure!(errno(fs::read_dir(&mount.at)) == libc::ENOTCONN);
    procfs::comes_to(pid, 'S')?;
    ensure!(Way::Library.read(pid, pid, SigFile::Blocked)? == mask(&[10]));
    drop(open);
    let done = run(&["unmount", "/run/sig"], b"")?;
    ensure!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    ensure!(fs::read_dir(&mount.at)?.next().is_none());
    Ok(())
}

fn mounting(dir: &RunDir) -> Result<()> {
    let mount = Mounted::new()?;
    let fails = |args: &[&str], says: &str| -> Result<()> {
        let done = run(args, b"")?;
        let said = String::from_utf8(done.stderr)?;
        ensure!(
            done.status.code() == Some(2) && said.contains(says),
            "{args:?}: {}: {said}",
            done.status
        );
        Ok(())
    };
    let folder = dir.path().display().to_string();
    fails(
        &["unmount", &folder],
        "no file system of criu-signals is mounted there",
    )?;
    fails(
        &["unmount", "/proc"],
        "no file system of criu-signals is mounted there",
    )?;
    fails(&["mount", "/run/none"], "No such file or directory")?;
    fs::write(dir.file("plain"), "")?;
    fails(&["mount", &format!("{folder}/plain")], "not a folder")?;
    // In use.
    let open = File::open(mount.at.join("1/sig"))?;
    fails(&["unmount", "/run/sig"], "EBUSY")?;
    drop(open);
    ensure!(run(&["unmount", "/run/sig/"], b"")?.status.success());
    ensure!(fs::read_dir(&mount.at)?.next().is_none());
    // In the foreground it ends with the mount.
    let mut server = Command::new(config::command()?)
        .args(["mount", "--foreground", "/run/sig"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = [0; 8];
    server
        .stdout
        .take()
        .context("a pipe")?
        .read_exact(&mut said)?;
    ensure!(&said == b"mounted\n");
    ensure!(mount.at.join("1").exists());
    ensure!(run(&["unmount", "/run/sig"], b"")?.status.success());
    let ended = wait::until("the server's end", PATIENCE, || Ok(server.try_wait()?))?;
    ensure!(ended.success(), "{ended}");
    Ok(())
}
