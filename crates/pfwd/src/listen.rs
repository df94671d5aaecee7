//! Binding: every listener of every forward, or none.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use ctsys::SysError;
use ctsys::error::{Context as _, Result as SysResult};
use ctsys::report::Explain;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockname, listen,
    setsockopt, socket, sockopt,
};

use crate::netns::{Family, tune};
use crate::owner::{self, Owner};
use crate::spec::{Bind, Forward};

/// How often a free port of IPv4 that is taken in IPv6 is given back for another.
const FREE_PORT_TRIES: usize = 32;

/// A forward whose listeners are bound.
#[derive(Debug)]
pub struct Route {
    /// Its listeners, at least one.
    pub listeners: Vec<Listener>,
    /// The port in the target.
    pub remote: u16,
    /// The address that could not be bound beside others that could, and why.
    pub missing: Option<(SocketAddr, SysError)>,
}

/// A socket that listens; non-blocking.
#[derive(Debug)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// The socket.
    pub socket: OwnedFd,
}

/// Why a forward cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another socket has the port.
    #[error("cannot listen on {address}: the port is in use by {owner}")]
    Busy {
        /// The address wanted.
        address: SocketAddr,
        /// Who has it.
        owner: Owner,
    },
    /// Two forwards want the same address.
    #[error("cannot listen on {0}: two forwards want it")]
    Twice(SocketAddr),
    /// The forward would connect to itself without end.
    #[error("cannot forward {0} to itself: the target has the network of this process")]
    Itself(SocketAddr),
    /// Ports below a limit are root's.
    #[error("cannot listen on {address}")]
    Privileged {
        /// The address wanted.
        address: SocketAddr,
        /// The call.
        #[source]
        source: SysError,
    },
    /// Another failure.
    #[error("cannot listen on {address}")]
    Sys {
        /// The address wanted.
        address: SocketAddr,
        /// The call.
        #[source]
        source: SysError,
    },
}

/// Binds all of `forwards`; `own_network` when the target's network is the caller's, where a forward
/// could reach itself. Nothing is accepted yet; on an error nothing stays bound.
pub fn bind_all(forwards: &[Forward], own_network: bool) -> Result<Vec<Route>, ListenError> {
    let mut routes: Vec<Route> = Vec::with_capacity(forwards.len());
    for forward in forwards {
        let route = bind_forward(forward).map_err(|failure| failure.explain(&routes))?;
        routes.push(route);
    }
    if own_network {
        refuse_loops(&routes)?;
    }
    Ok(routes)
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, listener) in self.listeners.iter().enumerate() {
            let and = if at == 0 { "" } else { " and " };
            write!(f, "{and}{}", listener.address)?;
        }
        Ok(())
    }
}

impl Explain for ListenError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Busy { .. } => {
                "choose another local port, as 8081:8080, or :8080 for any free one".into()
            }
            Self::Twice(_) => "give each forward a local port of its own".into(),
            Self::Itself(_) => "give another local port".into(),
            Self::Privileged { .. } => {
                "choose a local port from net.ipv4.ip_unprivileged_port_start (1024) up".into()
            }
            Self::Sys { source, .. } if source.errno() == Errno::EADDRNOTAVAIL => {
                "ip address shows the addresses that this machine has".into()
            }
            Self::Sys { .. } => return None,
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Twice(_) | Self::Itself(_) => 2,
            _ => 1,
        }
    }
}

/// A bind that failed, before anybody asked whose fault it is.
struct Failure {
    address: SocketAddr,
    source: SysError,
}

impl Failure {
    fn explain(self, bound: &[Route]) -> ListenError {
        let Self { address, source } = self;
        let mut listeners = bound.iter().flat_map(|r| &r.listeners).map(|l| l.address);
        match source.errno() {
            Errno::EADDRINUSE if listeners.any(|a| overlap(a, address)) => {
                ListenError::Twice(address)
            }
            Errno::EADDRINUSE => ListenError::Busy { address, owner: owner::of(address) },
            Errno::EACCES => ListenError::Privileged { address, source },
            _ => ListenError::Sys { address, source },
        }
    }

    /// Whether the machine, or this network namespace, has no such family.
    fn is_absence(&self) -> bool {
        matches!(self.source.errno(), Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL)
    }
}

fn bind_forward(forward: &Forward) -> Result<Route, Failure> {
    let wanted = forward.local.unwrap_or(0);
    let remote = forward.remote;
    match forward.bind {
        Bind::Address(ip) => {
            let listener = listen_on(SocketAddr::new(ip, wanted))?;
            Ok(Route { listeners: vec![listener], remote, missing: None })
        }
        Bind::Loopback if wanted != 0 => bind_loopback(wanted, remote),
        Bind::Loopback => {
            let mut tries = 0;
            loop {
                tries += 1;
                match bind_loopback(0, remote) {
                    Err(failure)
                        if failure.source.errno() == Errno::EADDRINUSE
                            && tries < FREE_PORT_TRIES => {}
                    other => return other,
                }
            }
        }
    }
}

/// Both families on one port. IPv6 alone, or IPv4 alone, is enough where the other does not exist;
/// where it does and is merely busy, a client would reach now the one, now the other program.
fn bind_loopback(port: u16, remote: u16) -> Result<Route, Failure> {
    let v6 = |port| listen_on(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port));
    match listen_on(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)) {
        Err(failure) if failure.is_absence() => {
            Ok(Route { listeners: vec![v6(port)?], remote, missing: None })
        }
        Err(failure) => Err(failure),
        Ok(first) => match v6(first.address.port()) {
            Ok(second) => Ok(Route { listeners: vec![first, second], remote, missing: None }),
            Err(failure) if failure.is_absence() => {
                Ok(Route { listeners: vec![first], remote, missing: None })
            }
            Err(failure) if failure.source.errno() == Errno::EADDRINUSE => Err(failure),
            Err(Failure { address, source }) => {
                Ok(Route { listeners: vec![first], remote, missing: Some((address, source)) })
            }
        },
    }
}

fn listen_on(address: SocketAddr) -> Result<Listener, Failure> {
    let socket = listening_socket(address).map_err(|source| Failure { address, source })?;
    let port = local_port(&socket).unwrap_or_else(|| address.port());
    Ok(Listener { address: SocketAddr::new(address.ip(), port), socket })
}

/// Connections inherit what `tune` sets here (tcp(7)), which spares a call for each.
fn listening_socket(address: SocketAddr) -> SysResult<OwnedFd> {
    let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(family.domain(), SockType::Stream, flags, None)
        .call("socket", || format!("{family:?}, SOCK_STREAM"))?;
    setsockopt(&made, sockopt::ReuseAddr, &true).call("setsockopt", || "SO_REUSEADDR".into())?;
    if family.domain() == AddressFamily::Inet6 {
        setsockopt(&made, sockopt::Ipv6V6Only, &true)
            .call("setsockopt", || "IPV6_V6ONLY".into())?;
    }
    tune(&made)?;
    let storage = SockaddrStorage::from(address);
    bind(made.as_raw_fd(), &storage).call("bind", || address.to_string())?;
    // 4096; the kernel clips it to net.core.somaxconn.
    listen(&made, Backlog::MAXCONN).call("listen", || address.to_string())?;
    Ok(made)
}

fn local_port(socket: &OwnedFd) -> Option<u16> {
    let name: SockaddrStorage = getsockname(socket.as_raw_fd()).ok()?;
    name.as_sockaddr_in()
        .map(|a| a.port())
        .or_else(|| name.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::port))
}

/// Forwards dial 127.0.0.1 and ::1. In the caller's own network a listener there, on a port that any
/// of the forwards leads to, would feed itself.
fn refuse_loops(routes: &[Route]) -> Result<(), ListenError> {
    let looping = |l: &&Listener| {
        let ip = l.address.ip();
        let is_dialled = ip.is_unspecified()
            || ip == IpAddr::from(Ipv4Addr::LOCALHOST)
            || ip == IpAddr::from(Ipv6Addr::LOCALHOST);
        is_dialled && routes.iter().any(|r| r.remote == l.address.port())
    };
    match routes.iter().flat_map(|r| &r.listeners).find(looping) {
        Some(listener) => Err(ListenError::Itself(listener.address)),
        None => Ok(()),
    }
}

fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (x, y) = (a.ip(), b.ip());
    a.port() == b.port()
        && x.is_ipv4() == y.is_ipv4()
        && (x == y || x.is_unspecified() || y.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(spec: &str) -> Forward {
        spec.parse().unwrap()
    }

    #[test]
    fn both_families_get_the_same_free_port() {
        let routes = bind_all(&[forward(":80"), forward(":80")], false).unwrap();
        for route in &routes {
            let ports: Vec<u16> = route.listeners.iter().map(|l| l.address.port()).collect();
            assert!(ports.iter().all(|&p| p != 0 && p == ports[0]), "{ports:?}");
        }
    }

    #[test]
    fn a_busy_port_names_its_owner_and_leaves_nothing_bound() {
        let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = busy.local_addr().unwrap().port();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let first = free.local_addr().unwrap().port();
        drop(free);
        let forwards = [forward(&format!("{first}:80")), forward(&format!("{port}:80"))];
        let error = bind_all(&forwards, false).unwrap_err();
        let me = format!("pid {}", std::process::id());
        assert!(error.to_string().contains(&me), "{error}");
        std::net::TcpListener::bind(("127.0.0.1", first)).unwrap();
    }

    #[test]
    fn the_same_port_twice_is_the_users_fault() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let spec = format!("{}:80", free.local_addr().unwrap().port());
        drop(free);
        let error = bind_all(&[forward(&spec), forward(&spec)], false).unwrap_err();
        assert!(matches!(error, ListenError::Twice(_)), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_forward_to_itself_is_refused_in_the_own_network_only() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        assert!(bind_all(&[Forward::same(port)], false).is_ok());
        let error = bind_all(&[Forward::same(port)], true).unwrap_err();
        assert!(matches!(error, ListenError::Itself(_)), "{error}");
    }
}
