//! Measured times with the plugin and without, side by side.

use std::time::Duration;

/// Times of one kind, with the plugin and without. Medians are shown, and where the middle half of the times is: these are
/// times of whole processes, with outliers upwards only.
#[derive(Debug, Default)]
pub struct Sample {
    alone: Vec<Duration>,
    plugin: Vec<Duration>,
}

/// The heading of [`Sample::row`].
pub const HEADING: [&str; 6] = ["", "", "criu alone", "with plugin", "ratio", "added"];

impl Sample {
    /// One more time.
    pub fn add(&mut self, with_plugin: bool, took: Duration) {
        let times = if with_plugin {
            &mut self.plugin
        } else {
            &mut self.alone
        };
        times.push(took);
    }

    /// Without the plugin, and with it.
    pub fn medians(&mut self) -> [Duration; 2] {
        [median(&mut self.alone), median(&mut self.plugin)]
    }

    /// A row of a table: of what, what was done, both medians, and what the plugin adds.
    pub fn row(mut self, of: &str, what: &str) -> [String; 6] {
        let [alone, plugin] = self.medians();
        let ratio = plugin.as_secs_f64() / alone.as_secs_f64();
        let added = plugin.as_secs_f64() - alone.as_secs_f64();
        [
            of.to_owned(),
            what.to_owned(),
            spread(&self.alone),
            spread(&self.plugin),
            format!("{ratio:.2}"),
            format!("{:+.1} ms", added * 1e3),
        ]
    }

    /// How many times as long it takes with the plugin, by the shortest times: of a few rounds on a busy machine the median is a
    /// matter of chance, and whatever else the machine does makes a time longer only. `None` before both were measured.
    pub fn ratio_of_shortest(&self) -> Option<f64> {
        let [alone, plugin] = [self.alone.iter().min()?, self.plugin.iter().min()?];
        Some(plugin.as_secs_f64() / alone.as_secs_f64())
    }
}

/// The median, and between what half of the times are. They must be sorted.
fn spread(times: &[Duration]) -> String {
    let at = |quarter: usize| millis(times[(times.len() - 1) * quarter / 4]);
    format!(
        "{:.1} ms ({:.1} to {:.1})",
        millis(times[times.len() / 2]),
        at(1),
        at(3)
    )
}

/// The time in the middle. There must be one.
pub fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// In milliseconds.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
