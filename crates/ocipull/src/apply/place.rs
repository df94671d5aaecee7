//! A destination as a name in its parent directory, and what ocipull keeps beside it.
//!
//! ```text
//! parent/NAME                     the root filesystem
//! parent/NAME.image.json          its record
//! parent/.NAME.ocipull-RANDOM     a tree that is being made or removed, locked by its process
//! ```

use std::ffi::OsStr;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ctsys::{Errno, SysError};
use ctsys::{mounted, rootdir};

use super::ApplyError;

/// Of NAME as much as leaves room for what is put around it: a file name has at most 255 bytes.
const MAX_SHOWN_NAME_BYTES: usize = 200;

/// Tries to find a free name for a staging directory: each has 64 random bits, so a second one is
/// only needed when another run's cleaning takes the fresh directory for a leftover.
const MAX_NAME_TRIES: usize = 16;

/// How long a turn is waited for. A turn takes a few renames; those before it end in that time.
const MAX_TURN_WAIT: Duration = Duration::from_secs(10);

/// How often it is looked whether the turn has come.
const TURN_POLL: Duration = Duration::from_millis(5);

/// A destination.
#[derive(Debug)]
pub(super) struct DestPlace {
    /// As named by the user.
    pub(super) dest: PathBuf,
    parent: OwnedFd,
    name: Vec<u8>,
    /// Directories that had to be made, the topmost first.
    made_parents: Vec<PathBuf>,
}

/// What stands at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    EmptyDir,
    FullDir,
}

impl DestPlace {
    /// Opens the parent of `dest`, and with `make_parents` makes it where it lacks.
    pub(super) fn open(dest: &Path, make_parents: bool) -> Result<Self, ApplyError> {
        let unnamed = || ApplyError::Unnamed { dest: dest.into() };
        // `file_name` looks past a trailing slash or dot.
        let name = dest.file_name().map(OsStr::as_bytes).ok_or_else(unnamed)?;
        let parent = dest.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let mut made_parents = Vec::new();
        let opened = match make_parents {
            true => make_dirs(parent, &mut made_parents).and_then(|()| rootdir::open_dir(parent)),
            false => rootdir::open_dir(parent),
        };
        match opened {
            Ok(fd) => Ok(Self { dest: dest.into(), parent: fd, name: name.to_vec(), made_parents }),
            Err(e) if !make_parents && e.errno() == Errno::ENOENT => {
                Err(ApplyError::Missing { dest: dest.into() })
            }
            Err(source) => {
                remove_dirs(&made_parents);
                Err(ApplyError::Directory { action: "open", path: parent.into(), source })
            }
        }
    }

    pub(super) fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// The name of the record beside it: that of [`ctsys::record::record_path`].
    pub(super) fn record_name(&self) -> Vec<u8> {
        [&self.name, &b".image.json"[..]].concat()
    }

    /// Looks what is there, following nothing.
    pub(super) fn look(&self) -> Result<Found, ApplyError> {
        let failed = |source| self.failed("open", source);
        let Some(stat) = rootdir::stat_at(&self.parent, &self.name).map_err(failed)? else {
            return Ok(Found::Nothing);
        };
        if rootdir::is_type(&stat, 0o120_000) {
            return Err(self.not_a_directory("a symbolic link"));
        }
        if !rootdir::is_type(&stat, 0o040_000) {
            return Err(self.not_a_directory("a file"));
        }
        if stat.st_dev != rootdir::stat(&self.parent).map_err(failed)?.st_dev {
            return Err(ApplyError::MountPoint { dest: self.dest.clone() });
        }
        match rootdir::open_dir_at(&self.parent, &self.name) {
            Ok(dir) if rootdir::names(&dir).map_err(failed)?.is_empty() => Ok(Found::EmptyDir),
            Ok(_) => Ok(Found::FullDir),
            // Closed by its mode to its own owner: an image's, so there is something in it.
            Err(e) if e.errno() == Errno::EACCES => Ok(Found::FullDir),
            Err(e) => Err(failed(e)),
        }
    }

    /// Fails when something is mounted inside: what removes the tree must not reach into it. Where
    /// /proc does not tell, [`rootdir::remove_at`] still stops at each mount point.
    pub(super) fn refuse_mounts(&self) -> Result<(), ApplyError> {
        let Ok(dir) = rootdir::open_dir_at(&self.parent, &self.name) else { return Ok(()) };
        match mounted::mount_below(&dir) {
            Ok(Some(mounted)) => Err(ApplyError::MountInside { dest: self.dest.clone(), mounted }),
            _ => Ok(()),
        }
    }

    fn not_a_directory(&self, found: &'static str) -> ApplyError {
        ApplyError::NotADirectory { dest: self.dest.clone(), found }
    }

    /// A failure of a rename or the like here.
    pub(super) fn failed(&self, action: &'static str, source: SysError) -> ApplyError {
        let dest = self.dest.clone();
        match source.errno() {
            Errno::EBUSY => ApplyError::MountPoint { dest },
            Errno::ENOTEMPTY | Errno::EEXIST => ApplyError::Exists { dest },
            _ => ApplyError::Directory { action, path: dest, source },
        }
    }

    /// A fresh name for something of ours beside the destination.
    pub(super) fn fresh_name(&self, suffix: &str) -> Vec<u8> {
        let random = RandomState::new().hash_one(std::process::id());
        [&self.prefix(), format!("{random:016x}{suffix}").as_bytes()].concat()
    }

    fn prefix(&self) -> Vec<u8> {
        let shown = self.name.get(..MAX_SHOWN_NAME_BYTES).unwrap_or(&self.name);
        [b".", shown, b".ocipull-"].concat()
    }

    /// Makes a locked directory beside the destination, for its owner alone.
    pub(super) fn make_staging(&self) -> Result<(Vec<u8>, OwnedFd), ApplyError> {
        let failed = |source| ApplyError::Directory {
            action: "make a staging directory beside",
            path: self.dest.clone(),
            source,
        };
        for _ in 0..MAX_NAME_TRIES {
            let name = self.fresh_name("");
            rootdir::make_dir_at(&self.parent, &name).map_err(failed)?;
            let dir = match rootdir::open_dir_at(&self.parent, &name) {
                // Another run removed it as a leftover before it was locked.
                Err(e) if e.errno() == Errno::ENOENT => continue,
                Err(e) => {
                    let _ = rootdir::remove_at(&self.parent, &name);
                    return Err(failed(e));
                }
                Ok(dir) => dir,
            };
            match self.lock_made(&name, &dir) {
                Ok(true) => return Ok((name, dir)),
                // The same has happened between these two steps.
                Ok(false) => {}
                Err(e) => {
                    let _ = rootdir::remove_at(&self.parent, &name);
                    return Err(failed(e));
                }
            }
        }
        Err(failed(SysError::new("mkdirat", format!("{:?}", self.dest), Errno::EEXIST)))
    }

    /// Locks a directory just made; `false` when it is another run's, or stands there no more.
    fn lock_made(&self, name: &[u8], dir: &OwnedFd) -> Result<bool, SysError> {
        let locked = rootdir::try_lock(dir)?;
        let there = rootdir::stat_at(&self.parent, name)?;
        let own = rootdir::stat(dir)?;
        Ok(locked && there.is_some_and(|there| there.st_ino == own.st_ino))
    }

    /// Removes what runs that were killed left beside the destination: whatever has such a name
    /// and nobody's lock. What cannot be removed (another user's) is left.
    pub(super) fn remove_leftovers(&self) -> Result<(), ApplyError> {
        let names = rootdir::names(&self.parent).map_err(|e| self.failed("open", e))?;
        let mut files = Vec::new();
        for name in names.iter().map(|name| name.to_bytes()) {
            if !name.starts_with(&self.prefix()) {
                continue;
            }
            let stat = rootdir::stat_at(&self.parent, name);
            if stat.is_ok_and(|s| s.is_some_and(|s| !rootdir::is_type(&s, 0o040_000))) {
                files.push(name);
            } else if let Some(_lock) = self.lock_leftover(name) {
                let _ = rootdir::remove_at(&self.parent, name);
            }
        }
        if !files.is_empty() {
            // A record on its way, or put aside, is there during its run's turn only: what was
            // seen before this turn and is still there now was left.
            let _turn = self.take_turn()?;
            for name in files {
                let _ = rootdir::remove_at(&self.parent, name);
            }
        }
        Ok(())
    }

    /// Waits until no other run exchanges a tree and its record here. The turn ends when what is
    /// returned is dropped. It is a lock of the parent directory, which anybody who may read that
    /// can take: one that is held for longer than a run of ours ever does is passed over.
    pub(super) fn take_turn(&self) -> Result<OwnedFd, ApplyError> {
        let failed = |e| self.failed("lock the directory of", e);
        // A descriptor of its own: a lock goes with that.
        let dir = rootdir::open_dir_at(&self.parent, b".").map_err(failed)?;
        let end = Instant::now() + MAX_TURN_WAIT;
        while !rootdir::try_lock(&dir).map_err(failed)? && Instant::now() < end {
            std::thread::sleep(TURN_POLL);
        }
        Ok(dir)
    }

    /// Locks a directory that nobody works on; `None` for one that is worked on. The lock is held
    /// while it is removed: one that was made this moment would else be locked by its own run
    /// between the look and the removal.
    fn lock_leftover(&self, name: &[u8]) -> Option<OwnedFd> {
        let open = || rootdir::open_dir_at(&self.parent, name);
        let dir = match open() {
            // A mode that an image set, at the very end of a run.
            Err(e) if e.errno() == Errno::EACCES => {
                rootdir::set_mode_at(&self.parent, name, 0o700).and_then(|()| open())
            }
            other => other,
        };
        dir.ok().filter(|dir| rootdir::try_lock(dir).is_ok_and(|free| free))
    }

    /// Removes the parents that were made for this destination; those not empty stay.
    pub(super) fn remove_made_parents(&self) {
        remove_dirs(&self.made_parents);
    }
}

fn make_dirs(path: &Path, made: &mut Vec<PathBuf>) -> Result<(), SysError> {
    let lacking = |p: &&Path| !p.as_os_str().is_empty() && fs::metadata(p).is_err();
    let missing: Vec<&Path> = path.ancestors().take_while(lacking).collect();
    for dir in missing.into_iter().rev() {
        match fs::create_dir(dir) {
            Ok(()) => made.push(dir.into()),
            // Made by another run meanwhile, or `a/..` of an `a` that was just made.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(SysError::from_io("mkdir", format!("{dir:?}"), &e)),
        }
    }
    Ok(())
}

fn remove_dirs(dirs: &[PathBuf]) {
    for dir in dirs.iter().rev() {
        let _ = fs::remove_dir(dir);
    }
}
