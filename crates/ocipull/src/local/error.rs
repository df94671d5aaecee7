//! Why an image on this machine cannot be read.

use std::io;
use std::path::PathBuf;

use ctsys::SysError;
use ctsys::report::Explain;

use crate::exit::{EXIT_DAMAGED, EXIT_NOT_FOUND, EXIT_OVER_LIMIT};
use crate::verify::VerifyError;

/// How many names an error lists.
const MAX_SHOWN_NAMES: usize = 10;

/// Why an image on this machine cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The directory or file cannot be opened.
    #[error("cannot open {path:?}")]
    Open {
        /// What the user named.
        path: PathBuf,
        /// The cause.
        #[source]
        source: SysError,
    },
    /// A directory that is something else.
    #[error("{path:?} is no OCI layout: {reason}")]
    NoLayout {
        /// What the user named.
        path: PathBuf,
        /// What it lacks.
        reason: &'static str,
    },
    /// A layout of another version.
    #[error("{path:?} is an OCI layout of version {version:?}, want 1.x.x")]
    Version {
        /// What the user named.
        path: PathBuf,
        /// As it says.
        version: String,
    },
    /// A file that has to be JSON of a known form.
    #[error("cannot understand {name} of {path:?}")]
    Json {
        /// `index.json`, `manifest.json`.
        name: &'static str,
        /// What the user named.
        path: PathBuf,
        /// Where it goes wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A file of the layout's own.
    #[error("cannot read {name} of {path:?}")]
    File {
        /// `index.json`, `oci-layout`.
        name: String,
        /// What the user named.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<LocalError>,
    },
    /// One of a blob's.
    #[error("cannot read blob {digest} of {shown}")]
    Blob {
        /// Which.
        digest: String,
        /// Where.
        shown: String,
        /// Why.
        #[source]
        source: Box<LocalError>,
    },
    /// Nothing of that name.
    #[error("it is not there")]
    Missing,
    /// A link, a directory, a device.
    #[error("a link or something else that is no regular file")]
    NoFile,
    /// The system's refusal.
    #[error(transparent)]
    System(#[from] SysError),
    /// Too large for what it has to be.
    #[error("it is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// Reading failed.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// Not the bytes that the digest means.
    #[error(transparent)]
    Content(VerifyError),
    /// No image of that name.
    #[error("no image {wanted:?} in {path:?}: got {}", list(names))]
    NoImage {
        /// As typed.
        wanted: String,
        /// What the user named.
        path: PathBuf,
        /// What there is.
        names: Vec<String>,
    },
    /// There is nothing in it.
    #[error("{0:?} holds no image")]
    Empty(PathBuf),
    /// Several, and none was named.
    #[error("{path:?} holds several images: {}", list(names))]
    Ambiguous {
        /// What the user named.
        path: PathBuf,
        /// What there is.
        names: Vec<String>,
    },
    /// An archive that has to be copied, and cannot be.
    #[error("cannot copy {path:?} into a temporary file")]
    Spool {
        /// What the user named.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An archive that is something else, or damaged.
    #[error("{path:?} is no image archive: {reason}")]
    NoArchive {
        /// What the user named.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Explain for LocalError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Open { .. } => "check the path and its mode".into(),
            Self::NoLayout { .. } => {
                "name a directory with an oci-layout file, as skopeo and umoci make them".into()
            }
            Self::Spool { .. } => {
                "a compressed archive needs room for all of it; TMPDIR says where".into()
            }
            Self::NoArchive { .. } => "name a file that docker save or skopeo wrote".into(),
            Self::NoImage { names, .. } | Self::Ambiguous { names, .. } => {
                let first = names.first()?;
                format!("name one of them, as in :{first}")
            }
            Self::Blob { source, .. } | Self::File { source, .. } => return source.hint(),
            Self::NoFile => "links are not followed; copy the directory with cp -rL".into(),
            Self::Missing => "copy the image anew, as a whole".into(),
            Self::Content(_) => "the copy is damaged; make it anew".into(),
            _ => return None,
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Content(_) => EXIT_DAMAGED,
            Self::NoImage { .. } => EXIT_NOT_FOUND,
            Self::TooLarge { .. } => EXIT_OVER_LIMIT,
            Self::Blob { source, .. } | Self::File { source, .. } => source.exit_code(),
            _ => 1,
        }
    }
}

fn list(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(MAX_SHOWN_NAMES).map(|n| format!("{n:?}")).collect();
    match names.len() {
        0 => "none with a name".into(),
        all if all > MAX_SHOWN_NAMES => {
            format!("{} and {} more", shown.join(", "), all - MAX_SHOWN_NAMES)
        }
        _ => shown.join(", "),
    }
}
