//! Which of several images is meant.

use std::path::Path;

use oci_spec::image::{Descriptor, ImageIndex};

use super::{LocalError, REF_NAME};
use crate::reference::ImageReference;

/// Where docker and containerd write the whole reference.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// An image of a layout or an archive.
#[derive(Debug, Clone)]
pub struct NamedImage<T> {
    /// What it is called, the best name first.
    pub names: Vec<String>,
    /// What tells it from others: one image may be there under several names.
    pub key: String,
    /// The image.
    pub image: T,
}

impl NamedImage<Descriptor> {
    /// All that an index.json, from `path`, lists.
    pub fn list(path: &Path, index_json: &[u8]) -> Result<Vec<Self>, LocalError> {
        let index: ImageIndex = serde_json::from_slice(index_json).map_err(|source| {
            LocalError::Json { name: "index.json", path: path.to_path_buf(), source }
        })?;
        Ok(index.manifests().iter().cloned().map(Self::new).collect())
    }

    fn new(image: Descriptor) -> Self {
        let annotations = image.annotations().as_ref();
        let of = |key: &&str| annotations.and_then(|all| all.get(*key)).cloned();
        let names = [REF_NAME, CONTAINERD_NAME].iter().filter_map(of).collect();
        Self { names, key: image.digest().to_string(), image }
    }
}

impl<T> NamedImage<T> {
    /// Whether `wanted` is one of its names, as it stands or written out: `app:v1` for
    /// `docker.io/library/app:v1`.
    fn is_called(&self, wanted: &str) -> bool {
        let written_out = |name: &str| name.parse::<ImageReference>().map(|r| r.to_string()).ok();
        let full = written_out(wanted);
        let is_reference = |name: &str| name.contains(['/', ':']) && full.is_some();
        let mut names = self.names.iter();
        names.any(|name| name == wanted || (is_reference(name) && written_out(name) == full))
    }
}

/// The image of that name in `path`, or the only one there.
pub fn choose<'a, T>(
    path: &Path,
    images: &'a [NamedImage<T>],
    wanted: Option<&str>,
) -> Result<&'a T, LocalError> {
    let candidates: Vec<&NamedImage<T>> = match wanted {
        Some(wanted) => images.iter().filter(|image| image.is_called(wanted)).collect(),
        None => images.iter().collect(),
    };
    let path = path.to_path_buf();
    let names = || images.iter().filter_map(|image| image.names.first().cloned()).collect();
    match (candidates.as_slice(), wanted) {
        ([], Some(wanted)) => {
            Err(LocalError::NoImage { wanted: wanted.into(), path, names: names() })
        }
        ([], None) => Err(LocalError::Empty(path)),
        ([first, rest @ ..], _) if rest.iter().all(|other| other.key == first.key) => {
            Ok(&first.image)
        }
        _ => Err(LocalError::Ambiguous { path, names: names() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn images(named: &[(usize, &str, &str)]) -> Vec<NamedImage<Descriptor>> {
        let manifests: Vec<_> = named
            .iter()
            .map(|(n, tag, full)| {
                let mut annotations = serde_json::Map::new();
                for (key, value) in [(REF_NAME, tag), (CONTAINERD_NAME, full)] {
                    if !value.is_empty() {
                        annotations.insert(key.into(), (*value).into());
                    }
                }
                json!({"mediaType": "a/b", "size": 1, "digest": format!("sha256:{n:064x}"),
                    "annotations": annotations})
            })
            .collect();
        let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
        NamedImage::list(Path::new("d"), index.as_bytes()).unwrap()
    }

    fn chosen(images: &[NamedImage<Descriptor>], wanted: Option<&str>) -> Result<u8, String> {
        let descriptor = choose(Path::new("d"), images, wanted).map_err(|e| e.to_string())?;
        Ok(u8::from_str_radix(&descriptor.digest().digest()[62..], 16).unwrap())
    }

    #[test]
    fn one_is_found_by_its_tag_or_its_reference() {
        let docker = images(&[
            (1, "v1", "docker.io/library/app:v1"),
            (2, "v1", "quay.io/team/app:v1"),
            (3, "v2", ""),
            (4, "r.io/x:v3", ""),
        ]);
        for (wanted, want) in [
            ("app:v1", 1),
            ("docker.io/library/app:v1", 1),
            ("quay.io/team/app:v1", 2),
            ("v2", 3),
            ("r.io/x:v3", 4),
        ] {
            assert_eq!(chosen(&docker, Some(wanted)), Ok(want), "{wanted}");
        }
        assert!(chosen(&docker, Some("v1")).unwrap_err().contains("several images"));
        assert!(chosen(&docker, None).unwrap_err().contains("several images"));
        let error = chosen(&docker, Some("no")).unwrap_err();
        assert_eq!(error, "no image \"no\" in \"d\": got \"v1\", \"v1\", \"v2\", \"r.io/x:v3\"");
    }

    #[test]
    fn the_only_one_needs_no_name() {
        assert_eq!(chosen(&images(&[(7, "", "")]), None), Ok(7));
        assert_eq!(chosen(&images(&[(7, "a", ""), (7, "b", "")]), None), Ok(7));
        assert!(chosen(&images(&[]), None).unwrap_err().contains("no image"));
    }
}
