//! A scenario: a victim with its expected result in each flavour.

use std::fmt;

use crate::plugin::Verdict;
use crate::skip::Need;

/// The ways in which every scenario is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// No checkpoint. Where the victim does not pass here, it is the victim that is wrong.
    Control,
    /// Dumped and restored by criu without any plugin.
    Alone,
    /// Dumped and restored by criu with the plugin, whose verdict is looked at too.
    Plugin,
    /// Dumped with the plugin and `--leave-running`: the task that runs on must be as it was.
    LeaveRunning,
}

impl Flavour {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Flavour; 4] = [
        Flavour::Control,
        Flavour::Alone,
        Flavour::Plugin,
        Flavour::LeaveRunning,
    ];

    /// The name of a flavour, as in `masks.leave-running`.
    pub fn name(self) -> &'static str {
        match self {
            Flavour::Control => "control",
            Flavour::Alone => "alone",
            Flavour::Plugin => "plugin",
            Flavour::LeaveRunning => "leave-running",
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a run is to end. The texts are parts of criu's log or of the victim's own output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The victim prints PASS.
    Pass,
    /// `criu dump` fails and says this. The task runs on, and passes.
    DumpFails(&'static str),
    /// `criu dump` fails and says this, and the task that runs on is no longer what it was.
    DumpHarms(&'static str),
    /// `criu restore` fails and says this, after the dump has ended the task.
    RestoreFails(&'static str),
    /// As [`RestoreFails`](Expect::RestoreFails) with some versions of CRIU; with others the victim passes.
    RestoreMayFail(&'static str),
    /// The victim goes on but finds this.
    Fails(&'static str),
    /// A race, or a matter of CRIU's version: the victim passes, or it finds this.
    Race(&'static str),
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expect::Pass => write!(f, "the victim prints PASS"),
            Expect::DumpFails(text) => write!(f, "criu dump fails with {text:?}, without harm"),
            Expect::DumpHarms(text) => {
                write!(f, "criu dump fails with {text:?}, and the victim after it")
            }
            Expect::RestoreFails(text) => write!(f, "criu restore fails with {text:?}"),
            Expect::RestoreMayFail(text) => {
                write!(
                    f,
                    "the victim prints PASS, or criu restore fails with {text:?}"
                )
            }
            Expect::Fails(text) => write!(f, "the victim fails with {text:?}"),
            Expect::Race(text) => write!(f, "the victim prints PASS or fails with {text:?}"),
        }
    }
}

/// A victim and what is expected of it: one row of [`crate::table`].
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Names the run: `<name>.<flavour>`.
    pub name: &'static str,
    /// The program: `victims/<program>.c`.
    pub program: &'static str,
    /// Its argument, if it takes one.
    pub arg: Option<&'static str>,
    /// The 32-bit build of the program is run.
    pub ia32: bool,
    /// The program ends after it has written the victim's pid to a file: see `victims/pidns.c`.
    pub leaves_pid: bool,
    /// The victim stops itself when it is ready, and is to be sent a SIGCONT.
    pub stops: bool,
    /// Two copies of the other plugin are loaded as well, one read before ours and one behind it.
    pub other_plugins: bool,
    /// What criu alone makes of it.
    pub alone: Expect,
    /// What comes out with the plugin.
    pub plugin: Expect,
    /// What becomes of the task that is left running.
    pub leave_running: Expect,
    /// The plugin's verdicts at the restore, one for each live process: each must be one of these.
    pub verdicts: &'static [Verdict],
    /// What the plugin must say at the dump or at the restore: it can't be kept.
    pub said: Option<&'static str>,
    /// What the plugin must not say, because it is not so.
    pub unsaid: Option<&'static str>,
    /// What the machine must have.
    pub needs: &'static [Need],
}

impl Scenario {
    /// The program `name`, which everybody is expected to restore, the plugin finding nothing to do.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            program: name,
            arg: None,
            ia32: false,
            leaves_pid: false,
            stops: false,
            other_plugins: false,
            alone: Expect::Pass,
            plugin: Expect::Pass,
            leave_running: Expect::Pass,
            verdicts: &[Verdict::Verified],
            said: None,
            unsaid: None,
            needs: &[],
        }
    }

    /// Another program than the one that has the scenario's name, with an argument.
    #[must_use]
    pub const fn program(mut self, program: &'static str, arg: &'static str) -> Self {
        self.program = program;
        self.arg = Some(arg);
        self
    }

    /// What is expected in one flavour.
    pub fn expected(&self, flavour: Flavour) -> Expect {
        match flavour {
            Flavour::Control => Expect::Pass,
            Flavour::Alone => self.alone,
            Flavour::Plugin => self.plugin,
            Flavour::LeaveRunning => self.leave_running,
        }
    }

    /// The name of one run.
    pub fn run_name(&self, flavour: Flavour) -> String {
        format!("{}.{flavour}", self.name)
    }
}
