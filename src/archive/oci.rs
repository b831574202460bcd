//! The OCI image layout: `oci-layout`, `index.json`, and blobs that are named by their digests.
//!
//! A checkpoint is in it as an index whose manifests are containerd's parts of a checkpoint, of which
//! `application/vnd.containerd.container.criu.checkpoint.criu.tar` holds the images; or as an image with one layer, which is
//! what CRI-O and buildah make of an archive.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use criu_signals_images::Shown as _;
use serde_json::Value;

use super::bounds::Error;

/// The file that makes a folder a layout.
pub(super) const LAYOUT: &str = "oci-layout";
/// The file that names the manifests.
pub(super) const INDEX: &str = "index.json";
/// The size of a manifest, in bytes, is no larger than this: registries refuse more than 4 MiB.
pub(super) const DOCUMENT: u64 = 4 << 20;
/// How many of them are read.
pub(super) const DOCUMENTS: usize = 64;

/// Digests of blobs, each once.
pub(super) type Wanted = BTreeSet<String>;

/// Reads the blob with this digest; `None` if there is none.
pub(super) type Blobs<'b> = dyn FnMut(&str) -> Result<Option<Vec<u8>>, Error> + 'b;

/// 64 hexadecimal digits, and so no path.
pub(super) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// No link in the layout is followed, and nothing but a regular file is read.
pub(super) fn regular(path: &Path) -> Result<File, Error> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.shown())))?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(Error::Layout(format!(
            "{} is not a regular file",
            path.shown()
        )))
    }
}

/// The blobs that may hold images, by the index and the manifests that it names.
pub(super) fn wanted(index: &[u8], blob: &mut Blobs<'_>) -> Result<Wanted, Error> {
    let mut wanted = Wanted::new();
    let mut documents = vec![index.to_vec()];
    let mut seen = Wanted::new();
    while let Some(bytes) = documents.pop() {
        let document: Value = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Layout(format!("a manifest is no JSON: {e}")))?;
        for (digest, kind) in descriptors(&document) {
            match Kind::from_media_type(&kind) {
                Kind::Images => {
                    wanted.insert(digest);
                }
                Kind::Manifest if seen.insert(digest.clone()) => {
                    if seen.len() > DOCUMENTS {
                        return Err(Error::TooMuch {
                            what: "manifests",
                            limit: DOCUMENTS as u64,
                        });
                    }
                    let missing = || Error::Layout(format!("the blob sha256:{digest} is missing"));
                    documents.push(blob(&digest)?.ok_or_else(missing)?);
                }
                Kind::Manifest | Kind::Other => {}
            }
        }
    }
    if wanted.is_empty() {
        return Err(Error::Layout("no manifest names a layer".to_owned()));
    }
    Ok(wanted)
}

/// Digests and media types of an index or of a manifest. Those of other algorithms than SHA-256 are of no use here.
fn descriptors(document: &Value) -> Vec<(String, String)> {
    let lists = ["manifests", "layers"].map(|list| document.get(list).and_then(Value::as_array));
    let one = |descriptor: &Value| {
        let text = |name| descriptor.get(name).and_then(Value::as_str);
        let digest = text("digest")?.strip_prefix("sha256:")?;
        is_digest(digest).then(|| {
            let kind = text("mediaType").unwrap_or_default();
            (digest.to_owned(), kind.to_owned())
        })
    };
    lists
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(one)
        .collect()
}

enum Kind {
    Manifest,
    Images,
    Other,
}

impl Kind {
    fn from_media_type(media_type: &str) -> Kind {
        match media_type {
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json"
            | "application/vnd.docker.distribution.manifest.v2+json" => Kind::Manifest,
            "application/vnd.containerd.container.criu.checkpoint.criu.tar"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Kind::Images,
            other if other.starts_with("application/vnd.oci.image.layer.v1.tar") => Kind::Images,
            _ => Kind::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(of: char) -> String {
        of.to_string().repeat(64)
    }

    fn descriptor(of: char, kind: &str) -> String {
        let digest = digest(of);
        format!(r#"{{"mediaType":"{kind}","digest":"sha256:{digest}","size":1}}"#)
    }

    const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

    #[test]
    fn containerd_s_index() {
        let outer = format!(r#"{{"manifests":[{}]}}"#, descriptor('a', INDEX_TYPE));
        let criu = "application/vnd.containerd.container.criu.checkpoint.criu.tar";
        let inner = format!(r#"{{"manifests":[{}]}}"#, descriptor('b', criu));
        let found = wanted(outer.as_bytes(), &mut |asked| {
            assert_eq!(asked, digest('a'));
            Ok(Some(inner.clone().into_bytes()))
        });
        assert_eq!(
            found.unwrap().into_iter().collect::<Vec<_>>(),
            [digest('b')]
        );
    }

    #[test]
    fn a_circle_ends() {
        let circle = format!(r#"{{"manifests":[{}]}}"#, descriptor('a', INDEX_TYPE));
        let mut asked = 0;
        let found = wanted(circle.as_bytes(), &mut |_| {
            asked += 1;
            Ok(Some(circle.clone().into_bytes()))
        });
        assert!(matches!(found, Err(Error::Layout(_))));
        assert_eq!(asked, 1);
    }

    #[test]
    fn no_path_is_a_digest() {
        for wrong in ["", "../../etc/passwd", &"A".repeat(64), &"a/".repeat(32)] {
            assert!(!is_digest(wrong), "{wrong}");
        }
        let index = r#"{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "digest":"sha256:../../../../etc/passwd"}]}"#;
        wanted(index.as_bytes(), &mut |asked| panic!("{asked}")).unwrap_err();
    }
}
