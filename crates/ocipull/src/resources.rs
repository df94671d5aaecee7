//! The options that say what fetching and unpacking may use: the cache, jobs, limits.

use std::num::NonZeroUsize;
use std::sync::Arc;

use clap::Args;
use ocipull::apply::Limits;
use ocipull::apply::limits::{LimitSyntaxError, Setting};
use ocipull::cache::{self, Cache};
use ocipull::event::Observer;
use ocipull::location::ImageLocation;
use ocipull::pull::{DEFAULT_JOBS, Resources};

#[derive(Debug, Args)]
pub(crate) struct TypedResources {
    /// Layers that are fetched and unpacked at once
    #[arg(long, value_name = "N", default_value_t = DEFAULT_JOBS)]
    jobs: NonZeroUsize,
    /// Let the image have more than usual; NAME is entries, total-bytes, expansion-ratio, path-depth or header-bytes
    #[arg(long, value_name = "NAME=VALUE")]
    limit: Vec<String>,
    /// Keep nothing for later pulls, and use nothing of earlier ones
    #[arg(long, conflicts_with = "offline")]
    no_cache: bool,
}

/// What it means.
#[derive(Debug)]
pub(crate) struct ResourcesTask {
    jobs: NonZeroUsize,
    limits: Limits,
    /// Whether blobs are kept from pull to pull.
    cached: bool,
}

impl TypedResources {
    pub(crate) fn meaning(&self) -> Result<ResourcesTask, LimitSyntaxError> {
        let limits = self
            .limit
            .iter()
            .try_fold(Limits::USUAL, |limits, text| Ok(limits.with(&text.parse::<Setting>()?)))?;
        Ok(ResourcesTask { jobs: self.jobs, limits, cached: !self.no_cache })
    }
}

impl ResourcesTask {
    /// Opens the cache, for an image that is not on this machine already. One that cannot be used is
    /// told to the observer, and not used.
    pub(crate) fn open(&self, image: &ImageLocation, observer: &Arc<dyn Observer>) -> Resources {
        let directory = || cache::directory(|name| std::env::var_os(name));
        let cached = self.cached && matches!(image, ImageLocation::Registry(_));
        Resources {
            cache: cached.then(|| Cache::open_or_say(directory(), observer)).flatten(),
            jobs: self.jobs,
            limits: self.limits,
        }
    }
}
