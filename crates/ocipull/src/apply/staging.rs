//! The tree that is being made, beside the destination, and the step that puts it there.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use ctsys::record::{ImageRecord, Ownership};
use ctsys::{Errno, SysError};
use ctsys::{durable, rootdir};
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
    /// Whether [`Staging::commit`] waits for the disk.
    is_durable: bool,
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
            Ok((name, tree)) => {
                Ok(Self { place, force: options.force, name: Some(name), tree, is_durable: false })
            }
            Err(error) => {
                place.remove_made_parents();
                Err(error)
            }
        }
    }

    /// A tree to be looked at only, beside the root filesystem at `dest`, which stays whatever it
    /// holds and whatever is mounted in it: see [`Staging::finish`].
    pub fn beside(dest: &Path, ownership: Ownership) -> Result<Self, ApplyError> {
        let place = DestPlace::open(dest, false)?;
        if place.look()? == Found::Nothing {
            return Err(ApplyError::Missing { dest: dest.into() });
        }
        place.remove_leftovers()?;
        let options = ApplyOptions { ownership, force: false };
        let (name, tree) = Self::make_at(&place, options)?;
        Ok(Self { place, force: false, name: Some(name), tree, is_durable: false })
    }

    fn create_at(place: &DestPlace, options: ApplyOptions) -> Result<(Vec<u8>, Tree), ApplyError> {
        if place.look()? == Found::FullDir && !options.force {
            return Err(ApplyError::Exists { dest: place.dest.clone() });
        }
        place.refuse_mounts()?;
        place.remove_leftovers()?;
        Self::make_at(place, options)
    }

    fn make_at(place: &DestPlace, options: ApplyOptions) -> Result<(Vec<u8>, Tree), ApplyError> {
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

    /// Has [`Staging::commit`] get everything onto the disk, so that after a power cut the
    /// destination is, with its record, the old tree or the whole new one; and once it returned,
    /// the new one. A disk that fails is then an error, and the destination stays as it was.
    pub fn durable(mut self, is_durable: bool) -> Self {
        self.is_durable = is_durable;
        self
    }

    /// Gives the directories of the tree their metadata, which ends the applying, and the tree
    /// itself, open. It goes with this value.
    pub fn finish(&mut self) -> Result<OwnedFd, ApplyError> {
        let finished = self.tree.finish();
        finished.map_err(|(path, source)| ApplyError::Metadata { path, source: source.into() })?;
        self.tree.root().try_clone_to_owned().map_err(|e| ApplyError::Directory {
            action: "open the tree beside",
            path: self.place.dest.clone(),
            source: SysError::from_io("fcntl", "F_DUPFD_CLOEXEC", &e),
        })
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
        if self.is_durable {
            // Before the turn, as it takes its time. One call for the whole file system: a tree has
            // too many files to wait for each.
            durable::sync_file_system(self.tree.root())
                .map_err(|e| self.place.failed("sync", e))?;
        }
        // Two runs with --force would else put one's tree beside the other's record.
        let turn = self.place.take_turn()?;
        // It may have been filled since.
        let found = self.place.look()?;
        if found == Found::FullDir && !self.force {
            return Err(ApplyError::Exists { dest: self.place.dest.clone() });
        }
        self.place.refuse_mounts()?;
        let new_record = self.place.fresh_name(".json");
        let written = write_file(&self.place, &new_record, &record.to_json(), self.is_durable);
        let replaced = written.and_then(|()| self.replace(found, &new_record));
        if let Err(error) = replaced {
            let _ = rootdir::unlink_at(self.place.parent(), &new_record);
            return Err(error);
        }
        drop(turn);
        let mut warnings = self.tree.keeper.notes.warnings();
        warnings.extend(self.remove_old());
        self.name = None;
        Ok(warnings)
    }

    /// The steps around the exchange of the trees; undone when one fails.
    fn replace(&mut self, found: Found, new_record: &[u8]) -> Result<(), ApplyError> {
        let failed = |place: &DestPlace, e| place.failed("replace", e);
        let Some(staged) = self.name.clone() else { return Ok(()) };
        let (record, aside) = (self.place.record_name(), self.place.fresh_name(".old.json"));
        let had_record = match rootdir::rename_at(self.place.parent(), &record, &aside) {
            Err(e) if e.errno() == Errno::ENOENT => false,
            other => other.map(|()| true).map_err(|e| failed(&self.place, e))?,
        };
        // rename(2) takes the place of nothing and of an empty directory, and of nothing else; but
        // there is no way back to that empty directory.
        let is_exchange = match found {
            Found::FullDir => true,
            Found::EmptyDir => self.is_durable,
            Found::Nothing => false,
        };
        let moved = self.move_tree(&staged, is_exchange).map_err(|e| failed(&self.place, e));
        let done = moved.and_then(|()| {
            self.put_record(new_record).inspect_err(|_| self.take_back(&staged, is_exchange))
        });
        if let Err(error) = done {
            let _ = match had_record {
                true => rootdir::rename_at(self.place.parent(), &aside, &record),
                false => rootdir::unlink_at(self.place.parent(), &record),
            };
            return Err(error);
        }
        if !is_exchange {
            self.name = None;
        }
        if had_record {
            let _ = rootdir::unlink_at(self.place.parent(), &aside);
        }
        Ok(())
    }

    fn move_tree(&self, staged: &[u8], is_exchange: bool) -> Result<(), SysError> {
        let (parent, dest) = (self.place.parent(), self.place.name());
        match is_exchange {
            true => rootdir::exchange_at(parent, staged, dest),
            false => rootdir::rename_at(parent, staged, dest),
        }
    }

    fn put_record(&self, new_record: &[u8]) -> Result<(), ApplyError> {
        let parent = self.place.parent();
        rootdir::rename_at(parent, new_record, &self.place.record_name())
            .map_err(|e| self.place.failed("write the record of", e))?;
        if self.is_durable {
            // All that stands in the parent: the tree and the record under their names.
            durable::sync(parent).map_err(|e| self.place.failed("sync", e))?;
        }
        Ok(())
    }

    /// The reverse of [`Staging::move_tree`].
    fn take_back(&mut self, staged: &[u8], is_exchange: bool) {
        let (parent, dest) = (self.place.parent(), self.place.name());
        let moved = match is_exchange {
            true => rootdir::exchange_at(parent, staged, dest),
            false => rootdir::rename_at(parent, dest, staged),
        };
        if moved.is_err() {
            // The old tree has the name of the staging directory: it is not to go with this value.
            self.name = None;
        }
    }

    /// Removes the tree that the exchange put aside.
    fn remove_old(&self) -> Option<Warning> {
        let old = self.name.as_ref()?;
        let error = rootdir::remove_at(self.place.parent(), old).err()?;
        let name = old.escape_ascii();
        Some(Warning::new(format!("cannot remove the replaced tree, now \"{name}\": {error}")))
    }
}

/// Gets a root filesystem that is there already, with its record, onto the disk.
pub fn sync(dest: &Path) -> Result<(), ApplyError> {
    let place = DestPlace::open(dest, false)?;
    durable::sync_file_system(place.parent()).map_err(|e| place.failed("sync", e))
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

fn write_file(
    place: &DestPlace,
    name: &[u8],
    text: &[u8],
    is_durable: bool,
) -> Result<(), ApplyError> {
    let failed = |e| place.failed("write the record of", e);
    let mut file: File = rootdir::create_file_at(place.parent(), name).map_err(failed)?;
    let shown = || String::from_utf8_lossy(name).into_owned();
    file.write_all(text).map_err(|e| failed(SysError::from_io("write", shown(), &e)))?;
    // For all to read, as the tree is: what runs it need not be who pulled it.
    rootdir::set_mode(&file, 0o644).map_err(failed)?;
    if is_durable {
        durable::sync(&file).map_err(failed)?;
    }
    Ok(())
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
