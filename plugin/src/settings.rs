//! Settings, from the environment: container engines start criu themselves, so there is no command line.

use std::fmt;

/// The variable that names the policy.
pub const POLICY: &str = "CRIU_SIGNALS_POLICY";
/// The variable that says whether the overruns of pending timers are counted at a dump.
pub const OVERRUNS: &str = "CRIU_SIGNALS_TIMER_OVERRUNS";

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

/// All settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// See [`Policy`].
    pub policy: Policy,
    /// Whether a dump counts how many overruns a pending timer stands for, for which the timer's entry has to
    /// be taken out of its queue and brought back; see `criu_signals::state::overruns`.
    pub count_overruns: bool,
}

/// A setting that says nothing this plugin knows. Taking it for the default could let a restore pass that was to be
/// refused.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownSetting {
    name: &'static str,
    found: String,
    expected: &'static str,
}

impl fmt::Display for UnknownSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnknownSetting {
            name,
            found,
            expected,
        } = self;
        write!(f, "{name}={found:?}: must be {expected}")
    }
}

impl std::error::Error for UnknownSetting {}

impl Settings {
    /// Reads them.
    pub fn from_env() -> Result<Settings, UnknownSetting> {
        let read = |name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned());
        Ok(Settings {
            policy: policy(read(POLICY).as_deref())?,
            count_overruns: count_overruns(read(OVERRUNS).as_deref())?,
        })
    }
}

fn policy(found: Option<&str>) -> Result<Policy, UnknownSetting> {
    match found {
        None | Some("" | "repair") => Ok(Policy::Repair),
        Some("strict") => Ok(Policy::Strict),
        Some("report") => Ok(Policy::Report),
        Some(other) => Err(UnknownSetting {
            name: POLICY,
            found: other.to_owned(),
            expected: "repair, strict or report",
        }),
    }
}

fn count_overruns(found: Option<&str>) -> Result<bool, UnknownSetting> {
    match found {
        None | Some("" | "leave") => Ok(false),
        Some("count") => Ok(true),
        Some(other) => Err(UnknownSetting {
            name: OVERRUNS,
            found: other.to_owned(),
            expected: "leave or count",
        }),
    }
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
        assert_eq!(count_overruns(None), Ok(false));
        assert_eq!(count_overruns(Some("leave")), Ok(false));
        assert_eq!(count_overruns(Some("count")), Ok(true));
        let e = count_overruns(Some("yes")).unwrap_err();
        assert_eq!(
            e.to_string(),
            "CRIU_SIGNALS_TIMER_OVERRUNS=\"yes\": must be leave or count"
        );
    }
}
