//! The bounds of what a layer may ask for. Past one the pull fails; nothing is ever cut short.

/// An extended header, a long name or a sparse map: Go's archive/tar and so every engine refuses
/// above 1 MiB, so no image that runs elsewhere has one.
pub const MAX_SPECIAL_BYTES: u64 = 1 << 20;

/// Extents of one sparse file: the number of pairs that a map of [`MAX_SPECIAL_BYTES`] can hold at
/// four bytes a pair, the shortest form.
pub const MAX_SPARSE_EXTENTS: usize = 1 << 18;

/// A path in a layer, in bytes, before and after links are resolved: the kernel's `PATH_MAX`, so a
/// longer one could be made but not opened. It bounds the depth too (2,048 one-byte names).
pub const MAX_PATH_BYTES: usize = 4096;

/// Paths that one layer may make, missing parents among them. The largest images in use have
/// half a million files; each takes about 128 bytes of memory while its layer is applied.
pub const MAX_ENTRIES: usize = 4_000_000;

/// The paths of one layer together, and those of the tree's directories, in bytes: half a million
/// files with paths of 100 bytes need a fifth. [`MAX_ENTRIES`] alone does not bound memory, as a
/// path may have [`MAX_PATH_BYTES`], and one deep path implies thousands of directories.
pub const MAX_PATHS_BYTES: usize = 256 << 20;

/// Links followed for one path, as the kernel's `MAXSYMLINKS`.
pub const MAX_LINKS_FOLLOWED: usize = 40;

/// Bytes of the paths that are looked up while a layer's paths are resolved, name by name, all together:
/// four million files in ten directories each need half of it. Without it a link whose target goes up
/// and down a thousand times, forty of them for one path, makes a layer of some kilobytes take days.
pub const MAX_WALKED_BYTES: u64 = 4 << 30;

/// Default access control lists of directories are kept in memory to the end (they would act on
/// what is made in the directory meanwhile): this much in all. One entry takes 8 bytes.
pub const MAX_DEFERRED_ACL_BYTES: usize = 8 << 20;

/// The apparent size of a sparse file: 16 TiB is what ext4 takes, and more than a disk has.
pub const MAX_SPARSE_FILE_BYTES: u64 = 16 << 40;
