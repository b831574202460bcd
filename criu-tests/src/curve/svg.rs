//! The figures, as a picture: three panels with logarithmic axes. Written out by hand, so that the picture follows the
//! reader's light or dark scheme, which drawing crates fix.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Curve, Kind, Point, Times, Way};

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 520.0;
/// Of the inside of one panel.
const PANEL_WIDTH: f64 = 310.0;
const PANEL_HEIGHT: f64 = 330.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 64.0;
/// From one panel's left edge to the next.
const STEP: f64 = 385.0;

/// Text and lines are the reader's; the colours are of a palette that people with colour blindness can tell apart, and
/// stand out on both grounds.
const STYLE: &str = "
  svg { --ink: #1f2328; --ground: #ffffff; --grid: #d8dee4; --alone: #d55e00; --plugin: #0072b2; --calls: #6e7781; }
  @media (prefers-color-scheme: dark) {
    svg { --ink: #e6edf3; --ground: #0d1117; --grid: #30363d; --alone: #ff8c3b; --plugin: #56b4e9; --calls: #8b949e; }
  }
  text { font: 13px system-ui, 'DejaVu Sans', sans-serif; fill: #1f2328; fill: var(--ink); }
  .title { font-size: 15px; font-weight: 600; }
  .ground { fill: #ffffff; fill: var(--ground); }
  .grid { stroke: #d8dee4; stroke: var(--grid); }
  .frame { stroke: #6e7781; stroke: var(--calls); fill: none; }
  .line { fill: none; stroke-width: 1.8; }
  .alone { stroke: #d55e00; stroke: var(--alone); }
  .plugin { stroke: #0072b2; stroke: var(--plugin); }
  .calls { stroke: #6e7781; stroke: var(--calls); stroke-width: 1.2; }
  .mark { fill: #ffffff; fill: var(--ground); stroke-width: 1.6; }
";

struct Panel {
    title: &'static str,
    of: fn(&Times) -> Duration,
    /// What the bare system calls take for the same.
    calls: fn(&Times) -> Duration,
}

const PANELS: [Panel; 3] = [
    Panel {
        title: "Process held",
        of: |times| times.frozen,
        calls: |times| times.taking + times.queueing,
    },
    Panel {
        title: "criu dump",
        of: |times| times.dump,
        calls: |times| times.taking + times.queueing,
    },
    Panel {
        title: "criu restore",
        of: |times| times.restore,
        calls: |times| times.queueing,
    },
];

/// Decades that the axes reach over.
struct Scale {
    entries: (i32, i32),
    seconds: (i32, i32),
}

impl Scale {
    fn fitting(points: &[Point]) -> Scale {
        let depths = points.iter().map(|point| point.depth as f64);
        let times = points.iter().flat_map(|point| {
            let shown = PANELS.iter().flat_map(move |panel| {
                let ways = [Way::Alone, Way::Plugin].map(|way| point.median(way, panel.of));
                ways.into_iter().chain([point.cost(panel.calls)])
            });
            shown.map(|time| time.as_secs_f64()).filter(|&s| s > 0.0)
        });
        Scale {
            entries: decades(depths),
            seconds: decades(times),
        }
    }

    fn x(&self, entries: f64) -> f64 {
        place(entries, self.entries) * PANEL_WIDTH
    }

    fn y(&self, seconds: f64) -> f64 {
        (1.0 - place(seconds, self.seconds)) * PANEL_HEIGHT
    }
}

/// The powers of ten that hold all of `values`, at least one decade.
fn decades(values: impl Iterator<Item = f64>) -> (i32, i32) {
    let (least, most) = values.fold((f64::MAX, f64::MIN_POSITIVE), |(least, most), value| {
        (least.min(value), most.max(value))
    });
    #[expect(
        clippy::cast_possible_truncation,
        reason = "logarithms of times and numbers are small"
    )]
    let (low, high) = (least.log10().floor() as i32, most.log10().ceil() as i32);
    (low, high.max(low + 1))
}

/// From 0 to 1.
fn place(value: f64, (low, high): (i32, i32)) -> f64 {
    (value.log10() - f64::from(low)) / f64::from(high - low)
}

impl Curve {
    /// The picture.
    pub fn svg(&self) -> String {
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" role=\"img\">\n\
             <title>What a deep queue of pending signals costs, with criu alone and with the plugin</title>\n\
             <style>{STYLE}</style>\n<rect class=\"ground\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n\
             <text class=\"title\" x=\"{LEFT}\" y=\"26\">What a deep queue of pending signals costs (criu {}, {})</text>\n",
            escape(&self.criu),
            escape(&self.machine)
        );
        let scale = Scale::fitting(&self.points);
        for (n, panel) in (0u32..).zip(&PANELS) {
            let x = LEFT + f64::from(n) * STEP;
            let _ = writeln!(out, "<g transform=\"translate({x:.0} {TOP})\">");
            axes(&scale, panel.title, &mut out);
            self.lines(&scale, panel, &mut out);
            out.push_str("</g>\n");
        }
        legend(&mut out);
        out.push_str("</svg>\n");
        out
    }

    fn lines(&self, scale: &Scale, panel: &Panel, out: &mut String) {
        let line = |points: &[(f64, f64)], class: &str, dashes: &str| {
            let all: Vec<String> = points
                .iter()
                .map(|(x, y)| format!("{x:.1},{y:.1}"))
                .collect();
            let dashes = dash_attribute(dashes);
            format!(
                "<polyline class=\"line {class}\"{dashes} points=\"{}\"/>\n",
                all.join(" ")
            )
        };
        // They are the same for all kinds, within what can be seen.
        let calls = self.places(scale, Kind::OneShared, |point| point.cost(panel.calls));
        out.push_str(&line(&calls, "calls", ""));
        for (way, class) in [(Way::Alone, "alone"), (Way::Plugin, "plugin")] {
            for kind in Kind::ALL {
                let places = self.places(scale, kind, |point| point.median(way, panel.of));
                out.push_str(&line(&places, class, dashes(kind)));
                for (x, y) in places {
                    mark(kind, class, x, y, out);
                }
            }
        }
    }

    fn places(
        &self,
        scale: &Scale,
        kind: Kind,
        of: impl Fn(&Point) -> Duration,
    ) -> Vec<(f64, f64)> {
        self.points_of(kind)
            .map(|point| (point.depth as f64, of(point).as_secs_f64()))
            .filter(|&(_, seconds)| seconds > 0.0)
            .map(|(depth, seconds)| (scale.x(depth), scale.y(seconds)))
            .collect()
    }
}

fn axes(scale: &Scale, title: &str, out: &mut String) {
    let _ = writeln!(
        out,
        "<text class=\"title\" x=\"0\" y=\"-12\">{title}</text>"
    );
    for power in scale.seconds.0..=scale.seconds.1 {
        let y = scale.y(10f64.powi(power));
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"0\" x2=\"{PANEL_WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"-8\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            y + 4.5,
            seconds(power)
        );
    }
    for power in scale.entries.0..=scale.entries.1 {
        let x = scale.x(10f64.powi(power));
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{PANEL_HEIGHT}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            PANEL_HEIGHT + 19.0,
            10f64.powi(power)
        );
    }
    let _ = writeln!(
        out,
        "<rect class=\"frame\" width=\"{PANEL_WIDTH}\" height=\"{PANEL_HEIGHT}\"/>\
         <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">signals pending</text>",
        PANEL_WIDTH / 2.0,
        PANEL_HEIGHT + 39.0
    );
}

/// `100 us`, `1 ms`, `10 s`.
fn seconds(power: i32) -> String {
    match power {
        ..=-4 => format!("{} us", 10f64.powi(power + 6)),
        -3..=-1 => format!("{} ms", 10f64.powi(power + 3)),
        _ => format!("{} s", 10f64.powi(power)),
    }
}

fn dashes(kind: Kind) -> &'static str {
    match kind {
        Kind::OneShared => "",
        Kind::FiveShared => "7 4",
        Kind::OnePrivate => "2 3",
        Kind::FivePrivate => "9 3 2 3",
    }
}

fn dash_attribute(dashes: &str) -> String {
    if dashes.is_empty() {
        String::new()
    } else {
        format!(" stroke-dasharray=\"{dashes}\"")
    }
}

fn mark(kind: Kind, class: &str, x: f64, y: f64, out: &mut String) {
    let class = format!("class=\"mark {class}\"");
    let _ = match kind {
        Kind::OneShared => writeln!(out, "<circle {class} cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"),
        Kind::FiveShared => writeln!(
            out,
            "<rect {class} x=\"{:.1}\" y=\"{:.1}\" width=\"7\" height=\"7\"/>",
            x - 3.5,
            y - 3.5
        ),
        Kind::OnePrivate | Kind::FivePrivate => {
            let up = if kind == Kind::OnePrivate { -4.5 } else { 4.5 };
            writeln!(
                out,
                "<path {class} d=\"M{:.1} {:.1} L{:.1} {:.1} L{x:.1} {:.1} Z\"/>",
                x - 4.5,
                y - up * 0.7,
                x + 4.5,
                y - up * 0.7,
                y + up
            )
        }
    };
}

fn legend(out: &mut String) {
    let y = TOP + PANEL_HEIGHT + 68.0;
    let mut x = LEFT;
    let sample = |x: f64, y: f64, class: &str, dashes: &str| {
        let dashes = dash_attribute(dashes);
        format!(
            "<line class=\"line {class}\"{dashes} x1=\"{x:.0}\" x2=\"{:.0}\" y1=\"{y:.0}\" y2=\"{y:.0}\"/>",
            x + 36.0
        )
    };
    let text = |x: f64, y: f64, text: &str| {
        format!(
            "<text x=\"{:.0}\" y=\"{:.1}\">{text}</text>\n",
            x + 44.0,
            y + 4.5
        )
    };
    for (class, what) in [
        ("alone", "criu alone"),
        ("plugin", "criu with the plugin"),
        ("calls", "the bare system calls that each entry needs"),
    ] {
        out.push_str(&sample(x, y, class, ""));
        out.push_str(&text(x, y, what));
        x += 270.0;
    }
    let (mut x, y) = (LEFT, y + 26.0);
    for kind in Kind::ALL {
        out.push_str(&sample(x, y, "calls", dashes(kind)));
        mark(kind, "calls", x + 18.0, y, out);
        out.push_str(&text(x, y, kind.title()));
        x += 285.0;
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::curve;
    use super::*;

    #[test]
    fn axes_hold_all_points() {
        let curve = curve();
        let scale = Scale::fitting(&curve.points);
        assert_eq!(scale.entries, (3, 5));
        // From the 2 ms of the calls to 16 s.
        assert_eq!(scale.seconds, (-3, 2));
        assert!((scale.x(1_000.0)).abs() < 1e-9);
        assert!((scale.y(100.0)).abs() < 1e-9);
        for place in curve.places(&scale, Kind::OneShared, |p| {
            p.median(Way::Alone, |t| t.frozen)
        }) {
            assert!((0.0..=PANEL_WIDTH).contains(&place.0));
            assert!((0.0..=PANEL_HEIGHT).contains(&place.1));
        }
    }

    #[test]
    fn elements_are_closed() {
        let svg = curve().svg();
        for element in ["svg", "g", "text", "style", "title"] {
            let opened = svg.matches(&format!("<{element}>")).count()
                + svg.matches(&format!("<{element} ")).count();
            assert_eq!(
                opened,
                svg.matches(&format!("</{element}>")).count(),
                "{element}"
            );
        }
        assert_eq!(
            svg.matches("<circle").count(),
            3 * 2 * 2 + 1,
            "with one in the legend"
        );
    }

    #[test]
    fn labels() {
        assert_eq!(seconds(-4), "100 us");
        assert_eq!(seconds(-3), "1 ms");
        assert_eq!(seconds(1), "10 s");
    }
}
