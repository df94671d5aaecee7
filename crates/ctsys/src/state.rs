//! Where containers are recorded: one directory a container, written by rename under a lock.
//!
//! ```text
//! $XDG_RUNTIME_DIR/minirun/        0700, owned by the user (checked)
//!   .lock                          held while the set of containers changes
//!   ID/state.json                  a ContainerState
//!   ID/…                           what else the launcher keeps: log, generated config.json
//! ```
//!
//! Without the variable the directory is `/run/user/UID/minirun`, else `/tmp/minirun-UID`; root's is
//! `/run/minirun`, where `/run` is root's.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Context, SysError};

mod container;
mod error;

pub use container::{ContainerState, Status};
pub use error::StateError;

/// A state file larger than this is not one of ours.
const MAX_STATE_BYTES: u64 = 1 << 20;
/// Longest id or name: a file name may have 255 bytes, and temporary names add some.
const MAX_ID_BYTES: usize = 200;
const STATE_FILE: &str = "state.json";
/// What most containers have beside it.
const KEPT_FILES: [&str; 1] = ["config.json"];
const LOCK_FILE: &str = ".lock";

type Result<T, E = StateError> = std::result::Result<T, E>;

/// The directory that holds a caller's containers.
#[derive(Debug, Clone)]
pub struct StateRoot {
    path: PathBuf,
    /// Its link count: 2, and one more for each subdirectory.
    links: u64,
}

/// Held while the set of containers changes; released on drop, as the file is closed (flock(2)).
#[derive(Debug)]
pub struct StateLock(#[allow(dead_code)] File);

impl StateRoot {
    /// The caller's root, made if need be, its owner and mode checked.
    pub fn open_default() -> Result<Self> {
        let uid = nix::unistd::geteuid().as_raw();
        Self::open(default_path(uid), uid)
    }

    /// Where the caller's root is, or would be: for messages.
    pub fn default_dir() -> PathBuf {
        default_path(nix::unistd::geteuid().as_raw())
    }

    /// The caller's root if it exists already: for those who only look.
    pub fn find_default() -> Result<Option<Self>> {
        let uid = nix::unistd::geteuid().as_raw();
        let path = default_path(uid);
        match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            _ => Self::open(path, uid).map(Some),
        }
    }

    /// The root at `path`, made if need be. Fails unless it is a directory of `uid`'s with mode
    /// 0700: others could otherwise plant a record that names a process of their choice.
    pub fn open(path: PathBuf, uid: u32) -> Result<Self> {
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(SysError::from_io("mkdir", format!("{path:?}"), &e).into());
            }
            _ => {}
        }
        let meta = fs::symlink_metadata(&path).call("lstat", || format!("{path:?}"))?;
        let mode = meta.mode() & 0o7777;
        if !meta.is_dir() || meta.uid() != uid || mode & 0o077 != 0 {
            return Err(StateError::NotPrivate { path, owner: meta.uid(), mode, want_owner: uid });
        }
        Ok(Self { path, links: meta.nlink() })
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of one container.
    pub fn container_dir(&self, id: &str) -> Result<PathBuf> {
        check_id(id)?;
        Ok(self.path.join(id))
    }

    /// Waits for the lock. Hold it from looking whether a name is free until it is taken, and over
    /// every read-change-write of a record.
    pub fn lock(&self) -> Result<StateLock> {
        let path = self.path.join(LOCK_FILE);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .call("open", || format!("{path:?}"))?;
        file.lock().call("flock", || format!("{path:?}"))?;
        Ok(StateLock(file))
    }

    /// Takes `state.id`: makes its directory and writes the first record. An id in use is an error.
    /// Others are not looked at: that would make a start the slower the more containers there are.
    pub fn create(&self, state: &ContainerState, _held: &StateLock) -> Result<PathBuf> {
        let dir = self.container_dir(&state.id)?;
        check_id(&state.name)?;
        match self.load(&state.id) {
            Ok(_) => return Err(StateError::Exists(state.name.clone())),
            Err(StateError::NotFound(_)) => {}
            Err(other) => return Err(other),
        }
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            // A directory without a record: a creation that was cut off between the two steps.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.call("mkdir", || format!("{dir:?}"))?,
        }
        match write_atomically(&dir, state) {
            Ok(()) => Ok(dir),
            Err(error) => {
                // Nothing half made stays; why there is none is told all the same.
                let _ = fs::remove_dir_all(&dir);
                Err(error)
            }
        }
    }

    /// Replaces the record of an existing container.
    pub fn update(&self, state: &ContainerState, _held: &StateLock) -> Result<()> {
        write_atomically(&self.container_dir(&state.id)?, state)
    }

    /// Removes a container's directory with all in it.
    pub fn remove(&self, id: &str, _held: &StateLock) -> Result<()> {
        let dir = self.container_dir(id)?;
        // The record goes first: a removal that is cut off leaves a directory without one, which
        // counts as none.
        let _ = fs::remove_file(dir.join(STATE_FILE));
        for name in KEPT_FILES {
            let _ = fs::remove_file(dir.join(name));
        }
        // What else there is takes a look at the directory first.
        let removed = fs::remove_dir(&dir).or_else(|error| match error.kind() {
            std::io::ErrorKind::DirectoryNotEmpty => fs::remove_dir_all(&dir),
            _ => Err(error),
        });
        match removed {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(StateError::NotFound(id.into()))
            }
            other => Ok(other.call("rmdir", || format!("{dir:?}"))?),
        }
    }

    /// The record of the container with this id.
    pub fn load(&self, id: &str) -> Result<ContainerState> {
        let path = self.container_dir(id)?.join(STATE_FILE);
        let file = match File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(StateError::NotFound(id.into()));
            }
            other => other.call("open", || format!("{path:?}"))?,
        };
        // Room for a usual record, which then takes one read.
        let mut text = Vec::with_capacity(4 << 10);
        file.take(MAX_STATE_BYTES + 1)
            .read_to_end(&mut text)
            .call("read", || format!("{path:?}"))?;
        if text.len() as u64 > MAX_STATE_BYTES {
            let reason = format!("larger than {MAX_STATE_BYTES} bytes");
            return Err(StateError::Damaged { path, reason });
        }
        let state: ContainerState = serde_json::from_slice(&text)
            .map_err(|e| StateError::Damaged { path: path.clone(), reason: e.to_string() })?;
        if state.id != id {
            let reason = format!("got id {:?}, want {id:?}", state.id);
            return Err(StateError::Damaged { path, reason });
        }
        Ok(state)
    }

    /// All records, by id. Directories without one, and records that vanish meanwhile, are none.
    pub fn list(&self) -> Result<Vec<ContainerState>> {
        let mut states = Vec::new();
        for id in self.ids()? {
            match self.load(&id) {
                Ok(state) => states.push(state),
                Err(StateError::NotFound(_)) => {}
                Err(other) => return Err(other),
            }
        }
        states.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(states)
    }

    /// The names of the directories that are here, with a record or without.
    pub fn ids(&self) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.path).call("opendir", || format!("{:?}", self.path))? {
            let entry = entry.call("readdir", || format!("{:?}", self.path))?;
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            // A file among the directories is nothing of ours.
            let id = entry.file_name().to_str().map(str::to_owned).filter(|_| is_dir);
            ids.extend(id.filter(|id| check_id(id).is_ok()));
        }
        Ok(ids)
    }

    /// Whether containers of others were here when the root was opened: its link count tells, without
    /// a look inside, where the file system counts subdirectories (else it says that there are).
    pub fn had_containers(&self) -> bool {
        self.links != 2
    }

    /// The container that `name` means: an id or a name, else the only id that starts with it.
    pub fn find(&self, name: &str) -> Result<ContainerState> {
        // By its id one is found also where another's record is damaged.
        match self.load(name) {
            Err(StateError::NotFound(_)) => {}
            other => return other,
        }
        let mut all = self.list()?;
        if let Some(at) = all.iter().position(|s| s.id == name || s.name == name) {
            return Ok(all.swap_remove(at));
        }
        all.retain(|s| s.id.starts_with(name));
        match all.len() {
            0 => Err(StateError::NotFound(name.into())),
            1 => Ok(all.swap_remove(0)),
            _ => Err(StateError::Ambiguous {
                name: name.into(),
                candidates: all.into_iter().map(|s| s.id).collect(),
            }),
        }
    }
}

/// Whether `id` can name a container (runc's rule): it becomes a file name.
pub fn check_id(id: &str) -> Result<()> {
    let fits = id.len() <= MAX_ID_BYTES
        && id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-.".contains(&b));
    if fits { Ok(()) } else { Err(StateError::InvalidId(id.into())) }
}

fn default_path(uid: u32) -> PathBuf {
    // An XDG_RUNTIME_DIR inherited through su or sudo belongs to somebody else.
    let mine = |dir: &Path| fs::metadata(dir).is_ok_and(|m| m.is_dir() && m.uid() == uid);
    // Root of a user namespace of a user's, as by `unshare -r`, is that user: /run is not theirs.
    if uid == 0 && mine(Path::new("/run")) {
        return "/run/minirun".into();
    }
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute() && mine(dir))
        .or_else(|| Some(PathBuf::from(format!("/run/user/{uid}"))).filter(|dir| mine(dir)))
        .map_or_else(|| format!("/tmp/minirun-{uid}").into(), |dir| dir.join("minirun"))
}

fn write_atomically(dir: &Path, state: &ContainerState) -> Result<()> {
    let temporary = dir.join(".state.json.new");
    let path = dir.join(STATE_FILE);
    let text = serde_json::to_vec_pretty(state)
        .map_err(|e| StateError::Damaged { path: path.clone(), reason: e.to_string() })?;
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .call("open", || format!("{temporary:?}"))?;
    file.write_all(&text).call("write", || format!("{temporary:?}"))?;
    fs::rename(&temporary, &path).call("rename", || format!("{temporary:?}, {path:?}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::ProcessId;
    use std::os::unix::fs::PermissionsExt;

    fn sample(id: &str, name: &str) -> ContainerState {
        ContainerState {
            oci_version: "1.0.2".into(),
            id: id.into(),
            status: Status::Running,
            pid: 0,
            bundle: "/b".into(),
            annotations: Default::default(),
            name: name.into(),
            rootfs: "/b/rootfs".into(),
            created: "2026-01-01T00:00:00Z".into(),
            init: None,
            main: None,
            monitor: None,
            exposed_ports: vec!["80/tcp".into()],
            cgroup: None,
            oom_killed: false,
            exit_code: None,
            started: None,
            finished: None,
            transient: false,
        }
    }

    fn root(dir: &tempfile::TempDir) -> StateRoot {
        StateRoot::open(dir.path().join("s"), nix::unistd::geteuid().as_raw()).unwrap()
    }

    #[test]
    fn a_creation_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = StateRoot::open(dir.path().join("s"), nix::unistd::geteuid().as_raw()).unwrap();
        // In the way of the file that becomes the record.
        fs::create_dir_all(root.path().join("a/.state.json.new")).unwrap();
        let error = root.create(&sample("a", "a"), &root.lock().unwrap()).unwrap_err();
        assert!(matches!(error, StateError::Sys(_)), "{error}");
        assert!(!root.path().join("a").exists());
    }

    #[test]
    fn a_container_is_found_by_id_name_and_unique_prefix() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(&dir);
        let lock = root.lock().unwrap();
        root.create(&sample("abc1", "pod"), &lock).unwrap();
        root.create(&sample("abd2", "web"), &lock).unwrap();
        assert_eq!(root.find("pod").unwrap().id, "abc1");
        assert_eq!(root.find("abd2").unwrap().name, "web");
        assert_eq!(root.find("abc").unwrap().id, "abc1");
        assert!(matches!(root.find("ab"), Err(StateError::Ambiguous { .. })));
        assert!(matches!(root.find("x"), Err(StateError::NotFound(_))));
        assert!(matches!(root.create(&sample("abc1", "new"), &lock), Err(StateError::Exists(_))));
        root.remove("abc1", &lock).unwrap();
        assert!(matches!(root.find("pod"), Err(StateError::NotFound(_))));
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let opened = StateRoot::open(path, nix::unistd::geteuid().as_raw());
        assert!(matches!(opened, Err(StateError::NotPrivate { .. })));
    }

    #[test]
    fn no_id_leaves_the_directory() {
        for bad in ["", "..", ".lock", "a/b", "/etc", "a b", &"x".repeat(201)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "web-1", "A_b.c+d", "0"] {
            assert!(check_id(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_record_whose_processes_are_gone_is_stopped() {
        let me = ProcessId::of(std::process::id().cast_signed()).unwrap();
        let mut state = ContainerState { init: me, ..sample("a", "a") };
        assert_eq!(state.live_status().unwrap(), Status::Running);
        // As for its owner where /proc hides the init.
        (state.init, state.main) = (None, me);
        assert_eq!(state.live_status().unwrap(), Status::Running);
        state.main = None;
        assert_eq!(state.live_status().unwrap(), Status::Stopped);
    }

    #[test]
    fn a_container_whose_monitor_is_gone_is_abandoned() {
        let me = ProcessId::of(std::process::id().cast_signed()).unwrap();
        let other = me.map(|p| ProcessId { start_time_ticks: p.start_time_ticks + 1, ..p });
        let mut state = ContainerState { monitor: me, ..sample("a", "a") };
        assert!(!state.is_abandoned().unwrap());
        state.monitor = other;
        assert!(state.is_abandoned().unwrap());
        state.status = Status::Stopped;
        assert!(!state.is_abandoned().unwrap(), "it was there to record the end");
    }

    #[test]
    fn a_directory_without_a_record_is_there_and_no_container() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(&dir);
        let lock = root.lock().unwrap();
        root.create(&sample("a", "a"), &lock).unwrap();
        fs::create_dir(root.path().join("b")).unwrap();
        fs::write(root.path().join("c"), "").unwrap();
        let mut ids = root.ids().unwrap();
        ids.sort();
        assert_eq!((root.list().unwrap().len(), ids), (1, vec!["a".to_owned(), "b".to_owned()]));
        root.remove("b", &lock).unwrap();
        assert!(!root.path().join("b").exists());
    }

    #[test]
    fn a_damaged_record_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(&dir);
        let lock = root.lock().unwrap();
        let at = root.create(&sample("a", "a"), &lock).unwrap();
        fs::write(at.join(STATE_FILE), "{").unwrap();
        assert!(matches!(root.load("a"), Err(StateError::Damaged { .. })));
        root.remove("a", &lock).unwrap();
        root.create(&sample("b", "b"), &lock).unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("a").join(STATE_FILE), "{").unwrap();
        assert_eq!(root.find("b").unwrap().id, "b", "another's damage does not matter");
    }
}
