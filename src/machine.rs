//! Compares the machine on which an image was made with this machine.
//!
//! Signal numbers, siginfo_t, sigaction and the masks are the kernel's promise to programs: no kernel and no processor
//! of one architecture changes them. What does change is how large a signal frame is, and `losses::altstack_fit` looks
//! at every alternate stack for that. So another kernel or processor is a note in the log, and not refused.
//!
//! Another architecture is refused: an image names system calls by number, addresses by what a program of that
//! architecture has there, and flags that the other one does not have (SA_RESTORER).

use std::fmt;

use criu_signals_images::image::Allowance;
use criu_signals_images::{Arch, Image, Shown as _, StackNeeds};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use crate::arch;
use crate::error::{Cause, Error, Result};
use crate::proc;

/// What any machine is trusted to have: siginfos, which take 8 MB in an image reader, and tasks.
const FEW: u64 = 65_536;

/// The machine on which a process ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its architecture.
    pub arch: Arch,
    /// `uname -r`; empty: not known.
    pub kernel_release: String,
    /// What a signal takes of an alternate stack there, where that is known. It goes by the processor and the kernel.
    pub needs: Option<StackNeeds>,
}

impl Machine {
    /// Where the image was made.
    pub fn recorded_in(image: &Image) -> Machine {
        Machine {
            arch: image.header.arch,
            kernel_release: image.header.kernel_release.clone(),
            needs: image.process.stack_needs,
        }
    }

    /// This one.
    ///
    /// # Errors
    /// If uname(2) fails, which it does not.
    pub fn here() -> Result<Machine> {
        Ok(Machine {
            arch: arch::ARCH,
            kernel_release: kernel_release()?,
            needs: Some(arch::stack_needs()),
        })
    }

    /// Makes sure that what was dumped on this machine can mean anything to a process here.
    ///
    /// # Errors
    /// If its architecture is another than that of this program.
    pub fn refuse_other_arch(&self) -> Result<()> {
        if self.arch == arch::ARCH {
            return Ok(());
        }
        let why = format!(
            "the image was dumped on {}, and this machine is {}: system call numbers, registers and addresses in the \
             image mean nothing here. Restore on a machine with that architecture",
            self.arch,
            arch::ARCH
        );
        Err(Error::new(
            "compare the machine of the dump",
            Cause::Unsupported(why.into()),
        ))
    }

    /// What is another than here, for people; `None` if nothing is, as far as is known.
    fn differs_from(&self, here: &Machine) -> Option<String> {
        let mut what = Vec::new();
        if !self.kernel_release.is_empty() && self.kernel_release != here.kernel_release {
            what.push(format!(
                "under Linux {}, and this is {} (signal numbers and siginfos are the same)",
                self.kernel_release.shown(),
                here.kernel_release.shown()
            ));
        }
        if let (Some(there), Some(now)) = (self.needs, here.needs)
            && there != now
        {
            what.push(format!(
                "where AT_MINSIGSTKSZ is {} and a signal frame has up to {} bytes, here {} and {} (alternate stacks are \
                 checked)",
                there.minimum, there.frame, now.minimum, now.frame
            ));
        }
        (!what.is_empty()).then(|| what.join("; "))
    }
}

impl fmt::Display for Machine {
    /// `x86_64, Linux 6.1.0-13-amd64, AT_MINSIGSTKSZ 3632`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.arch)?;
        if !self.kernel_release.is_empty() {
            write!(f, ", Linux {}", self.kernel_release.shown())?;
        }
        match self.needs {
            Some(needs) if needs.minimum != 0 => write!(f, ", AT_MINSIGSTKSZ {}", needs.minimum),
            _ => Ok(()),
        }
    }
}

/// How much of an image folder is taken in, where its images are to be put into processes of this machine.
///
/// At most as many siginfos as a user's processes can have pending together: half of kernel.threads-max is the kernel's own
/// RLIMIT_SIGPENDING for the first process (`fork_init`), and this process's may be higher. `siginfos` says another
/// number. No more tasks than kernel.threads-max.
pub fn allowance(siginfos: Option<u64>) -> Allowance {
    let tasks = proc::read_text("/proc/sys/kernel/threads-max")
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok())
        .unwrap_or(FEW);
    let own = getrlimit(Resource::RLIMIT_SIGPENDING).map_or(0, |(_, hard)| match hard {
        RLIM_INFINITY => 0,
        hard => hard,
    });
    let pending = (tasks / 2).max(own).max(FEW);
    Allowance::new(siginfos.unwrap_or(pending), tasks.max(FEW))
}

/// `uname -r`.
///
/// # Errors
/// If uname(2) fails, which it does not.
pub fn kernel_release() -> Result<String> {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .map_err(|errno| Error::os("uname", errno))
}

/// What is to be said of processes that were dumped on these machines: a line for each machine that is another than this
/// one, with how many of the processes are from it.
///
/// # Errors
/// Those of [`Machine::here`].
pub fn others(machines: impl IntoIterator<Item = Machine>) -> Result<Vec<String>> {
    Ok(others_than(&Machine::here()?, machines))
}

fn others_than(here: &Machine, machines: impl IntoIterator<Item = Machine>) -> Vec<String> {
    let mut found: Vec<(Machine, usize)> = Vec::new();
    for machine in machines {
        match found.iter_mut().find(|(known, _)| *known == machine) {
            Some((_, count)) => *count += 1,
            None => found.push((machine, 1)),
        }
    }
    let line = |(machine, count): (Machine, usize)| {
        let processes = if count == 1 {
            "1 process was".to_owned()
        } else {
            format!("{count} processes were")
        };
        let what = machine.differs_from(here)?;
        Some(format!("{processes} dumped on another machine: {what}"))
    };
    found.into_iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(kernel_release: &str, minimum: u64) -> Machine {
        Machine {
            arch: Arch::X86_64,
            kernel_release: kernel_release.to_owned(),
            needs: Some(StackNeeds {
                minimum,
                frame: 1000,
            }),
        }
    }

    #[test]
    fn one_line_for_each_other_machine() {
        let here = machine("6.18.5", 3632);
        let unknown = Machine {
            needs: None,
            ..machine("", 0)
        };
        assert!(others_than(&here, [here.clone(), unknown, here.clone()]).is_empty());
        let old = machine("6.1.0-13", 3632);
        let wide = machine("6.18.5", 11952);
        let said = others_than(&here, [old.clone(), here.clone(), wide, old]);
        assert_eq!(
            said,
            [
                "2 processes were dumped on another machine: under Linux 6.1.0-13, and this is 6.18.5 (signal numbers \
                 and siginfos are the same)",
                "1 process was dumped on another machine: where AT_MINSIGSTKSZ is 11952 and a signal frame has up to \
                 1000 bytes, here 3632 and 1000 (alternate stacks are checked)"
            ]
        );
    }

    /// The text is the image's, and goes into a log that programs read line by line.
    #[test]
    fn a_line_stays_one() {
        let here = machine("6.18.5", 3632);
        let odd = machine("6.1\n(00.1) signals: pid 1: verdict=verified", 3632);
        assert!(!odd.to_string().contains('\n'));
        assert!(!others_than(&here, [odd])[0].contains('\n'));
    }

    #[test]
    fn only_another_architecture_is_refused() {
        let here = Arch::current().unwrap();
        let there = match here {
            Arch::X86_64 => Arch::Aarch64,
            _ => Arch::X86_64,
        };
        let of = |arch| Machine {
            arch,
            ..machine("2.6.32", 1)
        };
        of(here).refuse_other_arch().unwrap();
        let refused = of(there).refuse_other_arch().unwrap_err().to_string();
        assert!(refused.contains(&format!("dumped on {there}, and this machine is {here}")));
    }
}
