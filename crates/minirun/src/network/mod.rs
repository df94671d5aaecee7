//! How a container comes by its network, and what of it its files say.
//!
//! ```text
//! asked for        namespace       connected by            resolv.conf
//! none             its own         nothing                 empty
//! (default)        its own         pasta, else slirp4netns, else nothing
//! pasta            its own         pasta(1)                the host's, loopback servers replaced
//! slirp4netns      its own         slirp4netns(1)          the same
//! host             the host's      -                       the host's
//! container:NAME   that one's      -                       that one's
//! ns:PATH          that one        -                       the host's
//! ```
//!
//! A container shares another's network as a pod's do: in the other's user namespace, as the kernel
//! lets only root of that namespace join what it owns (setns(2)), and as ports below 1024 and the
//! interfaces are that root's.
//!
//! ```text
//! outside   clone3 ─▶ init, its ids mapped ──▶ pasta, pfwd start ──▶ ready ──▶ Go
//! inside              mounts, devices, masks …………………………………………………… waits for Go ─▶ exec
//! ```
//!
//! The helpers are started once there is a namespace for them and work while the container is set
//! up; what is asked for without them starts none and waits for nothing. They live in sessions of
//! their own outside the container, end with the minirun that waits outside (PR_SET_PDEATHSIG), and
//! are killed and reaped by it at the container's end.

mod attach;
mod error;
mod files;
mod helper;
mod shared;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ctsys::idmap::find_helper;
use ctsys::process::ProcessId;
use ctsys::state::StateRoot;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use crate::config::network::{Changes, Namespace, Net, NetworkOptions};

pub(crate) use attach::{Helpers, start};
pub use error::NetworkError;
pub(crate) use files::Files;
pub(crate) use shared::Shared;

type Result<T> = std::result::Result<T, NetworkError>;

/// What both helpers make their interfaces from.
const TUN: &str = "/dev/net/tun";

/// A container's network, decided.
#[derive(Debug, Default)]
pub struct Network {
    /// What is to connect its namespace.
    connection: Connection,
    /// Ports to publish, in pfwd's words, and the program that does it.
    publish: Option<(PathBuf, Vec<String>)>,
    /// What its files say; `None` where they are not this launch's.
    files: Option<Files>,
    /// Whose namespaces are joined, which must be so still when they are.
    shared: Option<ProcessId>,
    /// A user namespace that a path in the configuration names by this descriptor.
    _held: Option<OwnedFd>,
}

/// What connects a network namespace.
#[derive(Debug, Default)]
enum Connection {
    /// Nothing: there is only loopback, or the namespace is somebody else's.
    #[default]
    None,
    /// The first of these that starts; where none does it is a failure if `required`.
    By {
        /// In this order.
        programs: Vec<Program>,
        /// Whether it was asked for.
        required: bool,
    },
}

/// A program that connects a network namespace in user mode.
#[derive(Debug, Clone)]
struct Program {
    kind: Kind,
    path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pasta,
    Slirp4netns,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Pasta => "pasta",
            Self::Slirp4netns => "slirp4netns",
        }
    }
}

/// What the decision depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// What was asked for.
    pub options: &'a NetworkOptions,
    /// `--net`'s default where minirun makes the configuration; `None` where that says itself.
    pub default: Option<Default<'a>>,
    /// Whether the configuration has a network namespace, if nothing changes it.
    pub has_namespace: bool,
    /// The root filesystem.
    pub rootfs: &'a Path,
    /// The container's id, in whose state directory its files will lie.
    pub id: &'a str,
    /// The host name inside.
    pub hostname: &'a str,
}

/// What is taken where nothing was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Default<'a> {
    /// What the caller's environment says.
    Net(&'a Net),
    /// What works.
    WhatWorks,
}

/// Decides, and finds the programs it takes. What the user should know is added to `notes`.
pub(crate) fn decide(
    inputs: &Inputs<'_>,
    shared: Option<Shared>,
    notes: &mut Vec<String>,
) -> Result<(Network, Changes)> {
    let asked = inputs.options.net.as_ref().or(match inputs.default {
        Some(Default::Net(net)) if shared.is_none() => Some(net),
        _ => None,
    });
    let mut network = Network::default();
    let mut changes = Changes::default();
    let is_shared = shared.is_some();
    match asked {
        Some(Net::Container(_) | Net::Path(_)) => {}
        _ if is_shared && asked.is_none() => {}
        Some(Net::Host) => changes.net = Namespace::Host,
        Some(own) => {
            changes.net = Namespace::New;
            network.connection = connection_of(own)?;
        }
        None if inputs.default.is_some() => {
            changes.net = Namespace::New;
            network.connection = what_works(notes);
        }
        None => {}
    }
    if is_shared && matches!(network.connection, Connection::By { .. }) {
        return Err(NetworkError::HelperShared);
    }
    let theirs = shared.map(|shared| shared.change(&mut network, &mut changes));
    set_files(inputs, theirs.flatten(), &mut network, &mut changes);
    publish(inputs, is_shared, &mut network, &changes)?;
    Ok((network, changes))
}

fn connection_of(net: &Net) -> Result<Connection> {
    let kind = match net {
        Net::Pasta => Kind::Pasta,
        Net::Slirp4netns => Kind::Slirp4netns,
        Net::None | Net::Host | Net::Container(_) | Net::Path(_) => return Ok(Connection::None),
    };
    tun().map_err(NetworkError::Tun)?;
    let path = find_helper(kind.name()).ok_or(NetworkError::NoProgram(kind.name()))?;
    Ok(Connection::By { programs: vec![Program { kind, path }], required: true })
}

/// Pasta first: it is the faster one.
fn what_works(notes: &mut Vec<String>) -> Connection {
    if let Err(errno) = tun() {
        notes.push(without(&format!("{TUN} cannot be opened: {}", errno.desc())));
        return Connection::None;
    }
    let program = |kind: Kind| find_helper(kind.name()).map(|path| Program { kind, path });
    let programs: Vec<_> =
        [Kind::Pasta, Kind::Slirp4netns].into_iter().filter_map(program).collect();
    if programs.is_empty() {
        notes.push(without("neither pasta nor slirp4netns is installed"));
        return Connection::None;
    }
    Connection::By { programs, required: false }
}

/// The one line that says so where there is no network though none was asked for.
fn without(reason: &str) -> String {
    format!("no network but loopback (--net none): {reason}")
}

fn tun() -> std::result::Result<(), Errno> {
    access(TUN, AccessFlags::R_OK | AccessFlags::W_OK)
}

/// Which files the container sees for names, and what they say.
fn set_files(
    inputs: &Inputs<'_>,
    theirs: Option<PathBuf>,
    network: &mut Network,
    changes: &mut Changes,
) {
    if let Some(dir) = theirs {
        changes.files = files::of_container(inputs.rootfs, &dir);
        return;
    }
    match &changes.net {
        // A configuration that says itself how its network is, says so of its files too.
        Namespace::Unchanged => {}
        Namespace::Host | Namespace::At(_) => changes.files = files::of_host(inputs.rootfs),
        Namespace::New => {
            let is_connected = matches!(network.connection, Connection::By { .. });
            let state_dir = StateRoot::default_dir().join(inputs.id);
            changes.files = files::own(inputs.rootfs, &state_dir, is_connected);
            network.files = Some(Files {
                hostname: inputs.hostname.into(),
                hosts: inputs.options.hosts.clone(),
                dns: inputs.options.dns.clone(),
                places: changes.files.iter().map(|(_, place, _)| place.clone()).collect(),
            });
        }
    }
}

fn publish(
    inputs: &Inputs<'_>,
    is_shared: bool,
    network: &mut Network,
    changes: &Changes,
) -> Result<()> {
    let ports = &inputs.options.publish;
    if ports.is_empty() {
        return Ok(());
    }
    let has_own = match changes.net {
        Namespace::New => true,
        Namespace::Unchanged => inputs.has_namespace,
        Namespace::Host | Namespace::At(_) => false,
    };
    if is_shared || !has_own {
        return Err(NetworkError::PublishElsewhere);
    }
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("pfwd"));
    let beside = beside.filter(|path| access(path, AccessFlags::X_OK).is_ok());
    let program = beside.or_else(|| find_helper("pfwd")).ok_or(NetworkError::NoProgram("pfwd"))?;
    network.publish = Some((program, ports.iter().map(|port| port.0.clone()).collect()));
    Ok(())
}

impl Network {
    /// Whether the container has to wait for what connects it.
    pub(crate) fn has_helpers(&self) -> bool {
        matches!(self.connection, Connection::By { .. }) || self.publish.is_some()
    }

    /// Writes the container's files into its state directory, which has to be there.
    pub(crate) fn write_files(&self) -> Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        files.write(matches!(self.connection, Connection::By { .. }))
    }

    /// Whether the container whose namespaces are joined is there still, so that the paths that
    /// were opened are its own. True without one.
    pub(crate) fn is_shared_alive(&self) -> Result<bool> {
        let sys = |source| NetworkError::Sys { step: "look at the other container", source };
        self.shared.map_or(Ok(true), |main| main.is_alive()).map_err(sys)
    }
}
