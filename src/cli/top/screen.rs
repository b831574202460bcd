//! The terminal. Its settings are restored however the command ends.

use std::io;

use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ratatui::DefaultTerminal;

use super::app::App;
use super::view;
use crate::cli::context::Failure;

/// The terminal in its raw mode, with the alternate screen. Whenever this is dropped, and before a panic is reported, the terminal
/// is as it was.
pub struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    pub fn open() -> io::Result<Screen> {
        // It may fail half-way.
        let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore())?;
        Ok(Screen { terminal })
    }

    pub fn draw(&mut self, app: &mut App) -> io::Result<()> {
        self.terminal.draw(|frame| view::draw(frame, app))?;
        Ok(())
    }

    /// Stops this process, as Ctrl-Z does; the shell finds its terminal as it was.
    pub fn suspend(&mut self) -> Result<(), Failure> {
        self.close();
        raise(Signal::SIGSTOP)?;
        // What is drawn next is drawn as a whole: the screen is empty.
        self.terminal = ratatui::try_init()?;
        Ok(())
    }

    fn close(&mut self) {
        let _ = self.terminal.show_cursor();
        ratatui::restore();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A panic has done so before it was reported, and the terminal shows its cursor when it is dropped.
        if !std::thread::panicking() {
            self.close();
        }
    }
}

/// What ends a program, or stops it: it is noticed between two looks at the keyboard only.
pub struct Signals {
    signals: SignalFd,
    blocked: SigSet,
}

impl Signals {
    pub fn begin() -> Result<Signals, Failure> {
        let blocked: SigSet = [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGTSTP,
        ]
        .into_iter()
        .collect();
        blocked.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&blocked, flags)?;
        Ok(Signals { signals, blocked })
    }

    pub fn next(&self) -> nix::Result<Option<Signal>> {
        let info = self.signals.read_signal()?;
        info.map(|info| Signal::try_from(info.ssi_signo.cast_signed()))
            .transpose()
    }

    /// They have their usual effect again.
    pub fn end(self) -> nix::Result<()> {
        self.blocked.thread_unblock()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::process::Command;

    use nix::pty::openpty;
    use nix::sys::termios::tcgetattr;

    use super::*;

    /// Started by the test below, with a terminal.
    #[test]
    #[ignore = "the test below starts this one, with a terminal"]
    fn panics() {
        let _screen = Screen::open().unwrap();
        panic!("on purpose");
    }

    #[test]
    fn a_panic_leaves_the_terminal_as_it_was() {
        let pty = openpty(None, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let slave = || File::from(pty.slave.try_clone().unwrap());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture"])
            .arg("cli::top::screen::tests::panics")
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .unwrap();
        assert!(!child.wait().unwrap().success());
        let after = tcgetattr(&pty.slave).unwrap();
        assert_eq!(before, after);
        let mut said = vec![0; 65536];
        let n = File::from(pty.master).read(&mut said).unwrap();
        let said = String::from_utf8_lossy(&said[..n]).into_owned();
        let [on, off] = ["\x1b[?1049h", "\x1b[?1049l"].map(|code| said.find(code));
        let message = said.find("on purpose");
        assert!(on.is_some() && on < off && off < message, "{said:?}");
        // Once: the second time the cursor would be where it was before the message.
        assert_eq!(said.matches("\x1b[?1049l").count(), 1, "{said:?}");
    }
}
