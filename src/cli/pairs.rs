//! Pairs of images and live processes for `restore` and `verify`.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use criu_signals::archive::Checkpoint;
use criu_signals::image_folder;
use criu_signals::images::{CodePlace, Image, Pid, Shown as _, image};
use criu_signals::live::{self, Cgroup, Mapping, Members, Pair, Unmapped};
use criu_signals::machine;

use super::context::Failure;
use super::source;

/// `OLD:NEW`. OLD is the pid in the name of an image, and NEW a process.
fn mapping(text: &str) -> Result<Mapping, String> {
    let (old, new) = text
        .split_once(':')
        .ok_or("not OLD:NEW, the pid in the name of an image and a process")?;
    let old = old
        .parse()
        .ok()
        .and_then(Pid::new)
        .ok_or_else(|| format!("{old:?} is not the pid in the name of an image"))?;
    Ok(Mapping {
        old: old.get(),
        new: super::context::pid(new)?,
    })
}

/// A folder of images, and how their processes are found.
#[derive(clap::Args)]
pub struct Pairs {
    /// Folder with the images, or the archive of a checkpoint.
    #[arg(short = 'D', long, value_name = "FOLDER|ARCHIVE")]
    images_dir: PathBuf,
    /// Only this process. If the folder holds a single image, the image is used for this process whatever the pid in
    /// its name. May be repeated.
    #[arg(short = 't', long = "pid", value_name = "PID", value_parser = super::context::pid)]
    only: Vec<Pid>,
    /// Use the image signals-OLD.img for process NEW (the pid as this command sees the process, /proc/PID, or the name of the
    /// only process with that name). Sender pids in
    /// siginfos that name a mapped process are translated. Without --map, an image is used for the process that has the
    /// image's pid in the image's pid namespace. May be repeated.
    #[arg(long = "map", value_name = "OLD:NEW", value_parser = mapping)]
    mappings: Vec<Mapping>,
    /// With --map: use the images that are not mapped for the other processes of the pid namespaces of the mapped
    /// processes. Without --others, images that are not mapped are ignored.
    #[arg(long, requires = "mappings")]
    others: bool,
    /// Limit on the number of pending signals and POSIX timers in all images together. Default: half of
    /// kernel.threads-max, or the hard RLIMIT_SIGPENDING of this command if that is larger (as many as a user's
    /// processes can have on this machine).
    #[arg(long, value_name = "N")]
    max_siginfos: Option<u64>,
}

impl Pairs {
    /// Reads the images, and finds their processes among those of a cgroup.
    pub fn find_in(&self, cgroup: &Cgroup) -> Result<Members, Failure> {
        Ok(live::pair_members(self.images()?, &self.mappings, cgroup)?)
    }

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

    /// Where the handlers and restorers of an image were, as far as CRIU's images beside it tell.
    pub fn names(&self, image: &Image) -> Vec<CodePlace> {
        let process = &image.process;
        let names = match source::checkpoint(&self.images_dir) {
            Ok(Some(archive)) => source::names_in_images(&archive, process),
            _ => source::names_in_images(&*self.images_dir, process),
        };
        names.unwrap_or_default()
    }

    fn images(&self) -> Result<Vec<Image>, Failure> {
        let folder = self.images_dir.shown();
        if let Some(archive) = source::checkpoint(&self.images_dir)? {
            return self.archived(&archive);
        }
        let dir =
            File::open(&self.images_dir).map_err(|e| format!("open the folder {folder}: {e}"))?;
        let pids = image_folder::captured_processes(dir.as_fd())?;
        if pids.is_empty() {
            return Err(format!("{folder}: contains no signals-PID.img").into());
        }
        let mut allowance = machine::allowance(self.max_siginfos);
        let open = |pid| {
            let path = self.images_dir.join(image::file_name(pid));
            image::open_within(&path, &mut allowance).map_err(|e| source::named(&path, e))
        };
        pids.into_iter().map(open).collect()
    }

    fn archived(&self, archive: &Checkpoint) -> Result<Vec<Image>, Failure> {
        let pids = archive.captured_processes();
        if pids.is_empty() {
            let name = self.images_dir.shown();
            return Err(format!("{name}: contains no signals-PID.img").into());
        }
        let mut allowance = machine::allowance(self.max_siginfos);
        let read = |pid| {
            let name = self
                .images_dir
                .join(archive.place())
                .join(image::file_name(pid));
            archive
                .ours(pid, &mut allowance)
                .map_err(|e| source::named(&name, e))
        };
        pids.into_iter().map(read).collect()
    }
}
