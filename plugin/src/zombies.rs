//! Children that have ended and were not waited for: what of that is lost.

use criu_signals::error::Result;
use criu_signals::image_folder;
use criu_signals::images::Pid;
use criu_signals::images::criu_images::Ended;
use criu_signals::losses::zombies::Status;
use criu_signals::proc;

use crate::notices::{Notice, Saying};

/// How the children of `pid` have ended that nobody has waited for. Their ids are those that criu sees.
///
/// # Errors
/// If its children can't be listed.
pub fn of(pid: Pid) -> Result<Vec<(Pid, Status)>> {
    let children = proc::children(pid)?.into_iter();
    let ended = |child| proc::exit_status(child).map(|status| (child, Status(status)));
    Ok(children.filter_map(ended).collect())
}

/// What there is to say of them at the dump.
pub fn at_dump(pid: Pid, ended: &[(Pid, Status)]) -> Vec<Saying> {
    let changed = ended
        .iter()
        .filter(|(_, status)| status.restored() != *status);
    let say = |(child, status): &(Pid, Status)| Saying {
        notice: Notice::ExitStatus,
        what: format!(
            "pid {child}, which has ended and was not waited for: its parent, pid {pid}, would find {status}, and finds {} after \
             a restore: criu can't make it end so",
            status.restored()
        ),
        advice: "checkpoint it when the parent has waited for it, or if the parent can live with that",
    };
    changed.map(say).collect()
}

/// What there is to say after a restore, where they ended as `dumped` has it.
pub fn at_restore(pid: Pid, ended: &[(Pid, Status)], dumped: &[Ended]) -> Vec<String> {
    let other = |(child, is): &(Pid, Status)| {
        let innermost = image_folder::innermost(*child).ok()?;
        let was = Status(dumped.iter().find(|ended| ended.pid == innermost)?.status);
        (was != *is).then(|| {
            format!(
                "pid {child}, which has ended and was not waited for: its parent, pid {pid}, finds {is} now, not {was} as \
                 before the dump"
            )
        })
    };
    ended.iter().filter_map(other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_said() {
        let pid = |n| Pid::new(n).unwrap();
        let ended = [
            (pid(8), Status(163 << 8)),
            (pid(9), Status(11 | 0x80)),
            (pid(10), Status(64)),
            (pid(11), Status(9)),
        ];
        let said = at_dump(pid(7), &ended);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].what.starts_with("pid 9, which"), "{said:?}");
        assert!(
            said[1].what.contains("SIGRTMIN+30, and finds SIGABRT"),
            "{said:?}"
        );
    }
}
