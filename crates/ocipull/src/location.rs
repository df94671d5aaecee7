//! Where an image is: in a registry, or on this machine. Pure.
//!
//! The words are those of containers-transports(5), which skopeo, podman and buildah share: a path
//! ends at its first colon. Without such a word a name is a registry's, so `oci:latest` is a
//! directory and `library/oci:latest` docker.io's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_spec::image::Digest;

use crate::reference::{ImageReference, ReferenceError};

/// What an OCI layout's directory is named with.
const LAYOUT: &str = "oci:";
/// What `docker save` writes is named with.
const DOCKER_ARCHIVE: &str = "docker-archive:";
/// What an OCI layout in a tar file is named with: archives are told apart by what is inside.
const OCI_ARCHIVE: &str = "oci-archive:";
/// Longest name of an image in a layout, in bytes: a repository, a tag and a digest.
const MAX_NAME_BYTES: usize = 512;

/// An image that is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageLocation {
    /// In a registry.
    Registry(ImageReference),
    /// In an OCI layout.
    Layout(LayoutName),
    /// In an archive.
    Archive(ArchiveName),
}

/// `oci:DIR[:NAME][@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutName {
    /// The directory.
    pub path: PathBuf,
    /// What `org.opencontainers.image.ref.name` has to say.
    pub name: Option<String>,
    /// The digest, which wins over the name.
    pub digest: Option<Digest>,
}

/// `docker-archive:FILE[:NAME]`, `oci-archive:FILE[:NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveName {
    /// The file.
    pub path: PathBuf,
    /// The image's reference or tag.
    pub name: Option<String>,
}

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// Not a registry's.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Nothing after the word.
    #[error("invalid image {0:?}: want a path after the colon")]
    NoPath(String),
    /// A name that none can have in a layout.
    #[error("invalid image {typed:?}: name {name:?}: {reason}")]
    Name {
        /// The whole.
        typed: String,
        /// The part.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl LocationError {
    /// The remedy, in one line.
    pub fn hint(&self) -> String {
        match self {
            Self::Reference(error) => error.hint(),
            _ => {
                "write oci:DIR, oci:DIR:TAG, docker-archive:FILE or docker-archive:FILE:NAME".into()
            }
        }
    }
}

impl FromStr for ImageLocation {
    type Err = LocationError;

    fn from_str(typed: &str) -> Result<Self, LocationError> {
        if let Some(rest) = typed.strip_prefix(LAYOUT) {
            return LayoutName::parse(typed, rest).map(Self::Layout);
        }
        for word in [DOCKER_ARCHIVE, OCI_ARCHIVE] {
            if let Some(rest) = typed.strip_prefix(word) {
                let (path, name) = split(typed, rest)?;
                return Ok(Self::Archive(ArchiveName { path, name }));
            }
        }
        Ok(Self::Registry(typed.parse()?))
    }
}

impl ImageLocation {
    /// The tag or name that the image has where it is, as far as that was typed; `latest` in a
    /// registry where nothing else was.
    pub fn tag(&self) -> Option<&str> {
        match self {
            Self::Registry(reference) => reference.tag(),
            Self::Layout(layout) => layout.name.as_deref(),
            // Of a reference in an archive the tag.
            Self::Archive(archive) => {
                let name = archive.name.as_deref()?;
                let after = name.rsplit_once(':').map(|(_, tag)| tag);
                Some(after.filter(|tag| !tag.contains('/')).unwrap_or(name))
            }
        }
    }
}

impl fmt::Display for ImageLocation {
    /// Written out: a reference in full, a path as an absolute one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Layout(layout) => layout.fmt(f),
            Self::Archive(archive) => {
                write!(f, "{DOCKER_ARCHIVE}{}", absolute(&archive.path).display())?;
                archive.name.iter().try_for_each(|name| write!(f, ":{name}"))
            }
        }
    }
}

impl LayoutName {
    /// Whether a text is meant to be one.
    pub fn is_meant(typed: &str) -> bool {
        typed.starts_with(LAYOUT)
    }

    fn parse(typed: &str, rest: &str) -> Result<Self, LocationError> {
        // A digest has a colon of its own, and a name may have an @.
        let (rest, digest) = match rest.rsplit_once('@') {
            Some((before, text)) if text.starts_with("sha") => match text.parse::<Digest>() {
                Ok(digest) => (before, Some(digest)),
                Err(_) => (rest, None),
            },
            _ => (rest, None),
        };
        let (path, name) = split(typed, rest)?;
        Ok(Self { path, name, digest })
    }
}

impl FromStr for LayoutName {
    type Err = LocationError;

    /// Parses `oci:DIR[:NAME]`, a place to write to.
    fn from_str(typed: &str) -> Result<Self, LocationError> {
        let rest = typed.strip_prefix(LAYOUT);
        let parsed = Self::parse(typed, rest.ok_or_else(|| LocationError::NoPath(typed.into()))?)?;
        if let Some(name) = parsed.name.as_deref().filter(|name| !is_ref_name(name)) {
            let reason = "want letters and digits, separated by one of - . _ : @ + or /";
            return Err(LocationError::Name { typed: typed.into(), name: name.into(), reason });
        }
        Ok(parsed)
    }
}

impl fmt::Display for LayoutName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{LAYOUT}{}", absolute(&self.path).display())?;
        self.name.iter().try_for_each(|name| write!(f, ":{name}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

fn split(typed: &str, rest: &str) -> Result<(PathBuf, Option<String>), LocationError> {
    let (path, name) = match rest.split_once(':') {
        Some((path, name)) => (path, Some(name).filter(|name| !name.is_empty())),
        None => (rest, None),
    };
    if path.is_empty() {
        return Err(LocationError::NoPath(typed.into()));
    }
    if let Some(name) = name.filter(|name| name.len() > MAX_NAME_BYTES) {
        let reason = "longer than 512 bytes";
        return Err(LocationError::Name { typed: typed.into(), name: name.into(), reason });
    }
    Ok((path.into(), name.map(str::to_owned)))
}

/// image-spec, annotations.md: components with slashes between them, each
/// `alphanum (separator alphanum)*`, a separator being one of `-._:@+` or `--`.
fn is_ref_name(name: &str) -> bool {
    let is_component = |component: &str| {
        let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        ends(component.bytes().next())
            && ends(component.bytes().last())
            && component
                .split(|c: char| c.is_ascii_alphanumeric())
                .all(|gap| matches!(gap, "" | "-" | "." | "_" | ":" | "@" | "+" | "--"))
    };
    name.split('/').all(is_component)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "sha256:a1801b843b1bfaf77c501e7a6d3f709401a1e0c83863037fa3aab063a7fdb9dc";

    fn layout(typed: &str) -> (String, Option<String>, Option<String>) {
        match typed.parse().unwrap() {
            ImageLocation::Layout(LayoutName { path, name, digest }) => {
                (path.display().to_string(), name, digest.map(|d| d.to_string()))
            }
            other => panic!("{typed}: {other:?}"),
        }
    }

    #[test]
    fn a_layouts_path_ends_at_the_first_colon() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(layout("oci:dir"), ("dir".into(), None, None));
        assert_eq!(layout("oci:/a/b:v1"), ("/a/b".into(), some("v1"), None));
        assert_eq!(layout("oci:a:r.io/b:v1"), ("a".into(), some("r.io/b:v1"), None));
        assert_eq!(layout("oci:a:"), ("a".into(), None, None));
        assert_eq!(layout(&format!("oci:a@{SHA}")), ("a".into(), None, some(SHA)));
        assert_eq!(layout(&format!("oci:a:v1@{SHA}")), ("a".into(), some("v1"), some(SHA)));
        assert_eq!(layout("oci:me@home:v1"), ("me@home".into(), some("v1"), None));
    }

    #[test]
    fn the_word_tells_an_archive_or_a_registry() {
        for word in ["docker-archive", "oci-archive"] {
            let archive: ImageLocation = format!("{word}:x.tar:app:v1").parse().unwrap();
            let name = ArchiveName { path: "x.tar".into(), name: Some("app:v1".into()) };
            assert_eq!(archive, ImageLocation::Archive(name));
        }
        let registry: ImageLocation = "library/oci:v1".parse().unwrap();
        assert_eq!(registry.to_string(), "docker.io/library/oci:v1");
        for (typed, tag) in [
            ("a", Some("latest")),
            ("a:v1", Some("v1")),
            (&format!("a@{SHA}"), None),
            ("oci:d:v2", Some("v2")),
            ("oci:d", None),
            ("docker-archive:f:r.io:5000/a:v3", Some("v3")),
            ("docker-archive:f:v4", Some("v4")),
            ("docker-archive:f", None),
        ] {
            assert_eq!(typed.parse::<ImageLocation>().unwrap().tag(), tag, "{typed}");
        }
        let here = std::env::current_dir().unwrap();
        let layout: ImageLocation = "oci:d:v1".parse().unwrap();
        assert_eq!(layout.to_string(), format!("oci:{}:v1", here.join("d").display()));
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for typed in ["oci:", "oci::v1", "docker-archive:", "docker-archive::a", "A/b:-"] {
            let parsed = typed.parse::<ImageLocation>();
            assert!(parsed.is_err(), "{typed}");
        }
        for typed in ["oci:d:a b", "oci:d:-a", "oci:d:a..b", "oci:d:a//b", "oci:d:a\nb"] {
            assert!(typed.parse::<LayoutName>().is_err(), "{typed}");
        }
        for typed in ["oci:d", "oci:d:v1.0-rc_1", "oci:d:r.io:5000/a/b:v1@x", "oci:d:a--b"] {
            assert!(typed.parse::<LayoutName>().is_ok(), "{typed}");
        }
    }
}
