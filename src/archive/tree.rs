//! The entries of a tar file, and which of them are images.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

use criu_signals_images::criu_files::FILES;
use criu_signals_images::criu_images::PSTREE;
use tar::{Archive, Entries, Entry, EntryType};

use super::bounds::{Error, Limits, read_at_most};
use super::compressed::Format;
use super::oci::{self, Wanted};

/// Images by their names.
pub(super) type Images = BTreeMap<String, Vec<u8>>;

/// The folder of the images in archives of podman's, CRI-O's and containerd's (`checkpointctl`, `lib/metadata.go`).
pub(super) const CHECKPOINT: &str = "checkpoint";

/// Where a blob of an OCI layout is in an archive.
const BLOBS: &str = "blobs/sha256";

/// What passes, or one error for all of a read that went wrong on the way.
fn unwrapped(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Error::Truncated,
        Err(error) => error.into(),
    }
}

/// As [`unwrapped`], where an entry's header is read: of that the crate has its own errors, and lseek(2) refuses an impossible size.
fn of_header(error: io::Error) -> Error {
    match unwrapped(error) {
        Error::Io(e) if e.raw_os_error() == Some(libc::EINVAL) => Error::Damaged,
        Error::Io(e) if e.raw_os_error().is_none() && e.kind() == io::ErrorKind::Other => {
            Error::Damaged
        }
        other => other,
    }
}

/// What is looked for in the entries, and what was found.
pub(super) struct Contents {
    limits: Limits,
    /// By folder.
    folders: BTreeMap<String, Images>,
    /// Bytes of all images.
    size: u64,
    /// Small files of an OCI layout: its index, and blobs that may be manifests.
    documents: BTreeMap<String, Vec<u8>>,
    /// In the second pass: the blobs that may hold images.
    wanted: Option<Wanted>,
}

impl Contents {
    pub(super) fn new(limits: &Limits) -> Contents {
        Contents {
            limits: *limits,
            folders: BTreeMap::new(),
            size: 0,
            documents: BTreeMap::new(),
            wanted: None,
        }
    }

    /// Of an OCI layout, whose documents have been read.
    pub(super) fn of_blobs(limits: &Limits, wanted: Wanted) -> Contents {
        Contents {
            wanted: Some(wanted),
            ..Contents::new(limits)
        }
    }

    pub(super) fn into_candidates(self) -> BTreeMap<String, Images> {
        self.folders
    }

    /// If this was an archive of an OCI layout: which of its blobs may hold images.
    pub(super) fn layout(&mut self) -> Option<Result<Wanted, Error>> {
        let index = self.documents.remove(oci::INDEX)?;
        self.documents.contains_key(oci::LAYOUT).then(|| {
            oci::wanted(&index, &mut |digest| {
                Ok(self.documents.remove(&format!("{BLOBS}/{digest}")))
            })
        })
    }

    /// The images of one layer.
    pub(super) fn layer(&mut self, digest: &str, packed: &mut dyn Read) -> Result<(), Error> {
        let mut head = Vec::new();
        packed.take(512).read_to_end(&mut head).map_err(unwrapped)?;
        let Some(format) = Format::of_bytes(&head)? else {
            return Ok(());
        };
        let whole = io::BufReader::new(head.chain(packed));
        let mut within = Contents::new(&self.limits);
        within.size = self.size;
        walk(
            format.unpack(whole, &self.limits)?,
            &self.limits,
            &mut within,
        )?;
        self.size = within.size;
        for (folder, images) in within.folders {
            let known = self.folders.insert(folder.clone(), images);
            if known.is_some() {
                return Err(Error::Hostile {
                    name: format!("{folder} in the layer {digest}"),
                    what: "is in an earlier layer as well",
                });
            }
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), Error> {
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let plain = plain(&path);
        if let (Some(wanted), Some(path)) = (&self.wanted, &plain)
            && let Some(digest) = path.strip_prefix(BLOBS).and_then(|d| d.strip_prefix('/'))
            && wanted.contains(digest)
            && entry.header().entry_type().is_file()
        {
            let digest = digest.to_owned();
            return self.layer(&digest, entry);
        }
        if self.wanted.is_some() {
            return Ok(());
        }
        let name = path.rsplit('/').next().unwrap_or(&path);
        if is_image(name) {
            let hostile = |what| Error::Hostile {
                name: path.clone(),
                what,
            };
            let plain = plain.ok_or_else(|| hostile("leads out of the archive"))?;
            let what = not_regular(entry.header().entry_type());
            return match what {
                Some(what) => Err(hostile(what)),
                None => self.image(&plain, entry),
            };
        }
        match plain {
            Some(path) if entry.header().entry_type().is_file() => self.document(&path, entry),
            _ => Ok(()),
        }
    }

    fn image<R: Read>(&mut self, path: &str, entry: &mut Entry<'_, R>) -> Result<(), Error> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let bytes = read_at_most(entry, self.limits.image, "bytes in one image");
        let bytes = bytes.map_err(|e| match e {
            Error::Io(e) => unwrapped(e),
            other => other,
        })?;
        if (bytes.len() as u64) < entry.size() {
            return Err(Error::Truncated);
        }
        self.size += bytes.len() as u64;
        if self.size > self.limits.images {
            return Err(Error::TooMuch {
                what: "bytes in all images",
                limit: self.limits.images,
            });
        }
        let images = self.folders.entry(folder.to_owned()).or_default();
        match images.insert(name.to_owned(), bytes) {
            None => Ok(()),
            Some(_) => Err(Error::Hostile {
                name: path.to_owned(),
                what: "is there twice",
            }),
        }
    }

    /// What may belong to an OCI layout, as long as it is small: nothing is known of it yet.
    fn document<R: Read>(&mut self, path: &str, entry: &mut Entry<'_, R>) -> Result<(), Error> {
        let blob = path.strip_prefix(BLOBS).and_then(|d| d.strip_prefix('/'));
        let relevant =
            path == oci::INDEX || path == oci::LAYOUT || blob.is_some_and(oci::is_digest);
        let full = self.documents.len() >= oci::DOCUMENTS;
        if relevant && entry.size() <= oci::DOCUMENT && !full {
            let bytes = read_at_most(entry, oci::DOCUMENT, "bytes in one document")?;
            self.documents.insert(path.to_owned(), bytes);
        }
        Ok(())
    }
}

/// `pstree.img`, `core-N.img`, `signals-N.img`; `mm-N.img` and `files.img`, which tell the files of handlers.
fn is_image(name: &str) -> bool {
    let numbered = ["core-", "signals-", "mm-"];
    name == PSTREE || name == FILES || numbered.iter().any(|prefix| number(name, prefix).is_some())
}

/// N of `PREFIXN.img`, written in one way only.
pub(super) fn number(name: &str, prefix: &str) -> Option<i32> {
    let text = name.strip_prefix(prefix)?.strip_suffix(".img")?;
    let number: i32 = text.parse().ok()?;
    (number > 0 && number.to_string() == text).then_some(number)
}

/// The path without `./`; `None` if it leads elsewhere, or is written in another way than engines do.
fn plain(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for (at, part) in path.split('/').enumerate() {
        match part {
            "." => {}
            "" if at > 0 => {}
            "" | ".." => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn not_regular(kind: EntryType) -> Option<&'static str> {
    Some(match kind {
        EntryType::Regular | EntryType::Continuous => return None,
        EntryType::Symlink => "is a symbolic link",
        EntryType::Link => "is a link to another entry",
        EntryType::GNUSparse => "is a sparse file",
        EntryType::Directory => "is a folder",
        EntryType::Char | EntryType::Block => "is a device",
        EntryType::Fifo => "is a pipe",
        _ => "is not a regular file",
    })
}

/// Reads all entries from a stream, and the stream to its end: what compressed it has its checksum there.
pub(super) fn walk(
    reader: impl Read,
    limits: &Limits,
    contents: &mut Contents,
) -> Result<(), Error> {
    let (metered, meter) = Metered::new(reader, limits);
    let mut archive = Archive::new(metered);
    let entries = archive.entries().map_err(unwrapped)?;
    through(entries, &meter, limits, contents, Rest::Read)?;
    meter.headers.set(u64::MAX);
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(unwrapped)?;
    Ok(())
}

/// As [`walk`], and passes over what is not needed.
pub(super) fn walk_file(
    file: &mut File,
    limits: &Limits,
    contents: &mut Contents,
) -> Result<(), Error> {
    let (metered, meter) = Metered::new(file, limits);
    let mut archive = Archive::new(metered);
    let entries = archive.entries_with_seek().map_err(unwrapped)?;
    through(entries, &meter, limits, contents, Rest::Sought)
}

/// How the rest of an entry is passed over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Here, so that it does not count as a header.
    Read,
    /// By the crate, with lseek(2).
    Sought,
}

fn through<R: Read>(
    mut entries: Entries<'_, R>,
    meter: &Meter,
    limits: &Limits,
    contents: &mut Contents,
    rest: Rest,
) -> Result<(), Error> {
    let mut count = 0;
    let mut end = 0;
    let mut extra = 0;
    loop {
        // Whatever is read between two entries is a header with its long names, which the crate keeps in memory.
        meter.headers.set(limits.headers.saturating_add(extra));
        let Some(entry) = entries.next() else {
            break;
        };
        let mut entry = entry.map_err(of_header)?;
        meter.headers.set(u64::MAX);
        count += 1;
        if count > limits.entries {
            return Err(Error::TooMuch {
                what: "entries",
                limit: limits.entries,
            });
        }
        contents.entry(&mut entry)?;
        // The size of a sparse file is not what it takes here, and can be anything.
        let sparse = entry.header().entry_type().is_gnu_sparse();
        let size = if sparse {
            entry.header().entry_size()?
        } else {
            if rest == Rest::Read {
                io::copy(&mut entry, &mut io::sink()).map_err(unwrapped)?;
            }
            entry.size()
        };
        extra = if sparse { size } else { 0 };
        end = entry.raw_file_position().saturating_add(size);
    }
    // A file that ends after an entry is one that was cut there: tar(5) has two blocks of zeros at the end.
    if meter.position.get() <= end.next_multiple_of(512) {
        return Err(Error::Truncated);
    }
    Ok(())
}

/// Where a reader is, and how much it may still read.
struct Meter {
    position: Cell<u64>,
    headers: Cell<u64>,
    limit: u64,
}

struct Metered<R> {
    inner: R,
    meter: Rc<Meter>,
}

impl<R> Metered<R> {
    fn new(inner: R, limits: &Limits) -> (Metered<R>, Rc<Meter>) {
        let meter = Rc::new(Meter {
            position: Cell::new(0),
            headers: Cell::new(u64::MAX),
            limit: limits.headers,
        });
        let metered = Metered {
            inner,
            meter: Rc::clone(&meter),
        };
        (metered, meter)
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let Meter {
            position,
            headers,
            limit,
        } = &*self.meter;
        position.set(position.get().saturating_add(count as u64));
        match headers.get().checked_sub(count as u64) {
            Some(left) => headers.set(left),
            None => {
                return Err(io::Error::other(Error::TooMuch {
                    what: "bytes in the header of one entry",
                    limit: *limit,
                }));
            }
        }
        Ok(count)
    }
}

impl<R: Seek> Seek for Metered<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = self.inner.seek(to)?;
        self.meter.position.set(position);
        Ok(position)
    }
}
