//! Layers to a root filesystem.
//!
//! ```text
//! blob -> decompress -> pipe -> tar -> name -> shape -> layer -> tree -> staging -> DEST
//!         (sniffed)    (hash)  (entry) (clean) (resolve)  |      (fds)   (rename)
//!                                                         +-> merge, for one that came early
//! ```
//!
//! Several layers may be on their way at once. The lowest that is not in yet writes into the merged
//! tree. Those above write into directories of their own, and when their turn comes are laid over
//! the tree and go on in it (`turns`, `merge`): the result is that of one after the other.
//!
//! What the result is where specifications leave room:
//!
//! - A layer is a tree of its own that is laid over those below, as overlayfs does it. [`shape`]
//!   says what that means for symbolic links: a layer's own are followed within the root, those of
//!   lower layers are shadowed.
//! - Whiteouts and opaque markers hide lower layers only, wherever in their layer they stand.
//! - Directories that no entry describes are root's, 0755 and of 1970, or keep what a lower layer
//!   says. Directories keep the times that layers give them, whatever is made in them afterwards.
//! - A hard link has the metadata of its target, whatever its own entry says.
//! - Among equal paths in a layer the last wins.
//!
//! Paths are resolved in memory; on disk every directory is opened without following a link, and
//! every name is made anew, never opened ([`ctsys::rootdir`]).

mod commit;
mod confine;
mod error;
mod layer;
mod leaf;
pub mod limits;
mod merge;
mod meta;
pub mod name;
mod pipe;
mod place;
mod remove;
pub mod shape;
mod staging;
pub mod tar;
mod tree;
mod turns;
mod warning;

pub use commit::sync;
pub use error::{ApplyError, EntryError};
pub use limits::Limits;
pub use remove::remove;
pub use staging::{ApplyOptions, LayerSpec, LayerStats, Staging};
pub use warning::Warning;
