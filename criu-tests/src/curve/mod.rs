//! `make curve`: what deep queues cost. Here is what is measured, and how it is shown; the measuring itself is in
//! `bin/curve.rs`.

mod markdown;
mod svg;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// What is in the queue, and which queue it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One number, for the process.
    OneShared,
    /// Five numbers, one after the other, for the process.
    FiveShared,
    /// One number, for the thread.
    OnePrivate,
    /// Five numbers, for the thread.
    FivePrivate,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [
        Kind::OneShared,
        Kind::FiveShared,
        Kind::OnePrivate,
        Kind::FivePrivate,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::OneShared => "one-shared",
            Kind::FiveShared => "five-shared",
            Kind::OnePrivate => "one-private",
            Kind::FivePrivate => "five-private",
        }
    }

    /// By its name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Kind::OneShared => "one number, shared queue",
            Kind::FiveShared => "five numbers in turn, shared queue",
            Kind::OnePrivate => "one number, private queue",
            Kind::FivePrivate => "five numbers in turn, private queue",
        }
    }

    /// What `victims/curve.c` is told.
    pub fn arg(self, depth: usize) -> String {
        let (numbers, queue) = match self {
            Kind::OneShared => (1, "shared"),
            Kind::FiveShared => (5, "shared"),
            Kind::OnePrivate => (1, "private"),
            Kind::FivePrivate => (5, "private"),
        };
        format!("{depth},{numbers},{queue}")
    }
}

/// How it is dumped and restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// By criu without the plugin.
    Alone,
    /// With the plugin as it comes.
    Plugin,
    /// With the plugin, which leaves everything in its queue (`CRIU_SIGNALS_TAKE_OUT=never`).
    LeftIn,
    /// With the plugin, which takes everything out (`CRIU_SIGNALS_DEEP_QUEUE=0`).
    TakenOut,
}

impl Way {
    /// The plugin's setting, if it is not as it comes.
    pub fn setting(self) -> Option<(&'static str, &'static str)> {
        match self {
            Way::Alone | Way::Plugin => None,
            Way::LeftIn => Some(("CRIU_SIGNALS_TAKE_OUT", "never")),
            Way::TakenOut => Some(("CRIU_SIGNALS_DEEP_QUEUE", "0")),
        }
    }
}

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// How long criu held the process, by its own statistics.
    pub frozen: Duration,
    /// The whole `criu dump`.
    pub dump: Duration,
    /// The whole `criu restore`.
    pub restore: Duration,
    /// What the process itself took to queue so many entries, and to take them out again in their order.
    pub queueing: Duration,
    /// See `queueing`.
    pub taking: Duration,
}

/// One queue, and the runs that were made with it.
#[derive(Clone, Debug)]
pub struct Point {
    /// What is in it.
    pub kind: Kind,
    /// How many entries.
    pub depth: usize,
    /// The runs.
    pub runs: BTreeMap<Way, Vec<Times>>,
}

impl Point {
    /// Without runs.
    pub fn new(kind: Kind, depth: usize) -> Point {
        Point {
            kind,
            depth,
            runs: BTreeMap::new(),
        }
    }

    /// The median of all runs of one way; zero if there are none.
    pub fn median(&self, way: Way, of: impl Fn(&Times) -> Duration) -> Duration {
        median(self.runs.get(&way).into_iter().flatten().map(of).collect())
    }

    /// What the system calls alone take for one entry, in all runs of any way.
    pub fn cost(&self, of: impl Fn(&Times) -> Duration) -> Duration {
        median(self.runs.values().flatten().map(of).collect())
    }

    /// How much longer criu alone takes.
    pub fn ratio(&self, of: impl Fn(&Times) -> Duration) -> f64 {
        self.median(Way::Alone, &of).as_secs_f64() / self.median(Way::Plugin, &of).as_secs_f64()
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// All that was measured in one run.
#[derive(Debug)]
pub struct Curve {
    criu: String,
    machine: String,
    /// How many tasks wanted to run, on the average of a quarter of an hour, besides what is measured.
    load: String,
    /// Alone and with the plugin.
    pub points: Vec<Point>,
    /// With everything left in and with everything taken out.
    pub sweep: Vec<Point>,
    /// How many entries there was room for, and what was not measured therefore.
    pub left_out: Option<(u64, Vec<usize>)>,
}

impl Curve {
    /// Nothing yet.
    pub fn new(criu: String) -> Result<Curve> {
        Ok(Curve {
            criu,
            machine: machine()?,
            load: load()?,
            points: Vec::new(),
            sweep: Vec::new(),
            left_out: None,
        })
    }

    /// The points of one kind, by their depth.
    fn points_of(&self, kind: Kind) -> impl Iterator<Item = &Point> {
        self.points.iter().filter(move |point| point.kind == kind)
    }
}

/// `Linux 6.18.44, 2 x Intel(R) Xeon(R) Processor`.
fn machine() -> Result<String> {
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's version")?;
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    let cpus = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let names = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let names: Vec<&str> = names.map(|(_, name)| name).collect();
    let name = names.first().copied().unwrap_or("processors");
    Ok(format!("Linux {kernel}, {} x {name}", names.len()))
}

/// The last of the three averages.
fn load() -> Result<String> {
    let loads = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    Ok(loads.split(' ').nth(2).unwrap_or_default().to_owned())
}

/// `850 us`, `12.4 ms`, `57.1 s`.
pub fn text(time: Duration) -> String {
    let s = time.as_secs_f64();
    match s {
        s if s < 1e-3 => format!("{:.0} us", s * 1e6),
        s if s < 1e-2 => format!("{:.1} ms", s * 1e3),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 10.0 => format!("{s:.2} s"),
        s => format!("{s:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run in which the process was held for so many milliseconds.
    pub(super) fn times(frozen: u64) -> Times {
        Times {
            frozen: Duration::from_millis(frozen),
            dump: Duration::from_millis(frozen + 10),
            restore: Duration::from_millis(20),
            queueing: Duration::from_millis(2),
            taking: Duration::from_millis(1),
        }
    }

    pub(super) fn curve() -> Curve {
        let point = |kind, depth, alone: u64, plugin: u64| {
            let mut point = Point::new(kind, depth);
            point.runs.insert(Way::Alone, vec![times(alone)]);
            let three = vec![times(plugin), times(plugin * 9), times(plugin)];
            point.runs.insert(Way::Plugin, three);
            point
        };
        let mut sweep = Point::new(Kind::OneShared, 100);
        sweep.runs.insert(Way::LeftIn, vec![times(3)]);
        sweep.runs.insert(Way::TakenOut, vec![times(4)]);
        Curve {
            criu: "4.1.1".into(),
            machine: "Linux 6, 2 x Something".into(),
            load: "0.10".into(),
            points: vec![
                point(Kind::OneShared, 1_000, 40, 20),
                point(Kind::OneShared, 40_000, 16_000, 160),
            ],
            sweep: vec![sweep],
            left_out: Some((50_000, vec![90_000])),
        }
    }

    #[test]
    fn medians_and_ratios() {
        let curve = curve();
        let deep = &curve.points[1];
        assert_eq!(
            deep.median(Way::Plugin, |t| t.frozen),
            Duration::from_millis(160)
        );
        assert!((deep.ratio(|t| t.frozen) - 100.0).abs() < 1e-9);
        assert_eq!(median(Vec::new()), Duration::ZERO);
    }

    #[test]
    fn times_in_words() {
        let of = |micros| text(Duration::from_micros(micros));
        assert_eq!(of(850), "850 us");
        assert_eq!(of(1_250), "1.2 ms");
        assert_eq!(of(57_000), "57 ms");
        assert_eq!(of(1_234_000), "1.23 s");
        assert_eq!(of(57_123_000), "57.1 s");
    }

    #[test]
    fn kinds_have_names() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(Kind::FivePrivate.arg(7), "7,5,private");
    }
}
