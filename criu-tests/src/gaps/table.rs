//! The cases: what is run, how often, and what is expected of it now.

use crate::gaps::verdict::Verdict::{self, Fixed, Said};
use crate::skip::Need;

/// What happens between dump and restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// Nothing.
    Nothing,
    /// The program's part that stays outside of the tree does something: the file `between` tells it to.
    Program,
    /// The alternate stacks in the images become smaller than this kernel accepts, as if the images came from a
    /// machine with smaller signal frames.
    SmallStack,
}

/// One case, or one of several that a row of the design's table names.
#[derive(Debug)]
pub struct Row {
    /// The name: the number in the design's table, and which of its cases. Argument of the program.
    pub name: &'static str,
    /// What it is about.
    pub title: &'static str,
    /// The C file in `gaps/`, without extension.
    pub program: &'static str,
    /// Also with `criu dump --leave-running`.
    pub leave_running: bool,
    /// Between dump and restore.
    pub between: Between,
    /// A signal arrives while criu holds the task. A run in which it came too late for the images is made again.
    pub arrives: bool,
    /// Without these it is skipped.
    pub needs: &'static [Need],
    /// Runs in each way with the plugin. At least [`RACE`] for whatever depends on who comes first.
    pub repeats: u32,
    /// A line of the plugin's in criu's log (warning or error) that has one of these in it names the case.
    pub words: &'static [&'static str],
    /// A deep queue: with the plugin, criu must not have to read it, which it does entry by entry, at a cost that grows with
    /// the square of the depth (kernel/ptrace.c, `ptrace_peek_siginfo`, walks the list from its head).
    pub deep: bool,
    /// What comes out at present. `make gaps` fails when it is anything else, better or worse.
    pub expected: Verdict,
}

/// Behind the names of rows of 32-bit programs.
pub const IA32: &str = "-ia32";

/// Runs of what depends on who comes first.
pub const RACE: u32 = 20;
/// Of what does not; and of runs without the plugin, which only show what is right and what is not.
pub const FEW: u32 = 5;

const STOP: &[&str] = &["stop"];
const WAIT: &[&str] = &["continued", "wait status"];
const TIMER: &[&str] = &["timer"];
const LIMIT: &[&str] = &["RLIMIT_SIGPENDING", "limit"];
const TIMEOUT: &[&str] = &["whole timeout"];
const CALL: &[&str] = &["EINTR", "interrupted call", "system call"];

const fn row(
    name: &'static str,
    title: &'static str,
    program: &'static str,
    words: &'static [&'static str],
    repeats: u32,
    expected: Verdict,
) -> Row {
    Row {
        name,
        title,
        program,
        leave_running: true,
        between: Between::Nothing,
        arrives: false,
        needs: &[],
        repeats,
        words,
        deep: false,
        expected,
    }
}

impl Row {
    const fn only_restored(mut self) -> Row {
        self.leave_running = false;
        self
    }

    const fn between(mut self, between: Between) -> Row {
        self.between = between;
        self
    }

    const fn arriving(mut self) -> Row {
        self.arrives = true;
        self
    }

    const fn needs(mut self, needs: &'static [Need]) -> Row {
        self.needs = needs;
        self
    }

    /// A row of a 32-bit program.
    const fn ia32(self) -> Row {
        self.needs(&[Need::Ia32])
    }

    /// Is it run with the 32-bit program?
    pub fn is_ia32(&self) -> bool {
        self.needs.contains(&Need::Ia32)
    }

    /// What the program is told: the name, which for a 32-bit one has [`IA32`] behind it.
    pub fn sub_case(&self) -> &'static str {
        self.name.strip_suffix(IA32).unwrap_or(self.name)
    }

    /// The number in the design's table.
    pub fn case(&self) -> u32 {
        self.name
            .split('-')
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0)
    }
}

/// A row of case 24, whose name has the depth.
const fn deep(name: &'static str, expected: Verdict) -> Row {
    let title = "a deep queue: how long the task is held";
    Row {
        deep: true,
        ..row(name, title, "queues", &[], 3, expected)
    }
}

/// All of them. Case 25, criu being killed, has a test of its own.
pub const ROWS: &[Row] = &[
    row(
        "1-stop",
        "SIGTERM pending in a child stopped by SIGSTOP",
        "stops",
        STOP,
        RACE,
        Fixed,
    ),
    row(
        "1-tstp",
        "SIGTERM pending in a child stopped by SIGTSTP",
        "stops",
        STOP,
        RACE,
        Fixed,
    ),
    row(
        "1-handler",
        "a handled signal pending in a stopped child",
        "stops",
        STOP,
        RACE,
        Fixed,
    ),
    row(
        "1-root",
        "SIGTERM pending in the stopped root of the tree",
        "stops",
        STOP,
        RACE,
        Fixed,
    ),
    row(
        "1-stop-ia32",
        "32-bit: SIGTERM pending in a child stopped by SIGSTOP",
        "stops",
        STOP,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "2-consumed",
        "stop of a child that its parent has waited for",
        "stops",
        STOP,
        RACE,
        Fixed,
    ),
    row(
        "2-waitable",
        "stop of a child that its parent has not waited for",
        "stops",
        STOP,
        RACE,
        Fixed,
    ),
    row(
        "2-pending",
        "the stop signal itself, pending in a stopped child",
        "stops",
        STOP,
        FEW,
        Fixed,
    ),
    row(
        "3",
        "WCONTINUED status that nobody has waited for",
        "stops",
        WAIT,
        RACE,
        Fixed,
    ),
    row(
        "4",
        "SIGTSTP and SIGTTIN pending in a child stopped by SIGSTOP",
        "stops",
        STOP,
        RACE,
        Fixed,
    ),
    row("5-ttin", "stopped by SIGTTIN", "stops", STOP, RACE, Fixed),
    row("5-ttou", "stopped by SIGTTOU", "stops", STOP, RACE, Fixed),
    row(
        "5-ttin-consumed",
        "stopped by SIGTTIN, the parent has waited",
        "stops",
        STOP,
        RACE,
        Fixed,
    ),
    row(
        "6-shared",
        "SIGTRAP pending and blocked, shared",
        "queues",
        &["SIGTRAP"],
        FEW,
        Fixed,
    ),
    row(
        "6-private",
        "SIGTRAP pending and blocked, private",
        "queues",
        &["SIGTRAP"],
        FEW,
        Fixed,
    ),
    row(
        "6-shared-ia32",
        "32-bit: SIGTRAP pending and blocked, shared",
        "queues",
        &["SIGTRAP"],
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "7-segv",
        "private blocked SIGSEGV with si_code > 0",
        "queues",
        &["SIGSEGV"],
        FEW,
        Fixed,
    ),
    row(
        "7-all",
        "the same of SIGSEGV, BUS, SYS, FPE and ILL",
        "queues",
        &["SIGSEGV"],
        FEW,
        Fixed,
    ),
    row(
        "7-thread",
        "private blocked SIGSEGV of another thread",
        "queues",
        &["SIGSEGV"],
        FEW,
        Fixed,
    ),
    row(
        "7-all-ia32",
        "32-bit: private blocked SIGSEGV, BUS, SYS, FPE and ILL",
        "queues",
        &["SIGSEGV"],
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "8-two-timers",
        "two POSIX timers pending with one number",
        "timers",
        TIMER,
        RACE,
        Fixed,
    ),
    row(
        "8-kill-and-timer",
        "kill() and a timer pending with one number",
        "timers",
        TIMER,
        RACE,
        Fixed,
    ),
    row(
        "8-two-timers-ia32",
        "32-bit: two POSIX timers pending with one number",
        "timers",
        TIMER,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "9-delete",
        "one-shot timer pending, then timer_delete",
        "timers",
        TIMER,
        RACE,
        Fixed,
    ),
    row(
        "9-disarm",
        "one-shot timer pending, then disarmed",
        "timers",
        TIMER,
        RACE,
        Fixed,
    ),
    row(
        "9-rearm",
        "one-shot timer pending, then armed again",
        "timers",
        TIMER,
        RACE,
        Fixed,
    ),
    row(
        "9-rearm-ia32",
        "32-bit: one-shot timer pending, then armed again",
        "timers",
        TIMER,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "9-later",
        "periodic timer pending, set anew beyond its period before the dump",
        "timers",
        TIMER,
        FEW,
        Fixed,
    ),
    row(
        "9-gone",
        "one-shot timer pending, its timer deleted before the dump",
        "timers",
        TIMER,
        FEW,
        Fixed,
    ),
    row(
        "9-gone-thread",
        "one-shot timer pending in a thread's queue, its timer deleted before the dump",
        "timers",
        TIMER,
        FEW,
        Fixed,
    ),
    row(
        "9-forged",
        "an entry that looks like a timer's, where there is no timer",
        "timers",
        TIMER,
        FEW,
        Fixed,
    ),
    row(
        "10-getoverrun",
        "timer_getoverrun of an expiry taken before",
        "timers",
        TIMER,
        RACE,
        Fixed,
    ),
    row(
        "10-pending",
        "overrun of a pending expiry",
        "timers",
        TIMER,
        RACE,
        Fixed,
    ),
    row(
        "10-ticking",
        "overrun of a pending expiry, the timer ticks on",
        "timers",
        TIMER,
        RACE,
        Fixed,
    ),
    row(
        "10-pending-ia32",
        "32-bit: overrun of a pending expiry",
        "timers",
        TIMER,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "11-ignored",
        "periodic timer whose number is ignored, a handler later",
        "timers",
        TIMER,
        RACE,
        Fixed,
    ),
    row(
        "12-soft",
        "soft RLIMIT_SIGPENDING below the queue's depth",
        "queues",
        LIMIT,
        FEW,
        Fixed,
    ),
    row(
        "12-hard",
        "soft and hard RLIMIT_SIGPENDING below it",
        "queues",
        LIMIT,
        FEW,
        Fixed,
    ),
    row(
        "12-soft-ia32",
        "32-bit: soft RLIMIT_SIGPENDING below the queue's depth",
        "queues",
        LIMIT,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "13-same-uid",
        "the limit is used up by others of the uid at the restore",
        "queues",
        LIMIT,
        FEW,
        Fixed,
    )
    .only_restored()
    .between(Between::Program),
    row(
        "13-other-uid",
        "the limit is used up by others of criu's uid",
        "queues",
        LIMIT,
        FEW,
        Fixed,
    )
    .only_restored()
    .between(Between::Program)
    // criu needs it to dump a process of another user.
    .needs(&[Need::CapSysResource]),
    row(
        "14-soft",
        "entries whose siginfo the soft limit would refuse",
        "queues",
        LIMIT,
        FEW,
        Fixed,
    ),
    row(
        "14-hard",
        "entries whose siginfo soft and hard limit would refuse",
        "queues",
        LIMIT,
        FEW,
        Fixed,
    ),
    row(
        "14-soft-ia32",
        "32-bit: entries whose siginfo the soft limit would refuse",
        "queues",
        LIMIT,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "15-shared",
        "shared pending bits without siginfo",
        "queues",
        &["siginfo"],
        FEW,
        Fixed,
    ),
    row(
        "15-private",
        "private pending bit without siginfo",
        "queues",
        &["siginfo"],
        FEW,
        Fixed,
    ),
    row(
        "15-shared-ia32",
        "32-bit: shared pending bits without siginfo",
        "queues",
        &["siginfo"],
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "16-default",
        "private SIGCHLD of threads, default action",
        "queues",
        &["SIGCHLD"],
        RACE,
        Fixed,
    ),
    row(
        "16-ignored",
        "private SIGCHLD of threads, ignored",
        "queues",
        &["SIGCHLD"],
        RACE,
        Fixed,
    ),
    row(
        "16-default-ia32",
        "32-bit: private SIGCHLD of threads, default action",
        "queues",
        &["SIGCHLD"],
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "17-sigtimedwait",
        "in rt_sigtimedwait",
        "calls",
        CALL,
        FEW,
        Fixed,
    ),
    row(
        "17-sigtimedwait-timeout",
        "in rt_sigtimedwait, with a timeout",
        "calls",
        TIMEOUT,
        FEW,
        Said,
    ),
    row("17-epoll_wait", "in epoll_wait", "calls", CALL, FEW, Fixed),
    row(
        "17-epoll_wait-timeout",
        "in epoll_wait, with a timeout",
        "calls",
        TIMEOUT,
        FEW,
        Said,
    ),
    row(
        "17-epoll_pwait",
        "in epoll_pwait",
        "calls",
        CALL,
        FEW,
        Fixed,
    ),
    row(
        "17-recv",
        "in recv with SO_RCVTIMEO, data comes",
        "calls",
        CALL,
        FEW,
        Fixed,
    ),
    row(
        "17-recv-timeout",
        "in recv with SO_RCVTIMEO, no data comes",
        "calls",
        TIMEOUT,
        FEW,
        Said,
    ),
    row(
        "17-sigtimedwait-ia32",
        "32-bit: in rt_sigtimedwait",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "17-epoll_wait-ia32",
        "32-bit: in epoll_wait",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "17-epoll_wait-timeout-ia32",
        "32-bit: in epoll_wait, with a timeout",
        "calls",
        TIMEOUT,
        FEW,
        Said,
    )
    .ia32(),
    row(
        "17-recv-ia32",
        "32-bit: in recv with SO_RCVTIMEO, data comes",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "18-poll",
        "in poll with a timeout",
        "calls",
        CALL,
        FEW,
        Fixed,
    ),
    row("18-nanosleep", "in nanosleep", "calls", CALL, FEW, Fixed),
    row(
        "18-clock_nanosleep",
        "in clock_nanosleep, relative",
        "calls",
        CALL,
        FEW,
        Fixed,
    ),
    row(
        "18-futex",
        "in futex with a timeout",
        "calls",
        CALL,
        FEW,
        Fixed,
    ),
    row(
        "18-nanosleep-rem",
        "in nanosleep that is to say what is left, a handler follows",
        "calls",
        CALL,
        FEW,
        Fixed,
    ),
    row(
        "18-nanosleep-again",
        "in nanosleep that a stop had interrupted",
        "calls",
        CALL,
        FEW,
        Fixed,
    ),
    row(
        "18-poll-ia32",
        "32-bit: in poll with a timeout",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "18-nanosleep-ia32",
        "32-bit: in nanosleep",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "18-nanosleep-rem-ia32",
        "32-bit: in nanosleep that is to say what is left, a handler follows",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "18-clock_nanosleep-ia32",
        "32-bit: in clock_nanosleep, relative",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "18-clock_nanosleep_time64-ia32",
        "32-bit: in clock_nanosleep_time64, relative",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "18-futex-ia32",
        "32-bit: in futex with a timeout",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "18-futex_time64-ia32",
        "32-bit: in futex_time64 with a timeout",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "18-poll-again-ia32",
        "32-bit: in poll that a stop had interrupted",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "18-futex-again-ia32",
        "32-bit: in futex that a stop had interrupted",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "18-clock_nanosleep-rem-again-ia32",
        "32-bit: in clock_nanosleep that a stop had interrupted, a handler follows",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "18-clock_nanosleep_time64-rem-again-ia32",
        "32-bit: the same in clock_nanosleep_time64",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "19-pause",
        "a handled signal arrives while pause is held",
        "calls",
        CALL,
        RACE,
        Fixed,
    )
    .arriving(),
    row("19-read", "the same in read", "calls", CALL, RACE, Fixed).arriving(),
    row(
        "19-select",
        "the same in select",
        "calls",
        CALL,
        RACE,
        Fixed,
    )
    .arriving(),
    row("19-recv", "the same in recv", "calls", CALL, RACE, Fixed).arriving(),
    row("19-wait", "the same in wait4", "calls", CALL, RACE, Fixed).arriving(),
    row("19-futex", "the same in futex", "calls", CALL, RACE, Fixed).arriving(),
    row(
        "19-read-restart",
        "the same in read, the handler has SA_RESTART",
        "calls",
        CALL,
        RACE,
        Fixed,
    )
    .arriving(),
    row(
        "19-wait-restart",
        "the same in wait4, with SA_RESTART",
        "calls",
        CALL,
        RACE,
        Fixed,
    )
    .arriving(),
    row(
        "19-pause-restart",
        "the same in pause, SA_RESTART does not matter",
        "calls",
        CALL,
        RACE,
        Fixed,
    )
    .arriving(),
    row(
        "19-select-restart",
        "the same in select, SA_RESTART does not matter",
        "calls",
        CALL,
        RACE,
        Fixed,
    )
    .arriving(),
    row(
        "19-nanosleep",
        "the same in nanosleep",
        "calls",
        CALL,
        RACE,
        Fixed,
    )
    .arriving(),
    row(
        "19-epoll_wait",
        "the same in epoll_wait",
        "calls",
        CALL,
        RACE,
        Fixed,
    )
    .arriving(),
    row(
        "19-pause-ia32",
        "32-bit: a handled signal arrives while pause is held",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32()
    .arriving(),
    row(
        "19-read-ia32",
        "32-bit: the same in read",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32()
    .arriving(),
    row(
        "19-select-ia32",
        "32-bit: the same in select",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32()
    .arriving(),
    row(
        "19-read-restart-ia32",
        "32-bit: the same in read, the handler has SA_RESTART",
        "calls",
        CALL,
        FEW,
        Fixed,
    )
    .ia32()
    .arriving(),
    row(
        "20",
        "stopped by SIGTSTP in epoll_pwait whose real mask blocks it",
        "calls",
        STOP,
        RACE,
        Fixed,
    ),
    row(
        "20-ia32",
        "32-bit: stopped by SIGTSTP in epoll_pwait whose real mask blocks it",
        "calls",
        STOP,
        FEW,
        Fixed,
    )
    .ia32(),
    row(
        "21",
        "root of the tree with a parent-death signal, restore -d",
        "others",
        &["pdeath", "parent-death"],
        FEW,
        Fixed,
    )
    .only_restored(),
    row(
        "22-usr1",
        "child cloned with exit signal SIGUSR1",
        "others",
        &["exit signal", "exit_signal"],
        FEW,
        Said,
    ),
    row(
        "22-none",
        "child cloned without exit signal",
        "others",
        &["exit signal", "exit_signal"],
        FEW,
        Said,
    ),
    row(
        "22-status",
        "children that have ended with exit statuses above 127, and were not waited for",
        "others",
        &["not waited for"],
        FEW,
        Fixed,
    ),
    row(
        "23",
        "alternate stack too small for this kernel",
        "others",
        &["alternate stack", "altstack"],
        FEW,
        Said,
    )
    .only_restored()
    .between(Between::SmallStack),
    deep("24-10000", Fixed),
    deep("24-10000-ia32", Fixed).ia32(),
];

/// Only when asked for by name: they take long without the plugin.
pub const DEEPER: &[Row] = &[deep("24-20000", Fixed), deep("24-40000", Fixed)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_of_the_design_has_a_row_in_order() {
        let mut cases: Vec<u32> = ROWS.iter().map(Row::case).collect();
        assert!(cases.is_sorted());
        cases.dedup();
        assert_eq!(cases, (1..=24).collect::<Vec<_>>());
    }

    #[test]
    fn names_are_unique_and_can_be_folder_names() {
        let mut names: Vec<&str> = ROWS.iter().chain(DEEPER).map(|row| row.name).collect();
        assert!(names.iter().all(|name| {
            name.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        }));
        names.sort_unstable();
        assert!(names.windows(2).all(|two| two[0] != two[1]));
    }

    #[test]
    fn a_refusal_is_never_what_a_case_ends_with_that_can_be_fixed() {
        for row in ROWS.iter().filter(|row| row.expected == Verdict::Refused) {
            assert!(matches!(row.case(), 21..=23), "{}", row.name);
        }
    }
}
