//! The step that puts a finished tree in its destination's place, and its record beside it.
//!
//! ```text
//! [sync] ; turn { record -> aside ; tree <-> DEST ; new record -> record ; [sync] } ; old tree, aside: gone
//! ```
//!
//! The tree is exchanged in one step, so at every moment the destination is the old tree or the new
//! one. The old record goes before that step and the new one comes after it: a run that is killed in
//! between leaves no record, never one of another tree. What fails is taken back.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use ctsys::record::{ImageRecord, MAX_RECORD_BYTES, RecordError, record_path};
use ctsys::{Errno, SysError, durable, rootdir};
use nix::sys::stat::FileStat;

use super::ApplyError;
use super::place::{DestPlace, Found};
use super::staging::Staging;
use super::warning::Warning;

impl Staging {
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

    /// Puts the tree in the destination's place and `record` beside it; gives what could not be
    /// kept.
    pub fn commit(mut self, record: &ImageRecord) -> Result<Vec<Warning>, ApplyError> {
        self.finish()?;
        let mut warnings =
            self.turns.tree().map(|tree| tree.keeper.notes.warnings()).unwrap_or_default();
        if self.options.is_durable {
            // Before the turn, as it takes its time. One call for the whole file system: a tree has
            // too many files to wait for each.
            durable::sync_file_system(&self.root).map_err(|e| self.place.failed("sync", e))?;
        }
        // Two runs with --force would else put one's tree beside the other's record.
        let turn = self.place.take_turn()?;
        // It may have been filled since.
        let found = self.place.look()?;
        if found == Found::FullDir && !self.options.force {
            return Err(ApplyError::Exists { dest: self.place.dest.clone() });
        }
        self.place.refuse_mounts()?;
        // Under its new name it is a leftover to other runs, unless somebody has its lock; and it may
        // have to go back.
        let old = rootdir::open_dir_at(self.place.parent(), self.place.name());
        let _lock = old.ok().filter(|old| rootdir::try_lock(old).is_ok());
        let new_record = self.place.fresh_name(".json");
        let written = write_record(&self.place, &new_record, record, self.options.is_durable);
        let replaced = written.and_then(|()| self.replace(found, &new_record));
        if let Err(error) = replaced {
            let _ = rootdir::unlink_at(self.place.parent(), &new_record);
            return Err(error);
        }
        drop(turn);
        warnings.extend(self.remove_old());
        self.name = None;
        Ok(warnings)
    }

    /// The steps around the exchange of the trees; undone when one fails.
    fn replace(&mut self, found: Found, new_record: &[u8]) -> Result<(), ApplyError> {
        let Some(staged) = self.name.clone() else { return Ok(()) };
        let before = rootdir::stat_at(self.place.parent(), self.place.name());
        let before = before.map_err(|e| self.place.failed("replace", e))?;
        let (record, aside) = (self.place.record_name(), self.place.fresh_name(".old.json"));
        let had_record = match rootdir::rename_at(self.place.parent(), &record, &aside) {
            Err(e) if e.errno() == Errno::ENOENT => false,
            other => other.map(|()| true).map_err(|e| self.place.failed("replace", e))?,
        };
        let moved = self.move_tree(&staged, found);
        let done = moved.map_err(|e| self.place.failed("replace", e)).and_then(|()| {
            self.put_record(new_record).inspect_err(|_| self.take_back(&staged, found, before))
        });
        if let Err(error) = done {
            let _ = match had_record {
                true => rootdir::rename_at(self.place.parent(), &aside, &record),
                false => rootdir::unlink_at(self.place.parent(), &record),
            };
            return Err(error);
        }
        if found != Found::FullDir {
            self.name = None;
        }
        if had_record {
            let _ = rootdir::unlink_at(self.place.parent(), &aside);
        }
        Ok(())
    }

    fn move_tree(&self, staged: &[u8], found: Found) -> Result<(), SysError> {
        let (parent, dest) = (self.place.parent(), self.place.name());
        match found {
            Found::FullDir => rootdir::exchange_at(parent, staged, dest),
            // rename(2) takes the place of nothing and of an empty directory, and of nothing else:
            // what came there meanwhile is somebody's.
            Found::Nothing | Found::EmptyDir => rootdir::rename_at(parent, staged, dest),
        }
    }

    fn put_record(&self, new_record: &[u8]) -> Result<(), ApplyError> {
        let parent = self.place.parent();
        rootdir::rename_at(parent, new_record, &self.place.record_name())
            .map_err(|e| self.place.failed("write the record of", e))?;
        if self.options.is_durable {
            // All that stands in the parent: the tree and the record under their names.
            durable::sync(parent).map_err(|e| self.place.failed("sync", e))?;
        }
        Ok(())
    }

    /// The reverse of [`Staging::move_tree`]; an empty directory is made again, with its owner and
    /// mode.
    fn take_back(&mut self, staged: &[u8], found: Found, before: Option<FileStat>) {
        let (parent, dest) = (self.place.parent(), self.place.name());
        let moved = match found {
            Found::FullDir => rootdir::exchange_at(parent, staged, dest),
            Found::Nothing | Found::EmptyDir => rootdir::rename_at(parent, dest, staged),
        };
        if moved.is_err() {
            // Of an exchange the old tree has the name of the staging directory: it is not to go
            // with this value.
            self.name = None;
        } else if let (Found::EmptyDir, Some(before)) = (found, before) {
            let _ = rootdir::make_dir_at(parent, dest);
            let _ = rootdir::set_owner_at(parent, dest, before.st_uid, before.st_gid);
            let _ = rootdir::set_mode_at(parent, dest, before.st_mode & 0o7777);
        }
    }

    /// Removes the tree that the exchange put aside.
    fn remove_old(&self) -> Option<Warning> {
        let old = self.name.as_ref()?;
        let error = rootdir::remove_at(self.place.parent(), old).err()?;
        let name = old.escape_ascii();
        Some(Warning::new(format!("cannot remove the replaced tree, now \"{name}\": {error}")))
    }

    /// What stands at the destination, open: a directory.
    pub fn dest_dir(&self) -> Result<OwnedFd, ApplyError> {
        rootdir::open_dir_at(self.place.parent(), self.place.name())
            .map_err(|e| self.place.failed("open", e))
    }
}

/// Gets a root filesystem that is there already, with its record, onto the disk.
pub fn sync(dest: &Path) -> Result<(), ApplyError> {
    let place = DestPlace::open(dest, false)?;
    durable::sync_file_system(place.parent()).map_err(|e| place.failed("sync", e))
}

fn write_record(
    place: &DestPlace,
    name: &[u8],
    record: &ImageRecord,
    is_durable: bool,
) -> Result<(), ApplyError> {
    let failed = |e| place.failed("write the record of", e);
    let text = record.to_json();
    // One that could not be read again would keep every later run from the destination.
    if text.len() as u64 > MAX_RECORD_BYTES {
        return Err(RecordError::TooLarge { path: record_path(&place.dest) }.into());
    }
    let mut file: File = rootdir::create_file_at(place.parent(), name).map_err(failed)?;
    let shown = || String::from_utf8_lossy(name).into_owned();
    file.write_all(&text).map_err(|e| failed(SysError::from_io("write", shown(), &e)))?;
    // For all to read, as the tree is: what runs it need not be who pulled it.
    rootdir::set_mode(&file, 0o644).map_err(failed)?;
    if is_durable {
        durable::sync(&file).map_err(failed)?;
    }
    Ok(())
}
