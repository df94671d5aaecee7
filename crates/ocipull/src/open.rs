//! What the user typed, as a source that can be resolved and fetched from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::archive;
use crate::error::PullError;
use crate::event::Observer;
use crate::local::{LayoutDir, LocalError};
use crate::location::{ArchiveName, ImageLocation};
use crate::registry::{Registry, RegistryOptions};
use crate::source::Source;

/// Opens what `typed`, parsed as `location`, names. A registry is not asked yet; `options` say how
/// it is to be.
///
/// Must run within a tokio runtime.
pub async fn open(
    location: ImageLocation,
    typed: &str,
    options: &RegistryOptions,
    observer: Arc<dyn Observer>,
) -> Result<Source, PullError> {
    let canonical = location.to_string();
    let shown = typed.to_owned();
    let local = match location {
        ImageLocation::Registry(reference) => {
            return Ok(Source::registry(Registry::new(&reference, options, observer)?, reference));
        }
        ImageLocation::Layout(name) => {
            let layout = LayoutDir::open(&name.path)?;
            layout.image(shown, name.name.as_deref(), name.digest.as_ref())?
        }
        ImageLocation::Archive(name) => {
            blocking(move |stop| archive::open(&name, shown, stop)).await?
        }
    };
    Ok(Source::local(local, canonical, observer))
}

/// The names of the images in a layout, or in an archive.
pub async fn names(location: ImageLocation) -> Result<Vec<String>, PullError> {
    match location {
        ImageLocation::Registry(_) => Ok(Vec::new()),
        ImageLocation::Layout(name) => {
            let images = LayoutDir::open(&name.path)?.images()?;
            Ok(images.into_iter().filter_map(|image| image.names.into_iter().next()).collect())
        }
        ImageLocation::Archive(ArchiveName { path, .. }) => {
            blocking(move |stop| archive::names(&path, stop)).await
        }
    }
}

/// Reads a whole archive in a thread that ends soon after the future is dropped.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> Result<T, LocalError> + Send + 'static,
) -> Result<T, PullError> {
    struct Stop(Arc<AtomicBool>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let _guard = Stop(Arc::clone(&stop));
    let done = tokio::task::spawn_blocking(move || work(&stop)).await;
    Ok(done.map_err(|_| PullError::Unpacker)??)
}
