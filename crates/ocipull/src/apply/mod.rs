//! Layers to a root filesystem.
//!
//! ```text
//! blob -> decompress -> pipe -> tar -> name -> shape -> layer -> tree -> staging -> DEST
//!         (sniffed)    (hash)  (entry) (clean) (resolve) (merge)  (fds)   (rename)
//! ```
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

mod error;
mod layer;
pub mod limits;
mod meta;
pub mod name;
mod pipe;
mod place;
mod remove;
pub mod shape;
mod staging;
pub mod tar;
mod tree;
mod warning;

pub use error::{ApplyError, EntryError};
pub use remove::remove;
pub use staging::{ApplyOptions, LayerSpec, LayerStats, Staging, sync};
pub use warning::Warning;
