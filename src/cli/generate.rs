//! `criu-signals generate`: man pages and shell completions, from the definition of the command line itself.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Command, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use criu_signals::images::Shown as _;

use super::context::{Context, Failure, NoTimeout};

/// Writes man pages or shell completions into a folder.
#[derive(clap::Args)]
pub struct Generate {
    /// What to write.
    what: What,
    /// Target folder. Created if missing; existing files in it are replaced.
    folder: PathBuf,
    #[command(flatten)]
    _timeout: NoTimeout,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// A man page for criu-signals, and a man page for each of its commands.
    Man,
    /// Completions for every supported shell.
    Completions,
}

/// Name of the program, which the pages and the completions are for.
const NAME: &str = "criu-signals";

impl Generate {
    pub fn run(self, context: &Context, definition: Command) -> Result<ExitCode, Failure> {
        let folder = &self.folder;
        fs::create_dir_all(folder)
            .map_err(|e| format!("make the folder {}: {e}", folder.shown()))?;
        let written = match self.what {
            What::Man => man(folder, definition)?,
            What::Completions => completions(folder, definition)?,
        };
        let mut out = context.stdout();
        for file in written {
            writeln!(out, "{}", file.shown())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn completions(folder: &Path, mut command: Command) -> Result<Vec<PathBuf>, Failure> {
    Shell::value_variants()
        .iter()
        .map(|&shell| {
            clap_complete::generate_to(shell, &mut command, NAME, folder)
                .map_err(|e| format!("write completions into {}: {e}", folder.shown()).into())
        })
        .collect()
}

fn man(folder: &Path, definition: Command) -> Result<Vec<PathBuf>, Failure> {
    // Without the command `help`, which is none of its own.
    let mut command = definition.disable_help_subcommand(true).bin_name(NAME);
    command.build();
    let commands: Vec<String> = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .map(|command| format!("{NAME}-{}", command.get_name()))
        .collect();
    let mut written = vec![page(folder, &command, NAME, &commands)?];
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let name = format!("{NAME}-{}", sub.get_name());
        written.push(page(folder, sub, &name, &[NAME.to_owned()])?);
    }
    Ok(written)
}

/// One page, in section 1.
fn page(
    folder: &Path,
    command: &Command,
    name: &str,
    see_also: &[String],
) -> Result<PathBuf, Failure> {
    let mut bytes = Vec::new();
    render(&mut bytes, command, name, see_also)?;
    let file = folder.join(format!("{name}.1"));
    fs::write(&file, bytes).map_err(|e| format!("write {}: {e}", file.shown()))?;
    Ok(file)
}

fn render(
    out: &mut dyn Write,
    command: &Command,
    name: &str,
    see_also: &[String],
) -> io::Result<()> {
    // A static name for clap, which goes on as long as the program does.
    let named = command
        .clone()
        .name(name.to_owned())
        .version(env!("CARGO_PKG_VERSION"));
    let man = Man::new(named)
        .title(name.to_uppercase())
        .manual("criu-signals manual");
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_options_section(out)?;
    if command.get_subcommands().any(|sub| !sub.is_hide_set()) {
        commands(command).to_writer(out)?;
    }
    if let Some(notes) = command.get_after_long_help().or(command.get_after_help()) {
        sections(&notes.to_string()).to_writer(out)?;
    }
    let mut end = Roff::new();
    end.control("SH", ["SEE ALSO"]);
    for (n, page) in see_also.iter().enumerate() {
        let comma = if n + 1 < see_also.len() { ", " } else { "" };
        end.text([bold(page.as_str()), roman(format!("(1){comma}"))]);
    }
    end.to_writer(out)
}

fn commands(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        roff.control("TP", []);
        roff.text([bold(format!("{NAME}-{}", sub.get_name())), roman("(1)")]);
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        roff.text([roman(about)]);
    }
    roff
}

/// What stands behind the options in `--help`: a line that ends with a colon and is not indented begins a section, and
/// indented lines stand as they are.
fn sections(notes: &str) -> Roff {
    let mut roff = Roff::new();
    let mut open = false;
    let mut begun = false;
    for line in notes.lines() {
        let indented = line.starts_with(' ');
        if indented != open && !line.is_empty() {
            roff.control(if indented { "EX" } else { "EE" }, []);
            open = indented;
        }
        if line.is_empty() {
            // Before a section or a paragraph nothing is needed.
        } else if indented {
            roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
        } else if let Some(heading) = line.strip_suffix(':') {
            let heading = match heading {
                // As man-pages(7) wants it.
                "Exit codes" => "EXIT STATUS".to_owned(),
                other => other.to_uppercase(),
            };
            roff.control("SH", [heading.as_str()]);
            begun = true;
        } else {
            if !begun {
                roff.control("SH", ["NOTES"]);
                begun = true;
            }
            roff.text([roman(line)]);
        }
    }
    if open {
        roff.control("EE", []);
    }
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_become_sections() {
        let text = sections("Examples:\n  a -b\n\nExit codes:\n  0  done\nAnd more.").render();
        let part =
            ".SH EXAMPLES\n.EX\na \\-b\n.EE\n.SH \"EXIT STATUS\"\n.EX\n0  done\n.EE\nAnd more.";
        assert!(text.contains(part), "{text}");
    }
}
