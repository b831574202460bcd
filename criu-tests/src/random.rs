//! Random instants for kills.

use std::time::Duration;

/// They need no better randomness than this (xorshift64).
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// Some time below `most`, in microseconds.
    pub fn below(&mut self, most: Duration) -> Duration {
        self.0 = self.0.max(1);
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.0 % micros)
    }
}
