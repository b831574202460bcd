//! `criu-signals top`: the signal state of all processes in the terminal, refreshed at an interval.

mod app;
mod details;
mod screen;
mod view;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, raise};
use ratatui::crossterm::event;

use super::context::{Context, FAILED, Failure};
use super::ps::Listing;
use app::{App, Wish};
use screen::{Screen, Signals};

/// Shows the signal state of all processes in the terminal, refreshed at an interval, with the details of one process.
///
/// The help of `criu-signals ps` explains the columns and options. Below the list, the process under the cursor is shown as by
/// `criu-signals show --no-stop`. Both are read by BPF; no process is stopped. Where BPF is not available, the list comes from
/// /proc, and there are no details.
///
/// Keys: arrows, PgUp, PgDn, Home and End move the cursor and, sideways, the columns; s changes the order, r reverses it; / asks for
/// a text that a line's name, user or pid must contain; p, x, t and k show only pending, only stopped, each thread, the kernel's
/// threads; space pauses; Enter shows the details alone, d hides them, [ and ] scroll them; q quits.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  criu-signals top
  criu-signals top --sort queued --interval 0.5
  criu-signals top --pending --user www-data

Exit codes:
  0  q or Ctrl-C was pressed
  2  there is no terminal, or neither BPF nor /proc could be read")]
pub struct Top {
    #[command(flatten)]
    listing: Listing,
    /// Seconds between two readings of all processes.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = super::watch::interval)]
    interval: Duration,
}

/// How long a signal to the command may have to wait.
const LOOK: Duration = Duration::from_millis(50);

impl Top {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Err(
                "top needs a terminal as standard input and output: criu-signals ps prints the list once".into(),
            );
        }
        let mut why = None;
        let source = self.listing.source(|said| why = Some(said));
        let colours = context.stdout().current_choice() != anstream::ColorChoice::Never;
        let mut app = App::new(self.listing, source, why, colours);
        app.refresh()?;
        // Before the terminal is changed: there is no instant at which a signal would leave it so.
        let signals = Signals::begin()?;
        let mut screen = Screen::open()?;
        let ended = run(&mut app, &mut screen, &signals, self.interval);
        drop(screen);
        match ended? {
            None => Ok(ExitCode::SUCCESS),
            Some(signal) => {
                signals.end()?;
                raise(signal)?;
                Ok(ExitCode::from(FAILED))
            }
        }
    }
}

/// Until the user or a signal ends it.
fn run(
    app: &mut App,
    screen: &mut Screen,
    signals: &Signals,
    interval: Duration,
) -> Result<Option<Signal>, Failure> {
    let mut next = Instant::now() + interval;
    loop {
        screen.draw(app)?;
        loop {
            match signals.next()? {
                Some(Signal::SIGTSTP) => {
                    screen.suspend()?;
                    break;
                }
                Some(signal) => return Ok(Some(signal)),
                None => {}
            }
            let now = Instant::now();
            if now >= next && !app.paused {
                app.refresh()?;
                next = Instant::now() + interval;
                break;
            }
            let left = if app.paused { LOOK } else { next - now };
            if !event::poll(left.min(LOOK))? {
                continue;
            }
            match app.event(&event::read()?) {
                Wish::Nothing => {}
                Wish::Refresh => app.refresh()?,
                Wish::Suspend => screen.suspend()?,
                Wish::Quit => return Ok(None),
            }
            break;
        }
    }
}
