//! From a reference to one platform's image, as containerd walks it: HEAD the name, GET the index
//! by digest, GET the platform's manifest by digest, GET its config.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use ocipull::{event::Silent, platform::Platform, registry::Registry, resolve, source::Source};
//! use ocipull::reference::ImageReference;
//!
//! let reference: ImageReference = "quay.io/centos/centos:stream9".parse()?;
//! let registry = Registry::new(&reference, &Default::default(), std::sync::Arc::new(Silent))?;
//! let source = Source::registry(registry, reference);
//! let named = resolve::name(&source, None).await?;
//! println!("{source} is {} now", named.digest);
//! let image = resolve::resolve(&source, None, named, &Platform::host()).await?;
//! println!("{} has {} layers", image.platform, image.manifest.layers.len());
//! # Ok(())
//! # }
//! ```

use ctsys::report::Explain;
use oci_spec::image::{Descriptor, DescriptorBuilder, Digest, MediaType};

use crate::cache::{Cache, Claim, Turn};
use crate::image::{
    Choice, Config, Document, ImageError, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, Search,
    inline_data,
};
use crate::local::LocalError;
use crate::platform::Platform;
use crate::reference::ImageReference;
use crate::registry::{Body, Head, Problem, Registry, RegistryError};
use crate::source::{Origin, Source};
use crate::verify;

/// Why a reference could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The registry did not give what it was asked for.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What is on this machine is not what it should be.
    #[error(transparent)]
    Local(Box<LocalError>),
    /// What it gave is no image that can be unpacked.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Nobody is to be asked, and it was never pulled.
    #[error("{0} is not in the cache, and --offline keeps from asking for it")]
    NotCached(String),
}

impl From<LocalError> for ResolveError {
    fn from(error: LocalError) -> Self {
        Self::Local(Box::new(error))
    }
}

impl Explain for ResolveError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Local(error) => error.hint(),
            Self::Image(error) => error.hint(),
            Self::NotCached(_) => {
                Some("pull it once without --offline; ocipull cache ls shows what is there".into())
            }
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Registry(error) => error.exit_code(),
            Self::Local(error) => error.exit_code(),
            Self::Image(error) => error.exit_code(),
            Self::NotCached(_) => 1,
        }
    }
}

/// What a reference stands for at this moment: a digest, and the document if it had to be fetched.
#[derive(Debug)]
pub struct Named {
    /// Of the index, or of the manifest where there is no index.
    pub digest: Digest,
    size_bytes: Option<u64>,
    /// Its media type, if that was said.
    media_type: String,
    body: Option<Body>,
}

impl Named {
    /// A digest that is known already; nothing has to be asked for it.
    pub fn by_digest(digest: Digest) -> Self {
        Self { digest, size_bytes: None, media_type: String::new(), body: None }
    }
}

/// What a name stands for, fetched and checked.
#[derive(Debug)]
pub struct Root {
    /// As an OCI layout's index.json has it.
    pub descriptor: Descriptor,
    /// As it was served.
    pub bytes: Vec<u8>,
    /// What it says.
    pub document: Document,
}

/// One platform's image, ready to be fetched.
#[derive(Debug)]
pub struct Resolved {
    /// What the name stands for: the index's digest, or the manifest's where there is no index.
    pub resolved_digest: Digest,
    /// Of the platform's manifest.
    pub manifest_digest: Digest,
    /// Of the platform's manifest, as an OCI layout's index.json has it.
    pub descriptor: Descriptor,
    /// The platform that was chosen.
    pub platform: Platform,
    /// Whether an index says so; else the config has to.
    has_stated_platform: bool,
    /// The manifest.
    pub manifest: Box<Manifest>,
    /// The manifest, as it was served.
    pub bytes: Vec<u8>,
}

/// Asks what the name stands for: in a registry one HEAD, and a GET only where HEAD does not say.
/// Where nobody is to be asked, the cache says what it stood for.
pub async fn name(source: &Source, cache: Option<&Cache>) -> Result<Named, ResolveError> {
    match &source.origin {
        Origin::Local(image) => Ok(Named {
            digest: image.root.digest().clone(),
            size_bytes: Some(image.root.size()),
            media_type: image.root.media_type().to_string(),
            body: None,
        }),
        Origin::Registry(registry, reference) if registry.is_offline() => {
            cached_name(cache, reference)
        }
        Origin::Registry(registry, reference) => ask_name(registry, cache, reference).await,
    }
}

async fn ask_name(
    registry: &Registry,
    cache: Option<&Cache>,
    reference: &ImageReference,
) -> Result<Named, ResolveError> {
    let selector = reference.selector();
    let head = registry.head_manifest(selector).await?;
    // A length of nothing is what some proxies answer HEAD with, not a manifest's.
    let size_of = |head: &Head| head.size_bytes.filter(|bytes| *bytes > 0);
    let stated = head
        .and_then(|head| Some((size_of(&head), head.digest?, head.media_type.unwrap_or_default())));
    if let Some((size_bytes, digest, media_type)) = stated {
        if let Some(want) = reference.digest()
            && *want != digest
        {
            let problem = Problem::DigestHeader { got: digest.to_string(), want: want.to_string() };
            let url = format!("{reference}");
            return Err(RegistryError::Refused { method: "HEAD", url, problem }.into());
        }
        return Ok(Named { digest, size_bytes, media_type, body: None });
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
    if let Some(cache) = cache
        && let Some(Claim::Mine(partial)) = cache.claim(&digest)
    {
        cache.store(&digest, partial, &body.bytes);
    }
    Ok(Named { digest, size_bytes: None, media_type: String::new(), body: Some(body) })
}

fn cached_name(cache: Option<&Cache>, reference: &ImageReference) -> Result<Named, ResolveError> {
    let known = cache.and_then(|cache| cache.lookup(&reference.to_string()));
    // One that is named by its digest may be there under another name.
    match known.or_else(|| reference.digest().cloned()) {
        Some(digest) => {
            Ok(Named { digest, size_bytes: None, media_type: String::new(), body: None })
        }
        None => Err(ResolveError::NotCached(reference.to_string())),
    }
}

/// Fetches what `named` stands for.
pub async fn root(
    source: &Source,
    cache: Option<&Cache>,
    named: Named,
) -> Result<Root, ResolveError> {
    let body = match named.body {
        Some(body) => body,
        None => {
            let known = (named.size_bytes, named.media_type.as_str());
            document(source, cache, &named.digest, known).await?
        }
    };
    let document = Document::parse(&body.bytes, &body.media_type)?;
    let descriptor = descriptor(&document, &body, &named.digest)?;
    Ok(Root { descriptor, bytes: body.bytes, document })
}

/// Finds the image for `wanted` behind `named`.
pub async fn resolve(
    source: &Source,
    cache: Option<&Cache>,
    named: Named,
    wanted: &Platform,
) -> Result<Resolved, ResolveError> {
    let root = root(source, cache, named).await?;
    choose(source, cache, root, wanted).await
}

/// Finds the image for `wanted` behind `root`, through as many indexes as it takes.
pub async fn choose(
    source: &Source,
    cache: Option<&Cache>,
    root: Root,
    wanted: &Platform,
) -> Result<Resolved, ResolveError> {
    let index = match root.document {
        Document::Index(index) => index,
        Document::Manifest(manifest) => {
            return Ok(Resolved {
                resolved_digest: root.descriptor.digest().clone(),
                manifest_digest: root.descriptor.digest().clone(),
                descriptor: root.descriptor,
                platform: wanted.clone(),
                has_stated_platform: false,
                manifest,
                bytes: root.bytes,
            });
        }
    };
    let mut search = Search::new(wanted, &index);
    while let Some(nested) = search.next_index()? {
        let body = entry(source, cache, &nested).await?;
        match Document::parse(&body.bytes, &body.media_type)? {
            Document::Index(index) => search.look(&index),
            Document::Manifest(_) => {
                return Err(ImageError::NoIndex(nested.digest().to_string()).into());
            }
        }
    }
    let Choice { platform, descriptor: chosen } = search.finish()?;
    let body = entry(source, cache, &chosen).await?;
    let document = Document::parse(&body.bytes, &body.media_type)?;
    let descriptor = descriptor(&document, &body, chosen.digest())?;
    match document {
        Document::Manifest(manifest) => Ok(Resolved {
            resolved_digest: root.descriptor.digest().clone(),
            manifest_digest: chosen.digest().clone(),
            descriptor,
            has_stated_platform: platform.is_some(),
            platform: platform.unwrap_or_else(|| wanted.clone()),
            manifest,
            bytes: body.bytes,
        }),
        Document::Index(_) => Err(ImageError::NoManifest(chosen.digest().to_string()).into()),
    }
}

/// Fetches the image's config and checks that it belongs to the manifest and to the platform: a
/// tag without an index says its platform nowhere else.
pub async fn config(
    source: &Source,
    cache: Option<&Cache>,
    resolved: &mut Resolved,
    wanted: &Platform,
) -> Result<Config, ResolveError> {
    let config = Config::parse(&config_bytes(source, cache, &resolved.manifest.config).await?)?;
    config.check(&resolved.manifest)?;
    if !resolved.has_stated_platform {
        if wanted.suits(&config.platform).is_none() {
            let got = vec![config.platform];
            return Err(ImageError::NoPlatform { want: wanted.clone(), got }.into());
        }
        resolved.platform = config.platform.clone();
    }
    Ok(config)
}

/// Fetches a config as it is, checked by its digest.
pub async fn config_bytes(
    source: &Source,
    cache: Option<&Cache>,
    config: &Descriptor,
) -> Result<Vec<u8>, ResolveError> {
    if let Some(bytes) = inline_data(config)? {
        return Ok(bytes);
    }
    let (digest, size_bytes) = (config.digest(), config.size());
    let registry = match &source.origin {
        Origin::Local(image) => {
            return Ok(image.document(digest, Some(size_bytes), MAX_CONFIG_BYTES)?);
        }
        Origin::Registry(registry, _) => registry,
    };
    let fetch = registry.get_blob(digest, size_bytes, "a config", MAX_CONFIG_BYTES);
    let Some(cache) = cache else { return Ok(fetch.await?) };
    match cache.turn(digest, Some(size_bytes), MAX_CONFIG_BYTES).await {
        Turn::Here(bytes) => Ok(bytes),
        Turn::Fetch(partial) => {
            let bytes = fetch.await?;
            if let Some(partial) = partial {
                cache.store(digest, partial, &bytes);
            }
            Ok(bytes)
        }
    }
}

/// A manifest or index that an index names.
pub(crate) async fn entry(
    source: &Source,
    cache: Option<&Cache>,
    entry: &Descriptor,
) -> Result<Body, ResolveError> {
    let media_type = entry.media_type().to_string();
    if let Some(bytes) = inline_data(entry)? {
        return Ok(typed(bytes, &media_type));
    }
    document(source, cache, entry.digest(), (Some(entry.size()), media_type.as_str())).await
}

/// A manifest or index by its digest, and what is known of its size and type.
async fn document(
    source: &Source,
    cache: Option<&Cache>,
    digest: &Digest,
    (size_bytes, media_type): (Option<u64>, &str),
) -> Result<Body, ResolveError> {
    let registry = match &source.origin {
        Origin::Local(image) => {
            let bytes = image.document(digest, size_bytes, MAX_MANIFEST_BYTES)?;
            return Ok(typed(bytes, media_type));
        }
        Origin::Registry(registry, _) => registry,
    };
    let fetch = registry.get_manifest(digest.as_ref(), size_bytes);
    let Some(cache) = cache else { return Ok(fetch.await?) };
    match cache.turn(digest, size_bytes, MAX_MANIFEST_BYTES).await {
        Turn::Here(bytes) => Ok(typed(bytes, media_type)),
        Turn::Fetch(partial) => {
            let body = fetch.await?;
            if let Some(partial) = partial {
                cache.store(digest, partial, &body.bytes);
            }
            Ok(body)
        }
    }
}

/// A document that came without a type of its own: what it is, it says itself in most cases.
fn typed(bytes: Vec<u8>, media_type: &str) -> Body {
    let is_typed = Document::own_media_type(&bytes).is_some();
    let media_type = if is_typed { String::new() } else { media_type.to_owned() };
    Body { bytes, media_type }
}

fn descriptor(document: &Document, body: &Body, digest: &Digest) -> Result<Descriptor, ImageError> {
    let media_type = document.media_type(&body.bytes, &body.media_type);
    let built = DescriptorBuilder::default()
        .media_type(MediaType::from(media_type.as_str()))
        .digest(digest.clone())
        .size(body.bytes.len() as u64)
        .build();
    // All that it needs is given.
    built.map_err(|_| ImageError::MediaType(media_type))
}
