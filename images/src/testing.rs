//! States for tests: a fixed example, and a generator of arbitrary states.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::altstack::AltStack;
use crate::clocks::{Clocks, CpuLimit, TimerFd};
use crate::disposition::{Disposition, Dispositions};
use crate::exit_signal::ExitSignal;
use crate::header::{Arch, FORMAT_VERSION, Header};
use crate::ids::NsIds;
use crate::image::Image;
use crate::interrupted::{InterruptedCall, RestartCode};
use crate::itimer::IntervalTimer;
use crate::owner::FileOwner;
use crate::pending::Pending;
use crate::printable::Name;
use crate::process::{ProcessState, Rlimit, RunState, TakenOut, ThreadState};
use crate::siginfo::{Fields, SIGINFO_SIZE, Siginfo};
use crate::signo::SigNo;
use crate::sigset::SigSet;
use crate::stack_needs::StackNeeds;
use crate::timer::{DeletedTimer, Notify, PosixTimer, TimerEntry};
use crate::wait_status::WaitStatus;

/// Two threads, something pending everywhere, and a signal pending without a siginfo.
pub(crate) fn sample() -> ProcessState {
    let mut dispositions = Dispositions::default();
    dispositions[SigNo::TERM] = Disposition {
        handler: 0x40_1000,
        flags: 0x1400_0004,
        restorer: 0x7f00_0000_1000,
        mask: SigSet::from(SigNo::INT),
    };
    let leader = ThreadState {
        ids: ns_ids([4711, 41]),
        blocked: SigSet::FULL,
        saved_mask: Some(SigSet::from(SigNo::USR1)),
        altstack: AltStack::DISABLED,
        pending: Pending::default(),
        interrupted: None,
        parent_death_signal: None,
        in_handler: Some(SigNo::USR1),
    };
    let thread = ThreadState {
        ids: ns_ids([4712, 42]),
        saved_mask: None,
        pending: pending(
            SigSet::EMPTY,
            vec![queued(34, 1), queued(34, 2), queued(10, 3)],
        ),
        ..leader.clone()
    };
    ProcessState {
        ids: ns_ids([4711, 41]),
        pid_ns: 0xf000_0001,
        comm: "sample".into(),
        exe: None,
        interval_timers: Vec::new(),
        file_owners: Vec::new(),
        clocks: None,
        compat: false,
        rlimit_sigpending: Rlimit {
            soft: 128,
            hard: Rlimit::INFINITY,
        },
        queued: 4,
        dispositions,
        run_state: RunState::Stopped(SigNo::TSTP),
        wait_status: WaitStatus::Unknown,
        shared: pending(SigSet::from(SigNo::HUP), vec![queued(64, 9)]),
        exit_signal: None,
        stack_needs: None,
        taken_out: Vec::new(),
        lent_limit: None,
        timers: Vec::new(),
        deleted_timers: Vec::new(),
        threads: vec![leader, thread],
    }
}

pub(crate) fn sample_image() -> Image {
    Image {
        header: Header {
            format_version: 1,
            arch: Arch::X86_64,
            kernel_release: "6.18.0".to_owned(),
            tool_version: "0.1.0".to_owned(),
            criu_version: Some("4.2".to_owned()),
        },
        process: sample(),
    }
}

/// As sigqueue(3) makes it.
pub(crate) fn queued(signo: i32, value: u64) -> Siginfo {
    let fields = Fields::Value {
        pid: 12,
        uid: 1000,
        value,
    };
    Siginfo::from_fields(signo, 0, -1, &fields)
}

fn pending(without_info: SigSet, queue: Vec<Siginfo>) -> Pending {
    let mut pending = Pending {
        bits: without_info,
        queue,
    };
    pending.bits = without_info.union(pending.queued());
    pending
}

fn ns_ids<const N: usize>(ids: [i32; N]) -> NsIds {
    NsIds::new(ids.to_vec()).expect("these are ids")
}

pub(crate) fn sigset() -> impl Strategy<Value = SigSet> {
    prop_oneof![
        Just(SigSet::EMPTY),
        Just(SigSet::FULL),
        any::<u64>().prop_map(SigSet::from_bits),
    ]
}

pub(crate) fn altstack() -> impl Strategy<Value = AltStack> {
    prop_oneof![
        Just(AltStack::DISABLED),
        any::<(u64, u32, u64)>().prop_map(|(sp, flags, size)| AltStack { sp, flags, size }),
    ]
}

fn disposition() -> impl Strategy<Value = Disposition> {
    let handler = prop_oneof![0..2_u64, any::<u64>()];
    (handler, any::<u64>(), any::<u64>(), sigset()).prop_map(|(handler, flags, restorer, mask)| {
        Disposition {
            handler,
            flags,
            restorer,
            mask,
        }
    })
}

pub(crate) fn dispositions() -> impl Strategy<Value = Dispositions> {
    vec((0..64_i32, disposition()), 0..8).prop_map(|changed| {
        let mut dispositions = Dispositions::default();
        for (index, disposition) in changed {
            if let Some(signo) = SigNo::new(index + 1) {
                dispositions[signo] = disposition;
            }
        }
        dispositions
    })
}

/// Any number, any code that has a meaning somewhere, and any bytes in the first 48, which are all that
/// the kernel keeps, or in all 128.
pub(crate) fn siginfo() -> impl Strategy<Value = Siginfo> {
    let code = prop_oneof![-8..=16_i32, Just(-60), 126..=130_i32, any::<i32>()];
    let errno = prop_oneof![Just(0), any::<i32>()];
    let body = prop_oneof![vec(any::<u8>(), 32), vec(any::<u8>(), SIGINFO_SIZE - 16)];
    (1..=64_i32, errno, code, body).prop_map(|(signo, errno, code, body)| {
        let nothing = Fields::Kill { pid: 0, uid: 0 };
        let Siginfo(mut bytes) = Siginfo::from_fields(signo, errno, code, &nothing);
        bytes[16..16 + body.len()].copy_from_slice(&body);
        let siginfo = Siginfo(bytes);
        // Half of them as the kernel itself would build them.
        if body[0] % 2 == 0 {
            Siginfo::from_fields(signo, errno, code, &siginfo.fields())
        } else {
            siginfo
        }
    })
}

pub(crate) fn any_pending() -> impl Strategy<Value = Pending> {
    (sigset(), vec(siginfo(), 0..6)).prop_map(|(without_info, queue)| pending(without_info, queue))
}

pub(crate) fn stack_needs() -> impl Strategy<Value = StackNeeds> {
    any::<(u64, u64)>().prop_map(|(minimum, frame)| StackNeeds { minimum, frame })
}

pub(crate) fn interrupted_call() -> impl Strategy<Value = InterruptedCall> {
    let own = any::<(u64, Option<u64>, bool, Option<u64>)>();
    (
        0..1_u32 << 31,
        prop::sample::select(&RestartCode::ALL[..]),
        own,
    )
        .prop_map(
            |(number, code, (ip, remaining, whole_timeout, timeout))| InterruptedCall {
                number,
                code,
                ip,
                remaining,
                whole_timeout,
                timeout: timeout.filter(|_| whole_timeout),
            },
        )
}

type Thread = (
    SigSet,
    Option<SigSet>,
    AltStack,
    Pending,
    (Option<InterruptedCall>, Option<SigNo>),
);

/// What a thread has besides its ids.
fn thread() -> impl Strategy<Value = Thread> {
    (
        sigset(),
        prop::option::of(sigset()),
        altstack(),
        any_pending(),
        (
            prop::option::of(interrupted_call()),
            (0..=64_i32).prop_map(SigNo::new),
        ),
    )
}

pub(crate) fn timer() -> impl Strategy<Value = PosixTimer> {
    let notify = prop_oneof![
        Just(Notify::Process),
        Just(Notify::Nobody),
        Just(Notify::Library),
        any::<i32>().prop_map(Notify::Thread),
    ];
    let entry = prop_oneof![
        Just(TimerEntry::Idle),
        Just(TimerEntry::Pending),
        Just(TimerEntry::Stale),
        Just(TimerEntry::Ignored),
    ];
    (
        (0..=i32::MAX, any::<i32>(), 1..=64_i32, any::<u64>(), notify),
        any::<(u64, u64, u32, [Option<u32>; 2])>(),
        entry,
    )
        .prop_map(
            |((id, clock, signo, value, notify), (interval, remaining, overrun, known), entry)| {
                PosixTimer {
                    id,
                    clock,
                    signo,
                    value,
                    notify,
                    interval,
                    remaining,
                    overrun,
                    entry,
                    entry_overrun: known[0],
                    place_aside: known[1],
                }
            },
        )
}

/// One, for those who need one.
pub(crate) fn deleted_timer() -> DeletedTimer {
    DeletedTimer {
        id: 3,
        signo: SigNo::USR1,
        value: 7,
        thread: None,
    }
}

fn any_deleted_timer() -> impl Strategy<Value = DeletedTimer> {
    let thread = prop::option::of(1..1_000_000_i32);
    (0..=i32::MAX, 1..=64_i32, any::<u64>(), thread).prop_map(|(id, signo, value, thread)| {
        DeletedTimer {
            id,
            signo: SigNo::new(signo).expect("a signal"),
            value,
            thread,
        }
    })
}

fn timers() -> impl Strategy<Value = Vec<PosixTimer>> {
    vec(timer(), 0..4).prop_map(|mut timers| {
        timers.sort_by_key(|timer| timer.id);
        timers.dedup_by_key(|timer| timer.id);
        timers
    })
}

fn run_state() -> impl Strategy<Value = RunState> {
    prop_oneof![
        Just(RunState::Running),
        (19..=22_i32).prop_map(|n| SigNo::new(n).map_or(RunState::Running, RunState::Stopped)),
    ]
}

const TAKEN_OUT: [TakenOut; 4] = [
    TakenOut::Trap,
    TakenOut::Fault,
    TakenOut::Limit,
    TakenOut::Deep,
];

fn wait_status() -> impl Strategy<Value = WaitStatus> {
    prop_oneof![
        Just(WaitStatus::Unknown),
        Just(WaitStatus::Nothing),
        Just(WaitStatus::Continued),
        (19..=22_i32).prop_map(|n| SigNo::new(n).map_or(WaitStatus::Nothing, WaitStatus::Stopped)),
    ]
}

pub(crate) fn process() -> impl Strategy<Value = ProcessState> {
    let own = (
        any::<u64>(),
        // Anything that is not too long: JSON has to escape it.
        vec(any::<char>(), 0..16).prop_map(|comm| Name::from(comm.into_iter().collect::<String>())),
        any::<bool>(),
        any::<(u64, u64, u64)>(),
    );
    let signals = (
        dispositions(),
        (run_state(), wait_status()),
        any_pending(),
        (
            prop::sample::subsequence(TAKEN_OUT.to_vec(), 0..=TAKEN_OUT.len()),
            (timers(), vec(any_deleted_timer(), 0..3)),
        ),
        vec(thread(), 1..4),
        (0..=300_u32).prop_map(ExitSignal::new),
        prop::option::of(stack_needs()),
    );
    let ids = (1..4_usize, 1..1_000_000_i32);
    (own, signals, ids).prop_map(
        |(
            (pid_ns, comm, compat, numbers),
            (
                dispositions,
                (run_state, wait_status),
                shared,
                (taken_out, (timers, deleted_timers)),
                threads,
                exit_signal,
                stack_needs,
            ),
            (depth, pid),
        )| {
            let ids = |index| {
                let id = pid + i32::try_from(index).unwrap_or_default();
                NsIds::new(vec![id; depth]).expect("these are ids")
            };
            ProcessState {
                ids: ids(0),
                pid_ns,
                exe: Some(format!("/bin/{comm}").into()),
                comm,
                compat,
                rlimit_sigpending: Rlimit {
                    soft: numbers.0,
                    hard: numbers.1,
                },
                queued: numbers.2,
                dispositions,
                run_state,
                wait_status,
                shared,
                exit_signal,
                stack_needs,
                taken_out,
                lent_limit: Some(Rlimit {
                    soft: numbers.1,
                    hard: numbers.2,
                }),
                timers,
                deleted_timers,
                interval_timers: interval_timers(numbers),
                file_owners: file_owners(pid),
                clocks: clocks(numbers),
                threads: threads
                    .into_iter()
                    .enumerate()
                    .map(
                        |(
                            index,
                            (
                                blocked,
                                saved_mask,
                                altstack,
                                pending,
                                (interrupted, parent_death_signal),
                            ),
                        )| {
                            ThreadState {
                                ids: ids(index),
                                blocked,
                                saved_mask,
                                altstack,
                                pending,
                                interrupted,
                                parent_death_signal,
                                in_handler: parent_death_signal,
                            }
                        },
                    )
                    .collect(),
            }
        },
    )
}

pub(crate) fn header() -> impl Strategy<Value = Header> {
    let text = || "[ -~]{0,32}";
    let arch = prop_oneof![Just(Arch::X86_64), Just(Arch::Aarch64)];
    (arch, text(), text(), prop::option::of(text())).prop_map(
        |(arch, kernel_release, tool_version, criu_version)| Header {
            format_version: FORMAT_VERSION,
            arch,
            kernel_release,
            tool_version,
            criu_version,
        },
    )
}

pub(crate) fn image() -> impl Strategy<Value = Image> {
    (header(), process()).prop_map(|(header, process)| Image { header, process })
}

fn interval_timers((interval, remaining, which): (u64, u64, u64)) -> Vec<IntervalTimer> {
    vec![IntervalTimer {
        which: (which % 3) as u32,
        interval,
        remaining,
    }]
}

fn clocks((limit, remaining, ticks): (u64, u64, u64)) -> Option<Clocks> {
    let timerfd = |(fd, flags)| TimerFd {
        fd,
        clock: -1,
        ticks,
        flags,
        remaining,
        interval: limit,
    };
    let clocks = Clocks {
        cpu: CpuLimit {
            limit: Rlimit {
                soft: limit,
                hard: remaining,
            },
            used: ticks,
        },
        timerfds: [(0, 3), (i32::MAX, 0)].map(timerfd).to_vec(),
        not_looked_at: 0,
    };
    (ticks % 3 != 0).then_some(clocks)
}

fn file_owners(id: i32) -> Vec<FileOwner> {
    let owner = |(fd, kind)| FileOwner {
        fd,
        kind,
        id,
        uid: 1,
        euid: u32::MAX,
    };
    [(0, 0), (7, 1), (i32::MAX, 2)].map(owner).to_vec()
}
