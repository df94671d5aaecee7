//! /etc/hosts, /etc/hostname and /etc/resolv.conf: generated in the container's state directory and
//! bound over the image's, so that the root filesystem keeps its own.

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ctsys::error::Context;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::{AccessFlags, faccessat};

use super::{NetworkError, Result};
use crate::config::network::HostLine;

/// A file to show: path inside, path outside, read-only.
type Bind = (PathBuf, PathBuf, bool);

const HOSTS: &str = "/etc/hosts";
const HOSTNAME: &str = "/etc/hostname";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// glibc reads three name servers and some kilobytes of search list; more is no resolv.conf.
const MAX_RESOLV_BYTES: u64 = 64 << 10;

/// The container's address in a network that a helper made, its netmask's bits, the gateway, and
/// where names are asked for: slirp4netns's defaults, which pasta is told as well.
pub(super) const ADDRESS: &str = "10.0.2.100";
pub(super) const NETMASK_BITS: &str = "24";
pub(super) const GATEWAY: &str = "10.0.2.2";
pub(super) const FORWARDER: &str = "10.0.2.3";

/// What the files of one container say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files {
    pub(super) hostname: String,
    pub(super) hosts: Vec<HostLine>,
    pub(super) dns: Vec<IpAddr>,
    /// Where they lie.
    pub(super) places: Vec<PathBuf>,
}

impl Files {
    /// Writes them; anew, where the container sees them already, in place.
    pub(super) fn write(&self, is_connected: bool) -> Result<()> {
        for place in &self.places {
            let is = |name: &str| place.file_name() == Path::new(name).file_name();
            let text = if is(HOSTNAME) {
                format!("{}\n", self.hostname)
            } else if is(HOSTS) {
                self.hosts(is_connected)
            } else {
                self.resolv_conf(is_connected)
            };
            write_file(place, &text)?;
        }
        Ok(())
    }

    fn hosts(&self, is_connected: bool) -> String {
        // Without a network the name is this machine's all the same.
        let address = if is_connected { ADDRESS } else { "127.0.0.1" };
        let mut text = format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{address}\t{}\n",
            self.hostname
        );
        for line in &self.hosts {
            text.push_str(&format!("{}\t{}\n", line.address, line.name));
        }
        text
    }

    fn resolv_conf(&self, is_connected: bool) -> String {
        if is_connected {
            resolv_conf(&host_resolv_conf(), &self.dns)
        } else {
            "# no network, so no name server\n".into()
        }
    }
}

/// What the container reads, by what the host has: loopback addresses are another machine's inside,
/// so servers there (systemd-resolved's 127.0.0.53) are asked by way of the helper, which forwards to
/// what the host asks.
fn resolv_conf(host: &str, dns: &[IpAddr]) -> String {
    let mut servers: Vec<String> = Vec::new();
    let mut rest = String::new();
    for line in host.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("nameserver"), Some(server)) => {
                // One with a zone (fe80::1%eth0) names an interface of the host's.
                let is_far =
                    server.parse::<IpAddr>().is_ok_and(|ip| !ip.to_canonical().is_loopback());
                servers.push(if is_far { server } else { FORWARDER }.into());
            }
            (Some("search" | "domain" | "options"), Some(_)) => {
                rest.push_str(line.trim());
                rest.push('\n');
            }
            _ => {}
        }
    }
    if !dns.is_empty() {
        servers = dns.iter().map(IpAddr::to_string).collect();
    } else if servers.is_empty() {
        // resolv.conf(5): the name server is then the one on the host itself.
        servers.push(FORWARDER.into());
    }
    servers.dedup();
    let servers: String = servers.iter().map(|s| format!("nameserver {s}\n")).collect();
    servers + &rest
}

/// The host's, or nothing where there is none that can be read.
fn host_resolv_conf() -> String {
    let mut text = Vec::with_capacity(4 << 10);
    let read = File::open(RESOLV_CONF)
        .and_then(|file| file.take(MAX_RESOLV_BYTES + 1).read_to_end(&mut text));
    if read.is_err() || text.len() as u64 > MAX_RESOLV_BYTES {
        return String::new();
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The binds of a container with a network of its own: (path inside, path outside, read-only). As
/// docker's, the container may write them. A connected one needs name servers also where the image
/// has no such file; then the mount point is made, as engines do.
pub(super) fn own(rootfs: &Path, state_dir: &Path, is_connected: bool) -> Vec<Bind> {
    let Ok(image) = Image::open(rootfs) else { return Vec::new() };
    [HOSTS, HOSTNAME, RESOLV_CONF]
        .into_iter()
        .filter_map(|name| {
            let inside = image.place(name, is_connected && name != HOSTNAME)?;
            Some((inside, place(state_dir, name), false))
        })
        .collect()
}

/// Those of the host's for name look-up that the root filesystem has too; they cannot be written.
pub(super) fn of_host(rootfs: &Path) -> Vec<Bind> {
    let Ok(image) = Image::open(rootfs) else { return Vec::new() };
    [RESOLV_CONF, HOSTS]
        .into_iter()
        .filter_map(|name| {
            Some((image.place(name, false)?, std::fs::canonicalize(name).ok()?, true))
        })
        .collect()
}

/// Those of another container, whose state directory is `dir`.
pub(super) fn of_container(rootfs: &Path, dir: &Path) -> Vec<Bind> {
    let Ok(image) = Image::open(rootfs) else { return Vec::new() };
    [HOSTS, RESOLV_CONF]
        .into_iter()
        .filter(|name| place(dir, name).exists())
        .filter_map(|name| Some((image.place(name, true)?, place(dir, name), false)))
        .collect()
}

/// Where in the state directory `dir` the file of that name lies.
fn place(dir: &Path, name: &str) -> PathBuf {
    dir.join(name.rsplit('/').next().unwrap_or_default())
}

/// The root filesystem, looked at.
struct Image(OwnedFd);

impl Image {
    fn open(rootfs: &Path) -> ctsys::error::Result<Self> {
        let dir = File::open(rootfs).call("open", || format!("{rootfs:?}"))?;
        Ok(Self(dir.into()))
    }

    /// Where to show the file `name`: there if the image has it. If not, and it is `needed`, where it
    /// can be made: a link that leads nowhere yet (systemd-resolved's, into /run) is followed.
    fn place(&self, name: &str, needed: bool) -> Option<PathBuf> {
        if self.look(Path::new(name), OFlag::O_PATH).is_ok() {
            return Some(name.into());
        }
        if !needed {
            return None;
        }
        let name = self.behind_link(Path::new(name));
        // The closest directory there is: the rest is made in it.
        let above = name.ancestors().skip(1);
        let dir = above.filter_map(|dir| self.look(dir, OFlag::O_PATH | OFlag::O_DIRECTORY).ok());
        let wanted = AccessFlags::W_OK | AccessFlags::X_OK;
        let dir = dir.take(1).next()?;
        faccessat(&dir, ".", wanted, AtFlags::AT_EACCESS).ok().map(|()| name)
    }

    fn look(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        openat2(&self.0, path, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve))
    }

    fn behind_link(&self, name: &Path) -> PathBuf {
        let link = self.look(name, OFlag::O_PATH | OFlag::O_NOFOLLOW);
        match link.and_then(|link| nix::fcntl::readlinkat(&link, "")) {
            // `..` in it stays inside: the mount's place is opened in the root.
            Ok(target) => name.parent().unwrap_or(name).join(target),
            Err(_) => name.into(),
        }
    }
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    let shown = || format!("{path:?}");
    let write = || {
        let mut file = File::create(path).call("open", shown)?;
        file.write_all(text.as_bytes()).call("write", shown)?;
        // Whatever the caller's umask: every user inside looks up names.
        file.set_permissions(Permissions::from_mode(0o644)).call("fchmod", shown)
    };
    write()
        .map_err(|source| NetworkError::Sys { step: "write the container's network files", source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_on_the_hosts_loopback_are_replaced() {
        let host = "# made by x\nnameserver 127.0.0.53\nnameserver ::1\nsearch a.example b.example\n\
                    options edns0\nsortlist 1.2.3.4\n";
        let want = "nameserver 10.0.2.3\nsearch a.example b.example\noptions edns0\n";
        assert_eq!(resolv_conf(host, &[]), want);
        let far = "nameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver fe80::1%eth0\n";
        let want = "nameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver 10.0.2.3\n";
        assert_eq!(resolv_conf(far, &[]), want);
        assert_eq!(resolv_conf("", &[]), "nameserver 10.0.2.3\n");
        assert_eq!(resolv_conf(far, &["9.9.9.9".parse().unwrap()]), "nameserver 9.9.9.9\n");
    }

    #[test]
    fn the_name_has_the_containers_address() {
        let files = Files {
            hostname: "box".into(),
            hosts: vec!["db:10.1.1.1".parse().unwrap()],
            dns: Vec::new(),
            places: Vec::new(),
        };
        assert!(files.hosts(true).ends_with("\n10.0.2.100\tbox\n10.1.1.1\tdb\n"));
        assert!(files.hosts(false).contains("\n127.0.0.1\tbox\n"));
        assert!(!files.resolv_conf(false).contains("nameserver "));
    }
}
