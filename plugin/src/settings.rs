//! Settings, from the environment: container engines start criu themselves, so there is no command line.

use std::fmt;

use criu_signals::custody::Limits;

use crate::notices::Notice;

/// The variable that names the policy.
const POLICY: &str = "CRIU_SIGNALS_POLICY";
/// Whether signals may be taken out of a process for the time of a dump.
const TAKE_OUT: &str = "CRIU_SIGNALS_TAKE_OUT";
/// From how many entries on a queue is deep.
const DEEP_QUEUE: &str = "CRIU_SIGNALS_DEEP_QUEUE";
/// Whether the overruns of pending timers are counted at a dump.
pub const OVERRUNS: &str = "CRIU_SIGNALS_TIMER_OVERRUNS";

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

/// Whether signals may be taken out of a process for the time of a dump, where CRIU cannot cope with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TakeOut {
    /// If CRIU makes sure that the restore is done with this plugin: from 4.1 on.
    #[default]
    Auto,
    /// Even if a restore without this plugin would lose them.
    Always,
    /// Never: what CRIU cannot cope with is left to it.
    Never,
}

impl fmt::Display for TakeOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TakeOut::Auto => "auto",
            TakeOut::Always => "always",
            TakeOut::Never => "never",
        })
    }
}

/// Whether a dump counts how many overruns a pending timer stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overruns {
    /// It does, for which the timer's entry has to be taken out of its queue and brought back; see
    /// `criu_signals::state::overruns`.
    #[default]
    Count,
    /// They begin at 0 after a restore.
    Leave,
}

impl fmt::Display for Overruns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Overruns::Count => "count",
            Overruns::Leave => "leave",
        })
    }
}

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// See [`Policy`].
    pub policy: Policy,
    /// See [`REFUSE`].
    pub refuse: Refuse,
    /// See [`TakeOut`].
    pub take_out: TakeOut,
    /// From where on they are.
    pub limits: Limits,
    /// See [`Overruns`].
    pub overruns: Overruns,
}

/// A setting that says nothing this plugin knows. Taking it for the default could let a run pass that was to be
/// refused.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownSetting {
    variable: &'static str,
    value: String,
    accepted: String,
}

impl fmt::Display for UnknownSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}={:?}: must be {}",
            self.variable, self.value, self.accepted
        )
    }
}

impl std::error::Error for UnknownSetting {}

impl Settings {
    /// Reads them.
    pub fn from_env() -> Result<Settings, UnknownSetting> {
        Settings::from(|variable| {
            std::env::var_os(variable).map(|value| value.to_string_lossy().into_owned())
        })
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Result<Settings, UnknownSetting> {
        let default = Limits::default();
        let deep = match variable(DEEP_QUEUE).filter(|value| !value.is_empty()) {
            None => default.deep,
            Some(value) => value.parse().map_err(|_| UnknownSetting {
                variable: DEEP_QUEUE,
                value,
                accepted: "a number of signals".to_owned(),
            })?,
        };
        Ok(Settings {
            policy: one_of(
                POLICY,
                &variable,
                &[Policy::Repair, Policy::Strict, Policy::Report],
            )?,
            take_out: one_of(
                TAKE_OUT,
                &variable,
                &[TakeOut::Auto, TakeOut::Always, TakeOut::Never],
            )?,
            limits: Limits { deep, ..default },
            overruns: one_of(OVERRUNS, &variable, &[Overruns::Count, Overruns::Leave])?,
            refuse: refuse(variable(REFUSE).as_deref())?,
        })
    }
}

/// The choice that a variable names; the first if it is unset or empty.
fn one_of<T: Copy + fmt::Display>(
    name: &'static str,
    variable: impl Fn(&str) -> Option<String>,
    choices: &[T],
) -> Result<T, UnknownSetting> {
    let value = variable(name).unwrap_or_default();
    if value.is_empty() {
        return Ok(choices[0]);
    }
    choices
        .iter()
        .copied()
        .find(|choice| choice.to_string() == value)
        .ok_or_else(|| {
            let names: Vec<String> = choices.iter().map(T::to_string).collect();
            UnknownSetting {
                variable: name,
                value,
                accepted: names.join(" or "),
            }
        })
}

fn refuse(value: Option<&str>) -> Result<Refuse, UnknownSetting> {
    let words = value.unwrap_or_default().split(',').map(str::trim);
    let notice = |word: &str| {
        let known = Notice::ALL.into_iter().find(|n| n.to_string() == word);
        known.ok_or_else(|| UnknownSetting {
            variable: REFUSE,
            value: value.unwrap_or_default().to_owned(),
            accepted: format!(
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

    fn with(name: &str, value: &str) -> Result<Settings, UnknownSetting> {
        Settings::from(|variable| (variable == name).then(|| value.to_owned()))
    }

    #[test]
    fn unset_or_empty_is_the_default() {
        assert_eq!(Settings::from(|_| None), Ok(Settings::default()));
        assert_eq!(
            Settings::from(|_| Some(String::new())),
            Ok(Settings::default())
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

    #[test]
    fn a_typo_is_not_the_default() {
        for policy in [Policy::Repair, Policy::Strict, Policy::Report] {
            assert_eq!(with(POLICY, &policy.to_string()).unwrap().policy, policy);
        }
        assert_eq!(
            with(POLICY, "strikt").unwrap_err().to_string(),
            "CRIU_SIGNALS_POLICY=\"strikt\": must be repair or strict or report"
        );
        assert_eq!(with(TAKE_OUT, "never").unwrap().take_out, TakeOut::Never);
        with(TAKE_OUT, "no").unwrap_err();
        assert_eq!(with(DEEP_QUEUE, "17").unwrap().limits.deep, 17);
        with(DEEP_QUEUE, "-1").unwrap_err();
        assert_eq!(with(OVERRUNS, "leave").unwrap().overruns, Overruns::Leave);
        with(OVERRUNS, "yes").unwrap_err();
    }
}
