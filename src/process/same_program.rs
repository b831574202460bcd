//! A process and the program that it executes, from first sight to last act: a number can change hands, and a pidfd is still
//! the process's when that executes a set-user-id program.

use criu_signals_images::Pid;

use super::pidfd::PidFd;
use crate::error::{Cause, Error, Result};
use crate::proc;

/// A process that was seen, and the program that it executed then.
#[derive(Debug)]
pub struct SameProgram {
    process: PidFd,
    /// Each execve(2) makes another one, with random bytes in another place. `None`: it could not be read.
    auxiliary_vector: Option<Vec<u8>>,
}

impl SameProgram {
    /// Looks at a process. What may not be read is no error: then the process is refused by [`check`](Self::check) if it may
    /// be read by then.
    ///
    /// # Errors
    /// If there is no such process, or if it cannot be looked at in time.
    pub fn look(pid: Pid) -> Result<SameProgram> {
        let process = PidFd::open(pid)?;
        let auxiliary_vector = match proc::auxiliary_vector(pid) {
            Ok(vector) => Some(vector),
            Err(e) if matches!(e.cause(), Cause::Os(nix::errno::Errno::EACCES)) => None,
            Err(e) => return Err(e),
        };
        Ok(SameProgram {
            process,
            auxiliary_vector,
        })
    }

    /// Is the process, which is stopped, still that one, and does it execute the same program? `undone` says in the error
    /// what is not done to another one.
    ///
    /// # Errors
    /// If it is not, or cannot be looked at.
    pub fn check(&self, undone: &str) -> Result<()> {
        self.process.check()?;
        let now = proc::auxiliary_vector_of_stopped(self.process.pid())?;
        if self.auxiliary_vector.as_ref() == Some(&now) {
            return Ok(());
        }
        let why = format!("it executes another program since it was found: {undone}");
        let cause = Cause::Unsupported(why.into());
        Err(Error::new("look at the process", cause))
    }
}
