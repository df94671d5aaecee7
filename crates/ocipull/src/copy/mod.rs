//! An image into an OCI layout, byte for byte.

mod error;
mod store;

pub use error::StoreError;
pub use store::LayoutStore;
