//! Where the cache is, and whether it may be used: nobody else may be able to write there.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::CacheError;

/// The id that stands for owners whom a user namespace does not know (user_namespaces(7)).
const OVERFLOW_UID: u32 = 65_534;
/// The file that makes a directory an OCI image layout, and what it says (image-spec, "OCI Image
/// Layout").
const LAYOUT_FILE: &str = "oci-layout";
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// `$XDG_CACHE_HOME/ocipull`, else `$HOME/.cache/ocipull` (XDG Base Directory Specification, which
/// has relative paths ignored).
pub fn directory(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, CacheError> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    base.map(|base| base.join("ocipull")).ok_or(CacheError::NoHome)
}

/// Whether nobody else decides what `root` is: neither who owns the directory that it stands in,
/// and so could put a link to another of the user's directories there, nor who made such a link.
/// And root with a user's HOME is not to leave directories there that the user cannot use.
pub(super) fn check_way(root: &Path) -> Result<(), CacheError> {
    if let Some(there) = root.ancestors().skip(1).find(|path| path.exists()) {
        let owner = fs::metadata(there).map_err(failed("stat", there))?.uid();
        check_owner(there, owner)?;
    }
    match fs::symlink_metadata(root) {
        Ok(found) if found.is_symlink() => check_owner(root, found.uid()),
        _ => Ok(()),
    }
}

fn check_owner(path: &Path, owner: u32) -> Result<(), CacheError> {
    let (user, _) = ctsys::userns::effective_ids();
    match [user, 0, OVERFLOW_UID].contains(&owner) {
        true => Ok(()),
        false => Err(CacheError::Foreign(path.to_path_buf())),
    }
}

/// Makes the cache's directories where they are missing, and checks whose they are.
pub(super) fn prepare(root: &Path) -> Result<(), CacheError> {
    if !root.exists() {
        make_dir(root)?;
    }
    let found = fs::metadata(root).map_err(failed("stat", root))?;
    let (user, _) = ctsys::userns::effective_ids();
    if !found.is_dir() || found.uid() != user {
        return Err(CacheError::Foreign(root.to_path_buf()));
    }
    if found.mode() & 0o022 != 0 {
        return Err(CacheError::Open(root.to_path_buf()));
    }
    // One that cannot be written may still be read.
    let made = make_inside(root);
    if root.join("blobs").is_dir() { Ok(()) } else { made }
}

fn make_inside(root: &Path) -> Result<(), CacheError> {
    for name in ["blobs", "partial"] {
        make_dir(&root.join(name))?;
    }
    let layout = root.join(LAYOUT_FILE);
    if fs::metadata(&layout).is_ok_and(|found| found.len() == LAYOUT.len() as u64) {
        return Ok(());
    }
    write_whole(&layout, LAYOUT).map_err(failed("write", &layout))
}

/// A directory for its owner alone, with the parents that are missing.
pub(super) fn make_dir(path: &Path) -> Result<(), CacheError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(failed("make", path))
}

/// Puts a file in its place by a rename, so that nobody ever sees a part of it.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.{}", std::process::id()));
    // Only this process has the name; what is there was left by one that was killed.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let write = || {
        let mut file = options(true).create_new(true).open(&fresh)?;
        file.write_all(bytes)?;
        fs::rename(&fresh, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&fresh);
    })
}

/// How every file of the cache is opened: by its owner, never through a link.
pub(super) fn options(write: bool) -> fs::OpenOptions {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let mut options = File::options();
    options.read(true).write(write).mode(0o600).custom_flags(flags);
    options
}

pub(super) fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> CacheError + 'a {
    move |source| CacheError::Io { action, path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_directory_follows_the_variables() {
        let with = |cache: Option<&str>, home: Option<&str>| {
            directory(|name| match name {
                "XDG_CACHE_HOME" => cache.map(OsString::from),
                _ => home.map(OsString::from),
            })
        };
        assert_eq!(with(Some("/c"), Some("/h")).unwrap(), Path::new("/c/ocipull"));
        for ignored in [None, Some(""), Some("relative")] {
            assert_eq!(with(ignored, Some("/h")).unwrap(), Path::new("/h/.cache/ocipull"));
        }
        assert!(matches!(with(None, Some("")), Err(CacheError::NoHome)));
    }

    #[test]
    fn all_of_it_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("deep/ocipull");
        prepare(&root).unwrap();
        prepare(&root).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        for path in [&root, &root.join("blobs"), &root.join("partial")] {
            assert_eq!(mode(path), 0o700, "{path:?}");
        }
        assert_eq!(mode(&root.join(LAYOUT_FILE)), 0o600);
        fs::set_permissions(&root, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(prepare(&root), Err(CacheError::Open(_))));
    }

    #[test]
    fn nobody_else_says_where_it_is() {
        use std::os::unix::fs::{chown, lchown, symlink};
        assert_eq!(ctsys::userns::effective_ids().0, 0, "only root can give files away");
        let dir = tempfile::tempdir().unwrap();
        let (home, own) = (dir.path().join("home"), dir.path().join("own"));
        fs::create_dir(&home).unwrap();
        fs::create_dir(&own).unwrap();
        let root = home.join("ocipull");
        let is_foreign = |path: &Path| match check_way(&root) {
            Err(CacheError::Foreign(named)) => assert_eq!(named, path),
            other => panic!("{other:?}"),
        };
        symlink(&own, &root).unwrap();
        check_way(&root).unwrap();
        lchown(&root, Some(1234), None).unwrap();
        is_foreign(&root);
        lchown(&root, Some(0), None).unwrap();
        chown(&home, Some(1234), None).unwrap();
        is_foreign(&home);
        fs::remove_file(&root).unwrap();
        is_foreign(&home);
        chown(&home, Some(0), None).unwrap();
        check_way(&root).unwrap();
    }
}
