//! The criu that is installed on this machine: where it is, which version, and where it looks for plugins.
//!
//! The folder for plugins is built into criu (`PLUGINDIR` of its Makefile; `/usr/lib/criu/` where nobody says
//! otherwise), and distributions choose it as they like. criu itself says what it was built with: `criu --help` prints
//! the default of `--libdir`. Three things come before that default (criu/config.c, criu/plugin.c): `--libdir` on the
//! command line, `libdir` in a configuration file, and `CRIU_LIBS_DIR` in the environment, in this order. The first and
//! the last are the caller's; the files count for everybody, so they are read here.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

use super::logger::escape;

/// Where criu's package, or `make install` of its sources, puts it where PATH may not lead: the PATH of users and
/// of `cargo` seldom has the folders of the system's own programs.
const SYSTEM_FOLDERS: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/sbin"];

/// criu reads this file at every start, unless `--no-default-config` or `--config` is given.
pub const DEFAULT_CONFIG: &str = "/etc/criu/default.conf";

/// A version of criu: `4.1.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 4 of 4.1.1.
    pub major: u32,
    /// The first 1 of 4.1.1.
    pub minor: u32,
    /// The second 1 of 4.1.1; 0 where there is none.
    pub sublevel: u32,
}

impl Version {
    /// The oldest criu that loads plugins made with this SDK: the first that has all of their
    /// [hooks](super::HOOKS).
    pub const OLDEST: Version = Version {
        major: 4,
        minor: 0,
        sublevel: 0,
    };

    /// What `criu --version` prints behind `Version:`. What distributions append is not looked at.
    fn parse(text: &str) -> Option<Version> {
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let mut numbers = text[..end].split('.').map(str::parse::<u32>);
        let version = Version {
            major: numbers.next()?.ok()?,
            minor: numbers.next().unwrap_or(Ok(0)).ok()?,
            sublevel: numbers.next().unwrap_or(Ok(0)).ok()?,
        };
        Some(version)
    }
}

impl fmt::Display for Version {
    /// As criu prints it: `4.1.1`, `4.3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version {
            major,
            minor,
            sublevel,
        } = self;
        if *sublevel == 0 {
            write!(f, "{major}.{minor}")
        } else {
            write!(f, "{major}.{minor}.{sublevel}")
        }
    }
}

/// Where a criu looks for plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PluginDir {
    /// The folder. criu loads every `.so` in it.
    pub path: PathBuf,
    /// Who says so.
    pub source: Source,
}

/// Who says where criu looks for plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The criu itself: its built-in default, as `criu --help` prints it.
    BuiltIn,
    /// A line `libdir` of a configuration file of criu's, which goes before the built-in default and before
    /// `CRIU_LIBS_DIR`.
    Config {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::BuiltIn => f.write_str("built-in default, from criu --help"),
            Source::Config { file, line } => write!(f, "libdir in {}:{line}", shown(file)),
        }
    }
}

fn shown(path: &Path) -> String {
    escape(&path.to_string_lossy())
}

/// A criu that does not tell what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InstalledError {
    /// It can't be started.
    #[error("{}: {error}", shown(.command))]
    Start {
        /// The criu.
        command: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It failed, or says something else than a criu does.
    #[error("the output of {} {argument} does not contain {what}: {}", shown(.command), escape(.said))]
    Says {
        /// The criu.
        command: PathBuf,
        /// What it was called with.
        argument: &'static str,
        /// What was looked for.
        what: &'static str,
        /// The first line of its output.
        said: String,
    },
    /// Its configuration file can't be read.
    #[error("{}: {error}", shown(.file))]
    Config {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// The criu that a shell of root's would start: the first in `PATH`, or else in the folders for the system's own
/// programs. `None` if there is none.
pub fn find() -> Option<PathBuf> {
    find_in(std::env::var_os("PATH").as_deref().unwrap_or_default())
}

fn find_in(path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .chain(SYSTEM_FOLDERS.map(PathBuf::from))
        // An empty entry is the working folder, which is nothing to look for a root's program in.
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("criu"))
        .find(|file| {
            fs::metadata(file)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// The version of a criu, as `criu --version` prints it.
///
/// # Errors
/// If it does not start, or says something else.
pub fn version(criu: &Path) -> Result<Version, InstalledError> {
    let said = ask(criu, "--version")?;
    said.lines()
        .find_map(|line| Version::parse(line.strip_prefix("Version:")?.trim()))
        .ok_or_else(|| unclear(criu, "--version", "the version", &said))
}

/// Where a criu looks for plugins, unless its caller says otherwise (`--libdir`; `CRIU_LIBS_DIR`, which a `libdir` in a
/// configuration file overrides).
///
/// Container engines may name a configuration file of their own (runc: `/etc/criu/runc.conf`), which is not looked at.
///
/// # Errors
/// If criu does not start, or does not say, or its configuration file can't be read.
pub fn plugin_dir(criu: &Path) -> Result<PluginDir, InstalledError> {
    let file = Path::new(DEFAULT_CONFIG);
    let configured = match fs::read(file) {
        Ok(text) => libdir_in_config(&String::from_utf8_lossy(&text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            return Err(InstalledError::Config {
                file: file.to_owned(),
                error,
            });
        }
    };
    if let Some((line, path)) = configured {
        let source = Source::Config {
            file: file.to_owned(),
            line,
        };
        return Ok(PluginDir { path, source });
    }
    let said = ask(criu, "--help")?;
    let path =
        libdir_in_help(&said).ok_or_else(|| unclear(criu, "--help", "the plugin folder", &said))?;
    Ok(PluginDir {
        path,
        source: Source::BuiltIn,
    })
}

/// Both streams: criu prints its usage to one or the other, by version.
fn ask(criu: &Path, argument: &'static str) -> Result<String, InstalledError> {
    let output = Command::new(criu)
        .arg(argument)
        // Neither has anything to do with what a plain criu says.
        .env_remove("CRIU_CONFIG_FILE")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| InstalledError::Start {
            command: criu.to_owned(),
            error,
        })?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

fn unclear(criu: &Path, argument: &'static str, what: &'static str, said: &str) -> InstalledError {
    InstalledError::Says {
        command: criu.to_owned(),
        argument,
        what,
        said: said
            .lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("nothing")
            .to_owned(),
    }
}

/// The line of criu/crtools.c: `-L|--libdir  path to a plugin directory (by default /usr/lib/criu/)`.
fn libdir_in_help(help: &str) -> Option<PathBuf> {
    let line = help
        .lines()
        .find(|line| line.split_whitespace().next() == Some("-L|--libdir"))?;
    let (_, default) = line.split_once("(by default ")?;
    let path = Path::new(default.trim_end().strip_suffix(')')?);
    path.is_absolute().then(|| path.components().collect())
}

/// The last `libdir` of a configuration file, with its line. The format is that of parse_statement() in
/// criu/config.c: a name, white space, a value with or without quotes, and what is behind a `#` is a comment.
fn libdir_in_config(text: &str) -> Option<(usize, PathBuf)> {
    let value = |line: &str| {
        let value = line
            .trim()
            .strip_prefix("libdir")?
            .strip_prefix([' ', '\t'])?
            .trim_start();
        let value = match value.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next()?,
            None => value.split(['#', ' ', '\t']).next()?,
        };
        (!value.is_empty()).then(|| Path::new(value).components().collect())
    };
    text.lines()
        .enumerate()
        .filter_map(|(at, line)| Some((at + 1, value(line)?)))
        .last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        let version = |text| Version::parse(text).unwrap();
        assert_eq!(version("4.1.1").to_string(), "4.1.1");
        assert_eq!(version("4.3").to_string(), "4.3");
        assert_eq!(version("4.2.1-1").to_string(), "4.2.1");
        assert!(version("4.10") > version("4.9.3"));
        assert!(version("3.17.1") < Version::OLDEST && version("4.0") == Version::OLDEST);
        assert_eq!(Version::parse("dev"), None);
    }

    #[test]
    fn the_default_folder_is_read_from_the_help() {
        let help = "Usage:\n  -L|--libdir           path to a plugin directory (by default /usr/lib/criu/)\n  --x\n";
        assert_eq!(libdir_in_help(help), Some("/usr/lib/criu".into()));
        let other = help.replace("/usr/lib/criu/", "/opt/my criu (new)/lib");
        assert_eq!(
            libdir_in_help(&other),
            Some("/opt/my criu (new)/lib".into())
        );
        assert_eq!(
            libdir_in_help("  --libdir  elsewhere (by default lib)"),
            None
        );
        assert_eq!(libdir_in_help(""), None);
    }

    #[test]
    fn a_configuration_file_names_it_as_criu_reads_it() {
        assert_eq!(libdir_in_config(""), None);
        assert_eq!(
            libdir_in_config("# libdir /a\nlibdirs /b\ntcp-close\n"),
            None
        );
        assert_eq!(
            libdir_in_config("libdir /a/ # old\n\tlibdir\t\"/b c/\"\n"),
            Some((2, "/b c".into()))
        );
        assert_eq!(libdir_in_config("libdir /a#b\n"), Some((1, "/a".into())));
    }

    /// A program that says what `said` holds, whatever it is asked.
    fn program(name: &str, said: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("installed-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("criu");
        // Written by another process: a file that is open for writing in a child that a test beside this one has just
        // forked can't be executed (ETXTBSY).
        let script = format!("#!/bin/sh\ncat <<'END'\n{said}\nEND\n");
        let status = Command::new("sh")
            .args(["-c", "printf %s \"$1\" >\"$0\" && chmod +x \"$0\""])
            .arg(&file)
            .arg(script)
            .status();
        assert!(status.unwrap().success());
        file
    }

    #[test]
    fn a_criu_is_found_in_the_path_and_asked() {
        let file = program(
            "asked",
            "Version: 4.7.2\n  -L|--libdir   path to a plugin directory (by default /opt/plugins)",
        );
        assert_eq!(
            find_in(file.parent().unwrap().as_os_str()),
            Some(file.clone())
        );
        assert_eq!(version(&file).unwrap().to_string(), "4.7.2");
        if !Path::new(DEFAULT_CONFIG).exists() {
            let found = plugin_dir(&file).unwrap();
            assert_eq!(found.path, Path::new("/opt/plugins"));
            assert_eq!(found.source, Source::BuiltIn);
        }
        fs::remove_dir_all(file.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_is_no_criu_is_quoted() {
        let file = program("other", "\nI am a teapot");
        assert_eq!(
            version(&file).unwrap_err().to_string(),
            format!(
                "the output of {} --version does not contain the version: I am a teapot",
                shown(&file)
            )
        );
        fs::remove_dir_all(file.parent().unwrap()).unwrap();
        let gone = version(&file).unwrap_err().to_string();
        assert!(gone.contains("No such file"), "{gone}");
    }
}
