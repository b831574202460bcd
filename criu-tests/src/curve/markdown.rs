//! The figures, as Markdown.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Curve, Kind, Point, Times, Way, text};

/// The depth that the figures in the introduction are of, if it was measured.
const FLOOR: usize = 40_000;

/// One of the times of a run.
type Of = fn(&Times) -> Duration;

const WHAT: [(&str, Of); 3] = [
    ("held", |times| times.frozen),
    ("dump", |times| times.dump),
    ("restore", |times| times.restore),
];

impl Curve {
    /// The file of figures. `picture` is the name of the file beside it.
    pub fn markdown(&self, picture: Option<&str>) -> String {
        let mut out = String::from("# What a deep queue costs\n\n");
        self.introduction(&mut out);
        let _ = write!(
            out,
            "Written by `make curve` with criu {} on {}, load average {} when it began: do not edit.\n\n\
             A process has so many signals pending, and is dumped and restored, by criu alone and with the plugin in \
             turns. *Held* is how long it stood still, by criu's own statistics; *dump* and *restore* are the whole \
             commands. Medians of three runs, or what one took where that is longer than 8 s; \
             \"-\" is what criu alone would take minutes for. *Calls* is what the bare \
             system calls take that have to be made for each entry: rt_sigtimedwait once and rt_sigqueueinfo once \
             at the dump, the latter once more at the restore. After each restore the process checks every entry.\n\n",
            self.criu, self.machine, self.load
        );
        if let Some(picture) = picture {
            let _ = writeln!(
                out,
                "![How long the process is held, the dump takes and the restore takes, by the depth of the queue]({picture})\n"
            );
        }
        if let Some((room, depths)) = &self.left_out {
            let depths: Vec<String> = depths.iter().map(usize::to_string).collect();
            let _ = writeln!(
                out,
                "Not measured: {}. RLIMIT_SIGPENDING leaves room for {room} entries here.\n",
                depths.join(", ")
            );
        }
        for kind in Kind::ALL {
            self.table(kind, &mut out);
        }
        self.where_it_pays(&mut out);
        out
    }

    fn introduction(&self, out: &mut String) {
        let whole = |p: &&Point| p.depth == FLOOR && p.runs.contains_key(&Way::Alone);
        let deep: Vec<&Point> = self.points.iter().filter(whole).collect();
        if deep.is_empty() {
            return;
        }
        let ratios = |of: Of| {
            let all = || deep.iter().map(|point| point.ratio(of));
            let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(0.0, f64::max));
            (least, most)
        };
        let (held, held_most) = ratios(|times| times.frozen);
        let (restore, restore_most) = ratios(|times| times.restore);
        let _ = writeln!(
            out,
            "With {FLOOR} entries, criu alone holds the process {held:.0} to {held_most:.0} times as long as with the plugin, \
             and restores it in {restore:.2} to {restore_most:.2} of the time.\n"
        );
    }

    fn table(&self, kind: Kind, out: &mut String) {
        let mut points = self.points_of(kind).peekable();
        if points.peek().is_none() {
            return;
        }
        let title = kind.title();
        let (first, rest) = title.split_at(1);
        let _ = writeln!(out, "## {}{rest}\n", first.to_uppercase());
        out.push_str("| entries |");
        for (what, _) in WHAT {
            let _ = write!(out, " {what} alone | with plugin | ratio |");
        }
        out.push_str(
            " calls, dump | calls, restore |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for point in points {
            let _ = write!(out, "| {} |", point.depth);
            let alone = point.runs.contains_key(&Way::Alone);
            for (_, of) in WHAT {
                let plugin = text(point.median(Way::Plugin, of));
                let _ = if alone {
                    let alone = text(point.median(Way::Alone, of));
                    write!(out, " {alone} | {plugin} | {:.1} |", point.ratio(of))
                } else {
                    write!(out, " - | {plugin} | - |")
                };
            }
            let (queueing, taking) = (point.cost(|t| t.queueing), point.cost(|t| t.taking));
            let _ = writeln!(out, " {} | {} |", text(queueing + taking), text(queueing));
        }
        out.push('\n');
    }

    fn where_it_pays(&self, out: &mut String) {
        if self.sweep.is_empty() {
            return;
        }
        out.push_str(
            "## From which depth on it pays to take them out\n\n\
             Both with the plugin: with all signals left in their queue (`CRIU_SIGNALS_TAKE_OUT=never`), and with all \
             taken out (`CRIU_SIGNALS_DEEP_QUEUE=0`). The default of `CRIU_SIGNALS_DEEP_QUEUE` is chosen by this table.\n\n\
             | | entries | held, left in | taken out | dump, left in | taken out | restore, left in | taken out |\n\
             |---|---|---|---|---|---|---|---|\n",
        );
        for point in &self.sweep {
            let _ = write!(out, "| {} | {} |", point.kind.title(), point.depth);
            for (_, of) in WHAT {
                let (left, taken) = (
                    point.median(Way::LeftIn, of),
                    point.median(Way::TakenOut, of),
                );
                let _ = write!(out, " {} | {} |", text(left), text(taken));
            }
            out.push('\n');
        }
    }
}

impl Point {
    /// For whoever waits: one line.
    pub fn line(&self) -> String {
        let mut line = format!("{:>6} {:<36}", self.depth, self.kind.title());
        for (what, of) in WHAT {
            let all: Vec<String> = self
                .runs
                .keys()
                .map(|&way| text(self.median(way, of)))
                .collect();
            let _ = write!(line, "  {what} {:>18}", all.join(" / "));
        }
        let (queueing, taking) = (self.cost(|t| t.queueing), self.cost(|t| t.taking));
        let _ = write!(line, "  calls {} + {}", text(taking), text(queueing));
        line
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::curve;

    #[test]
    fn rows_have_as_many_cells_as_their_head() {
        let text = curve().markdown(Some("deep-queues.svg"));
        let mut cells = None;
        for line in text.lines() {
            if !line.starts_with('|') {
                cells = None;
                continue;
            }
            let n = line.matches('|').count();
            assert_eq!(*cells.get_or_insert(n), n, "{line}");
        }
        assert!(
            text.contains("| 40000 | 16.0 s | 160 ms | 100.0 |"),
            "{text}"
        );
        assert!(text.contains("Not measured: 90000."));
        assert!(text.contains("(deep-queues.svg)"));
    }

    #[test]
    fn a_line_for_each_point() {
        let line = curve().points[1].line();
        assert!(line.contains("held    16.0 s / 160 ms"), "{line}");
    }
}
