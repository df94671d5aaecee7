//! Why a manifest, an index or a config is refused.

use ctsys::report::Explain;

use crate::exit::{EXIT_DAMAGED, EXIT_NO_PLATFORM};
use crate::platform::Platform;
use crate::verify::VerifyError;

/// Why a body is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not JSON, or not of the right form.
    #[error("cannot read {what}")]
    Malformed {
        /// `manifest`, `index`, `config`.
        what: &'static str,
        /// Where and how.
        #[source]
        source: serde_json::Error,
    },
    /// JSON that could be taken for two things (CVE-2021-41190).
    #[error("manifest is ambiguous: {0}")]
    Ambiguous(String),
    /// The form before 2016, without digests of the content.
    #[error("image is of docker's schema 1, which is not supported")]
    Schema1,
    /// Something else that registries keep: a chart, a signature, a policy.
    #[error("not a container image but an artifact of type {0:?}")]
    Artifact(String),
    /// A document of a type that is none of an image's.
    #[error("unsupported media type {0:?}, want a manifest or an index")]
    MediaType(String),
    /// A layer that cannot be unpacked without a key.
    #[error("layer {0} is encrypted, which is not supported")]
    Encrypted(String),
    /// A layer of a type that is no file system's.
    #[error("layer {digest} has the unsupported media type {media_type:?}")]
    LayerType {
        /// The layer.
        digest: String,
        /// Its type.
        media_type: String,
    },
    /// An entry that says to be an index.
    #[error("index entry {0} is a manifest, but says to be an index")]
    NoIndex(String),
    /// An entry that says to be a manifest.
    #[error("index entry {0} is an index, but says to be a manifest")]
    NoManifest(String),
    /// Indexes inside of indexes, further than any real ones.
    #[error("indexes are nested more than {0} deep")]
    IndexDepth(usize),
    /// An index that leads to very many others.
    #[error("the index leads to more than {0} others")]
    IndexCount(usize),
    /// A descriptor's embedded content.
    #[error("the data embedded for {digest} is none")]
    InlineBase64 {
        /// What it should be.
        digest: String,
        /// Where it goes wrong.
        #[source]
        source: base64::DecodeError,
    },
    /// A descriptor's embedded content is another than it says.
    #[error("the data embedded for {digest} is not what it should be")]
    Inline {
        /// What it should be.
        digest: String,
        /// How it differs.
        #[source]
        source: VerifyError,
    },
    /// A diff_id that is no digest.
    #[error("config has the invalid diff_id {0:?}")]
    DiffId(String),
    /// Manifest and config disagree.
    #[error("manifest and config disagree: got {layers} layers and {diff_ids} diff_ids")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
    /// No entry for the platform.
    #[error("no image for platform {want}: got {}", list(got))]
    NoPlatform {
        /// What was asked for.
        want: Platform,
        /// What there is.
        got: Vec<Platform>,
    },
}

impl Explain for ImageError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoPlatform { got, .. } => {
                let first = got.first()?;
                format!("choose one of them, as in --platform {first}")
            }
            Self::Schema1 => "push the image anew with a current docker, podman or skopeo".into(),
            Self::Artifact(_) => "artifacts are fetched by oras or the tool that made them".into(),
            Self::Encrypted(_) => "decrypt it first with skopeo copy --decryption-key".into(),
            Self::IndexDepth(_) | Self::IndexCount(_) => {
                "name the platform's manifest by its digest".into()
            }
            _ => return None,
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::NoPlatform { .. } => EXIT_NO_PLATFORM,
            Self::Inline { .. } => EXIT_DAMAGED,
            _ => 1,
        }
    }
}

fn list(platforms: &[Platform]) -> String {
    let names: Vec<String> = platforms.iter().map(Platform::to_string).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
