//! Where an image comes from, as far as resolving and fetching have to know.

use std::fmt;
use std::sync::Arc;

use oci_spec::image::Digest;

use crate::event::Observer;
use crate::local::Local;
use crate::reference::ImageReference;
use crate::registry::Registry;

/// An image's origin.
#[derive(Clone)]
pub struct Source {
    typed: String,
    canonical: String,
    pub(crate) origin: Origin,
    observer: Arc<dyn Observer>,
}

/// What kind it is of.
#[derive(Clone)]
pub(crate) enum Origin {
    Registry(Arc<Registry>, Arc<ImageReference>),
    Local(Arc<Local>),
}

impl Source {
    /// In a registry.
    pub fn registry(registry: Registry, reference: ImageReference) -> Self {
        Self {
            typed: reference.typed().to_owned(),
            canonical: reference.to_string(),
            observer: Arc::clone(registry.observer()),
            origin: Origin::Registry(Arc::new(registry), Arc::new(reference)),
        }
    }

    /// On this machine. `canonical` is what was typed, written out.
    pub fn local(local: Local, canonical: String, observer: Arc<dyn Observer>) -> Self {
        let typed = local.shown.clone();
        Self { typed, canonical, origin: Origin::Local(Arc::new(local)), observer }
    }

    /// As the user named it.
    pub fn typed(&self) -> &str {
        &self.typed
    }

    /// The digest that the user named, if any: it says by itself which image that is.
    pub fn digest(&self) -> Option<&Digest> {
        match &self.origin {
            Origin::Registry(_, reference) => reference.digest(),
            Origin::Local(_) => None,
        }
    }

    /// Whether it is on this machine, so that nothing of it needs keeping.
    pub fn is_local(&self) -> bool {
        matches!(self.origin, Origin::Local(_))
    }

    /// Who is told what happens.
    pub fn observer(&self) -> &Arc<dyn Observer> {
        &self.observer
    }
}

impl fmt::Display for Source {
    /// Written out: a reference in full, a path as an absolute one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.canonical).finish()
    }
}
