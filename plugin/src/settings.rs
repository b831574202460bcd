//! Settings, from the environment: container engines start criu themselves, so there is no command line.

use std::fmt;

/// The variable that names the policy.
pub const POLICY: &str = "CRIU_SIGNALS_POLICY";

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
}

/// A setting that says nothing this plugin knows. Taking it for the default could let a restore pass that was to be
/// refused.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownSetting(String);

impl fmt::Display for UnknownSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{POLICY}={:?}: must be repair, strict or report", self.0)
    }
}

impl std::error::Error for UnknownSetting {}

impl Settings {
    /// Reads them.
    pub fn from_env() -> Result<Settings, UnknownSetting> {
        Settings::from_policy(
            std::env::var_os(POLICY)
                .map(|v| v.to_string_lossy().into_owned())
                .as_deref(),
        )
    }

    fn from_policy(policy: Option<&str>) -> Result<Settings, UnknownSetting> {
        let policy = match policy {
            None | Some("" | "repair") => Policy::Repair,
            Some("strict") => Policy::Strict,
            Some("report") => Policy::Report,
            Some(other) => return Err(UnknownSetting(other.to_owned())),
        };
        Ok(Settings { policy })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_not_the_default() {
        assert_eq!(
            Settings::from_policy(None),
            Ok(Settings {
                policy: Policy::Repair
            })
        );
        for policy in [Policy::Repair, Policy::Strict, Policy::Report] {
            assert_eq!(
                Settings::from_policy(Some(&policy.to_string())),
                Ok(Settings { policy })
            );
        }
        let e = Settings::from_policy(Some("strikt")).unwrap_err();
        assert_eq!(
            e.to_string(),
            "CRIU_SIGNALS_POLICY=\"strikt\": must be repair, strict or report"
        );
    }
}
