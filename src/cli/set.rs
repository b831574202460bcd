//! `criu-signals set`: changes one mask, some dispositions or an alternate stack of a live process.

use std::io::Write as _;
use std::process::ExitCode;

use clap::ValueEnum;
use criu_signals::images::{SigNo, SigSet};
use criu_signals::proc_sig::{self, Change, Changed, MaskChange, Reaction, Removed, Subject};

use super::context::{self, Context, Failure};

/// Changes signal state of a live process: which signals are blocked, ignored or left to their default action, and which signal
/// comes when the parent ends.
///
/// The command stops the process and makes the change inside the process. The new state is read back. If a step fails, the
/// previous state is put back. Everything that CHANGE does not name stays as it is. Signals that are unblocked and pending are
/// delivered as soon as the process resumes.
#[derive(clap::Args)]
#[command(after_help = "\
Changes:
  blocked -SIGNAL +SIGNAL ...  unblocks and blocks signals
  blocked SIGNAL ...           blocks these signals, and unblocks all others; also `none`, and `all` without 32 and 33,
                               which glibc needs for itself
  action SIGNAL=default ...    the default action of the signal, as signal(2) sets it: without flags and mask
  action SIGNAL=ignore ...     ignores the signal; pending signals of this number are discarded
  altstack none                the thread has no alternate stack; impossible while a handler runs on the stack
  parent-death SIGNAL          the process is sent this signal when the thread's parent ends (PR_SET_PDEATHSIG of
                               prctl(2)); `none`: no signal

SIGNAL is a name or number, a range (RTMIN..RTMIN+3), or several of them separated by commas. Options go before PID.
Without a TID, `blocked`, `altstack` and `parent-death` are those of the thread group leader. SIGKILL and SIGSTOP can't be changed.

Examples:
  criu-signals set 4711 blocked -TERM +USR1
  criu-signals set 4711/4713 blocked HUP,INT
  criu-signals set 4711 action INT=default USR1,USR2=ignore
  criu-signals set 4711 altstack none
  criu-signals set 4711 parent-death TERM

Exit codes:
  0  the state was changed and read back
  2  nothing was changed, unless standard error says so; standard error gives the reason")]
pub struct Set {
    /// The process, or one of its threads.
    #[arg(value_name = "PID[/TID]", value_parser = context::subject)]
    subject: Subject,
    /// What to change.
    what: What,
    /// What is to be different; see Changes.
    #[arg(value_name = "CHANGE", required = true, allow_hyphen_values = true)]
    changes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// The signals that the thread blocks.
    Blocked,
    /// What the process does on signals.
    Action,
    /// The alternate stack of the thread.
    Altstack,
    /// The signal that comes when the thread's parent ends.
    ParentDeath,
}

/// SIGCANCEL and SIGSETXID of glibc (nptl): setuid(3) of one thread waits until each other thread has handled SIGSETXID.
const OF_GLIBC: [i32; 2] = [32, 33];

impl Set {
    pub fn run(self, context: &Context) -> Result<ExitCode, Failure> {
        let change = change(self.what, &self.changes)?;
        if self.what == What::Action && self.subject.thread.is_some() {
            let pid = self.subject.pid;
            return Err(format!(
                "all threads of a process have the same dispositions: use `set {pid} action`"
            )
            .into());
        }
        context.work_in_child()?;
        let changed = proc_sig::change(self.subject, &change, context.timeout)?;
        let mut out = context.stdout();
        for line in report(self.subject, &changed) {
            writeln!(out, "{line}")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The state before, the state now, and the effect on pending signals.
fn report(subject: Subject, changed: &Changed) -> Vec<String> {
    let tid = subject.tid();
    match changed {
        Changed::Blocked { before, after, due } => {
            let mut lines = vec![format!("thread {tid} blocked: {before} -> {after}")];
            if !due.is_empty() {
                lines.push(format!("pending and not blocked any more: {due}"));
            }
            lines
        }
        Changed::Actions { actions, removed } => {
            let one = |(signo, before, after): &(SigNo, _, _)| {
                format!("process {} {signo}: {before} -> {after}", subject.pid)
            };
            let removed = removed.iter().flat_map(Removed::lines);
            let removed = removed.map(|what| format!("removed from the {what}"));
            actions.iter().map(one).chain(removed).collect()
        }
        Changed::AltStack { before, after } => {
            vec![format!("thread {tid} altstack: {before} -> {after}")]
        }
        Changed::ParentDeath { before, after } => {
            let name = |signo: &Option<SigNo>| signo.map_or("none".to_owned(), |s| s.to_string());
            let (before, after) = (name(before), name(after));
            vec![format!("thread {tid} parent-death: {before} -> {after}")]
        }
    }
}

fn change(what: What, words: &[String]) -> Result<Change, String> {
    if let Some(option) = words.iter().find(|word| word.starts_with("--")) {
        return Err(format!("{option:?} is not a change; options go before PID"));
    }
    match what {
        What::Blocked => mask(words).map(Change::Blocked),
        What::Action => actions(words).map(Change::Actions),
        What::Altstack => match words {
            [word] if word == "none" => Ok(Change::NoAltStack),
            _ => Err("the only change of altstack is `none`".to_owned()),
        },
        What::ParentDeath => parent_death(words).map(Change::ParentDeath),
    }
}

/// All words with signs, or all without.
fn mask(words: &[String]) -> Result<MaskChange, String> {
    let (mut blocked, mut unblocked, mut exactly) = (SigSet::EMPTY, SigSet::EMPTY, None);
    for word in words {
        if let Some(names) = word.strip_prefix('+') {
            blocked = blocked.union(signals(names)?);
        } else if let Some(names) = word.strip_prefix('-') {
            unblocked = unblocked.union(signals(names)?);
        } else {
            let more = match word.as_str() {
                "none" => SigSet::EMPTY,
                "all" => all(),
                names => signals(names)?,
            };
            exactly = Some(exactly.unwrap_or(SigSet::EMPTY).union(more));
        }
    }
    let both = blocked.intersection(unblocked);
    match exactly {
        Some(_) if !blocked.union(unblocked).is_empty() => Err(
            "signals with and without a sign: a list without signs is the whole mask".to_owned(),
        ),
        Some(exactly) => Ok(MaskChange::Exactly(exactly)),
        None if !both.is_empty() => Err(format!("{both}: blocked and unblocked at once")),
        None => Ok(MaskChange::Some { blocked, unblocked }),
    }
}

fn actions(words: &[String]) -> Result<Vec<(SigNo, Reaction)>, String> {
    let mut actions: Vec<(SigNo, Reaction)> = Vec::new();
    for word in words {
        let (names, reaction) = word
            .split_once('=')
            .ok_or_else(|| format!("{word:?} is not SIGNAL=default or SIGNAL=ignore"))?;
        let reaction = match reaction {
            "default" => Reaction::Default,
            "ignore" => Reaction::Ignore,
            other => return Err(format!("{other:?}: expected default or ignore")),
        };
        for signo in signals(names)?.iter() {
            if actions.iter().any(|(named, _)| *named == signo) {
                return Err(format!("{signo} is named twice"));
            }
            actions.push((signo, reaction));
        }
    }
    Ok(actions)
}

fn parent_death(words: &[String]) -> Result<Option<SigNo>, String> {
    let [word] = words else {
        return Err("parent-death is one signal, or `none`".to_owned());
    };
    if word == "none" {
        return Ok(None);
    }
    let mut named = signals(word)?.iter();
    match (named.next(), named.next()) {
        (Some(signo), None) => Ok(Some(signo)),
        _ => Err(format!("{word:?} is more than one signal")),
    }
}

/// At least one signal, by name, number or range.
pub fn signals(text: &str) -> Result<SigSet, String> {
    match text {
        "all" => return Ok(all()),
        "" | "none" => return Err(format!("{text:?} names no signal")),
        _ => {}
    }
    text.parse()
        .map_err(|e: criu_signals::images::ParseSigNoError| e.to_string())
}

/// What sigfillset(3) of glibc gives, without the two that can't be changed.
pub fn all() -> SigSet {
    let fixed = [SigNo::KILL, SigNo::STOP];
    let of_glibc = OF_GLIBC.into_iter().filter_map(SigNo::new);
    of_glibc.chain(fixed).fold(SigSet::FULL, SigSet::without)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        set: Set,
    }

    fn made(line: &str) -> Result<Change, String> {
        let pid = std::process::id().to_string();
        let words = ["set", &pid].into_iter().chain(line.split_whitespace());
        let Arguments { set } = Arguments::try_parse_from(words).map_err(|e| e.to_string())?;
        change(set.what, &set.changes)
    }

    fn set(text: &str) -> SigSet {
        text.parse().unwrap()
    }

    #[test]
    fn changes() {
        let some = |blocked, unblocked| {
            Change::Blocked(MaskChange::Some {
                blocked: set(blocked),
                unblocked: set(unblocked),
            })
        };
        let exactly = |text| Change::Blocked(MaskChange::Exactly(set(text)));
        for (line, wanted) in [
            ("blocked -TERM +USR1", some("USR1", "TERM")),
            ("blocked -VTALRM", some("none", "VTALRM")),
            (
                "blocked -HUP,15 -RTMIN..RTMIN+2 +RTMAX-1",
                some("63", "1,15,34..36"),
            ),
            ("blocked HUP INT,3", exactly("1,2,3")),
            ("blocked none", exactly("none")),
            ("blocked all", exactly("1..8,10..18,20..31,34..64")),
            (
                "action INT=default USR1,USR2=ignore",
                Change::Actions(vec![
                    (SigNo::INT, Reaction::Default),
                    (SigNo::USR1, Reaction::Ignore),
                    (SigNo::USR2, Reaction::Ignore),
                ]),
            ),
            ("altstack none", Change::NoAltStack),
            ("parent-death none", Change::ParentDeath(None)),
            ("parent-death TERM", Change::ParentDeath(Some(SigNo::TERM))),
        ] {
            assert_eq!(made(line), Ok(wanted), "{line}");
        }
    }

    #[test]
    fn what_is_no_change() {
        for (line, why) in [
            ("blocked", "required"),
            ("blocked +USR1 TERM", "with and without a sign"),
            ("blocked +USR1 -USR1", "blocked and unblocked at once"),
            ("blocked -USR9", "no signal is named"),
            ("blocked +", "names no signal"),
            ("blocked -TERM --timeout", "options go before PID"),
            ("action INT", "is not SIGNAL=default"),
            ("action INT=handler", "expected default or ignore"),
            ("action INT=default 2=ignore", "SIGINT is named twice"),
            ("action =default", "names no signal"),
            ("altstack 0", "the only change"),
            ("altstack none none", "the only change"),
            ("pending USR1", "invalid value"),
        ] {
            let found = made(line).expect_err(line);
            assert!(found.contains(why), "{line}: {found}");
        }
    }
}
