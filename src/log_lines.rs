//! The log lines of a capture and of a check. Programs parse these lines: docs/report.md.

use criu_signals_images::{Image, Pid, SigNo};

use crate::engine::repair::Report;

/// What a capture's log line says.
pub fn summary(pid: Pid, image: &Image, name: &str) -> String {
    let process = &image.process;
    let private: usize = process.threads.iter().map(|t| t.pending.queue.len()).sum();
    let bare: usize = process
        .queues()
        .map(|pending| pending.bits_without_info().len())
        .sum();
    let changed = SigNo::all()
        .filter(|&s| !process.dispositions[s].is_default_handler())
        .count();
    let altstacks = process
        .threads
        .iter()
        .filter(|t| !t.altstack.is_disabled())
        .count();
    format!(
        "pid {pid} ({}): captured into {name}: {}, threads={}, dispositions={changed}, altstacks={altstacks}, \
         pending: shared={} private={private} without-siginfo={bare}",
        process.comm,
        process.run_state,
        process.threads.len(),
        process.shared.queue.len(),
    )
}

/// What a check's log lines say: one for the process, one for each difference, one for each failure.
pub fn lines(report: &Report) -> Vec<String> {
    let pid = report.pid;
    let mut lines = vec![format!(
        "pid {pid}: verdict={} threads={} siginfos={} given-back={} arrived-since={} differences={} failures={}",
        report.verdict(),
        report.threads,
        report.siginfos,
        report.given_back,
        report.arrived,
        report.findings.len(),
        report.errors.len(),
    )];
    lines.extend(report.findings.iter().map(|(d, done)| {
        format!(
            "pid {pid}: {} {}: dumped: {}; found: {}; {done}",
            d.place, d.field, d.dumped, d.found
        )
    }));
    lines.extend(report.errors.iter().map(|e| format!("pid {pid}: {e}")));
    lines
}
