//! The log lines of a capture and of a check. Programs parse these lines: docs/report.md.

use criu_signals_images::{CodePlace, Image, Pid, SigNo};

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

/// What a check's log lines say: one for the process, one for each difference, one for what was not compared, one for each
/// operation that failed.
pub fn lines(report: &Report) -> Vec<String> {
    lines_with_names(report, [&[], &[]])
}

/// The same with the names of addresses of what was dumped and of what is found.
pub fn lines_with_names(report: &Report, [dumped, found]: [&[CodePlace]; 2]) -> Vec<String> {
    let pid = report.pid;
    let mut lines = vec![format!(
        "pid {pid}: verdict={} threads={} siginfos={} given-back={} arrived-since={} differences={} failures={}",
        report.verdict(),
        report.threads,
        report.siginfos,
        report.given_back,
        report.arrived,
        report.findings.len(),
        report.failures(),
    )];
    lines.extend(report.findings.iter().map(|(d, done)| {
        let [was, is] = d.named(dumped, found);
        let (place, field) = (d.place, d.field);
        format!("pid {pid}: {place} {field}: dumped: {was}; found: {is}; {done}")
    }));
    if !report.not_compared.is_empty() {
        lines.push(not_compared(pid, &report.not_compared));
    }
    lines.extend(report.errors.iter().map(|e| format!("pid {pid}: {e}")));
    lines
}

/// What the verdict does not cover.
pub(crate) fn not_compared(pid: Pid, parts: &[String]) -> String {
    format!("pid {pid}: not compared: {}", parts.join("; "))
}

#[cfg(test)]
mod tests {
    use criu_signals_images::{Difference, Field, NsIds, Place, ProcessState};

    use super::*;
    use crate::engine::repair::{Done, report};

    /// A verdict of `failed` is never without a failure.
    #[test]
    fn failures_are_counted() {
        let process = ProcessState::bare(NsIds::new(vec![7]).expect("an id"));
        let gone = Difference {
            dispositions: None,
            place: Place::Thread(8),
            field: Field::ThreadMissing,
            dumped: "a thread".to_owned(),
            found: "none".to_owned(),
        };
        let line = |done| {
            let mut report = report(process.pid(), &process, Vec::new());
            report.findings.push((gone.clone(), done));
            lines(&report).swap_remove(0)
        };
        let failed = line(Done::NotPutBack);
        assert!(failed.contains("verdict=failed") && failed.ends_with("differences=1 failures=1"));
        let differs = line(Done::LeftAlone);
        assert!(
            differs.contains("verdict=differs") && differs.ends_with("differences=1 failures=0")
        );
    }
}
