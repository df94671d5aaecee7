//! One entry of `mounts`: fstab-style options into flags, attributes and filesystem options.

use std::path::{Path, PathBuf};

use ctsys::mount::{Change, Propagation, attr};
use oci_spec::runtime;

use super::{PlanError, Result, container_path, invalid};

/// Files below /proc that tools such as lxcfs may replace (runc's list). Anything else mounted
/// there could hide from the container what it is confined by.
const PROC_REPLACEABLE: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// A mount to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path in the container.
    pub target: PathBuf,
    /// What appears there.
    pub source: MountSource,
    /// [`attr`] flags to set.
    pub set: u64,
    /// Flags to clear that the source of a bind mount may have.
    pub clear: u64,
    /// The flags that go on all mounts below too (`rro` and its kin).
    pub set_recursive: u64,
    /// Propagation; private without one.
    pub propagation: Option<Propagation>,
    /// Apply the propagation to all mounts below.
    pub propagation_recursive: bool,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A file or directory of the host, absolute.
    Bind {
        /// On the host.
        path: PathBuf,
        /// With what is mounted below it.
        recursive: bool,
    },
    /// A new filesystem.
    New {
        /// Its type.
        kind: String,
        /// Its source, as /proc/mounts shows it.
        source: Option<String>,
        /// Its own options: name, value.
        options: Vec<(String, Option<String>)>,
    },
    /// The host's control groups, in whatever form the host has them.
    Cgroup,
}

impl Mount {
    /// The checked form of `mount`.
    pub(super) fn new(mount: &runtime::Mount) -> Result<Self> {
        let target = container_path(mount.destination(), "mounts destination")?;
        if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
            return Err(PlanError::Unsupported(format!("an id-mapped mount on {target:?}")));
        }
        let mut options = Options::default();
        for option in mount.options().iter().flatten() {
            options.take(option)?;
        }
        let kind = mount.typ().as_deref().unwrap_or("none");
        let path = mount.source().as_deref();
        let is_bind = options.bind || kind == "bind";
        let source = if is_bind {
            let path = path.ok_or(PlanError::Missing("the source of a bind mount"))?;
            if !path.is_absolute() {
                let shown = path.display().to_string();
                return Err(invalid("mounts source", &shown, "an absolute path"));
            }
            if let Some((name, _)) = options.data.first() {
                return Err(invalid("mounts options", name, "options of a bind mount"));
            }
            MountSource::Bind { path: path.to_owned(), recursive: options.recursive }
        } else {
            match kind {
                "none" | "" => return Err(PlanError::Missing("the type of a mount")),
                "cgroup" | "cgroup2" => MountSource::Cgroup,
                kind => MountSource::New {
                    kind: kind.into(),
                    source: path.map(|p| p.display().to_string()),
                    options: options.data,
                },
            }
        };
        check_proc(&target, &source)?;
        Ok(Self {
            target,
            source,
            set: options.set,
            clear: options.clear,
            set_recursive: options.set_recursive,
            propagation: options.propagation,
            propagation_recursive: options.propagation_recursive,
        })
    }

    /// The changes that a bind mount needs after it was copied.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        let propagation = Change {
            propagation: Some(self.propagation.unwrap_or(Propagation::Private)),
            recursive: self.propagation.is_none() || self.propagation_recursive,
            ..Change::default()
        };
        let flags = Change { set: self.set, clear: self.clear, ..Change::default() };
        let recursive = Change { set: self.set_recursive, recursive: true, ..Change::default() };
        [Some(propagation), Some(flags), Some(recursive)]
            .into_iter()
            .flatten()
            .filter(|c| c.set | c.clear != 0 || c.propagation.is_some())
    }
}

/// Whatever lies on /proc must be procfs (CVE-2019-16884): what is mounted there decides what the
/// container and tools that enter it believe. Binds are checked again when the source is open.
fn check_proc(target: &Path, source: &MountSource) -> Result<()> {
    let shown = target.display().to_string();
    let is_proc = matches!(source, MountSource::New { kind, .. } if kind == "proc")
        || matches!(source, MountSource::Bind { .. });
    if target == Path::new("/proc") {
        if is_proc { Ok(()) } else { Err(invalid("mounts type", &shown, "proc on /proc")) }
    } else if target.starts_with("/proc") && !PROC_REPLACEABLE.contains(&shown.as_str()) {
        Err(invalid("mounts destination", &shown, "a place outside /proc"))
    } else {
        Ok(())
    }
}

#[derive(Default)]
struct Options {
    bind: bool,
    recursive: bool,
    set: u64,
    clear: u64,
    set_recursive: u64,
    propagation: Option<Propagation>,
    propagation_recursive: bool,
    data: Vec<(String, Option<String>)>,
}

impl Options {
    fn take(&mut self, option: &str) -> Result<()> {
        if let Some(flag) = attribute(option) {
            flag.apply(&mut self.set, &mut self.clear);
            return Ok(());
        }
        if let Some(flag) = option.strip_prefix('r').and_then(attribute) {
            if flag.clear != 0 || flag.set & attr::ATIME_MASK != 0 {
                return Err(PlanError::Unsupported(format!("the mount option {option:?}")));
            }
            self.set_recursive |= flag.set;
            return Ok(());
        }
        if let Some((propagation, recursive)) = propagation(option) {
            self.propagation = Some(propagation);
            self.propagation_recursive = recursive;
            return Ok(());
        }
        match option {
            "defaults" | "" => {}
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "idmap" | "ridmap" | "tmpcopyup" | "remount" | "mand" | "nomand" => {
                return Err(PlanError::Unsupported(format!("the mount option {option:?}")));
            }
            // Asked for by config generators as what a filesystem does anyway.
            "async" | "silent" | "loud" => {}
            _ => {
                // devpts has been a new instance each time since Linux 4.7 and takes the option
                // for the sake of older callers.
                let (key, value) = match option.split_once('=') {
                    Some((key, value)) => (key, Some(value.to_owned())),
                    None => (option, None),
                };
                self.data.push((key.to_owned(), value));
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Flag {
    set: u64,
    clear: u64,
}

impl Flag {
    fn apply(self, set: &mut u64, clear: &mut u64) {
        if self.clear & attr::ATIME_MASK != 0 || self.set & attr::ATIME_MASK != 0 {
            // One field of three values: changing it means clearing it whole.
            *set &= !attr::ATIME_MASK;
            *clear |= attr::ATIME_MASK;
        }
        *set = *set & !self.clear | self.set;
        *clear = *clear & !(self.set & !attr::ATIME_MASK) | self.clear;
    }
}

fn attribute(option: &str) -> Option<Flag> {
    let set = |set| Some(Flag { set, clear: 0 });
    let clear = |clear| Some(Flag { set: 0, clear });
    match option {
        "ro" => set(attr::RDONLY),
        "rw" => clear(attr::RDONLY),
        "nosuid" => set(attr::NOSUID),
        "suid" => clear(attr::NOSUID),
        "nodev" => set(attr::NODEV),
        "dev" => clear(attr::NODEV),
        "noexec" => set(attr::NOEXEC),
        "exec" => clear(attr::NOEXEC),
        "noatime" => set(attr::NOATIME),
        "strictatime" => set(attr::STRICTATIME),
        "relatime" | "atime" | "nostrictatime" => clear(attr::ATIME_MASK),
        "nodiratime" => set(attr::NODIRATIME),
        "diratime" => clear(attr::NODIRATIME),
        "nosymfollow" => set(attr::NOSYMFOLLOW),
        "symfollow" => clear(attr::NOSYMFOLLOW),
        _ => None,
    }
}

fn propagation(option: &str) -> Option<(Propagation, bool)> {
    let (recursive, name) = match option {
        "rprivate" | "rslave" | "rshared" | "runbindable" => (true, option.get(1..)?),
        other => (false, other),
    };
    let propagation = match name {
        "private" => Propagation::Private,
        "slave" => Propagation::Slave,
        "shared" => Propagation::Shared,
        "unbindable" => Propagation::Unbindable,
        _ => return None,
    };
    Some((propagation, recursive))
}
