//! A set of signals as the kernel keeps it: 64 bits, unlike libc's 128-byte `sigset_t`.

use std::fmt;
use std::str::FromStr;

use crate::signo::{ParseSigNoError, SigNo};

/// The kernel's `sigset_t`: bit n-1 stands for signal n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SigSet(u64);

const fn bit(signo: SigNo) -> u64 {
    1 << signo.index()
}

impl SigSet {
    /// No signal.
    pub const EMPTY: SigSet = SigSet(0);
    /// All 64.
    pub const FULL: SigSet = SigSet(u64::MAX);

    /// Every value is a set.
    pub const fn from_bits(bits: u64) -> SigSet {
        SigSet(bits)
    }

    /// Bit n-1 stands for signal n.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Is it a member?
    pub const fn contains(self, signo: SigNo) -> bool {
        self.0 & bit(signo) != 0
    }

    /// Adds one.
    pub const fn insert(&mut self, signo: SigNo) {
        self.0 |= bit(signo);
    }

    /// Takes one out.
    pub const fn remove(&mut self, signo: SigNo) {
        self.0 &= !bit(signo);
    }

    /// The set and this signal.
    #[must_use]
    pub const fn with(self, signo: SigNo) -> SigSet {
        SigSet(self.0 | bit(signo))
    }

    /// The set less this signal.
    #[must_use]
    pub const fn without(self, signo: SigNo) -> SigSet {
        SigSet(self.0 & !bit(signo))
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: SigSet) -> SigSet {
        SigSet(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: SigSet) -> SigSet {
        SigSet(self.0 & other.0)
    }

    /// What is in this one only.
    #[must_use]
    pub const fn difference(self, other: SigSet) -> SigSet {
        SigSet(self.0 & !other.0)
    }

    /// What is not in it.
    #[must_use]
    pub const fn complement(self) -> SigSet {
        SigSet(!self.0)
    }

    /// Has it no member?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many members, 0 to 64.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Its members, the lowest number first.
    pub fn iter(self) -> impl Iterator<Item = SigNo> {
        SigNo::all().filter(move |&signo| self.contains(signo))
    }
}

impl From<SigNo> for SigSet {
    fn from(signo: SigNo) -> SigSet {
        SigSet::EMPTY.with(signo)
    }
}

impl FromIterator<SigNo> for SigSet {
    fn from_iter<I: IntoIterator<Item = SigNo>>(signals: I) -> SigSet {
        signals.into_iter().fold(SigSet::EMPTY, SigSet::with)
    }
}

impl Extend<SigNo> for SigSet {
    fn extend<I: IntoIterator<Item = SigNo>>(&mut self, signals: I) {
        for signo in signals {
            self.insert(signo);
        }
    }
}

impl fmt::Display for SigSet {
    /// `SIGHUP,SIGRTMIN..SIGRTMIN+3`: three and more in a row as a range with both ends in it; `none`, `all`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            SigSet::EMPTY => return f.write_str("none"),
            SigSet::FULL => return f.write_str("all"),
            _ => {}
        }
        let members: Vec<SigNo> = self.iter().collect();
        let runs = members.chunk_by(|low, high| low.get() + 1 == high.get());
        for (n, run) in runs.enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            match run {
                [first, _, .., last] => write!(f, "{first}..{last}")?,
                [first, second] => write!(f, "{first},{second}")?,
                other => other.iter().try_for_each(|signo| write!(f, "{signo}"))?,
            }
        }
        Ok(())
    }
}

impl FromStr for SigSet {
    type Err = ParseSigNoError;

    /// What [`Display`](fmt::Display) gives, with any name that [`SigNo`] takes.
    fn from_str(text: &str) -> Result<SigSet, ParseSigNoError> {
        match text.trim() {
            "none" | "" => return Ok(SigSet::EMPTY),
            "all" => return Ok(SigSet::FULL),
            _ => {}
        }
        let mut set = SigSet::EMPTY;
        for part in text.split(',') {
            match part.split_once("..") {
                Some((first, last)) => {
                    let (first, last): (SigNo, SigNo) = (first.parse()?, last.parse()?);
                    if first > last {
                        return Err(ParseSigNoError(part.to_owned()));
                    }
                    set.extend(SigNo::all().filter(|signo| (first..=last).contains(signo)));
                }
                None => set.insert(part.parse()?),
            }
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text() {
        let set = |text: &str| text.parse::<SigSet>().map(|set| set.to_string());
        assert_eq!(set("none").as_deref(), Ok("none"));
        assert_eq!(set("all").as_deref(), Ok("all"));
        assert_eq!(set("1,2").as_deref(), Ok("SIGHUP,SIGINT"));
        assert_eq!(set("1,2,3").as_deref(), Ok("SIGHUP..SIGQUIT"));
        assert_eq!(
            set("HUP,34,35,36,37").as_deref(),
            Ok("SIGHUP,SIGRTMIN..SIGRTMIN+3")
        );
        assert_eq!(set("3..3").as_deref(), Ok("SIGQUIT"));
        assert!(set("3..1").is_err());
        assert!(set("1,").is_err());
    }

    #[test]
    fn members_come_and_go() {
        let [low, both, high] = [0b0011, 0b0110, 0b1100].map(SigSet::from_bits);
        assert_eq!((low.bits(), both.bits(), high.bits()), (3, 6, 12));
        assert_eq!(low.union(both).bits(), 0b0111);
        assert_eq!(low.difference(both).bits(), 0b0001);
        assert_eq!(low.intersection(both).bits(), 0b0010);
        assert_eq!(both.with(SigNo::HUP).bits(), 0b0111);
        assert_eq!(both.with(SigNo::INT), both);
        assert_eq!(both.without(SigNo::INT).bits(), 0b0100);
        assert_eq!(both.without(SigNo::HUP), both);
        assert_eq!(SigSet::from(SigNo::QUIT).bits(), 0b0100);
        let mut set = high;
        set.insert(SigNo::HUP);
        set.remove(SigNo::QUIT);
        set.remove(SigNo::INT);
        assert_eq!(set.bits(), 0b1001);
        assert!(SigSet::EMPTY.is_empty() && !high.is_empty());
    }

    proptest! {
        #[test]
        fn text_parses_back(bits: u64) {
            let set = SigSet::from_bits(bits);
            prop_assert_eq!(set.to_string().parse(), Ok(set));
        }

        #[test]
        fn members_are_the_bits(bits: u64) {
            let set = SigSet::from_bits(bits);
            prop_assert_eq!(set.iter().collect::<SigSet>(), set);
            prop_assert_eq!(set.iter().count(), set.len());
            prop_assert_eq!(set.complement().intersection(set), SigSet::EMPTY);
            prop_assert_eq!(set.complement().union(set), SigSet::FULL);
        }
    }
}
