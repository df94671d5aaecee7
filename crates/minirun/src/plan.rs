//! A runtime spec, checked: what is to be done, in types that cannot be wrong. No I/O.
//!
//! Whatever this launcher cannot do is an error here; nothing in a configuration is passed over.

mod mount;
mod namespaces;
mod process;
mod resources;
mod stop;

use std::path::{Component, Path, PathBuf};

use ctsys::idmap::{IdMaps, IdRange};
use ctsys::mount::Propagation;
use ctsys::report::Explain;
use nix::sched::CloneFlags;
use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, Spec};

use crate::config::ephemeral::{self, Ephemeral};
use crate::seccomp::{self, Filter, SeccompError, usual};

pub use mount::{Mount, MountSource};
pub use namespaces::Joined;
pub use process::{CapabilitySets, Process, Rlimit};
pub use resources::{IfAbsent, Resources, Setting};
pub use stop::Stop;

/// How a container is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The namespaces to create; mount is always among them.
    pub namespaces: CloneFlags,
    /// Those to join; user and pid are here or there.
    pub joined: Vec<Joined>,
    /// Whether 0 is mapped for users and groups, so that the set-up can run as the container's
    /// root.
    pub maps_root: bool,
    /// Absolute path of the root filesystem.
    pub rootfs: PathBuf,
    /// Write changes of the root filesystem to memory instead, and throw them away.
    pub ephemeral: Option<Ephemeral>,
    /// Mount the root read-only at the end.
    pub readonly: bool,
    /// Propagation of the root mount; private without one.
    pub propagation: Option<Propagation>,
    /// In this order.
    pub mounts: Vec<Mount>,
    /// Devices beside the usual ones.
    pub devices: Vec<Device>,
    /// Paths to hide.
    pub masked_paths: Vec<PathBuf>,
    /// Paths to make read-only.
    pub readonly_paths: Vec<PathBuf>,
    /// Kernel parameters: path below `/proc/sys`, value.
    pub sysctls: Vec<(PathBuf, String)>,
    /// Limits, for which the container gets a cgroup of its own.
    pub resources: Option<Resources>,
    /// Host name of the UTS namespace.
    pub hostname: Option<String>,
    /// NIS domain name of the UTS namespace.
    pub domainname: Option<String>,
    /// The user's program.
    pub process: Process,
    /// How it is asked to end, and how long that may take.
    pub stop: Stop,
    /// What filters its system calls.
    pub seccomp: Option<Filter>,
}

/// A device file of the host to show in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The same path on the host and in the container.
    pub path: PathBuf,
    /// A block device rather than a character device.
    pub is_block: bool,
    /// Major number it must have.
    pub major: u32,
    /// Minor number it must have.
    pub minor: u32,
}

/// Why a configuration cannot be run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// Something needed is not there.
    #[error("config lacks {0}")]
    Missing(&'static str),
    /// A field has a value that cannot be.
    #[error("config has an invalid {field}: got {got:?}, want {want}")]
    Invalid {
        /// The field's name in config.json.
        field: &'static str,
        /// Its value.
        got: String,
        /// What it should be.
        want: &'static str,
    },
    /// A field asks for what minirun does not do yet.
    #[error("config asks for {0}, which minirun does not support yet")]
    Unsupported(String),
    /// A field asks for what the kernel's present cgroups cannot do.
    #[error("config asks for {0}, which cgroup v2 does not have")]
    NotInCgroup2(String),
    /// The configuration has no user namespace.
    #[error("config has no user namespace")]
    NoUserNamespace,
    /// A user or group id that the user namespace does not have.
    #[error("{what} {id} is not mapped in the user namespace")]
    Unmapped {
        /// `user` or `group`.
        what: &'static str,
        /// The id inside.
        id: u32,
    },
    /// The profile of system calls.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// setgroups(2) is denied where one id is mapped without privilege.
    #[error("config asks for additional groups, which a single mapped id does not allow")]
    GroupsDenied,
}

impl Explain for PlanError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Seccomp(error) => return error.hint(),
            Self::NoUserNamespace => {
                "add {\"type\": \"user\"} to linux.namespaces, or start from `minirun spec --rootless`"
                    .into()
            }
            Self::Unsupported(_) | Self::NotInCgroup2(_) => "remove it from config.json".into(),
            Self::Unmapped { .. } | Self::GroupsDenied => {
                "choose another user with -u; or map more: have an administrator grant subordinate ids in /etc/subuid and /etc/subgid (minirun doctor shows yours), then --uidmap 0:OWN:1 --uidmap 1:FIRST:COUNT, or pull again".into()
            }
            Self::Invalid { field: "mounts destination" | "mounts type", .. } => {
                "mount elsewhere: correct config.json, or the -v".into()
            }
            Self::Invalid { field: "stop signal", .. } => {
                "choose another with --stop-signal, or correct the image or config.json".into()
            }
            Self::Invalid { field: "linux.sysctl", .. } => {
                "net.* needs a network of the container's own; fs.mqueue.* and kernel's msg*, sem and shm* an ipc namespace; all others are the host's".into()
            }
            Self::Missing(_) | Self::Invalid { .. } => "correct config.json".into(),
        })
    }

    fn exit_code(&self) -> u8 {
        125
    }
}

type Result<T> = std::result::Result<T, PlanError>;

impl Plan {
    /// Checks `spec` for a container at `rootfs` whose user namespace has `maps`.
    pub fn new(spec: &Spec, rootfs: &Path, maps: &IdMaps) -> Result<Self> {
        let linux = spec.linux().as_ref().ok_or(PlanError::Missing("linux"))?;
        refuse_unsupported(spec, linux)?;
        let (namespaces, joined) = namespaces::of(linux)?;
        let all = namespaces::with_joined(namespaces, &joined);
        let process = spec.process().as_ref().ok_or(PlanError::Missing("process"))?;
        let process = Process::new(process, maps)?;
        let uts = |name: &Option<String>, field| match name.as_deref() {
            Some(name) if !name.is_empty() && !all.contains(CloneFlags::CLONE_NEWUTS) => {
                Err(invalid(field, name, "a uts namespace with it"))
            }
            Some(name) if !name.is_empty() => Ok(Some(name.to_owned())),
            _ => Ok(None),
        };
        Ok(Self {
            namespaces,
            joined,
            maps_root: maps_id(&maps.uids, 0) && maps_id(&maps.gids, 0),
            rootfs: rootfs.to_owned(),
            ephemeral: ephemeral::of(spec)
                .map_err(|bad| invalid("annotation minirun.ephemeral", &bad.value, "a size"))?,
            readonly: spec.root().as_ref().and_then(|r| r.readonly()).unwrap_or(false),
            propagation: propagation(linux.rootfs_propagation().as_deref())?,
            mounts: spec.mounts().iter().flatten().map(Mount::new).collect::<Result<_>>()?,
            devices: linux.devices().iter().flatten().map(device).collect::<Result<_>>()?,
            masked_paths: paths(linux.masked_paths().as_deref(), "linux.maskedPaths")?,
            readonly_paths: paths(linux.readonly_paths().as_deref(), "linux.readonlyPaths")?,
            sysctls: sysctls(linux, all)?,
            resources: linux.resources().as_ref().map_or(Ok(None), Resources::new)?,
            hostname: uts(spec.hostname(), "hostname")?,
            domainname: uts(spec.domainname(), "domainname")?,
            seccomp: seccomp(spec, linux, process.capabilities.bounding)?,
            process,
            stop: Stop::new(|key| Some(spec.annotations().as_ref()?.get(key)?.as_str()))?,
        })
    }

    /// The namespaces that the init is born into. A cgroup namespace begins at the cgroup of the
    /// process that makes it: where the container gets one of its own, clone3(2) would root the
    /// namespace at its parent's, so the init unshares it.
    pub fn born_into(&self) -> CloneFlags {
        match self.resources {
            Some(_) => self.namespaces - CloneFlags::CLONE_NEWCGROUP,
            None => self.namespaces,
        }
    }

    /// All namespaces that the container has apart from the host's, new or joined.
    pub fn all_namespaces(&self) -> CloneFlags {
        namespaces::with_joined(self.namespaces, &self.joined)
    }

    /// Whether it joins a namespace of this kind.
    pub fn joins(&self, kind: CloneFlags) -> bool {
        self.joined.iter().any(|joined| joined.kind == kind)
    }
}

/// Fields that are for other platforms, or for work that is still to be done.
fn refuse_unsupported(spec: &Spec, linux: &Linux) -> Result<()> {
    let hooks = spec.hooks().as_ref().is_some_and(|hooks| {
        // Every kind, the deprecated one too: serialised, so that none is forgotten.
        serde_json::to_value(hooks)
            .ok()
            .and_then(|value| {
                value.as_object().map(|o| o.values().any(|v| *v != serde_json::json!([])))
            })
            .unwrap_or(true)
    });
    let set = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.is_empty());
    let refused = [
        (hooks, "hooks"),
        (spec.vm().is_some(), "vm"),
        (spec.windows().is_some(), "windows"),
        (spec.solaris().is_some(), "solaris"),
        (spec.zos().is_some(), "zos"),
        (linux.intel_rdt().is_some(), "linux.intelRdt"),
        (linux.memory_policy().is_some(), "linux.memoryPolicy"),
        (linux.personality().is_some(), "linux.personality"),
        (linux.time_offsets().as_ref().is_some_and(|t| !t.is_empty()), "linux.timeOffsets"),
        (linux.net_devices().as_ref().is_some_and(|n| !n.is_empty()), "linux.netDevices"),
        (set(linux.mount_label()), "linux.mountLabel"),
        (
            linux.cgroups_path().as_ref().is_some_and(|p| !p.as_os_str().is_empty()),
            "linux.cgroupsPath",
        ),
    ];
    match refused.iter().find(|(is_set, _)| *is_set) {
        Some((_, field)) => Err(PlanError::Unsupported((*field).to_owned())),
        None => Ok(()),
    }
}

fn seccomp(spec: &Spec, linux: &Linux, bounding: u64) -> Result<Option<Filter>> {
    if let Some(profile) = linux.seccomp() {
        return Ok(Some(seccomp::compile(profile)?));
    }
    match spec.annotations().as_ref().and_then(|all| all.get(usual::ANNOTATION)) {
        None => Ok(None),
        Some(name) if name == usual::NAME => Ok(Some(usual::filter(bounding)?)),
        Some(other) => Err(invalid("annotation minirun.seccomp", other, "usual")),
    }
}

fn propagation(text: Option<&str>) -> Result<Option<Propagation>> {
    Ok(Some(match text {
        None | Some("") => return Ok(None),
        Some("private" | "rprivate") => Propagation::Private,
        Some("slave" | "rslave") => Propagation::Slave,
        Some("shared" | "rshared") => Propagation::Shared,
        Some("unbindable" | "runbindable") => Propagation::Unbindable,
        Some(other) => {
            let want = "private, slave, shared or unbindable";
            return Err(invalid("linux.rootfsPropagation", other, want));
        }
    }))
}

fn device(device: &LinuxDevice) -> Result<Device> {
    let path = container_path(device.path(), "linux.devices path")?;
    let shown = path.display().to_string();
    let is_block = match device.typ() {
        LinuxDeviceType::B => true,
        LinuxDeviceType::C | LinuxDeviceType::U => false,
        LinuxDeviceType::A | LinuxDeviceType::P => {
            return Err(PlanError::Unsupported(format!("device {shown} of type p or a")));
        }
    };
    let number = |n: i64| {
        u32::try_from(n).map_err(|_| invalid("linux.devices number", &n.to_string(), "0 or more"))
    };
    Ok(Device { is_block, major: number(device.major())?, minor: number(device.minor())?, path })
}

fn paths(list: Option<&[String]>, field: &'static str) -> Result<Vec<PathBuf>> {
    list.unwrap_or_default().iter().map(|p| container_path(Path::new(p), field)).collect()
}

/// Only parameters that the container's own namespaces hold; others would be the host's.
fn sysctls(linux: &Linux, namespaces: CloneFlags) -> Result<Vec<(PathBuf, String)>> {
    const IPC: &[&str] = &[
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    ];
    let mut all = Vec::new();
    for (key, value) in linux.sysctl().iter().flatten() {
        // As sysctl(8): dots separate, or slashes when there is one before the first dot.
        let slashed = key.find('/').is_some_and(|s| key.find('.').is_none_or(|d| s < d));
        let path = if slashed { key.clone() } else { key.replace('.', "/") };
        let namespace = if path.starts_with("net/") {
            CloneFlags::CLONE_NEWNET
        } else if path.starts_with("fs/mqueue/") || IPC.contains(&path.as_str()) {
            CloneFlags::CLONE_NEWIPC
        } else if path == "kernel/domainname" || path == "kernel/hostname" {
            CloneFlags::CLONE_NEWUTS
        } else {
            return Err(invalid("linux.sysctl", key, "a parameter that belongs to a namespace"));
        };
        if !namespaces.contains(namespace) {
            let want = "the namespace that holds it among linux.namespaces";
            return Err(invalid("linux.sysctl", key, want));
        }
        let path = PathBuf::from(path);
        if !path.components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(invalid("linux.sysctl", key, "a name"));
        }
        all.push((path, value.clone()));
    }
    // A map has no order; a stable one makes failures repeatable.
    all.sort();
    Ok(all)
}

/// An absolute path in the container. `..` in it is resolved by the kernel inside the root.
fn container_path(path: &Path, field: &'static str) -> Result<PathBuf> {
    let shown = path.display().to_string();
    if !path.is_absolute() || shown.contains('\0') {
        return Err(invalid(field, &shown, "an absolute path"));
    }
    Ok(path.to_owned())
}

fn maps_id(ranges: &[IdRange], id: u32) -> bool {
    ranges.iter().any(|r| id >= r.inside && id - r.inside < r.count)
}

fn invalid(field: &'static str, got: &str, want: &'static str) -> PlanError {
    PlanError::Invalid { field, got: got.into(), want }
}

#[cfg(test)]
mod tests;
