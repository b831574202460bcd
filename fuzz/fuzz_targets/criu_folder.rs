//! An image folder of CRIU's: `pstree.img`, and a `core-N.img` for each of some numbers.
#![no_main]

use std::cell::OnceCell;
use std::fs;
use std::path::PathBuf;

use criu_signals_images::{criu_images, image};
use libfuzzer_sys::fuzz_target;

const CORES: [i32; 4] = [1, 2, 41, 42];

thread_local! {
    static FOLDER: OnceCell<PathBuf> = const { OnceCell::new() };
}

/// In memory, where the machine has a file system there.
fn folder() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    let base = if shm.is_dir() {
        shm
    } else {
        std::env::temp_dir()
    };
    let folder = base.join(format!("criu-signals-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for images");
    folder
}

/// A piece with its length before it in two bytes, and what is behind it.
fn piece(data: &[u8]) -> (&[u8], &[u8]) {
    match data.split_first_chunk::<2>() {
        Some((length, rest)) => {
            let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
            rest.split_at(length)
        }
        None => (&[], &[]),
    }
}

fuzz_target!(|data: &[u8]| {
    FOLDER.with(|known| {
        let folder = known.get_or_init(folder);
        let (pstree, mut rest) = piece(data);
        fs::write(folder.join(criu_images::PSTREE), pstree).expect("writable");
        for tid in CORES {
            let core;
            (core, rest) = piece(rest);
            let path = folder.join(criu_images::core_name(tid));
            if core.is_empty() {
                let _ = fs::remove_file(path);
            } else {
                fs::write(path, core).expect("writable");
            }
        }
        let Ok(processes) = criu_images::processes(&**folder) else {
            return;
        };
        for recorded in processes {
            let mut bytes = Vec::new();
            image::write(&mut bytes, &recorded.image).expect("what was read can be written");
            assert_eq!(image::read(&*bytes).ok().as_ref(), Some(&recorded.image));
            let pid = recorded.image.process.ids.innermost();
            // Of two processes of one number the first is found.
            assert!(matches!(
                criu_images::process(&**folder, pid),
                Ok(Some(_)) | Err(_) | Ok(None)
            ));
        }
    });
});
