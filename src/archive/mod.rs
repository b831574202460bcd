//! Checkpoints as container engines keep them: a tar archive of podman's, CRI-O's or containerd's, compressed or not, or an
//! OCI image in a layout folder or in an archive of one.
//!
//! An archive can be anybody's. Nothing of it is written anywhere: the few images that hold signal state are read into
//! memory, within [`Limits`], and the rest is passed over.

mod bounds;
mod compressed;
mod oci;
mod tree;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use criu_signals_images::criu_images::{self, Folder, PSTREE};
use criu_signals_images::image::{self, Allowance};
use criu_signals_images::{Image, ImageError};

use bounds::read_at_most;
pub use bounds::{Error, Limits};
use compressed::Format;
use tree::{Contents, Images};

/// The images of one checkpoint, in memory.
#[derive(Debug)]
pub struct Checkpoint {
    /// The folder in the archive; empty for its root.
    place: String,
    files: Images,
}

impl Checkpoint {
    /// Opens an archive, or a folder that is an OCI image layout; `None` if the path is neither.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub fn open(path: &Path, limits: &Limits) -> Result<Option<Checkpoint>, Error> {
        if path.is_dir() {
            return if path.join(oci::LAYOUT).is_file() {
                layout_folder(path, limits).map(Some)
            } else {
                Ok(None)
            };
        }
        // O_NONBLOCK: to open a pipe that nobody writes to would hang.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let Ok(mut file) = OpenOptions::new().read(true).custom_flags(flags).open(path) else {
            // Whoever reads it as an image says why.
            return Ok(None);
        };
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let Some(format) = Format::detect(&mut file)? else {
            return Ok(None);
        };
        let (mut contents, plain) = scan(&mut file, format, limits, Contents::new(limits))?;
        if let Some(layout) = contents.layout() {
            let wanted = layout?;
            contents = Contents::of_blobs(limits, wanted);
            let again = scan(&mut file, plain, limits, contents)?;
            return pick(again.0.into_candidates()).map(Some);
        }
        pick(contents.into_candidates()).map(Some)
    }

    /// Where in the archive the images are.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The names of the images.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The processes whose state is in images of ours: N of every `signals-N.img`.
    pub fn captured_processes(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self
            .names()
            .filter_map(|name| tree::number(name, "signals-"))
            .collect();
        pids.sort_unstable();
        pids
    }

    /// Are CRIU's own images there?
    pub fn has_criu_s(&self) -> bool {
        self.files.contains_key(PSTREE)
    }

    /// The image of ours of the process with this id in its own pid namespace.
    ///
    /// # Errors
    /// Those of [`image::open_in_within`].
    pub fn ours(&self, pid: i32, allowance: &mut Allowance) -> Result<Image, ImageError> {
        let name = image::file_name(pid);
        let bytes = self.image(&name)?;
        image::read_of_within(&*bytes, pid, allowance)
    }
}

impl Folder for Checkpoint {
    fn image(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        self.files.get(name).cloned().ok_or_else(|| ImageError::Io {
            operation: "find in the archive",
            name: name.to_owned(),
            source: io::ErrorKind::NotFound.into(),
        })
    }
}

/// What comes out of a compressed file; `None` if the file is not compressed.
pub(crate) fn unpacked(mut file: File, limits: &Limits) -> Result<Option<Box<dyn Read>>, Error> {
    match Format::detect(&mut file)? {
        None | Some(Format::Plain) => Ok(None),
        Some(format) => {
            file.seek(SeekFrom::Start(0))?;
            format.unpack(BufReader::new(file), limits).map(Some)
        }
    }
}

/// One pass over a tar file, from its beginning.
fn scan(
    file: &mut File,
    format: Format,
    limits: &Limits,
    mut contents: Contents,
) -> Result<(Contents, Format), Error> {
    file.seek(SeekFrom::Start(0))?;
    if format == Format::Plain {
        tree::walk_file(file, limits, &mut contents)?;
    } else {
        let unpacked = format.unpack(BufReader::new(file), limits)?;
        tree::walk(unpacked, limits, &mut contents)?;
    }
    Ok((contents, format))
}

/// One image folder of all that were found: the one called `checkpoint`, as the engines call theirs, or the only one.
fn pick(mut candidates: BTreeMap<String, Images>) -> Result<Checkpoint, Error> {
    candidates.retain(|_, files| {
        files.contains_key(PSTREE) || files.keys().any(|name| name.starts_with("signals-"))
    });
    let named = |place: &String| place == tree::CHECKPOINT;
    if let Some(place) = candidates.keys().find(|place| named(place)).cloned()
        && let Some(files) = candidates.remove(&place)
    {
        return Ok(Checkpoint { place, files });
    }
    if candidates.len() > 1 {
        return Err(Error::Several(candidates.into_keys().collect()));
    }
    let found = candidates.into_iter().next();
    found.map_or_else(
        || {
            Err(Error::NoImages(format!(
                "contains neither a signals-PID.img nor a {}: this is no archive of a checkpoint",
                criu_images::PSTREE
            )))
        },
        |(place, files)| Ok(Checkpoint { place, files }),
    )
}

/// Reads the layout in a folder.
fn layout_folder(path: &Path, limits: &Limits) -> Result<Checkpoint, Error> {
    let document = |file: File| read_at_most(&mut { file }, oci::DOCUMENT, "bytes in one document");
    let index = document(oci::regular(&path.join(oci::INDEX))?)?;
    let blobs = path.join("blobs/sha256");
    let wanted = oci::wanted(
        &index,
        &mut |digest| match oci::regular(&blobs.join(digest)) {
            Ok(file) => document(file).map(Some),
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        },
    )?;
    let mut contents = Contents::new(limits);
    for digest in &wanted {
        let mut blob = oci::regular(&blobs.join(digest))?;
        contents.layer(digest, &mut blob)?;
    }
    pick(contents.into_candidates())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::{AsRawFd as _, OwnedFd};

    use flate2::write::GzEncoder;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use tar::{Builder, EntryType, Header};

    use super::*;

    /// Entries with names that `Builder` refuses to write.
    fn entry(name: &str, kind: EntryType, bytes: &[u8]) -> Vec<u8> {
        let mut header = Header::new_gnu();
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        if kind == EntryType::Symlink || kind == EntryType::Link {
            header.set_link_name("elsewhere").unwrap();
        }
        header.set_cksum();
        let mut builder = Builder::new(Vec::new());
        builder.append(&header, bytes).unwrap();
        let mut whole = builder.into_inner().unwrap();
        whole.truncate(whole.len() - 1024);
        whole
    }

    fn file(name: &str, bytes: &[u8]) -> Vec<u8> {
        entry(name, EntryType::Regular, bytes)
    }

    fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
        [entries.concat(), vec![0; 1024]].concat()
    }

    fn zipped(bytes: &[u8]) -> Vec<u8> {
        let mut writer = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    fn open_within(bytes: &[u8], limits: &Limits) -> Result<Option<Checkpoint>, Error> {
        let memory: OwnedFd = memfd_create(c"archive", MFdFlags::MFD_CLOEXEC).unwrap();
        let mut memory = File::from(memory);
        memory.write_all(bytes).unwrap();
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        Checkpoint::open(Path::new(&path), limits)
    }

    fn open(bytes: &[u8]) -> Result<Option<Checkpoint>, Error> {
        open_within(bytes, &Limits::default())
    }

    fn good() -> Vec<u8> {
        archive(&[
            file("config.dump", b"{}"),
            file("checkpoint/pages-1.img", &[7; 5000]),
            file("./checkpoint/pstree.img", b"tree"),
            file("checkpoint/signals-41.img", b"ours"),
            file("rootfs-diff.tar", &[0; 2048]),
        ])
    }

    #[test]
    fn images_are_found_however_they_are_packed() {
        for bytes in [good(), zipped(&good())] {
            let found = open(&bytes).unwrap().unwrap();
            assert_eq!(found.place(), "checkpoint");
            assert_eq!(
                found.names().collect::<Vec<_>>(),
                ["pstree.img", "signals-41.img"]
            );
            assert_eq!(found.captured_processes(), [41]);
            assert_eq!(found.image("signals-41.img").unwrap(), b"ours");
            found.image("core-41.img").unwrap_err();
        }
        assert!(open(b"no archive").unwrap().is_none());
        assert!(open(b"").unwrap().is_none());
    }

    #[test]
    fn a_part_of_an_archive_is_none() {
        let whole = good();
        let end = whole.len() - 1024;
        for cut in (512..=end).step_by(256) {
            assert!(open(&whole[..cut]).is_err(), "{cut}");
        }
        let packed = zipped(&whole);
        for cut in (2..packed.len()).step_by(7) {
            assert!(open(&packed[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_header_that_is_none() {
        let mut bytes = good();
        // The checksum of the second entry's header.
        let second = 1024;
        bytes[second + 148] = b'x';
        assert!(matches!(open(&bytes), Err(Error::Damaged)));
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..9].copy_from_slice(b"pages.img");
        header.set_entry_type(EntryType::Regular);
        header.set_size(1 << 62);
        header.set_cksum();
        let huge = [header.as_bytes().to_vec(), good()].concat();
        // As far as the file system lets lseek(2) go.
        assert!(matches!(
            open(&huge),
            Err(Error::Damaged | Error::Truncated)
        ));
    }

    #[test]
    fn a_part_of_a_zstd_archive_is_none() {
        let whole = ruzstd::encoding::compress_to_vec(
            &*good(),
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        for cut in (5..whole.len()).step_by(7) {
            assert!(
                matches!(open(&whole[..cut]), Err(Error::Truncated)),
                "{cut}"
            );
        }
    }

    #[test]
    fn images_that_are_not_what_they_seem() {
        let image = "checkpoint/signals-41.img";
        let pstree = || file("checkpoint/pstree.img", b"tree");
        for (kind, says) in [
            (EntryType::Symlink, "symbolic link"),
            (EntryType::Link, "link to another"),
            (EntryType::Char, "device"),
            (EntryType::Block, "device"),
            (EntryType::Fifo, "pipe"),
            (EntryType::Directory, "folder"),
        ] {
            let error = open(&archive(&[pstree(), entry(image, kind, b"")])).unwrap_err();
            let said = error.to_string();
            assert!(said.contains(says) && said.contains(image), "{said}");
        }
        for name in [
            "../checkpoint/signals-41.img",
            "checkpoint/../checkpoint/signals-41.img",
            "/checkpoint/signals-41.img",
        ] {
            let error = open(&archive(&[pstree(), file(name, b"ours")])).unwrap_err();
            assert!(error.to_string().contains("leads out"), "{error}");
        }
        let twice = archive(&[pstree(), file(image, b"one"), file(image, b"two")]);
        assert!(open(&twice).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn several_folders_and_none() {
        let two = [file("a/pstree.img", b"a"), file("b/pstree.img", b"b")];
        match open(&archive(&two)) {
            Err(Error::Several(places)) => assert_eq!(places, ["a", "b"]),
            other => panic!("{other:?}"),
        }
        let one = open(&archive(&two[..1])).unwrap().unwrap();
        assert_eq!(one.place(), "a");
        let none = archive(&[file("checkpoint/pages-1.img", b"")]);
        assert!(matches!(open(&none), Err(Error::NoImages(_))));
    }

    #[test]
    fn everything_is_bounded() {
        let limits = Limits {
            entries: 3,
            image: 100,
            images: 150,
            headers: 4096,
            ratio: 10,
            unpacked: 1 << 16,
        };
        let what = |bytes: &[u8]| match open_within(bytes, &limits) {
            Err(Error::TooMuch { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        let many: Vec<_> = (0..4).map(|n| file(&format!("{n}"), b"")).collect();
        assert_eq!(what(&archive(&many)), "entries");
        let large = file("checkpoint/pstree.img", &[0; 101]);
        assert_eq!(what(&archive(&[large])), "bytes in one image");
        let both = ["core-1.img", "core-2.img"].map(|name| file(name, &[0; 80]));
        assert_eq!(what(&archive(&both)), "bytes in all images");
        for kind in [EntryType::GNULongName, EntryType::XHeader] {
            let long = entry("long", kind, &[b'x'; 8192]);
            for bytes in [
                archive(std::slice::from_ref(&long)),
                zipped(&archive(&[long])),
            ] {
                assert_eq!(what(&bytes), "bytes in the header of one entry");
            }
        }
        let zeros = file("checkpoint/pages-1.img", &[0; 1 << 20]);
        let bomb = zipped(&archive(&[zeros]));
        match open_within(&bomb, &limits) {
            Err(Error::Ratio { .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn damage_is_an_error_or_changes_nothing_that_is_shown() {
        let whole = good();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            // No panic, whatever comes out.
            let _ = open(&bytes);
        }
    }
}
