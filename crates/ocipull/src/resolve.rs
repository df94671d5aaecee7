//! From a reference to one platform's image, as containerd walks it: HEAD the name, GET the index
//! by digest, GET the platform's manifest by digest, GET its config.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use ocipull::{event::Silent, platform::Platform, registry::Registry, resolve};
//!
//! let reference = "quay.io/centos/centos:stream9".parse()?;
//! let registry = Registry::new(&reference, &Default::default(), std::sync::Arc::new(Silent))?;
//! let named = resolve::name(&registry, &reference).await?;
//! println!("{reference} is {} now", named.digest);
//! let image = resolve::resolve(&registry, named, &Platform::host()).await?;
//! println!("{} has {} layers", image.platform, image.manifest.layers.len());
//! # Ok(())
//! # }
//! ```

use ctsys::report::Explain;
use oci_spec::image::Digest;

use crate::image::{Choice, Config, Document, ImageError, MAX_CONFIG_BYTES, Manifest, Search};
use crate::platform::Platform;
use crate::reference::ImageReference;
use crate::registry::{Body, Head, Problem, Registry, RegistryError};
use crate::verify;

/// Why a reference could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The registry did not give what it was asked for.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What it gave is no image that can be unpacked.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl Explain for ResolveError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Image(error) => error.hint(),
        }
    }
}

/// What a reference stands for at this moment: a digest, and the document if it had to be fetched.
#[derive(Debug)]
pub struct Named {
    /// Of the index, or of the manifest where there is no index.
    pub digest: Digest,
    size_bytes: Option<u64>,
    body: Option<Body>,
}

/// One platform's image, ready to be fetched.
#[derive(Debug)]
pub struct Resolved {
    /// What the name stands for: the index's digest, or the manifest's where there is no index.
    pub resolved_digest: Digest,
    /// Of the platform's manifest.
    pub manifest_digest: Digest,
    /// The platform that was chosen.
    pub platform: Platform,
    /// The manifest.
    pub manifest: Box<Manifest>,
}

/// Asks what the reference stands for: one HEAD, and a GET only where HEAD does not say.
pub async fn name(registry: &Registry, reference: &ImageReference) -> Result<Named, ResolveError> {
    let selector = reference.selector();
    let head = registry.head_manifest(selector).await?;
    // A length of nothing is what some proxies answer HEAD with, not a manifest's.
    let size_of = |head: &Head| head.size_bytes.filter(|bytes| *bytes > 0);
    let stated = head.and_then(|head| Some((size_of(&head), head.digest?)));
    if let Some((size_bytes, digest)) = stated {
        if let Some(want) = reference.digest()
            && *want != digest
        {
            let problem = Problem::DigestHeader { got: digest.to_string(), want: want.to_string() };
            let url = format!("{reference}");
            return Err(RegistryError::Refused { method: "HEAD", url, problem }.into());
        }
        return Ok(Named { digest, size_bytes, body: None });
    }
    // By digest the body is checked against that digest; by tag its own hash becomes the digest.
    let body = registry.get_manifest(selector, None).await?;
    let digest = match reference.digest() {
        Some(digest) => digest.clone(),
        None => verify::sha256(&body.bytes).map_err(|cause| RegistryError::Content {
            method: "GET",
            url: reference.to_string(),
            cause,
        })?,
    };
    Ok(Named { digest, size_bytes: None, body: Some(body) })
}

/// Finds the image for `wanted` behind `named`.
pub async fn resolve(
    registry: &Registry,
    named: Named,
    wanted: &Platform,
) -> Result<Resolved, ResolveError> {
    let body = match named.body {
        Some(body) => body,
        None => registry.get_manifest(named.digest.as_ref(), named.size_bytes).await?,
    };
    let index = match Document::parse(&body.bytes, &body.media_type)? {
        Document::Index(index) => index,
        Document::Manifest(manifest) => {
            return Ok(Resolved {
                resolved_digest: named.digest.clone(),
                manifest_digest: named.digest,
                platform: wanted.clone(),
                manifest,
            });
        }
    };
    let mut search = Search::new(wanted, &index);
    while let Some(nested) = search.next_index()? {
        let body = registry.get_manifest(nested.digest().as_ref(), Some(nested.size())).await?;
        match Document::parse(&body.bytes, &body.media_type)? {
            Document::Index(index) => search.look(&index),
            Document::Manifest(_) => return Err(ImageError::NoIndex(nested.digest().to_string()).into()),
        }
    }
    let Choice { platform, descriptor } = search.finish()?;
    let body = registry.get_manifest(descriptor.digest().as_ref(), Some(descriptor.size())).await?;
    match Document::parse(&body.bytes, &body.media_type)? {
        Document::Manifest(manifest) => Ok(Resolved {
            resolved_digest: named.digest,
            manifest_digest: descriptor.digest().clone(),
            platform: platform.unwrap_or_else(|| wanted.clone()),
            manifest,
        }),
        Document::Index(_) => Err(ImageError::NoManifest(descriptor.digest().to_string()).into()),
    }
}

/// Fetches the image's config and checks that it belongs to the manifest and to the platform: a
/// tag without an index says its platform nowhere else.
pub async fn config(
    registry: &Registry,
    resolved: &mut Resolved,
    wanted: &Platform,
) -> Result<Config, ResolveError> {
    let descriptor = &resolved.manifest.config;
    let (digest, size_bytes) = (descriptor.digest(), descriptor.size());
    let bytes = registry.get_blob(digest, size_bytes, "a config", MAX_CONFIG_BYTES).await?;
    let config = Config::parse(&bytes)?;
    config.check(&resolved.manifest)?;
    if resolved.resolved_digest == resolved.manifest_digest {
        if wanted.suits(&config.platform).is_none() {
            let got = vec![config.platform];
            return Err(ImageError::NoPlatform { want: wanted.clone(), got }.into());
        }
        resolved.platform = config.platform.clone();
    }
    Ok(config)
}
