//! What stands at a name, by a descriptor that holds it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ctsys::rootdir::{self, FileTime};
use ctsys::{Errno, SysError, held, xattr};

use super::entry::{Entry, Kind, counts};
use super::links::Named;

/// Bits of a mode besides the file's type (inode(7)).
const PERMISSIONS: u32 = 0o7777;
/// Bits of the file's type.
const TYPE: u32 = 0o170_000;

/// A held file and what was seen of it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) held: OwnedFd,
    pub(super) entry: Entry,
    pub(super) named: Named,
    /// Whether the file takes less room than its size: it has holes, or is compressed.
    pub(super) is_sparse: bool,
}

/// What is at `name` in `dir`.
#[derive(Debug)]
pub(super) enum Look {
    Nothing,
    There(Seen),
    /// Something is mounted on it; whether that is a directory.
    Mounted(bool),
}

/// Looks at `name`, following and opening nothing.
pub(super) fn look(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Look, SysError> {
    match held::hold_at(dir, name) {
        Ok(None) => Ok(Look::Nothing),
        Ok(Some(held)) => see(held).map(Look::There),
        Err(e) if e.errno() == Errno::EXDEV => {
            let stat = rootdir::stat_at(dir, name)?;
            Ok(Look::Mounted(stat.is_some_and(|stat| rootdir::is_type(&stat, 0o040_000))))
        }
        Err(e) => Err(e),
    }
}

/// All that is to be known of a held file.
pub(super) fn see(held: OwnedFd) -> Result<Seen, SysError> {
    let stat = rootdir::stat(&held)?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let kind = match stat.st_mode & TYPE {
        0o100_000 => Kind::File(size),
        0o040_000 => Kind::Dir,
        0o120_000 => Kind::Symlink(held::read_link(&held)?),
        0o020_000 => Kind::Char(stat.st_rdev),
        0o060_000 => Kind::Block(stat.st_rdev),
        other => Kind::Other(other),
    };
    let is_link = matches!(kind, Kind::Symlink(_));
    let has_more = kind != Kind::Dir && stat.st_nlink > 1;
    let modified = FileTime {
        seconds: stat.st_mtime,
        nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
    };
    let mut entry = Entry {
        kind,
        mode: if is_link { 0 } else { stat.st_mode & PERMISSIONS },
        owner: (stat.st_uid, stat.st_gid),
        noted_owner: None,
        modified,
        xattrs: BTreeMap::new(),
    };
    entry.set_xattrs(xattrs(held.as_fd())?);
    let named = Named { id: (stat.st_dev, stat.st_ino), has_more };
    // st_blocks counts 512 bytes, whatever the file system's blocks are (stat(2)).
    let is_sparse = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) < size;
    Ok(Seen { held, entry, named, is_sparse })
}

fn xattrs(held: BorrowedFd<'_>) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, SysError> {
    let mut found = BTreeMap::new();
    for name in xattr::list_held(held)? {
        if !counts(&name) {
            continue;
        }
        // One that went meanwhile is one that is not there.
        if let Some(value) = xattr::get_held(held, &name)? {
            found.insert(name, value);
        }
    }
    Ok(found)
}
