//! How a tree differs from the one that its image gives.
//!
//! ```text
//! staged tree ┐
//!             ├> walk -> look -> entry -> Difference
//! DEST        ┘  (names) (fds)   (pure)
//!                    content: bytes    links: which paths are one file
//! ```
//!
//! Both trees are walked together, name by name, by descriptors only: no link is followed, nothing
//! but a regular file is opened, and what is mounted in a tree is not entered. The walk goes where
//! both have a directory, so no deeper than the image does, and keeps the names of one directory a
//! level in memory; beyond that only the files that have more than one name.
//!
//! Not compared: times of access and of inode changes, the size and link count of directories, and
//! attributes that the host gives files itself ([`entry`]).

mod content;
pub mod entry;
mod links;
mod look;
mod walk;

use std::io;

use ctsys::report::Explain;
use ctsys::{Errno, SysError};

pub use entry::Aspect;
pub use walk::compare;

/// A path at which the trees differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// In the tree; empty for its root.
    pub path: Vec<u8>,
    /// Whether a directory stands there: in the compared tree, or for what was removed, in the
    /// image's.
    pub is_dir: bool,
    /// How they differ.
    pub change: Change,
}

/// How a tree differs from its image at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The image does not have it. Of a directory, with all that is in it.
    Added,
    /// Both have it, with these differences, at least one.
    Changed(Vec<Aspect>),
    /// The tree does not have it. Of a directory, with all that was in it.
    Removed,
}

/// Takes the differences as they are found, and may end the search.
pub trait Listener {
    /// Takes one: they come in the order of their paths, compared name by name as bytes, a
    /// directory before what is in it.
    fn found(&mut self, difference: &Difference) -> io::Result<()>;

    /// Whether the search is to end. Asked at every name and every piece of a file.
    fn is_over(&mut self) -> bool {
        false
    }
}

/// Which of the two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// As the image has it.
    Image,
    /// The one that is compared with it.
    Tree,
}

/// Why trees could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// Something could not be looked at.
    #[error("cannot look at \"/{}\" of {}", path.escape_ascii(), match side {
        Side::Image => "the image's tree",
        Side::Tree => "the tree",
    })]
    Look {
        /// In the tree.
        path: Vec<u8>,
        /// Whose.
        side: Side,
        /// The cause.
        #[source]
        source: SysError,
    },
    /// The listener took no more.
    #[error("cannot tell what differs")]
    Listener(#[source] io::Error),
    /// The listener ended the search.
    #[error("the search was ended")]
    Over,
}

impl Explain for CompareError {
    fn hint(&self) -> Option<String> {
        let Self::Look { source, .. } = self else { return None };
        matches!(source.errno(), Errno::EACCES | Errno::EPERM).then(|| {
            "its mode keeps even its owner out: allow user namespaces, or run it as root".into()
        })
    }
}
