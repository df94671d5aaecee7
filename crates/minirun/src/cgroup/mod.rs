//! The container's cgroup, where limits are asked for: made before the container is born into it,
//! read for what happened, removed at the end. Without limits nothing of this runs.
//!
//! ```text
//! Place::find ─▶ its path into the record ─▶ create: directory, limits ─▶ clone3 into it
//!             ─▶ … ─▶ oom_kills ─▶ remove
//! ```
//!
//! Only cgroup v2 (the kernel's cgroup-v2.rst).

mod dbus;
mod error;
mod place;
mod systemd;

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ctsys::SysError;
use ctsys::error::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::plan::{IfAbsent, Resources, Setting};
use place::{MOUNT, OUTSIDE, make_directory, read, sys, write};

pub use error::CgroupError;
pub use systemd::SystemdError;

/// What the container's cgroup is called, before its id.
const PREFIX: &str = "minirun-";
/// How long the last processes of a cgroup may take to leave it once they are killed.
const EMPTY_LIMIT: Duration = Duration::from_secs(10);
/// How deep a container may have divided its cgroup for all of it to be found: `/sys/fs/cgroup` is
/// read-only inside unless a configuration says otherwise.
const MAX_DEPTH: usize = 32;

type Result<T> = std::result::Result<T, CgroupError>;

/// Finds out whether containers could be limited by these controllers: where their cgroups would be.
/// The calling process may be moved to a scope of systemd's that ends with it.
pub(crate) fn look(controllers: &[&str]) -> Result<PathBuf> {
    place::look("doctor", controllers)
}

/// Where a container's cgroup is to be.
#[derive(Debug)]
pub(crate) struct Place(PathBuf);

impl Place {
    /// Finds one that the caller may use. Where that is a new scope of systemd's, the calling process
    /// and all that it starts are in it from then on.
    pub(crate) fn find(id: &str, resources: &Resources) -> Result<Self> {
        Ok(Self(place::find(id, resources)?.join(format!("{PREFIX}{id}"))))
    }

    /// The cgroup's directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the cgroup and sets its limits; on failure there is none.
    pub(crate) fn create(&self, resources: &Resources) -> Result<Cgroup> {
        match make_directory(&self.0) {
            // What a container that was killed left. One that runs is not touched.
            Err(error) if error.errno() == Errno::EEXIST => {
                remove_tree(&self.0, 0).map_err(|_| CgroupError::InUse(self.0.clone()))?;
                make_directory(&self.0).map_err(sys("make the container's cgroup"))?;
            }
            other => other.map_err(sys("make the container's cgroup"))?,
        }
        let cgroup = resources.settings.iter().try_for_each(|setting| set(&self.0, setting));
        let cgroup = cgroup.and_then(|()| Cgroup::open(&self.0));
        if cgroup.is_err() {
            // Nothing has run in it yet.
            let _ = fs::remove_dir(&self.0);
        }
        cgroup
    }
}

fn set(cgroup: &Path, setting: &Setting) -> Result<()> {
    let Setting { file, value, if_absent } = setting;
    let written = write(&cgroup.join(file), value);
    match (written, if_absent) {
        (Ok(()), _) => Ok(()),
        (Err(error), IfAbsent::Skip) if error.errno() == Errno::ENOENT => Ok(()),
        (Err(error), IfAbsent::Write(other, value)) if error.errno() == Errno::ENOENT => {
            write(&cgroup.join(other), value).map_err(|source| limit(other, value, source))
        }
        (Err(source), _) => Err(limit(file, value, source)),
    }
}

fn limit(file: &str, value: &str, source: SysError) -> CgroupError {
    CgroupError::Limit { file: file.into(), value: value.into(), source }
}

/// A container's cgroup, which exists.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    dir: OwnedFd,
}

impl Cgroup {
    fn open(path: &Path) -> Result<Self> {
        let dir = File::open(path).call("open", || format!("{path:?}"));
        Ok(Self { path: path.into(), dir: dir.map_err(sys("open the container's cgroup"))?.into() })
    }

    /// The cgroup of a container that runs, for one more process to be born into. The caller may
    /// have to leave its login session for that, with systemd's help: who moves a process needs to
    /// be allowed to in the cgroup that both places are below.
    pub(crate) fn join(path: &Path) -> Result<Self> {
        let parent = path.parent().unwrap_or(path);
        let outside = parent.join(OUTSIDE);
        if write(&outside.join("cgroup.procs"), "0").is_err()
            && let Some(unit) = parent.file_name().and_then(|name| name.to_str())
        {
            // Where it cannot help either, the kernel says no at the birth.
            let _ = systemd::enter(unit, &format!("/{OUTSIDE}"));
        }
        Self::open(path)
    }

    /// What clone3(2) takes.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// How many of its processes the kernel has killed because memory was short, its own limit's or
    /// the machine's; 0 where that is not counted, too.
    pub(crate) fn oom_kills(&self) -> u64 {
        let events = read(&self.path.join("memory.events")).unwrap_or_default();
        let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

/// Kills every process in the cgroup at `path` and below (`cgroup.kill`, Linux 5.14). Nothing to do
/// where it is gone, or the kernel is older.
pub(crate) fn kill(path: &Path) {
    if is_ours(path) {
        let _ = write(&path.join("cgroup.kill"), "1");
    }
}

/// Removes the cgroup at `path` with all in it, its last processes killed. Nothing to do where it is
/// gone, as when systemd removed the scope around it.
pub(crate) fn remove(path: &Path) -> std::result::Result<(), SysError> {
    if !is_ours(path) {
        return Ok(());
    }
    match remove_tree(path, 0) {
        Err(error) if error.errno() == Errno::EBUSY => {
            kill(path);
            wait_until_empty(path);
            remove_tree(path, 0)
        }
        other => other,
    }
}

/// What a record says is removed only where it can be a container's cgroup.
fn is_ours(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let plain =
        |part| matches!(part, std::path::Component::Normal(_) | std::path::Component::RootDir);
    name.starts_with(PREFIX) && path.starts_with(MOUNT) && path.components().all(plain)
}

fn remove_tree(path: &Path, depth: usize) -> std::result::Result<(), SysError> {
    match fs::remove_dir(path) {
        // It may have children, or processes.
        Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && depth < MAX_DEPTH => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => return other.call("rmdir", || format!("{path:?}")),
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path(), depth + 1)?;
        }
    }
    fs::remove_dir(path).call("rmdir", || format!("{path:?}"))
}

/// Sleeps until the kernel tells that the last process has left (`cgroup.events` changes), for at
/// most [`EMPTY_LIMIT`].
fn wait_until_empty(path: &Path) {
    let Ok(mut events) = File::open(path.join("cgroup.events")) else { return };
    let deadline = Instant::now() + EMPTY_LIMIT;
    loop {
        // What is read by this descriptor is what poll(2) waits for a change of.
        let mut text = [0; 256];
        let length = events.rewind().and_then(|()| events.read(&mut text)).unwrap_or(0);
        let populated = text.get(..length).is_some_and(|t| t.starts_with(b"populated 1"));
        let left = deadline.saturating_duration_since(Instant::now());
        if !populated || left.is_zero() {
            return;
        }
        let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut fds, timeout);
    }
}
