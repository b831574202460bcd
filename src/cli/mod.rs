//! The command line: what it accepts, and which part of the library does it.

mod show;

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use criu_signals::images::{Image, Pid, image, json};
use criu_signals::record;
use criu_signals::tracee::{ByUs, StoppedProcess};

/// What a command that failed says.
type Failure = Box<dyn std::error::Error>;

/// How long a thread may take to stop. Only one in uninterruptible sleep takes any time at all.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Shows the signal state of Linux processes: live ones, and those in CRIU's image folders.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  criu-signals show 4711\n  criu-signals show images/\n  \
    criu-signals decode images/signals-4711.img | jq .process.comm"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows the signal state of live processes, of images, or of all images in a folder.
    Show {
        /// A pid, a signals-PID.img, or a folder that holds some.
        #[arg(required = true, value_name = "PID|IMAGE|FOLDER")]
        what: Vec<String>,
        /// Print every entry of long queues.
        #[arg(long)]
        all: bool,
    },
    /// Writes an image as JSON.
    Decode {
        /// A signals-PID.img.
        image: PathBuf,
    },
    /// Writes JSON, as `decode` gives it, as an image.
    Encode {
        /// The JSON; standard input if it is `-`.
        json: PathBuf,
        /// The image to write. It must not exist.
        #[arg(short, long)]
        output: PathBuf,
    },
}

/// Runs the command: 0, or 2 if it failed.
pub fn run() -> ExitCode {
    match execute(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // A reader that has seen enough is no failure.
            if e.downcast_ref::<io::Error>()
                .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
            {
                return ExitCode::SUCCESS;
            }
            eprintln!("criu-signals: {e}");
            ExitCode::from(2)
        }
    }
}

fn execute(command: Command) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match command {
        Command::Show { what, all } => {
            for (n, what) in what.iter().enumerate() {
                if n > 0 {
                    writeln!(out)?;
                }
                for (n, image) in load(what)?.iter().enumerate() {
                    if n > 0 {
                        writeln!(out)?;
                    }
                    show::process(&mut out, &image.process, all)?;
                }
            }
        }
        Command::Decode { image: path } => {
            writeln!(out, "{}", json::to_json(&image::open(&path)?)?)?
        }
        Command::Encode { json: path, output } => {
            let mut text = String::new();
            if path.as_os_str() == "-" {
                io::stdin().read_to_string(&mut text)?;
            } else {
                text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            }
            let decoded = json::from_json(&text)?;
            let file =
                fs::File::create_new(&output).map_err(|e| format!("{}: {e}", output.display()))?;
            image::write(io::BufWriter::new(file), &decoded)?;
        }
    }
    Ok(())
}

/// A number is a pid, a folder stands for its images.
fn load(what: &str) -> Result<Vec<Image>, Failure> {
    if let Ok(pid) = what.parse() {
        return live(Pid(pid)).map(|image| vec![image]);
    }
    let path = Path::new(what);
    if !path.is_dir() {
        return Ok(vec![image::open(path)?]);
    }
    let dir = fs::File::open(path).map_err(|e| format!("{what}: {e}"))?;
    let pids = record::captured_processes(std::os::fd::AsFd::as_fd(&dir))?;
    if pids.is_empty() {
        return Err(format!("{what}: holds no signals-PID.img").into());
    }
    let open = |pid| image::open(&path.join(image::file_name(pid))).map_err(Failure::from);
    pids.into_iter().map(open).collect()
}

fn live(pid: Pid) -> Result<Image, Failure> {
    let stopped = StoppedProcess::<ByUs>::seize(pid, STOP_TIMEOUT)?;
    let image = record::of(&stopped);
    stopped.release()?;
    Ok(image?)
}
