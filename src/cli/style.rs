//! Styles of terminal output. `Context::stdout` removes them if the output is not a terminal.

use anstyle::{AnsiColor, Style};

/// Headings.
pub const BOLD: Style = Style::new().bold();
/// Labels, and what is not known.
pub const DIM: Style = Style::new().dimmed();
/// Names of processes and signals.
pub const NAME: Style = AnsiColor::Cyan.on_default();
/// What is not as it should be, or as one would think.
pub const WARN: Style = AnsiColor::Yellow.on_default();
/// What is as it should be.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What is wrong.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
