//! Waits, with a bound, for conditions that have no event.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything may take that normally takes milliseconds. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `probe` again and again until it has an answer. `what` completes "waited 30 s for ...".
pub fn until<T>(
    what: &str,
    patience: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if start.elapsed() > patience {
            bail!("waited {} s for {what}", patience.as_secs());
        }
        sleep(Duration::from_millis(2));
    }
}
