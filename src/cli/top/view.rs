//! The screen: a line about the list, the list, the details, a line of keys.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::app::{App, FIXED, Pane};
use crate::cli::context::count;
use crate::cli::ps::COLUMNS;

/// How wide a column of signals is where not all columns have room.
const SIGNALS: usize = 24;
/// The first column of signals.
const PENDING: usize = 6;

const KEYS: &str = "q quit  s sort  r reverse  / filter  p pending  space pause  Enter details";

pub fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let area = frame.area();
    let [head, list, details, keys] = match app.pane {
        Pane::Hidden => parts(area, Constraint::Fill(1), Constraint::Length(0)),
        Pane::Below => parts(area, Constraint::Fill(1), Constraint::Fill(1)),
        Pane::Alone => parts(area, Constraint::Length(0), Constraint::Fill(1)),
    };
    frame.render_widget(headline(app), head);
    table(frame, app, list);
    text(frame, app, details);
    let line = match &app.typed {
        Some(text) => Line::from(format!("filter: {text}_  (Enter: keep, Esc: leave)")),
        None => Line::styled(KEYS, Modifier::DIM),
    };
    frame.render_widget(line, keys);
}

fn parts(area: Rect, list: Constraint, details: Constraint) -> [Rect; 4] {
    let line = Constraint::Length(1);
    Layout::vertical([line, list, details, line]).areas(area)
}

fn headline(app: &App) -> Line<'static> {
    let what = if app.listing.threads {
        count(app.all(), "thread", "threads")
    } else {
        count(app.all(), "process", "processes")
    };
    let mut text = format!("{} of {what}, by {}", app.rows.len(), app.order());
    let filter = app.typed.as_ref().unwrap_or(&app.filter);
    let marks = [
        (app.reversed, ", reversed".to_owned()),
        (app.pending_only, ", pending only".to_owned()),
        (app.listing.stopped, ", stopped only".to_owned()),
        (!filter.is_empty(), format!(", with \"{filter}\"")),
        (app.is_of_proc(), ", from /proc".to_owned()),
        (
            app.unseen > 0,
            format!(", {} in an unknown place", app.unseen),
        ),
    ];
    for (is_so, mark) in marks {
        if is_so {
            text += &mark;
        }
    }
    let mut spans = vec![Span::raw(text)];
    if app.paused {
        spans.push(Span::raw(", "));
        spans.push(Span::styled("paused", coloured(app, Color::Yellow)));
    }
    Line::from(spans)
}

fn coloured(app: &App, colour: Color) -> Style {
    if app.colours {
        Style::new().fg(colour)
    } else {
        Style::new()
    }
}

fn table(frame: &mut Frame<'_>, app: &mut App, area: Rect) {
    // One is the heading's.
    app.page = usize::from(area.height).saturating_sub(1).max(1);
    app.first = app
        .first
        .clamp((app.at + 1).saturating_sub(app.page), app.at);
    // No line is made that is not on the screen: there may be ten thousand.
    let shown: Vec<[String; COLUMNS]> = (app.rows.iter().skip(app.first).take(app.page))
        .map(|row| app.listing.cells(row, &mut app.users))
        .collect();
    let heading = app.listing.heading();
    let widths = widths(heading, &shown, area.width.into());
    let visible: Vec<usize> = (0..FIXED).chain(app.column..COLUMNS).collect();
    let mut y = area.top();
    let mut line =
        |frame: &mut Frame<'_>, cells: [&str; COLUMNS], styles: [Style; COLUMNS], whole: Style| {
            if y >= area.bottom() {
                return;
            }
            let spans = visible.iter().map(|&n| {
                let text = cut(cells[n], widths[n]);
                Span::styled(format!("{text:width$} ", width = widths[n]), styles[n])
            });
            let place = Rect {
                y,
                height: 1,
                ..area
            };
            frame.render_widget(Line::from_iter(spans).style(whole), place);
            y += 1;
        };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    line(frame, heading, [bold; COLUMNS], Style::new());
    for (n, cells) in shown.iter().enumerate() {
        let mut styles = [Style::new(); COLUMNS];
        styles[2] = coloured(app, Color::Cyan);
        for warned in [3, PENDING] {
            if cells[warned] != "-" {
                styles[warned] = coloured(app, Color::Yellow);
            }
        }
        let whole = match app.first + n == app.at {
            true => Style::new().add_modifier(Modifier::REVERSED),
            false => Style::new(),
        };
        line(frame, cells.each_ref().map(String::as_str), styles, whole);
    }
}

/// Makes each column as wide as its widest cell. If the screen is too narrow, the sets of signals are cut.
fn widths(heading: [&str; COLUMNS], cells: &[[String; COLUMNS]], room: usize) -> [usize; COLUMNS] {
    let mut widths = heading.map(str::len);
    for row in cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    if widths.iter().map(|width| width + 1).sum::<usize>() > room {
        for width in &mut widths[PENDING..] {
            *width = (*width).min(SIGNALS);
        }
    }
    widths
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept + "…"
}

fn text(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let dim = Style::new().add_modifier(Modifier::DIM);
    let Some((rule, body)) = split(area) else {
        return;
    };
    let title = match app.chosen_row() {
        Some(row) => format!("-- {} --", row.pid),
        None => "-- no process --".to_owned(),
    };
    let rest = usize::from(rule.width).saturating_sub(title.chars().count());
    frame.render_widget(Line::styled(title + &"-".repeat(rest), dim), rule);
    let why = app.why.iter().flat_map(|why| why.lines());
    let lines = why.chain(app.lines.iter().skip(app.scrolled).map(String::as_str));
    let wrapped = lines.flat_map(|line| wrap(line, body.width.into()));
    for (text, y) in wrapped.zip(body.top()..body.bottom()) {
        let place = Rect {
            y,
            height: 1,
            ..body
        };
        frame.render_widget(Line::raw(text), place);
    }
}

fn split(area: Rect) -> Option<(Rect, Rect)> {
    let body = Rect {
        y: area.y + 1,
        height: area.height.checked_sub(1)?,
        ..area
    };
    Some((Rect { height: 1, ..area }, body))
}

/// What does not fit is continued below the values.
fn wrap(line: &str, width: usize) -> Vec<String> {
    const INDENT: usize = 17;
    let mut rest: Vec<char> = line.chars().collect();
    let mut lines = Vec::new();
    let mut room = width.max(INDENT + 1);
    while rest.len() > room {
        // At a space or behind a comma, if there is one in the second half.
        let breaks = |at: &usize| rest[*at - 1] == ',' || rest[*at] == ' ';
        let at = (room.div_ceil(2)..=room).rev().find(breaks).unwrap_or(room);
        let tail = rest.split_off(at);
        lines.push(rest);
        rest = tail
            .into_iter()
            .skip_while(|&letter| letter == ' ')
            .collect();
        room = width.max(INDENT + 1) - INDENT;
    }
    lines.push(rest);
    let indented = |(n, line): (usize, Vec<char>)| {
        let text = String::from_iter(line);
        if n == 0 {
            text
        } else {
            " ".repeat(INDENT) + &text
        }
    };
    lines.into_iter().enumerate().map(indented).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_too_long() {
        assert_eq!(wrap("  pid  5", 40), ["  pid  5"]);
        let long = "  blocked        SIGHUP,SIGINT,SIGQUIT,SIGILL,SIGTRAP";
        assert_eq!(
            wrap(long, 40),
            [
                "  blocked        SIGHUP,SIGINT,SIGQUIT,",
                "                 SIGILL,SIGTRAP"
            ]
        );
        // Nothing is lost, however narrow.
        for width in 0..60 {
            let lines = wrap(long, width);
            let letters = |text: &str| text.replace(' ', "");
            assert_eq!(letters(&lines.concat()), letters(long), "{width}");
        }
    }

    #[test]
    fn cells_are_cut_where_there_is_no_room() {
        let mut cells: [String; COLUMNS] = Default::default();
        cells[PENDING] = "x".repeat(50);
        let heading = ["PID"; COLUMNS];
        assert_eq!(widths(heading, &[cells.clone()], 200)[PENDING], 50);
        assert_eq!(widths(heading, &[cells], 80)[PENDING], SIGNALS);
        assert_eq!(cut("SIGHUP,SIGINT", 8), "SIGHUP,…");
        assert_eq!(cut("SIGHUP", 6), "SIGHUP");
    }
}
