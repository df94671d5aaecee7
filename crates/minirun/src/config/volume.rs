//! `-v SRC:DST[:OPTIONS]`: a file or directory of the host's inside the container.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;

use crate::spec;

/// A bind mount as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub destination: PathBuf,
    /// Not to be written through.
    pub read_only: bool,
}

/// Why a volume is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// Too few or too many parts.
    #[error("invalid volume {0:?}: want SOURCE:DESTINATION[:ro|rw]")]
    Malformed(String),
    /// A bare word, which engines take for the name of a volume that they keep.
    #[error("invalid volume {0:?}: the source is no path")]
    Named(String),
    /// Not an absolute path below the root.
    #[error("invalid volume {0:?}: the destination is no absolute path below /")]
    Destination(String),
    /// An option that is not known.
    #[error("invalid volume {text:?}: unknown option {option:?}")]
    Option {
        /// As typed.
        text: String,
        /// The option.
        option: String,
    },
}

impl Volume {
    /// Parses what was typed; a relative source is one of `base`, the caller's directory.
    pub fn parse(text: &str, base: &Path) -> Result<Self, VolumeError> {
        let mut parts = text.split(':');
        let (Some(source), Some(destination), options, None) =
            (parts.next(), parts.next(), parts.next().unwrap_or("rw"), parts.next())
        else {
            return Err(VolumeError::Malformed(text.into()));
        };
        if source.is_empty() || text.contains('\0') {
            return Err(VolumeError::Malformed(text.into()));
        }
        if !source.contains('/') && source != "." && source != ".." {
            return Err(VolumeError::Named(text.into()));
        }
        let mut volume = Self {
            source: base.join(source).components().collect(),
            destination: destination_of(destination)
                .ok_or_else(|| VolumeError::Destination(text.into()))?,
            read_only: false,
        };
        for option in options.split(',') {
            match option {
                "ro" => volume.read_only = true,
                // Relabelling is SELinux's; where that is not in force docker takes them too.
                "rw" | "z" | "Z" => {}
                _ => {
                    return Err(VolumeError::Option { text: text.into(), option: option.into() });
                }
            }
        }
        Ok(volume)
    }

    pub(super) fn to_mount(&self) -> Mount {
        // Not "rw": that would ask to write where the host itself mounted read-only, which the
        // kernel refuses.
        let options =
            if self.read_only { &["rbind", "rprivate", "ro"][..] } else { &["rbind", "rprivate"] };
        let mut mount = spec::mount("", "bind", "", options);
        mount.set_destination(self.destination.clone()).set_source(Some(self.source.clone()));
        mount
    }
}

fn destination_of(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    let has_parent = path.components().any(|c| c == Component::ParentDir);
    let normal: PathBuf = path.components().filter(|c| *c != Component::CurDir).collect();
    (path.is_absolute() && !has_parent && normal != Path::new("/")).then_some(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(String, String, bool), VolumeError> {
        let v = Volume::parse(text, Path::new("/home/eva"))?;
        let shown = |p: PathBuf| p.to_string_lossy().into_owned();
        Ok((shown(v.source), shown(v.destination), v.read_only))
    }

    #[test]
    fn sources_are_absolute_or_of_the_callers_directory() {
        let want = |s: &str, d: &str, ro| Ok((s.to_owned(), d.to_owned(), ro));
        assert_eq!(parse("/a:/b"), want("/a", "/b", false));
        assert_eq!(parse("/a/:/b/./c/:ro"), want("/a", "/b/c", true));
        assert_eq!(parse("./src:/src:rw,z"), want("/home/eva/src", "/src", false));
        assert_eq!(parse("..:/src:ro,Z"), want("/home/eva/..", "/src", true));
        assert_eq!(parse(".:/src"), want("/home/eva", "/src", false));
    }

    #[test]
    fn what_is_no_volume_is_refused() {
        use VolumeError::{Destination, Malformed, Named};
        for text in ["/a", "", ":/b", "/a:/b:ro:rw"] {
            assert_eq!(parse(text), Err(Malformed(text.into())));
        }
        for text in ["/a:b", "/a:", "/a:/", "/a:/./", "/a:/b/../c"] {
            assert_eq!(parse(text), Err(Destination(text.into())));
        }
        assert_eq!(parse("data:/b"), Err(Named("data:/b".into())));
        for option in ["", "rw2", "shared"] {
            let text = format!("/a:/b:{option}");
            assert_eq!(parse(&text), Err(VolumeError::Option { text, option: option.into() }));
        }
    }
}
