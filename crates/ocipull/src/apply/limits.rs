//! The bounds of what an image may ask for. Past one the pull fails; nothing is ever cut short.
//!
//! [`Limits`] are those that a large image may have a reason to pass, so they can be raised. The
//! constants bound memory or are the kernel's own.

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// What an image may ask for at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of all layers together. The largest images in use have half a million files.
    pub entries: u64,
    /// Bytes of all layers together, uncompressed; holes of sparse files do not count.
    pub total_bytes: u64,
    /// Uncompressed bytes for each byte of a layer's blob, past the first 4 GiB
    /// ([`FREE_EXPANSION_BYTES`](crate::decompress::FREE_EXPANSION_BYTES)). Real layers stay below
    /// 20; a bomb of zeros has 1,000 in gzip and more in zstd.
    pub expansion_ratio: u64,
    /// Names in a path. Real trees stay below 50.
    pub path_depth: u64,
    /// Bytes of an extended header or a long name. Go's archive/tar and so every engine refuses above
    /// 1 MiB.
    pub header_bytes: u64,
}

impl Limits {
    /// What any image in use keeps to.
    pub const USUAL: Self = Self {
        entries: 4_000_000,
        total_bytes: 256 << 30,
        expansion_ratio: 200,
        path_depth: 1000,
        header_bytes: MAX_SPECIAL_BYTES,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::USUAL
    }
}

/// The names of [`Limits`], as they are typed.
pub const LIMIT_NAMES: [&str; 5] =
    ["entries", "total-bytes", "expansion-ratio", "path-depth", "header-bytes"];

/// A text that sets no limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitSyntaxError {
    /// No such limit.
    #[error("unknown limit {0:?}")]
    Name(String),
    /// Not a number.
    #[error("invalid value {value:?} of limit {name}: want a number above 0, as in 500000 or 64G")]
    Value {
        /// Of the limit.
        name: String,
        /// As typed.
        value: String,
    },
}

/// One limit with its new value: `entries=500000`, `total-bytes=64G`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    name: &'static str,
    value: u64,
}

impl FromStr for Setting {
    type Err = LimitSyntaxError;

    /// Parses `NAME=VALUE`; the value may end in `K`, `M`, `G` or `T`, powers of 1024.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (typed, value) = text.split_once('=').unwrap_or((text, ""));
        let name = LIMIT_NAMES.iter().find(|name| **name == typed);
        let name = name.ok_or_else(|| LimitSyntaxError::Name(typed.into()))?;
        let wrong = || LimitSyntaxError::Value { name: typed.into(), value: value.into() };
        let shift = match value.bytes().last() {
            Some(b'K' | b'k') => 10,
            Some(b'M' | b'm') => 20,
            Some(b'G' | b'g') => 30,
            Some(b'T' | b't') => 40,
            _ => 0,
        };
        let digits = if shift == 0 { value } else { value.get(..value.len() - 1).unwrap_or("") };
        // `parse` would take a sign.
        let is_number = digits.bytes().all(|b| b.is_ascii_digit());
        let number = digits.parse::<u64>().ok().filter(|&n| is_number && n > 0);
        let value = number.and_then(|n| n.checked_mul(1 << shift)).ok_or_else(wrong)?;
        Ok(Self { name, value })
    }
}

impl Limits {
    /// With one limit set anew.
    pub fn with(mut self, setting: &Setting) -> Self {
        let place = match setting.name {
            "entries" => &mut self.entries,
            "total-bytes" => &mut self.total_bytes,
            "expansion-ratio" => &mut self.expansion_ratio,
            "path-depth" => &mut self.path_depth,
            _ => &mut self.header_bytes,
        };
        *place = setting.value;
        self
    }
}

/// An image is past one of its [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Past [`Limits::entries`].
    #[error("the image has more than {0} entries")]
    Entries(u64),
    /// Past [`Limits::total_bytes`].
    #[error("the image is larger than {0} bytes, uncompressed")]
    Bytes(u64),
    /// Past [`Limits::path_depth`].
    #[error("the path is deeper than {0} names")]
    Depth(u64),
}

impl LimitError {
    /// Which limit, as in [`LIMIT_NAMES`].
    pub fn name(&self) -> &'static str {
        match self {
            Self::Entries(_) => "entries",
            Self::Bytes(_) => "total-bytes",
            Self::Depth(_) => "path-depth",
        }
    }
}

/// What an image has taken of its limits. Its layers share it.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Budget {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, entries: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// One entry more.
    pub(super) fn take_entry(&self) -> Result<(), LimitError> {
        let limit = self.limits.entries;
        let before = self.entries.fetch_add(1, Ordering::Relaxed);
        if before >= limit { Err(LimitError::Entries(limit)) } else { Ok(()) }
    }

    /// How long the paths of all layers may be together by now, in bytes.
    pub(super) fn path_bytes(&self) -> usize {
        path_bytes(self.entries.load(Ordering::Relaxed))
    }

    /// Whether a path is not too deep.
    pub(super) fn allow_path(&self, path: &[u8]) -> Result<(), LimitError> {
        let limit = self.limits.path_depth;
        let depth = path.split(|&b| b == b'/').count() as u64;
        if depth > limit { Err(LimitError::Depth(limit)) } else { Ok(()) }
    }

    /// So many more bytes of a layer.
    pub(super) fn take_bytes(&self, count: usize) -> Result<(), LimitError> {
        let before = self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        if before.saturating_add(count as u64) > self.limits.total_bytes {
            return Err(LimitError::Bytes(self.limits.total_bytes));
        }
        Ok(())
    }
}

/// An extended header, a long name or a sparse map: Go's archive/tar and so every engine refuses
/// above 1 MiB, so no image that runs elsewhere has one.
pub const MAX_SPECIAL_BYTES: u64 = 1 << 20;

/// Extents of one sparse file: the number of pairs that a map of [`MAX_SPECIAL_BYTES`] can hold at
/// four bytes a pair, the shortest form.
pub const MAX_SPARSE_EXTENTS: usize = 1 << 18;

/// A path in a layer, in bytes, before and after links are resolved: the kernel's `PATH_MAX`, so a
/// longer one could be made but not opened. It bounds the depth too (2,048 one-byte names).
pub const MAX_PATH_BYTES: usize = 4096;

/// Paths that one layer may make, missing parents among them, or as many as [`Limits::entries`]
/// where that is raised. Each takes about 128 bytes of memory while its layer is applied.
pub const MAX_ENTRIES: usize = 4_000_000;

/// The paths of one layer together, and those of the tree's directories, in bytes, whatever the
/// number of entries. [`Limits::entries`] alone does not bound memory: one deep path implies a thousand
/// directories, whose paths together have a thousand times its length.
pub const FREE_PATHS_BYTES: usize = 4 << 20;

/// For each entry the paths may have this many bytes more: real ones have 100, and the longest
/// directory trees in use (of Node modules) some 200.
pub const PATH_BYTES_PER_ENTRY: usize = 512;

/// How long the paths of so many entries may be together, in bytes.
pub(super) fn path_bytes(entries: u64) -> usize {
    let entries = usize::try_from(entries).unwrap_or(usize::MAX);
    entries.saturating_mul(PATH_BYTES_PER_ENTRY).saturating_add(FREE_PATHS_BYTES)
}

/// Links followed for one path, as the kernel's `MAXSYMLINKS`.
pub const MAX_LINKS_FOLLOWED: usize = 40;

/// Bytes of the paths that are looked up while a layer's paths are resolved, name by name, all together:
/// four million files in ten directories each need half of it. Without it a link whose target goes up
/// and down a thousand times, forty of them for one path, makes a layer of some kilobytes take days.
pub const MAX_WALKED_BYTES: u64 = 4 << 30;

/// Extended attributes of directories are kept in memory to the end: this much in all. One that is
/// an access control list has 8 bytes an entry.
pub const MAX_DIR_XATTR_BYTES: usize = 16 << 20;

/// The apparent size of a sparse file: 16 TiB is what ext4 takes, and more than a disk has.
pub const MAX_SPARSE_FILE_BYTES: u64 = 16 << 40;

/// What a layer that is unpacked apart notes of lower layers' paths that it hides, in bytes: some
/// ten thousand whiteouts. One with more waits until the lower layers are there.
pub const MAX_HIDING_BYTES: usize = 2 << 20;

/// Directories that a layer keeps open: its entries come directory by directory, so a few suffice,
/// also where only 64 descriptors are allowed (RLIMIT_NOFILE).
pub const MAX_OPEN_DIRS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_set_by_name() {
        let set = |text: &str| text.parse::<Setting>().map(|s| Limits::default().with(&s));
        assert_eq!(set("entries=5").unwrap().entries, 5);
        assert_eq!(set("total-bytes=2T").unwrap().total_bytes, 2 << 40);
        assert_eq!(set("header-bytes=3m").unwrap().header_bytes, 3 << 20);
        assert_eq!(set("path-depth=9").unwrap().path_depth, 9);
        assert_eq!(set("expansion-ratio=1000").unwrap().expansion_ratio, 1000);
        for wrong in ["entries", "entries=", "entries=0", "entries=-1", "entries=+1", "entries=1e3"]
        {
            assert!(matches!(set(wrong), Err(LimitSyntaxError::Value { .. })), "{wrong}");
        }
        for wrong in ["total-bytes=99999999999T", "total-bytes=G", "total-bytes=\u{e9}"] {
            assert!(matches!(set(wrong), Err(LimitSyntaxError::Value { .. })), "{wrong}");
        }
        assert!(matches!(set("size=1"), Err(LimitSyntaxError::Name(_))));
    }
}
