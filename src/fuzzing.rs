//! Private parsers, exported for `fuzz/`: for every input a parser must return without a panic.

use criu_signals_images::{SigSet, json};

use crate::checkpoint::stream::List;
use crate::live::Mapping;
use crate::proc::{self, SignalStatus, parse_timers};
use crate::proc_sig::Subject;
use crate::state::asleep;

/// `/proc/PID/status`.
pub fn status(text: &str) {
    let Some(status) = SignalStatus::parse(text) else {
        return;
    };
    let _ = (status.open_stops(), status.ids.innermost());
    if let Some(marker) = status.harmless_signal(SigSet::EMPTY) {
        assert!(!status.pending.union(status.shared_pending).contains(marker));
    }
}

/// `/proc/PID/timers`.
pub fn timers(text: &str) {
    let _ = parse_timers(text);
}

/// `/proc/PID/limits`.
pub fn limits(text: &str) {
    for name in ["Max pending signals", "Max cpu time"] {
        let _ = proc::parse_limit(text, name);
    }
}

/// `/proc/PID/stat` and `cgroup`.
pub fn stat_and_cgroup(text: &str) {
    let _ = (
        proc::parse_parent(text),
        proc::parse_exit_signal(text),
        proc::parse_start(text),
    );
    for (_, controllers, path) in proc::cgroups(text) {
        assert!(!controllers.contains(':') && !path.contains('\n'));
    }
}

/// `/proc/PID/syscall`.
pub fn syscall(text: &str) {
    let _ = proc::parse_call(text);
}

/// `/proc/PID/sched` and `stack`.
pub fn sched_and_stack(text: &str) {
    let _ = (asleep::exec_start(text), asleep::restarted(text));
}

/// The list of images in a stream.
pub fn stream_list(text: &str) {
    if let Ok(list) = List::parse(text) {
        assert!(list.processes.iter().all(|&pid| pid > 0));
    }
}

/// An ELF core file.
pub fn core_file(bytes: &[u8]) {
    if let Ok(recorded) = crate::core_file::read_bytes(bytes) {
        assert!(!recorded.image.process.threads.is_empty());
        let _ = json::to_json_line(&recorded, &json::Besides::default());
    }
}

/// `PID/TID` and `OLD:NEW`.
pub fn names(text: &str) {
    if let Ok(subject) = text.parse::<Subject>() {
        assert_eq!(subject.to_string().parse(), Ok(subject));
    }
    let _ = text.parse::<Mapping>();
}
