//! What a file is apart from its content, and how two differ. Pure.

use std::collections::BTreeMap;
use std::fmt;

use ctsys::rootdir::FileTime;

/// Where a tree without true owners keeps them.
const NOTED_OWNER: &[u8] = b"user.rootlesscontainers";

/// Attributes that come from the host's policy or are made for the inode itself: they differ
/// between two trees of the same image (xattr(7); the kernel's security/integrity).
const HOSTS_OWN: [&[u8]; 4] =
    [b"security.selinux", b"security.SMACK64", b"security.ima", b"security.evm"];

/// Attributes that an image can have. What else a file system shows (`system.nfs4_acl`,
/// `btrfs.compression`) is its own view.
const OF_IMAGES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system.posix_acl_"];

/// A file without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which kind, with what only that kind has.
    pub kind: Kind,
    /// Permission bits with set-id and sticky; of a symbolic link nothing.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// The owner in the image where the file cannot have it: `user.rootlesscontainers`.
    pub noted_owner: Option<Vec<u8>>,
    /// Of the last modification.
    pub modified: FileTime,
    /// The attributes that images have, but for [`Entry::noted_owner`].
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Which kind of file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of this size in bytes.
    File(u64),
    /// A directory.
    Dir,
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A character device with this number.
    Char(u64),
    /// A block device with this number.
    Block(u64),
    /// A pipe or a socket, by its type bits (inode(7)).
    Other(u32),
}

/// In what two files at one path differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// One is a directory, the other a link, and so on. Nothing else is compared then.
    Type,
    /// Permission bits.
    Mode,
    /// User or group, true or noted.
    Owner,
    /// Size of a regular file. Its content differs as well.
    Size,
    /// Bytes of a regular file.
    Content,
    /// Target of a symbolic link.
    Target,
    /// Number of a device.
    Device,
    /// Time of the last modification.
    Time,
    /// Extended attributes: names or values.
    Xattrs,
    /// Which other paths are the same file.
    Links,
    /// Something is mounted there. Nothing else is compared then.
    Mount,
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Type => "type",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Size => "size",
            Self::Content => "content",
            Self::Target => "target",
            Self::Device => "device",
            Self::Time => "mtime",
            Self::Xattrs => "xattrs",
            Self::Links => "links",
            Self::Mount => "mount",
        })
    }
}

impl Entry {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// Takes the attributes of a file, those that count.
    pub(super) fn set_xattrs(&mut self, all: BTreeMap<Vec<u8>, Vec<u8>>) {
        self.xattrs = all;
        self.noted_owner = self.xattrs.remove(NOTED_OWNER);
    }

    /// In what the two differ, content and links aside.
    pub fn differences(&self, other: &Self) -> Vec<Aspect> {
        let mut found = Vec::new();
        match (&self.kind, &other.kind) {
            (Kind::File(a), Kind::File(b)) if a != b => {
                found.extend([Aspect::Size, Aspect::Content]);
            }
            (Kind::Symlink(a), Kind::Symlink(b)) if a != b => found.push(Aspect::Target),
            (Kind::Char(a), Kind::Char(b)) | (Kind::Block(a), Kind::Block(b)) if a != b => {
                found.push(Aspect::Device);
            }
            (Kind::Other(a), Kind::Other(b)) if a == b => {}
            (a, b)
                if std::mem::discriminant(a) == std::mem::discriminant(b)
                    && !matches!(a, Kind::Other(_)) => {}
            _ => return vec![Aspect::Type],
        }
        let owners = |entry: &Self| (entry.owner, entry.noted_owner.clone());
        let more = [
            (self.mode != other.mode, Aspect::Mode),
            (owners(self) != owners(other), Aspect::Owner),
            (self.modified != other.modified, Aspect::Time),
            (self.xattrs != other.xattrs, Aspect::Xattrs),
        ];
        found.extend(more.into_iter().filter_map(|(differs, aspect)| differs.then_some(aspect)));
        found.sort_unstable();
        found
    }
}

/// Whether an attribute of this name is an image's matter.
pub(super) fn counts(name: &[u8]) -> bool {
    OF_IMAGES.iter().any(|prefix| name.starts_with(prefix))
        && !HOSTS_OWN.iter().any(|own| name.starts_with(own))
        // Of a layer of overlayfs; never an image's (apply/meta.rs).
        && !name.starts_with(b"trusted.overlay.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: Kind) -> Entry {
        Entry {
            kind,
            mode: 0o644,
            owner: (0, 0),
            noted_owner: None,
            modified: FileTime { seconds: 5, nanoseconds: 6 },
            xattrs: BTreeMap::new(),
        }
    }

    #[test]
    fn every_aspect_is_told() {
        let file = || entry(Kind::File(3));
        let xattrs = BTreeMap::from([(b"user.a".to_vec(), b"1".to_vec())]);
        let later = FileTime { seconds: 5, nanoseconds: 7 };
        let cases = [
            (file(), vec![]),
            (Entry { mode: 0o4644, ..file() }, vec![Aspect::Mode]),
            (Entry { owner: (0, 1), ..file() }, vec![Aspect::Owner]),
            (Entry { noted_owner: Some(vec![8]), ..file() }, vec![Aspect::Owner]),
            (Entry { modified: later, ..file() }, vec![Aspect::Time]),
            (Entry { xattrs, ..file() }, vec![Aspect::Xattrs]),
            (entry(Kind::File(4)), vec![Aspect::Size, Aspect::Content]),
            (entry(Kind::Dir), vec![Aspect::Type]),
            (
                Entry { mode: 0, modified: later, ..entry(Kind::File(4)) },
                vec![Aspect::Mode, Aspect::Size, Aspect::Content, Aspect::Time],
            ),
        ];
        for (other, want) in cases {
            assert_eq!(file().differences(&other), want, "{other:?}");
            assert_eq!(other.differences(&file()), want, "{other:?}");
        }
    }

    #[test]
    fn what_only_a_kind_has_is_compared_within_the_kind() {
        let link = |target: &[u8]| Kind::Symlink(target.to_vec());
        for (a, b, want) in [
            (link(b"a"), link(b"b"), vec![Aspect::Target]),
            (link(b"a"), link(b"a"), vec![]),
            (Kind::Char(1), Kind::Char(2), vec![Aspect::Device]),
            (Kind::Char(1), Kind::Block(1), vec![Aspect::Type]),
            (Kind::Block(1), Kind::Block(2), vec![Aspect::Device]),
            (Kind::Other(0o010_000), Kind::Other(0o010_000), vec![]),
            (Kind::Other(0o010_000), Kind::Other(0o140_000), vec![Aspect::Type]),
            (Kind::Dir, Kind::Dir, vec![]),
            (Kind::Dir, link(b"a"), vec![Aspect::Type]),
        ] {
            assert_eq!(entry(a.clone()).differences(&entry(b.clone())), want, "{a:?} {b:?}");
        }
    }

    #[test]
    fn attributes_of_the_host_do_not_count() {
        for name in ["user.x", "trusted.x", "security.capability", "system.posix_acl_default"] {
            assert!(counts(name.as_bytes()), "{name}");
        }
        for name in
            ["security.selinux", "security.SMACK64EXEC", "trusted.overlay.opaque", "btrfs.x"]
        {
            assert!(!counts(name.as_bytes()), "{name}");
        }
    }
}
