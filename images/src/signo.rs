//! Signal numbers, the real-time ones included.

use std::fmt;
use std::str::FromStr;

use crate::codec::Codec;
use crate::error::FieldError;

/// glibc's `SIGRTMIN`: it keeps 32 and 33 for itself (nptl), so names count from here, while the kernel's
/// real-time signals begin at 32.
const GLIBC_RTMIN: u8 = 34;
const RTMAX: u8 = 64;
const FIRST_REALTIME: u8 = 32;

/// A signal number, 1..=64 (the kernel's `_NSIG`, as on x86_64 and aarch64).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SigNo(u8);

/// What the kernel does with a signal that nobody handles: `signal(7)`, "Standard signals".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DefaultAction {
    /// Ends the process.
    Terminate,
    /// Ends the process and dumps core.
    Core,
    /// Nothing.
    Ignore,
    /// Stops the process.
    Stop,
    /// Continues a stopped process; otherwise nothing.
    Continue,
}

macro_rules! legacy_signals {
    ($($name:ident = $number:literal),* $(,)?) => {
        impl SigNo {
            $(#[doc = concat!("`SIG", stringify!($name), "`, ", stringify!($number), ".")]
            pub const $name: SigNo = SigNo($number);)*
        }

        /// Names without "SIG" in the order of the numbers, beginning with signal 1.
        const LEGACY_NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

// asm-generic/signal.h, which x86 and arm64 share.
legacy_signals! {
    HUP = 1, INT = 2, QUIT = 3, ILL = 4, TRAP = 5, ABRT = 6, BUS = 7, FPE = 8, KILL = 9, USR1 = 10,
    SEGV = 11, USR2 = 12, PIPE = 13, ALRM = 14, TERM = 15, STKFLT = 16, CHLD = 17, CONT = 18,
    STOP = 19, TSTP = 20, TTIN = 21, TTOU = 22, URG = 23, XCPU = 24, XFSZ = 25, VTALRM = 26,
    PROF = 27, WINCH = 28, POLL = 29, PWR = 30, SYS = 31,
}

/// Other names of the same numbers, from `signal(7)`.
const ALIASES: &[(&str, SigNo)] = &[
    ("IOT", SigNo::ABRT),
    ("IO", SigNo::POLL),
    ("CLD", SigNo::CHLD),
];

impl SigNo {
    /// The lowest signal number.
    pub const MIN: SigNo = SigNo::HUP;
    /// The highest signal number.
    pub const MAX: SigNo = SigNo(RTMAX);

    /// `None` unless `n` is in 1..=64.
    pub const fn new(n: i32) -> Option<SigNo> {
        if n < 1 || n > 64 {
            return None;
        }
        // In range, so the low byte is the number; `try_from` is not const.
        Some(SigNo(n.to_le_bytes()[0]))
    }

    /// The number, 1..=64.
    pub const fn get(self) -> i32 {
        self.0 as i32
    }

    /// Position in a table that begins with signal 1.
    pub(crate) const fn index(self) -> usize {
        self.0 as usize - 1
    }

    /// 1 to 64, in order.
    pub fn all() -> impl Iterator<Item = SigNo> {
        (1..=RTMAX).map(SigNo)
    }

    /// 32 and above, the kernel's `SIGRTMIN`: every instance is queued.
    pub const fn is_realtime(self) -> bool {
        self.0 >= FIRST_REALTIME
    }

    /// 1..=31: a second instance is dropped while one is pending (`legacy_queue` in `kernel/signal.c`).
    pub const fn is_legacy(self) -> bool {
        self.0 < FIRST_REALTIME
    }

    /// One of the four whose default action is to stop the process.
    pub const fn is_stop(self) -> bool {
        matches!(self.default_action(), DefaultAction::Stop)
    }

    /// One of the six that the kernel sends for a fault of the thread itself (`SYNCHRONOUS_MASK` in `kernel/signal.c`).
    ///
    /// Where one of them is pending and not blocked, the kernel hands out the first entry of any of the six with
    /// `si_code > 0`, whether that one is blocked or not (`dequeue_synchronous_signal`).
    pub const fn is_synchronous(self) -> bool {
        matches!(
            self,
            SigNo::SEGV | SigNo::BUS | SigNo::ILL | SigNo::TRAP | SigNo::FPE | SigNo::SYS
        )
    }

    /// What happens where the disposition is SIG_DFL.
    pub const fn default_action(self) -> DefaultAction {
        match self {
            SigNo::QUIT
            | SigNo::ILL
            | SigNo::TRAP
            | SigNo::ABRT
            | SigNo::BUS
            | SigNo::FPE
            | SigNo::SEGV
            | SigNo::XCPU
            | SigNo::XFSZ
            | SigNo::SYS => DefaultAction::Core,
            SigNo::CHLD | SigNo::URG | SigNo::WINCH => DefaultAction::Ignore,
            SigNo::STOP | SigNo::TSTP | SigNo::TTIN | SigNo::TTOU => DefaultAction::Stop,
            SigNo::CONT => DefaultAction::Continue,
            _ => DefaultAction::Terminate,
        }
    }
}

impl fmt::Display for SigNo {
    /// `SIGHUP`, `SIG32`, `SIGRTMIN+2`: glibc's names, which its `kill` and `sigabbrev_np` share.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match LEGACY_NAMES.get(self.index()) {
            Some(name) => write!(f, "SIG{name}"),
            None if self.0 < GLIBC_RTMIN => write!(f, "SIG{}", self.0),
            None if self.0 == GLIBC_RTMIN => f.write_str("SIGRTMIN"),
            None => write!(f, "SIGRTMIN+{}", self.0 - GLIBC_RTMIN),
        }
    }
}

/// The text names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no signal is named {0:?}: expected a name like SIGHUP or SIGRTMIN+2, or a number from 1 to 64"
)]
pub struct ParseSigNoError(pub(crate) String);

impl FromStr for SigNo {
    type Err = ParseSigNoError;

    /// A name with or without `SIG`, in any case (`SIGHUP`, `rtmin+2`, `SIGRTMAX-1`, `SIG33`), or a number.
    fn from_str(text: &str) -> Result<SigNo, ParseSigNoError> {
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        by_name(name)
            .or_else(|| by_realtime_name(name))
            .or_else(|| number(name).and_then(SigNo::new))
            .ok_or_else(|| ParseSigNoError(text.to_owned()))
    }
}

fn by_name(name: &str) -> Option<SigNo> {
    if let Some(&(_, signo)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Some(signo);
    }
    let index = LEGACY_NAMES.iter().position(|&known| known == name)?;
    SigNo::new(i32::try_from(index).ok()? + 1)
}

fn by_realtime_name(name: &str) -> Option<SigNo> {
    let (base, sign, rest) = if let Some(rest) = name.strip_prefix("RTMIN") {
        (GLIBC_RTMIN, '+', rest)
    } else {
        (RTMAX, '-', name.strip_prefix("RTMAX")?)
    };
    let distance = match rest.strip_prefix(sign) {
        Some(digits) => number(digits)?,
        None if rest.is_empty() => 0,
        None => return None,
    };
    let distance = if sign == '+' { distance } else { -distance };
    SigNo::new(i32::from(base).checked_add(distance)?).filter(|signo| signo.0 >= GLIBC_RTMIN)
}

/// Digits only: `i32::from_str` would take a sign as well.
fn number(digits: &str) -> Option<i32> {
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

impl Codec for SigNo {
    /// The field of that name.
    type Message = u32;

    fn to_proto(&self) -> u32 {
        u32::from(self.0)
    }

    fn from_proto(signo: &u32) -> Result<SigNo, FieldError> {
        i32::try_from(*signo)
            .ok()
            .and_then(SigNo::new)
            .ok_or_else(|| FieldError::new("signo", format!("{signo} is not a signal (1 to 64)")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_libc_s() {
        for (signo, libc) in [
            (SigNo::HUP, libc::SIGHUP),
            (SigNo::INT, libc::SIGINT),
            (SigNo::QUIT, libc::SIGQUIT),
            (SigNo::ILL, libc::SIGILL),
            (SigNo::TRAP, libc::SIGTRAP),
            (SigNo::ABRT, libc::SIGABRT),
            (SigNo::BUS, libc::SIGBUS),
            (SigNo::FPE, libc::SIGFPE),
            (SigNo::KILL, libc::SIGKILL),
            (SigNo::USR1, libc::SIGUSR1),
            (SigNo::SEGV, libc::SIGSEGV),
            (SigNo::USR2, libc::SIGUSR2),
            (SigNo::PIPE, libc::SIGPIPE),
            (SigNo::ALRM, libc::SIGALRM),
            (SigNo::TERM, libc::SIGTERM),
            (SigNo::STKFLT, libc::SIGSTKFLT),
            (SigNo::CHLD, libc::SIGCHLD),
            (SigNo::CONT, libc::SIGCONT),
            (SigNo::STOP, libc::SIGSTOP),
            (SigNo::TSTP, libc::SIGTSTP),
            (SigNo::TTIN, libc::SIGTTIN),
            (SigNo::TTOU, libc::SIGTTOU),
            (SigNo::URG, libc::SIGURG),
            (SigNo::XCPU, libc::SIGXCPU),
            (SigNo::XFSZ, libc::SIGXFSZ),
            (SigNo::VTALRM, libc::SIGVTALRM),
            (SigNo::PROF, libc::SIGPROF),
            (SigNo::WINCH, libc::SIGWINCH),
            (SigNo::POLL, libc::SIGPOLL),
            (SigNo::PWR, libc::SIGPWR),
            (SigNo::SYS, libc::SIGSYS),
        ] {
            assert_eq!(signo.get(), libc, "{signo}");
        }
        assert_eq!(i32::from(GLIBC_RTMIN), libc::SIGRTMIN());
        assert_eq!(SigNo::MAX.get(), libc::SIGRTMAX());
    }

    #[test]
    fn every_name_parses_back() {
        for signo in SigNo::all() {
            let name = signo.to_string();
            assert_eq!(name.parse(), Ok(signo));
            assert_eq!(name.to_lowercase().parse(), Ok(signo));
            assert_eq!(name.trim_start_matches("SIG").parse(), Ok(signo));
            assert_eq!(signo.get().to_string().parse(), Ok(signo));
        }
    }

    #[test]
    fn names_as_glibc_gives_them() {
        let named = |n| SigNo::new(n).map(|signo| signo.to_string());
        assert_eq!(named(1).as_deref(), Some("SIGHUP"));
        assert_eq!(named(32).as_deref(), Some("SIG32"));
        assert_eq!(named(33).as_deref(), Some("SIG33"));
        assert_eq!(named(34).as_deref(), Some("SIGRTMIN"));
        assert_eq!(named(64).as_deref(), Some("SIGRTMIN+30"));
        assert_eq!("SIGRTMAX".parse(), Ok(SigNo::MAX));
        assert_eq!("SIGRTMAX-1".parse::<SigNo>().map(SigNo::get), Ok(63));
        assert_eq!("SIGIO".parse(), Ok(SigNo::POLL));
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for text in [
            "",
            "SIG",
            "0",
            "65",
            "-1",
            "+1",
            "SIGFOO",
            "RTMIN+",
            "RTMIN+31",
            "RTMIN-1",
            "RTMAX-31",
            "RTMAX+0",
            "RTMIN+99999999999",
            "SIGRTMIN+-1",
        ] {
            assert!(text.parse::<SigNo>().is_err(), "{text:?}");
        }
        assert_eq!(SigNo::new(0), None);
        assert_eq!(SigNo::new(65), None);
        assert_eq!(SigNo::new(257), None);
        assert_eq!(SigNo::new(-255), None);
    }

    #[test]
    fn kinds_of_signals() {
        assert_eq!(SigNo::all().count(), 64);
        assert_eq!(SigNo::all().filter(|signo| signo.is_stop()).count(), 4);
        assert_eq!(SigNo::all().filter(|signo| signo.is_legacy()).count(), 31);
        assert!(SigNo::all().all(|signo| signo.is_legacy() != signo.is_realtime()));
    }

    /// signal(7), and SYNCHRONOUS_MASK of kernel/signal.c.
    #[test]
    fn default_actions_and_faults() {
        let with = |action| -> Vec<i32> {
            let all = SigNo::all().filter(|signo| signo.default_action() == action);
            all.map(SigNo::get).collect()
        };
        assert_eq!(
            with(DefaultAction::Core),
            [3, 4, 5, 6, 7, 8, 11, 24, 25, 31]
        );
        assert_eq!(with(DefaultAction::Ignore), [17, 23, 28]);
        assert_eq!(with(DefaultAction::Stop), [19, 20, 21, 22]);
        assert_eq!(with(DefaultAction::Continue), [18]);
        let faults = SigNo::all().filter(|signo| signo.is_synchronous());
        assert!(faults.map(SigNo::get).eq([4, 5, 7, 8, 11, 31]));
    }

    #[test]
    fn a_number_in_an_image() {
        for signo in SigNo::all() {
            assert_eq!(SigNo::from_proto(&signo.to_proto()), Ok(signo));
        }
        assert_eq!(SigNo::MAX.to_proto(), 64);
        for wrong in [0, 65, u32::MAX] {
            SigNo::from_proto(&wrong).unwrap_err();
        }
    }
}
