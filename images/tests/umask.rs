//! Only the owner may read an image. A program of its own, because the umask is the whole process's.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use criu_signals_images::{
    AltStack, Arch, Dispositions, FORMAT_VERSION, Header, Image, NsIds, Pending, ProcessState,
    Rlimit, RunState, SigSet, ThreadState, image,
};
use nix::sys::stat::{Mode, umask};

fn smallest() -> Option<Image> {
    let ids = NsIds::new(vec![7])?;
    let leader = ThreadState {
        ids: ids.clone(),
        blocked: SigSet::EMPTY,
        saved_mask: None,
        altstack: AltStack::DISABLED,
        pending: Pending::default(),
        interrupted: None,
    };
    Some(Image {
        header: Header {
            format_version: FORMAT_VERSION,
            arch: Arch::X86_64,
            kernel_release: String::new(),
            tool_version: String::new(),
            criu_version: None,
        },
        process: ProcessState {
            ids,
            pid_ns: 0,
            comm: String::new(),
            compat: false,
            rlimit_sigpending: Rlimit { soft: 0, hard: 0 },
            queued: 0,
            dispositions: Dispositions::default(),
            run_state: RunState::Running,
            taken_out: Vec::new(),
            shared: Pending::default(),
            threads: vec![leader],
        },
    })
}

#[test]
fn the_mode_does_not_depend_on_the_umask() {
    let image = smallest().expect("7 is a pid");
    for mask in [0o000, 0o022, 0o777] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = File::open(folder.path()).expect("it is there");
        let before = umask(Mode::from_bits_truncate(mask));
        let made = image::create_in(dir.as_fd(), &image);
        umask(before);
        let path = folder.path().join(made.expect("writable"));
        let mode = path.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "umask {mask:o}");
        assert_eq!(image::open(&path).expect("readable"), image);
    }
}
