//! `criu-signals dump`: saves live processes in images, at one instant.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgGroup;
use criu_signals::images::{Pid, Shown as _, image};
use criu_signals::live::{self, Cgroup, Target};
use criu_signals::log_lines;

use super::context::{Context, Failure};
use super::progress::Console;

const EXAMPLES: &str = "\
Examples:
  criu-signals dump -t 4711 -D images
  criu-signals dump -t 4711 --tree -D images
  criu-signals dump --cgroup /sys/fs/cgroup/machine.slice/web -D images";

const EXIT_CODES: &str = "\
Exit codes:
  0  all images were written
  2  no image was written; standard error gives the reason";

/// Saves the signal state of a process, a process tree or a cgroup in images. The processes keep running.
///
/// All processes are stopped together, so that the images show one instant. The image of a process is signals-PID.img,
/// with the pid in the innermost pid namespace. Either all images are written or none.
#[derive(clap::Args)]
#[command(
    after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
    group(ArgGroup::new("target").required(true).args(["pid", "cgroup"]))
)]
pub struct Dump {
    /// The process to dump.
    #[arg(short = 't', long, value_name = "PID", value_parser = super::context::pid)]
    pid: Option<Pid>,
    /// Dump the descendants of the process as well.
    #[arg(long, requires = "pid")]
    tree: bool,
    /// Dump all processes of this cgroup and of the cgroups below. The freezer (v2 or v1) holds the cgroup until every
    /// process is stopped.
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
    /// Folder for the images. Created if missing.
    #[arg(short = 'D', long, value_name = "FOLDER")]
    images_dir: PathBuf,
    /// Print a line for each process.
    #[arg(short, long)]
    verbose: bool,
}

impl Dump {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let target = match (self.pid, self.cgroup) {
            (_, Some(path)) => Target::Cgroup(Cgroup::open(&path)?),
            (Some(pid), _) if self.tree => Target::Tree(pid),
            (Some(pid), None) => Target::Process(pid),
            (None, None) => return Err("name a process (-t) or a cgroup (--cgroup)".into()),
        };
        let folder = self.images_dir.shown();
        // One that was made for nothing does not stay.
        let made = !self.images_dir.exists();
        std::fs::create_dir_all(&self.images_dir)
            .map_err(|e| format!("make the folder {folder}: {e}"))?;
        let dir =
            File::open(&self.images_dir).map_err(|e| format!("open the folder {folder}: {e}"))?;
        context.work_in_child()?;
        let mut console = Console::begin()?;
        let snapshot = live::take(&target, context.timeout, &mut console);
        let written = snapshot.and_then(|snapshot| {
            live::write(dir.as_fd(), &snapshot.images, &mut console)?;
            Ok(snapshot)
        });
        if written.is_err() && made {
            let _ = std::fs::remove_dir(&self.images_dir);
        }
        console.end()?;
        let snapshot = written?;
        let mut out = context.stdout();
        if self.verbose {
            for one in &snapshot.images {
                let process = &one.process;
                let name = image::file_name(process.ids.innermost());
                writeln!(out, "{}", log_lines::summary(process.pid(), one, &name))?;
            }
        }
        let threads: usize = snapshot
            .images
            .iter()
            .map(|i| i.process.threads.len())
            .sum();
        writeln!(
            out,
            "{} of {} dumped into {folder}; they stood still for {:.1} ms",
            super::context::count(snapshot.images.len(), "process", "processes"),
            super::context::count(threads, "thread", "threads"),
            snapshot.stopped.as_secs_f64() * 1e3
        )?;
        Ok(ExitCode::SUCCESS)
    }
}
