//! The merged tree on disk, and what its directories will be in the end.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ctsys::Errno;
use ctsys::SysError;
use ctsys::rootdir::{self, RootDir};

use super::error::EntryError;
use super::limits::MAX_PATHS_BYTES;
use super::meta::{DirMeta, Keeper, Metadata};
use super::name::join;
use super::shape::{LayerShape, Made, ShapeError, keys_below};

/// A root filesystem that is being made. Paths are clean and free of links; one that is not, on
/// disk, fails.
#[derive(Debug)]
pub(super) struct Tree {
    root: RootDir,
    /// Every directory of the tree.
    dirs: BTreeMap<Box<[u8]>, DirMeta>,
    /// Of their paths together.
    dir_bytes: usize,
    pub(super) keeper: Keeper,
}

impl Tree {
    /// Takes an empty directory.
    pub(super) fn new(root: OwnedFd, keeper: Keeper) -> Result<Self, EntryError> {
        let mut tree =
            Self { root: RootDir::new(root), dirs: BTreeMap::new(), dir_bytes: 0, keeper };
        let root = tree.open_dir(b"")?;
        // Not new: it may have got access control lists from the directory that it stands in.
        tree.set_dir(&root, b"", Metadata::implied(), false)?;
        Ok(tree)
    }

    /// The tree's root.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.fd()
    }

    /// Opens a directory of the tree.
    pub(super) fn open_dir(&self, path: &[u8]) -> Result<OwnedFd, SysError> {
        self.root.open_dir(path)
    }

    /// As [`Tree::open_dir`]; `None` where there is none, or a link or file on the way.
    pub(super) fn find_dir(&self, path: &[u8]) -> Result<Option<OwnedFd>, SysError> {
        match self.open_dir(path) {
            Err(e) if is_absence(&e) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Opens a directory; makes it, and those on the way, where they lack. Whatever else stands
    /// there gives way: the caller knows that it is a lower layer's.
    pub(super) fn ensure_dir(&mut self, path: &[u8]) -> Result<OwnedFd, EntryError> {
        if let Some(dir) = self.find_dir(path)? {
            return Ok(dir);
        }
        let mut dir = self.open_dir(b"")?;
        let mut done = Vec::new();
        for name in path.split(|&b| b == b'/') {
            done = join(&done, name);
            let (next, is_new) = self.make_dir(&dir, name, &done)?;
            if is_new {
                self.set_dir(&next, &done, Metadata::implied(), true)?;
            }
            dir = next;
        }
        Ok(dir)
    }

    /// Opens the directory `name` at `path`, or makes it in place of what is there; whether it is
    /// new comes with it. A new one needs [`Tree::set_dir`] next.
    pub(super) fn make_dir(
        &mut self,
        parent: impl AsFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<(OwnedFd, bool), EntryError> {
        if self.dirs.contains_key(path) {
            return Ok((rootdir::open_dir_at(&parent, name)?, false));
        }
        self.make_new(&parent, name, path, || rootdir::make_dir_at(&parent, name))?;
        Ok((rootdir::open_dir_at(&parent, name)?, true))
    }

    /// Gives a directory its metadata, in part now and in part by [`Tree::finish`].
    pub(super) fn set_dir(
        &mut self,
        dir: impl AsFd,
        path: &[u8],
        meta: Metadata,
        is_new: bool,
    ) -> Result<(), EntryError> {
        let later = self.keeper.set_dir(dir, meta, path, is_new)?;
        if self.dirs.insert(path.into(), later).is_none() {
            self.dir_bytes = self.dir_bytes.saturating_add(path.len());
        }
        // One layer is bounded by its shape; the directories of all layers have to be as well.
        if self.dir_bytes > MAX_PATHS_BYTES {
            return Err(ShapeError::TooManyBytes.into());
        }
        Ok(())
    }

    /// Runs `make`, which makes `name` at `path`; what is there already goes first.
    pub(super) fn make_new<T>(
        &mut self,
        parent: impl AsFd,
        name: &[u8],
        path: &[u8],
        make: impl Fn() -> Result<T, SysError>,
    ) -> Result<T, EntryError> {
        match make() {
            Err(e) if e.errno() == Errno::EEXIST => {
                self.remove(parent, name, path)?;
                Ok(make()?)
            }
            other => Ok(other?),
        }
    }

    /// Removes what stands at `path`, if anything.
    pub(super) fn remove(
        &mut self,
        parent: impl AsFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), EntryError> {
        rootdir::remove_at(parent, name)?;
        if self.dirs.remove(path).is_some() {
            self.dir_bytes -= path.len();
            for below in keys_below(&self.dirs, path) {
                self.dirs.remove(&below);
                self.dir_bytes -= below.len();
            }
        }
        Ok(())
    }

    /// Removes all that lower layers have below the directory `path`, and leaves what `shape`, the
    /// layer at work, made there.
    pub(super) fn purge(&mut self, path: &[u8], shape: &LayerShape) -> Result<(), EntryError> {
        let mut left = vec![path.to_vec()];
        while let Some(path) = left.pop() {
            let Some(dir) = self.find_dir(&path)? else { continue };
            for name in rootdir::names(&dir)? {
                let child = join(&path, name.to_bytes());
                match shape.get(&child) {
                    None => self.remove(&dir, name.to_bytes(), &child)?,
                    Some(Made::Dir { explicit }) => {
                        if !explicit {
                            self.reset_dir(&child)?;
                        }
                        left.push(child);
                    }
                    Some(Made::Symlink(_) | Made::Other) => {}
                }
            }
        }
        Ok(())
    }

    /// Takes a lower layer's metadata off a directory that this layer only implies.
    pub(super) fn reset_dir(&mut self, path: &[u8]) -> Result<(), EntryError> {
        let dir = self.open_dir(path)?;
        self.set_dir(&dir, path, Metadata::implied(), false)
    }

    /// Sets modes, times and access control lists of all directories, those inside of others
    /// first: once its mode is set a directory may be closed to its own owner.
    pub(super) fn finish(&mut self) -> Result<(), (Vec<u8>, EntryError)> {
        // A path stands before those below it.
        for (path, meta) in self.dirs.iter().rev() {
            let finished = match self.root.open_dir(path) {
                Ok(dir) => self.keeper.finish_dir(&dir, meta, path),
                Err(e) => Err(e.into()),
            };
            finished.map_err(|e| (path.to_vec(), e))?;
        }
        Ok(())
    }
}

/// Nothing of that name, or nothing that can be gone into.
fn is_absence(error: &SysError) -> bool {
    matches!(error.errno(), Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)
}
