//! The layout's directory: blobs, index.json, and what runs that were killed left there.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use ctsys::rootdir::{self, RootDir};
use ctsys::{Errno, SysError};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_client::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE;
use oci_spec::image::{Descriptor, Digest};
use serde_json::{Value, json};

use super::StoreError;
use crate::local::{LAYOUT_FILE, LayoutDir, LocalError, MAX_INDEX_BYTES, REF_NAME};
use crate::verify::{Verifier, VerifyError};

/// What `oci-layout` says (image-spec, "oci-layout file").
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// What names begin with until they are right. One that a killed run leaves is removed by the next.
const TEMPORARY_PREFIX: &str = ".ocipull-";
/// Copied at once, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Of files and directories, which the umask narrows: a layout is for everybody to read.
const FILE_MODE: Mode = Mode::from_bits_retain(0o644);
const DIR_MODE: Mode = Mode::from_bits_retain(0o755);
/// How long the lock is waited for. Who has it writes one small file.
const MAX_LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(10);

/// A layout that is open for writing.
#[derive(Debug)]
pub struct LayoutStore {
    path: PathBuf,
    root: RootDir,
}

impl LayoutStore {
    /// Whether `path` is a layout, or may become one: absent, or an empty directory.
    pub fn check(path: &Path) -> Result<(), StoreError> {
        let mut names = match std::fs::read_dir(path) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                let source = SysError::from_io("open", format!("{path:?}"), &error);
                return Err(StoreError::Directory { path: path.to_path_buf(), source });
            }
        };
        if names
            .all(|name| name.is_ok_and(|name| is_temporary(&name.file_name().to_string_lossy())))
        {
            return Ok(());
        }
        LayoutDir::open(path).map(drop).map_err(StoreError::Layout)
    }

    /// Opens the layout at `path`, and makes it where there is nothing yet.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::check(path)?;
        let failed = |source| StoreError::Directory { path: path.to_path_buf(), source };
        std::fs::create_dir_all(path)
            .map_err(|e| failed(SysError::from_io("mkdir", format!("{path:?}"), &e)))?;
        let root = RootDir::new(rootdir::open_dir(path).map_err(failed)?);
        let store = Self { path: path.to_path_buf(), root };
        store.remove_stale().map_err(failed)?;
        let has_layout_file = rootdir::stat_at(store.root.fd(), LAYOUT_FILE.as_bytes());
        if has_layout_file.map_err(failed)?.is_none() {
            store.write_whole(LAYOUT_FILE, LAYOUT)?;
        }
        Ok(store)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the blob is there, whole and right. It is read to its end for that: a blob that a
    /// loss of power left short would be named by one image more.
    pub fn has(&self, blob: &Descriptor) -> bool {
        let there = LayoutDir::open(&self.path).and_then(|layout| layout.blob(blob.digest()));
        let Ok(mut file) = there else { return false };
        if file.size_bytes() != blob.size() {
            return false;
        }
        let Ok(mut verifier) = Verifier::new(blob.digest(), Some(blob.size())) else {
            return false;
        };
        copy(&mut file, &mut io::sink(), &mut verifier).is_ok() && verifier.finish().is_ok()
    }

    /// Writes a blob, which `content` gives to its end.
    pub fn put(&self, blob: &Descriptor, content: &mut dyn Read) -> Result<(), StoreError> {
        let digest = blob.digest();
        let wrong = |cause| StoreError::Content { digest: digest.to_string(), cause };
        let mut verifier = Verifier::new(digest, Some(blob.size())).map_err(wrong)?;
        let mut temporary = self.temporary()?;
        copy(content, &mut temporary.file, &mut verifier).map_err(|stop| match stop {
            CopyStop::Content(cause) => wrong(cause),
            CopyStop::Read(source) => StoreError::Read { digest: digest.to_string(), source },
            CopyStop::Write(source) => self.cannot("write", source),
        })?;
        verifier.finish().map_err(wrong)?;
        let dir = self.blob_dir(digest)?;
        temporary.commit(self, &dir, digest.digest())
    }

    /// Names an image whose blobs are all there. Another one of that name loses it.
    pub fn name(&self, image: &Descriptor, name: Option<&str>) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let Some(images) = index.get_mut("manifests").and_then(Value::as_array_mut) else {
            return Err(StoreError::Index(self.path.clone()));
        };
        let mut entry = serde_json::to_value(image).map_err(|source| self.json(source))?;
        // What its platform is, an index of one name says; what else it brought is another's.
        if let Some(entry) = entry.as_object_mut() {
            entry.remove("annotations");
            entry.remove("data");
            if let Some(name) = name {
                entry.insert("annotations".into(), json!({ REF_NAME: name }));
            }
        }
        let name_of = |known: &Value| known["annotations"][REF_NAME].as_str().map(str::to_owned);
        images.retain(|known| match name {
            Some(name) => name_of(known).as_deref() != Some(name),
            None => name_of(known).is_some() || known["digest"] != entry["digest"],
        });
        images.push(entry);
        let bytes = serde_json::to_vec(&index).map_err(|source| self.json(source))?;
        if bytes.len() as u64 > MAX_INDEX_BYTES {
            return Err(StoreError::Full(self.path.clone()));
        }
        self.write_whole("index.json", &bytes)
    }

    /// index.json as it is, with all that others wrote into it.
    fn index(&self) -> Result<Value, StoreError> {
        let layout = LayoutDir::open(&self.path).map_err(StoreError::Layout)?;
        match layout.index_json() {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| self.json(source)),
            Err(LocalError::NoLayout { .. }) => Ok(json!({
                "schemaVersion": 2,
                "mediaType": OCI_IMAGE_INDEX_MEDIA_TYPE,
                "manifests": [],
            })),
            Err(other) => Err(StoreError::Layout(other)),
        }
    }

    fn lock(&self) -> Result<OwnedFd, StoreError> {
        let end = Instant::now() + MAX_LOCK_WAIT;
        // A descriptor of its own: threads of this process exclude each other too.
        let dir = self.root.open_dir(b"").map_err(|e| self.failed("open", e))?;
        while !rootdir::try_lock(&dir).map_err(|e| self.failed("lock", e))? {
            if Instant::now() > end {
                return Err(StoreError::Locked(self.path.clone()));
            }
            std::thread::sleep(LOCK_POLL);
        }
        Ok(dir)
    }

    fn write_whole(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let mut temporary = self.temporary()?;
        temporary.file.write_all(bytes).map_err(|e| self.cannot("write", e))?;
        let root = self.root.open_dir(b"").map_err(|e| self.failed("open", e))?;
        temporary.commit(self, &root, name)
    }

    /// The directory of a digest's algorithm, made where it is missing. No link leads there.
    fn blob_dir(&self, digest: &Digest) -> Result<OwnedFd, StoreError> {
        let mut dir = self.root.open_dir(b"").map_err(|e| self.failed("open", e))?;
        for name in ["blobs", digest.algorithm().as_ref()] {
            match nix::sys::stat::mkdirat(&dir, name, DIR_MODE) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => {
                    return Err(self.failed("make", SysError::new("mkdirat", name, errno)));
                }
            }
            let open = rootdir::open_dir_at(&dir, name.as_bytes());
            dir = open.map_err(|e| self.failed("open", e))?;
        }
        Ok(dir)
    }

    fn temporary(&self) -> Result<Temporary, StoreError> {
        loop {
            let random = RandomState::new().hash_one((SystemTime::now(), std::process::id()));
            let name = format!("{TEMPORARY_PREFIX}{random:016x}");
            let dir = self.root.open_dir(b"").map_err(|e| self.failed("open", e))?;
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            let file = nix::fcntl::openat(&dir, name.as_str(), flags, FILE_MODE)
                .map(File::from)
                .map_err(|errno| self.failed("create", SysError::new("openat", &name, errno)))?;
            let temporary = Temporary { dir, name, file, is_done: false };
            // Against those who clean up. One of them may have been faster: then once more.
            let locked = rootdir::try_lock(&temporary.file).map_err(|e| self.failed("lock", e))?;
            if locked && temporary.has_its_name().map_err(|e| self.failed("stat", e))? {
                return Ok(temporary);
            }
        }
    }

    /// Removes what runs that were killed left: nobody holds its lock.
    fn remove_stale(&self) -> Result<(), SysError> {
        for name in rootdir::names(self.root.fd())? {
            let name = name.to_bytes();
            if !is_temporary(&String::from_utf8_lossy(name)) {
                continue;
            }
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            let opened = nix::fcntl::openat(self.root.fd(), name, flags, Mode::empty());
            let Ok(file) = opened else { continue };
            if rootdir::try_lock(&file)? {
                let _ = rootdir::unlink_at(self.root.fd(), name);
            }
        }
        Ok(())
    }

    fn cannot(&self, action: &'static str, error: io::Error) -> StoreError {
        self.failed(action, SysError::from_io(action, "", &error))
    }

    fn failed(&self, action: &'static str, source: SysError) -> StoreError {
        StoreError::Write { action, path: self.path.clone(), source }
    }

    fn json(&self, source: serde_json::Error) -> StoreError {
        let (name, path) = ("index.json", self.path.clone());
        StoreError::Layout(LocalError::Json { name, path, source })
    }
}

/// A file without its name yet. Dropping it removes it.
struct Temporary {
    dir: OwnedFd,
    name: String,
    file: File,
    is_done: bool,
}

impl Temporary {
    fn has_its_name(&self) -> Result<bool, SysError> {
        rootdir::stat_at(&self.dir, self.name.as_bytes()).map(|found| found.is_some())
    }

    /// Gives it its name. It is on the disk by then: a name without content would outlive a loss of
    /// power, and the next run would believe it.
    fn commit(mut self, store: &LayoutStore, dir: &OwnedFd, name: &str) -> Result<(), StoreError> {
        self.file.sync_all().map_err(|e| store.cannot("sync", e))?;
        rootdir::move_at(&self.dir, self.name.as_bytes(), dir, name.as_bytes())
            .map_err(|e| store.failed("rename", e))?;
        self.is_done = true;
        // And so is the name, before any other names it.
        nix::unistd::fsync(dir)
            .map_err(|errno| store.failed("sync", SysError::new("fsync", name, errno)))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_done {
            let _ = rootdir::unlink_at(self.dir.as_fd(), self.name.as_bytes());
        }
    }
}

enum CopyStop {
    Read(io::Error),
    Write(io::Error),
    Content(VerifyError),
}

fn copy(from: &mut dyn Read, to: &mut dyn Write, verifier: &mut Verifier) -> Result<(), CopyStop> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyStop::Read(error)),
        };
        let piece = buffer.get(..length).unwrap_or_default();
        verifier.update(piece).map_err(CopyStop::Content)?;
        to.write_all(piece).map_err(CopyStop::Write)?;
    }
}

fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify;
    use std::os::unix::fs::PermissionsExt;

    fn describe(bytes: &[u8]) -> Descriptor {
        let digest = verify::sha256(bytes).unwrap();
        Descriptor::new("a/b".into(), bytes.len() as u64, digest)
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn index(dir: &Path) -> Value {
        serde_json::from_slice(&std::fs::read(dir.join("index.json")).unwrap()).unwrap()
    }

    #[test]
    fn a_blob_has_its_name_only_when_it_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/layout");
        let store = LayoutStore::open(&path).unwrap();
        let blob = describe(b"content");
        for (content, words) in
            [(&b"contenT"[..], "altered"), (b"conten", "truncated"), (b"content+", "too long")]
        {
            let error = store.put(&blob, &mut &*content).unwrap_err();
            let text = ctsys::report::chain(&error);
            assert!(text.contains(words), "{text}");
            assert!(!store.has(&blob));
            assert_eq!(names(&path).iter().filter(|n| n.starts_with('.')).count(), 0);
        }
        store.put(&blob, &mut &b"content"[..]).unwrap();
        store.put(&blob, &mut &b"content"[..]).unwrap();
        assert!(store.has(&blob));
        let file = path.join("blobs/sha256").join(blob.digest().digest());
        assert_eq!(std::fs::read(&file).unwrap(), b"content");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        let blobs = std::fs::metadata(path.join("blobs")).unwrap().permissions();
        assert_eq!(blobs.mode() & 0o777, 0o755);
        // One that was damaged since is found, and put right.
        std::fs::write(&file, b"CONTENT").unwrap();
        assert!(!store.has(&blob));
        store.put(&blob, &mut &b"content"[..]).unwrap();
        assert!(store.has(&blob));
    }

    #[test]
    fn an_image_is_named_beside_the_others_and_all_that_they_say_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = LayoutStore::open(dir.path()).unwrap();
        let (one, two) = (describe(b"1"), describe(b"2"));
        store.name(&one, Some("a")).unwrap();
        let mut foreign = index(dir.path());
        foreign["annotations"] = json!({"who": "me"});
        foreign["manifests"][0]["extra"] = json!([1]);
        std::fs::write(dir.path().join("index.json"), foreign.to_string()).unwrap();
        store.name(&two, Some("b")).unwrap();
        store.name(&two, None).unwrap();
        store.name(&two, None).unwrap();
        let all = index(dir.path());
        assert_eq!(all["annotations"]["who"], "me");
        assert_eq!(all["manifests"][0]["extra"], json!([1]));
        assert_eq!(all["manifests"].as_array().unwrap().len(), 3);
        store.name(&two, Some("a")).unwrap();
        let all = index(dir.path());
        let named: Vec<_> = all["manifests"].as_array().unwrap().iter().collect();
        assert_eq!(named.len(), 3);
        assert_eq!(named[2]["digest"], two.digest().as_ref());
        assert_eq!(named[2]["annotations"][REF_NAME], "a");
    }

    #[test]
    fn many_at_once_lose_no_name() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for n in 0..16 {
                let path = dir.path();
                scope.spawn(move || {
                    let store = LayoutStore::open(path).unwrap();
                    store.put(&describe(b"same"), &mut &b"same"[..]).unwrap();
                    store.name(&describe(&[n]), Some(&format!("v{n}"))).unwrap();
                });
            }
        });
        assert_eq!(index(dir.path())["manifests"].as_array().unwrap().len(), 16);
        assert_eq!(names(dir.path()), ["blobs", "index.json", "oci-layout"]);
    }

    #[test]
    fn what_is_no_layout_is_left_alone_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mine"), "text").unwrap();
        assert!(matches!(LayoutStore::open(dir.path()), Err(StoreError::Layout(_))));
        assert_eq!(names(dir.path()), ["mine"]);
        let error = LayoutStore::open(&dir.path().join("mine")).unwrap_err();
        assert!(matches!(error, StoreError::Directory { .. }));

        let (layout, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = LayoutStore::open(layout.path()).unwrap();
        std::os::unix::fs::symlink(outside.path(), layout.path().join("blobs")).unwrap();
        assert!(store.put(&describe(b"x"), &mut &b"x"[..]).is_err());
        assert_eq!(names(outside.path()), Vec::<String>::new());
    }

    #[test]
    fn what_a_killed_run_left_goes_and_what_a_running_one_writes_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = LayoutStore::open(dir.path()).unwrap();
        let writing = store.temporary().unwrap();
        std::fs::write(dir.path().join(".ocipull-dead"), "half a blob").unwrap();
        LayoutStore::open(dir.path()).unwrap();
        let left: Vec<_> = names(dir.path()).into_iter().filter(|n| n.starts_with('.')).collect();
        assert_eq!(left, [writing.name.as_str()]);
    }
}
