//! One layer, entry by entry: onto the tree of those below it, or apart as long as they are not all
//! there.
//!
//! What an entry does depends on lower layers in two cases only. What it hides of them is noted and
//! done when the layer is laid over their tree ([`merge`](super::merge)); a hard link to a file of
//! theirs waits for that. Everything else is decided by the layer's own shape. From the moment at
//! which all lower layers are in, the layer goes on in their tree.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use ctsys::rootdir::{self, NodeKind};
use ctsys::{Errno, SysError};

use super::error::EntryError;
use super::limits::{Budget, MAX_ENTRIES, MAX_HIDING_BYTES, MAX_OPEN_DIRS};
use super::merge::{self, Hiding};
use super::meta::Metadata;
use super::name::{self, AUFS_LINKS_DIR, Name};
use super::shape::{LayerShape, Made};
use super::tar::sparse::Extent;
use super::tar::{Entry, EntryKind, TarReader};
use super::tree::Tree;
use super::turns::Turns;

/// A layer being applied.
pub(super) struct Layer<'t> {
    turns: &'t Turns,
    budget: &'t Budget,
    /// From 0, lowest first.
    index: usize,
    /// Where entries are made: the merged tree, or a tree of the layer alone.
    tree: Tree,
    /// What it will hide of lower layers, while it has a tree of its own.
    apart: Option<Hiding>,
    shape: LayerShape,
    /// Links of lower layers to directories that this one takes for its own, if it is to do so.
    kept_links: Option<BTreeSet<Vec<u8>>>,
    /// Directories by the path that entries name them by. All of them are in `shape`, so whatever
    /// could make one stale shows there.
    open: HashMap<Vec<u8>, Rc<OpenDir>>,
}

struct OpenDir {
    /// Free of links.
    path: Vec<u8>,
    fd: OwnedFd,
}

/// Where an entry goes.
struct Place {
    parent: Rc<OpenDir>,
    name: Vec<u8>,
    path: Vec<u8>,
}

impl<'t> Layer<'t> {
    /// Layer `index`, whose turn it may be already; if not, it begins in the empty tree `own`.
    pub(super) fn new(
        turns: &'t Turns,
        budget: &'t Budget,
        index: usize,
        own: Option<Tree>,
    ) -> Result<Self, EntryError> {
        let max_entries = usize::try_from(budget.limits().entries).unwrap_or(usize::MAX);
        let shape = LayerShape::new(max_entries.max(MAX_ENTRIES));
        let (tree, apart) = match own {
            Some(own) => (own, Some(Hiding::default())),
            None => (turns.take(index)?, None),
        };
        Ok(Self {
            turns,
            budget,
            index,
            tree,
            apart,
            shape,
            kept_links: None,
            open: HashMap::new(),
        })
    }

    /// From now on leaves lower layers' links to directories as they are where an entry would make a
    /// directory in their place. Waits for the lower layers: only their tree shows their links.
    pub(super) fn keep_dirlinks(&mut self) -> Result<(), EntryError> {
        self.kept_links = Some(BTreeSet::new());
        self.lay_down()
    }

    /// Applies an entry, whose data is read from `reader`.
    pub(super) fn apply<R: BufRead>(
        &mut self,
        mut entry: Entry,
        reader: &mut TarReader<R>,
    ) -> Result<(), EntryError> {
        self.budget.take_entry()?;
        self.shape.allow_bytes(self.budget.path_bytes());
        self.tree.allow_bytes(self.budget.path_bytes());
        if self.apart.is_some() && self.turns.has_come(self.index) {
            self.lay_down()?;
        }
        match Name::parse(&entry.path)? {
            Name::Skipped => Ok(()),
            Name::Whiteout(path) => self.whiteout(&path),
            Name::Opaque(path) => self.opaque(&path),
            Name::Path(path) if path.is_empty() => self.root(&mut entry),
            Name::Path(path) => match entry.kind {
                EntryKind::Directory => self.directory(&path, &mut entry),
                EntryKind::HardLink => self.hard_link(&path, &entry.link),
                _ => self.leaf(&path, &mut entry, reader),
            },
        }
    }

    fn leaf<R: BufRead>(
        &mut self,
        path: &[u8],
        entry: &mut Entry,
        reader: &mut TarReader<R>,
    ) -> Result<(), EntryError> {
        let place = self.place(path)?;
        let meta = Metadata::take(entry)?;
        match entry.kind {
            EntryKind::File => self.file(&place, &meta, entry, reader),
            EntryKind::Symlink => self.symlink(&place, &meta, &entry.link),
            EntryKind::Fifo => self.node(&place, &meta, NodeKind::Fifo),
            EntryKind::CharDevice => self.device(&place, &meta, entry, NodeKind::Char),
            EntryKind::BlockDevice => self.device(&place, &meta, entry, NodeKind::Block),
            EntryKind::Unknown(flag) => Err(EntryError::UnknownType(flag)),
            EntryKind::Directory | EntryKind::HardLink => Ok(()),
        }
    }

    /// Ends the layer, in the merged tree, and passes that on.
    pub(super) fn finish(mut self) -> Result<(), EntryError> {
        self.lay_down()?;
        // AUFS's directory of link targets was only there to link to.
        if self.shape.get(AUFS_LINKS_DIR).is_some() {
            self.tree.remove_path(AUFS_LINKS_DIR)?;
        }
        self.turns.pass_on(self.index, self.tree);
        Ok(())
    }

    /// Waits for the lower layers, if the layer is apart from them, and goes on in their tree.
    fn lay_down(&mut self) -> Result<(), EntryError> {
        let Some(hiding) = self.apart.take() else { return Ok(()) };
        let tree = self.turns.take(self.index)?;
        let mut own = std::mem::replace(&mut self.tree, tree);
        self.tree.allow_bytes(self.budget.path_bytes());
        self.open.clear();
        merge::lay_over(&mut self.tree, &mut own, &self.shape, &hiding)
    }

    fn root(&mut self, entry: &mut Entry) -> Result<(), EntryError> {
        if entry.kind != EntryKind::Directory {
            return Err(EntryError::RootKind);
        }
        if let Some(hiding) = &mut self.apart {
            hiding.has_root = true;
        }
        let root = self.tree.open_dir(b"")?;
        self.tree.set_dir(&root, b"", Metadata::take(entry)?)
    }

    /// Hides what lower layers have at `path`. Only true directories are gone through: below a
    /// link there is nothing of that name in the merged tree.
    fn whiteout(&mut self, path: &[u8]) -> Result<(), EntryError> {
        if self.notes_hiding(|hiding| hiding.hide_at(path))? {
            return Ok(());
        }
        match self.shape.get(path) {
            // The layer itself has it, by an entry that came earlier: that stays, and what it
            // would merge with goes.
            Some(&Made::Dir { explicit }) => {
                if !explicit {
                    self.tree.reset_dir(path)?;
                }
                self.tree.purge(path, &self.shape)
            }
            Some(Made::Symlink(_) | Made::Other) => Ok(()),
            None => self.tree.remove_path(path),
        }
    }

    /// Hides what lower layers have in the directory `path`.
    fn opaque(&mut self, path: &[u8]) -> Result<(), EntryError> {
        if self.notes_hiding(|hiding| hiding.hide_below(path))? {
            return Ok(());
        }
        self.tree.purge(path, &self.shape)
    }

    /// Notes what is hidden of lower layers, if this one is apart from them. One that hides more
    /// than is kept in memory waits for its turn instead.
    fn notes_hiding(&mut self, note: impl FnOnce(&mut Hiding)) -> Result<bool, EntryError> {
        match &mut self.apart {
            Some(hiding) if hiding.bytes() < MAX_HIDING_BYTES => {
                note(hiding);
                Ok(true)
            }
            Some(_) => self.lay_down().map(|()| false),
            None => Ok(false),
        }
    }

    fn place(&mut self, path: &[u8]) -> Result<Place, EntryError> {
        let (parent, name) = name::split(path);
        // Before and after the layer's links are followed.
        self.budget.allow_path(path)?;
        let parent = self.parent(parent)?;
        let path = name::join(&parent.path, name);
        self.budget.allow_path(&path)?;
        Ok(Place { parent, name: name.to_vec(), path })
    }

    /// The directory that an entry's parent path means, made where it lacks.
    fn parent(&mut self, raw: &[u8]) -> Result<Rc<OpenDir>, EntryError> {
        if let Some(open) = self.open.get(raw) {
            return Ok(Rc::clone(open));
        }
        self.keep_links(raw)?;
        let path = self.shape.resolve_dir(raw)?;
        let fd = self.tree.ensure_dir(&path)?;
        self.shape.imply_dirs(&path)?;
        Ok(self.keep_open(raw, OpenDir { path, fd }))
    }

    /// Notes the lower layers' links to directories on the way to the directory `raw`, itself
    /// included, as if the layer had made them.
    fn keep_links(&mut self, raw: &[u8]) -> Result<(), EntryError> {
        while let Some(kept) = &mut self.kept_links {
            let path = self.shape.resolve_dir(raw)?;
            let Some(lacking) = self.tree.first_lacking(&path) else { break };
            if self.shape.get(lacking).is_some() {
                break;
            }
            let Some(target) = self.tree.link_target_dir(lacking)? else { break };
            kept.insert(lacking.to_vec());
            // Its own target may lead over further links of lower layers; this one does not.
            self.shape.insert(lacking, Made::Symlink([b"/", target.as_slice()].concat().into()))?;
        }
        Ok(())
    }

    /// The place of a directory's entry: where a link that is kept leads to, if it is one.
    fn directory_place(&mut self, path: &[u8]) -> Result<Place, EntryError> {
        let place = self.place(path)?;
        self.keep_links(&place.path)?;
        if self.kept_links.as_ref().is_some_and(|kept| kept.contains(&place.path)) {
            let target = self.shape.resolve_dir(&place.path)?;
            return self.place(&target);
        }
        Ok(place)
    }

    fn keep_open(&mut self, raw: &[u8], dir: OpenDir) -> Rc<OpenDir> {
        if self.open.len() >= MAX_OPEN_DIRS {
            self.open.clear();
        }
        let dir = Rc::new(dir);
        self.open.insert(raw.to_vec(), Rc::clone(&dir));
        dir
    }

    /// Notes what was made at a place. What was kept open may have been below something that it
    /// replaced, or reached through it.
    fn made(&mut self, place: &Place, made: Made) -> Result<(), EntryError> {
        match self.shape.insert(&place.path, made)? {
            Some(Made::Dir { .. }) => {
                self.shape.forget_below(&place.path);
                self.open.clear();
            }
            Some(Made::Symlink(_)) => self.open.clear(),
            Some(Made::Other) | None => {}
        }
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        place: &Place,
        meta: &Metadata,
        entry: &Entry,
        reader: &mut TarReader<R>,
    ) -> Result<(), EntryError> {
        let mut file = self.create(place)?;
        match &entry.extents {
            None => copy(reader, &mut file, u64::MAX)?,
            Some(extents) => copy_sparse(reader, &mut file, extents, entry.size)?,
        }
        self.tree.keeper.set_open(&file, meta, &place.path)?;
        self.made(place, Made::Other)
    }

    fn create(&mut self, place: &Place) -> Result<File, EntryError> {
        let parent = &place.parent.fd;
        let make = || rootdir::create_file_at(parent, &place.name);
        self.tree.make_new(parent, &place.name, &place.path, make)
    }

    fn directory(&mut self, path: &[u8], entry: &mut Entry) -> Result<(), EntryError> {
        let mut place = self.directory_place(path)?;
        let before = self.shape.get(&place.path);
        let replaces_link = matches!(before, Some(Made::Symlink(_)));
        // What the layer had there before replaced all that lower ones have.
        if matches!(before, Some(Made::Symlink(_) | Made::Other))
            && self.apart.is_some()
            && !self.notes_hiding(|hiding| hiding.hide_at(&place.path))?
        {
            place = self.place(path)?;
        }
        let meta = Metadata::take(entry)?;
        let fd = self.tree.make_dir(&place.parent.fd, &place.name, &place.path)?;
        self.tree.set_dir(&fd, &place.path, meta)?;
        self.shape.insert(&place.path, Made::Dir { explicit: true })?;
        if replaces_link {
            self.open.clear();
        }
        self.keep_open(path, OpenDir { path: place.path, fd });
        Ok(())
    }

    fn symlink(&mut self, place: &Place, meta: &Metadata, target: &[u8]) -> Result<(), EntryError> {
        let parent = &place.parent.fd;
        let make = || rootdir::symlink_at(parent, &place.name, target);
        self.tree.make_new(parent, &place.name, &place.path, make)?;
        self.tree.keeper.set_leaf(parent.as_fd(), &place.name, meta, &place.path, false)?;
        self.made(place, Made::Symlink(target.into()))
    }

    /// A further name for a file of this layer or of a lower one. It has no metadata of its own:
    /// that of the file stands.
    fn hard_link(&mut self, path: &[u8], link: &[u8]) -> Result<(), EntryError> {
        let missing = || EntryError::NoLinkTarget(link.to_vec());
        let target = name::clean(link)?;
        if target.is_empty() {
            return Err(EntryError::LinkToDirectory(link.to_vec()));
        }
        let (target_parent, target_name) = name::split(&target);
        let target_parent = self.shape.resolve_dir(target_parent)?;
        let target = name::join(&target_parent, target_name);
        if self.shape.get(&target).is_none() {
            // It may be a lower layer's.
            self.lay_down()?;
        }
        let place = self.place(path)?;
        let from = self.tree.find_dir(&target_parent)?.ok_or_else(missing)?;
        let stat = rootdir::stat_at(&from, target_name)?.ok_or_else(missing)?;
        if rootdir::is_type(&stat, S_IFDIR) {
            return Err(EntryError::LinkToDirectory(link.to_vec()));
        }
        let below = target.strip_prefix(place.path.as_slice());
        if below.is_some_and(|rest| rest.starts_with(b"/")) {
            // To make the link its own target would have to go.
            return Err(missing());
        }
        let made = match self.shape.get(&target) {
            Some(made) => made.clone(),
            None if rootdir::is_type(&stat, S_IFLNK) => {
                Made::Symlink(rootdir::read_link_at(&from, target_name)?.into())
            }
            None => Made::Other,
        };
        if target == place.path {
            // It is there, and by this entry the layer's own: its whiteouts let it stand.
            return self.made(&place, made);
        }
        let parent = &place.parent.fd;
        let make = || rootdir::link_at(&from, target_name, parent, &place.name);
        self.tree.make_new(parent, &place.name, &place.path, make)?;
        self.made(&place, made)
    }

    fn node(&mut self, place: &Place, meta: &Metadata, kind: NodeKind) -> Result<(), EntryError> {
        let parent = &place.parent.fd;
        let make = || rootdir::make_node_at(parent, &place.name, kind);
        self.tree.make_new(parent, &place.name, &place.path, make)?;
        self.tree.keeper.set_leaf(parent.as_fd(), &place.name, meta, &place.path, true)?;
        self.made(place, Made::Other)
    }

    /// A device, or an empty file in its place where none may be made.
    fn device(
        &mut self,
        place: &Place,
        meta: &Metadata,
        entry: &Entry,
        kind: impl Fn(u32, u32) -> NodeKind,
    ) -> Result<(), EntryError> {
        let (major, minor) = entry.device;
        let numbers = (u32::try_from(major).ok(), u32::try_from(minor).ok());
        let (Some(major), Some(minor)) = numbers else {
            return Err(EntryError::Device { major, minor });
        };
        let kind = kind(major, minor);
        if self.tree.keeper.makes_devices() {
            match self.node(place, meta, kind) {
                // Root without CAP_MKNOD, as in most containers.
                Err(EntryError::Sys(e)) if is_refused_node(&e) => {}
                other => return other,
            }
        }
        let file = self.create(place)?;
        self.tree.keeper.set_open(&file, meta, &place.path)?;
        self.tree.keeper.notes.devices.add(&place.path);
        self.made(place, Made::Other)
    }
}

// Of stat(2), the same on all architectures of Linux.
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;

fn is_refused_node(error: &SysError) -> bool {
    error.call() == "mknodat" && error.errno() == Errno::EPERM
}

/// Copies up to `limit` bytes of the entry's data.
fn copy<R: BufRead>(
    reader: &mut TarReader<R>,
    file: &mut File,
    mut limit: u64,
) -> Result<(), EntryError> {
    while limit > 0 {
        let chunk = reader.data()?;
        if chunk.is_empty() {
            break;
        }
        let length = usize::try_from(limit).unwrap_or(usize::MAX).min(chunk.len());
        let chunk = chunk.get(..length).unwrap_or_default();
        file.write_all(chunk).map_err(|e| io_error("write", &e))?;
        reader.consume(length);
        limit -= length as u64;
    }
    Ok(())
}

fn copy_sparse<R: BufRead>(
    reader: &mut TarReader<R>,
    file: &mut File,
    extents: &[Extent],
    size: u64,
) -> Result<(), EntryError> {
    for extent in extents {
        file.seek(SeekFrom::Start(extent.offset)).map_err(|e| io_error("lseek", &e))?;
        copy(reader, file, extent.length)?;
    }
    Ok(file.set_len(size).map_err(|e| io_error("ftruncate", &e))?)
}

fn io_error(call: &'static str, error: &std::io::Error) -> SysError {
    SysError::from_io(call, String::new(), error)
}
