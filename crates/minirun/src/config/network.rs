//! Which network a container is to have: what was asked for, and what that changes in a
//! configuration. Pure: what there is to join was found out before.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use crate::spec;

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkOptions {
    /// Which network; without a word, the default.
    pub net: Option<Net>,
    /// The container whose process namespace is to be shared.
    pub pid: Option<String>,
    /// Ports to publish, as typed.
    pub publish: Vec<Publish>,
    /// More lines for /etc/hosts.
    pub hosts: Vec<HostLine>,
    /// Name servers instead of the host's.
    pub dns: Vec<IpAddr>,
}

/// Which network a container has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Net {
    /// One of its own, with a loopback device only.
    None,
    /// The host's.
    Host,
    /// One of its own, connected by pasta(1).
    Pasta,
    /// One of its own, connected by slirp4netns(1).
    Slirp4netns,
    /// That of another of the caller's containers, by id, name or unique start of an id.
    Container(String),
    /// That of a namespace file, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    Path(PathBuf),
}

/// Why a network option is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkOptionError {
    /// `--net`.
    #[error("want none, host, pasta, slirp4netns, container:NAME or ns:PATH")]
    Net,
    /// `--pid`.
    #[error("want container:NAME")]
    Pid,
    /// `-p`.
    #[error("want [IP:]HOST:CONTAINER or CONTAINER, with /tcp or /udp after it")]
    Publish,
    /// `--add-host`.
    #[error("want NAME:ADDRESS")]
    Host,
}

impl FromStr for Net {
    type Err = NetworkOptionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = |prefix: &str| text.strip_prefix(prefix).filter(|rest| !rest.is_empty());
        match text {
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            "pasta" => Ok(Self::Pasta),
            "slirp4netns" => Ok(Self::Slirp4netns),
            _ => named("container:")
                .map(|name| Self::Container(name.into()))
                .or_else(|| named("ns:").map(|path| Self::Path(path.into())))
                .ok_or(NetworkOptionError::Net),
        }
    }
}

/// The name in `--pid container:NAME`.
pub(crate) fn pid_of_container(text: &str) -> Result<String, NetworkOptionError> {
    let name = text.strip_prefix("container:").filter(|name| !name.is_empty());
    name.map(str::to_owned).ok_or(NetworkOptionError::Pid)
}

/// A port to publish, in pfwd's words: `[[BIND:]LOCAL:]REMOTE`. Docker's `CONTAINER` alone stands
/// for any free port here, which pfwd writes `:REMOTE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish(pub String);

impl FromStr for Publish {
    type Err = NetworkOptionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Other protocols are left for pfwd to refuse in its own words.
        let ports = text.strip_suffix("/tcp").unwrap_or(text);
        if ports.is_empty() || ports.starts_with('-') || ports.contains('\0') {
            return Err(NetworkOptionError::Publish);
        }
        Ok(Self(if ports.contains(':') { ports.into() } else { format!(":{ports}") }))
    }
}

/// A line of /etc/hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLine {
    /// The name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

impl FromStr for HostLine {
    type Err = NetworkOptionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, address) = text.split_once([':', '=']).ok_or(NetworkOptionError::Host)?;
        // An IPv6 address may stand in brackets, as docker has it.
        let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        match bare.parse() {
            Ok(address) if is_name => Ok(Self { name: name.into(), address }),
            _ => Err(NetworkOptionError::Host),
        }
    }
}

/// What the network changes in a configuration.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// The network namespace.
    pub net: Namespace,
    /// The user namespace to join, with the other's maps.
    pub user: Option<PathBuf>,
    /// The process namespace to join.
    pub pid: Option<PathBuf>,
    /// Whether a sysfs can be mounted for the network namespace: it takes rights over its owner.
    pub own_sysfs: bool,
    /// Files to show: (path inside, path on the host, read-only).
    pub files: Vec<(PathBuf, PathBuf, bool)>,
}

/// The network namespace that a configuration is to have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Namespace {
    /// As the configuration says.
    #[default]
    Unchanged,
    /// The host's.
    Host,
    /// A new one.
    New,
    /// That of a file.
    At(PathBuf),
}

/// Changes `spec`. Volumes come after that, so that a user's own file wins.
pub(crate) fn apply(spec: &mut Spec, changes: &Changes) {
    use LinuxNamespaceType::{Network, Pid, User};
    match &changes.net {
        Namespace::Unchanged => {}
        Namespace::Host => remove_namespace(spec, Network),
        Namespace::New => set_namespace(spec, Network, None),
        Namespace::At(path) => set_namespace(spec, Network, Some(path)),
    }
    if let Some(path) = &changes.pid {
        set_namespace(spec, Pid, Some(path));
    }
    if let Some(path) = &changes.user {
        set_namespace(spec, User, Some(path));
        // What a joined namespace maps is decided already (config-linux.md, "User namespace
        // mappings").
        if let Some(linux) = spec.linux_mut() {
            linux.set_uid_mappings(None).set_gid_mappings(None);
        }
    }
    let mounts = spec.mounts_mut().get_or_insert_default();
    if !changes.own_sysfs && matches!(changes.net, Namespace::Host | Namespace::At(_)) {
        // The kernel refuses a fresh sysfs: the host's then.
        for mount in mounts.iter_mut().filter(|m| m.typ().as_deref() == Some("sysfs")) {
            *mount = spec::host_sys();
        }
    }
    for (inside, on_host, read_only) in &changes.files {
        if !mounts.iter().any(|m| m.destination() == inside) {
            mounts.push(host_file(inside, on_host, *read_only));
        }
    }
}

fn host_file(inside: &Path, on_host: &Path, read_only: bool) -> Mount {
    let options = ["bind", "nosuid", "nodev", "noexec", "ro"];
    let options = if read_only { &options[..] } else { &options[..4] };
    let mut mount = spec::mount("", "bind", "", options);
    mount.set_destination(inside.into()).set_source(Some(on_host.into()));
    mount
}

fn remove_namespace(spec: &mut Spec, kind: LinuxNamespaceType) {
    if let Some(namespaces) = spec.linux_mut().as_mut().and_then(|l| l.namespaces_mut().as_mut()) {
        namespaces.retain(|n| n.typ() != kind);
    }
}

fn set_namespace(spec: &mut Spec, kind: LinuxNamespaceType, path: Option<&Path>) {
    remove_namespace(spec, kind);
    let Some(linux) = spec.linux_mut() else { return };
    let mut namespace = spec::namespace(kind);
    namespace.set_path(path.map(Path::to_path_buf));
    linux.namespaces_mut().get_or_insert_default().push(namespace);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_told_apart() {
        let net = |text: &str| text.parse::<Net>();
        assert_eq!(net("none"), Ok(Net::None));
        assert_eq!(net("slirp4netns"), Ok(Net::Slirp4netns));
        assert_eq!(net("container:web"), Ok(Net::Container("web".into())));
        assert_eq!(net("ns:/run/netns/x"), Ok(Net::Path("/run/netns/x".into())));
        for bad in ["", "bridge", "container:", "ns:", "Host"] {
            assert_eq!(net(bad), Err(NetworkOptionError::Net), "{bad}");
        }
        assert_eq!(pid_of_container("container:a"), Ok("a".into()));
        assert_eq!(pid_of_container("host"), Err(NetworkOptionError::Pid));
    }

    #[test]
    fn published_ports_are_in_pfwds_words() {
        let ports = |text: &str| text.parse::<Publish>().map(|p| p.0);
        assert_eq!(ports("8080:80").as_deref(), Ok("8080:80"));
        assert_eq!(ports("8080:80/tcp").as_deref(), Ok("8080:80"));
        assert_eq!(ports("[::1]:8080:80").as_deref(), Ok("[::1]:8080:80"));
        assert_eq!(ports("80").as_deref(), Ok(":80"), "docker's: any free port here");
        assert_eq!(ports("53:53/udp").as_deref(), Ok("53:53/udp"), "pfwd says what it thinks");
        assert!(ports("").is_err() && ports("--help").is_err());
    }

    #[test]
    fn host_lines_have_a_name_and_an_address() {
        let line = |text: &str| {
            text.parse::<HostLine>().map(|line| format!("{} {}", line.address, line.name))
        };
        assert_eq!(line("db:10.0.0.1").as_deref(), Ok("10.0.0.1 db"));
        assert_eq!(line("db:[::1]").as_deref(), Ok("::1 db"));
        assert_eq!(line("db=fe80::1").as_deref(), Ok("fe80::1 db"));
        for bad in ["db", "db:", ":10.0.0.1", "a b:10.0.0.1", "a\n:10.0.0.1", "db:host"] {
            assert_eq!(line(bad), Err(NetworkOptionError::Host), "{bad}");
        }
    }
}
