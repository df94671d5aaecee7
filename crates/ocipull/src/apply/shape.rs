//! The shape of one layer: which paths it made, as what. Pure.
//!
//! A layer is a tree of its own, that of a directory which overlayfs lays over the lower ones. So
//! it is here, not on disk, that a path is resolved:
//!
//! - A symbolic link that *this* layer made is followed within the root, as Docker and containerd
//!   do when they unpack a layer.
//! - A lower layer's symbolic link is not followed: the layer's own directory of that name,
//!   written or implied, shadows it. With `lib -> usr/lib` below, an entry `lib/x` makes a real
//!   directory `lib` that has only `x` (umoci would follow the link instead).
//!
//! What comes out is a path without links. Nothing on disk is asked, so nothing on disk can
//! mislead it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::limits::{
    FREE_PATHS_BYTES, MAX_ENTRIES, MAX_LINKS_FOLLOWED, MAX_PATH_BYTES, MAX_WALKED_BYTES,
};
use super::name::{join, quoted, split};

/// What the layer has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// A directory: by an entry of its own, or implied by a path below it.
    Dir {
        /// Whether an entry says so.
        explicit: bool,
    },
    /// A symbolic link with its target.
    Symlink(Box<[u8]>),
    /// Anything else.
    Other,
}

impl Made {
    /// What it takes beside its path.
    fn bytes(&self) -> usize {
        match self {
            Self::Symlink(target) => target.len(),
            Self::Dir { .. } | Self::Other => 0,
        }
    }
}

/// Why a path cannot be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Something on the way is no directory.
    #[error("{} in the same layer is not a directory", quoted(.0))]
    NotADirectory(Vec<u8>),
    /// A loop, or more links than the kernel would follow.
    #[error("more than {MAX_LINKS_FOLLOWED} symbolic links on the way")]
    TooManyLinks,
    /// Longer than a path may be, once its links are followed.
    #[error("the path is longer than {MAX_PATH_BYTES} bytes once its links are followed")]
    TooLong,
    /// Past [`MAX_ENTRIES`], or what it was raised to.
    #[error("the layer has more than {0} paths")]
    TooManyEntries(usize),
    /// Past what so many entries may have.
    #[error("the paths together are longer than {0} bytes")]
    TooManyBytes(usize),
    /// Past [`MAX_WALKED_BYTES`].
    #[error("the layer's paths and links take more than {MAX_WALKED_BYTES} bytes to resolve")]
    TooMuchWalked,
}

/// The paths that a layer made so far.
#[derive(Debug)]
pub struct LayerShape {
    max_entries: usize,
    max_bytes: usize,
    made: BTreeMap<Box<[u8]>, Made>,
    /// Of the keys and of the links' targets.
    bytes: usize,
    /// Of the paths looked up so far: what resolving costs.
    walked_bytes: AtomicU64,
}

impl Default for LayerShape {
    fn default() -> Self {
        Self::new(MAX_ENTRIES)
    }
}

impl LayerShape {
    /// Empty, for at most so many paths.
    pub fn new(max_entries: usize) -> Self {
        let (made, walked_bytes) = Default::default();
        Self { max_entries, max_bytes: FREE_PATHS_BYTES, made, bytes: 0, walked_bytes }
    }

    /// Sets how long the paths, with the targets of links, may be together.
    pub fn allow_bytes(&mut self, max_bytes: usize) {
        self.max_bytes = max_bytes;
    }

    /// The directory that the clean path `raw` means in this layer, free of links. It need not
    /// exist yet.
    pub fn resolve_dir(&self, raw: &[u8]) -> Result<Vec<u8>, ShapeError> {
        let mut done: Vec<u8> = Vec::new();
        // What is left to walk, the next name last.
        let mut left: Vec<Box<[u8]>> = Vec::new();
        push_names(&mut left, raw);
        let mut links = 0;
        while let Some(name) = left.pop() {
            if &*name == b".." {
                self.count_walked(done.len())?;
                // Above the root is the root, as the kernel has it.
                done.truncate(split(&done).0.len());
                continue;
            }
            let next = join(&done, &name);
            if next.len() > MAX_PATH_BYTES {
                return Err(ShapeError::TooLong);
            }
            self.count_walked(next.len())?;
            match self.made.get(next.as_slice()) {
                None | Some(Made::Dir { .. }) => done = next,
                Some(Made::Other) => return Err(ShapeError::NotADirectory(next)),
                Some(Made::Symlink(target)) => {
                    links += 1;
                    if links > MAX_LINKS_FOLLOWED {
                        return Err(ShapeError::TooManyLinks);
                    }
                    if target.starts_with(b"/") {
                        done.clear();
                    }
                    push_names(&mut left, target);
                }
            }
        }
        Ok(done)
    }

    /// All that the layer has, by path: a directory stands before what is in it.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Made)> {
        self.made.iter().map(|(path, made)| (path.as_ref(), made))
    }

    fn count_walked(&self, bytes: usize) -> Result<(), ShapeError> {
        let before = self.walked_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if before > MAX_WALKED_BYTES { Err(ShapeError::TooMuchWalked) } else { Ok(()) }
    }

    /// What the layer has at the resolved path.
    pub fn get(&self, path: &[u8]) -> Option<&Made> {
        self.made.get(path)
    }

    /// Notes what an entry made; gives what stood there before.
    pub fn insert(&mut self, path: &[u8], made: Made) -> Result<Option<Made>, ShapeError> {
        let replaced = self.made.get(path).map(|before| path.len() + before.bytes());
        if self.made.len() >= self.max_entries && replaced.is_none() {
            return Err(ShapeError::TooManyEntries(self.max_entries));
        }
        let kept = self.bytes - replaced.unwrap_or(0);
        let bytes = kept.saturating_add(path.len() + made.bytes());
        if bytes > self.max_bytes {
            return Err(ShapeError::TooManyBytes(self.max_bytes));
        }
        self.bytes = bytes;
        Ok(self.made.insert(path.into(), made))
    }

    /// Notes that the layer has the directories on the way to `path` and `path` itself.
    pub fn imply_dirs(&mut self, path: &[u8]) -> Result<(), ShapeError> {
        let mut path = path;
        while !path.is_empty() && !self.made.contains_key(path) {
            self.insert(path, Made::Dir { explicit: false })?;
            path = split(path).0;
        }
        Ok(())
    }

    /// Forgets everything below the path.
    pub fn forget_below(&mut self, path: &[u8]) {
        for key in keys_below(&self.made, path) {
            if let Some(made) = self.made.remove(&key) {
                self.bytes -= key.len() + made.bytes();
            }
        }
    }
}

/// The keys below `path` in a map by path.
pub fn keys_below<V>(map: &BTreeMap<Box<[u8]>, V>, path: &[u8]) -> Vec<Box<[u8]>> {
    if path.is_empty() {
        return map.keys().cloned().collect();
    }
    // All of them begin with the path and a slash, and `0` is the byte after the slash.
    let (from, to) = ([path, b"/"].concat(), [path, b"0"].concat());
    let range = map.range(from.into_boxed_slice()..to.into_boxed_slice());
    range.map(|(key, _)| key.clone()).collect()
}

fn push_names(left: &mut Vec<Box<[u8]>>, path: &[u8]) {
    let names = path.split(|&b| b == b'/').filter(|name| !matches!(*name, b"" | b"."));
    left.extend(names.rev().map(Box::from));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(entries: &[(&str, Made)]) -> LayerShape {
        let mut shape = LayerShape::default();
        for (path, made) in entries {
            shape.imply_dirs(split(path.as_bytes()).0).unwrap();
            shape.insert(path.as_bytes(), made.clone()).unwrap();
        }
        shape
    }

    fn link(target: &str) -> Made {
        Made::Symlink(target.as_bytes().into())
    }

    #[test]
    fn the_layers_own_links_are_followed_within_the_root() {
        let shape = shape(&[
            ("lib", link("usr/lib")),
            ("usr/lib/abs", link("/opt/x")),
            ("usr/lib/up", link("../../../../etc")),
            ("chain", link("lib/abs")),
        ]);
        for (raw, want) in [
            ("lib", "usr/lib"),
            ("lib/sub", "usr/lib/sub"),
            ("lib/abs/y", "opt/x/y"),
            ("lib/up", "etc"),
            ("chain/z", "opt/x/z"),
            ("elsewhere/a", "elsewhere/a"),
            ("", ""),
        ] {
            assert_eq!(shape.resolve_dir(raw.as_bytes()).unwrap(), want.as_bytes(), "{raw}");
        }
    }

    #[test]
    fn loops_files_and_growing_paths_are_refused() {
        let long = "d/".repeat(1500);
        let shape = shape(&[
            ("a", link("b")),
            ("b", link("a")),
            ("f", Made::Other),
            ("long", link(&long)),
            ("long2", link(&format!("{long}/../../x"))),
        ]);
        assert_eq!(shape.resolve_dir(b"a/x"), Err(ShapeError::TooManyLinks));
        assert_eq!(shape.resolve_dir(b"f/x"), Err(ShapeError::NotADirectory(b"f".into())));
        let raw = format!("long/{}", "e/".repeat(800));
        assert_eq!(shape.resolve_dir(raw.as_bytes()), Err(ShapeError::TooLong));
        assert!(shape.resolve_dir(b"long2").is_ok());
    }

    #[test]
    fn paths_are_bounded_together_and_what_goes_is_given_back() {
        let mut shape = LayerShape::default();
        let target = vec![b't'; FREE_PATHS_BYTES / 4];
        let link = || Made::Symlink(target.as_slice().into());
        for round in 0..8 {
            for name in [b"d/a", b"d/b", b"d/c"] {
                shape.insert(name, link()).unwrap_or_else(|e| panic!("round {round}: {e}"));
            }
            if round % 2 == 1 {
                shape.forget_below(b"d");
            }
        }
        for name in [b"d/a", b"d/b", b"d/c"] {
            shape.insert(name, link()).unwrap();
        }
        assert_eq!(shape.insert(b"e", link()), Err(ShapeError::TooManyBytes(FREE_PATHS_BYTES)));
    }

    #[test]
    fn what_is_below_a_path_is_not_what_begins_alike() {
        let mut shape = shape(&[("a/b/c", Made::Other), ("a.d", Made::Other), ("a0", Made::Other)]);
        shape.forget_below(b"a");
        assert_eq!(shape.get(b"a"), Some(&Made::Dir { explicit: false }));
        assert_eq!(shape.get(b"a/b"), None);
        assert_eq!(shape.get(b"a/b/c"), None);
        assert!(shape.get(b"a.d").is_some() && shape.get(b"a0").is_some());
    }
}
