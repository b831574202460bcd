//! Images, and the live processes that they are put into or compared with.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use criu_signals::image_folder;
use criu_signals::images::{Image, Pid, Shown as _, image};
use criu_signals::live::{self, Mapping, Pair, Unmapped};
use criu_signals::machine;

use super::context::Failure;
use super::source;

/// A folder of images, and how their processes are found.
#[derive(clap::Args)]
pub struct Pairs {
    /// The folder that holds the images.
    #[arg(short = 'D', long, value_name = "FOLDER")]
    images_dir: PathBuf,
    /// Only this process. A folder's single image is taken for it whatever the pid in its name. Can be given several
    /// times.
    #[arg(short = 't', long = "pid", value_name = "PID", value_parser = super::context::pid)]
    only: Vec<Pid>,
    /// The image signals-OLD.img is meant for process NEW, as it is seen here. Senders in siginfos that are mapped are
    /// translated. Without this, an image is meant for the process that has its pid in its pid namespace. Can be given
    /// several times.
    #[arg(long = "map", value_name = "OLD:NEW")]
    mappings: Vec<Mapping>,
    /// With --map: the images that are not mapped are meant for the other processes of the pid namespaces that the mapped
    /// ones are in. Without this, they are left out.
    #[arg(long, requires = "mappings")]
    others: bool,
    /// How many pending signals and POSIX timers all images together may hold. Without this, as many as a user's processes
    /// can have on this machine: half of kernel.threads-max, or this command's own hard RLIMIT_SIGPENDING.
    #[arg(long, value_name = "N")]
    max_siginfos: Option<u64>,
}

impl Pairs {
    /// Reads the images and finds their processes.
    pub fn find(&self) -> Result<Vec<Pair>, Failure> {
        let unmapped = if self.others {
            Unmapped::Found
        } else {
            Unmapped::LeftOut
        };
        let images = self.images()?;
        Ok(live::pair(images, &self.mappings, unmapped, &self.only)?)
    }

    fn images(&self) -> Result<Vec<Image>, Failure> {
        let folder = self.images_dir.shown();
        let dir = File::open(&self.images_dir).map_err(|e| format!("{folder}: {e}"))?;
        let pids = image_folder::captured_processes(dir.as_fd())?;
        if pids.is_empty() {
            return Err(format!("{folder}: holds no signals-PID.img").into());
        }
        let mut allowance = machine::allowance(self.max_siginfos);
        let open = |pid| {
            let path = self.images_dir.join(image::file_name(pid));
            image::open_within(&path, &mut allowance).map_err(|e| source::named(&path, e))
        };
        pids.into_iter().map(open).collect()
    }
}
