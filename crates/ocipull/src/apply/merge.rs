//! A layer that was unpacked apart, laid over the tree of the layers below it.
//!
//! The result is that of applying its entries to that tree one by one: what the layer hides goes
//! first, then each of its names takes the place of what is there. A directory that the tree lacks
//! moves as a whole, by one rename; only directories that both have are gone into.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use ctsys::rootdir;
use ctsys::{Errno, SysError};

use super::error::EntryError;
use super::limits::MAX_OPEN_DIRS;
use super::name::split;
use super::shape::{LayerShape, Made};
use super::tree::Tree;

/// What a layer does to those below it beside having paths of its own.
#[derive(Debug, Default)]
pub(super) struct Hiding {
    hidden: Vec<Hidden>,
    bytes: usize,
    /// Whether the layer has an entry for the root.
    pub(super) has_root: bool,
}

/// What is hidden of lower layers.
#[derive(Debug)]
enum Hidden {
    /// All at this path.
    At(Vec<u8>),
    /// All inside of this directory, but not the directory.
    Below(Vec<u8>),
}

impl Hiding {
    /// Hides what stands at `path`.
    pub(super) fn hide_at(&mut self, path: &[u8]) {
        self.bytes += path.len();
        self.hidden.push(Hidden::At(path.into()));
    }

    /// Hides what the directory `path` has in it.
    pub(super) fn hide_below(&mut self, path: &[u8]) {
        self.bytes += path.len();
        self.hidden.push(Hidden::Below(path.into()));
    }

    /// What it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.hidden.len() * size_of::<Hidden>()
    }
}

/// Lays `own`, which holds the paths of `shape`, over `tree`. What is left of `own` on disk are
/// directories that both had.
pub(super) fn lay_over(
    tree: &mut Tree,
    own: &mut Tree,
    shape: &LayerShape,
    hiding: &Hiding,
) -> Result<(), EntryError> {
    for hidden in &hiding.hidden {
        match hidden {
            Hidden::At(path) => tree.remove_path(path)?,
            // Nothing of the layer's own is in there yet.
            Hidden::Below(path) => tree.purge(path, &LayerShape::default())?,
        }
    }
    if hiding.has_root {
        tree.adopt_meta(own, b"")?;
    }
    tree.keeper.notes.absorb(&mut own.keeper.notes);
    Merge { tree, own, both: HashSet::from([Vec::new()]), open: HashMap::new() }.run(shape)
}

struct Merge<'t> {
    tree: &'t mut Tree,
    own: &'t mut Tree,
    /// Directories that both trees have.
    both: HashSet<Vec<u8>>,
    open: HashMap<Vec<u8>, Rc<Pair>>,
}

/// One directory in both trees.
struct Pair {
    tree: OwnedFd,
    own: OwnedFd,
}

impl Merge<'_> {
    fn run(mut self, shape: &LayerShape) -> Result<(), EntryError> {
        // A directory stands before what is in it.
        for (path, made) in shape.iter() {
            let (parent, name) = split(path);
            // What is not in a directory of both has moved with one of those above it.
            if !self.both.contains(parent) {
                continue;
            }
            match made {
                Made::Dir { explicit } if self.tree.has_dir(path) => {
                    if *explicit {
                        self.tree.adopt_meta(self.own, path)?;
                    }
                    self.both.insert(path.to_vec());
                }
                Made::Dir { .. } => {
                    self.take_over(parent, name, path)?;
                    self.tree.adopt_dirs(self.own, path)?;
                }
                Made::Symlink(_) | Made::Other => self.take_over(parent, name, path)?,
            }
        }
        Ok(())
    }

    /// Moves `name` into the tree's directory `parent`, in place of what is there.
    fn take_over(&mut self, parent: &[u8], name: &[u8], path: &[u8]) -> Result<(), EntryError> {
        let pair = self.pair(parent)?;
        let rename = || rootdir::move_at(&pair.own, name, &pair.tree, name);
        if self.tree.has_dir(path) {
            self.tree.remove(&pair.tree, name, path)?;
        }
        match rename() {
            // A directory takes the place of nothing else by itself.
            Err(e) if is_in_the_way(&e) => {
                self.tree.remove(&pair.tree, name, path)?;
                Ok(rename()?)
            }
            other => Ok(other?),
        }
    }

    fn pair(&mut self, path: &[u8]) -> Result<Rc<Pair>, SysError> {
        if let Some(pair) = self.open.get(path) {
            return Ok(Rc::clone(pair));
        }
        if self.open.len() >= MAX_OPEN_DIRS / 2 {
            self.open.clear();
        }
        let pair = Rc::new(Pair { tree: self.tree.open_dir(path)?, own: self.own.open_dir(path)? });
        self.open.insert(path.to_vec(), Rc::clone(&pair));
        Ok(pair)
    }
}

fn is_in_the_way(error: &SysError) -> bool {
    matches!(error.errno(), Errno::ENOTDIR | Errno::EISDIR | Errno::EEXIST | Errno::ENOTEMPTY)
}
