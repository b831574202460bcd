//! Reads the plugin's lines in criu's logs.

use std::fmt;

/// What the plugin found, and did, at the restore of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything was as at the dump.
    Verified,
    /// Something was not, and was put back.
    Repaired,
    /// Something is not and could not be put back.
    Failed,
    /// Something differs, and was left so, as the policy wanted.
    Differs,
}

impl Verdict {
    const ALL: [(Verdict, &'static str); 4] = [
        (Verdict::Verified, "verified"),
        (Verdict::Repaired, "repaired"),
        (Verdict::Failed, "failed"),
        (Verdict::Differs, "differs"),
    ];
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            Self::ALL
                .iter()
                .find(|(verdict, _)| verdict == self)
                .map_or("?", |(_, name)| name),
        )
    }
}

/// What stands before everything the plugin logs.
pub const PREFIX: &str = "signals: ";

/// The plugin's lines of a criu log.
pub fn lines(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter(|line| line.contains(PREFIX))
}

/// The verdicts in a restore log: one line per process, with `verdict=` and a word. A word that is not known is `Err`.
pub fn verdicts(log: &str) -> Vec<Result<Verdict, String>> {
    lines(log)
        .filter_map(|line| {
            let word = line.split_once("verdict=")?.1;
            let word = word
                .split(|c: char| !c.is_ascii_alphabetic())
                .next()
                .unwrap_or_default();
            let known = Verdict::ALL.iter().find(|(_, name)| *name == word);
            Some(
                known
                    .map(|(verdict, _)| *verdict)
                    .ok_or_else(|| line.to_owned()),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_verdict_per_line_of_the_plugin() {
        let log = "(00.1) cuda: verdict=verified\n\
                   (00.2) signals: pid 4: 2 threads, verdict=verified\n\
                   (00.2) signals: pid 5: verdict=repaired, 1 difference\n\
                   (00.3) signals: pid 6: verdict=perhaps\n\
                   (00.3) signals: pid 6: mask: put back\n";
        assert_eq!(
            verdicts(log),
            [
                Ok(Verdict::Verified),
                Ok(Verdict::Repaired),
                Err("(00.3) signals: pid 6: verdict=perhaps".to_owned())
            ]
        );
    }
}
