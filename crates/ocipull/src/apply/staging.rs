//! The tree that is being made, beside the destination.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use ctsys::record::Ownership;
use ctsys::rootdir;
use oci_spec::image::Digest;

use super::ApplyError;
use super::error::EntryError;
use super::layer::Layer;
use super::limits::{Budget, Limits};
use super::meta::Keeper;
use super::pipe::{self, PipeReader};
use super::place::{DestPlace, Found};
use super::tar::{TarError, TarReader};
use super::tree::Tree;
use super::turns::Turns;

/// How a root filesystem is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyOptions {
    /// How owners are stored. The process must be able to: see [`crate::ownership`].
    pub ownership: Ownership,
    /// Whether a destination that has something in it is replaced.
    pub force: bool,
    /// Whether a directory of a layer leaves a lower layer's link to a directory as it is, and means
    /// that directory (rsync(1), `--keep-dirlinks`). Each layer then waits for those below it.
    pub keep_dirlinks: bool,
    /// What the image may ask for at most.
    pub limits: Limits,
    /// Whether [`Staging::commit`] gets everything onto the disk, so that after a power cut the
    /// destination is, with its record, the old tree or the whole new one; and once it returned,
    /// the new one. A disk that fails is then an error, and the destination stays as it was.
    pub is_durable: bool,
}

impl ApplyOptions {
    /// With the usual limits.
    pub const fn new(ownership: Ownership, force: bool) -> Self {
        Self { ownership, force, keep_dirlinks: false, limits: Limits::USUAL, is_durable: false }
    }
}

/// A layer to apply.
#[derive(Debug, Clone, Copy)]
pub struct LayerSpec<'a> {
    /// As the manifest has it. The blob's bytes are believed where they say something else.
    pub media_type: &'a str,
    /// Digest of the uncompressed stream, from the image's config.
    pub diff_id: &'a Digest,
    /// Digest of the blob, for messages: who reads the blob checks it.
    pub digest: &'a Digest,
}

/// What a layer was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerStats {
    /// Entries in the tar stream.
    pub entries: u64,
    /// Length of the uncompressed stream.
    pub uncompressed_bytes: u64,
}

/// A root filesystem being made beside its destination, which stays as it is until
/// [`Staging::commit`]. Dropping it removes what was made.
///
/// Layers may be applied one after the other ([`Staging::apply_layer`]) or several at a time, each
/// in a thread of its own ([`Staging::apply_layer_at`]): the tree is the same.
#[derive(Debug)]
pub struct Staging {
    pub(super) place: DestPlace,
    pub(super) options: ApplyOptions,
    /// The tree's name in the destination's parent, while it stands there.
    pub(super) name: Option<Vec<u8>>,
    /// The tree's directory.
    pub(super) root: OwnedFd,
    pub(super) turns: Turns,
    budget: Budget,
    /// Layers applied by [`Staging::apply_layer`].
    applied: usize,
}

impl Staging {
    /// Makes a staging directory beside `dest`, so on its file system, and removes what killed
    /// runs left there. Missing parents of `dest` are made.
    ///
    /// Fails when `dest` is anything but absent or an empty directory, unless it is a directory
    /// and `options.force` is set.
    pub fn create(dest: &Path, options: ApplyOptions) -> Result<Self, ApplyError> {
        let place = DestPlace::open(dest, true)?;
        if let Err(error) = prepare(&place, options) {
            place.remove_made_parents();
            return Err(error);
        }
        Self::make(place, options)
    }

    /// A tree to be looked at only, beside the root filesystem at `dest`, which stays whatever it
    /// holds and whatever is mounted in it: see [`Staging::finish`].
    pub fn beside(dest: &Path, options: ApplyOptions) -> Result<Self, ApplyError> {
        let place = DestPlace::open(dest, false)?;
        if place.look()? == Found::Nothing {
            return Err(ApplyError::Missing { dest: dest.into() });
        }
        place.remove_leftovers()?;
        Self::make(place, options)
    }

    fn make(place: DestPlace, options: ApplyOptions) -> Result<Self, ApplyError> {
        let (name, root, tree) = match make_tree(&place, options.ownership) {
            Ok(made) => made,
            Err(error) => {
                place.remove_made_parents();
                return Err(error);
            }
        };
        let (turns, budget) = (Turns::new(tree), Budget::new(options.limits));
        Ok(Self { place, options, name: Some(name), root, turns, budget, applied: 0 })
    }

    /// Applies a layer over those before it. `blob` is read to its end, and what comes out of it
    /// is held against the layer's diff_id. After a failure the staging is only good for dropping.
    pub fn apply_layer(
        &mut self,
        layer: &LayerSpec<'_>,
        blob: &mut (dyn std::io::Read + Send),
    ) -> Result<LayerStats, ApplyError> {
        let index = self.applied;
        self.applied += 1;
        self.apply_layer_at(index, layer, blob)
    }

    /// As [`Staging::apply_layer`] for the layer at `index`, from 0, lowest first, which need not
    /// wait until those below are applied. Each index has to be applied once, in a thread that may
    /// block; this one returns when all lower layers and it are in the tree.
    ///
    /// A layer that comes too early is unpacked into a directory of its own beside the tree, and
    /// laid over that in its turn.
    pub fn apply_layer_at(
        &self,
        index: usize,
        layer: &LayerSpec<'_>,
        blob: &mut (dyn std::io::Read + Send),
    ) -> Result<LayerStats, ApplyError> {
        let applied = if self.turns.has_come(index) {
            self.extract(index, layer, blob, None)
        } else {
            self.extract_apart(index, layer, blob)
        };
        if applied.is_err() {
            self.turns.stop();
        }
        applied
    }

    /// Ends the layers that wait for those below them, with an error: for who gives up.
    pub fn stop(&self) {
        self.turns.stop();
    }

    fn extract_apart(
        &self,
        index: usize,
        layer: &LayerSpec<'_>,
        blob: &mut (dyn std::io::Read + Send),
    ) -> Result<LayerStats, ApplyError> {
        let (name, root, tree) = make_tree(&self.place, self.options.ownership)?;
        let applied = self.extract(index, layer, blob, Some((tree, root)));
        // What both trees had, or all of it after a failure.
        let removed = rootdir::remove_at(self.place.parent(), &name);
        let stats = applied?;
        removed.map_err(|e| self.place.failed("remove a layer's directory beside", e))?;
        Ok(stats)
    }

    /// Applies a layer, first in a tree of its own where one is given.
    fn extract(
        &self,
        index: usize,
        layer: &LayerSpec<'_>,
        blob: &mut (dyn std::io::Read + Send),
        own: Option<(Tree, OwnedFd)>,
    ) -> Result<LayerStats, ApplyError> {
        let (own, own_root) = own.unzip();
        let mut trees = vec![self.root.as_fd()];
        trees.extend(own_root.as_ref().map(AsFd::as_fd));
        let failed = |error| entry_error(layer, Vec::new(), error);
        let unpack = |stream: &mut PipeReader| {
            let mut merge = Layer::new(&self.turns, &self.budget, index, own).map_err(failed)?;
            if self.options.keep_dirlinks {
                merge.keep_dirlinks().map_err(failed)?;
            }
            let entries = self.entries(layer, stream, &mut merge)?;
            merge.finish().map_err(failed)?;
            Ok(entries)
        };
        let (entries, uncompressed_bytes) =
            pipe::with_stream(layer, &self.budget, &self.turns, &trees, blob, unpack)?;
        Ok(LayerStats { entries, uncompressed_bytes })
    }

    fn entries(
        &self,
        layer: &LayerSpec<'_>,
        stream: &mut PipeReader,
        merge: &mut Layer<'_>,
    ) -> Result<u64, ApplyError> {
        let mut reader = TarReader::with_limit(stream, self.options.limits.header_bytes);
        let mut entries = 0;
        while let Some(entry) = reader.next_entry().map_err(|e| tar_error(layer, e))? {
            let path = entry.path.clone();
            merge.apply(entry, &mut reader).map_err(|e| entry_error(layer, path, e))?;
            entries += 1;
        }
        Ok(entries)
    }
}

/// Whether the destination may be written, and room for it.
fn prepare(place: &DestPlace, options: ApplyOptions) -> Result<(), ApplyError> {
    if place.look()? == Found::FullDir && !options.force {
        return Err(ApplyError::Exists { dest: place.dest.clone() });
    }
    place.refuse_mounts()?;
    place.remove_leftovers()
}

/// An empty tree beside the destination: its name, its directory, itself.
fn make_tree(
    place: &DestPlace,
    ownership: Ownership,
) -> Result<(Vec<u8>, OwnedFd, Tree), ApplyError> {
    let (name, dir) = place.make_staging()?;
    let opened = rootdir::open_dir_at(&dir, b".").map_err(EntryError::from);
    let made = opened.and_then(|root| Ok((root, Tree::new(dir, Keeper::new(ownership))?)));
    match made {
        Ok((root, tree)) => Ok((name, root, tree)),
        Err(source) => {
            let _ = rootdir::remove_at(place.parent(), &name);
            Err(ApplyError::Metadata { path: Vec::new(), source: source.into() })
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // The next run tries again.
            let _ = rootdir::remove_at(self.place.parent(), name);
            self.place.remove_made_parents();
        }
    }
}

fn tar_error(layer: &LayerSpec<'_>, error: TarError) -> ApplyError {
    match error {
        TarError::Io(source) => pipe::stream_error(layer, source),
        source => ApplyError::Tar { digest: layer.digest.clone(), source },
    }
}

fn entry_error(layer: &LayerSpec<'_>, path: Vec<u8>, error: EntryError) -> ApplyError {
    match error {
        EntryError::Tar(TarError::Io(source)) => pipe::stream_error(layer, source),
        source => ApplyError::Entry { digest: layer.digest.clone(), path, source: source.into() },
    }
}
