//! Owners, permission bits, times and extended attributes, by the kind of ownership.
//!
//! The order matters: chown(2) takes set-user-id bits and file capabilities away, so the owner
//! comes first and those after it; `user.` attributes need write permission, so the mode comes
//! after them; the times last, as all else touches the file. A directory's metadata waits until the
//! whole tree is there (see [`Tree::finish`](super::tree::Tree::finish)).

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};

use ctsys::record::Ownership;
use ctsys::rootdir::{self, FileTime};
use ctsys::{Errno, SysError, xattr};

use super::error::EntryError;
use super::tar::Entry;
use super::warning::Notes;

/// Where umoci and its kin keep the owner that a file has in the image.
const ROOTLESS_XATTR: &[u8] = b"user.rootlesscontainers";

/// The mode of a directory that a layer implies but does not have.
const IMPLIED_DIR_MODE: u32 = 0o755;

/// Different owners that are remembered. An image has a few dozen; past this each costs a call.
const MAX_TRIED_OWNERS: usize = 4096;

/// An entry's metadata, ids in range.
#[derive(Debug, Clone, Default)]
pub(super) struct Metadata {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    pub(super) accessed: FileTime,
    pub(super) modified: FileTime,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Metadata {
    /// Takes the metadata out of an entry.
    pub(super) fn take(entry: &mut Entry) -> Result<Self, EntryError> {
        Ok(Self {
            uid: id("uid", entry.uid)?,
            gid: id("gid", entry.gid)?,
            mode: entry.mode,
            accessed: entry.atime.unwrap_or(entry.mtime),
            modified: entry.mtime,
            xattrs: std::mem::take(&mut entry.xattrs),
        })
    }

    /// Of a directory that has no entry: root's, 0755, and 1970 so that the same image gives the
    /// same tree.
    pub(super) fn implied() -> Self {
        Self { mode: IMPLIED_DIR_MODE, ..Self::default() }
    }

    /// What the attributes take in memory.
    pub(super) fn xattr_bytes(&self) -> usize {
        self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

fn id(which: &'static str, got: i64) -> Result<u32, EntryError> {
    // The last one, -1, tells chown(2) to change nothing.
    u32::try_from(got).ok().filter(|&id| id != u32::MAX).ok_or(EntryError::Id { which, got })
}

/// Sets metadata as the kind of ownership allows, and notes what it does not.
#[derive(Debug)]
pub(super) struct Keeper {
    ownership: Ownership,
    /// Owners that the kernel took.
    tried_owners: BTreeSet<(u32, u32)>,
    pub(super) notes: Notes,
}

impl Keeper {
    pub(super) fn new(ownership: Ownership) -> Self {
        Self { ownership, tried_owners: BTreeSet::new(), notes: Notes::default() }
    }

    /// Fails for an owner that [`Keeper::set_open`] would fail for, by trying it on `file`.
    pub(super) fn try_owner(&mut self, file: impl AsFd, meta: &Metadata) -> Result<(), EntryError> {
        let owner = (meta.uid, meta.gid);
        if self.ownership == Ownership::Single || self.tried_owners.contains(&owner) {
            return Ok(());
        }
        owned(rootdir::set_owner(file, meta.uid, meta.gid), meta)?;
        if self.tried_owners.len() < MAX_TRIED_OWNERS {
            self.tried_owners.insert(owner);
        }
        Ok(())
    }

    /// Whether device files may be made at all.
    pub(super) fn makes_devices(&self) -> bool {
        self.ownership == Ownership::Root
    }

    /// An open regular file that is written already, or a directory into which nothing more is put.
    /// `path` is for messages.
    pub(super) fn set_open(
        &mut self,
        file: impl AsFd,
        meta: &Metadata,
        path: &[u8],
    ) -> Result<(), EntryError> {
        self.set_owner(file.as_fd(), meta, path)?;
        for (name, value) in &meta.xattrs {
            self.set_xattr(path, name, || xattr::set(&file, name, value))?;
        }
        rootdir::set_mode(&file, meta.mode)?;
        Ok(rootdir::set_times(&file, meta.accessed, meta.modified)?)
    }

    /// A symbolic link, or with `has_mode` a pipe or device: what cannot be opened.
    pub(super) fn set_leaf(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        meta: &Metadata,
        path: &[u8],
        has_mode: bool,
    ) -> Result<(), EntryError> {
        if self.ownership == Ownership::Single {
            if (meta.uid, meta.gid) != (0, 0) {
                self.notes.owners.add(path);
            }
        } else {
            owned(rootdir::set_owner_at(dir, name, meta.uid, meta.gid), meta)?;
        }
        for (attribute, value) in &meta.xattrs {
            self.set_xattr(path, attribute, || xattr::set_at(dir, name, attribute, value))?;
        }
        if has_mode {
            rootdir::set_mode_at(dir, name, meta.mode)?;
        }
        Ok(rootdir::set_times_at(dir, name, meta.accessed, meta.modified)?)
    }

    /// The owner of a file or directory, true or as an attribute.
    fn set_owner(
        &mut self,
        fd: BorrowedFd<'_>,
        meta: &Metadata,
        path: &[u8],
    ) -> Result<(), EntryError> {
        if self.ownership != Ownership::Single {
            return owned(rootdir::set_owner(fd, meta.uid, meta.gid), meta);
        }
        if (meta.uid, meta.gid) == (0, 0) {
            return Ok(());
        }
        match xattr::set(fd, ROOTLESS_XATTR, &rootless_owner(meta.uid, meta.gid)) {
            Err(e) if is_refusal(&e) => {
                self.notes.owners.add(path);
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn set_xattr(
        &mut self,
        path: &[u8],
        name: &[u8],
        set: impl FnOnce() -> Result<(), SysError>,
    ) -> Result<(), EntryError> {
        if self.drops(name) {
            return Ok(());
        }
        match set() {
            Err(e) if is_refusal(&e) => {
                if name == b"security.capability" {
                    self.notes.capabilities.add(path);
                } else {
                    self.notes.xattrs.add(path);
                }
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Attributes that mean something on the machine that made the layer, or to overlayfs, or that
    /// are this program's own to write.
    fn drops(&self, name: &[u8]) -> bool {
        name == b"security.selinux"
            || name == ROOTLESS_XATTR
            || name.starts_with(b"trusted.overlay.")
            || (name.starts_with(b"trusted.") && self.ownership != Ownership::Root)
    }
}

/// An id that the user namespace does not map is `EINVAL` (chown(2)).
fn owned(result: Result<(), SysError>, meta: &Metadata) -> Result<(), EntryError> {
    match result {
        Err(e) if e.errno() == Errno::EINVAL => {
            Err(EntryError::UnmappedId { uid: meta.uid, gid: meta.gid })
        }
        other => Ok(other?),
    }
}

/// The kernel or the file system does not have this attribute for this caller.
fn is_refusal(error: &SysError) -> bool {
    matches!(error.errno(), Errno::EPERM | Errno::EACCES | Errno::EOPNOTSUPP)
}

/// Takes away what a new directory got from the one that it stands in: a default access control
/// list would pass on to all that is made in it.
pub(super) fn clear_xattrs(dir: impl AsFd) -> Result<(), EntryError> {
    for name in xattr::list(&dir)? {
        match xattr::remove(&dir, &name) {
            // The host's own (an SELinux label), not the image's.
            Err(e) if is_refusal(&e) || e.errno() == Errno::ENODATA => {}
            other => other?,
        }
    }
    Ok(())
}

/// `message Resource { uint32 uid = 1; uint32 gid = 2; }` of rootlesscontaine.rs, in protobuf's
/// wire format; a field that is 0 is left out.
fn rootless_owner(uid: u32, gid: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(12);
    for (tag, mut value) in [(0x08, uid), (0x10, gid)] {
        if value == 0 {
            continue;
        }
        message.push(tag);
        while value >= 0x80 {
            message.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        message.push(value as u8);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_written_as_umoci_writes_them() {
        assert_eq!(rootless_owner(1000, 1000), [0x08, 0xe8, 0x07, 0x10, 0xe8, 0x07]);
        assert_eq!(rootless_owner(0, 5), [0x10, 5]);
        assert_eq!(rootless_owner(u32::MAX - 1, 0), [0x08, 0xfe, 0xff, 0xff, 0xff, 0x0f]);
    }

    #[test]
    fn ids_that_chown_does_not_take_are_refused() {
        assert_eq!(id("uid", 4_294_967_294).ok(), Some(u32::MAX - 1));
        for bad in [-1, 4_294_967_295, 1 << 40] {
            assert!(id("uid", bad).is_err(), "{bad}");
        }
    }
}
