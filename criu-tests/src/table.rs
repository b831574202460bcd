//! All scenarios.
//!
//! Where `alone` is not [`Expect::Pass`], the row shows something that CRIU loses, refuses or doubles; where `plugin` or
//! `leave_running` is not either, the plugin does not answer it. All are checked: a row that starts to pass must be changed.

use crate::plugin::Verdict::{Repaired, Verified};
use crate::scenario::{Expect, Scenario};
use crate::skip::Need;

/// A run's scenario by its name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}

/// A program in its 32-bit build.
const fn ia32(name: &'static str) -> Scenario {
    Scenario {
        ia32: true,
        needs: &[Need::Ia32],
        ..Scenario::new(name)
    }
}

/// The program that queues what its argument says.
const fn queued(name: &'static str, words: &'static str) -> Scenario {
    Scenario::new(name).program("queued", words)
}

/// Every scenario.
pub const SCENARIOS: &[Scenario] = &[
    // What CRIU gets right: with the plugin nothing may change.
    Scenario::new("dispositions-0").program("dispositions", "0"),
    Scenario::new("dispositions-1").program("dispositions", "1"),
    Scenario::new("dispositions-2").program("dispositions", "2"),
    Scenario::new("dispositions-ignored").program("dispositions", "ignored"),
    Scenario::new("dispositions-default").program("dispositions", "default"),
    Scenario::new("masks"),
    Scenario::new("altstacks"),
    Scenario::new("private_queues"),
    Scenario::new("shared_queue"),
    Scenario::new("fifo"),
    Scenario::new("siginfo_user"),
    Scenario::new("siginfo_faults"),
    Scenario::new("sigchld-exited").program("sigchld", "exited"),
    Scenario::new("sigchld-killed").program("sigchld", "killed"),
    Scenario::new("sigio"),
    Scenario::new("process_tree"),
    Scenario {
        leaves_pid: true,
        ..Scenario::new("pidns")
    },
    Scenario {
        stops: true,
        ..Scenario::new("stopped")
    },
    Scenario::new("sigsuspend"),
    Scenario::new("ppoll"),
    // The entry that CRIU queues in the place of a timer's own does not behave like it.
    Scenario {
        verdicts: &[Repaired],
        ..Scenario::new("posix_timer")
    },
    Scenario {
        unsaid: Some("the plugin cannot tell whether they have expired"),
        ..Scenario::new("timer_ignored")
    },
    // Timers that CRIU makes in the leader, and for the leader, under a limit that does not allow them. From 4.3 on it gets
    // some of that right, and timerfds.
    Scenario {
        alone: Expect::RestoreFails("Can't create posix timer"),
        ..Scenario::new("timer-limit").program("timer_threads", "limit")
    },
    Scenario {
        alone: Expect::Fails("the thread's own time"),
        verdicts: &[Repaired],
        said: Some("not kept: overrun=3"),
        ..Scenario::new("timer-cpu").program("timer_threads", "cpu")
    },
    Scenario {
        alone: Expect::RestoreMayFail("Can't create posix timer"),
        ..Scenario::new("timer-gone").program("timer_threads", "gone")
    },
    Scenario::new("timer-told").program("timer_threads", "told"),
    Scenario {
        leaves_pid: true,
        alone: Expect::RestoreMayFail("Can't create posix timer"),
        ..Scenario::new("timer-nested").program("timer_threads", "nested")
    },
    Scenario {
        alone: Expect::Fails("overrun, expected 149 or more"),
        verdicts: &[Repaired],
        said: Some("not kept: overrun=1"),
        ..Scenario::new("timer_overruns")
    },
    // Both counts can't be had at the restore; what is left running keeps both.
    Scenario {
        alone: Expect::Fails("timer_getoverrun, expected that of the delivery before"),
        plugin: Expect::Fails("timer_getoverrun, expected that of the delivery before"),
        verdicts: &[Repaired],
        said: Some("not kept: overrun=1"),
        ..Scenario::new("timer-overrun-before").program("timer_overruns", "before")
    },
    Scenario::new("itimer"),
    Scenario {
        alone: Expect::Fails("what remains of ITIMER_REAL"),
        verdicts: &[Repaired],
        ..Scenario::new("itimer-pending").program("itimer_expired", "pending")
    },
    Scenario {
        alone: Expect::Fails("what remains of ITIMER_REAL"),
        verdicts: &[Repaired],
        ..Scenario::new("itimer-ignored").program("itimer_expired", "ignored")
    },
    Scenario {
        alone: Expect::Race("a slow timerfd, expected a tick"),
        ..Scenario::new("timerfds")
    },
    // The time used begins anew, and nobody can set it: it is said how late the signal comes.
    Scenario {
        said: Some("SIGXCPU comes 1."),
        ..Scenario::new("cpu_limit")
    },
    Scenario {
        unsaid: Some("s late. With prlimit"),
        ..Scenario::new("cpu_limit-unused").program("cpu_limit", "unused")
    },
    // Files whose SIGIO goes to whom CRIU does not find when it opens them.
    Scenario {
        alone: Expect::RestoreFails("file owner pid: No such process"),
        verdicts: &[Repaired],
        ..Scenario::new("file_owners")
    },
    Scenario {
        alone: Expect::RestoreFails("file owner pid: No such process"),
        said: Some("not kept: owner=1"),
        ..Scenario::new("file_owners-outside").program("file_owners", "outside")
    },
    Scenario::new("parent_death"),
    // CRIU ends calls with a timeout with EINTR, and both threads are in one of them nearly always.
    Scenario {
        alone: Expect::Race("result of clock_nanosleep"),
        ..Scenario::new("registers")
    },
    Scenario::new("signalfd"),
    Scenario::new("many_threads"),
    Scenario::new("deep_queue").program("deep_queue", "2000"),
    Scenario::new("ignored_blocked"),
    Scenario::new("trap-blocked").program("trap_disposition", "blocked"),
    Scenario {
        other_plugins: true,
        program: "masks",
        ..Scenario::new("other_plugins")
    },
    // 32-bit programs: another sigaction, another siginfo, other syscalls.
    ia32("ia32-dispositions").program("dispositions", "0"),
    ia32("ia32-masks").program("masks", ""),
    ia32("ia32-altstacks").program("altstacks", ""),
    ia32("ia32-private_queues").program("private_queues", ""),
    ia32("ia32-shared_queue").program("shared_queue", ""),
    ia32("ia32-siginfo_user").program("siginfo_user", ""),
    ia32("ia32-siginfo_faults").program("siginfo_faults", ""),
    ia32("ia32-sigchld").program("sigchld", "exited"),
    ia32("ia32-sigio").program("sigio", ""),
    ia32("ia32-process_tree").program("process_tree", ""),
    ia32("ia32-sigsuspend").program("sigsuspend", ""),
    ia32("ia32-ppoll").program("ppoll", ""),
    Scenario {
        verdicts: &[Repaired],
        ..ia32("ia32-posix_timer").program("posix_timer", "")
    },
    // What it loses, and the plugin puts back.
    Scenario {
        alone: Expect::Fails("SigPnd, expected"),
        verdicts: &[Repaired],
        ..Scenario::new("bits_without_info")
    },
    Scenario {
        alone: Expect::Race("private queue, length, expected 1, got 0"),
        verdicts: &[Verified, Repaired],
        ..Scenario::new("private_sigchld")
    },
    Scenario {
        alone: Expect::Fails("signal 5 handler"),
        verdicts: &[Repaired],
        ..Scenario::new("trap-ignored").program("trap_disposition", "ignored")
    },
    Scenario {
        alone: Expect::Fails("runs of the handler, expected 1, got 0"),
        ..Scenario::new("sleeping")
    },
    Scenario {
        alone: Expect::Fails("runs of the handler, expected 1, got 0"),
        ..ia32("ia32-sleeping").program("sleeping", "")
    },
    // What it refuses or destroys, and the plugin gets through.
    Scenario {
        alone: Expect::DumpHarms("task interruption, aborting"),
        verdicts: &[Verified, Repaired],
        ..Scenario::new("private_fault")
    },
    Scenario {
        alone: Expect::DumpFails("with a pending SIGTRAP"),
        verdicts: &[Verified, Repaired],
        ..Scenario::new("trap_pending")
    },
    // More entries than are taken out at a time, behind a number that has to stay in.
    Scenario {
        verdicts: &[Verified, Repaired],
        ..queued("queued-behind-timer", "t:35 2000*s:35:-1")
    },
    Scenario {
        verdicts: &[Verified, Repaired],
        ..queued(
            "queued-behind-own",
            "t:35 600*s:36:-1 t:36 600*s:35:-1 p:37:-1 900*s:37:-1 600*s:38:-1",
        )
    },
    // A fault's signal, and the only signals that do nothing are the six that faults send.
    Scenario {
        alone: Expect::DumpHarms("task interruption, aborting"),
        verdicts: &[Verified, Repaired],
        ..queued("queued-fault-ignored-sys", "ign:31 p:4:1")
    },
    Scenario {
        alone: Expect::DumpHarms("task interruption, aborting"),
        verdicts: &[Verified, Repaired],
        ..queued(
            "queued-fault-only-sys",
            "hnd:17 hnd:23 hnd:28 hnd:18 ign:31 p:4:1",
        )
    },
    Scenario {
        alone: Expect::DumpHarms("task interruption, aborting"),
        verdicts: &[Verified, Repaired],
        ..queued(
            "queued-fault-only-trap",
            "p:17:-1 p:23:-1 p:28:-1 p:18:-1 ign:5 p:11:1",
        )
    },
    // An ignored SIGTRAP, and timers' entries beside one.
    Scenario {
        alone: Expect::DumpFails("with a pending SIGTRAP"),
        verdicts: &[Verified, Repaired],
        ..queued("queued-ignored-trap", "ign:5 s:5:0")
    },
    Scenario {
        alone: Expect::DumpFails("with a pending SIGTRAP"),
        verdicts: &[Verified, Repaired],
        ..queued("queued-ignored-trap-private", "ign:5 p:5:-1")
    },
    Scenario {
        alone: Expect::DumpFails("with a pending SIGTRAP"),
        verdicts: &[Verified, Repaired],
        ..queued("queued-timers-and-trap", "ign:10 t:10 t:10 s:5:0")
    },
    Scenario {
        alone: Expect::DumpFails("with a pending SIGTRAP"),
        verdicts: &[Verified, Repaired],
        ..queued(
            "queued-timers-and-private-trap",
            "ign:10 t:10 t:10 t:10 p:5:0",
        )
    },
    Scenario {
        alone: Expect::DumpFails("with a pending SIGTRAP"),
        verdicts: &[Verified, Repaired],
        ..queued(
            "queued-timers-and-kill",
            "t:10 s:10:0 t:10 ign:5 s:5:0 p:11:1 t:36 40*s:36:-1",
        )
    },
    // All at once, for the fault points.
    Scenario {
        alone: Expect::DumpFails("with a pending SIGTRAP"),
        verdicts: &[Verified, Repaired],
        ..Scenario::new("everything")
    },
    Scenario {
        alone: Expect::RestoreFails("Unable to send siginfo"),
        verdicts: &[Verified, Repaired],
        ..Scenario::new("sigpending_limit")
    },
    Scenario {
        alone: Expect::Fails("state of the child, expected T, got Z"),
        verdicts: &[Verified, Repaired],
        ..Scenario::new("stopped_pending")
    },
];
