//! `struct restart_block` of a stopped thread: the kernel's notes of an interrupted call with a relative timeout.
//!
//! The block is only in the kernel's memory, which BPF can read (`bpf/stopped.rs`). It has the call that restart_syscall(2)
//! goes on with, and the exact time at which the call would have ended. Without BPF, [`asleep`](super::asleep) has to see
//! the thread wait, and to measure.

use std::fs::File;
use std::io::{BufRead as _, BufReader};

use super::asleep::Restarted;
use crate::arch::Waiting;

/// The fields of one block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestartBlock {
    /// The address of the kernel's function that goes on with the call (`fn`).
    pub function: u64,
    /// When the block was read. As all times here, in nanoseconds of the machine's CLOCK_MONOTONIC.
    pub read_at: u64,
    /// When a sleep would have ended, and by which clock.
    pub nanosleep: (u64, i32),
    /// When poll(2) would have ended. `None`: never.
    pub poll: Option<u64>,
    /// When futex(2) would have ended.
    pub futex: u64,
}

impl RestartBlock {
    /// The call that restart_syscall(2) goes on with. `None`: the call is not known here, or /proc/kallsyms shows no
    /// addresses.
    pub(crate) fn restarted(&self) -> Option<Restarted> {
        let symbols = File::open("/proc/kallsyms").ok()?;
        BufReader::new(symbols)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| function_at(&line, self.function).and_then(Restarted::by_function))
    }

    /// How much time a call that waits so has left, in nanoseconds.
    pub(crate) fn left(&self, waiting: Waiting) -> Option<u64> {
        let end = match waiting {
            // A sleep that is relative has this clock, whichever was asked for (hrtimer_init).
            Waiting::Nanosleep | Waiting::ClockNanosleep
                if self.nanosleep.1 == libc::CLOCK_MONOTONIC =>
            {
                self.nanosleep.0
            }
            Waiting::Poll => self.poll?,
            Waiting::Futex => self.futex,
            _ => return None,
        };
        Some(end.saturating_sub(self.read_at))
    }
}

/// The name in a line of /proc/kallsyms, if it is that of the symbol at this address.
fn function_at(line: &str, address: u64) -> Option<&str> {
    let mut words = line.split_ascii_whitespace();
    let at = u64::from_str_radix(words.next()?, 16).ok()?;
    // A reader without the right to see addresses sees zeros.
    (at == address && at != 0).then(|| words.nth(1)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_known_by_its_address() {
        let line = "ffffffff9a2b3c40 t do_restart_poll";
        assert_eq!(
            function_at(line, 0xffff_ffff_9a2b_3c40),
            Some("do_restart_poll")
        );
        assert_eq!(function_at(line, 0xffff_ffff_9a2b_3c41), None);
        assert_eq!(function_at("ffffa000 t x [module]", 0xffff_a000), Some("x"));
        assert_eq!(function_at("0000000000000000 t do_restart_poll", 0), None);
        assert_eq!(function_at("", 1), None);
    }

    #[test]
    fn the_rest_is_what_was_left_when_it_was_read() {
        let block = RestartBlock {
            function: 1,
            read_at: 100,
            nanosleep: (350, libc::CLOCK_MONOTONIC),
            poll: None,
            futex: 90,
        };
        assert_eq!(block.left(Waiting::Nanosleep), Some(250));
        assert_eq!(block.left(Waiting::Poll), None);
        assert_eq!(block.left(Waiting::Futex), Some(0), "it has ended");
        assert_eq!(block.left(Waiting::Once), None);
        let other = RestartBlock {
            nanosleep: (350, libc::CLOCK_BOOTTIME),
            ..block
        };
        assert_eq!(other.left(Waiting::ClockNanosleep), None);
    }
}
