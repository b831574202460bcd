//! Checks the images before anything is restored: whether every image exists and fits this machine, and whether a
//! signal frame of this machine fits on the alternate stacks.

use std::os::fd::BorrowedFd;

use criu_signals_images::{Image, ImageError, image};
use nix::errno::Errno;

use super::{Lent, Restore};
use crate::arch;
use crate::checkpoint::options::Policy;
use crate::criu::HookError;
use crate::image_folder;
use crate::losses::altstack_fit;
use crate::losses::notices::Notice;
use crate::machine::{self, Machine};
use crate::memory;
use crate::setting_names::{MAX_SIGINFOS, REFUSE};

/// What is wrong with the images.
#[derive(Default)]
struct Examined {
    /// Images that are missing or unreadable, under the policy `strict`.
    unusable: usize,
    /// Images of another architecture.
    foreign: usize,
    /// Alternate stacks on which no signal frame of this machine fits.
    too_small: usize,
    /// Where the images were made.
    machines: Vec<Machine>,
}

impl Restore {
    pub(super) fn check_images(&mut self) -> Result<(), HookError> {
        let host = self.host;
        let dir = host.image_dir()?;
        memory::ensure_for_reading()?;
        let mut examined = Examined::default();
        for innermost in self.left.clone() {
            self.read_image(dir, innermost, &mut examined)?;
        }
        memory::ensure_for(self.allowance.taken())?;
        // With any policy: there is no state that could be put back, or compared.
        if examined.foreign != 0 {
            let what = format!(
                "the signal state of {} processes was captured on another architecture. Nothing is restored",
                examined.foreign
            );
            return Err(HookError::new(Errno::ENOEXEC, what));
        }
        for what in machine::others(std::mem::take(&mut examined.machines))? {
            self.notices.note(Notice::Machine, &what);
        }
        self.look_for_missing(dir, &mut examined)?;
        if examined.unusable != 0 {
            let what = format!(
                "the signal state of {} processes is missing or unreadable. Nothing is restored (policy=strict)",
                examined.unusable
            );
            return Err(HookError::new(Errno::EIO, what));
        }
        self.refuse_small_stacks(examined.too_small)
    }

    /// Reads one image, and keeps it until its process is checked.
    fn read_image(
        &mut self,
        dir: BorrowedFd<'_>,
        innermost: i32,
        examined: &mut Examined,
    ) -> Result<(), HookError> {
        let name = image::file_name(innermost);
        let read = match &self.incoming {
            Some(incoming) => incoming.read(innermost, &mut self.allowance),
            None => image::open_in_within(dir, innermost, &mut self.allowance),
        };
        match read {
            Ok(Some(image)) => self.look_at_image(innermost, image, examined),
            // The check of its process reports the error.
            Ok(None) => {}
            Err(e @ (ImageError::TooMany { .. } | ImageError::NoMemory { .. })) => {
                return Err(too_much(&name, &e));
            }
            Err(e) if self.options.policy == Policy::Strict => {
                examined.unusable += 1;
                self.recorder.error(format!("{name}: {e}"));
            }
            Err(e) => {
                log::warn!("{name}: {e}: alternate stacks are not checked");
                self.read.insert(innermost, Err(e));
            }
        }
        Ok(())
    }

    fn look_at_image(&mut self, innermost: i32, image: Image, examined: &mut Examined) {
        let machine = Machine::recorded_in(&image);
        if let Err(e) = machine.refuse_other_arch() {
            examined.foreign += 1;
            self.recorder
                .error(format!("{}: {e}", image::file_name(innermost)));
            return;
        }
        examined.machines.push(machine);
        for small in altstack_fit::too_small(&image.process) {
            let what = format!("pid {innermost} (in its own namespace): {small}");
            if small.is_fatal() {
                examined.too_small += 1;
                self.notices.say(Notice::SmallStack, &what);
            } else {
                log::info!("{what}");
            }
        }
        if !image.process.taken_out.is_empty() {
            self.owed.insert(innermost);
        }
        if let Some(lent) = image.process.lent_limit {
            let own = image.process.rlimit_sigpending;
            self.lent.insert(innermost, Lent { lent, own });
        }
        self.read.insert(innermost, Ok(image));
    }

    /// Under the policy `strict`, processes that CRIU has dumped and that have no image. At the check of such a process it
    /// would be too late: the process has been created, and the network is unlocked.
    fn look_for_missing(
        &mut self,
        dir: BorrowedFd<'_>,
        examined: &mut Examined,
    ) -> Result<(), HookError> {
        // The contents of a stream cannot be listed. The check of such a process fails.
        if self.options.policy != Policy::Strict || self.left.is_empty() || self.incoming.is_some()
        {
            return Ok(());
        }
        for pid in image_folder::dumped_processes(dir)? {
            if !self.left.contains(&pid) {
                examined.unusable += 1;
                self.recorder
                    .error(format!("{}: the image is missing", image::file_name(pid)));
            }
        }
        Ok(())
    }

    fn refuse_small_stacks(&self, too_small: usize) -> Result<(), HookError> {
        if too_small == 0 {
            return Ok(());
        }
        let what = format!(
            "{too_small} alternate stacks are too small for this machine (AT_MINSIGSTKSZ is {}): restore on a machine \
             with smaller signal frames",
            arch::stack_needs().minimum
        );
        let policy = self.options.policy;
        let refused = match (policy, self.options.refuse.includes(Notice::SmallStack)) {
            (Policy::Strict, _) => "policy=strict".to_owned(),
            (_, true) => format!("{REFUSE} lists altstack"),
            _ => {
                log::warn!(
                    "{what}, or change the program; the restore continues (policy={policy})"
                );
                return Ok(());
            }
        };
        let what = format!("{what}. Nothing is restored ({refused})");
        Err(HookError::new(Errno::ENOMEM, what))
    }
}

/// Checked under every policy: with so many signals the process would be stopped for very long, and this machine would
/// run out of memory.
fn too_much(name: &str, e: &ImageError) -> HookError {
    match e {
        ImageError::TooMany { .. } => {
            let what = format!(
                "{name}: {e}. Nothing is restored. If you trust the images, raise the limit with {MAX_SIGINFOS}"
            );
            HookError::new(Errno::E2BIG, what)
        }
        _ => HookError::new(Errno::ENOMEM, format!("{name}: {e}. Nothing is restored")),
    }
}
