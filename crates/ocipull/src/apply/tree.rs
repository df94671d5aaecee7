//! A tree on disk, and what its directories will be in the end.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use ctsys::Errno;
use ctsys::SysError;
use ctsys::rootdir::{self, RootDir};

use super::error::EntryError;
use super::limits::{FREE_PATHS_BYTES, MAX_DIR_XATTR_BYTES, MAX_LINKS_FOLLOWED};
use super::meta::{Keeper, Metadata, clear_xattrs};
use super::name::{join, split};
use super::shape::{LayerShape, Made, ShapeError, keys_below};

/// A root filesystem that is being made, or one layer's part of it. Paths are clean and free of
/// links; one that is not, on disk, fails.
///
/// A directory's metadata is kept in memory until [`Tree::finish`]: making files changes its times,
/// its final mode may keep its own owner out, a default access control list would pass on to what is
/// made in it, and a layer above may say something else anyway.
#[derive(Debug)]
pub(super) struct Tree {
    root: RootDir,
    /// Every directory of the tree.
    dirs: BTreeMap<Box<[u8]>, Metadata>,
    /// Of their paths together.
    dir_bytes: usize,
    max_dir_bytes: usize,
    /// Of their attributes together.
    xattr_bytes: usize,
    pub(super) keeper: Keeper,
}

impl Tree {
    /// Takes an empty directory.
    pub(super) fn new(root: OwnedFd, keeper: Keeper) -> Result<Self, EntryError> {
        clear_xattrs(&root)?;
        let root = RootDir::new(root);
        let mut tree = Self {
            root,
            dirs: BTreeMap::new(),
            dir_bytes: 0,
            max_dir_bytes: FREE_PATHS_BYTES,
            xattr_bytes: 0,
            keeper,
        };
        tree.keep_dir(b"", Metadata::implied())?;
        Ok(tree)
    }

    /// Sets how long the paths of all directories may be together.
    pub(super) fn allow_bytes(&mut self, max_bytes: usize) {
        self.max_dir_bytes = max_bytes;
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

    /// Whether there is a directory at `path`, asking memory alone.
    pub(super) fn has_dir(&self, path: &[u8]) -> bool {
        self.dirs.contains_key(path)
    }

    /// The first of the directories on the way to `path`, itself included, that the tree lacks.
    pub(super) fn first_lacking<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let prefixes = ends.chain([path.len()]).filter_map(|end| path.get(..end));
        prefixes.into_iter().find(|prefix| !prefix.is_empty() && !self.has_dir(prefix))
    }

    /// The directory that the symbolic link at `path` means within the root, free of links; `None`
    /// where there is no link or it leads to no directory.
    pub(super) fn link_target_dir(&self, path: &[u8]) -> Result<Option<Vec<u8>>, SysError> {
        let mut done = Vec::new();
        // What is left to walk, the next name last.
        let mut left = vec![path.to_vec()];
        let mut links = 0;
        while let Some(step) = left.pop() {
            let (first, rest) = split_first(&step);
            if !rest.is_empty() {
                left.push(rest.to_vec());
            }
            match first {
                b"" | b"." => continue,
                b".." => {
                    done.truncate(split(&done).0.len());
                    continue;
                }
                _ => {}
            }
            let next = join(&done, first);
            if self.has_dir(&next) {
                done = next;
                continue;
            }
            links += 1;
            let dir = self.open_dir(&done)?;
            let is_link = rootdir::stat_at(&dir, first)?
                .is_some_and(|stat| rootdir::is_type(&stat, 0o120_000));
            if !is_link || links > MAX_LINKS_FOLLOWED {
                return Ok(None);
            }
            let target = rootdir::read_link_at(&dir, first)?;
            if target.starts_with(b"/") {
                done.clear();
            }
            left.push(target);
        }
        Ok((links > 0).then_some(done))
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
            let is_new = !self.has_dir(&done);
            let next = self.make_dir(&dir, name, &done)?;
            if is_new {
                self.keep_dir(&done, Metadata::implied())?;
            }
            dir = next;
        }
        Ok(dir)
    }

    /// Opens the directory `name` at `path`, or makes it in place of what is there. A new one needs
    /// [`Tree::set_dir`] next.
    pub(super) fn make_dir(
        &mut self,
        parent: impl AsFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<OwnedFd, EntryError> {
        if !self.has_dir(path) {
            self.make_new(&parent, name, path, || rootdir::make_dir_at(&parent, name))?;
        }
        Ok(rootdir::open_dir_at(&parent, name)?)
    }

    /// Gives an open directory its metadata, at [`Tree::finish`]. An owner that the kernel would
    /// refuse then is refused now.
    pub(super) fn set_dir(
        &mut self,
        dir: impl AsFd,
        path: &[u8],
        meta: Metadata,
    ) -> Result<(), EntryError> {
        self.keeper.try_owner(dir, &meta)?;
        self.keep_dir(path, meta)
    }

    fn keep_dir(&mut self, path: &[u8], meta: Metadata) -> Result<(), EntryError> {
        self.xattr_bytes = self.xattr_bytes.saturating_add(meta.xattr_bytes());
        match self.dirs.insert(path.into(), meta) {
            Some(before) => self.xattr_bytes -= before.xattr_bytes(),
            None => self.dir_bytes = self.dir_bytes.saturating_add(path.len()),
        }
        if self.xattr_bytes > MAX_DIR_XATTR_BYTES {
            return Err(EntryError::TooManyXattrs { limit: MAX_DIR_XATTR_BYTES });
        }
        // One layer is bounded by its shape; the directories of all layers have to be as well.
        if self.dir_bytes > self.max_dir_bytes {
            return Err(ShapeError::TooManyBytes(self.max_dir_bytes).into());
        }
        Ok(())
    }

    fn forget_dir(&mut self, path: &[u8]) -> Option<Metadata> {
        let meta = self.dirs.remove(path)?;
        self.dir_bytes -= path.len();
        self.xattr_bytes -= meta.xattr_bytes();
        Some(meta)
    }

    /// Takes over the directory `path` of `from`, which was moved here, with those below it.
    pub(super) fn adopt_dirs(&mut self, from: &mut Self, path: &[u8]) -> Result<(), EntryError> {
        let below = keys_below(&from.dirs, path);
        for path in std::iter::once(path).chain(below.iter().map(AsRef::as_ref)) {
            if let Some(meta) = from.forget_dir(path) {
                self.keep_dir(path, meta)?;
            }
        }
        Ok(())
    }

    /// Gives the directory `path` the metadata that it has in `from`.
    pub(super) fn adopt_meta(&mut self, from: &mut Self, path: &[u8]) -> Result<(), EntryError> {
        match from.forget_dir(path) {
            Some(meta) => self.keep_dir(path, meta),
            None => Ok(()),
        }
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
        if self.forget_dir(path).is_some() {
            for below in keys_below(&self.dirs, path) {
                self.forget_dir(&below);
            }
        }
        Ok(())
    }

    /// As [`Tree::remove`] for a path of which nothing is open; nothing happens where true
    /// directories do not lead to it.
    pub(super) fn remove_path(&mut self, path: &[u8]) -> Result<(), EntryError> {
        let (parent, name) = split(path);
        match self.find_dir(parent)? {
            Some(parent) => self.remove(&parent, name, path),
            None => Ok(()),
        }
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
        self.keep_dir(path, Metadata::implied())
    }

    /// Gives all directories their metadata, those inside of others first: once its mode is set a
    /// directory may be closed to its own owner.
    pub(super) fn finish(&mut self) -> Result<(), (Vec<u8>, EntryError)> {
        // A path stands before those below it.
        for (path, meta) in self.dirs.iter().rev() {
            let finished = match self.root.open_dir(path) {
                Ok(dir) => self.keeper.set_open(&dir, meta, path),
                Err(e) => Err(e.into()),
            };
            finished.map_err(|e| (path.to_vec(), e))?;
        }
        Ok(())
    }
}

/// A path's first name and what comes after it.
fn split_first(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().position(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (path, b""),
    }
}

/// Nothing of that name, or nothing that can be gone into.
fn is_absence(error: &SysError) -> bool {
    matches!(error.errno(), Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)
}
