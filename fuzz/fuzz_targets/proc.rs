//! Files of `/proc` that are read here, not by the procfs library. A process chooses its name, which is in some of them, and
//! how many threads and timers it has.
#![no_main]

use criu_signals::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(data);
    match choice % 6 {
        0 => fuzzing::status(&text),
        1 => fuzzing::timers(&text),
        2 => fuzzing::syscall(&text),
        3 => fuzzing::sched_and_stack(&text),
        4 => fuzzing::limits(&text),
        _ => fuzzing::stat_and_cgroup(&text),
    }
});
