//! What is made of the differences: who is to blame, and whether it was said.

use std::fmt;
use std::time::Duration;

use nix::libc;
use serde::{Deserialize, Serialize};

use crate::chance::oracle::{About, Difference};

/// What came out for one seed in one way, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As in the control.
    Same,
    /// It is not, and the log, the report or the command says so; or the run was refused with the reason.
    Said,
    /// The program cannot be judged: its controls differ from each other, or its plan cannot be carried out.
    LeftOut,
    /// It is not as in the control, and nothing says so.
    Silent,
    /// It is not, and with criu alone it is.
    Worse,
    /// Somebody did not come to an end.
    Hang,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Verdict; 6] = [
        Verdict::Same,
        Verdict::Said,
        Verdict::LeftOut,
        Verdict::Silent,
        Verdict::Worse,
        Verdict::Hang,
    ];

    /// Whether the project is at fault.
    pub fn is_fault(self) -> bool {
        self > Verdict::LeftOut
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Same => "same",
            Verdict::Said => "said",
            Verdict::LeftOut => "left out",
            Verdict::Silent => "silent",
            Verdict::Worse => "worse",
            Verdict::Hang => "hang",
        })
    }
}

/// What one run of a way showed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// In what the program differs from the control.
    pub differences: Vec<Difference>,
    /// The dump was refused, where it was to succeed: by these errors.
    pub refused: Option<String>,
    /// Somebody did not come to an end: who.
    pub hang: Option<String>,
    /// What warnings, errors and notices say.
    pub said: Vec<String>,
    /// The dump failed because it was made to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub made_to_fail: bool,
    /// Where criu was when it was killed in a dump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<Reached>,
    /// How long after its start a line of criu's log was seen that was waited for.
    #[serde(skip)]
    pub line_after: Option<Duration>,
    /// Where the program differs: how long it waited from "ready" to GO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited: Option<Duration>,
}

/// How far criu had come: the last line of its own in its log, without the numbers that are others in each run, and how
/// many such there were until then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// The line.
    pub line: String,
    /// The first is 1.
    pub nth: usize,
    /// Had criu begun to run code of its own in the process?
    #[serde(default)]
    pub infected: bool,
}

/// The plugin's last word on a process that it could not check, or put right: of such a process everything is said.
const NOT_AS_IT_WAS: &str = ": verdict=failed";
/// As whom the program is named there: as the first process of a run (`stage`), or as the first of a pid namespace of its
/// own, which the first process of the run starts. Its children come after its observer.
const PROGRAM: [&str; 3] = ["pid 300", "pid 301", "pid 1"];

/// What is said of a timer, also where it says what else is pending, says nothing of entries that are no timer's.
const TIMER: [&str; 2] = ["timer ", "timers "];

impl Shown {
    /// As in the control, and nobody has refused or hung.
    pub fn is_same(&self) -> bool {
        self.differences.is_empty() && self.refused.is_none() && self.hang.is_none()
    }

    /// Only the time is not as in the control.
    pub fn is_of_time(&self) -> bool {
        self.hang.is_none()
            && !self.differences.is_empty()
            && self.differences.iter().all(Difference::is_of_time)
    }

    /// criu does not restore it, and says why.
    fn not_restored(&self) -> bool {
        let fails = |found: &Difference| found.found.contains("criu restore fails");
        self.differences.iter().any(fails)
    }

    /// Whether anything that was said is about this.
    fn says(&self, found: &Difference) -> bool {
        let (about, no_timer) = (found.about, found.is_of_no_timer());
        self.said.iter().any(|said| {
            let has = |word: &&str| said.contains(*word);
            is_of_failed(said, about)
                || about.words().iter().any(has) && !(no_timer && TIMER.iter().any(has))
        })
    }

    /// Whether the other differs wherever this does.
    pub fn is_all_in(&self, other: &Shown, mute: bool) -> bool {
        let mut all = self.differences.iter();
        (self.hang.is_none() || other.hang.is_some())
            && all.all(|found| other.is_no_better(found, mute))
    }

    /// Whether this, of criu alone, is as bad as `found`. Where nobody can say anything any more it must be so in the same
    /// line of the report: a dump that criu alone refuses, or a timer that it forgets, is no excuse for an entry that is
    /// gone because criu was killed while the plugin had it.
    fn is_no_better(&self, found: &Difference, mute: bool) -> bool {
        if !mute {
            return self.differs_in(found.about);
        }
        self.differences.iter().any(|alone| {
            alone.about == found.about
                && alone.control == found.control
                && (!found.control.is_empty() || alone.found == found.found)
        })
    }

    fn differs_in(&self, about: About) -> bool {
        // Of a program that is gone nothing else can be told.
        self.hang.is_some()
            || self.refused.is_some()
            || self
                .differences
                .iter()
                .any(|found| found.about == about || found.about == About::Life)
    }
}

/// Whether a line says of the process that a difference is about, that its state is not known to be right.
fn is_of_failed(said: &str, about: About) -> bool {
    let named = said.split_once(NOT_AS_IT_WAS).map(|(who, _)| who);
    named.is_some_and(|who| PROGRAM.contains(&who) == (about != About::Child))
}

/// What criu's own code in a process leaves there when criu is killed: the trap at the end of that code ends the process or stays
/// pending, and the kernel unblocks SIGTRAP for that (force_sig); the code runs on where its memory is gone; or it writes to a
/// socket that nobody reads any more (SIGPIPE). criu alone has ended 41 programs by SIGTRAP, 17 by SIGSEGV and one by SIGPIPE where
/// criu was killed in 2,503 random states. Which instruction is met is a matter of microseconds.
fn is_left_by_criu(found: &Difference, all: &[Difference]) -> bool {
    const TRAP: u64 = 1 << 4;
    const PIPE: u64 = 1 << 12;
    /// Equal, or a signal more is pending, or SIGTRAP is not blocked any more.
    fn is_word(control: &str, found: &str) -> bool {
        let set = |word: &str| {
            let (name, set) = word.split_once('=').unwrap_or(("pending", word));
            Some((name.to_owned(), u64::from_str_radix(set, 16).ok()?))
        };
        let (Some((name, right)), Some((_, found_set))) = (set(control), set(found)) else {
            return control == found;
        };
        match name.as_str() {
            "SigPnd" | "pending" => {
                found_set & !(TRAP | PIPE) == right & !(TRAP | PIPE) && found_set & right == right
            }
            "SigBlk" | "mask" => found_set == right || found_set == right & !TRAP,
            _ => control == found,
        }
    }
    let ends = ["SIGTRAP", "SIGSEGV", "SIGPIPE"];
    let is_sent_by_itself = |line: &str| {
        let info = line.split(' ').nth(2).unwrap_or_default();
        // SI_KERNEL for the trap, SI_USER for send_sig.
        let codes = ["05000000000000008000", "0d00000000000000000000"];
        codes.iter().any(|start| info.starts_with(start))
    };
    match found.about {
        About::Life => ends
            .iter()
            .any(|signal| found.found == format!("killed by {signal}")),
        About::Pending if found.control.is_empty() => is_sent_by_itself(&found.found),
        About::Pending | About::Thread => {
            let words =
                |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
            let (right, found) = (words(&found.control), words(&found.found));
            let is_line = ["status", "bits", "thread"].contains(&right[0].as_str());
            is_line
                && right.len() == found.len()
                && right[..2] == found[..2]
                && right[2..]
                    .iter()
                    .zip(&found[2..])
                    .all(|(right, found)| is_word(right, found))
        }
        About::Child => {
            let line = [&found.control, &found.found]
                .into_iter()
                .find(|line| !line.is_empty());
            let child = line.and_then(|line| line.split(' ').nth(1));
            child.is_some_and(|child| has_ended_so(child, all))
        }
        _ => false,
    }
}

/// Has this child ended by one of these signals (CLD_KILLED, CLD_DUMPED)? Then nothing else is known of it.
fn has_ended_so(child: &str, all: &[Difference]) -> bool {
    let signals = [libc::SIGTRAP, libc::SIGSEGV, libc::SIGPIPE];
    let ways = signals.iter().flat_map(|signal| {
        [libc::CLD_KILLED, libc::CLD_DUMPED]
            .map(|code| format!("child {child} then code={code} value={signal}"))
    });
    let ways: Vec<String> = ways.collect();
    all.iter().any(|one| ways.contains(&one.found))
}

/// The verdict of a run with the plugin, by what criu alone showed in the same way, where it has a part in it. With
/// `mute` criu has been killed: nobody is left to say anything.
pub fn of(with: &Shown, alone: Option<&Shown>, mute: bool) -> Verdict {
    let unharmed;
    let alone = match alone {
        // Who refuses a dump does not harm the program. That is no excuse for a dump that fails and does.
        Some(alone) if with.made_to_fail => {
            unharmed = Shown {
                refused: None,
                ..alone.clone()
            };
            Some(&unharmed)
        }
        alone => alone,
    };
    let alone_same = alone.is_none_or(Shown::is_same);
    if with.hang.is_some() {
        // criu's own: then nobody is worse off.
        let criu_too = alone.is_some_and(|alone| alone.hang.is_some());
        return if criu_too {
            Verdict::Said
        } else {
            Verdict::Hang
        };
    }
    let mut verdict = Verdict::Same;
    for found in &with.differences {
        let alone_differs = alone.is_some_and(|alone| alone.is_no_better(found, mute));
        let infected = with
            .reached
            .as_ref()
            .is_some_and(|reached| reached.infected);
        let one = match (with.says(found), alone_differs) {
            _ if mute && infected && is_left_by_criu(found, &with.differences) => Verdict::Said,
            // The command says what it cannot do: criu has no such thing.
            (true, _) if found.about == About::Command => Verdict::Said,
            // What criu does not restore by itself it says in its log.
            _ if with.not_restored() && alone.is_some_and(Shown::not_restored) => Verdict::Said,
            (said, true) if said || mute => Verdict::Said,
            (_, true) => Verdict::Silent,
            (_, false) => Verdict::Worse,
        };
        verdict = verdict.max(one);
    }
    if with.refused.is_some() {
        verdict = verdict.max(match (alone_same, with.said.is_empty()) {
            (true, _) => Verdict::Worse,
            (false, true) => match alone.is_some_and(|alone| alone.refused.is_some()) {
                // criu refuses by itself, and says why.
                true => Verdict::Said,
                false => Verdict::Silent,
            },
            (false, false) => Verdict::Said,
        });
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differs(about: About) -> Shown {
        Shown {
            differences: vec![Difference {
                about,
                control: "a".into(),
                found: "b".into(),
            }],
            ..Shown::default()
        }
    }

    fn saying(shown: Shown, said: &str) -> Shown {
        Shown {
            said: vec![said.into()],
            ..shown
        }
    }

    #[test]
    fn who_is_to_blame() {
        let same = Shown::default();
        let timer = differs(About::Timer);
        let said = saying(timer.clone(), "a timer is lost");
        let beside = saying(timer.clone(), "the mask is lost");
        assert_eq!(of(&same, Some(&timer), false), Verdict::Same);
        assert_eq!(of(&timer, Some(&same), false), Verdict::Worse);
        assert_eq!(of(&said, Some(&same), false), Verdict::Worse);
        assert_eq!(of(&timer, Some(&timer), false), Verdict::Silent);
        assert_eq!(of(&beside, Some(&timer), false), Verdict::Silent);
        assert_eq!(of(&said, Some(&timer), false), Verdict::Said);
        let failed = saying(timer.clone(), "pid 300: verdict=failed threads=3");
        assert_eq!(of(&failed, Some(&timer), false), Verdict::Said);
        assert_eq!(
            of(&timer, Some(&differs(About::Call)), false),
            Verdict::Worse
        );
        assert_eq!(
            of(&timer, Some(&differs(About::Life)), false),
            Verdict::Silent
        );
        assert_eq!(of(&timer, None, false), Verdict::Worse);
        assert_eq!(of(&timer, Some(&timer), true), Verdict::Said);
        assert_eq!(of(&timer, Some(&same), true), Verdict::Worse);
        let child = saying(timer.clone(), "pid 302: verdict=failed");
        assert_eq!(of(&child, Some(&timer), false), Verdict::Silent);
        let of_child = saying(differs(About::Child), "pid 302: verdict=failed");
        assert_eq!(
            of(&of_child, Some(&differs(About::Child)), false),
            Verdict::Said
        );
    }

    #[test]
    fn what_is_said_of_a_timer_is_of_timers() {
        let lost = |info: &str| Shown {
            differences: vec![Difference {
                about: About::Pending,
                control: format!("list 0 {info}"),
                found: String::new(),
            }],
            said: vec!["timer 1: overruns not counted (other signals are pending)".into()],
            ..Shown::default()
        };
        let (sent, timers) = (
            lost("0a00000000000000ffffffff"),
            lost("0a00000000000000feffffff"),
        );
        assert_eq!(of(&sent, Some(&sent), false), Verdict::Silent);
        assert_eq!(of(&timers, Some(&timers), false), Verdict::Said);
    }

    #[test]
    fn nobody_is_left_to_say_it() {
        let lost = |control: &str| Shown {
            differences: vec![Difference {
                about: About::Pending,
                control: control.into(),
                found: String::new(),
            }],
            ..Shown::default()
        };
        let refused = Shown {
            refused: Some("criu dump fails".into()),
            ..Shown::default()
        };
        let hang = Shown {
            hang: Some("a companion".into()),
            ..Shown::default()
        };
        let entry = lost("list 0 aa");
        assert_eq!(of(&entry, Some(&entry), true), Verdict::Said);
        for other in [lost("status process"), differs(About::Life), refused, hang] {
            assert_eq!(of(&entry, Some(&other), true), Verdict::Worse);
        }
    }

    #[test]
    fn what_criu_leaves_when_it_is_killed() {
        let left = |about, control: &str, found: &str, infected| Shown {
            differences: vec![Difference {
                about,
                control: control.into(),
                found: found.into(),
            }],
            reached: Some(Reached {
                infected,
                ..Reached::default()
            }),
            ..Shown::default()
        };
        let same = Shown::default();
        let killed = |infected| left(About::Life, "a report", "killed by SIGTRAP", infected);
        assert_eq!(of(&killed(true), Some(&same), true), Verdict::Said);
        assert_eq!(of(&killed(false), Some(&same), true), Verdict::Worse);
        assert_eq!(of(&killed(true), Some(&same), false), Verdict::Worse);
        let by = |signal| left(About::Life, "a report", signal, true);
        assert_eq!(
            of(&by("killed by SIGKILL"), Some(&same), true),
            Verdict::Worse
        );
        for (about, control, found) in [
            (
                About::Thread,
                "thread 3 mask=fffffffffffbfeff altstack=2",
                "thread 3 mask=fffffffffffbfeef altstack=2",
            ),
            (
                About::Pending,
                "status 0 SigPnd=0000000400000000 SigBlk=0440040640401000",
                "status 0 SigPnd=0000000400001000 SigBlk=0440040640401000",
            ),
            (
                About::Pending,
                "bits 0 0000000400000000",
                "bits 0 0000000400001000",
            ),
            (
                About::Pending,
                "",
                "take 0 0d0000000000000000000000000000002c01",
            ),
        ] {
            let shown = left(about, control, found, true);
            assert_eq!(of(&shown, Some(&same), true), Verdict::Said, "{found}");
        }
        for (about, control, found) in [
            (
                About::Thread,
                "thread 3 mask=ff altstack=2",
                "thread 3 mask=fe altstack=2",
            ),
            (About::Pending, "bits 0 0000000000001000", ""),
            (
                About::Pending,
                "bits 0 0000000000001000",
                "bits 0 0000000000000000",
            ),
            (
                About::Thread,
                "thread 0 mask=ef stack",
                "thread 0 mask=ff stack",
            ),
            (
                About::Pending,
                "",
                "take 0 0c0000000000000000000000000000002c01",
            ),
            (About::Pending, "take 0 0d00000000000000ffffffff", ""),
        ] {
            let shown = left(about, control, found, true);
            assert_eq!(
                of(&shown, Some(&same), true),
                Verdict::Worse,
                "{control} {found}"
            );
        }
    }

    #[test]
    fn refusals_and_hangs() {
        let refused = |said: &[&str]| Shown {
            refused: Some("criu dump fails".into()),
            said: said.iter().map(|s| (*s).to_owned()).collect(),
            ..Shown::default()
        };
        let hang = Shown {
            hang: Some("criu dump".into()),
            ..Shown::default()
        };
        let same = Shown::default();
        let dead = differs(About::Life);
        assert_eq!(of(&refused(&["why"]), Some(&same), false), Verdict::Worse);
        assert_eq!(of(&refused(&["why"]), Some(&dead), false), Verdict::Said);
        assert_eq!(of(&refused(&[]), Some(&dead), false), Verdict::Silent);
        assert_eq!(of(&refused(&[]), Some(&refused(&[])), false), Verdict::Said);
        assert_eq!(of(&hang, Some(&same), false), Verdict::Hang);
        assert_eq!(of(&hang, Some(&hang), false), Verdict::Said);
        let harmed = Shown {
            refused: Some("criu dump fails".into()),
            ..differs(About::Pending)
        };
        assert_eq!(of(&harmed, Some(&same), false), Verdict::Worse);
        // criu alone refuses: a dump that comes about may lose what it says, one that is made to fail may not.
        let said = saying(differs(About::Pending), "signals are pending");
        assert_eq!(of(&said, Some(&refused(&[])), false), Verdict::Said);
        let made_to_fail = Shown {
            made_to_fail: true,
            ..said
        };
        assert_eq!(
            of(&made_to_fail, Some(&refused(&[])), false),
            Verdict::Worse
        );
    }
}
