//! Memory that CRIU reads and has not set.
//!
//! The number of a process's first thread in its pid namespace is read when a timer tells that thread
//! (encode_notify_thread_id, criu/timer.c), and set only later (dump_task_threads, criu/cr-dump.c): collect_threads
//! (criu/seize.c) sets those of the other threads. If the memory from malloc(3) happens to be zero there, CRIU refuses the
//! dump; whatever else it is goes into the image, where the plugin corrects it. That must not depend on what the plugin has
//! used memory for. So free memory is filled before CRIU seizes a process with such a timer.

use criu_signals_images::{Notify, Pid};

use crate::error::Result;
use crate::proc::{self, SignalStatus, TimerLine};

/// Not zero, in whatever bytes of it a number is looked for.
const FILLING: u8 = 0x5a;
/// malloc keeps free chunks of up to 1,032 bytes by their size, in steps of 16 bytes, and hands out the last freed first.
const SMALL: usize = 1032;
const STEP: usize = 16;
/// For so many processes of equal numbers of threads.
const OF_EACH: usize = 16;
/// Larger chunks come from what was freed together; below the size that malloc would map by itself.
const LARGE: usize = 100 << 10;

/// Fills free memory, if a timer of the process tells its first thread, and the process is in a pid namespace of its own: it
/// need not be called for others.
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
    // The compiler must not find that nobody reads this.
    std::hint::black_box(&chunks);
}
