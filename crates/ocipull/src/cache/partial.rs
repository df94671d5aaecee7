//! A blob on its way into the cache: written by one, read along by the others.
//!
//! Who holds the file's lock writes it. A process that dies loses the lock, and whoever takes it
//! then goes on from what is there.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::place;

/// Between opening a file and locking it somebody may have finished or removed it; so often in a
/// row that happens to nobody.
const MAX_CLAIM_TRIES: usize = 64;

/// The one that is written by us.
#[derive(Debug)]
pub(crate) struct Partial {
    file: File,
    path: PathBuf,
    blob: PathBuf,
    length_bytes: u64,
}

/// One that is written by somebody else, in this process or in another.
#[derive(Debug)]
pub(crate) struct Following {
    file: File,
    path: PathBuf,
    blob: PathBuf,
}

/// Who writes a blob.
#[derive(Debug)]
pub(crate) enum Claim {
    Mine(Partial),
    Others(Following),
}

/// What became of one that somebody else wrote.
#[derive(Debug)]
pub(crate) enum Followed {
    /// It is being written still.
    Others(Following),
    /// Its writer is gone, and it is ours now.
    Mine(Partial),
    /// It is whole: all of it can be read.
    Whole(Following),
    /// Its writer found it bad, or somebody removed it.
    Gone,
}

impl Partial {
    /// Opens `path`, which will become `blob`, and takes it if nobody has it.
    pub(super) fn claim(path: PathBuf, blob: PathBuf) -> io::Result<Claim> {
        for _ in 0..MAX_CLAIM_TRIES {
            let file = place::options(true).create(true).truncate(false).open(&path)?;
            let locked = file.try_lock();
            if !is_at(&file, &path)? {
                continue;
            }
            return match locked {
                Ok(()) => Self::new(file, path, blob).map(Claim::Mine),
                Err(TryLockError::WouldBlock) => Ok(Claim::Others(Following { file, path, blob })),
                Err(TryLockError::Error(error)) => Err(error),
            };
        }
        Err(io::Error::other("it is made and removed all the time"))
    }

    fn new(file: File, path: PathBuf, blob: PathBuf) -> io::Result<Self> {
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("a partial blob is no file"));
        }
        Ok(Self { length_bytes: found.len(), file, path, blob })
    }

    /// What is there already, in bytes.
    pub(crate) fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    pub(crate) fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }

    /// Another descriptor of it, for reading it back when it has its name or is gone.
    pub(crate) fn reader(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.length_bytes)?;
        self.length_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Begins anew.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.length_bytes = 0;
        self.file.set_len(0)
    }

    /// Gives it its name; `NotFound` when it was evicted. It stays locked, but no longer against
    /// readers.
    pub(super) fn publish(self) -> io::Result<File> {
        if let Some(dir) = self.blob.parent() {
            place::make_dir(dir).map_err(io::Error::other)?;
        }
        if !is_at(&self.file, &self.path)? {
            return Err(io::ErrorKind::NotFound.into());
        }
        fs::rename(&self.path, &self.blob)?;
        self.file.try_lock_shared()?;
        Ok(self.file)
    }

    /// Removes it: it is not what it should be, or there is no room for it.
    pub(crate) fn discard(self) {
        if is_at(&self.file, &self.path).unwrap_or_default() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Following {
    pub(crate) fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Looks whether its writer has ended.
    pub(crate) fn look(self) -> io::Result<Followed> {
        if is_at(&self.file, &self.blob)? {
            return Ok(Followed::Whole(self));
        }
        let locked = self.file.try_lock();
        // Only now it cannot be finished or removed any more in between.
        if is_at(&self.file, &self.blob)? {
            return Ok(Followed::Whole(self));
        }
        if !is_at(&self.file, &self.path)? {
            // Where another has the lock, it may have got its name between the two looks.
            return match is_at(&self.file, &self.blob)? {
                true => Ok(Followed::Whole(self)),
                false => Ok(Followed::Gone),
            };
        }
        match locked {
            Ok(()) => Partial::new(self.file, self.path, self.blob).map(Followed::Mine),
            Err(TryLockError::WouldBlock) => Ok(Followed::Others(self)),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Whether `path` is the name of `file`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(dir: &tempfile::TempDir) -> (PathBuf, PathBuf) {
        (dir.path().join("partial"), dir.path().join("blobs/x"))
    }

    fn mine(dir: &tempfile::TempDir) -> Partial {
        let (path, blob) = paths(dir);
        match Partial::claim(path, blob).unwrap() {
            Claim::Mine(partial) => partial,
            Claim::Others(_) => panic!("somebody has it"),
        }
    }

    fn others(dir: &tempfile::TempDir) -> Following {
        let (path, blob) = paths(dir);
        match Partial::claim(path, blob).unwrap() {
            Claim::Others(following) => following,
            Claim::Mine(_) => panic!("nobody has it"),
        }
    }

    #[test]
    fn one_writes_and_the_next_goes_on_where_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = mine(&dir);
        first.append(b"abc").unwrap();
        let second = others(&dir);
        let mut seen = [0; 8];
        assert_eq!(second.read_at(&mut seen, 1).unwrap(), 2);
        assert_eq!(&seen[..2], b"bc");
        let Followed::Others(second) = second.look().unwrap() else {
            panic!("it is being written")
        };
        drop(first);
        let Followed::Mine(mut second) = second.look().unwrap() else {
            panic!("its writer is gone")
        };
        assert_eq!(second.length_bytes(), 3);
        second.append(b"d").unwrap();
        second.publish().unwrap();
        assert_eq!(fs::read(paths(&dir).1).unwrap(), b"abcd");
    }

    #[test]
    fn what_is_finished_or_removed_is_seen_by_who_follows() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = mine(&dir);
        first.append(b"abc").unwrap();
        let second = others(&dir);
        let kept = first.publish().unwrap();
        let Followed::Whole(second) = second.look().unwrap() else { panic!("it is whole") };
        let mut seen = [0; 3];
        assert_eq!(second.read_at(&mut seen, 0).unwrap(), 3);
        // It is in use: whoever would remove it does not get it.
        let other = File::open(paths(&dir).1).unwrap();
        assert!(other.try_lock().is_err());
        drop(kept);

        let first = mine(&dir);
        let second = others(&dir);
        first.discard();
        assert!(matches!(second.look().unwrap(), Followed::Gone));
        assert_eq!(mine(&dir).length_bytes(), 0);
    }
}
