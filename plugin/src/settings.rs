//! Settings from a file, from the environment, which takes precedence, and from criu's own options (`--plugin-option`, criu
//! 4.3), which take precedence over both. Container engines start criu with their own
//! command line and environment, so settings for every checkpoint of a machine are in a file.
//!
//! The file is in `/etc/criu`, the folder of criu's own configuration. Unless told otherwise, criu reads only
//! `default.conf` there (criu/config.c), so the files do not conflict. Its lines are `name = value`, with the names and
//! the values that the variables have: `policy = strict` is `CRIU_SIGNALS_POLICY=strict`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use criu_signals::checkpoint::options::{Options, Overruns, Policy, TakeOut};
use criu_signals::images::Shown as _;
use criu_signals::losses::notices::{Notice, Refuse};
use criu_signals::run_report::Stage;
use criu_signals::setting_names;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;

/// The file that is read where [`CONFIG`] names no other. It need not be there.
pub const CONFIG_FILE: &str = "/etc/criu/signals.conf";

/// The variable that names another file, which must be there; empty, no file is read.
const CONFIG: &str = "CRIU_SIGNALS_CONFIG";

/// How criu is told what it hands to a plugin, and under which name this one is told.
const OPTION: &str = "--plugin-option";
pub const PLUGIN: &str = "signals_plugin";

/// What every variable begins with.
const PREFIX: &str = "CRIU_SIGNALS_";

/// What the machine itself says.
const AUTO: &str = "auto";

const OTHERS_MAY_WRITE: u32 = 0o022;

/// A settings file has some ten lines. What is longer is another file, and is not read whole to find that out.
const LONGEST_FILE: u64 = 64 * 1024;

/// The name of a setting. `Display` gives the variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    in_file: &'static str,
    variable: &'static str,
}

/// What becomes of differences.
const POLICY: Name = Name {
    in_file: "policy",
    variable: "CRIU_SIGNALS_POLICY",
};
/// What is refused rather than said: `pdeathsig`, `exit-signal`, `timeout`, `overrun`, `timer`, `owner`, `cpu-limit`, `exit-status`,
/// `call-mask` and `call-eintr` make a dump fail, and the tasks run on;
/// `altstack` makes a restore fail before anything is restored, as the policy `strict` does.
const REFUSE: Name = Name {
    in_file: "refuse",
    variable: setting_names::REFUSE,
};
/// Whether signals may be taken out of a process for the time of a dump.
const TAKE_OUT: Name = Name {
    in_file: "take_out",
    variable: setting_names::TAKE_OUT,
};
/// From how many entries on a queue is deep.
const DEEP_QUEUE: Name = Name {
    in_file: "deep_queue",
    variable: "CRIU_SIGNALS_DEEP_QUEUE",
};
/// Whether the overruns of pending timers are counted at a dump.
const OVERRUNS: Name = Name {
    in_file: "timer_overruns",
    variable: setting_names::OVERRUNS,
};

/// A timeout that begins anew and is longer than so many milliseconds is a warning, and is refused where [`REFUSE`] says so. A
/// shorter one is a note: in the log at the level of information, in the report all the same.
const LONG_TIMEOUT: Name = Name {
    in_file: "long_timeout",
    variable: setting_names::LONG_TIMEOUT,
};
/// Where the report of a run goes.
pub const REPORT: Name = Name {
    in_file: "report",
    variable: "CRIU_SIGNALS_REPORT",
};
/// Where the runs are counted.
pub const METRICS: Name = Name {
    in_file: "metrics",
    variable: "CRIU_SIGNALS_METRICS",
};

/// How much a restore takes in of its images.
const MAX_SIGINFOS: Name = Name {
    in_file: "max_siginfos",
    variable: setting_names::MAX_SIGINFOS,
};

/// Sets a setting from its text, and tells whether that changed anything. The error names the accepted values.
type Set = fn(&mut Settings, &str) -> std::result::Result<bool, String>;

/// All settings, in the order in which they are described.
const SETTINGS: [(Name, Set); 9] = [
    (POLICY, set_policy),
    (REPORT, set_report),
    (METRICS, set_metrics),
    (REFUSE, set_refuse),
    (LONG_TIMEOUT, set_long_timeout),
    (TAKE_OUT, set_take_out),
    (DEEP_QUEUE, set_deep_queue),
    (OVERRUNS, set_overruns),
    (MAX_SIGINFOS, set_max_siginfos),
];

fn names() -> [Name; 9] {
    SETTINGS.map(|(name, _)| name)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.variable)
    }
}

/// Where the report of a run goes: a path with `%s` and `%p` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportPath(String);

impl ReportPath {
    fn parse(value: &str) -> std::result::Result<ReportPath, String> {
        let mut letters = value.chars();
        let mut known = !value.ends_with('/');
        if !value.starts_with('/') && value.split('/').any(|part| part == "..") {
            return Err("a path inside the image folder, or an absolute path".to_owned());
        }
        while let Some(letter) = letters.next() {
            if letter == '%' {
                known &= matches!(letters.next(), Some('s' | 'p' | '%'));
            }
        }
        if known {
            Ok(ReportPath(value.to_owned()))
        } else {
            Err(
                "the path of a file, in which %s is dump or restore, %p is criu's pid and %% is %"
                    .to_owned(),
            )
        }
    }

    /// The path for this run. A relative one starts from the image folder.
    pub fn path(&self, stage: Stage, pid: u32) -> PathBuf {
        let mut path = String::new();
        let mut letters = self.0.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '%' => match letters.next() {
                    Some('s') => path.push_str(&stage.to_string()),
                    Some('p') => path.push_str(&pid.to_string()),
                    other => path.extend(other),
                },
                letter => path.push(letter),
            }
        }
        path.into()
    }
}

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What the library is told.
    pub options: Options,
    /// See [`ReportPath`].
    pub report: Option<ReportPath>,
    /// The file in which the runs are counted.
    pub metrics: Option<PathBuf>,
    /// Those that are not the default, and where they are set.
    in_force: Vec<String>,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// `--plugin-option`, or a request's `plugin_options`.
    Option,
    Environment,
    File {
        path: PathBuf,
        line: usize,
    },
}

/// A value, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    value: String,
    origin: Origin,
}

impl Given {
    /// As it stands there.
    fn quoted(&self, name: Name) -> String {
        match &self.origin {
            Origin::Option => format!("{OPTION} {PLUGIN}.{}={:?}", name.in_file, self.value),
            Origin::Environment => format!("{}={:?}", name.variable, self.value),
            Origin::File { path, line } => {
                format!(
                    "{}:{line}: {} = {:?}",
                    path.shown(),
                    name.in_file,
                    self.value
                )
            }
        }
    }

    /// As the log says it.
    fn in_force(&self, name: Name) -> String {
        match &self.origin {
            Origin::Option => format!("{}={} ({OPTION})", name.in_file, self.value.shown()),
            Origin::Environment => {
                format!("{}={} ({name})", name.in_file, self.value.shown())
            }
            Origin::File { path, line } => {
                format!(
                    "{}={} ({}:{line})",
                    name.in_file,
                    self.value.shown(),
                    path.shown()
                )
            }
        }
    }
}

/// A setting that says nothing this plugin knows. Taking it for the default could let a run pass that was to be
/// refused.
#[derive(Debug, PartialEq, Eq)]
pub enum BadSetting {
    /// A value that is none.
    Value {
        /// The setting as it stands where it stands.
        setting: String,
        /// What it may be.
        accepted: String,
    },
    /// An option of criu's for this plugin that is none.
    Option {
        /// As it was given.
        option: String,
        /// What is wrong.
        what: String,
    },
    /// A line of the file that is none.
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// The file can't be read.
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl fmt::Display for BadSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadSetting::Value { setting, accepted } => {
                write!(f, "{}: must be {accepted}", setting.shown())
            }
            BadSetting::Option { option, what } => {
                write!(f, "{OPTION} {PLUGIN}.{}: {}", option.shown(), what.shown())
            }
            BadSetting::Line { path, line, what } => {
                write!(f, "{}:{line}: {}", path.shown(), what.shown())
            }
            BadSetting::File { path, why } => {
                write!(f, "settings file {}: {}", path.shown(), why.shown())
            }
        }
    }
}

impl std::error::Error for BadSetting {}

type Result<T> = std::result::Result<T, BadSetting>;

impl Settings {
    /// Reads the file, the environment over it, and over both what criu was given for this plugin.
    ///
    /// # Errors
    /// If the file can't be read, though it was named or is there, or if a name or a value is not known.
    pub fn read(options: &[OsString]) -> Result<Settings> {
        let variable =
            |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let from_file = match std::env::var_os(CONFIG) {
            None => read_file(Path::new(CONFIG_FILE), Missing::IsFine)?,
            Some(path) if path.is_empty() => BTreeMap::new(),
            Some(path) => read_file(Path::new(&path), Missing::IsAnError)?,
        };
        Settings::from(from_file, variable, given_by_option(options)?)
    }

    /// What a file with this text says, for `fuzz/`.
    #[cfg(fuzzing)]
    pub fn of_text(text: &str, path: &Path) -> Result<Settings> {
        Settings::from(parse(text, path)?, |_| None, BTreeMap::new())
    }

    /// In one line: what is not the default, and where it is set.
    pub fn in_force(&self) -> String {
        if self.in_force.is_empty() {
            return "settings: all default".to_owned();
        }
        format!("settings: {}; others are default", self.in_force.join(", "))
    }

    fn from(
        mut given: BTreeMap<&'static str, Given>,
        variable: impl Fn(&str) -> Option<String>,
        by_option: BTreeMap<&'static str, Given>,
    ) -> Result<Settings> {
        for name in names() {
            // An empty variable is as good as none: unsetting one is not always in a caller's power.
            if let Some(value) = variable(name.variable).filter(|value| !value.is_empty()) {
                let origin = Origin::Environment;
                given.insert(name.in_file, Given { value, origin });
            }
        }
        given.extend(by_option);
        let mut settings = Settings::default();
        for (name, set) in SETTINGS {
            let Some(given) = given.get(name.in_file) else {
                continue;
            };
            match set(&mut settings, &given.value) {
                Ok(true) => settings.in_force.push(given.in_force(name)),
                Ok(false) => {}
                Err(accepted) => {
                    let setting = given.quoted(name);
                    return Err(BadSetting::Value { setting, accepted });
                }
            }
        }
        Ok(settings)
    }
}

fn set_policy(settings: &mut Settings, value: &str) -> std::result::Result<bool, String> {
    let all = [Policy::Repair, Policy::Strict, Policy::Report];
    put(&mut settings.options.policy, one_of(value, &all)?)
}

fn set_report(settings: &mut Settings, value: &str) -> std::result::Result<bool, String> {
    put(&mut settings.report, Some(ReportPath::parse(value)?))
}

fn set_metrics(settings: &mut Settings, value: &str) -> std::result::Result<bool, String> {
    // A relative path would start from the image folder, and be another file for each run.
    if !value.starts_with('/') || value.ends_with('/') {
        return Err("the absolute path of a file".to_owned());
    }
    put(&mut settings.metrics, Some(value.into()))
}

fn set_refuse(settings: &mut Settings, value: &str) -> std::result::Result<bool, String> {
    put(&mut settings.options.refuse, refuse(value)?)
}

fn set_long_timeout(settings: &mut Settings, value: &str) -> std::result::Result<bool, String> {
    let long = value.parse().map(Duration::from_millis);
    let long = long.map_err(|_| "a number of milliseconds".to_owned())?;
    put(&mut settings.options.long_timeout, long)
}

fn set_take_out(settings: &mut Settings, value: &str) -> std::result::Result<bool, String> {
    let all = [TakeOut::Auto, TakeOut::Always, TakeOut::Never];
    put(&mut settings.options.take_out, one_of(value, &all)?)
}

fn set_deep_queue(settings: &mut Settings, value: &str) -> std::result::Result<bool, String> {
    let deep = value
        .parse()
        .map_err(|_| "a number of signals".to_owned())?;
    put(&mut settings.options.limits.deep, deep)
}

fn set_overruns(settings: &mut Settings, value: &str) -> std::result::Result<bool, String> {
    let all = [Overruns::Count, Overruns::Leave];
    put(&mut settings.options.overruns, one_of(value, &all)?)
}

fn set_max_siginfos(settings: &mut Settings, value: &str) -> std::result::Result<bool, String> {
    let most = match value {
        AUTO => None,
        number => Some(number.parse().map_err(|_| "auto or a number".to_owned())?),
    };
    put(&mut settings.options.max_siginfos, most)
}

/// Sets it, and says whether that changed anything.
#[allow(clippy::unnecessary_wraps)] // The last step of what can fail.
fn put<T: PartialEq>(place: &mut T, value: T) -> std::result::Result<bool, String> {
    let changes = *place != value;
    *place = value;
    Ok(changes)
}

/// The choice of this name, or what could be chosen.
fn one_of<T: Copy + fmt::Display>(value: &str, choices: &[T]) -> std::result::Result<T, String> {
    choices
        .iter()
        .copied()
        .find(|choice| choice.to_string() == value)
        .ok_or_else(|| {
            let names: Vec<String> = choices.iter().map(T::to_string).collect();
            names.join(" or ")
        })
}

fn refuse(value: &str) -> std::result::Result<Refuse, String> {
    let words = value.split(',').map(str::trim);
    let notice = |word: &str| {
        let known = Notice::REFUSABLE
            .into_iter()
            .find(|n| n.to_string() == word);
        known.ok_or_else(|| {
            format!(
                "a comma-separated list of {}",
                Notice::REFUSABLE.map(|n| n.to_string()).join(", ")
            )
        })
    };
    words
        .filter(|word| !word.is_empty())
        .map(notice)
        .collect::<std::result::Result<_, _>>()
        .map(Refuse::new)
}

/// A name that there is, as the file has it.
fn known_name(name: &str) -> std::result::Result<&'static str, String> {
    let known = names().into_iter().find(|known| known.in_file == name);
    known.map(|known| known.in_file).ok_or_else(|| {
        let names = names().map(|known| known.in_file).join(", ");
        format!("unknown setting {name:?}; known settings are {names}")
    })
}

/// The options that criu was given for this plugin, `NAME=VALUE` each. Of several with one name the last counts.
fn given_by_option(options: &[OsString]) -> Result<BTreeMap<&'static str, Given>> {
    let mut given = BTreeMap::new();
    for option in options {
        let option = option.to_string_lossy();
        let wrong = |what: String| BadSetting::Option {
            option: option.clone().into_owned(),
            what,
        };
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| wrong("an option must be NAME=VALUE".to_owned()))?;
        // As in the file, or as options are usually written.
        let name = known_name(&name.replace('-', "_")).map_err(wrong)?;
        let given_here = Given {
            value: value.to_owned(),
            origin: Origin::Option,
        };
        given.insert(name, given_here);
    }
    Ok(given)
}

/// What it means that the file is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    IsFine,
    IsAnError,
}

fn read_file(path: &Path, missing: Missing) -> Result<BTreeMap<&'static str, Given>> {
    let read = || {
        let mut text = String::new();
        // To open a pipe that nobody writes to would hang.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = File::options()
            .read(true)
            .custom_flags(flags.bits())
            .open(path)?;
        trusted(&file.metadata()?)?;
        file.take(LONGEST_FILE + 1).read_to_string(&mut text)?;
        if text.len() as u64 > LONGEST_FILE {
            return Err(io::Error::other("too long for a settings file"));
        }
        Ok(text)
    };
    match read() {
        Ok(text) => parse(&text, path),
        Err(e) if e.kind() == io::ErrorKind::NotFound && missing == Missing::IsFine => {
            Ok(BTreeMap::new())
        }
        Err(e) => Err(BadSetting::File {
            path: path.to_owned(),
            why: e.to_string(),
        }),
    }
}

/// A user who can write the file controls where root writes reports, and what is restored unchecked.
///
/// # Errors
/// If it is no regular file, or if another user than root and criu's own may write it.
pub fn trusted(file: &Metadata) -> io::Result<()> {
    let wrong = if !file.is_file() {
        "it is not a regular file".to_owned()
    } else if file.uid() != 0 && file.uid() != geteuid().as_raw() {
        format!(
            "it belongs to user {}, and criu runs as {}: chown it",
            file.uid(),
            geteuid()
        )
    } else if file.mode() & OTHERS_MAY_WRITE != 0 {
        format!(
            "users other than its owner may write it (mode {:04o}): chmod go-w",
            file.mode() & 0o7777
        )
    } else {
        return Ok(());
    };
    Err(io::Error::other(wrong))
}

/// Lines `name = value`. Empty lines and lines that begin with `#` say nothing. A value reaches to the end of its line,
/// and may be empty: then the setting is the default, as with a variable.
fn parse(text: &str, path: &Path) -> Result<BTreeMap<&'static str, Given>> {
    let mut given: BTreeMap<&'static str, Given> = BTreeMap::new();
    let mut seen: BTreeMap<&'static str, usize> = BTreeMap::new();
    for (at, text) in text.lines().enumerate() {
        let (line, text) = (at + 1, text.trim());
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let bad = |what: String| BadSetting::Line {
            path: path.to_owned(),
            line,
            what,
        };
        let (name, value) = text
            .split_once('=')
            .map(|(name, value)| (name.trim(), value.trim()))
            .ok_or_else(|| bad(format!("{text:?}: a line must be NAME = VALUE")))?;
        let known = known_name(name).map_err(bad)?;
        // Which of the two was meant, nobody knows.
        if let Some(before) = seen.insert(known, line) {
            return Err(bad(format!("{name} is already set in line {before}")));
        }
        if !value.is_empty() {
            let origin = Origin::File {
                path: path.to_owned(),
                line,
            };
            let value = value.to_owned();
            given.insert(known, Given { value, origin });
        }
    }
    Ok(given)
}

/// Variables that look like settings and are none: a typo that the environment, unlike the file, can't be refused for,
/// because others put names of their own there.
pub fn unknown_variables() -> Vec<String> {
    std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with(PREFIX) && name != CONFIG)
        .filter(|name| names().iter().all(|known| known.variable != name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(
        given: BTreeMap<&'static str, Given>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Settings> {
        Settings::from(given, variable, BTreeMap::new())
    }

    fn with_options(options: &[&str]) -> Result<Settings> {
        let options: Vec<OsString> = options.iter().map(OsString::from).collect();
        let variable = |name: &str| (name == POLICY.variable).then(|| "report".to_owned());
        Settings::from(BTreeMap::new(), variable, given_by_option(&options)?)
    }

    #[test]
    fn an_option_of_criu_wins() {
        let settings = with_options(&["deep-queue=8", "policy=repair", "policy=strict"]).unwrap();
        assert_eq!(settings.options.policy, Policy::Strict);
        assert_eq!(settings.options.limits.deep, 8);
        assert_eq!(
            settings.in_force(),
            "settings: policy=strict (--plugin-option), deep_queue=8 (--plugin-option); others are default"
        );
        let refused = |options| with_options(options).unwrap_err().to_string();
        assert_eq!(
            refused(&["policy=strikt"]),
            "--plugin-option signals_plugin.policy=\"strikt\": must be repair or strict or report"
        );
        assert_eq!(
            refused(&["policy"]),
            "--plugin-option signals_plugin.policy: an option must be NAME=VALUE"
        );
        assert!(
            refused(&["polcy=strict"]).starts_with(
                "--plugin-option signals_plugin.polcy=strict: unknown setting \"polcy\""
            )
        );
    }

    fn with(name: Name, value: &str) -> Result<Settings> {
        from(BTreeMap::new(), |variable| {
            (variable == name.variable).then(|| value.to_owned())
        })
    }

    fn from_file(text: &str) -> Result<Settings> {
        from(parse(text, Path::new("/f"))?, |_| None)
    }

    fn said(result: Result<Settings>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn unset_or_empty_is_the_default() {
        let none = BTreeMap::new();
        assert_eq!(from(none.clone(), |_| None), Ok(Settings::default()));
        assert_eq!(from(none, |_| Some(String::new())), Ok(Settings::default()));
        assert_eq!(
            from_file("policy =\n\n# policy = strict\n"),
            Ok(Settings::default())
        );
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(refuse(""), Ok(Refuse::default()));
        let both = refuse("pdeathsig, exit-signal").unwrap();
        assert!(both.includes(Notice::ParentDeathSignal) && both.includes(Notice::ExitSignal));
        assert!(!both.includes(Notice::SmallStack));
        assert_eq!(
            said(with(REFUSE, "pdeathsig,exitsignal")),
            "CRIU_SIGNALS_REFUSE=\"pdeathsig,exitsignal\": must be a comma-separated list of pdeathsig, exit-signal, \
             altstack, timeout, overrun, timer, owner, cpu-limit, exit-status, call-mask, call-eintr"
        );
    }

    #[test]
    fn a_typo_is_not_the_default() {
        for policy in [Policy::Repair, Policy::Strict, Policy::Report] {
            assert_eq!(
                with(POLICY, &policy.to_string()).unwrap().options.policy,
                policy
            );
        }
        assert_eq!(
            said(with(POLICY, "strikt")),
            "CRIU_SIGNALS_POLICY=\"strikt\": must be repair or strict or report"
        );
        assert_eq!(
            with(TAKE_OUT, "never").unwrap().options.take_out,
            TakeOut::Never
        );
        with(TAKE_OUT, "no").unwrap_err();
        assert_eq!(with(DEEP_QUEUE, "17").unwrap().options.limits.deep, 17);
        with(DEEP_QUEUE, "-1").unwrap_err();
        let long = with(LONG_TIMEOUT, "0").unwrap().options.long_timeout;
        assert_eq!(long, Duration::ZERO);
        for bad in ["-1", "1s", "0.5"] {
            with(LONG_TIMEOUT, bad).unwrap_err();
        }
        assert_eq!(
            with(OVERRUNS, "leave").unwrap().options.overruns,
            Overruns::Leave
        );
        with(OVERRUNS, "yes").unwrap_err();
        for (value, most) in [("auto", None), ("0", Some(0)), ("7000000", Some(7_000_000))] {
            assert_eq!(
                with(MAX_SIGINFOS, value).unwrap().options.max_siginfos,
                most
            );
        }
        with(MAX_SIGINFOS, "-1").unwrap_err();
    }

    #[test]
    fn a_report_has_a_path_of_its_own_for_each_run() {
        let path = |value: &str| {
            let report = ReportPath::parse(value)?;
            Ok::<_, String>(report.path(Stage::Restore, 41).shown().to_string())
        };
        assert_eq!(path("/r/%s-%p.json").unwrap(), "/r/restore-41.json");
        assert_eq!(path("100%%.json").unwrap(), "100%.json");
        assert_eq!(path("a..b/%p").unwrap(), "a..b/41");
        assert_eq!(path("/r/../%p").unwrap(), "/r/../41");
        for bad in ["../r.json", "a/../../r.json", "a/.."] {
            assert!(path(bad).unwrap_err().starts_with("a path inside"), "{bad}");
        }
        for bad in ["/r/%d.json", "r%", "/r/"] {
            assert!(
                path(bad).unwrap_err().starts_with("the path of a file"),
                "{bad}"
            );
        }
    }

    #[test]
    fn metrics_have_an_absolute_path() {
        let path = with(METRICS, "/m/%s.prom").unwrap().metrics;
        assert_eq!(path, Some(PathBuf::from("/m/%s.prom")));
        for bad in ["m.prom", "../m.prom", "/m/"] {
            assert!(
                said(with(METRICS, bad)).ends_with("must be the absolute path of a file"),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_file_says_the_same_as_the_environment() {
        let file = "policy = strict\nreport = /r/%s\nmetrics = /m.prom\n refuse=pdeathsig, altstack\r\nlong_timeout = 250\ntake_out =never\ndeep_queue= 17\n\
                    timer_overruns = leave\nmax_siginfos = 3";
        let settings = from_file(file).unwrap();
        let lines: Vec<&str> = file.lines().collect();
        for (name, line) in names().into_iter().zip(&lines) {
            assert!(
                line.trim().starts_with(name.in_file),
                "one line for each: {line}"
            );
            let variable = format!("{PREFIX}{}", name.in_file.to_uppercase());
            assert_eq!(name.variable, variable);
        }
        let given = from(BTreeMap::new(), |variable| {
            let at = names().iter().position(|name| name.variable == variable)?;
            Some(lines[at].split_once('=')?.1.trim().to_owned())
        });
        let given = given.unwrap();
        assert_eq!(settings.in_force.len(), names().len());
        assert_eq!(
            Settings {
                in_force: Vec::new(),
                ..settings
            },
            Settings {
                in_force: Vec::new(),
                ..given
            }
        );
    }

    /// What `make install` puts into /etc/criu: it changes nothing, and shows every setting with its default.
    #[test]
    fn the_file_that_is_installed_names_all_and_sets_none() {
        let installed = include_str!("../signals.conf");
        assert_eq!(from_file(installed), Ok(Settings::default()));
        let lines = installed.lines().filter_map(|line| line.strip_prefix('#'));
        let settings: Vec<&str> = lines.filter(|line| !line.starts_with([' ', '#'])).collect();
        let settings: Vec<&str> = settings.into_iter().filter(|l| !l.is_empty()).collect();
        assert_eq!(settings.len(), names().len());
        for (line, name) in settings.iter().zip(names()) {
            assert!(line.starts_with(&format!("{} =", name.in_file)), "{line}");
        }
        assert_eq!(from_file(&settings.join("\n")), Ok(Settings::default()));
    }

    #[test]
    fn the_environment_wins_and_the_log_says_what_is_set_where() {
        let given = parse(
            "policy = report\ndeep_queue = 17\ntake_out = auto\n",
            Path::new("/f"),
        )
        .unwrap();
        let settings = from(given, |variable| {
            (variable == POLICY.variable).then(|| "strict".to_owned())
        });
        let settings = settings.unwrap();
        assert_eq!(
            (settings.options.policy, settings.options.limits.deep),
            (Policy::Strict, 17)
        );
        assert_eq!(
            settings.in_force(),
            "settings: policy=strict (CRIU_SIGNALS_POLICY), deep_queue=17 (/f:2); others are default"
        );
        assert_eq!(Settings::default().in_force(), "settings: all default");
    }

    #[test]
    fn what_is_wrong_in_a_file_is_told_by_its_line() {
        assert_eq!(
            said(from_file("# first\npolicy = strikt\n")),
            "/f:2: policy = \"strikt\": must be repair or strict or report"
        );
        assert_eq!(
            said(from_file("\nCRIU_SIGNALS_POLICY = strict")),
            "/f:2: unknown setting \"CRIU_SIGNALS_POLICY\"; known settings are policy, report, metrics, refuse, \
             long_timeout, take_out, deep_queue, timer_overruns, max_siginfos"
        );
        assert_eq!(
            said(from_file("policy strict")),
            "/f:1: \"policy strict\": a line must be NAME = VALUE"
        );
        assert_eq!(
            said(from_file("policy = strict\npolicy =")),
            "/f:2: policy is already set in line 1"
        );
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let gone = Path::new("/no/such/file");
        assert_eq!(read_file(gone, Missing::IsFine), Ok(BTreeMap::new()));
        let said = read_file(gone, Missing::IsAnError).unwrap_err().to_string();
        assert!(
            said.starts_with("settings file /no/such/file: No such file"),
            "{said}"
        );
        // One that can't be read, or is none, is never taken for one that is not there.
        for none in ["/proc", "/dev/zero"] {
            let said = read_file(Path::new(none), Missing::IsFine)
                .unwrap_err()
                .to_string();
            assert!(said.ends_with("it is not a regular file"), "{said}");
        }
    }
}
