//! The launcher's own configuration: runc's rootless one, made a developer's. Pure: what an image
//! wants, who calls, and the accounts in the root filesystem go in, a runtime configuration comes
//! out.
//!
//! ```text
//! spec::example -> to_rootless -> generate (image) -> overrides (flags) -> check
//! ```
//!
//! Against `runc spec --rootless`:
//!
//! | what | here | why |
//! |---|---|---|
//! | root filesystem | writable | packages get installed, servers write their files |
//! | capabilities | docker's fourteen, none ambient or inheritable | images are made for docker |
//! | network | a namespace of its own, so a fresh sysfs | `--net` says how it is connected |
//! | ids | those that the root filesystem was unpacked with | owners are right inside |
//! | `noNewPrivileges` | false, as docker | su and sudo work; the user namespace is the boundary |
//! | `rlimits` | none: the caller's | without root the hard limit cannot be raised anyway |
//! | devpts `gid=5` | where the group is mapped | the kernel refuses it else |
//! | cgroup mount | with the unified hierarchy only | version 1 has nothing to show without root |
//! | seccomp | the usual profile | it keeps what finds a kernel's faults from what runs inside |
//! | masked paths | docker's too | interrupts and power draw tell on other processes |

pub mod annotations;
pub mod capabilities;
pub mod ephemeral;
pub mod ids;
pub mod image;
pub mod limits;
pub mod mount_option;
pub mod mounts;
pub mod network;
pub mod overrides;
pub mod process;
pub mod rights;
pub mod security;
pub mod tmpfs;
pub mod ulimit;
pub mod value;
pub mod volume;

use std::path::Path;

use ctsys::idmap::{IdMaps, IdRange, MapWriter};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Root, Spec};

use crate::caller::Caller;
use crate::spec;
use crate::user::{Accounts, UserError, UserSpec};
use image::Image;
use security::{Seccomp, Security};

/// The terminal type when nobody says: docker's and runc's default.
const DEFAULT_TERM: &str = "TERM=xterm";
/// The command of a root filesystem that came without an image record.
const DEFAULT_COMMAND: &str = "/bin/sh";
/// The group tty, which owns terminals.
const TTY_GID: u32 = 5;

/// What a configuration is made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// What the image wants; `None` for a root filesystem without a record.
    pub image: Option<&'a Image>,
    /// Who calls, and where.
    pub caller: &'a Caller,
    /// The ids that the container will have.
    pub maps: &'a IdMaps,
    /// The accounts of the root filesystem.
    pub accounts: &'a Accounts,
    /// Who the process runs as: what the image says, unless the caller says otherwise.
    pub user: &'a UserSpec,
    /// `root.path`: relative to the bundle, or absolute.
    pub root_path: &'a Path,
    /// The host name inside.
    pub hostname: &'a str,
    /// Give the command a terminal of its own.
    pub terminal: bool,
}

/// The configuration without flags. `process.args` is empty for an image that names no command.
pub fn generate(inputs: &Inputs<'_>) -> Result<Spec, UserError> {
    let mut spec = spec::example(inputs.caller.cgroup2);
    spec::to_rootless(&mut spec, inputs.caller.uid, inputs.caller.gid);
    let mut root = Root::default();
    root.set_path(inputs.root_path.into()).set_readonly(Some(false));
    spec.set_root(Some(root))
        .set_hostname(Some(inputs.hostname.into()))
        .set_process(Some(process::generate(inputs)?))
        .set_annotations(Some(inputs.image.map(|i| i.annotations.clone()).unwrap_or_default()));
    Security { seccomp: Some(Seccomp::Usual), ..Security::default() }.apply(&mut spec, None);
    developer_mounts(&mut spec, inputs);
    developer_linux(&mut spec, inputs.maps);
    Ok(spec)
}

fn developer_mounts(spec: &mut Spec, inputs: &Inputs<'_>) {
    let Some(mounts) = spec.mounts_mut() else { return };
    for mount in mounts.iter_mut() {
        if mount.destination() == Path::new("/sys") {
            *mount = spec::own_sys();
        } else if mount.destination() == Path::new("/dev/pts")
            && is_mapped(&inputs.maps.gids, TTY_GID)
            && let Some(options) = mount.options_mut()
        {
            options.push(format!("gid={TTY_GID}"));
        }
    }
    if !inputs.caller.cgroup2 {
        mounts.retain(|m| m.typ().as_deref() != Some("cgroup"));
    }
}

/// Has the configuration say these maps.
pub fn set_maps(spec: &mut Spec, maps: &IdMaps) {
    let Some(linux) = spec.linux_mut() else { return };
    let lines = |ranges: &[IdRange]| {
        Some(ranges.iter().map(|r| spec::mapping(r.inside, r.outside, r.count)).collect())
    };
    linux.set_uid_mappings(lines(&maps.uids)).set_gid_mappings(lines(&maps.gids));
}

fn developer_linux(spec: &mut Spec, maps: &IdMaps) {
    set_maps(spec, maps);
    let Some(linux) = spec.linux_mut() else { return };
    if let Some(namespaces) = linux.namespaces_mut() {
        namespaces.push(spec::namespace(LinuxNamespaceType::Network));
    }
    if let Some(masked) = linux.masked_paths_mut() {
        masked.extend(["/proc/interrupts", "/sys/devices/virtual/powercap"].map(String::from));
    }
}

/// The maps that a configuration says, for one that minirun did not generate; empty when it has no
/// user namespace of its own. `helpers` is how ranges beyond the caller's own id are installed;
/// `None` comes back when that is needed and there is none.
pub fn maps_of(spec: &Spec, caller: &Caller, helpers: Option<MapWriter>) -> Option<IdMaps> {
    let linux = spec.linux().as_ref();
    let ranges = |lines: Option<&Vec<LinuxIdMapping>>| -> Vec<IdRange> {
        let range = |m: &LinuxIdMapping| IdRange {
            inside: m.container_id(),
            outside: m.host_id(),
            count: m.size(),
        };
        lines.into_iter().flatten().map(range).collect()
    };
    let uids = ranges(linux.and_then(|l| l.uid_mappings().as_ref()));
    let gids = ranges(linux.and_then(|l| l.gid_mappings().as_ref()));
    let only_own = |map: &[IdRange], own| matches!(map, [r] if r.outside == own && r.count == 1);
    let nothing = uids.is_empty() && gids.is_empty();
    let writer = if caller.uid == 0 {
        MapWriter::Privileged
    } else if nothing || only_own(&uids, caller.uid) && only_own(&gids, caller.gid) {
        MapWriter::Direct
    } else {
        helpers?
    };
    Some(IdMaps { uids, gids, writer })
}

/// Whether the map holds `id` as seen from inside.
pub(crate) fn is_mapped(map: &[IdRange], id: u32) -> bool {
    map.iter().any(|r| id.checked_sub(r.inside).is_some_and(|above| above < r.count))
}

/// Those of `gids` that a process in a namespace with these maps can be given: none where
/// setgroups(2) is denied, which writing a map without privilege asks for.
pub(crate) fn settable_gids(maps: &IdMaps, gids: Vec<u32>) -> Vec<u32> {
    match maps.writer {
        MapWriter::Direct => Vec::new(),
        _ => gids.into_iter().filter(|&gid| is_mapped(&maps.gids, gid)).collect(),
    }
}
