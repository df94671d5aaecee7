//! Pull an image from an OCI registry, verify it and unpack it into a root filesystem.
//!
//! ```text
//! ownership  how owners will be stored; the program goes on in a user namespace for it
//! exit       what the program's exit code says of a failure
//! host       a registry's host
//! reference  what the user typed -> registry, repository, tag or digest
//! location   what the user typed -> a registry's image, or one on this machine
//! platform   which of an index's images suits a machine
//! verify     size and digest, before the end of anything is believed
//! image      manifest, index, config: bytes -> checked types
//! event      what a pull tells while it runs
//! local/     images on this machine: blobs by digest, in an OCI layout or an archive
//! cache/     blobs that are here already, and those on their way
//! registry/  the only HTTP: TLS or not, logged in or not, mirror or not
//! source     a registry, or an image on this machine
//! resolve    reference -> platform manifest and config
//! fetch      layer descriptor -> verified byte stream
//! decompress media type or magic number -> tar stream
//! apply/     tar streams -> a directory tree, staged and renamed
//! archive/   what docker save writes -> an image on this machine
//! store/     an OCI layout that is written, new or added to
//! compare/   how a tree differs from the one that its image gives
//! error      why a pull failed
//! open       what the user typed -> a source
//! copy       all of an image, byte for byte -> an OCI layout
//! unpack     the layers of an image, several at a time
//! pull       all of it in order, and the record beside the tree
//! ```
//!
//! [`pull::pull`] is the whole; [`resolve`] and [`fetch`](mod@fetch) are its steps, for who wants a
//! digest or a layer only, and [`copy::copy`] keeps an image as it is. Nothing here prints: give an [`event::Observer`] to see what happens.

pub mod apply;
pub mod archive;
pub mod cache;
pub mod compare;
pub mod copy;
pub mod decompress;
pub mod error;
pub mod event;
pub mod exit;
pub mod fetch;
pub mod host;
pub mod image;
pub mod local;
pub mod location;
pub mod open;
pub mod ownership;
pub mod platform;
pub mod pull;
pub mod reference;
pub mod registry;
pub mod resolve;
pub mod source;
pub mod store;
mod unpack;
pub mod verify;
