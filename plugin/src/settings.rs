//! Settings, from the environment: container engines start criu themselves, so there is no command line.

use std::fmt;

use crate::notices::Notice;

/// The variable that names the policy.
pub const POLICY: &str = "CRIU_SIGNALS_POLICY";

/// The variable that lists what is refused rather than said, separated by commas: `pdeathsig` and `exit-signal` make
/// a dump fail, and the tasks run on; `altstack` makes a restore fail before anything is restored, as the policy
/// `strict` does.
pub const REFUSE: &str = "CRIU_SIGNALS_REFUSE";

/// What happens to a difference that a restore shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// It is put back. What can't be put back is an error in the log, and the restore goes on.
    #[default]
    Repair,
    /// It is put back. What can't be put back, or an image that is missing or unreadable, makes the restore fail.
    Strict,
    /// It is said, and nothing is changed.
    Report,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Policy::Repair => "repair",
            Policy::Strict => "strict",
            Policy::Report => "report",
        })
    }
}

/// What is refused rather than said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refuse(Vec<Notice>);

impl Refuse {
    /// Is it?
    pub fn includes(&self, notice: Notice) -> bool {
        self.0.contains(&notice)
    }
}

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// See [`Policy`].
    pub policy: Policy,
    /// See [`REFUSE`].
    pub refuse: Refuse,
}

/// A setting that says nothing this plugin knows. Taking it for the default could let a run pass that was to be
/// refused.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownSetting {
    variable: &'static str,
    value: String,
    known: String,
}

impl fmt::Display for UnknownSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnknownSetting {
            variable,
            value,
            known,
        } = self;
        write!(f, "{variable}={value:?}: must be {known}")
    }
}

impl std::error::Error for UnknownSetting {}

impl Settings {
    /// Reads them.
    pub fn from_env() -> Result<Settings, UnknownSetting> {
        let value = |name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned());
        Ok(Settings {
            policy: policy(value(POLICY).as_deref())?,
            refuse: refuse(value(REFUSE).as_deref())?,
        })
    }
}

fn policy(value: Option<&str>) -> Result<Policy, UnknownSetting> {
    match value {
        None | Some("" | "repair") => Ok(Policy::Repair),
        Some("strict") => Ok(Policy::Strict),
        Some("report") => Ok(Policy::Report),
        Some(other) => Err(UnknownSetting {
            variable: POLICY,
            value: other.to_owned(),
            known: "repair, strict or report".to_owned(),
        }),
    }
}

fn refuse(value: Option<&str>) -> Result<Refuse, UnknownSetting> {
    let words = value.unwrap_or_default().split(',').map(str::trim);
    let notice = |word: &str| {
        let known = Notice::ALL.into_iter().find(|n| n.to_string() == word);
        known.ok_or_else(|| UnknownSetting {
            variable: REFUSE,
            value: value.unwrap_or_default().to_owned(),
            known: format!(
                "a list, with commas, of {}",
                Notice::ALL.map(|n| n.to_string()).join(", ")
            ),
        })
    };
    words
        .filter(|word| !word.is_empty())
        .map(notice)
        .collect::<Result<_, _>>()
        .map(Refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_not_the_default() {
        assert_eq!(policy(None), Ok(Policy::Repair));
        for known in [Policy::Repair, Policy::Strict, Policy::Report] {
            assert_eq!(policy(Some(&known.to_string())), Ok(known));
        }
        let e = policy(Some("strikt")).unwrap_err();
        assert_eq!(
            e.to_string(),
            "CRIU_SIGNALS_POLICY=\"strikt\": must be repair, strict or report"
        );
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(refuse(None), Ok(Refuse::default()));
        assert_eq!(refuse(Some("")), Ok(Refuse::default()));
        let both = refuse(Some("pdeathsig, exit-signal")).unwrap();
        assert!(both.includes(Notice::ParentDeathSignal) && both.includes(Notice::ExitSignal));
        assert!(!both.includes(Notice::SmallStack));
        let e = refuse(Some("pdeathsig,exitsignal")).unwrap_err();
        assert_eq!(
            e.to_string(),
            "CRIU_SIGNALS_REFUSE=\"pdeathsig,exitsignal\": must be a list, with commas, of pdeathsig, exit-signal, \
             altstack"
        );
    }
}
