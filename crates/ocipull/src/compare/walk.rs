//! Both trees together, name by name.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::vec::IntoIter;

use ctsys::rootdir::{self, RootDir};
use ctsys::{Errno, SysError, held};

use super::content::{Pieces, Unread};
use super::entry::{Aspect, Kind};
use super::links::Links;
use super::look::{Look, Seen, look, see};
use super::{Change, CompareError, Difference, Listener, Side};

/// Compares the tree in the open directory `tree` with that in `image`, as the image gives it, and
/// tells `listener` how it differs. `tree` may be changed meanwhile by anybody: what is told of a
/// path is then true of one moment.
pub fn compare(
    image: OwnedFd,
    tree: OwnedFd,
    listener: &mut dyn Listener,
) -> Result<(), CompareError> {
    let mut walk = Walk {
        image: RootDir::new(image),
        tree: RootDir::new(tree),
        links: Links::default(),
        pieces: Pieces::new(),
        listener,
    };
    let hold = |side, root: &RootDir| {
        root.fd().try_clone_to_owned().map_err(|e| {
            let source = SysError::from_io("fcntl", "F_DUPFD_CLOEXEC", &e);
            CompareError::Look { path: Vec::new(), side, source }
        })
    };
    let held = (hold(Side::Image, &walk.image)?, hold(Side::Tree, &walk.tree)?);
    let see = |side, held| see(held).map_err(failed(side, b""));
    let roots = Both { image: see(Side::Image, held.0)?, tree: see(Side::Tree, held.1)? };
    walk.all(roots)
}

struct Walk<'a> {
    image: RootDir,
    tree: RootDir,
    links: Links,
    pieces: Pieces,
    listener: &'a mut dyn Listener,
}

/// Something that both trees have at a path.
struct Both {
    image: Seen,
    tree: Seen,
}

/// A directory of both trees, open. That of the compared tree may have gone since it was entered.
struct Dirs {
    image: OwnedFd,
    tree: Option<OwnedFd>,
}

/// A directory that is being walked: its path, and the names that are still to come.
struct Level {
    path: Vec<u8>,
    names: IntoIter<CString>,
}

impl Walk<'_> {
    /// Only the innermost directory is open. Those around it are opened anew, by their path from
    /// the root, as no depth is to cost more descriptors than another.
    fn all(&mut self, roots: Both) -> Result<(), CompareError> {
        self.both(b"", &roots)?;
        let (mut dirs, level) = self.enter(Vec::new(), &roots)?;
        let mut levels = vec![level];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                // Those around it that have no more names need not be opened again.
                while levels.pop_if(|level| level.names.as_slice().is_empty()).is_some() {}
                if let Some(outer) = levels.last() {
                    dirs = self.reopen(&outer.path)?;
                }
                continue;
            };
            let path = joined(&level.path, name.to_bytes());
            if let Some(inner) = self.name(&dirs, name.to_bytes(), &path)? {
                let level;
                (dirs, level) = self.enter(path, &inner)?;
                levels.push(level);
            }
        }
        Ok(())
    }

    /// Opens a directory that both have, with the names of both in order.
    fn enter(&self, path: Vec<u8>, both: &Both) -> Result<(Dirs, Level), CompareError> {
        let open = |side, seen: &Seen| {
            let dir = rootdir::open_dir_at(&seen.held, b".").map_err(failed(side, &path))?;
            let names = rootdir::names(&dir).map_err(failed(side, &path))?;
            Ok((dir, names))
        };
        let (image, mut names) = open(Side::Image, &both.image)?;
        let (tree, more) = open(Side::Tree, &both.tree)?;
        names.extend(more);
        names.sort_unstable();
        names.dedup();
        Ok((Dirs { image, tree: Some(tree) }, Level { path, names: names.into_iter() }))
    }

    fn reopen(&self, path: &[u8]) -> Result<Dirs, CompareError> {
        let image = self.image.open_dir(path).map_err(failed(Side::Image, path))?;
        let tree = match self.tree.open_dir(path) {
            // Removed, or replaced by a link or a file, since it was entered.
            Err(e) if matches!(e.errno(), Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => None,
            other => Some(other.map_err(failed(Side::Tree, path))?),
        };
        Ok(Dirs { image, tree })
    }

    /// Compares what stands at a name; gives it back where both have a directory to enter.
    fn name(
        &mut self,
        dirs: &Dirs,
        name: &[u8],
        path: &[u8],
    ) -> Result<Option<Both>, CompareError> {
        if self.listener.is_over() {
            return Err(CompareError::Over);
        }
        let image = look(dirs.image.as_fd(), name).map_err(failed(Side::Image, path))?;
        let tree = dirs.tree.as_ref().map(AsFd::as_fd);
        let tree = tree.map_or(Ok(Look::Nothing), |dir: BorrowedFd<'_>| look(dir, name));
        let tree = tree.map_err(failed(Side::Tree, path))?;
        match (image, tree) {
            (Look::Nothing, Look::Nothing) => {}
            (Look::Nothing, Look::There(seen)) => {
                self.tell(path, seen.entry.is_dir(), Change::Added)?;
            }
            (Look::Nothing, Look::Mounted(is_dir)) => self.tell(path, is_dir, Change::Added)?,
            (Look::There(seen), Look::Nothing) => {
                self.tell(path, seen.entry.is_dir(), Change::Removed)?;
            }
            (Look::There(image), Look::There(tree)) => {
                let both = Both { image, tree };
                self.both(path, &both)?;
                let are_dirs = both.image.entry.is_dir() && both.tree.entry.is_dir();
                return Ok(are_dirs.then_some(both));
            }
            (Look::There(_), Look::Mounted(is_dir)) => {
                self.tell(path, is_dir, Change::Changed(vec![Aspect::Mount]))?;
            }
            // Nobody mounts in a tree that only we know of.
            (Look::Mounted(_), _) => {
                let source = SysError::new("openat2", "RESOLVE_NO_XDEV", Errno::EXDEV);
                return Err(failed(Side::Image, path)(source));
            }
        }
        Ok(None)
    }

    fn both(&mut self, path: &[u8], both: &Both) -> Result<(), CompareError> {
        let Both { image, tree } = both;
        let mut aspects = image.entry.differences(&tree.entry);
        if !aspects.contains(&Aspect::Type) {
            if !self.links.agree(image.named, tree.named) {
                aspects.push(Aspect::Links);
            }
            if let (Kind::File(size), Kind::File(other)) = (&image.entry.kind, &tree.entry.kind)
                && size == other
                && !self.has_same_content(path, both, *size)?
            {
                aspects.push(Aspect::Content);
            }
        }
        if aspects.is_empty() {
            return Ok(());
        }
        aspects.sort_unstable();
        self.tell(path, tree.entry.is_dir(), Change::Changed(aspects))
    }

    fn has_same_content(
        &mut self,
        path: &[u8],
        Both { image, tree }: &Both,
        size: u64,
    ) -> Result<bool, CompareError> {
        if size == 0 {
            return Ok(true);
        }
        let open = |side, seen: &Seen| held::open(&seen.held).map_err(failed(side, path));
        let files = (&open(Side::Image, image)?, &open(Side::Tree, tree)?);
        let skip_holes = image.is_sparse && tree.is_sparse;
        let is_over = &mut || self.listener.is_over();
        self.pieces.are_same(files, size, skip_holes, is_over).map_err(|unread| match unread {
            Unread::Of(side, source) => failed(side, path)(source),
            Unread::Over => CompareError::Over,
        })
    }

    fn tell(&mut self, path: &[u8], is_dir: bool, change: Change) -> Result<(), CompareError> {
        let difference = Difference { path: path.to_vec(), is_dir, change };
        self.listener.found(&difference).map_err(CompareError::Listener)
    }
}

fn failed(side: Side, path: &[u8]) -> impl FnOnce(SysError) -> CompareError {
    move |source| CompareError::Look { path: path.to_vec(), side, source }
}

fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}
