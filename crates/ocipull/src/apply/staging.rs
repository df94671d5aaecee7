//! The tree that is being made, beside the destination, and the step that puts it there.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use ctsys::record::{ImageRecord, Ownership};
use ctsys::rootdir;
use ctsys::{Errno, SysError};
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
use super::warning::Warning;

/// How a root filesystem is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyOptions {
    /// How owners are stored. The process must be able to: see [`crate::ownership`].
    pub ownership: Ownership,
    /// Whether a destination that has something in it is replaced.
    pub force: bool,
    /// What the image may ask for at most.
    pub limits: Limits,
}

impl ApplyOptions {
    /// With the usual limits.
    pub const fn new(ownership: Ownership, force: bool) -> Self {
        Self { ownership, force, limits: Limits::USUAL }
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
    place: DestPlace,
    options: ApplyOptions,
    /// The tree's name in the destination's parent, while it stands there.
    name: Option<Vec<u8>>,
    /// The tree's directory.
    root: OwnedFd,
    turns: Turns,
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
            let entries = self.entries(layer, stream, &mut merge)?;
            merge.finish().map_err(failed)?;
            Ok(entries)
        };
        let (entries, uncompressed_bytes) =
            pipe::with_stream(layer, &self.budget, &trees, blob, unpack)?;
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

    /// Gives the directories of the tree their metadata, which ends the applying, and the tree
    /// itself, open. It goes with this value.
    pub fn finish(&mut self) -> Result<OwnedFd, ApplyError> {
        let tree = self.turns.tree().ok_or(ApplyError::Incomplete)?;
        let finished = tree.finish();
        finished.map_err(|(path, source)| ApplyError::Metadata { path, source: source.into() })?;
        self.root.try_clone().map_err(|e| ApplyError::Directory {
            action: "open the tree beside",
            path: self.place.dest.clone(),
            source: SysError::from_io("fcntl", "F_DUPFD_CLOEXEC", &e),
        })
    }

    /// What could not be kept so far.
    fn warnings(&mut self) -> Vec<Warning> {
        self.turns.tree().map(|tree| tree.keeper.notes.warnings()).unwrap_or_default()
    }

    /// What stands at the destination, open: a directory.
    pub fn dest_dir(&self) -> Result<OwnedFd, ApplyError> {
        rootdir::open_dir_at(self.place.parent(), self.place.name())
            .map_err(|e| self.place.failed("open", e))
    }

    /// Puts the tree in the destination's place and `record` beside it; gives what could not be
    /// kept.
    ///
    /// The tree is exchanged in one step, so at every moment the destination is the old tree or
    /// the new one. The old record goes before that step and the new one comes after it: a run
    /// that is killed in between leaves no record, never one of another tree.
    pub fn commit(mut self, record: &ImageRecord) -> Result<Vec<Warning>, ApplyError> {
        self.finish()?;
        let mut warnings = self.warnings();
        // Two runs with --force would else put one's tree beside the other's record.
        let turn = self.place.take_turn()?;
        // It may have been filled since.
        let found = self.place.look()?;
        if found == Found::FullDir && !self.options.force {
            return Err(ApplyError::Exists { dest: self.place.dest.clone() });
        }
        self.place.refuse_mounts()?;
        let new_record = self.place.fresh_name(".json");
        let written = write_file(&self.place, &new_record, &record.to_json());
        let moved = written.and_then(|()| self.replace(found));
        if let Err(error) = moved {
            let _ = rootdir::unlink_at(self.place.parent(), &new_record);
            return Err(error);
        }
        rootdir::rename_at(self.place.parent(), &new_record, &self.place.record_name())
            .map_err(|e| self.place.failed("write the record of", e))?;
        drop(turn);
        if found == Found::FullDir {
            warnings.extend(self.remove_old());
        }
        self.name = None;
        Ok(warnings)
    }

    /// The steps around the exchange; undone when it fails.
    fn replace(&mut self, found: Found) -> Result<(), ApplyError> {
        let failed = |place: &DestPlace, e| place.failed("replace", e);
        let Some(staged) = self.name.clone() else { return Ok(()) };
        let (parent, dest) = (self.place.parent(), self.place.name());
        let (record, aside) = (self.place.record_name(), self.place.fresh_name(".old.json"));
        let had_record = match rootdir::rename_at(parent, &record, &aside) {
            Err(e) if e.errno() == Errno::ENOENT => false,
            other => other.map(|()| true).map_err(|e| failed(&self.place, e))?,
        };
        let moved = match found {
            Found::FullDir => rootdir::exchange_at(parent, &staged, dest),
            // rename(2) takes the place of nothing and of an empty directory, and of nothing else.
            Found::Nothing | Found::EmptyDir => rootdir::rename_at(parent, &staged, dest),
        };
        if let Err(e) = moved {
            if had_record {
                let _ = rootdir::rename_at(parent, &aside, &record);
            }
            return Err(failed(&self.place, e));
        }
        if found != Found::FullDir {
            self.name = None;
        }
        if had_record {
            let _ = rootdir::unlink_at(self.place.parent(), &aside);
        }
        Ok(())
    }

    /// Removes the tree that the exchange put aside.
    fn remove_old(&self) -> Option<Warning> {
        let old = self.name.as_ref()?;
        let error = rootdir::remove_at(self.place.parent(), old).err()?;
        let name = old.escape_ascii();
        Some(Warning::new(format!("cannot remove the replaced tree, now \"{name}\": {error}")))
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

fn write_file(place: &DestPlace, name: &[u8], text: &[u8]) -> Result<(), ApplyError> {
    let failed = |e| place.failed("write the record of", e);
    let mut file: File = rootdir::create_file_at(place.parent(), name).map_err(failed)?;
    let shown = || String::from_utf8_lossy(name).into_owned();
    file.write_all(text).map_err(|e| failed(SysError::from_io("write", shown(), &e)))?;
    // For all to read, as the tree is: what runs it need not be who pulled it.
    rootdir::set_mode(&file, 0o644).map_err(failed)
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
