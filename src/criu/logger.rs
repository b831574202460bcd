//! Writes records of the `log` crate to CRIU's log.

use std::ffi::CString;
use std::fmt::Write;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::host::{Host, LogLevel};

/// The longest line that is handed to CRIU, newline included.
///
/// CRIU formats into a buffer of 8 KiB, after a time stamp and sometimes a pid, and writes as many bytes as the whole
/// text would have had: a longer line is not cut off but continued with what lies behind the buffer. Half of it is
/// far from that edge.
const LONGEST_LINE: usize = 4096;

struct Sink {
    host: Host,
    prefix: &'static str,
}

struct CriuLog(OnceLock<Sink>);

static LOGGER: CriuLog = CriuLog(OnceLock::new());

/// From here on records go to the host's log. Called at every `init`: CRIU's level can change between two runs in one
/// process.
///
/// A logger that the plugin installed earlier stays.
pub(super) fn install(host: Host, prefix: &'static str) {
    LOGGER.0.get_or_init(|| Sink { host, prefix });
    // An error means that there is a logger: this one, at the second `init`, or the plugin's own.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(host.log_level().map_or(LevelFilter::Trace, level_filter));
}

impl Log for CriuLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let Some(target) = self.0.get() else { return };
        if !self.enabled(record.metadata()) {
            return;
        }
        let start = line_start(record, target.prefix);
        for line in lines(&start, &record.args().to_string(), LONGEST_LINE) {
            // A host without a log has nowhere to say so.
            let _ = target
                .host
                .print_on_level(criu_level(record.level()), &line);
        }
    }

    fn flush(&self) {}
}

/// CRIU has no level below debug.
fn criu_level(level: Level) -> LogLevel {
    match level {
        Level::Error => LogLevel::Error,
        Level::Warn => LogLevel::Warn,
        Level::Info => LogLevel::Info,
        Level::Debug | Level::Trace => LogLevel::Debug,
    }
}

/// So that a record that CRIU would drop is not even formatted. Level 0 is for messages that are not part of the log.
fn level_filter(criu: u32) -> LevelFilter {
    match criu {
        0 => LevelFilter::Off,
        1 => LevelFilter::Error,
        2 => LevelFilter::Warn,
        3 => LevelFilter::Info,
        _ => LevelFilter::Trace,
    }
}

/// Errors and warnings begin as CRIU's own do, which is what people and test suites look for.
fn line_start(record: &Record<'_>, prefix: &str) -> String {
    let label = match record.level() {
        Level::Error => "Error",
        Level::Warn => "Warn ",
        Level::Info | Level::Debug | Level::Trace => return prefix.to_owned(),
    };
    let file = record.file().unwrap_or("?");
    let line = record.line().unwrap_or(0);
    format!("{label} ({file}:{line}): {prefix}")
}

/// `message` as lines for CRIU: each begins with `start`, ends with a newline, and is at most `longest` bytes long.
///
/// A line that is too long is continued on the next one after "... ". Control characters are written as Rust writes
/// them, so that a NUL does not end the line and the name of a task can't move a terminal's cursor.
fn lines(start: &str, message: &str, longest: usize) -> Vec<CString> {
    // A prefix that is itself near the limit is the plugin's own doing, but must not stop the message.
    let room = longest
        .saturating_sub(start.len() + CONTINUED.len() + 1)
        .max(80);
    let mut lines = Vec::new();
    let message = message.trim_end_matches('\n');
    for line in message.split('\n') {
        let line = escape(line.strip_suffix('\r').unwrap_or(line));
        let mut rest = line.as_str();
        let mut mark = "";
        loop {
            let (piece, behind) = rest.split_at(char_boundary(rest, room));
            let text = format!("{start}{mark}{piece}\n");
            // The message's own NULs are escaped, so one can only be in the prefix.
            lines.push(
                CString::new(text).unwrap_or_else(|_| c"(a log prefix with a NUL)\n".to_owned()),
            );
            if behind.is_empty() {
                break;
            }
            rest = behind;
            mark = CONTINUED;
        }
    }
    lines
}

const CONTINUED: &str = "... ";

/// Also for what stands in the middle of a message: a path has its newlines escaped.
pub(super) fn escape(line: &str) -> String {
    let mut escaped = String::with_capacity(line.len());
    for c in line.chars() {
        if c.is_control() && c != '\t' {
            // Writing to a string does not fail.
            let _ = write!(escaped, "{}", c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// The last place at or before `index` where `text` may be cut.
fn char_boundary(text: &str, index: usize) -> usize {
    if index >= text.len() {
        return text.len();
    }
    (0..=index)
        .rev()
        .find(|&i| text.is_char_boundary(i))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &[CString]) -> Vec<&str> {
        lines.iter().map(|line| line.to_str().unwrap()).collect()
    }

    #[test]
    fn levels_are_those_of_criu() {
        let numbers = [
            Level::Error,
            Level::Warn,
            Level::Info,
            Level::Debug,
            Level::Trace,
        ]
        .map(|l| criu_level(l) as u32);
        assert_eq!(numbers, [1, 2, 3, 4, 4]);
        // A record that passes the filter is one that CRIU writes, and the other way round.
        for criu in 1..=5 {
            for level in Level::iter() {
                assert_eq!(
                    level <= level_filter(criu),
                    criu_level(level) as u32 <= criu,
                    "{level} at -v{criu}"
                );
            }
        }
        assert_eq!(level_filter(0), LevelFilter::Off);
    }

    #[test]
    fn errors_begin_as_those_of_criu() {
        let start = |level| {
            let record = Record::builder()
                .file(Some("plugin/src/lib.rs"))
                .line(Some(7))
                .level(level)
                .build();
            line_start(&record, "signals: ")
        };
        assert_eq!(
            start(Level::Error),
            "Error (plugin/src/lib.rs:7): signals: "
        );
        assert_eq!(start(Level::Warn), "Warn  (plugin/src/lib.rs:7): signals: ");
        assert_eq!(start(Level::Info), "signals: ");
        assert_eq!(start(Level::Trace), "signals: ");
    }

    #[test]
    fn a_record_is_one_line_for_each_of_its_lines() {
        assert_eq!(
            text(&lines("p: ", "one\r\ntwo\n\nfour\n\n", 100)),
            ["p: one\n", "p: two\n", "p: \n", "p: four\n"]
        );
        assert_eq!(text(&lines("p: ", "", 100)), ["p: \n"]);
    }

    #[test]
    fn what_would_end_a_line_or_move_the_cursor_is_escaped() {
        assert_eq!(
            text(&lines("", "a\0b\x1b[2J\tc\rd", 100)),
            ["a\\u{0}b\\u{1b}[2J\tc\\rd\n"]
        );
    }

    #[test]
    fn a_percent_sign_and_other_alphabets_stay() {
        assert_eq!(text(&lines("", "100%s \u{e4}", 100)), ["100%s \u{e4}\n"]);
    }

    #[test]
    fn long_lines_are_split_and_nothing_is_lost() {
        for filler in ["x", "\u{e4}", "\u{1f980}"] {
            let message = filler.repeat(3000);
            let lines = lines("Error (a:1): p: ", &message, LONGEST_LINE);
            let mut joined = String::new();
            for (i, line) in text(&lines).into_iter().enumerate() {
                assert!(line.len() <= LONGEST_LINE);
                let line = line
                    .strip_prefix("Error (a:1): p: ")
                    .unwrap()
                    .strip_suffix('\n')
                    .unwrap();
                joined += if i == 0 {
                    line
                } else {
                    line.strip_prefix(CONTINUED).unwrap()
                };
            }
            assert_eq!(joined, message);
        }
    }

    #[test]
    fn an_endless_prefix_does_not_stop_the_message() {
        let lines = lines(&"p".repeat(5000), &"x".repeat(100), LONGEST_LINE);
        assert_eq!(lines.len(), 2);
    }
}
