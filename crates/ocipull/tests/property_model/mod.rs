//! What layers mean, in memory: written from image-spec's layer.md and the sentences in the docs of
//! `ocipull::apply`, without a look at how the unpacker does it.
//!
//! A layer is kept apart from the tree below it while its entries are read, and laid over it at the
//! end. Whiteouts and replaced paths are taken out of the tree below at once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::rc::Rc;

use testkit::tree::escape;

/// Metadata of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
}

/// An entry of a layer; paths as they stand in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Dir(Vec<u8>, Meta),
    Leaf(Vec<u8>, Kind, Meta),
    /// With what its entry says about the file, which counts for nothing.
    HardLink(Vec<u8>, Vec<u8>, Option<Meta>),
    Whiteout(Vec<u8>),
    Opaque(Vec<u8>),
}

/// What is no directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Fifo,
    Char(u32, u32),
}

/// Why a layer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A file of the same layer on the way.
    NotADirectory,
    /// A loop of links.
    Links,
    /// A hard link to nothing.
    NoTarget,
    /// A hard link to a directory.
    DirTarget,
    /// The root as something else than a directory.
    Root,
    /// Out of the root.
    Escapes,
}

/// How the tree is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// As root stores it.
    Root,
    /// Without owners and devices.
    Single,
}

/// Names, from the root on.
pub(crate) type Path = Vec<Vec<u8>>;

#[derive(Clone, Debug)]
enum Node {
    Dir(Dir),
    /// Names of one file share it.
    Leaf(Rc<(Kind, Meta)>),
}

#[derive(Clone, Debug, Default)]
struct Dir {
    /// `None` when no entry describes it.
    meta: Option<Meta>,
    children: BTreeMap<Vec<u8>, Node>,
}

/// The merged tree, and the layer that is being read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    lower: Dir,
    upper: Dir,
}

/// AUFS's directory of link targets is not part of the result.
pub(crate) const AUFS_LINKS: &[u8] = b".wh..wh.plnk";

const MAX_LINKS: usize = 40;

impl Model {
    /// The tree of whole stacks.
    pub(crate) fn of(layers: &[Vec<Op>]) -> Result<Self, Refusal> {
        let mut model = Self::default();
        for layer in layers {
            layer.iter().try_for_each(|op| model.apply(op))?;
            model.end_layer();
        }
        Ok(model)
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), Refusal> {
        match op {
            Op::Whiteout(path) => {
                let path = clean(path)?;
                if self.upper.is_open(&path[..path.len() - 1]) {
                    self.lower.take(&path);
                }
            }
            Op::Opaque(path) => {
                let path = clean(path)?;
                if self.upper.is_open(&path)
                    && let Some(dir) = self.lower.dir(&path)
                {
                    dir.children.clear();
                }
            }
            Op::Dir(path, meta) => self.directory(&clean(path)?, meta)?,
            Op::Leaf(path, kind, meta) => {
                let path = self.place(&clean(path)?)?;
                self.put(&path, Rc::new((kind.clone(), meta.clone())));
            }
            Op::HardLink(path, target, _) => {
                let path = self.place(&clean(path)?)?;
                let leaf = self.link_target(&path, target)?;
                self.put(&path, leaf);
            }
        }
        Ok(())
    }

    pub(crate) fn end_layer(&mut self) {
        let mut upper = std::mem::take(&mut self.upper);
        upper.children.remove(AUFS_LINKS);
        self.lower.merge(upper);
    }

    /// Whether this layer has entries for that directory and all on the way to it.
    pub(crate) fn has_own_dir(&self, path: &[u8]) -> bool {
        let Ok(path) = clean(path) else { return false };
        let mut dir = &self.upper;
        path.iter().all(|name| match dir.children.get(name) {
            Some(Node::Dir(next)) if next.meta.is_some() => {
                dir = next;
                true
            }
            _ => false,
        })
    }

    /// Whether there is nothing but directories, in this layer or below, on the way to the path and
    /// at it.
    pub(crate) fn is_plain(&self, path: &[u8]) -> bool {
        clean(path).is_ok_and(|path| self.upper.is_open(&path) && self.lower.is_open(&path))
    }

    /// Whether this layer has something at that path.
    pub(crate) fn has_own(&self, path: &[u8]) -> bool {
        clean(path).is_ok_and(|path| self.upper.get(&path).is_some())
    }

    /// Whether the merged tree has that directory.
    pub(crate) fn has_dir(&self, path: &[u8]) -> bool {
        let is_dir = |tree: &Dir, path: &Path| matches!(tree.get(path), Some(Node::Dir(_)));
        clean(path).is_ok_and(|path| {
            path.is_empty() || is_dir(&self.upper, &path) || is_dir(&self.lower, &path)
        })
    }

    /// The file that a hard link to `target` would name.
    pub(crate) fn leaf_of_target(&self, target: &[u8]) -> Option<(Kind, Meta)> {
        let nowhere = vec![Vec::new()];
        Some(self.link_target(&nowhere, target).ok()?.as_ref().clone())
    }

    /// The path with this layer's links on its way followed, where it can be made.
    pub(crate) fn place_of(&self, path: &[u8]) -> Option<Path> {
        self.clone().place(&clean(path).ok()?).ok()
    }

    /// The tree as `testkit::tree` writes it.
    pub(crate) fn text(&self, stored: Stored) -> String {
        let mut lines = BTreeMap::new();
        let mut first_names = BTreeMap::new();
        lines.insert(".".to_owned(), (dir_line(&self.lower, stored), None));
        self.lower.list("", stored, &mut lines);
        for (path, (_, file)) in &lines {
            if let Some(file) = file {
                first_names.entry(*file).or_insert(path.clone());
            }
        }
        let line = |(path, (line, file)): (&String, &(String, Option<usize>))| {
            let first = file.and_then(|file| first_names.get(&file)).filter(|first| *first != path);
            let link = first.map(|first| format!(" hardlink-of={first}")).unwrap_or_default();
            format!("{path} {line}{link}\n")
        };
        lines.iter().map(line).collect()
    }

    fn directory(&mut self, path: &[Vec<u8>], meta: &Meta) -> Result<(), Refusal> {
        if path.is_empty() {
            self.upper.meta = Some(meta.clone());
            return Ok(());
        }
        let path = self.place(path)?;
        self.own_dir(&path).meta = Some(meta.clone());
        Ok(())
    }

    /// The path with its parents free of links, and those made.
    fn place(&mut self, path: &[Vec<u8>]) -> Result<Path, Refusal> {
        let Some((name, parent)) = path.split_last() else { return Err(Refusal::Root) };
        let mut place = self.resolve(parent)?;
        self.own_dir(&place);
        place.push(name.clone());
        Ok(place)
    }

    /// Follows the links that this layer has itself.
    fn resolve(&self, path: &[Vec<u8>]) -> Result<Path, Refusal> {
        let mut todo: Path = path.iter().rev().cloned().collect();
        let mut done = Path::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    done.pop();
                    continue;
                }
                _ => done.push(name),
            }
            let Some(Node::Leaf(leaf)) = self.upper.get(&done) else { continue };
            let Kind::Symlink(target) = &leaf.0 else { return Err(Refusal::NotADirectory) };
            links += 1;
            if links > MAX_LINKS {
                return Err(Refusal::Links);
            }
            done.pop();
            if target.starts_with(b"/") {
                done.clear();
            }
            todo.extend(target.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
        }
        Ok(done)
    }

    /// The layer's own directory of that path; whatever else was there is replaced.
    fn own_dir(&mut self, path: &[Vec<u8>]) -> &mut Dir {
        let mut dir = &mut self.upper;
        for (depth, name) in path.iter().enumerate() {
            if matches!(self.lower.get(&path[..=depth]), Some(Node::Leaf(_))) {
                self.lower.take(&path[..=depth]);
            }
            let node = dir.children.entry(name.clone());
            let node = match node {
                Entry::Occupied(node) => node.into_mut(),
                Entry::Vacant(node) => node.insert(Node::Dir(Dir::default())),
            };
            if matches!(node, Node::Leaf(_)) {
                *node = Node::Dir(Dir::default());
            }
            let Node::Dir(next) = node else { unreachable!("made a line before") };
            dir = next;
        }
        dir
    }

    fn put(&mut self, path: &[Vec<u8>], leaf: Rc<(Kind, Meta)>) {
        self.lower.take(path);
        let Some((name, parent)) = path.split_last() else { return };
        self.own_dir(parent).children.insert(name.clone(), Node::Leaf(leaf));
    }

    fn link_target(&self, path: &Path, target: &[u8]) -> Result<Rc<(Kind, Meta)>, Refusal> {
        let target = clean(target)?;
        let Some((name, parent)) = target.split_last() else { return Err(Refusal::DirTarget) };
        let mut target = self.resolve(parent)?;
        target.push(name.clone());
        match self.upper.get(&target).or_else(|| self.lower.get(&target)) {
            None => Err(Refusal::NoTarget),
            Some(Node::Dir(_)) => Err(Refusal::DirTarget),
            // The link would take the place of a directory that its target is in.
            Some(_) if target.len() > path.len() && target.starts_with(path) => {
                Err(Refusal::NoTarget)
            }
            Some(Node::Leaf(leaf)) => Ok(Rc::clone(leaf)),
        }
    }
}

impl Dir {
    fn get(&self, path: &[Vec<u8>]) -> Option<&Node> {
        let (name, rest) = path.split_first()?;
        let node = self.children.get(name)?;
        match node {
            _ if rest.is_empty() => Some(node),
            Node::Dir(dir) => dir.get(rest),
            Node::Leaf(_) => None,
        }
    }

    fn dir(&mut self, path: &[Vec<u8>]) -> Option<&mut Self> {
        let Some((name, rest)) = path.split_first() else { return Some(self) };
        match self.children.get_mut(name)? {
            Node::Dir(dir) => dir.dir(rest),
            Node::Leaf(_) => None,
        }
    }

    fn take(&mut self, path: &[Vec<u8>]) {
        if let Some((name, parent)) = path.split_last()
            && let Some(dir) = self.dir(parent)
        {
            dir.children.remove(name);
        }
    }

    /// Whether nothing of this tree keeps one from what is below that path.
    fn is_open(&self, path: &[Vec<u8>]) -> bool {
        (1..=path.len()).all(|end| !matches!(self.get(&path[..end]), Some(Node::Leaf(_))))
    }

    fn merge(&mut self, upper: Self) {
        self.meta = upper.meta.or(self.meta.take());
        for (name, node) in upper.children {
            match (self.children.get_mut(&name), node) {
                (Some(Node::Dir(below)), Node::Dir(above)) => below.merge(above),
                (_, node) => {
                    self.children.insert(name, node);
                }
            }
        }
    }

    fn list(
        &self,
        prefix: &str,
        stored: Stored,
        lines: &mut BTreeMap<String, (String, Option<usize>)>,
    ) {
        for (name, node) in &self.children {
            let path = format!("{prefix}{}", escape(name));
            let line = match node {
                Node::Dir(dir) => {
                    dir.list(&format!("{path}/"), stored, lines);
                    (dir_line(dir, stored), None)
                }
                Node::Leaf(leaf) => (leaf_line(leaf, stored), Some(Rc::as_ptr(leaf).addr())),
            };
            lines.insert(path, line);
        }
    }
}

/// The names of a path; `..` takes one back, and fails above the root.
pub(crate) fn clean(path: &[u8]) -> Result<Path, Refusal> {
    let mut names = Path::new();
    for name in path.split(|&b| b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop().ok_or(Refusal::Escapes)?),
            _ => names.push(name.to_vec()),
        }
    }
    Ok(names)
}

fn dir_line(dir: &Dir, stored: Stored) -> String {
    let implied = || Meta { mode: 0o755, owner: (0, 0), mtime: (0, 0), xattrs: BTreeMap::new() };
    let meta = dir.meta.clone().unwrap_or_else(implied);
    format!("dir mode={:04o}{}{}", meta.mode, owner_and_time(&meta, stored), xattrs(&meta))
}

fn leaf_line((kind, meta): &(Kind, Meta), stored: Stored) -> String {
    let mode = format!(" mode={:04o}", meta.mode);
    let common = owner_and_time(meta, stored);
    let file = |data: &[u8]| {
        let digest = testkit::digest(data).replace(':', "=");
        format!("file{mode}{common} size={} {digest}", data.len())
    };
    let line = match kind {
        Kind::File(data) => file(data),
        Kind::Symlink(target) => format!("symlink{common} target={}", escape(target)),
        Kind::Fifo => format!("fifo{mode}{common}"),
        Kind::Char(..) if stored == Stored::Single => file(b""),
        Kind::Char(major, minor) => format!("char{mode}{common} device={major}:{minor}"),
    };
    line + &xattrs(meta)
}

fn owner_and_time(meta: &Meta, stored: Stored) -> String {
    let owner = match stored {
        Stored::Root => format!(" owner={}:{}", meta.owner.0, meta.owner.1),
        Stored::Single => String::new(),
    };
    format!("{owner} mtime={}.{:09}", meta.mtime.0, meta.mtime.1)
}

fn xattrs(meta: &Meta) -> String {
    meta.xattrs.iter().map(|(name, value)| format!(" xattr={name}={}", escape(value))).collect()
}
