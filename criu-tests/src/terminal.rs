//! A terminal: a pty, and what a program draws on it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::{self, ttyname};

use crate::wait::{self, PATIENCE};

/// A terminal on which a program runs.
pub struct Terminal {
    child: Child,
    keys: File,
    /// Its other end, which is kept open: what was drawn can be read when the program has ended.
    tty: OwnedFd,
    before: Termios,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    /// Runs a program on a terminal of its own, which is its controlling terminal. `change` is given the command.
    pub fn start(
        program: impl AsRef<OsStr>,
        args: &[&str],
        [rows, columns]: [u16; 2],
        change: impl FnOnce(&mut Command),
    ) -> Result<Terminal> {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).context("openpty")?;
        let before = tcgetattr(&pty.slave).context("tcgetattr")?;
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(program).args(args);
        command
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .stdin(pty.slave.try_clone()?)
            .stdout(pty.slave.try_clone()?)
            .stderr(pty.slave.try_clone()?);
        change(&mut command);
        let child = command.spawn().context("setsid")?;
        let keys = File::from(pty.master);
        let [lines, width] = extent([rows, columns])?;
        let screen = Arc::new(Mutex::new(vt100::Parser::new(lines, width, 0)));
        let (mut drawn, drawn_on) = (keys.try_clone()?, Arc::clone(&screen));
        // Ends with this process.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = drawn.read(&mut bytes) {
                let mut screen = drawn_on.lock().unwrap_or_else(PoisonError::into_inner);
                screen.process(&bytes[..n]);
            }
        });
        Ok(Terminal {
            child,
            keys,
            tty: pty.slave,
            before,
            screen,
        })
    }

    /// The program.
    pub fn pid(&self) -> unistd::Pid {
        unistd::Pid::from_raw(self.child.id().cast_signed())
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.keys
            .write_all(keys.as_bytes())
            .context("pressing keys")
    }

    fn look<T>(&self, at: impl FnOnce(&vt100::Screen) -> T) -> T {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        at(screen.screen())
    }

    /// What is on the screen, line by line.
    pub fn text(&self) -> String {
        self.look(vt100::Screen::contents)
    }

    /// Waits until the screen is so, and returns its text.
    pub fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> Result<String> {
        let found = wait::until(what, PATIENCE, || {
            Ok(Some(self.text()).filter(|text| is_so(text)))
        });
        found.with_context(|| format!("on the screen is:\n{}", self.text()))
    }

    /// Waits until the screen has this text.
    pub fn shows(&self, wanted: &str) -> Result<String> {
        self.until(wanted, |text| text.contains(wanted))
    }

    /// Changes its size, and tells the program.
    pub fn resize(&self, [rows, columns]: [u16; 2]) -> Result<()> {
        let mut screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        let [lines, width] = extent([rows, columns])?;
        screen.screen_mut().set_size(lines, width);
        drop(screen);
        let size = [rows, columns].map(|n| n.to_string());
        let status = Command::new("stty")
            .arg("--file")
            .arg(ttyname(&self.tty)?)
            .args(["rows", &size[0], "cols", &size[1]])
            .status()?;
        ensure!(status.success(), "stty: {status}");
        Ok(())
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).context("kill")
    }

    /// Waits for the end of the program.
    pub fn ended(&mut self) -> Result<ExitStatus> {
        wait::until("the program to end", PATIENCE, || {
            Ok(self.child.try_wait()?)
        })
        .with_context(|| format!("on the screen is:\n{}", self.text()))
    }

    /// Waits until the terminal is as it was before the program: its mode, its screen and its cursor.
    pub fn is_put_back(&self) -> Result<()> {
        let what = "the terminal to be as before";
        wait::until(what, PATIENCE, || {
            let same = tcgetattr(&self.tty)? == self.before;
            let drawn = self.look(|screen| !screen.alternate_screen() && !screen.hide_cursor());
            Ok((same && drawn).then_some(()))
        })
    }
}

fn extent([rows, columns]: [u16; 2]) -> Result<[NonZero<u16>; 2]> {
    let [rows, columns] = [rows, columns].map(NonZero::new);
    Ok([rows.context("no rows")?, columns.context("no columns")?])
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
