//! Which paths are one file, in both trees. Pure.

use std::collections::HashMap;

/// What tells a file from all others of its tree: device and inode number.
pub(super) type FileId = (u64, u64);

/// The files with more than one name that were met at paths that both trees have: so no more than
/// the image has, at some 60 bytes each.
///
/// A path agrees when the file that one tree has there was met, under another name, exactly where
/// that of the other tree was. Names outside of the trees do not matter, nor those that only one
/// of them has: they are told as added or removed.
#[derive(Debug, Default)]
pub(super) struct Links {
    to_tree: HashMap<FileId, FileId>,
    to_image: HashMap<FileId, FileId>,
}

/// A file by its identity, and whether it may have other names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named {
    pub(super) id: FileId,
    pub(super) has_more: bool,
}

impl Links {
    /// Takes what both trees have at a path; whether it is linked alike to the paths before it.
    pub(super) fn agree(&mut self, image: Named, tree: Named) -> bool {
        meets(&mut self.to_tree, image, tree.id) & meets(&mut self.to_image, tree, image.id)
    }
}

fn meets(known: &mut HashMap<FileId, FileId>, file: Named, other: FileId) -> bool {
    // One with a single name is not met again.
    !file.has_more || *known.entry(file.id).or_insert(other) == other
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of the paths disagree, when the trees have these files at them.
    fn disagreeing(image: &[u64], tree: &[u64]) -> Vec<usize> {
        let named = |all: &[u64], file: u64| Named {
            id: (0, file),
            has_more: all.iter().filter(|&&f| f == file).count() > 1,
        };
        let mut links = Links::default();
        let pairs = image.iter().zip(tree).enumerate();
        let agrees = pairs.map(|(at, (&i, &t))| (at, links.agree(named(image, i), named(tree, t))));
        agrees.filter(|(_, agree)| !agree).map(|(at, _)| at).collect()
    }

    #[test]
    fn paths_agree_when_the_same_of_them_are_one_file() {
        assert_eq!(disagreeing(&[1, 1, 2, 1], &[7, 7, 8, 7]), [0; 0]);
        // One name is a file of its own.
        assert_eq!(disagreeing(&[1, 1, 2, 1], &[7, 9, 8, 7]), [1]);
        // Two files became one.
        assert_eq!(disagreeing(&[1, 2, 3], &[7, 7, 8]), [1]);
        // One moved from one group to another.
        assert_eq!(disagreeing(&[1, 1, 2, 2], &[7, 8, 8, 8]), [1, 2, 3]);
    }
}
