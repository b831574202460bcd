//! Memory that CRIU reads before it is set.
//!
//! If a timer signals the first thread of a process, CRIU reads the id of that thread in its pid namespace
//! (encode_notify_thread_id, criu/timer.c) before CRIU sets it (dump_task_threads, criu/cr-dump.c); collect_threads
//! (criu/seize.c) sets only those of the other threads. If the memory from malloc(3) happens to be zero there, CRIU refuses
//! the dump; any other value goes into the image, where the plugin corrects it. Whether a dump succeeds must not depend on
//! earlier uses of memory by the plugin. So free memory is filled before CRIU seizes a process with such a timer.

use criu_signals_images::{Notify, Pid};

use crate::error::Result;
use crate::proc::{self, SignalStatus, TimerLine};

/// Not zero, whichever bytes are read as a number.
const FILLING: u8 = 0x5a;
/// malloc keeps free chunks of up to 1,032 bytes by their size, in steps of 16 bytes, and hands out the last freed first.
const SMALL: usize = 1032;
const STEP: usize = 16;
/// For this many processes with equal numbers of threads.
const OF_EACH: usize = 16;
/// Larger chunks come from what was freed together; below the size that malloc would map by itself.
const LARGE: usize = 100 << 10;

/// Fills free memory, if a timer of the process signals its first thread. Needed only for a process in a pid namespace of
/// its own.
///
/// # Errors
/// If the process cannot be looked at.
pub(super) fn fill_for(pid: Pid) -> Result<()> {
    let tells_leader = |timer: &TimerLine| timer.notify == Notify::Thread(pid.get());
    if proc::timers(pid)?.iter().any(tells_leader)
        && SignalStatus::read(pid, pid.into())?.ids.as_slice().len() > 1
    {
        fill();
    }
    Ok(())
}

fn fill() {
    let mut chunks = vec![vec![FILLING; LARGE]; 4];
    for size in (1..=SMALL).step_by(STEP) {
        chunks.extend((0..OF_EACH).map(|_| vec![FILLING; size.next_multiple_of(STEP) + 8]));
    }
    // The compiler must not remove writes that are never read.
    std::hint::black_box(&chunks);
}
