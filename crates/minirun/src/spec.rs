//! The configuration that `runc spec` writes, and its rootless form.
//!
//! It is what everything else starts from: `minirun spec` writes it as it is, the launcher's own
//! configuration changes what a developer needs otherwise.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxCapabilities, LinuxDeviceCgroup, LinuxIdMapping,
    LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, LinuxResources, Mount,
    PosixRlimitBuilder, PosixRlimitType, Process, Root, Spec, User,
};

/// The version of runtime-spec that the configuration names: that of Debian 12's runc, and one
/// that every runtime since accepts.
const OCI_VERSION: &str = "1.0.2-dev";

/// Where commands are looked for when the image does not say: docker's and runc's default.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What `runc spec` writes. `cgroup2` says that the host has the unified hierarchy only.
pub fn example(cgroup2: bool) -> Spec {
    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs")).set_readonly(Some(true));
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.into())
        .set_process(Some(process()))
        .set_root(Some(root))
        .set_hostname(Some("runc".into()))
        .set_mounts(Some(mounts()))
        .set_annotations(None)
        .set_linux(Some(linux(cgroup2)));
    spec
}

/// What `runc spec --rootless` makes of it for a caller with these ids.
pub fn to_rootless(spec: &mut Spec, uid: u32, gid: u32) {
    for mount in spec.mounts_mut().iter_mut().flatten() {
        if mount.destination() == Path::new("/sys") {
            *mount = host_sys();
        } else if let Some(options) = mount.options_mut() {
            // One id is mapped, and it is not that of the group tty.
            options.retain(|o| !o.starts_with("gid=") && !o.starts_with("uid="));
        }
    }
    if let Some(linux) = spec.linux_mut() {
        let kept = linux.namespaces().iter().flatten();
        let mut namespaces: Vec<_> =
            kept.filter(|n| n.typ() != LinuxNamespaceType::Network).cloned().collect();
        namespaces.push(namespace(LinuxNamespaceType::User));
        linux
            .set_namespaces(Some(namespaces))
            .set_uid_mappings(Some(vec![mapping(0, uid, 1)]))
            .set_gid_mappings(Some(vec![mapping(0, gid, 1)]))
            .set_resources(None);
    }
}

/// The host's /sys, read-only: what is left to a container without a network namespace of its own,
/// where the kernel refuses a fresh sysfs.
pub(crate) fn host_sys() -> Mount {
    mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"])
}

/// A sysfs of the container's own network namespace.
pub(crate) fn own_sys() -> Mount {
    mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
}

pub(crate) fn mount(destination: &str, typ: &str, source: &str, options: &[&str]) -> Mount {
    let options = options.iter().map(|&o| o.to_owned()).collect::<Vec<_>>();
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(typ.into()))
        .set_source(Some(source.into()))
        .set_options((!options.is_empty()).then_some(options));
    mount
}

pub(crate) fn namespace(typ: LinuxNamespaceType) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(typ).set_path(None);
    namespace
}

pub(crate) fn mapping(inside: u32, outside: u32, count: u32) -> LinuxIdMapping {
    let line = LinuxIdMappingBuilder::default();
    // Every field has a default, so the builder cannot fail.
    line.container_id(inside).host_id(outside).size(count).build().unwrap_or_default()
}

fn process() -> Process {
    let three = || -> Option<Capabilities> {
        Some([Capability::AuditWrite, Capability::Kill, Capability::NetBindService].into())
    };
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(three())
        .set_effective(three())
        .set_inheritable(None)
        .set_permitted(three())
        .set_ambient(three());
    let nofile = PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile);
    // Every field has a default, so the builder cannot fail.
    let nofile = nofile.hard(1024_u64).soft(1024_u64).build().unwrap_or_default();
    let mut process = Process::default();
    process
        .set_terminal(Some(true))
        .set_user(User::default())
        .set_args(Some(vec!["sh".into()]))
        .set_env(Some(vec![format!("PATH={}", DEFAULT_PATH), "TERM=xterm".into()]))
        .set_cwd("/".into())
        .set_capabilities(Some(capabilities))
        .set_rlimits(Some(vec![nofile]))
        .set_no_new_privileges(Some(true));
    process
}

fn mounts() -> Vec<Mount> {
    let tty_group = "gid=5";
    vec![
        mount("/proc", "proc", "proc", &[]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", tty_group],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        own_sys(),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
    ]
}

fn linux(cgroup2: bool) -> Linux {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Uts};
    let mut namespaces: Vec<_> = [Pid, Network, Ipc, Uts, Mount].map(namespace).into();
    if cgroup2 {
        namespaces.push(namespace(Cgroup));
    }
    let mut no_device = LinuxDeviceCgroup::default();
    no_device.set_allow(false).set_typ(None).set_access(Some("rwm".into()));
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(vec![no_device]));
    let owned = |paths: &[&str]| Some(paths.iter().map(|&p| p.to_owned()).collect());
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces))
        .set_resources(Some(resources))
        .set_masked_paths(owned(&[
            "/proc/acpi",
            "/proc/asound",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/sys/firmware",
            "/proc/scsi",
        ]))
        .set_readonly_paths(owned(&[
            "/proc/bus",
            "/proc/fs",
            "/proc/irq",
            "/proc/sys",
            "/proc/sysrq-trigger",
        ]));
    linux
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_namespace(spec: &Spec, typ: LinuxNamespaceType) -> bool {
        let linux = spec.linux().as_ref().unwrap();
        linux.namespaces().iter().flatten().any(|n| n.typ() == typ)
    }

    #[test]
    fn the_cgroup_namespace_is_there_on_a_unified_host_only() {
        for cgroup2 in [true, false] {
            let mut spec = example(cgroup2);
            to_rootless(&mut spec, 1000, 1000);
            assert_eq!(has_namespace(&spec, LinuxNamespaceType::Cgroup), cgroup2);
        }
    }

    #[test]
    fn the_rootless_form_maps_the_caller_and_shares_the_network() {
        let mut spec = example(false);
        assert!(has_namespace(&spec, LinuxNamespaceType::Network));
        to_rootless(&mut spec, 1000, 1001);
        assert!(!has_namespace(&spec, LinuxNamespaceType::Network));
        assert!(has_namespace(&spec, LinuxNamespaceType::User));
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.uid_mappings().as_deref(), Some(&[mapping(0, 1000, 1)][..]));
        assert_eq!(linux.gid_mappings().as_deref(), Some(&[mapping(0, 1001, 1)][..]));
        assert!(linux.resources().is_none());
        let options = spec.mounts().iter().flatten().filter_map(|m| m.options().as_ref()).flatten();
        assert!(
            !options.clone().any(|o| o.starts_with("gid=")),
            "{:?}",
            options.collect::<Vec<_>>()
        );
    }
}
