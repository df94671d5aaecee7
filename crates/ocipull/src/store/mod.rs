//! An OCI layout that is written, new or added to.
//!
//! A blob gets its name only once it was found right, and index.json names an image only once all of
//! its blobs have theirs, each step a rename. So whoever reads the layout, whenever, sees whole images
//! only. Two that write at once do not disturb each other: blobs are what their names say, and
//! index.json is changed under a lock (flock(2) of the layout's directory).

mod error;
mod layout;

pub use error::StoreError;
pub use layout::LayoutStore;
