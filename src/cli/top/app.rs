//! The state of `top`, and the effect of each key on it.

use std::collections::HashMap;

use clap::ValueEnum as _;
use criu_signals::images::{Pid, Tid};
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::details::Details;
use crate::cli::context::Failure;
use crate::cli::ps::{Key, Listing, Row, Source, user_of};

/// What is to be done after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    /// Read everything once more.
    Refresh,
    Suspend,
    Quit,
}

/// How much of the screen the details have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pane {
    Hidden,
    Below,
    Alone,
}

pub struct App {
    pub listing: Listing,
    source: Source,
    /// Why the list comes from /proc.
    pub why: Option<String>,
    pub colours: bool,
    /// All there are, as they were read.
    everything: Vec<Row>,
    /// Those that are shown, in order.
    pub rows: Vec<Row>,
    /// How many are not, because their cgroup or pid namespace could not be read.
    pub unseen: usize,
    pub users: HashMap<u32, String>,
    /// The line under the cursor: the process or thread, and where it is.
    chosen: Option<(Pid, Tid)>,
    pub at: usize,
    /// The first line on the screen, and how many there are.
    pub first: usize,
    pub page: usize,
    /// The first of the columns that move sideways.
    pub column: usize,
    pub pending_only: bool,
    pub reversed: bool,
    pub paused: bool,
    pub filter: String,
    /// The filter while it is typed.
    pub typed: Option<String>,
    pub pane: Pane,
    details: Details,
    pub lines: Vec<String>,
    pub scrolled: usize,
}

/// The columns that do not move sideways: PID, USER, NAME.
pub const FIXED: usize = 3;

impl App {
    pub fn new(listing: Listing, source: Source, why: Option<String>, colours: bool) -> App {
        App {
            listing,
            source,
            why,
            colours,
            everything: Vec::new(),
            rows: Vec::new(),
            unseen: 0,
            users: HashMap::new(),
            chosen: None,
            at: 0,
            first: 0,
            page: 1,
            column: FIXED,
            pending_only: false,
            reversed: false,
            paused: false,
            filter: String::new(),
            typed: None,
            pane: Pane::Below,
            details: Details::new(),
            lines: Vec::new(),
            scrolled: 0,
        }
    }

    /// How many there are, shown or not.
    pub fn all(&self) -> usize {
        self.everything.len()
    }

    pub fn is_of_proc(&self) -> bool {
        matches!(self.source, Source::Proc)
    }

    pub fn order(&self) -> String {
        let name = self.listing.sort.to_possible_value();
        name.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub fn chosen_row(&self) -> Option<&Row> {
        self.rows.get(self.at)
    }

    pub fn refresh(&mut self) -> Result<(), Failure> {
        self.everything = self.listing.rows(&self.source)?;
        self.arrange();
        Ok(())
    }

    /// Selects and orders anew what was read; the cursor stays on its process.
    fn arrange(&mut self) {
        let (mut rows, unseen) = self.listing.selected(self.everything.clone());
        self.unseen = unseen.map_or(0, |unseen| unseen.number);
        let wanted = self.typed.as_ref().unwrap_or(&self.filter).clone();
        let (users, pending_only) = (&mut self.users, self.pending_only);
        rows.retain(|row| {
            (!pending_only || !row.pending.is_empty())
                && (wanted.is_empty()
                    || row.comm.to_string().contains(&wanted)
                    || user_of(row, users).contains(&wanted)
                    || row.pid.to_string().contains(&wanted))
        });
        if self.reversed {
            rows.reverse();
        }
        self.rows = rows;
        let id = |row: &Row| (row.pid, row.tid);
        let chosen = self.chosen;
        // One that has ended leaves the cursor where it is.
        let place = self.rows.iter().position(|row| Some(id(row)) == chosen);
        self.go_to(place.unwrap_or(self.at));
    }

    fn go_to(&mut self, at: usize) {
        self.at = at.min(self.rows.len().saturating_sub(1));
        let chosen = self.chosen_row().map(|row| (row.pid, row.tid));
        if chosen != self.chosen {
            self.scrolled = 0;
        }
        self.chosen = chosen;
        self.look();
    }

    fn look(&mut self) {
        self.lines = match self.chosen {
            Some((pid, _)) if self.pane != Pane::Hidden => self.details.lines(pid),
            _ => Vec::new(),
        };
    }

    pub fn event(&mut self, event: &Event) -> Wish {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.key(*key),
            _ => Wish::Nothing,
        }
    }

    fn key(&mut self, key: KeyEvent) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return Wish::Quit,
                KeyCode::Char('z') => return Wish::Suspend,
                _ => {}
            }
        }
        if self.typed.is_some() {
            self.typing(key.code);
            return Wish::Nothing;
        }
        match key.code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Esc if self.pane == Pane::Alone => self.pane = Pane::Below,
            KeyCode::Esc => self.filter_by(String::new()),
            KeyCode::Up => self.go_to(self.at.saturating_sub(1)),
            KeyCode::Down => self.go_to(self.at + 1),
            KeyCode::PageUp => self.go_to(self.at.saturating_sub(self.page)),
            KeyCode::PageDown => self.go_to(self.at + self.page),
            KeyCode::Home => self.go_to(0),
            KeyCode::End => self.go_to(usize::MAX),
            KeyCode::Left => self.column = self.column.saturating_sub(1).max(FIXED),
            KeyCode::Right => self.column = (self.column + 1).min(self.listing.heading().len() - 1),
            KeyCode::Enter => {
                self.pane = match self.pane {
                    Pane::Alone => Pane::Below,
                    Pane::Hidden | Pane::Below => Pane::Alone,
                };
                self.look();
            }
            KeyCode::Char(key) => return self.letter(key),
            _ => {}
        }
        Wish::Nothing
    }

    fn letter(&mut self, key: char) -> Wish {
        match key {
            's' => {
                let keys = Key::value_variants();
                let now = keys.iter().position(|&key| key == self.listing.sort);
                let next = keys.get(now.map_or(0, |now| (now + 1) % keys.len()));
                self.listing.sort = next.copied().unwrap_or(self.listing.sort);
            }
            'r' => self.reversed = !self.reversed,
            'p' => self.pending_only = !self.pending_only,
            'x' => self.listing.stopped = !self.listing.stopped,
            'k' => self.listing.kernel = !self.listing.kernel,
            't' => {
                self.listing.threads = !self.listing.threads;
                return Wish::Refresh;
            }
            ' ' => {
                self.paused = !self.paused;
                return Wish::Nothing;
            }
            '/' => self.typed = Some(String::new()),
            'd' => {
                self.pane = match self.pane {
                    Pane::Hidden => Pane::Below,
                    Pane::Below | Pane::Alone => Pane::Hidden,
                }
            }
            '[' => {
                self.scrolled = self.scrolled.saturating_sub(1);
                return Wish::Nothing;
            }
            ']' => {
                self.scrolled = (self.scrolled + 1).min(self.lines.len().saturating_sub(1));
                return Wish::Nothing;
            }
            _ => return Wish::Nothing,
        }
        self.arrange();
        Wish::Nothing
    }

    fn typing(&mut self, key: KeyCode) {
        let Some(mut text) = self.typed.take() else {
            return;
        };
        match key {
            KeyCode::Enter => return self.filter_by(text),
            KeyCode::Esc => return self.arrange(),
            KeyCode::Backspace => drop(text.pop()),
            KeyCode::Char(letter) => text.push(letter),
            _ => {}
        }
        self.typed = Some(text);
        self.arrange();
    }

    fn filter_by(&mut self, text: String) {
        self.filter = text;
        self.arrange();
    }
}
