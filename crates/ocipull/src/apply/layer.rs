//! One layer, entry by entry: onto the tree of those below it, or apart as long as they are not all
//! there.
//!
//! What an entry does depends on lower layers in two cases only. What it hides of them is noted and
//! done when the layer is laid over their tree ([`merge`](super::merge)); a hard link to a file of
//! theirs waits for that. Everything else is decided by the layer's own shape. From the moment at
//! which all lower layers are in, the layer goes on in their tree.

use std::collections::{BTreeSet, HashMap};
use std::io::BufRead;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::error::EntryError;
use super::limits::{Budget, MAX_ENTRIES, MAX_HIDING_BYTES, MAX_OPEN_DIRS, path_bytes};
use super::merge::{self, Hiding};
use super::meta::Metadata;
use super::name::{self, AUFS_LINKS_DIR, Name};
use super::shape::{LayerShape, Made};
use super::tar::{Entry, EntryKind, TarReader};
use super::tree::Tree;
use super::turns::Turns;

/// A layer being applied.
pub(super) struct Layer<'t> {
    turns: &'t Turns,
    budget: &'t Budget,
    /// From 0, lowest first.
    index: usize,
    /// Applied so far.
    entries: u64,
    /// Where entries are made: the merged tree, or a tree of the layer alone.
    pub(super) tree: Tree,
    /// What it will hide of lower layers, while it has a tree of its own.
    apart: Option<Hiding>,
    pub(super) shape: LayerShape,
    /// Links of lower layers to directories that this one takes for its own, if it is to do so.
    kept_links: Option<BTreeSet<Vec<u8>>>,
    /// Directories by the path that entries name them by. All of them are in `shape`, so whatever
    /// could make one stale shows there.
    open: HashMap<Vec<u8>, Rc<OpenDir>>,
}

pub(super) struct OpenDir {
    /// Free of links.
    pub(super) path: Vec<u8>,
    pub(super) fd: OwnedFd,
}

/// Where an entry goes.
pub(super) struct Place {
    pub(super) parent: Rc<OpenDir>,
    pub(super) name: Vec<u8>,
    pub(super) path: Vec<u8>,
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
            entries: 0,
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
        self.entries += 1;
        // A layer's own entries count for what it alone takes: with those of all layers, each of
        // several on their way could take what only one may.
        let own_bytes = path_bytes(self.entries);
        self.shape.allow_bytes(own_bytes);
        let is_apart = self.apart.is_some();
        self.tree.allow_bytes(if is_apart { own_bytes } else { self.budget.path_bytes() });
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
    pub(super) fn lay_down(&mut self) -> Result<(), EntryError> {
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

    pub(super) fn place(&mut self, path: &[u8]) -> Result<Place, EntryError> {
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
    pub(super) fn made(&mut self, place: &Place, made: Made) -> Result<(), EntryError> {
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
}
