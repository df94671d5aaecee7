//! The tree that is being made, beside the destination, and the step that puts it there.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use ctsys::record::{ImageRecord, MAX_RECORD_BYTES, Ownership, RecordError, record_path};
use ctsys::rootdir;
use ctsys::{Errno, SysError};
use oci_spec::image::Digest;

use super::ApplyError;
use super::error::EntryError;
use super::layer::Layer;
use super::meta::Keeper;
use super::pipe;
use super::place::{DestPlace, Found};
use super::tar::{TarError, TarReader};
use super::tree::Tree;
use super::warning::Warning;

/// How a root filesystem is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyOptions {
    /// How owners are stored. The process must be able to: see [`crate::ownership`].
    pub ownership: Ownership,
    /// Whether a destination that has something in it is replaced.
    pub force: bool,
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
#[derive(Debug)]
pub struct Staging {
    place: DestPlace,
    force: bool,
    /// The tree's name in the destination's parent, while it stands there.
    name: Option<Vec<u8>>,
    tree: Tree,
}

impl Staging {
    /// Makes a staging directory beside `dest`, so on its file system, and removes what killed
    /// runs left there. Missing parents of `dest` are made.
    ///
    /// Fails when `dest` is anything but absent or an empty directory, unless it is a directory
    /// and `options.force` is set.
    pub fn create(dest: &Path, options: ApplyOptions) -> Result<Self, ApplyError> {
        let place = DestPlace::open(dest, true)?;
        match Self::create_at(&place, options) {
            Ok((name, tree)) => Ok(Self { place, force: options.force, name: Some(name), tree }),
            Err(error) => {
                place.remove_made_parents();
                Err(error)
            }
        }
    }

    fn create_at(place: &DestPlace, options: ApplyOptions) -> Result<(Vec<u8>, Tree), ApplyError> {
        if place.look()? == Found::FullDir && !options.force {
            return Err(ApplyError::Exists { dest: place.dest.clone() });
        }
        place.refuse_mounts()?;
        place.remove_leftovers()?;
        let (name, dir) = place.make_staging()?;
        match Tree::new(dir, Keeper::new(options.ownership)) {
            Ok(tree) => Ok((name, tree)),
            Err(source) => {
                let _ = rootdir::remove_at(place.parent(), &name);
                Err(ApplyError::Metadata { path: Vec::new(), source: source.into() })
            }
        }
    }

    /// Applies a layer over those before it. `blob` is read to its end, and what comes out of it
    /// is held against the layer's diff_id. After a failure the staging is only good for dropping.
    pub fn apply_layer(
        &mut self,
        layer: &LayerSpec<'_>,
        blob: &mut (dyn std::io::Read + Send),
    ) -> Result<LayerStats, ApplyError> {
        let tree = &mut self.tree;
        let (entries, uncompressed_bytes) = pipe::with_stream(layer, blob, |stream| {
            let mut reader = TarReader::new(stream);
            let mut merge = Layer::new(tree);
            let mut entries = 0;
            while let Some(entry) = reader.next_entry().map_err(|e| tar_error(layer, e))? {
                let path = entry.path.clone();
                let applied = merge.apply(entry, &mut reader);
                applied.map_err(|e| entry_error(layer, path, e))?;
                entries += 1;
            }
            merge.finish().map_err(|e| entry_error(layer, Vec::new(), e))?;
            Ok(entries)
        })?;
        Ok(LayerStats { entries, uncompressed_bytes })
    }

    /// Puts the tree in the destination's place and `record` beside it; gives what could not be
    /// kept.
    ///
    /// The tree is exchanged in one step, so at every moment the destination is the old tree or
    /// the new one. The old record goes before that step and the new one comes after it: a run
    /// that is killed in between leaves no record, never one of another tree. A failure, also of
    /// the last step, leaves the old tree with its record.
    pub fn commit(mut self, record: &ImageRecord) -> Result<Vec<Warning>, ApplyError> {
        let finished = self.tree.finish();
        finished.map_err(|(path, source)| ApplyError::Metadata { path, source: source.into() })?;
        // Two runs with --force would else put one's tree beside the other's record.
        let turn = self.place.take_turn()?;
        // It may have been filled since.
        let found = self.place.look()?;
        if found == Found::FullDir && !self.force {
            return Err(ApplyError::Exists { dest: self.place.dest.clone() });
        }
        self.place.refuse_mounts()?;
        let new_record = self.place.fresh_name(".json");
        let written = write_file(&self.place, &new_record, &record.to_json());
        let moved = written.and_then(|()| self.replace(found, &new_record));
        if let Err(error) = moved {
            let _ = rootdir::unlink_at(self.place.parent(), &new_record);
            return Err(error);
        }
        let mut warnings = self.tree.keeper.notes.warnings();
        drop(turn);
        if found == Found::FullDir {
            warnings.extend(self.remove_old());
        }
        self.name = None;
        Ok(warnings)
    }

    /// The exchange and the records around it; undone when a step fails.
    fn replace(&mut self, found: Found, new_record: &[u8]) -> Result<(), ApplyError> {
        let Some(staged) = self.name.clone() else { return Ok(()) };
        let place = &self.place;
        let (record, aside) = (place.record_name(), place.fresh_name(".old.json"));
        let had_record = match rootdir::rename_at(place.parent(), &record, &aside) {
            Err(e) if e.errno() == Errno::ENOENT => false,
            other => other.map(|()| true).map_err(|e| place.failed("replace", e))?,
        };
        let moved = put_tree(place, found, &staged).and_then(|()| {
            let named = rootdir::rename_at(place.parent(), new_record, &record);
            named.map_err(|e| {
                take_back(place, found, &staged);
                place.failed("write the record of", e)
            })
        });
        if moved.is_err() && had_record {
            let _ = rootdir::rename_at(place.parent(), &aside, &record);
        }
        moved?;
        if had_record {
            let _ = rootdir::unlink_at(place.parent(), &aside);
        }
        if found != Found::FullDir {
            self.name = None;
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

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // The next run tries again.
            let _ = rootdir::remove_at(self.place.parent(), name);
            self.place.remove_made_parents();
        }
    }
}

/// The one step after which the destination is the new tree.
fn put_tree(place: &DestPlace, found: Found, staged: &[u8]) -> Result<(), ApplyError> {
    let moved = match found {
        Found::FullDir => rootdir::exchange_at(place.parent(), staged, place.name()),
        // rename(2) takes the place of nothing and of an empty directory, and of nothing else.
        Found::Nothing | Found::EmptyDir => {
            rootdir::rename_at(place.parent(), staged, place.name())
        }
    };
    moved.map_err(|e| place.failed("replace", e))
}

/// Undoes [`put_tree`]. What fails here cannot be helped: the error that led here is told.
fn take_back(place: &DestPlace, found: Found, staged: &[u8]) {
    let (parent, dest) = (place.parent(), place.name());
    let _ = match found {
        Found::FullDir => rootdir::exchange_at(parent, staged, dest),
        Found::Nothing => rootdir::rename_at(parent, dest, staged),
        Found::EmptyDir => rootdir::rename_at(parent, dest, staged)
            .and_then(|()| rootdir::make_dir_at(parent, dest)),
    };
}

fn write_file(place: &DestPlace, name: &[u8], text: &[u8]) -> Result<(), ApplyError> {
    let failed = |e| place.failed("write the record of", e);
    // One that could not be read again would keep every later run from the destination.
    if text.len() as u64 > MAX_RECORD_BYTES {
        return Err(RecordError::TooLarge { path: record_path(&place.dest) }.into());
    }
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
