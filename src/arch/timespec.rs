//! How system calls take a time: `struct timespec` in its three layouts.

const NANOSECONDS: u64 = 1_000_000_000;

/// The layout of a `struct timespec` that a system call reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timespec {
    /// `struct __kernel_timespec` of a 64-bit call.
    Native,
    /// The same in a call of the 32-bit table whose name ends in `_time64`: the upper half of the nanoseconds is padding,
    /// which the kernel does not look at (kernel/time/time.c, get_timespec64).
    Time64,
    /// `struct old_timespec32`: two numbers of 32 bits.
    Time32,
}

impl Timespec {
    /// The longest, in bytes.
    pub const MAX_SIZE: usize = 16;

    /// Its length in bytes.
    pub const fn size(self) -> usize {
        match self {
            Timespec::Native | Timespec::Time64 => 16,
            Timespec::Time32 => 8,
        }
    }

    /// The time in `bytes`, in nanoseconds. `None` if they are too few, or the kernel would refuse them.
    pub fn read(self, bytes: &[u8]) -> Option<u64> {
        let (seconds, nanoseconds) = bytes.get(..self.size())?.split_at(self.size() / 2);
        let nanoseconds = match self {
            Timespec::Native => number(nanoseconds),
            Timespec::Time64 | Timespec::Time32 => number(&nanoseconds[..4]),
        };
        if nanoseconds >= NANOSECONDS {
            return None;
        }
        number(seconds)
            .checked_mul(NANOSECONDS)?
            .checked_add(nanoseconds)
    }

    /// So many nanoseconds, or the longest time there is.
    pub fn write(self, nanoseconds: u64) -> Vec<u8> {
        let (seconds, rest) = (nanoseconds / NANOSECONDS, nanoseconds % NANOSECONDS);
        let seconds = match self {
            Timespec::Native | Timespec::Time64 => seconds,
            Timespec::Time32 => seconds.min(u64::from(i32::MAX.unsigned_abs())),
        };
        let half = self.size() / 2;
        [seconds, rest]
            .iter()
            .flat_map(|number| number.to_le_bytes().into_iter().take(half))
            .collect()
    }
}

/// Little-endian, of at most eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back() {
        for layout in [Timespec::Native, Timespec::Time64, Timespec::Time32] {
            for time in [0, 7, 3_000_000_007, 86_400 * NANOSECONDS] {
                let bytes = layout.write(time);
                assert_eq!(bytes.len(), layout.size());
                assert_eq!(layout.read(&bytes), Some(time), "{layout:?}");
                assert_eq!(layout.read(&bytes[1..]), None);
            }
        }
    }

    #[test]
    fn as_the_kernel_has_them() {
        assert_eq!(size_of::<libc::timespec>(), Timespec::Native.size());
        let wide = Timespec::Native.write(3_000_000_007);
        assert_eq!((wide[0], wide[8]), (3, 7));
        assert_eq!(
            Timespec::Time32.write(3_000_000_007),
            [3, 0, 0, 0, 7, 0, 0, 0]
        );
    }

    #[test]
    fn what_is_refused_and_what_is_padding() {
        let mut bytes = Timespec::Time64.write(5);
        bytes[12] = 1;
        assert_eq!(Timespec::Time64.read(&bytes), Some(5));
        assert_eq!(Timespec::Native.read(&bytes), None, "1 << 32 nanoseconds");
        let second = 1_000_000_000u32.to_le_bytes();
        assert_eq!(Timespec::Time32.read(&[[0; 4], second].concat()), None);
    }

    #[test]
    fn a_time_that_is_too_long_is_the_longest() {
        let longest = Timespec::Time32.write(u64::MAX);
        assert_eq!(longest[..4], i32::MAX.to_le_bytes());
    }
}
