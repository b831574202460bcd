//! Whether the dumped processes keep running.
//!
//! CRIU does not pass --leave-running and --leave-stopped to plugins. The options are visible on criu's command line,
//! but not in a request by RPC (criu swrk, criu service).

/// May the processes go on running after this dump? False only if criu was told on its command line to dump, and not to leave
/// them.
pub fn may_run_on() -> bool {
    std::fs::read("/proc/self/cmdline").map_or(true, |line| left_by(&line))
}

/// `command_line`: words that end with a zero byte. A word that may be an option to leave processes is taken for such an
/// option.
fn left_by(command_line: &[u8]) -> bool {
    let words = || command_line.split(|&byte| byte == 0).skip(1);
    let leaves = |word: &[u8]| match word {
        [b'-', b'-', long @ ..] => {
            let most = long.len().min(b"leave".len());
            !long.is_empty() && long[..most] == b"leave"[..most]
        }
        [b'-', short @ ..] => short.iter().any(|byte| b"Rs".contains(byte)),
        _ => false,
    };
    !words().any(|word| word == b"dump") || words().any(leaves)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_command_line_tells() {
        let left = |line: &str| left_by(line.replace(' ', "\0").as_bytes());
        assert!(!left("criu dump -t 7 -D images --shell-job"));
        assert!(!left("/usr/sbin/criu -v4 dump --tree 7 --link-remap"));
        assert!(left("criu dump -t 7 -R"));
        assert!(left("criu dump -t 7 -vR"));
        assert!(left("criu dump -t 7 --leave-running"));
        assert!(left("criu dump -t 7 --leave-r"));
        assert!(left("criu dump -t 7 -s"));
        assert!(left("criu swrk 3"));
        assert!(left("criu service"));
        assert!(left(""));
    }
}
